"""Pooling of every dtype and number of dimensions, channels last.

`window` is for the common case, float32 with one or two spatial dimensions. Here the input gets its
border in memory of its own, so that every window is whole: of zeros for sums, of the lowest number for
maxima. Gradients are added up in such memory too, window by window, and then cut out. Sums of float16
and bfloat16 are float32 and rounded once.
"""

from __future__ import annotations

import itertools
import math
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np

from ....ir.dtypes import HALVES, DType, float32
from ....ir.graph import Node
from ....ir.types import Shape
from .. import registers
from ..emit import Function, Val, vector
from ..layout import View
from ..step import Step
from .access import load, store
from .convgeneral import bordered, flat
from .copying import copy_piece, copy_step
from .relayout import row_major
from .tile import bases_of, kernel_function, unravel

_FEW_CHUNKS = 16
_UNROLLED = 32  # taps that are written out


class _Windows:
    """The geometry of a pool with the border that makes its windows whole."""

    def __init__(self, node: Node, size: Shape, sizes: Shape):
        p = node.params
        self.kernel, self.stride, self.dilation = p["kernel"], p["stride"], p["dilation"]
        self.size, self.sizes = size, sizes
        self.low = [lo for lo, _ in p["padding"]]
        each = zip(self.kernel, self.stride, self.dilation, sizes, self.low, size, strict=True)
        self.high = [max(0, (m - 1) * s + (k - 1) * d + 1 - lo - n) for k, s, d, m, lo, n in each]

    def first_taps(self, f: Function, position: Sequence[Any]) -> Any:
        """Number of the first tap that lies inside the input."""
        number: Any = 0
        for d, p in enumerate(position):
            outside = f.sub(self.low[d], f.mul(p, self.stride[d]))
            if isinstance(outside, int):
                tap: Any = max(0, -(-outside // self.dilation[d]))
            else:
                least = f.select(f.icmp("sgt", outside, 0), outside, f.int(0))
                tap = f.div(f.add(least, self.dilation[d] - 1), self.dilation[d])
            number = f.add(f.mul(number, self.kernel[d]), tap)
        return number


def _lanes(lowering: Any, dtype: DType) -> int:
    return int(lowering.target.lanes(max(4, dtype.itemsize)))


def _supported(node: Node) -> bool:
    return all(registers.supports(v.dtype) for v in (*node.inputs, *node.outputs)) and node.inputs[0].ndim > 2


def _lowest(dtype: DType) -> Any:
    return -math.inf if dtype.is_floating_point else np.iinfo(dtype.numpy).min


def _over_taps(
    f: Function,
    kernel: Shape,
    body: Callable[..., list[Val]],
    carry: list[Val],
    d: int = 0,
    tap: tuple[Any, ...] = (),
) -> list[Val]:
    """`body(tap, *carry)` for every tap in order; written out where there are few."""
    if math.prod(kernel) <= _UNROLLED:
        for tap in itertools.product(*(range(k) for k in kernel)):
            carry = body(tap, *carry)
        return carry
    if d == len(kernel):
        return body(tap, *carry)
    return f.loop(0, kernel[d], lambda i, *c: _over_taps(f, kernel, body, list(c), d + 1, (*tap, i)), carry)


def _dot(f: Function, index: Sequence[Any], strides: Sequence[int]) -> Any:
    total: Any = 0
    for i, s in zip(index, strides, strict=True):
        total = f.add(total, f.mul(i, s))
    return total


# --- forward ----------------------------------------------------------------------------------------


def lower_general_max_pool(lowering: Any, node: Node, symbol: str) -> list[Step] | None:
    """`max_pool_last`: the first of the largest; NaN wins, the last of them."""
    dtype = node.inputs[0].dtype

    def pixel(f: Function, w: _Windows, position: list[Any], read: Callable[[Any], Val], lanes: int) -> list[Val]:
        wide = vector("i32", lanes)

        def numbered(n: Any) -> Val:
            return f.const(n, wide) if isinstance(n, int) else f.splat(f.convert("trunc", n, "i32"), lanes)

        def tap(at: Any, best: Val, number: Val) -> list[Val]:
            v = read(at)
            if dtype.kind == "float":
                wins = f.op("or", f.fcmp("ogt", v, best), f.fcmp("uno", v, v))
            else:
                wins = f.icmp("sgt" if dtype.kind == "int" else "ugt", v, best)
            place: Any = 0
            for i, k in zip(at, w.kernel, strict=True):
                place = f.add(f.mul(place, k), i)
            return [f.select(wins, v, best), f.select(wins, numbered(place), number)]

        lowest = f.const(_lowest(dtype), vector(registers.HELD[dtype.name], lanes))
        return _over_taps(f, w.kernel, tap, [lowest, numbered(w.first_taps(f, position))])

    return _forward(lowering, node, _lowest(dtype), pixel, symbol)


def lower_general_sum_pool(lowering: Any, node: Node, symbol: str) -> list[Step] | None:
    """`sum_pool_last`: along one dimension after the other, from the last to the first, as the reference adds."""
    dtype = node.inputs[0].dtype
    add = "fadd" if dtype.kind == "float" else "add"

    def pixel(f: Function, w: _Windows, _: list[Any], read: Callable[[Any], Val], lanes: int) -> list[Val]:
        zero = f.const(0, vector(registers.HELD[dtype.name], lanes))

        def along(tap: tuple[Any, ...]) -> Val:
            if len(tap) == len(w.kernel):
                return read(tap)
            count, total = w.kernel[len(tap)], zero
            if math.prod(w.kernel) <= _UNROLLED:
                for i in range(count):
                    total = f.op(add, total, along((*tap, i)))
                return total
            return f.loop(0, count, lambda i, t: [f.op(add, t, along((*tap, i)))], [total])[0]

        return [along(())]

    return _forward(lowering, node, 0, pixel, symbol)


def _forward(
    lowering: Any, node: Node, border: Any, pixel: Callable[..., list[Val]], symbol: str
) -> list[Step] | None:
    if not _supported(node):
        return None
    dtype = node.inputs[0].dtype
    outs: list[View] = [lowering.views[v] for v in node.outputs]
    n, *sizes, channels = outs[0].shape
    x: View = lowering.views[node.inputs[0]]
    w = _Windows(node, x.shape[1:-1], tuple(sizes))
    x, steps = bordered(lowering, x, w.low, w.high, border, node, symbol + "x")
    f = kernel_function(lowering.module, symbol)
    buffers = (x.buffer, *(o.buffer for o in outs))
    bases = bases_of(f, buffers)
    lanes = _lanes(lowering, dtype)
    *lines, last = sizes
    gaps = [d * s for d, s in zip(w.dilation, x.strides[1:-1], strict=True)]
    steps_x = [d * s for d, s in zip(w.stride, x.strides[1:-1], strict=True)]

    def item(number: Any) -> None:
        image, *index = unravel(f, number, (n, *lines))
        origin = f.add(f.mul(image, x.strides[0]), f.add(_dot(f, index, steps_x[:-1]), x.offset))

        def column(z: Any) -> None:
            start = f.add(origin, f.mul(z, steps_x[-1]))
            place = f.mul(f.add(f.mul(number, last), z), channels)

            def some(c: Any, count: int | None) -> None:
                def read(tap: Any) -> Val:
                    at = f.add(f.add(start, c), _dot(f, tap, gaps))
                    return load(f, f.at(bases[x.buffer], f.mul(at, dtype.itemsize)), dtype, lanes, 1, count)

                for value, view in zip(pixel(f, w, [*index, z], read, lanes), outs, strict=True):
                    if view.dtype.name == "uint8" and value.ty == vector("i32", lanes):
                        value = f.convert("trunc", value, "i8")
                    at = f.at(bases[view.buffer], f.mul(f.add(f.add(place, c), view.offset), view.dtype.itemsize))
                    store(f, value, at, view.dtype, lanes, count)

            _channels(f, 0, channels, channels, lanes, some)

        f.loop(0, last, column)

    f.loop(f.args[1], f.args[2], item)
    f.ret()
    f.finish()
    return [*steps, Step("pool", [node], n * math.prod(lines), symbol, buffers)]


def _channels(
    f: Function, start: Any, stop: Any, channels: int, lanes: int, body: Callable[[Any, int | None], None]
) -> None:
    """`body(c, count)` for each vector of channels start..stop-1; count is None for whole ones."""
    whole = channels // lanes * lanes
    f.loop(start, f.min(stop, whole), lambda c: body(c, None), step=lanes)
    if whole < channels:
        if isinstance(stop, int):
            body(whole, channels - whole)
        else:
            f.when(f.icmp("eq", stop, channels), lambda: body(whole, channels - whole))


# --- gradients --------------------------------------------------------------------------------------


def lower_general_max_pool_grad(lowering: Any, node: Node, symbol: str) -> list[Step] | None:
    """`max_pool_last_grad`: an element goes to the tap that it came from."""

    def part(f: Function, g: Val, taps: Val | None, number: Any, lanes: int) -> Val:
        assert taps is not None
        e = taps.ty
        tap = f.const(number, e) if isinstance(number, int) else f.splat(f.convert("trunc", number, "i32"), lanes)
        return f.select(f.icmp("eq", taps, tap), g, f.const(0, g.ty))

    return _backward(lowering, node, part, symbol)


def lower_general_sum_pool_grad(lowering: Any, node: Node, symbol: str) -> list[Step] | None:
    """`sum_pool_last_grad`: an element goes to all of its window."""
    return _backward(lowering, node, lambda f, g, taps, number, lanes: g, symbol)


def _backward(lowering: Any, node: Node, part: Callable[..., Val], symbol: str) -> list[Step] | None:
    if not _supported(node):
        return None
    steps: list[Step] = []
    views: list[View] = []
    for k, value in enumerate(node.inputs):
        view, copies = row_major(lowering, lowering.views[value], node, f"{symbol}x{k}")
        views.append(view)
        steps += copies
    out: View = lowering.views[node.outputs[0]]
    n, *sizes, channels = views[0].shape
    w = _Windows(node, node.params["input_size"], tuple(sizes))
    held = float32 if out.dtype in HALVES else out.dtype
    target = out
    if held is not out.dtype or any((*w.low, *w.high)):
        shape = (n, *(s + a + b for s, a, b in zip(w.size, w.low, w.high, strict=True)), channels)
        target = View.whole(lowering.buffer("temp", held, math.prod(shape)), shape)
    steps.append(_spread(lowering, node, w, views, target, part, symbol))
    if target is out:
        return steps
    one = (1,) * len(out.shape)
    inside = target.sliced((0, *w.low, 0), one, out.shape)
    if held is out.dtype:
        return steps + copy_step(lowering, node, symbol + "c", [copy_piece(inside, out)])
    inside, copies = row_major(lowering, inside, node, symbol + "c")
    return [*steps, *copies, flat(lowering, node, symbol + "n", [inside], out)]


def _spread(
    lowering: Any, node: Node, w: _Windows, views: list[View], target: View, part: Callable[..., Val], symbol: str
) -> Step:
    """Zeros, to which the windows add in order: an image and some of the channels at a time."""
    f = kernel_function(lowering.module, symbol)
    buffers = (*(v.buffer for v in views), target.buffer)
    bases = bases_of(f, buffers)
    n, *sizes, channels = views[0].shape
    held = target.dtype
    lanes = _lanes(lowering, held)
    vectors = -(-channels // lanes)
    shares = 1 if n >= _FEW_CHUNKS else min(vectors, -(-_FEW_CHUNKS // n))
    share = -(-vectors // shares) * lanes
    shares = -(-channels // share)
    across = [d * s for d, s in zip(w.dilation, target.strides[1:-1], strict=True)]
    pitch = [d * s for d, s in zip(w.stride, target.strides[1:-1], strict=True)]
    add = "fadd" if held.kind == "float" else "add"
    zero = f.const(0, vector(registers.HELD[held.name], lanes))

    def address(offset: Any) -> Val:
        return f.at(bases[target.buffer], f.mul(offset, held.itemsize))

    def item(number: Any) -> None:
        image, own = unravel(f, number, (n, shares))
        start = f.mul(own, share) if shares > 1 else 0
        stop = f.min(f.add(start, share), channels)
        _channels(f, start, stop, channels, lanes, lambda c, count: vector_of(image, c, count))

    def vector_of(image: Any, c: Any, count: int | None) -> None:
        origin = f.add(f.add(f.mul(image, target.strides[0]), target.offset), c)
        pixels = math.prod(target.shape[1:-1])
        f.loop(0, pixels, lambda i: store(f, zero, address(f.add(origin, f.mul(i, channels))), held, lanes, count))

        def window(number: Any) -> None:
            index = unravel(f, number, sizes)
            place = f.add(f.mul(f.add(f.mul(image, math.prod(sizes)), number), channels), c)
            read = []
            for view in views:
                at = f.at(bases[view.buffer], f.mul(f.add(place, view.offset), view.dtype.itemsize))
                read.append(load(f, at, view.dtype, lanes, 1, count))
            taps = f.convert("zext", read[1], "i32") if len(read) > 1 else None
            corner = f.add(origin, _dot(f, index, pitch))

            def tap(at: Any) -> list[Val]:
                tap_number: Any = 0
                for i, k in zip(at, w.kernel, strict=True):
                    tap_number = f.add(f.mul(tap_number, k), i)
                here = address(f.add(corner, _dot(f, at, across)))
                v = part(f, read[0], taps, tap_number, lanes)
                store(f, f.op(add, load(f, here, held, lanes, 1, count), v), here, held, lanes, count)
                return []

            _over_taps(f, w.kernel, tap, [])

        f.loop(0, math.prod(sizes), window)

    f.loop(f.args[1], f.args[2], item)
    f.ret()
    f.finish()
    return Step("unpool", [node], n * shares, symbol, buffers)
