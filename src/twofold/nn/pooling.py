"""Pooling layers."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from ..autodiff.handle import Tensor
from . import functional as F
from .functional._common import tuple_of
from .module import Module


class _MaxPool(Module):
    _fn: Any

    def __init__(
        self,
        kernel_size: Any,
        stride: Any = None,
        padding: Any = 0,
        dilation: Any = 1,
        return_indices: bool = False,
        ceil_mode: bool = False,
    ):
        super().__init__()
        self.kernel_size = kernel_size
        self.stride = kernel_size if stride is None else stride
        self.padding, self.dilation = padding, dilation
        self.return_indices, self.ceil_mode = return_indices, ceil_mode

    def forward(self, input: Tensor) -> Any:
        return type(self)._fn(
            input, self.kernel_size, self.stride, self.padding, self.dilation, self.ceil_mode, self.return_indices
        )

    def extra_repr(self) -> str:
        return (
            f"kernel_size={self.kernel_size}, stride={self.stride}, padding={self.padding}, "
            f"dilation={self.dilation}, ceil_mode={self.ceil_mode}"
        )


class MaxPool1d(_MaxPool):
    """Largest value of each window of signals.

    Shapes: (N, C, L), or without N -> the same with fewer cells.
    Args:
        stride: step between windows; the kernel's size by default.
        padding: cells at both ends that never win.
        return_indices: give also the places of the maxima, for `MaxUnpool1d`.
        ceil_mode: also take a last window that is only partly inside.

    >>> import twofold as tw
    >>> tw.nn.MaxPool1d(2)(tw.zeros(1, 1, 6)).shape
    (1, 1, 3)
    """

    _fn = staticmethod(F.max_pool1d)


class MaxPool2d(_MaxPool):
    """Largest value of each window of images; arguments as of `MaxPool1d`.

    Shapes: (N, C, H, W), or without N -> the same with fewer cells.

    >>> import twofold as tw
    >>> tw.nn.MaxPool2d(2)(tw.zeros(1, 1, 6, 6)).shape
    (1, 1, 3, 3)
    """

    _fn = staticmethod(F.max_pool2d)


class MaxPool3d(_MaxPool):
    """Largest value of each window of volumes; arguments as of `MaxPool1d`.

    Shapes: (N, C, D, H, W), or without N -> the same with fewer cells.

    >>> import twofold as tw
    >>> tw.nn.MaxPool3d(2)(tw.zeros(1, 1, 4, 4, 4)).shape
    (1, 1, 2, 2, 2)
    """

    _fn = staticmethod(F.max_pool3d)


class _MaxUnpool(Module):
    _n: int
    _fn: Any

    def __init__(self, kernel_size: Any, stride: Any = None, padding: Any = 0):
        super().__init__()
        name = type(self).__name__
        self.kernel_size = tuple_of(kernel_size, self._n, "kernel_size", name)
        self.stride = tuple_of(kernel_size if stride is None else stride, self._n, "stride", name)
        self.padding = tuple_of(padding, self._n, "padding", name)

    def forward(self, input: Tensor, indices: Tensor, output_size: Sequence[int] | None = None) -> Tensor:
        return type(self)._fn(input, indices, self.kernel_size, self.stride, self.padding, output_size)

    def extra_repr(self) -> str:
        return f"kernel_size={self.kernel_size}, stride={self.stride}, padding={self.padding}"


class MaxUnpool1d(_MaxUnpool):
    """Puts maxima back to the places that `MaxPool1d(return_indices=True)` gave; zeros elsewhere.

    >>> import twofold as tw
    >>> values, places = tw.nn.MaxPool1d(2, return_indices=True)(tw.zeros(1, 1, 6))
    >>> tw.nn.MaxUnpool1d(2)(values, places).shape
    (1, 1, 6)
    """

    _n = 1
    _fn = staticmethod(F.max_unpool1d)


class MaxUnpool2d(_MaxUnpool):
    """Puts maxima back to the places that `MaxPool2d(return_indices=True)` gave; zeros elsewhere.

    >>> import twofold as tw
    >>> values, places = tw.nn.MaxPool2d(2, return_indices=True)(tw.zeros(1, 1, 6, 6))
    >>> tw.nn.MaxUnpool2d(2)(values, places).shape
    (1, 1, 6, 6)
    """

    _n = 2
    _fn = staticmethod(F.max_unpool2d)


class MaxUnpool3d(_MaxUnpool):
    """Puts maxima back to the places that `MaxPool3d(return_indices=True)` gave; zeros elsewhere.

    >>> import twofold as tw
    >>> values, places = tw.nn.MaxPool3d(2, return_indices=True)(tw.zeros(1, 1, 4, 4, 4))
    >>> tw.nn.MaxUnpool3d(2)(values, places).shape
    (1, 1, 4, 4, 4)
    """

    _n = 3
    _fn = staticmethod(F.max_unpool3d)


class AvgPool1d(Module):
    """Mean of each window of signals.

    Shapes: (N, C, L), or without N -> the same with fewer cells.
    Args:
        stride: step between windows; the kernel's size by default.
        count_include_pad: whether the zeros of the padding count as values.

    >>> import twofold as tw
    >>> tw.nn.AvgPool1d(2)(tw.tensor([[[1.0, 3.0]]]))
    tensor([[[2.]]])
    """

    def __init__(
        self,
        kernel_size: Any,
        stride: Any = None,
        padding: Any = 0,
        ceil_mode: bool = False,
        count_include_pad: bool = True,
    ):
        super().__init__()
        self.kernel_size = tuple_of(kernel_size, 1, "kernel_size", "AvgPool1d")
        self.stride = tuple_of(kernel_size if stride is None else stride, 1, "stride", "AvgPool1d")
        self.padding = tuple_of(padding, 1, "padding", "AvgPool1d")
        self.ceil_mode, self.count_include_pad = ceil_mode, count_include_pad

    def forward(self, input: Tensor) -> Tensor:
        return F.avg_pool1d(
            input, self.kernel_size, self.stride, self.padding, self.ceil_mode, self.count_include_pad
        )

    def extra_repr(self) -> str:
        return f"kernel_size={self.kernel_size}, stride={self.stride}, padding={self.padding}"


class _AvgPool(Module):
    _fn: Any

    def __init__(
        self,
        kernel_size: Any,
        stride: Any = None,
        padding: Any = 0,
        ceil_mode: bool = False,
        count_include_pad: bool = True,
        divisor_override: int | None = None,
    ):
        super().__init__()
        self.kernel_size = kernel_size
        self.stride = kernel_size if stride is None else stride
        self.padding, self.ceil_mode = padding, ceil_mode
        self.count_include_pad, self.divisor_override = count_include_pad, divisor_override

    def forward(self, input: Tensor) -> Tensor:
        return type(self)._fn(
            input,
            self.kernel_size,
            self.stride,
            self.padding,
            self.ceil_mode,
            self.count_include_pad,
            self.divisor_override,
        )

    def extra_repr(self) -> str:
        return f"kernel_size={self.kernel_size}, stride={self.stride}, padding={self.padding}"


class AvgPool2d(_AvgPool):
    """Mean of each window of images, or its sum divided by `divisor_override`.

    >>> import twofold as tw
    >>> tw.nn.AvgPool2d(2)(tw.zeros(1, 1, 6, 6)).shape
    (1, 1, 3, 3)
    """

    _fn = staticmethod(F.avg_pool2d)


class AvgPool3d(_AvgPool):
    """Mean of each window of volumes, or its sum divided by `divisor_override`.

    >>> import twofold as tw
    >>> tw.nn.AvgPool3d(2)(tw.zeros(1, 1, 4, 4, 4)).shape
    (1, 1, 2, 2, 2)
    """

    _fn = staticmethod(F.avg_pool3d)


class _LPPool(Module):
    _fn: Any

    def __init__(self, norm_type: float, kernel_size: Any, stride: Any = None, ceil_mode: bool = False):
        super().__init__()
        self.norm_type, self.kernel_size, self.stride, self.ceil_mode = norm_type, kernel_size, stride, ceil_mode

    def forward(self, input: Tensor) -> Tensor:
        return type(self)._fn(input, float(self.norm_type), self.kernel_size, self.stride, self.ceil_mode)

    def extra_repr(self) -> str:
        return (
            f"norm_type={self.norm_type}, kernel_size={self.kernel_size}, stride={self.stride}, "
            f"ceil_mode={self.ceil_mode}"
        )


class LPPool1d(_LPPool):
    """(sum of x ** p over each window) ** (1 / p) for signals.

    >>> import twofold as tw
    >>> tw.nn.LPPool1d(2, 2)(tw.zeros(1, 1, 6)).shape
    (1, 1, 3)
    """

    _fn = staticmethod(F.lp_pool1d)


class LPPool2d(_LPPool):
    """(sum of x ** p over each window) ** (1 / p) for images.

    >>> import twofold as tw
    >>> tw.nn.LPPool2d(2, 2)(tw.zeros(1, 1, 6, 6)).shape
    (1, 1, 3, 3)
    """

    _fn = staticmethod(F.lp_pool2d)


class LPPool3d(_LPPool):
    """(sum of x ** p over each window) ** (1 / p) for volumes.

    >>> import twofold as tw
    >>> tw.nn.LPPool3d(2, 2)(tw.zeros(1, 1, 4, 4, 4)).shape
    (1, 1, 2, 2, 2)
    """

    _fn = staticmethod(F.lp_pool3d)


class _AdaptiveAvgPool(Module):
    _fn: Any

    def __init__(self, output_size: Any):
        super().__init__()
        self.output_size = output_size

    def forward(self, input: Tensor) -> Tensor:
        return type(self)._fn(input, self.output_size)

    def extra_repr(self) -> str:
        return f"output_size={self.output_size}"


class _AdaptiveMaxPool(Module):
    _fn: Any

    def __init__(self, output_size: Any, return_indices: bool = False):
        super().__init__()
        self.output_size, self.return_indices = output_size, return_indices

    def forward(self, input: Tensor) -> Any:
        return type(self)._fn(input, self.output_size, self.return_indices)

    def extra_repr(self) -> str:
        return f"output_size={self.output_size}"


class AdaptiveAvgPool1d(_AdaptiveAvgPool):
    """Means of windows that cover signals evenly; the size of the result is given, None keeps a size.

    >>> import twofold as tw
    >>> tw.nn.AdaptiveAvgPool1d(2)(tw.zeros(1, 1, 6)).shape
    (1, 1, 2)
    """

    _fn = staticmethod(F.adaptive_avg_pool1d)


class AdaptiveAvgPool2d(_AdaptiveAvgPool):
    """Means of windows that cover images evenly; the size of the result is given, None keeps a size.

    >>> import twofold as tw
    >>> tw.nn.AdaptiveAvgPool2d(2)(tw.zeros(1, 1, 6, 6)).shape
    (1, 1, 2, 2)
    """

    _fn = staticmethod(F.adaptive_avg_pool2d)


class AdaptiveAvgPool3d(_AdaptiveAvgPool):
    """Means of windows that cover volumes evenly; the size of the result is given, None keeps a size.

    >>> import twofold as tw
    >>> tw.nn.AdaptiveAvgPool3d(2)(tw.zeros(1, 1, 4, 4, 4)).shape
    (1, 1, 2, 2, 2)
    """

    _fn = staticmethod(F.adaptive_avg_pool3d)


class AdaptiveMaxPool1d(_AdaptiveMaxPool):
    """Maxima of windows that cover signals evenly; the size of the result is given, None keeps a size.

    >>> import twofold as tw
    >>> tw.nn.AdaptiveMaxPool1d(2)(tw.zeros(1, 1, 6)).shape
    (1, 1, 2)
    """

    _fn = staticmethod(F.adaptive_max_pool1d)


class AdaptiveMaxPool2d(_AdaptiveMaxPool):
    """Maxima of windows that cover images evenly; the size of the result is given, None keeps a size.

    >>> import twofold as tw
    >>> tw.nn.AdaptiveMaxPool2d(2)(tw.zeros(1, 1, 6, 6)).shape
    (1, 1, 2, 2)
    """

    _fn = staticmethod(F.adaptive_max_pool2d)


class AdaptiveMaxPool3d(_AdaptiveMaxPool):
    """Maxima of windows that cover volumes evenly; the size of the result is given, None keeps a size.

    >>> import twofold as tw
    >>> tw.nn.AdaptiveMaxPool3d(2)(tw.zeros(1, 1, 4, 4, 4)).shape
    (1, 1, 2, 2, 2)
    """

    _fn = staticmethod(F.adaptive_max_pool3d)
