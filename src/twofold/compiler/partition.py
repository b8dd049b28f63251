"""partition: cut the graph of a function with its gradients into a forward and a backward graph.

The forward graph computes the results and what the backward graph reads of it: the *saved* values.
Arguments and parameters are not saved but read again. Movement and constants are made again, and so
are cheap element-wise values all of whose inputs are there anyway: that costs less than memory does.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass

from ..ir.graph import Graph, Node, Value

# Made again in the backward graph where their inputs are at hand.
_CHEAP = frozenset(
    (
        "abs", "add", "bitwise_and", "bitwise_not", "bitwise_or", "bitwise_xor", "cast", "copy", "eq", "ge",
        "gt", "isfinite", "le", "logical_not", "lt", "maximum", "minimum", "mul", "ne", "neg", "relu", "sign",
        "sub", "where",
    )
)  # fmt: skip
_SAME_SIZE = frozenset(("reshape", "permute", "expand"))
_DEPTH = 8


@dataclass
class Partition:
    """The two graphs.

    Attributes:
        forward: as the whole graph without gradients, with saved values as further outputs.
        backward: inputs are the values of `sources`, then the gradients of the results.
        sources: where each saved value is found: ("input", number) or ("output", number), of `forward`.
        saved: these values in the whole graph.
    """

    forward: Graph
    backward: Graph
    sources: list[tuple[str, int]]
    saved: list[Value]


def partition(
    graph: Graph, num_outputs: int, num_results: int, num_seeds: int, written: Iterable[int]
) -> Partition:
    """Cut `graph`.

    Args:
        num_outputs: how many outputs belong to the forward graph; the others are gradients.
        num_results: how many of these are results (the others are updates).
        num_seeds: how many of the last inputs are gradients of the results.
        written: numbers of the inputs that the forward graph's updates overwrite.
    """
    split = len(graph.inputs) - num_seeds
    inputs, seeds = graph.inputs[:split], graph.inputs[split:]
    ahead = ancestors(graph.outputs[:num_outputs])
    behind = ancestors(graph.outputs[num_outputs:]) - ahead
    results = {v: k for k, v in reversed(list(enumerate(graph.outputs[:num_results])))}
    saved, again = choose(graph, ahead, behind, set(seeds), results, graph.outputs[num_outputs:])

    outputs = list(graph.outputs[:num_outputs])
    places = {v: i for i, v in enumerate(inputs)}
    sources = []
    for v in saved:
        if v in places and places[v] not in set(written):
            sources.append(("input", places[v]))
        elif v in results:
            sources.append(("output", results[v]))
        else:
            sources.append(("output", len(outputs)))
            outputs.append(v)
    forward = extract(graph, inputs, outputs)
    backward = extract(graph, [*saved, *seeds], graph.outputs[num_outputs:], behind | again)
    backward.name += "_backward"
    return Partition(forward, backward, sources, saved)


def extract(
    graph: Graph, inputs: Sequence[Value], outputs: Sequence[Value], nodes: set[Node] | None = None
) -> Graph:
    """The graph that computes `outputs` from `inputs`, by the given nodes or by all that are needed."""
    new = Graph(graph.name)
    values = {v: new.add_input(v.type, v.name) for v in inputs}

    def of(v: Value) -> Value:
        if v not in values:
            values[v] = new.constant(graph.constants[v], v.dtype, v.name)
        return values[v]

    nodes = ancestors(outputs, set(inputs)) if nodes is None else nodes
    for node in graph.nodes:
        if node in nodes:
            outs = new.add(node.prim, [of(v) for v in node.inputs], node.params, node.location, node.scope)
            for old, value in zip(node.outputs, outs, strict=True):
                values.setdefault(old, value)
    new.set_outputs([of(v) for v in outputs])
    return new


def ancestors(values: Iterable[Value], stop: set[Value] | None = None) -> set[Node]:
    found: set[Node] = set()
    stack = [v for v in values if stop is None or v not in stop]
    while stack:
        node = stack.pop().node
        if node is not None and node not in found:
            found.add(node)
            stack.extend(v for v in node.inputs if stop is None or v not in stop)
    return found


def choose(
    graph: Graph,
    ahead: set[Node],
    behind: set[Node],
    seeds: set[Value],
    results: dict[Value, int],
    grads: list[Value],
) -> tuple[list[Value], set[Node]]:
    """The values to save, in order, and the forward nodes to make again."""
    saved: dict[Value, None] = {}
    again: set[Node] = set()
    reads = [v for node in graph.nodes if node in behind for v in node.inputs] + grads
    stack = list(reversed(reads))
    while stack:
        v = stack.pop()
        if v in seeds or v in graph.constants or v.node in behind or v in saved or v.node in again:
            continue
        if v.node is not None and _moves(v.node):
            again.add(v.node)
            stack.extend(v.node.inputs)
        else:
            saved[v] = None
    for v in sorted((v for v in saved if v.node is not None), key=lambda v: -v.node.number):  # type: ignore[union-attr]
        if v in results:
            continue  # it is there anyway
        nodes = _derivation(v, saved, _DEPTH)
        if nodes is not None:
            del saved[v]
            again |= nodes
    return list(saved), again


def _moves(node: Node) -> bool:
    """Whether making a value again costs nothing: it has no inputs, or is a view of what it is made from."""
    if not node.inputs or node.prim.name in _SAME_SIZE:
        return True
    source: Value = node.inputs[0]
    while source.node is not None and source.node.prim.view:
        source = source.node.inputs[0]
    return node.prim.view and source.node is None


def _derivation(value: Value, saved: dict[Value, None], depth: int) -> set[Node] | None:
    """The nodes that make `value` from other saved values, or None if that is not cheap."""
    node = value.node
    assert node is not None
    if not depth or not (node.prim.name in _CHEAP or _moves(node)):
        return None
    nodes = {node}
    for v in node.inputs:
        if v in saved or v in v.graph.constants:
            continue
        more = None if v.node is None else _derivation(v, saved, depth - 1)
        if more is None:
            return None
        nodes |= more
    return nodes
