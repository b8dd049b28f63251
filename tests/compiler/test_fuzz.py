"""Random programs give the same results eagerly, traced, compiled on any number of threads, fused and not."""

from __future__ import annotations

import fuzz
import fuzz_branches
import pytest

from twofold.backends.cpu import team

ALWAYS, PER_TEST = 300, 20


@pytest.fixture(autouse=True)
def same_threads():
    before = team.get_num_threads()
    yield
    team.set_num_threads(before)


def run(seeds):
    agree = 0
    for seed in seeds:
        source = fuzz.write(seed)
        try:
            agree += fuzz.check(source)
        except Exception:
            pytest.fail(fuzz.report(source), pytrace=False)
    assert agree >= 0.6 * len(seeds), "most of the programs can be run"


@pytest.mark.parametrize("start", range(0, ALWAYS, PER_TEST))
def test_random_programs(start):
    run(range(start, start + PER_TEST))


@pytest.mark.slow
@pytest.mark.parametrize("start", range(100_000, 110_000, 250))
def test_many_random_programs(start):
    run(range(start, start + 250))


def verify(seeds):
    """Every operation alone gives the bits that it gives in the program."""
    ran = 0
    for seed in seeds:
        source = fuzz.write(seed)
        found = fuzz.verified(source)
        ran += found is not None
        if found is not None and not found:
            pytest.fail(f"seed {seed}\n{source.state()}\n{source.text()}\n{found}", pytrace=False)
    assert ran >= 0.8 * len(seeds), "most of the programs can be run"


@pytest.mark.parametrize("start", range(50_000, 50_000 + ALWAYS, PER_TEST))
def test_fusing_changes_no_bit_of_random_programs(start):
    verify(range(start, start + PER_TEST))


@pytest.mark.slow
@pytest.mark.parametrize("start", range(300_000, 310_000, 250))
def test_fusing_changes_no_bit_of_many_random_programs(start):
    verify(range(start, start + 250))


@pytest.mark.parametrize("start", range(0, 400, 100))
def test_random_programs_that_ask_for_values(start):
    sources = [source for seed in range(start, start + 100) if (source := fuzz_branches.program(seed)) is not None]
    ways = [fuzz_branches.check(source) for source in sources]
    assert ways.count("compiled") >= 0.8 * len(ways) > 10


@pytest.mark.slow
@pytest.mark.parametrize("start", range(200_000, 210_000, 500))
def test_many_random_programs_that_ask_for_values(start):
    for seed in range(start, start + 500):
        source = fuzz_branches.program(seed)
        if source is not None:
            fuzz_branches.check(source)


def test_a_wrong_result_is_found_and_made_short(monkeypatch):
    """The fuzzer itself: with a broken primitive it fails, and the report keeps the line that matters."""
    from twofold.backends.cpu import registers

    programs = map(fuzz.write, range(500))
    source, line = next((s, line) for s in programs for line in s.lines if line.endswith(".tanh()"))
    source.lines.append("w = " + line.split(" = ")[1])
    source.results, source.exact, source.loss = ["w.detach()"], [False], []
    assert fuzz.failure(source) is None
    monkeypatch.setitem(registers.RULES, "tanh", registers.RULES["sigmoid"])
    report = fuzz.report(source)
    assert "Mismatch: compiled" in report and ".tanh()" in report
    assert len(fuzz.shrink(source).lines) < len(source.lines)
