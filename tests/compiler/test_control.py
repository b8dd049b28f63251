"""cond, while_loop, scan: eager equals traced, in values and gradients; what can't be traced says so."""

import collections

import numpy as np
import pytest

import twofold as tw
from twofold.autodiff.functional import grad
from twofold.autodiff.handle import mode
from twofold.compiler import cond, scan, trace, while_loop
from twofold.ir.dtypes import complex128, float32, float64, int64
from twofold.ir.errors import AutogradError, DTypeError, ShapeError, TraceError, TwofoldError
from twofold.ir.parse import parse_graph
from twofold.ir.tree import flatten


def t(*numbers, dtype=float64):
    return tw.tensor(numbers if len(numbers) != 1 else numbers[0], dtype=dtype)


def arrays(value):
    return [x.detach().numpy() if isinstance(x, tw.Tensor) else x for x in flatten(value)[0]]


def assert_same(actual, expected):
    assert flatten(actual)[1] == flatten(expected)[1]
    for a, b in zip(arrays(actual), arrays(expected), strict=True):
        if isinstance(b, np.ndarray):
            assert (a.shape, a.dtype) == (b.shape, b.dtype)
            np.testing.assert_allclose(a, b, rtol=1e-12, atol=1e-14)
        else:
            assert a == b


def total(value):
    """A scalar that depends on all results, each in a way of its own."""
    out = 0.0
    for i, x in enumerate(flatten(value)[0]):
        if isinstance(x, tw.Tensor) and x.dtype.is_differentiable:
            x = (x * x.conj()).real if x.dtype.is_complex else x * x
            out = out + (x * (i + 1.5)).sum()
    return out


def check(fn, *args, gradients=True, orders=2):
    """Values, gradients and gradients of gradients of `fn`, traced and eagerly."""
    traced = trace(fn, *args)
    again = parse_graph(traced.graph.verify().to_text())
    assert again == traced.graph
    assert_same(traced(*args), fn(*args))
    if gradients:
        wanted = tuple(i for i, a in enumerate(args) if isinstance(a, tw.Tensor) and a.dtype.is_differentiable)
        first = grad(lambda *xs: total(fn(*xs)), argnums=wanted)
        second = grad(lambda *xs: total(first(*xs)), argnums=wanted)
        for derivative in (first, second)[:orders]:
            expected = derivative(*args)
            assert any(np.any(a != 0) for a in arrays(expected))
            assert_same(trace(derivative, *args)(*args), expected)
    return traced


def names(graph):
    return [node.prim.name for node in graph.nodes]


def primitive_names(graph):
    """All primitives, those of nested graphs too."""
    out = []
    for node in graph.nodes:
        out.append(node.prim.name)
        for param in node.params.values():
            if hasattr(param, "nodes"):
                out += primitive_names(param)
    return out


# --- cond -----------------------------------------------------------------------------------------


@pytest.mark.parametrize("shift", [10.0, -10.0])
def test_cond(shift):
    def fn(x, y):
        return cond((x + shift).sum() > 0, lambda a, b: (a.sin() * b, b), lambda a, b: (a * a, a + b), x, y)

    traced = check(fn, t(0.3, -0.7), t(1.5, 2.0))
    assert names(traced.graph).count("cond") == 1


@pytest.mark.parametrize("flag", [True, False])
def test_cond_decides_when_it_runs(flag):
    def fn(p, x):
        return cond(p, lambda: x * 2, lambda: x - 1)

    traced = trace(fn, tw.tensor(not flag), t(3.0))
    assert_same(traced(tw.tensor(flag), t(3.0)), fn(tw.tensor(flag), t(3.0)))


def test_cond_with_captured_tensors_in_different_order():
    w, b, s = t(1.0, 2.0), t(0.5, -0.5), t(3.0)

    def fn(x, w, b, s):
        return cond(x.sum() > 0, lambda x: x * w + b, lambda x: (b - x) * s, x)

    check(fn, t(1.0, 2.0), w, b, s)
    check(fn, t(-1.0, -2.0), w, b, s)

    def from_outside(x):  # captured by the trace, too
        return cond(x.sum() > 0, lambda x: x * w + b, lambda x: (b - x) * s, x)

    check(from_outside, t(-1.0, 2.0))
    check(from_outside, t(-1.0, 0.2))


@pytest.mark.parametrize("pred", [True, False, 1, 0, None, "yes"])
def test_cond_on_a_python_value_is_decided_while_tracing(pred):
    traced = check(lambda x: cond(pred, lambda x: x * x, lambda x: x.exp(), x), t(0.5))
    assert "cond" not in names(traced.graph)


@pytest.mark.parametrize("value", [0.0, 2.5, -1.0, float("nan")])
@pytest.mark.parametrize("shape", [(), (1,), (1, 1)])
def test_cond_on_numbers_of_one_element(value, shape):
    check(lambda p, x: cond(p, lambda: x * 3, lambda: x * x), tw.full(shape, value), t(0.7), gradients=False)


def test_cond_passes_nestings_and_other_arguments():
    Point = collections.namedtuple("Point", "x y")

    def branch(sign):
        def fn(data, name, scale):
            assert name == "name"
            return {"p": Point(data["a"] * scale * sign, data["b"][0]), "n": None, "c": [sign, 2.5]}

        return fn

    def fn(a, b):
        return cond(a.sum() > b, branch(1), branch(-1), {"a": a, "b": (b,)}, "name", 3)

    check(fn, t(1.0, 2.0), t(0.5))
    check(fn, t(1.0, 2.0), t(5.0))


def test_cond_nested():
    def fn(x, y):
        def inner(x):
            return cond(y.sum() > 0, lambda x: x * y.exp(), lambda x: x.sin() + y, x)

        return cond(x.sum() > 0, lambda x: inner(x) * 2, lambda x: inner(x * x), x)

    for a in (1.0, -1.0):
        for b in (0.5, -0.5):
            traced = check(fn, t(a, a / 2), t(b, b / 2))
    assert primitive_names(traced.graph).count("cond") == 3


def test_cond_that_gives_its_operand_makes_a_copy():
    def fn(x):
        return cond(x.sum() > 0, lambda x: x, lambda x: x * 2, x)

    x = t(1.0, 2.0)
    out = trace(fn, x)(x)
    out += 1
    assert x.tolist() == [1.0, 2.0]
    check(fn, x)


def test_cond_with_integers_and_complex_numbers():
    def fn(z, k):
        return cond(k.sum() > 3, lambda z, k: (z * z, k + 1), lambda z, k: (z.conj() * 2, k * k), z, k)

    for n in (1, 5):
        check(fn, tw.tensor([1 + 2j, 0.5 - 1j], dtype=complex128), t(n, n, dtype=int64))


def test_cond_saves_a_branch_from_running():
    big = tw.tensor(np.ones((2, 2)))

    def fn(x):
        return cond(x > 0, lambda: x * 1.0, lambda: (big * tw.tensor(np.full((2, 2), np.nan))).sum() * x)

    assert fn(t(2.0)).item() == 2.0 and trace(fn, t(2.0))(t(2.0)).item() == 2.0


def test_branches_without_results():
    assert trace(lambda x: (cond(x > 0, lambda: None, lambda: None), x), t(1.0))(t(1.0))[0] is None


# --- while_loop -----------------------------------------------------------------------------------


def test_while_loop():
    limit = t(100.0)

    def fn(x, steps):
        return while_loop(lambda v: (v[0] < limit).all(), lambda v: [v[0] * 2 + steps, v[1] + 1], [x, 0])

    for start in (1.0, 50.0, 1000.0):
        check(fn, t(start, 1.0), t(0.5), gradients=False)


def test_while_loop_collatz():
    def step(v):
        n = v["n"]
        n = cond(n % 2 == 0, lambda n: n // 2, lambda n: 3 * n + 1, n)
        return {"n": n, "count": v["count"] + 1, "high": tw.maximum(n, v["high"])}

    def fn(n):
        return while_loop(lambda v: v["n"] != 1, step, {"n": n, "count": 0, "high": n})

    traced = check(fn, t(27, dtype=int64), gradients=False)
    out = traced(t(27, dtype=int64))
    assert (out["count"].item(), out["high"].item()) == (111, 9232)


def test_while_loop_eagerly_has_gradients():
    x = tw.tensor(1.5, dtype=float64, requires_grad=True)
    while_loop(lambda v: v < 20, lambda v: v * x, x).backward()
    assert x.grad.item() == pytest.approx(8 * 1.5**7)  # 1.5**8 is the first power above 20


def test_while_loop_traced_refuses_gradients():
    def fn(x):
        return grad(lambda x: while_loop(lambda v: v < 20, lambda v: v * x, x))(x)

    with pytest.raises(AutogradError, match=r"(?s)traced while_loop, which has no derivative.*use twofold.scan"):
        trace(fn, t(1.5))

    def stopped(x):
        def f(x):
            with tw.no_grad():
                n = while_loop(lambda v: v < 20, lambda v: v * x, x)
            return n * x

        return grad(f)(x)

    assert_same(trace(stopped, t(1.5))(t(1.5)), stopped(t(1.5)))


# --- scan -----------------------------------------------------------------------------------------


@pytest.mark.parametrize("reverse", [False, True])
def test_scan(reverse):
    def fn(h, xs, w):
        def step(h, x):
            h = (h * w + x).tanh()
            return h, h * x

        return scan(step, h, xs, reverse=reverse)

    args = t(0.1, -0.2), tw.tensor(np.linspace(-1, 1, 8).reshape(4, 2)), t(0.9, 1.1)
    traced = check(fn, *args)
    assert names(traced.graph) == ["scan"]


def test_scan_is_cumsum():
    xs = tw.tensor(np.arange(6.0).reshape(3, 2))
    last, sums = scan(lambda c, x: (c + x, c + x), tw.zeros(2, dtype=float64), xs)
    assert sums.tolist() == np.cumsum(xs.numpy(), 0).tolist() and last.tolist() == sums[-1].tolist()
    _, sums = scan(lambda c, x: (c + x, c + x), tw.zeros(2, dtype=float64), xs, reverse=True)
    assert sums.tolist() == np.cumsum(xs.numpy()[::-1], 0)[::-1].tolist()


def test_scan_with_nestings_and_numbers():
    def step(carry, x):
        a, (count, none) = carry["a"], carry["rest"]
        assert none is None
        y = {"sum": x[0] + x[1].sum(), "count": count, "nothing": None}
        return {"a": a * x[0], "rest": [count + 1, None]}, y

    def fn(a, xs, zs):
        return scan(step, {"a": a, "rest": [0, None]}, (xs, zs))

    check(fn, t(2.0), t(1.0, 2.0, 3.0), tw.tensor(np.ones((3, 2, 2))))


def test_scan_without_xs():
    def fn(x):
        return scan(lambda c, _: (c * 1.5, c.sin()), x, None, length=5)

    check(fn, t(0.3))
    check(lambda x: scan(lambda c, _: (c * x, None), x, None, length=3), t(1.3))


def test_scan_of_no_steps():
    def fn(c, xs):
        return scan(lambda c, x: (c + x, (c * x, 1)), c, xs)

    out = fn(t(1.0, 2.0), tw.zeros((0, 2), dtype=float64))
    assert out[1][0].shape == (0, 2) and out[1][1].dtype is int64 and out[0].tolist() == [1.0, 2.0]
    check(fn, t(1.0, 2.0), tw.zeros((0, 2), dtype=float64))


def test_scan_captures_parameters_and_sums_their_gradients():
    w = tw.tensor([[0.5, -0.3], [0.2, 0.8]], dtype=float64, requires_grad=True)
    b = tw.tensor([0.1, 0.2], dtype=float64, requires_grad=True)
    xs = tw.tensor(np.linspace(0, 1, 6).reshape(3, 2))

    def loss():
        h, ys = scan(lambda h, x: ((h @ w + x + b).sigmoid(), h.sum()), tw.zeros(2, dtype=float64), xs)
        return h.sum() + (ys * ys).sum()

    def step():
        w.grad = b.grad = None
        out = loss()
        out.backward()
        return out

    expected, grads = step(), [w.grad, b.grad]
    traced = trace(step)
    w.grad = b.grad = None
    assert_same((traced(), w.grad, b.grad), (expected, *grads))
    assert names(traced.graph).count("scan") == 2  # one forward, one back: the carries were saved


def test_scan_with_integer_carry_and_indices():
    table = tw.tensor(np.linspace(-1, 1, 10).reshape(5, 2), requires_grad=True)

    def fn(start, ks, table):
        def step(carry, k):
            i, acc = carry
            i = (i + k) % 5
            return (i, acc * table[i]), (i, acc.sum())

        return scan(step, (start, tw.ones(2, dtype=float64)), ks)

    check(fn, t(1, dtype=int64), tw.tensor([1, 2, 2, 4]), table.detach(), orders=1)


def test_scan_of_scan_and_cond():
    def fn(x, rows):
        def inner(c, x):
            c = cond(c.sum() > 0.5, lambda c: c * x, lambda c: c + x * x, c)
            return c, c * 2

        def outer(c, row):
            c, ys = scan(inner, c, row)
            return c, ys.sum()

        return scan(outer, x, rows)

    check(fn, t(0.2), tw.tensor(np.linspace(0.3, 1.2, 6).reshape(2, 3)))


def test_while_loop_inside_scan():
    def fn(xs):
        def step(n, x):
            n = while_loop(lambda v: v * v < x, lambda v: v + 1, n)
            return n, n * 2

        return scan(step, t(0.0), xs)

    check(fn, t(1.0, 10.0, 50.0), gradients=False)


def test_scan_recomputes_carries_that_were_not_saved():
    def fn(c, xs):
        return scan(lambda c, x: (c * x, c + x), c, xs)

    args = t(1.1), t(0.5, 2.0, 1.5)
    with tw.no_grad():
        traced = trace(fn, *args)
    (node,) = traced.graph.nodes
    assert len(node.outputs) == 2  # nothing saved for a derivative

    def derivative(c, xs):
        prim, params = node.prim, node.params
        return grad(lambda c, xs: total(prim(c, xs, **params)), argnums=(0, 1))(c, xs)

    expected = grad(lambda c, xs: total(fn(c, xs)), argnums=(0, 1))(*args)
    assert_same(derivative(*args), expected)
    assert_same(trace(derivative, *args)(*args), expected)


# --- what flows and what does not -----------------------------------------------------------------


def test_detach_and_no_grad_in_a_body_stop_gradients():
    def step(c, x):
        with tw.no_grad():
            frozen = c * x.sin()
        free = c.detach() * x + c * x.detach()
        return c * 0.9 + frozen, free

    def in_cond(c, x):
        return cond(c > 0, lambda c: step(c, x)[0] * step(c, x)[1], lambda c: c.detach() * x, c)

    check(lambda c, xs: scan(step, c, xs), t(0.4), t(0.5, 0.6, 0.7))
    check(in_cond, t(0.4), t(0.5))
    check(in_cond, t(-0.4), t(0.5))


def test_a_detached_tensor_from_outside_gets_no_gradient():
    def fn(x, y):
        d = x.detach()
        return cond(y > 0, lambda: d * y, lambda: d + y) + x

    check(fn, t(2.0), t(3.0))


def test_no_stop_gradient_where_nothing_is_stopped():
    traced = trace(lambda x: cond(x > 0, lambda x: x * 2, lambda x: x.exp(), x), t(1.0))
    assert "stop_gradient" not in primitive_names(traced.graph)


def test_gradients_inside_a_body():
    def fn(x, y):
        return cond(x.sum() > 0, lambda x: grad(lambda v: (v * v * y).sum())(x), lambda x: x.exp(), x)

    check(fn, t(1.0, 2.0), t(0.5, 0.7), orders=1)


def test_views_of_outer_tensors():
    def fn(x, w):
        row = w[1]
        return cond(x.sum() > 0, lambda x: x * row + w.T[0], lambda x: row, x)

    check(fn, t(1.0, 2.0), tw.tensor([[1.0, 2.0], [3.0, 4.0]], dtype=float64))


def test_locals_may_be_written_in_a_body():
    def step(c, x):
        new = c * 1.0
        new += x
        new[0] = 5.0
        return new, new * 2

    check(lambda c, xs: scan(step, c, xs), t(1.0, 2.0), tw.tensor(np.ones((3, 2))))


def test_a_tensor_written_before_is_read_as_it_is_now():
    def fn(x):
        state = x * 1.0
        state += 1
        out = cond(x.sum() > 0, lambda: state * 2, lambda: state)
        state += 5
        return out, state

    check(fn, t(1.0, 2.0), gradients=False)
    with pytest.raises(AutogradError, match="the derivative of 'cond' needs was changed in place"):
        trace(grad(lambda x: total(fn(x))), t(1.0, 2.0))


def test_what_a_body_takes_for_granted_guards_the_whole_trace():
    w = tw.tensor([1.0, 2.0], dtype=float64, requires_grad=True)
    w.grad = t(3.0, 4.0)

    class Layer:
        rate = 0.5

        def _settings(self):
            return {"rate": self.rate}

        def __call__(self, x):
            if mode.tracer is not None:
                mode.tracer.touch(self)
            return x * self.rate + w.grad

    layer = Layer()
    traced = trace(lambda x: cond(x.sum() > 0, layer, lambda x: x, x), t(1.0, 1.0))
    assert_same(traced(t(1.0, 1.0)), t(3.5, 4.5))
    assert [obj for obj, _ in traced.guard.objects] == [layer]
    assert [tensor for tensor, _ in traced.guard.grads] == [w]


# --- errors ---------------------------------------------------------------------------------------


def refuse(fn, error, match, *args):
    with pytest.raises(error, match=match):
        trace(fn, *(args or (t(1.0, 2.0),)))


def test_writing_outside_is_refused():
    w = t(1.0, 2.0)
    before = w._version

    def write(x):
        w.add_(x)
        return x

    def write_view(x):
        w[0] = 3.0
        return x

    def write_argument(x):
        x += 1
        return x

    def either(fn):
        return lambda x: cond(x.sum() > 0, fn, lambda x: x, x)

    refuse(either(write), TraceError, "the branch 'write' of cond writes to a tensor of type .* from outside")
    refuse(either(write_view), TraceError, "writes to a tensor of type .* from outside")
    refuse(either(write_argument), TraceError, "writes to its argument")
    refuse(lambda x: while_loop(lambda x: x.sum() < 9, write_argument, x), TraceError, "the body of while_loop")
    message = r"(?s)the body of scan writes.*return the new value"
    refuse(lambda x: scan(lambda c, x: (write(c), None), x, x), TraceError, message)
    assert w.tolist() == [1.0, 2.0] and w._version == before


def test_accumulating_gradients_outside_is_refused():
    w = tw.tensor([1.0, 2.0], dtype=float64, requires_grad=True)

    def branch(x):
        (x * w).sum().backward()
        return x

    refuse(lambda x: cond(x.sum() > 0, branch, lambda x: x, x), TraceError, "changes .grad of a tensor")
    assert w.grad is None


def test_hooks_and_custom_functions_in_a_body_are_refused():
    class Double(tw.autograd.Function):
        @staticmethod
        def forward(ctx, x):
            return x * 2

        @staticmethod
        def backward(ctx, g):
            return g * 7

    def hooked(x):
        y = x * 2
        y.register_hook(lambda g: g * 3)
        return y

    def custom(x):
        return grad(lambda x: cond(x.sum() > 0, lambda x: Double.apply(x), lambda x: x, x).sum())(x)

    refuse(custom, TraceError, r"uses Double, an autograd.Function")
    with_hook = grad(lambda x: cond(x.sum() > 0, hooked, lambda x: x, x).sum())
    refuse(with_hook, TraceError, "registers a hook on the result of mul")


def test_branches_must_agree():
    def both(a, b):
        return lambda x: cond(x.sum() > 0, a, b, x)

    refuse(both(lambda x: x, lambda x: x.sum()), ShapeError, r"gives float64\[2\], the false one float64\[\]")
    refuse(both(lambda x: x, lambda x: x.to(float32)), DTypeError, r"float64\[2\], the false one float32\[2\]")
    refuse(both(lambda x: (x, x), lambda x: [x, x]), ShapeError, r"\(float64.*\), the false one \[float64")
    refuse(both(lambda x: x, lambda x: None), ShapeError, "the false one None")
    refuse(both(lambda x: x, lambda x: "text"), TwofoldError, "result of the branch .* holds 'text' of type str")


def few(v):
    return v.sum() < 5


@pytest.mark.parametrize("traced", [False, True], ids=["eager", "traced"])
@pytest.mark.parametrize(
    ("fn", "error", "match"),
    [
        (lambda x: cond(x > 0, lambda: x, lambda: x), ShapeError, "condition must be one value, got .*2,"),
        (lambda x: while_loop(lambda v: v < 5, lambda v: v + 1, x), ShapeError, "condition must be one value"),
        (lambda x: while_loop(few, lambda v: v.sum(), x), ShapeError, r"as float64\[2\], a step gives float64\[\]"),
        (lambda x: while_loop(few, lambda v: v.to(float32), x), DTypeError, "the carry must keep its types"),
        (lambda x: scan(lambda c, x: (c, c), x, None), ShapeError, "length is not given"),
        (lambda x: scan(lambda c, x: (c, c), x, x, length=3), ShapeError, "xs .* and length=3 disagree"),
        (lambda x: scan(lambda c, x: (c, c), x, (x, x[:1])), ShapeError, "disagree"),
        (lambda x: scan(lambda c, x: (c, c), x, 1.0), ShapeError, "no dimension to be sliced"),
        (lambda x: scan(lambda c, x: c, x, x), TwofoldError, r"must return \(carry, result\), got Tensor"),
        (lambda x: scan(lambda c, y: (c + x, c), 0, x), ShapeError, "the carry must keep its types"),
        (lambda x: scan(lambda c, y: (c + 1.5, c), 0, x), DTypeError, r"int64\[\], a step gives float32\[\]"),
        (lambda x: scan(lambda c, x: (c, c), x, None, length=-1), ShapeError, "must not be negative"),
        (lambda x: scan(lambda c, x: (c, {1, 2}), x, x), TwofoldError, "holds {1, 2} of type set"),
        (lambda x: scan(lambda c, x: (c, c), np.ones(2), x), TwofoldError, "init of scan holds .* of type ndarray"),
    ],
)  # fmt: skip
def test_errors(fn, error, match, traced):
    with pytest.raises(error, match=match):
        trace(fn, t(1.0, 2.0)) if traced else fn(t(1.0, 2.0))


def test_results_of_eager_steps_must_agree():
    sizes = iter([1, 2])
    with pytest.raises(ShapeError, match=r"results of steps differ: first float32\[1\], then float32\[2\]"):
        scan(lambda c, x: (c, tw.zeros(next(sizes))), t(1.0), t(1.0, 2.0))


def test_errors_of_nested_nodes_name_the_user_line():
    def fn(x, k):
        return cond(x.sum() > 0, lambda: x[k], lambda: x[0])

    traced = trace(fn, t(1.0, 2.0), tw.tensor(1))
    with pytest.raises(IndexError, match=r"(?s)of graph '<lambda>'.*test_control.py:\d+: return cond"):
        traced(t(1.0, 2.0), tw.tensor(7))
