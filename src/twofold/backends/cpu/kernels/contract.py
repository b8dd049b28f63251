"""The contract kernel: matrix products on register tiles, with element-wise nodes on the tile.

A tile of R rows by a few vectors of columns is held in registers while k runs from 0 to K:
`acc[r][v] = fma(a[r, k], b[k, v], acc[r][v])`. Every element of the result is one chain of fused
multiply-adds in the order of k, whatever the tile or the number of threads. Strides are free, so
that all transpositions of A are the same code; B must be contiguous along its columns, and is
packed into panels first where it is not.
"""

from __future__ import annotations

import math
from typing import Any

from ....ir.graph import Value
from .. import registers
from ..emit import Function, Module, Val, vector
from ..group import Group
from ..layout import Buffer, View
from ..sizes import Size, divides, free, least, most, planned
from ..span import Span, divisors, nested
from ..target import Target
from .access import base, load, store
from .cut import Cut
from .scalars import NONE, Scalars
from .tile import copy_bytes, scratch_of

_PANELS = 8  # that use a gathered row tile of A
_CACHED = 1 << 20  # bytes of a gathered row tile
_TALL = 1 << 21  # bytes that a column of A spans, from which a row tile is gathered
_BLOCK = 64  # rows that a block has, or nearly
_LIGHT = 6  # nodes of a group whose epilogue is written out for every vector of the tile


def block_rows(rows: int, most_rows: int) -> int:
    """Rows of the equal blocks that a matrix is cut into, each of balanced tiles; 0 if none suit.

    Blocks are about as long as sequences are, so that an item of a batch is a few of them.
    """
    if isinstance(rows, Size):  # those of an item
        a, atom, b = rows.key
        if b or a == 1 or atom[0] != "items":
            return 0
        rows = a
    if rows <= 2 * _BLOCK:
        return rows
    near = [
        n for n in divisors(rows) if _BLOCK // 2 < n <= 2 * _BLOCK and n >= 0.85 * most_rows * -(-n // most_rows)
    ]
    return min(near, key=lambda n: abs(math.log(n / _BLOCK)), default=0)


class ContractKernel:
    """Code for a "contract" group: one matmul and what follows it element by element."""

    def __init__(
        self,
        group: Group,
        sources: dict[Value, View],
        outputs: dict[Value, View],
        target: Target,
        scalars: Scalars = NONE,
    ):
        self.group, self.outputs, self.scalars = group, outputs, scalars
        node = group.nodes[0]
        self.product = node.outputs[0]
        self.inside = {v: n for n in group.nodes for v in n.outputs}
        a, b = (sources[v] for v in node.inputs)
        self.shape = self.product.shape
        *batch, self.m, self.n = self.shape
        self.batch = tuple(batch)
        self.k = a.shape[-1]
        self.a = a.expanded((*batch, self.m, self.k))
        self.b = b.expanded((*batch, self.k, self.n))
        self.sources = {
            v: view.expanded(self.shape)
            for v, view in sources.items()
            if any(v in n.inputs for n in group.nodes[1:])
        }
        self.dtype = self.product.dtype
        self.lanes = target.lanes(8 if self.dtype.itemsize == 8 else 4)
        self.vectors = 2
        self.width = self.lanes * self.vectors
        read = {a.buffer, b.buffer, *(v.buffer for v in self.sources.values()), *scalars.buffers}
        # rows may be computed twice, unless that would read what was written
        may_overlap = all(v.buffer not in read for v in outputs.values())
        self.cut = Cut(self.m, target.tile_rows, may_overlap)
        self.panels = -(-self.n // self.width)
        self.gathered = self._gathered_strides()
        self.gathers = self.gathered is not None
        self.group_panels = min(self.panels, _PANELS) if self.gathers else 1
        self.panel_groups = -(-self.panels // self.group_panels)
        transposed = self.gathered is not None and self.gathered[0] == 1
        self.rows = 0 if transposed else block_rows(self.m, target.tile_rows)  # of equal blocks
        if self.rows:
            self.cut = Cut(self.rows, target.tile_rows)
        self.num_tiles = self.cut.count * (self.m // self.rows if self.rows else 1)
        self.items = math.prod(self.batch) * self.panel_groups * self.num_tiles
        # All panels of a block of rows before the next block, so that a thread, which begins with a range of
        # items, writes whole rows: those it reads in the kernels around. Lines from another core are slow.
        blocks = 1 if self.gathers or self.rows else least(4, most(1, self.cut.count // 3))
        self.block = -(-self.cut.count // blocks)
        flops = 2 * self.cut.height * self.width * self.k * self.group_panels
        # a chunk is long against a claim (0.25 us), and there are enough of them to balance
        self.per_chunk = most(1, least(1_000_000 // most(1, flops), self.items // 32))
        if self.rows:
            sizes = (*self.batch, self.m // self.rows, self.panel_groups, self.block)
            self.per_chunk = nested(self.per_chunk, sizes)
        self.chunks = -(-self.items // self.per_chunk)
        rows, columns = self.gathered or (0, 0)
        self.scratch_bytes = (
            self.cut.height * rows * self.dtype.itemsize if columns == 1 else self.k * columns * self.dtype.itemsize
        )
        self.packed: Buffer | None = None
        # Rows of B far apart fall into the same few sets of the caches: a panel that several row
        # tiles read is worth gathering.
        gap = self.b.strides[-2] * self.dtype.itemsize if len(self.b.shape) >= 2 else 0
        self.far_apart = planned(self.num_tiles) >= 3 and planned(self.k) >= 256 and planned(gap) >= 1024

    def _gathered_strides(self) -> tuple[int, int] | None:
        """Strides of a row tile of A in scratch memory, where it is better copied there first.

        A row tile of a transposed A lies in rows far apart, as in the gradient of a weight. Rows of A that lie a
        multiple of a page apart fall into one set of the first cache, which has fewer places than a tile has rows.
        """
        am, ak = map(planned, self.a.strides[-2:])
        size, height, depth = self.dtype.itemsize, self.cut.height, planned(self.k)
        held = registers.HELD[self.dtype.name] == registers.STORED[self.dtype.name]
        if not held or self.panels == 1:
            return None
        if am == 1 and ak * size >= 2048 and depth * ak * size >= _TALL:
            fits = depth * self.lanes * size <= _CACHED and height <= self.lanes
            return (1, self.lanes) if fits else None
        if ak == 1 and am * size % 4096 == 0 and height > 7 and depth * size >= 1024:
            rows = self.k + 64 // size
            return (rows, 1) if height * rows * size <= _CACHED else None
        return None

    @staticmethod
    def supports(group: Group, sources: dict[Value, View]) -> bool:
        """Whether the dtype and the sizes are ones that the kernel takes."""
        value = group.nodes[0].outputs[0]
        return registers.supports(value.dtype) and value.dtype.kind != "bool" and 0 not in value.shape

    @property
    def needs_packing(self) -> bool:
        return (self.n > 1 and self.b.strides[-1] != 1) or self.far_apart

    # --- the order of chunks, see Note [Items] in span.py ---------------------------------------

    def span(self) -> Span | None:
        """Matrix after matrix of the batch, and block after block of its rows."""
        if self.items % self.per_chunk or (self.cut.overlaps and not self.rows):
            return None
        rows = self.rows or self.m
        blocks = self.m // rows
        items = math.gcd(self.chunks, math.prod(self.batch) * blocks)

        def in_blocks(view: View) -> View:
            *outer, down, across = view.strides
            shape = (*self.batch, blocks, rows, view.shape[-1])
            return View(view.buffer, shape, (*outer, down * rows, down, across), view.offset)

        *outer, down, across = self.b.strides
        b = View(self.b.buffer, (*self.batch, blocks, self.k, self.n), (*outer, 0, down, across), self.b.offset)
        if self.packed is not None:
            matrix = self.panels * self.k * self.width
            for d in reversed(range(len(outer))):  # in the order of those that B has itself
                outer[d], matrix = (matrix, matrix * self.batch[d]) if outer[d] else (0, matrix)
            panels = self.panels * self.k
            b = View(self.packed, (*self.batch, blocks, panels, self.width), (*outer, 0, self.width, 1))
        views = [self.a, *self.sources.values(), *self.outputs.values()]
        return Span(items, (b, *map(in_blocks, views)), frozenset(self.scalars.buffers))

    def packing_span(self, packed: Buffer) -> Span | None:
        """Matrix after matrix of B."""
        own = [(n, s) for n, s in zip(self.batch, self.b.strides, strict=False) if s != 0]
        shape, strides = tuple(n for n, _ in own), tuple(s for _, s in own)
        source = View(self.b.buffer, (*shape, self.k, self.n), (*strides, *self.b.strides[-2:]), self.b.offset)
        target = View.whole(packed, (*shape, self.panels * self.k * self.width))
        return Span(self._own_batch(), (source, target))

    # --- packing ------------------------------------------------------------------------------

    def packed_size(self) -> int:
        """Elements of the packed B: panels of K rows by `width` columns, the last filled with 0."""
        return self._own_batch() * self.panels * self.k * self.width

    def _own_batch(self) -> int:
        """B's own number of matrices: a broadcast one is packed once."""
        return math.prod(n for n, s in zip(self.batch, self.b.strides, strict=False) if s != 0)

    def emit_packing(self, module: Module, name: str, packed: Buffer) -> int:
        """Write the function that packs B; returns its number of chunks."""
        self.packed = packed
        f = Function(module, name, [("ptr", "args"), ("i64", "first"), ("i64", "last"), ("i64", "worker")])
        args, first, last, _ = f.args
        source, target = base(f, args, self.b.buffer), base(f, args, packed)
        size, lanes = self.dtype.itemsize, self.lanes
        sk, sn = self.b.strides[-2:]
        k, columns, panels = free("k", self.k), free("n", self.n), free("panels", self.panels)
        squares = sk == 1 and self._has_squares()
        sk = sk if sk == 1 else free("sk", sk)
        sn = free("sn", sn) if squares else sn
        own = [(n, s) for n, s in zip(self.batch, self.b.strides, strict=False) if s != 0]

        def panel(item: Any) -> None:
            j, rest = f.rem(item, panels), f.div(item, panels)
            offset = f.add(self.b.offset, f.mul(f.mul(j, self.width), sn))
            for d, (n, s) in reversed(list(enumerate(own))):
                offset = f.add(offset, f.mul(f.rem(rest, free(f"n{d}", n)), free(f"s{d}", s)))
                rest = f.div(rest, free(f"n{d}", n))
            begin = f.at(source, f.mul(offset, size))
            out = f.at(target, f.mul(f.mul(item, k), self.width * size))
            full = f.icmp("sle", f.mul(f.add(j, 1), self.width), columns)
            f.when(full, lambda: copy(begin, out, self.width))
            if self.n % self.width:
                partial = f.icmp("sgt", f.mul(f.add(j, 1), self.width), columns)
                f.when(partial, lambda: copy(begin, out, self.n % self.width))

        def copy(begin: Val, out: Val, columns: int) -> None:
            def row(k: Any) -> None:
                for v in range(self.vectors):
                    count = max(0, min(lanes, columns - v * lanes))
                    place = f.at(out, f.add(f.mul(k, self.width * size), v * lanes * size))
                    start = f.at(begin, f.add(f.mul(k, sk * size), v * lanes * sn * size))
                    ty = vector(registers.HELD[self.dtype.name], lanes)
                    value = load(f, start, self.dtype, lanes, sn, count) if count else f.const(0, ty)
                    store(f, value, place, self.dtype, lanes)

            if squares:
                self._squares(f, begin, out, columns, k, sn)
            else:
                f.loop(0, k, row)

        f.loop(first, last, panel)
        f.ret()
        f.finish()
        return self._own_batch() * self.panels

    def _has_squares(self) -> bool:
        """Whether rows of B that are contiguous are packed square by square: B = W.T of a layer."""
        return self.dtype.name == "float32" and self.k >= self.lanes

    def _squares(self, f: Function, begin: Val, out: Val, columns: int, k: int, sn: int) -> None:
        """Transpose by squares in registers."""
        lanes, size = self.lanes, self.dtype.itemsize
        transpose = _transpose_function(f.module, lanes, size)

        def block(k: Any) -> None:
            for v in range(self.vectors):
                count = max(0, min(lanes, columns - v * lanes))
                f.call(
                    transpose,
                    [
                        f.at(begin, f.add(f.mul(k, size), v * lanes * sn * size)),
                        f.int(sn * size),
                        f.at(out, f.add(f.mul(k, self.width * size), v * lanes * size)),
                        f.int(self.width * size),
                        f.int(count),
                    ],
                )

        f.loop(0, k // lanes * lanes, block, step=lanes)
        if self.k % lanes:
            block(k - lanes)  # overlaps what is there already

    # --- the product ----------------------------------------------------------------------------

    def emit(self, module: Module, name: str, scratch_slot: int) -> None:
        f = Function(module, name, [("ptr", "args"), ("i64", "first"), ("i64", "last"), ("i64", "worker")])
        args, first, last, _ = f.args
        buffers = {
            self.a.buffer,
            *(v.buffer for v in self.sources.values()),
            *(v.buffer for v in self.outputs.values()),
        }
        buffers.add(self.packed or self.b.buffer)
        buffers |= self.scalars.buffers
        bases = {buffer: base(f, args, buffer) for buffer in sorted(buffers, key=lambda b: b.number)}
        self._numbers = self.scalars.emit(f, bases, self.lanes)
        if self.gathers:
            self._gathered = scratch_of(f)
        start = f.mul(first, self.per_chunk)
        stop = f.min(f.mul(last, self.per_chunk), self.items)
        num_tiles = self.num_tiles

        def item(number: Any) -> None:
            whole = num_tiles * self.panel_groups
            rest, b = f.rem(number, whole), f.div(number, whole)
            block = f.div(rest, self.block * self.panel_groups)
            rest = f.rem(rest, self.block * self.panel_groups)
            begin = f.mul(block, self.block)
            in_block: Any = self.block
            if not divides(self.block, num_tiles):
                in_block = f.min(f.sub(num_tiles, begin), self.block)
            t, j = f.rem(rest, in_block), f.div(rest, in_block)
            above = f.mul(block, self.rows)
            if not self.rows:
                t, above = f.add(begin, t), 0
            index: list[Any] = []
            left = b
            for n in reversed(self.batch):
                index.append(f.rem(left, n))
                left = f.div(left, n)
            index.reverse()

            def with_rows(rows: int, row: Any) -> None:
                if not self.gathers:
                    with_panel(rows, row, j)
                    return
                self._gather(f, bases, index, row, rows)
                begin = f.mul(j, self.group_panels)
                end = f.min(f.add(begin, self.group_panels), self.panels)
                f.loop(begin, end, lambda j: with_panel(rows, row, j))

            def with_panel(rows: int, row: Any, j: Any) -> None:
                column = f.mul(j, self.width)
                tail = self.n % self.width
                if not tail:
                    self._tile(f, bases, index, row, rows, j, column, self.width)
                    return
                if self.panels == 1:
                    self._tile(f, bases, index, row, rows, j, column, tail)
                    return
                f.when(
                    f.icmp("slt", j, self.panels - 1),
                    lambda: self._tile(f, bases, index, row, rows, j, column, self.width),
                )
                f.when(
                    f.icmp("eq", j, self.panels - 1),
                    lambda: self._tile(f, bases, index, row, rows, j, column, tail),
                )

            self.cut.each(f, t, lambda rows, row: with_rows(rows, f.add(row, above)))

        f.loop(start, stop, item)
        f.ret()
        f.finish()

    def _batch_offset(self, f: Function, view: View, index: list[Any]) -> Any:
        offset: Any = view.offset
        for i, s in zip(index, view.strides, strict=False):
            offset = f.add(offset, f.mul(i, s))
        return offset

    def _gather(self, f: Function, bases: Any, index: list[Any], row: Any, rows: int) -> None:
        """Copy a row tile of A to scratch memory: row by row, or a vector for every k."""
        assert self.gathered is not None
        size, (am, ak) = self.dtype.itemsize, self.a.strides[-2:]
        offset = f.add(self._batch_offset(f, self.a, index), f.mul(row, am))
        begin = f.at(bases[self.a.buffer], f.mul(offset, size))
        if ak == 1:
            for r in range(rows):
                out = f.at(self._gathered, r * self.gathered[0] * size)
                copy_bytes(f, out, f.at(begin, r * am * size), self.k * size)
            return

        def one(k: Any) -> None:
            v = load(f, f.at(begin, f.mul(k, ak * size)), self.dtype, self.lanes, 1, rows)
            store(f, v, f.at(self._gathered, f.mul(k, self.lanes * size)), self.dtype, self.lanes)

        f.loop(0, self.k, one)

    def _tile(
        self, f: Function, bases: Any, index: list[Any], row: Any, rows: int, panel: Any, column: Any, columns: int
    ) -> None:
        """One tile: the loop over k, then the element-wise nodes and the stores."""
        lanes, size, dtype = self.lanes, self.dtype.itemsize, self.dtype
        vectors = -(-columns // lanes)
        counts = [min(lanes, columns - v * lanes) for v in range(vectors)]
        am, ak = self.a.strides[-2:]
        a0 = f.at(bases[self.a.buffer], f.mul(f.add(self._batch_offset(f, self.a, index), f.mul(row, am)), size))
        if self.packed is not None:
            own: Any = 0
            for i, n, s in zip(index, self.batch, self.b.strides, strict=False):
                if s != 0:
                    own = f.add(f.mul(own, n), i)
            place = f.mul(f.add(f.mul(own, self.panels), panel), self.k * self.width)
            b0, bk = f.at(bases[self.packed], f.mul(place, size)), self.width
            read_counts: list[int | None] = [None] * vectors
        else:
            bk = self.b.strides[-2]
            offset = f.add(self._batch_offset(f, self.b, index), column)
            b0 = f.at(bases[self.b.buffer], f.mul(offset, size))
            read_counts = [c if c < lanes else None for c in counts]
        if self.gathered is not None:
            a0, (am, ak) = self._gathered, self.gathered
        ty = vector(registers.HELD[dtype.name], lanes)
        zero = f.const(0, ty)
        is_float = dtype.is_floating_point

        def step(k: Any, *acc: Val) -> list[Val]:
            out = list(acc)
            at_k = f.at(b0, f.mul(k, bk * size))
            bs = [load(f, f.at(at_k, v * lanes * size), dtype, lanes, 1, read_counts[v]) for v in range(vectors)]
            a_k = f.at(a0, f.mul(k, ak * size))
            for r in range(rows):
                a = load(f, f.at(a_k, r * am * size), dtype, lanes, 0)
                for v in range(vectors):
                    i = r * vectors + v
                    if is_float:
                        out[i] = f.intrinsic("fma", [a, bs[v], out[i]])
                    else:
                        out[i] = f.op("add", out[i], f.op("mul", a, bs[v]))
            return out

        acc = f.loop(0, self.k, step, [zero] * (rows * vectors))
        if len(self.group.nodes) <= _LIGHT:
            places, known = self._places(f, bases, index, row, column), dict[Any, Val]()
            for r in range(rows):
                for v in range(vectors):
                    self._finish(f, places, known, r, v * lanes, counts[v], acc[r * vectors + v])
            return
        # a long epilogue is a loop over the tile, so that its code stands once per vector
        held = 8 if size == 8 else 4
        tile = f.alloca(rows * self.width * held)
        for i, part in enumerate(acc):
            f.store(part, f.at(tile, i * lanes * held), held)

        def one_row(r: Any) -> None:
            places, known = self._places(f, bases, index, f.add(row, r), column), dict[Any, Val]()
            for v in range(vectors):
                place = f.at(tile, f.mul(f.add(f.mul(r, vectors), v), lanes * held))
                self._finish(f, places, known, 0, v * lanes, counts[v], f.load(ty, place, held))

        f.loop(0, rows, one_row)

    def _places(self, f: Function, bases: Any, index: list[Any], row: Any, column: Any) -> dict[Value, Val]:
        """The address of one element of the result in every view."""
        out: dict[Value, Val] = {}
        for value, view in (*self.sources.items(), *self.outputs.items()):
            offset = f.add(self._batch_offset(f, view, index), f.mul(row, view.strides[-2]))
            offset = f.add(offset, f.mul(column, view.strides[-1]))
            out[value] = f.at(bases[view.buffer], f.mul(offset, view.dtype.itemsize))
        return out

    def _finish(
        self,
        f: Function,
        places: dict[Value, Val],
        known: dict[Any, Val],
        row: int,
        column: int,
        count: int,
        product: Val,
    ) -> None:
        """The element-wise nodes on one vector of the result, so many rows and columns away from `places`.

        What is the same along a row, or everywhere, is read once and stands in `known`.
        """
        lanes, part = self.lanes, None if count == self.lanes else count
        if self.dtype.name in ("float16", "bfloat16"):
            product = f.convert("fpext", f.convert("fptrunc", product, registers.STORED[self.dtype.name]), "float")
        memo: dict[Value, Val] = {self.product: product}

        def place(value: Value, view: View) -> Val:
            shift = row * view.strides[-2] + column * view.strides[-1]
            return f.at(places[value], shift * view.dtype.itemsize)

        def read(value: Value, view: View) -> Val:
            if view.strides[-1] != 0:
                return load(f, place(value, view), value.dtype, lanes, view.strides[-1], part)
            key = value, row if view.strides[-2] else 0
            if key not in known:
                known[key] = load(f, place(value, view), value.dtype, lanes, 0)
            return known[key]

        def evaluate(value: Value) -> Val:
            if value in self.scalars:
                return self._numbers[value]
            if value not in memo:
                if value in self.inside:
                    node = self.inside[value]
                    args = [evaluate(v) for v in node.inputs]
                    memo[value] = registers.apply(
                        f, node.prim.name, node.params, args, [v.dtype for v in node.inputs], value.dtype
                    )
                else:
                    memo[value] = read(value, self.sources[value])
            return memo[value]

        results = [evaluate(value) for value in self.outputs]  # first: they may lie over what they are made of
        for (value, view), v in zip(self.outputs.items(), results, strict=True):
            store(f, v, place(value, view), value.dtype, lanes, part)


def _transpose_function(module: Module, lanes: int, size: int) -> str:
    """A shared function that transposes a square of `lanes` x `lanes` floats.

    `(source, source row bytes, target, target row bytes, rows of the source that exist)`.
    """
    name = f"transpose{lanes}"
    if name in module.functions:
        return name
    f = Function(
        module,
        name,
        [("ptr", "source"), ("i64", "from"), ("ptr", "target"), ("i64", "to"), ("i64", "count")],
        attributes="nounwind noinline",
        private=True,
    )
    source, step_in, target, step_out, count = f.args
    ty = vector("float", lanes)
    rows = []
    for r in range(lanes):
        exists = f.icmp("sgt", count, r)
        # a row that does not exist is read from row 0 and replaced by zeros
        offset = f.select(exists, f.int(f.mul(step_in, r)), f.int(0))
        have = f.select(f.icmp("sgt", count, 0), f.int(1), f.int(0))
        v = f.load(ty, f.at(source, f.mul(offset, have)), 4)
        zero = f.const(0.0, ty)
        rows.append(f.value(f"select {exists}, {v}, {zero}", ty))
    distance = 1
    while distance < lanes:
        mixed = []
        for i in range(lanes):
            partner = i ^ distance
            a, b = (rows[i], rows[partner]) if i < partner else (rows[partner], rows[i])
            picks = []
            for lane in range(lanes):
                if i < partner:  # even half: own lanes where bit clear, partner's shifted in
                    picks.append(lane if not lane & distance else lanes + (lane ^ distance))
                else:
                    picks.append((lane ^ distance) if not lane & distance else lanes + lane)
            mask = ", ".join(f"i32 {p}" for p in picks)
            mixed.append(f.value(f"shufflevector {a}, {b}, <{lanes} x i32> <{mask}>", ty))
        rows = mixed
        distance *= 2
    for r in range(lanes):
        f.store(rows[r], f.at(target, f.mul(step_out, r)), 4)
    f.ret()
    f.finish()
    return name
