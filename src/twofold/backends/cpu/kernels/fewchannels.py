"""Convolutions with few channels of the result in a group, depthwise ones among them: see kernels/convolving.py.

Note [Few channels]
Results of few channels in a group, as of a depthwise convolution, are not worth packing for. Their sums are in
registers, the pixels are loaded where they are, and the weights one by one. Where a plane that makes one plane
is read in strides, it is first split into planes of the elements that are a stride apart, so that these are
neighbours; one that would be written in strides is computed in such planes, which are merged at the end.
"""

from __future__ import annotations

import functools
import itertools
from collections.abc import Callable
from typing import Any

from ..emit import Function, Module, Number, Val
from .packing import first_lanes, load_masked, store_masked
from .patching import (
    BASE,
    OUT,
    READS,
    THERE,
    TRUE,
    VECTORS,
    WRITES,
    PixelKernels,
    Place,
    cases,
    mask_of,
    pointer,
    share,
    words_of,
)
from .product import switch
from .tile import kernel_function, scratch_of

FEW = 4  # channels of the result


class FewKernels(PixelKernels):
    """The kernel "few"."""

    def emit_few(self, module: Module) -> None:
        """The kernel "few": chunks are vectors of one plane, or planes, each of an image and a group."""
        for rows in range(1, FEW + 1):
            self._emit_rows(module, rows)
        self._emit_depthwise(module)
        f = kernel_function(module, "few")
        words, first, last, _ = f.args
        w = words_of(f, words)
        scratch = scratch_of(f)
        room = f.at(scratch, w["split_bytes"])
        splits, merges = f.icmp("eq", w["splits"], 1), f.icmp("eq", w["splits"], 2)

        is_one = f.icmp("eq", f.int(f.mul(w["outputs"], w["channels"])), 1)

        def one(i: Any) -> None:
            part, plane = f.rem(i, w["parts"]), f.mul(f.div(i, w["parts"]), w["planes"])

            def each(j: Any) -> None:
                group, image = f.rem(j, w["groups"]), f.div(j, w["groups"])
                x = f.at(pointer(f, w["x"]), f.add(f.mul(image, w["x_image"]), f.mul(group, w["x_group"])))
                y = f.at(pointer(f, w["y"]), f.add(f.mul(image, w["y_image"]), f.mul(group, w["y_group"])))
                weight = f.at(pointer(f, w["w"]), f.mul(group, w["w_group"]))
                f.when(splits, lambda: self._split(f, w, x, scratch))
                x = f.select(splits, scratch, x)
                result = f.select(merges, scratch, y)

                def sweep(s: dict[str, Val], at: Val) -> None:
                    pieces = f.int(f.div(f.add(s["num_vectors"], VECTORS - 1), VECTORS))
                    begin, end = (f.int(f.mul(p, VECTORS)) for p in share(f, pieces, part, w["parts"]))
                    end = f.int(f.min(end, s["num_vectors"]))

                    def some(v: Any) -> None:
                        names = [f"few{rows}" for rows in range(1, FEW + 1)]
                        args = [words, at, x, weight, result, f.int(v), room]
                        switch(f, f.int(f.sub(w["outputs"], 1)), names, args)

                    def depthwise() -> None:
                        f.call("depthwise", [words, at, x, weight, result, begin, end, room])

                    cases(f, [(is_one, depthwise), (TRUE, lambda: f.loop(begin, end, some, step=VECTORS))])

                self.each_sweep(f, w, sweep)
                f.when(merges, lambda: self._merge(f, w, scratch, y))

            f.loop(plane, f.min(f.add(plane, w["planes"]), f.mul(w["images"], w["groups"])), each)

        f.loop(first, last, one)
        f.ret()
        f.finish()

    def _emit_depthwise(self, module: Module) -> None:
        """The function "depthwise": vectors `begin` to `end` of one channel that sees one channel."""
        signature = [
            ("ptr", "words"), ("ptr", "sweep"), ("ptr", "x"), ("ptr", "w"), ("ptr", "y"), ("i64", "begin"),
            ("i64", "end"), ("ptr", "room"),
        ]  # fmt: skip
        f = Function(module, "depthwise", signature, attributes="nounwind noinline", private=True)
        words, sweep, x, weight, y, begin, end, room = f.args
        w, s, lanes = words_of(f, words), self.sweep_at(f, sweep), self.lanes
        shifts, w_shifts = (pointer(f, s[name]) for name in ("shifts", "w_shifts"))
        is_near = f.op("and", f.icmp("eq", w["x_apart"], 1), f.icmp("eq", w["y_apart"], 1))

        def some(first: Any, vectors: Callable[[Number, int], list[Place]]) -> None:
            table = vectors(first, VECTORS)
            plain = is_near
            for vector, field in itertools.product(table, (READS, WRITES)):
                plain = f.op("and", plain, f.icmp("eq", f.load("i64", f.at(vector.row, field), 8), 1))

            def sums() -> None:
                places = [f.add(f.load("i64", f.at(vector.row, BASE), 8), vector.x) for vector in table]

                def tap(t: Any, *acc: Val) -> list[Val]:
                    at = f.at(x, f.load("i64", f.at(shifts, f.mul(t, 8)), 8))
                    one = f.load(self.one, f.at(weight, f.load("i64", f.at(w_shifts, f.mul(t, 8)), 8)), self.size)
                    one, out = f.splat(one, lanes), []
                    for vector, place, y in zip(table, places, acc, strict=True):
                        inside = mask_of(f, f.load("i16", f.at(vector.masks, f.mul(t, 2)), 2), lanes)
                        v = load_masked(f, f.at(at, place), self.dtype, lanes, inside)
                        out.append(f.intrinsic("fma", [one, v, y]))
                    return out

                acc = f.loop(0, s["taps"], tap, [f.const(0, self.ty)] * VECTORS)
                for vector, v in zip(table, acc, strict=True):
                    there = mask_of(f, f.load("i16", f.at(vector.row, THERE), 2), lanes)
                    to = f.at(y, f.add(f.load("i64", f.at(vector.row, OUT), 8), vector.y))
                    store_masked(f, v, to, self.dtype, lanes, there)

            def other() -> None:
                f.call("few1", [words, sweep, x, weight, y, f.int(first), room])

            cases(f, [(plain, sums), (TRUE, other)])

        def block(b: Any) -> None:
            vectors, start = self.vectors_in(f, s, b), f.int(f.mul(b, s["period"]))
            start = f.select(f.icmp("slt", start, begin), begin, start)
            stop = f.min(end, f.mul(f.add(b, 1), s["period"]))
            f.loop(start, stop, lambda first: some(first, vectors), step=VECTORS)

        f.loop(f.div(begin, s["period"]), f.div(f.add(end, f.sub(s["period"], 1)), s["period"]), block)
        f.ret()
        f.finish()

    def _split(self, f: Function, w: Any, x: Val, to: Val) -> None:
        """Copy a plane, elements that are a stride apart side by side."""
        between, phase, lines = w["split_apart"], w["split_phase"], pointer(f, w["split_lines"])
        length = w["split_length"]  # of a line

        def line(i: Any) -> None:
            at = f.at(x, f.mul(i, f.mul(length, self.size)))
            out = f.at(to, f.load("i64", f.at(lines, f.mul(i, 8)), 8))

            def pairs(j: Any) -> None:
                here, there = f.at(at, f.mul(j, 2 * self.size)), f.at(out, f.mul(j, self.size))
                left = f.sub(length, f.mul(j, 2))
                v = []
                for half in (0, 1):
                    mask = first_lanes(f, f.sub(left, half * self.lanes), self.lanes)
                    v.append(load_masked(f, f.at(here, half * self.step), self.dtype, self.lanes, mask))
                for odd in (0, 1):
                    order = ", ".join(f"i32 {2 * i + odd}" for i in range(self.lanes))
                    own = f.value(f"shufflevector {v[0]}, {v[1]}, <{self.lanes} x i32> <{order}>", self.ty)
                    count = f.div(f.add(left, 1 - odd), 2)
                    mask = first_lanes(f, count, self.lanes)
                    store_masked(f, own, f.at(there, f.mul(phase, odd)), self.dtype, self.lanes, mask)

            def element(j: Any) -> None:
                place = f.add(f.mul(f.rem(j, between), phase), f.mul(f.div(j, between), self.size))
                f.store(f.load(self.one, f.at(at, f.mul(j, self.size)), self.size), f.at(out, place), self.size)

            half = f.div(f.add(length, 1), 2)
            two = (f.icmp("eq", between, 2), lambda: f.loop(0, half, pairs, step=self.lanes))
            cases(f, [two, (TRUE, lambda: f.loop(0, length, element))])

        f.loop(0, w["split_count"], line)

    def _merge(self, f: Function, w: Any, x: Val, to: Val) -> None:
        """Copy a plane that is split to where it is not."""
        between, phase, lines = w["split_apart"], w["split_phase"], pointer(f, w["split_lines"])
        length, lanes = w["split_length"], self.lanes

        def line(i: Any) -> None:
            at = f.at(x, f.load("i64", f.at(lines, f.mul(i, 8)), 8))
            out = f.at(to, f.mul(i, f.mul(length, self.size)))

            def pairs(j: Any) -> None:
                here, left = f.at(at, f.mul(j, self.size)), f.sub(length, f.mul(j, 2))
                v = []
                for odd in (0, 1):
                    mask = first_lanes(f, f.div(f.add(left, 1 - odd), 2), lanes)
                    v.append(load_masked(f, f.at(here, f.mul(phase, odd)), self.dtype, lanes, mask))
                for half in (0, 1):
                    order = ", ".join(f"i32 {i // 2 + half * lanes // 2 + i % 2 * lanes}" for i in range(lanes))
                    own = f.value(f"shufflevector {v[0]}, {v[1]}, <{lanes} x i32> <{order}>", self.ty)
                    there = f.at(f.at(out, f.mul(j, 2 * self.size)), half * self.step)
                    store_masked(f, own, there, self.dtype, lanes, first_lanes(f, f.sub(left, half * lanes), lanes))

            def element(j: Any) -> None:
                place = f.add(f.mul(f.rem(j, between), phase), f.mul(f.div(j, between), self.size))
                f.store(f.load(self.one, f.at(at, place), self.size), f.at(out, f.mul(j, self.size)), self.size)

            half = f.div(f.add(length, 1), 2)
            two = (f.icmp("eq", between, 2), lambda: f.loop(0, half, pairs, step=lanes))
            cases(f, [two, (TRUE, lambda: f.loop(0, length, element))])

        f.loop(0, w["split_count"], line)

    def _emit_rows(self, module: Module, rows: int) -> None:
        """The function "few1", ...: `VECTORS` vectors from number `first` on, for that many channels."""
        signature = [
            ("ptr", "words"), ("ptr", "sweep"), ("ptr", "x"), ("ptr", "w"), ("ptr", "y"), ("i64", "first"),
            ("ptr", "room"),
        ]  # fmt: skip
        f = Function(module, f"few{rows}", signature, attributes="nounwind noinline", private=True)
        words, sweep, x, weight, y, first, room = f.args
        w, s, lanes = words_of(f, words), self.sweep_at(f, sweep), self.lanes
        shifts, w_shifts = (pointer(f, s[name]) for name in ("shifts", "w_shifts"))
        table = self.vectors_at(f, s, first, VECTORS)
        is_near = f.icmp("eq", w["x_apart"], 1)
        for vector in table:
            is_near = f.op("and", is_near, f.icmp("eq", f.load("i64", f.at(vector.row, READS), 8), 1))
        step, depth = VECTORS * self.step, s["k"]

        def patches() -> None:
            for i, vector in enumerate(table):
                at, start = f.at(room, i * self.step), f.at(x, vector.x)
                f.call("patch", [words, start, vector.row, vector.masks, shifts, f.int(0), depth, at, f.int(step)])

        f.when(f.op("xor", is_near, TRUE), patches)
        starts = [f.at(x, f.add(f.load("i64", f.at(vector.row, BASE), 8), vector.x)) for vector in table]
        starts = [f.select(is_near, at, f.at(room, i * self.step)) for i, at in enumerate(starts)]
        plane = f.select(is_near, w["x_channel"], f.int(step))
        of_tap = f.mul(w["channels"], step)
        lines = [f.mul(w["w_line"], r) for r in range(rows)]

        def tap(t: Any, *acc: Val) -> list[Val]:
            shift = f.select(is_near, f.load("i64", f.at(shifts, f.mul(t, 8)), 8), f.int(f.mul(t, of_tap)))
            inside = []
            for vector in table:
                bits = f.load("i16", f.at(vector.masks, f.mul(t, 2)), 2)
                inside.append(mask_of(f, f.select(is_near, bits, Val("-1", "i16")), lanes))
            weights = f.at(weight, f.load("i64", f.at(w_shifts, f.mul(t, 8)), 8))

            def channel(_: Any, *carry: Val) -> list[Val]:
                weights, at, inside = carry[0], carry[1 : VECTORS + 1], carry[VECTORS + 1 : 2 * VECTORS + 1]
                acc = list(carry[2 * VECTORS + 1 :])
                vs = [load_masked(f, a, self.dtype, lanes, m) for a, m in zip(at, inside, strict=True)]
                for r, line in enumerate(lines):
                    one = f.splat(f.load(self.one, f.at(weights, line), self.size), lanes)
                    for i, v in enumerate(vs):
                        acc[r * VECTORS + i] = f.intrinsic("fma", [one, v, acc[r * VECTORS + i]])
                return [f.at(weights, w["w_channel"]), *[f.at(a, plane) for a in at], *inside, *acc]

            begin = [f.at(start, shift) for start in starts]
            return f.loop(0, w["channels"], channel, [weights, *begin, *inside, *acc])[2 * VECTORS + 1 :]

        sums = f.loop(0, s["taps"], tap, [f.const(0, self.ty)] * (rows * VECTORS))
        out = f.alloca(rows * step)
        for i, v in enumerate(sums):
            f.store(v, f.at(out, i * self.step), self.size)

        def put(i: int) -> None:
            to = f.at(y, table[i].y)
            f.call("put", [words, table[i].row, f.at(out, i * self.step), f.int(step), to, f.int(rows)])

        for i in range(VECTORS):
            f.when(f.icmp("slt", f.int(f.add(first, i)), s["num_vectors"]), functools.partial(put, i))
        f.ret()
        f.finish()
