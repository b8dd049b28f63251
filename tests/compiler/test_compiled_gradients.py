"""Gradients of compiled functions: a forward and a backward program, against eager autograd."""

from __future__ import annotations

import copy
import warnings
import weakref

import numpy as np
import pytest
from layer_cases import LAYERS
from nn_harness import Case, leaves, to_twofold

import twofold as tw
from twofold import nn
from twofold.ir.errors import AutogradError

F = nn.functional


def compiled_with_gradients(compiled):
    """All specializations have a backward program; nothing runs eagerly."""
    made = [s for known in compiled.specializations.values() for _, s in known]
    return bool(made) and all(s is not None and hasattr(s, "backward") for s in made)


def both(f, *arrays, dtype=tw.float64, backward=True):
    """Results and gradients of `f`, eagerly and compiled, with a gradient that is not constant."""
    runs = []
    for fn in (f, tw.compile(f)):
        tw.manual_seed(3)
        inputs = [tw.tensor(a, dtype=dtype, requires_grad=True) for a in arrays]
        out = fn(*inputs)
        outs = [t for t in leaves(out) if t.requires_grad]
        total = sum((t * tw.arange(t.numel(), dtype=t.dtype).reshape(t.shape).cos()).sum() for t in outs)
        total.backward()
        runs.append((outs, [t.grad for t in inputs]))
    assert compiled_with_gradients(fn) is backward
    (outs, grads), (compiled_outs, compiled_grads) = runs
    assert len(outs) == len(compiled_outs)
    for a, b in zip([*compiled_outs, *compiled_grads], [*outs, *grads], strict=True):
        assert (a is None) is (b is None)
        if a is not None:
            np.testing.assert_allclose(a.detach().numpy(), b.detach().numpy(), rtol=1e-10, atol=1e-11)
    return fn


# --- every layer ----------------------------------------------------------------------------------


@pytest.mark.parametrize("case", LAYERS, ids=str)
def test_every_layer(case: Case):
    """Two calls each: results, gradients of inputs and parameters, buffers, random numbers."""
    runs = []
    for is_compiled in (False, True):
        tw.manual_seed(11)
        layer = getattr(nn, case.name)(*to_twofold(case.args, False), **to_twofold(case.kwargs, False)).double()
        call = to_twofold(case.call, False)
        fn = (
            tw.compile(lambda *x, layer=layer, call=call: layer(*x, **call))
            if is_compiled
            else lambda *x: layer(*x, **call)
        )
        tw.manual_seed(12)
        seen = []
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", UserWarning)
            warnings.simplefilter("error", tw.TwofoldWarning)
            for _ in range(2):
                inputs = [to_twofold(a, i not in case.fixed) for i, a in enumerate(case.arrays())]
                outs = leaves(fn(*[_copies(x) for x in inputs]))
                weighted = [(t * tw.rand(t.shape, dtype=t.dtype)).sum() for t in outs if t.requires_grad]
                if weighted:
                    sum(weighted[1:], weighted[0]).backward()
                seen += [t.detach() for t in outs] + [t.grad for t in leaves(inputs)]
                seen += [p.grad.clone() if p.grad is not None else None for p in layer.parameters()]
                seen += [b.clone() for b in layer.buffers()] + [tw.get_rng_state()]
        runs.append(seen)
    expected, got = runs
    assert len(got) == len(expected)
    for a, b in zip(got, expected, strict=True):
        assert (a is None) is (b is None)
        if a is not None:
            np.testing.assert_allclose(a.numpy(), b.numpy(), rtol=1e-8, atol=1e-9)
    if weighted and case.name not in ("Identity", "Flatten", "Unflatten"):  # which give views
        assert compiled_with_gradients(fn), fn.explain()


def _copies(x):
    if isinstance(x, (tuple, list)):
        return type(x)(_copies(v) for v in x)
    return x * 1.0 if getattr(x, "requires_grad", False) else x


# --- what may be asked of the results -------------------------------------------------------------


A = np.linspace(-1.0, 2.0, 6).reshape(2, 3)


def test_partial_use_of_results():
    w = tw.tensor([2.0, 3.0], requires_grad=True)
    v = tw.tensor([5.0, 7.0], requires_grad=True)

    @tw.compile
    def f(x):
        return (w * x).sum(), (v * x).sum()

    first, second = f(tw.ones(2))
    second.backward()
    assert w.grad is None and v.grad.tolist() == [1.0, 1.0]
    first, second = f(tw.ones(2))
    (first + second).backward()
    assert w.grad.tolist() == [1.0, 1.0] and v.grad.tolist() == [2.0, 2.0]


def test_accumulation_and_hooks_of_leaves_and_results():
    w = tw.tensor([2.0, 3.0], requires_grad=True)
    seen = []
    w.register_hook(lambda g: seen.append("w") or g * 2)
    f = tw.compile(lambda x: w * x)
    for _ in range(2):
        y = f(tw.tensor([1.0, 10.0]))
        y.register_hook(lambda g: seen.append("y") or g + 1)
        y.retain_grad()
        y.sum().backward()
        assert y.grad.tolist() == [2.0, 2.0]
    assert w.grad.tolist() == [8.0, 80.0] and seen == ["y", "w"] * 2


def test_hooks_inside_compute():
    def f(x):
        h = x * 3
        h.register_hook(lambda g: g.clamp(-0.5, 0.5))
        return h.sin()

    both(f, A)


def test_backward_twice():
    x = tw.tensor([1.0, 2.0], requires_grad=True)
    f = tw.compile(lambda x: x.exp())
    y = f(x).sum()
    y.backward(retain_graph=True)
    y.backward()
    np.testing.assert_allclose(x.grad.numpy(), 2 * np.exp([1.0, 2.0]), rtol=1e-6)
    with pytest.raises(AutogradError, match="second time"):
        y.backward()


def test_in_the_middle_of_eager_code():
    f = tw.compile(lambda x, w: (x @ w).tanh())
    rng = np.random.default_rng(0)
    x, w = rng.standard_normal((3, 4)), rng.standard_normal((4, 4))
    grads = []
    for fn in (f, f.fn):
        a = tw.tensor(x, requires_grad=True)
        b = tw.tensor(w, requires_grad=True)
        y = fn(fn(a * 2, b.t()) + a, b)
        (y * y).mean().backward()
        grads.append((a.grad.numpy(), b.grad.numpy()))
    for got, expected in zip(*grads, strict=True):
        np.testing.assert_allclose(got, expected, rtol=1e-10)
    assert compiled_with_gradients(f)


def test_autograd_grad_of_a_result():
    x = tw.tensor([1.0, 2.0], requires_grad=True)
    f = tw.compile(lambda x: (x * x, x.detach() * 2, tw.arange(3)))
    y, constant, numbers = f(x)
    assert y.requires_grad and not y.is_leaf and not constant.requires_grad and not numbers.requires_grad
    (g,) = tw.autograd.grad(y.sum(), x)
    assert g.tolist() == [2.0, 4.0] and x.grad is None


def test_no_grad_and_inference_are_programs_of_their_own():
    w = tw.tensor([1.0, 2.0], requires_grad=True)
    f = tw.compile(lambda x: w * x)
    with tw.no_grad():
        assert not f(tw.ones(2)).requires_grad
    assert f(tw.ones(2)).requires_grad
    w.requires_grad_(False)
    assert not f(tw.ones(2)).requires_grad
    w.requires_grad_(True)
    assert f(tw.ones(2)).requires_grad


def test_second_derivatives():
    rng = np.random.default_rng(1)
    values = rng.standard_normal((3, 4))
    weight = rng.standard_normal((4, 2))

    def f(x, w):
        return (x @ w).tanh() * x.sum()

    results = []
    for fn in (f, tw.compile(f)):
        x, w = tw.tensor(values, requires_grad=True), tw.tensor(weight, requires_grad=True)
        (g,) = tw.autograd.grad((fn(x * 1.5, w) ** 2).sum(), x, create_graph=True)
        ((g * g).sum() + g.sum()).backward()
        results.append((g.detach().numpy(), x.grad.numpy(), w.grad.numpy()))
    for got, expected in zip(results[1], results[0], strict=True):
        np.testing.assert_allclose(got, expected, rtol=1e-9)
    assert compiled_with_gradients(fn)


def test_second_derivatives_with_dropout_draw_the_same_numbers():
    results = []
    for compiled in (False, True):
        f = lambda x: F.dropout(x.sin(), 0.5) ** 2
        f = tw.compile(f) if compiled else f
        tw.manual_seed(4)
        x = tw.tensor(A, requires_grad=True)
        (g,) = tw.autograd.grad(f(x).sum(), x, create_graph=True)
        (gg,) = tw.autograd.grad(g.sum(), x)
        results.append((g.detach().numpy(), gg.numpy()))
    np.testing.assert_allclose(results[1], results[0], rtol=1e-12)


def test_gradcheck_of_a_compiled_function():
    f = tw.compile(lambda x, y: (x * y).sum(1).exp() + y.mean())
    x = tw.tensor(A, requires_grad=True)
    y = tw.tensor(A[::-1].copy(), requires_grad=True)
    assert tw.autograd.gradcheck(f, (x, y))
    assert tw.autograd.gradgradcheck(f, (x, y))


def test_functional_gradients():
    f = tw.compile(lambda x: (x**3).sum())
    x = tw.tensor([1.0, 2.0])
    assert tw.grad(f)(x).tolist() == [3.0, 12.0]
    hessian = tw.grad(lambda v: tw.grad(f)(v).sum())(x)
    assert hessian.tolist() == [6.0, 12.0]
    assert tw.compile(tw.grad(f))(x).tolist() == [3.0, 12.0]


# --- what is saved --------------------------------------------------------------------------------


def test_an_argument_changed_before_backward():
    f = tw.compile(lambda x, w: x * w)
    x, w = tw.ones(3), tw.tensor([1.0, 2.0, 3.0], requires_grad=True)
    y = f(x, w)
    x.add_(1)
    with pytest.raises(AutogradError, match="changed in place 1 time"):
        y.sum().backward()
    y = f(x, w)  # w is not needed
    with tw.no_grad():
        w.mul_(2)
    y.sum().backward()
    assert w.grad.tolist() == [2.0, 2.0, 2.0]


def test_a_result_changed_before_backward():
    f = tw.compile(lambda x: x.exp())
    x = tw.ones(3, requires_grad=True)
    y = f(x)
    y.mul_(2)
    with pytest.raises(AutogradError, match="changed in place"):
        y.sum().backward()
    y = tw.compile(lambda x: x * 3)(x)
    y.mul_(2)
    y.sum().backward()
    assert x.grad.tolist() == [6.0, 6.0, 6.0]


def test_a_parameter_stepped_before_backward():
    net = nn.Sequential(nn.Linear(3, 4), nn.Linear(4, 1))
    f = tw.compile(net)
    y = f(tw.ones(2, 3))
    optimizer = tw.optim.SGD(net.parameters(), lr=0.1)
    for p in net.parameters():
        p.grad = tw.ones_like(p)
    optimizer.step()
    with pytest.raises(AutogradError, match="changed in place"):
        y.sum().backward()


def test_what_is_saved_is_freed():
    f = tw.compile(lambda x: (x.sin() @ x.cos()).tanh())
    x = tw.rand(4, 4, requires_grad=True)
    y = f(x)
    saved = {id(a) for a in y.grad_fn.arrays}
    second = f(x)
    assert len(saved & {id(a) for a in second.grad_fn.arrays}) == 1  # x; the first call's are still needed
    third = weakref.ref(second.grad_fn.arrays[1])
    del second
    y.sum().backward()
    assert y.grad_fn.arrays is None
    del y
    first, again = f(x), f(x)  # the program keeps those of its last call, and uses them again
    assert third() is not None and any(a is third() for a in first.grad_fn.arrays)
    del first, again


def test_cheap_values_are_computed_again():
    def f(x):
        h = x * 2 + 1
        return (h.relu() * h).exp().sum()

    fn = both(f, A)
    ((_, s),) = next(iter(fn.specializations.values()))
    saved = s.backward.program.graph.inputs[:-1]
    assert len(saved) == 2, s.backward.program.graph  # x or h, and the exponential


# --- state ----------------------------------------------------------------------------------------


def network():
    return nn.Sequential(
        nn.Linear(5, 8), nn.BatchNorm1d(8), nn.ReLU(inplace=True), nn.Dropout(0.25), nn.Linear(8, 3)
    )


def test_training_with_a_compiled_model():
    """The loss and the optimizer run eagerly; statistics and random numbers move once a step."""
    runs = []
    rng = np.random.default_rng(0)
    data = [(rng.standard_normal((6, 5)).astype(np.float32), rng.integers(0, 3, 6)) for _ in range(4)]
    for is_compiled in (False, True):
        tw.manual_seed(1)
        net = network()
        model = tw.compile(net) if is_compiled else net
        optimizer = tw.optim.Adam(model.parameters(), lr=0.01)
        losses = []
        for x, y in data:
            optimizer.zero_grad()
            loss = F.cross_entropy(model(tw.from_numpy(x)), tw.from_numpy(y))
            loss.backward()
            optimizer.step()
            losses.append(loss.item())
        runs.append((losses, [v.numpy().copy() for v in net.state_dict().values()], tw.get_rng_state().tolist()))
    assert runs[0][2] == runs[1][2]
    np.testing.assert_allclose(runs[1][0], runs[0][0], rtol=1e-5)
    for got, expected in zip(runs[1][1], runs[0][1], strict=True):
        np.testing.assert_allclose(got, expected, rtol=1e-4, atol=1e-6)


def test_a_compiled_loss():
    net = network()
    twin = copy.deepcopy(net)
    x, y = tw.randn(6, 5), tw.tensor([0, 1, 2, 0, 1, 2])
    compiled = tw.compile(lambda x, y: F.cross_entropy(net(x), y))
    tw.manual_seed(2)
    compiled(x, y).backward()
    tw.manual_seed(2)
    F.cross_entropy(twin(x), y).backward()
    for p, q in zip(net.parameters(), twin.parameters(), strict=True):
        np.testing.assert_allclose(p.grad.numpy(), q.grad.numpy(), rtol=1e-4, atol=1e-6)
    assert compiled_with_gradients(compiled)


def test_an_argument_written_in_place_keeps_its_history():
    def f(x):
        x.mul_(3)
        return x.sin() + 1, x

    results = []
    for fn in (f, tw.compile(f)):
        w = tw.tensor(A, requires_grad=True)
        x = w * 2
        y, same = fn(x)
        assert same is x
        (y.sum() + (x * x).sum()).backward()
        results.append((x.detach().numpy(), w.grad.numpy()))
    np.testing.assert_allclose(results[1], results[0], rtol=1e-12)
    assert compiled_with_gradients(fn)


def test_a_leaf_written_in_place_is_refused():
    f = tw.compile(lambda x: x.mul_(2) + 1)
    with pytest.raises(AutogradError, match="leaf"):
        f(tw.ones(2, requires_grad=True))


def test_a_buffer_that_gets_a_history():
    def make():
        h = tw.zeros(2)

        def f(x):
            h.mul_(0.5).add_(x)
            return (h * h).sum()

        return f, h

    grads = []
    for compiled in (False, True):
        f, h = make()
        fn = tw.compile(f) if compiled else f
        x = tw.tensor([1.0, 2.0], requires_grad=True)
        fn(x)
        fn(x).backward()
        assert h.requires_grad
        grads.append((x.grad.tolist(), h.tolist()))
    assert grads[0] == grads[1]


def test_tensors_computed_outside():
    """A closure over a tensor with a history, and over its source; a view of a parameter."""
    results = []
    for compiled in (False, True):
        w = tw.tensor(A, requires_grad=True)
        h, turned = w * 2, w.t()
        f = lambda x: ((x + h) @ turned) * w.sum()
        f = tw.compile(f) if compiled else f
        x = tw.tensor(A + 1, requires_grad=True)
        f(x).sum().backward(retain_graph=True)
        results.append((w.grad.numpy(), x.grad.numpy()))
    np.testing.assert_allclose(results[1], results[0], rtol=1e-12)
    assert compiled_with_gradients(f)


def test_backward_inside_reaches_outside():
    """A function that goes backward beyond itself runs eagerly, with a warning."""

    @tw.compile
    def f(x):
        (x * 3).sum().backward()

    w = tw.tensor([1.0, 2.0], requires_grad=True)
    with pytest.warns(tw.TwofoldWarning, match="computed outside"):
        f(w * 2)
    assert w.grad.tolist() == [6.0, 6.0]


def test_one_part_goes_backward_inside():
    w, v = tw.ones(2, requires_grad=True), tw.ones(2, requires_grad=True)

    def f(x):
        (w * x).sum().backward()
        return v * x

    for fn in (f, tw.compile(f)):
        w.grad = v.grad = None
        y = fn(tw.tensor([3.0, 4.0]))
        assert w.grad.tolist() == [3.0, 4.0] and v.grad is None
        y.sum().backward()
        assert w.grad.tolist() == [3.0, 4.0] and v.grad.tolist() == [3.0, 4.0]


# --- results --------------------------------------------------------------------------------------


def test_results_are_what_the_function_gives():
    w = tw.tensor([1.0], requires_grad=True)

    @tw.compile
    def f(x):
        y = x * w
        return {"x": x, "y": (y, y), "w": w, "n": 3}

    x = tw.ones(1, requires_grad=True)
    out = f(x)
    assert out["x"] is x and out["w"] is w and out["y"][0] is out["y"][1] and out["n"] == 3
    (out["y"][0] + out["y"][1]).backward()
    assert w.grad.tolist() == [2.0]


def test_identity_and_reshaping():
    both(lambda x: (x.reshape(3, 2), x.t(), x.expand(2, 2, 3)), A, backward=False)  # views of the argument
    both(lambda x: ((y := x * 2).reshape(3, 2), y.t(), y.expand(2, 2, 3)), A)
    both(lambda x: (x * 2).t(), A)
    both(lambda x: x * 1.0, A)


def test_control_flow():
    def body(c, x):
        c = (c * x).sin() + x
        return c, c * 2

    both(lambda c, xs: tw.scan(body, c, xs), A[0], A)
    both(lambda x: tw.cond(x.sum() > 0, lambda x: x.exp(), lambda x: x.sin(), x), A)


@pytest.mark.parametrize("dtype", ["float16", "bfloat16", "float32"])
def test_other_dtypes(dtype):
    rng = np.random.default_rng(0)
    grads = []
    for is_compiled in (False, True):
        tw.manual_seed(0)
        net = nn.Sequential(nn.Linear(4, 6), nn.LayerNorm(6), nn.GELU(), nn.Linear(6, 2)).to(getattr(tw, dtype))
        model = tw.compile(net) if is_compiled else net
        x = tw.tensor(rng.standard_normal((3, 4)) if not grads else grads[0][0], dtype=getattr(tw, dtype))
        model(x).sum().backward()
        grads.append((x.double().numpy(), [p.grad.double().numpy() for p in net.parameters()]))
    tolerance = {"float16": 4e-3, "bfloat16": 3e-2, "float32": 1e-5}[dtype]
    for got, expected in zip(grads[1][1], grads[0][1], strict=True):
        np.testing.assert_allclose(got, expected, atol=tolerance * max(1, np.abs(expected).max()))


def test_anomalies_are_found():
    f = tw.compile(lambda x: x.sqrt())
    x = tw.zeros(2, requires_grad=True)
    y = f(x)
    with tw.autograd.detect_anomaly(), pytest.raises(AutogradError, match="NaN"):
        (y * 0).sum().backward()


def test_complex_numbers():
    both(lambda x: (x * (1 + 2j)).abs() + (x + 1j).exp().real, A + 3)
