"""Adam."""

from __future__ import annotations

from typing import Any

from ..autodiff.handle import Tensor
from ..ir.dtypes import DType
from ..primitives.elementwise import maximum, sqrt
from . import _betas
from ._group import ParamGroup
from ._together import elementwise
from .optimizer import Optimizer, Params, check_range, counter, read, store, zeros_like

_INF = float("inf")


class Adam(Optimizer):
    """Steps scaled by running means of the gradient and of its square.

    m <- b1 m + (1 - b1) g;  v <- b2 v + (1 - b2) g^2;
    p <- p - lr (m / (1 - b1^t)) / (sqrt(v / (1 - b2^t)) + eps), where g = grad + weight_decay * p.

    Args:
        params: parameters or groups of them, see Optimizer.
        lr: step size per update.
        betas: decay rates b1 and b2 of the means.
        eps: keeps the divisor from zero.
        weight_decay: factor of p in the gradient; with `decoupled_weight_decay` p is scaled by
            1 - lr * weight_decay instead, which is AdamW.
        amsgrad: divide by the largest v so far.
        maximize: go up instead of down.

    Raises: ValueError for options out of range.
    Numerics: 1 - b^t is computed as -expm1(t log b), exact in float32, too.
    Source: Kingma and Ba 2015, "Adam: a method for stochastic optimization"; Reddi, Kale and Kumar 2018,
        "On the convergence of Adam and beyond".
    """

    def __init__(
        self,
        params: Params,
        lr: float | Tensor = 1e-3,
        betas: tuple[float, float] = (0.9, 0.999),
        eps: float = 1e-8,
        weight_decay: float = 0,
        amsgrad: bool = False,
        *,
        maximize: bool = False,
        decoupled_weight_decay: bool = False,
        **switches: Any,
    ):
        defaults = {
            "lr": lr,
            "betas": betas,
            "eps": eps,
            "weight_decay": weight_decay,
            "amsgrad": amsgrad,
            "maximize": maximize,
            "decoupled_weight_decay": decoupled_weight_decay,
        }
        super().__init__(params, defaults, **switches)

    def _check_options(self, options: dict[str, Any]) -> None:
        check_range(options, lr=(0, _INF), betas=(0, 1), eps=(0, _INF), weight_decay=(0, _INF))

    def _init_state(self, p: Tensor, group: ParamGroup) -> dict[str, Any]:
        state = {"step": counter(p), "exp_avg": zeros_like(p), "exp_avg_sq": zeros_like(p)}
        if group["amsgrad"]:
            state["max_exp_avg_sq"] = zeros_like(p)
        return state

    @elementwise
    def _update(self, p: Tensor, grad: Tensor, state: dict[str, Any], group: ParamGroup, dtype: DType) -> None:
        step = store(state["step"], state["step"] + 1.0)
        value, lr = read(p, dtype), group.twin("lr", dtype)
        value, grad = decayed(value, grad, lr, group, dtype)
        mean, square = moments(state, grad, group, dtype)
        if group["amsgrad"]:
            square = store(state["max_exp_avg_sq"], maximum(read(state["max_exp_avg_sq"], dtype), square))
        correction1 = _betas.bias_correction(step, group, _betas.log1, dtype)
        correction2 = sqrt(_betas.bias_correction(step, group, _betas.log2, dtype))
        # numerator and divisor times `correction2`, which saves a division per element
        divisor = sqrt(square) + group.twin("eps", dtype) * correction2
        store(p, value - mean * (lr * correction2 / correction1) / divisor)


def decayed(value: Tensor, grad: Tensor, lr: Tensor, group: ParamGroup, dtype: DType) -> tuple[Tensor, Tensor]:
    """Parameter and gradient after weight decay, of either kind."""
    if group["weight_decay"] == 0:
        return value, grad
    decay = group.twin("weight_decay", dtype)
    if group["decoupled_weight_decay"]:
        return value * (1.0 - lr * decay), grad
    return value, grad + value * decay


def moments(state: dict[str, Any], grad: Tensor, group: ParamGroup, dtype: DType) -> tuple[Tensor, Tensor]:
    """The running means of the gradient and of its square, with `grad` taken in."""
    rest1, rest2 = group.twin("betas", dtype, _betas.rest1), group.twin("betas", dtype, _betas.rest2)
    mean = store(state["exp_avg"], _betas.averaged(read(state["exp_avg"], dtype), grad, rest1))
    beta2 = group.twin("betas", dtype, _betas.beta2)
    square = store(state["exp_avg_sq"], read(state["exp_avg_sq"], dtype) * beta2 + grad * grad * rest2)
    return mean, square
