"""replay: run a graph on tensors, so that it is recorded on the tape, or traced into another graph."""

from __future__ import annotations

from collections.abc import Sequence

from ..ir.errors import DTypeError, GraphError, ShapeError
from ..ir.graph import Graph, Value
from .handle import Tensor, mode, wrap


def replay(graph: Graph, inputs: Sequence[Tensor]) -> list[Tensor]:
    """Apply every node's primitive to tensors; gives a tensor per output.

    Eagerly the constants' arrays are read-only; an output that is a constant is a tensor on it.

    Raises: GraphError, ShapeError or DTypeError for inputs that do not fit the graph's.
    """
    if len(inputs) != len(graph.inputs):
        raise GraphError(f"graph {graph.name!r} takes {len(graph.inputs)} tensors, got {len(inputs)}", op="replay")
    for i, (value, t) in enumerate(zip(graph.inputs, inputs, strict=True)):
        if t.type_ != value.type:
            error = DTypeError if t.dtype is not value.dtype else ShapeError
            raise error(f"input {i} of graph {graph.name!r} must be {value.type}, got {t.type_}", op="replay")
    tensors: dict[Value, Tensor] = {}
    for value, array in graph.constants.items():
        tracer = mode.tracer
        tensors[value] = wrap(array if tracer is None else tracer.graph.constant(array, name=value.name))
    tensors.update(zip(graph.inputs, inputs, strict=True))
    for node in graph.nodes:
        result = node.prim(*[tensors[v] for v in node.inputs], **node.params)
        tensors.update(zip(node.outputs, result if node.prim.multiple else (result,), strict=True))
    return [tensors[v] for v in graph.outputs]
