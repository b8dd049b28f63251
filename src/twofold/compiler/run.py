"""run: one run of a function on symbolic tensors, and the Trace that it gives."""

from __future__ import annotations

import inspect
from collections.abc import Callable
from typing import Any

import numpy as np

from ..autodiff.handle import Tensor, alias, wrap
from ..ir.errors import TraceError
from ..ir.graph import Value
from ..ir.tree import flatten
from .derivative import Derivative, Made, differentiate
from .entry import enter
from .results import Given, Gradient, ViewOf, base_of
from .trace import TENSOR, Slot, Trace, Tracer


def trace(fn: Callable[..., Any], *args: Any, **kwargs: Any) -> Trace:
    """Write down what `fn(*args, **kwargs)` does as a graph, without running it on values.

    Tensors among the arguments (nested in tuples, lists and dicts) are inputs; all other
    arguments are fixed. State that the code reads or writes is found by tracing.

    Raises: TraceError where the code needs the value of a tensor (`if x > 0`, `.item()`).

    >>> import twofold as tw
    >>> w = tw.ones(3)
    >>> def step(x):
    ...     w.add_(x)
    ...     return (w * 2).sum()
    >>> t = tw.trace(step, tw.ones(3))
    >>> t(tw.ones(3)), w
    (tensor(12.), tensor([2., 2., 2.]))
    """
    return trace_call(fn, args, kwargs, derivative=False)


def trace_call(fn: Callable[..., Any], args: Any, kwargs: Any, *, derivative: bool) -> Trace:
    """As `trace`; with `derivative`, the graph also has the gradients of results that require one."""
    run = Run(fn, args, kwargs, Tracer(name_of(fn), entries=True))
    with run.tracer:
        run.call()
        run.end(derivative)
    return run.finish()


def name_of(fn: Callable[..., Any]) -> str:
    """What a function's graph is called."""
    return getattr(fn, "__name__", type(fn).__name__)


class Run:
    """A function called with symbolic tensors in place of those among its arguments.

    `call`, then `end`, both while the tracer is active, then `finish`.
    """

    def __init__(
        self, fn: Callable[..., Any], args: Any, kwargs: Any, tracer: Tracer, names: list[str] | None = None
    ):
        self.fn, self.tracer = fn, tracer
        leaves, self.args_tree = flatten((args, kwargs))
        self.names = names = _argument_names(fn, args, kwargs) if names is None else names
        self.given = [leaf for leaf in leaves if isinstance(leaf, Tensor)]
        self.statics: list[Any] = []
        self.handles: list[Tensor] = []
        self.origins: list[Tensor] = []
        traced_leaves = []
        for leaf, name in zip(leaves, names, strict=True):
            if not isinstance(leaf, Tensor):
                self.statics.append(leaf)
                traced_leaves.append(leaf)
                continue
            handle = wrap(tracer.graph.add_input(leaf.type_, name))
            handle._requires_grad = leaf.requires_grad
            has_history = handle._requires_grad and not leaf.is_leaf
            self.origins.append(enter(handle, handle._value) if has_history else handle)
            self.statics.append(TENSOR)
            self.handles.append(handle)
            traced_leaves.append(handle)
        self.starts = [h._value for h in self.handles]
        self.traced_args, self.traced_kwargs = self.args_tree.unflatten(traced_leaves)
        self.derivative: Derivative | None = None

    def call(self) -> None:
        """Run the code."""
        for obj in (*self.statics, getattr(self.fn, "__self__", None)):
            if hasattr(obj, "_settings"):
                self.tracer.touch(obj)
        self.result = self.fn(*self.traced_args, **self.traced_kwargs)

    def end(self, derivative: bool) -> None:
        """Collect what the code leaves: results, changes, and with `derivative` gradients.

        Raises: TraceError for what a program can't do.
        """
        leaves, self.result_tree = flatten(self.result)
        leaves = [self.tracer.mark_of(leaf) for leaf in leaves]
        self.made, self.marks = _sort_results(leaves, self.handles, self.tracer)
        self.outputs = [self.tracer.value_of(r) for r in self.made]
        self.collect_changes()
        if derivative:
            written = {
                i: self.handles[u] if isinstance(u, int) else u.handle
                for i, u in enumerate(self.updates)
                if isinstance(u, int) or not u.is_grad
            }
            self.derivative = differentiate(self.tracer, self.made, written, self.origins)

    def collect_changes(self) -> None:
        """What the code changes, after the results among `outputs`; see Trace."""
        tracer = self.tracer
        self.updates: list[Slot | int] = []
        for number, (handle, start) in enumerate(zip(self.handles, self.starts, strict=True)):
            if handle._value is not start:
                self._update(number, handle._value)
        grads, self.cleared = _changed_grads(tracer)
        of_arguments, self.flags = _grads_of_arguments(self.handles, self.given, tracer)
        for slot, value in (*grads, *of_arguments):
            self._update(slot, value)
        for before in tracer.attributes:
            before.require_same()
        _check_memory(tracer)
        owners = tracer.owners()
        for root in tracer.roots.values():
            if root.written and id(root.handle) not in owners:
                self._update(Slot(root.handle), root.now)
        _check_flags(tracer)
        _check_entries([o for o, h in zip(self.origins, self.handles, strict=True) if o is not h], tracer)

    def _update(self, target: Slot | int, value: Value) -> None:
        self.updates.append(target)
        self.outputs.append(value)

    def finish(self) -> Trace:
        """The trace, once the tracer is no longer active."""
        tracer, owners = self.tracer, self.tracer.owners()
        roots = sorted(tracer.roots.values(), key=lambda root: id(root.handle) not in owners)  # gradients first
        state = [Slot(owners.get(id(r.handle), r.handle), is_grad=id(r.handle) in owners) for r in roots]
        num_grads = sum(slot.is_grad for slot in state)
        states = [root.start for root in roots]
        seeds: list[Value] = []
        outputs = self.outputs
        if self.derivative is not None:
            seeds = self.derivative.seeds
            outputs = [*outputs, *self.derivative.values]
        tracer.graph.inputs = [
            *self.starts, *states[:num_grads], *tracer.found, *states[num_grads:], *seeds
        ]  # fmt: skip
        for i, value in enumerate(tracer.graph.inputs):
            value.index = i
        tracer.graph.set_outputs(outputs)
        return Trace(
            tracer, self.args_tree, self.statics, state, self.marks, self.result_tree, self.updates,
            self.cleared, self.derivative, len(self.made), self.flags,
        )  # fmt: skip


def _sort_results(leaves: list[Any], handles: list[Tensor], tracer: Tracer) -> tuple[list[Tensor], list[Any]]:
    """The tensors that the function made, each once, and its results with marks in their places.

    What exists outside is returned itself: arguments, state, gradients, and views of these. Several
    views of one new tensor remain views of one tensor.
    """
    places: dict[int, Any] = {id(h): Given(i) for i, h in enumerate(handles)}
    for t, _, _ in tracer.grads.values():
        if t._grad is not None and not t._grad._requires_grad and not isinstance(t._value, Value):
            places[id(t._grad)] = Gradient(t)
    made: list[Tensor] = []
    tensors = {id(r): r for r in leaves if isinstance(r, Tensor)}
    shared: dict[int, int] = {}  # new tensors -> how many of the results are views of them, or they
    for r in tensors.values():
        base = base_of(r)
        shared[id(base)] = shared.get(id(base), 0) + 1

    def place(t: Tensor) -> Any:
        if id(t) in places:
            return places[id(t)]
        if not isinstance(t._value, Value):
            mark: Any = t
        else:
            base = base_of(t)
            outside = id(base) in places or not isinstance(base._value, Value)
            if base is not t and (outside or shared[id(base)] > 1):
                mark = ViewOf(place(base), t)
            else:
                mark = Made(len(made))
                seen = id(t) in tensors or any(r.requires_grad for r in tensors.values() if base_of(r) is t)
                made.append(t if seen else alias(t))  # what nobody can see needs no gradient
        places[id(t)] = mark
        return mark

    marks = [place(r) if isinstance(r, Tensor) else r for r in leaves]
    return made, marks


def _check_entries(ends: list[Tensor], tracer: Tracer) -> None:
    """The history of tensors from outside can be walked by a backward outside only."""
    for t in [*ends, *(root.origin for root in tracer.roots.values() if root.origin is not root.handle)]:
        if t._grad is not None:
            raise TraceError(
                f"backward() inside the code reaches a tensor of shape {t.shape} that was computed outside",
                hint="compute it inside the traced function, or detach() it",
            )


def _grads_of_arguments(
    handles: list[Tensor], given: list[Tensor], tracer: Tracer
) -> tuple[list[tuple[Slot, Value]], list[tuple[int, bool]]]:
    """Gradients that arguments get, which must have none before, and whether they require one afterwards."""
    grads, flags = [], []
    for i, (t, before) in enumerate(zip(handles, given, strict=True)):
        if id(t) in tracer.grads:
            if before._grad is not None:
                raise TraceError(
                    f"the code reads or sets the .grad of its argument of type {t.type_}, which has one",
                    hint="set it to None before, or use twofold.autograd.grad()",
                )
            if t._grad is not None:
                grads.append((Slot(t, is_grad=True, argument=i), tracer.value_of(t._grad)))
        if t._node is None and t._requires_grad is not before.requires_grad:
            flags.append((i, t._requires_grad))
    return grads, flags


def _check_memory(tracer: Tracer) -> None:
    """Tensors from outside that are no views of one another may share memory that came from NumPy."""
    spans = []
    for root in tracer.roots.values():
        array = root.handle._value
        if isinstance(array, np.ndarray) and array.size:
            spans.append((*np.lib.array_utils.byte_bounds(array), root))
    spans.sort(key=lambda span: span[0])
    for i, (_, end, root) in enumerate(spans):
        for start, _, other in spans[i + 1 :]:
            if start >= end:
                break
            if (root.written or other.written) and np.may_share_memory(root.handle._value, other.handle._value):
                raise TraceError(
                    f"tensors of shapes {root.handle.shape} and {other.handle.shape} share memory "
                    "that the code writes",
                    hint="make one a view of the other, or a clone",
                )


def _check_flags(tracer: Tracer) -> None:
    """A graph can't express that a tensor from outside starts or stops requiring a gradient."""
    for t, flag in tracer.flags.values():
        if t._requires_grad is not flag and t._base is None and not isinstance(t._value, Value):
            raise TraceError(
                f"the code sets requires_grad={t._requires_grad} on a tensor of shape {t.shape} from outside",
                hint="freeze or unfreeze parameters outside the traced function, or set them back before it ends",
            )


def _changed_grads(tracer: Tracer) -> tuple[list[tuple[Slot, Value]], list[Slot]]:
    """Gradients that the trace set, with their values, and those that it cleared."""
    changed, cleared = [], []
    for t, before, is_read in list(tracer.grads.values()):
        if isinstance(t._value, Value):  # of a tensor that the trace made itself
            continue
        slot, now = Slot(t, is_grad=True), t._grad
        if now is None:
            if before is not None or not is_read:  # in a later call there may be one
                cleared.append(slot)
        elif now is not before:
            changed.append((slot, tracer.value_of(now)))
        root = tracer.roots.get(id(before))
        if root is not None and root.written:  # somebody else may hold it
            changed.insert(0, (Slot(t, is_grad=True, in_place=True), root.now))
    return changed, cleared


def _argument_names(fn: Callable[..., Any], args: Any, kwargs: Any) -> list[str]:
    """A name for every leaf of the arguments: its parameter's name, numbered where nested."""
    try:
        parameters = list(inspect.signature(fn).parameters)
    except (TypeError, ValueError):
        parameters = []
    names = []
    for i, arg in enumerate(args):
        name = parameters[i] if i < len(parameters) else f"arg{i}"
        leaves, _ = flatten(arg)
        names += [name] if len(leaves) == 1 else [f"{name}_{k}" for k in range(len(leaves))]
    for name, arg in kwargs.items():
        leaves, _ = flatten(arg)
        names += [name] if len(leaves) == 1 else [f"{name}_{k}" for k in range(len(leaves))]
    return names
