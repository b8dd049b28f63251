"""tw.profile: what it counts, what its table says, and the trace that it writes."""

from __future__ import annotations

import json
import threading

import numpy as np
import pytest

import twofold as tw
from twofold import nn
from twofold.backends.cpu.kernels.table import LOWERINGS


def training():
    tw.manual_seed(0)
    net = nn.Sequential(nn.Linear(4, 8), nn.ReLU(), nn.Linear(8, 2))
    optimizer = tw.optim.SGD(net.parameters(), lr=0.1)

    @tw.compile
    def step(x):
        optimizer.zero_grad()
        loss = net(x).square().mean()
        loss.backward()
        optimizer.step()
        return loss.detach()

    return net, step


def test_kernels_are_counted_with_layer_and_line():
    _, step = training()
    x = tw.randn(16, 4)
    step(x)
    with tw.profile() as p:
        for _ in range(5):
            step(x)
    program = step.lower(x)
    assert [row.count for row in p.rows()] == [5] * len(program.steps)
    assert sum(row.flops for row in p.rows()) == 5 * program.cost().flops
    assert len(p.events) == 5 * len(program.steps)
    assert all(event.start_ns <= event.end_ns for event in p.events)
    total = sum(row.total_s for row in p.rows())
    assert 0 < total < p.wall_s
    layers = {row.name: row for row in p.rows("layer")}
    assert {"Sequential.0.linear", "Sequential.2.linear", "Sequential.2.linear (backward)"} <= layers.keys()
    assert layers["Sequential.0.linear"].flops == 5 * 2 * 16 * 4 * 8
    lines = {row.name.rpartition(": ")[2]: row for row in p.rows("line")}
    assert "loss = net(x).square().mean()" in lines
    assert sum(row.count for row in lines.values()) == len(p.events)
    text = p.table()
    assert "test_profile.py:" in text and "Sequential.0.linear (16, 8)" in text and "GFLOP/s" in text
    assert f"{1e3 * p.wall_s:.3f} ms in all: kernels" in text


def test_results_are_the_same_and_nothing_stays():
    results = []
    for profiled in (False, True):
        net, step = training()
        x = tw.ones(16, 4)
        if profiled:
            with tw.profile() as p:
                losses = [step(x).item() for _ in range(4)]
            count = len(p.events)
            step(x)
            x + 1
            assert len(p.events) == count, "after the block nothing is counted"
        else:
            losses = [step(x).item() for _ in range(4)]
            step(x)
        results.append((losses, [q.numpy(force=True).tobytes() for q in net.parameters()]))
    assert results[0] == results[1]


def test_tracing_and_compiling_are_shown():
    _, step = training()
    with tw.profile() as p:
        step(tw.ones(3, 4))
    rows = {row.name: row for row in p.rows()}
    assert rows["trace step"].count == rows["compile step"].count == 1
    for by in ("line", "layer", "operation"):
        assert {"trace step", "compile step"} <= {row.name for row in p.rows(by)}
    assert "tracing" in str(p) and "compiling" in str(p)


def test_what_belongs_to_no_layer():
    w = tw.ones(3, requires_grad=True)

    @tw.compile
    def step(x):
        w.grad = None
        ((w * x).exp()).sum().backward()

    step(tw.ones(3))
    with tw.profile() as p:
        step(tw.ones(3))
    names = {row.name for row in p.rows("layer")}
    assert names <= {"step", "step (backward)", "outside layers"} and "step" in names


def test_eager_operations():
    net, _ = training()
    x = tw.randn(3, 4)
    with tw.profile() as p:
        loss = net(x).sum()
        loss.backward()
    rows = {row.name.split()[-1]: row for row in p.rows()}
    assert rows["matmul"].count >= 4, "two forward, and their gradients"
    assert {event.origin.kind for event in p.events} == {"eager"}
    lines = [row.name for row in p.rows("line")]
    assert any("loss = net(x).sum()" in line for line in lines) and any("loss.backward()" in line for line in lines)
    assert "eager operations" in str(p) and "(3, 8)" in str(p)


def test_steps_on_numpy_are_timed_too(monkeypatch):
    monkeypatch.delitem(LOWERINGS, "searchsorted")
    f = tw.compile(lambda x: x.exp() + tw.searchsorted(x, x).to(tw.float32))
    x = tw.linspace(-0.5, 0.5, 8)
    expected = f(x)
    assert f.lower(x).cost().num_fallbacks == 1
    with tw.profile() as p:
        got = f(x)
    np.testing.assert_array_equal(got.numpy(), expected.numpy())
    assert "numpy" in {event.origin.kind for event in p.events}


def test_the_trace_that_is_saved(tmp_path):
    _, step = training()
    x = tw.randn(16, 4)
    with tw.profile() as p:
        step(x)
        step(x)
        x.exp()
    p.save(tmp_path / "trace.json")
    trace = json.loads((tmp_path / "trace.json").read_text())["traceEvents"]
    slices = [e for e in trace if e["ph"] == "X"]
    calls = [e for e in slices if e["cat"] == "call"]
    assert [c["name"] for c in calls] == ["step", "step"]
    kernels = [e for e in slices if e["cat"] not in ("call", "trace", "compile", "eager")]
    inside = [
        sum(c["ts"] <= k["ts"] and k["ts"] + k["dur"] <= c["ts"] + c["dur"] + 1e-6 for c in calls) for k in kernels
    ]
    assert inside == [1] * len(kernels), "every kernel is inside of one call"
    assert {e["cat"] for e in slices} >= {"call", "trace", "compile", "eager", "contract"}
    product = next(e for e in kernels if e["args"]["flops"])
    assert product["args"]["where"].endswith("Sequential.0.linear (16, 8) +2")
    assert "net(x)" in product["args"]["line"]
    assert [e["args"]["name"] for e in trace if e["name"] == "thread_name"] == [threading.current_thread().name]


def test_profiles_inside_each_other_and_other_threads():
    f = tw.compile(lambda x: x * 2 + 1)
    x = tw.ones(5)
    f(x)
    with tw.profile() as outer:
        f(x)
        with tw.profile() as inner:
            thread = threading.Thread(target=f, args=(x,), name="other")
            thread.start()
            thread.join()
            x.exp()
        f(x)
    assert [e.origin.kind for e in inner.events] == ["rows", "eager"]
    assert [e.origin.kind for e in outer.events] == ["rows", "rows", "eager", "rows"]
    assert len({e.thread for e in outer.events}) == 2


def test_misuse():
    p = tw.profile()
    with p:
        pass
    with pytest.raises(tw.TwofoldError, match="for one block"), p:
        pass
    with pytest.raises(tw.TwofoldError, match="rows are by kernel, operation, line, layer, got 'colour'"):
        p.rows("colour")
    assert "ms in all" in p.table() and p.rows() == []
