"""Mean, variance and deviation; softmax and logsumexp.

Note [Halves]
float16 and bfloat16 are computed in float32 here and rounded at the end: a sum of 70000 ones
overflows float16 although their mean does not.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from ..autodiff.bind import bind, no_record
from ..autodiff.composite import composite
from ..autodiff.handle import Tensor
from ..ir.dtypes import HALVES, as_dtype, float32
from ..ir.errors import DTypeError
from ..ir.types import Shape, canonical_dim
from ..primitives import elementwise as prim
from ..primitives import reduce as red
from ._registry import function
from .attributes import cast
from .comparison import isnan
from .elementwise import floating
from .promotion import FITS, tensor_operand
from .reductions import Dims, _root, count_over, over


def _floats(input: Any, dtype: Any, op: str) -> Tensor:
    """`input`, cast if asked; DTypeError for integers."""
    x = tensor_operand(input, op)
    if dtype is not None:
        x = cast(x, as_dtype(dtype))
    if not FITS[x._value.dtype.kind]:  # nothing fits integers and bools
        raise DTypeError(
            f"expected a floating or complex tensor, got {x.dtype.name}",
            op=op,
            hint=f"cast it first: x.float().{op}(...)",
        )
    return x


def _in_float32(fn: Callable[[Tensor], Tensor], x: Tensor) -> Tensor:
    """`fn(x)`; see Note [Halves]."""
    return cast(fn(cast(x, float32)), x.dtype) if x.dtype in HALVES else fn(x)


@function(dims=True)
@composite(fused=True)
def mean(input: Tensor, dim: Dims = None, keepdim: bool = False, *, dtype: Any = None) -> Tensor:
    """The mean over dimensions, over all when `dim` is None; nan of nothing.

    Raises: DTypeError for integers.

    >>> import twofold as tw
    >>> tw.mean(tw.tensor([[1.0, 2.0], [3.0, 4.0]]), 0)
    tensor([2., 3.])
    """
    x = _floats(input, dtype, "mean")
    dims = over(dim, x, "mean")
    n, params = count_over(x, dims), {"dims": dims, "keepdim": keepdim}
    return _in_float32(lambda x: bind(prim.div, (bind(red.sum, (x,), params), n), {}), x)


@function(dims=True)
def nanmean(input: Tensor, dim: Dims = None, keepdim: bool = False, *, dtype: Any = None) -> Tensor:
    """The mean of the elements that are not NaN.

    Raises: DTypeError for integers.

    >>> import twofold as tw
    >>> tw.nanmean(tw.tensor([1.0, float("nan"), 2.0]))
    tensor(1.5000)
    """
    x = _floats(input, dtype, "nanmean")
    dims = over(dim, x, "nanmean")
    missing = isnan(x)
    count = red.sum(cast(prim.bitwise_not(missing), x.dtype), dims=dims, keepdim=keepdim)
    return prim.div(red.sum(prim.where(missing, 0, x), dims=dims, keepdim=keepdim), count)


def _centered(x: Tensor, dims: Shape) -> tuple[Tensor, Tensor]:
    """The mean with its dimensions kept, and the elements minus it."""
    center = prim.div(red.sum(x, dims=dims, keepdim=True), count_over(x, dims))
    return center, prim.sub(x, center)


def _variance(x: Tensor, dims: Shape, keepdim: bool, correction: float) -> Tensor:
    _, d = _centered(x, dims)
    squares = prim.real(prim.mul(d, prim.conj(d))) if d.dtype.is_complex else prim.mul(d, d)
    freedom = max(count_over(x, dims) - correction, 0)
    return prim.div(red.sum(squares, dims=dims, keepdim=keepdim), freedom)


def _correction(dim: Any, unbiased: Any, correction: Any) -> tuple[Any, float]:
    """`dim` and the correction, which may also be given as the bool `unbiased`, first or second."""
    if isinstance(dim, bool):
        dim, unbiased = None, dim
    if correction is None:
        correction = 1 if unbiased is None else int(unbiased)
    return dim, correction


@function(dims=True)
@composite(fused=True, gathers=True)
def var(
    input: Tensor,
    dim: Any = None,
    unbiased: bool | None = None,
    keepdim: bool = False,
    *,
    correction: float | None = None,
) -> Tensor:
    """The variance over dimensions: squared distances from the mean over `n - correction` (1).

    Raises: DTypeError for integers.
    Numerics: two passes, so that a large mean does not cancel digits.

    >>> import twofold as tw
    >>> x = tw.tensor([1.0, 2.0, 3.0, 4.0])
    >>> x.var(), x.var(correction=0)
    (tensor(1.6667), tensor(1.2500))
    """
    x = _floats(input, None, "var")
    dim, by = _correction(dim, unbiased, correction)
    dims = over(dim, x, "var")
    return _in_float32(lambda x: _variance(x, dims, keepdim, by), x)


@function(dims=True)
@composite(fused=True, gathers=True)
def std(
    input: Tensor,
    dim: Any = None,
    unbiased: bool | None = None,
    keepdim: bool = False,
    *,
    correction: float | None = None,
) -> Tensor:
    """The standard deviation: the square root of `var`. Where it is 0, its derivative is 0.

    Raises: DTypeError for integers.

    >>> import twofold as tw
    >>> tw.std(tw.tensor([1.0, 2.0, 3.0, 4.0]), correction=0)
    tensor(1.1180)
    """
    x = _floats(input, None, "std")
    dim, by = _correction(dim, unbiased, correction)
    dims = over(dim, x, "std")
    return _in_float32(lambda x: _root(_variance(x, dims, keepdim, by), prim.sqrt), x)


@function(dims=True)
def var_mean(
    input: Tensor,
    dim: Any = None,
    unbiased: bool | None = None,
    keepdim: bool = False,
    *,
    correction: float | None = None,
) -> tuple[Tensor, Tensor]:
    """The variance and the mean.

    >>> import twofold as tw
    >>> tw.var_mean(tw.tensor([1.0, 2.0, 3.0]))
    (tensor(1.), tensor(2.))
    """
    dim, by = _correction(dim, unbiased, correction)
    return var(input, dim, keepdim=keepdim, correction=by), mean(input, dim, keepdim)


@function(dims=True)
def std_mean(
    input: Tensor,
    dim: Any = None,
    unbiased: bool | None = None,
    keepdim: bool = False,
    *,
    correction: float | None = None,
) -> tuple[Tensor, Tensor]:
    """The standard deviation and the mean.

    >>> import twofold as tw
    >>> tw.std_mean(tw.tensor([1.0, 2.0, 3.0]))
    (tensor(1.), tensor(2.))
    """
    dim, by = _correction(dim, unbiased, correction)
    return std(input, dim, keepdim=keepdim, correction=by), mean(input, dim, keepdim)


# --- softmax ------------------------------------------------------------------------------------


def _largest(x: Tensor, dims: Shape) -> Tensor:
    """The maximum as a constant: it cancels out of what it is subtracted in."""
    with no_record():
        return red.amax(x, dims=dims, keepdim=True)


def _softmax(x: Tensor, dim: int) -> Tensor:
    dims = (dim,) if x.ndim else ()
    e = prim.exp(prim.sub(x, _largest(x, dims)))
    return prim.div(e, red.sum(e, dims=dims, keepdim=True))


def _log_softmax(x: Tensor, dim: int) -> Tensor:
    dims = (dim,) if x.ndim else ()
    z = prim.sub(x, _largest(x, dims))
    return prim.sub(z, prim.log(red.sum(prim.exp(z), dims=dims, keepdim=True)))


def _along(fn: Callable[[Tensor, int], Tensor], input: Any, dim: int, dtype: Any, op: str) -> Tensor:
    x = _floats(input, dtype, op)
    d = canonical_dim(dim, x.ndim, op=op)
    return prim.copy(x) if 0 in x.shape else _in_float32(lambda x: fn(x, d), x)


@function(dims=True)
@composite(fused=True)
def softmax(input: Tensor, dim: int, dtype: Any = None) -> Tensor:
    """Exponentials of `input`, scaled to sum to one along `dim`.

    Shapes: (..., n, ...) floating -> the same shape and dtype.
    Raises: OutOfBoundsError when `dim` is outside the tensor; DTypeError when it is not floating.
    Numerics: subtracts the maximum first, so finite numbers cannot overflow; a row of -inf gives nan.
    Source: Bridle 1990, "Probabilistic interpretation of feedforward classification network outputs".

    >>> import twofold as tw
    >>> tw.softmax(tw.tensor([0.0, 0.0]), dim=0)
    tensor([0.5000, 0.5000])
    """
    return _along(_softmax, input, dim, dtype, "softmax")


@function(dims=True)
@composite(fused=True)
def log_softmax(input: Tensor, dim: int, dtype: Any = None) -> Tensor:
    """`log(softmax(input))`, without the loss of small probabilities.

    Shapes: (..., n, ...) floating -> the same shape and dtype.
    Raises: OutOfBoundsError when `dim` is outside the tensor; DTypeError when it is not floating.

    >>> import twofold as tw
    >>> tw.log_softmax(tw.tensor([0.0, 1000.0]), dim=0)
    tensor([-1000.,     0.])
    """
    return _along(_log_softmax, input, dim, dtype, "log_softmax")


@function(dims=True)
@composite(fused=True, gathers=True)
def logsumexp(input: Tensor, dim: Dims, keepdim: bool = False) -> Tensor:
    """`log(sum(exp(input)))` over dimensions, without overflow; -inf of nothing.

    Raises: OutOfBoundsError for a dimension outside the tensor.
    Numerics: subtracts the maximum first; where that is infinite it is not subtracted.

    >>> import twofold as tw
    >>> tw.logsumexp(tw.tensor([1000.0, 1000.0]), 0)
    tensor(1000.6932)
    """
    x = floating(input, "logsumexp")
    dims = over(dim, x, "logsumexp")
    return _in_float32(lambda x: _logsumexp(x, dims, keepdim), x)


def _logsumexp(x: Tensor, dims: Shape, keepdim: bool) -> Tensor:
    if count_over(x, dims) == 0:
        return prim.log(red.sum(x, dims=dims, keepdim=keepdim))
    with no_record():
        top = red.amax(prim.real(x) if x.dtype.is_complex else x, dims=dims, keepdim=True)
        top = cast(prim.where(prim.isfinite(top), top, 0), x.dtype)
        flat_top = red.sum(top, dims=dims, keepdim=keepdim)  # only drops the dimensions of size 1
    total = red.sum(prim.exp(prim.sub(x, top)), dims=dims, keepdim=keepdim)
    return prim.add(prim.log(total), flat_top)
