"""Functions that flip, roll, take diagonals and windows, and see memory through other strides."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from ..autodiff.handle import Tensor
from ..autodiff.layout import layout
from ..ir.dtypes import int64
from ..ir.errors import DTypeError, ShapeError
from ..ir.types import canonical_dim
from ..primitives import elementwise as E
from ..primitives import index as I
from ..primitives import movement as P
from ..primitives import strided as S
from ._registry import function
from ._shapes import dims as _dims
from ._shapes import sizes
from .joining import part, stack, unbind
from .movement import fill_

# --- flip, roll ----------------------------------------------------------------------------------


@function(dims=True)
def flip(input: Tensor, *dims: Any, **dim: Any) -> Tensor:
    """A copy with the order along `dims` reversed.

    >>> import twofold as tw
    >>> tw.arange(3).flip(0)
    tensor([2, 1, 0])
    """
    given = dims or tuple([dim.pop(k) for k in ("dims", "dim") if k in dim])
    if len(given) == 1 and isinstance(given[0], int):
        given = ((given[0],),)
    return P.flip(input, dims=tuple(sorted(_dims(given, input.ndim, "flip"))) if input.ndim else ())


@function
def fliplr(input: Tensor) -> Tensor:
    """Reverse the columns (dimension 1).

    >>> import twofold as tw
    >>> tw.tensor([[1, 2], [3, 4]]).fliplr()
    tensor([[2, 1],
            [4, 3]])
    """
    if input.ndim < 2:
        raise ShapeError(f"fliplr needs at least 2 dimensions, got shape {input.shape}", op="fliplr")
    return P.flip(input, dims=(1,))


@function
def flipud(input: Tensor) -> Tensor:
    """Reverse the rows (dimension 0).

    >>> import twofold as tw
    >>> tw.tensor([1, 2]).flipud()
    tensor([2, 1])
    """
    if input.ndim < 1:
        raise ShapeError("flipud needs at least 1 dimension, got a 0-d tensor", op="flipud")
    return P.flip(input, dims=(0,))


@function(dims=True)
def roll(input: Tensor, shifts: int | Sequence[int], dims: int | Sequence[int] | None = None, **dim: Any) -> Tensor:
    """Shift elements along dimensions; what leaves at the end comes in at the start.

    Without `dims` the tensor is rolled as if it were flat.

    >>> import twofold as tw
    >>> tw.arange(4).roll(1)
    tensor([3, 0, 1, 2])
    """
    if dims is None:
        dims = dim.pop("dim", None)
    moves = sizes((shifts,), "roll")
    if dims is None or dims in ((), []):
        if len(moves) != 1:
            raise ShapeError("several shifts need as many dims", op="roll")
        return P.reshape(_roll(P.reshape(input, shape=(input.type_.size,)), 0, moves[0]), shape=input.shape)
    places = (dims,) if isinstance(dims, int) else tuple(dims)
    if len(moves) != len(places):
        raise ShapeError(f"{len(moves)} shifts for {len(places)} dims", op="roll")
    for shift, place in zip(moves, places, strict=True):
        input = _roll(input, canonical_dim(place, input.ndim, op="roll"), shift)
    return input


def _roll(x: Tensor, dim: int, shift: int) -> Tensor:
    n = x.shape[dim] if x.ndim else 0
    if not n or not shift % n:
        return E.copy(x)
    cut = n - shift % n
    return P.concat(part(x, dim, cut, n), part(x, dim, 0, cut), dim=dim)


@function
def rot90(input: Tensor, k: int = 1, dims: Sequence[int] = (0, 1)) -> Tensor:
    """Turn by `k` times 90 degrees in the plane of two dimensions, from the first to the second.

    >>> import twofold as tw
    >>> tw.tensor([[0, 1], [2, 3]]).rot90()
    tensor([[1, 3],
            [0, 2]])
    """
    if input.ndim < 2 or len(dims) != 2:
        raise ShapeError(
            f"rot90 needs 2 dims of a tensor with at least 2 dimensions, got {tuple(dims)} of shape {input.shape}",
            op="rot90",
        )
    a, b = _dims((tuple(dims),), input.ndim, "rot90")
    order = list(range(input.ndim))
    order[a], order[b] = b, a
    turns = k % 4
    if turns == 1:
        return P.permute(P.flip(input, dims=(b,)), dims=tuple(order))
    if turns == 2:
        return P.flip(input, dims=tuple(sorted((a, b))))
    if turns == 3:
        return P.flip(P.permute(input, dims=tuple(order)), dims=(b,))
    return E.copy(input)


# --- diagonals -----------------------------------------------------------------------------------


@function
def diagonal(input: Tensor, offset: int = 0, dim1: int = 0, dim2: int = 1) -> Tensor:
    """A view of the diagonals of the matrices in two dimensions, as the last dimension.

    >>> import twofold as tw
    >>> tw.tensor([[1, 2], [3, 4]]).diagonal()
    tensor([1, 4])
    """
    if input.ndim < 2:
        raise ShapeError(f"diagonal needs at least 2 dimensions, got shape {input.shape}", op="diagonal")
    a, b = (canonical_dim(d, input.ndim, op="diagonal") for d in (dim1, dim2))
    if a == b:
        raise ShapeError(f"dim1 and dim2 are both dimension {a}", op="diagonal")
    return S.diagonal(input, offset=offset, dim1=a, dim2=b)


@function(module=False)
def fill_diagonal_(self: Tensor, fill_value: Any, wrap: bool = False) -> Tensor:
    """Set the main diagonal; all sizes must agree when there are more than two dimensions.

    `wrap` goes on below in tall matrices, after a gap of one row.

    >>> import twofold as tw
    >>> tw.zeros(2, 2).fill_diagonal_(1)
    tensor([[1., 0.],
            [0., 1.]])
    """
    if self.ndim < 2 or (self.ndim > 2 and len(set(self.shape)) > 1):
        raise ShapeError(
            f"fill_diagonal_ needs a matrix, or equal sizes in all dimensions, got shape {self.shape}",
            op="fill_diagonal_",
        )
    if self.ndim > 2:
        step, n = sum(layout(self).strides), self.shape[0]
        fill_(as_strided(self, (n,), (step,)), fill_value)
        return self
    rows, columns = self.shape
    for top in range(0, rows if wrap and columns else 1, columns + 1):
        fill_(S.diagonal(part(self, 0, top, rows), offset=0, dim1=0, dim2=1), fill_value)
    return self


@function
def diag_embed(input: Tensor, offset: int = 0, dim1: int = -2, dim2: int = -1) -> Tensor:
    """Matrices of zeros with the last dimension on a diagonal.

    >>> import twofold as tw
    >>> tw.tensor([1, 2]).diag_embed()
    tensor([[1, 0],
            [0, 2]])
    """
    a, b = (canonical_dim(d, input.ndim + 1, op="diag_embed") for d in (dim1, dim2))
    if a == b or not input.ndim:
        raise ShapeError(f"dims {dim1} and {dim2} do not fit shape {input.shape}", op="diag_embed")
    n = input.shape[-1] + abs(offset)
    shape = list(input.shape[:-1])
    for d in sorted((a, b)):
        shape.insert(d, n)
    base = P.full(shape=tuple(shape), value=False if input.dtype.kind == "bool" else 0, dtype=input.dtype)
    return S.update_diagonal(base, input, offset=offset, dim1=a, dim2=b)


@function
def diag(input: Tensor, diagonal: int = 0) -> Tensor:
    """The diagonal of a matrix (a copy), or a matrix with a vector on its diagonal.

    >>> import twofold as tw
    >>> tw.diag(tw.tensor([1, 2]))
    tensor([[1, 0],
            [0, 2]])
    """
    if input.ndim == 1:
        return diag_embed(input, diagonal)
    if input.ndim != 2:
        raise ShapeError(
            f"diag takes 1 or 2 dimensions, got shape {input.shape}",
            op="diag",
            hint="use diagonal() or diag_embed()",
        )
    return E.copy(S.diagonal(input, offset=diagonal, dim1=0, dim2=1))


@function
def diagflat(input: Tensor, offset: int = 0) -> Tensor:
    """A matrix with all elements of the tensor on its diagonal.

    >>> import twofold as tw
    >>> tw.diagflat(tw.tensor([1, 2]))
    tensor([[1, 0],
            [0, 2]])
    """
    return diag_embed(P.reshape(input, shape=(input.type_.size,)), offset)


# --- strides -------------------------------------------------------------------------------------


@function
def as_strided(
    input: Tensor, size: Sequence[int], stride: Sequence[int], storage_offset: int | None = None
) -> Tensor:
    """A view of the tensor's memory with other sizes and strides (counted in elements).

    Raises: OutOfBoundsError if it reaches beyond the memory; ShapeError if the memory comes from
        outside and is not in row order.

    >>> import twofold as tw
    >>> tw.arange(5).as_strided((3, 2), (1, 2))
    tensor([[0, 2],
            [1, 3],
            [2, 4]])
    """
    here = layout(input)
    if not here.packed:
        raise ShapeError(
            f"the memory of a tensor of shape {input.shape} is not in row order", op="as_strided", hint="clone() it"
        )
    return S.as_strided(
        here.root,
        shape=sizes((tuple(size),), "as_strided"),
        strides=sizes((tuple(stride),), "as_strided"),
        offset=here.offset if storage_offset is None else storage_offset,
    )


@function(module=False)
def unfold(input: Tensor, dimension: int, size: int, step: int) -> Tensor:
    """A view of all windows of `size` elements, `step` apart, along one dimension.

    Shapes: (..., n, ...) -> (..., (n - size) // step + 1, ..., size).
    Raises: ShapeError if the window is larger than the dimension.

    >>> import twofold as tw
    >>> tw.arange(5).unfold(0, 3, 2)
    tensor([[0, 1, 2],
            [2, 3, 4]])
    """
    dim = canonical_dim(dimension, input.ndim, op="unfold")
    n = input.shape[dim] if input.ndim else 1
    if not 0 <= size <= n:
        raise ShapeError(f"a window of size {size} does not fit into dimension {dim} of size {n}", op="unfold")
    if step < 1:
        raise ShapeError(f"step must be positive, got {step}", op="unfold")
    count = (n - size) // step + 1
    here = layout(input)
    if not here.packed or any(s < 0 for s in here.strides):
        return _unfold_copy(input, dim, size, step, count)
    if not input.ndim:
        return S.as_strided(here.root, shape=(size,), strides=(1,), offset=here.offset)
    strides = (*here.strides[:dim], here.strides[dim] * step, *here.strides[dim + 1 :], here.strides[dim])
    shape = (*input.shape[:dim], count, *input.shape[dim + 1 :], size)
    return S.as_strided(here.root, shape=shape, strides=strides, offset=here.offset)


def _unfold_copy(x: Tensor, dim: int, size: int, step: int, count: int) -> Tensor:
    """The windows picked by index, for memory that strides can't describe."""
    first = P.reshape(P.iota(size=count, dtype=int64) * step, shape=(count, 1))
    out = I.index(x, first + P.iota(size=size, dtype=int64), dims=(dim,))  # (..., count, size, ...)
    order = [d for d in range(out.ndim) if d != dim + 1]
    return P.permute(out, dims=(*order, dim + 1))


# --- complex -------------------------------------------------------------------------------------


@function
def view_as_real(input: Tensor) -> Tensor:
    """Complex numbers as pairs of reals in a new last dimension.

    Shapes: complex (...) -> float (..., 2).
    Raises: DTypeError if the tensor is not complex.

    >>> import twofold as tw
    >>> tw.view_as_real(tw.tensor([1 + 2j]))
    tensor([[1., 2.]])
    """
    if not input.dtype.is_complex:
        raise DTypeError(f"expected a complex tensor, got {input.dtype.name}", op="view_as_real")
    return stack((E.real(input), E.imag(input)), -1)


@function
def view_as_complex(input: Tensor) -> Tensor:
    """Pairs of reals in the last dimension as complex numbers.

    Shapes: float (..., 2) -> complex (...).
    Raises: DTypeError, ShapeError if the tensor is not of float pairs.

    >>> import twofold as tw
    >>> tw.view_as_complex(tw.tensor([[1.0, 2.0]]))
    tensor([1.+2.j])
    """
    if input.dtype.name not in ("float32", "float64"):
        raise DTypeError(f"expected float32 or float64, got {input.dtype.name}", op="view_as_complex")
    if not input.ndim or input.shape[-1] != 2:
        raise ShapeError(f"the last dimension must have size 2, got shape {input.shape}", op="view_as_complex")
    re, im = unbind(input, -1)
    return E.complex(re, im)
