"""Lowering: from a graph to steps, each a kernel or a call of a NumPy reference."""

from __future__ import annotations

from typing import Any

import numpy as np

from ...ir.dtypes import HALVES, DType, float32, int64
from ...ir.graph import Graph, Node, Value
from .again import compute_again
from .alike import Alike
from .checks import Checks
from .emit import Module
from .group import Group, group_nodes, is_convolution, is_elementwise
from .kernels.blocks import is_cut, lower_blocks
from .kernels.columns import ColumnsKernel
from .kernels.contract import ContractKernel
from .kernels.convolutions import lower_fused
from .kernels.copying import copy_piece, copy_step
from .kernels.relayout import row_major
from .kernels.rows import RowsKernel
from .kernels.scalars import Scalars
from .kernels.spans import rows_span
from .kernels.table import IN_PLACE, LOWERINGS
from .layout import MOVEMENT, Buffer, View, through_movement
from .remake import remake
from .step import Step
from .target import Target
from .vmath import MATH


class Lowering:
    """The work of turning one graph into steps; lives only while compiling."""

    def __init__(self, graph: Graph, target: Target, updates: dict[int, int]):
        self.graph, self.target = graph, target
        self.updates = updates
        self.lanes = target.lanes(4)
        self.views: dict[Value, View] = {}
        self.buffers: list[Buffer] = []
        self.steps: list[Step] = []
        self.module = Module(target)
        self.scratch = 0
        self.checks = Checks(self.buffer("constant", int64, 1))

    def buffer(self, kind: str, dtype: DType, size: int, array: Any = None) -> Buffer:
        b = Buffer(kind, dtype, size, len(self.buffers) + 2, array)  # slots 0 and 1 are the scratch memory
        self.buffers.append(b)
        return b

    def run(self) -> None:
        for value in self.graph.inputs:
            self.views[value] = View.whole(self.buffer("input", value.dtype, value.type.size), value.shape)
        for value, array in self.graph.constants.items():
            array = np.ascontiguousarray(array)
            self.views[value] = View.whole(self.buffer("constant", value.dtype, array.size, array), value.shape)
        moved = self.moved = self._find_views()
        self.groups, self.of = compute_again(self.graph, group_nodes(self.graph, moved), moved)
        self.remade = remake(self.graph, self.groups, self.of, moved)
        self.given = {self._root(v) for v in self.graph.outputs}
        self.wanted = self._values_to_store()
        self._place_outputs()
        alike = Alike(self)
        for group in self.groups:
            own = {v for n in group.nodes for v in n.outputs}
            for node in [*group.nodes, *self.inline[group].values()]:
                for value in node.inputs:
                    skip = value in self.inline[group] or value in self.scalars[group][1]
                    if not skip and self._root(value) not in own:
                        self._view_of(value)
            alike.lower(group)
        for number, value in enumerate(self.graph.outputs):
            self._view_of(value)
            self._copy_output(number, value)
        self.checks.allocate()

    def _find_views(self) -> set[Node]:
        """Movement nodes that need no copy. Whether a reshape does depends on its input's strides."""
        moved: set[Node] = set()
        strides: dict[Value, View] = {}

        def shape_view(value: Value) -> View:
            if value not in strides:
                strides[value] = View.whole(Buffer("probe", value.dtype, value.type.size), value.shape)
            return strides[value]

        for node in self.graph.nodes:
            if node.prim.name in MOVEMENT:
                view = through_movement(node, shape_view(node.inputs[0]))
                if view is not None:
                    strides[node.outputs[0]] = view
                    moved.add(node)
        return moved

    def _root(self, value: Value) -> Value:
        """The value that a view is of."""
        while value.node is not None and value.node in self.moved:
            value = value.node.inputs[0]
        return value

    def _values_to_store(self) -> set[Value]:
        """Values of kernels that must be in memory: results, and what other kernels read.

        Cheap inputs of column reductions, and single numbers, are rather computed again by those
        who need them (`inline` and `scalars`).
        """
        wanted = set(self.given)
        small: list[tuple[Group, Value, Value]] = []
        for group in self.groups:
            own = {v for n in group.nodes for v in n.outputs}
            for node in group.nodes:
                if group.kind == "columns" and group.nodes and not is_elementwise(node):
                    continue
                for value in node.inputs:
                    root = self._root(value)
                    if root.node is not None and root not in own:
                        if root.type.size == 1 and self._computes_scalars(group) and is_elementwise(node):
                            small.append((group, value, root))
                        else:
                            wanted.add(root)
        self.inline: dict[Group, dict[Value, Node]] = {g: {} for g in self.groups}
        for group in self.groups:
            if group.kind == "columns":
                for node in group.nodes:
                    self._inline(node.inputs[0], node.inputs[0].shape, wanted, self.inline[group], 6)
                for node in self.inline[group].values():
                    for value in node.inputs:
                        root = self._root(value)
                        if value not in self.inline[group] and root.node is not None and root.type.size == 1:
                            small.append((group, value, root))
        self.scalars: dict[Group, tuple[dict[Value, Node], dict[Value, Value]]] = {g: ({}, {}) for g in self.groups}
        for group, value, root in small:
            nodes, aliases = self.scalars[group]
            if self._inline_scalar(root, wanted, nodes, group, 16):
                aliases[value] = root
        return {v for v in wanted if v.node is not None}

    def _computes_scalars(self, group: Group) -> bool:
        """Whether a group will be one kernel; the reference reads its inputs from memory."""
        if group.kind == "contract" and not is_convolution(group.nodes[0]):
            return ContractKernel.supports(group, {})
        return group.kind != "alone" and 0 not in group.shape

    def _inline_scalar(
        self, root: Value, wanted: set[Value], nodes: dict[Value, Node], group: Group, depth: int
    ) -> bool:
        """Let a kernel compute a single number itself; False if it reads the number from memory."""
        node = root.node
        if root in nodes:
            return True
        if node is None or root in wanted or not depth or not is_elementwise(node) or self.of[node] is group:
            if node is not None:
                wanted.add(root)
            return False
        for v in node.inputs:
            source = self._root(v)
            if source.type.size == 1:
                self._inline_scalar(source, wanted, nodes, group, depth - 1)
            elif source.node is not None:  # one element of something larger
                wanted.add(source)
        nodes[root] = node
        return True

    def scalars_of(self, group: Group) -> Scalars:
        nodes, aliases = self.scalars[group]
        read = {v: self._root(v) for n in nodes.values() for v in n.inputs}
        leaves = {
            leaf: self._view_of(leaf)
            for leaf in (root if root.type.size == 1 else v for v, root in read.items())
            if leaf not in nodes
        }
        return Scalars(nodes, leaves, aliases)

    def _inline(self, value: Value, shape: Any, wanted: set[Value], inline: dict[Value, Node], depth: int) -> None:
        """Let a column reduction compute its cheap inputs itself, where nobody else needs them stored."""
        node = value.node
        if value in inline:
            return
        if (
            depth
            and node is not None
            and value not in wanted
            and node not in self.moved
            and self.of[node].kind == "rows"
            and is_elementwise(node)
            and node.prim.name not in MATH
            and value.shape == shape
        ):
            inline[value] = node
            for v in node.inputs:
                if self._root(v).type.size != 1:
                    self._inline(v, shape, wanted, inline, depth - 1)
        else:
            wanted.add(self._root(value))

    def _place_outputs(self) -> None:
        """Decide which results are written where they finally belong.

        An update of a piece of state goes into its array if nobody reads the old value afterwards:
        all readers run before, or read it in the same kernel at the index that is written. Other
        results that are stored whole get the caller's array. What remains is copied at the end.
        """
        self.home: dict[Value, Buffer] = {}  # stored value -> the buffer that it is written to
        self.direct: dict[int, Buffer] = {}  # number of an output -> the buffer that holds it
        order = {g: i for i, g in enumerate(self.groups)}
        last_run: dict[Node, int] = {n: order[g] for n, g in self.of.items()}
        for group in self.groups:
            for node in [*group.nodes, *self.inline[group].values(), *self.scalars[group][0].values()]:
                last_run[node] = max(last_run[node], order[group])
        readers: dict[Value, list[Node]] = {}
        for node in self.graph.nodes:
            for v in node.inputs:
                readers.setdefault(self._root(v), []).append(node)
        for number, value in enumerate(self.graph.outputs):
            root = self._stored_whole(value)
            if root is None or root in self.home:
                continue
            if number in self.updates:
                state = self.graph.inputs[self.updates[number]]
                group = self.of[root.node]  # type: ignore[index]
                if self._may_overwrite(state, group, order[group], last_run, readers):
                    self.home[root] = self.direct[number] = self.views[state].buffer
            else:
                self.home[root] = self.direct[number] = self.buffer("output", root.dtype, root.type.size)

    def _stored_whole(self, value: Value) -> Value | None:
        """The value of a kernel that `value` is, up to its shape."""
        while value.node is not None and value.node in self.moved:
            if value.node.prim.name != "reshape":
                return None
            value = value.node.inputs[0]
        if value.node is None:
            return None
        return value

    def _copy_output(self, number: int, value: Value) -> None:
        """Write a result that is a view of another value to the caller's array."""
        node = value.node
        if number in self.direct or number in self.updates or node is None or not value.type.size:
            return
        buffer = self.direct[number] = self.buffer("output", value.dtype, value.type.size)
        piece = copy_piece(self.views[value], View.whole(buffer, value.shape))
        self.steps += copy_step(self, node, f"k{len(self.steps)}o{number}", [piece])

    def _may_overwrite(
        self, state: Value, group: Group, place: int, last_run: dict[Node, int], readers: dict[Value, list[Node]]
    ) -> bool:
        if group.kind == "alone":
            return self._may_update(state, group.nodes[0], place, last_run, readers)
        if group.kind not in ("rows", "contract") or group.num_inner or 0 in group.shape:
            return False
        for node in readers.get(state, ()):
            if node in self.moved:
                continue  # its own readers are listed under the same root
            if last_run[node] > place:
                return False
            if self.of[node] is group or last_run[node] == place:
                if not is_elementwise(node) or any(v is not state and self._root(v) is state for v in node.inputs):
                    return False
                if state in node.inputs and state.shape != group.shape:
                    return False
        return state not in self.given

    def _may_update(
        self, state: Value, node: Node, place: int, last_run: dict[Node, int], readers: dict[Value, list[Node]]
    ) -> bool:
        """Whether a node that writes a part of its first input can write it where it lies."""
        if node.prim.name not in IN_PLACE or node.inputs[0] is not state:
            return False
        if state in self.given or any(self._root(v) is state for v in node.inputs[1:]):
            return False
        others = (n for n in readers.get(state, ()) if n is not node and n not in self.moved)
        return all(last_run[n] < place for n in others)

    def _view_of(self, value: Value) -> View:
        if value not in self.views:
            node = value.node
            assert node is not None and node in self.moved, f"{value} is read before it is made"
            view = through_movement(node, self._view_of(node.inputs[0]))
            assert view is not None
            self.views[value] = view
        return self.views[value]

    def stored_by(self, group: Group) -> list[Value]:
        """The values that a group's kernel puts in memory."""
        if group in self.remade:
            return [self.remade[group]]
        return [v for n in group.nodes if self.of[n] is group for v in n.outputs if v in self.wanted]

    def lower(self, group: Group) -> None:
        """Add the steps of a group."""
        own = {v for n in group.nodes for v in n.outputs}
        outputs = {v: self._new_view(v) for v in self.stored_by(group)}
        scalars = self.scalars_of(group)
        sources = {
            v: self.views[v]
            for n in group.nodes
            for v in n.inputs
            if v not in own and v in self.views and v not in scalars
        }
        symbol = f"k{len(self.steps)}"
        kernel: Any
        if group.kind == "rows" and group.shape is not None and 0 not in group.shape:
            kernel = self._rows_kernel(group, sources, outputs, scalars, symbol)
            if outputs and is_cut(kernel):
                kept = {v: View.whole(self.buffer("temp", v.dtype, v.type.size), v.shape) for v in kernel.spilled}
                kernel = RowsKernel(group, sources, outputs | kept, self.lanes, scalars)
                self.steps += lower_blocks(self, kernel, symbol)
                return
        elif group.kind == "columns" and 0 not in group.shape:
            self._lower_columns(group, outputs, symbol)
            return
        elif group.kind == "contract" and is_convolution(group.nodes[0]):
            node, *after = group.nodes
            self.steps += lower_fused(self, node, after, sources, outputs, scalars, symbol) if outputs else []
            return
        elif group.kind == "contract" and ContractKernel.supports(group, sources):
            kernel = ContractKernel(group, sources, outputs, self.target, scalars)
        else:
            for node in group.nodes:
                for v in node.outputs:
                    if v not in self.views:
                        self._new_view(v)
                if not any(v.type.size for v in node.outputs):
                    continue  # nothing to compute
                lower = LOWERINGS.get(node.prim.name)
                if lower is not None and 0 not in group.shape:
                    steps = lower(self, node, symbol)
                    if steps is not None:
                        self.steps.extend(steps)
                        continue
                for v in node.inputs:
                    self._view_of(v)
                views = [self.views[v] for v in (*node.inputs, *node.outputs)]
                self.steps.append(Step("numpy", [node], buffers=tuple(v.buffer for v in views)))
            return
        if outputs:
            if group.kind == "contract" and kernel.needs_packing:
                packed = self.buffer("temp", kernel.dtype, kernel.packed_size())
                chunks = kernel.emit_packing(self.module, symbol + "p", packed)
                used = (kernel.b.buffer, packed)
                span = kernel.packing_span(packed)
                self.steps.append(Step("pack", [group.nodes[0]], chunks, symbol + "p", used, span))
            span = rows_span(kernel) if group.kind == "rows" else kernel.span()
            kernel.emit(self.module, symbol, 0)
            self.scratch = max(self.scratch, kernel.scratch_bytes)
            touched = [*(v.buffer for v in (*sources.values(), *outputs.values())), *scalars.buffers]
            if group.kind == "contract" and kernel.packed is not None:
                touched.append(kernel.packed)
            self.steps.append(Step(group.kind, group.nodes, kernel.chunks, symbol, tuple(touched), span))

    def _rows_kernel(
        self,
        group: Group,
        sources: dict[Value, View],
        outputs: dict[Value, View],
        scalars: Scalars,
        symbol: str,
    ) -> RowsKernel:
        """The kernel of a group of rows; what it can't walk well is copied first, and replaced in `sources`."""
        kernel = RowsKernel(group, sources, outputs, self.lanes, scalars)
        copied = kernel.obstacles() if outputs and group.num_inner else {}
        for number, (value, view) in enumerate(copied.items()):
            sources[value], steps = row_major(self, view, group.nodes[0], f"{symbol}r{number}")
            self.steps += steps
        return RowsKernel(group, sources, outputs, self.lanes, scalars) if copied else kernel

    def _lower_columns(self, group: Group, outputs: dict[Value, View], symbol: str) -> None:
        inline = self.inline[group]
        scalars = self.scalars_of(group)
        nodes = [*group.nodes, *inline.values()]
        read = dict.fromkeys(v for n in nodes for v in n.inputs if v not in inline and v not in scalars)
        live = [n for n in group.nodes if n.outputs[0] in outputs]
        if not live:
            return
        sources = {v: self._along_columns(v, live[0], symbol) for v in read}
        kernel = ColumnsKernel(live, inline, sources, outputs, self.lanes, scalars)
        if not kernel.partial_elements():
            kernel.emit(self.module, symbol, None)
            used = [*(v.buffer for v in (*kernel.views.values(), *outputs.values())), *scalars.buffers]
            self.steps.append(Step("columns", live, kernel.chunks, symbol, tuple(used)))
            return
        dtype = live[0].outputs[0].dtype
        partials = self.buffer("temp", float32 if dtype in HALVES else dtype, kernel.partial_elements())
        kernel.emit(self.module, symbol, partials)
        used = [*(v.buffer for v in kernel.views.values()), *scalars.buffers]
        self.steps.append(Step("columns", live, kernel.chunks, symbol, (*used, partials)))
        chunks = kernel.emit_combine(self.module, symbol + "c", partials)
        used = [v.buffer for v in outputs.values()]
        self.steps.append(Step("combine", live, chunks, symbol + "c", (*used, partials)))

    def _along_columns(self, value: Value, node: Node, symbol: str) -> View:
        """The view of a value whose vectors a column kernel reads: copied first if their elements lie apart."""
        view = self.views[value]
        strides = [s for n, s in zip(view.shape, view.strides, strict=True) if n != 1]
        if view.shape != node.inputs[0].shape or not strides or strides[-1] in (0, 1):
            return view
        view, steps = row_major(self, view, node, f"{symbol}r{len(self.steps)}")
        self.steps += steps
        return view

    def _new_view(self, value: Value) -> View:
        buffer = self.home.get(value) or self.buffer("temp", value.dtype, value.type.size)
        view = View.whole(buffer, value.shape)
        self.views[value] = view
        return view
