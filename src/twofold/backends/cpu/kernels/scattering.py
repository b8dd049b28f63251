"""Sums by index, of sizes that are known when they run: eager code uses them.

The result begins as a copy of what is added to. Every element gets its sources in the order of their indices, as in
compiled programs (kernels/indexing.py), and is rounded each time: no two chunks write one element.

Note [Table of a scatter]
Words of 8 bytes from word 2 on, named by `SCATTER`; strides count elements. *Rows*: to row `index[j]` of the
result, of `block` elements in each of `outer` items, row j of x is added, for all of `spots`. A chunk has a panel
of the columns. *Elements*: each element of x has an index of its own. Items have two dimensions, `outer` x `inner`,
along which the three arrays have strides; then come the spots, and in each of them `block` neighbours. *Single*:
the same for one element. The word BAD of pooling.py becomes 1 if an index is out of range.
"""

from __future__ import annotations

from ....ir.dtypes import DType
from .. import registers
from ..emit import Function, Module, Number, Val
from ..target import Target
from .access import load, store
from .pooling import BAD
from .reducing import end, range_of
from .tile import kernel_function

SCATTER = (
    "out", "x", "index", "items", "per_chunk", "outer", "inner", "spots", "block", "size", "row",
    "out_outer", "out_inner", "x_outer", "x_inner", "x_spot", "index_outer", "index_inner", "index_spot",
    "panel", "panels",
)  # fmt: skip
NAMES = ("rows", "elements", "single")
_UNROLLED = 4  # spots


class ScatterKernels:
    """Code for one dtype, a floating one or integers."""

    def __init__(self, dtype: DType, target: Target):
        self.dtype = dtype
        self.lanes = target.lanes(max(4, dtype.itemsize))
        self.add = "fadd" if dtype.kind == "float" else "add"

    def emit(self, module: Module) -> None:
        """Write all kernels into a module."""
        for name in NAMES:
            f = kernel_function(module, name)
            args = f.args[0]
            w = {
                word: f.load("ptr" if i < 3 else "i64", f.at(args, 8 * (i + 2)), 8)
                for i, word in enumerate(SCATTER)
            }
            body = {"rows": self._rows, "elements": self._elements, "single": self._single}[name]
            (bad,) = f.loop(
                *range_of(f, w["per_chunk"], w["items"]), lambda i, bad, b=body: [b(f, w, i, bad)], [NO]
            )
            f.when(bad, lambda: f.store(f.int(1), f.at(args, 8 * BAD), 8))
            end(f)

    def _at(self, f: Function, base: Val, place: Number) -> Val:
        return f.at(base, f.mul(place, self.dtype.itemsize))

    def _rows(self, f: Function, w: dict[str, Val], item: Number, bad: Val) -> Val:
        """A panel of the columns of one item."""
        column = f.mul(f.rem(item, w["panels"]), w["panel"])
        outer = f.div(item, w["panels"])
        stop = f.min(f.add(column, w["panel"]), w["block"])
        whole = f.sub(stop, f.rem(f.sub(stop, column), self.lanes))
        out = self._at(f, w["out"], f.mul(outer, w["out_outer"]))
        x = self._at(f, w["x"], f.mul(outer, w["x_outer"]))
        rest = f.int(f.sub(stop, whole))

        def spot(j: Number, bad: Val) -> list[Val]:
            place, misses = index_at(f, w["index"], j, w["size"])
            to, fro = self._at(f, out, f.mul(place, w["row"])), self._at(f, x, f.mul(j, w["x_spot"]))

            def part(c: Number, count: Val | None) -> None:
                at = self._at(f, to, c)
                a = load(f, at, self.dtype, self.lanes, 1, count)
                b = load(f, self._at(f, fro, c), self.dtype, self.lanes, 1, count)
                store(f, f.op(self.add, a, b), at, self.dtype, self.lanes, count)

            f.loop(column, whole, lambda c: part(c, None), step=self.lanes)
            f.loop(whole, stop, lambda c: part(c, rest), step=self.lanes)
            return [f.op("or", bad, misses)]

        return f.loop(0, w["spots"], spot, [bad])[0]

    def _starts(self, f: Function, w: dict[str, Val], item: Number) -> tuple[Val, Val, Val]:
        """Where an item begins in the result, in x and in the indices."""
        place = f.rem(item, w["inner"]), f.div(item, w["inner"])

        def start(array: str, size: int) -> Val:
            inner, outer = (f.mul(p, w[f"{array}_{d}"]) for p, d in zip(place, ("inner", "outer"), strict=True))
            return f.at(w[array], f.mul(f.add(inner, outer), size))

        return start("out", self.dtype.itemsize), start("x", self.dtype.itemsize), start("index", 8)

    def _one(self, f: Function, w: dict[str, Val], out: Val, x: Val, index: Val, column: Number) -> Val:
        """Add the element at an address; whether its index is out of range."""
        number, misses = index_at(f, index, 0, w["size"])
        at = self._at(f, out, f.add(f.mul(number, w["row"]), column))
        a, b = load(f, at, self.dtype, 1, 1), load(f, x, self.dtype, 1, 1)
        f.store(registers.to_memory(f, f.op(self.add, a, b), self.dtype), at, self.dtype.itemsize)
        return misses

    def _elements(self, f: Function, w: dict[str, Val], item: Number, bad: Val) -> Val:
        """One item, and a panel of the neighbours."""
        column = f.mul(f.rem(item, w["panels"]), w["panel"])
        stop = f.min(f.add(column, w["panel"]), w["block"])
        out, x, index = self._starts(f, w, f.div(item, w["panels"]))

        def spot(j: Number, bad: Val) -> list[Val]:
            numbers, fro = f.at(index, f.mul(f.mul(j, w["index_spot"]), 8)), self._at(f, x, f.mul(j, w["x_spot"]))

            def one(c: Number, bad: Val) -> list[Val]:
                return [f.op("or", bad, self._one(f, w, out, self._at(f, fro, c), f.at(numbers, f.mul(c, 8)), c))]

            return f.loop(column, stop, one, [bad])

        return f.loop(0, w["spots"], spot, [bad])[0]

    def _single(self, f: Function, w: dict[str, Val], item: Number, bad: Val) -> Val:
        """One item without neighbours."""
        out, x, index = self._starts(f, w, item)

        def spots(j: Number, bad: Val, count: int) -> list[Val]:
            for k in range(count):
                i = f.add(j, k)
                fro, number = (
                    self._at(f, x, f.mul(i, w["x_spot"])),
                    f.at(index, f.mul(f.mul(i, w["index_spot"]), 8)),
                )
                bad = f.op("or", bad, self._one(f, w, out, fro, number, 0))
            return [bad]

        whole = f.sub(w["spots"], f.rem(w["spots"], _UNROLLED))
        (bad,) = f.loop(0, whole, lambda j, b: spots(j, b, _UNROLLED), [bad], step=_UNROLLED)
        return f.loop(whole, w["spots"], lambda j, b: spots(j, b, 1), [bad])[0]


NO = Val("false", "i1")


def index_at(f: Function, base: Val, number: Number, size: Val) -> tuple[Val, Val]:
    """An index as a number in [0, size), and whether it is out of range; it is 0 then."""
    i = f.load("i64", f.at(base, f.mul(number, 8)), 8)
    wrapped = f.int(f.add(i, f.op("and", f.op("ashr", i, f.int(63)), size)))
    misses = f.icmp("uge", wrapped, size)
    return f.select(misses, f.int(0), wrapped), misses
