"""Groups that are alike are lowered once: with the results of those that are lowered one by one."""

from __future__ import annotations

import itertools

import numpy as np
import pytest

import twofold as tw
import twofold.nn.functional as F
from twofold import nn
from twofold.backends.cpu.alike import Alike
from twofold.backends.cpu.lowering import Lowering


@pytest.fixture
def lowered(monkeypatch):
    """The groups that are lowered, not copied from others that are like them."""
    groups, lower = [], Lowering.lower
    monkeypatch.setattr(Lowering, "lower", lambda self, group: (groups.append(group), lower(self, group))[1])
    return groups


def layers(n, norm=nn.LayerNorm):
    tw.manual_seed(0)
    return nn.Sequential(*(nn.Sequential(nn.Linear(24, 24), norm(24), nn.ReLU()) for _ in range(n)))


def step_of(model):
    optimizer = tw.optim.Adam(model.parameters(), lr=0.01)

    def step(x, y):
        optimizer.zero_grad()
        loss = F.mse_loss(model(x), y)
        loss.backward()
        optimizer.step()
        return loss

    return step


def conv_step():
    tw.manual_seed(0)
    make = lambda: nn.Sequential(nn.Conv2d(4, 4, 3, padding=1, bias=False), nn.BatchNorm2d(4), nn.ReLU())
    return step_of(nn.Sequential(make(), make(), make()))


def one_operand(x, y):
    return [(a * b).exp().sum(-1) for a, b in ((x, x), (x, y), (y, y), (y, x))]


def broadcast(x, y):
    rows = [x[:1], x[:, :1], y, x[0]]
    return [(y * r - r).sum(-1) for r in rows] + [(x * r + 1).sum(0) for r in rows]


def parts(x, y):
    return [(x[i : i + 4] * y[j : j + 4]).exp() for i, j in ((0, 0), (4, 4), (0, 4), (2, 1))]


def kept_on_the_way(x, y):
    a, b = (x * 2).exp(), (y * 2).exp()
    return (a * a).sum(-1), (b * b).sum(-1), b


def numbers(x, y):
    s, t = x.sum(), y.sum()
    return x * (s / t), y * (s / t), y * (t / s), x * s, x * t


FUNCTIONS = [one_operand, broadcast, parts, kept_on_the_way, numbers]
STEPS = [lambda: step_of(layers(3)), lambda: step_of(layers(3, nn.BatchNorm1d)), conv_step]


def run(make, shape):
    rng = np.random.default_rng(0)
    x, y = (tw.from_numpy(rng.normal(size=shape).astype(np.float32)) for _ in range(2))
    program = tw.compile(make())
    out = [program(x, y) for _ in range(2)]
    leaves = [t for o in out for t in (o if isinstance(o, (list, tuple)) else [o])]
    return [t.detach().numpy().tobytes() for t in leaves]


@pytest.mark.parametrize(
    ("make", "shape"),
    [(lambda f=f: f, (8, 24)) for f in FUNCTIONS] + [(m, (8, 24)) for m in STEPS[:2]] + [(conv_step, (2, 4, 6, 6))],
    ids=[f.__name__ for f in FUNCTIONS] + ["layer norm", "batch norm", "convolution"],
)
def test_the_results_are_those_of_groups_lowered_one_by_one(make, shape, monkeypatch):
    results = run(make, shape)
    monkeypatch.setattr(Alike, "lower", lambda self, group: self.lowering.lower(group))
    assert run(make, shape) == results


@pytest.mark.parametrize("make", [layers, lambda n: layers(n, nn.BatchNorm1d)], ids=["layer norm", "batch norm"])
def test_more_layers_are_no_more_code(make, lowered):
    counts = []
    x, y = tw.ones(8, 24), tw.ones(8, 24)
    for n in (4, 8):
        lowered.clear()
        program = tw.compile(step_of(make(n))).lower(x, y)
        counts.append((len(lowered), len(program.texts)))
    assert counts[0] == counts[1]


def test_other_operands_are_other_code(lowered):
    tw.compile(one_operand).lower(tw.ones(8, 24), tw.ones(8, 24))
    assert len(lowered) == 2  # one operand twice, and two operands


def test_packing_and_sums_of_layers_of_other_sizes_are_one_code():
    tw.manual_seed(0)
    sizes = (32, 64, 96, 128)
    convs = [nn.Sequential(nn.Conv2d(i, o, 3, 1, 1, bias=False), nn.ReLU()) for i, o in itertools.pairwise(sizes)]
    lines = [nn.Sequential(nn.Linear(i, o, bias=False), nn.ReLU()) for i, o in itertools.pairwise(sizes)]
    model = nn.Sequential(*convs, nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(128, 32), *lines)
    step = tw.compile(step_of(model))
    rng = np.random.default_rng(0)
    step(tw.tensor(rng.standard_normal((4, 32, 8, 8)).astype(np.float32)), tw.zeros(4, 128))
    ((_, spec),) = next(iter(step.specializations.values()))
    program = spec.program
    steps = [(s.kind, s.nodes[0].prim.name, program._kernels[s.symbol][0]) for s in program.steps if s.symbol]
    for kind, name in (("pack", "conv_last"), ("combine", "conv_last_weight_grad"), ("pack", "matmul")):
        found = [code for k, n, code in steps if (k, n) == (kind, name)]
        assert len(found) >= 3
        assert len(set(found)) == 1, (kind, name)
