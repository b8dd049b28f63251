"""composite: a function over primitives that a backend may recognise by its name."""

from __future__ import annotations

import functools
from collections.abc import Callable
from typing import Any, TypeVar

from .handle import mode

F = TypeVar("F", bound=Callable[..., Any])


def composite(fn: F) -> F:
    """Mark `fn` so that the graph nodes made inside it carry its name while tracing.

    Eagerly it costs one attribute look-up. A backend reads `node.scope`, a tuple of
    `(name, call number)`, to treat e.g. all nodes of one `softmax` as a unit.
    """

    @functools.wraps(fn)
    def call(*args: Any, **kwargs: Any) -> Any:
        if mode.tracer is None:
            return fn(*args, **kwargs) if kwargs else fn(*args)
        with mode.tracer.scope(fn.__name__):
            return fn(*args, **kwargs)

    return call  # type: ignore[return-value]


class concrete:
    """Inside: operations run now on arrays, even in a thread that traces.

    For values that must exist before the traced program does: the buffers of an optimizer,
    the tensor that holds a learning rate.
    """

    __slots__ = ("grad", "tracer")

    def __enter__(self) -> None:
        self.tracer, self.grad = mode.tracer, mode.grad
        mode.tracer, mode.grad = None, False

    def __exit__(self, *_: Any) -> None:
        mode.tracer, mode.grad = self.tracer, self.grad
