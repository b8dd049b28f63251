"""Normalisation over the batch, over features, over groups; unit vectors."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

from ...autodiff.bind import no_record
from ...autodiff.composite import composite
from ...autodiff.handle import Tensor
from ...ir.dtypes import HALVES, float32
from ...ir.errors import ShapeError
from ...ir.types import canonical_dim
from ...primitives import elementwise as E
from ...primitives import movement as M
from ...primitives import window as W
from ...tensors._registry import assign
from ._common import average, cast, channels, check_floating, in_float32


def _standardized(x: Tensor, dims: tuple[int, ...]) -> tuple[Tensor, Tensor, Tensor]:
    """x - mean, the mean and the biased variance over `dims`."""
    mean = average(x, dims, keepdim=True)
    centred = E.sub(x, mean)
    var = average(E.mul(centred, centred), dims, keepdim=True)
    return centred, mean, var


@composite(fused=True, gathers=True)
def batch_norm(
    input: Tensor,
    running_mean: Tensor | None,
    running_var: Tensor | None,
    weight: Tensor | None = None,
    bias: Tensor | None = None,
    training: bool = False,
    momentum: Any = 0.1,
    eps: float = 1e-5,
) -> Tensor:
    """Each channel shifted and scaled to mean 0 and variance 1, then `* weight + bias`.

    Shapes: input (N, C, *); the other tensors (C,) -> the input's shape.
    Args:
        training: take mean and variance of the batch and move the running ones towards them;
            otherwise use the running ones.
        momentum: weight of the batch in the running statistics, a number or a tensor.
    Raises: ShapeError for one value per channel while training.
    Numerics: the batch is scaled with the biased variance, the running variance is unbiased.
    Source: Ioffe and Szegedy 2015, "Batch Normalization", algorithm 1.

    >>> import twofold as tw
    >>> x = tw.tensor([[1.0], [3.0]])
    >>> tw.nn.functional.batch_norm(x, None, None, training=True)
    tensor([[-1.0000],
            [ 1.0000]])
    """
    check_floating(input, "batch_norm")
    if input.ndim < 2:
        raise ShapeError(f"expects an input (N, C, ...), got {input.shape}", op="batch_norm")
    dtype = input.dtype
    x = cast(input, float32) if dtype in HALVES else input
    if training:
        y = _batch_statistics(x, running_mean, running_var, weight, bias, momentum, eps)
    else:
        if running_mean is None or running_var is None:
            raise ShapeError("needs running_mean and running_var when training is False", op="batch_norm")
        inv = E.rsqrt(cast(running_var, x.dtype) + eps)
        scale = inv if weight is None else inv * cast(weight, x.dtype)
        y = (x - channels(cast(running_mean, x.dtype), x.ndim)) * channels(scale, x.ndim)
        if bias is not None:
            y = y + channels(cast(bias, x.dtype), x.ndim)
    return cast(y, dtype)


def _batch_statistics(
    x: Tensor,
    running_mean: Tensor | None,
    running_var: Tensor | None,
    weight: Tensor | None,
    bias: Tensor | None,
    momentum: Any,
    eps: float,
) -> Tensor:
    count = math.prod(x.shape) // x.shape[1] if x.shape[1] else 0
    if count == 1:
        raise ShapeError(
            f"Expected more than 1 value per channel when training, got input size {tuple(x.shape)}",
            op="batch_norm",
            hint="use larger batches (drop_last=True in the DataLoader drops a last batch of one), or eval()",
        )
    dims = (0, *range(2, x.ndim))
    centred, mean, var = _standardized(x, dims)
    with no_record():
        for running, batch, correction in (
            (running_mean, mean, 1.0),
            (running_var, var, count / (count - 1) if count > 1 else 1.0),
        ):
            if running is not None:
                batch = cast(M.reshape(batch, shape=(x.shape[1],)), running.dtype)
                assign(running, running * (1.0 - momentum) + batch * (momentum * correction))
    scale = E.rsqrt(var + eps)
    if weight is not None:
        scale = scale * channels(cast(weight, x.dtype), x.ndim)
    y = E.mul(centred, scale)
    return y if bias is None else E.add(y, channels(cast(bias, x.dtype), x.ndim))


@composite(fused=True, gathers=True)
def instance_norm(
    input: Tensor,
    running_mean: Tensor | None = None,
    running_var: Tensor | None = None,
    weight: Tensor | None = None,
    bias: Tensor | None = None,
    use_input_stats: bool = True,
    momentum: Any = 0.1,
    eps: float = 1e-5,
) -> Tensor:
    """Each channel of each sample shifted and scaled to mean 0 and variance 1.

    Shapes: input (N, C, *) -> the same.
    Source: Ulyanov et al. 2016, "Instance Normalization".

    >>> import twofold as tw
    >>> tw.nn.functional.instance_norm(tw.tensor([[[1.0, 3.0]]]))
    tensor([[[-1.0000,  1.0000]]])
    """
    check_floating(input, "instance_norm")
    if not use_input_stats:
        return batch_norm(input, running_mean, running_var, weight, bias, False, momentum, eps)
    count = math.prod(input.shape[2:])
    if count == 1:
        raise ShapeError(
            f"Expected more than 1 spatial element when training, got input size {tuple(input.shape)}",
            op="instance_norm",
        )
    dtype = input.dtype
    x = cast(input, float32) if dtype in HALVES else input
    centred, mean, var = _standardized(x, tuple(range(2, x.ndim)))
    with no_record():
        for running, batch, correction in (
            (running_mean, mean, 1.0),
            (running_var, var, count / (count - 1) if count > 1 else 1.0),
        ):
            if running is not None:
                over_batch = average(M.reshape(batch, shape=x.shape[:2]), (0,))
                batch = cast(over_batch, running.dtype)
                assign(running, running * (1.0 - momentum) + batch * (momentum * correction))
    return cast(_affine(centred * E.rsqrt(var + eps), weight, bias), dtype)


def _affine(y: Tensor, weight: Tensor | None, bias: Tensor | None) -> Tensor:
    """`y * weight + bias` per channel (dim 1)."""
    if weight is not None:
        y = y * channels(cast(weight, y.dtype), y.ndim)
    return y if bias is None else y + channels(cast(bias, y.dtype), y.ndim)


def _last_dims(input: Tensor, normalized_shape: Any, op: str) -> tuple[int, ...]:
    shape = (normalized_shape,) if isinstance(normalized_shape, int) else tuple(normalized_shape)
    k = len(shape)
    if k == 0 or input.shape[input.ndim - k :] != shape or input.ndim < k:
        raise ShapeError(
            f"expects inputs that end in {shape}, got {input.shape}",
            op=op,
            hint=f"use normalized_shape={input.shape[max(0, input.ndim - max(k, 1)) :]}",
        )
    return tuple(range(input.ndim - k, input.ndim))


@composite(fused=True, gathers=True)
@in_float32
def layer_norm(
    input: Tensor,
    normalized_shape: int | Sequence[int],
    weight: Tensor | None = None,
    bias: Tensor | None = None,
    eps: float = 1e-5,
) -> Tensor:
    """The last dimensions shifted and scaled to mean 0 and variance 1, then `* weight + bias`.

    Shapes: input (*, *normalized_shape), weight and bias normalized_shape -> the input's shape.
    Raises: ShapeError when the input does not end in normalized_shape.
    Source: Ba et al. 2016, "Layer Normalization".

    >>> import twofold as tw
    >>> tw.nn.functional.layer_norm(tw.tensor([[1.0, 3.0]]), (2,))
    tensor([[-1.0000,  1.0000]])
    """
    check_floating(input, "layer_norm")
    dims = _last_dims(input, normalized_shape, "layer_norm")
    centred, _, var = _standardized(input, dims)
    y = E.mul(centred, E.rsqrt(var + eps))
    if weight is not None:
        y = y * weight
    return y if bias is None else y + bias


@composite(fused=True, gathers=True)
@in_float32
def rms_norm(
    input: Tensor, normalized_shape: int | Sequence[int], weight: Tensor | None = None, eps: float | None = None
) -> Tensor:
    """The last dimensions divided by the root of their mean square, then `* weight`.

    Numerics: `eps` None means the spacing of floats at 1.
    Source: Zhang and Sennrich 2019, "Root Mean Square Layer Normalization", eq. 4.

    >>> import twofold as tw
    >>> tw.nn.functional.rms_norm(tw.tensor([[3.0, 3.0]]), (2,))
    tensor([[1., 1.]])
    """
    check_floating(input, "rms_norm")
    dims = _last_dims(input, normalized_shape, "rms_norm")
    if eps is None:
        eps = 2.0**-52 if input.dtype.itemsize == 8 else 2.0**-23
    y = input * E.rsqrt(average(E.mul(input, input), dims, keepdim=True) + eps)
    return y if weight is None else y * weight


@composite(fused=True, gathers=True)
@in_float32
def group_norm(
    input: Tensor, num_groups: int, weight: Tensor | None = None, bias: Tensor | None = None, eps: float = 1e-5
) -> Tensor:
    """Groups of channels of each sample shifted and scaled to mean 0 and variance 1.

    Shapes: input (N, C, *), weight and bias (C,) -> the input's shape.
    Raises: ShapeError when num_groups does not divide C.
    Source: Wu and He 2018, "Group Normalization".

    >>> import twofold as tw
    >>> tw.nn.functional.group_norm(tw.tensor([[1.0, 3.0]]), 1)
    tensor([[-1.0000,  1.0000]])
    """
    check_floating(input, "group_norm")
    if input.ndim < 2:
        raise ShapeError(f"expects an input (N, C, ...), got {input.shape}", op="group_norm")
    n, c = input.shape[:2]
    if c % num_groups:
        raise ShapeError(f"{num_groups} groups do not divide {c} channels", op="group_norm")
    size = math.prod(input.shape[1:]) // num_groups
    grouped = M.reshape(input, shape=(n, num_groups, size))
    centred, _, var = _standardized(grouped, (2,))
    return _affine(M.reshape(centred * E.rsqrt(var + eps), shape=input.shape), weight, bias)


@composite
def local_response_norm(
    input: Tensor, size: int, alpha: float = 1e-4, beta: float = 0.75, k: float = 1.0
) -> Tensor:
    """x / (k + alpha * mean of squares over `size` neighbouring channels) ** beta.

    Source: Krizhevsky et al. 2012, "ImageNet Classification with Deep CNNs", section 3.3.

    >>> import twofold as tw
    >>> tw.nn.functional.local_response_norm(tw.ones(1, 1, 2), 1, alpha=1.0, beta=1.0)
    tensor([[[0.5000, 0.5000]]])
    """
    if input.ndim < 3:
        raise ShapeError(f"expects an input (N, C, ...), got {input.shape}", op="local_response_norm")
    n, c = input.shape[:2]
    rest = math.prod(input.shape[2:])
    squares = M.reshape(input * input, shape=(n, 1, c, rest))
    sums = W.sum_pool(
        squares,
        kernel=(size, 1),
        stride=(1, 1),
        padding=((size // 2, (size - 1) // 2), (0, 0)),
        dilation=(1, 1),
    )
    scale = M.reshape(sums, shape=input.shape) * (alpha / size) + k
    return input / scale**beta


@composite
def normalize(input: Tensor, p: float = 2.0, dim: Any = 1, eps: float = 1e-12) -> Tensor:
    """x divided by its p-norm along `dim`, or by `eps` where that is larger.

    >>> import twofold as tw
    >>> tw.nn.functional.normalize(tw.tensor([[3.0, 4.0]]))
    tensor([[0.6000, 0.8000]])
    """
    if isinstance(dim, int):
        dim = canonical_dim(dim, input.ndim, op="normalize")
    norm = input.norm(p, dim, keepdim=True)
    return input / norm.clamp(min=eps)
