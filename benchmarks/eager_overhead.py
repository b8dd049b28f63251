"""What a small eager operation costs beside PyTorch: `python -m benchmarks.eager_overhead [name ...]`.

Processor time of one thread, the two libraries in turns. "backward" is what `backward()` adds to
the forward pass with gradients. Names choose the rows that contain one of them.
"""

from __future__ import annotations

import sys
import time
from collections.abc import Callable
from typing import Any

import torch

import twofold as tw

from .eager_rows import Row, chores, operations
from .timing import interleaved


def _backward(leaves: tuple[Any, ...], forward: Callable[[], Any]) -> Callable[[], None]:
    """Forward, and back with a ready gradient."""
    g = forward().detach()

    def call() -> None:
        forward().backward(g)
        for x in leaves:
            x.grad = None

    return call


def _with(grad: bool, row: Row) -> Callable[[], Any]:
    for x in row[0]:
        x.requires_grad_(grad)
    return row[1]


def measure(ours: Row, theirs: Row) -> list[tuple[float, float]]:
    """Microseconds (Twofold, PyTorch) without grad, with grad, and of backward."""
    table = []
    for grad in (False, True):
        pair = {"twofold": _with(grad, ours), "torch": _with(grad, theirs)}
        table.append(_microseconds(pair))
    both = {"twofold": _backward(ours[0], ours[1]), "torch": _backward(theirs[0], theirs[1])}
    a, b = _microseconds(both)
    table.append((a - table[1][0], b - table[1][1]))
    return table


def _microseconds(pair: dict[str, Callable[[], Any]]) -> tuple[float, float]:
    times = interleaved(pair, rounds=25, burst_s=0.008, clock=time.thread_time)
    return times["twofold"] * 1e6, times["torch"] * 1e6


def _line(name: str, pairs: list[tuple[float, float]]) -> str:
    return f"| {name} | " + " | ".join(f"{a:.2f} | {b:.2f} | {a / b:.2f}" for a, b in pairs) + " |"


def main() -> None:
    torch.set_num_threads(1)
    tw.set_num_threads(1)
    chosen = sys.argv[1:]

    def wanted(name: str) -> bool:
        return not chosen or any(part in name for part in chosen)

    print(
        "| operation, us | Twofold | PyTorch | ratio | with grad | PyTorch | ratio | backward | PyTorch | ratio |"
    )
    print("|---|" + "---|" * 9)
    ours, theirs = operations(tw), operations(torch)
    for name in filter(wanted, ours):
        print(_line(name, measure(ours[name], theirs[name])), flush=True)
    mine, peers = chores(tw), chores(torch)
    for group in mine:
        print(f"\n| {group}, us | Twofold | PyTorch | ratio |\n|---|---|---|---|")
        for name in filter(wanted, mine[group]):
            pair = {"twofold": mine[group][name], "torch": peers[group][name]}
            print(_line(name, [_microseconds(pair)]), flush=True)


if __name__ == "__main__":
    main()
