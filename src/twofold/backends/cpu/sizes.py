"""Sizes: integers that remember how they follow from the number of items in a batch.

Note [Sizes]
A program is lowered for fixed shapes, but the code of its kernels need not hold the number of items: a smaller
last batch should find the code that is there. So the outermost dimension of what comes in is a `Size`: an
integer like any other, whose arithmetic gives `Size`s. Where one gets into code (see `emit.Function.int`), the
code reads it from the kernel's table of addresses, behind the addresses. Programs for other numbers of items
then have the same text, and other tables.

Whether two programs share a text is decided by comparing the texts. So a Size that is taken for a plain integer
on the way (by `range`, a comparison, an f-string) makes code that is correct, and not shared.

How work is cut (rows of a tile, images of a piece) is part of the code, and is chosen for the number of items of
the first program of a function: `planned` is what a Size would be there. It must not decide about bits.
"""

from __future__ import annotations

import operator
from collections.abc import Callable
from typing import Any

# a, atom, b: a * atom + b. An atom is ("items", number that is planned for), or an operation and its operands.
Key = tuple[int, Any, int]


class Size(int):
    """An integer that follows from the number of items: it behaves as its value."""

    key: Key

    @classmethod
    def items(cls, value: int, planned: int | None = None) -> Size:
        """The number of items itself."""
        return _made(value, (1, ("items", planned or value), 0))

    def __add__(self, other: int) -> int:
        if other.__class__ is Size:
            return _sum(self, other, 1)
        if not isinstance(other, int):
            return NotImplemented
        a, atom, b = self.key
        return _made(int.__add__(self, other), (a, atom, b + other))

    __radd__ = __add__

    def __sub__(self, other: int) -> int:
        if other.__class__ is Size:
            return _sum(self, other, -1)
        return self + -other if isinstance(other, int) else NotImplemented

    def __rsub__(self, other: int) -> int:
        return -self + other if isinstance(other, int) else NotImplemented

    def __neg__(self) -> Size:
        a, atom, b = self.key
        return _made(int.__neg__(self), (-a, atom, -b))

    def __mul__(self, other: int) -> int:
        if other.__class__ is Size:
            return _atom(int.__mul__(self, other), "*", *sorted((self.key, other.key), key=repr))
        if not isinstance(other, int):
            return NotImplemented
        if not other:
            return 0
        a, atom, b = self.key
        return _made(int.__mul__(self, other), (a * other, atom, b * other))

    __rmul__ = __mul__

    def __floordiv__(self, other: int) -> int:
        value = int.__floordiv__(self, other)
        if value is NotImplemented:
            return value
        a, atom, b = self.key
        if other.__class__ is Size:
            c, other_atom, d = other.key
            if b == d == 0 and atom == other_atom and a % c == 0:
                return a // c
            return _atom(value, "//", self.key, other.key)
        other = int(other)
        if a % other == 0:  # what is divided exactly comes out of the brackets
            return _made(value, (a // other, atom, b // other))
        more, rest = divmod(b, other)
        return _atom(value - more, "//", (a, atom, rest), other) + more

    def __rfloordiv__(self, other: int) -> int:
        value = int.__rfloordiv__(self, other)
        return value if value is NotImplemented else _atom(value, "//", int(other), self.key)

    def __mod__(self, other: int) -> int:
        value = int.__mod__(self, other)
        if value is NotImplemented:
            return value
        a, atom, b = self.key
        if other.__class__ is Size:
            c, other_atom, d = other.key
            if b == d == 0 and atom == other_atom and a % c == 0:
                return 0
            return _atom(value, "%", self.key, other.key)
        other = int(other)
        if a % other == 0:
            return b % other
        return _atom(value, "%", (a % other, atom, b % other), other)

    def __rmod__(self, other: int) -> int:
        value = int.__rmod__(self, other)
        return value if value is NotImplemented else _atom(value, "%", int(other), self.key)

    def __divmod__(self, other: int) -> tuple[int, int]:
        return self // other, self % other

    def __reduce__(self) -> Any:
        return int, (int(self),)


def _made(value: int, key: Key) -> Size:
    out = int.__new__(Size, value)
    out.key = key
    return out


def _atom(value: int, *atom: Any) -> Size:
    return _made(value, (1, atom, 0))


def _sum(x: Size, y: Size, sign: int) -> int:
    a, atom, b = x.key
    c, other, d = y.key
    value = int.__add__(x, int.__mul__(y, sign))
    c, d = sign * c, sign * d
    if atom != other:
        first, second = sorted(((a, atom, 0), (c, other, 0)), key=repr)
        return _made(value, (1, ("+", first, second), b + d))
    return _made(value, (a + c, atom, b + d)) if a + c else value


def given(name: str, value: int, hoped: int) -> Size:
    """A number that code reads from its table, told from others by its name alone; `hoped` if all is as planned."""
    return _made(value, (1, ("given", name, hoped), 0))


def free(name: str, value: int) -> int:
    """A number that code reads from its table, so that kernels that differ in it alone are one.

    For code that is long and runs for a short time, as packing: other layers, with other sizes and strides, then
    compile nothing.
    """
    return given(name, int(value), planned(value))


def key_of(x: int) -> Any:
    """What tells a Size from others: the same for the same expression, whatever the number of items."""
    return x.key if isinstance(x, Size) else int(x)


def least(a: int, b: int) -> int:
    """The smaller of two; a Size if one of them is, whichever it is."""
    return _either(a, b, "min", min(int(a), int(b)))


def most(a: int, b: int) -> int:
    """The larger of two; a Size if one of them is, whichever it is."""
    return _either(a, b, "max", max(int(a), int(b)))


def _either(a: int, b: int, name: str, value: int) -> int:
    first, second = sorted((key_of(a), key_of(b)), key=repr)
    if (not isinstance(first, tuple) and not isinstance(second, tuple)) or first == second:
        return a if a == value else b
    return _atom(value, name, first, second)


def divides(divisor: int, x: Any) -> bool:
    """Whether it is known to divide `x`, for any number of items; `x` may be unknown until it runs."""
    rest = x % divisor if isinstance(x, int) else x
    return rest.__class__ is int and not rest


def planned(x: int) -> int:
    """What `x` is for the number of items that is planned for."""
    try:
        return _value(x.key) if isinstance(x, Size) else x
    except ZeroDivisionError:
        return int(x)


def _value(key: Any) -> int:
    if not isinstance(key, tuple):
        return int(key)
    a, (name, *operands), b = key
    return a * (operands[-1] if name in ("items", "given") else _OPERATIONS[name](*map(_value, operands))) + b


_OPERATIONS: dict[str, Callable[[int, int], int]] = {
    "+": operator.add,
    "*": operator.mul,
    "//": operator.floordiv,
    "%": operator.mod,
    "min": min,
    "max": max,
}
