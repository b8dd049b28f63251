"""Tables of pixels: where vectors of a convolution's result read and write, worked out from its geometry alone.

See Note [Tables of pixels] in kernels/patching.py.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from ...ir.types import Shape
from .kernels import patching as kernel
from .kernels.conv import Sweep

Array = np.ndarray[Any, Any]


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


def tables(
    parts: Sequence[Sweep], plane: Plane, y: Plane, image: tuple[int, int], images: int, lanes: int, itemsize: int
) -> tuple[Array, Array]:
    """The rows of a sweep's vectors, without `DIRECT` and `COUNT`, and masks for each vector and tap.

    Args:
        plane, y: of the input and the result.
        image: elements from image to image of both.
        images: through which pixels are counted.
    """
    counts = [s.count for s in parts]
    pixels = math.prod(counts) * images
    vectors = -(-pixels // lanes)
    number = np.arange(vectors * lanes)
    there = (number < pixels).reshape(vectors, lanes)
    which, *index = np.unravel_index(np.minimum(number, pixels - 1), (images, *counts))
    reads, writes = which * image[0], which * image[1]
    inside = _bits(there[None])
    for d, (s, i) in enumerate(zip(parts, index, strict=True)):
        reads = reads + i * (s.stride // plane.factors[d] * plane.steps[d])
        writes = writes + y.place(d, i * s.step + s.start)
        positions = i * s.stride + seen(s)[:, None]
        own = _bits(((positions >= 0) & (positions < plane.size[d])).reshape(-1, vectors, lanes))
        inside = (inside[:, None] & own).reshape(-1, vectors)
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
    both[:n] += count[1::2]
    if not masks:
        first &= both == 2 * lanes
    column["DIRECT"][::2] = np.where(first, both, 0)
    column["COUNT"][::2] = lanes
    column["COUNT"][: 2 * n : 2] = 2 * lanes
    return bool(first.all())


def _bits(lanes: Array, between: int = 1) -> Array:
    """The last dimension as the bits of a number, that far from each other."""
    weights = 1 << between * np.arange(lanes.shape[-1], dtype=np.int64)
    return np.asarray(lanes @ weights, np.int64)
