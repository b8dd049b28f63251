"""Recurrent layers whose sizes are known when they run, for eager code: see Note [Known and unknown sizes].

Note [Words of a recurrence]
Words of 8 bytes, `SIZES` from word 2 on; `RecurringKernels.words` has the place of each. Behind them are the
operands and results, each with its address and its strides in bytes. Units are neighbours in all but the weight.

The packed weight is (panel, gate or vector, sum, unit): a block of columns for each vector of units, so that it is
the same for tiles of any width.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from ....ir.dtypes import DType
from ....ir.graph import Graph, Node, Value
from ....ir.primitive import Primitive
from ....ir.types import TensorType
from .. import registers
from ..emit import Function, Module, Number, Val
from ..open import class_of, data, dtype_of, entry, leave, rank, size, stride
from ..target import Target
from .packing import first_lanes, packer
from .sequence import LAYERS, MOST_ROWS, MOST_VECTORS, Recurrence, Site, most_rows
from .tile import kernel_function, scratch_of

SIZES = (
    "n", "times", "size", "depth", "pitch", "tile", "tiles", "rows", "panels", "vectors", "state", "start", "last",
    "step", "units", "packed", "block", "panel_step",
)  # fmt: skip

EXAMPLE = 2  # units of `node_of`


def node_of(p: Primitive, dtype: DType, params: dict[str, Any]) -> Node:
    """A node with the operation's operands, of any sizes."""
    size, layer = EXAMPLE, LAYERS[p.name]
    gates = {"rnn": 1, "lstm": 4, "gru": 3}[p.name.removesuffix("_grad")]
    sequence, wide, flat = (3, 3, size), (3, 3, 4 * size), (3, size)
    shapes: dict[str, tuple[tuple[int, ...], ...]] = {
        "rnn": (sequence, flat),
        "rnn_grad": (sequence, sequence),
        "lstm": (wide, flat, flat),
        "lstm_grad": (sequence, sequence, wide, sequence, wide, flat),
        "gru": ((3, 3, 3 * size), flat, (3 * size,)),
        "gru_grad": (sequence, wide, sequence, wide, flat),
    }
    of_inputs = list(shapes[p.name])
    of_inputs.insert(layer.weight, (gates * size, size))
    graph = Graph(f"eager {p.name}")
    graph.set_outputs(graph.add(p, [graph.add_input(TensorType(s, dtype)) for s in of_inputs], params))
    (node,) = graph.nodes
    return node


class RecurringKernels(Recurrence):
    """Code for one layer of one dtype: "pack" and "layer".

    Attributes:
        words: the place of each size, operand and result among the words.
        count: how many words there are.
    """

    units: Val
    packed: Val
    block: Val
    panel_step: Val

    def __init__(self, node: Node, target: Target):
        super().__init__(node, target)
        self.dtype = node.outputs[0].dtype
        self.stored, self.zeros = list(node.outputs), set()
        self.weight = node.inputs[self.layer.weight]
        self.words: dict[Any, int] = {name: 2 + i for i, name in enumerate(SIZES)}
        self.count = 2 + len(SIZES)
        for value in (*node.inputs, *node.outputs):
            self.words[value] = self.count
            self.count += 1 + len(value.shape)
        self.widths = [self.layer.blocks] if self.layer.blocks > 1 else list(range(1, MOST_VECTORS + 1))
        self.most = {width: most_rows(width, target) for width in self.widths}

    def emit_all(self, module: Module) -> None:
        """Write all functions into a module."""
        self._emit_pack(module)
        self._emit_layer(module)

    def _word(self, f: Function, name: Any, extra: int = 0) -> Val:
        """A word; of operands and results the address, or with 1 and more a stride."""
        ty = "ptr" if name == "packed" or (isinstance(name, Value) and not extra) else "i64"
        return f.load(ty, f.at(f.args[0], 8 * (self.words[name] + extra)), 8)

    # --- the packed weight --------------------------------------------------------------------

    def _emit_pack(self, module: Module) -> None:
        """The kernel "pack": a chunk is a vector of units of a gate."""
        pack = packer(module, self.dtype, self.lanes, 1)
        f = kernel_function(module, "pack")
        _, first, last, _ = f.args
        size, depth, block = (self._word(f, name) for name in ("size", "depth", "block"))
        weight, rows, columns = (self._word(f, self.weight, i) for i in range(3))
        packed, blocks = self._word(f, "packed"), self.layer.blocks
        along, across = (rows, columns) if self.layer.backward else (columns, rows)

        def vector(i: Number) -> None:
            unit = f.mul(f.div(i, blocks), self.lanes)
            line = f.add(unit, f.mul(f.rem(i, blocks), size))
            count = f.int(f.min(f.sub(size, unit), self.lanes))
            to = f.at(packed, f.mul(i, block))
            f.call(pack, [f.at(weight, f.mul(line, across)), along, across, count, depth, to])

        f.loop(first, last, vector)
        f.ret()
        f.finish()

    # --- the product --------------------------------------------------------------------------

    def _emit_tile(self, module: Module, rows: int, width: int) -> str:
        """A tile of the product: rows of the state times `width` blocks of the packed weight."""
        name = f"state{rows}x{width}"
        signature = [
            ("ptr", "a"), ("i64", "am"), ("ptr", "b"), ("i64", "bv"), ("i64", "k"), ("ptr", "c"), ("i64", "cm"),
        ]  # fmt: skip
        f = Function(module, name, signature, attributes="nounwind noinline", private=True)
        a, am, b, bv, k, c, cm = f.args
        size, step = self.held.itemsize, self.lanes * self.held.itemsize
        scalar = registers.HELD[self.held.name]
        starts = range(0, rows, 3)  # an address for three rows: the processor adds a stride once or twice by itself
        threes = [f.at(a, f.mul(am, r)) for r in starts]
        apart = [f.mul(bv, v) for v in range(width)]

        def one(_: Number, b: Val, *carry: Val) -> list[Val]:
            threes, acc = carry[: len(starts)], list(carry[len(starts) :])
            bs = [f.load(self.ty, f.at(b, apart[v]), size) for v in range(width)]
            two = f.value(f"shl i64 {am.ref}, 1", "i64") if rows > 2 else am
            for r in range(rows):
                at = f.at(threes[r // 3], (0, am, two)[r % 3])
                x = f.splat(f.load(scalar, at, size), self.lanes)
                for v in range(width):
                    acc[r * width + v] = f.intrinsic("fma", [x, bs[v], acc[r * width + v]])
            return [f.at(b, step), *[f.at(p, size) for p in threes], *acc]

        zeros = [f.const(0, self.ty)] * (rows * width)
        acc = f.loop(0, k, one, [b, *threes, *zeros])[1 + len(threes) :]
        for r in range(rows):
            for v in range(width):
                f.store(acc[r * width + v], f.at(c, f.add(f.mul(cm, r), v * step)), size)
        f.ret()
        f.finish()
        return name

    def multiply(self, memory: Val, panel: Number, local: Number, depth: Number) -> None:
        f, size = self.f, self.held.itemsize
        a = f.at(self.old, f.mul(local, f.mul(self.pitch, size)))
        b = f.at(self.packed, f.mul(panel, self.panel_step))
        step = f.mul(f.mul(self.layer.blocks, self.vectors), self.lanes * size)
        args = [a, f.int(f.mul(self.pitch, size)), b, self.block, f.int(depth), memory, f.int(step)]
        number = f.sub(self.tile, 1)
        if self.layer.blocks == 1:
            number = f.add(number, f.mul(f.sub(self._width(panel), 1), MOST_ROWS))
        after, labels = f.label("after"), {i: f.label("tile") for i in self.tiles_of}
        targets = " ".join(f"i64 {i}, label %{label}" for i, label in labels.items())
        f.emit(f"switch i64 {f.int(number).ref}, label %{after} [ {targets} ]")
        for i, name in self.tiles_of.items():
            f.start(labels[i])
            f.call(name, args)
            f.emit(f"br label %{after}")
        f.start(after)

    def _width(self, panel: Number) -> Number:
        """Vectors of units of a panel."""
        f = self.f
        if self.layer.blocks > 1:
            return 1
        return f.min(f.sub(self.units, f.mul(panel, self.vectors)), self.vectors)

    # --- the recurrence -----------------------------------------------------------------------

    def _emit_layer(self, module: Module) -> None:
        """The kernel "layer": a chunk is a few rows."""
        self.tiles_of = {
            (width - 1) * MOST_ROWS * (self.layer.blocks == 1) + rows - 1: self._emit_tile(module, rows, width)
            for width in self.widths
            for rows in range(1, self.most[width] + 1)
        }
        f = self.f = kernel_function(module, "layer")
        _, first, last, _ = f.args
        for name in SIZES:
            setattr(self, name, self._word(f, name))
        if self.layer.blocks > 1:
            self.vectors = 1
        self.padded = f.mul(self.units, self.lanes)
        self.bases = {v: self._word(f, v) for v in self.words if isinstance(v, Value) and v is not self.weight}
        self.strides = {v: [self._word(f, v, 1 + d) for d in range(len(v.shape) - 1)] for v in self.bases}
        self.apart = [f.mul(f.mul(self.size, gate), self.dtype.itemsize) for gate in range(4)]  # from gate to gate
        memory = f.alloca(max(rows * width for width, rows in self.most.items()) * self.lanes * self.held.itemsize)
        scratch = scratch_of(f)
        f.loop(first, last, lambda number: self.chunk(number, scratch, memory))
        f.ret()
        f.finish()

    def arrive(self, t: Number, row: Number) -> None:
        self.now = t
        self.here = {v: self._at(v, t, row) for v in self.bases}

    def _at(self, value: Value, t: Number, row: Number) -> Val:
        """The address of a row's first unit."""
        f, strides = self.f, self.strides[value]
        offset: Number = 0
        for i, step in zip((t, row)[2 - len(strides) :], strides, strict=True):
            offset = f.add(offset, f.mul(i, step))
        return f.at(self.bases[value], offset)

    def place(self, site: Site, value: Value, gate: int, t: Number) -> tuple[Val, int]:
        f = self.f
        if t is self.now:
            origin, strides = self.here[value], self.strides[value]
            address = f.at(origin, f.mul(site.local, strides[-1]) if strides else 0)
        else:
            address = self._at(value, t, site.row)
        return f.at(f.at(address, f.mul(site.unit, self.dtype.itemsize)), self.apart[gate]), 1

    def go_through(self, panel: Number, rows: Number, body: Callable[[Number, Number, Number, Any], None]) -> None:
        f, width = self.f, self._width(panel)
        first = f.mul(panel, self.vectors)
        whole = f.min(f.sub(f.div(self.size, self.lanes), first), width)  # vectors that are full

        def vectors(start: Number, stop: Number, masked: bool) -> None:
            def one(u: Number) -> None:
                unit = f.mul(f.add(first, u), self.lanes)
                mask = first_lanes(f, f.sub(self.size, unit), self.lanes) if masked else None
                f.loop(0, rows, lambda r: body(r, u, unit, mask))

            f.loop(start, stop, one)

        vectors(0, whole, False)
        vectors(whole, width, True)


# --- an entry -------------------------------------------------------------------------------------


class Plan:
    """Words of what an entry is told of a call, see `call_entry`."""

    ARRAYS = 0
    PHASES = 1
    CLASS = 2  # addresses of ndarray and of the dtype
    DTYPE = 3
    ITEM = 4  # bytes
    COUNT = 5
    PHASE = 2  # words of a phase: code, chunks
    ARRAY = 6  # words of an array: its place in the table in bytes, whether units may lie apart, rank, sizes


def call_entry(module: Module) -> str:
    """A function for Python, `f(plan, table, first array, ...)`, that runs kernels on arrays; returns its name.

    It puts the arrays' addresses and strides into the table that the kernels get, and returns the plan. If the
    arrays are not as the plan says it runs nothing, and returns the table.
    """
    name = "recurrence"
    f, _, (plan, words) = entry(module, name, 2)
    objects, count = f.args[1:]
    told, table = data(f, plan), data(f, words)
    arrays, phases, kind, dtype, item = (f.load("i64", f.at(told, 8 * i), 8) for i in range(Plan.COUNT))
    plans = f.at(told, f.add(8 * Plan.COUNT, f.mul(phases, 8 * Plan.PHASE)))
    good = f.alloca(8)  # whether all is as it was planned so far
    f.store(f.convert("zext", f.icmp("eq", count, f.add(arrays, 2)), "i64"), good, 8)

    def still_good() -> Val:
        return f.icmp("eq", f.load("i64", good, 8), 1)

    def require(*conditions: Val) -> None:
        both = conditions[0]
        for c in conditions[1:]:
            both = f.op("and", both, c)
        f.store(f.convert("zext", both, "i64"), good, 8)

    def array(i: Number) -> None:
        own = f.load("ptr", f.at(objects, f.mul(f.add(i, 2), 8)), 8)
        expected = f.at(plans, f.mul(i, 8 * Plan.ARRAY))
        place, apart, dims = (f.load("i64", f.at(expected, 8 * k), 8) for k in range(3))
        to = f.at(table, place)

        def is_array() -> None:
            require(f.icmp("eq", class_of(f, own), kind))

        def axis(d: Number) -> None:
            have, step = size(f, own, d), stride(f, own, d)
            is_last = f.icmp("eq", f.add(d, 1), dims)
            beside = f.op("or", f.icmp("eq", step, item), f.icmp("slt", have, 2))
            beside = f.op("or", beside, f.op("xor", is_last, Val("true", "i1")))
            beside = f.op("or", beside, f.icmp("eq", apart, 1))
            fits = f.icmp("eq", have, f.load("i64", f.at(expected, f.mul(f.add(d, 3), 8)), 8))
            require(still_good(), fits, beside)
            f.store(step, f.at(to, f.mul(f.add(d, 1), 8)), 8)

        def is_like_that() -> None:
            require(f.icmp("eq", dtype_of(f, own), dtype), f.icmp("eq", rank(f, own), dims))

        def look() -> None:
            f.store(data(f, own), to, 8)
            f.loop(0, dims, axis)

        for part in (is_array, is_like_that, look):
            f.when(still_good(), part)

    def run(i: Number) -> None:
        at = f.at(told, f.add(f.mul(i, 8 * Plan.PHASE), 8 * Plan.COUNT))
        code, chunks = f.load("ptr", at, 8), f.load("i64", f.at(at, 8), 8)
        f.emit(f"call void {code.ref}({table}, i64 0, {chunks}, i64 0)")

    some = f.select(still_good(), arrays, f.int(0))
    f.loop(0, some, array)
    f.when(still_good(), lambda: f.loop(0, phases, run))
    leave(f, f.select(still_good(), plan, words))
    return name
