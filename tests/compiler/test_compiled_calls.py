"""Calls of compiled functions: arguments, and results that are something else, too."""

from __future__ import annotations

import warnings
from collections import namedtuple

import numpy as np
import pytest
from twins import check, specializations

import twofold as tw
from twofold import nn

Pair = namedtuple("Pair", ["first", "second"])


def both(make):
    """The same checks of a function, run eagerly and compiled."""
    make(lambda f: f)
    make(tw.compile)


# --- arguments and results ------------------------------------------------------------------------


def test_containers_go_in_and_out():
    def make():
        def f(pair, options, *rest, scale=2.0, flag=None):
            total = pair.first * scale + pair.second
            for r in rest:
                total = total + r["x"]
            if flag:
                total = -total
            return {"total": total, "all": [options["a"], (total, None)], "name": "n", "pair": Pair(total + 1, 3)}

        return (lambda *a: f(*a[:-1], **a[-1])), []

    x = tw.ones(3)
    calls = [
        (Pair(x, x * 2), {"a": x, "b": 1}, {}),
        (Pair(x, x * 2), {"a": x, "b": 1}, {"x": x}, {"x": x}, {"scale": 3.0}),
        (Pair(x, x * 2), {"a": x, "b": 1}, {"scale": 3.0, "flag": True}),
        (Pair(x, x * 2), {"a": x, "b": 1}, {"x": x}, {"x": x}, {"scale": 3.0}),
    ]
    results = [make()[0](*c) for c in calls]
    compiled = tw.compile(make()[0])
    for c, r in zip(calls, results, strict=True):
        got = compiled(*c)
        assert (
            got.keys() == r.keys() and got["name"] == "n" and type(got["pair"]) is Pair and got["pair"].second == 3
        )
        np.testing.assert_array_equal(got["total"].numpy(), r["total"].numpy())
        assert got["all"][1][1] is None
    assert specializations(compiled) == 3


@pytest.mark.parametrize(
    "values",
    [
        (1, 1.0, True), (0, False, 0.0), (2, 2.5, 2), ("sum", "mean", "sum"), (None, 0, False), (0.0, -0.0, 0.0),
        (float("nan"), float("nan"), 1.0), ((1, 2), (1.0, 2.0), (True, 2)), (tw.float32, tw.float64, tw.int32),
    ],
    ids=str,
)  # fmt: skip
def test_python_values_are_told_apart_by_type(values):
    def f(x, v):
        if v is None:
            return x * 5
        if isinstance(v, str):
            return getattr(x, v)()
        if isinstance(v, tuple):
            return x * v[0] + v[1]
        if isinstance(v, tw.dtype):
            return x.to(v)
        return tw.copysign(x.to(tw.float32), v) if isinstance(v, float) and v == 0 else x * v

    x = tw.tensor([1, 2, 3]) if not isinstance(values[0], str) else tw.tensor([1.0, 2.0, 3.0])
    compiled = tw.compile(f)
    for v in values:
        expected, got = f(x, v), compiled(x, v)
        assert got.dtype is expected.dtype
        np.testing.assert_array_equal(got.numpy(), expected.numpy())
    if values[0] != values[0]:
        assert len(compiled.reasons) == 2, "nan is one value"


def test_values_that_change_without_being_others():
    """What can't be compared by value is not baked in."""

    def f(x, a):
        return x * float(a[0])

    compiled, a = tw.compile(f), np.array([2.0])
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", tw.TwofoldWarning)
        assert compiled(tw.ones(2), a).tolist() == [2.0, 2.0]
        a[0] = 5.0
        assert compiled(tw.ones(2), a).tolist() == [5.0, 5.0]
        assert compiled(tw.ones(2), np.array([7.0])).tolist() == [7.0, 7.0]


def test_other_types_of_the_same_argument():
    def make():
        return (lambda x: (x * 2).sum(0)), []

    calls = [(tw.ones(2, 3),), (tw.ones(4, 3),), (tw.ones(2, 3).double(),), (tw.ones(2, 3).mT,), (tw.ones(3, 2),)]
    check(make, [*calls, *calls], programs=4)


def test_strided_arguments():
    def make():
        return (lambda x, y: (x @ y, x.sum(0), y + 1)), []

    a = tw.arange(48).reshape(6, 8).float()
    calls = [(a[::2, 1:5], a[:4, ::3]), (a[:3, :4], a[1:5, 1:4]), (a.mT[:3, :4], a.flip(0)[:4, :3])]
    check(make, calls)


def test_a_function_without_results():
    def make():
        s = tw.zeros(3)

        def f(x):
            s.add_(x)

        return f, s

    check(make, [(tw.ones(3),)] * 3)


def test_results_without_arguments():
    check(lambda: (lambda: (tw.arange(4) * 2, 7, None), []), [()] * 2)


def test_keyword_arguments_have_no_order():
    compiled = tw.compile(lambda x, *, a, b: x * a - b)
    assert compiled(tw.ones(1), a=2.0, b=3.0).item() == compiled(tw.ones(1), b=3.0, a=2.0).item() == -1.0
    assert specializations(compiled) == 1


# --- results that are something else, too -----------------------------------------------------------


def test_the_argument_is_returned():
    @both
    def _(compile):
        x = tw.ones(3)
        y = compile(lambda x: x)(x)
        y.add_(1)
        assert x.tolist() == [2.0] * 3


def test_a_view_of_an_argument_is_returned():
    @both
    def _(compile):
        f = compile(lambda x: (x[1:], x.mT, x.reshape(-1)[::2]))
        for _ in range(2):
            x = tw.arange(6).reshape(2, 3).float()
            a, b, c = f(x)
            a.add_(10)
            assert b.shape == (3, 2) and b[0, 1].item() == 13.0
            c.zero_()
            assert x.tolist() == [[0.0, 1.0, 0.0], [13.0, 0.0, 15.0]]


def test_state_is_returned():
    @both
    def _(compile):
        s = tw.zeros(2)

        def f(x):
            s.add_(x)
            return s, s[:1]

        f = compile(f)
        for i in range(1, 3):
            whole, part = f(tw.ones(2))
            assert whole is s and part.tolist() == [i]
            part.add_(10)
            assert s[0].item() == i + 10
            part.sub_(10)


def test_a_parameter_and_its_data_are_returned():
    @both
    def _(compile):
        p = nn.Parameter(tw.ones(2))
        f = compile(lambda: (p, p.data, p.detach()))
        for _ in range(2):
            a, b, c = f()
            assert a is p and a.requires_grad and a.is_leaf and not b.requires_grad
            b.add_(1)
            assert p.tolist() == c.tolist() == b.tolist()


def test_results_that_share_memory():
    @both
    def _(compile):
        def f(x):
            y = x * 2
            return y, y, y[1:], y.view(-1)

        a, b, c, d = compile(f)(tw.ones(3))
        assert a is b
        c.zero_()
        assert a.tolist() == d.tolist() == [2.0, 0.0, 0.0]


def test_a_gradient_is_returned():
    @both
    def _(compile):
        w = tw.ones(2, requires_grad=True)

        def f(x):
            w.grad = None
            (w * x).sum().backward()
            return w.grad

        f = compile(f)
        for _ in range(2):
            g = f(tw.ones(2))
            g.mul_(5)
            assert w.grad.tolist() == [5.0, 5.0]


def test_old_and_new_value_of_a_state():
    def make():
        s = tw.zeros(3)

        def f(x):
            old = s.clone()
            s.add_(x)
            return old, s.clone(), s * 1, old + s

        return f, s

    check(make, [(tw.ones(3),)] * 3)


def test_results_of_one_call_survive_the_next():
    compiled = tw.compile(lambda x: (x + 1, (x + 1)[1:], x.sum()))
    first = compiled(tw.ones(3))
    compiled(tw.full((3,), 9.0))
    assert [r.tolist() for r in first] == [[2.0] * 3, [2.0] * 2, 3.0]


def test_a_sum_of_a_value_that_is_the_same_along_the_row():
    def step(p, s):
        s.copy_(p)
        total = (tw.nn.functional.elu(s.sum((0,))).abs() + 0.5).rsqrt().sum()
        return tw.autograd.grad(total, p)[0]

    s = [tw.zeros(2), tw.zeros(2)]
    p = tw.tensor(0.3, requires_grad=True)
    assert tw.compile(step)(p, s[0].clone()).item() == step(p, s[1].clone()).item()
