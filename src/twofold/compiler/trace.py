"""trace: run ordinary imperative code once and write down what it does as a Graph.

The code runs unchanged; `bind` and `write` send every operation here instead of to NumPy. Tensors
that the code touches but did not make (parameters, buffers, optimizer slots, the random
generator) become inputs of the graph, and those it writes become outputs that are put back. So a
whole training step, with its state, is one graph.

Note [Values of handles while tracing]
A handle made by the trace holds a graph `Value`. A handle from outside keeps its array; its
current `Value` lives in `Tracer.roots`. Values never change: a write to a tensor gives its root a
new Value, and views notice by the storage's version and are computed anew from their base when
they are next read (functionalisation).
"""

from __future__ import annotations

import contextlib
import inspect
from collections.abc import Callable, Iterator, Sequence
from typing import Any

import numpy as np

from ..autodiff import tape
from ..autodiff.handle import Settings, Tensor, alias, mode, storage_of, wrap
from ..backends.reference import interpret
from ..ir.errors import ShapeError, TraceError, user_location
from ..ir.graph import Graph, Value
from ..ir.primitive import Primitive
from ..ir.tree import Tree, flatten
from ..ir.types import TensorType, contiguous_strides
from .attributes import Attributes, attributes_of
from .derivative import Derivative, Made, differentiate
from .entry import enter
from .results import Given, Gradient, ViewOf, base_of, find


class Root:
    """A tensor from outside the trace: its Value at the start and now."""

    __slots__ = ("handle", "now", "origin", "restore", "start")

    def __init__(self, handle: Tensor, value: Value):
        self.handle = handle
        self.start = self.now = value
        self.restore = (handle._node, handle._index, handle.requires_grad, handle._history, handle._storage)
        self.origin = handle  # the leaf that stands for it in gradients, see Entry

    @property
    def required_grad(self) -> bool:
        """Whether it required a gradient before the trace."""
        return bool(self.restore[2])

    @property
    def written(self) -> bool:
        return self.now is not self.start


class Tracer:
    """Receives operations from `bind` and `write` and appends them to a graph.

    A tracer made inside another one (for the body of a loop) lifts the outer tracer's tensors
    like any tensor from outside: they become inputs of the inner graph.
    """

    def __init__(self, name: str = "graph", entries: bool = False):
        self.graph = Graph(name)
        self.entries = entries  # whether the history of tensors from outside is cut off
        self.roots: dict[int, Root] = {}
        self.views: dict[int, tuple[Tensor, int, Value]] = {}  # views from outside: (handle, version, Value)
        self.histories: list[tuple[Any, ...]] = []  # of these views, as they were before
        self.versions: dict[int, tuple[Any, int]] = {}  # storages from outside: version before the trace
        self.scopes: list[tuple[str, int]] = []
        self.layers: list[tuple[Any, str]] = []  # modules that are being called and their names, outermost first
        self.origin: tape.Node | None = None  # the operation whose derivative is being traced
        self.calls: dict[str, int] = {}
        self.names: dict[int, str] = {}
        self.grads: dict[int, tuple[Tensor, Tensor | None, bool]] = {}  # (tensor, its grad before, read first)
        self.flags: dict[int, tuple[Tensor, bool]] = {}  # tensors whose requires_grad was set, and what it was
        self.objects: dict[int, Any] = {}  # modules and optimizers that took part
        self.attributes: list[Attributes] = []  # of these modules, as they were before
        self.undo: list[Callable[[], None]] = []  # what puts their state back, should the trace fail

    # --- what bind and write call ---------------------------------------------------------

    def bind(self, p: Primitive, inputs: tuple[Any, ...], params: dict[str, Any]) -> Any:
        """Append an operation; returns its Value, or a tuple of them."""
        if p.data_dependent:
            raise TraceError(
                f"the shape of the result of {p.name!r} depends on values, which a graph can't express",
                op=p.name,
                hint="use a form of fixed shape, e.g. where(mask, x, 0) instead of x[mask]",
            )
        dtype = next((t.dtype for t in reversed(inputs) if isinstance(t, Tensor)), None)
        values = [self.value_of(t) if isinstance(t, Tensor) else self.graph.constant(t, dtype) for t in inputs]
        location, scope = None, tuple(self.scopes)
        if self.origin is not None:
            location = self.origin.location
            scope = (*getattr(location, "scope", scope), (f"{self.origin.name}_backward", 0))
        outs = self.graph.add(p, tuple(values), params, location=location or user_location(), scope=scope)
        return outs if p.multiple else outs[0]

    def write(self, t: Tensor, new: Tensor) -> None:
        """A write to `t`: its root gets a new Value. The caller counts the version up."""
        value = self.value_of(new)
        self._write_value(t, value)
        if isinstance(t._value, Value) and t._value.graph is self.graph:
            t._value = value

    def is_view(self, p: Primitive, base: Tensor, params: dict[str, Any]) -> bool:
        """Whether NumPy would give a view: always but for a reshape over gaps."""
        if p.name != "reshape":
            return True
        try:
            self.phantom(base).reshape(params["shape"], copy=False)
        except ValueError:
            return False
        return True

    @contextlib.contextmanager
    def scope(self, name: str) -> Iterator[None]:
        """Nodes made inside carry `(name, call number)`."""
        number = self.calls.get(name, 0)
        self.calls[name] = number + 1
        self.scopes.append((name, number))
        try:
            yield
        finally:
            self.scopes.pop()

    @contextlib.contextmanager
    def layer(self, module: Any, name_within: Callable[[Any, Any], str]) -> Iterator[None]:
        """The scope of a module's call: its name in the module around it, or its class."""
        name = name_within(self.layers[-1][0], module) if self.layers else type(module).__name__
        self.layers.append((module, name))
        path = "".join(f"{name}." for _, name in self.layers[1:])
        for table in (module._parameters, module._buffers):
            for part, t in table.items():
                self.names.setdefault(id(t), path + part)  # as in the state_dict of the outermost module
        try:
            with self.scope(name):
                yield
        finally:
            self.layers.pop()

    def touch_grad(self, t: Tensor, *, is_read: bool) -> None:
        """The `.grad` of a tensor is about to be read or set; the first time tells what it was."""
        if id(t) not in self.grads:
            self.grads[id(t)] = (t, t._grad, is_read)

    def touch_flag(self, t: Tensor) -> None:
        """Whether a tensor requires a gradient is about to be set."""
        self.flags.setdefault(id(t), (t, t._requires_grad))

    def touch(self, obj: Any) -> None:
        """A module or optimizer takes part: its plain attributes shape the graph."""
        if id(obj) not in self.objects:
            self.objects[id(obj)] = obj
            before = attributes_of(obj)
            if before is not None:
                self.attributes.append(before)
            remember = getattr(obj, "_remember", None)
            if remember is not None:
                self.undo.append(remember())

    def concrete(self, t: Tensor, why: str = "its value") -> np.ndarray[Any, Any]:
        """The array of `t`, which does not exist while tracing."""
        raise TraceError(
            f"the code asks for {why} of a tensor of type {t.type_}, but it is being traced and has no value yet",
            hint="use tensor operations instead (where, twofold.cond, twofold.while_loop), "
            "or do this outside the traced function",
        )

    # --- values of handles ----------------------------------------------------------------

    def value_of(self, t: Tensor) -> Value:
        """The Value that `t` has now."""
        value = t._value
        mine = isinstance(value, Value) and value.graph is self.graph
        if t._base is None:
            return value if mine else self._root(t).now
        version = storage_of(t).version
        if mine:
            if t._value_version != version:
                t._value = self._through(t)
                t._value_version = version
            return t._value
        known = self.views.get(id(t))
        if known is None or known[1] != version:
            if known is None:
                self.histories.append((t, t._node, t._index, t._requires_grad, t._seen))
            self.views[id(t)] = known = (t, version, self._through(t))
        return known[2]

    def _through(self, t: Tensor) -> Value:
        value = self.value_of(t._base)  # type: ignore[arg-type]
        for p, params in t._steps:
            (value,) = self.graph.add(p, (value,), params, location=user_location(), scope=tuple(self.scopes))
        return value

    def _root(self, t: Tensor) -> Root:
        root = self.roots.get(id(t))
        if root is None:
            name = self.names.get(id(t)) or getattr(t, "name", None)
            root = self.roots[id(t)] = Root(t, self.graph.add_input(t.type_, name))
            t._watched = True
            if self.entries and t._requires_grad and t._node is not None:
                root.origin = enter(t, root.start)
                t._history += 1  # its views are made anew, from the entry
        return root

    def _write_value(self, t: Tensor, value: Value) -> None:
        base = t._base
        if base is not None:
            levels = [self.value_of(base)] if t._steps else []  # an alias has no steps
            for p, params in t._steps[:-1]:
                levels.append(self._add(p, (levels[-1],), params))
            for level, (p, params) in zip(reversed(levels), reversed(t._steps), strict=True):
                value = self._add(*p.write(level, value, **params))
            self._write_value(base, value)
            if isinstance(base._value, Value) and base._value.graph is self.graph and base._base is not None:
                base._value, base._value_version = value, storage_of(base).version + 1
            return
        if isinstance(t._value, Value) and t._value.graph is self.graph:
            t._value = value
            return
        root = self._root(t)
        storage = storage_of(t)
        self.versions.setdefault(id(storage), (storage, storage.version))
        root.now = value

    def _add(self, p: Primitive, inputs: tuple[Any, ...], params: dict[str, Any]) -> Value:
        return self.graph.add(p, inputs, params, location=user_location(), scope=tuple(self.scopes))[0]

    def phantom(self, t: Tensor) -> np.ndarray[Any, Any]:
        """An array with the shape and strides that `t` would have eagerly; its memory is never touched."""
        if isinstance(t._value, np.ndarray):
            return t._value
        if t._base is None:
            strides = contiguous_strides(t.shape)
            size = t.dtype.itemsize
            return np.lib.stride_tricks.as_strided(
                np.empty((), t.dtype.numpy), t.shape, [s * size for s in strides], writeable=False
            )
        array = self.phantom(t._base)
        for p, params in t._steps:
            array = p.numpy(array, **params)
        return array

    # --- the end --------------------------------------------------------------------------

    def __enter__(self) -> Tracer:
        self.outer, self.kept = mode.tracer, tape.keep_locations
        mode.tracer, tape.keep_locations = self, True
        return self

    def __exit__(self, *exc: Any) -> None:
        mode.tracer, tape.keep_locations = self.outer, self.kept
        for storage, version in self.versions.values():
            storage.version = version
        for root in self.roots.values():
            h = root.handle
            h._node, h._index, h._requires_grad, h._history, h._storage = root.restore
        for view, *history in self.histories:
            view._node, view._index, view._requires_grad, view._seen = history
        for t, grad, _ in self.grads.values():
            t._grad = grad
        for t, flag in self.flags.values():
            t._requires_grad = flag
        for before in self.attributes:
            before.restore()
        for restore in self.undo if exc[0] is not None else ():
            restore()


class Guard:
    """What a trace took for granted besides its arguments' types.

    The plain attributes of the modules and optimizers that took part, whether the gradients that
    were read were there, and of the tensors from outside whether they require one, and their hooks.
    """

    def __init__(self, tracer: Tracer):
        self.objects = [(obj, obj._settings()) for obj in tracer.objects.values()]
        self.grads = [(t, grad is None) for t, grad, is_read in tracer.grads.values() if is_read]
        handles = [root.handle for root in tracer.roots.values()] + [view for view, _, _ in tracer.views.values()]
        self.tensors = [(t, _tensor_settings(t)) for t in handles]
        self.bases = [t._base for t in handles]  # alive, so that none of another's is taken for it
        self.changes = Settings.changes

    def holds(self) -> bool:
        """Whether the trace is valid now."""
        for t, was_none in self.grads:
            if (t._grad is None) is not was_none:
                return False
        if self.changes == Settings.changes:
            return True
        changes = Settings.changes
        if any(obj._settings() != before for obj, before in self.objects):
            return False
        if any(_tensor_settings(t) != before for t, before in self.tensors):
            return False
        self.changes = changes
        return True

    def difference(self) -> str:
        """What has changed, in words."""
        for t, was_none in self.grads:
            if (t._grad is None) is not was_none:
                state = "set" if was_none else "None"
                return f"the .grad of a tensor of shape {t.shape} is {state} now, and was not before"
        for obj, before in self.objects:
            now = obj._settings()
            if now != before:
                changed = [k for k in now.keys() | before.keys() if now.get(k) != before.get(k)]
                return f"{type(obj).__name__}: " + ", ".join(
                    f"{k} is {now.get(k)!r}, before {before.get(k)!r}" for k in sorted(map(str, changed))
                )
        for t, before in self.tensors:
            if _tensor_settings(t) != before:
                return f"a tensor of shape {t.shape} has another type or hooks, or requires_grad={t._requires_grad}"
        return "nothing that is watched"


def _tensor_settings(t: Tensor) -> Any:
    hooks = [*(t._hooks or {}).values(), *(t._post_hooks or {}).values()]
    return (t._requires_grad, t.shape, t.dtype, hooks, id(t._base))


class Slot:
    """Where a piece of state lives between calls: a tensor, or the `.grad` of one.

    Attributes:
        in_place: the gradient that is there is written to, and not replaced.
        argument: `handle` is that argument in a call.
    """

    __slots__ = ("argument", "handle", "in_place", "is_grad")

    def __init__(self, handle: Tensor, is_grad: bool = False, in_place: bool = False, argument: int | None = None):
        self.argument = argument
        self.handle = handle
        self.is_grad = is_grad
        self.in_place = in_place

    def read(self) -> np.ndarray[Any, Any]:
        t = self.handle._grad if self.is_grad else self.handle
        if t is None:
            raise TraceError(
                "the traced code accumulates into a gradient that is None now",
                hint="trace it again: whether .grad is None is fixed at the time of tracing",
            )
        return t._value

    def write(self, array: np.ndarray[Any, Any] | None) -> None:
        target = self.handle
        if self.is_grad and not self.in_place:
            target._grad = None if array is None else wrap(array)
            return
        if self.is_grad:
            assert target._grad is not None
            target = target._grad
        np.copyto(target._value, array)  # type: ignore[arg-type]
        storage_of(target).version += 1


class Trace:
    """A traced function: its graph, and what is needed to run it on real tensors.

    Attributes:
        graph: the `Graph`; inputs are the argument tensors, then the state; outputs are the
            result's tensors, then the updates.
        state: slots read by the graph, in the order of its inputs.
        updates: slots written back, in the order of its outputs.

    Calling it interprets the graph with the reference backend and puts the updates in place.
    """

    def __init__(
        self,
        tracer: Tracer,
        args_tree: Tree,
        statics: list[Any],
        state: list[Slot],
        result: list[Any],
        result_tree: Tree,
        updates: list[Slot | int],
        cleared: list[Slot],
        derivative: Derivative | None,
        num_results: int,
        flags: list[tuple[int, bool]],
    ):
        self.graph = tracer.graph
        self.flags = flags  # arguments that the code makes leaves that require a gradient, or not
        self.guard = Guard(tracer)
        self.state = state
        self.updates = updates  # an int is the number of an argument that was written in place
        self.cleared = cleared  # gradients that are None afterwards
        self.derivative = derivative
        self.num_results = num_results
        self.num_args = sum(s is _TENSOR for s in statics)
        self._args_tree, self._statics = args_tree, statics
        self._result, self._result_tree = result, result_tree
        self.gives_one = result_tree.kind is None and result[0].__class__ is Made

    def __call__(self, *args: Any, **kwargs: Any) -> Any:
        tensors = self._check_arguments(args, kwargs)
        arrays = [t._value for t in tensors] + [slot.read() for slot in self.state]
        for array, value in zip(arrays, self.graph.inputs, strict=True):
            if TensorType.of(array) != value.type:
                raise ShapeError(
                    f"input {value.name or ''} was traced as {value.type}, got {TensorType.of(array)}",
                    hint="trace it again for the new type",
                )
        outputs = interpret(self.graph, arrays)
        for target, array in zip(self.updates, outputs[self.num_results :], strict=True):
            self.slot(target, tensors).write(array)
        for i, flag in self.flags:
            tensors[i]._requires_grad = flag
        for slot in self.cleared:
            slot.write(None)
        return self.rebuild([wrap(array) for array in outputs[: self.num_results]], tensors)

    def slot(self, target: Slot | int, tensors: Sequence[Tensor]) -> Slot:
        """The place of an update in a call on these arguments."""
        if isinstance(target, int):
            return Slot(tensors[target])
        return target if target.argument is None else Slot(tensors[target.argument], is_grad=True)

    def _check_arguments(self, args: Any, kwargs: Any) -> list[Tensor]:
        leaves, tree = flatten((args, kwargs))
        if tree != self._args_tree:
            raise TraceError(f"traced with arguments nested as {self._args_tree}, called with {tree}")
        tensors = []
        for leaf, static in zip(leaves, self._statics, strict=True):
            if static is _TENSOR:
                tensors.append(leaf)
            elif leaf is not static and leaf != static:
                raise TraceError(f"traced with the value {static!r}, called with {leaf!r}", hint="trace it again")
        return tensors

    def rebuild(self, made: Sequence[Tensor], given: Sequence[Tensor]) -> Any:
        """What the function returns, from the tensors that it makes and its arguments'."""
        views: dict[int, Tensor] = {}
        return self._result_tree.unflatten([find(r, made, given, views) for r in self._result])

    def __str__(self) -> str:
        return str(self.graph)


_TENSOR = object()  # stands for a tensor among static leaves


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
    leaves, args_tree = flatten((args, kwargs))
    tracer = Tracer(getattr(fn, "__name__", type(fn).__name__), entries=True)
    names = _argument_names(fn, args, kwargs)
    statics: list[Any] = []
    handles: list[Tensor] = []
    traced_leaves = []
    origins: list[Tensor] = []
    for leaf, name in zip(leaves, names, strict=True):
        if not isinstance(leaf, Tensor):
            statics.append(leaf)
            traced_leaves.append(leaf)
            continue
        handle = wrap(tracer.graph.add_input(leaf.type_, name))
        handle._requires_grad = leaf.requires_grad
        origins.append(enter(handle, handle._value) if handle._requires_grad and not leaf.is_leaf else handle)
        statics.append(_TENSOR)
        handles.append(handle)
        traced_leaves.append(handle)
    starts = [h._value for h in handles]
    watched = [*statics, getattr(fn, "__self__", None)]
    traced_args, traced_kwargs = args_tree.unflatten(traced_leaves)
    with tracer:
        for obj in watched:
            if hasattr(obj, "_settings"):
                tracer.touch(obj)
        result = fn(*traced_args, **traced_kwargs)
        result_leaves, result_tree = flatten(result)
        made, result_leaves = _sort_results(result_leaves, handles, tracer)
        outputs = [tracer.value_of(r) for r in made]
        updates: list[Slot | int] = []
        for number, (handle, start) in enumerate(zip(handles, starts, strict=True)):
            if handle._value is not start:
                updates.append(number)
                outputs.append(handle._value)
        grads, cleared = _changed_grads(tracer)
        for slot, value in grads:
            updates.append(slot)
            outputs.append(value)
        given = [leaf for leaf in leaves if isinstance(leaf, Tensor)]
        grads, flags = _grads_of_arguments(handles, given, tracer)
        for slot, value in grads:
            updates.append(slot)
            outputs.append(value)
        for before in tracer.attributes:
            before.require_same()
        _check_memory(tracer)
        owners = {id(grad): t for t, grad, _ in tracer.grads.values() if grad is not None}
        for root in tracer.roots.values():
            if root.written and id(root.handle) not in owners:
                updates.append(Slot(root.handle))
                outputs.append(root.now)
        _check_flags(tracer)
        _check_entries([o for o, h in zip(origins, handles, strict=True) if o is not h], tracer)
        gradients = None
        if derivative:
            written = {i: handles[u] if isinstance(u, int) else u.handle for i, u in enumerate(updates)
                       if isinstance(u, int) or not u.is_grad}  # fmt: skip
            gradients = differentiate(tracer, made, written, origins)
        roots = sorted(tracer.roots.values(), key=lambda root: id(root.handle) not in owners)  # gradients first
        state = [Slot(owners.get(id(r.handle), r.handle), is_grad=id(r.handle) in owners) for r in roots]
    seeds: list[Value] = []
    if gradients is not None:
        seeds = gradients.seeds
        outputs += gradients.values
    tracer.graph.inputs = [*starts, *(root.start for root in roots), *seeds]
    for i, value in enumerate(tracer.graph.inputs):
        value.index = i
    tracer.graph.set_outputs(outputs)
    return Trace(
        tracer, args_tree, statics, state, result_leaves, result_tree, updates, cleared, gradients, len(made), flags
    )


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
    for t, before, _ in list(tracer.grads.values()):
        if isinstance(t._value, Value):  # of a tensor that the trace made itself
            continue
        slot, now = Slot(t, is_grad=True), t._grad
        if now is None:
            if before is not None:
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
