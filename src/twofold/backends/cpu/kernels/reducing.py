"""Reductions whose sizes are known when they run: along rows, and over rows.

Eager code uses them. What they compute is what rows.py and columns.py do for the same sizes, to the bit:
see Note [Shape of a reduction] and Note [Shape of a column reduction] there.

Note [Tables of reductions]
Words of 8 bytes, from word 2 on. `ROWS`, `PARTS`, `JOIN` and `COLUMNS` name them; strides count elements.
"rows" reduces rows of neighbours, each by one thread. For few long rows there are "parts", the 32 partial sums of
each block of each row, and "join", which adds them. "columns" adds rows to each other, for `OUTERS` times `BLOCKS`
blocks; its results lie as (block, outer, column). Blocks are put together by "columns" again. For
float16 and bfloat16, whose partial sums are float32, there are "to_blocks" and "from_blocks" for that.
"crossed" and "crossed_to_blocks" do the same where the rows' elements lie apart, and neighbours are in different
rows: those of `rest`, or of `first` if `runs_first`. Squares of elements are turned in registers.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from ....ir.dtypes import HALVES, DType, float32
from ....ir.graph import Graph
from ....ir.primitive import Primitive
from ....ir.types import TensorType
from ..emit import Function, Module, Number, Val
from ..group import Group
from ..layout import Buffer, View
from ..open import data, entry, leave
from . import rows as _rows
from .access import load, store
from .rows import BLOCK, PARTIALS, RowsKernel, Space, _Row
from .tile import kernel_function

VECTORS = 4  # side by side, in "columns"

ROWS = ("out", "x", "length", "stride", "rows", "per_chunk")
PARTS = ("out", "x", "length", "stride", "items", "blocks", "per_chunk")
JOIN = ("out", "x", "rows", "blocks")
COLUMNS = (
    "out", "x", "columns", "panels", "outers", "items", "first", "rest", "block", "outer_stride", "first_stride",
    "rest_stride", "per_chunk", "column_stride", "runs_first",
)  # fmt: skip


class ReduceKernels(RowsKernel):
    """Code for one reduction of one dtype.

    Args:
        p: sum, prod, amax or amin.
        dtype: of its operand and its result.
        lanes: elements per vector.
    """

    def __init__(self, p: Primitive, dtype: DType, lanes: int):
        graph = Graph(f"eager {p.name}")
        x = graph.add_input(TensorType((2, 2), dtype))
        graph.set_outputs(graph.add(p, [x], {"dims": (1,), "keepdim": False}))
        (self.node,) = graph.nodes
        self.x, self.out, self.dtype = x, self.node.outputs[0], dtype
        self.held = float32 if dtype in HALVES else dtype  # of partial sums in memory
        self.rule = _rows._REDUCE[p.name]
        self.square = max(1, 4 * lanes // max(4, dtype.itemsize))  # the side of those that are turned
        views = [View.whole(Buffer("input", dtype, 4, 0), (2, 2)), View.whole(Buffer("output", dtype, 2, 1), (2,))]
        super().__init__(Group("rows", (2, 2), 1, [self.node]), {x: views[0]}, {self.out: views[1]}, lanes)

    def _merge(self) -> None:
        """Nothing to merge; a row's elements are neighbours."""
        self.inner_strides = {self.x: (1,), self.out: (0,)}
        self.in_phase, self.rows, self.chunks = True, 0, 0
        self.length: Any = 0  # known when it runs

    def emit_all(self, module: Module) -> None:
        """Write all functions into a module."""
        self._emit_rows(kernel_function(module, "rows"))
        self._emit_parts(kernel_function(module, "parts"))
        self._emit_join(kernel_function(module, "join"))
        self._emit_columns(kernel_function(module, "columns"), self.dtype, self.dtype)
        self._emit_crossed(kernel_function(module, "crossed"), self.dtype)
        if self.held is not self.dtype:
            self._emit_crossed(kernel_function(module, "crossed_to_blocks"), self.held)
            self._emit_columns(kernel_function(module, "to_blocks"), self.dtype, self.held)
            self._emit_columns(kernel_function(module, "from_blocks"), self.held, self.dtype)

    # --- along rows -------------------------------------------------------------------------

    def _row(self, f: Function, w: dict[str, Val], r: Number, out: Number) -> _Row:
        self.length = w["length"]
        self.space = Space((), (w["length"],))  # type: ignore[arg-type]
        bases = {self.views[self.x].buffer: w["x"], self.views[self.out].buffer: w["out"]}
        return _Row(self, f, bases, {self.x: f.mul(r, w["stride"]), self.out: out}, None, {})

    def _emit_rows(self, f: Function) -> None:
        w = words_of(f, ROWS)
        f.loop(*range_of(f, w["per_chunk"], w["rows"]), lambda r: self._row(f, w, r, r).run())
        end(f)

    def _emit_parts(self, f: Function) -> None:
        w = words_of(f, PARTS)

        def item(i: Number) -> None:
            low = f.mul(f.rem(i, w["blocks"]), BLOCK)
            row = self._row(f, w, f.div(i, w["blocks"]), 0)
            for way, v in enumerate(row.block(0, [self.node], [], low, f.min(f.add(low, BLOCK), w["length"]))):
                place = f.add(f.mul(i, PARTIALS), way * self.lanes)
                store(f, v, f.at(w["out"], f.mul(place, self.held.itemsize)), self.held, self.lanes)

        f.loop(*range_of(f, w["per_chunk"], w["items"]), item)
        end(f)

    def _emit_join(self, f: Function) -> None:
        w, nodes, lanes = words_of(f, JOIN), [self.node], self.lanes

        def row(r: Number) -> None:
            def block(b: Number, *totals: Val) -> list[Val]:
                start = f.mul(f.add(f.mul(r, w["blocks"]), b), PARTIALS)
                places = [f.mul(f.add(start, way * lanes), self.held.itemsize) for way in range(PARTIALS // lanes)]
                sums = [load(f, f.at(w["x"], place), self.held, lanes, 1) for place in places]
                return _rows.add_partials(f, nodes, totals, sums)

            totals = f.loop(0, w["blocks"], block, _rows.identities(f, nodes, lanes))
            total = _rows.combine(f, self.rule, self.dtype, totals)
            store(f, total, f.at(w["out"], f.mul(r, self.dtype.itemsize)), self.dtype, 1)

        f.loop(*range_of(f, 1, w["rows"]), row)
        end(f)

    # --- over rows --------------------------------------------------------------------------

    def _emit_columns(self, f: Function, source: DType, target: DType) -> None:
        """`source` and `target` are how elements and results lie in memory."""
        w, lanes = words_of(f, COLUMNS), self.lanes
        tile = lanes * VECTORS

        def panel(x: Val, out: Val, low: Number, high: Number, left: Number) -> None:
            def vector(v: Number) -> None:
                at = [f.at(p, f.mul(v, d.itemsize)) for p, d in ((x, source), (out, target))]
                self._add_rows(f, w, at[0], at[1], low, high, source, target, 1, f.sub(left, v))

            full = f.icmp("sge", left, tile)
            f.when(full, lambda: self._add_rows(f, w, x, out, low, high, source, target, VECTORS, None))
            f.loop(0, f.select(full, f.int(0), f.int(left)), vector, step=lanes)

        self._panels(f, w, source, target, tile, panel)

    def _panels(
        self, f: Function, w: dict[str, Val], source: DType, target: DType, tile: int, panel: Callable[..., None]
    ) -> None:
        """`panel(address of x, of the result, first and last row, columns left)` for all items."""

        def item(i: Number) -> None:
            place, rest = f.rem(i, w["panels"]), f.div(i, w["panels"])
            outer, block = f.rem(rest, w["outers"]), f.div(rest, w["outers"])
            column = f.mul(place, tile)
            low = f.mul(block, w["block"])
            high = f.min(f.add(low, w["block"]), w["first"])
            start = f.add(f.mul(outer, w["outer_stride"]), f.mul(column, w["column_stride"]))
            x = f.at(w["x"], f.mul(start, source.itemsize))
            out = f.at(w["out"], f.mul(f.add(f.mul(rest, w["columns"]), column), target.itemsize))
            panel(x, out, low, high, f.sub(w["columns"], column))

        f.loop(*range_of(f, w["per_chunk"], w["items"]), item)
        end(f)

    def _emit_crossed(self, f: Function, target: DType) -> None:
        w, lanes, size = words_of(f, COLUMNS), self.square, self.dtype.itemsize
        runs_first = f.icmp("ne", w["runs_first"], 0)

        def panel(x: Val, out: Val, low: Number, high: Number, left: Number) -> None:
            count = f.int(f.min(left, lanes))
            # columns that are not there: the last one once more
            own = [f.mul(f.min(r, f.sub(count, 1)), f.mul(w["column_stride"], size)) for r in range(lanes)]
            run = [f.select(runs_first, f.int(a), f.int(b)) for a, b in ((low, 0), (high, w["rest"]))]
            times = [f.select(runs_first, f.int(a), f.int(b)) for a, b in ((0, low), (1, high))]

            def line(i: Number, acc: Val) -> list[Val]:
                start = f.at(x, f.mul(f.mul(i, w["first_stride"]), size))
                columns = [f.at(start, place) for place in own]

                def square(j: Number, acc: Val, rows: Number | None) -> Val:
                    at = [f.at(column, f.mul(j, size)) for column in columns]
                    for k, v in enumerate(turned(f, [load(f, a, self.dtype, lanes, 1, rows) for a in at])):
                        total = self.rule.add(f, self.dtype, acc, v)
                        acc = total if rows is None else f.select(f.icmp("sgt", rows, k), total, acc)
                    return acc

                whole = f.sub(run[1], f.rem(f.sub(run[1], run[0]), lanes))
                (acc,) = f.loop(run[0], whole, lambda j, acc: [square(j, acc, None)], [acc], step=lanes)
                rest = f.int(f.sub(run[1], whole))
                return f.loop(whole, run[1], lambda j, acc: [square(j, acc, rest)], [acc], step=lanes)

            (total,) = f.loop(times[0], times[1], line, [self.rule.start(f, self.dtype, lanes)])
            store(f, total, out, target, lanes, count)

        self._panels(f, w, self.dtype, target, lanes, panel)

    def _add_rows(
        self,
        f: Function,
        w: dict[str, Val],
        x: Val,
        out: Val,
        low: Number,
        high: Number,
        source: DType,
        target: DType,
        vectors: int,
        left: Number | None,
    ) -> None:
        """Rows low..high-1 of the outermost reduced dimension, for vectors side by side; `left` columns remain."""
        lanes = self.lanes
        count = None if left is None else f.min(left, lanes)

        def row(i: Number, j: Number, acc: tuple[Val, ...]) -> list[Val]:
            place = f.add(f.mul(i, w["first_stride"]), f.mul(j, w["rest_stride"]))
            at = f.at(x, f.mul(place, source.itemsize))
            loaded = [
                load(f, f.at(at, v * lanes * source.itemsize), source, lanes, 1, count) for v in range(vectors)
            ]
            return [self.rule.add(f, self.dtype, a, b) for a, b in zip(acc, loaded, strict=True)]

        def around(i: Number, *acc: Val) -> list[Val]:
            return f.loop(0, w["rest"], lambda j, *a: row(i, j, a), acc)

        start = [self.rule.start(f, self.dtype, lanes)] * vectors
        for v, total in enumerate(f.loop(low, high, around, start)):
            store(f, total, f.at(out, v * lanes * target.itemsize), target, lanes, count)


def turned(f: Function, rows: list[Val]) -> list[Val]:
    """The columns of a square of vectors: halves of pairs of rows change places, then quarters, and so on."""
    lanes, ty = len(rows), rows[0].ty
    step = lanes // 2
    while step:
        out = list(rows)
        for i in (i for i in range(lanes) if not i & step):
            for place, shift in ((i, 0), (i + step, step)):
                picks = [j + shift if not j & step else lanes + j - step + shift for j in range(lanes)]
                mask = ", ".join(f"i32 {p}" for p in picks)
                text = f"shufflevector {rows[i]}, {rows[i + step]}, <{lanes} x i32> <{mask}>"
                out[place] = f.value(text, ty)
        rows, step = out, step // 2
    return rows


def reduce_entry(module: Module) -> str:
    """A function for Python, `f(x, plan, result)`: runs kernels one after the other; returns its name.

    The plan is an array of words: where the addresses of x and of the result are to be put; the number of
    kernels, and for each its address, its table and its number of chunks.
    """
    f, _, (x, plan, out) = entry(module, "reduce", 3)
    words = data(f, plan)
    for i, array in enumerate((x, out)):
        f.store(data(f, array), f.load("ptr", f.at(words, 8 * i), 8), 8)

    def run(i: Number) -> None:
        at = f.at(words, f.add(f.mul(i, 24), 24))
        code, table, chunks = (f.load(ty, f.at(at, 8 * k), 8) for k, ty in enumerate(("ptr", "ptr", "i64")))
        f.emit(f"call void {code.ref}({table}, i64 0, {chunks}, i64 0)")

    f.loop(0, f.load("i64", f.at(words, 16), 8), run)
    leave(f, out)
    return "reduce"


def words_of(f: Function, names: tuple[str, ...]) -> dict[str, Val]:
    """The words of the table by their names."""
    args = f.args[0]
    return {
        name: f.load("ptr" if name in ("out", "x") else "i64", f.at(args, 8 * (i + 2)), 8)
        for i, name in enumerate(names)
    }


def range_of(f: Function, per_chunk: Number, items: Number) -> tuple[Number, Number]:
    """The items of the chunks that are to be done."""
    return f.mul(f.args[1], per_chunk), f.min(f.mul(f.args[2], per_chunk), items)


def end(f: Function) -> None:
    f.ret()
    f.finish()
