"""Copies of strided views into row-major memory, for kernels that want their input so."""

from __future__ import annotations

from typing import Any

from ....ir.graph import Node
from ..emit import Function, Val
from ..layout import Buffer, View
from ..step import Step
from .access import load, store
from .tile import bases_of, kernel_function, unravel


def row_major(lowering: Any, view: View, node: Node, symbol: str) -> tuple[View, list[Step]]:
    """A row-major view of the same elements, and the step that makes it if there must be one."""
    if view.contiguous and view.offset == 0 or view.contiguous:
        return view, []
    known = lowering.__dict__.setdefault("copies", {})
    key = (view.buffer, view.shape, view.strides, view.offset)
    if key in known and known[key][1] in lowering.steps:
        return known[key][0], []
    out = View.whole(lowering.buffer("temp", view.dtype, _size(view)), view.shape)
    chunks = _emit_copy(lowering, view, out.buffer, symbol)
    step = Step("copy", [node], chunks, symbol, (view.buffer, out.buffer))
    known[key] = (out, step)
    return out, [step]


def _size(view: View) -> int:
    size = 1
    for n in view.shape:
        size *= n
    return size


def _emit_copy(lowering: Any, view: View, target: Buffer, symbol: str) -> int:
    """A line along the last dimension at a time; lines are short, with many channels in between."""
    f = kernel_function(lowering.module, symbol)
    bases = bases_of(f, [view.buffer, target])
    lanes, size = lowering.lanes, view.dtype.itemsize
    *outer, length = view.shape
    if len(outer) > 1:
        *items, width = outer
    else:
        items, width = [1], (outer or [1])[0]
    strides = view.strides if outer else (0, *view.strides)
    along, step = strides[-2], strides[-1]

    def item(number: Any) -> None:
        index = unravel(f, number, items)
        offset: Any = view.offset
        for i, s in zip(index, strides[:-2], strict=False):
            offset = f.add(offset, f.mul(i, s))
        source = f.at(bases[view.buffer], f.mul(offset, size))
        out = f.at(bases[target], f.mul(number, width * length * size))
        if along == 1 and step != 1 and length <= 8:
            for c in range(length):
                _scatter(f, view, f.at(source, c * step * size), f.at(out, c * size), width, length, lanes)
            return

        def line(w: Any) -> None:
            a, b = f.at(source, f.mul(w, along * size)), f.at(out, f.mul(w, length * size))
            whole = length // lanes * lanes
            f.loop(0, whole, lambda c: one(a, b, c, None), step=lanes)
            if whole < length:
                one(a, b, whole, length - whole)

        def one(a: Val, b: Val, c: Any, count: int | None) -> None:
            v = load(f, f.at(a, f.mul(c, step * size)), view.dtype, lanes, step, count)
            store(f, v, f.at(b, f.mul(c, size)), view.dtype, lanes, count)

        f.loop(0, width, line)

    f.loop(f.args[1], f.args[2], item)
    f.ret()
    f.finish()
    chunks = 1
    for n in items:
        chunks *= n
    return chunks


def _scatter(f: Function, view: View, source: Val, target: Val, width: int, length: int, lanes: int) -> None:
    """One channel of a line of pixels: neighbours in the source, `length` apart in the target."""
    size = view.dtype.itemsize

    def some(w: Any, count: int) -> None:
        part = None if count == lanes else count
        v = load(f, f.at(source, f.mul(w, size)), view.dtype, lanes, 1, part)
        for lane in range(count):
            place = f.at(target, f.mul(f.add(w, lane), length * size))
            store(f, f.extract(v, lane), place, view.dtype, 1)

    whole = width // lanes * lanes
    f.loop(0, whole, lambda w: some(w, lanes), step=lanes)
    if whole < width:
        some(whole, width - whole)
