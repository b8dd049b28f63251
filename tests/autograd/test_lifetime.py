"""Graphs die with the last reference to them: nothing waits for Python's cycle collector."""

from __future__ import annotations

import gc
import weakref

import pytest

import twofold as tw


class _SavesInput(tw.autograd.Function):
    @staticmethod
    def forward(ctx, x):
        ctx.save_for_backward(x)
        return x * x

    @staticmethod
    def backward(ctx, g):
        (x,) = ctx.saved_tensors
        return 2 * x * g


class _SavesOutput(tw.autograd.Function):
    @staticmethod
    def forward(ctx, x):
        y = x.exp()
        ctx.save_for_backward(y)
        return y

    @staticmethod
    def backward(ctx, g):
        (y,) = ctx.saved_tensors
        return y * g


def _retained(x):
    h = x * 1
    h.retain_grad()
    return h.sum()


def _hooked(x):
    h = x * 1
    h.register_hook(lambda g: g * 2)
    return h.sum()


def _views(x):
    h = tw.zeros(4, 2)
    h[:3] = x[:, None]
    h.view(2, 4).mul_(2)
    return h.sum()


def _reshaped(x):
    h = x * 1
    v = h[1:]
    h.unsqueeze_(0)
    v.mul_(2)
    return h.sum()


PROGRAMS = {
    "function that saves its input": lambda x: _SavesInput.apply(x).sum(),
    "function that saves its output": lambda x: _SavesOutput.apply(x).sum(),
    "retain_grad": _retained,
    "hook": _hooked,
    "views and writes": _views,
    "shape changed in place": _reshaped,
    "in-place function": lambda x: (x * 1).exp_().sum(),
}


@pytest.fixture
def no_collector():
    gc.collect()
    gc.disable()
    yield
    gc.enable()


@pytest.mark.parametrize("backward", [False, True])
@pytest.mark.parametrize("program", PROGRAMS.values(), ids=PROGRAMS)
def test_a_graph_dies_with_its_result(program, backward, no_collector):
    program(tw.ones(3, requires_grad=True)).backward()  # what loads the kernels may leave cycles
    gc.collect()
    x = tw.ones(3, requires_grad=True)
    loss = program(x)
    if backward:
        loss.backward()
    node = weakref.ref(loss.grad_fn)
    del loss
    assert node() is None
    del x
    assert gc.collect() == 0


def test_a_training_loop_leaves_nothing_to_collect(no_collector):
    model = tw.nn.Sequential(tw.nn.Linear(3, 4), tw.nn.BatchNorm1d(4), tw.nn.ReLU(), tw.nn.Linear(4, 1))
    optimizer = tw.optim.Adam(model.parameters())
    for i in range(6):
        optimizer.zero_grad()
        model(tw.ones(2, 3)).square().sum().backward()
        tw.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        optimizer.step()
        if i == 0:  # what loads the kernels may leave cycles
            gc.collect()
    assert gc.collect() == 0
