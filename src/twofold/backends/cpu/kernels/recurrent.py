"""Recurrent layers over a sequence, forward and backward: one kernel for all times.

The rows of a batch do not depend on each other, so a chunk is a few rows through all times, and no
thread waits for another. At every time a register tile (a few rows by some vectors of columns) is
the product of the state with the packed recurrent weight, one chain of fused multiply-adds per element;
the gates are computed on the tile. The state lies in the worker's scratch memory, twice: the
old one is read by all tiles while the new one is written.

Forward, the packed weight holds the columns of all gates of the same units side by side, so that a tile
has all that these units need. Backward, the state is the gradient `d` of the gates, of which a
tile makes the gradient of h one step earlier.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np

from ....ir.dtypes import HALVES, DType, float32, float64
from ....ir.graph import Node, Value
from .. import registers, vgates
from ..emit import Function, Val, vector
from ..layout import MOVEMENT, Buffer, View
from ..sizes import planned
from ..step import Step
from .access import load, store
from .contract import _transpose_function
from .tile import bases_of, kernel_function, scratch_of

_GATES = {"sigmoid": vgates.sigmoid, "tanh": vgates.tanh}
_PRODUCTS = 24  # vectors of a tile, where there are 32 registers
_CACHED = 1 << 19  # bytes of a weight that a chunk may read again at every time


class _Site:
    """One row and one vector of units at one time: where the gates are computed."""

    def __init__(
        self, kernel: _Recurrence, f: Function, t: Any, row: Any, local: Any, unit: Any, count: int | None
    ):
        self.kernel, self.f, self.t, self.row, self.local = kernel, f, t, row, local
        self.unit, self.count = unit, count

    def _at(self, value: Value, *index: Any) -> Val:
        view, f = self.kernel.views[value], self.f
        offset: Any = view.offset
        for i, s in zip(index, view.strides, strict=True):
            offset = f.add(offset, f.mul(i, s))
        return f.at(self.kernel.bases[view.buffer], f.mul(offset, view.dtype.itemsize))

    def read(self, value: Value, gate: int = 0, t: Any = None) -> Val:
        """The vector of a gate in a sequence, or in what holds for all times: (N, H) or (H,)."""
        k, view = self.kernel, self.kernel.views[value]
        if value in k.zeros:
            return self.f.const(0, k.ty)
        column = self.f.add(self.unit, gate * k.size)
        index = (self.t if t is None else t, self.row, column)[3 - len(view.shape) :]
        return load(self.f, self._at(value, *index), view.dtype, k.lanes, view.strides[-1], self.count)

    def write(self, value: Value, v: Val, gate: int = 0) -> None:
        """Store a vector of a gate of a result, if anybody wants it."""
        k = self.kernel
        if value not in k.stored:
            return
        view = k.views[value]
        column = self.f.add(self.unit, gate * k.size)
        index = (self.t, self.row, column)[3 - len(view.shape) :]
        store(self.f, v, self._at(value, *index), view.dtype, k.lanes, self.count)

    def own(self, number: int = 0) -> Val:
        """The address of this row's and these units' place in an array that the kernel carries along."""
        k, f = self.kernel, self.f
        place = f.add(f.mul(f.add(self.local, number * k.rows), k.padded), self.unit)
        return f.at(k.carried, f.mul(place, k.held.itemsize))

    def carry(self, v: Val, number: int = 0) -> None:
        self.f.store(v, self.own(number), self.kernel.held.itemsize)

    def carried(self, number: int = 0) -> Val:
        k = self.kernel
        return self.f.load(k.ty, self.own(number), k.held.itemsize)

    def put_state(self, v: Val, gate: int = 0) -> None:
        """Store a vector of the new state."""
        k, f = self.kernel, self.f
        place = f.add(f.mul(self.local, k.depth), f.add(self.unit, gate * k.size))
        store(f, v, f.at(k.new, f.mul(place, k.held.itemsize)), k.held, k.lanes, self.count)

    def state(self) -> Val:
        """The vector of the old state of the same units (forward only)."""
        k, f = self.kernel, self.f
        place = f.add(f.mul(self.local, k.depth), self.unit)
        return load(f, f.at(k.old, f.mul(place, k.held.itemsize)), k.held, k.lanes, 1, self.count)

    def before(self, states: Value, first: Value) -> Val:
        """What a sequence held one step earlier in the layer's direction; `first` before its begin."""
        k, f = self.kernel, self.f
        start, step = (k.times - 1, 1) if k.reverse else (0, -1)
        given = self.read(first)
        if k.times == 1:
            return given
        begin = f.icmp("eq", self.t, start)
        other = f.select(begin, f.int(self.t), f.int(f.add(self.t, step)))
        held = self.read(states, t=other)
        return f.value(f"select {begin}, {given}, {held}", given.ty)

    def op(self, name: str, *args: Val) -> Val:
        """An element-wise primitive."""
        held = self.kernel.held
        if held is float32 and name in _GATES:
            return _GATES[name](self.f, *args)
        return registers.apply(self.f, name, {}, list(args), [held] * len(args), held)

    def one_minus(self, v: Val) -> Val:
        return self.op("sub", self.f.const(1, v.ty), v)


class _Recurrence:
    """The loops that all layers share; subclasses say what happens at one site.

    Attributes:
        blocks: gates whose columns lie side by side in the packed weight (1 backward).
        depth: length of the state, over which the product sums.
        num_carried: arrays (rows, units) that are carried along in scratch memory.
    """

    blocks = 1
    num_carried = 0
    backward = False

    def __init__(self, lowering: Any, node: Node, weight: Value):
        self.lowering, self.node, self.weight = lowering, node, weight
        target = lowering.target
        dtype = node.outputs[0].dtype
        self.held: DType = float32 if dtype in HALVES else dtype
        self.lanes = target.lanes(self.held.itemsize)
        self.ty = vector(registers.HELD[self.held.name], self.lanes)
        self.times, self.n = node.outputs[0].shape[:2]
        self.size = weight.shape[1]
        self.reverse = node.params["reverse"]
        self.depth = weight.shape[0] if self.backward else self.size
        units = -(-self.size // self.lanes)
        self.panels = -(-units // 4) if self.blocks == 1 else units
        self.vectors = -(-units // self.panels)  # of units in a panel
        self.width = self.blocks * self.vectors * self.lanes
        self.padded = self.panels * self.vectors * self.lanes
        most = max(1, (_PRODUCTS if target.num_registers >= 32 else 8) // (self.blocks * self.vectors))
        most = min(8, most)
        weight_bytes = self.depth * self.padded * self.blocks * self.held.itemsize
        tiles = 1 if weight_bytes <= _CACHED else 2 if weight_bytes <= 8 * _CACHED else 4
        for n in (planned(self.n), int(self.n)):
            self.tile = min(n, min(range(most, most // 2, -1), key=lambda r: -(-n // r) * r))
            self.tiles = max(1, min(tiles, n // self.tile))
            self.rows = self.tile * self.tiles
            if self.rows <= self.n:
                break
        self.chunks = -(-self.n // self.rows)
        self.views: dict[Value, View] = {v: lowering._view_of(v) for v in (*node.inputs, *node.outputs)}
        self.stored = [v for v in node.outputs if v in lowering.wanted]
        self.zeros = {v for v in node.inputs if _is_zero(lowering, v)}

    # --- the packed weight --------------------------------------------------------------------

    def _strides(self) -> tuple[int, int, int]:
        """In the weight: along the sum, along the units, and from gate to gate."""
        rows, columns = self.views[self.weight].strides
        return (rows, columns, 0) if self.backward else (columns, rows, self.size * rows)

    def pack(self, symbol: str) -> Step:
        """The kernel that lays out the weight as (panel, sum, gate, unit), in the dtype of registers."""
        view, size = self.views[self.weight], self.held.itemsize
        self.packed: Buffer = self.lowering.buffer("temp", self.held, self.panels * self.depth * self.width)
        f = kernel_function(self.lowering.module, symbol)
        bases = bases_of(f, [view.buffer, self.packed])
        _, first, last, _ = f.args
        along, across, apart = self._strides()
        item = view.dtype.itemsize
        whole = self.depth // self.lanes * self.lanes
        quick = view.dtype is float32 and along == 1 and across != 1 and whole > 0

        def column(panel: Any, gate: int, u: int, count: int) -> None:
            unit = f.mul(f.add(f.mul(panel, self.vectors), u), self.lanes)
            begin = f.add(view.offset, f.add(f.mul(unit, across), gate * apart))
            source = f.at(bases[view.buffer], f.mul(begin, item))
            place = f.add(f.mul(panel, self.depth * self.width), (gate * self.vectors + u) * self.lanes)
            target = f.at(bases[self.packed], f.mul(place, size))

            def one(k: Any) -> None:
                v = f.const(0, self.ty)
                if count:
                    v = load(f, f.at(source, f.mul(k, along * item)), view.dtype, self.lanes, across, count)
                store(f, v, f.at(target, f.mul(k, self.width * size)), self.held, self.lanes)

            def square(k: Any) -> None:
                block, place = f.at(source, f.mul(k, item)), f.at(target, f.mul(k, self.width * size))
                f.call(name, [block, f.int(across * item), place, f.int(self.width * size), f.int(count)])

            if quick and count:
                name = _transpose_function(f.module, self.lanes, size)
                f.loop(0, whole, square, step=self.lanes)
                if whole < self.depth:
                    square(self.depth - self.lanes)
            else:
                f.loop(0, self.depth, one)

        def panel(number: Any) -> None:
            def columns(counts: list[int]) -> None:
                for gate in range(self.blocks):
                    for u, count in enumerate(counts):
                        column(number, gate, u, count)

            self._by_panel(f, number, columns)

        f.loop(first, last, panel)
        f.ret()
        f.finish()
        return Step("pack", [self.node], self.panels, symbol, (view.buffer, self.packed))

    def _by_panel(self, f: Function, panel: Any, body: Callable[[list[int]], Any]) -> None:
        """Code for a panel, with the number of units that each of its vectors has."""
        lanes = self.lanes
        counts = [max(0, min(lanes, self.size - at * lanes)) for at in range(self.panels * self.vectors)]
        full, last = [lanes] * self.vectors, counts[-self.vectors :]
        if full == last:
            body(full)
            return
        if self.panels > 1:
            f.when(f.icmp("slt", panel, self.panels - 1), lambda: body(full))
            f.when(f.icmp("eq", panel, self.panels - 1), lambda: body(last))
            return
        body(last)

    # --- the recurrence -----------------------------------------------------------------------

    def emit(self, symbol: str) -> Step:
        """The kernel; `pack` comes before."""
        f = self.f = kernel_function(self.lowering.module, symbol)
        values = [v for v in self.node.inputs if v is not self.weight and v not in self.zeros]
        buffers = [self.views[v].buffer for v in (*values, *self.stored)] + [self.packed]
        self.bases = bases_of(f, buffers)
        size = self.held.itemsize
        state = -(-self.rows * self.depth * size // 64) * 64
        carried = self.rows * self.padded * size
        self.lowering.scratch = max(self.lowering.scratch, 2 * state + self.num_carried * carried)
        scratch = scratch_of(f)
        self.carried = f.at(scratch, 2 * state)
        _, first, last, _ = f.args

        def chunk(number: Any) -> None:
            # the last rows overlap those before: they are computed twice, to the same bits
            row = f.min(f.mul(number, self.rows), self.n - self.rows)
            self.old = self.new = scratch
            self._sites(row, 0, lambda site: self.begin(site))

            def step(s: Any) -> None:
                odd = f.rem(s, 2)
                self.old = f.at(scratch, f.mul(odd, state))
                self.new = f.at(scratch, f.sub(state, f.mul(odd, state)))
                t = f.sub(self.times - 1, s) if self.reverse != self.backward else s
                depth: Any = self.depth
                if self.backward:  # before the last time there is no state
                    depth = 0 if self.times == 1 else f.select(f.icmp("eq", s, 0), f.int(0), f.int(depth))
                self._tiles(row, t, depth, self.step)

            f.loop(0, self.times, step)
            if self.backward:
                self.old = f.at(scratch, self.times % 2 * state)
                self._tiles(row, 0, self.depth, self.end)

        f.loop(first, last, chunk)
        f.ret()
        f.finish()
        return Step("recurrent", [self.node], self.chunks, symbol, tuple(dict.fromkeys(buffers)))

    def _sites(self, row: Any, t: Any, body: Callable[[_Site], None]) -> None:
        """Code for every row of a chunk and every vector of units."""
        f = self.f

        def panel(p: Any) -> None:
            def columns(counts: list[int]) -> None:
                f.loop(0, self.rows, lambda r: self._row(row, t, p, r, counts, lambda site, _: body(site)))

            self._by_panel(f, p, columns)

        f.loop(0, self.panels, panel)

    def _row(
        self, row: Any, t: Any, panel: Any, local: Any, counts: list[int], body: Callable[[_Site, int], None]
    ) -> None:
        f = self.f
        for u, count in enumerate(counts):
            if count:
                unit = f.mul(f.add(f.mul(panel, self.vectors), u), self.lanes)
                part = None if count == self.lanes else count
                body(_Site(self, f, t, f.add(row, local), local, unit, part), u)

    def _tiles(self, row: Any, t: Any, depth: Any, body: Callable[[_Site, list[Val]], None]) -> None:
        """All register tiles of a chunk at one time; a panel of the weight serves all rows."""
        f, size = self.f, self.held.itemsize
        memory = f.alloca(self.tile * self.width * size)

        def tile(p: Any, local: Any) -> None:
            acc = self._product(p, local, depth)
            for i, v in enumerate(acc):
                f.store(v, f.at(memory, i * self.lanes * size), size)

            def finish(r: Any, counts: list[int]) -> None:
                here = f.at(memory, f.mul(r, self.width * size))

                def at_site(site: _Site, u: int) -> None:
                    places = (gate * self.vectors + u for gate in range(self.blocks))
                    body(site, [f.load(self.ty, f.at(here, i * self.lanes * size), size) for i in places])

                self._row(row, t, p, f.add(local, r), counts, at_site)

            self._by_panel(f, p, lambda counts: f.loop(0, self.tile, lambda r: finish(r, counts)) and None)

        f.loop(0, self.panels, lambda p: f.loop(0, self.tiles, lambda i: tile(p, f.mul(i, self.tile))) and None)

    def _product(self, panel: Any, local: Any, depth: Any) -> list[Val]:
        """The register tile: rows of the old state times a panel of the weight."""
        f, size = self.f, self.held.itemsize
        vectors = self.width // self.lanes
        a0 = f.at(self.old, f.mul(local, self.depth * size))
        b0 = f.at(self.bases[self.packed], f.mul(panel, self.depth * self.width * size))
        scalar = registers.HELD[self.held.name]

        def step(k: Any, *acc: Val) -> list[Val]:
            out = list(acc)
            b = f.at(b0, f.mul(k, self.width * size))
            bs = [f.load(self.ty, f.at(b, v * self.lanes * size), size) for v in range(vectors)]
            a = f.at(a0, f.mul(k, size))
            for r in range(self.tile):
                x = f.splat(f.load(scalar, f.at(a, r * self.depth * size), size), self.lanes)
                for v in range(vectors):
                    out[r * vectors + v] = f.intrinsic("fma", [x, bs[v], out[r * vectors + v]])
            return out

        return f.loop(0, depth, step, [f.const(0, self.ty)] * (self.tile * vectors))

    # --- what a layer does ----------------------------------------------------------------------

    def begin(self, site: _Site) -> None:
        """Before the first time."""

    def step(self, site: _Site, product: list[Val]) -> None:
        """At one time, with the product of the old state."""

    def end(self, site: _Site, product: list[Val]) -> None:
        """After the last time (backward only)."""


class _Rnn(_Recurrence):
    def begin(self, site: _Site) -> None:
        site.put_state(site.read(self.node.inputs[1]))

    def step(self, site: _Site, product: list[Val]) -> None:
        y = site.op(self.node.params["nonlinearity"], site.op("add", site.read(self.node.inputs[0]), product[0]))
        site.write(self.node.outputs[0], y)
        site.put_state(y)


class _RnnGrad(_Recurrence):
    backward = True

    def step(self, site: _Site, product: list[Val]) -> None:
        g, ys, _ = self.node.inputs
        d, y = site.op("add", site.read(g), product[0]), site.read(ys)
        if self.node.params["nonlinearity"] == "tanh":
            d = site.op("mul", d, site.one_minus(site.op("mul", y, y)))
        else:
            f, zero = site.f, site.f.const(0, y.ty)
            d = site.op("mul", d, f.select(f.fcmp("ogt", y, zero), f.const(1, y.ty), zero))
        site.write(self.node.outputs[0], d)
        site.put_state(d)

    def end(self, site: _Site, product: list[Val]) -> None:
        site.write(self.node.outputs[1], product[0])


class _Lstm(_Recurrence):
    blocks = 4
    num_carried = 1

    def begin(self, site: _Site) -> None:
        site.put_state(site.read(self.node.inputs[1]))
        site.carry(site.read(self.node.inputs[2]))

    def step(self, site: _Site, product: list[Val]) -> None:
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


class _LstmGrad(_Recurrence):
    num_carried = 1
    backward = True

    def begin(self, site: _Site) -> None:
        site.carry(site.f.const(0, self.ty))

    def step(self, site: _Site, product: list[Val]) -> None:
        gy, gc, ga, cs, a, c0, _ = self.node.inputs
        op = site.op
        i, f, g, o = (site.read(a, gate) for gate in range(4))
        tanh = op("tanh", site.read(cs))
        dh = product[0] if gy in self.zeros else op("add", site.read(gy), product[0])
        dc = site.carried() if gc in self.zeros else op("add", site.carried(), site.read(gc))
        dc = op("add", dc, op("mul", dh, op("mul", o, site.one_minus(op("mul", tanh, tanh)))))
        site.carry(op("mul", dc, f))
        grads = [op("mul", dc, g), op("mul", dc, site.before(cs, c0)), op("mul", dc, i), op("mul", dh, tanh)]
        for gate, (d, y) in enumerate(zip(grads, (i, f, g, o), strict=True)):
            if ga not in self.zeros:
                d = op("add", d, site.read(ga, gate))
            slope = site.one_minus(op("mul", y, y)) if gate == 2 else op("mul", y, site.one_minus(y))
            d = op("mul", d, slope)
            site.write(self.node.outputs[0], d, gate)
            site.put_state(d, gate)

    def end(self, site: _Site, product: list[Val]) -> None:
        site.write(self.node.outputs[1], product[0])
        site.write(self.node.outputs[2], site.carried())


class _Gru(_Recurrence):
    blocks = 3

    def begin(self, site: _Site) -> None:
        site.put_state(site.read(self.node.inputs[1]))

    def step(self, site: _Site, product: list[Val]) -> None:
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


class _GruGrad(_Recurrence):
    num_carried = 1
    backward = True

    def begin(self, site: _Site) -> None:
        site.carry(site.f.const(0, self.ty))

    def step(self, site: _Site, product: list[Val]) -> None:
        gy, ga, ys, a, h0, _ = self.node.inputs
        op = site.op
        r, z, n, m = (site.read(a, gate) for gate in range(4))
        given = [None if ga in self.zeros else site.read(ga, gate) for gate in range(4)]

        def plus(v: Val, gate: int) -> Val:
            g = given[gate]
            return v if g is None else op("add", v, g)

        dh = op("add", product[0], site.carried())
        if gy not in self.zeros:
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

    def end(self, site: _Site, product: list[Val]) -> None:
        site.write(self.node.outputs[1], site.op("add", product[0], site.carried()))


def _is_zero(lowering: Any, value: Value) -> bool:
    """Whether a value is a constant of zeros, such as the gradient of a result that nobody used."""
    while value.node is not None and value.node.prim.name in MOVEMENT:
        value = value.node.inputs[0]
    array = lowering.graph.constants.get(value)
    return array is not None and not np.any(array)


def _lower(kind: type[_Recurrence], weight: int) -> Callable[[Any, Node, str], list[Step] | None]:
    def lower(lowering: Any, node: Node, symbol: str) -> list[Step] | None:
        dtype = node.outputs[0].dtype
        if not (dtype in HALVES or dtype in (float32, float64)) or any(0 in v.shape for v in node.inputs):
            return None
        kernel = kind(lowering, node, node.inputs[weight])
        return [kernel.pack(symbol + "p"), kernel.emit(symbol)]

    return lower


LOWERINGS: dict[str, Callable[[Any, Node, str], list[Step] | None]] = {
    "rnn": _lower(_Rnn, 2),
    "rnn_grad": _lower(_RnnGrad, 2),
    "lstm": _lower(_Lstm, 3),
    "lstm_grad": _lower(_LstmGrad, 6),
    "gru": _lower(_Gru, 2),
    "gru_grad": _lower(_GruGrad, 5),
}
