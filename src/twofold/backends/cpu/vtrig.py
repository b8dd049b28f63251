"""Circular and hyperbolic functions on vectors, and their inverses, written in IR.

sin and cos of float32 are computed in float32 up to 2**17, with errors below 1.6 units in the last place;
all else of float32 in double, rounded once. float64 has errors of one to two and a half units.

Note [Argument reduction]
sin, cos and tan need x - n pi/2. Up to 2**30 that is three fused multiply-adds with pi/2 in three
doubles: x - n P1 is exact, because both are multiples of 2**-52 and the difference is below 1.
float64 keeps what rounding the result loses as a second number.
Beyond, elements go one by one through a function that multiplies the mantissa with those 192 bits
of 2/pi that matter (Payne and Hanek), so that every finite argument has a right result.
In float32 it is the same with pi/2 in three floats, up to 2**17; vectors with larger elements are
computed in double, by a function of their own.

Sources: Cody & Waite 1980, "Software Manual for the Elementary Functions"; Payne & Hanek 1983,
"Radian reduction for trigonometric functions"; Kahan 1987, "Branch cuts for complex elementary
functions" (asinh, acosh, atanh); Abramowitz & Stegun 1964, 4.3 and 4.4 (series).
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence

from .emit import Function, Module, Val, element, vector
from .vmath import MATH, _by_dtype, _exp, _expm1, _in_double, _log, _log1p
from .vsingle import _MAGIC, _bits, _clamp, _fabs, _float, _fma, _fneg, _int, _poly

# pi/2 as a sum of three doubles
_HALF_PI = (1.5707963267948966, 6.123233995736766e-17, -1.4973849048591698e-33)
# (asin s - s) / s^3 in powers of s^2 up to 1/4, highest first (Chebyshev; 1e-17 of asin)
_ASIN = (
    0.028757851367421566, -0.014851887071247204, 0.01740087944269402, 0.005457506718640358,
    0.01032281435018578, 0.011479177415184906, 0.013971212973552933, 0.017352392720869973,
    0.02237217294214989, 0.030381944138531247, 0.04464285714635543, 0.07499999999998433,
    0.16666666666666669,
)  # fmt: skip
_SIMPLE = 2.0**30  # up to here three doubles suffice

# 64-bit words of 2/pi after the binary point, with a word of zeros in front
_TWO_OVER_PI = (
    0x0000000000000000, 0xA2F9836E4E441529, 0xFC2757D1F534DDC0, 0xDB6295993C439041, 0xFE5163ABDEBBC561,
    0xB7246E3A424DD2E0, 0x06492EEA09D1921C, 0xFE1DEB1CB129A73E, 0xE88235F52EBB4484, 0xE99C7026B45F7E41,
    0x3991D639835339F4, 0x9C845F8BBDF9283B, 0x1FF897FFDE05980F, 0xEF2F118B5A0A6D1F, 0x6D367ECF27CB09B7,
    0x4F463F669E5FEA2D, 0x7527BAC7EBE5F17B, 0x3D0739F78A5292EA, 0x6BFB5FB11F8D5D08, 0x56033046FC7B6BAB,
    0xF0CFBC209AF4361D,
)  # fmt: skip


def _lanes(v: Val) -> int:
    return element(v.ty)[1]


def _rarely(f: Function, mask: Val, usual: Sequence[Val], otherwise: Callable[[], Sequence[Val]]) -> list[Val]:
    """`usual`, but `otherwise()` for all lanes if the mask holds in any."""
    any_lane = mask
    if _lanes(mask) > 1:
        lanes = _lanes(mask)
        symbol = f"llvm.vector.reduce.or.v{lanes}i1"
        f.module.declare(symbol, "i1", [mask.ty])
        any_lane = f.value(f"call i1 @{symbol}({mask})", "i1")
    before, inside, after = f._block, f.label("rare"), f.label("after")
    f.emit(f"br i1 {any_lane.ref}, label %{inside}, label %{after}")
    f.start(inside)
    other = otherwise()
    end = f._block
    f.emit(f"br label %{after}")
    f.start(after)
    return [
        f.value(f"phi {a.ty} [ {a.ref}, %{before} ], [ {b.ref}, %{end} ]", a.ty)
        for a, b in zip(usual, other, strict=True)
    ]


# --- argument reduction ---------------------------------------------------------------------------


def _reduce(f: Function, x: Val, exact: bool) -> tuple[Val, Val | None, Val]:
    """r in [-pi/4, pi/4] and the quadrant n (an i64, of which two bits count) with x = r + n pi/2.

    With `exact` the second number is what rounding r has lost.
    """
    ty, lanes = x.ty, _lanes(x)
    size = _fabs(f, x)
    mask = f.op("and", f.fcmp("ogt", size, f.const(_SIMPLE, ty)), f.fcmp("olt", size, f.const(math.inf, ty)))
    n = f.intrinsic("rint", [f.op("fmul", _clamp(f, x, -2 * _SIMPLE, 2 * _SIMPLE), f.const(2 / math.pi, ty))])
    first = f.intrinsic("fma", [n, f.const(-_HALF_PI[0], ty), x])
    usual = []
    if exact:  # the exact difference of two numbers, as r and what it has lost
        second = f.op("fmul", n, f.const(_HALF_PI[1], ty))
        r = f.op("fsub", first, second)
        back = f.op("fsub", r, first)
        lost = f.op("fsub", f.op("fsub", first, f.op("fsub", r, back)), f.op("fadd", second, back))
        lost = f.op("fsub", lost, f.intrinsic("fma", [n, f.const(_HALF_PI[1], ty), _fneg(f, second)]))
        usual.append(f.intrinsic("fma", [n, f.const(-_HALF_PI[2], ty), lost]))
    else:
        for part in _HALF_PI[1:]:
            first = f.intrinsic("fma", [n, f.const(-part, ty), first])
        r = first
    number = f.select(f.fcmp("uno", n, n), f.const(0, ty), n)
    usual = [f.convert("fptosi", number, "i64"), r, *usual]
    parts = ["quadrant", "high", "low"] if exact else ["quadrant", "rest"]

    def huge() -> list[Val]:
        out = []
        for part, value in zip(parts, usual, strict=True):
            found = f.call(_huge_function(f.module, lanes, part), [x], value.ty)
            assert found is not None
            out.append(f.select(mask, found, value))
        return out

    quadrant, r, *low = _rarely(f, mask, usual, huge)
    r = f.select(f.fcmp("oeq", size, f.const(math.inf, ty)), f.const(math.nan, ty), r)
    return r, low[0] if low else None, quadrant


def _huge_function(module: Module, lanes: int, what: str) -> str:
    """A function of whole vectors that sends every lane through `_payne_hanek`."""
    name = f"trig_{what}{lanes}"
    if name in module.functions:
        return name
    ty = vector("double", lanes)
    e = "i64" if what == "quadrant" else "double"
    result = vector(e, lanes)
    f = Function(module, name, [(ty, "x")], result, attributes="nounwind noinline", private=True)
    scalar = _payne_hanek(module, what)
    out = Val("zeroinitializer" if lanes > 1 else "0", result)
    for lane in range(lanes):
        one = f.call(scalar, [f.extract(f.args[0], lane)], e)
        assert one is not None
        out = f.value(f"insertelement {out}, {one}, i64 {lane}", result) if lanes > 1 else one
    f.ret(out)
    f.finish()
    return name


def _payne_hanek(module: Module, what: str) -> str:
    """`double -> double` (the rest, or its high or low part) or `double -> i64` (the quadrant), |x| >= 2**30.

    With x = m 2**e and F the 192 bits of 2/pi from position e - 2 on, m F mod 2**192 is
    (x 2/pi mod 4) 2**190: all bits in front are multiples of 4.
    """
    name = f"payne_hanek_{what}"
    if name in module.functions:
        return name
    is_quadrant = what == "quadrant"
    f = Function(
        module,
        name,
        [("double", "x")],
        "i64" if is_quadrant else "double",
        attributes="nounwind noinline",
        private=True,
    )
    table = "two_over_pi"
    words = ", ".join(f"i64 {w}" for w in _TWO_OVER_PI)
    module.declarations[table] = f"@{table} = internal constant [{len(_TWO_OVER_PI)} x i64] [{words}]"
    (x,) = f.args
    i64, i128 = (lambda v: Val(str(v), "i64")), (lambda v: Val(str(v), "i128"))

    def wide(a: Val) -> Val:
        return f.convert("zext", a, "i128")

    bits = f.convert("bitcast", x, "i64")
    exponent = f.op("and", f.op("lshr", bits, i64(52)), i64(2047))
    m = f.op("or", f.op("and", bits, i64((1 << 52) - 1)), i64(1 << 52))
    position = f.op("sub", exponent, i64(1075 + 2 - 64))
    usable = f.select(f.icmp("slt", position, 0), i64(0), position)  # lanes that are not asked for
    usable = f.select(f.icmp("sgt", usable, 1040), i64(1040), usable)
    word, shift = f.op("lshr", usable, i64(6)), f.op("and", usable, i64(63))
    start = f.at(Val(f"@{table}", "ptr"), f.mul(word, 8))
    w = [f.load("i64", f.at(start, 8 * k), 8) for k in range(4)]
    module.declare("llvm.fshl.i64", "i64", ["i64"] * 3)
    f0, f1, f2 = (f.value(f"call i64 @llvm.fshl.i64({w[k]}, {w[k + 1]}, {shift})", "i64") for k in range(3))
    low = f.op("lshr", f.op("mul", wide(m), wide(f2)), i128(64))
    middle = f.op("add", f.op("mul", wide(m), wide(f1)), low)
    top = f.op("shl", wide(f.op("mul", m, f0)), i128(64))
    product = f.op("add", middle, top)  # the upper 128 of the 192 bits
    negative = f.icmp("slt", bits, 0)
    if is_quadrant:
        rounded = f.op("lshr", f.op("add", product, i128(1 << 125)), i128(126))
        quadrant = f.convert("trunc", rounded, "i64")
        f.ret(f.select(negative, f.op("sub", i64(0), quadrant), quadrant))
        f.finish()
        return name
    fraction = f.op("shl", product, i128(2))  # signed: in [-1/2, 1/2) of 2**128
    below = f.icmp("slt", fraction, 0)
    size = f.select(below, f.op("sub", i128(0), fraction), fraction)
    module.declare("llvm.ctlz.i128", "i128", ["i128", "i1"])
    zeros = f.value(f"call i128 @llvm.ctlz.i128({size}, i1 false)", "i128")
    zeros = f.select(f.icmp("sgt", zeros, 120), i128(120), zeros)
    leading = f.convert("trunc", f.op("lshr", f.op("shl", size, zeros), i128(64)), "i64")
    scale = f.op("shl", f.op("sub", i64(1023 - 64), f.convert("trunc", zeros, "i64")), i64(52))
    unit = f.convert("bitcast", scale, "double")
    half_pi = f.const(_HALF_PI[0], "double")
    whole = leading if what == "rest" else f.op("and", leading, i64(-2048))  # 53 bits
    top = f.op("fmul", f.convert("uitofp", whole, "double"), unit)
    r = f.op("fmul", top, half_pi)
    if what == "low":
        bottom = f.op("fmul", f.convert("uitofp", f.op("and", leading, i64(2047)), "double"), unit)
        r = f.intrinsic("fma", [top, half_pi, _fneg(f, r)])
        r = f.intrinsic("fma", [top, f.const(_HALF_PI[1], "double"), f.intrinsic("fma", [bottom, half_pi, r])])
    f.ret(f.select(f.op("xor", below, negative), _fneg(f, r), r))
    f.finish()
    return name


# --- sine, cosine, tangent ------------------------------------------------------------------------


def _sin_cos(f: Function, r: Val, rest: Val | None) -> tuple[Val, Val, Val, Val]:
    """Both series on [-pi/4, pi/4], for float64 of the sum of two numbers; and what rounding both has lost."""
    exact = rest is not None
    ty = r.ty
    r2 = f.op("fmul", r, r)
    top = 17 if exact else 9
    odd = [(-1) ** (k // 2) / math.factorial(k) for k in range(top, 1, -2)]
    even = [(-1) ** (k // 2) / math.factorial(k) for k in range(top + 1, 2, -2)]
    cube = f.op("fmul", r, r2)
    sine_tail = f.const(0.0, ty)
    if rest is None:
        sine = f.intrinsic("fma", [cube, _poly(f, r2, odd), r])
    else:  # sin(r + rest) = sin r + rest (1 - r**2/2), cos(r + rest) = cos r - rest r
        slope = f.intrinsic("fma", [r2, f.const(-0.5, ty), f.const(1.0, ty)])
        sine_tail = f.intrinsic("fma", [cube, _poly(f, r2, odd), f.op("fmul", rest, slope)])
        sine = f.op("fadd", r, sine_tail)
    # 1 - r2/2 loses bits; they come back with the tail
    one = f.const(1.0, ty)
    half = f.op("fmul", r2, f.const(0.5, ty))
    head = f.op("fsub", one, half)
    lost = f.op("fsub", f.op("fsub", one, head), half)
    if rest is not None:
        lost = f.op("fadd", lost, f.intrinsic("fma", [_fneg(f, r), rest, _lost_half(f, r, r2)]))
    tail = f.intrinsic("fma", [f.op("fmul", r2, r2), _poly(f, r2, even), lost])
    cosine = f.op("fadd", head, tail)
    lost_sine = f.op("fsub", sine_tail, f.op("fsub", sine, r))
    return sine, cosine, lost_sine, f.op("fsub", tail, f.op("fsub", cosine, head))


def _lost_half(f: Function, r: Val, r2: Val) -> Val:
    """Half of r**2 - r2, which the cosine has less."""
    return f.op("fmul", f.intrinsic("fma", [r, r, _fneg(f, r2)]), f.const(-0.5, r.ty))


def _bit(f: Function, n: Val, bit: int) -> Val:
    return f.icmp("ne", f.op("and", n, f.const(bit, n.ty)), f.const(0, n.ty))


def _sin(f: Function, x: Val, exact: bool) -> Val:
    r, rest, n = _reduce(f, x, exact)
    sine, cosine, _, _ = _sin_cos(f, r, rest)
    y = f.select(_bit(f, n, 1), cosine, sine)
    y = f.select(_bit(f, n, 2), _fneg(f, y), y)
    return f.select(f.fcmp("oeq", x, f.const(0.0, x.ty)), x, y)  # keeps -0


def _cos(f: Function, x: Val, exact: bool) -> Val:
    r, rest, n = _reduce(f, x, exact)
    sine, cosine, _, _ = _sin_cos(f, r, rest)
    y = f.select(_bit(f, n, 1), sine, cosine)
    return f.select(_bit(f, f.op("add", n, f.const(1, n.ty)), 2), _fneg(f, y), y)


def _tan(f: Function, x: Val, exact: bool) -> Val:
    r, rest, n = _reduce(f, x, exact)
    sine, cosine, lost_sine, lost_cosine = _sin_cos(f, r, rest)
    odd = _bit(f, n, 1)
    above, below = f.select(odd, _fneg(f, cosine), sine), f.select(odd, sine, cosine)
    y = f.op("fdiv", above, below)
    if exact:
        above_low = f.select(odd, _fneg(f, lost_cosine), lost_sine)
        below_low = f.select(odd, lost_sine, lost_cosine)
        left = f.op("fadd", f.intrinsic("fma", [_fneg(f, y), below, above]), above_low)
        y = f.op("fadd", y, f.op("fdiv", f.intrinsic("fma", [_fneg(f, y), below_low, left]), below))
    return f.select(f.fcmp("oeq", x, f.const(0.0, x.ty)), x, y)


# --- sine and cosine of float32 ---------------------------------------------------------------------

_HALF_PI_SINGLE = (1.5707963705062866, -4.371138828673793e-08, -1.7151245100058819e-15)
_SIMPLE_SINGLE = 2.0**17
# (sin r - r) / r**3 (4e-9 of sin r) and (cos r - 1) / r**2 (1e-10 of cos r) up to pi/4, in powers of r**2, highest
# first; fitted as those in vsingle.py are
_SINE = (-0.00019517897453624755, 0.008332187309861183, -0.16666655242443085)
_COSINE = (2.4432327336398885e-05, -0.0013887309469282627, 0.04166664555668831, -0.5)


def _single(which: str) -> Callable[[Function, Val], Val]:
    """sin or cos of float32."""

    def call(f: Function, x: Val) -> Val:
        ty, zero, magic = x.ty, f.const(0.0, x.ty), f.const(_MAGIC, x.ty)
        shifted = _fma(f, x, f.const(2 / math.pi, ty), magic)
        n, r = f.op("fsub", shifted, magic), x
        for part in _HALF_PI_SINGLE:
            r = _fma(f, n, f.const(-part, ty), r)
        square = f.op("fmul", r, r)
        sine = _fma(f, f.op("fmul", r, square), _poly(f, square, _SINE), r)
        cosine = _fma(f, _poly(f, square, _COSINE), square, f.const(1.0, ty))
        quadrant = _bits(f, shifted)
        if which == "cos":
            quadrant = f.op("add", quadrant, _int(f, 1, x))
        y = f.select(_bit(f, quadrant, 1), cosine, sine)
        sign = f.op("shl", f.op("and", quadrant, _int(f, 2, x)), _int(f, 30, x))
        y = _float(f, f.op("xor", _bits(f, y), sign))
        if which == "sin":  # keeps -0
            y = f.select(f.fcmp("oeq", x, zero), x, y)

        def in_double() -> list[Val]:
            found = f.call(_single_function(f.module, _lanes(x), which), [x], ty)
            assert found is not None
            return [f.select(large, found, y)]

        large = f.fcmp("ogt", _fabs(f, x), f.const(_SIMPLE_SINGLE, ty))
        return _rarely(f, large, [y], in_double)[0]

    return call


def _single_function(module: Module, lanes: int, which: str) -> str:
    """A function of vectors of float32 that computes in double."""
    name, ty = f"{which}_in_double{lanes}", vector("float", lanes)
    if name not in module.functions:
        f = Function(module, name, [(ty, "x")], ty, attributes="nounwind noinline cold", private=True)
        f.ret(_in_double({"sin": _sin, "cos": _cos}[which])(f, f.args[0]))
        f.finish()
    return name


# --- inverse functions ------------------------------------------------------------------------------


def _atan2(f: Function, y: Val, x: Val, exact: bool) -> Val:
    """The angle of (x, y), from atan of a quotient in [0, 1]; IEEE 754's special cases."""
    ty = x.ty
    zero, one, inf = f.const(0.0, ty), f.const(1.0, ty), f.const(math.inf, ty)
    a, b = _fabs(f, y), _fabs(f, x)
    steep = f.fcmp("ogt", a, b)
    small, large = f.select(steep, b, a), f.select(steep, a, b)
    t = f.op("fdiv", small, f.select(f.fcmp("oeq", large, zero), one, large))
    t = f.select(f.fcmp("oeq", small, inf), one, t)
    # atan t = pi/4 + atan((t - 1) / (t + 1)), from tan(pi/8) on
    upper = f.fcmp("ogt", t, f.const(math.sqrt(2) - 1, ty))
    u = f.select(upper, f.op("fdiv", f.op("fsub", t, one), f.op("fadd", t, one)), t)
    u2 = f.op("fmul", u, u)
    series = _poly(f, u2, [(-1) ** k / (2 * k + 1) for k in range(22 if exact else 10, 0, -1)])
    r = f.intrinsic("fma", [f.op("fmul", u, u2), series, u])
    # the angle is high + (low + r), where the first two are a multiple of pi/4 and r has a sign
    high = f.select(upper, f.const(math.pi / 4, ty), zero)
    low = f.select(upper, f.const(_HALF_PI[1] / 2, ty), zero)
    left = f.fcmp("olt", f.intrinsic("copysign", [one, x]), zero)
    for turned, scale in ((steep, 1.0), (left, 2.0)):
        whole, rest = f.const(_HALF_PI[0] * scale, ty), f.const(_HALF_PI[1] * scale, ty)
        high = f.select(turned, f.op("fsub", whole, high), high)
        low = f.select(turned, f.op("fsub", rest, low), low)
        r = f.select(turned, _fneg(f, r), r)
    r = f.op("fadd", high, f.op("fadd", low, r))
    r = f.intrinsic("copysign", [r, y])
    return f.select(f.fcmp("uno", y, x), f.op("fadd", y, x), r)


def _other_leg(f: Function, x: Val) -> Val:
    """sqrt(1 - x^2), right also near 1."""
    one = f.const(1.0, x.ty)
    return f.intrinsic("sqrt", [f.op("fmul", f.op("fsub", one, x), f.op("fadd", one, x))])


def _asin_parts(f: Function, size: Val) -> tuple[Val, Val, Val, Val]:
    """For float64: asin of |x| up to 1/2, or of sqrt((1 - |x|) / 2) from there on, as a sum of two; which of the
    two it is, as a mask; and the root (or |x|).
    """
    ty = size.ty
    one, half = f.const(1.0, ty), f.const(0.5, ty)
    far = f.fcmp("ogt", size, half)
    z = f.select(far, f.op("fmul", f.op("fsub", one, size), half), f.op("fmul", size, size))
    root = f.select(far, f.intrinsic("sqrt", [z]), size)
    rest = f.op("fdiv", f.intrinsic("fma", [_fneg(f, root), root, z]), f.op("fadd", root, root))
    rest = f.select(f.op("and", far, f.fcmp("ogt", root, f.const(0.0, ty))), rest, f.const(0.0, ty))
    tail = f.intrinsic("fma", [f.op("fmul", root, z), _poly(f, z, _ASIN), rest])
    return root, tail, far, f.op("fadd", root, tail)


def _asin(f: Function, x: Val, exact: bool) -> Val:
    """For float64 from a polynomial; beyond 1/2 it is pi/2 - 2 asin(sqrt((1 - x) / 2))."""
    if not exact:
        return _atan2(f, x, _other_leg(f, x), exact)
    root, tail, far, near = _asin_parts(f, _fabs(f, x))
    large = _turned(f, _HALF_PI[0], _HALF_PI[1], root, tail, -2.0)
    return f.intrinsic("copysign", [f.select(far, large, near), x])


def _acos(f: Function, x: Val, exact: bool) -> Val:
    """For float64 pi/2 - asin x; beyond 1/2 it is 2 asin(sqrt((1 - x) / 2)), and pi less that for negative x."""
    if not exact:
        return _atan2(f, _other_leg(f, x), x, exact)
    ty = x.ty
    root, tail, far, near = _asin_parts(f, _fabs(f, x))
    below = f.fcmp("olt", x, f.const(0.0, ty))
    middle = f.select(
        below,
        _turned(f, _HALF_PI[0], _HALF_PI[1], root, tail, 1.0),
        _turned(f, _HALF_PI[0], _HALF_PI[1], root, tail, -1.0),
    )
    outer = f.select(
        below, _turned(f, math.pi, 2 * _HALF_PI[1], root, tail, -2.0), f.op("fmul", near, f.const(2.0, ty))
    )
    return f.select(far, outer, middle)


def _turned(f: Function, high: float, low: float, root: Val, tail: Val, factor: float) -> Val:
    """(high + low) + factor (root + tail), where high is not less than the rest; rounded nearly once."""
    ty = root.ty
    whole, times = f.const(high, ty), f.const(factor, ty)
    out = f.intrinsic("fma", [root, times, whole])
    lost = f.intrinsic("fma", [root, times, f.op("fsub", whole, out)])
    return f.op("fadd", out, f.op("fadd", lost, f.intrinsic("fma", [tail, times, f.const(low, ty)])))


def _atan(f: Function, x: Val, exact: bool) -> Val:
    return _atan2(f, x, f.const(1.0, x.ty), exact)


# --- hyperbolic functions -----------------------------------------------------------------------------


def _half_exp(f: Function, size: Val, exact: bool) -> Val:
    """exp(size) / 2, also where exp alone overflows."""
    ty = size.ty
    h = _exp(f, f.op("fmul", size, f.const(0.5, ty)), exact)
    return f.op("fmul", f.op("fmul", h, f.const(0.5, ty)), h)


def _sinh(f: Function, x: Val, exact: bool) -> Val:
    """(t + t / (t + 1)) / 2 with t = expm1|x|."""
    ty = x.ty
    size = _fabs(f, x)
    t = _expm1(f, _clamp(f, size, 0.0, 709.0), exact)
    part = f.op("fdiv", t, f.op("fadd", t, f.const(1.0, ty)))
    r = f.op("fmul", f.op("fadd", t, part), f.const(0.5, ty))
    if exact:  # t / (t + 1) = t - t**2 / (t + 1)
        near = f.intrinsic("fma", [f.op("fmul", t, part), f.const(-0.5, ty), t])
        r = f.select(f.fcmp("olt", t, f.const(1.0, ty)), near, r)
        r = f.select(f.fcmp("ogt", size, f.const(709.0, ty)), _half_exp(f, size, exact), r)
    return f.intrinsic("copysign", [r, x])


def _cosh(f: Function, x: Val, exact: bool) -> Val:
    ty, half = x.ty, f.const(0.5, x.ty)
    size = _fabs(f, x)
    e = _exp(f, _clamp(f, size, 0.0, 709.0), exact)
    r = f.op("fadd", f.op("fmul", e, half), f.op("fdiv", half, e))
    return f.select(f.fcmp("ogt", size, f.const(709.0, ty)), _half_exp(f, size, exact), r) if exact else r


_LARGE = 2.0**28  # from here x^2 + 1 is x^2, in double


def _asinh(f: Function, x: Val, exact: bool) -> Val:
    ty, one = x.ty, f.const(1.0, x.ty)
    size = _fabs(f, x)
    near = f.select(f.fcmp("ogt", size, f.const(_LARGE, ty)), one, size)
    square = f.op("fmul", near, near)
    root = f.intrinsic("sqrt", [f.op("fadd", square, one)])
    r = _log1p(f, f.op("fadd", near, f.op("fdiv", square, f.op("fadd", one, root))), exact)
    far = f.op("fadd", _log(f, size, exact), f.const(math.log(2), ty))
    r = f.select(f.fcmp("ogt", size, f.const(_LARGE, ty)), far, r)
    return f.intrinsic("copysign", [r, x])


def _acosh(f: Function, x: Val, exact: bool) -> Val:
    ty = x.ty
    large = f.fcmp("ogt", x, f.const(_LARGE, ty))
    t = f.op("fsub", f.select(large, f.const(2.0, ty), x), f.const(1.0, ty))
    square = f.op("fmul", t, f.op("fadd", t, f.const(2.0, ty)))
    root = f.intrinsic("sqrt", [square])
    whole = f.op("fadd", t, root)
    r = _log1p(f, whole, exact)
    if exact:  # what the sum and the root have lost is less by a factor of 1 + the sum
        twice = f.op("fadd", t, t)
        long = f.intrinsic("fma", [t, t, f.op("fsub", twice, square)])  # t (t + 2) - square, for small t
        rest = f.op("fadd", f.intrinsic("fma", [_fneg(f, root), root, square]), long)
        rest = f.op("fdiv", rest, f.op("fadd", root, root))
        rest = f.op("fadd", rest, f.op("fsub", root, f.op("fsub", whole, t)))
        close = f.op("and", f.fcmp("ogt", t, f.const(0.0, ty)), f.fcmp("olt", t, f.const(0.25, ty)))
        r = f.select(close, f.op("fadd", r, f.op("fdiv", rest, f.op("fadd", f.const(1.0, ty), whole))), r)
    far = f.op("fadd", _log(f, x, exact), f.const(math.log(2), ty))
    r = f.select(large, far, r)
    return f.select(f.fcmp("olt", x, f.const(1.0, ty)), f.const(math.nan, ty), r)


def _atanh(f: Function, x: Val, exact: bool) -> Val:
    ty = x.ty
    size = _fabs(f, x)
    quotient = f.op("fdiv", f.op("fadd", size, size), f.op("fsub", f.const(1.0, ty), size))
    r = f.op("fmul", _log1p(f, quotient, exact), f.const(0.5, ty))
    return f.select(f.fcmp("uno", r, r), r, f.intrinsic("copysign", [r, x]))


def _atan2_rule(f: Function, y: Val, x: Val) -> Val:
    if element(x.ty)[0] == "double":
        return _atan2(f, y, x, True)
    return f.convert(
        "fptrunc", _atan2(f, f.convert("fpext", y, "double"), f.convert("fpext", x, "double"), False), "float"
    )


MATH.update(
    {name: _in_double(fn) for name, fn in {
        "tan": _tan, "asin": _asin, "acos": _acos, "atan": _atan,
        "sinh": _sinh, "cosh": _cosh, "asinh": _asinh, "acosh": _acosh, "atanh": _atanh,
    }.items()},
    sin=_by_dtype(_single("sin"), lambda f, x: _sin(f, x, True)),
    cos=_by_dtype(_single("cos"), lambda f, x: _cos(f, x, True)),
    atan2=_atan2_rule,
)  # fmt: skip
