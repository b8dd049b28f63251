"""Data types of tensor elements and PyTorch's promotion rules."""

from __future__ import annotations

import functools
from typing import Any

import ml_dtypes
import numpy as np

from .errors import DTypeError


class DType:
    """The type of a tensor's elements, e.g. `twofold.float32`.

    Attributes:
        name: "float32", "bool", ...
        numpy: the NumPy dtype of the same layout (ml_dtypes' for bfloat16).
        itemsize: bytes per element.
        kind: "bool", "uint", "int", "float" or "complex".
    """

    __slots__ = ("is_complex", "is_floating_point", "is_signed", "itemsize", "kind", "name", "numpy")

    def __init__(self, name: str, numpy: Any, kind: str):
        self.name = name
        self.numpy: np.dtype[Any] = np.dtype(numpy)
        self.itemsize = self.numpy.itemsize
        self.kind = kind
        self.is_floating_point = kind == "float"
        self.is_complex = kind == "complex"
        self.is_signed = kind in ("int", "float", "complex")

    def __repr__(self) -> str:
        return f"twofold.{self.name}"

    def __reduce__(self) -> str:
        return self.name

    @property
    def is_differentiable(self) -> bool:
        """Whether tensors of this type can require a gradient."""
        return self.kind in ("float", "complex")

    def to_real(self) -> DType:
        """The dtype of the real part: float32 for complex64, itself for real types."""
        return {"complex64": float32, "complex128": float64}.get(self.name, self)

    def to_complex(self) -> DType:
        """The complex type that holds this one's values."""
        if self.is_complex:
            return self
        return complex128 if self is float64 else complex64


bool_ = DType("bool", np.bool_, "bool")
uint8 = DType("uint8", np.uint8, "uint")
uint16 = DType("uint16", np.uint16, "uint")
uint32 = DType("uint32", np.uint32, "uint")
uint64 = DType("uint64", np.uint64, "uint")
int8 = DType("int8", np.int8, "int")
int16 = DType("int16", np.int16, "int")
int32 = DType("int32", np.int32, "int")
int64 = DType("int64", np.int64, "int")
float16 = DType("float16", np.float16, "float")
bfloat16 = DType("bfloat16", ml_dtypes.bfloat16, "float")
float32 = DType("float32", np.float32, "float")
float64 = DType("float64", np.float64, "float")
complex64 = DType("complex64", np.complex64, "complex")
complex128 = DType("complex128", np.complex128, "complex")

ALL: tuple[DType, ...] = (
    bool_, uint8, uint16, uint32, uint64, int8, int16, int32, int64,
    float16, bfloat16, float32, float64, complex64, complex128,
)  # fmt: skip
BY_NAME: dict[str, DType] = {d.name: d for d in ALL}
FROM_NUMPY: dict[np.dtype[Any], DType] = {d.numpy: d for d in ALL}

BOOL = frozenset((bool_,))
INTEGERS = frozenset(d for d in ALL if d.kind in ("int", "uint"))
FLOATS = frozenset(d for d in ALL if d.kind == "float")
COMPLEX = frozenset((complex64, complex128))
REALS = INTEGERS | FLOATS
NUMBERS = REALS | COMPLEX
EVERY = frozenset(ALL)
HALVES = frozenset((float16, bfloat16))


def as_dtype(value: Any) -> DType:
    """A DType from a DType, a name, a NumPy dtype or Python's bool/int/float/complex."""
    if isinstance(value, DType):
        return value
    if isinstance(value, str) and value in BY_NAME:
        return BY_NAME[value]
    python = {bool: bool_, int: int64, float: float64, complex: complex128}
    try:
        if value in python:
            return python[value]
        return FROM_NUMPY[np.dtype(value).newbyteorder("=")]
    except (TypeError, KeyError):
        raise DTypeError(
            f"{value!r} is no dtype of a tensor",
            hint="use one of " + ", ".join(BY_NAME),
        ) from None


_KINDS = ("bool", "uint", "int", "float", "complex")


@functools.cache
def promote(a: DType, b: DType) -> DType:
    """The type that holds values of both: PyTorch's `torch.promote_types`.

    An integer and a float give that float whatever the sizes; float16 and bfloat16 give float32.

    >>> promote(int64, float16).name, promote(float16, bfloat16).name, promote(uint8, int8).name
    ('float16', 'float32', 'int16')
    """
    if a is b:
        return a
    if _KINDS.index(a.kind) > _KINDS.index(b.kind):
        a, b = b, a  # now b's kind is at least a's
    if a.kind == "bool":
        return b
    if b.kind == "complex":
        other = a if a.kind == "float" else b
        return complex128 if float64 is other or complex128 in (a, b) else complex64
    if b.kind == "float":
        if a.kind != "float":
            return b
        if a.itemsize == b.itemsize:
            return float32  # float16 with bfloat16
        return a if a.itemsize > b.itemsize else b
    if a.kind == b.kind:
        return a if a.itemsize > b.itemsize else b
    # an unsigned and a signed integer: the smallest signed type that holds both
    bits = max(a.itemsize * 2, b.itemsize)
    if bits > 8:
        raise DTypeError(
            f"uint64 and {b.name} have no common integer type",
            hint="cast one of them first, e.g. x.to(twofold.int64)",
        )
    return {2: int16, 4: int32, 8: int64}[bits]


_default_dtype = float32


def get_default_dtype() -> DType:
    """The floating type of tensors made from Python floats; float32 unless it was set."""
    return _default_dtype


def set_default_dtype(dtype: Any) -> None:
    """Set the floating type of tensors made from Python floats."""
    global _default_dtype
    dtype = as_dtype(dtype)
    if not dtype.is_floating_point:
        raise DTypeError(f"the default dtype must be floating, got {dtype.name}")
    _default_dtype = dtype


def scalar_dtype(value: bool | int | float | complex) -> DType:
    """The dtype of a tensor made from one Python number."""
    if isinstance(value, (bool, np.bool_)):
        return bool_
    if isinstance(value, (int, np.integer)):
        return int64
    if isinstance(value, (float, np.floating)):
        return _default_dtype
    return _default_dtype.to_complex()


def promote_scalar(tensor_dtype: DType, value: bool | int | float | complex) -> DType:
    """The result type of a tensor with a Python number: only a *higher kind* changes it.

    >>> promote_scalar(int32, 2).name, promote_scalar(int32, 2.0).name, promote_scalar(float16, 2.0).name
    ('int32', 'float32', 'float16')
    """
    kind = scalar_dtype(value)
    have, want = tensor_dtype.kind, kind.kind
    if have == "uint":
        have = "int"
    if _KINDS.index(want) <= _KINDS.index(have):
        return tensor_dtype
    if want == "complex":
        return tensor_dtype.to_complex() if have == "float" else kind
    return kind
