"""3 x 3 convolutions by Winograd's algorithm: against the references, exactness, and equal bits per image."""

from __future__ import annotations

import numpy as np
import pytest

from twofold.backends.cpu import team
from twofold.backends.cpu.program import Program
from twofold.backends.reference import interpret
from twofold.compiler.compile import optimize
from twofold.ir import config

from .test_conv import build, check, floats

SHAPES = [
    # x, outputs, padding: odd sizes, windows beyond the border, tails of vectors and panels, blocks
    ((2, 32, 8, 8), 32, ((1, 1), (1, 1))),
    ((3, 33, 7, 7), 70, ((1, 1), (1, 1))),
    ((1, 40, 9, 14), 49, ((0, 0), (0, 0))),
    ((2, 35, 6, 11), 37, ((2, 1), (0, 2))),
    ((5, 48, 4, 4), 100, ((1, 1), (1, 1))),
    ((2, 32, 30, 17), 64, ((1, 1), (1, 1))),
    ((2, 17, 6, 6), 16, ((1, 1), (1, 1))),
]


@pytest.fixture(autouse=True)
def threads_as_before():
    before = team.get_num_threads()
    yield
    team.set_num_threads(before)


def params_of(padding):
    return {"stride": (1, 1), "padding": padding, "dilation": (1, 1), "groups": 1}


def all_three(shape, padding):
    """The convolution and both gradients."""
    params = params_of(padding)

    def fn(op, x, w, g):
        return (
            op("conv", x, w, **params),
            op("conv_input_grad", g, w, input_size=shape[2:], **params),
            op("conv_weight_grad", x, g, kernel_size=(3, 3), **params),
        )

    return fn


def arrays_for(draw, shape, outputs, padding):
    sizes = [n + lo + hi - 2 for n, (lo, hi) in zip(shape[2:], padding, strict=True)]
    return draw(*shape), draw(outputs, shape[1], 3, 3), draw(shape[0], outputs, *sizes)


@pytest.mark.parametrize(("shape", "outputs", "padding"), SHAPES)
def test_convolution_and_gradients_equal_the_references(shape, outputs, padding):
    rng = np.random.default_rng(0)
    arrays = arrays_for(lambda *s: floats(rng, *s), shape, outputs, padding)
    program = check(all_three(shape, padding), *arrays, tolerance=1e-5)
    direct = direct_program(all_three(shape, padding), arrays)
    assert program.texts != direct.texts  # the algorithm that this file is about was taken


def direct_program(fn, arrays):
    with config.WINOGRAD.set(False):
        return Program(optimize(build(fn, *arrays)))


@pytest.mark.parametrize(("shape", "outputs", "padding"), SHAPES[:4])
def test_small_integers_give_exact_results(shape, outputs, padding):
    rng = np.random.default_rng(1)
    arrays = arrays_for(lambda *s: rng.integers(-4, 5, s).astype(np.float32), shape, outputs, padding)
    graph = build(all_three(shape, padding), *arrays)
    for got, expected in zip(Program(optimize(graph))(arrays), interpret(graph, list(arrays)), strict=True):
        np.testing.assert_array_equal(got, expected)


def test_the_error_is_that_of_the_definition():
    rng = np.random.default_rng(2)
    shape, padding = (4, 64, 16, 16), ((1, 1), (1, 1))
    arrays = arrays_for(lambda *s: floats(rng, *s), shape, 64, padding)
    fn = all_three(shape, padding)
    exact = interpret(build(fn, *[a.astype(np.float64) for a in arrays]), [a.astype(np.float64) for a in arrays])
    for fast, slow, true in zip(
        Program(optimize(build(fn, *arrays)))(arrays), direct_program(fn, arrays)(arrays), exact, strict=True
    ):
        scale = np.sqrt((true**2).mean())
        errors = [np.abs(got - true).max() / scale for got in (fast, slow)]
        assert errors[0] < 1.5 * errors[1] < 3e-5, errors


def test_an_image_has_the_same_bits_in_every_batch():
    rng = np.random.default_rng(3)
    shape, padding = (37, 32, 6, 6), ((1, 1), (1, 1))
    x, w, g = arrays_for(lambda *s: floats(rng, *s), shape, 40, padding)
    params = params_of(padding)

    def fn(op, x, w, g):
        return op("conv", x, w, **params), op("conv_input_grad", g, w, input_size=shape[2:], **params)

    whole = Program(optimize(build(fn, x, w, g)))([x, w, g])
    for part in (slice(0, 1), slice(36, 37), slice(5, 21)):
        some = [np.ascontiguousarray(x[part]), w, np.ascontiguousarray(g[part])]
        for got, expected in zip(Program(optimize(build(fn, *some)))(some), whole, strict=True):
            np.testing.assert_array_equal(got, expected[part])


def test_element_wise_nodes_run_on_the_tiles():
    rng = np.random.default_rng(4)
    x, w, b = floats(rng, 2, 33, 7, 9), floats(rng, 40, 33, 3, 3), floats(rng, 40, 1, 1)
    params = params_of(((1, 1), (1, 1)))

    def fn(op, x, w, b, z):
        y = op("add", op("conv", x, w, **params), b)
        y = op("mul", op("tanh", y), op("sigmoid", op("add", y, z)))
        return op("relu", y), op("gt", y, 0.0)

    def light(op, x, w, b, z):
        return op("add", op("relu", op("add", op("conv", x, w, **params), b)), z)

    z = floats(rng, 2, 40, 7, 9)
    for body in (fn, light):
        program = check(body, x, w, b, z)
        assert "conv_last add" in program.kernels()
