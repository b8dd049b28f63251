"""composed: the programs of one fused composite for given types, and its node on the tape.

See composites.py, which finds them.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import numpy as np

from ..autodiff import tape
from ..autodiff.bind import current_node
from ..autodiff.composite import Composite, Drawing
from ..autodiff.handle import Tensor, mode, storage_of, wrap
from ..autodiff.replay import replay
from ..autodiff.tape import Node, _numbers
from ..backends.cpu.items import Batch
from ..backends.cpu.launch import Launch
from ..backends.cpu.program import Program
from ..ir.errors import TwofoldError
from ..ir.graph import Graph
from ..ir.types import TensorType
from . import eager_pools
from .composites import Unfit
from .derivative import Made
from .inspect import explain
from .partition import Partition, ancestors, extract, partition
from .passes import fold, prune, share
from .pipeline import optimize
from .run import Run
from .trace import Trace, Tracer

Array = np.ndarray[Any, Any]
Call = Callable[[list[Any], list[Tensor]], Any]

_LARGE_POOL = 1 << 13  # elements

_new = object.__new__
_empty = np.empty


def program_of(known: Composite, args: Any, kwargs: Any, tensors: list[Tensor]) -> tuple[Call | None, int]:
    """A call of the composite on such arguments as one program, and the bytes that it keeps; None if it can't be.

    It takes the arrays of the tensors, and the tensors.
    """
    if any(not isinstance(t._value, np.ndarray) or t.dtype.is_complex for t in tensors):
        return None, 0  # complex operations are NumPy's, whose last bits are others
    try:
        traced = _trace(known, args, kwargs, tensors)
        if traced is None or _has_large_pools(traced.graph):
            return None, 0
        made = _Recorded(known, traced) if traced.derivative is not None else _Composed(known, traced)
    except Exception as e:  # the operations will do, or say what is wrong
        explain(f"{known.fn.__name__} runs operation by operation: {type(e).__name__}: {e}")
        return None, 0
    explain(f"compiled {known.fn.__name__} of {', '.join(str(t.type_) for t in tensors)} for eager code")
    return (made.call(), made.nbytes) if made.is_native else (None, 0)


def _trace(known: Composite, args: Any, kwargs: Any, tensors: list[Tensor]) -> Trace | None:
    """The trace of a call, with the gradients of its result; None if a program can't do what it does."""
    places = {id(t): i for i, t in enumerate(tensors)}

    def composed(*given: Tensor) -> Any:
        def of(x: Any) -> Any:
            return given[places[id(x)]] if isinstance(x, Tensor) else x

        return known.traced(*[of(x) for x in args], **{k: of(x) for k, x in kwargs.items()})

    fresh = [wrap(t._value) for t in tensors]
    for new, t in zip(fresh, tensors, strict=True):
        new._requires_grad = mode.grad and bool(t.requires_grad)
    tracer = Tracer(known.fn.__name__, entries=True)
    run = Run(composed, fresh, {}, tracer, [f"x{i}" for i in range(len(fresh))])
    with tracer:
        run.call()
        run.end(derivative=True)
    traced = run.finish()
    return traced if tracer.repeats and _is_plain(traced) else None


def _has_large_pools(graph: Graph) -> bool:
    """Whether the operations are faster: a pool on open kernels takes images as they lie, a program turns them."""
    pools = [node for node in graph.nodes if node.prim.name in eager_pools.NAMES]
    return any(v.type.size > _LARGE_POOL for node in pools for v in (*node.inputs, *node.outputs))


def _is_plain(traced: Trace) -> bool:
    """Whether a call makes its results, and changes only arguments that need no gradient, and a generator."""
    slots = [u for u in traced.updates if not isinstance(u, int)]
    handles = [slot.handle for slot in (*traced.state, *slots)]
    d = traced.derivative
    return (
        all(r.__class__ is Made for r in traced.results.marks)
        and len(traced.results.marks) == traced.num_results > 0
        and not traced.cleared
        and not traced.flags
        and not traced.num_found
        and len(traced.state) <= 1
        and all(handle is Drawing.state() for handle in handles)
        and (
            d is None
            or (
                d.error is None
                and len(d.roots) == 1
                and isinstance(d.roots[0], Made)
                and all(isinstance(w, int) for w in d.wanted)
            )
        )
    )


def _small(program: Program) -> Callable[[list[Any]], list[Any]]:
    """A program that is launched natively."""
    launch = Launch(program)
    start, refused = launch.start, launch.refused

    if len(launch.outputs) == 1:
        ((shape, dtype),) = launch.outputs

        def run_one(arrays: list[Any]) -> list[Any]:
            out = _empty(shape, dtype)
            if start(*arrays, out) is refused:
                _start_again(launch, arrays, [out])
            return [out]

        return run_one
    outputs = launch.outputs

    def run(arrays: list[Any]) -> list[Any]:
        outs = [_empty(shape, dtype) for shape, dtype in outputs]
        if start(*arrays, *outs) is refused:
            _start_again(launch, arrays, outs)
        return outs

    return run


def _start_again(launch: Launch, arrays: list[Any], outs: list[Any]) -> None:
    """With copies of the arrays that have gaps.

    Raises: Unfit if that was not the reason.
    """
    if launch.error() is None:
        arrays = [np.require(a, requirements=["C", "A"]) for a in arrays]
        if launch.start(*arrays, *outs) is not launch.refused:
            return
        launch.error()
    raise Unfit


def _large(program: Program) -> Callable[[list[Any]], list[Any]]:
    """A program that the thread team runs."""
    updates = program.updates
    program.borrow()

    def run(arrays: list[Any]) -> list[Any]:
        try:
            outputs = program(arrays)
        except TwofoldError:
            raise Unfit from None
        finally:
            program.forget(results=True)
        return [a for k, a in enumerate(outputs) if k not in updates] if updates else outputs

    return run


def _nbytes(program: Program) -> int:
    """Memory that a program keeps between calls."""
    return program.held_bytes + (1 << 14)


class _Composed:
    """Calls that are not recorded.

    Attributes:
        is_native: whether the programs call no reference.
        nbytes: of memory that they keep.
    """

    def __init__(self, known: Composite, traced: Trace):
        self.known, self.traced = known, traced
        self.gives_one = traced.gives_one
        self.count = traced.num_results
        self.draws = bool(traced.state)
        # numbers of outputs -> numbers of inputs, of which the generator's state is the last
        self.updates = {
            k: target if isinstance(target, int) else traced.num_args
            for k, target in enumerate(traced.updates, traced.num_results)
        }
        self.written = sorted({i for i in self.updates.values() if i < traced.num_args})
        self.programs: list[Program] = []
        self.batch = Batch.of([v.type for v in traced.graph.inputs[: traced.num_args]])
        self.forward = self._forward()
        self.nbytes = sum(_nbytes(p) for p in self.programs)

    def _forward(self) -> Callable[[list[Any]], list[Any]]:
        return self.native(self._program(self.traced.graph, self.updates))

    def _program(self, graph: Graph, updates: dict[int, int] | None = None) -> Program:
        graph = optimize(graph)
        return Program(graph, updates, batch=self.batch.of_inputs(graph))

    def native(self, program: Program) -> Callable[[list[Any]], list[Any]]:
        """A program as a function of its inputs' arrays that gives those of its outputs, without updates."""
        self.programs.append(program)
        return _small(program) if Launch.suits(program) else _large(program)

    @property
    def is_native(self) -> bool:
        return all(step.kind != "numpy" for p in self.programs for step in p.steps)

    def call(self) -> Call:
        """What a call of the composite runs."""
        run, finish, gives_one = self.run(), self.finish, self.gives_one

        def call(arrays: list[Any], tensors: list[Tensor]) -> Any:
            outputs = run(arrays)
            if gives_one:
                t = _new(Tensor)
                t._value = outputs[0]
                return t
            return finish(outputs, tensors)

        return self._with_changes(call)

    def _with_changes(self, call: Call) -> Call:
        """A call that looks after the arguments which it changes."""
        if not self.written:
            return call

        def changing(arrays: list[Any], tensors: list[Tensor]) -> Any:
            self.require_writable(arrays)
            out = call(arrays, tensors)
            self.note_changes(tensors)
            return out

        return changing

    def run(self) -> Callable[[list[Any]], list[Any]]:
        """The forward program on the arrays of the arguments."""
        forward = self.forward
        if not self.draws:
            return forward

        def drawing(arrays: list[Any]) -> list[Any]:
            state = Drawing.state()
            with Drawing.lock:
                outputs = forward([*arrays, state._value])
                storage_of(state).version += 1
            return outputs

        return drawing

    def finish(self, outputs: list[Any], tensors: Sequence[Tensor]) -> Any:
        """What the composite returns."""
        return self.traced.rebuild([wrap(a) for a in outputs[: self.count]], tensors)

    def require_writable(self, arrays: list[Any]) -> None:
        """Writes of what is not simply laid out are left to the operations."""
        for i in self.written:
            flags = arrays[i].flags
            if not (flags.c_contiguous and flags.writeable and flags.aligned):
                raise Unfit

    def note_changes(self, tensors: Sequence[Tensor]) -> None:
        """Count the versions of what was written."""
        for i in self.written:
            t = tensors[i]
            storage = storage_of(t)
            storage.version += 1
            t._value_version = storage.version


class _Recorded(_Composed):
    """Calls that are put on the tape, as one node."""

    def _forward(self) -> Callable[[list[Any]], list[Any]]:
        traced, d = self.traced, self.traced.derivative
        assert d is not None
        graph = share(fold(prune(traced.graph)))
        num_outputs, num_inputs = len(graph.outputs) - len(d.values), len(graph.inputs) - 1
        parts = partition(graph, num_outputs, traced.num_results, 1, set(self.updates.values()))
        (root,) = d.roots
        assert isinstance(root, Made)
        self.root = root.number
        self.wanted = [w for w in d.wanted if isinstance(w, int)]
        skipped = len(self.updates)
        # of the tensors, and of the arrays that the forward program gives, which leaves out updates
        self.read = [i for kind, i in parts.sources if kind == "input"]
        self.kept = [k if k < self.count else k - skipped for kind, k in parts.sources if kind == "output"]
        self.saves_result = any(k < self.count for k in self.kept)
        order = [i for i, (kind, _) in enumerate(parts.sources) if kind == "input"]
        order += [i for i, (kind, _) in enumerate(parts.sources) if kind == "output"]
        backward = _reordered(parts.backward, order)
        self.how = Backward(self.known.fn.__name__, self.native(self._program(backward)), d.seeds[0].type)
        self.how.replayed = self._replayed(graph, num_outputs, num_inputs, parts)
        self.how.read = self.read
        self.how.others = [i for i in self.how.replayed.given if i not in self.read]
        return self.native(self._program(parts.forward, self.updates))

    def _replayed(self, graph: Graph, num_outputs: int, num_inputs: int, parts: Partition) -> Replayed:
        """The graph of the gradients, of inputs and of saved values that need no derivative: masks, indices."""
        outputs = [v for v, (kind, _) in zip(parts.saved, parts.sources, strict=True) if kind == "output"]
        fixed = {v: place for place, v in enumerate(outputs) if not v.dtype.is_differentiable}  # among the kept
        inputs, seeds = graph.inputs[:num_inputs], graph.inputs[num_inputs:]
        needed = ancestors(graph.outputs[num_outputs:], set(fixed))
        used = {v for node in needed for v in node.inputs} | set(graph.outputs[num_outputs:])
        given = [i for i, v in enumerate(inputs) if v in used]
        if any(i >= self.traced.num_args or i in self.written for i in given):
            raise TwofoldError("a gradient of a gradient would need what is overwritten")
        kept = [v for v in fixed if v in used]
        whole = extract(graph, [*[inputs[i] for i in given], *kept, *seeds], graph.outputs[num_outputs:])
        return Replayed(whole, given, [fixed[v] for v in kept])

    def call(self) -> Call:
        """What a call of the composite runs."""
        run, wanted, read, root = self.run(), self.wanted, self.read, self.root
        how, kept, saves_result, gives_one = self.how, self.kept, self.saves_result, self.gives_one
        others = how.others
        count = self.count

        def call(arrays: list[Any], tensors: list[Tensor]) -> Any:
            edges: list[Any] = []
            for i in wanted:
                t = tensors[i]
                node = t._node if t._base is None else current_node(t)
                edges.append((t, 0) if node is None else (node, t._index))
            outputs = run(arrays)
            out = _new(Tensor)
            out._value = outputs[root]
            versions = []
            for i in read:
                t = tensors[i]
                storage = t._storage
                versions.append((t, 0 if storage is None else storage.version))
            out._node = node = ComposedNode(how, edges, versions, [outputs[k] for k in kept])
            out._requires_grad = True
            if others:
                node.others = [(tensors[i], tensors[i]._version) for i in others]
            if saves_result:
                made = [out if k == root else wrap(outputs[k]) for k in range(count)]
                node.outputs = [(made[k]._value, (s := storage_of(made[k])), s.version) for k in kept if k < count]
            elif gives_one:
                return out
            else:
                made = [out if k == root else wrap(outputs[k]) for k in range(count)]
            return out if gives_one else self.traced.rebuild(made, tensors)

        return self._with_changes(call)


def _reordered(graph: Graph, order: Sequence[int]) -> Graph:
    """The graph with its first inputs in another order."""
    inputs = [graph.inputs[i] for i in order]
    return extract(graph, [*inputs, *graph.inputs[len(order) :]], graph.outputs)


class Replayed:
    """The gradients as a graph of primitives, for gradients of gradients.

    Attributes:
        given: numbers of the composite's tensors that are its inputs, in rising order.
        kept: which of the arrays that a node has kept are its inputs, too.
    """

    def __init__(self, graph: Graph, given: list[int], kept: list[int]):
        self.graph, self.given, self.kept = graph, given, kept


class Backward:
    """How to go back through a composite; shared by all its calls of one kind.

    Attributes:
        program: from the tensors that are `read`, what was kept, and the gradient of the result.
        replayed: the same for gradients of gradients.
        others: numbers of tensors that only `replayed` takes.
    """

    replayed: Replayed
    read: list[int]
    others: list[int]

    def __init__(self, name: str, program: Callable[[list[Any]], list[Any]], seed: TensorType):
        self.name, self.program = name, program
        self.types = [(seed.shape, seed.dtype.numpy)]
        self.dtype = seed.dtype.numpy


class ComposedNode(Node):
    """One call of a fused composite.

    Attributes:
        versions: the tensors that backward reads, and their versions.
        kept: arrays of the call that backward reads.
        others: further tensors, and their versions, which gradients of gradients read.
        outputs: the results among what is kept, to notice changes.
    """

    __slots__ = ("how", "kept", "others")

    def __init__(self, how: Backward, edges: list[Any], versions: list[Any], kept: list[Any]):
        self.number = next(_numbers)
        self.spent = False
        self.prim = None  # type: ignore[assignment]
        self.params = None
        self.how = how
        self.edges = edges
        self.inputs = _NOTHING
        self.versions = versions
        self.outputs = _NOTHING
        self.types = how.types
        self.hooks = self.retained = self.location = None
        self.kept = kept
        self.others: Sequence[Any] = ()

    @property
    def name(self) -> str:
        return self.how.name

    def backward(self, grads: list[Any]) -> Sequence[Any]:
        """Gradients of the inputs from that of the result."""
        how = self.how
        if self.inputs is None:
            raise tape.used_up(how.name)
        for value, storage, version in self.outputs:
            if storage.version != version:
                raise tape.changed(how.name, value.shape, storage.version - version, self.location)
        g = grads[0]
        arrays = self._arrays(self.versions)
        if mode.grad or mode.tracer is not None or g._value.dtype != how.dtype:
            return self._replay(g)
        try:
            found = how.program([*arrays, *self.kept, g._value])
        except Unfit:
            return self._replay(g)
        results = []
        for array in found:
            t = _new(Tensor)
            t._value = array
            results.append(t)
        return results

    def _arrays(self, versions: Sequence[Any]) -> list[Any]:
        arrays = []
        for t, version in versions:
            storage = t._storage
            if storage is not None and storage.version != version:
                raise tape.changed(self.name, t._value.shape, storage.version - version, self.location)
            arrays.append((tape._at(t, self.number) if t._earlier else t)._value)
        return arrays

    def _replay(self, g: Tensor) -> list[Tensor]:
        """The gradients, recorded."""
        how = self.how.replayed
        self._arrays(self.others)
        numbers = [*self.how.read, *self.how.others]
        known = dict(zip(numbers, [t for t, _ in (*self.versions, *self.others)], strict=True))
        inputs = [tape._at(known[i], self.number) for i in how.given]
        return replay(how.graph, [*inputs, *[wrap(self.kept[i]) for i in how.kept], g])

    def release(self) -> None:
        """Free what was saved; a node that saved nothing can run again."""
        self.spent = True
        if self.versions or self.kept or self.others:
            self.inputs = self.outputs = None
            self.versions = self.others = ()
            self.kept = _NOTHING


_NOTHING: list[Any] = []
