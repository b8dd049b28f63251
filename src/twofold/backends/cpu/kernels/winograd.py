"""Convolutions with kernels of 3 x 3 and stride 1 by Winograd's minimal filtering.

Output tiles of 2 x 2 are computed of input tiles of 4 x 4 with 16 multiplications where the
definition has 36: y = A' [(G w G') * (B' x B)] A, as in Lavin and Gray, "Fast Algorithms for
Convolutional Neural Networks", arXiv:1509.09308, F(2x2, 3x3). Each of the 16 products of elements is
a matrix product over the channels. The gradient with respect to the input is such a convolution too,
and the one with respect to the weight is the transposed algorithm, G' [sum over tiles of (A y A') *
(B' x B)] G.

All transforms are sums and differences, and products with powers of two; every one has a fixed order.
Whether a convolution is computed in this way depends on the sizes of one image, not on their number.
"""

from __future__ import annotations

import functools
from collections.abc import Sequence
from typing import Any

from ....ir.config import WINOGRAD
from ....ir.dtypes import float32
from ..emit import Function, Module, Val, vector
from ..layout import Buffer
from ..sizes import free, planned
from .access import load, store
from .conv import ConvKernel, _tap_offset, side_by_side
from .cut import Cut
from .tile import bases_of, columns_of, copy_bytes, kernel_function, multiply, scratch_of, unravel, zero_bytes

_SCRATCH = 400 << 10  # bytes of transformed input that a worker holds at a time
_FEW_ITEMS = 16
LEAST_CHANNELS = 16
LEAST_GAIN = 1.3
SHIFT = 48  # numbers between the 16 elements of transformed weights: else they share sets of the caches
PAD = 64  # bytes between rows that are read side by side

COMBINATIONS = ((0, 2, "fsub"), (1, 2, "fadd"), (2, 1, "fsub"), (1, 3, "fsub"))  # the rows of B'


def gain(height: int, width: int) -> float:
    """Multiplications of the definition, without those by padding, over those of this algorithm."""
    return (3 * height - 2) * (3 * width - 2) / (16 * -(-height // 2) * -(-width // 2))


def is_worth_it(inputs: int, outputs: int, height: int, width: int) -> bool:
    """Whether a convolution that can be computed in this way is, by its channels and the size of its result.

    The same for the gradient with respect to the weight, by the size of the result's gradient.
    """
    return bool(WINOGRAD.value) and min(inputs, outputs) >= LEAST_CHANNELS and gain(height, width) >= LEAST_GAIN


def suits(kernel: ConvKernel) -> bool:
    """Whether a convolution can be computed in this way, and is worth it."""
    if len(kernel.sweeps) != 1 or kernel.groups != 1 or kernel.depthwise:
        return False
    if any(len(s.taps) != 3 or s.gap != 1 or s.stride != 1 for s in kernel.sweeps[0]):
        return False
    rows, cols = kernel.sweeps[0]
    return is_worth_it(kernel.inputs, kernel.outputs, rows.count, cols.count)


class Windows:
    """Addresses of windows of row-major images, with zeros where they are outside.

    Args:
        image: height, width and channels.
        tiles: windows down and across each image; neighbours are 2 pixels apart.
        first: where the first window begins.
        size: pixels of a window, down and across.
    """

    def __init__(
        self, image: tuple[int, int, int], tiles: tuple[int, int], first: tuple[int, int], size: tuple[int, int]
    ):
        self.image, self.tiles, self.first, self.size = image, tiles, first, size
        self.pixel = image[2] * 4
        self.scratch_bytes = (size[0] + 1) * size[1] * self.pixel

    def start(self, f: Function, spare: Val) -> None:
        """Make the row of zeros, which lies at the beginning of `spare`."""
        zero_bytes(f, spare, self.size[1] * self.pixel)

    def rows(
        self, f: Function, images: Val, number: Any, spare: Val, lines: Sequence[Any] | None = None
    ) -> list[Val]:
        """The addresses of rows of window `number`, by default of all."""
        height, width, _ = self.image
        tall, length = self.size
        lines = range(tall) if lines is None else lines
        n, i, j = place_of(f, number, self.tiles)
        y, x = f.add(f.mul(i, 2), self.first[0]), f.add(f.mul(j, 2), self.first[1])
        start = f.at(images, f.mul(f.add(f.mul(f.add(f.mul(n, height), y), width), x), self.pixel))
        out = [f.at(start, f.mul(r, width * self.pixel)) for r in lines]
        last = 2 * (self.tiles[1] - 1) + self.first[1] + length
        if self.first[1] < 0 or last > width:
            copied = [f.at(spare, (k + 1) * length * self.pixel) for k in range(len(lines))]
            edge = f.icmp("ugt", f.int(x), width - length) if width >= length else Val("true", "i1")

            def line(k: int) -> None:
                f.loop(0, length, lambda c: pixel(k, c))

            def pixel(k: int, c: Any) -> None:
                target, source = (f.at(row, f.mul(c, self.pixel)) for row in (copied[k], rows[k]))
                inside = f.icmp("ult", f.int(f.add(x, c)), width)
                f.when(inside, lambda: copy_bytes(f, target, source, self.pixel))
                outside = f.op("xor", inside, Val("true", "i1"))
                f.when(outside, lambda: zero_bytes(f, target, self.pixel))

            def copies() -> None:
                for k, r in enumerate(lines):
                    f.when(f.icmp("ult", f.int(f.add(y, r)), height), functools.partial(line, k))

            rows = out
            f.when(edge, copies)
            out = [f.select(edge, copy, row) for copy, row in zip(copied, out, strict=True)]
        last = 2 * (self.tiles[0] - 1) + self.first[0] + tall
        if self.first[0] < 0 or last > height:
            inside = [f.icmp("ult", f.int(f.add(y, r)), height) for r in lines]
            out = [f.select(yes, row, spare) for yes, row in zip(inside, out, strict=True)]
        return out


def place_of(f: Function, number: Any, grid: tuple[int, int]) -> tuple[Any, Any, Any]:
    """Image, row and column of tile `number`."""
    line = f.div(number, grid[1])
    return f.div(line, grid[0]), f.rem(line, grid[0]), f.rem(number, grid[1])


def by_vector(f: Function, channels: int, lanes: int, body: Any) -> None:
    """`body(channel, count)` for all channels."""
    whole = channels // lanes * lanes
    f.loop(0, whole, lambda c: body(c, lanes), step=lanes)
    if whole < channels:
        body(whole, channels - whole)


class WinogradKernel(ConvKernel):
    """The same as `ConvKernel`, for which `suits` holds."""

    def _block(self) -> None:
        n, height, width, channels = self.x.shape
        rows, cols = self.sweeps[0]
        self.size = rows.count, cols.count
        self.grid = -(-rows.count // 2), -(-cols.count // 2)
        self.windows = Windows((height, width, channels), self.grid, (rows.first, cols.first), (4, 4))
        self.element = self.inputs * self.width + SHIFT
        self.panel_size = 16 * self.element
        self.cut = Cut(n * self.grid[0] * self.grid[1], self.most, self.epilogue.may_repeat(self.x.buffer))
        self.row = -(-channels // self.lanes) * self.lanes * 4 + PAD
        fits = _SCRATCH // (16 * self.row * self.cut.height)
        self.block = max(1, min(fits, planned(self.cut.count) // 2))
        self.blocks = -(-self.cut.count // self.block)
        self.splits = min(self.panels, -(-_FEW_ITEMS // planned(self.blocks)))
        self.chunks = self.blocks * self.splits
        most = self.block * self.cut.height
        self.input_step = most * self.row + PAD  # between the elements of a tile, of 16 matrices
        self.output_step = most * self.width * 4 + PAD
        self.scratch_bytes = 16 * (self.input_step + self.output_step) + self.windows.scratch_bytes

    # --- packing: the weights transformed, [panel][element][in][width] ----------------------------

    def emit_packing(self, module: Module, name: str, packed: Buffer) -> int:
        self.packed = packed
        f = kernel_function(module, name)
        bases = bases_of(f, [self.weights.buffer, packed])
        rows, cols = self.sweeps[0]
        _, so, si, sh, sw = self.weights.strides
        block = min(self.inputs, 16)
        blocks = -(-self.inputs // block)
        step = f.int(free("element", self.element * 4))
        far = self._far(f)
        si = free("si", si)

        def item(number: Any) -> None:
            part, panel = f.rem(number, free("blocks", blocks)), f.div(number, free("blocks", blocks))
            start = f.mul(part, block)
            stop = f.min(f.add(start, block), free("inputs", self.inputs))
            source = f.at(bases[self.weights.buffer], f.mul(f.mul(panel, self.width), far))
            source = f.at(source, self.weights.offset * 4)
            target = f.at(bases[packed], f.mul(panel, free("panel", self.panel_size * 4)))
            self._by_panel(
                f, panel, lambda columns: f.loop(start, stop, lambda c: channel(source, target, c, columns))
            )

        def channel(source: Val, target: Val, c: Any, columns: int) -> None:
            if columns == self.width:
                f.loop(0, columns, lambda o: part(source, target, c, o, self.lanes), step=self.lanes)
                return
            for o in range(0, self.width, self.lanes):
                part(source, target, c, o, max(0, min(self.lanes, columns - o)))

        def part(source: Val, target: Val, c: Any, o: Any, count: int) -> None:
            start = f.at(f.at(source, f.mul(o, far)), f.mul(f.mul(c, si), 4))
            taps = [f.const(0, vector("float", self.lanes))] * 9
            if count:
                offsets = [
                    _tap_offset(f, rows.taps, i, sh) + _tap_offset(f, cols.taps, j, sw)
                    for i in range(3)
                    for j in range(3)
                ]
                if isinstance(far, int):
                    taps = [load(f, f.at(start, 4 * at), float32, self.lanes, so, count) for at in offsets]
                else:
                    taps = side_by_side(f, start, far, offsets, taps[0], count)
            out = f.at(target, f.mul(f.add(f.mul(c, self.width), o), 4))
            for value in weight_transform(f, taps):
                store(f, value, out, float32, self.lanes)
                out = f.at(out, step)

        f.loop(f.args[1], f.args[2], item)
        f.ret()
        f.finish()
        return self.panels * blocks

    # --- the product ------------------------------------------------------------------------------

    def emit(self, module: Module, name: str) -> None:
        packed = self.packed
        assert packed is not None
        f = kernel_function(module, name)
        bases = bases_of(f, [self.x.buffer, packed, *self.epilogue.buffers])
        self.epilogue.start(f, bases, self.lanes)
        scratch = scratch_of(f)
        products = f.at(scratch, 16 * self.input_step)
        spare = f.at(products, 16 * self.output_step)
        self.windows.start(f, spare)
        x = f.at(bases[self.x.buffer], self.x.offset * 4)

        def item(number: Any) -> None:
            block, split = unravel(f, number, (self.blocks, self.splits))
            begin = f.mul(block, self.block)
            end = f.min(f.add(begin, self.block), self.cut.count)
            first, count = self.cut.span(f, begin, end)

            def transform(t: Any) -> None:
                self._transform(f, x, f.add(first, t), f.at(scratch, f.mul(t, self.row)), spare)

            def panel(p: Any) -> None:
                b = f.at(bases[packed], f.mul(p, self.panel_size * 4))

                def with_columns(columns: int) -> None:
                    counts = columns_of(columns, self.lanes)

                    def element(e: Any) -> None:
                        f.loop(begin, end, lambda m: self._multiply(f, scratch, b, products, e, m, first, counts))

                    def finish(t: Any) -> None:
                        self._finish(f, bases, products, t, f.add(first, t), f.mul(p, self.width), counts)

                    f.loop(0, 16, element)
                    f.loop(0, count, finish)

                self._by_panel(f, p, with_columns)

            f.loop(0, count, transform)
            start = f.div(f.mul(split, self.panels), self.splits)
            f.loop(start, f.div(f.mul(f.add(split, 1), self.panels), self.splits), panel)

        f.loop(f.args[1], f.args[2], item)
        f.ret()
        f.finish()

    def _transform(self, f: Function, x: Val, number: Any, target: Val, spare: Val) -> None:
        rows = self.windows.rows(f, x, number, spare)

        def channel(c: Any, count: int) -> None:
            place = f.mul(c, 4)
            at = [f.at(row, place) for row in rows]
            x = [
                [load(f, f.at(row, j * self.windows.pixel), float32, self.lanes, 1, count) for j in range(4)]
                for row in at
            ]
            out = f.at(target, place)
            for e, value in enumerate(input_transform(f, x)):
                store(f, value, f.at(out, e * self.input_step), float32, self.lanes)

        by_vector(f, self.inputs, self.lanes, channel)

    def _multiply(
        self, f: Function, a: Val, b: Val, products: Val, e: Any, m: Any, first: Any, counts: list[int]
    ) -> None:
        """One element of each of a few tiles, for one panel."""
        t = f.sub(self.cut.first(f, m), first)
        a = f.at(a, f.add(f.mul(e, self.input_step), f.mul(t, self.row)))
        b = f.at(b, f.mul(e, self.element * 4))
        out = f.at(products, f.add(f.mul(e, self.output_step), f.mul(t, self.width * 4)))

        def some(rows: int, _: Any) -> None:
            acc = [f.const(0, vector("float", self.lanes))] * (rows * len(counts))
            offsets = [r * self.row for r in range(rows)]
            loops = [(self.inputs, 4, self.width * 4)]
            acc = multiply(f, a, offsets, b, loops, counts, self.lanes, acc, masked=False)
            for r in range(rows):
                for v in range(len(counts)):
                    f.store(acc[r * len(counts) + v], f.at(out, (r * self.width + v * self.lanes) * 4), 4)

        self.cut.each(f, m, some)

    def _finish(
        self, f: Function, bases: Any, products: Val, t: Any, number: Any, channel: Any, counts: list[int]
    ) -> None:
        """The pixels of one tile, for one panel."""
        source = f.at(products, f.mul(t, self.width * 4))
        ty = vector("float", self.lanes)
        n, i, j = place_of(f, number, self.grid)
        y, x = f.mul(i, 2), f.mul(j, 2)
        results = []
        for v in range(len(counts)):
            m = [f.load(ty, f.at(source, e * self.output_step + v * self.lanes * 4), 4) for e in range(16)]
            results.append(output_transform(f, m))

        def pixel(k: int) -> None:
            acc = [r[k] for r in results]
            index = (n, f.add(y, k // 2), f.add(x, k % 2), channel)
            self.epilogue.finish_tile(f, bases, index, [(0, 0, 0)], acc, counts, self.lanes)

        for k in range(4):
            conditions = []
            if k // 2 and self.size[0] % 2:
                conditions.append(f.icmp("slt", f.int(i), self.grid[0] - 1))
            if k % 2 and self.size[1] % 2:
                conditions.append(f.icmp("slt", f.int(j), self.grid[1] - 1))
            if not conditions:
                pixel(k)
            else:
                both = f.op("and", conditions[0], conditions[-1]) if len(conditions) > 1 else conditions[0]
                f.when(both, functools.partial(pixel, k))


def input_transform(f: Function, x: Sequence[Sequence[Val]]) -> list[Val]:
    """B' x B of a tile of 4 x 4."""
    down = [[f.op(op, x[a][j], x[b][j]) for j in range(4)] for a, b, op in COMBINATIONS]
    return [f.op(op, row[a], row[b]) for row in down for a, b, op in COMBINATIONS]


def weight_transform(f: Function, w: Sequence[Val]) -> list[Val]:
    """G w G' of a kernel of 3 x 3."""
    half = f.const(0.5, w[0].ty)

    def three(a: Val, b: Val, c: Val) -> list[Val]:
        ends = f.op("fadd", a, c)
        return [a, f.op("fmul", f.op("fadd", ends, b), half), f.op("fmul", f.op("fsub", ends, b), half), c]

    columns = [three(w[j], w[3 + j], w[6 + j]) for j in range(3)]
    return [value for i in range(4) for value in three(*[column[i] for column in columns])]


def output_transform(f: Function, m: Sequence[Val]) -> list[Val]:
    """A' m A of a tile of 4 x 4."""

    def two(a: Val, b: Val, c: Val, d: Val) -> tuple[Val, Val]:
        return f.op("fadd", f.op("fadd", a, b), c), f.op("fsub", f.op("fsub", b, c), d)

    columns = [two(m[j], m[4 + j], m[8 + j], m[12 + j]) for j in range(4)]
    return [value for i in range(2) for value in two(*[column[i] for column in columns])]
