"""AdamW."""

from __future__ import annotations

from typing import Any

from ..autodiff.handle import Tensor
from .adam import Adam
from .optimizer import Params


class AdamW(Adam):
    """Adam with weight decay apart from the gradient: p is scaled by 1 - lr * weight_decay in each step.

    Args: as Adam's; `weight_decay` is 0.01 by default.

    Raises: ValueError for options out of range.
    Source: Loshchilov and Hutter 2019, "Decoupled weight decay regularization".
    """

    def __init__(
        self,
        params: Params,
        lr: float | Tensor = 1e-3,
        betas: tuple[float, float] = (0.9, 0.999),
        eps: float = 1e-8,
        weight_decay: float = 1e-2,
        amsgrad: bool = False,
        *,
        maximize: bool = False,
        **switches: Any,
    ):
        super().__init__(
            params,
            lr,
            betas,
            eps,
            weight_decay,
            amsgrad,
            maximize=maximize,
            decoupled_weight_decay=True,
            **switches,
        )
