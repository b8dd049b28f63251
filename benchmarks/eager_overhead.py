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

from .timing import interleaved

Row = tuple[tuple[Any, ...], Callable[..., Any]]  # the tensors that gradients are taken for, and the operation


def operations(lib: Any) -> dict[str, Row]:
    """The same operations on one library's tensors."""
    one, two, small, other = lib.ones(1), lib.ones(1), lib.ones(8, 8), lib.ones(8, 8)
    places = lib.tensor([1, 2, 3, 0])
    linear, relu = lib.nn.Linear(8, 8), lib.nn.functional.relu
    sequence = lib.nn.Sequential(lib.nn.Linear(8, 8), lib.nn.ReLU())
    return {
        "add": ((one, two), lambda: one + two),
        "mul": ((one, two), lambda: one * two),
        "mul by a number": ((one,), lambda: one * 2.0),
        "matmul 8x8": ((small, other), lambda: small @ other),
        "sum": ((small,), lambda: small.sum()),
        "sum(1)": ((small,), lambda: small.sum(1)),
        "mean": ((small,), lambda: small.mean()),
        "reshape": ((small,), lambda: small.reshape(64)),
        "transpose": ((small,), lambda: small.transpose(0, 1)),
        "x[0]": ((small,), lambda: small[0]),
        "x[:, 1:]": ((small,), lambda: small[:, 1:]),
        "x[i, j]": ((small,), lambda: small[3, 4]),
        "x[places]": ((small,), lambda: small[places]),
        "relu": ((small,), lambda: relu(small)),
        "exp": ((small,), lambda: small.exp()),
        "linear + relu": ((small, *linear.parameters()), lambda: relu(linear(small))),
        "Sequential(Linear, ReLU)": ((small, *sequence.parameters()), lambda: sequence(small)),
        "(x * 2 + x).sum()": ((one,), lambda: (one * 2.0 + one).sum()),
        **layers(lib),
    }


def layers(lib: Any) -> dict[str, Row]:
    """What layers compute, on little: composites of several operations."""
    f = lib.nn.functional
    small, scale, shift = lib.ones(8, 8), lib.ones(8), lib.ones(8)
    image, kernel, some = lib.ones(1, 4, 8, 8), lib.ones(4, 4, 3, 3), lib.ones(4)
    mean, variance, other = lib.zeros(4), lib.ones(4), lib.zeros(8, 8)
    q, k, v = lib.ones(1, 2, 8, 8), lib.ones(1, 2, 8, 8), lib.ones(1, 2, 8, 8)
    classes, affine = lib.tensor([1, 2, 3, 0, 5, 7, 6, 4]), (image, some, shift[:4].clone())
    return {
        "linear": ((small, other, shift), lambda: f.linear(small, other, shift)),
        "softmax": ((small,), lambda: f.softmax(small, 1)),
        "log_softmax": ((small,), lambda: f.log_softmax(small, 1)),
        "layer_norm": ((small, scale, shift), lambda: f.layer_norm(small, (8,), scale, shift)),
        "rms_norm": ((small, scale), lambda: f.rms_norm(small, (8,), scale)),
        "group_norm": (affine, lambda: f.group_norm(image, 2, *affine[1:])),
        "batch_norm, training": (affine, lambda: f.batch_norm(image, mean, variance, *affine[1:], training=True)),
        "batch_norm": (affine, lambda: f.batch_norm(image, mean, variance, *affine[1:])),
        "gelu": ((small,), lambda: f.gelu(small)),
        "silu": ((small,), lambda: f.silu(small)),
        "dropout": ((small,), lambda: f.dropout(small, 0.1)),
        "cross_entropy": ((small,), lambda: f.cross_entropy(small, classes)),
        "nll_loss": ((small,), lambda: f.nll_loss(small, classes)),
        "mse_loss": ((small,), lambda: f.mse_loss(small, other)),
        "attention": ((q, k, v), lambda: f.scaled_dot_product_attention(q, k, v)),
        "var": ((small,), lambda: small.var()),
        "conv2d": ((image, kernel, some), lambda: f.conv2d(image, kernel, some, padding=1)),
        "max_pool2d": ((image,), lambda: f.max_pool2d(image, 2)),
        "avg_pool2d": ((image,), lambda: f.avg_pool2d(image, 2)),
    }


def chores(lib: Any) -> dict[str, Callable[[], Any]]:
    """What stands around the operations of a training loop."""
    many = [lib.nn.Parameter(lib.ones(8)) for _ in range(50)]
    for p in many:
        p.grad = lib.ones(8)
    adam, sgd = lib.optim.Adam(many), lib.optim.SGD(many, momentum=0.9)
    cleared = [lib.nn.Parameter(lib.ones(8)) for _ in range(50)]
    idle = lib.optim.SGD(cleared)
    one, rows = lib.ones(()), [lib.ones(8) for _ in range(16)]
    small, mask = lib.ones(8), lib.ones(8)
    numbers = [1.0, 2.0, 3.0]

    def write_part() -> None:
        small[2:4] = 1.0

    def add_in_place() -> None:
        small.add_(mask)

    return {
        "item()": lambda: one.item(),
        "detach()": lambda: small.detach(),
        "tensor([1., 2., 3.])": lambda: lib.tensor(numbers),
        "zeros(8)": lambda: lib.zeros(8),
        "rand(8)": lambda: lib.rand(8),
        "randn(8)": lambda: lib.randn(8),
        "x.add_(y)": add_in_place,
        "x[2:4] = 1.0": write_part,
        "stack 16 rows": lambda: lib.stack(rows),
        "zero_grad, 50 parameters": lambda: idle.zero_grad(),
        "SGD, 50 parameters": lambda: sgd.step(),
        "Adam, 50 parameters": lambda: adam.step(),
    }


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
    print("\n| chore, us | Twofold | PyTorch | ratio |\n|---|---|---|---|")
    mine, peers = chores(tw), chores(torch)
    for name in filter(wanted, mine):
        print(_line(name, [_microseconds({"twofold": mine[name], "torch": peers[name]})]), flush=True)


if __name__ == "__main__":
    main()
