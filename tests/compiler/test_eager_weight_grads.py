"""Eager weight gradients of convolutions: the bits of compiled ones for every geometry, dtype and memory order."""

import itertools

import numpy as np
import pytest

import twofold as tw
from twofold.backends.cpu import jit, team, weight_grads
from twofold.backends.cpu.program import Program
from twofold.backends.cpu.target import AVX2, NEON, SSE2, host
from twofold.compiler.pipeline import optimize
from twofold.ir import dtypes
from twofold.ir.evaluate import runner
from twofold.ir.graph import Graph
from twofold.ir.types import TensorType
from twofold.primitives.conv import conv_weight_grad

DTYPES = ("float32", "float64", "float16", "bfloat16")
RNG = np.random.default_rng(0)
OTHERS = [t for t in (AVX2, SSE2) if t.runs_here and t.name != host().name]


def case(batch, channels, outputs, size, kernel, stride=1, padding=0, dilation=1, groups=1, dtype="float32"):
    """Arrays and params; numbers stand for all dimensions."""
    each = lambda n: n if isinstance(n, tuple) else (n,) * len(size)
    kernel, stride, dilation = each(kernel), each(stride), each(dilation)
    padding = tuple([p if isinstance(p, tuple) else (p, p) for p in each(padding)])
    every = zip(size, kernel, stride, padding, dilation, strict=True)
    result = tuple([(n + sum(p) - d * (k - 1) - 1) // s + 1 for n, k, s, p, d in every])
    numbers = lambda *shape: RNG.standard_normal(shape).astype(getattr(dtypes, dtype).numpy)
    params = {"stride": stride, "padding": padding, "dilation": dilation, "groups": groups}
    return numbers(batch, channels, *size), numbers(batch, outputs, *result), {"kernel_size": kernel, **params}


def compiled(x, g, params, target=None):
    graph = Graph("gradient")
    inputs = [graph.add_input(TensorType(a.shape, dtypes.FROM_NUMPY[a.dtype])) for a in (x, g)]
    graph.set_outputs(graph.add(conv_weight_grad, inputs, params))
    program = Program(optimize(graph), target=target)
    assert all(step.kind != "numpy" for step in program.steps)
    return program([np.ascontiguousarray(x), np.ascontiguousarray(g)])[0]


def native(x, g, params, made=None):
    made = made or weight_grads.weight_grads_of(dtypes.FROM_NUMPY[x.dtype])
    return made.plan(x.shape, g.shape, **params)(x, g)


def check(x, g, params):
    got, want = native(x, g, params), compiled(x, g, params)
    assert (got.dtype, got.shape, got.flags.c_contiguous) == (want.dtype, want.shape, True)
    assert got.tobytes() == want.tobytes(), (x.shape, g.shape, x.strides, g.strides, params)


CASES = [
    (2, 3, 5, (7, 8), 3, 1, 1),
    (3, 17, 33, (5, 5), 3, 2, 1),
    (40, 1, 6, (6, 7), 5, 1, 2),  # more groups of images than one
    (19, 3, 40, (4, 4), 2, 2),
    (2, 9, 16, (1, 1), 1),
    (3, 8, 20, (2, 3), 3, 1, 1),  # the kernel is larger than the image
    (2, 5, 17, (9, 20), (2, 3), (4, 5)),  # the stride is larger than the kernel
    (2, 6, 15, (11, 40), 3, (1, 3), 2, (2, 3)),
    (2, 4, 8, (9, 70), (1, 3), (2, 2), ((0, 0), (0, 2))),
    (3, 20, 70, (8, 9), 1),
    (3, 20, 35, (8, 9), 1, 2),
    (5, 8, 12, (9, 9), 3, 1, 1, 2, 4),
    (2, 10, 90, (6, 6), 3, 1, 1, 1, 5),
    (2, 150, 3, (5, 5), 3, 2),
    (2, 7, 65, (9,), 3, 1, 1),
    (9, 20, 16, (700,), 5, 1, 2),
    (2, 3, 33, (1500,), 11, 3, 4, 2),
    (2, 8, 8, (4, 5, 6), 2, 1, 1),
    (3, 3, 20, (5, 4, 7), (1, 3, 2), (2, 1, 2), (0, 1, 1), (1, 2, 1)),
    (2, 5, 6, (3, 4, 5), 1),
]
DEPTHWISE = [
    (5, 4, (9, 9), 3, 1, 1),
    (3, 20, (9, 40), 3, 2, 1),
    (20, 33, (8, 7), (5, 3), 1, 2, 2),
    (2, 16, (12, 12), 7, 2, 3),
    (2, 17, (6, 7), (1, 3)),
    (2, 15, (6, 30), (2, 11), (3, 1), (0, 3)),
    (3, 18, (50,), 3, 1, 1),
    (2, 5, (9,), 5, 3, 2),
    (2, 9, (4, 5, 6), 2, 1, 1),
    (2, 7, (5, 5, 5), 3, 2, 1),
]


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("sizes", CASES, ids=str)
def test_bits_are_those_of_compiled_gradients(sizes, dtype):
    check(*case(*sizes, dtype=dtype))


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("sizes", DEPTHWISE, ids=str)
def test_bits_of_depthwise_gradients(sizes, dtype):
    batch, channels, size, kernel, *rest = sizes
    rest += (1, 0, 1)[len(rest) :]
    check(*case(batch, channels, channels, size, kernel, *rest, groups=channels, dtype=dtype))
    check(*case(1, channels, 2 * channels, size, kernel, *rest, groups=channels, dtype=dtype))


def laid(x, order):
    """`x` with another order of its elements in memory."""
    if order == "channels last":
        return np.moveaxis(np.ascontiguousarray(np.moveaxis(x, 1, -1)), -1, 1)
    if order == "apart":
        return np.repeat(np.repeat(x, 2, -1), 3, 0)[::3, ..., ::2]
    if order == "backwards":
        return np.ascontiguousarray(x[..., ::-1, ::-1])[..., ::-1, ::-1]
    if order == "in the middle":
        return np.pad(x, [(1, 2)] * x.ndim)[(slice(1, -2),) * x.ndim]
    return np.broadcast_to(x[:, :1], x.shape)


@pytest.mark.parametrize(
    "sizes", [CASES[1], CASES[9], CASES[13], CASES[17], (5, 20, 20, (9, 9), 3, 1, 1, 1, 20)], ids=str
)
def test_any_order_in_memory(sizes):
    x, g, params = case(*sizes)
    for order in ("channels last", "apart", "backwards", "in the middle", "repeated"):
        check(laid(x, order), g, params)
        check(x, laid(g, order), params)
    thin, wide, params = case(2, 66, 16, (16, 1), 1, groups=2, dtype="float64")
    check(laid(thin, "channels last"), wide, params)


@pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
def test_blocks_of_every_size(monkeypatch, dtype):
    """What is done at a time, and where, changes nothing: small blocks, and the thread team for little work."""
    monkeypatch.setattr(weight_grads, "_LITTLE", 0)
    for cached, rows in itertools.product((1, 1 << 14), (1, 14, 50)):
        for name, value in (("_CACHED", cached), ("_MOST_ROWS", rows), ("_FEW_ROWS", rows), ("_CHUNK", 1)):
            monkeypatch.setattr(weight_grads, name, value)
        monkeypatch.setattr(weight_grads, "_LEAST_K", 1)
        check(*case(3, 3, 40, (9, 21), 3, 1, 1, dtype=dtype))
        check(*case(2, 9, 20, (5, 4, 7), 2, dtype=dtype))
        check(*case(3, 18, 18, (12, 50), (3, 5), (1, 2), 1, groups=18, dtype=dtype))
        check(*case(2, 17, 17, (3, 5, 4), 3, 1, 1, groups=17, dtype=dtype))


def test_without_entries(monkeypatch):
    monkeypatch.setattr(weight_grads._open, "HAS_ENTRIES", False)
    made = weight_grads.WeightGrads(dtypes.float32)
    x, g, params = case(3, 4, 7, (6, 6), 3, 1, 1)
    assert native(x, g, params, made).tobytes() == compiled(x, g, params).tobytes()


@pytest.mark.parametrize("dtype", ["float32", "float64", "float16"])
@pytest.mark.parametrize("target", OTHERS, ids=lambda t: t.name)
def test_other_processors_have_the_bits_of_their_programs(target, dtype):
    made = weight_grads.WeightGrads(getattr(dtypes, dtype), target)
    for sizes in (
        CASES[0],
        CASES[1],
        CASES[2],
        CASES[6],
        CASES[9],
        CASES[10],
        CASES[17],
        (3, 9, 9, (8, 7), 3, 1, 1, 1, 9),
    ):
        x, g, params = case(*sizes, dtype=dtype)
        assert native(x, g, params, made).tobytes() == compiled(x, g, params, target).tobytes(), sizes


def test_code_for_neon_compiles():
    module = weight_grads.module_of(dtypes.float32, NEON)
    for name in ("sums", "each", "combine"):
        assert jit.object_code(module.texts()[module.kernels[name][0]], NEON)


def test_infinities_and_nans_stay_with_their_channels():
    x, g, params = case(2, 9, 20, (6, 6), 3)
    x[0, 3, 2, 2], g[1, 5, 0, 0] = np.inf, np.nan
    check(x, g, params)
    got = native(x, g, params)
    assert np.isnan(got[5]).all()
    assert not np.isfinite(got[:, 3]).any()
    assert np.isfinite(np.delete(np.delete(got, 5, 0), 3, 1)).all()


@pytest.mark.parametrize(
    "shapes", [((0, 3, 5, 5), (0, 4, 3, 3)), ((2, 0, 5, 5), (2, 4, 3, 3)), ((2, 3, 5, 5), (2, 0, 3, 3))]
)
@pytest.mark.parametrize("dtype", DTYPES)
def test_nothing_to_add(shapes, dtype):
    x, g = (np.ones(shape, getattr(dtypes, dtype).numpy) for shape in shapes)
    params = {"stride": (1, 1), "padding": ((0, 0),) * 2, "dilation": (1, 1), "groups": 1}
    got = conv_weight_grad.run(x, g, kernel_size=(3, 3), **params)
    assert (got.shape, got.dtype) == ((shapes[1][1], shapes[0][1], 3, 3), x.dtype)
    assert not got.any()


def test_the_number_of_threads_changes_nothing():
    jobs = [case(16, 9, 40, (20, 20), 3, 2, 1), case(8, 40, 40, (20, 20), 3, 1, 1, 1, 40)]
    before, results = tw.get_num_threads(), set()
    try:
        for count in (1, 2, 4):
            tw.set_num_threads(count)
            results.add(b"".join(native(*job).tobytes() for job in jobs))
    finally:
        tw.set_num_threads(before)
    assert len(results) == 1


def test_new_sizes_compile_nothing(monkeypatch):
    native(*case(1, 1, 1, (1, 1), 1))

    def fail(*_):
        raise AssertionError("something was compiled")

    monkeypatch.setattr(jit, "object_codes", fail)
    team.team()
    for _ in range(20):
        batch, channels, outputs, height, width = RNG.integers(1, 40, 5).tolist()
        kernel, stride, padding = (tuple(RNG.integers(low, 4, 2).tolist()) for low in (1, 1, 0))
        for groups in (1, channels):
            job = case(
                batch, channels, outputs * groups, (height + 3, width + 3), kernel, stride, padding, 1, groups
            )
            want = runner(conv_weight_grad)(*job[:2], **job[2])
            np.testing.assert_allclose(native(*job), want, rtol=1e-3, atol=1e-3 * np.abs(want).max())


@pytest.mark.parametrize("dtype", DTYPES)
def test_tensors_take_this_way(dtype):
    x, g, params = case(3, 6, 20, (9, 8), 3, 2, 1, dtype=dtype)
    w = tw.zeros(20, 6, 3, 3, dtype=getattr(tw, dtype), requires_grad=True)
    tw.nn.functional.conv2d(tw.tensor(x), w, stride=2, padding=1).backward(tw.tensor(g))
    assert w.grad.numpy().tobytes() == compiled(x, g, params).tobytes()
    assert w.grad.numpy().tobytes() == native(x, g, params).tobytes()


def test_errors_are_those_of_the_type_rule():
    x, g, params = case(2, 4, 6, (5, 5), 3)
    with pytest.raises(tw.errors.ShapeError, match="need equal ranks and batch sizes"):
        conv_weight_grad.run(x[:1], g, **params)
    with pytest.raises(tw.errors.ShapeError, match="groups=3 does not divide the 4 input channels"):
        conv_weight_grad.run(x, g, **{**params, "groups": 3})
    with pytest.raises(tw.errors.DTypeError, match="different dtypes"):
        conv_weight_grad.run(x, g.astype(np.float64), **params)
