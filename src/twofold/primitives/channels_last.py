"""Convolution and pooling with the channels as the last dimension.

The compiler puts these in the place of their namesakes: activations are (N, *S, C), so that a
vector holds neighbouring channels of one pixel. Weights keep the order (O, C / groups, *K). The
references transpose and call those of `conv` and `window`. There are no derivatives, since the
compiler makes these nodes after differentiation.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Iterator
from dataclasses import replace
from typing import Any

import numpy as np

from ..ir.dtypes import REALS, DType, int32, uint8
from ..ir.errors import ShapeError, TwofoldError
from ..ir.primitive import ErrorSample, Primitive, Sample
from ..ir.types import Shape, TensorType
from ._rules import check_dtype, draw, via_float32
from .conv import Pairs, conv, conv_input_grad, conv_weight_grad, window_sizes
from .window import max_pool, sum_pool, sum_pool_grad

Array = np.ndarray[Any, Any]

_REASON = "made by the compiler, after differentiation"


def channels_first(ndim: int) -> Shape:
    """The permutation from (N, *S, C) to (N, C, *S).

    >>> channels_first(4)
    (0, 3, 1, 2)
    """
    return (0, ndim - 1, *range(1, ndim - 1)) if ndim > 1 else tuple(range(ndim))


def channels_last(ndim: int) -> Shape:
    """The permutation from (N, C, *S) to (N, *S, C).

    >>> channels_last(4)
    (0, 2, 3, 1)
    """
    return (0, *range(2, ndim), 1) if ndim > 1 else tuple(range(ndim))


def _type_first(t: TensorType) -> TensorType:
    return t.with_shape(tuple([t.shape[d] for d in channels_first(t.ndim)]))


def _type_last(t: TensorType) -> TensorType:
    return t.with_shape(tuple([t.shape[d] for d in channels_last(t.ndim)]))


def _first(x: Array) -> Array:
    return np.transpose(x, channels_first(x.ndim))


def _last(x: Array) -> Array:
    return np.ascontiguousarray(np.transpose(x, channels_last(x.ndim)))


def _turned(samples: Iterable[Any], moved: Shape) -> Iterator[Any]:
    """Samples with those inputs transposed, where they have enough dimensions for it."""
    for s in samples:
        inputs = tuple([_last(x) if i in moved and np.ndim(x) > 1 else x for i, x in enumerate(s.inputs)])
        yield replace(s, inputs=inputs)


def _ask(name: str, of: Primitive, *types: TensorType, **params: Any) -> Any:
    """The type rule of another primitive, whose errors are to be ours."""
    try:
        return of.type_rule(*types, **params)
    except TwofoldError as e:
        e.op = name
        raise


def _twin(name: str, of: Primitive, moved: Shape, *, moves_result: bool = True) -> Primitive:
    """The primitive `of` with the inputs `moved`, and its result, in channels-last order."""

    def type_rule(*types: TensorType, **params: Any) -> TensorType:
        turned = [_type_first(t) if i in moved else t for i, t in enumerate(types)]
        out = _ask(name, of, *turned, **params)
        return _type_last(out) if moves_result else out

    def reference(*arrays: Array, **params: Any) -> Array:
        turned = [np.ascontiguousarray(_first(x)) if i in moved else x for i, x in enumerate(arrays)]
        out = of.numpy(*turned, **params)
        return _last(out) if moves_result else out

    return Primitive(
        name,
        type_rule=type_rule,
        numpy=reference,
        nondiff=_REASON,
        samples=lambda dtype, rng: _turned(of.samples(dtype, rng), moved),
        errors=lambda: _turned(of.errors(), moved),
        dtypes=of.dtypes,
    )


# Largest elements: instead of an index, the number of the tap inside its window ---------------------


def tap_dtype(kernel: Shape) -> DType:
    """What holds the number of a tap."""
    return uint8 if math.prod(kernel) <= 256 else int32


def _max_pool_type(x: TensorType, *, kernel: Shape, **params: Any) -> tuple[TensorType, TensorType]:
    values, _ = _ask("max_pool_last", max_pool, _type_first(x), kernel=kernel, **params)
    out = _type_last(values)
    return out, out.with_dtype(tap_dtype(kernel))


def _max_pool(x: Array, *, kernel: Shape, stride: Shape, padding: Pairs, dilation: Shape) -> tuple[Array, Array]:
    params: dict[str, Any] = {"kernel": kernel, "stride": stride, "padding": padding, "dilation": dilation}
    values, indices = max_pool.numpy(np.ascontiguousarray(_first(x)), **params)
    size = x.shape[1:-1]
    taps = np.zeros(indices.shape, np.int64)
    rest = indices
    weight = 1
    for d in reversed(range(len(size))):
        place, rest = rest % size[d], rest // size[d]
        start = np.arange(indices.shape[2 + d]) * stride[d] - padding[d][0]
        start = start.reshape(-1, *(1,) * (len(size) - 1 - d))
        taps += (place - start) // dilation[d] * weight
        weight *= kernel[d]
    return _last(values), _last(taps.astype(tap_dtype(kernel).numpy))


def _max_pool_grad_type(
    g: TensorType, taps: TensorType, *, input_size: Shape, kernel: Shape, **params: Any
) -> TensorType:
    op = "max_pool_last_grad"
    check_dtype(op, g.dtype, REALS)
    check_dtype(op, taps.dtype, frozenset({tap_dtype(kernel)}))
    sizes = window_sizes(op, input_size, kernel=kernel, **params)
    if g.ndim != len(kernel) + 2 or g.shape != taps.shape or g.shape[1:-1] != sizes:
        raise ShapeError(
            f"an input of size {input_size} gives maxima of size {sizes}, but g has {g.shape}, taps {taps.shape}",
            op=op,
        )
    return g.with_shape((g.shape[0], *input_size, g.shape[-1]))


def _max_pool_grad(
    g: Array, taps: Array, *, input_size: Shape, kernel: Shape, stride: Shape, padding: Pairs, dilation: Shape
) -> Array:
    out = np.zeros((g.shape[0], *input_size, g.shape[-1]), g.dtype)
    index: list[Array] = list(np.indices(g.shape, sparse=True))
    rest = taps.astype(np.int64)
    for d in reversed(range(len(kernel))):
        tap, rest = rest % kernel[d], rest // kernel[d]
        index[1 + d] = index[1 + d] * stride[d] - padding[d][0] + tap * dilation[d]
    np.add.at(out, tuple(index), g)
    return out


def _max_pool_grad_samples(dtype: DType, rng: np.random.Generator) -> Iterator[Sample]:
    for sample in _turned(iter(max_pool.samples(dtype, rng)), (0,)):
        (x,) = sample.inputs
        if x.dtype.kind == "f" and not np.isfinite(x).all():
            continue
        values, taps = _max_pool(x, **sample.params)
        g = draw(dtype, rng, values.shape)
        yield Sample((g, taps), {"input_size": x.shape[1:-1], **sample.params})


def _max_pool_grad_errors() -> Iterator[ErrorSample]:
    params = {"input_size": (6,), "kernel": (2,), "stride": (1,), "padding": ((0, 0),), "dilation": (1,)}
    g = np.zeros((1, 4, 1), np.float32)
    yield ErrorSample((g, np.zeros((1, 4, 1), np.uint8)), params, ShapeError, "gives maxima of size (5,)")


# The primitives -----------------------------------------------------------------------------------

conv_last: Primitive = _twin("conv_last", conv, (0,))
conv_last_input_grad: Primitive = _twin("conv_last_input_grad", conv_input_grad, (0,))
conv_last_weight_grad: Primitive = _twin("conv_last_weight_grad", conv_weight_grad, (0, 1), moves_result=False)
sum_pool_last: Primitive = _twin("sum_pool_last", sum_pool, (0,))
sum_pool_last_grad: Primitive = _twin("sum_pool_last_grad", sum_pool_grad, (0,))

max_pool_last: Primitive = Primitive(
    "max_pool_last",
    type_rule=_max_pool_type,
    numpy=_max_pool,
    nondiff=_REASON,
    samples=lambda dtype, rng: _turned(max_pool.samples(dtype, rng), (0,)),
    errors=lambda: _turned(max_pool.errors(), (0,)),
    dtypes=REALS,
    multiple=True,
)

max_pool_last_grad: Primitive = Primitive(
    "max_pool_last_grad",
    type_rule=_max_pool_grad_type,
    numpy=via_float32(_max_pool_grad),
    nondiff=_REASON,
    samples=_max_pool_grad_samples,
    errors=_max_pool_grad_errors,
    dtypes=REALS,
)

TWINS: dict[str, Primitive] = {
    "conv": conv_last,
    "conv_input_grad": conv_last_input_grad,
    "conv_weight_grad": conv_last_weight_grad,
    "sum_pool": sum_pool_last,
    "sum_pool_grad": sum_pool_last_grad,
}
