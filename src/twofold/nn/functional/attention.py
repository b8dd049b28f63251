"""Scaled dot-product attention."""

from __future__ import annotations

import math

from ...autodiff.composite import composite
from ...autodiff.handle import Tensor
from ...ir.dtypes import bool_, int64
from ...ir.errors import ShapeError, TwofoldError
from ...primitives import elementwise as E
from ...primitives import linalg as L
from ...primitives import movement as M
from ...tensors.statistics import softmax
from ._common import cast, in_float32
from .dropout import dropout


@composite(fused=True)
@in_float32
def scaled_dot_product_attention(
    query: Tensor,
    key: Tensor,
    value: Tensor,
    attn_mask: Tensor | None = None,
    dropout_p: float = 0.0,
    is_causal: bool = False,
    scale: float | None = None,
    enable_gqa: bool = False,
) -> Tensor:
    """softmax(q k^T * scale + mask) v.

    Shapes: query (..., L, E), key (..., S, E), value (..., S, V) -> (..., L, V).
    Args:
        attn_mask: bool (True takes part) or floating (added); broadcasts to (..., L, S).
        is_causal: position i sees keys 0 to i only.
        scale: 1 / sqrt(E) by default.
        enable_gqa: repeat the heads of key and value to the query's number (dim -3).
    Raises: ShapeError when the sizes do not fit.
    Numerics: float16 and bfloat16 are computed in float32; a row without any key gives zeros.
    Source: Vaswani et al. 2017, "Attention Is All You Need", eq. 1.

    >>> import twofold as tw
    >>> q = tw.zeros(1, 2, 4)
    >>> tw.nn.functional.scaled_dot_product_attention(q, q, tw.ones(1, 2, 3)).shape
    (1, 2, 3)
    """
    op = "scaled_dot_product_attention"
    if min(query.ndim, key.ndim, value.ndim) < 2 or query.shape[-1] != key.shape[-1]:
        raise ShapeError(
            f"query {query.shape} and key {key.shape} must be (..., L, E) and (..., S, E) with the same E", op=op
        )
    if key.shape[-2] != value.shape[-2]:
        raise ShapeError(f"key {key.shape} and value {value.shape} differ in length (dim -2)", op=op)
    if enable_gqa:
        key, value = (_repeated_heads(t, query.shape[-3], op) for t in (key, value))
    scale = 1.0 / math.sqrt(query.shape[-1]) if scale is None else scale
    scores = L.matmul(query * scale, _transposed(key))
    if is_causal:
        if attn_mask is not None:
            raise TwofoldError("is_causal=True takes no attn_mask", op=op)
        attn_mask = causal_mask(query.shape[-2], key.shape[-2])
    weights = attention_weights(scores, attn_mask)
    if dropout_p > 0.0:
        weights = dropout(weights, dropout_p)
    return L.matmul(weights, value)


def attention_weights(scores: Tensor, mask: Tensor | None) -> Tensor:
    """softmax of the scores where the mask allows; a row without any key gives zeros."""
    if mask is None:
        return softmax(scores, scores.ndim - 1)
    if mask.dtype is not bool_:
        return softmax(scores + cast(mask, scores.dtype), scores.ndim - 1)
    some = mask.any(-1, keepdim=True)
    # A row of -inf alone would be nan, and so would its gradient: let it see all, and drop the result.
    weights = softmax(E.where(E.bitwise_or(mask, E.logical_not(some)), scores, -math.inf), scores.ndim - 1)
    return E.where(some, weights, 0.0)


def causal_mask(rows: int, columns: int) -> Tensor:
    """True on and below the diagonal."""
    i = M.reshape(M.iota(size=rows, dtype=int64), shape=(rows, 1))
    return E.ge(i, M.iota(size=columns, dtype=int64))


def _transposed(x: Tensor) -> Tensor:
    return M.permute(x, dims=(*range(x.ndim - 2), x.ndim - 1, x.ndim - 2))


def _repeated_heads(x: Tensor, heads: int, op: str) -> Tensor:
    *lead, own, length, size = x.shape
    if heads % own:
        raise ShapeError(f"{heads} query heads are no multiple of {own} key and value heads", op=op)
    x = M.reshape(x, shape=(*lead, own, 1, length, size))
    x = M.expand(x, shape=(*lead, own, heads // own, length, size))
    return M.reshape(x, shape=(*lead, heads, length, size))
