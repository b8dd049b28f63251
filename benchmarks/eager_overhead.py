"""What a small eager operation costs beside PyTorch: `python -m benchmarks.eager_overhead`."""

from __future__ import annotations

from collections.abc import Callable

import torch

import twofold as tw

from .timing import interleaved


def cases(lib: object, *, grad: bool) -> dict[str, Callable[[], object]]:
    """The same operations on one library's tensors."""
    one = lib.ones(1)  # type: ignore[attr-defined]
    small = lib.ones(8, 8)  # type: ignore[attr-defined]
    if grad:
        one.requires_grad_()
        small.requires_grad_()
    linear = lib.nn.Linear(8, 8)  # type: ignore[attr-defined]
    relu = lib.nn.functional.relu  # type: ignore[attr-defined]

    def forward_backward() -> None:
        (one * 2.0 + one).sum().backward()

    table: dict[str, Callable[[], object]] = {
        "add": lambda: one + one,
        "mul": lambda: one * one,
        "mul number": lambda: one * 2.0,
        "matmul 8x8": lambda: small @ small,
        "sum": lambda: small.sum(),
        "reshape": lambda: small.reshape(64),
        "index": lambda: small[1],
        "linear+relu": lambda: relu(linear(small)),
    }
    if grad:
        table["forward+backward"] = forward_backward
    return table


def main() -> None:
    torch.set_num_threads(1)
    print(f"{'operation':<18} {'grad':<5} {'twofold us':>10} {'torch us':>10} {'ratio':>6}")
    for grad in (False, True):
        ours, theirs = cases(tw, grad=grad), cases(torch, grad=grad)
        for name in ours:
            times = interleaved({"twofold": ours[name], "torch": theirs[name]})
            a, b = times["twofold"] * 1e6, times["torch"] * 1e6
            print(f"{name:<18} {'yes' if grad else 'no':<5} {a:>10.2f} {b:>10.2f} {a / b:>6.2f}")


if __name__ == "__main__":
    main()
