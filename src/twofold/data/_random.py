"""Random sources of data: one per sample, keyed so that threads can't change what is drawn.

Note [Random source of a sample]
The loader sets, for the thread, the key (seed of the epoch, index of the sample) while it reads the
sample. `sample_rng()` makes a Philox generator of that key on first use, and gives the same
generator until the sample is read; `twofold.rand` and the like draw from a generator of the same key,
unless they are given one. What a sample draws is so a function of the key only.
"""

from __future__ import annotations

import threading
import zlib
from typing import Any

import numpy as np

from ..autodiff.composite import concrete
from ..tensors.random import Generator, draw_words
from ..tensors.random import source as tensor_source

_U64 = (1 << 64) - 1


class _Source(threading.local):
    key: tuple[int, Any, int] | None = None
    rng: np.random.Generator | None = None


_source = _Source()


class sample_source:
    """Inside: `sample_rng()` and random tensors come from this key in this thread."""

    __slots__ = ("generator", "key", "previous")

    def __init__(self, seed: int, index: Any, position: int = 0):
        self.key = (seed, index, position)

    def __enter__(self) -> None:
        self.previous = (_source.key, _source.rng, tensor_source.generator)
        _source.key, _source.rng, tensor_source.generator = self.key, None, self._generator
        self.generator: Generator | None = None

    def __exit__(self, *_: Any) -> None:
        _source.key, _source.rng, tensor_source.generator = self.previous

    def _generator(self) -> Generator:
        if self.generator is None:
            seed, index, position = self.key
            drawn = philox(seed, _number(index), ~position).integers(0, _U64, dtype=np.uint64, endpoint=True)
            self.generator = Generator().manual_seed(int(drawn))
        return self.generator


def draw_seed(generator: Generator | None = None) -> int:
    """A number of 63 bits from the generator (the global one by default), which is advanced."""
    with concrete():
        return int(draw_words((), generator).item()) >> 1


def sample_rng() -> np.random.Generator:
    """The random generator of the sample that is being read; random transforms draw from it.

    Inside a loader it depends on the loader's seed of this epoch and on the sample's index, never
    on threads. Elsewhere it is a new generator, seeded from the global one of Twofold.

    >>> import twofold as tw
    >>> _ = tw.manual_seed(0)
    >>> 0 <= sample_rng().random() < 1
    True
    """
    if _source.key is None:
        return philox(draw_seed())
    if _source.rng is None:
        seed, index, position = _source.key
        _source.rng = philox(seed, _number(index), position)
    return _source.rng


def _number(index: Any) -> int:
    """An index as a number that is the same in every run."""
    try:
        return index.__index__()
    except AttributeError:
        return zlib.crc32(repr(index).encode()) | 1 << 63


def philox(seed: int, index: int = 0, position: int = 0) -> np.random.Generator:
    """NumPy's Philox generator of this key."""
    key = np.array([seed & _U64, index & _U64], dtype=np.uint64)
    counter = np.array([0, 0, position & _U64, 0], dtype=np.uint64)
    return np.random.Generator(np.random.Philox(key=key, counter=counter))
