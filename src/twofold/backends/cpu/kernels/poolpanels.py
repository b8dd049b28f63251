"""Pools of short lines: as many planes as a vector has lanes are turned, so that a lane is a plane.

Windows are walked one after the other, in memory of the thread's own. See pooling.py.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence

from ....ir.dtypes import HALVES, DType, float32, int32, int64
from .. import registers
from ..emit import Function, Number, Val, vector
from .access import load, store
from .reducing import turned
from .tile import scratch_of, zero_bytes

Range = tuple[Val, Val]  # first and end


def range_at(f: Function, table: Val, position: Number) -> Range:
    """The taps of a window inside the input."""
    at = f.at(table, f.mul(position, 16))
    return f.load("i64", at, 8), f.load("i64", f.at(at, 8), 8)


class Panel:
    """A pool of `lanes` planes, one in each lane."""

    def __init__(self, name: str, dtype: DType, lanes: int, f: Function, w: dict[str, Val]):
        self.name, self.dtype, self.lanes, self.f, self.w = name, dtype, lanes, f, w
        self.held = float32 if dtype in HALVES else dtype
        self.ty = vector(registers.HELD[dtype.name], lanes)
        self.vector = self.lanes * self.held.itemsize  # bytes
        self.pixels = f.mul(f.mul(w["d"], w["h"]), w["w"])
        self.places = f.mul(f.mul(w["od"], w["oh"]), w["ow"])
        self.large = scratch_of(f)  # the input's pixels
        self.small = f.at(self.large, f.mul(self._whole(self.pixels), self.vector))  # the windows'
        self.where = f.at(self.small, f.mul(self._whole(self.places), self.vector))

    def _whole(self, n: Number) -> Number:
        f = self.f
        return f.mul(f.div(f.add(n, self.lanes - 1), self.lanes), self.lanes)

    def emit(self, number: Number) -> None:
        """The panel of this number."""
        f, w = self.f, self.w
        first = f.mul(number, self.lanes)
        self.left = f.int(f.min(f.sub(w["planes"], first), self.lanes))
        grad = self.name == "sum_pool_grad"
        sizes = (self.places, self.pixels) if grad else (self.pixels, self.places)
        taken, given = (f.mul(f.mul(first, n), self.dtype.itemsize) for n in sizes)
        x, out = f.at(w["x"], taken), f.at(w["out"], given)
        if grad:
            self._turn_in(x, self.places, self.small)
            nbytes = f.mul(self.pixels, self.vector)
            f.when(f.icmp("eq", w["covered"], 0), lambda: zero_bytes(f, self.large, nbytes))
            f.when(f.icmp("ne", w["apart"], 0), lambda: self._over_windows(self._put_back))
            f.when(f.icmp("eq", w["apart"], 0), lambda: self._over_windows(self._spread))
            self._turn_out(self.large, self.pixels, out, self.held, self.dtype)
            return
        self._turn_in(x, self.pixels, self.large)
        is_max = self.name == "max_pool"
        self._over_windows(self._largest if is_max else self._sum)
        self._turn_out(self.small, self.places, out, self.held, self.dtype)
        if is_max:
            places = f.at(w["where"], f.mul(f.mul(first, self.places), 8))
            self._turn_out(self.where, self.places, places, int32, int64)

    # --- turning ------------------------------------------------------------------------------

    def _turn_in(self, x: Val, length: Number, target: Val) -> None:
        f, lanes, size = self.f, self.lanes, self.dtype.itemsize
        pitch = f.mul(length, size)
        rows = [f.at(x, f.mul(f.min(k, f.sub(self.left, 1)), pitch)) for k in range(lanes)]

        def square(s: Number, count: Number | None) -> None:
            found = [load(f, f.at(row, f.mul(s, size)), self.dtype, lanes, 1, count) for row in rows]
            to = f.at(target, f.mul(s, self.vector))
            for k, v in enumerate(turned(f, found)):
                f.store(v, f.at(to, k * self.vector), self.held.itemsize)

        whole = f.mul(f.div(length, lanes), lanes)
        f.loop(0, whole, lambda s: square(s, None), step=lanes)
        f.loop(whole, length, lambda s: square(s, f.int(f.sub(length, s))), step=lanes)

    def _turn_out(self, source: Val, length: Number, out: Val, held: DType, dtype: DType) -> None:
        f, lanes = self.f, self.lanes
        nbytes, size = lanes * held.itemsize, dtype.itemsize
        ty = vector(registers.STORED[held.name], lanes)
        pitch = f.mul(length, size)

        def square(s: Number, count: Val | None) -> None:
            start = f.at(source, f.mul(s, nbytes))
            rows = [f.load(ty, f.at(start, k * nbytes), held.itemsize) for k in range(lanes)]
            to = f.at(out, f.mul(s, size))
            for k, v in enumerate(turned(f, rows)):
                if dtype is int64:
                    v = f.convert("sext", v, "i64")
                there = count
                if count is not None:
                    there = f.select(f.icmp("sgt", self.left, k), count, f.int(0))
                store(f, v, f.at(to, f.mul(k, pitch)), dtype, lanes, there)

        whole = f.mul(f.div(length, lanes), lanes)
        full = f.select(f.icmp("eq", self.left, lanes), f.int(whole), f.int(0))
        f.loop(0, full, lambda s: square(s, None), step=lanes)
        f.loop(full, length, lambda s: square(s, f.int(f.min(f.sub(length, s), lanes))), step=lanes)

    # --- windows ------------------------------------------------------------------------------

    def _over_windows(self, window: Callable[[Number, list[Range], Number], None]) -> None:
        """`window(its number, the ranges of its taps, the pixel under its first one)`, in order."""
        f, w = self.f, self.w

        def layer(od: Number) -> None:
            taps_d = range_at(f, w["ranges_d"], od)
            d0 = f.sub(f.mul(od, w["sd"]), w["ld"])

            def line(oh: Number) -> None:
                taps_h = range_at(f, w["ranges_h"], oh)
                h0 = f.sub(f.mul(oh, w["sh"]), w["lh"])
                start = f.mul(f.add(f.mul(d0, w["h"]), h0), w["w"])
                number = f.mul(f.add(f.mul(od, w["oh"]), oh), w["ow"])

                def column(ow: Number) -> None:
                    corner = f.add(start, f.sub(f.mul(ow, w["sw"]), w["lw"]))
                    window(f.add(number, ow), [taps_d, taps_h, range_at(f, w["ranges_w"], ow)], corner)

                f.loop(0, w["ow"], column)

            f.loop(0, w["oh"], line)

        f.loop(0, w["od"], layer)

    def _offset(self, a: Number, b: Number, j: Number) -> Number:
        """Pixels from a window's first tap to another."""
        f, w = self.f, self.w
        line = f.add(f.mul(f.mul(a, w["gd"]), w["h"]), f.mul(b, w["gh"]))
        return f.add(f.mul(line, w["w"]), f.mul(j, w["gw"]))

    def _taps(
        self,
        ranges: list[Range],
        corner: Number,
        tap: Callable[..., list[Val]],
        carry: Sequence[Val],
    ) -> list[Val]:
        """`tap(the pixel, its offset from the corner, *carry)`, in order."""
        f, w = self.f, self.w
        taps_d, taps_h, (first, stop) = ranges

        def line(a: Number, b: Number, *c: Val) -> list[Val]:
            start = self._offset(a, b, 0)

            def one(j: Number, *c: Val) -> list[Val]:
                offset = f.add(start, f.mul(j, w["gw"]))
                return tap(f.at(self.large, f.mul(f.add(corner, offset), self.vector)), offset, *c)

            return f.loop(first, stop, one, c)

        return f.loop(*taps_d, lambda a, *c: f.loop(*taps_h, lambda b, *c: line(a, b, *c), c), carry)

    def _load(self, at: Val) -> Val:
        return self.f.load(self.ty, at, self.held.itemsize)

    def _put(self, v: Val, base: Val, number: Number, nbytes: int) -> None:
        self.f.store(v, self.f.at(base, self.f.mul(number, nbytes)), nbytes // self.lanes)

    def _largest(self, number: Number, ranges: list[Range], corner: Number) -> None:
        f, lanes = self.f, self.lanes

        def wide(n: Number) -> Val:
            return f.splat(f.convert("trunc", f.int(n), "i32"), lanes)

        def tap(at: Val, offset: Number, best: Val, place: Val) -> list[Val]:
            v = self._load(at)
            wins = f.op("or", f.fcmp("ogt", v, best), f.fcmp("uno", v, v))
            return [f.select(wins, v, best), f.select(wins, wide(f.add(corner, offset)), place)]

        first = f.add(corner, self._offset(*(r[0] for r in ranges)))
        best, place = self._taps(ranges, corner, tap, [f.const(-math.inf, self.ty), wide(first)])
        self._put(best, self.small, number, self.vector)
        self._put(place, self.where, number, 4 * lanes)

    def _sum(self, number: Number, ranges: list[Range], corner: Number) -> None:
        f, w = self.f, self.w
        zero = f.const(0, self.ty)
        taps_d, taps_h, (first, stop) = ranges

        def line(a: Number, b: Number) -> Val:
            start = f.add(corner, self._offset(a, b, 0))

            def tap(j: Number, part: Val) -> list[Val]:
                at = f.at(self.large, f.mul(f.add(start, f.mul(j, w["gw"])), self.vector))
                return [f.op("fadd", part, self._load(at))]

            return f.loop(first, stop, tap, [zero])[0]

        def layer(a: Number) -> Val:
            return f.loop(*taps_h, lambda b, t: [f.op("fadd", t, line(a, b))], [zero])[0]

        (total,) = f.loop(*taps_d, lambda a, t: [f.op("fadd", t, layer(a))], [zero])
        self._put(total, self.small, number, self.vector)

    def _put_back(self, number: Number, ranges: list[Range], corner: Number) -> None:
        """As `_spread` where windows do not overlap."""
        f = self.f
        g = f.op("fadd", self._load(f.at(self.small, f.mul(number, self.vector))), f.const(0, self.ty))

        def tap(at: Val, _: Number) -> list[Val]:
            f.store(g, at, self.held.itemsize)
            return []

        self._taps(ranges, corner, tap, [])

    def _spread(self, number: Number, ranges: list[Range], corner: Number) -> None:
        f = self.f
        g = self._load(f.at(self.small, f.mul(number, self.vector)))

        def tap(at: Val, _: Number) -> list[Val]:
            f.store(f.op("fadd", self._load(at), g), at, self.held.itemsize)
            return []

        self._taps(ranges, corner, tap, [])
