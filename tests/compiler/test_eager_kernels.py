"""Large eager operations run on kernels: same meaning as the reference, same bits as compiled code."""

import numpy as np
import pytest

import twofold as tw
import twofold.nn.functional as F
from twofold.compiler import eager
from twofold.ir import config
from twofold.ir.evaluate import evaluate
from twofold.ir.primitive import PRIMITIVES

N = 40_000


def numbers(shape, low=-0.9, high=0.9, dtype=np.float32):
    return np.random.default_rng(0).uniform(low, high, shape).astype(dtype)


PLACES = np.random.default_rng(1).integers(0, 300, (200, 50))

CASES = {
    "scatter_add": ((numbers((200, 300)), PLACES, numbers((200, 50))), {"dim": 1}),
}  # fmt: skip


@pytest.mark.parametrize("name", sorted(CASES))
def test_kernels_agree_with_the_reference(name):
    p, (values, params) = PRIMITIVES[name], CASES[name]
    native = eager._Native(p)
    got = native.run(*values, **params)
    assert any(program is not None for program in native._programs.values()), "it ran on NumPy"
    want = evaluate(p, list(values), params)
    for a, b in zip(got, want, strict=True) if p.multiple else [(got, want)]:
        assert (a.dtype, a.shape) == (b.dtype, b.shape)
        scale = np.abs(b).max() if a.dtype.kind == "f" else 0
        np.testing.assert_allclose(a, b, rtol=1e-5, atol=1e-5 * scale)


@pytest.mark.parametrize(
    "fn",
    [
        lambda x: tw.exp(x),
        lambda x: tw.erf(x),
        lambda x: F.relu(x),
        lambda x: tw.where(x > 0, x, 0.0),
        lambda x: F.max_pool2d(x, 2),
        lambda x: F.conv2d(x, tw.ones(8, 3, 3, 3), padding=1),
        lambda x: F.conv2d(x, tw.ones(8, 3, 5, 5), stride=2),
    ],
)
def test_eager_and_compiled_are_equal_bit_for_bit(fn):
    tw.manual_seed(0)
    x = tw.randn(8, 3, 64, 64)
    assert fn(x).equal(tw.compile(fn)(x))


@pytest.mark.parametrize("layer", ["LSTM", "GRU", "RNN"])
def test_recurrent_layers_are_equal_bit_for_bit_and_their_gradients_agree(layer):
    tw.manual_seed(0)
    model = getattr(tw.nn, layer)(32, 64)
    x = tw.randn(20, 16, 32)

    def grads():
        model.zero_grad()
        out, _ = model(x)
        out.backward(tw.ones_like(out))
        return [out.detach(), model.weight_hh_l0.grad]

    for a, b in zip(grads(), tw.compile(grads)(), strict=True):
        np.testing.assert_allclose(a.numpy(), b.numpy(), rtol=2e-5, atol=1e-4)
    with tw.no_grad():
        assert model(x)[0].equal(tw.compile(lambda x: model(x)[0])(x))


def test_results_are_the_callers_own():
    x = tw.ones(N)
    first = x.exp()
    second = (x + 1).exp()
    third = x.exp()
    assert first.equal(third) and not first.equal(second)
    first.add_(1)
    assert not x.exp().equal(first)


def test_bits_do_not_depend_on_what_ran_before_or_on_threads():
    x = tw.randn(300, 301)
    want = x.tanh()
    before = tw.get_num_threads()
    try:
        for threads in (1, 2, 3):
            tw.set_num_threads(threads)
            assert x.tanh().equal(want) and x.T.tanh().equal(want.T)
    finally:
        tw.set_num_threads(before)


def test_programs_are_let_go_when_they_hold_too_much(monkeypatch):
    kept = eager._Kept()
    kept.limit = 3 * N * 4
    monkeypatch.setattr(eager, "_KEPT", kept)
    native, index = eager._Native(PRIMITIVES["scatter_add"]), np.zeros(N, np.int64)
    want = {n: native.run(numbers(n), index[:n], numbers(n), dim=0) for n in range(N - 6, N)}
    assert 0 < len(native._programs) <= 3 and kept.bytes <= kept.limit
    for n, array in want.items():
        np.testing.assert_array_equal(native.run(numbers(n), index[:n], numbers(n), dim=0), array)


def test_errors_are_those_of_small_operations():
    with pytest.raises(tw.ShapeError, match="channels"):
        F.conv2d(tw.ones(4, 5, 64, 64), tw.ones(8, 3, 3, 3))
    x, index = tw.ones(200, 200), tw.full((200, 200), 300, dtype=tw.int64)
    with pytest.raises(tw.OutOfBoundsError, match="300"):
        x.scatter_add(1, index, x)


def test_the_setting_keeps_numpy(monkeypatch):
    p = PRIMITIVES["erf"]
    monkeypatch.setattr(p, "run", None)
    with config.EAGER_KERNELS.set(False):
        eager.install()
    assert p.run is None
