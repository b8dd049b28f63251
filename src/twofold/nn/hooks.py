"""Hooks of modules: handles that remove them, and the two tape nodes behind backward hooks."""

from __future__ import annotations

import itertools
from collections import OrderedDict
from collections.abc import Callable, Sequence
from typing import Any

from ..autodiff.bind import current_node
from ..autodiff.handle import Settings, Tensor, alias, mode
from ..autodiff.tape import Node, _numbers, _zeros_like_type
from ..ir.errors import AutogradError

_ids = itertools.count()


class RemovableHandle:
    """What registering a hook returns: `remove()` takes it away; also a context manager."""

    def __init__(self, table: OrderedDict[int, Any]):
        self.id = next(_ids)
        self._table: OrderedDict[int, Any] | None = table

    def remove(self) -> None:
        """Take the hook away; a second call does nothing."""
        Settings.changes += 1
        if self._table is not None:
            self._table.pop(self.id, None)
            self._table = None

    def __enter__(self) -> RemovableHandle:
        return self

    def __exit__(self, *_: Any) -> None:
        self.remove()


def add_hook(table: OrderedDict[int, Any], hook: Any, prepend: bool = False) -> RemovableHandle:
    """Put `hook` at the end (or the beginning) of the table."""
    Settings.changes += 1
    handle = RemovableHandle(table)
    table[handle.id] = hook
    if prepend:
        table.move_to_end(handle.id, last=False)
    return handle


class JointNode(Node):
    """A tape node that passes several gradients through one function, all at once.

    A hook of a module sees the gradients of all its inputs (or outputs) together, and tensor hooks see
    one each; so the tensors are sent through one node.
    """

    __slots__ = ("function",)

    def __init__(self, tensors: Sequence[Tensor], function: Callable[[list[Any]], Sequence[Any]]):
        self.number = next(_numbers)
        self.prim = None  # type: ignore[assignment]
        self.params = {}
        self.edges = []
        for t in tensors:
            node = current_node(t)
            self.edges.append(None if not t.requires_grad else (t, 0) if node is None else (node, t._index))
        self.inputs = []
        self.versions = []
        self.outputs = None
        self.types = [(t.shape, t.dtype) for t in tensors]
        self.hooks = self.retained = self.location = None
        self.spent = False
        self.function = function

    @property
    def name(self) -> str:
        return "module_hook"

    def backward(self, grads: list[Any]) -> Sequence[Any]:
        filled = [
            None if edge is None else _zeros_like_type(t) if g is None else g
            for g, t, edge in zip(grads, self.types, self.edges, strict=True)
        ]
        return self.function(filled)


def _join(tensors: Sequence[Tensor], function: Callable[[list[Any]], Sequence[Any]]) -> list[Tensor]:
    """The same tensors, with one JointNode between them and their history."""
    node = JointNode(tensors, function)
    out = []
    for i, t in enumerate(tensors):
        if node.edges[i] is None:
            out.append(t)
            continue
        new = alias(t)
        new._requires_grad, new._node, new._index = True, node, i
        out.append(new)
    return out


class BackwardHooks:
    """One call of a module that has backward hooks.

    The outputs go through a node that runs the pre-hooks and remembers the gradients of the outputs;
    the inputs through one that runs the hooks when all their gradients have arrived.
    """

    def __init__(self, module: Any, pre: Sequence[Any], full: Sequence[Any]):
        self.module, self.pre, self.full = module, pre, full
        self.grad_outputs: tuple[Any, ...] | None = None
        self.has_inputs = False
        self.arguments = 0

    def through_inputs(self, args: tuple[Any, ...]) -> tuple[Any, ...]:
        self.arguments = len(args)
        places = [i for i, a in enumerate(args) if isinstance(a, Tensor)]
        if not mode.grad or not any(args[i].requires_grad for i in places) or not self.full:
            return args
        self.has_inputs = True
        positions = len(args)

        def arrived(grads: list[Any]) -> Sequence[Any]:
            spread: list[Any] = [None] * positions
            for i, g in zip(places, grads, strict=True):
                spread[i] = g
            result = self._run(self.full, tuple(spread), self.grad_outputs)
            self.grad_outputs = None
            return [result[i] for i in places]

        out = list(args)
        for i, t in zip(places, _join([args[i] for i in places], arrived), strict=True):
            out[i] = t
        return tuple(out)

    def through_outputs(self, result: Any) -> Any:
        outputs = result if isinstance(result, (tuple, list)) else (result,)
        places = [i for i, o in enumerate(outputs) if isinstance(o, Tensor)]
        if not mode.grad or not any(outputs[i].requires_grad for i in places):
            return result
        count = len(outputs)

        def arrived(grads: list[Any]) -> Sequence[Any]:
            spread: list[Any] = [None] * count
            for i, g in zip(places, grads, strict=True):
                spread[i] = g
            changed = self._run(self.pre, tuple(spread))
            self.grad_outputs = changed
            if not self.has_inputs and self.full:
                self._run(self.full, (None,) * self.arguments, changed, replace=False)
            return [changed[i] for i in places]

        new = list(outputs)
        for i, t in zip(places, _join([outputs[i] for i in places], arrived), strict=True):
            new[i] = t
        if not isinstance(result, (tuple, list)):
            return new[0]
        return type(result)(*new) if hasattr(result, "_fields") else type(result)(new)

    def _run(
        self, hooks: Sequence[Any], grads: tuple[Any, ...], *more: Any, replace: bool = True
    ) -> tuple[Any, ...]:
        for hook in hooks:
            result = hook(self.module, grads, *more)
            if result is None or not replace:
                continue
            result = result if isinstance(result, tuple) else (result,)
            if len(result) != len(grads):
                raise AutogradError(
                    f"a backward hook of {type(self.module).__name__} returned {len(result)} gradients "
                    f"in place of {len(grads)}",
                    hint="return None, or a tuple as long as the gradients that the hook received",
                )
            grads = result
        return grads
