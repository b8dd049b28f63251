"""Control flow: cond, while_loop, scan. Their params hold graphs, which are closed.

Note [Derivatives of control flow]
The derivative of `cond` is a cond of derived graphs, that of `scan` a scan in the other direction.
To derive a graph is to trace its backward pass, which is work of a higher floor; that floor
installs the rules here, as it installs what calling a primitive does.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any

import numpy as np

from ..ir.dtypes import COMPLEX, FLOATS, DType, bool_, float32
from ..ir.errors import DTypeError, GraphError, ShapeError
from ..ir.evaluate import evaluate, evaluate_eagerly, evaluate_graph, own, value_types
from ..ir.graph import Graph
from ..ir.primitive import ErrorSample, Primitive, Sample
from ..ir.types import TensorType
from ._rules import draw, unary_errors, unary_rule, unary_samples
from .elementwise import add, lt, mul, sin

_derivatives: dict[str, Callable[..., Any]] = {}


def install_derivatives(**rules: Callable[..., Any]) -> None:
    """Set the rules that derive graphs; see Note [Derivatives of control flow]."""
    _derivatives.update(rules)


def _derivative(name: str) -> Callable[..., Any]:
    def rule(g: Any, y: Any, *inputs: Any, **params: Any) -> Any:
        return _derivatives[name](g, y, *inputs, **params)

    return rule


# --- type rules -----------------------------------------------------------------------------


def _check_inputs(op: str, what: str, graph: Graph, types: list[TensorType]) -> None:
    if not isinstance(graph, Graph):
        raise GraphError(f"{what} must be a Graph, got {type(graph).__name__}", op=op)
    expected = [v.type for v in graph.inputs]
    if expected != types:
        raise ShapeError(f"{what} takes {expected}, got {types}", op=op)


def _check_pred(op: str, what: str, t: TensorType) -> None:
    if t.dtype is not bool_:
        raise DTypeError(f"{what} must be bool[], got {t}", op=op, hint="compare it with something, e.g. x > 0")
    if t.shape:
        raise ShapeError(f"{what} must be bool[], got {t}", op=op, hint="reduce it, e.g. with .all()")


def _cond_rule(pred: TensorType, *operands: TensorType, true_graph: Graph, false_graph: Graph) -> Any:
    _check_pred("cond", "the predicate", pred)
    _check_inputs("cond", "true_graph", true_graph, list(operands))
    _check_inputs("cond", "false_graph", false_graph, list(operands))
    types, others = ([v.type for v in g.outputs] for g in (true_graph, false_graph))
    if types != others:
        raise ShapeError(f"the branches give different types: {types} and {others}", op="cond")
    return tuple(types)


def _while_rule(*inputs: TensorType, cond_graph: Graph, body_graph: Graph, num_carry: int) -> Any:
    carry = _split("while_loop", inputs, num_carry)[0]
    _check_inputs("while_loop", "cond_graph", cond_graph, list(inputs))
    _check_inputs("while_loop", "body_graph", body_graph, list(inputs))
    if len(cond_graph.outputs) != 1:
        raise GraphError(f"cond_graph must give one bool, gives {len(cond_graph.outputs)} values", op="while_loop")
    _check_pred("while_loop", "the condition", cond_graph.outputs[0].type)
    _check_carry("while_loop", carry, body_graph, len(body_graph.outputs))
    return tuple(carry)


def _scan_rule(
    *inputs: TensorType, body: Graph, num_carry: int, num_xs: int, length: int, reverse: bool
) -> tuple[TensorType, ...]:
    carry, xs, consts = _split("scan", inputs, num_carry, num_xs)
    for i, x in enumerate(xs):
        if x.shape[:1] != (length,):
            raise ShapeError(f"xs[{i}] has shape {x.shape}, its first size must be length={length}", op="scan")
    slices = [x.with_shape(x.shape[1:]) for x in xs]
    _check_inputs("scan", "body", body, [*carry, *slices, *consts])
    _check_carry("scan", carry, body, num_carry)
    return (*carry, *[v.type.with_shape((length, *v.shape)) for v in body.outputs[num_carry:]])


def _split(op: str, inputs: tuple[Any, ...], *counts: int) -> list[list[Any]]:
    if min(counts) < 0 or sum(counts) > len(inputs):
        raise GraphError(f"there are {len(inputs)} inputs, the params speak of {sum(counts)}", op=op)
    parts, at = [], 0
    for n in (*counts, len(inputs) - sum(counts)):
        parts.append(list(inputs[at : at + n]))
        at += n
    return parts


def _check_carry(op: str, carry: list[TensorType], body: Graph, num_outputs: int) -> None:
    given = [v.type for v in body.outputs[:num_outputs]]
    if given != carry:
        raise ShapeError(f"the carry must keep its types: it begins as {carry}, the body gives {given}", op=op)


# --- references -----------------------------------------------------------------------------
# `how` says how the nodes of their graphs are run: by the references, too, or as eager code does it.


def _cond(pred: Any, *operands: Any, true_graph: Graph, false_graph: Graph, how: Any = evaluate) -> Any:
    return tuple(own(evaluate_graph(true_graph if pred else false_graph, operands, how), operands))


def _while(*inputs: Any, cond_graph: Graph, body_graph: Graph, num_carry: int, how: Any = evaluate) -> Any:
    carry, consts = _split("while_loop", inputs, num_carry)
    while evaluate_graph(cond_graph, [*carry, *consts], how)[0]:
        carry = evaluate_graph(body_graph, [*carry, *consts], how)
    return tuple(own(carry, inputs))


def _scan(
    *inputs: Any, body: Graph, num_carry: int, num_xs: int, length: int, reverse: bool, how: Any = evaluate
) -> Any:
    carry, xs, consts = _split("scan", inputs, num_carry, num_xs)
    ys = [np.empty((length, *v.shape), v.dtype.numpy) for v in body.outputs[num_carry:]]
    for i in reversed(range(length)) if reverse else range(length):
        outputs = evaluate_graph(body, [*carry, *[x[i, ...] for x in xs], *consts], how)
        carry = outputs[:num_carry]
        for y, now in zip(ys, outputs[num_carry:], strict=True):
            y[i] = now
    return (*own(carry, inputs), *ys)


# --- samples --------------------------------------------------------------------------------


def _make(build: Callable[..., Any], *types: TensorType) -> Graph:
    """A graph from a function `(add_node, *inputs) -> outputs`."""
    graph = Graph("sample")

    def node(p: Primitive, *inputs: Any, **params: Any) -> Any:
        return graph.add(p, inputs, params)[0]

    graph.set_outputs(build(node, *[graph.add_input(t) for t in types]))
    return graph


def _sine_branch(node: Any, x: Any, y: Any) -> Any:
    return [node(sin, node(mul, x, y)), y]


def _square_branch(node: Any, x: Any, y: Any) -> Any:
    return [node(mul, x, x), node(add, x, y)]


def _cond_samples(dtype: DType, rng: np.random.Generator) -> Iterator[Sample]:
    for shape in ((2, 3), (), (0, 2)):
        kind = TensorType(shape, dtype)
        params = {"true_graph": _make(_sine_branch, kind, kind), "false_graph": _make(_square_branch, kind, kind)}
        for pred in (True, False):
            yield Sample((np.array(pred), draw(dtype, rng, shape), draw(dtype, rng, shape)), params)


def _cond_errors() -> Iterator[ErrorSample]:
    x, y, pred = np.zeros(2, np.float32), np.zeros(3, np.float32), np.array(True)
    kind = TensorType((2,), float32)
    same = _make(lambda node, a: [a], kind)
    two = _make(lambda node, a: [a, a], kind)
    both = {"true_graph": same, "false_graph": same}
    yield ErrorSample((np.array(1.0), x), both, DTypeError, "the predicate must be bool")
    yield ErrorSample((np.array([True]), x), both, ShapeError, "the predicate must be bool")
    yield ErrorSample((pred, y), both, ShapeError, "true_graph takes")
    yield ErrorSample((pred, x), {**both, "false_graph": two}, ShapeError, "the branches give different types")
    yield ErrorSample((pred, x), {**both, "false_graph": None}, GraphError, "false_graph must be a Graph")


def _while_samples(dtype: DType, rng: np.random.Generator) -> Iterator[Sample]:
    count, number = TensorType((), dtype), TensorType((), dtype)
    for shape in ((3,), ()):
        kinds = (count, TensorType(shape, dtype), number)
        params = {
            "cond_graph": _make(lambda node, i, x, step: [node(lt, i, i.graph.constant(3, dtype))], *kinds),
            "body_graph": _make(lambda node, i, x, step: [node(add, i, step), node(mul, x, x)], *kinds),
            "num_carry": 2,
        }
        one = np.ones((), dtype.numpy)
        yield Sample((np.asarray(one * 0), draw(dtype, rng, shape, -1, 1), one), params)
        yield Sample((np.asarray(one * 9), draw(dtype, rng, shape, -1, 1), one), params)  # runs never


def _while_errors() -> Iterator[ErrorSample]:
    x, kind = np.zeros(2, np.float32), TensorType((2,), float32)
    same = _make(lambda node, a: [a], kind)
    nothing = _make(lambda node, a: [], kind)
    true = _make(lambda node, a: [a.graph.constant(True)], kind)
    good = {"cond_graph": true, "body_graph": same, "num_carry": 1}
    yield ErrorSample((x,), {**good, "cond_graph": same}, DTypeError, "the condition must be bool")
    yield ErrorSample((x,), {**good, "cond_graph": nothing}, GraphError, "must give one bool, gives 0")
    yield ErrorSample((x,), {**good, "body_graph": nothing}, ShapeError, "the carry must keep its types")
    yield ErrorSample((x,), {**good, "num_carry": 2}, GraphError, "there are 1 inputs")


def _scan_body(node: Any, state: Any, total: Any, x: Any, weight: Any) -> Any:
    state = node(sin, node(add, node(mul, state, weight), x))
    return [state, node(add, total, x), node(mul, state, x), state]


def _scan_samples(dtype: DType, rng: np.random.Generator) -> Iterator[Sample]:
    for length, shape, reverse in ((3, (2,), False), (2, (), True), (0, (2,), False)):
        kind = TensorType(shape, dtype)
        body = _make(_scan_body, kind, kind, kind, kind)
        inputs = [draw(dtype, rng, s, -1, 1) for s in (shape, shape, (length, *shape), shape)]
        params = {"body": body, "num_carry": 2, "num_xs": 1, "length": length, "reverse": reverse}
        yield Sample(tuple(inputs), params)


def _scan_errors() -> Iterator[ErrorSample]:
    c, xs, kind = np.zeros(2, np.float32), np.zeros((3, 2), np.float32), TensorType((2,), float32)
    body = _make(lambda node, c, x: [x, c], kind, kind)
    none = _make(lambda node, c, x: [], kind, kind)
    good = {"body": body, "num_carry": 1, "num_xs": 1, "length": 3, "reverse": False}
    yield ErrorSample((c, xs), {**good, "length": 4}, ShapeError, "first size must be length=4")
    yield ErrorSample((c, xs), {**good, "body": none}, ShapeError, "the carry must keep its types")
    yield ErrorSample((xs, xs), good, ShapeError, "body takes")
    yield ErrorSample((c, xs), {**good, "num_xs": 2}, GraphError, "there are 2 inputs")


# --- the table ------------------------------------------------------------------------------

stop_gradient = Primitive(  # the identity; inside a traced body it says what detach() and no_grad() said
    "stop_gradient",
    type_rule=unary_rule("stop_gradient", FLOATS | COMPLEX),
    numpy=lambda x: x.copy(),
    nondiff="it is there to have none",
    samples=unary_samples(),
    errors=unary_errors(FLOATS | COMPLEX),
    dtypes=FLOATS | COMPLEX,
    torch=lambda torch, x: x.detach().clone(),
)

cond = Primitive(  # (pred, *operands) -> the outputs of one of the graphs
    "cond",
    type_rule=_cond_rule,
    numpy=_cond,
    vjp=_derivative("cond"),
    saves="x",
    samples=_cond_samples,
    errors=_cond_errors,
    dtypes=FLOATS,
    multiple=True,
    holomorphic=False,
)

while_loop = Primitive(  # (*carry, *consts) -> carry, after body_graph ran while cond_graph gave True
    "while_loop",
    type_rule=_while_rule,
    numpy=_while,
    nondiff="how often it runs is not known beforehand; scan has a derivative",
    samples=_while_samples,
    errors=_while_errors,
    dtypes=FLOATS,
    multiple=True,
    holomorphic=False,
)

scan = Primitive(  # (*carry, *xs, *consts) -> (*carry, *ys); body: (*carry, *x, *consts) -> (*carry, *y)
    "scan",
    type_rule=_scan_rule,
    numpy=_scan,
    vjp=_derivative("scan"),
    samples=_scan_samples,
    errors=_scan_errors,
    dtypes=FLOATS,
    multiple=True,
    holomorphic=False,
)


def run_as_eager_code() -> None:
    """Let `Primitive.run` of these evaluate their graphs as eager code evaluates operations, so that both have the
    same bits; the references evaluate them by references."""
    for p in (cond, while_loop, scan):
        p.run = _eagerly(p)


def _eagerly(p: Primitive) -> Callable[..., Any]:
    def run(*values: Any, **params: Any) -> Any:
        p.types(value_types(values), params)
        return p.numpy(*values, **params, how=evaluate_eagerly)

    return run
