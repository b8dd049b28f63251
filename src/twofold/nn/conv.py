"""Convolution layers."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

from ..autodiff.handle import Tensor
from ..ir.errors import ShapeError, TwofoldError
from . import functional as F
from ._factory import empty_parameter
from .functional._common import tuple_of
from .functional.conv import same_padding
from .init import _calculate_fan_in_and_fan_out, kaiming_uniform_, uniform_
from .linear import check_dtype
from .module import Module

_MODES = ("zeros", "reflect", "replicate", "circular")


class _ConvNd(Module):
    """Parameters, checks and repr of all convolutions; subclasses say `_n` and the function."""

    _n: int
    _transposed = False

    def __init__(
        self,
        in_channels: int,
        out_channels: int,
        kernel_size: Any,
        stride: Any,
        padding: Any,
        dilation: Any,
        output_padding: Any,
        groups: int,
        bias: bool,
        padding_mode: str,
        dtype: Any,
        device: Any,
    ):
        super().__init__()
        name, n = type(self).__name__, self._n
        if groups <= 0:
            raise ValueError("groups must be a positive integer")
        if in_channels % groups != 0:
            raise ValueError(f"in_channels must be divisible by groups: {in_channels} and {groups}")
        if out_channels % groups != 0:
            raise ValueError(f"out_channels must be divisible by groups: {out_channels} and {groups}")
        if padding_mode not in _MODES:
            raise ValueError(f"padding_mode must be one of {set(_MODES)}, but got padding_mode='{padding_mode}'")
        self.in_channels, self.out_channels = in_channels, out_channels
        self.kernel_size = tuple_of(kernel_size, n, "kernel_size", name)
        self.stride = tuple_of(stride, n, "stride", name)
        self.dilation = tuple_of(dilation, n, "dilation", name)
        self.padding: Any = padding if isinstance(padding, str) else tuple_of(padding, n, "padding", name)
        self.transposed = self._transposed
        self.output_padding = tuple_of(output_padding, n, "output_padding", name)
        self.groups = groups
        self.padding_mode = padding_mode
        self._check_padding()
        first, second = (in_channels, out_channels) if self.transposed else (out_channels, in_channels)
        self.weight = empty_parameter((first, second // groups, *self.kernel_size), dtype, device)
        if bias:
            self.bias = empty_parameter((out_channels,), dtype, device)
        else:
            self.register_parameter("bias", None)
        self.reset_parameters()

    def _check_padding(self) -> None:
        if isinstance(self.padding, str):
            if self.padding not in ("same", "valid"):
                raise ValueError(f"Invalid padding string '{self.padding}', should be one of {{'valid', 'same'}}")
            if self.padding == "same" and any(s != 1 for s in self.stride):
                raise ValueError("padding='same' is not supported for strided convolutions")

    def reset_parameters(self) -> None:
        """Draw weight and bias anew: evenly from [-b, b] with b = 1 / sqrt(fan_in)."""
        kaiming_uniform_(self.weight, a=math.sqrt(5))
        if self.bias is not None:
            fan_in, _ = _calculate_fan_in_and_fan_out(self.weight)
            if fan_in != 0:
                bound = 1 / math.sqrt(fan_in)
                uniform_(self.bias, -bound, bound)

    def _check(self, input: Tensor) -> None:
        name, n = type(self).__name__, self._n
        check_dtype(name, input, self._parameters["weight"])  # type: ignore[arg-type]
        shape = input.shape
        batched = len(shape) == n + 2
        if batched or len(shape) == n + 1:
            got = shape[1] if batched else shape[0]
            if got == self.in_channels:
                return
            raise ShapeError(
                f"expects {self.in_channels} input channels, got {got}: the input has shape {tuple(shape)}",
                op=name,
                hint=self._channel_hint(shape, got, batched),
            )
        letters = ", ".join("DHW"[3 - n :]) if n > 1 else "L"
        hint = "x.unsqueeze(0) adds a channel dimension" if len(shape) == n else None
        if len(shape) > n + 2:
            hint = f"merge the leading dimensions: x.flatten(0, {len(shape) - n - 2})"
        raise ShapeError(
            f"expects an input (N, {self.in_channels}, {letters}) or ({self.in_channels}, {letters}), "
            f"got {tuple(shape)}",
            op=name,
            hint=hint,
        )

    def _channel_hint(self, shape: tuple[int, ...], got: int, batched: bool) -> str:
        """The likely mend: grey images, channels in the last place, or a layer made with the wrong number."""
        if shape[-1] == self.in_channels and self._n > 1:
            order = (0, self._n + 1, *range(1, self._n + 1)) if batched else (self._n, *range(self._n))
            return f"the channels are in the last dimension: use x.permute{order}"
        if not batched and self.in_channels == 1:
            return "a batch of inputs with one channel has to show it: use x.unsqueeze(1)"
        call = f"{type(self).__name__}({got}, {self.out_channels}, {self._short(self.kernel_size)}, ...)"
        if got == 1 and self.in_channels == 3 and self._n == 2:
            return f"the images are grey; use {call}"
        if got == 3 and self.in_channels == 1 and self._n == 2:
            return f"the images are in colour; use {call}"
        return f"use {call}"

    @staticmethod
    def _short(values: Sequence[int]) -> str:
        return str(values[0]) if len(set(values)) == 1 else str(tuple(values))

    def extra_repr(self) -> str:
        n = self._n
        text = f"{self.in_channels}, {self.out_channels}, kernel_size={self.kernel_size}, stride={self.stride}"
        if self.padding != (0,) * n:
            text += f", padding={self.padding}"
        if self.dilation != (1,) * n:
            text += f", dilation={self.dilation}"
        if self.output_padding != (0,) * n:
            text += f", output_padding={self.output_padding}"
        if self.groups != 1:
            text += f", groups={self.groups}"
        if self.bias is None:
            text += ", bias=False"
        if self.padding_mode != "zeros":
            text += f", padding_mode={self.padding_mode}"
        return text


class _Conv(_ConvNd):
    def __init__(
        self,
        in_channels: int,
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
    ):
        super().__init__(
            in_channels,
            out_channels,
            kernel_size,
            stride,
            padding,
            dilation,
            0,
            groups,
            bias,
            padding_mode,
            dtype,
            device,
        )

    def forward(self, input: Tensor) -> Tensor:
        self._check(input)
        weight: Any = self._parameters["weight"]
        bias = self._parameters["bias"]
        padding: Any = self.padding
        if self.padding_mode != "zeros":
            input = F.pad(input, self._border(), mode=self.padding_mode)
            padding = 0
        fn = _FUNCTIONS[self._n]
        return fn(input, weight, bias, self.stride, padding, self.dilation, self.groups)

    def _border(self) -> tuple[int, ...]:
        """The padding as `functional.pad` takes it: last dimension first."""
        if isinstance(self.padding, str):
            same = self.padding == "same"
            pairs = same_padding(self.kernel_size, self.dilation) if same else ((0, 0),) * self._n
        else:
            pairs = tuple((p, p) for p in self.padding)
        return tuple(p for pair in reversed(pairs) for p in pair)


_FUNCTIONS = {1: F.conv1d, 2: F.conv2d, 3: F.conv3d}


class Conv1d(_Conv):
    """Cross-correlation over signals.

    Shapes: (N, in_channels, L) or (in_channels, L)
        -> (N, out_channels, (L + 2 padding - dilation (kernel_size - 1) - 1) // stride + 1).
    Args:
        padding: number of cells at both ends, "same" or "valid".
        groups: connections are within groups of channels only.
        padding_mode: "zeros", "reflect", "replicate" or "circular".
    Raises: ShapeError when the input has another number of channels.
    Numerics: weight and bias begin evenly drawn from [-b, b], b = 1 / sqrt(in_channels / groups * kernel_size).

    >>> import twofold as tw
    >>> tw.nn.Conv1d(16, 33, 3, stride=2)(tw.zeros(20, 16, 50)).shape
    (20, 33, 24)
    """

    _n = 1


class Conv2d(_Conv):
    """Cross-correlation over images; arguments as of `Conv1d`, one number or two.

    Shapes: (N, in_channels, H, W) or (in_channels, H, W) -> (N, out_channels, H', W').

    >>> import twofold as tw
    >>> tw.nn.Conv2d(3, 8, 3, padding=1)(tw.zeros(2, 3, 6, 6)).shape
    (2, 8, 6, 6)
    """

    _n = 2


class Conv3d(_Conv):
    """Cross-correlation over volumes; arguments as of `Conv1d`, one number or three.

    Shapes: (N, in_channels, D, H, W) or (in_channels, D, H, W) -> (N, out_channels, D', H', W').

    >>> import twofold as tw
    >>> tw.nn.Conv3d(1, 2, 3)(tw.zeros(1, 1, 4, 4, 4)).shape
    (1, 2, 2, 2, 2)
    """

    _n = 3


class _ConvTranspose(_ConvNd):
    _transposed = True

    def __init__(
        self,
        in_channels: int,
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
    ):
        if padding_mode != "zeros":
            raise ValueError(f'Only "zeros" padding mode is supported for {type(self).__name__}')
        super().__init__(
            in_channels,
            out_channels,
            kernel_size,
            stride,
            padding,
            dilation,
            output_padding,
            groups,
            bias,
            padding_mode,
            dtype,
            device,
        )

    def forward(self, input: Tensor, output_size: Sequence[int] | None = None) -> Tensor:
        self._check(input)
        extra = self.output_padding if output_size is None else self._output_padding(input, output_size)
        fn = _TRANSPOSED[self._n]
        return fn(input, self.weight, self.bias, self.stride, self.padding, extra, self.groups, self.dilation)

    def _output_padding(self, input: Tensor, output_size: Sequence[int]) -> tuple[int, ...]:
        """What must be added at the ends so that the result has the size `output_size`."""
        n = self._n
        size = tuple(output_size)
        size = size[len(size) - n :] if len(size) in (n, input.ndim) else ()
        if len(size) != n:
            raise ShapeError(
                f"output_size {tuple(output_size)} must have {n} or {input.ndim} numbers", op=type(self).__name__
            )
        extra = []
        for i, want in enumerate(size):
            least = (
                (input.shape[input.ndim - n + i] - 1) * self.stride[i]
                - 2 * self.padding[i]
                + self.dilation[i] * (self.kernel_size[i] - 1)
                + 1
            )
            if not least <= want < least + self.stride[i]:
                raise TwofoldError(
                    f"output_size {size} can't be made from an input of shape {input.shape}: dimension {i} can "
                    f"have sizes {least} to {least + self.stride[i] - 1}",
                    op=type(self).__name__,
                )
            extra.append(want - least)
        return tuple(extra)


_TRANSPOSED = {1: F.conv_transpose1d, 2: F.conv_transpose2d, 3: F.conv_transpose3d}


class ConvTranspose1d(_ConvTranspose):
    """The transpose of `Conv1d`: the gradient of its input, used to enlarge signals.

    Shapes: (N, in_channels, L) or (in_channels, L)
        -> (N, out_channels, (L - 1) stride - 2 padding + dilation (kernel_size - 1) + output_padding + 1).
    Args:
        output_padding: cells added at one end of the result; `forward(x, output_size)` finds it.

    >>> import twofold as tw
    >>> tw.nn.ConvTranspose1d(4, 2, 3, stride=2)(tw.zeros(1, 4, 5)).shape
    (1, 2, 11)
    """

    _n = 1


class ConvTranspose2d(_ConvTranspose):
    """The transpose of `Conv2d`: the gradient of its input, used to enlarge images.

    >>> import twofold as tw
    >>> up = tw.nn.ConvTranspose2d(4, 2, 3, stride=2, padding=1)
    >>> up(tw.zeros(1, 4, 6, 6), output_size=(12, 12)).shape
    (1, 2, 12, 12)
    """

    _n = 2


class ConvTranspose3d(_ConvTranspose):
    """The transpose of `Conv3d`: the gradient of its input, used to enlarge volumes.

    >>> import twofold as tw
    >>> tw.nn.ConvTranspose3d(1, 1, 2, stride=2)(tw.zeros(1, 1, 2, 2, 2)).shape
    (1, 1, 4, 4, 4)
    """

    _n = 3
