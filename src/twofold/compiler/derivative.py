"""derivative: the gradients of a traced function's results, written into the same graph.

While a function is traced its tape exists as it does eagerly. For results that still require a
gradient, the walk backwards happens right there, from symbolic gradients of these results to all
tensors from outside that require one. So the graph holds the forward and the backward part
together; `partition` makes two programs of it.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

from ..autodiff.backward import run_backward
from ..autodiff.bind import current_node
from ..autodiff.handle import Tensor, wrap
from ..ir.errors import TwofoldError
from ..ir.graph import Graph, Value
from .entry import Entry


@dataclass(frozen=True)
class Made:
    """Stands for a tensor that the traced function makes and returns; several places may hold it."""

    number: int


@dataclass
class Derivative:
    """What the graph of a trace has besides its results.

    Attributes:
        roots: whose gradients the last inputs of the graph are: results, or updates (their numbers).
        seeds: these inputs.
        wanted: what the last outputs are the gradients of: arguments (their numbers) or tensors from outside.
        values: these outputs.
        reached: for each of them, the numbers of the roots that it depends on.
        error: why there is none, if the walk failed; eager code then raises where it is due.
    """

    roots: list[Made | int]
    seeds: list[Value]
    wanted: list[int | Tensor] = field(default_factory=list)
    values: list[Value] = field(default_factory=list)
    reached: list[frozenset[int]] = field(default_factory=list)
    error: TwofoldError | None = None


def differentiate(
    tracer: Any, made: Sequence[Tensor], written: dict[int, Tensor], origins: Sequence[Tensor]
) -> Derivative | None:
    """Walk back from results that require a gradient; None if there are none.

    Args:
        made: the results.
        written: number of an update -> the tensor from outside that is written.
        origins: for each argument, the leaf where its gradient arrives.
    """
    targets: list[tuple[Made | int, Tensor]] = [(Made(k), t) for k, t in enumerate(made) if _wants_gradient(t)]
    targets += [(i, t) for i, t in written.items() if _wants_gradient(t) and not isinstance(t._node, Entry)]
    targets = [(place, t) for place, t in targets if not (t._node is None and isinstance(place, int))]
    if not targets:
        return None
    ends: list[tuple[int | Tensor, Tensor]] = [(i, t) for i, t in enumerate(origins) if t._requires_grad]
    ends += [(root.handle, root.origin) for root in tracer.roots.values() if root.required_grad]
    grads = [wrap(tracer.graph.add_input(t.type_, "grad")) for _, t in targets]
    result = Derivative([place for place, _ in targets], [g._value for g in grads])
    try:
        _require_history(targets, tracer)
        found = _walk([t for _, t in targets], grads, [t for _, t in ends])
        values = {k: tracer.value_of(g) for k, g in found.items()}
    except TwofoldError as error:
        result.error = error
        return result
    result.wanted = [ends[k][0] for k in sorted(values)]
    result.values = [values[k] for k in sorted(values)]
    result.reached = _dependence(tracer.graph, result.seeds, result.values)
    return result


def _wants_gradient(t: Tensor) -> bool:
    node = current_node(t)
    return bool(t.requires_grad) and (node is None or not node.spent)


def _require_history(targets: Sequence[tuple[Any, Tensor]], tracer: Any) -> None:
    """A program gives neither leaves of its own, nor gradients that have a history."""
    for _, t in targets:
        if t._node is None:
            raise TwofoldError(f"the function makes a leaf of shape {t.shape} that requires grad")
    for t, before, _ in tracer.grads.values():
        g = t._grad
        if g is not None and g is not before and _wants_gradient(g):
            raise TwofoldError(f"the function sets a .grad of shape {g.shape} that requires grad itself")


def _walk(roots: list[Tensor], grads: list[Tensor], ends: list[Tensor]) -> dict[int, Tensor]:
    """Gradients of `ends`. Hooks of tensors from outside stay for the walk that runs the program."""
    hooks = [t._hooks for t in ends]
    for t in ends:
        t._hooks = None
    try:
        return run_backward(
            roots, grads, retain_graph=True, create_graph=False, inputs=ends, accumulate=False
        )  # fmt: skip
    finally:
        for t, own in zip(ends, hooks, strict=True):
            t._hooks = own


def _dependence(graph: Graph, seeds: list[Value], values: list[Value]) -> list[frozenset[int]]:
    """For each of `values`, the numbers of the seeds that it is computed from."""
    none: frozenset[int] = frozenset()
    known = {seed: frozenset((i,)) for i, seed in enumerate(seeds)}
    for node in graph.nodes:
        own = none.union(*(known.get(v, none) for v in node.inputs))
        if own:
            known.update((v, own) for v in node.outputs)
    return [known.get(v, none) for v in values]
