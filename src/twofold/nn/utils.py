"""Gradient clipping, and all parameters as one vector."""

from __future__ import annotations

import math
from collections.abc import Iterable
from typing import Any

from ..autodiff.bind import no_record
from ..autodiff.handle import Tensor, mode
from ..ir.errors import AutogradError, ShapeError
from ..primitives import elementwise as E
from ..primitives import movement as M
from ..tensors._registry import assign


def _gradients(parameters: Any) -> list[Tensor]:
    tensors = [parameters] if isinstance(parameters, Tensor) else list(parameters)
    return [p.grad for p in tensors if p.grad is not None]


def get_total_norm(
    tensors: Iterable[Tensor], norm_type: float = 2.0, error_if_nonfinite: bool = False, foreach: bool | None = None
) -> Tensor:
    """The norm of all tensors together, as if they were one vector.

    Raises: AutogradError when it is nan or inf and `error_if_nonfinite` is set.

    >>> import twofold as tw
    >>> tw.nn.utils.get_total_norm([tw.tensor([3.0]), tw.tensor([4.0])])
    tensor(5.)
    """
    norms = [t.detach().norm(float(norm_type)) for t in tensors]
    if not norms:
        return Tensor(0.0, dtype="float32")
    total = M.concat(*[M.reshape(n, shape=(1,)) for n in norms], dim=0).norm(float(norm_type))
    if error_if_nonfinite and mode.tracer is None and not math.isfinite(float(total)):
        raise AutogradError(
            f"the total norm of order {norm_type} of the gradients is {float(total)}, so they can't be clipped",
            op="clip_grad_norm_",
            hint="pass error_if_nonfinite=False to scale them all the same",
        )
    return total


def clip_grads_with_norm_(
    parameters: Any, max_norm: float, total_norm: Tensor, foreach: bool | None = None
) -> None:
    """Scale the gradients in place so that their norm, given as `total_norm`, becomes at most `max_norm`.

    >>> import twofold as tw
    >>> p = tw.nn.Parameter(tw.zeros(1))
    >>> p.grad = tw.tensor([3.0])
    >>> tw.nn.utils.clip_grads_with_norm_([p], 1.0, tw.tensor(6.0))
    >>> p.grad
    tensor([0.5000])
    """
    with no_record():
        scale = E.minimum(max_norm / (total_norm + 1e-6), 1.0)
        for g in _gradients(parameters):
            assign(g, g * scale.to(g.dtype))


def clip_grad_norm_(
    parameters: Any,
    max_norm: float,
    norm_type: float = 2.0,
    error_if_nonfinite: bool = False,
    foreach: bool | None = None,
) -> Tensor:
    """Scale all gradients in place so that their common norm is at most `max_norm`; returns the norm before.

    Raises: AutogradError for a norm of nan or inf, if `error_if_nonfinite`.
    Source: Pascanu et al. 2013, "On the difficulty of training recurrent neural networks", algorithm 1.

    >>> import twofold as tw
    >>> p = tw.nn.Parameter(tw.zeros(2))
    >>> p.grad = tw.tensor([3.0, 4.0])
    >>> tw.nn.utils.clip_grad_norm_([p], 1.0)
    tensor(5.)
    >>> p.grad
    tensor([0.6000, 0.8000])
    """
    tensors = [parameters] if isinstance(parameters, Tensor) else list(parameters)
    with no_record():
        total = get_total_norm(_gradients(tensors), norm_type, error_if_nonfinite)
        clip_grads_with_norm_(tensors, float(max_norm), total)
    return total


def clip_grad_value_(parameters: Any, clip_value: float, foreach: bool | None = None) -> None:
    """Cut all gradients in place to [-clip_value, clip_value].

    >>> import twofold as tw
    >>> p = tw.nn.Parameter(tw.zeros(2))
    >>> p.grad = tw.tensor([3.0, -0.5])
    >>> tw.nn.utils.clip_grad_value_([p], 1.0)
    >>> p.grad
    tensor([ 1.0000, -0.5000])
    """
    limit = float(clip_value)
    with no_record():
        for g in _gradients(parameters):
            assign(g, E.minimum(E.maximum(g, -limit), limit))


def parameters_to_vector(parameters: Iterable[Tensor]) -> Tensor:
    """All parameters, flattened, one after the other.

    >>> import twofold as tw
    >>> tw.nn.utils.parameters_to_vector(tw.nn.Linear(2, 3).parameters()).shape
    (9,)
    """
    flat = [M.reshape(p, shape=(math.prod(p.shape),)) for p in parameters]
    return M.concat(*flat, dim=0)


def vector_to_parameters(vec: Tensor, parameters: Iterable[Tensor]) -> None:
    """Write a vector back into the parameters, in order.

    Raises: ShapeError when the vector is shorter than the parameters.

    >>> import twofold as tw
    >>> p = tw.nn.Parameter(tw.zeros(2))
    >>> tw.nn.utils.vector_to_parameters(tw.ones(2), [p])
    >>> p.tolist()
    [1.0, 1.0]
    """
    start = 0
    tensors = list(parameters)
    count = sum(math.prod(p.shape) for p in tensors)
    if vec.ndim != 1 or vec.shape[0] < count:
        raise ShapeError(
            f"the vector has shape {vec.shape}, the parameters {count} numbers", op="vector_to_parameters"
        )
    with no_record():
        for p in tensors:
            size = math.prod(p.shape)
            part = M.slice(vec.detach(), start=(start,), stop=(start + size,), step=(1,))
            assign(p, M.reshape(part, shape=p.shape))
            start += size
