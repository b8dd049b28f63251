"""Eager sums, products and extremes on the compiler's own kernels: see Note [What runs natively] in eager.py.

Of floating numbers they are natively computed at every size: NumPy adds in another order, and takes another zero
for the extreme of zeros of both signs. Of integers there is one result, and NumPy finds what is small.
"""

from __future__ import annotations

import importlib
import os
import threading
from collections.abc import Callable
from typing import Any

import numpy as np

from ..ir.dtypes import BOOL, FLOATS, FROM_NUMPY, INTEGERS
from ..ir.evaluate import runner
from ..ir.primitive import PRIMITIVES, Primitive
from ..ir.types import TensorType
from .eager_complex import DTYPES, by_parts

Array = np.ndarray[Any, Any]

LARGE = 1 << 15  # elements from which a kernel does what NumPy would do as well
NAMES = ("sum", "prod", "amax", "amin")


def run_natively() -> None:
    """Let eager code use native reductions; only the first of them loads LLVM."""
    for name in NAMES:
        p = PRIMITIVES[name]
        p.run = Reductions(p).run


class Reductions:
    """How eager code evaluates one reduction."""

    def __init__(self, p: Primitive):
        self.p = p
        self._reference = runner(p)
        self._made: dict[Any, Any] = {}  # dtype -> a Reduction, or None where NumPy does it
        self._plans: dict[Any, Any] = {}  # dtype -> plans of floating numbers
        self._little: Callable[[Array, Array, Array], Array] | None = None
        self.run = self._runner()

    def _runner(self) -> Callable[..., Any]:
        plans, evaluate, empty = self._plans, self.evaluate, np.empty

        def run(x: Any, *, dims: Any, keepdim: Any) -> Any:
            """The reduction of an array, as `Primitive.run`."""
            dtype = x.dtype
            try:
                shape, plan = plans[dtype][x.shape, dims, keepdim]
            except (KeyError, TypeError):
                return evaluate(x, dims, keepdim)
            if plan is None:  # nothing to reduce
                return x.reshape(shape).copy()
            if not x.flags.c_contiguous:
                x = np.ascontiguousarray(x)
            return self._little(x, plan, empty(shape, dtype))  # type: ignore[misc]

        return run

    def evaluate(self, x: Any, dims: Any, keepdim: Any) -> Any:
        """The reduction of any array, on a kernel where that is right."""
        dtype = FROM_NUMPY.get(x.dtype)
        if x.dtype in DTYPES:
            return by_parts(self.p, (x,), {"dims": dims, "keepdim": keepdim})
        if dtype is None or dtype not in FLOATS | INTEGERS | BOOL or (dtype not in FLOATS and x.size < LARGE):
            return self._reference(x, dims=dims, keepdim=keepdim)
        self.p.types((TensorType(x.shape, dtype),), {"dims": dims, "keepdim": keepdim})  # raises what bind shows
        if not x.size:
            return self._reference(x, dims=dims, keepdim=keepdim)
        native = self._made.get(dtype) or self._find(dtype)
        if dtype in FLOATS:
            found = native.plan(x.shape, dims, keepdim)
            if found is not None and found[1] is not None:
                return self._little(np.ascontiguousarray(x), found[1], np.empty(found[0], x.dtype))  # type: ignore[misc]
        return native(x, dims, keepdim)

    def _find(self, dtype: Any) -> Any:
        with _lock[0]:
            made = self._made.get(dtype)
            if made is None:
                module = importlib.import_module("..backends.cpu.reductions", __package__)
                made = self._made[dtype] = module.Reduction(self.p, dtype)
                if dtype in FLOATS and module.HAS_ENTRIES:
                    self._little = module.little()
                    self._plans[dtype.numpy] = made.plans
            return made


_lock = [threading.Lock()]


def _after_fork() -> None:
    _lock[0] = threading.Lock()


if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_after_fork)
