"""Order and counting: sort, topk, median and quantiles, unique, searchsorted, bincount, histc.

Sorting is stable in both directions, and NaN counts as greater than every number.
"""

from __future__ import annotations

import math
from typing import Any, NamedTuple

import numpy as np

from ..autodiff.composite import composite
from ..autodiff.handle import Tensor, wrap
from ..ir.dtypes import DType, float32, float64, int32, int64, promote
from ..ir.errors import DTypeError, OutOfBoundsError, ShapeError, TwofoldError
from ..ir.types import canonical_dim
from ..primitives import elementwise as E
from ..primitives import index as I
from ..primitives import movement as M
from ..primitives import reduce as R
from ..primitives import sort as S
from ._keys import array_of
from ._registry import function
from .promotion import cast_to, common_dtype, operand, tensor_operand

Array = np.ndarray[Any, Any]


class Ordered(NamedTuple):
    """Elements of a tensor, and where along the dimension they stood."""

    values: Tensor
    indices: Tensor


# --- sorting -------------------------------------------------------------------------------------


@function(dims=True)
@composite(fused=True)
def sort(input: Tensor, dim: int = -1, descending: bool = False, stable: bool = True) -> Ordered:
    """The elements in order along `dim`, and the places they came from.

    Equal elements keep their order (`stable` is accepted for PyTorch's sake and always true); NaN
    comes after all numbers, or before them when descending.

    >>> import twofold as tw
    >>> values, indices = tw.tensor([3, 1, 2]).sort()
    >>> values, indices
    (tensor([1, 2, 3]), tensor([1, 2, 0]))
    """
    input = tensor_operand(input, "sort")
    return Ordered(*S.sort(input, dim=canonical_dim(dim, input.ndim, op="sort"), descending=bool(descending)))


@function(dims=True)
def argsort(input: Tensor, dim: int = -1, descending: bool = False, stable: bool = True) -> Tensor:
    """The places of the elements in order along `dim`: the second result of `sort`.

    >>> import twofold as tw
    >>> tw.tensor([3, 1, 2]).argsort(descending=True)
    tensor([0, 2, 1])
    """
    return sort(input, dim, descending).indices


@function
def msort(input: Tensor) -> Tensor:
    """The elements in order along the first dimension."""
    return sort(input, 0).values


@function(dims=True)
@composite(fused=True)
def topk(input: Tensor, k: int, dim: int = -1, largest: bool = True, sorted: bool = True) -> Ordered:
    """The k largest (or smallest) elements along `dim`, in order, and their places.

    Of equal elements the first ones are taken. The result is always sorted.
    Raises: OutOfBoundsError if k is larger than the dimension.

    >>> import twofold as tw
    >>> tw.tensor([1.0, 3.0, 2.0]).topk(2).values
    tensor([3., 2.])
    """
    input = tensor_operand(input, "topk")
    dim = canonical_dim(dim, input.ndim, op="topk")
    return Ordered(*S.topk(input, k=int(k), dim=dim, largest=bool(largest)))


def _pick(x: Tensor, places: Tensor, dim: int, keepdim: bool) -> Ordered:
    """Elements of `x` at `places` (x's shape with size 1 along `dim`); drops `dim` unless keepdim."""
    values = I.gather(x, places, dim=dim)
    if keepdim or not x.ndim:
        return Ordered(values, places)
    shape = (*x.shape[:dim], *x.shape[dim + 1 :])
    return Ordered(M.reshape(values, shape=shape), M.reshape(places, shape=shape))


def _nth(x: Tensor, n: int, dim: int) -> Tensor:
    """The slice number `n` along `dim`, which stays with size 1."""
    if not x.ndim:
        return x
    start = tuple([n if d == dim else 0 for d in range(x.ndim)])
    stop = tuple([n + 1 if d == dim else m for d, m in enumerate(x.shape)])
    return M.slice(x, start=start, stop=stop, step=(1,) * x.ndim)


def _size(x: Tensor, dim: int, op: str) -> int:
    n = x.shape[dim] if x.ndim else 1
    if not n:
        raise OutOfBoundsError(f"dimension {dim} of shape {x.shape} is empty, it has no {op}", op=op)
    return n


@function(dims=True)
def kthvalue(input: Tensor, k: int, dim: int = -1, keepdim: bool = False) -> Ordered:
    """The k-th smallest element along `dim` (k counts from 1), and its place.

    >>> import twofold as tw
    >>> tw.tensor([3.0, 1.0, 2.0]).kthvalue(2).values
    tensor(2.)
    """
    dim = canonical_dim(dim, input.ndim, op="kthvalue")
    n = _size(input, dim, "kthvalue")
    if not 1 <= k <= n:
        raise OutOfBoundsError(f"k={k} is not between 1 and {n}, the size of dimension {dim}", op="kthvalue")
    indices = S.sort(input, dim=dim, descending=False)[1]
    return _pick(input, _nth(indices, k - 1, dim), dim, keepdim)


# --- medians, quantiles, mode --------------------------------------------------------------------


def _num_nan(x: Tensor, dim: int) -> Tensor:
    """How many elements along `dim` are NaN; keeps the dimension."""
    bad = E.cast(E.ne(x, x), dtype=int64)
    return R.sum(bad, dims=(dim,), keepdim=True) if x.ndim else bad


def _middle(input: Tensor, dim: int | None, keepdim: bool, op: str, skip_nan: bool) -> Any:
    input = tensor_operand(input, op)
    if dim is None:
        flat = M.reshape(input, shape=(math.prod(input.shape),))
        if not flat.shape[0]:
            return M.full(shape=(), value=math.nan if input.dtype.is_floating_point else 0, dtype=input.dtype)
        return _middle(flat, 0, False, op, skip_nan).values
    dim = canonical_dim(dim, input.ndim, op=op)
    n = _size(input, dim, op)
    indices = S.sort(input, dim=dim, descending=False)[1]
    if not input.dtype.is_floating_point:
        return _pick(input, _nth(indices, (n - 1) // 2, dim), dim, keepdim)
    bad = _num_nan(input, dim)
    if skip_nan:
        rank = E.maximum(E.floor_divide(n - 1 - bad, 2), 0)
    else:  # the first NaN, if there is one
        rank = E.where(E.gt(bad, 0), n - bad, (n - 1) // 2)
    return _pick(input, I.gather(indices, rank, dim=dim), dim, keepdim)


@function(dims=True)
def median(input: Tensor, dim: int | None = None, keepdim: bool = False) -> Any:
    """The middle element, the lower one of two; with `dim` also its place. NaN if any is NaN.

    The gradient goes to the element that was picked.

    >>> import twofold as tw
    >>> tw.tensor([4.0, 1.0, 3.0, 2.0]).median()
    tensor(2.)
    """
    return _middle(input, dim, keepdim, "median", skip_nan=False)


@function(dims=True)
def nanmedian(input: Tensor, dim: int | None = None, keepdim: bool = False) -> Any:
    """The median of the elements that are not NaN.

    >>> import twofold as tw
    >>> tw.tensor([1.0, float("nan"), 3.0]).nanmedian()
    tensor(1.)
    """
    return _middle(input, dim, keepdim, "nanmedian", skip_nan=True)


_INTERPOLATIONS = ("linear", "lower", "higher", "nearest", "midpoint")


def _quantiles(
    input: Tensor, q: Any, dim: int | None, keepdim: bool, interpolation: str, op: str, skip_nan: bool
) -> Tensor:
    if input.dtype not in (float32, float64):
        raise DTypeError(f"input must be float32 or float64, got {input.dtype.name}", op=op, hint="use x.float()")
    if interpolation not in _INTERPOLATIONS:
        raise TwofoldError(
            f"interpolation must be one of {', '.join(_INTERPOLATIONS)}, got {interpolation!r}", op=op
        )
    ndim, flat = input.ndim, dim is None
    if dim is None:
        x, dim = M.reshape(input, shape=(math.prod(input.shape),)), 0
    else:
        dim = canonical_dim(dim, ndim, op=op)
        x = input if ndim else M.reshape(input, shape=(1,))
    n = _size(x, dim, op)
    levels = _levels(q, input.dtype, op)  # (k,)
    k = levels.shape[0]
    # quantiles along the last dimension: (..., n) -> (..., k)
    x = M.permute(x, dims=(*[d for d in range(x.ndim) if d != dim], dim))
    last = x.ndim - 1
    ordered = S.sort(x, dim=last, descending=False)[0]
    bad = E.cast(_num_nan(x, last), dtype=x.dtype)  # (..., 1)
    rank = levels * (n - 1.0 - bad) if skip_nan else levels * (bad * 0.0 + (n - 1.0))
    rank = E.maximum(rank, 0.0)
    if not skip_nan:
        rank = E.where(E.gt(bad, 0.0), n - 1.0, rank)  # NaN stands last
    out = _interpolate(ordered, rank, last, interpolation)
    # (..., k) -> (k, ...), without k for a single level
    out = M.permute(out, dims=(last, *range(last)))
    rest = out.shape[1:]
    if keepdim:
        rest = (1,) * ndim if flat or not ndim else (*rest[:dim], 1, *rest[dim:])
    return M.reshape(out, shape=(k, *rest) if isinstance(q, Tensor) and q.ndim else rest)


def _levels(q: Any, dtype: DType, op: str) -> Tensor:
    if isinstance(q, Tensor):
        if q.dtype is not dtype or q.ndim > 1:
            raise DTypeError(f"q must be a number or a 0-d or 1-d {dtype.name} tensor, got {q.type_}", op=op)
        return M.reshape(q, shape=(math.prod(q.shape),))
    if not 0 <= q <= 1:
        raise OutOfBoundsError(f"q must be between 0 and 1, got {q}", op=op)
    return M.full(shape=(1,), value=float(q), dtype=dtype)


def _interpolate(ordered: Tensor, rank: Tensor, dim: int, interpolation: str) -> Tensor:
    if interpolation == "nearest":
        return I.gather(ordered, E.cast(E.round(rank), dtype=int64), dim=dim)
    low, high = E.floor(rank), E.ceil(rank)
    if interpolation == "lower":
        return I.gather(ordered, E.cast(low, dtype=int64), dim=dim)
    if interpolation == "higher":
        return I.gather(ordered, E.cast(high, dtype=int64), dim=dim)
    a = I.gather(ordered, E.cast(low, dtype=int64), dim=dim)
    b = I.gather(ordered, E.cast(high, dtype=int64), dim=dim)
    weight = 0.5 if interpolation == "midpoint" else rank - low
    return E.where(E.eq(low, high) | E.eq(a, b), a, _mix(a, b, weight))  # keeps infinities


def _mix(a: Tensor, b: Tensor, weight: Any) -> Tensor:
    """From `a` to `b`, counted from the nearer one: exact at both ends."""
    if not isinstance(weight, Tensor):
        return b - (b - a) * weight
    return E.where(E.lt(weight, 0.5), a + (b - a) * weight, b - (b - a) * (1.0 - weight))


@function(dims=True)
def quantile(
    input: Tensor, q: Any, dim: int | None = None, keepdim: bool = False, *, interpolation: str = "linear"
) -> Tensor:
    """The q-quantiles along `dim` (of all elements for None); NaN where an element is NaN.

    Shapes: q a number or 0-d -> input's shape without `dim`; q (k,) -> k comes first.
    Raises: DTypeError unless input is float32 or float64 and q of the same dtype.

    >>> import twofold as tw
    >>> tw.tensor([1.0, 2.0, 4.0]).quantile(0.75)
    tensor(3.)
    """
    return _quantiles(input, q, dim, keepdim, interpolation, "quantile", skip_nan=False)


@function(dims=True)
def nanquantile(
    input: Tensor, q: Any, dim: int | None = None, keepdim: bool = False, *, interpolation: str = "linear"
) -> Tensor:
    """The q-quantiles of the elements that are not NaN; see `quantile`.

    >>> import twofold as tw
    >>> tw.tensor([1.0, float("nan"), 3.0]).nanquantile(0.5)
    tensor(2.)
    """
    return _quantiles(input, q, dim, keepdim, interpolation, "nanquantile", skip_nan=True)


@function(dims=True)
def mode(input: Tensor, dim: int = -1, keepdim: bool = False) -> Ordered:
    """The most frequent element along `dim`, the smallest of several, and the last place it stands.

    >>> import twofold as tw
    >>> tw.tensor([2, 1, 1, 2, 3]).mode().values
    tensor(1)
    """
    dim = canonical_dim(dim, input.ndim, op="mode")
    n = _size(input, dim, "mode")
    ordered, indices = S.sort(input, dim=dim, descending=False)
    if not input.ndim or n == 1:
        return _pick(input, indices, dim, keepdim)
    shape = tuple([n if d == dim else 1 for d in range(input.ndim)])
    place = M.reshape(M.iota(size=n, dtype=int64), shape=shape)
    ones = (1,) * input.ndim
    zeros = (0,) * input.ndim
    after = M.slice(ordered, start=tuple([int(d == dim) for d in range(input.ndim)]), stop=input.shape, step=ones)
    before = M.slice(
        ordered, start=zeros, stop=tuple([m - (d == dim) for d, m in enumerate(input.shape)]), step=ones
    )
    new = M.pad(E.ne(after, before), low=tuple([int(d == dim) for d in range(input.ndim)]), high=zeros, value=True)
    start = R.cummax(E.where(new, place, 0), dim=dim)[0]
    best = R.argmax(place - start, dim=dim, keepdim=True)  # the end of the longest run of equals
    return _pick(input, I.gather(indices, best, dim=dim), dim, keepdim)


# --- unique --------------------------------------------------------------------------------------

_UNIQUE_HINT = "do this outside the traced function"


def _sortable(x: Array) -> Array:
    return x.astype(np.float32) if x.dtype.kind == "V" or x.dtype.name == "bfloat16" else x


def _results(values: Tensor, inverse: Array | None, counts: Array | None) -> Any:
    extra = [wrap(np.ascontiguousarray(a.astype(np.int64))) for a in (inverse, counts) if a is not None]
    return (values, *extra) if extra else values


@function(dims=True)
def unique(
    input: Tensor,
    sorted: bool = True,
    return_inverse: bool = False,
    return_counts: bool = False,
    dim: int | None = None,
) -> Any:
    """The different elements in order (different slices along `dim`, if it is given).

    With `return_inverse` also where each element went, with `return_counts` how often each one came.
    Every NaN is different from all others.
    Raises: TraceError while tracing: the result's size depends on values.

    >>> import twofold as tw
    >>> tw.tensor([3, 1, 3]).unique(return_counts=True)
    (tensor([1, 3]), tensor([1, 2]))
    """
    array = _sortable(array_of(input, "unique", _UNIQUE_HINT))
    axis = None if dim is None else canonical_dim(dim, input.ndim, op="unique")
    values, inverse, counts = np.unique(array, return_inverse=True, return_counts=True, axis=axis, equal_nan=False)
    inverse = inverse.reshape(array.shape if axis is None else -1)
    out = wrap(np.ascontiguousarray(values.astype(input.dtype.numpy, copy=False)))
    return _results(out, inverse if return_inverse else None, counts if return_counts else None)


@function(dims=True)
def unique_consecutive(
    input: Tensor, return_inverse: bool = False, return_counts: bool = False, dim: int | None = None
) -> Any:
    """The first of every run of equal elements (or equal slices along `dim`).

    >>> import twofold as tw
    >>> tw.tensor([1, 1, 2, 1]).unique_consecutive()
    tensor([1, 2, 1])
    """
    array = array_of(input, "unique_consecutive", _UNIQUE_HINT)
    if dim is None:
        rows, axis = array.reshape(-1, 1), 0
    else:
        axis = canonical_dim(dim, input.ndim, op="unique_consecutive")
        moved = np.moveaxis(array, axis, 0)
        rows = moved.reshape(moved.shape[0], math.prod(moved.shape[1:]))
    first = np.ones(len(rows), bool)
    first[1:] = (rows[1:] != rows[:-1]).any(axis=1)
    starts = np.flatnonzero(first)
    values = (array.reshape(-1) if dim is None else array).take(starts, axis=axis)
    inverse = np.cumsum(first) - 1
    inverse = inverse.reshape(array.shape) if dim is None else inverse
    counts = np.diff(np.append(starts, len(rows)))
    out = wrap(np.ascontiguousarray(values))
    return _results(out, inverse if return_inverse else None, counts if return_counts else None)


# --- searching and counting ----------------------------------------------------------------------


@function
def searchsorted(
    sorted_sequence: Tensor,
    input: Any,
    *,
    out_int32: bool = False,
    right: bool = False,
    side: str | None = None,
    sorter: Tensor | None = None,
) -> Tensor:
    """Where to insert `input` into a sorted sequence so that it stays sorted.

    Shapes: the sequence (n,) with any input, or (..., n) with input (..., m); the result has input's
    shape. Of equal places the first, with `right` (or `side="right"`) the last one.
    Raises: ShapeError if the leading dimensions differ.

    >>> import twofold as tw
    >>> tw.searchsorted(tw.tensor([1, 3, 5]), tw.tensor([3, 6]))
    tensor([1, 3])
    """
    op = "searchsorted"
    if side not in (None, "left", "right"):
        raise TwofoldError(f"side must be 'left' or 'right', got {side!r}", op=op)
    if right and side == "left":
        raise TwofoldError("right=True and side='left' contradict each other", op=op)
    if sorter is not None:
        sorted_sequence = I.gather(sorted_sequence, sorter, dim=sorted_sequence.ndim - 1)
    values = operand(input, op)
    if not isinstance(values, Tensor):
        if sorted_sequence.ndim != 1:
            raise ShapeError(f"a number needs a 1-d sequence, got shape {sorted_sequence.shape}", op=op)
        dtype = common_dtype(sorted_sequence, values)
        values = M.full(shape=(), value=cast_to(values, dtype), dtype=dtype)
    dtype = promote(sorted_sequence.dtype, values.dtype)
    out = S.searchsorted(
        cast_to(sorted_sequence, dtype), cast_to(values, dtype), right=bool(right) or side == "right"
    )
    return E.cast(out, dtype=int32) if out_int32 else out


@function
def bucketize(input: Any, boundaries: Tensor, *, out_int32: bool = False, right: bool = False) -> Tensor:
    """The number of the bucket, between sorted 1-d `boundaries`, into which each element falls.

    Bucket i is (boundaries[i-1], boundaries[i]], with `right` [boundaries[i-1], boundaries[i]).

    >>> import twofold as tw
    >>> tw.bucketize(tw.tensor([0, 1, 4]), tw.tensor([1, 3]))
    tensor([0, 0, 2])
    """
    if boundaries.ndim != 1:
        raise ShapeError(f"boundaries must be 1-d, got shape {boundaries.shape}", op="bucketize")
    return searchsorted(boundaries, input, out_int32=out_int32, right=right)


@function
def bincount(input: Tensor, weights: Tensor | None = None, minlength: int = 0) -> Tensor:
    """How often each of 0, 1, 2 ... comes in `input`, or the sums of the weights of each.

    Shapes: (n,) integers -> (max(input) + 1 or minlength,); int64, with weights float32 or float64.
    Raises: TraceError while tracing: the size depends on values.

    >>> import twofold as tw
    >>> tw.tensor([1, 2, 1]).bincount()
    tensor([0, 2, 1])
    """
    op = "bincount"
    array = array_of(input, op, "use zeros(n).scatter_add(0, input, ones), where n is known")
    if input.dtype.kind not in ("int", "uint") or input.ndim != 1:
        raise DTypeError(f"input must be 1-d and of integers, got {input.type_}", op=op)
    if minlength < 0:
        raise OutOfBoundsError(f"minlength must not be negative, got {minlength}", op=op)
    if array.size and array.min() < 0:
        raise OutOfBoundsError(f"input must not be negative, got {array.min()}", op=op)
    if weights is None:
        return wrap(np.bincount(array.astype(np.int64), minlength=minlength).astype(np.int64))
    if weights.shape != input.shape:
        raise ShapeError(f"weights have shape {weights.shape}, input {input.shape}", op=op)
    sums = np.bincount(array.astype(np.int64), weights._value.astype(np.float64), minlength=minlength)
    return wrap(sums.astype(np.float32 if weights.dtype is float32 else np.float64))


@function
def histc(input: Tensor, bins: int = 100, min: float = 0, max: float = 0) -> Tensor:
    """How many elements fall into each of `bins` equal parts of [min, max]; others do not count.

    With min = max = 0 the range is that of the data.

    >>> import twofold as tw
    >>> tw.tensor([1.0, 2.0, 1.0]).histc(bins=4, min=0, max=3)
    tensor([0., 2., 1., 0.])
    """
    op = "histc"
    if not input.dtype.is_floating_point:
        raise DTypeError(f"input must be floating, got {input.dtype.name}", op=op, hint="use x.float()")
    if bins <= 0:
        raise OutOfBoundsError(f"bins must be positive, got {bins}", op=op)
    low, high = float(min), float(max)
    size = math.prod(input.shape)
    if low == high and size:
        array = array_of(input, op, "give min and max")
        low, high = float(array.min()), float(array.max())
    if low == high:
        low, high = low - 1, high + 1
    if not (math.isfinite(low) and math.isfinite(high)):
        raise OutOfBoundsError(f"the range from {low} to {high} is not finite", op=op)
    if low > high:
        raise OutOfBoundsError(f"max={high} must not be less than min={low}", op=op)
    x = M.reshape(input, shape=(size,))
    inside = E.ge(x, low) & E.le(x, high)
    bucket = E.floor((E.where(inside, x, low) - low) / (high - low) * float(bins))
    places = E.minimum(E.cast(bucket, dtype=int64), bins - 1)
    empty = M.full(shape=(bins,), value=0, dtype=input.dtype)
    return I.scatter_add(empty, places, E.cast(inside, dtype=input.dtype), dim=0)
