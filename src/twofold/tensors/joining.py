"""Functions that join, split and repeat tensors."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np

from ..autodiff.bind import bind
from ..autodiff.handle import Tensor, wrap
from ..ir.dtypes import int64, promote
from ..ir.errors import DTypeError, ShapeError
from ..ir.types import canonical_dim
from ..primitives import elementwise as E
from ..primitives import index as I
from ..primitives import movement as P
from ._registry import function
from ._shapes import sizes
from ._views import part, picked, reshaped
from .movement import _atleast, _several, _to_1d, _to_2d, _to_3d

# --- join ----------------------------------------------------------------------------------------


def _alike(tensors: Any, op: str) -> tuple[Tensor, ...]:
    """The tensors in their common dtype."""
    if isinstance(tensors, Tensor):
        tensors = unbind(tensors)
    tensors = tuple(tensors)
    if not tensors:
        raise ShapeError("no tensors were given", op=op, hint="pass a list with at least one tensor")
    alike, first = True, None
    for i, x in enumerate(tensors):
        if not isinstance(x, Tensor):
            raise DTypeError(f"item {i} is no tensor but {type(x).__name__}", op=op)
        if first is None:
            first = x._value.dtype
        elif x._value.dtype is not first:
            alike = False
    if alike:
        return tensors
    dtype = tensors[0].dtype
    for x in tensors:
        dtype = promote(dtype, x.dtype)
    return tuple([x if x.dtype is dtype else E.cast(x, dtype=dtype) for x in tensors])


@function(method=False, aliases=("concat", "concatenate"), dims=True)
def cat(tensors: Sequence[Tensor], dim: int = 0) -> Tensor:
    """Tensors one after the other along `dim`, in their common dtype.

    Shapes: sizes other than that of `dim` must agree; empty 1-d tensors are skipped.
    Raises: ShapeError with the two shapes that do not fit.

    >>> import twofold as tw
    >>> tw.cat([tw.ones(2), tw.zeros(1)])
    tensor([1., 1., 0.])
    """
    xs = _alike(tensors, "cat")
    kept = tuple([x for x in xs if x._value.shape != (0,)]) or xs[:1]
    first = kept[0]._value.shape
    if not first:
        raise ShapeError("0-d tensors can't be joined", op="cat", hint="use stack()")
    dim = canonical_dim(dim, len(first), op="cat")
    try:
        return bind(P.concat, kept, {"dim": dim})
    except ShapeError:
        raise _unfit(kept, dim) from None


def _unfit(xs: Sequence[Tensor], dim: int) -> ShapeError:
    """The error of tensors that do not fit along `dim`."""

    def others(x: Tensor) -> Any:
        return x.ndim, x.shape[:dim], x.shape[dim + 1 :]

    i = next(i for i, x in enumerate(xs) if others(x) != others(xs[0]))
    return ShapeError(
        f"shapes {xs[0].shape} and {xs[i].shape} (tensor {i}) do not fit along dimension {dim}",
        op="cat",
        hint=f"all sizes but that of dimension {dim} must be equal",
    )


@function(method=False, dims=True)
def stack(tensors: Sequence[Tensor], dim: int = 0) -> Tensor:
    """Tensors of one shape along a new dimension `dim`.

    >>> import twofold as tw
    >>> tw.stack([tw.zeros(2), tw.ones(2)], dim=1)
    tensor([[0., 1.],
            [0., 1.]])
    """
    xs = _alike(tensors, "stack")
    shape = xs[0]._value.shape
    for x in xs:
        if x._value.shape != shape:
            i = next(i for i, x in enumerate(xs) if x.shape != shape)
            raise ShapeError(
                f"all shapes must be equal, but tensor 0 has shape {shape} and tensor {i} {xs[i].shape}",
                op="stack",
                hint="use cat() to join along an existing dimension",
            )
    dim = canonical_dim(dim, len(shape) + 1, op="stack")
    if dim == len(shape):
        new = (*shape, 1)
        return bind(P.concat, tuple([reshaped(x, new) for x in xs]), {"dim": dim})
    out = reshaped(bind(P.concat, xs, {"dim": dim}), (*shape[:dim], len(xs), *shape[dim:]))
    out._base, out._steps = None, ()  # nobody else has what it is a view of
    return out


@function(method=False)
def hstack(tensors: Sequence[Tensor]) -> Tensor:
    """Join along dimension 1, or 0 for 1-d tensors.

    >>> import twofold as tw
    >>> tw.hstack([tw.tensor([1]), tw.tensor([2, 3])])
    tensor([1, 2, 3])
    """
    xs = _atleast((_alike(tensors, "hstack"),), _to_1d)
    return cat(xs, 0 if xs[0].ndim == 1 else 1)


@function(method=False, aliases=("row_stack",))
def vstack(tensors: Sequence[Tensor]) -> Tensor:
    """Join rows: 1-d tensors are rows.

    >>> import twofold as tw
    >>> tw.vstack([tw.zeros(2), tw.ones(2)]).shape
    (2, 2)
    """
    return cat(_atleast((_alike(tensors, "vstack"),), _to_2d), 0)


@function(method=False)
def dstack(tensors: Sequence[Tensor]) -> Tensor:
    """Join along dimension 2, after `atleast_3d`.

    >>> import twofold as tw
    >>> tw.dstack([tw.zeros(2), tw.ones(2)]).shape
    (1, 2, 2)
    """
    return cat(_atleast((_alike(tensors, "dstack"),), _to_3d), 2)


@function(method=False)
def column_stack(tensors: Sequence[Tensor]) -> Tensor:
    """Join columns: 0-d and 1-d tensors are columns.

    >>> import twofold as tw
    >>> tw.column_stack([tw.tensor([1, 2]), tw.tensor([3, 4])])
    tensor([[1, 3],
            [2, 4]])
    """
    xs = _alike(tensors, "column_stack")
    return cat([x if x.ndim > 1 else P.reshape(x, shape=(*_to_1d(x).shape, 1)) for x in xs], 1)


@function(method=False)
def block_diag(*tensors: Any) -> Tensor:
    """Matrices along the diagonal of one matrix of zeros.

    >>> import twofold as tw
    >>> tw.block_diag(tw.ones(1, 1), tw.ones(1, 2))
    tensor([[1., 0., 0.],
            [0., 1., 1.]])
    """
    xs = [_to_2d(x) for x in _alike(_several(tensors), "block_diag")]
    width, at, rows = sum(x.shape[1] for x in xs), 0, []
    for x in xs:
        if x.ndim > 2:
            raise ShapeError(f"expected matrices, got shape {x.shape}", op="block_diag")
        rows.append(P.pad(x, low=(0, at), high=(0, width - at - x.shape[1]), value=0))
        at += x.shape[1]
    return P.concat(*rows, dim=0)


# --- split ---------------------------------------------------------------------------------------


def _parts(x: Tensor, dim: int, ends: Sequence[int]) -> tuple[Tensor, ...]:
    out, at = [], 0
    for end in ends:
        out.append(part(x, dim, at, end))
        at = end
    return tuple(out)


def _needs_dims(x: Tensor, op: str) -> None:
    if not x.ndim:
        raise ShapeError("a 0-d tensor can't be split", op=op)


@function(dims=True)
def split(input: Tensor, split_size_or_sections: int | Sequence[int], dim: int = 0) -> tuple[Tensor, ...]:
    """Views of consecutive parts: of a given size (the last may be smaller), or of given sizes.

    >>> import twofold as tw
    >>> [p.tolist() for p in tw.arange(5).split(2)]
    [[0, 1], [2, 3], [4]]
    """
    _needs_dims(input, "split")
    dim = canonical_dim(dim, input.ndim, op="split")
    n = input.shape[dim]
    if isinstance(split_size_or_sections, (tuple, list)):
        if sum(split_size_or_sections) != n or any(s < 0 for s in split_size_or_sections):
            raise ShapeError(
                f"sections {list(split_size_or_sections)} must add up to {n}, the size of dimension {dim} "
                f"of shape {input.shape}",
                op="split",
            )
        ends = np.cumsum(split_size_or_sections, dtype=np.int64).tolist()
        return _parts(input, dim, ends)
    (size,) = sizes((split_size_or_sections,), "split")
    if size < 0 or (size == 0 and n):
        raise ShapeError(f"split size must be positive, got {size}", op="split")
    return _parts(input, dim, [min(i + size, n) for i in range(0, n, size)] if n else [0])


@function(dims=True)
def split_with_sizes(input: Tensor, split_sizes: Sequence[int], dim: int = 0) -> tuple[Tensor, ...]:
    """`split` with a list of sizes.

    >>> import twofold as tw
    >>> [p.tolist() for p in tw.arange(3).split_with_sizes([1, 2])]
    [[0], [1, 2]]
    """
    return split(input, list(split_sizes), dim)


@function(dims=True)
def chunk(input: Tensor, chunks: int, dim: int = 0) -> tuple[Tensor, ...]:
    """At most `chunks` views of equal size; the last may be smaller.

    >>> import twofold as tw
    >>> [p.tolist() for p in tw.arange(5).chunk(2)]
    [[0, 1, 2], [3, 4]]
    """
    _needs_dims(input, "chunk")
    if chunks < 1:
        raise ShapeError(f"chunks must be at least 1, got {chunks}", op="chunk")
    dim = canonical_dim(dim, input.ndim, op="chunk")
    n = input.shape[dim]
    return split(input, -(-n // chunks), dim) if n else _parts(input, dim, [0] * chunks)


@function(dims=True)
def tensor_split(
    input: Tensor, indices_or_sections: int | Sequence[int] | Tensor, dim: int = 0
) -> tuple[Tensor, ...]:
    """Views: exactly so many parts (the first ones larger by one), or parts between given indices.

    >>> import twofold as tw
    >>> [p.tolist() for p in tw.arange(5).tensor_split((1, 3))]
    [[0], [1, 2], [3, 4]]
    """
    return _tensor_split(input, indices_or_sections, dim, "tensor_split")


def _tensor_split(input: Tensor, at: Any, dim: int, op: str) -> tuple[Tensor, ...]:
    _needs_dims(input, op)
    dim = canonical_dim(dim, input.ndim, op=op)
    n = input.shape[dim]
    if isinstance(at, Tensor):
        at = at.tolist()
    if isinstance(at, int):
        if at < 1:
            raise ShapeError(f"the number of parts must be positive, got {at}", op=op)
        ends = [(i + 1) * (n // at) + min(i + 1, n % at) for i in range(at)]
        return _parts(input, dim, ends)
    points = [slice(None, i).indices(n)[1] for i in at]
    pairs = zip([0, *points], [*points, n], strict=True)
    return tuple([part(input, dim, start, max(start, stop)) for start, stop in pairs])


def _even_split(input: Tensor, at: Any, dim: int, op: str, least: int) -> tuple[Tensor, ...]:
    if input.ndim < least:
        raise ShapeError(f"{op} needs at least {least} dimensions, got shape {input.shape}", op=op)
    if isinstance(at, int) and at > 0 and input.shape[dim] % at:
        raise ShapeError(
            f"dimension {dim} of shape {input.shape} can't be split into {at} equal parts",
            op=op,
            hint="tensor_split() makes parts of unequal size",
        )
    return _tensor_split(input, at, dim, op)


@function
def hsplit(input: Tensor, indices_or_sections: Any) -> tuple[Tensor, ...]:
    """Split into columns: along dimension 1, or 0 for 1-d tensors.

    >>> import twofold as tw
    >>> [p.tolist() for p in tw.arange(4).hsplit(2)]
    [[0, 1], [2, 3]]
    """
    return _even_split(input, indices_or_sections, 0 if input.ndim == 1 else 1, "hsplit", 1)


@function
def vsplit(input: Tensor, indices_or_sections: Any) -> tuple[Tensor, ...]:
    """Split into rows: along dimension 0.

    >>> import twofold as tw
    >>> [p.shape for p in tw.zeros(4, 2).vsplit(2)]
    [(2, 2), (2, 2)]
    """
    return _even_split(input, indices_or_sections, 0, "vsplit", 2)


@function
def dsplit(input: Tensor, indices_or_sections: Any) -> tuple[Tensor, ...]:
    """Split along dimension 2.

    >>> import twofold as tw
    >>> [p.shape for p in tw.zeros(1, 2, 4).dsplit(2)]
    [(1, 2, 2), (1, 2, 2)]
    """
    return _even_split(input, indices_or_sections, 2, "dsplit", 3)


@function(dims=True)
def unbind(input: Tensor, dim: int = 0) -> tuple[Tensor, ...]:
    """Views of all slices along `dim`, without that dimension.

    >>> import twofold as tw
    >>> a, b = tw.tensor([[1, 2], [3, 4]]).unbind()
    >>> b
    tensor([3, 4])
    """
    _needs_dims(input, "unbind")
    dim = canonical_dim(dim, input.ndim, op="unbind")
    return tuple([picked(input, dim, i) for i in range(input.shape[dim])])


# --- repeat --------------------------------------------------------------------------------------


def _repeat(x: Tensor, counts: tuple[int, ...], op: str) -> Tensor:
    if any(n < 0 for n in counts):
        raise ShapeError(f"the numbers of repeats must not be negative, got {counts}", op=op)
    lead = len(counts) - x.ndim
    if lead < 0:
        raise ShapeError(
            f"{len(counts)} numbers of repeats for a tensor of shape {x.shape}",
            op=op,
            hint="give one for every dimension",
        )
    shape = (1,) * lead + x.shape
    apart = [m for n in shape for m in (1, n)]
    wide = [m for c, n in zip(counts, shape, strict=True) for m in (c, n)]
    out = P.expand(P.reshape(x, shape=tuple(apart)), shape=tuple(wide))
    out = P.reshape(out, shape=tuple([c * n for c, n in zip(counts, shape, strict=True)]))
    return _owned(out)


def _owned(x: Tensor) -> Tensor:
    """`x`, or a copy if it is a view."""
    return x if x._base is None else E.copy(x)


@function(module=False)
def repeat(input: Tensor, *repeats: Any) -> Tensor:
    """The tensor laid out several times along each dimension: a copy.

    Shapes: one number per dimension; further numbers make new dimensions in front.

    >>> import twofold as tw
    >>> tw.tensor([1, 2]).repeat(2, 2)
    tensor([[1, 2, 1, 2],
            [1, 2, 1, 2]])
    """
    return _repeat(input, sizes(repeats, "repeat"), "repeat")


@function
def tile(input: Tensor, *dims: Any) -> Tensor:
    """`repeat`, where missing numbers mean 1.

    >>> import twofold as tw
    >>> tw.tensor([[1], [2]]).tile((2,))
    tensor([[1, 1],
            [2, 2]])
    """
    counts = sizes(dims, "tile")
    return _repeat(input, (1,) * (input.ndim - len(counts)) + counts, "tile")


@function(dims=True)
def repeat_interleave(
    input: Tensor, repeats: int | Tensor | None = None, dim: int | None = None, *, output_size: int | None = None
) -> Tensor:
    """Each element (or slice along `dim`) several times in a row.

    Without `dim` the tensor is flattened. With a tensor of counts each slice has its own; the counts'
    values decide the shape, so they can't be traced. `repeat_interleave(counts)` repeats 0, 1, ...

    >>> import twofold as tw
    >>> tw.tensor([1, 2]).repeat_interleave(2)
    tensor([1, 1, 2, 2])
    """
    op = "repeat_interleave"
    if repeats is None:
        return wrap(_repeated_places(input, input.shape[0], output_size))
    if dim is None:
        input, dim = P.reshape(input, shape=(int(np.prod(input.shape)),)), 0
    dim = canonical_dim(dim, input.ndim, op=op)
    input = _to_1d(input)
    n = input.shape[dim]
    if isinstance(repeats, Tensor) and repeats.shape not in ((), (1,)):
        places = wrap(_repeated_places(repeats, n, output_size))
        return I.index(input, places, dims=(dim,))
    count = int(repeats.item()) if isinstance(repeats, Tensor) else sizes((repeats,), op)[0]
    if count < 0:
        raise ShapeError(f"repeats must not be negative, got {count}", op=op)
    before, after = input.shape[:dim], input.shape[dim + 1 :]
    out = P.expand(P.reshape(input, shape=(*before, n, 1, *after)), shape=(*before, n, count, *after))
    out = P.reshape(out, shape=(*before, n * count, *after))
    return _owned(out)


def _repeated_places(repeats: Tensor, n: int, output_size: int | None) -> Any:
    """The index of every repeated slice, as an array."""
    op = "repeat_interleave"
    if repeats.dtype.kind not in ("int", "uint"):
        raise DTypeError(f"repeats must be integers, got {repeats.dtype.name}", op=op)
    if repeats.shape != (n,):
        raise ShapeError(f"repeats has shape {repeats.shape}, expected ({n},)", op=op)
    counts = repeats.numpy()
    if (counts < 0).any():
        raise ShapeError("repeats must not be negative", op=op)
    out = np.repeat(np.arange(n), counts.astype(int64.numpy))
    if output_size is not None and output_size != len(out):
        raise ShapeError(f"output_size is {output_size}, but repeats add up to {len(out)}", op=op)
    return out
