"""Draws from distributions: bernoulli, multinomial, normal, poisson, and the methods that fill a tensor."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

import numpy as np

from ..autodiff.bind import no_record, overwritten
from ..autodiff.handle import Tensor, mode, wrap
from ..ir.dtypes import DType, as_dtype, bool_, float32, float64, get_default_dtype
from ..ir.errors import DTypeError, ShapeError, TraceError, TwofoldError
from ..ir.types import Shape, broadcast_shapes
from ..primitives import elementwise as E
from ..primitives import movement as M
from ..primitives import reduce as R
from ..primitives import sort as S
from ._registry import assign, function
from ._shapes import sizes
from .random import (
    Generator,
    draw_between,
    draw_bits,
    draw_integers,
    draw_normal,
    draw_now,
    draw_positive,
    draw_uniform,
    fill_now,
)


def _check(ok: bool, message: str, op: str, hint: str | None = None) -> None:
    if not ok:
        raise TwofoldError(message, op=op, hint=hint)


def _check_values(t: Tensor, ok: Callable[[Any], Any], message: str, op: str) -> None:
    """Check the numbers of a parameter; a traced tensor has none yet."""
    if mode.tracer is None and not ok(t._value).all():
        raise TwofoldError(message, op=op)


def _real(dtype: DType, op: str) -> DType:
    if not dtype.is_floating_point:
        raise DTypeError(f"a floating dtype is needed, got {dtype.name}", op=op, hint="cast it, e.g. x.float()")
    return dtype


# --- functions -----------------------------------------------------------------------------------


def _below(p: Any, shape: Shape, generator: Generator | None) -> Tensor:
    """A bool tensor that is True with probability `p`, a number or a floating tensor."""
    if isinstance(p, Tensor):
        kind = float64 if p.dtype is float64 else float32
        p = p if p.dtype is kind else E.cast(p, dtype=kind)
        return E.lt(draw_uniform(shape, kind, generator), p)
    threshold = round(p * 2.0**32)
    if threshold == 1 << 32:
        return M.full(shape=shape, value=True, dtype=bool_)
    return E.lt(draw_bits(shape, generator), threshold)


@function
def bernoulli(input: Tensor, p: float | None = None, *, generator: Generator | None = None) -> Tensor:
    """1 with the probability that `input` gives for each element (or `p` for all), else 0.

    Raises: TwofoldError for a probability outside [0, 1].

    >>> import twofold as tw
    >>> tw.bernoulli(tw.tensor([0.0, 1.0]))
    tensor([0., 1.])
    """
    with no_record():
        if p is not None:
            _check(0 <= p <= 1, f"the probability p must be between 0 and 1, got {p}", "bernoulli")
            return E.cast(_below(p, input.shape, generator), dtype=input.dtype)
        _real(input.dtype, "bernoulli")
        _check_values(input, lambda v: (v >= 0) & (v <= 1), "probabilities must be between 0 and 1", "bernoulli")
        return E.cast(_below(input, input.shape, generator), dtype=input.dtype)


@function
def multinomial(
    input: Tensor, num_samples: int, replacement: bool = False, *, generator: Generator | None = None
) -> Tensor:
    """Numbers of categories, drawn with the weights in the rows of `input`.

    Shapes: (n,) -> (num_samples,) or (m, n) -> (m, num_samples), int64. Weights need not sum to 1.
    Raises: TwofoldError for negative or infinite weights, rows without weight, or too few positive
        weights to draw without replacement.
    Source: without replacement by Efraimidis and Spirakis 2006, "Weighted random sampling with a
        reservoir": the largest of weight / exponential draws.

    >>> import twofold as tw
    >>> tw.multinomial(tw.tensor([0.0, 3.0]), 2, replacement=True)
    tensor([1, 1])
    """
    op = "multinomial"
    _real(input.dtype, op)
    if input.ndim not in (1, 2) or not input.shape[-1]:
        raise ShapeError(f"the weights must be (n,) or (m, n) with n > 0, got {input.shape}", op=op)
    n = input.shape[-1]
    _check(num_samples > 0, f"num_samples must be positive, got {num_samples}", op)
    _check(
        replacement or num_samples <= n,
        f"{num_samples} of {n} categories can't be drawn without replacement",
        op,
        "pass replacement=True, or draw fewer",
    )
    _check_values(input, lambda w: np.isfinite(w) & (w >= 0), "weights must be finite and not negative", op)
    least = 1 if replacement else num_samples
    _check_values(
        input,
        lambda w: np.count_nonzero(w, axis=-1) >= least,
        f"every row needs at least {least} positive weight{'s' if least > 1 else ''}",
        op,
    )
    last = input.ndim - 1
    with no_record():
        w = E.cast(input, dtype=float64)
        if not replacement:
            keys = E.neg(E.log(draw_positive(w.shape, float64, generator)))
            keys = E.where(E.gt(w, 0.0), w / keys, -1.0)
            return S.topk(keys, k=num_samples, dim=last, largest=True)[1]
        steps = R.cumsum(w, dim=last)
        lead = (0,) * last
        total = M.slice(steps, start=(*lead, n - 1), stop=w.shape, step=(1,) * w.ndim)
        u = draw_uniform((*w.shape[:-1], num_samples), float64, generator) * total
        below = E.nextafter(total, M.full(shape=(), value=0.0, dtype=float64))
        return S.searchsorted(steps, E.minimum(u, below), right=True)


@function(method=False)
def normal(
    mean: Any = 0.0,
    std: Any = 1.0,
    size: Any = None,
    *,
    generator: Generator | None = None,
    dtype: Any = None,
    device: Any = None,
    requires_grad: bool = False,
) -> Tensor:
    """Normally distributed numbers; mean and std are tensors that broadcast, or numbers with `size`.

    Raises: TwofoldError for a negative std, or if neither a tensor nor a size is given.

    >>> import twofold as tw
    >>> tw.normal(tw.tensor([1.0, 2.0]), 0.0)
    tensor([1., 2.])
    """
    op = "normal"
    tensors = [t for t in (mean, std) if isinstance(t, Tensor)]
    if isinstance(std, Tensor):
        _check_values(std, lambda v: ~(v < 0), "std must not be negative", op)
    else:
        _check(std >= 0, f"std must not be negative, got {std}", op)
    if tensors:
        shape = broadcast_shapes(*[t.shape for t in tensors], op=op)
        kind = _real(tensors[0].dtype, op)
    else:
        _check(size is not None, "a size is needed where mean and std are numbers", op)
        shape = sizes((size,), op)
        kind = _real(get_default_dtype() if dtype is None else as_dtype(dtype), op)
    out = None
    if kind is float32 and std.__class__ in _NUMBERS and mean.__class__ in _NUMBERS:
        out = draw_now(shape, kind, "normal_of", generator, float(std), float(mean))
    if out is None:
        with no_record():
            out = draw_normal(shape, kind, generator) * std + mean
    if requires_grad:
        out.requires_grad = True
    return out


@function
def poisson(input: Tensor, generator: Generator | None = None) -> Tensor:
    """Poisson distributed numbers with the rates in `input`, in its dtype.

    How many random words it takes depends on what is drawn, so it can't be traced.
    Raises: TwofoldError for a negative rate; TraceError while tracing.
    Source: Hoermann 1993, "The transformed rejection method for generating Poisson random variables"
        (PTRS) for rates of 10 and more; multiplication of uniform numbers (Knuth) below.

    >>> import twofold as tw
    >>> tw.poisson(tw.zeros(2))
    tensor([0., 0.])
    """
    op = "poisson"
    _real(input.dtype, op)
    if mode.tracer is not None:
        raise TraceError("how many random numbers poisson takes depends on what is drawn", op=op)
    _check_values(input, lambda v: v >= 0, "rates must not be negative", op)
    rates = input.detach().numpy().astype(np.float64)
    flat = rates.reshape(-1)
    out = np.empty(flat.shape)
    small = flat < 10
    out[small] = _poisson_small(flat[small], generator)
    out[~small] = _poisson_large(flat[~small], generator)
    return wrap(out.reshape(rates.shape).astype(input.dtype.numpy))


def _uniform_array(n: int, generator: Generator | None) -> np.ndarray[Any, Any]:
    with no_record():
        return draw_uniform((n,), float64, generator).numpy()


def _poisson_small(rates: np.ndarray[Any, Any], generator: Generator | None) -> np.ndarray[Any, Any]:
    counts = np.full(rates.shape, -1.0)
    left = np.ones(rates.shape)
    open_ = np.arange(rates.size)
    limit = np.exp(-rates)
    while open_.size:
        left[open_] *= 1.0 - _uniform_array(open_.size, generator)
        counts[open_] += 1
        open_ = open_[left[open_] > limit[open_]]
    return counts


def _poisson_large(rates: np.ndarray[Any, Any], generator: Generator | None) -> np.ndarray[Any, Any]:
    out = np.empty(rates.shape)
    open_ = np.arange(rates.size)
    while open_.size:
        mu = rates[open_]
        b = 0.931 + 2.53 * np.sqrt(mu)
        a = -0.059 + 0.02483 * b
        u = _uniform_array(open_.size, generator) - 0.5
        v = 1.0 - _uniform_array(open_.size, generator)
        us = 0.5 - np.abs(u)
        with np.errstate(all="ignore"):
            k = np.floor((2 * a / us + b) * u + mu + 0.43)
            quick = (us >= 0.07) & (v <= 0.9277 - 3.6224 / (b - 2))
            log_v = np.log(v) + np.log(1.1239 + 1.1328 / (b - 3.4)) - np.log(a / (us * us) + b)
            lgamma = np.array([math.lgamma(n + 1) if 0 <= n < math.inf else math.inf for n in k])
            slow = (k >= 0) & ~((us < 0.013) & (v > us)) & (log_v <= k * np.log(mu) - mu - lgamma)
        done = (quick & (k >= 0)) | slow
        out[open_[done]] = k[done]
        open_ = open_[~done]
    return out


# --- methods that fill a tensor ------------------------------------------------------------------


def _fill(self: Tensor, make: Callable[[DType], Tensor], op: str) -> Tensor:
    """Write what `make` draws into the tensor; it is made outside of what is recorded."""
    kind = _real(self.dtype, op)
    with no_record():
        new = make(kind)
    return assign(self, new, op=op)


def _filled(self: Tensor, kind: str, generator: Generator | None, scale: Any, shift: Any) -> bool:
    """Fill a float32 tensor that nobody traces or records with scaled numbers at once; False if that can't be."""
    if mode.tracer is not None or self._base is not None or (mode.grad and self._requires_grad):
        return False
    array = self._value
    if array.dtype is not _SINGLE or not array.flags.writeable:
        return False
    if scale.__class__ not in _NUMBERS or shift.__class__ not in _NUMBERS:
        return False
    if not fill_now(array, kind, generator, float(scale), float(shift)):
        return False
    overwritten(self)
    return True


_SINGLE, _NUMBERS = float32.numpy, (float, int)


@function(module=False)
def uniform_(self: Tensor, from_: float = 0.0, to: float = 1.0, *, generator: Generator | None = None) -> Tensor:
    """Fill with uniform numbers in [from_, to)."""
    if not from_ <= to:
        raise TwofoldError(f"the range from {from_} to {to} is empty", op="uniform_")
    if _filled(self, "uniform_in", generator, to - from_, from_):
        return self
    return _fill(self, lambda kind: draw_uniform(self.shape, kind, generator) * (to - from_) + from_, "uniform_")


@function(module=False)
def normal_(self: Tensor, mean: float = 0.0, std: float = 1.0, *, generator: Generator | None = None) -> Tensor:
    """Fill with normally distributed numbers."""
    if not std >= 0:
        raise TwofoldError(f"std must not be negative, got {std}", op="normal_")
    if _filled(self, "normal_of", generator, std, mean):
        return self
    return _fill(self, lambda kind: draw_normal(self.shape, kind, generator) * std + mean, "normal_")


@function(module=False)
def bernoulli_(self: Tensor, p: Any = 0.5, *, generator: Generator | None = None) -> Tensor:
    """Fill with 1 with probability `p` (a number, or a tensor that broadcasts), else 0."""
    if isinstance(p, Tensor):
        _real(p.dtype, "bernoulli_")
        _check_values(p, lambda v: (v >= 0) & (v <= 1), "probabilities must be between 0 and 1", "bernoulli_")
    else:
        _check(0 <= p <= 1, f"the probability p must be between 0 and 1, got {p}", "bernoulli_")
    with no_record():
        new = E.cast(_below(p, self.shape, generator), dtype=self.dtype)
    return assign(self, new, op="bernoulli_")


@function(module=False)
def exponential_(self: Tensor, lambd: float = 1.0, *, generator: Generator | None = None) -> Tensor:
    """Fill with exponentially distributed numbers of rate `lambd`: never 0, never infinite."""
    _check(lambd > 0, f"lambd must be positive, got {lambd}", "exponential_")

    def make(kind: DType) -> Tensor:
        x = E.neg(E.log(draw_positive(self.shape, kind, generator)))
        return E.maximum(x, 2.0**-25) * (1.0 / lambd)

    return _fill(self, make, "exponential_")


@function(module=False)
def log_normal_(self: Tensor, mean: float = 1.0, std: float = 2.0, *, generator: Generator | None = None) -> Tensor:
    """Fill with exp of normally distributed numbers; mean and std are those of the logarithm."""
    _check(std > 0, f"std must be positive, got {std}", "log_normal_")
    return _fill(self, lambda kind: E.exp(draw_normal(self.shape, kind, generator) * std + mean), "log_normal_")


@function(module=False)
def cauchy_(self: Tensor, median: float = 0.0, sigma: float = 1.0, *, generator: Generator | None = None) -> Tensor:
    """Fill with Cauchy distributed numbers."""
    _check(sigma > 0, f"sigma must be positive, got {sigma}", "cauchy_")

    def make(kind: DType) -> Tensor:
        x, k = draw_integers(self.shape, kind, generator)
        centered = (x - 2.0 ** (k - 1)) + 0.5  # halves, so neither pole of the tangent is hit
        return E.tan(centered * (math.pi * 2.0**-k)) * sigma + median

    return _fill(self, make, "cauchy_")


@function(module=False)
def geometric_(self: Tensor, p: float, *, generator: Generator | None = None) -> Tensor:
    """Fill with the number of trials (1, 2, ...) up to the first success, each of probability `p`."""
    _check(0 < p < 1, f"the probability p must be between 0 and 1, got {p}", "geometric_")
    kind = self.dtype if self.dtype.is_floating_point else float32
    with no_record():
        new = E.floor(E.log(draw_positive(self.shape, kind, generator)) * (1.0 / math.log1p(-p))) + 1.0
        new = new if kind is self.dtype else E.cast(new, dtype=self.dtype)
    return assign(self, new, op="geometric_")


@function(module=False)
def random_(
    self: Tensor, from_: int | None = None, to: int | None = None, *, generator: Generator | None = None
) -> Tensor:
    """Fill with integers: `random_(to)` in [0, to), `random_(from_, to)` in [from_, to).

    Without bounds: all values of an integer dtype that are not negative, and of a floating dtype
    all integers up to 2 ** its significant bits.
    """
    if to is None:
        from_, to = 0, from_
    if to is None:
        kind = self.dtype.kind
        if kind == "float":
            to = {"float16": 2**11, "bfloat16": 2**8, "float32": 2**24}.get(self.dtype.name, 2**53) + 1
        else:
            to = 2 if kind == "bool" else int(np.iinfo(self.dtype.numpy).max) + 1
    with no_record():
        new = draw_between(int(from_ or 0), int(to), self.shape, self.dtype, generator, "random_")
    return assign(self, new, op="random_")
