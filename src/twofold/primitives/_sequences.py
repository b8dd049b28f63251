"""Movement along sequences (T, N, ...) of tensors, for the derivatives of recurrent layers."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from .linalg import matmul, matrix_transpose
from .movement import concat, full, reshape, slice


def times(steps: int, reverse: bool) -> range:
    """The times in the order in which a layer passes them."""
    return range(steps - 1, -1, -1) if reverse else range(steps)


def _cut(x: Any, dim: int, start: int, stop: int) -> Any:
    n = x.ndim
    return slice(
        x,
        start=(*(0,) * dim, start, *(0,) * (n - dim - 1)),
        stop=(*x.shape[:dim], stop, *x.shape[dim + 1 :]),
        step=(1,) * n,
    )


def columns(x: Any, size: int, at: int) -> Any:
    """Columns at * size ... of the last dimension, `size` of them."""
    return _cut(x, x.ndim - 1, at * size, (at + 1) * size)


def last_columns(x: Any, size: int) -> Any:
    """The last `size` columns of the last dimension."""
    return _cut(x, x.ndim - 1, x.shape[-1] - size, x.shape[-1])


def parts(x: Any, count: int) -> list[Any]:
    """The last dimension in `count` equal parts."""
    size = x.shape[-1] // count
    return [columns(x, size, i) for i in range(count)]


def at_time(x: Any, t: int) -> Any:
    """x[t]."""
    return reshape(_cut(x, 0, t, t + 1), shape=x.shape[1:])


def stacked(xs: dict[int, Any]) -> Any:
    """One tensor of those of all times."""
    return concat(*[reshape(xs[t], shape=(1, *xs[t].shape)) for t in range(len(xs))], dim=0)


def _beside(x: Any, edge: Any, earlier: bool) -> Any:
    """The neighbour of each time, `edge` where there is none."""
    steps, edge = x.shape[0], reshape(edge, shape=(1, *x.shape[1:]))
    if steps == 1:
        return edge
    return concat(edge, _cut(x, 0, 0, steps - 1), dim=0) if earlier else concat(_cut(x, 0, 1, steps), edge, dim=0)


def before(x: Any, first: Any, reverse: bool) -> Any:
    """What x is one step before each time; `first` before the first."""
    return _beside(x, first, not reverse)


def after(x: Any, reverse: bool) -> Any:
    """What x is one step after each time; zeros after the last."""
    return _beside(x, full(shape=x.shape[1:], value=0, dtype=x.dtype), reverse)


def _rows(x: Any) -> Any:
    """(T, N, H) with the rows of all times one below the other."""
    steps, n, size = x.shape
    return reshape(x, shape=(steps * n, size))


def product(a: Any, b: Any) -> Any:
    """The sum over times and rows of a[t, n, i] b[t, n, j]."""
    return matmul(matrix_transpose(_rows(a)), _rows(b))


def weight_grads(ds: Sequence[Any], ys: Any, h0: Any, reverse: bool) -> list[Any]:
    """For each of some d the sum over times of d[t] (N, G)^T @ (the state before t) (N, H), which is not moved."""
    steps = ys.shape[0]
    first, low = (steps - 1, 0) if reverse else (0, 1)
    out = [matmul(matrix_transpose(at_time(d, first)), h0) for d in ds]
    if steps == 1:
        return out
    before = _rows(_cut(ys, 0, 1 - low, steps - low))
    others = [matrix_transpose(_rows(_cut(d, 0, low, low + steps - 1))) for d in ds]
    return [matmul(d, before) + w for d, w in zip(others, out, strict=True)]
