"""Parameter and Buffer: tensors that a Module registers when they are assigned to it."""

from __future__ import annotations

from typing import Any

from ..autodiff.bind import no_record
from ..autodiff.handle import Settings, Tensor, storage_of
from ..ir.errors import AutogradError


class Parameter(Tensor):
    """A tensor that a Module lists in `parameters()` when it becomes one of its attributes.

    Shapes: data (...) -> a leaf of the same shape and dtype on the same memory.
    Raises: AutogradError when `requires_grad` is asked of an integer or bool tensor.

    >>> import twofold as tw
    >>> tw.nn.Parameter(tw.tensor([1.0, 2.0]))
    Parameter containing:
    tensor([1., 2.], requires_grad=True)
    """

    def __init__(self, data: Tensor | None = None, requires_grad: bool = True):
        if data is None:
            super().__init__([], dtype="float32")
        else:
            if not isinstance(data, Tensor):
                data = Tensor(data, dtype=getattr(data, "dtype", None))
            take_data(self, data)
        if requires_grad:
            if not self.dtype.is_differentiable:
                raise AutogradError(
                    f"only floating and complex tensors can require gradients, got {self.dtype.name}",
                    op="Parameter",
                    hint="pass requires_grad=False, or convert the data with .float()",
                )
            self.requires_grad = True

    def __deepcopy__(self, memo: dict[int, Any]) -> Parameter:
        if id(self) not in memo:
            with no_record():
                memo[id(self)] = type(self)(self.detach().clone(), self.requires_grad)
        return memo[id(self)]

    def __repr__(self) -> str:
        return "Parameter containing:\n" + Tensor.__repr__(self)


class Buffer(Tensor):
    """A tensor that a Module registers as a buffer: part of its state, but not trained.

    Args:
        persistent: whether the buffer is part of the module's `state_dict`.

    >>> import twofold as tw
    >>> m = tw.nn.Module()
    >>> m.mean = tw.nn.Buffer(tw.zeros(2))
    >>> [name for name, _ in m.named_buffers()]
    ['mean']
    """

    persistent: bool = True

    def __init__(self, data: Tensor | None = None, *, persistent: bool = True):
        if data is None:
            super().__init__([], dtype="float32")
        else:
            take_data(self, data)
        self.persistent = persistent

    def __deepcopy__(self, memo: dict[int, Any]) -> Buffer:
        if id(self) not in memo:
            with no_record():
                memo[id(self)] = type(self)(self.detach().clone(), persistent=self.persistent)
        return memo[id(self)]


def take_data(t: Tensor, data: Tensor) -> None:
    """Give `t` the memory of `data`, without its history; `t` stays the same object.

    A view stays linked to its base, so that traced writes reach it; a whole tensor does not need to be,
    and operations are quicker on a handle that has no base.
    """
    if data._value is getattr(t, "_value", None):
        return  # an alias of `t`, which must not become its base
    Settings.changes += 1  # programs know the arrays of their state
    t._value = data._value
    t._storage = storage_of(data)
    t._value_version = data._value_version
    t._base, t._attached, t._steps = None, True, ()
    if data._base is not None:
        t._base, t._attached = data, False
