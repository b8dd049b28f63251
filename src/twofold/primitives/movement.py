"""Movement: primitives that make, rearrange and combine elements without computing on them.

reshape, permute, expand and slice are views (Note [Views] in ir/primitive.py), as are diagonal and
as_strided in strided.py. A view of a part of its base has an `update_*` partner that makes the base
anew with the part replaced; the two are each other's derivative, so that the family is closed under
differentiation.

Note [Slices]
`start`, `stop` and `step` have one entry per dimension and select the elements of
`range(start, stop, step)`: with a negative step, `stop=-1` means "down to and with element 0".
"""

from __future__ import annotations

import functools
import math
from collections.abc import Iterator
from typing import Any

import numpy as np

from ..ir.dtypes import COMPLEX, REALS, DType, float32
from ..ir.errors import AutogradError, DTypeError, OutOfBoundsError, ShapeError
from ..ir.primitive import ErrorSample, Primitive, Sample
from ..ir.types import Shape, TensorType
from ._rules import draw, unbroadcast

Array = np.ndarray[Any, Any]


def zeros(shape: Shape, dtype: DType) -> Any:
    """A tensor of zeros: what most derivative rules of views start from."""
    return full(shape=shape, value=0, dtype=dtype)


def check_sizes(op: str, shape: Shape) -> None:
    if any(n < 0 for n in shape):
        raise ShapeError(f"shape {tuple(shape)} has a negative size", op=op)


def check_in(op: str, name: str, dim: int, ndim: int) -> None:
    if not 0 <= dim < ndim:
        raise OutOfBoundsError(f"{name}={dim} is outside a {ndim}-d tensor", op=op)


def check_entries(op: str, ndim: int, **params: Shape) -> None:
    for name, value in params.items():
        if len(value) != ndim:
            raise ShapeError(f"{name} has {len(value)} entries for a {ndim}-d tensor", op=op)


def check_new(op: str, base: TensorType, new: TensorType, shape: Shape) -> None:
    """The new elements of an `update_*` must fit the place they go to."""
    if new.dtype is not base.dtype:
        raise DTypeError(f"elements of dtype {new.dtype.name} do not go into dtype {base.dtype.name}", op=op)
    if new.shape != shape:
        raise ShapeError(f"elements of shape {new.shape} do not fill a place of shape {shape}", op=op)


# Making tensors from nothing ---------------------------------------------------------------------


def _full_type(*, shape: Shape, value: Any, dtype: DType) -> TensorType:
    check_sizes("full", shape)
    _check_fits("full", value, dtype)
    return TensorType(shape, dtype)


def _check_fits(op: str, value: Any, dtype: DType) -> None:
    """Raise DTypeError unless a Python number can be an element."""
    if isinstance(value, complex) and not dtype.is_complex:
        raise DTypeError(f"the complex value {value} does not fit dtype {dtype.name}", op=op)
    if dtype.kind in ("int", "uint"):
        limit = 2 ** (8 * dtype.itemsize - (dtype.kind == "int"))
        if not -limit <= value < limit:  # negative numbers wrap around in unsigned types, as in C
            raise DTypeError(f"the value {value} does not fit dtype {dtype.name}", op=op)


def _element(value: Any, dtype: Any) -> Any:
    """A Python number that fits, as NumPy takes it for an element."""
    return int(value) % 2 ** (8 * dtype.itemsize) if dtype.kind in ("u", "uint") and value < 0 else value


def _is_zero(value: Any) -> bool:
    """Whether `value` is zero and not negative zero."""
    return value == 0 and math.copysign(1.0, value.real) > 0


def _full(*, shape: Shape, value: Any, dtype: DType) -> Array:
    if value.__class__ is int and 0 <= value < 2:  # which fit all dtypes
        out = np.zeros(shape, dtype.numpy)  # fresh pages from the system need no writing
        if value:
            out.fill(1)
        return out
    _full_type(shape=shape, value=value, dtype=dtype)  # NumPy takes more
    if _is_zero(value):
        return np.zeros(shape, dtype.numpy)
    out = np.empty(shape, dtype.numpy)
    out.fill(_element(value, dtype))  # NumPy's `full` takes three times as long to begin
    return out


def _full_samples(dtype: DType, rng: np.random.Generator) -> Iterator[Sample]:
    for shape in ((2, 3), (), (0, 2)):
        for value in (0, 1, 3.0):
            yield Sample((), {"shape": shape, "value": value, "dtype": dtype})


full: Primitive = Primitive(
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
    checked_by_numpy=True,
)


def _iota_type(*, size: int, dtype: DType) -> TensorType:
    check_sizes("iota", (size,))
    return TensorType((size,), dtype)


def _iota(*, size: int, dtype: DType) -> Array:
    if size < 0:
        raise ValueError  # NumPy would give an empty array
    return np.arange(size).astype(dtype.numpy, copy=False)


iota: Primitive = Primitive(
    "iota",
    type_rule=_iota_type,
    numpy=_iota,
    nondiff="it has no inputs",
    samples=lambda dtype, rng: (Sample((), {"size": n, "dtype": dtype}) for n in (5, 1, 0)),
    errors=lambda: (ErrorSample((), {"size": -1, "dtype": float32}, ShapeError, "negative size"),),
    dtypes=REALS | COMPLEX,
    torch=lambda torch, *, size, dtype: torch.arange(size).to(getattr(torch, dtype.name)),
    checked_by_numpy=True,
)


# Reshape, permute, expand ------------------------------------------------------------------------


def _reshape_type(x: TensorType, *, shape: Shape) -> TensorType:
    check_sizes("reshape", shape)
    if math.prod(shape) != x.size:
        raise ShapeError(
            f"{x.size} elements of shape {x.shape} do not fill shape {tuple(shape)}, which has {math.prod(shape)}",
            op="reshape",
        )
    return x.with_shape(shape)


def _reshape(x: Array, *, shape: Shape) -> Array:
    out = x.reshape(shape)
    if out.shape != shape:
        raise ValueError  # NumPy took -1 as "the rest"
    return out


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


reshape: Primitive = Primitive(
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


permute: Primitive = Primitive(
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
    check_sizes("expand", shape)
    lead = len(shape) - x.ndim
    if lead < 0 or any(n not in (1, m) for n, m in zip(x.shape, shape[lead:], strict=True)):
        raise ShapeError(
            f"shape {x.shape} does not expand to {tuple(shape)}",
            op="expand",
            hint="only dimensions of size 1 grow, and new dimensions come first",
        )
    return x.with_shape(shape)


def _only_adds_dims(old: Shape, new: Shape) -> bool:
    """Whether expanding repeats no element, so that the view can be written."""
    lead = len(new) - len(old)
    return new[lead:] == old and math.prod(new[:lead]) == 1


def _expand(x: Array, *, shape: Shape) -> Array:
    strides = _expanded_strides(x.shape, x.strides, shape)
    if strides is None:
        return x[(None,) * (len(shape) - x.ndim) + (...,)]
    if x.dtype.kind not in _BUFFERED or not x.flags.c_contiguous:
        return np.broadcast_to(x, shape)
    out = np.ndarray(shape, x.dtype, x, 0, strides)  # NumPy's function takes seven times as long
    out.setflags(write=False)
    return out


@functools.lru_cache(1 << 12)
def _expanded_strides(old: Shape, strides: Shape, shape: Shape) -> Shape | None:
    """The strides of an array that is expanded to `shape`; None if only dimensions of size 1 come in front."""
    if _only_adds_dims(old, shape):
        return None
    lead = len(shape) - len(old)
    kept = []
    for n, m, s in zip(old, shape[lead:], strides, strict=True):
        if n != m and n != 1:
            raise ValueError
        kept.append(s if n == m else 0)
    return (0,) * lead + tuple(kept)


_BUFFERED = frozenset("fciub")  # kinds of dtypes of which NumPy makes arrays on the memory of others


def _expand_write(base: Any, new: Any, *, shape: Shape) -> Any:
    if _only_adds_dims(base.shape, shape):
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


expand: Primitive = Primitive(
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
    checked_by_numpy=True,
    view=True,
    write=_expand_write,
)


# Slices ------------------------------------------------------------------------------------------


def _slice_type(x: TensorType, *, start: Shape, stop: Shape, step: Shape, op: str = "slice") -> TensorType:
    check_entries(op, x.ndim, start=start, stop=stop, step=step)
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
_accepted: dict[Any, tuple[Any, ...]] = {}  # shape and params of slices -> NumPy's index
_REMEMBERED = 1 << 12


def _slice(x: Array, *, start: Shape, stop: Shape, step: Shape) -> Array:
    key = x.shape, start, stop, step
    try:
        return x[_accepted[key]]
    except (KeyError, TypeError):  # not seen yet, or params that can't be hashed
        _slice_type(TensorType.of(x), start=start, stop=stop, step=step)
    index = _places(start, stop, step)
    if start.__class__ is stop.__class__ is step.__class__ is tuple and len(_accepted) < _REMEMBERED:
        _accepted[key] = index
    return x[index]


def _update_slice_type(base: TensorType, new: TensorType, **params: Any) -> TensorType:
    check_new("update_slice", base, new, _slice_type(base, op="update_slice", **params).shape)
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


slice: Primitive = Primitive(
    "slice",
    type_rule=_slice_type,
    numpy=_slice,
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
    checked_by_numpy=True,
    write=lambda base, new, **params: (update_slice, (base, new), params),
)


update_slice: Primitive = Primitive(
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
    check_entries("pad", x.ndim, low=low, high=high)
    if any(n < 0 for n in (*low, *high)):
        raise ShapeError(
            f"a negative padding in low={tuple(low)}, high={tuple(high)}",
            op="pad",
            hint="slice off elements instead",
        )
    _check_fits("pad", value, x.dtype)
    return x.with_shape([a + n + b for a, n, b in zip(low, x.shape, high, strict=True)])


def _pad(x: Array, *, low: Shape, high: Shape, value: Any) -> Array:
    shape = tuple([a + n + b for a, n, b in zip(low, x.shape, high, strict=True)])
    if _is_zero(value):
        out = np.zeros(shape, x.dtype)
    else:
        out = np.empty(shape, x.dtype)
        out.fill(_element(value, x.dtype))
    inside: Any = (*[slice_(a, a + n) for a, n in zip(low, x.shape, strict=True)], ...)
    out[inside] = x
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


pad: Primitive = Primitive(
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
    check_in("concat", "dim", dim, first.ndim)
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


def _concat(*xs: Array, dim: int) -> Array:
    dtype = xs[0].dtype
    for x in xs:
        if x.dtype is not dtype:
            raise TypeError  # NumPy would promote
    if dim < 0:
        raise ValueError  # NumPy would count from the end
    return np.concatenate(xs, axis=dim)


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


concat: Primitive = Primitive(
    "concat",
    type_rule=_concat_type,
    numpy=_concat,
    vjp=_concat_vjp,
    saves="",
    samples=_concat_samples,
    checked_by_numpy=True,
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
        check_in("flip", "dim", d, x.ndim)
    return x


def _flip(x: Array, *, dims: Shape) -> Array:
    backwards = slice_(None, None, -1)
    return x[(*[backwards if d in dims else slice_(None) for d in range(x.ndim)], ...)].copy()


flip: Primitive = Primitive(
    "flip",
    type_rule=_flip_type,
    numpy=_flip,
    vjp=(lambda g, _y, _x, *, dims: flip(g, dims=dims),),
    samples=lambda dtype, rng: (
        Sample((draw(dtype, rng, shape),), {"dims": dims})
        for shape, dims in (((2, 3), (0,)), ((2, 3, 2), (0, 2)), ((), ()), ((0, 2), (1,)), ((4,), (0,)))
    ),
    errors=lambda: (ErrorSample((np.zeros(3),), {"dims": (1,)}, OutOfBoundsError, "outside a 1-d tensor"),),
    torch="flip",
)
