"""Kernels along one dimension: running sums, products and extremes, places of extremes, and iota.

Elements of the dimension follow each other; vectors lie across another one, so that running sums
add in the order of the elements. Only the place of an extreme in a long contiguous line is found with
vectors along it: every lane keeps its own first extreme, and the earliest of the best wins.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from typing import Any

from ....ir.graph import Node
from ....ir.types import Shape
from .. import registers
from ..emit import Function, Val, vector
from ..layout import View, merge
from ..step import Step
from .access import load, store
from .copying import CHUNK, places
from .tile import bases_of, kernel_function

_LONG = 64  # elements from which vectors lie along the line


class _Lines:
    """The lines of a tensor along `dim`: the other dimensions merged, the last of them across vectors."""

    def __init__(self, lowering: Any, dim: int, source: View, targets: Sequence[View]):
        self.target = lowering.target
        self.source, self.targets = source, targets
        views = [source, *targets]
        shape = source.shape or (1,)
        strides = [v.strides or (0,) for v in views]
        self.length = shape[dim]
        self.along = [s[dim] for s in strides]
        others = [d for d in range(len(shape)) if d != dim]
        sizes, walks = merge(tuple(shape[d] for d in others), [tuple(s[d] for d in others) for s in strides])
        self.sizes: Shape = sizes or (1,)
        self.walks: list[Shape] = [w or (0,) for w in walks]
        self.width = self.sizes[-1]
        self.lanes = min(self.target.lanes(4), 1 << (self.width.bit_length() - 1))
        if any(w[-1] != 1 for w in self.walks[1:]):
            self.lanes = 1  # to store elements one by one costs more than vectors save

    def emit(self, lowering: Any, node: Node, symbol: str, line: Callable[..., None]) -> list[Step]:
        """A kernel that calls `line(f, addresses, lanes)` for every group of lines."""
        f = kernel_function(lowering.module, symbol)
        views = [self.source, *self.targets]
        bases = bases_of(f, [v.buffer for v in views])
        _, first, last, _ = f.args
        groups = -(-self.width // self.lanes)
        items = math.prod(self.sizes[:-1]) * groups
        per_chunk = max(1, CHUNK // (self.length * self.lanes))
        chunks = -(-items // per_chunk)
        starts = [f.at(bases[v.buffer], v.offset * v.dtype.itemsize) for v in views]

        def item(number: Any) -> None:
            group, outer = f.rem(number, groups), f.div(number, groups)
            at = places(f, outer, self.sizes[:-1], *(w[:-1] for w in self.walks))
            # the last group overlaps the one before: it computes the same again
            column = f.min(f.mul(group, self.lanes), self.width - self.lanes)
            offsets = [f.add(o, f.mul(column, w[-1])) for o, w in zip(at, self.walks, strict=True)]
            line(f, [f.at(s, f.mul(o, v.dtype.itemsize)) for s, o, v in zip(starts, offsets, views, strict=True)])

        f.loop(f.mul(first, per_chunk), f.min(f.mul(last, per_chunk), items), item)
        f.ret()
        f.finish()
        return [Step("running", [node], chunks, symbol, tuple(dict.fromkeys(v.buffer for v in views)))]

    def read(self, f: Function, address: Val, i: Any) -> Val:
        """Element i of a group of lines."""
        size = self.source.dtype.itemsize
        return load(
            f, f.at(address, f.mul(i, self.along[0] * size)), self.source.dtype, self.lanes, self.walks[0][-1]
        )

    def write(self, f: Function, k: int, address: Val, i: Any, v: Val) -> None:
        """Element i of a group of lines of target k."""
        view, stride = self.targets[k], self.walks[k + 1][-1]
        size = view.dtype.itemsize
        place = f.at(address, f.mul(i, self.along[k + 1] * size))
        if self.lanes == 1 or stride == 1:
            store(f, v, place, view.dtype, self.lanes)
            return
        for lane in range(self.lanes):
            store(f, f.extract(v, lane), f.at(place, lane * stride * size), view.dtype, 1)


def _supported(node: Node) -> bool:
    return registers.supports(node.inputs[0].dtype)


def _scan(lowering: Any, node: Node, symbol: str) -> list[Step] | None:
    """cumsum and cumprod; halves are added up in float32 and rounded where they are stored."""
    if not _supported(node):
        return None
    dtype = node.inputs[0].dtype
    lines = _Lines(lowering, node.params["dim"], lowering.views[node.inputs[0]], [lowering.views[node.outputs[0]]])
    rule = registers.RULES["add" if node.prim.name == "cumsum" else "mul"]

    def line(f: Function, addresses: list[Val]) -> None:
        source, target = addresses
        start = lines.read(f, source, 0)
        lines.write(f, 0, target, 0, start)

        def step(i: Any, total: Val) -> list[Val]:
            total = rule(registers._Op(f, {}, [dtype, dtype], dtype), total, lines.read(f, source, i))
            lines.write(f, 0, target, i, total)
            return [total]

        f.loop(1, lines.length, step, [start])

    return lines.emit(lowering, node, symbol, line)


def _better(f: Function, node: Node, x: Val, best: Val, *, ties: bool) -> Val:
    """Whether x takes the place of the best so far: it is beyond it (or as good, with `ties`), or a first NaN."""
    kind, largest = node.inputs[0].dtype.kind, "max" in node.prim.name
    compare = ("g" if largest else "l") + ("e" if ties else "t")
    if kind != "float":
        return f.icmp(("s" if kind == "int" else "u") + compare, x, best)
    nan = f.fcmp("uno", x, x)
    if not ties:
        nan = f.op("and", nan, f.fcmp("ord", best, best))
    return f.op("or", nan, f.fcmp("o" + compare, x, best))


def _running_extreme(lowering: Any, node: Node, symbol: str) -> list[Step] | None:
    """cummax and cummin: of equal elements the latest counts, and a NaN is beyond everything."""
    if not _supported(node):
        return None
    views = [lowering.views[v] for v in node.outputs]
    lines = _Lines(lowering, node.params["dim"], lowering.views[node.inputs[0]], views)

    def line(f: Function, addresses: list[Val]) -> None:
        source = addresses[0]
        start, zero = lines.read(f, source, 0), f.const(0, vector("i64", lines.lanes))

        def put(i: Any, best: Val, place: Val) -> None:
            lines.write(f, 0, addresses[1], i, best)
            lines.write(f, 1, addresses[2], i, place)

        def step(i: Any, best: Val, place: Val) -> list[Val]:
            x = lines.read(f, source, i)
            take = _better(f, node, x, best, ties=True)
            best, place = f.select(take, x, best), f.select(take, f.splat(f.int(i), lines.lanes), place)
            put(i, best, place)
            return [best, place]

        put(0, start, zero)
        f.loop(1, lines.length, step, [start, zero])

    return lines.emit(lowering, node, symbol, line)


def _arg_extreme(lowering: Any, node: Node, symbol: str) -> list[Step] | None:
    """argmax and argmin: the first of equal elements, or the first NaN."""
    if not _supported(node):
        return None
    source, out, dim = lowering.views[node.inputs[0]], lowering.views[node.outputs[0]], node.params["dim"]
    shape = source.shape or (1,)
    kept = tuple(1 if d == dim else n for d, n in enumerate(shape))
    target = View.whole(out.buffer, kept)
    target = View(
        target.buffer, shape, tuple(0 if d == dim else s for d, s in enumerate(target.strides)), out.offset
    )
    lines = _Lines(lowering, dim, source, [target])
    if lines.along[0] == 1 and lines.length >= _LONG:
        lines.lanes = 1
        return lines.emit(lowering, node, symbol, lambda f, addresses: _along_line(f, node, lines, addresses))

    def line(f: Function, addresses: list[Val]) -> None:
        start, zero = lines.read(f, addresses[0], 0), f.const(0, vector("i64", lines.lanes))

        def step(i: Any, best: Val, place: Val) -> list[Val]:
            x = lines.read(f, addresses[0], i)
            take = _better(f, node, x, best, ties=False)
            return [f.select(take, x, best), f.select(take, f.splat(f.int(i), lines.lanes), place)]

        _, place = f.loop(1, lines.length, step, [start, zero])
        lines.write(f, 0, addresses[1], 0, place)

    return lines.emit(lowering, node, symbol, line)


def _along_line(f: Function, node: Node, lines: _Lines, addresses: list[Val]) -> None:
    """The place of the extreme of one contiguous line."""
    dtype, lanes, length = lines.source.dtype, lines.target.lanes(4), lines.length
    size = dtype.itemsize
    first = load(f, addresses[0], dtype, lanes, 1)
    numbers = Val("<" + ", ".join(f"i64 {i}" for i in range(lanes)) + ">", vector("i64", lanes))

    def better(x: Val, i: Val, best: Val, place: Val) -> list[Val]:
        take = _better(f, node, x, best, ties=False)
        return [f.select(take, x, best), f.select(take, i, place)]

    def step(i: Any, best: Val, place: Val) -> list[Val]:
        x = load(f, f.at(addresses[0], f.mul(i, size)), dtype, lanes, 1)
        return better(x, f.op("add", f.splat(f.int(i), lanes), numbers), best, place)

    whole = length // lanes * lanes
    best, place = f.loop(lanes, whole, step, [first, numbers], step=lanes)
    winner = [f.extract(best, 0), f.extract(place, 0)]
    for lane in range(1, lanes):
        x, i = f.extract(best, lane), f.extract(place, lane)
        take = _better(f, node, x, winner[0], ties=False)
        equal = f.op("and", _as_good(f, node, x, winner[0]), f.icmp("slt", i, winner[1]))
        take = f.op("or", take, equal)
        winner = [f.select(take, x, winner[0]), f.select(take, i, winner[1])]
    for k in range(whole, length):
        x = load(f, f.at(addresses[0], k * size), dtype, 1, 1)
        winner = better(x, f.int(k), *winner)
    lines.write(f, 0, addresses[1], 0, winner[1])


def _as_good(f: Function, node: Node, a: Val, b: Val) -> Val:
    if node.inputs[0].dtype.kind != "float":
        return f.icmp("eq", a, b)
    return f.op("or", f.fcmp("oeq", a, b), f.op("and", f.fcmp("uno", a, a), f.fcmp("uno", b, b)))


def _iota(lowering: Any, node: Node, symbol: str) -> list[Step] | None:
    """0, 1, 2 ... in a dtype."""
    dtype, size = node.outputs[0].dtype, node.outputs[0].type.size
    if not registers.supports(dtype):
        return None
    out, lanes = lowering.views[node.outputs[0]], lowering.target.lanes(4)
    f = kernel_function(lowering.module, symbol)
    target = bases_of(f, [out.buffer])[out.buffer]
    _, first, last, _ = f.args
    numbers = Val("<" + ", ".join(f"i64 {i}" for i in range(lanes)) + ">", vector("i64", lanes))
    held = registers.HELD[dtype.name]

    def part(i: Any, count: int | None) -> None:
        v = f.op("add", f.splat(f.int(i), lanes), numbers)
        v = f.convert("sitofp" if dtype.is_floating_point else "trunc", v, held)
        store(f, v, f.at(target, f.mul(f.add(i, out.offset), dtype.itemsize)), dtype, lanes, count)

    whole = size // lanes * lanes
    start, stop = f.mul(first, CHUNK), f.min(f.mul(last, CHUNK), size)
    f.loop(start, f.min(stop, whole), lambda i: part(i, None), step=lanes)
    if whole < size:
        f.when(f.icmp("eq", stop, size), lambda: part(whole, size - whole))
    f.ret()
    f.finish()
    return [Step("iota", [node], -(-size // CHUNK), symbol, (out.buffer,))]


LOWERINGS: dict[str, Callable[[Any, Node, str], list[Step] | None]] = {
    "cumsum": _scan,
    "cumprod": _scan,
    "cummax": _running_extreme,
    "cummin": _running_extreme,
    "argmax": _arg_extreme,
    "argmin": _arg_extreme,
    "iota": _iota,
}
