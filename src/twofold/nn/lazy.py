"""Lazy layers: they learn the number of their inputs from the first call, and then are ordinary layers."""

from __future__ import annotations

from typing import Any

from ..autodiff.handle import Tensor
from . import conv, linear, normalization
from ._factory import filled
from .module import Module
from .parameter import Parameter, take_data


class UninitializedParameter(Parameter):
    """A parameter of a lazy layer before its first call. It stays the same object when it gets its shape.

    >>> import twofold as tw
    >>> tw.nn.LazyLinear(3).weight
    <UninitializedParameter>
    """

    def materialize(self, shape: tuple[int, ...]) -> None:
        """Become a parameter of zeros of this shape."""
        take_data(self, filled(shape, 0, self.dtype))
        self.__class__ = Parameter  # type: ignore[assignment]

    def __repr__(self) -> str:
        return "<UninitializedParameter>"


class _Lazy(Module):
    """A layer made for 0 inputs, whose parameters wait for their shapes.

    The first call changes the layer's class to the ordinary one.
    """

    _becomes: type[Module]
    _size: str  # the attribute that is found

    def _wait(self) -> None:
        """Called at the end of __init__: mark the parameters that depend on the number of inputs."""
        for name, p in self._parameters.items():
            if p is not None and 0 in p.shape:
                new = UninitializedParameter(p.detach(), p.requires_grad)
                self._parameters[name] = new

    def reset_parameters(self) -> None:
        """Nothing to draw before the first call."""
        if getattr(self, self._size):
            super().reset_parameters()  # type: ignore[misc]

    def _found(self, input: Tensor) -> int:
        return input.shape[-1]

    def _shapes(self, size: int) -> dict[str, tuple[int, ...]]:
        """Shapes of the waiting parameters for `size` inputs."""
        raise NotImplementedError

    def forward(self, input: Tensor, *args: Any, **kwargs: Any) -> Tensor:
        size = self._found(input)
        setattr(self, self._size, size)
        shapes = self._shapes(size)
        waiting = [name for name, p in self._parameters.items() if isinstance(p, UninitializedParameter)]
        for name in waiting:
            self._parameters[name].materialize(shapes[name])  # type: ignore[union-attr]
        self.__class__ = self._becomes  # type: ignore[assignment]
        if waiting:  # else the weights were loaded
            self.reset_parameters()
        return self.forward(input, *args, **kwargs)


class LazyLinear(_Lazy, linear.Linear):
    """`Linear` that finds in_features at its first call.

    >>> import twofold as tw
    >>> layer = tw.nn.LazyLinear(3)
    >>> layer(tw.zeros(2, 5)).shape, layer
    ((2, 3), Linear(in_features=5, out_features=3, bias=True))
    """

    _becomes, _size = linear.Linear, "in_features"

    def __init__(self, out_features: int, bias: bool = True, device: Any = None, dtype: Any = None):
        linear.Linear.__init__(self, 0, out_features, bias, device, dtype)
        self._wait()

    def _shapes(self, size: int) -> dict[str, tuple[int, ...]]:
        return {"weight": (self.out_features, size)}


class _LazyConv(_Lazy):
    """Shared by convolutions and transposed ones."""

    _size = "in_channels"

    def _found(self, input: Tensor) -> int:
        return input.shape[-self._n - 1] if input.ndim > self._n else 0

    def _shapes(self, size: int) -> dict[str, tuple[int, ...]]:
        if size % self.groups:
            raise ValueError(f"in_channels must be divisible by groups: {size} and {self.groups}")
        first, second = (size, self.out_channels) if self.transposed else (self.out_channels, size)
        return {"weight": (first, second // self.groups, *self.kernel_size)}


def _lazy_conv(n: int, becomes: Any, transposed: bool) -> Any:
    name = f"Lazy{becomes.__name__}"

    def plain(
        self: Any,
        out_channels: int,
        kernel_size: Any,
        stride: Any = 1,
        padding: Any = 0,
        dilation: Any = 1,
        groups: int = 1,
        bias: bool = True,
        padding_mode: str = "zeros",
        device: Any = None,
        dtype: Any = None,
    ) -> None:
        becomes.__init__(
            self, 0, out_channels, kernel_size, stride, padding, dilation, groups, bias, padding_mode, device, dtype
        )
        self._wait()

    def turned(
        self: Any,
        out_channels: int,
        kernel_size: Any,
        stride: Any = 1,
        padding: Any = 0,
        output_padding: Any = 0,
        groups: int = 1,
        bias: bool = True,
        dilation: Any = 1,
        padding_mode: str = "zeros",
        device: Any = None,
        dtype: Any = None,
    ) -> None:
        more = (output_padding, groups, bias, dilation, padding_mode, device, dtype)
        becomes.__init__(self, 0, out_channels, kernel_size, stride, padding, *more)
        self._wait()

    doc = f"""`{becomes.__name__}` that finds in_channels at its first call.

    >>> import twofold as tw
    >>> layer = tw.nn.{name}(4, 3)
    >>> layer(tw.zeros(1, 2{", 5" * n})).shape[1], layer.in_channels
    (4, 2)
    """
    members = {
        "__init__": turned if transposed else plain,
        "__doc__": doc,
        "__module__": __name__,
        "_becomes": becomes,
    }
    return type(name, (_LazyConv, becomes), members)


LazyConv1d = _lazy_conv(1, conv.Conv1d, False)
LazyConv2d = _lazy_conv(2, conv.Conv2d, False)
LazyConv3d = _lazy_conv(3, conv.Conv3d, False)
LazyConvTranspose1d = _lazy_conv(1, conv.ConvTranspose1d, True)
LazyConvTranspose2d = _lazy_conv(2, conv.ConvTranspose2d, True)
LazyConvTranspose3d = _lazy_conv(3, conv.ConvTranspose3d, True)


class _LazyNorm(_Lazy):
    """Shared by batch and instance norms; the running statistics wait, too."""

    _size = "num_features"

    def _found(self, input: Tensor) -> int:
        return input.shape[self._channel_dim(input)]

    def _shapes(self, size: int) -> dict[str, tuple[int, ...]]:
        for name in ("running_mean", "running_var"):
            old = self._buffers[name]
            if old is not None and old.shape != (size,):
                self._buffers[name] = filled((size,), float(name == "running_var"), old.dtype)
        return {"weight": (size,), "bias": (size,)}


def _lazy_norm(becomes: Any) -> Any:
    name = f"Lazy{becomes.__name__}"

    def init(
        self: Any,
        eps: float = 1e-5,
        momentum: float | None = 0.1,
        affine: bool = True,
        track_running_stats: bool = True,
        device: Any = None,
        dtype: Any = None,
        bias: bool = True,
    ) -> None:
        becomes.__init__(self, 0, eps, momentum, affine, track_running_stats, device, dtype, bias)
        self._wait()

    doc = f"""`{becomes.__name__}` that finds num_features at its first call.

    >>> import twofold as tw
    >>> layer = tw.nn.{name}()
    >>> _ = layer(tw.ones(2, 3{", 2" * (becomes._ndims[-1] - 2)}))
    >>> layer.num_features
    3
    """
    members = {"__init__": init, "__doc__": doc, "__module__": __name__, "_becomes": becomes}
    return type(name, (_LazyNorm, becomes), members)


LazyBatchNorm1d = _lazy_norm(normalization.BatchNorm1d)
LazyBatchNorm2d = _lazy_norm(normalization.BatchNorm2d)
LazyBatchNorm3d = _lazy_norm(normalization.BatchNorm3d)
LazyInstanceNorm1d = _lazy_norm(normalization.InstanceNorm1d)
LazyInstanceNorm2d = _lazy_norm(normalization.InstanceNorm2d)
LazyInstanceNorm3d = _lazy_norm(normalization.InstanceNorm3d)
