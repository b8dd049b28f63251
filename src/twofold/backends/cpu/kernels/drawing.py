"""Draws of random numbers of any size: the words of a stream, and what eager code makes of them at once.

The words are those of Note [Random streams] in primitives/random.py, and each number is computed by the operations,
in the order, that tensors/random.py is written in; so the bits are those of compiled code.

Note [Table of a draw]
Words of 8 bytes from word 2 on, named by `DRAW`: the result's address and number of elements; the two numbers of
the state; and two doubles, whose meaning a kind of draw tells.

Note [Rows of words]
A kind of draw has one or two rows of words, one after the other in the stream, with a word of each for an item. An
item is one element, or two of normal numbers: one from the cosine, and half the result further one from the sine.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

from ....ir.dtypes import DType, float32, int64, uint32
from ..emit import Function, Module, Number, Val, element, vector
from ..open import data, entry, leave, number
from ..registers import apply
from .access import load, store
from .mapping import elements
from .random import _interleave, _keys, philox
from .reducing import end, range_of, words_of
from .tile import kernel_function

DRAW = ("out", "size", "seed", "used", "a", "b")
CHUNK = 1 << 11  # items
_UNIT = 2.0**-24


@dataclass(frozen=True)
class Kind:
    """What is drawn.

    Args:
        dtype: of the result.
        rows: of words.
        per_item: elements.
    """

    dtype: DType
    rows: int = 1
    per_item: int = 1


KINDS = {
    "bits": Kind(uint32),
    "uniform": Kind(float32),  # in [0, 1)
    "uniform_in": Kind(float32),  # times a, plus b
    "normal": Kind(float32, 2, 2),
    "normal_of": Kind(float32, 2, 2),  # times a, plus b
    "integers": Kind(int64, 2),  # in [0, a), plus b; a is at most 2^32
}


def emit_draw(module: Module, name: str, lanes: int) -> None:
    """Write the kernel "draw" for a kind."""
    kind = KINDS[name]
    f = kernel_function(module, "draw")
    w = words_of(f, DRAW)
    items = f.div(f.add(w["size"], kind.per_item - 1), kind.per_item)
    room = 4 * (CHUNK // 4 + 2 + lanes)  # words
    rows = [f.alloca(4 * room) for _ in range(kind.rows)]
    keys = _keys(f, w["seed"], lanes)
    formula = _Formula(f, name, w, lanes)

    def chunk(c: Number) -> None:
        start = f.mul(c, CHUNK)
        count = f.min(f.sub(items, start), CHUNK)
        words = [
            _words(f, keys, w["used"], f.add(f.mul(items, r), start), count, row) for r, row in enumerate(rows)
        ]
        ends = [f.add(f.mul(items, k), start) for k in range(kind.per_item)]  # where the elements go to
        size = kind.dtype.itemsize

        def vectors(j: Number, masked: bool) -> None:
            xs = [load(f, f.at(word, f.mul(j, 4)), uint32, lanes, 1) for word in words]
            for out, at in zip(formula(*xs), ends, strict=True):
                place = f.add(at, j)
                left = f.int(f.min(f.sub(f.min(w["size"], f.add(at, count)), place), lanes)) if masked else None
                store(f, out, f.at(w["out"], f.mul(place, size)), kind.dtype, lanes, left)

        least = f.min(count, f.sub(w["size"], ends[-1]))  # the last elements may be one fewer
        whole = f.mul(f.div(least, lanes), lanes)
        f.loop(0, whole, lambda j: vectors(j, False), step=lanes)
        f.loop(whole, count, lambda j: vectors(j, True), step=lanes)

    chunks = f.div(f.add(items, CHUNK - 1), CHUNK)
    f.loop(*range_of(f, 1, chunks), chunk)
    end(f)


def _words(f: Function, keys: list[tuple[Val, Val]], used: Val, first: Number, count: Number, room: Val) -> Val:
    """Words `first` to `first + count` of a draw, and some more, in memory; gives the address of the first."""
    _, lanes = element(keys[0][0].ty)
    over = f.rem(first, 4)
    blocks = f.div(f.add(f.add(over, count), 3), 4)
    begin = f.add(used, f.div(first, 4))
    numbers = Val("<" + ", ".join(f"i64 {i}" for i in range(lanes)) + ">", vector("i64", lanes))

    def vectors(i: Number) -> None:
        counter = f.op("add", f.splat(f.int(f.add(begin, i)), lanes), numbers)
        a, b, c, d = philox(f, counter, keys)
        even, odd = _interleave(f, a, c, lanes), _interleave(f, b, d, lanes)
        f.store(_interleave(f, even, odd, 2 * lanes), f.at(room, f.mul(i, 16)), 4)

    f.loop(0, blocks, vectors, step=lanes)
    return f.at(room, f.mul(over, 4))


class _Formula:
    """What a kind of draw makes of vectors of words, one from each row: a vector for each element of an item."""

    def __init__(self, f: Function, name: str, w: dict[str, Val], lanes: int):
        self.f, self.lanes, self.name = f, lanes, name
        a, b = (f.value(f"bitcast i64 {w[k].ref} to double", "double") for k in ("a", "b"))
        to, ty = ("fptosi", "i64") if name == "integers" else ("fptrunc", "float")
        self.a, self.b = (f.splat(f.convert(to, x, ty), lanes) for x in (a, b))

    def __call__(self, *words: Val) -> list[Val]:
        if self.name == "bits":
            return list(words)
        if self.name == "integers":
            return [self._below(*words)]
        xs = [self._whole(x) for x in words]
        results = self._normal(*xs) if self.name.startswith("normal") else [self._times(xs[0], _UNIT)]
        if self.name in ("uniform", "normal"):
            return results
        return [self.f.op("fadd", self.f.op("fmul", x, self.a), self.b) for x in results]

    def _whole(self, x: Val) -> Val:
        """The 24 high bits as a float32."""
        f = self.f
        return f.convert("sitofp", f.op("lshr", x, f.const(8, x.ty)), "float")

    def _times(self, x: Val, factor: float) -> Val:
        return self.f.op("fmul", x, self.f.const(factor, x.ty))

    def _of(self, name: str, x: Val) -> Val:
        return apply(self.f, name, {}, [x], [float32], float32)

    def _normal(self, x: Val, y: Val) -> list[Val]:
        """Box and Muller's method."""
        f = self.f
        positive = self._times(f.op("fadd", x, f.const(1.0, x.ty)), _UNIT)
        radius = self._of("sqrt", self._times(self._of("log", positive), -2.0))
        angle = self._times(y, 2.0 * math.pi * _UNIT)
        return [f.op("fmul", radius, self._of(name, angle)) for name in ("cos", "sin")]

    def _below(self, high: Val, low: Val) -> Val:
        """The product of 64 random bits and the bound, without its 64 low bits."""
        f = self.f
        half = f.const(32, vector("i64", self.lanes))
        wide = [f.op("mul", f.convert("zext", x, "i64"), self.a) for x in (high, low)]
        return f.op("add", f.op("lshr", f.op("add", wide[0], f.op("lshr", wide[1], half)), half), self.b)


def draw_entry(module: Module) -> str:
    """A function for Python, `f(state, a, b, result)`, that draws and advances the state; returns its name.

    What it is loaded with is an array: the address of a kernel, the kind's rows and elements for an item, and
    whether the state is to be advanced.
    """
    name = "draw_little"
    f, own, (state, a, b, out) = entry(module, name, 4)
    known = data(f, own)
    code = f.load("ptr", known, 8)
    rows, per_item, advance = (f.load("i64", f.at(known, 8 * i), 8) for i in (1, 2, 3))
    place = data(f, state)
    seed, used = f.load("i64", place, 8), f.load("i64", f.at(place, 8), 8)
    size = elements(f, out)
    table = f.alloca(8 * (len(DRAW) + 2))
    for i, v in enumerate((data(f, out), size, seed, used, number(f, a), number(f, b))):
        f.store(v, f.at(table, 8 * (i + 2)), 8)
    items = f.div(f.sub(f.add(size, per_item), 1), per_item)
    chunks = f.int(f.div(f.add(items, CHUNK - 1), CHUNK))
    f.emit(f"call void {code.ref}({table}, i64 0, {chunks}, i64 0)")
    blocks = f.div(f.add(f.mul(items, rows), 3), 4)
    f.store(f.int(f.add(used, f.mul(blocks, advance))), f.at(place, 8), 8)
    leave(f, out)
    return name
