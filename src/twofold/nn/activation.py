"""Activation layers."""

from __future__ import annotations

from typing import Any

from ..autodiff.handle import Tensor
from ..ir.errors import ShapeError
from . import functional as F
from ._factory import empty_parameter
from .init import constant_
from .module import Module


def _in_place(inplace: bool, before: str = "") -> str:
    """The end of a repr: `inplace=True` is shown, False is not."""
    if not inplace:
        return before
    return f"{before}, inplace=True" if before else "inplace=True"


class Threshold(Module):
    """x where x > threshold, else `value`.

    >>> import twofold as tw
    >>> tw.nn.Threshold(0.1, 20.0)(tw.tensor([0.0, 1.0]))
    tensor([20.,  1.])
    """

    def __init__(self, threshold: float, value: float, inplace: bool = False):
        super().__init__()
        self.threshold, self.value, self.inplace = threshold, value, inplace

    def forward(self, input: Tensor) -> Tensor:
        return F.threshold(input, self.threshold, self.value, self.inplace)

    def extra_repr(self) -> str:
        return _in_place(self.inplace, f"threshold={self.threshold}, value={self.value}")


class ReLU(Module):
    """max(x, 0).

    >>> import twofold as tw
    >>> tw.nn.ReLU()(tw.tensor([-1.0, 2.0]))
    tensor([0., 2.])
    """

    def __init__(self, inplace: bool = False):
        super().__init__()
        self.inplace = inplace

    def forward(self, input: Tensor) -> Tensor:
        return F.relu(input, self.inplace)

    def extra_repr(self) -> str:
        return _in_place(self.inplace)


class RReLU(Module):
    """Leaky ReLU whose slope is random while training; see `functional.rrelu`.

    >>> import twofold as tw
    >>> tw.nn.RReLU(0.1, 0.3).eval()(tw.tensor([-1.0, 2.0]))
    tensor([-0.2000,  2.0000])
    """

    def __init__(self, lower: float = 1.0 / 8, upper: float = 1.0 / 3, inplace: bool = False):
        super().__init__()
        self.lower, self.upper, self.inplace = lower, upper, inplace

    def forward(self, input: Tensor) -> Tensor:
        return F.rrelu(input, self.lower, self.upper, self.training, self.inplace)

    def extra_repr(self) -> str:
        return _in_place(self.inplace, f"lower={self.lower}, upper={self.upper}")


class Hardtanh(Module):
    """x cut to [min_val, max_val].

    >>> import twofold as tw
    >>> tw.nn.Hardtanh()(tw.tensor([-2.0, 2.0]))
    tensor([-1.,  1.])
    """

    def __init__(self, min_val: float = -1.0, max_val: float = 1.0, inplace: bool = False):
        super().__init__()
        if max_val <= min_val:
            raise ValueError(f"max_val {max_val} must be larger than min_val {min_val}")
        self.min_val, self.max_val, self.inplace = min_val, max_val, inplace

    def forward(self, input: Tensor) -> Tensor:
        return F.hardtanh(input, self.min_val, self.max_val, self.inplace)

    def extra_repr(self) -> str:
        return _in_place(self.inplace, f"min_val={self.min_val}, max_val={self.max_val}")


class ReLU6(Hardtanh):
    """min(max(x, 0), 6).

    >>> import twofold as tw
    >>> tw.nn.ReLU6()(tw.tensor([-2.0, 8.0]))
    tensor([0., 6.])
    """

    def __init__(self, inplace: bool = False):
        super().__init__(0.0, 6.0, inplace)

    def extra_repr(self) -> str:
        return _in_place(self.inplace)


class Sigmoid(Module):
    """1 / (1 + exp(-x)).

    >>> import twofold as tw
    >>> tw.nn.Sigmoid()(tw.tensor([0.0]))
    tensor([0.5000])
    """

    def forward(self, input: Tensor) -> Tensor:
        return F.sigmoid(input)


class Tanh(Module):
    """Hyperbolic tangent.

    >>> import twofold as tw
    >>> tw.nn.Tanh()(tw.tensor([0.0]))
    tensor([0.])
    """

    def forward(self, input: Tensor) -> Tensor:
        return F.tanh(input)


class Hardsigmoid(Module):
    """x / 6 + 1/2, cut to [0, 1].

    >>> import twofold as tw
    >>> tw.nn.Hardsigmoid()(tw.tensor([-4.0, 4.0]))
    tensor([0., 1.])
    """

    def __init__(self, inplace: bool = False):
        super().__init__()
        self.inplace = inplace

    def forward(self, input: Tensor) -> Tensor:
        return F.hardsigmoid(input, self.inplace)


class SiLU(Module):
    """x * sigmoid(x).

    >>> import twofold as tw
    >>> tw.nn.SiLU()(tw.tensor([0.0]))
    tensor([0.])
    """

    def __init__(self, inplace: bool = False):
        super().__init__()
        self.inplace = inplace

    def forward(self, input: Tensor) -> Tensor:
        return F.silu(input, self.inplace)

    def extra_repr(self) -> str:
        return _in_place(self.inplace)


class Mish(Module):
    """x * tanh(softplus(x)).

    >>> import twofold as tw
    >>> tw.nn.Mish()(tw.tensor([0.0]))
    tensor([0.])
    """

    def __init__(self, inplace: bool = False):
        super().__init__()
        self.inplace = inplace

    def forward(self, input: Tensor) -> Tensor:
        return F.mish(input, self.inplace)

    def extra_repr(self) -> str:
        return _in_place(self.inplace)


class Hardswish(Module):
    """x * relu6(x + 3) / 6.

    >>> import twofold as tw
    >>> tw.nn.Hardswish()(tw.tensor([3.0]))
    tensor([3.])
    """

    def __init__(self, inplace: bool = False):
        super().__init__()
        self.inplace = inplace

    def forward(self, input: Tensor) -> Tensor:
        return F.hardswish(input, self.inplace)


class ELU(Module):
    """x where positive, else alpha * (exp(x) - 1).

    >>> import twofold as tw
    >>> tw.nn.ELU()(tw.tensor([0.0, 2.0]))
    tensor([0., 2.])
    """

    def __init__(self, alpha: float = 1.0, inplace: bool = False):
        super().__init__()
        self.alpha, self.inplace = alpha, inplace

    def forward(self, input: Tensor) -> Tensor:
        return F.elu(input, self.alpha, self.inplace)

    def extra_repr(self) -> str:
        return _in_place(self.inplace, f"alpha={self.alpha}")


class CELU(Module):
    """max(0, x) + min(0, alpha * (exp(x / alpha) - 1)).

    >>> import twofold as tw
    >>> tw.nn.CELU()(tw.tensor([0.0, 2.0]))
    tensor([0., 2.])
    """

    def __init__(self, alpha: float = 1.0, inplace: bool = False):
        super().__init__()
        self.alpha, self.inplace = alpha, inplace

    def forward(self, input: Tensor) -> Tensor:
        return F.celu(input, self.alpha, self.inplace)

    def extra_repr(self) -> str:
        return _in_place(self.inplace, f"alpha={self.alpha}")


class SELU(Module):
    """ELU with the scales that keep mean 0 and variance 1.

    >>> import twofold as tw
    >>> tw.nn.SELU()(tw.tensor([1.0]))
    tensor([1.0507])
    """

    def __init__(self, inplace: bool = False):
        super().__init__()
        self.inplace = inplace

    def forward(self, input: Tensor) -> Tensor:
        return F.selu(input, self.inplace)

    def extra_repr(self) -> str:
        return _in_place(self.inplace)


class GLU(Module):
    """a * sigmoid(b), where a and b are the halves of x along `dim`.

    >>> import twofold as tw
    >>> tw.nn.GLU()(tw.tensor([2.0, 0.0]))
    tensor([1.])
    """

    def __init__(self, dim: int = -1):
        super().__init__()
        self.dim = dim

    def forward(self, input: Tensor) -> Tensor:
        return F.glu(input, self.dim)

    def extra_repr(self) -> str:
        return f"dim={self.dim}"


class GELU(Module):
    """x times the normal distribution's probability of less than x; see `functional.gelu`.

    >>> import twofold as tw
    >>> tw.nn.GELU()(tw.tensor([0.0]))
    tensor([0.])
    """

    def __init__(self, approximate: str = "none"):
        super().__init__()
        self.approximate = approximate

    def forward(self, input: Tensor) -> Tensor:
        return F.gelu(input, self.approximate)

    def extra_repr(self) -> str:
        return f"approximate={self.approximate!r}"


class Hardshrink(Module):
    """x, but 0 within [-lambd, lambd].

    >>> import twofold as tw
    >>> tw.nn.Hardshrink()(tw.tensor([0.2, 1.0]))
    tensor([0., 1.])
    """

    def __init__(self, lambd: float = 0.5):
        super().__init__()
        self.lambd = lambd

    def forward(self, input: Tensor) -> Tensor:
        return F.hardshrink(input, self.lambd)

    def extra_repr(self) -> str:
        return f"{self.lambd}"


class LeakyReLU(Module):
    """x where positive, else negative_slope * x.

    >>> import twofold as tw
    >>> tw.nn.LeakyReLU(0.1)(tw.tensor([-1.0, 2.0]))
    tensor([-0.1000,  2.0000])
    """

    def __init__(self, negative_slope: float = 1e-2, inplace: bool = False):
        super().__init__()
        self.negative_slope, self.inplace = negative_slope, inplace

    def forward(self, input: Tensor) -> Tensor:
        return F.leaky_relu(input, self.negative_slope, self.inplace)

    def extra_repr(self) -> str:
        return _in_place(self.inplace, f"negative_slope={self.negative_slope}")


class LogSigmoid(Module):
    """log(sigmoid(x)).

    >>> import twofold as tw
    >>> tw.nn.LogSigmoid()(tw.tensor([0.0]))
    tensor([-0.6931])
    """

    def forward(self, input: Tensor) -> Tensor:
        return F.logsigmoid(input)


class Softplus(Module):
    """log(1 + exp(beta * x)) / beta, and x itself where beta * x > threshold.

    >>> import twofold as tw
    >>> tw.nn.Softplus()(tw.tensor([0.0]))
    tensor([0.6931])
    """

    def __init__(self, beta: float = 1.0, threshold: float = 20.0):
        super().__init__()
        self.beta, self.threshold = beta, threshold

    def forward(self, input: Tensor) -> Tensor:
        return F.softplus(input, self.beta, self.threshold)

    def extra_repr(self) -> str:
        return f"beta={self.beta}, threshold={self.threshold}"


class Softshrink(Module):
    """x moved towards 0 by lambd, and 0 within [-lambd, lambd].

    >>> import twofold as tw
    >>> tw.nn.Softshrink()(tw.tensor([0.2, 1.0]))
    tensor([0.0000, 0.5000])
    """

    def __init__(self, lambd: float = 0.5):
        super().__init__()
        self.lambd = lambd

    def forward(self, input: Tensor) -> Tensor:
        return F.softshrink(input, self.lambd)

    def extra_repr(self) -> str:
        return str(self.lambd)


class PReLU(Module):
    """x where positive, else a learned slope times x: one slope, or one per channel.

    >>> import twofold as tw
    >>> tw.nn.PReLU()(tw.tensor([-4.0, 2.0])).tolist()
    [-1.0, 2.0]
    """

    def __init__(self, num_parameters: int = 1, init: float = 0.25, device: Any = None, dtype: Any = None):
        super().__init__()
        self.num_parameters = num_parameters
        self.init = init
        self.weight = empty_parameter((num_parameters,), dtype, device)
        self.reset_parameters()

    def reset_parameters(self) -> None:
        """Set all slopes to `init`."""
        constant_(self.weight, self.init)

    def forward(self, input: Tensor) -> Tensor:
        return F.prelu(input, self.weight)

    def extra_repr(self) -> str:
        return f"num_parameters={self.num_parameters}"


class Softsign(Module):
    """x / (1 + |x|).

    >>> import twofold as tw
    >>> tw.nn.Softsign()(tw.tensor([1.0]))
    tensor([0.5000])
    """

    def forward(self, input: Tensor) -> Tensor:
        return F.softsign(input)


class Tanhshrink(Module):
    """x - tanh(x).

    >>> import twofold as tw
    >>> tw.nn.Tanhshrink()(tw.tensor([0.0]))
    tensor([0.])
    """

    def forward(self, input: Tensor) -> Tensor:
        return F.tanhshrink(input)


class Softmin(Module):
    """softmax(-x) along `dim`.

    >>> import twofold as tw
    >>> tw.nn.Softmin(dim=0)(tw.zeros(2))
    tensor([0.5000, 0.5000])
    """

    def __init__(self, dim: int | None = None):
        super().__init__()
        self.dim = dim

    def forward(self, input: Tensor) -> Tensor:
        return F.softmin(input, self.dim)

    def extra_repr(self) -> str:
        return f"dim={self.dim}"


class Softmax(Module):
    """Exponentials, scaled to sum to one along `dim`.

    >>> import twofold as tw
    >>> tw.nn.Softmax(dim=0)(tw.zeros(2))
    tensor([0.5000, 0.5000])
    """

    def __init__(self, dim: int | None = None):
        super().__init__()
        self.dim = dim

    def forward(self, input: Tensor) -> Tensor:
        return F.softmax(input, self.dim)

    def extra_repr(self) -> str:
        return f"dim={self.dim}"


class Softmax2d(Module):
    """Softmax over the channels of (N, C, H, W) or (C, H, W).

    >>> import twofold as tw
    >>> tw.nn.Softmax2d()(tw.zeros(1, 2, 1, 1)).flatten()
    tensor([0.5000, 0.5000])
    """

    def forward(self, input: Tensor) -> Tensor:
        if input.ndim not in (3, 4):
            raise ShapeError(f"expects an input (N, C, H, W) or (C, H, W), got {input.shape}", op="Softmax2d")
        return F.softmax(input, -3)


class LogSoftmax(Module):
    """log(softmax(x)) along `dim`.

    >>> import twofold as tw
    >>> tw.nn.LogSoftmax(dim=0)(tw.zeros(2))
    tensor([-0.6931, -0.6931])
    """

    def __init__(self, dim: int | None = None):
        super().__init__()
        self.dim = dim

    def forward(self, input: Tensor) -> Tensor:
        return F.log_softmax(input, self.dim)

    def extra_repr(self) -> str:
        return f"dim={self.dim}"
