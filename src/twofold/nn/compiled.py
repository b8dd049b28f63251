"""OptimizedModule: what `twofold.compile(model)` gives, to be used in the model's place."""

from __future__ import annotations

import copy
from collections.abc import Callable, Iterator
from typing import Any

from .module import Module

_OWN = frozenset(("_call", "_hooks", "_orig_mod"))


class OptimizedModule(Module):
    """A module whose calls run as compiled programs; all else is the module's own.

    Parameters, buffers, submodules, `state_dict()`, `train()`, attributes and methods are those of
    the module inside, with the same names. Hooks registered here run around the programs, hooks of
    the module are compiled into them.

    >>> import twofold as tw
    >>> model = tw.compile(tw.nn.Sequential(tw.nn.Linear(2, 3), tw.nn.ReLU()))
    >>> model(tw.ones(4, 2)).shape, list(model.state_dict())
    ((4, 3), ['0.weight', '0.bias'])
    """

    _orig_mod: Module
    _call: Callable[..., Any]

    def __init__(self, module: Module, call: Callable[..., Any]):
        # The tables are the module's, for code that walks trees of modules through them.
        tables = {k: v for k, v in module.__dict__.items() if k in ("_parameters", "_buffers", "_modules")}
        self.__dict__.update(tables, _non_persistent=module._non_persistent, _orig_mod=module, _call=call)

    def forward(self, *args: Any, **kwargs: Any) -> Any:
        """Run the program for these arguments; the first call of a kind makes it."""
        return self._call(*args, **kwargs)

    def explain(self) -> str:
        """Why each program was made, a line each."""
        return self._call.explain()  # type: ignore[attr-defined]

    def lower(self, *args: Any, **kwargs: Any) -> Any:
        """The program for these arguments, without running it."""
        return self._call.lower(*args, **kwargs)  # type: ignore[attr-defined]

    def _settings(self) -> dict[str, Any]:
        return {"_orig_mod": id(self._orig_mod)}

    def __getattr__(self, name: str) -> Any:
        if "_orig_mod" not in self.__dict__:
            raise AttributeError(name)
        return getattr(self._orig_mod, name)

    def __setattr__(self, name: str, value: Any) -> None:
        setattr(self._orig_mod, name, value)

    def __delattr__(self, name: str) -> None:
        delattr(self._orig_mod, name)

    def __dir__(self) -> list[str]:
        return sorted({*dir(type(self)), *dir(self._orig_mod), *_OWN})

    def __getitem__(self, index: Any) -> Any:
        return self._orig_mod[index]  # type: ignore[index]

    def __iter__(self) -> Iterator[Any]:
        return iter(self._orig_mod)

    def __deepcopy__(self, memo: dict[int, Any]) -> Any:
        return OptimizedModule(*copy.deepcopy((self._orig_mod, self._call), memo))

    def __repr__(self) -> str:
        lines = repr(self._orig_mod).replace("\n", "\n  ")
        return f"OptimizedModule(\n  (_orig_mod): {lines}\n)"


# The module's own methods, which a subclass may have overridden.
_DELEGATED = (
    "_apply", "_save_to_state_dict", "add_module", "apply", "bfloat16", "buffers", "children", "cpu", "cuda",
    "double", "eval", "extra_repr", "float", "get_buffer", "get_extra_state", "get_parameter", "get_submodule",
    "half",
    "load_state_dict", "modules", "named_buffers", "named_children", "named_modules", "named_parameters",
    "parameters", "register_buffer", "register_module", "register_parameter", "requires_grad_", "set_extra_state",
    "set_submodule", "share_memory", "state_dict", "to", "train", "type", "zero_grad",
)  # fmt: skip


def _delegated(name: str) -> Callable[..., Any]:
    def method(self: OptimizedModule, *args: Any, **kwargs: Any) -> Any:
        result = getattr(self._orig_mod, name)(*args, **kwargs)
        return self if result is self._orig_mod else result

    method.__name__, method.__qualname__ = name, f"OptimizedModule.{name}"
    method.__doc__ = getattr(Module, name).__doc__
    return method


for _name in _DELEGATED:
    setattr(OptimizedModule, _name, _delegated(_name))


# How `twofold.compile`, which is on a floor below, makes one.
Module._in_place_of = OptimizedModule  # type: ignore[attr-defined]
