"""Arithmetic on two tensors."""

from __future__ import annotations

import cmath
import math
from collections.abc import Callable, Iterator
from typing import Any

import numpy as np

from ..ir.dtypes import BOOL, COMPLEX, EVERY, FLOATS, HALVES, NUMBERS, REALS, DType
from ..ir.errors import DivisionByZeroError, TwofoldError
from ..ir.primitive import PRIMITIVES, ErrorSample, Primitive, Sample
from ._rules import binary_errors, binary_rule, binary_samples, draw, strict, unbroadcast
from .casting import real
from .logic import eq, ge, gt, lt, ordered, where
from .unary import log, sign, trunc

Rule = Callable[..., Any]


def _binary(
    name: str,
    numpy: Callable[..., Any],
    vjp: tuple[Rule | None, Rule | None] | None,
    dtypes: frozenset[DType],
    **fields: Any,
) -> Primitive:
    """Declare an operation on two tensors of one dtype with broadcasting."""
    errors = binary_errors(dtypes)
    more = fields.pop("more_errors", list)
    return Primitive(
        name,
        type_rule=binary_rule(name, dtypes),
        numpy=numpy,
        vjp=vjp,
        samples=fields.pop("samples", binary_samples()),
        errors=lambda: [*errors(), *more()],
        dtypes=dtypes,
        torch=fields.pop("torch", name),
        checked_by_numpy=True,
        **fields,
    )


add = _binary(
    "add",
    strict(np.add),
    (
        lambda g, _y, _a, _b: unbroadcast(g, _a.shape),
        lambda g, _y, _a, _b: unbroadcast(g, _b.shape),
    ),
    EVERY,
)
sub = _binary(
    "sub",
    strict(np.subtract),
    (
        lambda g, _y, _a, _b: unbroadcast(g, _a.shape),
        lambda g, _y, _a, _b: unbroadcast(-g, _b.shape),
    ),
    NUMBERS,
)
mul = _binary(
    "mul",
    strict(np.multiply),
    (
        lambda g, _y, _a, b: unbroadcast(g * b, _a.shape),
        lambda g, _y, a, _b: unbroadcast(g * a, _b.shape),
    ),
    EVERY,
)
div = _binary(
    "div",
    strict(np.true_divide),
    (
        lambda g, _y, _a, b: unbroadcast(g / b, _a.shape),
        lambda g, y, _a, b: unbroadcast(-(g * y / b), b.shape),
    ),
    FLOATS | COMPLEX,
)

# --- division with a whole quotient -------------------------------------------------------------


def _whole(name: str, ufunc: np.ufunc) -> Callable[..., Any]:
    """The ufunc, which must not meet an integer zero as divisor: NumPy would give 0."""
    exact = ordered(ufunc)

    def call(x: Any, y: Any) -> Any:
        if (x if hasattr(x, "dtype") else y).dtype.kind in "iu" and not np.all(y):
            raise operand_error(name)
        return exact(x, y)

    return call


def operand_error(name: str) -> TwofoldError:
    """What is raised where integers have a second operand that they can't have."""
    if name == "pow":
        return TwofoldError(
            "integers to a negative integer power are no integers",
            op=name,
            hint="make the base floating first: x.float() ** n",
        )
    return DivisionByZeroError(
        "integer division by zero", op=name, hint="mask the zeros with where(), or divide floating tensors"
    )


def _zero_divisor() -> list[ErrorSample]:
    x = np.array([3, 4])
    return [ErrorSample((x, np.array([1, 0])), {}, DivisionByZeroError, "integer division by zero")]


def _whole_samples(dtype: DType, rng: np.random.Generator) -> Iterator[Sample]:
    """Integer divisors without zero, and quotients that are not whole (there lie the kinks)."""
    whole = dtype.kind in ("int", "uint")
    for sample in binary_samples(-20, 20, second=(-4, 4), special=not whole, nonzero=True)(dtype, rng):
        a, b = sample.inputs
        kinks = bool(np.any(np.abs(a / b - np.rint(a / b)) < 1e-3)) if dtype.kind == "float" else False
        yield Sample((a, b), differentiable=sample.differentiable and not kinks)
    if whole:
        info = np.iinfo(dtype.numpy)
        yield Sample((np.array([info.min, info.max, 7], dtype.numpy), np.array([3, 5, 7], dtype.numpy)))


def _zero_like(t: Any) -> Any:
    return PRIMITIVES["full"](shape=t.shape, value=0, dtype=t.dtype)


floor_divide = _binary(
    "floor_divide",
    _whole("floor_divide", np.floor_divide),
    (lambda g, _y, _a, _b: _zero_like(_a), lambda g, _y, _a, _b: _zero_like(_b)),
    REALS,
    samples=_whole_samples,
    more_errors=_zero_divisor,
)
remainder = _binary(
    "remainder",
    _whole("remainder", np.remainder),
    (
        lambda g, _y, _a, _b: unbroadcast(g, _a.shape),
        lambda g, _y, a, b: unbroadcast(-(g * floor_divide(a, b)), b.shape),
    ),
    REALS,
    samples=_whole_samples,
    more_errors=_zero_divisor,
)
fmod = _binary(
    "fmod",
    _whole("fmod", np.fmod),
    (
        lambda g, _y, _a, _b: unbroadcast(g, _a.shape),
        lambda g, _y, a, b: unbroadcast(-(g * trunc(a / b)), b.shape),
    ),
    REALS,
    samples=_whole_samples,
    more_errors=_zero_divisor,
)

# --- powers -------------------------------------------------------------------------------------


_power = strict(np.power)


def _pow(x: Any, y: Any) -> Any:
    if (y if hasattr(y, "dtype") else x).dtype.kind == "i" and np.any(np.less(y, 0)):
        raise operand_error("pow")
    return _power(x, y)


def product_powers(dtype: DType) -> tuple[int, ...]:
    """The exponents with which kernels take a power for a product: x, x x, (x x) x and (x x) (x x).

    float16 and bfloat16 would round in between, and so have two.
    """
    return (1, 2) if dtype in HALVES else (1, 2, 3, 4)


def _pow_base(g: Any, _y: Any, a: Any, b: Any) -> Any:
    """g b a^(b-1), and 0 where b = 0, even at a = 0; written so that no inf or NaN is masked
    afterwards, for that would come back in the derivative of this rule."""
    if not hasattr(b, "shape"):
        return _zero_like(a) if b == 0 else unbroadcast(g * (pow(a, b - 1) * b), a.shape)
    corner = eq(a, 0) & eq(b, 0)
    slope = pow(a, where(corner, 1, b) - 1) * b
    return unbroadcast(g * slope, a.shape)


def _pow_exponent(g: Any, y: Any, a: Any, b: Any) -> Any:
    """g y log(a), and 0 where a = 0 and b >= 0."""
    positive = ge(_real(b), 0)
    if not hasattr(a, "shape"):
        return where(positive, 0, -(g * y)) if a == 0 else g * (y * _log_number(a, b.dtype))
    return unbroadcast(g * (y * log(where(eq(a, 0) & positive, 1, a))), b.shape)


def _real(b: Any) -> Any:
    return real(b) if b.dtype.is_complex else b


def _log_number(a: Any, dtype: DType) -> Any:
    if dtype.is_complex:
        return cmath.log(a)
    return math.log(a) if a > 0 else math.nan


def _pow_samples(dtype: DType, rng: np.random.Generator) -> Iterator[Sample]:
    if dtype.kind in ("int", "uint"):
        yield from binary_samples(-3, 3, second=(0, 4), special=False)(dtype, rng)
        return
    yield from binary_samples(0.2, 2, second=(-2, 3), special=dtype.kind == "float")(dtype, rng)
    x = draw(dtype, rng, (2, 3))  # bases of both signs, whole exponents
    for n in (0, 1, 2, -2, 3):
        yield Sample((x, n))
    if dtype.kind == "float":
        yield Sample((draw(dtype, rng, (2, 3), 0.5, 2), np.array([0, 1, 2], dtype.numpy)))
        yield Sample((x, np.array([-1, 0, 2], dtype.numpy)), differentiable=False)
        yield Sample((np.zeros(3, dtype.numpy), np.array([0, 1, 2], dtype.numpy)), differentiable=False)


def _pow_errors() -> list[ErrorSample]:
    x = np.array([2, 3])
    return [ErrorSample((x, np.array([1, -1])), {}, TwofoldError, "negative integer power")]


pow = _binary("pow", _pow, (_pow_base, _pow_exponent), NUMBERS, samples=_pow_samples, more_errors=_pow_errors)

# --- other functions of two arguments -----------------------------------------------------------


def _extremum(name: str, ufunc: np.ufunc, loses: Callable[[Any, Any], Any]) -> Primitive:
    """maximum or minimum: NaN wins, and a tie shares the gradient evenly."""

    def share(g: Any, mine: Any, other: Any) -> Any:
        half = where(eq(mine, other), g * 0.5, g)
        return unbroadcast(where(loses(mine, other), 0, half), mine.shape)

    return _binary(
        name,
        ordered(ufunc),
        (lambda g, _y, a, b: share(g, a, b), lambda g, _y, a, b: share(g, b, a)),
        REALS | BOOL,
    )


maximum = _extremum("maximum", np.maximum, lambda mine, other: _less(mine, other))
minimum = _extremum("minimum", np.minimum, lambda mine, other: _less(other, mine))


def _less(a: Any, b: Any) -> Any:
    """a < b, where one may be a Python number."""
    return lt(a, b) if hasattr(a, "shape") else gt(b, a)


def _square_radius(a: Any, b: Any) -> Any:
    """a^2 + b^2, but 1 at the origin, where the gradients of atan2 are taken to be 0."""
    r = a * a + b * b
    return where(eq(r, 0), 1, r)


atan2 = _binary(
    "atan2",
    strict(np.arctan2),
    (
        lambda g, _y, a, b: unbroadcast(g * (b / _square_radius(a, b)), a.shape),
        lambda g, _y, a, b: unbroadcast(-(g * (a / _square_radius(a, b))), b.shape),
    ),
    FLOATS,
)
copysign = _binary(
    "copysign",
    strict(np.copysign),
    (
        lambda g, y, a, _b: unbroadcast(g * (sign(a) * sign(y)), a.shape),
        lambda g, _y, _a, _b: _zero_like(_b),
    ),
    FLOATS,
)
nextafter = _binary(
    "nextafter",
    strict(np.nextafter),
    (
        lambda g, _y, a, b: unbroadcast(where(eq(a, b), 0, g), a.shape),
        lambda g, _y, _a, _b: _zero_like(_b),
    ),
    FLOATS,
)
