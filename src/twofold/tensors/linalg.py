"""Products of matrices and vectors, and what is made from them."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

import numpy as np

from ..autodiff.bind import bind
from ..autodiff.composite import composite
from ..autodiff.handle import Tensor
from ..ir.dtypes import int64
from ..ir.errors import DTypeError, ShapeError
from ..ir.types import broadcast_shapes, canonical_dim
from ..primitives import elementwise as E
from ..primitives import linalg as L
from ..primitives import movement as P
from ..primitives import reduce as R
from ..primitives import strided as S
from ._registry import function
from ._views import reshaped
from .promotion import matched, operand, tensor_operand


def one_dtype(op: str, *tensors: Tensor) -> None:
    """Raise DTypeError unless all are tensors of one dtype: products don't promote, as in PyTorch."""
    first = tensor_operand(tensors[0], op).dtype
    for x in tensors[1:]:
        if tensor_operand(x, op).dtype is not first:
            raise DTypeError(
                f"the operands have dtypes {first.name} and {x.dtype.name}",
                op=op,
                hint=f"convert one of them first, e.g. with .to(twofold.{first.name})",
            )


def _needs(op: str, x: Tensor, ndim: int, name: str) -> None:
    if tensor_operand(x, op).ndim != ndim:
        raise ShapeError(f"{name} must be {ndim}-d, got shape {x.shape}", op=op, hint="matmul() takes any shapes")


def _inner_mismatch(op: str, a: Tensor, b: Tensor) -> ShapeError:
    n, m = a.shape[-1], b.shape[-2] if b.ndim > 1 else b.shape[0]
    hint = f"the last size of the first must be {m}"
    if b.ndim > 1 and n == b.shape[-1]:
        hint = "transpose the second: b.mT"
    elif a.ndim > 1 and a.shape[-2] == m:
        hint = "transpose the first: a.mT"
    return ShapeError(f"a {a.shape} @ b {b.shape}: inner sizes {n} and {m} differ", op=op, hint=hint)


# --- products ------------------------------------------------------------------------------------


def _matmul(a: Tensor, b: Tensor, op: str) -> Tensor:
    if isinstance(a, Tensor) and isinstance(b, Tensor):  # nearly always they fit, and bind is all that is needed
        x, y = a._value, b._value
        if x.dtype is y.dtype:
            shape, n = x.shape, len(x.shape)
            if n > 1 and n == len(y.shape):
                if shape[-1] == y.shape[-2] and shape[:-2] == y.shape[:-2]:
                    return bind(L.matmul, (a, b), {})
            elif (n == 1 and y.shape and shape[0] == y.shape[-2:][0]) or (n and shape[-1:] == y.shape):
                return product_with_vector(a, b)
    one_dtype(op, a, b)
    if not a.ndim or not b.ndim:
        raise ShapeError(
            f"both need at least 1 dimension, got shapes {a.shape} and {b.shape}", op=op, hint="use * for numbers"
        )
    if a.shape[-1] != (b.shape[-2] if b.ndim > 1 else b.shape[0]):
        raise _inner_mismatch(op, a, b)
    if a.ndim == 1 or b.ndim == 1:
        return product_with_vector(a, b)
    if b.ndim == 2:  # one large product instead of many small ones
        return reshaped(_product(_rows(a), b), (*a.shape[:-1], b.shape[-1]))
    if a.shape[:-2] != b.shape[:-2]:
        try:
            broadcast_shapes(a.shape[:-2], b.shape[:-2], op=op)
        except ShapeError as error:
            raise ShapeError(f"a {a.shape} @ b {b.shape}: batch {error.message}", op=op, hint=error.hint) from None
    return _product(a, b)


@composite(fused=True)
def product_with_vector(a: Tensor, b: Tensor) -> Tensor:
    if b.ndim == 1:
        return reshaped(_product(_rows(a), reshaped(b, (*b.shape, 1))), a.shape[:-1])
    out = _product(reshaped(a, (1, *a.shape)), b)
    return reshaped(out, (*out.shape[:-2], out.shape[-1]))


def _product(a: Tensor, b: Tensor) -> Tensor:
    out: Tensor = bind(L.matmul, (a, b), {})
    return out


def _rows(x: Tensor) -> Tensor:
    """All dimensions but the last as one."""
    return x if x.ndim == 2 else reshaped(x, (math.prod(x.shape[:-1]), x.shape[-1]))


@function
def matmul(input: Tensor, other: Tensor) -> Tensor:
    """The matrix product `input @ other`.

    Shapes: (..., n, k) @ (..., k, m) -> (..., n, m), batch dimensions broadcast; a 1-d operand is a
        row on the left and a column on the right, and its dimension of size 1 is dropped.
    Raises: ShapeError if the inner sizes differ; DTypeError if the dtypes do.
    Numerics: float16 and bfloat16 accumulate in float32.

    >>> import twofold as tw
    >>> tw.matmul(tw.tensor([[1.0, 2.0]]), tw.tensor([3.0, 4.0]))
    tensor([11.])
    """
    return _matmul(input, other, "matmul")


@function(name="__matmul__", module=False)
def _at(a: Tensor, b: Any) -> Any:
    return _matmul(a, operand(b, "matmul"), "matmul") if isinstance(b, (Tensor, np.ndarray)) else NotImplemented


@function(name="__rmatmul__", module=False)
def _at_reflected(b: Tensor, a: Any) -> Any:
    return _matmul(operand(a, "matmul"), b, "matmul") if isinstance(a, (Tensor, np.ndarray)) else NotImplemented


@function
def mm(input: Tensor, mat2: Tensor) -> Tensor:
    """The product of two matrices.

    Shapes: (n, k), (k, m) -> (n, m).

    >>> import twofold as tw
    >>> tw.mm(tw.ones(2, 3), tw.ones(3, 1))
    tensor([[3.],
            [3.]])
    """
    _needs("mm", input, 2, "input")
    _needs("mm", mat2, 2, "mat2")
    return _matmul(input, mat2, "mm")


@function
def bmm(input: Tensor, mat2: Tensor) -> Tensor:
    """The products of two batches of matrices.

    Shapes: (b, n, k), (b, k, m) -> (b, n, m).

    >>> import twofold as tw
    >>> tw.bmm(tw.ones(4, 2, 3), tw.ones(4, 3, 1)).shape
    (4, 2, 1)
    """
    _needs("bmm", input, 3, "input")
    _needs("bmm", mat2, 3, "mat2")
    if input.shape[0] != mat2.shape[0]:
        raise ShapeError(f"batches of {input.shape[0]} and {mat2.shape[0]} matrices", op="bmm")
    return _matmul(input, mat2, "bmm")


@function
def mv(input: Tensor, vec: Tensor) -> Tensor:
    """The product of a matrix with a vector.

    Shapes: (n, k), (k,) -> (n,).

    >>> import twofold as tw
    >>> tw.mv(tw.ones(2, 3), tw.ones(3))
    tensor([3., 3.])
    """
    _needs("mv", input, 2, "input")
    _needs("mv", vec, 1, "vec")
    return _matmul(input, vec, "mv")


@function
def dot(input: Tensor, tensor: Tensor) -> Tensor:
    """The sum of products of two vectors, without conjugation.

    >>> import twofold as tw
    >>> tw.dot(tw.tensor([1, 2]), tw.tensor([3, 4]))
    tensor(11)
    """
    return _dot(input, tensor, "dot")


def _dot(a: Tensor, b: Tensor, op: str) -> Tensor:
    _needs(op, a, 1, "input")
    _needs(op, b, 1, "the other")
    one_dtype(op, a, b)
    if a.shape != b.shape:
        raise ShapeError(f"vectors of {a.shape[0]} and {b.shape[0]} elements", op=op)
    return product_with_vector(a, b)


@function
def vdot(input: Tensor, other: Tensor) -> Tensor:
    """The inner product of two vectors: the first is conjugated.

    >>> import twofold as tw
    >>> tw.vdot(tw.tensor([1j]), tw.tensor([2j]))
    tensor(2.+0.j)
    """
    return _dot(conjugate(input), other, "vdot")


def conjugate(x: Tensor) -> Tensor:
    """The complex conjugate; a real tensor comes back as it is."""
    return E.conj(x) if x.dtype.is_complex else x


@function
def inner(input: Tensor, other: Tensor) -> Tensor:
    """Sums of products over the last dimension of both.

    Shapes: (..., k), (*rest, k) -> (..., *rest).

    >>> import twofold as tw
    >>> tw.inner(tw.tensor([[1, 2], [3, 4]]), tw.tensor([1, 10]))
    tensor([21, 43])
    """
    one_dtype("inner", input, other)
    if not input.ndim or not other.ndim:
        return E.mul(input, other)
    if input.shape[-1] != other.shape[-1]:
        raise ShapeError(f"the last sizes of {input.shape} and {other.shape} differ", op="inner")
    return tensordot(input, other, ([-1], [-1]))


@function(aliases=("ger",))
def outer(input: Tensor, vec2: Tensor) -> Tensor:
    """All products of an element of one vector with one of the other.

    Shapes: (n,), (m,) -> (n, m).

    >>> import twofold as tw
    >>> tw.outer(tw.tensor([1, 2]), tw.tensor([3, 4]))
    tensor([[3, 4],
            [6, 8]])
    """
    _needs("outer", input, 1, "input")
    _needs("outer", vec2, 1, "vec2")
    a, b = matched("outer", input, vec2)
    return bind(E.mul, (reshaped(a, (*a.shape, 1)), b), {})


def _added(op: str, input: Tensor, product: Tensor, beta: Any, alpha: Any) -> Tensor:
    """`beta * input + alpha * product`; with beta 0 the input's values don't matter, nan neither."""
    one_dtype(op, input, product)
    if broadcast_shapes(input.shape, product.shape, op=op) != product.shape:
        raise ShapeError(f"input of shape {input.shape} does not fit the product's {product.shape}", op=op)
    whole = product.dtype.kind in ("int", "uint", "bool")
    for name, factor in (("beta", beta), ("alpha", alpha)):
        if whole and isinstance(factor, float):
            raise DTypeError(f"{name} must be an integer for {product.dtype.name} tensors, got {factor}", op=op)
    if alpha != 1:
        product = E.mul(product, alpha)
    if beta == 0:
        return product
    return E.add(input if beta == 1 else E.mul(input, beta), product)


@function(inplace=True)
@composite(fused=True)
def addmm(input: Tensor, mat1: Tensor, mat2: Tensor, *, beta: Any = 1, alpha: Any = 1) -> Tensor:
    """`beta * input + alpha * (mat1 @ mat2)` for matrices; input broadcasts.

    >>> import twofold as tw
    >>> tw.addmm(tw.ones(1), tw.ones(2, 3), tw.ones(3, 1), alpha=2)
    tensor([[7.],
            [7.]])
    """
    return _added("addmm", input, mm(mat1, mat2), beta, alpha)


@function(inplace=True)
@composite(fused=True)
def baddbmm(input: Tensor, batch1: Tensor, batch2: Tensor, *, beta: Any = 1, alpha: Any = 1) -> Tensor:
    """`beta * input + alpha * (batch1 @ batch2)` for batches of matrices; input broadcasts.

    >>> import twofold as tw
    >>> tw.baddbmm(tw.ones(1), tw.ones(4, 2, 3), tw.ones(4, 3, 1)).shape
    (4, 2, 1)
    """
    return _added("baddbmm", input, bmm(batch1, batch2), beta, alpha)


@function(inplace=True)
def addbmm(input: Tensor, batch1: Tensor, batch2: Tensor, *, beta: Any = 1, alpha: Any = 1) -> Tensor:
    """`beta * input + alpha * sum of the batch's products`.

    >>> import twofold as tw
    >>> tw.addbmm(tw.ones(1), tw.ones(4, 2, 3), tw.ones(4, 3, 1))
    tensor([[13.],
            [13.]])
    """
    return _added("addbmm", input, R.sum(bmm(batch1, batch2), dims=(0,), keepdim=False), beta, alpha)


@function(inplace=True)
def addmv(input: Tensor, mat: Tensor, vec: Tensor, *, beta: Any = 1, alpha: Any = 1) -> Tensor:
    """`beta * input + alpha * (mat @ vec)`.

    >>> import twofold as tw
    >>> tw.addmv(tw.ones(2), tw.ones(2, 3), tw.ones(3))
    tensor([4., 4.])
    """
    return _added("addmv", input, mv(mat, vec), beta, alpha)


@function(inplace=True)
def addr(input: Tensor, vec1: Tensor, vec2: Tensor, *, beta: Any = 1, alpha: Any = 1) -> Tensor:
    """`beta * input + alpha * outer(vec1, vec2)`.

    >>> import twofold as tw
    >>> tw.addr(tw.zeros(2, 2), tw.tensor([1.0, 2.0]), tw.tensor([3.0, 4.0]))
    tensor([[3., 4.],
            [6., 8.]])
    """
    return _added("addr", input, outer(vec1, vec2), beta, alpha)


@function(method=False)
def tensordot(a: Tensor, b: Tensor, dims: Any = 2) -> Tensor:
    """Sums of products over pairs of dimensions.

    Args:
        dims: how many of a's last and b's first dimensions, or the two lists of dimensions.

    >>> import twofold as tw
    >>> tw.tensordot(tw.ones(2, 3), tw.ones(3, 4), dims=1).shape
    (2, 4)
    """
    op = "tensordot"
    one_dtype(op, a, b)
    if isinstance(dims, Tensor):
        dims = dims.tolist()
    if isinstance(dims, int):
        if not 0 <= dims <= min(a.ndim, b.ndim):
            raise ShapeError(f"dims={dims} for shapes {a.shape} and {b.shape}", op=op)
        dims = (list(range(a.ndim - dims, a.ndim)), list(range(dims)))
    left, right = ((d,) if isinstance(d, int) else tuple(d) for d in dims)
    left = tuple([canonical_dim(d, a.ndim, op=op) for d in left])
    right = tuple([canonical_dim(d, b.ndim, op=op) for d in right])
    if len(left) != len(right):
        raise ShapeError(f"{len(left)} dims of the first but {len(right)} of the second", op=op)
    for d, e in zip(left, right, strict=True):
        if a.shape[d] != b.shape[e]:
            raise ShapeError(
                f"dimension {d} of {a.shape} and dimension {e} of {b.shape} have different sizes", op=op
            )
    rest_a = tuple([d for d in range(a.ndim) if d not in left])
    rest_b = tuple([d for d in range(b.ndim) if d not in right])
    k = math.prod([a.shape[d] for d in left])
    shape_a, shape_b = [a.shape[d] for d in rest_a], [b.shape[d] for d in rest_b]
    rows = P.reshape(P.permute(a, dims=rest_a + left), shape=(math.prod(shape_a), k))
    columns = P.reshape(P.permute(b, dims=right + rest_b), shape=(k, math.prod(shape_b)))
    return P.reshape(L.matmul(rows, columns), shape=(*shape_a, *shape_b))


@function
def kron(input: Tensor, other: Tensor) -> Tensor:
    """The Kronecker product: each element of `input` times the whole of `other`.

    >>> import twofold as tw
    >>> tw.kron(tw.tensor([1, 10]), tw.tensor([1, 2]))
    tensor([ 1,  2, 10, 20])
    """
    a, b = matched("kron", input, other)
    n = max(a.ndim, b.ndim)
    left, right = (1,) * (n - a.ndim) + a.shape, (1,) * (n - b.ndim) + b.shape
    a = P.reshape(a, shape=tuple([m for s in left for m in (s, 1)]))
    b = P.reshape(b, shape=tuple([m for s in right for m in (1, s)]))
    return P.reshape(E.mul(a, b), shape=tuple([x * y for x, y in zip(left, right, strict=True)]))


@function(dims=True)
def cross(input: Tensor, other: Tensor, dim: int | None = None) -> Tensor:
    """The vector product along a dimension of size 3; without `dim`, the first such.

    >>> import twofold as tw
    >>> tw.cross(tw.tensor([1, 0, 0]), tw.tensor([0, 1, 0]))
    tensor([0, 0, 1])
    """
    a, b = matched("cross", input, other)
    shape = broadcast_shapes(a.shape, b.shape, op="cross")
    if dim is None:
        dim = next((d for d, n in enumerate(shape) if n == 3), -1)
    dim = canonical_dim(dim, len(shape), op="cross")
    if not shape or shape[dim] != 3:
        raise ShapeError(f"dimension {dim} of shape {shape} must have size 3", op="cross")
    a, b = (P.expand(x, shape=shape) for x in (a, b))
    (a1, a2), (b1, b2) = ([_rolled(x, dim, k) for k in (1, 2)] for x in (a, b))
    return E.sub(E.mul(a1, b2), E.mul(a2, b1))


def _rolled(x: Tensor, dim: int, by: int) -> Tensor:
    """Elements `by` further along a dimension of size 3, around its end."""

    def cut(start: int, stop: int) -> Tensor:
        starts, stops = [0] * x.ndim, list(x.shape)
        starts[dim], stops[dim] = start, stop
        return P.slice(x, start=tuple(starts), stop=tuple(stops), step=(1,) * x.ndim)

    return P.concat(cut(by, 3), cut(0, by), dim=dim)


@function
def trace(input: Tensor) -> Tensor:
    """The sum of a matrix's diagonal.

    >>> import twofold as tw
    >>> tw.eye(3).trace()
    tensor(3.)
    """
    _needs("trace", input, 2, "input")
    diagonal = S.diagonal(input, offset=0, dim1=0, dim2=1)
    if diagonal.dtype.kind in ("bool", "int", "uint"):
        diagonal = E.cast(diagonal, dtype=int64)
    return R.sum(diagonal, dims=(0,), keepdim=False)


@function(method=False)
def chain_matmul(*matrices: Tensor) -> Tensor:
    """The product of several matrices, in the order that multiplies least.

    >>> import twofold as tw
    >>> tw.chain_matmul(tw.ones(2, 3), tw.ones(3, 1), tw.ones(1, 2))
    tensor([[3., 3.],
            [3., 3.]])
    """
    return multi_dot(matrices)


def multi_dot(tensors: Sequence[Tensor]) -> Tensor:
    """The product of several matrices in the cheapest order; the first and last may be vectors.

    Source: Cormen et al., "Introduction to Algorithms", matrix-chain multiplication.
    """
    xs = list(tensors)
    if not xs:
        raise ShapeError("no matrices were given", op="multi_dot")
    if len(xs) == 1:
        return xs[0]
    row, column = xs[0].ndim == 1, xs[-1].ndim == 1
    if row:
        xs[0] = P.reshape(xs[0], shape=(1, *xs[0].shape))
    if column:
        xs[-1] = P.reshape(xs[-1], shape=(*xs[-1].shape, 1))
    for x in xs:
        _needs("multi_dot", x, 2, "every matrix")
    out = _chain(xs, _best_cuts([x.shape[0] for x in xs] + [xs[-1].shape[1]]), 0, len(xs) - 1)
    return P.reshape(out, shape=out.shape[int(row) : 2 - int(column)])


def _best_cuts(sizes: list[int]) -> dict[tuple[int, int], int]:
    """`cuts[i, j]`: after which matrix to split the product of matrices i to j."""
    n = len(sizes) - 1
    cost, cuts = {(i, i): 0 for i in range(n)}, {}
    for length in range(1, n):
        for i in range(n - length):
            j = i + length
            cost[i, j], cuts[i, j] = min(
                (cost[i, k] + cost[k + 1, j] + sizes[i] * sizes[k + 1] * sizes[j + 1], k) for k in range(i, j)
            )
    return cuts


def _chain(xs: list[Tensor], cuts: dict[tuple[int, int], int], i: int, j: int) -> Tensor:
    if i == j:
        return xs[i]
    k = cuts[i, j]
    return _matmul(_chain(xs, cuts, i, k), _chain(xs, cuts, k + 1, j), "multi_dot")
