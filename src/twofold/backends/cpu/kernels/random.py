"""Random bits: Philox 4x32-10 on vectors of counters. See Note [Random streams] in primitives/random.py.

A lane computes one block, four words; words 0 to 3 of all lanes are then interleaved, so that they
are stored in the order of the stream. The bits depend on the state and the position alone.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from ....ir.graph import Node
from ..emit import Function, Val, vector
from ..span import Span, nested
from ..step import Step
from .tile import bases_of, kernel_function

_MULTIPLIERS = (0xD2511F53, 0xCD9E8D57)
_KEY_STEP = (0x9E3779B9, 0xBB67AE85)
_ROUNDS = 10
_CHUNK = 1 << 11  # blocks per chunk
_MASK = 0xFFFFFFFF


def _keys(f: Function, seed: Val, lanes: int) -> list[tuple[Val, Val]]:
    """The two words of the key in every round, in all lanes."""
    out = []
    low, high = f.convert("trunc", seed, "i32"), f.convert("trunc", f.op("lshr", seed, Val("32", "i64")), "i32")
    for r in range(_ROUNDS):
        words = [
            f.op("add", word, Val(str(step * r & _MASK), "i32"))
            for word, step in zip((low, high), _KEY_STEP, strict=True)
        ]
        out.append((f.splat(words[0], lanes), f.splat(words[1], lanes)))
    return out


def philox(f: Function, counter: Val, keys: list[tuple[Val, Val]]) -> list[Val]:
    """The four words of the blocks with these 64-bit numbers."""
    shift = f.const(32, counter.ty)
    c0 = f.convert("trunc", counter, "i32")
    c1 = f.convert("trunc", f.op("lshr", counter, shift), "i32")
    c2 = c3 = f.const(0, c0.ty)
    for k0, k1 in keys:
        highs, lows = [], []
        for word, factor in zip((c0, c2), _MULTIPLIERS, strict=True):
            product = f.op("mul", f.convert("zext", word, "i64"), f.const(factor, counter.ty))
            highs.append(f.convert("trunc", f.op("lshr", product, shift), "i32"))
            lows.append(f.convert("trunc", product, "i32"))
        c0, c1, c2, c3 = (
            f.op("xor", f.op("xor", highs[1], c1), k0),
            lows[1],
            f.op("xor", f.op("xor", highs[0], c3), k1),
            lows[0],
        )
    return [c0, c1, c2, c3]


def _interleave(f: Function, a: Val, b: Val, lanes: int) -> Val:
    """a0 b0 a1 b1 ... of two vectors with `lanes` lanes."""
    pairs = ", ".join(f"i32 {i}, i32 {i + lanes}" for i in range(lanes))
    return f.value(f"shufflevector {a}, {b}, <{2 * lanes} x i32> <{pairs}>", vector("i32", 2 * lanes))


def _random_bits(lowering: Any, node: Node, symbol: str) -> list[Step]:
    state, out = lowering.views[node.inputs[0]], lowering.views[node.outputs[0]]
    size, lanes = node.outputs[0].type.size, lowering.target.lanes(4)
    whole = size // 4
    f = kernel_function(lowering.module, symbol)
    bases = bases_of(f, [state.buffer, out.buffer])
    _, first, last, _ = f.args
    begin = f.at(bases[state.buffer], 8 * state.offset)
    seed = f.load("i64", begin, 8)
    used = f.load("i64", f.at(begin, 8 * state.strides[0]), 8)
    target = f.at(bases[out.buffer], 4 * out.offset)
    numbers = Val("<" + ", ".join(f"i64 {i}" for i in range(lanes)) + ">", vector("i64", lanes))
    wide, narrow = _keys(f, seed, lanes), _keys(f, seed, 1)
    *outer, inner = node.outputs[0].shape or (1,)
    blocks = nested(_CHUNK, (*outer, inner // 4)) if inner % 4 == 0 and size else _CHUNK  # in a chunk
    chunks = -(-size // (4 * blocks))
    start, stop = f.mul(first, blocks), f.min(f.mul(last, blocks), whole)

    def vectors(i: Any) -> None:
        counter = f.op("add", f.splat(f.int(f.add(used, i)), lanes), numbers)
        a, b, c, d = philox(f, counter, wide)
        even, odd = _interleave(f, a, c, lanes), _interleave(f, b, d, lanes)
        f.store(_interleave(f, even, odd, 2 * lanes), f.at(target, f.mul(i, 16)), 4)

    def block(i: Any, count: int = 4) -> None:
        words = philox(f, f.int(f.add(used, i)), narrow)
        for k, word in enumerate(words[:count]):
            f.store(word, f.at(target, f.add(f.mul(i, 16), 4 * k)), 4)

    full = f.int(f.sub(stop, f.rem(f.sub(stop, start), lanes)))
    f.loop(start, full, vectors, step=lanes)
    f.loop(full, stop, block)
    if size % 4:
        f.when(f.icmp("eq", last, chunks), lambda: block(whole, size % 4))
    f.ret()
    f.finish()
    span = Span(chunks, (out,)) if size % (4 * blocks) == 0 else None
    return [Step("random", [node], chunks, symbol, (state.buffer, out.buffer), span)]


LOWERINGS: dict[str, Callable[[Any, Node, str], list[Step] | None]] = {"random_bits": _random_bits}
