"""Dropout: random zeros while training, drawn as integers and compared with an integer threshold."""

from __future__ import annotations

import math
from collections.abc import Sequence

from ...autodiff.composite import composite
from ...autodiff.handle import Tensor
from ...ir.errors import ShapeError, TwofoldError
from ...primitives import elementwise as E
from ...tensors._registry import assign
from ...tensors.random import draw_bits

# -scale * alpha of SELU: where its negative branch ends
_ALPHA_PRIME = -1.7580993408473766


def _check(p: float, op: str) -> None:
    if not 0.0 <= p <= 1.0:
        raise TwofoldError(f"the probability p must be between 0 and 1, got {p}", op=op)


def _kept(shape: Sequence[int], p: float) -> Tensor:
    """A bool mask that is False with probability `p`.

    Bits are compared as integers, so that every backend drops the same elements.
    """
    return E.ge(draw_bits(tuple(shape)), min(round(p * 2.0**32), 2**32 - 1))


def _dropped(input: Tensor, shape: Sequence[int], p: float) -> Tensor:
    if p == 0.0 or 0 in input.shape:
        return E.copy(input)
    if p == 1.0:
        return input * 0.0
    return E.where(_kept(shape, p), input * (1.0 / (1.0 - p)), 0.0)


@composite(fused=True)
def dropout(input: Tensor, p: float = 0.5, training: bool = True, inplace: bool = False) -> Tensor:
    """Zero each element with probability `p` and scale the others by 1 / (1 - p), while training.

    Source: Hinton et al. 2012, "Improving neural networks by preventing co-adaptation".

    >>> import twofold as tw
    >>> tw.nn.functional.dropout(tw.ones(3), p=0.9, training=False)
    tensor([1., 1., 1.])
    """
    _check(p, "dropout")
    if not training:
        return input
    out = _dropped(input, input.shape, p)
    return assign(input, out) if inplace else out


def _feature_shape(input: Tensor) -> tuple[int, ...]:
    if input.ndim < 2:
        raise ShapeError(f"feature dropout needs at least 2 dimensions, got {input.shape}", op="dropout")
    return (*input.shape[:2], *(1,) * (input.ndim - 2))


def _channel_dropout(input: Tensor, p: float, training: bool, inplace: bool, spatial: int, op: str) -> Tensor:
    _check(p, op)
    if not training:
        return input
    if input.ndim not in (spatial + 1, spatial + 2):
        raise ShapeError(
            f"expects an input (C, ...) or (N, C, ...) with {spatial} spatial dimensions, got {input.shape}", op=op
        )
    batched = input.ndim == spatial + 2
    lead = input.shape[: 1 + batched]
    out = _dropped(input, (*lead, *(1,) * spatial), p)
    return assign(input, out) if inplace else out


@composite
def dropout1d(input: Tensor, p: float = 0.5, training: bool = True, inplace: bool = False) -> Tensor:
    """Zero whole channels of (N, C, L) or (C, L) with probability `p`.

    >>> import twofold as tw
    >>> tw.nn.functional.dropout1d(tw.ones(1, 2, 3), training=False).shape
    (1, 2, 3)
    """
    return _channel_dropout(input, p, training, inplace, 1, "dropout1d")


@composite
def dropout2d(input: Tensor, p: float = 0.5, training: bool = True, inplace: bool = False) -> Tensor:
    """Zero whole channels of (N, C, H, W) with probability `p`.

    Source: Tompson et al. 2015, "Efficient Object Localization Using Convolutional Networks".

    >>> import twofold as tw
    >>> tw.nn.functional.dropout2d(tw.ones(1, 2, 3, 3), training=False).shape
    (1, 2, 3, 3)
    """
    _check(p, "dropout2d")
    if not training:
        return input
    out = _dropped(input, _feature_shape(input), p)
    return assign(input, out) if inplace else out


@composite
def dropout3d(input: Tensor, p: float = 0.5, training: bool = True, inplace: bool = False) -> Tensor:
    """Zero whole channels of (N, C, D, H, W) with probability `p`.

    >>> import twofold as tw
    >>> tw.nn.functional.dropout3d(tw.ones(1, 2, 3, 3, 3), training=False).shape
    (1, 2, 3, 3, 3)
    """
    return dropout2d(input, p, training, inplace)


def _alpha(input: Tensor, shape: Sequence[int], p: float, training: bool, inplace: bool, op: str) -> Tensor:
    _check(p, op)
    if not training or p == 0.0:
        return input
    if p == 1.0:
        out = input * 0.0
    else:
        a = 1.0 / math.sqrt((1.0 - p) * (1.0 + p * _ALPHA_PRIME**2))
        out = E.where(_kept(shape, p), input, _ALPHA_PRIME) * a - a * _ALPHA_PRIME * p
    return assign(input, out) if inplace else out


@composite
def alpha_dropout(input: Tensor, p: float = 0.5, training: bool = False, inplace: bool = False) -> Tensor:
    """Dropout for SELU networks: keeps mean 0 and variance 1.

    Source: Klambauer et al. 2017, "Self-Normalizing Neural Networks".

    >>> import twofold as tw
    >>> tw.nn.functional.alpha_dropout(tw.ones(2))
    tensor([1., 1.])
    """
    return _alpha(input, input.shape, p, training, inplace, "alpha_dropout")


@composite
def feature_alpha_dropout(input: Tensor, p: float = 0.5, training: bool = False, inplace: bool = False) -> Tensor:
    """`alpha_dropout` of whole channels.

    >>> import twofold as tw
    >>> tw.nn.functional.feature_alpha_dropout(tw.ones(1, 2, 3)).shape
    (1, 2, 3)
    """
    return _alpha(input, _feature_shape(input), p, training, inplace, "feature_alpha_dropout")
