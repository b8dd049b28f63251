"""Kernels that only move bits: copies between strided views, and constants written into them.

A kernel is a list of pieces, each a copy from one view to another of the same shape; concat is a
piece per input, pad one for each border and one for the inside. Elements move as integers of their
size, so that every bit survives; complex128 moves as pairs of 64-bit numbers.

Note [Walks]
Dimensions are ordered by the strides of the target, so that writes are consecutive where that is
possible, and joined where both views allow it. Lines along the last dimension are copied in whole
vectors if the source is consecutive, too. If another dimension is consecutive in the source, squares of
the two dimensions are transposed in registers (4-byte elements). What remains goes one by one.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np

from ....ir.dtypes import BY_NAME, DType
from ....ir.graph import Node
from ....ir.types import Shape, contiguous_strides
from ..emit import Function, Val, vector
from ..layout import Buffer, View, merge, through_movement
from ..sizes import Size, divides
from ..span import Span, nested
from ..step import Step
from ..target import Target
from .contract import _transpose_function
from .tile import bases_of, kernel_function, unravel

CHUNK = 1 << 13  # elements per chunk


@dataclass(frozen=True)
class Bits:
    """Elements of a buffer, seen as integers of 1, 2, 4 or 8 bytes. Offset and strides count these."""

    buffer: Buffer
    shape: Shape
    strides: Shape
    offset: int
    size: int


def bits(view: View) -> Bits:
    """A view for moving; 16-byte elements get a last dimension of two halves."""
    size = view.dtype.itemsize
    if size <= 8:
        return Bits(view.buffer, view.shape, view.strides, view.offset, size)
    return Bits(view.buffer, (*view.shape, 2), (*(2 * s for s in view.strides), 1), 2 * view.offset, 8)


@dataclass(frozen=True)
class Piece:
    """One copy; `source` is a view, or an integer to write everywhere."""

    source: Bits | int
    target: Bits


def copy_piece(source: View, target: View) -> Piece:
    return Piece(bits(source), bits(target))


def fill_piece(value: Any, dtype: DType, target: View) -> Piece | None:
    """A piece that writes a number everywhere; None for one that is no repetition of 8 bytes."""
    if dtype.kind == "uint" and value < 0:
        value = int(value) % (1 << 8 * dtype.itemsize)
    raw = np.full((), value, dtype.numpy).tobytes()
    where = bits(target)
    if len(raw) > 8:
        if raw[:8] != raw[8:]:
            return None
        raw = raw[:8]
    return Piece(int.from_bytes(raw, "little"), where)


# --- emission -------------------------------------------------------------------------------------


class _Walk:
    """The order in which one piece is copied; see Note [Walks]."""

    def __init__(self, piece: Piece, edge: int):
        target = piece.target
        source = piece.source if isinstance(piece.source, Bits) else None
        zero = (0,) * len(target.shape)
        self.to_offset, self.from_offset = target.offset, source.offset if source else 0
        dims = []
        for n, t, s in zip(target.shape, target.strides, source.strides if source else zero, strict=True):
            if t < 0:  # walk backwards, so that the target is walked forwards
                self.to_offset += (n - 1) * t
                self.from_offset += (n - 1) * s
                t, s = -t, -s
            if n != 1:
                dims.append((n, t, s))
        dims.sort(key=lambda d: -d[1])
        shape = tuple(n for n, _, _ in dims)
        sizes, (to, fro) = merge(shape, [tuple(t for _, t, _ in dims), tuple(s for _, _, s in dims)])
        self.sizes, self.to, self.fro = sizes or (1,), to or (1,), fro or (1,)
        self.size = target.size
        self.square: int | None = None  # a dimension besides the last along which the source is consecutive
        if source is not None and self.to[-1] == 1 and self.fro[-1] not in (0, 1) and self.size == 4:
            for d, (n, s) in enumerate(zip(self.sizes[:-1], self.fro, strict=False)):
                if s == 1 and n >= edge and self.sizes[-1] >= edge:
                    self.square = d
        length = self.sizes[-1]
        if self.square is not None:
            self.block, self.items = length, math.prod(self.sizes[:-1]) // self.sizes[self.square]
            self.items *= -(-self.sizes[self.square] // edge)
            work = edge * length
        else:
            self.block = min(length, CHUNK)
            self.items = math.prod(self.sizes[:-1]) * -(-length // self.block)
            work = self.block
        self.per_chunk = nested(max(1, CHUNK // work), self._loops(edge))
        self.chunks = -(-self.items // self.per_chunk)

    def _loops(self, edge: int) -> list[int]:
        """Sizes of the loops over items, outermost first."""
        *outer, last = self.sizes
        if self.square is None:
            return [*outer, -(-last // self.block)]
        bands = -(-outer[self.square] // edge)
        return [*outer[: self.square], *outer[self.square + 1 :], bands]

    def span(self, piece: Piece) -> Span | None:
        """In the order of the target's outer dimensions, where that is the one in which its elements lie."""
        target = View.whole(piece.target.buffer, piece.target.shape)
        if target.strides != piece.target.strides or target.buffer.size != math.prod(target.shape):
            return None
        if self.items % self.per_chunk:
            return None
        outer = math.prod(self.sizes[: -1 if self.square is None else self.square])
        items = math.gcd(self.chunks, outer)
        views = [target]
        if isinstance(piece.source, Bits):
            source = piece.source
            views.append(View(source.buffer, source.shape, source.strides, source.offset))
        same = all(view.dtype.itemsize == self.size for view in views)
        return Span(items, tuple(views)) if items > 1 and same else None


def copy_step(lowering: Any, node: Node, symbol: str, pieces: list[Piece]) -> list[Step]:
    """The step that copies the pieces, in any order and at the same time."""
    pieces = [p for p in pieces if 0 not in p.target.shape]
    if not pieces:
        return []
    f = kernel_function(lowering.module, symbol)
    _, first, last, _ = f.args
    buffers = [p.target.buffer for p in pieces] + [p.source.buffer for p in pieces if isinstance(p.source, Bits)]
    bases = bases_of(f, buffers)
    begin = 0
    span = None
    for piece in pieces:
        walk = _Walk(piece, lowering.target.lanes(4))
        start = _most(f, f.sub(first, begin), 0)
        stop = f.min(f.sub(last, begin), walk.chunks)
        stop = f.min(f.mul(stop, walk.per_chunk), walk.items)
        emitter = _PieceCode(f, piece, walk, bases, lowering.target)
        f.loop(f.mul(start, walk.per_chunk), stop, emitter.item)
        begin += walk.chunks
        span = walk.span(piece) if len(pieces) == 1 else None
    f.ret()
    f.finish()
    return [Step("copy", [node], begin, symbol, tuple(dict.fromkeys(buffers)), span)]


def _most(f: Function, a: int | Val, b: int) -> int | Val:
    if isinstance(a, int):
        return max(a, b)
    return f.select(f.icmp("sgt", a, b), a, f.int(b))


class _PieceCode:
    """The code of one item of a piece: a line, a part of a line, or a band of squares."""

    def __init__(self, f: Function, piece: Piece, walk: _Walk, bases: dict[Buffer, Val], target: Target):
        self.f, self.walk, self.size = f, walk, walk.size
        self.lanes = target.lanes(self.size)
        self.to = f.at(bases[piece.target.buffer], walk.to_offset * self.size)
        self.constant = 0
        self.source: Val | None = None
        if isinstance(piece.source, Bits):
            self.source = f.at(bases[piece.source.buffer], walk.from_offset * self.size)
        else:
            self.constant = piece.source

    def item(self, number: Any) -> None:
        f, w = self.f, self.walk
        if w.square is not None:
            self._band(number)
            return
        length = w.sizes[-1]
        blocks = -(-length // w.block)
        block, rest = f.rem(number, blocks), f.div(number, blocks)
        to, fro = places(f, rest, w.sizes[:-1], w.to[:-1], w.fro[:-1])
        if blocks == 1:
            self._line(to, fro, length)
            return
        column = f.mul(block, w.block)
        to = f.add(to, f.mul(column, w.to[-1]))
        fro = f.add(fro, f.mul(column, w.fro[-1]))
        last = length - (blocks - 1) * w.block
        if last == w.block:
            self._line(to, fro, last)
            return
        f.when(f.icmp("slt", block, blocks - 1), lambda: self._line(to, fro, w.block))
        f.when(f.icmp("eq", block, blocks - 1), lambda: self._line(to, fro, last))

    def _line(self, to: Any, fro: Any, length: int) -> None:
        """`length` elements from places given in elements."""
        f, w, size = self.f, self.walk, self.size
        target = f.at(self.to, f.mul(to, size))
        source = f.at(self.source, f.mul(fro, size)) if self.source is not None else None
        copy_line(
            f, self.constant if source is None else source, target, length, w.fro[-1], w.to[-1], size, self.lanes
        )

    def _band(self, number: Any) -> None:
        """A vector of the dimension that is consecutive in the source, all of the last dimension."""
        f, w, size = self.f, self.walk, self.size
        d, edge = w.square, self.lanes
        assert d is not None and self.source is not None
        bands = -(-w.sizes[d] // edge)
        band, rest = f.rem(number, bands), f.div(number, bands)
        others = [k for k in range(len(w.sizes) - 1) if k != d]
        pick = [tuple(x[k] for k in others) for x in (w.sizes, w.to, w.fro)]
        to, fro = places(f, rest, *pick)
        row = f.min(f.mul(band, edge), w.sizes[d] - edge)  # the last band overlaps the one before
        target = f.at(self.to, f.mul(f.add(to, f.mul(row, w.to[d])), size))
        source = f.at(self.source, f.mul(f.add(fro, row), size))
        transpose = _transpose_function(f.module, edge, size)

        def square(i: Any) -> None:
            f.call(
                transpose,
                [
                    f.at(source, f.mul(i, w.fro[-1] * size)),
                    f.int(w.fro[-1] * size),
                    f.at(target, f.mul(i, size)),
                    f.int(w.to[d] * size),
                    f.int(edge),
                ],
            )

        length = w.sizes[-1]
        f.loop(0, length // edge * edge, square, step=edge)
        if length % edge:
            square(length - edge)


def places(f: Function, number: Any, sizes: Shape, *strides: Shape) -> list[Any]:
    """Offsets of item `number` of an index space, one for each tuple of strides."""
    out: list[Any] = [0] * len(strides)
    for d, i in enumerate(unravel(f, number, sizes)):
        out = [f.add(o, f.mul(i, s[d])) for o, s in zip(out, strides, strict=True)]
    return out


def copy_line(
    f: Function, source: Val | int, target: Val, length: int, fro: int, to: int, size: int, lanes: int
) -> None:
    """Copy `length` elements of `size` bytes that lie `fro` and `to` elements apart; a number is repeated."""
    ty = f"i{8 * size}"
    one = None
    if isinstance(source, int):
        one = Val(str(source), ty)
    elif fro == 0:
        one = f.load(ty, source, size)

    def read(i: Any, count: int) -> Val:
        wide = vector(ty, count)
        if isinstance(source, int):
            return f.const(source, wide)
        return f.splat(one, count) if one else f.load(wide, f.at(source, f.mul(i, fro * size)), size)

    def part(i: Any, count: int) -> None:
        f.store(read(i, count), f.at(target, f.mul(i, to * size)), size)

    if to == 1 and (one or fro == 1):
        in_vectors(f, length, lanes, part)
    else:
        _unrolled(f, length, lambda i: part(i, 1))


def in_vectors(
    f: Function, length: int, lanes: int, body: Callable[[Any, int], None], overlap: bool = True
) -> None:
    """`body(i, count)` for whole vectors; the last one overlaps, or the rest is cut into powers of two."""
    whole = length // lanes * lanes
    f.loop(0, whole, lambda i: body(i, lanes), step=lanes)
    if isinstance(length, Size):
        if overlap and length >= lanes:
            body(length - lanes, lanes)
        elif not divides(lanes, length):
            f.loop(whole, length, lambda i: body(i, 1))
        return
    if overlap and whole and whole < length:
        body(length - lanes, lanes)
        return
    while whole < length:
        part = 1 << ((length - whole).bit_length() - 1)
        body(whole, part)
        whole += part


def _unrolled(f: Function, length: int, body: Callable[[Any], None]) -> None:
    whole = length // 4 * 4

    def four(i: Any) -> None:
        for k in range(4):
            body(f.add(i, k))

    f.loop(0, whole, four, step=4)
    if isinstance(length, Size):
        f.loop(whole, length, body)
        return
    for i in range(whole, length):
        body(i)


# --- primitives ---------------------------------------------------------------------------------------


def _out(lowering: Any, node: Node, k: int = 0) -> View:
    return lowering.views[node.outputs[k]]


def _part(view: View, start: Shape, shape: Shape) -> View:
    return view.sliced(start, (1,) * len(shape), shape)


def _concat(lowering: Any, node: Node, symbol: str) -> list[Step]:
    out, dim, at = _out(lowering, node), node.params["dim"], 0
    pieces = []
    for value in node.inputs:
        start = tuple(at if d == dim else 0 for d in range(len(out.shape)))
        pieces.append(copy_piece(lowering.views[value], _part(out, start, value.shape)))
        at += value.shape[dim]
    return copy_step(lowering, node, symbol, pieces)


def _pad(lowering: Any, node: Node, symbol: str) -> list[Step] | None:
    """The inside, and of every dimension the two borders beside what the dimensions before left over."""
    out, x = _out(lowering, node), lowering.views[node.inputs[0]]
    low, high, value = (node.params[k] for k in ("low", "high", "value"))
    pieces: list[Piece | None] = [copy_piece(x, _part(out, low, x.shape))]
    start, shape = [0] * len(low), list(out.shape)
    for d, (a, b) in enumerate(zip(low, high, strict=True)):
        for begin, n in ((0, a), (out.shape[d] - b, b)):
            border = _part(out, (*start[:d], begin, *start[d + 1 :]), (*shape[:d], n, *shape[d + 1 :]))
            if n and 0 not in border.shape:
                pieces.append(fill_piece(value, x.dtype, border))
        start[d], shape[d] = a, x.shape[d]
    if any(p is None for p in pieces):
        return None
    return copy_step(lowering, node, symbol, [p for p in pieces if p])


def _full(lowering: Any, node: Node, symbol: str) -> list[Step] | None:
    piece = fill_piece(node.params["value"], node.outputs[0].dtype, _out(lowering, node))
    return None if piece is None else copy_step(lowering, node, symbol, [piece])


def _update(lowering: Any, node: Node, symbol: str) -> list[Step] | None:
    """The base copied, then the part written over it."""
    out, new = _out(lowering, node), node.inputs[1]
    part = part_of(node, out)
    if part is None:
        return None
    return copied(lowering, node, symbol) + copy_step(
        lowering, node, symbol + "n", [copy_piece(lowering.views[new], part)]
    )


def copied(lowering: Any, node: Node, symbol: str) -> list[Step]:
    """The step that copies the first input into the result, unless that is the very same memory."""
    source, out = lowering.views[node.inputs[0]], _out(lowering, node)
    if source.buffer is out.buffer:
        return []
    return copy_step(lowering, node, symbol, [copy_piece(source, out)])


def part_of(node: Node, whole: View) -> View | None:
    """The place in a row-major base that an `update_*` node writes."""
    name, p = node.prim.name, node.params
    shape = node.inputs[1].shape
    if name == "update_slice":
        return whole.sliced(p["start"], p["step"], shape)
    if name == "update_diagonal":
        a, b, k = p["dim1"], p["dim2"], p["offset"]
        strides = tuple(s for d, s in enumerate(whole.strides) if d not in (a, b))
        offset = max(k, 0) * whole.strides[b] + max(-k, 0) * whole.strides[a]
        return View(whole.buffer, shape, (*strides, whole.strides[a] + whole.strides[b]), whole.offset + offset)
    if _overlaps(shape, p["strides"]):
        return None  # which element stays would depend on the order
    return View(whole.buffer, shape, p["strides"], whole.offset + p["offset"])


def _overlaps(shape: Shape, strides: Shape) -> bool:
    reach = 0
    for s, n in sorted((s, n) for s, n in zip(strides, shape, strict=True) if n > 1):
        if s <= reach:
            return True
        reach += s * (n - 1)
    return False


def _move(lowering: Any, node: Node, symbol: str) -> list[Step] | None:
    """reshape of a view that is not row-major, and as_strided: a copy in the order of the elements."""
    x, out = lowering.views[node.inputs[0]], _out(lowering, node)
    steps: list[Step] = []
    if node.prim.name == "as_strided":
        if not x.contiguous:
            whole = View.whole(lowering.buffer("temp", x.dtype, math.prod(x.shape)), x.shape)
            steps = copy_step(lowering, node, symbol + "w", [copy_piece(x, whole)])
            x = whole
        p = node.params
        view: View | None = View(x.buffer, p["shape"], p["strides"], x.offset + p["offset"])
        target = out
    elif node.prim.name == "reshape":
        view, target = x, View(out.buffer, x.shape, contiguous_strides(x.shape), out.offset)
    else:
        view, target = through_movement(node, x), out
    if view is None:
        return None
    return steps + copy_step(lowering, node, symbol, [copy_piece(view, target)])


def _same(lowering: Any, node: Node, symbol: str) -> list[Step] | None:
    """copy and bitcast, for dtypes that registers do not hold."""
    return copy_step(lowering, node, symbol, [copy_piece(lowering.views[node.inputs[0]], _out(lowering, node))])


def _component(lowering: Any, node: Node, symbol: str) -> list[Step]:
    """The real or imaginary parts: every second number."""
    x, out = lowering.views[node.inputs[0]], _out(lowering, node)
    return copy_step(lowering, node, symbol, [Piece(component(x, node.prim.name == "imag"), bits(out))])


def component(view: View, imaginary: bool) -> Bits:
    """One part of every element of a complex view."""
    strides = tuple(2 * s for s in view.strides)
    return Bits(view.buffer, view.shape, strides, 2 * view.offset + imaginary, view.dtype.itemsize // 2)


def _complex(lowering: Any, node: Node, symbol: str) -> list[Step]:
    out = _out(lowering, node)
    pieces = [
        Piece(bits(lowering.views[v].expanded(out.shape)), component(out, bool(k)))
        for k, v in enumerate(node.inputs)
    ]
    return copy_step(lowering, node, symbol, pieces)


def split_complex(view: View) -> View:
    """A complex view as one of its parts, with a last dimension of size 2."""
    if not view.dtype.is_complex:
        return view
    b = view.buffer
    parts = Buffer(b.kind, BY_NAME["float32" if b.dtype.itemsize == 8 else "float64"], 2 * b.size, b.number)
    return View(parts, (*view.shape, 2), (*(2 * s for s in view.strides), 1), 2 * view.offset)


LOWERINGS: dict[str, Callable[[Any, Node, str], list[Step] | None]] = {
    "concat": _concat,
    "pad": _pad,
    "full": _full,
    "update_slice": _update,
    "update_diagonal": _update,
    "update_as_strided": _update,
    "as_strided": _move,
    "reshape": _move,
    "copy": _same,
    "stop_gradient": _same,
    "bitcast": _same,
    "real": _component,
    "imag": _component,
    "complex": _complex,
}
