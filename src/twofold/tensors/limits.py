"""finfo and iinfo: what numbers a dtype can hold."""

from __future__ import annotations

from typing import Any

import ml_dtypes
import numpy as np

from ..ir.dtypes import as_dtype, get_default_dtype
from ..ir.errors import DTypeError
from ._registry import function


class FloatInfo:
    """Range and precision of a floating dtype.

    Attributes:
        bits: size of a number.
        eps: the step from 1.0 to the next larger number.
        max, min: the largest and the smallest finite number.
        tiny, smallest_normal: the smallest positive number of full precision.
        resolution: `10 ** -digits`, the decimal precision.
    """

    __slots__ = ("bits", "dtype", "eps", "max", "min", "resolution", "smallest_normal", "tiny")

    def __init__(self, dtype: Any = None):
        dtype = get_default_dtype() if dtype is None else as_dtype(dtype).to_real()
        if not dtype.is_floating_point:
            raise DTypeError(f"finfo is for floating dtypes, got {dtype.name}", hint="use iinfo() for integers")
        info: Any = ml_dtypes.finfo(dtype.numpy)
        self.bits = dtype.itemsize * 8
        self.dtype = dtype.name
        self.eps = float(info.eps)
        self.max = float(info.max)
        self.min = float(info.min)
        self.tiny = self.smallest_normal = float(info.smallest_normal)
        self.resolution = float(info.resolution)

    def __repr__(self) -> str:
        fields = ("resolution", "min", "max", "eps", "smallest_normal", "tiny", "dtype")
        return f"finfo({', '.join(f'{name}={getattr(self, name)}' for name in fields)})"


class IntInfo:
    """Range of an integer dtype.

    Attributes:
        bits: size of a number.
        max, min: the largest and the smallest number.
    """

    __slots__ = ("bits", "dtype", "max", "min")

    def __init__(self, dtype: Any):
        dtype = as_dtype(dtype)
        if dtype.kind not in ("int", "uint"):
            raise DTypeError(f"iinfo is for integer dtypes, got {dtype.name}", hint="use finfo() for floats")
        info = np.iinfo(dtype.numpy)
        self.bits, self.dtype, self.max, self.min = info.bits, dtype.name, int(info.max), int(info.min)

    def __repr__(self) -> str:
        return f"iinfo(min={self.min}, max={self.max}, dtype={self.dtype})"


@function(method=False)
def finfo(dtype: Any = None) -> FloatInfo:
    """Range and precision of a floating dtype, the default one if none is given.

    Raises: DTypeError for other dtypes.

    >>> import twofold as tw
    >>> tw.finfo(tw.float32).eps == 2 ** -23
    True
    """
    return FloatInfo(dtype)


@function(method=False)
def iinfo(dtype: Any) -> IntInfo:
    """Range of an integer dtype.

    Raises: DTypeError for other dtypes.

    >>> import twofold as tw
    >>> tw.iinfo(tw.int8).max
    127
    """
    return IntInfo(dtype)
