"""Picking and placing along a dimension: index_select and its kin, take, gather, scatter."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

import numpy as np

from ..autodiff.composite import composite
from ..autodiff.handle import Tensor
from ..ir.dtypes import bool_, int64
from ..ir.errors import DTypeError, OutOfBoundsError, ShapeError
from ..ir.types import Shape, broadcast_shapes, canonical_dim
from ..primitives import elementwise as E
from ..primitives import index as I
from ..primitives import movement as M
from ._keys import check_mask, constant, indices_of_mask
from ._registry import function
from ._shapes import sizes
from ._views import part, picked
from .indexing import fit, flat, getitem, result_shape, value_as

# --- whole slices along a dimension --------------------------------------------------------------


def _index_tensor(index: Any, op: str) -> Tensor:
    if not isinstance(index, Tensor):
        index = constant(np.asarray(index))
    if index.dtype is int64:
        return index
    if index.dtype.kind not in ("int", "uint"):
        raise DTypeError(f"the index must hold integers, got {index.dtype.name}", op=op, hint="use index.long()")
    return E.cast(index, dtype=int64)


def _row(x: Tensor) -> Tensor:
    """A 0-d tensor as a 1-d one."""
    return x if x.ndim else M.reshape(x, shape=(1,))


def _places_along(input: Tensor, dim: int, index: Any, op: str) -> tuple[Tensor, int, Tensor]:
    """Input (at least 1-d), canonical dim and a 1-d int64 index."""
    index = _row(_index_tensor(index, op))
    if index.ndim > 1:
        raise ShapeError(f"the index must be 1-d, got shape {index.shape}", op=op, hint="use gather or x[index]")
    return _row(input), canonical_dim(dim, input.ndim, op=op), index


@function(dims=True)
def index_select(input: Tensor, dim: int, index: Tensor) -> Tensor:
    """The slices of `input` along `dim` that the 1-d `index` lists.

    >>> import twofold as tw
    >>> tw.tensor([[1, 2], [3, 4]]).index_select(1, tw.tensor([1, 1]))
    tensor([[2, 2],
            [4, 4]])
    """
    x, dim, index = _places_along(input, dim, index, "index_select")
    out = I.index(x, index, dims=(dim,))
    return out if input.ndim else M.reshape(out, shape=())


def _put_along(input: Tensor, dim: int, index: Any, source: Tensor, op: str, accumulate: bool) -> Tensor:
    x, dim, index = _places_along(input, dim, index, op)
    want = (*x.shape[:dim], index.shape[0], *x.shape[dim + 1 :])
    if source.dtype is not x.dtype:
        raise DTypeError(f"the tensor has dtype {x.dtype.name}, the source {source.dtype.name}", op=op)
    if source.shape != want:
        if math.prod(source.shape) != math.prod(want) or max(source.ndim, 1) != max(input.ndim, 1):
            raise ShapeError(f"the source has shape {source.shape}, expected {want}", op=op)
        source = M.reshape(source, shape=want)
    out = I.index_put(x, source, index, dims=(dim,), accumulate=accumulate)
    return out if input.ndim else M.reshape(out, shape=())


@function(inplace=True, dims=True)
def index_add(input: Tensor, dim: int, index: Tensor, source: Tensor, *, alpha: float = 1) -> Tensor:
    """`input` with `alpha * source[..., i, ...]` added to its slice `index[i]` along `dim`.

    Repeated indices add up, in order.
    Raises: ShapeError if source's shape is not input's with index's size along `dim`.

    >>> import twofold as tw
    >>> tw.zeros(3).index_add(0, tw.tensor([0, 2, 0]), tw.tensor([1.0, 2.0, 3.0]))
    tensor([4., 0., 2.])
    """
    return _put_along(input, dim, index, source if alpha == 1 else source * alpha, "index_add", True)


@function(inplace=True, dims=True)
def index_copy(input: Tensor, dim: int, index: Tensor, source: Tensor) -> Tensor:
    """`input` with its slices `index` along `dim` replaced by those of `source`.

    Of repeated indices the last one counts.
    """
    return _put_along(input, dim, index, source, "index_copy", False)


@function(inplace=True, dims=True)
def index_fill(input: Tensor, dim: int, index: Tensor, value: Any) -> Tensor:
    """`input` with its slices `index` along `dim` filled with `value`, a number or a 0-d tensor."""
    x, dim, index = _places_along(input, dim, index, "index_fill")
    v = value_as(value, x.dtype)
    if v.ndim:
        raise ShapeError(f"the value must be a number or a 0-d tensor, got shape {v.shape}", op="index_fill")
    out = I.index_put(x, v, index, dims=(dim,), accumulate=False)
    return out if input.ndim else M.reshape(out, shape=())


@function(inplace=True)
def index_put(input: Tensor, indices: Sequence[Any], values: Tensor, accumulate: bool = False) -> Tensor:
    """`input` with `values` written to (or, with `accumulate`, added to) the places `indices`.

    Shapes: as in `input[tuple(indices)] = values`.

    >>> import twofold as tw
    >>> tw.zeros(2).index_put((tw.tensor([1, 1]),), tw.tensor([2.0, 3.0]), accumulate=True)
    tensor([0., 5.])
    """
    places: list[Tensor] = []
    dims: list[int] = []
    dim = 0
    for i in indices:
        if i is None:
            dim += 1
            continue
        if isinstance(i, Tensor) and i.dtype is bool_:
            check_mask(i, input.shape, dim)
            found = indices_of_mask(i)
        else:
            found = [_index_tensor(i, "index_put")]
        places += found
        dims += range(dim, dim + len(found))
        dim += len(found)
    if dim > input.ndim:
        raise OutOfBoundsError(
            f"too many indices: {dim} for a {input.ndim}-d tensor of shape {input.shape}", op="index_put"
        )
    if values.dtype is not input.dtype:
        raise DTypeError(f"the tensor has dtype {input.dtype.name}, the values {values.dtype.name}", op="index_put")
    v = fit(values, result_shape(input.shape, places, tuple(dims)))
    return I.index_put(input, v, *places, dims=tuple(dims), accumulate=accumulate)


@function(dims=True)
def select(input: Tensor, dim: int, index: int) -> Tensor:
    """The slice number `index` along `dim`, as a view without that dimension.

    >>> import twofold as tw
    >>> tw.tensor([[1, 2], [3, 4]]).select(1, 0)
    tensor([1, 3])
    """
    if not input.ndim:
        raise OutOfBoundsError("a 0-d tensor has no dimension to select from", op="select")
    dim = canonical_dim(dim, input.ndim, op="select")
    n = input.shape[dim]
    if index.__class__ is int and -n <= index < n:
        return picked(input, dim, index % n)
    return getitem(input, (slice(None),) * dim + (index,))


@function(dims=True)
def narrow(input: Tensor, dim: int, start: Any, length: int) -> Tensor:
    """The `length` slices along `dim` from `start` on, as a view.

    Raises: OutOfBoundsError if they are not all inside.

    >>> import twofold as tw
    >>> tw.arange(5).narrow(0, 1, 3)
    tensor([1, 2, 3])
    """
    dim = canonical_dim(dim, input.ndim, op="narrow")
    n = input.shape[dim] if input.ndim else 0
    start, (length,) = int(start), sizes((length,), "narrow")
    first = start + n if start < 0 else start
    if not input.ndim or not 0 <= first <= n or not 0 <= length <= n - first:
        raise OutOfBoundsError(
            f"start={start}, length={length} is outside dimension {dim} of size {n} (shape {input.shape})",
            op="narrow",
            hint=f"start + length must be at most {n}, and length not negative",
        )
    return part(input, dim, first, first + length)


# --- single elements -----------------------------------------------------------------------------


@function
def take(input: Tensor, index: Tensor) -> Tensor:
    """Elements of `input`, seen as 1-d in row-major order, at `index`; the result has index's shape.

    >>> import twofold as tw
    >>> tw.tensor([[1, 2], [3, 4]]).take(tw.tensor([0, 3]))
    tensor([1, 4])
    """
    return I.index(flat(input), _index_tensor(index, "take"), dims=(0,))


@function(dims=True)
def take_along_dim(input: Tensor, indices: Tensor, dim: int | None = None) -> Tensor:
    """`gather` after broadcasting all dimensions but `dim`; without `dim` both are flattened.

    >>> import twofold as tw
    >>> x = tw.tensor([[3, 1], [2, 4]])
    >>> x.take_along_dim(x.argsort(dim=1), dim=1)
    tensor([[1, 3],
            [2, 4]])
    """
    op = "take_along_dim"
    indices = _index_tensor(indices, op)
    if dim is None:
        return I.gather(flat(input), flat(indices), dim=0)
    if input.ndim != indices.ndim:
        raise ShapeError(f"input has shape {input.shape} and the indices {indices.shape}: ranks differ", op=op)
    dim = canonical_dim(dim, input.ndim, op=op)

    def without(shape: Shape) -> Shape:
        return tuple([1 if d == dim else n for d, n in enumerate(shape)])

    common = broadcast_shapes(without(input.shape), without(indices.shape), op=op)

    def spread(x: Tensor) -> Tensor:
        return M.expand(x, shape=tuple([x.shape[d] if d == dim else n for d, n in enumerate(common)]))

    return I.gather(spread(input), spread(indices), dim=dim)


@function(dims=True)
@composite(fused=True)
def gather(input: Tensor, dim: int, index: Tensor, *, sparse_grad: bool = False) -> Tensor:
    """Elements of `input` picked along `dim`: `out[i][j] = input[index[i][j]][j]` for dim 0.

    Shapes: index has input's rank and, but for `dim`, at most its sizes; the result has index's shape.
    Raises: OutOfBoundsError with the index that is outside.

    >>> import twofold as tw
    >>> tw.tensor([[1, 2], [3, 4]]).gather(1, tw.tensor([[0], [1]]))
    tensor([[1],
            [4]])
    """
    dim = canonical_dim(dim, input.ndim, op="gather")
    index = _index_tensor(index, "gather")
    if 0 in index.shape and index.ndim != input.ndim:
        return M.full(shape=index.shape, value=0, dtype=input.dtype)
    return I.gather(input, index, dim=dim)


def _scatter_arguments(input: Tensor, dim: int, index: Tensor, src: Any, op: str) -> tuple[int, Tensor, Tensor]:
    dim = canonical_dim(dim, input.ndim, op=op)
    index = _index_tensor(index, op)
    if not isinstance(src, Tensor):
        src = M.expand(value_as(src, input.dtype), shape=index.shape)
    return dim, index, src


def _nothing(input: Tensor, index: Tensor) -> bool:
    return 0 in index.shape and index.ndim != input.ndim


@function(inplace=True, dims=True)
def scatter(
    input: Tensor, dim: int, index: Tensor, src: Any = None, *, value: Any = None, reduce: str | None = None
) -> Tensor:
    """`input` with the elements of `src` (or one number) written along `dim`: the reverse of gather.

    `input[index[i][j]][j] = src[i][j]` for dim 0. With `reduce="add"` or `"multiply"` the sources
    are combined with what is there.
    Numerics: of several sources for one place the last in row-major order counts.

    >>> import twofold as tw
    >>> tw.zeros(3).scatter(0, tw.tensor([2, 0]), tw.tensor([5.0, 7.0]))
    tensor([7., 0., 5.])
    """
    op = "scatter"
    if (src is None) == (value is None):
        raise ShapeError("scatter takes either src or value", op=op)
    dim, index, src = _scatter_arguments(input, dim, index, value if src is None else src, op)
    if _nothing(input, index):
        return E.copy(input)
    if reduce is None:
        return I.scatter(input, index, src, dim=dim)
    if reduce == "add":
        return I.scatter_add(input, index, src, dim=dim)
    if reduce == "multiply":
        return I.scatter_reduce(input, index, src, dim=dim, reduce="prod", include_self=True)
    raise ShapeError(f"reduce must be 'add' or 'multiply', got {reduce!r}", op=op, hint="scatter_reduce knows more")


@function(inplace=True, dims=True)
def scatter_add(input: Tensor, dim: int, index: Tensor, src: Tensor) -> Tensor:
    """`input` with the elements of `src` added along `dim`: `input[index[i][j]][j] += src[i][j]`.

    >>> import twofold as tw
    >>> tw.zeros(2).scatter_add(0, tw.tensor([1, 1]), tw.tensor([2.0, 3.0]))
    tensor([0., 5.])
    """
    dim, index, src = _scatter_arguments(input, dim, index, src, "scatter_add")
    return E.copy(input) if _nothing(input, index) else I.scatter_add(input, index, src, dim=dim)


@function(inplace=True, dims=True)
def scatter_reduce(
    input: Tensor, dim: int, index: Tensor, src: Tensor, reduce: str, *, include_self: bool = True
) -> Tensor:
    """`input` with the elements of `src` reduced into it along `dim`.

    `reduce` is "sum", "prod", "mean", "amax" or "amin"; without `include_self` the places that
    something is scattered to forget what they held.

    >>> import twofold as tw
    >>> tw.zeros(2).scatter_reduce(0, tw.tensor([1, 1]), tw.tensor([2.0, 3.0]), "amax")
    tensor([0., 3.])
    """
    dim, index, src = _scatter_arguments(input, dim, index, src, "scatter_reduce")
    if _nothing(input, index):
        return E.copy(input)
    return I.scatter_reduce(input, index, src, dim=dim, reduce=reduce, include_self=include_self)
