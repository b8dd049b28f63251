"""Few long rows: the blocks of a row are shared out among threads.

Each pass of a rows kernel becomes a kernel over the blocks of all rows, which writes their partial sums, and one
that adds these up. Results are those of the rows kernel to the bit, see Note [Shape of a reduction] in rows.py.
"""

from __future__ import annotations

from typing import Any

from ....ir.dtypes import HALVES, float32
from ....ir.graph import Node, Value
from ..emit import Function, Number, Val
from ..layout import Buffer
from ..step import Step
from .access import base, load, store
from .rows import BLOCK, PARTIALS, RowsKernel, _Row, add_partials, combine_all, identities

_MOST_ROWS = 8  # more are enough work for all threads as they are
_LEAST_BLOCKS = 4


def is_cut(kernel: RowsKernel) -> bool:
    """Whether the kernel's rows are few and long."""
    blocks = -(-kernel.length // BLOCK)
    return (
        kernel.num_inner > 0 and blocks > 1 and kernel.rows <= _MOST_ROWS and kernel.rows * blocks >= _LEAST_BLOCKS
    )


def lower_blocks(lowering: Any, kernel: RowsKernel, symbol: str) -> list[Step]:
    """The steps of a kernel that is cut and keeps nothing in scratch memory."""
    return _Blocks(lowering, kernel, symbol).run()


class _Blocks:
    def __init__(self, lowering: Any, kernel: RowsKernel, symbol: str):
        self.lowering, self.k, self.symbol = lowering, kernel, symbol
        self.blocks = -(-kernel.length // BLOCK)
        self.results: dict[Value, Buffer] = {}  # of reductions, a number per row
        self.partials: dict[Node, Buffer] = {}

    def run(self) -> list[Step]:
        steps: list[Step] = []
        last = max(p for p, (reduced, _) in enumerate(self.k.passes) if reduced)
        for p, (reduced, stored) in enumerate(self.k.passes):
            if not reduced and not stored:
                continue
            name = f"{self.symbol}b{p}"
            for node in reduced:
                dtype = node.inputs[0].dtype
                held = float32 if dtype in HALVES else dtype
                size = self.k.rows * self.blocks * PARTIALS
                self.partials[node] = self.lowering.buffer("temp", held, size)
            steps.append(Step("rows", self._nodes(p), self.k.rows * self.blocks, name, self._walk(p, name)))
            if reduced:
                outputs = [v for v in self.k.outputs if self.k._is_row(v)] if p == last else []
                buffers = self._combine(reduced, outputs, name + "c")
                nodes = reduced + [v.node for v in outputs if v.node is not None and v.node not in reduced]
                steps.append(Step("combine", nodes, 1, name + "c", buffers))
        return steps

    def _nodes(self, p: int) -> list[Node]:
        """What is computed first in a pass."""
        k, reduced = self.k, self.k.passes[p][0]
        return [n for n in k.group.nodes if n in reduced or k.first.get(n.outputs[0]) == p]

    def _function(self, name: str) -> Function:
        module = self.lowering.module
        return Function(module, name, [("ptr", "args"), ("i64", "first"), ("i64", "last"), ("i64", "worker")])

    def _walk(self, p: int, name: str) -> tuple[Buffer, ...]:
        """Write the kernel of a pass; returns the buffers that it works on."""
        k, f = self.k, self._function(name)
        reduced, stored = k.passes[p]
        _, first, last, _ = f.args
        bases, numbers = self._start(f, [self.partials[n] for n in reduced])

        def item(number: Number) -> None:
            r, b = f.div(number, self.blocks), f.rem(number, self.blocks)
            row = _Row(k, f, bases, k._offsets(f, r), None, numbers)
            row.scalars |= self._known(f, bases, r, self.results)
            row._prepare(reduced, stored, p)
            low = f.mul(b, BLOCK)
            sums = row.block(p, reduced, stored, low, f.min(f.add(low, BLOCK), k.length))
            for node, ways in self._vectors(reduced, sums):
                for way, v in enumerate(ways):
                    address = self._partial(f, bases, node, number, way)
                    store(f, v, address, self.partials[node].dtype, k.lanes)

        f.loop(first, last, item)
        f.ret()
        f.finish()
        return tuple(bases)

    def _combine(self, reduced: list[Node], outputs: list[Value], name: str) -> tuple[Buffer, ...]:
        """Write the kernel that adds up partial sums, and computes `outputs`, which are values of rows."""
        k, f = self.k, self._function(name)
        bases, numbers = self._start(f, [self.partials[n] for n in reduced])
        known = dict(self.results)
        for node in reduced:
            self.results[node.outputs[0]] = self.lowering.buffer("temp", node.outputs[0].dtype, k.rows)
            bases[self.results[node.outputs[0]]] = base(f, f.args[0], self.results[node.outputs[0]])

        def each(r: Number) -> None:
            def block(b: Number, *totals: Val) -> list[Val]:
                number = f.add(f.mul(r, self.blocks), b)
                sums = [
                    load(f, self._partial(f, bases, node, number, way), self.partials[node].dtype, k.lanes, 1)
                    for node in reduced
                    for way in range(PARTIALS // k.lanes)
                ]
                return add_partials(f, reduced, totals, sums)

            row = _Row(k, f, bases, k._offsets(f, r), None, numbers)
            row.scalars |= self._known(f, bases, r, known)
            sums = f.loop(0, self.blocks, block, identities(f, reduced, k.lanes))
            row.scalars |= combine_all(f, reduced, sums)
            for node in reduced:
                value = node.outputs[0]
                store(f, row.scalars[value], self._result(f, bases, value, r), value.dtype, 1)
            row.store_values(outputs)

        f.loop(0, k.rows, each)
        f.ret()
        f.finish()
        partials = [self.partials[n] for n in reduced]
        return (*(b for b in bases if b not in partials), *partials)  # these last: see cost.py

    def _start(self, f: Function, more: list[Buffer]) -> tuple[dict[Buffer, Val], dict[Value, Val]]:
        """Addresses of the buffers, and numbers that the kernel computes for itself."""
        k = self.k
        buffers = {v.buffer for v in k.views.values()} | k.scalars.buffers | {*more, *self.results.values()}
        bases = {b: base(f, f.args[0], b) for b in sorted(buffers, key=lambda b: b.number)}
        return bases, k.scalars.emit(f, bases, k.lanes)

    def _known(
        self, f: Function, bases: dict[Buffer, Val], r: Number, which: dict[Value, Buffer]
    ) -> dict[Value, Val]:
        """Results of reductions of passes before, for a row."""
        return {v: load(f, self._result(f, bases, v, r), v.dtype, 1, 0) for v in which}

    def _result(self, f: Function, bases: dict[Buffer, Val], value: Value, r: Number) -> Val:
        return f.at(bases[self.results[value]], f.mul(r, value.dtype.itemsize))

    def _partial(self, f: Function, bases: dict[Buffer, Val], node: Node, number: Number, way: int) -> Val:
        buffer = self.partials[node]
        place = f.add(f.mul(number, PARTIALS), way * self.k.lanes)
        return f.at(bases[buffer], f.mul(place, buffer.dtype.itemsize))

    def _vectors(self, reduced: list[Node], sums: list[Val]) -> list[tuple[Node, list[Val]]]:
        ways = PARTIALS // self.k.lanes
        return [(node, sums[i * ways : (i + 1) * ways]) for i, node in enumerate(reduced)]
