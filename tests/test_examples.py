"""The programs in examples/ run, and learn what they are meant to."""

import re
import runpy
import sys
from pathlib import Path

import pytest

EXAMPLES = Path(__file__).parents[1] / "examples"


@pytest.fixture
def main(tmp_path, monkeypatch):
    """The `main` of an example, run in an empty folder."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(sys, "argv", ["example.py"])
    return lambda name: runpy.run_path(str(EXAMPLES / f"{name}.py"))["main"]


def test_mnist_cnn(main, capsys):
    assert main("mnist_cnn")(epochs=2) > 0.85
    assert "Conv2d(1, 16" in capsys.readouterr().out


def test_char_gru(main, capsys):
    losses = main("char_gru")(epochs=14, hidden=64)
    assert losses[0] > 2.5
    assert losses[-1] < 1.3
    assert "\nAnd " in capsys.readouterr().out


def test_autoencoder(main):
    history = main("autoencoder")(epochs=4)
    assert history[-1] < 0.045 < history[0]


def test_custom_function(main):
    assert main("custom_function")(steps=100) > 0.95


def test_higher_order(main):
    lowest, error = main("higher_order")(steps=150)
    assert lowest.tolist() == pytest.approx([1, 1], abs=1e-6)
    assert error < 0.2


def test_growing_net(main):
    first, best, parts = main("growing_net")(steps=600)
    assert best < 0.1 * first
    assert parts >= 3


def test_every_example_is_tested_and_starts_with_what_it_is():
    tested = set(re.findall(r'main\("(\w+)"\)', Path(__file__).read_text()))
    assert {path.stem for path in EXAMPLES.glob("*.py")} == tested
    for path in EXAMPLES.glob("*.py"):
        assert re.match(r'"""[A-Z].*[.:]', path.read_text()), path
