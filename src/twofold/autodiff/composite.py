"""composite: a function over primitives that a backend may recognise by its name, or run as one operation.

Note [Fused composites]
A composite that is marked `fused` is one operation of the tape: eager code runs it as a program of its own
where somebody installed such programs (`install_programs`), and else as the operations that it is made of.
Which of them happens changes no bit. An operation sums the gradient of an input before it hands it on; where
the function uses an input more than once, that is a matter of the order of additions, so it is marked
`gathers`, and a `Gate` sums them where it runs operation by operation, eagerly or while tracing.
"""

from __future__ import annotations

import functools
import threading
from collections.abc import Callable, Sequence
from contextlib import AbstractContextManager
from typing import Any, TypeVar, overload

from . import tape
from .bind import current_node
from .handle import Tensor, mode, storage_of, wrap

F = TypeVar("F", bound=Callable[..., Any])


class Composite:
    """What is known of a fused composite.

    Attributes:
        fn: the function as it is written.
        run: what eager code calls with the positional and the named arguments.
        traced: the function as it is called while tracing.
    """

    __slots__ = ("fn", "gathers", "inplace", "run", "traced")

    def __init__(self, fn: Callable[..., Any], gathers: bool):
        self.fn, self.gathers = fn, gathers
        code = _inside(fn).__code__
        names = code.co_varnames[: code.co_argcount]
        self.inplace = names.index("inplace") if "inplace" in names else None
        self.run: Callable[[tuple[Any, ...], dict[str, Any]], Any] = self.plainly
        self.traced: Callable[..., Any] = fn

    def plainly(self, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
        """Run operation by operation."""
        if self.gathers and mode.grad and not self._writes(args, kwargs):
            return _through_gate(self.fn, args, kwargs)
        return self.fn(*args, **kwargs)

    def _writes(self, args: tuple[Any, ...], kwargs: dict[str, Any]) -> bool:
        """Whether it is asked to change its input: that must be the input itself then."""
        at = self.inplace
        return at is not None and bool(args[at] if len(args) > at else kwargs.get("inplace"))


def _inside(fn: Any) -> Any:
    """The function that decorators were put around."""
    while hasattr(fn, "__wrapped__"):
        fn = fn.__wrapped__
    return fn


COMPOSITES: list[Composite] = []  # the fused ones
_makes_programs: Callable[[Composite], Callable[..., Any]] | None = None


def install_programs(make: Callable[[Composite], Callable[..., Any]]) -> None:
    """From now on fused composites run as `make` says, which gives each its `run`."""
    global _makes_programs
    _makes_programs = make
    for known in COMPOSITES:
        known.run = make(known)


@overload
def composite(fn: F) -> F: ...
@overload
def composite(*, fused: bool = False, gathers: bool = False) -> Callable[[F], F]: ...
def composite(fn: Any = None, *, fused: bool = False, gathers: bool = False) -> Any:
    """Mark `fn` so that the graph nodes made inside it carry its name while tracing.

    Eagerly it costs one attribute look-up. A backend reads `node.scope`, a tuple of
    `(name, call number)`, to treat e.g. all nodes of one `softmax` as a unit.

    Args:
        fused: see Note [Fused composites]. It gives tensors that it makes, and changes nothing but tensors
            that are arguments, and the generator.
        gathers: it uses an input more than once.
    """
    if fn is None:
        return functools.partial(composite, fused=fused, gathers=gathers)
    name = fn.__name__
    if not fused:

        @functools.wraps(fn)
        def call(*args: Any, **kwargs: Any) -> Any:
            if mode.tracer is None:
                return fn(*args, **kwargs) if kwargs else fn(*args)
            with mode.tracer.scope(name):
                return fn(*args, **kwargs)

        return call

    known = Composite(fn, gathers)
    COMPOSITES.append(known)
    if _makes_programs is not None:
        known.run = _makes_programs(known)

    @functools.wraps(fn)
    def fused_call(*args: Any, **kwargs: Any) -> Any:
        if mode.tracer is None:
            return known.run(args, kwargs)
        with mode.tracer.scope(name):
            return known.plainly(args, kwargs)

    known.traced = fused_call
    return fused_call


class Gate(tape.Node):
    """The tape's node at the entrance of a composite: sums the gradients of each input, then hands them on."""

    __slots__ = ()

    def __init__(self, tensors: Sequence[Tensor]):
        self.number = next(tape._numbers)
        self.prim = None  # type: ignore[assignment]
        self.params = {}
        self.edges = [(t, 0) if (node := current_node(t)) is None else (node, t._index) for t in tensors]
        self.inputs = []
        self.versions = []
        self.outputs = None
        self.types = [(t._value.shape, t._value.dtype) for t in tensors]
        self.hooks = self.retained = self.location = None
        self.spent = False

    @property
    def name(self) -> str:
        return "gate"

    def backward(self, grads: list[Any]) -> Sequence[Any]:
        """The gradients as they are."""
        return grads


def _through_gate(fn: Callable[..., Any], args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
    """`fn(*args, **kwargs)`, with a Gate before the tensors that require a gradient."""
    outside = {id(x): x for x in (*args, *kwargs.values()) if isinstance(x, Tensor) and x.requires_grad}
    if not outside:
        return fn(*args, **kwargs)
    tracer = mode.tracer
    values = [t._value if tracer is None else tracer.value_of(t) for t in outside.values()]
    gate = Gate(list(outside.values()))
    inside: dict[int, Tensor] = {}
    for i, (t, value) in enumerate(zip(outside.values(), values, strict=True)):
        inside[id(t)] = handle = wrap(value)
        handle._storage = storage_of(t)  # so that changes of `t` are noticed
        handle._requires_grad, handle._node, handle._index = True, gate, i
    handles = {id(inside[k]): t for k, t in outside.items()}
    result = fn(*[inside.get(id(x), x) for x in args], **{k: inside.get(id(x), x) for k, x in kwargs.items()})
    return handles.get(id(result), result)


class Drawing:
    """Where random numbers come from: set by the room of tensors and, `draw`, by the compiler.

    Attributes:
        state: gives the state that a draw without a generator reads and advances now.
        lock: held while a state is read and advanced.
        draw: fills an array and advances the state, where there are kernels for it, as the operations do:
            called with "uniform", "normal", "integers" ..., the state, the array, and two numbers.
    """

    state: Callable[[], Tensor]
    draw: Callable[..., Any] | None = None
    lock: AbstractContextManager[Any] = threading.Lock()


def unrepeatable() -> None:
    """Said by a fused composite that does what a program can't repeat, such as a warning: it is not fused then."""
    if mode.tracer is not None:
        mode.tracer.repeats = False


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
