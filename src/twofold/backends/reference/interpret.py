"""interpret: run a graph on arrays with the primitives' NumPy references."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np

from ...ir.errors import DTypeError, GraphError, ShapeError, TwofoldError
from ...ir.evaluate import evaluate
from ...ir.graph import Graph, Node, Value
from ...ir.text import node_text, scope_path
from ...ir.types import TensorType

Array = np.ndarray[Any, Any]


def interpret(graph: Graph, arrays: Sequence[Array]) -> list[Array]:
    """Run `graph` on one array per input; gives one row-major array per output.

    A value is freed after its last use. The arrays given are not written, and results share no
    memory with them or with each other.

    Raises: ShapeError or DTypeError for arguments that do not fit; an error inside a node names
        the node and where the user's program made it.
    """
    _check_arguments(graph, arrays)
    values: dict[Value, Array] = dict(graph.constants)
    values.update(zip(graph.inputs, arrays, strict=True))
    last = last_uses(graph)
    for node in graph.nodes:
        try:
            result = evaluate(node.prim, [values[v] for v in node.inputs], node.params)
        except Exception as e:
            raise _located(e, graph, node) from e
        for value, array in zip(node.outputs, result if node.prim.multiple else (result,), strict=True):
            values[value] = array
        del result, array
        for value in last[node.number]:
            del values[value]
    return _own([values[v] for v in graph.outputs], [*arrays, *graph.constants.values()])


def last_uses(graph: Graph) -> list[list[Value]]:
    """For every node the values that nobody needs after it, its own unused outputs among them."""
    last: list[list[Value]] = [[] for _ in graph.nodes]
    seen = set(graph.outputs)
    for node in reversed(graph.nodes):
        for value in (*node.outputs, *node.inputs):
            if value not in seen:
                seen.add(value)
                last[node.number].append(value)
    return last


def _check_arguments(graph: Graph, arrays: Sequence[Array]) -> None:
    if len(arrays) != len(graph.inputs):
        raise GraphError(f"graph {graph.name!r} takes {len(graph.inputs)} arrays, got {len(arrays)}")
    for i, (value, array) in enumerate(zip(graph.inputs, arrays, strict=True)):
        what = f"input {i}" + (f" ({value.name})" if value.name else "") + f" of graph {graph.name!r}"
        if not isinstance(array, np.ndarray):
            raise GraphError(f"{what} must be a NumPy array, got {type(array).__name__}")
        if array.dtype != value.dtype.numpy:
            raise DTypeError(f"{what} must be {value.type}, got dtype {array.dtype}")
        if array.shape != value.shape:
            raise ShapeError(f"{what} must be {value.type}, got {TensorType.of(array)}")


def _located(error: Exception, graph: Graph, node: Node) -> Exception:
    """The error of a node, with the place in the user's program that the node comes from."""
    if isinstance(error, TwofoldError):
        out = type(error)(error.message, op=error.op or node.prim.name, hint=error.hint)
    else:
        out = GraphError(f"{type(error).__name__}: {error}", op=node.prim.name)
    out.message += f"\n  node: {node_text(node)} of graph {graph.name!r}"
    out.location = node.location or error.location if isinstance(error, TwofoldError) else node.location
    if node.scope:
        out.layer_path = scope_path(node.scope)
    return out


def _own(outputs: list[Array], others: list[Array]) -> list[Array]:
    """Row-major outputs that share memory with nothing else."""
    owned: list[Array] = []
    for array in outputs:
        if not array.flags.c_contiguous or not array.flags.writeable:
            array = array.copy(order="C")
        elif any(np.may_share_memory(array, other) for other in others):
            array = array.copy()
        others.append(array)
        owned.append(array)
    return owned
