"""Tables of pixels: where vectors of a convolution's result read and write, worked out from its geometry alone.

See Note [Tables of pixels] in kernels/patching.py.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple

import numpy as np

from ...ir.types import Shape
from .kernels import patching as kernel
from .kernels.conv import Sweep

Array = np.ndarray[Any, Any]

_BLOCK = 1 << 10  # pixels of a block, at least


@dataclass(frozen=True)
class Plane:
    """How the elements of a channel lie in memory; it may be split into planes of those that are `factors` apart.

    Attributes:
        size: of the channel.
        steps: elements from position to position of the same plane, along each dimension.
        phases: elements from plane to plane.
    """

    size: Shape
    factors: Shape
    steps: Shape
    phases: Shape

    @staticmethod
    def of(size: Shape, factors: Shape | None = None) -> Plane:
        """Row-major ones."""
        factors = factors or (1,) * len(size)
        parts = [-(-n // f) for n, f in zip(size, factors, strict=True)]
        one = math.prod(parts)
        return Plane(size, factors, tuple(strides(parts)), tuple([one * s for s in strides(factors)]))

    @property
    def elements(self) -> int:
        """That there is room for."""
        return math.prod(self.factors) * math.prod(-(-n // f) for n, f in zip(self.size, self.factors, strict=True))

    def place(self, d: int, position: Array) -> Array:
        """Where positions along a dimension lie, counted from 0, also outside."""
        f = self.factors[d]
        return position // f * self.steps[d] + position % f * self.phases[d]

    def lines(self) -> Array:
        """Where each line along the last dimension begins."""
        out = np.zeros(1, np.int64)
        for d, n in enumerate(self.size[:-1]):
            out = (out[:, None] + self.place(d, np.arange(n, dtype=np.int64))).ravel()
        return out


def strides(shape: Sequence[int]) -> list[int]:
    """Of a row-major array, in elements."""
    return [math.prod(shape[d + 1 :]) for d in range(len(shape))]


def seen(part: Sweep) -> Array:
    """The positions that the first pixel of a sweep sees under its taps."""
    return part.first + part.gap * np.arange(len(part.taps), dtype=np.int64)


def shifts(parts: Sequence[Sweep], plane: Plane) -> Array:
    """Where the first pixel of a sweep reads under each tap, in elements."""
    out = np.zeros(1, np.int64)
    for d, part in enumerate(parts):
        out = (out[:, None] + plane.place(d, seen(part))).ravel()
    return out


def tap_numbers(parts: Sequence[Sweep], kernel_size: Shape) -> Array:
    """The taps of a sweep, in its order, counted through the kernel."""
    out = np.zeros(1, np.int64)
    for part, n in zip(parts, kernel_size, strict=True):
        out = (out[:, None] * n + np.array(part.taps, np.int64)).ravel()
    return out


class Tables(NamedTuple):
    """The tables of a sweep: see Note [Tables of pixels].

    Attributes:
        vectors: their number.
        period: vectors of a block.
        blocks: for each, the number of the first row of the one in the tables that it is like.
        rows, masks: of all vectors of some blocks; `DIRECT` and `COUNT` are not written.
        steps: elements from block to block of the input and the result.
    """

    vectors: int
    period: int
    blocks: Array
    rows: Array
    masks: Array
    steps: tuple[int, int]


def tables(
    parts: Sequence[Sweep], plane: Plane, y: Plane, image: tuple[int, int], images: int, lanes: int, itemsize: int
) -> Tables:
    """The tables of a sweep.

    Args:
        plane, y: of the input and the result.
        image: elements from image to image of both.
        images: through which pixels are counted.
    """
    geometry = _Geometry(parts, plane, y, image, images)
    pixels = math.prod(geometry.counts)
    vectors = -(-pixels // lanes)
    count = geometry.block(lanes)
    period = -(-count * geometry.unit // (lanes * kernel.VECTORS)) * kernel.VECTORS
    first, blocks = geometry.alike(count, pixels % lanes > 0)
    places = [geometry.table(number * count, period * lanes, lanes, itemsize) for number in first]
    rows, masks = (np.concatenate(tables) for tables in zip(*places, strict=True))
    return Tables(vectors, period, blocks * period, rows, masks, geometry.steps(count))


class _Geometry:
    """A sweep's pixels, through images if there are several: the outermost dimension is cut into blocks."""

    def __init__(self, parts: Sequence[Sweep], plane: Plane, y: Plane, image: tuple[int, int], images: int):
        self.parts, self.plane, self.y, self.image = parts, plane, y, image
        self.counts = [images, *(s.count for s in parts)]
        self.outer = 0 if images > 1 else 1
        self.unit = math.prod(self.counts[self.outer + 1 :])  # pixels of one position of the outermost dimension

    def block(self, lanes: int) -> int:
        """Positions of a block, which are all if they are not many, or fill `VECTORS` vectors, or as many again."""
        outer, whole = self.counts[self.outer], lanes * kernel.VECTORS
        count = whole // math.gcd(self.unit, whole)
        count *= -(-_BLOCK // (count * self.unit))
        return count if 2 * count < outer else outer

    def steps(self, count: int) -> tuple[int, int]:
        """Elements that so many positions are apart, of the input and the result."""
        if self.outer == 0:
            return count * self.image[0], count * self.image[1]
        s = self.parts[0]
        ends = self.y.place(0, np.array([s.start, s.start + count * s.step]))
        return count * (s.stride // self.plane.factors[0] * self.plane.steps[0]), int(ends[1] - ends[0])

    def alike(self, count: int, is_cut: bool) -> tuple[list[int], Array]:
        """Numbers of blocks that differ, and which of these each block is like.

        Args:
            is_cut: whether the last vector has fewer pixels.
        """
        outer = self.counts[self.outer]
        number = -(-outer // count)
        known: dict[Any, int] = {}
        first: list[int] = []
        blocks = np.zeros(number, np.int64)
        for b in range(number):
            begin, end = b * count, min(outer, (b + 1) * count)
            key = self._inside(begin, end), end - begin < count or (is_cut and b == number - 1)
            if key not in known:
                known[key] = len(first)
                first.append(b)
            blocks[b] = known[key]
        return first, blocks

    def _inside(self, begin: int, end: int) -> bytes:
        """Which taps positions see inside of the input; nothing if they all do."""
        if not self.outer:
            return b""
        s, size = self.parts[0], self.plane.size[0]
        taps = seen(s)
        if begin * s.stride + taps[0] >= 0 and (end - 1) * s.stride + taps[-1] < size:
            return b""
        positions = np.arange(begin, end)[:, None] * s.stride + taps
        return ((positions >= 0) & (positions < size)).tobytes()

    def table(self, begin: int, many: int, lanes: int, itemsize: int) -> tuple[Array, Array]:
        """Rows and masks of a block that begins at a position, with as many pixels."""
        parts, plane, y, vectors = self.parts, self.plane, self.y, many // lanes
        pixels = math.prod(self.counts)
        number = begin * self.unit + np.arange(many)
        there = (number < pixels).reshape(vectors, lanes)
        which, *index = np.unravel_index(np.minimum(number, pixels - 1), self.counts)
        reads, writes = which * self.image[0], which * self.image[1]
        inside = _bits(there[None])
        for d, (s, i) in enumerate(zip(parts, index, strict=True)):
            reads = reads + i * (s.stride // plane.factors[d] * plane.steps[d])
            writes = writes + y.place(d, i * s.step + s.start)
            positions = i * s.stride + seen(s)[:, None]
            own = _bits(((positions >= 0) & (positions < plane.size[d])).reshape(-1, vectors, lanes))
            inside = (inside[:, None] & own).reshape(-1, vectors)
        reads, writes = (a - step for a, step in zip((reads, writes), self.steps(begin), strict=True))
        table = np.zeros((vectors, kernel.ROW // 8), np.int64)
        table[:, kernel.THERE // 8] = _bits(there)
        apart = 2 if parts[-1].stride == 2 * plane.factors[-1] else 1
        shift = _describe(table, kernel.READING, reads.reshape(vectors, lanes), apart, there, itemsize)
        table[:, kernel.LEAST // 8] = shift.min(axis=1) * itemsize
        table[:, kernel.MOST // 8] = shift.max(axis=1) * itemsize
        apart = 2 if parts[-1].step == 2 * y.factors[-1] else 1
        _describe(table, kernel.WRITING, writes.reshape(vectors, lanes), apart, there, itemsize)
        return table, np.ascontiguousarray(inside.T, np.uint16)


def _describe(
    table: Array, fields: tuple[int, int, int, int], positions: Array, apart: int, there: Array, itemsize: int
) -> Array:
    """Write where vectors read or write; returns how far each element is from where neighbours would be."""
    base, kind, segments, at = [field // 8 for field in fields]
    vectors, lanes = positions.shape
    places = positions - positions[:, :1]
    table[:, base] = positions[:, 0] * itemsize
    table.view(np.int32)[:, 2 * at : 2 * at + lanes] = places
    shift = places - apart * np.arange(lanes)
    part = np.zeros((vectors, lanes), np.int64)
    np.cumsum((shift[:, 1:] != shift[:, :-1]) & there[:, 1:], axis=1, out=part[:, 1:])
    many = part.max(axis=1) + 1
    table[:, kind] = np.where(many <= kernel.SEGMENTS, many, 0)
    between = apart if fields is kernel.WRITING else 1  # a mask is one of what is stored
    for i in range(min(kernel.SEGMENTS, many.max())):
        own = (part == i) & there
        begin = shift[np.arange(vectors), own.argmax(axis=1)]
        table[:, segments + 2 * i] = np.where(own.any(axis=1), begin, 0) * itemsize
        table[:, segments + 2 * i + 1] = _bits(own, between)
    return np.asarray(np.where(there, shift, 0))


def mark_direct(table: Array, apart: bool, lanes: int, itemsize: int, masks: bool) -> bool:
    """Write which panels of two vectors are neighbours in the result; returns whether all are.

    Args:
        apart: whether no pixels are.
        masks: whether a part of a panel can be stored.
    """
    column = {name: table[:, getattr(kernel, name) // 8] for name in ("WRITES", "OUT", "DIRECT", "COUNT", "THERE")}
    count = np.bitwise_count(column["THERE"]).astype(np.int64)
    one = (column["WRITES"] == 1) & (not apart)
    first, both, n = one[::2].copy(), count[::2].copy(), len(table) // 2
    first[:n] &= one[1::2] & (column["OUT"][1::2] == column["OUT"][: 2 * n : 2] + lanes * itemsize)
    first[:n] |= one[: 2 * n : 2] & (count[1::2] == 0)
    both[:n] += count[1::2]
    if not masks:
        first &= both == 2 * lanes
    column["DIRECT"][::2] = np.where(first, both, 0)
    column["COUNT"][::2] = lanes
    column["COUNT"][: 2 * n : 2] = np.where(count[1::2] > 0, 2 * lanes, lanes)
    return bool(first.all())


def _bits(lanes: Array, between: int = 1) -> Array:
    """The last dimension as the bits of a number, that far from each other."""
    weights = 1 << between * np.arange(lanes.shape[-1], dtype=np.int64)
    return np.asarray(lanes @ weights, np.int64)
