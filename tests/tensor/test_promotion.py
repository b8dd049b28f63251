"""Promotion and broadcasting against PyTorch, on drawn operands."""

from __future__ import annotations

import itertools

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra.numpy import mutually_broadcastable_shapes
from torch_oracle import assert_same, to_torch

import twofold as tw
from twofold.ir.dtypes import ALL, promote, set_default_dtype
from twofold.ir.errors import DTypeError, ShapeError

# PyTorch does not promote its newer unsigned types.
COMMON = [d for d in ALL if d.name not in ("uint16", "uint32", "uint64")]
NUMBERS = [True, 3, -2, 2.5, 1 + 2j]
SETTINGS = settings(deadline=None, max_examples=60)


def name_of(dtype):
    return str(dtype).removeprefix("torch.")


@pytest.mark.parametrize("a", COMMON, ids=lambda d: d.name)
@pytest.mark.parametrize("b", COMMON, ids=lambda d: d.name)
def test_promote_types(a, b):
    theirs = torch.promote_types(getattr(torch, a.name), getattr(torch, b.name))
    assert tw.promote_types(a, b).name == name_of(theirs)
    assert promote(a, b) is promote(b, a)


@pytest.mark.parametrize("a", COMMON, ids=lambda d: d.name)
def test_result_type_of_tensors_0d_tensors_and_numbers(a):
    for b, shape_a, shape_b in itertools.product(COMMON, ((), (2,)), ((), (2,))):
        x, y = tw.ones(shape_a, dtype=a), tw.ones(shape_b, dtype=b)
        expected = name_of(torch.result_type(to_torch(x), to_torch(y)))
        if expected == "complex32":
            continue
        assert tw.result_type(x, y).name == expected
        assert (x * y).dtype.name == expected
    for shape, number in itertools.product(((), (2,)), NUMBERS):
        x = tw.ones(shape, dtype=a)
        expected = name_of(torch.result_type(to_torch(x), number))
        if expected != "complex32":
            assert tw.result_type(x, number).name == expected
            assert tw.result_type(number, x).name == expected
            assert (x * number).dtype.name == expected
            assert (number * x).dtype.name == expected


@pytest.mark.parametrize(("a", "b"), list(itertools.product(COMMON, COMMON)), ids=lambda d: d.name)
def test_can_cast(a, b):
    assert tw.can_cast(a, b) == torch.can_cast(getattr(torch, a.name), getattr(torch, b.name))


def test_default_dtype_decides_for_numbers():
    set_default_dtype(tw.float64)
    try:
        assert (tw.tensor([1]) * 2.5).dtype is tw.float64
        assert tw.tensor([1.0]).dtype is tw.float64
        assert tw.exp(tw.tensor([1])).dtype is tw.float64
        assert (tw.tensor([1.0], dtype=tw.float32) * 2.5).dtype is tw.float32
    finally:
        set_default_dtype(tw.float32)


def test_numbers_make_no_tensor_in_a_graph():
    graph = tw.trace(lambda x: x * 2.0 + 1, tw.ones(2)).graph
    assert [node.prim.name for node in graph.nodes] == ["mul", "add"]


@SETTINGS
@given(mutually_broadcastable_shapes(num_shapes=2, max_dims=4, max_side=3), st.data())
def test_broadcasting(drawn, data):
    a, b = drawn.input_shapes
    rng = np.random.default_rng(0)
    x, y = tw.tensor(rng.normal(size=a)), tw.tensor(rng.normal(size=b))
    name = data.draw(st.sampled_from(["add", "sub", "mul", "div", "maximum", "atan2", "lt", "eq", "hypot"]))
    out = getattr(tw, name)(x, y)
    assert out.shape == drawn.result_shape
    assert_same(out, getattr(torch, name)(to_torch(x), to_torch(y)))


@SETTINGS
@given(
    mutually_broadcastable_shapes(num_shapes=2, max_dims=3, max_side=3),
    st.sampled_from(COMMON),
    st.sampled_from(COMMON),
    st.sampled_from(["add", "mul", "maximum", "eq", "pow", "div"]),
)
def test_dtype_and_shape_together(drawn, a, b, name):
    complex_too = a.is_complex or b.is_complex
    if complex_too and (name == "maximum" or tw.float16 in (a, b)):
        return  # of float16 PyTorch may make complex32, which Twofold does not have
    x, y = tw.ones(drawn.input_shapes[0], dtype=a), tw.ones(drawn.input_shapes[1], dtype=b)
    try:
        theirs = getattr(torch, name)(to_torch(x), to_torch(y))
    except (RuntimeError, NotImplementedError):
        return
    assert_same(getattr(tw, name)(x, y), theirs)


@SETTINGS
@given(st.integers(-1000, 1000), st.sampled_from(["uint8", "int8", "int32", "int64"]))
def test_integer_numbers_wrap(number, dtype):
    x = tw.tensor([0, 1, 100], dtype=getattr(tw, dtype))
    t = to_torch(x)
    assert_same(x + number, t + number)
    assert_same(number - x, number - t)
    assert_same(x * number, t * number)


@given(st.lists(st.integers(1, 4), min_size=1, max_size=3), st.lists(st.integers(1, 4), min_size=1, max_size=3))
@SETTINGS
def test_shapes_that_do_not_broadcast_are_refused(a, b):
    try:
        expected = np.broadcast_shapes(a, b)
    except ValueError:
        with pytest.raises(ShapeError, match="do not broadcast"):
            tw.zeros(a) + tw.zeros(b)
        return
    assert (tw.zeros(a) + tw.zeros(b)).shape == expected


def test_in_place_keeps_the_dtype():
    x = tw.zeros(2, dtype=tw.float16)
    x += tw.ones(2, dtype=tw.float64)
    assert x.dtype is tw.float16 and x.tolist() == [1.0, 1.0]
    y = tw.zeros(2, dtype=tw.uint8)
    y += tw.tensor([300, 1])
    assert y.tolist() == [44, 1]


def test_uint64_and_int64_have_no_common_type():
    with pytest.raises(DTypeError, match="uint64 and int64 have no common integer type"):
        tw.promote_types(tw.uint64, tw.int64)
