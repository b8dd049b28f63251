"""Programs for other numbers of items share their code, and compute what they would compute alone."""

import copy
import pickle
import random

import numpy as np
import pytest

import twofold as tw
from twofold import nn
from twofold.backends.cpu import items
from twofold.backends.cpu.items import Batch
from twofold.backends.cpu.kernels.cut import Cut, tile_rows
from twofold.backends.cpu.program import Program
from twofold.backends.cpu.sizes import Size, divides, least, most, planned
from twofold.compiler.pipeline import optimize
from twofold.ir.dtypes import float32
from twofold.ir.graph import Graph
from twofold.ir.primitive import PRIMITIVES
from twofold.ir.types import TensorType


class Attention(nn.Module):
    def __init__(self):
        super().__init__()
        self.layer = nn.TransformerEncoderLayer(16, 2, 24, dropout=0.0, batch_first=True)
        self.out = nn.Linear(16, 5)

    def forward(self, x):
        return self.out(self.layer(x).mean(dim=1))


class Recurrent(nn.Module):
    def __init__(self):
        super().__init__()
        self.layer, self.out = nn.LSTM(7, 20, batch_first=True), nn.Linear(20, 5)

    def forward(self, x):
        return self.out(self.layer(x)[0][:, -1])


MODELS = {
    "mlp": (lambda: nn.Sequential(nn.Linear(30, 70), nn.ReLU(), nn.Linear(70, 5)), (30,)),
    "cnn": (
        lambda: nn.Sequential(
            *(nn.Conv2d(1, 20, 3, padding=1), nn.BatchNorm2d(20), nn.ReLU(), nn.MaxPool2d(2)),
            *(nn.Conv2d(20, 24, 3, padding=1), nn.ReLU(), nn.Conv2d(24, 8, 3, stride=2)),
            *(nn.Flatten(), nn.Linear(32, 5)),
        ),
        (1, 10, 10),
    ),
    "transformer": (Attention, (9, 16)),
    "lstm": (Recurrent, (6, 7)),
}


def make_step(name):
    tw.manual_seed(0)
    model = MODELS[name][0]()
    optimizer = tw.optim.Adam(model.parameters(), lr=0.01)

    def step(x, y):
        optimizer.zero_grad()
        loss = nn.functional.cross_entropy(model(x), y)
        loss.backward()
        optimizer.step()
        return loss

    return model, tw.compile(step)


def data(name, count):
    rng = np.random.default_rng(count)
    x = rng.standard_normal((count, *MODELS[name][1])).astype(np.float32)
    return tw.from_numpy(x), tw.from_numpy(rng.integers(0, 5, count))


def programs(compiled):
    return [entry[1].program for known in compiled.specializations.values() for entry in known]


@pytest.mark.parametrize("name", MODELS)
def test_a_smaller_batch_compiles_nothing_and_computes_the_same(name, monkeypatch):
    counts = (64, 63, 17, 64, 2)
    model, step = make_step(name)
    losses = [step(*data(name, n)).detach().numpy().copy() for n in counts]
    full, smaller, small, _ = programs(step)
    known = set(full.texts.values())
    assert set(smaller.texts.values()) <= known
    assert set(small.texts.values()) <= known
    assert any(numbers for _, _, numbers in full._kernels.values())

    monkeypatch.setattr(Batch, "of", classmethod(lambda cls, types, largest=0: cls()))
    other, alone = make_step(name)
    for n, loss in zip(counts, losses, strict=True):
        assert alone(*data(name, n)).detach().numpy().tobytes() == loss.tobytes()
    assert not set(programs(alone)[1].texts.values()) <= known
    for got, expected in zip(model.state_dict().values(), other.state_dict().values(), strict=True):
        assert got.numpy().tobytes() == expected.numpy().tobytes()


def test_gradients_of_compiled_functions_share_code():
    tw.manual_seed(0)
    model = nn.Sequential(nn.Linear(30, 70), nn.Tanh(), nn.Linear(70, 5))
    forward = tw.compile(lambda x: model(x))
    seen = []
    for n in (40, 39, 17):
        x, _ = data("mlp", n)
        forward(x).sum().backward()
        entry = next(reversed(forward.specializations.values()))[-1][1]
        seen.append({*entry.program.texts.values(), *entry.backward.program.texts.values()})
    assert seen[1] <= seen[0]
    assert seen[2] <= seen[0]


def test_a_lone_convolution_compiles_nothing_for_another_number_of_items():
    texts = []
    for n in (32, 31, 9):
        types = [TensorType((n, 3, 12, 12), float32), TensorType((8, 3, 3, 3), float32)]
        params = {"stride": (1, 1), "padding": ((1, 1), (1, 1)), "dilation": (1, 1), "groups": 1}
        graph = Graph("convolution")
        graph.set_outputs(graph.add(PRIMITIVES["conv"], [graph.add_input(t) for t in types], params))
        texts.append(set(Program(optimize(graph), batch=Batch.of(types, 32)).texts.values()))
    assert texts[1] <= texts[0]
    assert texts[2] <= texts[0]


def test_code_that_asks_for_values_shares_its_programs_code():
    tw.manual_seed(0)
    model = nn.Sequential(nn.Linear(30, 70), nn.ReLU(), nn.Linear(70, 5))

    @tw.compile
    def scores(x):
        out = model(x)
        if out.sum() > 1e6:
            return out
        return out.softmax(-1) * 2

    texts = []
    for n in (40, 39):
        x, _ = data("mlp", n)
        with tw.no_grad():
            got, expected = scores(x), model(x).softmax(-1) * 2
        np.testing.assert_allclose(got.numpy(), expected.numpy(), rtol=1e-5)
        tree = next(reversed(scores.specializations.values()))[-1][1]
        (segment,) = tree.start.ways
        (leaf,) = segment.points[False].ways
        texts.append({*segment.program.texts.values(), *leaf.spec.program.texts.values()})
    assert texts[1] <= texts[0]


def test_shapes_that_come_out_are_plain():
    shapes = []

    @tw.compile
    def double(x):
        shapes.append(x.shape)
        return x * 2

    out = double(tw.ones(5, 3))
    for shape in (out.shape, *shapes):
        assert [n.__class__ for n in shape] == [int, int]
    (program,) = programs(double)
    assert all(n.__class__ is int for v in program.graph.inputs for n in v.shape)


def test_sizes_behave_as_their_values():
    rng = random.Random(0)
    operations = {
        "+": lambda x, k, n: x + k,
        "-": lambda x, k, n: x - k,
        "r-": lambda x, k, n: k - x,
        "*": lambda x, k, n: k * x,
        "//": lambda x, k, n: x // k,
        "%": lambda x, k, n: x % k,
        "ceil": lambda x, k, n: -(-x // k),
        "min": lambda x, k, n: least(x, k),
        "max": lambda x, k, n: most(k, x),
        "n+": lambda x, k, n: x + n,
        "n-": lambda x, k, n: x - n,
        "n*": lambda x, k, n: n * x,
        "n//": lambda x, k, n: x // n,
        "n%": lambda x, k, n: x % n,
        "r//": lambda x, k, n: k * 7 // x if x > 0 else x,
    }
    for _ in range(2000):
        n, hoped = rng.randint(2, 200), rng.randint(2, 200)
        size = x = Size.items(n, hoped)
        here, there = n, hoped
        for _ in range(rng.randint(1, 6)):
            name, k = rng.choice(list(operations)), rng.randint(1, 40)
            if name == "r//" and min(here, there) <= 0:
                continue
            operation = operations[name]
            x, here, there = operation(x, k, size), operation(here, k, n), operation(there, k, hoped)
            assert x == here
            assert planned(x) == there
    x = Size.items(64)
    assert (repr(x), f"{x}", hash(x)) == ("64", "64", hash(64))
    assert pickle.loads(pickle.dumps(x)).__class__ is copy.deepcopy(x).__class__ is int
    assert divides(4, x * 12)
    assert not divides(4, x)
    assert (x * 12 // 12).key == x.key
    assert (x - x).__class__ is int


class Numbers:
    """What a `Cut` needs of a function, on numbers."""

    mul, add, sub = (staticmethod(f) for f in (lambda a, b: a * b, lambda a, b: a + b, lambda a, b: a - b))
    min = staticmethod(min)

    def icmp(self, op, a, b):
        return a < b if op == "slt" else a >= b

    def when(self, condition, body):
        if condition:
            body()


@pytest.mark.parametrize("may_overlap", [False, True])
@pytest.mark.parametrize("hoped", [None, 2, 13, 14, 65, 112, 200])
def test_tiles_cover_all_rows(hoped, may_overlap):
    f = Numbers()
    for rows in range(1, 120):
        cut = Cut(rows if hoped is None else Size.items(rows, hoped), 14, may_overlap)
        seen = []
        for t in range(cut.count):
            cut.each(f, t, lambda height, first: seen.extend(range(first, first + height)))
            first, count = cut.span(f, t, t + 1)
            assert first == cut.first(f, t)
            assert 0 < count <= cut.height
        assert set(seen) == set(range(rows))
        if not may_overlap or hoped in (None, rows):
            assert sorted(seen) == list(range(rows))
            assert cut.count == len(tile_rows(rows, 14)) or hoped not in (None, rows)


def test_reshapes_carry_the_number_of_items():
    n = Size.items(6)
    for shape, out, expected in (
        ((n, 4, 5), (6, 20), (n, 20)),
        ((n, 4, 5), (24, 5), (n * 4, 5)),
        ((n * 4, 5), (6, 2, 2, 5), (n, 2, 2, 5)),
        ((n * 12, 5), (12, 6, 5), (12, n, 5)),
        ((4, n, 5), (4, 30), (4, n * 5)),
        ((1, n), (6, 1, 1), (n, 1, 1)),
        ((6, 4), (4, 6), (4, 6)),
    ):
        got = items._reshaped(shape, out)
        assert got == out
        assert [getattr(k, "key", k) for k in got] == [getattr(k, "key", k) for k in expected]
