"""Convolutions, transposed convolutions, and windows laid out as columns."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

from ...autodiff.composite import composite
from ...autodiff.handle import Tensor
from ...ir.dtypes import int64
from ...ir.errors import DTypeError, ShapeError, TwofoldError
from ...primitives import conv as C
from ...primitives import elementwise as E
from ...primitives import movement as M
from ._common import cast, channels, tuple_of


def same_padding(kernel: Sequence[int], dilation: Sequence[int]) -> tuple[tuple[int, int], ...]:
    """Padding that keeps the size at stride 1; an odd one goes to the end."""
    totals = [d * (k - 1) for k, d in zip(kernel, dilation, strict=True)]
    return tuple((t // 2, t - t // 2) for t in totals)


def _paddings(
    padding: Any, kernel: Sequence[int], stride: Sequence[int], dilation: Sequence[int], op: str
) -> tuple[tuple[int, int], ...]:
    n = len(kernel)
    if isinstance(padding, str):
        if padding == "valid":
            return ((0, 0),) * n
        if padding != "same":
            raise TwofoldError(f"padding {padding!r} is unknown", op=op, hint="use 'same', 'valid' or numbers")
        if any(s != 1 for s in stride):
            raise TwofoldError("padding='same' is not supported for strided convolutions", op=op)
        return same_padding(kernel, dilation)
    return tuple((p, p) for p in tuple_of(padding, n, "padding", op))


def _batched(input: Tensor, n: int, op: str) -> tuple[Tensor, bool]:
    """The input as (N, C, *), and whether that needed a new first dimension."""
    if input.ndim == n + 2:
        return input, False
    if input.ndim == n + 1:
        return M.reshape(input, shape=(1, *input.shape)), True
    raise ShapeError(
        f"expects an input (N, C, {', '.join('DHW'[3 - n :])}) or one without N, got {input.shape}",
        op=op,
        hint="add the missing dimension with unsqueeze()" if input.ndim < n + 1 else None,
    )


def _check_dtypes(input: Tensor, weight: Tensor, bias: Tensor | None, op: str) -> None:
    for name, t in (("weight", weight), ("bias", bias)):
        if t is not None and t.dtype is not input.dtype:
            raise DTypeError(
                f"the input has dtype {input.dtype.name}, the {name} {t.dtype.name}",
                op=op,
                hint=f"convert one of them, e.g. input.to(twofold.{t.dtype.name})",
            )


def _finish(y: Tensor, bias: Tensor | None, added: bool) -> Tensor:
    if bias is not None:
        y = E.add(y, channels(bias, y.ndim))
    return M.reshape(y, shape=y.shape[1:]) if added else y


def _conv(
    n: int,
    input: Tensor,
    weight: Tensor,
    bias: Tensor | None,
    stride: Any,
    padding: Any,
    dilation: Any,
    groups: int,
) -> Tensor:
    op = f"conv{n}d"
    _check_dtypes(input, weight, bias, op)
    x, added = _batched(input, n, op)
    stride, dilation = tuple_of(stride, n, "stride", op), tuple_of(dilation, n, "dilation", op)
    pads = _paddings(padding, weight.shape[2:], stride, dilation, op)
    y = C.conv(x, weight, stride=stride, padding=pads, dilation=dilation, groups=groups)
    return _finish(y, bias, added)


@composite(fused=True)
def conv1d(
    input: Tensor,
    weight: Tensor,
    bias: Tensor | None = None,
    stride: Any = 1,
    padding: Any = 0,
    dilation: Any = 1,
    groups: int = 1,
) -> Tensor:
    """Cross-correlation of signals (N, C, L) with kernels (O, C / groups, K).

    Shapes: -> (N, O, (L + 2 padding - dilation (K - 1) - 1) // stride + 1); also without N.
    Args:
        padding: zeros at both ends: a number, "same" or "valid".
    Raises: ShapeError when channels, groups or sizes do not fit.

    >>> import twofold as tw
    >>> tw.nn.functional.conv1d(tw.tensor([[[1.0, 2.0, 4.0]]]), tw.tensor([[[1.0, 1.0]]]))
    tensor([[[3., 6.]]])
    """
    return _conv(1, input, weight, bias, stride, padding, dilation, groups)


@composite(fused=True)
def conv2d(
    input: Tensor,
    weight: Tensor,
    bias: Tensor | None = None,
    stride: Any = 1,
    padding: Any = 0,
    dilation: Any = 1,
    groups: int = 1,
) -> Tensor:
    """Cross-correlation of images (N, C, H, W) with kernels (O, C / groups, KH, KW).

    Args:
        padding: zeros at the borders: one number, one per dimension, "same" or "valid".
    Raises: ShapeError when channels, groups or sizes do not fit.

    >>> import twofold as tw
    >>> tw.nn.functional.conv2d(tw.ones(1, 1, 3, 3), tw.ones(1, 1, 2, 2))
    tensor([[[[4., 4.],
              [4., 4.]]]])
    """
    return _conv(2, input, weight, bias, stride, padding, dilation, groups)


@composite(fused=True)
def conv3d(
    input: Tensor,
    weight: Tensor,
    bias: Tensor | None = None,
    stride: Any = 1,
    padding: Any = 0,
    dilation: Any = 1,
    groups: int = 1,
) -> Tensor:
    """Cross-correlation of volumes (N, C, D, H, W) with kernels (O, C / groups, KD, KH, KW).

    >>> import twofold as tw
    >>> tw.nn.functional.conv3d(tw.ones(1, 1, 2, 2, 2), tw.ones(1, 1, 2, 2, 2)).item()
    8.0
    """
    return _conv(3, input, weight, bias, stride, padding, dilation, groups)


def _conv_transpose(
    n: int,
    input: Tensor,
    weight: Tensor,
    bias: Tensor | None,
    stride: Any,
    padding: Any,
    output_padding: Any,
    groups: int,
    dilation: Any,
) -> Tensor:
    op = f"conv_transpose{n}d"
    _check_dtypes(input, weight, bias, op)
    x, added = _batched(input, n, op)
    if x.shape[1] != weight.shape[0]:
        raise ShapeError(
            f"the input has {x.shape[1]} channels, the weight {weight.shape} takes {weight.shape[0]}", op=op
        )
    kernel = weight.shape[2:]
    stride, dilation = tuple_of(stride, n, "stride", op), tuple_of(dilation, n, "dilation", op)
    pads, extra = tuple_of(padding, n, "padding", op), tuple_of(output_padding, n, "output_padding", op)
    for e, s, d in zip(extra, stride, dilation, strict=True):
        if e < 0 or e >= max(s, d):
            raise ShapeError(f"output_padding {e} must be smaller than stride {s} or dilation {d}", op=op)
    size = tuple(
        (i - 1) * s - 2 * p + d * (k - 1) + e + 1
        for i, s, p, d, k, e in zip(x.shape[2:], stride, pads, dilation, kernel, extra, strict=True)
    )
    if min(size) <= 0:
        raise ShapeError(f"the result would have the size {size}: the padding {pads} is too large", op=op)
    y = C.conv_input_grad(
        x,
        weight,
        input_size=size,
        stride=stride,
        padding=tuple((p, p) for p in pads),
        dilation=dilation,
        groups=groups,
    )
    return _finish(y, bias, added)


@composite(fused=True)
def conv_transpose1d(
    input: Tensor,
    weight: Tensor,
    bias: Tensor | None = None,
    stride: Any = 1,
    padding: Any = 0,
    output_padding: Any = 0,
    groups: int = 1,
    dilation: Any = 1,
) -> Tensor:
    """The gradient of `conv1d` with respect to its input, used as a layer that enlarges.

    Shapes: input (N, I, L), weight (I, O / groups, K)
        -> (N, O, (L - 1) stride - 2 padding + dilation (K - 1) + output_padding + 1).

    >>> import twofold as tw
    >>> tw.nn.functional.conv_transpose1d(tw.ones(1, 1, 2), tw.ones(1, 1, 2))
    tensor([[[1., 2., 1.]]])
    """
    return _conv_transpose(1, input, weight, bias, stride, padding, output_padding, groups, dilation)


@composite(fused=True)
def conv_transpose2d(
    input: Tensor,
    weight: Tensor,
    bias: Tensor | None = None,
    stride: Any = 1,
    padding: Any = 0,
    output_padding: Any = 0,
    groups: int = 1,
    dilation: Any = 1,
) -> Tensor:
    """The gradient of `conv2d` with respect to its input, used as a layer that enlarges.

    >>> import twofold as tw
    >>> tw.nn.functional.conv_transpose2d(tw.ones(1, 1, 2, 2), tw.ones(1, 1, 2, 2), stride=2).shape
    (1, 1, 4, 4)
    """
    return _conv_transpose(2, input, weight, bias, stride, padding, output_padding, groups, dilation)


@composite(fused=True)
def conv_transpose3d(
    input: Tensor,
    weight: Tensor,
    bias: Tensor | None = None,
    stride: Any = 1,
    padding: Any = 0,
    output_padding: Any = 0,
    groups: int = 1,
    dilation: Any = 1,
) -> Tensor:
    """The gradient of `conv3d` with respect to its input, used as a layer that enlarges.

    >>> import twofold as tw
    >>> tw.nn.functional.conv_transpose3d(tw.ones(1, 1, 1, 1, 1), tw.ones(1, 1, 2, 2, 2)).shape
    (1, 1, 2, 2, 2)
    """
    return _conv_transpose(3, input, weight, bias, stride, padding, output_padding, groups, dilation)


def _one_hot_kernels(count: int, kernel: tuple[int, ...], like: Tensor) -> Tensor:
    """Kernels (count * K, 1, *kernel), each of which picks one place of the window."""
    size = math.prod(kernel)
    place = M.iota(size=size, dtype=int64)
    eye = cast(E.eq(M.reshape(place, shape=(size, 1)), place), like.dtype)
    many = M.expand(M.reshape(eye, shape=(1, size, size)), shape=(count, size, size))
    return M.reshape(many, shape=(count * size, 1, *kernel))


@composite
def unfold(input: Tensor, kernel_size: Any, dilation: Any = 1, padding: Any = 0, stride: Any = 1) -> Tensor:
    """All windows of the images as columns.

    Shapes: input (N, C, H, W) -> (N, C * KH * KW, number of windows); also without N.

    >>> import twofold as tw
    >>> tw.nn.functional.unfold(tw.ones(1, 1, 3, 3), 2).shape
    (1, 4, 4)
    """
    x, added = _batched(input, 2, "unfold")
    kernel, stride, dilation, pads = _window_args(kernel_size, stride, dilation, padding, "unfold")
    c = x.shape[1]
    w = _one_hot_kernels(c, kernel, x)
    y = C.conv(x, w, stride=stride, padding=pads, dilation=dilation, groups=c)
    y = M.reshape(y, shape=(x.shape[0], y.shape[1], math.prod(y.shape[2:])))
    return M.reshape(y, shape=y.shape[1:]) if added else y


@composite
def fold(
    input: Tensor, output_size: Any, kernel_size: Any, dilation: Any = 1, padding: Any = 0, stride: Any = 1
) -> Tensor:
    """Images as the sum of windows given as columns: the transpose of `unfold`.

    Shapes: input (N, C * KH * KW, number of windows) -> (N, C, *output_size); also without N.
    Raises: ShapeError when the number of columns is not that of `output_size`.

    >>> import twofold as tw
    >>> tw.nn.functional.fold(tw.ones(1, 4, 1), (2, 2), 2)
    tensor([[[[1., 1.],
              [1., 1.]]]])
    """
    added = input.ndim == 2
    x = M.reshape(input, shape=(1, *input.shape)) if added else input
    if x.ndim != 3:
        raise ShapeError(f"expects an input (N, C * K, L), got {input.shape}", op="fold")
    kernel, stride, dilation, pads = _window_args(kernel_size, stride, dilation, padding, "fold")
    size = tuple_of(output_size, 2, "output_size", "fold")
    counts = tuple(
        (o + 2 * p[0] - d * (k - 1) - 1) // s + 1
        for o, p, d, k, s in zip(size, pads, dilation, kernel, stride, strict=True)
    )
    n, rows, columns = x.shape
    if rows % math.prod(kernel) or columns != math.prod(counts):
        raise ShapeError(
            f"an input of shape {input.shape} does not fit: output_size {size} has {counts[0]} x {counts[1]} "
            f"windows of {math.prod(kernel)} values",
            op="fold",
        )
    c = rows // math.prod(kernel)
    y = C.conv_input_grad(
        M.reshape(x, shape=(n, rows, *counts)),
        _one_hot_kernels(c, kernel, x),
        input_size=size,
        stride=stride,
        padding=pads,
        dilation=dilation,
        groups=c,
    )
    return M.reshape(y, shape=y.shape[1:]) if added else y


def _window_args(kernel: Any, stride: Any, dilation: Any, padding: Any, op: str) -> tuple[Any, Any, Any, Any]:
    pads = tuple_of(padding, 2, "padding", op)
    return (
        tuple_of(kernel, 2, "kernel_size", op),
        tuple_of(stride, 2, "stride", op),
        tuple_of(dilation, 2, "dilation", op),
        tuple((p, p) for p in pads),
    )
