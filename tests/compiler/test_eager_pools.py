"""Eager pools: the bits of compiled programs for every shape, and no code for new shapes."""

import itertools

import numpy as np
import pytest
from test_eager_maps import FLOATING, same

import twofold as tw
import twofold.nn.functional as F
from twofold.backends.cpu import jit, pools
from twofold.backends.cpu.launch import Launch
from twofold.backends.cpu.program import Program
from twofold.backends.cpu.target import AVX2, SSE2
from twofold.compiler import composed, composites, eager_pools
from twofold.compiler.pipeline import optimize
from twofold.compiler.single import program_of
from twofold.ir.dtypes import BY_NAME
from twofold.ir.errors import ShapeError
from twofold.ir.evaluate import evaluate, value_types
from twofold.ir.graph import Graph
from twofold.ir.primitive import PRIMITIVES

RUN = {name: eager_pools.Pools(PRIMITIVES[name]).run for name in eager_pools.NAMES}
PARAMS = {"kernel": (3, 2), "stride": (2, 1), "padding": ((1, 1), (0, 1)), "dilation": (1, 1)}

# (N, C, *S), kernel, stride, padding, dilation: lines of all strides, short lines, few and many planes, odd windows
CASES = [
    ((2, 3, 20, 40), (3, 3), (1, 1), 1, 1), ((2, 3, 21, 41), (2, 2), (2, 2), 0, 1),
    ((1, 2, 9, 80), (3, 5), (2, 2), 1, 1), ((1, 2, 9, 80), (3, 4), (3, 3), (1, 2), 1),
    ((1, 1, 30, 70), (2, 3), (1, 4), 1, 3), ((1, 2, 9, 80), (2, 3), (2, 2), 1, 2),
    ((3, 11, 7, 7), (7, 7), (7, 7), 0, 1), ((4, 9, 8, 8), (2, 2), (2, 2), 0, 1),
    ((5, 7, 6, 9), (3, 3), (2, 4), 1, 1), ((33, 1, 4, 5), (2, 3), (1, 1), 1, 2),
    ((2, 16, 14, 14), (3, 3), (2, 2), 1, 1), ((1, 1, 1, 1), (1, 1), (1, 1), 0, 1),
    ((4, 9, 25, 25), (2, 2), (2, 2), 0, 1), ((4, 9, 9, 21), (2, 2), (3, 2), (1, 0), 1),
    ((2, 2, 3, 3), (1, 1), (5, 5), 0, 1), ((2, 3, 100), (3,), (2,), 1, 1), ((20, 2, 50), (4,), (4,), 0, 1),
    ((2, 3, 33), (5,), (1,), 2, 1), ((1, 2, 5, 6, 40), (2, 3, 3), (1, 2, 2), 1, 1),
    ((4, 8, 4, 6, 5), (2, 2, 2), (2, 2, 2), 0, 1), ((1, 3, 6, 5, 70), (3, 2, 2), (2, 1, 1), 1, 2),
]  # fmt: skip


def params_of(case):
    shape, kernel, stride, padding, dilation = case
    n = len(kernel)
    pair = padding if isinstance(padding, tuple) else (padding, padding)
    return shape, {"kernel": kernel, "stride": stride, "padding": (pair,) * n, "dilation": (dilation,) * n}


def numbers(dtype, shape, seed=0):
    """With ties, zeros of both signs, infinities and NaN."""
    rng = np.random.default_rng(seed)
    x = np.round(rng.normal(size=shape), 1)
    for value in (np.nan, -np.inf, -0.0, 0.0):
        x[rng.random(shape) < 0.04] = value
    x.reshape(-1)[: x.size // 3] = np.where(rng.random(x.size // 3) < 0.9, -np.inf, x.reshape(-1)[: x.size // 3])
    return x.astype(BY_NAME[dtype].numpy)


def tame(dtype, shape, seed=0):
    x = np.random.default_rng(seed).normal(size=shape)
    x.reshape(-1)[::7] = -0.0
    return x.astype(BY_NAME[dtype].numpy)


def compiled(name, values, params):
    out = program_of(PRIMITIVES[name], value_types(values), params)(values)
    return out if name == "max_pool" else out[0]


def check_all(dtype, case, run=RUN, want=compiled):
    """The four operations on arrays of a case."""
    shape, params = params_of(case)
    x = numbers(dtype, shape)
    sums = run["sum_pool"](tame(dtype, shape), **params)
    same(sums, want("sum_pool", [tame(dtype, shape)], params))
    values, indices = run["max_pool"](x, **params)
    for got, expected in zip((values, indices), want("max_pool", [x], params), strict=True):
        same(got, expected)
    g = tame(dtype, sums.shape, 1)
    grad = {"input_size": shape[2:], **params}
    same(run["sum_pool_grad"](g, **grad), want("sum_pool_grad", [g], grad))
    (_, back) = max_pool_and_back(x, g, params)
    same(run["max_pool_grad"](g, indices, input_size=shape[2:]), back)
    by_index = want("max_pool_grad", [g, indices], {"input_size": shape[2:]})
    same(run["max_pool_grad"](g, indices, input_size=shape[2:]), by_index)


def max_pool_and_back(x, g, params):
    """In one compiled program, in which the gradient goes by windows and not by indices."""
    graph = Graph("pool")
    a, b = (graph.add_input(t) for t in value_types([x, g]))
    values, indices = graph.add(PRIMITIVES["max_pool"], [a], params)
    (back,) = graph.add(PRIMITIVES["max_pool_grad"], [b, indices], {"input_size": x.shape[2:]})
    graph.set_outputs([values, back])
    program = Program(optimize(graph))
    assert "unpool" in program.kernels()
    return program([x, g])


@pytest.mark.parametrize("case", CASES, ids=str)
def test_bits_are_those_of_compiled_programs(case):
    check_all("float32", case)


@pytest.mark.parametrize("dtype", [d for d in FLOATING if d != "float32"])
def test_dtypes(dtype):
    for case in CASES[::2]:
        check_all(dtype, case)


def test_large_ones_are_shared_out_with_the_same_bits():
    before = tw.get_num_threads()
    cases = [((4, 40, 30, 30), (3, 3), (2, 2), 1, 1), ((60, 40, 7, 7), (3, 3), (1, 1), 1, 1)]
    try:
        for threads, case, dtype in itertools.product((1, 2, 3), cases, ("float32", "float16")):
            tw.set_num_threads(threads)
            check_all(dtype, case)
    finally:
        tw.set_num_threads(before)


def test_random_windows():
    rng = np.random.default_rng(7)
    done = 0
    while done < 40:
        n = int(rng.integers(1, 4))
        pick = lambda low, high, n=n: tuple(int(v) for v in rng.integers(low, high, n))
        size, kernel, stride = pick(1, (0, 90, 24, 10)[n]), pick(1, 6), pick(1, 5)
        padding = tuple((int(rng.integers(0, k // 2 + 1)), int(rng.integers(0, k // 2 + 2))) for k in kernel)
        params = {"kernel": kernel, "stride": stride, "padding": padding, "dilation": pick(1, 3)}
        x = numbers("float32", (int(rng.integers(1, 4)), int(rng.choice([1, 3, 17])), *size), done)
        try:
            want = compiled("max_pool", [x], params)
        except ShapeError:
            continue
        for got, expected in zip(RUN["max_pool"](x, **params), want, strict=True):
            same(got, expected)
        same(RUN["sum_pool"](x, **params), compiled("sum_pool", [x], params))
        g = tame("float32", want[0].shape)
        grad = {"input_size": size, **params}
        same(RUN["sum_pool_grad"](g, **grad), compiled("sum_pool_grad", [g], grad))
        done += 1


def test_operands_of_any_layout():
    x = numbers("float32", (6, 5, 12, 30))
    for y in (
        x.transpose(1, 0, 3, 2),
        x[::2],
        x[:, 1:4],
        x[..., ::-1],
        x[..., 3:20],
        np.broadcast_to(x[:1], x.shape),
    ):
        for got, want in zip(
            RUN["max_pool"](y, **PARAMS), compiled("max_pool", [np.ascontiguousarray(y)], PARAMS), strict=True
        ):
            same(got, want)


def test_integers_are_the_references():
    x = np.random.default_rng(0).integers(-9, 9, (2, 3, 8, 9))
    for name in ("max_pool", "sum_pool"):
        got, want = RUN[name](x, **PARAMS), evaluate(PRIMITIVES[name], [x], PARAMS)
        for a, b in zip(got, want, strict=True) if name == "max_pool" else [(got, want)]:
            np.testing.assert_array_equal(a, b)


def test_nothing():
    for shape in ((0, 3, 8, 8), (2, 0, 8, 8)):
        x = np.ones(shape, np.float32)
        values, indices = RUN["max_pool"](x, **PARAMS)
        assert values.shape == indices.shape == RUN["sum_pool"](x, **PARAMS).shape == (*shape[:2], 4, 8)
        back = RUN["max_pool_grad"](values, indices, input_size=(8, 8))
        assert back.shape == RUN["sum_pool_grad"](values, input_size=(8, 8), **PARAMS).shape == shape


def test_new_shapes_compile_nothing(monkeypatch):
    check_all("float32", CASES[0])

    def refuse(*_):
        raise AssertionError("code is made")

    monkeypatch.setattr(jit, "object_codes", refuse)
    for case in CASES:
        shape, params = params_of(case)
        x = numbers("float32", shape)
        values, indices = RUN["max_pool"](x, **params)
        RUN["sum_pool_grad"](RUN["sum_pool"](x, **params), input_size=shape[2:], **params)
        RUN["max_pool_grad"](values, indices, input_size=shape[2:])


@pytest.mark.parametrize("target", [t for t in (AVX2, SSE2) if t.runs_here], ids=lambda t: t.name)
@pytest.mark.parametrize("dtype", ["float32", "float64", "bfloat16"])
def test_other_processors_have_the_same_bits(dtype, target, monkeypatch):
    made = pools.Pool
    monkeypatch.setattr(pools, "Pool", lambda name, dtype: made(name, dtype, target))
    run = {name: eager_pools.Pools(PRIMITIVES[name]).run for name in eager_pools.NAMES}
    for case in CASES[1::3]:
        check_all(dtype, case, run)


def test_without_entries_everything_is_a_call(monkeypatch):
    monkeypatch.setattr(pools, "HAS_ENTRIES", False)
    run = {name: eager_pools.Pools(PRIMITIVES[name]).run for name in eager_pools.NAMES}
    for case in CASES[:8]:
        check_all("float32", case, run)


def test_errors_are_the_references():
    with pytest.raises(tw.ShapeError, match=r"covers \(3,\), but the padded input has only \(2,\)"):
        RUN["max_pool"](np.ones((1, 1, 2)), kernel=(3,), stride=(1,), padding=((0, 0),), dilation=(1,))
    g, indices = np.ones((1, 1, 300), np.float32), np.arange(300).reshape(1, 1, 300)
    for many in (1, 300):
        bad = np.broadcast_to(indices, (1, many, 300)).copy()
        bad[0, -1, 7] = 400
        with pytest.raises(tw.OutOfBoundsError, match="index 400 is out of bounds"):
            RUN["max_pool_grad"](np.broadcast_to(g, bad.shape), bad, input_size=(400,))


def test_images_of_any_size_learn():
    """Against gradients that one operation after the other would give in float64."""
    for shape in ((2, 3, 9, 9), (1, 2, 33, 20)):
        x = tw.tensor(tame("float64", shape), requires_grad=True)
        narrow = x.detach().float().requires_grad_()
        for y in (x, narrow):
            pooled = F.avg_pool2d(F.max_pool2d(y, 3, 2, 1), 2, ceil_mode=True)
            (pooled * pooled).sum().backward()
        np.testing.assert_allclose(narrow.grad.numpy(), x.grad.numpy(), rtol=1e-5, atol=1e-5)


def test_little_programs_are_launched_whatever_their_chunks():
    def program(*shape):
        types = value_types([np.ones(shape, np.float32)])
        return program_of(PRIMITIVES["max_pool"], types, {**PARAMS, "padding": ((0, 0), (0, 0))})

    little, large = program(2, 4, 8, 8), program(16, 16, 32, 32)
    assert max(step.chunks for step in little.steps) > 1
    assert Launch.suits(little) and not Launch.suits(large)


def test_large_pools_of_composites_are_operations(monkeypatch):
    made = []

    def note(graph, *_, **__):
        made.append(graph)
        raise tw.TwofoldError("no program")

    monkeypatch.setattr(composites, "_SECONDS", 0.0)
    monkeypatch.setattr(composed, "Program", note)
    for shape, programs in (((3, 5, 7, 11), True), ((3, 5, 70, 110), False)):
        made.clear()
        x = tw.tensor(tame("float32", shape))
        want = RUN["max_pool"](x.numpy(), **{**PARAMS, "padding": ((1, 1), (0, 0)), "dilation": (1, 1)})[0]
        for _ in range(12):
            got = F.max_pool2d(x, (3, 2), (2, 1), (1, 0))
        same(got.numpy(), want)
        assert bool(made) is programs
