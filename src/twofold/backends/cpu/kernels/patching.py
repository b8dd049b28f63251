"""Patches of images as convolutions read them, and results as they are stored: what their open kernels share.

Note [Tables of pixels]
What depends on geometry alone is worked out beforehand (backends/cpu/pixels.py) and kept: for each vector of
neighbouring pixels of the result a row of `ROW` bytes, which says where they read and write, and for each vector
and tap a mask of the pixels whose tap is not in the padding. Pixels are numbered through the lines of an image,
or through all images where these are small. Vectors lie in blocks, from one to the next of which positions grow
evenly; blocks differ near the borders only, and there are rows for those that differ.
Neighbours read at even distances, but for the ends of lines and images, so that a vector consists of a few
*segments*, each of which is a masked load into its lanes; what has more than `SEGMENTS` is gathered. Where
neighbours are two elements apart, a segment is two loads and a shuffle; these read what is between, and beyond,
which must be memory of the input: otherwise that vector is gathered.
Results are stored by the tiles where a panel's pixels are neighbours there, too; otherwise they go through scratch
memory.

Note [Channels one by one]
The planes of channels often are as many bytes as a power of two, so that what a tap reads of all of them falls into
few sets of the caches. Then all taps read one channel, then the next, though patches are written in other order so.
It is also the better way if there are few channels.
"""

from __future__ import annotations

import functools
from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

from ....ir.dtypes import DType
from ..emit import Function, Module, Number, Val, vector
from ..target import Target
from .packing import store_masked
from .product import ProductKernels

SEGMENTS = 4
VECTORS = 4  # for which there are tables at a time
TRUE = Val("true", "i1")

# A row of a vector: see Note [Tables of pixels]. Bases and shifts are in bytes, places in elements.
BASE, READS, LEAST, MOST, OUT, WRITES, DIRECT, COUNT = range(0, 64, 8)
READ_SEGMENTS, WRITE_SEGMENTS, READ_PLACES, WRITE_PLACES, THERE, ROW = 64, 128, 192, 256, 320, 384
READING = BASE, READS, READ_SEGMENTS, READ_PLACES
WRITING = OUT, WRITES, WRITE_SEGMENTS, WRITE_PLACES

# Words of the convolution's kernels, from word 2 on. Strides are in bytes.
WORDS = (
    "x", "x_end", "w", "y", "packed", "tiles_at", "x_image", "x_group", "x_channel", "y_image", "y_group",
    "y_channel", "w_group", "w_line", "w_repeat", "repeats", "columns", "groups", "channels", "outputs", "tiles",
    "rows", "extra", "x_apart", "y_apart", "sweeps", "num_sweeps", "w_channel", "splits", "split_bytes",
    "split_phase", "split_lines", "split_count", "split_length", "split_apart", "packs", "chunks", "packed_bytes",
    "places", "together", "parts", "planes", "images", "row_splits", "one_by_one",
)  # fmt: skip

# Words of a sweep. A chunk goes through all sweeps, which write in turns to the same lines of memory.
SWEEP = (
    "k", "shifts", "masks", "vectors", "num_vectors", "taps", "packed_at", "depth", "block", "w_shifts", "blocks",
    "period", "x_step", "y_step",
)  # fmt: skip


class Place(NamedTuple):
    """Where a vector's row and masks are, and by how many bytes it is farther on in the input and the result."""

    row: Val
    masks: Val
    x: Number
    y: Number


class PixelKernels:
    """The functions that read and write vectors of pixels, of one dtype.

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

    def emit_pixels(self, module: Module) -> None:
        """Write the functions "patch" and "put"."""
        self._emit_patch(module)
        self._emit_put(module)

    # --- reading ------------------------------------------------------------------------------------

    def _emit_patch(self, module: Module) -> None:
        """The function "patch": a vector of pixels, for k from `begin` to `end`.

        `x` is the first channel of the group of the image, `masks` those of the vector; `step` goes from k to k.
        """
        signature = [
            ("ptr", "words"), ("ptr", "x"), ("ptr", "row"), ("ptr", "masks"), ("ptr", "shifts"), ("i64", "begin"),
            ("i64", "end"), ("ptr", "target"), ("i64", "step"),
        ]  # fmt: skip
        f = Function(module, "patch", signature, attributes="nounwind noinline", private=True)
        _Patch(self, f).emit()
        f.ret()
        f.finish()

    def merged(self, f: Function, at: Val, mask: Val, before: Val) -> Val:
        """What is read where the mask is true, and elsewhere what was there before."""
        name = f"llvm.masked.load.v{self.lanes}f{8 * self.size}.p0"
        f.module.declare(name, self.ty, ["ptr", "i32", mask.ty, self.ty])
        return f.value(f"call {self.ty} @{name}(ptr {at.ref}, i32 {self.size}, {mask}, {before})", self.ty)

    def every_second(self, f: Function, at: Val) -> Val:
        """Elements 0, 2, 4, ... of memory."""
        a, b = (f.load(self.ty, f.at(at, half * self.step), self.size) for half in (0, 1))
        order = ", ".join(f"i32 {2 * i}" for i in range(self.lanes))
        return f.value(f"shufflevector {a}, {b}, <{self.lanes} x i32> <{order}>", self.ty)

    def gather(self, f: Function, at: Val, places: Val, mask: Val) -> Val:
        many = vector("ptr", self.lanes)
        where = f.value(f"getelementptr {self.one}, ptr {at.ref}, {places}", many)
        name = f"llvm.masked.gather.v{self.lanes}f{8 * self.size}.v{self.lanes}p0"
        f.module.declare(name, self.ty, [many, "i32", mask.ty, self.ty])
        return f.value(
            f"call {self.ty} @{name}({where}, i32 {self.size}, {mask}, {self.ty} zeroinitializer)", self.ty
        )

    def scatter(self, f: Function, v: Val, at: Val, places: Val, mask: Val) -> None:
        many = vector("ptr", self.lanes)
        where = f.value(f"getelementptr {self.one}, ptr {at.ref}, {places}", many)
        name = f"llvm.masked.scatter.v{self.lanes}f{8 * self.size}.v{self.lanes}p0"
        f.module.declare(name, "void", [self.ty, many, "i32", mask.ty])
        f.emit(f"call void @{name}({v}, {where}, i32 {self.size}, {mask})")

    # --- writing ------------------------------------------------------------------------------------

    def _emit_put(self, module: Module) -> None:
        """The function "put": store a vector's results, which lie `step` apart for the channels."""
        signature = [
            ("ptr", "words"), ("ptr", "row"), ("ptr", "source"), ("i64", "step"), ("ptr", "y"), ("i64", "outputs"),
        ]  # fmt: skip
        f = Function(module, "put", signature, attributes="nounwind noinline", private=True)
        words, row, source, step, y, outputs = f.args
        w, lanes = words_of(f, words), self.lanes
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
            low, high = (mask_of(f, half, lanes) for half in (bits, high))
            cases(f, [(is_apart, each(apart, at, low, high)), (TRUE, each(near, at, low))])

        def scattered(v: Val, to: Val, mask: Val) -> None:
            self.scatter(f, v, to, places, mask)

        f.loop(0, writes, segment)
        places = f.load(vector("i32", lanes), f.at(row, WRITE_PLACES), 4)
        mask = mask_of(f, f.load("i16", f.at(row, THERE), 2), lanes)
        f.when(f.icmp("eq", writes, 0), each(scattered, to, mask))
        f.ret()
        f.finish()

    # --- tables -------------------------------------------------------------------------------------

    def vectors_at(self, f: Function, s: dict[str, Val], first: Number, count: int) -> list[Place]:
        """Vectors from number `first` on, which are of one block; there are tables for `VECTORS` at a time."""
        return self.vectors_in(f, s, f.int(f.div(first, s["period"])))(first, count)

    def vectors_in(self, f: Function, s: dict[str, Val], block: Number) -> Callable[[Number, int], list[Place]]:
        """The same, of a block that is known."""
        start = f.load("i64", f.at(pointer(f, s["blocks"]), f.mul(block, 8)), 8)
        begin, line = f.sub(start, f.mul(block, s["period"])), f.mul(s["taps"], 2)
        x, y = f.mul(block, s["x_step"]), f.mul(block, s["y_step"])

        def places(first: Number, count: int) -> list[Place]:
            at = f.add(begin, first)
            row, masks = (
                f.at(pointer(f, s["vectors"]), f.mul(at, ROW)),
                f.at(pointer(f, s["masks"]), f.mul(at, line)),
            )
            return [Place(f.at(row, i * ROW), f.at(masks, f.mul(line, i)), x, y) for i in range(count)]

        return places

    def each_sweep(self, f: Function, w: Any, body: Callable[[dict[str, Val], Val], None]) -> None:
        """Call `body` with the words of every sweep, and where they are."""

        def one(j: Any) -> None:
            at = f.at(pointer(f, w["sweeps"]), f.mul(j, 8 * len(SWEEP)))
            body(self.sweep_at(f, at), at)

        f.loop(0, w["num_sweeps"], one)

    @staticmethod
    def sweep_at(f: Function, at: Val) -> dict[str, Val]:
        return {name: f.load("i64", f.at(at, 8 * place), 8) for place, name in enumerate(SWEEP)}


Load = Callable[[Val, Val, Val], Val]  # from an address, into the lanes of a mask, over what was there before


class _Patch:
    """The body of the function "patch"."""

    def __init__(self, kernels: PixelKernels, f: Function):
        self.kernels, self.f = kernels, f
        words, x, self.row, self.masks, self.shifts, self.begin, self.end, self.target, self.step = f.args
        self.w = w = words_of(f, words)
        self.channels, self.plane = w["channels"], w["x_channel"]
        base, self.reads, self.least, self.most = [
            f.load("i64", f.at(self.row, at), 8) for at in (BASE, READS, LEAST, MOST)
        ]
        self.start = f.at(x, base)
        self.is_apart, self.is_even = f.icmp("eq", w["x_apart"], 2), f.icmp("eq", w["x_apart"], 1)
        self.first_tap = f.int(f.div(self.begin, self.channels))
        self.last_tap = f.int(f.div(f.add(self.end, f.sub(self.channels, 1)), self.channels))

    def emit(self) -> None:
        """Channel by channel, or tap by tap."""
        f = self.f
        taps = f.sub(self.last_tap, self.first_tap)
        whole = f.icmp("eq", f.int(f.mul(taps, self.channels)), f.sub(self.end, self.begin))
        whole = f.op("and", whole, f.op("and", f.icmp("sgt", taps, 1), f.icmp("eq", self.w["one_by_one"], 1)))
        shifts = [self._shift(t) for t in (self.first_tap, f.sub(self.last_tap, 1))]
        safe = self._is_safe([f.at(self.start, shift) for shift in shifts], self.channels)
        ways = self._ways(safe, self._by_channels, whole)
        cases(f, [*ways, (TRUE, lambda: f.loop(self.first_tap, self.last_tap, self._tap, [self.target]))])

    def _ways(
        self, safe: Val, way: Callable[[int, Load], Callable[[], object]], condition: Val = TRUE
    ) -> list[tuple[Val, Callable[[], object]]]:
        """A case for each number of segments and how these are read."""
        f, out = self.f, []
        for load, fits in ((self.kernels.merged, self.is_even), (self._apart, f.op("and", self.is_apart, safe))):
            for number in range(1, SEGMENTS + 1):
                own = f.op("and", f.op("and", condition, fits), f.icmp("eq", self.reads, number))
                out.append((own, way(number, functools.partial(load, f))))
        return out

    def _apart(self, f: Function, at: Val, wanted: Val, before: Val) -> Val:
        return f.value(f"select {wanted}, {self.kernels.every_second(f, at)}, {before}", self.kernels.ty)

    def _is_safe(self, ends: Sequence[Val], channels: Val) -> Val:
        """Whether what lies between elements, of so many channels, is memory of the input."""
        f = self.f
        low, high = (f.value(f"ptrtoint ptr {at.ref} to i64", "i64") for at in ends)
        high = f.int(f.add(high, f.add(f.mul(f.sub(channels, 1), self.plane), 2 * self.kernels.step)))
        above = f.icmp("sge", f.int(f.add(low, self.least)), self.w["x"])
        return f.op("and", above, f.icmp("sle", f.int(f.add(high, self.most)), self.w["x_end"]))

    def _shift(self, t: Number) -> Val:
        return self.f.load("i64", self.f.at(self.shifts, self.f.mul(t, 8)), 8)

    def _inside(self, t: Number) -> Val:
        return self.f.load("i16", self.f.at(self.masks, self.f.mul(t, 2)), 2)

    def _segments(self, number: int, at: Val) -> tuple[list[Val], list[Val]]:
        """Where segments begin, and their lanes as bits."""
        f = self.f
        entries = [f.at(self.row, READ_SEGMENTS + 16 * i) for i in range(number)]
        starts = [f.at(at, f.load("i64", entry, 8)) for entry in entries]
        return starts, [f.load("i16", f.at(entry, 8), 2) for entry in entries]

    def _by_channels(self, number: int, load: Load) -> Callable[[], object]:
        """All taps of a channel, then the next: see Note [Channels one by one]."""
        f, k = self.f, self.kernels

        def every() -> None:
            starts, own = self._segments(number, self.start)
            of_tap = f.mul(self.channels, self.step)

            def channel(_: Any, to: Val, *ats: Val) -> list[Val]:
                def tap(t: Any, to: Val) -> list[Val]:
                    bits, shift, v = self._inside(t), self._shift(t), f.const(0, k.ty)
                    for at, part in zip(ats, own, strict=True):
                        wanted = f.op("and", bits, part) if number > 1 else bits
                        v = load(f.at(at, shift), mask_of(f, wanted, k.lanes), v)
                    f.store(v, to, k.size)
                    return [f.at(to, of_tap)]

                f.loop(self.first_tap, self.last_tap, tap, [to])
                return [f.at(to, self.step), *[f.at(at, self.plane) for at in ats]]

            f.loop(0, self.channels, channel, [self.target, *starts])

        return every

    def _tap(self, t: Any, to: Val) -> list[Val]:
        """The channels under a tap."""
        f, k = self.f, self.kernels
        skip = f.sub(self.begin, f.mul(t, self.channels))
        skip = f.select(f.icmp("sgt", skip, 0), f.int(skip), f.int(0))
        count = f.int(f.sub(f.min(self.channels, f.sub(self.end, f.mul(t, self.channels))), skip))
        bits, at = self._inside(t), f.at(self.start, f.add(self._shift(t), f.mul(skip, self.plane)))
        full = (1 << k.lanes) - 1
        whole = f.icmp("eq", bits, Val(str(full - (full >> 15 << 16)), "i16"))
        plain = f.op("and", self.is_even, f.op("and", whole, f.icmp("eq", self.reads, 1)))

        def each(read: Callable[..., Val], *carry: Val, ats: int = 1) -> object:
            """For all channels; the first of what is carried are addresses."""

            def one(_: Any, to: Val, *carry: Val) -> list[Val]:
                f.store(read(*carry), to, k.size)
                return [f.at(to, self.step), *[f.at(at, self.plane) for at in carry[:ats]], *carry[ats:]]

            return f.loop(0, count, one, [to, *carry])

        def segments(number: int, load: Load) -> Callable[[], object]:
            def read(*carry: Val) -> Val:
                v = f.const(0, k.ty)
                for at, wanted in zip(carry[:number], carry[number:], strict=True):
                    v = load(at, wanted, v)
                return v

            def every() -> None:
                starts, own = self._segments(number, at)
                masks = [mask_of(f, f.op("and", bits, part), k.lanes) for part in own]
                each(read, *starts, *masks, ats=number)

            return every

        def gather() -> None:
            places = f.load(vector("i32", k.lanes), f.at(self.row, READ_PLACES), 4)
            each(lambda at, mask: k.gather(f, at, places, mask), at, mask_of(f, bits, k.lanes))

        copy = functools.partial(each, lambda at: f.load(k.ty, at, k.size), at)
        cases(f, [(plain, copy), *self._ways(self._is_safe([at, at], count), segments), (TRUE, gather)])
        return [f.at(to, f.mul(count, self.step))]


def words_of(f: Function, words: Val) -> dict[str, Val]:
    return {name: f.load("i64", f.at(words, 8 * place), 8) for place, name in enumerate(WORDS, 2)}


def pointer(f: Function, address: Val) -> Val:
    return f.value(f"inttoptr i64 {address.ref} to ptr", "ptr")


def set_word(f: Function, words: Val, word: int, value: Number) -> None:
    f.store(f.int(value), f.at(words, 8 * word), 8)


def share(f: Function, total: Val, part: Number, parts: Val) -> tuple[Val, Val]:
    """The beginning and end of a part of what there is."""
    begin, end = (f.div(f.mul(p, total), parts) for p in (part, f.add(part, 1)))
    return f.int(begin), f.int(end)


def mask_of(f: Function, bits: Val, lanes: int) -> Val:
    """The lowest bits as a mask."""
    return f.value(f"bitcast {f.convert('trunc', bits, f'i{lanes}')} to <{lanes} x i1>", vector("i1", lanes))


def cases(f: Function, choices: Sequence[tuple[Val, Callable[[], object]]]) -> None:
    """The code of the first case whose condition holds."""
    after = f.label("after")
    for condition, body in choices:
        inside, other = f.label("case"), f.label("other")
        f.emit(f"br i1 {condition.ref}, label %{inside}, label %{other}")
        f.start(inside)
        body()
        f.emit(f"br label %{after}")
        f.start(other)
    f.emit(f"br label %{after}")
    f.start(after)
