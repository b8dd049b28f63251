"""Reductions over dimensions, and running sums, products and extremes along one.

Note [Accumulation]
float16 and bfloat16 accumulate in float32. NumPy sums pairwise along the last dimension, with an
error that grows with the logarithm of the length; along other dimensions it adds one by one, so
long ones are summed in blocks.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any

import numpy as np

from ..ir.dtypes import BOOL, EVERY, NUMBERS, REALS, DType, float32, float64, int64
from ..ir.errors import DTypeError, OutOfBoundsError, ShapeError
from ..ir.primitive import PRIMITIVES, ErrorSample, Primitive, Sample
from ..ir.types import ALL_DIMS, Shape, TensorType
from ._rules import check_dim, check_dims, check_dtype, draw, special_values, via_float32
from .casting import cast
from .logic import eq

# --- over several dimensions --------------------------------------------------------------------


def _reduced(shape: Shape, dims: Shape, keepdim: bool) -> Shape:
    if keepdim:
        return tuple(1 if i in dims else n for i, n in enumerate(shape))
    return tuple(n for i, n in enumerate(shape) if i not in dims)


def _reduce_rule(op: str, dtypes: frozenset[DType], *, empty: bool) -> Callable[..., TensorType]:
    def rule(x: TensorType, *, dims: Shape, keepdim: bool) -> TensorType:
        check_dtype(op, x.dtype, dtypes)
        check_dims(op, dims, x.ndim)
        if not empty and any(x.shape[d] == 0 for d in dims):
            raise ShapeError(
                f"shape {x.shape} has no elements along dims {dims}, and {op} of nothing has no value",
                op=op,
                hint="make sure that the reduced dimensions are not empty",
            )
        return x.with_shape(_reduced(x.shape, dims, keepdim))

    return rule


def _spread(t: Any, shape: Shape, dims: Shape, keepdim: bool) -> Any:
    """A reduced tensor with its dimensions of size 1 put back; it broadcasts against `shape`."""
    return t if keepdim else PRIMITIVES["reshape"](t, shape=_reduced(shape, dims, True))


def _reduce_samples(*, empty: bool = True, special: bool = True, low: float = -3, high: float = 3) -> Any:
    cases: list[tuple[Shape, Shape]] = [
        ((2, 3), (0,)),
        ((2, 3), (1,)),
        ((2, 3), (0, 1)),
        ((2, 3), ()),
        ((2, 1, 3), (0, 2)),
        ((), ()),
        ((2, 0), (0,)),
    ]
    if empty:
        cases += [((0,), (0,)), ((0, 3), (0,)), ((2, 0), (0, 1))]

    def samples(dtype: DType, rng: np.random.Generator) -> Iterator[Sample]:
        for shape, dims in cases:
            for keepdim in (False, True):
                x = draw(dtype, rng, shape, low, high)
                yield Sample((x,), {"dims": dims, "keepdim": keepdim}, differentiable=_no_ties(x))
        if special:
            for v in special_values(dtype):
                yield Sample(
                    (np.array([1, v], dtype.numpy),), {"dims": (0,), "keepdim": False}, differentiable=False
                )

    return samples


def _no_ties(x: Any) -> bool:
    return len(np.unique(x)) == x.size


def _reduce_errors(dtypes: frozenset[DType], *, empty: bool) -> Callable[[], list[ErrorSample]]:
    def errors() -> list[ErrorSample]:
        x = np.ones((2, 0), np.float32)
        out = [
            ErrorSample((x,), {"dims": (2,), "keepdim": False}, OutOfBoundsError, "outside a 2-d tensor"),
            ErrorSample((x,), {"dims": (1, 0), "keepdim": False}, ShapeError, "sorted and without repeats"),
            ErrorSample((x,), {"dims": 0, "keepdim": False}, ShapeError, "must be a tuple"),
        ]
        if not empty:
            out.append(ErrorSample((x,), {"dims": (1,), "keepdim": True}, ShapeError, "no elements"))
        bad = next((d for d in EVERY if d not in dtypes), None)
        if bad is not None:
            y = np.ones(2, bad.numpy)
            out.append(ErrorSample((y,), {"dims": (0,), "keepdim": False}, DTypeError, "not supported"))
        return out

    return errors


def _reduction(
    name: str,
    numpy: Callable[..., Any],
    derivative: Callable[..., Any],
    dtypes: frozenset[DType],
    *,
    empty: bool = True,
    torch: Any,
    checked_by_numpy: bool = False,
) -> Primitive:
    return Primitive(
        name,
        type_rule=_reduce_rule(name, dtypes, empty=empty),
        numpy=numpy,
        vjp=(derivative,),
        samples=_reduce_samples(empty=empty),
        errors=_reduce_errors(dtypes, empty=empty),
        dtypes=dtypes,
        torch=torch,
        checked_by_numpy=checked_by_numpy,
    )


_LONG = 1 << 10


_FLOAT, _DOUBLE = float32.numpy, float64.numpy


def _check_order(dims: Shape) -> None:
    """Refuse what NumPy would take: other orders, and numbers that count from the end."""
    previous = -1
    for d in dims:
        if d <= previous:
            raise ValueError
        previous = d


def _sum(x: Any, *, dims: Shape, keepdim: bool) -> Any:
    kind = x.dtype
    single = kind is _FLOAT or kind is _DOUBLE
    if single and dims == ALL_DIMS[x.ndim]:
        return np.add.reduce(x, None, None, None, keepdim)  # type: ignore[call-overload]
    _check_order(dims)
    if single and dims and dims[-1] == x.ndim - 1:
        return np.add.reduce(x, dims, None, None, keepdim)  # type: ignore[call-overload]
    if kind.kind == "b":
        raise TypeError  # NumPy would take "or"
    return _sum_of_any(x, dims=dims, keepdim=keepdim)


@via_float32
def _sum_of_any(x: Any, *, dims: Shape, keepdim: bool) -> Any:
    if dims and dims[-1] != x.ndim - 1 and x.shape[dims[-1]] > _LONG and x.dtype.kind in "fc":
        return _sum_in_blocks(x, dims, keepdim)
    return np.add.reduce(x, axis=dims, dtype=x.dtype, keepdims=keepdim)  # type: ignore[call-overload]


def _sum_in_blocks(x: Any, dims: Shape, keepdim: bool) -> Any:
    """Sums along a long dimension that is not the last, where NumPy would add one by one."""
    d = dims[-1]
    whole = x.shape[d] // _LONG * _LONG
    before = (slice(None),) * d
    blocks = x[(*before, slice(whole))].reshape(*x.shape[:d], -1, _LONG, *x.shape[d + 1 :])
    parts = np.add.reduce(blocks, axis=d + 1)
    rest = np.add.reduce(x[(*before, slice(whole, None))], axis=d, keepdims=True)
    return _sum_of_any(np.concatenate((parts, rest), axis=d), dims=dims, keepdim=keepdim)


def _sum_rule(g: Any, _y: Any, _x: Any, *, dims: Shape, keepdim: bool) -> Any:
    return PRIMITIVES["expand"](_spread(g, _x.shape, dims, keepdim), shape=_x.shape)


sum = _reduction(
    "sum",
    _sum,
    _sum_rule,
    NUMBERS,
    torch=lambda torch, x, dims, keepdim: (
        torch.sum(x, dims, keepdim, dtype=x.dtype) if dims else x.clone()  # PyTorch takes () as all
    ),
    checked_by_numpy=True,
)


def _prod_torch(torch: Any, x: Any, dims: Shape, keepdim: bool) -> Any:
    for d in reversed(dims):
        x = torch.prod(x, d, keepdim, dtype=x.dtype)
    return x.clone()


@via_float32
def _prod(x: Any, *, dims: Shape, keepdim: bool) -> Any:
    return np.multiply.reduce(x, axis=dims, dtype=x.dtype, keepdims=keepdim)  # type: ignore[call-overload]


def _prod_rule(g: Any, _y: Any, x: Any, *, dims: Shape, keepdim: bool) -> Any:
    """g times the product of all *other* elements, from products before and after each element.

    Dividing the product by x would fail at zeros, and in the derivative of this rule, too.
    """
    kept = tuple(d for d in range(x.ndim) if d not in dims)
    rows = PRIMITIVES["permute"](x, dims=kept + dims)
    front = rows.shape[: len(kept)]
    count = int(np.prod(rows.shape[len(kept) :], dtype=np.int64))
    flat = PRIMITIVES["reshape"](rows, shape=(*front, count))
    others = _products_before(flat) * PRIMITIVES["flip"](
        _products_before(PRIMITIVES["flip"](flat, dims=(len(front),))), dims=(len(front),)
    )
    others = PRIMITIVES["reshape"](others, shape=rows.shape)
    order = kept + dims
    others = PRIMITIVES["permute"](others, dims=tuple(order.index(d) for d in range(x.ndim)))
    return _spread(g, x.shape, dims, keepdim) * others


def _products_before(x: Any) -> Any:
    """Along the last dimension, the product of all elements before each: [1, x0, x0 x1 ...]."""
    n, last = x.shape[-1], x.ndim - 1
    if n == 0:
        return x
    zeros = (0,) * last
    shifted = PRIMITIVES["pad"](
        PRIMITIVES["slice"](x, start=(0,) * x.ndim, stop=(*x.shape[:-1], n - 1), step=(1,) * x.ndim),
        low=(*zeros, 1),
        high=(*zeros, 0),
        value=1,
    )
    return cumprod(shifted, dim=last)


prod = _reduction("prod", _prod, _prod_rule, NUMBERS, torch=_prod_torch)


def _extreme_rule(g: Any, y: Any, x: Any, *, dims: Shape, keepdim: bool) -> Any:
    """Elements that attain the extreme share its gradient evenly."""
    hits = cast(eq(x, _spread(y, x.shape, dims, keepdim)), dtype=x.dtype)
    share = hits / sum(hits, dims=dims, keepdim=True)
    return _spread(g, x.shape, dims, keepdim) * share


def _extreme_torch(name: str) -> Callable[..., Any]:
    return lambda torch, x, dims, keepdim: getattr(torch, name)(x, dims, keepdim) if dims else x.clone()


def _extreme(ufunc: np.ufunc) -> Callable[..., Any]:
    def run(x: Any, *, dims: Shape, keepdim: bool) -> Any:
        _check_order(dims)
        if x.dtype.kind == "c":
            raise TypeError  # NumPy orders complex numbers by their real parts first
        return ufunc.reduce(x, axis=dims, keepdims=keepdim)

    return run


amax = _reduction(
    "amax",
    _extreme(np.maximum),
    _extreme_rule,
    REALS | BOOL,
    empty=False,
    torch=_extreme_torch("amax"),
    checked_by_numpy=True,
)
amin = _reduction(
    "amin",
    _extreme(np.minimum),
    _extreme_rule,
    REALS | BOOL,
    empty=False,
    torch=_extreme_torch("amin"),
    checked_by_numpy=True,
)

# --- along one dimension ------------------------------------------------------------------------


def _along_samples(**more: Any) -> Any:
    """Samples for operations along one dimension; `more` are further params."""
    cases: tuple[tuple[Shape, int], ...] = (
        ((2, 3), 0),
        ((2, 3), 1),
        ((4,), 0),
        ((), 0),
        ((2, 1, 3), 2),
        ((0, 2), 1),
    )

    def samples(dtype: DType, rng: np.random.Generator) -> Iterator[Sample]:
        for shape, dim in cases:
            x = draw(dtype, rng, shape)
            yield Sample((x,), {"dim": dim, **more}, differentiable=_no_ties(x))
        for v in special_values(dtype):
            yield Sample((np.array([1, v, 1, 1], dtype.numpy),), {"dim": 0, **more}, differentiable=False)

    return samples


def _along_errors(dtypes: frozenset[DType], **more: Any) -> Callable[[], list[ErrorSample]]:
    def errors() -> list[ErrorSample]:
        x = np.ones((2, 3), np.float32)
        out = [
            ErrorSample((x,), {"dim": 2, **more}, OutOfBoundsError, "outside a 2-d tensor"),
            ErrorSample((x,), {"dim": -1, **more}, OutOfBoundsError, "outside a 2-d tensor"),
        ]
        bad = next((d for d in EVERY if d not in dtypes), None)
        if bad is not None:
            out.append(ErrorSample((np.ones(2, bad.numpy),), {"dim": 0, **more}, DTypeError, "not supported"))
        return out

    return errors


def _arg_extreme(name: str, numpy: Callable[..., Any]) -> Primitive:
    """argmax or argmin: the first index of the extreme; NaN counts as the extreme."""

    def rule(x: TensorType, *, dim: int, keepdim: bool) -> TensorType:
        check_dtype(name, x.dtype, REALS)
        check_dim(name, dim, x.ndim)
        if x.ndim and x.shape[dim] == 0:
            raise ShapeError(f"shape {x.shape} has no elements along dim {dim}", op=name)
        return TensorType(_reduced(x.shape, (dim,), keepdim), int64)

    def run(x: Any, *, dim: int, keepdim: bool) -> Any:
        return np.asarray(numpy(x, axis=dim if x.ndim else None, keepdims=keepdim), np.int64)

    def samples(dtype: DType, rng: np.random.Generator) -> Iterator[Sample]:
        yield from _along_samples(keepdim=False)(dtype, rng)
        yield from _along_samples(keepdim=True)(dtype, rng)

    errors = _along_errors(REALS, keepdim=False)
    empty = ErrorSample((np.ones((2, 0), np.float32),), {"dim": 1, "keepdim": False}, ShapeError, "no elements")
    return Primitive(
        name,
        type_rule=rule,
        numpy=run,
        nondiff="the result is an index",
        samples=samples,
        errors=lambda: [*errors(), empty],
        dtypes=REALS,
        torch=name,
    )


argmax = _arg_extreme("argmax", np.argmax)
argmin = _arg_extreme("argmin", np.argmin)


def _scan_rule(op: str, dtypes: frozenset[DType]) -> Callable[..., TensorType]:
    def rule(x: TensorType, *, dim: int) -> TensorType:
        check_dtype(op, x.dtype, dtypes)
        check_dim(op, dim, x.ndim)
        return x

    return rule


def _scan(name: str, ufunc: np.ufunc, derivative: Callable[..., Any]) -> Primitive:
    """Declare a running sum or product."""

    def run(x: Any, *, dim: int) -> Any:
        return ufunc.accumulate(x, axis=dim, dtype=x.dtype) if x.ndim else x.copy()

    return Primitive(
        name,
        type_rule=_scan_rule(name, NUMBERS),
        numpy=via_float32(run),
        vjp=(derivative,),
        samples=_along_samples(),
        errors=_along_errors(NUMBERS),
        dtypes=NUMBERS,
        torch=lambda torch, x, dim: getattr(torch, name)(x, dim, dtype=x.dtype),
    )


def _flip(x: Any, dim: int) -> Any:
    return PRIMITIVES["flip"](x, dims=(dim,)) if x.ndim else x


def _cumsum_rule(g: Any, _y: Any, _x: Any, *, dim: int) -> Any:
    return _flip(cumsum(_flip(g, dim), dim=dim), dim)


cumsum = _scan("cumsum", np.add, _cumsum_rule)


def _shift(x: Any, dim: int, by: int, fill: int) -> Any:
    """`x` moved along `dim` by `by` places towards higher indices, with `fill` moved in."""
    start, stop, low, high = [0] * x.ndim, list(x.shape), [0] * x.ndim, [0] * x.ndim
    if by > 0:
        stop[dim] -= by
        low[dim] = by
    else:
        start[dim] = -by
        high[dim] = -by
    part = PRIMITIVES["slice"](x, start=tuple(start), stop=tuple(stop), step=(1,) * x.ndim)
    return PRIMITIVES["pad"](part, low=tuple(low), high=tuple(high), value=fill)


def _cumprod_rule(g: Any, _y: Any, x: Any, *, dim: int) -> Any:
    """The derivative of the running product computed by doubling, y <- y * shift(y, 2^k).

    It takes log2(n) steps and never divides, so zeros need no case of their own at any order.
    Source: Hillis & Steele 1986, "Data parallel algorithms" (the scan).
    """
    n = x.shape[dim] if x.ndim else 1
    steps = []
    by = 1
    while by < n:
        shifted = _shift(x, dim, by, 1)
        steps.append((by, x, shifted))
        x = x * shifted
        by *= 2
    for by, y, shifted in reversed(steps):
        g = g * shifted + _shift(g * y, dim, -by, 0)
    return g


cumprod = _scan("cumprod", np.multiply, _cumprod_rule)


def _cumulative_extreme(name: str, ufunc: np.ufunc) -> Primitive:
    """Declare cummax or cummin: values, and the index of the latest element that attained them."""
    rule = _scan_rule(name, REALS | BOOL)

    def type_rule(x: TensorType, *, dim: int) -> tuple[TensorType, TensorType]:
        return rule(x, dim=dim), x.with_dtype(int64)

    def run(x: Any, *, dim: int) -> Any:
        if not x.ndim:
            return x.copy(), np.zeros((), np.int64)
        values = ufunc.accumulate(x, axis=dim)
        at = np.arange(x.shape[dim]).reshape(-1, *[1] * (x.ndim - 1 - dim))
        hits = np.where((x == values) | (x != x), at, 0)
        return values, np.maximum.accumulate(hits, axis=dim)

    def vjp(g: Any, y: Any, _x: Any, *, dim: int) -> Any:
        if not _x.shape:
            return g[0]
        zeros = PRIMITIVES["full"](shape=_x.shape, value=0, dtype=_x.dtype)
        return PRIMITIVES["scatter_add"](zeros, y[1], g[0], dim=dim)

    return Primitive(
        name,
        type_rule=type_rule,
        numpy=run,
        vjp=(vjp,),
        samples=_along_samples(),
        errors=_along_errors(REALS | BOOL),
        dtypes=REALS | BOOL,
        torch=name,
        multiple=True,
    )


cummax = _cumulative_extreme("cummax", np.maximum)
cummin = _cumulative_extreme("cummin", np.minimum)
