"""Cheap values that their readers compute again are not stored, and change no bit."""

from __future__ import annotations

import numpy as np
import pytest

import twofold as tw
from twofold.backends.cpu import again
from twofold.backends.cpu.program import Program
from twofold.compiler.compile import compile, optimize

from .test_conv import build, check, floats


@pytest.fixture(autouse=True)
def small_values_too(monkeypatch):
    monkeypatch.setattr(again, "_LEAST_SIZE", 1)


def bytes_of(program):
    return sum(b.nbytes for step in program.steps for b in step.buffers)


def normed(op, x, scale):
    """Batch norm without its constants: the difference to the mean is read by three kernels."""
    mean = op("sum", x, dims=(0, 2), keepdim=True)
    centred = op("sub", x, op("expand", mean, shape=x.shape))
    squares = op("sum", op("mul", centred, centred), dims=(0, 2), keepdim=True)
    y = op("mul", centred, op("expand", op("mul", squares, scale), shape=x.shape))
    return op("relu", y), op("sum", op("mul", y, centred), dims=(0, 2), keepdim=False)


def test_the_difference_to_the_mean_is_not_stored(monkeypatch):
    rng = np.random.default_rng(0)
    x, scale = floats(rng, 6, 40, 9), floats(rng, 1, 40, 1)
    program = check(normed, x, scale)
    monkeypatch.setattr(again, "_LEAST_SIZE", 1 << 40)
    stored = Program(optimize(build(normed, x, scale)))
    assert bytes_of(program) < bytes_of(stored)
    for got, expected in zip(program([x, scale]), stored([x, scale]), strict=True):
        np.testing.assert_array_equal(got, expected)


def test_values_that_are_results_or_seen_through_views_stay():
    rng = np.random.default_rng(1)
    x, m = floats(rng, 5, 7, 33), floats(rng, 33)

    def result(op, x, m):
        d = op("sub", x, m)
        return (
            d,
            op("mul", d, 2.0),
            op("sum", d, dims=(0, 1), keepdim=False),
            op("sum", x, dims=(0,), keepdim=False),
        )

    def viewed(op, x, m):
        d = op("sub", x, m)
        turned = op("permute", d, dims=(1, 0, 2))
        return (
            op("exp", turned),
            op("sum", op("mul", d, d), dims=(0, 1), keepdim=False),
            op("sum", x, dims=(0,), keepdim=False),
        )

    for fn in (result, viewed):
        check(fn, x, m)


def test_state_that_is_written_between_readers_is_read_before():
    rng = np.random.default_rng(2)

    def make():
        tw.manual_seed(0)
        model = tw.nn.Sequential(
            tw.nn.Conv2d(3, 8, 3, padding=1),
            tw.nn.BatchNorm2d(8),
            tw.nn.ReLU(),
            tw.nn.Conv2d(8, 8, 3),
            tw.nn.BatchNorm2d(8),
        )
        shift = tw.nn.Parameter(tw.zeros(8, 1, 1))
        opt = tw.optim.SGD([*model.parameters(), shift], lr=0.1, momentum=0.9)

        def step(x):
            opt.zero_grad()
            y = model(x) - shift
            loss = (y.relu() * (y - y.mean((0, 2, 3), keepdim=True))).square().mean()
            loss.backward()
            opt.step()
            return loss

        return model, step

    (model, eager), (twin, step) = make(), make()
    fast = compile(step)
    x = tw.from_numpy(floats(rng, 4, 3, 7, 7))
    for _ in range(3):
        np.testing.assert_allclose(fast(x).item(), eager(x).item(), rtol=1e-4)
    for (name, a), b in zip(twin.state_dict().items(), model.state_dict().values(), strict=True):
        np.testing.assert_allclose(a.numpy(), b.numpy(), rtol=1e-3, atol=1e-5, err_msg=name)
