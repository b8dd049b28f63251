"""What programs keep from call to call: packed weights, computed anew whenever the weights may have changed."""

import numpy as np
import pytest

import twofold as tw
from twofold.backends.cpu import program as programs


@pytest.fixture
def pair(monkeypatch):
    """A module, and a check that the compiled one gives what the eager one does, with the number of packings."""
    made = []

    class Counting(programs.Program):
        def __init__(self, *args, **kwargs):
            super().__init__(*args, **kwargs)
            made.append(self)
            self.num_packed = 0

        def refresh(self):
            self.num_packed += 1
            super().refresh()

    monkeypatch.setattr("twofold.compiler.specialize.Program", Counting)
    tw.manual_seed(0)
    model = tw.nn.Sequential(tw.nn.Linear(40, 24), tw.nn.ReLU(), tw.nn.Linear(24, 10)).eval()
    compiled = tw.compile(lambda x: model(x))
    x = tw.randn(3, 40)

    def check() -> int:
        with tw.no_grad():
            assert tw.allclose(compiled(x), model(x), rtol=1e-4, atol=1e-4)
        return made[0].num_packed

    check()
    assert made[0].num_once, "nothing is kept"
    return model, check


def test_weights_that_stand_still_are_packed_once(pair):
    _, check = pair
    count = check()
    assert [check() for _ in range(3)] == [count] * 3


def test_writes_in_place_are_seen(pair):
    model, check = pair
    check()
    with tw.no_grad():
        model[0].weight.mul_(2)
        check()
        model[0].weight[3] = 1  # through a view
        check()
        model[2].weight.detach().t().add_(1)
        check()
    model.load_state_dict({k: tw.randn(*v.shape) for k, v in model.state_dict().items()})
    count = check()
    assert check() == count


def test_another_array_is_seen(pair):
    model, check = pair
    model[2].weight.data = tw.randn(10, 24)
    check()
    model[2].weight = tw.nn.Parameter(tw.randn(10, 24))
    check()


def test_training_between_calls_is_seen(pair):
    model, check = pair
    optimizer = tw.optim.SGD(model.parameters(), lr=0.5)

    @tw.compile
    def step(x):
        optimizer.zero_grad()
        loss = (model(x) ** 2).mean()
        loss.backward()
        optimizer.step()
        return loss

    for _ in range(3):
        step(tw.randn(5, 40))
        check()


def test_writes_through_numpy_are_seen_while_somebody_has_the_array(pair):
    model, check = pair
    a = model[0].weight.detach().numpy()
    check()
    a[0] = 1
    check()
    view = a[2:]
    del a
    view[:] = 2
    check()
    view[1] = 3
    del view
    count = check()
    assert check() == count


def test_a_write_through_numpy_that_is_over_is_seen(pair):
    model, check = pair
    model[0].weight.detach().numpy()[0] = 5
    check()
    np.asarray(model[0].weight.detach())[1] = 6
    check()
    np.from_dlpack(model[0].weight.detach())  # a reader
    check()


def test_memory_of_others_is_never_taken_to_stand_still(pair):
    model, check = pair
    mine = np.zeros((10, 24), np.float32)
    model[2].weight.data = tw.from_numpy(mine)
    check()
    mine[:] = 1
    check()
    mine[3] = 2
    check()


def test_results_given_to_numpy_leave_packed_weights_alone(pair):
    _, check = pair
    count = check()
    tw.ones(3).numpy()
    assert check() == count


def test_a_cache_written_in_place_at_a_place_that_is_an_argument():
    tw.manual_seed(1)
    layer = tw.nn.Linear(8, 16)
    keys, values = tw.zeros(6, 8), tw.zeros(6, 8)
    places = tw.arange(6)

    @tw.compile(fullgraph=True)
    def step(x, place):
        k, v = layer(x).chunk(2, -1)
        keys[place] = k
        values[place] = v
        return tw.nn.functional.scaled_dot_product_attention(x, keys, values, attn_mask=places <= place)

    xs = tw.randn(6, 8)
    with tw.no_grad():
        got = tw.cat([step(xs[i : i + 1], tw.tensor([i])) for i in range(6)])
        k, v = layer(xs).chunk(2, -1)
        expected = tw.nn.functional.scaled_dot_product_attention(xs, k, v, is_causal=True)
    assert tw.allclose(got, expected, atol=1e-5) and tw.allclose(keys, k, atol=1e-6)
    assert step.explain() == "1. first call"
