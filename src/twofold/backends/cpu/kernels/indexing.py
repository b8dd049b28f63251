"""Reading and writing at computed places: gather, scatter, index, index_put.

All are one pattern. There is a space of *spots*, one for each element of the (broadcast) indices; a
spot names a place in the indexed tensor, by a sum of index times stride; and at each place there is
a *block*, the dimensions that are not indexed. Reading copies a block for every spot. Writing walks
the spots in order, because several may name one place.

Note [Writing in parallel]
Chunks never write the same element: they divide the block (its outer dimensions, and its last one
into panels), those spots that can't meet (in scatter all but the dimension that is walked), and where
that is not enough, the places along the first indexed dimension: every chunk then walks all spots
and leaves out those of others. Every element sees its sources in the order of the spots.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np

from ....ir.dtypes import DType
from ....ir.graph import Node, Value
from ....ir.types import Shape, broadcast_shapes
from .. import registers
from ..checks import BoundsCheck, note
from ..emit import Function, Val, vector
from ..layout import MOVEMENT, Buffer, View, merge
from ..sizes import least, most, planned
from ..step import Step
from .copying import CHUNK, Bits, bits, copied, copy_line, in_vectors, places, split_complex
from .rows import _REDUCE
from .tile import bases_of, kernel_function, zero_bytes

_SHARES = 8  # into which the places are divided, when nothing else can be
_MANY_SPOTS = 4096


@dataclass(frozen=True)
class _Index:
    """One index tensor over the spots."""

    view: View  # expanded to the spots
    size: int  # of the indexed dimension
    stride: int  # of that dimension, in the indexed tensor
    number: int  # of its check


@dataclass(frozen=True)
class _Spots:
    """The spots with their indices, and how the indexed and the other tensor are walked along them."""

    shape: Shape
    indices: list[_Index]
    notes: Buffer
    place: Shape  # strides in the indexed tensor besides the indices': of gather and scatter
    other: Shape  # strides in the other tensor

    def walks(self) -> list[Shape]:
        return [self.place, self.other, *(i.view.strides for i in self.indices)]


def _spots(
    lowering: Any,
    node: Node,
    x: Value,
    indices: list[Value],
    dims: Shape,
    strides: Shape,
    place: Shape,
    other: Shape,
) -> _Spots:
    shape = broadcast_shapes(*(i.shape for i in indices)) if indices else ()
    rows = []
    for value, d in zip(indices, dims, strict=True):
        number = lowering.checks.add(BoundsCheck(node, d, x.shape))
        rows.append(_Index(lowering.views[value].expanded(shape), x.shape[d], strides[d], number))
    return _Spots(shape, rows, lowering.checks.buffer, place, other)


def _wrapped(f: Function, bases: dict[Buffer, Val], index: _Index, notes: Val, offset: Any, position: Any) -> Val:
    """An index as a number in [0, n); one that is out of range leaves a note and becomes 0."""
    i = f.load("i64", f.at(bases[index.view.buffer], f.mul(f.add(offset, index.view.offset), 8)), 8)
    wrapped = f.select(f.icmp("slt", i, 0), f.int(f.add(i, index.size)), i)
    bad = f.icmp("uge", wrapped, index.size)
    note(f, notes, index.number, bad, position, i)
    return f.select(bad, f.int(0), wrapped)


# --- reading ----------------------------------------------------------------------------------------


def _read(
    lowering: Any, node: Node, symbol: str, spots: _Spots, x: Bits, out: Bits, block: list[Shape]
) -> list[Step]:
    """Copy a block for every spot. `block`: the sizes, and the strides of the target and the source."""
    sizes, walks = merge(spots.shape, spots.walks())
    if not sizes:
        sizes, walks = (1,), [(0,) for _ in walks]
    order = sorted(range(len(block[0])), key=lambda d: -block[1][d])
    shape, (to, fro) = merge(*_reordered(block, order))
    shape, to, fro = shape or (1,), to or (1,), fro or (1,)
    *around, length = shape
    size, count = x.size, math.prod(shape)
    row = least(sizes[-1], most(1, CHUNK // 4 // count))
    blocks = -(-sizes[-1] // row)
    items = math.prod(sizes[:-1]) * blocks
    per_chunk = most(1, CHUNK // (row * count))
    chunks = -(-items // per_chunk)
    f = kernel_function(lowering.module, symbol)
    buffers = [x.buffer, out.buffer, spots.notes, *(i.view.buffer for i in spots.indices)]
    bases = bases_of(f, buffers)
    _, first, last, _ = f.args
    source, target = f.at(bases[x.buffer], x.offset * size), f.at(bases[out.buffer], out.offset * size)
    lanes = lowering.target.lanes(size)

    def item(number: Any) -> None:
        part, outer = f.rem(number, blocks), f.div(number, blocks)
        start = f.mul(part, row)
        at = places(f, outer, sizes[:-1], *(w[:-1] for w in walks))
        stop = f.min(f.add(start, row), sizes[-1])

        def spot(i: Any) -> None:
            place, other, *offsets = (f.add(a, f.mul(i, w[-1])) for a, w in zip(at, walks, strict=True))
            position = f.add(f.mul(outer, sizes[-1]), i)
            for index, offset in zip(spots.indices, offsets, strict=True):
                wrapped = _wrapped(f, bases, index, bases[spots.notes], offset, position)
                place = f.add(place, f.mul(wrapped, index.stride))
            lines(0, place, other)

        f.loop(start, stop, spot)

    def lines(depth: int, place: Any, other: Any) -> None:
        if depth < len(around):
            body = lambda i: lines(depth + 1, f.add(place, f.mul(i, fro[depth])), f.add(other, f.mul(i, to[depth])))
            f.loop(0, around[depth], body)
            return
        begin, end = f.at(source, f.mul(place, size)), f.at(target, f.mul(other, size))
        copy_line(f, begin, end, length, fro[-1], to[-1], size, lanes)

    f.loop(f.mul(first, per_chunk), f.min(f.mul(last, per_chunk), items), item)
    f.ret()
    f.finish()
    return [Step("index", [node], chunks, symbol, tuple(dict.fromkeys(buffers)))]


def _reordered(block: list[Shape], order: list[int]) -> tuple[Shape, list[Shape]]:
    shape, *strides = (tuple(s[d] for d in order) for s in block)
    return shape, strides


def _split_result(ndim: int, num_spots: int, dims: Shape) -> tuple[list[int], list[int]]:
    """Which dimensions of `x[..., indices, ...]` are the spots', and which the rest's."""
    at = dims[0] if dims[-1] - dims[0] == len(dims) - 1 else 0
    spot = list(range(at, at + num_spots))
    return spot, [d for d in range(ndim - len(dims) + num_spots) if d not in spot]


def _index(lowering: Any, node: Node, symbol: str) -> list[Step] | None:
    x, *indices = node.inputs
    dims = node.params["dims"]
    if any(x.shape[d] == 0 for d in dims):
        return None
    source, out = bits(lowering.views[x]), bits(lowering.views[node.outputs[0]])
    shape = broadcast_shapes(*(i.shape for i in indices))
    spot, rest = _split_result(x.ndim, len(shape), dims)
    rest += range(node.outputs[0].ndim, len(out.shape))
    kept = [d for d in range(len(source.shape)) if d not in dims]
    block = [tuple(out.shape[d] for d in rest), tuple(out.strides[d] for d in rest)]
    block.append(tuple(source.strides[d] for d in kept))
    spots = _spots(
        lowering, node, x, indices, dims, source.strides, (0,) * len(spot), tuple(out.strides[d] for d in spot)
    )
    return _read(lowering, node, symbol, spots, source, out, block)


def _gather(lowering: Any, node: Node, symbol: str) -> list[Step] | None:
    x, index = node.inputs
    dim = node.params["dim"]
    if not x.ndim or not index.ndim or x.shape[dim] == 0:
        return None
    source, out = bits(lowering.views[x]), bits(lowering.views[node.outputs[0]])
    n = x.ndim
    place = tuple(0 if d == dim else s for d, s in enumerate(source.strides[:n]))
    block = [out.shape[n:], out.strides[n:], source.strides[n:]]
    spots = _spots(lowering, node, x, [index], (dim,), source.strides, place, out.strides[:n])
    return _read(lowering, node, symbol, spots, source, out, block)


# --- writing ----------------------------------------------------------------------------------------

Line = Callable[[Function, Val, Val, int, int, int], None]  # f, target, source, length, strides of both


def _setter(size: int, lanes: int) -> Line:
    return lambda f, target, source, length, to, fro: copy_line(f, source, target, length, fro, to, size, lanes)


def _combiner(rule: str, dtype: DType, lanes: int) -> Line:
    """target = rule(target, source), rounded to the dtype each time."""
    size, stored = dtype.itemsize, registers.STORED[dtype.name]

    def line(f: Function, target: Val, source: Val, length: int, to: int, fro: int) -> None:
        one = None
        if fro == 0 and length > 1:
            one = registers.from_memory(f, f.load(stored, source, size), dtype)

        def part(i: Any, count: int) -> None:
            ty = vector(stored, count)
            at = f.at(target, f.mul(i, to * size))
            a = registers.from_memory(f, f.load(ty, at, size), dtype)
            if one is not None:
                b = f.splat(one, count)
            else:
                b = registers.from_memory(f, f.load(ty, f.at(source, f.mul(i, fro * size)), size), dtype)
            y = registers.apply(f, rule, {}, [a, b], [dtype, dtype], dtype)
            f.store(registers.to_memory(f, y, dtype), at, size)

        if to == 1 and fro in (0, 1):
            in_vectors(f, length, lanes, part, overlap=False)
        else:
            f.loop(0, length, lambda i: part(i, 1))

    return line


def _write(
    lowering: Any,
    node: Node,
    symbol: str,
    spots: _Spots,
    out: Bits,
    src: Bits,
    block: list[Shape],
    line: Line,
    free: list[int],
    *,
    starts: bool = False,
) -> list[Step]:
    """Walk the spots and write each one's block.

    Args:
        free: dimensions of the spots that can't meet.
        starts: whether the result has to become a copy of the first input before. If that is zeros, and all is one
            chunk, the kernel clears it, and it is in the cache then.
    """
    walked = [d for d in range(len(spots.shape)) if d not in free]

    def part(which: list[int]) -> tuple[Shape, list[Shape]]:
        return merge(tuple(spots.shape[d] for d in which), [tuple(w[d] for d in which) for w in spots.walks()])

    free_sizes, free_walks = part(free)
    sizes, walks = part(walked)
    order = sorted(range(len(block[0])), key=lambda d: -block[1][d])
    shape, (to, fro) = merge(*_reordered(block, order))
    shape, to, fro = shape or (1,), to or (1,), fro or (1,)
    *around, length = shape
    size, lanes = out.size, lowering.target.lanes(out.size)
    many = math.prod(sizes)
    panel = length
    if length > lanes and planned(many * length) > CHUNK:
        panel = lanes * max(1, min(4, length // lanes // _SHARES))
    panels = -(-length // panel)
    apart = math.prod(free_sizes) * math.prod(around) * panels
    shares = 1
    if planned(apart) < _SHARES // 2 and planned(many) >= _MANY_SPOTS and spots.indices[0].size >= _SHARES:
        shares = _SHARES
    share = -(-spots.indices[0].size // shares)
    items = apart * shares
    per_chunk = most(1, CHUNK // most(1, many * panel))
    chunks = -(-items // per_chunk)
    clears = starts and chunks == 1 and _is_cleared(lowering, node.inputs[0])
    before = copied(lowering, node, symbol + "b") if starts and not clears else []
    f = kernel_function(lowering.module, symbol)
    buffers = [out.buffer, src.buffer, spots.notes, *(i.view.buffer for i in spots.indices)]
    bases = bases_of(f, buffers)
    _, first, last, _ = f.args
    target, source = f.at(bases[out.buffer], out.offset * size), f.at(bases[src.buffer], src.offset * size)
    if clears:
        zero_bytes(f, target, out.size * math.prod(out.shape))

    def item(number: Any) -> None:
        own, rest = f.rem(number, shares), f.div(number, shares)
        column, rest = f.mul(f.rem(rest, panels), panel), f.div(rest, panels)
        rows = math.prod(around)
        a, b = places(f, f.rem(rest, rows), tuple(around), to[:-1], fro[:-1])
        begin = places(f, f.div(rest, rows), free_sizes, *free_walks)
        begin[0] = f.add(begin[0], f.add(a, f.mul(column, to[-1])))
        begin[1] = f.add(begin[1], f.add(b, f.mul(column, fro[-1])))

        def nest(depth: int, at: list[Any], position: Any) -> None:
            if depth < len(sizes):
                f.loop(
                    0,
                    sizes[depth],
                    lambda i: nest(
                        depth + 1,
                        [f.add(o, f.mul(i, w[depth])) for o, w in zip(at, walks, strict=True)],
                        f.add(f.mul(position, sizes[depth]), i),
                    ),
                )
                return
            place, other, *offsets = at
            for k, (index, offset) in enumerate(zip(spots.indices, offsets, strict=True)):
                wrapped = _wrapped(f, bases, index, bases[spots.notes], offset, position)
                place = f.add(place, f.mul(wrapped, index.stride))
                if k == 0 and shares > 1:
                    low = f.mul(own, share)
                    mine = f.op("and", f.icmp("sge", wrapped, low), f.icmp("slt", wrapped, f.add(low, share)))
            spot = lambda: lines(place, other)
            if shares > 1:
                f.when(mine, spot)
            else:
                spot()

        def lines(place: Any, other: Any) -> None:
            x, y = f.at(target, f.mul(place, size)), f.at(source, f.mul(other, size))
            tail = length % panel
            if not tail or panels == 1:
                line(f, x, y, panel, to[-1], fro[-1])
                return
            whole = f.icmp("sle", f.add(column, panel), length)
            f.when(whole, lambda: line(f, x, y, panel, to[-1], fro[-1]))
            f.when(f.icmp("sgt", f.add(column, panel), length), lambda: line(f, x, y, tail, to[-1], fro[-1]))

        nest(0, begin, 0)

    f.loop(f.mul(first, per_chunk), f.min(f.mul(last, per_chunk), items), item)
    f.ret()
    f.finish()
    return [*before, Step("scatter", [node], chunks, symbol, tuple(dict.fromkeys(buffers)))]


def _is_cleared(lowering: Any, value: Value) -> bool:
    """Whether a value is a constant whose bits are all 0."""
    while value.node is not None and value.node.prim.name in MOVEMENT:
        value = value.node.inputs[0]
    array = lowering.graph.constants.get(value)
    return array is not None and not np.any(np.ascontiguousarray(array).reshape(-1).view(np.uint8))


def _form(view: View, rule: str | None) -> Bits:
    """A view as bits to copy, or as numbers to compute with."""
    if rule is None:
        return bits(view)
    view = split_complex(view)
    return Bits(view.buffer, view.shape, view.strides, view.offset, view.dtype.itemsize)


def _line(lowering: Any, dtype: DType, rule: str | None, size: int) -> Line:
    if rule is None:
        return _setter(size, lowering.target.lanes(size))
    return _combiner(rule, dtype, lowering.target.lanes(dtype.itemsize))


def _index_put(lowering: Any, node: Node, symbol: str) -> list[Step] | None:
    x, values, *indices = node.inputs
    dims = node.params["dims"]
    rule = "add" if node.params.get("accumulate") else None
    shape = broadcast_shapes(*(i.shape for i in indices))
    full = [n for d, n in enumerate(x.shape) if d not in dims]
    if math.prod((*shape, *full)) == 0:
        return copied(lowering, node, symbol)
    if any(x.shape[d] == 0 for d in dims):
        return None
    spot, rest = _split_result(x.ndim, len(shape), dims)
    region = [0] * (len(spot) + len(rest))
    for k, d in enumerate(spot):
        region[d] = shape[k]
    for k, d in enumerate(rest):
        region[d] = full[k]
    view = lowering.views[values].expanded(tuple(region))
    out, src = _form(lowering.views[node.outputs[0]], rule), _form(view, rule)
    rest += range(len(region), len(src.shape))
    kept = [d for d in range(len(out.shape)) if d not in dims]
    block = [tuple(v.shape[d] for d in k) for v, k in ((src, rest),)]
    block += [tuple(out.strides[d] for d in kept), tuple(src.strides[d] for d in rest)]
    spots = _spots(
        lowering, node, x, indices, dims, out.strides, (0,) * len(spot), tuple(src.strides[d] for d in spot)
    )
    line = _line(lowering, split_complex(lowering.views[x]).dtype, rule, out.size)
    return _write(lowering, node, symbol, spots, out, src, block, line, [], starts=True)


def _scatter(lowering: Any, node: Node, symbol: str) -> list[Step] | None:
    """scatter and its relatives that combine with what is there."""
    x, index, values = node.inputs
    dim, name = node.params["dim"], node.prim.name
    if not index.type.size:
        return copied(lowering, node, symbol)
    if not x.ndim or not index.ndim or not values.ndim or x.shape[dim] == 0:
        return None
    rule = None if name == "scatter" else "add"
    if name == "scatter_reduce":
        rule = {"sum": "add", "prod": "mul", "amax": "maximum", "amin": "minimum"}.get(node.params["reduce"])
        if rule is None:
            return None
    view = lowering.views[values]
    view = View(view.buffer, index.shape, view.strides, view.offset)  # the part that the index speaks of
    out, src = _form(lowering.views[node.outputs[0]], rule), _form(view, rule)
    n = x.ndim
    place = tuple(0 if d == dim else s for d, s in enumerate(out.strides[:n]))
    spots = _spots(lowering, node, x, [index], (dim,), out.strides, place, src.strides[:n])
    free = [d for d in range(n) if d != dim]
    block = [src.shape[n:], out.strides[n:], src.strides[n:]]
    steps, starts = [], True
    if name == "scatter_reduce" and not node.params["include_self"]:
        neutral = _neutral(lowering, node, rule)
        start = Bits(neutral, index.shape, (0,) * n, 0, out.size)
        again = _spots(lowering, node, x, [index], (dim,), out.strides, place, (0,) * n)
        line = _setter(out.size, lowering.target.lanes(out.size))
        steps = _write(lowering, node, symbol + "n", again, out, start, [(), (), ()], line, free, starts=True)
        starts = False
    line = _line(lowering, split_complex(lowering.views[x]).dtype, rule, out.size)
    return steps + _write(lowering, node, symbol, spots, out, src, block, line, free, starts=starts)


def _neutral(lowering: Any, node: Node, rule: str | None) -> Buffer:
    """A constant of one element that leaves all values as they are under a rule."""
    reduce = {"add": "sum", "mul": "prod", "maximum": "amax", "minimum": "amin"}[rule or ""]
    dtype = node.inputs[0].dtype
    value = np.full(1, _REDUCE[reduce].identity(dtype), dtype.numpy)
    buffer: Buffer = lowering.buffer("constant", dtype, 1, value)
    return buffer


LOWERINGS: dict[str, Callable[[Any, Node, str], list[Step] | None]] = {
    "index": _index,
    "gather": _gather,
    "index_put": _index_put,
    "scatter": _scatter,
    "scatter_add": _scatter,
    "scatter_reduce": _scatter,
}
