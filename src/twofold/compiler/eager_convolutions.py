"""Eager convolutions and their gradients on the compiler's own kernels: see Note [What runs natively] in eager.py.

Their bits are those of compiled code for every shape, and new shapes compile nothing. What no open kernel does yet
runs as programs of one node.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from ..ir.primitive import PRIMITIVES, Primitive

NAMES = ("conv", "conv_input_grad", "conv_weight_grad")


def run_natively(programs: Callable[[Primitive], Callable[..., Any]]) -> None:
    """Let eager code use native convolutions; only the first of them loads LLVM.

    Args:
        programs: how a primitive runs as programs of one node.
    """
    for name in NAMES:
        p = PRIMITIVES[name]
        p.run = programs(p)
