"""Order: sort, topk, searchsorted.

Elements are compared by keys, unsigned integers in the order of the elements: NaN is beyond all
numbers, both zeros are equal, and for a descending order all bits are turned. A short line is
sorted by the rank of each element, the number of those before it; a long one by its bytes, from the
lowest to the highest, which keeps the order of equal elements (least significant digit radix sort:
Knuth, "The Art of Computer Programming", volume 3, section 5.2.5).
"""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

from ....ir.dtypes import DType
from ....ir.graph import Node
from .. import registers
from ..emit import Function, Val, vector
from ..layout import View, merge
from ..step import Step
from .copying import CHUNK, places
from .tile import bases_of, kernel_function, scratch_of

_SHORT = 64  # elements up to which a line is sorted by ranks
_DIGITS = 256


def _key_bits(dtype: DType) -> int:
    return 64 if dtype.itemsize == 8 else 32


def _key(f: Function, raw: Val, dtype: DType) -> Val:
    """The key of an element, from its bits."""
    bits, ty = 8 * dtype.itemsize, f"i{_key_bits(dtype)}"
    if dtype.kind in ("uint", "bool"):
        return f.convert("zext", raw, ty)
    sign = f.const(1 << (bits - 1), raw.ty)
    if dtype.kind == "int":
        return f.convert("zext", f.op("xor", raw, sign), ty)
    mantissa = {"float16": 10, "bfloat16": 7, "float32": 23, "float64": 52}[dtype.name]
    infinite = ((1 << (bits - 1 - mantissa)) - 1) << mantissa
    size = f.op("and", raw, f.const((1 << (bits - 1)) - 1, raw.ty))
    plain = f.select(f.icmp("eq", size, f.const(0, raw.ty)), f.const(0, raw.ty), raw)
    negative = f.icmp("slt", plain, f.const(0, raw.ty))
    key = f.select(negative, f.op("xor", plain, f.const(-1, raw.ty)), f.op("or", plain, sign))
    key = f.select(f.icmp("ugt", size, f.const(infinite, raw.ty)), f.const(-1, raw.ty), key)
    return f.convert("zext", key, ty)


def _raw(dtype: DType) -> str:
    return f"i{8 * dtype.itemsize}"


class _Sort:
    """A kernel that sorts every line along `dim`, and writes the first `count` of each."""

    def __init__(self, lowering: Any, node: Node, dim: int, count: int, descending: bool, symbol: str):
        self.lowering, self.node, self.symbol = lowering, node, symbol
        self.count, self.descending = count, descending
        self.source: View = lowering.views[node.inputs[0]]
        self.targets: list[View] = [lowering.views[v] for v in node.outputs]
        self.dtype = self.source.dtype
        views = [self.source, *self.targets]
        strides = [v.strides or (0,) for v in views]
        shape = self.source.shape or (1,)
        self.length = shape[dim]
        self.along = [s[dim] for s in strides]
        others = [d for d in range(len(shape)) if d != dim]
        sizes, walks = merge(tuple(shape[d] for d in others), [tuple(s[d] for d in others) for s in strides])
        self.sizes, self.walks = sizes or (1,), [w or (0,) for w in walks]
        self.key, self.key_size = f"i{_key_bits(self.dtype)}", _key_bits(self.dtype) // 8
        self.short = self.length <= _SHORT
        self.lanes = lowering.target.lanes(self.key_size)
        self.padded = -(-self.length // self.lanes) * self.lanes
        block = -(-self.length // 16) * 64  # bytes of a line's numbers
        self.key_block = block * self.key_size // 4
        self.num_block = block
        if not self.short:
            need = 2 * (self.key_block + self.num_block) + 4 * _DIGITS
            lowering.scratch = max(lowering.scratch, need)

    def emit(self) -> list[Step]:
        f = kernel_function(self.lowering.module, self.symbol)
        views = [self.source, *self.targets]
        bases = bases_of(f, [v.buffer for v in views])
        starts = [f.at(bases[v.buffer], v.offset * v.dtype.itemsize) for v in views]
        memory = f.alloca(self.padded * self.key_size) if self.short else scratch_of(f)
        items = math.prod(self.sizes)
        per_chunk = max(1, CHUNK // 4 // self.length)

        def item(number: Any) -> None:
            at = places(f, number, self.sizes, *self.walks)
            each = zip(starts, at, views, strict=True)
            addresses = [f.at(s, f.mul(o, v.dtype.itemsize)) for s, o, v in each]
            (self._by_rank if self.short else self._by_digits)(f, memory, *addresses)

        f.loop(f.mul(f.args[1], per_chunk), f.min(f.mul(f.args[2], per_chunk), items), item)
        f.ret()
        f.finish()
        chunks = -(-items // per_chunk)
        return [Step("sort", [self.node], chunks, self.symbol, tuple(dict.fromkeys(v.buffer for v in views)))]

    def _load(self, f: Function, source: Val, i: Any) -> Val:
        size = self.dtype.itemsize
        return f.load(_raw(self.dtype), f.at(source, f.mul(i, self.along[0] * size)), size)

    def _key_of(self, f: Function, source: Val, i: Any) -> Val:
        key = _key(f, self._load(f, source, i), self.dtype)
        return f.op("xor", key, f.const(-1, key.ty)) if self.descending else key

    def _put(self, f: Function, source: Val, targets: list[Val], place: Any, i: Any) -> None:
        """Element i of the line is the one at `place` in the order."""
        size = self.dtype.itemsize
        f.store(self._load(f, source, i), f.at(targets[0], f.mul(place, self.along[1] * size)), size)
        f.store(f.int(i), f.at(targets[1], f.mul(place, self.along[2] * 8)), 8)

    def _by_rank(self, f: Function, keys: Val, source: Val, *targets: Val) -> None:
        size, lanes = self.key_size, self.lanes
        wide = vector(self.key, lanes)
        for i in range(self.length - self.length % lanes, self.padded):
            f.store(f.const(-1, self.key), f.at(keys, i * size), size)  # before nothing
        f.loop(
            0,
            self.length,
            lambda i: f.store(self._key_of(f, source, i), f.at(keys, f.mul(i, size)), size),
        )
        numbers = Val("<" + ", ".join(f"{self.key} {i}" for i in range(lanes)) + ">", wide)

        def element(i: Any) -> None:
            own = f.splat(f.load(self.key, f.at(keys, f.mul(i, size)), size), lanes)
            index = f.int(i)
            here = f.splat(f.convert("trunc", index, self.key), lanes)

            def block(j: Any, rank: Val) -> list[Val]:
                other = f.load(wide, f.at(keys, f.mul(j, size)), size)
                at = f.op("add", f.splat(f.convert("trunc", f.int(j), self.key), lanes), numbers)
                equal = f.op("and", f.icmp("eq", other, own), f.icmp("ult", at, here))
                before = f.op("or", f.icmp("ult", other, own), equal)
                bits = f.value(f"bitcast {before} to i{lanes}", f"i{lanes}")
                return [f.op("add", rank, f.convert("zext", f.intrinsic("ctpop", [bits]), "i64"))]

            rank = Val("0", "i64")
            for j in range(0, self.padded, lanes):
                (rank,) = block(j, rank)
            put = lambda: self._put(f, source, list(targets), rank, i)
            if self.count < self.length:
                f.when(f.icmp("slt", rank, self.count), put)
            else:
                put()

        f.loop(0, self.length, element)

    def _by_digits(self, f: Function, memory: Val, source: Val, *targets: Val) -> None:
        keys, others = memory, f.at(memory, self.key_block)
        numbers = f.at(memory, 2 * self.key_block)
        spare = f.at(memory, 2 * self.key_block + self.num_block)
        counts = f.at(memory, 2 * (self.key_block + self.num_block))
        size = self.key_size

        def start(i: Any) -> None:
            f.store(self._key_of(f, source, i), f.at(keys, f.mul(i, size)), size)
            f.store(f.convert("trunc", f.int(i), "i32"), f.at(numbers, f.mul(i, 4)), 4)

        f.loop(0, self.length, start)

        def digit(key: Val, shift: Val) -> Val:
            moved = f.op("and", f.op("lshr", key, shift), f.const(_DIGITS - 1, self.key))
            return moved if self.key == "i64" else f.convert("zext", moved, "i64")

        def one_pass(number: Any, keys: Val, numbers: Val, others: Val, spare: Val) -> list[Val]:
            shift = f.convert("trunc", f.int(f.mul(number, 8)), self.key)

            def place(key: Val) -> Val:
                return f.at(counts, f.mul(digit(key, shift), 4))

            def read(i: Any) -> Val:
                return f.load(self.key, f.at(keys, f.mul(i, size)), size)

            def count(i: Any) -> None:
                at = place(read(i))
                f.store(f.op("add", f.load("i32", at, 4), Val("1", "i32")), at, 4)

            f.loop(0, _DIGITS, lambda c: f.store(Val("0", "i32"), f.at(counts, f.mul(c, 4)), 4))
            f.loop(0, self.length, count)
            differ = f.icmp("ne", f.load("i32", place(read(0)), 4), Val(str(self.length), "i32"))

            def begin(c: Any, total: Val) -> list[Val]:
                at = f.at(counts, f.mul(c, 4))
                n = f.load("i32", at, 4)
                f.store(total, at, 4)
                return [f.op("add", total, n)]

            def move(i: Any) -> None:
                key = read(i)
                at = place(key)
                to = f.load("i32", at, 4)
                f.store(f.op("add", to, Val("1", "i32")), at, 4)
                to = f.convert("zext", to, "i64")
                f.store(key, f.at(others, f.mul(to, size)), size)
                f.store(f.load("i32", f.at(numbers, f.mul(i, 4)), 4), f.at(spare, f.mul(to, 4)), 4)

            def scatter() -> None:
                f.loop(0, _DIGITS, begin, [Val("0", "i32")])
                f.loop(0, self.length, move)

            f.when(differ, scatter)  # a digit that all have in common changes nothing
            return [
                f.select(differ, others, keys),
                f.select(differ, spare, numbers),
                f.select(differ, keys, others),
                f.select(differ, numbers, spare),
            ]

        _, numbers, _, _ = f.loop(0, self.dtype.itemsize, one_pass, [keys, numbers, others, spare])

        def put(place: Any) -> None:
            i = f.convert("zext", f.load("i32", f.at(numbers, f.mul(place, 4)), 4), "i64")
            self._put(f, source, list(targets), place, i)

        f.loop(0, self.count, put)


def _sort(lowering: Any, node: Node, symbol: str) -> list[Step] | None:
    if not registers.supports(node.inputs[0].dtype) or node.inputs[0].type.size >= 1 << 31:
        return None
    dim = node.params["dim"]
    if node.prim.name == "topk":
        count = node.params["k"] if node.inputs[0].ndim else 1
        return _Sort(lowering, node, dim, count, node.params["largest"], symbol).emit()
    length = node.inputs[0].shape[dim] if node.inputs[0].ndim else 1
    return _Sort(lowering, node, dim, length, node.params["descending"], symbol).emit()


def _searchsorted(lowering: Any, node: Node, symbol: str) -> list[Step] | None:
    """By halving, on the keys."""
    ordered, values = node.inputs
    dtype = ordered.dtype
    if not registers.supports(dtype):
        return None
    row, asked, out = (lowering.views[v] for v in (ordered, values, node.outputs[0]))
    n, along = row.shape[-1], row.strides[-1]
    row = View(row.buffer, (*row.shape[:-1], 1), (*row.strides[:-1], 0), row.offset)
    if ordered.ndim > 1:
        row = row.expanded(asked.shape)
    else:
        row = View(row.buffer, asked.shape, (0,) * len(asked.shape), row.offset)
    sizes, walks = merge(asked.shape, [row.strides, asked.strides, out.strides])
    if not sizes:
        sizes, walks = (1,), [(0,)] * 3
    f = kernel_function(lowering.module, symbol)
    views, size = [row, asked, out], dtype.itemsize
    bases = bases_of(f, [v.buffer for v in views])
    items = math.prod(sizes)
    steps = n.bit_length()
    per_chunk = max(1, CHUNK // 4 // max(1, steps))
    right = node.params["right"]

    def key_at(view: View, offset: Any) -> Val:
        at = f.at(bases[view.buffer], f.mul(f.add(offset, view.offset), size))
        return _key(f, f.load(_raw(dtype), at, size), dtype)

    def item(number: Any) -> None:
        begin, value_at, to = places(f, number, sizes, *walks)
        value = key_at(asked, value_at)

        def halve(_: Any, low: Val, high: Val) -> list[Val]:
            middle = f.op("lshr", f.op("add", low, high), Val("1", "i64"))
            at = f.min(middle, n - 1)
            beyond = f.icmp("ule" if right else "ult", key_at(row, f.add(begin, f.mul(at, along))), value)
            open_ = f.icmp("slt", low, high)
            after = f.int(f.add(middle, 1))
            up = f.op("and", open_, beyond)
            down = f.op("and", open_, f.op("xor", beyond, Val("true", "i1")))
            return [f.select(up, after, low), f.select(down, middle, high)]

        low, _ = f.loop(0, steps, halve, [Val("0", "i64"), f.int(n)])
        f.store(low, f.at(bases[out.buffer], f.mul(f.add(to, out.offset), 8)), 8)

    f.loop(f.mul(f.args[1], per_chunk), f.min(f.mul(f.args[2], per_chunk), items), item)
    f.ret()
    f.finish()
    buffers = tuple(dict.fromkeys(v.buffer for v in views))
    return [Step("search", [node], -(-items // per_chunk), symbol, buffers)]


LOWERINGS: dict[str, Callable[[Any, Node, str], list[Step] | None]] = {
    "sort": _sort,
    "topk": _sort,
    "searchsorted": _searchsorted,
}
