"""Comparisons, logic and operations on bits."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from ..autodiff.bind import bind
from ..autodiff.handle import Tensor
from ..ir.dtypes import bool_, promote_scalar
from ..ir.errors import DTypeError
from ..ir.primitive import Primitive
from ..primitives import elementwise as prim
from ._registry import function
from .promotion import cast_to, matched, operand, tensor_operand

_NO_PARAMS: dict[str, Any] = {}


def _binary(p: Primitive, name: str, doc: str, aliases: tuple[str, ...] = ()) -> Callable[[Any, Any], Tensor]:
    """A public function of two operands that are matched in dtype."""

    def call(input: Any, other: Any) -> Tensor:
        return bind(p, tuple(matched(name, input, other)), _NO_PARAMS)

    call.__name__ = call.__qualname__ = name
    call.__doc__ = doc
    return function(call, aliases=aliases, inplace=True)


def _comparison(p: Primitive, name: str, symbol: str, values: str, alias: str) -> Callable[[Any, Any], Tensor]:
    doc = f"""`input {symbol} other`, a bool tensor. NaN compares as in IEEE 754.

    Shapes: any that broadcast together.
    Raises: ShapeError when they don't.

    >>> import twofold as tw
    >>> tw.{name}(tw.tensor([1, 2, 3]), 2)
    tensor([{values}])
    """
    return _binary(p, name, doc, (alias,) if alias else ())


eq = _comparison(prim.eq, "eq", "==", "False,  True, False", "")
ne = _comparison(prim.ne, "ne", "!=", " True, False,  True", "not_equal")
lt = _comparison(prim.lt, "lt", "<", " True, False, False", "less")
le = _comparison(prim.le, "le", "<=", " True,  True, False", "less_equal")
gt = _comparison(prim.gt, "gt", ">", "False, False,  True", "greater")
ge = _comparison(prim.ge, "ge", ">=", "False,  True,  True", "greater_equal")


def _bits(p: Primitive, name: str, symbol: str, values: str) -> Callable[[Any, Any], Tensor]:
    doc = f"""`input {symbol} other`, bit by bit; on bool tensors the logical operation.

    Shapes: any that broadcast together.
    Raises: DTypeError for floating or complex operands.

    >>> import twofold as tw
    >>> tw.{name}(tw.tensor([1, 2, 3]), 2)
    tensor([{values}])
    """
    return _binary(p, name, doc)


bitwise_and = _bits(prim.bitwise_and, "bitwise_and", "&", "0, 2, 2")
bitwise_or = _bits(prim.bitwise_or, "bitwise_or", "|", "3, 2, 3")
bitwise_xor = _bits(prim.bitwise_xor, "bitwise_xor", "^", "3, 0, 1")
bitwise_left_shift = _bits(prim.shift_left, "bitwise_left_shift", "<<", " 4,  8, 12")
bitwise_right_shift = _bits(prim.shift_right, "bitwise_right_shift", ">>", "0, 0, 0")


@function(inplace=True)
def bitwise_not(input: Tensor) -> Tensor:
    """`~input`, bit by bit; on bool tensors the logical not.

    Raises: DTypeError for floating or complex tensors.

    >>> import twofold as tw
    >>> tw.bitwise_not(tw.tensor([0, 5])), ~tw.tensor([True, False])
    (tensor([-1, -6]), tensor([False,  True]))
    """
    return bind(prim.bitwise_not, (tensor_operand(input, "bitwise_not"),), _NO_PARAMS)


def truth(x: Any) -> Any:
    """`x` as a bool tensor: True where it is not zero."""
    if not isinstance(x, Tensor):
        return bool(x)
    return x if x.dtype is bool_ else prim.ne(x, 0)


def _logical(p: Primitive, name: str, word: str, values: str) -> Callable[[Any, Any], Tensor]:
    def call(input: Any, other: Any) -> Tensor:
        a, b = truth(operand(input, name)), truth(operand(other, name))
        return bind(p, (a, b), _NO_PARAMS)

    call.__name__ = call.__qualname__ = name
    call.__doc__ = f"""`input {word} other` of the truth of the elements (not zero); a bool tensor.

    Shapes: any that broadcast together.

    >>> import twofold as tw
    >>> tw.{name}(tw.tensor([0, 2, 3]), tw.tensor([0.0, 0.0, 0.5]))
    tensor([{values}])
    """
    return function(call, inplace=True)


logical_and = _logical(prim.bitwise_and, "logical_and", "and", "False, False,  True")
logical_or = _logical(prim.bitwise_or, "logical_or", "or", "False,  True,  True")
logical_xor = _logical(prim.bitwise_xor, "logical_xor", "xor", "False,  True, False")


@function(inplace=True)
def logical_not(input: Tensor) -> Tensor:
    """True where `input` is zero.

    >>> import twofold as tw
    >>> tw.logical_not(tw.tensor([0.0, 2.0]))
    tensor([ True, False])
    """
    return prim.logical_not(truth(tensor_operand(input, "logical_not")))


@function
def isnan(input: Tensor) -> Tensor:
    """True where an element is not a number.

    >>> import twofold as tw
    >>> tw.isnan(tw.tensor([1.0, float("nan")]))
    tensor([False,  True])
    """
    return prim.ne(tensor_operand(input, "isnan"), input)


@function
def isfinite(input: Tensor) -> Tensor:
    """True where an element is neither infinite nor NaN.

    >>> import twofold as tw
    >>> tw.isfinite(tw.tensor([1.0, float("inf"), float("nan")]))
    tensor([ True, False, False])
    """
    x = tensor_operand(input, "isfinite")
    return prim.isfinite(x) if x.dtype.is_differentiable else prim.eq(x, x)


@function
def isinf(input: Tensor) -> Tensor:
    """True where an element is infinite; of a complex one, either part.

    >>> import twofold as tw
    >>> tw.isinf(tw.tensor([1.0, -float("inf")]))
    tensor([False,  True])
    """
    x = tensor_operand(input, "isinf")
    if x.dtype.is_complex:
        return prim.bitwise_or(isinf(prim.real(x)), isinf(prim.imag(x)))
    if not x.dtype.is_floating_point:
        return prim.ne(x, x)
    return prim.eq(prim.abs(x), float("inf"))


@function
def isposinf(input: Tensor) -> Tensor:
    """True where an element is plus infinity.

    >>> import twofold as tw
    >>> tw.isposinf(tw.tensor([float("inf"), -float("inf")]))
    tensor([ True, False])
    """
    return _is_value(input, float("inf"), "isposinf")


@function
def isneginf(input: Tensor) -> Tensor:
    """True where an element is minus infinity.

    >>> import twofold as tw
    >>> tw.isneginf(tw.tensor([float("inf"), -float("inf")]))
    tensor([False,  True])
    """
    return _is_value(input, -float("inf"), "isneginf")


def _is_value(input: Tensor, value: float, op: str) -> Tensor:
    x = tensor_operand(input, op)
    if x.dtype.is_complex:
        raise DTypeError(f"{x.dtype.name} has no order, so no infinity of a sign", op=op, hint="use isinf()")
    return prim.eq(x, value) if x.dtype.is_floating_point else prim.ne(x, x)


@function
def isreal(input: Tensor) -> Tensor:
    """True where the imaginary part is zero.

    >>> import twofold as tw
    >>> tw.isreal(tw.tensor([1 + 0j, 1j]))
    tensor([ True, False])
    """
    x = tensor_operand(input, "isreal")
    return prim.eq(prim.imag(x), 0) if x.dtype.is_complex else prim.logical_not(prim.ne(x, x)) | isnan(x)


@function
def isclose(
    input: Tensor, other: Tensor, rtol: float = 1e-5, atol: float = 1e-8, equal_nan: bool = False
) -> Tensor:
    """True where `|input - other| <= atol + rtol * |other|`, or both are the same infinity.

    Shapes: any that broadcast together.
    Raises: DTypeError when the dtypes differ.

    >>> import twofold as tw
    >>> tw.isclose(tw.tensor([1.0, 2.0]), tw.tensor([1.0 + 1e-9, 2.1]))
    tensor([ True, False])
    """
    a, b = tensor_operand(input, "isclose"), tensor_operand(other, "isclose")
    if a.dtype is not b.dtype:
        raise DTypeError(
            f"expected tensors of one dtype, got {a.dtype.name} and {b.dtype.name}",
            op="isclose",
            hint=f"cast one: other.to(twofold.{a.dtype.name})",
        )
    close = prim.eq(a, b)
    if equal_nan and a.dtype.is_differentiable:
        close = close | (isnan(a) & isnan(b))
    if rtol == 0 and atol == 0:
        return close
    x, y = (cast_to(t, promote_scalar(t.dtype, 1.0)) for t in (a, b))
    difference = prim.abs(x - y)
    allowed = prim.abs(y) * rtol + atol
    return close | (isfinite(difference) & prim.le(difference, allowed))
