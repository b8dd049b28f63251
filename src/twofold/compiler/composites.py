"""Fused composites in eager code: softmax, norms, losses, attention as programs, forward and backward.

Note [Programs of composites]
What a call takes for granted is in its key: types of the tensors and whether they require a gradient, all
other arguments, and what modes there are. A key that comes often is traced and compiled, see `_due`; until
then, and wherever anything unusual is going on, the composite runs operation by operation. Both give the same
bits (docs/design/0003), so it does not matter which calls those were. Errors are always raised by the
operations: a program that finds one has changed nothing.

Note [Two sizes of programs]
Programs with little to do are launched by one native call, under the lock of the interpreter (see
backends/cpu/launch.py). Others run as compiled functions do.
"""

from __future__ import annotations

import importlib
import math
import threading
import time
from collections import OrderedDict
from collections.abc import Callable
from typing import Any

from ..autodiff import tape
from ..autodiff.composite import Composite, install_programs
from ..autodiff.handle import Tensor, mode
from ..backends.cpu import recording
from ..ir import config, forks
from ..ir.dtypes import DType, get_default_dtype
from ..ir.heap import machine_memory

_SECONDS = 0.008  # to make a program, if its code is in the cache; see `_due`
_CALLS = 8  # at least, after the first one
_AGAIN = 2.0  # more seconds, before it is compiled again when its program had to go
_PROGRAMS = 2048
_clock = time.perf_counter
_NUMBERS = frozenset((bool, str, type(None), DType))


def install() -> None:
    """Let fused composites run as programs; only what the first of them needs loads LLVM."""
    install_programs(lambda known: Fused(known).run)


class Fused:
    """How eager code runs one composite."""

    def __init__(self, known: Composite):
        self.known = known
        self.plainly = known.plainly
        self.programs: dict[Any, Callable[..., Any]] = {}
        self.spent: dict[Any, float] = {}  # seconds; minus infinity where there can be no program
        self.run = self._runner()

    def _runner(self) -> Callable[[Any, Any], Any]:
        """What eager code calls with the arguments."""
        plainly, programs, enabled = self.plainly, self.programs, config.EAGER_COMPOSITES

        def run(args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
            if tape.keep_locations or recording.listener is not None or not enabled.value or _now.meeting:
                return plainly(args, kwargs)
            grad = mode.grad
            key: list[Any] = [grad, get_default_dtype()]
            tensors: list[Tensor] = []
            values: list[Any] = []
            given = args
            if kwargs:
                key.append(len(args))  # which of the strings are names
                given = (*args, *kwargs, *kwargs.values())
            for x in given:
                if isinstance(x, Tensor):
                    value = x._value
                    tensors.append(x)
                    values.append(value)
                    key.append(value.shape)
                    key.append(value.dtype)
                    if grad:
                        key.append(x._requires_grad if x._base is None else x.requires_grad)
                    continue
                kind = x.__class__
                if kind not in _NUMBERS:
                    x = _literal(x)
                    if x is None:
                        return plainly(args, kwargs)
                key.append(kind)
                key.append(x)
            if len(tensors) > 1 and len(set(map(id, tensors))) < len(tensors):
                return plainly(args, kwargs)
            program = programs.get(tuple(key))
            if program is None:
                return self._meet(tuple(key), args, kwargs, tensors)
            try:
                return program(values, tensors)
            except Unfit:
                return plainly(args, kwargs)

        return run

    def _meet(self, key: Any, args: Any, kwargs: Any, tensors: list[Tensor]) -> Any:
        """Run operation by operation, and compile the key for the next calls if that is worth it."""
        spent = self.spent
        began = _clock()
        _now.meeting = True  # what it is made of needs no programs
        try:
            result = self.plainly(args, kwargs)
        finally:
            _now.meeting = False
        before = spent.get(key)
        if before is None and len(spent) > 2 * _PROGRAMS:
            spent.clear()
        # the first call may have made kernels, and one that was interrupted tells little
        spent[key] = seconds = 0.0 if before is None else before + min(_clock() - began, _SECONDS / _CALLS)
        if seconds >= _due(len(self.programs)):
            _KEPT.compile(self, key, args, kwargs, tensors)
        return result


class Unfit(Exception):
    """A program could not take the arrays of a call, or found an error in them; nothing has changed."""


class _Now(threading.local):
    meeting: bool = False


_now = _Now()


def _due(programs: int) -> float:
    """How many seconds a key must have taken operation by operation to be compiled.

    About as many as a program takes to make: so at most as much is lost on keys that do not come again as is
    spent on them. The more programs there are, the fewer of them will stay.
    """
    return _SECONDS * (1 + programs // 8)


def _literal(x: Any) -> Any:
    """What stands for a value of Python's in a key, or None if it can't: 1, 1.0 and True are not the same."""
    kind = x.__class__
    if kind is int:
        return x
    if kind is float:
        return x if x and x == x else repr(x)
    if kind is tuple or kind is list:
        parts = [y if y.__class__ is int else (y.__class__, _literal(y)) for y in x]
        return None if any(p.__class__ is tuple and p[1] is None for p in parts) else (kind, *parts)
    return (kind, x) if kind in _NUMBERS else None


class _Kept:
    """All programs of composites, as far as they fit into a part of the machine's memory."""

    def __init__(self) -> None:
        self.limit = machine_memory() // 8
        self.bytes = 0
        self.order: OrderedDict[Any, int] = OrderedDict()
        self.after_fork()
        forks.tell(self)

    def after_fork(self) -> None:
        """Have a new lock: in a child, a thread that is not there any more may hold the old one."""
        self.lock = threading.Lock()

    def compile(self, fused: Fused, key: Any, args: Any, kwargs: Any, tensors: list[Tensor]) -> None:
        """Make the program of a key; while another thread makes one, nothing happens."""
        if not self.lock.acquire(blocking=False):
            return
        try:
            if key in fused.programs:  # another thread was faster
                return
            make = importlib.import_module(".composed", __package__).program_of
            program, nbytes = make(fused.known, args, kwargs, tensors)
            if program is None or nbytes > self.limit:
                fused.spent[key] = -math.inf
                return
            fused.programs[key] = program
            self.bytes += nbytes - self.order.pop((fused, key), 0)
            self.order[fused, key] = nbytes
            self.let_go()
        finally:
            self.lock.release()

    def let_go(self) -> None:
        """Give up the oldest programs if there are too many."""
        while self.order and (self.bytes > self.limit or len(self.order) > _PROGRAMS):
            (owner, oldest), size = self.order.popitem(last=False)
            owner.programs.pop(oldest, None)
            owner.spent[oldest] = -_AGAIN
            self.bytes -= size


_KEPT = _Kept()
