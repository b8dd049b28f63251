"""Arithmetic of two or three operands, with PyTorch's promotion."""

from __future__ import annotations

import builtins
from collections.abc import Callable
from typing import Any

from ..autodiff.bind import bind
from ..autodiff.handle import Tensor
from ..ir.dtypes import DType, bool_, complex128, float64, uint8
from ..ir.errors import DTypeError, TwofoldError
from ..primitives import elementwise as prim
from ._registry import function
from .promotion import cast_to, common_dtype, matched, operand, tensor_operand

_NO_PARAMS: dict[str, Any] = {}


def _scaled(other: Any, alpha: Any, op: str) -> Any:
    """`other * alpha`, where an integer operation takes no floating alpha."""
    other = operand(other, op)
    dtype = common_dtype(other)
    if isinstance(alpha, float) and not dtype.is_differentiable:
        raise DTypeError(
            f"alpha={alpha} is floating but the operand is {dtype.name}", op=op, hint="use an int alpha"
        )
    return other * alpha


@function(inplace=prim.add)
def add(input: Any, other: Any, *, alpha: Any = 1) -> Tensor:
    """`input + alpha * other`.

    Shapes: any that broadcast together.
    Raises: ShapeError when they don't; DTypeError for a floating `alpha` with integers.

    >>> import twofold as tw
    >>> tw.add(tw.tensor([1, 2]), 0.5)
    tensor([1.5000, 2.5000])
    """
    if alpha.__class__ is not int or alpha != 1:
        other = _scaled(other, alpha, "add")
    return bind(prim.add, tuple(matched("add", input, other)), _NO_PARAMS)


@function(aliases=("subtract",), inplace=prim.sub)
def sub(input: Any, other: Any, *, alpha: Any = 1) -> Tensor:
    """`input - alpha * other`.

    Shapes: any that broadcast together.
    Raises: ShapeError when they don't; DTypeError for bool operands.

    >>> import twofold as tw
    >>> tw.sub(tw.tensor([3, 4]), 1, alpha=2)
    tensor([1, 2])
    """
    if alpha.__class__ is not int or alpha != 1:
        other = _scaled(other, alpha, "sub")
    a, b = matched("sub", input, other)
    for x in (input, other):
        if isinstance(x, bool) or (isinstance(x, Tensor) and x.dtype is bool_):
            raise DTypeError(
                "bool does not subtract", op="sub", hint="use `^` or logical_xor() for masks, ~x for 1 - x"
            )
    return bind(prim.sub, (a, b), _NO_PARAMS)


@function(inplace=False)
def rsub(input: Any, other: Any, *, alpha: Any = 1) -> Tensor:
    """`other - alpha * input`.

    >>> import twofold as tw
    >>> tw.rsub(tw.tensor([1, 2]), 10)
    tensor([9, 8])
    """
    return sub(other, input, alpha=alpha)


@function(aliases=("multiply",), inplace=prim.mul)
def mul(input: Any, other: Any) -> Tensor:
    """`input * other`.

    Shapes: any that broadcast together.
    Raises: ShapeError when they don't.

    >>> import twofold as tw
    >>> tw.mul(tw.tensor([1.0, 2.0]), tw.tensor([[3.0], [4.0]]))
    tensor([[3., 6.],
            [4., 8.]])
    """
    return bind(prim.mul, tuple(matched("mul", input, other)), _NO_PARAMS)


@function(aliases=("divide",), inplace=prim.div)
def div(input: Any, other: Any, *, rounding_mode: str | None = None) -> Tensor:
    """`input / other`; integers divide in the default floating dtype.

    Args:
        rounding_mode: None (true division), "trunc" (towards zero, as in C) or "floor" (as Python's //).

    Shapes: any that broadcast together.
    Raises: TwofoldError for another rounding mode.

    >>> import twofold as tw
    >>> tw.div(tw.tensor([-7, 7]), 2), tw.div(tw.tensor([-7, 7]), 2, rounding_mode="trunc")
    (tensor([-3.5000,  3.5000]), tensor([-3,  3]))
    """
    if rounding_mode is None:
        return bind(prim.div, tuple(matched("div", input, other, floating=True)), _NO_PARAMS)
    if rounding_mode == "floor":
        return floor_divide(input, other)
    if rounding_mode != "trunc":
        raise TwofoldError(
            f"rounding_mode={rounding_mode!r} is not known", op="div", hint='use None, "trunc" or "floor"'
        )
    a, b = matched("div", input, other)
    if common_dtype(a, b).is_differentiable:
        return prim.trunc(bind(prim.div, (a, b), _NO_PARAMS))
    return _trunc_divide_integers(a, b)


def _trunc_divide_integers(a: Any, b: Any) -> Tensor:
    """Integer division towards zero: floor division, plus one where it went below the quotient."""
    floor = prim.floor_divide(a, b)
    dtype = floor.dtype
    inexact = prim.ne(prim.mul(floor, b), a)
    below = prim.lt(floor, 0)
    return prim.add(floor, prim.cast(prim.bitwise_and(inexact, below), dtype=dtype))


@function(inplace=True)
def true_divide(input: Any, other: Any) -> Tensor:
    """`input / other`, always in floating numbers.

    >>> import twofold as tw
    >>> tw.true_divide(tw.tensor([1, 2]), 4)
    tensor([0.2500, 0.5000])
    """
    return div(input, other)


@function(inplace=True)
def floor_divide(input: Any, other: Any) -> Tensor:
    """`floor(input / other)`, as Python's `//`.

    Shapes: any that broadcast together.
    Raises: ZeroDivisionError for integers divided by zero.

    >>> import twofold as tw
    >>> tw.floor_divide(tw.tensor([-7, 7]), 2)
    tensor([-4,  3])
    """
    return bind(prim.floor_divide, tuple(matched("floor_divide", input, other)), _NO_PARAMS)


@function(inplace=True)
def remainder(input: Any, other: Any) -> Tensor:
    """`input - floor(input / other) * other`, as Python's `%`: it has the sign of `other`.

    Shapes: any that broadcast together.

    >>> import twofold as tw
    >>> tw.remainder(tw.tensor([-7, 7]), 3)
    tensor([2, 1])
    """
    return bind(prim.remainder, tuple(matched("remainder", input, other)), _NO_PARAMS)


@function(inplace=True)
def fmod(input: Any, other: Any) -> Tensor:
    """The remainder of a division towards zero, as in C: it has the sign of `input`.

    Shapes: any that broadcast together.

    >>> import twofold as tw
    >>> tw.fmod(tw.tensor([-7, 7]), 3)
    tensor([-1,  1])
    """
    return bind(prim.fmod, tuple(matched("fmod", input, other)), _NO_PARAMS)


@function(inplace=True)
def pow(input: Any, exponent: Any) -> Tensor:
    """`input ** exponent`.

    Shapes: any that broadcast together.
    Raises: TwofoldError for integers to a negative integer power.
    Numerics: the exponents 2, 3, 0.5 and -1 are computed by products, a square root, a division.

    >>> import twofold as tw
    >>> tw.pow(tw.tensor([1.0, 2.0, 3.0]), 2)
    tensor([1., 4., 9.])
    """
    if exponent.__class__ in (int, float) and isinstance(input, Tensor) and input.dtype is not bool_:
        short = _POWERS.get(exponent)
        if short is not None and (input.dtype.is_differentiable or (exponent.__class__ is int and exponent > 0)):
            return short(input)
    a, b = matched("pow", input, exponent)
    if isinstance(exponent, int) and exponent < 0 and isinstance(b, int):
        raise TwofoldError(
            f"integers to the negative power {exponent} are no integers",
            op="pow",
            hint="make the base floating first: x.float() ** n",
        )
    if common_dtype(a, b) is bool_:
        a, b = (cast_to(x, uint8) for x in (a, b))
        return cast_to(bind(prim.pow, (a, b), _NO_PARAMS), bool_)
    return bind(prim.pow, (a, b), _NO_PARAMS)


_POWERS: dict[float, Callable[[Tensor], Tensor]] = {
    2: lambda x: prim.mul(x, x),
    3: lambda x: prim.mul(prim.mul(x, x), x),
    0.5: lambda x: prim.sqrt(x),
    -1: lambda x: prim.div(1.0, x),
}


@function(inplace=True)
def float_power(input: Any, exponent: Any) -> Tensor:
    """`input ** exponent` computed in float64 (complex128 for complex operands).

    Shapes: any that broadcast together.

    >>> import twofold as tw
    >>> tw.float_power(tw.tensor([2, 3]), -1)
    tensor([0.5000, 0.3333], dtype=twofold.float64)
    """
    a, b = operand(input, "float_power"), operand(exponent, "float_power")
    dtype: DType = complex128 if common_dtype(a, b).is_complex else float64
    a, b = (prim.cast(x, dtype=dtype) if isinstance(x, Tensor) else x for x in (a, b))
    return pow(a, b)


@function(inplace=True)
def square(input: Tensor) -> Tensor:
    """`input * input`.

    >>> import twofold as tw
    >>> tw.square(tw.tensor([-2.0, 3.0]))
    tensor([4., 9.])
    """
    return pow(tensor_operand(input, "square"), 2)


@function(aliases=("negative",), inplace=True)
def neg(input: Tensor) -> Tensor:
    """`-input`.

    Raises: DTypeError for bool tensors.

    >>> import twofold as tw
    >>> tw.neg(tw.tensor([1, -2]))
    tensor([-1,  2])
    """
    x = tensor_operand(input, "neg")
    if x.dtype is bool_:
        raise DTypeError("bool has no negative", op="neg", hint="use ~x or logical_not() for masks")
    return bind(prim.neg, (x,), _NO_PARAMS)


@function
def positive(input: Tensor) -> Tensor:
    """`+input`: the tensor itself.

    Raises: DTypeError for bool tensors.

    >>> import twofold as tw
    >>> tw.positive(tw.tensor([1, -2]))
    tensor([ 1, -2])
    """
    if input.dtype is bool_:
        raise DTypeError("bool has no positive", op="positive")
    return input


@function(aliases=("absolute",), inplace=True)
def abs(input: Tensor) -> Tensor:
    """The magnitude of each element; real for complex tensors. The derivative at 0 is 0.

    >>> import twofold as tw
    >>> tw.abs(tw.tensor([-1.5, 2.0]))
    tensor([1.5000, 2.0000])
    """
    return bind(prim.abs, (tensor_operand(input, "abs"),), _NO_PARAMS)


@function(inplace=True)
def lerp(input: Tensor, end: Any, weight: Any) -> Tensor:
    """`input + weight * (end - input)`: linear interpolation.

    Shapes: any that broadcast together.
    Numerics: for weights of 0.5 and above it is computed from `end`, so that weight 1 gives `end`.

    >>> import twofold as tw
    >>> tw.lerp(tw.tensor([0.0, 10.0]), tw.tensor([10.0, 20.0]), 0.5)
    tensor([ 5., 15.])
    """
    a, b = matched("lerp", input, end)
    if isinstance(weight, Tensor):
        w = weight if weight.dtype is a.dtype else prim.cast(weight, dtype=a.dtype)
        near = prim.lt(prim.abs(w), 0.5)
        step = b - a
        return prim.where(near, a + w * step, b - step * (1.0 - w))
    if builtins.abs(weight) < 0.5:
        return a + (b - a) * weight
    return b - (b - a) * (1.0 - weight)


def _with_product(input: Tensor, product: Tensor, value: Any, op: str) -> Tensor:
    if value.__class__ is not int or value != 1:
        product = _scaled(product, value, op)
    return add(input, product)


@function(inplace=True)
def addcmul(input: Tensor, tensor1: Tensor, tensor2: Tensor, *, value: Any = 1) -> Tensor:
    """`input + value * tensor1 * tensor2`.

    Shapes: any that broadcast together.

    >>> import twofold as tw
    >>> tw.addcmul(tw.tensor([1.0]), tw.tensor([2.0]), tw.tensor([3.0]), value=0.5)
    tensor([4.])
    """
    return _with_product(input, mul(tensor1, tensor2), value, "addcmul")


@function(inplace=True)
def addcdiv(input: Tensor, tensor1: Tensor, tensor2: Tensor, *, value: Any = 1) -> Tensor:
    """`input + value * tensor1 / tensor2`.

    Shapes: any that broadcast together.
    Raises: DTypeError when both divided tensors are integers.

    >>> import twofold as tw
    >>> tw.addcdiv(tw.tensor([1.0]), tw.tensor([2.0]), tw.tensor([4.0]), value=10)
    tensor([6.])
    """
    if not common_dtype(tensor1, tensor2).is_differentiable:
        raise DTypeError(
            "integer division is not supported here", op="addcdiv", hint="make one of them floating: x.float()"
        )
    return _with_product(input, div(tensor1, tensor2), value, "addcdiv")
