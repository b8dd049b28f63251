"""Random bits against Random123's answers; distributions by their moments; streams, seeds and tracing."""

from __future__ import annotations

import copy

import numpy as np
import pytest
import scipy.stats
from hypothesis import given, settings
from hypothesis import strategies as st

import twofold as tw
from twofold.ir.errors import AutogradError, DTypeError, ShapeError, TraceError, TwofoldError
from twofold.primitives import random as philox
from twofold.tensors.random import default_generator, draw_below, draw_bits

T = tw.tensor
N = 20_000


@pytest.fixture(autouse=True)
def seeded():
    tw.manual_seed(0)


# --- bits ----------------------------------------------------------------------------------------

KNOWN = [  # counter, key, words: kat_vectors of Random123
    ((0, 0, 0, 0), (0, 0), (0x6627E8D5, 0xE169C58D, 0xBC57AC4C, 0x9B00DBD8)),
    ((0xFFFFFFFF,) * 4, (0xFFFFFFFF,) * 2, (0x408F276D, 0x41C83B0E, 0xA20BC7C6, 0x6D5451FD)),
    (
        (0x243F6A88, 0x85A308D3, 0x13198A2E, 0x03707344),
        (0xA4093822, 0x299F31D0),
        (0xD16CFE09, 0x94FDCCEB, 0x5001E420, 0x24126EA1),
    ),
]


@pytest.mark.parametrize(("counter", "key", "words"), KNOWN)
def test_philox_gives_the_known_answers(counter, key, words):
    even, odd = np.array(counter, np.uint64).reshape(2, 2).T.reshape(2, 2, 1).copy()
    philox.philox(even, odd, philox._round_keys(key[0] | key[1] << 32), np.empty((2, 1), np.uint64))
    assert (even[0, 0], odd[0, 0], even[1, 0], odd[1, 0]) == words


def reference(seed, block):
    """One block in plain Python: 32-bit words of Philox 4x32-10."""
    c = [block & 0xFFFFFFFF, block >> 32 & 0xFFFFFFFF, 0, 0]
    k = [seed & 0xFFFFFFFF, seed >> 32]
    for _ in range(10):
        a, b = c[0] * 0xD2511F53, c[2] * 0xCD9E8D57
        c = [b >> 32 ^ c[1] ^ k[0], b & 0xFFFFFFFF, a >> 32 ^ c[3] ^ k[1], a & 0xFFFFFFFF]
        k = [(k[0] + 0x9E3779B9) & 0xFFFFFFFF, (k[1] + 0xBB67AE85) & 0xFFFFFFFF]
    return c


@settings(max_examples=50, deadline=None)
@given(st.integers(0, 2**64 - 1), st.integers(0, 2**64 - 1), st.integers(0, 9))
def test_bits_are_those_of_the_blocks(seed, offset, size):
    state = T(np.array([seed, offset], np.uint64))
    words = [w for i in range(3) for w in reference(seed, (offset + i) % 2**64)]
    assert philox.random_bits(state, shape=(size,)).tolist() == words[:size]


def test_chunks_join(monkeypatch):
    state = T(np.array([5, 2**32 - 3], np.uint64))
    whole = philox.random_bits(state, shape=(103,)).numpy()
    monkeypatch.setattr(philox, "_CHUNK", 4)
    np.testing.assert_array_equal(philox.random_bits(state, shape=(103,)).numpy(), whole)


# --- streams -------------------------------------------------------------------------------------


def test_drawing_advances_by_whole_blocks():
    g = tw.Generator().manual_seed(7)
    a = draw_bits((5,), g)
    assert g.state.tolist() == [7, 2]
    b = draw_bits((2, 2), g)
    assert g.state.tolist() == [7, 3]
    again = philox.random_bits(T(np.array([7, 0], np.uint64)), shape=(12,)).tolist()
    assert a.tolist() == again[:5]
    assert b.flatten().tolist() == again[8:]
    draw_bits((0,), g)
    assert g.state.tolist() == [7, 3]


def test_seeds_and_states():
    a = tw.rand(3)
    state = tw.get_rng_state()
    b = tw.rand(3)
    tw.set_rng_state(state)
    assert tw.rand(3).tolist() == b.tolist() != a.tolist()
    assert tw.manual_seed(0) is default_generator
    assert tw.rand(3).tolist() == a.tolist()
    assert tw.initial_seed() == 0
    g = tw.Generator()
    assert g.initial_seed() == 67280421310721
    assert g.manual_seed(-1).initial_seed() == 2**64 - 1
    assert g.seed() == g.initial_seed() != tw.Generator().seed()
    h = copy.deepcopy(g)
    assert tw.rand(2, generator=g).tolist() == tw.rand(2, generator=h).tolist()


def test_a_generator_of_its_own_leaves_the_default_alone():
    before = tw.get_rng_state().tolist()
    g = tw.Generator().manual_seed(1)
    a = [tw.rand(2, generator=g), tw.randn(2, generator=g), tw.randint(9, (2,), generator=g)]
    a += [tw.randperm(3, generator=g), tw.bernoulli(tw.ones(2) / 2, generator=g), tw.zeros(2).normal_(generator=g)]
    assert tw.get_rng_state().tolist() == before
    g.manual_seed(1)
    assert tw.rand(2, generator=g).tolist() == a[0].tolist()


def test_threads_draw_different_numbers():
    from concurrent.futures import ThreadPoolExecutor

    with ThreadPoolExecutor(4) as pool:
        parts = list(pool.map(lambda _: tuple(tw.rand(4).tolist()), range(64)))
    assert len(set(parts)) == 64


def test_errors_of_generators():
    with pytest.raises(TwofoldError, match="does not fit 64 bits"):
        tw.manual_seed(2**64)
    with pytest.raises(DTypeError, match="a state is a uint64 tensor, got float32"):
        tw.set_rng_state(tw.zeros(2))
    with pytest.raises(ShapeError, match=r"has shape \(2,\), got \(3,\)"):
        tw.set_rng_state(tw.zeros(3, dtype=tw.uint64))


# --- distributions -------------------------------------------------------------------------------


def follows(x, cdf, *, least=1e-4):
    """Whether a Kolmogorov-Smirnov test leaves the distribution standing (seeds are fixed)."""
    return scipy.stats.kstest(x.double().numpy().reshape(-1), cdf).pvalue > least


@pytest.mark.parametrize("dtype", [tw.float16, tw.bfloat16, tw.float32, tw.float64])
def test_rand(dtype):
    x = tw.rand(N // 2, 2, dtype=dtype)
    assert x.dtype is dtype and x.shape == (N // 2, 2)
    assert x.min().item() >= 0 and x.max().item() < 1
    if dtype in (tw.float32, tw.float64):
        assert follows(x, "uniform")
    else:
        assert abs(x.double().mean().item() - 0.5) < 0.01
    bits = {tw.float16: 11, tw.bfloat16: 8, tw.float32: 24, tw.float64: 53}[dtype]
    scaled = x.double().numpy() * 2.0**bits
    np.testing.assert_array_equal(scaled, np.floor(scaled))


@pytest.mark.parametrize("dtype", [tw.float16, tw.bfloat16, tw.float32, tw.float64])
def test_randn(dtype):
    x = tw.randn(N + 1, dtype=dtype)
    assert x.dtype is dtype and x.shape == (N + 1,)
    assert x.isfinite().all().item()
    if dtype in (tw.float32, tw.float64):
        assert follows(x, "norm")
    assert abs(x.double().std().item() - 1) < 0.02
    pairs = x.double().numpy()[: N // 2], x.double().numpy()[N // 2 + 1 :]
    assert abs(np.corrcoef(pairs[0], pairs[1][: len(pairs[0])])[0, 1]) < 0.04


def test_the_farthest_words_give_finite_normals(monkeypatch):
    from twofold.tensors import random

    for word in (0, 2**32 - 1):

        def same(shape, generator=None, word=word):
            return tw.full(shape, word, dtype=tw.uint32)

        monkeypatch.setattr(random, "draw_bits", same)
        for dtype in (tw.float32, tw.float64):
            assert tw.randn(4, dtype=dtype).isfinite().all().item()
            assert 0 <= tw.rand(1, dtype=dtype).item() < 1
        for name in ("exponential_", "cauchy_", "log_normal_"):
            assert getattr(tw.zeros(3), name)().isfinite().all().item()
        assert tw.zeros(3).exponential_().min().item() > 0
        assert 1 <= tw.zeros(1).geometric_(0.3).item() < 100
        assert tw.multinomial(T([0.0, 1.0, 0.0]), 1, True).item() == 1


def test_complex_numbers_have_variance_one():
    z = tw.randn(N, dtype=tw.complex128).numpy()
    assert abs(np.mean(np.abs(z) ** 2) - 1) < 0.03
    assert abs(np.mean(z.real * z.imag)) < 0.02
    u = tw.rand(N, dtype=tw.complex64).numpy()
    assert u.imag.min() >= 0 and u.real.max() < 1 and abs(u.imag.mean() - 0.5) < 0.01


def test_randint():
    x = tw.randint(-3, 5, (N,))
    assert x.dtype is tw.int64
    values, counts = np.unique(x.numpy(), return_counts=True)
    assert values.tolist() == list(range(-3, 5))
    assert scipy.stats.chisquare(counts).pvalue > 1e-4
    assert tw.randint(1, (2, 3)).tolist() == [[0] * 3] * 2
    assert tw.randint(high=2, size=(4,), dtype=tw.uint8).dtype is tw.uint8
    assert tw.randint(0, 256, (1000,), dtype=tw.uint8).max().item() > 240
    assert set(tw.randint(0, 2, (100,), dtype=tw.bool).tolist()) == {True, False}
    wide = tw.randint(-(2**63), 2**63 - 1, (1000,)).double()
    assert wide.min().item() < -(2**61) and wide.max().item() > 2**61
    assert tw.randint(0, 2**64, (9,), dtype=tw.uint64).dtype is tw.uint64
    assert tw.randint(5, (3,), dtype=tw.float32).dtype is tw.float32


@settings(max_examples=40, deadline=None)
@given(st.integers(1, 2**64), st.integers(0, 2**32))
def test_integers_below_a_bound_are_the_top_of_the_product(bound, seed):
    words = philox.random_bits(T(np.array([seed, 0], np.uint64)), shape=(2, 3)).numpy().astype(object)
    x = words[0] * 2**32 + words[1]
    got = draw_below(bound, (3,), tw.Generator().manual_seed(seed)).tolist()
    assert got == [v * bound >> 64 if bound <= 2**32 else v % bound for v in x]


def test_errors_of_integers():
    with pytest.raises(TwofoldError, match="from low=3 to high=3 is empty"):
        tw.randint(3, 3, (2,))
    with pytest.raises(DTypeError, match="from 0 to 299 do not fit dtype uint8"):
        tw.randint(300, (2,), dtype=tw.uint8)
    with pytest.raises(ShapeError, match="no size was given"):
        tw.randint(3)
    with pytest.raises(DTypeError, match="random numbers of dtype int64"):
        tw.rand(2, dtype=tw.int64)


def test_randperm():
    orders = np.array([tw.randperm(4).tolist() for _ in range(600)])
    assert (np.sort(orders, axis=1) == np.arange(4)).all()
    counts = np.bincount(orders @ [64, 16, 4, 1], minlength=256)
    assert scipy.stats.chisquare(counts[counts > 0]).pvalue > 1e-4
    assert len({tuple(o) for o in orders}) == 24
    assert tw.randperm(0).shape == (0,) and tw.randperm(3, dtype=tw.int32).dtype is tw.int32


def test_like():
    x = tw.zeros(2, 3, dtype=tw.float64)
    for fn in (tw.rand_like, tw.randn_like):
        assert fn(x).shape == (2, 3) and fn(x).dtype is tw.float64
        assert fn(x, dtype=tw.float32).dtype is tw.float32
    assert tw.randint_like(x, 5).dtype is tw.float64
    assert set(tw.randint_like(tw.zeros(50, dtype=tw.int64), 3, 5).tolist()) == {3, 4}
    assert tw.rand(2, requires_grad=True).requires_grad
    with pytest.raises(AutogradError, match="can't require a gradient"):
        tw.randint(2, (2,), requires_grad=True)


def test_bernoulli():
    p = tw.full((N,), 0.3)
    x = tw.bernoulli(p)
    assert set(x.tolist()) == {0.0, 1.0} and abs(x.mean().item() - 0.3) < 0.01
    assert tw.bernoulli(T([0.0, 1.0], dtype=tw.float64)).tolist() == [0, 1]
    assert tw.zeros(3).bernoulli_(1.0).tolist() == [1, 1, 1]
    assert tw.ones(3, dtype=tw.int64).bernoulli_(0.0).tolist() == [0, 0, 0]
    assert abs(tw.zeros(N, dtype=tw.bool).bernoulli_(0.8).float().mean().item() - 0.8) < 0.01
    assert tw.zeros(2, 2).bernoulli_(T([0.0, 1.0])).tolist() == [[0, 1], [0, 1]]
    assert tw.bernoulli(tw.zeros(2, dtype=tw.int64), 1.0).tolist() == [1, 1]
    with pytest.raises(TwofoldError, match="between 0 and 1"):
        tw.bernoulli(T([1.5]))
    with pytest.raises(TwofoldError, match="between 0 and 1, got -0"):
        tw.zeros(2).bernoulli_(-0.1)


def test_multinomial():
    w = T([1.0, 0.0, 2.0, 5.0])
    counts = np.bincount(tw.multinomial(w, N, replacement=True).numpy(), minlength=4)
    assert counts[1] == 0
    assert scipy.stats.chisquare(counts[[0, 2, 3]], N * np.array([1, 2, 5]) / 8).pvalue > 1e-4
    rows = tw.multinomial(w.expand(3000, 4), 3).numpy()
    assert (np.sort(rows, axis=1) == [0, 2, 3]).all()
    assert scipy.stats.chisquare(np.bincount(rows[:, 0], minlength=4)[[0, 2, 3]], [375, 750, 1875]).pvalue > 1e-4
    second = np.bincount(rows[rows[:, 0] == 3][:, 1], minlength=4)[[0, 2]]
    assert scipy.stats.chisquare(second, second.sum() * np.array([1, 2]) / 3).pvalue > 1e-4
    with pytest.raises(TwofoldError, match="can't be drawn without replacement"):
        tw.multinomial(w, 5)
    with pytest.raises(TwofoldError, match="at least 4 positive weights"):
        tw.multinomial(w, 4)
    with pytest.raises(TwofoldError, match="finite and not negative"):
        tw.multinomial(T([1.0, -1.0]), 1)


def test_normal():
    assert follows(tw.normal(0.0, 1.0, (N,)), "norm")
    x = tw.normal(tw.full((N,), 3.0), T(0.5))
    assert follows((x - 3) / 0.5, "norm")
    assert tw.normal(1.0, tw.zeros(2, 1)).tolist() == [[1], [1]]
    assert tw.normal(tw.zeros(2, 1), tw.ones(3)).shape == (2, 3)
    with pytest.raises(TwofoldError, match="std must not be negative"):
        tw.normal(0.0, T([-1.0]))
    with pytest.raises(TwofoldError, match="a size is needed"):
        tw.normal(0.0, 1.0)


@pytest.mark.parametrize("rate", [0.0, 0.3, 5.0, 12.0, 300.0])
def test_poisson(rate):
    x = tw.poisson(tw.full((N,), rate, dtype=tw.float64)).numpy()
    assert (x == np.floor(x)).all() and (x >= 0).all()
    if rate == 0:
        assert not x.any()
        return
    low, high = scipy.stats.poisson.ppf([0.02, 0.98], rate).astype(int)
    edges = np.arange(low, high + 1)
    p = np.diff(np.concatenate([[0], scipy.stats.poisson.cdf(edges, rate), [1]]))
    counts = np.bincount(np.searchsorted(edges, x), minlength=len(p))
    assert scipy.stats.chisquare(counts, N * p).pvalue > 1e-4


@pytest.mark.parametrize(
    ("name", "args", "cdf"),
    [
        ("uniform_", (), "uniform"),
        ("uniform_", (-2.0, 3.0), scipy.stats.uniform(-2, 5).cdf),
        ("normal_", (), "norm"),
        ("normal_", (1.0, 3.0), scipy.stats.norm(1, 3).cdf),
        ("exponential_", (2.0,), scipy.stats.expon(scale=0.5).cdf),
        ("log_normal_", (0.5, 0.25), scipy.stats.lognorm(s=0.25, scale=np.exp(0.5)).cdf),
        ("cauchy_", (1.0, 2.0), scipy.stats.cauchy(1, 2).cdf),
    ],
)
@pytest.mark.parametrize("dtype", [tw.float32, tw.float64])
def test_filling(name, args, cdf, dtype):
    x = tw.zeros(N, dtype=dtype)
    assert getattr(x, name)(*args) is x
    assert follows(x, cdf)


def test_filling_with_integers():
    x = tw.zeros(N).geometric_(0.25)
    counts = np.bincount(x.int().numpy(), minlength=20)[1:12]
    assert scipy.stats.chisquare(counts, counts.sum() * (p := 0.75 ** np.arange(11)) / p.sum()).pvalue > 1e-4
    assert set(tw.zeros(99, dtype=tw.int64).random_(2).tolist()) == {0, 1}
    assert set(tw.zeros(99, dtype=tw.int8).random_(-1, 1).tolist()) == {-1, 0}
    assert tw.zeros(999, dtype=tw.uint8).random_().max().item() > 100
    assert tw.zeros(999).random_().max().item() > 2**22
    assert set(tw.zeros(99, dtype=tw.bool).random_().tolist()) == {True, False}


def test_filling_a_view_and_a_leaf():
    x = tw.zeros(2, 3)
    x[1].uniform_(1, 2)
    assert x[0].sum().item() == 0 and x[1].min().item() >= 1
    leaf = tw.zeros(2, requires_grad=True)
    with pytest.raises(AutogradError, match="leaf"):
        leaf.normal_()
    with tw.no_grad():
        leaf.normal_()
    assert leaf.requires_grad and leaf.is_leaf and leaf.abs().sum().item() > 0


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda x: x.uniform_(2, 1), "from 2 to 1 is empty"),
        (lambda x: x.normal_(0, -1), "std must not be negative"),
        (lambda x: x.exponential_(0.0), "lambd must be positive"),
        (lambda x: x.cauchy_(0, 0), "sigma must be positive"),
        (lambda x: x.log_normal_(0, 0), "std must be positive"),
        (lambda x: x.geometric_(0.0), "between 0 and 1"),
        (lambda x: tw.poisson(x - 1), "must not be negative"),
    ],
)
def test_errors_of_parameters(call, message):
    with pytest.raises(TwofoldError, match=message):
        call(tw.zeros(2))


# --- tracing -------------------------------------------------------------------------------------


def test_a_traced_program_draws_the_same_numbers():
    def step(x):
        a = tw.rand(3) + tw.randn(3) + x
        a += tw.randint(0, 10, (3,)) + tw.randperm(3) + tw.bernoulli(x * 0 + 0.5)
        a += tw.multinomial(tw.ones(5), 3) + tw.multinomial(tw.ones(5), 3, True)
        return a + tw.zeros(3).normal_().exponential_() + tw.rand_like(a)

    x = tw.ones(3)
    program = tw.trace(step, x)
    tw.manual_seed(5)
    eager = [step(x).tolist(), step(x).tolist()]
    after = tw.get_rng_state().tolist()
    tw.manual_seed(5)
    assert [program(x).tolist(), program(x).tolist()] == eager
    assert tw.get_rng_state().tolist() == after
    assert eager[0] != eager[1]


def test_seeding_can_be_traced():
    def step(x):
        tw.manual_seed(3)
        return x + tw.rand(2)

    program = tw.trace(step, tw.zeros(2))
    first = program(tw.zeros(2)).tolist()
    assert program(tw.zeros(2)).tolist() == first == tw.rand(2, generator=tw.Generator().manual_seed(3)).tolist()


def test_tracing_draws_nothing():
    before = tw.get_rng_state().tolist()
    tw.trace(lambda x: x + tw.rand(2), tw.zeros(2))
    assert tw.get_rng_state().tolist() == before


def test_poisson_can_not_be_traced():
    with pytest.raises(TraceError, match="depends on what is drawn"):
        tw.trace(lambda x: tw.poisson(x), tw.ones(2))
