"""powers: a power with a small whole constant exponent as products, which cost a tenth."""

from __future__ import annotations

from ...ir.dtypes import HALVES
from ...ir.graph import Node, Value
from ...ir.primitive import PRIMITIVES
from ...ir.rewrite import Rewriter

_MOST = 4


def power(r: Rewriter, node: Node) -> bool:
    """Replace `pow(x, n)` for n in -1, 1, 2, 3, 4; True if it did.

    The results are those of pow up to two units in the last place, for -1, 1 and 2 exactly;
    float16 and bfloat16, which would round in between, keep exponents above 2.
    """
    source, out = node.inputs[0], node.outputs[0]
    exponent = _constant(r, node.inputs[1])
    if exponent is None or source.shape != out.shape or out.dtype.is_complex:
        return False
    if exponent == -1 and out.dtype.is_floating_point:
        one = r.graph.constant(1, out.dtype)
        r.values[out] = r.add(PRIMITIVES["div"], [one, r[source]])
        return True
    most = 2 if out.dtype in HALVES else _MOST
    if exponent not in range(1, most + 1):
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
