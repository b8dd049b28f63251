"""The thread team in a process's life: forks, the end, several callers, interruptions, calls inside of calls."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import threading
import time
import warnings

import numpy as np
import pytest

import twofold as tw
from twofold import nn
from twofold.backends.cpu import team as team_module

needs_fork = pytest.mark.skipif(not hasattr(os, "fork"), reason="no fork on this system")


@pytest.fixture(autouse=True)
def three_threads():
    before = tw.get_num_threads()
    tw.set_num_threads(3)
    yield
    tw.set_num_threads(before)


def layer_and_input():
    tw.manual_seed(0)
    net = nn.Sequential(nn.Linear(64, 96), nn.Tanh(), nn.Linear(96, 32))
    return net, tw.randn(80, 64)


def run(code, timeout=60, **variables):
    """Standard output of a program in a process of its own, which has to end by itself."""
    result = subprocess.run(
        [sys.executable, "-c", code], env=os.environ | variables, capture_output=True, text=True, timeout=timeout
    )
    assert result.returncode == 0, result.stderr
    assert not result.stderr
    return result.stdout


# --- threads ------------------------------------------------------------------------------------------


@pytest.mark.parametrize("count", [1, 2, 3, 4, 8])
def test_results_do_not_depend_on_the_number_of_threads(count):
    def train():
        net, x = layer_and_input()
        optimizer = tw.optim.Adam(net.parameters())

        @tw.compile
        def step(x):
            optimizer.zero_grad()
            loss = net(x).square().mean()
            loss.backward()
            optimizer.step()
            return loss.detach()

        return [step(x).numpy().tobytes() for _ in range(4)], [
            p.numpy(force=True).tobytes() for p in net.parameters()
        ]

    expected = train()
    tw.set_num_threads(count)
    assert train() == expected
    assert len(team_module.team().threads) == count - 1


def test_there_must_be_a_thread():
    with pytest.raises(ValueError, match="at least 1, got 0"):
        tw.set_num_threads(0)


def test_old_workers_go_when_the_number_changes():
    def workers():
        return sorted(t.name for t in threading.enumerate() if t.name.startswith("twofold-"))

    f = tw.compile(lambda x: x + 1)
    f(tw.ones(3))
    assert workers() == ["twofold-1", "twofold-2"]
    tw.set_num_threads(2)
    assert workers() == []
    f(tw.ones(3))
    assert workers() == ["twofold-1"]


def test_the_number_from_the_environment():
    code = "import twofold as tw; tw.compile(lambda x: x + 1)(tw.ones(3)); print(tw.get_num_threads())"
    assert run(code, TWOFOLD_THREADS="5") == "5\n"


def test_sleeping_workers_take_no_time():
    f = tw.compile(lambda x: x.exp().sum())
    f(tw.ones(1000))
    time.sleep(0.05)
    before = time.process_time()
    time.sleep(0.3)
    assert time.process_time() - before < 0.05
    assert f(tw.zeros(1000)).item() == 1000, "and they wake up"


# --- several callers ------------------------------------------------------------------------------------


def test_several_python_threads_at_once():
    """Each with a program of its own, and all with one: results are those of a single thread."""
    net, x = layer_and_input()
    shared = tw.compile(net)
    with tw.no_grad():
        expected = shared(x).numpy()
    failures = []

    def work(number):
        try:
            own = tw.compile(lambda x: (x * number).tanh().sum(1))
            wanted = own.fn(x).numpy()
            for _ in range(40):
                with tw.no_grad():
                    if not np.array_equal(shared(x).numpy(), expected):
                        failures.append(f"{number}: shared")
                if not np.allclose(own(x).numpy(), wanted, rtol=1e-4, atol=1e-4):
                    failures.append(f"{number}: own")
        except Exception as e:
            failures.append(repr(e))

    threads = [threading.Thread(target=work, args=(i,)) for i in range(4)]
    for t in threads:
        t.start()
    for t in threads:
        t.join(60)
    assert not any(t.is_alive() for t in threads)
    assert failures == []


def test_the_number_of_threads_changes_while_others_compute():
    f = tw.compile(lambda x: (x @ x).relu().sum())
    x = tw.ones(40, 40)
    expected, done, failures = f(x).item(), threading.Event(), []

    def work():
        while not done.is_set():
            got = f(x).item()
            if got != expected:
                failures.append(got)

    threads = [threading.Thread(target=work) for _ in range(2)]
    for t in threads:
        t.start()
    for i in range(20):
        tw.set_num_threads(1 + i % 4)
    done.set()
    for t in threads:
        t.join(60)
    assert not any(t.is_alive() for t in threads) and failures == []


def test_calls_inside_of_calls():
    """A compiled function in the backward of another one's result, and in a hook of a module."""
    inner = tw.compile(lambda g: (g * 2).tanh())

    class Doubled(tw.autograd.Function):
        @staticmethod
        def forward(ctx, x):
            return inner(x.detach())

        @staticmethod
        def backward(ctx, g):
            return inner(g)

    outer = tw.compile(lambda x: (x * 3).sum())
    x = tw.ones(4, requires_grad=True)
    outer(Doubled.apply(x)).backward()
    np.testing.assert_allclose(x.grad.numpy(), np.tanh(6.0) * np.ones(4), rtol=1e-5)

    net, x = layer_and_input()
    seen = []
    net[1].register_forward_hook(lambda module, args, out: seen.append(inner(out.detach())))
    net[0] = tw.compile(net[0])
    net(x)
    assert seen[0].shape == (80, 96)


def test_a_step_on_numpy_may_call_a_program():
    """While a program runs, a listener starts another one: the team is busy, so it runs alone."""
    from twofold.backends.cpu import recording

    inner, outer = tw.compile(lambda x: x * 2), tw.compile(lambda x: (x @ x).exp().sum(0))
    small, x = tw.ones(3), tw.eye(5)
    inner(small)
    expected = outer(x).numpy()

    class Listener:
        calls = 0

        def step(self, program, number, start, end):
            if program.graph.inputs[0].shape == (5, 5):
                self.calls += 1
                assert inner(small).tolist() == [2.0, 2.0, 2.0]

        def span(self, *args):
            pass

    listener = Listener()
    before = recording.listen(listener)
    try:
        got = outer(x).numpy()
    finally:
        recording.listen(before)
    assert listener.calls > 0
    np.testing.assert_array_equal(got, expected)


# --- forks --------------------------------------------------------------------------------------------


@needs_fork
def test_a_child_computes_after_its_parent_has():
    f = tw.compile(lambda x: (x @ x).tanh())
    x = tw.eye(70)
    expected = f(x).numpy()
    for _ in range(3):
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", DeprecationWarning)  # forks of processes with threads
            child = os.fork()
        if child == 0:
            code = 1
            try:
                signal.alarm(30)
                same = np.array_equal(f(x).numpy(), expected)
                again = np.array_equal(tw.compile(f.fn)(x).numpy(), expected)
                code = 0 if same and again and team_module.team().num_threads == 3 else 2
            finally:
                os._exit(code)
        _, status = os.waitpid(child, 0)
        assert os.waitstatus_to_exitcode(status) == 0
        np.testing.assert_array_equal(f(x).numpy(), expected)


@needs_fork
def test_a_fork_while_another_thread_computes():
    """The child inherits locks that are held by threads which it does not have."""
    f = tw.compile(lambda x: (x @ x).tanh())
    x = tw.ones(64, 64) / 64
    expected = f(x).numpy()
    done = threading.Event()

    def work():
        while not done.is_set():
            f(x)

    thread = threading.Thread(target=work)
    thread.start()
    try:
        for _ in range(10):
            with warnings.catch_warnings():
                warnings.simplefilter("ignore", DeprecationWarning)
                child = os.fork()
            if child == 0:
                code = 1
                try:
                    signal.alarm(20)
                    code = 0 if np.array_equal(f(x).numpy(), expected) else 2
                finally:
                    os._exit(code)
            _, status = os.waitpid(child, 0)
            assert os.waitstatus_to_exitcode(status) == 0, "-14: the child waited for a lock for ever"
    finally:
        done.set()
        thread.join(60)


@needs_fork
@pytest.mark.filterwarnings("ignore::DeprecationWarning")
def test_a_fork_while_another_thread_compiles():
    done, x = threading.Event(), tw.ones(5)

    def work():
        i = 0.0
        with tw.debug.settings(cache_dir="0"):
            while not done.is_set():
                i += 1
                tw.compile(lambda x: (x * i).exp() + i)(x)

    thread = threading.Thread(target=work)
    thread.start()
    try:
        for n in range(12):
            time.sleep(0.003 * n)
            child = os.fork()
            if child == 0:
                code = 1
                try:
                    signal.alarm(20)
                    code = 0 if tw.compile(lambda x: x * n + 7)(x).tolist() == [n + 7] * 5 else 2
                finally:
                    os._exit(code)
            _, status = os.waitpid(child, 0)
            assert os.waitstatus_to_exitcode(status) == 0
    finally:
        done.set()
        thread.join(60)


def test_processes_of_multiprocessing():
    code = """
import multiprocessing, warnings
import twofold as tw

f = tw.compile(lambda x: (x * 2).sum())

def work(n):
    return f(tw.ones(n)).item()

if __name__ == "__main__":
    warnings.simplefilter("ignore", DeprecationWarning)
    f(tw.ones(3))
    with multiprocessing.get_context("fork").Pool(2) as pool:
        print(pool.map(work, [3, 4, 5, 3]))
"""
    if hasattr(os, "fork"):
        assert run(code) == "[6.0, 8.0, 10.0, 6.0]\n"


# --- the end of the process ------------------------------------------------------------------------------

SETUP = """
import threading, sys, os, signal, time
import twofold as tw
tw.set_num_threads(3)
f = tw.compile(lambda x: (x @ x).sum())
x = tw.ones(50, 50)
f(x)
"""


@pytest.mark.parametrize(
    "end",
    [
        "pass",
        "sys.exit()",
        "import atexit; atexit.register(lambda: print(f(x).item()))",
        "threading.Thread(target=lambda: [f(x) for _ in range(3000)], daemon=True).start(); time.sleep(0.02)",
        "threading.Thread(target=lambda: [f(x) for _ in range(300)]).start()",
        "class Late:\n    def __del__(self):\n        print(f(x).item())\nlate = Late()",
        "os._exit(0)",
    ],
    ids=["end", "exit", "atexit", "daemon", "thread", "del", "_exit"],
)
def test_the_interpreter_ends(end):
    out = run(SETUP + end)
    assert out in ("", "125000.0\n")


def test_an_exception_ends_the_interpreter():
    result = subprocess.run([sys.executable, "-c", SETUP + "1 / 0"], capture_output=True, text=True, timeout=60)
    assert result.returncode == 1 and result.stderr.rstrip().endswith("ZeroDivisionError: division by zero")


# --- interruptions ---------------------------------------------------------------------------------------

INTERRUPTED = """
import os, signal, threading, time
import numpy as np
import twofold as tw

tw.set_num_threads(3)
w = tw.zeros(300, 300)

@tw.compile
def step(x):
    w.add_(1)
    y = x
    for _ in range(60):
        y = (y @ x).tanh()
    return y.sum() + w.sum()

x = tw.eye(300)
step(x)
interrupted = 0
for i in range(12):
    timer = threading.Timer(0.004 * (i % 4 + 1), os.kill, (os.getpid(), signal.SIGINT))
    before = w[0, 0].item()
    try:
        timer.start()
        for _ in range(1000):
            step(x)
    except KeyboardInterrupt:
        interrupted += 1
    timer.join()
    assert np.unique(w.numpy()).size == 1, "a step is done as a whole or not at all"
count = w[0, 0].item()
assert interrupted == 12, interrupted
step(x)
assert w[0, 0].item() == count + 1
f = tw.compile(lambda x: x * 2)
print(f(tw.ones(2)).tolist())
"""


@pytest.mark.skipif(sys.platform == "win32", reason="signals")
def test_an_interrupted_call_leaves_all_usable():
    assert run(INTERRUPTED) == "[2.0, 2.0]\n"


COMPILING = """
import os, signal, threading, time
import twofold as tw
from twofold import nn

net = nn.Sequential(*[nn.Sequential(nn.Linear(8 + i, 9 + i), nn.Tanh()) for i in range(24)])
x = tw.ones(3, 8)
expected = net(x).detach()
f = tw.compile(net)
interrupted = 0
with tw.no_grad():
    for delay in (0.002, 0.01, 0.03, 0.06, 0.1, 0.2):
        timer = threading.Timer(delay, os.kill, (os.getpid(), signal.SIGINT))
        try:
            timer.start()
            f(x)
            timer.join()
            time.sleep(0.01)
        except KeyboardInterrupt:
            interrupted += 1
    assert interrupted == 6
    assert tw.allclose(f(x), expected, rtol=1e-4, atol=1e-5)
y = net(x)
assert y.requires_grad and not tw.is_inference_mode_enabled()
print("good")
"""


@pytest.mark.skipif(sys.platform == "win32", reason="signals")
def test_an_interruption_while_tracing_and_compiling(tmp_path):
    assert run(COMPILING, TWOFOLD_CACHE_DIR=str(tmp_path)) == "good\n"
