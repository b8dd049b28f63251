"""The numerics contract of compiled code, docs/design/0003-numerics.md, each sentence computed in another way."""

from __future__ import annotations

import ctypes
import ctypes.util
import math

import numpy as np
import pytest

import twofold as tw
from twofold.backends.cpu.program import Program
from twofold.backends.cpu.target import AVX2, SSE2
from twofold.ir.graph import Graph
from twofold.ir.primitive import PRIMITIVES
from twofold.ir.types import TensorType
from twofold.primitives.random import random_bits


def fma_function():
    """One rounding of a * b + c in float32, by the C library."""
    library = ctypes.CDLL(ctypes.util.find_library("m"))
    library.fmaf.restype, library.fmaf.argtypes = ctypes.c_float, [ctypes.c_float] * 3
    return library.fmaf


def random(*shape, seed=0, dtype=np.float32):
    return np.random.default_rng(seed).standard_normal(shape).astype(dtype)


def compiled(fn, *arrays):
    return tw.compile(fn)(*map(tw.from_numpy, arrays)).numpy()


# --- sums ---------------------------------------------------------------------------------------------


IDENTITIES = {np.add: 0, np.multiply: 1, np.maximum: -np.inf, np.minimum: np.inf}


def reduced_row(row, add=np.add):
    """By blocks of 8192: element i is added to partial sum i mod 32; those of the blocks are added, and halved."""
    total = np.full(32, IDENTITIES[add], row.dtype)
    for first in range(0, len(row), 8192):
        partials = np.full(32, IDENTITIES[add], row.dtype)
        block = row[first : first + 8192]
        for i in range(0, len(block), 32):
            part = block[i : i + 32]
            partials[: len(part)] = add(partials[: len(part)], part)
        total = add(total, partials)
    while len(total) > 1:
        half = len(total) // 2
        total = add(total[:half], total[half:])
    return total[0]


@pytest.mark.parametrize("length", [2, 7, 31, 32, 33, 64, 100, 1000, 4099, 8192, 8193, 20_000, 100_003])
@pytest.mark.parametrize("dtype", [np.float32, np.float64])
def test_a_sum_along_rows(length, dtype):
    x = random(3, length, dtype=dtype)
    expected = np.array([reduced_row(row) for row in x])
    np.testing.assert_array_equal(compiled(lambda x: x.sum(1), x), expected)
    np.testing.assert_array_equal(compiled(lambda x: (x * 1).sum(1) + 0, x), expected)
    np.testing.assert_array_equal(compiled(lambda x: x.sum(), x[:1]), expected[0])
    np.testing.assert_array_equal(
        compiled(lambda x: (x.sum(1, keepdim=True) - x)[:, :1], x)[:, 0], expected - x[:, 0]
    )


@pytest.mark.parametrize(
    "shape", [(3, 7), (5, 33), (4, 64), (3, 5, 17), (2, 3, 96), (70, 130), (300, 32), (9, 31, 40), (700, 17)]
)
@pytest.mark.parametrize("dtype", [np.float32, np.float64])
def test_a_row_of_several_dimensions_is_numbered_as_it_is_written(shape, dtype):
    """Whatever lies where: transposed, repeated along some dimensions, or cut out of something larger."""
    dims = tuple(range(1, 1 + len(shape)))
    x = random(2, *shape, dtype=dtype)
    turned = x.swapaxes(1, -1).copy()
    wide = random(2, *shape[:-1], shape[-1] + 3, dtype=dtype)
    along, across = x[..., :1].copy(), x[:, :1].copy()

    def check(fn, value, *arrays):
        expected = np.array([reduced_row(row.reshape(-1)) for row in value])
        np.testing.assert_array_equal(compiled(fn, *arrays), expected)

    check(lambda t: t.swapaxes(1, -1).sum(dims), x, turned)
    check(lambda t: t[..., 3:].sum(dims), wide[..., 3:], wide)
    check(lambda t, a: (t * a).sum(dims), x * along, x, along)
    check(lambda t, a: (t * a).sum(dims), x * across, x, across)
    check(lambda a: a.expand(2, *shape).sum(dims), np.broadcast_to(along, x.shape), along)
    check(lambda t, a: (t.swapaxes(1, -1) - a).sum(dims), x - along, turned, along)
    check(lambda t: t.flip(1).sum(dims), x[:, ::-1], x)
    whole = np.array(reduced_row((x * along).reshape(-1)))
    np.testing.assert_array_equal(compiled(lambda t, a: (t.swapaxes(1, -1) * a).sum(), turned, along), whole)


@pytest.mark.parametrize(("name", "add"), [("prod", np.multiply), ("amax", np.maximum), ("amin", np.minimum)])
@pytest.mark.parametrize("shape", [(20_011,), (300, 45), (64, 160)])
def test_other_reductions_along_rows(name, add, shape):
    x = 1 + random(2, *shape) / 32
    scale = 1 + random(2, shape[0], *(1 for _ in shape[1:]), seed=1) / 32
    dims = tuple(range(1, x.ndim))
    expected = np.array([reduced_row(row.reshape(-1), add) for row in x * scale])

    def fn(x, scale):
        y = x * scale
        return y.reshape(2, -1).prod(1) if name == "prod" else getattr(y, name)(dims)

    np.testing.assert_array_equal(compiled(fn, x, scale), expected)


@pytest.mark.parametrize("dtype", ["float16", "bfloat16"])
@pytest.mark.parametrize("length", [100, 8200])
def test_a_sum_of_halves_is_rounded_once(dtype, length):
    kind = getattr(tw, dtype)
    x = tw.from_numpy(random(2, length) / 16).to(kind)
    wide = x.to(tw.float32).numpy()
    expected = tw.from_numpy(np.array([reduced_row(row) for row in wide])).to(kind)
    assert tw.equal(tw.compile(lambda x: x.sum(1))(x), expected)
    turned = tw.from_numpy(np.array(reduced_row(wide.T.reshape(-1)))).to(kind)
    assert tw.equal(tw.compile(lambda x: x.T.sum())(x), turned)


@pytest.mark.parametrize("dtype", [np.int8, np.uint8, np.int32, np.int64])
@pytest.mark.parametrize("length", [77, 9001])
def test_integers_along_rows(dtype, length):
    limits = np.iinfo(dtype)
    x = np.random.default_rng(0).integers(limits.min, limits.max, (2, length), dtype, endpoint=True)
    for turn in (lambda x: x, lambda x: x.T):
        np.testing.assert_array_equal(compiled(lambda x, turn=turn: turn(x).sum(), x), x.sum(dtype=np.int64))
        np.testing.assert_array_equal(compiled(lambda x, turn=turn: turn(x).max(), x), x.max())
        np.testing.assert_array_equal(compiled(lambda x, turn=turn: turn(x).min(), x), x.min())
        np.testing.assert_array_equal(compiled(lambda x, turn=turn: (turn(x) > 0).all(), x), (x > 0).all())


MANY_PASSES = {
    "softmax": lambda x: x.softmax(1),
    "log_softmax": lambda x: x.log_softmax(1),
    "var_mean": lambda x: tw.var_mean(x, 1, keepdim=True),
    "norm": lambda x: x / x.norm(dim=1, keepdim=True),
    "two at once": lambda x: (x.amax(1), (x.sin() * 2).sum(1), x.sin()),
    "over two dimensions": lambda x: tw.nn.functional.layer_norm(x.reshape(len(x), -1, 13), (x.shape[1] // 13, 13)),
    "columns before": lambda x: (
        (x.reshape(len(x), -1, 13) - x.reshape(len(x), -1, 13).mean(1, keepdim=True)).exp().sum((1, 2))
    ),
}


@pytest.mark.parametrize("dtype", ["float32", "float64", "bfloat16"])
@pytest.mark.parametrize("name", MANY_PASSES)
def test_blocks_that_are_shared_out_give_what_whole_rows_give(name, dtype):
    """A few long rows are cut into pieces of work; more of them are not."""
    x = tw.from_numpy(random(12, 13 * 2003)).to(getattr(tw, dtype))
    few, many = tw.compile(MANY_PASSES[name]), tw.compile(MANY_PASSES[name])
    got, expected = few(x[:2].clone()), many(x)
    for a, b in zip(*(y if isinstance(y, tuple) else (y,) for y in (got, expected)), strict=True):
        assert tw.equal(a, b[:2])
    kernels = ["combine" in f.lower(y).kernels() for f, y in ((few, x[:2]), (many, x))]
    assert kernels[0] and (name == "columns before" or not kernels[1])


def test_softmax_over_a_row_of_several_blocks():
    """Several passes over one row meet its elements in the same order."""
    x = random(2, 20_003)
    e = compiled(lambda x: (x - x.amax(1, keepdim=True)).exp(), x)
    total = np.array([[reduced_row(row)] for row in e])
    np.testing.assert_array_equal(compiled(lambda x: x.softmax(1), x), e / total)


def sum_of_rows(x):
    """In order; from 256 rows in at most 16 blocks, each in order, and these in order."""
    rows = len(x)
    block = math.ceil(rows / 16) if rows >= 256 else rows
    total = None
    for first in range(0, rows, block):
        part = np.zeros(x.shape[1:], x.dtype)
        for row in x[first : first + block]:
            part += row
        total = part if total is None else total + part
    return total


@pytest.mark.parametrize("rows", [2, 9, 255, 256, 300, 1000])
@pytest.mark.parametrize("columns", [1, 5, 16, 70])
def test_a_sum_over_rows(rows, columns):
    x = random(rows, columns)
    if columns == 1:  # this is one row
        expected = np.array([reduced_row(x[:, 0])])
    else:
        expected = sum_of_rows(x)
    np.testing.assert_array_equal(compiled(lambda x: x.sum(0), x), expected)


def test_running_sums_add_in_order():
    x = random(4, 300)
    expected = np.zeros_like(x)
    total = np.zeros(4, np.float32)
    for i in range(300):
        total = total + x[:, i]
        expected[:, i] = total
    np.testing.assert_array_equal(compiled(lambda x: x.cumsum(1), x), expected)


# --- products -----------------------------------------------------------------------------------------


@pytest.mark.parametrize(("m", "k", "n"), [(1, 5, 1), (3, 40, 17), (20, 33, 40), (2, 300, 3)])
def test_a_product_is_a_chain_of_multiply_adds(m, k, n):
    a, b, fma = random(m, k), random(k, n, seed=1), fma_function()
    expected = np.zeros((m, n), np.float32)
    for i in range(m):
        for j in range(n):
            total = 0.0
            for p in range(k):
                total = fma(float(a[i, p]), float(b[p, j]), total)
            expected[i, j] = total
    np.testing.assert_array_equal(compiled(lambda a, b: a @ b, a, b), expected)
    np.testing.assert_array_equal(compiled(lambda a, b: (b.mT @ a.mT).mT, a, b), expected)
    np.testing.assert_array_equal(compiled(lambda a, b: a.reshape(m, k) @ b.mT.contiguous().mT, a, b), expected)


def test_a_convolution_is_a_chain_over_taps_and_channels():
    x, w, fma = random(2, 3, 6, 5), random(4, 3, 3, 3, seed=1), fma_function()
    expected = np.zeros((2, 4, 4, 3), np.float32)
    for n, o, i, j in np.ndindex(*expected.shape):
        total = 0.0
        for p, q, c in np.ndindex(3, 3, 3):
            total = fma(float(x[n, c, i + p, j + q]), float(w[o, c, p, q]), total)
        expected[n, o, i, j] = total
    np.testing.assert_array_equal(compiled(tw.nn.functional.conv2d, x, w), expected)


def test_nothing_is_contracted_across_operations():
    """a * b + c in two operations is rounded twice, in one kernel, too."""
    a, b, c = random(1000), random(1000, seed=1), random(1000, seed=2)
    got = compiled(lambda a, b, c: a * b + c, a, b, c)
    np.testing.assert_array_equal(got, a * b + c)
    fma = fma_function()
    assert (got != [fma(float(x), float(y), float(z)) for x, y, z in zip(a, b, c, strict=True)]).any()


# --- dtypes and functions -------------------------------------------------------------------------------


@pytest.mark.parametrize("dtype", ["float16", "bfloat16"])
def test_halves_are_rounded_after_every_operation(dtype):
    kind = getattr(tw, dtype)
    a, b, c = (tw.from_numpy(random(500, seed=i)).to(kind) for i in range(3))
    got = tw.compile(lambda a, b, c: (a * b + c) / (a - b))(a, b, c)
    wide = [t.to(tw.float32) for t in (a, b, c)]

    def rounded(t):
        return t.to(kind).to(tw.float32)

    steps = rounded(rounded(rounded(wide[0] * wide[1]) + wide[2]) / rounded(wide[0] - wide[1]))
    np.testing.assert_array_equal(got.to(tw.float32).numpy(), steps.numpy())


def test_zeros_infinities_and_nan_are_kept():
    x = np.array([0.0, -0.0, np.inf, -np.inf, np.nan, 1e-45, -1e-45, 3.4e38], np.float32)
    with np.errstate(all="ignore"):
        for fn in (lambda x: x * 1, lambda x: x + 0 * x, lambda x: x - x, lambda x: x / x, lambda x: x * 1e10):
            got, expected = compiled(fn, x), fn(x)
            np.testing.assert_array_equal(got, expected)
            np.testing.assert_array_equal(
                np.signbit(got) | np.isnan(got), np.signbit(expected) | np.isnan(expected)
            )


def test_a_sigmoid_goes_down_to_denormal_numbers():
    x = np.array([-800.0, -745, -730, -708, 0, 800, np.inf, -np.inf, np.nan])
    got = compiled(tw.sigmoid, x)
    with np.errstate(all="ignore"):
        expected = np.where(x < 0, np.exp(x), 1 / (1 + np.exp(-x)))
    np.testing.assert_allclose(got, expected, rtol=1e-13, atol=5e-324)


# --- random bits, and the same on all processors -------------------------------------------------------


def test_random_bits_are_those_of_the_paper():
    """Salmon et al. 2011, the known answers of Random123 for philox4x32-10."""
    state = np.zeros(2, np.uint64)
    bits = compiled(lambda s: random_bits(s, shape=(4,)), state)
    assert [hex(b) for b in bits] == ["0x6627e8d5", "0xe169c58d", "0xbc57ac4c", "0x9b00dbd8"]
    state = np.array([0x299F31D0_A4093822, 0x85A308D3_243F6A88], np.uint64)
    expected = tw.from_numpy(state)
    np.testing.assert_array_equal(
        compiled(lambda s: random_bits(s, shape=(1003,)), state), random_bits(expected, shape=(1003,)).numpy()
    )


@pytest.mark.parametrize("target", [AVX2, SSE2], ids=lambda target: target.name)
def test_other_vector_widths_give_the_same_bits(target):
    if not target.runs_here:
        pytest.skip("this processor can't run it")
    graph = Graph()
    arrays = [random(20, 50), random(50, 33, seed=1)]
    x, w = (graph.add_input(TensorType.of(a)) for a in arrays)
    (y,) = graph.add(PRIMITIVES["matmul"], [x, w], {})
    (z,) = graph.add(PRIMITIVES["tanh"], [y], {})
    (s,) = graph.add(PRIMITIVES["sum"], [z], {"dims": (1,), "keepdim": False})
    (t,) = graph.add(PRIMITIVES["sum"], [z], {"dims": (0,), "keepdim": False})
    (turned,) = graph.add(PRIMITIVES["permute"], [z], {"dims": (1, 0)})  # walked with masks
    sums = [
        graph.add(PRIMITIVES[name], [v], {"dims": (0, 1), "keepdim": False})[0]
        for v in (turned, graph.add(PRIMITIVES["cast"], [turned], {"dtype": tw.bfloat16})[0])
        for name in ("sum", "amin")
    ]
    graph.set_outputs([z, s, t, *sums])
    expected = [a.tobytes() for a in Program(graph)(arrays)]
    assert [a.tobytes() for a in Program(graph, target=target)(arrays)] == expected
