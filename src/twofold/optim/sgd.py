"""Stochastic gradient descent."""

from __future__ import annotations

from typing import Any

from ..autodiff.handle import Tensor
from ..ir.dtypes import DType
from ..primitives.elementwise import where
from ._group import ParamGroup
from ._together import elementwise
from .optimizer import Optimizer, Params, check_range, counter, read, store, zeros_like

_INF = float("inf")


class SGD(Optimizer):
    """Gradient descent, with momentum if wanted.

    b <- momentum * b + (1 - dampening) * g, from the second step on; b = g in the first;
    p <- p - lr * b, or p - lr * (g + momentum * b) with Nesterov; where g = grad + weight_decay * p.

    Args:
        params: parameters or groups of them, see Optimizer.
        lr: step size per update.
        momentum, dampening, weight_decay: the factors above.
        nesterov: look ahead along the momentum; needs momentum and no dampening.
        maximize: go up instead of down.

    Raises: ValueError for options out of range.
    Source: Sutskever, Martens, Dahl and Hinton 2013, "On the importance of initialization and momentum
        in deep learning"; in PyTorch's form, in which lr does not enter b.

    >>> import twofold as tw
    >>> w = tw.tensor([1.0], requires_grad=True)
    >>> optimizer = SGD([w], lr=0.5)
    >>> (w * w).sum().backward()
    >>> optimizer.step()
    >>> w.detach()
    tensor([0.])
    """

    def __init__(
        self,
        params: Params,
        lr: float | Tensor = 1e-3,
        momentum: float = 0,
        dampening: float = 0,
        weight_decay: float = 0,
        nesterov: bool = False,
        *,
        maximize: bool = False,
        **switches: Any,
    ):
        defaults = {
            "lr": lr,
            "momentum": momentum,
            "dampening": dampening,
            "weight_decay": weight_decay,
            "nesterov": nesterov,
            "maximize": maximize,
        }
        super().__init__(params, defaults, **switches)

    def _check_options(self, options: dict[str, Any]) -> None:
        check_range(options, lr=(0, _INF), momentum=(0, _INF), weight_decay=(0, _INF))
        if options["nesterov"] and (options["momentum"] <= 0 or options["dampening"] != 0):
            raise ValueError("Nesterov momentum requires a momentum and zero dampening")

    def _init_state(self, p: Tensor, group: ParamGroup) -> dict[str, Any]:
        if group["momentum"] == 0:
            return {}
        state = {"momentum_buffer": zeros_like(p)}
        if group["dampening"] != 0:
            state["step"] = counter(p)  # tells the first step, which is not dampened
        return state

    @elementwise
    def _update(self, p: Tensor, grad: Tensor, state: dict[str, Any], group: ParamGroup, dtype: DType) -> None:
        value = read(p, dtype)
        if group["weight_decay"] != 0:
            grad = grad + value * group.twin("weight_decay", dtype)
        if group["momentum"] != 0:
            if state.get("momentum_buffer") is None:
                state.update(self._init_state(p, group))
            momentum = group.twin("momentum", dtype)
            added = grad if group["dampening"] == 0 else grad * _weight(state, group, dtype)
            buffer = store(state["momentum_buffer"], read(state["momentum_buffer"], dtype) * momentum + added)
            grad = grad + buffer * momentum if group["nesterov"] else buffer
        store(p, value - grad * group.twin("lr", dtype))


def _weight(state: dict[str, Any], group: ParamGroup, dtype: DType) -> Tensor:
    """1 - dampening, but 1 in the first step."""
    weight = group.twin("dampening", dtype, _one_minus)
    if "step" not in state:  # loaded from a file of PyTorch's, which is past its first step
        return weight
    step = store(state["step"], state["step"] + 1.0)
    return where(step == 1.0, weight * 0.0 + 1.0, weight)


def _one_minus(x: float) -> float:
    return 1 - x
