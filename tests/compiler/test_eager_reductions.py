"""Eager sums, products and extremes: the bits of compiled programs for every shape, and no code for new shapes."""

import itertools

import numpy as np
import pytest
from test_eager_maps import FLOATING, compiled, numbers, same
from turns import on_threads

import twofold as tw
from twofold.backends.cpu import jit, reductions
from twofold.backends.cpu.reductions import Reduction
from twofold.backends.cpu.target import AVX2, SSE2
from twofold.compiler import eager_reductions
from twofold.ir.dtypes import BY_NAME
from twofold.ir.primitive import PRIMITIVES

SHAPES = [
    (), (1,), (31,), (32,), (33,), (8191,), (8193,), (70_001,), (2, 40_000), (3, 1, 4), (4, 5, 6), (2, 3, 4, 5),
    (300, 7), (7, 300), (255, 65), (256, 63), (1000, 70), (300, 3, 2), (3, 100, 65), (16, 3, 20, 21),
    (20, 1, 30, 1), (2, 3, 2, 3, 2, 3),
]  # fmt: skip
WALKS = [((33, 70), (1,)), ((270, 70), (0,)), ((3, 20_000), (1,)), ((600, 70), (0,)), ((5, 6, 7), (0, 2))]
RUN = {name: eager_reductions.Reductions(PRIMITIVES[name]).run for name in eager_reductions.NAMES}


def tame(dtype, shape, seed=0):
    """Numbers whose sums do not overflow."""
    return np.random.default_rng(seed).normal(size=shape).astype(numbers(dtype, ()).dtype)


def check(name, x, dims, keepdim=False):
    params = {"dims": dims, "keepdim": keepdim}
    got, want = RUN[name](x, **params), compiled(name, [x], params)
    same(got, want)
    same(RUN[name](x, **params), want)  # as it is done from the second time on


def all_dims(shape):
    for k in range(len(shape) + 1):
        yield from itertools.combinations(range(len(shape)), k)


@pytest.mark.parametrize("shape", SHAPES, ids=str)
def test_bits_are_those_of_compiled_programs(shape):
    x = tame("float32", shape)
    some = list(all_dims(shape))
    for i, dims in enumerate(some if len(some) < 20 else some[::3]):
        check("sum", x, dims, bool(i % 2))


@pytest.mark.parametrize("name", eager_reductions.NAMES)
@pytest.mark.parametrize("dtype", [*FLOATING, "int64", "int32", "uint8", "bool"])
def test_dtypes(name, dtype):
    if dtype == "bool" and name in ("sum", "prod"):
        return
    for shape, dims in WALKS:
        x = numbers(dtype, shape) if name in ("amax", "amin") else tame(dtype, shape)
        check(name, x, dims)


@pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
def test_operands_of_any_layout(dtype):
    x = tame(dtype, (40, 50, 20))
    layouts = [x.T, x[::2], x[:, 10:30], x[..., 3:7], x[..., ::3], x[::-1], np.broadcast_to(x[:1], x.shape)]
    layouts += [x.transpose(0, 2, 1), x.transpose(1, 0, 2), np.broadcast_to(x[..., :1], x.shape)]
    for y in layouts:
        for dims in all_dims(y.shape):
            got = RUN["sum"](y, dims=dims, keepdim=False)
            same(got, compiled("sum", [np.ascontiguousarray(y)], {"dims": dims, "keepdim": False}))


def test_nothing():
    for shape, dims in [((0,), (0,)), ((0, 3), (0,)), ((0, 3), (1,)), ((3, 0, 2), (0, 2))]:
        check("sum", np.ones(shape, np.float32), dims)
        check("prod", np.ones(shape, np.float32), dims, keepdim=True)
    with pytest.raises(tw.ShapeError, match="no elements"):
        tw.ones(3, 0).amax(1)


def test_new_shapes_compile_nothing(monkeypatch):
    x = tame("float32", (60, 300))
    RUN["sum"](x, dims=(1,), keepdim=False)

    def refuse(*_):
        raise AssertionError("code is made")

    monkeypatch.setattr(jit, "object_codes", refuse)
    for shape in [(3,), (17, 19), (5, 1, 7), (999, 3), (3, 99_999), (70, 70, 70), (100_001, 2), (2, 3, 4, 5)]:
        for dims in all_dims(shape):
            RUN["sum"](np.ones(shape, np.float32), dims=dims, keepdim=False)


def test_bits_do_not_depend_on_threads():
    x = tame("float32", (300, 1001))
    want = {dims: compiled("sum", [x], {"dims": dims, "keepdim": False}) for dims in all_dims(x.shape)}
    before = tw.get_num_threads()
    try:
        for threads in (1, 2, 4):
            tw.set_num_threads(threads)
            for dims, y in want.items():
                same(RUN["sum"](x, dims=dims, keepdim=False), y)
    finally:
        tw.set_num_threads(before)


@pytest.mark.parametrize("target", [t for t in (AVX2, SSE2) if t.runs_here], ids=lambda t: t.name)
@pytest.mark.parametrize("dtype", ["float32", "bfloat16", "float64"])
def test_other_processors_have_the_same_bits(dtype, target):
    x, total = tame(dtype, (300, 70)), Reduction(PRIMITIVES["sum"], BY_NAME[dtype], target)
    for y in (x, x.T, tame(dtype, (2, 40_000)), tame(dtype, (7, 300, 5)).transpose(0, 2, 1)):
        for dims in all_dims(y.shape):
            want = compiled("sum", [np.ascontiguousarray(y)], {"dims": dims, "keepdim": False})
            same(total(y, dims, False), want)


def test_without_entries_everything_is_a_call(monkeypatch):
    monkeypatch.setattr(reductions, "HAS_ENTRIES", False)
    run, x = eager_reductions.Reductions(PRIMITIVES["sum"]).run, tame("float32", (5, 7))
    for dims in all_dims(x.shape):
        same(run(x, dims=dims, keepdim=True), compiled("sum", [x], {"dims": dims, "keepdim": True}))


def test_threads_of_python_do_not_disturb_each_other():
    inputs = [tame("float32", (n, 9), n) for n in (3, 300, 5000, 1000)]
    want = [compiled("sum", [x], {"dims": (0,), "keepdim": False}) for x in inputs]
    wrong = []

    def work(i):
        got = [RUN["sum"](inputs[i], dims=(0,), keepdim=False) for _ in range(50)]
        wrong.extend(y for y in got if not np.array_equal(y, want[i]))

    on_threads(lambda i: work(i % 4))
    assert not wrong


def test_errors_are_those_of_the_type_rules():
    x, total = tw.ones(2, 3), PRIMITIVES["sum"]
    wrong = {(2,): tw.OutOfBoundsError, (1, 0): tw.ShapeError, 0: tw.ShapeError}
    for dims, error in wrong.items():
        for _ in range(2):
            with pytest.raises(error):
                total(x, dims=dims, keepdim=False)


def test_what_is_built_on_sums_is_equal_too():
    x = tw.tensor(tame("float32", (30, 8, 40)))
    means = (lambda x: x.mean(), lambda x: x.mean(1), lambda x: x.mean((0, 2)))
    for fn in (*means, lambda x: x.var(dim=(0, 2)), lambda x: x.norm(), lambda x: x.std(0)):
        same(fn(x).numpy(), tw.compile(fn)(x).numpy())
