"""Updates of many parameters at once.

Note [Batches]
The update of each optimizer here is element-wise, and parameters of one batch, which are at the same step with
buffers of the same kind, differ in their elements only. So the update is traced once and becomes one kernel
(compiler/updates.py) that is called for each of them. Where there can be none, small parameters are laid end to
end, with their gradients and buffers, and updated as one: the same bits, in one sequence of operations
instead of one for each parameter. Above some size that would cost more than it saves.

A class says that its `_update` is element-wise by `@elementwise`: that it combines elements of one
place only, apart from 0-d counters in the state. A subclass with an `_update` of its own must say so itself.
"""

from __future__ import annotations

import itertools
from collections.abc import Callable, Iterator
from typing import Any, TypeVar

import numpy as np

from ..autodiff.bind import overwrite, overwritten
from ..autodiff.handle import Tensor, wrap
from ..compiler.updates import update_of
from ..ir.dtypes import float32, float64
from ..ir.errors import TraceError

F = TypeVar("F", bound=Callable[..., Any])
Item = tuple[Tensor, Tensor, dict[str, Any]]  # parameter, gradient, state
Update = Callable[[Tensor, Tensor, dict[str, Any]], None]

SMALL = 4096  # elements of a parameter that is laid end to end with others
TOTAL = 1 << 16  # elements that are laid end to end: all that an update touches stays in the cache
_DTYPES = (float32.numpy, float64.numpy)


def elementwise(update: F) -> F:
    """Mark an `_update`: see Note [Batches]."""
    update.elementwise = True  # type: ignore[attr-defined]
    return update


def batch_of(p: Tensor, grad: Tensor, state: dict[str, Any]) -> Any:
    """What parameters must have in common to be updated together: of what kinds their buffers are, and their
    counters; None for those that can't be."""
    value, g = p._value, grad._value
    dtype, shape = value.dtype, value.shape
    if not shape or dtype not in _DTYPES or g.dtype is not dtype or g.shape != shape:
        return None
    if p._base is not None or not _lies_open(value) or not g.flags.c_contiguous:
        return None
    kind: list[Any] = [dtype]
    counters = []
    for name, buffer in state.items():
        if not isinstance(buffer, Tensor) or buffer._base is not None:
            return None
        array = buffer._value
        kind += (name, array.dtype, array.ndim == 0)
        if not array.shape:
            counters.append(array.item())
        elif array.shape != shape or not _lies_open(array):
            return None
    return tuple(kind), tuple(counters)


def _lies_open(array: np.ndarray[Any, Any]) -> bool:
    """Whether a kernel can write an array's elements one after the other."""
    flags = array.flags
    return flags.c_contiguous and flags.writeable


def kernel_of(item: Item, update: Update) -> Any:
    """The kernel of the item's batch, or None."""
    p, grad, state = item
    names = list(state)

    def fn(p: Tensor, grad: Tensor, *buffers: Tensor) -> None:
        given = dict(zip(names, buffers, strict=True))
        update(p, grad, given)
        if list(given) != names:
            raise TraceError("the first update makes buffers", op="step")

    tensors = (p, grad, *state.values())
    return update_of(fn, [t.dtype for t in tensors], [not t.shape for t in tensors])


def update_by(kernel: Any, items: list[Item]) -> None:
    """Run a kernel on all parameters of a batch."""
    tensors = [(p, grad, *state.values()) for p, grad, state in items]
    kernel([[t._value for t in of_one] for of_one in tensors])
    for of_one in tensors:
        for i in kernel.written:
            overwritten(of_one[i])


def pieces(items: list[Item]) -> Iterator[list[Item]]:
    """The items of one batch in runs of at most TOTAL elements, large ones alone."""
    run: list[Item] = []
    count = 0
    for item in items:
        size = item[0]._value.size
        if size > SMALL:
            yield [item]
            continue
        if run and count + size > TOTAL:
            yield run
            run, count = [], 0
        run.append(item)
        count += size
    if run:
        yield run


def update_together(items: list[Item], update: Update) -> None:
    """`update(parameter, gradient, state)` of parameters of one batch, end to end."""
    params, grads, states = zip(*items, strict=True)
    joined = {name: _joined([s[name] for s in states]) for name in states[0]}
    state = dict(joined)
    p = _joined(params)
    update(p, _joined(grads), state)
    _handed_out(p, params)
    for name, whole in state.items():
        if name in joined:
            _handed_out(whole, [s[name] for s in states])
        else:
            _given(whole, name, items)


def _joined(tensors: Any) -> Tensor:
    first = tensors[0]._value
    if not first.shape:
        return wrap(first.copy())  # counters, which are equal
    return wrap(np.concatenate([t._value for t in tensors], axis=None))


def _parts(whole: Tensor, tensors: Any) -> Any:
    """The elements of `whole` that belong to each tensor."""
    array = whole._value
    if not array.shape:
        return itertools.repeat(array, len(tensors))
    parts, at = [], 0
    for t in tensors:
        value = t._value
        parts.append(array[at : at + value.size].reshape(value.shape))
        at += value.size
    return parts


def _handed_out(whole: Tensor, tensors: Any) -> None:
    for t, part in zip(tensors, _parts(whole, tensors), strict=True):
        overwrite(t, part)


def _given(whole: Tensor, name: str, items: list[Item]) -> None:
    """A buffer that the update began."""
    for (_, _, state), part in zip(items, _parts(whole, [p for p, _, _ in items]), strict=True):
        state[name] = wrap(part.copy())
