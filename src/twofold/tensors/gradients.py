"""Methods of tensors around backward, and the switches of recording."""

from __future__ import annotations

import functools
import inspect
import weakref
from collections.abc import Callable, Sequence
from typing import Any

from ..autodiff.backward import run_backward
from ..autodiff.bind import current_node, no_record, write
from ..autodiff.handle import Settings, Tensor, alias, mode, storage_of, unlinked
from ..ir.errors import AutogradError, DTypeError
from ._registry import FUNCTIONS, METHODS, _put, function

# --- backward ------------------------------------------------------------------------------------


@function(module=False)
def backward(
    self: Tensor,
    gradient: Tensor | None = None,
    retain_graph: bool | None = None,
    create_graph: bool = False,
    inputs: Tensor | Sequence[Tensor] | None = None,
) -> None:
    """Add the gradients of this tensor to `.grad` of the leaves that it was made from.

    Args:
        gradient: gradient of the result, of this tensor's shape; may be left out for one element.
        retain_graph: keep what was saved, to go backward again; default: `create_graph`.
        create_graph: record the gradients' computation, for higher derivatives.
        inputs: accumulate into these tensors only.

    Raises: AutogradError if nothing was recorded, if the graph was used up, or if a tensor that is
        needed was changed in place since.

    >>> import twofold as tw
    >>> x = tw.tensor(3.0, requires_grad=True)
    >>> (x * x).backward()
    >>> x.grad
    tensor(6.)
    """
    if not self.requires_grad:
        raise AutogradError(
            f"a tensor of shape {self.shape} that does not require grad has no backward",
            op="backward",
            hint="set requires_grad=True on an input before computing; was it made inside no_grad(), "
            "or from detach(), item() or numpy()?",
        )
    if isinstance(inputs, Tensor):
        inputs = [inputs]
    if inputs is not None and not inputs:
        raise AutogradError("inputs is empty", op="backward", hint="leave it out for all leaves")
    run_backward(
        [self],
        [gradient],
        retain_graph=create_graph if retain_graph is None else retain_graph,
        create_graph=create_graph,
        inputs=inputs,
    )


class RemovableHandle:
    """What registering a hook returns: `remove()` takes the hook away. Also a context manager."""

    __slots__ = ("hooks", "key")

    _next = 0

    def __init__(self, hooks: dict[int, Any], hook: Any):
        RemovableHandle._next += 1
        self.hooks, self.key = hooks, RemovableHandle._next
        hooks[self.key] = hook
        Settings.changes += 1

    def remove(self) -> None:
        """Take the hook away; a second time does nothing."""
        self.hooks.pop(self.key, None)
        Settings.changes += 1

    def __enter__(self) -> RemovableHandle:
        return self

    def __exit__(self, *_: Any) -> None:
        self.remove()


@function(module=False)
def register_hook(self: Tensor, hook: Callable[[Tensor], Tensor | None]) -> RemovableHandle:
    """Call `hook(grad)` whenever backward has this tensor's gradient; a result replaces it.

    >>> import twofold as tw
    >>> x = tw.ones(2, requires_grad=True)
    >>> handle = x.register_hook(lambda g: g * 10)
    >>> x.sum().backward()
    >>> x.grad
    tensor([10., 10.])
    """
    node = current_node(self)
    if not self.requires_grad:
        raise AutogradError("a tensor that does not require grad gets no gradient to hook", op="register_hook")
    if node is None:
        if self._hooks is None:
            self._hooks = {}
        return RemovableHandle(self._hooks, hook)
    if node.hooks is None:
        node.hooks = {}
    return RemovableHandle(node.hooks.setdefault(self._index, {}), hook)


@function(module=False)
def register_post_accumulate_grad_hook(self: Tensor, hook: Callable[[Tensor], None]) -> RemovableHandle:
    """Call `hook(tensor)` whenever backward has added to this leaf's `.grad`.

    >>> import twofold as tw
    >>> x = tw.ones(2, requires_grad=True)
    >>> handle = x.register_post_accumulate_grad_hook(lambda t: print(t.grad))
    >>> (x * 3).sum().backward()
    tensor([3., 3.])
    """
    if not self.requires_grad or current_node(self) is not None:
        raise AutogradError(
            "only a leaf that requires grad accumulates gradients", op="register_post_accumulate_grad_hook"
        )
    if self._post_hooks is None:
        self._post_hooks = {}
    return RemovableHandle(self._post_hooks, hook)


@function(module=False)
def retain_grad(self: Tensor) -> None:
    """Let backward fill `.grad` of this tensor though it is not a leaf.

    >>> import twofold as tw
    >>> h = tw.ones(2, requires_grad=True) * 3
    >>> h.retain_grad()
    >>> (h * h).sum().backward()
    >>> h.grad
    tensor([6., 6.])
    """
    node = current_node(self)
    if not self.requires_grad:
        raise AutogradError("a tensor that does not require grad gets no gradient to retain", op="retain_grad")
    if node is None:
        return
    if node.retained is None:
        node.retained = {}
    node.retained[self._index] = weakref.ref(self)  # weak: the tensor keeps its node
    self._retains_grad = True


_put(
    METHODS,
    "retains_grad",
    property(lambda self: self._retains_grad, doc="Whether retain_grad() was called on this non-leaf."),
)

# --- requires_grad, detach, data -----------------------------------------------------------------


@function(module=False)
def requires_grad_(self: Tensor, requires_grad: bool = True) -> Tensor:
    """Set whether operations on this leaf are recorded; returns it.

    Raises: DTypeError for integers and bools; AutogradError when taking it from a non-leaf.

    >>> import twofold as tw
    >>> tw.ones(2).requires_grad_()
    tensor([1., 1.], requires_grad=True)
    """
    self.requires_grad = requires_grad
    return self


@function
def detach(input: Tensor) -> Tensor:
    """The same memory without history: no gradient flows through the result.

    >>> import twofold as tw
    >>> tw.ones(2, requires_grad=True).detach()
    tensor([1., 1.])
    """
    return alias(input)


@function(module=False)
def detach_(self: Tensor) -> Tensor:
    """Forget this tensor's history, in place.

    Raises: AutogradError for a view: its base would still know.

    >>> import twofold as tw
    >>> (tw.ones(2, requires_grad=True) * 3).detach_()
    tensor([3., 3.])
    """
    if self._base is not None and self._attached and self.requires_grad:
        raise AutogradError("a view can't be detached in place", op="detach_", hint="use detach()")
    Settings.changes += self._watched
    self._node, self._index, self._requires_grad = None, 0, False
    self._history += 1
    return self


def _get_data(self: Tensor) -> Tensor:
    return alias(self)


def _set_data(self: Tensor, value: Tensor) -> None:
    if not isinstance(value, Tensor):
        raise DTypeError(f"data must be a tensor, got {type(value).__name__}", op="data")
    same = value.shape == self.shape and value.dtype is self.dtype
    if mode.tracer is not None or (same and self._base is not None):
        if not same:
            raise AutogradError("data can change its shape or dtype only outside of tracing", op="data")
        with no_record():
            write(self, value)
        return
    value = unlinked(value, self)
    Settings.changes += 1  # programs know the arrays of their state
    self._value, self._storage = value._value, storage_of(value)
    self._base, self._attached = value, False


_put(
    METHODS,
    "data",
    property(_get_data, _set_data, doc="The tensor without history; setting it takes over another's memory."),
)

# --- switches ------------------------------------------------------------------------------------


class _Switch:
    """A context manager that is a decorator, too; subclasses set the mode in `__enter__`."""

    def __new__(cls, *args: Any, **_: Any) -> Any:
        self = object.__new__(cls)
        if args and callable(args[0]):  # @no_grad without brackets
            self.__init__()  # type: ignore[misc]
            return self(args[0])
        return self

    def _again(self) -> _Switch:
        return type(self)()

    def __call__(self, fn: Any) -> Any:
        if inspect.isgeneratorfunction(fn):
            return self._wrap_generator(fn)

        @functools.wraps(fn)
        def call(*args: Any, **kwargs: Any) -> Any:
            with self._again():
                return fn(*args, **kwargs)

        return call

    def _wrap_generator(self, fn: Any) -> Any:
        """Switch while the generator runs, and not while its consumer does."""

        @functools.wraps(fn)
        def call(*args: Any, **kwargs: Any) -> Any:
            generator = fn(*args, **kwargs)
            step, argument = generator.send, None
            while True:
                try:
                    with self._again():
                        value = step(argument)
                except StopIteration as stop:
                    return stop.value
                try:
                    step, argument = generator.send, (yield value)
                except GeneratorExit:
                    generator.close()
                    raise
                except BaseException as e:
                    step, argument = generator.throw, e

        return call

    def __enter__(self) -> Any:
        raise NotImplementedError

    def __exit__(self, *_: Any) -> None:
        mode.grad, mode.inference = self._previous

    def _switch(self, grad: bool, inference: bool) -> None:
        self._previous = (mode.grad, mode.inference)
        mode.grad, mode.inference = grad, inference


class no_grad(_Switch):
    """Inside, nothing is recorded for backward. `with no_grad():` or a decorator.

    >>> import twofold as tw
    >>> x = tw.ones(2, requires_grad=True)
    >>> with tw.no_grad():
    ...     y = x * 2
    >>> y.requires_grad
    False
    """

    def __enter__(self) -> None:
        self._switch(False, mode.inference)


class enable_grad(_Switch):
    """Inside, operations are recorded again. `with enable_grad():` or a decorator.

    >>> import twofold as tw
    >>> x = tw.ones(2, requires_grad=True)
    >>> with tw.no_grad(), tw.enable_grad():
    ...     y = x * 2
    >>> y.requires_grad
    True
    """

    def __enter__(self) -> None:
        self._switch(not mode.inference, mode.inference)


class inference_mode(_Switch):
    """`no_grad` that `enable_grad` inside does not undo; for running a model only.

    >>> import twofold as tw
    >>> with tw.inference_mode(), tw.enable_grad():
    ...     tw.is_grad_enabled()
    False
    """

    def __init__(self, mode: bool = True):
        self._on = mode

    def _again(self) -> _Switch:
        return type(self)(self._on)

    def __enter__(self) -> None:
        self._switch(not self._on and mode.grad, self._on)


class set_grad_enabled(_Switch):
    """Record or not, from now on; as a context manager, until its end.

    >>> import twofold as tw
    >>> with tw.set_grad_enabled(False):
    ...     tw.is_grad_enabled()
    False
    """

    def __init__(self, mode: bool):
        self._on = mode
        self.__enter__()

    def _again(self) -> _Switch:
        return type(self)(self._on)

    def __call__(self, fn: Any) -> Any:
        self.__exit__()  # as a decorator it says nothing about the code that follows
        return super().__call__(fn)

    def __enter__(self) -> None:
        if not hasattr(self, "_previous"):
            self._previous = (mode.grad, mode.inference)
        mode.grad = bool(self._on) and not mode.inference


def is_grad_enabled() -> bool:
    """Whether operations are recorded for backward in this thread.

    >>> import twofold as tw
    >>> tw.is_grad_enabled()
    True
    """
    return mode.grad


def is_inference_mode_enabled() -> bool:
    """Whether this thread is inside `inference_mode`.

    >>> import twofold as tw
    >>> tw.is_inference_mode_enabled()
    False
    """
    return mode.inference


for _fn in (no_grad, enable_grad, inference_mode, set_grad_enabled, is_grad_enabled, is_inference_mode_enabled):
    _put(FUNCTIONS, _fn.__name__, _fn)
