"""The walk backwards over the tape.

Nodes carry increasing numbers, and a node's inputs are always older than itself. So "newest
pending node first" is a topological order, and a heap is all that the walk needs.
"""

from __future__ import annotations

import heapq
from collections.abc import Callable, Sequence
from typing import Any

from ..ir.errors import AutogradError, ShapeError
from ..ir.primitive import PRIMITIVES
from . import tape
from .bind import current_node
from .handle import Tensor, mode, wrap
from .patches import Patch, plus, whole
from .tape import Node


def run_backward(
    roots: Sequence[Tensor],
    root_grads: Sequence[Tensor | None],
    *,
    retain_graph: bool,
    create_graph: bool,
    inputs: Sequence[Tensor] | None = None,
    accumulate: bool = True,
) -> dict[int, Tensor]:
    """Walk back from `roots`; accumulate into leaves, or return the gradients of `inputs`.

    Returns `{index into inputs: gradient}`; inputs that were not reached are missing.
    """
    pending: dict[Node, list[Any]] = {}
    heap: list[tuple[int, Node]] = []
    leaves: dict[int, tuple[Tensor, Any]] = {}
    wanted_leaves: dict[int, list[int]] = {}
    wanted_nodes: dict[Node, list[tuple[int, int]]] = {}
    found: dict[int, Tensor] = {}
    for k, t in enumerate(inputs or ()):
        node = current_node(t)
        if node is None:
            wanted_leaves.setdefault(id(t), []).append(k)
        else:
            wanted_nodes.setdefault(node, []).append((t._index, k))

    def send(edge: Any, g: Tensor) -> None:
        target, index = edge
        if isinstance(target, Tensor):
            if inputs is not None and id(target) not in wanted_leaves:
                return
            previous = leaves.get(id(target))
            leaves[id(target)] = (target, g if previous is None else plus(previous[1], g))
            return
        slots = pending.get(target)
        if slots is None:
            slots = pending[target] = [None] * len(target.types)
            heapq.heappush(heap, (-target.number, target))
        slots[index] = g if slots[index] is None else plus(slots[index], g)

    previous_mode = mode.grad
    mode.grad = create_graph
    try:
        useful = None
        if inputs is not None:
            useful = _nodes_on_the_way([current_node(t) for t in roots], wanted_leaves, wanted_nodes)
        for t, g in zip(roots, root_grads, strict=True):
            node = current_node(t)
            send((t, 0) if node is None else (node, t._index), _root_grad(t, g))
        while heap:
            _, node = heapq.heappop(heap)
            grads = [g if g.__class__ is not Patch else g.whole() for g in pending.pop(node)]
            if node.hooks is not None:
                for index, hooks in node.hooks.items():
                    if grads[index] is not None:
                        grads[index] = _run_hooks(hooks, grads[index])
            if node.retained is not None:
                for index, kept in node.retained.items():
                    t = kept()
                    if t is not None and grads[index] is not None:
                        _accumulate(t, grads[index], create_graph, steal=False)
            for index, k in wanted_nodes.get(node, ()):
                if grads[index] is not None:
                    found[k] = grads[index]
            if useful is not None and node not in useful:
                continue
            if mode.tracer is not None:
                mode.tracer.origin = node
            results = node.backward(grads)
            if tape.check_nan:
                tape.require_no_nan(node, results)
            edges = node.edges
            for i, g in enumerate(results):
                if g is not None and edges[i] is not None:
                    send(edges[i], g)
            if not retain_graph:
                node.release()
        used = {id(g._value) for g in root_grads if g is not None}
        for t, g in leaves.values():
            g = whole(g)
            if t._hooks:
                g = _run_hooks(t._hooks, g)
            if inputs is None or accumulate:
                _accumulate(t, g, create_graph, steal=id(g._value) not in used)
                used.add(id(g._value))
                if t._post_hooks:
                    for hook in list(t._post_hooks.values()):
                        hook(t)
            for k in wanted_leaves.get(id(t), ()):
                found[k] = g
    finally:
        mode.grad = previous_mode
        if mode.tracer is not None:
            mode.tracer.origin = None
    return found


def _nodes_on_the_way(roots: list[Any], leaves: Any, nodes: Any) -> set[Node]:
    """The nodes from which a wanted leaf or node can be reached: only they need running."""
    useful: set[Node] = set()
    seen: set[Node] = set()
    stack = [(node, False) for node in roots if node is not None]
    while stack:
        node, done = stack.pop()
        if done:
            for target in node.next_nodes():
                hit = id(target) in leaves if isinstance(target, Tensor) else target in nodes or target in useful
                if hit:
                    useful.add(node)
                    break
            continue
        if node in seen:
            continue
        seen.add(node)
        stack.append((node, True))
        stack.extend((n, False) for n in node.next_nodes() if not isinstance(n, Tensor))
    return useful


def _root_grad(t: Tensor, g: Tensor | None) -> Tensor:
    if g is None:
        if t._value.shape != () and t.type_.size != 1:
            raise AutogradError(
                f"backward() without a gradient needs a scalar, got shape {t.shape}",
                op="backward",
                hint="reduce it first, e.g. loss.mean().backward(), or pass gradient=",
            )
        if t.dtype.is_complex:
            raise AutogradError(
                f"backward() without a gradient needs a real result, got {t.dtype.name}",
                op="backward",
                hint="take abs(), real or imag of it, or pass gradient=",
            )
        return PRIMITIVES["full"](shape=t.shape, value=1, dtype=t.dtype)
    if g.shape != t.shape:
        raise ShapeError(f"the gradient has shape {g.shape}, its tensor {t.shape}", op="backward")
    return g


def _run_hooks(hooks: dict[int, Callable[[Tensor], Any]], g: Tensor) -> Tensor:
    for hook in list(hooks.values()):
        result = hook(g)
        if result is not None:
            g = result
    return g


def _accumulate(t: Tensor, g: Tensor, create_graph: bool, *, steal: bool) -> None:
    """Add `g` to `t.grad`. The first gradient is kept as it is if nobody else can hold its memory."""
    if g.shape != t.shape:
        raise ShapeError(f"a derivative rule gave shape {g.shape} for a tensor of shape {t.shape}", op="backward")
    if t.grad is not None:
        total = t.grad + g
        _inherit_age(t.grad, total)
        t.grad = total
    elif not steal or getattr(g._value, "base", None) is not None:
        t.grad = PRIMITIVES["copy"](g)
    else:
        t.grad = g if create_graph else wrap(g._value)


def _inherit_age(old: Tensor, total: Tensor) -> None:
    """Hand on for how many optimizer steps a gradient has been added to without being zeroed.

    An optimizer marks a gradient it used with `_spent = (steps, version)`; a version that moved on
    means that somebody wrote to it since, as zeroing does.
    """
    marks = old.__dict__
    spent = marks.get("_spent")
    stale = spent[0] if spent is not None and spent[1] == old._version else marks.get("_stale")
    if stale:
        total._stale = stale  # type: ignore[attr-defined]
