"""The gates of recurrent layers: sigmoid and tanh in float32 arithmetic, at half the cost of those in vmath.py.

Their errors are below two units in the last place (measured over the whole range). NaN stays NaN; tanh is odd, with
the sign of zero; sigmoid goes down to denormal numbers.
"""

from __future__ import annotations

import math

from .emit import Function, Val, element, vector
from .vmath import _clamp, _fabs, _poly

# exp r = 1 + r + r**2 q(r) for |r| <= ln(2) / 2: q, highest power first, makes the largest relative error least
# (4e-9; Lawson's algorithm)
_Q = (0.001381459878757596, 0.008368716575205326, 0.04166838899254799, 0.1666652113199234, 0.4999999403953552)
_LN2_HIGH, _LN2_LOW = 0.693145751953125, 1.428606765330187e-06  # the first has 16 bits: times n it is exact
_MAGIC = 1.5 * 2.0**23
# expm1(2h) = h times this polynomial for |h| <= ln(2) / 4, highest power first (3e-9)
_EXPM1 = (
    0.08841357380151749, 0.2677988111972809, 0.6666942238807678, 1.3333216905593872, 1.999999761581421, 2.0,
)  # fmt: skip
# (tanh x - x) / x**3 in powers of x**2, highest first, up to where tanh is 1/2 (4e-8 of tanh)
_TANH = (0.01644725911319256, -0.052676741033792496, 0.1332079917192459, -0.3333294987678528)
_AT_HALF = math.atanh(0.5)
_SHIFT = -24  # 1 and exp(-x) times 2**-24: so the latter stays finite down to -104, where sigmoid vanishes


def _power_of_2(f: Function, shifted: Val, shift: int = 0) -> Val:
    """2**(n + shift), where `shifted` is n plus the magic number."""
    _, lanes = element(shifted.ty)
    ity = vector("i32", lanes)
    bits = f.op("shl", f.convert("bitcast", shifted, "i32"), f.const(23, ity))
    return f.convert("bitcast", f.op("add", bits, f.const((127 + shift) << 23, ity)), "float")


def sigmoid(f: Function, x: Val) -> Val:
    """1 / (1 + exp(-x)), with exp(-x) = 2**n (1 + t) and x = r - n ln 2."""
    ty = x.ty
    x, magic, one = _clamp(f, x, -104.0, 20.0), f.const(_MAGIC, ty), f.const(2.0**_SHIFT, ty)
    shifted = f.intrinsic("fma", [x, f.const(-1 / math.log(2), ty), magic])
    n = f.op("fsub", shifted, magic)
    r = f.intrinsic("fma", [n, f.const(_LN2_HIGH, ty), x])
    r = f.intrinsic("fma", [n, f.const(_LN2_LOW, ty), r])
    t = f.op("fmul", r, _poly(f, r, [*(c * s for c, s in zip(_Q, (1, -1, 1, -1, 1), strict=True)), -1.0]))
    power = _power_of_2(f, shifted, _SHIFT)
    return f.op("fdiv", one, f.op("fadd", f.intrinsic("fma", [t, power, one]), power))


def tanh(f: Function, x: Val) -> Val:
    """1 - 2 / (exp(2|x|) + 1) with x's sign, where 2|x| = n ln 2 + 2h; from -1/2 to 1/2 a polynomial."""
    ty = x.ty
    magic, one, most = f.const(_MAGIC, ty), f.const(1.0, ty), f.const(10.0, ty)
    size = _fabs(f, x)
    square = f.op("fmul", x, x)
    small = f.intrinsic("fma", [f.op("fmul", size, square), _poly(f, square, _TANH), size])
    is_small = f.fcmp("olt", size, f.const(_AT_HALF, ty))
    size = f.select(f.fcmp("ogt", size, most), most, size)
    shifted = f.intrinsic("fma", [size, f.const(2 / math.log(2), ty), magic])
    n = f.op("fsub", shifted, magic)
    h = f.intrinsic("fma", [n, f.const(-math.log(2) / 2, ty), size])
    t = f.op("fmul", h, _poly(f, h, _EXPM1))
    power = _power_of_2(f, shifted)
    e = f.intrinsic("fma", [t, power, f.op("fadd", power, one)])
    large = f.op("fsub", one, f.op("fdiv", f.const(2.0, ty), e))
    return f.intrinsic("copysign", [f.select(is_small, small, large), x])
