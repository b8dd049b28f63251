"""Public names of nn: all documented, and the examples in their docstrings run."""

from __future__ import annotations

import doctest
import importlib
import inspect
import pkgutil

import pytest

from twofold import nn

MODULES = sorted(
    m.name
    for m in pkgutil.walk_packages(nn.__path__, "twofold.nn.")
    if not m.name.rpartition(".")[2].startswith("_")
)


@pytest.mark.parametrize("name", MODULES)
def test_examples_run(name: str) -> None:
    result = doctest.testmod(importlib.import_module(name), report=False)
    assert result.failed == 0


@pytest.mark.parametrize("space", [nn, nn.functional, nn.init, nn.utils], ids=lambda m: m.__name__)
def test_public_names_have_docstrings_with_examples(space: object) -> None:
    names = getattr(space, "__all__", None) or [
        n
        for n, v in vars(space).items()
        if inspect.isfunction(v) and v.__module__ == space.__name__ and n[0] != "_"
    ]
    without = []
    for name in names:
        doc = inspect.getdoc(getattr(space, name)) or ""
        short = doc.startswith(("In-place `", "Old name of"))
        if not doc or not (">>>" in doc or short or inspect.ismodule(getattr(space, name))):
            without.append(name)
    assert set(without) <= {"RNNBase", "RNNCellBase", "multi_head_attention_forward"}, without


def test_all_is_what_the_package_holds() -> None:
    for space in (nn, nn.functional):
        assert sorted(space.__all__) == sorted(set(space.__all__))
        assert all(hasattr(space, name) for name in space.__all__)
