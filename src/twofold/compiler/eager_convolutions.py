"""Eager convolutions and their gradients on the compiler's own kernels: see Note [What runs natively] in eager.py.

Their bits are those of compiled code for every shape, and new shapes compile nothing: what follows from shapes is
worked out once for a combination and remembered. float16 and bfloat16 are widened first, and rounded once at the
end. What compiled code has no kernel for (integers, more than three spatial dimensions) is the reference's.
"""

from __future__ import annotations

import importlib
import threading
from collections.abc import Callable
from typing import Any

import numpy as np

from ..ir import forks
from ..ir.dtypes import FLOATS, FROM_NUMPY, HALVES, DType, float32
from ..ir.evaluate import runner, value_types
from ..ir.primitive import PRIMITIVES, Primitive

Array = np.ndarray[Any, Any]
Kernel = Callable[[Array, Array], Array]

NAMES = ("conv", "conv_input_grad", "conv_weight_grad")

_MOST_DIMS = 5  # that compiled code has kernels for
_REMEMBERED = 1 << 10  # combinations of shapes, of each primitive
_BYTES = 64 << 20  # of their tables, of each primitive


def run_natively() -> None:
    """Let eager code use native convolutions; only the first of them loads LLVM."""
    for name in NAMES:
        p = PRIMITIVES[name]
        p.run = Convolution(p).run


class Convolution:
    """How eager code evaluates a convolution, or one of its gradients."""

    def __init__(self, p: Primitive):
        self.p, self._reference = p, runner(p)
        self._known: dict[Any, Kernel] = {}
        self._bytes = 0
        self.run = self._runner()
        self.after_fork()
        forks.tell(self)

    def after_fork(self) -> None:
        """Have a new lock: in a child, a thread that is not there any more may hold the old one."""
        self._lock = threading.Lock()

    def _runner(self) -> Callable[..., Any]:
        known, evaluate = self._known, self._evaluate

        def run(
            a: Any, b: Any, *, stride: Any, padding: Any, dilation: Any, groups: Any, input_size: Any = None,
            kernel_size: Any = None,
        ) -> Any:  # fmt: skip
            """The result for arrays, as `Primitive.run`."""
            try:
                key = a.dtype, b.dtype, a.shape, b.shape, stride, padding, dilation, groups, input_size, kernel_size
                kernel = known[key]
            except (KeyError, TypeError, AttributeError):  # not met before, or no arrays
                params = {"stride": stride, "padding": padding, "dilation": dilation, "groups": groups}
                sizes = {"input_size": input_size, "kernel_size": kernel_size}
                return evaluate(a, b, {**{k: v for k, v in sizes.items() if v is not None}, **params})
            return kernel(a, b)

        return run

    def _evaluate(self, a: Any, b: Any, params: dict[str, Any]) -> Any:
        """What is not known yet."""
        self.p.types(value_types((a, b)), params)  # raises what bind shows
        dtype = FROM_NUMPY.get(a.dtype)
        kernel = None if dtype is None else self._find(a, b, dtype, params)
        if kernel is None:
            return self._reference(a, b, **params)
        rest = (params[name] for name in ("stride", "padding", "dilation", "groups"))
        key = (a.dtype, b.dtype, a.shape, b.shape, *rest, params.get("input_size"), params.get("kernel_size"))
        with self._lock:
            self._known[key] = kernel
            self._bytes += getattr(kernel, "nbytes", 0)
            while len(self._known) > _REMEMBERED or self._bytes > _BYTES:
                oldest = self._known.pop(next(iter(self._known)))
                self._bytes -= getattr(oldest, "nbytes", 0)
        return kernel(a, b)

    def _find(self, a: Array, b: Array, dtype: DType, params: dict[str, Any]) -> Kernel | None:
        """What computes arrays of such shapes; None if the reference does."""
        if dtype not in FLOATS or a.ndim > _MOST_DIMS:
            return None
        if dtype is float32:
            filtered = importlib.import_module("..backends.cpu.winograds", __package__)
            chosen: Kernel | None = filtered.plan(self.p.name, a.shape, b.shape, **params)
            if chosen is not None:
                return chosen
        if self.p.name == "conv_weight_grad":
            return _weight_gradients(a, b, dtype, params)
        native = importlib.import_module("..backends.cpu.convs", __package__)
        held = float32 if dtype in HALVES else dtype
        plan: Kernel = native.convolutions_of(held).plan(a.shape, b.shape, **params)
        return _Widened(plan, dtype) if dtype in HALVES else plan


def _weight_gradients(x: Array, g: Array, dtype: DType, params: dict[str, Any]) -> Kernel:
    """What computes weight gradients; its order of additions is that of the dtype, also for halves."""
    native = importlib.import_module("..backends.cpu.weight_grads", __package__)
    plan: Kernel = native.weight_grads_of(dtype).plan(x.shape, g.shape, **params)
    return plan


class _Widened:
    """A kernel's operation for float16 or bfloat16."""

    def __init__(self, kernel: Kernel, dtype: DType):
        self.kernel, self.dtype = kernel, dtype
        self.nbytes = getattr(kernel, "nbytes", 0)

    def __call__(self, a: Array, b: Array) -> Array:
        cast: Any = PRIMITIVES["cast"].run
        out: Array = cast(self.kernel(cast(a, dtype=float32), cast(b, dtype=float32)), dtype=self.dtype)
        return out
