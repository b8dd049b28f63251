"""What the families of primitives share: type rules, sums over broadcast dimensions, samples.

Note [Python numbers]
An element-wise primitive may get Python numbers beside its tensors; they mean the tensors' dtype.
NumPy does nearly the same, but would widen bfloat16 and refuse integers that don't fit; `strict`
is the form of a ufunc that does neither, and that refuses operands of different dtypes.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from typing import Any

import numpy as np

from ..ir.dtypes import BOOL, COMPLEX, FLOATS, HALVES, INTEGERS, DType, bool_, float32, int64
from ..ir.errors import DTypeError, OutOfBoundsError, ShapeError
from ..ir.primitive import PRIMITIVES, ErrorSample, Sample
from ..ir.types import Shape, TensorType, broadcast_shapes

Samples = Callable[[DType, np.random.Generator], Iterable[Sample]]
TypeRule = Callable[..., TensorType]

_HALF_TYPES = frozenset(d.numpy for d in HALVES)
_ndarray = np.ndarray


# --- checks -------------------------------------------------------------------------------------


def names(dtypes: Iterable[DType]) -> str:
    """Dtypes as a readable list, for messages."""
    return ", ".join(sorted(d.name for d in dtypes))


def check_dtype(op: str, dtype: DType, allowed: frozenset[DType]) -> None:
    """Raise DTypeError unless `op` takes `dtype`."""
    if dtype not in allowed:
        raise DTypeError(
            f"dtype {dtype.name} is not supported",
            op=op,
            hint=f"cast with .to(...) to one of {names(allowed)}",
        )


def check_same_dtype(op: str, *types: TensorType) -> DType:
    """The one dtype of all operands; DTypeError if they differ."""
    dtype = types[0].dtype
    for t in types:
        if t.dtype is not dtype:
            raise DTypeError(
                f"operands have different dtypes: {', '.join(t.dtype.name for t in types)}",
                op=op,
                hint="primitives do not promote; cast the operands to one dtype first",
            )
    return dtype


def check_dim(op: str, dim: Any, ndim: int) -> None:
    """Raise OutOfBoundsError unless `dim` is canonical: an int in [0, ndim); 0 is fine for 0-d."""
    if not isinstance(dim, int) or not 0 <= dim < max(ndim, 1):
        raise OutOfBoundsError(
            f"dim {dim!r} is outside a {ndim}-d tensor", op=op, hint=f"dim must be between 0 and {max(ndim, 1) - 1}"
        )


def check_dims(op: str, dims: Any, ndim: int) -> None:
    """Raise unless `dims` is canonical: a sorted tuple of different ints in [0, ndim)."""
    if not isinstance(dims, tuple):
        raise ShapeError(f"dims must be a tuple of ints, got {dims!r}", op=op)
    previous = -1
    for dim in dims:
        if not isinstance(dim, int) or not 0 <= dim < ndim:
            raise OutOfBoundsError(f"dim {dim!r} in dims {dims} is outside a {ndim}-d tensor", op=op)
        if dim <= previous:
            raise ShapeError(f"dims {dims} must be sorted and without repeats", op=op)
        previous = dim


# --- type rules ---------------------------------------------------------------------------------


def unary_rule(op: str, dtypes: frozenset[DType], result: DType | None = None) -> TypeRule:
    """Type rule of an element-wise operation on one tensor; `result` is its dtype if fixed."""

    def rule(x: TensorType) -> TensorType:
        check_dtype(op, x.dtype, dtypes)
        return x if result is None else x.with_dtype(result)

    return rule


def binary_rule(op: str, dtypes: frozenset[DType], result: DType | None = None) -> TypeRule:
    """Type rule of an element-wise operation on two tensors of one dtype, with broadcasting."""

    def rule(x: TensorType, y: TensorType) -> TensorType:
        dtype = check_same_dtype(op, x, y)
        check_dtype(op, dtype, dtypes)
        return TensorType(broadcast_shapes(x.shape, y.shape, op=op), result or dtype)

    return rule


# --- derivative rules ---------------------------------------------------------------------------


def unbroadcast(g: Any, shape: Shape) -> Any:
    """Sum the tensor `g` back to `shape`, from which it was broadcast."""
    if g.shape == shape:
        return g
    lead = len(g.shape) - len(shape)
    dims = tuple(range(lead)) + tuple(i for i, n in enumerate(shape, lead) if n == 1 and g.shape[i] != 1)
    out = PRIMITIVES["sum"](g, dims=dims, keepdim=False)
    return out if out.shape == shape else PRIMITIVES["reshape"](out, shape=shape)


# --- NumPy references ---------------------------------------------------------------------------


def via_float32(fn: Callable[..., Any]) -> Callable[..., Any]:
    """`fn` computed in float32 for float16 and bfloat16 arrays, with results rounded back.

    Python numbers and arrays of other dtypes (indices) pass unchanged.
    """

    def call(*values: Any, **params: Any) -> Any:
        for v in values:
            if v.__class__ is _ndarray:
                half = v.dtype
                if half.itemsize == 2 and half in _HALF_TYPES:
                    break
        else:
            return fn(*values, **params)
        wide = [v.astype(np.float32) if v.__class__ is _ndarray and v.dtype == half else v for v in values]
        out = fn(*wide, **params)
        if isinstance(out, tuple):
            return tuple([o.astype(half) if o.dtype == np.float32 else o for o in out])
        return out.astype(half) if out.dtype == np.float32 else out

    return call


def as_operand(value: Any, dtype: np.dtype[Any]) -> Any:
    """A Python number as a 0-d array of `dtype`; integers wrap as in C. Arrays pass unchanged."""
    if isinstance(value, (np.ndarray, np.generic)):
        return value
    if dtype.kind in "iu":
        if not isinstance(value, int):
            raise DTypeError(
                f"the Python number {value!r} is no integer, beside a tensor of dtype {dtype.name}",
                hint="cast the tensor to a floating dtype first",
            )
        bits = dtype.itemsize * 8
        return np.array(value % (1 << bits), dtype=f"u{dtype.itemsize}").astype(dtype)
    return np.array(value, dtype=dtype)


def operands(*values: Any) -> list[Any]:
    """All values as arrays; Python numbers take the dtype of the last array."""
    dtype = next(v.dtype for v in reversed(values) if hasattr(v, "dtype"))
    return [as_operand(v, dtype) for v in values]


def strict(ufunc: np.ufunc) -> Callable[..., Any]:
    """`ufunc` without type conversion: operands of different dtypes raise TypeError.

    See Note [Python numbers].
    """

    if ufunc.nin == 1:
        return lambda x: ufunc(x, casting="no")

    def call(x: Any, y: Any) -> Any:
        try:
            return ufunc(x, y, casting="no")
        except (TypeError, OverflowError):
            if hasattr(x, "dtype") and hasattr(y, "dtype"):
                raise
        return ufunc(*operands(x, y), casting="no")

    return call


# --- samples ------------------------------------------------------------------------------------


def draw(
    dtype: DType, rng: np.random.Generator, shape: Shape, low: float = -3, high: float = 3, *, nonzero: bool = False
) -> np.ndarray[Any, Any]:
    """A random array with values between `low` and `high` (both parts of complex numbers)."""
    if dtype.kind == "bool":
        return rng.random(shape) < 0.5 if shape else np.array(rng.random() < 0.5)
    if dtype.kind in ("int", "uint"):
        info = np.iinfo(dtype.numpy)
        low, high = max(int(low), int(info.min)), min(int(high), int(info.max))
        out = np.asarray(rng.integers(low, max(high, low), shape, endpoint=True))
        if nonzero:
            out = np.where(out == 0, 1, out)
        return out.astype(dtype.numpy)
    out = np.asarray(rng.uniform(low, high, shape))
    if dtype.is_complex:
        out = out + 1j * rng.uniform(low, high, shape)
    if nonzero:
        out = np.where(np.abs(out) < 0.3, out + np.copysign(0.4, out.real), out)
    return np.asarray(out).astype(dtype.numpy)


def special_values(dtype: DType) -> list[Any]:
    """Values at which implementations go wrong: extremes, zeros of both signs, infinities, NaN."""
    if dtype.kind == "bool":
        return [False, True]
    if dtype.kind in ("int", "uint"):
        info = np.iinfo(dtype.numpy)
        return [int(info.min), int(info.max), 0, 1]
    if dtype.is_complex:
        return []
    return [float("nan"), float("inf"), float("-inf"), 0.0, -0.0, 1.0, -1.0]


_UNARY_SHAPES: tuple[Shape, ...] = ((2, 3), (4,), (), (1, 2, 1), (0,), (2, 0, 3))
_BINARY_SHAPES: tuple[tuple[Shape, Shape], ...] = (
    ((2, 3), (2, 3)),
    ((2, 3), (3,)),
    ((2, 1), (1, 3)),
    ((), (2,)),
    ((1,), ()),
    ((), ()),
    ((0, 3), (1, 3)),
    ((0,), ()),
)


def unary_samples(
    low: float = -3, high: float = 3, *, special: bool = True, nonzero: bool = False, **params: Any
) -> Samples:
    """Samples of one tensor with values in [low, high]; `special` adds `special_values`.

    `params` go with every sample.
    """

    def samples(dtype: DType, rng: np.random.Generator) -> Iterator[Sample]:
        for shape in _UNARY_SHAPES:
            yield Sample((draw(dtype, rng, shape, low, high, nonzero=nonzero),), params)
        values = special_values(dtype) if special else []
        if values:
            yield Sample((np.array(values, dtype.numpy),), params, differentiable=False)

    return samples


def binary_samples(
    low: float = -3,
    high: float = 3,
    second: tuple[float, float] | None = None,
    *,
    special: bool = True,
    nonzero: bool = False,
    scalars: bool = True,
) -> Samples:
    """Samples of two tensors of one dtype: equal shapes, broadcasting, 0-d, empty, Python numbers.

    Args:
        second: range of the second operand, where it differs from the first's.
        special: add all pairs of `special_values`, and equal operands.
        nonzero: keep the second operand away from zero (integer division).
        scalars: add Python numbers on either side.
    """
    low2, high2 = second or (low, high)

    def samples(dtype: DType, rng: np.random.Generator) -> Iterator[Sample]:
        def first(shape: Shape) -> Any:
            return draw(dtype, rng, shape, low, high)

        def other(shape: Shape) -> Any:
            return draw(dtype, rng, shape, low2, high2, nonzero=nonzero)

        for a, b in _BINARY_SHAPES:
            yield Sample((first(a), other(b)))
        if scalars:
            yield Sample((first((2, 3)), other(()).item()))
            yield Sample((first(()).item(), other((3,))))
        if special:
            same = first((3,))
            if not nonzero:
                yield Sample((same, same.copy()), differentiable=False)
            values = special_values(dtype)
            pairs = [(a, b) for a in values for b in values if b != 0 or not nonzero]
            if pairs:
                a, b = np.array(pairs, dtype.numpy).T
                yield Sample((a.copy(), b.copy()), differentiable=False)

    return samples


def unary_errors(dtypes: frozenset[DType], **params: Any) -> Callable[[], list[ErrorSample]]:
    """Error inputs of a unary operation: a dtype that is not in `dtypes`."""
    bad = next(d for d in (bool_, int64, *sorted(COMPLEX | FLOATS, key=str)) if d not in dtypes)

    def errors() -> list[ErrorSample]:
        return [ErrorSample((np.ones(2, bad.numpy),), params, DTypeError, "not supported")]

    return errors


def binary_errors(dtypes: frozenset[DType]) -> Callable[[], list[ErrorSample]]:
    """Error inputs of a binary operation: shapes that don't broadcast, dtypes that differ."""
    good = next(d for d in (float32, int64, bool_, *sorted(dtypes, key=str)) if d in dtypes)
    different = next(d for d in (int64, float32) if d is not good)

    def errors() -> list[ErrorSample]:
        x = np.ones((2, 3), good.numpy)
        out = [
            ErrorSample((x, np.ones((4,), good.numpy)), {}, ShapeError, "do not broadcast"),
            ErrorSample((x, x.astype(different.numpy)), {}, DTypeError, "different dtypes"),
        ]
        bad = next((d for d in (*BOOL, *COMPLEX, *INTEGERS, *FLOATS) if d not in dtypes), None)
        if bad is not None:
            y = np.ones(2, bad.numpy)
            out.append(ErrorSample((y, y), {}, DTypeError, "not supported"))
        return out

    return errors
