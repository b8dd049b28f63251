"""Large values that the backward pass reads are made a second time, and change no bit."""

from __future__ import annotations

import numpy as np
import pytest

import twofold as tw
from twofold import nn
from twofold.backends.cpu import again, remake
from twofold.compiler.compile import compile

from .test_conv import floats


@pytest.fixture
def small_values_too(monkeypatch):
    monkeypatch.setattr(again, "_LEAST_SIZE", 1)
    monkeypatch.setattr(remake, "_LEAST_BYTES", 1)
    monkeypatch.setattr(remake, "_WORTH_BYTES", 0)


class Residual(nn.Module):
    def __init__(self, channels):
        super().__init__()
        self.conv1 = nn.Conv2d(channels, channels, 3, padding=1, bias=False)
        self.bn1 = nn.BatchNorm2d(channels)
        self.conv2 = nn.Conv2d(channels, channels, 3, padding=1, bias=False)
        self.bn2 = nn.BatchNorm2d(channels)

    def forward(self, x):
        y = self.bn1(self.conv1(x)).relu()
        return (self.bn2(self.conv2(y)) + x).relu()


def training(depth=3, channels=5, also=lambda model, x: 0.0):
    """A compiled step, its program, and the state after three calls of it."""
    tw.manual_seed(0)
    model = nn.Sequential(
        nn.Conv2d(3, channels, 3, padding=1),
        nn.BatchNorm2d(channels),
        nn.ReLU(),
        *[Residual(channels) for _ in range(depth)],
    )
    opt = tw.optim.SGD(model.parameters(), lr=0.05, momentum=0.9)

    @compile
    def step(x):
        opt.zero_grad()
        loss = model(x).square().mean() + also(model, x)
        loss.backward()
        opt.step()
        return loss

    x = tw.from_numpy(floats(np.random.default_rng(0), 2, 3, 6, 7))
    losses = [step(x).item() for _ in range(3)]
    (((_, made),),) = step.specializations.values()
    return made.program, losses, {name: t.numpy() for name, t in model.state_dict().items()}


def seconds(program):
    """Values that are stored twice: by how many steps more."""
    values = [step.nodes[-1].outputs[0] for step in program.steps if step.kind == "rows"]
    return len(values) - len(set(values))


def test_less_memory_and_the_same_bits(monkeypatch, small_values_too):
    program, losses, state = training()
    assert seconds(program) >= 3
    monkeypatch.setattr(remake, "_WORTH_BYTES", 1 << 60)
    stored, expected_losses, expected = training()
    assert seconds(stored) == 0
    assert program.arena_bytes < stored.arena_bytes
    assert losses == expected_losses
    for name, array in expected.items():
        np.testing.assert_array_equal(state[name], array, err_msg=name)


def test_small_programs_keep_their_values():
    program, _, _ = training()
    assert seconds(program) == 0


def test_masks_are_not_stored(monkeypatch, small_values_too):
    monkeypatch.setattr(remake, "_WORTH_BYTES", 1 << 60)
    program, losses, state = training()
    assert not [b for b in program.buffers if b.dtype is tw.bool and b.kind == "temp" and b.size > 5]
    monkeypatch.setattr(again, "_COMPARISONS", frozenset())
    stored, expected_losses, expected = training()
    assert [b for b in stored.buffers if b.dtype is tw.bool and b.kind == "temp" and b.size > 5]
    assert losses == expected_losses
    for name, array in expected.items():
        np.testing.assert_array_equal(state[name], array, err_msg=name)


def test_parameters_that_a_second_time_reads_are_written_after_it(small_values_too):
    """Batch norm's weights are updated in place, and the update may come early."""
    _, losses, state = training(depth=1)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(remake, "_WORTH_BYTES", 1 << 60)
        _, expected_losses, expected = training(depth=1)
    assert losses == expected_losses
    for name, array in expected.items():
        np.testing.assert_array_equal(state[name], array, err_msg=name)


def test_values_that_the_reference_reads_stay(monkeypatch, small_values_too):
    """A step of NumPy finds what it reads when it runs, so it would find the second one too early."""

    def also(model, x):
        y = model[:3](x)
        return y.sort(1)[0].cumsum(2).mean() + y.amax((2, 3)).mean()

    _, losses, state = training(also=also)
    monkeypatch.setattr(remake, "_WORTH_BYTES", 1 << 60)
    _, expected_losses, expected = training(also=also)
    assert losses == expected_losses
    for name, array in expected.items():
        np.testing.assert_array_equal(state[name], array, err_msg=name)
