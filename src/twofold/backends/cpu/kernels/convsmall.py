"""Convolution of many small images: the rows of a tile are the same pixel of different images.

Then all rows of a tile see the same taps, and taps that meet nothing but padding are left out: on
images of 4 x 4 under a kernel of 3 x 3 that is a third of the work. Images are copied to scratch
memory at a distance that is no multiple of a page, since their rows are read side by side.
"""

from __future__ import annotations

from typing import Any

from ..emit import Function, Module, Val, vector
from ..sizes import planned
from .conv import ConvKernel, Sweep
from .convgrad import pick
from .cut import Cut
from .tile import (
    bases_of,
    columns_of,
    copy_bytes,
    kernel_function,
    multiply,
    scratch_of,
    unravel,
)

_SCRATCH = 448 << 10
_FEW_ITEMS = 16
_MOST_USE = 0.93  # of the taps: above, the copy does not pay
_LEAST_CHANNELS = 16


def suits(kernel: ConvKernel) -> bool:
    """Whether a convolution has images enough, and borders enough."""
    n, height, width, channels = kernel.x.shape
    if kernel.depthwise or planned(n) < kernel.most // 2 or kernel.inputs < _LEAST_CHANNELS or not kernel.copies:
        return False
    reach = max((len(a.taps) - 1) * a.gap + 1 for a, _ in kernel.sweeps)
    if reach * width * channels * 4 * kernel.most > _SCRATCH:
        return False
    used = sum(_met(a, height) * _met(b, width) for a, b in kernel.sweeps)
    every = sum(a.count * len(a.taps) * b.count * len(b.taps) for a, b in kernel.sweeps)
    return used <= _MOST_USE * every


def _met(sweep: Sweep, size: int) -> int:
    """How many pairs of a position and a tap lie inside the input."""
    starts = [sweep.first + i * sweep.stride for i in range(sweep.count)]
    return sum(0 <= s + t * sweep.gap < size for s in starts for t in range(len(sweep.taps)))


class SmallConvKernel(ConvKernel):
    """The same as `ConvKernel`, for which `suits` holds."""

    def _block(self) -> None:
        n, height, width, channels = self.x.shape
        seen = [a for (a, _), taps in zip(self.sweeps, self.taps, strict=True) if taps]
        self.stride = self.sweeps[0][0].stride
        self.most_rows = max(a.count for a, _ in self.sweeps)
        self.cut = Cut(n, self.most, self.epilogue.may_repeat(self.x.buffer))
        self.first = min(a.first for a in seen)
        reach = max(a.first + (len(a.taps) - 1) * a.gap for a in seen) - self.first + 1
        line = width * channels * 4
        fits = _SCRATCH // (self.cut.height * line)
        self.band = max(1, min(self.most_rows, (fits - reach) // self.stride + 1))
        self.bands = -(-self.most_rows // self.band)
        self.lines = min(height, reach + (self.band - 1) * self.stride)
        self.image_bytes = self.lines * line + 64
        every = self.groups * self.panels
        self.splits = min(every, -(-_FEW_ITEMS // (planned(self.cut.count) * self.bands)))
        self.chunks = self.cut.count * self.bands * self.splits
        self.scratch_bytes = self.cut.height * self.image_bytes

    def emit(self, module: Module, name: str) -> None:
        assert self.packed is not None
        f = kernel_function(module, name)
        bases = bases_of(f, [self.x.buffer, self.packed, *self.epilogue.buffers])
        self.epilogue.start(f, bases, self.lanes)
        scratch = scratch_of(f)

        def item(number: Any) -> None:
            t, band, split = unravel(f, number, (self.cut.count, self.bands, self.splits))

            def with_images(images: int, image: Any) -> None:
                self._item(f, bases, scratch, images, image, f.mul(band, self.band), split)

            self.cut.each(f, t, with_images)

        f.loop(f.args[1], f.args[2], item)
        f.ret()
        f.finish()

    def _item(self, f: Function, bases: Any, scratch: Val, images: int, image: Any, row: Any, split: Any) -> None:
        """A band of rows of one tile's images, for some panels."""
        _, height, width, channels = self.x.shape
        line, every = width * channels * 4, self.groups * self.panels
        y0: Any = f.add(f.mul(row, self.stride), self.first)
        y0 = f.select(f.icmp("sgt", y0, 0), f.int(y0), f.int(0)) if isinstance(y0, Val) else max(y0, 0)
        y0 = f.min(y0, height - self.lines)

        def copy(m: Any) -> None:
            place = f.mul(f.add(f.mul(f.add(image, m), height), y0), line)
            source = f.at(bases[self.x.buffer], f.add(place, self.x.offset * 4))
            copy_bytes(f, f.at(scratch, f.mul(m, self.image_bytes)), source, self.lines * line)

        f.loop(0, images, copy)

        def panel(p: Any) -> None:
            group, j = f.div(p, self.panels), f.rem(p, self.panels)
            b = f.at(bases[self.packed], f.mul(p, self.panel_size * 4))
            a = f.at(scratch, f.mul(group, self.inputs * 4))
            channel = f.add(f.mul(group, self.outputs), f.mul(j, self.width))

            def with_columns(columns: int) -> None:
                before = [sum(self.taps[:s]) * self.inputs * self.width * 4 for s in range(len(self.sweeps))]
                rows, cols = ([pair[d] for pair in self.sweeps] for d in range(2))

                def sweep(s: Any) -> None:
                    weights = f.at(b, pick(f, s, before))
                    here = _Chosen(f, s, rows), _Chosen(f, s, cols)
                    self._sweep(f, bases, a, weights, *here, images, image, row, y0, channel, columns)

                if len({one.gap for one in (*rows, *cols)}) == 1:
                    f.loop(0, len(before), sweep)
                else:
                    for s in range(len(before)):
                        sweep(s)

            self._by_panel(f, j, with_columns)

        start = f.div(f.mul(split, every), self.splits)
        f.loop(start, f.div(f.mul(f.add(split, 1), every), self.splits), panel)

    def _sweep(
        self,
        f: Function,
        bases: Any,
        a: Val,
        b: Val,
        rows: _Chosen,
        cols: _Chosen,
        images: int,
        image: Any,
        row: Any,
        y0: Any,
        channel: Any,
        columns: int,
    ) -> None:
        """All pixels of a sweep in the band, one after the other."""
        _, height, width, channels = self.x.shape
        counts, step = columns_of(columns, self.lanes), self.width * 4
        pixel, line = channels * 4, width * channels * 4
        across: Any = f.mul(cols.taps, self.inputs * step)

        def tile(i: Any, j: Any) -> None:
            y, first_y, num_y = _meets(f, rows, i, height)
            x, first_x, num_x = _meets(f, cols, j, width)
            start = f.add(f.mul(f.sub(y, y0), line), f.mul(x, pixel))
            weight = f.add(f.mul(first_y, across), f.mul(first_x, self.inputs * step))
            loops: list[Any] = [(num_y, rows.gap * line, across)]
            if cols.gap == 1 and self.inputs * 4 == pixel:
                loops.append((f.mul(num_x, self.inputs), 4, step))
            else:
                loops += [(num_x, cols.gap * pixel, self.inputs * step), (self.inputs, 4, step)]
            offsets = [m * self.image_bytes for m in range(images)]
            zero = f.const(0, vector("float", self.lanes))
            acc = [zero] * (images * len(counts))
            first, weights = f.at(a, start), f.at(b, weight)
            acc = multiply(f, first, offsets, weights, loops, counts, self.lanes, acc, masked=False)
            place = (
                image,
                f.add(f.mul(i, rows.step), rows.start),
                f.add(f.mul(j, cols.step), cols.start),
                channel,
            )
            shifts = [(m, 0, 0) for m in range(images)]
            self.epilogue.finish_tile(f, bases, place, shifts, acc, counts, self.lanes)

        stop = f.min(f.add(row, self.band), rows.count)
        f.loop(row, stop, lambda i: f.loop(0, cols.count, lambda j: tile(i, j)) and None)


class _Chosen:
    """A sweep, by its number among those that the code is for, which are equally dense."""

    def __init__(self, f: Function, number: Any, sweeps: list[Sweep]):
        one = sweeps[0] if isinstance(number, Val) else sweeps[number]
        self.step, self.stride, self.gap = one.step, one.stride, one.gap
        self.start = pick(f, number, [s.start for s in sweeps])
        self.count = pick(f, number, [s.count for s in sweeps])
        self.first = pick(f, number, [s.first for s in sweeps])
        self.taps = pick(f, number, [len(s.taps) for s in sweeps])
        self.back = max(max(0, -s.first) // self.gap + 1 for s in sweeps)


def _meets(f: Function, sweep: _Chosen, i: Any, size: int) -> tuple[Any, Any, Any]:
    """The first input element that position i sees, under which tap, and how many taps follow."""
    if sweep.taps.__class__ is int and not sweep.taps:
        return 0, 0, 0
    start = f.add(f.mul(i, sweep.stride), sweep.first)
    gap, back = sweep.gap, sweep.back
    # divisions are of non-negative numbers only
    first = f.sub(back, f.div(f.add(start, back * gap), gap))
    first = f.select(f.icmp("sgt", first, 0), f.int(first), f.int(0)) if isinstance(first, Val) else max(first, 0)
    left: Any = f.sub(size + gap - 1, start)
    left = f.select(f.icmp("sgt", left, 0), f.int(left), f.int(0)) if isinstance(left, Val) else max(left, 0)
    stop = f.min(f.div(left, gap), sweep.taps)
    count: Any = f.sub(stop, first)
    count = f.select(f.icmp("sgt", count, 0), f.int(count), f.int(0)) if isinstance(count, Val) else max(count, 0)
    return f.add(start, f.mul(first, gap)), first, count
