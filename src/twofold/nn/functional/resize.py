"""Resizing images, and moving pixels between channels and space."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

from ...autodiff.composite import composite
from ...autodiff.handle import Tensor
from ...ir.dtypes import HALVES, float32, float64, int64
from ...ir.errors import ShapeError, TwofoldError
from ...primitives import elementwise as E
from ...primitives import index as I
from ...primitives import movement as M
from ._common import cast
from .pooling import adaptive_avg_pool1d, adaptive_avg_pool2d, adaptive_avg_pool3d

_DIMS = {"linear": (3,), "bilinear": (4,), "bicubic": (4,), "trilinear": (5,)}
_AREA = {3: adaptive_avg_pool1d, 4: adaptive_avg_pool2d, 5: adaptive_avg_pool3d}


@composite
def interpolate(
    input: Tensor,
    size: Any = None,
    scale_factor: Any = None,
    mode: str = "nearest",
    align_corners: bool | None = None,
    recompute_scale_factor: bool | None = None,
    antialias: bool = False,
) -> Tensor:
    """Resize the spatial dimensions of (N, C, L), (N, C, H, W) or (N, C, D, H, W).

    Args:
        size: the new size, or `scale_factor`: factors; one number or one per dimension.
        mode: "nearest", "nearest-exact", "linear" (3-d input), "bilinear" and "bicubic" (4-d),
            "trilinear" (5-d), "area".
        align_corners: the corner pixels' centres stay where they are.
    Raises: ShapeError when size or mode do not fit the input.
    Numerics: "bicubic" uses Keys' kernel with a = -0.75, as PyTorch and OpenCV do.

    >>> import twofold as tw
    >>> tw.nn.functional.interpolate(tw.tensor([[[1.0, 2.0]]]), scale_factor=2)
    tensor([[[1., 1., 2., 2.]]])
    """
    op = "interpolate"
    if antialias:
        raise TwofoldError("antialias=True does not exist", op=op, hint="blur with avg_pool2d first, or use 'area'")
    if input.ndim not in (3, 4, 5):
        raise ShapeError(f"expects a 3-d, 4-d or 5-d input, got {input.shape}", op=op)
    if mode not in ("nearest", "nearest-exact", "area") and input.ndim not in _DIMS.get(mode, ()):
        wanted = _DIMS.get(mode)
        raise ShapeError(
            f"mode {mode!r} " + (f"takes a {wanted[0]}-d input, got {input.shape}" if wanted else "is unknown"),
            op=op,
        )
    if align_corners is not None and mode in ("nearest", "nearest-exact", "area"):
        raise TwofoldError("align_corners is for linear, bilinear, bicubic and trilinear only", op=op)
    sizes, scales = _sizes(input.shape[2:], size, scale_factor, recompute_scale_factor, op)
    if mode == "area":
        return _AREA[input.ndim](input, sizes)
    x = cast(input, float32) if input.dtype in HALVES else input
    for dim, (o, scale) in enumerate(zip(sizes, scales, strict=True), 2):
        if x.shape[dim] != o or scale is not None:
            x = _along(x, dim, o, scale, mode, bool(align_corners))
    return cast(x, input.dtype)


def _sizes(
    shape: Sequence[int], size: Any, factor: Any, recompute: bool | None, op: str
) -> tuple[tuple[int, ...], tuple[float | None, ...]]:
    """New sizes, and the factors where the user's are to be used as they are."""
    n = len(shape)
    if (size is None) == (factor is None):
        raise TwofoldError("needs one of size and scale_factor", op=op)
    given = size if size is not None else factor
    values = tuple(given) if isinstance(given, (tuple, list)) else (given,) * n
    if len(values) != n:
        raise ShapeError(f"expects {n} numbers for an input with {n} spatial dimensions, got {values}", op=op)
    if size is not None:
        if recompute:
            raise TwofoldError("recompute_scale_factor needs a scale_factor", op=op)
        return tuple(int(v) for v in values), (None,) * n
    sizes = tuple(math.floor(s * float(v)) for s, v in zip(shape, values, strict=True))
    return sizes, (None,) * n if recompute else tuple(float(v) for v in values)


def _along(x: Tensor, dim: int, o: int, factor: float | None, mode: str, align: bool) -> Tensor:
    """Resize one dimension: a weighted sum of a few neighbours of each new place."""
    n = x.shape[dim]
    if n == 0 or o == 0:
        raise ShapeError(f"can't resize {n} cells to {o}", op="interpolate")
    kind = x.dtype if x.dtype in (float32, float64) else float32
    place = M.iota(size=o, dtype=int64)
    if mode.startswith("nearest"):
        return I.index(x, _nearest(place, n, o, factor, mode == "nearest-exact"), dims=(dim,))
    if align:
        step = (n - 1) / (o - 1) if o > 1 else 0.0
        source = cast(place, kind) * step
    else:
        step = n / o if factor is None or factor <= 0 else 1.0 / factor
        source = (cast(place, kind) + 0.5) * step - 0.5
    shape = (*(1,) * dim, o, *(1,) * (x.ndim - dim - 1))
    taps = _cubic(source, n) if mode == "bicubic" else _linear(source, n)
    out = None
    for index, weight in taps:
        term = I.index(x, index, dims=(dim,)) * cast(M.reshape(weight, shape=shape), x.dtype)
        out = term if out is None else out + term
    assert out is not None
    return out


def _nearest(place: Tensor, n: int, o: int, factor: float | None, exact: bool) -> Tensor:
    step = n / o if factor is None or factor <= 0 else 1.0 / factor
    p = cast(place, float32)
    source = (p + 0.5) * step if exact else p * step
    return E.minimum(cast(E.floor(source), int64), n - 1)


def _linear(source: Tensor, n: int) -> list[tuple[Tensor, Tensor]]:
    source = E.maximum(source, 0.0)
    low = E.minimum(cast(E.floor(source), int64), n - 1)
    share = E.minimum(E.maximum(source - cast(low, source.dtype), 0.0), 1.0)
    return [(low, 1.0 - share), (E.minimum(low + 1, n - 1), share)]


def _cubic(source: Tensor, n: int) -> list[tuple[Tensor, Tensor]]:
    base = E.floor(source)
    t = source - base
    low = cast(base, int64)
    return [(E.minimum(E.maximum(low + (k - 1), 0), n - 1), _cubic_weight(t, k)) for k in range(4)]


def _cubic_weight(t: Tensor, k: int) -> Tensor:
    """Keys' kernel with a = -0.75 at the distance of neighbour `k` (-1, 0, 1, 2 cells from the base)."""
    a = -0.75
    if k in (1, 2):
        d = t if k == 1 else 1.0 - t
        return ((d * (a + 2.0)) - (a + 3.0)) * d * d + 1.0
    d = t + 1.0 if k == 0 else 2.0 - t
    return ((d * a - 5.0 * a) * d + 8.0 * a) * d - 4.0 * a


def upsample(
    input: Tensor,
    size: Any = None,
    scale_factor: Any = None,
    mode: str = "nearest",
    align_corners: bool | None = None,
) -> Tensor:
    """Same as `interpolate`.

    >>> import twofold as tw
    >>> tw.nn.functional.upsample(tw.ones(1, 1, 2), scale_factor=3).shape
    (1, 1, 6)
    """
    return interpolate(input, size, scale_factor, mode, align_corners)


@composite
def pixel_shuffle(input: Tensor, upscale_factor: int) -> Tensor:
    """Channels become pixels: (*, C r r, H, W) -> (*, C, H r, W r).

    Raises: ShapeError when the number of channels is no multiple of r * r.
    Source: Shi et al. 2016, "Real-Time Single Image and Video Super-Resolution", section 3.2.

    >>> import twofold as tw
    >>> tw.nn.functional.pixel_shuffle(tw.ones(1, 8, 2, 2), 2).shape
    (1, 2, 4, 4)
    """
    r = upscale_factor
    if input.ndim < 3 or r < 1 or input.shape[-3] % (r * r):
        raise ShapeError(
            f"expects (*, C, H, W) with C a multiple of {r * r}, got {input.shape}", op="pixel_shuffle"
        )
    *lead, c, h, w = input.shape
    x = M.reshape(input, shape=(math.prod(lead), c // (r * r), r, r, h, w))
    x = M.permute(x, dims=(0, 1, 4, 2, 5, 3))
    return M.reshape(x, shape=(*lead, c // (r * r), h * r, w * r))


@composite
def pixel_unshuffle(input: Tensor, downscale_factor: int) -> Tensor:
    """Pixels become channels: (*, C, H r, W r) -> (*, C r r, H, W).

    Raises: ShapeError when H or W is no multiple of r.

    >>> import twofold as tw
    >>> tw.nn.functional.pixel_unshuffle(tw.ones(1, 2, 4, 4), 2).shape
    (1, 8, 2, 2)
    """
    r = downscale_factor
    if input.ndim < 3 or r < 1 or input.shape[-1] % r or input.shape[-2] % r:
        raise ShapeError(
            f"expects (*, C, H, W) with H and W multiples of {r}, got {input.shape}", op="pixel_unshuffle"
        )
    *lead, c, h, w = input.shape
    x = M.reshape(input, shape=(math.prod(lead), c, h // r, r, w // r, r))
    x = M.permute(x, dims=(0, 1, 3, 5, 2, 4))
    return M.reshape(x, shape=(*lead, c * r * r, h // r, w // r))


@composite
def channel_shuffle(input: Tensor, groups: int) -> Tensor:
    """Interleave the channels of `groups` groups.

    Source: Zhang et al. 2017, "ShuffleNet", section 3.1.

    >>> import twofold as tw
    >>> tw.nn.functional.channel_shuffle(tw.arange(4.0).reshape(1, 4, 1), 2).flatten()
    tensor([0., 2., 1., 3.])
    """
    n, c = input.shape[:2]
    if c % groups:
        raise ShapeError(f"{groups} groups do not divide {c} channels", op="channel_shuffle")
    rest = input.shape[2:]
    x = M.reshape(input, shape=(n, groups, c // groups, math.prod(rest)))
    return M.reshape(M.permute(x, dims=(0, 2, 1, 3)), shape=input.shape)
