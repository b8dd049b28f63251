"""The thread team: persistent workers that run a program's phases together.

Note [Phases]
A program is a table of functions `f(args, first, last, worker)`, each over a number of chunks, in phases: those
of one phase may run at the same time. Threads claim chunks of a phase with an atomic add; a phase is over when
all its chunks are *done*, not when all threads have arrived. So a worker that the system has put aside delays a
program only if it holds a chunk, and a worker may join late. Who computes a chunk does not change its result.
The chunks of a phase are divided into ranges of neighbours, which share what they read: a thread begins with a
range of its own, the same in every call, and helps with the others when that one is done.
After a phase that found an error (see checks.py) no other begins, so that state stays as it was.

A row of the table holds the function, its number of chunks, its arguments, the number of the phase's chunks up to
and with its own, and, in a phase's first row, the number of the phase's rows. A row that adds no chunks
runs right after the row before it, by the same thread. Steps that run item by item are a row whose function is
`chain` and whose arguments describe them; its chunks are the items.

Note [Sleeping]
Between programs a worker spins for a short while and then sleeps in a futex (elsewhere: naps).
The launching thread takes part as worker 0 and wakes the others only if some are asleep.

Note [Claiming the team]
One thread at a time has the team, the others run their programs alone. Who has it is told by a word that native
code sets and clears: between taking a lock of Python's and the `try` that releases it, Ctrl-C may strike.
"""

from __future__ import annotations

import atexit
import ctypes
import os
import sys
import threading
import time
from typing import Any

import numpy as np

from ...ir import config
from .jit import Library, compile_text, usable_cpus
from .target import host

LINE = 128  # bytes between words that different threads write
PHASE_BYTES = 40  # of a row of the table
MOST_RANGES = 8  # of a phase's chunks; per phase there is the count of chunks done, and a ticket counter per range

# Offsets of the team block's words, each on a line of its own.
_GO, _SLEEPERS, _PROGRAM, _ENTERED, _LEFT, _QUIT, _BUSY, _RANGES = (i * LINE for i in range(8))
TEAM_BYTES = 8 * LINE
CHAIN_HEAD = 6  # words of a chain's description before those of its steps, see chains.py

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
declare void @llvm.memcpy.p0.p0.i64(ptr, ptr, i64, i1)

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

define void @phases(ptr %table, i64 %count, ptr %tickets, ptr %stop, i64 %worker, i64 %ranges) nounwind {{
entry:
  %lines = add i64 %ranges, 1
  %step = mul i64 %lines, {LINE}
  %round = sub i64 %ranges, 1
  %home = urem i64 %worker, %ranges
  br label %phase
phase:
  %p = phi i64 [ 0, %entry ], [ %p1, %next ]
  %first = phi ptr [ %table, %entry ], [ %after, %next ]
  %halt = load atomic i64, ptr %stop monotonic, align 8
  %good = icmp eq i64 %halt, 0
  %limit = select i1 %good, i64 %count, i64 0
  %more = icmp ult i64 %p, %limit
  br i1 %more, label %begin, label %end
begin:
  %f32 = getelementptr i8, ptr %first, i64 32
  %rows = load i64, ptr %f32
  %size = mul i64 %rows, {PHASE_BYTES}
  %after = getelementptr i8, ptr %first, i64 %size
  %l24 = getelementptr i8, ptr %after, i64 {24 - PHASE_BYTES}
  %chunks = load i64, ptr %l24
  %toff = mul i64 %p, %step
  %done = getelementptr i8, ptr %tickets, i64 %toff
  br label %range
range:
  %r = phi i64 [ %home, %begin ], [ %r_next, %other ]
  %left = phi i64 [ %ranges, %begin ], [ %left1, %other ]
  %cr = mul i64 %chunks, %r
  %cr1 = add i64 %cr, %round
  %low = udiv i64 %cr1, %ranges
  %cr2 = add i64 %cr1, %chunks
  %high = udiv i64 %cr2, %ranges
  %r1 = add i64 %r, 1
  %roff = mul i64 %r1, {LINE}
  %ticket = getelementptr i8, ptr %done, i64 %roff
  br label %claim
claim:
  %at = phi ptr [ %first, %range ], [ %row, %finished ]
  %c00 = atomicrmw add ptr %ticket, i64 1 acq_rel
  %c = add i64 %c00, %low
  %mine = icmp ult i64 %c, %high
  br i1 %mine, label %seek, label %other
other:
  %left1 = sub i64 %left, 1
  %last = icmp eq i64 %r1, %ranges
  %r_next = select i1 %last, i64 0, i64 %r1
  %none = icmp eq i64 %left1, 0
  br i1 %none, label %wait, label %range
seek:
  %row = phi ptr [ %at, %claim ], [ %next_row, %onward ]
  %r24 = getelementptr i8, ptr %row, i64 24
  %upto = load i64, ptr %r24
  %here = icmp ult i64 %c, %upto
  br i1 %here, label %work, label %onward
onward:
  %next_row = getelementptr i8, ptr %row, i64 {PHASE_BYTES}
  br label %seek
work:
  %fn = load ptr, ptr %row
  %r8 = getelementptr i8, ptr %row, i64 8
  %own = load i64, ptr %r8
  %r16 = getelementptr i8, ptr %row, i64 16
  %args = load ptr, ptr %r16
  %start = sub i64 %upto, %own
  %c0 = sub i64 %c, %start
  %c1 = add i64 %c0, 1
  call void %fn(ptr %args, i64 %c0, i64 %c1, i64 %worker)
  br label %follow
follow:
  %before = phi ptr [ %row, %work ], [ %f, %run ]
  %f = getelementptr i8, ptr %before, i64 {PHASE_BYTES}
  %inside = icmp ult ptr %f, %after
  br i1 %inside, label %look, label %finished
look:
  %x24 = getelementptr i8, ptr %f, i64 24
  %xupto = load i64, ptr %x24
  %same = icmp eq i64 %xupto, %upto
  br i1 %same, label %run, label %finished
run:
  %xfn = load ptr, ptr %f
  %x8 = getelementptr i8, ptr %f, i64 8
  %xchunks = load i64, ptr %x8
  %x16 = getelementptr i8, ptr %f, i64 16
  %xargs = load ptr, ptr %x16
  call void %xfn(ptr %xargs, i64 0, i64 %xchunks, i64 %worker)
  br label %follow
finished:
  %d0 = atomicrmw add ptr %done, i64 1 acq_rel
  br label %claim
wait:
  %spins = phi i64 [ 0, %other ], [ %spins1, %again ]
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
  %p = phi i64 [ 0, %entry ], [ %p1, %next ]
  %first = phi ptr [ %table, %entry ], [ %after, %next ]
  %halt = load atomic i64, ptr %stop monotonic, align 8
  %good = icmp eq i64 %halt, 0
  %limit = select i1 %good, i64 %count, i64 0
  %more = icmp ult i64 %p, %limit
  br i1 %more, label %begin, label %end
begin:
  %f32 = getelementptr i8, ptr %first, i64 32
  %rows = load i64, ptr %f32
  %size = mul i64 %rows, {PHASE_BYTES}
  %after = getelementptr i8, ptr %first, i64 %size
  br label %work
work:
  %row = phi ptr [ %first, %begin ], [ %row1, %work ]
  %fn = load ptr, ptr %row
  %r8 = getelementptr i8, ptr %row, i64 8
  %chunks = load i64, ptr %r8
  %r16 = getelementptr i8, ptr %row, i64 16
  %args = load ptr, ptr %r16
  call void %fn(ptr %args, i64 0, i64 %chunks, i64 0)
  %row1 = getelementptr i8, ptr %row, i64 {PHASE_BYTES}
  %again = icmp ult ptr %row1, %after
  br i1 %again, label %work, label %next
next:
  %p1 = add i64 %p, 1
  br label %phase
end:
  ret void
}}

define void @chain(ptr %chain, i64 %begin, i64 %end, i64 %worker) nounwind {{
entry:
  %steps = load i64, ptr %chain
  %w1 = getelementptr i8, ptr %chain, i64 8
  %own = load i64, ptr %w1
  %w2 = getelementptr i8, ptr %chain, i64 16
  %table = load ptr, ptr %w2
  %w3 = getelementptr i8, ptr %chain, i64 24
  %bytes = load i64, ptr %w3
  %w4 = getelementptr i8, ptr %chain, i64 32
  %first_memory = load ptr, ptr %w4
  %w5 = getelementptr i8, ptr %chain, i64 40
  %apart = load i64, ptr %w5
  %rows = getelementptr i8, ptr %chain, i64 {8 * CHAIN_HEAD}
  %rows_bytes = mul i64 %steps, 24
  %rows_end = getelementptr i8, ptr %rows, i64 %rows_bytes
  %own_bytes = mul i64 %own, 24
  %own_end = getelementptr i8, ptr %rows_end, i64 %own_bytes
  %distance = mul i64 %worker, %apart
  %memory = getelementptr i8, ptr %first_memory, i64 %distance
  %shared = icmp eq i64 %own, 0
  %args = select i1 %shared, ptr %table, ptr %memory
  br label %item
item:
  %i = phi i64 [ %begin, %entry ], [ %i1, %done ]
  %more = icmp ult i64 %i, %end
  br i1 %more, label %prepare, label %leave
prepare:
  br i1 %shared, label %step, label %copy
copy:
  call void @llvm.memcpy.p0.p0.i64(ptr %memory, ptr %table, i64 %bytes, i1 false)
  br label %address
address:
  %o = phi ptr [ %rows_end, %copy ], [ %o3, %address ]
  %place = load i64, ptr %o
  %o1 = getelementptr i8, ptr %o, i64 8
  %at = load i64, ptr %o1
  %o2 = getelementptr i8, ptr %o, i64 16
  %size = load i64, ptr %o2
  %o3 = getelementptr i8, ptr %o, i64 24
  %before = mul i64 %i, %size
  %from = sub i64 %at, %before
  %where = getelementptr i8, ptr %memory, i64 %from
  %slot = getelementptr i8, ptr %memory, i64 %place
  store ptr %where, ptr %slot
  %filled = icmp eq ptr %o3, %own_end
  br i1 %filled, label %step, label %address
step:
  %s = phi ptr [ %rows, %prepare ], [ %rows, %address ], [ %s3, %step ]
  %fn = load ptr, ptr %s
  %s1 = getelementptr i8, ptr %s, i64 8
  %chunks = load i64, ptr %s1
  %s2 = getelementptr i8, ptr %s, i64 16
  %start = load i64, ptr %s2
  %s3 = getelementptr i8, ptr %s, i64 24
  %c0 = mul i64 %i, %chunks
  %c1 = add i64 %c0, %chunks
  %own_args = getelementptr i8, ptr %args, i64 %start
  call void %fn(ptr %own_args, i64 %c0, i64 %c1, i64 %worker)
  %last = icmp eq ptr %s3, %rows_end
  br i1 %last, label %done, label %step
done:
  %i1 = add i64 %i, 1
  br label %item
leave:
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
  %ranges_at = getelementptr i8, ptr %team, i64 {_RANGES}
  %ranges = load i64, ptr %ranges_at
  call void @phases(ptr %table, i64 %count, ptr %tickets, ptr %stop4, i64 %worker, i64 %ranges)
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
  %ranges_at = getelementptr i8, ptr %team, i64 {_RANGES}
  %ranges = load i64, ptr %ranges_at
  %lines = add i64 %ranges, 1
  %step = mul i64 %lines, {LINE}
  %tbytes = mul i64 %count, %step
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
  call void @phases(ptr %table, i64 %count, ptr %tickets, ptr %stop, i64 0, i64 %ranges)
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

define i64 @claim(ptr %team) nounwind {{
entry:
  %busy = getelementptr i8, ptr %team, i64 {_BUSY}
  %pair = cmpxchg ptr %busy, i64 0, i64 1 acq_rel acquire, align 8
  %old = extractvalue {{ i64, i1 }} %pair, 0
  ret i64 %old
}}

define i64 @try_launch(ptr %team, ptr %table, i64 %count, ptr %tickets, ptr %stop) nounwind {{
entry:
  %taken = call i64 @claim(ptr %team)
  %free = icmp eq i64 %taken, 0
  br i1 %free, label %run, label %end
run:
  call void @launch(ptr %team, ptr %table, i64 %count, ptr %tickets, ptr %stop)
  %busy = getelementptr i8, ptr %team, i64 {_BUSY}
  store atomic i64 0, ptr %busy release, align 8
  br label %end
end:
  ret i64 %taken
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
        self.library = _library()
        self._block = np.zeros(TEAM_BYTES + LINE, np.uint8)
        self.address = -(-self._block.ctypes.data // LINE) * LINE
        ctypes.c_int64.from_address(self.address + _RANGES).value = min(num_threads, MOST_RANGES)
        pointer = ctypes.c_void_p
        self.launch = ctypes.CFUNCTYPE(ctypes.c_int64, pointer, pointer, ctypes.c_int64, pointer, pointer)(
            self.library.address("try_launch")
        )
        self._claim = ctypes.CFUNCTYPE(ctypes.c_int64, pointer)(self.library.address("claim"))
        self._dismiss = ctypes.CFUNCTYPE(None, pointer)(self.library.address("dismiss"))
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
        if self.num_threads == 1 or self.launch(self.address, table, count, tickets, stop):
            self.serial(table, count, stop)

    def dismiss(self) -> None:
        """End the workers and wait for them; whoever still has this team runs his programs alone."""
        while self._claim(self.address):
            time.sleep(1e-4)
        self.num_threads = 1
        self._dismiss(self.address)
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


def chain_address() -> int:
    """The code that runs steps item by item; see chains.py."""
    return _library().address("chain")


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
        current.dismiss()


def _at_exit() -> None:
    """Nothing new begins any more, but objects that are deleted later may still run programs."""
    global _num_threads
    _num_threads = 1
    if _team is not None:
        _team.dismiss()


def _after_fork() -> None:
    """A forked child has no workers: forget the team; a new one is made when needed."""
    global _team, _lock
    _team = None
    _lock = threading.Lock()


def tickets(count: int) -> Any:
    """Memory for the counters of `count` phases, and its aligned address."""
    memory = np.zeros((count * (MOST_RANGES + 1) + 1) * LINE, np.uint8)
    return memory, -(-memory.ctypes.data // LINE) * LINE


if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_after_fork)
atexit.register(_at_exit)
