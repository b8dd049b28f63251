"""Sigmoid and tanh of recurrent layers, in float32 arithmetic: over all magnitudes, within two units."""

from __future__ import annotations

import numpy as np
import pytest

import twofold as tw
from twofold.backends.cpu import vgates, vmath

EXACT = {"sigmoid": lambda x: 1 / (1 + np.exp(-x)), "tanh": np.tanh}


@pytest.fixture(params=sorted(EXACT))
def gate(request, monkeypatch):
    """Its name, and the function on arrays."""
    monkeypatch.setitem(vmath.MATH, request.param, getattr(vgates, request.param))
    compiled = tw.compile(lambda x: getattr(tw, request.param)(x), fullgraph=True)
    return request.param, lambda x: compiled(tw.from_numpy(x)).numpy()


def errors(name, got, x):
    """In units in the last place, down to denormal results."""
    with np.errstate(over="ignore", under="ignore"):
        exact = EXACT[name](x.astype(np.float64))
        return np.abs(got - exact) / np.spacing(np.abs(exact).astype(np.float32)).astype(np.float64)


def test_all_magnitudes(gate):
    name, fn = gate
    x = np.arange(0, 1 << 32, 4099, dtype=np.uint64).astype(np.uint32).view(np.float32)
    x = x[np.isfinite(x)]
    assert errors(name, fn(x), x).max() < 2


def test_everyday_sizes(gate):
    name, fn = gate
    x = np.concatenate([np.linspace(a, b, 1 << 18, dtype=np.float32) for a, b in ((-1, 1), (-20, 20), (-110, 30))])
    assert errors(name, fn(x), x).max() < 2


def test_where_the_errors_are_largest(gate):
    """All numbers of some intervals, found by trying all there are."""
    name, fn = gate
    for low, high in ((-3.46e-4, -3.43e-4), (7.69, 7.7), (-16.64, -16.63), (0.5612, 0.5613), (0.5493, 0.5494)):
        low, high = (int(np.float32(v).view(np.uint32)) for v in (low, high))
        x = np.arange(min(low, high), max(low, high), dtype=np.uint32).view(np.float32)
        assert errors(name, fn(x), x).max() < 2


def test_special_numbers(gate):
    name, fn = gate
    x = np.array([np.nan, np.inf, -np.inf, 0.0, -0.0, 1e-40, -1e-40, 3e38, -3e38], np.float32)
    with np.errstate(over="ignore"):
        expected = EXACT[name](x.astype(np.float64)).astype(np.float32)
    got = fn(x)
    np.testing.assert_array_equal(got, expected)
    np.testing.assert_array_equal(np.signbit(got)[1:], np.signbit(expected)[1:])
