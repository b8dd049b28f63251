"""Linear algebra: the matrix product, from which the rest is composed."""

from __future__ import annotations

import math
from collections.abc import Iterator
from typing import Any

import numpy as np

from ..ir.dtypes import NUMBERS, DType, float32
from ..ir.errors import DTypeError, ShapeError
from ..ir.primitive import ErrorSample, Primitive, Sample
from ..ir.types import TensorType, broadcast_shapes
from ._rules import check_dtype, check_same_dtype, draw, unbroadcast, via_float32
from .movement import permute, reshape

Array = np.ndarray[Any, Any]


def matrix_transpose(x: Any) -> Any:
    """A view of tensor `x` with its last two dimensions swapped."""
    n = x.ndim
    return permute(x, dims=(*range(n - 2), n - 1, n - 2))


def _mend(a: TensorType, b: TensorType) -> str:
    if a.shape[-1] == b.shape[-1]:
        return "transpose the second operand: a @ b.mT"
    if a.shape[-2] == b.shape[-2]:
        return "transpose the first operand: a.mT @ b"
    return "the last size of the first operand must equal the last but one of the second"


def _matmul_type(a: TensorType, b: TensorType) -> TensorType:
    check_dtype("matmul", check_same_dtype("matmul", a, b), NUMBERS)
    if a.ndim < 2 or b.ndim < 2:
        raise ShapeError(f"{a.shape} @ {b.shape}: both operands need two dimensions", op="matmul")
    if a.shape[-1] != b.shape[-2]:
        raise ShapeError(
            f"{a.shape} @ {b.shape}: inner sizes {a.shape[-1]} and {b.shape[-2]} differ",
            op="matmul",
            hint=_mend(a, b),
        )
    batch = broadcast_shapes(a.shape[:-2], b.shape[:-2], op="matmul")
    return a.with_shape((*batch, a.shape[-2], b.shape[-1]))


def _matmul(a: Array, b: Array) -> Array:
    dtype = a.dtype
    if dtype != b.dtype or dtype.kind == "b":
        raise TypeError  # NumPy would promote, and take "or" of "and" for bools
    if a.ndim == 2 and b.ndim == 2 and dtype.kind == "f":
        return a.dot(b)  # the same product, called in half the time
    if b.ndim != 2:
        if a.ndim < 2 or b.ndim < 2:
            raise ValueError
        return np.matmul(a, b)
    if a.ndim == 2:
        return np.matmul(a, b)
    if a.ndim < 2:
        raise ValueError
    rows = math.prod(a.shape[:-1])  # one large product instead of one a batch item
    return np.matmul(a.reshape(rows, a.shape[-1]), b).reshape(*a.shape[:-1], b.shape[1])


def _matmul_vjp_b(g: Any, _y: Any, a: Any, _b: Any) -> Any:
    if _b.ndim == 2 and a.ndim > 2:  # the sum over the batch belongs inside the product
        rows = math.prod(a.shape[:-1])
        flat = reshape(a, shape=(rows, a.shape[-1]))
        return matmul(matrix_transpose(flat), reshape(g, shape=(rows, g.shape[-1])))
    return unbroadcast(matmul(matrix_transpose(a), g), _b.shape)


def _samples(dtype: DType, rng: np.random.Generator) -> Iterator[Sample]:
    for a, b in (
        ((2, 3), (3, 4)), ((2, 3, 4), (4, 2)), ((3, 4), (2, 4, 2)), ((2, 1, 2, 3), (3, 3, 1)),
        ((1, 1), (1, 1)), ((0, 3), (3, 2)), ((2, 0), (0, 3)), ((0, 2, 3), (3, 1)), ((2, 2, 0), (0, 3)),
    ):  # fmt: skip
        yield Sample((draw(dtype, rng, a), draw(dtype, rng, b)))


def _error(a: tuple[int, ...], b: tuple[int, ...], match: str) -> ErrorSample:
    return ErrorSample((np.zeros(a), np.zeros(b)), {}, ShapeError, match)


matmul: Primitive = Primitive(
    "matmul",
    type_rule=_matmul_type,
    numpy=via_float32(_matmul),
    vjp=(
        lambda g, _y, _a, b: unbroadcast(matmul(g, matrix_transpose(b)), _a.shape),
        _matmul_vjp_b,
    ),
    samples=_samples,
    errors=lambda: (
        _error((8, 3), (4, 5), "(8, 3) @ (4, 5): inner sizes 3 and 4 differ"),
        _error((3,), (3, 2), "both operands need two dimensions"),
        _error((2, 3), (3,), "both operands need two dimensions"),
        _error((2, 2, 3), (3, 3, 2), "do not broadcast"),
        ErrorSample((np.zeros((2, 2)), np.zeros((2, 2), float32.numpy)), {}, DTypeError, "different dtypes"),
        ErrorSample((np.ones((2, 2), np.bool_),) * 2, {}, DTypeError, "bool is not supported"),
    ),
    dtypes=NUMBERS,
    torch="matmul",
    checked_by_numpy=True,
)
