"""Linear maps and embeddings."""

from __future__ import annotations

import math
from typing import Any

import numpy as np

from ...autodiff.bind import bind, no_record
from ...autodiff.composite import composite
from ...autodiff.handle import Tensor, mode
from ...ir.dtypes import int64
from ...ir.errors import DTypeError, OutOfBoundsError, ShapeError, TwofoldError
from ...primitives import elementwise as E
from ...primitives import index as I
from ...primitives import linalg as L
from ...primitives import movement as M
from ...primitives import reduce as R
from ...primitives import sort as S
from ...tensors._registry import assign
from ._common import cast, constant

_SWAPPED: dict[str, Any] = {"dims": (1, 0)}
_NO_PARAMS: dict[str, Any] = {}


@composite(fused=True)
def linear(input: Tensor, weight: Tensor, bias: Tensor | None = None) -> Tensor:
    """x @ weight.T + bias.

    Shapes: input (..., in_features), weight (out_features, in_features) or (in_features,),
        bias (out_features,) -> (..., out_features).
    Raises: ShapeError when in_features differ; DTypeError when the dtypes do.

    >>> import twofold as tw
    >>> tw.nn.functional.linear(tw.ones(1, 2), tw.tensor([[1.0, 2.0]]), tw.tensor([0.5]))
    tensor([[3.5000]])
    """
    shape, of = input._value.shape, weight._value.shape
    if len(of) == 1:
        out = linear(input, M.reshape(weight, shape=(1, *of)))
        out = M.reshape(out, shape=out.shape[:-1])
        return out if bias is None else out + bias
    features, size = of
    flat = len(shape) == 2
    if not shape or shape[-1] != size:
        raise ShapeError(
            f"input of shape {shape} has {shape[-1] if shape else 'no'} features, the weight of shape "
            f"{weight.shape} takes {size}",
            op="linear",
            hint="the last dimension of the input must be the last of the weight",
        )
    rows = input if flat else M.reshape(input, shape=(math.prod(shape[:-1]), size))
    out = bind(L.matmul, (rows, bind(M.permute, (weight,), _SWAPPED)), _NO_PARAMS)
    if bias is not None:
        out = bind(E.add, (out, bias), _NO_PARAMS)
    return out if flat else M.reshape(out, shape=(*shape[:-1], features))


@composite
def bilinear(input1: Tensor, input2: Tensor, weight: Tensor, bias: Tensor | None = None) -> Tensor:
    """x1 @ weight[k] @ x2 for every output feature k, plus bias.

    Shapes: input1 (..., in1), input2 (..., in2), weight (out, in1, in2) -> (..., out).

    >>> import twofold as tw
    >>> tw.nn.functional.bilinear(tw.ones(1, 2), tw.ones(1, 3), tw.ones(1, 2, 3))
    tensor([[6.]])
    """
    out, in1, in2 = weight.shape
    lead = input1.shape[:-1]
    if input2.shape[:-1] != lead or input1.shape[-1] != in1 or input2.shape[-1] != in2:
        raise ShapeError(
            f"inputs of shapes {input1.shape} and {input2.shape} do not fit the weight {weight.shape}",
            op="bilinear",
            hint=f"they must be (..., {in1}) and (..., {in2}) with equal leading dimensions",
        )
    rows = math.prod(lead)
    a = M.reshape(input1, shape=(rows, in1))
    b = M.reshape(input2, shape=(rows, 1, in2))
    mixed = L.matmul(a, M.reshape(M.permute(weight, dims=(1, 0, 2)), shape=(in1, out * in2)))
    y = R.sum(M.reshape(mixed, shape=(rows, out, in2)) * b, dims=(2,), keepdim=False)
    if bias is not None:
        y = y + bias
    return M.reshape(y, shape=(*lead, out))


_INT64, _UINT64 = np.dtype(np.int64), np.dtype(np.uint64)


def check_indices(indices: Tensor, size: int, op: str, what: str = "embeddings", hint: str | None = None) -> None:
    """Raises: DTypeError unless they are integers; OutOfBoundsError if one is outside [0, size).

    While tracing there are no values to look at, and the range is not checked.
    """
    if indices.dtype.kind not in ("int", "uint"):
        raise DTypeError(
            f"expects integer indices, got {indices.dtype.name}", op=op, hint="convert them with .long()"
        )
    if mode.tracer is not None or 0 in indices.shape:
        return
    values = indices._value
    if values.dtype is _INT64 and values.view(_UINT64).max() < size:  # a negative number is a large one there
        return
    low, high = int(values.min()), int(values.max())
    if low < 0 or high >= size:
        wrong = low if low < 0 else high
        raise OutOfBoundsError(
            f"index {wrong} is outside the {size} {what}",
            op=op,
            hint=hint
            or f"indices must be between 0 and {size - 1}" + (f"; use {high + 1} {what}" if low >= 0 else ""),
        )


def _renormalized(weight: Tensor, indices: Tensor, max_norm: float, norm_type: float) -> None:
    """Scale the rows in use whose norm is too large, in place."""
    with no_record():
        rows = weight.detach()
        flat = cast(M.reshape(indices, shape=(math.prod(indices.shape),)), int64)
        one = M.full(shape=flat.shape, value=1, dtype=weight.dtype)
        used = I.index_put(
            M.full(shape=(weight.shape[0],), value=0, dtype=weight.dtype), one, flat, dims=(0,), accumulate=False
        )
        norms = rows.norm(norm_type, dim=1)
        too_large = E.bitwise_and(E.gt(used, 0.0), E.gt(norms, max_norm))
        scale = E.where(too_large, max_norm / (norms + 1e-7), 1.0)
        assign(weight, rows * scale.unsqueeze(1))


@composite
def embedding(
    input: Tensor,
    weight: Tensor,
    padding_idx: int | None = None,
    max_norm: float | None = None,
    norm_type: float = 2.0,
    scale_grad_by_freq: bool = False,
    sparse: bool = False,
) -> Tensor:
    """The rows of `weight` at the indices.

    Shapes: input (*) of integers, weight (num, dim) -> (*, dim).
    Args:
        padding_idx: the row that gets no gradient.
        max_norm: rows in use are first scaled in place to at most this norm.
        scale_grad_by_freq: divide a row's gradient by how often it is in the input.
    Raises: OutOfBoundsError for an index outside [0, num); DTypeError for indices that are no integers.

    >>> import twofold as tw
    >>> tw.nn.functional.embedding(tw.tensor([1, 0]), tw.tensor([[1.0, 2.0], [3.0, 4.0]]))
    tensor([[3., 4.],
            [1., 2.]])
    """
    count = weight.shape[0]
    check_indices(input, count, "embedding")
    if sparse:
        raise TwofoldError("sparse gradients do not exist", op="embedding", hint="use sparse=False")
    if padding_idx is not None and not -count <= padding_idx < count:
        raise OutOfBoundsError(f"padding_idx {padding_idx} is outside the {count} embeddings", op="embedding")
    if max_norm is not None:
        _renormalized(weight, input, max_norm, norm_type)
    indices = cast(input, int64)
    out = I.index(weight, indices, dims=(0,))
    if scale_grad_by_freq:
        out = _scaled_gradient(out, indices, count)
    if padding_idx is not None:
        is_padding = E.eq(indices, padding_idx % count)
        out = E.where(M.reshape(is_padding, shape=(*indices.shape, 1)), out.detach(), out)
    return out


def _scaled_gradient(out: Tensor, indices: Tensor, count: int) -> Tensor:
    """`out`, whose gradient is divided by the number of times that the index occurs."""
    with no_record():
        flat = M.reshape(indices, shape=(math.prod(indices.shape),))
        ones = M.full(shape=flat.shape, value=1, dtype=out.dtype)
        zeros = M.full(shape=(count,), value=0, dtype=out.dtype)
        often = I.index(I.index_put(zeros, ones, flat, dims=(0,), accumulate=True), indices, dims=(0,))
        scale = M.reshape(1.0 / often, shape=(*indices.shape, 1))
    return out * scale + (out - out * scale).detach()


@composite
def embedding_bag(
    input: Tensor,
    weight: Tensor,
    offsets: Tensor | None = None,
    max_norm: float | None = None,
    norm_type: float = 2,
    scale_grad_by_freq: bool = False,
    mode: str = "mean",
    sparse: bool = False,
    per_sample_weights: Tensor | None = None,
    include_last_offset: bool = False,
    padding_idx: int | None = None,
) -> Tensor:
    """Sums, means or maxima of the embeddings in each bag, without an embedding per index in the result.

    Shapes: input (B, N): B bags of N; or input (N,) with offsets (B,), where bags begin. -> (B, dim).
    Raises: OutOfBoundsError for an index outside the weight; ShapeError when `offsets` does not fit.

    >>> import twofold as tw
    >>> w = tw.tensor([[1.0], [2.0], [4.0]])
    >>> tw.nn.functional.embedding_bag(tw.tensor([0, 1, 2]), w, tw.tensor([0, 2]), mode="sum")
    tensor([[3.],
            [4.]])
    """
    if mode not in ("sum", "mean", "max"):
        raise TwofoldError(f"mode {mode!r} is unknown", op="embedding_bag", hint="use 'sum', 'mean' or 'max'")
    if per_sample_weights is not None and mode != "sum":
        raise TwofoldError("per_sample_weights need mode='sum'", op="embedding_bag")
    flat, segments, bags = _bags(input, offsets, include_last_offset)
    if per_sample_weights is not None:
        if per_sample_weights.shape != input.shape:
            raise ShapeError(
                f"per_sample_weights have shape {per_sample_weights.shape}, the input {input.shape}",
                op="embedding_bag",
            )
        per_sample_weights = M.reshape(per_sample_weights, shape=(flat.shape[0], 1))
    check_indices(flat, weight.shape[0], "embedding_bag")
    rows = embedding(flat, weight, padding_idx, max_norm, norm_type, scale_grad_by_freq, sparse)
    if per_sample_weights is not None:
        rows = rows * per_sample_weights
    return _pool_bags(
        rows, flat, segments, bags, mode, None if padding_idx is None else padding_idx % weight.shape[0]
    )


def _bags(input: Tensor, offsets: Tensor | None, include_last: bool) -> tuple[Tensor, Tensor, int]:
    """The flat indices, the bag that each belongs to, and the number of bags."""
    if input.ndim == 2:
        if offsets is not None:
            raise ShapeError("offsets must be None when the input is 2-d", op="embedding_bag")
        bags, size = input.shape
        flat = M.reshape(input, shape=(bags * size,))
        return flat, E.floor_divide(M.iota(size=bags * size, dtype=int64), max(size, 1)), bags
    if input.ndim != 1 or offsets is None or offsets.ndim != 1:
        raise ShapeError(
            f"expects a 2-d input, or a 1-d input with 1-d offsets; got input {input.shape} and offsets "
            f"{None if offsets is None else offsets.shape}",
            op="embedding_bag",
        )
    places = M.iota(size=input.shape[0], dtype=int64)
    after = S.searchsorted(cast(offsets, int64), places, right=True)
    return input, after - 1, offsets.shape[0] - bool(include_last)


def _pool_bags(rows: Tensor, flat: Tensor, segments: Tensor, bags: int, how: str, padding: int | None) -> Tensor:
    dim = rows.shape[1]
    index = M.expand(M.reshape(segments, shape=(rows.shape[0], 1)), shape=rows.shape)
    zeros = constant(0.0, rows, (bags, dim))
    counts = None
    keep = None
    if padding is not None:
        keep = M.reshape(E.ne(cast(flat, int64), padding), shape=(rows.shape[0], 1))
    if how != "sum":
        one = constant(1.0, rows, (rows.shape[0], 1))
        if keep is not None:
            one = cast(keep, rows.dtype)
        counts = I.scatter_add(zeros, index, M.expand(one, shape=rows.shape), dim=0)
    if how == "max":
        low = constant(-math.inf, rows, (bags, dim))
        if keep is not None:
            rows = E.where(keep, rows, -math.inf)
        top = I.scatter_reduce(low, index, rows, dim=0, reduce="amax", include_self=True)
        return E.where(E.gt(counts, 0.0), top, 0.0)
    if keep is not None:
        rows = E.where(keep, rows, 0.0)
    summed = I.scatter_add(zeros, index, rows, dim=0)
    return summed if counts is None else summed / E.maximum(counts, 1.0)


def one_hot(tensor: Tensor, num_classes: int = -1) -> Tensor:
    """Ones at the classes, zeros elsewhere, along a new last dimension.

    Shapes: tensor (*) int64 -> (*, num_classes) int64; -1 takes the largest class plus one.
    Raises: OutOfBoundsError for a class that is negative or too large.

    >>> import twofold as tw
    >>> tw.nn.functional.one_hot(tw.tensor([0, 2]))
    tensor([[1, 0, 0],
            [0, 0, 1]])
    """
    if num_classes == -1:
        if 0 in tensor.shape:
            raise ShapeError("can't infer the number of classes from an empty tensor", op="one_hot")
        num_classes = int(tensor.max().item()) + 1
    check_indices(tensor, num_classes, "one_hot", what="classes")
    classes: Any = M.iota(size=num_classes, dtype=int64)
    return E.cast(E.eq(M.reshape(cast(tensor, int64), shape=(*tensor.shape, 1)), classes), dtype=int64)
