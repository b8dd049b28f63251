"""Waves of steps: what may run at the same time, and which buffers kernels write."""

from __future__ import annotations

import numpy as np
import pytest

import twofold as tw
from twofold.backends.cpu import team
from twofold.backends.cpu.effects import written_slots
from twofold.backends.cpu.emit import Module
from twofold.backends.cpu.kernels.access import base, store
from twofold.backends.cpu.kernels.tile import copy_bytes, kernel_function
from twofold.backends.cpu.layout import Buffer
from twofold.backends.cpu.schedule import waves
from twofold.backends.cpu.step import Step
from twofold.backends.cpu.target import host
from twofold.ir.dtypes import float32


def random_steps(seed):
    """Steps over a few buffers, with what each writes; the first buffer takes notes of errors."""
    rng = np.random.default_rng(seed)
    kinds = rng.choice(["temp", "input"], 12)
    buffers = [Buffer(str(k), float32, 1, i) for i, k in enumerate(kinds)]
    steps, writes = [], {}
    for i in range(40):
        used = [buffers[j] for j in rng.choice(np.arange(1, 12), 3, replace=False)]
        written = {used[0]}
        if rng.random() < 0.2:
            used.append(buffers[0])
            written.add(buffers[0])
        steps.append(Step("rows", [], int(rng.choice([1, 1, 8])), f"k{i}", tuple(used)))
        writes[f"k{i}"] = written
    return steps, writes, buffers[0]


@pytest.mark.parametrize("seed", range(20))
def test_steps_keep_their_order_where_they_share_what_one_writes(seed):
    steps, writes, notes = random_steps(seed)
    out = waves(steps, lambda s: writes[s.symbol], notes)
    place = {
        s.symbol: (w, t, i) for w, wave in enumerate(out) for t, task in enumerate(wave) for i, s in enumerate(task)
    }
    assert len(place) == len(steps)
    for wave in out:
        assert all(len(task) == 1 or all(s.chunks == 1 for s in task) for task in wave)
    for i, early in enumerate(steps):
        for late in steps[i + 1 :]:
            both = set(early.buffers) & set(late.buffers) & (writes[early.symbol] | writes[late.symbol]) - {notes}
            checked = notes in early.buffers and any(b.kind == "input" for b in writes[late.symbol] - {notes})
            a, b = place[early.symbol], place[late.symbol]
            if both:
                assert a[0] < b[0] or (a[:2] == b[:2] and a[2] < b[2]), (early.symbol, late.symbol)
            if checked:
                assert a[0] < b[0], (early.symbol, late.symbol)


def test_independent_chains_of_short_steps_are_tasks_of_one_wave():
    notes = Buffer("constant", float32, 1, 0)
    chains = [[Buffer("temp", float32, 1, 3 * i + j) for j in range(3)] for i in range(5)]
    steps = [
        Step("rows", [], 1, f"{i} {j}", (chain[j], chain[j + 1]))
        for i, chain in enumerate(chains)
        for j in range(2)
    ]
    (wave,) = waves(steps, lambda s: {s.buffers[1]}, notes)
    assert [[s.symbol for s in task] for task in wave] == [[f"{i} 0", f"{i} 1"] for i in range(5)]


def written(emit):
    """The buffers, of three, that a kernel writes: `emit(f, bases)` says what it does."""
    module = Module(host())
    f = kernel_function(module, "k")
    bases = [base(f, f.args[0], Buffer("temp", float32, 64, n)) for n in range(3)]
    emit(f, bases)
    f.ret()
    f.finish()
    ((body, _),) = module.bodies.items()
    numbers = next(iter(module.kernels.values()))[1]
    return {numbers[slot - 2] for slot in written_slots(body, module.shared, {})}


def test_written_buffers_are_read_off_the_code():
    vector = "<8 x float>"
    assert written(lambda f, b: f.store(f.load("float", b[0], 4), f.at(b[1], 8), 4)) == {1}
    assert written(lambda f, b: store(f, f.load(vector, b[2], 4), f.at(b[0], f.args[1]), float32, 8, 3)) == {0}
    assert written(lambda f, b: copy_bytes(f, b[2], b[1], 32)) == {2}

    def walk(f, b):
        def step(i, p):
            f.store(f.load("float", b[0], 4), p, 4)
            return [f.at(p, 4)]

        f.loop(0, f.args[1], step, [b[2]])

    assert written(walk) == {2}

    def choose(f, b):
        f.store(f.const(0.0, "float"), f.select(f.icmp("eq", f.args[1], 0), b[0], b[1]), 4)

    assert written(choose) == {0, 1}


def programs():
    rng = np.random.default_rng(0)
    floats = lambda *s: tw.from_numpy(rng.standard_normal(s).astype(np.float32))
    classes = lambda n, *s: tw.from_numpy(rng.integers(0, n, s))

    class Table(tw.nn.Module):
        def __init__(self):
            super().__init__()
            self.table, self.out = tw.nn.Embedding(20, 4), tw.nn.Linear(8, 3)

        def forward(self, x):
            return self.out(self.table(x).flatten(1))

    class Last(tw.nn.Module):
        def __init__(self):
            super().__init__()
            self.lstm, self.out = tw.nn.LSTM(4, 6, batch_first=True), tw.nn.Linear(6, 3)

        def forward(self, x):
            return self.out(self.lstm(x)[0][:, -1])

    pictures = tw.nn.Sequential(
        tw.nn.Conv2d(2, 4, 3, padding=1), tw.nn.BatchNorm2d(4), tw.nn.ReLU(), tw.nn.MaxPool2d(2), tw.nn.Flatten(),
        tw.nn.Dropout(0.2), tw.nn.Linear(16, 3),
    )  # fmt: skip
    cases = ((Table(), classes(20, 5, 2)), (Last(), floats(5, 3, 4)), (pictures, floats(5, 2, 4, 4)))
    for model, x in cases:
        optimizer = tw.optim.Adam(model.parameters())

        def step(x, y, model=model, optimizer=optimizer):
            optimizer.zero_grad()
            loss = tw.nn.functional.cross_entropy(model(x), y)
            loss.backward()
            optimizer.step()
            return loss

        run = tw.compile(step)
        run(x, classes(3, 5))
        yield next(s.program for v in run.specializations.values() for _, s in v)


def test_kernels_write_no_buffers_but_those_found():
    crew = team.Team(1)
    for program in programs():
        (part,) = program._parts
        known = [b for b in program.buffers if program._arrays[b.number - 2] is not None and b.kind == "temp"]
        memory = {b: program._arrays[b.number - 2] for b in known}
        for i, step in enumerate(part[5]):
            before = {b: a.tobytes() for b, a in memory.items()}
            crew.run(part[0] + i * team.PHASE_BYTES, 1, part[2], program._stop)
            places = [(b.offset, b.offset + b.nbytes) for b in program.writes[step.symbol] if b.kind == "temp"]
            for b, a in memory.items():
                if a.tobytes() != before[b]:  # temporaries may share memory
                    assert any(low < b.offset + b.nbytes and b.offset < high for low, high in places), str(step)
    crew.dismiss()


def test_few_waves_for_many_tables():
    tables = tw.nn.ModuleList([tw.nn.Embedding(10, 4) for _ in range(12)])
    optimizer = tw.optim.Adam(tables.parameters())

    def step(x):
        optimizer.zero_grad()
        loss = sum((t(x[:, i]) ** 2).sum() for i, t in enumerate(tables))
        loss.backward()
        optimizer.step()
        return loss

    run = tw.compile(step)
    x = tw.from_numpy(np.random.default_rng(0).integers(0, 10, (6, 12)))
    losses = [float(run(x).detach()) for _ in range(3)]
    assert losses[2] < losses[0]
    (program,) = [s.program for v in run.specializations.values() for _, s in v]
    assert len(program.waves) <= 20 < len(program.steps) / 2
    assert not any(s.kind == "copy" for s in program.steps)  # tables' gradients are cleared where they are filled
    for table, i in zip(tables, range(12), strict=True):
        seen = np.unique(x.numpy()[:, i])
        assert np.all(np.abs(table.weight.grad.numpy()[seen]) > 0)
        assert not np.any(np.delete(table.weight.grad.numpy(), seen, 0))
