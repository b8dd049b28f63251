"""Pools of arrays with channels first, on kernels that take sizes at run time (kernels/pooling.py)."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np

from ...ir.dtypes import DType
from ...ir.types import Shape
from . import open as _open
from .emit import Module
from .kernels.pooling import BAD, CHUNKS, CODE, POOL, WORDS, PoolKernels, pool_entry
from .target import Target, host

Array = np.ndarray[Any, Any]

HAS_ENTRIES = _open.HAS_ENTRIES
_LITTLE = 1 << 15  # elements read, that an entry does under the interpreter's lock
_SCRATCH = 1 << 20  # bytes of scratch memory of a panel, at most
_CHUNK = 1 << 14  # elements read by a chunk, about
_PLACE = {name: i + 2 for i, name in enumerate(POOL)}
_LARGEST = 1 << 30  # pixels of a plane


@dataclass(frozen=True)
class Geometry:
    """Sizes of a pool; all have three spatial dimensions."""

    planes: int
    size: Shape  # of the input
    sizes: Shape  # of the windows' positions
    kernel: Shape
    stride: Shape
    low: Shape
    dilation: Shape

    @classmethod
    def of(cls, shape: Shape, sizes: Shape, params: dict[str, Any]) -> Geometry:
        """That of an input's shape (N, C, *S), and the spatial sizes of the result."""
        missing = 3 - len(sizes)
        ones, zeros = (1,) * missing, (0,) * missing
        spatial = shape[2:]
        if "kernel" not in params:
            one = (1, 1, 1)
            return cls(shape[0] * shape[1], ones + spatial, ones + sizes, one, one, (0, 0, 0), one)
        low = tuple([lo for lo, _ in params["padding"]])
        return cls(
            shape[0] * shape[1],
            ones + spatial,
            ones + sizes,
            ones + tuple(params["kernel"]),
            ones + tuple(params["stride"]),
            zeros + low,
            ones + tuple(params["dilation"]),
        )

    def along(self, d: int) -> tuple[int, int, int, int, int, int]:
        """Size, positions, kernel, stride, padding and dilation of a dimension."""
        return self.size[d], self.sizes[d], self.kernel[d], self.stride[d], self.low[d], self.dilation[d]

    @property
    def apart(self) -> bool:
        """Whether no pixel is in two windows."""
        each = zip(self.kernel, self.stride, self.dilation, strict=True)
        return all(k == 1 or (k <= s and gap == 1) for k, s, gap in each)

    @property
    def covered(self) -> bool:
        """Whether each pixel is in one window."""
        reach = tuple([n * k for n, k in zip(self.sizes, self.kernel, strict=True)])
        return self.apart and self.kernel == self.stride and self.low == (0, 0, 0) and reach == self.size


def tap_ranges(n: int, size: int, kernel: int, stride: int, low: int, gap: int) -> Array:
    """For each position of a window the first of its taps inside the input, and the one after the last."""
    start = np.arange(size) * stride - low
    first = np.clip(-(start // gap), 0, kernel)
    stop = np.clip(-((start - n) // gap), first, kernel)
    return np.stack([first, stop], 1)


def window_ranges(n: int, size: int, kernel: int, stride: int, low: int, gap: int) -> Array:
    """For each input element the first window over it, the end of them, and the step from one to the next."""
    place = np.arange(n)[:, None] + low - np.arange(kernel) * gap
    number = place // stride
    there = (place >= 0) & (place % stride == 0) & (number < size)
    last = np.where(there, number, -1).max(1) + 1
    first = np.where(there, number, last[:, None]).min(1)
    step = np.full(n, gap // math.gcd(gap, stride))
    return np.stack([first, last, step], 1)


@dataclass(eq=False)
class Plan:
    """How a pool of some shape is computed.

    Attributes:
        shape: of the results.
        words: the table, without addresses of arrays; see Note [Table of a pool].
        scratch: bytes for each thread.
        is_little: whether an entry does it.
    """

    shape: Shape
    words: Array
    scratch: int
    is_little: bool
    ranges: Array


class Pool:
    """One pool of one dtype.

    Args:
        name: "max_pool", "sum_pool", "sum_pool_grad" or "max_pool_grad".
        dtype: a floating one.
        target: the processor; this one's by default.
    """

    def __init__(self, name: str, dtype: DType, target: Target | None = None):
        target = target or host()
        self.kernels = kernels = PoolKernels(name, dtype, target)
        self.name, self.dtype = name, dtype.numpy
        self._code = _open.Loaded(module_of(kernels, target), target)
        self._at = {kernel: self._code.address(kernel) for kernel in kernels.names}
        self.plans: dict[Any, Plan] = {}

    def plan(self, shape: Shape, sizes: Shape, params: dict[str, Any]) -> Plan | None:
        """How to compute it.

        Args:
            shape: of the input, (N, C, *S); of a gradient, that is the result.
            sizes: of the windows' positions.
        """
        g = Geometry.of(shape, sizes, params)
        pixels, places = math.prod(g.size), math.prod(g.sizes)
        if not pixels * places * g.planes or pixels * g.stride[2] >= _LARGEST or places >= _LARGEST:
            return None
        grad = self.name.endswith("_grad")
        read = g.planes * max(pixels, places)
        kernel, items, scratch = self._kernel(g, pixels, places)
        per_chunk = max(1, _CHUNK * items // read)
        ranges, starts = self._ranges(g, kernel)
        words = np.zeros(WORDS, np.int64)
        table = [g.planes, items, per_chunk, *g.size, *g.sizes, *g.kernel, *g.stride, *g.low, *g.dilation]
        table += [g.apart, g.covered]
        words[_PLACE["ranges_d"] : _PLACE["ranges_d"] + 3] = [ranges.ctypes.data + 8 * start for start in starts]
        words[_PLACE["planes"] : _PLACE["planes"] + len(table)] = table
        words[CODE], words[CHUNKS] = self._at[kernel], -(-items // per_chunk)
        little = HAS_ENTRIES and read <= _LITTLE
        if little:
            words[0] = _scratch(scratch)
        result = shape if grad else (*shape[:2], *sizes)
        return Plan(result, words, scratch, little, ranges)

    def _kernel(self, g: Geometry, pixels: int, places: int) -> tuple[str, int, int]:
        """The kernel's name, how many items it walks, and the scratch memory that it needs."""
        lanes, held = self.kernels.lanes, self.kernels.held.itemsize
        if self.name == "max_pool_grad":
            return "planes", g.planes, pixels * held if self.kernels.held.numpy != self.dtype else 0
        whole = [-(-n // lanes) * lanes for n in (pixels, places)]
        scratch = lanes * (whole[0] * held + whole[1] * (held + 4))
        grad = self.name == "sum_pool_grad"
        stride = g.stride[2]
        length = -(-g.size[2] // stride) if grad else g.sizes[2]
        has_lines = stride == 1 or (stride == 2 and (g.dilation[2] % 2 == 1 or not grad))
        short = 2 * length <= lanes or (grad and g.apart and length < lanes)
        if scratch <= _SCRATCH and (short or not has_lines) and 2 * g.planes > lanes:
            return "panels", -(-g.planes // lanes), scratch
        lines = (g.size if grad else g.sizes)[:2]
        return f"lines{stride}" if has_lines else "lines", g.planes * math.prod(lines), 0

    def _ranges(self, g: Geometry, kernel: str) -> tuple[Array, list[int]]:
        """The tables of ranges that a kernel reads, and where each begins."""
        of = window_ranges if self.name == "sum_pool_grad" and kernel != "panels" else tap_ranges
        read = {"planes": 0, "panels": 3}.get(kernel, 2)
        parts = [of(*g.along(d)).reshape(-1) for d in range(read)]
        starts = [sum(p.size for p in parts[:d]) for d in range(3)]
        return np.concatenate([*parts, np.zeros(1, np.int64)]).astype(np.int64), starts

    def run(self, plan: Plan, arrays: tuple[Array, ...]) -> bool:
        """Compute by the thread team; the result is the first array. False if an index was out of range."""
        with _open.take() as call:
            words = call.words
            words[:] = plan.words
            words[2 : 2 + len(arrays)] = [_open.address_of(x) for x in arrays]
            if plan.scratch:
                row = -(-plan.scratch // 4096) * 4096
                words[0], words[1] = call.memory(row * call.threads), row
            call.run((int(plan.words[CODE]), int(plan.words[CHUNKS])))
            return not words[BAD]


def module_of(kernels: PoolKernels, target: Target) -> Module:
    """The code for a pool."""
    module = Module(target)
    kernels.emit(module)
    return module


def entry_module(arrays: int) -> Module:
    """The code of an entry for a number of arrays."""
    module = Module(host())
    pool_entry(module, arrays)
    return module


_memory: list[Array] = []


def _scratch(nbytes: int) -> int:
    """The address of memory for entries, of which one runs at a time."""
    if not _memory:
        _memory.append(np.empty(_SCRATCH + 64, np.uint8))
    assert nbytes <= _SCRATCH
    return -(-_memory[0].ctypes.data // 64) * 64


_entries: dict[int, tuple[Callable[..., Any], _open.Loaded]] = {}


def entry(arrays: int) -> Callable[..., Any]:
    """`f(words of a plan, *arrays)` for what is little; returns the words if an index was out of range."""
    made = _entries.get(arrays)
    if made is None:
        loaded = _open.Loaded(entry_module(arrays))
        made = _entries.setdefault(arrays, (loaded.entry(f"pool{arrays}"), loaded))
    return made[0]
