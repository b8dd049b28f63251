"""The special functions' digits in float64, against 40-digit arithmetic."""

from __future__ import annotations

import numpy as np
import pytest

from twofold.primitives import _special

mp = pytest.importorskip("mpmath")  # comes with PyTorch

RNG = np.random.default_rng(5)


def spread(low, high, n=60):
    return RNG.uniform(low, high, n)


def tiny(n=20):
    return 10.0 ** RNG.uniform(-20, -1, n)


def log_abs_gamma(x):
    return mp.log(abs(mp.gamma(x)))


CASES = [
    ("erf", mp.erf, np.concatenate([spread(-6, 6), spread(-1, 1), tiny()]), 6e-16),
    ("erfc", mp.erfc, spread(-3, 26), 1e-15),
    ("erfinv", mp.erfinv, np.concatenate([spread(-1, 1), 1 - tiny().clip(1e-15), tiny()]), 1e-15),
    ("lgamma", log_abs_gamma, np.concatenate([spread(0, 12), 1 + tiny(), 2 - tiny(), 1 / tiny()]), 1e-15),
    ("digamma", mp.digamma, np.concatenate([spread(0.01, 1.3), spread(1.6, 30), 1 / tiny()]), 3e-15),
]


@pytest.mark.parametrize(("name", "exact", "x", "tolerance"), CASES, ids=[c[0] for c in CASES])
def test_relative_error(name, exact, x, tolerance):
    with mp.workdps(40):
        expected = np.array([float(exact(mp.mpf(float(v)))) for v in x])
    keep = expected != 0  # lgamma at what rounds to 1 or 2
    np.testing.assert_allclose(getattr(_special, name)(x)[keep], expected[keep], rtol=tolerance, atol=0)


@pytest.mark.parametrize("name", ["lgamma", "digamma"])
def test_negative_axis_has_absolute_accuracy(name):
    x = spread(-12, 0)
    with mp.workdps(40):
        exact = log_abs_gamma if name == "lgamma" else mp.digamma
        expected = np.array([float(exact(mp.mpf(float(v)))) for v in x])
    np.testing.assert_allclose(getattr(_special, name)(x), expected, rtol=1e-14, atol=1e-13)


@pytest.mark.parametrize("n", [1, 2, 3, 5])
def test_polygamma(n):
    x = np.concatenate([spread(0.01, 20, 40), spread(-3.95, -3.05, 10)])
    with mp.workdps(40):
        expected = np.array([float(mp.polygamma(n, mp.mpf(float(v)))) for v in x])
    np.testing.assert_allclose(_special.polygamma(x, n=n), expected, rtol=1e-13)


def test_erf_of_float32_rounds_well():
    x = np.concatenate([spread(-5, 5, 200), tiny()]).astype(np.float32)
    expected = np.array([float(mp.erf(float(v))) for v in x])
    out = _special.erf(x)
    assert out.dtype == np.float32
    np.testing.assert_allclose(out, expected, rtol=6.5e-8)


def test_erf_and_erfinv_are_inverse():
    y = np.concatenate([spread(-0.99, 0.99), tiny()])
    np.testing.assert_allclose(_special.erf(_special.erfinv(y)), y, rtol=1e-15)
