"""Changes in place: what nobody traces or records is written at once, and nobody can tell."""

from __future__ import annotations

import operator
from typing import Any

import numpy as np
import pytest

import twofold as tw
from twofold.ir.errors import AutogradError, DTypeError, OutOfBoundsError, ShapeError

DTYPES = (tw.float32, tw.float64, tw.float16, tw.bfloat16, tw.int32, tw.complex64)
OPERATORS = {"add": operator.iadd, "sub": operator.isub, "mul": operator.imul, "div": operator.itruediv}


def values(*shape: int, dtype: Any = tw.float32, seed: int = 0) -> tw.Tensor:
    return tw.tensor(np.random.default_rng(seed).integers(1, 9, shape)).to(dtype)


def bits(x: tw.Tensor) -> Any:
    return x.dtype, x.shape, x.detach().numpy().tobytes()


@pytest.mark.parametrize("name", OPERATORS)
@pytest.mark.parametrize("dtype", DTYPES)
def test_arithmetic_is_that_of_the_form_that_returns(name: str, dtype: Any) -> None:
    if name == "div" and dtype is tw.int32:
        return
    for other in (values(3, 4, dtype=dtype, seed=1), values(4, dtype=dtype, seed=2), values(dtype=dtype), 3, 2):
        x = values(3, 4, dtype=dtype)
        want, y = getattr(x, name)(other), x.clone()
        assert getattr(x, name + "_")(other) is x and bits(x) == bits(want)
        z = OPERATORS[name](y, other)
        assert z is y and bits(y) == bits(want) and y._version == 1
    x = values(3, 4, dtype=dtype)
    assert bits(getattr(x, name)(x)) == bits(getattr(x, name + "_")(x))


@pytest.mark.parametrize("name", ["add", "sub"])
@pytest.mark.parametrize("alpha", [0.3, -2, True])
def test_alpha(name: str, alpha: Any) -> None:
    for other in (values(4, seed=1), 0.7):
        x = values(3, 4)
        want = getattr(x, name)(other, alpha=alpha)
        assert bits(getattr(x, name + "_")(other, alpha=alpha)) == bits(want)
    with pytest.raises(TypeError, match="alpha"):
        values(3).mul_(values(3), alpha=2)


def test_what_goes_wrong_changes_nothing() -> None:
    x = values(3)
    before = bits(x)
    for wrong, error in (
        (lambda: x.add_(values(4)), ShapeError),
        (lambda: x.add_(values(2, 3)), ShapeError),
        (lambda: x.mul_(values(3, dtype=tw.complex64)), DTypeError),
        (lambda: x.__setitem__(3, 1.0), OutOfBoundsError),
        (lambda: x.__setitem__(slice(0, 2), values(3)), ShapeError),
        (lambda: x.__setitem__(tw.tensor([0, 3]), 1.0), OutOfBoundsError),
        (lambda: x.__setitem__(tw.tensor([True, False]), 1.0), (ShapeError, OutOfBoundsError)),
        (lambda: x.masked_fill_(tw.tensor([True, False]), 1.0), ShapeError),
        (lambda: x.masked_fill_(values(3), 1.0), DTypeError),
        (lambda: x.masked_fill_(tw.ones(3).bool(), 1j), DTypeError),
    ):
        with pytest.raises(error):
            wrong()
        assert bits(x) == before and x._version == 0


def test_memory_that_must_not_be_written() -> None:
    x, array = tw.ones(1).expand(3), np.ones(3, np.float32)
    array.flags.writeable = False
    y = tw.from_numpy(array)
    for t in (x, y):
        for write in (
            lambda t: t.add_(1.0),
            lambda t: t.zero_(),
            lambda t: t.__setitem__(0, 2.0),
            lambda t: t.normal_(),
            lambda t: t.masked_fill_(t > 0, 0.0),
        ):
            with pytest.raises(AutogradError, match="can't be written"):
                write(t)
    assert (array == 1).all()


WRITES: dict[str, Any] = {
    "add_": lambda t: t.add_(1.0),
    "mul_": lambda t: t.mul_(tw.full((3,), 2.0)),
    "fill_": lambda t: t.fill_(3),
    "zero_": lambda t: t.zero_(),
    "part": lambda t: t.__setitem__(slice(1, 3), 5.0),
    "mask": lambda t: t.__setitem__(tw.tensor([True, False, True]), 5.0),
    "places": lambda t: t.__setitem__(tw.tensor([2, 0]), tw.tensor([7.0, 8.0])),
    "masked_fill_": lambda t: t.masked_fill_(tw.tensor([True, False, True]), 5.0),
    "uniform_": lambda t: t.uniform_(),
}


@pytest.mark.parametrize("name", WRITES)
def test_writes_are_noticed(name: str) -> None:
    write = WRITES[name]
    leaf = tw.ones(3, requires_grad=True)
    with pytest.raises(AutogradError, match="leaf"):
        write(leaf)
    base = tw.zeros(2, 3)
    write(base[1])
    assert base[0].tolist() == [0, 0, 0] and base._version == 1
    kept = tw.ones(3)
    y = leaf * kept
    write(kept)
    with pytest.raises(AutogradError, match="changed in"):
        y.sum().backward()
    made = leaf * 2
    write(made)
    assert made.requires_grad
    made.sum().backward()
    assert leaf.grad is not None and leaf.grad.shape == (3,)
    with tw.no_grad():
        write(leaf)
    assert leaf.requires_grad and leaf.is_leaf


def test_numbers_that_do_not_fit() -> None:
    with pytest.raises(DTypeError, match="does not fit"):
        tw.zeros(2, dtype=tw.int8).fill_(300)
    assert tw.zeros(2, dtype=tw.uint8).fill_(-1).tolist() == [255, 255]
    assert tw.zeros(2, dtype=tw.int32).fill_(2.9).tolist() == [2, 2]
    assert tw.zeros(2, dtype=tw.bool).fill_(3).tolist() == [True, True]
    assert tw.zeros(2, 2)[0].fill_(tw.tensor(4)).tolist() == [4, 4]


KEYS = (
    0, -1, slice(1, None), slice(None, None, 2), slice(2, 2), None, ..., (), (0, 1), (..., 0), (None, 1),
    (slice(None), None, 2), (1, ...), (slice(0, 2), slice(1, 3)), (0, None, ..., slice(1, 2)),
)  # fmt: skip


@pytest.mark.parametrize("key", KEYS, ids=str)
def test_keys_are_those_of_numpy(key: Any) -> None:
    x = values(3, 4, 2)
    array = x.numpy().copy()
    assert x[key].numpy().tobytes() == array[key].tobytes() and x[key].shape == array[key].shape
    assert x[key]._base is not None
    for value in (7.5, np.arange(2, dtype=np.float32)):
        try:
            array[key] = value
        except ValueError:
            with pytest.raises(ShapeError):
                x[key] = tw.tensor(value)
            continue
        x[key] = tw.tensor(value) if isinstance(value, np.ndarray) else value
        assert x.numpy().tobytes() == array.tobytes()


def test_a_tensor_is_moved_onto_itself() -> None:
    x = tw.arange(6)
    x[1:] = x[:-1]
    assert x.tolist() == [0, 0, 1, 2, 3, 4]
    x[tw.tensor([0, 1])] = x[4:]
    assert x.tolist() == [3, 4, 1, 2, 3, 4]
    x[tw.tensor([0, 5])] = x[1]
    assert x.tolist() == [4, 4, 1, 2, 3, 4]


def test_shapes_that_change_keep_little() -> None:
    x = tw.ones(2, 3)
    for _ in range(100):
        x.t_()
    assert len(x._earlier) == 1 and x.shape == (2, 3)
    view = x[0]
    x.t_()
    x[0, 1] = 5.0
    assert x.shape == (3, 2) and view.tolist() == [1, 1, 1] and x[0].tolist() == [1, 5]
    view[2] = 9.0
    assert x[2].tolist() == [9, 1]
