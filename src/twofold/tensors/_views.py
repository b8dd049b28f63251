"""The views that functions of this room make: eagerly by NumPy's own methods, while tracing by primitives."""

from __future__ import annotations

import functools
from typing import Any

import numpy as np

from ..autodiff.bind import bind, bind_view
from ..autodiff.handle import Tensor, mode
from ..ir.primitive import Primitive
from ..ir.types import Shape
from ..primitives import movement as P


def reshaped(x: Tensor, shape: Shape) -> Tensor:
    """`x` in a shape of as many elements: a view where that is possible, else a copy.

    Raises: ShapeError if the number of elements differs.
    """
    if mode.tracer is None:
        array = x._value
        try:
            out = array.reshape(shape)
        except (ValueError, AttributeError):
            return bind(P.reshape, (x,), {"shape": shape})  # says what is wrong
        owner = out.base
        if (owner is array or (owner is not None and owner is array.base)) and out.shape == shape:
            return bind_view(x, ((P.reshape, {"shape": shape}),), out)
    return bind(P.reshape, (x,), {"shape": shape})


def permuted(x: Tensor, order: Shape) -> Tensor:
    """`x` with its dimensions in an order that names each of them once."""
    if mode.tracer is None and x._value.__class__ is np.ndarray:
        return bind_view(x, ((P.permute, {"dims": order}),), x._value.transpose(order))
    return bind(P.permute, (x,), {"dims": order})


def expanded(x: Tensor, shape: Shape) -> Tensor:
    """`x` repeated along dimensions of size 1, and new ones in front, without a copy.

    Raises: ShapeError if the sizes do not fit.
    """
    if mode.tracer is None:
        try:
            out = P.expand.numpy(x._value, shape=shape)
        except (ValueError, AttributeError):
            return bind(P.expand, (x,), {"shape": shape})  # says what is wrong
        return bind_view(x, ((P.expand, {"shape": shape}),), out)
    return bind(P.expand, (x,), {"shape": shape})


def part(x: Tensor, dim: int, start: int, stop: int, step: int = 1) -> Tensor:
    """`x[..., start:stop:step, ...]` along `dim` (all canonical)."""
    steps = _part_steps(x._value.shape, dim, start, stop, step)
    if mode.tracer is not None or step < 0:
        return bind(P.slice, (x,), steps[0][1])
    return bind_view(x, steps, x._value[(*_ALL[:dim], slice(start, stop, step))])


def picked(x: Tensor, dim: int, i: int) -> Tensor:
    """`x[..., i, ...]` along `dim` (both canonical), without that dimension."""
    steps = _picked_steps(x._value.shape, dim, i)
    if mode.tracer is not None:
        (_, cut), (_, rest) = steps
        return bind(P.reshape, (bind(P.slice, (x,), cut),), rest)
    return bind_view(x, steps, x._value[(*_ALL[:dim], i, ...)])


Steps = tuple[tuple[Primitive, dict[str, Any]], ...]  # of a view, see Note [View chains] in autodiff/handle.py


@functools.lru_cache(1 << 12)
def _part_steps(shape: Shape, dim: int, start: int, stop: int, step: int) -> Steps:
    none, ones = (0,) * len(shape), (1,) * len(shape)
    params = {
        "start": (*none[:dim], start, *none[dim + 1 :]),
        "stop": (*shape[:dim], stop, *shape[dim + 1 :]),
        "step": (*ones[:dim], step, *ones[dim + 1 :]),
    }
    return ((P.slice, params),)


@functools.lru_cache(1 << 12)
def _picked_steps(shape: Shape, dim: int, i: int) -> Steps:
    return *_part_steps(shape, dim, i, i + 1, 1), (P.reshape, {"shape": shape[:dim] + shape[dim + 1 :]})


_ALL = (slice(None),) * 64  # dimensions, at most
