"""Row-major copies of strided inputs, for kernels that want them so; each is made once."""

from __future__ import annotations

import math
from typing import Any

from ....ir.graph import Node
from ..layout import View
from ..step import Step
from .copying import copy_piece, copy_step


def row_major(lowering: Any, view: View, node: Node, symbol: str) -> tuple[View, list[Step]]:
    """A row-major view of the same elements, and the step that makes it if there must be one."""
    if view.contiguous:
        return view, []
    known = lowering.__dict__.setdefault("row_major_copies", {})
    if view.buffer in lowering.home.values():
        known = {}  # state that this program writes: the copy may be of what was there before
    key = (view.buffer, view.shape, view.strides, view.offset)
    if key in known:
        return known[key], []
    out = View.whole(lowering.buffer("temp", view.dtype, math.prod(view.shape)), view.shape)
    known[key] = out
    return out, copy_step(lowering, node, symbol, [copy_piece(view, out)])
