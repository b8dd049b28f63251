"""Initial values of parameters. Functions with `_` at the end fill the tensor and return it."""

from __future__ import annotations

import math
import warnings
from collections.abc import Callable
from typing import Any

import numpy as np

from ..autodiff.bind import no_record
from ..autodiff.handle import Tensor, mode
from ..ir.dtypes import float64, int64
from ..ir.errors import ShapeError, TraceError, TwofoldError, TwofoldWarning
from ..primitives import elementwise as E
from ..primitives import movement as M
from ..tensors._registry import assign


def _full(like: Tensor, value: float) -> Tensor:
    return M.full(shape=like.shape, value=value, dtype=like.dtype)


def uniform_(tensor: Tensor, a: float = 0.0, b: float = 1.0, generator: Any = None) -> Tensor:
    """Fill with numbers drawn evenly from [a, b).

    >>> import twofold as tw
    >>> bool((tw.nn.init.uniform_(tw.empty(5), 1.0, 2.0) >= 1.0).all())
    True
    """
    with no_record():
        return tensor.uniform_(a, b, generator=generator)


def normal_(tensor: Tensor, mean: float = 0.0, std: float = 1.0, generator: Any = None) -> Tensor:
    """Fill with numbers of a normal distribution.

    >>> import twofold as tw
    >>> tw.nn.init.normal_(tw.empty(2, 3)).shape
    (2, 3)
    """
    with no_record():
        return tensor.normal_(mean, std, generator=generator)


def trunc_normal_(
    tensor: Tensor, mean: float = 0.0, std: float = 1.0, a: float = -2.0, b: float = 2.0, generator: Any = None
) -> Tensor:
    """Fill with numbers of a normal distribution cut to [a, b].

    Numerics: the inverse of the distribution function, at evenly drawn probabilities.

    >>> import twofold as tw
    >>> bool((tw.nn.init.trunc_normal_(tw.empty(9), std=9.0).abs() <= 2.0).all())
    True
    """
    if mean < a - 2 * std or mean > b + 2 * std:
        warnings.warn(
            "mean is more than 2 std from [a, b] in nn.init.trunc_normal_. The distribution of values may be "
            "incorrect.",
            TwofoldWarning,
            stacklevel=2,
        )

    def below(x: float) -> float:
        return (1.0 + math.erf((x - mean) / std / math.sqrt(2.0))) / 2.0

    with no_record():
        tensor.uniform_(2 * below(a) - 1, 2 * below(b) - 1, generator=generator)
        y = E.erfinv(tensor.detach()) * (std * math.sqrt(2.0)) + mean
        return assign(tensor, E.minimum(E.maximum(y, a), b))


def constant_(tensor: Tensor, val: float) -> Tensor:
    """Fill with `val`.

    >>> import twofold as tw
    >>> tw.nn.init.constant_(tw.empty(2), 0.5)
    tensor([0.5000, 0.5000])
    """
    with no_record():
        return tensor.fill_(val)


def ones_(tensor: Tensor) -> Tensor:
    """Fill with ones.

    >>> import twofold as tw
    >>> tw.nn.init.ones_(tw.empty(2))
    tensor([1., 1.])
    """
    return constant_(tensor, 1.0)


def zeros_(tensor: Tensor) -> Tensor:
    """Fill with zeros.

    >>> import twofold as tw
    >>> tw.nn.init.zeros_(tw.empty(2))
    tensor([0., 0.])
    """
    return constant_(tensor, 0.0)


def eye_(tensor: Tensor) -> Tensor:
    """Fill a matrix with the identity.

    >>> import twofold as tw
    >>> tw.nn.init.eye_(tw.empty(2, 2))
    tensor([[1., 0.],
            [0., 1.]])
    """
    if tensor.ndim != 2:
        raise ShapeError(f"Only tensors with 2 dimensions are supported, got {tensor.shape}", op="eye_")
    with no_record():
        row = M.reshape(M.iota(size=tensor.shape[0], dtype=int64), shape=(tensor.shape[0], 1))
        return assign(tensor, E.eq(row, M.iota(size=tensor.shape[1], dtype=int64)))


def dirac_(tensor: Tensor, groups: int = 1) -> Tensor:
    """Fill convolution kernels so that the layer passes its channels on unchanged.

    Shapes: (out, in / groups, *) with 3, 4 or 5 dimensions.

    >>> import twofold as tw
    >>> tw.nn.init.dirac_(tw.empty(1, 1, 3))
    tensor([[[0., 1., 0.]]])
    """
    if tensor.ndim not in (3, 4, 5):
        raise ShapeError(f"Only tensors with 3, 4, or 5 dimensions are supported, got {tensor.shape}", op="dirac_")
    out, inner, *kernel = tensor.shape
    if out % groups:
        raise ShapeError(f"dim 0 must be divisible by groups: {out} and {groups}", op="dirac_")
    per_group = out // groups
    with no_record():
        zeros_(tensor)
        for g in range(groups):
            for d in range(min(per_group, inner)):
                tensor[(g * per_group + d, d, *(k // 2 for k in kernel))] = 1.0
    return tensor


_GAINS: dict[str, float] = {
    "linear": 1.0, "conv1d": 1.0, "conv2d": 1.0, "conv3d": 1.0, "conv_transpose1d": 1.0,
    "conv_transpose2d": 1.0, "conv_transpose3d": 1.0, "sigmoid": 1.0, "tanh": 5.0 / 3, "relu": math.sqrt(2.0),
    "selu": 3.0 / 4,
}  # fmt: skip


def calculate_gain(nonlinearity: str, param: float | None = None) -> float:
    """The factor by which weights before this activation should be larger.

    >>> import twofold as tw
    >>> tw.nn.init.calculate_gain("leaky_relu", 0.2) == (2 / (1 + 0.2**2)) ** 0.5
    True
    """
    if nonlinearity == "leaky_relu":
        slope = 0.01 if param is None else param
        if isinstance(slope, bool) or not isinstance(slope, (int, float)):
            raise ValueError(f"negative_slope {param} not a valid number")
        return math.sqrt(2.0 / (1 + slope**2))
    if nonlinearity not in _GAINS:
        raise ValueError(f"Unsupported nonlinearity {nonlinearity}")
    return _GAINS[nonlinearity]


def _calculate_fan_in_and_fan_out(tensor: Tensor) -> tuple[int, int]:
    """How many values go into an output and how many outputs an input goes to."""
    if tensor.ndim < 2:
        raise ShapeError(
            f"Fan in and fan out can not be computed for tensor with fewer than 2 dimensions, got {tensor.shape}",
            op="init",
        )
    field = math.prod(tensor.shape[2:])
    return tensor.shape[1] * field, tensor.shape[0] * field


def _fan(tensor: Tensor, fan_mode: str) -> int:
    if fan_mode.lower() not in ("fan_in", "fan_out"):
        raise TwofoldError(f"Mode {fan_mode} not supported", op="init", hint="use 'fan_in' or 'fan_out'")
    return _calculate_fan_in_and_fan_out(tensor)[fan_mode.lower() == "fan_out"]


def xavier_uniform_(tensor: Tensor, gain: float = 1.0, generator: Any = None) -> Tensor:
    """Fill evenly from [-a, a] with a = gain * sqrt(6 / (fan_in + fan_out)).

    Source: Glorot and Bengio 2010, "Understanding the difficulty of training deep feedforward neural networks".

    >>> import twofold as tw
    >>> tw.nn.init.xavier_uniform_(tw.empty(3, 5)).shape
    (3, 5)
    """
    bound = gain * math.sqrt(6.0 / sum(_calculate_fan_in_and_fan_out(tensor)))
    return uniform_(tensor, -bound, bound, generator)


def xavier_normal_(tensor: Tensor, gain: float = 1.0, generator: Any = None) -> Tensor:
    """Fill from a normal distribution with std = gain * sqrt(2 / (fan_in + fan_out)).

    >>> import twofold as tw
    >>> tw.nn.init.xavier_normal_(tw.empty(3, 5)).shape
    (3, 5)
    """
    return normal_(tensor, 0.0, gain * math.sqrt(2.0 / sum(_calculate_fan_in_and_fan_out(tensor))), generator)


def _kaiming_std(tensor: Tensor, a: float, fan_mode: str, nonlinearity: str) -> float | None:
    """None for a tensor without elements, which is left as it is."""
    if 0 in tensor.shape:
        warnings.warn("Initializing zero-element tensors is a no-op", stacklevel=3)
        return None
    return calculate_gain(nonlinearity, a) / math.sqrt(_fan(tensor, fan_mode))


def kaiming_uniform_(
    tensor: Tensor, a: float = 0, mode: str = "fan_in", nonlinearity: str = "leaky_relu", generator: Any = None
) -> Tensor:
    """Fill evenly from [-b, b] with b = gain * sqrt(3 / fan).

    Source: He et al. 2015, "Delving Deep into Rectifiers".

    >>> import twofold as tw
    >>> tw.nn.init.kaiming_uniform_(tw.empty(3, 5), nonlinearity="relu").shape
    (3, 5)
    """
    std = _kaiming_std(tensor, a, mode, nonlinearity)
    if std is None:
        return tensor
    bound = math.sqrt(3.0) * std
    return uniform_(tensor, -bound, bound, generator)


def kaiming_normal_(
    tensor: Tensor, a: float = 0, mode: str = "fan_in", nonlinearity: str = "leaky_relu", generator: Any = None
) -> Tensor:
    """Fill from a normal distribution with std = gain / sqrt(fan).

    >>> import twofold as tw
    >>> tw.nn.init.kaiming_normal_(tw.empty(3, 5), mode="fan_out").shape
    (3, 5)
    """
    std = _kaiming_std(tensor, a, mode, nonlinearity)
    return tensor if std is None else normal_(tensor, 0.0, std, generator)


def orthogonal_(tensor: Tensor, gain: float = 1, generator: Any = None) -> Tensor:
    """Fill with a (semi-)orthogonal matrix; more than two dimensions are flattened after the first.

    Numerics: QR decomposition of normal numbers in float64, with the signs of R's diagonal.
    Raises: TraceError while tracing: the decomposition is not an operation of graphs.
    Source: Saxe et al. 2013, "Exact solutions to the nonlinear dynamics of learning".

    >>> import twofold as tw
    >>> w = tw.nn.init.orthogonal_(tw.empty(2, 3))
    >>> tw.allclose(w @ w.T, tw.eye(2), atol=1e-6)
    True
    """
    if tensor.ndim < 2:
        raise ShapeError(
            f"Only tensors with 2 or more dimensions are supported, got {tensor.shape}", op="orthogonal_"
        )
    _not_traced("orthogonal_")
    if 0 in tensor.shape:
        return tensor
    rows, columns = tensor.shape[0], math.prod(tensor.shape[1:])
    with no_record():
        flat = M.full(shape=(rows, columns), value=0, dtype=float64)
        values = normal_(flat, generator=generator).numpy()
        q, r = np.linalg.qr(values.T if rows < columns else values)
        q = q * np.where(np.diag(r) < 0, -1.0, 1.0)
        q = (q.T if rows < columns else q) * gain
        return assign(tensor, Tensor(q.reshape(tensor.shape), dtype=float64))


def sparse_(tensor: Tensor, sparsity: float, std: float = 0.01, generator: Any = None) -> Tensor:
    """Fill a matrix with normal numbers, and a share `sparsity` of every column with zeros.

    Source: Martens 2010, "Deep learning via Hessian-free optimization".

    >>> import twofold as tw
    >>> int((tw.nn.init.sparse_(tw.empty(4, 2), 0.5) == 0).sum())
    4
    """
    if tensor.ndim != 2:
        raise ShapeError(f"Only tensors with 2 dimensions are supported, got {tensor.shape}", op="sparse_")
    rows, _ = tensor.shape
    count = math.ceil(sparsity * rows)
    with no_record():
        normal_(tensor, 0, std, generator)
        order = uniform_(_full(tensor, 0.0), generator=generator).argsort(0).argsort(0)
        return assign(tensor, E.where(E.lt(order, count), 0.0, tensor.detach()))


def _not_traced(op: str) -> None:
    if mode.tracer is not None:
        raise TraceError("needs values and can't be traced", op=op, hint="initialise the weights outside")


def _deprecated(fn: Callable[..., Tensor]) -> Callable[..., Tensor]:
    old = fn.__name__.rstrip("_")

    def call(*args: Any, **kwargs: Any) -> Tensor:
        warnings.warn(
            f"`nn.init.{old}` is now deprecated in favor of `nn.init.{fn.__name__}`.", FutureWarning, stacklevel=2
        )
        return fn(*args, **kwargs)

    call.__name__ = call.__qualname__ = old
    call.__doc__ = f"Old name of `{fn.__name__}`."
    return call


uniform = _deprecated(uniform_)
normal = _deprecated(normal_)
constant = _deprecated(constant_)
eye = _deprecated(eye_)
dirac = _deprecated(dirac_)
xavier_uniform = _deprecated(xavier_uniform_)
xavier_normal = _deprecated(xavier_normal_)
kaiming_uniform = _deprecated(kaiming_uniform_)
kaiming_normal = _deprecated(kaiming_normal_)
orthogonal = _deprecated(orthogonal_)
sparse = _deprecated(sparse_)
