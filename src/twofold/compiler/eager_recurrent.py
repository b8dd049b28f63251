"""Eager recurrent layers on the compiler's own kernels, at every size: see Note [What runs natively] in eager.py.

A new length, number of rows or hidden size compiles nothing.
"""

from __future__ import annotations

import importlib
import os
import threading
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np

from ..ir.dtypes import FLOATS
from ..ir.evaluate import runner, value_types
from ..ir.primitive import PRIMITIVES, Primitive

Array = np.ndarray[Any, Any]

NAMES = ("rnn", "rnn_grad", "lstm", "lstm_grad", "gru", "gru_grad")
_REMEMBERED = 1 << 12  # plans of each primitive


def run_natively() -> None:
    """Let eager code use native recurrent layers; only the first of them loads LLVM."""
    for name in NAMES:
        p = PRIMITIVES[name]
        p.run = Recurrences(p).run


class Recurrences:
    """How eager code evaluates one primitive."""

    def __init__(self, p: Primitive):
        self.p = p
        self._reference = runner(p)
        self._made: dict[Any, Any] = {}  # dtype, nonlinearity -> a Recurrent
        self._plans: dict[Any, Any] = {}  # of the first operand, and params -> plan
        self._entry: Callable[..., Any] | None = None
        self.run = self._runner()

    def _runner(self) -> Callable[..., Any]:
        plans, evaluate, empty, is_one = self._plans, self.evaluate, np.empty, not self.p.multiple

        def run(*values: Any, reverse: Any, nonlinearity: Any = None) -> Any:
            """Results for arrays, as `Primitive.run`."""
            try:
                x = values[0]
                dtype = x.dtype
                native, plan, told, table, shapes = plans[x.shape, dtype, reverse, nonlinearity]
            except (KeyError, TypeError, AttributeError):
                return evaluate(values, reverse, nonlinearity)
            out = [empty(shape, dtype) for shape in shapes]
            if told is None:
                done = native.run(plan, [*values, *out])
            else:
                done = self._entry(told, table, *values, *out) is told  # type: ignore[misc]
            if not done and not native.run(plan, [*_with_neighbours(values, dtype), *out]):
                return evaluate(values, reverse, nonlinearity)
            return out[0] if is_one else tuple(out)

        return run

    def evaluate(self, values: tuple[Any, ...], reverse: Any, nonlinearity: Any) -> Any:
        """Results for any values."""
        params = {"reverse": reverse} | ({} if nonlinearity is None else {"nonlinearity": nonlinearity})
        types = value_types(values)
        self.p.types(types, params)  # raises what bind shows
        dtype = types[0].dtype
        if dtype not in FLOATS or any(0 in t.shape for t in types):
            return self._reference(*values, **params)
        native = self._made.get((dtype, nonlinearity)) or self._find(dtype, params)
        plan = native.plan([t.shape for t in types], reverse)
        if self._entry is not None and len(self._plans) < _REMEMBERED:
            key = types[0].shape, dtype.numpy, reverse, nonlinearity
            self._plans[key] = native, plan, plan.told if plan.little else None, plan.table, plan.shapes
        operands = _with_neighbours(values, dtype.numpy)
        out = [np.empty(shape, dtype.numpy) for shape in plan.shapes]
        if not native.run(plan, [*operands, *out]):
            raise AssertionError(f"{self.p.name}: {[(x.shape, x.strides, x.dtype) for x in operands]}")
        return tuple(out) if self.p.multiple else out[0]

    def _find(self, dtype: Any, params: dict[str, Any]) -> Any:
        with _lock[0]:
            key = dtype, params.get("nonlinearity")
            made = self._made.get(key)
            if made is None:
                module = importlib.import_module("..backends.cpu.recurrences", __package__)
                made = self._made[key] = module.Recurrent(self.p, dtype, params)
                if module.HAS_ENTRIES:
                    self._entry = module.entry()
            return made


def _with_neighbours(values: Sequence[Any], dtype: Any) -> list[Any]:
    """Arrays of this dtype as they are taken: its very object, and neighbours along the last dimension."""
    return [_neighbours(x, dtype) if x.__class__ is np.ndarray and x.dtype == dtype else x for x in values]


def _neighbours(x: Array, dtype: Any) -> Array:
    if x.dtype is dtype and x.ndim and x.strides[-1] == dtype.itemsize:
        return x
    return np.array(x, dtype, order="C")


_lock = [threading.Lock()]


def _after_fork() -> None:
    _lock[0] = threading.Lock()


if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_after_fork)
