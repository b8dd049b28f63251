"""Keys of `x[...]`: what the brackets may hold, and how it becomes views and index tensors.

Note [Keys]
A key is read in one pass into a `Plan`: a slice per dimension, a reshape that drops the dimensions
of plain integers and adds those of None, and the places of index tensors in the result of both.
So the basic part of any key is a view, and the rest is one `index` or `index_put`.

Where index tensors stand side by side their common shape takes their place, otherwise it comes
first, as in NumPy. Plain integers (and 0-d integer tensors) only drop their dimension and do not
count as index tensors; there PyTorch differs from NumPy, and we follow PyTorch: `x[0, :, [1, 2]]`
of a (2, 3, 4) tensor is (3, 2). While tracing, a 0-d tensor has no value yet and the result is a copy
and not a view; assigning to it works as ever. A bool adds a dimension of size 1 (True) or 0 (False).
"""

from __future__ import annotations

from collections.abc import Sequence
from operator import index as as_int
from typing import Any

import numpy as np

from ..autodiff.handle import Tensor, mode, wrap
from ..ir.dtypes import bool_, int64, uint8
from ..ir.errors import DTypeError, OutOfBoundsError, ShapeError, TraceError
from ..ir.types import Shape
from ..primitives import elementwise as E
from ..primitives import movement as M
from ..primitives.index import nonzero

_BOOLS = (bool, np.bool_)
_FULL = slice(None)


class Plan:
    """A key, understood.

    Attributes:
        start, stop, step: params of the slice; None where the whole tensor is taken.
        shape: what the slice is reshaped to; None if nothing is dropped or added.
        dims: dimensions of the reshaped slice to which `indices` belong.
        indices: int64 tensors, one per dimension of `dims`.
        mask: the key's only index, if it is one boolean tensor, with `dims[0]` its first dimension
            (then `indices` is empty: see `indices_of_mask`).
        scalars: dimensions whose index is a 0-d tensor of a traced program.
    """

    __slots__ = ("dims", "indices", "mask", "mask_dim", "scalars", "shape", "start", "step", "stop")

    def __init__(self) -> None:
        self.start: Shape | None = None
        self.stop: Shape = ()
        self.step: Shape = ()
        self.shape: Shape | None = None
        self.dims: list[int] = []
        self.indices: list[Tensor] = []
        self.mask: Tensor | None = None
        self.mask_dim = 0
        self.scalars: list[int] = []


def constant(array: np.ndarray[Any, Any]) -> Tensor:
    """An array as a tensor: while tracing a constant of the graph."""
    return wrap(array if mode.tracer is None else mode.tracer.graph.constant(array))


def array_of(t: Tensor, op: str, hint: str) -> np.ndarray[Any, Any]:
    """The values of `t`, on which the shape of a result depends.

    Raises: TraceError while tracing.
    """
    if mode.tracer is not None:
        raise TraceError("the shape of the result depends on values, which a graph can't express", op=op, hint=hint)
    return t._value


MASK_HINT = (
    "keep the shape: where(mask, x, 0) instead of x[mask], (x * mask).sum() instead of x[mask].sum(); "
    "x[mask] = number can be traced"
)


def plan(shape: Shape, key: Any) -> Plan:
    """Understand the key of a tensor of `shape`.

    Raises: OutOfBoundsError, ShapeError or DTypeError with what is wrong with the key.
    """
    reader = _Reader(shape)
    for item in _without_ellipsis([_item(k) for k in (key if key.__class__ is tuple else (key,))], shape):
        if item.__class__ is slice:
            reader.cut(item)
        elif item.__class__ is int:
            reader.pick(item)
        elif item is None or item.__class__ is bool:
            reader.insert(item)
        elif item.dtype is bool_:
            reader.mask(item)
        else:
            reader.tensor(item)
    return reader.plan()


class _Reader:
    """Reads a key from left to right, collecting what makes a `Plan`."""

    __slots__ = ("dim", "found", "reshaped", "shape", "sizes", "sliced", "start", "step", "stop")

    def __init__(self, shape: Shape):
        self.shape = shape
        self.dim = 0  # the dimension that the next item is for
        self.start: list[int] = []
        self.stop: list[int] = []
        self.step: list[int] = []
        self.sizes: list[int] = []  # of the result of slice and reshape
        self.found: list[tuple[int, Tensor]] = []  # (dimension of that result, index tensor)
        self.sliced = self.reshaped = False

    def whole(self, sizes: Shape) -> None:
        """Take the next dimensions as they are."""
        self.start += [0] * len(sizes)
        self.stop += sizes
        self.step += [1] * len(sizes)
        self.sizes += sizes
        self.dim += len(sizes)

    def cut(self, item: slice) -> None:
        """`a:b:c`"""
        n = self.shape[self.dim]
        a, b, step = (0, n, 1) if item is _FULL else _bounds(item, n)
        self.start.append(a)
        self.stop.append(b)
        self.step.append(step)
        self.sizes.append(len(range(a, b, step)))
        self.dim += 1
        if a != 0 or b != n or step != 1:
            self.sliced = True

    def pick(self, item: int) -> None:
        """A plain integer."""
        n = self.shape[self.dim]
        if not -n <= item < n:
            raise OutOfBoundsError(
                f"index {item} is out of bounds for dimension {self.dim} of size {n} (shape {self.shape})",
                op="index",
                hint=f"indices must be between {-n} and {n - 1}" if n else "the dimension is empty",
            )
        item %= n
        self.start.append(item)
        self.stop.append(item + 1)
        self.step.append(1)
        self.dim += 1
        self.sliced = self.reshaped = True

    def insert(self, item: bool | None) -> None:
        """None, True or False: a dimension more."""
        self.reshaped = True
        if item is not None:
            self.found.append((len(self.sizes), constant(np.zeros(int(item), np.int64))))
        self.sizes.append(1)

    def mask(self, item: Tensor) -> None:
        """A boolean tensor, for as many dimensions as it has; a 0-d one is a bool."""
        self.found.append((len(self.sizes), item))
        if not item.ndim:
            self.reshaped = True
            self.sizes.append(1)
            return
        check_mask(item, self.shape, self.dim)
        self.whole(self.shape[self.dim : self.dim + item.ndim])

    def tensor(self, item: Tensor) -> None:
        """An integer tensor."""
        self.found.append((len(self.sizes), item))
        self.whole(self.shape[self.dim : self.dim + 1])

    def plan(self) -> Plan:
        """What was read."""
        out = Plan()
        if self.sliced:
            out.start, out.stop, out.step = tuple(self.start), tuple(self.stop), tuple(self.step)
        if self.reshaped:
            out.shape = tuple(self.sizes)
        if self.found:
            _place(out, self.found)
        return out


def _place(out: Plan, found: list[tuple[int, Tensor]]) -> None:
    if len(found) == 1 and found[0][1].dtype is bool_:
        out.mask_dim, out.mask = found[0]
        return
    for d, t in found:
        if t.dtype is bool_:
            parts = indices_of_mask(t)
            out.indices.extend(parts)
            out.dims.extend(range(d, d + len(parts)))
        else:
            if t.ndim == 0:
                out.scalars.append(d)
            out.indices.append(t if t.dtype is int64 else E.cast(t, dtype=int64))
            out.dims.append(d)


def indices_of_mask(mask: Tensor) -> list[Tensor]:
    """Index tensors of the places where `mask` is True, one per dimension (one for a 0-d mask)."""
    if mode.tracer is not None and mode.tracer.asks:
        return places_of(mask)
    array = array_of(mask, "index", MASK_HINT)
    if array.ndim == 0:
        return [wrap(np.zeros(int(array), np.int64))]
    return [wrap(i) for i in np.nonzero(array)]


def places_of(mask: Tensor) -> list[Tensor]:
    """As `indices_of_mask`, by operations, in a trace that can ask how many there are."""
    if mask.ndim == 0:
        mask = M.reshape(mask, shape=(1,))
    places = nonzero(mask)
    n = places.shape[0]
    cut = [M.slice(places, start=(0, d), stop=(n, d + 1), step=(1, 1)) for d in range(mask.ndim)]
    return [M.reshape(column, shape=(n,)) for column in cut]


def check_mask(mask: Tensor, shape: Shape, dim: int) -> None:
    """Raise ShapeError unless the mask has the sizes of `shape` from `dim` on."""
    for d, (n, m) in enumerate(zip(mask.shape, shape[dim:], strict=False)):
        if n != m:
            raise ShapeError(
                f"the mask has shape {mask.shape}, but dimension {dim + d} of the tensor has size {m} "
                f"(shape {shape}), not {n}",
                op="index",
                hint="a mask must have the sizes of the dimensions that it stands for",
            )


def _bounds(s: slice, n: int) -> tuple[int, int, int]:
    """start, stop and step such that `range` of them are the places, normalised when empty."""
    try:
        a, b, step = s.indices(n)
    except ValueError:
        raise ShapeError("the step of a slice is zero", op="index") from None
    except TypeError:
        parts = [p if p is None else _slice_part(p) for p in (s.start, s.stop, s.step)]
        a, b, step = slice(*parts).indices(n)
    if step > 0:
        return (a, b, step) if b > a else (min(a, n), min(a, n), step)
    return (a, b, step) if b < a else (a, a, step)


def _slice_part(p: Any) -> int:
    try:
        return as_int(p)
    except TypeError:
        raise DTypeError(
            f"the bounds of a slice must be integers, got {p!r}",
            op="index",
            hint="divide sizes with //, not with /",
        ) from None


def _without_ellipsis(items: list[Any], shape: Shape) -> list[Any]:
    """The items with `...` replaced by full slices; checks their number."""
    used, at = 0, None
    for i, item in enumerate(items):
        if item is Ellipsis:
            if at is not None:
                raise ShapeError("a key can hold only one ellipsis (...)", op="index")
            at = i
        elif item.__class__ is int or item.__class__ is slice:
            used += 1
        elif isinstance(item, Tensor):
            used += item.ndim if item.dtype is bool_ else 1
    if used > len(shape):
        raise OutOfBoundsError(
            f"too many indices: {used} for a {len(shape)}-d tensor of shape {shape}",
            op="index",
            hint="remove indices, or add dimensions with None or unsqueeze()" if shape else "read it with item()",
        )
    fill = [_FULL] * (len(shape) - used)
    if at is None:
        return items + fill
    return [*items[:at], *fill, *items[at + 1 :]]


def _item(k: Any) -> Any:
    """One entry of a key as int, bool, slice, None, Ellipsis or a tensor (bool or integer)."""
    kind = k.__class__
    if kind is int or kind is slice or kind is bool or k is None or k is Ellipsis:
        return k
    if isinstance(k, Tensor):
        return _tensor_item(k)
    if isinstance(k, _BOOLS):
        return bool(k)
    if isinstance(k, np.ndarray):
        return _tensor_item(constant(k)) if k.ndim or k.dtype.kind not in "iu" else int(k)
    if isinstance(k, (list, tuple, range)):
        return _tensor_item(constant(_array(k)))
    try:
        return as_int(k)
    except TypeError:
        raise _no_index(k) from None


def _tensor_item(t: Tensor) -> Any:
    dtype = t.dtype
    if dtype is bool_:
        return t
    if dtype.kind not in ("int", "uint"):
        raise DTypeError(
            f"a tensor of dtype {dtype.name} can't be an index",
            op="index",
            hint="indices are integers or bools: write x[i.long()], or x[i > 0] for a mask",
        )
    if dtype is uint8 and t.ndim:
        raise DTypeError(
            "a uint8 tensor as an index could mean places or a mask",
            op="index",
            hint="write x[i.long()] for places or x[i.bool()] for a mask",
        )
    if t.ndim == 0 and mode.tracer is None:
        return int(t._value)
    return t


def _array(k: Sequence[Any]) -> np.ndarray[Any, Any]:
    """A nested sequence of integers or bools as an array."""
    try:
        array = np.array(_numbers(k))
    except ValueError:
        raise ShapeError(f"the rows of the index {k!r} have different lengths", op="index") from None
    if array.size == 0 and array.dtype.kind == "f":
        return array.astype(np.int64)
    if array.dtype.kind not in "biu":
        raise _no_index(k)
    return array.astype(np.int64) if array.dtype.kind != "b" else array


def _numbers(k: Any) -> Any:
    if isinstance(k, (list, tuple)):
        return [_numbers(v) for v in k]
    if isinstance(k, Tensor):
        return array_of(k, "index", "stack the tensors instead of putting them into a list")
    return k


def _no_index(k: Any) -> DTypeError:
    return DTypeError(
        f"{k!r} of type {type(k).__name__} can't be an index",
        op="index",
        hint="use int(...) or // to get an integer"
        if isinstance(k, (float, np.floating))
        else "use integers, slices, None, ..., bools, or tensors and lists of integers or bools",
    )
