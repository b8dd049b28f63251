"""Peers in processes of their own that take turns: no library's threads, settings or memory disturb another's."""

from __future__ import annotations

import json
import os
import statistics
import subprocess
import sys
from pathlib import Path
from typing import Any

from .peers import PEERS

_ROOT = Path(__file__).parent.parent


class Worker:
    """A running worker.py.

    Attributes:
        report: what it said about its first calls; None if the peer does not do this.
    """

    def __init__(self, peer: str, mode: str, task: Path, threads: int, environment: dict[str, str] | None = None):
        self.peer, self.count = peer, 1
        env = os.environ | PEERS[peer].environment | (environment or {})
        if peer == "jax" and threads == 1:
            env["XLA_FLAGS"] = "--xla_cpu_multi_thread_eigen=false"
        env["OMP_NUM_THREADS"] = str(threads)
        self.process = subprocess.Popen(
            [sys.executable, "-W", "ignore", "-m", "benchmarks.worker", peer, mode, str(task), str(threads)],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE if "BENCHMARKS_VERBOSE" not in os.environ else None,
            text=True,
            cwd=_ROOT,
            env=env,
        )
        self.report: dict[str, Any] | None = self._answer()
        if "error" in self.report:
            self.close()
            self.report = None

    def _answer(self) -> dict[str, Any]:
        assert self.process.stdout is not None
        line = self.process.stdout.readline()
        if not line:
            errors = self.process.communicate()[1]
            raise SystemExit(f"{self.peer} failed:\n{(errors or '')[-3000:]}")
        return json.loads(line)

    def calls(self, count: int) -> dict[str, float]:
        """Seconds of so many calls, by wall clock and of processor time."""
        assert self.process.stdin is not None
        print(count, file=self.process.stdin, flush=True)
        return self._answer()

    def calibrate(self, burst_s: float) -> None:
        """Find how many calls take about `burst_s`."""
        count = 1
        while True:
            taken = self.calls(count)["wall"]
            if taken > burst_s / 2 or count > 100_000:
                break
            count *= 4 if taken < burst_s / 8 else 2
        self.count = max(1, round(count * burst_s / taken))

    def close(self) -> None:
        """End it."""
        self.process.communicate()

    def __enter__(self) -> Worker:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()


def take_turns(workers: list[Worker], rounds: int, burst_s: float, clock: str) -> dict[str, float]:
    """Median seconds per call of each worker; each gets a burst per round, after one call to wake up."""
    for worker in workers:
        worker.calibrate(burst_s)
    samples: dict[str, list[float]] = {w.peer: [] for w in workers}
    for _ in range(rounds):
        for worker in workers:
            worker.calls(1)
            samples[worker.peer].append(worker.calls(worker.count)[clock] / worker.count)
    return {peer: statistics.median(times) for peer, times in samples.items()}
