"""verify: whether fusing the operations of a function changes any bit of its results."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from ..autodiff.handle import Tensor
from ..backends.cpu.program import Program
from ..ir.graph import Graph, Node, Value
from ..ir.rewrite import Rewriter
from ..ir.text import node_text, scope_path
from ..ir.tree import flatten
from .compile import Compiled
from .pipeline import optimize
from .run import trace
from .single import program_of

Array = np.ndarray[Any, Any]


@dataclass
class Verification:
    """What `verify` found; true if all bits are equal.

    Attributes:
        num_results: results and pieces of state that were compared.
        num_operations: in the trace.
        different: numbers of the results that differ; pieces of state come after what the function returns.
        first: the first operation that gives other bits in the whole program than alone, in words, or None.
    """

    num_results: int
    num_operations: int
    different: list[int] = field(default_factory=list)
    first: str | None = None

    def __bool__(self) -> bool:
        return not self.different

    def __str__(self) -> str:
        if self:
            return f"{self.num_results} results of {self.num_operations} operations are equal bit for bit"
        text = f"{len(self.different)} of {self.num_results} results differ in their bits"
        return f"{text}; the first operation that does:\n  {self.first}"


def verify(fn: Callable[..., Any], *args: Any, **kwargs: Any) -> Verification:
    """Run every operation of `fn(*args)` as a program of its own, and all as one; compare the bits.

    The numerics contract (docs/design/0003) says that fusing operations changes no bit of a result.
    This shows it for one function, a whole training step for example. Arguments and state stay as
    they are. If bits differ, the first operation is named whose result in the whole program, from
    the same inputs, is not what it gives alone.

    Returns a Verification: true if all bits are equal; print it.

    Raises: TraceError if the function can't be traced.

    >>> import twofold as tw
    >>> print(tw.debug.verify(lambda x: (x.exp() + 1).log().sum(), tw.ones(3)))
    1 results of 4 operations are equal bit for bit
    """
    if isinstance(fn, Compiled):
        fn = fn.fn
    traced = trace(fn, *args, **kwargs)
    tensors = [x for x in flatten((args, kwargs))[0] if isinstance(x, Tensor)]
    arrays = [t._value.copy() for t in tensors] + [slot.read().copy() for slot in traced.state]
    return verify_graph(traced.graph, arrays)


def verify_graph(graph: Graph, arrays: Sequence[Array]) -> Verification:
    """`verify` of a graph, on arrays of its inputs' types."""
    alone = _Alone()
    values: dict[Value, Array] = dict(graph.constants)
    values.update(zip(graph.inputs, arrays, strict=True))
    for node in graph.nodes:
        values.update(zip(node.outputs, alone.run(node, [values[v] for v in node.inputs]), strict=True))
    results = _run(graph, graph.outputs, arrays)
    found = Verification(len(results), len(graph.nodes))
    pairs = zip(graph.outputs, results, strict=True)
    found.different = [i for i, (v, array) in enumerate(pairs) if not _equal(values[v], array)]
    if found.different:
        found.first = _first(graph, arrays, alone)
    return found


class _Alone:
    """Runs nodes as programs of their own, each compiled once."""

    def __init__(self) -> None:
        self.programs: dict[Any, Program] = {}

    def run(self, node: Node, inputs: Sequence[Array]) -> list[Array]:
        types = [v.type for v in node.inputs]
        constants = {i: v.graph.constants[v] for i, v in enumerate(node.inputs) if v in v.graph.constants}
        numbers = sorted((i, array.tobytes()) for i, array in constants.items())
        key = node.prim.name, repr(types), repr(sorted(node.params.items())), repr(numbers)
        if key not in self.programs:
            self.programs[key] = program_of(node.prim, types, node.params, constants)
        given = [np.ascontiguousarray(a) for i, a in enumerate(inputs) if i not in constants]
        return [np.array(out) for out in self.programs[key](given)]


def _run(graph: Graph, outputs: Sequence[Value], arrays: Sequence[Array]) -> list[Any]:
    """Compile the graph with these results, and run it."""
    rewriter = Rewriter(graph)
    part = rewriter.run(lambda node: False)
    part.set_outputs([rewriter[v] for v in outputs])
    return Program(optimize(part))([a.copy() for a in arrays])


def _first(graph: Graph, arrays: Sequence[Array], alone: _Alone) -> str:
    """The first node that differs where the program hands out all values."""
    values: dict[Value, Array] = dict(graph.constants)
    values.update(zip(graph.inputs, arrays, strict=True))
    every = [v for node in graph.nodes for v in node.outputs]
    values.update(zip(every, _run(graph, every, arrays), strict=True))
    for node in graph.nodes:
        for value, array in zip(node.outputs, alone.run(node, [values[v] for v in node.inputs]), strict=True):
            if not _equal(values[value], array):
                where = f"\n  layer: {scope_path(node.scope)}" if node.scope else ""
                where += f"\n  at: {node.location}" if node.location is not None else ""
                return node_text(node) + where
    return "every operation agrees by itself; they differ only when fused"


def _equal(a: Array, b: Array) -> bool:
    return a.shape == b.shape and a.dtype == b.dtype and a.tobytes() == b.tobytes()
