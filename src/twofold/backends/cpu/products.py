"""Matrix products of arrays on open kernels (kernels/product.py), of any sizes and strides."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

import numpy as np

from ...ir.dtypes import DType
from . import open as _open
from .emit import Module
from .kernels.product import PACKED_K, PACKED_LINES, SPAN, ProductKernels, Word
from .target import Target, host

Array = np.ndarray[Any, Any]

LITTLE = 1 << 21  # multiply-adds that an entry does: up to 40 us
_SCRATCH = 1 << 20  # bytes of an entry's own scratch memory
_CHUNK = 1 << 19  # multiply-adds of a chunk, which are long against claiming it
_FEW_TILES = 5
_MUCH = 1 << 24  # bytes of a packed B
_DEEP = 4096  # k of a block
_CACHED = 1 << 18  # bytes of A that are multiplied with one panel of B after the other


class Products:
    """The products of one dtype.

    Args:
        dtype: a floating one.
        target: the processor; this one's by default.

    Attributes:
        little: (a, b, result) -> result, of two dimensions, with at most `LITTLE` multiply-adds.
        most_k: what K may be there.
        tiles: the address of the function that other kernels call, see `call_tiles` in kernels/product.py.
    """

    def __init__(self, dtype: DType, target: Target | None = None):
        target = target or host()
        self.kernels = kernels = ProductKernels(dtype, target)
        module = Module(target)
        kernels.emit(module)
        self._code = _open.Loaded(module, target)
        self._at = {name: self._code.address(name) for name in ("pack", "multiply", "items", "columns")}
        self.tiles = self._code.address("tiles")
        floats = _SCRATCH // kernels.held_size
        # the panels of a tile take half of the scratch memory
        self.most_k = floats // (2 * SPAN * kernels.width) - kernels.lanes
        # and the tiles of A the other half, if they are packed
        self._most_packed = floats // (2 * kernels.slots) * kernels.rows if kernels.widens else 1 << 62
        self._one = self._many = None
        if _open.HAS_ENTRIES:
            room = np.empty(_SCRATCH + 64, np.uint8)
            self._scratch = room[-room.ctypes.data % 64 :]
            self._one, self._many = (self._code.entry(name, self._scratch) for name in ("product", "products"))
        self.little: Callable[[Array, Array, Array], Array] = self.into
        if self._one is not None and not kernels.widens:
            self.little = self._one

    def _is_little(self, m: int, k: int, n: int, items: int = 1) -> bool:
        if m * k * n * items > LITTLE or k > self.most_k:
            return False
        return (m + self.kernels.rows) * (k + self.kernels.lanes) <= self._most_packed

    def into(self, a: Array, b: Array, out: Array) -> Array:
        """`a @ b`, computed into `out`, which is row-major."""
        if not out.size:
            return out
        m, n = out.shape[-2:]
        k = a.shape[-1]
        items = out.size // (m * n)
        if out.ndim > 2 and items > 1:
            if self._many is not None and self._is_little(m, k, n, items) and a.shape[:-2] == b.shape[:-2]:
                self._many(a.reshape(items, m, k), b.reshape(items, k, n), out.reshape(items, m, n))
            else:
                self._batched(a, b, out)
            return out
        one, two, result = (a, b, out) if out.ndim == 2 else (a.reshape(m, k), b.reshape(k, n), out.reshape(m, n))
        if self._one is not None and self._is_little(m, k, n):
            self._one(one, two, result)
        else:
            self.large(one, two, result)
        return out

    def large(self, a: Array, b: Array, out: Array) -> None:
        """The same on the thread team, of two dimensions."""
        if out.shape[1] == 1 and out.shape[0] > 1:
            self._matrices(b.T, a.T, out.reshape(1, -1))  # the columns of its transpose are its rows
        elif out.size:
            self._matrices(a, b, out)

    def _common(self, a: Array, b: Array, out: Array) -> list[int]:
        """The words that describe operands as they are, of two dimensions."""
        kernels = self.kernels
        (m, k), n = a.shape[-2:], b.shape[-1]
        tiles = -(-m // kernels.rows)
        rows, extra = divmod(m, tiles) if tiles else (0, 0)
        words = [0] * Word.COUNT
        words[Word.K], words[Word.N] = k, n
        words[Word.TILES], words[Word.ROWS], words[Word.EXTRA] = tiles, rows, extra
        words[Word.SOURCE_AM], words[Word.SOURCE_AK] = words[Word.AM], words[Word.AK] = a.strides[-2:]
        words[Word.SOURCE_BK], words[Word.SOURCE_BN] = b.strides[-2:]
        words[Word.A_ROW], words[Word.BK] = words[Word.AM], words[Word.SOURCE_BK]
        words[Word.B_PANEL] = kernels.width * kernels.dtype.itemsize
        words[Word.CM] = n * kernels.dtype.itemsize
        words[Word.A], words[Word.B], words[Word.C] = [_open.address_of(x) for x in (a, b, out)]
        return words

    def _padded(self, k: int) -> int:
        return -(-k // self.kernels.lanes) * self.kernels.lanes

    def _packs_a(self, words: list[int]) -> bool:
        """Whether row tiles of A are worth copying: always, but for rows that do not fall into one cache set."""
        size = self.kernels.dtype.itemsize
        if self.kernels.widens or words[Word.N] <= self.kernels.width:
            return self.kernels.widens
        return words[Word.AK] != size or (words[Word.AM] % 1024 == 0 and words[Word.K] >= 64)

    def _pack_a(self, words: list[int], tile: int) -> int:
        """Describe A as packed; returns its bytes."""
        words[Word.AM], words[Word.AK] = self.kernels.held_size, self.kernels.tile_step
        words[Word.A_ROW], words[Word.A_TILE] = 0, tile
        return words[Word.TILES] * tile

    def _matrices(self, a: Array, b: Array, out: Array) -> None:
        words = self._common(a, b, out)
        kernels, padded = self.kernels, self._padded(a.shape[1])
        tiles, panels = words[Word.TILES], -(-out.shape[1] // kernels.width)
        packed = panels * padded * kernels.panel_step
        if tiles < _FEW_TILES or (packed > _MUCH and tiles * padded * kernels.tile_step < _MUCH // 4):
            self._by_columns(words, out.shape[0])
            return
        blocks = max(1, -(-padded // _DEEP)) if kernels.goes_on else 1
        count = self._padded(-(-a.shape[1] // blocks))
        for start in range(0, max(1, a.shape[1]), max(1, count)):
            words[Word.GOES_ON], words[Word.K] = int(start > 0), min(count, a.shape[1] - start)
            self._block(list(words), start, panels)

    def _block(self, words: list[int], start: int, panels: int) -> None:
        """A block of k, from `start` on."""
        kernels, tiles, padded = self.kernels, words[Word.TILES], self._padded(words[Word.K])
        tile, panel = padded * kernels.tile_step, padded * kernels.panel_step
        depth = -(-padded // PACKED_K)
        words[Word.A] += start * words[Word.SOURCE_AK]
        words[Word.B] += start * words[Word.SOURCE_BK]
        with _open.take() as call:
            packs_a = self._packs_a(words)
            at = call.memory(packs_a * tiles * tile + panels * panel)
            words[Word.SOURCE_A], words[Word.SOURCE_B] = words[Word.A], words[Word.B]
            if packs_a:
                words[Word.A], words[Word.PACKED_A] = at, depth * -(-tiles // PACKED_LINES)
                at += self._pack_a(words, tile)
            words[Word.B], words[Word.BK], words[Word.B_PANEL] = at, kernels.panel_step, panel
            block = min(tiles, max(1, _CACHED // max(tile, 1)))
            work = block * kernels.rows * kernels.width * max(1, words[Word.K])
            group = min(panels, max(1, _CHUNK // work))
            words[Word.BLOCK], words[Word.GROUP] = block, group
            call.words[: len(words)] = words
            packs = words[Word.PACKED_A] + depth * -(-panels // PACKED_LINES)
            chunks = -(-tiles // block) * -(-panels // group)
            call.run((self._at["pack"], packs), (self._at["multiply"], chunks))

    def _by_columns(self, words: list[int], rows: int) -> None:
        """Of few rows, or of a B that is better packed by and by."""
        panels = -(-words[Word.N] // self.kernels.width)
        work = rows * self.kernels.width * max(1, words[Word.K])
        packs = words[Word.TILES] >= _FEW_TILES
        least = 4 * SPAN if packs else SPAN
        group = words[Word.GROUP] = -(-min(panels, max(least, _CHUNK // work)) // SPAN) * SPAN
        self._run(words, packs, self._at["columns"], -(-panels // group))

    def _batched(self, a: Array, b: Array, out: Array) -> None:
        words = self._common(a, b, out)
        batch = out.shape[:-2]
        items = math.prod(batch)
        offsets = [_offsets(x, batch) for x in (a, b)]
        per_chunk = max(1, min(-(-items // 8), _CHUNK // max(1, out.shape[-2] * out.shape[-1] * a.shape[-1])))
        words[Word.ITEMS], words[Word.PER_CHUNK] = items, per_chunk
        words[Word.OFFSETS_A], words[Word.OFFSETS_B] = [_open.address_of(x) for x in offsets]
        words[Word.C_ITEM] = out.shape[-2] * words[Word.CM]
        self._run(words, False, self._at["items"], -(-items // per_chunk))

    def _run(self, words: list[int], packs: bool, code: int, chunks: int) -> None:
        """Run a kernel that does parts of a product in scratch memory, and packs more than it must if `packs`."""
        kernels, padded = self.kernels, self._padded(words[Word.K])
        nbytes = 0
        if kernels.widens or (packs and self._packs_a(words)):
            words[Word.PACKED_A] = 1
            nbytes += self._pack_a(words, padded * kernels.tile_step)
        is_row = words[Word.SOURCE_BN] == kernels.dtype.itemsize or words[Word.N] == 1
        if packs or not kernels.can_read_b or not is_row:
            words[Word.PACKED_B], words[Word.BK] = 1, kernels.panel_step
            words[Word.B_PANEL] = padded * kernels.panel_step
            nbytes += SPAN * words[Word.B_PANEL]
        row = -(-nbytes // 4096) * 4096
        with _open.take() as call:
            words[Word.SCRATCH], words[Word.SCRATCH_ROW] = call.memory(row * call.threads), row
            call.words[: len(words)] = words
            call.run((code, chunks))


_known: dict[str, Products] = {}


def products_of(dtype: DType) -> Products:
    """The products of a dtype on this processor, loaded once."""
    known = _known.get(dtype.name)
    return known or _known.setdefault(dtype.name, Products(dtype))  # the first stays: another thread may have it


def _offsets(x: Array, batch: tuple[int, ...]) -> Array:
    """In bytes, where the item of each index of the batch begins in an operand that broadcasts to it."""
    out = np.zeros((1,) * len(batch), np.int64)
    places = zip(x.shape[:-2], x.strides[:-2], range(len(batch) - x.ndim + 2, len(batch)), strict=True)
    for size, stride, axis in places:
        if size > 1:
            steps = np.arange(size, dtype=np.int64) * stride
            out = out + steps.reshape(-1, *(1,) * (len(batch) - 1 - axis))
    return np.ascontiguousarray(np.broadcast_to(out, batch))
