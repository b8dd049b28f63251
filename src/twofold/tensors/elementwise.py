"""Element-wise functions of one tensor: mathematics, rounding, parts of complex numbers.

Integers give the default floating dtype wherever the function is not closed on them.
"""

from __future__ import annotations

import builtins
import math
from typing import Any

from ..autodiff.bind import bind, no_record
from ..autodiff.handle import Tensor, mode
from ..ir.dtypes import bool_, float64
from ..ir.errors import DTypeError, TwofoldError
from ..ir.primitive import Primitive
from ..primitives import elementwise as prim
from ._registry import METHODS, _put, function
from .limits import finfo
from .promotion import cast_to, float_dtype, tensor_operand

_NO_PARAMS: dict[str, Any] = {}


def floating(x: Any, op: str) -> Tensor:
    """`x` as a floating or complex tensor; integers and bools get the default dtype."""
    x = tensor_operand(x, op)
    return x if x.dtype.is_differentiable else cast_to(x, float_dtype(x.dtype))


def _float_unary(p: Primitive, name: str, sentence: str, example: tuple[str, str], *aliases: str) -> Any:
    """A public function that is one primitive on floating tensors."""

    def call(input: Tensor) -> Tensor:
        if input.__class__ is not Tensor or not input.dtype.is_differentiable:
            input = floating(input, name)
        return bind(p, (input,), _NO_PARAMS)

    call.__name__ = call.__qualname__ = name
    call.__doc__ = f"""{sentence}

    Integers give the default floating dtype.

    >>> import twofold as tw
    >>> tw.{name}(tw.tensor({example[0]}))
    tensor({example[1]})
    """
    return function(call, aliases=aliases, inplace=True)


exp = _float_unary(prim.exp, "exp", "e to the power of each element.", ("[0.0, 1.0]", "[1.0000, 2.7183]"))
expm1 = _float_unary(prim.expm1, "expm1", "`exp(x) - 1`, accurate near 0.", ("[0.0, 1.0]", "[0.0000, 1.7183]"))
log = _float_unary(prim.log, "log", "Natural logarithm; -inf at 0, nan below.", ("[1.0, 0.0]", "[0., -inf]"))
log1p = _float_unary(prim.log1p, "log1p", "`log(1 + x)`, accurate near 0.", ("[0.0, 1.0]", "[0.0000, 0.6931]"))
sqrt = _float_unary(prim.sqrt, "sqrt", "Square root; nan below 0.", ("[4.0, 2.0]", "[2.0000, 1.4142]"))
rsqrt = _float_unary(prim.rsqrt, "rsqrt", "`1 / sqrt(x)`.", ("[4.0, 2.0]", "[0.5000, 0.7071]"))
sin = _float_unary(prim.sin, "sin", "Sine of radians.", ("[0.0, 1.0]", "[0.0000, 0.8415]"))
cos = _float_unary(prim.cos, "cos", "Cosine of radians.", ("[0.0, 1.0]", "[1.0000, 0.5403]"))
tan = _float_unary(prim.tan, "tan", "Tangent of radians.", ("[0.0, 1.0]", "[0.0000, 1.5574]"))
asin = _float_unary(prim.asin, "asin", "Inverse sine, in radians.", ("[0.0, 1.0]", "[0.0000, 1.5708]"), "arcsin")
acos = _float_unary(prim.acos, "acos", "Inverse cosine, in radians.", ("[0.0, 1.0]", "[1.5708, 0.0000]"), "arccos")
atan = _float_unary(prim.atan, "atan", "Inverse tangent, in radians.", ("[0.0, 1.0]", "[0.0000, 0.7854]"), "arctan")
sinh = _float_unary(prim.sinh, "sinh", "Hyperbolic sine.", ("[0.0, 1.0]", "[0.0000, 1.1752]"))
cosh = _float_unary(prim.cosh, "cosh", "Hyperbolic cosine.", ("[0.0, 1.0]", "[1.0000, 1.5431]"))
tanh = _float_unary(prim.tanh, "tanh", "Hyperbolic tangent.", ("[0.0, 1.0]", "[0.0000, 0.7616]"))
asinh = _float_unary(prim.asinh, "asinh", "Inverse hyperbolic sine.", ("[0.0, 1.0]", "[0.0000, 0.8814]"), "arcsinh")
acosh = _float_unary(
    prim.acosh, "acosh", "Inverse hyperbolic cosine; nan below 1.", ("[1.0, 2.0]", "[0.0000, 1.3170]"), "arccosh"
)
atanh = _float_unary(
    prim.atanh, "atanh", "Inverse hyperbolic tangent.", ("[0.0, 0.5]", "[0.0000, 0.5493]"), "arctanh"
)
sigmoid = _float_unary(
    prim.sigmoid, "sigmoid", "`1 / (1 + exp(-x))`, without overflow.", ("[0.0, 1.0]", "[0.5000, 0.7311]"), "expit"
)
erf = _float_unary(prim.erf, "erf", "The error function.", ("[0.0, 1.0]", "[0.0000, 0.8427]"))
erfinv = _float_unary(prim.erfinv, "erfinv", "Inverse of the error function.", ("[0.0, 0.5]", "[0.0000, 0.4769]"))
lgamma = _float_unary(
    prim.lgamma, "lgamma", "Logarithm of the magnitude of the gamma function.", ("[2.0, 4.0]", "[0.0000, 1.7918]")
)
digamma = _float_unary(prim.digamma, "digamma", "Derivative of `lgamma`.", ("[1.0, 2.0]", "[-0.5772,  0.4228]"))


def _unary(
    p: Primitive, name: str, sentence: str, example: tuple[str, str], *aliases: str, whole: bool = False
) -> Any:
    """A public function that is one primitive; `whole`: integers are returned as they are."""

    def call(input: Tensor) -> Tensor:
        x = tensor_operand(input, name)
        if x.dtype is bool_:
            raise DTypeError("bool is not supported", op=name, hint="cast first, e.g. x.int()")
        if whole and not x.dtype.is_differentiable:
            return prim.copy(x)
        return bind(p, (x,), _NO_PARAMS)

    call.__name__ = call.__qualname__ = name
    call.__doc__ = f"""{sentence}

    >>> import twofold as tw
    >>> tw.{name}(tw.tensor({example[0]}))
    tensor({example[1]})
    """
    return function(call, aliases=aliases, inplace=True)


floor = _unary(
    prim.floor,
    "floor",
    "The largest whole number not above each element.",
    ("[-1.5, 1.5]", "[-2.,  1.]"),
    whole=True,
)
ceil = _unary(
    prim.ceil,
    "ceil",
    "The smallest whole number not below each element.",
    ("[-1.5, 1.5]", "[-1.,  2.]"),
    whole=True,
)
trunc = _unary(
    prim.trunc, "trunc", "Each element rounded towards zero.", ("[-1.5, 1.5]", "[-1.,  1.]"), "fix", whole=True
)
relu = _unary(prim.relu, "relu", "`max(x, 0)`. The derivative at 0 is 0.", ("[-1.0, 2.0]", "[0., 2.]"))


@function(inplace=True)
def sign(input: Tensor) -> Tensor:
    """-1, 0 or 1 by the sign of each element.

    Raises: DTypeError for complex tensors, see `sgn`.

    >>> import twofold as tw
    >>> tw.sign(tw.tensor([-2.5, 0.0, 3.0]))
    tensor([-1.,  0.,  1.])
    """
    x = tensor_operand(input, "sign")
    if x.dtype.is_complex:
        raise DTypeError("complex numbers have no sign", op="sign", hint="use sgn() for the direction")
    return prim.copy(x) if x.dtype is bool_ else bind(prim.sign, (x,), _NO_PARAMS)


@function(inplace=True)
def sgn(input: Tensor) -> Tensor:
    """The sign of each element; of a complex one its direction, `x / |x|`, and 0 at 0.

    >>> import twofold as tw
    >>> tw.sgn(tw.tensor([3 + 4j, 0]))
    tensor([0.6000+0.8000j, 0.0000+0.0000j])
    """
    x = tensor_operand(input, "sgn")
    if not x.dtype.is_complex:
        return sign(x)
    size = prim.cast(prim.abs(x), dtype=x.dtype)
    zero = prim.eq(size, 0)
    return prim.div(x, prim.where(zero, 1, size))


@function
def signbit(input: Tensor) -> Tensor:
    """True where the sign bit is set: negative numbers, -0.0 among them.

    >>> import twofold as tw
    >>> tw.signbit(tw.tensor([-0.0, 0.0, -1.0]))
    tensor([ True, False,  True])
    """
    x = tensor_operand(input, "signbit")
    if x.dtype.is_complex:
        raise DTypeError("complex numbers have no sign bit", op="signbit")
    if x.dtype.is_floating_point:
        return prim.lt(prim.copysign(1.0, x), 0)
    return prim.ne(x, x) if x.dtype is bool_ else prim.lt(x, 0)


@function(inplace=True)
def round(input: Tensor, *, decimals: int = 0) -> Tensor:
    """Each element rounded to the nearest, halves to the even one.

    Args:
        decimals: places after the point to keep; negative ones round before the point.

    >>> import twofold as tw
    >>> tw.round(tw.tensor([0.5, 1.5, 2.567])), tw.round(tw.tensor([2.567]), decimals=2)
    (tensor([0., 2., 3.]), tensor([2.5700]))
    """
    x = tensor_operand(input, "round")
    if x.dtype is bool_:
        raise DTypeError("bool is not supported", op="round", hint="cast first, e.g. x.int()")
    if not x.dtype.is_differentiable:
        if decimals:
            raise DTypeError("decimals= is for floating tensors", op="round", hint="cast first: x.double()")
        return prim.copy(x)
    if decimals == 0:
        return prim.round(x)
    scale = 10.0 ** builtins.abs(decimals)
    if decimals > 0:
        return prim.div(prim.round(prim.mul(x, scale)), scale)
    return prim.mul(prim.round(prim.div(x, scale)), scale)


@function(inplace=True)
def frac(input: Tensor) -> Tensor:
    """`x - trunc(x)`: what stands after the point.

    >>> import twofold as tw
    >>> tw.frac(tw.tensor([1.25, -2.5]))
    tensor([ 0.2500, -0.5000])
    """
    x = tensor_operand(input, "frac")
    if not x.dtype.is_floating_point:
        raise DTypeError(f"{x.dtype.name} has no fraction", op="frac", hint="use a floating tensor")
    return prim.sub(x, prim.trunc(x))


@function(inplace=True)
def reciprocal(input: Tensor) -> Tensor:
    """`1 / x`.

    >>> import twofold as tw
    >>> tw.reciprocal(tw.tensor([2, 4]))
    tensor([0.5000, 0.2500])
    """
    return prim.div(1.0, floating(input, "reciprocal"))


@function(inplace=True)
def exp2(input: Tensor) -> Tensor:
    """2 to the power of each element.

    >>> import twofold as tw
    >>> tw.exp2(tw.tensor([3.0, -1.0]))
    tensor([8.0000, 0.5000])
    """
    return prim.pow(2.0, floating(input, "exp2"))


def _log_of_base(x: Tensor, base: float) -> Tensor:
    """`log(x) / log(base)`, corrected where x is exactly a power of the base."""
    y = prim.mul(prim.log(x), 1 / math.log(base))
    if x.dtype.is_complex:
        return y
    with no_record():  # the correction is constant: the derivative is that of y
        whole = prim.round(y)
        exact = prim.eq(prim.pow(base, whole), x) & prim.isfinite(whole)
        correction = prim.where(exact, whole - y, 0.0)
    return y + correction


@function(inplace=True)
def log2(input: Tensor) -> Tensor:
    """Logarithm to the base 2.

    Numerics: exact for powers of two.

    >>> import twofold as tw
    >>> tw.log2(tw.tensor([8.0, 0.5]))
    tensor([ 3., -1.])
    """
    return _log_of_base(floating(input, "log2"), 2.0)


@function(inplace=True)
def log10(input: Tensor) -> Tensor:
    """Logarithm to the base 10.

    Numerics: exact for powers of ten.

    >>> import twofold as tw
    >>> tw.log10(tw.tensor([1000.0, 0.1]))
    tensor([ 3., -1.])
    """
    return _log_of_base(floating(input, "log10"), 10.0)


@function(inplace=True)
def sinc(input: Tensor) -> Tensor:
    """`sin(pi x) / (pi x)`, and 1 at 0.

    >>> import twofold as tw
    >>> tw.sinc(tw.tensor([0.0, 0.5]))
    tensor([1.0000, 0.6366])
    """
    x = floating(input, "sinc")
    zero = prim.eq(x, 0)
    angle = prim.mul(prim.where(zero, 1.0, x), math.pi)  # no division by zero, in the derivative neither
    return prim.where(zero, 1.0, prim.div(prim.sin(angle), angle))


@function(inplace=True)
def logit(input: Tensor, eps: float | None = None) -> Tensor:
    """`log(x / (1 - x))`, the inverse of the sigmoid; nan outside [0, 1].

    Args:
        eps: clamp x to [eps, 1 - eps] first.

    >>> import twofold as tw
    >>> tw.logit(tw.tensor([0.5, 0.9]))
    tensor([0.0000, 2.1972])
    """
    x = floating(input, "logit")
    if eps is not None:
        x = clamp_numbers(x, eps, 1.0 - eps)
    return prim.sub(prim.log(x), prim.log1p(prim.neg(x)))


def clamp_numbers(x: Tensor, low: float | None, high: float | None) -> Tensor:
    """`x` limited to [low, high]; the gradient passes inside, the limits included."""
    if not (mode.grad and x.requires_grad):  # the same values in half the operations
        x = x if low is None else prim.maximum(x, low)
        return x if high is None else prim.minimum(x, high)
    if low is not None:
        x = prim.where(prim.lt(x, low), low, x)
    if high is not None:
        x = prim.where(prim.gt(x, high), high, x)
    return x


# Chebyshev series of log(erfcx(z) / t) in 2t - 1, where t = 2 / (2 + z), fitted at 30 Chebyshev
# nodes; with it erfc(z) = t exp(P(2t - 1) - z^2) to a relative error of 6e-15 for z >= 0.
_ERFCX = (
    -0.6513268598908547, 0.6419697923564907, 0.01947647320418643, -0.009561514786808365,
    -0.0009465953444820507, 0.0003668394978533271, 4.2523324807122224e-05, -2.0278578111996898e-05,
    -1.6242900040800084e-06, 1.3036558359955527e-06, 1.5626441853904504e-08, -8.523809547415969e-08,
    6.5290545427546896e-09, 5.059343803090413e-09, -9.913635847966347e-10, -2.2736537569612148e-10,
    9.646854028332406e-11, 2.393688480919034e-12, -6.885911820411922e-12, 8.943978539949832e-13,
    3.1256672579210493e-13, -1.1309990523722632e-13, 3.732671995446563e-16, 6.625657939948582e-15,
)  # fmt: skip


def _erfc_tail(x: Tensor) -> Tensor:
    """erfc of a float64 tensor, relatively accurate far into the tail."""
    z = prim.abs(x)
    t = prim.div(2.0, z + 2.0)
    u = t * 2.0 - 1.0
    twice = u * 2.0
    # Clenshaw's recurrence
    b1, b2 = prim.mul(u, 0.0), prim.mul(u, 0.0)
    for c in reversed(_ERFCX[1:]):
        b1, b2 = twice * b1 - b2 + c, b1
    series = u * b1 - b2 + _ERFCX[0]
    tail = t * prim.exp(series - z * z)
    return prim.where(prim.lt(x, 0), 2.0 - tail, tail)


@function(inplace=True)
def erfc(input: Tensor) -> Tensor:
    """The complementary error function, `1 - erf(x)`.

    Numerics: relatively accurate for large x, where `1 - erf(x)` would be 0.

    >>> import twofold as tw
    >>> tw.erfc(tw.tensor([0.0, 5.0]))
    tensor([1.0000e+00, 1.5375e-12])
    """
    x = floating(input, "erfc")
    plain = prim.sub(1.0, prim.erf(x))
    with no_record():  # the derivative is that of 1 - erf(x); the tail only corrects its value
        accurate = prim.cast(_erfc_tail(prim.cast(x, dtype=float64)), dtype=x.dtype)
        correction = prim.where(prim.isfinite(x), accurate - plain, 0.0)
    return plain + correction


@function(method=False)
def polygamma(n: int, input: Tensor) -> Tensor:
    """The n-th derivative of `digamma`.

    Raises: TwofoldError for a negative `n`.

    >>> import twofold as tw
    >>> tw.polygamma(1, tw.tensor([1.0, 2.0]))
    tensor([1.6449, 0.6449])
    """
    x = floating(input, "polygamma")
    if n < 0:
        raise TwofoldError(f"n must not be negative, got {n}", op="polygamma")
    return prim.digamma(x) if n == 0 else prim.polygamma(x, n=int(n))


@function(name="polygamma", module=False, inplace=True)
def _polygamma_method(self: Tensor, n: int) -> Tensor:
    """The n-th derivative of `digamma`."""
    return polygamma(n, self)


@function(aliases=("multigammaln",), inplace=True)
def mvlgamma(input: Tensor, p: int) -> Tensor:
    """Logarithm of the multivariate gamma function of dimension `p`.

    Raises: TwofoldError for p < 1.

    >>> import twofold as tw
    >>> tw.mvlgamma(tw.tensor([3.0]), 2)
    tensor([1.5502])
    """
    x = floating(input, "mvlgamma")
    if p < 1:
        raise TwofoldError(f"p must be at least 1, got {p}", op="mvlgamma")
    out = prim.lgamma(x) + p * (p - 1) / 4 * math.log(math.pi)
    for j in range(1, p):
        out = out + prim.lgamma(x - j / 2)
    return out


@function(inplace=True)
def deg2rad(input: Tensor) -> Tensor:
    """Degrees as radians.

    >>> import twofold as tw
    >>> tw.deg2rad(tw.tensor([180.0]))
    tensor([3.1416])
    """
    return prim.mul(floating(input, "deg2rad"), math.pi / 180)


@function(inplace=True)
def rad2deg(input: Tensor) -> Tensor:
    """Radians as degrees.

    >>> import twofold as tw
    >>> tw.rad2deg(tw.tensor([1.0]))
    tensor([57.2958])
    """
    return prim.mul(floating(input, "rad2deg"), 180 / math.pi)


@function(inplace=True)
def nan_to_num(input: Tensor, nan: float = 0.0, posinf: float | None = None, neginf: float | None = None) -> Tensor:
    """NaN and the infinities replaced by numbers; infinities by the largest finite ones unless given.

    >>> import twofold as tw
    >>> tw.nan_to_num(tw.tensor([float("nan"), float("inf"), 1.0]), posinf=9.0)
    tensor([0., 9., 1.])
    """
    x = tensor_operand(input, "nan_to_num")
    if x.dtype.is_complex:
        parts = (nan_to_num(part, nan, posinf, neginf) for part in (prim.real(x), prim.imag(x)))
        return prim.complex(*parts)
    if not x.dtype.is_floating_point:
        return prim.copy(x)
    largest = finfo(x.dtype).max
    x = prim.where(prim.ne(x, x), float(nan), x)
    x = prim.where(prim.eq(x, math.inf), largest if posinf is None else float(posinf), x)
    return prim.where(prim.eq(x, -math.inf), -largest if neginf is None else float(neginf), x)


@function(name="resolve_conj", aliases=("resolve_neg",))
def _as_it_is(input: Tensor) -> Tensor:
    """The tensor itself: conjugation and negation are never put off.

    >>> import twofold as tw
    >>> tw.resolve_conj(tw.tensor([1 + 2j]).conj())
    tensor([1.-2.j])
    """
    return input


@function(aliases=("conj_physical",), inplace=True)
def conj(input: Tensor) -> Tensor:
    """The complex conjugate; a real tensor as it is.

    >>> import twofold as tw
    >>> tw.conj(tw.tensor([1 + 2j]))
    tensor([1.-2.j])
    """
    x = tensor_operand(input, "conj")
    return prim.conj(x) if x.dtype.is_complex else x


@function(method=False)
def real(input: Tensor) -> Tensor:
    """The real part; a real tensor as it is.

    >>> import twofold as tw
    >>> tw.real(tw.tensor([1 + 2j]))
    tensor([1.])
    """
    x = tensor_operand(input, "real")
    return prim.real(x) if x.dtype.is_complex else x


@function(method=False)
def imag(input: Tensor) -> Tensor:
    """The imaginary part.

    Raises: DTypeError for real tensors.

    >>> import twofold as tw
    >>> tw.imag(tw.tensor([1 + 2j]))
    tensor([2.])
    """
    x = tensor_operand(input, "imag")
    if not x.dtype.is_complex:
        raise DTypeError(f"a tensor of dtype {x.dtype.name} has no imaginary part", op="imag")
    return prim.imag(x)


@function
def angle(input: Tensor) -> Tensor:
    """The argument of each element in radians: 0 or pi for real ones.

    >>> import twofold as tw
    >>> tw.angle(tw.tensor([1j, -1 + 0j]))
    tensor([1.5708, 3.1416])
    """
    x = floating(input, "angle")
    if x.dtype.is_complex:
        return prim.atan2(prim.imag(x), prim.real(x))
    flat = prim.where(prim.lt(x, 0), math.pi, prim.mul(prim.sign(x), 0.0))
    return prim.where(prim.ne(x, x), x, flat)


_put(METHODS, "real", property(real, doc=real.__doc__))
_put(METHODS, "imag", property(imag, doc=imag.__doc__))
