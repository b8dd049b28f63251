"""Chains: steps that run item by item, with memory for one item; same bits as one step after the other."""

from __future__ import annotations

import itertools

import numpy as np
import pytest

import twofold as tw
from twofold.backends.cpu import recording, schedule
from twofold.backends.cpu.kernels import copying, rows
from twofold.backends.cpu.layout import Buffer, View
from twofold.backends.cpu.program import Program
from twofold.backends.cpu.span import nested, within
from twofold.backends.cpu.target import AVX2, NEON, host
from twofold.ir import config
from twofold.ir.dtypes import float32

F = tw.nn.functional


@pytest.fixture(autouse=True)
def two_processors(monkeypatch):
    """How many items a chain needs depends on the machine."""
    monkeypatch.setattr("twofold.backends.cpu.program.usable_cpus", lambda: 2)


@pytest.fixture
def threads():
    before = tw.get_num_threads()
    yield tw.set_num_threads
    tw.set_num_threads(before)


@pytest.fixture
def small_chunks(monkeypatch):
    """Small arrays have many chunks, and are in chains wherever that is possible."""
    monkeypatch.setattr(rows, "_CHUNK_ELEMENTS", 32)
    monkeypatch.setattr(copying, "CHUNK", 32)
    monkeypatch.setattr(schedule, "_pays", lambda steps, items: True)
    monkeypatch.setattr("twofold.backends.cpu.program.LEAST_ITEMS", 2)
    monkeypatch.setattr("twofold.backends.cpu.program.usable_cpus", lambda: 0)


def program_of(f):
    (entry,) = [entry for entries in f.specializations.values() for entry in entries]
    return entry[1].program


def chains_of(program):
    return [task for wave in program.waves for task in wave if task.items]


def without_chains():
    return config.SKIP_PASSES.set(frozenset(["chain"]))


def tensors(*shapes, seed=0):
    rng = np.random.default_rng(seed)
    return [tw.from_numpy(rng.standard_normal(shape).astype(np.float32)) for shape in shapes]


def attend(**options):
    def f(q, k, v):
        with tw.no_grad():
            return F.scaled_dot_product_attention(q, k, v, **options)

    return f


def attend_and_learn(p):
    def f(q, k, v):
        q.grad = k.grad = v.grad = None
        out = F.scaled_dot_product_attention(q, k, v, dropout_p=p)
        loss = (out * out).sum()
        loss.backward()
        return loss.detach(), q.grad, k.grad, v.grad

    return f


def both(f, args, grad=False):
    """Results without and with chains, and the program that has them."""
    results = []
    for skips in (True, False):
        tw.manual_seed(5)
        given = [a.clone().requires_grad_(grad) for a in args]
        compiled = tw.compile(f)
        if skips:
            with without_chains():
                out = compiled(*given)
            assert not chains_of(program_of(compiled))
        else:
            out = compiled(*given)
        results.append([np.array(t.numpy()) for t in (out if isinstance(out, tuple) else (out,))])
    return *results, program_of(compiled), compiled


def assert_same_bits(a, b):
    for x, y in zip(a, b, strict=True):
        assert x.shape == y.shape and x.tobytes() == y.tobytes()


@pytest.mark.parametrize("num_threads", [1, 2, 4])
@pytest.mark.parametrize("options", [{}, {"is_causal": True}], ids=["plain", "causal"])
def test_scores_softmax_and_values_of_an_attention_are_a_chain(options, num_threads, threads):
    threads(num_threads)
    args = tensors(*[(2, 8, 256, 32)] * 3)
    expected, found, program, _ = both(attend(**options), args)
    assert_same_bits(expected, found)
    chain = chains_of(program)[-1]
    assert [s.kind for s in chain][-3:] == ["contract", "rows", "contract"]
    assert chain.items % 16 == 0  # heads
    assert "chunks" in program.kernels() and len(program.kernels().split("\n")) == len(program.steps)


def test_memory_of_an_attention_does_not_grow_with_its_scores():
    args = tensors(*[(1, 8, 512, 32)] * 3)
    with without_chains():
        plain = tw.compile(attend())
        plain(*args)
    chained = tw.compile(attend())
    chained(*args)
    scores = 8 * 512 * 512 * 4
    before, cost = program_of(plain).cost(), program_of(chained).cost()
    assert before.arena_bytes >= 2 * scores
    assert cost.arena_bytes + 2 * cost.scratch_bytes < scores / 2
    assert cost.flops == before.flops and cost.num_phases == before.num_phases


@pytest.mark.parametrize("p", [0.0, 0.3], ids=["plain", "dropout"])
def test_an_attention_that_learns(p, threads):
    args = tensors(*[(2, 8, 256, 32)] * 3)
    with without_chains():
        tw.compile(attend_and_learn(p))(*[a.clone().requires_grad_() for a in args])
    expected, found, program, _ = both(attend_and_learn(p), args, grad=True)
    assert_same_bits(expected, found)
    assert max(len(chain) for chain in chains_of(program)) >= 6
    for num_threads in (1, 2, 4):
        threads(num_threads)
        assert_same_bits(expected, both(attend_and_learn(p), args, grad=True)[1])


def test_an_attention_that_learns_keeps_the_weights_and_their_gradients_only():
    args = [a.requires_grad_() for a in tensors(*[(2, 8, 512, 64)] * 3)]
    f = tw.compile(attend_and_learn(0.0))
    f(*args)
    cost, scores = program_of(f).cost(), 2 * 8 * 512 * 512 * 4
    assert 2 * scores <= cost.arena_bytes and cost.arena_bytes + 2 * cost.scratch_bytes < 3 * scores


def test_sequences_of_any_length_and_heads_that_are_slices():
    """Queries, keys and values of one projection; a length that is prime."""
    x, w = tensors((16, 53, 96), (96, 288), seed=3)

    def f(x, w):
        q, k, v = (x @ w).reshape(16, 53, 3, 4, 24).permute(2, 0, 3, 1, 4).unbind(0)
        out = F.scaled_dot_product_attention(q, k, v)
        return out.transpose(1, 2).reshape(16, 53, 96).relu()

    expected, found, program, _ = both(f, [x, w])
    assert_same_bits(expected, found)
    assert any(len(chain) >= 3 for chain in chains_of(program))


def test_a_profile_sees_the_steps_of_a_chain():
    args = tensors(*[(2, 8, 256, 32)] * 3)
    expected, _, program, compiled = both(attend(), args)
    seen = []

    class Listener:
        def step(self, program, number, start, end):
            seen.append((program, number))

        def span(self, kind, name, start, end):
            pass

    before = recording.listen(Listener())
    try:
        recorded = compiled(*args)
    finally:
        recording.listen(before)
    assert [n for p, n in seen if p is program] == list(range(len(program.steps)))
    assert_same_bits(expected, [recorded.numpy()])
    assert_same_bits(expected, [compiled(*args).numpy()])


def test_no_chain_where_items_are_too_few_or_the_threads_too_many(monkeypatch):
    args = tensors(*[(1, 4, 64, 32)] * 3)
    *_, program, _ = both(attend(), args)
    assert not chains_of(program)
    monkeypatch.setattr("twofold.backends.cpu.program.usable_cpus", lambda: 1000)
    *_, program, _ = both(attend(), tensors(*[(2, 8, 256, 32)] * 3))
    assert not chains_of(program)


def test_code_for_another_processor_has_chains_but_does_not_run():
    f = tw.compile(attend())
    f(*tensors(*[(2, 8, 256, 32)] * 3))
    graph = program_of(f).graph
    other = NEON if host().name != "neon" else AVX2
    assert chains_of(Program(graph, target=other))


# --- items are kept apart --------------------------------------------------------------------------


# Functions of (16, 6, 8) and (16, 6, 8) in which items follow from other items, or do not.
BATCH = {
    "each its own": lambda x, y: ((x.exp() + y).softmax(-1) @ y.transpose(1, 2)).tanh(),
    "reversed": lambda x, y: (x.exp().softmax(-1).flip(0) + y).tanh().softmax(-1),
    "neighbours": lambda x, y: (x.exp().softmax(-1)[1:] - y.exp().softmax(-1)[:-1]).tanh(),
    "transposed": lambda x, y: x.exp().softmax(-1).transpose(0, 1).contiguous().softmax(-1),
    "other items": lambda x, y: x.exp().softmax(-1).reshape(6, 16, 8).softmax(1) @ y[0].T,
    "over the batch": lambda x, y: (x.exp() / x.exp().softmax(-1).sum(0)).softmax(-1) * y,
    "every other": lambda x, y: x.exp().softmax(-1)[::2].contiguous().tanh().softmax(-1) @ y[::2].mT,
    "weights": lambda x, y: ((x.softmax(-1) @ y[0].T).softmax(-1) @ y[1]).softmax(-1),
    "copies": lambda x, y: tw.cat([x.softmax(-1), y.softmax(-1)], 1).permute(0, 2, 1).contiguous().softmax(-1),
}


@pytest.mark.parametrize("name", BATCH)
def test_items_see_what_they_would_see_one_step_after_the_other(name, small_chunks):
    expected, found, program, compiled = both(BATCH[name], args := tensors((16, 6, 8), (16, 6, 8)))
    assert_same_bits(expected, found)
    assert_same_bits(expected, [compiled(*args).numpy()])
    if name in ("each its own", "every other"):
        assert chains_of(program)
    if name in ("reversed", "neighbours", "transposed"):
        assert not chains_of(program)


def test_state_is_written_after_it_was_read(small_chunks):
    def f(state, x):
        old = state.exp().softmax(-1)
        state.copy_((state + x.softmax(-1)).softmax(-1))
        return (old + state).softmax(-1)

    out = []
    for skips in (frozenset(["chain"]), frozenset()):
        state, x = tensors((16, 6, 8), (16, 6, 8), seed=9)
        with config.SKIP_PASSES.set(skips):
            compiled = tw.compile(f)
            out.append([np.array(t.numpy()) for t in (compiled(state, x), compiled(state, x), state)])
    assert_same_bits(*out)


@pytest.mark.parametrize("seed", range(30))
def test_a_part_of_a_view_is_within_its_part_of_the_buffer(seed):
    rng = np.random.default_rng(seed)
    shape = tuple(int(n) for n in rng.choice([1, 2, 3, 4, 6], 3))
    view = View.whole(Buffer("temp", float32, int(np.prod(shape)) * int(rng.choice([1, 2]))), shape)
    if rng.random() < 0.4:
        view = view.permuted(tuple(int(d) for d in rng.permutation(3)))
    if rng.random() < 0.5:
        step = tuple(int(s) for s in rng.choice([1, -1], 3))
        start = tuple(n - 1 if s < 0 else 0 for n, s in zip(view.shape, step, strict=True))
        view = view.sliced(start, step, view.shape)
    if rng.random() < 0.3:
        view = View(view.buffer, view.shape, (0, *view.strides[1:]), view.offset)
    places = [
        view.offset + sum(i * s for i, s in zip(index, view.strides, strict=True))
        for index in itertools.product(*map(range, view.shape))
    ]
    for items in range(1, len(places) + 1):
        if within(view, items):
            assert len(places) % items == 0 and view.buffer.size % items == 0
            part, own = view.buffer.size // items, len(places) // items
            assert all(place // part == k // own for k, place in enumerate(places))
    if view.contiguous and view.buffer.size == len(places):
        assert within(view, view.shape[0])


def test_pieces_of_work_fit_into_the_dimensions():
    for most, sizes in itertools.product((1, 7, 30, 256), ((16, 4, 50), (1, 64), (9, 5, 7), (2, 2, 2))):
        count = nested(most, sizes)
        inner = list(itertools.accumulate(reversed(sizes), int.__mul__, initial=1))
        fits = any(count % a == 0 and b % count == 0 for a, b in itertools.pairwise(inner))
        assert count >= 1 and (fits or count == most)
        assert count <= 2 * most


@pytest.mark.parametrize("num_threads", [1, 2, 4])
def test_a_convolution_and_its_pool_go_image_by_image(num_threads, threads):
    threads(num_threads)
    x, w = tensors((32, 1, 28, 28), (32, 1, 3, 3), seed=2)

    def f(x, w):
        return F.max_pool2d(F.conv2d(x, w, padding=1).relu(), 2)

    expected, found, program, _ = both(f, [x, w])
    assert_same_bits(expected, found)
    (chain,) = chains_of(program)
    assert [s.kind for s in chain][:2] == ["conv", "pool"]
    assert program.cost().arena_bytes < 32 * 28 * 28 * 32 * 4
