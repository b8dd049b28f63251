"""Creation of tensors against PyTorch."""

from __future__ import annotations

import array
import itertools

import numpy as np
import pytest
import torch
from torch_oracle import assert_same, compare

import twofold as tw
from twofold.ir.errors import AutogradError, DTypeError, ShapeError, TwofoldError

DATA = [
    1, 1.5, True, 2j, [1, 2], [1.0, 2], [True, False], [True, 2], [1, 2j], [[1, 2], [3, 4]], [[1.0], [2]], [], [[]],
    [[], []], ((1, 2), (3, 4)), range(4), [range(2), range(2)], np.arange(3), np.ones((2, 2), np.float16),
    np.float32(2.5), np.int16(3), np.bool_(True), [np.float32(1), np.float32(2)], [np.int32(1), 2],
    np.arange(6).reshape(2, 3).T, np.array(3.0),
]  # fmt: skip


@pytest.mark.parametrize("data", DATA, ids=repr)
def test_tensor(data):
    assert_same(tw.tensor(data), torch.tensor(data))
    assert_same(tw.as_tensor(data), torch.as_tensor(data))


@pytest.mark.parametrize("dtype", ["float64", "int32", "bool", "float16", "complex64", "uint8", "bfloat16"])
def test_tensor_with_dtype(dtype):
    d, t = getattr(tw, dtype), getattr(torch, dtype)
    for data in ([1, 2, 0], [1.5, 2.7], [[True], [False]], 3, np.arange(3.0)):
        assert_same(tw.tensor(data, dtype=d), torch.tensor(data, dtype=t))


def test_tensor_of_tensors():
    x = tw.tensor([1.0, 2.0], requires_grad=True)
    y = tw.tensor(x)
    assert not y.requires_grad and y.is_leaf
    y[0] = 5.0
    assert x.tolist() == [1.0, 2.0]
    assert tw.tensor([x[0], x[1]]).tolist() == [1.0, 2.0]
    assert tw.tensor([[tw.tensor(1), 2], [3, tw.tensor(4)]]).dtype is tw.int64
    assert tw.tensor([np.ones(2), np.zeros(2)]).dtype is tw.float64


@pytest.mark.parametrize(
    ("data", "message"),
    [
        ([[1, 2], [3]], r"data\[1\] has length 1, but by its neighbours length 2 was expected in dimension 1"),
        ([1, [2]], r"data\[1\] is a sequence of length 1, but by its neighbours a number was expected"),
        ([[1, 2], 3], r"data\[1\] is the number 3, but by its neighbours shape \(2,\) was expected"),
        ([[[1], [2]], [[3], [4, 5]]], r"data\[1\]\[1\] has length 2"),
    ],
)
def test_ragged_lists_tell_where(data, message):
    with pytest.raises(ShapeError, match=message):
        tw.tensor(data)


def test_data_that_is_no_number():
    with pytest.raises(DTypeError, match=r"data\[1\] is a str"):
        tw.tensor([1, "a"])
    with pytest.raises(DTypeError, match="can't be made of a str"):
        tw.tensor("abc")
    with pytest.raises(DTypeError, match="can't be made of a NoneType"):
        tw.tensor(None)
    with pytest.raises(TwofoldError, match="can't be stored as uint8"):
        tw.tensor([300], dtype=tw.uint8)
    with pytest.raises(DTypeError, match="no dtype of a tensor"):
        tw.tensor(np.array(["a"]))


def test_requires_grad():
    assert tw.tensor([1.0], requires_grad=True).requires_grad
    assert tw.zeros(2, requires_grad=True).is_leaf
    assert (tw.arange(3.0, requires_grad=True) * 2).requires_grad
    with pytest.raises(AutogradError, match="only floating and complex tensors can require gradients"):
        tw.tensor([1], requires_grad=True)


def test_as_tensor_shares_memory():
    a = np.zeros(3, np.float32)
    x = tw.as_tensor(a)
    x += 1
    assert a.tolist() == [1.0, 1.0, 1.0]
    assert tw.as_tensor(x) is x
    assert tw.as_tensor(a, dtype=tw.float64).dtype is tw.float64
    b = tw.asarray(a, copy=True)
    b += 1
    assert a[0] == 1.0
    with pytest.raises(TwofoldError, match="can't be used without a copy"):
        tw.asarray([1, 2], copy=False)


@pytest.mark.parametrize("name", ["zeros", "ones"])
def test_constants(name):
    fn, torch_fn = getattr(tw, name), getattr(torch, name)
    for size in ((2, 3), ((2, 3),), ([2, 3],), (0,), (4,), ((),)):
        assert_same(fn(*size), torch_fn(*size))
    assert_same(fn(2, dtype=tw.int32), torch_fn(2, dtype=torch.int32))
    assert_same(fn(size=(2, 1)), torch_fn(size=(2, 1)))
    with pytest.raises(ShapeError, match="no size was given"):
        fn()
    with pytest.raises(ShapeError, match="sizes must be integers"):
        fn(2.5)
    with pytest.raises(ShapeError, match="negative"):
        fn(-1)
    x, t = fn(2, 3, dtype=tw.float16), torch_fn(2, 3, dtype=torch.float16)
    assert_same(getattr(tw, name + "_like")(x), getattr(torch, name + "_like")(t))
    assert_same(getattr(tw, name + "_like")(x, dtype=tw.bool), getattr(torch, name + "_like")(t, dtype=torch.bool))
    assert_same(getattr(x, "new_" + name)(4, 1), getattr(t, "new_" + name)(4, 1))
    assert_same(getattr(x, "new_" + name)((4, 1)), getattr(t, "new_" + name)((4, 1)))


def test_empty_and_full():
    assert tw.empty(2, 3).tolist() == [[0.0] * 3] * 2
    assert tw.empty_like(tw.ones(2, dtype=tw.int8)).dtype is tw.int8
    assert tw.ones(1).new_empty(2).shape == (2,)
    for value in (1, 2.5, True, 1j):
        assert_same(tw.full((2, 2), value), torch.full((2, 2), value))
        assert_same(tw.full((), value), torch.full((), value))
    assert_same(tw.full((2,), 3, dtype=tw.float64), torch.full((2,), 3, dtype=torch.float64))
    x, t = tw.zeros(2, dtype=tw.int64), torch.zeros(2, dtype=torch.int64)
    assert_same(tw.full_like(x, 7), torch.full_like(t, 7))
    assert_same(x.new_full((3,), 2), t.new_full((3,), 2))
    assert_same(x.new_tensor([1.5]), t.new_tensor([1.5]))
    assert tw.full((2,), tw.tensor(3.0)).tolist() == [3.0, 3.0]
    assert_same(tw.scalar_tensor(2), torch.scalar_tensor(2))


@pytest.mark.parametrize(
    "args",
    [(5,), (0,), (5.0,), (2, 5), (2, 2), (1, 10, 3), (10, 1, -3), (1, 2, 0.25), (0, 1, 0.1), (0.5, 3), (5, 0, -1.5),
     (-3, 3), (1.0, 1.3, 0.1), (2, 2.5)],
    ids=str,
)  # fmt: skip
def test_arange(args):
    compare("arange", args)
    compare("arange", args, {"dtype": tw.float64})
    compare("arange", args, {"dtype": tw.int32}) if all(isinstance(a, int) for a in args) else None


def test_arange_keywords_and_errors():
    assert tw.arange(start=1, end=4).tolist() == [1, 2, 3]
    assert tw.arange(1, end=4, step=2).tolist() == [1, 3]
    assert tw.arange(tw.tensor(3)).tolist() == [0, 1, 2]
    with pytest.raises(TwofoldError, match="step must not be 0"):
        tw.arange(1, 2, 0)
    with pytest.raises(TwofoldError, match="leads from 2 away from 1"):
        tw.arange(2, 1)
    with pytest.raises(TwofoldError, match="must be finite"):
        tw.arange(float("inf"))


@pytest.mark.parametrize(("start", "end"), [(0, 1), (-3, 10), (2.5, 2.5), (5, -5)])
@pytest.mark.parametrize("steps", [0, 1, 2, 5, 100])
def test_linspace(start, end, steps):
    compare("linspace", (start, end, steps), rtol=1e-5)
    compare("linspace", (start, end, steps), {"dtype": tw.float64})
    compare("logspace", (start, end, steps), rtol=1e-5) if end < 10 else None
    compare("logspace", (0, 3, steps, 2.0), rtol=1e-5)


def test_linspace_ends_are_exact():
    x = tw.linspace(0.1, 0.7, 7, dtype=tw.float64)
    assert x[0].item() == 0.1 and x[-1].item() == 0.7
    with pytest.raises(TwofoldError, match="must not be negative"):
        tw.linspace(0, 1, -1)


def test_eye_and_triangles():
    for args in ((3,), (2, 4), (4, 2), (0,), (0, 2)):
        compare("eye", args)
    compare("eye", (2,), {"dtype": tw.bool})
    x = tw.arange(24.0).reshape(2, 3, 4)
    for diagonal in range(-4, 5):
        compare("tril", (x,), {"diagonal": diagonal})
        compare("triu", (x, diagonal))
        compare("tril_indices", (3, 4, diagonal))
        compare("triu_indices", (4, 3, diagonal))
    compare("tril", (tw.ones(2, 2, dtype=tw.bool),))
    y = tw.ones(2, 2)
    assert y.tril_() is y and y.tolist() == [[1.0, 0.0], [1.0, 1.0]]
    with pytest.raises(ShapeError, match="at least 2 dimensions"):
        tw.tril(tw.zeros(3))


@pytest.mark.parametrize("indexing", ["ij", "xy"])
def test_meshgrid(indexing):
    xs = [tw.arange(2), tw.arange(3), tw.arange(4)]
    for n in (1, 2, 3):
        compare("meshgrid", tuple(xs[:n]), {"indexing": indexing})
        compare("meshgrid", (xs[:n],), {"indexing": indexing})
    with pytest.raises(TwofoldError, match="indexing='zz' is not known"):
        tw.meshgrid(*xs, indexing="zz")
    with pytest.raises(ShapeError, match="expected 0-d or 1-d tensors"):
        tw.meshgrid(tw.zeros(2, 2))


def test_products_and_combinations():
    compare("cartesian_prod", (tw.arange(2), tw.arange(3)))
    compare("cartesian_prod", (tw.arange(2),))
    for r, again in itertools.product((1, 2, 3), (False, True)):
        compare("combinations", (tw.arange(4), r, again))
    for n, increasing in itertools.product((None, 0, 1, 5), (False, True)):
        compare("vander", (tw.tensor([1.0, 2.0, 3.0]),), {"N": n, "increasing": increasing})
    with pytest.raises(ShapeError, match="expected a 1-d tensor"):
        tw.combinations(tw.zeros(2, 2))


def test_frombuffer_and_sequences():
    buffer = bytearray(np.arange(4, dtype=np.int16).tobytes())
    x = tw.frombuffer(buffer, dtype=tw.int16)
    x[0] = 9
    assert np.frombuffer(buffer, np.int16).tolist() == [9, 1, 2, 3]
    assert tw.frombuffer(buffer, dtype=tw.int16, count=2, offset=2).tolist() == [1, 2]
    assert tw.tensor(array.array("i", [1, 2])).tolist() == [1, 2]


def test_creation_inside_a_trace():
    def fn(x):
        return x + tw.arange(3) + tw.tensor([1.0, 2.0, 3.0]) + tw.ones(3) + tw.tril(tw.ones(3, 3))[2]

    x = tw.tensor([1.0, 1.0, 1.0])
    traced = tw.trace(fn, x)
    assert traced(x).tolist() == fn(x).tolist()
    assert len(traced.graph.inputs) == 1


def test_finfo_and_iinfo():
    for name in ("float16", "bfloat16", "float32", "float64"):
        mine, theirs = tw.finfo(getattr(tw, name)), torch.finfo(getattr(torch, name))
        for field in ("bits", "eps", "max", "min", "tiny", "smallest_normal"):
            assert getattr(mine, field) == getattr(theirs, field), (name, field)
    for name in ("uint8", "int8", "int16", "int32", "int64"):
        mine, theirs = tw.iinfo(getattr(tw, name)), torch.iinfo(getattr(torch, name))
        assert (mine.min, mine.max, mine.bits) == (theirs.min, theirs.max, theirs.bits)
    assert tw.finfo().dtype == "float32"
    with pytest.raises(DTypeError, match="finfo is for floating dtypes"):
        tw.finfo(tw.int8)
    with pytest.raises(DTypeError, match="iinfo is for integer dtypes"):
        tw.iinfo(tw.float32)


@pytest.mark.parametrize("name", ["hann_window", "hamming_window", "blackman_window", "bartlett_window"])
def test_windows(name):
    for length, periodic in itertools.product((0, 1, 2, 5, 8), (True, False)):
        compare(name, (length, periodic), {"dtype": tw.float64})
        compare(name, (length, periodic), rtol=1e-6)


@pytest.mark.parametrize("name", ["zeros", "ones_like", "new_empty"])
def test_unknown_arguments_are_refused_by_the_functions_name(name):
    call = getattr(tw.zeros(1), name) if name.startswith("new_") else getattr(tw, name)
    with pytest.raises(TypeError, match=rf"^{name.split('_')[name.startswith('new_')]}\(\) got an unexpected"):
        call(tw.zeros(2) if name.endswith("_like") else 2, foo=1)
