"""specialize: programs for one trace, and what a call does around them.

Note [Standing]
What a program computes of state alone that it does not write (packed weights) is kept from call to call. It is
computed anew when the version of such a tensor has changed, or a tensor got another array. Who has a tensor's
memory as a NumPy array (or by DLPack) can write to it without notice: after such an export it is computed anew
in every call, until nobody else has the array any more. Arrays that do not own their memory count as always held.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from sys import getrefcount
from typing import Any

import numpy as np

from ..autodiff import tape
from ..autodiff.bind import current_node, rebase_history, require_writable
from ..autodiff.handle import Settings, Tensor, storage_of, wrap
from ..backends.cpu.items import Batch
from ..backends.cpu.program import Program
from .anomaly import run_checked
from .derivative import Derivative, Made
from .inspect import introduce
from .partition import extract, partition
from .pipeline import run_passes
from .recorded import Backward, CompiledNode
from .trace import Trace

_new = object.__new__


def specialize(traced: Trace, largest: int = 0) -> Specialization:
    """Compile a trace.

    Args:
        largest: how many items the function was given before at most, see `Batch`.
    """
    if traced.derivative is None:
        return Specialization(traced, largest)
    return Differentiable(traced, traced.derivative, largest)


class Specialization:
    """One traced and compiled form of a function: for given types, settings and structure.

    Attributes:
        program: takes the arguments, then gradients that are read, then what programs before it made,
            then the other state.
    """

    def __init__(self, traced: Trace, largest: int = 0):
        self.trace = traced
        self.batch = Batch.of([v.type for v in traced.graph.inputs[: traced.num_args]], largest)
        self.num_results = traced.num_results
        self.gives_one = traced.gives_one
        self._grads = [slot for slot in traced.state if slot.is_grad]
        self._handles = [slot.handle for slot in traced.state if not slot.is_grad]
        self._fixed: list[Any] = []  # arrays of the state, while no tensor gets other memory
        self._changes = -1
        self._sort_updates(traced)
        self._versions: Any = None  # of the state that stands still, when the program looked at it last
        self._given: list[int] = []  # how often it was exported until then
        self._exports = -1
        self._changes_arguments = bool(self._written or self._given_grads or traced.flags)
        self.program = self._compile(traced)

    def _sort_updates(self, traced: Trace) -> None:
        """What is written: into arguments, into state (both in place), and gradients, which are set."""
        first = traced.num_args + len(self._grads) + traced.num_found + traced.num_carried
        position = {id(handle): first + i for i, handle in enumerate(self._handles)}
        self.updates: dict[int, int] = {}  # number of an output -> number of the input that it goes to
        self._written: list[int] = []
        self._set: list[tuple[int, Tensor]] = []
        self._refilled: list[tuple[int, Any]] = []
        self._given_grads: list[tuple[int, int]] = []  # of arguments
        self._written_state: list[Tensor] = []
        for k, target in enumerate(traced.updates, traced.num_results):
            if isinstance(target, int):
                self.updates[k] = target
                self._written.append(target)
            elif target.argument is not None:
                self._given_grads.append((k, target.argument))
            elif target.in_place:
                self._refilled.append((k, target))
            elif target.is_grad:
                self._set.append((k, target.handle))
            else:
                self.updates[k] = position[id(target.handle)]
                self._written_state.append(target.handle)
        written = set(self.updates.values())
        standing = [i for i, h in enumerate(self._handles) if first + i not in written and h._value.base is None]
        self._standing = [first + i for i in standing]  # inputs that change by writes of others only
        self._unwritten = standing  # the same, counted among the state

    def _compile(self, traced: Trace) -> Program:
        graph, history = run_passes(traced.rest)
        return introduce(
            Program(graph, self.updates, standing=self._standing, batch=self._batch_of(traced)), history
        )

    def _batch_of(self, traced: Trace) -> Batch:
        """The batch of the program: arguments, and what programs before it made of them."""
        first = traced.num_args + len(self._grads) + traced.num_found
        carried = range(first, first + traced.num_carried)
        items = [i for i in carried if traced.rest.inputs[i].shape[:1] == (self.batch.count,)]
        return replace(self.batch, inputs=(*self.batch.inputs, *items))

    def run(self, tensors: Sequence[Tensor], made: Sequence[Any] = (), result: Any = None) -> Any:
        """Call the program on the arguments' tensors; state is read from and written to its place.

        Args:
            made: the arrays that programs before it made.
            result: whose results to give; those of its own trace by default.
        """
        outputs = self._call([x._value for x in tensors], made)
        if self._changes_arguments:
            self._change(tensors, outputs)
        if self.gives_one and result is None:
            return wrap(outputs[0])
        return (result or self.trace).rebuild([wrap(outputs[k]) for k in range(self.num_results)], tensors)

    def _change(self, tensors: Sequence[Tensor], outputs: list[Any]) -> None:
        """What a call leaves on its arguments."""
        for i in self._written:
            storage_of(tensors[i]).version += 1
        for i, flag in self.trace.flags:
            tensors[i]._requires_grad = flag
        for k, i in self._given_grads:
            tensors[i]._grad = wrap(outputs[k])

    def _call(self, arrays: list[Any], made: Sequence[Any]) -> list[Any]:
        """Run on the arguments' arrays, and note the changes of state."""
        if self._changes != Settings.changes:
            self._look()
        if self._unwritten:
            self._watch()
        if self._grads:
            arrays.extend([slot.read() for slot in self._grads])
        arrays.extend(made)
        if not self._refilled:
            for _, handle in self._set:
                handle._grad = None  # so that the program may use its memory again
        if tape.check_nan:
            outputs = self._run_checked(arrays)
        else:
            outputs = self.program(arrays, self._fixed)
        for storage in self._storages:
            storage.version += 1
        for k, slot in self._refilled:
            slot.write(outputs[k])
        for k, handle in self._set:
            handle._grad = grad = _new(Tensor)  # wrap(), without the call: there may be hundreds
            grad._value = outputs[k]
        for slot in self.trace.cleared:
            slot.write(None)
        return outputs

    def _run_checked(self, arrays: list[Any]) -> list[Any]:
        """Run and look for NaNs, also in what was carried: that is made anew, and no input of the whole graph."""
        traced = self.trace
        first = traced.num_args + len(self._grads) + traced.num_found
        carried = arrays[first : first + traced.num_carried]

        def program(arrays: Sequence[Any], fixed: Sequence[Any]) -> list[Any]:
            return self.program([*arrays, *carried], fixed)

        return run_checked(program if carried else self.program, traced.graph, arrays[:first], self._fixed)

    def shares(self, tensors: Sequence[Tensor]) -> bool:
        """Whether memory is written that is also an argument, or another one; programs take it to be apart.

        Or whether an argument that gets a gradient has one.
        """
        for _, i in self._given_grads:
            if tensors[i]._grad is not None:
                return True
        if not self._written and not self._written_state:
            return False
        if self._changes != Settings.changes:
            self._look()
        seen: dict[int, bool] = {}
        for i, t in enumerate(tensors):
            key = id(t if t._storage is None else t._storage)
            written = i in self._written
            if key in self._memory and (written or self._memory[key]):
                return True
            if key in seen and (written or seen[key]):
                return True
            seen[key] = written
        return False

    def _look(self) -> None:
        """Find the arrays of the state; `Settings.changes` counts where a tensor gets another array."""
        changes = Settings.changes
        self._fixed = [handle._value for handle in self._handles]
        self._storages = [storage_of(handle) for handle in self._written_state]
        self._memory = {
            id(storage_of(handle)): False for handle in self._handles
        }  # of state: whether it is written
        self._memory.update((id(storage), True) for storage in self._storages)
        self._watched = [storage_of(self._handles[i]) for i in self._unwritten]
        self._versions = None
        self._changes = changes

    def _watch(self) -> None:
        """Tell the program when state that it does not write may have changed, see Note [Standing]."""
        versions = [storage.version for storage in self._watched]
        if versions == self._versions and self._exports == Settings.exports:
            return
        exports = [storage.exports for storage in self._watched]
        self._exports = Settings.exports
        if versions != self._versions or exports != self._given:
            self.program.refresh()
            held = any(self._is_held(i, n) for i, n in zip(self._unwritten, exports, strict=True))
            self._versions, self._given = None if held else versions, exports

    def _is_held(self, i: int, exports: int) -> bool:
        """Whether others than this and its program may have the memory of a piece of state."""
        fixed = self._fixed
        return fixed[i].base is not None or (exports > 0 and getrefcount(fixed[i]) > _OWN)


def _count_of_own() -> int:
    fixed = [np.empty(0)]
    elsewhere = (fixed[0], fixed[0])  # a tensor, and the program
    return getrefcount(fixed[0]) + 0 * len(elsewhere)


_OWN = _count_of_own()


class Differentiable(Specialization):
    """A function whose results require a gradient: two programs, and a node on the tape for each call."""

    def __init__(self, traced: Trace, derivative: Derivative, largest: int = 0):
        self.derivative = derivative
        self._roots = [r.number for r in derivative.roots if isinstance(r, Made)]
        self._rebased = [traced.updates[r] for r in derivative.roots if isinstance(r, int)]
        super().__init__(traced, largest)

    def _compile(self, traced: Trace) -> Program:
        d, graph = self.derivative, traced.graph
        num_outputs = len(graph.outputs) - len(d.values)
        num_inputs = len(graph.inputs) - len(d.seeds)
        written = set(self.updates.values())
        optimized, history = run_passes(traced.rest)
        parts = partition(optimized, num_outputs, traced.num_results, len(d.seeds), written)
        whole = extract(graph, graph.inputs, graph.outputs[num_outputs:])
        used = {v for node in whole.nodes for v in node.inputs} | set(whole.outputs)
        given = [i for i in range(num_inputs) if whole.inputs[i] in used]
        first = traced.num_args + len(self._grads) + traced.num_found  # what was carried comes then
        sources = list(parts.sources)
        for i in [i if i < first else i + traced.num_carried for i in given]:
            if i not in written:
                sources.append(("input", i))
            else:
                sources.append(("output", len(parts.forward.outputs)))
                parts.forward.outputs.append(parts.forward.inputs[i])
        places: dict[tuple[str, int], int] = {}
        for source in sorted(set(sources)):
            places[source] = len(places)
        self._inputs = [i for kind, i in places if kind == "input"]
        self._outputs = [k for kind, k in places if kind == "output"]
        state = {i for i, (kind, k) in enumerate(parts.sources) if kind == "input" and k not in self.batch.inputs}
        saved = [
            i for i, v in enumerate(parts.backward.inputs) if i not in state and v.shape[:1] == (self.batch.count,)
        ]
        ends = {w if isinstance(w, int) else self._input_of(w, traced): e for e, w in enumerate(d.wanted)}
        self.backward = Backward(
            graph.name,
            introduce(Program(parts.backward, batch=replace(self.batch, inputs=tuple(saved))), history),
            extract(whole, [*(whole.inputs[i] for i in given), *whole.inputs[num_inputs:]], whole.outputs),
            [v.type for v in d.seeds],
            d.reached,
            [places[s] for s in parts.sources],
            [places[s] for s in sources[len(parts.sources) :]],
            [ends.get(i) for i in given],
        )
        forward = Program(parts.forward, self.updates, standing=self._standing, batch=self._batch_of(traced))
        return introduce(forward, history)

    def _input_of(self, handle: Tensor, traced: Trace) -> int:
        first = traced.num_args + len(self._grads) + traced.num_found
        return first + next(i for i, h in enumerate(self._handles) if h is handle)

    def run(self, tensors: Sequence[Tensor], made: Sequence[Any] = (), result: Any = None) -> Any:
        """Call the forward program, and put the call on the tape."""
        rebased = [tensors[t] if isinstance(t, int) else t.handle for t in self._rebased]
        for t in rebased:
            require_writable(t)
        edges = [_edge(tensors[w] if isinstance(w, int) else w) for w in self.derivative.wanted]
        arrays = [x._value for x in tensors]
        outputs = self._call(arrays, made)
        self._change(tensors, outputs)
        results = [wrap(outputs[k]) for k in range(self.num_results)]
        node = self._record(tensors, arrays, outputs, results, edges)
        for i, k in enumerate(self._roots):
            t = results[k]
            t._requires_grad, t._node, t._index = True, node, i
        for i, t in enumerate(rebased, len(self._roots)):
            new = wrap(t._value)
            new._requires_grad, new._node, new._index = True, node, i
            rebase_history(t, new)
        if self.gives_one and result is None:
            return results[0]
        return (result or self.trace).rebuild(results, tensors)

    def _record(
        self, tensors: Sequence[Tensor], arrays: list[Any], outputs: list[Any], made: list[Tensor], edges: list[Any]
    ) -> CompiledNode:
        """The tape's node, with what backward reads."""
        saved, versions = [], []
        first = len(arrays)
        for i in self._inputs:
            t: Any
            if i < len(tensors):
                t, array = tensors[i], arrays[i]
            elif i < len(tensors) + len(self._grads):
                t, array = self._grads[i - len(tensors)].handle._grad, arrays[i]
            elif i < first:  # nobody else has it
                saved.append(arrays[i])
                continue
            else:
                t, array = self._handles[i - first], self._fixed[i - first]
            storage = storage_of(t)
            versions.append((storage, storage.version, array.shape))
            saved.append(array)
        for k in self._outputs:
            if k < self.num_results:
                storage = storage_of(made[k])
                versions.append((storage, storage.version, made[k].shape))
            saved.append(outputs[k])
        return CompiledNode(self.backward, edges, saved, versions)


def _edge(t: Tensor) -> Any:
    """Where a gradient of `t` goes."""
    node = t._node if t._base is None else current_node(t)
    return (t, 0) if node is None else (node, t._index)
