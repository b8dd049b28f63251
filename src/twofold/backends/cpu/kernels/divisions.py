"""What integers can't do: division by zero, negative powers. Element by element, with a note where it is tried.

Where the second operand is known to have no such element, these are fused like other element-wise nodes.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

from ....ir.dtypes import INTEGERS
from ....ir.graph import Node
from .. import registers
from ..checks import OperandCheck, note
from ..emit import Function, Val, element, vector
from ..layout import merge
from ..step import Step
from .access import load, store
from .copying import CHUNK, places
from .tile import bases_of, kernel_function


def any_of(f: Function, mask: Val) -> Val:
    """Whether a mask is true in some lane."""
    _, lanes = element(mask.ty)
    if lanes == 1:
        return mask
    symbol = f"llvm.vector.reduce.or.v{lanes}i1"
    f.module.declare(symbol, "i1", [mask.ty])
    return f.value(f"call i1 @{symbol}({mask})", "i1")


def _checked(lowering: Any, node: Node, symbol: str) -> list[Step] | None:
    name, dtype = node.prim.name, node.outputs[0].dtype
    if dtype not in INTEGERS or any(v.dtype is not dtype for v in node.inputs):
        return None
    out = lowering.views[node.outputs[0]]
    views = [*(lowering.views[v].expanded(out.shape) for v in node.inputs), out]
    sizes, walks = merge(out.shape, [v.strides for v in views])
    if not sizes:
        sizes, walks = (1,), [(0,)] * 3
    number = lowering.checks.add(OperandCheck(node))
    notes = lowering.checks.buffer
    f = kernel_function(lowering.module, symbol)
    bases = bases_of(f, [*(v.buffer for v in views), notes])
    size, length = dtype.itemsize, sizes[-1]
    lanes = lowering.target.lanes(max(4, size))
    blocks = -(-length // CHUNK)
    items = math.prod(sizes[:-1]) * blocks
    per_chunk = max(1, CHUNK // length)

    def item(number_of_item: Any) -> None:
        outer, block = f.div(number_of_item, blocks), f.rem(number_of_item, blocks)
        at = places(f, outer, sizes[:-1], *(w[:-1] for w in walks))
        starts = [f.at(bases[v.buffer], f.mul(f.add(o, v.offset), size)) for v, o in zip(views, at, strict=True)]
        start = f.mul(block, CHUNK)
        stop = f.min(f.add(start, CHUNK), length)
        line = f.mul(outer, length)

        def part(i: Any, count: int | None) -> None:
            a, b = (
                load(f, f.at(s, f.mul(i, w[-1] * size)), dtype, lanes, w[-1], count)
                for s, w in zip(starts[:2], walks[:2], strict=True)
            )
            zero = f.const(0, b.ty)
            if count is not None and walks[1][-1]:  # what is not there is no divisor
                there = Val(
                    "<" + ", ".join(f"i1 {int(k < count)}" for k in range(lanes)) + ">", vector("i1", lanes)
                )
                b = f.select(there, b, f.const(1, b.ty)) if lanes > 1 else b
            bad = f.icmp("slt" if name == "pow" else "eq", b, zero)

            def leave() -> None:
                for lane in range(lanes if count is None else count):
                    place = f.add(f.add(line, i), lane)
                    note(f, bases[notes], number, f.extract(bad, lane), place, Val("0", "i64"))

            f.when(any_of(f, bad), leave)
            b = f.select(bad, f.const(1, b.ty), b)
            y = registers.apply(f, name, node.params, [a, b], [dtype, dtype], dtype)
            store(f, y, f.at(starts[2], f.mul(i, size)), dtype, lanes, count)

        whole = length // lanes * lanes
        f.loop(start, f.min(stop, whole), lambda i: part(i, None), step=lanes)
        if whole < length:
            f.when(f.icmp("eq", f.int(stop), length), lambda: part(whole, length - whole))

    f.loop(f.mul(f.args[1], per_chunk), f.min(f.mul(f.args[2], per_chunk), items), item)
    f.ret()
    f.finish()
    buffers = tuple(dict.fromkeys([*(v.buffer for v in views), notes]))
    return [Step("divide", [node], -(-items // per_chunk), symbol, buffers)]


LOWERINGS: dict[str, Callable[[Any, Node, str], list[Step] | None]] = dict.fromkeys(
    ("floor_divide", "remainder", "fmod", "pow"), _checked
)
