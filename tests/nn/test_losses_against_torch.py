"""Every loss, as a function and as a layer, with every reduction, against PyTorch."""

from __future__ import annotations

import inspect
import warnings

import numpy as np
import pytest
import torch
from nn_harness import Case, run_both, to_torch, to_twofold

import twofold as tw
from twofold.ir.errors import TwofoldError
from twofold.nn import functional as F

rng = np.random.default_rng(5)


def _floats(*shape: int) -> np.ndarray:
    return rng.standard_normal(shape)


def _probabilities(*shape: int) -> np.ndarray:
    e = np.exp(rng.standard_normal(shape))
    return e / e.sum(1 if len(shape) > 1 else 0, keepdims=True)


def _classes(*shape: int) -> np.ndarray:
    return rng.integers(0, 4, shape)


SIGNS = np.array([1.0, -1.0, 1.0, 1.0, -1.0])
UNIT = rng.uniform(0.05, 0.95, (5, 4))
WEIGHT = np.array([0.5, 2.0, 1.0, 0.25])
IGNORED = np.array([1, -100, 3, 0, -100])
SPATIAL = _classes(5, 2, 3)
LOG_PROBS = _floats(7, 3, 5)
LOG_PROBS = LOG_PROBS - np.log(np.exp(LOG_PROBS).sum(-1, keepdims=True))
LABELS = np.array([[1, 2, 2], [3, 4, 0], [1, 1, 2]])

# functional name, layer name, case
LOSSES = [
    ("mse_loss", "MSELoss", Case("", inputs=((5, 4), _floats(5, 4)))),
    ("l1_loss", "L1Loss", Case("", inputs=((5, 4), _floats(5, 4)))),
    ("smooth_l1_loss", "SmoothL1Loss", Case("", inputs=((5, 4), _floats(5, 4)))),
    ("smooth_l1_loss", "SmoothL1Loss", Case("", (), {"beta": 0.3}, inputs=((5, 4), _floats(5, 4)))),
    ("smooth_l1_loss", "SmoothL1Loss", Case("", (), {"beta": 0.0}, inputs=((5, 4), _floats(5, 4)))),
    ("huber_loss", "HuberLoss", Case("", (), {"delta": 0.5}, inputs=((5, 4), _floats(5, 4)))),
    ("cross_entropy", "CrossEntropyLoss", Case("", inputs=((5, 4), _classes(5)))),
    ("cross_entropy", "CrossEntropyLoss", Case("", inputs=((4,), np.array(2)))),
    ("cross_entropy", "CrossEntropyLoss", Case("", (), {"weight": WEIGHT}, inputs=((5, 4), IGNORED))),
    ("cross_entropy", "CrossEntropyLoss", Case("", (), {"label_smoothing": 0.2}, inputs=((5, 4), IGNORED))),
    (
        "cross_entropy",
        "CrossEntropyLoss",
        Case("", (), {"weight": WEIGHT, "label_smoothing": 0.2, "ignore_index": 1}, inputs=((5, 4, 2, 3), SPATIAL)),
    ),
    ("cross_entropy", "CrossEntropyLoss", Case("", inputs=((5, 4), _probabilities(5, 4)))),
    (
        "cross_entropy",
        "CrossEntropyLoss",
        Case("", (), {"weight": WEIGHT, "label_smoothing": 0.1}, inputs=((5, 4, 3), _probabilities(5, 4, 3))),
    ),
    ("cross_entropy", "CrossEntropyLoss", Case("", inputs=((4,), _probabilities(4)))),
    ("nll_loss", "NLLLoss", Case("", inputs=((5, 4), _classes(5)))),
    ("nll_loss", "NLLLoss", Case("", (), {"weight": WEIGHT}, inputs=((5, 4, 2, 3), SPATIAL))),
    ("nll_loss", "NLLLoss", Case("", (), {"ignore_index": 2}, inputs=((4,), np.array(1)))),
    ("binary_cross_entropy", "BCELoss", Case("", inputs=(UNIT, rng.uniform(0, 1, (5, 4))))),
    ("binary_cross_entropy", "BCELoss", Case("", (), {"weight": WEIGHT}, inputs=(UNIT, _classes(5, 4) % 2.0))),
    ("binary_cross_entropy_with_logits", "BCEWithLogitsLoss", Case("", inputs=((5, 4), rng.uniform(0, 1, (5, 4))))),
    (
        "binary_cross_entropy_with_logits",
        "BCEWithLogitsLoss",
        Case("", (), {"weight": WEIGHT, "pos_weight": WEIGHT[::-1].copy()}, inputs=((5, 4), _classes(5, 4) % 2.0)),
    ),
    ("kl_div", "KLDivLoss", Case("", inputs=((5, 4), _probabilities(5, 4)))),
    ("kl_div", "KLDivLoss", Case("", inputs=((2, 3), np.array([[0.0, 0.5, 0.5], [1.0, 0.0, 0.0]])), fixed=(1,))),
    ("kl_div", "KLDivLoss", Case("", (), {"log_target": True}, inputs=((5, 4), np.log(_probabilities(5, 4))))),
    ("poisson_nll_loss", "PoissonNLLLoss", Case("", inputs=((5,), np.array([0.0, 1, 2, 5, 3])))),
    (
        "poisson_nll_loss",
        "PoissonNLLLoss",
        Case(
            "",
            (),
            {"log_input": False, "full": True},
            inputs=(UNIT[:, 0].copy(), np.array([0.0, 1, 2, 5, 3])),
            fixed=(1,),
        ),
    ),
    ("gaussian_nll_loss", "GaussianNLLLoss", Case("", inputs=((5, 4), _floats(5, 4), UNIT))),
    (
        "gaussian_nll_loss",
        "GaussianNLLLoss",
        Case("", (), {"full": True}, inputs=((5, 4), _floats(5, 4), UNIT[:, 0].copy())),
    ),
    (
        "gaussian_nll_loss",
        "GaussianNLLLoss",
        Case("", (), {"eps": 0.5}, inputs=((5, 4), _floats(5, 4), UNIT[:, :1].copy())),
    ),
    ("margin_ranking_loss", "MarginRankingLoss", Case("", (), {"margin": 0.3}, inputs=((5,), _floats(5), SIGNS))),
    ("hinge_embedding_loss", "HingeEmbeddingLoss", Case("", (), {"margin": 0.7}, inputs=((5,), SIGNS))),
    (
        "cosine_embedding_loss",
        "CosineEmbeddingLoss",
        Case("", (), {"margin": 0.1}, inputs=((5, 4), _floats(5, 4), SIGNS)),
    ),
    ("cosine_embedding_loss", "CosineEmbeddingLoss", Case("", inputs=((4,), _floats(4), np.array(-1.0)))),
    ("triplet_margin_loss", "TripletMarginLoss", Case("", inputs=((5, 4), _floats(5, 4), _floats(5, 4)))),
    (
        "triplet_margin_loss",
        "TripletMarginLoss",
        Case("", (), {"margin": 2.0, "p": 1.0, "swap": True}, inputs=((5, 4), _floats(5, 4), _floats(5, 4))),
    ),
    (
        "triplet_margin_with_distance_loss",
        "TripletMarginWithDistanceLoss",
        Case("", (), {"margin": 3.0, "swap": True}, inputs=((5, 4), _floats(5, 4), _floats(5, 4))),
    ),
    ("multi_margin_loss", "MultiMarginLoss", Case("", inputs=((5, 4), _classes(5)))),
    ("multi_margin_loss", "MultiMarginLoss", Case("", inputs=((4,), np.array(1)))),
    (
        "multi_margin_loss",
        "MultiMarginLoss",
        Case("", (), {"p": 2, "margin": 0.5, "weight": WEIGHT}, inputs=((5, 4), _classes(5))),
    ),
    (
        "multilabel_margin_loss",
        "MultiLabelMarginLoss",
        Case("", inputs=((3, 4), np.array([[3, 0, -1, 1], [-1, 0, 1, 2], [2, 1, 3, 0]]))),
    ),
    ("multilabel_margin_loss", "MultiLabelMarginLoss", Case("", inputs=((4,), np.array([3, 0, -1, 1])))),
    ("multilabel_soft_margin_loss", "MultiLabelSoftMarginLoss", Case("", inputs=((5, 4), _classes(5, 4) % 2.0))),
    (
        "multilabel_soft_margin_loss",
        "MultiLabelSoftMarginLoss",
        Case("", (), {"weight": WEIGHT}, inputs=((5, 4), _classes(5, 4) % 2.0)),
    ),
    ("soft_margin_loss", "SoftMarginLoss", Case("", inputs=((5,), SIGNS), fixed=(1,))),
]
IDS = [f"{layer}-{i}" for i, (_, layer, _) in enumerate(LOSSES)]


@pytest.mark.parametrize("reduction", ["none", "mean", "sum", "batchmean"])
@pytest.mark.parametrize(("name", "layer", "case"), LOSSES, ids=IDS)
def test_loss(name: str, layer: str, case: Case, reduction: str) -> None:
    if reduction == "batchmean" and name != "kl_div":
        with pytest.raises(TwofoldError, match="reduction"):
            getattr(F, name)(*to_twofold(case.arrays()), **to_twofold(case.kwargs, False), reduction=reduction)
        return
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", UserWarning)
        theirs = getattr(torch.nn.functional, name)
        ours = getattr(F, name)
        given = {**case.kwargs, "reduction": reduction}
        run_both(Case(name, inputs=case.inputs, call=given, fixed=case.fixed), ours, theirs)
        a = getattr(tw.nn, layer)(**to_twofold(case.kwargs, False), reduction=reduction)
        b = getattr(torch.nn, layer)(**to_torch(case.kwargs, False), reduction=reduction)
        assert repr(a) == repr(b) and list(a.state_dict()) == list(b.state_dict())
        run_both(Case(layer, inputs=case.inputs, fixed=case.fixed), a, b)


def test_every_loss_of_the_package_is_in_the_table() -> None:
    layers = {n for n in tw.nn.__all__ if n.endswith("Loss")} - {"NLLLoss2d", "CTCLoss"}
    assert layers == {layer for _, layer, _ in LOSSES}
    functions = {n for n in F.__all__ if "loss" in n or "entropy" in n or n == "kl_div"} - {"ctc_loss"}
    assert functions == {name for name, _, _ in LOSSES}


@pytest.mark.parametrize(
    "old", [{"size_average": False}, {"reduce": False}, {"size_average": True, "reduce": True}]
)
def test_old_arguments(old: dict) -> None:
    x, y = _floats(3, 4), _floats(3, 4)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        expected = torch.nn.functional.mse_loss(torch.from_numpy(x), torch.from_numpy(y), **old)
    np.testing.assert_allclose(F.mse_loss(tw.from_numpy(x), tw.from_numpy(y), **old).numpy(), expected.numpy())


@pytest.mark.parametrize("name", ["mse_loss", "l1_loss", "huber_loss"])
@pytest.mark.parametrize("reduction", ["none", "mean", "sum"])
def test_weighted_differences(name: str, reduction: str) -> None:
    case = Case(name, inputs=((5, 4), _floats(5, 4), ), call={"weight": UNIT, "reduction": reduction})  # fmt: skip
    run_both(case, getattr(F, name), getattr(torch.nn.functional, name))


@pytest.mark.parametrize("reduction", ["none", "mean", "sum"])
@pytest.mark.parametrize("zero_infinity", [True, False])
@pytest.mark.parametrize(
    ("targets", "input_lengths", "target_lengths"),
    [
        (LABELS, (7, 6, 5), (3, 2, 3)),
        (np.array([1, 2, 2, 3, 4, 1]), (7, 7, 7), (3, 2, 1)),
        (LABELS, (7, 7, 3), (3, 2, 3)),  # the last one is too long: 1 1 2 needs four steps
        (LABELS, (7, 7, 7), (3, 0, 1)),
    ],
    ids=["padded", "joined", "impossible", "empty"],
)
def test_ctc(
    targets: np.ndarray, input_lengths: tuple, target_lengths: tuple, zero_infinity: bool, reduction: str
) -> None:
    possible = input_lengths[2] > 3
    if not possible and not zero_infinity:
        ours = F.ctc_loss(
            tw.from_numpy(LOG_PROBS), tw.from_numpy(targets), input_lengths, target_lengths, reduction="none"
        )
        assert np.isinf(ours.numpy()).tolist() == [False, False, True]
        return
    kwargs = {"zero_infinity": zero_infinity, "reduction": reduction}
    args = (targets, input_lengths, target_lengths)
    a = tw.from_numpy(LOG_PROBS.copy()).requires_grad_()
    b = torch.from_numpy(LOG_PROBS.copy()).requires_grad_()
    # PyTorch's gradient is that of log_softmax's input; so give it through one.
    y = F.ctc_loss(F.log_softmax(a, -1), *to_twofold(args), **kwargs)
    z = torch.nn.functional.ctc_loss(torch.nn.functional.log_softmax(b, -1), *to_torch(args), **kwargs)
    np.testing.assert_allclose(y.detach().numpy(), z.detach().numpy(), rtol=1e-9)
    y.sum().backward(), z.sum().backward()
    np.testing.assert_allclose(a.grad.numpy(), b.grad.numpy(), rtol=1e-7, atol=1e-9)


def test_ctc_without_batch_and_as_layer() -> None:
    args = (LABELS[0], (7,), (3,))
    ours = tw.nn.CTCLoss(blank=4)(tw.from_numpy(LOG_PROBS[:, 0].copy()), *to_twofold(args))
    theirs = torch.nn.CTCLoss(blank=4)(torch.from_numpy(LOG_PROBS[:, 0].copy()), *to_torch(args))
    np.testing.assert_allclose(ours.numpy(), theirs.numpy(), rtol=1e-9)


@pytest.mark.parametrize("value", [0.0, 1.0])
def test_bce_at_the_ends_is_finite(value: float) -> None:
    for target in (0.0, 1.0):
        a = tw.tensor([value], dtype=tw.float64, requires_grad=True)
        b = torch.tensor([value], dtype=torch.float64, requires_grad=True)
        y = F.binary_cross_entropy(a, tw.tensor([target], dtype=tw.float64))
        z = torch.nn.functional.binary_cross_entropy(b, torch.tensor([target], dtype=torch.float64))
        y.backward(), z.backward()
        assert y.item() == pytest.approx(z.item(), rel=1e-9)
        assert a.grad.item() == pytest.approx(b.grad.item(), rel=1e-8)


def test_extreme_logits_do_not_overflow() -> None:
    x = tw.tensor([[1000.0, -1000.0]], requires_grad=True)
    loss = F.cross_entropy(x, tw.tensor([1]))
    loss.backward()
    assert loss.item() == 2000.0 and x.grad.tolist() == [[1.0, -1.0]]
    z = tw.tensor([500.0, -500.0], requires_grad=True)
    loss = F.binary_cross_entropy_with_logits(z, tw.tensor([0.0, 1.0]))
    loss.backward()
    assert loss.item() == 500.0 and z.grad.tolist() == [0.5, -0.5]


def test_all_targets_ignored_gives_nan_as_pytorch() -> None:
    y = F.cross_entropy(tw.zeros(2, 3), tw.tensor([-100, -100]))
    assert np.isnan(y.item())
    assert F.cross_entropy(tw.zeros(2, 3), tw.tensor([-100, -100]), reduction="sum").item() == 0.0


@pytest.mark.parametrize("dtype", ["float16", "bfloat16"])
def test_half_precision_is_computed_in_float32(dtype: str) -> None:
    x = (_floats(6, 5) * 3).astype(np.float32)
    y = rng.integers(0, 5, 6)
    ours = F.cross_entropy(tw.from_numpy(x).to(getattr(tw, dtype)), tw.from_numpy(y))
    theirs = torch.nn.functional.cross_entropy(torch.from_numpy(x).to(getattr(torch, dtype)), torch.from_numpy(y))
    assert ours.dtype is getattr(tw, dtype)
    assert float(ours.float()) == pytest.approx(float(theirs.float()), rel=1e-2 if dtype == "bfloat16" else 1e-3)


def test_signatures_are_pytorchs() -> None:
    for name in F.__all__:
        theirs = getattr(torch.nn.functional, name)
        try:
            wanted = list(inspect.signature(theirs).parameters)
        except ValueError:  # written in C
            continue
        if wanted == ["args", "kwargs"]:
            continue
        assert list(inspect.signature(getattr(F, name)).parameters) == [p for p in wanted if p != "out"], name
