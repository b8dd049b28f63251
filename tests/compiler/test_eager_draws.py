"""Native draws: the bits, and the advance of the state, are those of the operations."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

import twofold as tw
from twofold.autodiff.composite import Drawing
from twofold.backends.cpu import draws, jit
from twofold.primitives import random as words
from twofold.primitives.random import random_bits
from twofold.tensors import random as drawn

SIZES = (0, 1, 2, 3, 4, 5, 7, 16, 17, 63, 65, 1001, 2048, 2049, 4095, 4096, 4097, 10001, 30003)
STATES = ((5, 0), (2**63 + 7, 3), (1, 2**64 - 2), (2**64 - 1, 2**32 - 1))


@pytest.fixture
def operations(monkeypatch: pytest.MonkeyPatch) -> Any:
    """`operations(draw, state, ...)` draws without native kernels; gives the array and the state afterwards."""

    def run(draw: Any, state: tuple[int, int]) -> tuple[Any, list[int]]:
        g = tw.Generator()
        g.state._value[:] = state
        with monkeypatch.context() as m:
            m.setattr(Drawing, "draw", None)
            out = draw(g)
        return out.numpy(), g.state.tolist()

    return run


def natively(draw: Any, state: tuple[int, int]) -> tuple[Any, list[int]]:
    assert Drawing.draw is not None
    g = tw.Generator()
    g.state._value[:] = state
    return draw(g).numpy(), g.state.tolist()


def same(a: tuple[Any, Any], b: tuple[Any, Any]) -> bool:
    return (
        a[0].dtype == b[0].dtype and a[0].shape == b[0].shape and a[0].tobytes() == b[0].tobytes() and a[1] == b[1]
    )


@pytest.mark.parametrize("state", STATES)
@pytest.mark.parametrize("size", SIZES)
def test_bits(size: int, state: tuple[int, int]) -> None:
    at = np.array(state, np.uint64)
    got = random_bits(tw.from_numpy(at), shape=(size,)).numpy()
    assert got.tobytes() == words._random_bits(at, shape=(size,)).tobytes()
    assert at.tolist() == list(state)


DRAWS: dict[str, Any] = {
    "rand": lambda n: lambda g: tw.rand(n, generator=g),
    "randn": lambda n: lambda g: tw.randn(n, generator=g),
    "uniform_": lambda n: lambda g: tw.zeros(n).uniform_(-0.3, 1.7, generator=g),
    "normal_": lambda n: lambda g: tw.zeros(n).normal_(1, 0.1, generator=g),
    "normal": lambda n: lambda g: tw.normal(0.1, 3.0, (n,), generator=g),
    "randint": lambda n: lambda g: tw.randint(-7, 2**32 - 7, (n,), generator=g),
    "randint far": lambda n: lambda g: tw.randint(2**45, 2**45 + 3, (n,), generator=g),
    "randint uint8": lambda n: lambda g: tw.randint(0, 256, (n,), generator=g, dtype=tw.uint8),
    "random_": lambda n: lambda g: tw.zeros(n, dtype=tw.int32).random_(2, 9, generator=g),
}


@pytest.mark.parametrize("name", DRAWS)
def test_numbers(name: str, operations: Any) -> None:
    for size in SIZES:
        for state in STATES:
            draw = DRAWS[name](size)
            assert same(natively(draw, state), operations(draw, state)), (size, state)


def test_shapes_and_dtypes(operations: Any) -> None:
    for draw in (
        lambda g: tw.rand(2, 3, 5, generator=g),
        lambda g: tw.randn((), generator=g),
        lambda g: tw.rand(7, generator=g, dtype=tw.float64),
        lambda g: tw.randn(7, generator=g, dtype=tw.float16),
        lambda g: tw.zeros(4, 6).t().normal_(generator=g),
        lambda g: tw.zeros(9)[1:8:2].uniform_(generator=g),
        lambda g: tw.randperm(300, generator=g),
    ):
        assert same(natively(draw, (3, 9)), operations(draw, (3, 9)))


def test_a_filled_tensor_counts_the_change() -> None:
    x = tw.ones(3, requires_grad=True)
    y = x * 1.0
    z = y * y
    with tw.no_grad():
        y.normal_()
    with pytest.raises(tw.errors.AutogradError, match="changed in place"):
        z.sum().backward()


def test_errors() -> None:
    with pytest.raises(tw.errors.ShapeError, match="negative"):
        tw.rand(-1)
    with pytest.raises(tw.errors.TwofoldError, match="is empty"):
        tw.zeros(2).uniform_(1.0, 0.0)
    with pytest.raises(tw.errors.DTypeError, match="do not fit"):
        tw.randint(0, 257, (2,), dtype=tw.uint8)
    with pytest.raises(tw.errors.AutogradError):
        tw.ones(2, requires_grad=True).normal_()


def test_threads_change_nothing() -> None:
    n, bits = 3 * draws.LITTLE + 5, []
    threads = tw.get_num_threads()
    try:
        for count in (1, 2):
            tw.set_num_threads(count)
            bits.append(tw.randn(n, generator=tw.Generator().manual_seed(4)).numpy().tobytes())
    finally:
        tw.set_num_threads(threads)
    assert bits[0] == bits[1]


def test_new_sizes_compile_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    tw.rand(3), tw.randn(3), tw.randint(0, 3, (3,))

    def refuse(*_: Any) -> Any:
        raise AssertionError("something was compiled")

    monkeypatch.setattr(jit, "compile_text", refuse)
    monkeypatch.setattr(draws._open, "compile_text", refuse)
    for n in (11, 999, 20011):
        tw.rand(n), tw.randn(n), tw.randint(0, 3, (n,)), drawn.draw_bits((n,))
