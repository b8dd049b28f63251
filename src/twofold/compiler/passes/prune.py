"""prune: leave out what no output depends on."""

from __future__ import annotations

from ...ir.graph import Graph, Node
from ...ir.rewrite import Rewriter


def prune(graph: Graph) -> Graph:
    """The graph without dead nodes; inputs stay, since callers count them."""
    live = set(graph.outputs)
    keep: set[Node] = set()
    for node in reversed(graph.nodes):
        if any(v in live for v in node.outputs):
            keep.add(node)
            live.update(node.inputs)
    if len(keep) == len(graph.nodes):
        return graph
    return Rewriter(graph).run(lambda node: node not in keep)
