"""Convolution and pooling of every dtype and in three dimensions, compiled, against the references in float64."""

from __future__ import annotations

import ml_dtypes
import numpy as np
import pytest
from test_conv import build, threads_as_before  # noqa: F401  (a fixture)

from twofold.backends.cpu import team
from twofold.backends.cpu.program import Program
from twofold.backends.reference import interpret
from twofold.compiler.compile import optimize
from twofold.ir.dtypes import BY_NAME
from twofold.ir.errors import ShapeError
from twofold.primitives.conv import window_sizes

# relative to the largest element; halves are rounded once
TOLERANCE = {"float64": 2e-14, "float32": 1e-5, "float16": 2**-11 + 1e-5, "bfloat16": 2**-8 + 1e-5}
DTYPES = {"float64": np.float64, "float32": np.float32, "float16": np.float16, "bfloat16": ml_dtypes.bfloat16}


def run(fn, *arrays):
    """The results, which are equal for any number of threads and have no step of NumPy."""
    program = Program(optimize(build(fn, *arrays)))
    assert "numpy" not in program.kernels(), program.kernels()
    results = []
    for threads in (1, 2, 3):
        team.set_num_threads(threads)
        results.append([np.array(a) for a in program(arrays)])
    for one, two, three in zip(*results, strict=True):
        assert one.tobytes() == two.tobytes() == three.tobytes()
    return results[0]


def check(fn, *arrays):
    """Against the references, on float64 where the arrays are floats."""
    got = run(fn, *arrays)
    wide = [a.astype(np.float64) if a.dtype.name in TOLERANCE else a for a in arrays]
    for g, e in zip(got, interpret(build(fn, *wide), wide), strict=True):
        assert g.shape == e.shape
        if g.dtype.name not in TOLERANCE:
            np.testing.assert_array_equal(g, e)
            continue
        assert g.dtype.name == arrays[0].dtype.name
        g = g.astype(np.float64)
        np.testing.assert_array_equal(np.isfinite(g), np.isfinite(e))
        np.testing.assert_array_equal(g[~np.isfinite(e)], e[~np.isfinite(e)])
        keep = np.isfinite(e)
        scale = max(1.0, float(np.abs(e[keep]).max(initial=0)))
        np.testing.assert_allclose(g[keep], e[keep], rtol=0, atol=TOLERANCE[arrays[0].dtype.name] * scale)


def random_windows(rng):
    """A size, a kernel, and the params and numbers of windows."""
    draw = lambda low, high: int(rng.integers(low, high + 1))
    n = int(rng.choice([1, 2, 3, 3]))
    while True:
        size, kernel = tuple(draw(1, 17 if n < 3 else 8) for _ in range(n)), tuple(draw(1, 4) for _ in range(n))
        params = {
            "stride": tuple(draw(1, 3) for _ in range(n)),
            "padding": tuple((draw(0, 2), draw(0, 2)) for _ in range(n)),
            "dilation": tuple(draw(1, 2) for _ in range(n)),
        }
        try:
            return size, kernel, params, window_sizes("conv", size, kernel=kernel, **params)
        except ShapeError:
            continue


@pytest.mark.parametrize("seed", range(28))
def test_convolution_and_gradients(seed):
    rng = np.random.default_rng(seed)
    size, kernel, params, sizes = random_windows(rng)
    groups = int(rng.integers(2, 21)) if rng.random() < 0.4 else 1
    inputs, outputs = int(rng.choice([1, 3, 8, 17])), int(rng.choice([1, 5, 16, 20, 33]))
    if rng.random() < 0.3:
        inputs = outputs = 1
    params["groups"] = groups
    batch = int(rng.integers(1, 6))
    dtype = list(DTYPES.values())[seed % 4]
    shapes = (batch, groups * inputs, *size), (groups * outputs, inputs, *kernel), (batch, groups * outputs, *sizes)
    x, w, g = (rng.standard_normal(s).astype(dtype) for s in shapes)

    def fn(op, x, w, g):
        return (
            op("conv", x, w, **params),
            op("conv_input_grad", g, w, input_size=size, **params),
            op("conv_weight_grad", x, g, kernel_size=kernel, **params),
        )

    check(fn, x, w, g)


def test_many_tiles_and_chunks():
    rng = np.random.default_rng(0)
    for dtype, x, w, stride in (
        (np.float64, (5, 16, 20, 19), (40, 16, 3, 3), 1),
        (np.float32, (2, 8, 9, 20, 31), (24, 8, 3, 3, 3), 2),
        (np.float16, (40, 20, 3, 3), (36, 20, 2, 2), 1),
        (np.float64, (19, 3, 300), (5, 3, 7), 1),
    ):
        n = len(w) - 2
        params = {"stride": (stride,) * n, "padding": ((1, 1),) * n, "dilation": (1,) * n, "groups": 1}
        sizes = tuple((a + 2 - k) // stride + 1 for a, k in zip(x[2:], w[2:], strict=True))
        a, b, g = (rng.standard_normal(s).astype(dtype) for s in (x, w, (x[0], w[0], *sizes)))

        def fn(op, a, b, g, x=x, w=w, params=params):
            return (
                op("conv", a, b, **params),
                op("conv_input_grad", g, b, input_size=x[2:], **params),
                op("conv_weight_grad", a, g, kernel_size=w[2:], **params),
            )

        check(fn, a, b, g)


def test_no_channels_and_no_positions():
    """A sum of nothing is zero: no input channels, no batch."""
    params = {"stride": (1,), "padding": ((1, 1),), "dilation": (1,), "groups": 1}
    x, w, g = np.zeros((2, 0, 4)), np.zeros((3, 0, 3)), np.zeros((0, 3, 4))
    check(lambda op, x, w: op("conv", x, w, **params), x, w)
    check(lambda op, x, g: op("conv_weight_grad", x, g, kernel_size=(3,), **params), np.zeros((0, 2, 4)), g)
    wide = {"stride": (3,), "padding": ((0, 0),), "dilation": (1,), "groups": 1}
    g, w = np.ones((1, 2, 2)), np.ones((2, 1, 1))  # most positions see no tap
    check(lambda op, g, w: op("conv_input_grad", g, w, input_size=(5,), **wide), g, w)


def test_rows_of_the_batch_do_not_depend_on_others():
    rng = np.random.default_rng(3)
    params = {"stride": (1, 2, 1), "padding": ((1, 1),) * 3, "dilation": (1, 1, 2), "groups": 1}
    x, w = rng.standard_normal((6, 5, 4, 5, 6)).astype(np.float32), rng.standard_normal((7, 5, 2, 3, 2))
    w = w.astype(np.float32)
    fn = lambda op, x, w: op("conv", x, w, **params)
    (whole,) = run(fn, x, w)
    for i in range(6):
        (alone,) = run(fn, x[i : i + 1], w)
        np.testing.assert_array_equal(whole[i : i + 1], alone)


@pytest.mark.parametrize("dtype", [*DTYPES, "int32", "uint8"])
@pytest.mark.parametrize("seed", range(5))
def test_pools(seed, dtype):
    rng = np.random.default_rng(seed)
    size, kernel, params, sizes = random_windows(rng)
    params["kernel"] = kernel
    channels = int(rng.choice([1, 3, 16, 37]))
    shape, small = (2, channels, *size), (2, channels, *sizes)
    numpy = BY_NAME[dtype].numpy
    x, g = (rng.integers(0 if dtype == "uint8" else -5, 6, s).astype(numpy) for s in (shape, small))
    if numpy.kind in "fV":
        x = np.where(rng.random(shape) < 0.05, np.nan, x.astype(np.float64)).astype(numpy)
        x[rng.random(shape) < 0.05] = -np.inf

    def sums(op, g):
        back = op("sum_pool_grad", g, input_size=size, **params)
        return back, op("sum_pool", back, **params)

    check(sums, g)
    if any(lo > d * (k - 1) for (lo, _), k, d in zip(params["padding"], kernel, params["dilation"], strict=True)):
        return
    try:
        build(lambda op, x: op("max_pool", x, **params), x)
    except ShapeError:  # a window of nothing but padding
        return

    def largest(op, x, g):
        values, indices = op("max_pool", x, **params)
        return values, indices, op("max_pool_grad", g, indices, input_size=size)

    check(largest, x, g)
    assert not any(n.prim.name in ("max_pool", "max_pool_grad") for n in optimize(build(largest, x, g)).nodes)


def test_large_windows_are_loops():
    x = np.round(np.random.default_rng(0).standard_normal((1, 3, 12, 30)) * 3)
    params = {"kernel": (7, 9), "stride": (2, 3), "padding": ((3, 3), (4, 2)), "dilation": (1, 1)}

    def fn(op, x):
        y = op("sum_pool", x, **params)
        values, indices = op("max_pool", x, **params)
        return y, op("sum_pool_grad", y, input_size=(12, 30), **params), values, indices

    check(fn, x)
