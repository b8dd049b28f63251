"""Results of the references: types as the type rules say, values as PyTorch has them."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from op_harness import (
    CASES,
    NAMES,
    PRIMITIVES,
    TensorType,
    assert_close,
    call,
    call_torch,
    describe,
    float32,
    from_torch,
    is_array,
    result_types,
    run,
    samples,
    tolerance,
    torch_inputs,
)

from twofold.ir.dtypes import BY_NAME

WITH_TORCH = [(name, dtype) for name, dtype in CASES if PRIMITIVES[name].torch is not None]


@pytest.mark.parametrize(("name", "dtype"), CASES)
def test_type_rule_tells_the_results(name, dtype):
    p = PRIMITIVES[name]
    for sample in samples(p, BY_NAME[dtype]):
        outs = run(p, sample.inputs, sample.params)
        expected = result_types(p, sample.inputs, sample.params)
        assert len(outs) == len(expected)
        for out, kind in zip(outs, expected, strict=True):
            assert isinstance(out, np.ndarray), describe(p, sample)
            if p.data_dependent:
                assert (out.ndim, out.dtype) == (kind.ndim, kind.dtype.numpy), describe(p, sample)
            else:
                assert TensorType.of(out) == kind, describe(p, sample)


@pytest.mark.parametrize(("name", "dtype"), WITH_TORCH)
def test_value_is_pytorchs(name, dtype):
    p = PRIMITIVES[name]
    compared = 0
    for sample in samples(p, BY_NAME[dtype]):
        try:
            expected = call_torch(p, torch_inputs(sample.inputs), sample.params)
        except NotImplementedError:
            continue
        compared += 1
        outs = run(p, sample.inputs, sample.params)
        for out, theirs in zip(outs, expected, strict=True):
            assert_close(out, from_torch(theirs), tolerance(name, dtype), describe(p, sample))
    if not compared:
        pytest.skip(f"PyTorch {torch.__version__} has no {name} of {dtype}")


@pytest.mark.parametrize("name", NAMES)
def test_public_call_gives_the_reference(name):
    p = PRIMITIVES[name]
    dtype = float32 if float32 in p.dtypes else min(p.dtypes, key=lambda d: d.name)
    for sample in samples(p, dtype)[:3]:
        out = call(p, sample.inputs, sample.params)
        for t, expected in zip(out if p.multiple else (out,), run(p, sample.inputs, sample.params), strict=True):
            assert t.shape == expected.shape
            assert_close(t._value, expected, tolerance(name, dtype.name), describe(p, sample))


def _transposed(x: np.ndarray) -> np.ndarray:
    """Equal values, stored in the order of columns."""
    return np.asfortranarray(x)


def _strided(x: np.ndarray) -> np.ndarray:
    """Equal values, every second place of a larger array."""
    wide = np.zeros((*x.shape[:-1], x.shape[-1] * 2), x.dtype) if x.ndim else x
    wide[..., ::2] = x
    return wide[..., ::2]


def _reversed(x: np.ndarray) -> np.ndarray:
    """Equal values, with negative strides."""
    return np.flip(np.flip(x).copy())


@pytest.mark.parametrize("layout", [_transposed, _strided, _reversed])
@pytest.mark.parametrize("name", NAMES)
def test_memory_order_does_not_matter(name, layout):
    p = PRIMITIVES[name]
    dtype = float32 if float32 in p.dtypes else min(p.dtypes, key=lambda d: d.name)
    for sample in samples(p, dtype):
        expected = run(p, sample.inputs, sample.params)
        strange = [layout(x) if is_array(x) and x.ndim else x for x in sample.inputs]
        for x, y in zip(strange, sample.inputs, strict=True):
            if is_array(x):
                np.testing.assert_array_equal(x, y)
        outs = run(p, strange, sample.params)
        for out, want in zip(outs, expected, strict=True):
            assert_close(out, want, (1e-6, 1e-6), describe(p, sample))
            if not p.view:
                assert out.flags.c_contiguous, describe(p, sample)
