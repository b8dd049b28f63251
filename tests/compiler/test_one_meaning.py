"""One meaning: what code computes eagerly and what it computes compiled are the same bits."""

from __future__ import annotations

import copy
import warnings

import numpy as np
import pytest
from layer_cases import LAYERS
from nn_harness import leaves, to_twofold
from test_fallbacks import LOSSES, cast
from test_kernels import CASES, NAMES, NOT_KERNELS, PRIMITIVES, build, is_array, samples
from test_verify import convolutional, perceptron

import twofold as tw
import twofold.nn.functional as F
from twofold import nn
from twofold.backends.cpu.program import Program
from twofold.compiler.pipeline import optimize
from twofold.ir.dtypes import BY_NAME


def assert_same_bits(got, want, what):
    """Equal to the bit, save that one NaN is as good as another."""
    assert (got.shape, got.dtype) == (want.shape, want.dtype), what
    if got.tobytes() == want.tobytes():
        return
    if got.dtype.kind == "c":
        got, want = (np.stack([x.real, x.imag], axis=-1) for x in (got, want))
    same = np.ascontiguousarray(got).view(np.uint8) == np.ascontiguousarray(want).view(np.uint8)
    same = same.reshape(*got.shape, -1).all(-1) | ((got != got) & (want != want))
    assert same.all(), f"{what}: {(~same).sum()} of {same.size}, such as {got[~same][0]} for {want[~same][0]}"


INSIDE = {name for name in NAMES if "_last" in name}  # only programs have them


@pytest.mark.parametrize("name", [name for name in NAMES if name not in NOT_KERNELS | INSIDE])
def test_primitives(name):
    graph, arguments, _ = build(name)
    got = iter(Program(optimize(graph))(arguments))
    p = PRIMITIVES[name]
    with tw.no_grad():
        for dtype in [d for n, d in CASES if n == name]:
            for sample in samples(p, BY_NAME[dtype]):
                inputs = [tw.from_numpy(np.array(x, order="C")) if is_array(x) else x for x in sample.inputs]
                out = p(*inputs, **sample.params)
                for y in out if p.multiple else (out,):
                    z = next(got)
                    assert_same_bits(z, y.numpy(), f"{name} {dtype} {sample.params}")


def step_of(make, case, dtype):
    """What is called with no arguments and gives results and gradients, and the module."""
    given = lambda x: cast(to_twofold(x, False), dtype)
    tw.manual_seed(0)
    module = make(*given(case.args), **given(case.kwargs)).to(dtype)
    inputs = [x.requires_grad_(x.dtype.is_floating_point) for x in leaves(given(case.arrays()))]
    nested = [i for i, x in enumerate(case.inputs) if isinstance(x, tuple) and not isinstance(x[0], int)]

    def step():
        for t in (*inputs, *module.parameters()):
            t.grad = None
        args = [x * 1.0 if x.dtype.is_floating_point else x for x in inputs]
        if nested:
            args = [*args[: nested[0]], tuple(args[nested[0] :])]
        outs = leaves(module(*args, **given(case.call)))
        wanted = [out for out in outs if out.requires_grad]
        if wanted:
            sum((out * out * 0.5 + out).sum() for out in wanted).backward()
        return [out.detach() for out in outs]

    return step, [*inputs, *module.parameters()], list(module.buffers())


def left(step, tensors, buffers, calls=3):
    """All that some calls leave."""
    tw.manual_seed(1)
    out = []
    for _ in range(calls):
        out += [y.numpy().copy() for y in step()]
        out += [t.grad.numpy().copy() for t in tensors if t.grad is not None]
    return [*out, *[b.numpy().copy() for b in buffers], tw.get_rng_state().numpy().copy()]


def check(make, case, dtype):
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        want = left(*step_of(make, case, dtype))
        step, tensors, buffers = step_of(make, case, dtype)
        got = left(tw.compile(step), tensors, buffers)
    assert len(got) == len(want)
    for i, (a, b) in enumerate(zip(got, want, strict=True)):
        assert_same_bits(a, b, f"{case} in {dtype.name}, array {i} of {len(want)}")


@pytest.mark.parametrize("kind", sorted({case.name for case in LAYERS}))
def test_layers(kind):
    for number, case in enumerate(case for case in LAYERS if case.name == kind):
        check(getattr(nn, kind), case, (tw.float32, tw.float64, tw.bfloat16)[number % 3])


@pytest.mark.parametrize("kind", sorted({layer for _, layer, _ in LOSSES}))
def test_losses(kind):
    for number, case in enumerate(case for _, layer, case in LOSSES if layer == kind):
        check(getattr(nn, kind), case, (tw.float32, tw.float64)[number % 2])


@pytest.mark.parametrize(("make", "shape"), [(perceptron, (17, 20)), (convolutional, (20, 400))])
def test_training(make, shape):
    tw.manual_seed(0)
    models = [make()]
    models.append(copy.deepcopy(models[0]))
    x, y = tw.randn(shape), tw.randint(0, 5, shape[:1])
    losses = []
    for model, how in zip(models, (lambda f: f, tw.compile), strict=True):
        optimizer = tw.optim.AdamW(model.parameters())
        tw.manual_seed(1)

        def step(x, y, model=model, optimizer=optimizer):
            optimizer.zero_grad()
            loss = F.cross_entropy(model(x), y)
            loss.backward()
            optimizer.step()
            return loss.detach()

        step = how(step)
        losses.append([step(x, y).item() for _ in range(5)])
    assert losses[0] == losses[1]
    for (name, a), b in zip(models[0].state_dict().items(), models[1].state_dict().values(), strict=True):
        assert_same_bits(a.numpy(), b.numpy(), name)


@pytest.mark.parametrize("dtype", [tw.float32, tw.float64, tw.float16, tw.bfloat16, tw.int32])
def test_powers(dtype):
    """However an exponent arrives: as a number, as a tensor of one or many, as a constant of a program."""
    x = tw.randn(700) * 10.0 ** tw.randint(-3, 4, (700,))
    special = tw.tensor([0.0, -0.0, 1e-40, -1e-40, 3e38, -3e38, np.inf, -np.inf, np.nan, 1.0, -1.0])
    x = tw.cat([x, special]).to(dtype) if dtype.is_floating_point else tw.randint(-90, 90, (700,)).to(dtype)
    power = PRIMITIVES["pow"]  # the operator takes 3 for two products in every dtype, and -1 for a division
    for n in (-1, 0, 1, 2, 3, 4, 5, 2.5, -2) if dtype.is_floating_point else (0, 1, 2, 3, 4, 5):
        want, one = power(x, n).numpy(), tw.tensor(n, dtype=dtype)
        ways = {
            "one": power(x, one),
            "many": power(x, tw.full(x.shape, n, dtype=dtype)),
            "mixed": power(x[:, None], tw.tensor([7, n], dtype=dtype))[:, 1],
            "number, compiled": tw.compile(lambda x, n=n: power(x, n))(x),
            "argument, compiled": tw.compile(power)(x, one),
            "constant, compiled": tw.compile(lambda x, n=n: power(x, tw.tensor(n, dtype=dtype)))(x),
        }
        for way, got in ways.items():
            assert_same_bits(got.numpy(), want, f"{dtype.name} to the power {n}: {way}")


def _scanned(w, h, x):
    def step(h, x):  # what is read from outside twice has a gradient whose parts a compiled step sums first
        h = tw.tanh((x + h) @ w) + tw.sigmoid(h).sum(0) / 7
        return h, h.exp().sum(1)

    h, ys = tw.scan(step, h, x)
    loss = h.sum() + (ys * ys).mean()
    loss.backward()
    grads, w.grad, h.grad = (loss.detach(), w.grad), None, None
    return grads


def _chosen(w, h, x):
    return tw.cond(x.sum() > 0, lambda x: (x.exp() * x.sin()).sum(1), lambda x: tw.log(x.cos().abs()).sum(1), x)


def _repeated(w, h, x):
    return tw.while_loop(lambda v: (v * v).sum() < 1000, lambda v: v * 1.01 + v.sin().softmax(-1), x[0])


@pytest.mark.parametrize("fn", [_scanned, _chosen, _repeated])
def test_control_flow(fn):
    """What the graphs of branches and loops compute is what the Python statements compute."""
    tw.manual_seed(0)
    w, h, x = tw.randn(8, 8).mul_(0.5).requires_grad_(), tw.zeros(5, 8), tw.randn(20, 5, 8)
    for sign in (1, -1):
        want, got = (leaves(f(w, h, x * sign)) for f in (fn, tw.compile(fn)))
        for a, b in zip(got, want, strict=True):
            assert_same_bits(a.numpy(), b.numpy(), fn.__name__)
