"""Connectionist temporal classification: a loss for sequences without known alignment."""

from __future__ import annotations

import math
from typing import Any

from ...autodiff.composite import composite
from ...autodiff.handle import Tensor
from ...ir.dtypes import int64
from ...ir.errors import OutOfBoundsError, ShapeError
from ...primitives import elementwise as E
from ...primitives import index as I
from ...primitives import movement as M
from ._common import average, cast, check_reduction, reduced


@composite
def ctc_loss(
    log_probs: Tensor,
    targets: Tensor,
    input_lengths: Any,
    target_lengths: Any,
    blank: int = 0,
    reduction: str = "mean",
    zero_infinity: bool = False,
) -> Tensor:
    """Minus the log-probability of all alignments of the targets with the input.

    Shapes: log_probs (T, N, C) or (T, C); targets (N, S), or (sum of target_lengths,), or (S,).
    Args:
        zero_infinity: losses of samples whose target is too long are 0 instead of inf.
    Numerics: the forward recursion in logarithms, differentiated like all else.
    Source: Graves et al. 2006, "Connectionist Temporal Classification", eq. 5 to 8.

    >>> import twofold as tw
    >>> logp = tw.zeros(2, 1, 2).log_softmax(-1)
    >>> tw.nn.functional.ctc_loss(logp, tw.tensor([[1]]), (2,), (1,), reduction="sum")
    tensor(0.2877)
    """
    check_reduction(reduction, "ctc_loss")
    single = log_probs.ndim == 2
    x = M.reshape(log_probs, shape=(log_probs.shape[0], 1, log_probs.shape[1])) if single else log_probs
    times, n, classes = x.shape
    in_lengths, out_lengths = _lengths(input_lengths, n), _lengths(target_lengths, n)
    if max(in_lengths, default=0) > times:
        raise ShapeError(f"input_lengths {in_lengths} are longer than the input, {times}", op="ctc_loss")
    if not 0 <= blank < classes:
        raise OutOfBoundsError(f"blank {blank} is outside the {classes} classes", op="ctc_loss")
    labels = _padded_labels(targets, out_lengths, blank, single)
    losses = _ctc_losses(x, labels, in_lengths, out_lengths, blank)
    if zero_infinity:
        losses = E.where(E.eq(losses, math.inf), 0.0, losses)
    if reduction == "mean":
        scaled = [1.0 / max(s, 1) for s in out_lengths]
        return average(losses * _row(scaled, losses))
    if single and reduction == "none":
        return M.reshape(losses, shape=())
    return reduced(losses, reduction, "ctc_loss")


def _lengths(lengths: Any, n: int) -> list[int]:
    values = lengths.tolist() if isinstance(lengths, Tensor) else lengths
    out = [int(v) for v in (values if isinstance(values, (list, tuple)) else [values])]
    if len(out) != n:
        raise ShapeError(f"expects {n} lengths, one for each sample, got {len(out)}", op="ctc_loss")
    return out


def _row(values: list[float], like: Tensor) -> Tensor:
    """A vector of the given numbers."""
    parts = [M.full(shape=(1,), value=v, dtype=like.dtype) for v in values]
    return M.concat(*parts, dim=0)


def _padded_labels(targets: Tensor, lengths: list[int], blank: int, single: bool) -> Tensor:
    """Targets as (N, S) int64, filled up with blanks."""
    if targets.ndim == 2:
        return cast(targets, int64)
    longest = max([*lengths, 1])
    rows, start = [], 0
    for length in lengths:
        row = M.slice(cast(targets, int64), start=(start,), stop=(start + length,), step=(1,))
        row = M.pad(row, low=(0,), high=(longest - length,), value=blank)
        rows.append(M.reshape(row, shape=(1, longest)))
        start += length
    return M.concat(*rows, dim=0)


def _ctc_losses(x: Tensor, labels: Tensor, in_lengths: list[int], out_lengths: list[int], blank: int) -> Tensor:
    times, n, _ = x.shape
    s = labels.shape[1]
    size = 2 * s + 1
    blanks = M.full(shape=(n, s, 1), value=blank, dtype=int64)
    pairs = M.concat(blanks, M.reshape(labels, shape=(n, s, 1)), dim=2)
    path = M.reshape(pairs, shape=(n, 2 * s))
    path = M.pad(path, low=(0, 0), high=(0, 1), value=blank)  # blank a blank b blank
    before = M.pad(_left(path, 2), low=(0, 2), high=(0, 0), value=blank)
    may_skip = E.bitwise_and(E.ne(path, blank), E.ne(path, before))
    place = M.iota(size=size, dtype=int64)
    never = -1e30 if x.dtype.itemsize >= 4 else -6e4  # in place of -inf, whose differences are nan
    emitted = I.gather(_time(x, 0), path, dim=1)
    alpha = E.where(E.lt(place, 2), emitted, never)
    history = [alpha]
    for t in range(1, times):
        one = M.pad(_left(alpha, 1), low=(0, 1), high=(0, 0), value=never)
        two = M.pad(_left(alpha, 2), low=(0, 2), high=(0, 0), value=never)
        two = E.where(may_skip, two, never)
        alpha = _log_add(_log_add(alpha, one), two) + I.gather(_time(x, t), path, dim=1)
        history.append(alpha)
    losses = []
    for i in range(n):
        last, length = history[max(in_lengths[i] - 1, 0)], out_lengths[i]
        end = _cell(last, i, 2 * length)
        both = end if length == 0 else _log_add(end, _cell(last, i, 2 * length - 1))
        losses.append(M.reshape(E.where(E.lt(both, never / 2), math.inf, -both), shape=(1,)))
    return M.concat(*losses, dim=0)


def _time(x: Tensor, t: int) -> Tensor:
    part = M.slice(x, start=(t, 0, 0), stop=(t + 1, *x.shape[1:]), step=(1, 1, 1))
    return M.reshape(part, shape=x.shape[1:])


def _left(x: Tensor, count: int) -> Tensor:
    """All but the last `count` columns."""
    return M.slice(x, start=(0, 0), stop=(x.shape[0], x.shape[1] - count), step=(1, 1))


def _cell(x: Tensor, i: int, j: int) -> Tensor:
    return M.reshape(M.slice(x, start=(i, j), stop=(i + 1, j + 1), step=(1, 1)), shape=())


def _log_add(a: Tensor, b: Tensor) -> Tensor:
    """log(exp(a) + exp(b))."""
    top = E.maximum(a, b)
    return top + E.log1p(E.exp(E.minimum(a, b) - top))
