"""State: an optimizer's buffers, for each parameter a dict; counts what programs must notice.

A program of a traced step reads and writes the very tensors that were there when it was traced. New
entries are none of its business, but it must not go on with tensors that were removed or replaced.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

import numpy as np

from ..autodiff.handle import Settings, Tensor, mode
from ..ir.errors import TraceError


class _Counted(dict[Any, Any]):
    """A dict that counts how often an entry was removed or replaced."""

    generation = 0  # not set by __init__: unpickling does not call it

    def _count(self, *gone: Any) -> None:
        self.generation += 1 + sum(getattr(value, "generation", 0) for value in gone)
        Settings.changes += 1

    def __setitem__(self, key: Any, value: Any) -> None:
        if key in self and self[key] is not value:
            self._count(self[key])
        super().__setitem__(key, value)

    def __delitem__(self, key: Any) -> None:
        self._count(self[key])
        super().__delitem__(key)

    def clear(self) -> None:
        if self:
            self._count(*self.values())
        super().clear()

    def pop(self, key: Any, *default: Any) -> Any:
        if key in self:
            self._count(self[key])
        return super().pop(key, *default)

    def popitem(self) -> tuple[Any, Any]:
        key, value = super().popitem()
        self._count(value)
        return key, value

    def setdefault(self, key: Any, default: Any = None) -> Any:
        if key not in self:
            self[key] = default
        return self[key]

    def update(self, *args: Any, **kwargs: Any) -> None:
        for key, value in dict(*args, **kwargs).items():
            self[key] = value

    def __ior__(self, other: Any) -> Any:  # type: ignore[misc]
        self.update(other)
        return self


class Slots(_Counted):
    """The buffers of one parameter, by name."""

    def __setitem__(self, key: Any, value: Any) -> None:
        if mode.tracer is not None and self.get(key) is not value:
            _require_lasting(key, value, key in self)
        super().__setitem__(key, value)


class State(_Counted):
    """For each parameter its Slots, which come into being when they are asked for."""

    def __init__(self, items: Mapping[Any, Any] | None = None):
        super().__init__()
        self.update(items or {})

    def __missing__(self, key: Any) -> Slots:
        slots = Slots()
        self[key] = slots
        return slots

    def __setitem__(self, key: Any, value: Any) -> None:
        if type(value) is dict:
            slots = Slots()
            slots.update(value)
            value = slots
        super().__setitem__(key, value)

    def remember(self) -> Callable[[], None]:
        """A function that makes the state what it is now."""
        before = {key: dict(slots) for key, slots in self.items()}

        def restore() -> None:
            for key in [*self]:
                if key not in before:
                    del self[key]
            for key, slots in before.items():
                for name in [*self[key]]:
                    if name not in slots:
                        del self[key][name]
                self[key].update(slots)

        return restore

    def replacements(self) -> int:
        """How often something was removed or replaced."""
        return self.generation + sum(getattr(slots, "generation", 0) for slots in self.values())


def _require_lasting(key: Any, value: Any, is_there: bool) -> None:
    """Raise TraceError where a trace puts something into the state that a program can't put there."""
    made = isinstance(value, Tensor)
    if made and isinstance(value._value, np.ndarray):
        return
    if is_there:
        what = f"the code replaces {key!r} in the optimizer's state"
    elif made:
        what = f"the code puts {key!r}, which it computes, into the optimizer's state"
    else:
        return
    raise TraceError(
        f"{what}, which a program does not do",
        hint="keep a tensor there, make it before the first step, and write into it: state['step'].add_(1)",
    )
