"""Sums by index and reading by index, of sizes that are known when they run: eager code uses them.

The result of a sum begins as a copy of what is added to. Every element gets its sources in the order of their
indices, as in compiled programs (kernels/indexing.py), and is rounded each time: no two chunks write one element.

Note [Table of a scatter]
Words of 8 bytes from word 2 on, named by `SCATTER`; strides count elements. *Rows*: to row `index[j]` of the
result, of `block` elements in each of `outer` items, row j of x is added, for all of `spots`. A chunk has a panel
of the columns; where elements are read, of the spots. *Elements*: each element of x has an index of its own. Items
have two dimensions, `outer` x `inner`, along which the three arrays have strides; then come the spots, and in each
of them `block` neighbours. *Single*: the same for one element. The word BAD of pooling.py becomes 1 if an index is
out of range.
"""

from __future__ import annotations

from collections.abc import Callable

from ....ir.dtypes import DType
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
Range = tuple[Number, Number]
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
            types = ["ptr"] * 3 + ["i64"] * (len(SCATTER) - 3)
            loaded = [f.load(ty, f.at(args, 8 * (i + 2)), 8) for i, ty in enumerate(types)]
            w = dict(zip(SCATTER, loaded, strict=True))
            self._emit(f, w, {"rows": self._rows, "elements": self._elements, "single": self._single}[name])

    def _emit(self, f: Function, w: dict[str, Val], body: Callable[..., Val]) -> None:
        start, stop = range_of(f, w["per_chunk"], w["items"])
        (bad,) = f.loop(start, stop, lambda i, bad: [body(f, w, i, bad)], [NO])
        f.when(bad, lambda: f.store(f.int(1), f.at(f.args[0], 8 * BAD), 8))
        end(f)

    # --- what scatters and gathers do differently ------------------------------------------------

    def _part(self, f: Function, w: dict[str, Val], item: Number) -> tuple[Number, Range, Range]:
        """An item's number without that of its panel, its spots and its columns."""
        column = f.mul(f.rem(item, w["panels"]), w["panel"])
        columns = column, f.min(f.add(column, w["panel"]), w["block"])
        return f.div(item, w["panels"]), (0, w["spots"]), columns

    def _do(self, f: Function, out: Val, x: Val, lanes: int, count: Val | None = None) -> None:
        """Add a vector."""
        a = load(f, out, self.dtype, lanes, 1, count)
        b = load(f, x, self.dtype, lanes, 1, count)
        store(f, f.op(self.add, a, b), out, self.dtype, lanes, count)

    # --- walks ----------------------------------------------------------------------------------

    def _at(self, f: Function, base: Val, place: Number) -> Val:
        return f.at(base, f.mul(place, self.dtype.itemsize))

    def _rows(self, f: Function, w: dict[str, Val], item: Number, bad: Val) -> Val:
        """Neighbours have one index."""
        outer, spots, (column, stop) = self._part(f, w, item)
        whole = f.sub(stop, f.rem(f.sub(stop, column), self.lanes))
        out = self._at(f, w["out"], f.mul(outer, w["out_outer"]))
        x = self._at(f, w["x"], f.mul(outer, w["x_outer"]))
        rest = f.int(f.sub(stop, whole))

        def spot(j: Number, bad: Val) -> list[Val]:
            place, misses = index_at(f, w["index"], j, w["size"])
            to, fro = self._at(f, out, f.mul(place, w["row"])), self._at(f, x, f.mul(j, w["x_spot"]))

            def part(c: Number, count: Val | None) -> None:
                self._do(f, self._at(f, to, c), self._at(f, fro, c), self.lanes, count)

            f.loop(column, whole, lambda c: part(c, None), step=self.lanes)
            f.loop(whole, stop, lambda c: part(c, rest), step=self.lanes)
            return [f.op("or", bad, misses)]

        return f.loop(*spots, spot, [bad])[0]

    def _starts(self, f: Function, w: dict[str, Val], item: Number) -> tuple[Val, Val, Val]:
        """Where an item begins in the result, in x and in the indices."""
        place = f.rem(item, w["inner"]), f.div(item, w["inner"])

        def start(array: str, size: int) -> Val:
            inner, outer = (f.mul(p, w[f"{array}_{d}"]) for p, d in zip(place, ("inner", "outer"), strict=True))
            return f.at(w[array], f.mul(f.add(inner, outer), size))

        return start("out", self.dtype.itemsize), start("x", self.dtype.itemsize), start("index", 8)

    def _one(self, f: Function, w: dict[str, Val], out: Val, x: Val, index: Val, column: Number) -> Val:
        """The element at an address; whether its index is out of range."""
        number, misses = index_at(f, index, 0, w["size"])
        self._do(f, self._at(f, out, f.add(f.mul(number, w["row"]), column)), x, 1)
        return misses

    def _elements(self, f: Function, w: dict[str, Val], item: Number, bad: Val) -> Val:
        """Neighbours with indices of their own."""
        rest, spots, columns = self._part(f, w, item)
        out, x, index = self._starts(f, w, rest)

        def spot(j: Number, bad: Val) -> list[Val]:
            numbers, fro = f.at(index, f.mul(f.mul(j, w["index_spot"]), 8)), self._at(f, x, f.mul(j, w["x_spot"]))

            def one(c: Number, bad: Val) -> list[Val]:
                return [f.op("or", bad, self._one(f, w, out, self._at(f, fro, c), f.at(numbers, f.mul(c, 8)), c))]

            return f.loop(*columns, one, [bad])

        return f.loop(*spots, spot, [bad])[0]

    def _single(self, f: Function, w: dict[str, Val], item: Number, bad: Val) -> Val:
        """One element each."""
        rest, (first, stop), _ = self._part(f, w, item)
        out, x, index = self._starts(f, w, rest)

        def spots(j: Number, bad: Val, count: int) -> list[Val]:
            for k in range(count):
                i = f.add(j, k)
                number = f.at(index, f.mul(f.mul(i, w["index_spot"]), 8))
                bad = f.op("or", bad, self._one(f, w, out, self._at(f, x, f.mul(i, w["x_spot"])), number, 0))
            return [bad]

        whole = f.sub(stop, f.rem(f.sub(stop, first), _UNROLLED))
        (bad,) = f.loop(first, whole, lambda j, b: spots(j, b, _UNROLLED), [bad], step=_UNROLLED)
        return f.loop(whole, stop, lambda j, b: spots(j, b, 1), [bad])[0]


class GatherKernels(ScatterKernels):
    """The same walks, in which elements go the other way: x becomes what stands at the indices of `out`.

    Args:
        dtype: unsigned integers of the elements' size.
    """

    def _part(self, f: Function, w: dict[str, Val], item: Number) -> tuple[Number, Range, Range]:
        first = f.mul(f.rem(item, w["panels"]), w["panel"])
        spots = first, f.min(f.add(first, w["panel"]), w["spots"])
        return f.div(item, w["panels"]), spots, (0, w["block"])

    def _do(self, f: Function, out: Val, x: Val, lanes: int, count: Val | None = None) -> None:
        store(f, load(f, out, self.dtype, lanes, 1, count), x, self.dtype, lanes, count)


NO = Val("false", "i1")


def index_at(f: Function, base: Val, number: Number, size: Val) -> tuple[Val, Val]:
    """An index as a number in [0, size), and whether it is out of range; it is 0 then."""
    i = f.load("i64", f.at(base, f.mul(number, 8)), 8)
    wrapped = f.int(f.add(i, f.op("and", f.op("ashr", i, f.int(63)), size)))
    misses = f.icmp("uge", wrapped, size)
    return f.select(misses, f.int(0), wrapped), misses
