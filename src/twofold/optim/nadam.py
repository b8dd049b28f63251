"""NAdam."""

from __future__ import annotations

import math
from typing import Any

from ..autodiff.handle import Tensor
from ..ir.dtypes import DType
from ..primitives.elementwise import exp, sqrt
from . import _betas
from ._group import ParamGroup
from ._together import elementwise
from .adam import decayed, moments
from .optimizer import Optimizer, Params, check_range, counter, read, store, zeros_like

_INF = float("inf")


class NAdam(Optimizer):
    """Adam with Nesterov momentum, whose weight mu_t = b1 (1 - 0.96^(t * momentum_decay) / 2) grows.

    p <- p - lr (1 - mu_t) / (1 - mu_1...mu_t) * g / d - lr mu_{t+1} / (1 - mu_1...mu_{t+1}) * m / d,
    where d = sqrt(v / (1 - b2^t)) + eps; m, v and weight decay as in Adam.

    Args:
        params: parameters or groups of them, see Optimizer.
        lr: step size per update.
        betas: decay rates b1 and b2.
        eps: keeps the divisor from zero.
        weight_decay, decoupled_weight_decay: as in Adam.
        momentum_decay: the factor above.
        maximize: go up instead of down.

    Raises: ValueError for options out of range.
    Source: Dozat 2016, "Incorporating Nesterov momentum into Adam".
    """

    def __init__(
        self,
        params: Params,
        lr: float | Tensor = 2e-3,
        betas: tuple[float, float] = (0.9, 0.999),
        eps: float = 1e-8,
        weight_decay: float = 0,
        momentum_decay: float = 4e-3,
        decoupled_weight_decay: bool = False,
        *,
        maximize: bool = False,
        **switches: Any,
    ):
        defaults = {
            "lr": lr,
            "betas": betas,
            "eps": eps,
            "weight_decay": weight_decay,
            "momentum_decay": momentum_decay,
            "decoupled_weight_decay": decoupled_weight_decay,
            "maximize": maximize,
        }
        super().__init__(params, defaults, **switches)

    def _check_options(self, options: dict[str, Any]) -> None:
        limit = (0, _INF)
        check_range(options, lr=limit, betas=(0, 1), eps=limit, weight_decay=limit, momentum_decay=limit)

    def _init_state(self, p: Tensor, group: ParamGroup) -> dict[str, Any]:
        return {
            "step": counter(p),
            "mu_product": counter(p, 1.0),
            "exp_avg": zeros_like(p),
            "exp_avg_sq": zeros_like(p),
        }

    @elementwise
    def _update(self, p: Tensor, grad: Tensor, state: dict[str, Any], group: ParamGroup, dtype: DType) -> None:
        step = store(state["step"], state["step"] + 1.0)
        value, lr = read(p, dtype), group.twin("lr", dtype)
        value, grad = decayed(value, grad, lr, group, dtype)
        mu, mu_next = _mu(step, group, dtype), _mu(step + 1.0, group, dtype)
        product = store(state["mu_product"], state["mu_product"] * mu)
        mean, square = moments(state, grad, group, dtype)
        correction2 = _betas.bias_correction(step, group, _betas.log2, dtype)
        divisor = sqrt(square / correction2) + group.twin("eps", dtype)
        now, ahead = lr * (1.0 - mu) / (1.0 - product), lr * mu_next / (1.0 - product * mu_next)
        store(p, value - (grad * now + mean * ahead) / divisor)


def _mu(step: Tensor, group: ParamGroup, dtype: DType) -> Tensor:
    growth = exp(step * group.twin("momentum_decay", dtype, _log_growth))
    return group.twin("betas", dtype, _betas.beta1) * (1.0 - growth * 0.5)


def _log_growth(momentum_decay: float) -> float:
    return momentum_decay * math.log(0.96)
