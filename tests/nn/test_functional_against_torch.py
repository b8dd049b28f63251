"""Functionals without a layer, and forms that layers do not reach, against PyTorch."""

from __future__ import annotations

import warnings

import numpy as np
import pytest
import torch
from nn_harness import Case, run_both, to_torch, to_twofold

import twofold as tw
from twofold.nn import functional as F

rng = np.random.default_rng(3)
MASK = np.array([[True, False, True], [False, False, False], [True, True, True]])

CASES = [
    Case("softmax", inputs=((2, 3, 4),), call={"dim": 1}),
    Case("softmax", inputs=(np.array([[1, 2], [3, 4]]),), call={"dim": 0, "dtype": "float64"}),
    Case("log_softmax", inputs=((4,),), call={"dim": 0}),
    Case("softmax", inputs=((0, 3),), call={"dim": 1}),
    Case("softmin", inputs=((2, 3),), call={"dim": 1}),
    Case("normalize", inputs=((2, 3),)),
    Case("normalize", inputs=((2, 3, 2),), call={"p": 1.0, "dim": 2}),
    Case("pdist", inputs=((4, 3),)),
    Case("pdist", inputs=((4, 3),), call={"p": 1.0}),
    Case("pdist", inputs=((1, 3),)),
    Case("linear", inputs=((3,), (3,))),
    Case("linear", inputs=((2, 3), (4, 3), (4,))),
    Case("relu", inputs=(np.array([-2, 0, 3]),)),
    Case("one_hot", inputs=(np.array([[0, 2], [1, 1]]),)),
    Case("one_hot", inputs=(np.array([0, 2]),), call={"num_classes": 5}),
    Case("pad", inputs=((2, 3),), call={"pad": (1, 2, 0, 1)}),
    Case("pad", inputs=((2, 3),), call={"pad": (-1, 0), "value": 2.0}),
    Case("pad", inputs=((1, 2, 5),), call={"pad": (2, -1), "mode": "circular"}),
    Case("pad", inputs=((1, 2, 5),), call={"pad": (4, 3), "mode": "reflect"}),
    Case("interpolate", inputs=((1, 2, 4, 6),), call={"size": (2, 3), "mode": "area"}),
    Case("interpolate", inputs=((1, 2, 5),), call={"size": 3, "mode": "nearest-exact"}),
    Case("interpolate", inputs=((1, 2, 5),), call={"scale_factor": 1.7, "mode": "linear"}),
    Case(
        "interpolate",
        inputs=((1, 2, 5),),
        call={"scale_factor": 1.7, "mode": "linear", "recompute_scale_factor": True},
    ),
    Case("interpolate", inputs=((1, 1, 5, 4),), call={"scale_factor": 0.6, "mode": "bilinear"}),
    Case("upsample", inputs=((1, 1, 2, 2),), call={"scale_factor": 2}),
    Case("batch_norm", inputs=((3, 2), np.array([0.1, 0.2]), np.array([1.5, 2.0])), fixed=(1, 2)),
    Case("instance_norm", inputs=((2, 2, 3),)),
    Case("layer_norm", inputs=((2, 3),), call={"normalized_shape": (3,)}),
    Case("rms_norm", inputs=((2, 3),), call={"normalized_shape": (3,)}),
    Case("group_norm", inputs=((2, 4),), call={"num_groups": 2}),
    Case("scaled_dot_product_attention", inputs=((2, 2, 3, 4), (2, 2, 3, 4), (2, 2, 3, 5))),
    Case("scaled_dot_product_attention", inputs=((3, 4), (3, 4), (3, 5)), call={"is_causal": True}),
    Case("scaled_dot_product_attention", inputs=((2, 3, 4), (2, 3, 4), (2, 3, 4)), call={"attn_mask": MASK}),
    Case(
        "scaled_dot_product_attention",
        inputs=((2, 3, 4), (2, 3, 4), (2, 3, 4)),
        call={"attn_mask": MASK * 0.5, "scale": 0.3},
    ),
    Case(
        "scaled_dot_product_attention",
        inputs=((1, 4, 3, 2), (1, 2, 3, 2), (1, 2, 3, 2)),
        call={"enable_gqa": True},
    ),
    Case("bilinear", inputs=((2, 3), (2, 4), (5, 3, 4), (5,))),
    Case("embedding", inputs=(np.array([[0, 1]]), (3, 2))),
    Case("glu", inputs=((4, 2),), call={"dim": 0}),
    Case("avg_pool2d", inputs=((1, 1, 4, 4),), call={"kernel_size": 3, "stride": (), "padding": 1}),
    Case("lp_pool2d", inputs=((1, 1, 4, 4),), call={"norm_type": 2, "kernel_size": 2}, positive=True),
    Case("threshold", inputs=((5,),), call={"threshold": 0.2, "value": -3.0}),
    Case("cosine_similarity", inputs=((3,), (2, 3)), call={"dim": -1}),
    Case("pairwise_distance", inputs=((3,), (2, 3)), call={"p": float("inf")}),
]


@pytest.mark.parametrize("case", CASES, ids=str)
def test_functional(case: Case) -> None:
    ours, theirs = getattr(F, case.name), getattr(torch.nn.functional, case.name)
    if isinstance(case.call.get("dtype"), str):
        name = case.call["dtype"]
        call = {**case.call, "dtype": None}
        a = ours(*to_twofold(case.arrays()), **{**call, "dtype": getattr(tw, name)})
        b = theirs(*to_torch(case.arrays()), **{**call, "dtype": getattr(torch, name)})
        np.testing.assert_allclose(a.numpy(), b.numpy(), rtol=1e-9)
        return
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", UserWarning)
        run_both(case, ours, theirs)


@pytest.mark.parametrize(
    "name",
    ["relu_", "elu_", "selu_", "celu_", "leaky_relu_", "hardtanh_", "rrelu_"],
)
def test_in_place_forms_write_into_their_input(name: str) -> None:
    x = rng.standard_normal((3, 4))
    a, b = tw.from_numpy(x.copy()), torch.from_numpy(x.copy())
    assert getattr(F, name)(a) is a
    getattr(torch.nn.functional, name)(b)
    np.testing.assert_allclose(a.numpy(), b.numpy(), rtol=1e-7)


@pytest.mark.parametrize("name", ["relu6", "hardswish", "hardsigmoid", "silu", "mish", "dropout"])
def test_inplace_argument(name: str) -> None:
    a = tw.from_numpy(rng.standard_normal((3, 4)))
    expected = None if name == "dropout" else getattr(F, name)(a).numpy().copy()
    assert getattr(F, name)(a, inplace=True) is a
    if expected is not None:
        np.testing.assert_array_equal(a.numpy(), expected)


@pytest.mark.parametrize("shape", [(3,), (2, 3), (2, 3, 4), (2, 3, 2, 2)])
def test_softmax_without_dim_warns_and_guesses_as_pytorch(shape: tuple[int, ...]) -> None:
    x = rng.standard_normal(shape)
    with pytest.warns(UserWarning, match="Implicit dimension"):
        ours = F.softmax(tw.from_numpy(x))
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        theirs = torch.nn.functional.softmax(torch.from_numpy(x))
    np.testing.assert_allclose(ours.numpy(), theirs.numpy())


def test_max_pool_with_indices_goes_back_through_unpool() -> None:
    x = tw.from_numpy(rng.standard_normal((2, 3, 4, 4)))
    values, places = F.max_pool2d(x, 2, return_indices=True)
    y = F.max_unpool2d(values, places, 2).numpy()
    kept = y != 0
    assert kept.sum() == 2 * 3 * 4 and (y[kept] == x.numpy()[kept]).all()


def test_fold_is_the_transpose_of_unfold() -> None:
    x, y = rng.standard_normal((2, 3, 5, 4)), rng.standard_normal((2, 12, 30))
    a = F.unfold(tw.from_numpy(x), 2, padding=1)
    b = F.fold(tw.from_numpy(y), (5, 4), 2, padding=1)
    assert float((a * tw.from_numpy(y)).sum()) == pytest.approx(float((b * tw.from_numpy(x)).sum()))


def test_gumbel_softmax() -> None:
    tw.manual_seed(0)
    logits = tw.tensor(np.log([[0.7, 0.2, 0.1]] * 4000), dtype=tw.float32).requires_grad_()
    hard = F.gumbel_softmax(logits, tau=0.5, hard=True)
    values = hard.detach().numpy()
    assert np.allclose(values.sum(1), 1) and set(np.unique(values.round(6))) == {0.0, 1.0}
    assert values.mean(0) == pytest.approx([0.7, 0.2, 0.1], abs=0.04)
    (hard * tw.tensor([1.0, 2.0, 3.0])).sum().backward()
    assert float(logits.grad.abs().sum()) > 0
    soft = F.gumbel_softmax(logits.detach(), tau=2.0).numpy()
    assert np.allclose(soft.sum(1), 1, atol=1e-5) and (soft < 1).all()


def test_attention_dropout_and_masked_rows() -> None:
    tw.manual_seed(0)
    q = tw.randn(1, 3, 4, requires_grad=True)
    y = F.scaled_dot_product_attention(q, q, q, tw.tensor(MASK))
    assert (y[0, 1] == 0).all()
    y.sum().backward()
    assert np.isfinite(q.grad.numpy()).all()
    a, b = (F.scaled_dot_product_attention(q, q, q, dropout_p=0.5).detach().numpy() for _ in range(2))
    assert not np.array_equal(a, b)


@pytest.mark.parametrize("dtype", ["float16", "bfloat16"])
@pytest.mark.parametrize("name", ["softmax", "layer_norm", "gelu", "batch_norm", "logsigmoid"])
def test_half_precision_rounds_once(name: str, dtype: str) -> None:
    x = rng.standard_normal((4, 6)).astype(np.float32) * 3
    call = {"softmax": {"dim": 1}, "layer_norm": {"normalized_shape": (6,)}}.get(name, {})
    more = (None, None) if name == "batch_norm" else ()
    call = {"training": True} if name == "batch_norm" else call
    half = tw.from_numpy(x).to(getattr(tw, dtype))
    ours = getattr(F, name)(half, *more, **call)
    exact = getattr(torch.nn.functional, name)(torch.from_numpy(half.float().numpy()), *more, **call)
    assert ours.dtype is getattr(tw, dtype)
    step = 2.0**-7 if dtype == "bfloat16" else 2.0**-10
    np.testing.assert_allclose(ours.float().numpy(), exact.numpy(), rtol=step * 0.51, atol=step * 1e-3)


@pytest.mark.parametrize(
    "call",
    [
        lambda m, x: m.softmax(x, 1).pow(2).sum(),
        lambda m, x: m.gelu(x).sum(),
        lambda m, x: m.softplus(x).sum(),
        lambda m, x: m.layer_norm(x, (3,)).pow(3).sum(),
        lambda m, x: m.batch_norm(x, None, None, training=True).pow(3).sum(),
        lambda m, x: m.cross_entropy(x, _target(m)),
        lambda m, x: m.elu(x).pow(2).sum(),
        lambda m, x: m.silu(x).sum(),
        lambda m, x: m.logsigmoid(x).sum(),
    ],
)
def test_second_derivatives(call: object) -> None:
    x = np.concatenate([rng.standard_normal((3, 3)), np.zeros((1, 3))])
    x[3, 1:] = (0.5, -0.25)  # one exact zero: where stable formulas are easily wrong
    results = []
    for lib, functional, t in (
        (tw.autograd, F, tw.from_numpy(x.copy()).requires_grad_()),
        (torch.autograd, torch.nn.functional, torch.from_numpy(x.copy()).requires_grad_()),
    ):
        (g,) = lib.grad(call(functional, t), [t], create_graph=True)
        (h,) = lib.grad((g * g).sum(), [t])
        results.append((g.detach().numpy(), h.detach().numpy()))
    for mine, theirs in zip(*results, strict=True):
        np.testing.assert_allclose(mine, theirs, rtol=1e-7, atol=1e-9)


def _target(functional: object) -> object:
    lib = tw if functional is F else torch
    return lib.tensor([0, 2, 1, 0])
