"""Threads that run jobs in the order they were submitted.

Note [Ending of threads]
A thread holds its queue only, never the pool, the loader or an iterator. So these can be let go, and
their finalizers put one None per thread into the queue, which ends it after its present job. The
threads are daemons: a data set that hangs can't keep the interpreter from exiting.
"""

from __future__ import annotations

import threading
import weakref
from collections.abc import Callable
from dataclasses import dataclass
from queue import SimpleQueue
from typing import Any


@dataclass(frozen=True)
class WorkerInfo:
    """About the worker thread that asks.

    Attributes:
        id: its number, from 0.
        num_workers: how many share the data set; 1 for an iterable one.
        dataset: the data set, which all workers share.
        seed: 0; random numbers do not depend on the worker, see `sample_rng`.
    """

    id: int
    num_workers: int
    dataset: Any
    seed: int = 0


class _Local(threading.local):
    info: WorkerInfo | None = None


_local = _Local()


def get_worker_info() -> WorkerInfo | None:
    """The WorkerInfo in a loader's worker thread; None elsewhere."""
    return _local.info


class Job:
    """A call that a worker will make, and then what came of it."""

    __slots__ = ("_argument", "_error", "_finished", "_fn", "_value", "cancelled")

    def __init__(self, fn: Callable[[Any], Any], argument: Any):
        self._fn: Callable[[Any], Any] | None = fn
        self._argument = argument
        self._value: Any = None
        self._error: BaseException | None = None
        self._finished = threading.Event()
        self.cancelled = False

    @classmethod
    def failed(cls, error: BaseException) -> Job:
        """A job that has ended with an error already."""
        job = cls(_nothing, None)
        job.run(error)
        return job

    def run(self, broken: BaseException | None) -> None:
        """Make the call, unless it is no longer wanted or the worker did not start properly."""
        try:
            if broken is not None:
                raise broken
            if not self.cancelled:
                assert self._fn is not None
                self._value = self._fn(self._argument)
        except BaseException as e:
            self._error = e
        self._fn = self._argument = None
        self._finished.set()

    def result(self, timeout: float) -> Any:
        """Wait for the result; what the worker raised is raised here, with the worker's traceback."""
        if not self._finished.wait(timeout or None):
            raise RuntimeError(
                f"the DataLoader waited {timeout} s for a batch; raise timeout, or look for what hangs in "
                "the data set"
            )
        if self._error is not None:
            error, self._error = self._error, None
            try:
                raise error
            finally:
                del error  # the traceback would hold this frame, and so itself
        return self._value


def _nothing(_: Any) -> None:
    pass


class WorkerPool:
    """A number of threads and their queue."""

    def __init__(self, num_workers: int, dataset: Any, init: Callable[[int], None] | None):
        self._queue: SimpleQueue[Job | None] = SimpleQueue()
        self.close = weakref.finalize(self, _end, self._queue, num_workers)
        for i in range(num_workers):
            info = WorkerInfo(i, num_workers, dataset)
            threading.Thread(
                target=_work, args=(self._queue, info, init), name=f"twofold-loader-{i}", daemon=True
            ).start()

    def submit(self, fn: Callable[[Any], Any], argument: Any) -> Job:
        job = Job(fn, argument)
        self._queue.put(job)
        return job


def _end(queue: SimpleQueue[Job | None], num_workers: int) -> None:
    for _ in range(num_workers):
        queue.put(None)


def _work(queue: SimpleQueue[Job | None], info: WorkerInfo, init: Callable[[int], None] | None) -> None:
    _local.info = info
    broken: BaseException | None = None
    why = ""
    if init is not None:
        try:
            init(info.id)
        except BaseException as e:
            e.add_note(f"in worker_init_fn of worker {info.id}")
            broken, why = e, f"worker {info.id} of the loader did not start: {e!r}"
    while (job := queue.get()) is not None:
        if broken is None:
            job.run(None)
        else:
            job.run(broken)
            # raised in the main thread, an error holds its frames, and so the iterator: not for long
            broken = RuntimeError(why)
        del job  # a batch must not live on until the next one comes
