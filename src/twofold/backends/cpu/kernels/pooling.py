"""Pools with channels first, of sizes that are known when they run: eager code uses them.

A plane is an image of one channel; all pools have three spatial dimensions, of size 1 where there are fewer.

Note [Lines and panels]
*Lines* walk along the last dimension of the result with vectors: neighbours are loaded as they lie where the
stride is 1, shuffled out of two vectors where it is 2, and gathered otherwise; what lies in the padding is masked.
*Panels* (poolpanels.py) are for short lines. The order of additions is that of compiled programs in both
(kernels/window.py): a window is summed along its last dimension first; in a gradient the windows add to a pixel one
after the other.

Note [Table of a pool]
Words of 8 bytes from word 2 on, named by `POOL`. `d, h, w` are sizes of the input (of a gradient: the result), with
o those of the windows' positions; k, s, l, g: kernel, stride, low padding and dilation. `ranges_*` are addresses of
what `tap_ranges` and `window_ranges` in pools.py give for a dimension. `apart`: no pixel is in two windows, and
`covered`: each is in one; these are for gradients. The word BAD becomes 1 if an index is out of
range.
"""

from __future__ import annotations

import math
from collections.abc import Sequence

from ....ir.dtypes import HALVES, DType, float32, int64
from .. import registers
from ..emit import Function, Module, Number, Val, vector
from ..open import data, entry, leave
from ..target import Target
from .access import load, store
from .divisions import any_of
from .poolpanels import Panel, range_at
from .reducing import end, range_of
from .tile import kernel_function, scratch_of, zero_bytes

POOL = (
    "out", "x", "where", "ranges_d", "ranges_h", "ranges_w", "planes", "items", "per_chunk",
    "d", "h", "w", "od", "oh", "ow", "kd", "kh", "kw", "sd", "sh", "sw", "ld", "lh", "lw", "gd", "gh", "gw",
    "apart", "covered",
)  # fmt: skip
BAD, CODE, CHUNKS, WORDS = 61, 62, 63, 64
_POINTERS = frozenset(POOL[:6])
_PIXELS = 4  # of a plane, that one turn of a loop scatters

Words = dict[str, Val]


def words_of(f: Function) -> Words:
    """The words of the table by their names."""
    args = f.args[0]
    return {n: f.load("ptr" if n in _POINTERS else "i64", f.at(args, 8 * (i + 2)), 8) for i, n in enumerate(POOL)}


def pool_entry(module: Module, arrays: int) -> None:
    """Write a function for Python, `pool{arrays}(plan, *arrays)`, that runs a kernel.

    The plan is the table, with the kernel's address and its number of chunks; the arrays' addresses become the
    first words. Returns the plan if an index was out of range, otherwise the first array.
    """
    f, _, (plan, *given) = entry(module, f"pool{arrays}", arrays + 1)
    words = data(f, plan)
    for i, array in enumerate(given):
        f.store(data(f, array), f.at(words, 8 * (i + 2)), 8)
    bad = f.at(words, 8 * BAD)
    f.store(f.int(0), bad, 8)
    code, chunks = f.load("ptr", f.at(words, 8 * CODE), 8), f.load("i64", f.at(words, 8 * CHUNKS), 8)
    f.emit(f"call void {code.ref}({words}, i64 0, {chunks}, i64 0)")
    leave(f, f.select(f.icmp("eq", f.load("i64", bad, 8), 0), given[0], plan))


def _numbers(lanes: int, ty: str, step: int = 1) -> Val:
    return Val("<" + ", ".join(f"{ty} {i * step}" for i in range(lanes)) + ">", vector(ty, lanes))


class PoolKernels:
    """Code for one pool and dtype.

    Args:
        name: "max_pool", "sum_pool", "sum_pool_grad" or "max_pool_grad".
        dtype: a floating one.

    Attributes:
        names: of its kernels: "lines1", "lines2" (strides), "lines", "panels"; or "planes".
        held: the dtype that it computes in.
        lanes: of a vector, which are the planes of a panel.
    """

    def __init__(self, name: str, dtype: DType, target: Target):
        self.name, self.dtype = name, dtype
        self.held = float32 if dtype in HALVES else dtype
        self.lanes = target.lanes(self.held.itemsize)
        self.ty = vector(registers.HELD[dtype.name], self.lanes)
        self.names = ("planes",) if name == "max_pool_grad" else ("lines1", "lines2", "lines", "panels")

    def emit(self, module: Module) -> None:
        """Write all kernels into a module."""
        for name in self.names:
            f = kernel_function(module, name)
            w = words_of(f)
            if name == "planes":
                self._planes(f, w)
            elif name == "panels":
                panel = Panel(name=self.name, dtype=self.dtype, lanes=self.lanes, f=f, w=w)
                f.loop(*range_of(f, w["per_chunk"], w["items"]), panel.emit)
            else:
                step = int(name[5:] or 0)
                self._walk(
                    f, w, _GradLine(self, f, w, step) if self.name == "sum_pool_grad" else _Line(self, f, w, step)
                )
            end(f)

    # --- lines --------------------------------------------------------------------------------

    def _walk(self, f: Function, w: Words, line: _Line | _GradLine) -> None:
        """All lines of some chunks."""
        start, stop = range_of(f, w["per_chunk"], w["items"])
        across, deep = line.across, line.deep
        start = f.int(start)
        up = f.div(start, across)
        place = [f.int(f.rem(start, across)), f.int(f.rem(up, deep)), f.int(f.div(up, deep))]

        def step(number: Number, h: Val, d: Val, plane: Val) -> list[Val]:
            line.emit(number, h, d, plane)
            zero, next_h = f.int(0), f.int(f.add(h, 1))
            ended = f.icmp("eq", next_h, across)
            next_d = f.select(ended, f.int(f.add(d, 1)), d)
            over = f.icmp("eq", next_d, deep)
            return [
                f.select(ended, zero, next_h),
                f.select(over, zero, next_d),
                f.select(over, f.int(f.add(plane, 1)), plane),
            ]

        f.loop(start, stop, step, place)

    # --- planes -------------------------------------------------------------------------------

    def _planes(self, f: Function, w: Words) -> None:
        """Each plane is cleared, and gradients are added where the indices say."""
        pixels = f.mul(f.mul(w["d"], w["h"]), w["w"])
        places = f.mul(f.mul(w["od"], w["oh"]), w["ow"])

        def plane(p: Number, bad: Val) -> list[Val]:
            start = f.mul(p, places)
            g = f.at(w["x"], f.mul(start, self.dtype.itemsize))
            out = f.at(w["out"], f.mul(f.mul(p, pixels), self.dtype.itemsize))
            where = f.at(w["where"], f.mul(start, 8))
            return [f.op("or", bad, scatter_plane(f, self.dtype, out, g, where, pixels, places))]

        (bad,) = f.loop(*range_of(f, w["per_chunk"], w["items"]), plane, [Val("false", "i1")])
        f.when(bad, lambda: f.store(f.int(1), f.at(f.args[0], 8 * BAD), 8))


def scatter_plane(f: Function, dtype: DType, out: Val, g: Val, where: Val, pixels: Number, places: Number) -> Val:
    """Clear a plane of `pixels` elements, and add g's elements to it in order; whether one missed it."""
    half = dtype in HALVES
    held = float32 if half else dtype
    target = scratch_of(f) if half else out
    size = held.itemsize
    zero_bytes(f, target, f.mul(pixels, size))

    def one(i: Number, bad: Val) -> Val:
        index = f.load("i64", f.at(where, f.mul(i, 8)), 8)
        misses = f.icmp("uge", index, pixels)
        at = f.at(target, f.mul(f.select(misses, f.int(0), index), size))
        v = load(f, f.at(g, f.mul(i, dtype.itemsize)), dtype, 1, 1)
        old = f.load(v.ty, at, size)
        f.store(f.op("fadd" if dtype.kind == "float" else "add", old, v), at, size)
        return f.op("or", bad, misses)

    def some(i: Number, bad: Val) -> list[Val]:
        for k in range(_PIXELS):
            bad = one(f.add(i, k), bad)
        return [bad]

    whole = f.mul(f.div(places, _PIXELS), _PIXELS)
    (bad,) = f.loop(0, whole, some, [Val("false", "i1")], step=_PIXELS)
    (bad,) = f.loop(whole, places, lambda i, bad: [one(i, bad)], [bad])
    if half:
        lanes = 16

        def rounded(i: Number) -> None:
            count = f.int(f.min(f.sub(pixels, i), lanes))
            v = load(f, f.at(target, f.mul(i, 4)), float32, lanes, 1, count)
            store(f, v, f.at(out, f.mul(i, 2)), dtype, lanes, count)

        f.loop(0, pixels, rounded, step=lanes)
    return bad


def _steps(f: Function, table: Val, position: Number) -> tuple[Val, Val, Val]:
    """First, end and step of the windows over a pixel."""
    at = f.at(table, f.mul(position, 24))
    return f.load("i64", at, 8), f.load("i64", f.at(at, 8), 8), f.load("i64", f.at(at, 16), 8)


class _Line:
    """A line of a pool's result.

    Args:
        step: the stride along it, or 0 for any.
    """

    def __init__(self, kernels: PoolKernels, f: Function, w: Words, step: int):
        self.k, self.f, self.w, self.step = kernels, f, w, step
        self.across, self.deep = w["oh"], w["od"]
        self.lanes, self.size = kernels.lanes, kernels.dtype.itemsize
        self.is_max = kernels.name == "max_pool"
        self.fill = -math.inf if self.is_max else 0
        narrow = f.convert("trunc", w["sw"], "i32")
        self.spread = (
            _numbers(self.lanes, "i32", step)
            if step
            else f.op("mul", _numbers(self.lanes, "i32"), f.splat(narrow, self.lanes))
        )
        self.limit = self._i32(w["w"])
        self.plane_bytes = f.mul(f.mul(f.mul(w["d"], w["h"]), w["w"]), self.size)

    def _i32(self, number: Number) -> Val:
        f = self.f
        if isinstance(number, int):
            return f.const(number, vector("i32", self.lanes))
        return f.splat(f.convert("trunc", number, "i32"), self.lanes)

    def emit(self, number: Number, oh: Val, od: Val, plane: Val) -> None:
        """The line that has this number."""
        f, w = self.f, self.w
        self.taps_d, self.taps_h = range_at(f, w["ranges_d"], od), range_at(f, w["ranges_h"], oh)
        self.d0, self.h0 = f.sub(f.mul(od, w["sd"]), w["ld"]), f.sub(f.mul(oh, w["sh"]), w["lh"])
        self.plane = f.at(w["x"], f.mul(plane, self.plane_bytes))
        place = f.mul(number, w["ow"])

        def columns(z: Number) -> None:
            col = f.sub(f.mul(z, w["sw"]), w["lw"])
            left = f.int(f.sub(w["ow"], z))
            out = f.add(place, z)
            values = self._largest(col) if self.is_max else [self._sum(col)]
            store_up_to(f, values[0], f.at(w["out"], f.mul(out, self.size)), self.k.dtype, self.lanes, left)
            if self.is_max:
                store_up_to(f, values[1], f.at(w["where"], f.mul(out, 8)), int64, self.lanes, left)

        f.loop(0, w["ow"], columns, step=self.lanes)

    def _row(self, a: Number, b: Number, col: Number) -> Val:
        """The address under the first tap of a row."""
        f, w = self.f, self.w
        line = f.add(f.mul(f.add(self.d0, f.mul(a, w["gd"])), w["h"]), f.add(self.h0, f.mul(b, w["gh"])))
        return f.at(self.plane, f.mul(f.add(f.mul(line, w["w"]), col), self.size))

    def _read(self, row: Val, col: Number, shift: Number) -> Val:
        """The elements under a tap."""
        f, lanes = self.f, self.lanes
        at, first = f.at(row, f.mul(shift, self.size)), self._i32(f.add(col, shift))

        def part(k: int) -> Val:
            own = f.op("add", first, _numbers_from(lanes, k * lanes))
            mask = f.icmp("ult", own, self.limit)
            return load(f, f.at(at, k * lanes * self.size), self.k.dtype, lanes, 1, mask, self.fill)

        if self.step == 1:
            return part(0)
        if self.step == 2:
            a, b = part(0), part(1)
            return shuffled(f, a, b, [2 * i for i in range(lanes)])
        mask = f.icmp("ult", f.op("add", first, self.spread), self.limit)
        places = f.op("mul", f.convert("sext", self.spread, "i64"), f.const(self.size, vector("i64", lanes)))
        return gathered(f, at, places, self.k.dtype, lanes, mask, self.fill)

    def _sum(self, col: Number) -> Val:
        f, w = self.f, self.w
        zero = f.const(0, self.k.ty)

        def line(a: Number, b: Number) -> Val:
            row = self._row(a, b, col)
            tap = lambda j, part: [f.op("fadd", part, self._read(row, col, f.mul(j, w["gw"])))]
            return f.loop(0, w["kw"], tap, [zero])[0]

        def layer(a: Number) -> Val:
            return f.loop(*self.taps_h, lambda b, t: [f.op("fadd", t, line(a, b))], [zero])[0]

        return f.loop(*self.taps_d, lambda a, t: [f.op("fadd", t, layer(a))], [zero])[0]

    def _largest(self, col: Number) -> list[Val]:
        """The largest elements and their places in the plane."""
        f, w, lanes = self.f, self.w, self.lanes
        wide = vector("i32", lanes)

        def offset(a: Number, b: Number) -> Number:
            return f.mul(f.add(f.mul(f.mul(a, w["gd"]), w["h"]), f.mul(b, w["gh"])), w["w"])

        def line(a: Number, b: Number, best: Val, number: Val) -> list[Val]:
            row, start = self._row(a, b, col), offset(a, b)

            def tap(j: Number, best: Val, number: Val) -> list[Val]:
                shift = f.mul(j, w["gw"])
                v = self._read(row, col, shift)
                wins = f.op("or", f.fcmp("ogt", v, best), f.fcmp("uno", v, v))
                return [f.select(wins, v, best), f.select(wins, self._i32(f.add(start, shift)), number)]

            return f.loop(0, w["kw"], tap, [best, number])

        def layer(a: Number, *c: Val) -> list[Val]:
            return f.loop(*self.taps_h, lambda b, *c: line(a, b, *c), c)

        start = [f.const(-math.inf, self.k.ty), f.const(-1, wide)]
        best, number = f.loop(*self.taps_d, layer, start)
        missing = f.icmp("slt", number, f.const(0, wide))

        def first(_: Number, number: Val) -> list[Val]:
            """Where nothing was larger than the lowest number: the first tap inside."""

            def tap(i: Number, found: Val) -> list[Val]:
                shift = f.mul(f.sub(f.sub(w["kw"], 1), i), w["gw"])
                inside = f.icmp("ult", f.op("add", self._i32(f.add(col, shift)), self.spread), self.limit)
                return [f.select(inside, self._i32(shift), found)]

            (found,) = f.loop(0, w["kw"], tap, [f.const(0, wide)])
            found = f.op("add", found, self._i32(offset(self.taps_d[0], self.taps_h[0])))
            return [f.select(missing, found, number)]

        (number,) = f.loop(0, f.select(any_of(f, missing), f.int(1), f.int(0)), first, [number])
        corner = f.add(f.mul(f.add(f.mul(self.d0, w["h"]), self.h0), w["w"]), col)
        places = f.op("add", f.convert("sext", number, "i64"), f.splat(f.int(corner), lanes))
        return [best, f.op("add", places, f.convert("sext", self.spread, "i64"))]


def _numbers_from(lanes: int, start: int) -> Val:
    return Val("<" + ", ".join(f"i32 {start + i}" for i in range(lanes)) + ">", vector("i32", lanes))


def store_up_to(f: Function, v: Val, address: Val, dtype: DType, lanes: int, count: Val) -> None:
    """Store the first `count` lanes, which may be none or more than there are; a mask costs more than a branch."""
    whole = f.icmp("sge", count, lanes)
    f.when(whole, lambda: store(f, v, address, dtype, lanes))
    some = f.op("and", f.icmp("slt", count, lanes), f.icmp("sgt", count, 0))
    f.when(some, lambda: store(f, v, address, dtype, lanes, count))


def shuffled(f: Function, a: Val, b: Val, picks: Sequence[int]) -> Val:
    """Elements of two vectors one after the other."""
    mask = ", ".join(f"i32 {p}" for p in picks)
    return f.value(f"shufflevector {a}, {b}, <{len(picks)} x i32> <{mask}>", a.ty)


def gathered(f: Function, address: Val, places: Val, dtype: DType, lanes: int, mask: Val, fill: float) -> Val:
    """Elements at places, in bytes, in the lanes of a mask; see Note [Masked halves] in access.py."""
    ty = registers.STORED[dtype.name]
    moved = _MOVED[ty]
    wide, many = vector(moved, lanes), vector("ptr", lanes)
    at = f.value(f"getelementptr i8, ptr {address.ref}, {places}", many)
    name = f"llvm.masked.gather.v{lanes}{_SHORT.get(moved, moved)}.v{lanes}p0"
    f.module.declare(name, wide, [many, "i32", mask.ty, wide])
    zero = Val("zeroinitializer", wide)
    v = f.value(f"call {wide} @{name}({at}, i32 {dtype.itemsize}, {mask}, {zero})", wide)
    v = registers.from_memory(f, f.convert("bitcast", v, ty), dtype)
    return f.select(mask, v, f.const(fill, v.ty)) if fill else v


_MOVED = {"float": "float", "double": "double", "half": "i16", "bfloat": "i16"}
_SHORT = {"float": "f32", "double": "f64"}


class _GradLine:
    """A line of a sum's gradient: the windows over each of its pixels, in order.

    Args:
        step: the stride along it, or 0 for any; 2 goes with odd dilations.
    """

    def __init__(self, kernels: PoolKernels, f: Function, w: Words, step: int):
        self.k, self.f, self.w, self.step = kernels, f, w, step
        self.across, self.deep = w["h"], w["d"]
        self.lanes, self.size = kernels.lanes, kernels.dtype.itemsize
        self.plane_bytes = f.mul(f.mul(f.mul(w["od"], w["oh"]), w["ow"]), self.size)
        self.groups = f.div(f.add(w["w"], f.sub(w["sw"], 1)), w["sw"])  # of `stride` columns
        self.lift = f.mul(f.mul(w["kw"], w["gw"]), w["sw"])  # a multiple of the stride, beyond all taps

    def emit(self, number: Number, h: Val, d: Val, plane: Val) -> None:
        """The line that has this number."""
        f, w = self.f, self.w
        self.over_d, self.over_h = _steps(f, w["ranges_d"], d), _steps(f, w["ranges_h"], h)
        self.plane = f.at(w["x"], f.mul(plane, self.plane_bytes))
        out = f.at(w["out"], f.mul(f.mul(number, w["w"]), self.size))
        f.loop(0, self.groups, lambda q: self._columns(q, out), step=self.lanes)

    def _columns(self, q: Number, out: Val) -> None:
        """Groups q..q+lanes-1 of `stride` columns each."""
        f, w, lanes, dtype = self.f, self.w, self.lanes, self.k.dtype

        def put(v: Val, column: Number) -> None:
            left = f.int(f.sub(w["w"], column))
            store_up_to(f, v, f.at(out, f.mul(column, self.size)), dtype, lanes, left)

        if self.step == 1:
            put(self._sums(q, [0])[0], q)
        elif self.step == 2:  # and an odd dilation: taps lie over the one and the other column in turns
            r = f.int(f.rem(f.add(f.sub(w["kw"], 1), w["lw"]), 2))
            a, b = self._sums(q, [r, f.sub(1, r)])
            swaps = f.icmp("ne", r, 0)
            a, b = f.select(swaps, b, a), f.select(swaps, a, b)
            both, column = [x for i in range(lanes) for x in (i, lanes + i)], f.mul(q, 2)
            put(shuffled(f, a, b, both[:lanes]), column)
            put(shuffled(f, a, b, both[lanes:]), f.add(column, lanes))
        else:
            f.loop(0, w["sw"], lambda r: self._scatter(self._sums(q, [r])[0], q, r, out))

    def _scatter(self, v: Val, q: Number, r: Number, out: Val) -> None:
        f, w, lanes, dtype = self.f, self.w, self.lanes, self.k.dtype
        moved = _MOVED[registers.STORED[dtype.name]]
        v = f.convert("bitcast", registers.to_memory(f, v, dtype), moved)
        wide = vector("i64", lanes)
        group = f.op("add", _numbers(lanes, "i64"), f.splat(f.int(q), lanes))
        column = f.op("add", f.op("mul", group, f.splat(f.int(w["sw"]), lanes)), f.splat(f.int(r), lanes))
        mask = f.icmp("ult", column, f.splat(f.int(w["w"]), lanes))
        places, many = f.op("mul", column, f.const(self.size, wide)), vector("ptr", lanes)
        at = f.value(f"getelementptr i8, ptr {out.ref}, {places}", many)
        name = f"llvm.masked.scatter.v{lanes}{_SHORT.get(moved, moved)}.v{lanes}p0"
        f.module.declare(name, "void", [v.ty, many, "i32", mask.ty])
        f.emit(f"call void @{name}({v}, {at}, i32 {self.size}, {mask})")

    def _sums(self, q: Number, phases: Sequence[Number]) -> list[Val]:
        """Sums for column `phase` of each group."""
        f, w = self.f, self.w
        pairs = len(phases)
        times = f.div(f.add(w["kw"], pairs - 1), pairs)

        def line(od: Number, oh: Number, *acc: Val) -> list[Val]:
            row = f.at(self.plane, f.mul(f.mul(f.add(f.mul(od, w["oh"]), oh), w["ow"]), self.size))

            def tap(i: Number, *acc: Val) -> list[Val]:
                last = f.sub(f.sub(w["kw"], 1), f.mul(i, pairs))
                taps = [f.sub(last, k) for k in range(pairs)]
                return [
                    f.op("fadd", a, self._read(row, q, r, t)) for a, r, t in zip(acc, phases, taps, strict=True)
                ]

            return f.loop(0, times, tap, acc)

        def layer(od: Number, *acc: Val) -> list[Val]:
            first, stop, step = self.over_h
            return f.loop(first, stop, lambda oh, *a: line(od, oh, *a), acc, step=step)

        first, stop, step = self.over_d
        return f.loop(first, stop, layer, [f.const(0, self.k.ty)] * pairs, step=step)

    def _read(self, row: Val, q: Number, r: Number, tap: Number) -> Val:
        """The windows of which a tap lies over column r of the groups; zeros where there are none."""
        f, w, lanes = self.f, self.w, self.lanes
        lies = f.int(f.sub(f.add(w["lw"], r), f.mul(tap, w["gw"])))
        limit = w["ow"]
        if self.step == 1:
            shift: Number = lies
        elif self.step == 2:
            shift = f.op("ashr", lies, f.int(1))
            limit = f.select(f.icmp("sge", tap, 0), limit, f.int(0))
        else:
            lifted = f.add(lies, self.lift)
            shift = f.sub(f.div(lifted, w["sw"]), f.mul(w["kw"], w["gw"]))
            limit = f.select(f.icmp("eq", f.int(f.rem(lifted, w["sw"])), 0), limit, f.int(0))
        first = f.int(f.add(q, shift))
        own = f.op("add", f.splat(f.convert("trunc", first, "i32"), lanes), _numbers(lanes, "i32"))
        mask = f.icmp("ult", own, f.splat(f.convert("trunc", limit, "i32"), lanes))
        return load(f, f.at(row, f.mul(first, self.size)), self.k.dtype, lanes, 1, mask)
