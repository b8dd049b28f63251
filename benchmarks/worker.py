"""One peer in a process of its own: `python -m benchmarks.worker PEER MODE TASK.npz THREADS`.

It prepares, makes a few calls, and prints a line with what they gave, how long the first took, and
the memory used. Then it reads a number of calls per line, makes them, and prints their seconds.
"""

from __future__ import annotations

import json
import os
import resource
import sys
import time
from pathlib import Path
from typing import Any

import numpy as np

from .peers import Task, load

MODES = ("train", "infer", "decode", "chain")
_CALLS = {"train": 20, "infer": 3, "decode": 127, "chain": 3}  # before the timing


def read_task(path: Path, threads: int) -> Task:
    """A task as `write_task` left it."""
    with np.load(path) as arrays:
        state = {k[2:]: arrays[k] for k in arrays if k.startswith("w:")}
        batch = [arrays[f"b:{i}"] for i in range(len(arrays) - len(state))]
    return Task(path.stem, state, tuple(batch), threads)


def write_task(path: Path, task: Task) -> None:
    """Put a task into a file named after it."""
    arrays = {f"w:{k}": v for k, v in task.state.items()} | {f"b:{i}": a for i, a in enumerate(task.batch)}
    np.savez(path, **arrays)  # type: ignore[arg-type]


def _values(out: Any) -> list[float]:
    """The first numbers of a result."""
    array = np.asarray(out.detach() if hasattr(out, "detach") else out)
    return [float(x) for x in array.reshape(-1)[:32]]


def _peak_mb() -> float:
    """The most memory of this process. What `getrusage` says begins with that of the process that started it."""
    try:
        status = Path("/proc/self/status").read_text()
        return int(status.split("VmHWM:")[1].split()[0]) / 1024
    except (OSError, IndexError):
        return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024


def main() -> None:
    peer, mode, path, threads = sys.argv[1:]
    answers = os.fdopen(os.dup(1), "w", buffering=1)
    os.dup2(2, 1)  # what libraries print does not get among the answers
    task = read_task(Path(path), int(threads))
    runner = load(peer)
    method = getattr(runner, mode, None)
    if method is None:
        print(json.dumps({"error": "does not do this"}), file=answers)
        return
    started = time.perf_counter()
    fn = method(task)
    del task  # the weights in it are no part of what a framework needs
    values = [_values(fn())]
    first = time.perf_counter() - started
    values += [_values(fn()) for _ in range(_CALLS[mode] - 1)]
    peak = _peak_mb()
    kept = values if mode == "decode" else values[:3] if mode == "train" else values[:1]
    print(json.dumps({"values": kept, "first_s": first, "peak_mb": peak}), file=answers)
    for line in sys.stdin:
        count = int(line)
        started, used = time.perf_counter(), time.process_time()
        for _ in range(count):
            fn()
        taken = {"wall": time.perf_counter() - started, "cpu": time.process_time() - used}
        print(json.dumps(taken), file=answers)


if __name__ == "__main__":
    main()
