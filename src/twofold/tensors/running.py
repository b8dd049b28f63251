"""Along one dimension: running sums, products and extremes; differences and integrals."""

from __future__ import annotations

from typing import Any

from ..autodiff.composite import composite
from ..autodiff.handle import Tensor
from ..ir.dtypes import HALVES, bool_, float32
from ..ir.errors import ShapeError, TwofoldError
from ..ir.types import canonical_dim
from ..primitives import elementwise as prim
from ..primitives import movement
from ..primitives import reduce as red
from ._registry import function
from .attributes import cast
from .binary import logaddexp
from .elementwise import floating
from .promotion import cast_to, common_dtype, tensor_operand
from .reductions import Extreme, summable
from .reductions import sum as sum_over


@function(inplace=True, dims=True)
@composite(fused=True)
def cumsum(input: Tensor, dim: int, *, dtype: Any = None) -> Tensor:
    """The sums of all elements up to each, along `dim`. Integers add up in int64.

    >>> import twofold as tw
    >>> tw.cumsum(tw.tensor([1, 2, 3]), 0)
    tensor([1, 3, 6])
    """
    x = summable(tensor_operand(input, "cumsum"), dtype)
    return red.cumsum(x, dim=canonical_dim(dim, x.ndim, op="cumsum"))


@function(inplace=True, dims=True)
def cumprod(input: Tensor, dim: int, *, dtype: Any = None) -> Tensor:
    """The products of all elements up to each, along `dim`. Integers multiply in int64.

    >>> import twofold as tw
    >>> tw.cumprod(tw.tensor([1, 2, 3]), 0)
    tensor([1, 2, 6])
    """
    x = summable(tensor_operand(input, "cumprod"), dtype)
    return red.cumprod(x, dim=canonical_dim(dim, x.ndim, op="cumprod"))


@function(dims=True)
def cummax(input: Tensor, dim: int) -> Extreme:
    """The largest element up to each, along `dim`, and the index of its latest occurrence.

    >>> import twofold as tw
    >>> tw.cummax(tw.tensor([1, 3, 2]), 0).values
    tensor([1, 3, 3])
    """
    x = tensor_operand(input, "cummax")
    return Extreme(*red.cummax(x, dim=canonical_dim(dim, x.ndim, op="cummax")))


@function(dims=True)
def cummin(input: Tensor, dim: int) -> Extreme:
    """The smallest element up to each, along `dim`, and the index of its latest occurrence.

    >>> import twofold as tw
    >>> tw.cummin(tw.tensor([3, 1, 2]), 0).values
    tensor([3, 1, 1])
    """
    x = tensor_operand(input, "cummin")
    return Extreme(*red.cummin(x, dim=canonical_dim(dim, x.ndim, op="cummin")))


@function(dims=True)
def logcumsumexp(input: Tensor, dim: int) -> Tensor:
    """`log(cumsum(exp(input)))` along `dim`, without overflow.

    Numerics: adds by doubling in log2(n) steps, each with its own maximum, so that small elements
        before a large one keep their digits.
    Source: Hillis & Steele 1986, "Data parallel algorithms" (the scan).

    >>> import twofold as tw
    >>> tw.logcumsumexp(tw.tensor([1000.0, 1000.0]), 0)
    tensor([1000.0000, 1000.6932])
    """
    x = floating(input, "logcumsumexp")
    d = canonical_dim(dim, x.ndim, op="logcumsumexp")
    out = cast(x, float32) if x.dtype in HALVES else x
    n, by = (x.shape[d] if x.ndim else 1), 1
    while by < n:
        head, tail = _part(out, d, 0, by), _part(out, d, by, n)
        out = movement.concat(head, logaddexp(tail, _part(out, d, 0, n - by)), dim=d)
        by *= 2
    return cast(out, x.dtype) if out is not x else prim.copy(x)


# --- differences and integrals ------------------------------------------------------------------


def _part(x: Tensor, dim: int, start: int, stop: int) -> Tensor:
    """The elements from `start` to `stop` along `dim`."""
    low, high = [0] * x.ndim, list(x.shape)
    low[dim], high[dim] = start, max(start, stop)
    return movement.slice(x, start=tuple(low), stop=tuple(high), step=(1,) * x.ndim)


@function
def diff(
    input: Tensor, n: int = 1, dim: int = -1, prepend: Tensor | None = None, append: Tensor | None = None
) -> Tensor:
    """Differences of neighbours along `dim`, taken `n` times.

    Args:
        prepend, append: elements to put before and after first.

    Raises: ShapeError for a 0-d tensor; TwofoldError for a negative `n`.

    >>> import twofold as tw
    >>> tw.diff(tw.tensor([1, 4, 9]))
    tensor([3, 5])
    """
    x = tensor_operand(input, "diff")
    if x.ndim == 0:
        raise ShapeError("expected at least 1 dimension, got a 0-d tensor", op="diff")
    if n < 0:
        raise TwofoldError(f"n must not be negative, got {n}", op="diff")
    d = canonical_dim(dim, x.ndim, op="diff")
    parts = [t for t in (prepend, x, append) if t is not None]
    if len(parts) > 1:
        dtype = common_dtype(*parts)
        x = movement.concat(*[cast_to(t, dtype) for t in parts], dim=d)
    for _ in range(min(n, x.shape[d])):
        high, low = _part(x, d, 1, x.shape[d]), _part(x, d, 0, x.shape[d] - 1)
        x = prim.bitwise_xor(high, low) if x.dtype is bool_ else prim.sub(high, low)
    return x


def _trapezoids(y: Tensor, x: Tensor | None, dx: Any, dim: int, op: str) -> tuple[Tensor, int]:
    """The areas between neighbouring points, and the dimension along which they lie."""
    y = floating(y, op) if x is None or not x.dtype.is_differentiable else tensor_operand(y, op)
    d = canonical_dim(dim, y.ndim, op=op)
    n = y.shape[d]
    middles = (_part(y, d, 1, n) + _part(y, d, 0, n - 1)) / 2
    if x is None:
        return middles * dx, d
    width = diff(x, dim=-1 if x.ndim == 1 else dim)
    if x.ndim == 1:
        width = movement.reshape(width, shape=(width.shape[0], *(1,) * (y.ndim - 1 - d)))
    return middles * width, d


@function(method=False, aliases=("trapz",))
def trapezoid(y: Tensor, x: Tensor | None = None, *, dx: Any = 1, dim: int = -1) -> Tensor:
    """The integral of `y` along `dim` by the trapezoidal rule.

    Args:
        x: the places of the points; else they are `dx` apart.

    >>> import twofold as tw
    >>> tw.trapezoid(tw.tensor([1.0, 2.0, 3.0]))
    tensor(4.)
    """
    areas, d = _trapezoids(y, x, dx, dim, "trapezoid")
    return sum_over(areas, d)


@function(method=False)
def cumulative_trapezoid(y: Tensor, x: Tensor | None = None, *, dx: Any = 1, dim: int = -1) -> Tensor:
    """The integral of `y` along `dim` up to each point but the first.

    >>> import twofold as tw
    >>> tw.cumulative_trapezoid(tw.tensor([1.0, 2.0, 3.0]))
    tensor([1.5000, 4.0000])
    """
    areas, d = _trapezoids(y, x, dx, dim, "cumulative_trapezoid")
    return red.cumsum(areas, dim=d)


@function(method=False)
def gradient(input: Tensor, *, spacing: Any = 1, dim: Any = None, edge_order: int = 1) -> tuple[Tensor, ...]:
    """Derivatives of samples along dimensions: central differences, one-sided at the ends.

    Args:
        spacing: the distance of neighbours, a number for all dimensions, or a number or a 1-d tensor
            of places for each.
        dim: the dimensions, all when None; the result has a tensor for each.
        edge_order: 1 or 2, the order of accuracy at the ends.

    Raises: TwofoldError for another `edge_order`; ShapeError for fewer than `edge_order + 1` samples.

    >>> import twofold as tw
    >>> tw.gradient(tw.tensor([1.0, 4.0, 9.0, 16.0]))
    (tensor([3., 4., 6., 7.]),)
    """
    x = floating(input, "gradient")
    if edge_order not in (1, 2):
        raise TwofoldError(f"edge_order must be 1 or 2, got {edge_order}", op="gradient")
    dims = range(x.ndim) if dim is None else [dim] if isinstance(dim, int) else dim
    ds = [canonical_dim(d, x.ndim, op="gradient") for d in dims]
    steps = list(spacing) if isinstance(spacing, (tuple, list)) else [spacing] * len(ds)
    if len(steps) != len(ds):
        raise TwofoldError(f"spacing has {len(steps)} entries for {len(ds)} dimensions", op="gradient")
    return tuple(_gradient(x, step, d, edge_order) for step, d in zip(steps, ds, strict=True))


def _gradient(x: Tensor, spacing: Any, dim: int, order: int) -> Tensor:
    n = x.shape[dim]
    if n < order + 1:
        raise ShapeError(f"dimension {dim} of shape {x.shape} needs at least {order + 1} samples", op="gradient")
    if isinstance(spacing, Tensor) and spacing.ndim:
        column = movement.reshape(cast(spacing, x.dtype), shape=(n, *(1,) * (x.ndim - 1 - dim)))
        h = diff(column, dim=0)
        shape = (1,) * dim + h.shape
        h = movement.reshape(h, shape=shape)
    else:
        h = movement.full(shape=(*(1,) * dim, n - 1, *(1,) * (x.ndim - 1 - dim)), value=1, dtype=x.dtype) * spacing
    slope = diff(x, dim=dim) / h
    a, b = _part(h, dim, 0, n - 2), _part(h, dim, 1, n - 1)
    left, right = _part(slope, dim, 0, n - 2), _part(slope, dim, 1, n - 1)
    middle = (b * left + a * right) / (a + b)
    first, last = _part(slope, dim, 0, 1), _part(slope, dim, n - 2, n - 1)
    if order == 2:  # the parabola through three points, at its ends
        first = first + (first - _part(slope, dim, 1, 2)) * _part(a, dim, 0, 1) / (
            _part(a, dim, 0, 1) + _part(b, dim, 0, 1)
        )
        last = last + (last - _part(slope, dim, n - 3, n - 2)) * _part(b, dim, n - 3, n - 2) / (
            _part(a, dim, n - 3, n - 2) + _part(b, dim, n - 3, n - 2)
        )
    return movement.concat(first, middle, last, dim=dim)
