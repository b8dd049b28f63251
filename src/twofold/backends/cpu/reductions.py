"""Reductions of arrays, on kernels that take sizes at run time (kernels/reducing.py)."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np

from ...ir.dtypes import DType
from ...ir.primitive import Primitive
from ...ir.types import Shape
from . import open as _open
from .copies import row_major
from .emit import Module
from .kernels.columns import _LONG, _MOST_BLOCKS
from .kernels.reducing import BLOCK, COLUMNS, PARTIALS, VECTORS, ReduceKernels, reduce_entry
from .layout import goes_along_rows, merge
from .target import Target, host

Array = np.ndarray[Any, Any]

HAS_ENTRIES = _open.HAS_ENTRIES
LITTLE = 1 << 14  # elements that an entry reduces, under the interpreter's lock
_CHUNK = 1 << 13  # elements of a chunk, about
_REMEMBERED = 1 << 12  # plans of each reduction


@dataclass(frozen=True)
class Rows:
    """Reduced along rows of neighbours, `stride` elements apart."""

    rows: int
    length: int
    stride: int


@dataclass(frozen=True)
class Columns:
    """Rows are added: results are outers x columns; reduced are `first` x `rest`. Strides count elements.

    One of the strides of what is reduced is 1 if that of the columns isn't.
    """

    outers: int
    first: int
    rest: int
    columns: int
    outer_stride: int
    first_stride: int
    rest_stride: int
    column_stride: int = 1

    @property
    def block(self) -> int:
        """Of the first dimension; see Note [Shape of a column reduction] in kernels/columns.py."""
        return -(-self.first // _MOST_BLOCKS) if self.first * self.rest >= _LONG else self.first

    @property
    def blocks(self) -> int:
        """How many there are."""
        return -(-self.first // self.block)

    @property
    def size(self) -> int:
        """Elements of the result."""
        return self.outers * self.columns


def walk_of(shape: Shape, strides: Shape, dims: Shape) -> Rows | Columns | None:
    """How a reduction that has something to reduce goes along memory; None if it can't."""
    real = tuple([d for d in dims if shape[d] != 1])
    kept = [d for d in range(len(shape)) if d not in real and shape[d] != 1]

    def part(which: Any) -> tuple[Shape, Shape]:
        sizes, (steps,) = merge(tuple([shape[d] for d in which]), [tuple([strides[d] for d in which])])
        return sizes, steps

    outer, outer_steps = part(kept)
    if goes_along_rows(shape, real):
        inner, steps = part(real)
        if len(outer) > 1 or steps != (1,):
            return None
        return Rows(outer[0] if outer else 1, inner[0], outer_steps[0] if outer else 0)
    rest, rest_steps = part(real[1:])
    first = real[0]
    last = rest_steps[-1] if rest else strides[first]
    if 1 not in (outer_steps[-1], last) or len(outer) > 2 or len(rest) > 1:
        return None
    return Columns(
        outer[0] if len(outer) > 1 else 1,
        shape[first],
        rest[0] if rest else 1,
        outer[-1],
        outer_steps[0] if len(outer) > 1 else 0,
        strides[first],
        rest_steps[0] if rest else 0,
        outer_steps[-1],
    )


class Reduction:
    """One reduction of one dtype: sum, prod, amax or amin, of what is not empty.

    Args:
        target: the processor; this one's by default.
    """

    def __init__(self, p: Primitive, dtype: DType, target: Target | None = None):
        target = target or host()
        self.kernels = ReduceKernels(p, dtype, target.lanes(4))
        module = Module(target)
        self.kernels.emit_all(module)
        self._code = _open.Loaded(module, target)
        self._at = {name: self._code.address(name) for name in ("rows", "parts", "join", "columns", "crossed")}
        wide = {"to_blocks": "columns", "from_blocks": "columns", "crossed_to_blocks": "crossed"}
        same = self.kernels.held is dtype
        self._at |= {name: self._code.address(other if same else name) for name, other in wide.items()}
        self.plans: dict[Any, Any] = {}  # shape, dims, keepdim -> for `little`

    def __call__(self, x: Array, dims: Shape, keepdim: bool) -> Array:
        """The result for any array."""
        shape = reduced_shape(x.shape, dims, keepdim)
        if all(x.shape[d] == 1 for d in dims):
            return x.reshape(shape).copy()
        out = np.empty(shape, x.dtype)
        if not out.size:
            return out
        strides = tuple([s // x.itemsize for s in x.strides])
        walk = walk_of(x.shape, strides, dims) if all(s % x.itemsize == 0 for s in x.strides) else None
        if walk is None:
            x, dims = _turned(x, dims)
            walk = walk_of(x.shape, tuple([s // x.itemsize for s in x.strides]), dims)
            assert walk is not None
        with _open.take() as call:
            addresses = {"x": x.ctypes.data, "out": out.ctypes.data}
            for code, table, chunks in self._phases(walk, call.memory):
                call.words[2 : 2 + len(table)] = [addresses.get(word, word) for word in table]
                call.run((code, chunks))
        return out

    def _phases(self, walk: Rows | Columns, memory: Callable[[int], int]) -> list[Any]:
        """Kernels in order: address, table with names for the arrays' addresses, number of chunks."""
        return self._of_rows(walk, memory) if isinstance(walk, Rows) else self._of_columns(walk, memory)

    def _of_rows(self, walk: Rows, memory: Callable[[int], int]) -> list[Any]:
        rows, length, stride = walk.rows, walk.length, walk.stride
        blocks = -(-length // BLOCK)
        if blocks < 4 or rows >= 8:
            per_chunk = max(1, _CHUNK // length)
            return [(self._at["rows"], ["out", "x", length, stride, rows, per_chunk], -(-rows // per_chunk))]
        items = rows * blocks
        parts = memory(items * PARTIALS * self.kernels.held.itemsize)
        first = (self._at["parts"], [parts, "x", length, stride, items, blocks, 1], items)
        return [first, (self._at["join"], ["out", parts, rows, blocks], rows)]

    def _of_columns(self, walk: Columns, memory: Callable[[int], int]) -> list[Any]:
        if walk.blocks == 1:
            return [self._columns("columns", "out", "x", walk, 1)]
        parts = memory(walk.blocks * walk.size * self.kernels.held.itemsize)
        joined = Columns(1, walk.blocks, 1, walk.size, 0, walk.size, 0)
        return [
            self._columns("to_blocks", parts, "x", walk, walk.blocks),
            self._columns("from_blocks", "out", parts, joined, 1),
        ]

    def _columns(self, name: str, out: Any, x: Any, walk: Columns, blocks: int) -> Any:
        tile = VECTORS * self.kernels.lanes
        if walk.column_stride != 1:
            name, tile = {"columns": "crossed", "to_blocks": "crossed_to_blocks"}[name], self.kernels.square
        panels = -(-walk.columns // tile)
        items = walk.outers * panels * blocks
        per_chunk = max(1, _CHUNK // (min(tile, walk.columns) * -(-walk.first // blocks) * walk.rest))
        table = [
            out, x, walk.columns, panels, walk.outers, items, walk.first, walk.rest, -(-walk.first // blocks),
            walk.outer_stride, walk.first_stride, walk.rest_stride, per_chunk, walk.column_stride,
            int(walk.rest == 1),
        ]  # fmt: skip
        assert len(table) == len(COLUMNS)
        return self._at[name], table, -(-items // per_chunk)

    def plan(self, shape: Shape, dims: Shape, keepdim: bool) -> tuple[Shape, Array | None] | None:
        """The result's shape, and what `little` takes, for row-major arrays of a shape with few elements.

        What `little` takes is None if there is nothing to reduce, and the result a copy.
        """
        size = math.prod(shape)
        if not HAS_ENTRIES or not 0 < size <= LITTLE:
            return None
        found = reduced_shape(shape, dims, keepdim), self._plan(shape, dims)
        if found[1] is None and any(shape[d] != 1 for d in dims):
            return None
        if len(self.plans) < _REMEMBERED:
            self.plans[shape, dims, keepdim] = found
        return found

    def _plan(self, shape: Shape, dims: Shape) -> Array | None:
        strides = tuple([math.prod(shape[d + 1 :]) for d in range(len(shape))])
        walk = walk_of(shape, strides, dims) if any(shape[d] != 1 for d in dims) else None
        if walk is None:
            return None
        phases = self._phases(walk, _memory)
        start = 3 + 3 * len(phases)
        words = np.zeros(start + sum(2 + len(table) for _, table, _ in phases), np.int64)
        words[2], base = len(phases), words.ctypes.data
        for i, (code, table, chunks) in enumerate(phases):
            words[3 + 3 * i : 6 + 3 * i] = code, base + 8 * start, chunks
            for k, word in enumerate(table):
                if isinstance(word, str):
                    words[("x", "out").index(word)] = base + 8 * (start + 2 + k)
                else:
                    words[start + 2 + k] = word
            start += 2 + len(table)
        return words


def reduced_shape(shape: Shape, dims: Shape, keepdim: bool) -> Shape:
    """The shape of a reduction's result."""
    if keepdim:
        return tuple([1 if d in dims else n for d, n in enumerate(shape)])
    return tuple([n for d, n in enumerate(shape) if d not in dims])


def _turned(x: Array, dims: Shape) -> tuple[Array, Shape]:
    """The array copied, so that its reduction can go along memory: the kind stays that of the shape."""
    real = [d for d in dims if x.shape[d] != 1]
    kept = [d for d in range(x.ndim) if d not in real]
    if goes_along_rows(x.shape, tuple(real)):
        return row_major(x), dims
    return row_major(x.transpose(*real, *kept)), tuple(range(len(real)))


_little_memory: list[Any] = []
_entry: list[Any] = []


def _memory(nbytes: int) -> int:
    """Memory for the partial sums of an entry: one piece for all, as one runs at a time."""
    if not _little_memory:
        _little_memory.append(np.empty(LITTLE * 8 * 2, np.uint8))
    assert nbytes <= _little_memory[0].nbytes
    return int(_little_memory[0].ctypes.data)


def little() -> Callable[[Array, Array, Array], Array]:
    """`f(x, plan, result)`, for all reductions; returns the result."""
    if not _entry:
        module = Module(host())
        name = reduce_entry(module)
        loaded = _open.Loaded(module)
        _entry[:] = [(loaded.entry(name), loaded)]
    run: Callable[[Array, Array, Array], Array] = _entry[0][0]
    return run
