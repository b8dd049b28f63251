"""cond, while_loop and scan: control flow that depends on values and can be traced.

Eagerly they are the plain Python statements, recorded by the tape. While tracing, the functions
given are traced into graphs of their own; tensors that they use but do not get as arguments
become further operands. Names and conventions are those of `jax.lax`.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from typing import Any

from ..autodiff.handle import Tensor, mode, wrap
from ..ir.dtypes import scalar_dtype
from ..ir.errors import DTypeError, ShapeError, TraceError, TwofoldError
from ..ir.graph import Graph, Value
from ..ir.tree import Tree, flatten
from ..ir.types import TensorType
from ..primitives import control
from ..primitives.elementwise import cast
from ..primitives.movement import concat, full, reshape
from ..primitives.movement import slice as slice_
from .trace import Tracer

_TENSOR = "tensor"
_CARRY = "the carry must keep its types: it begins as {}, a step gives {}"


class Structure:
    """How tensors are nested in a value; None may stand among them."""

    __slots__ = ("statics", "tree")

    def __init__(self, tree: Tree, statics: tuple[Any, ...]):
        self.tree = tree
        self.statics = statics

    def build(self, tensors: Iterable[Any]) -> Any:
        """Put tensors into the nesting."""
        rest = iter(tensors)
        return self.tree.unflatten([next(rest) if s is _TENSOR else s for s in self.statics])

    def __eq__(self, other: object) -> bool:
        return isinstance(other, Structure) and (self.tree, self.statics) == (other.tree, other.statics)

    def __hash__(self) -> int:
        return hash((self.tree, self.statics))

    def describe(self, types: Iterable[TensorType]) -> str:
        """The nesting with the tensors' types, for messages."""
        return str(self.build(types))


def _flatten(value: Any, what: str) -> tuple[list[Tensor], Structure]:
    """The tensors in a nesting; Python numbers become tensors."""
    leaves, tree = flatten(value)
    tensors, statics = [], []
    for leaf in leaves:
        if leaf is not None:
            tensors.append(_as_tensor(leaf, what))
        statics.append(None if leaf is None else _TENSOR)
    return tensors, Structure(tree, tuple(statics))


def _as_tensor(leaf: Any, what: str) -> Tensor:
    if isinstance(leaf, Tensor):
        return leaf
    if isinstance(leaf, (bool, int, float, complex)):
        return full(shape=(), value=leaf, dtype=scalar_dtype(leaf))
    raise TwofoldError(
        f"{what} holds {leaf!r} of type {type(leaf).__name__}, expected tensors, numbers, None, "
        "and tuples, lists and dicts of these",
        hint="make tensors of arrays first, with twofold.tensor(...)",
    )


def _types(tensors: Iterable[Tensor]) -> list[TensorType]:
    return [t.type_ for t in tensors]


Typed = tuple[Structure, list[TensorType]]


# --- tracing a function into a graph of its own -------------------------------------------------


class Body:
    """A function traced into a graph, whose inputs are the given tensors and then `captured`."""

    __slots__ = ("captured", "graph", "num_given", "structure")

    def __init__(self, graph: Graph, num_given: int, captured: list[Tensor], structure: Any):
        self.graph = graph
        self.num_given = num_given
        self.captured = captured
        self.structure = structure

    @property
    def typed(self) -> Typed:
        return self.structure, [v.type for v in self.graph.outputs]

    def take_captured(self, union: Sequence[Tensor]) -> None:
        """Give the graph one input for every tensor of `union`, in this order."""
        own = {id(t): v for t, v in zip(self.captured, self.graph.inputs[self.num_given :], strict=True)}
        del self.graph.inputs[self.num_given :]
        for t in union:
            value = own.get(id(t))
            if value is None:
                self.graph.add_input(t.type_, getattr(t, "name", None))
            else:
                value.index = len(self.graph.inputs)
                self.graph.inputs.append(value)
        self.captured = list(union)


def _trace_body(
    what: str,
    fn: Callable[..., Any],
    given: Sequence[Tensor],
    types: Sequence[TensorType],
    args: Callable[[list[Tensor]], Any],
) -> Body:
    """Trace `fn(*args(handles))`, with a handle for every tensor of `given` but of these `types`."""
    tracer = Tracer(getattr(fn, "__name__", type(fn).__name__))
    handles = [wrap(tracer.graph.add_input(type)) for type in types]
    for handle, t in zip(handles, given, strict=True):
        handle.requires_grad = t.requires_grad
    starts = [h._value for h in handles]
    with tracer:
        tensors, structure = _flatten(fn(*args(handles)), f"the result of {what}")
        outputs = [tracer.value_of(t) for t in tensors]
    _check_pure(what, tracer, handles, starts)
    tracer.graph.set_outputs(outputs)
    return Body(tracer.graph, len(handles), [root.handle for root in tracer.roots.values()], structure)


def _check_pure(what: str, tracer: Tracer, handles: list[Tensor], starts: list[Value]) -> None:
    """Refuse writes to tensors from outside: they would be lost, or made though the branch did not run."""
    for root in tracer.roots.values():
        if root.handle.grad is not root.grad:
            root.handle.grad = root.grad
            _refuse(what, f"accumulates into .grad of a tensor of type {root.handle.type_}")
        if root.written:
            _refuse(what, f"writes to a tensor of type {root.handle.type_} from outside")
    for handle, start in zip(handles, starts, strict=True):
        if handle._value is not start:
            _refuse(what, f"writes to its argument of type {handle.type_}")


def _refuse(what: str, does: str) -> None:
    raise TraceError(
        f"{what} {does}, which can't be traced",
        op=what.split()[-1],
        hint="return the new value instead of writing it (random draws write to their generator, too)",
    )


def _union(bodies: Iterable[Body]) -> list[Tensor]:
    """The tensors that any of the functions uses; each of them then takes all."""
    union = list({id(t): t for body in bodies for t in body.captured}.values())
    for body in bodies:
        body.take_captured(union)
    return union


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
        tensors, structure = _flatten((true_fn if pred else false_fn)(*operands), "the result of a branch of cond")
        return structure.build(tensors)
    leaves, tree = flatten(operands)
    given = [t for t in leaves if isinstance(t, Tensor)]

    def args(handles: list[Tensor]) -> Any:
        rest = iter(handles)
        return tree.unflatten([next(rest) if isinstance(t, Tensor) else t for t in leaves])

    yes, no = (
        _trace_body(f"a branch {fn.__name__!r} of cond" if hasattr(fn, "__name__") else "a branch of cond",
                    fn, given, _types(given), args)
        for fn in (true_fn, false_fn)
    )  # fmt: skip
    _check_same("cond", "the branches differ: the true one gives {}, the false one {}", yes.typed, no.typed)
    captured = _union([yes, no])
    pred = _traced_predicate("cond", pred)
    outs = control.cond(pred, *given, *captured, true_graph=yes.graph, false_graph=no.graph)
    return yes.structure.build(outs)


# --- while_loop ---------------------------------------------------------------------------------


def while_loop(cond_fn: Callable[[Any], Any], body_fn: Callable[[Any], Any], init: Any) -> Any:
    """Apply `body_fn` to a value, which begins as `init`, while `cond_fn(value)` is true.

    Has no derivative in reverse when traced, for its number of steps is not known; `scan` has.

    Args:
        cond_fn: gives a tensor of one element.
        body_fn: gives a value of the same types and nesting as its argument.
        init: tensors and numbers in any nesting.

    Raises: ShapeError or DTypeError if the value changes its types; while tracing, TraceError if a
        function writes to a tensor that it did not make.

    >>> import twofold as tw
    >>> tw.while_loop(lambda v: v[0] < 5, lambda v: (v[0] + 1, v[1] * 2), (tw.tensor(0), tw.tensor(1.0)))
    (tensor(5), tensor(32.))
    """
    tensors, structure = _flatten(init, "init of while_loop")
    if mode.tracer is None:
        while _predicate("while_loop", cond_fn(structure.build(tensors))):
            tensors = _next_carry("while_loop", body_fn(structure.build(tensors)), tensors, structure)
        return structure.build(tensors)

    def args(handles: list[Tensor]) -> Any:
        return (structure.build(handles),)

    def predicate(value: Any) -> Tensor:
        return _traced_predicate("while_loop", cond_fn(value))

    test = _trace_body("the condition of while_loop", predicate, tensors, _types(tensors), args)
    body = _trace_body("the body of while_loop", body_fn, tensors, _types(tensors), args)
    _check_same("while_loop", _CARRY, (structure, _types(tensors)), body.typed)
    captured = _union([test, body])
    outs = control.while_loop(
        *tensors, *captured, cond_graph=test.graph, body_graph=body.graph, num_carry=len(tensors)
    )
    return structure.build(outs)


def _next_carry(op: str, value: Any, before: list[Tensor], structure: Structure) -> list[Tensor]:
    tensors, now = _flatten(value, f"the carry of {op}")
    _check_same(op, _CARRY, (structure, _types(before)), (now, _types(tensors)))
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
    carry, structure = _flatten(init, "init of scan")
    x_tensors, x_structure = _flatten(xs, "xs of scan")
    length = _length(x_tensors, length)
    if mode.tracer is None and length > 0:
        return _eager_scan(f, carry, structure, x_tensors, x_structure, length, reverse)
    num_carry = len(carry)

    def args(handles: list[Tensor]) -> Any:
        return structure.build(handles[:num_carry]), x_structure.build(handles[num_carry:])

    types = _types(carry) + [TensorType(x.shape[1:], x.dtype) for x in x_tensors]
    given = [*carry, *x_tensors]
    body = _trace_body("the body of scan", _pair(f), given, types, args)
    carry_structure, y_structure = _split_pair(body.structure)
    num_back = sum(s is _TENSOR for s in carry_structure.statics)
    _check_same("scan", _CARRY, (structure, _types(carry)), (carry_structure, body.typed[1][:num_back]))
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
        ys, now = _flatten(y, "a result of scan")
        y_structure = y_structure or now
        results.append(ys)
        first = (y_structure, _types(results[0]))
        _check_same("scan", "the results of steps differ: first {}, then {}", first, (now, _types(ys)))
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
