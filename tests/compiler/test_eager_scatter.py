"""Eager sums by index: the bits of compiled programs and of the reference, and no code for new shapes."""

import numpy as np
import pytest
from test_eager_maps import FLOATING, compiled, same

import twofold as tw
from twofold.backends.cpu import jit, scatters
from twofold.backends.cpu.target import AVX2, SSE2
from twofold.compiler import eager_scatter
from twofold.ir.dtypes import BY_NAME
from twofold.ir.evaluate import evaluate
from twofold.ir.primitive import PRIMITIVES

READ = {name: eager_scatter.Reads(PRIMITIVES[name]).run for name in eager_scatter.READS}
RUN = {name: eager_scatter.Sums(PRIMITIVES[name]).run for name in eager_scatter.NAMES}

# shape of x, dim, shape of the index
SCATTERS = [
    ((7,), 0, (40,)), ((5, 6), 0, (9, 6)), ((5, 6), 1, (5, 30)), ((5, 6), 1, (3, 30)), ((5, 6), 0, (9, 4)),
    ((4, 3, 20), 2, (4, 3, 50)), ((4, 3, 20), 1, (4, 9, 20)), ((4, 3, 20), 0, (9, 3, 20)),
    ((4, 3, 20), 1, (2, 9, 7)), ((2, 3, 4, 5), 2, (2, 3, 9, 5)), ((2, 3, 4, 5), 1, (1, 3, 2, 4)),
    ((1, 1), 0, (5, 1)), ((300, 40), 0, (900, 40)),
]  # fmt: skip
# shape of x, dims, shapes of the indices, shape of the values
PUTS = [
    ((50, 64), (0,), [(200,)], (200, 64)), ((50, 3), (0,), [(200,)], (200, 3)),
    ((50,), (0,), [(4, 20)], (4, 20)), ((9, 17), (0,), [(3, 5)], (3, 5, 17)),
    ((4, 9, 33), (1,), [(30,)], (4, 30, 33)), ((4, 9), (1,), [(30,)], (4, 30)),
    ((5, 6, 7), (0, 1), [(40,), (40,)], (40, 7)), ((5, 6, 7), (1, 2), [(4, 1), (5,)], (5, 4, 5)),
    ((5, 6), (0,), [(8,)], (6,)), ((5, 6), (0,), [(8,)], ()), ((5, 6, 7), (0, 2), [(8,), (8,)], (8, 6)),
    ((100, 200), (0,), [(400,)], (400, 200)), ((6, 5), (0,), [()], (5,)),
]  # fmt: skip


def numbers(dtype, shape, seed=0):
    if dtype.startswith(("int", "uint")):
        return np.random.default_rng(seed).integers(0, 100, shape).astype(dtype)
    return np.random.default_rng(seed).normal(size=shape).astype(BY_NAME[dtype].numpy)


def places(n, shape, seed=0):
    """With negative ones."""
    return np.random.default_rng(seed).integers(-n, n, shape)


def check_scatter(dtype, case, run=RUN):
    shape, dim, index = case
    values = [numbers(dtype, shape), places(shape[dim], index), numbers(dtype, [n + 1 for n in index], 1)]
    for operands in (values, [*values[:2], values[2][tuple(slice(n) for n in index)].copy()]):
        want = compiled("scatter_add", operands, {"dim": dim})
        for _ in range(2):
            same(run["scatter_add"](*operands, dim=dim), want)
        same(want, evaluate(PRIMITIVES["scatter_add"], operands, {"dim": dim}))


def check_put(dtype, case, run=RUN):
    shape, dims, indices, values = case
    params = {"dims": dims, "accumulate": True}
    operands = [numbers(dtype, shape), numbers(dtype, values, 1)]
    operands += [places(shape[d], i, d) for d, i in zip(dims, indices, strict=True)]
    want = compiled("index_put", operands, params)
    for _ in range(2):
        same(run["index_put"](*operands, **params), want)
    zeros = np.broadcast_to(np.zeros((), operands[0].dtype), shape)
    same(
        run["index_put"](zeros, *operands[1:], **params),
        compiled("index_put", [zeros.copy(), *operands[1:]], params),
    )


@pytest.mark.parametrize("case", SCATTERS, ids=str)
def test_scatter_add_has_the_bits_of_compiled_programs(case):
    check_scatter("float32", case)


@pytest.mark.parametrize("case", PUTS, ids=str)
def test_index_put_has_the_bits_of_compiled_programs(case):
    check_put("float32", case)


@pytest.mark.parametrize("dtype", [*(d for d in FLOATING if d != "float32"), "int64", "int32", "uint8", "int16"])
def test_dtypes(dtype):
    for case in SCATTERS[1::3]:
        check_scatter(dtype, case)
    for case in PUTS[::3]:
        check_put(dtype, case)


def test_bits_do_not_depend_on_threads():
    before = tw.get_num_threads()
    try:
        for threads in (1, 2, 3):
            tw.set_num_threads(threads)
            check_scatter("float32", SCATTERS[-1])
            check_put("float16", PUTS[-2])
    finally:
        tw.set_num_threads(before)


def test_new_shapes_compile_nothing(monkeypatch):
    check_put("float32", PUTS[0])

    def refuse(*_):
        raise AssertionError("code is made")

    monkeypatch.setattr(jit, "object_codes", refuse)
    for n in (3, 77, 20_000):
        x, index = np.ones((n, 11), np.float32), places(n, (n + 1,))
        got = RUN["index_put"](x, np.ones((n + 1, 11), np.float32), index, dims=(0,), accumulate=True)
        np.testing.assert_array_equal(got[:, 5], 1 + np.bincount(index % n, minlength=n))
        got = RUN["scatter_add"](
            x, np.broadcast_to(index[:, None], (n + 1, 11)), np.ones((n + 1, 11), np.float32), dim=0
        )
        np.testing.assert_array_equal(got[:, 5], 1 + np.bincount(index % n, minlength=n))


@pytest.mark.parametrize("target", [t for t in (AVX2, SSE2) if t.runs_here], ids=lambda t: t.name)
def test_other_processors_have_the_same_bits(target, monkeypatch):
    made = scatters.Scatter
    monkeypatch.setattr(eager_scatter, "_made", {})
    monkeypatch.setattr(scatters, "Scatter", lambda dtype: made(dtype, target))
    run = {name: eager_scatter.Sums(PRIMITIVES[name]).run for name in eager_scatter.NAMES}
    for dtype in ("float32", "bfloat16"):
        check_put(dtype, PUTS[0], run)
        check_scatter(dtype, SCATTERS[4], run)


def test_writes_that_do_not_add_and_what_is_empty_are_the_references():
    x, index = numbers("float32", (5, 3)), np.array([4, -1, 0])
    got = RUN["index_put"](x, np.float32([1, 2, 3]), index, dims=(0,), accumulate=False)
    np.testing.assert_array_equal(got[[4, 0]], [[1, 2, 3]] * 2)
    same(RUN["scatter_add"](x, np.zeros((0, 3), np.int64), x, dim=0), x)
    assert RUN["scatter_add"](np.ones(0), np.zeros(0, np.int64), np.ones(0), dim=0).shape == (0,)
    z = RUN["index_put"](
        np.ones(3, np.complex64), np.ones(2, np.complex64) * 1j, np.array([1, 1]), dims=(0,), accumulate=True
    )
    np.testing.assert_array_equal(z, [1, 1 + 2j, 1])


@pytest.mark.parametrize("n", [3, 5000])
def test_errors_are_the_references(n):
    x, bad = tw.ones(n, 8), tw.full((n,), 0, dtype=tw.int64)
    bad[-1] = n
    with pytest.raises(tw.OutOfBoundsError, match=f"index {n} is out of bounds for dimension 0 of size {n}"):
        x.index_put((bad,), tw.ones(n, 8), accumulate=True)
    with pytest.raises(tw.OutOfBoundsError, match=f"index {n} is out of bounds for dimension 0 of size {n}"):
        x.scatter_add(0, bad.unsqueeze(1).expand(n, 8), x)
    with pytest.raises(tw.DTypeError, match="indices must be int64"):
        RUN["scatter_add"](np.ones(n), np.ones(n), np.ones(n), dim=0)
    with pytest.raises(tw.DTypeError, match="src"):
        RUN["scatter_add"](np.ones(n), np.ones(n, np.int64), np.ones(n, np.float32), dim=0)


@pytest.mark.parametrize("dtype", ["float32", "float64", "bfloat16", "bool", "int16", "complex64", "complex128"])
def test_reading(dtype, monkeypatch):
    monkeypatch.setattr(eager_scatter, "_LARGE", 1)
    for shape, dim, index in SCATTERS:
        x = np.random.default_rng(0).integers(0, 2, shape).astype(BY_NAME[dtype].numpy)
        for y in (x, x[::-1]):
            operands = [y, places(shape[dim], index)]
            got = READ["gather"](*operands, dim=dim)
            same(got, evaluate(PRIMITIVES["gather"], operands, {"dim": dim}))
    for shape, dims, indices, _ in PUTS:
        x = np.random.default_rng(0).integers(0, 2, shape).astype(BY_NAME[dtype].numpy)
        operands = [x, *[places(shape[d], i, d) for d, i in zip(dims, indices, strict=True)]]
        same(READ["index"](*operands, dims=dims), evaluate(PRIMITIVES["index"], operands, {"dims": dims}))


def test_much_is_read_by_kernels_of_any_shape(monkeypatch):
    READ["index"](np.ones((30, 200), np.float32), places(30, (300,)), dims=(0,))
    READ["gather"](np.ones((30, 200), np.float32), places(30, (300, 200)), dim=0)

    def refuse(*_, **__):
        raise AssertionError("NumPy reads, or code is made")

    monkeypatch.setattr(jit, "object_codes", refuse)
    read = {name: eager_scatter.Reads(PRIMITIVES[name]) for name in eager_scatter.READS}
    for known in read.values():
        known._reference = refuse
    gather, index = read["gather"]._gather(), read["index"]._index()
    for n, width in ((50, 333), (1000, 64), (30_000, 1), (700, 7)):
        x, rows = numbers("float32", (n, width)), places(n, (20_000,))
        same(index(x, rows, dims=(0,)), x[rows])
        each = places(n, (9000, width))
        same(gather(x, each, dim=0), np.take_along_axis(x, each % n, 0))
        same(gather(x.T.copy(), each.T, dim=1), np.take_along_axis(x, each % n, 0).T.copy())


def test_reading_out_of_bounds():
    x, bad = tw.ones(30, 200), tw.full((30, 200), 30, dtype=tw.int64)
    for read in (lambda: x.gather(0, bad), lambda: x[bad[:, 0]], lambda: x.index_select(0, bad[0])):
        with pytest.raises(tw.OutOfBoundsError, match="index 30 is out of bounds for dimension 0 of size 30"):
            read()
    with pytest.raises(tw.DTypeError, match="indices must be int64"):
        READ["gather"](np.ones((3, 9000)), np.ones((3, 9000)), dim=0)


def test_arguments_are_not_changed():
    x, index = numbers("float32", (5, 30)), np.array([1, 1, 2])
    before = x.copy()
    RUN["index_put"](x, np.ones((3, 30), np.float32), index, dims=(0,), accumulate=True)
    RUN["scatter_add"](x, np.zeros((1, 30), np.int64), np.ones((1, 30), np.float32), dim=0)
    same(x, before)


def test_the_gradient_of_an_embedding():
    table = tw.nn.Embedding(50, 64, padding_idx=3)
    index = tw.tensor(np.random.default_rng(0).integers(0, 50, (20, 30)))
    g = numbers("float32", (20, 30, 64))
    table(index).backward(tw.tensor(g))
    want = np.zeros((50, 64), np.float64)
    np.add.at(want, index.numpy(), g.astype(np.float64))
    want[3] = 0
    np.testing.assert_allclose(table.weight.grad.numpy(), want, rtol=1e-5, atol=1e-5)
