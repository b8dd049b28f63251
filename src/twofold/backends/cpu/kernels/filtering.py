"""Winograd convolutions whose sizes are known when they run; see winograd.py for the algorithm and its bits.

Note [Phases of a filtering]
"lay" copies images to channels last, with a border of zeros, so that all windows of 4 x 4 lie inside. "panels"
transforms the weights and lays them as [panel][element][in][width]. "filter" does blocks of tiles: their 16
elements are matrices in scratch memory, each is multiplied with panels of weights by the tiles of the open product
(`call_tiles`), and the results are transformed and turned in squares into images with channels first.
A block is some rows of tiles, or a part of a row. How large it is decides about speed, not about bits.

Note [Tables of filtering]
Words of 8 bytes, named by `LAY` from word 2 on, and by `FILTER` behind them. Strides and steps are in bytes.
"""

from __future__ import annotations

import functools
from collections.abc import Mapping, Sequence
from typing import Any

from ....ir.dtypes import float32
from .. import open as _open
from ..emit import Function, Module, Number, Val, vector
from ..target import Target
from .access import load, store
from .packing import first_lanes, transposed
from .product import Word, call_tiles
from .tile import kernel_function, scratch_of
from .winograd import input_transform, output_transform, weight_transform

# Names that begin with "at_" are addresses.
LAY = (
    "at_source", "at_target", "image", "channel", "line",  # of the source, from the first column that is copied
    "channels", "height", "first_row",  # the row of the source that is the target's first one, or would be
    "left", "count",  # columns of zeros in the target, and of the source behind them
    "rows", "cols", "pixel",  # of the target
    "items", "per_chunk",  # rows of all targets
)  # fmt: skip
FILTER = (
    "at_tiles", "at_w", "at_panels", "at_padded", "at_out",
    "w_lane", "w_inner", "flipped",  # from output to output, and from input to input; whether the taps are reversed
    "inner", "outputs", "width", "panels", "inner_blocks",  # channels; `width` of a panel
    "element", "panel",  # steps in transformed weights
    "across", "down", "lines",  # tiles in a row, rows of tiles in an image and altogether
    "block_lines", "block_tiles", "parts", "splits",  # rows of a block, tiles of a row in it; parts that a row has
    "image_step", "line_step", "pixel",  # of padded images
    "row", "input_step", "output_step",  # in scratch memory: from tile to tile, and from element to element
    "out_height", "out_width", "out_image", "out_channel",
)  # fmt: skip
LAY_AT = 2
FILTER_AT = LAY_AT + len(LAY)
INNER_BLOCK = 16  # input channels of a chunk of "panels"


class PanelKernels:
    """Functions for one processor that multiply by the tiles of products.

    Attributes:
        least_width: columns of the narrowest panel that these tiles take whole.
    """

    def __init__(self, target: Target):
        self.lanes, self.most = target.lanes(4), target.tile_rows
        self.least_width = self.lanes if target.vector_bytes >= 32 else 2 * self.lanes


class FilterKernels(PanelKernels):
    """The functions of convolutions and their input gradients."""

    def emit(self, module: Module) -> None:
        """Write "lay", "panels" and "filter", and the entry "serial"."""
        emit_lay(module, "lay", LAY_AT, self.lanes)
        self._emit_panels(module)
        self._emit_filter(module)
        if _open.HAS_ENTRIES:
            emit_serial(module)

    # --- the weights ------------------------------------------------------------------------------

    def _emit_panels(self, module: Module) -> None:
        f = kernel_function(module, "panels")
        w = table(f, FILTER, FILTER_AT)
        # reversing the taps swaps the first and the last row and column of the result
        first = f.select(f.icmp("ne", w["flipped"], 0), f.int(3), f.int(0))
        order: list[Number] = [first, 1, 2, f.sub(3, first)]
        places = [f.mul(f.add(f.mul(i, 4), j), w["element"]) for i in order for j in order]
        step, vector_bytes = f.mul(w["width"], 4), self.lanes * 4
        beside, staged = f.icmp("eq", w["w_inner"], 36), f.alloca(9 * self.lanes * vector_bytes)

        def item(number: Any) -> None:
            p, part = f.div(number, w["inner_blocks"]), f.rem(number, w["inner_blocks"])
            start = f.mul(part, INNER_BLOCK)
            count = f.min(f.sub(w["inner"], start), INNER_BLOCK)
            target = f.at(w["at_panels"], f.add(f.mul(p, w["panel"]), f.mul(start, step)))
            source = f.at(w["at_w"], f.mul(start, w["w_inner"]))
            first = f.mul(p, w["width"])
            stop = f.min(f.add(first, w["width"]), w["outputs"])

            def columns(o: Any) -> None:
                left = f.sub(stop, o)
                last = f.sub(left, 1)  # it stands for those that are not there
                own = [f.mul(f.min(lane, last), w["w_lane"]) for lane in range(self.lanes)]
                at = f.at(source, f.mul(o, w["w_lane"]))
                to = f.at(target, f.mul(f.sub(o, first), 4))
                full = f.op("and", beside, f.icmp("sge", f.int(left), self.lanes))
                whole = f.select(full, f.int(f.mul(f.div(count, self.lanes), self.lanes)), f.int(0))
                at, to = f.loop(0, whole, lambda _, at, to: channels(at, to, own), [at, to], step=self.lanes)
                f.loop(whole, count, lambda _, at, to: channel(at, to, own), [at, to])

            f.loop(first, stop, columns, step=self.lanes)

        def channels(at: Val, to: Val, own: Sequence[Any]) -> list[Val]:
            """As many input channels as a vector has lanes, whose taps are neighbours in memory."""

            def square(s: Any) -> None:
                start = f.at(at, f.mul(s, vector_bytes))
                rows = [load(f, f.at(start, place), float32, self.lanes, 1) for place in own]
                for i, v in enumerate(transposed(f, rows)):
                    f.store(v, f.at(staged, f.add(f.mul(s, self.lanes * vector_bytes), i * vector_bytes)), 4)

            def one(i: Any) -> None:
                begin = f.at(staged, f.mul(i, 9 * vector_bytes))
                taps = [load(f, f.at(begin, t * vector_bytes), float32, self.lanes, 1) for t in range(9)]
                put(f.at(to, f.mul(i, step)), taps)

            f.loop(0, 9, square)
            f.loop(0, self.lanes, one)
            return [f.at(at, 36 * self.lanes), f.at(to, f.mul(step, self.lanes))]

        def channel(at: Val, to: Val, own: Sequence[Any]) -> list[Val]:
            taps: list[Val] = []
            for t in range(0, 9, self.lanes):
                count = min(self.lanes, 9 - t)
                rows = [load(f, f.at(f.at(at, place), 4 * t), float32, self.lanes, 1, count) for place in own]
                taps += transposed(f, rows)[:count]
            put(to, taps)
            return [f.at(at, w["w_inner"]), f.at(to, step)]

        def put(to: Val, taps: Sequence[Val]) -> None:
            for place, value in zip(places, weight_transform(f, taps), strict=True):
                store(f, value, f.at(to, place), float32, self.lanes)

        f.loop(f.args[1], f.args[2], item)
        f.ret()
        f.finish()

    # --- the product ------------------------------------------------------------------------------

    def _emit_filter(self, module: Module) -> None:
        f = kernel_function(module, "filter")
        w = table(f, FILTER, FILTER_AT)
        scratch = scratch_of(f)
        products = f.at(scratch, f.mul(w["input_step"], 16))
        step = f.int(f.mul(w["width"], 4))
        words = f.alloca(8 * Word.COUNT)
        known: dict[int, Number] = {
            Word.K: w["inner"], Word.AM: w["row"], Word.AK: 4, Word.A_ROW: w["row"], Word.A_TILE: 0, Word.BK: step,
            Word.B_PANEL: 0, Word.CM: step, Word.GOES_ON: 0,
        }  # fmt: skip
        fill(f, words, known)
        walk = _Walk(self, f, w, products, step)

        def item(number: Any) -> None:
            split, rest = f.rem(number, w["splits"]), f.div(number, w["splits"])
            part, block = f.rem(rest, w["parts"]), f.div(rest, w["parts"])
            first = f.mul(block, w["block_lines"])
            last = f.min(f.add(first, w["block_lines"]), w["lines"])
            start = f.mul(part, w["block_tiles"])
            tiles = f.int(f.min(w["block_tiles"], f.sub(w["across"], start)))
            count = f.int(f.mul(f.sub(last, first), tiles))
            stage = f.at(products, f.mul(w["output_step"], 16))
            walk.block(first, last, start, tiles, stage)
            walk.transform(scratch)
            number_of_tiles = fill_rows(f, words, count, self.most)

            def panel(p: Any) -> None:
                left = f.sub(w["outputs"], f.mul(p, w["width"]))
                columns = f.select(f.icmp("sgt", left, self.lanes), w["width"], f.int(self.least_width))
                b = f.at(w["at_panels"], f.mul(p, w["panel"]))

                def element(e: Any, a: Val, b: Val, c: Val) -> list[Val]:
                    call_tiles(f, w["at_tiles"], words, a, b, c, 0, number_of_tiles, columns)
                    return [f.at(a, w["input_step"]), f.at(b, w["element"]), f.at(c, w["output_step"])]

                f.loop(0, 16, element, [scratch, b, products])
                walk.finish(p, left)

            begin = f.div(f.mul(split, w["panels"]), w["splits"])
            f.loop(begin, f.div(f.mul(f.add(split, 1), w["panels"]), w["splits"]), panel)

        f.loop(f.args[1], f.args[2], item)
        f.ret()
        f.finish()


class _Walk:
    """The transforms of the tiles of a block, and its place in images."""

    def __init__(self, kernels: FilterKernels, f: Function, w: Mapping[str, Val], products: Val, step: Val):
        self.f, self.w, self.lanes, self.products, self.step = f, w, kernels.lanes, products, step
        self.square = square_of(f.module, self.lanes)

    def block(self, first: Any, last: Any, start: Any, tiles: Val, stage: Val) -> None:
        """The block is rows first..last-1, and in each `tiles` tiles from `start` on."""
        self.first, self.last, self.start, self.tiles, self.stage = first, last, start, tiles, stage

    def transform(self, scratch: Val) -> None:
        """All elements of the tiles, of all channels."""
        f, w = self.f, self.w
        double = f.mul(w["pixel"], 2)

        def line(r: Any, to: Val) -> list[Val]:
            n, i = f.div(r, w["down"]), f.rem(r, w["down"])
            place = f.add(f.mul(n, w["image_step"]), f.mul(i, f.mul(w["line_step"], 2)))
            at = f.at(f.at(w["at_padded"], place), f.mul(self.start, double))
            return f.loop(0, self.tiles, tile, [at, to])[1:]

        def tile(_: Any, at: Val, to: Val) -> list[Val]:
            rows = [f.at(at, f.mul(w["line_step"], i)) for i in range(4)]
            outs = [f.at(to, f.mul(w["input_step"], 4 * i)) for i in range(4)]
            f.loop(0, w["pixel"], lambda _, *places: channel(places), [*rows, *outs], step=self.lanes * 4)
            return [f.at(at, double), f.at(to, w["row"])]

        def channel(places: Sequence[Val]) -> list[Val]:
            rows, outs = places[:4], places[4:]
            x = [
                [load(f, f.at(row, f.mul(w["pixel"], j)), float32, self.lanes, 1) for j in range(4)] for row in rows
            ]
            for e, value in enumerate(input_transform(f, x)):
                store(f, value, f.at(outs[e // 4], f.mul(w["input_step"], e % 4)), float32, self.lanes)
            return [f.at(place, self.lanes * 4) for place in places]

        f.loop(self.first, self.last, line, [scratch])

    def finish(self, p: Any, left: Any) -> None:
        """The pixels of all tiles for panel `p`, in which there are `left` channels."""
        f, w = self.f, self.w
        channel = f.mul(f.mul(p, w["width"]), w["out_channel"])
        column = f.mul(self.start, 2)
        wide = f.int(f.min(f.mul(self.tiles, 2), f.sub(w["out_width"], column)))  # pixels in a row of the block
        whole = f.icmp("eq", self.tiles, w["across"])

        def line(r: Any, source: Val) -> list[Val]:
            n, i = f.div(r, w["down"]), f.rem(r, w["down"])
            below = self._stage(source, wide)
            y = f.mul(i, 2)
            rows = f.int(f.min(f.sub(w["out_height"], y), 2))
            place = f.add(f.mul(f.add(f.mul(y, w["out_width"]), column), 4), f.mul(n, w["out_image"]))
            out = f.at(f.at(w["at_out"], place), channel)
            # rows that lie one behind the other in the result are one
            count, length = f.select(whole, f.int(1), rows), f.select(whole, f.int(f.mul(rows, wide)), wide)

            def row(k: Any) -> None:
                at = f.at(self.stage, f.mul(f.mul(k, wide), self.step))
                self._turn(at, f.at(out, f.mul(f.mul(k, w["out_width"]), 4)), length, left)

            f.loop(0, count, row)
            return [below]

        f.loop(self.first, self.last, line, [self.products])

    def _stage(self, source: Val, wide: Val) -> Val:
        """Transform a row of tiles to rows of pixels with channels last; returns where the next tiles begin."""
        f, w, step = self.f, self.w, self.step
        pitch = f.int(f.mul(wide, step))
        nowhere = f.at(self.stage, f.mul(f.mul(self.tiles, 4), step))
        vectors = f.div(w["width"], self.lanes)

        def tile(j: Any, source: Val, to: Val) -> list[Val]:
            other = f.add(f.mul(j, 2), 1)
            there = f.icmp("slt", other, wide)
            starts = [to, f.select(there, f.at(to, step), nowhere), f.at(to, pitch)]
            starts.append(f.select(there, f.at(f.at(to, pitch), step), nowhere))
            parts = [f.at(source, f.mul(w["output_step"], 4 * i)) for i in range(4)]
            f.loop(0, vectors, lambda _, *places: part(places), [*parts, *starts])
            return [f.at(source, step), f.at(to, f.mul(step, 2))]

        def part(places: Sequence[Val]) -> list[Val]:
            ty = vector("float", self.lanes)
            m = [f.load(ty, f.at(at, f.mul(w["output_step"], j)), 4) for at in places[:4] for j in range(4)]
            for to, value in zip(places[4:], output_transform(f, m), strict=True):
                store(f, value, to, float32, self.lanes)
            return [f.at(place, self.lanes * 4) for place in places]

        return f.loop(0, self.tiles, tile, [source, self.stage])[0]

    def _turn(self, at: Val, out: Val, length: Val, left: Any) -> None:
        """Copy pixels with channels last to rows of channels."""
        f, w = self.f, self.w
        channels = f.min(left, w["width"])

        def pixels(q: Any, at: Val, out: Val) -> list[Val]:
            count = f.int(f.sub(length, q))

            def some(c: Any, at: Val, out: Val) -> list[Val]:
                f.call(self.square, [at, self.step, count, out, w["out_channel"], f.int(f.sub(channels, c))])
                return [f.at(at, self.lanes * 4), f.at(out, f.mul(w["out_channel"], self.lanes))]

            f.loop(0, channels, some, [at, out], step=self.lanes)
            return [f.at(at, f.mul(self.step, self.lanes)), f.at(out, self.lanes * 4)]

        f.loop(0, length, pixels, [at, out], step=self.lanes)


# --- what the weight gradient needs, too ----------------------------------------------------------


def table(f: Function, names: Sequence[str], start: int) -> dict[str, Val]:
    """The words of a table by their names."""
    return {
        name: f.load("ptr" if name.startswith("at_") else "i64", f.at(f.args[0], 8 * (start + i)), 8)
        for i, name in enumerate(names)
    }


def fill(f: Function, words: Val, known: Mapping[int, Number]) -> None:
    """Set words of a table."""
    for word, value in known.items():
        f.store(f.int(value), f.at(words, 8 * word), 8)


def fill_rows(f: Function, words: Val, count: Val, most: int) -> Number:
    """Describe this many rows as row tiles of a product; returns how many tiles they are."""
    tiles = f.div(f.add(count, most - 1), most)
    fill(f, words, {Word.ROWS: f.div(count, tiles), Word.EXTRA: f.rem(count, tiles)})
    return tiles


def emit_lay(module: Module, name: str, start: int, lanes: int) -> None:
    """Write a function that copies images as Note [Phases of a filtering] says; its words begin with `start`."""
    f = kernel_function(module, name)
    w, square = table(f, LAY, start), square_of(module, lanes)
    behind = f.add(w["left"], w["count"])

    def line(number: Any) -> None:
        n, i = f.div(number, w["rows"]), f.rem(number, w["rows"])
        y = f.add(i, w["first_row"])
        target = f.at(w["at_target"], f.mul(f.mul(number, w["cols"]), w["pixel"]))
        inside = f.icmp("ult", f.int(y), w["height"])

        def copy() -> None:
            zero(target, w["left"])
            zero(f.at(target, f.mul(behind, w["pixel"])), f.sub(w["cols"], behind))
            source = f.at(w["at_source"], f.add(f.mul(n, w["image"]), f.mul(y, w["line"])))
            f.loop(0, w["count"], columns, [source, f.at(target, f.mul(w["left"], w["pixel"]))], step=lanes)

        f.when(inside, copy)
        outside = f.op("xor", inside, Val("true", "i1"))
        f.when(outside, lambda: zero(target, w["cols"]))

    def zero(target: Val, pixels: Number) -> None:
        v = f.const(0, vector("float", lanes))
        f.loop(0, f.mul(pixels, w["pixel"]), lambda i: f.store(v, f.at(target, i), 4), step=lanes * 4)

    def columns(x: Any, source: Val, target: Val) -> list[Val]:
        count = f.int(f.sub(w["count"], x))

        def some(c: Any, at: Val, to: Val) -> list[Val]:
            f.call(square, [at, w["channel"], f.int(f.sub(w["channels"], c)), to, w["pixel"], count])
            return [f.at(at, f.mul(w["channel"], lanes)), f.at(to, lanes * 4)]

        f.loop(0, w["channels"], some, [source, target], step=lanes)
        return [f.at(source, lanes * 4), f.at(target, f.mul(w["pixel"], lanes))]

    stop = f.min(f.mul(f.args[2], w["per_chunk"]), w["items"])
    f.loop(f.mul(f.args[1], w["per_chunk"]), stop, line)
    f.ret()
    f.finish()


def emit_serial(module: Module) -> None:
    """Write the entry "serial", `f(a, b, result, plan)`: runs kernels one after the other on this thread.

    The plan is an array of words: for each of the arrays where its address is to be put, and what is added to it;
    the number of kernels, and for each its address, its table and its number of chunks.
    """
    f, _, (*arrays, plan) = _open.entry(module, "serial", 4)
    words = _open.data(f, plan)
    for i, array in enumerate(arrays):
        place, shift = f.load("ptr", f.at(words, 16 * i), 8), f.load("i64", f.at(words, 16 * i + 8), 8)
        f.store(f.at(_open.data(f, array), shift), place, 8)

    def run(i: Number) -> None:
        at = f.at(words, f.add(f.mul(i, 24), 56))
        code, table, chunks = (f.load(ty, f.at(at, 8 * k), 8) for k, ty in enumerate(("ptr", "ptr", "i64")))
        f.emit(f"call void {code.ref}({table}, i64 0, {chunks}, i64 0)")

    f.loop(0, f.load("i64", f.at(words, 48), 8), run)
    _open.leave(f, arrays[2])


def square_of(module: Module, lanes: int) -> str:
    """A shared function that turns a square, of which not all lines or columns need be there.

    `(source, bytes from line to line, lines, target, bytes from column to column, columns)`: neighbours in a line
    of the source get to neighbouring columns of the target, in which lines are neighbours.
    """
    name = "turned_square"
    if name in module.functions:
        return name
    signature = [
        ("ptr", "source"), ("i64", "step"), ("i64", "lines"), ("ptr", "target"), ("i64", "out"), ("i64", "columns"),
    ]  # fmt: skip
    f = Function(module, name, signature, attributes="nounwind noinline", private=True)
    source, step, lines, target, out, columns = f.args

    def places(base: Val, stride: Val) -> list[Val]:
        threes = [f.at(base, f.mul(stride, i)) for i in range(0, lanes, 3)]
        return [f.at(threes[i // 3], (0, stride, f.mul(stride, 2))[i % 3]) for i in range(lanes)]

    def whole() -> None:
        rows = [load(f, at, float32, lanes, 1) for at in places(source, step)]
        for v, to in zip(transposed(f, rows), places(target, out), strict=True):
            store(f, v, to, float32, lanes)

    def part() -> None:
        read, written = first_lanes(f, columns, lanes), first_lanes(f, lines, lanes)
        last = f.sub(lines, 1)  # it stands for those that are not there
        rows = [load(f, f.at(source, f.mul(f.min(r, last), step)), float32, lanes, 1, read) for r in range(lanes)]
        for r, v in enumerate(transposed(f, rows)):
            f.when(f.icmp("sgt", columns, r), functools.partial(put, r, v, written))

    def put(r: int, v: Val, written: Val) -> None:
        store(f, v, f.at(target, f.mul(out, r)), float32, lanes, written)

    full = f.op("and", f.icmp("sge", lines, lanes), f.icmp("sge", columns, lanes))
    f.when(full, whole)
    f.when(f.op("xor", full, Val("true", "i1")), part)
    f.ret()
    f.finish()
    return name
