"""Long runs: memory stays what it is after ten thousand steps and hundreds of retraces (`pytest -m slow`)."""

from __future__ import annotations

import contextlib
import gc
import os
import sys
import threading
import warnings
import weakref

import numpy as np
import pytest

import twofold as tw
from twofold import nn
from twofold.backends.cpu import jit
from twofold.backends.cpu.program import Program
from twofold.compiler import compile as compile_module

needs_proc = pytest.mark.skipif(not os.path.exists("/proc/self/statm"), reason="reads memory from /proc")


def resident() -> int:
    """Bytes of memory that the process has."""
    gc.collect()
    with open("/proc/self/statm") as f:
        return int(f.read().split()[1]) * os.sysconf("SC_PAGE_SIZE")


def programs() -> int:
    gc.collect()
    return sum(isinstance(x, Program) for x in gc.get_objects())


def network():
    net = nn.Sequential(
        nn.Conv2d(1, 4, 3, padding=1), nn.BatchNorm2d(4), nn.ReLU(), nn.MaxPool2d(2), nn.Flatten(), nn.Dropout(0.2),
        nn.Linear(64, 10),
    )  # fmt: skip
    return net, tw.optim.AdamW(net.parameters(), lr=1e-3)


def training(net, optimizer):
    @tw.compile
    def step(x, y):
        optimizer.zero_grad()
        loss = nn.functional.cross_entropy(net(x), y)
        loss.backward()
        nn.utils.clip_grad_norm_(net.parameters(), 1.0)
        optimizer.step()
        return loss.detach()

    return step


@pytest.mark.filterwarnings("ignore:compiled .* was compiled 8 times")
def test_the_programs_used_last_are_kept(monkeypatch):
    monkeypatch.setattr(compile_module, "_KEPT", 2)
    monkeypatch.setattr(compile_module, "_SIGNATURES", 3)
    net = nn.Linear(2, 1)

    def fn(x, flag=0):
        return net(x) * (2 if net.training else 1) + net.mode

    f = tw.compile(fn)

    def call(size, mode, flag=None):
        net.mode = mode
        with tw.no_grad():
            expected = fn(tw.ones(size, 2)).numpy()
            np.testing.assert_allclose(f(*([tw.ones(size, 2)] + [flag] * (flag is not None))).numpy(), expected)
        return len(f.reasons)

    assert [call(1, mode) for mode in (1, 2, 1, 3, 1, 2)] == [1, 2, 2, 3, 3, 4], "3 came, so 2 went"
    assert [call(size, 1) for size in (2, 3, 1, 4, 1, 2)] == [5, 6, 6, 7, 7, 8], "size 2 went when 4 came"
    assert len(f.specializations) == 3 and max(map(len, f.specializations.values())) == 2
    assert [call(5, 1, flag) for flag in (1, 2, 1, 2)] == [9, 10, 10, 10]


@needs_proc
@pytest.mark.slow
def test_ten_thousand_steps():
    net, optimizer = network()
    step = training(net, optimizer)
    schedule = tw.optim.lr_scheduler.CosineAnnealingLR(optimizer, 10_000)
    x, y = tw.randn(8, 1, 8, 8), tw.randint(0, 10, (8,))
    losses = []
    before = objects = 0
    for i in range(10_500):
        loss = step(x, y)
        if i % 100 == 0:
            losses.append(loss.item())
            schedule.step()
        if i == 500:
            before, objects = resident(), len(gc.get_objects())
    assert resident() - before < 2 << 20
    assert len(gc.get_objects()) - objects < 500
    assert len(step.reasons) == 1 and losses[-1] < losses[0]


@needs_proc
@pytest.mark.slow
def test_ten_thousand_calls_with_gradients():
    """Two programs a call, with the tape between them; every tenth result is thrown away without backward."""
    net = nn.Sequential(nn.Linear(8, 16), nn.Tanh(), nn.Linear(16, 1))
    forward, x = tw.compile(net), tw.randn(5, 8)
    before = objects = 0
    for i in range(10_500):
        loss = forward(x).square().mean()
        if i % 10:
            loss.backward()
            net.zero_grad()
        if i == 500:
            before, objects = resident(), len(gc.get_objects())
    del loss
    assert resident() - before < 2 << 20
    assert len(gc.get_objects()) - objects < 500


@needs_proc
@pytest.mark.slow
def test_steps_from_several_threads():
    f = tw.compile(lambda x: (x @ x).tanh().sum())
    x = tw.randn(32, 32)
    f(x)

    def work(n):
        for _ in range(n):
            f(x)

    def all_at_once(n):
        threads = [threading.Thread(target=work, args=(n,)) for _ in range(4)]
        for t in threads:
            t.start()
        for t in threads:
            t.join()

    all_at_once(200)
    before = resident()
    all_at_once(2500)
    assert resident() - before < 2 << 20


@needs_proc
@pytest.mark.slow
def test_two_hundred_retraces():
    """Functions that are thrown away take their programs and code with them."""
    watched = []

    def once(i):
        net, optimizer = network()
        step = training(net, optimizer)
        step(tw.randn(4, 1, 8, 8), tw.randint(0, 10, (4,)))
        kernel = next(iter(step.specializations.values()))[0][1].program._code
        watched.append(weakref.ref(next(iter(kernel.values()))))

    for i in range(20):
        once(i)
    gc.collect()
    before, count, loaded = resident(), programs(), len(jit._loaded)
    for i in range(200):
        once(i)
    gc.collect()
    assert programs() <= count and len(jit._loaded) <= loaded
    assert not any(ref() is not None for ref in watched)
    assert resident() - before < 8 << 20


@needs_proc
@pytest.mark.slow
def test_two_hundred_retraces_of_one_function():
    """State that is replaced, another number at every call: what can't be used any more is not kept."""
    net, optimizer = network()
    step = training(net, optimizer)
    x, y = tw.randn(4, 1, 8, 8), tw.randint(0, 10, (4,))
    numbered = tw.compile(lambda x, i: (x * i).sum())
    before = count = 0
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", tw.TwofoldWarning)
        for i in range(400):
            optimizer.state.clear()
            step(x, y)
            numbered(x, float(i))
            if i == 299:
                before, count = resident(), programs()
    assert len(step.reasons) == 400 and len(numbered.reasons) == 400
    assert programs() <= count
    assert resident() - before < 8 << 20


@pytest.mark.slow
def test_an_error_in_every_second_call():
    """Tracebacks keep no programs or arrays alive."""
    f = tw.compile(lambda x, i: x[i].exp())
    x = tw.randn(1000, 8)
    f(x, tw.tensor([3]))
    gc.collect()
    count = sys.getrefcount(x)
    objects = 0
    for i in range(2000):
        with contextlib.suppress(tw.OutOfBoundsError):
            f(x, tw.tensor([2000 * (i % 2)]))
        if i == 100:
            gc.collect()
            objects = len(gc.get_objects())
    gc.collect()
    assert len(gc.get_objects()) - objects < 200
    assert sys.getrefcount(x) == count
