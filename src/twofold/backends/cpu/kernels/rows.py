"""The rows kernel: element-wise nodes over an index space, with reductions along its rows.

A row is walked in *passes*. A pass computes the reductions whose inputs are known by then; what
depends on their results belongs to the next pass. Softmax is three passes: the maximum; the
exponentials and their sum; the quotient. A value that a later pass needs again is read back if it
was stored, kept in a scratch row if it was costly, and computed again otherwise.

Note [Shape of a reduction]
The elements of a row are numbered as in row-major order of its dimensions, however they lie in memory.
Blocks of 8192 of them, counted from the row's start, are reduced each by itself: element i is added
to partial sum i mod 32, in the order of i, from the identity. The partial sums of the blocks are added
in the order of blocks, each to the one of the same number, from the identity. At the end the 32 sums
are combined in halves: i with i+16, i+8, i+4, i+2, i+1. That holds for any vector width and any number
of threads, so the result depends on the length alone. A row of one block needs no second addition,
since adding a partial sum to the identity changes nothing.

Note [Runs]
Inner dimensions that all operands can walk as one are one run. Otherwise a row is several runs, those
of the innermost dimension. If a run's length is a multiple of 32, element 0 of every run belongs to
partial sum 0, and vectors are whole. If not, the walk of a run starts at the last multiple of 32 before it, and
elements outside the run are masked out: vectors keep their partial sums. In a long run most vectors
need no mask; instead of short ones, operands are copied so that there is one run (see `obstacles`).
All of that gives the same bits.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

from ....ir.dtypes import DType
from ....ir.graph import Node, Value
from .. import registers
from ..emit import Function, Module, Number, Val, vector
from ..group import Group, is_flat
from ..layout import View, merge
from ..sizes import Size, divides, free, most, planned
from ..vmath import MATH
from .access import base, lane_mask, lanes_between, load, store
from .scalars import NONE, Scalars

PARTIALS = 32
BLOCK = 1 << 13  # elements of a row that are reduced by themselves; see Note [Shape of a reduction]
_LEAST_COPIED = 1 << 14  # elements of a kernel for which a copy is worth a kernel of its own
_LONG_RUN = 48  # elements of a run whose inside is walked without masks
_SHORT_RUN = 24, 256  # elements of a run whose masked lanes cost more than a copy: of cheap nodes, of costly ones
Count = Number | None  # of the lanes that are there, or a mask of them; None: all
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
        self.in_phase = True
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
        self.length = length = math.prod(inner)
        self.in_phase = len(inner) == 1 or inner[-1] % PARTIALS == 0  # see Note [Runs]
        self.split_row = not self.num_inner and self.rows == 1 and planned(length) >= 2 * _CHUNK_ELEMENTS
        if self.split_row:
            self.per_chunk = _CHUNK_ELEMENTS
            self.chunks = -(-length // _CHUNK_ELEMENTS)
        else:
            self.per_chunk = most(1, _CHUNK_ELEMENTS // most(1, length))
            self.chunks = -(-self.rows // self.per_chunk)

    def obstacles(self) -> dict[Value, View]:
        """Operands that are better copied before they are reduced, and what there is to copy of each.

        They keep the row from being one run, and either runs would be short, or its elements lie apart.
        """
        if len(self.space.inner) == 1 or math.prod(self.shape) < _LEAST_COPIED:
            return {}
        split = len(self.shape) - self.num_inner
        found: list[Value] = []
        for value in self.views:
            runs, _ = merge(self.space.inner, [self.inner_strides[value]])
            if len(runs) > 1 and value not in self.outputs:
                found.append(value)
        short = _SHORT_RUN[any(map(self._costly, self.inside))]
        if self.in_phase or self.space.inner[-1] >= short or len(found) > 2:
            found = [v for v in found if self.inner_strides[v][-1] not in (0, 1)]
        out: dict[Value, View] = {}
        for value in found:
            view = self.views[value]
            outer = (n if s else 1 for n, s in zip(self.shape[:split], view.strides[:split], strict=True))
            out[value] = View(view.buffer, (*outer, *self.shape[split:]), view.strides, view.offset)
        return out

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
        for p, (reduced, stored) in enumerate(self.passes):
            wanted = [self.resolve(n.inputs[0]) for n in reduced] + stored
            for value in self._needed(wanted, p):
                if self.first.setdefault(value, p) < p and value not in self.outputs and self._costly(value):
                    self.spilled.setdefault(value, len(self.spilled))
        self.row_bytes = -(-self.length // PARTIALS) * PARTIALS * 8  # whole vectors are written
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
        self._free_sizes()
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

    def _free_sizes(self) -> None:
        """Have the code of a map read its sizes: of other sizes it is the same, where vectors are whole."""
        if self.num_inner or len(self.space.inner) != 1:
            return
        (length,) = self.space.inner
        if length.__class__ is int and length > self.lanes and length % self.lanes == 0:
            self.length = own = free("length", length // self.lanes) * self.lanes
            self.space = Space(self.space.outer, (own,))
            self.outer_strides = {
                v: tuple([own if s == length else s for s in strides]) for v, strides in self.outer_strides.items()
            }
        if not self.split_row:
            self.rows, self.per_chunk = free("rows", self.rows), free("per_chunk", self.per_chunk)

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
        self.store_values([v for v in self.k.outputs if self.k._is_row(v)])

    def store_values(self, values: Sequence[Value]) -> None:
        """Store values per row."""
        for value in values:
            store(self.f, self._scalar(value), self.address[value], value.dtype, 1)

    def span(self, start: int | Val, stop: int | Val) -> None:
        """A part of the only row of a map; `start` is a multiple of the vector length."""
        f, k = self.f, self.k
        (length,) = k.space.inner
        stored = k.passes[0][1]
        self._prepare([], stored, 0)
        lanes = k.lanes
        whole = f.min(stop, length // lanes * lanes)
        f.loop(start, whole, lambda i: self._step(0, [], stored, (i,), None, []), step=lanes)
        if not divides(lanes, length):
            at_end = f.icmp("eq", stop, length)
            rest = length // lanes * lanes
            count: Number = length - rest
            count = f.int(count) if isinstance(count, Size) else count
            f.when(at_end, lambda: self._step(0, [], stored, (rest,), count, []))

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
            if value not in k.inside or k._is_row(value):
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

    def _vector(self, value: Value, p: int, index: tuple[Number, ...], count: Count, memo: dict[Value, Val]) -> Val:
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

    def _element(self, value: Value, index: tuple[Number, ...]) -> Val:
        offset: Number = 0
        for i, s in zip(index, self.k.inner_strides[value], strict=True):
            offset = self.f.add(offset, self.f.mul(i, s))
        return self.f.at(self.address[value], self.f.mul(offset, value.dtype.itemsize))

    def _load(self, value: Value, index: tuple[Number, ...], count: Count) -> Val:
        stride = self.k.inner_strides[value][-1]
        return load(self.f, self._element(value, index), value.dtype, self.k.lanes, stride, count, fill=1)

    def _scratch(self, value: Value, index: tuple[Number, ...]) -> Val:
        f, k = self.f, self.k
        offset: Number = 0
        for i, n in zip(index, k.space.inner, strict=True):
            offset = f.add(f.mul(offset, n), i)
        assert self.scratch is not None
        return f.at(self.scratch, f.add(k.spilled[value] * k.row_bytes, f.mul(offset, value.dtype.itemsize)))

    # --- passes -----------------------------------------------------------------------------

    def _pass(self, p: int, reduced: list[Node], stored: list[Value]) -> None:
        if not reduced:
            self._map(p, stored)
        else:
            self.scalars |= combine_all(self.f, reduced, self._reduce(p, reduced, stored))

    def _map(self, p: int, stored: list[Value]) -> None:
        """A pass without reductions: its elements may be met in any order."""
        *around, run = self.k.space.inner

        def nest(depth: int, index: tuple[Number, ...]) -> None:
            if depth == len(around):
                self._run(p, [], stored, index, 0, run, [])
            else:
                self.f.loop(0, around[depth], lambda i: nest(depth + 1, (*index, i)))

        nest(0, ())

    def _reduce(self, p: int, reduced: list[Node], stored: list[Value]) -> list[Val]:
        """The partial sums of a row, as vectors: those of the first reduction come first."""
        f, length = self.f, self.k.length
        if isinstance(length, int) and length <= BLOCK:
            return self.block(p, reduced, stored, 0, length)

        def block(number: Number, *totals: Val) -> list[Val]:
            low = f.mul(number, BLOCK)
            sums = self.block(p, reduced, stored, low, f.min(f.add(low, BLOCK), length))
            return add_partials(f, reduced, totals, sums)

        return f.loop(0, f.div(f.add(length, BLOCK - 1), BLOCK), block, identities(f, reduced, self.k.lanes))

    def block(self, p: int, reduced: list[Node], stored: list[Value], low: Number, high: Number) -> list[Val]:
        """The partial sums of the elements from `low` to `high` of the row, in one pass.

        `low` is a multiple of 32, and there are at most `BLOCK` elements.
        """
        f, k = self.f, self.k
        *around, run = k.space.inner
        sums = identities(f, reduced, k.lanes)
        if not around:
            return self._run(p, reduced, stored, (), low, high, sums)
        whole = isinstance(high, int) and high == k.length  # of one block

        def walk(number: Number, *sums: Val) -> list[Val]:
            before = f.mul(number, run)  # elements of the row before this run
            first, last = (0, run) if whole else (f.sub(low, f.min(low, before)), f.min(f.sub(high, before), run))
            index = unravel(f, number, around)
            if k.in_phase:
                return self._run(p, reduced, stored, index, first, last, list(sums))
            return self._masked_run(p, reduced, stored, index, first, last, before, list(sums))

        return f.loop(f.div(low, run), f.div(f.add(high, run - 1), run), walk, sums)

    def _run(
        self,
        p: int,
        reduced: list[Node],
        stored: list[Value],
        around: tuple[Number, ...],
        first: Number,
        last: Number,
        sums: list[Val],
    ) -> list[Val]:
        """Elements of a run, where `first` belongs to partial sum 0."""
        f, k, lanes = self.f, self.k, self.k.lanes
        ways = PARTIALS // lanes if reduced else 1
        step = lanes * ways
        whole = f.add(first, f.mul(f.div(f.sub(last, first), step), step))

        def body(i: Number, *acc: Val) -> list[Val]:
            out = list(acc)
            for way in range(ways):
                index = (*around, f.add(i, way * lanes))
                out = self._step(p, reduced, stored, index, None, out, way)
            return out

        sums = f.loop(first, whole, body, sums, step=step)
        if last.__class__ is whole.__class__ is int:
            for way, i in enumerate(range(whole, last, lanes)):
                count = min(lanes, last - i)
                sums = self._step(p, reduced, stored, (*around, i), None if count == lanes else count, sums, way)
        elif not (k.in_phase and divides(step, k.length)) or (isinstance(last, Size) and not divides(step, last)):
            sums = self._masked(p, reduced, stored, around, whole, first, last, sums)
        return sums

    def _masked_run(
        self,
        p: int,
        reduced: list[Node],
        stored: list[Value],
        around: tuple[Number, ...],
        first: Number,
        last: Number,
        before: Number,
        sums: list[Val],
    ) -> list[Val]:
        """Elements of a run that `before` elements of the row precede; see Note [Runs]."""
        f = self.f
        start = f.sub(first, f.rem(f.add(before, first), PARTIALS))
        if self.k.space.inner[-1] < _LONG_RUN:
            return self._masked(p, reduced, stored, around, start, first, last, sums)
        head = f.min(f.add(start, PARTIALS), last)
        sums = self._masked(p, reduced, stored, around, start, first, head, sums)
        return self._run(p, reduced, stored, around, head, last, sums)

    def _masked(
        self,
        p: int,
        reduced: list[Node],
        stored: list[Value],
        around: tuple[Number, ...],
        start: Number,
        first: Number,
        last: Number,
        sums: list[Val],
    ) -> list[Val]:
        """Elements `first` to `last` of a run; vectors are counted from `start`, of partial sum 0."""
        f, lanes = self.f, self.k.lanes
        ways = PARTIALS // lanes if reduced else 1

        def body(i: Number, *acc: Val) -> list[Val]:
            out = list(acc)
            for way in range(ways):
                x = f.add(i, way * lanes)
                mask = lanes_between(f, lanes, f.sub(first, x), f.sub(last, x))
                out = self._step(p, reduced, stored, (*around, x), mask, out, way)
            return out

        return f.loop(start, last, body, sums, step=lanes * ways)

    def _step(
        self,
        p: int,
        reduced: list[Node],
        stored: list[Value],
        index: tuple[Number, ...],
        count: Count,
        sums: list[Val],
        way: int = 0,
    ) -> list[Val]:
        """One vector of the row: evaluate, store, keep, add to the partial sums number `way` of each reduction."""
        f, k, lanes = self.f, self.k, self.k.lanes
        memo: dict[Value, Val] = {}
        out = list(sums)
        results = [self._vector(value, p, index, count, memo) for value in stored]
        terms = [self._vector(node.inputs[0], p, index, count, memo) for node in reduced]
        for value, v in zip(
            stored, results, strict=True
        ):  # when all is read: a result may lie over what it is made of
            store(f, v, self._element(value, index), value.dtype, lanes, count)
        for number, (node, v) in enumerate(zip(reduced, terms, strict=True)):
            rule, dtype = _REDUCE[node.prim.name], node.inputs[0].dtype
            if count is not None:
                v = f.select(lane_mask(f, lanes, count), v, rule.start(f, dtype, lanes))
            place = number * (PARTIALS // lanes) + way
            out[place] = rule.add(f, dtype, out[place], v)
        for value in k.spilled:
            if value in memo and k.first[value] == p:
                inside = count if isinstance(count, Val) else None  # what is beyond may be another run's
                store(f, memo[value], self._scratch(value, index), value.dtype, lanes, inside)
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


def identities(f: Function, reduced: list[Node], lanes: int) -> list[Val]:
    """What partial sums begin with, as vectors."""
    starts = [_REDUCE[n.prim.name].start(f, n.inputs[0].dtype, lanes) for n in reduced]
    return [start for start in starts for _ in range(PARTIALS // lanes)]


def add_partials(f: Function, reduced: list[Node], a: Sequence[Val], b: Sequence[Val]) -> list[Val]:
    """The sums of two lists of partial sums, as vectors."""
    ways = len(a) // max(1, len(reduced))
    nodes = [node for node in reduced for _ in range(ways)]
    return [_REDUCE[n.prim.name].add(f, n.inputs[0].dtype, x, y) for n, x, y in zip(nodes, a, b, strict=True)]


def combine_all(f: Function, reduced: list[Node], sums: Sequence[Val]) -> dict[Value, Val]:
    """The results of reductions, from their partial sums."""
    ways = len(sums) // len(reduced)
    return {
        n.outputs[0]: combine(f, _REDUCE[n.prim.name], n.inputs[0].dtype, list(sums[i * ways : (i + 1) * ways]))
        for i, n in enumerate(reduced)
    }


def unravel(f: Function, number: Number, sizes: Sequence[int]) -> tuple[Number, ...]:
    """The index of an element in row-major order."""
    index: list[Number] = []
    for n in reversed(sizes[1:]):
        index.append(f.rem(number, n))
        number = f.div(number, n)
    return (number, *reversed(index))


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
