"""Convolutions of every dtype and number of dimensions: forward and both gradients.

`conv` and `convgrad` are for the common case, float32 with one or two spatial dimensions. Here the
input gets its border of zeros in memory of its own, and the batch is one more dimension without taps.
A tile of up to 14 positions by two vectors of output channels is held in registers; each element is
one chain of fused multiply-adds, in the order of the taps and, under each tap, of the channels.
float16 and bfloat16 are widened first and rounded once, when a tile is stored.

The gradient with respect to the input is a convolution for each remainder of the position by the
stride (see Note [Sweeps] in `conv`), a kernel each. In the gradient with respect to the weight a tile
is some rows (a tap and an input channel each) by output channels, and the chain runs over positions;
where there are few tiles, in blocks of images whose sums are added in order.
"""

from __future__ import annotations

import itertools
import math
from collections.abc import Callable, Sequence
from typing import Any

from ....ir.dtypes import FLOATS, HALVES, DType, float32
from ....ir.graph import Node
from ....ir.types import Shape, contiguous_strides
from .. import registers
from ..emit import Function, Val, vector
from ..layout import Buffer, View
from ..step import Step
from ..target import Target
from .access import load, store
from .conv import Sweep, adjoint_sweeps, forward_sweeps
from .convgrad import panels_of, sees_one
from .copying import CHUNK, Piece, copy_piece, copy_step, fill_piece, places
from .cut import tile_rows
from .relayout import row_major
from .tile import Loop, bases_of, columns_of, kernel_function, multiply, unravel

_WORK = 1 << 18  # multiply-adds per chunk, at least
_FEW_CHUNKS = 16


def supports(node: Node) -> bool:
    """Whether there is a kernel for this convolution or gradient."""
    return node.inputs[0].dtype in FLOATS and node.inputs[0].ndim > 2


def _held(dtype: DType) -> DType:
    return float32 if dtype in HALVES else dtype


# --- operands -------------------------------------------------------------------------------------


def bordered(
    lowering: Any, view: View, low: Sequence[int], high: Sequence[int], value: Any, node: Node, symbol: str
) -> tuple[View, list[Step]]:
    """(N, *S, C) row-major, with a border of `value` of those sizes around S."""
    if not any((*low, *high)):
        return row_major(lowering, view, node, symbol)
    n, *size, channels = view.shape
    shape = (n, *(s + a + b for s, a, b in zip(size, low, high, strict=True)), channels)
    out = View.whole(lowering.buffer("temp", view.dtype, math.prod(shape)), shape)
    one = (1,) * len(shape)
    pieces: list[Piece | None] = [copy_piece(view, out.sliced((0, *low, 0), one, view.shape))]
    start, part = [0] * len(shape), list(shape)
    for d, (a, b) in enumerate(zip(low, high, strict=True), 1):
        for begin, count in ((0, a), (shape[d] - b, b)):
            border = out.sliced((*start[:d], begin, *start[d + 1 :]), one, (*part[:d], count, *part[d + 1 :]))
            if count:
                pieces.append(fill_piece(value, view.dtype, border))
        start[d], part[d] = a, view.shape[d]
    return out, copy_step(lowering, node, symbol, [p for p in pieces if p])


def widened(lowering: Any, view: View, node: Node, symbol: str) -> tuple[View, list[Step]]:
    """A row-major view in the dtype that products are computed in."""
    if view.dtype not in HALVES:
        return view, []
    out = View.whole(lowering.buffer("temp", float32, math.prod(view.shape)), view.shape)
    return out, [flat(lowering, node, symbol, [view], out)]


def flat(lowering: Any, node: Node, symbol: str, sources: Sequence[View], out: View) -> Step:
    """The sum, in order, of row-major views, converted to the dtype of the result."""
    f = kernel_function(lowering.module, symbol)
    buffers = [*(v.buffer for v in sources), out.buffer]
    bases = bases_of(f, buffers)
    size = math.prod(out.shape)
    lanes = lowering.target.lanes(_held(out.dtype).itemsize)

    def part(i: Any, count: int | None) -> None:
        total: Val | None = None
        for view in sources:
            at = f.at(bases[view.buffer], f.mul(f.add(i, view.offset), view.dtype.itemsize))
            v = load(f, at, view.dtype, lanes, 1, count)
            total = v if total is None else f.op("fadd", total, v)
        assert total is not None
        at = f.at(bases[out.buffer], f.mul(f.add(i, out.offset), out.dtype.itemsize))
        store(f, total, at, out.dtype, lanes, count)

    whole = size // lanes * lanes
    start, stop = f.mul(f.args[1], CHUNK), f.min(f.mul(f.args[2], CHUNK), size)
    f.loop(start, f.min(stop, whole), lambda i: part(i, None), step=lanes)
    if whole < size:
        f.when(f.icmp("eq", stop, size), lambda: part(whole, size - whole))
    f.ret()
    f.finish()
    return Step("copy", [node], -(-size // CHUNK), symbol, tuple(dict.fromkeys(buffers)))


def _zeros(lowering: Any, node: Node, symbol: str) -> list[Step]:
    out = lowering.views[node.outputs[0]]
    piece = fill_piece(0, out.dtype, out)
    assert piece is not None
    return copy_step(lowering, node, symbol, [piece])


# --- forward, and the gradient of the input ---------------------------------------------------------


def lower_general(lowering: Any, node: Node, symbol: str) -> list[Step] | None:
    """`conv_last` and `conv_last_input_grad`."""
    if not supports(node):
        return None
    if not all(v.type.size for v in node.inputs):
        return _zeros(lowering, node, symbol)
    x, w = (lowering.views[v] for v in node.inputs)
    out, params, kernel = node.outputs[0], node.params, node.inputs[1].shape[2:]
    make = adjoint_sweeps if node.prim.name.endswith("input_grad") else forward_sweeps
    spatial = zip(out.shape[1:-1], kernel, params["stride"], params["padding"], params["dilation"], strict=True)
    sweeps = [make(n, k, s, pad[0], d) for n, k, s, pad, d in spatial]
    groups = params["groups"]
    so, si, *taps = w.strides
    outs, ins = node.inputs[1].shape[0] // groups, node.inputs[1].shape[1]
    strides: Shape = (so * outs, so, si, *taps)
    if make is adjoint_sweeps:
        ins, outs = outs, ins
        strides = (so * ins, si, so, *taps)
    depthwise = groups > 1 and ins == outs == 1
    if depthwise:
        outs, groups, strides = groups, 1, (0, strides[0], 0, *taps)
    every = [p for p in itertools.product(*sweeps) if all(s.taps for s in p)]
    low = [max(0, -min((s.first for s in d if s.taps), default=0)) for d in sweeps]
    high = [
        max(0, max((s.last + 1 for s in d if s.taps), default=0) - n)
        for d, n in zip(sweeps, x.shape[1:-1], strict=True)
    ]
    steps: list[Step] = []
    if every:
        x, steps = bordered(lowering, x, low, high, 0, node, symbol + "x")
        x, widening = widened(lowering, x, node, symbol + "y")
        steps += widening
    if len(every) < math.prod(len(d) for d in sweeps):  # some positions see nothing
        steps += _zeros(lowering, node, symbol + "z")
    weights = View(w.buffer, (groups, outs, ins, *kernel), strides, w.offset)
    for i, parts in enumerate(every):
        code = _Product(lowering, node, x, low, weights, parts, depthwise, f"{symbol}s{i}")
        steps += [code.emit_packing(), code.emit()]
    return steps


def _by_panel(f: Function, panel: Any, panels: int, width: int, total: int, body: Callable[[int], None]) -> None:
    """Call `body(columns)` with the number of columns that the panel has."""
    tail = total % width
    if not tail or panels == 1:
        body(tail or width)
    else:
        f.when(f.icmp("slt", panel, panels - 1), lambda: body(width))
        f.when(f.icmp("eq", panel, panels - 1), lambda: body(tail))


class _Product:
    """One convolution, of the positions and taps of a sweep along each dimension.

    Args:
        x: the input (N, *S, C), row-major and with its border, in the dtype of the products.
        low: size of the border before each dimension of S.
        weights: (group, output, input, *K) by strides.
        depthwise: output channel c sees input channel c only; then groups and inputs are 1.
    """

    def __init__(
        self,
        lowering: Any,
        node: Node,
        x: View,
        low: Sequence[int],
        weights: View,
        sweeps: Sequence[Sweep],
        depthwise: bool,
        symbol: str,
    ):
        self.lowering, self.node, self.x, self.weights, self.symbol = lowering, node, x, weights, symbol
        self.sweeps, self.depthwise = sweeps, depthwise
        self.out: View = lowering.views[node.outputs[0]]
        self.dtype = x.dtype
        self.size = self.dtype.itemsize
        self.groups, self.outputs, self.inputs = weights.shape[:3]
        self.lanes = lowering.target.lanes(self.size)
        self.width = self.lanes * (2 if self.outputs > self.lanes else 1)
        self.panels = -(-self.outputs // self.width)
        self.taps = tuple([len(s.taps) for s in sweeps])
        self.panel_size = math.prod(self.taps) * self.inputs * self.width
        self.packed: Buffer = lowering.buffer("temp", self.dtype, self.groups * self.panels * self.panel_size)
        n, *lines, _ = x.strides
        self.counts = (x.shape[0], *(s.count for s in sweeps))
        self.across = (n, *(s.stride * stride for s, stride in zip(sweeps, lines, strict=True)))
        m, *rows, _ = self.out.strides
        self.out_across = (m, *(s.step * stride for s, stride in zip(sweeps, rows, strict=True)))
        self.start = x.offset + sum((s.first + a) * t for s, a, t in zip(sweeps, low, lines, strict=True))
        self.out_start = self.out.offset + sum(s.start * t for s, t in zip(sweeps, rows, strict=True))
        self._cut(lowering.target.tile_rows)

    def _cut(self, most: int) -> None:
        """Which dimensions lie inside a tile, which one is cut into tiles, and which are around them."""
        j, inside = len(self.counts), 1
        while j > 0 and inside * self.counts[j - 1] <= most:
            j -= 1
            inside *= self.counts[j]
        self.inner = j
        self.tiles = tile_rows(self.counts[j - 1], most // inside) if j > 0 else [1]
        self.items = math.prod(self.counts[: max(0, j - 1)]) * len(self.tiles)
        work = self.tiles[0] * inside * self.panel_size
        every = self.groups * self.panels
        self.per_chunk = max(1, min(_WORK // work, self.items * every // (2 * _FEW_CHUNKS)))
        self.blocks = -(-self.items // self.per_chunk)
        self.chunks = self.blocks * every

    def emit_packing(self) -> Step:
        """The weights in the order in which they are read: per panel [*taps][input][width]."""
        name, w = self.symbol + "p", self.weights
        f = kernel_function(self.lowering.module, name)
        bases = bases_of(f, [w.buffer, self.packed])
        block = min(self.inputs, 16)
        blocks = -(-self.inputs // block)
        sg, so, si, *st = w.strides
        size = w.dtype.itemsize

        def item(number: Any) -> None:
            group, panel, part = unravel(f, number, (self.groups, self.panels, blocks))
            first = f.mul(part, block)
            last = f.min(f.add(first, block), self.inputs)
            origin = f.add(f.add(f.mul(group, sg), f.mul(panel, self.width * so)), w.offset)
            target = f.mul(f.add(f.mul(group, self.panels), panel), self.panel_size)

            def nest(d: int, at: Any, row: Any, columns: int) -> None:
                if d < len(self.taps):
                    taps = self.sweeps[d].taps
                    gap = taps[1] - taps[0] if len(taps) > 1 else 0

                    def tap(i: Any) -> None:
                        place = f.add(at, f.add(taps[0] * st[d], f.mul(i, gap * st[d])))
                        nest(d + 1, place, f.add(f.mul(row, len(taps)), i), columns)

                    f.loop(0, len(taps), tap)
                    return
                f.loop(
                    first,
                    last,
                    lambda c: channel(f.add(at, f.mul(c, si)), f.add(f.mul(row, self.inputs), c), columns),
                )

            def channel(at: Any, row: Any, columns: int) -> None:
                source = f.at(bases[w.buffer], f.mul(at, size))
                to = f.at(bases[self.packed], f.mul(f.add(target, f.mul(row, self.width)), self.size))
                for v in range(self.width // self.lanes):
                    count = max(0, min(self.lanes, columns - v * self.lanes))
                    value = f.const(0, vector(registers.HELD[self.dtype.name], self.lanes))
                    if count:
                        value = load(f, f.at(source, v * self.lanes * so * size), w.dtype, self.lanes, so, count)
                    store(f, value, f.at(to, v * self.lanes * self.size), self.dtype, self.lanes)

            _by_panel(f, panel, self.panels, self.width, self.outputs, lambda columns: nest(0, origin, 0, columns))

        f.loop(f.args[1], f.args[2], item)
        f.ret()
        f.finish()
        return Step("pack", [self.node], self.groups * self.panels * blocks, name, (w.buffer, self.packed))

    def emit(self) -> Step:
        f = kernel_function(self.lowering.module, self.symbol)
        buffers = (self.x.buffer, self.packed, self.out.buffer)
        bases = bases_of(f, buffers)
        edge = max(0, self.inner - 1)
        small, extra = self.tiles[-1], sum(n > self.tiles[-1] for n in self.tiles)

        def chunk(number: Any) -> None:
            block, group, panel = unravel(f, number, (self.blocks, self.groups, self.panels))
            place = f.mul(f.add(f.mul(group, self.panels), panel), self.panel_size * self.size)
            b = f.at(bases[self.packed], place)
            column = f.mul(panel, self.width)
            seen = f.add(self.start, column if self.depthwise else f.mul(group, self.inputs))
            made = f.add(self.out_start, f.add(f.mul(group, self.outputs), column))

            def tile(t: Any) -> None:
                outer, k = f.div(t, len(self.tiles)), f.rem(t, len(self.tiles))
                fro, to = places(f, outer, self.counts[:edge], self.across[:edge], self.out_across[:edge])
                first = f.add(f.mul(k, small), f.min(k, extra))
                if self.inner:
                    fro = f.add(fro, f.mul(first, self.across[edge]))
                    to = f.add(to, f.mul(first, self.out_across[edge]))
                a = f.at(bases[self.x.buffer], f.mul(f.add(fro, seen), self.size))
                y = f.at(bases[self.out.buffer], f.mul(f.add(to, made), self.out.dtype.itemsize))

                def with_rows(rows: int) -> None:
                    _by_panel(
                        f,
                        panel,
                        self.panels,
                        self.width,
                        self.outputs,
                        lambda columns: self._tile(f, a, b, y, rows, columns),
                    )

                if extra in (0, len(self.tiles)):
                    with_rows(self.tiles[0])
                else:
                    f.when(f.icmp("slt", k, extra), lambda: with_rows(small + 1))
                    f.when(f.icmp("sge", k, extra), lambda: with_rows(small))

            begin = f.mul(block, self.per_chunk)
            f.loop(begin, f.min(f.add(begin, self.per_chunk), self.items), tile)

        f.loop(f.args[1], f.args[2], chunk)
        f.ret()
        f.finish()
        return Step("conv", [self.node], self.chunks, self.symbol, buffers)

    def _tile(self, f: Function, a: Val, b: Val, y: Val, rows: int, columns: int) -> None:
        """A tile: `rows` along the dimension that is cut, times what is inside."""
        sizes = [(rows, self.across[self.inner - 1], self.out_across[self.inner - 1])] if self.inner else []
        inner = range(self.inner, len(self.counts))
        sizes += [(self.counts[d], self.across[d], self.out_across[d]) for d in inner]
        every = list(itertools.product(*(range(n) for n, _, _ in sizes)))
        fro = [sum(i * s for i, (_, s, _) in zip(p, sizes, strict=True)) * self.size for p in every]
        to = [sum(i * s for i, (_, _, s) in zip(p, sizes, strict=True)) for p in every]
        counts = columns_of(columns, self.lanes)
        zero = f.const(0, vector(registers.HELD[self.dtype.name], self.lanes))
        acc = multiply(
            f, a, fro, b, self._loops(), counts, self.lanes, [zero] * (len(every) * len(counts)),
            masked=False, wide=self.depthwise, dtype=self.dtype,
        )  # fmt: skip
        size = self.out.dtype.itemsize
        for r, offset in enumerate(to):
            for v, count in enumerate(counts):
                at = f.at(y, (offset + v * self.lanes) * size)
                store(f, acc[r * len(counts) + v], at, self.out.dtype, self.lanes, count)

    def _loops(self) -> list[Loop]:
        """Over the taps, then the channels, outermost first."""
        _, *lines, _ = self.x.strides
        loops: list[Loop] = []
        step = self.inputs * self.width * self.size
        for s, line in reversed(list(zip(self.sweeps, lines, strict=True))):
            loops.insert(0, (len(s.taps), s.gap * line * self.size, step))
            step *= len(s.taps)
        channels: Loop = (self.inputs, self.size, self.width * self.size)
        times, gap, _ = loops[-1]
        if gap == self.inputs * self.size and not self.depthwise:
            loops.pop()
            channels = (times * self.inputs, *channels[1:])
        return [*loops, channels]


# --- the gradient of the weight ---------------------------------------------------------------------


def lower_general_weight_grad(lowering: Any, node: Node, symbol: str) -> list[Step] | None:
    """`conv_last_weight_grad`."""
    if not supports(node):
        return None
    if not all(v.type.size for v in node.inputs):
        return _zeros(lowering, node, symbol)
    x, g = (lowering.views[v] for v in node.inputs)
    p = node.params
    lows = [lo for lo, _ in p["padding"]]
    every = zip(p["kernel_size"], p["stride"], p["dilation"], g.shape[1:-1], lows, x.shape[1:-1], strict=True)
    highs = [max(0, (m - 1) * s + (k - 1) * d + 1 - lo - n) for k, s, d, m, lo, n in every]
    steps: list[Step] = []
    x, copies = bordered(lowering, x, lows, highs, 0, node, symbol + "x")
    steps += copies
    x, copies = widened(lowering, x, node, symbol + "y")
    steps += copies
    g, copies = row_major(lowering, g, node, symbol + "g")
    steps += copies
    g, copies = widened(lowering, g, node, symbol + "h")
    return steps + copies + _WeightGrad(lowering, node, x, g, symbol).emit()


def _outer_taps(kernel: Shape, dilation: Shape, groups: int, depthwise: bool, most: int) -> int:
    """How many dimensions of the kernel are not among the rows of a tile.

    These are channels under one tap, or of neighbouring taps where these lie side by side. Depthwise, where a row
    has only one channel for each output, they are as many taps as fit.
    """
    j = len(kernel)
    if depthwise:
        while j > 0 and math.prod(kernel[j - 1 :]) <= most:
            j -= 1
    elif dilation[-1] == 1 and groups == 1:
        j -= 1
    return j


def images_of_block(
    images: int,
    inputs: int,
    outputs: int,
    groups: int,
    kernel: Shape,
    dilation: Shape,
    itemsize: int,
    target: Target,
) -> int:
    """How many images there are in one of the blocks whose sums are added; `itemsize` is of what is added."""
    depthwise = sees_one(groups, inputs, outputs)
    if depthwise:
        groups, inputs = 1, 1
    inputs, outputs = inputs // groups, outputs // groups
    j = _outer_taps(kernel, dilation, groups, depthwise, target.tile_rows)
    heights = 1 if depthwise else -(-math.prod(kernel[j:]) * inputs // target.tile_rows)
    _, panels = panels_of(outputs, target.lanes(itemsize))
    tiles = groups * math.prod(kernel[:j]) * heights * panels
    return -(-images // min(images, -(-_FEW_CHUNKS // tiles)))


class _WeightGrad:
    """gw[o, c, tap] = the sum over positions of x[position under the tap, c] * g[position, o]."""

    def __init__(self, lowering: Any, node: Node, x: View, g: View, symbol: str):
        self.lowering, self.node, self.x, self.g, self.symbol = lowering, node, x, g, symbol
        self.dtype, self.size = x.dtype, x.dtype.itemsize
        p = node.params
        self.kernel, self.stride, self.dilation = p["kernel_size"], p["stride"], p["dilation"]
        self.groups, self.inputs, self.outputs = p["groups"], x.shape[-1], g.shape[-1]
        self.inputs //= self.groups
        self.outputs //= self.groups
        self.depthwise = sees_one(self.groups, x.shape[-1], g.shape[-1])
        if self.depthwise:
            self.outputs, self.groups = self.groups, 1
        target = lowering.target
        self.lanes = target.lanes(self.size)
        self.width, self.panels = panels_of(self.outputs, self.lanes)
        self._cut(target)

    def _cut(self, target: Target) -> None:
        most = target.tile_rows
        j = _outer_taps(self.kernel, self.dilation, self.groups, self.depthwise, most)
        self.taps, self.joined = self.kernel[:j], self.kernel[j:]
        self.rows = math.prod(self.joined) * self.inputs
        self.tiles = [self.rows] if self.depthwise else tile_rows(self.rows, most)
        self.gaps = tuple([d * s for d, s in zip(self.dilation, self.x.strides[1:-1], strict=True)])
        self.offsets = list(range(self.tiles[0]))
        if self.depthwise:
            every = itertools.product(*(range(k) for k in self.joined))
            self.offsets = [sum(i * s for i, s in zip(tap, self.gaps[j:], strict=True)) for tap in every]
        self.tiles_per_block = self.groups * math.prod(self.taps) * len(self.tiles) * self.panels
        images = self.x.shape[0]
        self.images = images_of_block(
            images, self.x.shape[-1], self.g.shape[-1], self.node.params["groups"], self.kernel, self.dilation,
            self.size, target,
        )  # fmt: skip
        self.blocks = -(-images // self.images)
        work = self.images * math.prod(self.g.shape[1:-1]) * self.tiles[0] * self.width
        self.per_chunk = max(1, min(_WORK // work, self.tiles_per_block * self.blocks // (2 * _FEW_CHUNKS)))

    def emit(self) -> list[Step]:
        """The tiles, the sum of the blocks, and the copy in the order of the result."""
        wide = self.panels * self.width
        shape = (self.groups, *self.taps, self.rows, wide)
        one = math.prod(shape)
        partials = self.lowering.buffer("temp", self.dtype, one * self.blocks)
        steps = [self._emit_tiles(partials)]
        out: View = self.lowering.views[self.node.outputs[0]]
        whole = View.whole(partials, shape)
        if self.blocks > 1 or out.dtype is not self.dtype:
            parts = [View(partials, shape, whole.strides, one * b) for b in range(self.blocks)]
            whole = View.whole(self.lowering.buffer("temp", out.dtype, one), shape)
            steps.append(flat(self.lowering, self.node, self.symbol + "c", parts, whole))
        n = len(self.kernel) + 3
        view = View.whole(whole.buffer, (self.groups, *self.kernel, self.inputs, wide))
        view = view.permuted((0, n - 1, n - 2, *range(1, n - 2)))
        view = view.sliced((0,) * n, (1,) * n, (self.groups, self.outputs, *view.shape[2:]))
        target = View(out.buffer, view.shape, contiguous_strides(view.shape), out.offset)
        return steps + copy_step(self.lowering, self.node, self.symbol + "t", [copy_piece(view, target)])

    def _emit_tiles(self, partials: Buffer) -> Step:
        f = kernel_function(self.lowering.module, self.symbol)
        buffers = (self.x.buffer, self.g.buffer, partials)
        bases = bases_of(f, buffers)
        gaps = self.gaps[: len(self.taps)]
        small, extra = self.tiles[-1], sum(n > self.tiles[-1] for n in self.tiles)
        items = self.tiles_per_block * self.blocks
        sizes = (self.blocks, self.groups, math.prod(self.taps), len(self.tiles), self.panels)
        wide = self.panels * self.width

        def item(number: Any) -> None:
            block, group, tap, k, panel = unravel(f, number, sizes)
            first = f.add(f.mul(k, small), f.min(k, extra))
            image, column = f.mul(block, self.images), f.mul(panel, self.width)
            (seen,) = places(f, tap, self.taps, gaps)
            seen = f.add(seen, f.add(f.mul(image, self.x.strides[0]), self.x.offset))
            seen = f.add(seen, column if self.depthwise else f.add(f.mul(group, self.inputs), first))
            a = f.at(bases[self.x.buffer], f.mul(seen, self.size))
            place = f.add(f.mul(image, self.g.strides[0]), f.add(f.mul(group, self.outputs), column))
            b = f.at(bases[self.g.buffer], f.mul(f.add(place, self.g.offset), self.size))
            row = f.add(
                f.mul(f.add(f.mul(f.add(f.mul(block, self.groups), group), sizes[2]), tap), self.rows), first
            )
            y = f.at(bases[partials], f.mul(f.add(f.mul(row, wide), column), self.size))
            images = f.min(self.images, f.sub(self.x.shape[0], image))

            def with_rows(rows: int) -> None:
                _by_panel(
                    f, panel, self.panels, self.width, self.outputs,
                    lambda columns: self._tile(f, a, b, y, rows, columns, images),
                )  # fmt: skip

            if extra in (0, len(self.tiles)):
                with_rows(self.tiles[0])
            else:
                f.when(f.icmp("slt", k, extra), lambda: with_rows(small + 1))
                f.when(f.icmp("sge", k, extra), lambda: with_rows(small))

        per = self.per_chunk
        f.loop(f.mul(f.args[1], per), f.min(f.mul(f.args[2], per), items), item)
        f.ret()
        f.finish()
        return Step("convgrad", [self.node], -(-items // per), self.symbol, buffers)

    def _tile(self, f: Function, a: Val, b: Val, y: Val, rows: int, columns: int, images: Any) -> None:
        wide, size = self.panels * self.width, self.size
        counts = columns_of(columns, self.lanes)
        zero = f.const(0, vector(registers.HELD[self.dtype.name], self.lanes))
        acc = multiply(
            f, a, [o * size for o in self.offsets[:rows]], b, self._loops(images), counts, self.lanes,
            [zero] * (rows * len(counts)), masked=True, wide=self.depthwise, dtype=self.dtype,
        )  # fmt: skip
        for r in range(rows):
            for v in range(len(counts)):
                store(
                    f, acc[r * len(counts) + v], f.at(y, (r * wide + v * self.lanes) * size), self.dtype, self.lanes
                )

    def _loops(self, images: Any) -> list[Loop]:
        """Over images and positions, outermost first."""
        x, g, size = self.x.strides, self.g.strides, self.size
        loops: list[Loop] = [(images, x[0] * size, g[0] * size)]
        for d, count in enumerate(self.g.shape[1:-1], 1):
            loops.append((count, self.stride[d - 1] * x[d] * size, g[d] * size))
        return loops
