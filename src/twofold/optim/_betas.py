"""What the Adam family computes from its two decay rates, in full precision; see Note [Tensor twins]."""

from __future__ import annotations

import math
from typing import Any

from ..autodiff.handle import Tensor
from ..ir.dtypes import DType
from ..primitives.elementwise import expm1
from ._group import ParamGroup


def beta1(betas: Any) -> float:
    return float(betas[0])


def beta2(betas: Any) -> float:
    return float(betas[1])


def rest1(betas: Any) -> float:
    return 1 - float(betas[0])


def rest2(betas: Any) -> float:
    return 1 - float(betas[1])


def log1(betas: Any) -> float:
    return math.log(betas[0]) if betas[0] > 0 else -math.inf


def log2(betas: Any) -> float:
    return math.log(betas[1]) if betas[1] > 0 else -math.inf


def bias_correction(step: Tensor, group: ParamGroup, log: Any, dtype: DType) -> Tensor:
    """1 - beta^step, without the cancellation that float32 would suffer for beta close to 1."""
    return -expm1(step * group.twin("betas", dtype, log))


def averaged(average: Tensor, new: Tensor, rest: Tensor) -> Tensor:
    """The moving average `beta * average + (1 - beta) * new`, given 1 - beta."""
    return average + (new - average) * rest
