"""Copies of a tensor with a part of it replaced: what writing to a view does, without changing the tensor."""

from __future__ import annotations

import builtins
from collections.abc import Sequence

from ..autodiff.handle import Tensor
from ..ir.errors import DTypeError, OutOfBoundsError, ShapeError, TwofoldError
from ..ir.types import Shape, canonical_dim
from ..primitives import elementwise as E
from ..primitives import index as I
from ..primitives import movement as M
from ..primitives import strided as S
from ._registry import function
from ._shapes import sizes
from .gathering import _index_tensor, _places_along, scatter_reduce
from .indexing import flat


def _part(src: Tensor, input: Tensor, shape: Shape, op: str) -> Tensor:
    """`src` with input's dtype; raises ShapeError unless it has the shape of the part that it replaces."""
    if src.shape != shape:
        raise ShapeError(f"the part to replace has shape {shape}, src {src.shape}", op=op)
    return src if src.dtype is input.dtype else E.cast(src, dtype=input.dtype)


def _replace_slice(input: Tensor, src: Tensor, dim: int, where: range) -> Tensor:
    n = input.ndim
    start, stop, step = [0] * n, list(input.shape), [1] * n
    start[dim], stop[dim], step[dim] = where.start, where.stop, where.step
    return M.update_slice(input, src, start=tuple(start), stop=tuple(stop), step=tuple(step))


@function(dims=True)
def select_scatter(input: Tensor, src: Tensor, dim: int, index: int) -> Tensor:
    """A copy of `input` in which `select(dim, index)` is `src`.

    Raises: ShapeError unless src has the shape of that slice; OutOfBoundsError for the index.

    >>> import twofold as tw
    >>> tw.zeros(2, 2).select_scatter(tw.ones(2), 0, 1)
    tensor([[0., 0.],
            [1., 1.]])
    """
    dim = canonical_dim(dim, input.ndim, op="select_scatter")
    shape = input.shape
    if not -shape[dim] <= index < shape[dim]:
        raise OutOfBoundsError(
            f"index {index} is out of bounds for dimension {dim} of shape {shape}", op="select_scatter"
        )
    src = _part(src, input, (*shape[:dim], *shape[dim + 1 :]), "select_scatter")
    src = M.reshape(src, shape=(*shape[:dim], 1, *shape[dim + 1 :]))
    index %= shape[dim]
    return _replace_slice(input, src, dim, range(index, index + 1))


@function(dims=True)
def slice_scatter(
    input: Tensor, src: Tensor, dim: int = 0, start: int | None = None, end: int | None = None, step: int = 1
) -> Tensor:
    """A copy of `input` in which the slice `start:end:step` along `dim` is `src`.

    Raises: ShapeError unless src has the shape of that slice; TwofoldError unless step is positive.

    >>> import twofold as tw
    >>> tw.zeros(4).slice_scatter(tw.ones(2), start=1, end=3)
    tensor([0., 1., 1., 0.])
    """
    if step < 1:
        raise TwofoldError(f"step must be positive, got {step}", op="slice_scatter")
    dim = canonical_dim(dim, input.ndim, op="slice_scatter")
    shape = input.shape
    first, stop, step = builtins.slice(start, end, step).indices(shape[dim])
    where = range(first, max(first, stop), step)
    src = _part(src, input, (*shape[:dim], len(where), *shape[dim + 1 :]), "slice_scatter")
    return _replace_slice(input, src, dim, where)


@function
def diagonal_scatter(input: Tensor, src: Tensor, offset: int = 0, dim1: int = 0, dim2: int = 1) -> Tensor:
    """A copy of `input` in which `diagonal(offset, dim1, dim2)` is `src`.

    Raises: ShapeError unless src has the shape of that diagonal.

    >>> import twofold as tw
    >>> tw.zeros(2, 2).diagonal_scatter(tw.ones(1), 1)
    tensor([[0., 1.],
            [0., 0.]])
    """
    a = canonical_dim(dim1, input.ndim, op="diagonal_scatter")
    b = canonical_dim(dim2, input.ndim, op="diagonal_scatter")
    shape = S.diagonal(input, offset=offset, dim1=a, dim2=b).shape
    src = _part(src, input, shape, "diagonal_scatter")
    return S.update_diagonal(input, src, offset=offset, dim1=a, dim2=b)


@function(inplace=True)
def put(input: Tensor, index: Tensor, source: Tensor, accumulate: bool = False) -> Tensor:
    """`input`, seen as 1-d, with `source` written to (or, with `accumulate`, added to) the places `index`.

    Raises: ShapeError unless index and source have as many elements; DTypeError unless source has input's dtype.

    >>> import twofold as tw
    >>> tw.zeros(2, 2).put(tw.tensor([1, 3]), tw.tensor([5.0, 6.0]))
    tensor([[0., 5.],
            [0., 6.]])
    """
    places = _index_tensor(index, "put")
    if places.type_.size != source.type_.size:
        raise ShapeError(f"the index has shape {places.shape}, the source {source.shape}", op="put")
    if source.dtype is not input.dtype:
        raise DTypeError(f"the tensor has dtype {input.dtype.name}, the source {source.dtype.name}", op="put")
    out = I.index_put(flat(input), flat(source), flat(places), dims=(0,), accumulate=accumulate)
    return M.reshape(out, shape=input.shape)


@function(inplace=True, dims=True)
def index_reduce(
    input: Tensor, dim: int, index: Tensor, source: Tensor, reduce: str, *, include_self: bool = True
) -> Tensor:
    """`input` with slices `source[..., i, ...]` reduced into its slices `index[i]` along `dim`.

    Args:
        reduce: "prod", "mean", "amax" or "amin".
        include_self: whether the values of `input` take part.

    Raises: ShapeError if source's shape is not input's with index's size along `dim`.

    >>> import twofold as tw
    >>> tw.ones(2).index_reduce(0, tw.tensor([0, 0]), tw.tensor([2.0, 3.0]), "prod")
    tensor([6., 1.])
    """
    if reduce not in ("prod", "mean", "amax", "amin"):
        raise TwofoldError(
            f"reduce={reduce!r} is not known", op="index_reduce", hint='use "prod", "mean", "amax" or "amin"'
        )
    x, dim, places = _places_along(input, dim, index, "index_reduce")
    want = (*x.shape[:dim], places.shape[0], *x.shape[dim + 1 :])
    source = source if source.ndim else M.reshape(source, shape=(1,))
    if source.shape != want:
        raise ShapeError(f"the source has shape {source.shape}, expected {want}", op="index_reduce")
    line = tuple(n if i == dim else 1 for i, n in enumerate(want))
    places = M.expand(M.reshape(places, shape=line), shape=want)
    out = scatter_reduce(x, dim, places, source, reduce, include_self=include_self)
    return M.reshape(out, shape=input.shape)


@function(method=False)
def unravel_index(indices: Tensor, shape: int | Sequence[int]) -> tuple[Tensor, ...]:
    """The coordinates, one tensor a dimension, of flat indices into a tensor of shape `shape`.

    Raises: DTypeError unless the indices are integers.

    >>> import twofold as tw
    >>> tw.unravel_index(tw.tensor(5), (2, 3))
    (tensor(1), tensor(2))
    """
    if indices.dtype.kind not in ("int", "uint"):
        raise DTypeError(f"expected integers, got {indices.dtype.name}", op="unravel_index")
    out = []
    for n in reversed(sizes((shape,) if isinstance(shape, int) else (tuple(shape),), "unravel_index")):
        out.append(indices % n)
        indices = indices // n
    return tuple(reversed(out))
