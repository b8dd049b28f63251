"""Distances and similarities of vectors."""

from __future__ import annotations

from ...autodiff.composite import composite
from ...autodiff.handle import Tensor
from ...ir.dtypes import int64
from ...ir.errors import ShapeError
from ...ir.types import canonical_dim
from ...primitives import elementwise as E
from ...primitives import index as I
from ...primitives import movement as M
from ...primitives import reduce as R


@composite
def cosine_similarity(x1: Tensor, x2: Tensor, dim: int = 1, eps: float = 1e-8) -> Tensor:
    """x1 . x2 / (|x1| |x2|) along `dim`, where norms below `eps` count as `eps`.

    >>> import twofold as tw
    >>> tw.nn.functional.cosine_similarity(tw.tensor([[1.0, 0.0]]), tw.tensor([[1.0, 1.0]]))
    tensor([0.7071])
    """
    ndim = max(x1.ndim, x2.ndim)
    dim = canonical_dim(dim, ndim, op="cosine_similarity")
    x1, x2 = x1 + x2 * 0, x2 + x1 * 0
    n1 = E.maximum((x1 * x1).sum(dim, keepdim=True), eps * eps).sqrt()
    n2 = E.maximum((x2 * x2).sum(dim, keepdim=True), eps * eps).sqrt()
    return (x1 / n1 * (x2 / n2)).sum(dim)


@composite
def pairwise_distance(x1: Tensor, x2: Tensor, p: float = 2.0, eps: float = 1e-6, keepdim: bool = False) -> Tensor:
    """The p-norm of x1 - x2 + eps along the last dimension.

    >>> import twofold as tw
    >>> tw.nn.functional.pairwise_distance(tw.zeros(1, 2), tw.tensor([[3.0, 4.0]]))
    tensor([5.0000])
    """
    return (x1 - x2 + eps).norm(p, -1, keepdim=keepdim)


@composite
def pdist(input: Tensor, p: float = 2.0) -> Tensor:
    """Distances of all pairs of rows: those above the diagonal of the distance matrix.

    Shapes: input (N, D) -> (N * (N - 1) / 2,).

    >>> import twofold as tw
    >>> tw.nn.functional.pdist(tw.tensor([[0.0], [1.0], [3.0]]))
    tensor([1., 3., 2.])
    """
    if input.ndim != 2:
        raise ShapeError(f"expects a 2-d input, got {input.shape}", op="pdist")
    n = input.shape[0]
    if n < 2:
        return R.sum(M.slice(input, start=(0, 0), stop=(0, input.shape[1]), step=(1, 1)), dims=(1,), keepdim=False)
    firsts = [M.full(shape=(n - 1 - i,), value=i, dtype=int64) for i in range(n - 1)]
    seconds = [M.iota(size=n - 1 - i, dtype=int64) + (i + 1) for i in range(n - 1)]
    a = I.index(input, M.concat(*firsts, dim=0), dims=(0,))
    b = I.index(input, M.concat(*seconds, dim=0), dims=(0,))
    return _norm(a - b, p)


def _norm(d: Tensor, p: float) -> Tensor:
    """p-norm of rows whose gradient at zero distance is zero."""
    if p == 0:
        return R.sum(E.cast(E.ne(d, 0.0), dtype=d.dtype), dims=(1,), keepdim=False)
    size = E.abs(d)
    if p == float("inf"):
        return R.amax(size, dims=(1,), keepdim=False)
    if p == 1:
        return R.sum(size, dims=(1,), keepdim=False)
    sums = R.sum(size**p, dims=(1,), keepdim=False)
    apart = E.gt(sums, 0.0)
    return E.where(apart, E.where(apart, sums, 1.0) ** (1.0 / p), 0.0)
