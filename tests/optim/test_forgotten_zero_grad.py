"""A loop that never zeroes its gradients is told so, once; other loops are not."""

import warnings
from pathlib import Path

import pytest

import twofold as tw
from twofold.ir.errors import TwofoldWarning


class Setup:
    def __init__(self, optimizer=None):
        self.w = tw.tensor([1.0, 2.0], requires_grad=True)
        self.optimizer = optimizer or tw.optim.SGD([self.w], lr=1e-3)

    def backward(self):
        (self.w * self.w).sum().backward()


def line_of(text):
    lines = Path(__file__).read_text().splitlines()
    (number,) = (i for i, line in enumerate(lines, 1) if line.strip() == text)
    return number


def test_forgotten_is_reported_once_with_the_line_and_the_mend():
    s = Setup()
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        for _ in range(10):
            s.backward()
            s.optimizer.step()  # the place
    (warning,) = caught
    assert warning.category is TwofoldWarning
    text = str(warning.message)
    number = line_of("s.optimizer.step()  # the place")
    assert f"{Path(__file__).name}:{number}" in text
    assert "optimizer.zero_grad() before loss.backward()" in text
    assert (Path(warning.filename).name, warning.lineno) == (Path(__file__).name, number)


def test_reported_with_several_backward_passes_per_step_and_clipping():
    s = Setup()
    with pytest.warns(TwofoldWarning, match="zeroed"):
        for _ in range(5):
            s.backward()
            s.backward()
            s.w.grad.mul_(0.5)  # as clipping does
            s.optimizer.step()


def zero_by_optimizer(s):
    s.optimizer.zero_grad()


def zero_in_place(s):
    s.optimizer.zero_grad(set_to_none=False)


def set_to_none(s):
    s.w.grad = None


def write_zeros(s):
    if s.w.grad is not None:
        s.w.grad.zero_()


@pytest.mark.parametrize("zero", [zero_by_optimizer, zero_in_place, set_to_none, write_zeros])
@pytest.mark.parametrize("passes", [1, 3])
def test_loops_that_zero_are_left_alone(zero, passes):
    s = Setup()
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        for _ in range(6):
            zero(s)
            for _ in range(passes):
                s.backward()
            s.optimizer.step()


def test_zeroing_after_the_step_is_left_alone():
    s = Setup()
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        for _ in range(6):
            s.backward()
            s.optimizer.step()
            s.w.grad = None


def test_stepping_again_on_the_same_gradient_is_left_alone():
    s = Setup()
    s.backward()
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        for _ in range(6):
            s.optimizer.step()


def test_two_optimizers_of_one_parameter():
    s = Setup()
    other = tw.optim.Adam([s.w], lr=1e-4)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        for _ in range(6):
            s.w.grad = None
            s.backward()
            s.optimizer.step()
            other.step()
