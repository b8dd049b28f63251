"""Eager updates run as one kernel for all parameters of a kind, with the bits of the single operations."""

import numpy as np
import pytest

import twofold as tw
from twofold.optim._group import ParamGroup

SHAPES = [(3,), (4, 5), (), (200, 100), (33,), (4, 5)]
CASES = {
    "SGD": {"lr": 0.1},
    "SGD, momentum": {"lr": 0.1, "momentum": 0.9, "weight_decay": 0.01, "nesterov": True},
    "SGD, dampening": {"lr": 0.1, "momentum": 0.9, "dampening": 0.5, "maximize": True},
    "Adam": {"lr": 0.01},
    "Adam, amsgrad": {"lr": 0.01, "amsgrad": True, "weight_decay": 0.1, "maximize": True},
    "AdamW": {"lr": 0.01, "weight_decay": 0.1},
    "Adamax": {},
    "NAdam": {},
    "RAdam": {},
    "Adagrad": {"lr": 0.1, "lr_decay": 0.1},
    "Adadelta": {},
    "RMSprop": {"momentum": 0.9, "centered": True},
}
NOT_ONE_KERNEL = {"RAdam"}


def run(name, steps=4, shapes=SHAPES, dtype=np.float32):
    """Parameters and state after some steps, and the kernels that were made."""
    rng = np.random.default_rng(0)
    params = [tw.nn.Parameter(tw.from_numpy(np.array(rng.standard_normal(s), dtype))) for s in shapes]
    optimizer = getattr(tw.optim, name.split(",")[0])(params, **CASES[name])
    for step in range(steps):
        for i, p in enumerate(params):
            p.grad = None if (step, i) == (1, 1) else tw.from_numpy(np.array(rng.standard_normal(p.shape), dtype))
        if step == 2:
            optimizer.param_groups[0]["lr"] *= 0.5
        optimizer.step()
    state = [b for p in params for b in optimizer.state[p].values()]
    kernels = [k for group in optimizer.param_groups for k in group._kernels.values()]
    return [t.detach().numpy() for t in (*params, *state)], kernels


@pytest.mark.parametrize("dtype", [np.float32, np.float64])
@pytest.mark.parametrize("name", CASES)
def test_a_kernel_gives_the_bits_of_single_operations(name, dtype, monkeypatch):
    got, kernels = run(name, dtype=dtype)
    if name not in NOT_ONE_KERNEL:
        assert kernels and None not in kernels
    monkeypatch.setattr(ParamGroup, "kernel", lambda self, kind, make: None)
    want, none = run(name, dtype=dtype)
    assert not none
    for a, b in zip(got, want, strict=True):
        np.testing.assert_array_equal(a, b)


@pytest.mark.parametrize("threads", [1, 2, 3])
def test_large_parameters_on_several_threads(threads):
    before = tw.get_num_threads()
    tw.set_num_threads(threads)
    try:
        got, _ = run("Adam", shapes=[(333, 1000)])
    finally:
        tw.set_num_threads(before)
    want, _ = run("Adam", shapes=[(333, 1000)])
    for a, b in zip(got, want, strict=True):
        np.testing.assert_array_equal(a, b)


def test_other_options_are_another_kernel():
    p = tw.nn.Parameter(tw.ones(3))
    optimizer = tw.optim.SGD([p], lr=0.5)
    for decay, want in ((0, 0.5), (1.0, -0.25), (0, -0.75)):
        optimizer.param_groups[0]["weight_decay"] = decay
        p.grad = tw.ones(3)
        optimizer.step()
        assert p.tolist() == [want] * 3
    assert len(optimizer.param_groups[0]._kernels) == 2


def test_a_saved_tensor_notices_the_update():
    p = tw.nn.Parameter(tw.ones(3))
    loss = (p * p).sum()
    p.grad = tw.ones(3)
    tw.optim.SGD([p], lr=0.5).step()
    with pytest.raises(tw.errors.AutogradError, match="changed in"):
        loss.backward()


def test_parameters_whose_elements_lie_apart():
    whole = tw.zeros(4, 6)
    p = tw.nn.Parameter(whole.t())
    p.grad = tw.ones(6, 4)
    optimizer = tw.optim.SGD([p], lr=0.5)
    optimizer.step()
    assert (p == -0.5).all()
