"""Gradients: `grad`, `backward`, own derivatives with `Function`, checks, and the switches of recording."""

from .autodiff.anomaly import detect_anomaly, set_detect_anomaly
from .autodiff.check import check_grads, gradcheck, gradgradcheck
from .autodiff.function import Function, FunctionCtx, once_differentiable
from .autodiff.gradients import backward, grad
from .tensors.gradients import enable_grad, inference_mode, is_grad_enabled, no_grad, set_grad_enabled

__all__ = [
    "Function",
    "FunctionCtx",
    "backward",
    "check_grads",
    "detect_anomaly",
    "enable_grad",
    "grad",
    "gradcheck",
    "gradgradcheck",
    "inference_mode",
    "is_grad_enabled",
    "no_grad",
    "once_differentiable",
    "set_detect_anomaly",
    "set_grad_enabled",
]
