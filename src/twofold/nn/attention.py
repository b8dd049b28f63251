"""Multi-head attention."""

from __future__ import annotations

from typing import Any

from ..autodiff.handle import Tensor
from . import functional as F
from ._factory import empty_parameter
from .init import constant_, xavier_normal_, xavier_uniform_
from .linear import Linear
from .module import Module


class NonDynamicallyQuantizableLinear(Linear):
    """The output projection of attention, under the name that it has in PyTorch's repr."""


class MultiheadAttention(Module):
    """Attention of several heads.

    Shapes: query (L, N, E), key (S, N, kdim), value (S, N, vdim) -> (L, N, E) and weights (N, L, S); batch
        first with `batch_first`; also without N.
    Args:
        bias: projections have biases.
        add_bias_kv: learn one more key and value.
        add_zero_attn: add a key and value of zeros.
    Raises: ShapeError when sizes or masks do not fit.
    Source: Vaswani et al. 2017, "Attention Is All You Need", section 3.2.2.

    >>> import twofold as tw
    >>> x = tw.zeros(5, 2, 8)
    >>> y, weights = tw.nn.MultiheadAttention(8, 2)(x, x, x)
    >>> y.shape, weights.shape
    ((5, 2, 8), (2, 5, 5))
    """

    def __init__(
        self,
        embed_dim: int,
        num_heads: int,
        dropout: float = 0.0,
        bias: bool = True,
        add_bias_kv: bool = False,
        add_zero_attn: bool = False,
        kdim: int | None = None,
        vdim: int | None = None,
        batch_first: bool = False,
        device: Any = None,
        dtype: Any = None,
    ):
        if embed_dim <= 0 or num_heads <= 0:
            raise ValueError(
                f"embed_dim and num_heads must be greater than 0, got embed_dim={embed_dim} and "
                f"num_heads={num_heads} instead"
            )
        super().__init__()
        self.embed_dim, self.num_heads, self.dropout = embed_dim, num_heads, dropout
        self.kdim = embed_dim if kdim is None else kdim
        self.vdim = embed_dim if vdim is None else vdim
        self._qkv_same_embed_dim = self.kdim == embed_dim and self.vdim == embed_dim
        self.batch_first = batch_first
        self.head_dim = embed_dim // num_heads
        if self.head_dim * num_heads != embed_dim:
            raise ValueError("embed_dim must be divisible by num_heads")
        same = self._qkv_same_embed_dim
        e = embed_dim
        self.register_parameter("q_proj_weight", None if same else empty_parameter((e, e), dtype, device))
        self.register_parameter("k_proj_weight", None if same else empty_parameter((e, self.kdim), dtype, device))
        self.register_parameter("v_proj_weight", None if same else empty_parameter((e, self.vdim), dtype, device))
        self.register_parameter("in_proj_weight", empty_parameter((3 * e, e), dtype, device) if same else None)
        self.register_parameter("in_proj_bias", empty_parameter((3 * e,), dtype, device) if bias else None)
        self.out_proj = NonDynamicallyQuantizableLinear(e, e, bias=bias, dtype=dtype, device=device)
        self.register_parameter("bias_k", empty_parameter((1, 1, e), dtype, device) if add_bias_kv else None)
        self.register_parameter("bias_v", empty_parameter((1, 1, e), dtype, device) if add_bias_kv else None)
        self.add_zero_attn = add_zero_attn
        self._reset_parameters()

    def _reset_parameters(self) -> None:
        for weight in (self.in_proj_weight, self.q_proj_weight, self.k_proj_weight, self.v_proj_weight):
            if weight is not None:
                xavier_uniform_(weight)
        if self.in_proj_bias is not None:
            constant_(self.in_proj_bias, 0.0)
            constant_(self.out_proj.bias, 0.0)
        for extra in (self.bias_k, self.bias_v):
            if extra is not None:
                xavier_normal_(extra)

    def forward(
        self,
        query: Tensor,
        key: Tensor,
        value: Tensor,
        key_padding_mask: Tensor | None = None,
        need_weights: bool = True,
        attn_mask: Tensor | None = None,
        average_attn_weights: bool = True,
        is_causal: bool = False,
    ) -> tuple[Tensor, Tensor | None]:
        """Attend.

        Args:
            key_padding_mask: (N, S); True (or -inf, added) hides a key.
            attn_mask: (L, S) or (N * heads, L, S); True (or -inf, added) hides a pair.
            need_weights: return the attention weights, too.
            average_attn_weights: averaged over the heads.
            is_causal: a promise that attn_mask is causal.
        """
        swap = self.batch_first and query.ndim == 3
        if swap:
            if query is key and key is value:
                query = key = value = query.transpose(0, 1)
            else:
                query, key, value = (x.transpose(0, 1) for x in (query, key, value))
        y, weights = F.multi_head_attention_forward(
            query,
            key,
            value,
            self.embed_dim,
            self.num_heads,
            self.in_proj_weight,
            self.in_proj_bias,
            self.bias_k,
            self.bias_v,
            self.add_zero_attn,
            self.dropout,
            self.out_proj.weight,
            self.out_proj.bias,
            training=self.training,
            key_padding_mask=key_padding_mask,
            need_weights=need_weights,
            attn_mask=attn_mask,
            use_separate_proj_weight=not self._qkv_same_embed_dim,
            q_proj_weight=self.q_proj_weight,
            k_proj_weight=self.k_proj_weight,
            v_proj_weight=self.v_proj_weight,
            average_attn_weights=average_attn_weights,
            is_causal=is_causal,
        )
        return (y.transpose(0, 1) if swap else y), weights
