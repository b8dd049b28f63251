"""fold: compute what depends on constants only, now.

It is computed as eager code computes it, which has the bits of the kernels: otherwise a value would depend on
what is known of it. Where eager code computes with NumPy, without kernels, only what IEEE 754 says how to round is
folded.
"""

from __future__ import annotations

import numpy as np

from ...ir import config
from ...ir.evaluate import evaluate_eagerly
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
_NOT_OF_COMPLEX = frozenset(("abs", "div", "mul", "sign", "sqrt"))  # several operations on their parts


def fold(graph: Graph) -> Graph:
    """The graph with small constant results as constants; a `full` is one element, expanded."""
    rewriter = Rewriter(graph)
    known: dict[Value, np.ndarray] = dict(graph.constants)

    def visit(node: Node) -> bool:
        out = node.outputs[0]
        if node.prim.name == "full":
            scalar = node.prim.numpy(shape=(), value=node.params["value"], dtype=out.dtype)
            value = rewriter.graph.constant(scalar, out.dtype)
            if out.shape == ():
                known[out] = scalar
            else:
                value = rewriter.add(PRIMITIVES["expand"], [value], shape=out.shape)
            rewriter.values[out] = value
            return True
        if node.prim.multiple or out.type.size > _MOST_ELEMENTS or any(v not in known for v in node.inputs):
            return False
        if not _has_known_bits(node):
            return False
        array = np.array(evaluate_eagerly(node.prim, [known[v] for v in node.inputs], node.params))
        known[out] = array
        rewriter.values[out] = rewriter.graph.constant(array, out.dtype)
        return True

    return rewriter.run(visit)


def _has_known_bits(node: Node) -> bool:
    """Whether eager code gives the bits that a kernel would."""
    if config.EAGER_KERNELS.value:
        return True
    values = (*node.inputs, *node.outputs)
    if any(v.dtype.is_complex for v in values):
        return node.prim.name in _EXACT - _NOT_OF_COMPLEX
    return node.prim.name in _EXACT or not any(v.dtype.is_floating_point for v in values)
