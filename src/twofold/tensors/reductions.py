"""Reductions: sums, products, extremes, truth, norms. Statistics are in statistics.py."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

from ..autodiff.bind import bind
from ..autodiff.composite import composite
from ..autodiff.handle import Tensor
from ..ir.dtypes import as_dtype, bool_, int64, uint8
from ..ir.errors import DTypeError, ShapeError, TwofoldError
from ..ir.types import ALL_DIMS, Shape, broadcast_shapes, canonical_dim, canonical_dims
from ..primitives import elementwise as prim
from ..primitives import index as places
from ..primitives import movement
from ..primitives import reduce as red
from ._registry import function
from ._shapes import sizes
from ._views import reshaped
from .attributes import cast
from .binary import maximum, minimum
from .comparison import isnan, truth
from .promotion import FITS, tensor_operand

Dims = int | Sequence[int] | None


class Extreme(NamedTuple):
    """The result of `max(dim)`, `min(dim)`, `median(dim)` ...: values, and where they were."""

    values: Tensor
    indices: Tensor


class MinMax(NamedTuple):
    """The result of `aminmax`."""

    min: Tensor
    max: Tensor


def over(dim: Dims, x: Tensor, op: str) -> Shape:
    """The dimensions to reduce; None and () mean all, as in PyTorch."""
    if dim is None or (isinstance(dim, (tuple, list)) and not dim):
        return ALL_DIMS[len(x._value.shape)]
    if dim.__class__ is int:
        n = len(x._value.shape)
        if -n <= dim < n:
            return (dim % n,)
    return canonical_dims(dim, x.ndim, op=op)


def count_over(x: Tensor, dims: Shape) -> int:
    """How many elements each result of a reduction comes from."""
    shape = x._value.shape
    return math.prod([shape[d] for d in dims])


def summable(x: Tensor, dtype: Any) -> Tensor:
    """`x` in the dtype of its sum: the one asked for, int64 for integers and bools, else its own."""
    if dtype is not None:
        return cast(x, as_dtype(dtype))
    return x if FITS[x._value.dtype.kind] else cast(x, int64)  # FITS is empty for integers and bools


# --- sums and products --------------------------------------------------------------------------


@function(dims=True)
def sum(input: Tensor, dim: Dims = None, keepdim: bool = False, *, dtype: Any = None) -> Tensor:
    """The sum over dimensions, over all when `dim` is None. Integers add up in int64.

    Shapes: the reduced dimensions go, or stay with size 1 when `keepdim`.
    Raises: OutOfBoundsError for a dimension outside the tensor.

    >>> import twofold as tw
    >>> x = tw.tensor([[1, 2], [3, 4]])
    >>> x.sum(), x.sum(0)
    (tensor(10), tensor([4, 6]))
    """
    x = summable(input if isinstance(input, Tensor) else tensor_operand(input, "sum"), dtype)
    return bind(red.sum, (x,), {"dims": over(dim, x, "sum"), "keepdim": keepdim})


@function(dims=True)
def nansum(input: Tensor, dim: Dims = None, keepdim: bool = False, *, dtype: Any = None) -> Tensor:
    """The sum of the elements that are not NaN.

    >>> import twofold as tw
    >>> tw.nansum(tw.tensor([1.0, float("nan"), 2.0]))
    tensor(3.)
    """
    x = summable(tensor_operand(input, "nansum"), dtype)
    return red.sum(prim.where(isnan(x), 0, x), dims=over(dim, x, "nansum"), keepdim=keepdim)


@function(dims=True)
def prod(input: Tensor, dim: Dims = None, keepdim: bool = False, *, dtype: Any = None) -> Tensor:
    """The product over dimensions, over all when `dim` is None. Integers multiply in int64.

    >>> import twofold as tw
    >>> tw.prod(tw.tensor([[1, 2], [3, 4]]), 1)
    tensor([ 2, 12])
    """
    x = summable(tensor_operand(input, "prod"), dtype)
    return red.prod(x, dims=over(dim, x, "prod"), keepdim=keepdim)


@function(dims=True)
def count_nonzero(input: Tensor, dim: Dims = None) -> Tensor:
    """The number of elements that are not zero.

    >>> import twofold as tw
    >>> tw.count_nonzero(tw.tensor([0, 3, 0, 1]))
    tensor(2)
    """
    x = truth(tensor_operand(input, "count_nonzero"))
    return red.sum(cast(x, int64), dims=over(dim, x, "count_nonzero"), keepdim=False)


# --- truth --------------------------------------------------------------------------------------


def _truth(input: Tensor, dim: Dims, keepdim: bool, empty: bool, op: str) -> Tensor:
    x = tensor_operand(input, op)
    dims = over(dim, x, op)
    out_dtype = uint8 if x.dtype is uint8 else bool_
    x = truth(x)
    if count_over(x, dims) == 0:  # nothing is all True, and nothing of it is True
        shape = tuple(1 if i in dims else n for i, n in enumerate(x.shape) if keepdim or i not in dims)
        return movement.full(shape=shape, value=empty, dtype=out_dtype)
    reduce = red.amin if empty else red.amax
    return cast(reduce(x, dims=dims, keepdim=keepdim), out_dtype)


@function(dims=True)
@composite(fused=True)
def all(input: Tensor, dim: Dims = None, keepdim: bool = False) -> Tensor:
    """Whether all elements are not zero; True for none.

    >>> import twofold as tw
    >>> tw.all(tw.tensor([[True, False], [True, True]]), 1)
    tensor([False,  True])
    """
    return _truth(input, dim, keepdim, True, "all")


@function(dims=True)
@composite(fused=True)
def any(input: Tensor, dim: Dims = None, keepdim: bool = False) -> Tensor:
    """Whether an element is not zero; False for none.

    >>> import twofold as tw
    >>> tw.any(tw.tensor([[False, False], [True, False]]), 1)
    tensor([False,  True])
    """
    return _truth(input, dim, keepdim, False, "any")


# --- extremes -----------------------------------------------------------------------------------


@function(dims=True)
def amax(input: Tensor, dim: Dims = None, keepdim: bool = False) -> Tensor:
    """The largest element over dimensions; NaN if there is one. Ties share the gradient evenly.

    Raises: ShapeError when there are no elements to choose from.

    >>> import twofold as tw
    >>> tw.amax(tw.tensor([[1.0, 5.0], [3.0, 2.0]]), 1)
    tensor([5., 3.])
    """
    x = tensor_operand(input, "amax")
    return bind(red.amax, (x,), {"dims": over(dim, x, "amax"), "keepdim": keepdim})


@function(dims=True)
def amin(input: Tensor, dim: Dims = None, keepdim: bool = False) -> Tensor:
    """The smallest element over dimensions; NaN if there is one. Ties share the gradient evenly.

    Raises: ShapeError when there are no elements to choose from.

    >>> import twofold as tw
    >>> tw.amin(tw.tensor([[1.0, 5.0], [3.0, 2.0]]), 1)
    tensor([1., 2.])
    """
    x = tensor_operand(input, "amin")
    return bind(red.amin, (x,), {"dims": over(dim, x, "amin"), "keepdim": keepdim})


def _extreme(
    input: Tensor, dim: Any, keepdim: bool, op: str, whole: Any, at: Any, pairwise: Callable[..., Tensor]
) -> Any:
    """The three forms of `max` and `min`."""
    x = tensor_operand(input, op)
    if dim is None:
        if 0 in x.shape:
            raise ShapeError(f"shape {x.shape} has no elements, and {op} of nothing has no value", op=op)
        return bind(whole, (x,), {"dims": ALL_DIMS[x.ndim], "keepdim": keepdim})
    if isinstance(dim, Tensor):
        return pairwise(x, dim)
    return (max_along if at is red.argmax else min_along)(x, dim, keepdim)


@composite(fused=True)
def max_along(x: Tensor, dim: int, keepdim: bool) -> Extreme:
    return _extreme_along(x, dim, keepdim, "max", red.argmax)


@composite(fused=True)
def min_along(x: Tensor, dim: int, keepdim: bool) -> Extreme:
    return _extreme_along(x, dim, keepdim, "min", red.argmin)


def _extreme_along(x: Tensor, dim: int, keepdim: bool, op: str, at: Any) -> Extreme:
    d = canonical_dim(dim, x.ndim, op=op)
    indices = at(cast(x, uint8) if x.dtype is bool_ else x, dim=d, keepdim=True)
    return _picked(x, indices, d, keepdim)


def _picked(x: Tensor, indices: Tensor, dim: int, keepdim: bool) -> Extreme:
    """The elements of `x` at `indices`, which kept their dimension."""
    if not x.ndim:
        return Extreme(prim.copy(x), movement.reshape(indices, shape=()))
    values = bind(places.gather, (x, indices), {"dim": dim})
    if not keepdim:
        shape = x.shape[:dim] + x.shape[dim + 1 :]
        values, indices = reshaped(values, shape), reshaped(indices, shape)
    return Extreme(values, indices)


def _other(other: Any, dim: Any) -> Any:
    return dim if other is None else other


@function(name="max", dims=True)
def max_(input: Tensor, dim: Any = None, keepdim: bool = False, *, other: Any = None) -> Any:
    """The largest element; `max(x, dim)`: (values, indices) along `dim`; `max(x, y)`: the larger of two.

    NaN counts as the largest. With `dim` the gradient goes to the element at the index.
    Raises: ShapeError when there are no elements to choose from.

    >>> import twofold as tw
    >>> x = tw.tensor([[1.0, 5.0], [3.0, 2.0]])
    >>> x.max(), x.max(1).indices, tw.max(x, tw.tensor(2.5))
    (tensor(5.), tensor([1, 0]), tensor([[2.5000, 5.0000],
            [3.0000, 2.5000]]))
    """
    return _extreme(input, _other(other, dim), keepdim, "max", red.amax, red.argmax, maximum)


@function(name="min", dims=True)
def min_(input: Tensor, dim: Any = None, keepdim: bool = False, *, other: Any = None) -> Any:
    """The smallest element; `min(x, dim)`: (values, indices) along `dim`; `min(x, y)`: the smaller of two.

    NaN counts as the smallest. With `dim` the gradient goes to the element at the index.
    Raises: ShapeError when there are no elements to choose from.

    >>> import twofold as tw
    >>> x = tw.tensor([[1.0, 5.0], [3.0, 2.0]])
    >>> x.min(), x.min(1).values
    (tensor(1.), tensor([1., 2.]))
    """
    return _extreme(input, _other(other, dim), keepdim, "min", red.amin, red.argmin, minimum)


@function(dims=True)
def aminmax(input: Tensor, *, dim: int | None = None, keepdim: bool = False) -> MinMax:
    """The smallest and the largest element, of all or along `dim`.

    >>> import twofold as tw
    >>> tw.aminmax(tw.tensor([3, 1, 2]))
    MinMax(min=tensor(1), max=tensor(3))
    """
    return MinMax(amin(input, dim, keepdim), amax(input, dim, keepdim))


def _arg(input: Tensor, dim: int | None, keepdim: bool, op: str, at: Any) -> Tensor:
    x = tensor_operand(input, op)
    if x.dtype is bool_:
        raise DTypeError("bool has no order", op=op, hint="cast first: x.int()")
    if dim is not None:
        return at(x, dim=canonical_dim(dim, x.ndim, op=op), keepdim=keepdim)
    if 0 in x.shape:
        raise ShapeError(f"shape {x.shape} has no elements, and {op} of nothing has no value", op=op)
    flat = x if x.ndim == 1 else reshaped(x, (math.prod(x.shape),))
    out = bind(at, (flat,), {"dim": 0, "keepdim": False})
    return reshaped(out, (1,) * x.ndim) if keepdim else out


@function(dims=True)
@composite(fused=True)
def argmax(input: Tensor, dim: int | None = None, keepdim: bool = False) -> Tensor:
    """The index of the largest element, in the flattened tensor or along `dim`; the first of several.

    Raises: ShapeError when there are no elements to choose from.

    >>> import twofold as tw
    >>> x = tw.tensor([[1.0, 5.0], [3.0, 2.0]])
    >>> x.argmax(), x.argmax(1)
    (tensor(1), tensor([1, 0]))
    """
    return _arg(input, dim, keepdim, "argmax", red.argmax)


@function(dims=True)
@composite(fused=True)
def argmin(input: Tensor, dim: int | None = None, keepdim: bool = False) -> Tensor:
    """The index of the smallest element, in the flattened tensor or along `dim`; the first of several.

    Raises: ShapeError when there are no elements to choose from.

    >>> import twofold as tw
    >>> tw.tensor([[1.0, 5.0], [3.0, 2.0]]).argmin(0)
    tensor([0, 1])
    """
    return _arg(input, dim, keepdim, "argmin", red.argmin)


# --- norms --------------------------------------------------------------------------------------


def vector_norm(x: Tensor, p: float, dims: Shape, keepdim: bool) -> Tensor:
    """The p-norm over dimensions; p may be 0, infinite or negative. The derivative at 0 is 0."""
    if not x.ndim or p == 1:
        size = prim.abs(x)
        return red.sum(size, dims=dims, keepdim=keepdim)
    if p == 0:
        return red.sum(cast(prim.ne(x, 0), x.dtype.to_real()), dims=dims, keepdim=keepdim)
    if math.isinf(p):
        if count_over(x, dims) == 0:
            raise ShapeError(f"shape {x.shape} has no elements, and its infinity norm has no value", op="norm")
        return (red.amax if p > 0 else red.amin)(prim.abs(x), dims=dims, keepdim=keepdim)
    if p == 2:
        squares = x * x if not x.dtype.is_complex else prim.real(x * prim.conj(x))
        return _root(red.sum(squares, dims=dims, keepdim=keepdim), prim.sqrt)
    powers = prim.pow(_positive(prim.abs(x)) if p < 2 else prim.abs(x), float(p))
    return _root(red.sum(powers, dims=dims, keepdim=keepdim), lambda s: prim.pow(s, 1.0 / p))


def _positive(size: Tensor) -> Tensor:
    """Magnitudes whose derivative at 0 is cut off, where the power's would be infinite."""
    return prim.where(prim.eq(size, 0), 0, size)


def _root(total: Tensor, root: Callable[[Tensor], Tensor]) -> Tensor:
    """A root that is 0 at 0 with derivative 0, instead of an infinite one."""
    zero = prim.eq(total, 0)
    return prim.where(zero, 0, root(prim.where(zero, 1, total)))


@function(dims=True)
@composite(fused=True, gathers=True)
def norm(input: Tensor, p: Any = "fro", dim: Dims = None, keepdim: bool = False, *, dtype: Any = None) -> Tensor:
    """The p-norm of the elements, over all or over `dim`.

    Args:
        p: a number, `inf`, `-inf` or "fro" (2). 0 counts the elements that are not zero.

    Raises: DTypeError for integers; TwofoldError for another `p`.

    >>> import twofold as tw
    >>> tw.norm(tw.tensor([3.0, 4.0])), tw.norm(tw.tensor([3.0, -4.0]), 1)
    (tensor(5.), tensor(7.))
    """
    x = tensor_operand(input, "norm")
    if dtype is not None:
        x = cast(x, as_dtype(dtype))
    if not x.dtype.is_differentiable:
        raise DTypeError(f"expected a floating tensor, got {x.dtype.name}", op="norm", hint="x.float().norm()")
    if p is None or p == "fro":
        p = 2
    if isinstance(p, str):
        raise TwofoldError(f"p={p!r} is not a vector norm", op="norm", hint='give a number or "fro"')
    return vector_norm(x, float(p), over(dim, x, "norm"), keepdim)


@function
def dist(input: Tensor, other: Tensor, p: float = 2) -> Tensor:
    """The p-norm of `input - other`.

    Shapes: any that broadcast together.

    >>> import twofold as tw
    >>> tw.dist(tw.tensor([1.0, 1.0]), tw.tensor([4.0, 5.0]))
    tensor(5.)
    """
    return norm(input - other, p)


@function(module=False)
def sum_to_size(self: Tensor, *size: Any) -> Tensor:
    """The sum over the dimensions along which `size` would have to be broadcast to this shape.

    Raises: ShapeError when `size` does not broadcast to it.

    >>> import twofold as tw
    >>> tw.ones(2, 3).sum_to_size(1, 3)
    tensor([[2., 2., 2.]])
    """
    want = sizes(size, "sum_to_size")
    if len(want) > self.ndim or broadcast_shapes(want, self.shape) != self.shape:
        raise ShapeError(f"size {want} does not broadcast to shape {self.shape}", op="sum_to_size")
    lead = self.ndim - len(want)
    dims = tuple(i for i, n in enumerate(self.shape) if i < lead or (want[i - lead] == 1 and n != 1))
    return movement.reshape(red.sum(self, dims=dims, keepdim=True), shape=want)


@function(inplace=True)
def renorm(input: Tensor, p: float, dim: int, maxnorm: float) -> Tensor:
    """Slices along `dim` scaled down so that their p-norm is at most `maxnorm`.

    >>> import twofold as tw
    >>> tw.renorm(tw.tensor([[3.0, 4.0], [0.3, 0.4]]), 2, 0, 1.0)
    tensor([[0.6000, 0.8000],
            [0.3000, 0.4000]])
    """
    x = tensor_operand(input, "renorm")
    d = canonical_dim(dim, x.ndim, op="renorm")
    norms = vector_norm(x, float(p), tuple(i for i in range(x.ndim) if i != d), True)
    scale = prim.where(prim.gt(norms, maxnorm), maxnorm / (norms + 1e-7), 1)
    return x * scale
