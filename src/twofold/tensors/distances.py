"""Distances between rows, covariances and correlations."""

from __future__ import annotations

import math
from typing import Any

from ..autodiff.handle import Tensor
from ..ir.errors import DTypeError, ShapeError
from ..primitives import elementwise as E
from ..primitives import linalg as L
from ..primitives import movement as P
from ..primitives import reduce as R
from ..primitives import strided as S
from ._registry import function
from .linalg import conjugate, one_dtype
from .promotion import float_dtype


@function(method=False)
def cdist(
    x1: Tensor, x2: Tensor, p: float = 2.0, compute_mode: str = "use_mm_for_euclid_dist_if_necessary"
) -> Tensor:
    """Distances between all pairs of rows, in the p-norm.

    Shapes: (..., n, k), (..., m, k) -> (..., n, m).
    Numerics: for p=2 and more than 25 rows distances come from a matrix product, which loses digits
        between close rows; `compute_mode="donot_use_mm_for_euclid_dist"` avoids it. The gradient
        at distance 0 is 0.

    >>> import twofold as tw
    >>> tw.cdist(tw.tensor([[0.0, 0.0]]), tw.tensor([[3.0, 4.0]]))
    tensor([[5.]])
    """
    op = "cdist"
    one_dtype(op, x1, x2)
    if x1.ndim < 2 or x2.ndim < 2 or x1.shape[-1] != x2.shape[-1]:
        raise ShapeError(f"expected (..., n, k) and (..., m, k), got {x1.shape} and {x2.shape}", op=op)
    if not x1.dtype.is_floating_point:
        raise DTypeError(f"expected floating tensors, got {x1.dtype.name}", op=op)
    if p < 0:
        raise ShapeError(f"p must not be negative, got {p}", op=op)
    modes = {"use_mm_for_euclid_dist": 0, "use_mm_for_euclid_dist_if_necessary": 25}
    if compute_mode not in (*modes, "donot_use_mm_for_euclid_dist"):
        raise ShapeError(f"unknown compute_mode {compute_mode!r}", op=op)
    if p == 2 and max(x1.shape[-2], x2.shape[-2]) > modes.get(compute_mode, math.inf):
        return _root(_squared_by_product(x1, x2))
    d = E.sub(P.reshape(x1, shape=(*x1.shape[:-1], 1, x1.shape[-1])), P.reshape(x2, shape=_with_row(x2)))
    last = (d.ndim - 1,)
    if p == 2:
        return _root(R.sum(E.mul(d, d), dims=last, keepdim=False))
    d = E.abs(d)
    if p == 1:
        return R.sum(d, dims=last, keepdim=False)
    if p == 0:
        return R.sum(E.cast(E.ne(d, 0), dtype=d.dtype), dims=last, keepdim=False)
    if p == math.inf:
        return R.amax(d, dims=last, keepdim=False)
    nonzero = E.gt(d, 0)
    powers = E.where(nonzero, E.pow(E.where(nonzero, d, 1.0), float(p)), 0.0)
    return _root(R.sum(powers, dims=last, keepdim=False), 1.0 / p)


def _with_row(x: Tensor) -> tuple[int, ...]:
    return (*x.shape[:-2], 1, *x.shape[-2:])


def _squared_by_product(a: Tensor, b: Tensor) -> Tensor:
    """|a|^2 + |b|^2 - 2 a b."""
    norms = [R.sum(E.mul(x, x), dims=(x.ndim - 1,), keepdim=True) for x in (a, b)]
    order = (*range(b.ndim - 2), b.ndim - 1, b.ndim - 2)
    product = L.matmul(a, P.permute(b, dims=order))
    squares = E.sub(E.add(norms[0], P.permute(norms[1], dims=order)), E.mul(product, 2.0))
    return E.maximum(squares, 0.0)


def _root(x: Tensor, power: float = 0.5) -> Tensor:
    """`x ** power` for x >= 0 with derivative 0 at 0."""
    positive = E.gt(x, 0)
    safe = E.where(positive, x, 1.0)
    return E.where(positive, E.sqrt(safe) if power == 0.5 else E.pow(safe, power), 0.0)


@function
def cov(
    input: Tensor, *, correction: int = 1, fweights: Tensor | None = None, aweights: Tensor | None = None
) -> Tensor:
    """The covariance matrix of variables in rows and observations in columns.

    Args:
        correction: 1 gives the unbiased estimate.
        fweights: how often each observation occurred, integers.
        aweights: the weight of each observation.

    >>> import twofold as tw
    >>> tw.cov(tw.tensor([[0.0, 1.0, 2.0], [2.0, 1.0, 0.0]]))
    tensor([[ 1., -1.],
            [-1.,  1.]])
    """
    op = "cov"
    if input.ndim > 2:
        raise ShapeError(f"expected at most 2 dimensions, got shape {input.shape}", op=op)
    flat = input.ndim < 2
    x = P.reshape(input, shape=(1, input.type_.size)) if flat else input
    if not x.dtype.is_differentiable:
        x = E.cast(x, dtype=float_dtype(x.dtype))
    n = x.shape[1]
    weights = None
    for w in (fweights, aweights):
        if w is not None:
            if w.shape != (n,):
                raise ShapeError(f"weights of shape {w.shape} for {n} observations", op=op)
            w = w if w.dtype is x.dtype else E.cast(w, dtype=x.dtype)
            weights = w if weights is None else E.mul(weights, w)
    real = x.dtype.to_real()
    total: Any = float(n) if weights is None else R.sum(weights, dims=(0,), keepdim=False)
    weighted = x if weights is None else E.mul(x, weights)
    mean = E.div(R.sum(weighted, dims=(1,), keepdim=True), total)
    centred = E.sub(x, mean)
    if weights is None:
        norm: Any = max(float(n) - correction, 0.0)
    elif aweights is None:
        norm = E.sub(total, float(correction))
    else:
        aw = aweights if aweights.dtype is x.dtype else E.cast(aweights, dtype=x.dtype)
        bias = E.div(R.sum(E.mul(weights, aw), dims=(0,), keepdim=False), total)
        norm = E.sub(total, E.mul(bias, float(correction)))
    if isinstance(norm, Tensor) and real is x.dtype:
        norm = E.maximum(norm, 0.0)
    other = conjugate(centred if weights is None else E.mul(centred, weights))
    out = E.div(L.matmul(centred, P.permute(other, dims=(1, 0))), norm)
    return P.reshape(out, shape=()) if flat else out


@function
def corrcoef(input: Tensor) -> Tensor:
    """Correlation coefficients of variables in rows.

    >>> import twofold as tw
    >>> tw.corrcoef(tw.tensor([[0.0, 1.0, 2.0], [2.0, 1.0, 0.0]]))
    tensor([[ 1., -1.],
            [-1.,  1.]])
    """
    c = cov(input)
    if not c.ndim:
        return E.div(c, c)
    d = S.diagonal(c, offset=0, dim1=0, dim2=1)
    scale = E.sqrt(E.real(d) if d.dtype.is_complex else d)
    if d.dtype.is_complex:
        scale = E.cast(scale, dtype=d.dtype)
    out = E.div(E.div(c, P.reshape(scale, shape=(*scale.shape, 1))), scale)
    return out if out.dtype.is_complex else E.minimum(E.maximum(out, -1.0), 1.0)
