"""Multi-head attention as a function of its weights, and masks."""

from __future__ import annotations

import math

from ...autodiff.composite import composite
from ...autodiff.handle import Tensor
from ...ir.dtypes import DType, bool_
from ...ir.errors import DTypeError, ShapeError
from ...primitives import elementwise as E
from ...primitives import linalg as L
from ...primitives import movement as M
from ...tensors.statistics import softmax
from ._common import average, cast
from .attention import _transposed, causal_mask
from .dropout import dropout
from .linear import linear


def canonical_mask(mask: Tensor | None, name: str, dtype: DType) -> Tensor | None:
    """A mask to be added to scores; in a bool mask True means "not to be seen"."""
    if mask is None:
        return None
    if mask.dtype is bool_:
        zeros = M.full(shape=mask.shape, value=0, dtype=dtype)
        return E.where(mask, -math.inf, zeros)
    if not mask.dtype.is_floating_point:
        raise DTypeError(
            f"only bool and floating types of {name} are supported, got {mask.dtype.name}", op="attention"
        )
    return cast(mask, dtype)


def _part(x: Tensor, start: int, stop: int) -> Tensor:
    """Rows [start, stop)."""
    return M.slice(x, start=(start, *(0,) * (x.ndim - 1)), stop=(stop, *x.shape[1:]), step=(1,) * x.ndim)


def _projections(
    query: Tensor,
    key: Tensor,
    value: Tensor,
    in_proj_weight: Tensor | None,
    in_proj_bias: Tensor | None,
    separate: tuple[Tensor, Tensor, Tensor] | None,
) -> tuple[Tensor, Tensor, Tensor]:
    """Queries, keys and values, each from its third of the weights or from its own."""
    e = query.shape[-1]
    biases = (
        (None,) * 3 if in_proj_bias is None else tuple(_part(in_proj_bias, i * e, (i + 1) * e) for i in range(3))
    )
    if separate is not None:
        weights = separate
    elif query is key and key is value:
        assert in_proj_weight is not None
        y = linear(query, in_proj_weight, in_proj_bias)
        ends = y.shape[:-1]
        zeros, ones = (0,) * len(ends), (1,) * y.ndim
        q, k, v = (M.slice(y, start=(*zeros, i * e), stop=(*ends, (i + 1) * e), step=ones) for i in range(3))
        return q, k, v
    else:
        assert in_proj_weight is not None
        weights = tuple(_part(in_proj_weight, i * e, (i + 1) * e) for i in range(3))  # type: ignore[assignment]
    q, k, v = (linear(x, w, b) for x, w, b in zip((query, key, value), weights, biases, strict=True))
    return q, k, v


def _heads(x: Tensor, heads: int) -> Tensor:
    """(T, B, E) as (B, heads, T, E / heads)."""
    t, b, e = x.shape
    return M.permute(M.reshape(x, shape=(t, b, heads, e // heads)), dims=(1, 2, 0, 3))


def _longer(mask: Tensor | None) -> Tensor | None:
    """The mask with one more key, which is seen."""
    if mask is None:
        return None
    return M.pad(mask, low=(0,) * mask.ndim, high=(*(0,) * (mask.ndim - 1), 1), value=0.0)


@composite
def multi_head_attention_forward(
    query: Tensor,
    key: Tensor,
    value: Tensor,
    embed_dim_to_check: int,
    num_heads: int,
    in_proj_weight: Tensor | None,
    in_proj_bias: Tensor | None,
    bias_k: Tensor | None,
    bias_v: Tensor | None,
    add_zero_attn: bool,
    dropout_p: float,
    out_proj_weight: Tensor,
    out_proj_bias: Tensor | None,
    training: bool = True,
    key_padding_mask: Tensor | None = None,
    need_weights: bool = True,
    attn_mask: Tensor | None = None,
    use_separate_proj_weight: bool = False,
    q_proj_weight: Tensor | None = None,
    k_proj_weight: Tensor | None = None,
    v_proj_weight: Tensor | None = None,
    static_k: Tensor | None = None,
    static_v: Tensor | None = None,
    average_attn_weights: bool = True,
    is_causal: bool = False,
) -> tuple[Tensor, Tensor | None]:
    """Attention of several heads between projections of query, key and value; see `nn.MultiheadAttention`.

    Shapes: query (L, N, E), key (S, N, *), value (S, N, *), or all without N -> (L, N, E), and the weights
        (N, L, S), or (N, heads, L, S) unless averaged, or None.
    Raises: ShapeError when sizes or masks do not fit.
    Source: Vaswani et al. 2017, "Attention Is All You Need", section 3.2.2.
    """
    op = "multi_head_attention"
    batched = query.ndim == 3
    if query.ndim not in (2, 3) or key.ndim != query.ndim or value.ndim != query.ndim:
        raise ShapeError(
            f"query, key and value must all be 3-d, or all 2-d without a batch; got shapes {query.shape}, "
            f"{key.shape}, {value.shape}",
            op=op,
        )
    if query.shape[-1] != embed_dim_to_check:
        raise ShapeError(
            f"was expecting embedding dimension of {embed_dim_to_check}, but got {query.shape[-1]}", op=op
        )
    if key.shape[:-1] != value.shape[:-1]:
        raise ShapeError(f"key {key.shape} and value {value.shape} differ in length or batch", op=op)
    if is_causal and attn_mask is None:
        raise ShapeError("is_causal needs an attn_mask", op=op, hint="it only promises that attn_mask is causal")
    if not batched:
        same = query is key and key is value
        query = M.reshape(query, shape=(query.shape[0], 1, query.shape[1]))
        key = query if same else M.reshape(key, shape=(key.shape[0], 1, key.shape[1]))
        value = query if same else M.reshape(value, shape=(value.shape[0], 1, value.shape[1]))
        if key_padding_mask is not None:
            key_padding_mask = M.reshape(key_padding_mask, shape=(1, *key_padding_mask.shape))
    separate = None
    if use_separate_proj_weight:
        assert q_proj_weight is not None and k_proj_weight is not None and v_proj_weight is not None
        separate = (q_proj_weight, k_proj_weight, v_proj_weight)
    q, k, v = _projections(query, key, value, in_proj_weight, in_proj_bias, separate)
    mask = canonical_mask(attn_mask, "attn_mask", q.dtype)
    padding = canonical_mask(key_padding_mask, "key_padding_mask", q.dtype)
    _check_masks(mask, padding, q, k, num_heads, op)
    if bias_k is not None and bias_v is not None:
        k = M.concat(k, M.expand(bias_k, shape=(1, *k.shape[1:])), dim=0)
        v = M.concat(v, M.expand(bias_v, shape=(1, *v.shape[1:])), dim=0)
        mask, padding = _longer(mask), _longer(padding)
    q, k, v = (_heads(x, num_heads) for x in (q, k, v))
    if static_k is not None:
        k = M.reshape(static_k, shape=(k.shape[0], num_heads, *static_k.shape[1:]))
    if static_v is not None:
        v = M.reshape(static_v, shape=(v.shape[0], num_heads, *static_v.shape[1:]))
    if add_zero_attn:
        zero = M.full(shape=(*k.shape[:2], 1, k.shape[3]), value=0, dtype=k.dtype)
        k, v = M.concat(k, zero, dim=2), M.concat(v, zero, dim=2)
        mask, padding = _longer(mask), _longer(padding)
    scores = L.matmul(q * (1.0 / math.sqrt(q.shape[-1])), _transposed(k))  # (N, heads, L, S)
    if mask is not None:
        scores = scores + (M.reshape(mask, shape=scores.shape) if mask.ndim == 3 else mask)
    if padding is not None:
        n, s = padding.shape
        scores = scores + M.reshape(padding, shape=(n, 1, 1, s))
    weights = softmax(scores, 3)
    if training and dropout_p > 0.0:
        weights = dropout(weights, dropout_p)
    return _output(weights, v, out_proj_weight, out_proj_bias, batched, need_weights, average_attn_weights)


def _check_masks(mask: Tensor | None, padding: Tensor | None, q: Tensor, k: Tensor, heads: int, op: str) -> None:
    length, n = q.shape[:2]
    keys = k.shape[0]
    if mask is not None and mask.shape not in ((length, keys), (n * heads, length, keys)):
        raise ShapeError(
            f"attn_mask has shape {mask.shape}, expected {(length, keys)} or {(n * heads, length, keys)}", op=op
        )
    if padding is not None and padding.shape != (n, keys):
        raise ShapeError(f"key_padding_mask has shape {padding.shape}, expected {(n, keys)}", op=op)


def _output(
    weights: Tensor,
    v: Tensor,
    out_weight: Tensor,
    out_bias: Tensor | None,
    batched: bool,
    need_weights: bool,
    averaged: bool,
) -> tuple[Tensor, Tensor | None]:
    n, heads, length, _ = weights.shape
    mixed = M.permute(L.matmul(weights, v), dims=(2, 0, 1, 3))  # (L, N, heads, E / heads)
    rows = M.reshape(mixed, shape=(length * n, heads * v.shape[3]))
    y = M.reshape(linear(rows, out_weight, out_bias), shape=(length, n, out_weight.shape[0]))
    if not batched:
        y = M.reshape(y, shape=(length, y.shape[2]))
    if not need_weights:
        return y, None
    shown = average(weights, (1,)) if averaged else weights
    return y, shown if batched else M.reshape(shown, shape=shown.shape[1:])


def square_subsequent_mask(size: int, dtype: DType) -> Tensor:
    """0 on and below the diagonal, -inf above: position i sees 0 to i."""
    zeros = M.full(shape=(size, size), value=0, dtype=dtype)
    return E.where(causal_mask(size, size), zeros, -math.inf)
