"""The thread team: persistent workers that run a program's phases together.

Note [Phases]
A program is a table of phases, each a function `phase(args, first, last, worker)` over a number
of chunks. Threads claim chunks with an atomic add; a phase is over when all its chunks are *done*,
not when all threads have arrived. So a worker that the system has put aside delays a program only
if it holds a chunk, and a worker may join late. Who computes a chunk does not change its result.
After a phase that found an error (see checks.py) no other begins, so that state stays as it was.

Note [Sleeping]
Between programs a worker spins for a short while and then sleeps in a futex (elsewhere: naps).
The launching thread takes part as worker 0 and wakes the others only if some are asleep.
"""

from __future__ import annotations

import atexit
import ctypes
import os
import sys
import threading
from typing import Any

import numpy as np

from ...ir import config
from .jit import Library, compile_text, usable_cpus
from .target import host

LINE = 128  # bytes between words that different threads write
PHASE_BYTES = 24  # of the table of phases: function, number of chunks, table of buffer addresses
_TICKET_BYTES = 2 * LINE  # per phase: the ticket counter, and the count of chunks done

# Offsets of the team block's words, each on a line of its own.
_GO, _SLEEPERS, _PROGRAM, _ENTERED, _LEFT, _QUIT = (i * LINE for i in range(6))
TEAM_BYTES = 6 * LINE

_LINUX_FUTEX = {"x86_64": 202, "aarch64": 98}


def _runtime_text() -> str:
    """The IR of the launcher and the workers."""
    machine = os.uname().machine if hasattr(os, "uname") else ""
    number = _LINUX_FUTEX.get(machine) if sys.platform == "linux" else None
    if number is not None:
        sleep = f"call i64 (i64, ...) @syscall(i64 {number}, ptr %go, i64 128, i64 %seen32, i64 0, i64 0, i64 0)"
        wake = f"call i64 (i64, ...) @syscall(i64 {number}, ptr %go, i64 129, i64 2147483647, i64 0, i64 0, i64 0)"
    else:
        sleep, wake = "call i32 @usleep(i32 100)", "add i32 0, 0"
    if machine in ("x86_64", "AMD64"):
        declare, pause = "declare void @llvm.x86.sse2.pause()", "call void @llvm.x86.sse2.pause()"
    elif machine in ("aarch64", "arm64"):
        declare, pause = "declare void @llvm.aarch64.hint(i32)", "call void @llvm.aarch64.hint(i32 1)"
    else:
        declare, pause = "", ""
    return declare + _RUNTIME.replace("$SLEEP", sleep).replace("$WAKE", wake).replace("$PAUSE", pause)


_RUNTIME = f"""
declare i64 @syscall(i64, ...)
declare i32 @usleep(i32)
declare i32 @sched_yield()
declare void @llvm.memset.p0.i64(ptr, i8, i64, i1)

define internal void @backoff(i64 %spins) nounwind {{
entry:
  %short = icmp ult i64 %spins, 2000
  br i1 %short, label %spin, label %yield
spin:
  $PAUSE
  ret void
yield:
  %y = call i32 @sched_yield()
  ret void
}}

define void @phases(ptr %table, i64 %count, ptr %tickets, ptr %stop, i64 %worker) nounwind {{
entry:
  br label %phase
phase:
  %p = phi i64 [ 0, %entry ], [ %p1, %next ]
  %halt = load atomic i64, ptr %stop monotonic, align 8
  %good = icmp eq i64 %halt, 0
  %limit = select i1 %good, i64 %count, i64 0
  %more = icmp ult i64 %p, %limit
  br i1 %more, label %begin, label %end
begin:
  %row = mul i64 %p, {PHASE_BYTES}
  %e = getelementptr i8, ptr %table, i64 %row
  %fn = load ptr, ptr %e
  %e8 = getelementptr i8, ptr %e, i64 8
  %chunks = load i64, ptr %e8
  %e16 = getelementptr i8, ptr %e, i64 16
  %args = load ptr, ptr %e16
  %toff = mul i64 %p, {_TICKET_BYTES}
  %ticket = getelementptr i8, ptr %tickets, i64 %toff
  %done = getelementptr i8, ptr %ticket, i64 {LINE}
  br label %claim
claim:
  %c = atomicrmw add ptr %ticket, i64 1 acq_rel
  %mine = icmp ult i64 %c, %chunks
  br i1 %mine, label %work, label %wait
work:
  %c1 = add i64 %c, 1
  call void %fn(ptr %args, i64 %c, i64 %c1, i64 %worker)
  %d0 = atomicrmw add ptr %done, i64 1 acq_rel
  br label %claim
wait:
  %spins = phi i64 [ 0, %claim ], [ %spins1, %again ]
  %d = load atomic i64, ptr %done acquire, align 8
  %ready = icmp uge i64 %d, %chunks
  br i1 %ready, label %next, label %again
again:
  call void @backoff(i64 %spins)
  %spins1 = add i64 %spins, 1
  br label %wait
next:
  %p1 = add i64 %p, 1
  br label %phase
end:
  ret void
}}

define void @serial(ptr %table, i64 %count, ptr %stop) nounwind {{
entry:
  br label %phase
phase:
  %p = phi i64 [ 0, %entry ], [ %p1, %begin ]
  %halt = load atomic i64, ptr %stop monotonic, align 8
  %good = icmp eq i64 %halt, 0
  %limit = select i1 %good, i64 %count, i64 0
  %more = icmp ult i64 %p, %limit
  br i1 %more, label %begin, label %end
begin:
  %row = mul i64 %p, {PHASE_BYTES}
  %e = getelementptr i8, ptr %table, i64 %row
  %fn = load ptr, ptr %e
  %e8 = getelementptr i8, ptr %e, i64 8
  %chunks = load i64, ptr %e8
  %e16 = getelementptr i8, ptr %e, i64 16
  %args = load ptr, ptr %e16
  call void %fn(ptr %args, i64 0, i64 %chunks, i64 0)
  %p1 = add i64 %p, 1
  br label %phase
end:
  ret void
}}

define void @worker(ptr %team, i64 %worker) nounwind {{
entry:
  %go = getelementptr i8, ptr %team, i64 {_GO}
  %sleepers = getelementptr i8, ptr %team, i64 {_SLEEPERS}
  %program = getelementptr i8, ptr %team, i64 {_PROGRAM}
  %entered = getelementptr i8, ptr %team, i64 {_ENTERED}
  %left = getelementptr i8, ptr %team, i64 {_LEFT}
  %quit = getelementptr i8, ptr %team, i64 {_QUIT}
  br label %wait
wait:
  %seen = phi i32 [ 0, %entry ], [ %now, %closed ], [ %now, %leave ]
  br label %look
look:
  %spins = phi i64 [ 0, %wait ], [ %spins1, %nap ], [ 0, %woken ]
  %now = load atomic i32, ptr %go acquire, align 4
  %new = icmp ne i32 %now, %seen
  br i1 %new, label %enter, label %idle
idle:
  %tired = icmp ugt i64 %spins, 4000
  br i1 %tired, label %sleep, label %nap
nap:
  $PAUSE
  %spins1 = add i64 %spins, 1
  br label %look
sleep:
  %s0 = atomicrmw add ptr %sleepers, i64 1 seq_cst
  %seen32 = zext i32 %seen to i64
  %slept = $SLEEP
  %s1 = atomicrmw sub ptr %sleepers, i64 1 seq_cst
  br label %woken
woken:
  br label %look
enter:
  %q = load atomic i64, ptr %quit acquire, align 8
  %stop = icmp ne i64 %q, 0
  br i1 %stop, label %end, label %join
join:
  %old = atomicrmw add ptr %entered, i64 1 acq_rel
  %shut = icmp uge i64 %old, 4294967296
  br i1 %shut, label %closed, label %run
closed:
  br label %wait
run:
  %table = load ptr, ptr %program
  %o1 = getelementptr i8, ptr %program, i64 8
  %count = load i64, ptr %o1
  %o3 = getelementptr i8, ptr %program, i64 16
  %tickets = load ptr, ptr %o3
  %o4 = getelementptr i8, ptr %program, i64 24
  %stop4 = load ptr, ptr %o4
  call void @phases(ptr %table, i64 %count, ptr %tickets, ptr %stop4, i64 %worker)
  br label %leave
leave:
  %l0 = atomicrmw add ptr %left, i64 1 acq_rel
  br label %wait
end:
  ret void
}}

define void @launch(ptr %team, ptr %table, i64 %count, ptr %tickets, ptr %stop) nounwind {{
entry:
  %go = getelementptr i8, ptr %team, i64 {_GO}
  %sleepers = getelementptr i8, ptr %team, i64 {_SLEEPERS}
  %program = getelementptr i8, ptr %team, i64 {_PROGRAM}
  %entered = getelementptr i8, ptr %team, i64 {_ENTERED}
  %left = getelementptr i8, ptr %team, i64 {_LEFT}
  store ptr %table, ptr %program
  %o1 = getelementptr i8, ptr %program, i64 8
  store i64 %count, ptr %o1
  %o3 = getelementptr i8, ptr %program, i64 16
  store ptr %tickets, ptr %o3
  %o4 = getelementptr i8, ptr %program, i64 24
  store ptr %stop, ptr %o4
  %tbytes = mul i64 %count, {_TICKET_BYTES}
  call void @llvm.memset.p0.i64(ptr %tickets, i8 0, i64 %tbytes, i1 false)
  store atomic i64 0, ptr %left release, align 8
  store atomic i64 0, ptr %entered release, align 8
  %g = atomicrmw add ptr %go, i32 1 seq_cst
  %s = load atomic i64, ptr %sleepers seq_cst, align 8
  %asleep = icmp ne i64 %s, 0
  br i1 %asleep, label %wake, label %work
wake:
  %w = $WAKE
  br label %work
work:
  call void @phases(ptr %table, i64 %count, ptr %tickets, ptr %stop, i64 0)
  %old = atomicrmw or ptr %entered, i64 4294967296 acq_rel
  br label %wait
wait:
  %spins = phi i64 [ 0, %work ], [ %spins1, %again ]
  %l = load atomic i64, ptr %left acquire, align 8
  %ready = icmp uge i64 %l, %old
  br i1 %ready, label %end, label %again
again:
  call void @backoff(i64 %spins)
  %spins1 = add i64 %spins, 1
  br label %wait
end:
  ret void
}}

define void @dismiss(ptr %team) nounwind {{
entry:
  %go = getelementptr i8, ptr %team, i64 {_GO}
  %quit = getelementptr i8, ptr %team, i64 {_QUIT}
  store atomic i64 1, ptr %quit release, align 8
  %g = atomicrmw add ptr %go, i32 1 seq_cst
  %w = $WAKE
  ret void
}}
"""


class Team:
    """The workers of this process; one program at a time uses them.

    Args:
        num_threads: how many threads run a program, the caller included.
    """

    def __init__(self, num_threads: int):
        self.num_threads = num_threads
        self.busy = threading.Lock()
        self.library = _library()
        self._block = np.zeros(TEAM_BYTES + LINE, np.uint8)
        self.address = -(-self._block.ctypes.data // LINE) * LINE
        pointer = ctypes.c_void_p
        self.launch = ctypes.CFUNCTYPE(None, pointer, pointer, ctypes.c_int64, pointer, pointer)(
            self.library.address("launch")
        )
        self.serial = ctypes.CFUNCTYPE(None, pointer, ctypes.c_int64, pointer)(self.library.address("serial"))
        run = ctypes.CFUNCTYPE(None, pointer, ctypes.c_int64)(self.library.address("worker"))
        self.threads = [
            threading.Thread(target=run, args=(self.address, i), name=f"twofold-{i}", daemon=True)
            for i in range(1, num_threads)
        ]
        for thread in self.threads:
            thread.start()

    def run(self, table: int, count: int, tickets: int, stop: int) -> None:
        """Run a program's phases; alone if the team is busy with another thread's program.

        A phase does not begin if there is a number other than 0 at the address `stop`.
        """
        if self.num_threads > 1 and self.busy.acquire(blocking=False):
            try:
                self.launch(self.address, table, count, tickets, stop)
            finally:
                self.busy.release()
        else:
            self.serial(table, count, stop)

    def dismiss(self) -> None:
        """End the workers and wait for them."""
        ctypes.CFUNCTYPE(None, ctypes.c_void_p)(self.library.address("dismiss"))(self.address)
        for thread in self.threads:
            thread.join()
        self.threads = []


_team: Team | None = None
_num_threads: int | None = None
_lock = threading.Lock()
_runtime: Library | None = None


def _library() -> Library:
    global _runtime
    if _runtime is None:
        _runtime = compile_text(_runtime_text(), host())
    return _runtime


def get_num_threads() -> int:
    """Threads that compiled programs use."""
    if _num_threads is not None:
        return _num_threads
    return config.THREADS.value or usable_cpus()


def set_num_threads(num_threads: int) -> None:
    """Set how many threads compiled programs use; results do not depend on it."""
    global _num_threads
    if num_threads < 1:
        raise ValueError(f"the number of threads must be at least 1, got {num_threads}")
    with _lock:
        _num_threads = int(num_threads)
        _end()


def team() -> Team:
    """The process's team, made on first use."""
    global _team
    if _team is None:
        with _lock:
            if _team is None:
                _team = Team(get_num_threads())
    return _team


def _end() -> None:
    global _team
    current, _team = _team, None
    if current is not None:
        with current.busy:
            current.dismiss()


def _after_fork() -> None:
    """A forked child has no workers: forget the team; a new one is made when needed."""
    global _team, _lock
    _team = None
    _lock = threading.Lock()


def tickets(count: int) -> Any:
    """Memory for the counters of `count` phases, and its aligned address."""
    memory = np.zeros(count * _TICKET_BYTES + LINE, np.uint8)
    return memory, -(-memory.ctypes.data // LINE) * LINE


if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_after_fork)
atexit.register(_end)
