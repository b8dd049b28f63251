"""Public names of optimizers, data and pictures are documented, and their examples run."""

import doctest
import importlib
import pkgutil

import pytest

import twofold as tw

MODULES = []
for room in ("optim", "data", "vision.datasets", "vision.transforms"):
    package = importlib.import_module(f"twofold.{room}")
    MODULES += [m.name for m in pkgutil.walk_packages(package.__path__, package.__name__ + ".")]
PUBLIC = [
    (room, name)
    for room in ("optim", "optim.lr_scheduler", "data", "vision.datasets", "vision.transforms")
    for name in importlib.import_module(f"twofold.{room}").__all__
]


@pytest.mark.parametrize(("room", "name"), PUBLIC)
def test_is_documented(room, name):
    thing = getattr(importlib.import_module(f"twofold.{room}"), name)
    assert thing.__doc__ and thing.__doc__.strip().splitlines()[0].endswith((".", ":", ";"))
    for attribute, value in vars(thing).items():
        if isinstance(thing, type) and not attribute.startswith("_") and callable(value):
            inherited = any(getattr(getattr(base, attribute, None), "__doc__", None) for base in thing.__mro__)
            assert inherited or attribute in ("indices", "factor", "whole_factor", "extra_repr"), attribute


@pytest.mark.parametrize("module", MODULES)
def test_examples_run(module):
    failures = []
    runner = doctest.DocTestRunner(verbose=False)
    for example in doctest.DocTestFinder().find(importlib.import_module(module), extraglobs={"tw": tw}):
        runner.run(example, out=failures.append)
    assert not failures, "".join(failures)
