"""Eager draws of random numbers on the compiler's own kernels: see Note [What runs natively] in eager.py.

Random bits, and what is drawn of them most often: uniform and normal numbers of float32, and integers.
"""

from __future__ import annotations

import importlib
from typing import Any

import numpy as np

from ..autodiff.composite import Drawing
from ..ir.evaluate import runner
from ..ir.primitive import PRIMITIVES
from ..ir.types import Shape

Array = np.ndarray[Any, Any]


def run_natively() -> None:
    """Let eager code draw natively; only the first draw loads LLVM."""
    p = PRIMITIVES["random_bits"]
    reference = runner(p)

    def bits(state: Any, *, shape: Shape) -> Any:
        if state.dtype != _STATE or state.shape != (2,) or not state.flags.c_contiguous:
            return reference(state, shape=shape)
        return draw("bits", state, np.empty(shape, np.uint32))

    p.run = bits
    Drawing.draw = staticmethod(draw)


def draw(kind: str, state: Array, out: Array, a: float = 1.0, b: float = 0.0) -> Array:
    """Fill a row-major array; see backends/cpu/kernels/drawing.py for the kinds."""
    made = _made.get(kind)
    if made is None:  # the first one stays: another thread may have it already
        module = importlib.import_module("..backends.cpu.draws", __package__)
        made = _made.setdefault(kind, module.Draw(kind))
    return made(state, out, a, b)


_made: dict[str, Any] = {}
_STATE = np.dtype(np.uint64)
