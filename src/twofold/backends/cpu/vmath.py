"""Transcendental functions on vectors, written in IR.

float64 has errors of one to two units in the last place. float32 (and what is held as float32) has
functions of its own for what models use (vsingle.py); what else there is computes in double and rounds
once, so that its errors are barely above half a unit. NaN stays NaN, infinities and signed zeros are
those of IEEE 754.

Sources: Cody & Waite 1980, "Software Manual for the Elementary Functions" (range reduction);
Higham 2002, "Accuracy and Stability of Numerical Algorithms", section 1.14.1 (log1p).
"""

from __future__ import annotations

import math
from collections.abc import Callable

from ...primitives._special import _ERF, _ERFC
from . import vsingle
from .emit import Function, Val, element, vector
from .vsingle import _clamp, _fabs, _fneg, _poly

_LN2 = math.log(2)
_LN2_HIGH, _LN2_LOW = 6.93147180369123816490e-01, 1.90821492927058770002e-10
_FAR = 150.0  # exp of it is no float32
_MODERATE = 40.0  # exp of it, or 1 beside it, is nothing to a double

# 2**r for |r| <= 1/2, highest power first: 1 + r ln 2 + r**2 q(r), where q makes the largest relative error least
# (5.2e-11; Lawson's algorithm). So near 0 what remains of 2**r - 1 is as exact.
_POWER_OF_2 = (
    1.5213629648402944e-05, 0.0001546537062584338, 0.001333381985140081, 0.00961804333545716,
    0.05550410601192003, 0.24022651020916325, _LN2, 1.0,
)  # fmt: skip


def _scale(f: Function, p: Val, n: Val) -> Val:
    """p * 2**n in two steps, so that results near overflow and denormal ones are right."""
    _, lanes = element(p.ty)
    ity = vector("i64", lanes)
    whole = f.convert("fptosi", f.select(f.fcmp("uno", n, n), f.const(0, n.ty), n), "i64")
    half = f.op("ashr", whole, f.const(1, ity))
    for part in (half, f.op("sub", whole, half)):
        bits = f.op("shl", f.op("add", part, f.const(1023, ity)), f.const(52, ity))
        p = f.op("fmul", p, f.convert("bitcast", bits, "double"))
    return p


def _split(f: Function, x: Val) -> tuple[Val, Val]:
    """x = n ln 2 + r with |r| <= ln 2 / 2."""
    n = f.intrinsic("rint", [f.op("fmul", x, f.const(1 / _LN2, x.ty))])
    r = f.intrinsic("fma", [n, f.const(-_LN2_HIGH, x.ty), x])
    return n, f.intrinsic("fma", [n, f.const(-_LN2_LOW, x.ty), r])


def _exp(f: Function, x: Val, exact: bool) -> Val:
    """Taylor's series of degree 13 on the reduced argument, for float64."""
    if not exact:
        return _power_of_e(f, _clamp(f, x, -_FAR, _FAR))
    n, r = _split(f, _clamp(f, x, -746.0, 710.0))
    return _scale(f, _poly(f, r, [1 / math.factorial(k) for k in range(13, -1, -1)]), n)


def _power_of_e(f: Function, x: Val) -> Val:
    """exp(x) to ten digits, in double, for a float32 within -150 and 150: that is past where a float32
    overflows or vanishes.

    2**y with y = x / ln 2. Adding 3 * 2**51 rounds y to a whole number n, which then stands in the lowest
    bits, and is added to the exponent of 2**(y - n). A NaN has zeros there, as all have that come from a float32.
    """
    ty = x.ty
    _, lanes = element(ty)
    ity = vector("i64", lanes)
    magic = f.const(1.5 * 2.0**52, ty)
    y = f.op("fmul", x, f.const(1 / _LN2, ty))
    shifted = f.op("fadd", y, magic)
    p = _poly(f, f.op("fsub", y, f.op("fsub", shifted, magic)), _POWER_OF_2)
    whole = f.op("shl", f.convert("bitcast", shifted, "i64"), f.const(52, ity))
    return f.convert("bitcast", f.op("add", f.convert("bitcast", p, "i64"), whole), "double")


def _expm1(f: Function, x: Val, exact: bool) -> Val:
    """For float64 (2**n - 1) + 2**n (exp(r) - 1), which rounds once; far out 1 more or less is nothing."""
    one = f.const(1.0, x.ty)
    if not exact:
        small = f.op("fmul", x, _poly(f, x, [1 / math.factorial(k) for k in range(11, 0, -1)]))
        large = f.op("fsub", _exp(f, x, exact), one)
        return f.select(f.fcmp("olt", _fabs(f, x), f.const(0.5, x.ty)), small, large)
    n, q = _reduced_expm1(f, _clamp(f, x, -746.0, 710.0))
    power = _moderate_power(f, n)
    near = f.intrinsic("fma", [q, power, f.op("fsub", power, one)])
    far = f.op("fsub", _scale(f, f.op("fadd", one, q), n), one)
    r = f.select(f.fcmp("ogt", _fabs(f, x), f.const(_MODERATE, x.ty)), far, near)
    return f.intrinsic("copysign", [r, x])


def _reduced_expm1(f: Function, x: Val) -> tuple[Val, Val]:
    """n and exp(r) - 1, where x = n ln 2 + r; for float64. From -1/2 to 1/2, n is 0."""
    n, r = _split(f, x)
    small = f.fcmp("olt", _fabs(f, x), f.const(0.5, x.ty))
    n, r = f.select(small, f.const(0.0, x.ty), n), f.select(small, x, r)
    series = _poly(f, r, [1 / math.factorial(k) for k in range(16, 1, -1)])
    return n, f.intrinsic("fma", [f.op("fmul", r, r), series, r])


def _moderate_power(f: Function, n: Val) -> Val:
    """2**n for a whole n, up to 2**60 and down to 2**-60; so 2**n - 1 and 2**n + 1 are nearly exact."""
    _, lanes = element(n.ty)
    ity = vector("i64", lanes)
    shifted = f.op("fadd", _clamp(f, n, -60.0, 60.0), f.const(1.5 * 2.0**52, n.ty))
    bits = f.op("shl", f.convert("bitcast", shifted, "i64"), f.const(52, ity))
    return f.convert("bitcast", f.op("add", bits, f.const(1023 << 52, ity)), "double")


def _log(f: Function, x: Val, exact: bool) -> Val:
    """log x = e ln 2 + 2 artanh(s), s = (m - 1) / (m + 1), with m in [sqrt(1/2), sqrt(2))."""
    ty = x.ty
    _, lanes = element(ty)
    ity = vector("i64", lanes)
    tiny = f.fcmp("olt", x, f.const(2.2250738585072014e-308, ty))
    scaled = f.select(tiny, f.op("fmul", x, f.const(2.0**54, ty)), x)
    bits = f.convert("bitcast", scaled, "i64")
    off = f.op("sub", bits, f.const(0x3FE6A09E667F3BCD, ity))
    exponent = f.op("ashr", off, f.const(52, ity))
    m = f.convert("bitcast", f.op("sub", bits, f.op("shl", exponent, f.const(52, ity))), "double")
    e = f.convert("sitofp", exponent, "double")
    e = f.op("fsub", e, f.select(tiny, f.const(54.0, ty), f.const(0.0, ty)))
    one = f.const(1.0, ty)
    u = f.op("fsub", m, one)
    s = f.op("fdiv", u, f.op("fadd", m, one))
    s2 = f.op("fmul", s, s)
    tail = f.op("fmul", s2, _poly(f, s2, [2 / k for k in range(23 if exact else 13, 2, -2)]))
    # u - s (u - tail) is log m with the rounding of s made up for
    low = f.intrinsic("fma", [e, f.const(_LN2_LOW, ty), _fneg(f, f.op("fmul", s, f.op("fsub", u, tail)))])
    r = f.intrinsic("fma", [e, f.const(_LN2_HIGH, ty), f.op("fadd", u, low)])
    zero, inf = f.const(0.0, ty), f.const(math.inf, ty)
    r = f.select(f.fcmp("oeq", x, zero), f.const(-math.inf, ty), r)
    r = f.select(f.fcmp("oeq", x, inf), inf, r)
    r = f.select(f.fcmp("olt", x, zero), f.const(math.nan, ty), r)
    return f.select(f.fcmp("uno", x, x), x, r)


def _log1p(f: Function, x: Val, exact: bool) -> Val:
    """log(1 + x) + (x - ((1 + x) - 1)) / (1 + x): the second term is what rounding 1 + x lost."""
    ty = x.ty
    one = f.const(1.0, ty)
    u = f.op("fadd", one, x)
    lost = f.op("fdiv", f.op("fsub", x, f.op("fsub", u, one)), u)
    r = f.op("fadd", _log(f, u, exact), lost)
    finite = f.fcmp("olt", _fabs(f, u), f.const(math.inf, ty))
    r = f.select(finite, r, _log(f, u, exact))
    r = f.select(f.fcmp("oeq", u, f.const(0.0, ty)), f.const(-math.inf, ty), r)
    return f.select(f.fcmp("oeq", x, f.const(0.0, ty)), x, r)


def _tanh(f: Function, x: Val) -> Val:
    """expm1(2|x|) / (expm1(2|x|) + 2), with x's sign."""
    two = f.const(2.0, x.ty)
    e = _expm1(f, _clamp(f, f.op("fmul", _fabs(f, x), two), 0.0, 44.0), True)
    below = f.op("fadd", e, two)
    lost = f.op("fsub", e, f.op("fsub", below, two))
    r = f.op("fdiv", e, below)
    r = f.op("fsub", r, f.op("fmul", r, f.op("fdiv", lost, below)))
    return f.intrinsic("copysign", [r, x])


def _sigmoid(f: Function, x: Val) -> Val:
    """1 / (1 + exp(-x)), and e - e**2 with e = exp(x) where 1 + exp(-x) is no longer exact."""
    one = f.const(1.0, x.ty)
    n, q = _reduced_expm1(f, _clamp(f, _fneg(f, x), -60.0, 36.0))
    power = _moderate_power(f, n)
    near = f.op("fdiv", one, f.intrinsic("fma", [q, power, f.op("fadd", power, one)]))
    e = _exp(f, _clamp(f, x, -800.0, 0.0), True)
    far = f.intrinsic("fma", [_fneg(f, e), e, e])
    return f.select(f.fcmp("olt", x, f.const(-36.0, x.ty)), far, near)


def _erf(f: Function, x: Val) -> Val:
    """A polynomial up to 1; from there on 1 - exp(-x**2) times one."""
    ty = x.ty
    one, size = f.const(1.0, ty), _fabs(f, x)
    u = f.intrinsic("fma", [f.const(2.0, ty), f.op("fmul", x, x), f.const(-1.0, ty)])
    small = f.op("fmul", x, _poly(f, u, _ERF[::-1]))
    a = _clamp(f, size, 1.0, 30.0)
    three = f.const(3.0, ty)
    t = f.op("fdiv", f.op("fsub", a, three), f.op("fadd", a, three))
    t = f.op("fmul", f.op("fsub", t, f.const(0.25, ty)), f.const(4 / 3, ty))
    series = f.op("fdiv", _poly(f, t, _ERFC[::-1]), f.intrinsic("fma", [f.const(2.0, ty), a, one]))
    tail = f.op("fmul", series, _exp(f, _fneg(f, f.op("fmul", a, a)), True))
    large = f.intrinsic("copysign", [f.op("fsub", one, tail), x])
    return f.select(f.fcmp("ogt", size, one), large, small)


def _in_double(fn: Callable[[Function, Val, bool], Val]) -> Callable[[Function, Val], Val]:
    """For float32, a function computed in double."""

    def call(f: Function, x: Val) -> Val:
        e, _ = element(x.ty)
        if e == "double":
            return fn(f, x, True)
        return f.convert("fptrunc", fn(f, f.convert("fpext", x, "double"), False), "float")

    return call


def _by_dtype(
    single: Callable[[Function, Val], Val], double: Callable[[Function, Val], Val]
) -> Callable[[Function, Val], Val]:
    """A function for float32, and one for float64."""
    return lambda f, x: (double if element(x.ty)[0] == "double" else single)(f, x)


def _pow(f: Function, x: Val, y: Val, power: Callable[[Function, Val, Val, bool], Val]) -> Val:
    """`power(|x|, y)` with the sign of an odd power; IEEE 754's special cases."""
    e, _ = element(x.ty)
    exact = e == "double"
    a, b = (x, y) if exact else (f.convert("fpext", x, "double"), f.convert("fpext", y, "double"))
    ty = a.ty
    zero, one, inf = f.const(0.0, ty), f.const(1.0, ty), f.const(math.inf, ty)
    size = _fabs(f, a)
    r = power(f, size, b, exact)
    whole = f.fcmp("oeq", f.intrinsic("floor", [b]), b)
    half = f.op("fmul", b, f.const(0.5, ty))
    odd = f.op("and", whole, f.fcmp("one", f.intrinsic("floor", [half]), half))
    negative = f.fcmp("olt", f.intrinsic("copysign", [one, a]), zero)
    signed = f.select(f.op("and", odd, negative), _fneg(f, r), r)
    below = f.fcmp("olt", a, zero)
    finite = f.fcmp("olt", size, inf)
    fractional = f.op("and", f.op("and", below, finite), f.fcmp("one", f.intrinsic("floor", [b]), b))
    r = f.select(fractional, f.const(math.nan, ty), signed)
    r = f.select(f.op("and", f.fcmp("oeq", size, one), f.fcmp("oeq", _fabs(f, b), inf)), one, r)
    r = f.select(f.op("or", f.fcmp("oeq", a, one), f.fcmp("oeq", b, zero)), one, r)
    return r if exact else f.convert("fptrunc", r, "float")


# In order of use in models.
MATH: dict[str, Callable[..., Val]] = {
    "exp": _by_dtype(vsingle.exp, lambda f, x: _exp(f, x, True)),
    "log": _by_dtype(vsingle.log, lambda f, x: _log(f, x, True)),
    "sigmoid": _by_dtype(vsingle.sigmoid, _sigmoid),
    "tanh": _by_dtype(vsingle.tanh, _tanh),
    "erf": _by_dtype(vsingle.erf, _erf),
    "expm1": _by_dtype(vsingle.expm1, lambda f, x: _expm1(f, x, True)),
    "log1p": _by_dtype(vsingle.log1p, lambda f, x: _log1p(f, x, True)),
}
