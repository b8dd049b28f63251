"""Every function and method of tensors is documented, and the examples in the documentation run."""

from __future__ import annotations

import doctest

import pytest

import twofold as tw
from twofold.tensors._registry import FUNCTIONS, METHODS

DOCUMENTED = {f"Tensor.{name}": fn for name, fn in METHODS.items() if not name.startswith("__")}
DOCUMENTED |= {f"twofold.{name}": fn for name, fn in FUNCTIONS.items()}


@pytest.mark.parametrize("name", DOCUMENTED)
def test_is_documented(name):
    doc = DOCUMENTED[name].__doc__
    assert doc and doc.strip().splitlines()[0].rstrip().endswith((".", ":"))


EXAMPLES = {fn.__doc__: name for name, fn in DOCUMENTED.items() if ">>>" in (fn.__doc__ or "")}


@pytest.mark.parametrize("name", EXAMPLES.values())
@pytest.mark.filterwarnings("ignore::RuntimeWarning")
def test_examples_run(name):
    example = doctest.DocTestParser().get_doctest(DOCUMENTED[name].__doc__, {"tw": tw}, name, None, 0)
    failures: list[str] = []
    runner = doctest.DocTestRunner(verbose=False)
    runner.run(example, out=failures.append)
    assert not runner.failures, "".join(failures)
