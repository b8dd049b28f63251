"""Order, quantiles, unique and counting, against PyTorch."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch_oracle import array_of, compare, compare_gradients, to_torch

import twofold as tw
from twofold.ir.errors import DTypeError, OutOfBoundsError, ShapeError, TwofoldError

T = tw.tensor
NAN, INF = float("nan"), float("inf")
x34 = T(np.random.default_rng(3).normal(size=(3, 4)))
ties = T([[2, 1, 2, 0], [1, 1, 0, 0], [5, 5, 5, 5]])
nans = T([[1.0, NAN, -INF, 3.0], [NAN, NAN, NAN, NAN], [4.0, 2.0, INF, 0.0]])
STABLE = {"stable": True}

CALLS = [
    *[("sort", (x,), {"dim": d, "descending": down, "stable": True}) for x in (x34, ties, nans) for d in (0, -1)
      for down in (False, True)],
    ("sort", (T(3.0),), STABLE),
    ("sort", (tw.zeros(0),), STABLE),
    ("sort", (tw.zeros(2, 0),), {"dim": 1, "stable": True}),
    ("sort", (T([True, False, True]),), STABLE),
    ("sort", (T([1.0, NAN, 0.0], dtype=tw.bfloat16),), STABLE),
    ("sort", (T([1.0, NAN, 0.0], dtype=tw.float16),), {"stable": True, "descending": True}),
    ("sort", (x34,), {"dim": 2, "stable": True}),
    ("argsort", (x34,), STABLE),
    ("argsort", (x34, 0, True)),
    ("msort", (x34,)),
    ("topk", (x34, 2)),
    ("topk", (x34, 3, 0, False)),
    ("topk", (x34, 5)),
    ("topk", (x34, 0)),
    ("topk", (T(2.0), 1)),
    ("kthvalue", (x34, 2)),
    ("kthvalue", (x34, 3, 0, True)),
    ("kthvalue", (x34, 0)),
    ("kthvalue", (x34, 5)),
    ("kthvalue", (T(2.0), 1)),
    ("median", (x34,)),
    ("median", (x34, 1)),
    ("median", (x34, 0, True)),
    ("median", (T([3, 1, 2, 2]),)),
    ("median", (nans,)),
    ("median", (nans, 1)),
    ("median", (T(2.0), 0)),
    ("median", (T([]),)),
    ("nanmedian", (nans,)),
    ("nanmedian", (nans[::2], 1)),
    ("nanmedian", (nans, 0, True)),
    ("mode", (ties,)),
    ("mode", (ties, 0)),
    ("mode", (ties, 0, True)),
    ("mode", (T(2),)),
    ("unique", (ties,)),
    ("unique", (ties,), {"return_inverse": True, "return_counts": True}),
    ("unique", (T([3.0, NAN, 1.0, NAN]),), {"return_counts": True}),
    ("unique", (ties,), {"dim": 0, "return_inverse": True, "return_counts": True}),
    ("unique", (ties,), {"dim": 1, "return_inverse": True}),
    ("unique", (T([True, True]),)),
    ("unique", (tw.zeros(0),)),
    ("unique_consecutive", (ties,)),
    ("unique_consecutive", (ties,), {"return_inverse": True, "return_counts": True}),
    ("unique_consecutive", (T([[1, 2], [1, 2], [0, 1]]),), {"dim": 0, "return_inverse": True}),
    ("unique_consecutive", (T([[1, 1], [0, 0]]),), {"dim": 1, "return_counts": True}),
    ("searchsorted", (T([1, 3, 5]), T([[3, 6], [0, 5]]))),
    ("searchsorted", (T([1, 3, 5]), T([3, 5])), {"right": True}),
    ("searchsorted", (T([1.0, 3.0, 5.0]), T([3.0, NAN])), {"side": "right", "out_int32": True}),
    ("searchsorted", (T([[1, 3, 5], [0, 0, 9]]), T([[3], [1]]))),
    ("searchsorted", (T([1, 3, 5]), 4)),
    ("searchsorted", (T([5, 1, 3]), T([2, 4])), {"sorter": T([1, 2, 0])}),
    ("bucketize", (T([[0.0, 1.0], [2.5, 9.0]]), T([1.0, 2.0, 3.0]))),
    ("bucketize", (T([1, 2]), T([1, 2, 3])), {"right": True}),
    ("bucketize", (2, T([1, 2, 3]))),
    ("bincount", (T([1, 2, 1, 5]),)),
    ("bincount", (T([1, 2]),), {"minlength": 6}),
    ("bincount", (T([1, 0, 1]), T([0.5, 2.0, 1.0]))),
    ("bincount", (T([1, 0, 1]), T([1, 2, 3]))),
    ("bincount", (T([], dtype=tw.int64),)),
    ("bincount", (T([-1]),)),
    ("bincount", (T([1.0]),)),
    ("histc", (x34,), {"bins": 5}),
    ("histc", (x34, 4, -1, 1)),
    ("histc", (T([1.0, 1.0]), 3)),
    ("histc", (T([0.0, 1.0, 2.0, 3.0]), 3, 0, 3)),
    ("histc", (x34, 0)),
    *[
        ("quantile", (x34, q), {"dim": dim, "keepdim": keep, "interpolation": how})
        for q, dim, keep, how in [
            (0.3, None, False, "linear"), (0.3, None, True, "linear"), (0.3, 0, False, "linear"),
            (0.3, 1, True, "linear"), (0.5, 1, False, "lower"), (0.5, 1, False, "higher"),
            (0.3, 0, False, "nearest"), (0.3, 1, False, "midpoint"), (0.0, 1, False, "linear"),
            (1.0, 1, False, "linear"), (1.5, 1, False, "linear"), (0.5, 1, False, "cubic"),
        ]
    ],
    ("quantile", (x34, T([0.1, 0.5], dtype=tw.float64)), {"dim": 0}),
    ("quantile", (x34, T([0.1, 0.5], dtype=tw.float64)), {"dim": 1, "keepdim": True}),
    ("quantile", (x34, T([0.1, 0.5], dtype=tw.float64)), {"keepdim": True}),
    ("quantile", (nans, 0.25), {"dim": 1}),
    ("quantile", (T(2.0), 0.25), {"dim": 0, "keepdim": True}),
    ("quantile", (T([1, 2]), 0.25)),
    ("nanquantile", (nans, 0.25), {"dim": 1}),
    ("nanquantile", (nans[:, ::3], T([0.0, 0.6])), {"dim": 0, "keepdim": True}),
    ("nanquantile", (nans[0], 0.5)),
]  # fmt: skip


@pytest.mark.parametrize("call", CALLS, ids=lambda c: c[0])
def test_functions_are_pytorchs(call):
    compare(*call)


@pytest.mark.parametrize(
    ("name", "args", "kwargs"),
    [
        ("sort", (0,), {"descending": True}),
        ("topk", (2,), {}),
        ("topk", (2, 0, False), {}),
        ("kthvalue", (2, 1), {}),
        ("msort", (), {}),
        ("median", (), {}),
        ("median", (1,), {}),
        ("nanmedian", (0, True), {}),
        ("mode", (1,), {}),
        ("quantile", (0.3,), {}),
        ("quantile", (0.4, 1), {}),
        ("quantile", (0.4, 0), {"interpolation": "midpoint"}),
        ("nanquantile", (0.7, 0, True), {}),
    ],
)
def test_gradients_are_pytorchs(name, args, kwargs):
    x = T(x34.numpy(), requires_grad=True)
    compare_gradients(name, (x, *args), kwargs)


def test_results_have_names():
    out = x34.sort(dim=1)
    assert out.values is out[0] and out.indices is out[1]
    assert tw.topk(x34, 1).indices.shape == (3, 1)
    assert tw.sort(x34, axis=0).values.tolist() == np.sort(x34.numpy(), 0).tolist()


def test_of_equal_elements_topk_takes_the_first():
    assert T([1, 3, 3, 3, 0]).topk(2).indices.tolist() == [1, 2]
    assert T([1, 3, 1, 1]).topk(2, largest=False).indices.tolist() == [0, 2]


@settings(max_examples=100, deadline=None)
@given(st.lists(st.sampled_from([0.0, -0.0, 1.0, -1.0, 2.0, NAN, INF, -INF]), max_size=8), st.booleans())
def test_sort_is_stable_in_both_directions(values, descending):
    x = T(np.array(values, np.float32))
    got = x.sort(descending=descending)
    want = torch.sort(to_torch(x), descending=descending, stable=True)
    np.testing.assert_array_equal(array_of(got.values), want.values.numpy())
    np.testing.assert_array_equal(got.indices.numpy(), want.indices.numpy())


@settings(max_examples=100, deadline=None)
@given(st.lists(st.integers(0, 4), min_size=1, max_size=12))
def test_mode_and_median_of_small_integers(values):
    compare("mode", (T(values),))
    compare("median", (T(values),))
    compare("unique_consecutive", (T(values),), {"return_inverse": True, "return_counts": True})


def test_order_can_be_traced():
    def statistics(x):
        return x.median(0).values + x.mode(0).values + x.quantile(0.4, 0) + x.sort(0).values[1] + x.histc(4, -1, 1)

    program = tw.trace(statistics, x34)
    np.testing.assert_array_equal(program(x34).numpy(), statistics(x34).numpy())


@pytest.mark.parametrize(
    ("call", "error", "message"),
    [
        (lambda: x34.topk(7), OutOfBoundsError, r"k=7 elements were asked for, but dimension 1 has size 4"),
        (lambda: x34.kthvalue(9), OutOfBoundsError, "k=9 is not between 1 and 4"),
        (lambda: x34.sort(3), OutOfBoundsError, "dim 3 is outside a 2-d tensor"),
        (lambda: tw.zeros(2, dtype=tw.complex64).sort(), DTypeError, "complex64 is not supported"),
        (lambda: tw.zeros(2, 0).median(1), OutOfBoundsError, "is empty"),
        (lambda: T([1]).quantile(0.5), DTypeError, "must be float32 or float64, got int64"),
        (lambda: x34.quantile(2.0), OutOfBoundsError, "q must be between 0 and 1, got 2.0"),
        (lambda: x34.quantile(0.5, interpolation="cubic"), TwofoldError, "must be one of linear, lower"),
        (lambda: tw.searchsorted(tw.zeros(2, 3), tw.zeros(3, 3)), ShapeError, "must agree"),
        (lambda: tw.searchsorted(T([1]), T([1]), right=True, side="left"), TwofoldError, "contradict"),
        (lambda: T([-2]).bincount(), OutOfBoundsError, "must not be negative, got -2"),
        (lambda: T([1]).bincount(T([1.0, 2.0])), ShapeError, "weights have shape"),
        (lambda: T([1.0, INF]).histc(), OutOfBoundsError, "is not finite"),
        (lambda: T([1.0]).histc(3, 2, 1), OutOfBoundsError, "must not be less than"),
    ],
)
def test_errors(call, error, message):
    with pytest.raises(error, match=message):
        call()
