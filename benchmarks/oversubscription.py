"""Train steps on a machine that others use, too: `python -m benchmarks.oversubscription [workload ...]`.

One busy process per core is started; the median step of Twofold and of PyTorch, who take turns, is
compared with the same on the idle machine. What matters is the slowdown: threads that wait for each
other while the system has put one of them aside can make it many times the share of processors that
is lost. Ours is to be at most twice PyTorch's.
"""

from __future__ import annotations

import argparse
import multiprocessing
import os
import statistics
import time
from collections.abc import Callable
from typing import Any

import numpy as np
import torch

import twofold as tw

from .models import WORKLOADS, train_step

GOAL = 2.0  # our slowdown, in PyTorch's


def spin() -> None:
    """What the busy processes do."""
    while True:
        pass


def steps_of(name: str) -> dict[str, Callable[[], Any]]:
    """A function for each of the two that makes one step."""
    workload = WORKLOADS[name]
    arrays = workload.batch(np.random.default_rng(0))
    steps: dict[str, Callable[[], Any]] = {}
    for runner, lib in (("twofold", tw), ("torch", torch)):
        module: Any = lib
        model = workload.build(module)
        step = train_step(module, model, workload.optimizer(module, model.parameters()), name)
        if lib is tw:
            step = tw.compile(step)
        batch = [module.from_numpy(a) for a in arrays]
        steps[runner] = lambda step=step, batch=batch: step(*batch)  # type: ignore[misc]
    return steps


def times(steps: dict[str, Callable[[], Any]], seconds: float, burst_s: float = 0.1) -> dict[str, list[float]]:
    """Seconds of single steps; each runner gets bursts in turn until `seconds` have passed."""
    samples: dict[str, list[float]] = {name: [] for name in steps}
    for fn in steps.values():
        fn()
    end = time.perf_counter() + seconds
    while time.perf_counter() < end:
        for name, fn in steps.items():
            fn()  # threads that fell asleep while the other one ran wake up
            burst_end = time.perf_counter() + burst_s
            while True:
                started = time.perf_counter()
                fn()
                now = time.perf_counter()
                samples[name].append(now - started)
                if now > burst_end:
                    break
    return samples


def percentile(values: list[float], part: float) -> float:
    """The value that `part` of the values do not exceed."""
    return sorted(values)[min(int(part * len(values)), len(values) - 1)]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("workloads", nargs="*", default=["mlp", "cnn", "lstm", "transformer"])
    parser.add_argument("--threads", type=int, default=len(os.sched_getaffinity(0)))
    parser.add_argument("--busy", type=int, help="busy processes; one per core if not given")
    parser.add_argument("--seconds", type=float, default=6, help="of each measurement")
    options = parser.parse_args()
    busy = options.busy if options.busy is not None else len(os.sched_getaffinity(0))
    torch.set_num_threads(options.threads)
    tw.set_num_threads(options.threads)
    print(f"{options.threads} threads; {busy} busy processes; medians of steps in ms, 90 % in brackets")
    if os.getloadavg()[0] > 0.5:
        print(f"others use this machine already (load {os.getloadavg()[0]:.1f}): what is called idle is not")
    columns = "".join(f"{f'{runner} idle':>20}{'busy':>20}{'slowdown':>10}" for runner in ("twofold", "torch"))
    print(f"{'':<14}{columns}  ratio")
    prepared = {name: steps_of(name) for name in options.workloads}
    idle = {name: times(steps, options.seconds) for name, steps in prepared.items()}
    spawn = multiprocessing.get_context("spawn")
    spinning = [spawn.Process(target=spin, daemon=True) for _ in range(busy)]
    for process in spinning:
        process.start()
    ratios = []
    try:
        time.sleep(1)
        for name, steps in prepared.items():
            loaded = times(steps, options.seconds)
            row, slowdowns = f"{name:<14}", {}
            for runner in ("twofold", "torch"):
                cells = []
                for samples in (idle[name][runner], loaded[runner]):
                    median, high = 1e3 * statistics.median(samples), 1e3 * percentile(samples, 0.9)
                    cells.append(f"{median:.3f} ({high:.3f})")
                slowdowns[runner] = statistics.median(loaded[runner]) / statistics.median(idle[name][runner])
                row += f"{cells[0]:>20}{cells[1]:>20}{slowdowns[runner]:>10.2f}"
            ratios.append(slowdowns["twofold"] / slowdowns["torch"])
            print(f"{row}{ratios[-1]:>7.2f}", flush=True)
    finally:
        for process in spinning:
            process.terminate()
    verdict = "within" if max(ratios) <= GOAL else "beyond"
    print(f"our slowdown is at most {max(ratios):.2f} of PyTorch's: {verdict} the goal of {GOAL}")


if __name__ == "__main__":
    main()
