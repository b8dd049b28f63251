"""Convolutions of arrays, and their input gradients, on open kernels (kernels/convolving.py), of any sizes.

Note [Plans]
What follows from shapes is worked out once for a combination of them and kept as a `Plan`: the sweeps, the tables
of pixels, how work is cut into chunks. That takes NumPy 0.2 ms or so, and compiles nothing.
"""

from __future__ import annotations

import itertools
import math
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np

from ...ir.dtypes import DType
from ...ir.types import Shape
from . import open as _open
from .copies import row_major
from .emit import Module
from .kernels.conv import Sweep, adjoint_sweeps, forward_sweeps
from .kernels.convolving import ConvolutionKernels
from .kernels.fewchannels import FEW
from .kernels.patching import READS, SWEEP, VECTORS, WORDS
from .pixels import Plane, mark_direct, shifts, tables, tap_numbers
from .products import Products, products_of
from .target import Target, host

Array = np.ndarray[Any, Any]
Pairs = tuple[tuple[int, int], ...]

_LITTLE = 1 << 20  # multiply-adds that an entry does: 20 us or so
_ROOM = 1 << 20  # bytes of an entry's memory
_CHUNK = 1 << 20  # multiply-adds of a chunk
_FEW_CHUNKS = 16
_DEEP = 1024  # k of a block of patches
_PATCHES = 256 << 10  # bytes of patches that a worker packs at a time
_CACHED = 256 << 10  # bytes of weights that are multiplied with one panel after the other
_TOGETHER = 4  # tiles of a chunk of weights whose rows lie beside each other
_FEW_CHANNELS, _EVEN = 16, 2048  # channels are read one by one if they are few, or their bytes a multiple of this
_SPLIT = 1 << 20  # bytes of a plane that is split
_SMALL_IMAGE = 512  # pixels: panels go through several images where these are smaller
_WASTE = 1.03  # vectors per image over those that its pixels fill, from which on they do


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
        self._code = _open.Loaded(module_of(dtype, target), target)
        self.at = {name: self._code.address(name) for name in ("weights", "convolve", "few")}
        self._products = products_of(dtype) if target is host() else Products(dtype, target)
        self.tiles = self._products.tiles
        self.entry: Callable[[Array, Array, Array, Array], Array] | None = None
        if _open.HAS_ENTRIES:
            room = np.empty(_ROOM + 64, np.uint8)
            self._room = room[-room.ctypes.data % 64 :]
            self.entry = self._code.entry("conv", self._room)

    def plan(
        self, x: Shape, w: Shape, stride: Shape, padding: Pairs, dilation: Shape, groups: int,
        input_size: Shape | None = None,
    ) -> Plan:  # fmt: skip
        """How to convolve `x` with `w`, or the gradient of the input, which has `input_size`, for `x`."""
        return Plan(self, x, w, stride, padding, dilation, groups, input_size)


def module_of(dtype: DType, target: Target) -> Module:
    """The code for float32 or float64."""
    module = Module(target)
    ConvolutionKernels(dtype, target).emit(module)
    return module


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
        self.owner, self.is_adjoint = owner, input_size is not None
        self.x, self.kernel_size, self.groups = x, w[2:], groups
        size = input_size if input_size is not None else _output_size(x[2:], w[2:], stride, padding, dilation)
        self.outputs, self.channels = w[0] // groups, w[1]
        if self.is_adjoint:
            self.outputs, self.channels = self.channels, self.outputs
        self.is_few = self.outputs <= FEW
        self.shape = (x[0], groups * self.outputs, *size)
        make = adjoint_sweeps if self.is_adjoint else forward_sweeps
        every = zip(size, w[2:], stride, padding, dilation, strict=True)
        sweeps = list(itertools.product(*[make(n, k, s, pad[0], d) for n, k, s, pad, d in every]))
        seen = [parts for parts in sweeps if all(s.taps for s in parts)]
        if not (math.prod(x) and math.prod(w) and math.prod(size)):
            seen = []
        self._tables: list[Array] = []
        self.words = self._describe(stride)
        self._split(stride, len(seen) == len(sweeps))
        self._cut(seen)
        self._dtype = owner.dtype.numpy
        self._make = np.empty if len(seen) == len(sweeps) else np.zeros  # some positions may see nothing

    def _describe(self, stride: Shape) -> dict[str, int]:
        """The words of the call, without those that follow from sweeps."""
        outputs, channels, size = self.outputs, self.channels, self.owner.dtype.itemsize
        words = dict.fromkeys(WORDS, 0)
        words["groups"], words["channels"], words["outputs"] = self.groups, channels, outputs
        words["tiles_at"], tiles = self.owner.tiles, -(-outputs // self.owner.kernels.tile_rows)
        words["tiles"], words["rows"], words["extra"] = tiles, outputs // max(1, tiles), outputs % max(1, tiles)
        for name, shape, own in (("x", self.x, channels), ("y", self.shape, outputs)):
            one = math.prod(shape[2:]) * size
            words[name + "_image"], words[name + "_group"] = math.prod(shape[1:]) * size, one * own
            words[name + "_channel"] = one
        one_by_one = channels <= _FEW_CHANNELS or words["x_channel"] % _EVEN == 0
        words["one_by_one"] = int(one_by_one and not self.is_few)
        taps = math.prod(self.kernel_size) * size
        words["w_group"] = channels * outputs * taps
        words["w_line"], words["w_channel"] = channels * taps, taps
        words["repeats"], words["columns"] = 1, channels * taps // size
        if self.is_adjoint:
            words["w_line"], words["w_channel"] = taps, outputs * taps
            words["repeats"], words["columns"] = channels, taps // size
        words["w_repeat"] = words["w_channel"]
        words["y_apart" if self.is_adjoint else "x_apart"] = 2 if stride[-1] == 2 else 1
        words["x_apart" if self.is_adjoint else "y_apart"] = 1
        return words

    def _split(self, stride: Shape, is_whole: bool) -> None:
        """Whether planes are split by the stride, see Note [Few channels]."""
        size, itemsize, words = self.x[2:], self.owner.dtype.itemsize, self.words
        self.plane, self.result = Plane.of(size), Plane.of(self.shape[2:])
        if self.outputs != 1 or self.channels != 1 or max(stride) == 1 or not is_whole:
            return
        plane = Plane.of(self.shape[2:] if self.is_adjoint else size, stride)
        nbytes = -(-plane.elements * itemsize // 64) * 64
        if nbytes > _SPLIT:
            return
        if self.is_adjoint:
            self.result = plane
        else:
            self.plane = plane
        words["splits"], words["x_apart"], words["y_apart"] = 1 + self.is_adjoint, 1, 1
        words["split_apart"], words["split_bytes"], words["split_phase"] = (
            stride[-1],
            nbytes,
            plane.phases[-1] * itemsize,
        )
        words["split_lines"] = self._address(plane.lines() * itemsize)
        words["split_count"], words["split_length"] = math.prod(plane.size[:-1]), plane.size[-1]

    def _cut(self, seen: Sequence[Sequence[Sweep]]) -> None:
        """Everything about sweeps: their words, chunks, and memory."""
        words, kernels = self.words, self.owner.kernels
        table = np.zeros((max(1, len(seen)), len(SWEEP)), np.int64)
        tiles = 0 if self.is_few else self.groups * words["tiles"]
        sweeps, packed, room = [], 0, 0
        together = self._goes_through_images(seen)
        for row, parts in zip(table, seen, strict=False):
            own, needs_room = self._sweep(parts, together)
            own["packed_at"] = packed
            packed += tiles * own["k"] * kernels.tile_step
            row[:] = [own[name] for name in SWEEP]
            sweeps.append(own)
            room |= needs_room
        words["sweeps"], words["num_sweeps"] = self._address(table), len(seen)
        words["places"] = self._address(self._places(seen, table))
        words["images"] = 1 if together else self.x[0]
        words["together"] = _TOGETHER if words["columns"] == 1 else 1
        chunks = scratch = 0
        if seen:
            chunks, scratch = (self._few if self.is_few else self._panels)(sweeps, bool(room))
        packs = self.groups * -(-words["tiles"] // words["together"]) if tiles and chunks else 0
        words |= {"packs": packs, "chunks": chunks}
        self._finish(packed, scratch)

    def _finish(self, packed: int, scratch: int) -> None:
        """What a call needs besides, with so many bytes of packed weights and of scratch memory."""
        words, at = self.words, self.owner.at
        self._packed, self._scratch = -(-packed // 64) * 64, -(-(scratch + words["split_bytes"]) // 64) * 64
        words["packed_bytes"] = self._packed
        words["x_end"] = math.prod(self.x) * self.owner.dtype.itemsize
        self._words = np.array(list(words.values()), np.int64)
        work = math.prod(self.shape) * math.prod(self.kernel_size) * self.channels
        is_little = work <= _LITTLE and self._packed + self._scratch <= _ROOM
        self._entry = self.owner.entry if is_little else None
        chunks = words["chunks"]
        both = ((at["weights"], words["packs"]), (at["convolve"], chunks))
        self._phases: tuple[tuple[int, int], ...] = ((at["few"], chunks),) if self.is_few else both
        self.is_empty = not chunks
        self.nbytes = sum(t.nbytes for t in self._tables)

    def _goes_through_images(self, seen: Sequence[Sequence[Sweep]]) -> bool:
        """Whether panels have pixels of several images, as these would leave too much of them empty."""
        lanes, batch = self.owner.kernels.lanes, self.x[0]
        pixels = [math.prod(s.count for s in parts) for parts in seen]
        if self.is_few or batch == 1 or not seen or max(pixels) >= _SMALL_IMAGE:
            return False
        wasted = sum(-(-n // lanes) * lanes for n in pixels) > _WASTE * sum(pixels)
        return wasted and max(math.prod(self.x[1:]), math.prod(self.shape[1:])) < (1 << 31) // lanes

    def _address(self, array: Array) -> int:
        self._tables.append(array)
        return _open.address_of(array)

    def _sweep(self, parts: Sequence[Sweep], together: bool) -> tuple[dict[str, int], bool]:
        """The words of a sweep, and whether memory is needed for its results, or patches if channels are few."""
        kernels, itemsize, words = self.owner.kernels, self.owner.dtype.itemsize, self.words
        steps, images = (math.prod(self.x[1:]), math.prod(self.shape[1:])), self.x[0] if together else 1
        made = tables(parts, self.plane, self.result, steps, images, kernels.lanes, itemsize)
        table = made.rows
        numbers = tap_numbers(parts, self.kernel_size)
        own = dict.fromkeys(SWEEP, 0)
        own["taps"], own["k"], own["num_vectors"] = len(numbers), len(numbers) * self.channels, made.vectors
        own["period"], own["blocks"] = made.period, self._address(made.blocks)
        own["x_step"], own["y_step"] = (step * itemsize for step in made.steps)
        own["shifts"] = self._address(shifts(parts, self.plane) * itemsize)
        own["w_shifts"] = self._address(numbers * itemsize)
        own["vectors"], own["masks"] = self._address(table), self._address(made.masks)
        depth = own["depth"] = self._depth(len(numbers))
        own["block"] = min(words["tiles"], max(1, _CACHED // (depth * kernels.tile_step)))
        if self.is_few:
            return own, words["x_apart"] > 1 or bool((table[:, READS // 8] != 1).any())
        return own, not mark_direct(table, parts[-1].step == 2, kernels.lanes, itemsize, kernels.masks)

    def _depth(self, taps: int) -> int:
        """Of blocks of k, which are of whole taps where that is possible."""
        k, unit = taps * self.channels, self.channels if self.channels <= _DEEP else 1
        if not self.owner.kernels.goes_on:
            return k
        return -(-k // (-(-k // _DEEP) * unit)) * unit

    def _places(self, seen: Sequence[Sequence[Sweep]], sweeps: Array) -> Array:
        """Where an element of a line of the weights goes, in bytes, and how many more for each tile; or -1."""
        step = self.owner.kernels.tile_step
        out = np.zeros((math.prod(self.kernel_size), 2), np.int64)
        out[:, 0] = -1
        for parts, row in zip(seen, sweeps, strict=False):
            numbers = tap_numbers(parts, self.kernel_size)
            out[numbers, 0] = row[SWEEP.index("packed_at")] + np.arange(len(numbers)) * (self.channels * step)
            out[numbers, 1] = row[SWEEP.index("k")] * step
        if self.is_adjoint:
            return out
        own = np.zeros((self.channels, len(out), 2), np.int64) + out
        own[..., 0] += step * np.arange(self.channels)[:, None]
        return own

    def _panels(self, sweeps: list[dict[str, int]], has_room: bool) -> tuple[int, int]:
        """How panels are put together to chunks: their number, and bytes of scratch memory."""
        kernels, words = self.owner.kernels, self.words
        panels = max(-(-own["num_vectors"] // 2) for own in sweeps)
        items, work = words["images"] * self.groups, self.outputs * kernels.width
        depth = sum(own["k"] for own in sweeps)
        group = -(-_CHUNK // (work * depth))
        if any(own["block"] < words["tiles"] for own in sweeps):
            # the more panels, the less often weights come from farther away
            group = max(group, panels * items // _FEW_CHUNKS)
        panel_bytes = max(own["depth"] for own in sweeps) * kernels.panel_step
        group = max(1, min(group, panels, _PATCHES // panel_bytes))
        words["parts"] = parts = -(-panels // group)
        room = self.outputs * kernels.panel_step if has_room else 0
        splits = min(words["tiles"], -(-_FEW_CHUNKS // (2 * items * parts)))
        splits = words["row_splits"] = max(1, min(splits, group * work * depth // _CHUNK))
        return items * parts * splits, -(-panels // parts) * (panel_bytes + room)

    def _few(self, sweeps: list[dict[str, int]], has_room: bool) -> tuple[int, int]:
        """How groups of vectors, or planes, are put together to chunks: their number, and bytes of memory."""
        kernels, words = self.owner.kernels, self.words
        pieces = max(-(-own["num_vectors"] // VECTORS) for own in sweeps)
        planes, wide = words["images"] * self.groups, VECTORS * kernels.lanes
        most = max(1, _CHUNK // 4 // (self.outputs * sum(own["k"] for own in sweeps) * wide))
        words["parts"] = parts = 1 if words["split_bytes"] else -(-pieces // most)
        many = words["planes"] = max(1, min(most // pieces, planes // _FEW_CHUNKS)) if parts == 1 else 1
        room = max(own["k"] for own in sweeps) * wide * kernels.size if has_room else 0
        return -(-planes // many) * parts, room

    def __call__(self, x: Array, w: Array) -> Array:
        """The result for arrays of the plan's shapes."""
        if not x.flags.c_contiguous:
            x = row_major(x)
        if not w.flags.c_contiguous:
            w = row_major(w)
        out = self._make(self.shape, self._dtype)
        if self._entry is not None:
            return self._entry(x, w, out, self._words)
        if not self.is_empty:
            self._run(x, w, out)
        return out

    def _run(self, x: Array, w: Array, out: Array) -> None:
        row = -(-self._scratch // 4096) * 4096
        with _open.take() as call:
            at = call.memory(self._packed + row * call.threads)
            words = call.words
            words[2 : 2 + len(WORDS)] = self._words
            start = _open.address_of(x)
            words[:7] = (
                at + self._packed,
                row,
                start,
                start + x.nbytes,
                _open.address_of(w),
                _open.address_of(out),
                at,
            )
            call.run(*self._phases)


def _output_size(size: Shape, kernel_size: Shape, stride: Shape, padding: Pairs, dilation: Shape) -> Shape:
    every = zip(size, kernel_size, stride, padding, dilation, strict=True)
    return tuple([(n + lo + hi - d * (k - 1) - 1) // s + 1 for n, k, s, (lo, hi), d in every])
