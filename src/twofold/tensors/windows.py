"""Window functions for the analysis of signals."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

from ..autodiff.handle import Tensor
from ..ir.dtypes import as_dtype, float64, get_default_dtype
from ..ir.errors import TwofoldError
from ..primitives import elementwise as prim
from ..primitives import movement
from ._registry import function
from .attributes import cast
from .creation import made


def _window(
    length: int, periodic: bool, shape: Callable[[Tensor, int], Tensor], options: dict[str, Any], op: str
) -> Tensor:
    """`shape(i, n)` at i = 0 ... length - 1, computed in float64; n is the index of the last sample."""
    if length < 0:
        raise TwofoldError(f"window_length must not be negative, got {length}", op=op)
    dtype = options.pop("dtype", None)
    dtype = get_default_dtype() if dtype is None else as_dtype(dtype)
    device, requires_grad = options.pop("device", None), options.pop("requires_grad", False)
    n = length if periodic else length - 1

    def make() -> Tensor:
        if length <= 1:
            return movement.full(shape=(length,), value=1, dtype=dtype)
        return cast(shape(movement.iota(size=length, dtype=float64), n), dtype)

    return made(make, device, requires_grad)


def _cosines(*weights: float) -> Callable[[Tensor, int], Tensor]:
    """`sum((-1)^k w_k cos(2 pi k i / n))`."""

    def shape(i: Tensor, n: int) -> Tensor:
        out = i * 0.0 + weights[0]
        for k, w in enumerate(weights[1:], 1):
            out = out + prim.cos(i * (2 * math.pi * k / n)) * (w * (-1) ** k)
        return out

    return shape


@function(method=False)
def hann_window(window_length: int, periodic: bool = True, **options: Any) -> Tensor:
    """The Hann window, `(1 - cos(2 pi i / n)) / 2`.

    Args:
        periodic: for use with a Fourier transform; else symmetric, for the design of filters.

    >>> import twofold as tw
    >>> tw.hann_window(4)
    tensor([0.0000, 0.5000, 1.0000, 0.5000])
    """
    return _window(window_length, periodic, _cosines(0.5, 0.5), options, "hann_window")


@function(method=False)
def hamming_window(
    window_length: int, periodic: bool = True, alpha: float = 0.54, beta: float = 0.46, **options: Any
) -> Tensor:
    """The Hamming window, `alpha - beta cos(2 pi i / n)`.

    >>> import twofold as tw
    >>> tw.hamming_window(4)
    tensor([0.0800, 0.5400, 1.0000, 0.5400])
    """
    return _window(window_length, periodic, _cosines(alpha, beta), options, "hamming_window")


@function(method=False)
def blackman_window(window_length: int, periodic: bool = True, **options: Any) -> Tensor:
    """The Blackman window, `0.42 - 0.5 cos(2 pi i / n) + 0.08 cos(4 pi i / n)`.

    >>> import twofold as tw
    >>> tw.blackman_window(5, periodic=False)[1:4]
    tensor([0.3400, 1.0000, 0.3400])
    """
    return _window(window_length, periodic, _cosines(0.42, 0.5, 0.08), options, "blackman_window")


@function(method=False)
def bartlett_window(window_length: int, periodic: bool = True, **options: Any) -> Tensor:
    """The Bartlett window, a triangle: `1 - |2 i / n - 1|`.

    >>> import twofold as tw
    >>> tw.bartlett_window(4)
    tensor([0.0000, 0.5000, 1.0000, 0.5000])
    """
    return _window(
        window_length, periodic, lambda i, n: 1.0 - prim.abs(i * (2 / n) - 1.0), options, "bartlett_window"
    )
