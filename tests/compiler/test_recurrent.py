"""Recurrent layers compiled: against the reference, in all shapes of tiles, and whole training steps."""

from __future__ import annotations

import itertools

import numpy as np
import pytest
from sequences import NAMES, every_params, operands

import twofold as tw
from twofold.backends.cpu import team
from twofold.backends.cpu.program import Program
from twofold.backends.cpu.target import AVX2, AVX512, SSE2, host
from twofold.compiler.passes import canonicalize, fold, prune
from twofold.ir.dtypes import BY_NAME
from twofold.ir.evaluate import evaluate
from twofold.ir.graph import Graph
from twofold.ir.primitive import PRIMITIVES
from twofold.ir.types import TensorType

# largest error relative to the largest element: the recurrence carries roundings along
CLOSE = {"float16": 1.5e-3, "bfloat16": 1.2e-2, "float32": 5e-6, "float64": 1e-14}
# (T, N, H): tails of vectors, of panels and of row tiles; several tiles of a panel; one of each
SHAPES = ((4, 5, 7), (1, 1, 1), (3, 9, 40), (2, 33, 16), (5, 2, 70), (2, 13, 200), (1, 3, 129))


def make(name, shapes, dtype):
    graph = Graph(name)
    arguments, outputs, expected = [], [], []
    for shape in shapes:
        arrays = operands(name, *shape, dtype)
        for params in every_params(name):
            inputs = [graph.add_input(TensorType.of(a)) for a in arrays]
            outputs += graph.add(PRIMITIVES[name], inputs, params)
            result = evaluate(PRIMITIVES[name], arrays, params)
            expected += result if PRIMITIVES[name].multiple else (result,)
            arguments += arrays
    graph.set_outputs(outputs)
    return graph, arguments, expected


def assert_close(got, expected, limit, what=""):
    assert (got.shape, got.dtype) == (expected.shape, expected.dtype), what
    g, e = got.astype(np.float64), expected.astype(np.float64)
    scale = np.abs(e).max(initial=1e-3)
    assert np.isfinite(g).all(), what
    assert np.abs(g - e).max(initial=0) <= limit * scale, f"{what}: {np.abs(g - e).max() / scale}"


@pytest.mark.parametrize("dtype", ["float32", "float64", "float16", "bfloat16"])
@pytest.mark.parametrize("name", NAMES)
def test_all_shapes_of_tiles(name, dtype):
    graph, arguments, expected = make(name, SHAPES if dtype == "float32" else SHAPES[:5], dtype)
    program = Program(graph)
    assert "numpy" not in program.kernels()
    for value, got, e in zip(graph.outputs, program(arguments), expected, strict=True):
        assert_close(got, e, CLOSE[dtype], str(value.node))


@pytest.mark.parametrize("target", [t for t in (AVX512, AVX2, SSE2) if t.runs_here and t.name != host().name])
def test_narrower_vectors(target):
    for name in NAMES:
        graph, arguments, expected = make(name, SHAPES[:3], "float32")
        for value, got, e in zip(graph.outputs, Program(graph, target=target)(arguments), expected, strict=True):
            assert_close(got, e, CLOSE["float32"], f"{target.name} {value.node}")


@pytest.mark.parametrize("name", NAMES)
def test_equal_for_any_number_of_threads(name):
    graph, arguments, _ = make(name, [(3, 37, 20), (2, 70, 48)], "float32")
    program = Program(graph)
    results = []
    try:
        for count in (1, 2, 3):
            team.set_num_threads(count)
            results.append([r.tobytes() for r in program([a.copy() for a in arguments])])
    finally:
        team.set_num_threads(team.usable_cpus())
    assert results[0] == results[1] == results[2]


@pytest.mark.parametrize("name", ["rnn", "lstm", "gru"])
def test_strided_operands_and_results_that_nobody_wants(name):
    """A sequence whose batch comes first, a transposed weight, a state of zeros, and the last output only."""
    arrays = operands(name, 4, 6, 20, "float32")
    weight = 3 if name == "lstm" else 2
    params = next(every_params(name))
    permute, full = PRIMITIVES["permute"], PRIMITIVES["full"]
    graph = Graph("strided")
    inputs, arguments = [], []
    for i, a in enumerate(arrays):
        if i == 1:
            arrays[1] = np.zeros_like(a)
            inputs += graph.add(full, [], {"shape": a.shape, "value": 0, "dtype": BY_NAME["float32"]})
        elif i in (0, weight):
            dims = (1, 0, 2)[: a.ndim] if i == 0 else (1, 0)
            given = np.ascontiguousarray(a.transpose(dims))
            arguments.append(given)
            inputs += graph.add(permute, [graph.add_input(TensorType.of(given))], {"dims": dims})
        else:
            arguments.append(a)
            inputs.append(graph.add_input(TensorType.of(a)))
    outputs = graph.add(PRIMITIVES[name], inputs, params)
    graph.set_outputs([outputs[0]])
    program = Program(prune(canonicalize(fold(graph))))
    assert not any(s.kind in ("copy", "numpy") for s in program.steps), program.kernels()
    expected = evaluate(PRIMITIVES[name], arrays, params)
    assert_close(program(arguments)[0], expected if name == "rnn" else expected[0], CLOSE["float32"])


def test_accuracy_of_gates():
    """With a weight of zeros the gates are functions of the inputs."""
    rng = np.random.default_rng(0)
    parts = [rng.uniform(-size, size, 4000) for size in (1e-30, 1e-6, 1e-3, 0.2, 1, 8, 86)]
    special = np.array([0.0, -0.0, np.inf, -np.inf, np.nan, 1e-40, -1e-40, 100, -100])
    payload = np.array([0x7FC00001, 0xFFC12345], np.uint32).view(np.float32)
    x = np.concatenate([*parts, special, payload]).astype(np.float32)
    n = len(x)
    graph = Graph("gates")
    arrays = [np.repeat(x, 4).reshape(1, n, 4), np.zeros((n, 1)), np.zeros((n, 1)), np.zeros((4, 1))]
    arrays = [a.astype(np.float32) for a in arrays]
    outputs = graph.add(PRIMITIVES["lstm"], [graph.add_input(TensorType.of(a)) for a in arrays], {"reverse": False})
    graph.set_outputs([outputs[2]])
    (gates,) = Program(graph)(arrays)
    with np.errstate(all="ignore"):
        wide = x.astype(np.float64)
        for got, exact in (
            (gates[0, :, 0], 1 / (1 + np.exp(-wide))),
            (gates[0, :, 2], np.tanh(wide)),
        ):
            rounded = exact.astype(np.float32)
            error = np.abs(got - exact) / np.spacing(np.abs(rounded)).astype(np.float64)
            assert np.array_equal(np.isnan(got), np.isnan(exact))
            assert np.nanmax(error) < 2, x[np.nanargmax(error)]


# --- whole steps ----------------------------------------------------------------------------------

LAYERS = {
    "rnn": lambda: tw.nn.RNN(5, 9, nonlinearity="relu", batch_first=True),
    "lstm": lambda: tw.nn.LSTM(5, 9, batch_first=True),
    "lstm deep": lambda: tw.nn.LSTM(5, 9, num_layers=2, bidirectional=True, dropout=0.3, batch_first=True),
    "lstm projected": lambda: tw.nn.LSTM(5, 9, proj_size=4, batch_first=True),
    "gru": lambda: tw.nn.GRU(5, 9, bidirectional=True, batch_first=True),
    "gru without bias": lambda: tw.nn.GRU(5, 9, bias=False, batch_first=True),
}


def training(layer, compiled):
    tw.manual_seed(1)
    model = layer()
    width = (model.proj_size or 9) * (2 if model.bidirectional else 1)
    head = tw.nn.Linear(width, 3)
    parameters = [*model.parameters(), *head.parameters()]
    optimizer = tw.optim.Adam(parameters, lr=0.01)

    def step(x, target):
        optimizer.zero_grad()
        y, state = model(x)
        last = sum(s.sum() for s in (state if isinstance(state, tuple) else (state,)))
        loss = tw.nn.functional.cross_entropy(head(y[:, -1]), target) + 0.01 * last
        loss.backward()
        optimizer.step()
        return loss

    run = tw.compile(step) if compiled else step
    rng = np.random.default_rng(2)
    x = tw.from_numpy(rng.standard_normal((6, 7, 5)).astype(np.float32))
    target = tw.from_numpy(rng.integers(0, 3, 6))
    losses = [float(run(x, target).detach()) for _ in range(4)]
    gradients = [p.grad.numpy().copy() for p in parameters]
    return losses, gradients, [p.detach().numpy().copy() for p in parameters], run


@pytest.mark.parametrize("name", LAYERS)
def test_training_is_that_of_eager(name):
    losses, gradients, weights, _ = training(LAYERS[name], False)
    losses2, gradients2, weights2, run = training(LAYERS[name], True)
    np.testing.assert_allclose(losses2, losses, rtol=2e-5)
    for g, e in itertools.chain(zip(gradients2, gradients, strict=True), zip(weights2, weights, strict=True)):
        assert_close(g, e, 2e-4)
    known = [s for v in run.specializations.values() for _, s in v]
    assert len(known) == 1
    assert "numpy" not in known[0].program.kernels()


def test_a_longer_sequence_needs_no_more_kernels():
    def kernels(times):
        model = tw.nn.LSTM(4, 8)
        run = tw.compile(lambda x: model(x)[0].sum().backward())
        run(tw.ones(times, 2, 4))
        (program,) = [s.program for v in run.specializations.values() for _, s in v]
        return program.kernels().count("\n")

    assert kernels(3) == kernels(60)
