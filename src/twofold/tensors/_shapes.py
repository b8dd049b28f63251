"""Sizes from arguments, and the check that a reshape is possible."""

from __future__ import annotations

import math
import operator
from collections.abc import Sequence
from typing import Any

from ..autodiff.handle import Tensor
from ..ir.errors import ShapeError
from ..ir.types import Shape, canonical_dim


def sizes(args: Sequence[Any], op: str) -> Shape:
    """Sizes given as `f(2, 3)` or `f((2, 3))`."""
    if len(args) == 1 and isinstance(args[0], (tuple, list)):
        args = args[0]
    for n in args:
        if n.__class__ is not int:
            break
    else:
        return tuple(args)
    try:
        return tuple(map(operator.index, args))
    except TypeError:
        wrong = next(n for n in args if not hasattr(n, "__index__"))
        raise ShapeError(
            f"sizes must be integers, got {wrong!r} of type {type(wrong).__name__}",
            op=op,
            hint="divide sizes with // and not with /" if isinstance(wrong, float) else None,
        ) from None


def dims(args: Sequence[Any], ndim: int, op: str) -> Shape:
    """Dimension numbers given as `f(0, -1)` or `f((0, -1))`, each in [0, ndim), in the given order."""
    if len(args) == 1 and isinstance(args[0], (tuple, list)):
        args = args[0]
    out = tuple([d if d.__class__ is int and 0 <= d < ndim else canonical_dim(d, ndim, op=op) for d in args])
    if len(set(out)) != len(out):
        raise ShapeError(f"dims {tuple(args)} name a dimension twice", op=op)
    return out


def infer(shape: Shape, x: Tensor, op: str) -> Shape:
    """`shape` with its -1 replaced; raises ShapeError unless it holds as many elements as `x`."""
    old = x._value.shape
    count = math.prod(old)
    unknown = shape.count(-1)
    if unknown > 1:
        raise ShapeError(f"only one size can be -1, got {shape}", op=op)
    if any(n < -1 for n in shape):
        raise ShapeError(f"sizes must not be negative, got {shape}", op=op)
    known = math.prod(n for n in shape if n != -1)
    if not unknown:
        if known != count:
            raise _unfit(old, count, shape, known, op)
        return shape
    if known == 0 and count == 0:
        raise ShapeError(
            f"the -1 in {shape} could be any size, because the tensor of shape {old} has no elements",
            op=op,
            hint="give the size instead of -1",
        )
    if known == 0 or count % known:
        raise _unfit(old, count, shape, known, op)
    return tuple([count // known if n == -1 else n for n in shape])


def _unfit(old: Shape, count: int, shape: Shape, known: int, op: str) -> ShapeError:
    text = f"a tensor of shape {old} has {count} element{'s' if count != 1 else ''}, which can't be "
    if -1 in shape:
        text += f"divided into {shape}: {count} / {known} is not whole"
    else:
        text += f"arranged as {shape}, which holds {known}"
    return ShapeError(text, op=op, hint=_what_fits(old, count, shape, known, op))


def _what_fits(old: Shape, count: int, shape: Shape, known: int, op: str) -> str | None:
    """Advice for the usual mistakes: a wrong number of features, or one wrong size."""
    if len(old) >= 2 and len(shape) == 2 and old[0]:
        features = count // old[0]
        product = "*".join(map(str, old[1:]))
        return (
            f"keep the batch dimension: x.{op}({old[0]}, -1) has {features} features per row"
            + (f" ({product})" if len(old) > 2 else "")
            + f", or x.flatten(1); then the next layer needs in_features={features}"
        )
    if -1 in shape:
        return f"the product of the given sizes must divide {count}"
    fits = [
        (i, count // (known // n)) for i, n in enumerate(shape) if n and known // n and count % (known // n) == 0
    ]
    if known and fits:
        i, n = fits[0]
        return f"with {n} instead of {shape[i]} in dimension {i} it fits: {(*shape[:i], n, *shape[i + 1 :])}"
    return f"the product of the sizes must be {count}"
