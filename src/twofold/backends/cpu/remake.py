"""Large values that are read again long after they were made are made a second time, where memory is worth it.

A training step holds what the backward pass needs. relu(batch norm(x)), which the next convolution
reads, and x, which the gradient of batch norm reads, are two such values; the former follows from the
latter by a few cheap operations. It gives its memory back after the forward pass, and a kernel of its
own computes it once more just before the backward pass reads it.

That is a pass over memory, so it is done only for what the products of the backward pass read, whose
work is far more, and only while much is held at the worst moment. A value is computed by the same
operations both times, so no bit changes.
"""

from __future__ import annotations

from ...ir.graph import Graph, Node, Value
from .group import Group, is_elementwise
from .sizes import planned

_CHEAP = frozenset(("add", "sub", "mul", "neg", "relu", "where", "maximum", "minimum"))
_PRODUCTS = frozenset(("conv_last", "conv_last_input_grad", "conv_last_weight_grad"))
_LEAST_BYTES = 2 << 20  # of a value
_WORTH_BYTES = 32 << 20  # as long as more is held at the worst moment
_SMALL = 8  # what has so many times fewer elements costs nothing to read


def remake(graph: Graph, groups: list[Group], of: dict[Node, Group], views: set[Node]) -> dict[Group, Value]:
    """Put groups among `groups` that make a value a second time; gives these groups, each with its value.

    Readers from there on are meant to read what such a group makes.
    """
    return _Remaker(graph, groups, of, views).run()


class _Remaker:
    def __init__(self, graph: Graph, groups: list[Group], of: dict[Node, Group], views: set[Node]):
        self.groups, self.of, self.views = groups, of, views
        self.kept = {self._root(v) for v in graph.outputs}
        self.viewed = {v for n in views for v in n.inputs}
        self.second: dict[Value, Group] = {}
        self.readers: dict[Value, list[Group]] = {}
        for group in groups:
            self._note_reads(group)
        self.held = [
            v for n in graph.nodes if n in of for v in n.outputs if v in self.readers and v not in self.kept
        ]

    def run(self) -> dict[Group, Value]:
        candidates = [v for v in self.held if self._is_cheap(v)]
        while candidates:
            self.place = {g: i for i, g in enumerate(self.groups)}
            worst, held = self._worst_moment()
            if held < _WORTH_BYTES:
                break
            candidates = [v for v in candidates if v not in self.second and self._gap(v, worst) is not None]
            if candidates:
                value = max(candidates, key=_bytes)
                self._make_again(value, self._gap(value, worst) or 0)
        return {group: value for value, group in self.second.items()}

    def _root(self, value: Value) -> Value:
        while value.node is not None and value.node in self.views:
            value = value.node.inputs[0]
        return value

    def _note_reads(self, group: Group) -> None:
        own = {v for n in group.nodes for v in n.outputs}
        for value in {self._root(v) for n in group.nodes for v in n.inputs} - own:
            self.readers.setdefault(value, []).append(group)

    # --- what is held when --------------------------------------------------------------------

    def _spans(self, value: Value) -> list[tuple[int, int]]:
        """From which group to which a value is in memory."""
        assert value.node is not None
        first = self.place[self.of[value.node]]
        reads = [self.place[g] for g in self.readers[value]]
        if value not in self.second:
            return [(first, max(reads))]
        again = self.place[self.second[value]]
        return [(first, max(r for r in reads if r < again)), (again, max(reads))]

    def _worst_moment(self) -> tuple[int, int]:
        """The group at which most bytes are held, and how many."""
        change = [0] * (len(self.groups) + 1)
        for value in self.held:
            for first, last in self._spans(value):
                change[first] += _bytes(value)
                change[last + 1] -= _bytes(value)
        held = worst = most = 0
        for i, step in enumerate(change):
            held += step
            if held > most:
                worst, most = i, held
        return worst, most

    def _gap(self, value: Value, worst: int) -> int | None:
        """The place of the first reader after the worst moment, if the value can be made again there."""
        after = [g for g in self.readers[value] if self.place[g] > worst]
        before = [self.place[g] for g in self.readers[value] if self.place[g] <= worst]
        if not after or not before or max(before) >= worst - 1:
            return None
        if not any(g.nodes[0].prim.name in _PRODUCTS for g in after):
            return None
        place = min(self.place[g] for g in after)
        large = {self._root(v) for v in self._leaves(value) if self._is_large(v, value)}
        return place if all(self._is_held(v, place) for v in large) else None

    def _is_held(self, value: Value, place: int) -> bool:
        if value.node is None or value in self.kept:
            return True
        known = self.of[value.node].kind != "rows" or any(
            self.place[g] >= place and g.kind != "columns" for g in self.readers[value]
        )
        return known and any(first <= place <= last for first, last in self._spans(value))

    # --- making it again ------------------------------------------------------------------------

    def _chain(self, value: Value) -> list[Node]:
        """The nodes of a group that a value follows from."""
        group = self.of[value.node]  # type: ignore[index]
        needed = {value}
        out = []
        for node in reversed(group.nodes):
            if node.outputs[0] in needed:
                out.append(node)
                needed.update(node.inputs)
        return out[::-1]

    def _leaves(self, value: Value) -> set[Value]:
        chain = self._chain(value)
        return {v for n in chain for v in n.inputs} - {n.outputs[0] for n in chain}

    def _is_large(self, leaf: Value, value: Value) -> bool:
        return self._root(leaf).type.size * _SMALL > value.type.size

    def _is_cheap(self, value: Value) -> bool:
        """Whether a few cheap operations make a value of one large value, for readers that are kernels."""
        group = self.of[value.node]  # type: ignore[index]
        if group.kind != "rows" or group.num_inner or value.shape != group.shape or value in self.viewed:
            return False
        if _bytes(value) < _LEAST_BYTES or any(
            g.kind == "alone" for g in self.readers[value] if not _is_product(g)
        ):
            return False
        if not all(n.prim.name in _CHEAP and is_elementwise(n) for n in self._chain(value)):
            return False
        return sum(self._is_large(v, value) for v in self._leaves(value)) == 1

    def _make_again(self, value: Value, place: int) -> None:
        group = Group("rows", value.shape, nodes=self._chain(value))
        self.groups.insert(place, group)
        self.second[value] = group
        self._note_reads(group)


def _is_product(group: Group) -> bool:
    return group.nodes[0].prim.name in _PRODUCTS


def _bytes(value: Value) -> int:
    return planned(value.type.size) * value.dtype.itemsize
