"""Views, generated from the table: they share memory, and their write rules say what a write does."""

from __future__ import annotations

import numpy as np
import pytest
from op_harness import PRIMITIVES, describe, float64, run, samples, wrap

from twofold.ir.errors import AutogradError

VIEWS = sorted(name for name, p in PRIMITIVES.items() if p.view and float64 in p.dtypes)


def views(p):
    """(base, view, params, sample) of each sample of a view primitive, with the base row-major."""
    for sample in samples(p, float64):
        base = np.array(sample.inputs[0], order="C")
        (view,) = run(p, [base], sample.params)
        yield base, view, sample


@pytest.mark.parametrize("name", VIEWS)
def test_views_share_memory(name):
    for base, view, sample in views(PRIMITIVES[name]):
        assert view.size == 0 or np.may_share_memory(base, view), describe(PRIMITIVES[name], sample)


@pytest.mark.parametrize("name", VIEWS)
def test_write_rule_gives_the_base_after_the_write(name):
    """A write is refused by the rule, or does to the base what the rule says."""
    p, written = PRIMITIVES[name], 0
    for base, view, sample in views(p):
        new = np.arange(100.0, 100.0 + view.size).reshape(view.shape)
        try:
            q, inputs, params = p.write(wrap(base.copy()), wrap(new), **sample.params)
        except AutogradError as e:
            assert "clone()" in e.hint
            continue
        expected = q(*inputs, **params)
        view[...] = new
        np.testing.assert_array_equal(base, expected.numpy(), err_msg=describe(p, sample))
        written += 1
    assert written


@pytest.mark.parametrize("shape", [(2, 3), (4, 1, 3)])
def test_expanded_memory_is_read_only(shape):
    expand, base = PRIMITIVES["expand"], np.zeros(3)
    view = run(expand, [base], {"shape": shape})[0]
    assert not view.flags.writeable
    with pytest.raises(AutogradError, match="share one place"):
        expand.write(wrap(base), wrap(np.ones(shape)), shape=shape)


def test_expand_without_repeats_is_writable():
    base = np.zeros(3)
    run(PRIMITIVES["expand"], [base], {"shape": (1, 3)})[0][...] = 1
    assert base.tolist() == [1, 1, 1]


def test_reshape_copies_only_where_it_must():
    reshape, base = PRIMITIVES["reshape"], np.arange(12.0).reshape(3, 4)
    for view, shape, shares in (
        (base, (12,), True),
        (base.T, (12,), False),
        (base[:, :2], (3, 2, 1), True),
        (base[:, :2], (6,), False),
        (base[1:], (8,), True),
    ):
        out = run(reshape, [view], {"shape": shape})[0]
        assert np.shares_memory(out, base) == shares
        np.testing.assert_array_equal(out, view.reshape(shape))


@pytest.mark.parametrize("name", ["pad", "flip", "concat", "slice", "diagonal"])
def test_zero_dimensional_results_are_arrays(name):
    p = PRIMITIVES[name]
    for sample in samples(p, float64):
        assert all(type(y) is np.ndarray for y in run(p, sample.inputs, sample.params))
