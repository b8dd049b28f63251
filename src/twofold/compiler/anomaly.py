"""Where the first NaN of a compiled call comes from.

Inside `detect_anomaly()` a program runs on state that is kept aside. If a result has a NaN, the traced
graph is run again on the same values, node by node on the reference, to find the node that made it.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import numpy as np

from ..ir.errors import AutogradError
from ..ir.evaluate import evaluate
from ..ir.graph import Graph, Node, Value
from ..ir.text import Scope, scope_path

Array = np.ndarray[Any, Any]


def run_checked(
    program: Callable[..., list[Any]], graph: Graph, arrays: Sequence[Array], fixed: Sequence[Array]
) -> list[Any]:
    """Run a program on `arrays` and `fixed`.

    Args:
        graph: as it was traced; its first inputs are the program's.

    Raises: AutogradError that names the operation and the user's line of the first NaN among the
        results; arguments and state are as before the call then.
    """
    inputs = [*arrays, *fixed]
    before = [a.copy() for a in inputs]
    outputs = program(arrays, fixed)
    if any(map(has_nan, [x for x in outputs if x is not None])) or any(
        has_nan(a) and not has_nan(b) for a, b in zip(inputs, before, strict=True)
    ):
        for now, then in zip(inputs, before, strict=True):
            if now.tobytes() != then.tobytes():
                np.copyto(now, then)
        error = first_nan(graph, before)
        if error is not None:
            raise error
    return outputs


def has_nan(array: Array) -> bool:
    """Whether there is a NaN in an array of any dtype."""
    return array.dtype.kind in "fcV" and bool(np.isnan(array).any())


def first_nan(graph: Graph, arrays: Sequence[Array]) -> AutogradError | None:
    """An error about the earliest node that makes a NaN which reaches a result; None if there is no such.

    Args:
        arrays: for the first inputs of the graph; what depends on others is not looked at.
    """
    values: dict[Value, Array] = dict(graph.constants)
    values.update(zip(graph.inputs, arrays, strict=False))
    for node in graph.nodes:
        if all(v in values for v in node.inputs):
            result = evaluate(node.prim, [values[v] for v in node.inputs], node.params)
            values.update(zip(node.outputs, result if node.prim.multiple else (result,), strict=True))
    sources = _sources(graph.outputs, {v for v, array in values.items() if has_nan(array)})
    if not sources:
        return None
    given = [v for v in sources if v.node is None]
    if given:
        return _given_error(given[0])
    nodes = [v.node for v in sources if v.node is not None]
    return _made_error(min(nodes, key=lambda n: n.number), values)


def _sources(values: Sequence[Value], bad: set[Value]) -> list[Value]:
    """Of the bad values that lead to `values` those that do not come from others."""
    sources: list[Value] = []
    stack, seen = [v for v in values if v in bad], set()
    while stack:
        value = stack.pop()
        if value in seen:
            continue
        seen.add(value)
        reasons = [v for v in value.node.inputs if v in bad] if value.node is not None else []
        stack += reasons
        if not reasons:
            sources.append(value)
    return sources


def _given_error(value: Value) -> AutogradError:
    return AutogradError(
        f"{value.name or 'a tensor'} of type {value.type} has a NaN before the call",
        op="detect_anomaly",
        hint="look at where it comes from: the data, or an earlier step",
    )


def _made_error(node: Node, values: dict[Value, Array]) -> AutogradError:
    what, scope = _named(node)
    ranges = ", ".join(f"{v.type} {_range(values[v])}" for v in node.inputs)
    infinite = {v for v, array in values.items() if array.dtype.kind in "fcV" and bool(np.isinf(array).any())}
    since = ""
    makers = [v.node for v in _sources(node.inputs, infinite) if v.node is not None]
    if makers:
        maker = min(makers, key=lambda n: n.number)
        since = f"\n  infinite since: {_named(maker)[0].removesuffix(',')}"
        since += f"\n    at: {maker.location}" if maker.location is not None else ""
    error = AutogradError(
        f"{what} gave the first NaN\n  from: {ranges}{since}",
        op="detect_anomaly",
        hint="sqrt, pow, log and division have points without a finite value or derivative; "
        "clamp() what goes into them, or add a small eps",
    )
    error.location = node.location
    error.layer_path = scope_path(scope) or None
    return error


def _named(node: Node) -> tuple[str, Scope]:
    """What a node is for the user, and the layers around it."""
    what, scope = f"{node.prim.name!r}", node.scope
    if scope and scope[-1][0].endswith("_backward"):
        return f"the derivative of {scope[-1][0].removesuffix('_backward')!r}, by {what},", scope[:-1]
    return what, scope


def _range(array: Array) -> str:
    if not array.size:
        return "without elements"
    if array.dtype.kind == "c":
        return f"up to {np.abs(array).max()} in size"
    low, high = array.min(), array.max()
    return f"of {low}" if low == high else f"from {low} to {high}"
