"""Code that asks tensors for numbers and returns, prints or computes with them, compiled."""

from __future__ import annotations

import numpy as np
import pytest
from asking import RNG, plain, run, t, training, tree_of

import twofold as tw
import twofold.nn.functional as F
from twofold.compiler import leading, ways

TRACE_SECONDS = leading.TRACE_SECONDS


def test_the_number_of_a_loss_is_returned_and_kept():
    def body(net, optimizer, x, y, log):
        loss = F.cross_entropy(net(x), y)
        loss.backward()
        optimizer.step()
        log.append(loss.item())
        return np.float32(float(loss))

    training(body, programs=2, led=True)


def test_the_number_of_a_loss_is_printed(capsys):
    def f(x):
        loss = x.square().mean()
        print(f"loss {loss:.2f}", loss.item())
        return loss

    f, compiled = f, tw.compile(f)
    for a in (1, 2, 3, 4, 3):
        f(t(a))
    expected = capsys.readouterr().out
    for a in (1, 2, 3, 4, 3):
        compiled(t(a))
    assert capsys.readouterr().out == expected and tree_of(compiled).num_programs <= 2


def test_the_norm_of_gradients_decides():
    def body(net, optimizer, x, y, log):
        loss = F.cross_entropy(net(x), y)
        loss.backward()
        norm = sum(p.grad.square().sum() for p in net.parameters()) ** 0.5
        if norm > 0.95:
            for p in net.parameters():
                p.grad.mul_(0.95 / norm)
        optimizer.step()
        return loss.detach()

    training(body, programs=3, led=False)


def test_numbers_come_back_as_operands():
    def body(net, optimizer, x, y, log):
        loss = F.cross_entropy(net(x), y)
        loss.backward()
        norm = (sum(p.grad.square().sum() for p in net.parameters()) ** 0.5).item()
        if norm > 0.95:
            for p in net.parameters():
                p.grad.mul_(0.95 / norm)
        optimizer.step()
        log.append(norm)
        return loss.detach()

    training(body, led=True)


def test_numbers_come_back_in_many_ways():
    buffer = tw.zeros(3)

    def f(x):
        s = x.sum().item()
        y = x * s + 2.0 - s
        y[0] = s
        m = y.max().item()
        buffer.fill_(m)
        z = tw.where(y > 1, y, m) + tw.full((3,), s)
        return z * 2.0, np.float32(s * m), z.clone().masked_fill(z > m, s)

    def make():
        buffer.zero_()
        return f, [buffer]

    run(make, [(tw.tensor(RNG.normal(size=3).astype("f")),) for _ in range(9)], led=True)


def test_a_number_that_is_by_chance_the_same_as_another():
    def f(x):
        s = x.sum().item()
        return x * s + 2.0

    run(plain(f), [(t(a, 1),) for a in (1, 1, 2, 3)], led=True)


def test_scaling_the_loss_or_skipping_the_step():
    def body(net, optimizer, x, y, log):
        loss = F.cross_entropy(net(x), y)
        if loss > 1.25:
            loss = loss * 0.5
        loss.backward()
        if loss < 0.6:
            return loss.detach() * 0
        optimizer.step()
        return loss.detach()

    training(body, led=False)


def test_many_integers_let_python_lead(monkeypatch):
    monkeypatch.setattr(ways, "MAX_ANSWERS", 3)

    def f(x, n):
        return x * n.item() + 1

    run(plain(f), [(t(2), tw.tensor(n)) for n in range(10)], led=True)


def test_too_many_ways_are_gone_eagerly():
    def f(x):
        return tw.zeros(int(x.sum().item() * 10)).sum() + x.sum()

    compiled = tw.compile(f)
    with pytest.warns(tw.TwofoldWarning, match=r"return the tensor and ask for its number outside") as seen:
        for n in range(2 * ways.MAX_WAYS):
            assert compiled(t(n)).item() == n
    assert len(seen) == 1 and tree_of(compiled).refused


def test_code_that_depends_on_more_than_tensors_when_python_leads():
    def make():
        state, calls = tw.zeros(2), [0]

        def f(x):
            calls[0] += 1
            if calls[0] % 3 == 0:
                x = x * 2
            state.add_(x)
            s = x.sum().item()
            if calls[0] % 2 == 0:
                state.mul_(0.5)
            return x + s

        return f, [state]

    run(make, [(t(v, 1),) for v in range(12)], led=True)


def test_new_numbers_add_nothing():
    """Calls with new numbers add nothing to the tree."""
    compiled = tw.compile(lambda x: x * x.mean().item())
    for v in range(40):
        assert compiled(t(v, 1)).tolist() == [v * (v + 1) / 2, (v + 1) / 2]
    assert tree_of(compiled).num_programs <= 4
    assert len(list(tree_of(compiled).lines())) <= 4


# --- numbers that are only returned -------------------------------------------------------------------


def _dict(x, n):
    loss = x.square().mean()
    mean = x.mean().item()
    return {
        "loss": loss.item(),
        "mean": mean,
        "count": n.sum().item(),
        "two": 2,
        "size": float(loss.detach()),
        "x": x,
    }


def _tuple(x, n):
    total = (x * n).sum()
    return total.item(), 1, 2, n.sum().item(), [1.0, 2.0, float(total)], x + n


def _one(x, n):
    return x.sum().item() if n.ndim else float(x.sum())


def _after_a_branch(x, n):
    if x.sum() > 0:
        return (x * 2).sum().item()
    return n.sum().item(), 0


RETURNED = [_dict, _tuple, _one, _after_a_branch]


@pytest.mark.parametrize("f", RETURNED)
def test_numbers_that_are_only_returned_need_no_python(f):
    calls = [(t(a, b), tw.tensor([c, 1])) for a, b, c in RNG.integers(-4, 5, (8, 3))]
    compiled = tw.compile(f)
    for args in calls:
        got, expected = compiled(*args), f(*args)
        assert repr(got) == repr(expected)
    tree = tree_of(compiled)
    assert not tree.led and tree.num_programs <= 6, compiled.explain()
    assert "which is returned" in compiled.explain()


def _printed(x, log):
    print(x.sum().item())


def _kept(x, log):
    log.append(x.sum().item())


def _compared(x, log):
    return x.sum().item() > 2


def _computed(x, log):
    s = x.sum().item()
    return s, s * 2


def _formatted(x, log):
    return f"{x.sum().item():.3f}"


def _key(x, log):
    return {x.sum().item(): 1}


def _key_of_float(x, log):
    return {float(x.sum()): float(x.sum())}


def _called(x, log):
    return max(x.sum().item(), x.max().item())


def _twice(x, log):
    return float(x.sum().item()), float(x.sum().item())


def _inside(x, log):
    def inner():
        return x.sum().item()

    return inner() + 1


def _again(x, log):
    if x.ndim == 1:
        return _again(x[None], log) * 2
    return x.sum().item()


def _unpacked(x, log):
    s, m = x.sum().item(), x.max().item()
    for v in (s, m):
        log.append(v)
    return s


def _caught(x, log):
    s = x.sum().item()
    try:
        return s
    finally:
        log.append(s)


def _seen(x, log):
    s = x.sum().item()
    names = locals()
    return names["s"]


@pytest.mark.parametrize(
    "f",
    [_printed, _kept, _compared, _computed, _formatted, _key, _key_of_float, _called, _twice, _inside, _again,
     _unpacked, _caught, _seen],
)  # fmt: skip
def test_numbers_that_something_is_done_with(f, capsys):
    out = []
    for run_it in (f, tw.compile(f)):
        log = []
        kept = Log(log)
        results = [repr(run_it(x, kept)) for x in (t(1, 2), t(-3, 1), t(4, 4), t(1, 2))]
        out.append((results, log, capsys.readouterr().out))
    assert out[0] == out[1]


class Log:
    """A list that can be an argument of compiled code: all are the same."""

    def __init__(self, items):
        self.append = items.append

    def __eq__(self, other):
        return isinstance(other, Log)

    def __hash__(self):
        return 1


# --- small arrays -------------------------------------------------------------------------------------


@pytest.mark.parametrize(("size", "worth"), [(4, False), (1 << 20, True)])
def test_python_leads_where_arrays_are_large(size, worth, monkeypatch):
    """Tracing each call costs more than programs save on small ones: later calls are eager, and mean the same."""
    monkeypatch.setattr(leading, "TRACE_SECONDS", TRACE_SECONDS)
    total, log = tw.zeros(1), []

    @tw.compile
    def f(x):
        total.add_(x.amax())
        log.append((x * 2 + 1).relu().sum().item())
        return total * log[-1] * x

    x = tw.ones(size)
    for i in range(1, 5):
        assert (f(x) == 3 * size * i).all()
    assert log == [3 * size] * 4 and (total == 4).all()
    tree = tree_of(f)
    assert tree.refused is not worth and tree.led
    assert ("arrays are small" in f.explain()) is not worth
