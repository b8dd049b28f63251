"""Recurrent layers beyond one comparison of values: second derivatives, what a state does, long sequences."""

from __future__ import annotations

import numpy as np
import pytest
import torch

import twofold as tw

LAYERS = {
    "RNN": lambda lib: lib.nn.RNN(3, 4, batch_first=True),
    "LSTM": lambda lib: lib.nn.LSTM(3, 4, bidirectional=True),
    "GRU": lambda lib: lib.nn.GRU(3, 4, num_layers=2),
}


def twins(name):
    """The same layer twice, in float64."""
    theirs = LAYERS[name](torch).double()
    ours = LAYERS[name](tw).to(tw.float64)
    ours.load_state_dict({k: tw.from_numpy(v.numpy().copy()) for k, v in theirs.state_dict().items()})
    return ours, theirs


@pytest.mark.parametrize("name", LAYERS)
def test_a_penalty_on_the_gradient_is_pytorchs(name):
    """The gradient of the square of a gradient goes through the derivative's own derivative."""
    ours, theirs = twins(name)
    x = np.random.default_rng(0).standard_normal((5, 2, 3))
    found = []
    for lib, model, data in ((tw, ours, tw.from_numpy(x.copy())), (torch, theirs, torch.from_numpy(x.copy()))):
        data.requires_grad_()
        y = model(data)[0]
        (g,) = lib.autograd.grad((y * y).sum(), data, create_graph=True)
        (g * g).sum().backward()
        found.append([data.grad, *[p.grad for p in model.parameters()]])
    for a, b in zip(*found, strict=True):
        np.testing.assert_allclose(a.numpy(), b.numpy(), rtol=1e-8, atol=1e-10)


@pytest.mark.parametrize("name", LAYERS)
def test_gradients_through_the_last_state_only(name):
    ours, theirs = twins(name)
    x = np.random.default_rng(1).standard_normal((4, 2, 3))
    found = []
    for model, data in ((ours, tw.from_numpy(x.copy())), (theirs, torch.from_numpy(x.copy()))):
        data.requires_grad_()
        state = model(data)[1]
        (state[1] if name == "LSTM" else state)[-1].sum().backward()
        found.append([data.grad, *[p.grad for p in model.parameters()]])
    for a, b in zip(*found, strict=True):
        b = torch.zeros(a.shape) if b is None else b
        np.testing.assert_allclose(a.numpy() if a is not None else 0, b.numpy(), rtol=1e-8, atol=1e-12)


@pytest.mark.parametrize("name", LAYERS)
def test_a_sequence_in_two_parts_is_the_whole(name):
    """The last state of the first part begins the second, where the layer goes one way."""
    ours, _ = twins(name)
    if ours.bidirectional:
        ours = tw.nn.LSTM(3, 4, dtype=tw.float64)
    x = tw.from_numpy(np.random.default_rng(2).standard_normal((6, 6, 3)))
    dim = 1 if ours.batch_first else 0
    whole, end = ours(x)
    first, state = ours(x.narrow(dim, 0, 2))
    second, end2 = ours(x.narrow(dim, 2, 4), state)
    np.testing.assert_allclose(tw.cat([first, second], dim).detach().numpy(), whole.detach().numpy(), rtol=1e-12)
    for a, b in zip(end if name == "LSTM" else [end], end2 if name == "LSTM" else [end2], strict=True):
        np.testing.assert_allclose(b.detach().numpy(), a.detach().numpy(), rtol=1e-12)


def test_an_output_changed_in_place_is_named():
    layer = tw.nn.LSTM(3, 4)
    y, _ = layer(tw.ones(5, 2, 3))
    y += 1
    with pytest.raises(RuntimeError, match=r"lstm.*changed in place"):
        y.sum().backward()


def test_a_step_is_one_node_of_the_tape():
    """Not one for every time: what eager execution costs does not grow with Python."""
    y, _ = tw.nn.GRU(3, 4)(tw.ones(50, 2, 3))
    seen, stack = set(), [y._node]
    while stack:
        node = stack.pop()
        if hasattr(node, "next_nodes") and node not in seen:
            seen.add(node)
            stack += node.next_nodes()
    assert len(seen) < 10
