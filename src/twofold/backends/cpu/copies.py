"""Row-major copies of arrays, on kernels that take sizes at run time (kernels/turning.py) where NumPy is slow."""

from __future__ import annotations

from typing import Any

import numpy as np

from . import open as _open
from .emit import Module
from .kernels.turning import BITS, emit_turn
from .layout import merge
from .target import host

Array = np.ndarray[Any, Any]

_LARGE = 1 << 14  # elements from which a kernel is worth its call
_loaded: dict[int, tuple[int, _open.Loaded]] = {}  # by bytes of an element: the kernel's address


def row_major(x: Array) -> Array:
    """The array itself if it is row-major, else a copy that is."""
    if x.size < _LARGE or x.flags.c_contiguous or x.itemsize not in BITS:
        return np.ascontiguousarray(x)
    out = np.empty(x.shape, x.dtype)
    size = x.itemsize
    pairs = [[s // size for s in a.strides] for a in (x, out)]
    sizes, (source, target) = merge(x.shape, [tuple(pairs[0]), tuple(pairs[1])])
    lines = next((d for d, s in enumerate(source[:-1]) if s == 1), None)
    if lines is None or len(sizes) > 3 or source[-1] == 0 or any(s % size for s in x.strides):
        np.copyto(out, x)
        return out
    other = next((d for d in range(len(sizes) - 1) if d != lines), None)
    items, x_item, out_item = (1, 0, 0) if other is None else (sizes[other], source[other], target[other])
    bands = -(-sizes[lines] // lanes_of(size))
    words = [out.ctypes.data, x.ctypes.data, items, sizes[lines], sizes[-1], x_item, source[-1], out_item]
    words += [target[lines], bands]
    with _open.take() as call:
        call.words[2 : 2 + len(words)] = words
        call.run((_address(size), items * bands))
    return out


def module_of(itemsize: int) -> Module:
    """The code for elements of a size."""
    module = Module(host())
    emit_turn(module, itemsize, lanes_of(itemsize))
    return module


def lanes_of(itemsize: int) -> int:
    """The side of a square."""
    return host().lanes(max(4, itemsize))


def _address(itemsize: int) -> int:
    known = _loaded.get(itemsize)
    if known is None:  # the first one stays: another thread may have it already
        made = _open.Loaded(module_of(itemsize))
        known = _loaded.setdefault(itemsize, (made.address("turn"), made))
    return known[0]
