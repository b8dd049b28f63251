"""Row-major copies of arrays on kernels: every bit, whatever the layout."""

import itertools

import numpy as np
import pytest

import twofold as tw
from twofold.backends.cpu.copies import row_major

SHAPES = [(130, 257), (1, 9000, 3), (5, 70, 90), (33, 65, 17), (16, 1024), (2, 3, 100, 101)]


@pytest.mark.parametrize("dtype", ["u1", "f2", "f4", "f8", "c16"])
@pytest.mark.parametrize("shape", SHAPES, ids=str)
def test_every_layout(shape, dtype):
    x = np.random.default_rng(0).integers(0, 200, shape).astype(dtype)
    for order in itertools.permutations(range(len(shape))):
        for part in (x, x[::2], x[..., 1:], x[::-1], np.broadcast_to(x[:1], x.shape)):
            y = part.transpose(order)
            copied = row_major(y)
            assert copied.flags.c_contiguous and copied.dtype == y.dtype
            np.testing.assert_array_equal(copied, y)


def test_copies_own_their_memory():
    x = tw.arange(200 * 300).reshape(200, 300).float()
    for y in (x.T.clone(), x.T.contiguous(), x.T.exp()):
        before = x.clone()
        y.zero_()
        assert x.equal(before)
