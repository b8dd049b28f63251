"""Large operations beside PyTorch, on one thread: `python -m benchmarks.large_operations`.

Processor time of eager products and of optimizers' steps, the libraries in turns; then a compiled attention with
its steps chained item by item and without, and the memory that it takes for temporaries.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import Any

import numpy as np
import torch

import twofold as tw
from twofold.ir import config

from .timing import interleaved

PRODUCTS = [(64, 64, 64), (256, 256, 256), (1024, 1024, 1024), (4096, 64, 64), (1, 1024, 1024)]
PARAMETERS = {"10 of 256 x 256, with biases": [(256, 256), (256,)] * 10, "one of 1024 x 1024": [(1024, 1024)]}
ATTENTIONS = [(2, 8, 512, 64), (1, 8, 2048, 64)]


def _seconds(of: dict[str, Callable[[], object]]) -> dict[str, float]:
    return interleaved(of, rounds=9, burst_s=0.05, clock=time.thread_time)


def _arrays(*shapes: tuple[int, ...]) -> list[np.ndarray[Any, Any]]:
    rng = np.random.default_rng(0)
    return [rng.standard_normal(s).astype(np.float32) for s in shapes]


def product(lib: Any, m: int, k: int, n: int, form: str) -> Callable[[], object]:
    """`a @ b`, with an operand that lies transposed in memory if `form` says so."""
    a, b = (
        lib.from_numpy(x) for x in _arrays((k, m) if form == "a.T" else (m, k), (n, k) if form == "b.T" else (k, n))
    )
    a, b = a.T if form == "a.T" else a, b.T if form == "b.T" else b
    return lambda: a @ b


def step(lib: Any, name: str, shapes: list[tuple[int, ...]]) -> Callable[[], object]:
    """A step of an optimizer."""
    params = [lib.nn.Parameter(lib.from_numpy(x)) for x in _arrays(*shapes)]
    for p in params:
        p.grad = lib.ones(*p.shape)
    options = {"momentum": 0.9} if name == "SGD" else {}
    return getattr(lib.optim, name)(params, lr=1e-3, **options).step  # type: ignore[no-any-return]


def attention(shape: tuple[int, ...], skipped: frozenset[str]) -> tuple[Callable[[], object], float]:
    """A compiled attention without gradients, and MB of its temporaries."""
    q, k, v = (tw.from_numpy(x) for x in _arrays(shape, shape, shape))
    fn = tw.compile(lambda q, k, v: tw.nn.functional.scaled_dot_product_attention(q, k, v))
    with config.SKIP_PASSES.set(skipped):
        program = fn.lower(q, k, v)
        fn(q, k, v)
    return lambda: fn(q, k, v), program.arena_bytes / 1e6


def main() -> None:
    torch.set_num_threads(1)
    tw.set_num_threads(1)
    print("| us | Twofold | PyTorch | PyTorch / Twofold |\n|---|---|---|---|")
    rows = {f"{m} x {k} x {n}, {f}": lambda lib, s=(m, k, n), f=f: product(lib, *s, f)  # type: ignore[misc]
            for m, k, n in PRODUCTS for f in ("a @ b", "b.T", "a.T")}  # fmt: skip
    rows |= {f"{name}, {of}": lambda lib, name=name, s=shapes: step(lib, name, s)  # type: ignore[misc]
             for name in ("SGD", "Adam") for of, shapes in PARAMETERS.items()}  # fmt: skip
    for name, make in rows.items():
        took = _seconds({"ours": make(tw), "torch": make(torch)})
        ours, theirs = took["ours"] * 1e6, took["torch"] * 1e6
        print(f"| {name} | {ours:.4g} | {theirs:.4g} | {theirs / ours:.2f} |")
    print("\n| attention | chained: ms | MB | not: ms | MB |\n|---|---|---|---|---|")
    for shape in ATTENTIONS:
        (chained, small), (single, large) = attention(shape, frozenset()), attention(shape, frozenset({"chain"}))
        took = _seconds({"chained": chained, "single": single})
        line = [took["chained"] * 1e3, small, took["single"] * 1e3, large]
        print(f"| {' x '.join(map(str, shape))} | " + " | ".join(f"{x:.3g}" for x in line) + " |")


if __name__ == "__main__":
    main()
