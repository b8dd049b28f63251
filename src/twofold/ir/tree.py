"""Nested containers as flat lists: tuples, lists, dicts and named tuples of leaves."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from typing import Any


class Tree:
    """The shape of a nesting: what `unflatten` needs besides the leaves. Hashable.

    >>> leaves, tree = flatten({"a": 1, "b": (2, 3)})
    >>> leaves, tree.unflatten([10, 20, 30])
    ([1, 2, 3], {'a': 10, 'b': (20, 30)})
    """

    __slots__ = ("children", "keys", "kind")

    def __init__(self, kind: Any, keys: tuple[Any, ...], children: tuple[Tree, ...]):
        self.kind = kind  # None for a leaf, else the container's class
        self.keys = keys  # of a dict
        self.children = children

    def unflatten(self, leaves: Iterable[Any]) -> Any:
        """Put leaves back into the nesting."""
        return self._build(iter(leaves))

    def _build(self, leaves: Any) -> Any:
        if self.kind is None:
            return next(leaves)
        items = [child._build(leaves) for child in self.children]
        if issubclass(self.kind, dict):
            return self.kind(zip(self.keys, items, strict=True))
        if hasattr(self.kind, "_fields"):
            return self.kind(*items)
        return self.kind(items)

    def _key(self) -> tuple[Any, ...]:
        return (self.kind, self.keys, self.children)

    def __eq__(self, other: object) -> bool:
        return isinstance(other, Tree) and self._key() == other._key()

    def __hash__(self) -> int:
        return hash(self._key())

    def __repr__(self) -> str:
        return str(self.unflatten(["*"] * self.num_leaves))

    @property
    def num_leaves(self) -> int:
        return 1 if self.kind is None else sum(c.num_leaves for c in self.children)


_LEAF = Tree(None, (), ())


def flatten(value: Any) -> tuple[list[Any], Tree]:
    """The leaves of a nesting in order, and its shape. Everything but containers is a leaf."""
    leaves: list[Any] = []
    return leaves, _flatten(value, leaves)


def _flatten(value: Any, leaves: list[Any]) -> Tree:
    if isinstance(value, dict):
        return Tree(type(value), tuple(value), tuple(_flatten(v, leaves) for v in value.values()))
    if isinstance(value, (tuple, list)):
        return Tree(type(value), (), tuple(_flatten(v, leaves) for v in value))
    leaves.append(value)
    return _LEAF


def tree_map(fn: Callable[[Any], Any], value: Any) -> Any:
    """Apply `fn` to every leaf.

    >>> tree_map(lambda x: x + 1, [1, (2, 3)])
    [2, (3, 4)]
    """
    leaves, tree = flatten(value)
    return tree.unflatten([fn(leaf) for leaf in leaves])
