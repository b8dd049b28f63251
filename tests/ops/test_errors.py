"""Wrong inputs are refused with the right class and message, eagerly and by the type rule."""

from __future__ import annotations

import re

import pytest
from op_harness import PRIMITIVES, call, result_types

from twofold.ir.errors import TwofoldError

ERRORS = [(name, i) for name, p in sorted(PRIMITIVES.items()) for i, _ in enumerate(p.errors())]

# What these refuse may lie in the values, which no type rule sees.
VALUES_MATTER = {
    "floor_divide": "by zero",
    "remainder": "by zero",
    "fmod": "by zero",
    "pow": "negative integer power",
    **dict.fromkeys(
        ("gather", "scatter", "scatter_add", "scatter_reduce", "index", "index_put", "max_pool_grad"),
        "is out of bounds",
    ),
}


@pytest.mark.parametrize(("name", "i"), ERRORS)
def test_is_refused(name, i):
    p = PRIMITIVES[name]
    e = list(p.errors())[i]
    assert issubclass(e.error, TwofoldError), "errors are the package's own"
    assert e.match
    with pytest.raises(e.error, match=re.escape(e.match)):
        call(p, e.inputs, e.params)


@pytest.mark.parametrize(("name", "i"), ERRORS)
def test_is_refused_by_the_type_rule(name, i):
    p = PRIMITIVES[name]
    e = list(p.errors())[i]
    if name in VALUES_MATTER and VALUES_MATTER[name] in e.match:
        assert result_types(p, e.inputs, e.params)
        return
    with pytest.raises(e.error, match=re.escape(e.match)):
        result_types(p, e.inputs, e.params)


@pytest.mark.parametrize(("name", "i"), ERRORS)
def test_message_names_the_operation(name, i):
    p = PRIMITIVES[name]
    e = list(p.errors())[i]
    with pytest.raises(TwofoldError) as caught:
        call(p, e.inputs, e.params)
    assert caught.value.op == name
