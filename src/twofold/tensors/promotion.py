"""Which dtype an operation on several operands computes in: PyTorch's rules.

Note [Categories of operands]
Three categories, each with its own common dtype: tensors with dimensions, 0-d tensors, Python
numbers. A later category changes the result only when it is of a *higher kind* (bool < integer <
float < complex). So `float16_vector * 2.5` and `float16_vector * float64_scalar_tensor` stay
float16, and `int_vector * 2.5` is of the default dtype.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np

from ..autodiff.bind import bind
from ..autodiff.handle import Tensor, wrap
from ..ir.dtypes import DType, as_dtype, get_default_dtype, promote, scalar_dtype
from ..ir.dtypes import bool_ as bool_dtype
from ..ir.errors import DTypeError
from ..primitives import elementwise as prim
from ._registry import function

NUMBERS = (int, float, complex)  # bool is an int
_ARRAYS = (np.ndarray, np.generic)

# Python numbers that a tensor of this kind takes as they are: no cast and no check needed.
# Keys are NumPy's letters (values of eager tensors) and our kinds (values while tracing).
# Integers are missing: a number may be too large for them.
_FLOAT, _COMPLEX, _NONE = frozenset((int, float)), frozenset((int, float, complex)), frozenset[type]()
FITS: dict[str, frozenset[type]] = {
    "f": _FLOAT, "float": _FLOAT, "V": _FLOAT, "c": _COMPLEX, "complex": _COMPLEX,
    "i": _NONE, "int": _NONE, "u": _NONE, "uint": _NONE, "b": _NONE, "bool": _NONE,
}  # fmt: skip
INTEGERS = frozenset(("i", "u", "int", "uint"))  # every one of these dtypes holds 0 to 127


def is_operand(x: Any) -> bool:
    """Whether `x` may stand in an operation beside a tensor."""
    return isinstance(x, (Tensor, *NUMBERS, *_ARRAYS))


def operand(x: Any, op: str) -> Any:
    """`x` as a Tensor or a Python number.

    Raises: DTypeError for anything else (lists among them, as in PyTorch).
    """
    if isinstance(x, (Tensor, *NUMBERS)) and not isinstance(x, np.generic):
        return x
    if isinstance(x, np.generic):
        return x.item()
    if isinstance(x, np.ndarray):
        as_dtype(x.dtype)
        return wrap(x)
    raise DTypeError(
        f"expected a tensor or a number, got {type(x).__name__}",
        op=op,
        hint="make a tensor of it first: twofold.tensor(...)",
    )


def tensor_operand(x: Any, op: str) -> Tensor:
    """`x` if it is a Tensor (a NumPy array becomes one).

    Raises: DTypeError for anything else.
    """
    if isinstance(x, Tensor):
        return x
    if isinstance(x, np.ndarray):
        return operand(x, op)
    raise DTypeError(
        f"expected a tensor, got {type(x).__name__}", op=op, hint="make a tensor of it first: twofold.tensor(...)"
    )


def _combine(higher: DType | None, lower: DType | None) -> DType | None:
    """The dtype of two categories, where `higher` has more to say."""
    if higher is None or lower is None:
        return lower if higher is None else higher
    if higher.is_complex:
        return higher
    if higher.is_floating_point:
        return higher.to_complex() if lower.is_complex else higher
    if higher is bool_dtype or lower.is_floating_point or lower.is_complex:
        return promote(higher, lower)
    return higher


def common_dtype(*operands: Any) -> DType:
    """The dtype in which tensors and Python numbers meet. See Note [Categories of operands]."""
    dims: DType | None = None
    zeros: DType | None = None
    numbers: DType | None = None
    for x in operands:
        if isinstance(x, Tensor):
            if x.ndim:
                dims = x.dtype if dims is None else promote(dims, x.dtype)
            else:
                zeros = x.dtype if zeros is None else promote(zeros, x.dtype)
        else:
            kind = scalar_dtype(x)
            numbers = kind if numbers is None else promote(numbers, kind)
    result = _combine(dims, _combine(zeros, numbers))
    assert result is not None
    return result


def float_dtype(dtype: DType) -> DType:
    """`dtype` if it is floating or complex, else the default dtype."""
    return dtype if dtype.is_differentiable else get_default_dtype()


def cast_to(x: Any, dtype: DType) -> Any:
    """A tensor cast to `dtype` (itself if it has it); a number as one that `dtype` holds."""
    if isinstance(x, Tensor):
        return x if x.dtype is dtype else bind(prim.cast, (x,), {"dtype": dtype})
    if dtype.is_complex:
        return x
    if dtype.is_floating_point:
        return x if x.__class__ is float else float(x) if not isinstance(x, complex) else x
    if dtype is bool_dtype:
        return bool(x)
    try:
        whole = int(x)
    except (TypeError, ValueError, OverflowError):
        raise DTypeError(f"the number {x} does not fit dtype {dtype.name}") from None
    return _wrapped_integer(whole, dtype)


def _wrapped_integer(x: int, dtype: DType) -> int:
    """`x` modulo the range of `dtype`, as a C cast would have it."""
    if -128 <= x < 128 and dtype.is_signed:
        return x
    bits = dtype.itemsize * 8
    x &= (1 << bits) - 1
    return x - (1 << bits) if dtype.is_signed and x >> (bits - 1) else x


def _agreeing(operands: Sequence[Any], floating: bool) -> list[Any] | None:
    """Tensors of one dtype with numbers that it holds for certain, as `matched` gives them; None for others."""
    dtype: Any = None
    for x in operands:
        if isinstance(x, Tensor):
            if dtype is None:
                dtype = x._value.dtype
            elif x._value.dtype is not dtype:
                return None
    if dtype is None:
        return None
    kind = dtype.kind
    fits = FITS[kind]
    if floating and not fits:
        return None
    xs: list[Any] = []
    for x in operands:
        if not isinstance(x, Tensor):
            if x.__class__ is int:
                if kind in INTEGERS:
                    if not 0 <= x < 128:
                        return None
                elif fits is not _FLOAT:
                    return None
                else:
                    x = float(x)
            elif x.__class__ is not float or fits is not _FLOAT:
                return None
        xs.append(x)
    return xs


def matched(op: str, *operands: Any, floating: bool = False) -> Sequence[Any]:
    """The operands in their common dtype; `floating` turns integers into the default dtype.

    At least one of them must be a tensor. Python numbers stay numbers.
    """
    if len(operands) == 2:  # nearly always they agree already
        a, b = operands
        if isinstance(a, Tensor) and isinstance(b, Tensor):
            kind = a._value.dtype
            if kind is b._value.dtype and (not floating or FITS[kind.kind]):
                return operands
            if bool(a._value.shape) == bool(b._value.shape):  # of one category
                dtype = promote(a.dtype, b.dtype)
                if floating:
                    dtype = float_dtype(dtype)
                return cast_to(a, dtype), cast_to(b, dtype)
    found = _agreeing(operands, floating)
    if found is not None:
        return found
    xs = [operand(x, op) for x in operands]
    if not any(isinstance(x, Tensor) for x in xs):
        raise DTypeError(f"expected a tensor among the arguments, got {', '.join(map(repr, xs))}", op=op)
    dtype = common_dtype(*xs)
    if floating:
        dtype = float_dtype(dtype)
    return [cast_to(x, dtype) for x in xs]


@function(method=False)
def result_type(tensor1: Any, tensor2: Any) -> DType:
    """The dtype that an operation on these two tensors or numbers computes in.

    >>> import twofold as tw
    >>> tw.result_type(tw.tensor([1, 2]), 1.0)
    twofold.float32
    """
    return common_dtype(operand(tensor1, "result_type"), operand(tensor2, "result_type"))


@function(method=False)
def promote_types(type1: Any, type2: Any) -> DType:
    """The smallest dtype that holds values of both, by PyTorch's rules.

    >>> import twofold as tw
    >>> tw.promote_types(tw.int32, tw.float16)
    twofold.float16
    """
    return promote(as_dtype(type1), as_dtype(type2))


@function(method=False)
def can_cast(from_: Any, to: Any) -> bool:
    """Whether a cast keeps the kind: floats do not go into integers, nor anything into bool.

    >>> import twofold as tw
    >>> tw.can_cast(tw.float64, tw.float16), tw.can_cast(tw.float32, tw.int64)
    (True, False)
    """
    have, want = as_dtype(from_), as_dtype(to)
    if have.is_complex and not want.is_complex:
        return False
    if have.is_floating_point and want.kind in ("int", "uint"):
        return False
    return want is not bool_dtype or have is bool_dtype
