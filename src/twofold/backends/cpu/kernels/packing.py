"""Packing with sizes that are known at run time: lines of an operand side by side, as products read them.

A packed block holds `vectors` vectors for every k: lines that exist, then zeros. A line is a row of the first
operand or a column of the second; the elements of a line may be contiguous in memory, or equal elements of all
lines, or neither. There is room for a number of k that is a multiple of the vector's length.

Note [What is not there]
A masked load takes hundreds of cycles where what it leaves out lies in memory that is not there, so that lines that
do not exist are read where the first one is.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from ....ir.dtypes import DType
from .. import registers
from ..emit import Function, Module, Val, element, vector
from .access import load, store


def first_lanes(f: Function, count: Any, lanes: int) -> Val:
    """True in the first `count` lanes, which may be none or all."""
    count = f.int(count)
    count = f.select(f.icmp("slt", count, lanes), count, f.int(lanes))
    ids = Val("<" + ", ".join(f"i32 {i}" for i in range(lanes)) + ">", vector("i32", lanes))
    return f.icmp("slt", ids, f.splat(f.convert("trunc", count, "i32"), lanes))


def load_masked(f: Function, address: Val, dtype: DType, lanes: int, mask: Val) -> Val:
    """Consecutive elements as they are held in registers, zero where the mask is false."""
    return load(f, address, dtype, lanes, 1, mask)


def store_masked(f: Function, v: Val, address: Val, dtype: DType, lanes: int, mask: Val) -> None:
    """Write the lanes where the mask is true to consecutive elements."""
    store(f, v, address, dtype, lanes, mask)


def packer(module: Module, dtype: DType, lanes: int, vectors: int, ahead: int = 0) -> str:
    """A shared function that packs a block.

    `(source, bytes from k to k, bytes from line to line, lines, number of k, target)`. Where elements of lines are
    neighbours, it tells the processor what will be read `ahead` bytes later: with many lines it does not find out.
    """
    name = f"pack{vectors}"
    if name in module.functions:
        return name
    signature = [("ptr", "source"), ("i64", "sk"), ("i64", "sx"), ("i64", "lines"), ("i64", "k"), ("ptr", "target")]
    f = Function(module, name, signature, attributes="nounwind noinline", private=True)
    source, sk, sx, lines, k, target = f.args
    size, held = dtype.itemsize, registers.HELD[dtype.name]
    width = lanes * vectors
    step = width * (8 if held == "double" else 4)
    block = transposer(module, dtype, lanes, step, ahead)

    def beside() -> None:
        """Equal elements of all lines are neighbours."""
        masks = [first_lanes(f, f.sub(lines, v * lanes), lanes) for v in range(vectors)]

        def one(_: Any, at: Val, to: Val) -> list[Val]:
            for v, mask in enumerate(masks):
                part = load_masked(f, f.at(at, v * lanes * size), dtype, lanes, mask)
                f.store(part, f.at(to, v * step // vectors), size)
            return [f.at(at, sk), f.at(to, step)]

        f.loop(0, k, one, [source, target])

    def along() -> None:
        """The elements of a line are neighbours."""

        def squares(k0: Any) -> None:
            exist = f.min(f.sub(k, k0), lanes)
            for v in range(vectors):
                some = f.icmp("sgt", lines, v * lanes)
                at = f.select(some, f.int(f.mul(f.int(v * lanes), sx)), f.int(0))
                at = f.at(source, f.add(at, f.mul(k0, size)))
                to = f.at(target, f.add(f.mul(k0, step), v * step // vectors))
                f.call(block, [at, sx, to, f.int(f.sub(lines, v * lanes)), f.int(exist)])

        f.loop(0, k, squares, step=lanes)

    def apart() -> None:
        def one(i: Any, at: Val, to: Val) -> list[Val]:
            for v in range(vectors):
                f.store(f.const(0, vector(held, lanes)), f.at(to, v * step // vectors), size)

            def line(x: Any, at: Val) -> list[Val]:
                value = registers.from_memory(f, f.load(registers.STORED[dtype.name], at, size), dtype)
                f.store(value, f.at(to, f.mul(x, step // width)), size)
                return [f.at(at, sx)]

            f.loop(0, lines, line, [at])
            return [f.at(at, sk), f.at(to, step)]

        f.loop(0, k, one, [source, target])

    is_beside = f.icmp("eq", sx, size)
    is_along = f.op("and", f.icmp("eq", sk, size), f.icmp("ne", sx, size))
    is_apart = f.op("and", f.icmp("ne", sk, size), f.icmp("ne", sx, size))
    for condition, way in ((is_beside, beside), (is_along, along), (is_apart, apart)):
        f.when(condition, way)
    f.ret()
    f.finish()
    return name


def transposer(module: Module, dtype: DType, lanes: int, step: int, ahead: int = 0) -> str:
    """A shared function that packs a square, with zeros for lines and elements that do not exist.

    `(source, bytes from line to line, target, lines, elements of a line)`.
    """
    name = f"square{step}"
    if name in module.functions:
        return name
    signature = [("ptr", "source"), ("i64", "sx"), ("ptr", "target"), ("i64", "lines"), ("i64", "k")]
    f = Function(module, name, signature, attributes="nounwind noinline", private=True)
    source, sx, target, lines, k = f.args
    size = dtype.itemsize
    wide = vector(registers.STORED[dtype.name], lanes)

    def put(rows: Sequence[Val]) -> None:
        for r, row in enumerate(transposed(f, rows)):
            f.store(row, f.at(target, r * step), size)

    def whole() -> None:
        starts = [f.at(source, f.mul(f.int(r), sx)) for r in range(lanes)]
        if ahead:
            f.module.declare("llvm.prefetch.p0", "void", ["ptr", "i32", "i32", "i32"])
            for at in starts:  # to be read, into the second level of caches
                f.emit(f"call void @llvm.prefetch.p0(ptr {f.at(at, ahead).ref}, i32 0, i32 2, i32 1)")
        put([registers.from_memory(f, f.load(wide, at, size), dtype) for at in starts])

    def part() -> None:
        exist, none = first_lanes(f, k, lanes), Val("zeroinitializer", vector("i1", lanes))
        rows = []
        for r in range(lanes):
            is_there = f.icmp("sgt", lines, r)
            mask = f.value(f"select {is_there}, {exist}, {none}", exist.ty)
            at = f.select(is_there, f.at(source, f.mul(f.int(r), sx)), source)  # see Note [What is not there]
            rows.append(load_masked(f, at, dtype, lanes, mask))
        put(rows)

    full = f.op("and", f.icmp("sge", lines, lanes), f.icmp("sge", k, lanes))
    f.when(full, whole)
    f.when(f.op("xor", full, Val("true", "i1")), part)
    f.ret()
    f.finish()
    return name


def transposed(f: Function, rows: Sequence[Val]) -> list[Val]:
    """A square in registers, transposed by shuffles that are one instruction each.

    First squares within the blocks of 16 bytes that vectors consist of, then the square of such blocks.
    """
    lanes = len(rows)
    per = min(lanes, 2 if element(rows[0].ty)[0] == "double" else 4)

    def mixed(a: Val, b: Val, unit: int, picks: Sequence[int]) -> Val:
        """Units of elements, by their numbers; those of `b` follow those of `a`."""
        mask = ", ".join(f"i32 {unit * pick + i}" for pick in picks for i in range(unit))
        return f.value(f"shufflevector {a}, {b}, <{lanes} x i32> <{mask}>", a.ty)

    def halves(a: Val, b: Val, unit: int) -> list[Val]:
        """In every block the units of both operands' first halves in turns, and of their second halves."""
        inside, units = per // unit // 2, lanes // unit
        out = []
        for half in (0, 1):
            places = [start + half * inside + i for start in range(0, units, per // unit) for i in range(inside)]
            out.append(mixed(a, b, unit, [place + other for place in places for other in (0, units)]))
        return out

    columns: list[list[Val]] = [[] for _ in range(per)]  # in each, equal places of all blocks
    for start in range(0, lanes, per):
        group = list(rows[start : start + per])
        if per == 4:
            (a, b), (c, d) = halves(group[0], group[1], 1), halves(group[2], group[3], 1)
            group = [*halves(a, c, 2), *halves(b, d, 2)]
        elif per == 2:
            group = halves(group[0], group[1], 1)
        for column, v in zip(columns, group, strict=True):
            column.append(v)

    def blocks(vs: list[Val]) -> list[Val]:
        if len(vs) == 1:
            return vs
        count, pairs = lanes // per, list(zip(vs[::2], vs[1::2], strict=True))
        even, odd = (blocks([mixed(a, b, per, range(first, 2 * count, 2)) for a, b in pairs]) for first in (0, 1))
        return [v for pair in zip(even, odd, strict=True) for v in pair]

    done = [blocks(column) for column in columns]
    return [done[j][q] for q in range(lanes // per) for j in range(per)]
