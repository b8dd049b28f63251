"""Operations on pictures as NumPy arrays (..., H, W), the one implementation for tensors and arrays.

Note [Kinds of pictures]
A picture is a PIL image, a uint8 array (H, W) or (H, W, C), or a tensor (..., H, W). Functions that
Pillow does well (resampling) are handed to it; everything else, and all of it for tensors, is done
here on arrays whose last two dimensions are height and width.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

import numpy as np

Array = np.ndarray[Any, Any]


def like(x: Array, dtype: np.dtype[Any]) -> Array:
    """Computed values in a picture's dtype: rounded and clipped if it is an integer type."""
    if dtype.kind in "ui":
        info = np.iinfo(dtype)
        x = np.clip(np.rint(x), info.min, info.max)
    return x.astype(dtype)


def _triangle(x: Array) -> Array:
    return np.maximum(0, 1 - np.abs(x))


def _cubic(x: Array, a: float) -> Array:
    x = np.abs(x)
    near = ((a + 2) * x - (a + 3)) * x * x + 1
    far = a * (((x - 5) * x + 8) * x - 4)
    return np.where(x < 1, near, np.where(x < 2, far, 0.0))


def resize_matrix(n: int, m: int, mode: str, antialias: bool) -> Array:
    """Weights (m, n) that make a line of m pixels of one of n.

    Source: convolution resampling, with the filter widened when shrinking if `antialias`
        (Turkowski 1990, "Filters for common resampling tasks"). Pixels are areas: the middle of
        pixel i is at i + 1/2. The cubic has a = -1/2 with antialias and -3/4 without, as PyTorch's.
    """
    scale = n / m
    width = max(scale, 1.0) if antialias else 1.0
    middle = (np.arange(m) + 0.5) * scale - 0.5
    offset = (np.arange(n)[None, :] - middle[:, None]) / width
    if antialias:
        weights = _triangle(offset) if mode == "bilinear" else _cubic(offset, -0.5)
        return weights / weights.sum(1, keepdims=True)
    # without antialias pixels beyond the edge count as the edge's
    reach = 1 if mode == "bilinear" else 2
    first = np.floor(middle).astype(int) - reach + 1
    out = np.zeros((m, n))
    for k in range(2 * reach):
        position = first + k
        distance = position - middle
        weight = _triangle(distance) if mode == "bilinear" else _cubic(distance, -0.75)
        np.add.at(out, (np.arange(m), np.clip(position, 0, n - 1)), weight)
    return out


def resize(x: Array, size: tuple[int, int], mode: str, antialias: bool) -> Array:
    """Resample to (..., h, w)."""
    h, w = x.shape[-2:]
    if (h, w) == size:
        return x
    if mode == "nearest":
        rows, columns = ((2 * np.arange(m) + 1) * n // (2 * m) for n, m in ((h, size[0]), (w, size[1])))
        return x[..., rows[:, None], columns[None, :]]
    kind = x.dtype if x.dtype.kind == "f" and x.dtype.itemsize >= 4 else np.dtype(np.float32)
    across = resize_matrix(w, size[1], mode, antialias).astype(kind)
    down = resize_matrix(h, size[0], mode, antialias).astype(kind)
    return like(down @ (x.astype(kind) @ across.T), x.dtype)


def crop(x: Array, top: int, left: int, height: int, width: int) -> Array:
    """A part of the picture; what lies outside of it is zero."""
    h, w = x.shape[-2:]
    inside = x[..., max(top, 0) : max(top + height, 0), max(left, 0) : max(left + width, 0)]
    if top >= 0 and left >= 0 and top + height <= h and left + width <= w:
        return inside
    out = np.zeros((*x.shape[:-2], height, width), x.dtype)
    if inside.size:
        y0, x0 = max(-top, 0), max(-left, 0)
        out[..., y0 : y0 + inside.shape[-2], x0 : x0 + inside.shape[-1]] = inside
    return out


def pad(x: Array, padding: Sequence[int], fill: Any, mode: str) -> Array:
    """Pad by (left, top, right, bottom); a fill per channel is allowed."""
    left, top, right, bottom = padding
    widths = [(0, 0)] * (x.ndim - 2) + [(top, bottom), (left, right)]
    if mode == "constant":
        h, w = x.shape[-2:]
        out = np.empty((*x.shape[:-2], h + top + bottom, w + left + right), x.dtype)
        out[...] = fill_of(fill, x)
        out[..., top : top + h, left : left + w] = x
        return out
    modes = {"edge": "edge", "reflect": "reflect", "symmetric": "symmetric"}
    return np.pad(x, widths, mode=modes[mode])  # type: ignore[call-overload]


def fill_of(fill: Any, x: Array) -> Array:
    """The fill as an array that broadcasts over (C, H, W)."""
    values = np.asarray(0 if fill is None else fill, dtype=x.dtype)
    return values.reshape(-1, 1, 1) if values.ndim else values


def affine(x: Array, matrix: Sequence[float], size: tuple[int, int], mode: str, fill: Any) -> Array:
    """Sample the picture where `matrix` says: (a, b, c, d, e, f) maps an output pixel (u, v) to
    the input position (a u + b v + c, d u + e v + f), both counted from pixel middles."""
    a, b, c, d, e, f = matrix
    h, w = x.shape[-2:]
    v, u = np.mgrid[0 : size[0], 0 : size[1]] + 0.5
    px, py = a * u + b * v + c, d * u + e * v + f
    value = np.broadcast_to(fill_of(fill, x), (*x.shape[:-2], *size))
    if mode == "nearest":
        i, j = np.floor(py).astype(int), np.floor(px).astype(int)
        inside = (i >= 0) & (i < h) & (j >= 0) & (j < w)
        return np.where(inside, x[..., np.clip(i, 0, h - 1), np.clip(j, 0, w - 1)], value)
    inside = (px >= 0) & (px < w) & (py >= 0) & (py < h)
    out = _bilinear(x, px - 0.5, py - 0.5)
    return np.where(inside, like(out, x.dtype), value)


def _bilinear(x: Array, px: Array, py: Array) -> Array:
    h, w = x.shape[-2:]
    j, i = np.floor(px).astype(int), np.floor(py).astype(int)
    fx, fy = px - j, py - i

    def at(di: int, dj: int) -> Array:
        return x[..., np.clip(i + di, 0, h - 1), np.clip(j + dj, 0, w - 1)].astype(np.float64)

    upper = at(0, 0) * (1 - fx) + at(0, 1) * fx
    lower = at(1, 0) * (1 - fx) + at(1, 1) * fx
    return upper * (1 - fy) + lower * fy


def affine_matrix(
    center: tuple[float, float],
    angle: float,
    translate: Sequence[float],
    scale: float,
    shear: Sequence[float],
) -> list[float]:
    """The inverse of: shear, rotate by `angle` degrees and scale about `center`, then translate.

    M = T(translate) C R(angle) Shear scale C^-1; the result maps output positions to input ones.
    """
    rotation, sx, sy = math.radians(angle), math.radians(shear[0]), math.radians(shear[1])
    # rotation after shear: columns of the forward 2x2 matrix
    a = math.cos(rotation - sy) / math.cos(sy)
    b = -math.cos(rotation - sy) * math.tan(sx) / math.cos(sy) - math.sin(rotation)
    c = math.sin(rotation - sy) / math.cos(sy)
    d = -math.sin(rotation - sy) * math.tan(sx) / math.cos(sy) + math.cos(rotation)
    inverse = np.linalg.inv(np.array([[a, b], [c, d]]) * scale)
    cx, cy = center
    moved = np.array([cx + translate[0], cy + translate[1]])
    offset = np.array([cx, cy]) - inverse @ moved
    return [*inverse[0].tolist(), float(offset[0]), *inverse[1].tolist(), float(offset[1])]


def gray(x: Array) -> Array:
    """Luma (..., 1, H, W) of RGB (..., 3, H, W), as floats. Source: ITU-R BT.601."""
    weights = np.array([0.299, 0.587, 0.114])
    return np.einsum("c,...chw->...hw", weights, x.astype(np.float64))[..., None, :, :]


def blend(x: Array, other: Any, factor: float) -> Array:
    """`factor` of x and the rest of `other`, inside the range of x's dtype."""
    top = 1.0 if x.dtype.kind == "f" else float(np.iinfo(x.dtype).max)
    return like(np.clip(factor * x.astype(np.float64) + (1 - factor) * other, 0, top), x.dtype)


def shift_hue(x: Array, shift: float) -> Array:
    """Turn the hue of RGB (..., 3, H, W) by `shift` of a full circle.

    Source: Smith 1978, "Color gamut transform pairs".
    """
    top = 1.0 if x.dtype.kind == "f" else float(np.iinfo(x.dtype).max)
    rgb = x.astype(np.float64) / top
    r, g, b = (rgb[..., k, :, :] for k in range(3))
    value, low = rgb.max(-3), rgb.min(-3)
    spread = value - low
    safe = np.where(spread > 0, spread, 1)
    hue = np.where(value == r, (g - b) / safe, np.where(value == g, 2 + (b - r) / safe, 4 + (r - g) / safe))
    hue = (np.where(spread > 0, hue, 0) / 6 + shift) % 1
    saturation = np.where(value > 0, spread / np.where(value > 0, value, 1), 0)
    out = [value - value * saturation * _ramp(hue, n) for n in (5, 3, 1)]
    return like(np.stack(out, -3) * top, x.dtype)


def _ramp(hue: Array, n: int) -> Array:
    k = (n + hue * 6) % 6
    return np.clip(np.minimum(k, 4 - k), 0, 1)
