"""Weight gradients by Winograd's algorithm whose sizes are known when they run; see winogradgrad.py for the bits.

Note [Phases of a weight gradient]
"lay" and "lay_other" copy the images and the gradients of the results to channels last, as in filtering.py, with
zeros where tiles stand out. In "gather" a chunk is a group of tiles, some panels of outputs, and all elements of
the transformed tiles or a row of them: blocks of tiles are transformed into scratch memory, and the tiles of the
open product add them to partial results [group][element][panel][in][width]. "combine" adds the groups and
transforms. Tiles and groups have their numbers among all, also where a part of the images is laid at a time.
"""

from __future__ import annotations

import functools
from collections.abc import Sequence

from ....ir.dtypes import float32
from ..emit import Function, Module, Number, Val, vector
from .access import load, store
from .filtering import LAY, LAY_AT, PanelKernels, emit_lay, fill, fill_rows, table
from .packing import transposed
from .product import Word, call_tiles
from .tile import kernel_function, scratch_of
from .winograd import input_transform
from .winogradgrad import (
    factors_of,
    gradient_transform,
    input_row,
    lines_of,
    output_gradient,
    output_gradient_row,
    sign_of,
)

GATHER = (
    "at_tiles", "at_seen", "at_given", "at_partials", "at_out",
    "inputs", "outputs", "width", "panels", "inner_blocks",  # channels; `width` of a panel
    "pieces", "splits", "first_group", "partials",
    "per", "tiles", "block",  # tiles of a group, of all, and of a block
    "across", "down",  # tiles in a row, and rows of them
    "seen_image", "seen_line", "seen_pixel", "given_image", "given_line", "given_pixel",
    "row", "input_step", "panel_step", "output_step",  # in scratch memory
    "element", "partial",  # in partial results, of which there is one for each group
)  # fmt: skip
LAY_OTHER_AT = LAY_AT + len(LAY)
GATHER_AT = LAY_OTHER_AT + len(LAY)
INNER_BLOCK = 16  # input channels of a chunk of "combine"


class GatherKernels(PanelKernels):
    """The functions of weight gradients."""

    def emit(self, module: Module) -> None:
        """Write "lay", "lay_other", "gather" and "combine"."""
        emit_lay(module, "lay", LAY_AT, self.lanes)
        emit_lay(module, "lay_other", LAY_OTHER_AT, self.lanes)
        self._emit_gather(module)
        self._emit_combine(module)

    # --- the partial results ------------------------------------------------------------------------

    def _emit_gather(self, module: Module) -> None:
        f = kernel_function(module, "gather")
        w = table(f, GATHER, GATHER_AT)
        scratch, step = scratch_of(f), f.int(f.mul(w["width"], 4))
        elements = f.int(f.div(16, w["pieces"]))
        given = f.at(scratch, f.mul(elements, w["input_step"]))
        words = f.alloca(8 * Word.COUNT)
        known: dict[int, Number] = {
            Word.AM: 4, Word.AK: w["row"], Word.A_ROW: 4, Word.A_TILE: 0, Word.BK: step, Word.B_PANEL: 0,
            Word.CM: step,
        }  # fmt: skip
        fill(f, words, known)
        row_tiles = fill_rows(f, words, w["inputs"], self.most)
        whole = f.icmp("eq", w["pieces"], 1)
        transforms = _Transforms(f, w, self.lanes)

        def item(number: Number) -> None:
            i, rest = f.rem(number, w["pieces"]), f.div(number, w["pieces"])
            split, part = f.rem(rest, w["splits"]), f.add(w["first_group"], f.div(rest, w["splits"]))
            begin = f.mul(part, w["per"])
            end = f.min(f.add(begin, w["per"]), w["tiles"])
            start = f.div(f.mul(split, w["panels"]), w["splits"])
            stop = f.div(f.mul(f.add(split, 1), w["panels"]), w["splits"])
            place = f.add(f.mul(part, w["partial"]), f.mul(f.mul(i, elements), w["element"]))
            out = f.at(w["at_partials"], place)

            def block(first: Number) -> None:
                count = f.int(f.min(w["block"], f.sub(end, first)))
                fresh = f.icmp("eq", f.int(first), f.int(begin))
                fill(f, words, {Word.K: count, Word.GOES_ON: f.select(fresh, f.int(0), f.int(1))})
                f.when(whole, lambda: transforms.run(None, first, count, scratch, given, start, stop))
                parts = f.op("xor", whole, Val("true", "i1"))
                f.when(parts, lambda: transforms.run(i, first, count, scratch, given, start, stop))
                f.loop(0, elements, element, [scratch, given, f.at(out, f.mul(start, panel_size))])

            def element(_: Number, a: Val, b: Val, c: Val) -> list[Val]:
                def panel(p: Number, b: Val, c: Val) -> list[Val]:
                    left = f.sub(w["outputs"], f.mul(p, w["width"]))
                    columns = f.select(f.icmp("sgt", left, self.lanes), w["width"], f.int(self.least_width))
                    call_tiles(f, w["at_tiles"], words, a, b, c, 0, row_tiles, columns)
                    return [f.at(b, w["panel_step"]), f.at(c, panel_size)]

                f.loop(start, stop, panel, [b, c])
                return [f.at(a, w["input_step"]), f.at(b, w["output_step"]), f.at(c, w["element"])]

            f.loop(begin, end, block, step=w["block"])

        panel_size = f.mul(w["inputs"], step)
        f.loop(f.args[1], f.args[2], item)
        f.ret()
        f.finish()

    # --- the sum of the partial results -------------------------------------------------------------

    def _emit_combine(self, module: Module) -> None:
        """The kernel "combine": chunks are some input channels of a panel."""
        f, lanes = kernel_function(module, "combine"), self.lanes
        w = table(f, GATHER, GATHER_AT)
        ty, step = vector("float", lanes), f.mul(w["width"], 4)
        line = f.mul(w["inputs"], 36)  # bytes from output to output of the result

        def item(number: Number) -> None:
            p, part = f.div(number, w["inner_blocks"]), f.rem(number, w["inner_blocks"])
            first = f.mul(part, INNER_BLOCK)
            count = f.min(f.sub(w["inputs"], first), INNER_BLOCK)
            start = f.mul(p, w["width"])
            stop = f.min(f.add(start, w["width"]), w["outputs"])
            source = f.at(w["at_partials"], f.mul(f.add(f.mul(p, w["inputs"]), first), step))
            target = f.at(w["at_out"], f.add(f.mul(start, line), f.mul(first, 36)))

            def columns(o: Number, at: Val, to: Val) -> list[Val]:
                left = f.int(f.sub(stop, o))
                f.loop(0, count, lambda _, at, to: channel(at, to, left), [at, to])
                return [f.at(at, lanes * 4), f.at(to, f.mul(line, lanes))]

            f.loop(start, stop, columns, [source, target], step=lanes)

        def channel(at: Val, to: Val, left: Val) -> list[Val]:
            places = [f.mul(w["element"], e) for e in range(16)]

            def add(_: Number, at: Val, *totals: Val) -> list[Val]:
                parts = [f.load(ty, f.at(at, place), 4) for place in places]
                sums = [f.op("fadd", total, v) for total, v in zip(totals, parts, strict=True)]
                return [f.at(at, w["partial"]), *sums]

            begin = [f.load(ty, f.at(at, place), 4) for place in places]
            m = f.loop(1, w["partials"], add, [f.at(at, w["partial"]), *begin])[1:]
            taps = gradient_transform(f, m)
            for t in range(0, 9, lanes):
                some = taps[t : t + lanes]
                square = transposed(f, some + [f.const(0, ty)] * (lanes - len(some)))
                for lane, v in enumerate(square):
                    place = f.at(f.at(to, f.mul(line, lane)), 4 * t)
                    put = functools.partial(store, f, v, place, float32, lanes, len(some))
                    f.when(f.icmp("sgt", left, lane), put)
            return [f.at(at, step), f.at(to, 36)]

        f.loop(f.args[1], f.args[2], item)
        f.ret()
        f.finish()


class _Transforms:
    """The transforms of tiles: all elements, or row `i` of them."""

    def __init__(self, f: Function, w: dict[str, Val], lanes: int):
        self.f, self.w, self.lanes, self.ty = f, w, lanes, vector("float", lanes)

    def run(
        self, i: Number | None, first: Number, count: Val, seen: Val, given: Val, start: Number, stop: Number
    ) -> None:
        """Tiles from `first` on, and of the gradient panels start..stop-1."""
        f, w = self.f, self.w
        self.lines = [0, 1, 2, 3] if i is None else lines_of(f, i)
        self.sign = None if i is None else sign_of(f, i, self.ty)
        self.factors = None if i is None else factors_of(f, i, self.ty)

        line, x = f.div(first, w["across"]), f.rem(first, w["across"])
        n, y = f.div(line, w["down"]), f.rem(line, w["down"])
        starts, steps = [], []
        for name in ("seen", "given"):
            image, row, pixel = w[f"{name}_image"], f.mul(w[f"{name}_line"], 2), f.mul(w[f"{name}_pixel"], 2)
            place = f.add(f.mul(n, image), f.add(f.mul(y, row), f.mul(x, pixel)))
            starts.append(f.at(w[f"at_{name}"], place))
            # to the next tile, the first one of the next row, and of the next image
            below = f.int(f.sub(row, f.mul(f.sub(w["across"], 1), pixel)))
            steps.append((f.int(pixel), below, f.int(f.add(below, f.sub(image, f.mul(w["down"], row))))))

        def tile(_: Number, a: Val, b: Val, x: Val, y: Val, *places: Val) -> list[Val]:
            self._see(places[0], a)
            self._give(places[1], b, start, stop)
            after, under = f.int(f.add(x, 1)), f.int(f.add(y, 1))
            ends_row, ends_image = f.icmp("eq", after, w["across"]), f.icmp("eq", under, w["down"])
            under = f.select(ends_image, f.int(0), under)
            moved = [
                f.at(place, f.select(ends_row, f.select(ends_image, far, below), step))
                for place, (step, below, far) in zip(places, steps, strict=True)
            ]
            x, y = f.select(ends_row, f.int(0), after), f.select(ends_row, under, y)
            return [f.at(a, w["row"]), f.at(b, f.mul(w["width"], 4)), x, y, *moved]

        f.loop(0, count, tile, [seen, given, f.int(x), f.int(y), *starts])

    def _see(self, at: Val, to: Val) -> None:
        f, w = self.f, self.w
        rows = [f.at(at, f.mul(w["seen_line"], i)) for i in self.lines]
        outs = [f.at(to, f.mul(w["input_step"], 4 * i)) for i in range(1 if self.sign else 4)]

        def channel(_: Number, *places: Val) -> list[Val]:
            x = [self._pixels(row, w["seen_pixel"], 4) for row in places[: len(rows)]]
            values = input_transform(f, x) if self.sign is None else input_row(f, x, self.sign)
            self._store(values, places[len(rows) :], w["input_step"])
            return [f.at(place, self.lanes * 4) for place in places]

        f.loop(0, w["seen_pixel"], channel, [*rows, *outs], step=self.lanes * 4)

    def _give(self, at: Val, to: Val, start: Number, stop: Number) -> None:
        f, w = self.f, self.w
        step = f.mul(w["width"], 4)
        at = f.at(at, f.mul(start, step))
        rows = [at, f.at(at, w["given_line"])]
        outs = [f.at(to, f.mul(w["output_step"], 4 * i)) for i in range(1 if self.factors else 4)]

        def panel(p: Number, *places: Val) -> list[Val]:
            left = f.sub(w["given_pixel"], f.mul(p, step))  # bytes of channels that there are
            f.loop(0, f.min(left, step), part, places, step=self.lanes * 4)
            read = [f.at(place, step) for place in places[:2]]
            return [*read, *[f.at(place, w["panel_step"]) for place in places[2:]]]

        def part(_: Number, *places: Val) -> list[Val]:
            g = [self._pixels(row, w["given_pixel"], 2) for row in places[:2]]
            values = output_gradient(f, g) if self.factors is None else output_gradient_row(f, g, self.factors)
            self._store(values, places[2:], w["output_step"])
            return [f.at(place, self.lanes * 4) for place in places]

        f.loop(start, stop, panel, [*rows, *outs])

    def _pixels(self, row: Val, pixel: Val, count: int) -> list[Val]:
        f = self.f
        return [load(f, f.at(row, f.mul(pixel, j)), float32, self.lanes, 1) for j in range(count)]

    def _store(self, values: Sequence[Val], outs: Sequence[Val], step: Val) -> None:
        """Elements, four of them from each address on."""
        f = self.f
        for e, value in enumerate(values):
            store(f, value, f.at(outs[e // 4], f.mul(step, e % 4)), float32, self.lanes)
