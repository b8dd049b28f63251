"""Losses for numbers, distributions and pairs."""

from __future__ import annotations

import math
import warnings
from collections.abc import Callable
from typing import Any

from ...autodiff.composite import composite, unrepeatable
from ...autodiff.handle import Tensor
from ...ir.errors import ShapeError, TwofoldError, TwofoldWarning
from ...primitives import elementwise as E
from ...primitives import movement as M
from ._common import check_reduction, reduced, total
from .classification import _reduction_of
from .distance import pairwise_distance


def _pair(input: Tensor, target: Tensor, op: str) -> tuple[Tensor, Tensor]:
    """Both in their common dtype; warns when broadcasting makes pairs that were likely not meant."""
    if input.shape != target.shape:
        unrepeatable()
        warnings.warn(
            f"[{op}] the target has shape {target.shape}, the input {input.shape}: broadcasting compares every "
            "element of one with several of the other. Give both the same shape.",
            TwofoldWarning,
            stacklevel=4,
        )
    if input.dtype is target.dtype:
        return input, target
    return input + target * 0, target + input * 0


@composite(fused=True, gathers=True)
def mse_loss(
    input: Tensor,
    target: Tensor,
    size_average: Any = None,
    reduce: Any = None,
    reduction: str = "mean",
    weight: Tensor | None = None,
) -> Tensor:
    """Squared differences.

    Shapes: input and target (*) -> () or, with reduction "none", (*).

    >>> import twofold as tw
    >>> tw.nn.functional.mse_loss(tw.tensor([1.0, 2.0]), tw.tensor([1.0, 4.0]))
    tensor(2.)
    """
    return _differences(
        lambda d: d * d, input, target, weight, _reduction_of(reduction, size_average, reduce), "mse_loss"
    )


@composite(fused=True, gathers=True)
def l1_loss(
    input: Tensor,
    target: Tensor,
    size_average: Any = None,
    reduce: Any = None,
    reduction: str = "mean",
    weight: Tensor | None = None,
) -> Tensor:
    """Absolute differences.

    >>> import twofold as tw
    >>> tw.nn.functional.l1_loss(tw.tensor([1.0, 2.0]), tw.tensor([1.0, 4.0]))
    tensor(1.)
    """
    return _differences(E.abs, input, target, weight, _reduction_of(reduction, size_average, reduce), "l1_loss")


def _differences(
    fn: Callable[[Tensor], Tensor], input: Tensor, target: Tensor, weight: Tensor | None, reduction: str, op: str
) -> Tensor:
    check_reduction(reduction, op)
    input, target = _pair(input, target, op)
    loss = fn(input - target)
    if weight is None:
        return reduced(loss, reduction, op)
    loss = loss * weight
    if reduction == "mean":
        return total(loss) / total(weight + loss * 0)
    return reduced(loss, reduction, op)


@composite(fused=True, gathers=True)
def smooth_l1_loss(
    input: Tensor,
    target: Tensor,
    size_average: Any = None,
    reduce: Any = None,
    reduction: str = "mean",
    beta: float = 1.0,
) -> Tensor:
    """d * d / (2 beta) where the difference |d| < beta, else |d| - beta / 2.

    Source: Girshick 2015, "Fast R-CNN", eq. 3.

    >>> import twofold as tw
    >>> tw.nn.functional.smooth_l1_loss(tw.tensor([0.0, 0.0]), tw.tensor([1.0, 3.0]), reduction="none")
    tensor([0.5000, 2.5000])
    """
    if beta < 0:
        raise TwofoldError(f"beta must not be negative, got {beta}", op="smooth_l1_loss")
    reduction = _reduction_of(reduction, size_average, reduce)

    def each(d: Tensor) -> Tensor:
        size = E.abs(d)
        return size if beta == 0 else E.where(E.lt(size, beta), d * d * (0.5 / beta), size - 0.5 * beta)

    return _differences(each, input, target, None, reduction, "smooth_l1_loss")


@composite(fused=True, gathers=True)
def huber_loss(
    input: Tensor, target: Tensor, reduction: str = "mean", delta: float = 1.0, weight: Tensor | None = None
) -> Tensor:
    """d * d / 2 where the difference |d| < delta, else delta * (|d| - delta / 2).

    Numerics: with `weight` the mean is over the elements, as in PyTorch, not over the weights.
    Source: Huber 1964, "Robust Estimation of a Location Parameter".

    >>> import twofold as tw
    >>> tw.nn.functional.huber_loss(tw.tensor([0.0]), tw.tensor([3.0]), delta=2.0)
    tensor(4.)
    """
    if delta <= 0:
        raise TwofoldError(f"delta must be positive, got {delta}", op="huber_loss")

    def each(d: Tensor) -> Tensor:
        size = E.abs(d)
        return E.where(E.lt(size, delta), d * d * 0.5, (size - 0.5 * delta) * delta)

    if weight is None:
        return _differences(each, input, target, None, reduction, "huber_loss")
    return reduced(_differences(each, input, target, None, "none", "huber_loss") * weight, reduction, "huber_loss")


@composite
def kl_div(
    input: Tensor,
    target: Tensor,
    size_average: Any = None,
    reduce: Any = None,
    reduction: str = "mean",
    log_target: bool = False,
) -> Tensor:
    """target * (log(target) - input), where the input holds log-probabilities.

    Args:
        reduction: also "batchmean": the sum over the first dimension's size, which is the divergence.
        log_target: the target holds log-probabilities, too.
    Source: Kullback and Leibler 1951, "On Information and Sufficiency".

    >>> import twofold as tw
    >>> tw.nn.functional.kl_div(tw.tensor([-1.0]), tw.tensor([0.0]), reduction="sum", log_target=True)
    tensor(1.)
    """
    reduction = _reduction_of(reduction, size_average, reduce)
    if reduction == "mean":
        warnings.warn(
            "[kl_div] reduction='mean' divides by the number of elements; the divergence of each sample, averaged "
            "over the batch, is reduction='batchmean'",
            TwofoldWarning,
            stacklevel=3,
        )
    if log_target:
        loss = E.exp(target) * (target - input)
    else:
        positive = E.gt(target, 0.0)
        safe = E.where(positive, target, 1.0)
        loss = E.where(positive, target * E.log(safe), 0.0) - target * input
    if reduction == "batchmean":
        return total(loss) / float(input.shape[0] if input.ndim else 1)
    return reduced(loss, reduction, "kl_div")


@composite
def poisson_nll_loss(
    input: Tensor,
    target: Tensor,
    log_input: bool = True,
    full: bool = False,
    size_average: Any = None,
    eps: float = 1e-8,
    reduce: Any = None,
    reduction: str = "mean",
) -> Tensor:
    """Minus the log-likelihood of counts under Poisson distributions.

    Args:
        log_input: the input is the log of the rate.
        full: add Stirling's approximation of log(target!), for targets above 1.

    >>> import twofold as tw
    >>> tw.nn.functional.poisson_nll_loss(tw.tensor([0.0]), tw.tensor([2.0]))
    tensor(1.)
    """
    reduction = _reduction_of(reduction, size_average, reduce)
    if log_input:
        loss = E.exp(input) - target * input
    else:
        loss = input - target * E.log(input + eps)
    if full:
        many = E.gt(target, 1)
        t = E.where(many, target, 1)
        stirling = t * E.log(t) - t + E.log(t * (2.0 * math.pi)) * 0.5
        loss = loss + E.where(many, stirling, 0.0)
    return reduced(loss, reduction, "poisson_nll_loss")


@composite
def gaussian_nll_loss(
    input: Tensor, target: Tensor, var: Any, full: bool = False, eps: float = 1e-6, reduction: str = "mean"
) -> Tensor:
    """Minus the log-likelihood of the target under normal distributions of mean `input` and variance `var`.

    Args:
        var: variances: the input's shape, that without or with 1 as its last dimension, or a number.
        full: add the constant log(2 pi) / 2.
        eps: smallest variance; it is cut there without changing the gradient.
    Source: Nix and Weigend 1994, "Estimating the mean and variance of the target probability distribution".

    >>> import twofold as tw
    >>> tw.nn.functional.gaussian_nll_loss(tw.tensor([0.0]), tw.tensor([2.0]), tw.tensor([1.0]))
    tensor(2.)
    """
    op = "gaussian_nll_loss"
    if not isinstance(var, Tensor):
        if var < 0:
            raise TwofoldError(f"var has negative entries: {var}", op=op)
        var = M.full(shape=input.shape, value=float(var), dtype=input.dtype)
    if var.shape != input.shape:
        if input.shape[:-1] == var.shape:
            var = M.reshape(var, shape=(*var.shape, 1))
        elif input.shape[:-1] != var.shape[:-1] or var.shape[-1] != 1:
            raise ShapeError(f"var of shape {var.shape} does not fit an input of shape {input.shape}", op=op)
    clamped = var + (E.maximum(var, eps) - var).detach()
    difference = input - target
    loss = (E.log(clamped) + difference * difference / clamped) * 0.5
    if full:
        loss = loss + 0.5 * math.log(2.0 * math.pi)
    return reduced(loss, reduction, op)


@composite
def margin_ranking_loss(
    input1: Tensor,
    input2: Tensor,
    target: Tensor,
    margin: float = 0,
    size_average: Any = None,
    reduce: Any = None,
    reduction: str = "mean",
) -> Tensor:
    """max(0, -y (x1 - x2) + margin) for targets y of 1 and -1.

    >>> import twofold as tw
    >>> tw.nn.functional.margin_ranking_loss(tw.tensor([1.0]), tw.tensor([3.0]), tw.tensor([1.0]))
    tensor(2.)
    """
    reduction = _reduction_of(reduction, size_average, reduce)
    loss = _hinge(-target * (input1 - input2) + margin)
    return reduced(loss, reduction, "margin_ranking_loss")


def _hinge(x: Tensor) -> Tensor:
    """max(x, 0) with gradient 1 at 0, as PyTorch's clamp_min has."""
    return E.where(E.ge(x, 0.0), x, 0.0)


@composite
def hinge_embedding_loss(
    input: Tensor,
    target: Tensor,
    margin: float = 1.0,
    size_average: Any = None,
    reduce: Any = None,
    reduction: str = "mean",
) -> Tensor:
    """x where the target is 1, max(0, margin - x) where it is -1.

    >>> import twofold as tw
    >>> tw.nn.functional.hinge_embedding_loss(tw.tensor([0.5, 0.25]), tw.tensor([1.0, -1.0]), reduction="sum")
    tensor(1.2500)
    """
    reduction = _reduction_of(reduction, size_average, reduce)
    far = E.where(E.ne(target, 1), _hinge(margin - input), 0.0)
    near = E.where(E.ne(target, -1), input, 0.0)
    return reduced(far + near, reduction, "hinge_embedding_loss")


@composite
def cosine_embedding_loss(
    input1: Tensor,
    input2: Tensor,
    target: Tensor,
    margin: float = 0,
    size_average: Any = None,
    reduce: Any = None,
    reduction: str = "mean",
) -> Tensor:
    """1 - cos(x1, x2) where the target is 1, max(0, cos(x1, x2) - margin) where it is -1.

    Shapes: inputs (N, D) or (D,), target (N,) or ().

    >>> import twofold as tw
    >>> x = tw.tensor([[1.0, 0.0]])
    >>> tw.nn.functional.cosine_embedding_loss(x, x, tw.tensor([-1.0]))
    tensor(1.)
    """
    reduction = _reduction_of(reduction, size_average, reduce)
    op = "cosine_embedding_loss"
    if target.ndim not in (0, 1) or input1.ndim != target.ndim + 1 or input2.ndim != target.ndim + 1:
        raise ShapeError(
            f"inputs of shapes {input1.shape} and {input2.shape} do not fit a target of shape {target.shape}",
            op=op,
            hint="a 1-d target needs 2-d inputs, a 0-d target 1-d inputs",
        )
    dim = (input1.ndim - 1,)
    product = (input1 * input2).sum(dim)
    squares = ((input1 * input1).sum(dim) + 1e-12) * ((input2 * input2).sum(dim) + 1e-12)
    cos = product * E.rsqrt(squares)
    near = E.where(E.eq(target, 1), 1.0 - cos, 0.0)
    far = E.where(E.eq(target, -1), _hinge(cos - margin), 0.0)
    return reduced(near + far, reduction, op)


@composite
def triplet_margin_loss(
    anchor: Tensor,
    positive: Tensor,
    negative: Tensor,
    margin: float = 1.0,
    p: float = 2,
    eps: float = 1e-6,
    swap: bool = False,
    size_average: Any = None,
    reduce: Any = None,
    reduction: str = "mean",
) -> Tensor:
    """max(0, d(anchor, positive) - d(anchor, negative) + margin) with the p-norm distance d.

    Source: Balntas et al. 2016, "Learning local feature descriptors with triplets"; `swap`: section 3.3.

    >>> import twofold as tw
    >>> x = tw.zeros(1, 2)
    >>> tw.nn.functional.triplet_margin_loss(x, x, x)
    tensor(1.)
    """
    reduction = _reduction_of(reduction, size_average, reduce)
    return triplet_margin_with_distance_loss(
        anchor,
        positive,
        negative,
        distance_function=lambda a, b: pairwise_distance(a, b, p, eps),
        margin=margin,
        swap=swap,
        reduction=reduction,
    )


@composite
def triplet_margin_with_distance_loss(
    anchor: Tensor,
    positive: Tensor,
    negative: Tensor,
    *,
    distance_function: Callable[[Tensor, Tensor], Tensor] | None = None,
    margin: float = 1.0,
    swap: bool = False,
    reduction: str = "mean",
) -> Tensor:
    """`triplet_margin_loss` with any distance function; Euclidean distance by default.

    >>> import twofold as tw
    >>> x = tw.zeros(1, 2)
    >>> tw.nn.functional.triplet_margin_with_distance_loss(x, x, x + 1).item()
    0.0
    """
    distance = distance_function or pairwise_distance
    near, far = distance(anchor, positive), distance(anchor, negative)
    if swap:
        far = E.minimum(far, distance(positive, negative))
    return reduced(_hinge(near - far + margin), reduction, "triplet_margin_loss")
