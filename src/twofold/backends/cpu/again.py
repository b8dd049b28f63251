"""Cheap values that every reader computes again, so that they are never stored.

A sum or product of one large value that is in memory anyway with something per channel costs
nothing to compute, but as much to store and to read as any other: batch norm's difference to the
mean, in the forward and in the backward pass, is such a value. Where all of its readers are kernels
that can take it in, and none of them reads more memory than before, each gets a copy of the node.
"""

from __future__ import annotations

from ...ir.graph import Graph, Node, Value
from .group import Group, is_elementwise
from .sizes import planned

_CHEAP = frozenset(("add", "sub", "mul", "neg", "relu", "where"))
_COMPARISONS = frozenset(("eq", "ne", "lt", "le", "gt", "ge"))
_LEAST_SIZE = 1 << 14


def compute_again(graph: Graph, groups: list[Group], views: set[Node]) -> tuple[list[Group], dict[Node, Group]]:
    """The groups with such copies, and the group that would store each node's results.

    A node that is computed again has a group of its own, which makes no kernel unless somebody
    wants the result after all.
    """
    return _Again(graph, groups, views).run()


class _Again:
    def __init__(self, graph: Graph, groups: list[Group], views: set[Node]):
        self.graph, self.groups, self.views = graph, groups, views
        self.of = {n: g for g in groups for n in g.nodes}
        self.place = {g: i for i, g in enumerate(groups)}
        self.kept = {self._root(v) for v in graph.outputs}
        self.viewed: set[Value] = {v for n in views for v in n.inputs}
        self.readers: dict[Value, list[Group]] = {}
        for group in groups:
            for node in group.nodes:
                for value in node.inputs:
                    self._add_reader(self._root(value), group)

    def run(self) -> tuple[list[Group], dict[Node, Group]]:
        own: dict[Group, list[Group]] = {}
        for node in reversed(self.graph.nodes):
            group = self.of.get(node)
            if group is not None and self._suits(node, group):
                own.setdefault(group, []).insert(0, self._copy(node, group))
        out: list[Group] = []
        for group in self.groups:
            out += [group, *own.get(group, [])]
        return [g for g in out if g.nodes], self.of

    def _root(self, value: Value) -> Value:
        while value.node is not None and value.node in self.views:
            value = value.node.inputs[0]
        return value

    def _add_reader(self, value: Value, group: Group) -> None:
        readers = self.readers.setdefault(value, [])
        if group not in readers:
            readers.append(group)

    def _suits(self, node: Node, group: Group) -> bool:
        value = node.outputs[0]
        if (
            node.prim.name not in _CHEAP | _COMPARISONS
            or planned(value.type.size) < _LEAST_SIZE
            or not is_elementwise(node)
        ):
            return False
        if group.kind not in ("rows", "contract") or group.num_inner or value.shape != group.shape:
            return False
        if value in self.kept or value in self.viewed:
            return False
        readers = [g for g in self.readers.get(value, ()) if g is not group]
        large = [v for v in node.inputs if self._root(v).type.size == value.type.size]
        if not readers or not large or len(large) > 2 or not all(self._is_stored(v) for v in large):
            return False
        takes = self._takes_mask if node.prim.name in _COMPARISONS else self._takes
        return all(takes(reader, value, large) for reader in readers)

    def _is_stored(self, value: Value) -> bool:
        """Whether a value is in memory anyway."""
        root = self._root(value)
        if root.node is None:
            return True
        group = self.of[root.node]
        others = [g for g in self.readers[root] if g is not group]
        return root in self.kept or any(g.kind != "columns" or group.kind == "contract" for g in others)

    def _takes(self, group: Group, value: Value, large: list[Value]) -> bool:
        """Whether a group can compute a value itself without reading more."""
        reads = {self._root(v) for n in group.nodes for v in n.inputs}
        if sum(self._root(v) not in reads for v in large) > 1:
            return False
        if group.kind == "columns":
            return all(value.shape == n.inputs[0].shape for n in group.nodes)
        return group.kind == "rows" and not group.num_inner and value.shape == group.shape

    def _takes_mask(self, group: Group, value: Value, large: list[Value]) -> bool:
        """Whether a product can compare values itself, one of which is as large and needed later anyway."""
        if (
            group.kind != "contract"
            or value.shape != group.shape
            or len(large) != 1
            or large[0].shape != value.shape
        ):
            return False
        root = self._root(large[0])
        others = (g for g in self.readers[root] if g is not group and g.kind != "columns")
        return root in self.kept or any(self.place.get(g, -1) > self.place[group] for g in others)

    def _copy(self, node: Node, group: Group) -> Group:
        """Give the node to its readers, and a group of its own."""
        own = Group("rows", group.shape, nodes=[node])
        value = node.outputs[0]
        readers = [g for g in self.readers[value] if g is not group]
        for reader in readers:
            if reader.kind == "rows":
                reader.nodes.insert(0, node)
            elif reader.kind == "contract":
                reader.nodes.insert(1, node)  # the product is the first
        self.of[node] = own
        if not any(value in n.inputs for n in group.nodes):
            self._drop(node, group)
        for v in node.inputs:
            for reader in [own, *readers]:
                self._add_reader(self._root(v), reader)
        return own

    def _drop(self, node: Node, group: Group) -> None:
        """Take out of a group what none of its nodes reads any more."""
        group.nodes.remove(node)
        left = {self._root(v) for n in group.nodes for v in n.inputs}
        for v in {self._root(v) for v in node.inputs} - left:
            self.readers[v].remove(group)
