"""Element-wise functions of two operands and the choice between them: maximum, clamp, where, atan2 ..."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

import numpy as np

from ..autodiff.bind import bind, no_record
from ..autodiff.composite import composite
from ..autodiff.handle import Tensor, wrap
from ..ir.dtypes import bool_
from ..ir.errors import DTypeError, TwofoldError
from ..ir.primitive import Primitive
from ..primitives import elementwise as prim
from ..primitives import movement, reduce
from ._registry import function
from .comparison import isinf, isnan
from .elementwise import clamp_numbers
from .interop import concrete
from .promotion import cast_to, float_dtype, matched, tensor_operand

_NO_PARAMS: dict[str, Any] = {}


def _binary(
    p: Primitive, name: str, sentence: str, example: tuple[str, str], *aliases: str, floating: bool = False
) -> Callable[[Any, Any], Tensor]:
    def call(input: Any, other: Any) -> Tensor:
        return bind(p, tuple(matched(name, input, other, floating=floating)), _NO_PARAMS)

    call.__name__ = call.__qualname__ = name
    call.__doc__ = f"""{sentence}

    Shapes: any that broadcast together.
    Raises: ShapeError when they don't.

    >>> import twofold as tw
    >>> tw.{name}({example[0]})
    tensor({example[1]})
    """
    return function(call, aliases=aliases, inplace=True)


_PAIR = "tw.tensor([1.0, 5.0]), tw.tensor([3.0, 2.0])"
maximum = _binary(prim.maximum, "maximum", "The larger of two elements; NaN if either is.", (_PAIR, "[3., 5.]"))
minimum = _binary(prim.minimum, "minimum", "The smaller of two elements; NaN if either is.", (_PAIR, "[1., 2.]"))
atan2 = _binary(
    prim.atan2,
    "atan2",
    "The angle of the point (other, input) in radians, from -pi to pi.",
    ("tw.tensor([1.0, -1.0]), tw.tensor([-1.0, 0.0])", "[ 2.3562, -1.5708]"),
    "arctan2",
    floating=True,
)
copysign = _binary(
    prim.copysign,
    "copysign",
    "The magnitude of `input` with the sign of `other`.",
    ("tw.tensor([1.0, 2.0]), -0.0", "[-1., -2.]"),
    floating=True,
)


@function(inplace=True)
def nextafter(input: Tensor, other: Tensor) -> Tensor:
    """The next floating number after `input` towards `other`.

    Shapes: any that broadcast together.
    Raises: DTypeError for integers.

    >>> import twofold as tw
    >>> tw.nextafter(tw.tensor([1.0]), tw.tensor([2.0])) - 1.0
    tensor([1.1921e-07])
    """
    return bind(prim.nextafter, tuple(matched("nextafter", input, other)), _NO_PARAMS)


@function
def fmax(input: Any, other: Any) -> Tensor:
    """The larger of two elements; a number beside a NaN wins.

    >>> import twofold as tw
    >>> tw.fmax(tw.tensor([1.0, float("nan")]), tw.tensor([2.0, 3.0]))
    tensor([2., 3.])
    """
    a, b = (_as_tensor(x, t) for x, t in _pairs("fmax", input, other))
    return prim.where(prim.ge(a, b) | isnan(b), a, b)


@function
def fmin(input: Any, other: Any) -> Tensor:
    """The smaller of two elements; a number beside a NaN wins.

    >>> import twofold as tw
    >>> tw.fmin(tw.tensor([1.0, float("nan")]), tw.tensor([2.0, 3.0]))
    tensor([1., 3.])
    """
    a, b = (_as_tensor(x, t) for x, t in _pairs("fmin", input, other))
    return prim.where(prim.le(a, b) | isnan(b), a, b)


def _pairs(op: str, *xs: Any) -> list[tuple[Any, Any]]:
    """The matched operands, each with a tensor of their dtype."""
    out = matched(op, *xs)
    some = next(x for x in out if isinstance(x, Tensor))
    return [(x, some) for x in out]


def _as_tensor(x: Any, like: Tensor) -> Tensor:
    return x if isinstance(x, Tensor) else movement.full(shape=(), value=x, dtype=like.dtype)


@function(aliases=("clip",), inplace=True)
@composite(fused=True)
def clamp(input: Tensor, min: Any = None, max: Any = None) -> Tensor:
    """Each element limited to [min, max]; either may be a number, a tensor or None.

    The gradient passes to elements inside, the limits included; the rest of it goes to the limits.

    Shapes: any that broadcast together.
    Raises: TwofoldError when both limits are None.

    >>> import twofold as tw
    >>> tw.clamp(tw.tensor([-1.0, 0.5, 2.0]), 0, 1)
    tensor([0.0000, 0.5000, 1.0000])
    """
    if min is None and max is None:
        raise TwofoldError("at least one of min and max must be given", op="clamp")
    given = [x for x in (min, max) if x is not None]
    x, *limits = matched("clamp", input, *given)
    if x.dtype.is_complex:
        raise DTypeError("complex numbers have no order", op="clamp")
    low = None if min is None else limits.pop(0)
    high = None if max is None else limits.pop(0)
    for limit in (low, high):
        if isinstance(limit, float) and math.isnan(limit):
            return prim.where(prim.eq(x, x), math.nan, x)
    if not isinstance(low, Tensor) and not isinstance(high, Tensor):
        return clamp_numbers(x, low, high)
    if low is not None:
        x = prim.where(prim.lt(x, low) | _missing(low), low, x)
    if high is not None:
        x = prim.where(prim.gt(x, high) | _missing(high), high, x)
    return x


def _missing(limit: Any) -> Any:
    return isnan(limit) if isinstance(limit, Tensor) else False


@function(inplace=True)
def clamp_min(input: Tensor, min: Any) -> Tensor:
    """Each element, but at least `min`.

    >>> import twofold as tw
    >>> tw.clamp_min(tw.tensor([-1.0, 2.0]), 0)
    tensor([0., 2.])
    """
    return clamp(input, min=min)


@function(inplace=True)
def clamp_max(input: Tensor, max: Any) -> Tensor:
    """Each element, but at most `max`.

    >>> import twofold as tw
    >>> tw.clamp_max(tw.tensor([-1.0, 2.0]), 0)
    tensor([-1.,  0.])
    """
    return clamp(input, max=max)


@function(inplace=True)
def hypot(input: Tensor, other: Tensor) -> Tensor:
    """`sqrt(input**2 + other**2)`.

    Shapes: any that broadcast together.
    Numerics: scaled by the larger operand, so that squares do not overflow.

    >>> import twofold as tw
    >>> tw.hypot(tw.tensor([3.0]), tw.tensor([4.0]))
    tensor([5.])
    """
    a, b = matched("hypot", input, other, floating=True)
    with no_record():  # the scale cancels out, so it counts as a constant
        scale = prim.maximum(prim.abs(a), prim.abs(b))
        usual = prim.isfinite(scale) & prim.ne(scale, 0)
        scale = prim.where(usual, scale, 1.0)
    x, y = prim.div(a, scale), prim.div(b, scale)
    out = scale * prim.sqrt(x * x + y * y)
    return prim.where(isinf(a) | isinf(b), math.inf, out)


def _log_add(a: Tensor, b: Tensor, softplus: Callable[[Tensor], Tensor]) -> Tensor:
    """`max(a, b) + softplus(-|a - b|)`, where equal operands (infinite ones, too) have difference 0."""
    difference = prim.where(prim.eq(a, b), 0.0, prim.sub(a, b))
    return prim.maximum(a, b) + softplus(prim.neg(prim.abs(difference)))


@function
def logaddexp(input: Tensor, other: Tensor) -> Tensor:
    """`log(exp(input) + exp(other))`, without overflow.

    Shapes: any that broadcast together.

    >>> import twofold as tw
    >>> tw.logaddexp(tw.tensor([1000.0]), tw.tensor([1000.0]))
    tensor([1000.6932])
    """
    a, b = matched("logaddexp", input, other, floating=True)
    return _log_add(a, b, lambda d: prim.log1p(prim.exp(d)))


@function
def logaddexp2(input: Tensor, other: Tensor) -> Tensor:
    """`log2(2**input + 2**other)`, without overflow.

    Shapes: any that broadcast together.

    >>> import twofold as tw
    >>> tw.logaddexp2(tw.tensor([3.0]), tw.tensor([3.0]))
    tensor([4.])
    """
    a, b = matched("logaddexp2", input, other, floating=True)
    return _log_add(a, b, lambda d: prim.log1p(prim.pow(2.0, d)) * (1 / math.log(2)))


@function(inplace=True)
def xlogy(input: Any, other: Any) -> Tensor:
    """`input * log(other)`, and 0 where `input` is 0.

    Shapes: any that broadcast together.

    >>> import twofold as tw
    >>> tw.xlogy(tw.tensor([0.0, 2.0]), tw.tensor([0.0, 1.0]))
    tensor([0., 0.])
    """
    x, y = (_as_tensor(v, t) for v, t in _pairs("xlogy", *matched("xlogy", input, other, floating=True)))
    zero = prim.eq(x, 0) & (prim.le(y, 0) | prim.eq(y, math.inf))  # where 0 * log(y) would be nan
    return x * prim.log(prim.where(zero, 1.0, y))


@function(inplace=True)
def heaviside(input: Tensor, values: Tensor) -> Tensor:
    """The step function: 0 below 0, 1 above, `values` at 0.

    Shapes: any that broadcast together.

    >>> import twofold as tw
    >>> tw.heaviside(tw.tensor([-1.0, 0.0, 2.0]), tw.tensor(0.5))
    tensor([0.0000, 0.5000, 1.0000])
    """
    x, v = tensor_operand(input, "heaviside"), tensor_operand(values, "heaviside")
    if x.dtype is not v.dtype:
        raise DTypeError(f"expected tensors of one dtype, got {x.dtype.name} and {v.dtype.name}", op="heaviside")
    step = prim.cast(prim.gt(x, 0), dtype=x.dtype)
    return prim.where(prim.eq(x, 0), v, step)


@function(inplace=True)
def ldexp(input: Tensor, other: Tensor) -> Tensor:
    """`input * 2**other`.

    Shapes: any that broadcast together.

    >>> import twofold as tw
    >>> tw.ldexp(tw.tensor([0.5]), tw.tensor([3]))
    tensor([4.])
    """
    x, n = tensor_operand(input, "ldexp"), tensor_operand(other, "ldexp")
    x, n = (cast_to(t, float_dtype(t.dtype)) for t in (x, n))
    return x * prim.pow(2.0, n)


@function
def frexp(input: Tensor) -> tuple[Tensor, Tensor]:
    """Mantissas in [0.5, 1) and exponents, with `input == mantissa * 2**exponent`.

    >>> import twofold as tw
    >>> tw.frexp(tw.tensor([8.0, 0.3]))
    (tensor([0.5000, 0.6000]), tensor([ 4, -1], dtype=twofold.int32))
    """
    x = tensor_operand(input, "frexp")
    if not x.dtype.is_floating_point:
        raise DTypeError(f"expected a floating tensor, got {x.dtype.name}", op="frexp")
    mantissa, exponent = np.frexp(concrete(x, "frexp").astype(np.float64))
    scale = wrap(np.asarray(np.ldexp(1.0, -exponent)))
    usual = wrap(np.asarray(np.isfinite(mantissa)))
    scaled = prim.cast(prim.cast(x, dtype=scale.dtype) * scale, dtype=x.dtype)
    return prim.where(usual, scaled, x), wrap(np.asarray(exponent, dtype=np.int32))


def _of_integers(ufunc: np.ufunc, name: str, sentence: str, value: str) -> Callable[[Tensor, Tensor], Tensor]:
    """A function of integers that NumPy computes; it can't be traced."""

    def call(input: Tensor, other: Tensor) -> Tensor:
        a, b = (_as_tensor(x, t) for x, t in _pairs(name, input, other))
        if a.dtype.kind not in ("int", "uint"):
            raise DTypeError(f"expected integers, got {a.dtype.name}", op=name)
        return wrap(np.asarray(ufunc(concrete(a, name), concrete(b, name))))

    call.__name__ = call.__qualname__ = name
    call.__doc__ = f"""{sentence}

    Shapes: any that broadcast together.
    Raises: DTypeError for floating tensors; TraceError while tracing.

    >>> import twofold as tw
    >>> tw.{name}(tw.tensor([12]), tw.tensor([18]))
    tensor([{value}])
    """
    return function(call, inplace=True)


gcd = _of_integers(np.gcd, "gcd", "The greatest common divisor, not negative.", "6")
lcm = _of_integers(np.lcm, "lcm", "The least common multiple, not negative.", "36")


@function
def allclose(input: Tensor, other: Tensor, rtol: float = 1e-5, atol: float = 1e-8, equal_nan: bool = False) -> bool:
    """Whether all elements are close: `|input - other| <= atol + rtol * |other|`.

    Raises: DTypeError when the dtypes differ.

    >>> import twofold as tw
    >>> tw.allclose(tw.tensor([1.0]), tw.tensor([1.0 + 1e-7]))
    True
    """
    close = tensor_operand(input, "allclose").isclose(other, rtol, atol, equal_nan)
    return bool(concrete(close, "allclose").all())


@function
def equal(input: Tensor, other: Tensor) -> bool:
    """Whether two tensors have the same shape and equal elements.

    >>> import twofold as tw
    >>> tw.equal(tw.tensor([1, 2]), tw.tensor([1, 2])), tw.equal(tw.tensor([1]), tw.tensor([1, 1]))
    (True, False)
    """
    a, b = tensor_operand(input, "equal"), tensor_operand(other, "equal")
    if a.shape != b.shape:
        return False
    a, b = matched("equal", a, b)
    return bool(concrete(prim.eq(a, b), "equal").all())


@function(method=False)
def isin(elements: Any, test_elements: Any, *, assume_unique: bool = False, invert: bool = False) -> Tensor:
    """True where an element is among `test_elements`.

    >>> import twofold as tw
    >>> tw.isin(tw.tensor([1, 2, 3]), tw.tensor([2, 5]))
    tensor([False,  True, False])
    """
    x, tests = (_as_tensor(v, t) for v, t in _pairs("isin", elements, test_elements))
    column = movement.reshape(x, shape=(*x.shape, 1))
    row = movement.reshape(tests, shape=(math.prod(tests.shape),))
    if not math.prod(tests.shape):
        return movement.full(shape=x.shape, value=invert, dtype=bool_)
    found = reduce.amax(prim.eq(column, row), dims=(x.ndim,), keepdim=False)
    return prim.bitwise_not(found) if invert else found


@function(method=False)
def complex(real: Tensor, imag: Tensor) -> Tensor:
    """The complex tensor of these real and imaginary parts.

    Shapes: any that broadcast together.
    Raises: DTypeError unless both are float32 or both float64.

    >>> import twofold as tw
    >>> tw.complex(tw.tensor([1.0]), tw.tensor([2.0]))
    tensor([1.+2.j])
    """
    return prim.complex(tensor_operand(real, "complex"), tensor_operand(imag, "complex"))


@function(method=False)
def polar(abs: Tensor, angle: Tensor) -> Tensor:
    """The complex tensor of these magnitudes and angles (radians).

    Shapes: any that broadcast together.

    >>> import twofold as tw
    >>> tw.polar(tw.tensor([2.0]), tw.tensor([0.0]))
    tensor([2.+0.j])
    """
    r, phi = tensor_operand(abs, "polar"), tensor_operand(angle, "polar")
    return prim.complex(r * prim.cos(phi), r * prim.sin(phi))
