"""Convolution with channels last, and its gradient with respect to the input.

Both are matrix products that never make their matrix of columns: a row of it is, for every row of
taps, a contiguous run of the (zero-bordered) input. A tile of up to 14 output pixels by two vectors
of output channels is held in registers; k runs over taps and input channels in a fixed order.

Note [Sweeps]
The gradient with stride s is s * s convolutions with stride 1, one for each remainder of the output
position, each with the taps that reach it. A `Sweep` is one of these along one dimension; a forward
convolution is a single sweep.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from ....ir.dtypes import float32
from ....ir.types import Shape
from ..emit import Function, Module, Val, vector
from ..layout import Buffer, View
from ..sizes import divides, free, planned
from ..target import Target
from .access import load, store
from .cut import tile_rows
from .tile import (
    Epilogue,
    Loop,
    bases_of,
    columns_of,
    copy_bordered,
    kernel_function,
    multiply,
    scratch_of,
    unravel,
)

_SCRATCH = 384 << 10  # bytes of input that a worker holds at a time, within its second-level cache
_NEAR = 16  # numbers between neighbouring weights that are part of the code
_FEW_ITEMS = 16  # below this many pieces of work they are made smaller


@dataclass(frozen=True)
class Sweep:
    """Output positions start, start + step, ... along a dimension, and the taps they see.

    Position number i sees input elements `first + i * stride + t * gap` under taps[t].
    """

    start: int
    step: int
    count: int
    stride: int
    first: int
    gap: int
    taps: tuple[int, ...]

    @property
    def last(self) -> int:
        """The last input element that is seen."""
        return self.first + (self.count - 1) * self.stride + (len(self.taps) - 1) * self.gap


def forward_sweeps(count: int, kernel: int, stride: int, low: int, dilation: int) -> list[Sweep]:
    """The one sweep of a convolution."""
    return [Sweep(0, 1, count, stride, -low, dilation, tuple(range(kernel)))]


def adjoint_sweeps(size: int, kernel: int, stride: int, low: int, dilation: int) -> list[Sweep]:
    """A sweep per remainder of the position in the input that is to be computed."""
    out = []
    for rest in range(min(stride, size)):
        taps = [t for t in reversed(range(kernel)) if (rest + low - t * dilation) % stride == 0]
        firsts = [(rest + low - t * dilation) // stride for t in taps]
        gap = firsts[1] - firsts[0] if len(firsts) > 1 else 1
        count = -(-(size - rest) // stride)
        out.append(Sweep(rest, stride, count, 1, firsts[0] if firsts else 0, gap, tuple(taps)))
    return out


@dataclass(frozen=True)
class Weights:
    """The weight as the kernel reads it: element (group, out, in, kh, kw) by strides."""

    buffer: Buffer
    offset: int
    strides: Shape


class ConvKernel:
    """Code for one convolution.

    Args:
        x: the input (N, H, W, C), row-major.
        weights: where the weight is.
        groups, inputs, outputs: groups, and channels per group.
        rows, columns: the sweeps of both spatial dimensions.
        epilogue: what happens to the result, (N, H', W', groups * outputs).
        depthwise: output channel c sees input channel c only; then groups and inputs are 1.
    """

    def __init__(
        self,
        x: View,
        weights: Weights,
        groups: int,
        inputs: int,
        outputs: int,
        rows: list[Sweep],
        columns: list[Sweep],
        epilogue: Epilogue,
        target: Target,
        depthwise: bool = False,
    ):
        self.x, self.weights, self.epilogue, self.depthwise = x, weights, epilogue, depthwise
        self.groups, self.inputs, self.outputs = groups, inputs, outputs
        self.lanes = target.lanes(4)
        self.most = target.tile_rows
        self.width = self.lanes * (2 if outputs > self.lanes else 1)
        self.panels = -(-outputs // self.width)
        self.sweeps = [(a, b) for a in rows for b in columns]
        self.taps = [len(a.taps) * len(b.taps) for a, b in self.sweeps]
        self.panel_size = sum(self.taps) * inputs * self.width
        self.packed: Buffer | None = None
        self._block()

    def packed_size(self) -> int:
        """Elements of the packed weights: per panel [sweep][kh][kw][in][width]."""
        return self.groups * self.panels * self.panel_size

    def _block(self) -> None:
        """Cut the work into items: some images, or a band of one image's rows, and some panels."""
        n, height, width, channels = self.x.shape
        few = planned(n)
        seen = [(a, b) for (a, b), taps in zip(self.sweeps, self.taps, strict=True) if taps]
        self.stride = self.sweeps[0][0].stride
        self.most_rows = max(a.count for a, _ in self.sweeps)
        self.copies = any(a.first < 0 or b.first < 0 or a.last >= height or b.last >= width for a, b in seen)
        self.low = (min((a.first for a, _ in seen), default=0), min((b.first for _, b in seen), default=0))
        reach = max((a.first + (len(a.taps) - 1) * a.gap for a, _ in seen), default=0) - self.low[0] + 1
        self.line = max((b.last for _, b in seen), default=0) - self.low[1] + 1
        line_bytes = self.line * channels * 4
        self.group_rows = {b.count: self._rows_together(b.count) for _, b in self.sweeps}
        unit = math.lcm(*self.group_rows.values())
        fits = max(1, ((_SCRATCH // line_bytes) - reach) // self.stride + 1)
        self.band = min(self.most_rows, max(unit, fits // unit * unit))
        self.images = 1
        if self.band == self.most_rows:
            image = (reach + (self.band - 1) * self.stride) * line_bytes
            self.images = max(1, min(_SCRATCH // image, few // _FEW_ITEMS))
        bands = -(-self.most_rows // self.band)
        if few * bands < _FEW_ITEMS and bands * unit < self.most_rows:
            bands = min(-(-_FEW_ITEMS // few), self.most_rows // unit)
            self.band = math.ceil(math.ceil(self.most_rows / bands) / unit) * unit
        self.bands = -(-self.most_rows // self.band)
        self.blocks = -(-n // self.images)
        every = self.groups * self.panels
        self.splits = min(every, max(1, _FEW_ITEMS // (planned(self.blocks) * self.bands)))
        self.chunks = self.blocks * self.bands * self.splits
        self.lines = reach + (self.band - 1) * self.stride
        self.scratch_bytes = self.images * self.lines * line_bytes if self.copies else 0

    def _rows_together(self, count: int) -> int:
        """Output rows in one tile: several where they are short."""
        return 1 if count >= self.most // 2 else max(1, self.most // count)

    # --- packing ------------------------------------------------------------------------------

    def emit_packing(self, module: Module, name: str, packed: Buffer) -> int:
        """Write the function that packs the weights; returns its number of chunks."""
        self.packed = packed
        f = kernel_function(module, name)
        bases = bases_of(f, [self.weights.buffer, packed])
        block = min(self.inputs, 16)
        blocks = -(-self.inputs // block)
        inputs = free("inputs", self.inputs)
        far = self._far(f)

        def item(number: Any) -> None:
            every, part = f.div(number, free("blocks", blocks)), f.rem(number, free("blocks", blocks))
            group: Any = 0
            panel = every
            if self.groups > 1:
                group, panel = f.div(every, free("panels", self.panels)), f.rem(every, free("panels", self.panels))
            start = f.mul(part, block)
            stop = f.min(f.add(start, block), inputs)
            source = f.at(bases[self.weights.buffer], f.mul(f.mul(panel, self.width), far))
            source = f.at(source, f.mul(f.add(f.mul(group, self.weights.strides[0]), self.weights.offset), 4))
            target = f.at(bases[packed], f.mul(every, free("panel", self.panel_size * 4)))

            def with_columns(columns: int) -> None:
                done = 0
                for (a, b), taps in zip(self.sweeps, self.taps, strict=True):
                    place = f.at(target, f.mul(inputs, done * self.width * 4))
                    if taps:
                        self._pack(f, place, source, far, a, b, start, stop, columns)
                    done += taps

            self._by_panel(f, panel, with_columns)

        f.loop(f.args[1], f.args[2], item)
        f.ret()
        f.finish()
        return self.groups * self.panels * blocks

    def _pack(
        self,
        f: Function,
        target: Val,
        source: Val,
        far: Any,
        a: Sweep,
        b: Sweep,
        start: Any,
        stop: Any,
        columns: int,
    ) -> None:
        _, so, si, sh, sw = self.weights.strides
        lanes, width = self.lanes, self.width
        si, inputs = free("si", si), free("inputs", self.inputs)

        def tap(i: Any, j: Any, c: Any) -> None:
            at = f.add(_tap_offset(f, a.taps, i, sh), f.add(_tap_offset(f, b.taps, j, sw), f.mul(c, si)))
            row = f.add(f.mul(f.add(f.mul(i, len(b.taps)), j), inputs), c)
            for v in range(width // lanes):
                count = max(0, min(lanes, columns - v * lanes))
                value = f.const(0, vector("float", lanes))
                if count:
                    address = f.at(f.at(source, f.mul(at, 4)), f.mul(v * lanes, far))
                    if isinstance(far, int):
                        value = load(f, address, float32, lanes, so, count)
                    else:
                        (value,) = side_by_side(f, address, far, [0], value, count)
                store(f, value, f.at(target, f.mul(f.add(f.mul(row, width), v * lanes), 4)), float32, lanes)

        f.loop(
            0,
            len(a.taps),
            lambda i: (
                f.loop(0, len(b.taps), lambda j: f.loop(start, stop, lambda c: tap(i, j, c)) and None) and None
            ),
        )

    def _far(self, f: Function) -> Any:
        """Bytes between the weights of neighbouring outputs, read from the table if they are many."""
        stride = self.weights.strides[1]
        return f.int(free("so", stride * 4)) if stride > _NEAR else stride * 4

    def _by_panel(self, f: Function, panel: Any, body: Any) -> None:
        """Call `body(columns)` with the number of columns that the panel has."""
        tail = self.outputs % self.width
        if not tail:
            body(self.width)
        elif self.panels == 1:
            body(tail)
        else:
            f.when(f.icmp("slt", panel, self.panels - 1), lambda: body(self.width))
            f.when(f.icmp("eq", panel, self.panels - 1), lambda: body(tail))

    # --- the product ----------------------------------------------------------------------------

    def emit(self, module: Module, name: str) -> None:
        """Write the kernel."""
        assert self.packed is not None
        f = kernel_function(module, name)
        bases = bases_of(f, [self.x.buffer, self.packed, *self.epilogue.buffers])
        self.epilogue.start(f, bases, self.lanes)
        scratch = scratch_of(f) if self.copies else None
        n = self.x.shape[0]
        every = self.groups * self.panels

        def item(number: Any) -> None:
            block, band, split = unravel(f, number, (self.blocks, self.bands, self.splits))
            image = f.mul(block, self.images)
            images = self.images if divides(self.images, n) else f.min(self.images, f.sub(n, image))
            row = f.mul(band, self.band)
            surface = self._surface(f, bases, scratch, image, images, row)
            start = f.div(f.mul(split, every), self.splits)
            stop = f.div(f.mul(f.add(split, 1), every), self.splits)

            def panel(p: Any) -> None:
                group, j = f.div(p, self.panels), f.rem(p, self.panels)
                b = f.at(bases[self.packed], f.mul(p, self.panel_size * 4))  # type: ignore[index]
                seen = f.mul(j, self.width) if self.depthwise else f.mul(group, self.inputs)
                a = surface.shifted(f, f.mul(seen, 4))
                channel = f.add(f.mul(group, self.outputs), f.mul(j, self.width))
                self._by_panel(
                    f, j, lambda columns: self._panel(f, bases, a, b, image, images, row, channel, columns)
                )

            f.loop(start, stop, panel)

        f.loop(f.args[1], f.args[2], item)
        f.ret()
        f.finish()

    def _surface(self, f: Function, bases: Any, scratch: Val | None, image: Any, images: Any, row: Any) -> _Surface:
        """The item's input: in place, or copied to a scratch memory with a border of zeros."""
        _, height, width, channels = self.x.shape
        pixel, line = channels * 4, width * channels * 4
        origin = f.at(bases[self.x.buffer], f.add(self.x.offset * 4, f.mul(image, height * line)))
        first = f.mul(row, self.stride)
        if scratch is None:
            return _Surface(f.at(origin, f.mul(first, line)), height * line, line, pixel, (0, 0))
        low_row, low_column = self.low
        padded = self.line * pixel
        copy_bordered(
            f,
            scratch,
            origin,
            (height, width, pixel),
            images,
            (self.lines, self.line),
            f.add(first, low_row),
            low_column,
        )
        return _Surface(scratch, self.lines * padded, padded, pixel, self.low)

    def _panel(
        self,
        f: Function,
        bases: Any,
        a: _Surface,
        b: Val,
        image: Any,
        images: Any,
        row: Any,
        channel: Any,
        columns: int,
    ) -> None:
        """All pixels of the item for the channels of one panel."""
        done = 0
        for (rows, cols), taps in zip(self.sweeps, self.taps, strict=True):
            weights = f.at(b, done * self.inputs * self.width * 4)
            done += taps
            walk = _Walk(self, f, bases, a, weights, rows, cols, channel, columns)
            limit = f.min(self.band, f.sub(rows.count, row)) if self.band < rows.count else rows.count
            if rows.count < self.most_rows and self.bands > 1:
                limit = f.min(self.band, f.sub(rows.count, row))
            f.loop(0, images, lambda m, walk=walk, limit=limit: walk.image(m, f.add(image, m), row, limit))


@dataclass(frozen=True)
class _Surface:
    """Input pixels in memory: strides in bytes, and the input position that lies at `start`."""

    start: Val
    image: int
    line: int
    pixel: int
    low: tuple[int, int]

    def shifted(self, f: Function, offset: Any) -> _Surface:
        return _Surface(f.at(self.start, offset), self.image, self.line, self.pixel, self.low)


class _Walk:
    """The tiles of one sweep, for one panel."""

    def __init__(
        self,
        kernel: ConvKernel,
        f: Function,
        bases: Any,
        a: _Surface,
        b: Val,
        rows: Sweep,
        cols: Sweep,
        channel: Any,
        columns: int,
    ):
        self.k, self.f, self.bases, self.b = kernel, f, bases, b
        self.rows, self.cols, self.channel = rows, cols, channel
        self.a, self.counts = a, columns_of(columns, kernel.lanes)
        self.down, self.across = rows.stride * a.line, cols.stride * a.pixel  # bytes between output pixels
        start = (rows.first - a.low[0]) * a.line + (cols.first - a.low[1]) * a.pixel
        self.start = f.at(a.start, start)
        inputs, step = kernel.inputs, kernel.width * 4
        loops: list[Loop] = [(len(rows.taps), rows.gap * a.line, len(cols.taps) * inputs * step)]
        if cols.gap == 1 and inputs * 4 == a.pixel and not kernel.depthwise:
            loops.append((len(cols.taps) * inputs, 4, step))
        else:
            loops += [(len(cols.taps), cols.gap * a.pixel, inputs * step), (inputs, 4, step)]
        self.loops = loops if rows.taps and cols.taps else [(0, 0, 0)]

    def image(self, m: Any, image: Any, row: Any, limit: Any) -> None:
        """All tiles in rows 0..limit-1 of the item; `row` is the number of its first."""
        f, together = self.f, self.k.group_rows[self.cols.count]
        start = f.at(self.start, f.mul(m, self.a.image))
        if together == 1:
            f.loop(0, limit, lambda r: self._line(f.at(start, f.mul(r, self.down)), image, f.add(row, r)))
            return

        def lines(r: Any, count: int) -> None:
            self._lines(f.at(start, f.mul(r, self.down)), image, f.add(row, r), count)

        f.loop(0, f.sub(limit, together - 1), lambda r: lines(r, together), step=together)
        rest = self.rows.count % together
        if rest:
            at_end = f.icmp("eq", f.int(f.add(row, limit)), self.rows.count)
            f.when(at_end, lambda: lines(f.sub(limit, rest), rest))

    def _line(self, a: Val, image: Any, row: Any) -> None:
        """One row of output pixels, in tiles of at most two sizes."""
        f, sizes = self.f, tile_rows(self.cols.count, self.k.most)
        column = 0
        for size in sorted(set(sizes), reverse=True):
            places = [(0, c) for c in range(size)]

            def tile(t: Any, size: int = size, places: Any = places, column: int = column) -> None:
                c = f.add(f.mul(t, size), column)
                self._tile(f.at(a, f.mul(c, self.across)), image, row, c, places)

            f.loop(0, sizes.count(size), tile)
            column += size * sizes.count(size)

    def _lines(self, a: Val, image: Any, row: Any, count: int) -> None:
        """A few short rows of output pixels."""
        every = [(r, c) for r in range(count) for c in range(self.cols.count)]
        done = 0
        for size in tile_rows(len(every), self.k.most):
            self._tile(a, image, row, 0, every[done : done + size])
            done += size

    def _tile(self, a: Val, image: Any, row: Any, column: Any, places: list[tuple[int, int]]) -> None:
        f, k = self.f, self.k
        rows = [r * self.down + c * self.across for r, c in places]
        zero = f.const(0, vector("float", k.lanes))
        acc = [zero] * (len(rows) * len(self.counts))
        acc = multiply(f, a, rows, self.b, self.loops, self.counts, k.lanes, acc, masked=False, wide=k.depthwise)
        y = f.add(f.mul(row, self.rows.step), self.rows.start)
        x = f.add(f.mul(column, self.cols.step), self.cols.start)
        shifts = [(0, r * self.rows.step, c * self.cols.step) for r, c in places]
        k.epilogue.finish_tile(f, self.bases, (image, y, x, self.channel), shifts, acc, self.counts, k.lanes)


def side_by_side(f: Function, start: Val, far: Val, offsets: Sequence[int], zero: Val, count: int) -> list[Val]:
    """For each of some offsets, a vector of `count` numbers that lie `far` bytes apart."""
    out = [zero] * len(offsets)
    for lane in range(count):
        for i, at in enumerate(offsets):
            one = f.load("float", f.at(start, 4 * at), 4)
            out[i] = f.value(f"insertelement {out[i]}, {one}, i64 {lane}", zero.ty)
        start = f.at(start, far)
    return out


def _tap_offset(f: Function, taps: tuple[int, ...], i: Any, stride: int) -> Any:
    """`taps[i] * stride`; the taps are evenly spaced."""
    step = taps[1] - taps[0] if len(taps) > 1 else 0
    return f.add(f.mul(i, step * stride), taps[0] * stride)
