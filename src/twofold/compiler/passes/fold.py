"""fold: compute what depends on constants only, now."""

from __future__ import annotations

import numpy as np

from ...ir.evaluate import evaluate
from ...ir.graph import Graph, Node, Value
from ...ir.primitive import PRIMITIVES
from ...ir.rewrite import Rewriter

_MOST_ELEMENTS = 1 << 12  # larger results cost more to keep than to compute


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
        array = np.array(evaluate(node.prim, [known[v] for v in node.inputs], node.params))
        known[out] = array
        rewriter.values[out] = rewriter.graph.constant(array, out.dtype)
        return True

    return rewriter.run(visit)
