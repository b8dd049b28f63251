"""backward: accumulation, graphs kept and freed, hooks, detaching, switches of recording."""

from __future__ import annotations

import gc
import threading
import weakref
from collections.abc import Iterator

import numpy as np
import pytest
import torch

import twofold as tw
from twofold.ir.errors import AutogradError, DTypeError, ShapeError


def leaf(*values: float) -> tw.Tensor:
    return tw.tensor(list(values), requires_grad=True)


def test_gradients_add_up_until_zeroed() -> None:
    x = leaf(1.0, 2.0)
    for _ in range(3):
        (x * 2).sum().backward()
    assert x.grad.tolist() == [6.0, 6.0]
    x.grad = None
    (x * x).sum().backward()
    assert x.grad.tolist() == [2.0, 4.0]


def test_a_tensor_used_twice_gets_both_gradients() -> None:
    x = leaf(3.0)
    y = x * x
    (y * y + y).sum().backward()
    assert x.grad.tolist() == [4 * 27.0 + 6.0]


def test_leaves_never_share_their_gradients_memory() -> None:
    a, b = leaf(1.0), leaf(2.0)
    g = tw.ones(1)
    (a + b).backward(g)
    a.grad.add_(5.0)
    assert b.grad.tolist() == [1.0] and g.tolist() == [1.0]


def test_the_graph_is_freed_unless_kept() -> None:
    x = leaf(2.0)
    y = (x * x).sum()
    y.backward(retain_graph=True)
    y.backward()
    assert x.grad.tolist() == [8.0]
    with pytest.raises(AutogradError, match=r"second time[\s\S]*retain_graph=True"):
        y.backward()


def test_a_graph_that_saved_nothing_runs_again() -> None:
    x = leaf(2.0)
    y = (x + 1).sum()
    y.backward()
    y.backward()
    assert x.grad.tolist() == [2.0]


def test_intermediate_results_are_freed_without_the_garbage_collector() -> None:
    x = leaf(1.0, 2.0)
    gc.disable()
    try:
        h = (x * 2).exp()
        alive = weakref.ref(h)
        y = (h * h).sum()
        del h
        y.backward()
        del y
        assert alive() is None
    finally:
        gc.enable()


def test_long_chains_need_no_recursion() -> None:
    x = leaf(1.0)
    y = x
    for _ in range(20000):
        y = y + 1.0
    y.sum().backward()
    assert x.grad.tolist() == [1.0]
    del y


def test_backward_only_into_given_leaves() -> None:
    a, b = leaf(1.0), leaf(2.0)
    (a * b).sum().backward(inputs=[a])
    assert a.grad.tolist() == [2.0] and b.grad is None
    (a * b).sum().backward(inputs=b)
    assert a.grad.tolist() == [2.0] and b.grad.tolist() == [1.0]


def test_second_derivatives_by_create_graph() -> None:
    x = leaf(2.0)
    (x**3).sum().backward(create_graph=True)
    g = x.grad
    x.grad = None
    g.sum().backward()
    assert x.grad.tolist() == [12.0]


@pytest.mark.parametrize("complex_", [False, True])
def test_one_network_of_many_operations_equals_pytorch(complex_: bool) -> None:
    rng = np.random.default_rng(0)
    a, w = rng.standard_normal((4, 3)), rng.standard_normal((3, 3))
    if complex_:
        a, w = a + 1j * rng.standard_normal((4, 3)), w + 1j * rng.standard_normal((3, 3))
    x, y = tw.tensor(a, requires_grad=True), torch.tensor(a, requires_grad=True)
    u, v = tw.tensor(w, requires_grad=True), torch.tensor(w, requires_grad=True)

    def loss(x, w):
        h = (x @ w).sin() * x.exp() + w[0]
        h = h / (h.abs() + 1.0)
        return (h[1:] - h[:-1]).abs().sum() + (h * h.mean()).abs().mean()

    loss(x, u).backward()
    loss(y, v).backward()
    np.testing.assert_allclose(x.grad.numpy(), y.grad.numpy(), rtol=1e-10)
    np.testing.assert_allclose(u.grad.numpy(), v.grad.numpy(), rtol=1e-10)


def test_what_has_no_backward() -> None:
    with pytest.raises(AutogradError, match=r"does not require grad has no backward[\s\S]*requires_grad=True"):
        tw.ones(1).backward()
    with pytest.raises(AutogradError, match=r"needs a scalar, got shape \(2,\)"):
        (leaf(1.0, 2.0) * 2).backward()
    with pytest.raises(ShapeError, match=r"the gradient has shape \(3,\), its tensor \(2,\)"):
        (leaf(1.0, 2.0) * 2).backward(tw.ones(3))
    with pytest.raises(AutogradError, match="needs a real result"):
        tw.tensor(1j, requires_grad=True).backward()


# Leaves --------------------------------------------------------------------------------------------


def test_who_may_require_a_gradient() -> None:
    x = tw.ones(2)
    assert x.requires_grad_() is x and x.requires_grad and x.is_leaf
    x.requires_grad_(False)
    x.requires_grad = True
    y = x * 2
    assert y.requires_grad and not y.is_leaf and y.grad_fn is not None
    with pytest.raises(AutogradError, match=r"use x.detach\(\)"):
        y.requires_grad_(False)
    with pytest.raises(DTypeError, match="only floating and complex"):
        tw.arange(3).requires_grad_()
    with pytest.raises(DTypeError, match="only floating and complex"):
        tw.arange(3).requires_grad = True


def test_detach() -> None:
    x = leaf(1.0, 2.0)
    y = (x * 2).detach()
    assert not y.requires_grad and y.is_leaf
    z = x * y
    z.sum().backward()
    assert x.grad.tolist() == [2.0, 4.0]
    h = x * 2
    assert h.detach_() is h and h.is_leaf and not h.requires_grad
    with pytest.raises(AutogradError, match="view can't be detached in place"):
        (x * 2)[:1].detach_()


def test_data_shares_memory_and_takes_over_anothers() -> None:
    x = leaf(1.0, 2.0)
    x.data.mul_(10.0)
    assert x.tolist() == [10.0, 20.0] and x.is_leaf and not x.data.requires_grad
    new = tw.zeros(3)
    x.data = new
    assert x.shape == (3,) and x.requires_grad
    new.add_(1.0)
    assert x.tolist() == [1.0, 1.0, 1.0]
    (x * 2).sum().backward()
    assert x.grad.tolist() == [2.0, 2.0, 2.0]


# Hooks ---------------------------------------------------------------------------------------------


def test_hooks_see_and_replace_gradients() -> None:
    x = leaf(1.0, 2.0)
    h = x * 3
    seen = []
    first = h.register_hook(lambda g: seen.append(g.tolist()))
    h.register_hook(lambda g: g * 10)
    last = x.register_hook(lambda g: g + 1)
    h.sum().backward(retain_graph=True)
    assert seen == [[1.0, 1.0]] and x.grad.tolist() == [31.0, 31.0]
    first.remove()
    first.remove()
    last.remove()
    x.grad = None
    h.sum().backward()
    assert len(seen) == 1 and x.grad.tolist() == [30.0, 30.0]
    with pytest.raises(AutogradError, match="no gradient to hook"):
        tw.ones(1).register_hook(print)


def test_the_hook_of_a_leaf_sees_the_whole_gradient_once() -> None:
    x = leaf(1.0)
    seen = []
    with x.register_hook(lambda g: seen.append(g.item())):
        (x * 2 + x * 3).sum().backward()
    (x * 2).sum().backward()
    assert seen == [5.0]


def test_retained_gradients() -> None:
    x = leaf(1.0, 2.0)
    h = x * 3
    h.retain_grad()
    x.retain_grad()  # nothing to do for a leaf
    assert h.retains_grad and not x.retains_grad
    (h * h).sum().backward()
    assert h.grad.tolist() == [6.0, 12.0]


def test_post_accumulate_hooks_see_the_sum() -> None:
    x = leaf(1.0)
    seen = []
    handle = x.register_post_accumulate_grad_hook(lambda t: seen.append(t.grad.item()))
    (x * 2).sum().backward()
    (x * 2).sum().backward()
    handle.remove()
    (x * 2).sum().backward()
    assert seen == [2.0, 4.0]
    with pytest.raises(AutogradError, match="only a leaf"):
        (x * 2).register_post_accumulate_grad_hook(print)


# Switches ------------------------------------------------------------------------------------------


def test_switches_as_context_managers() -> None:
    x = leaf(1.0)
    with tw.no_grad():
        assert not (x * 2).requires_grad and not tw.is_grad_enabled()
        with tw.enable_grad():
            assert (x * 2).requires_grad
        with tw.set_grad_enabled(True):
            assert tw.is_grad_enabled()
        assert not tw.is_grad_enabled()
    assert tw.is_grad_enabled()
    with tw.inference_mode(), tw.enable_grad():
        assert not (x * 2).requires_grad and tw.is_inference_mode_enabled()
    with tw.inference_mode(False):
        assert (x * 2).requires_grad
    with pytest.raises(KeyError), tw.no_grad():
        raise KeyError
    assert tw.is_grad_enabled()


def test_set_grad_enabled_acts_at_once() -> None:
    try:
        tw.set_grad_enabled(False)
        assert not tw.is_grad_enabled()
    finally:
        tw.set_grad_enabled(True)
    assert tw.is_grad_enabled()


def test_switches_as_decorators() -> None:
    @tw.no_grad()
    def off() -> bool:
        "Its doc."
        return tw.is_grad_enabled()

    @tw.no_grad
    def bare() -> bool:
        return tw.is_grad_enabled()

    @tw.enable_grad()
    def on() -> bool:
        return tw.is_grad_enabled()

    @tw.set_grad_enabled(False)
    def never() -> bool:
        return tw.is_grad_enabled()

    @tw.inference_mode()
    def inference() -> bool:
        return tw.is_inference_mode_enabled()

    assert tw.is_grad_enabled()
    assert not off() and not bare() and not never() and inference()
    assert off.__name__ == "off" and off.__doc__ == "Its doc."
    with tw.no_grad():
        assert on()


def test_generators_are_switched_only_while_they_run() -> None:
    @tw.no_grad()
    def numbers() -> Iterator[bool]:
        try:
            got = yield tw.is_grad_enabled()
            yield got
        except KeyError:
            yield tw.is_grad_enabled()

    g = numbers()
    assert next(g) is False and tw.is_grad_enabled()
    assert g.send("sent") == "sent"
    assert g.throw(KeyError()) is False and tw.is_grad_enabled()


def test_recording_is_a_matter_of_the_thread() -> None:
    seen = []
    with tw.no_grad():
        thread = threading.Thread(target=lambda: seen.append(tw.is_grad_enabled()))
        thread.start()
        thread.join()
    assert seen == [True]
