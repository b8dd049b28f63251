"""Programs of eager code have memory for temporaries during calls only."""

import tracemalloc

import numpy as np
import pytest

import twofold as tw
from twofold.backends.cpu.program import Program
from twofold.compiler.pipeline import optimize
from twofold.compiler.single import program_of
from twofold.ir.graph import Graph
from twofold.ir.primitive import PRIMITIVES
from twofold.ir.types import TensorType

X = np.random.default_rng(0).standard_normal((8, 16, 20, 20)).astype(np.float32)
W = np.random.default_rng(1).standard_normal((32, 16, 5, 5)).astype(np.float32)
PARAMS = {"stride": (1, 1), "padding": ((2, 2), (2, 2)), "dilation": (1, 1), "groups": 1}


def convolution():
    return program_of(PRIMITIVES["conv"], [TensorType(a.shape, tw.float32) for a in (X, W)], PARAMS)


def test_it_is_there_in_a_call_and_gone_afterwards():
    own, borrowing = convolution(), convolution()
    borrowing.borrow()
    assert own.held_bytes >= own.arena_bytes > 100_000
    assert borrowing.held_bytes < 1000
    (want,) = own([X, W])
    tracemalloc.start()
    others = []  # so that the memory is elsewhere in each call
    for k in range(4):
        (got,) = borrowing([X, W])
        np.testing.assert_array_equal(got, want)
        borrowing.forget(results=True)
        del got
        others.append(np.ones(borrowing.arena_bytes // 4 + k, np.float32))
    held = tracemalloc.get_traced_memory()[0] - sum(a.nbytes for a in others)
    tracemalloc.stop()
    assert held < borrowing.arena_bytes // 2


def test_what_python_reads_stays():
    graph = Graph("late")
    x = graph.add_input(TensorType((100,), tw.float32))
    y = graph.add(PRIMITIVES["exp"], [x], {})[0]
    graph.set_outputs([y, y])  # the second is copied out of the memory of the first
    program = Program(optimize(graph))
    program.borrow()
    a = np.linspace(-1, 1, 100).astype(np.float32)
    for _ in range(2):
        first, second = program([a])
        np.testing.assert_allclose(first, np.exp(a), rtol=1e-6)
        np.testing.assert_array_equal(first, second)


def test_chains_of_steps():
    """Attention, whose scores lie in the memory of workers."""

    def attention(q, k, v):
        return tw.softmax(q @ k.mT, -1) @ v

    q, k, v = (tw.randn(4, 8, 128, 32) for _ in range(3))
    compiled = tw.compile(attention)
    want = compiled(q, k, v).numpy().copy()
    graph = compiled.lower(q, k, v).graph
    program = Program(graph)
    program.borrow()
    np.testing.assert_array_equal(program([t.numpy() for t in (q, k, v)])[0], want)


@pytest.mark.parametrize("borrows", [False, True])
def test_more_threads_than_when_it_was_made(borrows):
    before = tw.get_num_threads()
    try:
        tw.set_num_threads(1)
        program = convolution()
        if borrows:
            program.borrow()
        want = program([X, W])[0].copy()
        for count in (3, 2, 5):
            tw.set_num_threads(count)
            np.testing.assert_array_equal(program([X, W])[0], want)
    finally:
        tw.set_num_threads(before)
