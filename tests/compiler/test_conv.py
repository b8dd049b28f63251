"""Convolutional networks compiled: the layout pass, and its kernels against the NumPy references."""

from __future__ import annotations

import copy

import numpy as np
import pytest

import twofold as tw
import twofold.nn as nn
from twofold.backends.cpu import team
from twofold.backends.cpu.program import Program
from twofold.backends.reference import interpret
from twofold.compiler.compile import compile, optimize
from twofold.ir import config
from twofold.ir.dtypes import float32
from twofold.ir.errors import ShapeError
from twofold.ir.graph import Graph
from twofold.ir.primitive import PRIMITIVES
from twofold.ir.types import TensorType
from twofold.primitives.conv import window_sizes


@pytest.fixture(autouse=True)
def threads_as_before():
    before = team.get_num_threads()
    yield
    team.set_num_threads(before)


def build(fn, *arrays):
    """A graph of `fn(op, *values)`, where op(name, *values, **params) adds a node."""
    graph = Graph("g")

    def op(name, *inputs, **params):
        values = [v if not isinstance(v, float) else graph.constant(v, float32) for v in inputs]
        outs = graph.add(PRIMITIVES[name], tuple(values), params)
        return outs if len(outs) > 1 else outs[0]

    outs = fn(op, *[graph.add_input(TensorType.of(a)) for a in arrays])
    graph.set_outputs(list(outs) if isinstance(outs, tuple) else [outs])
    return graph


def check(fn, *arrays, tolerance=1e-4):
    """Compiled natively, equal for any number of threads, and close to the references; the program."""
    graph = build(fn, *arrays)
    program = Program(optimize(graph))
    assert "numpy" not in program.kernels(), program.kernels()
    results = []
    for threads in (1, 2, 3):
        team.set_num_threads(threads)
        results.append([np.array(a) for a in program(arrays)])
    for one, two, three, expected in zip(*results, interpret(graph, list(arrays)), strict=True):
        np.testing.assert_array_equal(one, two)
        np.testing.assert_array_equal(one, three)
        finite = expected[np.isfinite(expected)]
        scale = max(1.0, float(np.abs(finite).max())) if finite.size else 1.0
        np.testing.assert_allclose(one, expected, rtol=tolerance, atol=tolerance * scale)
    return program


def floats(rng, *shape):
    return rng.standard_normal(shape).astype(np.float32)


def random_conv(rng):
    """Shapes of x, w and the output, with the params."""
    draw = lambda low, high: int(rng.integers(low, high + 1))
    n = int(rng.choice([1, 2, 2, 2]))
    while True:
        size, kernel = tuple(draw(1, 17) for _ in range(n)), tuple(draw(1, 4) for _ in range(n))
        params = {
            "stride": tuple(draw(1, 3) for _ in range(n)),
            "padding": tuple((draw(0, 2), draw(0, 2)) for _ in range(n)),
            "dilation": tuple(draw(1, 2) for _ in range(n)),
        }
        try:
            sizes = window_sizes("conv", size, kernel=kernel, **params)
            break
        except ShapeError:
            continue
    groups = draw(2, 3) if rng.random() < 0.3 else 1
    inputs, outputs = int(rng.choice([1, 3, 8, 17])), int(rng.choice([1, 5, 16, 20, 33, 64]))
    batch = 20 if rng.random() < 0.1 else draw(1, 4)
    params["groups"] = groups
    return (batch, groups * inputs, *size), (groups * outputs, inputs, *kernel), sizes, params


@pytest.mark.parametrize("seed", range(24))
def test_convolution_and_gradients_equal_the_references(seed):
    rng = np.random.default_rng(seed)
    x_shape, w_shape, sizes, params = random_conv(rng)
    x, w, g = floats(rng, *x_shape), floats(rng, *w_shape), floats(rng, x_shape[0], w_shape[0], *sizes)

    def fn(op, x, w, g):
        return (
            op("conv", x, w, **params),
            op("conv_input_grad", g, w, input_size=x_shape[2:], **params),
            op("conv_weight_grad", x, g, kernel_size=w_shape[2:], **params),
        )

    check(fn, x, w, g)


LARGE = [
    # x, w, stride, padding: bands of rows, blocks of images, several panels, weights without borders
    ((2, 3, 130, 130), (64, 3, 7, 7), 2, 3),
    ((1, 40, 80, 80), (33, 40, 3, 3), 1, 1),
    ((40, 64, 4, 4), (96, 64, 3, 3), 1, 1),
    ((33, 20, 7, 7), (48, 20, 1, 1), 1, 0),
    ((3, 24, 9, 9), (40, 24, 1, 1), 2, 0),
    ((31, 16, 5, 5), (20, 16, 3, 3), 2, 1),
    ((2, 40, 9, 9), (40, 1, 3, 3), 1, 1),
    ((3, 33, 12, 7), (33, 1, 5, 3), 2, 2),
]


@pytest.mark.parametrize(("x", "w", "stride", "pad"), LARGE)
def test_large_convolutions_are_cut_into_pieces(x, w, stride, pad):
    rng = np.random.default_rng(5)
    params = {"stride": (stride,) * 2, "padding": ((pad, pad),) * 2, "dilation": (1, 1)}
    params["groups"] = x[1] // w[1]
    sizes = window_sizes("conv", x[2:], kernel=w[2:], **{k: v for k, v in params.items() if k != "groups"})
    a, b, g = floats(rng, *x), floats(rng, *w), floats(rng, x[0], w[0], *sizes)

    def fn(op, a, b, g):
        return (
            op("conv", a, b, **params),
            op("conv_input_grad", g, b, input_size=x[2:], **params),
            op("conv_weight_grad", a, g, kernel_size=w[2:], **params),
        )

    with config.WINOGRAD.set(False):  # which has tests of its own
        check(fn, a, b, g, tolerance=3e-4)


def random_pool(rng):
    draw = lambda low, high: int(rng.integers(low, high + 1))
    n = int(rng.choice([1, 2, 2, 2]))
    while True:
        kernel = tuple(draw(1, 4) for _ in range(n))
        params = {
            "kernel": kernel,
            "stride": kernel if rng.random() < 0.3 else tuple(draw(1, 4) for _ in range(n)),
            "padding": tuple((draw(0, k // 2), draw(0, k // 2)) for k in kernel)
            if rng.random() < 0.6
            else ((0, 0),) * n,
            "dilation": tuple(draw(1, 2) for _ in range(n)) if rng.random() < 0.5 else (1,) * n,
        }
        shape = (draw(1, 3), int(rng.choice([1, 3, 16, 20, 33])), *[draw(1, 12) for _ in range(n)])
        try:
            values, _ = PRIMITIVES["max_pool"].types([TensorType(shape, float32)], params)
            return shape, values.shape, params
        except ShapeError:
            continue


def max_pool_with_gradient(params, shape):
    """The graph that differentiation makes."""

    def fn(op, x, g):
        values, indices = op("max_pool", x, **params)
        return values, op("max_pool_grad", g, indices, input_size=shape[2:])

    return fn


@pytest.mark.parametrize("seed", range(24))
def test_pools_and_gradients_equal_the_references(seed):
    rng = np.random.default_rng(seed)
    shape, out, params = random_pool(rng)
    x = rng.integers(-3, 4, shape).astype(np.float32)  # with ties
    if seed % 3 == 1:
        x[rng.random(shape) < 0.1] = np.nan
    if seed % 3 == 2:
        x[rng.random(shape) < 0.5] = -np.inf
    g = floats(rng, *out)
    program = check(max_pool_with_gradient(params, shape), x, g)
    assert "unpool" in program.kernels() and "scatter" not in program.kernels()
    check(lambda op, x: op("sum_pool", x, **params), floats(rng, *shape))
    check(lambda op, g: op("sum_pool_grad", g, input_size=shape[2:], **params), g)


def test_indices_that_are_asked_for_are_still_there():
    rng = np.random.default_rng(0)
    params = {"kernel": (2, 2), "stride": (2, 2), "padding": ((0, 0),) * 2, "dilation": (1, 1)}
    x = floats(rng, 2, 3, 6, 6)
    graph = build(lambda op, x: op("max_pool", x, **params), x)
    for got, expected in zip(Program(optimize(graph))([x]), interpret(graph, [x]), strict=True):
        np.testing.assert_array_equal(got, expected)


POINT = {"stride": (1, 1), "padding": ((1, 1), (1, 1)), "dilation": (1, 1), "groups": 1}


def test_element_wise_nodes_run_on_the_convolutions_tile():
    rng = np.random.default_rng(0)
    x, w, b, scale = floats(rng, 3, 5, 9, 9), floats(rng, 20, 5, 3, 3), floats(rng, 20, 1, 1), floats(rng)

    def fn(op, x, w, b, scale, z):
        y = op("add", op("conv", x, w, **POINT), b)
        y = op("mul", op("relu", y), scale)
        return op("add", y, z), op("gt", y, 0.0)

    program = check(fn, x, w, b, scale, floats(rng, 3, 20, 9, 9))
    (line,) = [k for k in program.kernels().splitlines() if k.startswith("conv")]
    assert "conv_last add relu mul" in line and "gt" in line


@pytest.mark.parametrize("shape", [(2, 5, 9, 9), (2, 5, 4, 4), (20, 16, 4, 4)])
def test_long_epilogues_loop_over_the_tile(shape):
    rng = np.random.default_rng(0)

    def fn(op, x, w, z):
        y = op("conv", x, w, **POINT)
        for _ in range(4):
            y = op("mul", op("tanh", op("add", y, z)), op("sigmoid", y))
        return y

    z = floats(rng, shape[0], 40, *shape[2:])
    program = check(fn, floats(rng, *shape), floats(rng, 40, shape[1], 3, 3), z)
    assert "conv_last add tanh sigmoid" in program.kernels()


def test_everything_between_convolutions_stays_channels_last():
    rng = np.random.default_rng(0)
    x, w, v = floats(rng, 2, 5, 8, 6), floats(rng, 7, 5, 3, 3), floats(rng, 4, 14, 3, 3)

    def fn(op, x, w, v):
        y = op("conv", x, w, **POINT)
        mean = op("sum", y, dims=(0, 2, 3), keepdim=True)
        y = op("sub", y, op("expand", mean, shape=y.shape))
        y = op("concat", y, op("flip", y, dims=(1, 3)), dim=1)
        y = op("pad", y, low=(0, 0, 1, 0), high=(0, 0, 0, 2), value=0.5)
        y = op("slice", y, start=(0, 0, 1, 0), stop=(2, 14, 9, 8), step=(1, 1, 2, 1))
        z = op("conv", y, v, **POINT)
        return op("sum", z, dims=(0, 2), keepdim=False), op("sum", y, dims=(2,), keepdim=True)

    program = check(fn, x, w, v)
    turns = {(0, 2, 3, 1), (0, 3, 1, 2)}
    turned = [n for n in program.graph.nodes if n.prim.name == "permute" and n.params["dims"] in turns]
    large = [n for n in turned if n.inputs[0].type.size > 20]
    assert {n.inputs[0] for n in large if n.outputs[0] not in program.graph.outputs} == {program.graph.inputs[0]}


class Residual(nn.Module):
    """conv-bn-relu-conv-bn with a shortcut of stride 2."""

    def __init__(self):
        super().__init__()
        self.first, self.second = nn.Conv2d(6, 20, 3, 2, 1, bias=False), nn.Conv2d(20, 20, 3, 1, 1, bias=False)
        self.norms = nn.ModuleList([nn.BatchNorm2d(20) for _ in range(3)])
        self.down, self.head = nn.Conv2d(6, 20, 1, 2, bias=False), nn.Linear(20, 5)

    def forward(self, x):
        y = self.norms[1](self.second(tw.relu(self.norms[0](self.first(x)))))
        return self.head(tw.relu(y + self.norms[2](self.down(x))).mean((2, 3)))


def small_cnn():
    return nn.Sequential(
        nn.Conv2d(1, 8, 3, padding=1), nn.ReLU(), nn.MaxPool2d(2), nn.Conv2d(8, 20, 3, padding=1), nn.ReLU(),
        nn.MaxPool2d(3, 2, 1), nn.Conv2d(20, 20, 2, groups=4), nn.AvgPool2d(2), nn.Flatten(), nn.Linear(20, 5),
    )  # fmt: skip


@pytest.mark.parametrize(("make", "shape"), [(small_cnn, (6, 1, 12, 12)), (Residual, (4, 6, 9, 9))])
def test_training_steps_equal_eager_ones(make, shape):
    tw.manual_seed(3)
    eager = make()
    compiled = copy.deepcopy(eager)
    rng = np.random.default_rng(1)
    x, y = tw.from_numpy(floats(rng, *shape)), tw.from_numpy(rng.integers(0, 5, shape[0]))

    def steps(model):
        opt = tw.optim.SGD(model.parameters(), lr=0.05, momentum=0.9)

        def step(x, y):
            opt.zero_grad()
            loss = nn.functional.cross_entropy(model(x), y)
            loss.backward()
            opt.step()
            return loss

        return step

    run, fast = steps(eager), compile(steps(compiled))
    for _ in range(3):
        np.testing.assert_allclose(fast(x, y).item(), run(x, y).item(), rtol=1e-4)
    for (name, a), b in zip(compiled.state_dict().items(), eager.state_dict().values(), strict=True):
        np.testing.assert_allclose(a.numpy(), b.numpy(), rtol=1e-3, atol=1e-5, err_msg=name)
    ((_, specialization),) = next(iter(fast.specializations.values()))
    slow = [k for k in specialization.program.kernels().splitlines() if k.startswith("numpy")]
    assert not any("conv" in k or "pool" in k for k in slow)


def test_relus_mask_moves_before_the_gradient_of_the_pool():
    params = {"kernel": (3, 3), "stride": (2, 2), "padding": ((1, 1), (1, 1)), "dilation": (1, 1)}
    rng = np.random.default_rng(0)
    x, g = floats(rng, 2, 3, 9, 9), floats(rng, 2, 3, 5, 5)

    def fn(op, x, g):
        r = op("relu", x)
        values, grad = max_pool_with_gradient(params, x.shape)(op, r, g)
        return values, op("where", op("le", r, 0.0), 0.0, grad)

    program = check(fn, x, g)
    (where,) = [n for n in program.graph.nodes if n.prim.name == "where"]
    assert where.outputs[0].shape == (2, 5, 5, 3)
