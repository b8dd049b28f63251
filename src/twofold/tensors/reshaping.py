"""Changes of a tensor's own shape: `squeeze_`, `unsqueeze_`, `transpose_`, `t_`.

Note [Shapes that change in place]
The tensor becomes a view of what it was before: of a new handle that takes over its memory, its
history and the views that others have made of it. Nodes of the tape that saved the tensor find the
earlier handle in `_earlier`, by the number that was reached when the shape changed.
"""

from __future__ import annotations

import gc
import sys
import weakref
from collections.abc import Callable
from typing import Any

from ..autodiff.bind import current_node, require_writable
from ..autodiff.handle import Settings, Tensor, mode, storage_of
from ..autodiff.tape import _numbers
from ..ir.errors import TraceError
from ..ir.graph import Value
from . import movement
from ._registry import METHODS, _put

_HISTORY = (
    "_value", "_requires_grad", "_node", "_index", "_storage", "_base", "_steps", "_attached", "_seen",
    "_value_version",
)  # fmt: skip


def _become(t: Tensor, view_of: Callable[[Tensor], Tensor], op: str) -> Tensor:
    """Let `t` be `view_of(t)`. See Note [Shapes that change in place]."""
    if mode.tracer is not None and not isinstance(t._value, Value):
        raise TraceError(
            "the shape of a tensor from outside the traced function can't change in place",
            op=op,
            hint=f"use the form that returns a tensor: x = x.{op[:-1]}(...)",
        )
    node = current_node(t)
    if mode.grad and t.requires_grad:
        require_writable(t)
    before = object.__new__(Tensor)
    before.__dict__.update({k: v for k, v in t.__dict__.items() if k in _HISTORY or k == "_history"})
    shared = _hand_over_views(t, before)
    previous, mode.grad = mode.grad, mode.grad or node is not None
    try:
        now = view_of(before)
    finally:
        mode.grad = previous
    if shared or node is not None or before._base is not None or mode.tracer is not None:
        for name in _HISTORY:
            setattr(t, name, getattr(now, name))
    t._value = now._value
    Settings.changes += 1  # programs know the arrays of their state
    if node is None:
        t._requires_grad = before._requires_grad
    elif t._retains_grad and node.retained:
        node.retained.pop(before._index, None)
        made = t._node
        made.retained = {**(made.retained or {}), t._index: weakref.ref(t)}
    number = next(_numbers)
    if t._earlier and t._earlier[-1][0] == number - 1:  # no node has seen it since it last changed
        before = t._earlier[-1][1]
        t._earlier = t._earlier[:-1]
    t._earlier = (*t._earlier, (number, before))
    return t


def _hand_over_views(t: Tensor, before: Tensor) -> bool:
    """Let the views of `t` be views of `before`. Returns whether the memory is shared with others at all."""
    storage = storage_of(t)
    earlier = sum([handle._storage is storage for _, handle in t._earlier])
    if sys.getrefcount(storage) <= _ALONE + earlier + (before._storage is storage):
        before._storage = t._storage
        return False
    for owner in gc.get_referrers(t):
        attributes = owner.__dict__ if isinstance(owner, Tensor) else owner
        if isinstance(attributes, dict) and attributes.get("_base") is t:
            attributes["_base"] = before
    return True


_ALONE = 3  # references to a storage that is held by a tensor, a variable, and the call that counts


def _register(name: str, view_of: Callable[..., Tensor]) -> None:
    def call(self: Tensor, *args: Any, **kwargs: Any) -> Tensor:
        return _become(self, lambda x: view_of(x, *args, **kwargs), name)

    call.__name__ = call.__qualname__ = name
    call.__doc__ = f"""In-place form of `{name[:-1]}`: changes the shape of the tensor itself and returns it.

    Raises: AutogradError for a leaf that requires grad, outside of `no_grad()`.
    """
    _put(METHODS, name, call)


_register("squeeze_", movement.squeeze)
_register("unsqueeze_", movement.unsqueeze)
_register("t_", movement.t)
for _name in ("transpose_", "swapaxes_", "swapdims_"):
    _register(_name, movement.transpose)
