"""Padding layers."""

from __future__ import annotations

from typing import Any

from ..autodiff.handle import Tensor
from . import functional as F
from .functional._common import tuple_of
from .module import Module


class _Pad(Module):
    """Pads the last `_n` dimensions."""

    _n: int
    _mode: str

    def __init__(self, padding: Any):
        super().__init__()
        self.padding = tuple_of(padding, 2 * self._n, "padding", type(self).__name__)

    def forward(self, input: Tensor) -> Tensor:
        return F.pad(input, self.padding, mode=self._mode)

    def extra_repr(self) -> str:
        return f"{self.padding}"


class _ConstantPad(_Pad):
    _mode = "constant"

    def __init__(self, padding: Any, value: float):
        super().__init__(padding)
        self.value = value

    def forward(self, input: Tensor) -> Tensor:
        return F.pad(input, self.padding, mode="constant", value=self.value)

    def extra_repr(self) -> str:
        return f"padding={self.padding}, value={self.value}"


class _ZeroPad(_ConstantPad):
    def __init__(self, padding: Any):
        super().__init__(padding, 0.0)

    def extra_repr(self) -> str:
        return f"{self.padding}"


class ConstantPad1d(_ConstantPad):
    """Enlarges the last dimension with a given value.

    Args:
        padding: one number for all sides, or (left, right), then of the dimension before, and so on.

    >>> import twofold as tw
    >>> tw.nn.ConstantPad1d(1, 3.5)(tw.ones(1, 1, 4)).shape
    (1, 1, 6)
    """

    _n = 1


class ConstantPad2d(_ConstantPad):
    """Enlarges the last two dimensions with a given value.

    >>> import twofold as tw
    >>> tw.nn.ConstantPad2d(1, 3.5)(tw.ones(1, 1, 4, 4)).shape
    (1, 1, 6, 6)
    """

    _n = 2


class ConstantPad3d(_ConstantPad):
    """Enlarges the last three dimensions with a given value.

    >>> import twofold as tw
    >>> tw.nn.ConstantPad3d(1, 3.5)(tw.ones(1, 1, 4, 4, 4)).shape
    (1, 1, 6, 6, 6)
    """

    _n = 3


class ZeroPad1d(_ZeroPad):
    """Enlarges the last dimension with zeros.

    Args:
        padding: one number for all sides, or (left, right), then of the dimension before, and so on.

    >>> import twofold as tw
    >>> tw.nn.ZeroPad1d(1)(tw.ones(1, 1, 4)).shape
    (1, 1, 6)
    """

    _n = 1


class ZeroPad2d(_ZeroPad):
    """Enlarges the last two dimensions with zeros.

    >>> import twofold as tw
    >>> tw.nn.ZeroPad2d(1)(tw.ones(1, 1, 4, 4)).shape
    (1, 1, 6, 6)
    """

    _n = 2


class ZeroPad3d(_ZeroPad):
    """Enlarges the last three dimensions with zeros.

    >>> import twofold as tw
    >>> tw.nn.ZeroPad3d(1)(tw.ones(1, 1, 4, 4, 4)).shape
    (1, 1, 6, 6, 6)
    """

    _n = 3


class ReflectionPad1d(_Pad):
    """Enlarges the last dimension with the mirror image, without repeating the edge.

    Args:
        padding: one number for all sides, or (left, right), then of the dimension before, and so on.

    >>> import twofold as tw
    >>> tw.nn.ReflectionPad1d(1)(tw.ones(1, 1, 4)).shape
    (1, 1, 6)
    """

    _n = 1
    _mode = "reflect"


class ReflectionPad2d(_Pad):
    """Enlarges the last two dimensions with the mirror image, without repeating the edge.

    >>> import twofold as tw
    >>> tw.nn.ReflectionPad2d(1)(tw.ones(1, 1, 4, 4)).shape
    (1, 1, 6, 6)
    """

    _n = 2
    _mode = "reflect"


class ReflectionPad3d(_Pad):
    """Enlarges the last three dimensions with the mirror image, without repeating the edge.

    >>> import twofold as tw
    >>> tw.nn.ReflectionPad3d(1)(tw.ones(1, 1, 4, 4, 4)).shape
    (1, 1, 6, 6, 6)
    """

    _n = 3
    _mode = "reflect"


class ReplicationPad1d(_Pad):
    """Enlarges the last dimension with copies of the edge.

    Args:
        padding: one number for all sides, or (left, right), then of the dimension before, and so on.

    >>> import twofold as tw
    >>> tw.nn.ReplicationPad1d(1)(tw.ones(1, 1, 4)).shape
    (1, 1, 6)
    """

    _n = 1
    _mode = "replicate"


class ReplicationPad2d(_Pad):
    """Enlarges the last two dimensions with copies of the edge.

    >>> import twofold as tw
    >>> tw.nn.ReplicationPad2d(1)(tw.ones(1, 1, 4, 4)).shape
    (1, 1, 6, 6)
    """

    _n = 2
    _mode = "replicate"


class ReplicationPad3d(_Pad):
    """Enlarges the last three dimensions with copies of the edge.

    >>> import twofold as tw
    >>> tw.nn.ReplicationPad3d(1)(tw.ones(1, 1, 4, 4, 4)).shape
    (1, 1, 6, 6, 6)
    """

    _n = 3
    _mode = "replicate"


class CircularPad1d(_Pad):
    """Enlarges the last dimension with the values of the other end.

    Args:
        padding: one number for all sides, or (left, right), then of the dimension before, and so on.

    >>> import twofold as tw
    >>> tw.nn.CircularPad1d(1)(tw.ones(1, 1, 4)).shape
    (1, 1, 6)
    """

    _n = 1
    _mode = "circular"


class CircularPad2d(_Pad):
    """Enlarges the last two dimensions with the values of the other end.

    >>> import twofold as tw
    >>> tw.nn.CircularPad2d(1)(tw.ones(1, 1, 4, 4)).shape
    (1, 1, 6, 6)
    """

    _n = 2
    _mode = "circular"


class CircularPad3d(_Pad):
    """Enlarges the last three dimensions with the values of the other end.

    >>> import twofold as tw
    >>> tw.nn.CircularPad3d(1)(tw.ones(1, 1, 4, 4, 4)).shape
    (1, 1, 6, 6, 6)
    """

    _n = 3
    _mode = "circular"
