"""The rows kernel: element-wise nodes over an index space, with reductions along its rows.

A row is walked in *passes*. A pass computes the reductions whose inputs are known by then; what
depends on their results belongs to the next pass. Softmax is three passes: the maximum; the
exponentials and their sum; the quotient. A value that a later pass needs again is read back if it
was stored, kept in a scratch row if it was costly, and computed again otherwise.

Note [Shape of a reduction]
Element i of a row is added to partial sum i mod 32, in the order of i; the 32 partial sums are
then combined in halves: i with i+16, i+8, i+4, i+2, i+1. That holds for any vector width and any
number of threads, so the result depends on the length alone.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from ....ir.dtypes import DType
from ....ir.graph import Node, Value
from .. import registers
from ..emit import Function, Module, Val, vector
from ..group import Group, is_flat
from ..layout import View, merge
from ..vmath import MATH
from .access import base, load, store
from .scalars import NONE, Scalars

PARTIALS = 32
_CHUNK_ELEMENTS = 1 << 13  # work per chunk: large against a claim, small against a cache


@dataclass
class Space:
    """The merged index space of a kernel: sizes of the outer and inner dimensions."""

    outer: tuple[int, ...]
    inner: tuple[int, ...]


class RowsKernel:
    """Code for a "rows" group.

    Args:
        group: its nodes, in order.
        sources: views of the values that come from outside.
        outputs: views of the values to store, row-major.
        lanes: elements per vector.
        scalars: numbers that the kernel computes at its start.
    """

    def __init__(
        self,
        group: Group,
        sources: dict[Value, View],
        outputs: dict[Value, View],
        lanes: int,
        scalars: Scalars = NONE,
    ):
        self.group, self.outputs, self.lanes, self.scalars = group, outputs, lanes, scalars
        self.inside = {v: n for n in group.nodes for v in n.outputs}
        self.shape, self.num_inner = group.shape, group.num_inner
        self._levels()
        self.views: dict[Value, View] = {}
        per_row = {
            v for n in group.nodes for v in n.inputs if is_flat(n.outputs[0], group) and n.prim.name not in _REDUCE
        }
        for value, view in sources.items():
            self.views[value] = self._full(view, value in per_row)
        for value, view in outputs.items():
            self.views[value] = self._full(view, is_flat(value, group))
        self._merge()
        self._plan_passes()

    # --- planning ---------------------------------------------------------------------------

    def _full(self, view: View, per_row: bool) -> View:
        """The view over the whole index space: a row's value repeats along the row."""
        if per_row:
            rows = view.expanded(self.shape[: len(self.shape) - self.num_inner])
            return View(view.buffer, self.shape, rows.strides + (0,) * self.num_inner, view.offset)
        return view.expanded(self.shape)

    def _is_row(self, value: Value) -> bool:
        """Whether a value of the group has one element per row."""
        return bool(self.num_inner) and value.shape != self.shape

    def _levels(self) -> None:
        """The pass after which a value is known; full values: the first pass that can compute it."""
        self.level: dict[Value, int] = {}
        for node in self.group.nodes:
            level = max((self._level(v) for v in node.inputs), default=0)
            if node.prim.name in _REDUCE:
                self.level[node.outputs[0]] = level + 1
            else:
                self.level[node.outputs[0]] = level

    def _level(self, value: Value) -> int:
        return self.level.get(self.resolve(value), 0)

    def resolve(self, value: Value) -> Value:
        """A value of the group, looking through views that keep the index."""
        root = value
        while root not in self.inside and root.node is not None and root.node.prim.name in ("reshape", "expand"):
            root = root.node.inputs[0]
        return root if root in self.inside else value

    def _merge(self) -> None:
        split = len(self.shape) - self.num_inner
        values = list(self.views)
        outer, outer_strides = merge(self.shape[:split], [self.views[v].strides[:split] for v in values])
        inner, inner_strides = merge(self.shape[split:], [self.views[v].strides[split:] for v in values])
        if not self.num_inner and outer:  # a map: its last merged dimension is the row
            inner, outer = outer[-1:], outer[:-1]
            inner_strides = [s[-1:] for s in outer_strides]
            outer_strides = [s[:-1] for s in outer_strides]
        if not inner:
            inner, inner_strides = (1,), [(0,)] * len(values)
        self.space = Space(outer, inner)
        self.outer_strides = dict(zip(values, outer_strides, strict=True))
        self.inner_strides = dict(zip(values, inner_strides, strict=True))
        self.rows = math.prod(outer)
        length = math.prod(inner)
        self.split_row = (
            not self.num_inner and self.rows * 4 < max(1, length // _CHUNK_ELEMENTS) * 4 and self.rows == 1
        )
        if self.split_row:
            self.per_chunk = _CHUNK_ELEMENTS
            self.chunks = -(-length // _CHUNK_ELEMENTS)
        else:
            self.per_chunk = max(1, _CHUNK_ELEMENTS // max(1, length))
            self.chunks = -(-self.rows // self.per_chunk)

    def _plan_passes(self) -> None:
        reductions = [n for n in self.group.nodes if n.prim.name in _REDUCE]
        full_outputs = [v for v in self.outputs if not self._is_row(v)]
        last = max(
            [self.level[n.outputs[0]] - 1 for n in reductions] + [self.level[v] for v in full_outputs], default=0
        )
        self.passes: list[tuple[list[Node], list[Value]]] = [
            (
                [n for n in reductions if self.level[n.outputs[0]] - 1 == p],
                [v for v in full_outputs if self.level[v] == p],
            )
            for p in range(last + 1)
        ]
        self.spilled: dict[Value, int] = {}  # value -> number of its scratch row
        self.first: dict[Value, int] = {}  # full values: the first pass that computes it
        length = math.prod(self.space.inner)
        for p, (reduced, stored) in enumerate(self.passes):
            wanted = [self.resolve(n.inputs[0]) for n in reduced] + stored
            for value in self._needed(wanted, p):
                if self.first.setdefault(value, p) < p and value not in self.outputs and self._costly(value):
                    self.spilled.setdefault(value, len(self.spilled))
        self.row_bytes = -(-length // self.lanes) * self.lanes * 8  # whole vectors are written
        self.scratch_bytes = len(self.spilled) * self.row_bytes

    def _needed(self, wanted: list[Value], p: int) -> list[Value]:
        """Full values of the group that computing `wanted` in pass `p` evaluates."""
        seen: dict[Value, None] = {}
        stack = list(wanted)
        while stack:
            value = stack.pop()
            if value in seen or value not in self.inside or self._is_row(value):
                continue
            seen[value] = None
            if self.is_kept(value, p):
                continue  # read back, not computed
            stack.extend(self.resolve(v) for v in self.inside[value].inputs)
        return list(seen)

    def is_kept(self, value: Value, p: int) -> bool:
        """Whether a pass before `p` has stored a full value, as a result or in the scratch memory."""
        if value in self.outputs:
            return self.level[value] < p
        return self._costly(value) and self.first.get(value, p) < p

    def _costly(self, value: Value) -> bool:
        return self.inside[value].prim.name in MATH

    # --- emission ---------------------------------------------------------------------------

    def emit(self, module: Module, name: str, scratch_slot: int) -> None:
        """Write the kernel's function into a module."""
        f = Function(module, name, [("ptr", "args"), ("i64", "first"), ("i64", "last"), ("i64", "worker")])
        args, first, last, worker = f.args
        buffers = {v.buffer for v in self.views.values()} | self.scalars.buffers
        bases = {buffer: base(f, args, buffer) for buffer in sorted(buffers, key=lambda b: b.number)}
        numbers = self.scalars.emit(f, bases, self.lanes)
        scratch: Any = None
        if self.spilled:
            root = f.load("ptr", f.at(args, 8 * scratch_slot), 8)
            stride = f.load("i64", f.at(args, 8 * (scratch_slot + 1)), 8)
            scratch = f.at(root, f.mul(worker, stride))
        start, stop = f.mul(first, self.per_chunk), f.mul(last, self.per_chunk)
        if self.split_row:
            length = self.space.inner[-1]
            offsets = {v: view.offset for v, view in self.views.items()}
            _Row(self, f, bases, offsets, scratch, numbers).span(start, f.min(stop, length))
        else:
            stop = f.min(stop, self.rows)

            def row(r: int | Val) -> None:
                _Row(self, f, bases, self._offsets(f, r), scratch, numbers).run()

            f.loop(start, stop, row)
        f.ret()
        f.finish()

    def _offsets(self, f: Function, r: int | Val) -> dict[Value, int | Val]:
        """Element offset of row `r` in every view."""
        index: list[int | Val] = []
        rest = r
        for n in reversed(self.space.outer[1:]):
            index.append(f.rem(rest, n))
            rest = f.div(rest, n)
        index.append(rest)
        index.reverse()
        out: dict[Value, int | Val] = {}
        known: dict[tuple[int, ...], int | Val] = {}
        for value, strides in self.outer_strides.items():
            if strides not in known:
                total: int | Val = 0
                for i, s in zip(index, strides, strict=False):
                    total = f.add(total, f.mul(i, s))
                known[strides] = total
            out[value] = f.add(known[strides], self.views[value].offset)
        return out


class _Row:
    """The code of one row."""

    def __init__(
        self,
        kernel: RowsKernel,
        f: Function,
        bases: dict[Any, Val],
        offsets: dict[Value, Any],
        scratch: Val | None,
        numbers: dict[Value, Val],
    ):
        self.k, self.f, self.scratch = kernel, f, scratch
        self.address = {
            v: f.at(bases[view.buffer], f.mul(offsets[v], view.dtype.itemsize)) for v, view in kernel.views.items()
        }
        self.scalars: dict[Value, Val] = {}  # values per row
        self.splats: dict[Value, Val] = dict(numbers)  # the same in all lanes, made outside the loops

    def run(self) -> None:
        for p, (reduced, stored) in enumerate(self.k.passes):
            self._prepare(reduced, stored, p)
            self._pass(p, reduced, stored)
        for value in self.k.outputs:
            if self.k._is_row(value):
                store(self.f, self._scalar(value), self.address[value], value.dtype, 1)

    def span(self, start: int | Val, stop: int | Val) -> None:
        """A part of the only row of a map; `start` is a multiple of the vector length."""
        f, k = self.f, self.k
        (length,) = k.space.inner
        stored = k.passes[0][1]
        self._prepare([], stored, 0)
        lanes = k.lanes
        whole = f.min(stop, length // lanes * lanes)
        f.loop(start, whole, lambda i: self._step(0, [], stored, (i,), lanes, None, []), step=lanes)
        if length % lanes:
            at_end = f.icmp("eq", stop, length)
            rest = length // lanes * lanes
            f.when(at_end, lambda: self._step(0, [], stored, (rest,), lanes, length - rest, []))

    # --- values -----------------------------------------------------------------------------

    def _scalar(self, value: Value) -> Val:
        """A value per row."""
        if value in self.k.scalars:
            return self.f.extract(self.splats[value], 0)
        value = self.k.resolve(value)
        if value not in self.scalars:
            k = self.k
            if value in k.inside:
                node = k.inside[value]
                args = [self._scalar(v) for v in node.inputs]
                self.scalars[value] = registers.apply(
                    self.f, node.prim.name, node.params, args, [v.dtype for v in node.inputs], value.dtype
                )
            else:
                self.scalars[value] = load(self.f, self.address[value], value.dtype, 1, 0)
        return self.scalars[value]

    def _prepare(self, reduced: list[Node], stored: list[Value], p: int) -> None:
        """Load and repeat what does not change along the row, before the loops."""
        k = self.k
        wanted = [k.resolve(n.inputs[0]) for n in reduced] + stored
        leaves: dict[Value, None] = {}
        needed = k._needed(wanted, p)
        for value in [*wanted, *needed]:
            if value not in k.inside:
                leaves[value] = None
            elif value in needed and not self._read_back(value, p):
                for v in k.inside[value].inputs:
                    v = k.resolve(v)
                    if v not in k.inside or k._is_row(v):
                        leaves[v] = None
        for value in leaves:
            if value in k.scalars:
                continue
            invariant = k._is_row(value) if value in k.inside else not any(k.inner_strides[value])
            if invariant and value not in self.splats:
                self.splats[value] = self.f.splat(self._scalar(value), k.lanes)

    def _read_back(self, value: Value, p: int) -> bool:
        return self.k.is_kept(value, p)

    def _vector(
        self, value: Value, p: int, index: tuple[Any, ...], count: int | None, memo: dict[Value, Val]
    ) -> Val:
        """A full value at consecutive elements of the row."""
        k, f = self.k, self.f
        if value not in self.splats:
            value = k.resolve(value)
        if value in self.splats:
            return self.splats[value]
        if value not in memo:
            if value not in k.inside or (value in k.outputs and self._read_back(value, p)):
                memo[value] = self._load(value, index, count)
            elif self._read_back(value, p):
                memo[value] = load(f, self._scratch(value, index), value.dtype, k.lanes, 1, None)
            else:
                node = k.inside[value]
                args = [self._vector(v, p, index, count, memo) for v in node.inputs]
                memo[value] = registers.apply(
                    f, node.prim.name, node.params, args, [v.dtype for v in node.inputs], value.dtype
                )
        return memo[value]

    def _element(self, value: Value, index: tuple[Any, ...]) -> Val:
        offset: int | Val = 0
        for i, s in zip(index, self.k.inner_strides[value], strict=True):
            offset = self.f.add(offset, self.f.mul(i, s))
        return self.f.at(self.address[value], self.f.mul(offset, value.dtype.itemsize))

    def _load(self, value: Value, index: tuple[Any, ...], count: int | None) -> Val:
        stride = self.k.inner_strides[value][-1]
        return load(self.f, self._element(value, index), value.dtype, self.k.lanes, stride, count, fill=1)

    def _scratch(self, value: Value, index: tuple[Any, ...]) -> Val:
        f, k = self.f, self.k
        offset: int | Val = 0
        for i, n in zip(index, k.space.inner, strict=True):
            offset = f.add(f.mul(offset, n), i)
        assert self.scratch is not None
        return f.at(self.scratch, f.add(k.spilled[value] * k.row_bytes, f.mul(offset, value.dtype.itemsize)))

    # --- passes -----------------------------------------------------------------------------

    def _pass(self, p: int, reduced: list[Node], stored: list[Value]) -> None:
        k, f, lanes = self.k, self.f, self.k.lanes
        *around, length = k.space.inner
        ways = max(1, PARTIALS // lanes) if reduced else 1
        carry: list[Val] = []
        for node in reduced:
            dtype = node.inputs[0].dtype
            carry += [_REDUCE[node.prim.name].start(f, dtype, lanes)] * ways

        def walk(index: tuple[Any, ...], accumulators: list[Val]) -> list[Val]:
            step = lanes * ways
            whole = length // step * step

            def body(i: int | Val, *acc: Val) -> list[Val]:
                out = list(acc)
                for j in range(ways):
                    out = self._step(p, reduced, stored, (*index, f.add(i, j * lanes)), lanes, None, out, j, ways)
                return out

            accumulators = f.loop(0, whole, body, accumulators, step=step)
            for j, i in enumerate(range(whole, length, lanes)):
                count = min(lanes, length - i)
                accumulators = self._step(
                    p, reduced, stored, (*index, i), lanes, None if count == lanes else count, accumulators, j, ways
                )
            return accumulators

        def nest(depth: int, index: tuple[Any, ...], accumulators: list[Val]) -> list[Val]:
            if depth == len(around):
                return walk(index, accumulators)
            return f.loop(0, around[depth], lambda i, *acc: nest(depth + 1, (*index, i), list(acc)), accumulators)

        carry = nest(0, (), carry)
        for number, node in enumerate(reduced):
            total = combine(
                f, _REDUCE[node.prim.name], node.inputs[0].dtype, carry[number * ways : (number + 1) * ways]
            )
            self.scalars[node.outputs[0]] = total

    def _step(
        self,
        p: int,
        reduced: list[Node],
        stored: list[Value],
        index: tuple[Any, ...],
        lanes: int,
        count: int | None,
        accumulators: list[Val],
        way: int = 0,
        ways: int = 1,
    ) -> list[Val]:
        """One vector of the row: evaluate, store, keep, accumulate."""
        f, k = self.f, self.k
        memo: dict[Value, Val] = {}
        out = list(accumulators)
        for value in stored:
            v = self._vector(value, p, index, count, memo)
            store(f, v, self._element(value, index), value.dtype, lanes, count)
        for number, node in enumerate(reduced):
            reduce = _REDUCE[node.prim.name]
            dtype = node.inputs[0].dtype
            v = self._vector(node.inputs[0], p, index, count, memo)
            if count is not None:
                mask = Val("<" + ", ".join(f"i1 {int(i < count)}" for i in range(lanes)) + ">", vector("i1", lanes))
                v = f.select(mask, v, reduce.start(f, dtype, lanes))
            out[number * ways + way] = reduce.add(f, dtype, out[number * ways + way], v)
        for value in k.spilled:
            if value in memo and k.first[value] == p:
                store(f, memo[value], self._scratch(value, index), value.dtype, lanes, None)
        return out


@dataclass(frozen=True)
class Reduce:
    """A reduction: its identity, and how a vector is added to a partial result."""

    rule: str
    identity: Callable[[DType], Any]

    def start(self, f: Function, dtype: DType, lanes: int) -> Val:
        return f.const(self.identity(dtype), vector(registers.HELD[dtype.name], lanes))

    def add(self, f: Function, dtype: DType, a: Val, b: Val) -> Val:
        # float16 and bfloat16 accumulate in float32 and round once, at the end
        kind = dtype
        return registers.RULES[self.rule](registers._Op(f, {}, [kind, kind], kind), a, b)


def _lowest(dtype: DType) -> Any:
    if dtype.is_floating_point:
        return -math.inf
    if dtype.kind == "bool":
        return 0
    return -(1 << (8 * dtype.itemsize - 1)) if dtype.kind == "int" else 0


def _highest(dtype: DType) -> Any:
    if dtype.is_floating_point:
        return math.inf
    if dtype.kind == "bool":
        return 1
    return (1 << (8 * dtype.itemsize - 1)) - 1 if dtype.kind == "int" else (1 << 8 * dtype.itemsize) - 1


_REDUCE = {
    "sum": Reduce("add", lambda d: 0),
    "prod": Reduce("mul", lambda d: 1),
    "amax": Reduce("maximum", _lowest),
    "amin": Reduce("minimum", _highest),
}


def combine(f: Function, reduce: Reduce, dtype: DType, partials: list[Val]) -> Val:
    """One scalar from partial vectors, in halves; see Note [Shape of a reduction]."""
    while len(partials) > 1:
        half = len(partials) // 2
        partials = [reduce.add(f, dtype, a, b) for a, b in zip(partials[:half], partials[half:], strict=True)]
    (v,) = partials
    lanes = int(v.ty[1:].split(" x ")[0]) if v.ty.startswith("<") else 1
    while lanes > 1:
        half = lanes // 2
        ty = v.ty
        e = ty[1:-1].split(" x ")[1]
        low = ", ".join(f"i32 {i}" for i in range(half))
        high = ", ".join(f"i32 {i + half}" for i in range(half))
        small = vector(e, half)
        if half == 1:
            a, b = f.extract(v, 0), f.extract(v, 1)
        else:
            a = f.value(f"shufflevector {v}, {ty} poison, <{half} x i32> <{low}>", small)
            b = f.value(f"shufflevector {v}, {ty} poison, <{half} x i32> <{high}>", small)
        v = reduce.add(f, dtype, a, b)
        lanes = half
    if dtype.name in ("float16", "bfloat16"):
        v = f.convert("fpext", f.convert("fptrunc", v, registers.STORED[dtype.name]), "float")
    return v
