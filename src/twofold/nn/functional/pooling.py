"""Pooling over windows: maxima, averages, power means; adaptive windows; unpooling."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

from ...autodiff.composite import composite
from ...autodiff.handle import Tensor
from ...ir.dtypes import int64
from ...ir.errors import ShapeError
from ...primitives import elementwise as E
from ...primitives import index as I
from ...primitives import linalg as L
from ...primitives import movement as M
from ...primitives import reduce as R
from ...primitives import window as W
from ._common import cast, tuple_of

Pairs = tuple[tuple[int, int], ...]


def _batched(input: Tensor, n: int, op: str) -> tuple[Tensor, bool]:
    if input.ndim == n + 2:
        return input, False
    if input.ndim == n + 1:
        return M.reshape(input, shape=(1, *input.shape)), True
    raise ShapeError(
        f"expects an input (N, C, {', '.join('DHW'[3 - n :])}) or one without N, got {input.shape}", op=op
    )


def _unbatch(y: Tensor, added: bool) -> Tensor:
    return M.reshape(y, shape=y.shape[1:]) if added else y


def _window(
    n: int, kernel: Any, stride: Any, padding: Any, dilation: Any, op: str
) -> tuple[tuple[int, ...], tuple[int, ...], tuple[int, ...], tuple[int, ...]]:
    k = tuple_of(kernel, n, "kernel_size", op)
    s = k if stride is None or stride in ((), []) else tuple_of(stride, n, "stride", op)
    p, d = tuple_of(padding, n, "padding", op), tuple_of(dilation, n, "dilation", op)
    for pad, size in zip(p, k, strict=True):
        if pad * 2 > size:
            raise ShapeError(f"padding {pad} is more than half of the kernel size {size}", op=op)
    return k, s, p, d


def _pads(size: Sequence[int], k: Any, s: Any, p: Any, d: Any, ceil_mode: bool, op: str) -> Pairs:
    """Padding (low, high) of each dimension; in ceil mode high is what the last window needs."""
    out = []
    for n, kernel, stride, pad, dilation in zip(size, k, s, p, d, strict=True):
        reach = dilation * (kernel - 1) + 1
        high = pad
        if n + 2 * pad < reach and not ceil_mode:
            raise ShapeError(
                f"a window of {reach} is larger than the input: {n} with padding {pad} on both sides",
                op=op,
                hint="use a smaller kernel_size, or fewer pooling layers before this one",
            )
        if ceil_mode:
            count = -((reach - n - 2 * pad) // stride) + 1
            if (count - 1) * stride >= n + pad:
                count -= 1
            if count < 1:
                raise ShapeError(f"a window of {reach} is larger than the input of size {n}", op=op)
            high = max(pad, (count - 1) * stride + reach - n - pad)
        out.append((pad, high))
    return tuple(out)


def _max_pool(
    n: int, input: Tensor, kernel: Any, stride: Any, padding: Any, dilation: Any, ceil_mode: bool, indices: bool
) -> Any:
    op = f"max_pool{n}d"
    x, added = _batched(input, n, op)
    k, s, p, d = _window(n, kernel, stride, padding, dilation, op)
    pads = _pads(x.shape[2:], k, s, p, d, ceil_mode, op)
    values, where = W.max_pool(x, kernel=k, stride=s, padding=pads, dilation=d)
    if indices:
        return _unbatch(values, added), _unbatch(where, added)
    return _unbatch(values, added)


@composite(fused=True)
def max_pool1d(
    input: Tensor,
    kernel_size: Any,
    stride: Any = None,
    padding: Any = 0,
    dilation: Any = 1,
    ceil_mode: bool = False,
    return_indices: bool = False,
) -> Any:
    """Largest value of each window of (N, C, L); with `return_indices` also where it was.

    Args:
        stride: step between windows; the kernel's size by default.
        padding: cells at both ends that never win.
        ceil_mode: also take a last window that is only partly inside.

    >>> import twofold as tw
    >>> tw.nn.functional.max_pool1d(tw.tensor([[[1.0, 3.0, 2.0, 0.0]]]), 2)
    tensor([[[3., 2.]]])
    """
    return _max_pool(1, input, kernel_size, stride, padding, dilation, ceil_mode, return_indices)


@composite(fused=True)
def max_pool2d(
    input: Tensor,
    kernel_size: Any,
    stride: Any = None,
    padding: Any = 0,
    dilation: Any = 1,
    ceil_mode: bool = False,
    return_indices: bool = False,
) -> Any:
    """Largest value of each window of (N, C, H, W); with `return_indices` also where it was.

    >>> import twofold as tw
    >>> tw.nn.functional.max_pool2d(tw.tensor([[[[1.0, 3.0], [2.0, 0.0]]]]), 2)
    tensor([[[[3.]]]])
    """
    return _max_pool(2, input, kernel_size, stride, padding, dilation, ceil_mode, return_indices)


@composite(fused=True)
def max_pool3d(
    input: Tensor,
    kernel_size: Any,
    stride: Any = None,
    padding: Any = 0,
    dilation: Any = 1,
    ceil_mode: bool = False,
    return_indices: bool = False,
) -> Any:
    """Largest value of each window of (N, C, D, H, W); with `return_indices` also where it was.

    >>> import twofold as tw
    >>> tw.nn.functional.max_pool3d(tw.ones(1, 1, 2, 2, 2), 2).shape
    (1, 1, 1, 1, 1)
    """
    return _max_pool(3, input, kernel_size, stride, padding, dilation, ceil_mode, return_indices)


def _avg_pool(
    n: int,
    input: Tensor,
    kernel: Any,
    stride: Any,
    padding: Any,
    ceil_mode: bool,
    count_include_pad: bool,
    divisor: int | None,
) -> Tensor:
    op = f"avg_pool{n}d"
    x, added = _batched(input, n, op)
    k, s, p, d = _window(n, kernel, stride, padding, 1, op)
    pads = _pads(x.shape[2:], k, s, p, d, ceil_mode, op)
    sums = W.sum_pool(x, kernel=k, stride=s, padding=pads, dilation=d)
    if divisor is not None:
        if divisor == 0:
            raise ShapeError("divisor must be not zero", op=op)
        return _unbatch(sums / float(divisor), added)
    whole = all(low == 0 == high for low, high in pads)
    in_padding = count_include_pad and all(high <= pad for (_, high), pad in zip(pads, p, strict=True))
    if whole or in_padding:
        return _unbatch(sums / float(math.prod(k)), added)
    counted = tuple((pad, pad) if count_include_pad else (0, 0) for pad in p)
    return _unbatch(sums / _window_counts(x, k, s, pads, counted), added)


def _window_counts(x: Tensor, k: Any, s: Any, pads: Pairs, counted: Pairs) -> Tensor:
    """How many cells each window holds: those of the input and of the padding that counts."""
    size = tuple(n + low + high for n, (low, high) in zip(x.shape[2:], counted, strict=True))
    ones = M.full(shape=(1, 1, *size), value=1, dtype=x.dtype)
    rest = tuple(
        (low - in_low, max(high - in_high, 0)) for (low, high), (in_low, in_high) in zip(pads, counted, strict=True)
    )
    return W.sum_pool(ones, kernel=k, stride=s, padding=rest, dilation=(1,) * len(k))


@composite(fused=True)
def avg_pool1d(
    input: Tensor,
    kernel_size: Any,
    stride: Any = None,
    padding: Any = 0,
    ceil_mode: bool = False,
    count_include_pad: bool = True,
) -> Tensor:
    """Mean of each window of (N, C, L).

    Args:
        count_include_pad: whether the zeros of the padding count as values.

    >>> import twofold as tw
    >>> tw.nn.functional.avg_pool1d(tw.tensor([[[1.0, 3.0, 2.0, 0.0]]]), 2)
    tensor([[[2., 1.]]])
    """
    return _avg_pool(1, input, kernel_size, stride, padding, ceil_mode, count_include_pad, None)


@composite(fused=True)
def avg_pool2d(
    input: Tensor,
    kernel_size: Any,
    stride: Any = None,
    padding: Any = 0,
    ceil_mode: bool = False,
    count_include_pad: bool = True,
    divisor_override: int | None = None,
) -> Tensor:
    """Mean of each window of (N, C, H, W), or its sum divided by `divisor_override`.

    >>> import twofold as tw
    >>> tw.nn.functional.avg_pool2d(tw.ones(1, 1, 2, 2), 2)
    tensor([[[[1.]]]])
    """
    return _avg_pool(2, input, kernel_size, stride, padding, ceil_mode, count_include_pad, divisor_override)


@composite(fused=True)
def avg_pool3d(
    input: Tensor,
    kernel_size: Any,
    stride: Any = None,
    padding: Any = 0,
    ceil_mode: bool = False,
    count_include_pad: bool = True,
    divisor_override: int | None = None,
) -> Tensor:
    """Mean of each window of (N, C, D, H, W), or its sum divided by `divisor_override`.

    >>> import twofold as tw
    >>> tw.nn.functional.avg_pool3d(tw.ones(1, 1, 2, 2, 2), 2).item()
    1.0
    """
    return _avg_pool(3, input, kernel_size, stride, padding, ceil_mode, count_include_pad, divisor_override)


def _adaptive_sizes(x: Tensor, output_size: Any, n: int, op: str) -> tuple[int, ...]:
    """The wanted size; None keeps the input's."""
    wanted = output_size if isinstance(output_size, (tuple, list)) else (output_size,) * n
    if len(wanted) != n:
        raise ShapeError(f"output_size must be one number or {n} of them, got {tuple(wanted)}", op=op)
    return tuple(x.shape[2 + i] if o is None else int(o) for i, o in enumerate(wanted))


def _window_ends(n: int, o: int) -> tuple[Tensor, Tensor]:
    """First and one-past-last index of the `o` windows over `n` cells."""
    i = M.iota(size=o, dtype=int64)
    return E.floor_divide(i * n, o), E.floor_divide((i + 1) * n + (o - 1), o)


def _adaptive_avg_pool(n: int, input: Tensor, output_size: Any) -> Tensor:
    op = f"adaptive_avg_pool{n}d"
    x, added = _batched(input, n, op)
    size = _adaptive_sizes(x, output_size, n, op)
    if all(o and i % o == 0 for i, o in zip(x.shape[2:], size, strict=True)):
        k = tuple(i // o for i, o in zip(x.shape[2:], size, strict=True))
        y = W.sum_pool(x, kernel=k, stride=k, padding=((0, 0),) * n, dilation=(1,) * n) / float(math.prod(k))
        return _unbatch(y, added)
    for dim, o in enumerate(size, 2):
        x = _averaged_along(x, dim, o)
    return _unbatch(x, added)


def _averaged_along(x: Tensor, dim: int, o: int) -> Tensor:
    """Means of `o` windows along `dim`, as a product with the matrix of their weights."""
    n = x.shape[dim]
    start, stop = (M.reshape(t, shape=(1, o)) for t in _window_ends(n, o))
    place = M.reshape(M.iota(size=n, dtype=int64), shape=(n, 1))
    inside = E.bitwise_and(E.ge(place, start), E.lt(place, stop))
    weights = cast(inside, x.dtype) / cast(stop - start, x.dtype)
    moved = (*(d for d in range(x.ndim) if d != dim), dim)
    back = tuple(moved.index(d) for d in range(x.ndim))
    rows = M.permute(x, dims=moved)
    flat = M.reshape(rows, shape=(math.prod(rows.shape[:-1]), n))
    y = M.reshape(L.matmul(flat, weights), shape=(*rows.shape[:-1], o))
    return M.permute(y, dims=back)


@composite(fused=True)
def adaptive_avg_pool1d(input: Tensor, output_size: Any) -> Tensor:
    """Means of `output_size` windows that cover (N, C, L) evenly.

    >>> import twofold as tw
    >>> tw.nn.functional.adaptive_avg_pool1d(tw.tensor([[[1.0, 2.0, 3.0, 6.0]]]), 2)
    tensor([[[1.5000, 4.5000]]])
    """
    return _adaptive_avg_pool(1, input, output_size)


@composite(fused=True)
def adaptive_avg_pool2d(input: Tensor, output_size: Any) -> Tensor:
    """Means of windows that cover (N, C, H, W) evenly; None keeps a size.

    >>> import twofold as tw
    >>> tw.nn.functional.adaptive_avg_pool2d(tw.ones(1, 2, 5, 7), 1).shape
    (1, 2, 1, 1)
    """
    return _adaptive_avg_pool(2, input, output_size)


@composite(fused=True)
def adaptive_avg_pool3d(input: Tensor, output_size: Any) -> Tensor:
    """Means of windows that cover (N, C, D, H, W) evenly; None keeps a size.

    >>> import twofold as tw
    >>> tw.nn.functional.adaptive_avg_pool3d(tw.ones(1, 2, 3, 4, 5), (1, 2, None)).shape
    (1, 2, 1, 2, 5)
    """
    return _adaptive_avg_pool(3, input, output_size)


def _adaptive_max_pool(n: int, input: Tensor, output_size: Any, return_indices: bool) -> Any:
    op = f"adaptive_max_pool{n}d"
    x, added = _batched(input, n, op)
    size = _adaptive_sizes(x, output_size, n, op)
    if all(o and i % o == 0 for i, o in zip(x.shape[2:], size, strict=True)):
        k = tuple(i // o for i, o in zip(x.shape[2:], size, strict=True))
        values, where = W.max_pool(x, kernel=k, stride=k, padding=((0, 0),) * n, dilation=(1,) * n)
    else:
        values, where = _max_of_windows(x, size)
    return (_unbatch(values, added), _unbatch(where, added)) if return_indices else _unbatch(values, added)


def _max_of_windows(x: Tensor, size: tuple[int, ...]) -> tuple[Tensor, Tensor]:
    """Maxima of uneven windows: their cells are listed, the short ones filled up with their last cell."""
    spatial, n = x.shape[2:], len(size)
    cells: Any = M.full(shape=(), value=0, dtype=int64)
    for dim, (count, o) in enumerate(zip(spatial, size, strict=True)):
        start, stop = (M.reshape(t, shape=(o, 1)) for t in _window_ends(count, o))
        longest = max(-(-(i + 1) * count // o) - i * count // o for i in range(o))
        offset = M.reshape(M.iota(size=longest, dtype=int64), shape=(1, longest))
        index = E.minimum(start + offset, stop - 1)  # (o, longest)
        spread = [1] * (2 * n)
        spread[dim], spread[n + dim] = o, longest
        cells = cells * count + M.reshape(index, shape=tuple(spread))
    per_window = math.prod(cells.shape[n:])
    cells = M.reshape(cells, shape=(math.prod(size), per_window))
    flat = M.reshape(x, shape=(*x.shape[:2], math.prod(spatial)))
    windows = I.index(flat, cells, dims=(2,))  # (N, C, windows, cells)
    best = R.argmax(windows, dim=3, keepdim=True)
    values = I.gather(windows, best, dim=3)
    listed = M.expand(M.reshape(cells, shape=(1, 1, *cells.shape)), shape=windows.shape)
    where = I.gather(listed, best, dim=3)
    shape = (*x.shape[:2], *size)
    return M.reshape(values, shape=shape), M.reshape(where, shape=shape)


@composite
def adaptive_max_pool1d(input: Tensor, output_size: Any, return_indices: bool = False) -> Any:
    """Maxima of `output_size` windows that cover (N, C, L) evenly.

    >>> import twofold as tw
    >>> tw.nn.functional.adaptive_max_pool1d(tw.tensor([[[1.0, 2.0, 3.0, 6.0]]]), 2)
    tensor([[[2., 6.]]])
    """
    return _adaptive_max_pool(1, input, output_size, return_indices)


@composite
def adaptive_max_pool2d(input: Tensor, output_size: Any, return_indices: bool = False) -> Any:
    """Maxima of windows that cover (N, C, H, W) evenly; None keeps a size.

    >>> import twofold as tw
    >>> tw.nn.functional.adaptive_max_pool2d(tw.ones(1, 2, 5, 7), 1).shape
    (1, 2, 1, 1)
    """
    return _adaptive_max_pool(2, input, output_size, return_indices)


@composite
def adaptive_max_pool3d(input: Tensor, output_size: Any, return_indices: bool = False) -> Any:
    """Maxima of windows that cover (N, C, D, H, W) evenly; None keeps a size.

    >>> import twofold as tw
    >>> tw.nn.functional.adaptive_max_pool3d(tw.ones(1, 2, 3, 4, 5), (1, 2, None)).shape
    (1, 2, 1, 2, 5)
    """
    return _adaptive_max_pool(3, input, output_size, return_indices)


def _lp_pool(n: int, input: Tensor, p: float, kernel: Any, stride: Any, ceil_mode: bool) -> Tensor:
    k = tuple_of(kernel, n, "kernel_size", f"lp_pool{n}d")
    mean = _avg_pool(n, input**p, k, stride, 0, ceil_mode, True, None)
    return (E.sign(mean) * E.relu(E.abs(mean)) * float(math.prod(k))) ** (1.0 / p)


@composite
def lp_pool1d(
    input: Tensor, norm_type: float, kernel_size: Any, stride: Any = None, ceil_mode: bool = False
) -> Tensor:
    """(sum of x ** p over each window) ** (1 / p) for (N, C, L).

    >>> import twofold as tw
    >>> tw.nn.functional.lp_pool1d(tw.tensor([[[3.0, 4.0]]]), 2, 2)
    tensor([[[5.]]])
    """
    return _lp_pool(1, input, norm_type, kernel_size, stride, ceil_mode)


@composite
def lp_pool2d(
    input: Tensor, norm_type: float, kernel_size: Any, stride: Any = None, ceil_mode: bool = False
) -> Tensor:
    """(sum of x ** p over each window) ** (1 / p) for (N, C, H, W).

    >>> import twofold as tw
    >>> tw.nn.functional.lp_pool2d(tw.ones(1, 1, 2, 2), 2, 2).item()
    2.0
    """
    return _lp_pool(2, input, norm_type, kernel_size, stride, ceil_mode)


@composite
def lp_pool3d(
    input: Tensor, norm_type: float, kernel_size: Any, stride: Any = None, ceil_mode: bool = False
) -> Tensor:
    """(sum of x ** p over each window) ** (1 / p) for (N, C, D, H, W).

    >>> import twofold as tw
    >>> tw.nn.functional.lp_pool3d(tw.ones(1, 1, 2, 2, 2), 3, 2).item()
    2.0
    """
    return _lp_pool(3, input, norm_type, kernel_size, stride, ceil_mode)


def _max_unpool(
    n: int, input: Tensor, indices: Tensor, kernel: Any, stride: Any, padding: Any, output_size: Any
) -> Tensor:
    op = f"max_unpool{n}d"
    if indices.shape != input.shape:
        raise ShapeError(f"the indices have shape {indices.shape}, the input {input.shape}", op=op)
    x, added = _batched(input, n, op)
    k, s, p, _ = _window(n, kernel, stride, padding, 1, op)
    default = tuple(
        (i - 1) * step - 2 * pad + size for i, step, pad, size in zip(x.shape[2:], s, p, k, strict=True)
    )
    size = default if output_size is None else tuple(output_size)[-n:]
    for got, usual, step in zip(size, default, s, strict=True):
        if not usual - step < got < usual + step:
            raise ShapeError(f"output_size {size} is too far from {default}", op=op)
    lead, count = x.shape[:2], math.prod(x.shape[2:])
    zeros = M.full(shape=(*lead, math.prod(size)), value=0, dtype=x.dtype)
    places = cast(M.reshape(indices, shape=(*lead, count)), int64)
    y = I.scatter(zeros, places, M.reshape(x, shape=(*lead, count)), dim=2)
    return _unbatch(M.reshape(y, shape=(*lead, *size)), added)


@composite
def max_unpool1d(
    input: Tensor, indices: Tensor, kernel_size: Any, stride: Any = None, padding: Any = 0, output_size: Any = None
) -> Tensor:
    """Put the maxima back to where `max_pool1d` found them; zeros elsewhere.

    >>> import twofold as tw
    >>> tw.nn.functional.max_unpool1d(tw.tensor([[[3.0]]]), tw.tensor([[[1]]]), 2)
    tensor([[[0., 3.]]])
    """
    return _max_unpool(1, input, indices, kernel_size, stride, padding, output_size)


@composite
def max_unpool2d(
    input: Tensor, indices: Tensor, kernel_size: Any, stride: Any = None, padding: Any = 0, output_size: Any = None
) -> Tensor:
    """Put the maxima back to where `max_pool2d` found them; zeros elsewhere.

    >>> import twofold as tw
    >>> tw.nn.functional.max_unpool2d(tw.ones(1, 1, 1, 1), tw.zeros(1, 1, 1, 1).long(), 2).shape
    (1, 1, 2, 2)
    """
    return _max_unpool(2, input, indices, kernel_size, stride, padding, output_size)


@composite
def max_unpool3d(
    input: Tensor, indices: Tensor, kernel_size: Any, stride: Any = None, padding: Any = 0, output_size: Any = None
) -> Tensor:
    """Put the maxima back to where `max_pool3d` found them; zeros elsewhere.

    >>> import twofold as tw
    >>> tw.nn.functional.max_unpool3d(tw.ones(1, 1, 1, 1, 1), tw.zeros(1, 1, 1, 1, 1).long(), 2).shape
    (1, 1, 2, 2, 2)
    """
    return _max_unpool(3, input, indices, kernel_size, stride, padding, output_size)
