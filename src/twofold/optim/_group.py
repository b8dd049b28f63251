"""ParamGroup: parameters with their options, whose numbers also exist as tensors.

Note [Tensor twins]
For its user a group's `lr` is a Python float. An update reads `group.twin("lr", dtype)`, a 0-d tensor
of the same value, which the group makes once and overwrites when the float changes. In a traced step
the tensor is an input of the program, so that schedules change it without a retrace. Numbers that
must be computed in full precision from an option (1 - beta, log beta) are twins, too, named by the
function that computes them.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

from ..autodiff.composite import concrete
from ..autodiff.handle import Settings, Tensor, mode
from ..ir.dtypes import DType
from ..primitives.movement import full
from ..tensors._registry import assign

Function = Callable[[Any], float]


class ParamGroup(dict[str, Any]):
    """The dict of a parameter group; see Note [Tensor twins]."""

    def __init__(self, options: Mapping[str, Any], exact: bool = False):
        super().__init__(options)
        self._exact = exact
        self._twins: dict[tuple[str, Function | None, DType], Tensor] = {}
        self._kernels: dict[Any, Any] = {}
        self._known: tuple[int, Any] = (-1, None)  # the options' structures, and `Settings.changes` of then

    def twin(self, name: str, dtype: DType, of: Function | None = None) -> Tensor:
        """The option `name`, or `of` it, as a 0-d tensor that follows its changes."""
        twin = self._twins.get((name, of, dtype))
        if twin is None:
            value = self[name]
            if isinstance(value, Tensor) and of is None:
                return value if value.dtype is dtype else value.to(dtype)
            twin = self._twins[name, of, dtype] = _scalar(_number(value, of), dtype)
        if mode.tracer is not None:
            mode.tracer.names.setdefault(id(twin), name if of is None else f"{of.__name__.strip('_')}_{name}")
        return twin

    def structure(self, name: str) -> Any:
        """What a program made from this group depends on: options that are no numbers, and of
        numbers only whether they are zero, unless the group is `exact` about them."""
        value = self.get(name)
        if isinstance(value, Tensor):
            return id(value)
        return value if self._exact else _shape(value)

    def kernel(self, kind: Any, make: Callable[[], Any]) -> Any:
        """What `make` gave for parameters of a kind, under the options as they are now."""
        if self._known[0] != Settings.changes:
            self._known = (
                Settings.changes,
                tuple([(name, self.structure(name)) for name in self if name != "params"]),
            )
        key = self._known[1], kind
        try:
            return self._kernels[key]
        except KeyError:
            made = self._kernels[key] = make()
            return made
        except TypeError:  # an option that can't be hashed
            return None

    def __setitem__(self, name: str, value: Any) -> None:
        before = self.structure(name)
        super().__setitem__(name, value)
        if name == "params" or self.structure(name) != before:
            Settings.changes += 1
        for (twin_name, of, dtype), twin in list(self._twins.items()):
            if twin_name != name:
                continue
            if isinstance(value, Tensor) and of is None:
                del self._twins[twin_name, of, dtype]
            else:
                with concrete():
                    assign(twin, _scalar(_number(value, of), dtype))

    def update(self, *args: Any, **kwargs: Any) -> None:
        for name, value in dict(*args, **kwargs).items():
            self[name] = value

    def __ior__(self, other: Any) -> ParamGroup:  # type: ignore[override,misc]
        self.update(other)
        return self

    def __reduce__(self) -> Any:
        return ParamGroup, (dict(self), self._exact)

    def __deepcopy__(self, memo: dict[int, Any]) -> ParamGroup:
        from copy import deepcopy

        return ParamGroup(deepcopy(dict(self), memo), self._exact)


def _number(value: Any, of: Function | None) -> float:
    if isinstance(value, Tensor):
        value = value.item()
    return float(value if of is None else of(value))


def _shape(value: Any) -> Any:
    """A number as "zero" or "number", for each of a tuple; anything else as it is."""
    if isinstance(value, (tuple, list)):
        return tuple(_shape(v) for v in value)
    if isinstance(value, (int, float)) and not isinstance(value, bool):
        return "zero" if value == 0 else "number"
    return value


def _scalar(value: float, dtype: DType) -> Tensor:
    with concrete():
        return full(shape=(), value=value, dtype=dtype)
