"""Pooling with channels last: vectors of channels, one output pixel after the other.

The gradients are written image by image: where windows do not overlap, every input pixel is written
once; otherwise the image is zeroed and each window adds to its pixels, in order.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from ....ir.dtypes import DType, float32
from ....ir.graph import Node, Value
from ....ir.types import Shape
from ..emit import Function, Val, vector
from ..layout import Buffer, View
from ..step import Step
from .access import load, store
from .relayout import row_major
from .spans import image_span
from .tile import bases_of, kernel_function, unravel, zero_bytes
from .windowgeneral import (
    lower_general_max_pool,
    lower_general_max_pool_grad,
    lower_general_sum_pool,
    lower_general_sum_pool_grad,
)


class Windows:
    """The geometry of a pool over (N, H, W, C): one dimension is given height 1."""

    def __init__(self, size: Shape, sizes: Shape, params: dict[str, Any]):
        one = len(size) == 1
        kernel, stride, padding, dilation = (params[k] for k in ("kernel", "stride", "padding", "dilation"))
        self.size = (1, *size) if one else size
        self.sizes = (1, *sizes) if one else sizes
        self.kernel = (1, *kernel) if one else kernel
        self.stride = (1, *stride) if one else stride
        self.low = tuple([lo for lo, _ in padding])
        self.low = (0, *self.low) if one else self.low
        self.dilation = (1, *dilation) if one else dilation

    def inside(self, d: int) -> bool:
        """Whether all windows lie inside the input along a dimension."""
        reach = (self.sizes[d] - 1) * self.stride[d] + (self.kernel[d] - 1) * self.dilation[d]
        return self.low[d] == 0 and reach < self.size[d]

    @property
    def apart(self) -> bool:
        """Whether no input pixel is in two windows."""
        return all(
            d == 1 and k <= s and self.inside(i)
            for i, (k, s, d) in enumerate(zip(self.kernel, self.stride, self.dilation, strict=True))
        )

    def bounds(self, f: Function, d: int, position: Any) -> tuple[Any, Any, Any]:
        """The input element under tap 0, and the range of taps that meet the input."""
        start = f.add(f.mul(position, self.stride[d]), -self.low[d])
        if self.inside(d):
            return start, 0, self.kernel[d]
        gap, k = self.dilation[d], self.kernel[d]
        # the first tap t with start + t * gap >= 0, and the first with start + t * gap >= size
        reach = self.low[d] // gap + 1
        first = f.sub(reach, f.div(f.add(start, reach * gap), gap))
        first = f.select(f.icmp("sgt", first, 0), f.int(first), f.int(0))
        stop = f.sub(self.size[d] + gap - 1, start)
        stop = f.select(f.icmp("sgt", stop, 0), f.int(stop), f.int(0))
        return start, first, f.min(f.div(stop, gap), k)


def lower_max_pool(lowering: Any, node: Node, symbol: str) -> list[Step] | None:
    """`max_pool_last`: the first of the largest; NaN wins, the last of them."""
    x, (values, taps) = node.inputs[0], node.outputs
    if not _known(x, values, taps):
        return lower_general_max_pool(lowering, node, symbol)

    def pixel(f: Function, w: Windows, lanes: int, read: Callable[..., Val], y: Any, x: Any) -> list[Val]:
        ty, wide = vector("float", lanes), vector("i32", lanes)
        best, number = f.const(float("-inf"), ty), f.const(0, wide)
        y0, first_y, stop_y = w.bounds(f, 0, y)
        x0, first_x, stop_x = w.bounds(f, 1, x)
        start = f.add(f.mul(first_y, w.kernel[1]), first_x)
        if isinstance(start, Val):
            number = f.splat(f.convert("trunc", start, "i32"), lanes)

        def tap(i: Any, j: Any, best: Val, number: Val) -> list[Val]:
            v = read(f.add(y0, f.mul(i, w.dilation[0])), f.add(x0, f.mul(j, w.dilation[1])))
            wins = f.op("or", f.fcmp("ogt", v, best), f.fcmp("uno", v, v))
            t = f.add(f.mul(i, w.kernel[1]), j)
            t_vector = f.const(t, wide) if isinstance(t, int) else f.splat(f.convert("trunc", t, "i32"), lanes)
            return [f.select(wins, v, best), f.select(wins, t_vector, number)]

        return _over_taps(f, first_y, stop_y, first_x, stop_x, tap, [best, number])

    return _lower_forward(lowering, node, x, [values, taps], pixel, symbol)


def lower_sum_pool(lowering: Any, node: Node, symbol: str) -> list[Step] | None:
    """`sum_pool_last`: along each line of a window, then over its lines, as the reference adds."""
    x, (values,) = node.inputs[0], node.outputs
    if not _known(x, values):
        return lower_general_sum_pool(lowering, node, symbol)

    def pixel(f: Function, w: Windows, lanes: int, read: Callable[..., Val], y: Any, x: Any) -> list[Val]:
        zero = f.const(0, vector("float", lanes))
        y0, first_y, stop_y = w.bounds(f, 0, y)
        x0, first_x, stop_x = w.bounds(f, 1, x)

        def line(i: Any, total: Val) -> list[Val]:
            row = f.add(y0, f.mul(i, w.dilation[0]))

            def tap(j: Any, part: Val) -> list[Val]:
                return [f.op("fadd", part, read(row, f.add(x0, f.mul(j, w.dilation[1]))))]

            return [f.op("fadd", total, _range(f, first_x, stop_x, tap, [zero])[0])]

        return _range(f, first_y, stop_y, line, [zero])

    return _lower_forward(lowering, node, x, [values], pixel, symbol)


def _range(f: Function, first: Any, stop: Any, body: Callable[..., list[Val]], carry: list[Val]) -> list[Val]:
    """A loop; unrolled where its bounds are known and near."""
    if isinstance(first, int) and isinstance(stop, int) and stop - first <= 8:
        for i in range(first, stop):
            carry = body(i, *carry)
        return carry
    return f.loop(first, stop, body, carry)


def _over_taps(
    f: Function,
    first_y: Any,
    stop_y: Any,
    first_x: Any,
    stop_x: Any,
    tap: Callable[..., list[Val]],
    carry: list[Val],
) -> list[Val]:
    return _range(
        f,
        first_y,
        stop_y,
        lambda i, *c: _range(f, first_x, stop_x, lambda j, *d: tap(i, j, *d), list(c)),
        carry,
    )


def _planes(view: View, spatial: int) -> View:
    if spatial == 2:
        return view
    n, *rest = view.shape
    return View(view.buffer, (n, 1, *rest), (view.strides[0], 0, *view.strides[1:]), view.offset)


def _known(*values: Value) -> bool:
    return values[0].dtype is float32 and values[0].ndim in (3, 4) and all(v.type.size for v in values)


def _lower_forward(
    lowering: Any, node: Node, source: Value, results: list[Value], pixel: Callable[..., list[Val]], symbol: str
) -> list[Step]:
    """A kernel that computes each output pixel from its window."""
    spatial = source.ndim - 2
    windows = Windows(source.shape[1:-1], results[0].shape[1:-1], node.params)
    x, steps = row_major(lowering, _planes(lowering.views[source], spatial), node, symbol + "x")
    outs = [lowering.views[v] for v in results]
    f = kernel_function(lowering.module, symbol)
    bases = bases_of(f, [x.buffer, *(o.buffer for o in outs)])
    n, channels = source.shape[0], source.shape[-1]
    (height, width), (rows, cols) = windows.size, windows.sizes
    lanes = lowering.lanes

    def item(number: Any) -> None:
        image, y = unravel(f, number, (n, rows))
        start = f.mul(image, height * width * channels * 4)
        origin = f.at(bases[x.buffer], f.add(start, x.offset * 4))

        def column(z: Any) -> None:
            place = f.mul(f.add(f.mul(number, cols), z), channels)

            def some(c: Any, count: int | None) -> None:
                def read(i: Any, j: Any) -> Val:
                    offset = f.add(f.mul(f.add(f.mul(i, width), j), channels), c)
                    return load(f, f.at(origin, f.mul(offset, 4)), float32, lanes, 1, count)

                for value, view in zip(pixel(f, windows, lanes, read, y, z), outs, strict=True):
                    _write(f, value, bases[view.buffer], f.add(f.add(place, c), view.offset), view.dtype, count)

            _channels(f, channels, lanes, some)

        f.loop(0, cols, column)

    f.loop(f.args[1], f.args[2], item)
    f.ret()
    f.finish()
    span = image_span(n, n * rows, x, *outs)
    return [*steps, Step("pool", [node], n * rows, symbol, (x.buffer, *(o.buffer for o in outs)), span)]


def _write(f: Function, value: Val, base: Val, place: Any, dtype: DType, count: int | None) -> None:
    if dtype.itemsize == 1:
        value = f.convert("trunc", value, "i8")
    lanes = int(value.ty[1:].split(" ")[0]) if value.ty.startswith("<") else 1
    store(f, value, f.at(base, f.mul(place, dtype.itemsize)), dtype, lanes, count)


def _channels(f: Function, channels: int, lanes: int, body: Callable[[Any, int | None], None]) -> None:
    """`body(c, count)` for each vector of channels; count is None for whole ones."""
    whole = channels // lanes * lanes
    f.loop(0, whole, lambda c: body(c, None), step=lanes)
    if whole < channels:
        body(whole, channels - whole)


# Gradients ----------------------------------------------------------------------------------------


def lower_max_pool_grad(lowering: Any, node: Node, symbol: str) -> list[Step] | None:
    """`max_pool_last_grad`: an element goes to the tap that it came from."""
    if not _known(*node.inputs, *node.outputs):
        return lower_general_max_pool_grad(lowering, node, symbol)

    def part(f: Function, g: Val, taps: Val | None, t: Any, lanes: int) -> Val:
        assert taps is not None
        wide = vector("i32", lanes)
        number = f.const(t, wide) if isinstance(t, int) else f.splat(f.convert("trunc", t, "i32"), lanes)
        return f.select(f.icmp("eq", taps, number), g, f.const(0, g.ty))

    return _lower_backward(lowering, node, part, symbol)


def lower_sum_pool_grad(lowering: Any, node: Node, symbol: str) -> list[Step] | None:
    """`sum_pool_last_grad`: an element goes to all of its window."""
    if not _known(*node.inputs, *node.outputs):
        return lower_general_sum_pool_grad(lowering, node, symbol)
    return _lower_backward(lowering, node, lambda f, g, taps, t, lanes: g, symbol)


def _lower_backward(lowering: Any, node: Node, part: Callable[..., Val], symbol: str) -> list[Step]:
    out = node.outputs[0]
    windows = Windows(node.params["input_size"], node.inputs[0].shape[1:-1], node.params)
    steps: list[Step] = []
    views: list[View] = []
    for k, value in enumerate(node.inputs):
        view, copies = row_major(lowering, _planes(lowering.views[value], out.ndim - 2), node, f"{symbol}x{k}")
        views.append(view)
        steps += copies
    target = lowering.views[out]
    writer = _Backward(lowering, windows, views, target, out.shape[-1], part, symbol)
    chunks = writer.apart(out.shape[0]) if windows.apart else writer.overlapping(out.shape[0])
    buffers: tuple[Buffer, ...] = (*(v.buffer for v in views), target.buffer)
    span = image_span(out.shape[0], chunks, *views, target)
    return [*steps, Step("unpool", [node], chunks, symbol, buffers, span)]


class _Backward:
    """The kernel of a pool's gradient."""

    def __init__(
        self,
        lowering: Any,
        windows: Windows,
        views: list[View],
        target: View,
        channels: int,
        part: Callable[..., Val],
        symbol: str,
    ):
        self.w, self.views, self.target, self.part = windows, views, target, part
        self.channels, self.lanes = channels, lowering.lanes
        self.f = kernel_function(lowering.module, symbol)
        self.bases = bases_of(self.f, [target.buffer, *(v.buffer for v in views)])

    def _read(self, place: Any, count: int | None) -> tuple[Val, Val | None]:
        """The gradient, and the tap that it belongs to, at an element."""
        f, out = self.f, []
        for view in self.views:
            address = f.at(self.bases[view.buffer], f.mul(f.add(place, view.offset), view.dtype.itemsize))
            v = load(f, address, view.dtype, self.lanes, 1, count)
            out.append(f.convert("zext", v, "i32") if view.dtype.itemsize == 1 else v)
        return out[0], out[1] if len(out) > 1 else None

    def _place(self, image: Any, y: Any, x: Any, c: Any) -> Val:
        f, (height, width) = self.f, self.w.size
        place = f.add(f.mul(f.add(f.mul(f.add(f.mul(image, height), y), width), x), self.channels), c)
        return f.at(self.bases[self.target.buffer], f.mul(f.add(place, self.target.offset), 4))

    def apart(self, batch: int) -> int:
        """Every window writes its block of stride x stride pixels, the last ones all that is left."""
        f, w, lanes = self.f, self.w, self.lanes
        (rows, cols), (height, width) = w.sizes, w.size
        left = (height - rows * w.stride[0], width - cols * w.stride[1])

        def item(number: Any) -> None:
            image, y = unravel(f, number, (batch, rows))

            def column(x: Any) -> None:
                place = f.mul(f.add(f.mul(number, cols), x), self.channels)

                def some(c: Any, count: int | None) -> None:
                    g, taps = self._read(f.add(place, c), count)
                    for i in range(w.stride[0]):
                        for j in range(w.stride[1]):
                            covered = i < w.kernel[0] and j < w.kernel[1]
                            t = i * w.kernel[1] + j
                            zero = f.const(0, g.ty)  # to which -0 is added, as by the reference: that is 0
                            v = f.op("fadd", zero, self.part(f, g, taps, t, lanes)) if covered else zero
                            at = self._place(
                                image, f.add(f.mul(y, w.stride[0]), i), f.add(f.mul(x, w.stride[1]), j), c
                            )
                            store(f, v, at, float32, lanes, count)

                _channels(f, self.channels, lanes, some)

            # what a stride larger than the kernel leaves beyond the edge is not there to be written
            whole = cols if left[1] >= 0 else cols - 1
            f.loop(0, whole, column)
            if left[1] > 0:
                for i in range(w.stride[0]):
                    row = f.add(f.mul(y, w.stride[0]), i)
                    zero_bytes(f, self._place(image, row, cols * w.stride[1], 0), left[1] * self.channels * 4)
            if left[0] > 0:
                f.when(
                    f.icmp("eq", f.int(y), rows - 1),
                    lambda: zero_bytes(
                        f, self._place(image, rows * w.stride[0], 0, 0), left[0] * width * self.channels * 4
                    ),
                )

        if min(left) < 0:
            return self.overlapping(batch)
        f.loop(f.args[1], f.args[2], item)
        f.ret()
        f.finish()
        return batch * rows

    def overlapping(self, batch: int) -> int:
        """An image at a time: zeros, to which the windows add."""
        f, w, lanes = self.f, self.w, self.lanes
        (rows, cols), (height, width) = w.sizes, w.size

        def item(image: Any) -> None:
            zero_bytes(f, self._place(image, 0, 0, 0), height * width * self.channels * 4)

            def window(y: Any, x: Any) -> None:
                y0, first_y, stop_y = w.bounds(f, 0, y)
                x0, first_x, stop_x = w.bounds(f, 1, x)
                place = f.mul(f.add(f.mul(f.add(f.mul(image, rows), y), cols), x), self.channels)

                def some(c: Any, count: int | None) -> None:
                    g, taps = self._read(f.add(place, c), count)

                    def tap(i: Any, j: Any) -> list[Val]:
                        t = f.add(f.mul(i, w.kernel[1]), j)
                        row, col = f.add(y0, f.mul(i, w.dilation[0])), f.add(x0, f.mul(j, w.dilation[1]))
                        at = self._place(image, row, col, c)
                        v = self.part(f, g, taps, t, lanes)
                        store(f, f.op("fadd", load(f, at, float32, lanes, 1, count), v), at, float32, lanes, count)
                        return []

                    _over_taps(f, first_y, stop_y, first_x, stop_x, tap, [])

                _channels(f, self.channels, lanes, some)

            f.loop(0, rows, lambda y: f.loop(0, cols, lambda x: window(y, x)) and None)

        f.loop(f.args[1], f.args[2], item)
        f.ret()
        f.finish()
        return batch
