"""Views that stride through several dimensions at once: diagonals, and arbitrary strides.

Each has its `update_*` partner, as the views in movement.py.
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from typing import Any

import numpy as np

from ..ir.dtypes import DType, int64
from ..ir.errors import AutogradError, OutOfBoundsError, ShapeError
from ..ir.primitive import ErrorSample, Primitive, Sample
from ..ir.types import Shape, TensorType
from ._rules import draw
from .index import scatter_add
from .movement import check_entries, check_in, check_new, check_sizes, iota, reshape, zeros

Array = np.ndarray[Any, Any]


# Diagonals ---------------------------------------------------------------------------------------


def _diagonal_type(x: TensorType, *, offset: int, dim1: int, dim2: int, op: str = "diagonal") -> TensorType:
    check_in(op, "dim1", dim1, x.ndim)
    check_in(op, "dim2", dim2, x.ndim)
    if dim1 == dim2:
        raise ShapeError(f"dim1 and dim2 are both {dim1}", op=op)
    rest = [n for d, n in enumerate(x.shape) if d not in (dim1, dim2)]
    return x.with_shape([*rest, max(min(x.shape[dim1] + min(offset, 0), x.shape[dim2] - max(offset, 0)), 0)])


def _diagonal(x: Array, *, offset: int, dim1: int, dim2: int) -> Array:
    out = np.diagonal(x, offset, dim1, dim2)
    if x.flags.writeable:
        out.flags.writeable = True  # NumPy hands it out read-only out of caution
    return out


def _update_diagonal_type(base: TensorType, new: TensorType, **params: int) -> TensorType:
    check_new("update_diagonal", base, new, _diagonal_type(base, op="update_diagonal", **params).shape)
    return base


def _update_diagonal(base: Array, new: Array, **params: int) -> Array:
    out = base.copy()
    _diagonal(out, **params)[...] = new
    return out


def _diagonal_samples(dtype: DType, rng: np.random.Generator) -> Iterator[Sample]:
    for shape, offset, dim1, dim2 in (
        ((3, 4), 0, 0, 1), ((3, 4), 1, 0, 1), ((3, 4), -2, 0, 1), ((3, 4), 1, 1, 0), ((2, 3, 2), 0, 0, 2),
        ((2, 2), 5, 0, 1), ((0, 2), 0, 0, 1),
    ):  # fmt: skip
        yield Sample((draw(dtype, rng, shape),), {"offset": offset, "dim1": dim1, "dim2": dim2})


def _update_diagonal_samples(dtype: DType, rng: np.random.Generator) -> Iterator[Sample]:
    for sample in _diagonal_samples(dtype, rng):
        new = _diagonal(sample.inputs[0], **sample.params).shape
        yield Sample((sample.inputs[0], draw(dtype, rng, new)), sample.params)


_DIAGONAL = {"offset": 0, "dim1": 0, "dim2": 1}

diagonal: Primitive = Primitive(
    "diagonal",
    type_rule=_diagonal_type,
    numpy=_diagonal,
    vjp=(lambda g, _y, _x, **params: update_diagonal(zeros(_x.shape, _x.dtype), g, **params),),
    samples=_diagonal_samples,
    errors=lambda: (
        ErrorSample((np.zeros(3),), _DIAGONAL, OutOfBoundsError, "dim2=1 is outside a 1-d tensor"),
        ErrorSample((np.zeros((3, 3)),), {**_DIAGONAL, "dim1": 1}, ShapeError, "both 1"),
    ),
    torch="diagonal",
    view=True,
    write=lambda base, new, **params: (update_diagonal, (base, new), params),
)


update_diagonal: Primitive = Primitive(
    "update_diagonal",
    type_rule=_update_diagonal_type,
    numpy=_update_diagonal,
    vjp=(
        lambda g, _y, _base, _new, **params: update_diagonal(g, zeros(_new.shape, _new.dtype), **params),
        lambda g, _y, _base, _new, **params: diagonal(g, **params),
    ),
    samples=_update_diagonal_samples,
    errors=lambda: (
        ErrorSample((np.zeros((3, 3)), np.zeros(2)), _DIAGONAL, ShapeError, "do not fill a place of shape (3,)"),
    ),
    torch="diagonal_scatter",
)


# Arbitrary strides -------------------------------------------------------------------------------


def _overlaps(shape: Shape, strides: Shape) -> bool:
    """Whether several elements may share a place; errs on the side of True."""
    reach = 0
    for s, n in sorted((s, n) for s, n in zip(strides, shape, strict=True) if n > 1):
        if s <= reach:
            return True
        reach += s * (n - 1)
    return False


def _as_strided_type(
    x: TensorType, *, shape: Shape, strides: Shape, offset: int, op: str = "as_strided"
) -> TensorType:
    check_sizes(op, shape)
    check_entries(op, len(shape), strides=strides)
    if offset < 0 or any(s < 0 for s in strides):
        raise ShapeError(f"a negative stride or offset: strides={tuple(strides)}, offset={offset}", op=op)
    last = offset + sum([(n - 1) * s for n, s in zip(shape, strides, strict=True)])
    if 0 not in shape and last >= x.size:
        raise OutOfBoundsError(
            f"shape {tuple(shape)} with strides {tuple(strides)} and offset {offset} reaches element {last} "
            f"of a tensor with {x.size}",
            op=op,
        )
    return x.with_shape(shape)


def _as_strided(x: Array, *, shape: Shape, strides: Shape, offset: int) -> Array:
    item = x.itemsize
    return np.lib.stride_tricks.as_strided(
        np.ascontiguousarray(x).reshape(-1)[offset:], shape, [s * item for s in strides]
    )


def _as_strided_vjp(g: Any, _y: Any, _x: Any, *, shape: Shape, strides: Shape, offset: int) -> Any:
    params = {"shape": shape, "strides": strides, "offset": offset}
    if not _overlaps(shape, strides):
        return update_as_strided(zeros(_x.shape, _x.dtype), g, **params)
    places = as_strided(iota(size=_x.size, dtype=int64), **params)
    size = (math.prod(shape),)
    flat = scatter_add(zeros((_x.size,), _x.dtype), reshape(places, shape=size), reshape(g, shape=size), dim=0)
    return reshape(flat, shape=_x.shape)


def _as_strided_write(base: Any, new: Any, **params: Any) -> Any:
    if _overlaps(params["shape"], params["strides"]):
        raise AutogradError(
            "a strided view can't be written: several of its elements share one place",
            op="as_strided",
            hint="make a copy first: x = x.clone()",
        )
    return update_as_strided, (base, new), params


def _update_as_strided_type(base: TensorType, new: TensorType, **params: Any) -> TensorType:
    check_new("update_as_strided", base, new, _as_strided_type(base, op="update_as_strided", **params).shape)
    if _overlaps(params["shape"], params["strides"]):
        raise ShapeError("several elements share one place", op="update_as_strided")
    return base


def _update_as_strided(base: Array, new: Array, **params: Any) -> Array:
    out = base.copy()
    _as_strided(out, **params)[...] = new
    return out


def _as_strided_samples(dtype: DType, rng: np.random.Generator, overlap: bool = True) -> Iterator[Sample]:
    for old, shape, strides, offset in (
        ((3, 4), (2, 2), (4, 1), 1), ((3, 4), (2, 3), (1, 4), 0), ((12,), (3,), (5,), 1), ((2, 2), (), (), 3),
        ((4,), (0, 2), (1, 1), 0), ((6,), (4, 3), (1, 1), 0), ((3,), (2, 3), (0, 1), 0),
    ):  # fmt: skip
        if overlap or not _overlaps(shape, strides):
            yield Sample((draw(dtype, rng, old),), {"shape": shape, "strides": strides, "offset": offset})


def _update_as_strided_samples(dtype: DType, rng: np.random.Generator) -> Iterator[Sample]:
    for sample in _as_strided_samples(dtype, rng, overlap=False):
        yield Sample((sample.inputs[0], draw(dtype, rng, sample.params["shape"])), sample.params)


as_strided: Primitive = Primitive(
    "as_strided",
    type_rule=_as_strided_type,
    numpy=_as_strided,
    vjp=(_as_strided_vjp,),
    samples=_as_strided_samples,
    errors=lambda: (
        ErrorSample(
            (np.zeros(4),), {"shape": (2, 3), "strides": (2, 1), "offset": 0}, OutOfBoundsError, "reaches element 4"
        ),
        ErrorSample((np.zeros(4),), {"shape": (2,), "strides": (-1,), "offset": 1}, ShapeError, "negative stride"),
    ),
    torch=lambda torch, x, *, shape, strides, offset: x.contiguous().as_strided(shape, strides, offset),
    view=True,
    write=_as_strided_write,
)


update_as_strided: Primitive = Primitive(
    "update_as_strided",
    type_rule=_update_as_strided_type,
    numpy=_update_as_strided,
    vjp=(
        lambda g, _y, _base, _new, **params: update_as_strided(g, zeros(_new.shape, _new.dtype), **params),
        lambda g, _y, _base, _new, **params: as_strided(g, **params),
    ),
    samples=_update_as_strided_samples,
    errors=lambda: (
        ErrorSample(
            (np.zeros(4), np.zeros((3, 2))),
            {"shape": (3, 2), "strides": (1, 1), "offset": 0},
            ShapeError,
            "share one place",
        ),
    ),
)
