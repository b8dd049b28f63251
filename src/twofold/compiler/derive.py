"""The derivatives of control flow: graphs of vector-Jacobian products, made by tracing the tape.

Note [Derivative of scan]
The body's graph maps (carry, x, consts) to (carry', y). Going back, the gradient of the carry is
itself a carry, that of the constants is summed up in another one, and those of the slices are
stacked. Each step needs the carry that it began with: a body that gives its incoming carry among
its results has saved them, else the scan is run once more to get them.
"""

from __future__ import annotations

import functools
from collections.abc import Callable, Sequence
from typing import Any

from ..autodiff.backward import run_backward
from ..autodiff.bind import current_node
from ..autodiff.handle import Tensor, mode, wrap
from ..autodiff.replay import replay
from ..ir.graph import Graph, Value
from ..ir.types import TensorType
from ..primitives import control
from ..primitives.elementwise import add
from ..primitives.movement import full
from .trace import Tracer


def trace_graph(fn: Callable[..., Sequence[Tensor]], types: Sequence[TensorType], name: str) -> Graph:
    """The graph of a function of tensors only, which uses no others."""
    tracer = Tracer(name)
    handles = [wrap(tracer.graph.add_input(type)) for type in types]
    with tracer:
        outputs = [tracer.value_of(t) for t in fn(*handles)]
    tracer.graph.set_outputs(outputs)
    return tracer.graph


def differentiable(items: Sequence[Any]) -> list[int]:
    """The numbers of the values, types or tensors that can have a gradient."""
    return [i for i, item in enumerate(items) if item.dtype.is_differentiable]


def graph_vjp(graph: Graph, primals: Sequence[Tensor], grads: Sequence[Tensor]) -> list[Tensor]:
    """Gradients of a graph's differentiable inputs from those of its differentiable outputs.

    `primals` must be handles that nobody else has: they are made to require a gradient.
    """
    inputs = [primals[i] for i in differentiable(primals)]
    previous = mode.grad
    mode.grad = True
    try:
        for t in inputs:
            t.requires_grad = True
        outs = replay(graph, primals)
        roots = [(outs[k], g) for k, g in zip(differentiable(outs), grads, strict=True)]
        roots = [(t, g) for t, g in roots if current_node(t) is not None or t.requires_grad]
        found = run_backward(
            [t for t, _ in roots],
            [g for _, g in roots],
            retain_graph=False,
            create_graph=False,
            inputs=inputs,
            accumulate=False,
        )
    finally:
        mode.grad = previous
    return [found[k] if k in found else _zeros(t.type_) for k, t in enumerate(inputs)]


def _zeros(type: TensorType) -> Tensor:
    return full(shape=type.shape, value=0, dtype=type.dtype)


def _scatter(values: Sequence[Any], places: Sequence[int], size: int) -> list[Any]:
    out: list[Any] = [None] * size
    for place, value in zip(places, values, strict=True):
        out[place] = value
    return out


# --- cond ---------------------------------------------------------------------------------------


@functools.lru_cache(maxsize=256)
def vjp_graph(graph: Graph) -> Graph:
    """The graph (inputs, gradients of differentiable outputs) -> gradients of differentiable inputs."""
    inputs = [v.type for v in graph.inputs]
    grads = [graph.outputs[k].type for k in differentiable(graph.outputs)]

    def fn(*tensors: Tensor) -> list[Tensor]:
        return graph_vjp(graph, tensors[: len(inputs)], tensors[len(inputs) :])

    return trace_graph(fn, [*inputs, *grads], f"{graph.name}_backward")


def cond_derivative(g: Any, y: Any, pred: Any, *operands: Any, true_graph: Graph, false_graph: Graph) -> list[Any]:
    """A cond of the branches' backward passes."""
    grads = [g[k] for k in differentiable(g)]
    outs = control.cond(
        pred, *operands, *grads, true_graph=vjp_graph(true_graph), false_graph=vjp_graph(false_graph)
    )
    return [None, *_scatter(outs, differentiable(operands), len(operands))]


# --- scan ---------------------------------------------------------------------------------------


def scan_derivative(
    g: Any, y: Any, *inputs: Any, body: Graph, num_carry: int, num_xs: int, length: int, reverse: bool
) -> list[Any]:
    """A scan in the other direction; see Note [Derivative of scan]."""
    params = {"num_xs": num_xs, "length": length, "reverse": reverse}
    places = _saved_carries(body, num_carry)
    if places is None:
        outs = control.scan(*inputs, body=_with_carries(body, num_carry), num_carry=num_carry, **params)
        carries = list(outs[len(outs) - num_carry :])
    else:
        carries = [y[k] for k in places]
    carry, xs, consts = _split(inputs, num_carry, num_xs)
    g_carry = [g[i] for i in differentiable(carry)]
    g_ys = [t for t in g[num_carry:] if t.dtype.is_differentiable]
    sums = [_zeros(consts[i].type_) for i in differentiable(consts)]
    outs = control.scan(
        *g_carry, *sums, *carries, *xs, *g_ys, *consts,
        body=_backward_body(body, num_carry, num_xs),
        num_carry=len(g_carry) + len(sums), num_xs=num_carry + num_xs + len(g_ys),
        length=length, reverse=not reverse,
    )  # fmt: skip
    got_carry, got_consts, got_xs = _split(outs, len(g_carry), len(sums))
    return [
        *_scatter(got_carry, differentiable(carry), len(carry)),
        *_scatter(got_xs, differentiable(xs), len(xs)),
        *_scatter(got_consts, differentiable(consts), len(consts)),
    ]


def _split(items: Sequence[Any], first: int, second: int) -> tuple[list[Any], list[Any], list[Any]]:
    return list(items[:first]), list(items[first : first + second]), list(items[first + second :])


def _saved_carries(body: Graph, num_carry: int) -> list[int] | None:
    """Which outputs hold the stacked incoming carries, or None unless all of them are there."""
    places: dict[Value, int] = {value: k for k, value in enumerate(body.outputs) if k >= num_carry}
    carry = body.inputs[:num_carry]
    return [places[v] for v in carry] if all(v in places for v in carry) else None


@functools.lru_cache(maxsize=256)
def _with_carries(body: Graph, num_carry: int) -> Graph:
    def fn(*tensors: Tensor) -> list[Tensor]:
        return [*replay(body, tensors), *tensors[:num_carry]]

    return trace_graph(fn, [v.type for v in body.inputs], body.name)


@functools.lru_cache(maxsize=256)
def _backward_body(body: Graph, num_carry: int, num_xs: int) -> Graph:
    carry, xs, consts = _split([v.type for v in body.inputs], num_carry, num_xs)
    g_carry = [carry[i] for i in differentiable(carry)]
    sums = [consts[i] for i in differentiable(consts)]
    ys = [v.type for v in body.outputs[num_carry:]]
    g_ys = [ys[i] for i in differentiable(ys)]
    num_g, num_sums, num_primals = len(g_carry), len(sums), num_carry + num_xs

    def fn(*tensors: Tensor) -> list[Tensor]:
        grads, totals, rest = _split(tensors, num_g, num_sums)
        primals, grads_ys, constants = _split(rest, num_primals, len(g_ys))
        got = graph_vjp(body, [*primals, *constants], [*grads, *grads_ys])
        got_carry, got_xs, got_consts = _split(got, num_g, len(got) - num_g - num_sums)
        return [*got_carry, *[add(a, b) for a, b in zip(totals, got_consts, strict=True)], *got_xs]

    return trace_graph(fn, [*g_carry, *sums, *carry, *xs, *g_ys, *consts], f"{body.name}_backward")


control.install_derivatives(cond=cond_derivative, scan=scan_derivative)
