"""The operators of Tensor: `+ - * / // % ** == < & | ~ << ...` on either side, and in place.

This is the hot path of eager work. Each operator is a closure that first asks the two questions
that nearly always settle it (same dtype? a number that fits?) and then calls `bind`; all else goes
to the general function with PyTorch's promotion.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from ..autodiff.bind import bind
from ..autodiff.handle import Tensor
from ..ir.primitive import Primitive
from ..primitives import elementwise as prim
from . import arithmetic, comparison
from ._registry import function, in_place
from .promotion import FITS, INTEGERS, is_operand

_NO_PARAMS: dict[str, Any] = {}
General = Callable[[Any, Any], Tensor]


def _forward(p: Primitive, general: General) -> Callable[[Tensor, Any], Any]:
    """`x op y`."""

    def call(x: Tensor, y: Any) -> Any:
        if isinstance(y, Tensor):
            if x._value.dtype is y._value.dtype:
                return bind(p, (x, y), _NO_PARAMS)
        elif y.__class__ in FITS[x._value.dtype.kind] or (
            y.__class__ is int and 0 <= y < 128 and x._value.dtype.kind in INTEGERS
        ):
            return bind(p, (x, y), _NO_PARAMS)
        elif not is_operand(y):
            return NotImplemented
        return general(x, y)

    return call


def _forward_floats(p: Primitive, general: General) -> Callable[[Tensor, Any], Any]:
    """`x op y`, where only floating and complex operands may go straight to the primitive."""

    def call(x: Tensor, y: Any) -> Any:
        if isinstance(y, Tensor):
            dtype = x._value.dtype
            if dtype is y._value.dtype and FITS[dtype.kind]:
                return bind(p, (x, y), _NO_PARAMS)
        elif y.__class__ in FITS[x._value.dtype.kind]:
            return bind(p, (x, y), _NO_PARAMS)
        elif not is_operand(y):
            return NotImplemented
        return general(x, y)

    return call


def _reflected(p: Primitive, general: General) -> Callable[[Tensor, Any], Any]:
    """`y op x`, where `y` is no tensor."""

    def call(x: Tensor, y: Any) -> Any:
        if y.__class__ in FITS[x._value.dtype.kind]:
            return bind(p, (y, x), _NO_PARAMS)
        if not is_operand(y):
            return NotImplemented
        return general(y, x)

    return call


def _general(fn: General) -> Callable[[Tensor, Any], Any]:
    """`x op y` for an operator without a fast path: its meaning depends on the dtype."""

    def call(x: Tensor, y: Any) -> Any:
        return fn(x, y) if is_operand(y) else NotImplemented

    return call


def _swapped(fn: General) -> Callable[[Tensor, Any], Any]:
    def call(x: Tensor, y: Any) -> Any:
        return fn(y, x) if is_operand(y) else NotImplemented

    return call


def _in_place(fn: General, op: str, p: Primitive | None) -> Callable[[Tensor, Any], Any]:
    """`x op= y`."""
    method = in_place(fn, op, p)

    def call(x: Tensor, y: Any) -> Any:
        return method(x, y) if is_operand(y) else NotImplemented

    return call


def _register(name: str, call: Callable[..., Any]) -> None:
    call.__name__ = call.__qualname__ = name
    function(call, name=name, module=False)


def _operator(
    symbol: str,
    general: General,
    fast: Primitive | None = None,
    *,
    make: Callable[[Primitive, General], Callable[[Tensor, Any], Any]] = _forward,
    reflected: bool = True,
) -> None:
    """Register `__symbol__`, its reflected and its in-place form."""
    forward = make(fast, general) if fast else _general(general)
    _register(f"__{symbol}__", forward)
    if reflected:
        back = _reflected(fast, general) if fast else _swapped(general)
        _register(f"__r{symbol}__", back)
        _register(f"__i{symbol}__", _in_place(forward, general.__name__ + "_", fast))


_operator("add", arithmetic.add, prim.add)
_operator("sub", arithmetic.sub, prim.sub)
_operator("mul", arithmetic.mul, prim.mul)
_operator("truediv", arithmetic.div, prim.div, make=_forward_floats)
_operator("floordiv", arithmetic.floor_divide)
_operator("mod", arithmetic.remainder)
_operator("pow", arithmetic.pow)
_operator("and", comparison.bitwise_and)
_operator("or", comparison.bitwise_or)
_operator("xor", comparison.bitwise_xor)
_operator("lshift", comparison.bitwise_left_shift)
_operator("rshift", comparison.bitwise_right_shift)
_operator("lt", comparison.lt, prim.lt, reflected=False)
_operator("le", comparison.le, prim.le, reflected=False)
_operator("gt", comparison.gt, prim.gt, reflected=False)
_operator("ge", comparison.ge, prim.ge, reflected=False)
_operator("eq", comparison.eq, prim.eq, reflected=False)
_operator("ne", comparison.ne, prim.ne, reflected=False)

_register("__neg__", lambda x: arithmetic.neg(x))
_register("__pos__", lambda x: arithmetic.positive(x))
_register("__abs__", lambda x: arithmetic.abs(x))
_register("__invert__", lambda x: comparison.bitwise_not(x))
_register("__divmod__", lambda x, y: (arithmetic.floor_divide(x, y), arithmetic.remainder(x, y)))
