"""Adadelta."""

from __future__ import annotations

from typing import Any

from ..autodiff.handle import Tensor
from ..ir.dtypes import DType
from ..primitives.elementwise import sqrt
from ._group import ParamGroup
from ._together import elementwise
from .optimizer import Optimizer, Params, check_range, counter, read, store, zeros_like

_INF = float("inf")


class Adadelta(Optimizer):
    """Steps whose size is the ratio of running means of squared steps and squared gradients.

    v <- rho v + (1 - rho) g^2;  d = sqrt(u + eps) / sqrt(v + eps) * g;  u <- rho u + (1 - rho) d^2;
    p <- p - lr d, where g = grad + weight_decay * p.

    Args:
        params: parameters or groups of them, see Optimizer.
        lr: factor of the steps.
        rho: decay rate of the means.
        eps: keeps the ratio from zero.
        weight_decay: the factor above.
        maximize: go up instead of down.

    Raises: ValueError for options out of range.
    Source: Zeiler 2012, "ADADELTA: an adaptive learning rate method".
    """

    def __init__(
        self,
        params: Params,
        lr: float | Tensor = 1.0,
        rho: float = 0.9,
        eps: float = 1e-6,
        weight_decay: float = 0,
        foreach: bool | None = None,
        *,
        maximize: bool = False,
        **switches: Any,
    ):
        defaults = {"lr": lr, "rho": rho, "eps": eps, "weight_decay": weight_decay, "maximize": maximize}
        super().__init__(params, defaults, **switches)

    def _check_options(self, options: dict[str, Any]) -> None:
        check_range(options, lr=(0, _INF), rho=(0, 1 + 1e-12), eps=(0, _INF), weight_decay=(0, _INF))

    def _init_state(self, p: Tensor, group: ParamGroup) -> dict[str, Any]:
        return {"step": counter(p), "square_avg": zeros_like(p), "acc_delta": zeros_like(p)}

    @elementwise
    def _update(self, p: Tensor, grad: Tensor, state: dict[str, Any], group: ParamGroup, dtype: DType) -> None:
        store(state["step"], state["step"] + 1.0)
        value = read(p, dtype)
        if group["weight_decay"] != 0:
            grad = grad + value * group.twin("weight_decay", dtype)
        rho, rest, eps = group.twin("rho", dtype), group.twin("rho", dtype, _one_minus), group.twin("eps", dtype)
        square = store(state["square_avg"], read(state["square_avg"], dtype) * rho + grad * grad * rest)
        past = read(state["acc_delta"], dtype)
        delta = sqrt(past + eps) / sqrt(square + eps) * grad
        store(state["acc_delta"], past * rho + delta * delta * rest)
        store(p, value - delta * group.twin("lr", dtype))


def _one_minus(x: float) -> float:
    return 1 - x
