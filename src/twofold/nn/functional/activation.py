"""Activations: element-wise functions, gates and softmax."""

from __future__ import annotations

import math
import warnings
from typing import Any

from ...autodiff.bind import no_record
from ...autodiff.composite import composite
from ...autodiff.handle import Tensor
from ...ir.dtypes import float16
from ...ir.errors import ShapeError, TwofoldError, TwofoldWarning
from ...ir.types import canonical_dim
from ...primitives import elementwise as E
from ...primitives import index as I
from ...primitives import movement as M
from ...primitives import reduce as R
from ...tensors._registry import assign
from ...tensors.random import rand
from ...tensors.statistics import log_softmax as _log_softmax
from ...tensors.statistics import softmax as _softmax
from ._common import check_floating, in_float32


def _result(input: Tensor, out: Tensor, inplace: bool) -> Tensor:
    return assign(input, out) if inplace else out


@composite
def relu(input: Tensor, inplace: bool = False) -> Tensor:
    """max(x, 0), element-wise; the derivative at 0 is 0.

    >>> import twofold as tw
    >>> tw.nn.functional.relu(tw.tensor([-1.0, 2.0]))
    tensor([0., 2.])
    """
    return _result(input, E.relu(input), inplace)


def relu_(input: Tensor) -> Tensor:
    """In-place `relu`."""
    return relu(input, inplace=True)


@composite
def sigmoid(input: Tensor) -> Tensor:
    """1 / (1 + exp(-x)), element-wise.

    >>> import twofold as tw
    >>> tw.nn.functional.sigmoid(tw.tensor([0.0]))
    tensor([0.5000])
    """
    return input.sigmoid()


@composite
def tanh(input: Tensor) -> Tensor:
    """Hyperbolic tangent, element-wise.

    >>> import twofold as tw
    >>> tw.nn.functional.tanh(tw.tensor([0.0]))
    tensor([0.])
    """
    return input.tanh()


@composite(fused=True, gathers=True)
def hardtanh(input: Tensor, min_val: float = -1.0, max_val: float = 1.0, inplace: bool = False) -> Tensor:
    """x cut to [min_val, max_val]; the derivative is 0 at and outside the ends.

    >>> import twofold as tw
    >>> tw.nn.functional.hardtanh(tw.tensor([-2.0, 0.5, 3.0]))
    tensor([-1.0000,  0.5000,  1.0000])
    """
    if min_val > max_val:
        raise TwofoldError(f"min_val {min_val} is larger than max_val {max_val}", op="hardtanh")
    low = E.where(E.le(input, min_val), min_val, input)
    return _result(input, E.where(E.ge(input, max_val), max_val, low), inplace)


def hardtanh_(input: Tensor, min_val: float = -1.0, max_val: float = 1.0) -> Tensor:
    """In-place `hardtanh`."""
    return hardtanh(input, min_val, max_val, inplace=True)


@composite(fused=True, gathers=True)
def relu6(input: Tensor, inplace: bool = False) -> Tensor:
    """min(max(x, 0), 6), element-wise.

    >>> import twofold as tw
    >>> tw.nn.functional.relu6(tw.tensor([-1.0, 7.0]))
    tensor([0., 6.])
    """
    return hardtanh(input, 0.0, 6.0, inplace)


@composite(fused=True, gathers=True)
def leaky_relu(input: Tensor, negative_slope: float = 0.01, inplace: bool = False) -> Tensor:
    """x where positive, else negative_slope * x.

    >>> import twofold as tw
    >>> tw.nn.functional.leaky_relu(tw.tensor([-1.0, 2.0]), 0.1)
    tensor([-0.1000,  2.0000])
    """
    return _result(input, E.where(E.gt(input, 0.0), input, input * negative_slope), inplace)


def leaky_relu_(input: Tensor, negative_slope: float = 0.01) -> Tensor:
    """In-place `leaky_relu`."""
    return leaky_relu(input, negative_slope, inplace=True)


@composite
def prelu(input: Tensor, weight: Tensor) -> Tensor:
    """x where positive, else weight * x, with one weight or one per channel (dim 1).

    Raises: ShapeError when the number of weights is neither 1 nor the number of channels.
    Source: He et al. 2015, "Delving Deep into Rectifiers".

    >>> import twofold as tw
    >>> tw.nn.functional.prelu(tw.tensor([-4.0, 2.0]), tw.tensor([0.25]))
    tensor([-1.,  2.])
    """
    size = math.prod(weight.shape)
    if size != 1:
        found = input.shape[1] if input.ndim > 1 else 1
        if size != found:
            raise ShapeError(
                f"has {size} weights for {found} channels",
                op="prelu",
                hint=f"use PReLU({found}), or PReLU() for one weight for all channels",
            )
        weight = M.reshape(weight, shape=(size, *(1,) * (input.ndim - 2)))
    elif weight.ndim > input.ndim:
        weight = M.reshape(weight, shape=())
    return E.where(E.gt(input, 0.0), input, weight * input)


@composite
def rrelu(
    input: Tensor, lower: float = 1.0 / 8, upper: float = 1.0 / 3, training: bool = False, inplace: bool = False
) -> Tensor:
    """Leaky ReLU whose slope is drawn from [lower, upper] for each element while training.

    Numerics: in evaluation the slope is the mean of the two.
    Source: Xu et al. 2015, "Empirical Evaluation of Rectified Activations".

    >>> import twofold as tw
    >>> tw.nn.functional.rrelu(tw.tensor([-2.0, 2.0]), 0.2, 0.3)
    tensor([-0.5000,  2.0000])
    """
    if lower > upper:
        raise TwofoldError(f"lower {lower} is larger than upper {upper}", op="rrelu")
    if not training:
        return leaky_relu(input, (lower + upper) / 2, inplace)
    slope = rand(input.shape, dtype=input.dtype) * (upper - lower) + lower
    return _result(input, E.where(E.gt(input, 0.0), input, input * slope), inplace)


def rrelu_(input: Tensor, lower: float = 1.0 / 8, upper: float = 1.0 / 3, training: bool = False) -> Tensor:
    """In-place `rrelu`."""
    return rrelu(input, lower, upper, training, inplace=True)


def _elu(input: Tensor, alpha: float, scale: float, input_scale: float) -> Tensor:
    positive = E.gt(input, 0.0)
    # expm1 of large x would be inf, and its gradient 0 * inf, so that branch sees 0 there.
    negative = E.expm1(E.where(positive, 0.0, input) * input_scale) * (alpha * scale)
    return E.where(positive, input * scale if scale != 1.0 else input, negative)


@composite(fused=True, gathers=True)
def elu(input: Tensor, alpha: float = 1.0, inplace: bool = False) -> Tensor:
    """x where positive, else alpha * (exp(x) - 1).

    Source: Clevert et al. 2015, "Fast and Accurate Deep Network Learning by ELUs".

    >>> import twofold as tw
    >>> tw.nn.functional.elu(tw.tensor([0.0, 2.0]))
    tensor([0., 2.])
    """
    return _result(input, _elu(input, alpha, 1.0, 1.0), inplace)


def elu_(input: Tensor, alpha: float = 1.0) -> Tensor:
    """In-place `elu`."""
    return elu(input, alpha, inplace=True)


@composite(fused=True, gathers=True)
def selu(input: Tensor, inplace: bool = False) -> Tensor:
    """ELU with the scales that keep mean 0 and variance 1.

    Source: Klambauer et al. 2017, "Self-Normalizing Neural Networks".

    >>> import twofold as tw
    >>> tw.nn.functional.selu(tw.tensor([0.0, 1.0]))
    tensor([0.0000, 1.0507])
    """
    return _result(input, _elu(input, 1.6732632423543772, 1.0507009873554805, 1.0), inplace)


def selu_(input: Tensor) -> Tensor:
    """In-place `selu`."""
    return selu(input, inplace=True)


@composite(fused=True, gathers=True)
def celu(input: Tensor, alpha: float = 1.0, inplace: bool = False) -> Tensor:
    """max(0, x) + min(0, alpha * (exp(x / alpha) - 1)).

    Source: Barron 2017, "Continuously Differentiable Exponential Linear Units".

    >>> import twofold as tw
    >>> tw.nn.functional.celu(tw.tensor([0.0, 3.0]))
    tensor([0., 3.])
    """
    if alpha == 0:
        raise ZeroDivisionError("alpha cannot be 0 for CELU")
    return _result(input, _elu(input, alpha, 1.0, 1.0 / alpha), inplace)


def celu_(input: Tensor, alpha: float = 1.0) -> Tensor:
    """In-place `celu`."""
    return celu(input, alpha, inplace=True)


@composite(fused=True, gathers=True)
@in_float32
def gelu(input: Tensor, approximate: str = "none") -> Tensor:
    """x times the normal distribution's probability of less than x; "tanh" approximates it.

    Source: Hendrycks and Gimpel 2016, "Gaussian Error Linear Units", eq. 1 and 2.

    >>> import twofold as tw
    >>> tw.nn.functional.gelu(tw.tensor([0.0, 1.0]))
    tensor([0.0000, 0.8413])
    """
    check_floating(input, "gelu")
    if approximate == "none":
        return input * (E.erf(input * math.sqrt(0.5)) + 1.0) * 0.5
    if approximate == "tanh":
        inner = (input + input * input * input * 0.044715) * math.sqrt(2.0 / math.pi)
        return input * (E.tanh(inner) + 1.0) * 0.5
    raise TwofoldError(f"approximate={approximate!r} is unknown", op="gelu", hint="use 'none' or 'tanh'")


@composite(fused=True, gathers=True)
def silu(input: Tensor, inplace: bool = False) -> Tensor:
    """x * sigmoid(x), also called swish.

    >>> import twofold as tw
    >>> tw.nn.functional.silu(tw.tensor([0.0, 1.0]))
    tensor([0.0000, 0.7311])
    """
    return _result(input, input * E.sigmoid(input), inplace)


@composite(fused=True, gathers=True)
def mish(input: Tensor, inplace: bool = False) -> Tensor:
    """x * tanh(softplus(x)).

    Source: Misra 2019, "Mish: A Self Regularized Non-Monotonic Activation Function".

    >>> import twofold as tw
    >>> tw.nn.functional.mish(tw.tensor([0.0, 1.0]))
    tensor([0.0000, 0.8651])
    """
    return _result(input, input * E.tanh(stable_softplus(input)), inplace)


@composite(fused=True, gathers=True)
def hardswish(input: Tensor, inplace: bool = False) -> Tensor:
    """x * relu6(x + 3) / 6.

    Source: Howard et al. 2019, "Searching for MobileNetV3".

    >>> import twofold as tw
    >>> tw.nn.functional.hardswish(tw.tensor([-3.0, 0.0, 3.0]))
    tensor([-0., 0., 3.])
    """
    middle = input * (input + 3.0) * (1.0 / 6.0)
    upper = E.where(E.ge(input, 3.0), input, middle)
    return _result(input, E.where(E.lt(input, -3.0), 0.0, upper), inplace)


@composite(fused=True, gathers=True)
def hardsigmoid(input: Tensor, inplace: bool = False) -> Tensor:
    """x / 6 + 1/2, cut to [0, 1].

    >>> import twofold as tw
    >>> tw.nn.functional.hardsigmoid(tw.tensor([-4.0, 0.0, 4.0]))
    tensor([0.0000, 0.5000, 1.0000])
    """
    upper = E.where(E.ge(input, 3.0), 1.0, input * (1.0 / 6.0) + 0.5)
    return _result(input, E.where(E.le(input, -3.0), 0.0, upper), inplace)


@composite
def hardshrink(input: Tensor, lambd: float = 0.5) -> Tensor:
    """x, but 0 within [-lambd, lambd].

    >>> import twofold as tw
    >>> tw.nn.functional.hardshrink(tw.tensor([-1.0, 0.2, 1.0]))
    tensor([-1.,  0.,  1.])
    """
    inside = E.logical_not(E.bitwise_or(E.lt(input, -lambd), E.gt(input, lambd)))
    return E.where(inside, 0.0, input)


@composite
def softshrink(input: Tensor, lambd: float = 0.5) -> Tensor:
    """x moved towards 0 by lambd, and 0 within [-lambd, lambd].

    >>> import twofold as tw
    >>> tw.nn.functional.softshrink(tw.tensor([-1.0, 0.2, 1.0]))
    tensor([-0.5000,  0.0000,  0.5000])
    """
    if lambd < 0:
        raise TwofoldError(f"lambd must not be negative, got {lambd}", op="softshrink")
    lower = E.where(E.lt(input, -lambd), input + lambd, 0.0)
    return E.where(E.gt(input, lambd), input - lambd, lower)


@composite
def tanhshrink(input: Tensor) -> Tensor:
    """x - tanh(x).

    >>> import twofold as tw
    >>> tw.nn.functional.tanhshrink(tw.tensor([0.0, 1.0]))
    tensor([0.0000, 0.2384])
    """
    return input - E.tanh(input)


@composite(fused=True, gathers=True)
def softsign(input: Tensor) -> Tensor:
    """x / (1 + |x|).

    >>> import twofold as tw
    >>> tw.nn.functional.softsign(tw.tensor([1.0, -3.0]))
    tensor([ 0.5000, -0.7500])
    """
    return input / (E.abs(input) + 1.0)


def stable_softplus(x: Tensor) -> Tensor:
    """log(1 + exp(x)) to full precision, smooth everywhere, without overflow."""
    limit = 10.0 if x.dtype is float16 else 50.0  # beyond it, x is the result to the last bit
    large = E.gt(x, limit)
    return E.where(large, x, E.log1p(E.exp(E.where(large, 0.0, x))))


@composite(fused=True, gathers=True)
@in_float32
def softplus(input: Tensor, beta: float = 1.0, threshold: float = 20.0) -> Tensor:
    """log(1 + exp(beta * x)) / beta, and x itself where beta * x > threshold.

    >>> import twofold as tw
    >>> tw.nn.functional.softplus(tw.tensor([0.0, 30.0]))
    tensor([ 0.6931, 30.0000])
    """
    large = E.gt(input * beta, threshold)
    return E.where(large, input, E.log1p(E.exp(E.where(large, 0.0, input) * beta)) * (1.0 / beta))


@composite
@in_float32
def logsigmoid(input: Tensor) -> Tensor:
    """log(sigmoid(x)), without overflow.

    >>> import twofold as tw
    >>> tw.nn.functional.logsigmoid(tw.tensor([0.0, -200.0]))
    tensor([  -0.6931, -200.0000])
    """
    return -stable_softplus(-input)


@composite
def threshold(input: Tensor, threshold: float, value: float, inplace: bool = False) -> Tensor:
    """x where x > threshold, else `value`.

    >>> import twofold as tw
    >>> tw.nn.functional.threshold(tw.tensor([0.5, 2.0]), 1.0, -1.0)
    tensor([-1.,  2.])
    """
    return _result(input, E.where(E.gt(input, threshold), input, value), inplace)


def threshold_(input: Tensor, threshold_: float, value: float) -> Tensor:
    """In-place `threshold`."""
    return threshold(input, threshold_, value, inplace=True)


@composite
def glu(input: Tensor, dim: int = -1) -> Tensor:
    """a * sigmoid(b), where a and b are the halves of x along `dim`.

    Raises: ShapeError when the size along `dim` is odd.
    Source: Dauphin et al. 2016, "Language Modeling with Gated Convolutional Networks".

    >>> import twofold as tw
    >>> tw.nn.functional.glu(tw.tensor([2.0, 0.0]))
    tensor([1.])
    """
    if input.ndim == 0:
        raise ShapeError("needs at least one dimension, got a 0-d tensor", op="glu")
    dim = canonical_dim(dim, input.ndim, op="glu")
    size = input.shape[dim]
    if size % 2:
        raise ShapeError(f"the size along dim {dim} must be even, got {size}", op="glu")
    start = [0] * input.ndim
    stop = list(input.shape)
    stop[dim] = start_b = size // 2
    ones = (1,) * input.ndim
    a = M.slice(input, start=tuple(start), stop=tuple(stop), step=ones)
    start[dim], stop[dim] = start_b, size
    return a * E.sigmoid(M.slice(input, start=tuple(start), stop=tuple(stop), step=ones))


def _softmax_dim(dim: int | None, ndim: int, op: str) -> int:
    if dim is None:
        guess = 0 if ndim in (0, 1, 3) else 1
        warnings.warn(
            f"Implicit dimension choice for {op}: pass dim, or dim={guess} is taken for a {ndim}-d input",
            TwofoldWarning,
            stacklevel=3,
        )
        dim = guess
    return canonical_dim(dim, ndim, op=op)


def softmax(input: Tensor, dim: int | None = None, _stacklevel: int = 3, dtype: Any = None) -> Tensor:
    """Exponentials of x, scaled to sum to one along `dim`.

    Shapes: x (..., n, ...) floating -> the same shape.
    Raises: OutOfBoundsError when `dim` is outside x's rank; DTypeError when x is not floating.
    Numerics: subtracts max(x) first, so finite x cannot overflow; a row of -inf gives nan.
    Source: Bridle 1990, "Probabilistic interpretation of feedforward classification network outputs".

    >>> import twofold as tw
    >>> tw.nn.functional.softmax(tw.tensor([0.0, 0.0]), dim=-1)
    tensor([0.5000, 0.5000])
    """
    return _softmax(input, _softmax_dim(dim, input.ndim, "softmax"), dtype)


def softmin(input: Tensor, dim: int | None = None, _stacklevel: int = 3, dtype: Any = None) -> Tensor:
    """softmax(-x).

    >>> import twofold as tw
    >>> tw.nn.functional.softmin(tw.tensor([0.0, 0.0]), dim=0)
    tensor([0.5000, 0.5000])
    """
    return _softmax(-input, _softmax_dim(dim, input.ndim, "softmin"), dtype)


def log_softmax(input: Tensor, dim: int | None = None, _stacklevel: int = 3, dtype: Any = None) -> Tensor:
    """log(softmax(x)), computed without the overflow and cancellation of doing one after the other.

    >>> import twofold as tw
    >>> tw.nn.functional.log_softmax(tw.tensor([0.0, 0.0]), dim=0)
    tensor([-0.6931, -0.6931])
    """
    return _log_softmax(input, _softmax_dim(dim, input.ndim, "log_softmax"), dtype)


@composite
def gumbel_softmax(logits: Tensor, tau: float = 1, hard: bool = False, eps: float = 1e-10, dim: int = -1) -> Tensor:
    """A sample from the Gumbel-softmax distribution; `hard` makes it one-hot, with the soft gradient.

    Source: Jang et al. 2016, "Categorical Reparameterization with Gumbel-Softmax".

    >>> import twofold as tw
    >>> tw.nn.functional.gumbel_softmax(tw.zeros(2, 3), hard=True).sum().item()
    2.0
    """
    check_floating(logits, "gumbel_softmax")
    dim = canonical_dim(dim, logits.ndim, op="gumbel_softmax")
    u = rand(logits.shape, dtype=logits.dtype)
    gumbels = -E.log(-E.log(E.maximum(u, 2.0**-25)))
    soft = _softmax((logits + gumbels) * (1.0 / tau), dim)
    if not hard:
        return soft
    with no_record():
        where = R.argmax(soft, dim=dim, keepdim=True)
        zeros = M.full(shape=logits.shape, value=0, dtype=logits.dtype)
        one_hot = I.scatter(zeros, where, M.full(shape=where.shape, value=1, dtype=logits.dtype), dim=dim)
        difference = one_hot - soft
    return soft + difference
