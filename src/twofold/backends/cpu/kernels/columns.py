"""The columns kernel: reductions that keep the innermost dimension.

Vectors lie across the kept columns, and rows are added one after the other. Several reductions
over the same rows share one walk, with the cheap element-wise nodes that feed them.

Note [Shape of a column reduction]
Long reductions are cut into at most 16 blocks of the outermost reduced dimension; rows are added
in order within a block, and blocks in order. The cut depends on the shape alone.
"""

from __future__ import annotations

import functools
import math
from typing import Any

from ....ir.graph import Node, Value
from .. import registers
from ..emit import Function, Module, Val, vector
from ..layout import Buffer, View, merge
from ..sizes import Size, free, given, most, planned
from .access import base, load, store
from .rows import _REDUCE
from .scalars import NONE, Scalars

_MOST_BLOCKS = 16
_MOST_VECTORS = 4  # side by side: a row that is read in long pieces comes from memory three times as fast
_LONG = 256  # rows from which a reduction is cut


def _block(first: int, rows: int) -> int:
    return -(-first // _MOST_BLOCKS) if rows >= _LONG else first


class ColumnsKernel:
    """Code for reductions over the same dimensions of values of one shape.

    Args:
        reductions: the nodes.
        inline: value -> node, element-wise nodes to compute on the way.
        sources: views of the values that are read.
        outputs: a row-major view per reduction's result.
        lanes: elements per vector.
        scalars: numbers that the kernel computes at its start.
    """

    scratch_bytes = 0

    def __init__(
        self,
        reductions: list[Node],
        inline: dict[Value, Node],
        sources: dict[Value, View],
        outputs: dict[Value, View],
        lanes: int,
        scalars: Scalars = NONE,
    ):
        self.reductions, self.inline, self.lanes, self.scalars = reductions, inline, lanes, scalars
        shape, dims = reductions[0].inputs[0].shape, set(reductions[0].params["dims"])
        kept = [d for d in range(len(shape)) if d not in dims]
        reduced = sorted(dims)
        self.views = {v: view.expanded(shape) for v, view in sources.items()}
        values = list(self.views)

        def part(which: list[int]) -> Any:
            return merge(
                tuple(shape[d] for d in which), [tuple(self.views[v].strides[d] for d in which) for v in values]
            )

        self.kept, kept_strides = part(kept)
        reduced = [d for d in reduced if shape[d] != 1]
        outermost, outermost_strides = part(reduced[:1])  # by itself: how it is cut depends on the shape alone
        rest, rest_strides = part(reduced[1:])
        reduced_strides = [a + b for a, b in zip(outermost_strides, rest_strides, strict=True)]
        self.kept = self.kept or (1,)
        self.reduced = outermost + rest or (1,)
        self.kept_strides = {v: s or (0,) for v, s in zip(values, kept_strides, strict=True)}
        self.reduced_strides = {v: s or (0,) for v, s in zip(values, reduced_strides, strict=True)}
        self.outputs = outputs
        self.columns = self.kept[-1]
        self.vectors = min(_MOST_VECTORS, -(-self.columns // lanes))
        self.tile = lanes * self.vectors
        self.panels = -(-self.columns // self.tile)
        rows = math.prod(self.reduced)
        first = self.reduced[0]
        self.block = _block(first, rows)
        if isinstance(rows, Size) and isinstance(first, Size):
            self.block = given("block", int(self.block), planned(_block(planned(first), planned(rows))))
        self.blocks = -(-first // self.block)
        self.cuts = max(self.blocks, planned(self.blocks)) > 1  # the sum of one block's partial sums is the same
        self.items = math.prod(self.kept[:-1]) * self.panels
        per_item = most(1, rows // self.blocks * self.tile)
        self.per_chunk = most(1, (1 << 13) // per_item)
        self.chunks = -(-self.items * self.blocks // self.per_chunk)
        self.partials: Buffer | None = None

    @property
    def size(self) -> int:
        """Elements of one result."""
        return math.prod(self.kept)

    def partial_elements(self) -> int:
        """Elements of the buffer of partial sums, if the reduction is cut into blocks."""
        return self.blocks * len(self.reductions) * self.size if self.cuts else 0

    def emit(self, module: Module, name: str, partials: Buffer | None) -> None:
        """Write the walk over the rows; results go to `partials` when the walk is cut."""
        f = Function(module, name, [("ptr", "args"), ("i64", "first"), ("i64", "last"), ("i64", "worker")])
        args, first, last, _ = f.args
        buffers = {v.buffer for v in self.views.values()} | self.scalars.buffers
        buffers |= {partials} if partials is not None else {v.buffer for v in self.outputs.values()}
        bases = {b: base(f, args, b) for b in sorted(buffers, key=lambda b: b.number)}
        self._numbers = self.scalars.emit(f, bases, self.lanes)
        per_chunk, items, panels = (
            free("per_chunk", self.per_chunk),
            free("items", self.items),
            free("panels", self.panels),
        )
        start = f.mul(first, per_chunk)
        stop = f.min(f.mul(last, per_chunk), free("all", self.items * self.blocks))
        self._free_sizes()

        def item(number: Any) -> None:
            rest, block = f.rem(number, items), f.div(number, items)
            panel, outer = f.rem(rest, panels), f.div(rest, panels)
            index: list[Any] = []
            left = outer
            for d, n in reversed(list(enumerate(self.kept[:-1]))):
                index.append(f.rem(left, free(f"kept{d}", n)))
                left = f.div(left, free(f"kept{d}", n))
            index.reverse()
            column = f.mul(panel, self.tile)
            tail = self.columns % self.tile

            def with_columns(columns: int) -> None:
                self._panel(f, bases, partials, index, outer, block, column, columns)

            if not tail:
                with_columns(self.tile)
            elif self.panels == 1:
                with_columns(tail)
            else:
                f.when(f.icmp("slt", panel, panels - 1), lambda: with_columns(self.tile))
                f.when(f.icmp("eq", panel, panels - 1), lambda: with_columns(tail))

        f.loop(start, stop, item)
        f.ret()
        f.finish()

    def _free_sizes(self) -> None:
        """Have the code read its sizes and strides: those of other sizes are the same code."""
        names: dict[int, int] = {}

        def own(stride: int) -> int:
            return names.setdefault(stride, free(f"stride{len(names)}", stride)) if stride > 1 else stride

        self.block = free("block", self.block)
        self.reduced = tuple([free(f"reduced{d}", n) for d, n in enumerate(self.reduced)])
        for strides in (self.kept_strides, self.reduced_strides):
            for value, numbers in strides.items():
                strides[value] = tuple(map(own, numbers))

    def _panel(
        self,
        f: Function,
        bases: Any,
        partials: Buffer | None,
        index: list[Any],
        outer: Any,
        block: Any,
        column: Any,
        columns: int,
    ) -> None:
        lanes = self.lanes
        vectors = -(-columns // lanes)
        counts = [min(lanes, columns - v * lanes) for v in range(vectors)]
        starts: dict[Value, Val] = {}
        for value, view in self.views.items():
            offset: Any = view.offset
            for i, s in zip([*index, column], self.kept_strides[value], strict=True):
                offset = f.add(offset, f.mul(i, s))
            starts[value] = f.at(bases[view.buffer], f.mul(offset, view.dtype.itemsize))
        carry = []
        for node in self.reductions:
            carry += [_REDUCE[node.prim.name].start(f, node.inputs[0].dtype, lanes)] * vectors

        def row(place: tuple[Any, ...], acc: list[Val]) -> list[Val]:
            out = list(acc)
            for v in range(vectors):
                memo: dict[Value, Val] = {}
                for k, node in enumerate(self.reductions):
                    x = self._vector(f, node.inputs[0], starts, place, v, counts[v], memo)
                    i = k * vectors + v
                    out[i] = _REDUCE[node.prim.name].add(f, node.inputs[0].dtype, out[i], x)
            return out

        def nest(depth: int, place: tuple[Any, ...], acc: list[Val]) -> list[Val]:
            if depth == len(self.reduced):
                return row(place, acc)
            if depth == 0:
                low: int | Val = f.mul(block, self.block)
                high = f.min(f.add(low, self.block), self.reduced[0])
            else:
                low, high = 0, self.reduced[depth]
            return f.loop(low, high, lambda i, *a: nest(depth + 1, (*place, i), list(a)), acc)

        carry = nest(0, (), carry)
        position = f.add(f.mul(outer, free("columns", self.columns)), column)
        size = free("size", self.size)
        for k, node in enumerate(self.reductions):
            result = node.outputs[0]
            for v in range(vectors):
                x = carry[k * vectors + v]
                if partials is not None:
                    place = f.add(f.mul(f.add(f.mul(block, len(self.reductions)), k), size), position)
                    dtype, target = partials.dtype, bases[partials]
                    place = f.mul(f.add(place, v * lanes), dtype.itemsize)
                else:
                    view = self.outputs[result]
                    dtype, target = view.dtype, bases[view.buffer]
                    place = f.mul(f.add(f.add(position, view.offset), v * lanes), dtype.itemsize)
                store(f, x, f.at(target, place), dtype, lanes, None if counts[v] == lanes else counts[v])

    def _vector(
        self,
        f: Function,
        value: Value,
        starts: Any,
        place: tuple[Any, ...],
        v: int,
        count: int,
        memo: dict[Value, Val],
    ) -> Val:
        if value in self.scalars:
            return self._numbers[value]
        if value not in memo:
            if value in self.inline:
                node = self.inline[value]
                args = [self._vector(f, x, starts, place, v, count, memo) for x in node.inputs]
                memo[value] = registers.apply(
                    f, node.prim.name, node.params, args, [x.dtype for x in node.inputs], value.dtype
                )
            else:
                stride = self.kept_strides[value][-1]
                offset: Any = v * self.lanes * stride
                for i, s in zip(place, self.reduced_strides[value], strict=True):
                    offset = f.add(offset, f.mul(i, s))
                address = f.at(starts[value], f.mul(offset, value.dtype.itemsize))
                memo[value] = load(
                    f, address, value.dtype, self.lanes, stride, None if count == self.lanes else count
                )
        return memo[value]

    def emit_combine(self, module: Module, name: str, partials: Buffer) -> int:
        """Write the sum of the blocks' partial results; returns its number of chunks."""
        f = Function(module, name, [("ptr", "args"), ("i64", "first"), ("i64", "last"), ("i64", "worker")])
        args, first, last, _ = f.args
        source = base(f, args, partials)
        lanes, itemsize = self.lanes, partials.dtype.itemsize
        size, blocks = self.size, free("blocks", self.blocks)
        if size % lanes == 0:
            size = free("size", size // lanes) * lanes
        per_chunk = 1024
        start = f.mul(first, per_chunk)
        stop = f.min(f.mul(last, per_chunk), size)
        for k, node in enumerate(self.reductions):
            view = self.outputs[node.outputs[0]]
            target = base(f, args, view.buffer)
            reduce, dtype = _REDUCE[node.prim.name], node.inputs[0].dtype

            def column(i: Any, count: int | None, k: int = k, view: View = view, target: Val = target) -> None:
                def block(b: Any, *acc: Val) -> list[Val]:
                    place = f.add(f.mul(f.add(f.mul(b, len(self.reductions)), k), size), i)
                    x = load(f, f.at(source, f.mul(place, itemsize)), partials.dtype, lanes, 1, count)
                    return [reduce.add(f, dtype, acc[0], x)]

                zero = f.const(reduce.identity(dtype), vector(registers.HELD[dtype.name], lanes))
                (total,) = f.loop(0, blocks, block, [zero])
                out = f.at(target, f.mul(f.add(i, view.offset), view.dtype.itemsize))
                store(f, total, out, view.dtype, lanes, count)

            whole = size // lanes * lanes
            f.loop(start, f.min(stop, whole), lambda i, column=column: column(i, None), step=lanes)
            if whole < size:
                at_end = f.icmp("eq", stop, size)
                f.when(at_end, functools.partial(column, whole, size - whole))
        f.ret()
        f.finish()
        return -(-self.size // per_chunk)
