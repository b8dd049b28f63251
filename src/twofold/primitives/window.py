"""Pooling: the largest element, or the sum, of the window at each position.

Shapes: input (N, C, *S), output (N, C, *L) with L = (S + low + high - dilation * (kernel - 1) - 1)
// stride + 1. Averages, adaptive and Lp pooling are composed from these.

Note [One dimension at a time]
A window is a box, so its maximum and its sum are taken along one dimension after the other, from
the last to the first: sum(kernel) passes instead of prod(kernel). Within a dimension each tap of
the kernel is one vectorised operation on a strided slice, cut to the positions where the tap lies
inside the input, so that padding is never materialised.
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from typing import Any

import numpy as np

from ..ir.dtypes import NUMBERS, REALS, DType, int64
from ..ir.errors import DTypeError, OutOfBoundsError, ShapeError
from ..ir.primitive import ErrorSample, Primitive, Sample
from ..ir.types import Shape, TensorType, contiguous_strides
from ._rules import check_dtype, draw, via_float32
from .conv import Pairs, window_sizes
from .index import gather
from .movement import reshape

Array = np.ndarray[Any, Any]


# Type rules ---------------------------------------------------------------------------------------


def _check_rank(op: str, x: TensorType, spatial: int) -> None:
    if spatial < 1:
        raise ShapeError("the kernel has no dimensions", op=op)
    if x.ndim != spatial + 2:
        raise ShapeError(
            f"an input of shape {x.shape} has {x.ndim} dimensions; {spatial} spatial dimensions take "
            f"{spatial + 2}: (batch, channels, ...)",
            op=op,
            hint="add a batch dimension: x.unsqueeze(0)" if x.ndim == spatial + 1 else None,
        )


def _max_pool_type(
    x: TensorType, *, kernel: Shape, stride: Shape, padding: Pairs, dilation: Shape
) -> tuple[TensorType, TensorType]:
    check_dtype("max_pool", x.dtype, REALS)
    _check_rank("max_pool", x, len(kernel))
    params: dict[str, Any] = {"kernel": kernel, "stride": stride, "padding": padding, "dilation": dilation}
    sizes = window_sizes("max_pool", x.shape[2:], **params)
    for d, (n, size, s, (lo, _), dil) in enumerate(zip(x.shape[2:], sizes, stride, padding, dilation, strict=True)):
        starts = _first_inside(size, s, lo, dil)
        if n and size and (starts.max() >= n or lo > dil * (kernel[d] - 1)):
            raise ShapeError(
                f"padding {padding} of an input of size {x.shape[2:]} leaves windows of kernel {kernel} "
                "with nothing but padding",
                op="max_pool",
                hint="pad by at most half of the kernel's size",
            )
    out = x.with_shape((*x.shape[:2], *sizes))
    return out, out.with_dtype(int64)


def _sum_pool_type(x: TensorType, *, kernel: Shape, stride: Shape, padding: Pairs, dilation: Shape) -> TensorType:
    check_dtype("sum_pool", x.dtype, NUMBERS)
    _check_rank("sum_pool", x, len(kernel))
    sizes = window_sizes("sum_pool", x.shape[2:], kernel=kernel, stride=stride, padding=padding, dilation=dilation)
    return x.with_shape((*x.shape[:2], *sizes))


def _sum_pool_grad_type(g: TensorType, *, input_size: Shape, kernel: Shape, **params: Any) -> TensorType:
    op = "sum_pool_grad"
    check_dtype(op, g.dtype, NUMBERS)
    _check_rank(op, g, len(kernel))
    sizes = window_sizes(op, input_size, kernel=kernel, **params)
    if g.shape[2:] != sizes:
        raise ShapeError(f"an input of size {input_size} gives sums of size {sizes}, but g has {g.shape}", op=op)
    return g.with_shape((*g.shape[:2], *input_size))


# References ---------------------------------------------------------------------------------------


def _first_inside(size: int, stride: int, low: int, dilation: int) -> Array:
    """For each window position the first input element that a tap meets."""
    start = np.arange(size) * stride - low
    return np.where(start < 0, start % dilation, start)


def _taps(
    n: int, size: int, kernel: int, stride: int, low: int, dilation: int
) -> Iterator[tuple[int, slice, slice]]:
    """For each tap: its number, the input elements it meets, and at which window positions."""
    for t in range(kernel):
        shift = t * dilation - low
        a = max(0, -(shift // stride))  # the first position with a * stride + shift >= 0
        b = min(size, (n - 1 - shift) // stride + 1)
        if a < b:
            yield t, slice(a * stride + shift, (b - 1) * stride + shift + 1, stride), slice(a, b)


def _at(d: int, places: Any) -> tuple[Any, ...]:
    """The index of `places` in spatial dimension `d`."""
    return (slice(None),) * (2 + d) + (places,)


def _out_size(n: int, kernel: int, stride: int, pad: tuple[int, int], dilation: int) -> int:
    return (n + sum(pad) - dilation * (kernel - 1) - 1) // stride + 1


def _max_stage(
    x: Array, code: Array | None, d: int, window: tuple[Any, ...], weight: int, nan: bool
) -> tuple[Array, Array]:
    """Largest elements along one dimension, and the code of the tap that each one came from.

    Ties go to the first tap, NaN wins and the last NaN stays, as in PyTorch.
    """
    kernel, stride, pad, dilation = window
    n = x.shape[2 + d]
    size = _out_size(n, kernel, stride, pad, dilation)
    low = pad[0]
    first = _first_inside(size, stride, low, dilation)
    init: Any = first if low else slice(0, size * stride, stride)
    best = x[_at(d, init)].copy()
    number = (first + low - np.arange(size) * stride) // dilation * weight
    number = number.reshape(-1, *(1,) * (x.ndim - 3 - d))
    if code is None:
        codes = np.empty(best.shape, np.min_scalar_type(weight * kernel))
        codes[...] = number
    else:
        codes = (code[_at(d, init)] + number).astype(np.min_scalar_type(weight * kernel))
    for t, source, target in _taps(n, size, kernel, stride, low, dilation):
        if t == 0 and not low:
            continue
        value, so_far = x[_at(d, source)], best[_at(d, target)]
        wins = value > so_far
        if nan:
            wins |= np.isnan(value)
        np.maximum(so_far, value, out=so_far)
        old = codes[_at(d, target)]
        change = codes.dtype.type(t * weight) - old  # wraps around, and back in the sum below
        if code is not None:
            change += code[_at(d, source)]
        change *= wins  # a masked copy would mispredict its branch at every other element
        old += change
    return best, codes


def _max_pool(x: Array, *, kernel: Shape, stride: Shape, padding: Pairs, dilation: Shape) -> tuple[Array, Array]:
    params = list(zip(kernel, stride, padding, dilation, strict=True))
    spatial, size = len(kernel), x.shape[2:]
    nan = False
    while True:
        best, code, weight = x, None, 1
        for d in reversed(range(spatial)):
            best, code = _max_stage(best, code, d, params[d], weight, nan)
            weight *= kernel[d]
        if nan or x.dtype.kind != "f" or not np.isnan(best).any():
            break
        nan = True  # rare: once more, now with the comparisons that NaN needs
    assert code is not None
    strides = contiguous_strides(size)
    steps = [s * d for s, d in zip(strides, dilation, strict=True)]
    offsets = sum(np.ix_(*[np.arange(k) * s for k, s in zip(kernel, steps, strict=True)]))
    indices = np.asarray(offsets, dtype=np.int64).ravel()[code]
    for d in range(spatial):
        start = np.arange(best.shape[2 + d]) * stride[d] - padding[d][0]
        indices += (start * strides[d]).reshape(-1, *(1,) * (spatial - 1 - d))
    return best, indices


def _sum_pool(x: Array, *, kernel: Shape, stride: Shape, padding: Pairs, dilation: Shape) -> Array:
    for d in reversed(range(len(kernel))):
        n = x.shape[2 + d]
        size = _out_size(n, kernel[d], stride[d], padding[d], dilation[d])
        out = np.zeros((*x.shape[: 2 + d], size, *x.shape[3 + d :]), x.dtype)
        for _, source, target in _taps(n, size, kernel[d], stride[d], padding[d][0], dilation[d]):
            out[_at(d, target)] += x[_at(d, source)]
        x = out
    return x


def _sum_pool_grad(
    g: Array, *, input_size: Shape, kernel: Shape, stride: Shape, padding: Pairs, dilation: Shape
) -> Array:
    for d, n in enumerate(input_size):
        out = np.zeros((*g.shape[: 2 + d], n, *g.shape[3 + d :]), g.dtype)
        for _, source, target in _taps(n, g.shape[2 + d], kernel[d], stride[d], padding[d][0], dilation[d]):
            out[_at(d, source)] += g[_at(d, target)]
        g = out
    return g


def _max_pool_grad_type(g: TensorType, indices: TensorType, *, input_size: Shape) -> TensorType:
    op = "max_pool_grad"
    check_dtype(op, g.dtype, REALS)
    check_dtype(op, indices.dtype, frozenset({int64}))
    _check_rank(op, g, len(input_size))
    if g.shape != indices.shape:
        raise ShapeError(f"g has shape {g.shape}, but the indices have {indices.shape}", op=op)
    return g.with_shape((*g.shape[:2], *input_size))


def _max_pool_grad(g: Array, indices: Array, *, input_size: Shape) -> Array:
    pixels = math.prod(input_size)
    if indices.size and not 0 <= indices.min() <= indices.max() < pixels:
        bad = indices[(indices < 0) | (indices >= pixels)].flat[0]
        raise OutOfBoundsError(
            f"index {bad} is out of bounds for an input of size {input_size}, which has {pixels} elements",
            op="max_pool_grad",
            hint="take the indices that max_pool gave for an input of that size",
        )
    out = np.zeros((*g.shape[:2], *input_size), g.dtype)
    planes = np.arange(math.prod(g.shape[:2])).reshape(*g.shape[:2], *(1,) * len(input_size)) * pixels
    np.add.at(out.reshape(-1), (indices + planes).reshape(-1), g.reshape(-1))
    return out


def _max_pool_grad_vjp(h: Any, _y: Any, _g: Any, indices: Any, *, input_size: Shape) -> Any:
    shape = (*indices.shape[:2], math.prod(indices.shape[2:]))
    flat = reshape(h, shape=(*h.shape[:2], math.prod(input_size)))
    return reshape(gather(flat, reshape(indices, shape=shape), dim=2), shape=indices.shape)


# Samples ------------------------------------------------------------------------------------------

_CASES: tuple[tuple[Shape, Shape, Shape, Pairs, Shape], ...] = (
    # x, kernel, stride, padding, dilation
    ((2, 2, 4, 4), (2, 2), (2, 2), ((0, 0), (0, 0)), (1, 1)),
    ((1, 2, 5, 4), (3, 2), (1, 2), ((1, 1), (0, 1)), (1, 1)),
    ((1, 1, 6, 5), (2, 3), (2, 1), ((0, 0), (1, 2)), (3, 2)),
    ((2, 1, 7), (3,), (2,), ((1, 1),), (1,)),
    ((1, 2, 3, 4, 3), (2, 2, 2), (1, 2, 1), ((1, 0), (0, 0), (0, 1)), (1, 1, 1)),
    ((0, 2, 4), (2,), (2,), ((0, 0),), (1,)),
    ((1, 1, 3), (1,), (1,), ((0, 0),), (1,)),
)


def _cases() -> Iterator[tuple[Shape, dict[str, Any]]]:
    for x, kernel, stride, padding, dilation in _CASES:
        yield x, {"kernel": kernel, "stride": stride, "padding": padding, "dilation": dilation}


def _distinct(dtype: DType, rng: np.random.Generator, shape: Shape) -> Array:
    """No two elements equal or near: the maximum is differentiable there."""
    return rng.permutation(math.prod(shape)).reshape(shape).astype(dtype.numpy)


def _max_pool_samples(dtype: DType, rng: np.random.Generator) -> Iterator[Sample]:
    for shape, params in _cases():
        yield Sample((_distinct(dtype, rng, shape),), params)
        yield Sample((np.ones(shape, dtype.numpy),), params, differentiable=False)
    if dtype.is_floating_point:
        shape, params = next(_cases())
        x = _distinct(dtype, rng, shape)
        x[0, 0, :3, :3] = np.nan
        x[1, 0, :2] = -np.inf
        x[1, 1, 0, 0] = np.inf
        yield Sample((x,), params, differentiable=False)


def _sum_pool_samples(dtype: DType, rng: np.random.Generator) -> Iterator[Sample]:
    for shape, params in _cases():
        yield Sample((draw(dtype, rng, shape),), params)


def _sum_pool_grad_samples(dtype: DType, rng: np.random.Generator) -> Iterator[Sample]:
    for shape, params in _cases():
        sizes = window_sizes("sum_pool", shape[2:], **params)
        yield Sample((draw(dtype, rng, (*shape[:2], *sizes)),), {"input_size": shape[2:], **params})


def _max_pool_grad_samples(dtype: DType, rng: np.random.Generator) -> Iterator[Sample]:
    for shape, params in _cases():
        _, indices = _max_pool(_distinct(dtype, rng, shape), **params)
        yield Sample((draw(dtype, rng, indices.shape), indices), {"input_size": shape[2:]})


def _error(shape: Shape, match: str, **changed: Any) -> ErrorSample:
    params = {"kernel": (2,), "stride": (1,), "padding": ((0, 0),), "dilation": (1,), **changed}
    return ErrorSample((np.zeros(shape),), params, ShapeError, match)


def _pool_errors() -> Iterator[ErrorSample]:
    yield _error((3, 4), "has 2 dimensions")
    yield _error((3, 4), "x.unsqueeze(0)")
    yield _error((1, 1, 2), "covers (3,), but the padded input has only (2,)", kernel=(3,))
    yield _error((1, 1, 4), "stride must be positive", stride=(0,))
    yield _error((1, 1, 4), "stride has 2 entries for 1", stride=(1, 1))


def _max_pool_errors() -> Iterator[ErrorSample]:
    yield from _pool_errors()
    yield _error((1, 1, 4), "nothing but padding", padding=((2, 0),))
    yield _error((1, 1, 4), "nothing but padding", padding=((0, 2),))
    params = {"kernel": (2,), "stride": (1,), "padding": ((0, 0),), "dilation": (1,)}
    yield ErrorSample((np.zeros((1, 1, 4), np.complex64),), params, DTypeError, "complex64 is not supported")


def _max_pool_grad_errors() -> Iterator[ErrorSample]:
    g, params = np.zeros((1, 1, 2)), {"input_size": (4,)}
    yield ErrorSample((g, np.full((1, 1, 2), 4)), params, OutOfBoundsError, "index 4 is out of bounds")
    yield ErrorSample((g, np.full((1, 1, 2), -1)), params, OutOfBoundsError, "index -1 is out of bounds")
    yield ErrorSample((g, np.zeros((1, 1, 3), np.int64)), params, ShapeError, "the indices have (1, 1, 3)")
    yield ErrorSample((g, np.zeros((1, 1, 2))), params, DTypeError, "float64 is not supported")


# Oracles: PyTorch pads both sides alike and by half a kernel at most, so its input is padded before.


def _torch_pad(torch: Any, x: Any, padding: Pairs, value: Any) -> Any:
    return torch.nn.functional.pad(x, [n for pair in reversed(padding) for n in pair], value=value)


def _torch_max_pool(torch: Any, x: Any, *, kernel: Shape, stride: Shape, padding: Pairs, dilation: Shape) -> Any:
    lowest = -math.inf if x.is_floating_point() else torch.iinfo(x.dtype).min
    fn = getattr(torch.nn.functional, f"max_pool{len(kernel)}d")
    padded = _torch_pad(torch, x, padding, lowest)
    y, index = fn(padded, kernel, stride, 0, dilation, return_indices=True)
    places = torch.unravel_index(index, padded.shape[2:])
    out = torch.zeros_like(index)
    for place, n, (lo, _) in zip(places, x.shape[2:], padding, strict=True):
        out = out * n + place - lo
    return y, out


def _torch_max_pool_grad(torch: Any, g: Any, indices: Any, *, input_size: Shape) -> Any:
    dtype = g.dtype
    if dtype in (torch.float16, torch.bfloat16):
        g = g.to(torch.float32)
    flat = torch.zeros((*g.shape[:2], math.prod(input_size)), dtype=g.dtype)
    flat = flat.scatter_add(2, indices.flatten(2), g.flatten(2))
    return flat.reshape(*g.shape[:2], *input_size).to(dtype)


def _torch_sum_pool(torch: Any, x: Any, *, kernel: Shape, stride: Shape, padding: Pairs, dilation: Shape) -> Any:
    dtype = x.dtype
    if dtype in (torch.float16, torch.bfloat16):
        x = x.to(torch.float32)  # the reference rounds once, at the end
    x = _torch_pad(torch, x, padding, 0)
    for d, (k, s, dil) in enumerate(zip(kernel, stride, dilation, strict=True), 2):
        x = x.unfold(d, dil * (k - 1) + 1, s)[..., ::dil].sum(-1, dtype=x.dtype)
    return x.to(dtype)


def _torch_sum_pool_grad(torch: Any, g: Any, *, input_size: Shape, **params: Any) -> Any:
    if not (g.is_floating_point() or g.is_complex()):
        raise NotImplementedError("PyTorch has no gradients of integers")
    x = torch.zeros((*g.shape[:2], *input_size), dtype=g.dtype, requires_grad=True)
    return torch.autograd.grad(_torch_sum_pool(torch, x, **params), x, g, create_graph=True)[0]


# The primitives -----------------------------------------------------------------------------------

max_pool: Primitive = Primitive(
    "max_pool",
    type_rule=_max_pool_type,
    numpy=via_float32(_max_pool),
    vjp=(lambda g, y, _x, **params: max_pool_grad(g[0], y[1], input_size=_x.shape[2:]),),
    samples=_max_pool_samples,
    errors=_max_pool_errors,
    dtypes=REALS,
    torch=_torch_max_pool,
    multiple=True,
)

max_pool_grad: Primitive = Primitive(
    "max_pool_grad",
    type_rule=_max_pool_grad_type,
    numpy=via_float32(_max_pool_grad),
    vjp=(_max_pool_grad_vjp, lambda h, _y, _g, _indices, **params: None),
    samples=_max_pool_grad_samples,
    errors=_max_pool_grad_errors,
    dtypes=REALS,
    torch=_torch_max_pool_grad,
)

sum_pool: Primitive = Primitive(
    "sum_pool",
    type_rule=_sum_pool_type,
    numpy=via_float32(_sum_pool),
    vjp=(lambda g, _y, _x, **params: sum_pool_grad(g, input_size=_x.shape[2:], **params),),
    samples=_sum_pool_samples,
    errors=_pool_errors,
    dtypes=NUMBERS,
    torch=_torch_sum_pool,
)

sum_pool_grad: Primitive = Primitive(
    "sum_pool_grad",
    type_rule=_sum_pool_grad_type,
    numpy=via_float32(_sum_pool_grad),
    vjp=(lambda h, _y, _g, *, input_size, **params: sum_pool(h, **params),),
    samples=_sum_pool_grad_samples,
    errors=lambda: (_error((1, 1, 4), "gives sums of size (5,)", input_size=(6,)),),
    dtypes=NUMBERS,
    torch=_torch_sum_pool_grad,
)
