"""Reading and writing at computed places: gather and scatter along a dimension, index and index_put.

Note [Indices]
Indices are int64 tensors. A negative index counts from the end, and one outside [-n, n) is an
OutOfBoundsError that names it, in every primitive of this file.

Note [Duplicates]
Where several sources meet in one place, `scatter` and `index_put` keep the last one in row-major
order, and `scatter_add` and `index_put(accumulate=True)` add them in that order: the result is the
same on every run. The derivative of an overwriting `scatter` gives every source the place's
gradient, as PyTorch's does, which is exact only where no source is overwritten by another.
"""

from __future__ import annotations

import functools
import math
from collections.abc import Iterator
from typing import Any

import numpy as np

from ..ir.dtypes import NUMBERS, REALS, DType, int64
from ..ir.errors import DTypeError, OutOfBoundsError, ShapeError, TwofoldError
from ..ir.primitive import ErrorSample, Primitive, Sample
from ..ir.types import Shape, TensorType, broadcast_shapes, contiguous_strides
from ._rules import check_dim, check_dtype, draw, unbroadcast
from .elementwise import cast, eq, where
from .movement import expand, full, pad
from .movement import slice as slice_

Array = np.ndarray[Any, Any]


# Type rules


def _check_index(op: str, *indices: TensorType) -> None:
    for index in indices:
        if index.dtype is not int64:
            raise DTypeError(
                f"indices must be int64, got {index.dtype.name}",
                op=op,
                hint="cast them: index.to(twofold.int64)",
            )


def _check_along(op: str, x: TensorType, index: TensorType, dim: int) -> None:
    """`index` must have x's rank and, except along `dim`, be no larger than x."""
    _check_index(op, index)
    check_dim(op, dim, x.ndim)
    if x.ndim != index.ndim and max(x.ndim, 1) != max(index.ndim, 1):
        raise ShapeError(
            f"the index has shape {index.shape}, but x has shape {x.shape}: their ranks must be equal",
            op=op,
            hint="unsqueeze() or expand() the index, or use index_select for one index per slice",
        )
    for d, (n, m) in enumerate(zip(x.shape, index.shape, strict=False)):
        if d != dim and m > n:
            raise ShapeError(
                f"the index has shape {index.shape}, larger than x {x.shape} in dimension {d}",
                op=op,
                hint=f"only dimension {dim} of the index may be larger than x",
            )


def _gather_type(x: TensorType, index: TensorType, *, dim: int) -> TensorType:
    _check_along("gather", x, index, dim)
    return x.with_shape(index.shape)


def _scatter_rule(op: str) -> Any:
    def rule(
        x: TensorType,
        index: TensorType,
        src: TensorType,
        *,
        dim: int,
        reduce: str = "sum",
        include_self: bool = True,
    ) -> TensorType:
        _check_along(op, x, index, dim)
        if src.dtype is not x.dtype:
            raise DTypeError(
                f"x has dtype {x.dtype.name} and src {src.dtype.name}", op=op, hint="cast one to the other's dtype"
            )
        if max(src.ndim, 1) != max(index.ndim, 1) or any(
            n < m for n, m in zip(src.shape or (1,), index.shape or (1,), strict=True)
        ):
            raise ShapeError(
                f"src has shape {src.shape}, which does not cover the index {index.shape}",
                op=op,
                hint="src needs an element for each element of the index; expand() it",
            )
        if reduce not in _REDUCE:
            raise TwofoldError(f"reduce must be one of {', '.join(_REDUCE)}, got {reduce!r}", op=op)
        if op != "scatter":
            check_dtype(op, x.dtype, NUMBERS if op == "scatter_add" else REALS)
        return x

    return rule


def _check_places(op: str, x: TensorType, indices: tuple[TensorType, ...], dims: tuple[int, ...]) -> Shape:
    """Check the indices and return the shape of `x[..., indices, ...]`."""
    _check_index(op, *indices)
    if len(indices) != len(dims) or not dims:
        raise ShapeError(f"{len(indices)} index tensors came for the dimensions {dims}", op=op)
    if list(dims) != sorted(set(dims)) or dims[0] < 0 or dims[-1] >= x.ndim:
        raise OutOfBoundsError(f"dims {dims} are not increasing dimensions of a {x.ndim}-d tensor", op=op)
    together = broadcast_shapes(*(i.shape for i in indices), op=op)
    rest = [n for d, n in enumerate(x.shape) if d not in dims]
    at = dims[0] if dims[-1] - dims[0] == len(dims) - 1 else 0
    return (*rest[:at], *together, *rest[at:])


def _index_type(x: TensorType, *indices: TensorType, dims: tuple[int, ...]) -> TensorType:
    return x.with_shape(_check_places("index", x, indices, dims))


def _index_put_type(
    x: TensorType, values: TensorType, *indices: TensorType, dims: tuple[int, ...], accumulate: bool = False
) -> TensorType:
    shape = _check_places("index_put", x, indices, dims)
    if values.dtype is not x.dtype:
        raise DTypeError(
            f"x has dtype {x.dtype.name} and the values {values.dtype.name}",
            op="index_put",
            hint="cast one to the other's dtype",
        )
    if values.ndim > len(shape) or any(
        a not in (1, b) for a, b in zip(reversed(values.shape), reversed(shape), strict=False)
    ):
        raise ShapeError(
            f"values of shape {values.shape} do not broadcast to the indexed places, which have shape {shape}",
            op="index_put",
        )
    return x


# References


def _out_of_bounds(op: str, error: IndexError, shape: Shape, indices: Any, dims: Any) -> Exception:
    """The error for the first index that is out of range, or `error` if none is."""
    for index, dim in zip(indices, dims, strict=True):
        n = shape[dim] if shape else 1
        bad = index[(index < -n) | (index >= n)]
        if bad.size:
            return OutOfBoundsError(
                f"index {bad.flat[0]} is out of bounds for dimension {dim} of size {n} (shape {tuple(shape)})",
                op=op,
                hint=f"indices must be between {-n} and {n - 1}" if n else "the dimension is empty",
            )
    return error


def along(index: Array, dim: int) -> tuple[Any, ...]:
    """The key that reads or writes places `index` along `dim`."""
    shape = index.shape
    grid = (_small_grid if max(shape) <= _SMALL else _grid)(shape)
    return (*grid[:dim], index, *grid[dim + 1 :])


def _grid(shape: Shape) -> tuple[Array, ...]:
    """The numbers of the places along each dimension, in arrays that broadcast together."""
    return tuple([np.arange(n).reshape((n,) + (1,) * (len(shape) - d - 1)) for d, n in enumerate(shape)])


_SMALL = 1 << 10
_small_grid = functools.lru_cache(256)(_grid)


def _gather(x: Array, index: Array, *, dim: int) -> Array:
    try:
        if x.ndim and index.ndim:
            return x[along(index, dim)]
        return np.atleast_1d(x)[along(np.atleast_1d(index), dim)].reshape(index.shape)
    except IndexError as e:
        raise _out_of_bounds("gather", e, x.shape, (index,), (dim,)) from None


def _cover(src: Array, index: Array) -> Array:
    """The part of `src` that `index` speaks of."""
    src = np.atleast_1d(src)
    return src if src.shape == index.shape else src[tuple([slice(n) for n in index.shape])]


def _scatter(x: Array, index: Array, src: Array, *, dim: int) -> Array:
    out = np.atleast_1d(x).copy()
    index = np.ascontiguousarray(index)  # NumPy writes in memory order, and the last write wins
    try:
        out[along(index, dim)] = np.ascontiguousarray(_cover(src, index))
    except IndexError as e:
        raise _out_of_bounds("scatter", e, x.shape, (index,), (dim,)) from None
    return out.reshape(x.shape)


def _places(op: str, shape: Shape, index: Array, dim: int) -> Array:
    """Row-major numbers, in a tensor of `shape`, of the places that `index` names along `dim`."""
    n = shape[dim]
    if index.size and (index.min() < -n or index.max() >= n):
        raise _out_of_bounds(op, IndexError(), shape, (index,), (dim,))
    key = along(np.where(index < 0, index + n, index), dim)
    strides = contiguous_strides(shape)
    return np.broadcast_to(sum(k * s for k, s in zip(key, strides, strict=True)), index.shape).reshape(-1)


_REDUCE: dict[str, Any] = {
    "sum": np.add, "prod": np.multiply, "mean": np.add, "amax": np.maximum, "amin": np.minimum,
}  # fmt: skip


def _scatter_reduce(
    x: Array, index: Array, src: Array, *, dim: int, reduce: str, include_self: bool, op: str = "scatter_reduce"
) -> Array:
    out = np.atleast_1d(x).flatten()
    index = np.atleast_1d(index)
    places = _places(op, x.shape or (1,), index, dim)
    values = _cover(src, index).reshape(-1)
    if not include_self:
        out[places] = _neutral(reduce, out.dtype)
    with np.errstate(all="ignore"):
        _REDUCE[reduce].at(out, places, values)
        if reduce == "mean":
            count = np.bincount(places, minlength=out.size) + include_self
            count = np.maximum(count, 1).astype(out.dtype)
            out = out // count if out.dtype.kind in "iu" else (out / count).astype(out.dtype)
    return out.reshape(x.shape)


def _neutral(reduce: str, dtype: Any) -> Any:
    """What leaves every value as it is under `reduce`."""
    if reduce in ("sum", "mean"):
        return 0
    if reduce == "prod":
        return 1
    if dtype.kind == "b":
        return reduce == "amin"
    if dtype.kind in "iu":
        info = np.iinfo(dtype)
        return info.min if reduce == "amax" else info.max
    return -np.inf if reduce == "amax" else np.inf


def _scatter_add(x: Array, index: Array, src: Array, *, dim: int) -> Array:
    return _scatter_reduce(x, index, src, dim=dim, reduce="sum", include_self=True, op="scatter_add")


_INT64 = np.dtype(np.int64)


def _key(ndim: int, indices: tuple[Array, ...], dims: tuple[int, ...]) -> tuple[Any, ...]:
    key: list[Any] = [slice(None)] * ndim
    for d, index in zip(dims, indices, strict=True):
        key[d] = index
    return tuple(key)


def _index(x: Array, *indices: Array, dims: tuple[int, ...]) -> Array:
    for i in indices:
        if i.dtype != _INT64:
            raise TypeError("an index that NumPy would take for something else")
    try:
        return x[indices[0]] if dims == (0,) else x[_key(x.ndim, indices, dims)]
    except IndexError as e:
        raise _out_of_bounds("index", e, x.shape, indices, dims) from None


def _index_put(x: Array, values: Array, *indices: Array, dims: tuple[int, ...], accumulate: bool = False) -> Array:
    out = x.copy()
    key = _key(x.ndim, indices, dims)
    try:
        if not accumulate:  # in row-major order of the indices, so that the last write is the same always
            out[tuple([np.array(k, order="C") if isinstance(k, np.ndarray) else k for k in key])] = values
        elif dims == (0,):
            _add_rows(out, indices[0], values)
        else:
            np.add.at(out, key, values)
    except IndexError as e:
        raise _out_of_bounds("index_put", e, x.shape, indices, dims) from None
    return out


def _add_rows(out: Array, index: Array, values: Array) -> None:
    """`out[index] += values` with repeats, for whole rows, in their order: the gradient of an embedding.

    NumPy adds single elements at once, and rows about ten times as slowly.
    """
    row = out.shape[1:]
    values = np.broadcast_to(values, index.shape + row).reshape(-1)
    index = np.where(index < 0, index + len(out), index).reshape(-1, 1)
    if index.size and not 0 <= index.min() <= index.max() < len(out):
        raise IndexError
    width = math.prod(row)
    np.add.at(out.reshape(-1), (index * width + np.arange(width)).reshape(-1), values)


def _nonzero_type(x: TensorType) -> TensorType:
    """The largest it can be: the number of rows is known only when it has run."""
    return TensorType((x.size, x.ndim), int64)


def _nonzero(x: Array) -> Array:
    if x.ndim == 0:
        return np.empty((int(bool(x)), 0), np.int64)
    return np.stack(np.nonzero(x), axis=1).astype(np.int64, copy=False)


# Derivatives


def _zeros(like: TensorType) -> Any:
    if like.size < _FEW:
        return full(shape=like.shape, value=0, dtype=like.dtype)
    return expand(full(shape=(), value=0, dtype=like.dtype), shape=like.shape)  # nobody has to copy these


_FEW = 1 << 12  # elements


def _to_src(g: Any, src: TensorType) -> Any:
    """Gradient of a `src` that may be larger than the index: zero where it was not used."""
    if g.shape == src.shape:
        return g
    low = (0,) * src.ndim
    return pad(g, low=low, high=tuple([n - m for n, m in zip(src.shape, g.shape, strict=True)]), value=0)


def _src_part(src: Any, index: Any) -> Any:
    """The elements of `src` that `index` speaks of, as a tensor of the index's shape."""
    if src.shape == index.shape:
        return src
    n = len(index.shape)
    return slice_(src, start=(0,) * n, stop=index.shape, step=(1,) * n)


def _scatter_reduce_x(
    g: Any, y: Any, x: Any, index: Any, src: Any, *, dim: int, reduce: str, include_self: bool
) -> Any:
    zeros = full(shape=index.shape, value=0, dtype=g.dtype)
    if not include_self:  # a place that something was scattered to forgets x, the others keep it
        return scatter(g, index, zeros, dim=dim)
    if reduce == "sum":
        return g
    if reduce == "mean":
        return g / _counts(g, index, dim, include_self)
    if reduce == "prod":
        return g * _scatter_prod_derivative(x, index, src, dim, include_self)[0]
    return _share_extreme(g, y, x, index, src, dim, include_self)[0]


def _scatter_reduce_src(
    g: Any, y: Any, x: Any, index: Any, src: Any, *, dim: int, reduce: str, include_self: bool
) -> Any:
    if reduce == "mean":
        g = g / _counts(g, index, dim, include_self)
    if reduce in ("sum", "mean"):
        part = gather(g, index, dim=dim)
    elif reduce == "prod":
        part = gather(g, index, dim=dim) * _scatter_prod_derivative(x, index, src, dim, include_self)[1]
    else:
        part = _share_extreme(g, y, x, index, src, dim, include_self)[1]
    return _to_src(part, TensorType(src.shape, src.dtype))


def _counts(g: Any, index: Any, dim: int, include_self: bool) -> Any:
    """How many values each place is the mean of; at least 1."""
    ones = full(shape=index.shape, value=1, dtype=g.dtype)
    base = full(shape=g.shape, value=1, dtype=g.dtype)
    if not include_self:
        base = scatter(base, index, full(shape=index.shape, value=0, dtype=g.dtype), dim=dim)
    return scatter_add(base, index, ones, dim=dim)


def _scatter_prod_derivative(x: Any, index: Any, src: Any, dim: int, include_self: bool) -> tuple[Any, Any]:
    """The product of all *other* factors, for each x and each source, without dividing by zero."""
    src = _src_part(src, index)
    x_zero, src_zero = eq(x, 0), eq(src, 0)
    base = cast(x_zero, dtype=x.dtype)
    ones = full(shape=index.shape, value=1, dtype=x.dtype)
    if not include_self:
        base = scatter(base, index, full(shape=index.shape, value=0, dtype=x.dtype), dim=dim)
    num_zeros = scatter_add(base, index, cast(src_zero, dtype=x.dtype), dim=dim)
    safe_x, safe_src = where(x_zero, 1, x), where(src_zero, ones, src)
    product = scatter_reduce(safe_x, index, safe_src, dim=dim, reduce="prod", include_self=include_self)
    zeros_there, product_there = gather(num_zeros, index, dim=dim), gather(product, index, dim=dim)
    of_x = where(eq(num_zeros - base, 0), product / safe_x, 0)
    of_src = where(eq(zeros_there - cast(src_zero, dtype=x.dtype), 0), product_there / safe_src, 0)
    return of_x, of_src


def _share_extreme(g: Any, y: Any, x: Any, index: Any, src: Any, dim: int, include_self: bool) -> tuple[Any, Any]:
    """The gradient of an extreme value, shared evenly among all that attain it."""
    from_x = cast(eq(x, y), dtype=g.dtype)
    if not include_self:
        from_x = scatter(from_x, index, full(shape=index.shape, value=0, dtype=g.dtype), dim=dim)
    from_src = cast(eq(_src_part(src, index), gather(y, index, dim=dim)), dtype=g.dtype)
    share = g / scatter_add(from_x, index, from_src, dim=dim)
    return from_x * share, from_src * gather(share, index, dim=dim)


def _index_vjp(g: Any, _y: Any, x: Any, *indices: Any, dims: tuple[int, ...]) -> list[Any]:
    return [index_put(_zeros(x), g, *indices, dims=dims, accumulate=True)] + [None] * len(indices)


def _index_put_vjp(
    g: Any, _y: Any, x: Any, values: Any, *indices: Any, dims: tuple[int, ...], accumulate: bool = False
) -> list[Any]:
    g_values = unbroadcast(index(g, *indices, dims=dims), values.shape)
    if not accumulate:
        nothing = full(shape=(), value=0, dtype=x.dtype)
        g = index_put(g, nothing, *indices, dims=dims, accumulate=False)
    return [g, g_values] + [None] * len(indices)


# Samples


def _places_for(rng: np.random.Generator, shape: Shape, n: int, *, unique: int | None = None) -> Array:
    """Random indices in [-n, n); without repeats along dimension `unique`."""
    if unique is None:
        return rng.integers(-n, max(n, 1), shape, dtype=np.int64) if n else np.zeros(shape, np.int64)
    out = np.argsort(rng.random((*shape[:unique], n, *shape[unique + 1 :])), axis=unique)
    out = out[tuple([slice(m) for m in shape])].astype(np.int64)
    return np.where(rng.random(shape) < 0.3, out - n, out)


# (shape of x, dim, shape of the index)
_GATHERS: tuple[tuple[Shape, int, Shape], ...] = (
    ((3, 4), 0, (2, 4)), ((3, 4), 1, (3, 6)), ((3, 4), 1, (2, 2)), ((2, 3, 2), 1, (2, 2, 1)), ((5,), 0, (7,)),
    ((4,), 0, (0,)), ((0, 3), 1, (0, 2)), ((), 0, ()),
)  # fmt: skip


def _gather_samples(dtype: DType, rng: np.random.Generator) -> Iterator[Sample]:
    for shape, dim, places in _GATHERS:
        n = shape[dim] if shape else 1
        yield Sample((draw(dtype, rng, shape), _places_for(rng, places, n)), {"dim": dim})


def _scatter_samples(dtype: DType, rng: np.random.Generator) -> Iterator[Sample]:
    for shape, dim, places in _GATHERS:
        unique = all(m <= n for m, n in zip(places, shape, strict=True))
        n = shape[dim] if shape else 1
        spots = _places_for(rng, places, n, unique=dim if unique and shape else None)
        for more in (0, 1):
            src = draw(dtype, rng, tuple([m + more for m in places]))
            yield Sample((draw(dtype, rng, shape), spots, src), {"dim": dim}, differentiable=unique)


def _scatter_add_samples(dtype: DType, rng: np.random.Generator) -> Iterator[Sample]:
    for shape, dim, places in _GATHERS:
        spots = _places_for(rng, places, shape[dim] if shape else 1)
        for more in (0, 1):
            src = draw(dtype, rng, tuple([m + more for m in places]))
            yield Sample((draw(dtype, rng, shape), spots, src), {"dim": dim})


def _scatter_reduce_samples(dtype: DType, rng: np.random.Generator) -> Iterator[Sample]:
    for reduce in _REDUCE:
        for include_self in (True, False):
            params = {"reduce": reduce, "include_self": include_self}
            for sample in _scatter_add_samples(dtype, rng):
                yield Sample(sample.inputs, {**sample.params, **params})


# (shape of x, dims, shapes of the indices)
_READS: tuple[tuple[Shape, tuple[int, ...], tuple[Shape, ...]], ...] = (
    ((5,), (0,), ((3,),)), ((4, 3), (0,), ((2, 2),)), ((4, 3), (1,), ((2,),)), ((4, 3), (0, 1), ((3,), (3,))),
    ((2, 3, 4), (0, 2), ((2,), (2,))), ((2, 3, 4), (1, 2), ((2, 1), (3,))), ((3, 2), (0,), ((),)),
    ((3, 2), (0, 1), ((), ())), ((3, 2), (0,), ((0,),)), ((0, 2), (1,), ((3,),)),
)  # fmt: skip


def _index_samples(dtype: DType, rng: np.random.Generator) -> Iterator[Sample]:
    for shape, dims, places in _READS:
        indices = [_places_for(rng, p, shape[d]) for d, p in zip(dims, places, strict=True)]
        yield Sample((draw(dtype, rng, shape), *indices), {"dims": dims})


def _index_put_samples(dtype: DType, rng: np.random.Generator) -> Iterator[Sample]:
    for sample in _index_samples(dtype, rng):
        x, *indices = sample.inputs
        dims = sample.params["dims"]
        spots = np.zeros(x.shape, np.int64)
        np.add.at(spots, _key(x.ndim, tuple(indices), dims), 1)
        unique = bool(spots.size == 0 or spots.max() <= 1)
        shape = _index(x, *indices, dims=dims).shape
        for values in {shape, shape[1:], ()}:
            for accumulate in (False, True) if dtype in NUMBERS else (False,):
                yield Sample(
                    (x, draw(dtype, rng, values), *indices),
                    {"dims": dims, "accumulate": accumulate},
                    differentiable=accumulate or unique,
                )


def _i(*values: Any) -> Array:
    return np.array(values, np.int64)


def _wrapped(torch: Any, x: Any, index: Any, dim: int) -> Any:
    """Indices without negative ones, which PyTorch's gather and scatter refuse."""
    return torch.where(index < 0, index + (x.shape[dim] if x.ndim else 1), index)


def _places_of_torch(x: Any, indices: Any, dims: tuple[int, ...]) -> list[Any]:
    at = dict(zip(dims, indices, strict=True))
    return [at.get(d) for d in range(dims[-1] + 1)]


# The entries

gather: Primitive = Primitive(
    "gather",
    type_rule=_gather_type,
    numpy=_gather,
    vjp=(
        lambda g, _y, _x, index, *, dim: scatter_add(_zeros(_x), index, g, dim=dim),
        lambda g, _y, _x, _index, *, dim: None,
    ),
    samples=_gather_samples,
    errors=lambda: (
        ErrorSample((np.zeros(3), _i(3)), {"dim": 0}, OutOfBoundsError, "index 3 is out of bounds"),
        ErrorSample((np.zeros(3), _i(-4)), {"dim": 0}, OutOfBoundsError, "index -4 is out of bounds"),
        ErrorSample((np.zeros(3), np.zeros(1)), {"dim": 0}, DTypeError, "indices must be int64"),
        ErrorSample((np.zeros((3, 2)), _i(0)), {"dim": 0}, ShapeError, "ranks must be equal"),
        ErrorSample((np.zeros((1, 2)), np.zeros((3, 1), np.int64)), {"dim": 1}, ShapeError, "larger than x"),
    ),
    torch=lambda torch, x, index, *, dim: torch.gather(x, dim, _wrapped(torch, x, index, dim)),
)


scatter: Primitive = Primitive(
    "scatter",
    type_rule=_scatter_rule("scatter"),
    numpy=_scatter,
    vjp=(
        lambda g, _y, _x, index, _src, *, dim: scatter(
            g, index, full(shape=index.shape, value=0, dtype=_x.dtype), dim=dim
        ),
        lambda g, _y, _x, _index, _src, *, dim: None,
        lambda g, _y, _x, index, _src, *, dim: _to_src(gather(g, index, dim=dim), _src),
    ),
    samples=_scatter_samples,
    errors=lambda: (
        ErrorSample((np.zeros(3), _i(5), np.zeros(1)), {"dim": 0}, OutOfBoundsError, "index 5 is out of bounds"),
        ErrorSample((np.zeros(3), _i(0, 1), np.zeros(1)), {"dim": 0}, ShapeError, "does not cover the index"),
        ErrorSample((np.zeros(3), _i(0), np.zeros(1, np.int64)), {"dim": 0}, DTypeError, "and src int64"),
    ),
)


scatter_add: Primitive = Primitive(
    "scatter_add",
    type_rule=_scatter_rule("scatter_add"),
    numpy=_scatter_add,
    vjp=(
        lambda g, _y, _x, _index, _src, *, dim: g,
        lambda g, _y, _x, _index, _src, *, dim: None,
        lambda g, _y, _x, index, _src, *, dim: _to_src(gather(g, index, dim=dim), _src),
    ),
    samples=_scatter_add_samples,
    errors=lambda: (
        ErrorSample((np.zeros(3), _i(-5), np.zeros(1)), {"dim": 0}, OutOfBoundsError, "index -5 is out of bounds"),
        ErrorSample((np.zeros(3), _i(0, 1), np.zeros(1)), {"dim": 0}, ShapeError, "does not cover the index"),
        ErrorSample((np.zeros(3, bool), _i(0), np.zeros(1, bool)), {"dim": 0}, DTypeError, "bool"),
    ),
    dtypes=NUMBERS,
    torch=lambda torch, x, index, src, *, dim: torch.scatter_add(x, dim, _wrapped(torch, x, index, dim), src),
)


scatter_reduce = Primitive(
    "scatter_reduce",
    type_rule=_scatter_rule("scatter_reduce"),
    numpy=_scatter_reduce,
    vjp=(
        _scatter_reduce_x,
        lambda g, _y, _x, _index, _src, **params: None,
        _scatter_reduce_src,
    ),
    samples=_scatter_reduce_samples,
    errors=lambda: (
        ErrorSample(
            (np.zeros(3), _i(3), np.zeros(1)),
            {"dim": 0, "reduce": "prod", "include_self": True},
            OutOfBoundsError,
            "index 3 is out of bounds",
        ),
        ErrorSample(
            (np.zeros(3), _i(0), np.zeros(1)),
            {"dim": 0, "reduce": "median", "include_self": True},
            TwofoldError,
            "reduce must be one of",
        ),
    ),
    dtypes=REALS,
    torch=lambda torch, x, index, src, *, dim, reduce, include_self: torch.scatter_reduce(
        x, dim, _wrapped(torch, x, index, dim), src, reduce, include_self=include_self
    ),
)


index = Primitive(
    "index",
    type_rule=_index_type,
    numpy=_index,
    vjp=_index_vjp,
    saves="i",
    checked_by_numpy=True,
    samples=_index_samples,
    errors=lambda: (
        ErrorSample((np.zeros((2, 3)), _i(0, 3)), {"dims": (1,)}, OutOfBoundsError, "index 3 is out of bounds"),
        ErrorSample((np.zeros(3), np.zeros(1, bool)), {"dims": (0,)}, DTypeError, "indices must be int64"),
        ErrorSample((np.zeros((2, 3)), _i(0, 1), _i(0, 1, 1)), {"dims": (0, 1)}, ShapeError, "do not broadcast"),
        ErrorSample((np.zeros(3), _i(0)), {"dims": (1,)}, OutOfBoundsError, "not increasing dimensions"),
    ),
    torch=lambda torch, x, *indices, dims: x[_key(x.ndim, indices, dims)],
)


index_put = Primitive(
    "index_put",
    type_rule=_index_put_type,
    numpy=_index_put,
    vjp=_index_put_vjp,
    saves="i",
    samples=_index_put_samples,
    errors=lambda: (
        ErrorSample(
            (np.zeros(3), np.zeros(1), _i(7)), {"dims": (0,)}, OutOfBoundsError, "index 7 is out of bounds"
        ),
        ErrorSample(
            (np.zeros(3), np.zeros(1), _i(-7)),
            {"dims": (0,), "accumulate": True},
            OutOfBoundsError,
            "index -7 is out of bounds",
        ),
        ErrorSample((np.zeros(3), np.zeros(2), _i(0)), {"dims": (0,)}, ShapeError, "do not broadcast"),
        ErrorSample((np.zeros(3), np.zeros(1, bool), _i(0)), {"dims": (0,)}, DTypeError, "the values bool"),
    ),
    torch=lambda torch, x, values, *indices, dims, accumulate: torch.ops.aten.index_put(
        x, _places_of_torch(x, indices, dims), values, accumulate
    ),
)


nonzero = Primitive(
    "nonzero",
    type_rule=_nonzero_type,
    numpy=_nonzero,
    nondiff="indices are integers",
    samples=lambda dtype, rng: (
        Sample((draw(dtype, rng, shape, -1, 1),)) for shape in ((5,), (2, 3), (), (0, 2), (2, 1, 2))
    ),
    torch="nonzero",
    data_dependent=True,
)
