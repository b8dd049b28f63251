"""powers: a power with a small whole constant exponent as products, which cost a tenth."""

from __future__ import annotations

from ...ir.graph import Node, Value
from ...ir.primitive import PRIMITIVES
from ...ir.rewrite import Rewriter
from ...primitives.binary import product_powers


def power(r: Rewriter, node: Node) -> bool:
    """Replace `pow(x, n)` for n in 1, 2, 3, 4; True if it did.

    It changes no bit: see Note [Powers that are products] in backends/cpu/registers.py.
    """
    source, out = node.inputs[0], node.outputs[0]
    exponent = _constant(r, node.inputs[1])
    if exponent is None or source.shape != out.shape or out.dtype.is_complex:
        return False
    if exponent not in product_powers(out.dtype):
        return False
    x = y = r[source]
    if exponent >= 2:
        y = r.add(PRIMITIVES["mul"], [x, x])
    if exponent >= 3:
        y = r.add(PRIMITIVES["mul"], [y, x if exponent == 3 else y])
    r.values[out] = y
    return True


def _constant(r: Rewriter, value: Value) -> float | None:
    """The number that a value is known to be everywhere."""
    array = r.source.constants.get(value)
    return None if array is None or array.size != 1 else float(array.reshape(-1)[0].real)
