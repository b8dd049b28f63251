"""Tensors made from nothing: constants, ranges, triangles, grids."""

from __future__ import annotations

import itertools
import math
import operator
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np

from ..autodiff.bind import bind, no_record
from ..autodiff.composite import composite
from ..autodiff.handle import Tensor
from ..ir.dtypes import DType, as_dtype, bool_, float64, get_default_dtype, int64, scalar_dtype
from ..ir.errors import DTypeError, ShapeError, TwofoldError
from ..ir.types import Shape
from ..primitives import elementwise as prim
from ..primitives import index as places
from ..primitives import movement
from ._keys import constant
from ._registry import function
from ._shapes import sizes
from .attributes import cast
from .creation import as_leaf, copied, made
from .device import check_device
from .promotion import cast_to, tensor_operand

# --- constants ----------------------------------------------------------------------------------


def _dtype(dtype: Any, default: DType | None = None) -> DType:
    return (default or get_default_dtype()) if dtype is None else as_dtype(dtype)


def _filled(shape: Shape, value: Any, dtype: DType) -> Tensor:
    if isinstance(value, Tensor):
        if value.type_.size != 1:
            raise ShapeError(f"the fill value must be one number, got shape {value.shape}", op="full")
        with no_record():
            one = movement.reshape(cast(value, dtype), shape=())
            return copied(movement.expand(one, shape=shape))
    if not isinstance(value, (bool, int, float, complex)):
        if not isinstance(value, np.generic):
            raise DTypeError(f"the fill value must be a number, got {type(value).__name__}", op="full")
        value = value.item()
    return bind(movement.full, (), {"shape": shape, "value": cast_to(value, dtype), "dtype": dtype})


def _constant(name: str, value: int, what: str, text: str) -> Callable[..., Tensor]:
    """`zeros`, `ones`, `empty` with their `_like` and `new_` forms."""

    def call(
        *size: Any,
        dtype: Any = None,
        device: Any = None,
        requires_grad: bool = False,
        layout: Any = None,
        pin_memory: bool = False,
        memory_format: Any = None,
    ) -> Tensor:
        t = of_shape(sizes(size, name), _dtype(dtype))
        check_device(device)
        return as_leaf(t, requires_grad)

    call.__name__ = call.__qualname__ = name  # in messages about arguments

    def of_shape(shape: Shape, dtype: DType) -> Tensor:
        t: Tensor = bind(movement.full, (), {"shape": shape, "value": value, "dtype": dtype})
        return t

    def with_size(*args: Any, size: Any = None, **kwargs: Any) -> Tensor:
        if not args and size is None:
            raise ShapeError("no size was given", op=name, hint=f"{name}(()) makes a 0-d tensor")
        if not kwargs and size is None:
            return of_shape(sizes(args, name), get_default_dtype())
        return call(*args, **kwargs) if size is None else call(size, **kwargs)

    def like(input: Tensor, *, dtype: Any = None, **kwargs: Any) -> Tensor:
        x = tensor_operand(input, name + "_like")
        kind = x.dtype if dtype is None else as_dtype(dtype)
        return call(x.shape, dtype=kind, **kwargs) if kwargs else of_shape(x._value.shape, kind)

    def new(self: Tensor, *size: Any, dtype: Any = None, **kwargs: Any) -> Tensor:
        kind = self.dtype if dtype is None else as_dtype(dtype)
        if size and not kwargs:
            return of_shape(sizes(size, name), kind)
        return with_size(*size, dtype=kind, **kwargs)

    docs: dict[str, tuple[Callable[..., Tensor], str, str]] = {
        name: (with_size, f"A tensor {what}.", f"tw.{name}(2, 3)"),
        name + "_like": (
            like,
            f"A tensor {what} with the shape and dtype of `input`.",
            f"tw.{name}_like(tw.eye(2, 3))",
        ),
        "new_" + name: (new, f"A tensor {what} with the dtype of this one.", f"tw.eye(2).new_{name}(2, 3)"),
    }
    for public, (fn, sentence, example) in docs.items():
        fn.__name__ = fn.__qualname__ = public
        fn.__doc__ = f"""{sentence}

    >>> import twofold as tw
    >>> {example}
    tensor([[{text}, {text}, {text}],
            [{text}, {text}, {text}]])
    """
        is_new = public.startswith("new_")
        function(fn, method=is_new, module=not is_new)
    return with_size


zeros = _constant("zeros", 0, "of zeros", "0.")
ones = _constant("ones", 1, "of ones", "1.")
empty = _constant("empty", 0, "whose values are not promised (they are zeros)", "0.")


@function(method=False)
def full(
    size: Any, fill_value: Any, *, dtype: Any = None, device: Any = None, requires_grad: bool = False, **_: Any
) -> Tensor:
    """A tensor filled with one number, which gives the dtype unless one is given.

    >>> import twofold as tw
    >>> tw.full((2,), 7), tw.full((2,), 0.5)
    (tensor([7, 7]), tensor([0.5000, 0.5000]))
    """
    if dtype is None:
        dtype = fill_value.dtype if isinstance(fill_value, Tensor) else scalar_dtype(fill_value)
    kind = as_dtype(dtype)
    shape = sizes(size if isinstance(size, (tuple, list)) else (size,), "full")
    check_device(device)
    return as_leaf(_filled(shape, fill_value, kind), requires_grad)


@function(method=False)
def full_like(input: Tensor, fill_value: Any, *, dtype: Any = None, **kwargs: Any) -> Tensor:
    """A tensor filled with one number, with the shape and dtype of `input`.

    >>> import twofold as tw
    >>> tw.full_like(tw.zeros(2), 3)
    tensor([3., 3.])
    """
    x = tensor_operand(input, "full_like")
    return full(x.shape, fill_value, dtype=_dtype(dtype, x.dtype), **kwargs)


@function(module=False)
def new_full(self: Tensor, size: Any, fill_value: Any, *, dtype: Any = None, **kwargs: Any) -> Tensor:
    """A tensor filled with one number, with the dtype of this one.

    >>> import twofold as tw
    >>> tw.zeros(1).new_full((2,), 3)
    tensor([3., 3.])
    """
    return full(size, fill_value, dtype=_dtype(dtype, self.dtype), **kwargs)


# --- ranges -------------------------------------------------------------------------------------


def _number(x: Any) -> Any:
    return x.item() if isinstance(x, (Tensor, np.generic)) else x


def _steps(size: int, start: Any, step: Any, dtype: DType) -> Tensor:
    """`start + i * step`, computed in float64 or int64 and then cast."""
    whole = isinstance(start, int) and isinstance(step, int)
    exact = start == 0 and step == 1 and dtype is not bool_
    kind = dtype if exact else int64 if whole else float64
    i: Tensor = bind(movement.iota, (), {"size": size, "dtype": kind})
    if step != 1:
        i = i * step
    if start != 0 or not whole:  # a negative zero becomes a positive one
        i = i + start
    return cast(i, dtype)


@function(method=False)
def arange(
    *args: Any,
    start: Any = 0,
    end: Any = None,
    step: Any = 1,
    dtype: Any = None,
    device: Any = None,
    requires_grad: bool = False,
    **_: Any,
) -> Tensor:
    """Numbers from `start` to `end`, which is excluded: `arange(end)`, `arange(start, end, step)`.

    Integers give int64, floats the default dtype. The size is `ceil((end - start) / step)`.

    Raises: TwofoldError when `step` is 0 or leads away from `end`.

    >>> import twofold as tw
    >>> tw.arange(3), tw.arange(1, 2, 0.25)
    (tensor([0, 1, 2]), tensor([1.0000, 1.2500, 1.5000, 1.7500]))
    """
    if len(args) == 1 and end is None:
        end = args[0]
    elif len(args) > 1:
        start, end, step = (*args, step)[:3] if len(args) == 2 else args
    elif args:
        start = args[0]
    a, b, s = _number(start), _number(end), _number(step)
    if b is None:
        raise TwofoldError("the end is missing", op="arange", hint="arange(end) or arange(start, end)")
    if s == 0:
        raise TwofoldError("step must not be 0", op="arange")
    whole = isinstance(a, int) and isinstance(b, int) and isinstance(s, int)
    if not whole and not all(math.isfinite(x) for x in (a, b, s)):
        raise TwofoldError(f"start, end and step must be finite, got {a}, {b}, {s}", op="arange")
    if (b - a) * s < 0:
        raise TwofoldError(f"step {s} leads from {a} away from {b}", op="arange", hint="change the sign of step")
    size = -((a - b) // s) if whole else math.ceil((b - a) / s)
    check_device(device)
    return as_leaf(_steps(size, a, s, _dtype(dtype, int64 if whole else None)), requires_grad)


def _count(steps: Any, op: str) -> int:
    n = operator.index(steps)
    if n < 0:
        raise TwofoldError(f"steps must not be negative, got {n}", op=op)
    return n


def _between(start: Any, end: Any, steps: int) -> Tensor:
    """float64 numbers at equal distances, both ends exact."""
    if steps <= 1:
        return movement.full(shape=(steps,), value=float(start), dtype=float64)
    i = movement.iota(size=steps, dtype=float64)
    step = (end - start) / (steps - 1)
    return prim.where(prim.lt(i, steps / 2), i * step + float(start), float(end) - ((steps - 1) - i) * step)


@function(method=False)
def linspace(
    start: Any,
    end: Any,
    steps: int,
    *,
    dtype: Any = None,
    device: Any = None,
    requires_grad: bool = False,
    **_: Any,
) -> Tensor:
    """`steps` numbers at equal distances from `start` to `end`, both included.

    Raises: TwofoldError when `steps` is negative.

    >>> import twofold as tw
    >>> tw.linspace(0, 1, 5)
    tensor([0.0000, 0.2500, 0.5000, 0.7500, 1.0000])
    """
    a, b, n = _number(start), _number(end), _count(steps, "linspace")
    return made(lambda: cast(_between(a, b, n), _dtype(dtype)), device, requires_grad)


@function(method=False)
def logspace(
    start: Any,
    end: Any,
    steps: int,
    base: float = 10.0,
    *,
    dtype: Any = None,
    device: Any = None,
    requires_grad: bool = False,
    **_: Any,
) -> Tensor:
    """`base` to the power of `steps` equally spaced exponents from `start` to `end`.

    Raises: TwofoldError when `steps` is negative.

    >>> import twofold as tw
    >>> tw.logspace(0, 2, 3)
    tensor([  1.,  10., 100.])
    """
    a, b, n = _number(start), _number(end), _count(steps, "logspace")
    return made(lambda: cast(prim.pow(float(base), _between(a, b, n)), _dtype(dtype)), device, requires_grad)


# --- triangles ----------------------------------------------------------------------------------


def _column_minus_row(rows: int, columns: int) -> Tensor:
    row = movement.reshape(movement.iota(size=rows, dtype=int64), shape=(rows, 1))
    return movement.iota(size=columns, dtype=int64) - row


@function(method=False)
def eye(
    n: int, m: int | None = None, *, dtype: Any = None, device: Any = None, requires_grad: bool = False, **_: Any
) -> Tensor:
    """The n x m matrix with ones on the diagonal.

    Raises: TwofoldError for negative sizes.

    >>> import twofold as tw
    >>> tw.eye(2)
    tensor([[1., 0.],
            [0., 1.]])
    """
    rows, columns = _count(n, "eye"), _count(n if m is None else m, "eye")
    kind = _dtype(dtype)
    return made(lambda: cast(prim.eq(_column_minus_row(rows, columns), 0), kind), device, requires_grad)


def _triangle(input: Tensor, keep: Callable[[Tensor], Tensor], op: str) -> Tensor:
    x = tensor_operand(input, op)
    if x.ndim < 2:
        raise ShapeError(f"expected at least 2 dimensions, got shape {x.shape}", op=op)
    return prim.where(keep(_column_minus_row(*x.shape[-2:])), x, 0)


@function(inplace=True)
@composite(fused=True)
def tril(input: Tensor, diagonal: int = 0) -> Tensor:
    """The lower triangle of matrices, zeros above it; `diagonal` moves the border up.

    Shapes: (..., n, m) -> (..., n, m)
    Raises: ShapeError for fewer than 2 dimensions.

    >>> import twofold as tw
    >>> tw.tril(tw.ones(2, 3))
    tensor([[1., 0., 0.],
            [1., 1., 0.]])
    """
    return _triangle(input, lambda d: prim.le(d, int(diagonal)), "tril")


@function(inplace=True)
@composite(fused=True)
def triu(input: Tensor, diagonal: int = 0) -> Tensor:
    """The upper triangle of matrices, zeros below it; `diagonal` moves the border up.

    Shapes: (..., n, m) -> (..., n, m)
    Raises: ShapeError for fewer than 2 dimensions.

    >>> import twofold as tw
    >>> tw.triu(tw.ones(2, 3))
    tensor([[1., 1., 1.],
            [0., 1., 1.]])
    """
    return _triangle(input, lambda d: prim.ge(d, int(diagonal)), "triu")


@function(method=False)
def tril_indices(row: int, col: int, offset: int = 0, *, dtype: Any = int64, device: Any = None) -> Tensor:
    """Rows and columns of the elements of a lower triangle, a (2, n) tensor.

    >>> import twofold as tw
    >>> tw.tril_indices(2, 2)
    tensor([[0, 1, 1],
            [0, 0, 1]])
    """
    both = np.stack(np.tril_indices(row, offset, col)).astype(as_dtype(dtype).numpy)
    return made(lambda: constant(both), device, False)


@function(method=False)
def triu_indices(row: int, col: int, offset: int = 0, *, dtype: Any = int64, device: Any = None) -> Tensor:
    """Rows and columns of the elements of an upper triangle, a (2, n) tensor.

    >>> import twofold as tw
    >>> tw.triu_indices(2, 2)
    tensor([[0, 0, 1],
            [0, 1, 1]])
    """
    both = np.stack(np.triu_indices(row, offset, col)).astype(as_dtype(dtype).numpy)
    return made(lambda: constant(both), device, False)


# --- grids --------------------------------------------------------------------------------------


@function(method=False)
def meshgrid(*tensors: Any, indexing: str = "ij") -> tuple[Tensor, ...]:
    """Coordinates of a grid: one tensor per axis, each of the grid's shape.

    Args:
        indexing: "ij" (the first tensor runs along dimension 0) or "xy" (along dimension 1).

    Raises: TwofoldError for another indexing, ShapeError for tensors of 2 or more dimensions.

    >>> import twofold as tw
    >>> x, y = tw.meshgrid(tw.tensor([1, 2]), tw.tensor([3, 4, 5]))
    >>> x
    tensor([[1, 1, 1],
            [2, 2, 2]])
    """
    xs = list(tensors[0]) if len(tensors) == 1 and isinstance(tensors[0], (list, tuple)) else list(tensors)
    if indexing not in ("ij", "xy"):
        raise TwofoldError(f"indexing={indexing!r} is not known", op="meshgrid", hint='use "ij" or "xy"')
    for x in xs:
        if tensor_operand(x, "meshgrid").ndim > 1:
            raise ShapeError(f"expected 0-d or 1-d tensors, got shape {x.shape}", op="meshgrid")
    axes = list(range(len(xs)))
    if indexing == "xy" and len(xs) > 1:
        axes[:2] = [1, 0]
    shape = [1] * len(xs)
    for axis, x in zip(axes, xs, strict=True):
        shape[axis] = x.type_.size
    out = []
    for axis, x in zip(axes, xs, strict=True):
        line = tuple(shape[axis] if i == axis else 1 for i in range(len(xs)))
        out.append(movement.expand(movement.reshape(x, shape=line), shape=tuple(shape)))
    return tuple(out)


def _stacked(columns: Sequence[Tensor]) -> Tensor:
    """1-d tensors as the columns of a matrix."""
    return movement.concat(*[movement.reshape(c, shape=(c.type_.size, 1)) for c in columns], dim=1)


@function(method=False)
def cartesian_prod(*tensors: Tensor) -> Tensor:
    """All combinations of one element from each 1-d tensor, a row each.

    >>> import twofold as tw
    >>> tw.cartesian_prod(tw.tensor([1, 2]), tw.tensor([3, 4]))
    tensor([[1, 3],
            [1, 4],
            [2, 3],
            [2, 4]])
    """
    return tensors[0] if len(tensors) == 1 else _stacked(meshgrid(*tensors))


@function
def combinations(input: Tensor, r: int = 2, with_replacement: bool = False) -> Tensor:
    """All combinations of `r` elements of a 1-d tensor, a row each.

    Raises: ShapeError when the tensor is not 1-d.

    >>> import twofold as tw
    >>> tw.combinations(tw.tensor([1, 2, 3]))
    tensor([[1, 2],
            [1, 3],
            [2, 3]])
    """
    x = tensor_operand(input, "combinations")
    if x.ndim != 1:
        raise ShapeError(f"expected a 1-d tensor, got shape {x.shape}", op="combinations")
    choose = itertools.combinations_with_replacement if with_replacement else itertools.combinations
    rows = np.array(list(choose(range(x.shape[0]), r)), dtype=np.int64).reshape(-1, r)
    return places.index(x, constant(rows), dims=(0,))


@function(method=False)
def vander(x: Tensor, N: int | None = None, increasing: bool = False) -> Tensor:
    """The powers of a 1-d tensor as columns, the highest first unless `increasing`.

    Raises: ShapeError when the tensor is not 1-d.

    >>> import twofold as tw
    >>> tw.vander(tw.tensor([1, 2, 3]), increasing=True)
    tensor([[1, 1, 1],
            [1, 2, 4],
            [1, 3, 9]])
    """
    x = tensor_operand(x, "vander")
    if x.ndim != 1:
        raise ShapeError(f"expected a 1-d tensor, got shape {x.shape}", op="vander")
    n = x.shape[0] if N is None else _count(N, "vander")
    x = cast(x, int64) if x.dtype is bool_ else x
    columns = [movement.full(shape=x.shape, value=1, dtype=x.dtype)]
    for _ in range(n - 1):
        columns.append(columns[-1] * x)
    columns = columns[:n]
    if not columns:
        return movement.full(shape=(x.shape[0], 0), value=0, dtype=x.dtype)
    return _stacked(columns if increasing else columns[::-1])
