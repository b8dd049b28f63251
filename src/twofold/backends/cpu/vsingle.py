"""Transcendental functions of float32 in float32 arithmetic, on vectors, written in IR.

Each takes half the time of computing in double and rounding, or less. Errors are below 2 units in the last place;
docs/design/0003-numerics.md has them by function. Results go down to denormal numbers, NaN stays NaN, and odd
functions are odd, zeros included.

Polynomials are minimax ones for the relative error of the function: a fit by least squares at 1501 Chebyshev nodes,
then a linear programme for what it leaves. Coefficients are rounded to float32 one after another, from the lowest
power on; those that remain are fitted again each time. The errors written beside them are those of the polynomials
alone, relative to the function; half a unit in the last place is 6e-8, or 3e-8 just below a power of 2.

Sources: Cody & Waite 1980, "Software Manual for the Elementary Functions" (range reduction); Muller 2016,
"Elementary Functions", chapters 3 and 11.
"""

from __future__ import annotations

import math
from collections.abc import Sequence

from .emit import Function, Val, element, vector

_LN2_HIGH, _LN2_LOW = 0.693145751953125, 1.428606765330187e-06  # the first has 16 bits: times n it is exact
_MAGIC = 1.5 * 2.0**23  # adding it rounds to a whole number, which then stands in the lowest bits

# All highest power first.
# (exp r - 1 - r) / r**2 for |r| <= ln(2) / 2 (3e-9 of exp r)
_EXP = (0.0013820945750921965, 0.008368683978915215, 0.04166826605796814, 0.1666652113199234, 0.4999999403953552)
# the same (1.4e-8 of exp r - 1)
_EXPM1 = (0.0013870657421648502, 0.00836626160889864, 0.04166743531823158, 0.1666654646396637, 0.4999999701976776)
# (exp(2r) - 1 - 2r) / (2 r**2) for |r| <= ln(2) / 4 (1.4e-8 of exp(2r) - 1)
_EXPM1_OF_TWICE = (
    0.04438621550798416, 0.13386034965515137, 0.33333948254585266, 0.6666618585586548, 0.9999999403953552,
)  # fmt: skip
# (log(1 + u) - u) / u**2 for |u| <= 1/3 (4.6e-9 of log(1 + u))
_LOG = (
    -0.12880054116249084, 0.13984593749046326, -0.12187477946281433, 0.14005734026432037, -0.16680195927619934,
    0.2001042664051056, -0.2499980628490448, 0.3333321511745453, -0.5,
)  # fmt: skip
# (erf x - x) / x in powers of x**2, for |x| <= 0.9 (1.4e-8 of erf)
_ERF = (
    -0.0006020799628458917, 0.004998959135264158, -0.026770493015646935, 0.11281921714544296, -0.3761250376701355,
    0.12837915122509003,
)  # fmt: skip
# log2(1 - erf x) for x from 0.9 to 4 (2e-9 of erf)
_LOG2_OF_REST = (
    0.00028446383657865226, -0.004408248700201511, 0.032138891518116, -0.15009400248527527, -0.9190830588340759,
    -1.6269986629486084, -0.00025607715360820293,
)  # fmt: skip
# 2**r for |r| <= 1/2 (3e-9)
_POWER_OF_2 = (
    0.00015326471475418657, 0.0013390806270763278, 0.009618505835533142, 0.05550359934568405, 0.24022647738456726,
    0.6931471824645996, 1.0,
)  # fmt: skip
_SHIFT = -24  # 1 and exp(-x) times 2**-24: so the latter stays finite down to -104, where sigmoid vanishes


# --- what all functions consist of ----------------------------------------------------------------


def _fma(f: Function, a: Val, b: Val, c: Val) -> Val:
    return f.intrinsic("fma", [a, b, c])


def _poly(f: Function, x: Val, coefficients: Sequence[float]) -> Val:
    """Horner's scheme with fused multiply-adds, highest power first."""
    r = f.const(coefficients[0], x.ty)
    for c in coefficients[1:]:
        r = _fma(f, r, x, f.const(c, x.ty))
    return r


def _clamp(f: Function, x: Val, low: float, high: float) -> Val:
    """A NaN stays."""
    x = f.select(f.fcmp("olt", x, f.const(low, x.ty)), f.const(low, x.ty), x)
    return f.select(f.fcmp("ogt", x, f.const(high, x.ty)), f.const(high, x.ty), x)


def _fneg(f: Function, x: Val) -> Val:
    return f.value(f"fneg {x}", x.ty)


def _fabs(f: Function, x: Val) -> Val:
    return f.intrinsic("fabs", [x])


def _bits(f: Function, x: Val) -> Val:
    return f.convert("bitcast", x, "i32")


def _float(f: Function, bits: Val) -> Val:
    return f.convert("bitcast", bits, "float")


def _int(f: Function, value: int, like: Val) -> Val:
    """An i32 for each element of `like`."""
    return f.const(value, vector("i32", element(like.ty)[1]))


def _exponent(f: Function, shifted: Val) -> Val:
    """n where a float has its exponent, for `shifted`, which is n plus the magic number."""
    return f.op("shl", _bits(f, shifted), _int(f, 23, shifted))


def _two_to_the(f: Function, shifted: Val, shift: int = 0) -> Val:
    """2**(n + shift)."""
    return _float(f, f.op("add", _exponent(f, shifted), _int(f, (127 + shift) << 23, shifted)))


def _split(f: Function, x: Val) -> tuple[Val, Val, Val]:
    """n plus the magic number, n, and what remains of x = n ln 2 + r with |r| <= ln 2 / 2 but for n's share of the
    low part of ln 2. That is exact.
    """
    magic = f.const(_MAGIC, x.ty)
    shifted = _fma(f, x, f.const(1 / math.log(2), x.ty), magic)
    n = f.op("fsub", shifted, magic)
    return shifted, n, _fma(f, n, f.const(-_LN2_HIGH, x.ty), x)


# --- exponentials ---------------------------------------------------------------------------------


def exp(f: Function, x: Val) -> Val:
    """2**n exp r with x = n ln 2 + r; from -150 to 128 n has more binades than there are.

    So 2**n is 2**(n - 64) times 2**64 for positive x, and 2**(n + 64) times 2**-64 for negative ones. The second
    product rounds only what is denormal. exp r - 1 is added to 1 at the end, for then results never fall.
    """
    x = _clamp(f, x, -104.0, 89.0)
    shifted, n, high = _split(f, x)
    low = f.op("fmul", n, f.const(-_LN2_LOW, x.ty))
    r = f.op("fadd", high, low)
    t = f.op("fadd", high, _fma(f, f.op("fmul", r, r), _poly(f, r, _EXP), low))
    if f.module.hardware_scaling and element(x.ty)[1] in (16, 32):
        return _scaled(f, f.op("fadd", f.const(1.0, x.ty), t), n)
    sign = f.op("and", f.op("lshr", _bits(f, x), _int(f, 1, x)), _int(f, 1 << 30, x))
    here = f.op("xor", sign, _int(f, (127 - 64) << 23, x))  # the bits of 2**-64 or 2**64
    there = f.op("xor", sign, _int(f, (127 + 64) << 23, x))
    power = _float(f, f.op("add", _exponent(f, shifted), here))
    return f.op("fmul", _fma(f, t, power, power), _float(f, there))


def _scaled(f: Function, x: Val, n: Val) -> Val:
    """x * 2**n, rounded once, of 16 or 32 lanes: the instruction of AVX-512."""
    if element(x.ty)[1] == 32:
        low, high = range(16), range(16, 32)
        first, second = (_scaled(f, _shuffled(f, x, x, part), _shuffled(f, n, n, part)) for part in (low, high))
        return _shuffled(f, first, second, range(32))
    symbol = "llvm.x86.avx512.mask.scalef.ps.512"
    f.module.declare(symbol, x.ty, [x.ty, x.ty, x.ty, "i16", "i32"])
    return f.value(f"call {x.ty} @{symbol}({x}, {n}, {x.ty} zeroinitializer, i16 -1, i32 4)", x.ty)


def _shuffled(f: Function, a: Val, b: Val, places: range) -> Val:
    order = ", ".join(f"i32 {i}" for i in places)
    ty = vector(element(a.ty)[0], len(places))
    return f.value(f"shufflevector {a}, {b}, <{len(places)} x i32> <{order}>", ty)


def expm1(f: Function, x: Val) -> Val:
    """e = exp r - 1 where n is 0, else 2 (e 2**(n-1) + (2**(n-1) - 1/2)), which does not overflow too early."""
    shifted, n, high = _split(f, _clamp(f, x, -18.0, 89.0))
    r = _fma(f, n, f.const(-_LN2_LOW, x.ty), high)
    e = _fma(f, f.op("fmul", r, r), _poly(f, r, _EXPM1), r)
    power = _two_to_the(f, shifted, -1)
    half = _fma(f, e, power, f.op("fadd", power, f.const(-0.5, x.ty)))
    inside = f.fcmp("olt", _fabs(f, x), f.const(0.34, x.ty))
    return f.intrinsic("copysign", [f.select(inside, e, f.op("fadd", half, half)), x])


def sigmoid(f: Function, x: Val) -> Val:
    """1 / (1 + exp(-x)), with exp(-x) = 2**n (1 + t) and x = r - n ln 2; what rounding 1 + 2**n loses is added."""
    ty = x.ty
    x, magic, one = _clamp(f, x, -104.0, 20.0), f.const(_MAGIC, ty), f.const(2.0**_SHIFT, ty)
    shifted = _fma(f, x, f.const(-1 / math.log(2), ty), magic)
    n = f.op("fsub", shifted, magic)
    r = _fma(f, n, f.const(_LN2_HIGH, ty), x)
    r = _fma(f, n, f.const(_LN2_LOW, ty), r)
    of_minus = [c * s for c, s in zip(_EXP, (1, -1, 1, -1, 1), strict=True)]
    t = _fma(f, f.op("fmul", r, r), _poly(f, r, of_minus), _fneg(f, r))
    power = _two_to_the(f, shifted, _SHIFT)
    whole = f.op("fadd", power, one)
    lost = f.op("fsub", one, f.op("fsub", whole, power))
    return f.op("fdiv", one, f.op("fadd", whole, _fma(f, t, power, lost)))


def tanh(f: Function, x: Val) -> Val:
    """y = e / (e + 1) with x's sign, where 2e = exp(2|x|) - 1 and |x| = n ln(2)/2 + r.

    Up to 0.34 it is e - e y, in which the errors of y count less.
    """
    ty, size = x.ty, _fabs(f, x)
    magic, half, most = f.const(_MAGIC, ty), f.const(0.5, ty), f.const(10.0, ty)
    near = f.select(f.fcmp("ogt", size, most), most, size)
    shifted = _fma(f, near, f.const(2 / math.log(2), ty), magic)
    r = _fma(f, f.op("fsub", shifted, magic), f.const(-math.log(2) / 2, ty), near)
    t = _fma(f, f.op("fmul", r, r), _poly(f, r, _EXPM1_OF_TWICE), r)
    power = _two_to_the(f, shifted)
    e = _fma(f, t, power, _fma(f, power, half, _fneg(f, half)))
    y = f.op("fdiv", e, f.op("fadd", e, f.const(1.0, ty)))
    y = f.select(f.fcmp("olt", size, f.const(0.34, ty)), _fma(f, _fneg(f, e), y, e), y)
    return f.intrinsic("copysign", [y, x])


def erf(f: Function, x: Val) -> Val:
    """x + x p(x**2) up to 0.9, and from there on 1 - 2**q(|x|), with x's sign; past 4 it is 1."""
    ty = x.ty
    size, most, magic = _fabs(f, x), f.const(4.0, x.ty), f.const(_MAGIC, x.ty)
    small = _fma(f, x, _poly(f, f.op("fmul", x, x), _ERF), x)
    power = _poly(f, f.select(f.fcmp("ogt", size, most), most, size), _LOG2_OF_REST)
    shifted = f.op("fadd", power, magic)
    p = _poly(f, f.op("fsub", power, f.op("fsub", shifted, magic)), _POWER_OF_2)
    rest = _float(f, f.op("add", _bits(f, p), _exponent(f, shifted)))  # of a NaN nothing, but that is not chosen
    large = f.intrinsic("copysign", [f.op("fsub", f.const(1.0, ty), rest), x])
    return f.select(f.fcmp("ogt", size, f.const(0.9, ty)), large, small)


# --- logarithms -----------------------------------------------------------------------------------


def _logarithm(f: Function, u: Val, exponent: Val) -> Val:
    """log(1 + u) + e ln 2, for |u| <= 1/3."""
    tail = _poly(f, u, _LOG)
    r = _fma(f, f.op("fmul", u, u), tail, u)
    return _fma(f, exponent, f.const(math.log(2), u.ty), r)


def _exponent_of(f: Function, bits: Val) -> Val:
    """e where a float has its exponent, for the bits of 2**e m with m in [2/3, 4/3)."""
    return f.op("and", f.op("sub", bits, f.const(0x3F2AAAAB, bits.ty)), f.const(-1 << 23, bits.ty))


def log(f: Function, x: Val) -> Val:
    """e ln 2 + log(1 + u) with x = 2**e (1 + u), |u| <= 1/3."""
    ty = x.ty
    zero = f.const(0.0, ty)
    tiny = f.fcmp("olt", x, f.const(2.0**-126, ty))
    bits = _bits(f, f.select(tiny, f.op("fmul", x, f.const(2.0**24, ty)), x))
    exponent = _exponent_of(f, bits)
    u = f.op("fsub", _float(f, f.op("sub", bits, exponent)), f.const(1.0, ty))
    e = f.convert("sitofp", exponent, "float")
    e = _fma(f, e, f.const(2.0**-23, ty), f.select(tiny, f.const(-24.0, ty), zero))
    r = _logarithm(f, u, e)
    usual = f.icmp("ult", f.op("sub", _bits(f, x), _int(f, 1, x)), _int(f, 0x7F7FFFFF, x))
    other = f.select(f.fcmp("olt", x, zero), f.const(math.nan, ty), x)  # infinity and NaN
    return f.select(usual, r, f.select(f.fcmp("oeq", x, zero), f.const(-math.inf, ty), other))


def log1p(f: Function, x: Val) -> Val:
    """e ln 2 + log(1 + u) with 1 + x = 2**e (1 + u), that is u = x 2**-e + (2**-e - 1)."""
    ty = x.ty
    one = f.const(1.0, ty)
    exponent = _exponent_of(f, _bits(f, f.op("fadd", x, one)))
    scaled = _float(f, f.op("sub", _bits(f, x), exponent))
    quarter = _float(f, f.op("sub", _int(f, 129 << 23, x), exponent))  # 4 times 2**-e, which is never denormal
    u = f.op("fadd", scaled, _fma(f, quarter, f.const(0.25, ty), f.const(-1.0, ty)))
    e = f.op("fmul", f.convert("sitofp", exponent, "float"), f.const(2.0**-23, ty))
    r = _logarithm(f, u, e)
    zero, minus_one = f.const(0.0, ty), f.const(-1.0, ty)
    pole = f.select(f.fcmp("oeq", x, minus_one), f.const(-math.inf, ty), f.const(math.nan, ty))
    r = f.select(f.fcmp("ogt", x, minus_one), r, pole)
    return f.select(f.op("or", f.fcmp("oeq", x, zero), f.fcmp("oeq", x, f.const(math.inf, ty))), x, r)
