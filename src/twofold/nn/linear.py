"""Linear layers."""

from __future__ import annotations

import math
from typing import Any

from ..autodiff.handle import Tensor
from ..ir.errors import DTypeError, ShapeError
from . import functional as F
from ._factory import empty_parameter
from .functional._common import tensor_hint
from .init import kaiming_uniform_, uniform_
from .module import Module


def check_dtype(layer: str, input: Any, weight: Tensor) -> None:
    """Raises: DTypeError unless the input is a tensor of the weight's dtype."""
    if not isinstance(input, Tensor):
        raise DTypeError(f"expects a tensor, got {type(input).__name__}", op=layer, hint=tensor_hint(input))
    have, want = input.dtype, weight.dtype
    if have is not want:
        hint = f"convert the input with .to(twofold.{want.name})"
        if have.is_floating_point:
            hint += f", or the layer with .to(twofold.{have.name})"
        raise DTypeError(f"expects {want.name} input like its weight, got {have.name}", op=layer, hint=hint)


class Identity(Module):
    """Gives its input back; arguments of the constructor are ignored.

    >>> import twofold as tw
    >>> tw.nn.Identity(54)(tw.ones(2))
    tensor([1., 1.])
    """

    def __init__(self, *args: Any, **kwargs: Any):
        super().__init__()

    def forward(self, input: Tensor) -> Tensor:
        return input


class Linear(Module):
    """x @ weight.T + bias.

    Shapes: (..., in_features) -> (..., out_features).
    Raises: ShapeError when the input's last dimension is not in_features.
    Numerics: weight and bias begin evenly drawn from [-b, b], b = 1 / sqrt(in_features).

    >>> import twofold as tw
    >>> tw.nn.Linear(20, 30)(tw.zeros(128, 20)).shape
    (128, 30)
    """

    def __init__(
        self, in_features: int, out_features: int, bias: bool = True, device: Any = None, dtype: Any = None
    ):
        super().__init__()
        self.in_features = in_features
        self.out_features = out_features
        self.weight = empty_parameter((out_features, in_features), dtype, device)
        if bias:
            self.bias = empty_parameter((out_features,), dtype, device)
        else:
            self.register_parameter("bias", None)
        self.reset_parameters()

    def reset_parameters(self) -> None:
        """Draw weight and bias anew."""
        if self.in_features == 0:
            return
        kaiming_uniform_(self.weight, a=math.sqrt(5))
        if self.bias is not None:
            bound = 1 / math.sqrt(self.in_features)
            uniform_(self.bias, -bound, bound)

    def forward(self, input: Tensor) -> Tensor:
        weight = self._parameters["weight"]
        check_dtype("Linear", input, weight)  # type: ignore[arg-type]
        shape = input.shape
        if not shape or shape[-1] != self.in_features:
            self._complain(shape)
        return F.linear(input, weight, self._parameters["bias"])  # type: ignore[arg-type]

    def _complain(self, shape: tuple[int, ...]) -> None:
        got = shape[-1] if shape else 0
        hint = f"use Linear({got}, {self.out_features})"
        if math.prod(shape[1:]) == self.in_features:
            hint = "flatten the input first: x.flatten(1), or a Flatten() layer before this one"
        elif not shape:
            hint = "give the input a dimension of features: x.reshape(-1, in_features)"
        raise ShapeError(
            f"expects {self.in_features} input features, got {got}: the input has shape {tuple(shape)}",
            op="Linear",
            hint=hint,
        )

    def extra_repr(self) -> str:
        return f"in_features={self.in_features}, out_features={self.out_features}, bias={self.bias is not None}"


class Bilinear(Module):
    """x1 @ weight[k] @ x2 + bias[k] for every output feature k.

    Shapes: (..., in1_features) and (..., in2_features) -> (..., out_features).

    >>> import twofold as tw
    >>> tw.nn.Bilinear(2, 3, 4)(tw.zeros(5, 2), tw.zeros(5, 3)).shape
    (5, 4)
    """

    def __init__(
        self,
        in1_features: int,
        in2_features: int,
        out_features: int,
        bias: bool = True,
        device: Any = None,
        dtype: Any = None,
    ):
        super().__init__()
        if in1_features <= 0:
            raise ValueError(f"in1_features must be > 0, but got {in1_features}")
        self.in1_features, self.in2_features, self.out_features = in1_features, in2_features, out_features
        self.weight = empty_parameter((out_features, in1_features, in2_features), dtype, device)
        if bias:
            self.bias = empty_parameter((out_features,), dtype, device)
        else:
            self.register_parameter("bias", None)
        self.reset_parameters()

    def reset_parameters(self) -> None:
        """Draw weight and bias anew."""
        bound = 1 / math.sqrt(self.in1_features)
        uniform_(self.weight, -bound, bound)
        if self.bias is not None:
            uniform_(self.bias, -bound, bound)

    def forward(self, input1: Tensor, input2: Tensor) -> Tensor:
        check_dtype("Bilinear", input1, self.weight)
        check_dtype("Bilinear", input2, self.weight)
        return F.bilinear(input1, input2, self.weight, self.bias)

    def extra_repr(self) -> str:
        return (
            f"in1_features={self.in1_features}, in2_features={self.in2_features}, "
            f"out_features={self.out_features}, bias={self.bias is not None}"
        )
