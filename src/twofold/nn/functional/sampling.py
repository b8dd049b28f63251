"""Reading images at computed places: grid_sample, and affine_grid, which computes the places."""

from __future__ import annotations

import itertools
import math
from collections.abc import Sequence

from ...autodiff.composite import composite
from ...autodiff.handle import Tensor
from ...ir.dtypes import HALVES, DType, float32, int64
from ...ir.errors import DTypeError, ShapeError, TwofoldError
from ...primitives import elementwise as E
from ...primitives import index as I
from ...primitives import linalg as L
from ...primitives import movement as M
from ._common import cast

_CUBIC = -0.75


@composite
def grid_sample(
    input: Tensor,
    grid: Tensor,
    mode: str = "bilinear",
    padding_mode: str = "zeros",
    align_corners: bool | None = None,
) -> Tensor:
    """Read the input at the places that the grid names, between its pixels by interpolation.

    Shapes: input (N, C, H, W), grid (N, H_out, W_out, 2) -> (N, C, H_out, W_out); or input
        (N, C, D, H, W), grid (N, D_out, H_out, W_out, 3). The grid holds (x, y[, z]), where -1
        and 1 are the borders of the image.
    Args:
        mode: "bilinear", "nearest", or "bicubic" (4-d input).
        padding_mode: what is outside: "zeros", "border" (the nearest pixel) or "reflection".
        align_corners: whether -1 and 1 are the centres of the corner pixels instead of their outer edges.
    Raises: ShapeError when the grid does not fit the input; TwofoldError for an unknown mode.
    Numerics: "bicubic" uses Keys' kernel with a = -0.75.

    >>> import twofold as tw
    >>> x = tw.tensor([[[[1.0, 2.0], [3.0, 4.0]]]])
    >>> tw.nn.functional.grid_sample(x, tw.zeros(1, 1, 1, 2), align_corners=False)
    tensor([[[[2.5000]]]])
    """
    align = bool(align_corners)
    _check(input, grid, mode, padding_mode)
    x = cast(input, float32) if input.dtype in HALVES else input
    g = cast(grid, float32) if grid.dtype in HALVES else grid
    sizes = x.shape[2:]
    n = len(sizes)
    centres = []
    for k, size in enumerate(sizes):
        c = M.slice(g, start=(0,) * (n + 1) + (n - 1 - k,), stop=(*g.shape[:-1], n - k), step=(1,) * (n + 2))
        c = M.reshape(c, shape=(g.shape[0], math.prod(g.shape[1:-1])))
        centres.append((c + 1.0) * ((size - 1) / 2) if align else ((c + 1.0) * float(size) - 1.0) / 2.0)
    out = _TAPS[mode](x, centres, padding_mode, align)
    return cast(M.reshape(out, shape=(*x.shape[:2], *g.shape[1:-1])), input.dtype)


def _check(input: Tensor, grid: Tensor, mode: str, padding_mode: str) -> None:
    op, n = "grid_sample", input.ndim - 2
    if input.ndim not in (4, 5):
        raise ShapeError(f"expects a 4-d or 5-d input, got {input.shape}", op=op)
    if grid.ndim != input.ndim or grid.shape[-1] != n or grid.shape[0] != input.shape[0]:
        want = ", ".join([str(input.shape[0]), *("D_out", "H_out", "W_out")[3 - n :], str(n)])
        raise ShapeError(f"the grid has shape {grid.shape}, expected ({want}) for an input of {input.shape}", op=op)
    if 0 in input.shape[2:]:
        raise ShapeError(f"expects an input with pixels, got {input.shape}", op=op)
    if grid.dtype is not input.dtype or not input.dtype.is_floating_point:
        raise DTypeError(
            f"the input has dtype {input.dtype.name}, the grid {grid.dtype.name}; expected one floating dtype",
            op=op,
        )
    if mode not in _TAPS or (mode == "bicubic" and n != 2):
        raise TwofoldError(
            f"mode={mode!r} does not exist for a {input.ndim}-d input",
            op=op,
            hint='use "bilinear" or "nearest"' + (', or "bicubic"' if n == 2 else ""),
        )
    if padding_mode not in ("zeros", "border", "reflection"):
        raise TwofoldError(
            f"padding_mode={padding_mode!r} is unknown", op=op, hint='use "zeros", "border" or "reflection"'
        )


def _inside(c: Tensor, size: int, padding: str, align: bool) -> Tensor:
    """Coordinates moved into the image, as the padding says; "zeros" leaves them."""
    if padding == "zeros":
        return c
    if padding == "reflection":
        low, span = (0.0, size - 1.0) if align else (-0.5, float(size))
        if span:
            c = E.abs(c - low)
            extra, flips = E.fmod(c, span), E.floor(E.div(c, span))
            c = E.where(E.eq(E.remainder(flips, 2.0), 0), extra + low, (span - extra) + low)
        else:
            c = c * 0.0
    return E.minimum(E.maximum(c, 0.0), size - 1.0)


def _read(x: Tensor, places: Sequence[Tensor], padding: str) -> Tensor:
    """The pixels at whole coordinates, (N, C, points); outside, where padding is "zeros", zeros."""
    count, channels, *sizes = x.shape
    flat, valid = None, None
    for c, size in zip(places, sizes, strict=True):
        if padding == "zeros":
            ok = E.bitwise_and(E.ge(c, 0), E.le(c, size - 1))
            valid = ok if valid is None else E.bitwise_and(valid, ok)
        line = cast(E.minimum(E.maximum(E.where(E.eq(c, c), c, 0.0), 0.0), size - 1.0), int64)
        flat = line if flat is None else flat * size + line
    assert flat is not None
    wide = (count, channels, flat.shape[1])
    pixels = M.reshape(x, shape=(count, channels, math.prod(sizes)))
    values = I.gather(pixels, _over_channels(flat, wide), dim=2)
    return values if valid is None else E.where(_over_channels(valid, wide), values, 0)


def _over_channels(t: Tensor, wide: tuple[int, ...]) -> Tensor:
    return M.expand(M.reshape(t, shape=(wide[0], 1, wide[2])), shape=wide)


def _weighted(x: Tensor, taps: Sequence[Sequence[tuple[Tensor, Tensor]]], padding: str) -> Tensor:
    """The sum over all combinations of one (place, weight) per dimension."""
    total = None
    for combination in itertools.product(*taps):
        weight = combination[0][1]
        for _, w in combination[1:]:
            weight = weight * w
        wide = (*x.shape[:2], weight.shape[1])
        term = _read(x, [place for place, _ in combination], padding) * _over_channels(weight, wide)
        total = term if total is None else total + term
    assert total is not None
    return total


def _linear(x: Tensor, centres: Sequence[Tensor], padding: str, align: bool) -> Tensor:
    taps = []
    for c, size in zip(centres, x.shape[2:], strict=True):
        c = _inside(c, size, padding, align)
        low = E.floor(c)
        part = c - low
        taps.append([(low, 1.0 - part), (low + 1.0, part)])
    return _weighted(x, taps, padding)


def _nearest(x: Tensor, centres: Sequence[Tensor], padding: str, align: bool) -> Tensor:
    places = [E.round(_inside(c, size, padding, align)) for c, size in zip(centres, x.shape[2:], strict=True)]
    return _read(x, places, padding)


def _cubic(x: Tensor, centres: Sequence[Tensor], padding: str, align: bool) -> Tensor:
    taps = []
    for c, size in zip(centres, x.shape[2:], strict=True):
        low = E.floor(c)
        part = c - low
        weights = (_far(part + 1.0), _near(part), _near(1.0 - part), _far(2.0 - part))
        taps.append([(_inside(low + (k - 1.0), size, padding, align), w) for k, w in enumerate(weights)])
    return _weighted(x, taps, padding)


def _near(d: Tensor) -> Tensor:
    """Keys' kernel at distances up to 1."""
    return ((_CUBIC + 2) * d - (_CUBIC + 3)) * d * d + 1.0


def _far(d: Tensor) -> Tensor:
    """Keys' kernel at distances from 1 to 2."""
    return ((_CUBIC * d - 5 * _CUBIC) * d + 8 * _CUBIC) * d - 4 * _CUBIC


_TAPS = {"bilinear": _linear, "nearest": _nearest, "bicubic": _cubic}


@composite
def affine_grid(theta: Tensor, size: Sequence[int], align_corners: bool | None = None) -> Tensor:
    """The grid for `grid_sample` that an affine map gives: of an output of shape `size`.

    Shapes: theta (N, 2, 3), size (N, C, H, W) -> (N, H, W, 2); theta (N, 3, 4), size
        (N, C, D, H, W) -> (N, D, H, W, 3).
    Raises: ShapeError when theta does not fit the size.

    >>> import twofold as tw
    >>> shift = tw.tensor([[[1.0, 0.0, 0.5], [0.0, 1.0, 0.0]]])
    >>> tw.nn.functional.affine_grid(shift, (1, 1, 1, 2), align_corners=True)
    tensor([[[[-0.5000,  0.0000],
              [ 1.5000,  0.0000]]]])
    """
    n = len(size) - 2
    if n not in (2, 3) or theta.shape != (size[0], n, n + 1):
        raise ShapeError(
            f"theta has shape {theta.shape}, size is {tuple(size)}", op="affine_grid",
            hint="expected (N, 2, 3) with (N, C, H, W), or (N, 3, 4) with (N, C, D, H, W)",
        )  # fmt: skip
    if not theta.dtype.is_floating_point:
        raise DTypeError(f"expected a floating theta, got {theta.dtype.name}", op="affine_grid")
    spatial = tuple(int(s) for s in size[2:])
    points = math.prod(spatial)
    columns = [_line(spatial, n - 1 - k, theta.dtype, bool(align_corners)) for k in range(n)]
    columns.append(M.full(shape=(points, 1), value=1, dtype=theta.dtype))
    base = M.expand(M.concat(*columns, dim=1), shape=(theta.shape[0], points, n + 1))
    out = L.matmul(base, M.permute(theta, dims=(0, 2, 1)))
    return M.reshape(out, shape=(theta.shape[0], *spatial, n))


def _line(spatial: tuple[int, ...], dim: int, dtype: DType, align: bool) -> Tensor:
    """The coordinate along `dim` of every point of a grid, as a column."""
    n = spatial[dim]
    i = M.iota(size=n, dtype=dtype)
    if align:
        c = i * (2.0 / (n - 1)) - 1.0 if n > 1 else i
    else:
        c = (i * 2.0 + 1.0) / float(n) - 1.0
    shape = tuple(n if k == dim else 1 for k in range(len(spatial)))
    return M.reshape(M.expand(M.reshape(c, shape=shape), shape=spatial), shape=(math.prod(spatial), 1))
