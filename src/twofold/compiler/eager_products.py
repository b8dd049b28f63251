"""Eager matrix products on the compiler's own kernels, at every size: see Note [What runs natively] in eager.py.

Products of floating dtypes are natively computed, so that their bits are those of compiled code. New sizes compile
nothing. NumPy does integers, where there is only one result, and complex numbers.
"""

from __future__ import annotations

import importlib
import math
import os
import threading
from collections.abc import Callable
from typing import Any

import numpy as np

from ..ir.dtypes import bfloat16, float16, float32, float64
from ..ir.evaluate import runner
from ..ir.primitive import PRIMITIVES, Primitive
from ..ir.types import broadcast_shapes
from .eager_complex import DTYPES, by_parts

Array = np.ndarray[Any, Any]

_DTYPES = {d.numpy: d for d in (float32, float64, float16, bfloat16)}


def run_natively() -> None:
    """Let eager code use native products; only the first of them loads LLVM."""
    p = PRIMITIVES["matmul"]
    p.run = _Products(p).run


class _Products:
    """How eager code evaluates `matmul`."""

    def __init__(self, p: Primitive):
        self.p = p
        self._reference = runner(p)
        self._loaded: dict[Any, Any] = {}
        self.run = self._runner()

    def _runner(self) -> Callable[[Any, Any], Any]:
        p, reference, loaded, find = self.p, self._reference, self._loaded, self._find

        def run(a: Any, b: Any) -> Any:
            """The product of arrays, as `Primitive.run`."""
            if a.__class__ is not _ndarray or b.__class__ is not _ndarray:
                return reference(a, b)
            dtype = a.dtype
            if b.dtype is not dtype and b.dtype != dtype:
                return reference(a, b)
            known = loaded.get(dtype) or find(dtype)
            if known is None:
                return by_parts(p, (a, b), {}) if dtype in DTYPES else reference(a, b)
            little, most, most_k, into = known
            try:
                m, k = a.shape
                also_k, n = b.shape
            except ValueError:  # not two dimensions
                return _of_many(reference, into, a, b)
            if k != also_k:
                return reference(a, b)  # raises
            if m * k * n <= most and k <= most_k:
                return little(a, b, _empty((m, n), dtype))
            return into(a, b, _empty((m, n), dtype))

        return run

    def _find(self, dtype: Any) -> Any:
        """How products of a dtype are computed, loaded now; None if NumPy does it."""
        if dtype not in _DTYPES:
            return None
        with _lock[0]:
            known = self._loaded.get(dtype)
            if known is None:
                native = importlib.import_module("..backends.cpu.products", __package__)
                made = native.products_of(_DTYPES[dtype])
                known = self._loaded[dtype] = made.little, native.LITTLE, made.most_k, made.into
            return known


def _of_many(reference: Callable[..., Any], into: Callable[..., Any], a: Array, b: Array) -> Any:
    """A product with more than two dimensions."""
    first, second = a.shape, b.shape
    if len(first) < 2 or len(second) < 2 or first[-1] != second[-2]:
        return reference(a, b)  # raises
    *batch, m, k = first
    n = second[-1]
    if len(second) == 2:  # one large product instead of one a batch item
        rows = math.prod(batch) * m
        out = into(a.reshape(rows, k), b, _empty((rows, n), a.dtype))
        return out.reshape(*batch, m, n)
    if first[:-2] == second[:-2]:
        return into(a, b, _empty((*batch, m, n), a.dtype))
    shape = broadcast_shapes(first[:-2], second[:-2], op="matmul")
    return into(a, b, _empty((*shape, m, n), a.dtype))


_ndarray, _empty = np.ndarray, np.empty
_lock = [threading.Lock()]


def _after_fork() -> None:
    _lock[0] = threading.Lock()


if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_after_fork)
