"""What recurrent layers do over a sequence, for kernels that know their sizes and for those that are told.

The rows of a batch do not depend on each other, so a chunk is a few rows through all times, and no
thread waits for another. At every time a register tile (a few rows by some vectors of columns) is
the product of the state with the packed recurrent weight, one chain of fused multiply-adds per element;
the gates are computed on the tile. The state lies in the worker's scratch memory, twice: the
old one is read by all tiles while the new one is written.

Forward, the packed weight holds the columns of all gates of the same units side by side, so that a tile
has all that these units need. Backward, the state is the gradient `d` of the gates, of which a
tile makes the gradient of h one step earlier.

Note [Known and unknown sizes]
`Recurrence` is the loops, `Layer` what happens at one place in them. Sizes are Python ints where a kernel is made
for them (recurrent.py) and values of the code where they are arguments (recurring.py); `emit.Function` computes
with both. Kernels differ in how they find an operand, go through the units and multiply.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from ....ir.dtypes import HALVES, DType, float32
from ....ir.graph import Node, Value
from .. import registers
from ..emit import Function, Number, Val, vector
from ..target import Target
from .access import load, store

_PRODUCTS = 24  # vectors of a tile, where there are 32 registers
_CACHED = 1 << 19  # bytes of a weight that a chunk may read again at every time
MOST_VECTORS = 4  # of units, in a tile
MOST_ROWS = 8  # of a tile


class Site:
    """One row and one vector of units at one time: where the gates are computed.

    Attributes:
        t, row: the index in sequences.
        local: the row's number in the chunk.
        unit: the first one.
        count: how many units there are, or a mask; None if the vector is full.
    """

    def __init__(self, kernel: Recurrence, t: Number, row: Number, local: Number, unit: Number, count: Any):
        self.kernel, self.f, self.t, self.row, self.local = kernel, kernel.f, t, row, local
        self.unit, self.count = unit, count

    def read(self, value: Value, gate: int = 0, t: Number | None = None) -> Val:
        """The vector of a gate in a sequence, or in what holds for all times: (N, H) or (H,)."""
        k = self.kernel
        if value in k.zeros:
            return self.f.const(0, k.ty)
        address, stride = k.place(self, value, gate, self.t if t is None else t)
        return load(self.f, address, value.dtype, k.lanes, stride, self.count)

    def write(self, value: Value, v: Val, gate: int = 0) -> None:
        """Store a vector of a gate of a result, if anybody wants it."""
        k = self.kernel
        if value in k.stored:
            address, _ = k.place(self, value, gate, self.t)
            store(self.f, v, address, value.dtype, k.lanes, self.count)

    def _own(self) -> Val:
        """The address of this row's and these units' place in an array that the kernel carries along."""
        k, f = self.kernel, self.f
        return f.at(k.carried, f.mul(f.add(f.mul(self.local, k.padded), self.unit), k.held.itemsize))

    def carry(self, v: Val) -> None:
        self.f.store(v, self._own(), self.kernel.held.itemsize)

    def carried(self) -> Val:
        k = self.kernel
        return self.f.load(k.ty, self._own(), k.held.itemsize)

    def _of_state(self, state: Val, gate: int) -> Val:
        k, f = self.kernel, self.f
        place = f.add(f.mul(self.local, k.pitch), f.add(self.unit, f.mul(gate, k.size)))
        return f.at(state, f.mul(place, k.held.itemsize))

    def put_state(self, v: Val, gate: int = 0) -> None:
        """Store a vector of the new state."""
        k = self.kernel
        store(self.f, v, self._of_state(k.new, gate), k.held, k.lanes, self.count)

    def state(self) -> Val:
        """The vector of the old state of the same units (forward only)."""
        k = self.kernel
        return load(self.f, self._of_state(k.old, 0), k.held, k.lanes, 1, self.count)

    def before(self, states: Value, first: Value) -> Val:
        """What a sequence held before, in the layer's direction; `first` before its begin (backward only)."""
        k, f = self.kernel, self.f
        given = self.read(first)
        if k.times.__class__ is int and k.times == 1:
            return given
        begin = f.icmp("eq", self.t, k.last)
        held = self.read(states, t=f.select(begin, f.int(self.t), f.int(f.add(self.t, k.step))))
        return f.value(f"select {begin}, {given}, {held}", given.ty)

    def op(self, name: str, *args: Val) -> Val:
        """An element-wise primitive."""
        held = self.kernel.held
        return registers.apply(self.f, name, {}, list(args), [held] * len(args), held)

    def one_minus(self, v: Val) -> Val:
        return self.op("sub", self.f.const(1, v.ty), v)


# --- what a layer does --------------------------------------------------------------------------


class Layer:
    """What happens at one site.

    Args:
        node: the operation.

    Attributes:
        weight: which operand is the recurrent weight.
        blocks: gates whose columns lie side by side in the packed weight (1 backward).
        sums: gates over whose units the product sums (1 forward).
        num_carried: arrays (rows, units) that are carried along in scratch memory.
        backward: whether it goes against the layer's direction.
    """

    weight = 2
    blocks = 1
    sums = 1
    num_carried = 0
    backward = False

    def __init__(self, node: Node):
        self.node = node

    def begin(self, site: Site) -> None:
        """Before the first time."""

    def step(self, site: Site, product: list[Val]) -> None:
        """At one time, with the product of the old state."""

    def end(self, site: Site, product: list[Val]) -> None:
        """After the last time (backward only)."""


class _Rnn(Layer):
    def begin(self, site: Site) -> None:
        site.put_state(site.read(self.node.inputs[1]))

    def step(self, site: Site, product: list[Val]) -> None:
        y = site.op(self.node.params["nonlinearity"], site.op("add", site.read(self.node.inputs[0]), product[0]))
        site.write(self.node.outputs[0], y)
        site.put_state(y)


class _RnnGrad(Layer):
    backward = True

    def step(self, site: Site, product: list[Val]) -> None:
        g, ys, _ = self.node.inputs
        d, y = site.op("add", site.read(g), product[0]), site.read(ys)
        if self.node.params["nonlinearity"] == "tanh":
            d = site.op("mul", d, site.one_minus(site.op("mul", y, y)))
        else:
            f, zero = site.f, site.f.const(0, y.ty)
            d = site.op("mul", d, f.select(f.fcmp("ogt", y, zero), f.const(1, y.ty), zero))
        site.write(self.node.outputs[0], d)
        site.put_state(d)

    def end(self, site: Site, product: list[Val]) -> None:
        site.write(self.node.outputs[1], product[0])


class _Lstm(Layer):
    weight = 3
    blocks = 4
    num_carried = 1

    def begin(self, site: Site) -> None:
        site.put_state(site.read(self.node.inputs[1]))
        site.carry(site.read(self.node.inputs[2]))

    def step(self, site: Site, product: list[Val]) -> None:
        x, (ys, cs, a) = self.node.inputs[0], self.node.outputs
        sums = [site.op("add", site.read(x, gate), p) for gate, p in enumerate(product)]
        i, f, g, o = (site.op("tanh" if k == 2 else "sigmoid", v) for k, v in enumerate(sums))
        c = site.op("add", site.op("mul", f, site.carried()), site.op("mul", i, g))
        y = site.op("mul", o, site.op("tanh", c))
        site.carry(c)
        site.put_state(y)
        site.write(ys, y)
        site.write(cs, c)
        for gate, v in enumerate((i, f, g, o)):
            site.write(a, v, gate)


class _LstmGrad(Layer):
    weight = 6
    sums = 4
    num_carried = 1
    backward = True

    def begin(self, site: Site) -> None:
        site.carry(site.f.const(0, site.kernel.ty))

    def step(self, site: Site, product: list[Val]) -> None:
        gy, gc, ga, cs, a, c0, _ = self.node.inputs
        op, zeros = site.op, site.kernel.zeros
        i, f, g, o = (site.read(a, gate) for gate in range(4))
        tanh = op("tanh", site.read(cs))
        dh = product[0] if gy in zeros else op("add", site.read(gy), product[0])
        dc = site.carried() if gc in zeros else op("add", site.carried(), site.read(gc))
        dc = op("add", dc, op("mul", dh, op("mul", o, site.one_minus(op("mul", tanh, tanh)))))
        site.carry(op("mul", dc, f))
        grads = [op("mul", dc, g), op("mul", dc, site.before(cs, c0)), op("mul", dc, i), op("mul", dh, tanh)]
        for gate, (d, y) in enumerate(zip(grads, (i, f, g, o), strict=True)):
            if ga not in zeros:
                d = op("add", d, site.read(ga, gate))
            slope = site.one_minus(op("mul", y, y)) if gate == 2 else op("mul", y, site.one_minus(y))
            d = op("mul", d, slope)
            site.write(self.node.outputs[0], d, gate)
            site.put_state(d, gate)

    def end(self, site: Site, product: list[Val]) -> None:
        site.write(self.node.outputs[1], product[0])
        site.write(self.node.outputs[2], site.carried())


class _Gru(Layer):
    blocks = 3

    def begin(self, site: Site) -> None:
        site.put_state(site.read(self.node.inputs[1]))

    def step(self, site: Site, product: list[Val]) -> None:
        x, _, _, b = self.node.inputs
        ys, a = self.node.outputs
        op = site.op
        pr, pz, m = (op("add", p, site.read(b, gate)) for gate, p in enumerate(product))
        r, z = (op("sigmoid", op("add", site.read(x, gate), p)) for gate, p in enumerate((pr, pz)))
        n = op("tanh", op("add", op("mul", r, m), site.read(x, 2)))
        y = op("add", op("mul", op("sub", site.state(), n), z), n)
        site.put_state(y)
        site.write(ys, y)
        for gate, v in enumerate((r, z, n, m)):
            site.write(a, v, gate)


class _GruGrad(Layer):
    weight = 5
    sums = 3
    num_carried = 1
    backward = True

    def begin(self, site: Site) -> None:
        site.carry(site.f.const(0, site.kernel.ty))

    def step(self, site: Site, product: list[Val]) -> None:
        gy, ga, ys, a, h0, _ = self.node.inputs
        op, zeros = site.op, site.kernel.zeros
        r, z, n, m = (site.read(a, gate) for gate in range(4))
        given = [None if ga in zeros else site.read(ga, gate) for gate in range(4)]

        def plus(v: Val, gate: int) -> Val:
            g = given[gate]
            return v if g is None else op("add", v, g)

        dh = op("add", product[0], site.carried())
        if gy not in zeros:
            dh = op("add", dh, site.read(gy))
        site.carry(op("mul", dh, z))
        dn = plus(op("mul", dh, site.one_minus(z)), 2)
        dz = plus(op("mul", dh, op("sub", site.before(ys, h0), n)), 1)
        dn = op("mul", dn, site.one_minus(op("mul", n, n)))
        dz = op("mul", dz, op("mul", z, site.one_minus(z)))
        dr = op("mul", plus(op("mul", dn, m), 0), op("mul", r, site.one_minus(r)))
        dm = plus(op("mul", dn, r), 3)
        for gate, d in enumerate((dr, dz, dn, dm)):
            site.write(self.node.outputs[0], d, gate)
        for gate, d in enumerate((dr, dz, dm)):
            site.put_state(d, gate)

    def end(self, site: Site, product: list[Val]) -> None:
        site.write(self.node.outputs[1], site.op("add", product[0], site.carried()))


LAYERS: dict[str, type[Layer]] = {
    "rnn": _Rnn, "rnn_grad": _RnnGrad, "lstm": _Lstm, "lstm_grad": _LstmGrad, "gru": _Gru, "gru_grad": _GruGrad,
}  # fmt: skip


# --- the recurrence -------------------------------------------------------------------------------


class Recurrence:
    """The loops that all layers share, for one layer, dtype and processor.

    Attributes:
        n, times: rows of the batch, and times.
        size, padded: units, and units that carried arrays have room for.
        depth, pitch: length of the state, over which the product sums, and from row to row.
        tile, tiles, rows: rows of a register tile, tiles of a chunk, and rows of a chunk.
        panels, vectors: panels of the weight, and vectors of units in a panel.
        state: bytes of a state.
        start, last, step: the first time, the last one, and how far it is to the next one.
        stored: results that somebody wants.
        zeros: operands known to be zeros.
        old, new, carried: the addresses of what lies in scratch memory.
    """

    f: Function
    n: Number
    times: Number
    size: Number
    padded: Number
    depth: Number
    pitch: Number
    tile: Number
    tiles: Number
    rows: Number
    panels: Number
    vectors: Number
    state: Number
    start: Number
    last: Number
    step: Number
    old: Val
    new: Val
    carried: Val
    zeros: set[Value]
    stored: list[Value]

    def __init__(self, node: Node, target: Target):
        self.node, self.target = node, target
        self.layer = LAYERS[node.prim.name](node)
        dtype = node.outputs[0].dtype
        self.held: DType = float32 if dtype in HALVES else dtype
        self.lanes = target.lanes(self.held.itemsize)
        self.ty = vector(registers.HELD[self.held.name], self.lanes)

    def place(self, site: Site, value: Value, gate: int, t: Number) -> tuple[Val, int]:
        """The address of a site's first unit of a gate in an operand or result, and its units' stride."""
        raise NotImplementedError

    def go_through(self, panel: Number, rows: Number, body: Callable[[Number, Number, Number, Any], None]) -> None:
        """Code for rows and vectors of units of a panel: `body(row, number of the vector, first unit, count)`."""
        raise NotImplementedError

    def multiply(self, memory: Val, panel: Number, local: Number, depth: Number) -> None:
        """Put a tile into memory, (row, gate, vector): rows of the old state, from `local` on, times a panel."""
        raise NotImplementedError

    def arrive(self, t: Number, row: Number) -> None:
        """Sites that follow are at this time, in the chunk that begins with this row."""

    def chunk(self, number: Number, scratch: Val, memory: Val) -> None:
        """Code for a chunk; `memory` has room for a tile of the product."""
        f, layer = self.f, self.layer
        # the last rows overlap those before: they are computed twice, to the same bits
        row = f.min(f.mul(number, self.rows), f.sub(self.n, self.rows))
        self.carried = f.at(scratch, f.mul(2, self.state))
        self.old = self.new = scratch
        self._begin(row)

        def step(s: Number) -> None:
            odd = f.rem(s, 2)
            self.old = f.at(scratch, f.mul(odd, self.state))
            self.new = f.at(scratch, f.sub(self.state, f.mul(odd, self.state)))
            depth = self.depth
            if layer.backward:  # before the last time there is no state
                depth = f.select(f.icmp("eq", s, 0), f.int(0), f.int(depth)) if isinstance(s, Val) else 0
            self._tiles(memory, row, f.add(self.start, f.mul(s, self.step)), depth, layer.step)

        f.loop(0, self.times, step)
        if layer.backward:
            self.old = f.at(scratch, f.mul(f.rem(self.times, 2), self.state))
            self._tiles(memory, row, 0, self.depth, layer.end)

    def _begin(self, row: Number) -> None:
        """Code for every row of a chunk and every vector of units."""
        self.arrive(0, row)

        def site(r: Number, _: Number, unit: Number, count: Any) -> None:
            self.layer.begin(Site(self, 0, self.f.add(row, r), r, unit, count))

        self.f.loop(0, self.panels, lambda p: self.go_through(p, self.rows, site))

    def _tiles(
        self, memory: Val, row: Number, t: Number, depth: Number, body: Callable[[Site, list[Val]], None]
    ) -> None:
        """All register tiles of a chunk at one time; a panel of the weight serves all rows."""
        f, size = self.f, self.held.itemsize
        self.arrive(t, row)

        def tile(p: Number, local: Number) -> None:
            self.multiply(memory, p, local, depth)

            def site(r: Number, u: Number, unit: Number, count: Any) -> None:
                first = f.add(f.mul(r, f.mul(self.layer.blocks, self.vectors)), u)
                places = [f.add(first, f.mul(gate, self.vectors)) for gate in range(self.layer.blocks)]
                product = [f.load(self.ty, f.at(memory, f.mul(i, self.lanes * size)), size) for i in places]
                here = f.add(local, r)
                body(Site(self, t, f.add(row, here), here, unit, count), product)

            self.go_through(p, self.tile, site)

        f.loop(0, self.panels, lambda p: f.loop(0, self.tiles, lambda i: tile(p, f.mul(i, self.tile))) and None)


def panels_of(blocks: int, size: int, lanes: int) -> tuple[int, int]:
    """Panels of a weight, and vectors of units in each."""
    units = -(-size // lanes)
    panels = -(-units // MOST_VECTORS) if blocks == 1 else units
    return panels, -(-units // panels)


def most_rows(width: int, target: Target) -> int:
    """How many rows a tile of some vectors has at the most."""
    return min(MOST_ROWS, max(1, (_PRODUCTS if target.num_registers >= 32 else 8) // width))


def rows_of(n: int, most: int, weight_bytes: int) -> tuple[int, int]:
    """Rows of a tile and tiles of a chunk, for a number of rows and a packed weight."""
    tile = min(n, min(range(most, most // 2, -1), key=lambda r: -(-n // r) * r))
    tiles = 1 if weight_bytes <= _CACHED else 2 if weight_bytes <= 8 * _CACHED else 4
    return tile, max(1, min(tiles, n // tile))
