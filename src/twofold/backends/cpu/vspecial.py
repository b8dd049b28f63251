"""The gamma function's logarithm and its derivatives, the inverse of erf, and powers of float64, on vectors in IR.

As in vmath.py, float32 is computed in double and rounded once. float64 has errors of a few units in the last
place; lgamma, digamma and polygamma near their roots on the negative axis an absolute error of that size.

Sources: Abramowitz & Stegun 1964 ("A&S"), formula 6.1.41 (lgamma), 6.3.5, 6.3.7 and 6.3.18
(digamma), 6.4.10 (polygamma); DLMF 25.11.28 (Hurwitz zeta by Euler-Maclaurin) and 5.15.6 (reflection); Giles
2010, "Approximating the erfinv function" (its variable w); Dekker 1971, "A floating-point technique for
extending the available precision" (sums and products of two doubles).
"""

from __future__ import annotations

import math
from collections.abc import Callable

from ...primitives._special import (
    _BERNOULLI,
    _DIGAMMA_NEAR,
    _DIGAMMA_ROOT,
    _DIGAMMA_ROOT_LOW,
    _LGAMMA_NEAR,
)
from .emit import Function, Val, element, vector
from .vmath import _LN2_HIGH, _LN2_LOW, MATH, _exp, _log, _pow, _scale, _split
from .vsingle import _fabs, _fneg, _poly
from .vtrig import _cos, _sin

MOST_DERIVATIVES = 20

# erfinv(y) / y as a series in u in [-1, 1], lowest power first; w = -log(1 - y^2).
_INVERSE_NEAR = (  # w up to 6.25, u = (w - 3.125) / 3.125
    1.6536545626831027, 0.7504943200799635, -0.05892256710377839, -0.022604447453450232,
    0.017808361818321756, -0.004137314377403391, -0.001271692268923054, 0.001232485568550093,
    -0.00026439366376450275, -0.00011688883906368398, 9.336736525855553e-05, -1.5027713926607673e-05,
    -1.12572237422896e-05, 7.1300663740767115e-06, -6.839448584111029e-07, -1.059336931327948e-06,
    5.397895417173957e-07, -1.0167881522843899e-08, -9.905042307855316e-08, 3.9142671001331085e-08,
    5.039596477958063e-09, -8.557984074479201e-09, 1.4461050507676023e-09, 7.680990475576525e-10,
    -2.5466157998892667e-10,
)  # fmt: skip
_INVERSE_FAR = (  # sqrt(w) up to 4, u = (sqrt(w) - 3.25) / 0.75
    3.0838856104922208, 0.753944225770624, 0.003021139436374801, -0.0015825410894071102,
    0.0007883078513035505, -0.00040063569835709886, 0.00016966502201594177, -4.739182728807125e-05,
    2.4058645410848233e-06, 5.12731666449741e-06, -2.664792853936729e-06, 5.264624728714587e-07,
    9.28911222561948e-08, -9.468994570246937e-08, 2.640222955342202e-08, -3.6862448212666726e-10,
    -2.4632549100503405e-09, 9.889115389827977e-10, -1.1662393838626048e-10, -6.466960514925277e-11,
    2.4097707183427266e-11,
)  # fmt: skip
_INVERSE_LAST = (  # sqrt(w) up to 6.1, u = (sqrt(w) - 5.05) / 1.05
    4.90042105144364, 1.0607992684776597, -0.00018726854587222013, -0.00023188618667805715,
    8.659304866767489e-05, -2.345108266487681e-05, 5.6201649314465295e-06, -1.276353362480803e-06,
    2.9788420271490196e-07, -8.525116526386363e-08, 3.554250780842224e-08, -1.9082961589887076e-08,
    1.0431569308888455e-08, -5.093015056951128e-09, 2.0706626485109454e-09, -6.838446100317265e-10,
    1.7171209505455912e-10, 6.095706841892513e-12, -3.7742013942027056e-11, 1.2662789994568851e-11,
)  # fmt: skip


def _whole(f: Function, x: Val) -> Val:
    return f.fcmp("oeq", f.intrinsic("floor", [x]), x)


def _both(f: Function, *masks: Val) -> Val:
    out = masks[0]
    for m in masks[1:]:
        out = f.op("and", out, m)
    return out


def _from_pole(f: Function, x: Val) -> Val:
    """pi times the distance from the nearest whole number."""
    return f.op("fmul", f.op("fsub", x, f.intrinsic("rint", [x])), f.const(math.pi, x.ty))


# --- lgamma ---------------------------------------------------------------------------------------


def _lgamma(f: Function, x: Val) -> Val:
    """By Stirling's series from 10 on; below as a polynomial around 2 and the logarithm of a product."""
    ty = x.ty
    one, zero, inf = f.const(1, ty), f.const(0, ty), f.const(math.inf, ty)
    below = f.fcmp("olt", x, zero)
    z = f.select(below, f.op("fsub", one, x), x)
    near, product = z, one
    for _ in range(8):  # gamma(z) = (z - 1) (z - 2) ... gamma(z - k)
        far = f.fcmp("ogt", near, f.const(2.5, ty))
        near = f.select(far, f.op("fsub", near, one), near)
        product = f.select(far, f.op("fmul", product, near), product)
    small, tiny = f.fcmp("olt", z, one), f.fcmp("olt", z, f.const(0.5, ty))
    step = f.select(tiny, zero, one)
    w = f.op("fsub", z, step)  # gamma(2 + w) is z gamma(z), or z (1 + z) gamma(z)
    w = f.select(small, w, f.op("fsub", near, f.const(2, ty)))
    product = f.select(small, f.select(tiny, f.intrinsic("fma", [z, z, z]), z), product)
    logarithm = _log(f, product, True)
    logarithm = f.select(small, _fneg(f, logarithm), logarithm)
    u = f.intrinsic("fma", [w, f.const(4 / 3, ty), f.const(1 / 3, ty)])
    middle = f.op("fmul", f.op("fmul", w, f.op("fadd", w, one)), _poly(f, u, _LGAMMA_NEAR[::-1]))
    middle = f.op("fadd", middle, logarithm)
    r = f.op("fdiv", one, z)
    terms = [b / (2 * k * (2 * k - 1)) for k, b in enumerate(_BERNOULLI, 1)]
    rest = f.intrinsic(
        "fma", [r, _poly(f, f.op("fmul", r, r), terms[::-1]), f.const(0.5 * math.log(2 * math.pi) - 0.5, ty)]
    )
    large = f.intrinsic("fma", [f.op("fsub", z, f.const(0.5, ty)), f.op("fsub", _log(f, z, True), one), rest])
    out = f.select(f.fcmp("olt", z, f.const(10, ty)), middle, large)
    sine = _fabs(f, _sin(f, _from_pole(f, x), True))
    mirrored = f.op("fsub", f.op("fsub", f.const(math.log(math.pi), ty), _log(f, sine, True)), out)
    out = f.select(below, mirrored, out)
    pole = f.op("and", f.fcmp("ole", x, zero), _whole(f, x))
    out = f.select(f.op("or", pole, f.fcmp("oeq", _fabs(f, x), inf)), inf, out)
    return f.select(f.fcmp("uno", x, x), x, out)


# --- digamma and polygamma ------------------------------------------------------------------------


def _rise(f: Function, z: Val, start: int, term: Callable[[Val], Val]) -> tuple[Val, Val]:
    """z raised by ones to at least `start`, and the sum of `term` at what was left behind."""

    def body(_: object, z: Val, total: Val) -> list[Val]:
        near = f.fcmp("olt", z, f.const(start, z.ty))
        total = f.select(near, f.op("fadd", total, term(z)), total)
        return [f.select(near, f.op("fadd", z, f.const(1, z.ty)), z), total]

    z, total = f.loop(0, start, body, [z, f.const(0, z.ty)])
    return z, total


def _cotangent(f: Function, x: Val) -> Val:
    """cot(pi x)."""
    t = _from_pole(f, x)
    return f.op("fdiv", _cos(f, t, True), _sin(f, t, True))


def _digamma(f: Function, x: Val) -> Val:
    """By the asymptotic series from 10 on; below by recurrence from a polynomial on [1, 2]."""
    ty = x.ty
    one, zero = f.const(1, ty), f.const(0, ty)
    below = f.fcmp("olt", x, zero)
    z = f.select(below, f.op("fsub", one, x), x)
    r = f.op("fdiv", one, z)
    r2 = f.op("fmul", r, r)
    terms = [-b / (2 * k) for k, b in enumerate(_BERNOULLI, 1)]
    large = f.intrinsic(
        "fma", [r2, _poly(f, r2, terms[::-1]), f.op("fsub", _log(f, z, True), f.op("fmul", r, f.const(0.5, ty)))]
    )
    small = f.fcmp("olt", z, one)
    near = f.select(small, f.op("fadd", z, one), z)

    def step(_: object, near: Val, total: Val) -> list[Val]:
        far = f.fcmp("ogt", near, f.const(2, ty))
        lower = f.select(far, f.op("fsub", near, one), near)
        return [lower, f.select(far, f.op("fadd", total, f.op("fdiv", one, lower)), total)]

    near, total = f.loop(0, 8, step, [near, f.select(small, _fneg(f, r), zero)])
    t = f.op("fsub", f.op("fsub", near, f.const(_DIGAMMA_ROOT, ty)), f.const(_DIGAMMA_ROOT_LOW, ty))
    u = f.intrinsic("fma", [near, f.const(2, ty), f.const(-3, ty)])
    middle = f.intrinsic("fma", [t, _poly(f, u, _DIGAMMA_NEAR[::-1]), total])
    out = f.select(f.fcmp("olt", z, f.const(10, ty)), middle, large)
    mirrored = f.intrinsic("fma", [_cotangent(f, x), f.const(-math.pi, ty), out])
    out = f.select(below, mirrored, out)
    out = f.select(f.op("and", below, _whole(f, x)), f.const(math.nan, ty), out)
    at_zero = f.intrinsic("copysign", [f.const(math.inf, ty), _fneg(f, x)])
    return f.select(f.fcmp("oeq", x, zero), at_zero, out)


def _power(f: Function, x: Val, n: int) -> Val:
    """x**n for a whole n >= 1, by squares."""
    out: Val | None = None
    while n:
        if n & 1:
            out = x if out is None else f.op("fmul", out, x)
        n >>= 1
        x = f.op("fmul", x, x) if n else x
    assert out is not None
    return out


def polygamma(f: Function, x: Val, n: int) -> Val:
    """The n-th derivative of digamma, n >= 1: (-1)^(n+1) n! times Hurwitz's zeta function of n + 1."""
    ty = x.ty
    s, sign = n + 1, (-1.0) ** (n + 1) * math.gamma(n + 1)
    one, zero = f.const(1, ty), f.const(0, ty)
    below = f.fcmp("olt", x, zero)
    z = f.select(below, f.op("fsub", one, x), x)
    z, direct = _rise(f, z, 10 + s // 2, lambda z: f.op("fdiv", one, _power(f, z, s)))
    r = f.op("fdiv", one, z)
    r2 = f.op("fmul", r, r)
    rising, terms = float(s), []
    for k, b in enumerate(_BERNOULLI, 1):
        terms.append(b / math.factorial(2 * k) * rising)
        rising *= (s + 2 * k - 1) * (s + 2 * k)
    tail = f.intrinsic("fma", [r, f.const(0.5, ty), f.const(1 / (s - 1), ty)])
    tail = f.intrinsic("fma", [r2, _poly(f, r2, terms[::-1]), tail])
    zeta = f.intrinsic("fma", [tail, _power(f, r, s - 1), direct])
    out = f.op("fmul", zeta, f.const(sign, ty))
    cot = [0.0, 1.0]  # d/dx of c^k is -pi k c^(k-1) (1 + c^2)
    for _ in range(n):
        slope = [k * c for k, c in enumerate(cot)][1:]
        cot = [-math.pi * (a + b) for a, b in zip([*slope, 0.0, 0.0], [0.0, 0.0, *slope], strict=True)]
    reflected = f.op("fmul", _poly(f, _cotangent(f, x), cot[::-1]), f.const(math.pi, ty))
    mirrored = f.op("fsub", f.op("fmul", out, f.const((-1.0) ** n, ty)), reflected)
    out = f.select(below, mirrored, out)
    pole = f.op("and", f.fcmp("ole", x, zero), _whole(f, x))
    out = f.select(pole, f.const(sign * math.inf, ty), out)
    return f.select(f.fcmp("oeq", x, f.const(-math.inf, ty)), f.const(math.nan, ty), out)


# --- erfinv ---------------------------------------------------------------------------------------


def _erfinv(f: Function, y: Val) -> Val:
    """y times a series in w = -log(1 - y^2), or in its square root."""
    ty = y.ty
    one = f.const(1, ty)
    size = _fabs(f, y)
    w = _fneg(f, _log(f, f.op("fmul", f.op("fsub", one, size), f.op("fadd", one, size)), True))
    root = f.intrinsic("sqrt", [w])

    def series(coefficients: tuple[float, ...], t: Val, centre: float, half: float) -> Val:
        u = f.op("fmul", f.op("fsub", t, f.const(centre, ty)), f.const(1 / half, ty))
        return _poly(f, u, coefficients[::-1])

    out = series(_INVERSE_NEAR, w, 3.125, 3.125)
    out = f.select(f.fcmp("ogt", w, f.const(6.25, ty)), series(_INVERSE_FAR, root, 3.25, 0.75), out)
    out = f.select(f.fcmp("ogt", root, f.const(4, ty)), series(_INVERSE_LAST, root, 5.05, 1.05), out)
    out = f.op("fmul", out, y)
    out = f.select(f.fcmp("oeq", size, one), f.intrinsic("copysign", [f.const(math.inf, ty), y]), out)
    return f.select(f.fcmp("ogt", size, one), f.const(math.nan, ty), out)


# --- powers of float64 ----------------------------------------------------------------------------


def _two_sum(f: Function, a: Val, b: Val) -> tuple[Val, Val]:
    """a + b, and what its rounding lost; |a| >= |b| or a = 0."""
    total = f.op("fadd", a, b)
    return total, f.op("fsub", b, f.op("fsub", total, a))


def _two_product(f: Function, a: Val, b: Val) -> tuple[Val, Val]:
    p = f.op("fmul", a, b)
    return p, f.intrinsic("fma", [a, b, _fneg(f, p)])


def _long_log(f: Function, x: Val) -> tuple[Val, Val]:
    """log x to about 2^-66 of itself, as a sum of two doubles; x is positive and finite."""
    ty = x.ty
    _, lanes = element(ty)
    ity = vector("i64", lanes)
    one = f.const(1, ty)
    tiny = f.fcmp("olt", x, f.const(2.2250738585072014e-308, ty))
    bits = f.convert("bitcast", f.select(tiny, f.op("fmul", x, f.const(2.0**54, ty)), x), "i64")
    exponent = f.op("ashr", f.op("sub", bits, f.const(0x3FE6A09E667F3BCD, ity)), f.const(52, ity))
    m = f.convert("bitcast", f.op("sub", bits, f.op("shl", exponent, f.const(52, ity))), "double")
    e = f.op("fsub", f.convert("sitofp", exponent, "double"), f.select(tiny, f.const(54, ty), f.const(0, ty)))
    u, v = f.op("fsub", m, one), f.op("fadd", m, one)
    lost = f.op("fsub", m, f.op("fsub", v, one))
    s = f.op("fdiv", u, v)  # with what its rounding lost, (m - 1) / (m + 1)
    s_low = f.intrinsic("fma", [_fneg(f, s), v, u])
    s_low = f.op("fdiv", f.intrinsic("fma", [_fneg(f, s), lost, s_low]), v)
    q, q_low = _two_product(f, s, s)
    q_low = f.intrinsic("fma", [f.op("fadd", s, s), s_low, q_low])
    # log m = 2 s + (2/3) s^3 + s^5 (2/5 + ...); the cube is long too
    third, third_low = 2 / 3, 3.700743415417188e-17
    a, a_low = _two_product(f, q, f.const(third, ty))
    a_low = f.op(
        "fadd", a_low, f.intrinsic("fma", [q, f.const(third_low, ty), f.op("fmul", q_low, f.const(third, ty))])
    )
    tail = f.op("fmul", f.op("fmul", q, q), _poly(f, q, [2 / k for k in range(25, 4, -2)]))
    a, lost = _two_sum(f, a, tail)
    a_low = f.op("fadd", a_low, lost)
    b, b_low = _two_product(f, s, a)
    b_low = f.op("fadd", b_low, f.intrinsic("fma", [s, a_low, f.op("fmul", s_low, a)]))
    top, low = _two_sum(f, f.op("fadd", s, s), b)
    low = f.op("fadd", f.op("fadd", low, b_low), f.op("fadd", s_low, s_low))
    whole = f.op("fmul", e, f.const(_LN2_HIGH, ty))  # exact
    out, lost = _two_sum(f, whole, top)
    return _two_sum(f, out, f.op("fadd", f.intrinsic("fma", [e, f.const(_LN2_LOW, ty), low]), lost))


def _power_of(f: Function, size: Val, y: Val, exact: bool) -> Val:
    """exp(y log size)."""
    if not exact:
        return _exp(f, f.op("fmul", y, _log(f, size, exact)), exact)
    ty = size.ty
    zero = f.const(0, ty)
    usual = _both(f, f.fcmp("ogt", size, zero), f.fcmp("olt", size, f.const(math.inf, ty)))
    high, low = _long_log(f, f.select(usual, size, f.const(1, ty)))
    limit = f.select(f.fcmp("oeq", size, zero), f.const(-math.inf, ty), size)  # 0, infinity and NaN
    p = f.op("fmul", y, f.select(usual, high, limit))
    p_low = f.intrinsic("fma", [y, low, f.intrinsic("fma", [y, high, _fneg(f, p)])])
    near = _both(f, usual, f.fcmp("olt", _fabs(f, p), f.const(1000, ty)))
    p_low = f.select(near, p_low, zero)
    p = f.select(f.fcmp("olt", p, f.const(-746, ty)), f.const(-746, ty), p)
    p = f.select(f.fcmp("ogt", p, f.const(710, ty)), f.const(710, ty), p)
    n, r = _split(f, p)
    r = f.op("fadd", r, p_low)
    tail = _poly(f, r, [1 / math.factorial(k) for k in range(13, 1, -1)])
    series = f.op("fadd", f.const(1, ty), f.intrinsic("fma", [f.op("fmul", r, r), tail, r]))
    return _scale(f, series, n)


def _in_double(fn: Callable[[Function, Val], Val]) -> Callable[[Function, Val], Val]:
    def call(f: Function, x: Val) -> Val:
        e, _ = element(x.ty)
        if e == "double":
            return fn(f, x)
        return f.convert("fptrunc", fn(f, f.convert("fpext", x, "double")), "float")

    return call


def polygamma_rule(f: Function, x: Val, n: int) -> Val:
    """`polygamma` of what registers hold."""
    return MATH["digamma"](f, x) if n == 0 else _in_double(lambda f, x: polygamma(f, x, n))(f, x)


MATH.update(
    {
        "lgamma": _in_double(_lgamma),
        "digamma": _in_double(_digamma),
        "erfinv": _in_double(_erfinv),
        "pow": lambda f, x, y: _pow(f, x, y, _power_of),
    }
)
