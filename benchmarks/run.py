"""Train steps of whole models beside PyTorch: `python -m benchmarks.run [workload ...]`.

All start from the same weights and batch; the losses of the first steps must agree. Everybody
takes turns within one run; the table gives medians, ratios, and the share of the machine's
multiply-add peak that the compiled step reaches.
"""

from __future__ import annotations

import argparse
import time
from collections.abc import Callable
from typing import Any

import numpy as np
import torch

import twofold as tw

from .models import WORKLOADS, train_step
from .timing import interleaved


def prepare(name: str, runners: list[str]) -> tuple[dict[str, Callable[[], Any]], dict[str, float]]:
    """A function per runner that makes one step, and the seconds that its first call took."""
    workload = WORKLOADS[name]
    arrays = workload.batch(np.random.default_rng(0))
    torch.manual_seed(0)
    original = workload.build(torch).state_dict()
    steps: dict[str, Callable[[], Any]] = {}
    first: dict[str, float] = {}
    losses: dict[str, list[float]] = {}
    for runner in runners:
        lib: Any = torch if runner.startswith("torch") else tw
        model = workload.build(lib)
        if lib is torch:
            model.load_state_dict(original)
            batch = [torch.from_numpy(a) for a in arrays]
        else:
            model.load_state_dict({k: tw.from_numpy(v.numpy().copy()) for k, v in original.items()})
            batch = [tw.from_numpy(a) for a in arrays]
        step = train_step(lib, model, workload.optimizer(lib, model.parameters()), name)
        if runner == "twofold":
            step = tw.compile(step)
        started = time.perf_counter()
        values = [float(step(*batch))]
        first[runner] = time.perf_counter() - started
        losses[runner] = values + [float(step(*batch)) for _ in range(2)]
        steps[runner] = lambda step=step, batch=batch: step(*batch)  # type: ignore[misc]
    reference = losses[runners[0]]
    for runner, values in losses.items():
        if not np.allclose(values, reference, rtol=2e-3):
            raise SystemExit(f"{name}: losses of {runner} are {values}, of {runners[0]} {reference}")
    return steps, first


def peak_gflops() -> float:
    """Multiply-add peak as PyTorch's largest product reaches it: what one can hope for."""
    a = torch.randn(1024, 1024)
    seconds = interleaved({"peak": lambda: a @ a}, rounds=9, burst_s=0.05)["peak"]
    return 2 * 1024**3 / seconds / 1e9


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("workloads", nargs="*", default=[], help=f"of {', '.join(WORKLOADS)}; default: all")
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--rounds", type=int, default=11)
    parser.add_argument("--eager", action="store_true", help="also time Twofold without compile")
    options = parser.parse_args()
    torch.set_num_threads(options.threads)
    tw.set_num_threads(options.threads)
    runners = ["torch", "twofold"] + (["twofold eager"] if options.eager else [])
    print(f"large matrix product: {peak_gflops():.0f} GFLOP/s")
    columns = "".join(f"{r + ' ms':>18}" for r in runners)
    print(f"{'train step':<14}{columns}{'torch/twofold':>15}{'GFLOP/s':>9}{'first s':>9}")
    for name in options.workloads or WORKLOADS:
        steps, first = prepare(name, runners)
        times = interleaved(steps, rounds=options.rounds, burst_s=0.1)
        row = "".join(f"{1e3 * times[r]:>18.3f}" for r in runners)
        ours = times["twofold"]
        print(
            f"{name:<14}{row}{times['torch'] / ours:>15.2f}"
            f"{WORKLOADS[name].mflop / ours / 1e3:>9.0f}{first['twofold']:>9.2f}",
            flush=True,
        )


if __name__ == "__main__":
    main()
