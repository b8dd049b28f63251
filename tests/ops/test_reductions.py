"""Sums of many numbers keep their digits, along every dimension."""

from __future__ import annotations

import numpy as np
import pytest
from op_harness import PRIMITIVES, run

from twofold.ir.dtypes import BY_NAME


@pytest.mark.parametrize(("shape", "dims"), [((300_001, 2), (0,)), ((2, 100_000, 3), (0, 1)), ((2, 200_000), (1,))])
@pytest.mark.parametrize("keepdim", [False, True])
def test_long_sums_are_accurate(shape, dims, keepdim):
    x = np.random.default_rng(0).uniform(0.5, 1.5, shape).astype(np.float32)
    (out,) = run(PRIMITIVES["sum"], (x,), {"dims": dims, "keepdim": keepdim})
    exact = x.astype(np.float64).sum(dims, keepdims=keepdim)
    assert out.shape == exact.shape and out.dtype == np.float32
    np.testing.assert_allclose(out, exact, rtol=2e-6)


@pytest.mark.parametrize("dtype", ["float16", "bfloat16"])
def test_halves_accumulate_in_float32(dtype):
    x = np.ones((5000, 2), BY_NAME[dtype].numpy)
    (out,) = run(PRIMITIVES["sum"], (x,), {"dims": (0,), "keepdim": False})
    assert out.astype(np.float64).tolist() == [4992.0 if dtype == "bfloat16" else 5000.0] * 2
