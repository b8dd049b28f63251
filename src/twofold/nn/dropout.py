"""Dropout layers: active while training, the identity in evaluation."""

from __future__ import annotations

from ..autodiff.handle import Tensor
from . import functional as F
from .module import Module


class _Dropout(Module):
    def __init__(self, p: float = 0.5, inplace: bool = False):
        super().__init__()
        if p < 0 or p > 1:
            raise ValueError(f"dropout probability has to be between 0 and 1, but got {p}")
        self.p, self.inplace = p, inplace

    def extra_repr(self) -> str:
        return f"p={self.p}, inplace={self.inplace}"


class Dropout(_Dropout):
    """Zeroes elements with probability `p` and scales the others by 1 / (1 - p).

    >>> import twofold as tw
    >>> tw.nn.Dropout(0.2).eval()(tw.ones(2))
    tensor([1., 1.])
    """

    def forward(self, input: Tensor) -> Tensor:
        return F.dropout(input, self.p, self.training, self.inplace)


class Dropout1d(_Dropout):
    """Zeroes whole channels of (N, C, L) or (C, L).

    >>> import twofold as tw
    >>> tw.nn.Dropout1d(0.2)(tw.ones(1, 2, 3)).shape
    (1, 2, 3)
    """

    def forward(self, input: Tensor) -> Tensor:
        return F.dropout1d(input, self.p, self.training, self.inplace)


class Dropout2d(_Dropout):
    """Zeroes whole channels of (N, C, H, W).

    >>> import twofold as tw
    >>> tw.nn.Dropout2d(0.2)(tw.ones(1, 2, 3, 3)).shape
    (1, 2, 3, 3)
    """

    def forward(self, input: Tensor) -> Tensor:
        return F.dropout2d(input, self.p, self.training, self.inplace)


class Dropout3d(_Dropout):
    """Zeroes whole channels of (N, C, D, H, W).

    >>> import twofold as tw
    >>> tw.nn.Dropout3d(0.2)(tw.ones(1, 2, 3, 3, 3)).shape
    (1, 2, 3, 3, 3)
    """

    def forward(self, input: Tensor) -> Tensor:
        return F.dropout3d(input, self.p, self.training, self.inplace)


class AlphaDropout(_Dropout):
    """Dropout for SELU networks: keeps mean 0 and variance 1.

    >>> import twofold as tw
    >>> tw.nn.AlphaDropout(0.2)(tw.ones(3)).shape
    (3,)
    """

    def forward(self, input: Tensor) -> Tensor:
        return F.alpha_dropout(input, self.p, self.training, self.inplace)


class FeatureAlphaDropout(_Dropout):
    """`AlphaDropout` of whole channels.

    >>> import twofold as tw
    >>> tw.nn.FeatureAlphaDropout(0.2)(tw.ones(1, 2, 3)).shape
    (1, 2, 3)
    """

    def forward(self, input: Tensor) -> Tensor:
        return F.feature_alpha_dropout(input, self.p, self.training, self.inplace)
