"""share: compute equal things once (common subexpressions)."""

from __future__ import annotations

from typing import Any

from ...ir.graph import Graph, Node, Value
from ...ir.rewrite import Rewriter


def share(graph: Graph) -> Graph:
    """The graph with every later copy of a node replaced by the first. Primitives have no effects."""
    rewriter = Rewriter(graph)
    seen: dict[Any, tuple[Value, ...]] = {}

    def visit(node: Node) -> bool:
        try:
            key = (node.prim, tuple(rewriter[v] for v in node.inputs), tuple(sorted(node.params.items())))
            first = seen.get(key)
        except TypeError:  # params that have no order or hash: graphs of control flow
            return False
        if first is None:
            rewriter.copy(node)
            seen[key] = tuple(rewriter[v] for v in node.outputs)
            return True
        rewriter.values.update(zip(node.outputs, first, strict=True))
        return True

    return rewriter.run(visit)
