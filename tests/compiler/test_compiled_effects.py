"""What compiled code does besides computing: errors, attributes, modes, threads and processes."""

from __future__ import annotations

import os
import subprocess
import sys
import textwrap
import threading
import warnings

import numpy as np
import pytest
from twins import check, specializations

import twofold as tw
from twofold import nn


def test_an_exception_leaves_what_eager_code_leaves():
    after = []
    for run in (lambda f: f, tw.compile):
        tw.manual_seed(0)
        net = nn.Sequential(nn.Linear(2, 2), nn.Tanh(), nn.BatchNorm1d(2))
        optimizer = tw.optim.SGD(net.parameters(), lr=0.1, momentum=0.9)
        fail, seen = [True], []

        def step(x, net=net, optimizer=optimizer, fail=fail, seen=seen):
            optimizer.zero_grad()
            loss = net(x).square().sum()
            loss.backward()
            optimizer.step()
            seen.append(1)
            if fail[0]:
                raise KeyError("from the code")
            return loss.detach()

        net[0].weight.grad = tw.ones(2, 2)
        step = run(step)
        with pytest.raises(KeyError, match="from the code"):
            step(tw.randn(4, 2))
        assert len(seen) == 1 and net[0].weight.requires_grad and net[0].weight._version > 0
        after.append([t.numpy().copy() for t in net.state_dict().values()] + [net[0].weight.grad.numpy().copy()])
        fail[0] = False
        step(tw.randn(4, 2))
    for eager, compiled in zip(*after, strict=True):
        np.testing.assert_allclose(compiled, eager, rtol=1e-5, atol=1e-6)
    assert specializations(step) == 1


def test_an_error_in_the_code_is_the_eager_one():
    @tw.compile
    def f(x, y):
        return x @ y

    with pytest.raises(tw.TwofoldError, match="matmul"):
        f(tw.ones(2, 3), tw.ones(2, 3))
    assert f(tw.ones(2, 3), tw.ones(3, 2)).shape == (2, 2)


def test_an_index_out_of_range_changes_no_weights():
    """As eagerly, where the error comes before the step."""
    for run in (lambda f: f, tw.compile):
        tw.manual_seed(0)
        table = nn.Embedding(4, 2)
        optimizer = tw.optim.SGD(table.parameters(), lr=0.1, momentum=0.9)

        def step(ids, table=table, optimizer=optimizer):
            optimizer.zero_grad()
            loss = table(ids).square().sum()
            loss.backward()
            optimizer.step()
            return loss.detach()

        step = run(step)
        step(tw.tensor([1, 2]))
        before = table.weight.detach().numpy().copy()
        with pytest.raises(tw.OutOfBoundsError, match="9"):
            step(tw.tensor([1, 9]))
        np.testing.assert_array_equal(table.weight.detach().numpy(), before)
        step(tw.tensor([1, 2]))


def test_values_that_the_code_keeps_for_itself():
    """A tensor put on a module or into a list is not the trace's."""
    net = nn.Linear(2, 2)
    seen = []

    @tw.compile
    def f(x):
        y = net(x)
        net.last = y
        seen.append(y)
        return y.sum().detach()

    with warnings.catch_warnings():
        warnings.simplefilter("ignore", tw.TwofoldWarning)
        f(tw.ones(1, 2))
        got = f(tw.full((1, 2), 2.0))
    last = net.last
    assert not isinstance(last, tw.Tensor) or isinstance(last._value, np.ndarray), (
        "no symbolic tensor is left on the module"
    )
    if isinstance(last, tw.Tensor):
        np.testing.assert_allclose(last.sum().item(), got.item(), rtol=1e-6)


class Counter(nn.Module):
    def __init__(self):
        super().__init__()
        self.calls = 0
        self.register_buffer("mean", tw.zeros(2))

    def forward(self, x):
        self.calls += 1
        self.mean = self.mean * 0.5 + x.mean(0) * 0.5
        return x * self.calls + self.mean


def test_a_module_that_counts_and_replaces_its_buffer():
    for run in (lambda f: f, tw.compile):
        net = Counter()
        f = run(lambda x, net=net: net(x))
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", tw.TwofoldWarning)
            results = [f(tw.ones(3, 2))[0, 0].item() for _ in range(4)]
        assert results == [1.5, 2.75, 3.875, 4.9375] and net.calls == 4
        assert net.mean.tolist() == [0.9375, 0.9375]


def test_a_schedule_inside_the_code_runs_eagerly():
    for run in (lambda f: f, tw.compile):
        w = tw.ones(2, requires_grad=True)
        optimizer = tw.optim.SGD([w], lr=1.0)
        scheduler = tw.optim.lr_scheduler.ExponentialLR(optimizer, 0.5)

        def step(w=w, optimizer=optimizer, scheduler=scheduler):
            optimizer.zero_grad()
            w.sum().backward()
            optimizer.step()
            scheduler.step()

        step = run(step)
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", tw.TwofoldWarning)
            for _ in range(3):
                step()
        assert w.tolist() == [-0.75, -0.75] and optimizer.param_groups[0]["lr"] == 0.125
        assert scheduler.last_epoch == 3


def test_arrays_that_share_memory():
    for run in (lambda f: f, tw.compile):
        memory = np.zeros(4, np.float32)
        a, b = tw.from_numpy(memory), tw.from_numpy(memory[1:])

        def f(a=a, b=b):
            a.add_(1)
            return b * 2

        f = run(f)
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", tw.TwofoldWarning)
            assert f().tolist() == [2.0] * 3 and f().tolist() == [4.0] * 3


def test_modes_inside_and_outside():
    def make():
        w = tw.ones(2, requires_grad=True)

        def f(x):
            with tw.no_grad():
                a = w * x
            with tw.enable_grad():
                b = (w * x).detach()
            return a + b, a.requires_grad, tw.is_grad_enabled()

        return f, w

    check(make, [(tw.ones(2),)] * 2)
    compiled = tw.compile(make()[0])
    assert compiled(tw.ones(2))[2] is True
    with tw.no_grad():
        assert compiled(tw.ones(2))[2] is False
    with tw.inference_mode():
        assert compiled(tw.ones(2))[0].tolist() == [2.0, 2.0]


def test_the_default_dtype_is_part_of_the_program():
    compiled = tw.compile(lambda: tw.ones(2) * 1)
    assert compiled().dtype is tw.float32
    tw.set_default_dtype(tw.float64)
    try:
        assert compiled().dtype is tw.float64
    finally:
        tw.set_default_dtype(tw.float32)
    assert compiled().dtype is tw.float32


def test_a_compiled_function_calls_another():
    @tw.compile
    def inner(x):
        return x * 2

    @tw.compile
    def outer(x):
        return inner(x) + inner(x + 1)

    assert outer(tw.ones(2)).tolist() == [6.0, 6.0] and specializations(inner) == 0


def test_a_module_is_compiled():
    net = nn.Sequential(nn.Linear(3, 4), nn.ReLU(), nn.Linear(4, 2))
    compiled = tw.compile(net)
    x = tw.randn(5, 3)
    with tw.no_grad():
        np.testing.assert_allclose(compiled(x).numpy(), net(x).numpy(), rtol=1e-5)
    compiled(x).sum().backward()
    mine = [p.grad.numpy().copy() for p in net.parameters()]
    net.zero_grad()
    net(x).sum().backward()
    for a, p in zip(mine, net.parameters(), strict=True):
        np.testing.assert_allclose(a, p.grad.numpy(), rtol=1e-4, atol=1e-6)


class Net(nn.Module):
    def __init__(self, factor):
        super().__init__()
        self.line = nn.Linear(2, 2)
        self.factor = factor

    @tw.compile
    def forward(self, x):
        return self.line(x) * self.factor


def test_a_method_is_compiled():
    a, b = Net(1.0), Net(3.0)
    b.load_state_dict(a.state_dict())
    x = tw.ones(1, 2)
    with tw.no_grad():
        np.testing.assert_allclose(b(x).numpy(), 3 * a(x).numpy(), rtol=1e-6)
        a.factor = 2.0
        np.testing.assert_allclose(1.5 * a(x).numpy(), b(x).numpy(), rtol=1e-6)


# --- threads and processes ----------------------------------------------------------------------------


def test_any_number_of_threads_gives_the_same_bits():
    results = []
    for threads in (1, 2, 3):
        tw.set_num_threads(threads)
        tw.manual_seed(0)
        net = nn.Sequential(nn.Linear(40, 70), nn.LayerNorm(70), nn.GELU(), nn.Dropout(0.3), nn.Linear(70, 10))
        optimizer = tw.optim.AdamW(net.parameters(), lr=0.01)
        x, y = tw.randn(300, 40), tw.randint(0, 10, (300,))

        @tw.compile
        def step(x, y, net=net, optimizer=optimizer):
            optimizer.zero_grad()
            loss = nn.functional.cross_entropy(net(x), y)
            loss.backward()
            optimizer.step()
            return loss.detach()

        losses = [step(x, y).item() for _ in range(4)]
        results.append([losses, *[p.detach().numpy().tobytes() for p in net.parameters()]])
    assert results[0] == results[1] == results[2]


def test_python_threads_call_one_function():
    """The first calls trace; all add to one state, one after the other."""
    total = tw.zeros(50)

    @tw.compile
    def f(x):
        total.add_(x)
        return (x * 2).sum()

    errors: list = []
    start = threading.Barrier(4)

    def work(k):
        try:
            start.wait()
            for _ in range(25):
                x = tw.full((50,), float(k))
                assert f(x).item() == 100.0 * k
        except BaseException as e:
            errors.append(e)

    threads = [threading.Thread(target=work, args=(k,)) for k in range(4)]
    for t in threads:
        t.start()
    for t in threads:
        t.join()
    assert not errors, errors
    assert total.tolist() == [25.0 * 6] * 50 and specializations(f) == 1


@pytest.mark.skipif(not hasattr(os, "fork"), reason="needs fork")
def test_a_forked_process_runs_programs():
    code = """
        import os, twofold as tw
        tw.set_num_threads(2)
        s = tw.zeros(100)
        @tw.compile
        def f(x):
            s.add_(x)
            return (x @ x).sum() + s.sum()
        x = tw.ones(100, 100)
        a = tw.compile(lambda x: (x @ x).sum())
        first = a(x).item()
        f(tw.ones(100))
        pid = os.fork()
        if pid == 0:
            ok = a(x).item() == first and f(tw.ones(100)).item() == 300.0 and a(x[:50, :50]).item() == 50.0 ** 3
            os._exit(0 if ok else 3)
        assert os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]) == 0
        assert f(tw.ones(100)).item() == 300.0
        print("done")
    """
    out = subprocess.run([sys.executable, "-c", textwrap.dedent(code)], capture_output=True, text=True, timeout=60)
    assert out.stdout.strip() == "done", out.stderr


# --- soak -----------------------------------------------------------------------------------------------


def resident():
    """Bytes of this process in memory."""
    with open("/proc/self/statm") as f:
        return int(f.read().split()[1]) * os.sysconf("SC_PAGE_SIZE")


@pytest.mark.slow
@pytest.mark.skipif(not sys.platform.startswith("linux"), reason="reads /proc")
def test_ten_thousand_steps_in_constant_memory():
    net = nn.Sequential(nn.Linear(20, 30), nn.ReLU(), nn.Dropout(0.1), nn.Linear(30, 5))
    optimizer = tw.optim.Adam(net.parameters(), lr=0.001)

    @tw.compile
    def step(x, y):
        optimizer.zero_grad()
        loss = nn.functional.cross_entropy(net(x), y)
        loss.backward()
        optimizer.step()
        return loss.detach()

    def run(n):
        for _ in range(n):
            step(tw.randn(16, 20), tw.randint(0, 5, (16,)))

    run(1000)
    before = resident()
    run(10_000)
    assert resident() - before < 2 << 20
    assert specializations(step) == 1


@pytest.mark.slow
@pytest.mark.skipif(not sys.platform.startswith("linux"), reason="reads /proc")
def test_two_hundred_programs_are_given_back():
    import gc

    def make(k):
        s = tw.zeros(k + 1, 7)

        @tw.compile
        def f(x):
            s.add_(x)
            return (s @ s.mT).softmax(-1).sum()

        f(tw.ones(7))

    for k in range(60):
        make(k)
    gc.collect()
    before = resident()
    for k in range(60, 260):
        make(k % 60)
    gc.collect()
    assert resident() - before < 8 << 20
