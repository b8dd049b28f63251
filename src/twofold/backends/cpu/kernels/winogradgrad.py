"""The gradient of a 3 x 3 convolution with respect to its weight, by Winograd's minimal filtering.

It is the transposed algorithm of `winograd`: w' = G' [sum over tiles of (A g A') * (B' x B)] G, where x
are tiles of 4 x 4 of the input and g those of 2 x 2 of the gradient. Each of the 16 elements is a matrix
product over all tiles.

Note [Groups of tiles]
Tiles are cut into groups, as the shapes say; each group adds into a partial result of its own, in
order, and the partial results are added in order.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

from ....ir.dtypes import float32
from ....ir.types import Shape
from ..emit import Function, Module, Val, vector
from ..layout import Buffer, View
from ..sizes import free, least, most, planned
from ..target import Target
from .access import load, store
from .convgrad import pick, sum_of
from .cut import tile_rows
from .tile import bases_of, columns_of, copy_bytes, kernel_function, multiply, scratch_of, unravel
from .winograd import (
    COMBINATIONS,
    PAD,
    SHIFT,
    Windows,
    by_vector,
    input_transform,
    is_worth_it,
)

_SCRATCH = 500 << 10  # bytes of transformed tiles that a worker holds at a time
_FEW_ITEMS = 16
_ENOUGH_TILES = 48  # to be transformed at a time
_PARTIAL_BYTES = 8 << 20


def suits_weight_grad(x: View, g: View, groups: int, kernel: Shape, stride: Shape, dilation: Shape) -> bool:
    """Whether a gradient can be computed in this way, and is worth it."""
    if groups != 1 or kernel != (3, 3) or stride != (1, 1) or dilation != (1, 1):
        return False
    _, rows, cols, outputs = g.shape
    return is_worth_it(x.shape[3], outputs, rows, cols)


def groups_of_tiles(tiles: int, inputs: int, outputs: int) -> tuple[int, int, int]:
    """How the sum over all tiles is cut: it decides about bits, so it depends on shapes alone.

    Returns:
        in how many pieces of work the 16 elements are done, how many groups of tiles are planned, and the tiles of
        a group.
    """
    pieces = 1 if 64 * _ENOUGH_TILES * (inputs + outputs) <= _SCRATCH else 4
    bound = max(1, _PARTIAL_BYTES // (64 * inputs * outputs))
    groups = most(1, least(min(_FEW_ITEMS // pieces, bound), tiles // _ENOUGH_TILES))
    return pieces, groups, -(-tiles // groups)


class WinogradWeightGradKernel:
    """The same as `WeightGradKernel`, for which `suits_weight_grad` holds.

    Where there are many channels, the four rows of elements are separate pieces of work.

    Args:
        x: the input (N, H, W, C), row-major.
        g: the gradient of the output (N, H', W', O), row-major.
        low: the padding before.
    """

    def __init__(self, x: View, g: View, low: Shape, target: Target):
        self.x, self.g = x, g
        n, height, width, self.inputs = x.shape
        _, rows, cols, self.outputs = g.shape
        self.lanes, self.most = target.lanes(4), target.tile_rows
        self.width = self.lanes * (2 if self.outputs > self.lanes else 1)
        self.panels = -(-self.outputs // self.width)
        grid = (-(-rows // 2), -(-cols // 2))
        self.seen = Windows((height, width, self.inputs), grid, (-low[0], -low[1]), (4, 4))
        self.given = Windows((rows, cols, self.outputs), grid, (0, 0), (2, 2))
        self.panel_size = self.inputs * self.width
        self.step = self.panels * self.panel_size + SHIFT
        self.size = 16 * self.step  # numbers of a partial result
        tiles = n * grid[0] * grid[1]
        self.pieces, groups, self.per = groups_of_tiles(tiles, self.inputs, self.outputs)
        self.elements = 16 // self.pieces
        self.splits = min(self.panels, -(-_FEW_ITEMS // (self.pieces * planned(groups))))
        wide = -(-self.panels // self.splits)  # panels of one item
        self.row = -(-self.inputs // self.lanes) * self.lanes * 4 + PAD
        tile = self.row + wide * self.width * 4  # bytes of one element of a transformed tile
        self.tiles, self.partials = tiles, -(-tiles // self.per)
        self.chunks = self.partials * self.pieces * self.splits
        fits = _SCRATCH // (self.elements * tile)
        at_once = -(-planned(self.per) // -(-planned(self.per) // max(16, fits)))
        self.block = -(-self.per // -(-self.per // at_once))
        self.cuts = self.block < self.per or at_once < planned(self.per)
        self.input_step = at_once * self.row + PAD
        self.panel_step = at_once * self.width * 4 + PAD
        self.output_step = wide * self.panel_step
        windows = self.seen.scratch_bytes + self.given.scratch_bytes
        self.scratch_bytes = self.elements * (self.input_step + self.output_step) + windows

    def partial_size(self) -> int:
        """Elements of all partial results: per group of tiles [element][panel][in][width]."""
        return self.partials * self.size

    def emit(self, module: Module, name: str, partials: Buffer) -> None:
        f = kernel_function(module, name)
        bases = bases_of(f, [self.x.buffer, self.g.buffer, partials])
        x = f.at(bases[self.x.buffer], self.x.offset * 4)
        g = f.at(bases[self.g.buffer], self.g.offset * 4)
        scratch = scratch_of(f)
        given = f.at(scratch, self.elements * self.input_step)
        spare = f.at(given, self.elements * self.output_step)
        other = f.at(spare, self.seen.scratch_bytes)
        self.seen.start(f, spare)
        self.given.start(f, other)

        def item(number: Any) -> None:
            part, split, i = unravel(f, number, (self.partials, self.splits, self.pieces))
            begin = f.mul(part, self.per)
            end = f.min(f.add(begin, self.per), self.tiles)
            start = f.div(f.mul(split, self.panels), self.splits)
            stop = f.div(f.mul(f.add(split, 1), self.panels), self.splits)
            out = f.at(bases[partials], f.mul(f.add(f.mul(part, self.pieces), i), self.elements * self.step * 4))

            def block(first: Any) -> None:
                count = f.min(self.block, f.sub(end, first))

                def see(t: Any) -> None:
                    self._see(f, x, i, f.add(first, t), f.at(scratch, f.mul(t, self.row)), spare)

                def give(t: Any) -> None:
                    target = f.at(given, f.mul(t, self.width * 4))
                    self._give(f, g, i, f.add(first, t), target, other, start, stop)

                f.loop(0, count, see)
                f.loop(0, count, give)
                fresh = f.icmp("eq", f.int(first), begin) if self.cuts else None

                def panel(j: Any, p: Any) -> None:
                    a = f.at(scratch, f.mul(j, self.input_step))
                    b = f.at(given, f.add(f.mul(j, self.output_step), f.mul(f.sub(p, start), self.panel_step)))
                    place = f.at(out, f.add(f.mul(j, self.step * 4), f.mul(p, self.panel_size * 4)))
                    self._by_panel(f, p, lambda counts: self._multiply(f, a, b, place, count, counts, fresh))

                f.loop(0, self.elements, lambda j: f.loop(start, stop, lambda p: panel(j, p)) and None)

            f.loop(begin, end, block, step=self.block)

        f.loop(f.args[1], f.args[2], item)
        f.ret()
        f.finish()

    def _by_panel(self, f: Function, panel: Any, body: Callable[[list[int]], None]) -> None:
        tail = self.outputs % self.width
        if not tail:
            body(columns_of(self.width, self.lanes))
        elif self.panels == 1:
            body(columns_of(tail, self.lanes))
        else:
            f.when(f.icmp("slt", panel, self.panels - 1), lambda: body(columns_of(self.width, self.lanes)))
            f.when(f.icmp("eq", panel, self.panels - 1), lambda: body(columns_of(tail, self.lanes)))

    def _see(self, f: Function, images: Val, i: Any, number: Any, target: Val, spare: Val) -> None:
        """The elements of a tile of the input: all, or row `i` of them."""
        ty, whole = vector("float", self.lanes), self.pieces == 1
        rows = self.seen.rows(f, images, number, spare, None if whole else lines_of(f, i))
        sign = None if whole else sign_of(f, i, ty)

        def channel(c: Any, count: int) -> None:
            x = []
            for row in rows:
                at = f.at(row, f.mul(c, 4))
                x.append([load(f, f.at(at, j * self.seen.pixel), float32, self.lanes, 1, count) for j in range(4)])
            values = input_transform(f, x) if sign is None else input_row(f, x, sign)
            out = f.at(target, f.mul(c, 4))
            for j, value in enumerate(values):
                store(f, value, f.at(out, j * self.input_step), float32, self.lanes)

        by_vector(f, self.inputs, self.lanes, channel)

    def _give(
        self, f: Function, images: Val, i: Any, number: Any, target: Val, spare: Val, start: Any, stop: Any
    ) -> None:
        """The elements of a tile of the gradient for some panels: all, or row `i` of them."""
        ty, whole = vector("float", self.lanes), self.pieces == 1
        rows = self.given.rows(f, images, number, spare)
        factors = None if whole else factors_of(f, i, ty)

        def panel(p: Any) -> None:
            out = f.at(target, f.mul(f.sub(p, start), self.panel_step))

            def with_columns(counts: list[int]) -> None:
                for v, count in enumerate(counts):
                    part(p, out, v, count)

            self._by_panel(f, p, with_columns)

        def part(p: Any, out: Val, v: int, count: int) -> None:
            place = f.add(f.mul(p, self.width * 4), v * self.lanes * 4)
            g = [
                [
                    load(f, f.at(f.at(row, place), j * self.given.pixel), float32, self.lanes, 1, count)
                    for j in range(2)
                ]
                for row in rows
            ]
            values = output_gradient(f, g) if factors is None else output_gradient_row(f, g, factors)
            for j, value in enumerate(values):
                store(f, value, f.at(out, j * self.output_step + v * self.lanes * 4), float32, self.lanes)

        f.loop(start, stop, panel)

    def _multiply(
        self, f: Function, a: Val, b: Val, out: Val, count: Any, counts: list[int], fresh: Val | None
    ) -> None:
        """Add one element of all tiles of a block to the partial result."""
        ty = vector("float", self.lanes)
        sizes = tile_rows(self.inputs, self.most)
        done = 0
        for size in sorted(set(sizes), reverse=True):

            def tile(t: Any, size: int = size, done: int = done) -> None:
                row = f.add(f.mul(t, size), done)
                target = f.at(out, f.mul(row, self.width * 4))
                places = [
                    f.at(target, (r * self.width + v * self.lanes) * 4)
                    for r in range(size)
                    for v in range(len(counts))
                ]
                zero = f.const(0, ty)
                acc = [zero if fresh is None else f.select(fresh, zero, f.load(ty, place, 4)) for place in places]
                loops = [(count, self.row, self.width * 4)]
                rows = [4 * r for r in range(size)]
                acc = multiply(f, f.at(a, f.mul(row, 4)), rows, b, loops, counts, self.lanes, acc, masked=False)
                for place, value in zip(places, acc, strict=True):
                    f.store(value, place, 4)

            f.loop(0, sizes.count(size), tile)
            done += size * sizes.count(size)

    # --- the sum of the partial results -------------------------------------------------------------

    def emit_combine(self, module: Module, name: str, partials: Buffer, out: View) -> int:
        """Add the groups in order and transform, into (O, C, 3, 3); returns its number of chunks."""
        f = kernel_function(module, name)
        bases = bases_of(f, [partials, out.buffer])
        lanes = self.lanes
        ty = vector("float", lanes)
        block = min(self.inputs, 16)
        blocks = -(-self.inputs // block)
        line = block * 36 + PAD
        staged = f.alloca(lanes * line)
        elements = f.alloca(16 * lanes * 4)
        inputs, step = free("inputs", self.inputs), free("step", self.step * 4)
        count_of_partials, size = free("partials", self.partials), free("size", self.size * 4)

        def item(number: Any) -> None:
            p, part = f.div(number, free("blocks", blocks)), f.rem(number, free("blocks", blocks))
            first = f.mul(part, block)
            rows = f.min(block, f.sub(inputs, first)) if self.inputs % block else block
            panel = f.mul(p, free("panel", self.panel_size))
            source = f.at(bases[partials], f.mul(f.add(panel, f.mul(first, self.width)), 4))
            place = f.add(f.mul(f.mul(p, self.width), inputs), first)
            target = f.at(bases[out.buffer], f.mul(f.add(f.mul(place, 9), out.offset), 4))

            def channel(c: Any, o: Any, count: int) -> None:
                start = f.at(source, f.mul(f.add(f.mul(c, self.width), o), 4))

                def element(e: Any) -> None:
                    total = sum_of(f, f.at(start, f.mul(e, step)), count_of_partials, size, ty)
                    f.store(total, f.at(elements, f.mul(e, lanes * 4)), 4)

                f.loop(0, 16, element)
                m = [f.load(ty, f.at(elements, e * lanes * 4), 4) for e in range(16)]
                to = f.at(staged, f.mul(c, 36))
                for t, value in enumerate(gradient_transform(f, m)):
                    for lane in range(count):
                        store(f, f.extract(value, lane), f.at(to, lane * line + t * 4), float32, 1)

            def columns(o: Any, count: int) -> None:
                def copy(lane: Any) -> None:
                    to = f.at(target, f.mul(f.mul(f.add(o, lane), inputs), 36))
                    fro = f.at(staged, f.mul(lane, line))
                    if isinstance(rows, int):
                        copy_bytes(f, to, fro, rows * 36)
                    else:
                        f.loop(
                            0, rows, lambda c: copy_bytes(f, f.at(to, f.mul(c, 36)), f.at(fro, f.mul(c, 36)), 36)
                        )

                f.loop(0, rows, lambda c: channel(c, o, count))
                f.loop(0, count, copy)

            def with_columns(counts: list[int]) -> None:
                if sum(counts) == self.width:
                    f.loop(0, self.width, lambda o: columns(o, lanes), step=lanes)
                    return
                for v, count in enumerate(counts):
                    columns(v * lanes, count)

            self._by_panel(f, p, with_columns)

        f.loop(f.args[1], f.args[2], item)
        f.ret()
        f.finish()
        return self.panels * blocks


def lines_of(f: Function, i: Any) -> list[Any]:
    """The lines of x that row `i` of B' x B is made of."""
    return [pick(f, i, [p for p, _, _ in COMBINATIONS]), pick(f, i, [q for _, q, _ in COMBINATIONS])]


def sign_of(f: Function, i: Any, ty: str) -> Val:
    """By what the second of these lines is multiplied."""
    return f.select(f.icmp("eq", f.int(i), 1), f.const(1.0, ty), f.const(-1.0, ty))


def input_row(f: Function, x: Sequence[Sequence[Val]], sign: Val) -> list[Val]:
    """A row of B' x B, of two lines of x."""
    t = [f.op("fadd", a, f.op("fmul", b, sign)) for a, b in zip(*x, strict=True)]
    return [f.op(op, t[p], t[q]) for p, q, op in COMBINATIONS]


def factors_of(f: Function, i: Any, ty: str) -> tuple[Val, Val]:
    """By what the lines of g are multiplied for row `i` of A g A'."""
    zero, one, minus = (f.const(v, ty) for v in (0.0, 1.0, -1.0))
    lower = f.select(f.icmp("eq", f.int(i), 0), zero, f.select(f.icmp("eq", f.int(i), 2), minus, one))
    return f.select(f.icmp("eq", f.int(i), 3), zero, one), lower


def output_gradient(f: Function, g: Sequence[Sequence[Val]]) -> list[Val]:
    """A g A' of a tile of 2 x 2, with the other sign in the last row and column."""
    columns = [_four(f, *pair) for pair in zip(*g, strict=True)]
    return [value for pair in zip(*columns, strict=True) for value in _four(f, *pair)]


def output_gradient_row(f: Function, g: Sequence[Sequence[Val]], factors: tuple[Val, Val]) -> list[Val]:
    """A row of it."""
    a, b = [f.op("fadd", f.op("fmul", x, factors[0]), f.op("fmul", y, factors[1])) for x, y in zip(*g, strict=True)]
    return _four(f, a, b)


def _four(f: Function, a: Val, b: Val) -> list[Val]:
    return [a, f.op("fadd", a, b), f.op("fsub", a, b), b]


def gradient_transform(f: Function, m: Sequence[Val]) -> list[Val]:
    """G' m G, where the last row and column of m have the other sign."""
    half = f.const(0.5, m[0].ty)

    def three(a: Val, b: Val, c: Val, d: Val) -> list[Val]:
        even = f.op("fmul", f.op("fadd", b, c), half)
        return [f.op("fadd", a, even), f.op("fmul", f.op("fsub", b, c), half), f.op("fsub", even, d)]

    columns = [three(m[j], m[4 + j], m[8 + j], m[12 + j]) for j in range(4)]
    return [value for i in range(3) for value in three(*[column[i] for column in columns])]
