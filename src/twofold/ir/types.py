"""TensorType: what is known of a tensor before it runs. Shape arithmetic."""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence
from typing import Any

import numpy as np

from .dtypes import FROM_NUMPY, DType, as_dtype
from .errors import OutOfBoundsError, ShapeError

Shape = tuple[int, ...]


class TensorType:
    """Shape and dtype. Equal types compare equal and hash alike.

    >>> from twofold.ir.dtypes import float32
    >>> TensorType((2, 3), float32)
    float32[2, 3]
    """

    __slots__ = ("dtype", "shape")

    def __init__(self, shape: Iterable[int], dtype: DType):
        self.shape: Shape = tuple(shape)
        self.dtype = dtype

    @classmethod
    def of(cls, array: np.ndarray[Any, Any]) -> TensorType:
        """The type of a NumPy array."""
        return cls(array.shape, FROM_NUMPY.get(array.dtype) or as_dtype(array.dtype))

    @property
    def ndim(self) -> int:
        return len(self.shape)

    @property
    def size(self) -> int:
        """Number of elements."""
        return math.prod(self.shape)

    @property
    def nbytes(self) -> int:
        return self.size * self.dtype.itemsize

    def with_shape(self, shape: Iterable[int]) -> TensorType:
        return TensorType(shape, self.dtype)

    def with_dtype(self, dtype: DType) -> TensorType:
        return TensorType(self.shape, dtype)

    def __eq__(self, other: object) -> bool:
        return isinstance(other, TensorType) and self.shape == other.shape and self.dtype is other.dtype

    def __hash__(self) -> int:
        return hash((self.shape, self.dtype.name))

    def __repr__(self) -> str:
        return f"{self.dtype.name}[{', '.join(map(str, self.shape))}]"


def broadcast_shapes(*shapes: Sequence[int], op: str | None = None) -> Shape:
    """The shape that all broadcast to, by NumPy's rule.

    >>> broadcast_shapes((3, 1), (4,))
    (3, 4)
    """
    ndim = max((len(s) for s in shapes), default=0)
    out = [1] * ndim
    for shape in shapes:
        for i, n in enumerate(shape, ndim - len(shape)):
            if out[i] == 1:
                out[i] = n
            elif n not in (1, out[i]):
                texts = " and ".join(str(tuple(s)) for s in shapes)
                raise ShapeError(
                    f"shapes {texts} do not broadcast: sizes {out[i]} and {n} differ in dimension {i - ndim}",
                    op=op,
                    hint=_broadcast_hint(shapes),
                )
    return tuple(out)


def _broadcast_hint(shapes: Sequence[Sequence[int]]) -> str:
    rule = "sizes must be equal or 1, counted from the last dimension"
    if len(shapes) == 2:
        a, b = (tuple(s) for s in shapes)
        if a == b[::-1] and len(a) == 2:
            return f"{rule}; transpose one of them: x.t()"
        small, large = sorted((a, b), key=len)
        if len(small) < len(large) and small == large[: len(small)]:
            added = len(large) - len(small)
            names = ", ".join(["None"] * added)
            return f"{rule}; x[..., {names}] makes {small + (1,) * added} of {small}, which fits"
    return f"{rule}; unsqueeze() or reshape() one of them"


def canonical_dim(dim: int, ndim: int, *, op: str | None = None) -> int:
    """`dim` as a number in [0, ndim); a 0-d tensor accepts 0 and -1 as PyTorch does."""
    if dim.__class__ is int and -ndim <= dim < ndim:
        return dim % ndim
    n = max(ndim, 1)
    try:
        dim = dim.__index__()
    except AttributeError:
        raise OutOfBoundsError(f"dim must be an integer, got {dim!r}", op=op) from None
    if not -n <= dim < n:
        raise OutOfBoundsError(
            f"dim {dim} is outside a {ndim}-d tensor",
            op=op,
            hint=f"dim must be between {-n} and {n - 1}",
        )
    return dim % n


ALL_DIMS = tuple([tuple(range(n)) for n in range(65)])  # NumPy's arrays have at most 64


def canonical_dims(dims: int | Sequence[int] | None, ndim: int, *, op: str | None = None) -> Shape:
    """Sorted dimension numbers; None means all. Repeats are an error."""
    if dims is None:
        return ALL_DIMS[ndim]
    if dims.__class__ is int and -ndim <= dims < ndim:
        return (dims % ndim,)
    if not isinstance(dims, (tuple, list)):
        dims = (dims,)  # type: ignore[assignment]
    out = sorted(canonical_dim(d, ndim, op=op) for d in dims)  # type: ignore[union-attr]
    if len(set(out)) != len(out):
        raise ShapeError(f"dim {tuple(dims)} names a dimension twice", op=op)  # type: ignore[arg-type]
    return tuple(d for d in out if d < ndim)


def contiguous_strides(shape: Sequence[int]) -> Shape:
    """Strides in elements of a row-major tensor.

    >>> contiguous_strides((2, 3, 4))
    (12, 4, 1)
    """
    out, step = [], 1
    for n in reversed(shape):
        out.append(step)
        step *= max(n, 1)
    return tuple(reversed(out))
