"""Every layer traced into a graph: forward, backward and updates of state equal the eager ones."""

from __future__ import annotations

import warnings

import numpy as np
import pytest
from layer_cases import LAYERS
from nn_harness import Case, leaves, to_twofold

import twofold as tw
from twofold import nn


def _step(layer: nn.Module, case: Case) -> object:
    call = to_twofold(case.call, False)

    def step(*inputs: object) -> list[tw.Tensor]:
        layer.zero_grad()
        outs = leaves(layer(*inputs, **call))
        total = None
        for out in outs:
            if out.requires_grad:
                weighted = (out * out * 0.5 + out).sum()
                total = weighted if total is None else total + weighted
        if total is not None:
            total.backward()
        return outs

    return step


@pytest.mark.parametrize("case", LAYERS, ids=str)
def test_traced_equals_eager(case: Case) -> None:
    """Two steps each, so that state written by the first is read by the second."""
    results = []
    inputs = to_twofold(case.arrays(), False)
    for traced in (False, True):
        tw.manual_seed(11)
        layer = getattr(nn, case.name)(*to_twofold(case.args, False), **to_twofold(case.kwargs, False)).double()
        if case.kwargs.get("inplace") or case.args == (True,):
            inputs = [x.clone() for x in inputs]
        step = _step(layer, case)
        if traced:
            step = tw.trace(step, *[x.clone() if isinstance(x, tw.Tensor) else x for x in inputs])
            tw.manual_seed(11)
            getattr(nn, case.name)(*to_twofold(case.args, False), **to_twofold(case.kwargs, False))
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", UserWarning)
            outs = []
            for _ in range(2):
                copies = [x.clone() if isinstance(x, tw.Tensor) else x for x in inputs]
                outs += [o.detach().numpy().copy() for o in step(*copies)]
        grads = [p.grad.numpy() for p in layer.parameters() if p.grad is not None]
        results.append((outs, grads, [b.numpy() for b in layer.buffers()]))
    for mine, theirs in zip(*results, strict=True):
        assert len(mine) == len(theirs)
        for a, b in zip(mine, theirs, strict=True):
            np.testing.assert_allclose(a, b, rtol=1e-12, atol=1e-12)


def test_graph_nodes_carry_the_layers() -> None:
    class Net(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.blocks = nn.ModuleList([nn.Linear(3, 3), nn.Sequential(nn.Linear(3, 3), nn.ReLU())])

        def forward(self, x: tw.Tensor) -> tw.Tensor:
            for block in self.blocks:
                x = block(x)
            return nn.MSELoss()(x, x * 2)

    net = Net()

    def step(x: tw.Tensor) -> None:
        net(x).backward()

    graph = tw.trace(step, tw.zeros(1, 3)).graph
    paths = [".".join(name for name, _ in node.scope) for node in graph.nodes]
    forward = ["Net.blocks.0.linear", "Net.blocks.1.0.linear", "Net.blocks.1.1.relu", "Net", "Net.MSELoss.mse_loss"]
    assert [p for p in dict.fromkeys(paths) if p and not p.endswith("_backward")] == forward
    assert "Net.blocks.1.1.relu.relu_backward" in paths and "Net.blocks.0.linear.matmul_backward" in paths
    names = [v.name for v in graph.inputs]
    assert names == ["x", "blocks.0.weight", "blocks.0.bias", "blocks.1.0.weight", "blocks.1.0.bias"]


def test_losses_trace_without_looking_at_values() -> None:
    x, y = tw.randn(4, 3), tw.tensor([0, 2, 1, -100])
    for loss, target in (
        (nn.CrossEntropyLoss(weight=tw.tensor([1.0, 2.0, 3.0]), label_smoothing=0.1), y),
        (nn.BCELoss(), tw.full((4, 3), 0.5)),
        (nn.NLLLoss(), y),
    ):
        given = x.sigmoid() if isinstance(loss, nn.BCELoss) else x
        traced = tw.trace(loss, given, target)
        np.testing.assert_allclose(traced(given, target).numpy(), loss(given, target).numpy(), rtol=1e-6)


def test_clipping_and_hooks_trace() -> None:
    net = nn.Linear(3, 2)
    seen: list[int] = []
    net.register_full_backward_hook(lambda m, gi, go: seen.append(1))
    net.register_forward_hook(lambda m, a, y: y * 2)

    def step(x: tw.Tensor) -> tw.Tensor:
        net.zero_grad()
        net(x).pow(2).sum().backward()
        return nn.utils.clip_grad_norm_(net.parameters(), 0.1)

    x = tw.randn(4, 3)
    norm = step(x)
    grads = [p.grad.numpy().copy() for p in net.parameters()]
    traced = tw.trace(step, x)
    np.testing.assert_allclose(traced(x).numpy(), norm.numpy(), rtol=1e-6)
    for p, g in zip(net.parameters(), grads, strict=True):
        np.testing.assert_allclose(p.grad.numpy(), g, rtol=1e-5, atol=1e-8)
    assert len(seen) == 2
