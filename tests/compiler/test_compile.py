"""Whole training steps, compiled, against the same steps run eagerly."""

from __future__ import annotations

import copy
import warnings

import numpy as np
import pytest
from layer_cases import LAYERS
from nn_harness import Case, leaves, to_twofold
from optim_harness import START, X, Y, loss_of
from test_losses_against_torch import LOSSES
from test_optimizers import CASES as OPTIMIZERS
from twins import assert_close, check, snapshot, specializations

import twofold as tw
import twofold.nn.functional as F
from twofold import nn


def layer_step(layer, optimizer, call):
    def step(*inputs):
        if optimizer is not None:
            optimizer.zero_grad()
        outs = leaves(layer(*[x * 1.0 if x.dtype.is_floating_point else x for x in inputs], **call))
        loss = None
        for out in outs:
            if out.requires_grad:
                term = (out * out * 0.5 + out).mean()
                loss = term if loss is None else loss + term
        if loss is not None:
            loss.backward()
            if optimizer is not None:
                optimizer.step()
        return [o.detach() for o in outs], None if loss is None else loss.detach()

    return step


def in_dtype(value, dtype):
    """Arrays and tensors of floats in a dtype."""
    if isinstance(value, np.ndarray) and value.dtype.kind == "f":
        return value.astype(dtype)
    if isinstance(value, (tuple, list)):
        return type(value)(in_dtype(v, dtype) for v in value)
    if isinstance(value, dict):
        return {k: in_dtype(v, dtype) for k, v in value.items()}
    return value


@pytest.mark.parametrize("dtype", ["float32", "float64"])
@pytest.mark.parametrize("case", LAYERS, ids=str)
def test_layer_in_a_training_step(case: Case, dtype):
    def make():
        layer = getattr(nn, case.name)(*to_twofold(case.args, False), **to_twofold(case.kwargs, False))
        layer = layer.to(getattr(tw, dtype))
        params = list(layer.parameters())
        optimizer = tw.optim.SGD(params, lr=0.01, momentum=0.9) if params else None
        call = to_twofold(in_dtype(case.call, dtype), False)
        return layer_step(layer, optimizer, call), [params, list(layer.buffers())]

    inputs = tuple(to_twofold(in_dtype(case.arrays(), dtype), False))
    if not all(isinstance(x, tw.Tensor) for x in inputs):
        pytest.skip("nested inputs")
    check(make, [inputs] * 3, factor=20)


@pytest.mark.parametrize("dtype", ["float32", "float64"])
@pytest.mark.parametrize(("function", "layer", "case"), LOSSES, ids=lambda v: str(v))
def test_loss(function, layer, case, dtype):
    arrays = in_dtype(case.arrays(), dtype)
    positive = [isinstance(a, np.ndarray) and a.dtype.kind == "f" for a in arrays]
    kwargs = to_twofold(in_dtype(case.kwargs, dtype), False)

    def make():
        params = [nn.Parameter(tw.from_numpy(a.copy())) for a, p in zip(arrays[:1], positive[:1], strict=True) if p]
        loss_fn = getattr(nn, layer)(*case.args, **kwargs)
        optimizer = tw.optim.SGD(params, lr=0.01)

        def step(*rest):
            optimizer.zero_grad()
            loss = loss_fn(*params, *rest)
            loss.backward()
            optimizer.step()
            return loss.detach()

        return step, params

    check(make, [tuple(to_twofold(arrays[1:], False))] * 3, factor=20)


def small_training(name, options, dtype=tw.float64):
    params = [tw.tensor(a, dtype=dtype, requires_grad=True) for a in START]
    optimizer = getattr(tw.optim, name)(params, **options)

    def step(x, y):
        optimizer.zero_grad()
        loss = loss_of(tw, params, x, y)
        loss.backward()
        optimizer.step()
        return loss.detach()

    return step, params, optimizer


@pytest.mark.parametrize("dtype", ["float32", "float64"])
@pytest.mark.parametrize(("name", "options"), OPTIMIZERS, ids=lambda v: str(v))
def test_optimizer(name, options, dtype):
    """With another learning rate every step, which must not be traced again."""

    def make():
        step, params, optimizer = small_training(name, options, getattr(tw, dtype))
        made.append(optimizer)
        return step, lambda: [params, optimizer.state_dict()["state"]]

    def before(i, _):
        made[-1].param_groups[0]["lr"] = options.get("lr", 1.0) / (1 + i)

    made: list = []
    args = (tw.tensor(X, dtype=getattr(tw, dtype)), tw.tensor(Y, dtype=getattr(tw, dtype)))
    compiled = check(make, [args] * 4, before=before, factor=50)
    assert len(compiled.reasons) == 1, compiled.explain()


SCHEDULES = [
    ("StepLR", {"step_size": 1, "gamma": 0.5}), ("ExponentialLR", {"gamma": 0.7}),
    ("CosineAnnealingLR", {"T_max": 9}), ("OneCycleLR", {"max_lr": 0.1, "total_steps": 8}),
    ("LinearLR", {"total_iters": 3}),
]  # fmt: skip


@pytest.mark.parametrize(("name", "options"), SCHEDULES, ids=lambda v: str(v))
def test_schedules_do_not_trace_again(name, options):
    results = []
    for compiled in (False, True):
        step, params, optimizer = small_training("Adam", {"lr": 0.02})
        scheduler = getattr(tw.optim.lr_scheduler, name)(optimizer, **options)
        call = tw.compile(step) if compiled else step
        out = []
        for _ in range(5):
            out += [call(tw.tensor(X), tw.tensor(Y)), optimizer.param_groups[0]["lr"]]
            scheduler.step()
        results.append(snapshot([out, params]))
    assert specializations(call) == 1 and len(call.reasons) == 1, call.explain()
    assert_close(results[1], results[0], factor=10)


@pytest.mark.parametrize("dtype", ["float16", "bfloat16"])
def test_half_precision_training(dtype):
    """A few layers, where the rounding after every primitive is the same as eagerly."""

    def make():
        net = nn.Sequential(nn.Linear(5, 8), nn.LayerNorm(8), nn.GELU(), nn.Linear(8, 3)).to(getattr(tw, dtype))
        optimizer = tw.optim.SGD(net.parameters(), lr=0.05, momentum=0.5)

        def step(x, y):
            optimizer.zero_grad()
            loss = F.mse_loss(net(x), y)
            loss.backward()
            optimizer.step()
            return loss.detach()

        return step, list(net.parameters())

    check(make, [(tw.tensor(X).to(getattr(tw, dtype)), tw.tensor(Y).to(getattr(tw, dtype)))] * 3, factor=4)


# --- the forms of a training loop -----------------------------------------------------------------


def network():
    return nn.Sequential(
        nn.Linear(5, 8, bias=False), nn.BatchNorm1d(8), nn.ReLU(), nn.Dropout(0.25), nn.Linear(8, 3)
    )  # a bias before the norm has a gradient of rounding errors only


def batches(n, size=6):
    rng = np.random.default_rng(n)
    return [
        (
            tw.tensor(rng.standard_normal((size, 5)).astype(np.float32)),
            tw.tensor(rng.integers(0, 3, size)),
        )
        for _ in range(n)
    ]


def trained(net, optimizer, **zero):
    def step(x, y):
        optimizer.zero_grad(**zero)
        loss = F.cross_entropy(net(x), y)
        loss.backward()
        optimizer.step()
        return loss.detach()

    return step


def watch(net, optimizer):
    return lambda: [net.state_dict(), optimizer.state_dict()["state"], [p.grad for p in net.parameters()]]


def test_dropout_batch_norm_and_adam_with_the_same_random_numbers():
    def make():
        net = network()
        optimizer = tw.optim.Adam(net.parameters(), lr=0.01)
        return trained(net, optimizer), watch(net, optimizer)

    check(make, batches(5), factor=100)


def test_train_and_eval_are_two_programs():
    def make():
        net = network()
        nets.append(net)

        def forward(x):
            with tw.no_grad():
                return net(x)

        return forward, lambda: net.state_dict()

    def before(i, _):
        nets[-1].train(i % 2 == 0)

    nets: list = []
    compiled = check(make, [(x,) for x, _ in batches(6)], programs=2, before=before, factor=10)
    assert len(compiled.reasons) == 2 and "training" in compiled.explain()


@pytest.mark.parametrize("part", ["layer", "eval of one", "momentum", "p of dropout"])
def test_changed_settings_are_noticed(part):
    def make():
        net = network()
        optimizer = tw.optim.SGD(net.parameters(), lr=0.1, momentum=0.5)
        made.append((net, optimizer))
        return trained(net, optimizer), watch(net, optimizer)

    def before(i, _):
        net, optimizer = made[-1]
        if i != 2:
            return
        if part == "layer":
            net[2] = nn.Tanh()
        elif part == "eval of one":
            net[3].eval()
        elif part == "momentum":
            optimizer.param_groups[0]["nesterov"] = True
        else:
            net[3].p = 0.5

    made: list = []
    check(make, batches(4), programs=2, before=before, factor=100)


def test_last_smaller_batch():
    def make():
        net = network()
        optimizer = tw.optim.Adam(net.parameters(), lr=0.01)
        return trained(net, optimizer), watch(net, optimizer)

    whole, small = batches(4), batches(2, 2)
    check(make, [*whole, small[0], *whole, small[1]], programs=2, factor=300)


def test_gradients_are_accumulated():
    def make():
        net = network()
        optimizer = tw.optim.SGD(net.parameters(), lr=0.1)

        def step(x, y, last):
            loss = F.cross_entropy(net(x), y) / 2
            loss.backward()
            if last:
                optimizer.step()
                optimizer.zero_grad()
            return loss.detach()

        return step, watch(net, optimizer)

    check(make, [(*b, i % 2 == 1) for i, b in enumerate(batches(6))], programs=2, factor=100)


@pytest.mark.parametrize("outside", [False, True])
def test_zero_grad_to_zeros(outside):
    def make():
        net = network()
        optimizer = tw.optim.SGD(net.parameters(), lr=0.1)
        made.append(optimizer)
        return trained(net, optimizer, set_to_none=False), watch(net, optimizer)

    def before(i, _):
        if outside and i:
            made[-1].zero_grad(set_to_none=False)

    made: list = []
    check(make, batches(4), programs=2, before=before, factor=100)  # the first has no gradients to set to zero


def test_the_gradient_tensor_that_is_added_to_is_kept():
    for run in (lambda f: f, tw.compile):
        w = tw.tensor([1.0, 2.0], requires_grad=True)
        w.grad = tw.ones(2)

        def step(x, w=w):
            w.grad.zero_()
            (w * x).sum().backward()

        held, step = w.grad, run(step)
        step(tw.tensor([3.0, 4.0]))
        assert w.grad.tolist() == [3.0, 4.0] and held.tolist() == [0.0, 0.0], "written, and then left behind"


def test_a_frozen_layer():
    def make():
        net = network()
        optimizer = tw.optim.SGD(net.parameters(), lr=0.1)
        nets.append(net)
        return trained(net, optimizer), watch(net, optimizer)

    def before(i, _):
        for p in nets[-1][0].parameters():
            p.requires_grad_(i not in (2, 3))

    nets: list = []
    check(make, batches(6), programs=None, before=before, factor=100)


def test_a_growing_network():
    def make():
        net = network()
        optimizer = tw.optim.Adam(net.parameters(), lr=0.01)
        made.append((net, optimizer))
        return trained(net, optimizer), watch(net, optimizer)

    def before(i, _):
        if i == 2:
            net, optimizer = made[-1]
            new = nn.Linear(3, 3)
            net.append(new)
            optimizer.add_param_group({"params": list(new.parameters()), "lr": 0.1})

    made: list = []
    check(make, batches(5), programs=2, before=before, factor=300)


def test_clipping_and_a_loss_scale():
    def make():
        net = network()
        optimizer = tw.optim.AdamW(net.parameters(), lr=0.01)

        def step(x, y, scale):
            optimizer.zero_grad()
            loss = F.cross_entropy(net(x), y)
            (loss * scale).backward()
            norm = nn.utils.clip_grad_norm_(net.parameters(), 0.5)
            optimizer.step()
            return loss.detach(), norm

        return step, watch(net, optimizer)

    check(make, [(*b, 4.0) for b in batches(3)], factor=300)


def test_a_moving_average_of_the_weights():
    def make():
        net = network()
        shadow = copy.deepcopy(net)
        optimizer = tw.optim.SGD(net.parameters(), lr=0.1)
        inner = trained(net, optimizer)

        def step(x, y):
            loss = inner(x, y)
            with tw.no_grad():
                for s, p in zip(shadow.parameters(), net.parameters(), strict=True):
                    s.mul_(0.9).add_(p, alpha=0.1)
            return loss

        return step, lambda: [shadow.state_dict(), net.state_dict()]

    check(make, batches(3), factor=100)


def test_weights_that_are_shared():
    def make():
        embedding, out = nn.Embedding(7, 4), nn.Linear(4, 7, bias=False)
        out.weight = embedding.weight
        optimizer = tw.optim.Adam([embedding.weight], lr=0.05)

        def step(ids):
            optimizer.zero_grad()
            loss = F.cross_entropy(out(embedding(ids)), ids)
            loss.backward()
            optimizer.step()
            return loss.detach()

        return step, [embedding.weight]

    check(make, [(tw.tensor([1, 2, 2, 6]),), (tw.tensor([0, 1, 5, 5]),)], factor=20)


def test_two_optimizers_and_an_adversary():
    def make():
        maker, judge = nn.Linear(2, 3), nn.Linear(3, 1)
        a, b = tw.optim.Adam(maker.parameters(), lr=0.1), tw.optim.SGD(judge.parameters(), lr=0.1, momentum=0.9)

        def step(z, real):
            b.zero_grad()
            fake = maker(z)
            loss = F.softplus(judge(fake.detach())).mean() + F.softplus(-judge(real)).mean()
            loss.backward()
            b.step()
            a.zero_grad()
            other = F.softplus(-judge(fake)).mean()
            other.backward()
            a.step()
            return loss.detach(), other.detach()

        return step, lambda: [maker.state_dict(), judge.state_dict(), [p.grad for p in judge.parameters()]]

    check(make, [(tw.randn(4, 2), tw.randn(4, 3)) for _ in range(3)], factor=50)


def test_second_derivatives():
    def make():
        net = nn.Sequential(nn.Linear(2, 4), nn.Tanh(), nn.Linear(4, 1))
        optimizer = tw.optim.SGD(net.parameters(), lr=0.1)

        def step(x):
            optimizer.zero_grad()
            x = x.requires_grad_()
            (g,) = tw.autograd.grad(net(x).sum(), x, create_graph=True)
            loss = ((g.square().sum(1) + 1e-6).sqrt() - 1).square().mean()
            loss.backward()
            optimizer.step()
            return loss.detach()

        return step, list(net.parameters())

    check(make, [(tw.randn(3, 2),)] * 3, factor=50, programs=None)


def test_the_gradient_of_an_argument():
    def make():
        w = tw.tensor([2.0, 3.0])

        def step(x):
            (w * x * x).sum().backward()

        return step, w

    for fn in (make()[0], tw.compile(make()[0])):
        x = tw.tensor([1.0, 2.0], requires_grad=True)
        fn(x)
        fn(x)
        assert x.grad is not None and x.grad.tolist() == [8.0, 24.0]


def test_hooks_run_at_the_trace_only_where_they_compute():
    """A hook on a parameter that changes the gradient is part of the program."""

    def make():
        net = nn.Linear(3, 2)
        net.weight.register_hook(lambda g: g.clamp(-0.1, 0.1))
        optimizer = tw.optim.SGD(net.parameters(), lr=1.0)
        return (lambda x: _hook_step(net, optimizer, x)), list(net.parameters())

    check(make, [(tw.randn(4, 3),)] * 3, factor=10)


def _hook_step(net, optimizer, x):
    optimizer.zero_grad()
    loss = net(x).square().sum()
    loss.backward()
    optimizer.step()
    return loss.detach()


def test_a_thousand_dropouts_are_the_eager_ones():
    def make():
        return (lambda x: (F.dropout(x, 0.3), F.dropout(x, 0.3), tw.rand(5), tw.randint(0, 9, (4,)))), []

    check(make, [(tw.ones(10, 10),), (tw.ones(10, 10),), (tw.ones(3),), (tw.ones(10, 10),)], programs=2)


def test_warns_once_where_an_array_is_taken():
    net = nn.Linear(3, 1)

    @tw.compile
    def f(x):
        y = net(x).detach().sum()
        return tw.tensor(abs(y.numpy()))

    with pytest.warns(tw.TwofoldWarning, match="runs eagerly") as seen:
        a = f(tw.ones(3))
    assert len(seen) == 1
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        assert f(tw.ones(3)).item() == a.item() == abs(net(tw.ones(3)).item())
        assert f(-tw.ones(3)).item() >= 0


@pytest.mark.parametrize("dtype", [tw.float64, tw.float32, tw.float16, tw.bfloat16, tw.int32])
@pytest.mark.parametrize("n", [1, 2, 3, 5, 9, 15, 17, 18, 33, 34])
def test_a_sum_of_quotients_has_the_elements_only(n, dtype):
    """What a vector holds beyond the end of a row, 0 / 0, is not in it."""
    rng = np.random.default_rng(n)
    x = tw.tensor(rng.integers(1, 9, (n, 2)), dtype=dtype)
    y = tw.tensor(rng.integers(1, 9, (n, 2)), dtype=dtype)

    def f(a, b):
        q = a // b if dtype is tw.int32 else a / b
        return q.sum(), q.amax(), (a % b).sum()

    for a, b in ((x.reshape(-1)[:n].clone(), y.reshape(-1)[:n].clone()), (x[:, 0], y[:, 1]), (x.mT, y.mT)):
        expected = f(a, b)
        for got, want in zip(tw.compile(f)(a, b), expected, strict=True):
            np.testing.assert_allclose(got.double().numpy(), want.double().numpy(), rtol=0.02)
