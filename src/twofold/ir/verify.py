"""verify: whether a graph is well formed."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from typing import TYPE_CHECKING, Any, NoReturn

from .errors import GraphError, TwofoldError
from .literal import is_literal, nested_graphs
from .text import node_text
from .types import TensorType

if TYPE_CHECKING:
    from .graph import Graph, Node, Value


def verify(graph: Graph) -> None:
    """Check a graph and the graphs nested in it.

    Every value is made once and before it is used; types are those that the type rules give;
    constants have their value's type; params are literals.

    Raises: GraphError that names the node.
    """
    made: set[Value] = set()
    for i, value in enumerate(graph.inputs):
        _make(graph, value, made, partial("input {}".format, i))
        if value.node is not None:
            _fail(graph, f"input {i}, {value!r}, is made by node {node_text(value.node)}")
    for value, array in graph.constants.items():
        _make(graph, value, made, partial("constant {!r}".format, value))
        if TensorType.of(array) != value.type:
            _fail(graph, f"constant {value!r} holds an array of type {TensorType.of(array)}")
    for i, node in enumerate(graph.nodes):
        if node.number != i:
            _fail(graph, f"node {node_text(node)} stands in place {i}")
        _verify_node(graph, node, made)
    for i, value in enumerate(graph.outputs):
        if value not in made:
            _fail(graph, f"output {i}, {value!r}, is not made in this graph")


def _verify_node(graph: Graph, node: Node, made: set[Value]) -> None:
    for i, value in enumerate(node.inputs):
        if value not in made:
            _fail(graph, f"input {i} of node {node!r} is {value!r}, which is not made before it")
    for name, param in node.params.items():
        if not is_literal(param):
            _fail(
                graph,
                f"param {name} of node {node!r} is {param!r} of type {type(param).__name__}",
                hint="params are numbers, strings, bools, None, DTypes, graphs, and tuples of these",
            )
    for sub in nested_graphs(node.params):
        verify(sub)
    try:
        expected = node.prim.types([v.type for v in node.inputs], node.params)
    except TwofoldError as e:
        _fail(graph, f"the type rule refuses node {node!r}: {e.message}", cause=e)
    except Exception as e:  # a rule may stumble over params that are missing or of the wrong kind
        _fail(graph, f"the type rule refuses node {node!r}: {type(e).__name__}: {e}", cause=e)
    if tuple(v.type for v in node.outputs) != expected:
        _fail(
            graph,
            f"node {node!r} has outputs {[v.type for v in node.outputs]}, the type rule gives {list(expected)}",
        )
    for i, value in enumerate(node.outputs):
        _make(graph, value, made, partial("output {} of node {!r}".format, i, node))
        if value.node is not node or value.index != i:
            _fail(graph, f"output {i} of node {node!r} does not point back to it")


def _make(graph: Graph, value: Any, made: set[Value], what: Callable[[], str]) -> None:
    if not isinstance(getattr(value, "type", None), TensorType):
        _fail(graph, f"{what()} has no type")
    if value.graph is not graph:
        _fail(graph, f"{what()} belongs to graph {value.graph.name!r}")
    if value in made:
        _fail(graph, f"{what()} is made twice")
    made.add(value)


def _fail(graph: Graph, message: str, hint: str | None = None, cause: Exception | None = None) -> NoReturn:
    raise GraphError(f"graph {graph.name!r}: {message}", op="verify", hint=hint) from cause
