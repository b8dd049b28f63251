"""Random numbers in arrays, on kernels that take sizes at run time (kernels/drawing.py)."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np

from . import open as _open
from .emit import Module
from .kernels.drawing import CHUNK, KINDS, draw_entry, emit_draw
from .target import Target, host

Array = np.ndarray[Any, Any]

LITTLE = 1 << 12  # elements that an entry draws, under the interpreter's lock
_WORDS = (1 << 64) - 1


class Draw:
    """Draws of one kind.

    Args:
        name: of `KINDS`.
    """

    def __init__(self, name: str):
        self.kind = KINDS[name]
        self.advances = name != "bits"
        self._loaded = _open.Loaded(module_of(name))
        self._address = self._loaded.address("draw")
        self._entry: Callable[..., Array] | None = None
        if _open.HAS_ENTRIES:
            own = np.array([self._address, self.kind.rows, self.kind.per_item, self.advances], np.int64)
            self._own = _open.Loaded(entry_module()), own
            self._entry = self._own[0].entry("draw_little", own)

    def __call__(self, state: Array, out: Array, a: float = 1.0, b: float = 0.0) -> Array:
        """Fill a row-major array, which it returns, from a stream.

        The state, two uint64 in a row, is advanced by what was drawn, unless that was bits.
        """
        if out.size <= LITTLE and self._entry is not None:
            return self._entry(state, a, b, out)
        seed, used = state.view(np.int64).tolist()
        items = -(-out.size // self.kind.per_item)
        numbers = np.array([a, b]).view(np.int64).tolist()
        with _open.take() as call:
            call.words[2:8] = (out.ctypes.data, out.size, seed, used, *numbers)
            call.run((self._address, -(-items // CHUNK)))
        if self.advances:
            state[1] = (int(state[1]) + -(-items * self.kind.rows // 4)) & _WORDS
        return out


def module_of(name: str, target: Target | None = None) -> Module:
    """The code of a kind of draw."""
    target = target or host()
    module = Module(target)
    emit_draw(module, name, target.lanes(4))
    return module


def entry_module() -> Module:
    """The code that Python calls for all kinds."""
    module = Module(host())
    draw_entry(module)
    return module
