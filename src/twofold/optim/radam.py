"""RAdam."""

from __future__ import annotations

from typing import Any

from ..autodiff.handle import Tensor
from ..ir.dtypes import DType, float64
from ..primitives.elementwise import exp, expm1, sqrt, where
from . import _betas
from ._group import ParamGroup
from ._together import elementwise
from .adam import decayed, moments
from .optimizer import Optimizer, Params, check_range, counter, read, store, zeros_like

_INF = float("inf")


class RAdam(Optimizer):
    """Adam that waits: plain momentum until enough squares are seen, then rectified steps.

    rho = rho_inf - 2 t b2^t / (1 - b2^t) with rho_inf = 2 / (1 - b2) - 1 counts the squares in the
    mean. While rho <= 5, p <- p - lr m / (1 - b1^t); then
    p <- p - lr r m / (1 - b1^t) * sqrt(1 - b2^t) / (sqrt(v) + eps) with
    r = sqrt((rho - 4)(rho - 2) rho_inf / ((rho_inf - 4)(rho_inf - 2) rho)).

    Args:
        params: parameters or groups of them, see Optimizer.
        lr: step size per update.
        betas: decay rates b1 and b2.
        eps: keeps the divisor from zero.
        weight_decay, decoupled_weight_decay: as in Adam.
        maximize: go up instead of down.

    Raises: ValueError for options out of range.
    Numerics: rho is a small difference of large numbers, so it is computed in float64.
    Source: Liu et al. 2020, "On the variance of the adaptive learning rate and beyond".
    """

    def __init__(
        self,
        params: Params,
        lr: float | Tensor = 1e-3,
        betas: tuple[float, float] = (0.9, 0.999),
        eps: float = 1e-8,
        weight_decay: float = 0,
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
            "decoupled_weight_decay": decoupled_weight_decay,
            "maximize": maximize,
        }
        super().__init__(params, defaults, **switches)

    def _check_options(self, options: dict[str, Any]) -> None:
        check_range(options, lr=(0, _INF), betas=(0, 1), eps=(0, _INF), weight_decay=(0, _INF))

    def _init_state(self, p: Tensor, group: ParamGroup) -> dict[str, Any]:
        return {"step": counter(p), "exp_avg": zeros_like(p), "exp_avg_sq": zeros_like(p)}

    @elementwise
    def _update(self, p: Tensor, grad: Tensor, state: dict[str, Any], group: ParamGroup, dtype: DType) -> None:
        step = store(state["step"], state["step"] + 1.0)
        value, lr = read(p, dtype), group.twin("lr", dtype)
        value, grad = decayed(value, grad, lr, group, dtype)
        mean, square = moments(state, grad, group, dtype)
        lr = lr / _betas.bias_correction(step, group, _betas.log1, dtype)
        ready, factor = _rectification(step, group, dtype)
        scale = where(ready, factor / (sqrt(square) + group.twin("eps", dtype)), lr * 0.0 + 1.0)
        store(p, value - mean * lr * scale)


def _rectification(step: Tensor, group: ParamGroup, dtype: DType) -> tuple[Tensor, Tensor]:
    """Whether the mean holds enough squares, and r * sqrt(1 - b2^t)."""
    exponent = read(step, float64) * group.twin("betas", float64, _betas.log2)
    correction = -expm1(exponent)
    most = group.twin("betas", float64, _rho_inf)
    rho = most - read(step, float64) * 2.0 * exp(exponent) / correction
    ready = rho > 5.0
    rho = where(ready, rho, rho * 0.0 + 6.0)  # any number whose root exists
    ratio = (rho - 4.0) * (rho - 2.0) * most / ((most - 4.0) * (most - 2.0) * rho)
    return ready, read(sqrt(where(ready, ratio, ratio * 0.0) * correction), dtype)


def _rho_inf(betas: Any) -> float:
    return 2 / (1 - float(betas[1])) - 1
