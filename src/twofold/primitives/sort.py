"""Order: sort, topk, searchsorted.

Note [Order]
Sorting is stable in both directions: equal elements keep their order, so results are the same on
every backend. NaN counts as greater than every number, as in PyTorch. `topk` takes the elements
that come first in that order.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import numpy as np

from ..ir.dtypes import BOOL, REALS, DType, int64
from ..ir.errors import DTypeError, OutOfBoundsError, ShapeError
from ..ir.primitive import ErrorSample, Primitive, Sample
from ..ir.types import Shape, TensorType
from ._rules import check_dim, check_dtype, check_same_dtype, draw
from .index import along, scatter
from .movement import full

Array = np.ndarray[Any, Any]

_ORDERED = REALS | BOOL


def _sort_type(x: TensorType, *, dim: int, descending: bool, op: str = "sort") -> tuple[TensorType, TensorType]:
    check_dtype(op, x.dtype, _ORDERED)
    check_dim(op, dim, x.ndim)
    return x, x.with_dtype(int64)


def _comparable(x: Array) -> Array:
    """`x` in a dtype that NumPy orders with NaN last."""
    return x.astype(np.float32) if x.dtype.kind == "V" or x.dtype.name == "bfloat16" else x


def _order(x: Array, dim: int, descending: bool) -> Array:
    """Stable places of the sorted elements along `dim`."""
    x = _comparable(x)
    if not descending:
        return x.argsort(axis=dim, kind="stable")
    turned = (*(slice(None),) * dim, slice(None, None, -1))
    backwards = x[turned].argsort(axis=dim, kind="stable")
    return x.shape[dim] - 1 - backwards[turned]


def _sort(x: Array, *, dim: int, descending: bool) -> tuple[Array, Array]:
    if x.ndim == 0:
        return x.copy(), np.zeros((), np.int64)
    order = _order(x, dim, descending)
    return x[along(order, dim)], order


def _topk_type(x: TensorType, *, k: int, dim: int, largest: bool) -> tuple[TensorType, TensorType]:
    _sort_type(x, dim=dim, descending=largest, op="topk")
    n = x.shape[dim] if x.ndim else 1
    if not 0 <= k <= n:
        raise OutOfBoundsError(
            f"k={k} elements were asked for, but dimension {dim} has size {n} (shape {x.shape})",
            op="topk",
            hint=f"k must be between 0 and {n}",
        )
    out = x.with_shape([k if d == dim else m for d, m in enumerate(x.shape)])
    return out, out.with_dtype(int64)


def _topk(x: Array, *, k: int, dim: int, largest: bool) -> tuple[Array, Array]:
    if x.ndim == 0:
        return x.copy(), np.zeros((), np.int64)
    first = (slice(None),) * dim + (slice(k),)
    order = _order(x, dim, largest)[first]
    return x[along(order, dim)], order


def _sort_vjp(g: Any, y: Any, _x: Any, *, dim: int, **_params: Any) -> Any:
    return scatter(full(shape=_x.shape, value=0, dtype=_x.dtype), y[1], g[0], dim=dim)


def _sort_samples(dtype: DType, rng: np.random.Generator) -> Iterator[Sample]:
    for shape, dim in (((5,), 0), ((3, 4), 0), ((3, 4), 1), ((2, 3, 2), 1), ((), 0), ((0,), 0), ((2, 0), 1)):
        for descending in (False, True):
            yield Sample((draw(dtype, rng, shape),), {"dim": dim, "descending": descending})
    ties = draw(dtype, rng, (4,))[[0, 1, 0, 3, 1, 2]]
    yield Sample((ties,), {"dim": 0, "descending": True}, differentiable=False)
    if dtype.is_floating_point:
        x = np.array([1, np.nan, -np.inf, np.inf, 0, np.nan]).astype(dtype.numpy)
        yield Sample((x,), {"dim": 0, "descending": False}, differentiable=False)
        yield Sample((x,), {"dim": 0, "descending": True}, differentiable=False)


def _topk_samples(dtype: DType, rng: np.random.Generator) -> Iterator[Sample]:
    for shape, dim, k in (((5,), 0, 2), ((3, 4), 0, 1), ((3, 4), 1, 4), ((2, 3), 1, 0), ((), 0, 1), ((0, 2), 0, 0)):
        for largest in (False, True):
            yield Sample((draw(dtype, rng, shape),), {"dim": dim, "k": k, "largest": largest})


def _torch_topk(torch: Any, x: Any, *, k: int, dim: int, largest: bool) -> Any:
    """By a stable sort: which of equal elements `torch.topk` takes is not defined."""
    values, indices = torch.sort(x, dim=dim, descending=largest, stable=True)
    return (values.narrow(dim, 0, k), indices.narrow(dim, 0, k)) if x.ndim else (values, indices)


def _searchsorted_type(ordered: TensorType, values: TensorType, *, right: bool) -> TensorType:
    check_dtype("searchsorted", check_same_dtype("searchsorted", ordered, values), _ORDERED)
    if ordered.ndim == 0:
        raise ShapeError("the sorted sequence is 0-d, at least one dimension is needed", op="searchsorted")
    if ordered.ndim > 1 and ordered.shape[:-1] != values.shape[:-1]:
        raise ShapeError(
            f"the sorted sequences have shape {ordered.shape} and the values {values.shape}: "
            "all dimensions but the last must agree",
            op="searchsorted",
        )
    return values.with_dtype(int64)


def _searchsorted(ordered: Array, values: Array, *, right: bool) -> Array:
    side: Any = "right" if right else "left"
    ordered, values = _comparable(ordered), _comparable(values)
    if ordered.ndim == 1:
        return np.asarray(np.searchsorted(ordered, values, side)).astype(np.int64, copy=False)
    out = np.empty(values.shape, np.int64)
    for at in np.ndindex(values.shape[:-1]):
        out[at] = np.searchsorted(ordered[at], values[at], side)
    return out


def _searchsorted_samples(dtype: DType, rng: np.random.Generator) -> Iterator[Sample]:
    shapes: tuple[tuple[Shape, Shape], ...] = (
        ((5,), (3,)), ((5,), (2, 3)), ((5,), ()), ((2, 4), (2, 3)), ((0,), (2,)), ((3,), (0,)),
    )  # fmt: skip
    for ordered, values in shapes:
        for right in (False, True):
            row = np.sort(_comparable(draw(dtype, rng, ordered)), axis=-1).astype(dtype.numpy)
            yield Sample((row, draw(dtype, rng, values)), {"right": right})


# The entries

sort = Primitive(
    "sort",
    type_rule=_sort_type,
    numpy=_sort,
    vjp=(_sort_vjp,),
    samples=_sort_samples,
    errors=lambda: (
        ErrorSample((np.zeros(3),), {"dim": 1, "descending": False}, OutOfBoundsError, "dim 1 is outside"),
        ErrorSample(
            (np.zeros(3, np.complex64),), {"dim": 0, "descending": False}, DTypeError, "complex64 is not supported"
        ),
    ),
    dtypes=_ORDERED,
    torch=lambda torch, x, *, dim, descending: torch.sort(x, dim=dim, descending=descending, stable=True),
    multiple=True,
)


topk = Primitive(
    "topk",
    type_rule=_topk_type,
    numpy=_topk,
    vjp=(_sort_vjp,),
    samples=_topk_samples,
    errors=lambda: (
        ErrorSample((np.zeros(3),), {"dim": 0, "k": 4, "largest": True}, OutOfBoundsError, "k=4 elements"),
        ErrorSample((np.zeros(3),), {"dim": 0, "k": -1, "largest": True}, OutOfBoundsError, "k=-1 elements"),
    ),
    dtypes=_ORDERED,
    torch=_torch_topk,
    multiple=True,
)


searchsorted = Primitive(
    "searchsorted",
    type_rule=_searchsorted_type,
    numpy=_searchsorted,
    nondiff="positions are integers",
    samples=_searchsorted_samples,
    errors=lambda: (
        ErrorSample((np.zeros(()), np.zeros(1)), {"right": False}, ShapeError, "is 0-d"),
        ErrorSample((np.zeros((2, 3)), np.zeros((3, 3))), {"right": False}, ShapeError, "must agree"),
        ErrorSample((np.zeros(3), np.zeros(1, np.int64)), {"right": False}, DTypeError, "different dtypes"),
    ),
    dtypes=_ORDERED,
    torch=lambda torch, ordered, values, *, right: torch.searchsorted(ordered, values, right=right),
)
