"""What a program takes for granted about the arguments of a call."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

from ..autodiff.handle import Tensor, mode
from ..ir.dtypes import get_default_dtype


class Unseen:
    """The signature of an argument whose changes can't be noticed, such as an array."""

    def __init__(self, kind: type):
        self.kind = kind

    def __eq__(self, other: object) -> bool:
        return isinstance(other, Unseen) and other.kind is self.kind

    def __hash__(self) -> int:
        return hash(self.kind)

    def __repr__(self) -> str:
        return f"of type {self.kind.__name__}"


def signature(x: Any) -> Any:
    """What of an argument a program depends on: a tensor's type, and other values themselves.

    Numbers are told apart by type: 1, 1.0 and True are equal for Python, but not for promotion.
    """
    if isinstance(x, Tensor):
        return (x.shape, x.dtype.name, x.requires_grad, x.is_leaf)
    kind = x.__class__
    if kind is float or kind is complex:
        return (kind, repr(x))  # nan is not equal to itself, and -0.0 is to 0.0
    try:
        hash(x)
    except TypeError:
        return Unseen(kind)
    return (kind, x)


def described(signature: Any) -> str:
    """A signature in words."""
    if isinstance(signature, Unseen):
        return repr(signature)
    if len(signature) == 2:
        return repr(signature[1])
    shape, dtype, requires_grad, is_leaf = signature
    extra = "" if not requires_grad else " that requires a gradient" + ("" if is_leaf else " and was computed")
    return f"a tensor of {dtype} and shape {shape}{extra}"


def context() -> tuple[Any, ...]:
    """What of the thread's modes and the process's defaults a program depends on."""
    return mode.grad, mode.inference, get_default_dtype()


def unseen(signatures: Iterable[Any]) -> Unseen | None:
    """The first argument that can't be watched."""
    return next((s for s in signatures if isinstance(s, Unseen)), None)
