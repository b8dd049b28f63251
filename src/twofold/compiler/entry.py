"""Entry: where a trace's own history ends and that of tensors from outside begins."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from ..autodiff.handle import Tensor, wrap
from ..autodiff.tape import Node, _numbers


class Entry(Node):
    """The tape node, while tracing, of a tensor from outside that operations made.

    Operations on such a tensor must see that it is no leaf, but the walk backwards must not go on
    into its history: that belongs to the values of this call only. So it ends at `origin`, a leaf
    that stands for the history outside.
    """

    __slots__ = ("origin",)

    def __init__(self, value: Any, dtype: Any):
        origin = wrap(value)
        origin._requires_grad = True
        self.origin = origin
        self.number = next(_numbers)
        self.prim = None  # type: ignore[assignment]
        self.params = {}
        self.edges = [(origin, 0)]
        self.inputs = []
        self.versions = []
        self.outputs = None
        self.types = [(value.shape, dtype)]
        self.hooks = self.retained = self.location = None
        self.spent = False

    @property
    def name(self) -> str:
        return "entry"

    def backward(self, grads: list[Any]) -> Sequence[Any]:
        """The gradient as it is."""
        return grads

    def release(self) -> None:
        """Nothing was saved."""


def enter(t: Tensor, value: Any) -> Tensor:
    """Make `t` an operation's result whose history is an Entry; returns the leaf that it ends at."""
    node = Entry(value, t.dtype)
    t._requires_grad, t._node, t._index = True, node, 0
    return node.origin


__all__ = ["Entry", "enter"]
