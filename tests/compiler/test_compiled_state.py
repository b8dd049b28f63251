"""State of compiled functions: written and read in any order, views, memory that is shared."""

from __future__ import annotations

import weakref

import numpy as np
import pytest
from twins import check, specializations

import twofold as tw
from twofold import nn


def test_two_buffers_change_places():
    def make():
        a, b = tw.arange(4).float(), tw.arange(4).float() * 10

        def f():
            old = a.clone()
            a.copy_(b)
            b.copy_(old)

        return f, [a, b]

    check(make, [()] * 3)


def test_three_buffers_go_round():
    def make():
        s = [tw.full((3, 3), float(i)) for i in range(3)]

        def f(x):
            old = [v.clone() for v in s]
            for i in range(3):
                s[i].copy_(old[(i + 1) % 3].mT + x)
            return old[0] + s[0]

        return f, s

    check(make, [(tw.arange(9).reshape(3, 3).float(),)] * 4)


def test_reads_between_writes():
    def make():
        s = tw.arange(6).float()

        def f(x):
            before = s * 2
            s.add_(x)
            between = s.sum() + before
            s.mul_(0.5)
            s[1:3] = between[:2]
            after = s.flip(0)
            s[::2].sub_(1)
            return before, between, after, s + after

        return f, s

    check(make, [(tw.ones(6),)] * 3)


def test_a_state_moves_within_itself():
    def make():
        s, m = tw.arange(8).float(), tw.arange(9).reshape(3, 3).float()

        def f(x):
            s[1:] = s[:-1].clone()
            s[0] = x
            m.copy_(m.mT + s[:3])
            m[1] = m[0] * 2
            return m.diagonal().sum()

        return f, [s, m]

    check(make, [(tw.tensor(float(i)),) for i in range(4)])


@pytest.mark.parametrize("form", ["transposed", "strided", "flipped", "part", "base and part", "column"])
def test_state_that_is_a_view(form):
    def make():
        base = tw.arange(24).reshape(4, 6).float()
        s = {
            "transposed": lambda: base.mT, "strided": lambda: base[::2, 1::2], "flipped": lambda: base.flip(0),
            "part": lambda: base[1:3], "base and part": lambda: base[1], "column": lambda: base[:, 2],
        }[form]()  # fmt: skip

        def f(x):
            s.mul_(0.5).add_(x)
            if form == "base and part":
                base[2].add_(s)
            return s.sum() + base.sum()

        return f, [base, s]

    check(make, [(tw.ones(()),)] * 3)


@pytest.mark.parametrize("layout", ["transposed", "strided", "broadcast"])
def test_state_with_memory_of_another_form(layout):
    """Arrays of the caller's, where the state is no view of a tensor."""

    def make():
        base = np.arange(24, dtype=np.float32).reshape(4, 6)
        s = tw.from_numpy(
            {"transposed": base.T, "strided": base[::2, ::3], "broadcast": base[:1].repeat(3, 0)}[layout]
        )

        def f(x):
            old = s * 1
            s.add_(x)
            return old, s.sum()

        return f, s

    check(make, [(tw.ones(()),)] * 3)


def test_a_strided_argument_that_is_read_only_for_us_is_not_written():
    base = tw.zeros(4, 4)
    s = tw.zeros(4)

    def f(column, x):
        s.add_(column)
        return column + x

    compiled = tw.compile(f)
    column = base[:, 0]
    version = base._version
    compiled(column, tw.ones(4))
    assert base._version == version and not base.any()


def test_an_argument_that_is_written():
    def make():
        def f(x, y):
            x.add_(y)
            y[1:].mul_(3)
            return x.sum()

        return f, []

    a = tw.arange(12).float()
    check(make, [(tw.zeros(3), tw.ones(3)), (a[:3], a[3:6]), (a[::4], a[1::4])])


def test_an_argument_that_is_state():
    def make():
        s = tw.arange(3).float()

        def f(x):
            s.add_(1)
            return x * 2

        return f, s

    for run in (lambda f: f, tw.compile):
        f, s = make()
        f = run(f)
        assert f(tw.zeros(3)).tolist() == [0.0] * 3
        assert f(s).tolist() == [4.0, 6.0, 8.0]
        assert f(s[1:]).tolist() == [8.0, 10.0]
        assert f(s.detach()).tolist() == [8.0, 10.0, 12.0]
        assert f(tw.ones(3)).tolist() == [2.0] * 3
        assert s.tolist() == [5.0, 6.0, 7.0]


def test_one_tensor_for_two_arguments():
    def f(x, y):
        x.add_(1)
        return x * y

    for run in (lambda f: f, tw.compile):
        g = run(f)
        assert g(tw.ones(2), tw.ones(2)).tolist() == [2.0, 2.0]
        x = tw.ones(2)
        assert g(x, x).tolist() == [4.0, 4.0] and x.tolist() == [2.0, 2.0]
        a = tw.ones(4)
        assert g(a[:2], a[1:3]).tolist() == [4.0, 2.0]
        assert g(tw.ones(2), tw.ones(2)).tolist() == [2.0, 2.0]


def test_two_arguments_that_share_memory_and_are_read():
    compiled = tw.compile(lambda x, y: x + y)
    x = tw.ones(2)
    assert compiled(x, x).tolist() == [2.0, 2.0]
    assert compiled(tw.ones(2), tw.zeros(2)).tolist() == [1.0, 1.0]
    assert specializations(compiled) == 1


def test_new_memory_of_a_state():
    """`p.data = ...`, loading and converting give a tensor other memory between calls."""
    for run in (lambda f: f, tw.compile):
        p = nn.Parameter(tw.ones(3))
        f = run(lambda p=p: p.data * 2)
        assert f().tolist() == [2.0] * 3
        p.data = tw.full((3,), 5.0)
        assert f().tolist() == [10.0] * 3
        p.data.add_(1)
        assert f().tolist() == [12.0] * 3
        with tw.no_grad():
            p.copy_(tw.zeros(3))
        assert f().tolist() == [0.0] * 3
        p.data = tw.full((2,), 4.0)
        assert f().tolist() == [8.0] * 2
        p.data = p.data.double()
        assert f().dtype is tw.float64


def test_loading_a_state_dict_between_steps():
    def make():
        net = nn.Linear(3, 2)
        nets.append(net)
        optimizer = tw.optim.Adam(net.parameters(), lr=0.1)

        def step(x):
            optimizer.zero_grad()
            loss = net(x).square().sum()
            loss.backward()
            optimizer.step()
            return loss.detach()

        return step, list(net.parameters())

    def before(i, _):
        if i == 2:
            nets[-1].load_state_dict({"weight": tw.ones(2, 3), "bias": tw.zeros(2)})

    nets: list = []
    check(make, [(tw.ones(4, 3),)] * 4, before=before, factor=20)


def test_a_state_that_gets_a_history():
    """After an in-place write with gradients the state itself requires one."""
    for run in (lambda f: f, tw.compile):
        w, s = tw.full((2,), 3.0, requires_grad=True), tw.zeros(2)

        def f(x, w=w, s=s):
            s.copy_(w * x)

        run(f)(tw.ones(2))
        assert s.requires_grad
        s.sum().backward()
        assert w.grad.tolist() == [1.0, 1.0]


def test_writes_to_gradients():
    for run in (lambda f: f, tw.compile):
        w = tw.ones(2, requires_grad=True)
        w.grad = held = tw.ones(2)

        def f(w=w):
            w.grad.mul_(3)
            w.grad.add_(1)

        f = run(f)
        f()
        f()
        assert w.grad.tolist() == [13.0, 13.0] and held.tolist() == [13.0, 13.0] and w.grad is held


def test_results_that_nobody_has_any_more_give_their_memory_to_the_next_call():
    """Also where another result is copied at the end, as a part of a value is that is stored whole."""
    f = tw.compile(lambda x: (x * 2, (x + 1)[1:]))
    x = tw.ones(64, 64)
    first = f(x)[0]
    second = f(x)[0]
    assert second._value is not first._value
    memory = weakref.ref(second._value)
    del second
    third = f(x)[0]
    assert third._value is memory()
    assert (first == 2).all() and (third == 2).all()


@pytest.mark.parametrize("make", [lambda x: x * 3, lambda x: x @ tw.ones(20, 20)], ids=["rows", "product"])
def test_a_result_that_needs_what_state_was_before_in_the_kernel_that_writes_it(make):
    def run(wrap):
        state, x = tw.arange(400.0).reshape(20, 20).clone(), tw.ones(20, 20)

        def f(x):
            old = state.clone()
            state.copy_(make(x))
            return state * 2 + old

        f = wrap(f)
        return [y.numpy() for _ in range(2) for y in (f(x), state.clone())]

    for got, want in zip(run(tw.compile), run(lambda f: f), strict=True):
        np.testing.assert_array_equal(got, want)
