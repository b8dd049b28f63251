"""What a compiled function returns besides tensors that it makes: things that exist already, and views."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from ..autodiff.bind import bind, no_record
from ..autodiff.handle import Tensor, alias
from ..ir.tree import Tree
from .derivative import Made


@dataclass(frozen=True)
class Given:
    """Stands for an argument that is returned itself."""

    number: int


@dataclass(frozen=True, eq=False)
class Gradient:
    """Stands for the `.grad` of a tensor."""

    of: Tensor


@dataclass(frozen=True)
class Asked:
    """Stands for the number that answers a question."""

    number: int


class ViewOf:
    """Stands for a view: of what, and the operations from there."""

    def __init__(self, base: Any, view: Tensor):
        self.base = base
        self.links: list[tuple[bool, tuple[Any, ...]]] = []  # whether attached, and the view operations
        self.requires_grad = view.requires_grad
        link: Tensor | None = view
        while link is not None and link._base is not None:
            self.links.append((link._attached, link._steps))
            link = link._base
        self.links.reverse()

    def of(self, t: Tensor) -> Tensor:
        """This view of a tensor."""
        for attached, steps in self.links:
            if not attached:
                t = alias(t)
            for p, params in steps:
                if self.requires_grad:
                    t = bind(p, (t,), params)
                else:
                    with no_record():
                        t = bind(p, (t,), params)
        return t


class Results:
    """What a run of the code returns: marks, and values that are what they are, in a nesting."""

    __slots__ = ("gives_numbers", "marks", "tree")

    def __init__(self, marks: list[Any], tree: Tree):
        self.marks, self.tree = marks, tree
        self.gives_numbers = any(r.__class__ is Asked for r in marks)

    def rebuild(self, made: Sequence[Tensor], given: Sequence[Tensor], answers: Any = ()) -> Any:
        """The results, from the tensors that the code makes, its arguments', and numbers it asked for."""
        views: dict[int, Tensor] = {}
        return self.tree.unflatten(
            [answers[r.number] if r.__class__ is Asked else find(r, made, given, views) for r in self.marks]
        )


def base_of(t: Tensor) -> Tensor:
    """The tensor whose memory a view shows."""
    while t._base is not None:
        t = t._base
    return t


def find(mark: Any, made: Sequence[Tensor], given: Sequence[Tensor], views: dict[int, Tensor]) -> Any:
    """What a mark stands for in a call: one tensor for each mark."""
    if mark.__class__ is Made:
        return made[mark.number]
    if mark.__class__ is Given:
        return given[mark.number]
    if mark.__class__ is Gradient:
        return mark.of._grad
    if mark.__class__ is ViewOf:
        if id(mark) not in views:
            views[id(mark)] = mark.of(find(mark.base, made, given, views))
        return views[id(mark)]
    return mark
