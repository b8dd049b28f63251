"""twofold.autograd.grad, functional grad and value_and_grad, and the checks by finite differences."""

from __future__ import annotations

import pytest

import twofold as tw
from twofold.autograd import check_grads, gradcheck, gradgradcheck
from twofold.ir.errors import AutogradError, ShapeError

# autograd.grad -------------------------------------------------------------------------------------


def test_grad_leaves_no_trace() -> None:
    x, y = tw.tensor(2.0, requires_grad=True), tw.tensor(3.0, requires_grad=True)
    gx, gy = tw.autograd.grad(x * y, [x, y])
    assert gx.item() == 3.0 and gy.item() == 2.0
    assert x.grad is None and not gx.requires_grad


def test_grad_of_an_intermediate_result_and_of_itself() -> None:
    x = tw.tensor(2.0, requires_grad=True)
    h = x * x
    z = h * 3
    gh, gx, gz = tw.autograd.grad(z, [h, x, z])
    assert (gh.item(), gx.item(), gz.item()) == (3.0, 12.0, 1.0)


def test_grad_of_several_outputs_with_weights() -> None:
    x = tw.tensor([1.0, 2.0], requires_grad=True)
    (g,) = tw.autograd.grad([x * 2, (x * x).sum()], x, [tw.tensor([1.0, 10.0]), None])
    assert g.tolist() == [4.0, 24.0]


def test_unused_inputs() -> None:
    x, y = tw.tensor(2.0, requires_grad=True), tw.tensor([3.0, 1.0], requires_grad=True)
    with pytest.raises(AutogradError, match=r"do not depend on input 1 of shape \(2,\)"):
        tw.autograd.grad(x * 2, [x, y])
    assert tw.autograd.grad(x * 2, [x, y], allow_unused=True)[1] is None
    assert tw.autograd.grad(x * 2, [x, y], materialize_grads=True)[1].tolist() == [0.0, 0.0]
    with pytest.raises(AutogradError, match="materialize_grads needs allow_unused"):
        tw.autograd.grad(x * 2, x, allow_unused=False, materialize_grads=True)


def test_grad_refuses_what_requires_none() -> None:
    x, c = tw.tensor(2.0, requires_grad=True), tw.tensor(1.0)
    with pytest.raises(AutogradError, match=r"input 0 of shape .* does not require grad"):
        tw.autograd.grad(x * 2, c)
    with pytest.raises(AutogradError, match=r"output of shape .* does not require grad"):
        tw.autograd.grad(c * 2, x)
    with pytest.raises(AutogradError, match="must be tensors, got float"):
        tw.autograd.grad(x, [1.0])
    with pytest.raises(AutogradError, match="2 outputs but 1 gradients"):
        tw.autograd.grad([x, x], x, [tw.tensor(1.0)])


def test_derivatives_of_third_order() -> None:
    x = tw.tensor(2.0, requires_grad=True)
    y = x**5
    for want in (80.0, 160.0, 240.0):
        (y,) = tw.autograd.grad(y, x, create_graph=True)
        assert y.item() == want


def test_only_what_is_on_the_way_runs() -> None:
    x, y = tw.tensor(2.0, requires_grad=True), tw.tensor(3.0, requires_grad=True)
    calls = []

    class Watch(tw.autograd.Function):
        @staticmethod
        def forward(ctx, a):
            return a * 1.0

        @staticmethod
        def backward(ctx, g):
            calls.append(1)
            return g

    z = x * 2 + Watch.apply(y)
    tw.autograd.grad(z, x)
    assert not calls
    tw.autograd.grad(z, y, retain_graph=True)
    assert calls == [1]


def test_backward_of_several_tensors() -> None:
    x = tw.tensor(2.0, requires_grad=True)
    tw.autograd.backward([x * 2, x * x], [tw.tensor(10.0), None])
    assert x.grad.item() == 24.0


# grad of functions ---------------------------------------------------------------------------------


def test_grad_of_a_function_nests() -> None:
    f = lambda x: x**4
    x = tw.tensor(2.0)
    assert tw.grad(f)(x).item() == 32.0
    assert tw.grad(tw.grad(f))(x).item() == 48.0
    assert tw.grad(tw.grad(tw.grad(f)))(x).item() == 48.0
    assert not tw.grad(f)(x).requires_grad and x.grad is None


def test_mixed_nesting_keeps_the_levels_apart() -> None:
    # d/dx [ x * d/dy (x + y) ] = 1: the inner derivative doesn't depend on x
    f = lambda x: x * tw.grad(lambda y: x + y)(tw.tensor(1.0))
    assert tw.grad(f)(tw.tensor(5.0)).item() == 1.0
    # d/dx [ d/dy (x * y * y) at y=x ] = d/dx 2 x x = 4 x
    g = lambda x: tw.grad(lambda y: x * y * y)(x)
    assert tw.grad(g)(tw.tensor(3.0)).item() == 12.0


def test_arguments_by_number_and_nested() -> None:
    f = lambda a, b, scale=1.0: (a * b).sum() * scale
    a, b = tw.tensor([1.0, 2.0]), tw.tensor([3.0, 4.0])
    assert tw.grad(f, argnums=1)(a, b).tolist() == [1.0, 2.0]
    ga, gb = tw.grad(f, argnums=(0, 1))(a, b, scale=2.0)
    assert ga.tolist() == [6.0, 8.0] and gb.tolist() == [2.0, 4.0]
    assert tw.grad(f, argnums=-1)(a, b).tolist() == [1.0, 2.0]
    nested = tw.grad(lambda p: (p["w"] * p["bs"][0]).sum())({"w": a, "bs": [b]})
    assert nested["w"].tolist() == [3.0, 4.0] and nested["bs"][0].tolist() == [1.0, 2.0]


def test_values_and_auxiliary_results() -> None:
    f = lambda x: ((x * x).sum(), {"x": x * 3})
    x = tw.tensor([1.0, 2.0])
    (value, aux), g = tw.value_and_grad(f, has_aux=True)(x)
    assert value.item() == 5.0 and not value.requires_grad and g.tolist() == [2.0, 4.0]
    assert aux["x"].tolist() == [3.0, 6.0]
    g, aux = tw.grad(f, has_aux=True)(x)
    assert g.tolist() == [2.0, 4.0]
    value, g = tw.value_and_grad(lambda x: (x * x).sum())(x)
    assert value.item() == 5.0


def test_an_outer_backward_reaches_parameters_in_the_closure() -> None:
    w = tw.tensor(3.0, requires_grad=True)
    g = tw.grad(lambda x: w * x * x)(tw.tensor(2.0))
    assert g.item() == 12.0
    g.backward()
    assert w.grad.item() == 4.0


def test_an_outer_backward_reaches_the_argument() -> None:
    x = tw.tensor(2.0, requires_grad=True)
    value, g = tw.value_and_grad(lambda x: x**3)(x)
    (value + g).backward()
    assert x.grad.item() == 12.0 + 12.0


def test_functional_grad_inside_no_grad_records_nothing() -> None:
    w = tw.tensor(3.0, requires_grad=True)
    with tw.no_grad():
        value, g = tw.value_and_grad(lambda x: w * x * x)(tw.tensor(2.0))
        assert not tw.is_grad_enabled()
    assert g.item() == 12.0 and not g.requires_grad and not value.requires_grad


def test_an_argument_without_influence_has_gradient_zero() -> None:
    assert tw.grad(lambda x: tw.tensor(1.0))(tw.ones(2)).tolist() == [0.0, 0.0]
    assert tw.grad(lambda x, y: y, argnums=(0, 1))(tw.ones(2), tw.tensor(1.0))[0].tolist() == [0.0, 0.0]


def test_the_caller_s_tensor_is_not_written() -> None:
    x = tw.tensor([1.0, 2.0])

    def f(x: tw.Tensor) -> tw.Tensor:
        y = x * 1.0
        y.mul_(x)
        return y.sum()

    assert tw.grad(f)(x).tolist() == [2.0, 4.0] and x.tolist() == [1.0, 2.0]


def test_errors_of_functional_grad() -> None:
    with pytest.raises(ShapeError, match=r"one element, got shape \(2,\)"):
        tw.grad(lambda x: x)(tw.ones(2))
    with pytest.raises(AutogradError, match="must return a tensor, got float"):
        tw.grad(lambda x: 1.0)(tw.ones(2))
    with pytest.raises(AutogradError, match="respect to a tensor of dtype int64"):
        tw.grad(lambda x: x)(tw.arange(2))
    with pytest.raises(AutogradError, match="respect to float"):
        tw.grad(lambda x: x)(1.0)
    with pytest.raises(AutogradError, match="names argument 2, but 1 were given"):
        tw.grad(lambda x: x, argnums=2)(tw.ones(2))
    with pytest.raises(AutogradError, match=r"must return \(result, aux\)"):
        tw.grad(lambda x: x.sum(), has_aux=True)(tw.ones(2))
    with pytest.raises(ZeroDivisionError):
        tw.grad(lambda x: 1 / 0)(tw.ones(2))
    assert tw.is_grad_enabled()


# Checks --------------------------------------------------------------------------------------------


class Wrong(tw.autograd.Function):
    """x**2 whose derivative is wrong by one percent."""

    @staticmethod
    def forward(ctx, x):
        ctx.save_for_backward(x)
        return x * x

    @staticmethod
    def backward(ctx, g):
        (x,) = ctx.saved_tensors
        return 2.02 * x * g


class WrongTwice(tw.autograd.Function):
    """x**2 whose second derivative is missing."""

    @staticmethod
    def forward(ctx, x):
        ctx.save_for_backward(x)
        return x * x

    @staticmethod
    def backward(ctx, g):
        (x,) = ctx.saved_tensors
        return 2 * x.detach() * g


def test_right_derivatives_pass() -> None:
    x = tw.rand(3, 2, dtype=tw.float64)
    z = tw.complex(x, x + 1)
    check_grads(lambda x: (x.sin() * x.exp(), x @ x.T), (x,))
    check_grads(lambda z, x: (z * z * x, z.abs(), z.exp().real), (z, x))
    check_grads(lambda x, n: x**n, (x, 3))
    assert gradcheck(lambda x: x.tanh(), x) and gradgradcheck(lambda x: x.tanh(), (x,))


def test_wrong_derivatives_are_found() -> None:
    x = tw.rand(3, dtype=tw.float64) + 0.5
    with pytest.raises(AutogradError, match="derivative of order 1 along a random direction is"):
        check_grads(Wrong.apply, (x,))
    check_grads(WrongTwice.apply, (x,), order=1)
    with pytest.raises(AutogradError, match="derivative of order 2"):
        check_grads(WrongTwice.apply, (x,), order=2)
    assert not gradcheck(Wrong.apply, (x,), raise_exception=False)


def test_checks_need_double_precision() -> None:
    with pytest.raises(AutogradError, match="float32, too coarse"):
        check_grads(lambda x: x * x, (tw.ones(2),))
    with pytest.raises(AutogradError, match="no floating argument"):
        check_grads(lambda x: x, (3,))
