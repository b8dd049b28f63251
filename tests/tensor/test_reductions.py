"""Reductions, statistics, softmax and running sums against PyTorch: dtypes, values, gradients."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from torch_oracle import array_of, assert_same, compare, compare_gradients, to_torch

import twofold as tw
from twofold.ir.errors import DTypeError, OutOfBoundsError, ShapeError, TwofoldError

NAN, INF = float("nan"), float("inf")
DTYPES = ("float32", "float64", "float16", "bfloat16", "int64", "int32", "uint8", "bool", "complex64")
SHAPES = ((2, 3), (4,), (), (2, 1, 3), (0,), (2, 0), (1, 5))
DIMS = (None, 0, -1, (0,), (0, -1), (), 7)
SEVERAL = ("sum", "nansum", "mean", "nanmean", "amax", "amin", "all", "any", "count_nonzero", "logsumexp")
ONE = ("prod", "max", "min", "argmax", "argmin", "cumsum", "cumprod", "cummax", "cummin", "logcumsumexp", "softmax",
       "log_softmax")  # fmt: skip
GENEROUS = {
    "nansum", "mean", "nanmean", "logsumexp", "amax", "amin", "max", "min", "argmax", "argmin", "cummax", "cummin",
    "logcumsumexp", "norm", "median",
}  # fmt: skip


def sample(shape, dtype="float64", seed=0, ties=False):
    rng = np.random.default_rng(seed)
    d = getattr(tw, dtype)
    if dtype == "bool":
        return tw.tensor(np.asarray(rng.random(shape) < 0.5))
    if not d.is_differentiable or ties:
        return tw.tensor(np.asarray(rng.integers(0, 5, shape)), dtype=d)
    x = rng.normal(size=shape)
    return tw.tensor(np.asarray(x + 1j * rng.normal(size=shape) if d.is_complex else x), dtype=d)


def tolerance(dtype):
    return {"float16": 1e-2, "bfloat16": 3e-2, "float32": 1e-5, "complex64": 1e-5}.get(dtype, 1e-10)


@pytest.mark.parametrize("name", SEVERAL)
@pytest.mark.parametrize("dtype", DTYPES)
def test_over_several_dimensions(name, dtype):
    for shape in SHAPES:
        for dim in DIMS:
            if name == "logsumexp" and dim is None:
                continue
            if name in ("amax", "amin") and dtype == "complex64":
                continue  # PyTorch refuses complex numbers, except for 0-d tensors
            if name in ("all", "any", "nanmean", "nansum", "count_nonzero") and dim == ():
                continue  # PyTorch reduces nothing here, which it calls legacy
            args = (sample(shape, dtype),) if dim is None else (sample(shape, dtype), dim)
            compare(name, args, rtol=tolerance(dtype), generous=name in GENEROUS)


@pytest.mark.parametrize("name", ONE)
@pytest.mark.parametrize("dtype", DTYPES)
def test_along_one_dimension(name, dtype):
    for shape in SHAPES:
        for dim in (0, -1, 7):
            if dtype == "complex64" and name in ("cummax", "cummin", "logcumsumexp"):
                continue  # an order of complex numbers is a convention that we don't share
            if 0 in shape and (dim == 7 or "softmax" in name):
                continue  # PyTorch checks nothing for empty tensors
            for ties in (False, True):
                x = sample(shape, dtype, ties=ties)
                compare(name, (x, dim), rtol=tolerance(dtype), generous=name in GENEROUS)


@pytest.mark.parametrize("name", [n for n in (*SEVERAL, *ONE) if n not in ("count_nonzero",)])
def test_keepdim(name):
    if "cum" in name or "softmax" in name:
        pytest.skip("keeps the shape")
    for dtype in ("float64", "bool") if name in ("all", "any") else ("float64",):
        compare(name, (sample((2, 3), dtype), 1, True))
        compare(name, (sample((2, 3), dtype), 0), {"keepdim": True})


@pytest.mark.filterwarnings("ignore:.*degrees of freedom.*:UserWarning")
@pytest.mark.parametrize("name", ["prod", "max", "min", "argmax", "argmin", "aminmax", "std", "var", "median"])
def test_over_all(name):
    for shape in ((2, 3), (), (1,)):
        compare(name, (sample(shape),))


STATISTICS = ("var", "std", "var_mean", "std_mean")


@pytest.mark.parametrize("name", STATISTICS)
@pytest.mark.parametrize("dtype", ["float32", "float64", "float16", "bfloat16", "complex64", "int64"])
def test_statistics(name, dtype):
    x = sample((4, 3), dtype)
    for args, kwargs in (
        ((), {}),
        ((0,), {}),
        ((False,), {}),
        ((1, False), {}),
        ((1, True, True), {}),
        (((0, 1),), {"correction": 2}),
        ((0,), {"keepdim": True, "correction": 0}),
        ((0,), {"unbiased": False}),
    ):
        compare(name, (x, *args), kwargs, rtol=tolerance(dtype))


@pytest.mark.filterwarnings("ignore:.*degrees of freedom.*:UserWarning")
def test_statistics_without_freedom():
    compare("var", (sample((1,)),))
    compare("std", (sample((3,)),), {"correction": 5})
    compare("var", (sample((0,)),))
    compare("mean", (sample((0,)),))


def test_variance_of_a_large_mean_keeps_digits():
    x = np.random.default_rng(0).normal(size=1000) + 1e8
    assert abs(tw.tensor(x).var().item() / x.var(ddof=1) - 1) < 1e-12


GRADIENTS = [
    ("sum", (), {}), ("sum", (0,), {}), ("mean", (1,), {"keepdim": True}), ("mean", (), {}), ("nansum", (0,), {}),
    ("nanmean", (1,), {}), ("prod", (), {}), ("prod", (1,), {}), ("amax", (1,), {}), ("amin", (0,), {}),
    ("max", (), {}), ("max", (1,), {}), ("min", (0, True), {}), ("var", (), {}), ("std", (0,), {}),
    ("var_mean", (1,), {}), ("std_mean", (1,), {}), ("logsumexp", (1,), {}), ("logsumexp", ((0, 1),), {}),
    ("softmax", (1,), {}), ("log_softmax", (0,), {}), ("cumsum", (1,), {}), ("cumprod", (0,), {}),
    ("cummax", (1,), {}), ("cummin", (0,), {}), ("logcumsumexp", (1,), {}), ("norm", (), {}), ("norm", (1,), {}),
    ("norm", (3, 1), {}), ("norm", (INF, 1), {}), ("norm", (1.5,), {}), ("aminmax", (), {"dim": 1}),
    ("diff", (), {}), ("diff", (2, 1), {}), ("trapezoid", (), {}), ("cumulative_trapezoid", (), {}),
]  # fmt: skip


@pytest.mark.parametrize(("name", "args", "kwargs"), GRADIENTS, ids=str)
def test_gradients(name, args, kwargs):
    x = sample((3, 4))
    x.requires_grad = True
    compare_gradients(name, (x, *args), kwargs, rtol=1e-9)


@pytest.mark.parametrize(
    ("name", "values", "args"),
    [
        ("prod", [2.0, 0.0, 3.0], ()),
        ("prod", [0.0, 0.0, 3.0], ()),
        ("cumprod", [2.0, 0.0, 3.0], (0,)),
        ("amax", [1.0, 1.0, 0.0], (0,)),
        ("max", [1.0, 1.0, 0.0], ()),
        ("max", [1.0, 1.0, 0.0], (0,)),
        ("norm", [0.0, 0.0, 0.0], ()),
        ("norm", [0.0, 0.0, 3.0], (1.5,)),
        ("norm", [0.0, 0.0, 3.0], (1,)),
        ("std", [2.0, 2.0, 2.0], ()),
        ("logsumexp", [-INF, 1.0, 2.0], (0,)),
        ("softmax", [-INF, 1.0, 2.0], (0,)),
        ("log_softmax", [100.0, -1000.0, 2.0], (0,)),
        ("logcumsumexp", [3.0, 1.0, -1000.0, 2.0], (0,)),
        ("nansum", [NAN, 1.0, 2.0], ()),
        ("nanmean", [NAN, 1.0, 2.0], ()),
    ],
    ids=str,
)
def test_edges(name, values, args):
    x = tw.tensor(values, dtype=tw.float64, requires_grad=True)
    compare(name, (x.detach(), *args))
    compare_gradients(name, (x, *args), rtol=1e-9)


@pytest.mark.parametrize("name", ["sum", "amax", "max", "argmax", "logsumexp", "softmax", "log_softmax", "cummax",
                                  "cummin", "min", "logcumsumexp", "argmin", "mean"])  # fmt: skip
@pytest.mark.parametrize(
    "values", [[NAN, 1.0], [1.0, NAN, 2.0], [INF, 1.0], [-INF, -INF], [INF, -INF], [-0.0, 0.0]], ids=str
)
def test_special_values(name, values):
    compare(name, (tw.tensor(values, dtype=tw.float64), 0))


@pytest.mark.parametrize("p", [0, 1, 2, 3, 0.5, -1, INF, -INF, "fro", 2.5])
def test_norm(p):
    for dtype in ("float64", "float32", "complex64"):
        x = sample((3, 4), dtype)
        compare("norm", (x, p), rtol=1e-5)
        compare("norm", (x, p, 1), rtol=1e-5)
        compare("norm", (x, p, (0, 1), True), rtol=1e-5)
    compare("dist", (sample((3,)), sample((3,), seed=1)))
    compare("dist", (sample((3,)), sample((3,), seed=1), 1))
    compare("renorm", (sample((3, 4)), 2, 0, 1.0))


def test_reduced_dtypes():
    x = sample((2, 3), "int32")
    compare("sum", (x,), {"dtype": tw.float32})
    compare("sum", (x, 1), {"dtype": tw.int32})
    compare("mean", (x,), {"dtype": tw.float64})
    compare("cumsum", (x, 0), {"dtype": tw.float32})
    compare("prod", (x, 0), {"dtype": tw.float64})
    compare("softmax", (x, 0), {"dtype": tw.float32})
    compare("log_softmax", (x, 0), {"dtype": tw.float64})


def test_two_tensors():
    x, y = sample((2, 3)), sample((3,), seed=1)
    compare("max", (x, y))
    compare("min", (x, y))
    compare("max", (x,), {"other": y})


def test_named_results():
    x = tw.tensor([[1.0, 5.0], [3.0, 2.0]])
    r = x.max(dim=1)
    assert r.values.tolist() == [5.0, 3.0] and r.indices.tolist() == [1, 0]
    values, indices = x.min(0)
    assert values.tolist() == [1.0, 2.0] and indices.tolist() == [0, 1]
    assert tw.aminmax(x).max.item() == 5.0


def test_differences_and_integrals():
    x = sample((3, 5))
    for n in range(7):
        compare("diff", (x, n))
    compare("diff", (x, 1, 0), {"prepend": sample((1, 5)), "append": sample((2, 5))})
    compare("diff", (sample((5,), "bool"),))
    places = tw.tensor(np.sort(np.random.default_rng(0).random(5)))
    for name in ("trapezoid", "cumulative_trapezoid"):
        compare(name, (x,))
        compare(name, (x, places))
        compare(name, (x, x.exp()))
        compare(name, (x,), {"dx": 0.5, "dim": 0})
        compare(name, (x, places[:3]), {"dim": 0})


def test_numpy_names():
    x = tw.tensor([[1.0, 2.0]])
    assert tw.sum(x, axis=1, keepdims=True).shape == (1, 1)
    assert x.mean(axis=0).shape == (2,)


def test_halves_do_not_overflow_on_the_way():
    x = tw.ones(70000, dtype=tw.float16)
    assert x.mean().item() == 1.0
    assert x.std().item() == 0.0


def test_softmax_second_derivative():
    x = sample((2, 3))
    x.requires_grad = True
    t = to_torch(x)
    w = sample((2, 3), seed=3)
    (g,) = tw.autograd.grad((tw.softmax(x, 1) * w).sum(), [x], create_graph=True)
    (g * g).sum().backward()
    (h,) = torch.autograd.grad((torch.softmax(t, 1) * to_torch(w)).sum(), [t], create_graph=True)
    (h * h).sum().backward()
    np.testing.assert_allclose(array_of(x.grad), array_of(t.grad), rtol=1e-10, atol=1e-12)


def test_variance_second_derivative():
    x = sample((5,))
    x.requires_grad = True
    t = to_torch(x)
    (g,) = tw.autograd.grad(tw.var(x), [x], create_graph=True)
    g[0].backward()
    (h,) = torch.autograd.grad(torch.var(t), [t], create_graph=True)
    h[0].backward()
    assert_same(x.grad, t.grad, 1e-10)


def test_composites_carry_their_name_in_a_graph():
    graph = tw.trace(lambda x: tw.softmax(x, 1).mean(), tw.ones(2, 3)).graph
    scopes = {name for node in graph.nodes for name, _ in node.scope}
    assert scopes == {"softmax", "mean"}


def test_errors():
    with pytest.raises(DTypeError, match=r"\[mean\] expected a floating or complex tensor, got int64"):
        tw.tensor([1, 2]).mean()
    with pytest.raises(OutOfBoundsError, match="dim 2 is outside a 1-d tensor"):
        tw.zeros(3).sum(2)
    with pytest.raises(ShapeError, match="names a dimension twice"):
        tw.zeros(3, 3).sum((0, 0))
    with pytest.raises(ShapeError, match="no elements"):
        tw.zeros(0).max()
    with pytest.raises(TwofoldError, match="p='nuc' is not a vector norm"):
        tw.norm(tw.zeros(2, 2), "nuc")


@pytest.mark.parametrize("edge_order", [1, 2])
def test_gradient_of_samples(edge_order):
    x = sample((4, 5))
    compare("gradient", (x,), {"edge_order": edge_order})
    compare("gradient", (x,), {"dim": 1, "spacing": 0.5, "edge_order": edge_order})
    places = tw.tensor(np.sort(np.random.default_rng(0).random(4)))
    theirs = torch.gradient(to_torch(x), spacing=(to_torch(places),), dim=0, edge_order=edge_order)
    assert_same(tw.gradient(x, spacing=(places,), dim=0, edge_order=edge_order), tuple(theirs), 1e-10)
    with pytest.raises(ShapeError, match="needs at least"):
        tw.gradient(tw.zeros(edge_order), edge_order=edge_order)


def test_sum_to_size():
    for size in ((2, 3, 4), (1, 3, 1), (3, 4), (4,), (1,), ()):
        compare(".sum_to_size", (sample((2, 3, 4)), size))
    with pytest.raises(ShapeError, match="not broadcast"):
        tw.zeros(2).sum_to_size(3)
