"""Products of matrices, einsum, distances and covariances against PyTorch."""

from __future__ import annotations

import itertools
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
import torch

import twofold as tw
from twofold.ir.errors import DTypeError, ShapeError, TwofoldError
from twofold.tensors.linalg import multi_dot


def draw(*shapes: tuple[int, ...], seed: int = 0, dtype: str = "float64") -> list[np.ndarray[Any, Any]]:
    rng = np.random.default_rng(seed)
    out = []
    for shape in shapes:
        a = rng.standard_normal(shape)
        if dtype.startswith("complex"):
            a = a + 1j * rng.standard_normal(shape)
        elif dtype.startswith(("int", "uint")):
            a = np.round(np.abs(a) * 3)
        out.append(np.asarray(a, dtype))
    return out


def compare(fn: Callable[..., Any], *arrays: np.ndarray[Any, Any], rtol: float = 1e-10) -> None:
    """Values and gradients of `fn(library, *tensors)` agree."""
    differentiable = arrays[0].dtype.kind in "fc"
    xs = [tw.tensor(a, requires_grad=differentiable) for a in arrays]
    ys = [torch.tensor(a, requires_grad=differentiable) for a in arrays]
    a, b = fn(tw, *xs), fn(torch, *ys)
    assert a.shape == tuple(b.shape)
    assert a.dtype.name == str(b.dtype).removeprefix("torch.")
    values, wanted = a.detach().numpy(), b.detach().resolve_conj().numpy()
    np.testing.assert_allclose(values, wanted, rtol=rtol, atol=1e-10)
    if not differentiable:
        return
    w = np.asarray(draw(values.shape, seed=1, dtype=arrays[0].dtype.name)[0], values.dtype)
    a.backward(tw.tensor(w))
    b.backward(torch.tensor(w))
    for x, y in zip(xs, ys, strict=True):
        if y.grad is None:
            assert x.grad is None
            continue
        np.testing.assert_allclose(x.grad.numpy(), y.grad.resolve_conj().numpy(), rtol=rtol, atol=1e-10)


SHAPES = [(3,), (2, 3), (4, 2, 3), (1, 4, 2, 3), (0, 3), (2, 0)]
OTHERS = [(3,), (3, 2), (4, 3, 2), (5, 1, 3, 2), (3, 0), (0, 2)]


@pytest.mark.parametrize("dtype", ["float64", "complex128", "int64", "uint8"])
@pytest.mark.parametrize(("left", "right"), list(itertools.product(SHAPES, OTHERS)))
def test_matmul_of_all_ranks(left: tuple[int, ...], right: tuple[int, ...], dtype: str) -> None:
    a, b = draw(left, right, dtype=dtype)
    if left[-1] != (right[-2] if len(right) > 1 else right[0]):
        with pytest.raises(ShapeError, match="inner sizes"):
            tw.matmul(tw.tensor(a), tw.tensor(b))
        return
    compare(lambda lib, x, y: x @ y, a, b)


@pytest.mark.parametrize("dtype", ["float16", "bfloat16"])
def test_half_precision_accumulates_in_float32(dtype: str) -> None:
    x = tw.ones(1, 3000, dtype=getattr(tw, dtype))
    assert (x @ x.T).item() == pytest.approx(3000, rel=0.01)


PRODUCTS: list[tuple[Callable[..., Any], list[tuple[int, ...]]]] = [
    (lambda lib, a, b: lib.mm(a, b), [(2, 3), (3, 4)]),
    (lambda lib, a, b: a.bmm(b), [(5, 2, 3), (5, 3, 4)]),
    (lambda lib, a, b: lib.mv(a, b), [(2, 3), (3,)]),
    (lambda lib, a, b: a.dot(b), [(3,), (3,)]),
    (lambda lib, a, b: lib.vdot(a, b), [(3,), (3,)]),
    (lambda lib, a, b: lib.inner(a, b), [(3,), (3,)]),
    (lambda lib, a, b: lib.inner(a, b), [(2, 3), (4, 5, 3)]),
    (lambda lib, a, b: lib.inner(a, b), [(), (2, 3)]),
    (lambda lib, a, b: lib.outer(a, b), [(3,), (4,)]),
    (lambda lib, a, b: lib.ger(a, b), [(3,), (4,)]),
    (lambda lib, a, b, c: lib.addmm(a, b, c), [(4,), (2, 3), (3, 4)]),
    (lambda lib, a, b, c: lib.addmm(a, b, c, beta=2, alpha=3), [(2, 4), (2, 3), (3, 4)]),
    (lambda lib, b, c: lib.addmm(lib.ones(4, dtype=b.dtype) * float("nan"), b, c, beta=0), [(2, 3), (3, 4)]),
    (lambda lib, a, b, c: (a * 1).addmm_(b, c, alpha=2), [(2, 4), (2, 3), (3, 4)]),
    (lambda lib, a, b, c: lib.addbmm(a, b, c, beta=2), [(2, 4), (5, 2, 3), (5, 3, 4)]),
    (lambda lib, a, b, c: lib.baddbmm(a, b, c, alpha=2), [(2, 4), (5, 2, 3), (5, 3, 4)]),
    (lambda lib, a, b, c: lib.addmv(a, b, c, beta=2, alpha=3), [(2,), (2, 3), (3,)]),
    (lambda lib, a, b, c: lib.addr(a, b, c, beta=2, alpha=3), [(2, 3), (2,), (3,)]),
    (lambda lib, a, b: lib.tensordot(a, b), [(2, 3, 4), (3, 4, 5)]),
    (lambda lib, a, b: lib.tensordot(a, b, dims=0), [(2, 3), (4,)]),
    (lambda lib, a, b: lib.tensordot(a, b, dims=([0, 2], [1, 0])), [(2, 3, 4), (4, 2)]),
    (lambda lib, a, b: lib.kron(a, b), [(2, 3), (4, 2)]),
    (lambda lib, a, b: lib.kron(a, b), [(2,), (3, 2)]),
    (lambda lib, a, b: lib.cross(a, b, dim=1), [(2, 3), (2, 3)]),
    (lambda lib, a, b: a.cross(b, dim=-1), [(1, 3), (4, 3)]),
    (lambda lib, a, b: lib.cross(a, b, dim=0), [(3, 4), (3, 1)]),
    (lambda lib, a: lib.trace(a), [(3, 4)]),
    (lambda lib, a, b, c: lib.chain_matmul(a, b, c), [(2, 5), (5, 1), (1, 4)]),
]


@pytest.mark.filterwarnings("ignore:torch.chain_matmul:UserWarning")
@pytest.mark.parametrize("dtype", ["float64", "complex128"])
@pytest.mark.parametrize("number", range(len(PRODUCTS)))
def test_products(number: int, dtype: str) -> None:
    fn, shapes = PRODUCTS[number]
    compare(fn, *draw(*shapes, dtype=dtype))


def test_products_of_integers() -> None:
    compare(lambda lib, a, b, c: lib.addmm(a, b, c, alpha=2), *draw((2, 4), (2, 3), (3, 4), dtype="int64"))
    compare(lambda lib, a: lib.trace(a), *draw((3, 3), dtype="int32"))
    compare(lambda lib, a, b: lib.kron(a, b), *draw((3,), (2,), dtype="int8"))
    compare(lambda lib, a, b: lib.dot(a, b), *draw((3,), (3,), dtype="uint8"))


def test_multi_dot_takes_vectors_and_the_cheapest_order() -> None:
    arrays = draw((4,), (4, 30), (30, 2), (2,))
    compare(lambda lib, *xs: multi_dot(xs) if lib is tw else torch.linalg.multi_dot(xs), *arrays)
    assert multi_dot([tw.ones(2, 2)]).tolist() == [[1.0, 1.0], [1.0, 1.0]]


EQUATIONS: list[tuple[str, list[tuple[int, ...]]]] = [
    ("ij,jk->ik", [(2, 3), (3, 4)]),
    ("ij,jk", [(2, 3), (3, 4)]),
    ("ba,ca", [(2, 3), (4, 3)]),
    ("Ab,bA", [(2, 3), (3, 2)]),
    ("ij->ji", [(2, 3)]),
    ("ij->", [(2, 3)]),
    ("ij->j", [(2, 3)]),
    ("ii", [(3, 3)]),
    ("ii->i", [(3, 3)]),
    ("iij->ji", [(3, 3, 2)]),
    ("iii->i", [(2, 2, 2)]),
    ("iji->j", [(2, 3, 2)]),
    ("i,i->i", [(3,), (3,)]),
    ("i,i->", [(3,), (3,)]),
    ("i,j->ji", [(3,), (2,)]),
    ("i,j", [(3,), (2,)]),
    ("bij,bjk->bik", [(2, 3, 4), (2, 4, 5)]),
    ("bi,bi->b", [(2, 3), (2, 3)]),
    ("bhqd,bhkd->bhqk", [(2, 2, 3, 4), (2, 2, 5, 4)]),
    ("ijk,jil->kl", [(3, 4, 5), (4, 3, 2)]),
    ("ij,kl->ijkl", [(2, 3), (1, 2)]),
    ("ij,j,jk->ik", [(2, 3), (3,), (3, 4)]),
    ("a,ab,abc->abc", [(2,), (2, 3), (2, 3, 4)]),
    ("ij,jk,kl,lm->im", [(2, 3), (3, 2), (2, 4), (4, 1)]),
    ("bn,anm,bm->ba", [(2, 3), (5, 3, 4), (2, 4)]),
    ("...ij,...jk->...ik", [(2, 3, 4), (2, 4, 5)]),
    ("...ij,...jk", [(5, 2, 3, 4), (2, 4, 5)]),
    ("...ij,...jk->...ik", [(3, 4), (5, 1, 4, 2)]),
    ("i...->...", [(2, 3, 4)]),
    ("...", [(2, 3)]),
    ("...->...", [()]),
    ("i...j->j...i", [(2, 3, 4)]),
    ("...i,...i->...", [(3, 2), (1, 2)]),
    ("...ii->...i", [(2, 3, 3)]),
    ("a...,b...->ab...", [(2, 3), (4, 3)]),
    ("ij,ij->ij", [(2, 1), (2, 3)]),
    ("ij,jk->ik", [(2, 1), (3, 4)]),
    ("ij,jk->ik", [(2, 3), (1, 4)]),
    ("ij , jk -> ik", [(2, 3), (3, 4)]),
    ("ij,jk->ik", [(2, 0), (0, 4)]),
    (",i->i", [(), (3,)]),
    ("ijkl,ij,kl->", [(2, 3, 2, 3), (2, 3), (2, 3)]),
]


@pytest.mark.parametrize("dtype", ["float64", "complex128"])
@pytest.mark.parametrize(("equation", "shapes"), EQUATIONS)
def test_einsum(equation: str, shapes: list[tuple[int, ...]], dtype: str) -> None:
    compare(lambda lib, *xs: lib.einsum(equation, *xs), *draw(*shapes, dtype=dtype))


def test_einsum_of_random_equations() -> None:
    rng = np.random.default_rng(0)
    size = dict(zip("abcdef", (2, 3, 1, 4, 2, 3), strict=True))
    for _ in range(150):
        terms = ["".join(rng.choice(list(size), rng.integers(0, 4))) for _ in range(rng.integers(1, 4))]
        letters = sorted(set("".join(terms)))
        out = "".join(rng.permutation([c for c in letters if rng.random() < 0.5]))
        equation = ",".join(terms) + ("->" + out if rng.random() < 0.8 else "")
        arrays = [rng.standard_normal([size[c] for c in term]) for term in terms]
        want = np.einsum(equation, *arrays)
        got = tw.einsum(equation, *[tw.tensor(a) for a in arrays])
        assert got.shape == want.shape, equation
        np.testing.assert_allclose(got.numpy(), want, rtol=1e-10, atol=1e-10, err_msg=equation)


def test_einsum_takes_lists() -> None:
    a, b = draw((2, 3), (3, 4))
    compare(lambda lib, x, y: lib.einsum("ij,jk->ik", [x, y]), a, b)
    compare(lambda lib, x, y: lib.einsum(x, [0, 1], y, [1, 2], [2, 0]), a, b)
    compare(lambda lib, x, y: lib.einsum(x, [0, 1], y, [1, 2]), a, b)
    compare(lambda lib, x, y: lib.einsum(x, [..., 0, 1], y, [1, 2], [..., 0, 2]), a, b)


def test_distances() -> None:
    a, b = draw((2, 4, 3), (5, 3))
    for p in (0.5, 1.0, 1.5, 2.0, 3.0, float("inf")):
        compare(lambda lib, x, y, p=p: lib.cdist(x, y, p), a, b)
    ints = np.round(a)
    assert (
        tw.cdist(tw.tensor(ints), tw.tensor(b), 0.0).tolist()
        == torch.cdist(torch.tensor(ints), torch.tensor(b), 0.0).tolist()
    )
    many, more = draw((30, 3), (28, 3))
    compare(lambda lib, x, y: lib.cdist(x, y), many, more, rtol=1e-6)
    compare(lambda lib, x, y: lib.cdist(x, y, compute_mode="donot_use_mm_for_euclid_dist"), many, more)


@pytest.mark.parametrize("p", [1.0, 2.0, 3.0])
def test_the_distance_to_itself_has_no_nan_gradient(p: float) -> None:
    compare(lambda lib, x: lib.cdist(x, x, p), *draw((4, 3)))


def test_covariance() -> None:
    (a,) = draw((3, 6))
    f, w = np.array([1, 2, 1, 3, 1, 2]), np.array([0.5, 1.0, 2.0, 1.0, 0.3, 0.7])
    compare(lambda lib, x: lib.cov(x), a)
    compare(lambda lib, x: lib.cov(x, correction=0), a)
    compare(lambda lib, x: lib.cov(x[0]), a)
    compare(lambda lib, x: lib.cov(x, fweights=lib.tensor(f)), a)
    compare(lambda lib, x: lib.cov(x, aweights=lib.tensor(w)), a)
    compare(lambda lib, x: lib.cov(x, fweights=lib.tensor(f), aweights=lib.tensor(w), correction=2), a)
    compare(lambda lib, x: lib.corrcoef(x), a)
    compare(lambda lib, x: lib.cov(x), *draw((3, 6), dtype="complex128"))
    compare(lambda lib, x: lib.corrcoef(x), *draw((3, 6), dtype="complex128"))


def refused(error: type[TwofoldError], match: str, fn: Callable[[], Any]) -> None:
    with pytest.raises(error, match=match):
        fn()


def test_errors() -> None:
    x, y = tw.zeros(8, 3), tw.zeros(4, 5)
    refused(ShapeError, r"\[matmul\] a \(8, 3\) @ b \(4, 5\): inner sizes 3 and 4 differ", lambda: x @ y)
    refused(ShapeError, r"hint: transpose the second: b.mT", lambda: x @ x)
    refused(ShapeError, "both need at least 1 dimension", lambda: x @ tw.tensor(1.0))
    refused(ShapeError, "do not broadcast", lambda: tw.zeros(2, 3, 4) @ tw.zeros(3, 4, 5))
    refused(DTypeError, "dtypes float32 and float64", lambda: x @ tw.zeros(3, 2, dtype=tw.float64))
    refused(DTypeError, "expected a tensor, got list", lambda: tw.matmul(x, [1.0]))
    refused(ShapeError, "input must be 2-d", lambda: tw.mm(tw.zeros(3), x))
    refused(ShapeError, "batches of 2 and 3", lambda: tw.bmm(tw.zeros(2, 1, 1), tw.zeros(3, 1, 1)))
    refused(ShapeError, "vectors of 2 and 3 elements", lambda: tw.dot(tw.zeros(2), tw.zeros(3)))
    z = tw.zeros(2, 2)
    refused(ShapeError, "does not fit the product's", lambda: tw.addmm(tw.zeros(3, 2, 2), z, z))
    ints = tw.ones(2, 2, dtype=tw.int64)
    refused(DTypeError, "alpha must be an integer", lambda: tw.addmm(ints, ints, ints, alpha=0.5))
    refused(ShapeError, "must have size 3", lambda: tw.cross(tw.zeros(2), tw.zeros(2), dim=0))
    refused(ShapeError, "have different sizes", lambda: tw.tensordot(x, y, dims=1))


def test_einsum_errors() -> None:
    x, y = tw.zeros(2, 3), tw.zeros(4, 5)
    refused(ShapeError, "'j' has size 4 in operand 1 .* but size 3", lambda: tw.einsum("ij,jk->ik", x, y))
    refused(ShapeError, "names 2 operands, but 1 were given", lambda: tw.einsum("ij,jk->ik", x))
    refused(ShapeError, "operand 0 has 3 letters for 2 dimensions", lambda: tw.einsum("ijk->i", x))
    refused(ShapeError, "the output has 'z'", lambda: tw.einsum("ij->z", x))
    refused(ShapeError, "names a letter twice", lambda: tw.einsum("ij->ii", x))
    refused(ShapeError, "'1' in operand 0 is no letter", lambda: tw.einsum("i1->i", x))
    refused(ShapeError, "'i' stands for sizes 2 and 3", lambda: tw.einsum("ii->i", x))
    refused(DTypeError, "dtypes", lambda: tw.einsum("ij,ij->", x, tw.zeros(2, 3, dtype=tw.int64)))
