"""Order: sort, topk, searchsorted.

Elements are compared by keys, unsigned integers in the order of the elements: NaN is beyond all
numbers, both zeros are equal, and for a descending order all bits are turned. A short line is
sorted by the rank of each element, the number of those before it; a long one by its bytes, from the
lowest to the highest, which keeps the order of equal elements (least significant digit radix sort:
Knuth, "The Art of Computer Programming", volume 3, section 5.2.5). Where only a few are asked for, those
that may be among them are found first.
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
_MANY = 64  # times as many elements as are asked for, from which candidates are looked for first
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
        self.few = not self.short and self.length >= _MANY * count  # a small part of the line is asked for
        self.group = _MANY // 4 * self.lanes  # elements of which each lane's least is looked at
        self.groups = -(-self.length // self.group)
        block = -(-self.groups * self.group // 16) * 64  # bytes of a line's numbers
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
        return self._turned(f, _key(f, self._load(f, source, i), self.dtype))

    def _turned(self, f: Function, key: Val) -> Val:
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
        self._keys_of_line(f, source, keys)
        if self.few:
            length: int | Val = self._select(f, keys, numbers, others, counts)
        else:
            length = self.length
            f.loop(0, length, lambda i: f.store(f.convert("trunc", f.int(i), "i32"), f.at(numbers, f.mul(i, 4)), 4))
        sorted_ = self._radix(f, [keys, numbers], [others, spare], counts, length)

        def put(place: Any) -> None:
            i = f.convert("zext", f.load("i32", f.at(sorted_[1], f.mul(place, 4)), 4), "i64")
            self._put(f, source, list(targets), place, i)

        f.loop(0, self.count, put)

    def _keys_of_line(self, f: Function, source: Val, keys: Val) -> None:
        """The keys of a line one after the other, and beyond them, up to a whole group, what comes last."""
        size, raw, whole = self.key_size, self.dtype.itemsize, 0

        def vector_of(i: Any) -> None:
            v = f.load(vector(_raw(self.dtype), self.lanes), f.at(source, f.mul(i, raw)), raw)
            f.store(self._turned(f, _key(f, v, self.dtype)), f.at(keys, f.mul(i, size)), size)

        if self.along[0] == 1:
            whole = self.length // self.lanes * self.lanes
            f.loop(0, whole, vector_of, step=self.lanes)
        f.loop(whole, self.length, lambda i: f.store(self._key_of(f, source, i), f.at(keys, f.mul(i, size)), size))
        if self.few:
            last = f.const(-1, self.key)
            f.loop(self.length, self.groups * self.group, lambda i: f.store(last, f.at(keys, f.mul(i, size)), size))

    def _select(self, f: Function, keys: Val, numbers: Val, others: Val, counts: Val) -> Val:
        """Move the candidates for the first few to the front, with their numbers; returns how many there are.

        Every lane of a group of vectors has a least key. Of these, `count` are not beyond the count-th least:
        no element beyond that is among the first.
        """
        size, lanes, span = self.key_size, self.lanes, self.groups * self.lanes * self.key_size
        wide = vector(self.key, lanes)
        least, copies, spare = others, f.at(others, span), f.at(others, 2 * span)

        def read(i: Any) -> Val:
            return f.load(wide, f.at(keys, f.mul(i, size)), size)

        def minima(g: Any) -> None:
            start = f.mul(g, self.group)

            def smaller(v: Any, best: Val) -> list[Val]:
                x = read(f.add(start, f.mul(v, lanes)))
                return [f.select(f.icmp("ult", x, best), x, best)]

            (best,) = f.loop(1, self.group // lanes, smaller, [read(start)])
            for to in (least, copies):
                f.store(best, f.at(to, f.mul(g, lanes * size)), size)

        f.loop(0, self.groups, minima)
        (ordered,) = self._radix(f, [copies], [spare], counts, self.groups * lanes)
        bound = f.splat(f.load(self.key, f.at(ordered, (self.count - 1) * size), size), lanes)
        place = f.alloca(8)
        f.store(Val("0", "i64"), place, 8)

        def any_within(v: Val) -> tuple[Val, Val]:
            within = f.icmp("ule", v, bound)
            bits = f.value(f"bitcast {within} to i{lanes}", f"i{lanes}") if lanes > 1 else within
            return within, f.icmp("ne", bits, Val("0", bits.ty))

        def group(g: Any) -> None:
            def vectors() -> None:
                f.loop(0, self.group // lanes, lambda v: one(f.add(f.mul(g, self.group), f.mul(v, lanes))))

            f.when(any_within(f.load(wide, f.at(least, f.mul(g, lanes * size)), size))[1], vectors)

        def one(first: Any) -> None:
            v = read(first)
            within, found = any_within(v)

            def append() -> None:  # never beyond what has been read
                at = f.load("i64", place, 8)
                for lane in range(lanes):
                    i = f.int(f.add(first, lane))
                    f.store(f.extract(v, lane), f.at(keys, f.mul(at, size)), size)
                    f.store(f.convert("trunc", i, "i32"), f.at(numbers, f.mul(at, 4)), 4)
                    is_one = f.op("and", f.extract(within, lane), f.icmp("slt", i, self.length))
                    at = f.op("add", at, f.convert("zext", is_one, "i64"))
                f.store(at, place, 8)

            f.when(found, append)

        f.loop(0, self.groups, group)
        return f.load("i64", place, 8)

    def _radix(self, f: Function, lines: list[Val], others: list[Val], counts: Val, length: int | Val) -> list[Val]:
        """Sort by the keys, which come first, with the numbers if they are there; returns where they are then."""
        size, few = self.key_size, len(lines)

        def one_pass(number: Any, *pointers: Val) -> list[Val]:
            keys, targets = pointers[0], pointers[few:]
            shift = f.convert("trunc", f.int(f.mul(number, 8)), self.key)

            def place(key: Val) -> Val:
                digit = f.op("and", f.op("lshr", key, shift), f.const(_DIGITS - 1, self.key))
                return f.at(counts, f.mul(f.convert("zext", digit, "i64") if self.key == "i32" else digit, 4))

            def read(i: Any) -> Val:
                return f.load(self.key, f.at(keys, f.mul(i, size)), size)

            def count(i: Any) -> None:
                at = place(read(i))
                f.store(f.op("add", f.load("i32", at, 4), Val("1", "i32")), at, 4)

            f.loop(0, _DIGITS, lambda c: f.store(Val("0", "i32"), f.at(counts, f.mul(c, 4)), 4))
            f.loop(0, length, count)
            all_ = f.convert("trunc", f.int(length), "i32")
            differ = f.icmp("ne", f.load("i32", place(read(0)), 4), all_)

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
                f.store(key, f.at(targets[0], f.mul(to, size)), size)
                if few > 1:
                    f.store(f.load("i32", f.at(pointers[1], f.mul(i, 4)), 4), f.at(targets[1], f.mul(to, 4)), 4)

            def scatter() -> None:
                f.loop(0, _DIGITS, begin, [Val("0", "i32")])
                f.loop(0, length, move)

            f.when(differ, scatter)  # a digit that all have in common changes nothing
            swapped = [*pointers[few:], *pointers[:few]]
            return [f.select(differ, b, a) for a, b in zip(pointers, swapped, strict=True)]

        return f.loop(0, self.dtype.itemsize, one_pass, [*lines, *others])[:few]


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
