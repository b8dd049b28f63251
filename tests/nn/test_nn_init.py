"""nn.init and nn.utils against PyTorch: moments of what is random, values of what is not."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch

import twofold as tw
from twofold import nn
from twofold.ir.errors import ShapeError, TraceError, TwofoldError

SHAPE = (40, 30, 3)
RANDOM = [
    ("uniform_", {}),
    ("uniform_", {"a": -2.0, "b": 3.0}),
    ("normal_", {"mean": 1.0, "std": 2.0}),
    ("trunc_normal_", {}),
    ("trunc_normal_", {"mean": 0.5, "std": 2.0, "a": -1.0, "b": 1.5}),
    ("xavier_uniform_", {"gain": 2.0}),
    ("xavier_normal_", {}),
    ("kaiming_uniform_", {"a": 0.3}),
    ("kaiming_uniform_", {"mode": "fan_out", "nonlinearity": "relu"}),
    ("kaiming_normal_", {"nonlinearity": "tanh"}),
    ("orthogonal_", {"gain": 1.5}),
]


@pytest.mark.parametrize(("name", "kwargs"), RANDOM, ids=lambda v: str(v))
def test_random_fills_have_torchs_moments(name: str, kwargs: dict) -> None:
    tw.manual_seed(1)
    torch.manual_seed(1)
    p = nn.Parameter(tw.empty(*SHAPE))
    assert getattr(nn.init, name)(p, **kwargs) is p and p.is_leaf and p.requires_grad
    ours = p.detach().numpy()
    theirs = getattr(torch.nn.init, name)(torch.empty(*SHAPE), **kwargs).numpy()
    spread = float(theirs.std())
    assert ours.mean() == pytest.approx(theirs.mean(), abs=0.06 * spread)
    assert ours.std() == pytest.approx(spread, rel=0.05)
    if "normal" not in name or "trunc" in name:
        for end in (np.min, np.max):
            assert end(ours) == pytest.approx(
                end(theirs), rel=0.1 if name != "orthogonal_" else 0.4, abs=0.01 * spread
            )
    ranks = np.quantile(ours, [0.1, 0.5, 0.9]) - np.quantile(theirs, [0.1, 0.5, 0.9])
    assert np.abs(ranks).max() < 0.12 * spread


@pytest.mark.parametrize("shape", [(4, 4), (3, 5), (6, 2), (4, 2, 3)])
def test_orthogonal(shape: tuple[int, ...]) -> None:
    w = nn.init.orthogonal_(tw.empty(*shape, dtype=tw.float64), gain=2.0).numpy().reshape(shape[0], -1)
    product = w @ w.T if w.shape[0] <= w.shape[1] else w.T @ w
    np.testing.assert_allclose(product, 4 * np.eye(len(product)), atol=1e-12)


def test_sparse() -> None:
    w = nn.init.sparse_(tw.empty(50, 20), sparsity=0.3, std=0.5).numpy()
    assert ((w == 0).sum(0) == 15).all()
    assert w[w != 0].std() == pytest.approx(0.5, rel=0.1)
    assert len({tuple(np.flatnonzero(column == 0)) for column in w.T}) > 10, "zeros are elsewhere in each column"


@pytest.mark.parametrize(
    ("name", "shape", "kwargs"),
    [
        ("constant_", (2, 3), {"val": 0.3}),
        ("ones_", (2, 3), {}),
        ("zeros_", (2, 3), {}),
        ("eye_", (3, 5), {}),
        ("dirac_", (4, 2, 3), {}),
        ("dirac_", (4, 2, 3, 2), {"groups": 2}),
        ("dirac_", (2, 2, 3, 3, 3), {}),
    ],
)
def test_fixed_fills(name: str, shape: tuple[int, ...], kwargs: dict) -> None:
    ours = getattr(nn.init, name)(tw.ones(*shape) * 9, **kwargs)
    theirs = getattr(torch.nn.init, name)(torch.ones(*shape) * 9, **kwargs)
    np.testing.assert_array_equal(ours.numpy(), theirs.numpy())


@pytest.mark.parametrize("name", ["linear", "conv2d", "sigmoid", "tanh", "relu", "leaky_relu", "selu"])
def test_calculate_gain(name: str) -> None:
    assert nn.init.calculate_gain(name) == torch.nn.init.calculate_gain(name)
    assert nn.init.calculate_gain("leaky_relu", 0.2) == torch.nn.init.calculate_gain("leaky_relu", 0.2)


def test_generators_and_seeds_repeat() -> None:
    a = nn.init.normal_(tw.empty(5), generator=tw.Generator().manual_seed(4))
    b = nn.init.normal_(tw.empty(5), generator=tw.Generator().manual_seed(4))
    assert a.tolist() == b.tolist()
    tw.manual_seed(0)
    first = nn.Linear(3, 3)
    tw.manual_seed(0)
    assert nn.Linear(3, 3).weight.tolist() == first.weight.tolist()


def test_old_names_warn() -> None:
    with pytest.warns(FutureWarning, match="xavier_uniform_"):
        nn.init.xavier_uniform(tw.empty(3, 3))


def test_init_errors() -> None:
    with pytest.raises(ValueError, match="Unsupported nonlinearity"):
        nn.init.calculate_gain("swish")
    with pytest.raises(ValueError, match="fewer than 2 dimensions"):
        nn.init.xavier_uniform_(tw.empty(3))
    with pytest.raises(TwofoldError, match="fan_in"):
        nn.init.kaiming_normal_(tw.empty(3, 3), mode="fan")
    for fill, shape in ((nn.init.eye_, (3,)), (nn.init.dirac_, (3, 3)), (nn.init.orthogonal_, (3,))):
        with pytest.raises(ShapeError):
            fill(tw.empty(*shape))
    with pytest.raises(ShapeError, match="2 dimensions"):
        nn.init.sparse_(tw.empty(3), 0.1)
    with pytest.raises(TraceError, match="can't be traced"):
        tw.trace(nn.init.orthogonal_, tw.zeros(2, 2))
    with pytest.warns(UserWarning, match="zero-element"):
        nn.init.kaiming_uniform_(tw.empty(0, 3))
    with pytest.warns(UserWarning, match="more than 2 std"):
        nn.init.trunc_normal_(tw.empty(3), mean=9.0)


# utils ------------------------------------------------------------------------------------------


def _grads(lib: object) -> list[object]:
    rng = np.random.default_rng(0)
    parameters = []
    for shape in ((3, 4), (5,), (2,)):
        values = rng.standard_normal(shape)
        p = lib.nn.Parameter(lib.from_numpy(values.copy()))
        p.grad = lib.from_numpy(rng.standard_normal(shape) * 3)
        parameters.append(p)
    parameters[2].grad = None
    return parameters


@pytest.mark.parametrize("norm_type", [2.0, 1.0, 3.5, math.inf])
@pytest.mark.parametrize("max_norm", [0.5, 1000.0])
def test_clip_grad_norm(max_norm: float, norm_type: float) -> None:
    a, b = _grads(tw), _grads(torch)
    ours = nn.utils.clip_grad_norm_(a, max_norm, norm_type)
    theirs = torch.nn.utils.clip_grad_norm_(b, max_norm, norm_type)
    np.testing.assert_allclose(ours.numpy(), theirs.numpy())
    for p, q in zip(a[:2], b[:2], strict=True):
        np.testing.assert_allclose(p.grad.numpy(), q.grad.numpy())
    assert a[2].grad is None


def test_clip_grad_norm_of_iterators_single_tensors_and_nan() -> None:
    p = tw.zeros(2, requires_grad=True)
    assert nn.utils.clip_grad_norm_(iter([p]), 1.0).item() == 0.0
    p.grad = tw.tensor([3.0, math.nan])
    with pytest.raises(RuntimeError, match="nan"):
        nn.utils.clip_grad_norm_(p, 1.0, error_if_nonfinite=True)
    nn.utils.clip_grad_norm_(p, 1.0)
    assert np.isnan(p.grad.numpy()).all()


def test_clip_grad_value() -> None:
    a, b = _grads(tw), _grads(torch)
    nn.utils.clip_grad_value_(a, 1.5), torch.nn.utils.clip_grad_value_(b, 1.5)
    for p, q in zip(a[:2], b[:2], strict=True):
        np.testing.assert_array_equal(p.grad.numpy(), q.grad.numpy())


def test_parameters_to_vector_and_back() -> None:
    net = nn.Linear(3, 2)
    vector = nn.utils.parameters_to_vector(net.parameters())
    assert vector.shape == (8,) and vector.requires_grad
    weight = net.weight
    nn.utils.vector_to_parameters(tw.arange(8.0), net.parameters())
    assert net.weight is weight and weight.tolist() == [[0, 1, 2], [3, 4, 5]] and net.bias.tolist() == [6, 7]
    with pytest.raises(ShapeError, match="8 numbers"):
        nn.utils.vector_to_parameters(tw.zeros(3), net.parameters())
