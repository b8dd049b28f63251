"""The open product: matrix products whose sizes and strides are arguments.

It is the contract kernel (contract.py) for eager code. A tile of up to `Target.tile_rows` rows by two vectors of
columns stays in registers while k runs over all of K, so that every element is the same chain
`fma(a[k], b[k], sum)` from zero in the order of k, and the bits are the same. There is a function for every
height of a tile; a panel of columns that is too narrow is masked.

Note [Ways of a product]
`whole` does a product panel by panel on one thread, packing a panel of B into scratch memory where its columns are
not contiguous. Entries, items of batches and groups of "columns" of few rows are computed in this way. For large
products "pack" copies what is better copied, and "multiply" divides the result into blocks of rows by groups of
panels.
float16 and bfloat16 are always packed, which widens them.

Note [Few rows]
A product of few rows reads B once. Its tiles are several panels wide, so that there are enough sums for the
processor to work on at once, and so that more of what is contiguous in memory is read together.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

from ....ir.dtypes import DType
from .. import open as _open
from .. import registers
from ..emit import Function, Module, Number, Val, vector
from ..target import Target
from .access import load, store
from .packing import first_lanes, load_masked, packer, store_masked, transposed, transposer
from .tile import kernel_function, scratch_of

_FEW = 3  # rows
PACKED_LINES, PACKED_K = 8, 512  # tiles or panels of a chunk of "pack", and its k
SPAN = 4  # panels that a tile of few rows is wide


class Word:
    """Arguments of the product's kernels, in the order in which they lie in memory; strides are in bytes."""

    SCRATCH = 0
    SCRATCH_ROW = 1
    A = 2
    B = 3
    C = 4
    K = 5
    N = 6
    TILES = 7  # row tiles, of which the first `EXTRA` have `ROWS` + 1 rows, the others `ROWS`
    ROWS = 8
    EXTRA = 9
    AM = 10  # of A as it is multiplied, from row to row,
    AK = 11  # from k to k,
    A_ROW = 12  # from tile to tile: for each row,
    A_TILE = 13  # and besides
    BK = 14  # of B as it is multiplied
    B_PANEL = 15
    CM = 16
    SOURCE_A = 17  # what is packed
    SOURCE_AM = 18
    SOURCE_AK = 19
    SOURCE_B = 20
    SOURCE_BK = 21
    SOURCE_BN = 22
    PACKED_A = 23  # chunks of A that "pack" has before those of B; in `whole`, whether to pack
    PACKED_B = 24
    BLOCK = 25  # tiles of a block of rows
    GROUP = 26  # panels of a group
    ITEMS = 27  # of a batch
    PER_CHUNK = 28
    OFFSETS_A = 29  # where in A and B an item begins
    OFFSETS_B = 30
    C_ITEM = 31
    GOES_ON = 32  # whether sums begin with what is in C, instead of zero
    COUNT = 33


class ProductKernels:
    """The functions for products of one dtype.

    Args:
        dtype: a floating one.
        target: the processor.
    """

    def __init__(self, dtype: DType, target: Target):
        self.dtype, self.target = dtype, target
        self.held = registers.HELD[dtype.name]
        self.held_size = 8 if self.held == "double" else 4
        self.widens = self.held != registers.STORED[dtype.name]
        self.lanes = target.lanes(self.held_size)
        self.rows = target.tile_rows
        self.width = 2 * self.lanes
        self.slots = -(-self.rows // self.lanes) * self.lanes  # of a packed row tile
        self.masks = target.vector_bytes >= 32  # whether masked loads are instructions; otherwise B is packed
        self.panel_step = self.width * self.held_size  # bytes of a packed panel for every k
        self.tile_step = self.slots * self.held_size
        self.can_read_b = self.masks and not self.widens
        self.goes_on = self.can_read_b  # whether sums can be taken up again from what is in C

    def emit(self, module: Module) -> None:
        """Write "pack", "multiply", "items", "columns", "tiles", and the entries "product" and "products"."""
        self.pack_tile = packer(module, self.dtype, self.lanes, self.slots // self.lanes)
        self.pack_panel = packer(module, self.dtype, self.lanes, 2)
        self._emit_strip(module)
        self._emit_whole(module)
        self._emit_pack(module)
        self._emit_multiply(module)
        self._emit_items(module)
        self._emit_columns(module)
        if _open.HAS_ENTRIES:
            self._emit_entry(module, "product", 0)
            self._emit_entry(module, "products", 1)

    # --- a tile, and the tiles below each other -----------------------------------------------

    def _emit_tile(self, module: Module, rows: int, vectors: int, is_full: bool) -> str:
        name = f"tile{rows}x{vectors}" + "full" * is_full
        signature = [
            ("ptr", "a"), ("i64", "am"), ("i64", "ak"), ("ptr", "b"), ("i64", "bk"), ("i64", "panel"), ("i64", "k"),
            ("ptr", "c"), ("i64", "cm"), ("i64", "count"), ("ptr", "before"), ("i64", "step"),
        ]  # fmt: skip
        f = Function(module, name, signature, attributes="nounwind noinline", private=True)
        a, am, ak, b, bk, panel, k, c, cm, count, before, before_step = f.args
        lanes, step = self.lanes, self.lanes * self.held_size
        ty = vector(self.held, lanes)
        masks = [] if is_full else [first_lanes(f, f.sub(count, v * lanes), lanes) for v in range(vectors)]
        starts = range(0, rows, 3)  # an address for three rows: the processor adds a stride once or twice by itself
        threes = [f.at(a, f.mul(am, r)) for r in starts]
        panels = [f.mul(panel, i) for i in range(vectors // 2)]

        def one(_: Any, b: Val, *carry: Val) -> list[Val]:
            masks, rest = carry[:num_masks], carry[num_masks:]
            threes, acc = rest[: len(starts)], list(rest[len(starts) :])
            bs = []
            for v in range(vectors):
                at = f.at(f.at(b, panels[v // 2]), v % 2 * step) if vectors > 2 else f.at(b, v * step)
                if masks:
                    bs.append(load_masked(f, at, self.dtype, lanes, masks[v]))
                else:
                    bs.append(f.load(ty, at, self.held_size))
            two = f.value(f"shl i64 {am.ref}, 1", "i64") if rows > 2 else am
            for r in range(rows):
                at = f.at(threes[r // 3], (0, am, two)[r % 3])
                x = f.splat(f.load(self.held, at, self.held_size), lanes)
                for v in range(vectors):
                    i = r * vectors + v
                    acc[i] = f.intrinsic("fma", [x, bs[v], acc[i]])
            return [f.at(b, bk), *masks, *[f.at(p, ak) for p in threes], *acc]

        def begin(r: int, v: int) -> Val:
            if not (self.goes_on or (is_full and not self.widens)):
                return f.const(0, ty)
            at = f.at(before, f.add(f.mul(before_step, r), v * step))
            return f.load(ty, at, self.held_size) if is_full else load_masked(f, at, self.dtype, lanes, masks[v])

        sums = [begin(r, v) for r in range(rows) for v in range(vectors)]
        carried = masks if self.can_read_b else []  # or they would be computed again for every k
        num_masks = len(carried)
        acc = f.loop(0, k, one, [b, *carried, *threes, *sums])[1 + num_masks + len(threes) :]
        for r in range(rows):
            for v in range(vectors):
                to = f.at(c, f.add(f.mul(cm, r), v * lanes * self.dtype.itemsize))
                if is_full:
                    f.store(registers.to_memory(f, acc[r * vectors + v], self.dtype), to, self.dtype.itemsize)
                else:
                    store_masked(f, acc[r * vectors + v], to, self.dtype, lanes, masks[v])
        f.ret()
        f.finish()
        return name

    def _emit_strip(self, module: Module) -> None:
        """Tiles `first` to `last` of a panel, from the addresses of the first one's A and C.

        More than one panel is `SPAN` of them, and one tile of few rows.
        """
        signature = [
            ("ptr", "words"), ("ptr", "a"), ("ptr", "b"), ("ptr", "c"), ("i64", "first"), ("i64", "last"),
            ("i64", "count"),
        ]  # fmt: skip
        heights = range(1, self.rows + 1)
        kinds = ((1, False), (2, False), (2, True))
        names = [self._emit_tile(module, r, *kind) for r in heights for kind in kinds]
        few = [self._emit_tile(module, r, 2 * SPAN, True) for r in range(1, _FEW + 1)]
        f = Function(module, "strip", signature, attributes="nounwind noinline", private=True)
        words, a, b, c, first, last, count = f.args
        W = Word
        k, rows, extra, am, ak, a_row, a_tile, bk, panel, cm = _words(
            f, words, W.K, W.ROWS, W.EXTRA, W.AM, W.AK, W.A_ROW, W.A_TILE, W.BK, W.B_PANEL, W.CM
        )
        wide, full = (f.convert("zext", f.icmp("sgt", count, n), "i64") for n in (self.lanes, self.width - 1))
        zeros = f.alloca(2 * SPAN * self.lanes * self.held_size)
        for v in range(2 * SPAN):
            at = f.at(zeros, v * self.lanes * self.held_size)
            f.store(f.const(0, vector(self.held, self.lanes)), at, self.held_size)
        goes_on = f.icmp("sgt", _words(f, words, W.GOES_ON)[0], 0)
        step = f.select(goes_on, cm, f.int(0))
        width, spans = f.add(wide, full), f.icmp("sgt", count, self.width)

        def one(t: Any, a: Val, c: Val) -> list[Val]:
            height = f.add(rows, f.convert("zext", f.icmp("slt", t, extra), "i64"))
            number = f.int(f.add(f.mul(f.sub(height, 1), len(kinds)), width))
            number = f.select(spans, f.int(f.add(height, len(names) - 1)), number)
            switch(
                f,
                number,
                [*names, *few],
                [a, am, ak, b, bk, panel, k, c, cm, count, f.select(goes_on, c, zeros), step],
            )
            below = f.at(a, f.add(a_tile, f.mul(height, a_row)))
            return [below, f.at(c, f.mul(height, cm))]

        f.loop(first, last, one, [a, c])
        f.ret()
        f.finish()
        self._export(module, signature)

    @staticmethod
    def _export(module: Module, signature: Sequence[tuple[str, str]]) -> None:
        """The strip as "tiles", which other modules call by its address: see `call_tiles`."""
        f = Function(module, "tiles", signature)
        f.call("strip", f.args)
        f.ret()
        f.finish()

    # --- a product on one thread ----------------------------------------------------------------

    def _emit_whole(self, module: Module) -> None:
        """Columns `start` to `stop` on one thread, from the addresses of the operands and of scratch memory.

        The scratch holds the panels of B for one tile, and before them all tiles of A if they are packed.
        """
        signature = [
            ("ptr", "words"), ("ptr", "a"), ("ptr", "b"), ("ptr", "c"), ("ptr", "scratch"), ("i64", "start"),
            ("i64", "stop"),
        ]  # fmt: skip
        f = Function(module, "whole", signature, attributes="nounwind noinline", private=True)
        words, a, b, c, scratch, start, stop = f.args
        W = Word
        k, tiles, packs_b = _words(f, words, W.K, W.TILES, W.PACKED_B)
        bk, bn, b_panel = _words(f, words, W.SOURCE_BK, W.SOURCE_BN, W.B_PANEL)
        room = f.alloca(16)
        f.store(a, room, 8)
        panel_at = f.at(room, 8)
        f.store(scratch, panel_at, 8)
        packs_a = f.icmp("sgt", _words(f, words, W.PACKED_A)[0], 0)

        def pack_a() -> None:
            f.loop(0, tiles, lambda t: self._pack_tile(f, words, a, scratch, t, 0, k))
            f.store(scratch, room, 8)
            f.store(f.at(scratch, f.mul(tiles, f.mul(self._up(f, k), self.tile_step))), panel_at, 8)

        f.when(packs_a, pack_a)
        a_now, scratch_b = f.load("ptr", room, 8), f.load("ptr", panel_at, 8)
        packs = f.icmp("sgt", packs_b, 0)

        def one(column: Any, count: Any) -> None:
            at = f.at(b, f.mul(column, bn))

            def pack() -> None:
                def panel(j: Any) -> None:
                    first = f.mul(j, self.width)
                    exist = f.min(f.sub(count, first), self.width)
                    to = f.at(scratch_b, f.mul(j, b_panel))
                    f.call(self.pack_panel, [f.at(at, f.mul(first, bn)), bk, bn, f.int(exist), k, to])

                f.loop(0, f.div(f.add(count, self.width - 1), self.width), panel)

            to = f.at(c, f.mul(column, self.dtype.itemsize))
            f.when(packs, pack)
            f.call("strip", [words, a_now, f.select(packs, scratch_b, at), to, f.int(0), tiles, f.int(count)])

        start = self._whole_along(f, words, a_now, b, c, start, stop)
        self._columns(f, words, start, stop, one)
        f.ret()
        f.finish()

    def _whole_along(self, f: Function, words: Val, a: Val, b: Val, c: Val, start: Val, stop: Val) -> Val:
        """All whole vectors of columns, if they are contiguous and there are few rows; returns what comes next."""
        names = [self._emit_along(f.module, r) for r in range(1, _FEW + 1)]
        W = Word
        k, rows, am, ak, cm, packs = _words(f, words, W.K, W.ROWS, W.AM, W.AK, W.CM, W.PACKED_B)
        bk, bn = _words(f, words, W.SOURCE_BK, W.SOURCE_BN)
        along = f.op("and", f.icmp("sgt", packs, 0), f.icmp("eq", bk, self.dtype.itemsize))
        along = f.op("and", along, self._are_few(f, words))
        count = f.select(along, f.int(f.div(f.sub(stop, start), self.lanes)), f.int(0))

        def vector(_: Any, b: Val, c: Val) -> list[Val]:
            switch(f, f.int(f.sub(rows, 1)), names, [a, am, ak, b, bn, k, c, cm])
            return [f.at(b, f.mul(bn, self.lanes)), f.at(c, self.lanes * self.dtype.itemsize)]

        f.loop(0, count, vector, [f.at(b, f.mul(start, bn)), f.at(c, f.mul(start, self.dtype.itemsize))])
        return f.int(f.add(start, f.mul(count, self.lanes)))

    def _emit_along(self, module: Module, rows: int) -> str:
        """Few rows by a vector of columns, each contiguous in memory: squares of B are transposed in registers."""
        name = f"along{rows}"
        signature = [
            ("ptr", "a"), ("i64", "am"), ("i64", "ak"), ("ptr", "b"), ("i64", "bn"), ("i64", "k"), ("ptr", "c"),
            ("i64", "cm"),
        ]  # fmt: skip
        f = Function(module, name, signature, attributes="nounwind noinline", private=True)
        a, am, ak, b, bn, k, c, cm = f.args
        lanes, size, dtype = self.lanes, self.dtype.itemsize, self.dtype
        ty, step = vector(self.held, lanes), lanes * self.held_size
        square = transposer(module, dtype, lanes, step)
        rest = f.alloca(lanes * step)

        def add(at_a: Val, v: Val, acc: Sequence[Val]) -> list[Val]:
            xs = [f.load(self.held, f.at(at_a, f.mul(am, r)), self.held_size) for r in range(rows)]
            return [f.intrinsic("fma", [f.splat(x, lanes), v, y]) for x, y in zip(xs, acc, strict=True)]

        def whole(_: Any, a: Val, b: Val, *acc: Val) -> list[Val]:
            threes = [f.at(b, f.mul(bn, i)) for i in range(0, lanes, 3)]
            two = f.mul(bn, 2)
            columns = [load(f, f.at(threes[i // 3], (0, bn, two)[i % 3]), dtype, lanes, 1) for i in range(lanes)]
            out = list(acc)
            for v in transposed(f, columns):
                out, a = add(a, v, out), f.at(a, ak)
            return [a, f.at(b, lanes * size), *out]

        zeros = [f.const(0, ty)] * rows
        a, b, *acc = f.loop(0, f.div(k, lanes), whole, [a, b, *zeros])
        left = f.int(f.rem(k, lanes))
        f.when(f.icmp("sgt", left, 0), lambda: f.call(square, [b, bn, rest, f.int(lanes), left]))

        def one(_: Any, a: Val, at: Val, *acc: Val) -> list[Val]:
            return [f.at(a, ak), f.at(at, step), *add(a, f.load(ty, at, self.held_size), acc)]

        acc = f.loop(0, left, one, [a, rest, *acc])[2:]
        for r, y in enumerate(acc):
            store(f, y, f.at(c, f.mul(cm, r)), dtype, lanes)
        f.ret()
        f.finish()
        return name

    @staticmethod
    def _are_few(f: Function, words: Val) -> Val:
        """Whether there are few rows."""
        tiles, rows = _words(f, words, Word.TILES, Word.ROWS)
        return f.op("and", f.icmp("eq", tiles, 1), f.icmp("slt", rows, _FEW + 1))

    def _columns(self, f: Function, words: Val, start: Any, stop: Any, body: Callable[[Any, Any], None]) -> None:
        """Call `body(column, count)` for panels, or for `SPAN` of them where there are few rows."""
        n, are_few = *_words(f, words, Word.N), self._are_few(f, words)
        span = self.width * SPAN
        spans = f.select(are_few, f.int(f.div(f.sub(f.min(stop, n), start), span)), f.int(0))
        middle = f.add(start, f.mul(spans, span))
        f.loop(start, middle, lambda column: body(column, span), step=span)
        f.loop(middle, stop, lambda column: body(column, f.min(f.sub(n, column), self.width)), step=self.width)

    def _up(self, f: Function, k: Val) -> Any:
        """K rounded up to the length of a vector."""
        return f.value(f"and i64 {f.int(f.add(k, self.lanes - 1)).ref}, {-self.lanes}", "i64")

    def _pack_tile(self, f: Function, words: Val, a: Val, packed: Val, t: Any, first: Any, count: Any) -> None:
        """Pack a block of k of row tile `t` of A."""
        W = Word
        k, rows, extra, am, ak = _words(f, words, W.K, W.ROWS, W.EXTRA, W.SOURCE_AM, W.SOURCE_AK)
        height = f.add(rows, f.convert("zext", f.icmp("slt", t, extra), "i64"))
        row = f.add(f.mul(t, rows), f.min(t, extra))
        at = f.at(f.at(a, f.mul(row, am)), f.mul(first, ak))
        to = f.at(packed, f.mul(f.add(f.mul(t, self._up(f, k)), first), self.tile_step))
        f.call(self.pack_tile, [at, ak, am, f.int(height), f.int(count), to])

    def _emit_items(self, module: Module) -> None:
        """The kernel "items": products of a batch."""
        f = kernel_function(module, "items")
        words, first, last, _ = f.args
        W = Word
        n, per_chunk, items, at_a, at_b, c_item = _words(
            f, words, W.N, W.PER_CHUNK, W.ITEMS, W.OFFSETS_A, W.OFFSETS_B, W.C_ITEM
        )
        a, b, c = _addresses(f, words, W.A, W.B, W.C)
        scratch = scratch_of(f)

        def one(i: Any) -> None:
            own = [f.load("i64", f.at(self._pointer(f, at), f.mul(i, 8)), 8) for at in (at_a, at_b)]
            begin = [f.at(a, own[0]), f.at(b, own[1]), f.at(c, f.mul(i, c_item))]
            f.call("whole", [words, *begin, scratch, f.int(0), n])

        f.loop(f.mul(first, per_chunk), f.min(f.mul(last, per_chunk), items), one)
        f.ret()
        f.finish()

    def _emit_columns(self, module: Module) -> None:
        """The kernel "columns": a product of few row tiles, by groups of panels."""
        f = kernel_function(module, "columns")
        words, first, last, _ = f.args
        n, group = _words(f, words, Word.N, Word.GROUP)
        operands, scratch = _addresses(f, words, Word.A, Word.B, Word.C), scratch_of(f)
        width = f.mul(group, self.width)

        def one(i: Any) -> None:
            start = f.mul(i, width)
            f.call("whole", [words, *operands, scratch, f.int(start), f.int(f.min(f.add(start, width), n))])

        f.loop(first, last, one)
        f.ret()
        f.finish()

    @staticmethod
    def _pointer(f: Function, address: Val) -> Val:
        return f.value(f"inttoptr i64 {address.ref} to ptr", "ptr")

    def _emit_entry(self, module: Module, name: str, batch: int) -> None:
        """An entry (a, b, result), after `batch` dimensions (0 or 1) that broadcast; loaded with scratch memory."""
        f, own, (a, b, c) = _open.entry(module, name, 3)
        size = self.dtype.itemsize
        m, k, n = _open.size(f, c, batch), _open.size(f, b, batch), _open.size(f, c, batch + 1)
        am, ak = (_open.stride(f, a, batch + axis) for axis in (0, 1))
        bk, bn = (_open.stride(f, b, batch + axis) for axis in (0, 1))
        first, second = _open.data(f, a), _open.data(f, b)
        items = _open.size(f, c, 0) if batch else 1
        steps = [f.select(f.icmp("eq", _open.size(f, x, 0), 1), f.int(0), _open.stride(f, x, 0)) for x in (a, b)]
        # A single column is the product of its transposed operands, whose columns are the rows.
        flip = f.icmp("eq", n, 1)
        first, second = f.select(flip, second, first), f.select(flip, first, second)
        am, ak, bk, bn = (f.select(flip, y, x) for x, y in ((am, bn), (ak, bk), (bk, ak), (bn, am)))
        m, n = f.select(flip, f.int(1), m), f.select(flip, m, n)
        tiles = f.int(f.div(f.add(m, self.rows - 1), self.rows))
        some = f.select(f.icmp("eq", tiles, 0), f.int(1), tiles)
        direct = f.op("or", f.icmp("eq", bn, size), f.icmp("eq", n, 1))
        words = f.alloca(8 * Word.COUNT)
        table: dict[int, Any] = {
            Word.K: k, Word.N: n, Word.TILES: tiles, Word.ROWS: f.div(m, some), Word.EXTRA: f.rem(m, some),
            Word.SOURCE_AM: am, Word.SOURCE_AK: ak, Word.SOURCE_BK: bk, Word.SOURCE_BN: bn, Word.CM: f.mul(n, size),
            Word.GOES_ON: 0,
        }  # fmt: skip
        if self.can_read_b:
            table[Word.PACKED_B] = f.select(direct, f.int(0), f.int(1))
            table[Word.BK] = f.select(direct, bk, f.int(self.panel_step))
            packed = f.int(f.mul(self._up(f, k), self.panel_step))
            table[Word.B_PANEL] = f.select(direct, f.int(self.width * size), packed)
        else:
            table[Word.PACKED_B], table[Word.BK] = 1, self.panel_step
            table[Word.B_PANEL] = f.mul(self._up(f, k), self.panel_step)
        if self.widens:
            table |= {Word.PACKED_A: 1, Word.AM: self.held_size, Word.AK: self.tile_step, Word.A_ROW: 0}
            table[Word.A_TILE] = f.mul(self._up(f, k), self.tile_step)
        else:
            table |= {Word.PACKED_A: 0, Word.AM: am, Word.AK: ak, Word.A_ROW: am, Word.A_TILE: 0}
        for word, value in table.items():
            f.store(f.int(value), f.at(words, 8 * word), 8)
        scratch = _open.data(f, own)
        steps = (
            [f.select(flip, steps[1], steps[0]), f.select(flip, steps[0], steps[1])] if batch else [f.int(0)] * 2
        )

        def item(_: Any, a: Val, b: Val, c: Val) -> list[Val]:
            f.call("whole", [words, a, b, c, scratch, f.int(0), n])
            return [f.at(a, steps[0]), f.at(b, steps[1]), f.at(c, f.mul(f.mul(m, n), size))]

        f.loop(0, items, item, [first, second, _open.data(f, c)])
        _open.leave(f, c)

    # --- a product on several threads -------------------------------------------------------------

    def _emit_pack(self, module: Module) -> None:
        """The kernel "pack": chunks are blocks of k of groups of lines, first of A, then of B.

        Lines may lie side by side in memory, so that reading one reads its neighbours.
        """
        f = kernel_function(module, "pack")
        words, first, last, _ = f.args
        W = Word
        k, n, tiles, of_a, bk, bn = _words(f, words, W.K, W.N, W.TILES, W.PACKED_A, W.SOURCE_BK, W.SOURCE_BN)
        a, b, source_a, source_b = _addresses(f, words, W.A, W.B, W.SOURCE_A, W.SOURCE_B)
        panels = f.div(f.add(n, self.width - 1), self.width)

        def one(i: Any) -> None:
            is_a = f.icmp("slt", i, of_a)
            f.when(is_a, lambda: block(i, tiles, tile))
            f.when(f.op("xor", is_a, Val("true", "i1")), lambda: block(f.sub(i, of_a), panels, panel))

        def block(i: Any, count: Val | int, body: Callable[[Any, Any, Any], None]) -> None:
            groups = f.div(f.add(count, PACKED_LINES - 1), PACKED_LINES)
            begin, start = f.mul(f.rem(i, groups), PACKED_LINES), f.mul(f.div(i, groups), PACKED_K)
            ks = f.min(f.sub(k, start), PACKED_K)
            f.loop(begin, f.min(f.add(begin, PACKED_LINES), count), lambda j: body(j, start, ks))

        def tile(t: Any, start: Any, ks: Any) -> None:
            self._pack_tile(f, words, source_a, a, t, start, ks)

        def panel(j: Any, start: Any, ks: Any) -> None:
            column = f.mul(j, self.width)
            exist = f.min(f.sub(n, column), self.width)
            at = f.at(f.at(source_b, f.mul(column, bn)), f.mul(start, bk))
            to = f.at(b, f.mul(f.add(f.mul(j, self._up(f, k)), start), self.panel_step))
            f.call(self.pack_panel, [at, bk, bn, f.int(exist), f.int(ks), to])

        f.loop(first, last, one)
        f.ret()
        f.finish()

    def _emit_multiply(self, module: Module) -> None:
        """The kernel "multiply": chunks are groups of panels in blocks of rows."""
        f = kernel_function(module, "multiply")
        words, first, last, _ = f.args
        W = Word
        n, tiles, rows, extra, block, group = _words(f, words, W.N, W.TILES, W.ROWS, W.EXTRA, W.BLOCK, W.GROUP)
        a_row, a_tile, b_panel, cm = _words(f, words, W.A_ROW, W.A_TILE, W.B_PANEL, W.CM)
        a, b, c = _addresses(f, words, W.A, W.B, W.C)
        panels = f.div(f.add(n, self.width - 1), self.width)
        groups = f.div(f.sub(f.add(panels, group), 1), group)

        def one(i: Any) -> None:
            t = f.mul(f.div(i, groups), block)
            row = f.add(f.mul(t, rows), f.min(t, extra))
            a_now = f.at(a, f.add(f.mul(row, a_row), f.mul(t, a_tile)))
            c_now = f.at(c, f.mul(row, cm))
            end = f.min(f.add(t, block), tiles)
            begin = f.mul(f.rem(i, groups), f.mul(group, self.width))

            def columns(column: Any, count: Any) -> None:
                to = f.at(c_now, f.mul(column, self.dtype.itemsize))
                b_now = f.at(b, f.mul(f.div(column, self.width), b_panel))
                f.call("strip", [words, a_now, b_now, to, f.int(t), f.int(end), f.int(count)])

            stop = f.min(f.add(begin, f.mul(group, self.width)), n)
            self._columns(f, words, begin, stop, columns)

        f.loop(first, last, one)
        f.ret()
        f.finish()


def switch(f: Function, number: Val, names: Sequence[str], args: Sequence[Val]) -> None:
    """Call the function of that number."""
    after, labels = f.label("after"), [f.label("case") for _ in names]
    targets = " ".join(f"i64 {i}, label %{label}" for i, label in enumerate(labels))
    f.emit(f"switch i64 {number.ref}, label %{after} [ {targets} ]")
    for name, label in zip(names, labels, strict=True):
        f.start(label)
        f.call(name, args)
        f.emit(f"br label %{after}")
    f.start(after)


def call_tiles(
    f: Function, tiles: Val, words: Val, a: Val, b: Val, c: Val, first: Number, last: Number, count: Number
) -> None:
    """Call the tiles of another module (`Products.tiles`) from `first` to `last`, for a panel of `count` columns.

    The words are those of the product that `Word` names in `_emit_strip`.
    """
    args = ", ".join(map(str, (words, a, b, c, f.int(first), f.int(last), f.int(count))))
    f.emit(f"call void {tiles.ref}({args})")


def _words(f: Function, words: Val, *wanted: int) -> list[Val]:
    return [f.load("i64", f.at(words, 8 * word), 8) for word in wanted]


def _addresses(f: Function, words: Val, *wanted: int) -> list[Val]:
    return [f.load("ptr", f.at(words, 8 * word), 8) for word in wanted]
