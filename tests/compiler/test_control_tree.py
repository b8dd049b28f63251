"""Code that asks tensors for answers that decide how it goes on, compiled: a tree of programs."""

from __future__ import annotations

import threading
import warnings

import numpy as np
import pytest
from asking import BATCHES, RNG, plain, run, small_net, t, tree_of
from twins import check

import twofold as tw
import twofold.nn.functional as F
from twofold import nn
from twofold.compiler import growth, ways
from twofold.ir.errors import TraceError

# --- branches ----------------------------------------------------------------------------------------


def test_both_branches_of_an_if():
    ran = []

    def f(x):
        ran.append(1)
        y = x * 2
        if y.sum() > 0:
            return y + 1
        return y.exp()

    calls = [(t(a, 1),) for a in (1, 2, -3, 4, -5, -6, 7)]
    run(plain(f), calls, programs=3, led=False)
    assert len(ran) == len(calls) + 2, "compiled, the code runs once for each branch"


def test_branches_in_branches():
    def f(x, y):
        if x.sum() > 0:
            if (x * y).sum() > 0:
                return x + y
            z = x - y
        elif not y.any():
            return y
        else:
            z = x * y
        return z.sum() if z.max() > 2 else z

    values = [(1, 2), (-1, -2), (0, 0), (3, -1), (-3, 1), (9, -9)]
    calls = [(t(*a), t(*b)) for a in values for b in values]
    run(plain(f), calls * 2, led=False)


def test_what_a_branch_needs_of_the_part_before_is_handed_on():
    def f(x, w):
        a = (x @ w).tanh()
        b = (x @ w.mT).sigmoid()
        if a.sum() > 0:
            return a * 2
        return b @ a.mT

    w = tw.tensor(RNG.normal(size=(3, 3)).astype("f"))
    calls = [(tw.tensor(RNG.normal(size=(2, 3)).astype("f")), w) for _ in range(8)]
    run(plain(f), calls, led=False)


def test_answers_of_all_kinds():
    def f(x, n):
        parts = [int(n), n.item(), bool(n > 2), n.tolist(), 3 in n, float(n)]
        y = x * parts[0] + sum(map(float, parts[1:]))
        if tw.equal(x, y) or tw.allclose(x, x + 1) or x[n] > 100 or [7, 8, 9][n] > 8:
            y = y - 1
        return y[: n + 1], tw.zeros(int(n)), tuple(range(n))

    check(plain(f), [(t(1, 2, 3), tw.tensor(n)) for n in (0, 1, 2, 1, 0, 2)])


def test_a_bool_of_numbers():
    def f(x):
        return x + 1 if x.norm().item() > 2 else x - 1

    run(plain(f), [(t(a),) for a in (1, 3, 1.5, 4, 0, 9, 8, 7, 6, 5, 4, 3, 2, 1)], programs=3, led=True)


# --- loops -------------------------------------------------------------------------------------------


def test_a_while_loop():
    def f(x):
        steps = 0
        while x.abs().sum() > 1:
            x = x * 0.5
            steps += 1
        return x, tw.full((2,), float(steps))

    compiled = run(plain(f), [(t(a, 1),) for a in (1, 3, 30, 2, 0, -0.5, 30, 3)], led=False)
    tree = tree_of(compiled)
    made = tree.num_programs
    for a in (1.0, 3.0, 30.0, 2.0):
        x, n = compiled(t(a, 1))
        assert x.abs().sum() <= 1 and (x * 2 ** n[0]).tolist() == [a, 1.0]
    assert tree.num_programs == made


def test_equal_turns_of_a_loop_share_a_program():
    def f(x):
        while x.sum() < 100:
            x = x * 2 + 1
        return x

    compiled = tw.compile(f)
    assert compiled(t(1)).tolist() == f(t(1)).tolist()
    assert tree_of(compiled).num_programs <= 4, "one for the first turn, one for all others, one for the end"


def test_a_loop_over_a_number_of_turns():
    def f(x, n):
        for i in range(n):
            x = x * 2 + i
        return x

    run(plain(f), [(t(1), tw.tensor(n)) for n in (3, 1, 0, 3, 2)], led=False)


def test_learning_until_it_is_good_enough():
    def make():
        w = tw.zeros(3, requires_grad=True)
        optimizer = tw.optim.SGD([w], lr=0.1, momentum=0.5)

        def fit(x, y):
            turn = 0
            while turn < 12:
                turn += 1
                optimizer.zero_grad()
                loss = F.mse_loss(x @ w, y)
                loss.backward()
                optimizer.step()
                if loss < 0.05:
                    break
            return loss.detach(), tw.tensor(turn)

        return fit, lambda: [w, optimizer.state[w]]

    calls = []
    for _ in range(5):
        x = RNG.normal(size=(8, 3)).astype("f")
        calls.append((tw.tensor(x), tw.tensor(x @ np.float32([1, -1, 0.5]))))
    run(make, calls, led=False, factor=10)


def test_too_many_questions_are_asked_eagerly(monkeypatch):
    monkeypatch.setattr(growth, "MAX_QUESTIONS", 5)
    state = tw.zeros(1)

    @tw.compile
    def f(x):
        state.add_(1)
        while x.sum() > 1:
            x = x - 1
        return x

    assert f(t(3.5)).tolist() == [0.5] and state.item() == 1
    with pytest.warns(tw.TwofoldWarning, match=r"(?s)5 values in one call.*while_loop") as seen:
        assert f(t(20.5)).tolist() == [0.5]
    assert len(seen) == 1 and state.item() == 2
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        assert f(t(20.5)).tolist() == [0.5] and f(t(3.5)).tolist() == [0.5] and state.item() == 4


# --- state -------------------------------------------------------------------------------------------


def test_state_that_is_written_before_and_after():
    def make():
        a, b, c = t(1, 2), t(0, 0), tw.zeros(4)

        def f(x):
            view = c[1:3]
            a.mul_(x)
            view.add_(a)
            if a.sum() > 3:
                b.add_(a)
                view.mul_(2)
            else:
                a.fill_(1)
            c[0] += 1
            x.add_(1)
            return b + x, view

        return f, [a, b, c]

    run(make, [(t(v, w),) for v, w in ((1, 1), (2, 0), (0, 0), (3, 1), (0.5, 0.5), (1, 2))], led=False)


def test_random_numbers_are_the_eager_ones():
    def f(x):
        if tw.rand(()) > 0.5:
            x = F.dropout(x, 0.3)
        while tw.rand(()) < 0.4:
            x = x + tw.randn(5)
        return x

    run(plain(f), [(tw.ones(5),) for _ in range(20)], led=False)


def test_gradients_add_up_over_calls():
    def make():
        w = t(1, 2, requires_grad=True)

        def f(x):
            y = (w * x).sum()
            if y > 0:
                y = y * 3
            y.backward()
            if w.grad.sum() > 10:
                w.grad = None
            return y.detach()

        return f, [w]

    check(make, [(t(v, 1),) for v in (1, -4, 2, 1, 1, -3, 1)], programs=None)


def test_inference_mode_and_no_grad():
    net = small_net().eval()

    @tw.no_grad()
    def f(x):
        y = net(x)
        return y.argmax() if y.max() > 0.3 else y

    compiled = tw.compile(f)
    for x, _ in BATCHES:
        np.testing.assert_allclose(compiled(x).numpy(), f(x).numpy(), rtol=1e-5, atol=1e-6)
    with tw.inference_mode():
        for x, _ in BATCHES:
            np.testing.assert_allclose(compiled(x).numpy(), f(x).numpy(), rtol=1e-5, atol=1e-6)


def test_memory_that_is_shared():
    def f(x, y):
        x.add_(1)
        return x * 2 if y.sum() > 3 else x

    compiled = tw.compile(f)
    for _ in range(2):
        a, b = t(1, 1), t(1, 1)
        assert compiled(a, b).tolist() == f(t(1, 1), t(1, 1)).tolist()
        assert compiled(a, a).tolist() == [6.0, 6.0] and a.tolist() == [3.0, 3.0]


def test_a_module_changes_its_mode():
    net = small_net()

    def f(x):
        y = net(x)
        return y.detach() * 2 if y.sum() > 0 else y.detach()

    compiled, state = tw.compile(f), [v.clone() for v in net.state_dict().values()]
    results = []
    for step in (f, compiled):
        net.load_state_dict(dict(zip(net.state_dict(), state, strict=True)))
        tw.manual_seed(1)
        for i, (x, _) in enumerate(BATCHES):
            net.train(i % 3 != 0)
            results.append(step(x).numpy())
    for a, b in zip(results[: len(BATCHES)], results[len(BATCHES) :], strict=True):
        np.testing.assert_allclose(b, a, rtol=1e-4, atol=1e-5)


# --- gradients ---------------------------------------------------------------------------------------


class Gated(nn.Module):
    def __init__(self):
        super().__init__()
        tw.manual_seed(0)
        self.first, self.yes, self.no = nn.Linear(4, 4, bias=False), nn.Linear(4, 2), nn.Linear(4, 2)
        self.register_buffer("calls", tw.zeros(2))

    def forward(self, x):
        h = self.first(x).tanh()
        if h.sum() > 0:
            self.calls[0] += 1
            return self.yes(h)
        self.calls[1] += 1
        return self.no(h * h.mean().item()) + h[:, :2]


def test_gradients_through_branches():
    kinds = []
    for compiled in (False, True):
        net = Gated()
        model = tw.compile(net) if compiled else net
        optimizer = tw.optim.SGD(net.parameters(), lr=0.1)
        seen = []
        with warnings.catch_warnings():
            warnings.simplefilter("error")
            for i in range(10):
                x = tw.tensor(np.float32((-1) ** (i // 2)) * np.ones((2, 4), "f") * (1 + i / 7), requires_grad=True)
                optimizer.zero_grad()
                out = model(x * 1)
                out.square().sum().backward()
                seen.append([v.detach().numpy().copy() for v in (out, x.grad, net.calls)])
                seen[-1] += [np.zeros(0) if p.grad is None else p.grad.numpy().copy() for p in net.parameters()]
                optimizer.step()
        kinds.append(seen)
        assert net.calls.min() > 0
    for eager, got in zip(*kinds, strict=True):
        for a, b in zip(eager, got, strict=True):
            assert a.shape == b.shape
            np.testing.assert_allclose(b, a, rtol=1e-4, atol=1e-5)


def test_gradients_of_gradients_through_branches():
    def f(x, y):
        z = (x * y).sin()
        if z.sum() > 0:
            z = z * z.sum().item() + x**3
        return (z * x).sum()

    compiled = tw.compile(f)
    for a in (1.0, 0.5, 2.0, -1.0, 0.3):
        out = []
        for run_it in (f, compiled):
            x = t(a, 0.4, requires_grad=True)
            (g,) = tw.autograd.grad(run_it(x, t(0.7, 1.1)), [x], create_graph=True)
            (gg,) = tw.autograd.grad(g.square().sum(), [x])
            out.append((g.detach().numpy(), gg.numpy()))
        for e, c in zip(*out, strict=True):
            np.testing.assert_allclose(c, e, rtol=1e-4)


def test_a_written_buffer_takes_its_history_along():
    def f(x, w):
        b = tw.zeros(2)
        b.copy_(x * w)
        if b.sum() > 0:
            b.mul_(w)
        return b

    compiled = tw.compile(f)
    for a in (1, -1, 2, -2):
        grads = []
        for fn in (f, compiled):
            w = t(1.5, 2, requires_grad=True)
            fn(t(a, 1), w).sum().backward()
            grads.append(w.grad.numpy())
        np.testing.assert_allclose(grads[1], grads[0], rtol=1e-6)


# --- errors ------------------------------------------------------------------------------------------


class Diverged(Exception):
    pass


def test_exceptions_in_branches_leave_what_eager_code_leaves():
    seen = []
    for compile_it in (False, True):
        net = small_net()
        optimizer = tw.optim.SGD(net.parameters(), lr=0.05, momentum=0.9)
        counts = tw.zeros(2)
        runs = []

        def step(x, y, net=net, optimizer=optimizer, counts=counts, runs=runs):
            counts[0] += 1
            optimizer.zero_grad()
            loss = F.cross_entropy(net(x), y)
            loss.backward()
            if x.abs().max() > 4:
                counts[1] += 1
                runs.append(1)
                raise Diverged("too large")
            optimizer.step()
            return loss.detach()

        if compile_it:
            step = tw.compile(step)
        out = []
        for _ in range(2):
            for x, y in BATCHES:
                try:
                    out.append(step(x, y).numpy())
                except Diverged as e:
                    assert str(e) == "too large"
                    out.append(np.float32(-1))
                out += [v.numpy().copy() for v in net.state_dict().values()]
                out += [p.grad.numpy().copy() for p in net.parameters()]
                out += [counts.numpy().copy(), tw.get_rng_state().numpy().copy()]
        seen.append((out, len(runs)))
    assert seen[0][1] == seen[1][1] > 2
    for e, c in zip(seen[0][0], seen[1][0], strict=True):
        np.testing.assert_allclose(c, e, rtol=1e-3, atol=1e-5)


def test_an_error_of_an_operation_in_a_branch():
    table, state = tw.arange(5.0), tw.zeros(1)

    @tw.compile
    def f(i):
        state.add_(1)
        if (i > 0).all():
            return table[i] * 2
        return table[i + 1]

    for _ in range(2):
        assert f(tw.tensor([1, 2])).tolist() == [2.0, 4.0] and f(tw.tensor([0, 2])).tolist() == [1.0, 3.0]
        with pytest.raises(tw.OutOfBoundsError, match="9"):
            f(tw.tensor([1, 9]))
        with pytest.raises(tw.OutOfBoundsError, match="8"):
            f(tw.tensor([0, 7]))
    assert state.item() in (4.0, 8.0)  # an error inside of a leaf comes before, or after, its writes


def test_a_branch_that_cannot_be_traced_is_run_eagerly():
    state = tw.zeros(1)
    kept = []

    @tw.compile
    def f(x):
        state.add_(x)
        if state.item() > 1e9 or x > 5:
            kept.append((x * 2).numpy())
            state.mul_(2)
        return x + state

    @tw.compile
    def g(x):
        state.add_(x)
        if x > 5:
            kept.append((x * 2).numpy())
            state.mul_(2)
        return x + state

    for fn in (f, g):
        state.zero_()
        kept.clear()
        with pytest.warns(tw.TwofoldWarning, match="runs eagerly") as seen:
            got = [fn(t(v)).item() for v in (1, 2, 6, 1, 7, 2)]
        assert got == [2.0, 5.0, 24.0, 20.0, 59.0, 56.0] and len(seen) == 1
        assert [k.item() for k in kept] == [12.0, 14.0]
    assert not tree_of(g).refused and tree_of(f).refused, "only the branch of g is eager"


def test_fullgraph_refuses():
    with pytest.raises(TraceError, match="asks for"):
        tw.compile(lambda x: x if x > 0 else -x, fullgraph=True)(t(1))
    with pytest.raises(TraceError):
        tw.compile(lambda x: x[x > 0], fullgraph=True)(t(1))


def test_nan_is_found_behind_a_branch():
    @tw.compile
    def f(x):
        y = (x - 1).log()
        if x.sum() > 0:
            return y * 2
        return x

    f(t(2, 3))
    with tw.debug.detect_anomaly(), pytest.raises(tw.TwofoldError, match=r"log.*NaN"):
        f(t(0.5, 3))
    assert f(t(-1, 0)).tolist() == [-1.0, 0.0]


# --- shapes that depend on values ---------------------------------------------------------------------


def test_masks_and_nonzero():
    def f(x):
        found = x[x > 0]
        places = x.nonzero()
        (i,) = (x < 0).nonzero(as_tuple=True)
        y = x.clone()
        y[x > 1] = found[: int((x > 1).sum())] * 2
        return found.sum(), places, x[i].square(), x.masked_select(x != 0), y

    check(plain(f), [(t(*v),) for v in ((1, 2, -1), (-1, -2, 3), (2, 2, -1), (0, 0, 0), (1, 2, -1))])


def test_gradients_through_masks():
    def f(x):
        return (x[x > 0] ** 2).sum() + x.sum()

    compiled = tw.compile(f)
    for v in ((1, 2, -1), (-1, -2, 3), (4, 5, -6)):
        grads = []
        for fn in (f, compiled):
            x = t(*v, requires_grad=True)
            fn(x).backward()
            grads.append(x.grad.tolist())
        assert grads[0] == grads[1]
    assert not tree_of(compiled).refused


def test_too_many_shapes_are_made_eagerly():
    compiled = tw.compile(lambda x: x[x > 0] * 2)
    with pytest.warns(tw.TwofoldWarning, match=r"where\(mask, x, 0\)") as seen:
        for n in range(2 * ways.MAX_ANSWERS + 20):
            x = tw.arange(60.0) - n
            assert compiled(x).tolist() == [2.0 * i for i in range(1, 60 - n)]
    assert len(seen) == 1
    tree = tree_of(compiled)
    assert tree.num_programs <= ways.MAX_ANSWERS + 2


# --- Python around it ---------------------------------------------------------------------------------


def test_code_that_changed_when_a_new_branch_is_traced():
    """What was known of the part before does not count then; the call begins anew, nothing has happened yet."""
    factor, state = [1.0], tw.zeros(1)

    @tw.compile
    def f(x):
        state.add_(factor[0])
        y = x * factor[0]
        return y + 10 if y.sum() > 0 else y - 10

    assert f(t(1)).tolist() == [11.0]
    factor[0] = 3.0
    assert f(t(-1)).tolist() == [-13.0] and state.item() == 4.0


def test_nested_compiled_functions():
    @tw.compile
    def inner(x):
        return x * 2 if x.sum() > 0 else -x

    def f(x):
        y = inner(x)
        return y + 1 if y.max() > 3 else y

    compiled = run(plain(f), [(t(v, 1),) for v in (1, -5, 3, -2, 9)], led=False)
    assert "True" in compiled.explain()
    assert inner(t(3)).tolist() == [6.0] and inner(t(-3)).tolist() == [3.0]


def test_several_signatures_and_static_arguments():
    def f(x, scale):
        return x * scale if x.sum() > 0 else x - scale

    compiled = check(
        plain(f),
        [(t(*v), s) for v in ((1,), (-1,), (1, 2), (-1, -2)) for s in (2.0, 3.0)] * 2,
        programs=4,
    )
    assert compiled.explain().count("bool() of bool[]") == 4


def test_threads():
    state = tw.zeros(1)

    @tw.compile
    def f(x):
        state.add_(1)
        while x.sum() > 1:
            x = x * 0.5
        return x.sum().item() if x.sum() > 0.7 else x

    expected = {float(v): f(t(v)) for v in range(12)}
    wrong = []

    def work(seed):
        for v in np.random.default_rng(seed).integers(0, 12, 40):
            got, want = f(t(v)), expected[float(v)]
            if (got if isinstance(got, float) else got.tolist()) != (
                want if isinstance(want, float) else want.tolist()
            ):
                wrong.append((v, got))

    threads = [threading.Thread(target=work, args=(i,)) for i in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert not wrong and state.item() == 12 + 4 * 40


def test_explain_shows_the_tree(capsys):
    def f(x):
        return x + 1 if x.sum() > 0 else x - 1

    compiled = tw.compile(f)
    compiled(t(1))
    with tw.debug.settings(explain=True):
        compiled(t(-1))
    told = capsys.readouterr().err
    assert "bool() of bool[]" in told and "False" in told and "test_control_tree.py" in told
    text = compiled.explain()
    assert "True:" in text and "False:" in text and text.count("then the end") == 2


# --- what random programs found -----------------------------------------------------------------------


def test_gradients_are_cleared_in_a_branch_that_sets_none():
    def make():
        w = t(1, 2, requires_grad=True)

        def f(x):
            w.grad = None
            y = (w * x).sum()
            if y > 0:
                y.backward()
            return y.detach()

        return f, [w]

    run(make, [(t(v, 1),) for v in (-4, 2, -4, 3, -5, 1)], led=False, programs=3)


def test_a_gradient_that_is_the_result_s_own():
    def f(x, w):
        y = x.clone()
        y.sub_(w)
        return y if x.sum() > 0 else y * 2

    compiled = tw.compile(f)
    for a in (1, -3, 2, -2):
        w = t(1, 2, requires_grad=True)
        compiled(t(a, 1), w).sum().backward()
        assert w.grad.tolist() == ([-1.0, -1.0] if a > -1 else [-2.0, -2.0])
