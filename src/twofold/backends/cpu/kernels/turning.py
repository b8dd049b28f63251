"""Copies into row-major order of arrays whose neighbours lie along another dimension than the last, of any size.

Elements move as integers of their size. Squares of them are read along the one dimension, turned in registers,
and written along the other.

Note [Table of a turn]
Words of 8 bytes from word 2 on, named by `TURN`. There are three dimensions: `lines` is that of neighbours in the
source, `columns` that of neighbours in the result, and `items` any other. Strides count elements.
"""

from __future__ import annotations

from ....ir.dtypes import DType, uint8, uint16, uint32, uint64
from ..emit import Function, Module, Number, Val
from .access import load, store
from .reducing import end, range_of, turned, words_of
from .tile import kernel_function

TURN = ("out", "x", "items", "lines", "columns", "x_item", "x_column", "out_item", "out_line", "bands")
BITS: dict[int, DType] = {1: uint8, 2: uint16, 4: uint32, 8: uint64}  # by bytes


def emit_turn(module: Module, itemsize: int, lanes: int) -> None:
    """Write the kernel "turn" for elements of a size; a chunk is a band of `lanes` lines."""
    f, dtype = kernel_function(module, "turn"), BITS[itemsize]
    w = words_of(f, TURN)

    def band(i: Number) -> None:
        line = f.mul(f.rem(i, w["bands"]), lanes)
        item = f.div(i, w["bands"])
        x = f.at(w["x"], f.mul(f.add(f.mul(item, w["x_item"]), line), itemsize))
        start = f.add(f.mul(item, w["out_item"]), f.mul(line, w["out_line"]))
        out = f.at(w["out"], f.mul(start, itemsize))
        left = f.int(f.min(f.sub(w["lines"], line), lanes))
        whole = f.mul(f.div(w["columns"], lanes), lanes)
        full = f.icmp("eq", left, lanes)
        f.when(full, lambda: _squares(f, w, x, out, dtype, lanes, whole, None))
        rest = f.select(full, f.int(whole), f.int(0))
        _squares(f, w, x, out, dtype, lanes, w["columns"], left, rest)

    f.loop(*range_of(f, 1, f.mul(w["items"], w["bands"])), band)
    end(f)


def _squares(
    f: Function,
    w: dict[str, Val],
    x: Val,
    out: Val,
    dtype: DType,
    lanes: int,
    stop: Number,
    left: Val | None,
    start: Number = 0,
) -> None:
    """Columns start..stop-1 of a band; `left` lines of it are there, and then columns may be missing, too."""
    size = dtype.itemsize

    def square(j: Number) -> None:
        count = None if left is None else f.int(f.min(f.sub(stop, j), lanes))
        rows = []
        for k in range(lanes):
            column = f.add(j, k if count is None else f.min(k, f.sub(count, 1)))
            rows.append(load(f, f.at(x, f.mul(column, f.mul(w["x_column"], size))), dtype, lanes, 1, left))
        target = f.at(out, f.mul(j, size))
        for r, v in enumerate(turned(f, rows)):
            place = f.at(target, f.mul(w["out_line"], r * size))
            if left is None:
                store(f, v, place, dtype, lanes)
            else:
                there = f.select(f.icmp("sgt", left, r), f.int(count or 0), f.int(0))
                store(f, v, place, dtype, lanes, there)

    f.loop(start, stop, square, step=lanes)
