"""Launches of small programs: one native function that Python calls with the arrays of a call.

`Program.__call__` puts addresses into the program's table one by one, in Python, and goes through the thread
team. Where there is little to do there is nothing to share out, and that would be most of a call's time.
The function here reads the addresses out of the arrays' objects and runs the phases, under the lock of the
interpreter: see Note [Two ways to run] in open.py.
"""

from __future__ import annotations

import ctypes
import math
from collections.abc import Callable
from typing import Any

import numpy as np

from . import team as _team
from .cost import flops_of
from .jit import Library, compile_text
from .open import HAS_ENTRIES, KEEP, method, name_references
from .program import Program
from .step import Step
from .target import host

Array = np.ndarray[Any, Any]

_HEADER = object.__basicsize__
_FLAGS = _HEADER + 48  # of an array's object: see PyArrayObject in NumPy's ndarraytypes.h
_CONTIGUOUS, _ALIGNED, _WRITEABLE = 0x1, 0x100, 0x400
# What is done under the interpreter's lock, besides kernels of one chunk: some 20 us on one thread.
_LITTLE_BYTES, _LITTLE_WORK = 1 << 17, 1 << 20

# `own` is an array of words: the table of phases, their number, the address of the number that stops them,
# the code that runs them, the number of arrays; then for each array the flags it must have, the number of
# its places in the table, and these. A call returns its last argument, or `own` if it was not done.
_TEXT = f"""
declare ptr @{KEEP}(ptr)

define ptr @launch(ptr %own, ptr %objects, i64 %count) nounwind {{
entry:
  %own_data = getelementptr i8, ptr %own, i64 {_HEADER}
  %words = load ptr, ptr %own_data
  %w1 = getelementptr i8, ptr %words, i64 8
  %w2 = getelementptr i8, ptr %words, i64 16
  %w3 = getelementptr i8, ptr %words, i64 24
  %w4 = getelementptr i8, ptr %words, i64 32
  %w5 = getelementptr i8, ptr %words, i64 40
  %table = load ptr, ptr %words
  %phases = load i64, ptr %w1
  %stop = load ptr, ptr %w2
  %serial = load ptr, ptr %w3
  %arrays = load i64, ptr %w4
  br label %array
array:
  %i = phi i64 [ 0, %entry ], [ %i1, %placed ]
  %at = phi ptr [ %w5, %entry ], [ %place, %placed ]
  %more = icmp ult i64 %i, %arrays
  br i1 %more, label %look, label %run
look:
  %o = getelementptr ptr, ptr %objects, i64 %i
  %object = load ptr, ptr %o
  %flags_at = getelementptr i8, ptr %object, i64 {_FLAGS}
  %flags = load i32, ptr %flags_at
  %wanted64 = load i64, ptr %at
  %wanted = trunc i64 %wanted64 to i32
  %has = and i32 %flags, %wanted
  %good = icmp eq i32 %has, %wanted
  br i1 %good, label %take, label %refuse
take:
  %data_at = getelementptr i8, ptr %object, i64 {_HEADER}
  %data = load ptr, ptr %data_at
  %places_at = getelementptr i8, ptr %at, i64 8
  %places = load i64, ptr %places_at
  %first = getelementptr i8, ptr %at, i64 16
  br label %next
next:
  %k = phi i64 [ 0, %take ], [ %k1, %put ]
  %place = phi ptr [ %first, %take ], [ %place1, %put ]
  %left = icmp ult i64 %k, %places
  br i1 %left, label %put, label %placed
put:
  %slot = load ptr, ptr %place
  store ptr %data, ptr %slot
  %place1 = getelementptr i8, ptr %place, i64 8
  %k1 = add i64 %k, 1
  br label %next
placed:
  %i1 = add i64 %i, 1
  br label %array
run:
  call void %serial(ptr %table, i64 %phases, ptr %stop)
  %halt = load i64, ptr %stop
  %fine = icmp eq i64 %halt, 0
  br i1 %fine, label %done, label %refuse
done:
  %last_at = getelementptr ptr, ptr %objects, i64 %count
  %l = getelementptr i8, ptr %last_at, i64 -8
  %last = load ptr, ptr %l
  br label %leave
refuse:
  br label %leave
leave:
  %result = phi ptr [ %last, %done ], [ %own, %refuse ]
  %kept = call ptr @{KEEP}(ptr %result)
  ret ptr %kept
}}
"""


def _known_flags() -> bool:
    """Whether the flags of arrays stand where we look for them."""
    if not HAS_ENTRIES:
        return False
    locked = np.empty(3)
    locked.flags.writeable = False
    unaligned = np.frombuffer(bytearray(17), np.uint8)[1:].view(np.float64)
    for a in (np.empty((3, 2)), np.empty((3, 2))[:, 1], np.empty((3, 2)).T, locked, unaligned):
        flags = ctypes.c_int32.from_address(id(a) + _FLAGS).value
        found = [bool(flags & bit) for bit in (_CONTIGUOUS, _ALIGNED, _WRITEABLE)]
        if found != [a.flags.c_contiguous, a.flags.aligned, a.flags.writeable]:
            return False
    return True


KNOWS_FLAGS = _known_flags()
_library: Library | None = None


def _loaded() -> Library:
    global _library
    if _library is None:
        name_references()
        _library = compile_text(_TEXT, host())
    return _library


def _is_little(steps: list[Step]) -> bool:
    """Whether kernels do so little that sharing it out would cost more, whatever their chunks are."""
    nbytes = sum(b.nbytes for step in steps for b in set(step.buffers))
    nodes = {node for step in steps for node in step.nodes}
    work = sum(flops_of(n) + 4 * n.outputs[0].type.size * math.prod(n.params.get("kernel", ())) for n in nodes)
    return nbytes <= _LITTLE_BYTES and work <= _LITTLE_WORK


class Launch:
    """A small program that is called with the arrays of its inputs, then those of its outputs.

    Outputs that are updates have no arrays of their own. All arrays must be of the program's types. It must run
    in no other way.

    Attributes:
        start: the native function: returns the last array, or `refused` if an array is not laid out
            as it must be (`fits` tells) or a kernel found an error (`error` gives it).
        outputs: shape and dtype of each output that is not an update.
    """

    def __init__(self, program: Program):
        self.program = program
        results = [result for k, result in enumerate(program._results) if k not in program.updates]
        self.outputs = [(shape, dtype) for shape, dtype, _ in results]
        written = set(program.updates.values())
        part = program._parts[0]
        base = program._table.ctypes.data
        words = [part[6], part[7], program._stop, _team._library().address("serial")]
        arrays: list[tuple[int, list[int]]] = []
        for i, (_, places) in enumerate(program._inputs):
            flags = _CONTIGUOUS | _ALIGNED | (_WRITEABLE if i in written else 0)
            arrays.append((flags, places))
        arrays += [(_CONTIGUOUS, own[1]) for _, _, own in results if own is not None]  # none is late
        words.append(len(arrays))
        for flags, places in arrays:
            words += [flags, len(places), *[base + 8 * place for place in places]]
        self.refused = np.array(words, np.uint64)
        self._code = _loaded()
        self.start: Callable[..., Any]
        self.start, self._method = method("launch", self._code.address("launch"), self.refused)

    @staticmethod
    def suits(program: Program) -> bool:
        """Whether a program can be launched in this way."""
        return (
            KNOWS_FLAGS
            and bool(program._code)
            and len(program._parts) == 1
            and program._parts[0].__class__ is tuple
            and program._once is None
            and not program._late
            and (all(step.chunks == 1 for step in program.steps) or _is_little(program.steps))
            and len(program._inputs) + len(program._results) > 0
        )

    def error(self) -> Exception | None:
        """The error that the last call found, if any; it is forgotten."""
        if not self.program._notes[0]:
            return None
        return self.program._checks.first()[1]
