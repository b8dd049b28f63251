"""Movement: primitives that make, rearrange and combine elements without computing on them.

reshape, permute, expand, slice, diagonal and as_strided are views (Note [Views] in ir/primitive.py).
Each view has an `update_*` partner that makes the base anew with the view's elements replaced; the
two are each other's derivative, so the family is closed under differentiation.

Note [Slices]
`start`, `stop` and `step` have one entry per dimension and select the elements of
`range(start, stop, step)`: with a negative step, `stop=-1` means "down to and with element 0".
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from typing import Any

import numpy as np

from ..ir.dtypes import COMPLEX, REALS, DType, float32, int64
from ..ir.errors import AutogradError, DTypeError, OutOfBoundsError, ShapeError
from ..ir.primitive import PRIMITIVES, ErrorSample, Primitive, Sample
from ..ir.types import Shape, TensorType
from ._rules import draw, unbroadcast

Array = np.ndarray[Any, Any]


def zeros(shape: Shape, dtype: DType) -> Any:
    """A tensor of zeros: what most derivative rules of views start from."""
    return full(shape=shape, value=0, dtype=dtype)


def _check_sizes(op: str, shape: Shape) -> None:
    if any(n < 0 for n in shape):
        raise ShapeError(f"shape {tuple(shape)} has a negative size", op=op)


def _check_dim(op: str, name: str, dim: int, ndim: int) -> None:
    if not 0 <= dim < ndim:
        raise OutOfBoundsError(f"{name}={dim} is outside a {ndim}-d tensor", op=op)


def _check_entries(op: str, ndim: int, **params: Shape) -> None:
    for name, value in params.items():
        if len(value) != ndim:
            raise ShapeError(f"{name} has {len(value)} entries for a {ndim}-d tensor", op=op)


def _check_new(op: str, base: TensorType, new: TensorType, shape: Shape) -> None:
    """The new elements of an `update_*` must fit the place they go to."""
    if new.dtype is not base.dtype:
        raise DTypeError(f"elements of dtype {new.dtype.name} do not go into dtype {base.dtype.name}", op=op)
    if new.shape != shape:
        raise ShapeError(f"elements of shape {new.shape} do not fill a place of shape {shape}", op=op)


# Making tensors from nothing ---------------------------------------------------------------------


def _full_type(*, shape: Shape, value: Any, dtype: DType) -> TensorType:
    _check_sizes("full", shape)
    if isinstance(value, complex) and not dtype.is_complex:
        raise DTypeError(f"the complex value {value} does not fit dtype {dtype.name}", op="full")
    if dtype.kind in ("int", "uint"):
        limit = 2 ** (8 * dtype.itemsize - (dtype.kind == "int"))
        if not -limit <= value < limit:  # negative numbers wrap around in unsigned types, as in C
            raise DTypeError(f"the value {value} does not fit dtype {dtype.name}", op="full")
    return TensorType(shape, dtype)


def _full(*, shape: Shape, value: Any, dtype: DType) -> Array:
    if value == 0 and math.copysign(1.0, value.real) > 0:
        return np.zeros(shape, dtype.numpy)  # fresh pages from the system need no writing
    if dtype.kind == "uint" and value < 0:
        value = int(value) % 2 ** (8 * dtype.itemsize)
    return np.full(shape, value, dtype.numpy)


def _full_samples(dtype: DType, rng: np.random.Generator) -> Iterator[Sample]:
    for shape in ((2, 3), (), (0, 2)):
        for value in (0, 1, 3.0):
            yield Sample((), {"shape": shape, "value": value, "dtype": dtype})


full = Primitive(
    "full",
    type_rule=_full_type,
    numpy=_full,
    nondiff="it has no inputs",
    samples=_full_samples,
    errors=lambda: (
        ErrorSample((), {"shape": (2, -1), "value": 0, "dtype": float32}, ShapeError, "negative size"),
        ErrorSample((), {"shape": (2,), "value": 1j, "dtype": float32}, DTypeError, "does not fit dtype float32"),
    ),
    torch=lambda torch, *, shape, value, dtype: torch.full(shape, value, dtype=getattr(torch, dtype.name)),
)


def _iota_type(*, size: int, dtype: DType) -> TensorType:
    _check_sizes("iota", (size,))
    return TensorType((size,), dtype)


iota = Primitive(
    "iota",
    type_rule=_iota_type,
    numpy=lambda *, size, dtype: np.arange(size).astype(dtype.numpy),
    nondiff="it has no inputs",
    samples=lambda dtype, rng: (Sample((), {"size": n, "dtype": dtype}) for n in (5, 1, 0)),
    errors=lambda: (ErrorSample((), {"size": -1, "dtype": float32}, ShapeError, "negative size"),),
    dtypes=REALS | COMPLEX,
    torch=lambda torch, *, size, dtype: torch.arange(size).to(getattr(torch, dtype.name)),
)


# Reshape, permute, expand ------------------------------------------------------------------------


def _reshape_type(x: TensorType, *, shape: Shape) -> TensorType:
    _check_sizes("reshape", shape)
    if math.prod(shape) != x.size:
        raise ShapeError(
            f"{x.size} elements of shape {x.shape} do not fill shape {tuple(shape)}, which has {math.prod(shape)}",
            op="reshape",
        )
    return x.with_shape(shape)


def _reshape(x: Array, *, shape: Shape) -> Array:
    if shape and min(shape) < 0:
        raise ValueError  # NumPy would take -1 as "the rest"
    return x.reshape(shape)


def _reshape_samples(dtype: DType, rng: np.random.Generator) -> Iterator[Sample]:
    for old, new in (
        ((2, 6), (3, 4)),
        ((4, 3), (2, 2, 3)),
        ((1,), ()),
        ((), (1, 1)),
        ((0, 3), (2, 0)),
        ((2, 3), (6,)),
    ):
        yield Sample((draw(dtype, rng, old),), {"shape": new})


reshape = Primitive(
    "reshape",
    type_rule=_reshape_type,
    numpy=_reshape,
    vjp=(lambda g, _y, _x, *, shape: reshape(g, shape=_x.shape),),
    samples=_reshape_samples,
    errors=lambda: (
        ErrorSample((np.zeros((2, 3)),), {"shape": (4, 2)}, ShapeError, "6 elements of shape (2, 3)"),
        ErrorSample((np.zeros((2, 3)),), {"shape": (-1, 2)}, ShapeError, "negative size"),
    ),
    torch="reshape",
    checked_by_numpy=True,
    view=True,
    write=lambda base, new, *, shape: (reshape, (new,), {"shape": base.shape}),
)


def inverse_permutation(dims: Shape) -> Shape:
    """The permutation that undoes `dims`.

    >>> inverse_permutation((2, 0, 1))
    (1, 2, 0)
    """
    out = [0] * len(dims)
    for i, d in enumerate(dims):
        out[d] = i
    return tuple(out)


def _permute_type(x: TensorType, *, dims: Shape) -> TensorType:
    if sorted(dims) != list(range(x.ndim)):
        raise ShapeError(
            f"dims {tuple(dims)} do not name each dimension of shape {x.shape} once",
            op="permute",
            hint=f"give the numbers 0 to {x.ndim - 1} in the wanted order",
        )
    return x.with_shape([x.shape[d] for d in dims])


def _permute(x: Array, *, dims: Shape) -> Array:
    if dims and min(dims) < 0:
        raise ValueError  # NumPy would count from the end
    return x.transpose(dims)


def _permute_samples(dtype: DType, rng: np.random.Generator) -> Iterator[Sample]:
    for shape, dims in (((2, 3), (1, 0)), ((2, 3, 4), (2, 0, 1)), ((), ()), ((0, 2), (1, 0)), ((3,), (0,))):
        yield Sample((draw(dtype, rng, shape),), {"dims": dims})


permute = Primitive(
    "permute",
    type_rule=_permute_type,
    numpy=_permute,
    vjp=(lambda g, _y, _x, *, dims: permute(g, dims=inverse_permutation(dims)),),
    samples=_permute_samples,
    errors=lambda: (
        ErrorSample((np.zeros((2, 3)),), {"dims": (0, 0)}, ShapeError, "do not name each dimension"),
        ErrorSample((np.zeros((2, 3)),), {"dims": (-1, 0)}, ShapeError, "do not name each dimension"),
        ErrorSample((np.zeros((2, 3)),), {"dims": (0,)}, ShapeError, "do not name each dimension"),
    ),
    torch="permute",
    checked_by_numpy=True,
    view=True,
    write=lambda base, new, *, dims: (permute, (new,), {"dims": inverse_permutation(dims)}),
)


def _expand_type(x: TensorType, *, shape: Shape) -> TensorType:
    _check_sizes("expand", shape)
    lead = len(shape) - x.ndim
    if lead < 0 or any(n not in (1, m) for n, m in zip(x.shape, shape[lead:], strict=True)):
        raise ShapeError(
            f"shape {x.shape} does not expand to {tuple(shape)}",
            op="expand",
            hint="only dimensions of size 1 grow, and new dimensions come first",
        )
    return x.with_shape(shape)


def _expand(x: Array, *, shape: Shape) -> Array:
    lead = len(shape) - x.ndim
    if shape[lead:] == x.shape and math.prod(shape[:lead]) == 1:
        return x[(None,) * lead + (...,)]  # no element is repeated: it stays writable
    return np.broadcast_to(x, shape)


def _expand_write(base: Any, new: Any, *, shape: Shape) -> Any:
    if math.prod(shape) == math.prod(base.shape):
        return reshape, (new,), {"shape": base.shape}
    raise AutogradError(
        f"an expanded tensor of shape {tuple(shape)} can't be written: several of its elements share "
        f"one place of its base of shape {base.shape}",
        hint="make a copy first: x = x.clone()",
    )


def _expand_samples(dtype: DType, rng: np.random.Generator) -> Iterator[Sample]:
    for old, new in (
        ((3,), (2, 3)),
        ((2, 1), (2, 4)),
        ((), (2, 2)),
        ((1, 3), (0, 3)),
        ((2,), (2,)),
        ((0,), (2, 0)),
    ):
        yield Sample((draw(dtype, rng, old),), {"shape": new})


expand = Primitive(
    "expand",
    type_rule=_expand_type,
    numpy=_expand,
    vjp=(lambda g, _y, _x, *, shape: unbroadcast(g, _x.shape),),
    samples=_expand_samples,
    errors=lambda: (
        ErrorSample((np.zeros((2, 3)),), {"shape": (4, 3)}, ShapeError, "does not expand to (4, 3)"),
        ErrorSample((np.zeros((2, 3)),), {"shape": (3,)}, ShapeError, "does not expand to (3,)"),
    ),
    torch=lambda torch, x, *, shape: x.expand(shape),
    view=True,
    write=_expand_write,
)


# Slices ------------------------------------------------------------------------------------------


def _slice_type(x: TensorType, *, start: Shape, stop: Shape, step: Shape, op: str = "slice") -> TensorType:
    _check_entries(op, x.ndim, start=start, stop=stop, step=step)
    shape = []
    for d, (n, a, b, s) in enumerate(zip(x.shape, start, stop, step, strict=True)):
        if s == 0:
            raise ShapeError(f"the step of dimension {d} is zero", op=op)
        places = range(a, b, s)
        if places and not (0 <= places[0] < n and 0 <= places[-1] < n):
            raise OutOfBoundsError(f"{a}:{b}:{s} is outside dimension {d} of size {n}", op=op)
        shape.append(len(places))
    return x.with_shape(shape)


def _places(start: Shape, stop: Shape, step: Shape) -> tuple[Any, ...]:
    """NumPy's index for Note [Slices]; the ellipsis makes a 0-d result an array."""
    out: list[Any] = []
    for a, b, s in zip(start, stop, step, strict=True):
        if s > 0:
            out.append(slice_(a, b, s) if b > a else slice_(0, 0))
        else:
            out.append(slice_(a, None if b < 0 else b, s) if b < a else slice_(0, 0))
    return (*out, ...)


slice_ = slice  # the builtin, before the primitive takes its name


def _update_slice_type(base: TensorType, new: TensorType, **params: Any) -> TensorType:
    _check_new("update_slice", base, new, _slice_type(base, op="update_slice", **params).shape)
    return base


def _update_slice(base: Array, new: Array, *, start: Shape, stop: Shape, step: Shape) -> Array:
    out = base.copy()
    out[_places(start, stop, step)] = new
    return out


def _slice_vjp(g: Any, _y: Any, _x: Any, *, start: Shape, stop: Shape, step: Shape) -> Any:
    if all(s == 1 and b >= a for a, b, s in zip(start, stop, step, strict=True)):
        high = tuple([n - b for n, b in zip(_x.shape, stop, strict=True)])
        return pad(g, low=start, high=high, value=0)
    return update_slice(zeros(_x.shape, _x.dtype), g, start=start, stop=stop, step=step)


_SLICES: tuple[tuple[Shape, Shape, Shape, Shape], ...] = (  # shape, start, stop, step
    ((4, 3), (1, 0), (3, 3), (1, 1)),
    ((5, 3), (0, 0), (5, 3), (2, 2)),
    ((5, 3), (4, 2), (-1, 0), (-1, -1)),
    ((5,), (4,), (-1,), (-3,)),
    ((4, 2), (2, 0), (2, 2), (1, 1)),
    ((0, 2), (0, 1), (0, 2), (1, 1)),
    ((0,), (-1,), (-1,), (-1,)),
    ((), (), (), ()),
)


def _slice_samples(dtype: DType, rng: np.random.Generator) -> Iterator[Sample]:
    for shape, start, stop, step in _SLICES:
        yield Sample((draw(dtype, rng, shape),), {"start": start, "stop": stop, "step": step})


def _update_slice_samples(dtype: DType, rng: np.random.Generator) -> Iterator[Sample]:
    for sample in _slice_samples(dtype, rng):
        x = sample.inputs[0]
        new = x[_places(**sample.params)].shape
        yield Sample((x, draw(dtype, rng, new)), sample.params)


def _torch_slice(torch: Any, x: Any, *, start: Shape, stop: Shape, step: Shape) -> Any:
    for d, (a, b, s) in enumerate(zip(start, stop, step, strict=True)):
        x = x.index_select(d, torch.tensor(list(range(a, b, s)), dtype=torch.int64))
    return x


slice = Primitive(
    "slice",
    type_rule=_slice_type,
    numpy=lambda x, *, start, stop, step: x[_places(start, stop, step)],
    vjp=(_slice_vjp,),
    samples=_slice_samples,
    errors=lambda: (
        ErrorSample(
            (np.zeros(3),),
            {"start": (0,), "stop": (4,), "step": (1,)},
            OutOfBoundsError,
            "outside dimension 0 of size 3",
        ),
        ErrorSample((np.zeros(3),), {"start": (0,), "stop": (3,), "step": (0,)}, ShapeError, "is zero"),
        ErrorSample(
            (np.zeros(3),), {"start": (0, 0), "stop": (3,), "step": (1,)}, ShapeError, "2 entries for a 1-d"
        ),
    ),
    torch=_torch_slice,
    view=True,
    write=lambda base, new, **params: (update_slice, (base, new), params),
)


update_slice = Primitive(
    "update_slice",
    type_rule=_update_slice_type,
    numpy=_update_slice,
    vjp=(
        lambda g, _y, _base, _new, **params: update_slice(g, zeros(_new.shape, _new.dtype), **params),
        lambda g, _y, _base, _new, **params: slice(g, **params),
    ),
    samples=_update_slice_samples,
    errors=lambda: (
        ErrorSample(
            (np.zeros(3), np.zeros(3)),
            {"start": (0,), "stop": (2,), "step": (1,)}, ShapeError, "do not fill a place of shape (2,)",
        ),
        ErrorSample(
            (np.zeros(3), np.zeros(2, np.int64)),
            {"start": (0,), "stop": (2,), "step": (1,)}, DTypeError, "do not go into dtype float64",
        ),
    ),
)  # fmt: skip


# Pad, concat, flip -------------------------------------------------------------------------------


def _pad_type(x: TensorType, *, low: Shape, high: Shape, value: Any) -> TensorType:
    _check_entries("pad", x.ndim, low=low, high=high)
    if any(n < 0 for n in (*low, *high)):
        raise ShapeError(
            f"a negative padding in low={tuple(low)}, high={tuple(high)}",
            op="pad",
            hint="slice off elements instead",
        )
    if isinstance(value, complex) and not x.dtype.is_complex:
        raise DTypeError(f"the complex value {value} does not fit dtype {x.dtype.name}", op="pad")
    return x.with_shape([a + n + b for a, n, b in zip(low, x.shape, high, strict=True)])


def _pad(x: Array, *, low: Shape, high: Shape, value: Any) -> Array:
    shape = tuple([a + n + b for a, n, b in zip(low, x.shape, high, strict=True)])
    out = np.zeros(shape, x.dtype) if value == 0 else np.full(shape, value, x.dtype)
    out[(*[slice_(a, a + n) for a, n in zip(low, x.shape, strict=True)], ...)] = x
    return out


def _pad_vjp(g: Any, _y: Any, _x: Any, *, low: Shape, high: Shape, value: Any) -> Any:
    stop = tuple([a + n for a, n in zip(low, _x.shape, strict=True)])
    return slice(g, start=low, stop=stop, step=(1,) * len(low))


def _pad_samples(dtype: DType, rng: np.random.Generator) -> Iterator[Sample]:
    for shape, low, high in (
        ((2, 3), (1, 0), (0, 2)),
        ((3,), (2,), (1,)),
        ((0,), (1,), (1,)),
        ((), (), ()),
        ((2,), (0,), (0,)),
    ):
        for value in (0, 1):
            yield Sample((draw(dtype, rng, shape),), {"low": low, "high": high, "value": value})


def _torch_pad(torch: Any, x: Any, *, low: Shape, high: Shape, value: Any) -> Any:
    pairs = [n for pair in zip(reversed(low), reversed(high), strict=True) for n in pair]
    return torch.nn.functional.pad(x, pairs, value=value)


pad = Primitive(
    "pad",
    type_rule=_pad_type,
    numpy=_pad,
    vjp=(_pad_vjp,),
    samples=_pad_samples,
    errors=lambda: (
        ErrorSample((np.zeros(3),), {"low": (-1,), "high": (0,), "value": 0}, ShapeError, "negative padding"),
        ErrorSample((np.zeros(3),), {"low": (1, 1), "high": (0,), "value": 0}, ShapeError, "2 entries for a 1-d"),
    ),
    torch=_torch_pad,
)


def _concat_type(*xs: TensorType, dim: int) -> TensorType:
    if not xs:
        raise ShapeError("no tensors were given", op="concat", hint="pass at least one")
    first = xs[0]
    if first.ndim == 0:
        raise ShapeError("0-d tensors can't be joined", op="concat", hint="use stack(), or unsqueeze(0) them")
    _check_dim("concat", "dim", dim, first.ndim)
    for i, x in enumerate(xs[1:], 1):
        if x.dtype is not first.dtype:
            raise DTypeError(f"tensor {i} has dtype {x.dtype.name}, tensor 0 has {first.dtype.name}", op="concat")
        if x.ndim != first.ndim:
            raise ShapeError(f"tensor {i} of shape {x.shape} is {x.ndim}-d, tensor 0 {first.ndim}-d", op="concat")
        for d, (a, b) in enumerate(zip(first.shape, x.shape, strict=True)):
            if d != dim and a != b:
                raise ShapeError(
                    f"tensor {i} of shape {x.shape} does not fit tensor 0 of shape {first.shape}: "
                    f"sizes {b} and {a} differ in dimension {d}",
                    op="concat",
                    hint=f"all sizes but those of dimension {dim} must agree",
                )
    shape = list(first.shape)
    shape[dim] = sum([x.shape[dim] for x in xs])
    return first.with_shape(shape)


def _concat_vjp(g: Any, y: Any, *xs: Any, dim: int) -> list[Any]:
    out, at = [], 0
    for x in xs:
        start = tuple([at if d == dim else 0 for d in range(x.ndim)])
        stop = tuple([a + n for a, n in zip(start, x.shape, strict=True)])
        out.append(slice(g, start=start, stop=stop, step=(1,) * x.ndim))
        at += x.shape[dim]
    return out


def _concat_samples(dtype: DType, rng: np.random.Generator) -> Iterator[Sample]:
    for dim, shapes in ((0, ((2, 3), (1, 3))), (1, ((2, 1), (2, 0), (2, 3))), (0, ((2,),)), (0, ((0,), (0,)))):
        yield Sample(tuple(draw(dtype, rng, s) for s in shapes), {"dim": dim})


concat = Primitive(
    "concat",
    type_rule=_concat_type,
    numpy=lambda *xs, dim: np.concatenate(xs, axis=dim),
    vjp=_concat_vjp,
    saves="",
    samples=_concat_samples,
    errors=lambda: (
        ErrorSample(
            (np.zeros((2, 3)), np.zeros((2, 4))), {"dim": 0}, ShapeError, "sizes 4 and 3 differ in dimension 1"
        ),
        ErrorSample((np.zeros((2, 3)), np.zeros(3)), {"dim": 0}, ShapeError, "tensor 1 of shape (3,) is 1-d"),
        ErrorSample((np.zeros(()), np.zeros(())), {"dim": 0}, ShapeError, "0-d tensors"),
        ErrorSample((np.zeros(2), np.zeros(2, np.float32)), {"dim": 0}, DTypeError, "tensor 1 has dtype float32"),
        ErrorSample((np.zeros(2),), {"dim": 1}, OutOfBoundsError, "outside a 1-d tensor"),
    ),
    torch=lambda torch, *xs, dim: torch.cat(xs, dim),
)


def _flip_type(x: TensorType, *, dims: Shape) -> TensorType:
    for d in dims:
        _check_dim("flip", "dim", d, x.ndim)
    return x


flip = Primitive(
    "flip",
    type_rule=_flip_type,
    numpy=lambda x, *, dims: np.flip(x, dims).copy(),
    vjp=(lambda g, _y, _x, *, dims: flip(g, dims=dims),),
    samples=lambda dtype, rng: (
        Sample((draw(dtype, rng, shape),), {"dims": dims})
        for shape, dims in (((2, 3), (0,)), ((2, 3, 2), (0, 2)), ((), ()), ((0, 2), (1,)), ((4,), (0,)))
    ),
    errors=lambda: (ErrorSample((np.zeros(3),), {"dims": (1,)}, OutOfBoundsError, "outside a 1-d tensor"),),
    torch="flip",
)


# Diagonals ---------------------------------------------------------------------------------------


def _diagonal_type(x: TensorType, *, offset: int, dim1: int, dim2: int, op: str = "diagonal") -> TensorType:
    _check_dim(op, "dim1", dim1, x.ndim)
    _check_dim(op, "dim2", dim2, x.ndim)
    if dim1 == dim2:
        raise ShapeError(f"dim1 and dim2 are both {dim1}", op=op)
    rest = [n for d, n in enumerate(x.shape) if d not in (dim1, dim2)]
    return x.with_shape([*rest, max(min(x.shape[dim1] + min(offset, 0), x.shape[dim2] - max(offset, 0)), 0)])


def _diagonal(x: Array, *, offset: int, dim1: int, dim2: int) -> Array:
    out = np.diagonal(x, offset, dim1, dim2)
    if x.flags.writeable:
        out.flags.writeable = True  # NumPy hands it out read-only out of caution
    return out


def _update_diagonal_type(base: TensorType, new: TensorType, **params: int) -> TensorType:
    _check_new("update_diagonal", base, new, _diagonal_type(base, op="update_diagonal", **params).shape)
    return base


def _update_diagonal(base: Array, new: Array, **params: int) -> Array:
    out = base.copy()
    _diagonal(out, **params)[...] = new
    return out


def _diagonal_samples(dtype: DType, rng: np.random.Generator) -> Iterator[Sample]:
    for shape, offset, dim1, dim2 in (
        ((3, 4), 0, 0, 1), ((3, 4), 1, 0, 1), ((3, 4), -2, 0, 1), ((3, 4), 1, 1, 0), ((2, 3, 2), 0, 0, 2),
        ((2, 2), 5, 0, 1), ((0, 2), 0, 0, 1),
    ):  # fmt: skip
        yield Sample((draw(dtype, rng, shape),), {"offset": offset, "dim1": dim1, "dim2": dim2})


def _update_diagonal_samples(dtype: DType, rng: np.random.Generator) -> Iterator[Sample]:
    for sample in _diagonal_samples(dtype, rng):
        new = _diagonal(sample.inputs[0], **sample.params).shape
        yield Sample((sample.inputs[0], draw(dtype, rng, new)), sample.params)


_DIAGONAL = {"offset": 0, "dim1": 0, "dim2": 1}

diagonal = Primitive(
    "diagonal",
    type_rule=_diagonal_type,
    numpy=_diagonal,
    vjp=(lambda g, _y, _x, **params: update_diagonal(zeros(_x.shape, _x.dtype), g, **params),),
    samples=_diagonal_samples,
    errors=lambda: (
        ErrorSample((np.zeros(3),), _DIAGONAL, OutOfBoundsError, "dim2=1 is outside a 1-d tensor"),
        ErrorSample((np.zeros((3, 3)),), {**_DIAGONAL, "dim1": 1}, ShapeError, "both 1"),
    ),
    torch="diagonal",
    view=True,
    write=lambda base, new, **params: (update_diagonal, (base, new), params),
)


update_diagonal = Primitive(
    "update_diagonal",
    type_rule=_update_diagonal_type,
    numpy=_update_diagonal,
    vjp=(
        lambda g, _y, _base, _new, **params: update_diagonal(g, zeros(_new.shape, _new.dtype), **params),
        lambda g, _y, _base, _new, **params: diagonal(g, **params),
    ),
    samples=_update_diagonal_samples,
    errors=lambda: (
        ErrorSample((np.zeros((3, 3)), np.zeros(2)), _DIAGONAL, ShapeError, "do not fill a place of shape (3,)"),
    ),
    torch="diagonal_scatter",
)


# Arbitrary strides -------------------------------------------------------------------------------


def _overlaps(shape: Shape, strides: Shape) -> bool:
    """Whether several elements may share a place; errs on the side of True."""
    reach = 0
    for s, n in sorted((s, n) for s, n in zip(strides, shape, strict=True) if n > 1):
        if s <= reach:
            return True
        reach += s * (n - 1)
    return False


def _as_strided_type(
    x: TensorType, *, shape: Shape, strides: Shape, offset: int, op: str = "as_strided"
) -> TensorType:
    _check_sizes(op, shape)
    _check_entries(op, len(shape), strides=strides)
    if offset < 0 or any(s < 0 for s in strides):
        raise ShapeError(f"a negative stride or offset: strides={tuple(strides)}, offset={offset}", op=op)
    last = offset + sum([(n - 1) * s for n, s in zip(shape, strides, strict=True)])
    if 0 not in shape and last >= x.size:
        raise OutOfBoundsError(
            f"shape {tuple(shape)} with strides {tuple(strides)} and offset {offset} reaches element {last} "
            f"of a tensor with {x.size}",
            op=op,
        )
    return x.with_shape(shape)


def _as_strided(x: Array, *, shape: Shape, strides: Shape, offset: int) -> Array:
    item = x.itemsize
    return np.lib.stride_tricks.as_strided(np.ascontiguousarray(x).reshape(-1)[offset:], shape, [s * item for s in strides])


def _as_strided_vjp(g: Any, _y: Any, _x: Any, *, shape: Shape, strides: Shape, offset: int) -> Any:
    params = {"shape": shape, "strides": strides, "offset": offset}
    if not _overlaps(shape, strides):
        return update_as_strided(zeros(_x.shape, _x.dtype), g, **params)
    places = as_strided(iota(size=_x.size, dtype=int64), **params)
    size = (math.prod(shape),)
    flat = PRIMITIVES["scatter_add"](
        zeros((_x.size,), _x.dtype), reshape(places, shape=size), reshape(g, shape=size), dim=0
    )
    return reshape(flat, shape=_x.shape)


def _as_strided_write(base: Any, new: Any, **params: Any) -> Any:
    if _overlaps(params["shape"], params["strides"]):
        raise AutogradError(
            "a strided view can't be written: several of its elements share one place",
            op="as_strided",
            hint="make a copy first: x = x.clone()",
        )
    return update_as_strided, (base, new), params


def _update_as_strided_type(base: TensorType, new: TensorType, **params: Any) -> TensorType:
    _check_new("update_as_strided", base, new, _as_strided_type(base, op="update_as_strided", **params).shape)
    if _overlaps(params["shape"], params["strides"]):
        raise ShapeError("several elements share one place", op="update_as_strided")
    return base


def _update_as_strided(base: Array, new: Array, **params: Any) -> Array:
    out = base.copy()
    _as_strided(out, **params)[...] = new
    return out


def _as_strided_samples(dtype: DType, rng: np.random.Generator, overlap: bool = True) -> Iterator[Sample]:
    for old, shape, strides, offset in (
        ((3, 4), (2, 2), (4, 1), 1), ((3, 4), (2, 3), (1, 4), 0), ((12,), (3,), (5,), 1), ((2, 2), (), (), 3),
        ((4,), (0, 2), (1, 1), 0), ((6,), (4, 3), (1, 1), 0), ((3,), (2, 3), (0, 1), 0),
    ):  # fmt: skip
        if overlap or not _overlaps(shape, strides):
            yield Sample((draw(dtype, rng, old),), {"shape": shape, "strides": strides, "offset": offset})


def _update_as_strided_samples(dtype: DType, rng: np.random.Generator) -> Iterator[Sample]:
    for sample in _as_strided_samples(dtype, rng, overlap=False):
        yield Sample((sample.inputs[0], draw(dtype, rng, sample.params["shape"])), sample.params)


as_strided = Primitive(
    "as_strided",
    type_rule=_as_strided_type,
    numpy=_as_strided,
    vjp=(_as_strided_vjp,),
    samples=_as_strided_samples,
    errors=lambda: (
        ErrorSample(
            (np.zeros(4),), {"shape": (2, 3), "strides": (2, 1), "offset": 0}, OutOfBoundsError, "reaches element 4"
        ),
        ErrorSample((np.zeros(4),), {"shape": (2,), "strides": (-1,), "offset": 1}, ShapeError, "negative stride"),
    ),
    torch=lambda torch, x, *, shape, strides, offset: x.contiguous().as_strided(shape, strides, offset),
    view=True,
    write=_as_strided_write,
)


update_as_strided = Primitive(
    "update_as_strided",
    type_rule=_update_as_strided_type,
    numpy=_update_as_strided,
    vjp=(
        lambda g, _y, _base, _new, **params: update_as_strided(g, zeros(_new.shape, _new.dtype), **params),
        lambda g, _y, _base, _new, **params: as_strided(g, **params),
    ),
    samples=_update_as_strided_samples,
    errors=lambda: (
        ErrorSample(
            (np.zeros(4), np.zeros((3, 2))),
            {"shape": (3, 2), "strides": (1, 1), "offset": 0},
            ShapeError,
            "share one place",
        ),
    ),
)
