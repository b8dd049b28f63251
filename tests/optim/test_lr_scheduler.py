"""Schedules equal PyTorch's over 60 steps."""

import math
import warnings

import numpy as np
import pytest
import torch
from optim_harness import difference, torch_params, train, tw_params

import twofold as tw
from twofold.ir.errors import TwofoldWarning

SCHEDULES = [
    ("StepLR", {"step_size": 7, "gamma": 0.5}),
    ("MultiStepLR", {"milestones": [3, 20, 20, 41], "gamma": 0.3}),
    ("ConstantLR", {"factor": 0.25, "total_iters": 9}),
    ("LinearLR", {"start_factor": 0.1, "end_factor": 0.7, "total_iters": 25}),
    ("ExponentialLR", {"gamma": 0.93}),
    ("PolynomialLR", {"total_iters": 40, "power": 1.7}),
    ("CosineAnnealingLR", {"T_max": 17, "eta_min": 0.001}),
    ("CosineAnnealingLR", {"T_max": 100}),
    ("CosineAnnealingWarmRestarts", {"T_0": 5, "T_mult": 2, "eta_min": 0.002}),
    ("CosineAnnealingWarmRestarts", {"T_0": 8}),
    ("OneCycleLR", {"max_lr": 0.4, "total_steps": 60}),
    ("OneCycleLR", {"max_lr": [0.4, 0.2], "epochs": 6, "steps_per_epoch": 10, "anneal_strategy": "linear"}),
    ("OneCycleLR", {"max_lr": 0.4, "total_steps": 60, "three_phase": True, "pct_start": 0.4}),
    ("OneCycleLR", {"max_lr": 0.4, "total_steps": 60, "base_momentum": [0.7, 0.6], "max_momentum": 0.9}),
    ("CyclicLR", {"base_lr": 0.01, "max_lr": 0.1, "step_size_up": 7, "step_size_down": 3}),
    ("CyclicLR", {"base_lr": [0.01, 0.02], "max_lr": 0.1, "step_size_up": 5, "mode": "triangular2"}),
    ("CyclicLR", {"base_lr": 0.01, "max_lr": 0.1, "step_size_up": 6, "mode": "exp_range", "gamma": 0.97}),
    ("CyclicLR", {"base_lr": 0.01, "max_lr": 0.1, "step_size_up": 6, "scale_fn": lambda x: 1 / x}),
    ("CyclicLR", {"base_lr": 0.01, "max_lr": 0.1, "step_size_up": 6, "cycle_momentum": False}),
    ("LambdaLR", {"lr_lambda": lambda n: 1 / (1 + n)}),
    ("LambdaLR", {"lr_lambda": [lambda n: 0.9**n, lambda n: 0.8**n]}),
    ("MultiplicativeLR", {"lr_lambda": lambda n: 1 - 1 / (2 + n)}),
]


def optimizers(name="SGD", **options):
    options = {"lr": 0.1} | ({"momentum": 0.9} if name == "SGD" else {}) | options
    made = []
    for lib, params in ((tw, tw_params()), (torch, torch_params())):
        made.append(
            getattr(lib.optim, name)([{"params": params[:2]}, {"params": params[2:], "lr": 0.03}], **options)
        )
    return made


def options_of(optimizer):
    """Everything that a schedule may change."""
    out = []
    for g in optimizer.param_groups:
        out += [g["lr"], g.get("momentum", 0.0), *g.get("betas", ())]
    return out


def follow(ours, theirs, scheduler, reference, steps=60):
    for step in range(steps):
        np.testing.assert_allclose(options_of(ours), options_of(theirs), rtol=1e-12, atol=1e-15, err_msg=str(step))
        np.testing.assert_allclose(scheduler.get_last_lr(), reference.get_last_lr(), rtol=1e-12, atol=1e-15)
        ours.step()
        theirs.step()
        scheduler.step()
        reference.step()


@pytest.mark.parametrize("name", ["SGD", "Adam"])
@pytest.mark.parametrize(("schedule", "options"), SCHEDULES, ids=lambda v: v if isinstance(v, str) else "")
def test_sixty_steps_equal_pytorch(schedule, options, name):
    ours, theirs = optimizers(name)
    scheduler = getattr(tw.optim.lr_scheduler, schedule)(ours, **options)
    reference = getattr(torch.optim.lr_scheduler, schedule)(theirs, **options)
    follow(ours, theirs, scheduler, reference, 60 if schedule != "OneCycleLR" else 59)


def warmup_then_cosine(lib, optimizer):
    s = lib.optim.lr_scheduler
    warm = s.LinearLR(optimizer, start_factor=0.2, total_iters=6)
    down = s.CosineAnnealingLR(optimizer, T_max=30, eta_min=0.001)
    tail = s.ExponentialLR(optimizer, 0.9)
    return s.SequentialLR(optimizer, [warm, down, tail], [6, 36])


def nested(lib, optimizer):
    s = lib.optim.lr_scheduler
    inner = s.SequentialLR(optimizer, [s.ConstantLR(optimizer, 0.5, 4), s.ExponentialLR(optimizer, 0.95)], [4])
    return s.SequentialLR(optimizer, [inner, s.StepLR(optimizer, 3, 0.5)], [20])


def flat(lib, optimizer):
    s = lib.optim.lr_scheduler
    parts = [s.ConstantLR(optimizer, 0.5, 4), s.ExponentialLR(optimizer, 0.95), s.StepLR(optimizer, 3, 0.5)]
    return s.SequentialLR(optimizer, parts, [4, 20])


def chained(lib, optimizer):
    s = lib.optim.lr_scheduler
    return s.ChainedScheduler([s.ConstantLR(optimizer, 0.1, 5), s.ExponentialLR(optimizer, 0.9)], optimizer)


@pytest.mark.parametrize("make", [warmup_then_cosine, flat, chained])
def test_combined_schedules_equal_pytorch(make):
    ours, theirs = optimizers()
    follow(ours, theirs, make(tw, ours), make(torch, theirs))


def test_nested_sequences_equal_flat_ones():
    """PyTorch's inner sequence is one epoch ahead, since its first step isn't taken back."""
    (a, _), (b, _) = optimizers(), optimizers()
    follow(a, b, nested(tw, a), flat(tw, b))


@pytest.mark.parametrize(
    "options",
    [
        {"patience": 2, "factor": 0.5},
        {"mode": "max", "patience": 1, "threshold": 0.01, "threshold_mode": "abs", "cooldown": 3},
        {"patience": 0, "min_lr": [0.01, 0.02], "threshold_mode": "rel", "threshold": 0.1},
        {"mode": "max", "threshold": 0.2, "patience": 3, "eps": 1e-3},
    ],
)
def test_plateau_equals_pytorch(options):
    ours, theirs = optimizers()
    scheduler = tw.optim.lr_scheduler.ReduceLROnPlateau(ours, **options)
    reference = torch.optim.lr_scheduler.ReduceLROnPlateau(theirs, **options)
    rng = np.random.default_rng(0)
    for step in range(60):
        measure = math.cos(step / 9) + rng.standard_normal() * 0.1 if step != 30 else float("nan")
        scheduler.step(tw.tensor(measure, dtype=tw.float64) if step % 2 else measure)
        reference.step(measure)
        assert options_of(ours) == options_of(theirs)
        assert (scheduler.num_bad_epochs, scheduler.cooldown_counter) == (
            reference.num_bad_epochs,
            reference.cooldown_counter,
        )
        assert scheduler.best == reference.best


@pytest.mark.parametrize(("schedule", "options"), SCHEDULES, ids=lambda v: v if isinstance(v, str) else "")
def test_state_dict_resumes(schedule, options):
    ours, _ = optimizers()
    scheduler = getattr(tw.optim.lr_scheduler, schedule)(ours, **options)
    for _ in range(13):
        ours.step()
        scheduler.step()
    other, _ = optimizers()
    resumed = getattr(tw.optim.lr_scheduler, schedule)(other, **options)
    other.load_state_dict(ours.state_dict())
    resumed.load_state_dict(scheduler.state_dict())
    assert "optimizer" not in scheduler.state_dict()
    follow(other, ours, resumed, scheduler, 30)


@pytest.mark.parametrize("make", [warmup_then_cosine, nested, chained])
def test_state_dict_of_combined_resumes(make):
    ours, _ = optimizers()
    scheduler = make(tw, ours)
    for _ in range(11):
        ours.step()
        scheduler.step()
    other, _ = optimizers()
    resumed = make(tw, other)
    other.load_state_dict(ours.state_dict())
    resumed.load_state_dict(scheduler.state_dict())
    follow(other, ours, resumed, scheduler, 30)


@pytest.mark.parametrize(("schedule", "options"), SCHEDULES[:9], ids=lambda v: v if isinstance(v, str) else "")
def test_last_epoch_resumes(schedule, options):
    ours, theirs = optimizers()
    made = []
    for lib, optimizer in ((tw, ours), (torch, theirs)):
        for group in optimizer.param_groups:
            group["initial_lr"] = group["lr"]
        made.append(getattr(lib.optim.lr_scheduler, schedule)(optimizer, last_epoch=6, **options))
    follow(ours, theirs, *made, 30)
    with pytest.raises(KeyError, match="initial_lr"):
        tw.optim.lr_scheduler.StepLR(optimizers()[0], 1, last_epoch=3)


def test_step_with_epoch_places_the_schedule():
    ours, theirs = optimizers()
    pairs = [
        ("CosineAnnealingWarmRestarts", {"T_0": 4, "T_mult": 2}, [0.5, 3.75, 4.0, 11.5, 12.25, 40.0]),
        ("StepLR", {"step_size": 3}, [7, 2, 30]),
        ("PolynomialLR", {"total_iters": 9}, [4, 12]),
    ]
    for name, options, epochs in pairs:
        a = getattr(tw.optim.lr_scheduler, name)(ours, **options)
        b = getattr(torch.optim.lr_scheduler, name)(theirs, **options)
        ours.step()
        theirs.step()
        for epoch in epochs:
            a.step(epoch)
            with warnings.catch_warnings():
                warnings.simplefilter("ignore")
                b.step(epoch)
            np.testing.assert_allclose(options_of(ours), options_of(theirs), rtol=1e-12)


def test_whole_training_with_a_schedule_equals_pytorch():
    ours, theirs = tw_params(), torch_params()
    a = tw.optim.Adam(ours, lr=0.01, weight_decay=0.01)
    b = torch.optim.Adam(theirs, lr=0.01, weight_decay=0.01)
    options = {"max_lr": 0.05, "total_steps": 100}
    train(tw, ours, a, 100, tw.optim.lr_scheduler.OneCycleLR(a, **options))
    train(torch, theirs, b, 100, torch.optim.lr_scheduler.OneCycleLR(b, **options))
    assert difference(ours, theirs) < 1e-11


def test_wrong_order_of_calls_is_reported():
    optimizer, _ = optimizers()
    scheduler = tw.optim.lr_scheduler.StepLR(optimizer, 5)
    with pytest.warns(TwofoldWarning, match=r"before optimizer.step\(\)(.|\n)*test_lr_scheduler.py"):
        scheduler.step()
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        optimizer.step()
        scheduler.step()
        tw.optim.lr_scheduler.StepLR(optimizer, 5).step()


@pytest.mark.parametrize(
    ("make", "error", "text"),
    [
        (lambda o, s: s.StepLR(3, 1), TypeError, "takes an optimizer, got int"),
        (lambda o, s: s.OneCycleLR(o, 0.1), ValueError, "total_steps"),
        (lambda o, s: s.OneCycleLR(o, [0.1], total_steps=3), ValueError, "each of the 2 parameter groups"),
        (lambda o, s: s.OneCycleLR(o, 0.1, total_steps=9, pct_start=2.0), ValueError, "pct_start"),
        (lambda o, s: s.CyclicLR(tw.optim.Adagrad([tw.zeros(1)]), 0.1, 0.2), ValueError, "cycle_momentum=False"),
        (lambda o, s: s.CyclicLR(o, 0.1, 0.2, mode="square"), ValueError, "triangular2"),
        (lambda o, s: s.ConstantLR(o, 2.0), ValueError, "factor"),
        (lambda o, s: s.LinearLR(o, 0.0), ValueError, "start_factor"),
        (lambda o, s: s.CosineAnnealingWarmRestarts(o, 0), ValueError, "T_0"),
        (lambda o, s: s.LambdaLR(o, [abs]), ValueError, "lr_lambda"),
        (lambda o, s: s.SequentialLR(o, [s.StepLR(o, 1)], [3]), ValueError, "0 milestones, got 1"),
        (lambda o, s: s.SequentialLR(o, [s.ReduceLROnPlateau(o)], []), ValueError, "measure"),
        (lambda o, s: s.ChainedScheduler([]), ValueError, "at least one"),
        (lambda o, s: s.ChainedScheduler([s.StepLR(o, 1)], optimizers()[0]), ValueError, "one optimizer"),
        (lambda o, s: s.ReduceLROnPlateau(o, factor=1.5), ValueError, "below 1"),
    ],
)
def test_wrong_arguments(make, error, text):
    with pytest.raises(error, match=text):
        make(optimizers()[0], tw.optim.lr_scheduler)


def test_one_cycle_ends():
    optimizer, _ = optimizers()
    scheduler = tw.optim.lr_scheduler.OneCycleLR(optimizer, 0.1, total_steps=3)
    for _ in range(3):
        optimizer.step()
        scheduler.step()
    with pytest.raises(ValueError, match="beyond the 3 steps"):
        scheduler.step()
