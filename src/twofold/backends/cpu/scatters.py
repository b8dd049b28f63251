"""Sums by index of arrays, and reading by index, on kernels that take sizes at run time (kernels/scattering.py)."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any

import numpy as np

from ...ir.dtypes import DType
from ...ir.types import Shape, contiguous_strides
from . import open as _open
from .emit import Module
from .kernels.pooling import BAD, CHUNKS, CODE, WORDS
from .kernels.scattering import NAMES, SCATTER, GatherKernels, ScatterKernels
from .layout import merge
from .target import Target, host

Array = np.ndarray[Any, Any]

_LITTLE = 1 << 14  # additions that an entry does under the interpreter's lock
_CHUNK = 1 << 14  # additions of a chunk, about
_PANEL = 4  # vectors of a panel of rows, at least
_NEIGHBOURS = 64  # of a panel of elements


@dataclass(eq=False)
class Plan:
    """How sums of some shapes are computed.

    Attributes:
        words: the table, without addresses of arrays; see Note [Table of a scatter].
        is_little: whether an entry does it.
    """

    words: Array
    is_little: bool


class Scatter:
    """Sums by index of one dtype, a floating one or integers. All arrays are row-major.

    Args:
        target: the processor; this one's by default.
    """

    emitter = ScatterKernels

    def __init__(self, dtype: DType, target: Target | None = None):
        target = target or host()
        kernels = self.emitter(dtype, target)
        self.lanes = kernels.lanes
        self._code = _open.Loaded(module_of(kernels, target), target)
        self._at = {name: self._code.address(name) for name in NAMES}

    def rows(self, outer: int, size: int, block: int, spots: int) -> Plan:
        """out (outer, size, block) += x (outer, spots, block) at index (spots,) of dimension 1."""
        work = outer * spots * block
        if block < self.lanes // 2:  # vectors would be empty
            return self._plan(
                "single", work, outer=outer, spots=spots, block=1, size=size, row=block, inner=block,
                out_outer=size * block, out_inner=1, x_outer=spots * block, x_inner=1, x_spot=block,
                index_spot=1, panel=self._panel(spots, 1, 1),
            )  # fmt: skip
        panel = self._panel(spots, block, _PANEL * self.lanes)
        return self._plan(
            "rows", work, outer=outer, spots=spots, block=block, size=size, row=block, inner=1,
            out_outer=size * block, x_outer=spots * block, x_spot=block, panel=panel,
        )  # fmt: skip

    def elements(self, shape: Shape, index: Shape, dim: int) -> Plan | None:
        """out += x at index along a dimension, where x has the index's shape; None if that is not simple."""
        strides, own = contiguous_strides(shape), contiguous_strides(index)
        free = [d for d in range(len(index)) if d != dim]
        block, rest = 1, free
        after = [d for d in free if d > dim]
        if math.prod(index[d] for d in after) > 1:
            sizes, walks = merge(
                tuple([index[d] for d in after]), [tuple([s[d] for d in after]) for s in (strides, own)]
            )
            if walks[0][-1] == 1:
                block = sizes[-1]
                kept = sizes[:-1], [w[:-1] for w in walks]
                rest = [d for d in free if d < dim]
            else:
                kept = (), [(), ()]
        else:
            kept, rest = ((), [(), ()]), [d for d in free if d < dim]
        sizes = (*[index[d] for d in rest], *kept[0])
        walks = [(*[s[d] for d in rest], *k) for s, k in zip((strides, own), kept[1], strict=True)]
        sizes, walks = merge(sizes, walks)
        if len(sizes) > 2:
            return None
        missing = 2 - len(sizes)
        outer, inner = (1,) * missing + sizes
        to, fro = ((0,) * missing + w for w in walks)
        spots = index[dim]
        panel, kernel = self._panel(spots, block, _NEIGHBOURS), "single" if block == 1 else "elements"
        return self._plan(
            kernel, outer * inner * spots * block, outer=outer, inner=inner, spots=spots, block=block,
            size=shape[dim], row=strides[dim], out_outer=to[0], out_inner=to[1], x_outer=fro[0], x_inner=fro[1],
            x_spot=own[dim], index_outer=fro[0], index_inner=fro[1], index_spot=own[dim], panel=panel,
        )  # fmt: skip

    def _panel(self, spots: int, block: int, least: int) -> int:
        """How many columns a chunk has of what is cut into panels."""
        return block if spots * block <= _CHUNK else min(block, max(least, _CHUNK // spots))

    def _cut(self, table: dict[str, int]) -> int:
        """The size of what is cut into panels."""
        return table["block"]

    def _plan(self, kernel: str, work: int, **table: int) -> Plan:
        panels = -(-self._cut(table) // table["panel"])
        items = table["outer"] * table["inner"] * panels
        per_chunk = max(1, _CHUNK * items // max(work, 1))
        words = np.zeros(WORDS, np.int64)
        table |= {"items": items, "per_chunk": per_chunk, "panels": panels}
        words[2 : 2 + len(SCATTER)] = [table.get(name, 0) for name in SCATTER]
        words[CODE], words[CHUNKS] = self._at[kernel], -(-items // per_chunk)
        return Plan(words, _open.HAS_ENTRIES and work <= _LITTLE)

    def run(self, plan: Plan, out: Array, x: Array, index: Array) -> bool:
        """Do it by the thread team. False if an index was out of range."""
        with _open.take() as call:
            call.words[:] = plan.words
            call.words[2:5] = [_open.address_of(a) for a in (out, x, index)]
            call.run((int(plan.words[CODE]), int(plan.words[CHUNKS])))
            return not call.words[BAD]


class Gather(Scatter):
    """Reading by index: x (outer, spots, block) becomes what stands at the indices of `out`.

    Args:
        dtype: unsigned integers of the elements' size.
    """

    emitter = GatherKernels

    def _panel(self, spots: int, block: int, least: int) -> int:
        return max(1, min(spots, _CHUNK // block))

    def _cut(self, table: dict[str, int]) -> int:
        return table["spots"]


def module_of(kernels: ScatterKernels, target: Target) -> Module:
    """The code for a dtype."""
    module = Module(target)
    kernels.emit(module)
    return module
