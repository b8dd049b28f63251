"""Large eager operations run on kernels: same bits as compiled code, results of the caller's own."""

import numpy as np
import pytest

import twofold as tw
import twofold.nn.functional as F
from twofold.compiler import eager
from twofold.ir import config
from twofold.ir.primitive import PRIMITIVES

N = 40_000


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
