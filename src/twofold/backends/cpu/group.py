"""group: which nodes become one kernel.

A group is one of
- "rows": element-wise nodes over one index space, with reductions over its trailing dimensions
  among them (softmax, layer norm and losses are one group each);
- "columns": one reduction over leading dimensions, with the element-wise nodes that feed it;
- "contract": one matrix product or convolution, with element-wise nodes over its result;
- "alone": any other node; the backend has a kernel for it or calls the reference.
Movement nodes that are views belong to no group.

The invariant that groups keep: the graph of groups has no cycle, so that they can run in order.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from ...ir import config
from ...ir.graph import Graph, Node, Value
from ...ir.types import Shape
from . import registers
from .vspecial import MOST_DERIVATIVES

REDUCTIONS = frozenset(("sum", "amax", "amin", "prod"))


@dataclass(eq=False)
class Group:
    """Nodes that run together.

    Attributes:
        kind: "rows", "columns", "contract" or "alone".
        shape: the full index space.
        num_inner: rows: how many trailing dimensions are reduced (0: none yet).
    """

    kind: str
    shape: Shape
    num_inner: int = 0
    nodes: list[Node] = field(default_factory=list)
    before: int = 0  # bit set of the groups that must run before this one, transitively
    number: int = 0


def is_elementwise(node: Node) -> bool:
    """Whether a rule of `registers` computes it, on dtypes that registers hold."""
    name = node.prim.name
    if name not in registers.RULES or not all(registers.supports(v.dtype) for v in (*node.inputs, *node.outputs)):
        return False
    dtype = node.inputs[-1].dtype
    if name in registers.FLOAT_ONLY:
        return dtype.is_floating_point and node.params.get("n", 0) <= MOST_DERIVATIVES
    if name in registers.DIVISIONS and not dtype.is_floating_point:
        return _is_known(node.inputs[1], lambda array: bool(np.all(array)))
    if name == "pow" and dtype.kind == "int":
        return _is_known(node.inputs[1], lambda array: bool(np.all(array >= 0)))
    return True


def _is_known(value: Value, holds: Callable[[np.ndarray[Any, Any]], bool]) -> bool:
    """Whether a value is a constant of which something holds."""
    while value.node is not None and value.node.prim.name in ("expand", "reshape", "permute"):
        value = value.node.inputs[0]
    array = value.graph.constants.get(value)
    return array is not None and holds(array)


def is_reduction(node: Node) -> bool:
    return (
        node.prim.name in REDUCTIONS
        and registers.supports(node.inputs[0].dtype)
        and node.inputs[0].dtype.kind in ("float", "int", "uint", "bool")
    )


def is_convolution(node: Node) -> bool:
    """Whether there is a kernel for it that takes element-wise nodes in."""
    values = (*node.inputs, *node.outputs)
    return (
        node.prim.name in ("conv_last", "conv_last_input_grad")
        and node.inputs[0].ndim in (3, 4)
        and all(v.dtype.name == "float32" and v.type.size for v in values)
    )


def row_shape(shape: Shape, num_inner: int) -> Shape:
    """The shape of a value per row, with the reduced dimensions kept as 1."""
    return shape[: len(shape) - num_inner] + (1,) * num_inner


def group_nodes(graph: Graph, views: set[Node]) -> list[Group]:
    """Partition the nodes that are not views; groups come in an order in which they can run."""
    return _Grouper(graph, views).run()


class _Grouper:
    def __init__(self, graph: Graph, views: set[Node]):
        self.graph, self.views = graph, views
        self.groups: list[Group] = []
        self.of: dict[Node, Group] = {}

    def run(self) -> list[Group]:
        fuses = "fuse" not in config.SKIP_PASSES.value
        for node in self.graph.nodes:
            if node in self.views:
                continue
            group = (self._join(node) if fuses else None) or self._start(node)
            self._put(node, group)
        if fuses:
            self._merge()
        return self._ordered()

    def _merge(self) -> None:
        """Join element-wise groups to the groups that they read, where that was not seen at once.

        A chain that begins with stored values (a running mean times its decay) starts a group of
        its own before it meets what it belongs to.
        """
        place = {node: i for i, node in enumerate(self.graph.nodes)}
        waiting = list(self.groups)
        for group in waiting:
            if group.kind != "rows" or group.num_inner or group not in self.groups:
                continue
            sources = {
                g.number: g for n in group.nodes for v in n.inputs for g in self._sources(v) if g is not group
            }
            for number in sorted(sources, reverse=True):
                other = sources[number]
                bit = 1 << number
                if other.kind not in ("rows", "contract") or other.shape != group.shape:
                    continue
                if any(g is not other and g.before & bit for g in sources.values()):
                    continue
                if not all(is_elementwise(n) and self._reads_in_place(n, other) for n in group.nodes):
                    continue
                other.nodes = sorted([*other.nodes, *group.nodes], key=place.__getitem__)
                for node in group.nodes:
                    self.of[node] = other
                self.groups.remove(group)
                self._order_again(group, other)
                waiting.append(other)  # as a whole it may belong to one of its own sources
                break

    def _order_again(self, group: Group, other: Group) -> None:
        """What stood before or after `group`, which is gone, now does so for `other`, which took its nodes."""
        gone, bit = 1 << group.number, 1 << other.number
        other.before |= group.before & ~bit
        for g in self.groups:
            if g.before & (gone | bit):
                g.before = g.before & ~gone | bit | other.before

    # --- the groups that a value depends on --------------------------------------------------

    def _sources(self, value: Value) -> list[Group]:
        """Groups that make a value, looking through views."""
        node = value.node
        while node is not None and node in self.views:
            node = node.inputs[0].node
        return [] if node is None else [self.of[node]]

    def _put(self, node: Node, group: Group) -> None:
        group.nodes.append(node)
        if group.kind == "rows" and is_reduction(node):
            group.num_inner = _trailing(node.inputs[0].shape, node.params["dims"]) or 0
        self.of[node] = group
        before = group.before
        for value in node.inputs:
            for source in self._sources(value):
                if source is not group:
                    group.before |= source.before | 1 << source.number
        if group.before != before and len(group.nodes) > 1:
            bit = 1 << group.number
            for other in self.groups:
                if other.before & bit:
                    other.before |= group.before

    def _start(self, node: Node) -> Group:
        name = node.prim.name
        if is_elementwise(node):
            group = Group("rows", node.outputs[0].shape)
        elif is_reduction(node):
            shape, dims = node.inputs[0].shape, node.params["dims"]
            inner = _trailing(shape, dims)
            group = Group("rows" if inner is not None else "columns", shape, inner or 0)
        elif name == "matmul" or is_convolution(node):
            group = Group("contract", node.outputs[0].shape)
        else:
            group = Group("alone", node.outputs[0].shape)
        group.number = len(self.groups)
        self.groups.append(group)
        return group

    def _join(self, node: Node) -> Group | None:
        """The latest group that can take the node in: fusing with what is hottest in cache."""
        if not (is_elementwise(node) or is_reduction(node)):
            return None
        candidates = {g.number: g for v in node.inputs for g in self._sources(v)}
        if is_reduction(node):  # sums of one thing over the same rows need not depend on each other
            candidates |= {g.number: g for g in self.groups if g.kind == "columns"}
        for number in sorted(candidates, reverse=True):
            group = candidates[number]
            if self._fits(node, group) and not self._makes_cycle(node, group):
                return group
        return None

    def _makes_cycle(self, node: Node, group: Group) -> bool:
        bit = 1 << group.number
        return any(source is not group and source.before & bit for v in node.inputs for source in self._sources(v))

    def _fits(self, node: Node, group: Group) -> bool:
        out = node.outputs[0].shape
        if group.kind == "contract":
            return is_elementwise(node) and out == group.shape and self._reads_in_place(node, group)
        if group.kind == "columns":
            first = group.nodes[0]
            return (
                is_reduction(node)
                and node.inputs[0].type == first.inputs[0].type
                and node.params["dims"] == first.params["dims"]
                and group not in self._sources(node.inputs[0])
            )
        if group.kind != "rows":
            return False
        if is_reduction(node):
            shape, dims = node.inputs[0].shape, node.params["dims"]
            inner = _trailing(shape, dims)
            if shape != group.shape or inner is None or group.num_inner not in (0, inner):
                return False
            return self._reads_in_place(node, group)
        rows = row_shape(group.shape, group.num_inner)
        flat = group.shape[: len(group.shape) - group.num_inner]
        if out != group.shape and not (group.num_inner and out in (rows, flat)):
            return False
        return self._reads_in_place(node, group)

    def _reads_in_place(self, node: Node, group: Group) -> bool:
        """Whether the node reads the group's values at its own index only.

        A value of the group that is read through a view (a transposed one, say) belongs to other
        indices, which another thread may not have computed yet. Expanding a row's value along the
        row, or dropping its dimensions of size 1, keeps the index.
        """
        for value in node.inputs:
            if group in self._sources(value):
                flat = is_flat(value, group) and value.type.size > 1
                if flat and not is_flat(node.outputs[0], group):
                    return False  # it broadcasts along other dimensions than those of the rows
                if not keeps_index(value, group, self.views):
                    return False
            elif not self._one_alignment(value, node, group):
                return False
        return True

    def _one_alignment(self, value: Value, node: Node, group: Group) -> bool:
        """Whether all of the group's nodes read a value from outside in one way: per row, or as it broadcasts."""
        if not group.num_inner or value.shape == group.shape or value.type.size == 1:
            return True
        per_row = is_flat(node.outputs[0], group)
        return all(
            is_flat(n.outputs[0], group) is per_row
            for n in group.nodes
            if value in n.inputs and not is_reduction(n)
        )

    def _ordered(self) -> list[Group]:
        out: list[Group] = []
        done = 0
        waiting = list(self.groups)
        while waiting:
            ready = next(g for g in waiting if g.before & ~done == 0)
            waiting.remove(ready)
            out.append(ready)
            done |= 1 << ready.number
        return out


def is_flat(value: Value, group: Group) -> bool:
    """Whether a value of a "rows" group has one element per row, and the reduced dimensions are gone."""
    return group.num_inner > 0 and len(value.shape) == len(group.shape) - group.num_inner


def keeps_index(value: Value, group: Group, views: set[Node]) -> bool:
    """Whether `value`, a value of the group seen through views, is read at its own index."""
    node = value.node
    rows = row_shape(group.shape, group.num_inner)
    flat = group.shape[: len(group.shape) - group.num_inner]
    same_row = {rows, flat} if group.num_inner else set()
    while node is not None and node in views:
        source = node.inputs[0]
        if node.prim.name == "reshape" and source.shape in same_row and node.outputs[0].shape in same_row:
            node = source.node
            continue
        if node.prim.name == "expand" and source.shape == rows and node.outputs[0].shape == group.shape:
            node = source.node
            continue
        return False
    return True


def _trailing(shape: Shape, dims: Shape) -> int | None:
    """How many trailing dimensions `dims` covers, None if others are among them or kept behind them."""
    real = [d for d in range(len(shape)) if shape[d] != 1]
    reduced = set(dims)
    if not real:
        return len(dims) if sorted(dims) == list(range(len(shape) - len(dims), len(shape))) else None
    n = len(shape)
    inner = 0
    for d in range(n - 1, -1, -1):
        if d in reduced:
            inner += 1
        else:
            break
    return inner if inner == len(reduced) and math.prod(shape) >= 0 and inner > 0 else None
