"""The gradient of a convolution with respect to its weight, with channels last.

A tile is up to 14 rows, each an input channel under one tap, by two vectors of output channels; k
runs over images and output pixels, the gradient of the output is read as it lies. With many input
channels a tile stays under one tap, and k runs over the pixels where that tap meets the input, so
that no border is needed. With few, the rows are all taps and channels together, and the image is
copied to scratch memory with a border.

Note [Groups of images]
Images are cut into at most 16 groups, as the shapes say; each group adds into a partial result of its
own, and the partial results are added in order.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from ....ir.dtypes import float32
from ....ir.types import Shape
from ..emit import Function, Module, Val, vector
from ..layout import Buffer, View
from ..sizes import divides, free, least, planned
from ..target import Target
from .access import store
from .cut import tile_rows
from .tile import (
    Loop,
    bases_of,
    columns_of,
    copy_bordered,
    kernel_function,
    multiply,
    scratch_of,
    unravel,
)

_MOST_GROUPS = 16
_ENOUGH_ITEMS = 32
_PARTIAL_BYTES = 8 << 20
_BLOCK_BYTES = 384 << 10
_FEW_CHANNELS = 8


def panels_of(outputs: int, lanes: int) -> tuple[int, int]:
    """How many output channels a panel has, and how many panels there are."""
    width = lanes * (2 if outputs > lanes else 1)
    return width, -(-outputs // width)


def sees_one(groups: int, inputs: int, outputs: int) -> bool:
    """Whether a convolution is depthwise: output channel c sees input channel c only."""
    return groups > 1 and groups == inputs == outputs


def images_of_group(batch: int, inputs: int, outputs: int, groups: int, kernel: Shape, target: Target) -> int:
    """How many images there are in a group, see Note [Groups of images]; the kernel has two dimensions."""
    if sees_one(groups, inputs, outputs):
        groups, inputs = 1, 1
    inputs, outputs = inputs // groups, outputs // groups
    width, panels = panels_of(outputs, target.lanes(4))
    pieces = 1 if inputs < _FEW_CHANNELS and groups == 1 else groups * panels * kernel[0]
    size = groups * panels * kernel[0] * kernel[1] * inputs * width * 4
    most_groups = min(_MOST_GROUPS, -(-_ENOUGH_ITEMS // pieces), max(1, _PARTIAL_BYTES // size))
    return -(-batch // least(batch, most_groups))


class WeightGradKernel:
    """Code for one weight gradient.

    Args:
        x: the input (N, H, W, C), row-major.
        g: the gradient of the output (N, H', W', O), row-major.
        groups, kernel, stride, low, dilation: of the convolution; `low` is the padding before.

    In a depthwise convolution output channel c sees input channel c only: it is treated as one group
    with one input channel, which differs from lane to lane.
    """

    def __init__(
        self,
        x: View,
        g: View,
        groups: int,
        kernel: Shape,
        stride: Shape,
        low: Shape,
        dilation: Shape,
        target: Target,
    ):
        self.x, self.g, self.groups = x, g, groups
        self.kernel, self.stride, self.low, self.dilation = kernel, stride, low, dilation
        batch, every = x.shape[0], groups
        self.depthwise = sees_one(groups, x.shape[3], g.shape[3])
        if self.depthwise:
            self.groups = groups = 1
        self.inputs, self.outputs = x.shape[3] // groups, g.shape[3] // groups
        if self.depthwise:
            self.inputs = 1
        self.lanes = target.lanes(4)
        self.most = target.tile_rows
        self.width, self.panels = panels_of(self.outputs, self.lanes)
        self.together = self.inputs < _FEW_CHANNELS and groups == 1
        self.panel_size = kernel[0] * kernel[1] * self.inputs * self.width
        pieces = 1 if self.together else groups * self.panels * kernel[0]
        self.per = images_of_group(batch, x.shape[3], g.shape[3], every, kernel, target)
        self.partials = -(-batch // self.per)
        self.chunks = self.partials * pieces
        self.scratch_bytes = 0
        if self.together:
            self._band()

    def _band(self) -> None:
        """How much of an image is copied at a time."""
        rows, cols = self.g.shape[1:3]
        self.line = (cols - 1) * self.stride[1] + self.dilation[1] * (self.kernel[1] - 1) + 1
        reach = self.dilation[0] * (self.kernel[0] - 1) + 1
        fits = _BLOCK_BYTES // (self.line * self.x.shape[3] * 4)
        self.band = max(1, min(rows, (fits - reach) // self.stride[0] + 1))
        self.lines = (self.band - 1) * self.stride[0] + reach
        self.scratch_bytes = self.lines * self.line * self.x.shape[3] * 4

    def partial_size(self) -> int:
        """Elements of all partial results: per group of images [panel][kh][kw][in][width]."""
        return self.partials * self.groups * self.panels * self.panel_size

    # --- the partial results --------------------------------------------------------------------

    def emit(self, module: Module, name: str, partials: Buffer) -> None:
        f = kernel_function(module, name)
        bases = bases_of(f, [self.x.buffer, self.g.buffer, partials])
        n, rows, cols, channels = self.g.shape
        scratch = scratch_of(f) if self.together else None

        def item(number: Any) -> None:
            sizes = (self.partials, 1 if self.together else self.groups * self.panels * self.kernel[0])
            part, rest = unravel(f, number, sizes)
            image = f.mul(part, self.per)
            images = self.per if divides(self.per, n) else f.min(self.per, f.sub(n, image))
            out = f.at(bases[partials], f.mul(part, self.groups * self.panels * self.panel_size * 4))
            offset = f.add(f.mul(image, rows * cols * channels), self.g.offset)
            g = f.at(bases[self.g.buffer], f.mul(offset, 4))
            _, height, width, inputs = self.x.shape
            offset = f.add(f.mul(image, height * width * inputs), self.x.offset)
            x = f.at(bases[self.x.buffer], f.mul(offset, 4))
            if scratch is not None:
                self._together(f, x, g, out, images, scratch)
                return
            p, tap = f.div(rest, self.kernel[0]), f.rem(rest, self.kernel[0])
            group, panel = f.div(p, self.panels), f.rem(p, self.panels)
            channel = f.add(f.mul(group, self.outputs), f.mul(panel, self.width))
            g, x = f.at(g, f.mul(channel, 4)), f.at(x, f.mul(group, self.inputs * 4))
            out = f.at(out, f.mul(p, self.panel_size * 4))
            self._by_panel(f, panel, lambda counts: self._apart(f, x, g, out, images, tap, counts))

        f.loop(f.args[1], f.args[2], item)
        f.ret()
        f.finish()

    def _by_panel(self, f: Function, panel: Any, body: Callable[[list[int]], None]) -> None:
        """Call `body` with the panel's number of elements per vector."""
        tail = self.outputs % self.width
        whole, rest = columns_of(self.width, self.lanes), columns_of(tail, self.lanes)
        if not tail:
            body(whole)
        elif self.panels == 1:
            body(rest)
        else:
            f.when(f.icmp("slt", panel, self.panels - 1), lambda: body(whole))
            f.when(f.icmp("eq", panel, self.panels - 1), lambda: body(rest))

    def _tile(
        self,
        f: Function,
        a: Val,
        rows: list[int],
        b: Val,
        loops: list[Loop],
        out: Val,
        counts: list[int],
        fresh: Val | None,
    ) -> None:
        """Add to a tile of the partial result; `fresh` says whether there is nothing in it yet."""
        ty, lanes = vector("float", self.lanes), self.lanes
        zero = f.const(0, ty)
        places = [f.at(out, (r * self.width + v * lanes) * 4) for r in range(len(rows)) for v in range(len(counts))]
        if fresh is None:
            acc = [zero] * len(places)
        else:
            acc = [f.select(fresh, zero, f.load(ty, place, 4)) for place in places]
        acc = multiply(f, a, rows, b, loops, counts, lanes, acc, masked=True, wide=self.depthwise)
        for place, value in zip(places, acc, strict=True):
            f.store(value, place, 4)

    def _together(self, f: Function, x: Val, g: Val, out: Val, images: Any, scratch: Val) -> None:
        """All taps and channels of few: image by image, band by band."""
        _, rows, cols, channels = self.g.shape
        _, height, width, inputs = self.x.shape
        pixel, line = inputs * 4, self.line * inputs * 4
        offsets = [
            i * self.dilation[0] * line + j * self.dilation[1] * pixel + c * 4
            for i in range(self.kernel[0])
            for j in range(self.kernel[1])
            for c in range(self.inputs)
        ]

        def band(m: Any, row: Any) -> None:
            source = f.at(x, f.mul(m, height * width * pixel))
            first = f.add(f.mul(row, self.stride[0]), -self.low[0])
            copy_bordered(
                f, scratch, source, (height, width, pixel), 1, (self.lines, self.line), first, -self.low[1]
            )
            count = f.min(self.band, f.sub(rows, row)) if rows % self.band else self.band
            b = f.at(g, f.mul(f.add(f.mul(m, rows), row), cols * channels * 4))
            loops: list[Loop] = [
                (count, self.stride[0] * line, cols * channels * 4),
                (cols, self.stride[1] * pixel, channels * 4),
            ]
            fresh = f.icmp("eq", f.int(f.add(m, row)), 0)

            def panel(p: Any) -> None:
                start = f.at(scratch, f.mul(p, self.width * 4)) if self.depthwise else scratch
                self._by_panel(f, p, lambda counts: tiles(start, f.mul(p, self.width * 4), p, counts))

            def tiles(a: Val, channel: Any, p: Any, counts: list[int]) -> None:
                done = 0
                for size in tile_rows(len(offsets), self.most):
                    place = f.at(out, f.add(f.mul(p, self.panel_size * 4), done * self.width * 4))
                    self._tile(f, a, offsets[done : done + size], f.at(b, channel), loops, place, counts, fresh)
                    done += size

            f.loop(0, self.panels, panel)

        f.loop(0, images, lambda m: f.loop(0, rows, lambda r: band(m, r), step=self.band) and None)

    def _apart(self, f: Function, x: Val, g: Val, out: Val, images: Any, i: Any, counts: list[int]) -> None:
        """The taps of one row of the kernel, each where it meets the input."""
        _, rows, cols, channels = self.g.shape
        _, height, width, inputs = self.x.shape
        pixel, line = inputs * 4, width * inputs * 4
        y, first_row, num_rows = self._meets(f, 0, i, height, rows)
        block = max(1, _BLOCK_BYTES // (height * line + rows * cols * self.width * 4))
        cuts = block < max(self.per, planned(self.per))
        sizes = tile_rows(self.inputs, self.most)
        point = self.kernel == (1, 1) and self.stride == (1, 1) and (rows, cols) == (height, width)

        def images_from(m: Any) -> None:
            count = f.min(block, f.sub(images, m)) if cuts else images
            fresh = f.icmp("eq", f.int(m), 0) if cuts else None
            f.loop(0, self.kernel[1], lambda j: tap(m, count, fresh, j))

        def tap(m: Any, count: Any, fresh: Val | None, j: Any) -> None:
            z, first_col, num_cols = self._meets(f, 1, j, width, cols)
            place = f.add(f.mul(f.add(f.mul(m, height), y), line), f.mul(z, pixel))
            a = f.at(x, place)
            place = f.add(f.mul(f.add(f.mul(m, rows), first_row), cols), first_col)
            b = f.at(g, f.mul(place, channels * 4))
            loops: list[Loop]
            if point:
                loops = [(f.mul(count, rows * cols), pixel, channels * 4)]
            else:
                loops = [
                    (count, height * line, rows * cols * channels * 4),
                    (num_rows, self.stride[0] * line, cols * channels * 4),
                    (num_cols, self.stride[1] * pixel, channels * 4),
                ]
            start = f.at(out, f.mul(f.add(f.mul(i, self.kernel[1]), j), self.inputs * self.width * 4))
            done = 0
            for size in sorted(set(sizes), reverse=True):
                offsets = [4 * r for r in range(size)]

                def tile(t: Any, size: int = size, done: int = done, offsets: list[int] = offsets) -> None:
                    row = f.add(f.mul(t, size), done)
                    target = f.at(start, f.mul(row, self.width * 4))
                    self._tile(f, f.at(a, f.mul(row, 4)), offsets, b, loops, target, counts, fresh)

                f.loop(0, sizes.count(size), tile)
                done += size * sizes.count(size)

        f.loop(0, images, images_from, step=block)

    def _meets(self, f: Function, d: int, tap: Any, size: int, count: int) -> tuple[Any, Any, Any]:
        """The first input element that a tap meets, at which output position, and how many follow."""
        starts, firsts, counts = [], [], []
        for t in range(self.kernel[d]):
            shift = t * self.dilation[d] - self.low[d]
            first = max(0, -(shift // self.stride[d]))
            stop = max(first, min(count, (size - 1 - shift) // self.stride[d] + 1))
            starts.append(first * self.stride[d] + shift)
            firsts.append(first)
            counts.append(stop - first)
        return pick(f, tap, starts), pick(f, tap, firsts), pick(f, tap, counts)

    # --- the sum of the partial results -----------------------------------------------------------

    def emit_combine(self, module: Module, name: str, partials: Buffer, out: View) -> int:
        """Add the groups in order, into (O, C / groups, KH, KW); returns its number of chunks."""
        f = kernel_function(module, name)
        bases = bases_of(f, [partials, out.buffer])
        lanes, taps = self.lanes, self.kernel[0] * self.kernel[1]
        every = self.groups * self.panels
        ty = vector("float", lanes)
        inputs, panels = free("inputs", self.inputs), free("panels", self.panels)
        count_of_partials, size = free("partials", self.partials), free("size", every * self.panel_size * 4)
        far, along = f.int(free("far", self.inputs * taps * 4)), free("along", self.inputs * self.width * 4)

        def item(number: Any) -> None:
            p, c = f.div(number, inputs), f.rem(number, inputs)
            group: Any = 0
            panel = p
            if self.groups > 1:
                group, panel = f.div(p, panels), f.rem(p, panels)
            source = f.mul(p, free("panel", self.panel_size))
            source = f.at(bases[partials], f.mul(f.add(source, f.mul(c, self.width)), 4))
            channel = f.add(f.mul(group, self.outputs), f.mul(panel, self.width))
            place = f.mul(f.add(f.mul(channel, inputs), c), taps)
            target = f.at(bases[out.buffer], f.mul(f.add(place, out.offset), 4))

            def with_columns(counts: list[int]) -> None:
                def tap(t: Any) -> None:
                    start = f.at(source, f.mul(t, along))
                    to = f.at(target, f.mul(t, 4))
                    for v, count in enumerate(counts):
                        total = sum_of(f, f.at(start, v * lanes * 4), count_of_partials, size, ty)
                        for lane in range(count):
                            store(f, f.extract(total, lane), to, float32, 1)
                            to = f.at(to, far)

                f.loop(0, taps, tap)

            self._by_panel(f, panel, with_columns)

        per_chunk = max(1, 512 // taps)
        items = free("items", every * self.inputs)
        start = f.mul(f.args[1], per_chunk)
        f.loop(start, f.min(f.mul(f.args[2], per_chunk), items), item)
        f.ret()
        f.finish()
        return -(-every * self.inputs // per_chunk)


_UNROLLED = 5  # of the 15 sums that there mostly are


def sum_of(f: Function, first: Val, count: int, step: int, ty: str) -> Val:
    """The sum of `count` vectors, `step` bytes apart, in order."""

    def add(_: Any, total: Val, at: Val) -> list[Val]:
        at = f.at(at, step)
        return [f.op("fadd", total, f.load(ty, at, 4)), at]

    def add_some(q: Any, total: Val, at: Val) -> list[Val]:
        for _ in range(_UNROLLED):
            total, at = add(q, total, at)
        return [total, at]

    whole = 1 + (count - 1) // _UNROLLED * _UNROLLED
    acc = f.loop(1, whole, add_some, [f.load(ty, first, 4), first], step=_UNROLLED)
    return f.loop(whole, count, add, acc)[0]


def pick(f: Function, i: Any, values: list[int]) -> Any:
    """`values[i]`, by a chain of selections."""
    if isinstance(i, int):
        return values[i]
    out: Any = values[0]
    for k in range(1, len(values)):
        if values[k:] == [values[k - 1]] * (len(values) - k):
            break
        out = f.select(f.icmp("sge", i, k), f.int(values[k]), f.int(out))
    return out
