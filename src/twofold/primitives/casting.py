"""Changes of dtype, copies, and the parts of complex numbers."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import numpy as np

from ..ir.dtypes import ALL, COMPLEX, DType, bool_, complex64, complex128, float32, float64
from ..ir.errors import DTypeError
from ..ir.primitive import ErrorSample, Primitive, Sample
from ..ir.types import TensorType, broadcast_shapes
from ._rules import (
    as_operand,
    binary_errors,
    binary_samples,
    check_dtype,
    check_same_dtype,
    unary_errors,
    unary_rule,
    unary_samples,
    unbroadcast,
)

# --- casts --------------------------------------------------------------------------------------


def _check_target(op: str, dtype: Any) -> None:
    if not isinstance(dtype, DType):
        raise DTypeError(f"expected a dtype, got {dtype!r}", op=op, hint="pass one such as twofold.float32")


def _cast_type(x: TensorType, *, dtype: DType) -> TensorType:
    _check_target("cast", dtype)
    return x.with_dtype(dtype)


def _cast(x: Any, *, dtype: DType) -> Any:
    if dtype.__class__ is not DType:
        raise TypeError  # NumPy would take its own
    if x.dtype.kind == "c" and not dtype.is_complex and dtype.kind != "bool":
        x = x.real  # the imaginary part is dropped, as in PyTorch
    return x.astype(dtype.numpy, order="C")


def _cast_samples(dtype: DType, rng: np.random.Generator) -> Iterator[Sample]:
    low = 0 if dtype.kind == "uint" else -3
    for target in ALL:
        if target.kind == "uint" and dtype.kind != "uint":
            low = 0  # C leaves the cast of a negative float undefined
        yield from unary_samples(low, 9, special=False, dtype=target)(dtype, rng)
        if target.kind in ("bool", "float", "complex") and dtype.kind == "float":
            values = np.array([np.nan, np.inf, -np.inf, -0.0, 1e-30], dtype.numpy)
            yield Sample((values,), {"dtype": target}, differentiable=False)


def _cast_errors() -> list[ErrorSample]:
    return [ErrorSample((np.ones(2, np.float32),), {"dtype": "float64"}, DTypeError, "expected a dtype")]


def _torch_dtype(torch: Any, dtype: DType) -> Any:
    return getattr(torch, dtype.name)


def _cast_torch(torch: Any, x: Any, dtype: DType) -> Any:
    if x.is_complex() and dtype.kind not in ("bool", "complex"):
        x = x.real  # what .to() does, without its warning
    return x.to(_torch_dtype(torch, dtype), copy=True)


cast: Primitive = Primitive(
    "cast",
    type_rule=_cast_type,
    numpy=_cast,
    vjp=(lambda g, _y, _x, *, dtype: cast(g, dtype=_x.dtype),),
    samples=_cast_samples,
    errors=_cast_errors,
    torch=_cast_torch,
    holomorphic=False,
    checked_by_numpy=True,
)


def _bitcast_type(x: TensorType, *, dtype: DType) -> TensorType:
    _check_target("bitcast", dtype)
    if dtype.itemsize != x.dtype.itemsize:
        raise DTypeError(
            f"{x.dtype.name} has {x.dtype.itemsize} bytes an element, {dtype.name} has {dtype.itemsize}",
            op="bitcast",
            hint="bits are reinterpreted between dtypes of one size only",
        )
    return x.with_dtype(dtype)


def _bitcast_samples(dtype: DType, rng: np.random.Generator) -> Iterator[Sample]:
    for target in ALL:
        if target.itemsize == dtype.itemsize and target.kind != "bool":
            yield from unary_samples(dtype=target)(dtype, rng)


def _bitcast_errors() -> list[ErrorSample]:
    x = np.ones(2, np.float32)
    return [
        ErrorSample((x,), {"dtype": float64}, DTypeError, "bytes an element"),
        ErrorSample((x,), {"dtype": "int32"}, DTypeError, "expected a dtype"),
    ]


def _bitcast(x: Any, *, dtype: DType) -> Any:
    if dtype is bool_:
        return x.view(np.uint8) != 0  # a bool is 0 or 1, which kernels and NumPy rely on
    return x.copy(order="C").view(dtype.numpy)


bitcast = Primitive(
    "bitcast",
    type_rule=_bitcast_type,
    numpy=_bitcast,
    nondiff="it reinterprets bits",
    samples=_bitcast_samples,
    errors=_bitcast_errors,
    torch=lambda torch, x, dtype: x.view(_torch_dtype(torch, dtype)).clone(),
)

copy = Primitive(
    "copy",
    type_rule=lambda x: x,
    numpy=lambda x: x.copy(order="C"),
    vjp=(lambda g, _y, _x: g,),
    samples=unary_samples(),
    torch="clone",
    checked_by_numpy=True,
)

# --- complex numbers ----------------------------------------------------------------------------


def _part(name: str, numpy: Any, derivative: Any) -> Primitive:
    """Declare the real or imaginary part."""
    return Primitive(
        name,
        type_rule=lambda x: unary_rule(name, COMPLEX)(x).with_dtype(x.dtype.to_real()),
        numpy=lambda x: numpy(x).copy(order="C"),
        vjp=(derivative,),
        samples=unary_samples(),
        errors=unary_errors(COMPLEX),
        dtypes=COMPLEX,
        torch=name,
        holomorphic=False,
    )


real = _part("real", np.real, lambda g, _y, _x: cast(g, dtype=_x.dtype))
imag = _part("imag", np.imag, lambda g, _y, _x: cast(g, dtype=_x.dtype) * 1j)
conj: Primitive = Primitive(
    "conj",
    type_rule=unary_rule("conj", COMPLEX),
    numpy=np.conjugate,
    vjp=(lambda g, _y, _x: conj(g),),
    samples=unary_samples(),
    errors=unary_errors(COMPLEX),
    dtypes=COMPLEX,
    torch=lambda torch, x: torch.conj(x).resolve_conj(),
    holomorphic=False,
)

_PARTS = frozenset((float32, float64))


def _complex_type(re: TensorType, im: TensorType) -> TensorType:
    dtype = check_same_dtype("complex", re, im)
    check_dtype("complex", dtype, _PARTS)
    return TensorType(broadcast_shapes(re.shape, im.shape, op="complex"), dtype.to_complex())


def _complex(re: Any, im: Any) -> Any:
    dtype = (re if hasattr(re, "dtype") else im).dtype
    re, im = as_operand(re, dtype), as_operand(im, dtype)
    shape = np.broadcast_shapes(re.shape, im.shape)
    out = np.empty(shape, (complex64 if dtype.itemsize == 4 else complex128).numpy)
    out.real, out.imag = re, im
    return out


complex = Primitive(
    "complex",
    type_rule=_complex_type,
    numpy=_complex,
    vjp=(
        lambda g, _y, _re, _im: unbroadcast(real(g), _re.shape),
        lambda g, _y, _re, _im: unbroadcast(imag(g), _im.shape),
    ),
    samples=binary_samples(),
    errors=binary_errors(_PARTS),
    dtypes=_PARTS,
    torch=lambda torch, re, im: torch.complex(*torch.broadcast_tensors(re, im)),
    holomorphic=False,
)
