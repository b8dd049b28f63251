"""Where values live: buffers, and strided views of them.

Movement primitives (permute, expand, slice, flip, most reshapes) move nothing: their result is
another view of their input's buffer. Only where a view can't be expressed is a copy made.
"""

from __future__ import annotations

import math
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from ...ir.dtypes import DType
from ...ir.graph import Node, Value
from ...ir.types import Shape, contiguous_strides


@dataclass(eq=False)
class Buffer:
    """A piece of memory that a program works on.

    Attributes:
        kind: "input" (the caller's array), "constant", "temp" (in the arena), "kept" (from call to
            call, see invariant.py) or "output" (the caller's array, written).
        number: slot in the table of base addresses that every kernel gets.
        size: in elements.
    """

    kind: str
    dtype: DType
    size: int
    number: int = -1
    array: np.ndarray[Any, Any] | None = None  # of a constant
    first: int = field(default=-1)  # phase that writes it first, for the memory plan
    last: int = field(default=-1)  # phase that reads it last
    offset: int = field(default=-1)  # in the arena, bytes

    @property
    def nbytes(self) -> int:
        return self.size * self.dtype.itemsize


@dataclass(frozen=True)
class View:
    """Elements of a buffer in a shape. Offset and strides count elements; strides may be 0 or negative."""

    buffer: Buffer
    shape: Shape
    strides: Shape
    offset: int = 0

    @classmethod
    def whole(cls, buffer: Buffer, shape: Shape) -> View:
        return cls(buffer, shape, contiguous_strides(shape))

    @property
    def dtype(self) -> DType:
        return self.buffer.dtype

    @property
    def contiguous(self) -> bool:
        """Row-major without gaps; strides of dimensions of size 1 do not matter."""
        step = 1
        for n, s in zip(reversed(self.shape), reversed(self.strides), strict=True):
            if n != 1 and s != step:
                return False
            step *= n
        return True

    def permuted(self, dims: Shape) -> View:
        return View(
            self.buffer, tuple(self.shape[d] for d in dims), tuple(self.strides[d] for d in dims), self.offset
        )

    def expanded(self, shape: Shape) -> View:
        """Broadcast to `shape` by strides of 0."""
        missing = len(shape) - len(self.shape)
        strides = [0] * missing
        for n, own, s in zip(shape[missing:], self.shape, self.strides, strict=True):
            strides.append(s if own == n else 0)
        return View(self.buffer, shape, tuple(strides), self.offset)

    def sliced(self, start: Shape, step: Shape, shape: Shape) -> View:
        offset = self.offset + sum(a * s for a, s in zip(start, self.strides, strict=True))
        return View(self.buffer, shape, tuple(s * t for s, t in zip(self.strides, step, strict=True)), offset)

    def reshaped(self, shape: Shape) -> View | None:
        """The same elements in another shape, or None if no strides express that."""
        if math.prod(shape) == 0:
            return View(self.buffer, shape, contiguous_strides(shape), self.offset)
        runs = merge(self.shape, [self.strides])[0:2]
        sizes, (strides,) = list(runs[0]), runs[1]
        out: list[int] = []
        k = len(sizes) - 1
        left = sizes[k] if sizes else 1
        step = strides[k] if sizes else 1
        for n in reversed(shape):
            if n == 1:
                out.append(0)
                continue
            if left == 1:
                k -= 1
                if k < 0:
                    return None
                left, step = sizes[k], strides[k]
            if left % n:
                return None
            out.append(step)
            step *= n
            left //= n
        return View(self.buffer, shape, tuple(reversed(out)), self.offset)


def goes_along_rows(shape: Shape, dims: Shape) -> bool:
    """Whether a reduction is one along rows, not one of rows: what it covers is last, but for dimensions of size 1.

    `dims` has no dimensions of size 1, and at least one. This decides in which order numbers are added
    (docs/design/0003), whatever the strides.

    >>> goes_along_rows((2, 3, 1), (1,)), goes_along_rows((2, 3, 4), (1,)), goes_along_rows((2, 3, 4), (0, 2))
    (True, False, False)
    """
    return tuple([d for d in range(len(shape)) if shape[d] != 1][-len(dims) :]) == tuple(dims)


def merge(shape: Shape, strides: list[Shape]) -> tuple[Shape, list[Shape]]:
    """Drop dimensions of size 1 and join neighbours that all the strides can walk as one.

    >>> merge((2, 1, 3, 4), [(12, 7, 4, 1), (0, 0, 4, 1)])
    ((2, 12), [(12, 1), (0, 1)])
    """
    sizes: list[int] = []
    kept: list[list[int]] = [[] for _ in strides]
    for d, n in enumerate(shape):
        if n == 1:
            continue
        if sizes and all(k[-1] == s[d] * n for k, s in zip(kept, strides, strict=True)):
            sizes[-1] *= n
            for k, s in zip(kept, strides, strict=True):
                k[-1] = s[d]
        else:
            sizes.append(n)
            for k, s in zip(kept, strides, strict=True):
                k.append(s[d])
    return tuple(sizes), [tuple(k) for k in kept]


def through_movement(node: Node, view: View) -> View | None:
    """The view that a movement primitive gives of its input's view; None if it must copy."""
    params, name = node.params, node.prim.name
    out: Value = node.outputs[0]
    if name == "reshape":
        return view.reshaped(out.shape)
    if name == "permute":
        return view.permuted(params["dims"])
    if name == "expand":
        return view.expanded(out.shape)
    if name == "slice":
        return view.sliced(params["start"], params["step"], out.shape)
    if name == "flip":
        start = tuple(n - 1 if d in params["dims"] and n else 0 for d, n in enumerate(view.shape))
        step = tuple(-1 if d in params["dims"] else 1 for d in range(len(view.shape)))
        return view.sliced(start, step, out.shape)
    if name == "diagonal":
        a, b = params["dim1"], params["dim2"]
        k = params["offset"]
        rest = [d for d in range(len(view.shape)) if d not in (a, b)]
        start = max(k, 0) * view.strides[b] + max(-k, 0) * view.strides[a]
        strides = (*(view.strides[d] for d in rest), view.strides[a] + view.strides[b])
        return View(view.buffer, out.shape, strides, view.offset + start)
    if name == "as_strided" and view.contiguous:
        return View(view.buffer, out.shape, params["strides"], view.offset + params["offset"])
    return None


MOVEMENT = frozenset(("reshape", "permute", "expand", "slice", "flip", "diagonal", "as_strided"))
