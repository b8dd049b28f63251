"""Eager operations on the compiler's kernels: here all of them are installed, see Note [What runs natively].

Note [What runs natively]
Whether an operation runs on a kernel is a function of its primitive, dtypes and shapes alone, so that
results do not depend on what ran before. Kernels take sizes when they run: a new shape compiles nothing
(docs/design/0004). Matrix products, convolutions, pools, recurrent layers, functions, and reductions of floating
numbers run natively at every size. Operations with little work stay with NumPy, which begins sooner, where its bits
are the kernels'.
Errors of native operations are explained by the reference, which is run for that.
"""

from __future__ import annotations

from ..ir import config
from ..primitives import control
from . import (
    eager_complex,
    eager_convolutions,
    eager_draws,
    eager_maps,
    eager_pools,
    eager_products,
    eager_recurrent,
    eager_reductions,
    eager_scatter,
)


def install() -> None:
    """Let eager code use native operations; only what the first of them needs loads LLVM."""
    if config.EAGER_KERNELS.value:
        eager_products.run_natively()
        eager_convolutions.run_natively()
        eager_maps.run_natively()
        eager_reductions.run_natively()
        eager_recurrent.run_natively()
        eager_pools.run_natively()
        eager_scatter.run_natively()
        eager_complex.run_natively()  # after the others, which go on with real numbers
        control.run_as_eager_code()
        eager_draws.run_natively()
