"""Every layer against its twin in PyTorch: repr, state dict, results, gradients, running statistics."""

from __future__ import annotations

import warnings

import numpy as np
import pytest
import torch
from layer_cases import LAYERS
from nn_harness import Case, run_both, twins

import twofold as tw


@pytest.mark.parametrize("training", [True, False], ids=["train", "eval"])
@pytest.mark.parametrize("case", LAYERS, ids=str)
def test_results_and_gradients(case: Case, training: bool) -> None:
    ours, theirs = twins(case)
    training = training and case.train
    ours.train(training), theirs.train(training)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", UserWarning)
        run_both(case, ours, theirs)


@pytest.mark.parametrize("case", LAYERS, ids=str)
def test_repr_and_state_dict(case: Case) -> None:
    ours, theirs = twins(case)
    assert repr(ours) == repr(theirs)
    mine, others = ours.state_dict(), theirs.state_dict()
    assert list(mine) == list(others)
    assert [name for name, _ in ours.named_parameters()] == [name for name, _ in theirs.named_parameters()]
    for key, value in others.items():
        assert tuple(mine[key].shape) == tuple(value.shape)
        assert mine[key].dtype.name == str(value.dtype).removeprefix("torch.")


def _moments(module: object, samples: int) -> dict[str, tuple[float, float]]:
    sums: dict[str, list[np.ndarray]] = {}
    for _ in range(samples):
        module.reset_parameters() if hasattr(module, "reset_parameters") else module._reset_parameters()
        for name, p in module.named_parameters():
            sums.setdefault(name, []).append(p.detach().numpy().ravel().copy())
    return {name: (float(np.abs(v).max()), float(np.std(v))) for name, v in sums.items()}


@pytest.mark.parametrize(
    ("name", "args"),
    [
        ("Linear", (20, 30)),
        ("Bilinear", (5, 6, 7)),
        ("Conv1d", (4, 8, 3)),
        ("Conv2d", (4, 8, 3)),
        ("ConvTranspose2d", (4, 8, 3)),
        ("Embedding", (20, 30)),
        ("LSTM", (10, 12)),
        ("GRUCell", (10, 12)),
        ("MultiheadAttention", (16, 2)),
        ("BatchNorm1d", (10,)),
        ("PReLU", (4,)),
    ],
)
def test_first_weights_follow_torchs_distributions(name: str, args: tuple[int, ...]) -> None:
    tw.manual_seed(0)
    torch.manual_seed(0)
    mine = _moments(getattr(tw.nn, name)(*args), 60)
    theirs = _moments(getattr(torch.nn, name)(*args), 60)
    for key, (largest, spread) in theirs.items():
        assert mine[key][1] == pytest.approx(spread, rel=0.08, abs=1e-8), key
        assert mine[key][0] == pytest.approx(largest, rel=0.25 if name == "Embedding" else 0.05), key


@pytest.mark.parametrize("p", [0.2, 0.7])
@pytest.mark.parametrize("name", ["Dropout", "Dropout1d", "Dropout2d", "Dropout3d"])
def test_dropout_zeroes_whole_units_and_scales_the_rest(name: str, p: float) -> None:
    tw.manual_seed(3)
    shape = (40, 50) if name == "Dropout" else (40, 50, *(2,) * int(name[7]))
    x = tw.ones(*shape, requires_grad=True)
    layer = getattr(tw.nn, name)(p)
    y = layer(x)
    values = np.unique(y.detach().numpy())
    assert values == pytest.approx([0.0, 1 / (1 - p)])
    units = y.detach().numpy().reshape(40 * 50, -1)
    assert (units == units[:, :1]).all()
    assert (units[:, 0] == 0).mean() == pytest.approx(p, abs=0.04)
    y.sum().backward()
    assert (x.grad.numpy() == y.detach().numpy()).all()
    assert not (layer(x).detach().numpy() == y.detach().numpy()).all()


def test_dropout_at_its_ends_and_in_place() -> None:
    x = tw.ones(3, 4)
    assert (tw.nn.Dropout(1.0)(x) == 0).all()
    assert (tw.nn.Dropout(0.0)(x) == 1).all()
    y = tw.nn.Dropout(0.5, inplace=True)(x)
    assert y is x
    with pytest.raises(ValueError, match="between 0 and 1"):
        tw.nn.Dropout(1.5)


def test_alpha_dropout_keeps_mean_and_variance() -> None:
    tw.manual_seed(1)
    x = tw.randn(200, 200)
    y = tw.nn.AlphaDropout(0.3)(x).numpy()
    assert y.mean() == pytest.approx(0.0, abs=0.03)
    assert y.std() == pytest.approx(1.0, abs=0.03)


def test_rrelu_draws_slopes_between_its_bounds() -> None:
    x = -tw.ones(1000)
    y = tw.nn.RReLU(0.2, 0.6)(x).numpy()
    assert y.max() <= -0.2 and y.min() >= -0.6 and y.std() > 0.05


def test_recurrent_dropout_is_between_layers_only() -> None:
    tw.manual_seed(0)
    lstm = tw.nn.LSTM(3, 4, num_layers=2, dropout=0.5)
    x = tw.randn(5, 2, 3)
    a, b = lstm(x)[0].detach().numpy(), lstm(x)[0].detach().numpy()
    assert not np.allclose(a, b)
    lstm.eval()
    assert np.array_equal(lstm(x)[0].detach().numpy(), lstm(x)[0].detach().numpy())
    with pytest.warns(UserWarning, match="num_layers"):
        tw.nn.LSTM(3, 4, dropout=0.5)


def test_batch_norm_statistics_over_several_batches() -> None:
    rng = np.random.default_rng(0)
    for momentum in (0.1, None):
        ours, theirs = tw.nn.BatchNorm1d(3, momentum=momentum), torch.nn.BatchNorm1d(3, momentum=momentum)
        for _ in range(4):
            x = rng.standard_normal((5, 3)).astype(np.float32)
            ours(tw.from_numpy(x)), theirs(torch.from_numpy(x))
        for name in ("running_mean", "running_var", "num_batches_tracked"):
            np.testing.assert_allclose(getattr(ours, name).numpy(), getattr(theirs, name).numpy(), rtol=1e-5)
        ours.reset_running_stats()
        assert ours.num_batches_tracked.item() == 0 and (ours.running_var == 1).all()
