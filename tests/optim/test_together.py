"""Small parameters are updated together where there are no kernels: the same bits as one at a time."""

import numpy as np
import pytest

import twofold as tw
from twofold.ir import config
from twofold.optim import _together

OPTIMIZERS = {
    "SGD": {"lr": 0.1, "momentum": 0.9, "weight_decay": 0.01},
    "SGD nesterov": {"lr": 0.1, "momentum": 0.9, "nesterov": True},
    "SGD dampened": {"lr": 0.1, "momentum": 0.9, "dampening": 0.5},
    "Adam": {"amsgrad": True, "weight_decay": 0.01},
    "AdamW": {"maximize": True},
    "Adagrad": {"lr_decay": 0.1},
    "Adadelta": {},
    "Adamax": {},
    "NAdam": {},
    "RAdam": {"weight_decay": 0.01},
    "RMSprop": {"centered": True, "momentum": 0.9},
}
SHAPES = [(3,), (2, 3), (1,), (4, 1, 2), (0,), (5,)]


@pytest.fixture(autouse=True)
def without_kernels():
    with config.EAGER_KERNELS.set(False):
        yield


def parameters(dtype):
    rng = np.random.default_rng(0)
    return [tw.nn.Parameter(tw.tensor(rng.standard_normal(s), dtype=dtype)) for s in SHAPES]


def gradients(step, dtype):
    """Every third parameter misses a step, so that their counters differ."""
    rng = np.random.default_rng(step)
    drawn = [tw.tensor(rng.standard_normal(s), dtype=dtype) for s in SHAPES]
    return [None if step and (i + step) % 3 == 0 else g for i, g in enumerate(drawn)]


def states(optimizer, params):
    return [{k: v.numpy().tobytes() for k, v in optimizer.state[p].items()} for p in params]


@pytest.mark.parametrize("name", OPTIMIZERS)
@pytest.mark.parametrize("dtype", [tw.float32, tw.float64, tw.bfloat16])
def test_same_bits_as_alone(name, dtype, monkeypatch):
    make = getattr(tw.optim, name.split()[0])
    batched, alone = parameters(dtype), parameters(dtype)
    together = make(batched, **OPTIMIZERS[name])
    single = [make([p], **OPTIMIZERS[name]) for p in alone]
    sizes = []
    update = _together.update_together
    monkeypatch.setattr(
        "twofold.optim.optimizer.update_together", lambda items, u: (sizes.append(len(items)), update(items, u))
    )
    for step in range(7):
        for params in (batched, alone):
            for p, g in zip(params, gradients(step, dtype), strict=True):
                p.grad = g
        together.step()
        for optimizer in single:
            optimizer.step()
    assert (max(sizes, default=0) >= 2) is (dtype is not tw.bfloat16)
    for p, q in zip(batched, alone, strict=True):
        assert p.detach().numpy(force=True).tobytes() == q.detach().numpy(force=True).tobytes()
    assert states(together, batched) == [states(o, [p])[0] for o, p in zip(single, alone, strict=True)]


def test_writes_are_counted():
    w, v = (tw.nn.Parameter(tw.ones(2)) for _ in range(2))
    optimizer = tw.optim.SGD([w, v], lr=0.1)
    product = (w * v).sum()
    w.grad, v.grad = tw.ones(2), tw.ones(2)
    optimizer.step()
    with pytest.raises(tw.AutogradError, match="changed in place"):
        product.backward()


def test_an_update_of_a_subclass_is_called_for_each_parameter():
    class Scaled(tw.optim.SGD):
        def _update(self, p, grad, *rest):
            super()._update(p, grad / (grad * grad).sum().sqrt(), *rest)

    w, v = tw.nn.Parameter(tw.zeros(2)), tw.nn.Parameter(tw.zeros(1))
    optimizer = Scaled([w, v], lr=1.0)
    w.grad, v.grad = tw.tensor([3.0, 4.0]), tw.tensor([2.0])
    optimizer.step()
    assert w.tolist() == pytest.approx([-0.6, -0.8]) and v.tolist() == [-1.0]


def test_momentum_that_begins_later():
    params = [tw.nn.Parameter(tw.zeros(2)) for _ in range(3)]
    optimizer = tw.optim.SGD(params, lr=1.0)
    for momentum, expected in ((0, -1.0), (0.5, -2.0), (0.5, -3.5)):
        optimizer.param_groups[0]["momentum"] = momentum
        for p in params:
            p.grad = tw.ones(2)
        optimizer.step()
        assert [p.tolist() for p in params] == [[expected] * 2] * 3
    assert all(optimizer.state[p]["momentum_buffer"].tolist() == [1.5, 1.5] for p in params)


def test_large_views_and_scalars_go_alone():
    large, scalar = tw.nn.Parameter(tw.ones(_together.SMALL + 1)), tw.nn.Parameter(tw.ones(()))
    params = [large, scalar, tw.nn.Parameter(tw.ones(1))]
    optimizer = tw.optim.Adam(params, lr=0.5)
    for p in params:
        p.grad = tw.ones_like(p)
    optimizer.step()
    assert [p.detach().reshape(-1)[0].item() for p in params] == pytest.approx([0.5] * 3)
