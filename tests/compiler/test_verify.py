"""Fusing operations changes no bit: every layer, forward and backward, as one program and one by one."""

import numpy as np
import pytest
from layer_cases import LAYERS
from nn_harness import leaves, to_twofold
from test_fallbacks import traced

import twofold as tw
import twofold.nn.functional as F
from twofold import nn
from twofold.compiler.verify import verify_graph


def arrays(graph, case):
    """Arrays for the inputs of a graph: small positive numbers, and the case's own indices."""
    rng = np.random.default_rng(0)
    indices = [x.numpy() for x in leaves(to_twofold(case.arrays(), False)) if not x.dtype.is_floating_point]
    out = []
    for value in graph.inputs:
        if value.dtype.is_floating_point:
            out.append(rng.uniform(0.1, 1, value.shape).astype(value.dtype.numpy))
        elif indices and indices[0].shape == value.shape:
            out.append(indices.pop(0).astype(value.dtype.numpy))
        else:
            out.append(np.zeros(value.shape, value.dtype.numpy))
    return out


@pytest.mark.parametrize("kind", sorted({case.name for case in LAYERS}))
def test_layers(kind):
    for case in (case for case in LAYERS if case.name == kind):
        graph = traced(getattr(nn, kind), case, tw.float32)
        found = verify_graph(graph, arrays(graph, case))
        assert found, f"{case}: {found}"


def perceptron():
    return nn.Sequential(nn.Linear(20, 33), nn.LayerNorm(33), nn.GELU(), nn.Dropout(0.3), nn.Linear(33, 5))


def convolutional():
    first = [nn.Conv2d(1, 17, 3, padding=1), nn.BatchNorm2d(17), nn.ReLU(), nn.MaxPool2d(2)]
    second = [nn.Conv2d(17, 19, 3, stride=2), nn.GroupNorm(1, 19), nn.AdaptiveAvgPool2d(1), nn.Flatten()]
    return nn.Sequential(nn.Unflatten(1, (1, 20, 20)), *first, *second, nn.Linear(19, 5))


@pytest.mark.parametrize(("make", "shape"), [(perceptron, (17, 20)), (convolutional, (20, 400))])
def test_whole_training_steps(make, shape):
    tw.manual_seed(0)
    model = make()
    optimizer = tw.optim.AdamW(model.parameters())
    x, y = tw.randn(shape), tw.randint(0, 5, shape[:1])

    def step(x, y):
        optimizer.zero_grad()
        loss = F.cross_entropy(model(x), y)
        loss.backward()
        optimizer.step()
        return loss

    step(x, y)
    before = model[-1].weight.detach().clone()
    found = tw.debug.verify(step, x, y)
    assert found, str(found)
    assert found.num_operations > 50 and "equal bit for bit" in str(found)
    assert model[-1].weight.equal(before), "state was to stay as it is"


def test_a_difference_is_found_and_named(monkeypatch):
    from twofold.compiler import verify

    alone = verify._Alone.run

    def wrong(self, node, inputs):
        return [x + (node.prim.name == "log") for x in alone(self, node, inputs)]

    monkeypatch.setattr(verify._Alone, "run", wrong)
    found = tw.debug.verify(lambda x: (x.exp() + 1).log().sum(), tw.ones(3))
    assert not found and found.different == [0]
    assert "log(float32[3])" in str(found) and "test_verify.py" in str(found)
