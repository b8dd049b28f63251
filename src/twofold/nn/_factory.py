"""Making the parameters and buffers of layers."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from ..autodiff.handle import Tensor
from ..ir.dtypes import as_dtype, get_default_dtype
from ..primitives import movement as M
from ..tensors.device import check_device
from .parameter import Parameter


def filled(shape: Sequence[int], value: float, dtype: Any = None, device: Any = None) -> Tensor:
    """A tensor full of `value`, of the default dtype unless another is given."""
    check_device(device)
    kind = get_default_dtype() if dtype is None else as_dtype(dtype)
    return M.full(shape=tuple(shape), value=value, dtype=kind)


def empty_parameter(shape: Sequence[int], dtype: Any = None, device: Any = None) -> Parameter:
    """A parameter that is to be initialised; zeros until then."""
    return Parameter(filled(shape, 0, dtype, device))
