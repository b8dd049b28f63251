"""Custom Functions, as in PyTorch: contexts, dirty and non-differentiable outputs, double backward."""

from __future__ import annotations

import gc
import weakref

import pytest

import twofold as tw
from twofold.autograd import Function, check_grads, once_differentiable
from twofold.ir.errors import AutogradError, ShapeError


class Exp(Function):
    @staticmethod
    def forward(ctx, x):
        y = x.exp()
        ctx.save_for_backward(y)
        return y

    @staticmethod
    def backward(ctx, g):
        (y,) = ctx.saved_tensors
        return g * y


class Scale(Function):
    """Of the style with setup_context."""

    @staticmethod
    def forward(x, factor):
        return x * factor, x.sign()

    @staticmethod
    def setup_context(ctx, inputs, output):
        x, factor = inputs
        ctx.save_for_backward(x)
        ctx.factor = factor
        ctx.mark_non_differentiable(output[1])

    @staticmethod
    def backward(ctx, g, _):
        assert ctx.needs_input_grad == (True, False)
        return g * ctx.factor, None


def test_saved_outputs_and_double_backward() -> None:
    check_grads(Exp.apply, (tw.rand(3, dtype=tw.float64),))
    x = tw.tensor(1.0, requires_grad=True)
    y = Exp.apply(x)
    assert y.grad_fn is not None and y.grad_fn.name == "Exp" and not y.is_leaf


def test_setup_context_and_non_differentiable_outputs() -> None:
    x = tw.tensor([1.0, -2.0], requires_grad=True)
    y, sign = Scale.apply(x, 3.0)
    assert y.requires_grad and not sign.requires_grad
    (y * sign).sum().backward()
    assert x.grad.tolist() == [3.0, -3.0]


def test_nothing_is_recorded_where_nothing_is_wanted() -> None:
    assert Exp.apply(tw.ones(1)).grad_fn is None
    x = tw.ones(1, requires_grad=True)
    with tw.no_grad():
        assert Exp.apply(x).grad_fn is None
    seen = []

    class Needs(Function):
        @staticmethod
        def forward(ctx, a, b, c):
            seen.append((ctx.needs_input_grad, tw.is_grad_enabled()))
            return a + b

        @staticmethod
        def backward(ctx, g):
            return g, g, None

    Needs.apply(tw.ones(1), x, 2)
    assert seen == [((False, True, False), False)]


def test_unused_outputs_get_zeros_or_none() -> None:
    seen = []

    def make(materialize: bool) -> type[Function]:
        class Two(Function):
            @staticmethod
            def forward(ctx, x):
                ctx.set_materialize_grads(materialize)
                return x * 1, x * 2

            @staticmethod
            def backward(ctx, g, h):
                seen.append(h if h is None else h.tolist())
                return g

        return Two

    x = tw.tensor([1.0, 2.0], requires_grad=True)
    for materialize in (True, False):
        make(materialize).apply(x)[0].sum().backward()
    assert seen == [[0.0, 0.0], None]


def test_a_dirty_input_carries_the_new_history() -> None:
    class Double(Function):
        @staticmethod
        def forward(ctx, x):
            x.mul_(2.0)
            ctx.mark_dirty(x)
            return x

        @staticmethod
        def backward(ctx, g):
            return g * 2

    a = tw.tensor([1.0, 2.0, 3.0], requires_grad=True)
    x = a * 1.0
    part = x[:2]
    assert Double.apply(part) is part
    assert x.tolist() == [2.0, 4.0, 3.0]
    (x * tw.tensor([1.0, 10.0, 100.0])).sum().backward()
    assert a.grad.tolist() == [2.0, 20.0, 100.0]
    with pytest.raises(AutogradError, match="leaf"):
        Double.apply(a)


def test_an_input_returned_as_it_is_keeps_its_own_history() -> None:
    class Reverse(Function):
        @staticmethod
        def forward(ctx, x):
            return x

        @staticmethod
        def backward(ctx, g):
            return -g

    x = tw.tensor([1.0, 2.0], requires_grad=True)
    y = Reverse.apply(x)
    assert y is not x and x.is_leaf and not y.is_leaf
    y.sum().backward()
    assert x.grad.tolist() == [-1.0, -1.0]


def test_a_view_of_the_input_may_be_returned() -> None:
    class First(Function):
        @staticmethod
        def forward(ctx, x):
            return x[0]

        @staticmethod
        def backward(ctx, g):
            return tw.stack([g, g])

    x = tw.tensor([[1.0, 2.0], [3.0, 4.0]], requires_grad=True)
    (First.apply(x) * 2).sum().backward()
    assert x.grad.tolist() == [[2.0, 2.0], [2.0, 2.0]]


def test_changed_and_used_up_saved_tensors() -> None:
    x = tw.tensor([1.0], requires_grad=True)
    y = Exp.apply(x)
    y.add_(1.0)
    with pytest.raises(AutogradError, match="'Exp' needs was changed in place"):
        y.backward()

    class Square(Function):
        @staticmethod
        def forward(ctx, x):
            ctx.save_for_backward(x, None)
            return x * x

        @staticmethod
        def backward(ctx, g):
            x, nothing = ctx.saved_tensors
            assert nothing is None
            return 2 * x * g

    h = x * 1.0
    z = Square.apply(h)
    h.add_(1.0)
    with pytest.raises(AutogradError, match="'Square' needs was changed in place 1 time"):
        z.backward()
    z = Square.apply(x * 1.0)
    z.backward(retain_graph=True)
    z.backward()
    with pytest.raises(AutogradError, match=r"\[Square\] backward was called a second time"):
        z.backward()


def test_a_saved_output_does_not_keep_itself_alive() -> None:
    x = tw.tensor([1.0], requires_grad=True)
    gc.disable()
    try:
        y = Exp.apply(x)
        alive = weakref.ref(y)
        del y
        assert alive() is None
    finally:
        gc.enable()


def test_wrong_results_of_backward() -> None:
    def make(result) -> type[Function]:
        class Bad(Function):
            @staticmethod
            def forward(ctx, x, y):
                return x * y

            @staticmethod
            def backward(ctx, g):
                return result

        return Bad

    x = tw.ones(2, requires_grad=True)
    with pytest.raises(AutogradError, match="returned 1 gradient, but forward takes 2 arguments"):
        make(tw.ones(2)).apply(x, 1.0).sum().backward()
    with pytest.raises(AutogradError, match="returned 3 gradients"):
        make((None, None, tw.ones(2))).apply(x, 1.0).sum().backward()
    with pytest.raises(ShapeError, match=r"gradient 0 has shape \(3,\), but the argument has shape \(2,\)"):
        make((tw.ones(3), None)).apply(x, 1.0).sum().backward()
    with pytest.raises(AutogradError, match="gradient 0 is no tensor but float"):
        make((1.0, None)).apply(x, 1.0).sum().backward()
    make((None, None, None)).apply(x, 1.0).sum().backward()
    assert x.grad is None


def test_misuse() -> None:
    with pytest.raises(AutogradError, match=r"call Exp.apply\(...\)"):
        Exp()
    with pytest.raises(NotImplementedError, match="static method forward"):
        Function.apply(tw.ones(1))

    class Saves(Function):
        @staticmethod
        def forward(ctx, x):
            ctx.save_for_backward(3)
            return x

    with pytest.raises(AutogradError, match=r"takes tensors, got int[\s\S]*ctx.name = value"):
        Saves.apply(tw.ones(1))


def test_once_differentiable() -> None:
    class Cube(Function):
        @staticmethod
        def forward(ctx, x):
            ctx.save_for_backward(x)
            return x**3

        @staticmethod
        @once_differentiable
        def backward(ctx, g):
            (x,) = ctx.saved_tensors
            assert not tw.is_grad_enabled()
            return 3 * x * x * g

    x = tw.tensor(2.0, requires_grad=True)
    y = Cube.apply(x)
    assert tw.autograd.grad(y, x, retain_graph=True)[0].item() == 12.0
    w = tw.tensor(1.0, requires_grad=True)
    (g,) = tw.autograd.grad(y * w, x, create_graph=True)
    with pytest.raises(AutogradError, match="can't be differentiated again"):
        g.backward()


def test_hooks_of_custom_results() -> None:
    x = tw.tensor([1.0], requires_grad=True)
    y = Exp.apply(x)
    y.retain_grad()
    y.register_hook(lambda g: g * 2)
    y.sum().backward()
    assert y.grad.tolist() == [2.0]
