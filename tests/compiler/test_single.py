"""Functions of float32, which are computed in float32: their errors over all numbers, and what holds exactly."""

from __future__ import annotations

import ctypes

import numpy as np
import pytest
import scipy.special

import twofold as tw
from twofold.backends.cpu import vsingle
from twofold.backends.cpu.emit import Function, Module, vector
from twofold.backends.cpu.jit import compile_text
from twofold.backends.cpu.target import host

EXACT = {
    "exp": np.exp,
    "log": np.log,
    "sigmoid": lambda x: 1 / (1 + np.exp(-x)),
    "tanh": np.tanh,
    "erf": scipy.special.erf,
    "expm1": np.expm1,
    "log1p": np.log1p,
    "sin": np.sin,
    "cos": np.cos,
}
# In units in the last place. Those of all numbers there are were found by the slow test.
MOST = {
    "exp": 0.9, "log": 0.95, "sigmoid": 1.7, "tanh": 1.9, "erf": 1.25, "expm1": 1.6, "log1p": 1.6, "sin": 1.6,
    "cos": 1.6,
}  # fmt: skip


@pytest.fixture(params=sorted(EXACT))
def function(request):
    """Its name, and the function on arrays."""
    compiled = tw.compile(lambda x: getattr(tw, request.param)(x), fullgraph=True)
    return request.param, lambda x: compiled(tw.from_numpy(x)).numpy()


def on_arrays(name):
    compiled = tw.compile(lambda x: getattr(tw, name)(x), fullgraph=True)
    return lambda x: compiled(tw.from_numpy(x)).numpy()


def check(name, got, x):
    """Within the bound, down to denormal results; NaN and infinities where they belong."""
    with np.errstate(all="ignore"):
        exact = EXACT[name](x.astype(np.float64))
        rounded = exact.astype(np.float32)
        exponent = np.where(exact == 0, -125, np.frexp(exact)[1])
        unit = np.ldexp(1.0, np.maximum(exponent, -125) - 24)
        error = np.abs(got - exact) / unit
    finite = np.isfinite(rounded)
    np.testing.assert_array_equal(got[~finite], rounded[~finite])
    error, x = error[finite], x[finite]
    if error.size:
        worst = int(np.argmax(np.where(np.isnan(error), np.inf, error)))
        assert error[worst] <= MOST[name], f"{name}({x[worst]!r}) is off by {error[worst]}"


def numbers(start, stop, step=1):
    """Those whose bits are in a range."""
    return np.arange(start, stop, step, dtype=np.uint64).astype(np.uint32).view(np.float32)


def between(low, high):
    """All numbers of an interval that does not have zero inside."""
    a, b = sorted(int(np.float32(v).view(np.uint32)) for v in (low, high))
    return numbers(a, b + 1)


def test_all_magnitudes(function):
    name, fn = function
    x = numbers(0, 1 << 32, 2053)
    check(name, fn(x), x)


def test_everyday_sizes(function):
    name, fn = function
    parts = ((-1, 1), (0.4, 1.7), (-20, 20), (-104.5, 90), (-400, 400))
    x = np.concatenate([np.linspace(low, high, 1 << 17, dtype=np.float32) for low, high in parts])
    check(name, fn(x), x)


# Found by trying all numbers: where errors are largest, and near the ends of what is computed how.
PLACES = {
    "exp": [(15.596, 15.597), (88.7, 88.8), (-87.4, -87.3), (-104.0, -103.97)],
    "log": [(0.6356, 0.6357), (1 - 1e-3, 1 + 1e-3)],
    "sigmoid": [(-3.46e-4, -3.43e-4), (-1.1061, -1.106), (-16.7, -16.6)],
    "tanh": [(0.2206, 0.2207), (0.2258, 0.2262), (0.339, 0.341)],
    "erf": [(0.9154, 0.9155), (0.899, 0.917), (3.91, 3.93)],
    "expm1": [(0.3959, 0.396), (0.339, 0.341), (88.7, 88.8)],
    "log1p": [(0.3335, 0.3336), (-0.99999994, -0.999)],
    "sin": [(93499, 93500), (131071.5, 131072.5), (3.1415, 3.1417)],
    "cos": [(119570, 119571), (131071.5, 131072.5), (1.5707, 1.5709)],
}  # fmt: skip


@pytest.mark.parametrize("name", sorted(PLACES))
def test_where_errors_are_largest(name):
    fn = on_arrays(name)
    for low, high in PLACES[name]:
        x = between(low, high)[: 1 << 18]
        check(name, fn(x), x)


@pytest.mark.slow
@pytest.mark.parametrize("name", sorted(EXACT))
def test_all_numbers(name):
    """All 2**32: takes two minutes for each function."""
    fn = on_arrays(name)
    for start in range(0, 1 << 32, 1 << 22):
        x = numbers(start, start + (1 << 22))
        check(name, fn(x), x)


def test_special_numbers(function):
    name, fn = function
    tiny, most = np.float32(1e-45), np.finfo(np.float32).max
    x = np.array([np.nan, np.inf, -np.inf, 0.0, -0.0, tiny, -tiny, 1, -1, 1e-40, -1e-40, most, -most], np.float32)
    x = np.concatenate([x, np.array([0x7FC00001, 0xFFC12345, 0x7F800001], np.uint32).view(np.float32)])
    with np.errstate(all="ignore"):
        expected = EXACT[name](x.astype(np.float64)).astype(np.float32)
    got = fn(x)
    check(name, got, x)
    same = (got == 0) | (expected == 0)
    np.testing.assert_array_equal(got[same], expected[same])
    np.testing.assert_array_equal(np.signbit(got[same]), np.signbit(expected[same]))


def test_values_that_are_exact():
    zero = np.zeros(1, np.float32)
    for name, x, y in (("exp", 0, 1), ("log", 1, 0), ("sigmoid", 0, 0.5), ("cos", 0, 1), ("expm1", 0, 0)):
        assert on_arrays(name)(zero + x) == y, name
    np.testing.assert_array_equal(on_arrays("log")(2.0 ** np.arange(1, 4, dtype=np.float32)) > 0, True)
    large = np.array([20, 30, 100, 1e30], np.float32)
    for name in ("sigmoid", "tanh", "erf"):
        np.testing.assert_array_equal(on_arrays(name)(large), np.ones(4, np.float32))


@pytest.mark.parametrize("name", ["tanh", "erf", "sin"])
def test_odd_functions(name):
    fn, x = on_arrays(name), numbers(0, 0x7F800000, 4099)
    np.testing.assert_array_equal(fn(-x).view(np.uint32), (-fn(x)).view(np.uint32))


def test_ranges():
    x = numbers(0, 1 << 32, 4099)
    x = x[~np.isnan(x)]
    for name, low in (("sigmoid", 0), ("tanh", -1), ("erf", -1), ("exp", 0)):
        y = on_arrays(name)(x)
        assert (y >= low).all(), name
        assert name == "exp" or (y <= 1).all(), name


def test_exp_does_not_fall():
    """From one number to the next: where it is computed in another way, and elsewhere."""
    fn = on_arrays("exp")
    places = [*((np.arange(-140, 127, 12) + 0.5) * np.log(2)), 1e-3, 1, 20, -1e-3, -1, -20, -103.9]
    for place in places:
        bits = int(np.float32(place).view(np.uint32))
        assert (np.diff(fn(np.sort(numbers(bits - 4096, bits + 4096)))) >= 0).all(), place
    y = fn(np.linspace(-105, 90, 1 << 20, dtype=np.float32))
    assert (y[1:] >= y[:-1]).all()


def test_a_number_has_one_result(function):
    """Alone, in the middle of a vector, and at the end of one."""
    name, fn = function
    x = np.random.default_rng(0).standard_normal(37).astype(np.float32) * 3
    whole = fn(x)
    for start, stop in ((0, 1), (3, 19), (5, 36), (36, 37)):
        np.testing.assert_array_equal(fn(x[start:stop].copy()), whole[start:stop], err_msg=name)


def test_exp_by_an_instruction():
    """AVX-512 has one for the power of two; it gives the bits of the two products."""
    if not host().scales:
        pytest.skip("this processor has no such instruction")
    x = numbers(0, 1 << 32, 65521)
    x = np.concatenate([x, between(-104, -103.9), between(-87.4, -87.3)[:4096], between(88.7, 88.8)[:4096]])
    results = []
    for lanes in (8, 16, 32):
        count = len(x) // lanes * lanes
        for scaling in (False, True):
            module = Module(host())
            module.hardware_scaling = scaling
            f = Function(module, "f", [("ptr", "x"), ("ptr", "y")])
            ty = vector("float", lanes)

            def body(i, f=f, ty=ty):
                at = f.mul(i, 4)
                f.store(vsingle.exp(f, f.load(ty, f.at(f.args[0], at), 4)), f.at(f.args[1], at), 4)

            f.loop(0, count, body, step=lanes)
            f.ret()
            f.finish()
            (text,) = module.texts().values()
            assert ("scalef" in text) == (scaling and lanes > 8)
            library, y = compile_text(text, host()), np.zeros_like(x)
            call = ctypes.CFUNCTYPE(None, ctypes.c_void_p, ctypes.c_void_p)(library.address("kernel"))
            call(x.ctypes.data, y.ctypes.data)
            results.append(y[: len(x) // 32 * 32])
    for y in results[1:]:
        np.testing.assert_array_equal(y, results[0])
