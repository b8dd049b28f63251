"""Eager matrix products: the bits of compiled ones at every size, for any strides, threads and dtypes."""

import os
import threading

import numpy as np
import pytest

import twofold as tw
from twofold.backends.cpu import jit, products, team
from twofold.backends.cpu.emit import Module
from twofold.backends.cpu.kernels import product
from twofold.backends.cpu.target import AVX2, NEON, SSE2, host
from twofold.compiler.eager_products import _Products
from twofold.compiler.single import program_of
from twofold.ir import dtypes
from twofold.ir.evaluate import runner
from twofold.ir.types import TensorType
from twofold.primitives.linalg import matmul

DTYPES = ("float32", "float64", "float16", "bfloat16")
RNG = np.random.default_rng(0)
run = _Products(matmul).run


def numbers(shape, dtype="float32"):
    return RNG.standard_normal(shape).astype(getattr(dtypes, dtype).numpy)


def laid(x, order):
    """`x` with another order of its elements in memory."""
    if order == "columns":
        return np.ascontiguousarray(x.swapaxes(-1, -2)).swapaxes(-1, -2)
    if order == "apart":
        return np.repeat(np.repeat(x, 2, -1), 3, -2)[..., ::3, ::2]
    if order == "backwards":
        return np.ascontiguousarray(x[..., ::-1, ::-1])[..., ::-1, ::-1]
    return x


def compiled(a, b):
    types = [TensorType(x.shape, dtypes.FROM_NUMPY[x.dtype]) for x in (a, b)]
    program = program_of(matmul, types, {})
    assert all(step.kind != "numpy" for step in program.steps)
    return program([np.ascontiguousarray(a), np.ascontiguousarray(b)])[0]


def check(a, b):
    got, want = run(a, b), compiled(a, b)
    assert (got.dtype, got.shape, got.flags.c_contiguous) == (want.dtype, want.shape, True)
    assert got.tobytes() == want.tobytes(), (a.shape, b.shape, a.strides, b.strides)


SIZES = [
    (1, 1, 1), (2, 3, 4), (8, 8, 8), (13, 5, 17), (14, 16, 32), (15, 17, 33), (29, 40, 64), (1, 70, 65),
    (1, 40, 300), (2, 21, 257), (3, 33, 130), (70, 20, 1), (70, 20, 3), (43, 100, 16),
]  # fmt: skip


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("m, k, n", SIZES)
def test_bits_are_those_of_compiled_products(m, k, n, dtype):
    orders = ("rows", "columns", "apart", "backwards")
    for i, order in enumerate(orders):
        check(laid(numbers((m, k), dtype), order), laid(numbers((k, n), dtype), orders[(i + m) % 4]))


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize(
    "a, b", [((3, 9, 20), (3, 20, 35)), ((2, 1, 9, 20), (3, 20, 5)), ((4, 15, 7), (7, 40)), ((9, 7), (2, 2, 7, 3))]
)
def test_batches(a, b, dtype):
    for order in ("rows", "columns"):
        check(laid(numbers(a, dtype), order), laid(numbers(b, dtype), order))
    check(numbers(a, dtype), laid(numbers(b, dtype), "columns"))


def test_heads_of_attention():
    q = numbers((2, 20, 3, 16)).swapaxes(1, 2)
    check(q, q.swapaxes(-1, -2))
    check(q[:, :1], np.broadcast_to(numbers((16, 5)), (2, 3, 16, 5)))


@pytest.mark.parametrize("dtype", ["float32", "float16"])
@pytest.mark.parametrize(
    "a, b",
    [((200, 70), (70, 190)), ((1, 90, 300), (1, 300, 100)), ((40, 9000), (9000, 20)),
     ((130, 1500), (1500, 33)), ((2, 3000), (3000, 400)), ((400, 3000), (3000, 1)),
     ((2, 300, 64), (2, 64, 200)), ((40, 4, 60, 33), (4, 33, 60))],
)  # fmt: skip
def test_large_products(a, b, dtype):
    for orders in (("rows", "rows"), ("columns", "columns")):
        check(laid(numbers(a, dtype), orders[0]), laid(numbers(b, dtype), orders[1]))


@pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
def test_much_that_is_packed_is_packed_by_and_by(monkeypatch, dtype):
    monkeypatch.setattr(products, "_MUCH", 1 << 18)
    into = products.Products(getattr(dtypes, dtype)).into
    for order in ("rows", "columns"):
        a, b = laid(numbers((40, 256), dtype), order), laid(numbers((256, 500), dtype), order)
        assert into(a, b, np.empty((40, 500), a.dtype)).tobytes() == compiled(a, b).tobytes()


@pytest.mark.parametrize("dtype", ["float32", "float64", "float16"])
def test_blocks_of_k(monkeypatch, dtype):
    monkeypatch.setattr(products, "_DEEP", 128)
    large = products.Products(getattr(dtypes, dtype)).large
    for order in ("rows", "columns", "apart"):
        a, b = laid(numbers((70, 555), dtype), order), laid(numbers((555, 41), dtype), order)
        out = np.full((70, 41), np.nan, a.dtype)
        large(a, b, out)
        assert out.tobytes() == compiled(a, b).tobytes()


def test_without_entries(monkeypatch):
    """Where objects are laid out differently, everything goes through the thread team."""
    monkeypatch.setattr(products._open, "HAS_ENTRIES", False)
    into = products.Products(dtypes.float32).into
    for m, k, n in SIZES:
        a, b = numbers((m, k)), laid(numbers((k, n)), "columns")
        assert into(a, b, np.empty((m, n), np.float32)).tobytes() == compiled(a, b).tobytes()


OTHERS = [t for t in (AVX2, SSE2) if t.runs_here and t.name != host().name]


@pytest.mark.parametrize("dtype", ["float32", "float16", "bfloat16"])
@pytest.mark.parametrize("target", OTHERS, ids=lambda t: t.name)
def test_other_processors_have_the_same_bits(target, dtype):
    into = products.Products(getattr(dtypes, dtype), target).into
    for a, b in (
        ((9, 21), (21, 14)),
        ((70, 33), (33, 1)),
        ((150, 160), (160, 130)),
        ((40, 5000), (5000, 30)),
        ((3, 8, 9), (3, 9, 5)),
    ):
        for order in ("rows", "columns"):
            x, y = laid(numbers(a, dtype), order), laid(numbers(b, dtype), order)
            want = run(x, y)
            assert into(x, y, np.empty_like(want)).tobytes() == want.tobytes()


def test_code_for_neon_compiles():
    module = Module(NEON)
    product.ProductKernels(dtypes.float32, NEON).emit(module)
    symbol = module.kernels["items"][0]  # it contains all others but the entries
    assert jit.object_code(module.texts()[symbol], NEON)


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("shapes", [((3, 0), (0, 4)), ((0, 3), (3, 4)), ((3, 4), (4, 0)), ((2, 3, 0), (2, 0, 4))])
def test_nothing_to_add(shapes, dtype):
    a, b = (numbers(shape, dtype) for shape in shapes)
    want = np.matmul(a.astype(np.float64), b.astype(np.float64))
    got = run(a, b)
    assert got.shape == want.shape
    assert not got.any()


@pytest.mark.parametrize("size", [8, 170])
def test_infinities_and_nans_stay_in_their_rows_and_columns(size):
    a, b = numbers((size, size)), numbers((size, size))
    a[3, 1], b[2, 5] = np.inf, np.nan
    check(a, b)
    assert np.isnan(run(a, b)[:, 5]).all()
    assert np.isinf(run(a, b)[3, :5]).all()
    assert np.isfinite(np.delete(np.delete(run(a, b), 3, 0), 5, 1)).all()


def test_negative_zeros_do_not_survive_a_sum_that_begins_with_zero():
    a = np.full((2, 1), -0.0, np.float32)
    assert not np.signbit(run(a, np.ones((1, 2), np.float32))).any()


@pytest.mark.parametrize("dtype", [np.int32, np.uint8, np.int64, np.complex64])
def test_other_dtypes_are_the_references(dtype):
    a, b = RNG.integers(0, 100, (5, 9)).astype(dtype), RNG.integers(0, 100, (9, 4)).astype(dtype)
    np.testing.assert_array_equal(run(a, b), runner(matmul)(a, b))


def test_the_number_of_threads_changes_nothing():
    a, b = numbers((300, 200)), laid(numbers((200, 250)), "columns")
    q, before, results = numbers((16, 60, 40)), tw.get_num_threads(), set()
    try:
        for count in (1, 2, 4):
            tw.set_num_threads(count)
            results.add((run(a, b).tobytes(), run(q, q.swapaxes(1, 2)).tobytes()))
    finally:
        tw.set_num_threads(before)
    assert len(results) == 1


def test_several_threads_at_once():
    jobs = [(numbers(a), laid(numbers(b), order)) for a, b in (((20, 30), (30, 40)), ((300, 100), (100, 200)))
            for order in ("rows", "columns")]  # fmt: skip
    wanted = [run(a, b).tobytes() for a, b in jobs]
    wrong = []

    def work(first):
        for i in range(40):
            a, b = jobs[(first + i) % len(jobs)]
            if run(a, b).tobytes() != wanted[(first + i) % len(jobs)]:
                wrong.append(i)

    threads = [threading.Thread(target=work, args=(i,)) for i in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert not wrong


def test_new_sizes_compile_nothing(monkeypatch):
    run(numbers((2, 2)), numbers((2, 2)))

    def fail(*_):
        raise AssertionError("something was compiled")

    monkeypatch.setattr(jit, "object_codes", fail)
    team.team()
    for m, k, n in RNG.integers(1, 200, (20, 3)).tolist():
        a, b = numbers((m, k)), numbers((k, n))
        np.testing.assert_allclose(run(a, b), a @ b, atol=1e-3)
        run(numbers((2, m, k)), numbers((2, k, n)))


@pytest.mark.skipif(not hasattr(os, "fork"), reason="this system has no fork")
@pytest.mark.filterwarnings("ignore::DeprecationWarning")
def test_in_a_forked_child():
    a, b = numbers((300, 100)), numbers((100, 200))
    want = run(a, b).tobytes()
    pid = os.fork()
    if not pid:
        fine = False
        try:
            fine = run(a, b).tobytes() == want and run(a[:3, :3], b[:3, :3]).shape == (3, 3)
        finally:
            os._exit(0 if fine else 1)
    assert os.waitpid(pid, 0)[1] == 0


def test_tensors_take_this_way():
    x, w = tw.tensor(numbers((6, 33)), requires_grad=True), tw.tensor(numbers((20, 33)), requires_grad=True)
    y = x @ w.T
    y.sum().backward()
    a, b = x.detach().numpy(), w.detach().numpy()
    ones = np.ones((6, 20), np.float32)
    assert y.detach().numpy().tobytes() == compiled(a, b.T).tobytes()
    assert x.grad.numpy().tobytes() == compiled(ones, b).tobytes()
    assert w.grad.numpy().tobytes() == compiled(ones.T, a).tobytes()


def test_errors_are_those_of_the_type_rule():
    with pytest.raises(tw.errors.ShapeError, match="inner sizes 3 and 4 differ"):
        tw.ones(2, 3) @ tw.ones(4, 2)
    with pytest.raises(tw.errors.ShapeError, match="do not broadcast"):
        tw.ones(2, 5, 3) @ tw.ones(3, 3, 4)
    with pytest.raises(tw.errors.DTypeError):
        tw.ones(2, 3) @ tw.ones(3, 2, dtype=tw.float64)
