"""Eager sums by index, gradients of embeddings among them, and reading: see Note [What runs natively] in eager.py.

Additions come in the order of the indices on NumPy, too, with the same bits; kernels are faster at every size.
NumPy does complex numbers, and indices of dimensions that are not neighbours. It also reads what is little.
"""

from __future__ import annotations

import importlib
import math
import threading
from collections.abc import Callable
from typing import Any

import numpy as np

from ..ir import forks
from ..ir.dtypes import FLOATS, FROM_NUMPY, INTEGERS, uint8, uint16, uint32, uint64
from ..ir.evaluate import runner, value_types
from ..ir.primitive import PRIMITIVES, Primitive
from ..ir.types import Shape

Array = np.ndarray[Any, Any]

NAMES = ("scatter_add", "index_put")
READS = ("gather", "index")
_REMEMBERED = 1 << 12  # plans of each primitive
_LARGE = 1 << 12  # elements from which a kernel reads sooner than NumPy


def run_natively() -> None:
    """Let eager code use native sums by index; only the first of them loads LLVM."""
    for name in NAMES:
        p = PRIMITIVES[name]
        p.run = Sums(p).run
    for name in READS:
        p = PRIMITIVES[name]
        p.run = Reads(p).run


class Sums:
    """How eager code evaluates one of the primitives above."""

    def __init__(self, p: Primitive):
        self.p = p
        self._reference = runner(p)
        self._plans: dict[
            Any, Any
        ] = {}  # dtypes, shapes, dimensions -> plan, scatter, entry; None if NumPy does it
        self.after_fork()
        forks.tell(self)
        self.run: Callable[..., Any] = self._scatter_add() if p.name == "scatter_add" else self._index_put()

    def after_fork(self) -> None:
        """Have a new lock: in a child, a thread that is not there any more may hold the old one."""
        _lock[0] = threading.Lock()

    def _scatter_add(self) -> Callable[..., Any]:
        plans, find, reference = self._plans, self._find, self._reference

        def run(x: Any, index: Any, src: Any, *, dim: Any) -> Any:
            """The sums, as `Primitive.run`."""
            try:
                known = plans[x.dtype, x.shape, index.shape, src.shape, dim, src.dtype, index.dtype]
            except (KeyError, TypeError, AttributeError):
                known = find((x, index, src), (x, src, index), {"dim": dim})
            if known is not None:
                if src.shape != index.shape:
                    src = src[tuple([slice(n) for n in index.shape])]
                out = _added(known, x, src, index)
                if out is not None:
                    return out
            return reference(x, index, src, dim=dim)  # may raise

        return run

    def _index_put(self) -> Callable[..., Any]:
        plans, find, reference = self._plans, self._find, self._reference

        def run(x: Any, values: Any, *indices: Any, dims: Any, accumulate: Any = False) -> Any:
            """The array with values written, or added, as `Primitive.run`."""
            if not accumulate:
                return reference(x, values, *indices, dims=dims, accumulate=accumulate)
            index = indices[0] if len(indices) == 1 else _joined(x.shape, indices, dims)
            if index is not None:
                try:
                    known = plans[x.dtype, x.shape, index.shape, values.shape, dims, values.dtype, index.dtype]
                except (KeyError, TypeError, AttributeError):
                    params = {"dims": dims, "accumulate": accumulate}
                    known = find((x, values, *indices), (x, values, index), params)
                if known is not None:
                    region = (*x.shape[: dims[0]], *index.shape, *x.shape[dims[-1] + 1 :])
                    if values.shape != region:
                        values = np.broadcast_to(values, region)
                    out = _added(known, x, values, index)
                    if out is not None:
                        return out
            return reference(x, values, *indices, dims=dims, accumulate=accumulate)  # may raise

        return run

    def _find(self, operands: tuple[Any, ...], arrays: tuple[Any, Any, Any], params: dict[str, Any]) -> Any:
        """The plan for such arrays (what is added to, what is added, the indices), made now, and what runs it."""
        if not all(v.__class__ is np.ndarray for v in operands):
            return None
        x, values, index = arrays
        dtype = FROM_NUMPY.get(x.dtype)
        if dtype not in FLOATS | INTEGERS or any(v.dtype not in FROM_NUMPY for v in operands):
            return None
        self.p.types(value_types(operands), params)  # raises what bind shows
        known = None
        if x.size and index.size and values.size and x.ndim and index.ndim:
            scatter, native = _native(dtype)
            if "dim" in params:
                plan = scatter.elements(x.shape, index.shape, params["dim"])
            else:
                plan = scatter.rows(*_rows_of(x.shape, params["dims"]), index.size)
            if plan is not None:
                known = plan, scatter, native.entry(3) if plan.is_little else None
        if len(self._plans) < _REMEMBERED:
            place = params.get("dim", params.get("dims"))
            self._plans[x.dtype, x.shape, index.shape, values.shape, place, values.dtype, index.dtype] = known
        return known


class Reads:
    """How eager code evaluates one of the primitives that read."""

    def __init__(self, p: Primitive):
        self.p = p
        self._reference = runner(p)
        self._plans: dict[Any, Any] = {}  # size of elements, shapes, dimensions -> plan, gather, entry
        self.run: Callable[..., Any] = self._gather() if p.name == "gather" else self._index()

    def _gather(self) -> Callable[..., Any]:
        reference, read = self._reference, self._read

        def run(x: Any, index: Any, *, dim: Any) -> Any:
            """The elements at the indices, as `Primitive.run`."""
            if index.size >= _LARGE:
                self.p.types(value_types((x, index)), {"dim": dim})  # raises what bind shows
                out = read(x, index, dim, index.shape)
                if out is not None:
                    return out
            return reference(x, index, dim=dim)  # may raise

        return run

    def _index(self) -> Callable[..., Any]:
        reference, read = self._reference, self._read

        def run(x: Any, *indices: Any, dims: Any) -> Any:
            """What stands at the indices, as `Primitive.run`."""
            if x.size < _LARGE or len(indices) > 1:
                return reference(x, *indices, dims=dims)  # may raise
            (index,) = indices
            if index.size * x.size >= _LARGE * x.shape[dims[0]]:
                self.p.types(value_types((x, index)), {"dims": dims})  # raises what bind shows
                out = read(x, index, dims, (*x.shape[: dims[0]], *index.shape, *x.shape[dims[0] + 1 :]))
                if out is not None:
                    return out
            return reference(x, index, dims=dims)  # may raise

        return run

    def _read(self, x: Any, index: Array, place: Any, shape: Shape) -> Array | None:
        """The elements as an array of a shape; None if NumPy does it, or an index is out of range."""
        if x.itemsize > 8 or not x.size or not index.size or not x.flags.c_contiguous:
            return None
        key = x.itemsize, x.shape, index.shape, place
        known = self._plans.get(key)
        if known is None:
            gather, native = _native(x.itemsize)
            if place.__class__ is int:
                plan = gather.elements(x.shape, index.shape, place)
            else:
                plan = gather.rows(*_rows_of(x.shape, place), index.size)
            if plan is None:
                return None
            known = plan, gather, native.entry(3) if plan.is_little else None
            if len(self._plans) < _REMEMBERED:
                self._plans[key] = known
        plan, gather, little = known
        index, out = np.ascontiguousarray(index), np.empty(shape, x.dtype)
        if little is not None:
            return out if little(plan.words, x, out, index) is x else None
        return out if gather.run(plan, x, out, index) else None


def _added(known: Any, x: Array, values: Array, index: Array) -> Array | None:
    """The sums; None if an index is out of range."""
    plan, scatter, little = known
    out = np.zeros(x.shape, x.dtype) if _is_zero(x) else x.copy()
    if not values.flags.c_contiguous:
        values = np.ascontiguousarray(values)
    if not index.flags.c_contiguous:
        index = np.ascontiguousarray(index)
    if little is not None:
        return out if little(plan.words, out, values, index) is out else None
    return out if scatter.run(plan, out, values, index) else None


def _is_zero(x: Array) -> bool:
    """Whether it is a number, and that is 0, repeated."""
    return not any(x.strides) and x.size > 1 and not any(x[(0,) * x.ndim].tobytes())


def _rows_of(shape: Shape, dims: Shape) -> tuple[int, int, int]:
    """The shape with indexed dimensions joined, those before, and those behind."""
    return math.prod(shape[: dims[0]]), math.prod(shape[d] for d in dims), math.prod(shape[dims[-1] + 1 :])


def _joined(shape: Shape, indices: tuple[Array, ...], dims: Shape) -> Array | None:
    """Indices of neighbouring dimensions as one of all of them; None if that can't be, or one is out of range."""
    if tuple(dims) != tuple(range(dims[0], dims[0] + len(indices))) or len(dims) != len(indices):
        return None
    total: Any = 0
    for d, index in zip(dims, indices, strict=True):
        if index.__class__ is not np.ndarray or index.dtype != np.int64 or d >= len(shape) or not index.size:
            return None
        n = shape[d]
        if index.min() < -n or index.max() >= n:
            return None
        total = total * n + np.where(index < 0, index + n, index)
    return np.asarray(total)


_made: dict[Any, Any] = {}
_lock = [threading.Lock()]


def _native(key: Any) -> Any:
    """What adds elements of a dtype or reads elements of a size, and the module that has entries."""
    native = importlib.import_module("..backends.cpu.pools", __package__)
    with _lock[0]:
        made = _made.get(key)
        if made is None:
            module = importlib.import_module("..backends.cpu.scatters", __package__)
            made = _made[key] = module.Gather(_BITS[key]) if isinstance(key, int) else module.Scatter(key)
    return made, native


_BITS = {d.itemsize: d for d in (uint8, uint16, uint32, uint64)}
