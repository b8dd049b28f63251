"""Fused composites: eager softmax, norms, losses as programs of their own give the bits of their operations."""

import gc
import itertools
import os
import threading
import warnings

import numpy as np
import pytest

import twofold as tw
import twofold.nn.functional as F
from twofold.autodiff.composite import COMPOSITES
from twofold.compiler import composed, composites
from twofold.compiler.composed import ComposedNode
from twofold.ir import config
from twofold.ir.errors import AutogradError, OutOfBoundsError, ShapeError

NAMES = {known.fn.__name__: known for known in COMPOSITES}


@pytest.fixture(autouse=True)
def fused(monkeypatch):
    """Programs are made in the first call, and run from the second one on."""
    monkeypatch.setattr(composites, "_due", lambda programs: 0.0)
    with config.EAGER_COMPOSITES.set(True):
        yield


def floats(*shape, seed=0):
    return tw.tensor(np.random.default_rng(seed).normal(size=shape).astype(np.float32), requires_grad=True)


def plain(*shape, seed=5):
    return floats(*shape, seed=seed).detach().abs()


IMAGE = (2, 4, 6, 5)


def affine(n=4):
    return floats(n, seed=1), floats(n, seed=2)


def norm(training):
    return lambda x, w, b, m, v: F.batch_norm(x, m, v, w, b, training)


CLASSES = [1, 2, 0, 6, 3]
CASES = {
    "softmax": (lambda x: F.softmax(x, -1), [floats(5, 7)]),
    "log_softmax": (lambda x: F.log_softmax(x, 0), [floats(5, 7)]),
    "logsumexp": (lambda x: x.logsumexp(1), [floats(5, 7)]),
    "mean": (lambda x: x.mean(0), [floats(5, 7)]),
    "var": (lambda x: x.var(1), [floats(5, 7)]),
    "std": (lambda x: x.std(), [floats(5, 7)]),
    "layer_norm": (lambda x, w, b: F.layer_norm(x, (7,), w, b), [floats(5, 7), *affine(7)]),
    "rms_norm": (lambda x, w: F.rms_norm(x, [7], w), [floats(5, 7), floats(7)]),
    "group_norm": (lambda x, w, b: F.group_norm(x, 2, w, b), [floats(*IMAGE), *affine()]),
    "instance_norm": (lambda x, w, b: F.instance_norm(x, weight=w, bias=b), [floats(*IMAGE), *affine()]),
    "batch_norm": (norm(True), [floats(*IMAGE), *affine(), plain(4), plain(4, seed=6)]),
    "batch_norm, evaluating": (norm(False), [floats(*IMAGE), *affine(), plain(4), plain(4, seed=6)]),
    "gelu": (lambda x: F.gelu(x), [floats(5, 7)]),
    "gelu, tanh": (lambda x: F.gelu(x, approximate="tanh"), [floats(5, 7)]),
    "dropout": (lambda x: F.dropout(x, 0.3), [floats(5, 7)]),
    "cross_entropy": (F.cross_entropy, [floats(5, 7), tw.tensor(CLASSES)]),
    "cross_entropy, all": (
        lambda x, t, w: F.cross_entropy(x, t, w, ignore_index=2, label_smoothing=0.1),
        [floats(5, 7), tw.tensor(CLASSES), plain(7)],
    ),
    "nll_loss": (lambda x, t: F.nll_loss(x, t, reduction="sum"), [floats(5, 7), tw.tensor(CLASSES)]),
    "binary_cross_entropy_with_logits": (F.binary_cross_entropy_with_logits, [floats(5, 7), plain(5, 7)]),
    "mse_loss": (F.mse_loss, [floats(5, 7), floats(5, 7, seed=3)]),
    "l1_loss": (F.l1_loss, [floats(5, 7), plain(5, 7)]),
    "smooth_l1_loss": (F.smooth_l1_loss, [floats(5, 7), plain(5, 7)]),
    "huber_loss": (F.huber_loss, [floats(5, 7), plain(5, 7)]),
    "linear": (F.linear, [floats(5, 7), floats(3, 7, seed=1), floats(3)]),
    "scaled_dot_product_attention": (
        lambda q, k, v: F.scaled_dot_product_attention(q, k, v, is_causal=True),
        [floats(2, 3, 4, seed=0), floats(2, 5, 4, seed=1), floats(2, 5, 6, seed=2)],
    ),
    "scaled_dot_product_attention, dropout": (
        lambda q, k, v: F.scaled_dot_product_attention(q, k, v, dropout_p=0.2),
        [floats(2, 3, 4, seed=0), floats(2, 5, 4, seed=1), floats(2, 5, 6, seed=2)],
    ),
}  # fmt: skip
WITHOUT_GRADIENT = {
    "any": lambda x: (x > 1).any(1),
    "all": lambda x: (x > -1).all(),
    "argmax": lambda x: x.argmax(0, keepdim=True),
    "argmin": lambda x: x.argmin(),
}
CASES |= {
    "norm": (lambda x: x.norm(), [floats(5, 7)]),
    "norm, of rows": (lambda x: x.norm(3, dim=1, keepdim=True), [floats(5, 7)]),
    "clamp": (lambda x: x.clamp(-0.5, 1), [floats(5, 7)]),
    "clamp, to tensors": (lambda x, low: x.clamp(low), [floats(5, 7), floats(7, seed=1)]),
    "tril": (lambda x: x.tril(1), [floats(5, 7)]),
    "triu": (lambda x: x.triu(), [floats(2, 5, 7)]),
    "max_along": (lambda x: x.max(1).values, [floats(5, 7)]),
    "min_along": (lambda x: x.min(0, keepdim=True)[0], [floats(5, 7)]),
    "gather": (lambda x, i: x.gather(1, i), [floats(5, 7), tw.tensor([[1, 2, -1, 1, 0]] * 4)]),
    "cumsum": (lambda x: x.cumsum(1), [floats(5, 7)]),
    "sort": (lambda x: x.sort(0, descending=True).values, [floats(5, 7)]),
    "topk": (lambda x: x.topk(3).values, [floats(5, 7)]),
    "einsum": (lambda x, y: tw.einsum("bij,kj->bki", x, y), [floats(2, 5, 7), floats(3, 7, seed=1)]),
    "product_with_vector": (lambda x, y: x @ y, [floats(2, 5, 7), floats(7, seed=1)]),
    "product_with_vector, first": (lambda x, y: x @ y, [floats(5), floats(5, 7, seed=1)]),
    "product_with_vector, both": (lambda x, y: x @ y, [floats(5), floats(5, seed=1)]),
    "addmm": (lambda x, a, b: tw.addmm(x, a, b, alpha=0.5), [floats(7), floats(5, 3), floats(3, 7, seed=1)]),
    "baddbmm": (lambda x, a, b: x.baddbmm(a, b), [floats(2, 5, 7), floats(2, 5, 3), floats(2, 3, 7, seed=1)]),
    "constant_pad": (lambda x: F.pad(x, (1, 2, 0, 1), value=2.0), [floats(5, 7)]),
}
for name in ("silu", "mish", "leaky_relu", "elu", "selu", "celu", "hardtanh", "relu6", "hardswish", "hardsigmoid"):
    CASES[name] = (getattr(F, name), [floats(5, 7)])
for name in ("softplus", "softsign"):
    CASES[name] = (getattr(F, name), [floats(5, 7)])


def spatial(n, size):
    """Layers over signals, images and volumes."""

    def named(name):
        return getattr(F, f"{name}{n}d")

    x, around = floats(2, 3, *size), (2,) * n
    yield "max_pool", lambda x: named("max_pool")(x, 2, 1), [x]
    yield "avg_pool", lambda x: named("avg_pool")(x, 2, 1), [x]
    yield "adaptive_avg_pool", lambda x: named("adaptive_avg_pool")(x, 2), [x]
    filters = [floats(4, 3, *around, seed=1), floats(4)]
    yield "conv", lambda x, w, b: named("conv")(x, w, b, padding=1), [x, *filters]
    filters = [floats(3, 4, *around, seed=1), floats(4)]
    yield "conv_transpose", lambda x, w, b: named("conv_transpose")(x, w, b, stride=2), [x, *filters]


for n, size in enumerate(((6,), (6, 5), (4, 5, 3)), 1):
    CASES.update({f"{name}{n}d": (fn, args) for name, fn, args in spatial(n, size)})


def known_of(case):
    return NAMES[case.split(",")[0]]


def fused_of(case):
    """Where the programs of a composite are."""
    run = known_of(case).run
    return next(c.cell_contents for c in run.__closure__ if isinstance(c.cell_contents, composites.Fused))


def test_every_fused_composite_is_tested_here():
    assert {case.split(",")[0] for case in CASES} | WITHOUT_GRADIENT.keys() == NAMES.keys()


def fresh(args):
    return [a.detach().clone().requires_grad_(a.requires_grad) for a in args]


def everything(fn, args, grad=True):
    """Result, gradients, what else the arguments are afterwards, and where the generator stands.

    Inputs are used before and after, so that it matters in what order gradients are added.
    """
    tw.manual_seed(3)
    args = fresh(args)
    with tw.set_grad_enabled(grad):
        inputs = [a * 1.5 if a.requires_grad else a for a in args]
        early = [(a * 0.1).sum() for a in inputs if a.requires_grad]
        y = fn(*inputs)
        node = y.grad_fn
        late = [(a * a * 0.3).sum() for a in inputs if a.requires_grad]
        weights = tw.arange(y.numel(), dtype=y.dtype).reshape(y.shape) / y.numel()
        if grad:
            (sum(late, (y * weights).sum()) + sum(early)).backward()
    found = [y, *args, *[a.grad for a in args if a.grad is not None], tw.get_rng_state()]
    return node, [t.detach().numpy().copy() for t in found]


def same(a, b):
    return all(x.tobytes() == y.tobytes() for x, y in zip(a, b, strict=True))


@pytest.mark.parametrize("grad", [True, False], ids=["grad", "no grad"])
@pytest.mark.parametrize("case", CASES)
def test_bits_are_those_of_the_operations(case, grad):
    fn, args = CASES[case]
    with config.EAGER_COMPOSITES.set(False):
        node, want = everything(fn, args, grad)
    assert not isinstance(node, ComposedNode)
    everything(fn, args, grad)
    before = len(fused_of(case).programs)
    node, got = everything(fn, args, grad)
    assert isinstance(node, ComposedNode) is grad and before > 0
    assert same(got, want)


@pytest.mark.parametrize("case", CASES)
def test_bits_are_those_of_compiled_code(case):
    fn, args = CASES[case]
    everything(fn, args)
    _, got = everything(fn, args)
    _, want = everything(tw.compile(fn), args)
    assert same(got, want)


@pytest.mark.parametrize("case", WITHOUT_GRADIENT)
@pytest.mark.parametrize("dtype", [tw.float32, tw.int64])
def test_what_has_no_gradient(case, dtype):
    fn = WITHOUT_GRADIENT[case]
    x = (floats(5, 7) * 2).to(dtype)
    with config.EAGER_COMPOSITES.set(False):
        want = fn(x)
    got = warm(fn, x, times=3)
    assert fused_of(case).programs
    assert got.dtype is want.dtype and got.shape == want.shape and not got.requires_grad and (got == want).all()


def second(fn, given):
    """Gradients of gradients, in float64."""
    tw.manual_seed(3)
    args = [a.detach().double() if a.is_floating_point() else a for a in given]
    args = [a.requires_grad_(b.requires_grad) for a, b in zip(args, given, strict=True)]
    leaves = [a for a in args if a.requires_grad]
    y = fn(*args)
    g = tw.autograd.grad((y * y).sum(), leaves, create_graph=True)
    total = sum((t * t).sum() for t in g)
    again = tw.autograd.grad(total, leaves, allow_unused=True)
    return isinstance(y.grad_fn, ComposedNode), [t.detach().numpy() for t in (*g, *again) if t is not None]


@pytest.mark.parametrize("case", CASES)
def test_gradients_of_gradients(case):
    fn, args = CASES[case]
    with config.EAGER_COMPOSITES.set(False):
        _, want = second(fn, args)
    second(fn, args)
    is_fused, got = second(fn, args)
    assert is_fused
    for a, b in zip(got, want, strict=True):
        np.testing.assert_allclose(a, b, rtol=1e-8, atol=1e-9 * max(1.0, np.abs(b).max()))


@pytest.mark.parametrize("dtype", [tw.float64, tw.float16, tw.bfloat16])
@pytest.mark.parametrize(
    "case", ["softmax", "layer_norm", "gelu", "cross_entropy", "linear", "batch_norm", "conv2d"]
)
def test_other_dtypes(case, dtype):
    fn, args = CASES[case]
    args = [a.detach().to(dtype).requires_grad_(a.requires_grad) if a.is_floating_point() else a for a in args]
    with config.EAGER_COMPOSITES.set(False):
        _, want = everything(fn, args)
    everything(fn, args)
    node, got = everything(fn, args)
    assert isinstance(node, ComposedNode) and same(got, want)


def test_complex_numbers_stay_with_the_operations():
    x = tw.complex(floats(3, 4).detach(), plain(3, 4)).requires_grad_()
    assert not isinstance(warm(lambda: x.mean(1), times=3).grad_fn, ComposedNode)


def warm(fn, *args, times=2):
    for _ in range(times):
        y = fn(*args)
    return y


def test_shapes_and_arguments_may_change():
    for shape in [(3, 4), (5,), (3, 4), (2, 3, 4), (0, 4), (1, 1)]:
        for dim in (0, -1):
            x = floats(*shape)
            with config.EAGER_COMPOSITES.set(False):
                want = F.softmax(x, dim)
            got = warm(F.softmax, x, dim)
            assert got.detach().numpy().tobytes() == want.detach().numpy().tobytes()
    x = floats(4, 4)
    assert (warm(F.leaky_relu, x, 0.0) == F.relu(x)).all()
    assert (warm(F.leaky_relu, x, 1) == x).all() and (warm(F.leaky_relu, x, True) == x).all()
    assert (warm(F.leaky_relu, x, -0.0) == F.leaky_relu(x, 0)).all()
    assert warm(lambda: F.softmax(x, 1, dtype=tw.float64)).dtype is tw.float64
    assert warm(lambda: F.softmax(x, dim=1)).dtype is tw.float32


def test_arrays_may_lie_in_any_way():
    base = floats(6, 8).detach()
    for view in (base.T, base[:, ::2], base[1:3], base[0].expand(4, 8), base.flip(0)):
        want = F.softmax(view.contiguous(), 0)
        assert (warm(F.softmax, view, 0) == want).all()
    image = floats(2, 4, 3, 3).detach()
    stats = plain(8)
    for mean in (stats[:4], stats[::2]):
        for _ in range(3):
            before = mean.clone()
            F.batch_norm(image, mean, None, training=True)
            expected = before * 0.9 + image.mean((0, 2, 3)) * 0.1
            assert tw.allclose(mean, expected)


def test_memory_that_must_not_be_written_is_not():
    image, running = floats(2, 4, 3, 3).detach(), np.zeros(4, np.float32)
    warm(F.batch_norm, image, tw.zeros(4), None, None, None, True)
    running.flags.writeable = False
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        mean = tw.from_numpy(running)
    with pytest.raises(AutogradError, match="read-only"):
        F.batch_norm(image, mean, None, None, None, True)
    assert not running.any()


def test_the_gradient_may_be_repeated_or_of_any_layout():
    x = floats(3, 4)
    for reduce in (lambda y: y.sum(), lambda y: (y.T * 2).sum(), lambda y: y[:, 0].sum()):
        with config.EAGER_COMPOSITES.set(False):
            want = tw.autograd.grad(reduce(F.silu(x)), x)[0]
        got = warm(lambda: tw.autograd.grad(reduce(F.silu(x)), x)[0])
        assert (got == want).all()


def test_the_same_tensor_twice():
    x = floats(2, 3, 4)
    attend = F.scaled_dot_product_attention
    with config.EAGER_COMPOSITES.set(False):
        want = tw.autograd.grad(attend(x, x, x).sum(), x)[0]
    assert (warm(lambda: tw.autograd.grad(attend(x, x, x).sum(), x)[0], times=3) == want).all()


def test_versions_count_writes():
    image, mean = floats(2, 4, 3, 3), tw.zeros(4)
    seen = [mean._version]
    for _ in range(4):
        F.batch_norm(image, mean, None, training=True)
        seen.append(mean._version)
    assert np.diff(seen).tolist() == [1, 1, 1, 1]


# --- the tape ------------------------------------------------------------------------------------


def test_backward_twice_needs_retain_graph():
    x = floats(3, 4)
    y = warm(F.softmax, x, 1)
    assert isinstance(y.grad_fn, ComposedNode) and y.grad_fn.name == "softmax"
    y.sum().backward(retain_graph=True)
    y.sum().backward()
    with pytest.raises(AutogradError, match="freed"):
        y.sum().backward()


@pytest.mark.parametrize("fn", [F.silu, lambda x: F.softmax(x, 0)], ids=["input", "result"])
def test_changes_of_what_backward_needs_are_noticed(fn):
    x = floats(3)
    warm(fn, x)
    z = x * 1
    y = fn(z)
    with tw.no_grad():
        z.add_(1)
        y.add_(1)
    with pytest.raises(AutogradError, match="changed in"):
        y.sum().backward()


def test_what_backward_does_not_need_may_change():
    x = floats(2, 4, 3, 3)
    run = lambda: F.relu(F.batch_norm(x, None, None, *affine(), True), inplace=True).sum().backward()
    with config.EAGER_COMPOSITES.set(False):
        run()
        want, x.grad = x.grad, None
    run()
    x.grad = None
    run()
    assert tw.allclose(x.grad, want)
    z = x * 1
    y = warm(F.dropout, z)
    with tw.no_grad():
        z.zero_()
    y.sum().backward()


def test_hooks_views_and_retained_gradients():
    x = floats(4, 6)
    seen = []
    half = x.T[:3]
    half.register_hook(lambda g: seen.append(g.shape))
    y = warm(F.gelu, half)
    y.retain_grad()
    y.sum().backward()
    assert seen == [(3, 4)] and (y.grad == 1).all()
    assert (x.grad[:, 3:] == 0).all() and (x.grad[:, :3] != 0).all()


def test_writes_to_a_base_reach_the_composite():
    x = floats(4, 6)

    def run():
        z = x * 2
        part = z[0]
        z.mul_(3)
        return tw.autograd.grad(F.gelu(part).sum(), x)[0]

    with config.EAGER_COMPOSITES.set(False):
        want = run()
    assert (warm(run, times=3) == want).all()


def test_in_place_forms_stay_in_place():
    x = floats(3, 4)
    for _ in range(3):
        z = x * 1
        kept = z
        assert F.dropout(z, 0.5, inplace=True) is kept
        z = x * 1
        assert F.hardtanh(z, inplace=True) is z
        assert F.dropout(x, training=False) is x
        with pytest.raises(AutogradError, match="leaf"):
            F.leaky_relu(x, inplace=True)


def test_a_call_leaves_nothing_to_collect():
    x, w, b = floats(5, 7), *affine(7)
    target = tw.tensor(CLASSES)
    step = lambda: F.cross_entropy(F.dropout(F.layer_norm(x, (7,), w, b)), target).backward()
    warm(step)
    gc.collect()
    gc.disable()
    try:
        warm(step, times=5)
        assert gc.collect() == 0
    finally:
        gc.enable()


# --- what is unusual -----------------------------------------------------------------------------


def test_errors_are_those_of_the_operations():
    x = floats(5, 7)
    warm(F.cross_entropy, x, tw.tensor(CLASSES))
    for bad in ([1, 2, 0, 7, 3], [1, 2, 0, -1, 3]):
        for _ in range(2):
            with pytest.raises(OutOfBoundsError, match="target contains the class"):
                F.cross_entropy(x, tw.tensor(bad))
    assert warm(F.cross_entropy, x, tw.tensor([1, 2, 0, -100, 3])).item() > 0
    for _ in range(3):
        with pytest.raises(ShapeError, match=r"do not fit|end in"):
            F.layer_norm(x, (6,))
        with pytest.raises(ShapeError, match="more than 1 value"):
            F.batch_norm(tw.ones(1, 3), None, None, training=True)


def test_errors_of_selections_are_those_of_the_operations():
    x, i = floats(5, 7), tw.zeros(2, 3, dtype=tw.int64)
    warm(lambda: x.gather(1, i), times=3)
    i[1, 2] = 7
    for _ in range(2):
        with pytest.raises(OutOfBoundsError, match="index 7 is out of bounds for dimension 1 of size 7"):
            x.gather(1, i)
        with pytest.raises(OutOfBoundsError, match="dim 2 is outside"):
            x.max(2)
        with pytest.raises(OutOfBoundsError, match="k=8"):
            x.topk(8)
        with pytest.raises(ShapeError, match="inner sizes"):
            x @ tw.ones(6)


def test_an_error_changes_no_state():
    weights, classes = plain(7), tw.tensor(CLASSES)
    warm(lambda: F.nll_loss(plain(5, 7), classes, weights))
    state = tw.get_rng_state()
    with pytest.raises(OutOfBoundsError):
        F.nll_loss(plain(5, 7), tw.tensor([9, 0, 0, 0, 0]), weights)
    assert (tw.get_rng_state() == state).all()
    assert np.isfinite(F.nll_loss(plain(5, 7), classes, weights).item())


def test_warnings_come_in_every_call():
    for _ in range(3):
        with pytest.warns(tw.TwofoldWarning, match="broadcasting"):
            F.mse_loss(tw.ones(3, 2), tw.ones(2))


def test_anomaly_mode_sees_the_operations():
    x = floats(3, 4)
    warm(F.softmax, x, 1)
    with tw.debug.detect_anomaly():
        y = F.softmax(x, 1)
    assert not isinstance(y.grad_fn, ComposedNode)


def test_the_random_stream_of_another_generator_is_not_touched():
    x = tw.ones(50)
    tw.manual_seed(1)
    want = [F.dropout(x).tolist() for _ in range(4)]
    tw.manual_seed(1)
    assert [F.dropout(x).tolist() for _ in range(4)] == want
    assert want[0] != want[1]


def test_threads():
    inputs = [floats(6, 5, seed=i) for i in range(8)]
    with config.EAGER_COMPOSITES.set(False):
        want = [tw.autograd.grad(F.softmax(F.gelu(x), 1)[:, 0].sum(), x)[0].numpy() for x in inputs]
    found = {}

    def work(i):
        x = inputs[i]
        for _ in range(40):
            found[i] = tw.autograd.grad(F.softmax(F.gelu(x), 1)[:, 0].sum(), x)[0].numpy()
            if not np.allclose(found[i], want[i], rtol=1e-5, atol=1e-7):
                return

    threads = [threading.Thread(target=work, args=(i,)) for i in range(8)]
    for t in threads:
        t.start()
    for t in threads:
        t.join()
    for i, a in enumerate(want):
        np.testing.assert_allclose(found[i], a, rtol=1e-5, atol=1e-7)


def test_threads_draw_different_numbers():
    x = tw.ones(64)
    warm(F.dropout, x)
    tw.manual_seed(0)
    found = []

    def work():
        found.extend([tuple(F.dropout(x).tolist()) for _ in range(20)])

    threads = [threading.Thread(target=work) for _ in range(4)]
    for t in threads:
        t.start()
    for t in threads:
        t.join()
    tw.manual_seed(0)
    assert sorted(found) == sorted(tuple(F.dropout(x).tolist()) for _ in range(80))


@pytest.mark.skipif(not hasattr(os, "fork"), reason="no forks here")
def test_forks():
    x = floats(6, 5)
    want = warm(F.softmax, x, 1).detach().numpy().tobytes()
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", DeprecationWarning)
        pid = os.fork()
    if pid == 0:
        got = F.softmax(x, 1).detach().numpy().tobytes() == want and F.elu(floats(3, 9)).shape == (3, 9)
        os._exit(0 if got else 1)
    assert os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]) == 0


# --- the programs --------------------------------------------------------------------------------


@pytest.mark.parametrize(("each", "calls"), [(0.25, 33), (0.5, 17), (100.0, 9)])
def test_keys_that_take_little_time_are_not_compiled(each, calls, monkeypatch):
    monkeypatch.undo()
    now = itertools.count()
    monkeypatch.setattr(composites, "_clock", lambda: next(now) * each)
    fused = fused_of("softplus")
    monkeypatch.setattr(composites, "_SECONDS", 8.0)
    monkeypatch.setattr(fused, "programs", {})
    monkeypatch.setattr(fused, "spent", {})
    with config.EAGER_COMPOSITES.set(True):
        x = floats(3, 11)
        warm(F.softplus, x, times=calls - 1)  # the first one does not count
        assert not fused.programs
        warm(F.softplus, x, times=1)
        assert len(fused.programs) == 1


def test_programs_go_when_there_are_too_many(monkeypatch):
    programs = fused_of("softsign").programs
    kept = composites._KEPT
    monkeypatch.setattr(composites, "_PROGRAMS", len(kept.order) + 2)
    before = set(programs)
    for n in range(20, 26):
        warm(F.softsign, floats(n))
    assert len(kept.order) <= composites._PROGRAMS
    new = set(programs) - before
    assert 0 < len(new) <= 6
    assert all((fused_of("softsign"), key) in kept.order for key in new)


def test_what_had_to_go_is_not_made_again_at_once(monkeypatch):
    fused, x = fused_of("softsign"), floats(32)
    assert isinstance(warm(F.softsign, x).grad_fn, ComposedNode)
    monkeypatch.setattr(composites._KEPT, "limit", 0)
    composites._KEPT.let_go()
    assert not fused.programs and composites._KEPT.bytes == 0
    monkeypatch.undo()
    assert not isinstance(warm(F.softsign, x, times=3).grad_fn, ComposedNode)


def test_what_is_too_large_is_not_kept(monkeypatch):
    monkeypatch.setattr(composites._KEPT, "limit", 10)
    before = len(composites._KEPT.order)
    assert not isinstance(warm(F.softsign, floats(33), times=3).grad_fn, ComposedNode)
    assert len(composites._KEPT.order) == before


def test_what_cannot_be_compiled_runs_as_it_is(monkeypatch):
    def broken(*_):
        raise RuntimeError("a pass failed")

    monkeypatch.setattr(composed, "optimize", broken)
    x = floats(2, 17)
    assert not isinstance(warm(F.softmax, x, 1, times=3).grad_fn, ComposedNode)


def test_large_tensors_use_the_team():
    x = floats(300, 400)
    with config.EAGER_COMPOSITES.set(False):
        want = tw.autograd.grad(F.layer_norm(x, (400,)).sum(1)[::2].sum(), x)[0]
    got = warm(lambda: tw.autograd.grad(F.layer_norm(x, (400,)).sum(1)[::2].sum(), x)[0])
    assert (got == want).all()


def test_off():
    with config.EAGER_COMPOSITES.set(False):
        before = len(fused_of("softmax").programs)
        y = warm(F.softmax, floats(3, 13), 1, times=3)
        assert len(fused_of("softmax").programs) == before and not isinstance(y.grad_fn, ComposedNode)
