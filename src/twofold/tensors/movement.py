"""Functions that rearrange: shapes, views, joining, splitting, repeating, flipping.

Most results are views: they share memory with their input, and writes go through.
"""

from __future__ import annotations

import functools
import math
from collections.abc import Sequence
from typing import Any

from ..autodiff.bind import overwritten, write
from ..autodiff.handle import Tensor, mode
from ..ir.dtypes import DType
from ..ir.errors import DTypeError, ShapeError
from ..ir.types import ALL_DIMS, Shape, broadcast_shapes, canonical_dim, canonical_dims
from ..primitives import elementwise as E
from ..primitives import movement as P
from ._bits import view_dtype
from ._registry import METHODS, _put, assign, function
from ._shapes import dims as _dims
from ._shapes import infer, sizes
from ._views import expanded, permuted, reshaped

# --- shape ---------------------------------------------------------------------------------------


@function
def reshape(input: Tensor, *args: Any, shape: Any = None) -> Tensor:
    """The same elements in another shape; a view where the memory allows, else a copy.

    Shapes: one size may be -1, it follows from the others.
    Raises: ShapeError if the number of elements differs.

    >>> import twofold as tw
    >>> tw.arange(6).reshape(2, -1)
    tensor([[0, 1, 2],
            [3, 4, 5]])
    """
    given = args if shape is None else (shape,)
    if not given:
        raise ShapeError("no shape was given", op="reshape")
    want = sizes(given, "reshape")
    if -1 in want:
        want = infer(want, input, "reshape")
    try:
        return reshaped(input, want)
    except ShapeError:
        infer(want, input, "reshape")  # which knows what to do about it
        raise


@function(module=False)
def view(input: Tensor, *shape: Any, size: Any = None, dtype: DType | None = None) -> Tensor:
    """A view in another shape: never a copy. Or the same bits with another dtype.

    Shapes: one size may be -1. `view(dtype)` reads the same bits as another type (this is a copy);
        where that has another size, the last dimension grows or shrinks.
    Raises: ShapeError if the number of elements differs, or if the memory's order doesn't allow it.

    >>> import twofold as tw
    >>> x = tw.zeros(2, 2)
    >>> x.view(4)[0] = 1.0
    >>> x
    tensor([[1., 0.],
            [0., 0.]])
    """
    if size is not None or dtype is not None:
        shape = (size,) if dtype is None else (dtype,)
    if len(shape) == 1 and isinstance(shape[0], DType):
        return view_dtype(input, shape[0])
    want = sizes(shape, "view")
    if -1 in want:
        want = infer(want, input, "view")
    try:
        out = reshaped(input, want)
    except ShapeError:
        infer(want, input, "view")  # which knows what to do about it
        raise
    if (out._storage is None or out._storage is not input._storage) and input.type_.size:
        text = ", ".join(map(str, out.shape))
        raise ShapeError(
            f"a tensor of shape {input.shape} whose memory is not in row order can't be seen as {out.shape} "
            "without a copy",
            op="view",
            hint=f"use reshape({text}), which copies when it must, or contiguous().view({text})",
        )
    return out


@function(module=False)
def view_as(input: Tensor, other: Tensor) -> Tensor:
    """`input.view(other.shape)`.

    >>> import twofold as tw
    >>> tw.arange(4).view_as(tw.zeros(2, 2)).shape
    (2, 2)
    """
    return view(input, other.shape)


@function(module=False)
def reshape_as(input: Tensor, other: Tensor) -> Tensor:
    """`input.reshape(other.shape)`.

    >>> import twofold as tw
    >>> tw.arange(4).reshape_as(tw.zeros(2, 2)).shape
    (2, 2)
    """
    return reshape(input, other.shape)


@function
def flatten(input: Tensor, start_dim: int = 0, end_dim: int = -1) -> Tensor:
    """Merge the dimensions from `start_dim` to `end_dim` into one.

    >>> import twofold as tw
    >>> tw.zeros(2, 3, 4).flatten(1).shape
    (2, 12)
    """
    shape = input._value.shape
    if not shape:
        return reshaped(input, (1,))
    start = canonical_dim(start_dim, len(shape), op="flatten")
    end = canonical_dim(end_dim, len(shape), op="flatten")
    if start > end:
        raise ShapeError(f"start_dim {start_dim} comes after end_dim {end_dim} in shape {shape}", op="flatten")
    if start == end:
        return input
    merged = (*shape[:start], math.prod(shape[start : end + 1]), *shape[end + 1 :])
    return reshaped(input, merged)


@function
def unflatten(input: Tensor, dim: int, sizes: Sequence[int]) -> Tensor:
    """Split one dimension into several; one of `sizes` may be -1.

    >>> import twofold as tw
    >>> tw.zeros(2, 12).unflatten(1, (3, -1)).shape
    (2, 3, 4)
    """
    dim = canonical_dim(dim, input.ndim, op="unflatten")
    new, n = tuple(sizes), input.shape[dim]
    known = math.prod(s for s in new if s != -1)
    if new.count(-1) > 1 or any(s < -1 for s in new) or not new:
        raise ShapeError(f"sizes {new} are no sizes for dimension {dim}", op="unflatten")
    if (-1 in new and (known == 0 or n % known)) or (-1 not in new and known != n):
        raise ShapeError(f"dimension {dim} of size {n} can't be split into {new}", op="unflatten")
    new = tuple([n // known if s == -1 else s for s in new])
    return reshaped(input, (*input.shape[:dim], *new, *input.shape[dim + 1 :]))


@function
def ravel(input: Tensor) -> Tensor:
    """All elements in one dimension.

    >>> import twofold as tw
    >>> tw.ones(2, 2).ravel()
    tensor([1., 1., 1., 1.])
    """
    return reshaped(input, (math.prod(input._value.shape),))


@function(dims=True)
def squeeze(input: Tensor, dim: int | Sequence[int] | None = None) -> Tensor:
    """Drop dimensions of size 1: all of them, or those named that have size 1.

    >>> import twofold as tw
    >>> tw.zeros(1, 3, 1).squeeze().shape, tw.zeros(1, 3, 1).squeeze(0).shape
    ((3,), (3, 1))
    """
    shape = input._value.shape
    if dim is None:
        kept = [n for n in shape if n != 1]
    else:
        drop = canonical_dims(dim, len(shape), op="squeeze")
        kept = [n for i, n in enumerate(shape) if n != 1 or i not in drop]
    return reshaped(input, tuple(kept))


@function(dims=True)
def unsqueeze(input: Tensor, dim: int) -> Tensor:
    """Put a dimension of size 1 at position `dim`.

    >>> import twofold as tw
    >>> tw.zeros(3).unsqueeze(-1).shape
    (3, 1)
    """
    shape = input._value.shape
    at = canonical_dim(dim, len(shape) + 1, op="unsqueeze")
    return reshaped(input, (*shape[:at], 1, *shape[at:]))


# --- order of dimensions -------------------------------------------------------------------------


@function
def permute(input: Tensor, *args: Any, dims: Any = None) -> Tensor:
    """A view with the dimensions in another order.

    Raises: ShapeError unless `dims` names every dimension once.

    >>> import twofold as tw
    >>> tw.zeros(2, 3, 4).permute(2, 0, 1).shape
    (4, 2, 3)
    """
    given = args if dims is None else (dims,)
    n = len(input._value.shape)
    order = _dims(given, n, "permute") if n or (given and given != ((),)) else ()
    if len(order) != n:
        raise ShapeError(
            f"a tensor of shape {input.shape} has {input.ndim} dimensions, but the new order names {len(order)}",
            op="permute",
        )
    return permuted(input, order)


@function(aliases=("swapaxes", "swapdims"))
def transpose(input: Tensor, dim0: int, dim1: int) -> Tensor:
    """A view with two dimensions exchanged.

    >>> import twofold as tw
    >>> tw.zeros(2, 3).transpose(0, 1).shape
    (3, 2)
    """
    n = len(input._value.shape)
    a, b = canonical_dim(dim0, n, op="transpose"), canonical_dim(dim1, n, op="transpose")
    return permuted(input, _swapped(n, a, b))


@functools.lru_cache
def _swapped(n: int, a: int, b: int) -> Shape:
    order = list(range(n))
    if order:
        order[a], order[b] = b, a
    return tuple(order)


@function
def t(input: Tensor) -> Tensor:
    """The transpose of a matrix; 0-d and 1-d tensors come back as they are.

    Raises: ShapeError for more than two dimensions.

    >>> import twofold as tw
    >>> tw.tensor([[1, 2]]).t()
    tensor([[1],
            [2]])
    """
    n = len(input._value.shape)
    if n > 2:
        raise ShapeError(
            f"t() takes at most 2 dimensions, got shape {input.shape}", op="t", hint="use transpose(-2, -1) or mT"
        )
    return permuted(input, _REVERSED[n])


@function(aliases=("moveaxis",))
def movedim(input: Tensor, source: int | Sequence[int], destination: int | Sequence[int]) -> Tensor:
    """A view with dimensions moved to other places; the others keep their order.

    >>> import twofold as tw
    >>> tw.zeros(2, 3, 4).movedim(0, -1).shape
    (3, 4, 2)
    """
    n = input.ndim
    src = _dims((source,) if isinstance(source, int) else (tuple(source),), n, "movedim")
    dst = _dims((destination,) if isinstance(destination, int) else (tuple(destination),), n, "movedim")
    if len(src) != len(dst):
        raise ShapeError(f"{len(src)} sources but {len(dst)} destinations", op="movedim")
    if not n:
        return P.permute(input, dims=())
    rest = iter([d for d in range(n) if d not in src])
    order = [src[dst.index(i)] if i in dst else next(rest) for i in range(n)]
    return P.permute(input, dims=tuple(order))


def _matrix_transpose(input: Tensor, op: str) -> Tensor:
    if input.ndim < 2:
        raise ShapeError(f"{op} needs at least 2 dimensions, got shape {input.shape}", op=op)
    return transpose(input, -2, -1)


def _adjoint(input: Tensor, op: str) -> Tensor:
    out = _matrix_transpose(input, op)
    return E.conj(out) if out.dtype.is_complex else out


@function
def adjoint(input: Tensor) -> Tensor:
    """The conjugate of the last two dimensions exchanged.

    >>> import twofold as tw
    >>> tw.tensor([[1j, 2.0]]).adjoint()
    tensor([[0.-1.j],
            [2.-0.j]])
    """
    return _adjoint(input, "adjoint")


def _h(input: Tensor) -> Tensor:
    if input.ndim not in (0, 2):
        raise ShapeError(f"H takes a matrix, got shape {input.shape}", op="H", hint="use mH for batches")
    return _adjoint(input, "H") if input.ndim else input


_REVERSED = tuple([dims[::-1] for dims in ALL_DIMS])
_put(METHODS, "T", property(lambda x: permuted(x, _REVERSED[len(x._value.shape)]), doc="Dims reversed."))
_put(METHODS, "mT", property(lambda x: _matrix_transpose(x, "mT"), doc="The last two dimensions exchanged."))
_put(METHODS, "H", property(_h, doc="The conjugate transpose of a matrix."))
_put(METHODS, "mH", property(lambda x: _adjoint(x, "mH"), doc="Conjugate of the last two dims exchanged."))


# --- broadcasting --------------------------------------------------------------------------------


@function(module=False)
def expand(input: Tensor, *args: Any, size: Any = None, implicit: bool = False) -> Tensor:
    """A view in which dimensions of size 1 are repeated; -1 keeps a size.

    Shapes: new dimensions may stand in front.
    Raises: ShapeError if a size other than 1 would change.

    >>> import twofold as tw
    >>> tw.tensor([[1], [2]]).expand(-1, 3)
    tensor([[1, 1, 1],
            [2, 2, 2]])
    """
    return _expand(input, sizes(args if size is None else (size,), "expand"), "expand")


def _expand(input: Tensor, want: Shape, op: str) -> Tensor:
    old = input._value.shape
    lead = len(want) - len(old)
    if lead < 0:
        raise ShapeError(f"shape {old} can't be expanded to {want}, which has fewer dimensions", op=op)
    if -1 in want[lead:]:
        want = want[:lead] + tuple([have if n == -1 else n for n, have in zip(want[lead:], old, strict=True)])
    if want == old:
        return permuted(input, ALL_DIMS[len(old)])  # a view that can be written
    try:
        return expanded(input, want)
    except ShapeError:
        raise _unexpandable(old, want, op) from None


def _unexpandable(old: Shape, want: Shape, op: str) -> ShapeError:
    lead, text = len(want) - len(old), ""
    for i, n in enumerate(want):
        have = old[i - lead] if i >= lead else None
        if n < 0:
            text = f"{n} is no size" if have is not None else "a new dimension can't be -1"
        elif have not in (None, 1, n):
            text = f"dimension {i} has size {have}, not 1"
        if text:
            break
    return ShapeError(
        f"shape {old} can't be expanded to {want}: {text}",
        op=op,
        hint="only dimensions of size 1 can be expanded; -1 keeps a size",
    )


@function
def expand_as(input: Tensor, other: Tensor) -> Tensor:
    """`input.expand(other.shape)`.

    >>> import twofold as tw
    >>> tw.tensor([1, 2]).expand_as(tw.zeros(2, 2))
    tensor([[1, 2],
            [1, 2]])
    """
    return _expand(input, other.shape, "expand_as")


@function
def broadcast_to(input: Tensor, size: Sequence[int]) -> Tensor:
    """A view of shape `size`, by the rules of broadcasting.

    >>> import twofold as tw
    >>> tw.broadcast_to(tw.tensor([1, 2]), (2, 2))
    tensor([[1, 2],
            [1, 2]])
    """
    return _expand(input, sizes((tuple(size),), "broadcast_to"), "broadcast_to")


@function(method=False)
def broadcast_tensors(*tensors: Any) -> tuple[Tensor, ...]:
    """All tensors expanded to their common shape.

    >>> import twofold as tw
    >>> [t.shape for t in tw.broadcast_tensors(tw.zeros(3, 1), tw.zeros(4))]
    [(3, 4), (3, 4)]
    """
    tensors = _several(tensors)
    shape = broadcast_shapes(*[x.shape for x in tensors], op="broadcast_tensors")
    return tuple([_expand(x, shape, "broadcast_tensors") for x in tensors])


@function(method=False, name="broadcast_shapes")
def _broadcast_shapes(*shapes: Any) -> Shape:
    """The shape that all shapes broadcast to.

    >>> import twofold as tw
    >>> tw.broadcast_shapes((3, 1), (4,))
    (3, 4)
    """
    return broadcast_shapes(*[(s,) if isinstance(s, int) else tuple(s) for s in shapes], op="broadcast_shapes")


def _several(tensors: Sequence[Any]) -> tuple[Tensor, ...]:
    """Tensors given as `f(a, b)` or `f([a, b])`."""
    return tuple(tensors[0]) if len(tensors) == 1 and isinstance(tensors[0], (tuple, list)) else tuple(tensors)


def _atleast(tensors: Sequence[Any], grow: Any) -> Any:
    if len(tensors) == 1 and isinstance(tensors[0], Tensor):
        return grow(tensors[0])
    return tuple([grow(x) for x in _several(tensors)])


def _to_1d(x: Tensor) -> Tensor:
    return x if x.ndim else P.reshape(x, shape=(1,))


def _to_2d(x: Tensor) -> Tensor:
    return x if x.ndim > 1 else P.reshape(x, shape=(1, *_to_1d(x).shape))


def _to_3d(x: Tensor) -> Tensor:
    return x if x.ndim > 2 else P.reshape(x, shape=(*_to_2d(x).shape, 1))


@function
def atleast_1d(*tensors: Any) -> Any:
    """Tensors with at least 1 dimension; a tuple for several.

    >>> import twofold as tw
    >>> tw.atleast_1d(tw.tensor(3))
    tensor([3])
    """
    return _atleast(tensors, _to_1d)


@function
def atleast_2d(*tensors: Any) -> Any:
    """Tensors with at least 2 dimensions, new ones in front; a tuple for several.

    >>> import twofold as tw
    >>> tw.atleast_2d(tw.tensor([3, 4]))
    tensor([[3, 4]])
    """
    return _atleast(tensors, _to_2d)


@function
def atleast_3d(*tensors: Any) -> Any:
    """Tensors with at least 3 dimensions, as NumPy does; a tuple for several.

    >>> import twofold as tw
    >>> tw.atleast_3d(tw.zeros(2)).shape
    (1, 2, 1)
    """
    return _atleast(tensors, _to_3d)


# --- memory --------------------------------------------------------------------------------------


@function
def clone(input: Tensor, *, memory_format: Any = None) -> Tensor:
    """A copy with its own memory; gradients flow through it.

    >>> import twofold as tw
    >>> tw.tensor([1, 2]).clone()
    tensor([1, 2])
    """
    return E.copy(input)


@function(module=False)
def copy_(self: Tensor, src: Any, non_blocking: bool = False) -> Tensor:
    """Write `src` into the tensor, broadcast and cast.

    >>> import twofold as tw
    >>> tw.zeros(2).copy_(tw.tensor([1, 2]))
    tensor([1., 2.])
    """
    if not isinstance(src, Tensor):
        raise DTypeError(f"copy_ takes a tensor, got {type(src).__name__}", op="copy_", hint="use fill_()")
    return self if src is self else assign(self, src)


@function(module=False)
def fill_(self: Tensor, value: Any) -> Tensor:
    """Set every element to `value`, a number or a 0-d tensor.

    >>> import twofold as tw
    >>> tw.zeros(2).fill_(3)
    tensor([3., 3.])
    """
    if isinstance(value, Tensor):
        if value.ndim:
            raise ShapeError(f"fill_ takes a number or a 0-d tensor, got shape {value.shape}", op="fill_")
        return assign(self, value)
    return _fill(self, _number(value, self.dtype))


def _fill(t: Tensor, value: Any) -> Tensor:
    """Write a number of the right kind into every element."""
    is_recorded = mode.tracer is not None or (mode.grad and t.requires_grad)
    if not is_recorded and t._base is None:
        try:
            t._value.fill(value)
        except (ValueError, OverflowError):
            pass  # what follows says why, or has the number wrap around
        else:
            overwritten(t)
            return t
    v = P.full(shape=(), value=value, dtype=t.dtype)
    return assign(t, v) if is_recorded else write(t, v)


def _number(value: Any, dtype: DType) -> Any:
    """`value` as a number of the dtype's kind, truncated as a cast would."""
    if isinstance(value, complex) and not dtype.is_complex:
        raise DTypeError(f"the complex number {value} can't be stored in a {dtype.name} tensor", op="fill_")
    try:
        return _KINDS[dtype.kind](value)
    except (OverflowError, ValueError):  # infinity and NaN are no integers
        raise DTypeError(f"the number {value} can't be stored in a {dtype.name} tensor", op="fill_") from None


_KINDS: dict[str, Any] = {"bool": bool, "int": int, "uint": int, "float": float, "complex": complex}


@function(module=False)
def zero_(self: Tensor) -> Tensor:
    """Set every element to zero.

    >>> import twofold as tw
    >>> tw.ones(2).zero_()
    tensor([0., 0.])
    """
    return _fill(self, 0)


def _no_resize(self: Tensor, *size: Any, **_: Any) -> Tensor:
    """Refused: a tensor's memory never changes its size.

    >>> import twofold as tw
    >>> tw.zeros(2).resize_(3)  # doctest: +IGNORE_EXCEPTION_DETAIL
    Traceback (most recent call last):
    twofold.ir.errors.ShapeError: [resize_] a tensor of shape (2,) can't be resized in place
    """
    raise ShapeError(
        f"a tensor of shape {self.shape} can't be resized in place",
        op="resize_",
        hint="reshape() for the same number of elements, or make a new tensor",
    )


for _name in ("resize", "resize_", "resize_as_"):
    _put(METHODS, _name, _no_resize)
