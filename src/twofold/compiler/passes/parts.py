"""parts: what operations on complex numbers are in operations on their real and imaginary parts.

It is said once, here. The pass `split` applies the rules to values of graphs, and eager code to arrays
(compiler/eager_complex.py), so that both compute the same.

Sources: Smith 1962, "Algorithm 116: complex division"; Kahan 1987, "Branch cuts for complex elementary
functions, or much ado about nothing's sign bit"; Hillis & Steele 1986, "Data parallel algorithms".
"""

from __future__ import annotations

import math
from abc import ABC, abstractmethod
from collections.abc import Callable
from typing import Any, NamedTuple

from ...ir.dtypes import DType, float64
from ...ir.types import Shape


class Part(ABC):
    """Real numbers to which primitives apply: the real or imaginary parts of complex ones."""

    __slots__ = ()

    @property
    @abstractmethod
    def dtype(self) -> DType:
        """Of the numbers."""

    @property
    @abstractmethod
    def shape(self) -> Shape:
        """How many there are along each dimension."""

    @abstractmethod
    def apply(self, name: str, *others: Any, **params: Any) -> Part:
        """A primitive of this and others, which may be Python numbers."""

    @abstractmethod
    def number(self, value: float) -> Part:
        """A number of the same dtype, with no dimensions."""

    def to(self, dtype: DType) -> Part:
        return self if self.dtype is dtype else self.apply("cast", dtype=dtype)

    def where(self, a: Any, b: Any) -> Part:
        """a where this is true, b elsewhere; one of them may be a Python number."""
        like = a if isinstance(a, Part) else b
        return self.apply("where", *[v if isinstance(v, Part) else like.number(v) for v in (a, b)])

    def __add__(self, o: Any) -> Part:
        return self.apply("add", o)

    def __sub__(self, o: Any) -> Part:
        return self.apply("sub", o)

    def __mul__(self, o: Any) -> Part:
        return self.apply("mul", o)

    def __truediv__(self, o: Any) -> Part:
        return self.apply("div", o)

    def __neg__(self) -> Part:
        return self.apply("neg")

    def __abs__(self) -> Part:
        return self.apply("abs")


Pair = tuple[Part, Part]


class Rule(NamedTuple):
    """What a primitive does to its operands' parts.

    Attributes:
        fn: takes a Pair for a complex operand, a Part for a real one, and the primitive's params; gives a
            Pair if the primitive's result is complex and a Part otherwise.
        wide: whether complex64 is computed in float64, and rounded at the end.
        whole: whether `fn` is written in operations on complex numbers: it takes and gives Parts that hold these.
    """

    fn: Callable[..., Any]
    wide: bool = False
    whole: bool = False

    def __call__(self, operands: list[Any], params: dict[str, Any], out: DType) -> Any:
        """The result, in the dtype of the result's parts.

        Args:
            out: of the result.
        """
        if self.whole:
            operands = [_Both(x) for x in operands]
        if self.wide:
            operands = [(x[0].to(float64), x[1].to(float64)) for x in operands]
        result = self.fn(*operands, **params)
        if self.whole:
            result = result.pair
        dtype = out.to_real()
        return (result[0].to(dtype), result[1].to(dtype)) if isinstance(result, tuple) else result.to(dtype)


# --- arithmetic -----------------------------------------------------------------------------------


def _mul(x: Pair, y: Pair) -> Pair:
    (a, b), (c, d) = x, y
    return a * c - b * d, a * d + b * c


def _div(x: Pair, y: Pair) -> Pair:
    """By the quotient of the divisor's parts, so that squares don't overflow; a zero divides part by part."""
    (a, b), (c, d) = x, y
    turned = abs(c).apply("lt", abs(d))
    large, small = turned.where(d, c), turned.where(c, d)
    zero = large.apply("eq", 0)
    ratio = zero.where(small, small / large)
    scale = large.number(1.0)
    scale = zero.where(scale / abs(large), scale / (large + small * ratio))
    p, q = turned.where(b, a), turned.where(a, b)
    re, im = p + q * ratio, q - p * ratio
    im = turned.where(-im, im)
    return zero.where(p, re) * scale, zero.where(q, im) * scale


def _where(condition: Part, x: Pair, y: Pair) -> Pair:
    return condition.where(x[0], y[0]), condition.where(x[1], y[1])


def _abs(x: Pair) -> Part:
    """The hypotenuse, with the larger part taken out; infinite if a part is."""
    a, b = abs(x[0]), abs(x[1])
    large, small = a.apply("maximum", b), a.apply("minimum", b)
    ratio = large.apply("eq", 0).where(0.0, small / large)
    infinite = a.apply("eq", math.inf).apply("bitwise_or", b.apply("eq", math.inf))
    return infinite.where(math.inf, large * (ratio * ratio + 1).apply("sqrt"))


def _both(name: str, join: str) -> Callable[[Pair, Pair], Part]:
    return lambda x, y: x[0].apply(name, y[0]).apply(join, x[1].apply(name, y[1]))


def _is(name: str, *others: Any) -> Callable[[Pair], Part]:
    return lambda x: x[0].apply(name, *others).apply("bitwise_and", x[1].apply(name, *others))


_FAR = 1e100


# --- functions ------------------------------------------------------------------------------------


def _exp(x: Pair) -> Pair:
    a, b = x
    size = a.apply("exp")
    lost = b.apply("isfinite").apply("logical_not")  # the angle; of a size that is 0 or infinite that size remains
    nothing, endless = (a.apply("eq", limit).apply("bitwise_and", lost) for limit in (-math.inf, math.inf))
    re = nothing.where(0.0, endless.where(math.inf, size * b.apply("cos")))
    zero = b.number(0.0).apply("copysign", b)
    return re, b.apply("eq", 0).where(b, nothing.where(zero, size * b.apply("sin")))


def _expm1(x: Pair) -> Pair:
    a, b = x
    half = (b * 0.5).apply("sin")
    return a.apply("expm1") * b.apply("cos") - half * half * 2, a.apply("exp") * b.apply("sin")


def _log_size(shifted: Part, x: Pair, size: Callable[[], Part]) -> Part:
    """log of |z| for z = 1 + (shifted, x[1]): near 1 by log1p of |z|^2 - 1."""
    square = shifted * (shifted + 2) + x[1] * x[1]
    near = abs(square).apply("lt", 0.5)
    return near.where(square.apply("log1p") * 0.5, size().apply("log"))


def _log(x: Pair) -> Pair:
    return _log_size(x[0] - 1, x, lambda: _abs(x)), x[1].apply("atan2", x[0])


def _log1p(x: Pair) -> Pair:
    one = x[0] + 1
    return _log_size(x[0], x, lambda: _abs((one, x[1]))), x[1].apply("atan2", one)


def _sqrt(x: Pair) -> Pair:
    a, b = x
    t = ((abs(a) + _abs(x)) * 0.5).apply("sqrt")
    other = t.apply("eq", 0).where(0.0, abs(b) / (t * 2))
    negative = a.apply("lt", 0)
    re, im = negative.where(other, t), negative.where(t, other).apply("copysign", b)
    infinite = abs(b).apply("eq", math.inf)
    return infinite.where(math.inf, re), infinite.where(b, im)


def _plus(x: Pair, n: float) -> Pair:
    return x[0] + n, x[1]


def _minus(x: Pair) -> Pair:
    return -x[0], -x[1]


def _times_i(x: Pair) -> Pair:
    return -x[1], x[0]


def _over_i(x: Pair) -> Pair:
    return x[1], -x[0]


def _reciprocal(x: Pair) -> Pair:
    return _div((x[0].number(1.0), x[0].number(0.0)), x)


def _sinh(x: Pair) -> Pair:
    a, b = x
    return a.apply("sinh") * b.apply("cos"), b.apply("eq", 0).where(b, a.apply("cosh") * b.apply("sin"))


def _cosh(x: Pair) -> Pair:
    a, b = x
    flat = b * b.number(1.0).apply("copysign", a)
    return a.apply("cosh") * b.apply("cos"), b.apply("eq", 0).where(flat, a.apply("sinh") * b.apply("sin"))


def _tanh(x: Pair) -> Pair:
    """(Kahan) 1 / cosh(a)^2 is all that is left of the imaginary part of large numbers."""
    a, b = x
    t, s = b.apply("tan"), a.apply("sinh")
    beta, rho = t * t + 1, (s * s + 1).apply("sqrt")
    below = beta * s * s + 1
    far = abs(a).apply("gt", 300.0)
    one, zero = a.number(1.0).apply("copysign", a), a.number(0.0).apply("copysign", b)
    return far.where(one, beta * rho * s / below), far.where(zero, t / below)


def _conj_product(x: Pair, y: Pair) -> Pair:
    """conj(x) * y."""
    return x[0] * y[0] + x[1] * y[1], x[0] * y[1] - x[1] * y[0]


def _asin(x: Pair) -> Pair:
    below, above = _sqrt((-x[0] + 1, -x[1])), _sqrt(_plus(x, 1))
    re = x[0].apply("atan2", below[0] * above[0] - below[1] * above[1])
    near = re, _conj_product(below, above)[1].apply("asinh")
    return _where(_is_far(x), (x[0].apply("atan2", abs(x[1])), _log_far(x).apply("copysign", x[1])), near)


def _acos(x: Pair) -> Pair:
    below, above = _sqrt((-x[0] + 1, -x[1])), _sqrt(_plus(x, 1))
    near = below[0].apply("atan2", above[0]) * 2, _conj_product(above, below)[1].apply("asinh")
    return _where(_is_far(x), (abs(x[1]).apply("atan2", x[0]), _log_far(x).apply("copysign", -x[1])), near)


def _acosh(x: Pair) -> Pair:
    below, above = _sqrt(_plus(x, -1)), _sqrt(_plus(x, 1))
    near = _conj_product(below, above)[0].apply("asinh"), below[1].apply("atan2", above[0]) * 2
    return _where(_is_far(x), (_log_far(x), x[1].apply("atan2", x[0])), near)


def _is_far(x: Pair) -> Part:
    """Whether 1 beside a number's square is nothing by far, and its square might be too large."""
    return abs(x[0]).apply("gt", _FAR).apply("bitwise_or", abs(x[1]).apply("gt", _FAR))


def _log_far(x: Pair) -> Part:
    """log |2 z|"""
    return _abs(x).apply("log") + math.log(2)


def _atanh(x: Pair) -> Pair:
    """Of the right half-plane, where 1 + 4 a / ... does not vanish; the function is odd. Far out it is 1 / z beside
    a quarter turn, and very near to 1 the square of the distance vanishes."""
    a, b = abs(x[0]), x[1]
    distance = (-a + 1) * (-a + 1) + b * b
    re = (a * 4 / distance).apply("log1p") * 0.25
    pole = _abs((-a + 1, b)).apply("log") * -0.5 + math.log(2) / 2
    re = distance.apply("lt", 1e-290).where(pole, re)
    im = (b * 2).apply("atan2", (-a + 1) * (a + 1) - b * b) * 0.5
    far, infinite = _is_far(x), _abs(x).apply("eq", math.inf)
    re = far.where(infinite.where(0.0, _reciprocal((a, b))[0]), re)
    return re.apply("copysign", x[0]), far.where(b.number(math.pi / 2).apply("copysign", b), im)


def _pow(x: Pair, y: Pair) -> Pair:
    """exp(y log x); anything to the power 0 is 1, and 0 to another power 0."""
    power = _exp(_mul(y, _log(x)))
    is_zero, is_one = _is("eq", 0)(x), _is("eq", 0)(y)
    zero, one = x[0].number(0.0), x[0].number(1.0)
    power = _where(is_zero, (zero, zero), power)
    return _where(is_one, (one, zero), power)


# --- sums and products ----------------------------------------------------------------------------


def _linear(name: str) -> Rule:
    """The same for each part."""
    return Rule(lambda x, **p: (x[0].apply(name, **p), x[1].apply(name, **p)))


def _bilinear(name: str) -> Rule:
    """A product of products, of matrices and convolutions."""

    def rule(x: Pair, y: Pair, **params: Any) -> Pair:
        (a, b), (c, d) = x, y
        product = lambda s, t: s.apply(name, t, **params)
        return product(a, c) - product(b, d), product(a, d) + product(b, c)

    return Rule(rule)


class _Both(Part):
    """A pair as one: for rules of operations on complex numbers, which are those on parts in the end."""

    __slots__ = ("pair",)

    def __init__(self, pair: Pair):
        self.pair = pair

    @property
    def dtype(self) -> DType:
        return self.pair[0].dtype.to_complex()

    @property
    def shape(self) -> Shape:
        return self.pair[0].shape

    def apply(self, name: str, *others: Any, **params: Any) -> _Both:
        pairs = (self.pair, *[o.pair for o in others])
        if name in RULES:
            return _Both(RULES[name].fn(*pairs, **params))
        a, b = (x.apply(name, *more, **params) for x, *more in zip(*pairs, strict=True))
        return _Both((a, b))

    def number(self, value: float) -> _Both:
        return _Both((self.pair[0].number(value), self.pair[1].number(0.0)))


def _piece(x: Part, dim: int, start: int, stop: int) -> Part:
    """Elements start..stop-1 along a dimension."""
    shape = x.shape
    dim %= len(shape)
    begin = tuple([start if d == dim else 0 for d in range(len(shape))])
    end = tuple([stop if d == dim else n for d, n in enumerate(shape)])
    return x.apply("slice", start=begin, stop=end, step=(1,) * len(shape))


def _product(x: Part, *, dims: tuple[int, ...], keepdim: bool) -> Part:
    """Of everything along the last dimension, in halves: element i times element i + n / 2."""
    given = x.shape
    kept = [d for d in range(len(given)) if d not in dims]
    n = math.prod(given[d] for d in dims)
    if 0 in given:
        return x.apply("sum", dims=dims, keepdim=keepdim).apply("add", x.number(1))
    x = x.apply("permute", dims=(*kept, *dims)).apply("reshape", shape=(*(given[d] for d in kept), n))
    while n > 1:
        half = n // 2
        product = _piece(x, -1, 0, half).apply("mul", _piece(x, -1, half, 2 * half))
        x = product.apply("concat", _piece(x, -1, 2 * half, n), dim=len(kept)) if n % 2 else product
        n -= half
    return x.apply(
        "reshape", shape=tuple([1 if d in dims else m for d, m in enumerate(given) if keepdim or d not in dims])
    )


def _running_product(x: Part, *, dim: int) -> Part:
    """Every element times the one before it, then times that two before, four before (Hillis & Steele)."""
    n, reach = x.shape[dim] if x.shape else 1, 1
    while reach < n:
        rest = _piece(x, dim, reach, n).apply("mul", _piece(x, dim, 0, n - reach))
        x, reach = _piece(x, dim, 0, reach).apply("concat", rest, dim=dim), 2 * reach
    return x


LINEAR = ("sum", "cumsum", "sum_pool", "sum_pool_grad", "sum_pool_last", "sum_pool_last_grad")
BILINEAR = (
    "matmul", "conv", "conv_input_grad", "conv_weight_grad", "conv_last", "conv_last_input_grad",
    "conv_last_weight_grad",
)  # fmt: skip

RULES: dict[str, Rule] = {
    "neg": Rule(_minus),
    "conj": Rule(lambda x: (x[0], -x[1])),
    "add": Rule(lambda x, y: (x[0] + y[0], x[1] + y[1])),
    "sub": Rule(lambda x, y: (x[0] - y[0], x[1] - y[1])),
    "mul": Rule(_mul),
    "div": Rule(_div),
    "abs": Rule(_abs, wide=True),
    "eq": Rule(_both("eq", "bitwise_and")),
    "ne": Rule(_both("ne", "bitwise_or")),
    "logical_not": Rule(_is("eq", 0)),
    "isfinite": Rule(_is("isfinite")),
    "exp": Rule(_exp, wide=True),
    "expm1": Rule(_expm1, wide=True),
    "log": Rule(_log, wide=True),
    "log1p": Rule(_log1p, wide=True),
    "sqrt": Rule(_sqrt, wide=True),
    "rsqrt": Rule(lambda x: _reciprocal(_sqrt(x)), wide=True),
    "pow": Rule(_pow, wide=True),
    "sinh": Rule(_sinh, wide=True),
    "cosh": Rule(_cosh, wide=True),
    "tanh": Rule(_tanh, wide=True),
    "sin": Rule(lambda x: _over_i(_sinh(_times_i(x))), wide=True),
    "cos": Rule(lambda x: _cosh(_times_i(x)), wide=True),
    "tan": Rule(lambda x: _over_i(_tanh(_times_i(x))), wide=True),
    "asin": Rule(_asin, wide=True),
    "acos": Rule(_acos, wide=True),
    "asinh": Rule(lambda x: _over_i(_asin(_times_i(x))), wide=True),
    "acosh": Rule(_acosh, wide=True),
    "atanh": Rule(_atanh, wide=True),
    "atan": Rule(lambda x: _over_i(_atanh(_times_i(x))), wide=True),
    "sigmoid": Rule(lambda x: _reciprocal(_plus(_exp(_minus(x)), 1)), wide=True),
    "where": Rule(_where),
    "prod": Rule(_product, whole=True),
    "cumprod": Rule(_running_product, whole=True),
    **{name: _linear(name) for name in LINEAR},
    **{name: _bilinear(name) for name in BILINEAR},
}
