"""Patches: gradients of slices, put together before zeros are made around them.

The gradient of a slice is zero outside of it. A tensor that is taken apart, `for t in range(n): x[:, t]` or
`q, k, v = x.chunk(3)`, gets a gradient from each part: filling each up with zeros and adding them takes
time that grows with the square of their number. So parts wait as patches until the gradient of the whole is
needed, and neighbours are joined. Each element gets what it would have got, in the same order; only the sums
with zeros are left out.
"""

from __future__ import annotations

from typing import Any

from ..ir.primitive import PRIMITIVES
from ..ir.types import Shape, TensorType
from .handle import Tensor

Piece = tuple[Tensor, Shape]  # a gradient, and where it begins in the whole


class Patch:
    """The gradient of a tensor: pieces of it in their places, and the rest of what was sent.

    Args:
        g: the gradient of a part.
        start: where the part begins.
        type: the tensor's.
    """

    __slots__ = ("pieces", "rest", "type")

    def __init__(self, g: Tensor, start: Shape, type: TensorType):
        self.pieces: list[Piece] = [(g, start)]
        self.rest: Tensor | None = None
        self.type = type

    @property
    def shape(self) -> Shape:
        return self.type.shape

    @property
    def _value(self) -> Any:
        """What is known of the values."""
        return self.pieces[0][0]._value

    def whole(self) -> Tensor:
        """The gradient as one tensor."""
        pieces = self.pieces
        for dim in range(len(self.shape) - 1, -1, -1):
            if len(pieces) > 1:
                pieces = [joined for line in _lines(pieces, dim) for joined in self._join(line, dim)]
        out = self.rest
        for g, start in pieces:
            padded = self._pad(g, start)
            out = padded if out is None else out + padded
        assert out is not None
        return out

    def _pad(self, g: Tensor, start: Shape) -> Tensor:
        if g.shape == self.shape:
            return g
        high = tuple([n - a - m for n, a, m in zip(self.shape, start, g.shape, strict=True)])
        return PRIMITIVES["pad"](g, low=start, high=high, value=0)

    def _join(self, line: list[Piece], dim: int) -> list[Piece]:
        """Pieces that lie in one line along `dim`, as few: those that overlap stay apart."""
        rows: list[list[Piece]] = []
        for piece in sorted(line, key=lambda piece: piece[1][dim]):
            for row in rows:
                last, start = row[-1]
                if start[dim] + last.shape[dim] <= piece[1][dim]:
                    row.append(piece)
                    break
            else:
                rows.append([piece])
        return [self._concat(row, dim) for row in rows]

    def _concat(self, row: list[Piece], dim: int) -> Piece:
        """Pieces one after the other, with zeros between them where they do not touch."""
        if len(row) == 1:
            return row[0]
        parts: list[Tensor] = []
        end = row[0][1][dim]
        for g, start in row:
            if gap := start[dim] - end:
                shape = (*g.shape[:dim], gap, *g.shape[dim + 1 :])
                parts.append(PRIMITIVES["full"](shape=shape, value=0, dtype=g.dtype))
            parts.append(g)
            end = start[dim] + g.shape[dim]
        return PRIMITIVES["concat"](*parts, dim=dim), row[0][1]


def plus(a: Any, b: Any) -> Any:
    """The sum of two gradients, each a tensor or a patch, or None for nothing yet. Patches are used up."""
    if a is None:
        return b
    if a.__class__ is not Patch:
        if b.__class__ is not Patch:
            return a + b
        a, b = b, a
    if b.__class__ is Patch:
        a.pieces += b.pieces
        b = b.rest
    if b is not None:
        a.rest = b if a.rest is None else a.rest + b
    return a


def whole(g: Any) -> Any:
    """A gradient as a tensor, or None."""
    return g.whole() if g.__class__ is Patch else g


def _lines(pieces: list[Piece], dim: int) -> list[list[Piece]]:
    """The pieces by where they lie in the other dimensions."""
    lines: dict[Any, list[Piece]] = {}
    for g, start in pieces:
        key = (start[:dim], start[dim + 1 :], g.shape[:dim], g.shape[dim + 1 :])
        lines.setdefault(key, []).append((g, start))
    return list(lines.values())
