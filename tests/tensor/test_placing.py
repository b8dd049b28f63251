"""Replacing a part (select_scatter and its kin, put, index_reduce) gives PyTorch's values and gradients."""

from __future__ import annotations

import numpy as np
import pytest
import torch

import twofold as tw
from twofold.ir.errors import DTypeError, OutOfBoundsError, ShapeError, TwofoldError

RNG = np.random.default_rng(0)


def _index(*numbers: int):
    return lambda lib: lib.tensor(numbers, dtype=lib.int64)


# Each: shape of the input, shape of the source, f(library, input, source).
CASES = {
    "select first": ((3, 4), (4,), lambda m, x, s: m.select_scatter(x, s, 0, -1)),
    "select last": ((2, 3, 4), (2, 3), lambda m, x, s: x.select_scatter(s, dim=-1, index=2)),
    "slice": ((5, 2), (2, 2), lambda m, x, s: x.slice_scatter(s, start=1, end=3)),
    "slice steps": ((2, 8), (2, 3), lambda m, x, s: m.slice_scatter(x, s, dim=1, start=-7, end=7, step=2)),
    "slice all": ((3,), (3,), lambda m, x, s: m.slice_scatter(x, s)),
    "slice nothing": ((3,), (0,), lambda m, x, s: m.slice_scatter(x, s, start=2, end=1)),
    "diagonal": ((3, 4), (3,), lambda m, x, s: x.diagonal_scatter(s)),
    "diagonal batch": ((2, 3, 3), (2, 2), lambda m, x, s: m.diagonal_scatter(x, s, -1, dim1=1, dim2=2)),
    "put": ((2, 3), (2, 2), lambda m, x, s: x.put(_index(5, 0, -2, 3)(m).reshape(2, 2), s)),
    "put accumulate": ((4,), (3,), lambda m, x, s: x.put(_index(1, 1, 3)(m), s, accumulate=True)),
}
for _reduce in ("prod", "mean", "amax", "amin"):
    for _with in (True, False):
        CASES[f"index_reduce {_reduce} {_with}"] = (
            (3, 2),
            (4, 2),
            lambda m, x, s, r=_reduce, w=_with: x.index_reduce(0, _index(0, 2, 0, 0)(m), s, r, include_self=w),
        )


@pytest.mark.parametrize("case", CASES.values(), ids=CASES)
@pytest.mark.filterwarnings("ignore:index_reduce:UserWarning")
def test_values_and_gradients_equal_pytorch(case):
    shape, source_shape, fn = case
    arrays = RNG.uniform(0.5, 2, shape), RNG.uniform(0.5, 2, source_shape)
    results = []
    for lib in (tw, torch):
        x, s = (lib.tensor(a, requires_grad=True) for a in arrays)
        out = fn(lib, x, s)
        (out * lib.arange(out.numel(), dtype=lib.float64).reshape(out.shape)).sum().backward()
        results.append([t.detach().numpy() for t in (out, x.grad, s.grad)])
    for ours, theirs in zip(*results, strict=True):
        np.testing.assert_allclose(ours, theirs, rtol=1e-12)


def test_the_input_is_left_alone_and_the_source_is_cast():
    x = tw.zeros(2, 2)
    y = x.select_scatter(tw.tensor([1, 2]), 0, 0)
    assert x.tolist() == [[0, 0], [0, 0]]
    assert y.dtype is tw.float32 and y.tolist() == [[1, 2], [0, 0]]


def test_in_place_forms_write():
    x = tw.zeros(3)
    assert x.put_(tw.tensor([2]), tw.tensor([4.0])) is x
    x.index_reduce_(0, tw.tensor([2]), tw.tensor([3.0]), "prod")
    assert x.tolist() == [0, 0, 12]


def test_unravel_index():
    flat = np.array([[0, 5], [23, 7]])
    ours, theirs = tw.unravel_index(tw.tensor(flat), (2, 3, 4)), torch.unravel_index(torch.tensor(flat), (2, 3, 4))
    assert [t.tolist() for t in ours] == [t.tolist() for t in theirs]


@pytest.mark.parametrize(
    ("fn", "error", "text"),
    [
        (lambda: tw.zeros(2, 3).select_scatter(tw.ones(2), 0, 0), ShapeError, r"shape \(3,\), src \(2,\)"),
        (lambda: tw.zeros(2, 3).select_scatter(tw.ones(3), 0, 2), OutOfBoundsError, "index 2"),
        (lambda: tw.zeros(2, 3).slice_scatter(tw.ones(3, 3)), ShapeError, r"shape \(2, 3\), src \(3, 3\)"),
        (lambda: tw.zeros(3).slice_scatter(tw.ones(3), step=-1), TwofoldError, "step must be positive"),
        (lambda: tw.zeros(3, 3).diagonal_scatter(tw.ones(2)), ShapeError, r"shape \(3,\), src \(2,\)"),
        (lambda: tw.zeros(3).put(tw.tensor([0]), tw.ones(2)), ShapeError, r"shape \(1,\), the source \(2,\)"),
        (lambda: tw.zeros(3).put(tw.tensor([0]), tw.tensor([1])), DTypeError, "float32, the source int64"),
        (lambda: tw.zeros(3).put(tw.tensor([3]), tw.ones(1)), OutOfBoundsError, "index 3"),
        (lambda: tw.zeros(3).index_reduce(0, tw.tensor([0]), tw.ones(1), "sum"), TwofoldError, "'sum' is not"),
        (lambda: tw.zeros(3).index_reduce(0, tw.tensor([0]), tw.ones(2), "prod"), ShapeError, r"expected \(1,\)"),
        (lambda: tw.unravel_index(tw.ones(1), (2,)), DTypeError, "expected integers"),
    ],
)
def test_errors(fn, error, text):
    with pytest.raises(error, match=text):
        fn()


@pytest.mark.parametrize(
    "fn",
    [
        lambda x: x.reshape(shape=(3, 2)),
        lambda x: x.view(size=(6,)),
        lambda x: x.permute(dims=(1, 0)),
        lambda x: x[:1].expand(size=(4, -1)),
    ],
)
def test_sizes_and_orders_by_keyword(fn):
    array = np.arange(6.0).reshape(2, 3)
    assert fn(tw.tensor(array)).tolist() == fn(torch.tensor(array)).tolist()
