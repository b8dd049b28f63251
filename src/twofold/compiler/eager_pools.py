"""Eager pools on the compiler's own kernels, at every size: see Note [What runs natively] in eager.py.

Floating dtypes are natively computed, so that their bits are those of compiled code; new sizes compile nothing.
NumPy does integers, where there is only one result.
"""

from __future__ import annotations

import importlib
import threading
from collections.abc import Callable
from typing import Any

import numpy as np

from ..ir import forks
from ..ir.dtypes import FLOATS, FROM_NUMPY
from ..ir.evaluate import runner
from ..ir.primitive import PRIMITIVES, Primitive
from ..ir.types import TensorType

Array = np.ndarray[Any, Any]

NAMES = ("max_pool", "sum_pool", "sum_pool_grad", "max_pool_grad")
_REMEMBERED = 1 << 12  # plans for each pool


def run_natively() -> None:
    """Let eager code use native pools; only the first of them loads LLVM."""
    for name in NAMES:
        p = PRIMITIVES[name]
        p.run = Pools(p).run


class Pools:
    """How eager code evaluates one of the primitives above."""

    def __init__(self, p: Primitive):
        self.p = p
        self._reference = runner(p)
        # dtype, shape and params -> plan, its pool, its entry; None where NumPy does it
        self._plans: dict[Any, Any] = {}
        self._pools: dict[Any, Any] = {}
        self.after_fork()
        forks.tell(self)
        self.run: Callable[..., Any] = {
            "max_pool": self._largest, "sum_pool": self._sum, "sum_pool_grad": self._sum_grad,
            "max_pool_grad": self._largest_grad,
        }[p.name]()  # fmt: skip

    def after_fork(self) -> None:
        """Have a new lock: in a child, a thread that is not there any more may hold the old one."""
        self._lock = threading.Lock()

    def _largest(self) -> Callable[..., Any]:
        plans, find, reference = self._plans, self._find, self._reference

        def run(x: Any, *, kernel: Any, stride: Any, padding: Any, dilation: Any) -> Any:
            """The largest elements and where they are, as `Primitive.run`."""
            try:
                known = plans[x.dtype, x.shape, kernel, stride, padding, dilation]
            except (KeyError, TypeError):
                known = find((x,), kernel=kernel, stride=stride, padding=padding, dilation=dilation)
            if known is None:
                return reference(x, kernel=kernel, stride=stride, padding=padding, dilation=dilation)
            plan, pool, little = known
            if not x.flags.c_contiguous:
                x = _row_major(x)
            out, where = _empty(plan.shape, x.dtype), _empty(plan.shape, _INT64)
            if little is not None:
                little(plan.words, out, x, where)
            else:
                pool.run(plan, (out, x, where))
            return out, where

        return run

    def _sum(self) -> Callable[..., Any]:
        plans, find, reference = self._plans, self._find, self._reference

        def run(x: Any, *, kernel: Any, stride: Any, padding: Any, dilation: Any) -> Any:
            """The sums, as `Primitive.run`."""
            try:
                known = plans[x.dtype, x.shape, kernel, stride, padding, dilation]
            except (KeyError, TypeError):
                known = find((x,), kernel=kernel, stride=stride, padding=padding, dilation=dilation)
            if known is None:
                return reference(x, kernel=kernel, stride=stride, padding=padding, dilation=dilation)
            return _one(x, *known)

        return run

    def _sum_grad(self) -> Callable[..., Any]:
        plans, find, reference = self._plans, self._find, self._reference

        def run(g: Any, *, input_size: Any, kernel: Any, stride: Any, padding: Any, dilation: Any) -> Any:
            """The gradient, as `Primitive.run`."""
            try:
                known = plans[g.dtype, g.shape, kernel, stride, padding, dilation, input_size]
            except (KeyError, TypeError):
                params = {"kernel": kernel, "stride": stride, "padding": padding, "dilation": dilation}
                known = find((g,), **params, input_size=input_size)
            if known is None:
                params = {"kernel": kernel, "stride": stride, "padding": padding, "dilation": dilation}
                return reference(g, input_size=input_size, **params)
            return _one(g, *known)

        return run

    def _largest_grad(self) -> Callable[..., Any]:
        plans, find, reference = self._plans, self._find, self._reference

        def run(g: Any, indices: Any, *, input_size: Any) -> Any:
            """The gradient, as `Primitive.run`."""
            try:
                known = plans[g.dtype, g.shape, input_size]
            except (KeyError, TypeError):
                known = find((g, indices), input_size=input_size)
            if known is None or indices.dtype != _INT64 or indices.shape != g.shape:
                return reference(g, indices, input_size=input_size)  # may raise
            plan, pool, little = known
            if not g.flags.c_contiguous:
                g = _row_major(g)
            if not indices.flags.c_contiguous:
                indices = _row_major(indices)
            out = _empty(plan.shape, g.dtype)
            if little is not None:
                fine = little(plan.words, out, g, indices) is out
            else:
                fine = pool.run(plan, (out, g, indices))
            return out if fine else reference(g, indices, input_size=input_size)  # raises

        return run

    def _find(self, values: tuple[Any, ...], **params: Any) -> Any:
        """The plan for such arrays, made now, what runs it, and the entry for it if it is little."""
        if not all(v.__class__ is np.ndarray for v in values):
            return None
        x = values[0]
        types = [TensorType(v.shape, FROM_NUMPY[v.dtype]) for v in values if v.dtype in FROM_NUMPY]
        if len(types) < len(values) or types[0].dtype not in FLOATS:
            return None
        made = self.p.types(types, params)  # raises what bind shows
        out = made[0] if isinstance(made, (tuple, list)) else made
        size = params.get("input_size")
        shape, sizes = (x.shape, out.shape[2:]) if size is None else (out.shape, x.shape[2:])
        native = importlib.import_module("..backends.cpu.pools", __package__)
        with self._lock:
            pool = self._pools.get(x.dtype)
            if pool is None:
                pool = self._pools[x.dtype] = native.Pool(self.p.name, types[0].dtype)
        plan = pool.plan(shape, sizes, params)
        known = None
        if plan is not None:
            count = 3 if self.p.name.startswith("max") else 2
            known = plan, pool, native.entry(count) if plan.is_little else None
        try:
            if len(self._plans) < _REMEMBERED:
                self._plans[(x.dtype, x.shape, *params.values())] = known
        except TypeError:  # a param that can't be hashed
            pass
        return known


def _one(x: Array, plan: Any, pool: Any, little: Any) -> Array:
    """A pool with one result."""
    if not x.flags.c_contiguous:
        x = _row_major(x)
    out = _empty(plan.shape, x.dtype)
    if little is not None:
        little(plan.words, out, x)
    else:
        pool.run(plan, (out, x))
    return out


_row_major, _empty, _INT64 = np.ascontiguousarray, np.empty, np.dtype(np.int64)
