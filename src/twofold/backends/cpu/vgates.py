"""The gates of recurrent layers: sigmoid and tanh in float32 arithmetic, at half the cost of those in vmath.py.

Their errors are below 2.5 units in the last place (measured), but a sigmoid of less than -87 stays that of -87, the
last that is a normal number. NaN stays NaN; tanh is odd, with the sign of zero.
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


def _power_of_2(f: Function, shifted: Val) -> Val:
    """2**n, where `shifted` is n plus the magic number."""
    _, lanes = element(shifted.ty)
    ity = vector("i32", lanes)
    bits = f.op("shl", f.convert("bitcast", shifted, "i32"), f.const(23, ity))
    return f.convert("bitcast", f.op("add", bits, f.const(127 << 23, ity)), "float")


def sigmoid(f: Function, x: Val) -> Val:
    """1 / (1 + exp(-x)), with exp(-x) = 2**n exp(-r) and x = r - n ln 2."""
    ty = x.ty
    x, magic, one = _clamp(f, x, -87.0, 87.0), f.const(_MAGIC, ty), f.const(1.0, ty)
    shifted = f.intrinsic("fma", [x, f.const(-1 / math.log(2), ty), magic])
    n = f.op("fsub", shifted, magic)
    r = f.intrinsic("fma", [n, f.const(_LN2_HIGH, ty), x])
    r = f.intrinsic("fma", [n, f.const(_LN2_LOW, ty), r])
    p = _poly(f, r, [*(c * s for c, s in zip(_Q, (1, -1, 1, -1, 1), strict=True)), -1.0, 1.0])
    return f.op("fdiv", one, f.intrinsic("fma", [p, _power_of_2(f, shifted), one]))


def tanh(f: Function, x: Val) -> Val:
    """expm1(2|x|) / (expm1(2|x|) + 2) with x's sign, where 2|x| = n ln 2 + 2h."""
    ty = x.ty
    size, magic = _fabs(f, x), f.const(_MAGIC, ty)
    size = f.select(f.fcmp("ogt", size, f.const(10.0, ty)), f.const(10.0, ty), size)
    shifted = f.intrinsic("fma", [size, f.const(2 / math.log(2), ty), magic])
    n = f.op("fsub", shifted, magic)
    h = f.intrinsic("fma", [n, f.const(-_LN2_HIGH / 2, ty), size])
    h = f.intrinsic("fma", [n, f.const(-_LN2_LOW / 2, ty), h])
    q = _poly(f, h, [c * 2.0 ** (6 - k) for k, c in enumerate(_Q)])
    p = f.intrinsic("fma", [f.op("fmul", h, h), q, f.op("fadd", h, h)])  # expm1(2h)
    power = _power_of_2(f, shifted)
    e = f.intrinsic("fma", [p, power, f.op("fsub", power, f.const(1.0, ty))])
    return f.intrinsic("copysign", [f.op("fdiv", e, f.op("fadd", e, f.const(2.0, ty))), x])
