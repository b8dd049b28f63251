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
from collections.abc import Callable, Iterator, Sequence
from itertools import islice
from typing import Any, NamedTuple

import numpy as np

from ..autodiff import tape
from ..autodiff.handle import Settings, Tensor, mode, storage_of, wrap
from ..backends.reference import interpret
from ..ir.errors import ShapeError, TraceError, user_location
from ..ir.evaluate import evaluate_eagerly
from ..ir.graph import Graph, Value
from ..ir.primitive import Primitive
from ..ir.tree import Tree, flatten
from ..ir.types import TensorType, contiguous_strides
from .attributes import Attributes, attributes_of
from .derivative import Derivative, Made
from .entry import enter
from .results import Results


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

    asks = False  # whether it has answers where the code asks for values
    repeats = True  # whether a program can do all that the code does, see `composite.unrepeatable`

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
        self.found: list[Value] = []  # inputs that hold what operations gave whose shapes depend on values
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
        values = [self.value_of(t) if isinstance(t, Tensor) else self.number(t, dtype) for t in inputs]
        location, scope = None, tuple(self.scopes)
        if self.origin is not None:
            location = self.origin.location
            scope = (*getattr(location, "scope", scope), (f"{self.origin.name}_backward", 0))
        outs = self.graph.add(p, tuple(values), params, location=location or user_location(), scope=scope)
        return outs if p.multiple else outs[0]

    def number(self, x: Any, dtype: Any) -> Value:
        """A Python number among the operands."""
        return self.graph.constant(x, dtype)

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

    def met(self) -> Met:
        """How much of the world the code has used."""
        return Met(len(self.objects), len(self.grads), len(self.roots), len(self.views))

    def owners(self) -> dict[int, Tensor]:
        """Gradients that were there before -> their tensors; by id."""
        return {id(grad): t for t, grad, _ in self.grads.values() if grad is not None}

    def mark_of(self, result: Any) -> Any:
        """What stands for a leaf of the result that is no tensor."""
        return result

    def single(self, t: Tensor, why: str) -> Any:
        """The only element of `t` as a Python number."""
        return self.concrete(t, why).item()

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


class Met(NamedTuple):
    """How many objects, gradients, tensors and views from outside a trace has met."""

    objects: int
    grads: int
    roots: int
    views: int


class Guard:
    """What a trace, or its part until it had `met` so much, took for granted besides its arguments' types.

    The plain attributes of the modules and optimizers that took part, whether the gradients that
    were read were there, and of the tensors from outside whether they require one, and their hooks.
    """

    def __init__(self, tracer: Tracer, met: Met | None = None):
        objects, grads, roots, views = met or tracer.met()
        self.objects = [(obj, obj._settings()) for obj in islice(tracer.objects.values(), objects)]
        self.grads = [(t, grad is None) for t, grad, is_read in islice(tracer.grads.values(), grads) if is_read]
        handles = [root.handle for root in islice(tracer.roots.values(), roots)]
        handles += [view for view, _, _ in islice(tracer.views.values(), views)]
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
        num_found: how many inputs, after the gradients, are results of unforeseeable shape.

    Calling it runs the graph node by node, as eager code runs, and puts the updates in place.
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
        self.rest = tracer.graph  # what is left of it after the programs that make `num_carried` of its inputs
        self.num_found, self.num_carried = len(tracer.found), 0
        self.num_results = num_results
        self.num_args = sum(s is TENSOR for s in statics)
        self._args_tree, self._statics = args_tree, statics
        self.results = Results(result, result_tree)
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
        outputs = interpret(self.graph, arrays, evaluate_eagerly)
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
            if static is TENSOR:
                tensors.append(leaf)
            elif leaf is not static and leaf != static:
                raise TraceError(f"traced with the value {static!r}, called with {leaf!r}", hint="trace it again")
        return tensors

    def rebuild(self, made: Sequence[Tensor], given: Sequence[Tensor]) -> Any:
        """What the function returns, from the tensors that it makes and its arguments'."""
        return self.results.rebuild(made, given)

    def __str__(self) -> str:
        return str(self.graph)


TENSOR = object()  # stands for a tensor among static leaves
