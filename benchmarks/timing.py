"""Interleaved timing: machines are shared and noisy, so peers take turns within one run."""

from __future__ import annotations

import statistics
import time
from collections.abc import Callable


def interleaved(
    functions: dict[str, Callable[[], object]],
    *,
    rounds: int = 15,
    burst_s: float = 0.02,
    clock: Callable[[], float] = time.perf_counter,
) -> dict[str, float]:
    """Median seconds per call of each function; every round gives each a burst of calls.

    With `clock=time.thread_time` it is the processor time of the calling thread.
    """
    counts = {}
    for name, fn in functions.items():
        fn()
        started = clock()
        n = 0
        while clock() - started < burst_s:
            fn()
            n += 1
        counts[name] = max(n, 1)
    samples: dict[str, list[float]] = {name: [] for name in functions}
    for _ in range(rounds):
        for name, fn in functions.items():
            n = counts[name]
            started = clock()
            for _ in range(n):
                fn()
            samples[name].append((clock() - started) / n)
    return {name: statistics.median(times) for name, times in samples.items()}
