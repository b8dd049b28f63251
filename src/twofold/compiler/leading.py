"""Whether programs beneath running Python are worth it, where Python leads (see tree.py).

A call that Python leads traces the code: that costs some 20 microseconds an operation, far more than eager code's
two or three. It pays where arrays are large, because programs pass over them less often. Both are estimated from
the graph, not measured, so that the same code runs in the same way each time.
"""

from __future__ import annotations

from collections.abc import Collection

from ..ir.graph import Graph, Node
from ..ir.types import Shape

TRACE_SECONDS = 18e-6  # an operation, more than eagerly
# What programs save, in bytes that eager operations read and write a second. Measured: 23 to 45e9 (gpt, lstm,
# transformer, cnn); nothing for optimizers, which pass over their state once eagerly, too.
_SAVED_BYTES = 30e9
_FREE = frozenset(("reshape", "permute", "expand", "slice", "diagonal", "as_strided", "full"))


def is_worth(graph: Graph, shapes: Collection[Shape]) -> bool:
    """Whether programs save more than tracing costs.

    Args:
        shapes: of the state; what has one of these is taken for a part of an update.
    """
    moved = sum(_bytes(node) for node in graph.nodes if node.outputs[0].shape not in shapes)
    return moved / _SAVED_BYTES >= TRACE_SECONDS * len(graph.nodes)


def _bytes(node: Node) -> int:
    """What an eager operation reads and writes."""
    if node.prim.name in _FREE:
        return 0
    return sum(v.type.size * v.dtype.itemsize for v in (*node.inputs, *node.outputs))
