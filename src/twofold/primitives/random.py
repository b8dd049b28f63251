"""Random bits: Philox 4x32-10, a counter-based generator.

Note [Random streams]
The state of a generator is two uint64 numbers: the seed, and how many 128-bit blocks have been
used. Block number b of the seed s is Philox's answer to the counter (low half of b, high half of
b, 0, 0) under the key (low half of s, high half of s); it gives four 32-bit words. So any part of
the stream can be made without what stands before it, on any number of threads, with the same bits.

Source: Salmon, Moraes, Dror, Shaw 2011, "Parallel random numbers: as easy as 1, 2, 3", section 4.
"""

from __future__ import annotations

import functools
import math
from typing import Any

import numpy as np

from ..ir.dtypes import uint32, uint64
from ..ir.errors import DTypeError, ShapeError
from ..ir.primitive import ErrorSample, Primitive, Sample
from ..ir.types import Shape, TensorType

Array = np.ndarray[Any, Any]

_LOW = np.uint64(0xFFFFFFFF)
_HALF = np.uint64(32)
_MULTIPLIERS = np.array([[0xCD9E8D57], [0xD2511F53]], np.uint64)
_KEY_STEP = np.array([[0x9E3779B9], [0xBB67AE85]], np.uint64)  # golden ratio and sqrt(3) - 1
_WORD = np.dtype(np.uint64)
_ROUNDS = 10
_CHUNK = 8192  # blocks at a time: the three buffers stay in the second-level cache
_PAGE = 128  # blocks that are made together for small draws, which would not be worth the calls to NumPy


@functools.lru_cache(maxsize=64)
def _round_keys(key: int) -> list[Array]:
    first = np.array([[key & 0xFFFFFFFF], [key >> 32]], np.uint64)
    return [(first + np.uint64(r) * _KEY_STEP) & _LOW for r in range(_ROUNDS)]


def philox(even: Array, odd: Array, keys: list[Array], product: Array) -> None:
    """Ten rounds of Philox 4x32, in place, on many counters at once.

    Shapes: `even` (2, n) holds words 0 and 2 of the counters, `odd` (2, n) words 1 and 3, each a
    32-bit number in a uint64; afterwards they hold the random words. `product` (2, n) is scratch.
    """
    crossed = even[::-1]
    for key in keys:
        np.multiply(crossed, _MULTIPLIERS, out=product)  # 32 x 32 bits, never more than 64
        np.right_shift(product, _HALF, out=even)
        np.bitwise_xor(even, odd, out=even)
        np.bitwise_xor(even, key, out=even)
        np.bitwise_and(product, _LOW, out=odd)


def _random_bits(state: Array, *, shape: Shape) -> Array:
    size = math.prod(shape)
    blocks = -(-size // 4)
    if state.dtype != _WORD or state.shape != (2,) or size < 0:
        raise TypeError
    seed, first = state.tolist()
    at = first % _PAGE
    if at + blocks <= _PAGE:
        return _page(seed, first - at)[4 * at : 4 * at + size].reshape(shape).copy()
    return _words(seed, first, blocks)[:size].reshape(shape)


@functools.lru_cache(maxsize=64)
def _page(seed: int, first: int) -> Array:
    """The words of blocks `first` to `first + _PAGE`: small draws from one stream follow each other."""
    return _words(seed, first, _PAGE)


def _words(seed: int, first: int, blocks: int) -> Array:
    """The words of some blocks, 4 each."""
    out = np.empty((blocks, 4), np.uint32)
    keys = _round_keys(seed)
    start = np.uint64(first)
    width = min(blocks, _CHUNK)
    even, odd, product = np.empty((3, 2, width), np.uint64)
    for begin in range(0, blocks, _CHUNK):
        n = min(_CHUNK, blocks - begin)
        e, o, p = even[:, :n], odd[:, :n], product[:, :n]
        counter = np.arange(n, dtype=np.uint64) + (start + np.uint64(begin))
        e[1] = 0
        o[1] = 0
        np.bitwise_and(counter, _LOW, out=e[0])
        np.right_shift(counter, _HALF, out=o[0])
        philox(e, o, keys, p)
        part = out[begin : begin + n]
        part[:, 0], part[:, 1], part[:, 2], part[:, 3] = e[0], o[0], e[1], o[1]
    return out.reshape(-1)


def _random_bits_type(state: TensorType, *, shape: Shape) -> TensorType:
    if state.dtype is not uint64:
        raise DTypeError(f"the state of a generator is uint64, got {state.dtype.name}", op="random_bits")
    if state.shape != (2,):
        raise ShapeError(f"the state of a generator has shape (2,), got {state.shape}", op="random_bits")
    if any(n < 0 for n in shape):
        raise ShapeError(f"shape {tuple(shape)} has a negative size", op="random_bits")
    return TensorType(shape, uint32)


def _samples(dtype: Any, rng: np.random.Generator) -> Any:
    for shape in ((4,), (2, 3), (), (0,), (1, 9)):
        for offset in (0, 5, 2**32 - 1, 2**64 - 1):
            yield Sample((np.array([rng.integers(2**63), offset], np.uint64),), {"shape": shape})


random_bits = Primitive(
    "random_bits",
    type_rule=_random_bits_type,
    numpy=_random_bits,
    nondiff="random bits do not depend on anything differentiable",
    samples=_samples,
    errors=lambda: (
        ErrorSample((np.zeros(2, np.int64),), {"shape": (1,)}, DTypeError, "is uint64, got int64"),
        ErrorSample((np.zeros(3, np.uint64),), {"shape": (1,)}, ShapeError, "has shape (2,), got (3,)"),
        ErrorSample((np.zeros(2, np.uint64),), {"shape": (-1,)}, ShapeError, "negative size"),
    ),
    dtypes=(uint64,),
    checked_by_numpy=True,
)
