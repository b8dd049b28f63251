"""What the convolution kernels share: the register tile, its epilogue, copies of blocks of memory."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from ....ir.dtypes import DType, float32
from ....ir.graph import Node, Value
from ....ir.types import Shape
from .. import registers
from ..emit import Function, Module, Number, Val, vector
from ..layout import Buffer, View
from ..vmath import MATH
from .access import base, load, store
from .scalars import NONE, Scalars

_LIGHT = 60  # element-wise nodes on a tile's vectors, all together, that are written out
_COSTLY = 6  # nodes that a transcendental function counts for

Loop = tuple[Any, int, int]  # times, bytes that A advances, bytes that B advances


def kernel_function(module: Module, name: str) -> Function:
    """A function with the signature of all kernels."""
    return Function(module, name, [("ptr", "args"), ("i64", "first"), ("i64", "last"), ("i64", "worker")])


def bases_of(f: Function, buffers: Sequence[Buffer]) -> dict[Buffer, Val]:
    """Addresses of buffers, each loaded once."""
    return {b: base(f, f.args[0], b) for b in dict.fromkeys(buffers)}


def scratch_of(f: Function) -> Val:
    """This worker's scratch memory."""
    args, worker = f.args[0], f.args[3]
    return f.at(f.load("ptr", args, 8), f.mul(worker, f.load("i64", f.at(args, 8), 8)))


def unravel(f: Function, number: Any, sizes: Sequence[int]) -> list[Any]:
    """The index of item `number` in an index space, the last dimension fastest."""
    out: list[Any] = []
    for n in reversed(sizes):
        out.append(f.rem(number, n))
        number = f.div(number, n)
    return out[::-1]


def columns_of(width: int, lanes: int) -> list[int]:
    """How many elements of each vector exist, in a row of `width`."""
    return [min(lanes, width - at) for at in range(0, width, lanes)]


def multiply(
    f: Function,
    a: Val,
    rows: Sequence[int],
    b: Val,
    loops: Sequence[Loop],
    counts: Sequence[int],
    lanes: int,
    acc: Sequence[Val],
    *,
    masked: bool,
    wide: bool = False,
    dtype: DType = float32,
) -> list[Val]:
    """`acc[r][v] = fma(a[rows[r] + i], b[v + i], acc[r][v])` over a nest of loops.

    Args:
        a, b: addresses at the loops' start.
        rows: byte offset of each row from `a`.
        loops: outermost first.
        counts: elements of B per vector.
        masked: B ends there; otherwise it is padded.
        wide: A has an element for each of B's, as in a depthwise convolution.
        dtype: float32 or float64.
    """
    one, size = registers.HELD[dtype.name], dtype.itemsize
    ty = vector(one, lanes)

    def nest(depth: int, a: Val, b: Val, acc: Sequence[Val]) -> list[Val]:
        if depth == len(loops):
            out = list(acc)
            bs = []
            for v, count in enumerate(counts):
                address = f.at(b, v * lanes * size)
                if masked and count < lanes:
                    bs.append(load(f, address, dtype, lanes, 1, count))
                else:
                    bs.append(f.load(ty, address, size))
            for r, offset in enumerate(rows):
                x = None if wide else f.splat(f.load(one, f.at(a, offset), size), lanes)
                for v, count in enumerate(counts):
                    i = r * len(counts) + v
                    factor = x or load(f, f.at(a, offset + v * lanes * size), dtype, lanes, 1, _part(count, lanes))
                    out[i] = f.intrinsic("fma", [factor, bs[v], out[i]])
            return out
        times, step_a, step_b = loops[depth]

        def body(_: Any, a: Val, b: Val, *acc: Val) -> list[Val]:
            out = nest(depth + 1, a, b, acc)
            return [f.at(a, step_a), f.at(b, step_b), *out]

        if isinstance(times, int) and times == 1:
            return nest(depth + 1, a, b, acc)
        return f.loop(0, times, body, [a, b, *acc])[2:]

    return nest(0, a, b, acc)


class Epilogue:
    """The element-wise nodes that follow a contraction, and the stores of what is wanted.

    Args:
        product: the value that the tile holds.
        nodes: element-wise nodes on values of the product's shape.
        sources: views of what they read, of any shape that broadcasts.
        outputs: views of the values to store.
        scalars: single numbers among the operands, which the kernel computes at its start.
    """

    def __init__(
        self,
        product: Value,
        nodes: Sequence[Node],
        sources: dict[Value, View],
        outputs: dict[Value, View],
        scalars: Scalars = NONE,
    ):
        self.product, self.scalars = product, scalars
        self._numbers: dict[Value, Val] = {}
        self.inside = {v: n for n in nodes for v in n.outputs}
        read = {v for n in nodes for v in n.inputs}
        self.sources = {
            v: view.expanded(_wide(product.shape)) for v, view in sources.items() if v in read and v not in scalars
        }
        self.outputs = outputs

    @property
    def buffers(self) -> list[Buffer]:
        return [v.buffer for v in (*self.sources.values(), *self.outputs.values())] + sorted(
            self.scalars.buffers, key=lambda b: b.number
        )

    def may_repeat(self, operand: Buffer) -> bool:
        """Whether elements of the result may be computed twice: nothing is written that is read."""
        read = {operand, *(v.buffer for v in self.sources.values()), *self.scalars.buffers}
        return all(v.buffer not in read for v in self.outputs.values())

    def start(self, f: Function, bases: dict[Buffer, Val], lanes: int) -> None:
        """Compute what all tiles need."""
        self._numbers = self.scalars.emit(f, bases, lanes)

    def origins(self, f: Function, bases: dict[Buffer, Val], index: Sequence[Any]) -> dict[Value, Val]:
        """The address of element `index` in every view."""
        out: dict[Value, Val] = {}
        for value, view in (*self.sources.items(), *self.outputs.items()):
            offset: Any = view.offset
            for i, s in zip(index, view.strides, strict=True):
                offset = f.add(offset, f.mul(i, s))
            out[value] = f.at(bases[view.buffer], f.mul(offset, view.dtype.itemsize))
        return out

    def finish_tile(
        self,
        f: Function,
        bases: dict[Buffer, Val],
        index: Sequence[Any],
        shifts: Sequence[tuple[int, int, int]],
        acc: Sequence[Val],
        counts: Sequence[int],
        lanes: int,
    ) -> None:
        """Compute and store a tile, whose rows lie `shifts` away from `index`.

        Long epilogues are a loop over the rows, so that their code stands once per column of vectors.
        """
        step = shifts[1] if len(shifts) > 1 else (0, 0, 0)
        even = all(s == tuple([i * d for d in step]) for i, s in enumerate(shifts))
        length = sum(_COSTLY if n.prim.name in MATH else 1 for n in self.inside.values()) * len(acc)
        if not even or length <= _LIGHT:
            origins = self.origins(f, bases, index)
            for r, shift in enumerate(shifts):
                for v, count in enumerate(counts):
                    self.finish(f, origins, (*shift, v * lanes), acc[r * len(counts) + v], lanes, count)
            return
        ty, size = vector("float", lanes), lanes * 4
        tile = f.alloca(len(acc) * size)
        for i, part in enumerate(acc):
            f.store(part, f.at(tile, i * size), 4)

        def row(r: Any) -> None:
            here = [f.add(i, f.mul(r, d)) for i, d in zip(index, (*step, 0), strict=True)]
            origins = self.origins(f, bases, here)
            for v, count in enumerate(counts):
                product = f.load(ty, f.at(tile, f.mul(f.add(f.mul(r, len(counts)), v), size)), 4)
                self.finish(f, origins, (0, 0, 0, v * lanes), product, lanes, count)

        f.loop(0, len(shifts), row)

    def finish(
        self, f: Function, origins: dict[Value, Val], shift: Sequence[int], product: Val, lanes: int, count: int
    ) -> None:
        """Compute and store one vector, which lies `shift` away from the origins."""
        memo = {self.product: product}

        def place(value: Value, view: View) -> Val:
            offset = sum(i * s for i, s in zip(shift, view.strides, strict=True))
            return f.at(origins[value], offset * view.dtype.itemsize)

        def evaluate(value: Value) -> Val:
            if value in self._numbers:
                return self._numbers[value]
            if value not in memo:
                if value in self.inside:
                    node = self.inside[value]
                    args = [evaluate(v) for v in node.inputs]
                    types = [v.dtype for v in node.inputs]
                    memo[value] = registers.apply(f, node.prim.name, node.params, args, types, value.dtype)
                else:
                    view = self.sources[value]
                    at, part = place(value, view), _part(count, lanes)
                    memo[value] = load(f, at, value.dtype, lanes, view.strides[-1], part)
            return memo[value]

        results = [evaluate(value) for value in self.outputs]  # first: they may lie over what they are made of
        for (value, view), v in zip(self.outputs.items(), results, strict=True):
            store(f, v, place(value, view), value.dtype, lanes, _part(count, lanes))


def _wide(shape: Shape) -> Shape:
    """With two spatial dimensions."""
    return shape if len(shape) != 3 else (shape[0], 1, *shape[1:])


def _part(count: int, lanes: int) -> int | None:
    return None if count == lanes else count


def copy_bytes(f: Function, target: Val, source: Val, size: Number) -> None:
    """Copy a block."""
    if size:
        name = "llvm.memcpy.p0.p0.i64"
        f.module.declare(name, "void", ["ptr", "ptr", "i64", "i1"])
        f.emit(f"call void @{name}(ptr align 4 {target.ref}, ptr align 4 {source.ref}, {f.int(size)}, i1 false)")


def zero_bytes(f: Function, target: Val, size: Number) -> None:
    """Fill a block with zeros."""
    if size:
        name = "llvm.memset.p0.i64"
        f.module.declare(name, "void", ["ptr", "i8", "i64", "i1"])
        f.emit(f"call void @{name}(ptr align 4 {target.ref}, i8 0, {f.int(size)}, i1 false)")


def copy_bordered(
    f: Function,
    target: Val,
    source: Val,
    size: tuple[int, int, int],
    images: Any,
    window: tuple[int, int],
    first: Any,
    column: int,
) -> None:
    """Copy a window of some images, with zeros where it lies outside of them.

    Args:
        source: the first image, row-major.
        size: rows, pixels per row, and bytes per pixel of an image.
        window: rows and pixels per row of the copy.
        first, column: where the window begins in each image; both may be negative.
    """
    height, width, pixel = size
    lines, length = window
    left, right = max(0, -column), max(0, min(length, width - column))
    padded = length * pixel

    def copy(m: Any, r: Any) -> None:
        out = f.at(target, f.mul(f.add(f.mul(m, lines), r), padded))
        y = f.add(first, r)
        inside = f.icmp("ult", f.int(y), height)

        def fill() -> None:
            begin = f.mul(f.add(f.mul(m, height), y), width * pixel)
            zero_bytes(f, out, left * pixel)
            begin = f.add(begin, max(0, column) * pixel)
            copy_bytes(f, f.at(out, left * pixel), f.at(source, begin), (right - left) * pixel)
            zero_bytes(f, f.at(out, right * pixel), padded - right * pixel)

        f.when(inside, fill)
        f.when(f.op("xor", inside, Val("true", "i1")), lambda: zero_bytes(f, out, padded))

    f.loop(0, images, lambda m: f.loop(0, lines, lambda r: copy(m, r)) and None)
