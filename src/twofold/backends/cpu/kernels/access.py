"""Reading and writing vectors of a view at computed places.

Note [One lane]
A masked access of a single lane is written as one of a scalar: LLVM 22 turns a masked store of a
truncated vector with one lane into a store of the whole untruncated element, over its neighbours.

Note [Masked halves]
Where masks are known only when the code runs, float16 and bfloat16 move as integers: processors that can't load
them so get an access per lane, and LLVM 22 converts bfloat16 by a function that is not there on the way.

Note [Lanes that are not there]
LLVM 22 takes the quotient of two lanes that it knows to be 0 for 0, and so leaves out the selection that keeps it,
a NaN, out of a sum. Where lanes that were not read can be divided, they are filled with 1.
"""

from __future__ import annotations

import math

from ....ir.dtypes import DType, uint16
from .. import registers
from ..emit import Function, Number, Val, element, vector
from ..layout import Buffer


def base(f: Function, args: Val, buffer: Buffer) -> Val:
    """The address of a buffer, from the table that every kernel gets (slots 0 and 1 are the scratch)."""
    place = f.slots.setdefault(buffer.number, len(f.slots) + 2)
    return f.load("ptr", f.at(args, 8 * place), 8)


def lane_mask(f: Function, lanes: int, count: Number) -> Val:
    """True in the first `count` lanes; a mask is one already."""
    if isinstance(count, Val):
        if count.ty != "i64":
            return count
        numbers = Val("<" + ", ".join(f"i32 {i}" for i in range(lanes)) + ">", vector("i32", lanes))
        return f.icmp("ult", numbers, f.splat(f.convert("trunc", count, "i32"), lanes))
    return Val("<" + ", ".join(f"i1 {int(i < count)}" for i in range(lanes)) + ">", vector("i1", lanes))


def lanes_between(f: Function, lanes: int, first: Number, last: Number) -> Val:
    """True in the lanes from `first` to before `last`, both of which may lie outside of the vector."""
    numbers = Val("<" + ", ".join(f"i32 {i}" for i in range(lanes)) + ">", vector("i32", lanes))

    def narrow(n: Number) -> Val:
        one = Val(str(n), "i32") if isinstance(n, int) else f.convert("trunc", n, "i32")
        return f.splat(one, lanes)

    # counted from `first` without a sign, lanes before it are far away: one comparison is enough
    return f.icmp("ult", f.op("sub", numbers, narrow(first)), narrow(f.sub(last, first)))


def load(
    f: Function, address: Val, dtype: DType, lanes: int, stride: int, count: Number | None = None, fill: float = 0
) -> Val:
    """`lanes` elements from an address on, `stride` apart; beyond `count` they are `fill` and not read.

    The count may also be a mask of the lanes to read.
    """
    ty = registers.STORED[dtype.name]
    if stride == 0 or lanes == 1:
        return registers.from_memory(f, f.splat(f.load(ty, address, dtype.itemsize), lanes), dtype)
    if isinstance(count, Val) and ty in _HALVES:  # see Note [Masked halves]
        bits = load(f, address, uint16, lanes, stride, count, _HALVES[ty][fill])
        return registers.from_memory(f, f.convert("bitcast", bits, ty), dtype)
    wide = vector(ty, lanes)
    filled = f.const(fill, wide) if fill else Val("zeroinitializer", wide)
    if stride == 1:
        if count is None or count == lanes:
            return registers.from_memory(f, f.load(wide, address, dtype.itemsize), dtype)
        if count == 1:  # see Note [One lane]
            one = f.load(ty, address, dtype.itemsize)
            v = f.value(f"insertelement {filled}, {one}, i64 0", wide)
            return registers.from_memory(f, v, dtype)
        mask = lane_mask(f, lanes, count)
        name = f"llvm.masked.load.v{lanes}{_short(ty)}.p0"
        f.module.declare(name, wide, ["ptr", "i32", mask.ty, wide])
        v = f.value(f"call {wide} @{name}(ptr {address.ref}, i32 {dtype.itemsize}, {mask}, {filled})", wide)
        return registers.from_memory(f, v, dtype)
    if isinstance(count, Val):
        return registers.from_memory(
            f, _gather(f, address, dtype, stride, lane_mask(f, lanes, count), filled), dtype
        )
    v = filled
    for lane in range(lanes if count is None else count):
        one = f.load(ty, f.at(address, lane * stride * dtype.itemsize), dtype.itemsize)
        v = f.value(f"insertelement {v}, {one}, i64 {lane}", wide)
    return registers.from_memory(f, v, dtype)


def _gather(f: Function, address: Val, dtype: DType, stride: int, mask: Val, filled: Val) -> Val:
    """Elements `stride` apart, in the lanes of a mask."""
    ty, lanes = element(filled.ty)
    step = stride * dtype.itemsize
    places = Val("<" + ", ".join(f"i64 {i * step}" for i in range(lanes)) + ">", vector("i64", lanes))
    many = vector("ptr", lanes)
    where = f.value(f"getelementptr i8, ptr {address.ref}, {places}", many)
    name = f"llvm.masked.gather.v{lanes}{_short(ty)}.v{lanes}p0"
    f.module.declare(name, filled.ty, [many, "i32", mask.ty, filled.ty])
    return f.value(f"call {filled.ty} @{name}({where}, i32 {dtype.itemsize}, {mask}, {filled})", filled.ty)


def store(f: Function, v: Val, address: Val, dtype: DType, lanes: int, count: Number | None = None) -> None:
    """Write a vector to consecutive elements; beyond `count`, or outside of a mask, nothing is."""
    ty = registers.STORED[dtype.name]
    v = registers.to_memory(f, v, dtype)
    if lanes == 1 or count is None or count == lanes:
        f.store(v, address, dtype.itemsize)
        return
    if count == 1:
        f.store(f.extract(v, 0), address, dtype.itemsize)
        return
    mask = lane_mask(f, lanes, count)
    if isinstance(count, Val) and ty in _HALVES:  # see Note [Masked halves]
        v, ty = f.convert("bitcast", v, "i16"), "i16"
    name = f"llvm.masked.store.v{lanes}{_short(ty)}.p0"
    f.module.declare(name, "void", [v.ty, "ptr", "i32", mask.ty])
    f.emit(f"call void @{name}({v}, ptr {address.ref}, i32 {dtype.itemsize}, {mask})")


_HALVES: dict[str, dict[float, int]] = {  # what lanes are filled with, as bits
    "half": {0: 0, 1: 0x3C00, -math.inf: 0xFC00},
    "bfloat": {0: 0, 1: 0x3F80, -math.inf: 0xFF80},
}


def _short(ty: str) -> str:
    return {"float": "f32", "double": "f64", "half": "f16", "bfloat": "bf16"}.get(ty, ty)
