"""The open convolution: channels first, with sizes that are arguments; also the gradient of the input.

An image's result is a matrix product: output channels by pixels are weights (channels by K) times patches (K by
pixels), where K runs over the taps of a sweep (see Note [Sweeps] in conv.py) and under each tap over the input
channels. So every element is the chain of fused multiply-adds that the compiled kernels (conv.py, convsmall.py,
convgeneral.py) compute, and the tiles are those of the open product (product.py), called by their address.
Patches are packed for some panels of pixels at a time, in scratch memory, and in blocks of k where these are deep.

Note [Tables of pixels]
What depends on geometry alone is worked out beforehand (backends/cpu/convs.py) and kept: for each vector of
neighbouring pixels of the result a row of `ROW` bytes, which says where they read and write, and for each vector
and tap a mask of the pixels whose tap is not in the padding. Pixels are numbered through the lines of an image,
or through all images where these are small. Neighbours read at even distances, but for the ends of lines and
images, so that a vector consists of a few *segments*, each of which is a load and a masked store; what has more
than `SEGMENTS` is gathered. Where neighbours are two elements apart, a segment is two loads and a shuffle; these
read what is between, and beyond, which must be memory of the input: otherwise that vector is gathered.
Results are stored by the tiles where a panel's pixels are neighbours there, too; otherwise they go through scratch
memory.

Note [Few channels]
Results of few channels in a group, as of a depthwise convolution, are not worth packing for. Their sums are in
registers, the pixels are loaded where they are, and the weights one by one. Where a plane that makes one channel
is read in strides, it is first split into planes of the elements that are a stride apart, so that these are
neighbours.
"""

from __future__ import annotations

import functools
import itertools
from collections.abc import Callable, Sequence
from typing import Any

from ....ir.dtypes import DType
from .. import open as _open
from ..emit import Function, Module, Number, Val, vector
from ..target import Target
from .packing import first_lanes, load_masked, store_masked, transposed
from .product import ProductKernels, Word, call_tiles, switch
from .tile import kernel_function, scratch_of

SEGMENTS = 4
FEW = 4  # channels of the result, see Note [Few channels]
VECTORS = 4  # side by side, where they are few
_TRUE = Val("true", "i1")

# A row of a vector: see Note [Tables of pixels]. Bases and shifts are in bytes, places in elements.
BASE, READS, LEAST, MOST, OUT, WRITES, DIRECT, COUNT = range(0, 64, 8)
READ_SEGMENTS, WRITE_SEGMENTS, READ_PLACES, WRITE_PLACES, THERE, ROW = 64, 128, 192, 256, 320, 384
READING = BASE, READS, READ_SEGMENTS, READ_PLACES
WRITING = OUT, WRITES, WRITE_SEGMENTS, WRITE_PLACES

# Words of the convolution's kernels, from word 2 on. Strides are in bytes.
WORDS = (
    "x", "x_end", "w", "y", "packed", "tiles_at", "x_image", "x_group", "x_channel", "y_image", "y_group",
    "y_channel", "w_group", "w_line", "w_repeat", "repeats", "columns", "groups", "channels", "outputs", "tiles",
    "rows", "extra", "x_apart", "y_apart", "sweeps", "num_sweeps", "w_channel", "split_bytes", "split_phase",
    "split_lines", "split_count", "split_length", "split_apart", "packs", "chunks", "packed_bytes", "places",
    "together", "parts", "planes", "images",
)  # fmt: skip

# Words of a sweep. A chunk goes through all sweeps, which write in turns to the same lines of memory.
SWEEP = (
    "k", "shifts", "masks", "vectors", "num_vectors", "taps", "packed_at", "depth", "block", "w_shifts",
)  # fmt: skip


class ConvolutionKernels:
    """The functions for convolutions of one dtype.

    Args:
        dtype: float32 or float64.
        target: the processor.
    """

    def __init__(self, dtype: DType, target: Target):
        product = ProductKernels(dtype, target)
        self.dtype, self.size, self.one = dtype, dtype.itemsize, product.held
        self.lanes, self.width, self.slots = product.lanes, product.width, product.slots
        self.tile_step, self.panel_step = product.tile_step, product.panel_step
        self.masks, self.goes_on, self.tile_rows = product.masks, product.goes_on, product.rows
        self.step = self.lanes * self.size  # bytes of a vector
        self.ty = vector(self.one, self.lanes)

    def emit(self, module: Module) -> None:
        """Write the kernels "weights" and "convolve", and "few", and the entry "conv"."""
        self._emit_vector(module)
        self._emit_put(module)
        self._emit_weights(module)
        self._emit_convolve(module)
        self._emit_few(module)
        if _open.HAS_ENTRIES:
            self._emit_entry(module)

    def _emit_entry(self, module: Module) -> None:
        """An entry (x, w, result, words from word 2 on), loaded with memory for packed weights and scratch."""
        f, own, (x, w, y, given) = _open.entry(module, "conv", 4)
        words, source, packed = f.alloca(8 * (len(WORDS) + 2)), _open.data(f, given), _open.data(f, own)
        for place in range(len(WORDS)):
            f.store(f.load("i64", f.at(source, 8 * place), 8), f.at(words, 8 * place + 16), 8)
        start = _open.data(f, x)
        nbytes = _words(f, words)["x_end"]
        for name, at in (("x", start), ("x_end", f.at(start, nbytes)), ("w", _open.data(f, w)), ("packed", packed)):
            f.store(at, f.at(words, 8 * WORDS.index(name) + 16), 8)
        f.store(_open.data(f, y), f.at(words, 8 * WORDS.index("y") + 16), 8)
        left = _words(f, words)
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
        w = _words(f, f.args[0])
        room = f.alloca(self.lanes * self.step)
        starts = f.alloca(2 * self.slots * 8)  # of the lines of a tile, by whether it has one more
        for more, r in itertools.product((0, 1), range(self.slots)):
            line = f.min(r, f.sub(f.add(w["rows"], more), 1))  # the last one again for those that don't exist
            f.store(f.int(f.mul(line, w["w_line"])), f.at(starts, 8 * (more * self.slots + r)), 8)

        def one(i: Any) -> None:
            blocks = f.div(f.sub(f.add(w["tiles"], w["together"]), 1), w["together"])
            group, first = f.div(i, blocks), f.mul(f.rem(i, blocks), w["together"])
            source = f.at(_ptr(f, w["w"]), f.mul(group, w["w_group"]))

            def repeat(r: Any) -> None:
                to = f.at(_ptr(f, w["packed"]), f.mul(r, self.tile_step))
                at = f.at(source, f.mul(r, w["w_repeat"]))

                def tile(t: Any) -> None:
                    more = f.convert("zext", f.icmp("slt", t, w["extra"]), "i64")
                    row = f.add(f.mul(t, w["rows"]), f.min(t, w["extra"]))
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
            entry = f.at(_ptr(f, w["places"]), f.mul(column, 16))
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
        _cases(f, [(is_one, beside), (_TRUE, lambda: f.loop(0, w["columns"], square, step=lanes))])

    # --- patches ----------------------------------------------------------------------------------

    def _emit_vector(self, module: Module) -> None:
        """The function "patch": a vector of pixels, for k from `begin` to `end`.

        `x` is the first channel of the group of the image, `masks` those of the vector; `step` goes from k to k.
        """
        signature = [
            ("ptr", "words"), ("ptr", "x"), ("ptr", "row"), ("ptr", "masks"), ("ptr", "shifts"), ("i64", "begin"),
            ("i64", "end"), ("ptr", "target"), ("i64", "step"),
        ]  # fmt: skip
        f = Function(module, "patch", signature, attributes="nounwind noinline", private=True)
        words, x, row, masks, shifts, begin, end, target, step = f.args
        w = _words(f, words)
        channels, plane = w["channels"], w["x_channel"]
        base, reads, least, most = [f.load("i64", f.at(row, at), 8) for at in (BASE, READS, LEAST, MOST)]
        start = f.at(x, base)
        first_tap = f.int(f.div(begin, channels))
        full = (1 << self.lanes) - 1
        places = f.load(vector("i32", self.lanes), f.at(row, READ_PLACES), 4)
        is_apart = f.icmp("sgt", w["x_apart"], 1)
        is_even = f.icmp("eq", w["x_apart"], 1)

        def tap(t: Any, to: Val) -> list[Val]:
            skip = f.sub(begin, f.mul(t, channels))
            skip = f.select(f.icmp("sgt", skip, 0), f.int(skip), f.int(0))
            count = f.int(f.sub(f.min(channels, f.sub(end, f.mul(t, channels))), skip))
            bits = f.load("i16", f.at(masks, f.mul(t, 2)), 2)
            shift = f.load("i64", f.at(shifts, f.mul(t, 8)), 8)
            at = f.at(start, f.add(shift, f.mul(skip, plane)))
            mask = _mask(f, bits, self.lanes)
            whole = f.icmp("eq", bits, Val(str(full - (full >> 15 << 16)), "i16"))
            plain = f.op("and", is_even, f.op("and", whole, f.icmp("eq", reads, 1)))
            reach = [f.value(f"ptrtoint ptr {at.ref} to i64", "i64")]
            low = f.add(reach[0], least)
            high = f.add(f.add(reach[0], most), f.add(f.mul(f.sub(count, 1), plane), 2 * self.step))
            safe = f.op("and", f.icmp("sge", low, w["x"]), f.icmp("sle", high, w["x_end"]))
            safe = f.op("and", safe, is_apart)

            def copy(_: Any, at: Val, to: Val) -> list[Val]:
                f.store(f.load(self.ty, at, self.size), to, self.size)
                return [f.at(at, plane), f.at(to, step)]

            def gather(_: Any, at: Val, to: Val, mask: Val) -> list[Val]:
                f.store(self._gather(f, at, places, mask), to, self.size)
                return [f.at(at, plane), f.at(to, step), mask]

            def segments(number: int, load: Callable[[Val, Val, Val], Val]) -> Callable[[], object]:
                """That many, each read into its lanes."""

                def one(_: Any, to: Val, *carry: Val) -> list[Val]:
                    v = f.const(0, self.ty)
                    for at, wanted in zip(carry[:number], carry[number:], strict=True):
                        v = load(at, wanted, v)
                    f.store(v, to, self.size)
                    return [f.at(to, step), *[f.at(at, plane) for at in carry[:number]], *carry[number:]]

                def loop() -> None:
                    entries = [f.at(row, READ_SEGMENTS + 16 * i) for i in range(number)]
                    starts = [f.at(at, f.load("i64", entry, 8)) for entry in entries]
                    own = [f.op("and", bits, f.load("i16", f.at(entry, 8), 2)) for entry in entries]
                    f.loop(0, count, one, [to, *starts, *[_mask(f, part, self.lanes) for part in own]])

                return loop

            def near(at: Val, wanted: Val, before: Val) -> Val:
                return self._merged(f, at, wanted, before)

            def apart(at: Val, wanted: Val, before: Val) -> Val:
                return f.value(f"select {wanted}, {self._every_second(f, at)}, {before}", self.ty)

            cases: list[tuple[Val, Callable[[], object]]] = [(plain, lambda: f.loop(0, count, copy, [at, to]))]
            for load, condition in ((near, is_even), (apart, safe)):
                for number in range(1, SEGMENTS + 1):
                    fits = f.op("and", condition, f.icmp("eq", reads, number))
                    cases.append((fits, segments(number, load)))
            _cases(f, [*cases, (_TRUE, lambda: f.loop(0, count, gather, [at, to, mask]))])
            return [f.at(to, f.mul(count, step))]

        f.loop(first_tap, f.div(f.add(end, f.sub(channels, 1)), channels), tap, [target])
        f.ret()
        f.finish()

    def _merged(self, f: Function, at: Val, mask: Val, before: Val) -> Val:
        """What is read where the mask is true, and elsewhere what was there before."""
        name = f"llvm.masked.load.v{self.lanes}f{8 * self.size}.p0"
        f.module.declare(name, self.ty, ["ptr", "i32", mask.ty, self.ty])
        return f.value(f"call {self.ty} @{name}(ptr {at.ref}, i32 {self.size}, {mask}, {before})", self.ty)

    def _every_second(self, f: Function, at: Val) -> Val:
        """Elements 0, 2, 4, ... of memory."""
        a, b = (f.load(self.ty, f.at(at, half * self.step), self.size) for half in (0, 1))
        order = ", ".join(f"i32 {2 * i}" for i in range(self.lanes))
        return f.value(f"shufflevector {a}, {b}, <{self.lanes} x i32> <{order}>", self.ty)

    def _gather(self, f: Function, at: Val, places: Val, mask: Val) -> Val:
        many = vector("ptr", self.lanes)
        where = f.value(f"getelementptr {self.one}, ptr {at.ref}, {places}", many)
        name = f"llvm.masked.gather.v{self.lanes}f{8 * self.size}.v{self.lanes}p0"
        f.module.declare(name, self.ty, [many, "i32", mask.ty, self.ty])
        return f.value(
            f"call {self.ty} @{name}({where}, i32 {self.size}, {mask}, {self.ty} zeroinitializer)", self.ty
        )

    def _scatter(self, f: Function, v: Val, at: Val, places: Val, mask: Val) -> None:
        many = vector("ptr", self.lanes)
        where = f.value(f"getelementptr {self.one}, ptr {at.ref}, {places}", many)
        name = f"llvm.masked.scatter.v{self.lanes}f{8 * self.size}.v{self.lanes}p0"
        f.module.declare(name, "void", [self.ty, many, "i32", mask.ty])
        f.emit(f"call void @{name}({v}, {where}, i32 {self.size}, {mask})")

    # --- the product --------------------------------------------------------------------------------

    def _emit_convolve(self, module: Module) -> None:
        """The kernel "convolve": chunks are some panels of pixels of an image, or of all, for a group."""
        f = kernel_function(module, "convolve")
        words, first, last, _ = f.args
        w = _words(f, words)
        scratch = scratch_of(f)
        own = self._product_words(f, w)

        def one(i: Any) -> None:
            part, i = f.rem(i, w["parts"]), f.div(i, w["parts"])
            group, image = f.rem(i, w["groups"]), f.div(i, w["groups"])
            x = f.at(_ptr(f, w["x"]), f.add(f.mul(image, w["x_image"]), f.mul(group, w["x_group"])))
            y = f.at(_ptr(f, w["y"]), f.add(f.mul(image, w["y_image"]), f.mul(group, w["y_group"])))

            def sweep(s: dict[str, Val], _: Val) -> None:
                s["panel_bytes"] = f.int(f.mul(s["depth"], self.panel_step))
                _set(f, own, Word.B_PANEL, s["panel_bytes"])
                begin, end = _share(f, f.int(f.div(f.add(s["num_vectors"], 1), 2)), part, w["parts"])
                tile = f.mul(s["k"], self.tile_step)
                a = f.at(_ptr(f, w["packed"]), f.add(s["packed_at"], f.mul(f.mul(group, w["tiles"]), tile)))
                room = f.at(scratch, f.mul(f.sub(end, begin), s["panel_bytes"]))  # of results
                _set(f, own, Word.A_TILE, tile)

                def block(k: Any) -> None:
                    depth = f.min(s["depth"], f.sub(s["k"], k))
                    _set(f, own, Word.K, depth)
                    _set(f, own, Word.GOES_ON, f.convert("zext", f.icmp("sgt", f.int(k), 0), "i64"))
                    self._pack(f, words, w, s, x, scratch, begin, end, k, f.add(k, depth))
                    above = f.at(a, f.mul(k, self.tile_step))

                    def tiles(t: Any) -> None:
                        self._multiply(f, w, s, own, above, scratch, room, y, begin, end, t)

                    f.loop(0, w["tiles"], tiles, step=s["block"])

                f.loop(0, s["k"], block, step=s["depth"])
                f.loop(begin, end, lambda p: self._spread(f, words, w, s, room, y, begin, p))

            self._each_sweep(f, w, sweep)

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
            _set(f, own, word, value)
        return own

    def _pack(
        self, f: Function, words: Val, w: Any, s: Any, x: Val, to: Val, begin: Any, end: Any, k: Any, stop: Any
    ) -> None:
        """Patches of panels `begin` to `end`."""
        masks, shifts = _ptr(f, s["masks"]), _ptr(f, s["shifts"])
        line = f.mul(s["taps"], 2)

        def panel(p: Any) -> None:
            at = f.at(to, f.mul(f.sub(p, begin), s["panel_bytes"]))

            def vector(v: Any) -> None:
                row, own = self._row(f, s, v), f.at(masks, f.mul(v, line))
                target = f.at(at, f.mul(f.rem(v, 2), self.step))
                f.call("patch", [words, x, row, own, shifts, f.int(k), f.int(stop), target, f.int(self.panel_step)])

            v = f.mul(p, 2)
            f.loop(v, f.min(f.add(v, 2), s["num_vectors"]), vector)

        f.loop(begin, end, panel)

    def _row(self, f: Function, s: Any, v: Any) -> Val:
        return f.at(_ptr(f, s["vectors"]), f.mul(v, ROW))

    def _multiply(
        self, f: Function, w: Any, s: Any, own: Val, a: Val, b: Val, room: Val, y: Val, begin: Any, end: Any, t: Any
    ) -> None:
        """A block of row tiles from `t` on, for all panels."""
        row = f.add(f.mul(t, w["rows"]), f.min(t, w["extra"]))
        stop = f.min(f.add(t, s["block"]), w["tiles"])
        a = f.at(a, f.mul(t, f.mul(s["k"], self.tile_step)))

        def panel(p: Any) -> None:
            at = self._row(f, s, f.mul(p, 2))
            out, direct, count = [f.load("i64", f.at(at, place), 8) for place in (OUT, DIRECT, COUNT)]
            is_direct = f.icmp("sgt", direct, 0)
            cm = f.select(is_direct, w["y_channel"], f.int(self.panel_step))
            _set(f, own, Word.CM, cm)
            to = f.select(is_direct, f.at(y, out), self._room(f, w, room, f.sub(p, begin)))
            columns = f.select(is_direct, direct, count)
            panel_b = f.at(b, f.mul(f.sub(p, begin), s["panel_bytes"]))
            call_tiles(f, _ptr(f, w["tiles_at"]), own, a, panel_b, f.at(to, f.mul(row, cm)), t, stop, columns)

        f.loop(begin, end, panel)

    def _room(self, f: Function, w: Any, room: Val, number: Any) -> Val:
        """Where the results of a panel lie that is not stored by the tiles."""
        return f.at(room, f.mul(number, f.mul(w["outputs"], self.panel_step)))

    def _spread(self, f: Function, words: Val, w: Any, s: Any, room: Val, y: Val, begin: Any, p: Any) -> None:
        """Store the results of a panel, if they lie in scratch memory."""
        source, step = self._room(f, w, room, f.sub(p, begin)), f.int(self.panel_step)

        def vector(v: Any) -> None:
            at = f.at(source, f.mul(f.rem(v, 2), self.step))
            f.call("put", [words, self._row(f, s, v), at, step, y, w["outputs"]])

        v = f.mul(p, 2)
        direct = f.icmp("sgt", f.load("i64", f.at(self._row(f, s, v), DIRECT), 8), 0)
        stop = f.min(f.add(v, 2), s["num_vectors"])
        f.loop(v, f.select(direct, f.int(v), f.int(stop)), vector)

    def _emit_put(self, module: Module) -> None:
        """The function "put": store a vector's results, which lie `step` apart for the channels."""
        signature = [
            ("ptr", "words"), ("ptr", "row"), ("ptr", "source"), ("i64", "step"), ("ptr", "y"), ("i64", "outputs"),
        ]  # fmt: skip
        f = Function(module, "put", signature, attributes="nounwind noinline", private=True)
        words, row, source, step, y, outputs = f.args
        w, lanes = _words(f, words), self.lanes
        plane, is_apart = w["y_channel"], f.icmp("eq", w["y_apart"], 2)
        writes = f.load("i64", f.at(row, WRITES), 8)
        to = f.at(y, f.load("i64", f.at(row, OUT), 8))

        def each(body: Callable[..., None], *carry: Val) -> Callable[[], object]:
            """For all channels."""

            def one(_: Any, at: Val, to: Val, *carry: Val) -> list[Val]:
                body(f.load(self.ty, at, self.size), to, *carry)
                return [f.at(at, step), f.at(to, plane), *carry]

            return lambda: f.loop(0, outputs, one, [source, *carry])

        def near(v: Val, to: Val, mask: Val) -> None:
            store_masked(f, v, to, self.dtype, lanes, mask)

        def apart(v: Val, to: Val, low: Val, high: Val) -> None:
            for half, mask in enumerate((low, high)):
                order = ", ".join(f"i32 {(i + half * lanes) // 2}" for i in range(lanes))
                twice = f.value(f"shufflevector {v}, {v}, <{lanes} x i32> <{order}>", self.ty)
                store_masked(f, twice, f.at(to, half * self.step), self.dtype, lanes, mask)

        def segment(i: Any) -> None:
            entry = f.at(row, f.add(f.mul(i, 16), WRITE_SEGMENTS))
            at, bits = f.at(to, f.load("i64", entry, 8)), f.load(f"i{2 * lanes}", f.at(entry, 8), 8)
            high = f.op("lshr", bits, Val(str(lanes), bits.ty))
            low, high = (_mask(f, half, lanes) for half in (bits, high))
            _cases(f, [(is_apart, each(apart, at, low, high)), (_TRUE, each(near, at, low))])

        def scattered(v: Val, to: Val, mask: Val) -> None:
            self._scatter(f, v, to, places, mask)

        f.loop(0, writes, segment)
        places = f.load(vector("i32", lanes), f.at(row, WRITE_PLACES), 4)
        mask = _mask(f, f.load("i16", f.at(row, THERE), 2), lanes)
        f.when(f.icmp("eq", writes, 0), each(scattered, to, mask))
        f.ret()
        f.finish()

    # --- few channels -----------------------------------------------------------------------------

    def _emit_few(self, module: Module) -> None:
        """The kernel "few": chunks are vectors of one plane, or planes, each of an image and a group."""
        for rows in range(1, FEW + 1):
            self._emit_rows(module, rows)
        self._emit_depthwise(module)
        f = kernel_function(module, "few")
        words, first, last, _ = f.args
        w = _words(f, words)
        scratch = scratch_of(f)
        room = f.at(scratch, w["split_bytes"])
        splits = f.icmp("sgt", w["split_bytes"], 0)

        is_one = f.icmp("eq", f.int(f.mul(w["outputs"], w["channels"])), 1)

        def one(i: Any) -> None:
            part, plane = f.rem(i, w["parts"]), f.mul(f.div(i, w["parts"]), w["planes"])

            def each(j: Any) -> None:
                group, image = f.rem(j, w["groups"]), f.div(j, w["groups"])
                x = f.at(_ptr(f, w["x"]), f.add(f.mul(image, w["x_image"]), f.mul(group, w["x_group"])))
                y = f.at(_ptr(f, w["y"]), f.add(f.mul(image, w["y_image"]), f.mul(group, w["y_group"])))
                weight = f.at(_ptr(f, w["w"]), f.mul(group, w["w_group"]))
                f.when(splits, lambda: self._split(f, w, x, scratch))
                x = f.select(splits, scratch, x)

                def sweep(s: dict[str, Val], at: Val) -> None:
                    pieces = f.int(f.div(f.add(s["num_vectors"], VECTORS - 1), VECTORS))
                    begin, end = (f.int(f.mul(p, VECTORS)) for p in _share(f, pieces, part, w["parts"]))
                    end = f.int(f.min(end, s["num_vectors"]))

                    def some(v: Any) -> None:
                        names = [f"few{rows}" for rows in range(1, FEW + 1)]
                        args = [words, at, x, weight, y, f.int(v), room]
                        switch(f, f.int(f.sub(w["outputs"], 1)), names, args)

                    def depthwise() -> None:
                        f.call("depthwise", [words, at, x, weight, y, begin, end, room])

                    _cases(f, [(is_one, depthwise), (_TRUE, lambda: f.loop(begin, end, some, step=VECTORS))])

                self._each_sweep(f, w, sweep)

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
        w, s, lanes = _words(f, words), self._sweep_at(f, sweep), self.lanes
        masks, shifts, w_shifts = (_ptr(f, s[name]) for name in ("masks", "shifts", "w_shifts"))
        is_near = f.op("and", f.icmp("eq", w["x_apart"], 1), f.icmp("eq", w["y_apart"], 1))
        line = f.mul(s["taps"], 2)

        def some(first: Any) -> None:
            numbers = [f.min(f.add(first, i), f.sub(s["num_vectors"], 1)) for i in range(VECTORS)]
            table = [self._row(f, s, v) for v in numbers]
            plain = is_near
            for row, field in itertools.product(table, (READS, WRITES)):
                plain = f.op("and", plain, f.icmp("eq", f.load("i64", f.at(row, field), 8), 1))

            def sums() -> None:
                own = [f.at(masks, f.mul(v, line)) for v in numbers]
                places = [f.load("i64", f.at(row, BASE), 8) for row in table]

                def tap(t: Any, *acc: Val) -> list[Val]:
                    at = f.at(x, f.load("i64", f.at(shifts, f.mul(t, 8)), 8))
                    one = f.load(self.one, f.at(weight, f.load("i64", f.at(w_shifts, f.mul(t, 8)), 8)), self.size)
                    one, out = f.splat(one, lanes), []
                    for mask, place, y in zip(own, places, acc, strict=True):
                        inside = _mask(f, f.load("i16", f.at(mask, f.mul(t, 2)), 2), lanes)
                        v = load_masked(f, f.at(at, place), self.dtype, lanes, inside)
                        out.append(f.intrinsic("fma", [one, v, y]))
                    return out

                acc = f.loop(0, s["taps"], tap, [f.const(0, self.ty)] * VECTORS)
                for row, v in zip(table, acc, strict=True):
                    there = _mask(f, f.load("i16", f.at(row, THERE), 2), lanes)
                    store_masked(f, v, f.at(y, f.load("i64", f.at(row, OUT), 8)), self.dtype, lanes, there)

            def other() -> None:
                f.call("few1", [words, sweep, x, weight, y, f.int(first), room])

            _cases(f, [(plain, sums), (_TRUE, other)])

        f.loop(begin, end, some, step=VECTORS)
        f.ret()
        f.finish()

    def _split(self, f: Function, w: Any, x: Val, to: Val) -> None:
        """Copy a plane, elements that are a stride apart side by side."""
        between, phase, lines = w["split_apart"], w["split_phase"], _ptr(f, w["split_lines"])
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

            _cases(
                f,
                [
                    (
                        f.icmp("eq", between, 2),
                        lambda: f.loop(0, f.div(f.add(length, 1), 2), pairs, step=self.lanes),
                    ),
                    (_TRUE, lambda: f.loop(0, length, element)),
                ],
            )

        f.loop(0, w["split_count"], line)

    def _emit_rows(self, module: Module, rows: int) -> None:
        """The function "few1", ...: `VECTORS` vectors from number `first` on, for that many channels."""
        signature = [
            ("ptr", "words"), ("ptr", "sweep"), ("ptr", "x"), ("ptr", "w"), ("ptr", "y"), ("i64", "first"),
            ("ptr", "room"),
        ]  # fmt: skip
        f = Function(module, f"few{rows}", signature, attributes="nounwind noinline", private=True)
        words, sweep, x, weight, y, first, room = f.args
        w, s, lanes = _words(f, words), self._sweep_at(f, sweep), self.lanes
        masks, shifts, w_shifts = (_ptr(f, s[name]) for name in ("masks", "shifts", "w_shifts"))
        numbers = [f.min(f.add(first, i), f.sub(s["num_vectors"], 1)) for i in range(VECTORS)]
        table = [self._row(f, s, v) for v in numbers]
        own = [f.at(masks, f.mul(v, f.mul(s["taps"], 2))) for v in numbers]
        is_near = f.icmp("eq", w["x_apart"], 1)
        for row in table:
            is_near = f.op("and", is_near, f.icmp("eq", f.load("i64", f.at(row, READS), 8), 1))
        step, depth = VECTORS * self.step, s["k"]

        def patches() -> None:
            for i, row in enumerate(table):
                at = f.at(room, i * self.step)
                f.call("patch", [words, x, row, own[i], shifts, f.int(0), depth, at, f.int(step)])

        f.when(f.op("xor", is_near, _TRUE), patches)
        starts = [f.at(x, f.load("i64", f.at(row, BASE), 8)) for row in table]
        starts = [f.select(is_near, at, f.at(room, i * self.step)) for i, at in enumerate(starts)]
        plane = f.select(is_near, w["x_channel"], f.int(step))
        of_tap = f.mul(w["channels"], step)
        lines = [f.mul(w["w_line"], r) for r in range(rows)]

        def tap(t: Any, *acc: Val) -> list[Val]:
            shift = f.select(is_near, f.load("i64", f.at(shifts, f.mul(t, 8)), 8), f.int(f.mul(t, of_tap)))
            inside = []
            for at in own:
                bits = f.load("i16", f.at(at, f.mul(t, 2)), 2)
                inside.append(_mask(f, f.select(is_near, bits, Val("-1", "i16")), lanes))
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
            f.call("put", [words, table[i], f.at(out, i * self.step), f.int(step), y, f.int(rows)])

        for i in range(VECTORS):
            f.when(f.icmp("slt", f.int(f.add(first, i)), s["num_vectors"]), functools.partial(put, i))
        f.ret()
        f.finish()

    def _each_sweep(self, f: Function, w: Any, body: Callable[[dict[str, Val], Val], None]) -> None:
        """Call `body` with the words of every sweep, and where they are."""

        def one(j: Any) -> None:
            at = f.at(_ptr(f, w["sweeps"]), f.mul(j, 8 * len(SWEEP)))
            body(self._sweep_at(f, at), at)

        f.loop(0, w["num_sweeps"], one)

    @staticmethod
    def _sweep_at(f: Function, at: Val) -> dict[str, Val]:
        return {name: f.load("i64", f.at(at, 8 * place), 8) for place, name in enumerate(SWEEP)}


def _words(f: Function, words: Val) -> dict[str, Val]:
    return {name: f.load("i64", f.at(words, 8 * place), 8) for place, name in enumerate(WORDS, 2)}


def _ptr(f: Function, address: Val) -> Val:
    return f.value(f"inttoptr i64 {address.ref} to ptr", "ptr")


def _set(f: Function, words: Val, word: int, value: Number) -> None:
    f.store(f.int(value), f.at(words, 8 * word), 8)


def _share(f: Function, total: Val, part: Number, parts: Val) -> tuple[Val, Val]:
    """The beginning and end of a part of what there is."""
    begin, end = (f.div(f.mul(p, total), parts) for p in (part, f.add(part, 1)))
    return f.int(begin), f.int(end)


def _mask(f: Function, bits: Val, lanes: int) -> Val:
    """The lowest bits as a mask."""
    return f.value(f"bitcast {f.convert('trunc', bits, f'i{lanes}')} to <{lanes} x i1>", vector("i1", lanes))


def _cases(f: Function, cases: Sequence[tuple[Val, Callable[[], object]]]) -> None:
    """The code of the first case whose condition holds."""
    after = f.label("after")
    for condition, body in cases:
        inside, other = f.label("case"), f.label("other")
        f.emit(f"br i1 {condition.ref}, label %{inside}, label %{other}")
        f.start(inside)
        body()
        f.emit(f"br label %{after}")
        f.start(other)
    f.emit(f"br label %{after}")
    f.start(after)
