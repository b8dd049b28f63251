"""Every optimizer trains as PyTorch's does."""

import numpy as np
import pytest
import torch
from optim_harness import difference, groups, torch_params, train, tw_params

import twofold as tw
from twofold.autodiff.handle import Settings

CASES = [
    ("SGD", {"lr": 0.05}),
    ("SGD", {"lr": 0.05, "momentum": 0.9}),
    ("SGD", {"lr": 0.05, "momentum": 0.9, "nesterov": True, "weight_decay": 0.01}),
    ("SGD", {"lr": 0.05, "momentum": 0.8, "dampening": 0.3, "weight_decay": 0.1}),
    ("SGD", {"lr": 0.001, "momentum": 0.5, "maximize": True}),
    ("Adam", {"lr": 0.01}),
    ("Adam", {"lr": 0.01, "betas": (0.8, 0.95), "weight_decay": 0.05, "eps": 1e-6}),
    ("Adam", {"lr": 0.01, "amsgrad": True}),
    ("Adam", {"lr": 0.001, "maximize": True}),
    ("Adam", {"lr": 0.001, "betas": (0.0, 0.9)}),
    ("Adam", {"lr": 0.01, "weight_decay": 0.1, "decoupled_weight_decay": True}),
    ("AdamW", {"lr": 0.01}),
    ("AdamW", {"lr": 0.01, "weight_decay": 0.2, "amsgrad": True}),
    ("RMSprop", {"lr": 0.01}),
    ("RMSprop", {"lr": 0.01, "momentum": 0.9, "weight_decay": 0.02}),
    ("RMSprop", {"lr": 0.01, "centered": True, "alpha": 0.9, "maximize": False}),
    ("RMSprop", {"lr": 0.005, "centered": True, "momentum": 0.5}),
    ("Adagrad", {"lr": 0.05}),
    ("Adagrad", {"lr": 0.05, "lr_decay": 0.1, "weight_decay": 0.01, "initial_accumulator_value": 0.1}),
    ("Adadelta", {}),
    ("Adadelta", {"lr": 0.5, "rho": 0.8, "weight_decay": 0.01}),
    ("Adamax", {"lr": 0.01}),
    ("Adamax", {"lr": 0.01, "betas": (0.7, 0.9), "weight_decay": 0.01}),
    ("NAdam", {"lr": 0.01}),
    ("NAdam", {"lr": 0.01, "weight_decay": 0.1, "momentum_decay": 0.01, "decoupled_weight_decay": True}),
    ("NAdam", {"lr": 0.01, "weight_decay": 0.1}),
    ("RAdam", {"lr": 0.01}),
    ("RAdam", {"lr": 0.01, "betas": (0.8, 0.9), "weight_decay": 0.1, "decoupled_weight_decay": True}),
    ("RAdam", {"lr": 0.01, "weight_decay": 0.05}),
]
NAMES = sorted({name for name, _ in CASES})


def tolerance(name, options):
    """PyTorch keeps NAdam's product of momenta in float32. A variance that is a difference, and a
    gradient divided by its own size, enlarge the last bit."""
    if name == "NAdam" or options.get("centered") or options.get("betas", (1,))[0] == 0:
        return 1e-8
    return 1e-11


def pair(name, options, second=None, dtype="float64"):
    ours, theirs = tw_params(getattr(tw, dtype)), torch_params(getattr(torch, dtype))
    split = (lambda p: p) if second is None else lambda p: groups(p, second)
    return (
        ours,
        getattr(tw.optim, name)(split(ours), **options),
        theirs,
        getattr(torch.optim, name)(split(theirs), **options),
    )


@pytest.mark.parametrize(("name", "options"), CASES, ids=lambda v: str(v))
def test_hundred_steps_equal_pytorch(name, options):
    ours, optimizer, theirs, reference = pair(name, options)
    losses = train(tw, ours, optimizer, 100)
    expected = train(torch, theirs, reference, 100)
    assert difference(ours, theirs) < tolerance(name, options)
    np.testing.assert_allclose(losses, expected, rtol=100 * tolerance(name, options))
    if not options.get("maximize"):
        assert losses[-1] < losses[0]


@pytest.mark.parametrize("name", NAMES)
def test_groups_have_their_own_options(name):
    second = {"lr": 0.003, "weight_decay": 0.07}
    ours, optimizer, theirs, reference = pair(name, {"lr": 0.02}, second)
    train(tw, ours, optimizer, 20)
    train(torch, theirs, reference, 20)
    assert difference(ours, theirs) < tolerance(name, {}) / 10


@pytest.mark.parametrize("name", NAMES)
def test_float32_stays_near_float64(name):
    """The bias corrections lose nothing in float32; see the note on their computation."""
    ours, optimizer, theirs, reference = pair(name, {"lr": 0.01}, dtype="float32")
    train(tw, ours, optimizer, 10)
    train(torch, theirs, reference, 10)
    assert all(p.dtype is tw.float32 for p in ours)
    assert difference(ours, theirs) < 2e-5


@pytest.mark.parametrize("dtype", ["float16", "bfloat16"])
@pytest.mark.parametrize("name", NAMES)
def test_16_bit_parameters_are_updated_in_float32(name, dtype):
    """One step of 1e-8-sized eps and 1e-3-sized rates must not under- or overflow."""
    w = tw.tensor([1.0, -2.0, 3.0], dtype=getattr(tw, dtype), requires_grad=True)
    optimizer = getattr(tw.optim, name)([w], lr=0.1)
    (w * w).sum().backward()
    optimizer.step()
    v = tw.tensor([1.0, -2.0, 3.0], requires_grad=True)
    reference = getattr(tw.optim, name)([v], lr=0.1)
    (v * v).sum().backward()
    reference.step()
    assert w.dtype is getattr(tw, dtype)
    want = v.detach().to(w.dtype).to(tw.float32).numpy()
    np.testing.assert_array_equal(w.detach().to(tw.float32).numpy(), want)


@pytest.mark.parametrize("name", NAMES)
def test_state_layout_and_values_are_pytorchs(name):
    options = {"SGD": {"lr": 0.01, "momentum": 0.9}, "RMSprop": {"lr": 0.01, "momentum": 0.9, "centered": True}}
    ours, optimizer, theirs, reference = pair(name, options.get(name, {"lr": 0.01}), {"lr": 0.02})
    train(tw, ours, optimizer, 7)
    train(torch, theirs, reference, 7)
    got, want = optimizer.state_dict(), reference.state_dict()
    assert got["state"].keys() == want["state"].keys()
    for number, state in want["state"].items():
        assert got["state"][number].keys() == state.keys()
        for key, value in state.items():
            rtol = 1e-6 if name == "NAdam" else 1e-9
            np.testing.assert_allclose(got["state"][number][key].numpy(), value.numpy(), rtol, atol=1e-13)
            assert got["state"][number][key].shape == tuple(value.shape)
    assert [g["params"] for g in got["param_groups"]] == [g["params"] for g in want["param_groups"]]
    for g, w in zip(got["param_groups"], want["param_groups"], strict=True):
        assert {k: w[k] for k in g} == g


@pytest.mark.parametrize("name", NAMES)
def test_state_dict_resumes_exactly(name):
    options = {"lr": 0.01} | ({"momentum": 0.9, "dampening": 0.2} if name == "SGD" else {})
    ours, optimizer, _, _ = pair(name, options, {"lr": 0.03})
    train(tw, ours, optimizer, 6)
    saved = {
        "state": {k: {n: t.clone() for n, t in s.items()} for k, s in optimizer.state_dict()["state"].items()},
        "param_groups": optimizer.state_dict()["param_groups"],
    }
    copies = [tw.tensor(p.detach().numpy().copy(), requires_grad=True) for p in ours]
    fresh = getattr(tw.optim, name)(groups(copies, {"lr": 9.0}), **(options | {"lr": 5.0}))
    fresh.load_state_dict(saved)
    train(tw, ours, optimizer, 5)
    train(tw, copies, fresh, 5)
    for a, b in zip(ours, copies, strict=True):
        np.testing.assert_array_equal(a.detach().numpy(), b.detach().numpy())
    for s in saved["state"].values():  # loading copied
        for state in fresh.state.values():
            assert not any(t is u for t in s.values() for u in state.values())


@pytest.mark.parametrize("name", NAMES)
def test_state_of_pytorch_can_be_loaded(name):
    options = {"SGD": {"lr": 0.01, "momentum": 0.9, "dampening": 0.1}}.get(name, {"lr": 0.01})
    ours, optimizer, theirs, reference = pair(name, options)
    train(torch, theirs, reference, 4)
    state = reference.state_dict()
    numbers = {
        k: {n: tw.tensor(t.numpy()) for n, t in s.items() if t is not None} for k, s in state["state"].items()
    }
    optimizer.load_state_dict({"state": numbers, "param_groups": state["param_groups"]})
    with tw.no_grad():
        for p, q in zip(ours, theirs, strict=True):
            p.copy_(tw.tensor(q.detach().numpy()))
    train(tw, ours, optimizer, 5)
    train(torch, theirs, reference, 5)
    assert difference(ours, theirs) < tolerance(name, {}) / 10


@pytest.mark.parametrize("name", NAMES)
def test_loading_overwrites_buffers_in_place(name):
    ours, optimizer, _, _ = pair(name, {"lr": 0.01} | ({"momentum": 0.9} if name == "SGD" else {}))
    train(tw, ours, optimizer, 2)
    before = dict(optimizer.state[ours[0]])
    saved = optimizer.state_dict()
    saved = {**saved, "state": {k: {n: t.clone() for n, t in s.items()} for k, s in saved["state"].items()}}
    train(tw, ours, optimizer, 2)
    optimizer.load_state_dict(saved)
    for n, t in optimizer.state[ours[0]].items():
        assert t is before[n]
        np.testing.assert_array_equal(t.numpy(), saved["state"][0][n].numpy())


def test_parameters_without_gradient_stay():
    a, b = tw.ones(2, requires_grad=True), tw.ones(2, requires_grad=True)
    optimizer = tw.optim.Adam([a, b], lr=0.1)
    (a * 2).sum().backward()
    optimizer.step()
    assert b.tolist() == [1.0, 1.0]
    assert a.tolist() != [1.0, 1.0]
    assert list(optimizer.state_dict()["state"]) == [0]


@pytest.mark.parametrize("name", NAMES)
def test_a_changed_lr_takes_effect(name):
    ours, optimizer, theirs, reference = pair(name, {"lr": 0.01})

    def change(o):
        def at(step):
            o.param_groups[0]["lr"] = 0.01 / (1 + step)

        return at

    train(tw, ours, optimizer, 10, per_step=change(optimizer))
    train(torch, theirs, reference, 10, per_step=change(reference))
    assert difference(ours, theirs) < tolerance(name, {}) / 10


def test_lr_may_be_a_tensor():
    lr = tw.tensor(0.5)
    w = tw.tensor([1.0], requires_grad=True)
    optimizer = tw.optim.SGD([w], lr=lr)
    (w * w).sum().backward()
    optimizer.step()
    assert w.item() == 0.0
    scheduler = tw.optim.lr_scheduler.ExponentialLR(optimizer, 0.5)
    scheduler.step()
    assert lr.item() == 0.25
    assert scheduler.get_last_lr() == [0.25]


def test_twins_follow_the_group():
    optimizer = tw.optim.Adam([tw.zeros(1, requires_grad=True)], lr=0.1)
    group = optimizer.param_groups[0]
    twin = group.twin("lr", tw.float64)
    assert twin.item() == 0.1
    group["lr"] = 0.2
    assert twin.item() == 0.2
    assert group.twin("lr", tw.float64) is twin
    group.update(lr=0.3)
    assert twin.item() == 0.3
    group |= {"lr": 0.4}
    assert twin.item() == 0.4


def test_settings_change_only_with_the_structure():
    a = tw.zeros(1, requires_grad=True)
    optimizer = tw.optim.SGD([a], lr=0.1, momentum=0.9)
    before = optimizer._settings()
    count = Settings.changes
    optimizer.param_groups[0]["lr"] = 0.3
    optimizer.param_groups[0]["momentum"] = 0.8
    assert (optimizer._settings(), Settings.changes) == (before, count)
    for name, value in (("momentum", 0), ("nesterov", True), ("maximize", True)):
        optimizer.param_groups[0][name] = value
        assert Settings.changes > count and optimizer._settings() != before
        before, count = optimizer._settings(), Settings.changes
    optimizer.add_param_group({"params": tw.zeros(1)})
    assert Settings.changes > count and optimizer._settings() != before


def test_closure_and_its_result():
    w = tw.tensor([3.0], requires_grad=True)
    optimizer = tw.optim.SGD([w], lr=0.1)
    calls = []

    def closure():
        optimizer.zero_grad()
        loss = (w * w).sum()
        loss.backward()
        calls.append(1)
        return loss

    assert optimizer.step(closure).item() == 9.0
    assert calls == [1]
    np.testing.assert_allclose(w.tolist(), [2.4], rtol=1e-6)


def test_step_records_nothing():
    w = tw.tensor([3.0], requires_grad=True)
    optimizer = tw.optim.Adam([w])
    (w * w).sum().backward()
    optimizer.step()
    assert w.is_leaf and w.requires_grad
    assert not any(t.requires_grad for t in optimizer.state[w].values())


def test_zero_grad_forms():
    w = tw.tensor([3.0], requires_grad=True)
    optimizer = tw.optim.SGD([w])
    (w * w).sum().backward()
    grad = w.grad
    optimizer.zero_grad(set_to_none=False)
    assert w.grad is grad and grad.tolist() == [0.0]
    optimizer.zero_grad()
    assert w.grad is None


def test_hooks():
    w = tw.tensor([3.0], requires_grad=True)
    optimizer = tw.optim.SGD([w], lr=0.1)
    seen = []
    before = optimizer.register_step_pre_hook(lambda o, args, kwargs: seen.append(("before", w.item())))
    optimizer.register_step_post_hook(lambda o, args, kwargs: seen.append(("after", round(w.item(), 4))))
    (w * w).sum().backward()
    optimizer.step()
    before.remove()
    optimizer.step()
    assert seen == [("before", 3.0), ("after", 2.4), ("after", 1.8)]
    optimizer.register_state_dict_post_hook(lambda o, state: state | {"mine": 1})
    assert optimizer.state_dict()["mine"] == 1


def test_own_optimizer_by_step():
    class Sign(tw.optim.Optimizer):
        def __init__(self, params, lr):
            super().__init__(params, {"lr": lr})

        def step(self, closure=None):
            for group in self.param_groups:
                for p in group["params"]:
                    p -= group["lr"] * p.grad.sign()

    w = tw.tensor([3.0, -1.0], requires_grad=True)
    optimizer = Sign([w], lr=0.5)
    calls = []
    optimizer.register_step_post_hook(lambda *a: calls.append(1))
    (w * w).sum().backward()
    optimizer.step()
    assert w.tolist() == [2.5, -0.5]
    assert calls == [1]


def test_named_parameters_are_accepted():
    a, b = tw.zeros(1, requires_grad=True), tw.zeros(2, requires_grad=True)
    optimizer = tw.optim.SGD([("a", a), ("b", b)], lr=0.1)
    assert optimizer.param_groups[0]["params"] == [a, b] or optimizer.param_groups[0]["params"][1] is b
    assert optimizer.state_dict()["param_groups"][0]["param_names"] == ["a", "b"]


def test_add_param_group_trains_later_layers():
    a, b = tw.ones(1, requires_grad=True), tw.ones(1, requires_grad=True)
    optimizer = tw.optim.SGD([a], lr=0.1, momentum=0.9)
    optimizer.add_param_group({"params": b, "lr": 1.0})
    assert optimizer.param_groups[1]["momentum"] == 0.9
    (a + b).sum().backward()
    optimizer.step()
    np.testing.assert_allclose([a.item(), b.item()], [0.9, 0.0], atol=1e-7)


def make(**options):
    return lambda: tw.optim.SGD([tw.zeros(1, requires_grad=True)], **options)


def shared():
    w = tw.zeros(1, requires_grad=True)
    return tw.optim.SGD([{"params": [w]}, {"params": [w]}])


@pytest.mark.parametrize(
    ("make", "error", "text"),
    [
        (make(lr=-1), ValueError, "lr must be at least 0"),
        (make(momentum=-1), ValueError, "momentum"),
        (make(nesterov=True), ValueError, "Nesterov"),
        (make(what=1), TypeError, "unexpected keyword argument 'what'"),
        (make(differentiable=True), tw.ir.errors.TwofoldError, "differentiable"),
        (lambda: tw.optim.SGD([]), ValueError, "empty"),
        (lambda: tw.optim.SGD(tw.zeros(1)), TypeError, "one tensor"),
        (lambda: tw.optim.SGD([1.0]), TypeError, "takes tensors, got float"),
        (lambda: tw.optim.SGD([tw.zeros(1, requires_grad=True) * 2]), tw.ir.errors.TwofoldError, "computed"),
        (lambda: tw.optim.SGD([{"params": {1, 2}}]), TypeError, "fixed order"),
        (shared, ValueError, "twice"),
        (lambda: tw.optim.Adam([tw.zeros(1)], betas=(0.9, 1.0)), ValueError, "betas"),
        (lambda: tw.optim.Adam([tw.zeros(1)], eps=-1.0), ValueError, "eps"),
    ],
)
def test_wrong_arguments(make, error, text):
    with pytest.raises(error, match=text):
        make()


def test_switches_of_pytorch_are_accepted():
    for switch in ("foreach", "fused"):
        make(**{switch: True})()
    tw.optim.RMSprop([tw.zeros(1)], capturable=True)


def test_loading_refuses_other_groups():
    a, b = tw.zeros(1, requires_grad=True), tw.zeros(1, requires_grad=True)
    one, two = tw.optim.SGD([a]), tw.optim.SGD([a, b])
    with pytest.raises(ValueError, match=r"groups of \[1\] parameters, the optimizer of \[2\]"):
        two.load_state_dict(one.state_dict())


def test_repr_shows_the_options():
    text = repr(tw.optim.SGD([tw.zeros(1)], lr=0.5))
    assert text.startswith("SGD (") and "lr: 0.5" in text and "params" not in text
