"""Whole models beside other frameworks: `python -m benchmarks.run [workload ...] --peers torch,jax`.

Without a further option: training steps. `--inference` (with `--batch 1` if wanted), `--decode`,
`--elementwise`, `--first-call` and `--memory` measure other things. Every peer runs in a process of
its own, begins with the same weights and batch, and must come to the same values; all take turns
within one run. The tables are Markdown: medians, and in brackets PyTorch's time over the peer's.
"""

from __future__ import annotations

import argparse
import math
import tempfile
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import numpy as np

import twofold as tw

from .models import WORKLOADS
from .peers import PEERS, Task, installed
from .processes import Worker, take_turns
from .worker import write_task

OURS, REFERENCE = "twofold", "torch"
_TOLERANCE = {"train": 2e-3, "infer": 2e-3, "chain": 1e-4}
Row = dict[str, float]


def make_task(name: str, folder: Path, batch: int | None) -> Path:
    """A workload's weights and data in a file."""
    rng = np.random.default_rng(0)
    path = folder / f"{name}.npz"
    if name == "chain":
        arrays: Any = tuple(rng.standard_normal(1_000_000).astype(np.float32) for _ in range(2))
        write_task(path, Task(name, {}, arrays))
        return path
    tw.manual_seed(0)
    workload = WORKLOADS[name]
    state = {k: v.numpy() for k, v in workload.build(tw).state_dict().items()}
    arrays = workload.batch(rng)
    if batch is not None:
        arrays = tuple(a[:batch] for a in arrays)
    write_task(path, Task(name, state, arrays))
    return path


def check(mode: str, name: str, workers: list[Worker]) -> None:
    """All must have come to the same values."""
    for worker in workers[1:]:
        ours, theirs = (np.array(w.report["values"]) for w in (workers[0], worker))  # type: ignore[index]
        error = np.abs(ours - theirs).max() / np.abs(ours).max()
        equal = (ours == theirs).all() if mode == "decode" else error <= _TOLERANCE[mode]
        if not equal:
            raise SystemExit(f"{name}: {worker.peer} gives\n{theirs}\n, {workers[0].peer}\n{ours}")


def measure(options: argparse.Namespace, mode: str, name: str, path: Path) -> Row:
    """Seconds per call of each peer, or another figure that the options ask for."""
    workers = []
    try:
        for peer in options.peers:
            if options.first_call:
                with (
                    tempfile.TemporaryDirectory() as cache,
                    Worker(peer, mode, path, options.threads, {"TWOFOLD_CACHE_DIR": cache}) as worker,
                ):
                    workers.append(worker)
            else:
                workers.append(Worker(peer, mode, path, options.threads))
                if options.memory:
                    workers[-1].close()
        workers = [w for w in workers if w.report is not None]
        check(mode, name, workers)
        if options.first_call or options.memory:
            key = "first_s" if options.first_call else "peak_mb"
            return {w.peer: w.report[key] for w in workers}  # type: ignore[index]
        return take_turns(workers, options.rounds, options.burst, "cpu" if options.cpu_time else "wall")
    finally:
        for worker in workers:
            if worker.report is not None and worker.process.poll() is None:
                worker.close()


def geometric_mean(values: Iterable[float]) -> float:
    logs = [math.log(v) for v in values]
    return math.exp(sum(logs) / len(logs)) if logs else math.nan


def table(title: str, rows: dict[str, Row], peers: list[str], scale: float) -> str:
    """A line per workload; the last two columns say how Twofold stands, the last line the geometric means."""
    lines = [
        f"| {title} | {' | '.join(peers)} | {REFERENCE} / {OURS} | best other / {OURS} |",
        "|---" * (len(peers) + 3) + "|",
    ]
    against, best = [], []
    for name, row in rows.items():
        cells = []
        for peer in peers:
            if peer not in row:
                cells.append("-")
            elif peer == REFERENCE or REFERENCE not in row:
                cells.append(f"{row[peer] * scale:.3g}")
            else:
                cells.append(f"{row[peer] * scale:.3g} ({row[REFERENCE] / row[peer]:.2f}x)")
        others = {p: v for p, v in row.items() if not p.startswith(OURS)}
        if OURS in row and others:
            winner = min(others, key=others.__getitem__)
            best.append(others[winner] / row[OURS])
            last = f"{best[-1]:.2f}x ({winner})"
        else:
            last = "-"
        if OURS in row and REFERENCE in row:
            against.append(row[REFERENCE] / row[OURS])
            cells.append(f"{against[-1]:.2f}x")
        else:
            cells.append("-")
        lines.append(f"| {name} | {' | '.join(cells)} | {last} |")
    if len(rows) > 1:
        blank = " |" * len(peers)
        lines.append(f"| geometric mean |{blank} {geometric_mean(against):.2f}x | {geometric_mean(best):.2f}x |")
    return "\n".join(lines)


def parse() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("workloads", nargs="*", default=[], help=f"of {', '.join(WORKLOADS)}; default: all")
    parser.add_argument("--peers", default="torch", help=f"beside {OURS}: of {', '.join(PEERS)}, or all")
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--rounds", type=int, default=11)
    parser.add_argument("--burst", type=float, default=0.1, help="seconds of a peer's turn")
    parser.add_argument("--cpu-time", action="store_true", help="processor time, for a busy machine")
    parser.add_argument("--inference", action="store_true", help="forward passes instead of training steps")
    parser.add_argument("--batch", type=int, help="items of the batch; default: as in training")
    parser.add_argument("--decode", action="store_true", help="a greedy token of the GPT with a cache")
    parser.add_argument("--elementwise", action="store_true", help="a chain over a million elements")
    parser.add_argument("--first-call", action="store_true", help="seconds of building and the first call")
    parser.add_argument("--memory", action="store_true", help="most memory of a process after 20 training steps")
    options = parser.parse_args()
    asked = [p for p in PEERS if p not in ("twofold-eager", "torch-compile")]
    names = asked if options.peers == "all" else [p for p in options.peers.split(",") if p]
    names = [OURS, *(p for p in names if p != OURS)]
    missing = [p for p in names if p not in PEERS]
    if missing:
        parser.error(f"no peer {missing[0]!r}: there are {', '.join(PEERS)}")
    options.peers = [p for p in names if installed(p)]
    if options.decode and options.workloads not in ([], ["gpt"]):
        parser.error("--decode is of gpt only")
    return options


def main() -> None:
    options = parse()
    mode = "infer" if options.inference else "train"
    names = options.workloads or list(WORKLOADS)
    title = "training step, ms"
    if options.inference:
        names = [n for n in names if n != "cnn_adam"] if not options.workloads else names
        title = f"inference, {'training batch' if options.batch is None else f'batch {options.batch}'}, ms"
    if options.decode:
        mode, names, title = "decode", ["gpt"], "decoding, ms a token"
    if options.elementwise:
        mode, names, title = "chain", ["chain"], "relu(x * 2 + y).exp().sum() of 1M, ms"
    if options.first_call:
        title = f"first call of {title.split(',')[0]}, s"
    if options.memory:
        title = "peak memory, MB"
    scale = 1.0 if options.first_call or options.memory else 1e3
    rows = {}
    with tempfile.TemporaryDirectory() as folder:
        for name in names:
            rows[name] = measure(options, mode, name, make_task(name, Path(folder), options.batch))
            peers = [p for p in options.peers if any(p in row for row in rows.values())]
            print(f"{name}: " + ", ".join(f"{p} {v * scale:.3g}" for p, v in rows[name].items()), flush=True)
    clock = "processor time" if options.cpu_time else "wall clock"
    print(f"\n{options.threads} threads, {clock}, medians of {options.rounds} turns\n")
    print(table(title, rows, peers, scale))


if __name__ == "__main__":
    main()
