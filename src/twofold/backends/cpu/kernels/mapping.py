"""Element-wise kernels whose sizes are known when they run: code for one primitive, its dtypes and a pattern.

Eager code uses them: a new shape compiles nothing. The code of a vector is that of the rows kernel; what
differs is that lengths and strides come from the kernel's table of arguments.

Note [Patterns]
A kernel walks rows of a row-major result. Along a row, an operand has an element for each of the result's ("1"), or
one for all of them ("0"): that is the pattern, a digit an operand. In a *flat* kernel there is one row, and
so a "0" is a single number. Otherwise rows lie in two dimensions, along which operands have strides.

Note [Table of a map]
Words of 8 bytes, from word 2 on: the addresses of the result and the operands; the length of a row. Then, if it
isn't flat: the size of the rows' inner dimension, the number of rows, and for every operand its strides along
the rows' outer and inner dimension, in elements.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from ....ir.dtypes import DType
from ....ir.graph import Graph, Node, Value
from ....ir.primitive import Primitive
from ....ir.types import TensorType
from ..emit import Function, Module, Number, Val
from ..group import Group, is_elementwise
from ..layout import Buffer, View
from ..open import _RANK, _SIZES, data, entry, leave
from .access import lanes_between
from .rows import _CHUNK_ELEMENTS, RowsKernel, Space, _Row
from .tile import kernel_function

CHUNK = _CHUNK_ELEMENTS  # elements
_SHAPE = (2, 2, 2)  # stands for any


def node_of(p: Primitive, dtypes: Sequence[DType], params: dict[str, Any]) -> Node:
    """The primitive in a graph of its own, on tensors of some shape."""
    graph = Graph(f"eager {p.name}")
    graph.set_outputs(graph.add(p, [graph.add_input(TensorType(_SHAPE, d)) for d in dtypes], params))
    return graph.nodes[0]


def has_map(node: Node) -> bool:
    """Whether there is a kernel for a node of `node_of`."""
    return len(node.outputs) == 1 and is_elementwise(node)


def flat_entry(module: Module, operands: int) -> str:
    """A function for Python, `f(*operands, result)`: a flat map of row-major arrays; returns its name.

    What it is loaded with is an array that holds the address of a flat kernel.
    """
    name = f"flat{operands}"
    f, own, arrays = entry(module, name, operands + 1)
    out = arrays[-1]
    length = elements(f, out)
    table = f.alloca(8 * (operands + 4))
    for i, array in enumerate([out, *arrays[:-1]]):
        f.store(data(f, array), f.at(table, 8 * (i + 2)), 8)
    f.store(length, f.at(table, 8 * (operands + 3)), 8)
    chunks = f.int(f.div(f.add(length, CHUNK - 1), CHUNK))
    code = f.load("ptr", data(f, own), 8)
    f.emit(f"call void {code.ref}({table}, i64 0, {chunks}, i64 0)")
    leave(f, out)
    return name


def elements(f: Function, array: Val) -> Val:
    """How many elements an array has, in an entry."""
    rank = f.convert("sext", f.load("i32", f.at(array, _RANK), 4), "i64")
    sizes = f.load("ptr", f.at(array, _SIZES), 8)

    def times(i: Number, n: Val) -> list[Val]:
        return [f.int(f.mul(n, f.load("i64", f.at(sizes, f.mul(i, 8)), 8)))]

    return f.loop(0, rank, times, [Val("1", "i64")])[0]


def chunks_of(rows: int, length: int) -> int:
    """How many chunks a kernel has."""
    if length >= CHUNK:
        return rows * -(-length // CHUNK)
    return -(-rows // max(1, CHUNK // max(length, 1)))


class MapKernel(RowsKernel):
    """Code for one element-wise node.

    Args:
        node: of `node_of`.
        pattern: see Note [Patterns].
        flat: whether there is one row.
        lanes: elements per vector.
    """

    def __init__(self, node: Node, pattern: str, flat: bool, lanes: int):
        out, operands = node.outputs[0], node.inputs
        values = (out, *operands)
        self._digits = dict(zip(values, (1, *map(int, pattern)), strict=True))
        self._flat = flat
        views = {v: View.whole(Buffer("input", v.dtype, 8, i), _SHAPE) for i, v in enumerate(values)}
        group = Group("rows", _SHAPE, 0, [node])
        super().__init__(group, {v: views[v] for v in operands}, {out: views[out]}, lanes)

    def _merge(self) -> None:
        """Nothing to merge; strides within a row are known."""
        self.space = Space((), (1,))
        self.in_phase, self.rows, self.chunks = True, 0, 0
        self.length: Any = 0  # known when it runs
        self.inner_strides = {v: (digit,) for v, digit in self._digits.items()}

    def emit(self, module: Module, name: str, scratch_slot: int = 0) -> None:
        """Write the kernel's function into a module."""
        f = kernel_function(module, name)
        args, first, last, _ = f.args
        values = list(self._digits)
        words = Words(f, args)
        bases = {self.views[v].buffer: words.take("ptr") for v in values}
        self.length = length = words.take()
        if self._flat:
            start = f.mul(first, CHUNK)
            self._span(f, bases, dict.fromkeys(values, 0), start, f.min(f.mul(last, CHUNK), length))
        else:
            self._rows(f, bases, words, length)
        f.ret()
        f.finish()

    def _rows(self, f: Function, bases: dict[Any, Val], words: Words, length: Val) -> None:
        """Chunks of several rows where these are short, and of parts of rows where they are long."""
        _, first, last, _ = f.args
        inner, rows = words.take(), words.take()
        _, *operands = self._digits
        strides = {v: (words.take(), words.take()) for v in operands}
        out = next(iter(self._digits))

        def row(number: Number, start: Number, stop: Number) -> None:
            i, j = f.div(number, inner), f.rem(number, inner)
            offsets = {v: f.add(f.mul(i, s), f.mul(j, t)) for v, (s, t) in strides.items()}
            self._span(f, bases, {out: f.mul(number, length), **offsets}, start, stop)

        def part(number: Number) -> None:
            start = f.mul(f.rem(number, blocks), CHUNK)
            row(f.div(number, blocks), start, f.min(f.add(start, CHUNK), length))

        blocks = f.div(f.add(length, CHUNK - 1), CHUNK)
        long = f.icmp("sge", length, CHUNK)
        per_chunk = f.div(CHUNK, f.select(long, f.int(CHUNK), length))
        start = f.mul(first, per_chunk)
        stop = f.min(f.mul(last, per_chunk), f.mul(rows, blocks))
        f.loop(start, stop, part)

    def _span(
        self, f: Function, bases: dict[Any, Val], offsets: dict[Value, Any], start: Number, stop: Number
    ) -> None:
        """Elements start..stop-1 of a row, in vectors that are aligned in the result; NumPy's arrays seldom are."""
        code, stored, lanes = _Row(self, f, bases, offsets, None, {}), list(self.outputs), self.lanes
        code._prepare([], stored, 0)
        (out,) = stored
        begin = code._element(out, (start,))
        place = f.value(f"ptrtoint ptr {begin.ref} to i64", "i64")
        over = f.rem(f.div(place, out.dtype.itemsize), lanes)
        first = f.sub(start, over)  # where a vector would begin
        last = f.add(first, f.mul(f.div(f.sub(stop, first), lanes), lanes))
        is_even = f.icmp("eq", over, 0)
        whole = f.select(is_even, f.int(first), f.int(f.add(first, lanes)))
        f.loop(whole, last, lambda i: code._step(0, [], stored, (i,), None, []), step=lanes)
        more = f.op("and", f.icmp("slt", last, stop), f.op("or", is_even, f.icmp("sgt", last, first)))

        def edge(number: Number) -> None:
            x = f.select(f.icmp("eq", number, 0), f.int(first), f.int(last))
            code._step(0, [], stored, (x,), lanes_between(f, lanes, f.sub(start, x), f.sub(stop, x)), [])

        one, two = f.int(1), f.int(2)
        f.loop(f.select(is_even, one, f.int(0)), f.select(more, two, one), edge)


class Words:
    """The words of a kernel's table, one after the other; 0 and 1 are those of the scratch memory."""

    def __init__(self, f: Function, args: Val):
        self.f, self.args, self.place = f, args, 2

    def take(self, ty: str = "i64") -> Val:
        """The next one."""
        self.place += 1
        return self.f.load(ty, self.f.at(self.args, 8 * (self.place - 1)), 8)
