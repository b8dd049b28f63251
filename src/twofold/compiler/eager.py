"""Eager operations on the compiler's kernels: those on open kernels are in modules of their own, eager_maps.py and
its neighbours; here are programs of one node, for what these leave out.

Note [What runs natively]
Whether an operation runs on a kernel is a function of its primitive, dtypes and shapes alone, so that
results do not depend on what ran before. Each combination is compiled when it is first met, and found
in the object cache by later processes. Programs keep their results' memory for the next call, so those
used last are kept as far as they fit into a part of the machine's memory. Operations with little work
stay with NumPy, which begins sooner, where its bits are the kernels'. Convolutions, pools and recurrent
layers run natively at every size. So do matrix products, functions, and reductions of floating numbers, on
kernels that take sizes when they run.
Errors of native operations are explained by the reference, which is run for that.
"""

from __future__ import annotations

import importlib
import threading
from collections import OrderedDict
from collections.abc import Callable
from typing import Any

import numpy as np

from ..ir import config, forks
from ..ir.errors import TwofoldError
from ..ir.evaluate import runner, value_types
from ..ir.heap import machine_memory
from ..ir.primitive import PRIMITIVES, Primitive
from ..ir.types import TensorType
from ..primitives import control
from . import (
    eager_complex,
    eager_convolutions,
    eager_draws,
    eager_maps,
    eager_pools,
    eager_recurrent,
    eager_reductions,
    eager_scatter,
)
from .eager_products import run_natively

Array = np.ndarray[Any, Any]

_PROGRAM = 1 << 16  # bytes, about, of a program besides its memory for values


def install() -> None:
    """Let eager code use native operations; only what the first of them needs loads LLVM."""
    if config.EAGER_KERNELS.value:
        run_natively(PRIMITIVES["matmul"])
        eager_convolutions.run_natively(lambda p: _Native(p).run)
        eager_maps.run_natively()
        eager_reductions.run_natively()
        eager_recurrent.run_natively()
        eager_pools.run_natively()
        eager_scatter.run_natively()
        eager_complex.run_natively()
        control.run_as_eager_code()
        eager_draws.run_natively()


class _Native:
    """How eager code evaluates one primitive: on kernels where that is worth it."""

    def __init__(self, p: Primitive):
        self.p = p
        self._reference = runner(p)
        self._programs: dict[Any, Any] = {}
        self._largest: dict[Any, int] = {}  # number of items, by everything else

    def run(self, *values: Any, **params: Any) -> Any:
        """Results for arrays and Python numbers, as `Primitive.run`."""
        for v in values:
            if v.__class__ is _ndarray and v.size:
                return self._run_large(values, params)
        return self._reference(*values, **params)

    def _run_large(self, values: tuple[Any, ...], params: dict[str, Any]) -> Any:
        key: list[Any] = [*params, *params.values()]
        for v in values:
            if isinstance(v, _ndarray):
                key.append(v.dtype)
                key += v.shape
            else:
                key.append(v.__class__)
        known = tuple(key)
        try:
            program = self._programs[known]
        except KeyError:
            program = self._find(known, values, params)
        except TypeError:  # a param that can't be hashed
            program = None
        if program is None:
            return self._reference(*values, **params)
        native, dtypes, nbytes = program
        _KEPT.use(self._programs, known, nbytes)
        try:
            out = native([np.asarray(v, dtype) for v, dtype in zip(values, dtypes, strict=True)])
        except TwofoldError:  # an index out of bounds: the reference says so in words without a graph
            return self._reference(*values, **params)
        finally:
            native.forget(results=True)
        return tuple(out) if self.p.multiple else out[0]

    def _find(self, key: Any, values: tuple[Any, ...], params: dict[str, Any]) -> Any:
        types = value_types(values)
        self.p.types(types, params)  # raises what bind shows
        with _KEPT.lock:
            program = self._programs.get(key)
            if program is None:
                program = self._programs[key] = self._compile(types, params)
            return program

    def _compile(self, types: list[TensorType], params: dict[str, Any]) -> Any:
        native: Callable[..., Any] = importlib.import_module(".single", __package__).program_of
        shapes = tuple([(t.dtype.name, t.shape[1:]) for t in types])
        key = (shapes, *params, *params.values())
        program = native(self.p, types, params, largest=self._largest.get(key, 0))
        self._largest[key] = max(self._largest.get(key, 0), *[t.shape[0] for t in types[:1] if t.shape], 0)
        if any(step.kind == "numpy" for step in program.steps):
            return None
        program.borrow()
        nbytes = _PROGRAM + program.held_bytes + sum(v.type.size * v.dtype.itemsize for v in program.graph.outputs)
        return program, [t.dtype.numpy for t in types], nbytes


class _Kept:
    """The programs that were used last, with the memory that they hold between calls."""

    def __init__(self) -> None:
        self.limit = machine_memory() // 8
        self.bytes = 0
        self.order: OrderedDict[Any, tuple[dict[Any, Any], int]] = OrderedDict()
        self.after_fork()
        forks.tell(self)

    def after_fork(self) -> None:
        """Have a new lock: in a child, a thread that is not there any more may hold the old one."""
        self.lock = threading.Lock()

    def use(self, programs: dict[Any, Any], key: Any, nbytes: int) -> None:
        """Note that a program is used, and let go of those used longest ago if there is too much."""
        with self.lock:
            entry = id(programs), key
            if entry in self.order:
                self.order.move_to_end(entry)
                return
            self.order[entry] = programs, nbytes
            self.bytes += nbytes
            while self.bytes > self.limit and self.order:
                (_, oldest), (owner, size) = self.order.popitem(last=False)
                owner.pop(oldest, None)
                self.bytes -= size


_KEPT = _Kept()


_ndarray = np.ndarray
