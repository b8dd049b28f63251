"""rewrite: make a graph from a graph, node by node."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

from .graph import Graph, Node, Value
from .primitive import Primitive


class Rewriter:
    """Copies a graph; `values` maps the old values to the new ones.

    A pass decides for each node whether to copy it or to put something else in its place.
    """

    def __init__(self, source: Graph):
        self.source = source
        self.graph = Graph(source.name)
        self.values: dict[Value, Value] = {}
        for value in source.inputs:
            self.values[value] = self.graph.add_input(value.type, value.name)
        self._node: Node | None = None

    def __getitem__(self, value: Value) -> Value:
        """The new value for an old one; constants are copied when first asked for."""
        if value not in self.values:
            self.values[value] = self.graph.constant(self.source.constants[value], value.dtype, value.name)
        return self.values[value]

    def add(self, prim: Primitive, inputs: Sequence[Value], **params: Any) -> Value:
        """A new node, which says that it came from where the node in hand did."""
        node = self._node
        return self.graph.add(
            prim,
            tuple(inputs),
            params,
            location=node.location if node else None,
            scope=node.scope if node else (),
        )[0]

    def copy(self, node: Node) -> None:
        """The node as it is, on the new values."""
        outs = self.graph.add_like(node, tuple([self[v] for v in node.inputs]))
        self.values.update(zip(node.outputs, outs, strict=True))

    def run(self, visit: Callable[[Node], bool]) -> Graph:
        """Call `visit` on each node; where it returns False the node is copied. Returns the new graph."""
        for node in self.source.nodes:
            self._node = node
            if not visit(node):
                self.copy(node)
        self.graph.set_outputs([self[v] for v in self.source.outputs])
        return self.graph
