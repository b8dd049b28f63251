"""Normalisation layers."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from ..autodiff.bind import no_record
from ..autodiff.handle import Tensor
from ..ir.dtypes import int64
from ..ir.errors import ShapeError
from ..primitives import movement as M
from . import functional as F
from ._factory import empty_parameter, filled
from .init import ones_, zeros_
from .module import Module


class _NormBase(Module):
    """Parameters and running statistics of batch and instance norm."""

    _version = 2
    _ndims: tuple[int, ...]
    _layout: str

    def __init__(
        self,
        num_features: int,
        eps: float,
        momentum: float | None,
        affine: bool,
        track_running_stats: bool,
        dtype: Any,
        bias: bool,
        device: Any,
    ):
        super().__init__()
        self.num_features, self.eps, self.momentum = num_features, eps, momentum
        self.affine, self.track_running_stats = affine, track_running_stats
        self.register_parameter("weight", empty_parameter((num_features,), dtype, device) if affine else None)
        self.register_parameter(
            "bias", empty_parameter((num_features,), dtype, device) if affine and bias else None
        )
        track = track_running_stats
        self.register_buffer("running_mean", filled((num_features,), 0, dtype, device) if track else None)
        self.register_buffer("running_var", filled((num_features,), 1, dtype, device) if track else None)
        self.register_buffer("num_batches_tracked", M.full(shape=(), value=0, dtype=int64) if track else None)
        self.reset_parameters()

    def reset_running_stats(self) -> None:
        """Forget the statistics: mean 0, variance 1."""
        if self.track_running_stats:
            zeros_(self.running_mean)
            ones_(self.running_var)
            with no_record():
                self.num_batches_tracked.zero_()

    def reset_parameters(self) -> None:
        """Weight 1, bias 0, and the statistics forgotten."""
        self.reset_running_stats()
        if self.weight is not None:
            ones_(self.weight)
        if self.bias is not None:
            zeros_(self.bias)

    def _check(self, input: Tensor) -> None:
        name, shape = type(self).__name__, input.shape
        if len(shape) not in self._ndims:
            expected = " or ".join(f"{n}-d" for n in self._ndims)
            family = name.rstrip("123d")  # BatchNorm of BatchNorm2d
            fitting = {2: "1d", 3: "1d", 4: "2d", 5: "3d"}.get(len(shape))
            raise ShapeError(
                f"expects a {expected} input {self._layout}, got shape {tuple(shape)}",
                op=name,
                hint=f"use {family}{fitting}({shape[1]})" if fitting and family != name else None,
            )
        channel = self._channel_dim(input)
        if shape[channel] != self.num_features:
            hint = f"use {name}({shape[channel]})"
            if shape[-1] == self.num_features and len(shape) > 2:
                hint = "the channels are in the last dimension: move them to dim 1 with movedim(-1, 1)"
            raise ShapeError(
                f"expects {self.num_features} channels, got {shape[channel]}: the input has shape {tuple(shape)}",
                op=name,
                hint=hint,
            )

    def _channel_dim(self, input: Tensor) -> int:
        return 1

    def _momentum(self) -> Any:
        """Weight of this batch in the running statistics; None in the constructor means the plain average."""
        if not (self.training and self.track_running_stats):
            return 0.0 if self.momentum is None else self.momentum
        with no_record():
            self.num_batches_tracked.add_(1)
            if self.momentum is None:
                return 1.0 / self.num_batches_tracked.to(self.running_mean.dtype)
        return self.momentum

    def extra_repr(self) -> str:
        return (
            f"{self.num_features}, eps={self.eps}, momentum={self.momentum}, affine={self.affine}, "
            f"bias={self.bias is not None}, track_running_stats={self.track_running_stats}"
        )


class _BatchNorm(_NormBase):
    def __init__(
        self,
        num_features: int,
        eps: float = 1e-5,
        momentum: float | None = 0.1,
        affine: bool = True,
        track_running_stats: bool = True,
        device: Any = None,
        dtype: Any = None,
        bias: bool = True,
    ):
        super().__init__(num_features, eps, momentum, affine, track_running_stats, dtype, bias, device)

    def forward(self, input: Tensor) -> Tensor:
        self._check(input)
        momentum = self._momentum()
        buffers, parameters = self._buffers, self._parameters
        mean, var = buffers["running_mean"], buffers["running_var"]
        own = self.training or (mean is None and var is None)
        update = not self.training or self.track_running_stats
        return F.batch_norm(
            input,
            mean if update else None,
            var if update else None,
            parameters["weight"],
            parameters["bias"],
            own,
            momentum,
            self.eps,
        )


class BatchNorm1d(_BatchNorm):
    """Each channel shifted and scaled to mean 0 and variance 1 over the batch, then `* weight + bias`.

    Shapes: (N, C) or (N, C, L) -> the same.
    Args:
        momentum: weight of a batch in the running statistics; None means the plain average.
        affine: learn weight and bias.
        track_running_stats: keep running statistics, which evaluation uses.
    Raises: ShapeError for another number of channels, or one value per channel while training.
    Source: Ioffe and Szegedy 2015, "Batch Normalization".

    >>> import twofold as tw
    >>> tw.nn.BatchNorm1d(2)(tw.tensor([[1.0, 2.0], [3.0, 6.0]])).shape
    (2, 2)
    """

    _ndims = (2, 3)
    _layout = "(N, C) or (N, C, L)"


class BatchNorm2d(_BatchNorm):
    """Batch normalisation of images; arguments as of `BatchNorm1d`.

    Shapes: (N, C, H, W) -> the same.

    >>> import twofold as tw
    >>> tw.nn.BatchNorm2d(3)(tw.ones(2, 3, 4, 4)).shape
    (2, 3, 4, 4)
    """

    _ndims = (4,)
    _layout = "(N, C, H, W)"


class BatchNorm3d(_BatchNorm):
    """Batch normalisation of volumes; arguments as of `BatchNorm1d`.

    Shapes: (N, C, D, H, W) -> the same.

    >>> import twofold as tw
    >>> tw.nn.BatchNorm3d(1)(tw.ones(2, 1, 2, 2, 2)).shape
    (2, 1, 2, 2, 2)
    """

    _ndims = (5,)
    _layout = "(N, C, D, H, W)"


class _InstanceNorm(_NormBase):
    def __init__(
        self,
        num_features: int,
        eps: float = 1e-5,
        momentum: float = 0.1,
        affine: bool = False,
        track_running_stats: bool = False,
        device: Any = None,
        dtype: Any = None,
        bias: bool = True,
    ):
        super().__init__(num_features, eps, momentum, affine, track_running_stats, dtype, bias, device)

    def _channel_dim(self, input: Tensor) -> int:
        return input.ndim - self._ndims[0]  # 0 without a batch

    def forward(self, input: Tensor) -> Tensor:
        shape = input.shape
        if len(shape) in self._ndims:
            got = shape[self._channel_dim(input)]
            if self.affine or got == self.num_features:
                self._check(input)
        else:
            self._check(input)
        single = len(shape) == self._ndims[0]
        x = input.unsqueeze(0) if single else input
        y = F.instance_norm(
            x,
            self.running_mean,
            self.running_var,
            self.weight,
            self.bias,
            self.training or not self.track_running_stats,
            0.0 if self.momentum is None else self.momentum,
            self.eps,
        )
        return y.squeeze(0) if single else y


class InstanceNorm1d(_InstanceNorm):
    """Each channel of each sample shifted and scaled to mean 0 and variance 1.

    Shapes: (N, C, L) or (C, L) -> the same.
    Source: Ulyanov et al. 2016, "Instance Normalization".

    >>> import twofold as tw
    >>> tw.nn.InstanceNorm1d(2)(tw.ones(1, 2, 3)).shape
    (1, 2, 3)
    """

    _ndims = (2, 3)
    _layout = "(C, L) or (N, C, L)"


class InstanceNorm2d(_InstanceNorm):
    """Instance normalisation of images.

    Shapes: (N, C, H, W) or (C, H, W) -> the same.

    >>> import twofold as tw
    >>> tw.nn.InstanceNorm2d(2)(tw.ones(1, 2, 3, 3)).shape
    (1, 2, 3, 3)
    """

    _ndims = (3, 4)
    _layout = "(C, H, W) or (N, C, H, W)"


class InstanceNorm3d(_InstanceNorm):
    """Instance normalisation of volumes.

    Shapes: (N, C, D, H, W) or (C, D, H, W) -> the same.

    >>> import twofold as tw
    >>> tw.nn.InstanceNorm3d(1)(tw.ones(1, 1, 2, 2, 2)).shape
    (1, 1, 2, 2, 2)
    """

    _ndims = (4, 5)
    _layout = "(C, D, H, W) or (N, C, D, H, W)"


class LayerNorm(Module):
    """The last dimensions shifted and scaled to mean 0 and variance 1, then `* weight + bias`.

    Shapes: (*, *normalized_shape) -> the same.
    Raises: ShapeError when the input does not end in normalized_shape.
    Source: Ba et al. 2016, "Layer Normalization".

    >>> import twofold as tw
    >>> tw.nn.LayerNorm(2)(tw.tensor([[1.0, 3.0]])).detach()
    tensor([[-1.0000,  1.0000]])
    """

    def __init__(
        self,
        normalized_shape: int | Sequence[int],
        eps: float = 1e-5,
        elementwise_affine: bool = True,
        bias: bool = True,
        device: Any = None,
        dtype: Any = None,
    ):
        super().__init__()
        shape = (normalized_shape,) if isinstance(normalized_shape, int) else tuple(normalized_shape)
        self.normalized_shape, self.eps, self.elementwise_affine = shape, eps, elementwise_affine
        self.register_parameter("weight", empty_parameter(shape, dtype, device) if elementwise_affine else None)
        self.register_parameter(
            "bias", empty_parameter(shape, dtype, device) if elementwise_affine and bias else None
        )
        self.reset_parameters()

    def reset_parameters(self) -> None:
        """Weight 1, bias 0."""
        if self.weight is not None:
            ones_(self.weight)
        if self.bias is not None:
            zeros_(self.bias)

    def forward(self, input: Tensor) -> Tensor:
        return F.layer_norm(input, self.normalized_shape, self.weight, self.bias, self.eps)

    def extra_repr(self) -> str:
        return (
            f"{self.normalized_shape}, eps={self.eps}, elementwise_affine={self.elementwise_affine}, "
            f"bias={self.bias is not None}"
        )


class RMSNorm(Module):
    """The last dimensions divided by the root of their mean square, then `* weight`.

    Source: Zhang and Sennrich 2019, "Root Mean Square Layer Normalization".

    >>> import twofold as tw
    >>> tw.nn.RMSNorm(2)(tw.tensor([[3.0, 3.0]])).detach()
    tensor([[1., 1.]])
    """

    def __init__(
        self,
        normalized_shape: int | Sequence[int],
        eps: float | None = None,
        elementwise_affine: bool = True,
        device: Any = None,
        dtype: Any = None,
    ):
        super().__init__()
        shape = (normalized_shape,) if isinstance(normalized_shape, int) else tuple(normalized_shape)
        self.normalized_shape, self.eps, self.elementwise_affine = shape, eps, elementwise_affine
        self.register_parameter("weight", empty_parameter(shape, dtype, device) if elementwise_affine else None)
        self.reset_parameters()

    def reset_parameters(self) -> None:
        """Weight 1."""
        if self.weight is not None:
            ones_(self.weight)

    def forward(self, x: Tensor) -> Tensor:
        return F.rms_norm(x, self.normalized_shape, self.weight, self.eps)

    def extra_repr(self) -> str:
        return f"{self.normalized_shape}, eps={self.eps}, elementwise_affine={self.elementwise_affine}"


class GroupNorm(Module):
    """Groups of channels of each sample shifted and scaled to mean 0 and variance 1.

    Shapes: (N, C, *) -> the same.
    Raises: ShapeError for another number of channels.
    Source: Wu and He 2018, "Group Normalization".

    >>> import twofold as tw
    >>> tw.nn.GroupNorm(2, 4)(tw.ones(1, 4, 3)).shape
    (1, 4, 3)
    """

    def __init__(
        self,
        num_groups: int,
        num_channels: int,
        eps: float = 1e-5,
        affine: bool = True,
        device: Any = None,
        dtype: Any = None,
        bias: bool = True,
    ):
        super().__init__()
        if num_channels % num_groups != 0:
            raise ValueError(f"num_channels ({num_channels}) must be divisible by num_groups ({num_groups})")
        self.num_groups, self.num_channels, self.eps, self.affine = num_groups, num_channels, eps, affine
        self.register_parameter("weight", empty_parameter((num_channels,), dtype, device) if affine else None)
        self.register_parameter(
            "bias", empty_parameter((num_channels,), dtype, device) if affine and bias else None
        )
        self.reset_parameters()

    def reset_parameters(self) -> None:
        """Weight 1, bias 0."""
        if self.weight is not None:
            ones_(self.weight)
        if self.bias is not None:
            zeros_(self.bias)

    def forward(self, input: Tensor) -> Tensor:
        if input.ndim < 2 or input.shape[1] != self.num_channels:
            got = input.shape[1] if input.ndim > 1 else "none"
            raise ShapeError(
                f"expects {self.num_channels} channels, got {got}: the input has shape {tuple(input.shape)}",
                op="GroupNorm",
                hint=None if input.ndim < 2 else f"use GroupNorm({self.num_groups}, {got})",
            )
        return F.group_norm(input, self.num_groups, self.weight, self.bias, self.eps)

    def extra_repr(self) -> str:
        return (
            f"{self.num_groups}, {self.num_channels}, eps={self.eps}, affine={self.affine}, "
            f"bias={self.bias is not None}"
        )


class LocalResponseNorm(Module):
    """x / (k + alpha * mean of squares over `size` neighbouring channels) ** beta.

    >>> import twofold as tw
    >>> tw.nn.LocalResponseNorm(2)(tw.ones(1, 2, 3)).shape
    (1, 2, 3)
    """

    def __init__(self, size: int, alpha: float = 1e-4, beta: float = 0.75, k: float = 1.0):
        super().__init__()
        self.size, self.alpha, self.beta, self.k = size, alpha, beta, k

    def forward(self, input: Tensor) -> Tensor:
        return F.local_response_norm(input, self.size, self.alpha, self.beta, self.k)

    def extra_repr(self) -> str:
        return f"{self.size}, alpha={self.alpha}, beta={self.beta}, k={self.k}"
