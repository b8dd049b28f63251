"""Reading and writing parts of tensors: `x[...]`, masks, gather and scatter.

Note [Writing at places]
`x[places] = v` makes a new value of `x` and writes it, which autograd and the tracer need. Where
neither looks, the elements are written directly, so that a write costs what it writes.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

import numpy as np

from ..autodiff.bind import bind, bind_view, overwritten, write
from ..autodiff.handle import Tensor, mode, wrap
from ..ir.dtypes import DType, bool_, int64, promote, scalar_dtype
from ..ir.errors import DTypeError, OutOfBoundsError, ShapeError, TraceError
from ..ir.types import Shape, broadcast_shapes
from ..primitives import elementwise as E
from ..primitives import index as I
from ..primitives import movement as M
from ..primitives.reduce import cumsum
from ._keys import MASK_HINT, Plan, array_of, constant, indices_of_mask, plan
from ._registry import assign, change, function
from ._views import picked
from .promotion import cast_to, matched

# --- x[...] --------------------------------------------------------------------------------------


_BOOL, _INT64, _ROWS = bool_.numpy, int64.numpy, {"dims": (0,)}


def getitem(x: Tensor, key: Any) -> Tensor:
    """`x[key]`: a view for integers, slices, None and `...`; a copy where tensors or lists index."""
    if mode.tracer is None:
        if key.__class__ is int:
            shape = x._value.shape
            if shape and -shape[0] <= key < shape[0]:
                return picked(x, 0, key if key >= 0 else key + shape[0])
        elif isinstance(key, Tensor):
            places = key._value
            shape = x._value.shape
            if places.dtype is _INT64 and places.shape and shape:
                return bind(I.index, (x, key), _ROWS)
            if places.dtype is _BOOL and places.shape and places.shape == shape and not _recorded(x, x):
                return wrap(x._value[places])
        view = _plain_view(x, key if key.__class__ is tuple else (key,))
        if view is not None:
            return view
    shape = x.shape
    p = plan(shape, key)
    out = _basic(x, p)
    if p.mask is not None:
        return _read_mask(out, p.mask, p.mask_dim)
    if not p.indices:
        return out if out is not x else M.reshape(x, shape=shape)
    if p.scalars and len(p.scalars) < len(p.indices):
        out, p = _select_scalars(out, p)
    return I.index(out, *p.indices, dims=tuple(p.dims))


def _plain_view(x: Tensor, key: tuple[Any, ...]) -> Tensor | None:
    """`x[key]` if all is plain integers, slices, None and `...`: the commonest keys, several times as fast.

    None for other keys, and for wrong ones.
    """
    array = x._value
    shape = array.shape
    start: list[int] = []
    stop: list[int] = []
    step: list[int] = []
    sliced = reshaped = dotted = False
    for place, k in enumerate(key):
        if k is None:
            reshaped = True
            continue
        d = len(start)
        if k is Ellipsis:
            if dotted:
                return None
            behind = [later for later in key[place + 1 :] if later is not None]
            whole = shape[d : len(shape) - len(behind)]
            start += [0] * len(whole)
            stop += whole
            step += [1] * len(whole)
            dotted = True
            continue
        if d == len(shape):
            return None
        n = shape[d]
        if k.__class__ is int:
            if not -n <= k < n:
                return None
            a = k if k >= 0 else k + n
            b, s = a + 1, 1
            reshaped = True
        elif k.__class__ is slice:
            try:
                a, b, s = k.indices(n)
            except (TypeError, ValueError):
                return None
            if (b <= a) if s > 0 else (b >= a):
                return None
        else:
            return None
        sliced = True
        start.append(a)
        stop.append(b)
        step.append(s)
    rest = shape[len(start) :]
    out = array[key if dotted else (*key, ...)]
    steps: tuple[Any, ...] = ()
    if sliced or not reshaped:
        starts, stops, ones = (*start, *(0,) * len(rest)), (*stop, *rest), (*step, *(1,) * len(rest))
        steps = ((M.slice, {"start": starts, "stop": stops, "step": ones}),)
    if reshaped:
        steps = (*steps, (M.reshape, {"shape": out.shape}))
    return bind_view(x, steps, out)


def _basic(x: Tensor, p: Plan) -> Tensor:
    """The part of the key that is a view."""
    params = {"start": p.start, "stop": p.stop, "step": p.step}
    if mode.tracer is not None:
        if p.start is not None:
            x = M.slice(x, **params)
        return x if p.shape is None else M.reshape(x, shape=p.shape)
    steps = []
    array = x._value
    if p.start is not None:
        array = M.slice.numpy(array, **params)
        steps.append((M.slice, params))
    if p.shape is not None:
        array = array.reshape(p.shape)  # only sizes of 1 come and go: never a copy
        steps.append((M.reshape, {"shape": p.shape}))
    return bind_view(x, tuple(steps), array) if steps else x


def _read_mask(x: Tensor, mask: Tensor, dim: int) -> Tensor:
    indices = indices_of_mask(mask)
    return I.index(x, *indices, dims=tuple(range(dim, dim + len(indices))))


def _split_scalars(p: Plan) -> tuple[list[Tensor], Plan]:
    """The 0-d indices of a traced key, and a plan of the others once those dimensions are gone."""
    rest = Plan()
    scalars = []
    for d, i in zip(p.dims, p.indices, strict=True):
        if d in p.scalars:
            scalars.append(i)
        else:
            rest.dims.append(d - sum(s < d for s in p.scalars))
            rest.indices.append(i)
    return scalars, rest


def _select_scalars(x: Tensor, p: Plan) -> tuple[Tensor, Plan]:
    """Apply 0-d index tensors, which only drop their dimension (see Note [Keys])."""
    scalars, rest = _split_scalars(p)
    return I.index(x, *scalars, dims=tuple(p.scalars)), rest


def _setitem(x: Tensor, key: Any, value: Any) -> None:
    """`x[key] = value`: the value is broadcast and cast; writes go through views."""
    v = value_as(value, x.dtype)
    if mode.tracer is None:
        if isinstance(key, Tensor):
            if _put_simply(x, key, v):
                return
        elif _write_part(x, key if key.__class__ is tuple else (key,), v):
            return
    p = plan(x.shape, key)
    view = _basic(x, p)
    if p.mask is not None:
        _write_mask(view, p.mask, p.mask_dim, v)
    elif p.indices:
        _write_places(view, v, p)
    else:
        _write_view(view, v)


def _write_part(x: Tensor, key: tuple[Any, ...], v: Tensor) -> bool:
    """`x[key] = v` for a key of plain integers, slices, None and `...`; False if nothing was written."""
    dotted = False
    for k in key:
        if k is Ellipsis:
            dotted = True
        elif k.__class__ is not int and k.__class__ is not slice and k is not None:
            return False
    if _recorded(x, v) or not _writable(x):
        view = _plain_view(x, key)
        if view is not None:
            _write_view(view, v)
        return view is not None
    try:
        x._value[key if dotted else (*key, ...)] = v._value
    except (IndexError, ValueError, TypeError):  # the long way says what is wrong
        return False
    overwritten(x)
    return True


def _put_simply(x: Tensor, key: Tensor, v: Tensor) -> bool:
    """`x[mask] = number` and `x[places] = v` where it is all that NumPy does; False if it was not."""
    places, shape, array = key._value, x._value.shape, v._value
    if places.dtype is _BOOL:
        is_simple = places.shape == shape[: places.ndim] and places.ndim > 0 and array.shape == ()
    else:
        is_simple = places.dtype is _INT64 and places.ndim > 0 and array.shape in ((), places.shape + shape[1:])
    if not is_simple or not shape or _recorded(x, v) or not _writable(x):
        return False
    _put_now(x, places, v, (key,), (0,))
    return True


def _write_view(view: Tensor, v: Tensor) -> None:
    if v.shape == () and not _recorded(view, v):
        write(view, v)  # NumPy broadcasts it
    else:
        assign(view, fit(v, view.shape))


def value_as(value: Any, dtype: DType) -> Tensor:
    """What stands right of `x[...] =`, as a tensor of x's dtype."""
    if isinstance(value, (bool, int, float, complex)):
        if isinstance(value, complex) and not dtype.is_complex:
            raise DTypeError(f"the complex number {value} can't be stored in a {dtype.name} tensor", op="index_put")
        value = cast_to(value, dtype)
        if mode.tracer is None:
            return wrap(np.array(value, dtype.numpy))
        return M.full(shape=(), value=value, dtype=dtype)
    if not isinstance(value, Tensor):
        value = constant(np.asarray(value))
    return value if value.dtype is dtype else E.cast(value, dtype=dtype)


def fit(v: Tensor, shape: Shape) -> Tensor:
    """`v` without leading dimensions of size 1 that `shape` does not have."""
    extra = v.ndim - len(shape)
    if extra > 0 and all(n == 1 for n in v.shape[:extra]):
        return M.reshape(v, shape=v.shape[extra:])
    return v


def _recorded(x: Tensor, v: Tensor) -> bool:
    """Whether a write must be an operation: it is traced, or a gradient flows."""
    return mode.tracer is not None or (mode.grad and (x.requires_grad or v.requires_grad))


def _write_places(x: Tensor, v: Tensor, p: Plan) -> None:
    dims = tuple(p.dims)
    if p.scalars and len(p.scalars) < len(p.indices):
        scalars, rest = _split_scalars(p)
        part = I.index(x, *scalars, dims=tuple(p.scalars))
        _write_places(part, v, rest)
        write(x, I.index_put(x, part, *scalars, dims=tuple(p.scalars), accumulate=False))
        return
    v = fit(v, result_shape(x.shape, p.indices, dims))
    if _recorded(x, v) or not _writable(x):
        write(x, I.index_put(x, v, *p.indices, dims=dims, accumulate=False))
        return
    key = [slice(None)] * x.ndim
    for d, i in zip(dims, p.indices, strict=True):
        key[d] = i._value
    _put_now(x, tuple(key), v, p.indices, dims)


def result_shape(shape: Shape, indices: Sequence[Tensor], dims: tuple[int, ...]) -> Shape:
    together = broadcast_shapes(*[i.shape for i in indices], op="index_put")
    rest = [n for d, n in enumerate(shape) if d not in dims]
    at = dims[0] if dims[-1] - dims[0] == len(dims) - 1 else 0
    return (*rest[:at], *together, *rest[at:])


def _writable(x: Tensor) -> bool:
    """Whether elements may be written directly; `write` says what is wrong with other tensors."""
    if x._steps and any(p.name == "as_strided" for p, _ in x._steps):
        return False
    return bool(x._value.flags.writeable)


def _put_now(x: Tensor, key: Any, v: Tensor, indices: Sequence[Tensor], dims: tuple[int, ...]) -> None:
    """Write the elements directly; see Note [Writing at places]."""
    value = v._value
    try:
        x._value[key] = value.copy() if np.may_share_memory(value, x._value) else value
    except (IndexError, ValueError):
        I.index_put(x, v, *indices, dims=dims, accumulate=False)  # explains what is wrong
        raise
    overwritten(x)


def _write_mask(x: Tensor, mask: Tensor, dim: int, v: Tensor) -> None:
    """Write where `mask`, which stands for the dimensions from `dim` on, is True."""
    if _recorded(x, v):
        spread = _spread(x, mask, dim, v)
        if spread is not None:
            write(x, E.where(_over(mask, dim, x.ndim), spread, x))
            return
        if mode.tracer is not None and not mode.tracer.asks:
            raise TraceError(
                f"a value of shape {v.shape} is written to the places of a mask, and how many there are depends "
                "on values, which a graph can't express",
                op="index_put",
                hint="write a number or a value that broadcasts, or use x.copy_(where(mask, y, x)) or "
                "masked_scatter_",
            )
    indices = indices_of_mask(mask)
    p = Plan()
    p.indices, p.dims = indices, list(range(dim, dim + len(indices)))
    _write_places(x, v, p)


def _over(mask: Tensor, dim: int, ndim: int) -> Tensor:
    """The mask with dimensions of size 1 behind it, so that it broadcasts over an `ndim`-d tensor."""
    behind = ndim - dim - max(mask.ndim, 1)
    shape = mask.shape or (1,)
    return M.reshape(mask, shape=(*shape, *(1,) * behind))


def _spread(x: Tensor, mask: Tensor, dim: int, v: Tensor) -> Tensor | None:
    """`v` with the shape to stand beside `x` in `where`, or None if it has a value per True."""
    covered = max(mask.ndim, 1)
    behind = x.ndim - dim - covered
    result = (*x.shape[:dim], 1, *x.shape[dim + covered :])
    v = fit(v, result)
    if v.ndim <= behind:
        return v
    at = v.ndim - behind - 1
    if v.shape[at] != 1:
        return None
    return M.reshape(v, shape=(*v.shape[:at], *(1,) * covered, *v.shape[at + 1 :]))


function(getitem, name="__getitem__", module=False)
function(_setitem, name="__setitem__", module=False)


def flat(x: Tensor) -> Tensor:
    """`x` as a 1-d tensor."""
    return M.reshape(x, shape=(math.prod(x.shape),))


# --- masks ---------------------------------------------------------------------------------------


def _bool_mask(mask: Any, op: str) -> Tensor:
    if not isinstance(mask, Tensor) or mask.dtype is not bool_:
        got = mask.dtype.name if isinstance(mask, Tensor) else type(mask).__name__
        raise DTypeError(f"the mask must be a bool tensor, got {got}", op=op, hint="use mask.bool()")
    return mask


@function(method=False)
def where(condition: Tensor, input: Any = None, other: Any = None) -> Any:
    """Elements of `input` where the condition is True, of `other` elsewhere.

    Shapes: all three broadcast; dtypes of `input` and `other` promote. With the condition alone it
    is `nonzero(condition, as_tuple=True)`.
    Raises: DTypeError unless the condition is bool; ShapeError if the shapes do not broadcast.

    >>> import twofold as tw
    >>> x = tw.tensor([-1.0, 2.0])
    >>> tw.where(x > 0, x, 0.0)
    tensor([0., 2.])
    """
    if input is None and other is None:
        return nonzero(condition, as_tuple=True)
    _bool_mask(condition, "where")
    if isinstance(input, (int, float, complex)) and isinstance(other, (int, float, complex)):
        dtype = promote(scalar_dtype(input), scalar_dtype(other))
        x: Any = M.full(shape=(), value=cast_to(input, dtype), dtype=dtype)
        return E.where(condition, x, cast_to(other, dtype))
    x, y = matched("where", input, other)
    return bind(E.where, (condition, x, y), {})


@function(name="where", module=False)
def _where_method(self: Tensor, condition: Tensor, other: Any) -> Tensor:
    """Elements of the tensor where the condition is True, of `other` elsewhere."""
    return where(condition, self, other)


@function
def masked_fill(input: Tensor, mask: Tensor, value: Any) -> Tensor:
    """`input` with `value`, a number or a 0-d tensor, where `mask` is True.

    Shapes: input and mask broadcast.
    Raises: DTypeError for a complex value in a real tensor.

    >>> import twofold as tw
    >>> tw.tensor([1.0, 2.0]).masked_fill(tw.tensor([True, False]), 0)
    tensor([0., 2.])
    """
    _bool_mask(mask, "masked_fill")
    if isinstance(value, Tensor):
        if value.ndim:
            raise ShapeError(
                f"the value must be a number or a 0-d tensor, got shape {value.shape}",
                op="masked_fill",
                hint="use where(mask, value, input)",
            )
        return E.where(mask, cast_to(value, input.dtype), input)
    if isinstance(value, complex) and not input.dtype.is_complex:
        raise DTypeError(
            f"the complex number {value!r} can't be stored in a tensor of dtype {input.dtype.name}",
            op="masked_fill",
        )
    return bind(E.where, (mask, cast_to(value, input.dtype), input), {})


@function(module=False)
def masked_fill_(self: Tensor, mask: Tensor, value: Any) -> Tensor:
    """In-place form of `masked_fill`: writes the result into the tensor and returns it."""
    if mode.tracer is None and not isinstance(value, Tensor) and not _recorded(self, self) and _writable(self):
        array, places = self._value, _bool_mask(mask, "masked_fill_")._value
        if array.shape[array.ndim - places.ndim :] == places.shape and not isinstance(value, complex):
            np.copyto(array, cast_to(value, self.dtype), where=places, casting="unsafe")
            overwritten(self)
            return self
    return change(self, masked_fill, (mask, value), {}, "masked_fill_")


@function
def masked_select(input: Tensor, mask: Tensor) -> Tensor:
    """The elements where `mask` is True, in row-major order, as a 1-d tensor.

    Shapes: input and mask broadcast. The result's size depends on values: it can't be traced.

    >>> import twofold as tw
    >>> tw.tensor([1, 2, 3]).masked_select(tw.tensor([True, False, True]))
    tensor([1, 3])
    """
    _bool_mask(mask, "masked_select")
    shape = broadcast_shapes(input.shape, mask.shape, op="masked_select")
    input = M.expand(input, shape=shape)
    if mode.tracer is not None and mode.tracer.asks:
        mask = M.expand(mask, shape=shape)
        if not shape:
            input, mask = M.reshape(input, shape=(1,)), M.reshape(mask, shape=(1,))
        return I.index(input, *indices_of_mask(mask), dims=tuple(range(mask.ndim)))
    array = np.broadcast_to(array_of(mask, "masked_select", MASK_HINT), shape)
    if not shape:
        input, array = M.reshape(input, shape=(1,)), array.reshape(1)
    return I.index(input, *[wrap(i) for i in np.nonzero(array)], dims=tuple(range(array.ndim)))


@function(inplace=True)
def masked_scatter(input: Tensor, mask: Tensor, source: Tensor) -> Tensor:
    """`input` with the elements where `mask` is True replaced by those of `source`, in order.

    Shapes: input and mask broadcast; source has at least as many elements as the mask has Trues.
    Raises: DTypeError if dtypes differ; OutOfBoundsError if source is too small.

    >>> import twofold as tw
    >>> tw.zeros(3).masked_scatter(tw.tensor([True, False, True]), tw.tensor([1.0, 2.0]))
    tensor([1., 0., 2.])
    """
    op = "masked_scatter"
    _bool_mask(mask, op)
    if source.dtype is not input.dtype:
        raise DTypeError(f"the tensor has dtype {input.dtype.name}, the source {source.dtype.name}", op=op)
    shape = broadcast_shapes(input.shape, mask.shape, op=op)
    mask = M.expand(mask, shape=shape)
    size = math.prod(shape)
    source = flat(source)
    if mode.tracer is None:
        count = int(np.count_nonzero(mask._value))
        if count > source.shape[0]:
            raise OutOfBoundsError(
                f"the mask has {count} Trues, but the source only {source.shape[0]} elements", op=op
            )
        if not count:
            return E.copy(M.expand(input, shape=shape))
    counts = cumsum(M.reshape(E.cast(mask, dtype=int64), shape=(size,)), dim=0)
    places = E.maximum(counts - 1, 0)
    taken = M.reshape(I.index(source, places, dims=(0,)), shape=shape)
    return E.where(mask, taken, input)


@function
def nonzero(input: Tensor, *, as_tuple: bool = False) -> Any:
    """Places of the elements that are not zero, in row-major order.

    Shapes: (n, ndim) int64; with `as_tuple` one (n,) tensor per dimension, which can index.
    Raises: TraceError while tracing: n depends on values.

    >>> import twofold as tw
    >>> tw.tensor([0, 3, 4]).nonzero()
    tensor([[1],
            [2]])
    """
    if mode.tracer is not None and mode.tracer.asks:
        return tuple(indices_of_mask(input)) if as_tuple else I.nonzero(input)
    array = array_of(input, "nonzero", "use where(condition, x, y), which keeps the shape")
    if not as_tuple:
        return I.nonzero(input)
    return tuple([wrap(i) for i in np.nonzero(array.reshape(1) if array.ndim == 0 else array)])


@function
def argwhere(input: Tensor) -> Tensor:
    """Places of the elements that are not zero: the same as `nonzero(input)`."""
    return nonzero(input)
