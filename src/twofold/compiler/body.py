"""Functions traced into graphs of their own: the branches and bodies of control flow."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from typing import Any, NoReturn

from ..autodiff import tape
from ..autodiff.bind import current_node
from ..autodiff.handle import Tensor, mode, wrap
from ..ir.dtypes import scalar_dtype
from ..ir.errors import TraceError, TwofoldError
from ..ir.graph import Graph, Value
from ..ir.primitive import Primitive
from ..ir.tree import Tree, flatten
from ..ir.types import TensorType
from ..primitives.control import stop_gradient
from ..primitives.movement import full
from .trace import Tracer

TENSOR = "tensor"
_RETURN_IT = "return the new value instead of writing it; random draws write to their generator, so draw outside"


class Structure:
    """How tensors are nested in a value; None may stand among them."""

    __slots__ = ("statics", "tree")

    def __init__(self, tree: Tree, statics: tuple[Any, ...]):
        self.tree = tree
        self.statics = statics

    def build(self, tensors: Iterable[Any]) -> Any:
        """Put tensors into the nesting."""
        rest = iter(tensors)
        return self.tree.unflatten([next(rest) if s is TENSOR else s for s in self.statics])

    def __eq__(self, other: object) -> bool:
        return isinstance(other, Structure) and (self.tree, self.statics) == (other.tree, other.statics)

    def __hash__(self) -> int:
        return hash((self.tree, self.statics))

    def describe(self, types: Iterable[TensorType]) -> str:
        """The nesting with the tensors' types, for messages."""
        return str(self.build(types))


def flatten_tensors(value: Any, what: str) -> tuple[list[Tensor], Structure]:
    """The tensors in a nesting; Python numbers become tensors."""
    leaves, tree = flatten(value)
    tensors, statics = [], []
    for leaf in leaves:
        if leaf is not None:
            tensors.append(_as_tensor(leaf, what))
        statics.append(None if leaf is None else TENSOR)
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


def types_of(tensors: Iterable[Tensor]) -> list[TensorType]:
    return [t.type_ for t in tensors]


Typed = tuple[Structure, list[TensorType]]


# --- tracing a function into a graph of its own -------------------------------------------------


class BodyTracer(Tracer):
    """Traces a function whose graph may be derived later, when the tape of this run is gone.

    So what the tape would know, that no gradient flows through `detach()` and `no_grad()`, is
    written into the graph as `stop_gradient`.
    """

    def __init__(self, name: str):
        super().__init__(name)
        self.recording = mode.grad
        self.stopped: dict[Value, Value] = {}  # value -> the one that stands for it after a stop

    def bind(self, p: Primitive, inputs: tuple[Any, ...], params: dict[str, Any]) -> Any:
        result = super().bind(p, inputs, params)
        if mode.grad or not self.recording:
            return result
        return tuple(map(self._stop, result)) if p.multiple else self._stop(result)

    def value_of(self, t: Tensor) -> Value:
        value = super().value_of(t)
        detached = t._base is not None and not t._attached
        return self._stop(value) if detached and self.recording else value

    def _stop(self, value: Value) -> Value:
        if value not in self.stopped:
            node = value.node
            flows = value.dtype.is_differentiable and (
                node is None or any(v.dtype.is_differentiable and not self._is_stopped(v) for v in node.inputs)
            )
            out = self._add(stop_gradient, (value,), {}) if flows else value
            self.stopped[value] = self.stopped[out] = out
        return self.stopped[value]

    def _is_stopped(self, value: Value) -> bool:
        return self.stopped.get(value) is value or value in self.graph.constants


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


def trace_body(
    what: str,
    fn: Callable[..., Any],
    given: Sequence[Tensor],
    types: Sequence[TensorType],
    args: Callable[[list[Tensor]], Any],
) -> Body:
    """Trace `fn(*args(handles))`, with a handle for every tensor of `given` but of these `types`."""
    tracer = BodyTracer(getattr(fn, "__name__", type(fn).__name__))
    handles = [wrap(tracer.graph.add_input(type)) for type in types]
    for handle, t in zip(handles, given, strict=True):
        handle.requires_grad = t.requires_grad
    starts = [h._value for h in handles]
    first = next(tape._numbers)
    with tracer:
        tensors, structure = flatten_tensors(fn(*args(handles)), f"the result of {what}")
        outputs = [tracer.value_of(t) for t in tensors]
        _check_tape(what, tensors, handles, first)
        _check_pure(what, tracer, handles, starts)
    _tell_outer(tracer)
    tracer.graph.set_outputs(outputs)
    return Body(tracer.graph, len(handles), [root.handle for root in tracer.roots.values()], structure)


def _check_pure(what: str, tracer: Tracer, handles: list[Tensor], starts: list[Value]) -> None:
    """Refuse writes to tensors from outside: they would be lost, or made though the branch did not run."""
    for attributes in tracer.attributes:
        attributes.require_same()
    for t, before, _ in tracer.grads.values():
        local = isinstance(t._value, Value) and t._value.graph is tracer.graph
        if t._grad is not before and (not local or any(t is h for h in handles)):
            _refuse(what, f"changes .grad of a tensor of type {t.type_} from outside", "return the gradient")
    for root in tracer.roots.values():
        if root.written:
            _refuse(what, f"writes to a tensor of type {root.handle.type_} from outside", _RETURN_IT)
    for handle, start in zip(handles, starts, strict=True):
        if handle._value is not start:
            _refuse(what, f"writes to its argument of type {handle.type_}", _RETURN_IT)


def _tell_outer(tracer: Tracer) -> None:
    """What the body took for granted, the trace around it takes for granted, too."""
    outer = mode.tracer
    if outer is not None:
        for obj in tracer.objects.values():
            outer.touch(obj)
        for t, _, is_read in tracer.grads.values():
            if not isinstance(t._value, Value):
                outer.touch_grad(t, is_read=is_read)


def _check_tape(what: str, outputs: list[Tensor], handles: list[Tensor], first: int) -> None:
    """Refuse derivatives that only the tape knows, in nodes from number `first` on."""
    if any(h._hooks for h in handles):
        _refuse(what, "registers a hook on its argument")
    stack: list[Any] = [current_node(t) for t in outputs]
    seen: set[Any] = {None}
    while stack:
        node = stack.pop()
        if node in seen or isinstance(node, Tensor) or node.number < first:
            continue
        seen.add(node)
        if not isinstance(node, tape.Node):
            _refuse(what, f"uses {node.name}, an autograd.Function", "write it with tensor operations")
        if node.hooks:
            _refuse(what, f"registers a hook on the result of {node.name}")
        stack.extend(node.next_nodes())


def _refuse(what: str, does: str, hint: str = "register it outside") -> NoReturn:
    raise TraceError(f"{what} {does}, which can't be traced", op=what.split()[-1], hint=hint)


def share_captured(bodies: Iterable[Body]) -> list[Tensor]:
    """The tensors that any of the functions uses; each of them then takes all."""
    union = list({id(t): t for body in bodies for t in body.captured}.values())
    for body in bodies:
        body.take_captured(union)
    return union
