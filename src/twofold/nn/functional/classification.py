"""Losses for classes: cross entropy and its parts, binary cross entropy, margins."""

from __future__ import annotations

from typing import Any

from ...autodiff.composite import composite
from ...autodiff.handle import Tensor, mode
from ...ir.dtypes import int64
from ...ir.errors import DTypeError, OutOfBoundsError, ShapeError, TwofoldError
from ...primitives import elementwise as E
from ...primitives import index as I
from ...primitives import movement as M
from ...primitives import reduce as R
from ...tensors.statistics import log_softmax
from ._common import average, cast, channels, check_floating, check_reduction, in_float32, reduced, total
from .activation import stable_softplus


def _class_dim(input: Tensor, op: str) -> int:
    if input.ndim == 0:
        raise ShapeError("expects an input (C,) or (N, C, ...), got a 0-d tensor", op=op)
    return 0 if input.ndim == 1 else 1


def _check_target_shape(input: Tensor, target: Tensor, op: str) -> None:
    dim = _class_dim(input, op)
    expected = input.shape[:dim] + input.shape[dim + 1 :]
    if target.shape != expected:
        hint = None
        if target.shape == (*expected, 1):
            hint = f"remove its last dimension: target.squeeze({target.ndim - 1})"
        elif target.ndim == 1 and len(expected) == 1 and input.ndim == 2:
            hint = f"the batch sizes differ: {input.shape[0]} predictions, {target.shape[0]} targets"
        elif target.shape == input.shape:
            hint = "class probabilities must be floating; class numbers need target.argmax(1)"
        raise ShapeError(
            f"predictions of shape {input.shape} need class numbers of shape {expected}, got {target.shape}",
            op=op,
            hint=hint or "the target has the shape of the predictions without the class dimension",
        )


def _check_classes(target: Tensor, classes: int, ignore_index: int, op: str) -> bool:
    """Whether a target may be `ignore_index`.

    Raises: OutOfBoundsError for a class number that is neither in [0, classes) nor `ignore_index`.
    """
    if mode.tracer is not None or 0 in target.shape:
        return True
    values = target.detach().numpy()
    low, high = int(values.min()), int(values.max())
    ignores = low <= ignore_index <= high
    if ignores and (low < 0 or high >= classes):
        values = values[values != ignore_index]
        if values.size == 0:
            return True
        low, high = int(values.min()), int(values.max())
    if low < 0 or high >= classes:
        hint = f"use a last layer with {high + 1} outputs, or class numbers from 0 to {classes - 1}"
        if low < 0:
            hint = f"class numbers begin at 0; to leave samples out pass ignore_index={low}"
        elif low == 1 and high == classes:
            hint += "; if the classes are counted from 1, use target - 1"
        raise OutOfBoundsError(
            f"target contains the class {low if low < 0 else high}, the predictions have {classes} classes "
            f"(0 to {classes - 1})",
            op=op,
            hint=hint,
        )
    return ignores


def _check_weight(weight: Tensor | None, classes: int, op: str) -> None:
    if weight is not None and weight.shape != (classes,):
        raise ShapeError(
            f"weight has shape {weight.shape} for {classes} classes",
            op=op,
            hint=f"it must be of shape ({classes},)",
        )


def _picked(
    logp: Tensor, target: Tensor, weight: Tensor | None, ignore_index: int, some_ignored: bool
) -> tuple[Tensor, Tensor | None, Tensor | None]:
    """-logp at the target times its weight, the weights (None: all 1), and which samples count (None: all)."""
    dim = _class_dim(logp, "nll_loss")
    keep = E.ne(target, ignore_index) if some_ignored else None
    safe = cast(target if keep is None else E.where(keep, target, 0), int64)
    if mode.tracer is not None:  # then nobody has looked at them: negative ones do not count from the end
        safe = E.where(E.lt(safe, 0), logp.shape[dim], safe)
    shape = (*logp.shape[:dim], 1, *logp.shape[dim + 1 :])
    loss = -M.reshape(I.gather(logp, M.reshape(safe, shape=shape), dim=dim), shape=target.shape)
    weights = None if weight is None else I.index(cast(weight, logp.dtype), safe, dims=(0,))
    if keep is not None:
        weights = cast(keep, logp.dtype) if weights is None else E.where(keep, weights, 0.0)
    if weight is not None:
        loss = loss * weights
    return loss if keep is None else E.where(keep, loss, 0.0), weights, keep


def _weighted(loss: Tensor, weights: Tensor | None, reduction: str, op: str) -> Tensor:
    """Like `reduced`, but the mean is over the weights."""
    if reduction == "mean" and weights is not None:
        return total(loss) / total(weights)
    return reduced(loss, reduction, op)


def _reduction_of(reduction: str, size_average: Any, reduce: Any) -> str:
    """PyTorch's two old arguments in place of `reduction`."""
    if size_average is None and reduce is None:
        return reduction
    if reduce is False:
        return "none"
    return "sum" if size_average is False else "mean"


@composite(fused=True, gathers=True)
@in_float32
def nll_loss(
    input: Tensor,
    target: Tensor,
    weight: Tensor | None = None,
    size_average: Any = None,
    ignore_index: int = -100,
    reduce: Any = None,
    reduction: str = "mean",
) -> Tensor:
    """Minus the log-probability of each target class.

    Shapes: input (N, C, *) log-probabilities, target (N, *) class numbers; also (C,) and ().
    Args:
        weight: weights of the classes, (C,); the mean is weighted by them.
        ignore_index: targets with this value do not count.
    Raises: ShapeError, DTypeError or OutOfBoundsError when the target does not fit.

    >>> import twofold as tw
    >>> tw.nn.functional.nll_loss(tw.tensor([[-0.5, -1.0]]), tw.tensor([1]))
    tensor(1.)
    """
    reduction = _reduction_of(reduction, size_average, reduce)
    check_reduction(reduction, "nll_loss")
    ignored = _check_class_targets(input, target, weight, ignore_index, "nll_loss")
    loss, weights, _ = _picked(input, target, weight, ignore_index, ignored)
    return _weighted(loss, weights, reduction, "nll_loss")


def _check_class_targets(input: Tensor, target: Any, weight: Tensor | None, ignore_index: int, op: str) -> bool:
    """Raises what is wrong with them; gives whether a target may be `ignore_index`."""
    check_floating(input, op)
    if not isinstance(target, Tensor):
        raise DTypeError(f"the target must be a tensor, got {type(target).__name__}", op=op)
    if target.dtype.kind not in ("int", "uint"):
        raise DTypeError(
            f"the target must hold class numbers, got {target.dtype.name} of shape {target.shape}",
            op=op,
            hint="use target.long()",
        )
    _check_target_shape(input, target, op)
    classes = input.shape[_class_dim(input, op)]
    _check_weight(weight, classes, op)
    return _check_classes(target, classes, ignore_index, op)


@composite(fused=True, gathers=True)
@in_float32
def cross_entropy(
    input: Tensor,
    target: Tensor,
    weight: Tensor | None = None,
    size_average: Any = None,
    ignore_index: int = -100,
    reduce: Any = None,
    reduction: str = "mean",
    label_smoothing: float = 0.0,
) -> Tensor:
    """Minus the log of the softmax at each target class.

    Shapes: input (N, C, *) logits; target (N, *) class numbers, or (N, C, *) class probabilities.
        Also (C,) with () or (C,).
    Args:
        weight: weights of the classes, (C,); the mean over class numbers is weighted by them.
        ignore_index: targets with this value do not count.
        label_smoothing: share of the target that is spread evenly over all classes.
    Raises: ShapeError, DTypeError or OutOfBoundsError when the target does not fit.
    Numerics: log-softmax without overflow; float16 and bfloat16 are computed in float32.
    Source: label smoothing: Szegedy et al. 2015, "Rethinking the Inception Architecture", section 7.

    >>> import twofold as tw
    >>> tw.nn.functional.cross_entropy(tw.tensor([[0.0, 0.0]]), tw.tensor([1]))
    tensor(0.6931)
    """
    op = "cross_entropy"
    reduction = _reduction_of(reduction, size_average, reduce)
    check_reduction(reduction, op)
    check_floating(input, op)
    if not 0.0 <= label_smoothing <= 1.0:
        raise TwofoldError(f"label_smoothing must be between 0 and 1, got {label_smoothing}", op=op)
    dim = _class_dim(input, op)
    if isinstance(target, Tensor) and target.dtype.is_floating_point:
        return _with_probabilities(input, target, weight, reduction, label_smoothing, dim)
    ignored = _check_class_targets(input, target, weight, ignore_index, op)
    logp = log_softmax(input, dim)
    loss, weights, keep = _picked(logp, target, weight, ignore_index, ignored)
    loss = _weighted(loss, weights, reduction, op)
    if label_smoothing == 0.0:
        return loss
    classes = input.shape[dim]
    spread = logp if weight is None else logp * _along(weight, dim, logp)
    smooth = -R.sum(spread, dims=(dim,), keepdim=False)
    if keep is not None:
        smooth = E.where(keep, smooth, 0.0)
    smooth = _weighted(smooth, weights, reduction, op)
    return loss * (1.0 - label_smoothing) + smooth * (label_smoothing / classes)


def _along(weight: Tensor, dim: int, like: Tensor) -> Tensor:
    weight = cast(weight, like.dtype)
    return weight if dim == 0 else channels(weight, like.ndim)


def _with_probabilities(
    input: Tensor, target: Tensor, weight: Tensor | None, reduction: str, smoothing: float, dim: int
) -> Tensor:
    op = "cross_entropy"
    if target.shape != input.shape:
        hint = "a floating target must have the shape of the predictions; for class numbers use target.long()"
        raise ShapeError(
            f"predictions of shape {input.shape} need class probabilities of that shape, got {target.shape} "
            f"of dtype {target.dtype.name}",
            op=op,
            hint=hint,
        )
    classes = input.shape[dim]
    _check_weight(weight, classes, op)
    target = cast(target, input.dtype)
    if smoothing > 0.0:
        target = target * (1.0 - smoothing) + smoothing / classes
    terms = log_softmax(input, dim) * target
    if weight is not None:
        terms = terms * _along(weight, dim, terms)
    loss = -R.sum(terms, dims=(dim,), keepdim=False)
    return reduced(loss, reduction, op)


def _check_same_shape(input: Tensor, target: Tensor, op: str) -> None:
    if input.shape != target.shape:
        hint = "they must have the same shape"
        if input.shape == (*target.shape, 1):
            hint = f"remove the last dimension of the predictions: input.squeeze({input.ndim - 1})"
        elif target.shape == (*input.shape, 1):
            hint = f"remove the last dimension of the target: target.squeeze({target.ndim - 1})"
        raise ShapeError(f"the input has shape {input.shape}, the target {target.shape}", op=op, hint=hint)


def _check_binary_target(input: Tensor, target: Any, op: str) -> None:
    check_floating(input, op)
    if not isinstance(target, Tensor) or not target.dtype.is_floating_point:
        kind = target.dtype.name if isinstance(target, Tensor) else type(target).__name__
        raise DTypeError(f"the target must be floating, got {kind}", op=op, hint="use target.float()")
    _check_same_shape(input, target, op)


@composite
@in_float32
def binary_cross_entropy(
    input: Tensor,
    target: Tensor,
    weight: Tensor | None = None,
    size_average: Any = None,
    reduce: Any = None,
    reduction: str = "mean",
) -> Tensor:
    """-(y log p + (1 - y) log(1 - p)) for probabilities p and targets y of one shape.

    Raises: TwofoldError for a probability outside [0, 1]; ShapeError when the shapes differ.
    Numerics: logarithms are cut at -100, so that p = 0 or 1 gives a finite loss.

    >>> import twofold as tw
    >>> tw.nn.functional.binary_cross_entropy(tw.tensor([0.5]), tw.tensor([1.0]))
    tensor(0.6931)
    """
    op = "binary_cross_entropy"
    reduction = _reduction_of(reduction, size_average, reduce)
    _check_binary_target(input, target, op)
    if mode.tracer is None and 0 not in input.shape:
        values = input.detach().numpy()
        if not (values.min() >= 0 and values.max() <= 1):
            raise TwofoldError(
                f"all elements of the input should be between 0 and 1, got {float(values.min())} to "
                f"{float(values.max())}",
                op=op,
                hint="put a sigmoid before it, or use BCEWithLogitsLoss on the values as they are",
            )
    loss = _bce(input, cast(target, input.dtype))
    if weight is not None:
        loss = loss * weight
    return reduced(loss, reduction, op)


def _bce(p: Tensor, target: Tensor) -> Tensor:
    """-(y log p + (1 - y) log(1 - p)), and at the ends PyTorch's cut logarithms and slopes."""
    tiny = 1e-12
    inside = E.gt(p * (1.0 - p), tiny)
    safe = E.where(inside, p, 0.5)
    exact = -(target * E.log(safe) + (1.0 - target) * E.log1p(-safe))
    fixed = p.detach()
    cut = -(target * E.maximum(E.log(fixed), -100.0) + (1.0 - target) * E.maximum(E.log1p(-fixed), -100.0))
    slope = (fixed - target.detach()) * (1.0 / tiny)
    return E.where(inside, exact, cut + (p - fixed) * slope)


@composite(fused=True, gathers=True)
@in_float32
def binary_cross_entropy_with_logits(
    input: Tensor,
    target: Tensor,
    weight: Tensor | None = None,
    size_average: Any = None,
    reduce: Any = None,
    reduction: str = "mean",
    pos_weight: Tensor | None = None,
) -> Tensor:
    """Binary cross entropy of sigmoid(input), without overflow.

    Args:
        weight: factors of the losses; broadcasts.
        pos_weight: factors of the positive class; broadcasts.

    >>> import twofold as tw
    >>> tw.nn.functional.binary_cross_entropy_with_logits(tw.tensor([0.0]), tw.tensor([1.0]))
    tensor(0.6931)
    """
    op = "binary_cross_entropy_with_logits"
    reduction = _reduction_of(reduction, size_average, reduce)
    _check_binary_target(input, target, op)
    target = cast(target, input.dtype)
    tail = stable_softplus(-input)
    if pos_weight is not None:
        tail = ((cast(pos_weight, input.dtype) - 1.0) * target + 1.0) * tail
    loss = (1.0 - target) * input + tail
    if weight is not None:
        loss = loss * weight
    return reduced(loss, reduction, op)


@composite
def multi_margin_loss(
    input: Tensor,
    target: Tensor,
    p: int = 1,
    margin: float = 1.0,
    weight: Tensor | None = None,
    size_average: Any = None,
    reduce: Any = None,
    reduction: str = "mean",
) -> Tensor:
    """Mean over the other classes of max(0, margin - x[y] + x[i]) ** p.

    Shapes: input (N, C) or (C,), target (N,) or () class numbers.

    >>> import twofold as tw
    >>> tw.nn.functional.multi_margin_loss(tw.tensor([[0.0, 0.0]]), tw.tensor([1]))
    tensor(0.5000)
    """
    op = "multi_margin_loss"
    reduction = _reduction_of(reduction, size_average, reduce)
    if p not in (1, 2):
        raise TwofoldError(f"p must be 1 or 2, got {p}", op=op)
    _check_class_targets(input, target, weight, -(2**62), op)
    x = input if input.ndim == 2 else M.reshape(input, shape=(1, input.shape[0]))
    y = cast(M.reshape(target, shape=(x.shape[0], 1)), int64)
    excess = E.relu(x - I.gather(x, y, dim=1) + margin)
    excess = excess * excess if p == 2 else excess
    if weight is not None:
        excess = excess * I.index(weight, y, dims=(0,))
    others = E.ne(M.iota(size=x.shape[1], dtype=int64), y)
    loss = R.sum(E.where(others, excess, 0.0), dims=(1,), keepdim=False) / float(x.shape[1])
    return reduced(M.reshape(loss, shape=target.shape), reduction, op)


@composite
def multilabel_margin_loss(
    input: Tensor, target: Tensor, size_average: Any = None, reduce: Any = None, reduction: str = "mean"
) -> Tensor:
    """Hinge between every target class and every other class.

    Shapes: input (N, C) or (C,); target of the same shape holds class numbers up to the first -1.

    >>> import twofold as tw
    >>> x, y = tw.tensor([[0.1, 0.2, 0.4, 0.8]]), tw.tensor([[3, 0, -1, 1]])
    >>> tw.nn.functional.multilabel_margin_loss(x, y)
    tensor(0.8500)
    """
    op = "multilabel_margin_loss"
    reduction = _reduction_of(reduction, size_average, reduce)
    _check_same_shape(input, target, op)
    shape = input.shape if input.ndim == 2 else (1, *input.shape)
    x, y = M.reshape(input, shape=shape), cast(M.reshape(target, shape=shape), int64)
    n, c = shape
    counted = E.eq(R.cumsum(cast(E.lt(y, 0), int64), dim=1), 0)  # before the first -1
    safe = E.where(counted, y, 0)
    is_target = I.scatter_add(M.full(shape=shape, value=0, dtype=int64), safe, cast(counted, int64), dim=1)
    hinge = E.relu(1.0 - M.reshape(I.gather(x, safe, dim=1), shape=(n, c, 1)) + M.reshape(x, shape=(n, 1, c)))
    pairs = E.bitwise_and(M.reshape(counted, shape=(n, c, 1)), M.reshape(E.eq(is_target, 0), shape=(n, 1, c)))
    loss = R.sum(E.where(pairs, hinge, 0.0), dims=(1, 2), keepdim=False) / float(c)
    return reduced(loss if input.ndim == 2 else M.reshape(loss, shape=()), reduction, op)


@composite
def multilabel_soft_margin_loss(
    input: Tensor,
    target: Tensor,
    weight: Tensor | None = None,
    size_average: Any = None,
    reduce: Any = None,
    reduction: str = "mean",
) -> Tensor:
    """Mean over the classes of the binary cross entropy of sigmoid(input).

    Shapes: input and target (N, C) or (C,) -> (N,) or () before the reduction.

    >>> import twofold as tw
    >>> tw.nn.functional.multilabel_soft_margin_loss(tw.zeros(1, 2), tw.ones(1, 2))
    tensor(0.6931)
    """
    op = "multilabel_soft_margin_loss"
    reduction = _reduction_of(reduction, size_average, reduce)
    _check_same_shape(input, target, op)
    target = cast(target, input.dtype)
    loss = target * stable_softplus(-input) + (1.0 - target) * stable_softplus(input)
    if weight is not None:
        loss = loss * weight
    return reduced(average(loss, (input.ndim - 1,)), reduction, op)


@composite
def soft_margin_loss(
    input: Tensor, target: Tensor, size_average: Any = None, reduce: Any = None, reduction: str = "mean"
) -> Tensor:
    """log(1 + exp(-y x)) for targets y of 1 and -1.

    >>> import twofold as tw
    >>> tw.nn.functional.soft_margin_loss(tw.zeros(2), tw.ones(2))
    tensor(0.6931)
    """
    reduction = _reduction_of(reduction, size_average, reduce)
    _check_same_shape(input, target, "soft_margin_loss")
    return reduced(stable_softplus(-cast(target, input.dtype) * input), reduction, "soft_margin_loss")
