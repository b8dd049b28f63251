"""Adagrad."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from ..autodiff.handle import Tensor
from ..ir.dtypes import DType
from ..primitives.elementwise import sqrt
from ._group import ParamGroup
from ._together import elementwise
from .optimizer import Optimizer, Params, check_range, counter, read, store, zeros_like

_INF = float("inf")


class Adagrad(Optimizer):
    """Steps divided by the root of the sum of all squared gradients so far.

    s <- s + g^2;  p <- p - lr / (1 + (t - 1) lr_decay) * g / (sqrt(s) + eps), where
    g = grad + weight_decay * p.

    Args:
        params: parameters or groups of them, see Optimizer.
        lr: step size per update.
        lr_decay, weight_decay: the factors above.
        initial_accumulator_value: the first s.
        eps: keeps the divisor from zero.
        maximize: go up instead of down.

    Raises: ValueError for options out of range.
    Source: Duchi, Hazan and Singer 2011, "Adaptive subgradient methods for online learning and
        stochastic optimization".
    """

    def __init__(
        self,
        params: Params,
        lr: float | Tensor = 1e-2,
        lr_decay: float = 0,
        weight_decay: float = 0,
        initial_accumulator_value: float = 0,
        eps: float = 1e-10,
        foreach: bool | None = None,
        *,
        maximize: bool = False,
        **switches: Any,
    ):
        defaults = {
            "lr": lr,
            "lr_decay": lr_decay,
            "eps": eps,
            "weight_decay": weight_decay,
            "initial_accumulator_value": initial_accumulator_value,
            "maximize": maximize,
        }
        super().__init__(params, defaults, **switches)

    def add_param_group(self, param_group: Mapping[str, Any]) -> None:
        super().add_param_group(param_group)
        group = self.param_groups[-1]
        for p in group["params"]:  # as PyTorch, which has the state from the beginning
            self.state[p] = self._init_state(p, group)

    def _check_options(self, options: dict[str, Any]) -> None:
        limit = (0, _INF)
        check_range(
            options, lr=limit, lr_decay=limit, weight_decay=limit, initial_accumulator_value=limit, eps=limit
        )

    def _init_state(self, p: Tensor, group: ParamGroup) -> dict[str, Any]:
        return {"step": counter(p), "sum": zeros_like(p, group["initial_accumulator_value"])}

    @elementwise
    def _update(self, p: Tensor, grad: Tensor, state: dict[str, Any], group: ParamGroup, dtype: DType) -> None:
        step = store(state["step"], state["step"] + 1.0)
        value, lr = read(p, dtype), group.twin("lr", dtype)
        if group["weight_decay"] != 0:
            grad = grad + value * group.twin("weight_decay", dtype)
        if group["lr_decay"] != 0:
            lr = lr / ((step - 1.0) * group.twin("lr_decay", dtype) + 1.0)
        total = store(state["sum"], read(state["sum"], dtype) + grad * grad)
        store(p, value - grad * lr / (sqrt(total) + group.twin("eps", dtype)))
