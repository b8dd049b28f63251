"""Convolution (cross-correlation, as in all of deep learning) and its two gradients.

`conv` is linear in its input and in its weight, so with its adjoints `conv_input_grad` and
`conv_weight_grad` it forms a family closed under differentiation: the derivatives of each are the
other two. A transposed convolution is `conv_input_grad`.

Shapes: input (N, C, *S), weight (O, C / groups, *K), output (N, O, *L) with one to any number of
spatial dimensions and L = (S + low + high - dilation * (K - 1) - 1) // stride + 1.

Note [Columns]
All three are one matrix product around a matrix of columns (G, C/G * prod(K), positions): the
inputs that each output position sees ("im2col"). It is prod(K) times as large as the input, so it
is made a block at a time, small enough to stay in the cache: some images together where they are
small, some rows of one image where it is large.
"""

from __future__ import annotations

import itertools
import math
from collections.abc import Iterator
from typing import Any, NamedTuple

import numpy as np

from ..ir.dtypes import COMPLEX, FLOATS, DType
from ..ir.errors import DTypeError, ShapeError
from ..ir.primitive import ErrorSample, Primitive, Sample
from ..ir.types import Shape, TensorType
from ._rules import check_dtype, check_same_dtype, draw, via_float32

Array = np.ndarray[Any, Any]
Pairs = tuple[tuple[int, int], ...]

_BLOCK_BYTES = 1 << 20  # of a block of columns; about half of a core's second-level cache
_BLOCK_POSITIONS = 512  # enough columns for a matrix product to be efficient


# Windows: shared with pooling ---------------------------------------------------------------------


def window_sizes(op: str, size: Shape, *, kernel: Shape, stride: Shape, padding: Pairs, dilation: Shape) -> Shape:
    """Number of window positions in each spatial dimension; raises what is wrong with the params."""
    n = len(size)
    for name, value in (("kernel", kernel), ("stride", stride), ("padding", padding), ("dilation", dilation)):
        if len(value) != n:
            raise ShapeError(f"{name} has {len(value)} entries for {n} spatial dimensions", op=op)
    for name, value in (("kernel", kernel), ("stride", stride), ("dilation", dilation)):
        if any(v < 1 for v in value):
            raise ShapeError(f"{name} must be positive, got {value}", op=op)
    if any(v < 0 for pair in padding for v in pair):
        raise ShapeError(f"padding must not be negative, got {padding}", op=op)
    padded = tuple([s + lo + hi for s, (lo, hi) in zip(size, padding, strict=True)])
    reach = tuple([d * (k - 1) + 1 for k, d in zip(kernel, dilation, strict=True)])
    if any(r > p for r, p in zip(reach, padded, strict=True)):
        dilated = f" with dilation {dilation}" if max(dilation) > 1 else ""
        raise ShapeError(
            f"the kernel {kernel}{dilated} covers {reach}, but the padded input has only {padded}",
            op=op,
            hint="give a larger input, more padding, or pool less before this layer",
        )
    return tuple([(p - r) // s + 1 for p, r, s in zip(padded, reach, stride, strict=True)])


def windows(x: Array, kernel: Shape, stride: Shape, dilation: Shape, sizes: Shape) -> Array:
    """A view (N, C, *K, *L) of the padded array `x` (N, C, *S): the elements under each tap."""
    n, c, *s = x.strides
    taps = [a * d for a, d in zip(s, dilation, strict=True)]
    steps = [a * d for a, d in zip(s, stride, strict=True)]
    return np.lib.stride_tricks.as_strided(x, (*x.shape[:2], *kernel, *sizes), (n, c, *taps, *steps))


def interior(size: Shape, padding: Pairs) -> tuple[slice, ...]:
    """The index of the input inside a padded array (N, C, *S)."""
    inside = [slice(lo, lo + s) for s, (lo, _) in zip(size, padding, strict=True)]
    return (slice(None), slice(None), *inside)


# Type rules ---------------------------------------------------------------------------------------


def _layer(spatial: int) -> str:
    return f"Conv{spatial}d"


def _channels_hint(x: TensorType, w: TensorType, want: int) -> str:
    layer, got = _layer(w.ndim - 2), x.shape[1]
    if got == 1:
        return f"grey images have 1 channel: use {layer}(1, ...)"
    if x.shape[-1] == want:
        order = ", ".join(map(str, (0, x.ndim - 1, *range(1, x.ndim - 1))))
        return f"channels come before height and width: x.permute({order})"
    if (got, want) == (3, 1):
        return f"colour images have 3 channels: use {layer}(3, ...), or make the images grey"
    return f"use {layer}({got}, ...), or give it an input with {want} channels"


def _check_ranks(op: str, x: TensorType, w: TensorType) -> None:
    if w.ndim < 3:
        raise ShapeError(f"a weight needs shape (out, in / groups, *kernel), got {w.shape}", op=op)
    if x.ndim == w.ndim:
        return
    hint = {
        w.ndim - 1: "add a batch dimension: x.unsqueeze(0)",
        w.ndim - 2: "add batch and channel dimensions: x[None, None]",
    }.get(x.ndim, f"use the layer for {x.ndim - 2} spatial dimensions" if x.ndim > 2 else None)
    names = ("batch", "channels", *("depth", "height", "width")[-(w.ndim - 2) :])
    raise ShapeError(
        f"an input of shape {x.shape} has {x.ndim} dimensions; the weight {w.shape} takes {w.ndim}: "
        f"({', '.join(names)})",
        op=op,
        hint=hint,
    )


def _check_groups(op: str, groups: int, channels: int, what: str) -> None:
    if groups < 1:
        raise ShapeError(f"groups must be positive, got {groups}", op=op)
    if channels % groups:
        raise ShapeError(
            f"groups={groups} does not divide the {channels} {what} channels",
            op=op,
            hint="in and out channels must both be multiples of groups",
        )


def _conv_type(
    x: TensorType, w: TensorType, *, stride: Shape, padding: Pairs, dilation: Shape, groups: int
) -> TensorType:
    check_dtype("conv", check_same_dtype("conv", x, w), FLOATS | COMPLEX)
    _check_ranks("conv", x, w)
    _check_groups("conv", groups, w.shape[0], "output")
    want = w.shape[1] * groups
    if x.shape[1] != want:
        grouped = f" in {groups} groups" if groups > 1 else ""
        raise ShapeError(
            f"the weight {w.shape} expects {want} input channels{grouped}, got {x.shape[1]} from an input "
            f"of shape {x.shape}",
            op="conv",
            hint=_channels_hint(x, w, want),
        )
    sizes = window_sizes("conv", x.shape[2:], kernel=w.shape[2:], stride=stride, padding=padding, dilation=dilation)
    return x.with_shape((x.shape[0], w.shape[0], *sizes))


def _check_sizes(op: str, g: TensorType, size: Shape, sizes: Shape) -> None:
    if g.shape[2:] != sizes:
        raise ShapeError(
            f"an input of size {size} gives an output of size {sizes}, but g has shape {g.shape}", op=op
        )


def _input_grad_type(
    g: TensorType, w: TensorType, *, input_size: Shape, stride: Shape, padding: Pairs, dilation: Shape, groups: int
) -> TensorType:
    op = "conv_input_grad"
    check_dtype(op, check_same_dtype(op, g, w), FLOATS | COMPLEX)
    _check_ranks(op, g, w)
    _check_groups(op, groups, w.shape[0], "weight's first")
    if g.shape[1] != w.shape[0]:
        raise ShapeError(
            f"the weight {w.shape} expects {w.shape[0]} channels, got {g.shape[1]} "
            f"from an input of shape {g.shape}",
            op=op,
            hint=f"use ConvTranspose{w.ndim - 2}d({g.shape[1]}, ...)",
        )
    sizes = window_sizes(op, input_size, kernel=w.shape[2:], stride=stride, padding=padding, dilation=dilation)
    _check_sizes(op, g, input_size, sizes)
    return g.with_shape((g.shape[0], w.shape[1] * groups, *input_size))


def _weight_grad_type(
    x: TensorType, g: TensorType, *, kernel_size: Shape, stride: Shape, padding: Pairs, dilation: Shape, groups: int
) -> TensorType:
    op = "conv_weight_grad"
    check_dtype(op, check_same_dtype(op, x, g), FLOATS | COMPLEX)
    if x.ndim < 3 or x.ndim != g.ndim or x.shape[0] != g.shape[0]:
        raise ShapeError(f"x {x.shape} and g {g.shape} need equal ranks and batch sizes", op=op)
    _check_groups(op, groups, x.shape[1], "input")
    _check_groups(op, groups, g.shape[1], "output")
    sizes = window_sizes(op, x.shape[2:], kernel=kernel_size, stride=stride, padding=padding, dilation=dilation)
    _check_sizes(op, g, x.shape[2:], sizes)
    return x.with_shape((g.shape[1], x.shape[1] // groups, *kernel_size))


# References ---------------------------------------------------------------------------------------


class _Block(NamedTuple):
    """Some images, or some rows of the output of one image; see Note [Columns]."""

    images: slice
    rows: slice
    first: bool  # of its images
    last: bool

    @property
    def place(self) -> tuple[slice, ...]:
        """The index of its outputs in (N, O, *L)."""
        return self.images, slice(None), self.rows


def _blocks(batch: int, sizes: Shape, position_bytes: int) -> Iterator[_Block]:
    """Cut a batch into blocks; `position_bytes` is the size of one column."""
    positions = math.prod(sizes)
    images = min(-(-_BLOCK_POSITIONS // positions), max(_BLOCK_BYTES // max(positions * position_bytes, 1), 1))
    row_bytes = position_bytes * positions // sizes[0]
    rows = sizes[0]
    if images == 1 and rows * row_bytes > 2 * _BLOCK_BYTES:
        rows = max(_BLOCK_BYTES // row_bytes, -(-_BLOCK_POSITIONS * sizes[0] // positions), 1)
    for n in range(0, batch, images):
        for r in range(0, sizes[0], rows):
            stop = min(r + rows, sizes[0])
            yield _Block(slice(n, min(n + images, batch)), slice(r, stop), r == 0, stop == sizes[0])


class _Geometry(NamedTuple):
    """One convolution's sizes and params, as all three references need them."""

    batch: int
    channels: int
    size: Shape
    kernel: Shape
    sizes: Shape
    stride: Shape
    padding: Pairs
    dilation: Shape
    groups: int

    @property
    def depth(self) -> int:
        """Length of a column of one group."""
        return self.channels // self.groups * math.prod(self.kernel)

    def blocks(self, dtype: np.dtype[Any]) -> list[_Block]:
        return list(_blocks(self.batch, self.sizes, self.depth * self.groups * dtype.itemsize))

    def padded(self, images: int, dtype: np.dtype[Any]) -> Array:
        """Zeros for that many padded images."""
        size = [s + lo + hi for s, (lo, hi) in zip(self.size, self.padding, strict=True)]
        return np.zeros((images, self.channels, *size), dtype)

    def windows(self, x: Array) -> Array:
        return windows(x, self.kernel, self.stride, self.dilation, self.sizes)

    def columns(self, view: Array, rows: slice, buffer: Array) -> Array:
        """The columns (G, depth, positions) of those rows of windows (N, C, *K, *L)."""
        spatial = len(self.kernel)
        part = view[(slice(None),) * (2 + spatial) + (rows,)]
        part = np.moveaxis(part, 0, 1 + spatial)  # (C, *K, n, *L)
        positions = math.prod(part.shape[1 + spatial :])
        if math.prod(self.kernel) == 1 and view.shape[0] == 1:
            return part.reshape(self.groups, self.depth, positions)  # a view in the common cases
        out = buffer[: part.size].reshape(part.shape)
        np.copyto(out, part)
        return out.reshape(self.groups, self.depth, positions)


def _geometry(x: Shape, kernel: Shape, sizes: Shape, params: dict[str, Any]) -> _Geometry:
    return _Geometry(x[0], x[1], x[2:], kernel, sizes, **params)


def _all_columns(x: Array, geo: _Geometry) -> Iterator[tuple[_Block, Array]]:
    """Blocks of `x` with their columns, which are only valid until the next is asked for."""
    blocks = geo.blocks(x.dtype)
    if not blocks or not x.size:
        return
    most = max(b.images.stop - b.images.start for b in blocks)
    rows = max(b.rows.stop - b.rows.start for b in blocks)
    buffer = np.empty(geo.depth * geo.groups * most * rows * math.prod(geo.sizes[1:]), x.dtype)
    is_padded = any(lo or hi for lo, hi in geo.padding)
    if is_padded:
        padded = geo.padded(most, x.dtype)
        inside = padded[interior(geo.size, geo.padding)]
        view = geo.windows(padded)
    else:
        view = geo.windows(x)
    for block in blocks:
        count = block.images.stop - block.images.start
        if is_padded:
            if block.first:
                inside[:count] = x[block.images]
            yield block, geo.columns(view[:count], block.rows, buffer)
        else:
            yield block, geo.columns(view[block.images], block.rows, buffer)


def _product(a: Array, b: Array) -> Array:
    """`a @ b`; an outer product, as in depthwise convolution, is faster as a multiplication."""
    return a * b if a.shape[-1] == 1 else np.matmul(a, b)


def _output_matrix(g: Array, block: _Block, groups: int) -> Array:
    """The block's part of an output (N, O, *L) as a matrix (G, O / G, positions)."""
    part = g[block.place].swapaxes(0, 1)
    channels = part.shape[0]
    return part.reshape(groups, channels // groups, part.size // max(channels, 1))


def _conv(x: Array, w: Array, **params: Any) -> Array:
    sizes = _conv_type(TensorType.of(x), TensorType.of(w), **params).shape[2:]
    geo = _geometry(x.shape, w.shape[2:], sizes, params)
    y = np.empty((x.shape[0], w.shape[0], *sizes), x.dtype)
    if not x.size:
        y[...] = 0
    weight = w.reshape(geo.groups, w.shape[0] // geo.groups, geo.depth)
    for block, columns in _all_columns(x, geo):
        part = y[block.place]
        if part.shape[0] == 1:
            np.matmul(weight, columns, out=part.reshape(*weight.shape[:2], columns.shape[2]))
        else:
            out = np.matmul(weight, columns).reshape(part.shape[1], part.shape[0], *part.shape[2:])
            part[...] = out.swapaxes(0, 1)
    return y


def _conv_weight_grad(x: Array, g: Array, *, kernel_size: Shape, **params: Any) -> Array:
    geo = _geometry(x.shape, kernel_size, g.shape[2:], params)
    groups, channels = geo.groups, g.shape[1]
    out = np.zeros((groups, channels // groups, geo.depth), x.dtype)
    for block, columns in _all_columns(x, geo):
        out += np.matmul(_output_matrix(g, block, groups), columns.swapaxes(1, 2))
    return out.reshape(channels, geo.channels // groups, *kernel_size)


def _mirrored(w: Array, groups: int) -> Array:
    """The weight with its channels exchanged and its taps reversed."""
    reversed_taps: Any = (..., *[slice(None, None, -1)] * (w.ndim - 2))
    split = w.reshape(groups, w.shape[0] // groups, *w.shape[1:])[reversed_taps].swapaxes(1, 2)
    return np.ascontiguousarray(split).reshape(groups * w.shape[1], w.shape[0] // groups, *w.shape[2:])


def _conv_input_grad(g: Array, w: Array, *, input_size: Shape, **params: Any) -> Array:
    channels = w.shape[1] * params["groups"]
    reach = [d * (k - 1) for k, d in zip(w.shape[2:], params["dilation"], strict=True)]
    margin = tuple([(r - lo, r - hi) for r, (lo, hi) in zip(reach, params["padding"], strict=True)])
    # With stride 1 it is a convolution of g, and gathering is cheaper than scattering.
    if max(params["stride"]) == 1 and min(map(min, margin)) >= 0 and w.shape[0] <= 2 * channels:
        return _conv(g, _mirrored(w, params["groups"]), **{**params, "padding": margin})
    geo = _geometry((g.shape[0], channels, *input_size), w.shape[2:], g.shape[2:], params)
    out = np.zeros((geo.batch, channels, *input_size), g.dtype)
    blocks = geo.blocks(g.dtype)
    if not out.size or not g.size:
        return out
    weight = w.reshape(geo.groups, w.shape[0] // geo.groups, geo.depth).swapaxes(1, 2)
    is_padded = any(lo or hi for lo, hi in geo.padding)
    padded = geo.padded(max(b.images.stop - b.images.start for b in blocks), g.dtype) if is_padded else out
    view = geo.windows(padded)
    lead = (slice(None),) * 2
    for block in blocks:
        count = block.images.stop - block.images.start
        columns = _product(weight, _output_matrix(g, block, geo.groups))
        rows = (block.rows.stop - block.rows.start, *geo.sizes[1:])
        columns = columns.reshape(channels, *geo.kernel, count, *rows)
        images = slice(0, count) if is_padded else block.images
        if is_padded and block.first:
            padded[:count] = 0
        target = view[images]
        for tap in itertools.product(*map(range, geo.kernel)):
            place: Any = (*lead, *tap, block.rows)
            source: Any = (slice(None), *tap)
            target[place] += columns[source].swapaxes(0, 1)
        if is_padded and block.last:
            out[block.images] = padded[:count][interior(geo.size, geo.padding)]
    return out


# Samples ------------------------------------------------------------------------------------------

_CASES: tuple[tuple[Shape, Shape, Shape, Pairs, Shape, int], ...] = (
    # x, w, stride, padding, dilation, groups
    ((2, 2, 4, 5), (3, 2, 3, 2), (1, 1), ((1, 1), (0, 0)), (1, 1), 1),
    ((1, 4, 5, 4), (4, 2, 2, 2), (2, 1), ((0, 1), (1, 0)), (1, 2), 2),
    ((2, 3, 3, 3), (6, 1, 2, 2), (1, 1), ((1, 0), (0, 1)), (1, 1), 3),
    ((1, 2, 3, 3), (2, 2, 1, 1), (1, 1), ((0, 0), (0, 0)), (1, 1), 1),
    ((2, 1, 6), (2, 1, 3), (2,), ((1, 1),), (1,), 1),
    ((1, 1, 3, 2, 2), (2, 1, 2, 2, 1), (1, 1, 1), ((0, 0), (1, 0), (0, 0)), (1, 1, 1), 1),
    ((0, 2, 3), (2, 2, 2), (1,), ((0, 0),), (1,), 1),
)


def _cases() -> Iterator[tuple[Shape, Shape, Shape, dict[str, Any]]]:
    """Shapes of x, w and the output, with the params."""
    for x, w, stride, padding, dilation, groups in _CASES:
        params: dict[str, Any] = {"stride": stride, "padding": padding, "dilation": dilation}
        sizes = window_sizes("conv", x[2:], kernel=w[2:], **params)
        yield x, w, (x[0], w[0], *sizes), {**params, "groups": groups}


def _conv_samples(dtype: DType, rng: np.random.Generator) -> Iterator[Sample]:
    for x, w, _, params in _cases():
        yield Sample((draw(dtype, rng, x), draw(dtype, rng, w)), params)


def _input_grad_samples(dtype: DType, rng: np.random.Generator) -> Iterator[Sample]:
    for x, w, y, params in _cases():
        yield Sample((draw(dtype, rng, y), draw(dtype, rng, w)), {"input_size": x[2:], **params})


def _weight_grad_samples(dtype: DType, rng: np.random.Generator) -> Iterator[Sample]:
    for x, w, y, params in _cases():
        yield Sample((draw(dtype, rng, x), draw(dtype, rng, y)), {"kernel_size": w[2:], **params})


def _error(x: Shape, w: Shape, match: str, hint: str = "", **changed: Any) -> Iterator[ErrorSample]:
    n = max(len(w) - 2, 0)
    params = {"stride": (1,) * n, "padding": ((0, 0),) * n, "dilation": (1,) * n, "groups": 1, **changed}
    for text in (match, hint):
        if text:
            yield ErrorSample((np.zeros(x), np.zeros(w)), params, ShapeError, text)


def _conv_errors() -> Iterator[ErrorSample]:
    grey, weight = (2, 1, 8, 8), (4, 3, 3, 3)
    yield from _error(
        grey, weight, "the weight (4, 3, 3, 3) expects 3 input channels, got 1", "1 channel: use Conv2d(1, ...)"
    )
    yield from _error((2, 8, 8, 3), weight, "got 8 from an input", "x.permute(0, 3, 1, 2)")
    yield from _error((2, 3, 8, 8), (4, 1, 3, 3), "got 3 from an input", "use Conv2d(3, ...)")
    yield from _error((3, 8, 8), weight, "has 3 dimensions", "x.unsqueeze(0)")
    yield from _error((8, 8), (4, 1, 3, 3), "has 2 dimensions", "x[None, None]")
    yield from _error((2, 3, 8, 8, 8), weight, "has 5 dimensions", "for 3 spatial dimensions")
    yield from _error((2, 3, 2, 2), weight, "covers (3, 3), but the padded input has only (2, 2)", "pool less")
    yield from _error((2, 3, 4, 4), weight, "with dilation (2, 2) covers (5, 5)", dilation=(2, 2))
    yield from _error((2, 6, 8, 8), weight, "groups=3 does not divide the 4 output channels", groups=3)
    yield from _error((2, 3, 8, 8), weight, "stride must be positive", stride=(0, 1))
    yield from _error((2, 3, 8, 8), weight, "padding has 1 entries for 2", padding=((0, 0),))
    yield from _error((2, 3, 8, 8), weight, "padding must not be negative", padding=((0, -1), (0, 0)))
    params = {"stride": (1,), "padding": ((0, 0),), "dilation": (1,), "groups": 1}
    yield ErrorSample((np.zeros((1, 1, 3)), np.zeros((1, 1, 2), "f4")), params, DTypeError, "different dtypes")
    yield ErrorSample(
        (np.zeros((1, 1, 3), "i8"), np.zeros((1, 1, 2), "i8")), params, DTypeError, "int64 is not supported"
    )


def _input_grad_errors() -> Iterator[ErrorSample]:
    yield from _error((2, 3, 4), (4, 2, 3), "expects 4 channels, got 3", "ConvTranspose1d(3, ...)", input_size=(6,))
    yield from _error((2, 4, 4), (4, 2, 3), "gives an output of size (5,)", input_size=(7,))
    yield from _error((4, 4), (4, 2, 3), "has 2 dimensions", "x.unsqueeze(0)", input_size=(6,))


def _weight_grad_errors() -> Iterator[ErrorSample]:
    yield from _error((2, 3, 6), (2, 4, 3), "gives an output of size (5,)", kernel_size=(2,))
    yield from _error((2, 3, 6), (1, 4, 5), "equal ranks and batch sizes", kernel_size=(2,))


# The oracle: PyTorch pads both sides alike, so its input is padded before. In half precision it may
# accumulate in half precision, so its operands are widened.


def _torch_conv(torch: Any, x: Any, w: Any, *, stride: Shape, padding: Pairs, dilation: Shape, groups: int) -> Any:
    fn = getattr(torch.nn.functional, f"conv{x.ndim - 2}d")
    pairs = [n for pair in reversed(padding) for n in pair]
    wide = torch.promote_types(x.dtype, torch.float32)
    y = fn(torch.nn.functional.pad(x.to(wide), pairs), w.to(wide), None, stride, 0, dilation, groups)
    return y.to(x.dtype)


def _torch_grad(torch: Any, fn: Any, shape: Shape, g: Any) -> Any:
    """The gradient of the linear function `fn`, without PyTorch's conjugation of complex numbers."""
    x = torch.zeros(shape, dtype=g.dtype, requires_grad=True)
    return torch.autograd.grad(fn(x), x, g.conj(), create_graph=True)[0].conj().resolve_conj()


def _torch_input_grad(torch: Any, g: Any, w: Any, *, input_size: Shape, **params: Any) -> Any:
    shape = (g.shape[0], w.shape[1] * params["groups"], *input_size)
    return _torch_grad(torch, lambda x: _torch_conv(torch, x, w, **params), shape, g)


def _torch_weight_grad(torch: Any, x: Any, g: Any, *, kernel_size: Shape, **params: Any) -> Any:
    shape = (g.shape[1], x.shape[1] // params["groups"], *kernel_size)
    return _torch_grad(torch, lambda w: _torch_conv(torch, x, w, **params), shape, g)


# The primitives -----------------------------------------------------------------------------------

conv: Primitive = Primitive(
    "conv",
    type_rule=_conv_type,
    numpy=via_float32(_conv),
    vjp=(
        lambda g, _y, _x, w, **params: conv_input_grad(g, w, input_size=_x.shape[2:], **params),
        lambda g, _y, x, _w, **params: conv_weight_grad(x, g, kernel_size=_w.shape[2:], **params),
    ),
    samples=_conv_samples,
    errors=_conv_errors,
    dtypes=FLOATS | COMPLEX,
    torch=_torch_conv,
)

conv_input_grad: Primitive = Primitive(
    "conv_input_grad",
    type_rule=_input_grad_type,
    numpy=via_float32(_conv_input_grad),
    vjp=(
        lambda h, _y, _g, w, *, input_size, **params: conv(h, w, **params),
        lambda h, _y, g, _w, *, input_size, **params: conv_weight_grad(h, g, kernel_size=_w.shape[2:], **params),
    ),
    samples=_input_grad_samples,
    errors=_input_grad_errors,
    dtypes=FLOATS | COMPLEX,
    torch=_torch_input_grad,
)

conv_weight_grad: Primitive = Primitive(
    "conv_weight_grad",
    type_rule=_weight_grad_type,
    numpy=via_float32(_conv_weight_grad),
    vjp=(
        lambda h, _y, _x, g, *, kernel_size, **params: conv_input_grad(g, h, input_size=_x.shape[2:], **params),
        lambda h, _y, x, _g, *, kernel_size, **params: conv(x, h, **params),
    ),
    samples=_weight_grad_samples,
    errors=_weight_grad_errors,
    dtypes=FLOATS | COMPLEX,
    torch=_torch_weight_grad,
)
