"""Adamax."""

from __future__ import annotations

from typing import Any

from ..autodiff.handle import Tensor
from ..ir.dtypes import DType
from ..primitives.elementwise import abs as absolute
from ..primitives.elementwise import maximum
from . import _betas
from ._group import ParamGroup
from ._together import elementwise
from .optimizer import Optimizer, Params, check_range, counter, read, store, zeros_like

_INF = float("inf")


class Adamax(Optimizer):
    """Adam with the largest decayed gradient in place of the root of the mean square.

    m <- b1 m + (1 - b1) g;  u <- max(b2 u, |g| + eps);  p <- p - lr / (1 - b1^t) * m / u, where
    g = grad + weight_decay * p.

    Args:
        params: parameters or groups of them, see Optimizer.
        lr: step size per update.
        betas: decay rates b1 and b2.
        eps: keeps the divisor from zero.
        weight_decay: the factor above.
        maximize: go up instead of down.

    Raises: ValueError for options out of range.
    Source: Kingma and Ba 2015, "Adam: a method for stochastic optimization", section 7.1.
    """

    def __init__(
        self,
        params: Params,
        lr: float | Tensor = 2e-3,
        betas: tuple[float, float] = (0.9, 0.999),
        eps: float = 1e-8,
        weight_decay: float = 0,
        foreach: bool | None = None,
        *,
        maximize: bool = False,
        **switches: Any,
    ):
        defaults = {"lr": lr, "betas": betas, "eps": eps, "weight_decay": weight_decay, "maximize": maximize}
        super().__init__(params, defaults, **switches)

    def _check_options(self, options: dict[str, Any]) -> None:
        check_range(options, lr=(0, _INF), betas=(0, 1), eps=(0, _INF), weight_decay=(0, _INF))

    def _init_state(self, p: Tensor, group: ParamGroup) -> dict[str, Any]:
        return {"step": counter(p), "exp_avg": zeros_like(p), "exp_inf": zeros_like(p)}

    @elementwise
    def _update(self, p: Tensor, grad: Tensor, state: dict[str, Any], group: ParamGroup, dtype: DType) -> None:
        step = store(state["step"], state["step"] + 1.0)
        value = read(p, dtype)
        if group["weight_decay"] != 0:
            grad = grad + value * group.twin("weight_decay", dtype)
        rest1, beta2 = group.twin("betas", dtype, _betas.rest1), group.twin("betas", dtype, _betas.beta2)
        mean = store(state["exp_avg"], _betas.averaged(read(state["exp_avg"], dtype), grad, rest1))
        decayed = read(state["exp_inf"], dtype) * beta2
        largest = store(state["exp_inf"], maximum(decayed, absolute(grad) + group.twin("eps", dtype)))
        lr = group.twin("lr", dtype) / _betas.bias_correction(step, group, _betas.log1, dtype)
        store(p, value - mean * lr / largest)
