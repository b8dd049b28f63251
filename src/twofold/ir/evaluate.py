"""evaluate: run a primitive's NumPy reference, and whole graphs of them, on arrays.

The reference backend and the references of control flow share it with eager execution.

Note [Eager evaluation]
`primitive.run(*arrays, **params)` is how eager code evaluates an operation. It is found once for
each primitive, when it is first used, by `runner`: the NumPy reference, behind a type rule that
remembers what it has accepted. A backend with something better than NumPy sets `run` to that: it
gets arrays and Python numbers, raises for what it can't take (`complaint` says what is wrong with
it), and need not care for the order of the result in memory.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import numpy as np

from .dtypes import FROM_NUMPY
from .errors import GraphError, TraceError, TwofoldError
from .graph import Graph, Node, Value
from .primitive import Primitive
from .text import node_text, scope_path
from .types import TensorType

Array = np.ndarray[Any, Any]
_ndarray = np.ndarray


def evaluate(p: Primitive, values: list[Any], params: dict[str, Any]) -> Any:
    """Run the NumPy reference on arrays, with results as arrays in row-major order."""
    if not p.checked_by_numpy:
        p.type_rule(*value_types(values), **params)
    return _evaluate(p.numpy, p, values, params)


def evaluate_eagerly(p: Primitive, values: list[Any], params: dict[str, Any]) -> Any:
    """Run a primitive as eager code does, see Note [Eager evaluation], with results in row-major order."""
    return _evaluate(p.run or runner(p), p, values, params)


def _evaluate(run: Callable[..., Any], p: Primitive, values: list[Any], params: dict[str, Any]) -> Any:
    try:
        out = run(*values, **params)
    except Exception as e:
        raise complaint(p, values, params, e) from e.__cause__
    if out.__class__ is _ndarray and (p.view or out.ndim < 2 or out.flags.c_contiguous):
        return out
    return in_rows(p, out)


def runner(p: Primitive) -> Callable[..., Any]:
    """How eager code evaluates `p` on arrays: see Note [Eager evaluation]."""
    if p.checked_by_numpy:
        return p.numpy
    numpy, rule, accepted = p.numpy, p.type_rule, set[Any]()

    def run(*values: Any, **params: Any) -> Any:
        kinds = [(v.shape, v.dtype) if isinstance(v, _ndarray) else v.__class__ for v in values]
        key = (*params, *params.values(), *kinds)
        try:
            known = key in accepted
        except TypeError:  # a param that can't be hashed
            rule(*value_types(values), **params)
            return numpy(*values, **params)
        if not known:
            rule(*value_types(values), **params)
            if len(accepted) < _REMEMBERED:
                accepted.add(key)
        return numpy(*values, **params)

    return run


_REMEMBERED = 1 << 12  # types for each primitive, which are a few in nearly all programs


def complaint(p: Primitive, values: list[Any], params: dict[str, Any], error: Exception) -> Exception:
    """What to raise when an evaluation raised `error`: the type rule's words if the inputs are to blame."""
    if isinstance(error, TwofoldError):
        return error
    if any(isinstance(v, Value) for v in values):
        return left_over(p.name)
    try:
        p.type_rule(*value_types(values), **params)
    except Exception as explained:
        return explained
    return error


def in_rows(p: Primitive, out: Any) -> Any:
    """What an evaluation gave, as arrays in row-major order."""
    if p.multiple:
        return tuple([np.ascontiguousarray(o) if o.ndim else np.asarray(o) for o in out])
    return np.ascontiguousarray(out) if out.__class__ is _ndarray else np.asarray(out)


def left_over(op: str) -> TraceError:
    """The error of a tensor that outlived the trace that made it."""
    return TraceError(
        "a tensor that was made inside a traced function is used outside of it, where it has no value",
        op=op,
        hint="return it from the function, or write it into a tensor that exists before",
    )


def value_types(values: Sequence[Any]) -> list[TensorType]:
    """Types of arrays or graph values; a Python number has the last array's dtype."""
    dtype = None
    for v in reversed(values):
        if hasattr(v, "shape"):
            dtype = FROM_NUMPY.get(v.dtype, v.dtype)
            break
    return [
        TensorType(v.shape, FROM_NUMPY.get(v.dtype, v.dtype)) if hasattr(v, "shape") else TensorType((), dtype)  # type: ignore[arg-type]
        for v in values
    ]


def evaluate_graph(
    graph: Graph, arrays: Sequence[Array], how: Callable[[Primitive, list[Any], dict[str, Any]], Any] = evaluate
) -> list[Array]:
    """Run `graph` on arrays of its inputs' types: by `evaluate` or `evaluate_eagerly`.

    A value is freed after its last use.

    Results may share memory with the arguments, the constants and each other. An error inside a
    node names the node and where the user's program made it.
    """
    values: dict[Value, Array] = dict(graph.constants)
    values.update(zip(graph.inputs, arrays, strict=True))
    last = last_uses(graph)
    for node in graph.nodes:
        try:
            result = how(node.prim, [values[v] for v in node.inputs], node.params)
        except Exception as e:
            raise located(e, graph, node) from e
        if node.prim.multiple:
            values.update(zip(node.outputs, result, strict=True))
        else:
            values[node.outputs[0]] = result
        del result
        for value in last[node.number]:
            del values[value]
    return [values[v] for v in graph.outputs]


def own(outputs: Sequence[Array], others: Sequence[Array]) -> list[Array]:
    """The arrays row-major and writable, copied where they share memory with others or each other."""
    taken = list(others)
    owned: list[Array] = []
    for array in outputs:
        shared = not array.flags.writeable or any(np.may_share_memory(array, other) for other in taken)
        if shared or not array.flags.c_contiguous:
            array = array.copy(order="C")
        taken.append(array)
        owned.append(array)
    return owned


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


def located(error: Exception, graph: Graph, node: Node) -> Exception:
    """The error of a node, with the place in the user's program that the node comes from."""
    if getattr(error, "in_graph", False):
        return error  # it comes from a nested graph and names the inner node
    if isinstance(error, TwofoldError):
        out = type(error)(error.message, op=error.op or node.prim.name, hint=error.hint)
    else:
        out = GraphError(f"{type(error).__name__}: {error}", op=node.prim.name)
    out.message += f"\n  node: {node_text(node)} of graph {graph.name!r}"
    out.location = node.location
    out.layer_path = scope_path(node.scope) or None
    out.in_graph = True  # type: ignore[attr-defined]
    return out
