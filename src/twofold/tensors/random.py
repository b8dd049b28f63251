"""Generators of random numbers, and the functions that make random tensors.

Note [Drawing]
A generator's state is a tensor: (seed, blocks used), see Note [Random streams] in
primitives/random.py. Drawing n words reads the ceil(n / 4) next blocks and writes the advanced
count into the state, by ordinary operations. So a traced program draws and advances like an eager
one, with the same bits, and a saved state resumes the very same stream.

Words (32 bits) that an operation takes for n elements:

    rand float32 and halves, bernoulli, dropout    n
    rand float64, randint, randperm                2 n (row 0 the high words, row 1 the low ones)
    randn float32 and halves                       2 ceil(n / 2) (row 0 the radii, row 1 the angles)
    randn float64                                  4 ceil(n / 2)
"""

from __future__ import annotations

import math
import os
import threading
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np

from ..autodiff.bind import bind, no_record, runner_of, write
from ..autodiff.composite import Drawing, concrete
from ..autodiff.handle import Tensor, mode, storage_of, wrap
from ..ir.dtypes import (
    HALVES,
    DType,
    as_dtype,
    float32,
    float64,
    get_default_dtype,
    int64,
    uint64,
)
from ..ir.errors import AutogradError, DTypeError, ShapeError, TwofoldError
from ..ir.primitive import Primitive
from ..ir.types import Shape
from ..primitives import elementwise as E
from ..primitives import movement as M
from ..primitives.random import random_bits
from ..primitives.sort import sort
from ._keys import constant
from ._registry import assign, function
from ._shapes import sizes
from .device import check_device

_U64 = (1 << 64) - 1
_FIRST_SEED = 67280421310721  # PyTorch's, for generators that nobody seeded
_lock = threading.Lock()  # reading the state and advancing it is one step, whichever thread draws


class Generator:
    """A stream of random numbers.

    Attributes:
        state: uint64 tensor (seed, number of 128-bit blocks used). It is all there is to save.

    >>> import twofold as tw
    >>> g = tw.Generator().manual_seed(1)
    >>> a = tw.rand(2, generator=g)
    >>> bool((a == tw.rand(2, generator=g.manual_seed(1))).all())
    True
    """

    def __init__(self, device: Any = None):
        check_device(device)
        self.state = wrap(np.array([_FIRST_SEED, 0], np.uint64))

    def manual_seed(self, seed: int) -> Generator:
        """Start the stream of `seed`, an integer in [-2**63, 2**64); returns the generator."""
        seed = int(seed)
        if not -(1 << 63) <= seed <= _U64:
            raise TwofoldError(
                f"the seed {seed} does not fit 64 bits", op="manual_seed", hint="use a number in [-2**63, 2**64)"
            )
        with no_record():
            assign(self.state, constant(np.array([seed & _U64, 0], np.uint64)))
        return self

    def seed(self) -> int:
        """Seed from the operating system's randomness; returns the seed."""
        seed = int.from_bytes(os.urandom(8), "little")
        self.manual_seed(seed)
        return seed

    def initial_seed(self) -> int:
        """The seed of the stream."""
        with concrete():
            return int(self.state.numpy()[0])

    def get_state(self) -> Tensor:
        """A copy of the state."""
        with no_record():
            return E.copy(self.state)

    def set_state(self, new_state: Tensor) -> Generator:
        """Go to a place in a stream that `get_state` gave.

        Raises: DTypeError or ShapeError if it is no state.
        """
        if new_state.dtype is not uint64:
            raise DTypeError(f"a state is a uint64 tensor, got {new_state.dtype.name}", op="set_state")
        if new_state.shape != (2,):
            raise ShapeError(f"a state has shape (2,), got {new_state.shape}", op="set_state")
        with no_record():
            assign(self.state, new_state)
        return self

    def __repr__(self) -> str:
        return f"Generator(seed={self.initial_seed()})"


default_generator = Generator()


class Source(threading.local):
    """What draws without a generator in this thread, if it is not the default one.

    A data loader sets it around the reading of a sample, so that threads can't change what is drawn.
    """

    generator: Callable[[], Generator] | None = None


source = Source()


def _drawn_from() -> Tensor:
    """The state that a draw without a generator reads and advances in this thread."""
    return (default_generator if source.generator is None else source.generator()).state


Drawing.state, Drawing.lock = staticmethod(_drawn_from), _lock


def draw_bits(shape: Sequence[int], generator: Generator | None = None) -> Tensor:
    """The next words of the stream, as a uint32 tensor; advances the generator.

    Element i is word i % 4 of block i // 4; what is left of the last block is skipped.
    """
    state = _drawn_from() if generator is None else generator.state
    blocks = -(-math.prod(shape) // 4)
    params = {"shape": tuple(shape)}
    if mode.tracer is not None:
        with no_record(), _lock:
            bits = bind(random_bits, (state,), params)
            write(state, E.add(state, constant(np.array([0, blocks], np.uint64))))
        return bits
    with _lock:
        bits = bind(random_bits, (state,), params)
        state._value[1] = (int(state._value[1]) + blocks) & _U64
        storage_of(state).version += 1
    return bits


def fill_now(array: Any, kind: str, generator: Generator | None, a: float = 1.0, b: float = 0.0) -> bool:
    """Fill an array of eager code by what `Drawing` has for such draws; False if there is nothing."""
    draw = Drawing.draw
    if draw is None or mode.tracer is not None or not array.flags.c_contiguous:
        return False
    state = _drawn_from() if generator is None else generator.state
    if not state._value.flags.c_contiguous:
        return False
    with _lock:
        draw(kind, state._value, array, a, b)
        storage_of(state).version += 1
    return True


def draw_now(
    shape: Shape, dtype: DType, kind: str, generator: Any, a: float = 1.0, b: float = 0.0
) -> Tensor | None:
    """A tensor of eager code by what `Drawing` has for such draws; None if there is nothing."""
    if Drawing.draw is None or mode.tracer is not None or (shape and min(shape) < 0):
        return None
    out = np.empty(shape, dtype.numpy)
    return wrap(out) if fill_now(out, kind, generator, a, b) else None


_USED = ("cast", "shift_left", "shift_right", "bitwise_or", "sqrt", "log", "sin", "cos")


class _OnTensors:
    """What the formulas of draws are written in; see `_drawn`."""

    def __init__(self) -> None:
        for name in _USED:
            setattr(self, name, getattr(E, name))

    @staticmethod
    def row(x: Tensor, i: int) -> Tensor:
        """`x[i]`."""
        rest = x.shape[1:]
        zeros = (0,) * len(rest)
        out = M.slice(x, start=(i, *zeros), stop=(i + 1, *rest), step=(1,) * x.ndim)
        return M.reshape(out, shape=rest)

    @staticmethod
    def end_to_end(a: Tensor, b: Tensor, shape: Shape) -> Tensor:
        """The elements of two 1-d tensors, as many as `shape` has."""
        both, size = M.concat(a, b, dim=0), math.prod(shape)
        if both.shape != (size,):
            both = M.slice(both, start=(0,), stop=(size,), step=(1,))
        return M.reshape(both, shape=shape)


class _OnArrays:
    """The same on arrays: a few numbers cost less than the handles of what leads to them."""

    def __init__(self) -> None:
        for name in _USED:
            setattr(self, name, _on_arrays(getattr(E, name)))

    @staticmethod
    def row(x: Any, i: int) -> Any:
        return x[i, ...]

    @staticmethod
    def end_to_end(a: Any, b: Any, shape: Shape) -> Any:
        return np.concatenate((a, b))[: math.prod(shape)].reshape(shape)


def _on_arrays(p: Primitive) -> Callable[..., Any]:
    return lambda *values, **params: (p.run or runner_of(p))(*values, **params)


_TENSORS, _ARRAYS = _OnTensors(), _OnArrays()


def _drawn(formula: Callable[..., Any], bits: Tensor, *args: Any) -> Tensor:
    """`formula(e, bits, *args)`, `e` being what it is written in: eagerly it runs on the array."""
    if mode.tracer is None:
        return wrap(np.asarray(formula(_ARRAYS, bits._value, *args)))
    return formula(_TENSORS, bits, *args)


def _words(e: Any, bits: Any) -> Any:
    bits = e.cast(bits, dtype=uint64)
    return e.bitwise_or(e.shift_left(e.row(bits, 0), 32), e.row(bits, 1))


def draw_words(shape: Shape, generator: Generator | None) -> Tensor:
    """64-bit words, as a uint64 tensor."""
    return _drawn(_words, draw_bits((2, *shape), generator))


_SIGNIFICANT = {"float16": 11, "bfloat16": 8, "float32": 24, "float64": 53}


def _integers(e: Any, bits: Any, dtype: DType) -> Any:
    bits_each = 64 if dtype is float64 else 32
    return e.cast(e.shift_right(bits, bits_each - _SIGNIFICANT[dtype.name]), dtype=dtype)


def _draw(formula: Callable[..., Any], shape: Shape, dtype: DType, generator: Generator | None) -> Tensor:
    """`formula` of uniform integers in [0, 2**k) as numbers of `dtype`, k being its significant bits."""
    bits = draw_words(shape, generator) if dtype is float64 else draw_bits(shape, generator)
    if dtype in HALVES:  # NumPy's operators would widen bfloat16
        return formula(_TENSORS, _drawn(_integers, bits, dtype), 2.0 ** -_SIGNIFICANT[dtype.name])
    return _drawn(lambda e, b: formula(e, _integers(e, b, dtype), 2.0 ** -_SIGNIFICANT[dtype.name]), bits)


def draw_integers(shape: Shape, dtype: DType, generator: Generator | None) -> tuple[Tensor, int]:
    """Uniform integers in [0, 2**k) as floating numbers of `dtype`, which holds them exactly; and k."""
    return _draw(lambda e, x, unit: x, shape, dtype, generator), _SIGNIFICANT[dtype.name]


def draw_uniform(shape: Shape, dtype: DType, generator: Generator | None) -> Tensor:
    """Uniform numbers in [0, 1): all multiples of 2**-k there, k being dtype's significant bits."""
    if dtype is float32:
        drawn = draw_now(shape, dtype, "uniform", generator)
        if drawn is not None:
            return drawn
    return _draw(lambda e, x, unit: x * unit, shape, dtype, generator)


def draw_positive(shape: Shape, dtype: DType, generator: Generator | None) -> Tensor:
    """Uniform numbers in (0, 1], whose logarithms are finite."""
    return _draw(lambda e, x, unit: (x + 1.0) * unit, shape, dtype, generator)


def draw_normal(shape: Shape, dtype: DType, generator: Generator | None) -> Tensor:
    """Standard normal numbers.

    Source: Box and Muller 1958, "A note on the generation of random normal deviates".
    """
    if dtype in HALVES:
        return E.cast(draw_normal(shape, float32, generator), dtype=dtype)
    if dtype is float32:
        drawn = draw_now(shape, dtype, "normal", generator)
        if drawn is not None:
            return drawn

    def formula(e: Any, x: Any, unit: float) -> Any:
        radius = e.sqrt(e.log((e.row(x, 0) + 1.0) * unit) * -2.0)
        angle = e.row(x, 1) * (2.0 * math.pi * unit)
        return e.end_to_end(radius * e.cos(angle), radius * e.sin(angle), shape)

    return _draw(formula, (2, -(-math.prod(shape) // 2)), dtype, generator)


def _floating(draw: Callable[..., Tensor], shape: Shape, dtype: Any, generator: Any, op: str) -> Tensor:
    """`draw` in a real or complex dtype (the default one for None)."""
    dtype = get_default_dtype() if dtype is None else as_dtype(dtype)
    if dtype.is_floating_point:
        return draw(shape, dtype, generator)
    if not dtype.is_complex:
        raise DTypeError(
            f"random numbers of dtype {dtype.name} are not defined",
            op=op,
            hint="use a floating dtype, or randint for integers",
        )
    parts = draw((2, *shape), dtype.to_real(), generator)
    if draw is draw_normal:
        parts = parts * math.sqrt(0.5)  # so that the complex numbers have variance 1
    return E.complex(_TENSORS.row(parts, 0), _TENSORS.row(parts, 1))


def _made(fn: Callable[[], Tensor], device: Any, requires_grad: bool) -> Tensor:
    if device is not None:
        check_device(device)
    if mode.tracer is None:
        out = fn()
    else:
        with no_record():
            out = fn()
    if out._base is not None:
        out._base, out._steps = None, ()  # nobody else has what it is a view of
    if requires_grad:
        if not out.dtype.is_differentiable:
            raise AutogradError(f"a tensor of dtype {out.dtype.name} can't require a gradient")
        out.requires_grad = True
    return out


@function(method=False)
def rand(
    *size: Any,
    generator: Generator | None = None,
    dtype: Any = None,
    device: Any = None,
    requires_grad: bool = False,
    layout: Any = None,
    pin_memory: bool = False,
) -> Tensor:
    """Uniform random numbers in [0, 1).

    Numerics: float32 numbers are multiples of 2**-24, float64 of 2**-53; 1 is never reached.

    >>> import twofold as tw
    >>> tw.rand(2, 3).shape
    (2, 3)
    """
    shape = sizes(size, "rand")
    return _made(lambda: _floating(draw_uniform, shape, dtype, generator, "rand"), device, requires_grad)


@function(method=False)
def randn(
    *size: Any,
    generator: Generator | None = None,
    dtype: Any = None,
    device: Any = None,
    requires_grad: bool = False,
    layout: Any = None,
    pin_memory: bool = False,
) -> Tensor:
    """Normally distributed random numbers with mean 0 and variance 1.

    Numerics: by Box and Muller's method; float32 numbers reach out to 5.8 standard deviations,
    float64 to 8.6.

    >>> import twofold as tw
    >>> tw.randn(2, 3).shape
    (2, 3)
    """
    shape = sizes(size, "randn")
    return _made(lambda: _floating(draw_normal, shape, dtype, generator, "randn"), device, requires_grad)


def draw_below(bound: int, shape: Shape, generator: Generator | None) -> Tensor:
    """Uniform uint64 integers in [0, bound), bound <= 2**64.

    A value's probability is off by at most one part in 2**64 / bound: floor(x * bound / 2**64) of
    a 64-bit x for bounds up to 2**32, and x modulo bound above.
    """
    if bound > 1 << 32:
        x = draw_words(shape, generator)
        return x if bound == 1 << 64 else E.remainder(x, bound)
    bits = E.cast(draw_bits((2, *shape), generator), dtype=uint64)
    low = E.shift_right(_TENSORS.row(bits, 1) * bound, 32)
    return E.shift_right(_TENSORS.row(bits, 0) * bound + low, 32)


def draw_between(low: int, high: int, shape: Shape, dtype: DType, generator: Any, op: str) -> Tensor:
    """Uniform integers in [low, high) in any dtype that holds them."""
    if low >= high:
        raise TwofoldError(f"the range from low={low} to high={high} is empty", op=op, hint="high is exclusive")
    if dtype.kind in ("int", "uint", "bool"):
        bits = 1 if dtype.kind == "bool" else 8 * dtype.itemsize
        least, most = (-1 << bits - 1, 1 << bits - 1) if dtype.is_signed else (0, 1 << bits)
        if low < least or high > most:
            raise DTypeError(f"integers from {low} to {high - 1} do not fit dtype {dtype.name}", op=op)
    if high - low <= 1 << 32 and abs(low) < 1 << 53:  # which a double holds
        drawn = draw_now(shape, int64, "integers", generator, float(high - low), float(low))
        if drawn is not None:
            return drawn if dtype is int64 else E.cast(drawn, dtype=dtype)
    x = E.add(draw_below(high - low, shape, generator), low & _U64)
    if low < 0 or dtype.is_signed:
        x = E.bitcast(x, dtype=int64)
    return x if x.dtype is dtype else E.cast(x, dtype=dtype)


@function(method=False)
def randint(
    *args: Any,
    low: int | None = None,
    high: int | None = None,
    size: Sequence[int] | None = None,
    generator: Generator | None = None,
    dtype: Any = None,
    device: Any = None,
    requires_grad: bool = False,
    layout: Any = None,
) -> Tensor:
    """Random integers in [low, high): `randint(high, size)` or `randint(low, high, size)`.

    Numerics: made from 64 random bits; the probability of a value is off by at most
    (high - low) / 2**64 of itself.
    Raises: TwofoldError if the range is empty; DTypeError if dtype does not hold it.

    >>> import twofold as tw
    >>> tw.randint(0, 1, (3,))
    tensor([0, 0, 0])
    """
    rest = list(args)
    if size is None:
        if not rest or not isinstance(rest[-1], (tuple, list)):
            raise ShapeError("no size was given", op="randint", hint="write randint(low, high, (2, 3))")
        size = rest.pop()
    if high is None:
        if not rest:
            raise TwofoldError("no upper bound was given", op="randint", hint="write randint(low, high, (2, 3))")
        high = rest.pop()
    if low is None:
        low = rest.pop() if rest else 0
    if rest:
        raise TwofoldError(f"too many arguments: {args}", op="randint", hint="write randint(low, high, (2, 3))")
    a, b, shape = int(low), int(high), sizes((size,) if isinstance(size, (tuple, list)) else size, "randint")
    kind = int64 if dtype is None else as_dtype(dtype)
    return _made(lambda: draw_between(a, b, shape, kind, generator, "randint"), device, requires_grad)


@function(method=False)
def randperm(
    n: int,
    *,
    generator: Generator | None = None,
    dtype: Any = int64,
    device: Any = None,
    requires_grad: bool = False,
    layout: Any = None,
    pin_memory: bool = False,
) -> Tensor:
    """A random order of the integers 0 ... n - 1.

    Numerics: the stable order of n random 64-bit numbers.

    >>> import twofold as tw
    >>> tw.randperm(4).sort().values
    tensor([0, 1, 2, 3])
    """
    if n < 0:
        raise ShapeError(f"n must not be negative, got {n}", op="randperm")

    def order() -> Tensor:
        out = sort(draw_words((int(n),), generator), dim=0, descending=False)[1]
        return out if as_dtype(dtype) is int64 else E.cast(out, dtype=as_dtype(dtype))

    return _made(order, device, requires_grad)


def _like(dtype: Any, input: Tensor) -> DType:
    return input.dtype if dtype is None else as_dtype(dtype)


@function(method=False)
def rand_like(
    input: Tensor,
    *,
    generator: Generator | None = None,
    dtype: Any = None,
    device: Any = None,
    requires_grad: bool = False,
    layout: Any = None,
    memory_format: Any = None,
) -> Tensor:
    """`rand` with the shape and dtype of `input`."""
    shape, kind = input.shape, _like(dtype, input)
    return _made(lambda: _floating(draw_uniform, shape, kind, generator, "rand_like"), device, requires_grad)


@function(method=False)
def randn_like(
    input: Tensor,
    *,
    generator: Generator | None = None,
    dtype: Any = None,
    device: Any = None,
    requires_grad: bool = False,
    layout: Any = None,
    memory_format: Any = None,
) -> Tensor:
    """`randn` with the shape and dtype of `input`."""
    shape, kind = input.shape, _like(dtype, input)
    return _made(lambda: _floating(draw_normal, shape, kind, generator, "randn_like"), device, requires_grad)


@function(method=False)
def randint_like(
    input: Tensor,
    *bounds: int,
    low: int | None = None,
    high: int | None = None,
    generator: Generator | None = None,
    dtype: Any = None,
    device: Any = None,
    requires_grad: bool = False,
    layout: Any = None,
    memory_format: Any = None,
) -> Tensor:
    """`randint` with the shape and dtype of `input`: `randint_like(x, high)` or `randint_like(x, low, high)`."""
    return randint(
        *bounds,
        low=low,
        high=high,
        size=input.shape,
        generator=generator,
        dtype=_like(dtype, input),
        device=device,
        requires_grad=requires_grad,
    )


@function(method=False)
def manual_seed(seed: int) -> Generator:
    """Seed the default generator, which all random functions use that get no generator.

    >>> import twofold as tw
    >>> _ = tw.manual_seed(0)
    >>> a = tw.randn(3)
    >>> _ = tw.manual_seed(0)
    >>> bool((a == tw.randn(3)).all())
    True
    """
    return default_generator.manual_seed(seed)


@function(method=False)
def seed() -> int:
    """Seed the default generator from the operating system's randomness; returns the seed."""
    return default_generator.seed()


@function(method=False)
def initial_seed() -> int:
    """The seed of the default generator."""
    return default_generator.initial_seed()


@function(method=False)
def get_rng_state() -> Tensor:
    """A copy of the default generator's state."""
    return default_generator.get_state()


@function(method=False)
def set_rng_state(new_state: Tensor) -> None:
    """Put the default generator into a state that `get_rng_state` gave."""
    default_generator.set_state(new_state)
