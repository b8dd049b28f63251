"""Recurrent layers over a sequence, forward and backward, made for their sizes: see sequence.py.

Only the number of rows is read from the kernel's table, see Note [Sizes].
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np

from ....ir.dtypes import HALVES, float32, float64
from ....ir.graph import Node, Value
from .. import registers
from ..emit import Function, Number, Val
from ..layout import MOVEMENT, Buffer, View
from ..sizes import planned
from ..step import Step
from .access import load, store
from .contract import _transpose_function
from .sequence import LAYERS, Recurrence, Site, most_rows, panels_of, rows_of
from .tile import bases_of, kernel_function, scratch_of


class _Recurrent(Recurrence):
    """The kernels of one node of a program.

    Attributes:
        width: columns of a panel of the packed weight.
    """

    n: int
    times: int
    size: int
    padded: int
    depth: int
    tile: int
    tiles: int
    rows: int
    panels: int
    vectors: int
    state: int

    def __init__(self, lowering: Any, node: Node):
        super().__init__(node, lowering.target)
        self.lowering, layer = lowering, self.layer
        self.weight = node.inputs[layer.weight]
        self.times, self.n = times, n = node.outputs[0].shape[:2]
        self.size = self.weight.shape[1]
        goes_back = node.params["reverse"] != layer.backward
        self.start, self.last, self.step = (times - 1, 0, -1) if goes_back else (0, times - 1, 1)
        self.depth = self.pitch = layer.sums * self.size
        self.panels, self.vectors = panels_of(layer.blocks, self.size, self.lanes)
        self.width = layer.blocks * self.vectors * self.lanes
        self.padded = self.panels * self.vectors * self.lanes
        most = most_rows(layer.blocks * self.vectors, self.target)
        for number in (planned(n), int(n)):
            weight_bytes = self.depth * self.padded * layer.blocks * self.held.itemsize
            self.tile, self.tiles = rows_of(number, most, weight_bytes)
            self.rows = self.tile * self.tiles
            if self.rows <= n:
                break
        self.state = -(-self.rows * self.depth * self.held.itemsize // 64) * 64
        self.views: dict[Value, View] = {v: lowering._view_of(v) for v in (*node.inputs, *node.outputs)}
        self.stored = [v for v in node.outputs if v in lowering.wanted]
        self.zeros = {v for v in node.inputs if _is_zero(lowering, v)}

    # --- the packed weight --------------------------------------------------------------------

    def _strides(self) -> tuple[int, int, int]:
        """In the weight: along the sum, along the units, and from gate to gate."""
        rows, columns = self.views[self.weight].strides
        return (rows, columns, 0) if self.layer.backward else (columns, rows, self.size * rows)

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
                for gate in range(self.layer.blocks):
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
        carried = self.layer.num_carried * self.rows * self.padded * self.held.itemsize
        self.lowering.scratch = max(self.lowering.scratch, 2 * self.state + carried)
        scratch, memory = scratch_of(f), f.alloca(self.tile * self.width * self.held.itemsize)
        _, first, last, _ = f.args
        f.loop(first, last, lambda number: self.chunk(number, scratch, memory))
        f.ret()
        f.finish()
        chunks = -(-self.n // self.rows)
        return Step("recurrent", [self.node], chunks, symbol, tuple(dict.fromkeys(buffers)))

    def place(self, site: Site, value: Value, gate: int, t: Number) -> tuple[Val, int]:
        view, f = self.views[value], self.f
        index = (t, site.row, f.add(site.unit, gate * self.size))[3 - len(view.shape) :]
        offset: Any = view.offset
        for i, s in zip(index, view.strides, strict=True):
            offset = f.add(offset, f.mul(i, s))
        return f.at(self.bases[view.buffer], f.mul(offset, view.dtype.itemsize)), view.strides[-1]

    def go_through(self, panel: Number, rows: Number, body: Callable[[Number, Number, Number, Any], None]) -> None:
        f, lanes = self.f, self.lanes

        def row(r: Number, counts: list[int]) -> None:
            for u, count in enumerate(counts):
                if count:
                    unit = f.mul(f.add(f.mul(panel, self.vectors), u), lanes)
                    body(r, u, unit, None if count == lanes else count)

        self._by_panel(f, panel, lambda counts: f.loop(0, rows, lambda r: row(r, counts)))

    def multiply(self, memory: Val, panel: Number, local: Number, depth: Number) -> None:
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

        acc = f.loop(0, depth, step, [f.const(0, self.ty)] * (self.tile * vectors))
        for i, v in enumerate(acc):
            f.store(v, f.at(memory, i * self.lanes * size), size)


def _is_zero(lowering: Any, value: Value) -> bool:
    """Whether a value is a constant of zeros, such as the gradient of a result that nobody used."""
    while value.node is not None and value.node.prim.name in MOVEMENT:
        value = value.node.inputs[0]
    array = lowering.graph.constants.get(value)
    return array is not None and not np.any(array)


def _lower(lowering: Any, node: Node, symbol: str) -> list[Step] | None:
    dtype = node.outputs[0].dtype
    if not (dtype in HALVES or dtype in (float32, float64)) or any(0 in v.shape for v in node.inputs):
        return None
    kernel = _Recurrent(lowering, node)
    return [kernel.pack(symbol + "p"), kernel.emit(symbol)]


LOWERINGS: dict[str, Callable[[Any, Node, str], list[Step] | None]] = dict.fromkeys(LAYERS, _lower)
