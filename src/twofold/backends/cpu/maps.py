"""Element-wise operations on arrays, on kernels that take sizes at run time (kernels/mapping.py)."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import numpy as np

from ...ir.dtypes import DType
from ...ir.graph import Graph
from ...ir.primitive import Primitive
from ...ir.types import Shape, broadcast_shapes
from . import open as _open
from .copies import row_major
from .emit import Module
from .kernels.mapping import MapKernel, chunks_of, flat_entry, has_map, node_of
from .kernels.pairing import PairKernel
from .layout import merge
from .target import Target, host

Array = np.ndarray[Any, Any]

LITTLE = 1 << 14  # elements that an entry computes, under the interpreter's lock
HAS_ENTRIES = _open.HAS_ENTRIES
_MOST_DIMS = 3


class Map:
    """An element-wise primitive on arrays of fixed dtypes.

    Args:
        target: the processor; this one's by default.

    Attributes:
        dtype: of the result.
    """

    def __init__(self, p: Primitive, dtypes: Sequence[DType], params: dict[str, Any], target: Target | None = None):
        self._target = target or host()
        self._node = node_of(p, dtypes, params)
        self.dtype = self._node.outputs[0].dtype.numpy
        self._loaded: dict[tuple[str, bool], tuple[int, _open.Loaded]] = {}
        self._entries: dict[str, Callable[..., Array]] = {}

    @staticmethod
    def exists(p: Primitive, dtypes: Sequence[DType], params: dict[str, Any]) -> bool:
        """Whether there is a kernel; raises what the type rule says of such operands."""
        return has_map(node_of(p, dtypes, params))

    def module(self, pattern: str, flat: bool) -> Module:
        """The code for a pattern, see Note [Patterns] in kernels/mapping.py."""
        module = Module(self._target)
        MapKernel(self._node, pattern, flat, self._target.lanes(4)).emit(module, "map")
        return module

    def entry(self, pattern: str) -> Callable[..., Array]:
        """`f(*operands, result)` of row-major arrays of at most `LITTLE` elements; returns the result."""
        made = self._entries.get(pattern)
        if made is None:
            address = self._address(pattern, True)
            made = self._entries.setdefault(pattern, flat_entries(len(pattern), address))
        return made

    def _address(self, pattern: str, flat: bool) -> int:
        known = self._loaded.get((pattern, flat))
        if known is None:  # the first one stays: another thread may have it already
            made = _open.Loaded(self.module(pattern, flat), self._target)
            known = self._loaded.setdefault((pattern, flat), (made.address("map"), made))
        return known[0]

    def __call__(self, operands: Sequence[Array]) -> Array:
        """The result for operands that broadcast; ShapeError if they don't."""
        shape: Shape = ()
        for x in operands:
            if x.shape != shape and x.shape != ():
                if shape != ():
                    shape = broadcast_shapes(*[x.shape for x in operands], op=self._node.prim.name)
                    break
                shape = x.shape
        out = np.empty(shape, self.dtype)
        if out.size:
            self._into(out, operands)
        return out

    def _into(self, out: Array, operands: Sequence[Array]) -> None:
        pattern = ""
        n = out.size
        for x in operands:
            if x.size == 1 and n != 1:
                pattern += "0"
            elif x.size == n and x.flags.c_contiguous:
                pattern += "1"
            elif n <= LITTLE:
                self._into(out, [_spread(x, out.shape) for x in operands])
                return
            else:
                self._broadcast(out, operands)
                return
        if n <= LITTLE and HAS_ENTRIES:
            self.entry(pattern)(*operands, out)
            return
        with _open.take() as call:
            words = (out.ctypes.data, *[x.ctypes.data for x in operands], n)
            call.words[2 : 2 + len(words)] = words
            call.run((self._address(pattern, True), chunks_of(1, n)))

    def _broadcast(self, out: Array, operands: Sequence[Array]) -> None:
        operands = [_walkable(x, out.shape) for x in operands]
        sizes, strides = _walks(out.shape, operands)
        if len(sizes) > _MOST_DIMS or any(s[-1] not in (0, 1) for s in strides):
            self._into(out, [row_major(np.broadcast_to(x, out.shape)) for x in operands])
            return
        missing = _MOST_DIMS - len(sizes)
        outer, inner, length = (1,) * missing + sizes
        words = [out.ctypes.data, *[x.ctypes.data for x in operands], length, inner, outer * inner]
        for s in strides:
            words += ((0,) * missing + s)[:2]
        pattern = "".join([str(s[-1]) for s in strides])
        with _open.take() as call:
            call.words[2 : 2 + len(words)] = words
            call.run((self._address(pattern, False), chunks_of(outer * inner, length)))


def _spread(x: Array, shape: tuple[int, ...]) -> Array:
    """The array broadcast to a shape and row-major, if it is no number."""
    if x.size == 1:
        return x
    out = np.empty(shape, x.dtype)
    out[...] = x
    return out


def _walkable(x: Array, shape: tuple[int, ...]) -> Array:
    """The array, copied if its elements along the result's last dimension are no neighbours."""
    last = next((i for i in range(1, len(shape) + 1) if shape[-i] != 1), 1)
    if x.ndim >= last and x.shape[-last] != 1 and x.strides[-last] != x.itemsize:
        return row_major(x)
    return x if all(s % x.itemsize == 0 for s in x.strides) else row_major(x)


def _walks(shape: tuple[int, ...], operands: Sequence[Array]) -> Any:
    """The result's dimensions, as few as can be, and the strides of the operands along them, in elements."""
    strides: list[tuple[int, ...]] = []
    for x in operands:
        wide = np.broadcast_to(x, shape)
        strides.append(tuple([s // x.itemsize for s in wide.strides]))
    step, whole = 1, []
    for n in reversed(shape):  # the result's own: rows must be joined where they are
        whole.append(step)
        step *= n
    sizes, merged = merge(shape, [*strides, tuple(reversed(whole))])
    return sizes, merged[:-1]


class PairMap(Map):
    """An element-wise primitive that takes or gives complex numbers, on arrays of fixed dtypes.

    Args:
        parts: what it is on parts, see `PairKernel`.
    """

    def __init__(
        self,
        p: Primitive,
        dtypes: Sequence[DType],
        params: dict[str, Any],
        parts: Graph,
        target: Target | None = None,
    ):
        super().__init__(p, dtypes, params, target)
        self._parts = parts

    def module(self, pattern: str, flat: bool) -> Module:
        """The code for a pattern, see Note [Patterns] in kernels/mapping.py."""
        module = Module(self._target)
        wide = any(v.dtype.itemsize == 8 for node in self._parts.nodes for v in node.outputs)
        lanes = self._target.lanes(8 if wide else 4)
        PairKernel(self._node, self._parts, pattern, flat, lanes).emit(module, "map")
        return module


_entries: dict[int, _open.Loaded] = {}


def flat_entries(operands: int, address: int) -> Callable[..., Array]:
    """The entry for a number of operands, of the flat kernel at an address."""
    loaded = _entries.get(operands)
    if loaded is None:
        module = Module(host())
        flat_entry(module, operands)
        loaded = _entries.setdefault(operands, _open.Loaded(module))
    return loaded.entry(f"flat{operands}", np.array([address], np.uint64))
