"""Convolutions of arrays, and their input gradients, on open kernels (kernels/convolving.py), of any sizes.

Note [Plans]
What follows from shapes is worked out once for a combination of them and kept as a `Plan`: the sweeps, the tables
of pixels, how work is cut into chunks. That takes NumPy 0.2 ms or so, and compiles nothing.
"""

from __future__ import annotations

import itertools
import math
from collections.abc import Sequence
from typing import Any

import numpy as np

from ...ir.dtypes import DType
from ...ir.types import Shape
from . import open as _open
from .copies import row_major
from .emit import Module
from .kernels import convolving as kernel
from .kernels.conv import Sweep, adjoint_sweeps, forward_sweeps
from .kernels.convolving import SWEEP, WORDS, ConvolutionKernels
from .products import products_of
from .target import Target, host

Array = np.ndarray[Any, Any]
Pairs = tuple[tuple[int, int], ...]

_CHUNK = 1 << 20  # multiply-adds of a chunk
_FEW_CHUNKS = 16
_DEEP = 1024  # k of a block of patches
_PATCHES = 256 << 10  # bytes of patches that a worker packs at a time
_CACHED = 256 << 10  # bytes of weights that are multiplied with one panel after the other
_SMALL_IMAGE = 512  # pixels: panels go through several images where these are smaller
_WASTE = 1.08  # vectors per image over those that its pixels fill, from which on they do


class Convolutions:
    """The convolutions of one dtype.

    Args:
        dtype: float32 or float64.
        target: the processor; this one's by default.
    """

    def __init__(self, dtype: DType, target: Target | None = None):
        target = target or host()
        self.dtype = dtype
        self.kernels = ConvolutionKernels(dtype, target)
        module = Module(target.half)
        self.kernels.emit(module)
        self._code = _open.Loaded(module, target)
        self.at = {name: self._code.address(name) for name in ("weights", "convolve")}
        self.tiles = products_of(dtype).tiles

    def plan(
        self, x: Shape, w: Shape, stride: Shape, padding: Pairs, dilation: Shape, groups: int,
        input_size: Shape | None = None,
    ) -> Plan:  # fmt: skip
        """How to convolve `x` with `w`, or the gradient of the input, which has `input_size`, for `x`."""
        return Plan(self, x, w, stride, padding, dilation, groups, input_size)


_known: dict[str, Convolutions] = {}


def convolutions_of(dtype: DType) -> Convolutions:
    """The convolutions of a dtype on this processor, loaded once."""
    known = _known.get(dtype.name)
    return known or _known.setdefault(dtype.name, Convolutions(dtype))  # the first stays: others may have it


class Plan:
    """One convolution: see Note [Plans].

    Attributes:
        shape: of the result.
        nbytes: about, of the tables.
    """

    def __init__(
        self, owner: Convolutions, x: Shape, w: Shape, stride: Shape, padding: Pairs, dilation: Shape, groups: int,
        input_size: Shape | None,
    ):  # fmt: skip
        self.owner, kernels = owner, owner.kernels
        adjoint = input_size is not None
        batch, kernel_size = x[0], w[2:]
        size = input_size if input_size is not None else _output_size(x[2:], kernel_size, stride, padding, dilation)
        outputs, channels = w[0] // groups, w[1]
        if adjoint:
            outputs, channels = channels, outputs
        self.shape = (batch, groups * outputs, *size)
        self.dtype = owner.dtype.numpy
        make = adjoint_sweeps if adjoint else forward_sweeps
        every = zip(size, kernel_size, stride, padding, dilation, strict=True)
        sweeps = list(itertools.product(*[make(n, k, s, pad[0], d) for n, k, s, pad, d in every]))
        seen = [parts for parts in sweeps if all(s.taps for s in parts)]
        if not (batch and channels and outputs and math.prod(x[2:]) and math.prod(size)):
            seen = []
        self.is_whole = len(seen) == len(sweeps)  # otherwise some positions see nothing
        itemsize, taps = owner.dtype.itemsize, math.prod(kernel_size)
        tiles = -(-outputs // kernels.tile_rows)
        rows, extra = divmod(outputs, tiles) if tiles else (0, 0)
        words = dict.fromkeys(WORDS, 0)
        words["tiles_at"], words["groups"], words["num_sweeps"] = owner.tiles, groups, len(seen)
        words["channels"], words["outputs"] = channels, outputs
        words["tiles"], words["rows"], words["extra"] = tiles, rows, extra
        words["x_channel"], words["y_channel"] = math.prod(x[2:]) * itemsize, math.prod(size) * itemsize
        words["x_image"], words["y_image"] = (math.prod(s[1:]) * itemsize for s in (x, self.shape))
        words["x_group"], words["y_group"] = words["x_channel"] * channels, words["y_channel"] * outputs
        words["w_group"] = channels * outputs * taps * itemsize
        words["apart"] = 2 if not adjoint and stride[-1] == 2 else 1
        if adjoint:
            words["w_line"], words["w_repeat"] = taps * itemsize, outputs * taps * itemsize
            words["repeats"], words["columns"] = channels, taps
        else:
            words["w_line"] = channels * taps * itemsize
            words["repeats"], words["columns"] = 1, channels * taps
        self._tables: list[Array] = []
        table = np.zeros((max(1, len(seen)), len(SWEEP)), np.int64)
        packs = chunks = packed = scratch = 0
        for row, parts in zip(table, seen, strict=False):
            own = self._sweep(parts, x, kernel_size, words, adjoint)
            own["packed_at"], own["first_pack"], own["first_chunk"] = packed, packs, chunks
            packs += groups * tiles
            chunks += own.pop("chunks")
            scratch = max(scratch, own.pop("scratch"))
            packed += groups * tiles * own["k"] * kernels.tile_step
            own["end_pack"], own["end_chunk"] = packs, chunks
            row[:] = [own[name] for name in SWEEP]
        words["sweeps"] = self._address(table)
        self._words = np.array(list(words.values()), np.int64)
        self._phases = ((owner.at["weights"], packs), (owner.at["convolve"], chunks))
        self._packed, self._scratch = -(-packed // 64) * 64, -(-scratch // 4096) * 4096
        self.nbytes = sum(t.nbytes for t in self._tables)

    def _address(self, array: Array) -> int:
        self._tables.append(array)
        return _open.address_of(array)

    def _sweep(
        self, parts: Sequence[Sweep], x: Shape, kernel_size: Shape, words: dict[str, int], adjoint: bool
    ) -> dict[str, int]:
        """The words of a sweep, how many chunks it has, and bytes of scratch memory."""
        kernels, itemsize = self.owner.kernels, self.owner.dtype.itemsize
        lanes, outputs, channels = kernels.lanes, words["outputs"], words["channels"]
        taps = math.prod(len(s.taps) for s in parts)
        k = taps * channels
        pixels, batch = math.prod(s.count for s in parts), x[0]
        together = batch > 1 and pixels < _SMALL_IMAGE and -(-pixels // lanes) * lanes > _WASTE * pixels
        together = together and math.prod(x[1:]) < (1 << 31) // lanes
        images = 1 if together else batch
        pixel_table, masks = _tables(parts, x, self.shape, batch if together else 1, lanes, itemsize, kernels.masks)
        vectors = len(pixel_table)
        panels = -(-vectors // 2)
        depth = k
        if kernels.goes_on and k > _DEEP:
            depth = -(-k // -(-k // _DEEP))
        panel_bytes = depth * kernels.panel_step
        tile = depth * kernels.tile_step
        block = min(words["tiles"], max(1, _CACHED // tile))
        items = images * words["groups"]
        most = max(1, _PATCHES // panel_bytes)
        group = max(1, min(most, panels, max(-(-_CHUNK // (outputs * k * kernels.width)), 1)))
        if block < words["tiles"]:
            group = max(1, min(most, panels, max(group, panels * items // _FEW_CHUNKS)))
        own = {
            "k": k, "shifts": self._address(_shifts(parts, x, itemsize)), "masks": self._address(masks),
            "vectors": self._address(pixel_table), "num_vectors": vectors, "taps": taps,
            "places": self._address(_places(parts, kernel_size, channels, adjoint)), "panels": panels,
            "group": group, "depth": depth, "block": block, "chunks": items * -(-panels // group),
        }  # fmt: skip
        direct = pixel_table.view(np.int64)[::2, kernel.DIRECT // 8]
        own["scratch"] = group * panel_bytes + (0 if direct.all() else group * outputs * kernels.panel_step)
        return own

    def __call__(self, x: Array, w: Array) -> Array:
        """The result for arrays of the plan's shapes."""
        x, w = row_major(x), row_major(w)
        out = (np.empty if self.is_whole else np.zeros)(self.shape, self.dtype)
        if self._phases[1][1]:
            self._run(x, w, out)
        return out

    def _run(self, x: Array, w: Array, out: Array) -> None:
        with _open.take() as call:
            at = call.memory(self._packed + self._scratch * call.threads)
            words = call.words
            words[2 : 2 + len(WORDS)] = self._words
            words[0], words[1] = at + self._packed, self._scratch
            start = _open.address_of(x)
            words[3:7] = start, _open.address_of(w), _open.address_of(out), at
            words[7] = start + x.nbytes
            call.run(*self._phases)


# --- tables ---------------------------------------------------------------------------------------


def _output_size(size: Shape, kernel_size: Shape, stride: Shape, padding: Pairs, dilation: Shape) -> Shape:
    every = zip(size, kernel_size, stride, padding, dilation, strict=True)
    return tuple([(n + lo + hi - d * (k - 1) - 1) // s + 1 for n, k, s, (lo, hi), d in every])


def _strides(shape: Sequence[int]) -> list[int]:
    """Of a row-major array, in elements."""
    return [math.prod(shape[d + 1 :]) for d in range(len(shape))]


def _shifts(parts: Sequence[Sweep], x: Shape, itemsize: int) -> Array:
    """Bytes from what a pixel sees under its first tap to what it sees under each."""
    out = np.zeros(1, np.int64)
    for part, stride in zip(parts, _strides(x[2:]), strict=True):
        own = np.arange(len(part.taps), dtype=np.int64) * (part.gap * stride * itemsize)
        out = (out[:, None] + own).ravel()
    return out


def _places(parts: Sequence[Sweep], kernel_size: Shape, channels: int, adjoint: bool) -> Array:
    """Where an element of a line of the weights goes along K; -1 if the sweep has no such tap."""
    number = np.full(kernel_size, -1, np.int64)
    taps = [len(s.taps) for s in parts]
    number[np.ix_(*[np.array(s.taps) for s in parts])] = np.arange(math.prod(taps)).reshape(taps)
    own = number.ravel()
    own = np.where(own < 0, own, own * channels)
    if adjoint:
        return own
    return (own + np.arange(channels, dtype=np.int64)[:, None]).ravel()


def _tables(
    parts: Sequence[Sweep], x: Shape, y: Shape, images: int, lanes: int, itemsize: int, masks: bool
) -> tuple[Array, Array]:
    """The table of a sweep's vectors, and their masks for each tap: see Note [Tables of pixels] in kernels."""
    counts = [s.count for s in parts]
    pixels = math.prod(counts) * images
    vectors = -(-pixels // lanes)
    number = np.arange(vectors * lanes)
    exists = number < pixels
    image, *index = np.unravel_index(np.minimum(number, pixels - 1), (images, *counts))
    x_strides, y_strides = _strides(x), _strides(y)
    reads, writes = image * x_strides[0], image * y_strides[0]
    inside = _bits(exists.reshape(1, vectors, lanes))
    for s, i, n, sx, sy in zip(parts, index, x[2:], x_strides[2:], y_strides[2:], strict=True):
        first = i * s.stride + s.first
        reads = reads + first * sx
        writes = writes + (i * s.step + s.start) * sy
        seen = first + (np.arange(len(s.taps)) * s.gap)[:, None]
        own = _bits(((seen >= 0) & (seen < n)).reshape(-1, vectors, lanes))
        inside = (inside[:, None] & own).reshape(-1, vectors)
    table = np.zeros((vectors, kernel.ROW), np.uint8)
    wide = table.view(np.int64)
    apart = 2 if parts[-1].stride == 2 else 1
    there = exists.reshape(vectors, lanes)
    shift = _describe(table, kernel.READING, reads.reshape(vectors, lanes), apart, there, itemsize)
    wide[:, kernel.LEAST // 8] = shift.min(axis=1) * itemsize
    wide[:, kernel.MOST // 8] = shift.max(axis=1) * itemsize
    _describe(table, kernel.WRITING, writes.reshape(vectors, lanes), 1, there, itemsize)
    _direct(wide, there.sum(axis=1), lanes, itemsize, masks)
    return table, np.ascontiguousarray(inside.T, np.uint16)


def _describe(
    table: Array, fields: tuple[int, int, int, int], positions: Array, between: int, there: Array, itemsize: int
) -> Array:
    """Write where vectors read or write; returns how far each element is from where neighbours would be."""
    base, kind, segments, at = [field // 8 for field in fields]
    vectors, lanes = positions.shape
    wide, places = table.view(np.int64), positions - positions[:, :1]
    wide[:, base] = positions[:, 0] * itemsize
    table[:, 8 * at : 8 * at + 4 * lanes] = np.ascontiguousarray(places, np.int32).view(np.uint8)
    shift = places - np.arange(lanes) * between
    part = np.zeros((vectors, lanes), np.int64)
    np.cumsum((shift[:, 1:] != shift[:, :-1]) & there[:, 1:], axis=1, out=part[:, 1:])
    many = part.max(axis=1) + 1
    wide[:, kind] = np.where(many <= kernel.SEGMENTS, many, 0)
    for i in range(kernel.SEGMENTS):
        own = (part == i) & there
        begin = shift[np.arange(vectors), own.argmax(axis=1)]
        wide[:, segments + 2 * i] = np.where(own.any(axis=1), begin, 0) * itemsize
        wide[:, segments + 2 * i + 1] = _bits(own)
    wide[many > kernel.SEGMENTS, segments + 1] = _bits(there)[many > kernel.SEGMENTS]
    return np.asarray(np.where(there, shift, 0))


def _direct(wide: Array, count: Array, lanes: int, itemsize: int, masks: bool) -> None:
    """Which panels are stored by the tiles, as they are neighbours in the result."""
    one = wide[:, kernel.WRITES // 8] == 1
    first, second = one[::2].copy(), one[1::2]
    pairs, n = count[::2].copy(), len(second)
    first[:n] &= second & (wide[1::2, kernel.OUT // 8] == wide[: 2 * n : 2, kernel.OUT // 8] + lanes * itemsize)
    pairs[:n] += count[1::2]
    if not masks:
        first &= pairs == 2 * lanes
    wide[::2, kernel.DIRECT // 8] = np.where(first, pairs, 0)
    wide[::2, kernel.COUNT // 8] = lanes
    wide[: 2 * n : 2, kernel.COUNT // 8] = 2 * lanes


def _bits(lanes: Array) -> Array:
    """The last dimension as the bits of a number."""
    return np.asarray(lanes @ (1 << np.arange(lanes.shape[-1], dtype=np.int64)), np.int64)
