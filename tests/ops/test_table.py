"""Every entry of the table is complete: derivative or reason, samples, error inputs."""

from __future__ import annotations

import pytest
from op_harness import ALL, NAMES, PRIMITIVES, Primitive, is_array, samples

from twofold.primitives import elementwise, reduce

# They take every tensor, so there is nothing to refuse.
TAKE_EVERYTHING = {"copy", "isfinite", "logical_not", "nonzero", "stop_gradient"}

FAMILIES = [p for module in (elementwise, reduce) for p in vars(module).values() if isinstance(p, Primitive)]
MANY_SHAPED = sorted({p.name for p in FAMILIES})


def first_dtype(p: Primitive):
    return next(d for d in reversed(ALL) if d in p.dtypes)


@pytest.mark.parametrize("name", NAMES)
def test_has_derivative_or_reason(name):
    p = PRIMITIVES[name]
    if p.rules is None and p.rule_all is None:
        assert isinstance(p.nondiff, str) and len(p.nondiff) > 3
    else:
        assert p.nondiff is None


@pytest.mark.parametrize("name", NAMES)
def test_has_samples_for_every_dtype(name):
    p = PRIMITIVES[name]
    assert p.dtypes
    for dtype in p.dtypes:
        assert samples(p, dtype), f"{name} has no samples of {dtype.name}"


@pytest.mark.parametrize("name", NAMES)
def test_has_error_inputs(name):
    p = PRIMITIVES[name]
    takes_tensors = any(is_array(x) for s in samples(p, first_dtype(p)) for x in s.inputs)
    if takes_tensors and name not in TAKE_EVERYTHING:
        assert list(p.errors()), f"{name} must say what it refuses"


@pytest.mark.parametrize("name", MANY_SHAPED)
def test_has_empty_and_0d_samples(name):
    p = PRIMITIVES[name]
    for dtype in p.dtypes:
        arrays = [x for s in samples(p, dtype) for x in s.inputs if is_array(x)]
        assert any(x.ndim == 0 for x in arrays), f"{name} has no 0-d sample of {dtype.name}"
        assert any(x.size == 0 for x in arrays), f"{name} has no empty sample of {dtype.name}"


def test_two_families_are_known():
    assert len(MANY_SHAPED) > 60 and {"add", "exp", "where", "sum", "cummax"} <= set(MANY_SHAPED)
