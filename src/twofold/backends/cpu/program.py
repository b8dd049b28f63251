"""Program: a compiled graph that runs on arrays."""

from __future__ import annotations

import ctypes
import itertools
import sys
import threading
import time
from collections.abc import Collection, Sequence
from sys import getrefcount
from typing import Any

import numpy as np

from ...ir import config, forks, heap
from ...ir.errors import TwofoldError
from ...ir.evaluate import evaluate_eagerly, located
from ...ir.graph import Graph, Node, Value
from . import recording
from . import team as _team
from .chains import MEMORY, description, own_buffers, place_own, placed
from .cost import Cost, cost_of, program_text
from .effects import written_slots
from .invariant import invariant_steps
from .items import Batch, marked
from .jit import assembly, compile_kernels, usable_cpus
from .layout import Buffer
from .lowering import Lowering
from .schedule import LEAST_ITEMS, Task, waves
from .step import Step
from .target import Target, host

_ALIGN = 64
_LARGE = 32 << 20  # bytes of temporaries that come from the system, not from the heap


class Program:
    """A graph as native code, for arrays of fixed types.

    Args:
        graph: what to compute.
        updates: number of an output -> number of the input whose array it is to be written into.
        target: the processor; this one's by default.
        standing: numbers of inputs whose elements only change before a call of `refresh()`. What follows from
            them alone is not computed again; with the arrays of another call it is.
        batch: which inputs hold a number of items. Programs for other numbers share most of their code.
    """

    def __init__(
        self,
        graph: Graph,
        updates: dict[int, int] | None = None,
        target: Target | None = None,
        standing: Collection[int] = (),
        batch: Batch = Batch(),  # noqa: B008
    ):
        self.graph = graph
        self.history: Any = None  # of the passes that made the graph, if there were any
        self.updates = updates or {}
        self.standing = frozenset(standing) - set(self.updates.values())
        self._stale = True  # the kept results of invariant steps
        self.target = target or host()
        started = time.perf_counter()
        lowering = Lowering(graph, self.target, self.updates)
        with marked(graph, batch):
            lowering.run()
        self.views, self.steps, self.buffers = lowering.views, lowering.steps, lowering.buffers
        self.direct = lowering.direct
        self.texts = lowering.module.texts()
        lowered = time.perf_counter()
        self._kernels = lowering.module.kernels
        self._code = compile_kernels(self.texts, self.target)
        self._schedule(lowering)
        self.seconds = {"lower": lowered - started, "compile": time.perf_counter() - lowered}
        self._checks = lowering.checks
        self._notes = lowering.checks.notes.data
        self._stop = lowering.checks.notes.ctypes.data
        self._in_place = {self.updates[k] for k in self.direct if k in self.updates}
        self._scratch_row = -(-lowering.scratch // 4096) * 4096
        self._lock = threading.Lock()
        forks.tell(self)
        self._plan(lowering)
        self._allocate()

    def __str__(self) -> str:
        return program_text(self)

    def cost(self) -> Cost:
        """Operations, bytes, memory and kernels of one call; print it for a table."""
        return cost_of(self)

    def graph_after(self, name: str) -> Graph:
        """The graph as it was after the pass of that name; "trace" is the one before all passes."""
        if self.history is None:
            raise TwofoldError("this program was made of a graph directly, no pass ran", op="graph_after")
        return self.history.after(name)

    def kernels(self) -> str:
        """A line per kernel, in order; steps that are run as eager code runs them say "numpy"."""
        return "\n".join(map(str, self.steps))

    def ir(self) -> str:
        """The kernels in LLVM's language, for people."""
        return "\n".join(f"; {symbol}\n{text}" for symbol, text in self.texts.items())

    def assembly(self) -> str:
        """The machine code, for people."""
        return "\n".join(f"# {symbol}\n{assembly(text, self.target)}" for symbol, text in self.texts.items())

    def _schedule(self, lowering: Lowering) -> None:
        """Put the steps into an order of waves, see `schedule`; steps that call NumPy are waves of their own."""
        bodies = {symbol: body for body, symbol in lowering.module.bodies.items()}
        memo: dict[str, set[int]] = {}
        slots = {symbol: written_slots(body, lowering.module.shared, memo) for symbol, body in bodies.items()}
        self.writes: dict[str, set[Buffer]] = {}
        for step in self.steps:
            if step.kind != "numpy":
                symbol, numbers, _ = self._kernels[step.symbol]
                touched = [self.buffers[n - 2] for n in numbers]
                step.buffers = tuple(dict.fromkeys((*step.buffers, *touched)))
                self.writes[step.symbol] = {touched[slot - 2] for slot in slots[symbol] if slot > 1}
        writes = lambda step: self.writes[step.symbol]
        standing = {self.views[self.graph.inputs[i]].buffer for i in self.standing}
        once = invariant_steps(self.steps, writes, standing, lowering.checks.buffer) if standing else []
        least = 0 if "chain" in config.SKIP_PASSES.value else max(LEAST_ITEMS, 4 * usable_cpus())
        self.waves: list[list[Task]] = waves(once, writes, lowering.checks.buffer)
        self.num_once = len(self.waves)  # waves that run only when an input of `standing` has changed
        for buffer in (b for step in once for b in writes(step)):
            buffer.kind = "kept"
        chosen = set(map(id, once))
        rest = [step for step in self.steps if id(step) not in chosen]
        for is_native, steps in itertools.groupby(rest, lambda step: step.kind != "numpy"):
            if is_native:
                self.waves += waves(list(steps), writes, lowering.checks.buffer, least)
            else:
                self.waves += [[Task([step])] for step in steps]
        self.steps = [step for wave in self.waves for task in wave for step in task]

    def _plan(self, lowering: Lowering) -> None:
        """Give the temporaries places in one arena; those that are never alive together may share."""
        last: dict[Buffer, int] = {}
        first: dict[Buffer, int] = {}
        for i, wave in enumerate(self.waves):
            for buffer in (b for task in wave for step in task for b in step.buffers):
                first.setdefault(buffer, i)
                last[buffer] = i
        end = len(self.waves)
        late = [self.views[v].buffer for i, v in enumerate(self.graph.outputs) if i not in self.direct]
        last |= dict.fromkeys(late, end)
        reuses = "reuse" not in config.SKIP_PASSES.value
        tasks = [task for wave in self.waves for task in wave]
        self._own = own_buffers(tasks, lambda step: self.writes.get(step.symbol, set()), late)
        sizes = [self._words(task) + place_own(task, own, reuses) for task, own in self._own.items()]
        memory = max(sizes, default=0)
        self._own_place = -(-lowering.scratch // _ALIGN) * _ALIGN  # in the memory of a worker
        self._scratch_row = -(-(self._own_place + memory) // 4096) * 4096 if memory else self._scratch_row
        of_workers = {b for own in self._own.values() for b in own}
        temporaries = [b for b in first if b.kind == "temp" and b not in of_workers]
        for buffer in temporaries:
            buffer.first, buffer.last = (first[buffer], last[buffer]) if reuses else (0, end)
        self.arena_bytes = placed(temporaries, lambda b: b.nbytes)
        self.kept_bytes = 0
        for buffer in (b for b in self.buffers if b.kind == "kept"):
            buffer.offset = self.kept_bytes
            self.kept_bytes += -(-buffer.nbytes // _ALIGN) * _ALIGN

    def _words(self, task: Task) -> int:
        """Bytes of a task's table of addresses, up to where something else may begin."""
        words = sum(map(self._entries, task))
        return -(-8 * words // _ALIGN) * _ALIGN

    def _entries(self, step: Step) -> int:
        """Words of a step's part of the table: addresses, and numbers."""
        _, numbers, sizes = self._kernels[step.symbol]
        return 2 + len(numbers) + len(sizes)

    def _allocate(self) -> None:
        """Lay out the memory, and for every kernel the table of its buffers' addresses."""
        if self.arena_bytes >= _LARGE:
            heap.give_back()  # what building and compiling have left
        self._arena = _aligned(self.arena_bytes)
        self._kept = _aligned(self.kept_bytes)
        self._workers = _team.get_num_threads() if self._code else 1
        self._scratch = _aligned(self._scratch_row * self._workers)
        self._arrays: list[np.ndarray[Any, Any] | None] = []  # flat, by number of the buffer
        addresses = [self._scratch.ctypes.data, self._scratch_row]
        of_workers = {b for own in self._own.values() for b in own}
        temporaries: list[Buffer] = []
        for b in self.buffers:
            array: np.ndarray[Any, Any] | None = None
            address = 0
            if b.kind == "constant":
                array = np.ascontiguousarray(b.array).reshape(-1)
                address = array.ctypes.data
            elif b.kind in ("temp", "kept") and b.offset >= 0 and b not in of_workers:
                memory = self._arena if b.kind == "temp" else self._kept
                array = memory[b.offset : b.offset + b.nbytes].view(b.dtype.numpy)
                address = memory.ctypes.data + b.offset
                if b.kind == "temp":
                    temporaries.append(b)
            elif not b.size:
                array = np.empty(0, b.dtype.numpy)  # no step makes what holds nothing
            self._arrays.append(array)
            addresses.append(address)
        native = [step for step in self.steps if step.kind != "numpy"]
        entries: list[int] = []
        places: dict[int, list[int]] = {}  # of a buffer -> where the tables hold its address
        starts: dict[int, int] = {}
        for step in native:
            starts[id(step)] = len(entries)
            _, numbers, sizes = self._kernels[step.symbol]
            for number in (0, 1, *numbers):
                places.setdefault(number, []).append(len(entries))
                entries.append(addresses[number])
            entries += [n % (1 << 64) for n in sizes]  # see Note [Sizes]
        table = np.array(entries or [0], np.uint64)
        self._table, self._slots, self._places = table, table.data, places
        self._whole: Any = None  # memory of the chains' own buffers for all items, where steps run one by one
        self._inputs = [
            (b.number, places.get(b.number, [])) for b in (self.views[v].buffer for v in self.graph.inputs)
        ]
        self._known: list[np.ndarray[Any, Any] | None] = [None] * len(self._inputs)
        self._results = []
        for i, value in enumerate(self.graph.outputs):
            buffer = self.direct.get(i)
            own = None if buffer is None or i in self.updates else (buffer.number, places.get(buffer.number, []))
            self._results.append((value.shape, value.dtype.numpy, own))
        self._late = [(i, v) for i, v in enumerate(self.graph.outputs) if i not in self.direct]
        self._looked = self._looked_at()
        self._temporaries = [(b.number, b.offset, places.get(b.number, [])) for b in temporaries]
        self._borrowed: int | None = None  # where the memory was in the last call, if it changes
        self._fixed: Any = None
        self._outputs: list[Any] = [None] * len(self._results)  # of the last call
        numbers = [own[0] if own else 0 for _, _, own in self._results]
        self._alone = [_ALONE + (n in self._looked) for n in numbers]  # references, the one of `_arrays` too
        self._chains: list[np.ndarray[Any, Any]] = []  # their descriptions
        self._once = self._phases(self.waves[: self.num_once], starts) if self.num_once else None
        self._parts: list[Any] = []
        for is_native, parts in itertools.groupby(
            self.waves[self.num_once :], lambda wave: wave[0][0].kind != "numpy"
        ):
            if is_native:
                self._parts.append(self._phases(list(parts), starts))
            else:
                self._parts += [wave[0][0].nodes[0] for wave in parts]

    def _looked_at(self) -> set[int]:
        """The buffers whose arrays Python looks at: for the reference, and to copy results."""
        values = [v for _, v in self._late]
        values += [
            v
            for step in self.steps
            if step.kind == "numpy"
            for v in (*step.nodes[0].inputs, *step.nodes[0].outputs)
        ]
        return {self.views[v].buffer.number for v in values}

    def _phases(self, waves: list[list[Task]], starts: dict[int, int]) -> tuple[Any, ...]:
        """A run of native steps as the thread team takes it: address and number of phases, once with a phase
        per step and once with one per wave; and what must stay alive."""
        base = self._table.ctypes.data
        of_workers = {b for own in self._own.values() for b in own}
        single: list[list[int]] = []
        rows: list[list[int]] = []
        for wave in waves:
            total, begin = 0, len(rows)
            for task in wave:
                own = [[self._address(step), step.chunks, base + 8 * starts[id(step)]] for step in task]
                single += [[*row, row[1], 1] for row in own]
                items = getattr(task, "items", 0)
                if not items and any(not of_workers.isdisjoint(step.buffers) for step in task):
                    self._hold_all()  # a part of a chain, to be looked at by itself
                if items and self._code:
                    self._chains.append(self._description(task, starts))
                    own = [[_team.chain_address(), items, self._chains[-1].ctypes.data]]
                total += own[0][1]
                rows += [[*row, total, 0] for row in own]
            for row in rows[begin:]:
                row[-1] = len(rows) - begin
        alone, table = np.array(single, np.uint64), np.array(rows, np.uint64)
        steps = [step for wave in waves for task in wave for step in task]
        memory, tickets = _team.tickets(len(waves))
        kept = (alone, memory, table)
        return alone.ctypes.data, len(steps), tickets, kept, memory, steps, table.ctypes.data, len(waves), table

    def _description(self, task: Task, starts: dict[int, int]) -> np.ndarray[Any, Any]:
        """A chain as `chain` of team.py takes it."""
        begin = starts[id(task[0])]
        places = [8 * (starts[id(step)] - begin) for step in task]
        size = places[-1] + 8 * self._entries(task[-1])
        own = [
            (8 * (place - begin), b)
            for b in self._own.get(task, ())
            for place in self._places[b.number]
            if begin <= place < begin + size // 8
        ]
        memory = self._scratch.ctypes.data + self._own_place, self._scratch_row
        code = [self._address(step) for step in task]
        return description(task, code, places, (self._table.ctypes.data + 8 * begin, size), memory, own)

    def _hold_all(self) -> None:
        """Make memory for all items of the chains' own buffers, so that steps can run one by one."""
        own = [b for buffers in self._own.values() for b in buffers]
        if self._whole is None and own:
            sizes = [-(-b.nbytes // _ALIGN) * _ALIGN for b in own]
            self._whole = _aligned(sum(sizes))
            for b, place in zip(own, itertools.accumulate([0, *sizes]), strict=False):
                for slot in self._places[b.number]:
                    self._slots[slot] = self._whole.ctypes.data + place

    def _address(self, step: Step) -> int:
        """Where the code of a step begins; 0 if it is for another processor."""
        symbol = self._kernels[step.symbol][0]
        return self._code[symbol].address if self._code else 0

    def __call__(
        self, arrays: Sequence[np.ndarray[Any, Any]], fixed: Sequence[np.ndarray[Any, Any]] = ()
    ) -> list[np.ndarray[Any, Any] | None]:
        """Run on arrays, one for each of the graph's inputs.

        Args:
            arrays: all of them, or the first ones.
            fixed: those after. If this is the very list of the call before, it is not looked at.

        Returns a new array per output, or None for an output that is an update: that one was
        written into its input's array.
        """
        with self._lock:
            return self._run(arrays, fixed)

    def borrow(self) -> None:
        """Have memory for temporaries during calls only, as eager code wants it, which has many programs."""
        numbers = [number for number, _, _ in self._temporaries]
        if self._borrowed is None and self._looked.isdisjoint(numbers):
            for number in numbers:
                self._arrays[number - 2] = None
            self._arena = self._scratch = _aligned(0)
            self._borrowed = 0

    def _borrow(self, workers: int) -> np.ndarray[Any, Any]:
        """Memory for one call: of the temporaries, then of each worker."""
        above = -(-self.arena_bytes // _ALIGN) * _ALIGN
        memory = _aligned(above + self._scratch_row * workers)
        address = memory.ctypes.data
        if address != self._borrowed:
            for _, offset, places in self._temporaries:
                for place in places:
                    self._slots[place] = address + offset
            self._set_scratch(address + above)
            self._borrowed = address
        return memory

    def _employ(self, workers: int) -> None:
        """Have memory for more workers than before."""
        self._workers, self._scratch = workers, _aligned(self._scratch_row * workers)
        self._set_scratch(self._scratch.ctypes.data)

    def _set_scratch(self, address: int) -> None:
        """Tell kernels and chains where the memory of the workers is."""
        for place in self._places.get(0, ()):
            self._slots[place] = address
        for chain in self._chains:
            chain[MEMORY] = address + self._own_place

    @property
    def held_bytes(self) -> int:
        """Memory for values that it has between calls."""
        return self.kept_bytes + (self.arena_bytes if self._borrowed is None else 0)

    def refresh(self) -> None:
        """The elements of an input that stood still have changed."""
        self._stale = True

    def forget(self, results: bool = False) -> None:
        """Let go of the arrays of the last call; with `results`, of those that a later call would write again."""
        with self._lock:
            if results:
                self._outputs = [None] * len(self._results)
            self._stale = True
            self._known = [None] * len(self._inputs)
            self._fixed = None
            for number, _ in self._inputs:
                self._arrays[number - 2] = None

    def after_fork(self) -> None:
        """In a child: another thread of the parent may have been in the middle of a call."""
        self._lock = threading.Lock()
        self._outputs = [None] * len(self._results)
        self._checks.notes[:] = 0
        self.forget()

    def _run(
        self, arrays: Sequence[np.ndarray[Any, Any]], fixed: Sequence[np.ndarray[Any, Any]]
    ) -> list[np.ndarray[Any, Any] | None]:
        if not self._code and self.texts:
            raise TwofoldError(f"this program is for {self.target.name}, which this processor is not", op="program")
        slots, known = self._slots, self._known
        copied: list[tuple[int, Any, Any]] = []
        if fixed is not self._fixed:
            self._fixed = None
            arrays = [*arrays, *fixed]
        for i, array in enumerate(arrays):
            if known[i] is not array:
                known[i] = array
                if i in self.standing:
                    self._stale = True
                if not array.flags.c_contiguous:
                    given, array = array, np.ascontiguousarray(array)
                    copied.append((i, given, array))
                    known[i] = None
                number, places = self._inputs[i]
                address = _address_of(array)
                for place in places:
                    slots[place] = address
                if number in self._looked:
                    self._arrays[number - 2] = array.reshape(-1)
        if not copied:
            self._fixed = fixed
        outputs: list[Any] = []
        before = self._outputs
        for i, (shape, dtype, out_place) in enumerate(self._results):
            out = before[i]
            if out is not None and getrefcount(out) <= self._alone[i]:  # nobody has it any more: use it again
                outputs.append(out)
                continue
            out = None
            if out_place is not None:
                before[i] = out = np.empty(shape, dtype)
                number, places = out_place
                address = _address_of(out)
                for place in places:
                    slots[place] = address
                if number in self._looked:
                    self._arrays[number - 2] = out.reshape(-1)
            outputs.append(out)
        team = _team.team()
        if self._borrowed is not None:
            memory = self._borrow(team.num_threads)  # noqa: F841  # until this returns
        elif team.num_threads > self._workers:
            self._employ(team.num_threads)
        if recording.listener is not None:
            self._run_recorded(team, recording.listener)
        elif self._once is not None and self._stale:
            team.run(self._once[6], self._once[7], self._once[2], self._stop)
        if self._stale:
            self._stale = bool(self._notes[0])
        for part in self._parts if recording.listener is None else ():
            if part.__class__ is tuple:
                team.run(part[6], part[7], part[2], self._stop)
            elif not self._notes[0]:
                self._run_numpy(part)
        if self._notes[0]:
            node, error = self._checks.first()
            raise located(error, self.graph, node)
        for i, given, array in copied:
            if i in self._in_place:
                np.copyto(given, array)
        for i, array in [(i, self._array(value).copy()) for i, value in self._late]:
            if i in self.updates:
                place = self.updates[i]
                np.copyto(arrays[place] if place < len(arrays) else fixed[place - len(arrays)], array)
            else:
                outputs[i] = array
        return outputs

    def _run_recorded(self, team: Any, listener: recording.Listener) -> None:
        """Run the steps one by one and tell the listener how long each took."""
        self._hold_all()
        once = () if self._once is None else (self._once,)
        number = 0 if self._stale or not once else len(once[0][5])
        for part in (*(once if self._stale else ()), *self._parts):
            is_native = part.__class__ is tuple
            for i in range(len(part[5]) if is_native else 1):
                if self._notes[0]:
                    return
                started = time.perf_counter_ns()
                if is_native and part[5][i].chunks > 1:
                    team.run(part[0] + i * _team.PHASE_BYTES, 1, part[2], self._stop)
                elif is_native:
                    team.serial(part[0] + i * _team.PHASE_BYTES, 1, self._stop)
                else:
                    self._run_numpy(part)
                listener.step(self, number, started, time.perf_counter_ns())
                number += 1

    def _run_numpy(self, node: Node) -> None:
        out = evaluate_eagerly(node.prim, [self._array(v) for v in node.inputs], node.params)
        for value, array in zip(node.outputs, out if node.prim.multiple else (out,), strict=True):
            np.copyto(self._array(value), array)

    def _array(self, value: Value) -> np.ndarray[Any, Any]:
        view = self.views[value]
        size = view.dtype.itemsize
        memory = self._arrays[view.buffer.number - 2]
        assert memory is not None
        return np.lib.stride_tricks.as_strided(memory[view.offset :], view.shape, [s * size for s in view.strides])


def _aligned(nbytes: int) -> np.ndarray[Any, Any]:
    memory = np.empty(nbytes + _ALIGN, np.uint8)
    shift = -memory.ctypes.data % _ALIGN
    return memory[shift : shift + nbytes]


def _address_quickly(array: np.ndarray[Any, Any]) -> int:
    """The address of the first element, read where NumPy's objects hold it: after the object's header."""
    return _pointer(id(array) + _HEADER).value or 0


def _address_surely(array: np.ndarray[Any, Any]) -> int:
    return array.ctypes.data


def _count_of_one() -> int:
    """The references to an array that is in a list only, as `_run` counts them."""
    out = _LISTED[0]
    return getrefcount(out)


_LISTED = [np.empty(0)]
_ALONE = _count_of_one()
_pointer = ctypes.c_void_p.from_address
_HEADER = object.__basicsize__
# NumPy's own ways make two objects each time, which takes five times as long.
_address_of = _address_surely
if sys.implementation.name == "cpython" and all(
    _address_quickly(array) == array.ctypes.data for array in (np.empty(3), np.empty((2, 2), np.uint8)[1:])
):
    _address_of = _address_quickly
