"""Eager convolutions, programs for their sizes, and PyTorch: `python -m benchmarks.eager_convolutions [row ...]`.

Processor time of one thread in ms, in turns, of the convolution and of its gradients by input and weight. Arguments
choose the rows that contain one of them.
"""

from __future__ import annotations

import sys
import time
from collections.abc import Callable
from typing import Any

import numpy as np
import torch

import twofold as tw
from twofold.compiler.single import program_of
from twofold.ir.evaluate import value_types
from twofold.ir.primitive import PRIMITIVES

from .timing import interleaved

Array = np.ndarray[Any, Any]

# input, weight, stride, padding, groups
ROWS = [
    ((64, 3, 32, 32), (32, 3, 3, 3), 1, 1, 1),
    ((64, 32, 16, 16), (64, 32, 3, 3), 1, 1, 1),
    ((8, 64, 56, 56), (64, 64, 3, 3), 1, 1, 1),
    ((8, 64, 28, 28), (64, 64, 5, 5), 1, 2, 1),
    ((8, 64, 56, 56), (128, 64, 3, 3), 2, 1, 1),
    ((8, 256, 14, 14), (512, 256, 3, 3), 2, 1, 1),
    ((8, 256, 14, 14), (512, 256, 1, 1), 2, 0, 1),
    ((8, 256, 14, 14), (64, 256, 1, 1), 1, 0, 1),
    ((8, 512, 7, 7), (2048, 512, 1, 1), 1, 0, 1),
    ((1, 3, 224, 224), (64, 3, 7, 7), 2, 3, 1),
    ((4, 3, 224, 224), (192, 3, 16, 16), 16, 0, 1),
    ((64, 1, 28, 28), (32, 1, 3, 3), 1, 0, 1),
    ((8, 64, 28, 28), (64, 1, 3, 3), 1, 1, 64),
    ((8, 64, 28, 28), (64, 1, 3, 3), 2, 1, 64),
    ((8, 64, 28, 28), (64, 16, 3, 3), 1, 1, 4),
    ((1, 4, 8, 8), (4, 4, 3, 3), 1, 1, 1),
]


def _ways(name: str, a: Array, b: Array, params: dict[str, Any]) -> dict[str, Callable[[], object]]:
    """An operation eagerly, and by a program for its sizes."""
    p = PRIMITIVES[name]
    program = program_of(p, list(value_types((a, b))), params)
    run: Any = p.run
    return {"eager": lambda: run(a, b, **params), "program": lambda: program([a, b])}


def operations(
    x: Array, w: Array, stride: int, padding: int, groups: int
) -> dict[str, dict[str, Callable[[], object]]]:
    """A convolution of two dimensions and its gradients, each in three ways."""
    s, p = (stride, stride), (padding, padding)
    params = {"stride": s, "padding": (p, p), "dilation": (1, 1), "groups": groups}
    run: Any = PRIMITIVES["conv"].run
    g = np.random.default_rng(1).standard_normal(run(x, w, **params).shape).astype(x.dtype)
    xt, wt, gt = (torch.from_numpy(v) for v in (x, w, g))
    backward: Any = torch.ops.aten.convolution_backward

    def gradient(*wanted: bool) -> Callable[[], object]:
        return lambda: backward(gt, xt, wt, None, s, p, (1, 1), False, (0, 0), groups, wanted)

    return {
        "forward": _ways("conv", x, w, params)
        | {"PyTorch": lambda: torch.nn.functional.conv2d(xt, wt, None, s, p, (1, 1), groups)},
        "input": _ways("conv_input_grad", g, w, {"input_size": x.shape[2:], **params})
        | {"PyTorch": gradient(True, False, False)},
        "weight": _ways("conv_weight_grad", x, g, {"kernel_size": w.shape[2:], **params})
        | {"PyTorch": gradient(False, True, False)},
    }


def main() -> None:
    """Print the table."""
    tw.set_num_threads(1)
    torch.set_num_threads(1)
    print("| input | weight | stride | forward: eager, program, PyTorch | input gradient | weight gradient |")
    print("|---|---|---|---|---|---|")
    rng = np.random.default_rng(0)
    for x, w, stride, padding, groups in ROWS:
        title = f"| {'x'.join(map(str, x))} | {'x'.join(map(str, w))} | {stride} |"
        if sys.argv[1:] and not any(part in title for part in sys.argv[1:]):
            continue
        one, two = (rng.standard_normal(shape).astype(np.float32) for shape in (x, w))
        cells = []
        for ways in operations(one, two, stride, padding, groups).values():
            seconds = interleaved(ways, rounds=9, burst_s=0.02, clock=time.thread_time)
            cells.append(", ".join(f"{1e3 * t:.3g}" for t in seconds.values()))
        print(title, " | ".join(cells), "|", flush=True)


if __name__ == "__main__":
    main()
