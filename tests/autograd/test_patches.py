"""Gradients of slices are joined before zeros are made around them."""

import numpy as np
import pytest

import twofold as tw
from twofold.ir.primitive import PRIMITIVES


def count(fn, *names):
    """How often primitives run inside `fn`, by a trace of it."""
    nodes = tw.compiler.trace(fn).graph.nodes
    return [sum(n.prim.name == name for n in nodes) for name in names]


def gradient(fn, shape=(4, 6)):
    x = tw.arange(float(np.prod(shape))).reshape(shape).requires_grad_()
    fn(x).backward()
    return x.grad.numpy()


def numeric(fn, shape=(4, 6)):
    """The gradient by differences: `fn` is at most quadratic, so central differences are exact up to rounding."""
    x = np.arange(np.prod(shape), dtype=np.float64).reshape(shape)
    out = np.zeros(shape)
    for place in np.ndindex(shape):
        values = []
        for step in (1.0, -1.0):
            moved = x.copy()
            moved[place] += step
            values.append(fn(tw.from_numpy(moved)).item())
        out[place] = (values[0] - values[1]) / 2
    return out


CASES = {
    "chunks": lambda x: sum(((i + 1) * c * c).sum() for i, c in enumerate(x.chunk(3, 1))),
    "rows": lambda x: sum(((i + 1) * x[i]).sum() for i in range(4)),
    "columns, backwards": lambda x: sum(((i + 1) * x[:, i] ** 2).sum() for i in reversed(range(6))),
    "some columns": lambda x: (x[:, 1] * 2).sum() + (x[:, 4] * 3).sum(),
    "overlapping windows": lambda x: sum((x[:, i : i + 3] * (i + 1)).sum() for i in range(4)),
    "the same part twice": lambda x: (x[1] * 2).sum() + (x[1] * 3).sum(),
    "a grid of tiles": lambda x: sum(
        ((3 * i + j + 1) * x[2 * i : 2 * i + 2, 2 * j : 2 * j + 2]).sum() for i in range(2) for j in range(3)
    ),
    "a few tiles": lambda x: (x[:2, 3:] * 2).sum() + (x[1:, :2] * 3).sum() + (x[3, 5] * x[0, 0]),
    "the whole too": lambda x: (x * x).sum() + x[0].sum() + (x * 3).sum() + x[2].sum(),
    "every other": lambda x: (x[::2] * 2).sum() + (x[1::2] * 3).sum() + x[0, ::-1].sum(),
    "slices of slices": lambda x: (x[1:][1:, 2:] * 2).sum() + (x[1:][0, :2] * 3).sum(),
    "nothing": lambda x: x[4:].sum() + x[:, 2].sum(),
}


@pytest.mark.parametrize("name", CASES)
def test_gradients_of_parts(name):
    np.testing.assert_allclose(gradient(CASES[name]), numeric(CASES[name]), rtol=1e-6)


def test_what_is_taken_apart_whole_needs_no_additions():
    def step():
        x = tw.ones(8, 5, requires_grad=True)
        sum((x[i] * i).sum() for i in range(8)).backward()
        return x.grad

    assert count(step, "pad", "concat", "update_slice") == [0, 1, 0]


def test_leaf_and_inner_values_and_their_hooks():
    seen = []
    x = tw.ones(3, 2, requires_grad=True)
    y = x * 2
    y.register_hook(lambda g: seen.append(g.numpy()))
    y.retain_grad()
    (y[0].sum() + 3 * y[2].sum()).backward()
    want = np.array([[1, 1], [0, 0], [3, 3]], np.float32)
    np.testing.assert_array_equal(seen, [want])
    np.testing.assert_array_equal(y.grad.numpy(), want)
    np.testing.assert_array_equal(x.grad.numpy(), 2 * want)


def test_second_derivatives():
    x = tw.tensor([1.0, 2.0, 3.0], requires_grad=True)
    (g,) = tw.autograd.grad(x[0] ** 3 + x[1:].pow(3).sum() * x[0], x, create_graph=True)
    (h,) = tw.autograd.grad(g.sum(), x)
    np.testing.assert_array_equal(h.numpy(), [6 + 3 * 4 + 3 * 9, 3 * 4 + 6 * 2, 3 * 9 + 6 * 3])


def test_a_long_loop_over_time_stays_linear(monkeypatch):
    moved = []
    for name in ("pad", "add", "concat"):
        run = PRIMITIVES[name].run or PRIMITIVES[name].numpy

        def counted(*values, run=run, **params):
            out = run(*values, **params)
            moved.append(out.size)
            return out

        monkeypatch.setattr(PRIMITIVES[name], "run", counted)
    x = tw.ones(200, 3, requires_grad=True)
    parts = [x[t] * t for t in range(200)]
    tw.autograd.backward(parts, [tw.ones(3)] * 200)
    np.testing.assert_array_equal(x.grad.numpy()[:, 0], np.arange(200))
    assert sum(moved) < 5 * x.numel()


@pytest.mark.parametrize(
    "parts",
    [
        lambda x: (x * x * 0.05).sum() + (x[:, :] * 0.3 + x[:, :] * 0.1).sum(),
        lambda x: (x * x).sum() + sum((x[i] * (0.1 + i)).sum() for i in range(4)) + (x * 0.7).sum(),
        lambda x: (x.sin() * 0.3).sum() + sum((x[:, i : i + 3] * (0.1 + i)).sum() for i in range(4)),
    ],
)
def test_the_order_of_additions_is_that_of_compiled_code(parts):
    values = np.random.default_rng(0).standard_normal((4, 6)).astype(np.float32)
    grads = []
    for how in (lambda f: f, tw.compile):
        x = tw.from_numpy(values.copy()).requires_grad_()
        how(lambda x=x: parts(x).backward())()
        grads.append(x.grad.numpy())
    np.testing.assert_array_equal(*grads)
