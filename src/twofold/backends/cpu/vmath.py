"""Transcendental functions on vectors, written in IR."""

from __future__ import annotations

import math
from collections.abc import Callable

from .emit import Function, Val, element, vector

_LN2 = math.log(2)


def _poly(f: Function, x: Val, coefficients: list[float]) -> Val:
    """Horner's scheme with fused multiply-adds, highest power first."""
    r = f.const(coefficients[0], x.ty)
    for c in coefficients[1:]:
        r = f.intrinsic("fma", [r, x, f.const(c, x.ty)])
    return r


def _in_double(fn: Callable[[Function, Val], Val]) -> Callable[[Function, Val], Val]:
    """Evaluate a float function in double: exact range reduction, one rounding at the end."""

    def call(f: Function, x: Val) -> Val:
        ty = x.ty
        e, _ = element(ty)
        if e == "double":
            return fn(f, x)
        return f.convert("fptrunc", fn(f, f.convert("fpext", x, "double")), "float")

    return call


def _exp(f: Function, x: Val) -> Val:
    ty = x.ty
    lo, hi = f.const(-746.0, ty), f.const(710.0, ty)
    c = f.select(f.fcmp("olt", x, lo), lo, x)
    c = f.select(f.fcmp("ogt", c, hi), hi, c)  # in an order that keeps NaN
    n = f.intrinsic("rint", [f.op("fmul", c, f.const(1 / _LN2, ty))])
    r = f.intrinsic("fma", [n, f.const(-6.93147180369123816490e-01, ty), c])
    r = f.intrinsic("fma", [n, f.const(-1.90821492927058770002e-10, ty), r])
    p = _poly(f, r, [1 / math.factorial(k) for k in range(13, -1, -1)])
    _, lanes = element(ty)
    ity = vector("i64", lanes)
    finite = f.select(f.fcmp("uno", x, x), f.const(0, ty), n)
    whole = f.convert("fptosi", finite, "i64")
    half = f.op("ashr", whole, f.const(1, ity))
    rest = f.op("sub", whole, half)
    for part in (half, rest):
        bits = f.op("shl", f.op("add", part, f.const(1023, ity)), f.const(52, ity))
        p = f.op("fmul", p, f.convert("bitcast", bits, "double"))
    return p


def _log(f: Function, x: Val) -> Val:
    ty = x.ty
    _, lanes = element(ty)
    ity = vector("i64", lanes)
    tiny = f.fcmp("olt", x, f.const(2.2250738585072014e-308, ty))
    scaled = f.select(tiny, f.op("fmul", x, f.const(2.0**54, ty)), x)
    bits = f.convert("bitcast", scaled, "i64")
    off = f.op("sub", bits, f.const(0x3FE6A09E667F3BCD, ity))  # mantissa in [sqrt(1/2), sqrt(2))
    exponent = f.op("ashr", off, f.const(52, ity))
    mantissa = f.convert("bitcast", f.op("sub", bits, f.op("shl", exponent, f.const(52, ity))), "double")
    e = f.convert("sitofp", exponent, "double")
    e = f.op("fsub", e, f.select(tiny, f.const(54.0, ty), f.const(0.0, ty)))
    one = f.const(1.0, ty)
    u = f.op("fsub", mantissa, one)
    s = f.op("fdiv", u, f.op("fadd", mantissa, one))
    s2 = f.op("fmul", s, s)
    tail = _poly(f, s2, [2 / k for k in range(21, 2, -2)])
    low = f.op("fmul", f.op("fmul", s, s2), tail)
    main = f.op("fadd", f.op("fadd", s, s), low)
    r = f.intrinsic("fma", [e, f.const(_LN2, ty), main])
    zero, inf = f.const(0.0, ty), f.const(math.inf, ty)
    r = f.select(f.fcmp("oeq", x, zero), f.const(-math.inf, ty), r)
    r = f.select(f.fcmp("oeq", x, inf), inf, r)
    r = f.select(f.fcmp("olt", x, zero), f.const(math.nan, ty), r)
    return f.select(f.fcmp("uno", x, x), x, r)


def _sigmoid(f: Function, x: Val) -> Val:
    one = f.const(1.0, x.ty)
    return f.op("fdiv", one, f.op("fadd", one, _exp(f, f.value(f"fneg {x}", x.ty))))


MATH: dict[str, Callable[..., Val]] = {
    "exp": _in_double(_exp),
    "log": _in_double(_log),
    "sigmoid": _in_double(_sigmoid),
}
