"""cond, while_loop and scan: control flow that depends on values and can be traced.

Eagerly they are the plain Python statements, recorded by the tape. While tracing, the functions
given are traced into graphs of their own; tensors that they use but do not get as arguments
become further operands. Names and conventions are those of `jax.lax`.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

from ..autodiff.handle import Tensor, mode
from ..ir.dtypes import scalar_dtype
from ..ir.errors import AutogradError, DTypeError, ShapeError, TwofoldError
from ..ir.tree import flatten
from ..ir.types import TensorType
from ..primitives import control
from ..primitives.elementwise import cast
from ..primitives.movement import concat, full, reshape
from ..primitives.movement import slice as slice_
from .body import TENSOR, Structure, Typed, flatten_tensors, share_captured, trace_body, types_of

_CARRY = "the carry must keep its types: it begins as {}, a step gives {}"


def _check_same(op: str, message: str, before: Typed, after: Typed) -> None:
    """Raise unless two nestings of types agree; `message` has places for both."""
    if before == after:
        return
    (structure, types), (other, others) = before, after
    same_shapes = structure == other and [t.shape for t in types] == [t.shape for t in others]
    raise (DTypeError if same_shapes else ShapeError)(
        message.format(structure.describe(types), other.describe(others)),
        op=op,
        hint="cast or reshape to the same types, nested in the same way",
    )


def _predicate(op: str, pred: Any) -> Any:
    """A tensor of one element as bool[]; anything else as Python's bool."""
    if not isinstance(pred, Tensor):
        return bool(pred)
    if pred.type_.size != 1:
        raise ShapeError(
            f"the condition must be one value, got a tensor of shape {pred.shape}",
            op=op,
            hint="reduce it with .any() or .all(), or use twofold.where for a choice per element",
        )
    return pred


def _traced_predicate(op: str, pred: Any) -> Tensor:
    pred = _predicate(op, pred)
    if not isinstance(pred, Tensor):
        return full(shape=(), value=pred, dtype=scalar_dtype(True))
    pred = pred if pred.dtype is scalar_dtype(True) else cast(pred, dtype=scalar_dtype(True))
    return pred if pred.shape == () else reshape(pred, shape=())


# --- cond ---------------------------------------------------------------------------------------


def cond(pred: Any, true_fn: Callable[..., Any], false_fn: Callable[..., Any], *operands: Any) -> Any:
    """`true_fn(*operands)` if `pred` is true, else `false_fn(*operands)`; only one of them runs.

    Traced, both become part of the graph and must give tensors of the same types and nesting.

    Args:
        pred: a tensor of one element, or a Python value, which decides at the time of tracing.
        true_fn, false_fn: functions without side effects on tensors.
        operands: tensors in any nesting, and other arguments that are passed on.

    Shapes: pred () or (1, ..., 1).
    Raises: ShapeError if `pred` has several elements; while tracing, ShapeError or DTypeError if
        the branches differ, TraceError if one writes to a tensor that it did not make.

    >>> import twofold as tw
    >>> x = tw.tensor([1.0, 2.0])
    >>> tw.cond(x.sum() > 0, lambda x: x * 2, lambda x: -x, x)
    tensor([2., 4.])
    """
    pred = _predicate("cond", pred)
    if mode.tracer is None or not isinstance(pred, Tensor):
        result = (true_fn if pred else false_fn)(*operands)
        tensors, structure = flatten_tensors(result, "the result of a branch of cond")
        return structure.build(tensors)
    leaves, tree = flatten(operands)
    given = [t for t in leaves if isinstance(t, Tensor)]

    def args(handles: list[Tensor]) -> Any:
        rest = iter(handles)
        return tree.unflatten([next(rest) if isinstance(t, Tensor) else t for t in leaves])

    yes, no = (trace_body(_branch_name(fn), fn, given, types_of(given), args) for fn in (true_fn, false_fn))
    _check_same("cond", "the branches differ: the true one gives {}, the false one {}", yes.typed, no.typed)
    captured = share_captured([yes, no])
    pred = _traced_predicate("cond", pred)
    outs = control.cond(pred, *given, *captured, true_graph=yes.graph, false_graph=no.graph)
    return yes.structure.build(outs)


def _branch_name(fn: Callable[..., Any]) -> str:
    return f"the branch {getattr(fn, '__name__', type(fn).__name__)!r} of cond"


# --- while_loop ---------------------------------------------------------------------------------


def while_loop(cond_fn: Callable[[Any], Any], body_fn: Callable[[Any], Any], init: Any) -> Any:
    """Apply `body_fn` to a value, which begins as `init`, while `cond_fn(value)` is true.

    Traced, it has no derivative, for its number of steps is not known; `scan` has one.

    Args:
        cond_fn: gives a tensor of one element.
        body_fn: gives a value of the same types and nesting as its argument.
        init: tensors and numbers in any nesting.

    Raises: ShapeError or DTypeError if the value changes its types; while tracing, TraceError if a
        function writes to a tensor that it did not make, AutogradError if a gradient is wanted.

    >>> import twofold as tw
    >>> tw.while_loop(lambda v: v[0] < 5, lambda v: (v[0] + 1, v[1] * 2), (tw.tensor(0), tw.tensor(1.0)))
    (tensor(5), tensor(32.))
    """
    tensors, structure = flatten_tensors(init, "init of while_loop")
    if mode.tracer is None:
        while _predicate("while_loop", cond_fn(structure.build(tensors))):
            tensors = _next_carry("while_loop", body_fn(structure.build(tensors)), tensors, structure)
        return structure.build(tensors)

    def args(handles: list[Tensor]) -> Any:
        return (structure.build(handles),)

    def predicate(value: Any) -> Tensor:
        return _traced_predicate("while_loop", cond_fn(value))

    test = trace_body("the condition of while_loop", predicate, tensors, types_of(tensors), args)
    body = trace_body("the body of while_loop", body_fn, tensors, types_of(tensors), args)
    _check_same("while_loop", _CARRY, (structure, types_of(tensors)), body.typed)
    captured = share_captured([test, body])
    if mode.grad and any(t.requires_grad for t in (*tensors, *captured)):
        raise AutogradError(
            "a tensor that requires grad enters a traced while_loop, which has no derivative: "
            "how often it runs is not known beforehand",
            op="while_loop",
            hint="use twofold.scan with a fixed length, or run the loop under twofold.no_grad()",
        )
    outs = control.while_loop(
        *tensors, *captured, cond_graph=test.graph, body_graph=body.graph, num_carry=len(tensors)
    )
    return structure.build(outs)


def _next_carry(op: str, value: Any, before: list[Tensor], structure: Structure) -> list[Tensor]:
    tensors, now = flatten_tensors(value, f"the carry of {op}")
    _check_same(op, _CARRY, (structure, types_of(before)), (now, types_of(tensors)))
    return tensors


# --- scan ---------------------------------------------------------------------------------------


def scan(
    f: Callable[[Any, Any], tuple[Any, Any]], init: Any, xs: Any, length: int | None = None, reverse: bool = False
) -> tuple[Any, Any]:
    """Apply `carry, y = f(carry, x)` to the slices of `xs` one after another.

    Args:
        f: gives the new carry, of the same types and nesting as the old one, and a result.
        init: the first carry: tensors and numbers in any nesting.
        xs: tensors in any nesting, sliced along their first dimension; or None.
        length: the number of steps, needed if `xs` is None.
        reverse: begin at the last slice; results stand where their slices do.

    Shapes: xs (length, ...) -> ys (length, ...).
    Returns: the last carry, and the results stacked.
    Raises: ShapeError if the sizes of `xs` disagree, or the carry changes its shape, DTypeError if
        it changes its dtype; while tracing, TraceError if `f` writes to a tensor that it did not make.

    >>> import twofold as tw
    >>> tw.scan(lambda total, x: (total + x, total), tw.tensor(0.0), tw.tensor([1.0, 2.0, 3.0]))
    (tensor(6.), tensor([0., 1., 3.]))
    """
    carry, structure = flatten_tensors(init, "init of scan")
    x_tensors, x_structure = flatten_tensors(xs, "xs of scan")
    length = _length(x_tensors, length)
    if mode.tracer is None and length > 0:
        return _eager_scan(f, carry, structure, x_tensors, x_structure, length, reverse)
    num_carry = len(carry)

    def args(handles: list[Tensor]) -> Any:
        return structure.build(handles[:num_carry]), x_structure.build(handles[num_carry:])

    types = types_of(carry) + [TensorType(x.shape[1:], x.dtype) for x in x_tensors]
    given = [*carry, *x_tensors]
    body = trace_body("the body of scan", _pair(f), given, types, args)
    carry_structure, y_structure = _split_pair(body.structure)
    num_back = sum(s is TENSOR for s in carry_structure.statics)
    _check_same("scan", _CARRY, (structure, types_of(carry)), (carry_structure, body.typed[1][:num_back]))
    if mode.grad and any(t.requires_grad for t in (*given, *body.captured)):
        # the derivative needs the carries of all steps: give them as further results
        body.graph.set_outputs([*body.graph.outputs, *body.graph.inputs[:num_carry]])
    outs = control.scan(
        *given, *body.captured,
        body=body.graph, num_carry=num_carry, num_xs=len(x_tensors), length=length, reverse=bool(reverse),
    )  # fmt: skip
    return structure.build(outs[:num_carry]), y_structure.build(outs[num_carry:])


def _eager_scan(
    f: Callable[[Any, Any], tuple[Any, Any]],
    carry: list[Tensor],
    structure: Structure,
    xs: list[Tensor],
    x_structure: Structure,
    length: int,
    reverse: bool,
) -> tuple[Any, Any]:
    step = _pair(f)
    results: list[list[Tensor]] = []
    y_structure: Any = None
    for i in reversed(range(length)) if reverse else range(length):
        new, y = step(structure.build(carry), x_structure.build([_row(x, i) for x in xs]))
        carry = _next_carry("scan", new, carry, structure)
        ys, now = flatten_tensors(y, "a result of scan")
        y_structure = y_structure or now
        results.append(ys)
        first = (y_structure, types_of(results[0]))
        _check_same("scan", "the results of steps differ: first {}, then {}", first, (now, types_of(ys)))
    if reverse:
        results.reverse()
    return structure.build(carry), y_structure.build([_stack(column) for column in zip(*results, strict=True)])


def _length(xs: list[Tensor], length: int | None) -> int:
    for x in xs:
        if x.ndim == 0:
            raise ShapeError("a tensor of xs has no dimension to be sliced", op="scan")
    sizes = {x.shape[0] for x in xs} | (set() if length is None else {int(length)})
    if len(sizes) > 1:
        shapes = ", ".join(str(x.shape) for x in xs)
        raise ShapeError(f"the first sizes of xs ({shapes}) and length={length} disagree", op="scan")
    if not sizes:
        raise ShapeError("xs holds no tensor and length is not given", op="scan", hint="pass length=")
    (n,) = sizes
    if n < 0:
        raise ShapeError(f"length must not be negative, got {n}", op="scan")
    return n


def _pair(f: Callable[..., Any]) -> Callable[..., tuple[Any, Any]]:
    """`f` with a check that it gives a carry and a result."""

    def step(carry: Any, x: Any) -> tuple[Any, Any]:
        out = f(carry, x)
        if not isinstance(out, (tuple, list)) or len(out) != 2:
            raise TwofoldError(
                f"the body must return (carry, result), got {type(out).__name__}",
                op="scan",
                hint="return carry, None if there is no result",
            )
        return out[0], out[1]

    step.__name__ = getattr(f, "__name__", "step")
    return step


def _split_pair(structure: Structure) -> tuple[Structure, Structure]:
    first, second = structure.tree.children
    n = first.num_leaves
    return Structure(first, structure.statics[:n]), Structure(second, structure.statics[n:])


def _row(x: Tensor, i: int) -> Tensor:
    rest = x.shape[1:]
    row = slice_(x, start=(i, *[0] * len(rest)), stop=(i + 1, *rest), step=(1,) * x.ndim)
    return reshape(row, shape=rest)


def _stack(tensors: Sequence[Tensor]) -> Tensor:
    return concat(*[reshape(t, shape=(1, *t.shape)) for t in tensors], dim=0)
