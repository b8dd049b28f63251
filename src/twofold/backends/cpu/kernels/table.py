"""Which primitives, besides those that are fused, have a kernel of their own.

An entry is `lower(lowering, node, symbol) -> list of steps, or None` when it can't take this node
(the reference is called then). Inputs are read through `lowering.views[value]`, strided as they are;
the views of the outputs exist, row-major. Further buffers come from `lowering.buffer("temp", ...)`.
Functions are added to `lowering.module` under names that begin with `symbol`, with the signature
`(ptr args, i64 first, i64 last, i64 worker)`: they compute the chunks first..last-1.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from ....ir.graph import Node
from ..step import Step
from . import copying, divisions, indexing, ordering, random, recurrent, running
from .convolutions import lower_conv, lower_weight_grad
from .window import lower_max_pool, lower_max_pool_grad, lower_sum_pool, lower_sum_pool_grad

LOWERINGS: dict[str, Callable[[Any, Node, str], list[Step] | None]] = {
    "conv_last": lower_conv,
    "conv_last_input_grad": lower_conv,
    "conv_last_weight_grad": lower_weight_grad,
    "max_pool_last": lower_max_pool,
    "max_pool_last_grad": lower_max_pool_grad,
    "sum_pool_last": lower_sum_pool,
    "sum_pool_last_grad": lower_sum_pool_grad,
    **copying.LOWERINGS,
    **divisions.LOWERINGS,
    **indexing.LOWERINGS,
    **ordering.LOWERINGS,
    **random.LOWERINGS,
    **recurrent.LOWERINGS,
    **running.LOWERINGS,
}

# These write a part of their first input; where the result may take its place, no copy is made of it.
IN_PLACE = frozenset(("update_slice", "update_diagonal", "index_put", "scatter", "scatter_add"))
