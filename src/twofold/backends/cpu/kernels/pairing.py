"""Element-wise kernels on complex numbers, whose sizes are known when they run: see mapping.py, which this extends.

A complex number lies in memory as its two parts. A vector of numbers is taken apart, the parts are computed with,
node by node of a graph of real operations, and put together again.
"""

from __future__ import annotations

from typing import Any

from ....ir.graph import Graph, Node, Value
from .. import registers
from ..emit import Function, Number, Val, vector
from ..group import is_elementwise
from ..layout import Buffer, View
from .access import load, store
from .mapping import _SHAPE, MapKernel


def has_pairs(parts: Graph) -> bool:
    """Whether there is a kernel for a graph of operations on parts: see `PairKernel`."""
    return all(is_elementwise(node) for node in parts.nodes)


class PairKernel(MapKernel):
    """Code for one element-wise primitive that takes or gives complex numbers.

    Args:
        node: of `node_of`, on complex numbers.
        parts: what it is on parts. Its inputs are those of `node`, a complex one as two, one after the other, and
            its outputs the parts of the result.
        pattern: see Note [Patterns].
        flat: whether there is one row.
        lanes: elements per vector.
    """

    def __init__(self, node: Node, parts: Graph, pattern: str, flat: bool, lanes: int):
        values = (node.outputs[0], *node.inputs)
        self._digits = dict(zip(values, (1, *map(int, pattern)), strict=True))
        self._flat, self._parts, self.lanes = flat, parts, lanes
        self.views = {v: View.whole(Buffer("input", v.dtype, 8, i), _SHAPE) for i, v in enumerate(values)}

    def _span(
        self, f: Function, bases: dict[Any, Val], offsets: dict[Value, Any], start: Number, stop: Number
    ) -> None:
        """Elements start..stop-1 of a row. The last vector is in memory of its own, if it is no whole one."""
        lanes, (out, *operands) = self.lanes, self._digits
        at = {v: f.at(bases[self.views[v].buffer], f.mul(offsets[v], v.dtype.itemsize)) for v in self._digits}
        along = [v for v in operands if self._digits[v]]
        alone = {v: _split(f, at[v], v, 1) for v in operands if v not in along}
        alone = {v: [f.splat(x, lanes) for x in held] for v, held in alone.items()}
        spare = {v: f.alloca(lanes * v.dtype.itemsize) for v in (out, *along)}
        for v in along:
            _join(f, [f.const(1, x) for x in self._held(v)], spare[v], v, lanes)

        def step(i: Number) -> None:
            count = f.min(f.sub(stop, i), lanes)
            is_part = f.icmp("slt", count, lanes)
            place = {v: f.at(at[v], f.mul(i, v.dtype.itemsize)) for v in spare}
            for v in along:
                f.when(is_part, lambda v=v: _copy(f, place[v], spare[v], v, count))  # type: ignore[misc]
            used = {v: f.select(is_part, spare[v], place[v]) for v in spare}
            read = {v: _split(f, used[v], v, lanes) for v in along}
            _join(f, self._computed(f, [x for v in operands for x in (read | alone)[v]]), used[out], out, lanes)
            f.when(is_part, lambda: _copy(f, spare[out], place[out], out, count))

        f.loop(start, stop, step, step=lanes)

    def _held(self, value: Value) -> list[str]:
        """The types of a value's parts in registers."""
        ty = vector(registers.HELD[value.dtype.to_real().name], self.lanes)
        return [ty] * (2 if value.dtype.is_complex else 1)

    def _computed(self, f: Function, operands: list[Val]) -> list[Val]:
        """The parts of the result from those of the operands."""
        graph = self._parts
        known = dict(zip(graph.inputs, operands, strict=True))
        for value, array in graph.constants.items():
            known[value] = f.const(array.reshape(-1)[0], *self._held(value))
        for node in graph.nodes:
            (out,) = node.outputs
            known[out] = registers.apply(
                f,
                node.prim.name,
                node.params,
                [known[v] for v in node.inputs],
                [v.dtype for v in node.inputs],
                out.dtype,
            )
        return [known[v] for v in graph.outputs]


def _split(f: Function, address: Val, value: Value, lanes: int) -> list[Val]:
    """The parts of elements that are neighbours, in registers."""
    dtype = value.dtype.to_real()
    if not value.dtype.is_complex:
        return [load(f, address, dtype, lanes, 1)]
    if lanes == 1:
        return [load(f, f.at(address, i * dtype.itemsize), dtype, 1, 1) for i in (0, 1)]
    both = load(f, address, dtype, 2 * lanes, 1)
    return [_shuffled(f, both, both, range(i, 2 * lanes, 2)) for i in (0, 1)]


def _join(f: Function, parts: list[Val], address: Val, value: Value, lanes: int) -> None:
    """Write elements that are neighbours, given by their parts."""
    dtype = value.dtype.to_real()
    if len(parts) == 1:
        store(f, parts[0], address, dtype, lanes)
    else:
        re, im = parts
        both = _shuffled(f, re, im, [i // 2 + lanes * (i % 2) for i in range(2 * lanes)])
        store(f, both, address, dtype, 2 * lanes)


def _shuffled(f: Function, a: Val, b: Val, places: Any) -> Val:
    """Some lanes of two vectors, those of the second counted on from the first."""
    numbers = ", ".join([f"i32 {i}" for i in places])
    ty = vector(a.ty[1:-1].split(" x ")[1], len(places))
    return f.value(f"shufflevector {a}, {b}, <{len(places)} x i32> <{numbers}>", ty)


def _copy(f: Function, source: Val, target: Val, value: Value, count: Number) -> None:
    """Elements from one place to another."""
    ty, size = registers.STORED[value.dtype.to_real().name], value.dtype.to_real().itemsize
    each = 2 if value.dtype.is_complex else 1

    def one(i: Number) -> None:
        f.store(f.load(ty, f.at(source, f.mul(i, size)), size), f.at(target, f.mul(i, size)), size)

    f.loop(0, f.mul(count, each), one)
