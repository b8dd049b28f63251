"""Comparisons, bits and the choice between two tensors."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any

import numpy as np

from ..ir.dtypes import BOOL, EVERY, INTEGERS, REALS, DType, bool_
from ..ir.errors import DTypeError, ShapeError
from ..ir.primitive import ErrorSample, Primitive, Sample
from ..ir.types import TensorType, broadcast_shapes
from ._rules import (
    as_operand,
    binary_errors,
    binary_rule,
    binary_samples,
    check_same_dtype,
    draw,
    strict,
    unbroadcast,
)

# --- comparisons --------------------------------------------------------------------------------


def ordered(ufunc: Callable[..., Any]) -> Callable[..., Any]:
    """`strict(ufunc)` that refuses complex numbers, which NumPy orders by their real parts first."""
    exact = strict(ufunc)  # type: ignore[arg-type]

    def call(x: Any, y: Any) -> Any:
        if (x if hasattr(x, "dtype") else y).dtype.kind == "c":
            raise TypeError("complex numbers have no order")
        return exact(x, y)

    return call


def _comparison(name: str, numpy: Callable[..., Any], dtypes: frozenset[DType]) -> Primitive:
    return Primitive(
        name,
        type_rule=binary_rule(name, dtypes, bool_),
        numpy=numpy,
        nondiff="the result is boolean",
        samples=binary_samples(),
        errors=binary_errors(dtypes),
        dtypes=dtypes,
        torch=name,
        checked_by_numpy=True,
    )


eq = _comparison("eq", strict(np.equal), EVERY)
ne = _comparison("ne", strict(np.not_equal), EVERY)
lt = _comparison("lt", ordered(np.less), REALS | BOOL)
le = _comparison("le", ordered(np.less_equal), REALS | BOOL)
gt = _comparison("gt", ordered(np.greater), REALS | BOOL)
ge = _comparison("ge", ordered(np.greater_equal), REALS | BOOL)

# --- bits ---------------------------------------------------------------------------------------


def _bits(name: str, ufunc: np.ufunc, dtypes: frozenset[DType], **fields: Any) -> Primitive:
    return Primitive(
        name,
        type_rule=binary_rule(name, dtypes),
        numpy=strict(ufunc),
        nondiff="integers have no derivative",
        samples=fields.pop("samples", binary_samples(-100, 100)),
        errors=binary_errors(dtypes),
        dtypes=dtypes,
        torch=fields.pop("torch", name),
        checked_by_numpy=True,
    )


_shifts = binary_samples(-100, 100, second=(0, 7), special=False)
bitwise_and = _bits("bitwise_and", np.bitwise_and, INTEGERS | BOOL)
bitwise_or = _bits("bitwise_or", np.bitwise_or, INTEGERS | BOOL)
bitwise_xor = _bits("bitwise_xor", np.bitwise_xor, INTEGERS | BOOL)
shift_left = _bits("shift_left", np.left_shift, INTEGERS, samples=_shifts, torch="bitwise_left_shift")
shift_right = _bits("shift_right", np.right_shift, INTEGERS, samples=_shifts, torch="bitwise_right_shift")

# --- where --------------------------------------------------------------------------------------


def _where_type(cond: TensorType, x: TensorType, y: TensorType) -> TensorType:
    if cond.dtype is not bool_:
        raise DTypeError(
            f"the condition has dtype {cond.dtype.name}, expected bool",
            op="where",
            hint="compare first, e.g. cond != 0",
        )
    dtype = check_same_dtype("where", x, y)
    return TensorType(broadcast_shapes(cond.shape, x.shape, y.shape, op="where"), dtype)


_BOOL = np.dtype(np.bool_)


def _where(cond: Any, x: Any, y: Any) -> Any:
    if not hasattr(y, "dtype"):
        y = as_operand(y, x.dtype)
    elif not hasattr(x, "dtype"):
        x = as_operand(x, y.dtype)
    if cond.dtype != _BOOL or x.dtype != y.dtype:
        raise TypeError("where takes a bool condition and two operands of one dtype")
    return np.where(cond, x, y)


def _where_samples(dtype: DType, rng: np.random.Generator) -> Iterator[Sample]:
    shapes: tuple[tuple[tuple[int, ...], ...], ...] = (
        ((2, 3), (2, 3), (2, 3)),
        ((3,), (2, 1), ()),
        ((), (2,), (2,)),
        ((), (), ()),
        ((2, 1), (0,), (1,)),
    )
    for c, x, y in shapes:
        yield Sample((draw(bool_, rng, c), draw(dtype, rng, x), draw(dtype, rng, y)))
    cond = draw(bool_, rng, (2, 3))
    yield Sample((cond, draw(dtype, rng, (3,)), draw(dtype, rng, ()).item()))
    yield Sample((cond, draw(dtype, rng, ()).item(), draw(dtype, rng, (2, 1))))


def _where_errors() -> list[ErrorSample]:
    x, cond = np.ones((2, 3), np.float32), np.ones((2, 3), np.bool_)
    return [
        ErrorSample((x, x, x), {}, DTypeError, "expected bool"),
        ErrorSample((cond, x, x.astype(np.float64)), {}, DTypeError, "different dtypes"),
        ErrorSample((cond, x, np.ones(4, np.float32)), {}, ShapeError, "do not broadcast"),
    ]


where: Primitive = Primitive(
    "where",
    type_rule=_where_type,
    numpy=_where,
    vjp=(
        None,
        lambda g, _y, cond, _a, _b: unbroadcast(where(cond, g, 0), _a.shape),
        lambda g, _y, cond, _a, _b: unbroadcast(where(cond, 0, g), _b.shape),
    ),
    samples=_where_samples,
    errors=_where_errors,
    torch="where",
    checked_by_numpy=True,
)
