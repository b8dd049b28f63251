"""What shows the insides of compiled programs: settings, what is printed and written, passes left out."""

from __future__ import annotations

import os
import re
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

import twofold as tw
from twofold import nn
from twofold.compiler.pipeline import LATER, PASSES
from twofold.ir import config

PROGRAM = """
import twofold as tw
from twofold import nn

tw.manual_seed(0)
model = nn.Sequential(nn.Linear(4, 8), nn.ReLU(), nn.Linear(8, 2))
optimizer = tw.optim.Adam(model.parameters())


@tw.compile
def step(x, y):
    optimizer.zero_grad()
    loss = nn.functional.cross_entropy(model(x), y)
    loss.backward()
    optimizer.step()
    return loss


print(step(tw.ones(3, 4), tw.tensor([0, 1, 1])).item())
print(step(tw.ones(2, 4), tw.tensor([0, 1])).item())
print(len(step.specializations))
"""


@pytest.fixture(scope="module")
def script(tmp_path_factory):
    path = tmp_path_factory.mktemp("script") / "train.py"
    path.write_text(PROGRAM)
    return path


def run(script, **variables):
    """Standard output and error of the program, run with environment variables."""
    names = {k: v for k, v in os.environ.items() if not k.startswith("TWOFOLD_") or k == "TWOFOLD_CACHE_DIR"}
    variables = {f"TWOFOLD_{k}": str(v) for k, v in variables.items()}
    result = subprocess.run([sys.executable, str(script)], env=names | variables, capture_output=True, text=True)
    return result.stdout.split(), result.stderr


@pytest.fixture(scope="module")
def plain(script):
    out, err = run(script)
    assert len(out) == 3 and out[2] == "2" and not err
    return out


def training():
    tw.manual_seed(0)
    net = nn.Sequential(nn.Linear(4, 8), nn.ReLU(), nn.Linear(8, 2))
    optimizer = tw.optim.Adam(net.parameters(), lr=0.1)

    @tw.compile
    def step(x):
        optimizer.zero_grad()
        loss = net(x).softmax(-1).square().mean()
        loss.backward()
        optimizer.step()
        return loss.detach()

    return net, step


# --- environment variables --------------------------------------------------------------------------


def test_the_whole_ladder(script, plain, tmp_path):
    """Level 5 has all that the lower ones have; the dump has it in files."""
    out, err = run(script, DEBUG=5, DUMP=tmp_path / "dump", EXPLAIN=1)
    assert out == plain
    first, second = (part.split("=== step\n")[0] for part in err.split("=== step\n")[1:])
    assert re.search(r"^prune +[\d.]+ ms +\d+ nodes left$", first, re.M)
    assert re.search(r"^compile +[\d.]+ ms +\d+ kernels$", first, re.M)
    assert re.search(r"^contract +\d+ .* matmul add", first, re.M)
    assert re.search(r"^\d+ phases of \d+ kernels, 0 calls of NumPy; .* temporaries", first, re.M)
    for stage in ("--- trace", "--- after fold", "--- program", "kernels for "):
        assert f"\n{stage}" in first, stage
    assert "%_0.weight: float32[8, 4]" in first and re.search(r"# train.py:\d+ Sequential.0.linear", first)
    assert "define void @kernel(ptr" in first and "\tretq" in first.replace("ret\n", "retq\n")
    assert "float32[2, 4]" in second
    assert "twofold: compiling step, number 1: first call\n  at: " in err
    assert "argument 0 is a tensor of float32 and shape (2, 4), before a tensor of float32 and shape (3, 4)" in err
    assert "train.py:20: print(step(tw.ones(2, 4)" in err

    folders = sorted(p.name for p in (tmp_path / "dump").iterdir())
    assert folders == ["001-step", "002-step"]
    place = tmp_path / "dump" / "001-step"
    graphs = sorted(p.name for p in place.glob("??-*.txt"))
    assert graphs == [f"{i:02}-{name}.txt" for i, name in enumerate(["trace", *(p.__name__ for p in PASSES)])]
    assert (place / "00-trace.txt").read_text().strip() in err
    assert (place / "cost.txt").read_text().strip() in err
    kernels = {p.stem for p in (place / "ir").iterdir()}
    assert kernels == {p.stem for p in (place / "asm").iterdir()} and len(kernels) > 3
    assert all("define void @kernel" in p.read_text() for p in (place / "ir").iterdir())


@pytest.mark.parametrize(("level", "there", "absent"), [
    (1, "nodes left", "phases of"), (2, "phases of", "--- program"), (3, "--- program", "define void"),
    (4, "define void", ".text"),
])  # fmt: skip
def test_levels(level, there, absent, capsys):
    with tw.debug.settings(debug=level):
        tw.compile(lambda x: x * 2)(tw.ones(3))
    err = capsys.readouterr().err
    assert there in err and absent not in err


def test_without_compiling(script, plain):
    out, err = run(script, COMPILE=0, DEBUG=2)
    np.testing.assert_allclose([float(x) for x in out[:2]], [float(x) for x in plain[:2]], rtol=1e-6)
    assert out[2] == "0" and not err


def test_values_that_make_no_sense(script):
    out, err = run(script, DEBUG=6)
    assert not out and "TWOFOLD_DEBUG='6': expected a level from 0 to 5" in err
    out, err = run(script, SKIP_PASSES="share,no_such_pass")
    assert not out and "TWOFOLD_SKIP_PASSES has ['no_such_pass'], which are no passes" in err
    assert f"hint: passes are {', '.join(sorted({*LATER, *(p.__name__ for p in PASSES)}))}" in err


def test_every_setting_is_declared_in_one_place():
    """No other file reads TWOFOLD_... from the environment; each says what it does."""
    package = os.path.dirname(tw.__file__)
    found = set()
    for folder, _, files in os.walk(package):
        for file in files:
            if file.endswith(".py") and file != "config.py":
                text = Path(folder, file).read_text(encoding="utf-8")
                found |= set(re.findall(r"environ[^\n]*(TWOFOLD_\w+)", text))
    assert not found
    assert {"TWOFOLD_DEBUG", "TWOFOLD_DUMP", "TWOFOLD_EXPLAIN", "TWOFOLD_COMPILE"} <= config.SETTINGS.keys()
    assert all(s.text and name == s.name for name, s in config.SETTINGS.items())


# --- passes left out ----------------------------------------------------------------------------------


@pytest.mark.parametrize("skipped", [*dict.fromkeys(p.__name__ for p in PASSES), *LATER, "all"])
def test_each_pass_can_be_left_out(skipped):
    """And changes no result: not even in the last bit, for these are no changes of numerics."""
    results = []
    names = (*(p.__name__ for p in PASSES), *LATER) if skipped == "all" else (skipped,)
    for skip in ((), names):
        with tw.debug.settings(skip_passes=skip):
            net, step = training()
            x = tw.linspace(-1, 1, 24).reshape(6, 4)
            losses = [step(x).item() for _ in range(3)]
        program = step.lower(x)
        results.append((losses, [p.numpy(force=True).tobytes() for p in net.parameters()]))
    assert results[0] == results[1]
    with tw.debug.settings(skip_passes=names):
        program = training()[1].lower(x)
    assert not {stage.name for stage in program.history.stages} & set(names)


def test_fusion_is_what_makes_few_kernels():
    _, step = training()
    x = tw.ones(6, 4)
    fused = step.lower(x).cost()
    with tw.debug.settings(skip_passes=("fuse",)):
        single = step.lower(x).cost()
    with tw.debug.settings(skip_passes=("reuse",)):
        apart = step.lower(x).cost()
    assert single.num_phases > 2 * fused.num_phases
    assert apart.arena_bytes > fused.arena_bytes and apart.num_phases == fused.num_phases


# --- what programs tell -------------------------------------------------------------------------------


def test_the_graph_after_each_pass():
    program = tw.compile(lambda x: x.mT.mT * x.exp() + x.exp()).lower(tw.ones(3, 3))
    assert str(program.graph_after("trace")).count("permute(") == 2
    assert str(program.graph_after("layout")).count("permute(") == 2
    after = str(program.graph_after("canonicalize"))
    assert after.count("permute(") < 2 and after.count("exp(") == 2
    assert str(program.graph_after("share")).count("exp(") == 1
    assert program.graph_after("prune") == program.graph
    with pytest.raises(tw.TwofoldError, match="no pass 'colour' ran"):
        program.graph_after("colour")
    with tw.debug.settings(skip_passes=("fold",)):
        other = tw.compile(lambda x: x + tw.ones(3) * 2).lower(tw.ones(3))
    with pytest.raises(tw.TwofoldError, match="no pass 'fold' ran"):
        other.graph_after("fold")


def test_settings_end_with_their_block():
    before = {name: s.value for name, s in config.SETTINGS.items()}
    with pytest.raises(KeyError), tw.debug.settings(debug=1, explain=True, compile=False, dump="x", cache_dir="0"):
        assert config.DEBUG.value == 1 and config.CACHE_DIR.value is None
        raise KeyError
    assert {name: s.value for name, s in config.SETTINGS.items()} == before


def test_compare_finds_nothing_where_nothing_is_wrong():
    net, step = training()
    before = [p.numpy(force=True).copy() for p in net.parameters()]
    comparison = tw.debug.compare(step, tw.randn(6, 4))
    assert comparison, str(comparison)
    assert comparison.num_operations > 50 and "operations agree" in str(comparison)
    for p, b in zip(net.parameters(), before, strict=True):
        np.testing.assert_array_equal(p.numpy(force=True), b)


def test_compare_names_a_wrong_kernel(monkeypatch):
    """With a rule of the compiler broken, its operation, line and layer are named."""
    from twofold.backends.cpu import registers

    monkeypatch.setitem(registers.RULES, "relu", registers.RULES["neg"])
    net = nn.Sequential(nn.Linear(4, 8), nn.ReLU(), nn.Linear(8, 2))
    with tw.debug.settings(cache_dir="0"):
        comparison = tw.debug.compare(lambda x: net(x).sum(), tw.randn(6, 4))
    assert not comparison and comparison.first is not None
    assert comparison.first.op == "relu" and comparison.first.ways == ("reference", "compiled")
    assert comparison.first.scope == "Sequential.1.relu"
    assert "net(x).sum()" in str(comparison)


def test_the_first_nan_is_found_in_compiled_code():
    net = nn.Sequential(nn.Linear(4, 3), nn.Linear(3, 2))
    with tw.no_grad():
        net[1].weight.fill_(-1.0)
        net[1].bias.fill_(-5.0)

    @tw.compile
    def f(x):
        return net(x).sqrt().sum()

    x = tw.zeros(2, 4)
    with tw.no_grad():
        net[0].bias.fill_(1.0)
    with tw.debug.detect_anomaly(), pytest.raises(tw.AutogradError, match="'sqrt' gave the first NaN") as info:
        f(x)
    assert "return net(x).sqrt().sum()" in str(info.value)
    assert np.isnan(f(x).item()), "without it the call goes through"


def test_the_first_nan_in_the_backward_of_a_compiled_function():
    @tw.compile
    def distance(a, b):
        d = (a - b).square().sum(1)
        return d.sqrt().mean()

    a = tw.ones(2, 3, requires_grad=True)
    for _ in range(2):
        with tw.debug.detect_anomaly(), pytest.raises(tw.AutogradError, match="the derivative of 'mul'") as info:
            distance(a, tw.ones(2, 3)).backward()
        assert "d = (a - b).square().sum(1)" in str(info.value) and "of inf" in str(info.value)
        assert "infinite since: the derivative of 'sqrt'" in str(info.value)
        assert "return d.sqrt().mean()" in str(info.value)
    assert a.grad is None
    with tw.debug.detect_anomaly():
        distance(a, tw.zeros(2, 3)).backward()
    assert a.grad is not None and not a.grad.isnan().any()
