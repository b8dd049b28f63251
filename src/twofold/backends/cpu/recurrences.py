"""Recurrent layers of arrays on open kernels (kernels/recurring.py), of any length, batch and hidden size."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np

from ...ir.dtypes import DType
from ...ir.primitive import Primitive
from ...ir.types import Shape
from . import open as _open
from .emit import Module
from .kernels.recurring import EXAMPLE, RecurringKernels, call_entry, node_of
from .kernels.sequence import most_rows, panels_of, rows_of
from .target import Target, host

Array = np.ndarray[Any, Any]

HAS_ENTRIES = _open.HAS_ENTRIES
_LITTLE = 1 << 21  # multiply-adds that an entry does: up to 100 us with the gates
_ALONE = 1 << 23  # and of what no other thread could help with
_GATE = 32  # multiply-adds that a gate is worth
_SCRATCH = 1 << 21  # bytes of memory of an entry


class Plan:
    """What is known of calls with operands of given shapes.

    Attributes:
        shapes: of the results.
        little: whether there is so little to do that an entry does it.
        table: the arguments of the kernels, to which the arrays' addresses and strides are to be added.
        told: what the entry is told.
        phases: code and number of chunks of each kernel.
        packed, scratch: bytes of the packed weight, and of memory for each thread.
    """

    shapes: list[Shape]
    little: bool
    table: Array
    told: Array
    phases: list[tuple[int, int]]
    packed: int
    scratch: int


class Recurrent:
    """One recurrent layer or its derivative, of one dtype.

    Args:
        params: of the operation; the direction may be any.
        target: the processor; this one's by default.
    """

    def __init__(self, p: Primitive, dtype: DType, params: dict[str, Any], target: Target | None = None):
        self.target = target or host()
        self.node, self.dtype = node_of(p, dtype, params), dtype
        self.kernels = kernels = RecurringKernels(self.node, self.target)
        self.layer = kernels.layer
        module = Module(self.target)
        kernels.emit_all(module)
        self._code = _open.Loaded(module, self.target)
        self._pack, self._layer = self._code.address("pack"), self._code.address("layer")
        self._values = (*self.node.inputs, *self.node.outputs)

    def plan(self, shapes: list[Shape], reverse: bool) -> Plan:
        """For operands of these shapes, which fit together and are not empty."""
        kernels, layer, made = self.kernels, self.layer, Plan()
        held, lanes = kernels.held.itemsize, kernels.lanes
        times, n = shapes[0][:2]
        size = shapes[layer.weight][1]
        depth, units = layer.sums * size, -(-size // lanes)
        pitch = -(-depth // lanes) * lanes
        block = pitch * lanes * held
        made.packed = units * layer.blocks * block
        panels, vectors = panels_of(layer.blocks, size, lanes)
        tile, tiles = rows_of(n, most_rows(layer.blocks * vectors, self.target), made.packed)
        rows = tile * tiles
        state = -(-rows * pitch * held // 64) * 64
        made.scratch = -(-(2 * state + layer.num_carried * rows * units * lanes * held) // 4096) * 4096
        first, last = (times - 1, 0) if reverse != layer.backward else (0, times - 1)
        made.table = self._table({
            "n": n, "times": times, "size": size, "depth": depth, "pitch": pitch, "tile": tile, "tiles": tiles,
            "rows": rows, "panels": panels, "vectors": vectors, "state": state, "start": first, "last": last,
            "step": 1 if first < last else -1, "units": units, "block": block,
            "panel_step": block * (layer.blocks if layer.blocks > 1 else vectors),
        })  # fmt: skip
        chunks = -(-n // rows)
        made.phases = [(self._pack, units * layer.blocks), (self._layer, chunks)]
        made.shapes = [(times, n, v.shape[-1] // EXAMPLE * size)[3 - len(v.shape) :] for v in self.node.outputs]
        gates = max(layer.blocks, layer.sums)
        work = times * n * size * (depth * layer.blocks + _GATE * gates) + made.packed // held
        made.little = work <= (_LITTLE if chunks > 1 else _ALONE) and made.packed + made.scratch <= _SCRATCH
        made.little = made.little and _open.HAS_ENTRIES
        if made.little:
            at = _memory()
            made.table[0], made.table[kernels.words["packed"]] = at + made.packed, at
        made.told = self._told(made, [*shapes, *made.shapes])
        return made

    def _table(self, known: dict[str, int]) -> Array:
        words = [0] * self.kernels.count
        for name, number in known.items():
            words[self.kernels.words[name]] = number
        return np.array(words, np.int64)

    def _told(self, plan: Plan, shapes: list[Shape]) -> Array:
        """What the entry is told: what arrays there are, and the kernels if it is to run them."""
        phases = plan.phases if plan.little else []
        words = [len(shapes), len(phases), id(np.ndarray), id(self.dtype.numpy), self.dtype.itemsize]
        words += [number for phase in phases for number in phase]
        for value, shape in zip(self._values, shapes, strict=True):
            apart = value is self.kernels.weight
            words += [8 * self.kernels.words[value], int(apart), len(shape), *shape, *(0,) * (3 - len(shape))]
        return np.array(words, np.int64)

    def run(self, plan: Plan, arrays: list[Array]) -> bool:
        """Compute results from operands, `arrays` in this order; False if they are not as they were planned."""
        if plan.little:
            return entry()(plan.told, plan.table, *arrays) is plan.told
        table, count = plan.table, plan.table.size
        with _open.take() as call:
            call.words[:count] = table
            if not self._describe(plan, call.words, arrays):
                return False
            memory = call.memory(plan.packed + call.threads * plan.scratch)
            call.words[self.kernels.words["packed"]] = memory
            call.words[0], call.words[1] = memory + plan.packed, plan.scratch
            call.run(*plan.phases)
        return True

    def _describe(self, plan: Plan, words: Array, arrays: list[Array]) -> bool:
        """Put addresses and strides among the words."""
        if _open.HAS_ENTRIES:
            return entry()(plan.told, words, *arrays) is plan.told
        for value, x in zip(self._values, arrays, strict=True):
            if value is not self.kernels.weight and x.strides[-1] != x.itemsize:
                return False
            place = self.kernels.words[value]
            words[place : place + 1 + x.ndim] = _open.address_of(x), *x.strides
        return True


_entry: list[Any] = []
_room: list[Array] = []


def _memory() -> int:
    """Memory for the entry: one piece for all, as one call runs at a time."""
    if not _room:
        _room.append(np.empty(_SCRATCH + 64, np.uint8))
    return -(-_room[0].ctypes.data // 64) * 64


def entry() -> Callable[..., Any]:
    """`f(plan.told, plan.table, operand, ..., result, ...)`, for all layers; returns the first if it was done."""
    if not _entry:
        module = Module(host())
        name = call_entry(module)
        loaded = _open.Loaded(module)
        _entry[:] = [loaded.entry(name), loaded]
    run: Callable[..., Any] = _entry[0]
    return run
