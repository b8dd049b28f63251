"""What the families of functionals share: reductions of losses, tuples of sizes, half precision."""

from __future__ import annotations

import functools
from collections.abc import Callable, Sequence
from typing import Any, TypeVar

from ...autodiff.handle import Tensor
from ...ir.dtypes import HALVES, DType, float32
from ...ir.errors import DTypeError, ShapeError, TwofoldError
from ...primitives import elementwise as E
from ...primitives import movement as M
from ...primitives import reduce as R

F = TypeVar("F", bound=Callable[..., Any])


def tuple_of(value: Any, n: int, name: str, op: str) -> tuple[int, ...]:
    """`n` ints from one int or a sequence of one or `n`.

    Raises: ShapeError when the sequence has another length.
    """
    if isinstance(value, Sequence):
        out = tuple(int(v) for v in value)
        if len(out) == 1:
            out *= n
        if len(out) != n:
            raise ShapeError(f"{name} must be one number or {n} of them, got {tuple(value)}", op=op)
        return out
    return (int(value),) * n


def cast(x: Tensor, dtype: DType) -> Tensor:
    """`x` in another dtype; itself if it has it."""
    return x if x.dtype is dtype else E.cast(x, dtype=dtype)


def total(x: Tensor, dims: tuple[int, ...] | None = None, keepdim: bool = False) -> Tensor:
    """Sum over canonical dims (all by default)."""
    return R.sum(x, dims=tuple(range(x.ndim)) if dims is None else dims, keepdim=keepdim)


def average(x: Tensor, dims: tuple[int, ...] | None = None, keepdim: bool = False) -> Tensor:
    """Mean over canonical dims (all by default)."""
    dims = tuple(range(x.ndim)) if dims is None else dims
    count = 1
    for d in dims:
        count *= x.shape[d]
    return R.sum(x, dims=dims, keepdim=keepdim) / float(count) if count else nan_like_sum(x, dims, keepdim)


def nan_like_sum(x: Tensor, dims: tuple[int, ...], keepdim: bool) -> Tensor:
    """The mean of no elements: nan, as PyTorch gives."""
    return R.sum(x, dims=dims, keepdim=keepdim) * float("nan")


def constant(value: float, like: Tensor, shape: Sequence[int] = ()) -> Tensor:
    """A tensor full of `value` with the dtype of `like`."""
    return M.full(shape=tuple(shape), value=value, dtype=like.dtype)


def channels(x: Tensor, ndim: int) -> Tensor:
    """A per-channel vector (C,) shaped to broadcast over (N, C, *): (1, C, 1, ...)."""
    return M.reshape(x, shape=(1, x.shape[0], *(1,) * (ndim - 2)))


def check_reduction(reduction: str, op: str) -> None:
    """Raises: TwofoldError unless it is one of PyTorch's three."""
    if reduction not in ("none", "mean", "sum"):
        raise TwofoldError(f"{reduction!r} is no reduction", op=op, hint="use 'none', 'mean' or 'sum'")


def reduced(loss: Tensor, reduction: str, op: str = "loss") -> Tensor:
    """The loss of every element, their sum, or their mean."""
    if reduction == "mean":
        return average(loss)
    if reduction == "sum":
        return total(loss)
    check_reduction(reduction, op)
    return loss


def tensor_hint(x: Any) -> str:
    """What to do about `x`, which should have been a tensor."""
    if isinstance(x, tuple) and x and isinstance(x[0], Tensor):
        return "it holds tensors: recurrent layers and attention return (output, ...); take the first, x[0]"
    if x is None:
        return "does the layer before have a forward() without return?"
    return "make one first: twofold.tensor(...)"


def check_floating(x: Any, op: str) -> None:
    """Raises: DTypeError unless `x` is a floating (or complex) tensor."""
    if not isinstance(x, Tensor):
        raise DTypeError(f"expects a tensor, got {type(x).__name__}", op=op, hint=tensor_hint(x))
    if not x.dtype.is_differentiable:
        raise DTypeError(
            f"expects floating values, got {x.dtype.name}", op=op, hint="convert the input with .float()"
        )


def in_float32(fn: F) -> F:
    """Compute in float32 when the first argument is float16 or bfloat16, and round the result once.

    All tensors of the first argument's dtype are widened. Exponentials and long sums lose too much otherwise.
    """

    @functools.wraps(fn)
    def call(input: Tensor, *args: Any, **kwargs: Any) -> Any:
        if not isinstance(input, Tensor) or input.dtype not in HALVES:
            return fn(input, *args, **kwargs)
        dtype = input.dtype
        wide = [_widen(a, dtype) for a in args]
        result = fn(cast(input, float32), *wide, **{k: _widen(v, dtype) for k, v in kwargs.items()})
        return cast(result, dtype)

    return call  # type: ignore[return-value]


def _widen(x: Any, dtype: DType) -> Any:
    return cast(x, float32) if isinstance(x, Tensor) and x.dtype is dtype else x
