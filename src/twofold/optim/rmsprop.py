"""RMSprop."""

from __future__ import annotations

from typing import Any

from ..autodiff.handle import Tensor
from ..ir.dtypes import DType
from ..primitives.elementwise import sqrt
from ._betas import averaged
from ._group import ParamGroup
from ._together import elementwise
from .optimizer import Optimizer, Params, check_range, counter, read, store, zeros_like

_INF = float("inf")


class RMSprop(Optimizer):
    """Steps divided by the root of a running mean of the squared gradient.

    v <- alpha v + (1 - alpha) g^2;  p <- p - lr g / (sqrt(v) + eps), where g = grad + weight_decay * p.
    With momentum, b <- momentum b + g / (sqrt(v) + eps) and p <- p - lr b.

    Args:
        params: parameters or groups of them, see Optimizer.
        lr: step size per update.
        alpha: decay rate of the mean.
        eps: keeps the divisor from zero.
        weight_decay, momentum: the factors above.
        centered: subtract the squared mean of the gradient from v, which makes it a variance.
        maximize: go up instead of down.

    Raises: ValueError for options out of range.
    Source: Tieleman and Hinton 2012, Coursera lecture 6.5; Graves 2013, "Generating sequences with
        recurrent neural networks" for the centred form.
    """

    def __init__(
        self,
        params: Params,
        lr: float | Tensor = 1e-2,
        alpha: float = 0.99,
        eps: float = 1e-8,
        weight_decay: float = 0,
        momentum: float = 0,
        centered: bool = False,
        capturable: bool = False,
        foreach: bool | None = None,
        maximize: bool = False,
        **switches: Any,
    ):
        defaults = {
            "lr": lr,
            "momentum": momentum,
            "alpha": alpha,
            "eps": eps,
            "centered": centered,
            "weight_decay": weight_decay,
            "maximize": maximize,
        }
        super().__init__(params, defaults, **switches)

    def _check_options(self, options: dict[str, Any]) -> None:
        check_range(
            options, lr=(0, _INF), eps=(0, _INF), momentum=(0, _INF), weight_decay=(0, _INF), alpha=(0, _INF)
        )

    def _init_state(self, p: Tensor, group: ParamGroup) -> dict[str, Any]:
        state = {"step": counter(p), "square_avg": zeros_like(p)}
        if group["momentum"] > 0:
            state["momentum_buffer"] = zeros_like(p)
        if group["centered"]:
            state["grad_avg"] = zeros_like(p)
        return state

    @elementwise
    def _update(self, p: Tensor, grad: Tensor, state: dict[str, Any], group: ParamGroup, dtype: DType) -> None:
        store(state["step"], state["step"] + 1.0)
        value, lr = read(p, dtype), group.twin("lr", dtype)
        if group["weight_decay"] != 0:
            grad = grad + value * group.twin("weight_decay", dtype)
        alpha, rest = group.twin("alpha", dtype), group.twin("alpha", dtype, _one_minus)
        square = store(state["square_avg"], read(state["square_avg"], dtype) * alpha + grad * grad * rest)
        if group["centered"]:
            mean = store(state["grad_avg"], averaged(read(state["grad_avg"], dtype), grad, rest))
            square = square - mean * mean
        step = grad / (sqrt(square) + group.twin("eps", dtype))
        if group["momentum"] > 0:
            buffer = read(state["momentum_buffer"], dtype) * group.twin("momentum", dtype)
            step = store(state["momentum_buffer"], buffer + step)
        store(p, value - step * lr)


def _one_minus(x: float) -> float:
    return 1 - x
