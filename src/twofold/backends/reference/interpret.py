"""interpret: run a graph on arrays, node by node, with the primitives' NumPy references or as eager code does."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import numpy as np

from ...ir.errors import DTypeError, GraphError, ShapeError
from ...ir.evaluate import Array, evaluate, evaluate_graph, own
from ...ir.graph import Graph
from ...ir.types import TensorType


def interpret(graph: Graph, arrays: Sequence[Array], how: Callable[..., Any] = evaluate) -> list[Array]:
    """Run `graph` on one array per input; gives one row-major array per output.

    Nodes are run by `how`: `evaluate`, the reference, or `evaluate_eagerly`.
    The arrays given are not written, and results share no memory with them or with each other.

    Raises: GraphError, ShapeError or DTypeError for arguments that do not fit; an error inside a
        node names the node and where the user's program made it.

    >>> from twofold.ir.parse import parse_graph
    >>> double = parse_graph("graph f(%x: int64[2]) { %0: int64[2] = add(%x, %x) return %0 }")
    >>> interpret(double, [np.array([1, 2])])
    [array([2, 4])]
    """
    _check_arguments(graph, arrays)
    return own(evaluate_graph(graph, arrays, how), [*arrays, *graph.constants.values()])


def _check_arguments(graph: Graph, arrays: Sequence[Array]) -> None:
    if len(arrays) != len(graph.inputs):
        raise GraphError(f"graph {graph.name!r} takes {len(graph.inputs)} arrays, got {len(arrays)}")
    for i, (value, array) in enumerate(zip(graph.inputs, arrays, strict=True)):
        what = f"input {i}" + (f" ({value.name})" if value.name else "") + f" of graph {graph.name!r}"
        if not isinstance(array, np.ndarray):
            raise GraphError(
                f"{what} must be a NumPy array, got {type(array).__name__}", hint="pass tensor.numpy() for a tensor"
            )
        if array.dtype != value.dtype.numpy:
            raise DTypeError(f"{what} must be {value.type}, got dtype {array.dtype}")
        if array.shape != value.shape:
            raise ShapeError(f"{what} must be {value.type}, got {TensorType.of(array)}")
