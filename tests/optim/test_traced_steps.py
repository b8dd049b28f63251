"""A traced and a compiled training step give the bits of the eager one, with schedules and without retraces."""

import copy

import numpy as np
import pytest
from optim_harness import START, X, Y, loss_of, train, tw_params
from test_optimizers import CASES

import twofold as tw


def run(name, options, how=None):
    params = tw_params()
    optimizer = getattr(tw.optim, name)(params, **options)
    x, y = tw.tensor(X), tw.tensor(Y)

    def step(x, y):
        optimizer.zero_grad()
        loss = loss_of(tw, params, x, y)
        loss.backward()
        optimizer.step()
        return loss

    call = step if how is None else tw.compile(step) if how == "compiled" else tw.trace(step, x, y)
    losses = []
    for i in range(8):
        optimizer.param_groups[0]["lr"] = options.get("lr", 1.0) / (1 + i)
        losses.append(call(x, y).item())
    if how == "traced":
        assert call.guard.holds()
    return losses, [p.detach().numpy() for p in params], optimizer.state_dict()["state"]


@pytest.mark.parametrize("how", ["traced", "compiled"])
@pytest.mark.parametrize(("name", "options"), CASES, ids=lambda v: str(v))
def test_steps_equal_eager_ones(name, options, how):
    losses, params, state = run(name, options)
    other_losses, other_params, other_state = run(name, options, how)
    assert all((p != q).any() for p, q in zip(params, START, strict=True))
    assert state.keys() == other_state.keys()
    pairs = [(losses, other_losses), *zip(params, other_params, strict=True)]
    pairs += [(t.numpy(), other_state[i][key].numpy()) for i, slots in state.items() for key, t in slots.items()]
    for a, b in pairs:
        np.testing.assert_array_equal(a, b)


def test_structure_breaks_the_guard_and_numbers_do_not():
    params = tw_params()
    optimizer = tw.optim.SGD(params, lr=0.1, momentum=0.9)
    x, y = tw.tensor(X), tw.tensor(Y)

    def step(x, y):
        optimizer.zero_grad()
        loss_of(tw, params, x, y).backward()
        optimizer.step()

    traced = tw.trace(step, x, y)
    optimizer.param_groups[0]["momentum"] = 0.5
    assert traced.guard.holds()
    optimizer.param_groups[0]["nesterov"] = True
    assert not traced.guard.holds()
    assert "nesterov" in traced.guard.difference()


def test_model_and_optimizer_are_copied_together():
    params = tw_params()
    optimizer = tw.optim.Adam(params, lr=0.01)
    train(tw, params, optimizer, 3)
    params2, optimizer2 = copy.deepcopy((params, optimizer))
    train(tw, params, optimizer, 3)
    assert all((p.detach().numpy() != q.detach().numpy()).any() for p, q in zip(params, params2, strict=True))
    train(tw, params2, optimizer2, 3)
    for p, q in zip(params, params2, strict=True):
        np.testing.assert_array_equal(p.detach().numpy(), q.detach().numpy())
