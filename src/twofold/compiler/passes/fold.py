"""fold: compute what depends on constants only, now.

The references compute it. Where numbers are rounded they have to give the bits of the kernels, or a value
would depend on what is known of it: sums, products and transcendental functions of them are not folded.
"""

from __future__ import annotations

import numpy as np

from ...ir.evaluate import evaluate
from ...ir.graph import Graph, Node, Value
from ...ir.primitive import PRIMITIVES
from ...ir.rewrite import Rewriter

_MOST_ELEMENTS = 1 << 12  # larger results cost more to keep than to compute

# On floating numbers: what only moves or chooses them, and what IEEE 754 says how to round.
_EXACT = frozenset((
    "abs", "add", "amax", "amin", "argmax", "argmin", "as_strided", "bitcast", "cast", "ceil", "complex", "concat",
    "conj", "copy", "copysign", "diagonal", "div", "eq", "expand", "flip", "floor", "gather", "ge", "gt", "imag",
    "index", "iota", "isfinite", "le", "logical_not", "lt", "maximum", "minimum", "mul", "ne", "neg", "nextafter",
    "pad", "permute", "real", "relu", "reshape", "round", "scatter", "sign", "slice", "sqrt", "stop_gradient",
    "sub", "trunc", "update_as_strided", "update_diagonal", "update_slice", "where",
))  # fmt: skip


def fold(graph: Graph) -> Graph:
    """The graph with small constant results as constants; a `full` is one element, expanded."""
    rewriter = Rewriter(graph)
    known: dict[Value, np.ndarray] = dict(graph.constants)

    def visit(node: Node) -> bool:
        out = node.outputs[0]
        if node.prim.name == "full":
            scalar = np.full((), node.params["value"], out.dtype.numpy)
            value = rewriter.graph.constant(scalar, out.dtype)
            if out.shape == ():
                known[out] = scalar
            else:
                value = rewriter.add(PRIMITIVES["expand"], [value], shape=out.shape)
            rewriter.values[out] = value
            return True
        if node.prim.multiple or out.type.size > _MOST_ELEMENTS or any(v not in known for v in node.inputs):
            return False
        if node.prim.name not in _EXACT and any(_is_rounded(v) for v in (out, *node.inputs)):
            return False
        array = np.array(evaluate(node.prim, [known[v] for v in node.inputs], node.params))
        known[out] = array
        rewriter.values[out] = rewriter.graph.constant(array, out.dtype)
        return True

    return rewriter.run(visit)


def _is_rounded(value: Value) -> bool:
    return value.dtype.is_floating_point or value.dtype.is_complex
