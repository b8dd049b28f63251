"""Element-wise functions of one tensor."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

import numpy as np

from ..ir.dtypes import BOOL, COMPLEX, EVERY, FLOATS, INTEGERS, NUMBERS, REALS, DType, bool_
from ..ir.errors import DTypeError, TwofoldError
from ..ir.primitive import PRIMITIVES, ErrorSample, Primitive
from ..ir.types import TensorType
from . import _special
from ._rules import check_dtype, strict, unary_errors, unary_rule, unary_samples, via_float32
from .casting import cast
from .logic import eq, le, where

_FIELDS = FLOATS | COMPLEX


def _unary(
    name: str,
    numpy: Callable[..., Any],
    derivative: Callable[..., Any] | None,
    dtypes: frozenset[DType] = _FIELDS,
    *,
    low: float = -3,
    high: float = 3,
    special: bool = True,
    **fields: Any,
) -> Primitive:
    """Declare a function that keeps dtype and shape, with the derivative rule of its one input."""
    return Primitive(
        name,
        type_rule=unary_rule(name, dtypes),
        numpy=numpy,
        vjp=(derivative,) if derivative else None,
        samples=unary_samples(low, high, special=special),
        errors=unary_errors(dtypes),
        dtypes=dtypes,
        torch=fields.pop("torch", name),
        **fields,
    )


def _zero(g: Any, _y: Any, _x: Any) -> Any:
    """The derivative of a piecewise constant function; PyTorch gives zeros, too, and no error."""
    return PRIMITIVES["full"](shape=g.shape, value=0, dtype=g.dtype)


# --- sign and rounding --------------------------------------------------------------------------

neg = _unary("neg", strict(np.negative), lambda g, _y, _x: -g, NUMBERS, checked_by_numpy=True)


def _sign(x: Any) -> Any:
    return np.where(np.isnan(x), 0, np.sign(x)).astype(x.dtype) if x.dtype.kind not in "iu" else np.sign(x)


sign = _unary("sign", _sign, _zero, REALS)


def _abs_rule(g: Any, y: Any, x: Any) -> Any:
    if not x.dtype.is_complex:
        return g * sign(x)
    return x * cast(g / where(eq(y, 0.0), 1.0, y), dtype=x.dtype)  # 0 at 0


abs = Primitive(
    "abs",
    type_rule=lambda x: unary_rule("abs", NUMBERS)(x).with_dtype(x.dtype.to_real()),
    numpy=np.abs,
    vjp=(_abs_rule,),
    samples=unary_samples(),
    errors=unary_errors(NUMBERS),
    dtypes=NUMBERS,
    torch="abs",
    holomorphic=False,
)


def _rounding(ufunc: np.ufunc) -> Callable[..., Any]:
    """The ufunc for floats; integers are whole already."""
    return lambda x: ufunc(x) if x.dtype.kind not in "iu" else x.copy()


floor = _unary("floor", _rounding(np.floor), _zero, REALS)
ceil = _unary("ceil", _rounding(np.ceil), _zero, REALS)
trunc = _unary("trunc", _rounding(np.trunc), _zero, REALS)
round = _unary("round", _rounding(np.rint), _zero, REALS)  # half to even

# --- powers, exponentials, logarithms -----------------------------------------------------------

sqrt = _unary("sqrt", strict(np.sqrt), lambda g, y, _x: g / (y * 2), low=0.1, checked_by_numpy=True)
rsqrt = _unary("rsqrt", via_float32(lambda x: 1 / np.sqrt(x)), lambda g, y, _x: g * (y * y * y) * -0.5, low=0.2)
exp = _unary("exp", strict(np.exp), lambda g, y, _x: g * y, checked_by_numpy=True)
expm1 = _unary("expm1", strict(np.expm1), lambda g, y, _x: g * (y + 1), checked_by_numpy=True)
log = _unary("log", strict(np.log), lambda g, _y, x: g / x, low=0.1, checked_by_numpy=True)
log1p = _unary("log1p", strict(np.log1p), lambda g, _y, x: g / (x + 1), low=-0.9, checked_by_numpy=True)

# --- trigonometric and hyperbolic functions -----------------------------------------------------

sin = _unary("sin", strict(np.sin), lambda g, _y, x: g * cos(x), checked_by_numpy=True)
cos: Primitive = _unary("cos", strict(np.cos), lambda g, _y, x: -(g * sin(x)), checked_by_numpy=True)
tan = _unary("tan", strict(np.tan), lambda g, y, _x: g * (y * y + 1), low=-1.3, high=1.3, checked_by_numpy=True)
asin = _unary(
    "asin", strict(np.arcsin), lambda g, _y, x: g * rsqrt(1 - x * x), low=-0.9, high=0.9, checked_by_numpy=True
)
acos = _unary(
    "acos", strict(np.arccos), lambda g, _y, x: -(g * rsqrt(1 - x * x)), low=-0.9, high=0.9, checked_by_numpy=True
)
atan = _unary("atan", strict(np.arctan), lambda g, _y, x: g / (x * x + 1), checked_by_numpy=True)
sinh = _unary("sinh", strict(np.sinh), lambda g, _y, x: g * cosh(x), checked_by_numpy=True)
cosh: Primitive = _unary("cosh", strict(np.cosh), lambda g, _y, x: g * sinh(x), checked_by_numpy=True)
tanh = _unary("tanh", strict(np.tanh), lambda g, y, _x: g * (1 - y * y), checked_by_numpy=True)
asinh = _unary("asinh", strict(np.arcsinh), lambda g, _y, x: g * rsqrt(x * x + 1), checked_by_numpy=True)
acosh = _unary(  # two roots: one of the product would be on the wrong branch for complex numbers
    "acosh", strict(np.arccosh), lambda g, _y, x: g * (rsqrt(x - 1) * rsqrt(x + 1)), low=1.2, checked_by_numpy=True
)
atanh = _unary(
    "atanh", strict(np.arctanh), lambda g, _y, x: g / (1 - x * x), low=-0.9, high=0.9, checked_by_numpy=True
)

# --- activations --------------------------------------------------------------------------------


def _relu(x: Any) -> Any:
    dtype = x.dtype
    zero = _ZEROS.get(dtype)
    if zero is None:
        if dtype.kind in "bc":
            raise TypeError("relu takes real numbers")
        zero = _ZEROS[dtype] = np.zeros((), dtype)
    return np.maximum(x, zero)  # NaN stays NaN


_ZEROS: dict[Any, Any] = {}  # NumPy takes arrays in half the time of Python numbers


sigmoid = _unary("sigmoid", via_float32(lambda x: 1 / (1 + np.exp(-x))), lambda g, y, _x: g * (y * (1 - y)))
relu = _unary("relu", _relu, lambda g, y, _x: where(le(y, 0.0), 0.0, g), REALS, checked_by_numpy=True)

# --- special functions --------------------------------------------------------------------------

erf = _unary("erf", _special.erf, lambda g, _y, x: g * (exp(-(x * x)) * (2 / math.sqrt(math.pi))), FLOATS)
erfinv = _unary(
    "erfinv",
    _special.erfinv,
    lambda g, y, _x: g * (exp(y * y) * (math.sqrt(math.pi) / 2)),
    FLOATS,
    low=-0.9,
    high=0.9,
)
lgamma = _unary("lgamma", _special.lgamma, lambda g, _y, x: g * digamma(x), FLOATS, low=0.2, high=5)
digamma: Primitive = _unary(
    "digamma", _special.digamma, lambda g, _y, x: g * polygamma(x, n=1), FLOATS, low=0.2, high=5
)


def _polygamma_type(x: TensorType, *, n: int) -> TensorType:
    check_dtype("polygamma", x.dtype, FLOATS)
    if not isinstance(n, int) or n < 0:
        raise TwofoldError(f"the order n must be an integer of at least 0, got {n!r}", op="polygamma")
    return x


def _polygamma_errors() -> list[ErrorSample]:
    x = np.ones(2, np.float32)
    return [
        ErrorSample((x,), {"n": -1}, TwofoldError, "order n"),
        ErrorSample((np.ones(2, np.int64),), {"n": 1}, DTypeError, "not supported"),
    ]


def _polygamma_samples(dtype: DType, rng: np.random.Generator) -> Any:
    for n in (0, 1, 2, 4):
        yield from unary_samples(0.3, 5, special=False, n=n)(dtype, rng)
        yield from unary_samples(-2.8, -2.2, special=False, n=n)(dtype, rng)


polygamma: Primitive = Primitive(
    "polygamma",
    type_rule=_polygamma_type,
    numpy=_special.polygamma,
    vjp=(lambda g, _y, x, *, n: g * polygamma(x, n=n + 1),),
    samples=_polygamma_samples,
    errors=_polygamma_errors,
    dtypes=FLOATS,
    torch=lambda torch, x, n: torch.polygamma(n, x),
)

# --- predicates and bits ------------------------------------------------------------------------

logical_not = Primitive(
    "logical_not",
    type_rule=unary_rule("logical_not", EVERY, bool_),
    numpy=np.logical_not,
    nondiff="the result is boolean",
    samples=unary_samples(),
    torch="logical_not",
)
isfinite = Primitive(
    "isfinite",
    type_rule=unary_rule("isfinite", EVERY, bool_),
    numpy=np.isfinite,
    nondiff="the result is boolean",
    samples=unary_samples(),
    torch="isfinite",
)
bitwise_not = _unary(
    "bitwise_not",
    strict(np.invert),
    None,
    INTEGERS | BOOL,
    nondiff="integers have no derivative",
    checked_by_numpy=True,
)
