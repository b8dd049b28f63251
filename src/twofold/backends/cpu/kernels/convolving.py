"""The open convolution: channels first, with sizes that are arguments; also the gradient of the input.

An image's result is a matrix product: output channels by pixels are weights (channels by K) times patches (K by
pixels), where K runs over the taps of a sweep (see Note [Sweeps] in conv.py) and under each tap over the input
channels. So every element is the chain of fused multiply-adds that the compiled kernels (conv.py, convsmall.py,
convgeneral.py) compute, and the tiles are those of the open product (product.py), called by their address.
Patches are packed for some panels of pixels at a time, in scratch memory, and in blocks of k where these are deep.
What is read and written is said in patching.py; results of few channels are computed by fewchannels.py.
"""

from __future__ import annotations

import functools
import itertools
from collections.abc import Sequence
from typing import Any

from .. import open as _open
from ..emit import Function, Module, Number, Val
from .fewchannels import FEW, FewKernels
from .packing import first_lanes, load_masked, transposed
from .patching import COUNT, DIRECT, OUT, TRUE, WORDS, cases, pointer, set_word, share, words_of
from .product import Word, call_tiles
from .tile import kernel_function, scratch_of


class ConvolutionKernels(FewKernels):
    """The functions for convolutions of one dtype."""

    def emit(self, module: Module) -> None:
        """Write the kernels "weights" and "convolve", and "few", and the entry "conv"."""
        self.emit_pixels(module)
        self._emit_weights(module)
        self._emit_convolve(module)
        self.emit_few(module)
        if _open.HAS_ENTRIES:
            self._emit_entry(module)

    def _emit_entry(self, module: Module) -> None:
        """An entry (x, w, result, words from word 2 on), loaded with memory for packed weights and scratch."""
        f, own, (x, w, y, given) = _open.entry(module, "conv", 4)
        words, source, packed = f.alloca(8 * (len(WORDS) + 2)), _open.data(f, given), _open.data(f, own)
        for place in range(len(WORDS)):
            f.store(f.load("i64", f.at(source, 8 * place), 8), f.at(words, 8 * place + 16), 8)
        start = _open.data(f, x)
        nbytes = words_of(f, words)["x_end"]
        for name, at in (("x", start), ("x_end", f.at(start, nbytes)), ("w", _open.data(f, w)), ("packed", packed)):
            f.store(at, f.at(words, 8 * WORDS.index(name) + 16), 8)
        f.store(_open.data(f, y), f.at(words, 8 * WORDS.index("y") + 16), 8)
        left = words_of(f, words)
        f.store(f.at(packed, left["packed_bytes"]), words, 8)
        f.store(f.int(0), f.at(words, 8), 8)
        for name, count, condition in (
            ("weights", left["packs"], f.icmp("sgt", left["packs"], 0)),
            ("convolve", left["chunks"], f.icmp("sgt", left["outputs"], FEW)),
            ("few", left["chunks"], f.icmp("sle", left["outputs"], FEW)),
        ):
            symbol = module.kernels[name][0]
            f.when(condition, functools.partial(f.call, symbol, [words, f.int(0), count, f.int(0)]))
        _open.leave(f, y)

    # --- weights --------------------------------------------------------------------------------

    def _emit_weights(self, module: Module) -> None:
        """The kernel "weights", which packs row tiles for all sweeps; its chunks are some tiles of a group."""
        f = kernel_function(module, "weights")
        w = words_of(f, f.args[0])
        room = f.alloca(self.lanes * self.step)
        starts = f.alloca(2 * self.slots * 8)  # of the lines of a tile, by whether it has one more
        for more, r in itertools.product((0, 1), range(self.slots)):
            line = f.min(r, f.sub(f.add(w["rows"], more), 1))  # the last one again for those that don't exist
            f.store(f.int(f.mul(line, w["w_line"])), f.at(starts, 8 * (more * self.slots + r)), 8)

        def one(i: Any) -> None:
            blocks = f.div(f.sub(f.add(w["tiles"], w["together"]), 1), w["together"])
            group, first = f.div(i, blocks), f.mul(f.rem(i, blocks), w["together"])
            source = f.at(pointer(f, w["w"]), f.mul(group, w["w_group"]))

            def repeat(r: Any) -> None:
                to = f.at(pointer(f, w["packed"]), f.mul(r, self.tile_step))
                at = f.at(source, f.mul(r, w["w_repeat"]))

                def tile(t: Any) -> None:
                    more = f.convert("zext", f.icmp("slt", t, w["extra"]), "i64")
                    row = self._first_row(f, w, t)
                    lines = f.at(starts, f.mul(more, 8 * self.slots))
                    here, number = f.at(at, f.mul(row, w["w_line"])), f.add(f.mul(group, w["tiles"]), t)
                    for v in range(self.slots // self.lanes):
                        self._turn(
                            f, w, here, f.at(to, v * self.step), lines, f.add(w["rows"], more), number, v, room
                        )

                f.loop(first, f.min(f.add(first, w["together"]), w["tiles"]), tile)

            f.loop(0, w["repeats"], repeat)

        f.loop(f.args[1], f.args[2], one)
        f.ret()
        f.finish()

    def _turn(
        self,
        f: Function,
        w: dict[str, Val],
        at: Val,
        to: Val,
        lines: Val,
        height: Any,
        tile: Any,
        v: int,
        room: Val,
    ) -> None:
        """Pack a vector of lines: the elements of each, which are neighbours, go to their places along K."""
        lanes, first = self.lanes, v * self.lanes

        def put(v: Val, column: Any) -> None:
            """A column goes to its place; a tap that no pixel sees has none."""
            entry = f.at(pointer(f, w["places"]), f.mul(column, 16))
            place, step = f.load("i64", entry, 8), f.load("i64", f.at(entry, 8), 8)
            here = f.at(to, f.add(place, f.mul(tile, step)))
            f.when(f.icmp("sge", place, 0), lambda: f.store(v, here, self.size))

        def square(j: Any) -> None:
            exist = f.int(f.min(f.sub(w["columns"], j), lanes))
            here = f.at(at, f.mul(j, self.size))
            mask = first_lanes(f, exist, lanes)
            starts = [f.load("i64", f.at(lines, 8 * (first + r)), 8) for r in range(lanes)]
            rows = transposed(f, [load_masked(f, f.at(here, s), self.dtype, lanes, mask) for s in starts])
            for r, part in enumerate(rows):
                f.store(part, f.at(room, r * self.step), self.size)
            f.loop(
                0, exist, lambda r: put(f.load(self.ty, f.at(room, f.mul(r, self.step)), self.size), f.add(j, r))
            )

        def beside() -> None:
            """Lines of one element, which are neighbours."""
            mask = first_lanes(f, f.sub(height, first), lanes)
            put(load_masked(f, f.at(at, v * self.step), self.dtype, lanes, mask), 0)

        is_one = f.op("and", f.icmp("eq", w["columns"], 1), f.icmp("eq", w["w_line"], self.size))
        cases(f, [(is_one, beside), (TRUE, lambda: f.loop(0, w["columns"], square, step=lanes))])

    # --- the product --------------------------------------------------------------------------------

    def _emit_convolve(self, module: Module) -> None:
        """The kernel "convolve": chunks are some panels of an image, or of all, for a group or some of its rows."""
        f = kernel_function(module, "convolve")
        words, first, last, _ = f.args
        w = words_of(f, words)
        scratch = scratch_of(f)
        own = self._product_words(f, w)

        def one(i: Any) -> None:
            split, i = f.rem(i, w["row_splits"]), f.div(i, w["row_splits"])
            part, i = f.rem(i, w["parts"]), f.div(i, w["parts"])
            group, image = f.rem(i, w["groups"]), f.div(i, w["groups"])
            first_tile, last_tile = share(f, w["tiles"], split, w["row_splits"])
            x = f.at(pointer(f, w["x"]), f.add(f.mul(image, w["x_image"]), f.mul(group, w["x_group"])))
            y = f.at(pointer(f, w["y"]), f.add(f.mul(image, w["y_image"]), f.mul(group, w["y_group"])))

            def sweep(s: dict[str, Val], _: Val) -> None:
                s["panel_bytes"] = f.int(f.mul(s["depth"], self.panel_step))
                set_word(f, own, Word.B_PANEL, s["panel_bytes"])
                begin, end = share(f, f.int(f.div(f.add(s["num_vectors"], 1), 2)), part, w["parts"])
                tile = f.mul(s["k"], self.tile_step)
                a = f.at(pointer(f, w["packed"]), f.add(s["packed_at"], f.mul(f.mul(group, w["tiles"]), tile)))
                room = f.at(scratch, f.mul(f.sub(end, begin), s["panel_bytes"]))  # of results
                set_word(f, own, Word.A_TILE, tile)

                def block(k: Any) -> None:
                    depth = f.min(s["depth"], f.sub(s["k"], k))
                    set_word(f, own, Word.K, depth)
                    set_word(f, own, Word.GOES_ON, f.convert("zext", f.icmp("sgt", f.int(k), 0), "i64"))
                    self._pack(f, words, w, s, x, scratch, begin, end, k, f.add(k, depth))
                    above = f.at(a, f.mul(k, self.tile_step))

                    def tiles(t: Any) -> None:
                        stop = f.int(f.min(f.add(t, s["block"]), last_tile))
                        self._multiply(f, w, s, own, above, scratch, room, y, begin, end, t, stop)

                    f.loop(first_tile, last_tile, tiles, step=s["block"])

                f.loop(0, s["k"], block, step=s["depth"])
                rows = [f.int(self._first_row(f, w, t)) for t in (first_tile, last_tile)]
                f.loop(begin, end, lambda p: self._spread(f, words, w, s, room, y, begin, p, rows))

            self.each_sweep(f, w, sweep)

        f.loop(first, last, one)
        f.ret()
        f.finish()

    def _product_words(self, f: Function, w: dict[str, Val]) -> Val:
        """The words of the product's tiles, but for those that change."""
        own = f.alloca(8 * Word.COUNT)
        for word, value in (
            (Word.ROWS, w["rows"]), (Word.EXTRA, w["extra"]), (Word.AM, self.size), (Word.AK, self.tile_step),
            (Word.A_ROW, 0), (Word.BK, self.panel_step),
        ):  # fmt: skip
            set_word(f, own, word, value)
        return own

    def _pack(
        self, f: Function, words: Val, w: Any, s: Any, x: Val, to: Val, begin: Any, end: Any, k: Any, stop: Any
    ) -> None:
        """Patches of panels `begin` to `end`."""
        shifts = pointer(f, s["shifts"])

        def panel(p: Any) -> None:
            at = f.at(to, f.mul(f.sub(p, begin), s["panel_bytes"]))

            def vector(v: Any) -> None:
                (place,) = self.vectors_at(f, s, v, 1)
                target, start = f.at(at, f.mul(f.rem(v, 2), self.step)), f.at(x, place.x)
                ks = [f.int(k), f.int(stop)]
                f.call("patch", [words, start, place.row, place.masks, shifts, *ks, target, f.int(self.panel_step)])

            v = f.mul(p, 2)
            f.loop(v, f.min(f.add(v, 2), s["num_vectors"]), vector)

        f.loop(begin, end, panel)

    @staticmethod
    def _first_row(f: Function, w: Any, t: Number) -> Number:
        return f.add(f.mul(t, w["rows"]), f.min(t, w["extra"]))

    def _multiply(
        self, f: Function, w: Any, s: Any, own: Val, a: Val, b: Val, room: Val, y: Val, begin: Any, end: Any,
        t: Any, stop: Val,
    ) -> None:  # fmt: skip
        """Row tiles from `t` to `stop`, for all panels."""
        row = self._first_row(f, w, t)
        a = f.at(a, f.mul(t, f.mul(s["k"], self.tile_step)))

        def panel(p: Any) -> None:
            (place,) = self.vectors_at(f, s, f.mul(p, 2), 1)
            out, direct, count = [f.load("i64", f.at(place.row, field), 8) for field in (OUT, DIRECT, COUNT)]
            is_direct = f.icmp("sgt", direct, 0)
            cm = f.select(is_direct, w["y_channel"], f.int(self.panel_step))
            set_word(f, own, Word.CM, cm)
            to = f.select(is_direct, f.at(y, f.add(out, place.y)), self._room(f, w, room, f.sub(p, begin)))
            columns = f.select(is_direct, direct, count)
            panel_b = f.at(b, f.mul(f.sub(p, begin), s["panel_bytes"]))
            call_tiles(f, pointer(f, w["tiles_at"]), own, a, panel_b, f.at(to, f.mul(row, cm)), t, stop, columns)

        f.loop(begin, end, panel)

    def _room(self, f: Function, w: Any, room: Val, number: Any) -> Val:
        """Where the results of a panel lie that is not stored by the tiles."""
        return f.at(room, f.mul(number, f.mul(w["outputs"], self.panel_step)))

    def _spread(
        self, f: Function, words: Val, w: Any, s: Any, room: Val, y: Val, begin: Any, p: Any, rows: Sequence[Val]
    ) -> None:
        """Store the results of a panel, the rows from the first to before the last, if they are in memory."""
        first, last = rows
        source, step = self._room(f, w, room, f.sub(p, begin)), f.int(self.panel_step)
        source, to = f.at(source, f.mul(first, step)), f.at(y, f.mul(first, w["y_channel"]))

        def vector(v: Any) -> None:
            at = f.at(source, f.mul(f.rem(v, 2), self.step))
            (place,) = self.vectors_at(f, s, v, 1)
            f.call("put", [words, place.row, at, step, f.at(to, place.y), f.int(f.sub(last, first))])

        v = f.mul(p, 2)
        (place,) = self.vectors_at(f, s, v, 1)
        direct = f.icmp("sgt", f.load("i64", f.at(place.row, DIRECT), 8), 0)
        stop = f.min(f.add(v, 2), s["num_vectors"])
        f.loop(v, f.select(direct, f.int(v), f.int(stop)), vector)
