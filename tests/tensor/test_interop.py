"""Tensors and the outside: numbers, lists, NumPy, DLPack, copies, dtypes, devices; and no values while tracing."""

from __future__ import annotations

import copy
import operator
import pickle

import numpy as np
import pytest
import torch
from torch_oracle import assert_same, to_torch

import twofold as tw
from twofold.ir.errors import AutogradError, DTypeError, OutOfBoundsError, ShapeError, TraceError, TwofoldError

DTYPES = (
    "bool",
    "uint8",
    "int8",
    "int16",
    "int32",
    "int64",
    "float16",
    "float32",
    "float64",
    "complex64",
    "complex128",
)


# --- numbers and lists --------------------------------------------------------------------------


@pytest.mark.parametrize("value", [1, 1.5, True, 2 + 1j])
def test_item_and_tolist(value):
    x = tw.tensor([[value]])
    assert x.item() == value and type(x.item()) is type(value)
    assert x.tolist() == [[value]]
    assert tw.tensor(value).tolist() == value


def test_bfloat16_values():
    x = tw.tensor([1.5, 2.5], dtype=tw.bfloat16)
    assert x.tolist() == [1.5, 2.5] and type(x.tolist()[0]) is float
    assert x[0].item() == 1.5


def test_item_wants_one_element():
    with pytest.raises(ShapeError, match=r"\[item\(\)\] a tensor with 2 elements"):
        tw.zeros(2).item()


def test_python_conversions():
    x = tw.tensor([2.5])
    assert int(x) == 2 and float(x) == 2.5 and complex(x) == 2.5 + 0j
    assert bool(tw.tensor(1)) and not tw.tensor([[0.0]])
    assert operator.index(tw.tensor(3)) == 3
    assert [10, 20, 30][tw.tensor(1)] == 20
    assert list(range(tw.tensor(2))) == [0, 1]
    with pytest.raises(DTypeError, match="only an integer tensor with one element can be an index"):
        operator.index(x)
    with pytest.raises(ShapeError, match="truth of a tensor with more than one value"):
        bool(tw.zeros(2))
    with pytest.raises(ShapeError, match="no values"):
        bool(tw.zeros(0))


def test_as_a_container():
    x = tw.arange(6).reshape(3, 2)
    assert len(x) == 3
    assert [row.tolist() for row in x] == [[0, 1], [2, 3], [4, 5]]
    assert 4 in x and 9 not in x
    assert [row.tolist() for row in reversed(x)] == [[4, 5], [2, 3], [0, 1]]
    _, b, _ = x
    b += 10  # rows are views
    assert x[1].tolist() == [12, 13]
    assert {x: 1}[x] == 1 and hash(x) != hash(x.clone())
    with pytest.raises(TypeError, match="0-d tensor has no length"):
        len(tw.tensor(1))
    with pytest.raises(TypeError, match="can't be iterated"):
        iter(tw.tensor(1))


def test_iteration_carries_gradients():
    x = tw.tensor([1.0, 2.0, 3.0], requires_grad=True)
    a, _, c = x
    (a * c).backward()
    assert x.grad.tolist() == [3.0, 0.0, 1.0]


# --- NumPy --------------------------------------------------------------------------------------


@pytest.mark.parametrize("dtype", DTYPES)
def test_numpy_shares_memory_both_ways(dtype):
    a = np.zeros((2, 3), dtype)
    x = tw.from_numpy(a)
    assert x.dtype.name == dtype
    assert np.shares_memory(x.numpy(), a)
    x[0, 1] = 1
    assert a[0, 1] == 1
    assert np.shares_memory(np.asarray(x), a)
    assert not np.shares_memory(np.array(x), a)


def test_numpy_of_views():
    x = tw.arange(6).reshape(2, 3)
    x.t().numpy()[2, 1] = 50
    assert x[1, 2].item() == 50
    assert x[:, ::2].numpy().tolist() == [[0, 2], [3, 50]]


def test_numpy_functions_and_operators():
    x = tw.tensor([1.0, 2.0])
    assert np.sum(np.asarray(x)) == 3.0
    assert np.asarray(x, dtype=np.int64).tolist() == [1, 2]
    assert isinstance(np.ones(2) * x, tw.Tensor)
    with pytest.raises(ValueError):
        np.array(x, dtype=np.int64, copy=False)


def test_numpy_refuses_to_lose_history():
    x = tw.tensor([1.0], requires_grad=True)
    with pytest.raises(AutogradError, match=r"numpy\(\) of a tensor that requires grad"):
        x.numpy()
    with pytest.raises(AutogradError):
        np.asarray(x)
    assert x.numpy(force=True).tolist() == [1.0]
    assert x.detach().numpy().tolist() == [1.0]


def test_arrays_that_can_not_be_written():
    a = np.arange(3.0)
    a.flags.writeable = False
    x = tw.from_numpy(a)
    assert (x + 1).tolist() == [1.0, 2.0, 3.0]
    with pytest.raises(TwofoldError, match="read-only"):
        x += 1


def test_from_numpy_refuses():
    with pytest.raises(DTypeError, match="expected a NumPy array, got list"):
        tw.from_numpy([1])
    with pytest.raises(DTypeError, match="not in this machine's order"):
        tw.from_numpy(np.zeros(2, ">f4"))
    with pytest.raises(DTypeError, match="no dtype of a tensor"):
        tw.from_numpy(np.array(["a"]))


def test_subclasses_of_ndarray_and_strides():
    x = tw.from_numpy(np.array([[1.0, 2.0]]).view(type("Sub", (np.ndarray,), {})))
    assert type(x.numpy()) is np.ndarray
    a = np.arange(6)[::-1]
    assert tw.from_numpy(a).tolist() == [5, 4, 3, 2, 1, 0]


# --- DLPack -------------------------------------------------------------------------------------


@pytest.mark.parametrize("dtype", DTYPES)
def test_dlpack_with_torch_shares_memory(dtype):
    x = tw.ones(2, 3, dtype=getattr(tw, dtype))
    t = torch.from_dlpack(x)
    t[0, 0] = 0
    assert x[0, 0].item() == 0
    y = tw.from_dlpack(t)
    y[0, 1] = 0
    assert t[0, 1].item() == 0
    assert y.dtype is x.dtype


def test_dlpack_with_numpy_and_itself():
    x = tw.arange(3)
    a = np.from_dlpack(x)
    assert np.shares_memory(a, x.numpy())
    y = tw.from_dlpack(x)
    y[0] = 7
    assert x[0].item() == 7
    assert x.__dlpack_device__() == (1, 0)


def test_dlpack_refuses():
    with pytest.raises(DTypeError, match="list has no __dlpack__ method"):
        tw.from_dlpack([1])
    with pytest.raises(AutogradError):
        tw.ones(1, requires_grad=True).__dlpack__()
    with pytest.raises(BufferError, match="bfloat16"):
        tw.ones(1, dtype=tw.bfloat16).__dlpack__()
    with pytest.raises(DTypeError, match="NumPy can't read this Tensor by DLPack"):
        tw.from_dlpack(torch.ones(1, dtype=torch.bfloat16))


# --- copies -------------------------------------------------------------------------------------


def test_deepcopy():
    x = tw.tensor([1.0, 2.0], requires_grad=True)
    (x * x).sum().backward()
    x.note = ["mine"]
    y = copy.deepcopy(x)
    assert y.requires_grad and y.is_leaf and y.grad.tolist() == [2.0, 4.0] and y.note == ["mine"]
    with tw.no_grad():
        y += 1
    y.note.append("copy")
    assert x.tolist() == [1.0, 2.0] and x.note == ["mine"]
    twice = copy.deepcopy([x, x])
    assert twice[0] is twice[1]
    with pytest.raises(AutogradError, match="only leaf tensors can be deep-copied"):
        copy.deepcopy(x * 2)


def test_shallow_copy_shares_memory():
    x = tw.zeros(2)
    y = copy.copy(x)
    y += 1
    assert x.tolist() == [1.0, 1.0] and y is not x


def test_pickle_is_refused():
    with pytest.raises(TypeError, match=r"tensors are not pickled(.|\n)*twofold\.save"):
        pickle.dumps(tw.zeros(2))


# --- dtypes, devices, sizes ---------------------------------------------------------------------


@pytest.mark.parametrize(
    "name",
    ["float", "double", "half", "bfloat16", "long", "int", "short", "char", "byte", "bool", "cfloat", "cdouble"],
)
def test_cast_methods(name):
    for x in (tw.tensor([0.0, 1.5, 100.0]), tw.tensor([0, 1, 100]), tw.tensor([True, False])):
        assert_same(getattr(x, name)(), getattr(to_torch(x), name)())
    x = getattr(tw.tensor([1]), name)()
    assert getattr(x, name)() is x


def test_to():
    x = tw.tensor([1.5])
    assert x.to(tw.float32) is x and x.to("cpu") is x and x.to(device="cpu:0") is x
    assert x.to(tw.float32, copy=True) is not x
    assert x.to(tw.int64).dtype is tw.int64
    assert x.to("cpu", tw.float64).dtype is tw.float64
    assert x.to(tw.tensor([1])).dtype is tw.int64
    assert x.to(dtype="float16").dtype is tw.float16
    assert x.to(tw.device("cpu"), non_blocking=True) is x
    assert x.type_as(tw.tensor([1])).dtype is tw.int64
    assert x.cpu() is x and x.pin_memory() is x
    y = tw.tensor([1.5], requires_grad=True)
    y.to(tw.float64).sum().backward()
    assert y.grad.dtype is tw.float32


def test_type():
    x = tw.tensor([1.5])
    assert x.type() == "twofold.FloatTensor"
    assert x.type(tw.int64).dtype is tw.int64
    assert x.type("torch.DoubleTensor").dtype is tw.float64
    assert x.long().type() == "twofold.LongTensor"


def test_devices():
    x = tw.zeros(1)
    assert x.device == "cpu" and x.device == tw.device("cpu") and x.device.type == "cpu"
    assert repr(x.device) == repr(torch.device("cpu")) and str(tw.device("cpu:0")) == "cpu:0"
    assert tw.zeros(1, device="cpu").device == "cpu" and not x.is_cuda
    for use in (
        lambda: x.cuda(),
        lambda: x.to("cuda"),
        lambda: tw.zeros(1, device="cuda:0"),
        lambda: tw.device("gpu"),
    ):
        with pytest.raises(TwofoldError, match=r"computes on the CPU only(.|\n)*twofold\[gpu\]"):
            use()
    with pytest.raises(TwofoldError, match="is no device"):
        tw.device("cpu:x")


def test_sizes_and_layout():
    x, t = tw.zeros(2, 3, 4), torch.zeros(2, 3, 4)
    for name in ("dim", "ndimension", "numel", "nelement", "element_size", "stride", "is_contiguous", "size"):
        assert getattr(x, name)() == getattr(t, name)(), name
    assert x.size(1) == 3 and x.size(-1) == 4 and x.stride(0) == 12
    assert x.nbytes == t.nbytes and x.itemsize == t.itemsize and x.ndim == t.ndim
    y, u = x.permute(2, 0, 1)[1:], t.permute(2, 0, 1)[1:]
    assert y.stride() == u.stride() and y.is_contiguous() is u.is_contiguous()
    assert y.storage_offset() == u.storage_offset()
    assert y.contiguous().stride() == u.contiguous().stride()
    assert x.contiguous() is x
    assert x[1].data_ptr() - x.data_ptr() == 12 * 4
    assert x.is_floating_point() and not x.is_complex() and tw.is_tensor(x) and x.is_signed()
    assert tw.is_nonzero(tw.tensor([1]))
    with pytest.raises(OutOfBoundsError, match="dim 3 is outside a 3-d tensor"):
        x.size(3)
    with pytest.raises(IndexError):
        tw.tensor(1).size(0)


# --- tracing ------------------------------------------------------------------------------------

WANTS_VALUE = {
    "item": lambda x: x.item(),
    "tolist": lambda x: x.tolist(),
    "numpy": lambda x: x.numpy(),
    "asarray": lambda x: np.asarray(x),
    "bool": lambda x: bool(x),
    "float": lambda x: float(x),
    "int": lambda x: int(x),
    "if": lambda x: 1 if x > 0 else 2,
    "in": lambda x: 1.0 in x,
    "dlpack": lambda x: x.__dlpack__(),
    "tensor": lambda x: tw.tensor([x, x]),
    "allclose": lambda x: tw.allclose(x, x),
    "equal": lambda x: tw.equal(x, x),
    "data_ptr": lambda x: x.data_ptr(),
}


@pytest.mark.parametrize("name", WANTS_VALUE)
def test_values_do_not_exist_while_tracing(name):
    with pytest.raises(TraceError, match="hint:"):
        tw.trace(WANTS_VALUE[name], tw.ones(()) if name != "in" else tw.ones(2))


def test_layout_is_known_while_tracing():
    seen = []

    def fn(x):
        seen.append((x.stride(), x.t().stride(), x.t().is_contiguous(), len(x), x.size(0)))
        return x.t().contiguous().view(6)

    x = tw.arange(6.0).reshape(2, 3)
    traced = tw.trace(fn, x)
    assert seen == [((3, 1), (1, 3), False, 2, 2)]
    assert traced(x).tolist() == [0.0, 3.0, 1.0, 4.0, 2.0, 5.0]


def test_a_tensor_that_left_its_trace_has_no_value():
    kept = []
    tw.trace(lambda x: (kept.append(x * 2), x)[1], tw.ones(2))
    with pytest.raises(TraceError, match="made while tracing and has no value outside"):
        kept[0].numpy()
    assert repr(kept[0]) == "tensor(<float32[2]>)"


def test_subclasses():
    class Image(tw.Tensor):
        pass

    x = tw.ones(2, requires_grad=True)
    y = (x * 2).as_subclass(Image)
    assert type(y) is Image and type(y * 2) is tw.Tensor
    (y * y).sum().backward()
    assert x.grad.tolist() == [8.0, 8.0]
    with pytest.raises(DTypeError, match="is no subclass of Tensor"):
        x.as_subclass(int)
    assert x.is_cpu and x.get_device() == -1 and x.is_same_size(y)


# Beside NumPy -------------------------------------------------------------------------------------


def test_products_with_arrays():
    a, x = np.arange(6.0).reshape(2, 3), tw.tensor([1.0, 2.0, 3.0], dtype=tw.float64)
    for product in (a @ x, tw.tensor(a) @ x.numpy()):
        assert isinstance(product, tw.Tensor) and product.tolist() == [8.0, 26.0]
    with pytest.raises(TypeError):
        x @ [1.0, 2.0, 3.0]


def test_numpy_functions_of_tensors_give_tensors_as_in_pytorch():
    exp, added = np.exp(tw.tensor([0.0, 0.0])), np.add(tw.tensor([1.0]), np.ones(1))
    assert isinstance(exp, tw.Tensor) and exp.dtype is tw.float32 and exp.tolist() == [1.0, 1.0]
    assert isinstance(added, tw.Tensor) and added.dtype is tw.float64 and added.tolist() == [2.0]


@pytest.mark.parametrize(
    "data",
    [
        np.float64(3), [np.float64(3)], [1, np.float64(3)], [[1.0], [np.float64(3)]], [1.0, np.float32(3)],
        [np.int32(3)], [np.complex128(1)], np.float32(2),
    ],
    ids=str,
)  # fmt: skip
def test_numpy_numbers_keep_their_dtype_as_in_pytorch(data):
    assert tw.tensor(data).dtype.name == str(torch.tensor(data).dtype).removeprefix("torch.")


# The class as a constructor -----------------------------------------------------------------------


@pytest.mark.parametrize("args", [(), (3,), (2, 3), ([1, 2],), ((1.5, 2),), (np.arange(3),)], ids=str)
def test_the_class_makes_tensors_as_in_pytorch(args):
    ours, theirs = tw.Tensor(*args), torch.Tensor(*args)
    assert ours.shape == tuple(theirs.shape) and ours.dtype is tw.float32
    if args and not isinstance(args[0], int):
        assert ours.tolist() == theirs.tolist()


@pytest.mark.parametrize("args", [(2.5,), ("abc",), ([1], [2]), (None,)], ids=str)
def test_the_class_refuses_what_is_no_size_and_no_sequence(args):
    with pytest.raises(tw.ir.errors.DTypeError, match="sizes or one sequence"):
        tw.Tensor(*args)


def test_typename():
    assert tw.typename(tw.zeros(1)) == "twofold.FloatTensor"
    assert tw.typename(3) == "builtins.int"
