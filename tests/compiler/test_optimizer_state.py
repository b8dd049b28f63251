"""Compiled steps go on with an optimizer's state as it is, whatever was done to it between two calls."""

from __future__ import annotations

import copy

import pytest
from twins import check

import twofold as tw
from twofold import nn


def training(optimizer_of):
    def make():
        net = nn.Linear(3, 2)
        optimizer = optimizer_of(net.parameters())

        def step(x):
            optimizer.zero_grad()
            loss = net(x).square().sum()
            loss.backward()
            optimizer.step()
            return loss.detach()

        def watched():
            return [*net.parameters(), [dict(optimizer.state[p]) for p in net.parameters()]]

        watched.net, watched.optimizer = net, optimizer
        return step, watched

    return make


CHANGES = {
    "clear": lambda state, p: state.clear(),
    "del": lambda state, p: state.__delitem__(p),
    "pop": lambda state, p: state.pop(p),
    "popitem": lambda state, p: state.popitem(),
    "a parameter's": lambda state, p: state[p].clear(),
    "a tensor": lambda state, p: state[p].__setitem__("step", tw.tensor(7.0)),
    "update": lambda state, p: state[p].update(step=tw.tensor(7.0)),
    "or": lambda state, p: state.__ior__({p: {k: v * 2 for k, v in state[p].items()}}),
}


@pytest.mark.parametrize("change", CHANGES)
def test_state_that_is_removed_or_replaced_between_calls(change):
    def before(i, watched):
        if i == 2:
            CHANGES[change](watched.optimizer.state, watched.net.weight)

    make = training(lambda params: tw.optim.Adam(params, lr=0.1))
    compiled = check(make, [(tw.ones(4, 3),)] * 5, before=before, programs=2, factor=20)
    assert "times its state was removed or replaced is 1, before 0" in compiled.explain()


def test_state_that_is_written_in_place_is_no_change():
    def before(i, watched):
        if i == 2:
            watched.optimizer.state[watched.net.weight]["exp_avg"].zero_()
            watched.optimizer.load_state_dict(copy.deepcopy(watched.optimizer.state_dict()))

    check(training(lambda params: tw.optim.Adam(params, lr=0.1)), [(tw.ones(4, 3),)] * 5, before=before, factor=20)


class Pytorchian(tw.optim.Optimizer):
    """Keeps numbers and freshly computed tensors in its state, as people do in PyTorch."""

    def __init__(self, params):
        super().__init__(params, {"lr": 0.1})

    @tw.no_grad()
    def step(self):
        for group in self.param_groups:
            for p in group["params"]:
                state = self.state[p]
                if not state:
                    state["step"] = 0
                    state["mean"] = tw.zeros_like(p)
                state["step"] += 1
                state["mean"] = state["mean"] * 0.9 + p.grad
                p.sub_(state["mean"] * (group["lr"] / state["step"]))


def test_what_a_program_does_not_do_runs_eagerly():
    make = training(Pytorchian)
    (eager, watched), (step, other) = make(), make()
    other.net.load_state_dict(watched.net.state_dict())
    compiled = tw.compile(step)
    x = tw.ones(4, 3)
    with pytest.warns(tw.TwofoldWarning, match="puts 'mean', which it computes, into the optimizer's state"):
        compiled(x)
    eager(x)
    for _ in range(2):
        assert compiled(x).item() == eager(x).item()
    assert other.optimizer.state[other.net.weight]["step"] == 3
    with pytest.raises(tw.TraceError, match="replaces 'step' in the optimizer's state"):
        tw.compile(step, fullgraph=True)(x)
    assert other.optimizer.state[other.net.weight]["step"] == 3


def test_a_trace_that_fails_leaves_no_state():
    net = nn.Linear(3, 2)
    optimizer = tw.optim.Adam(net.parameters())

    def step(x):
        net(x).sum().backward()
        optimizer.step()
        return x.sum().item()

    with pytest.raises(tw.TraceError, match="has no value yet"):
        tw.trace(step, tw.ones(1, 3))
    assert not optimizer.state


def test_copies_have_a_state_of_their_own():
    step, watched = training(lambda params: tw.optim.Adam(params))()
    step(tw.ones(4, 3))
    both = copy.deepcopy((watched.net, watched.optimizer))
    assert both[1].state.keys() == set(both[0].parameters())
    both[1].state.clear()
    assert len(watched.optimizer.state) == 2
