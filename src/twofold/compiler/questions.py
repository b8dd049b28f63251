"""questions: what traced code asks for the values of tensors, and the trace that gets answers.

Note [Asking]
`if t:`, `t.item()`, `t.tolist()` and operations whose shapes depend on values need numbers that a trace does
not have. A `PathTracer` gets them from outside, from the values of this very call, and the code goes on: what
it does afterwards belongs to this answer. Nothing is written to tensors from outside meanwhile, so their arrays
still hold what the call began with, and any value of the graph can be computed from them at any time.

Note [Numbers]
What the code computes from `x.item()` comes back as numbers among the operands: `g * (1 / norm)`. Once a number
was asked for, operands are therefore noted place by place. Where they are all that differs from a program that is
there, the program is made again with these numbers as inputs.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from itertools import islice
from typing import Any

import numpy as np

from ..autodiff.handle import Tensor
from ..ir.errors import Location, user_location
from ..ir.evaluate import evaluate_eagerly
from ..ir.graph import Graph, Node, Value
from ..ir.primitive import Primitive
from ..ir.types import TensorType
from ..primitives.movement import expand, full
from .results import Asked
from .run import Run
from .tail import count_to_the_end
from .trace import Tracer

Array = np.ndarray[Any, Any]

_SMALL = 16  # elements of a list of integers that may decide between programs


class Question:
    """A place where the code asks.

    Attributes:
        why: what the code calls, such as "item()".
        values: what it asks for.
        prim, params: the operation whose result's shape is asked for; None otherwise.
        num_nodes: how many operations there were before.
        met: what of the world they had used.
        numeric: the answer is one of too many numbers to have a program for each.
    """

    def __init__(self, why: str, values: Sequence[Value], prim: Primitive | None, params: Any, tracer: Tracer):
        self.why, self.values = why, tuple(values)
        self.prim, self.params = prim, params
        self.num_nodes, self.met = len(tracer.graph.nodes), tracer.met()
        self.location: Location | None = user_location()
        self.is_returned = False  # nothing else happens to the number
        self.numeric = prim is None and _is_numeric(why, self.values[0].type)

    def key(self, arrays: Sequence[Array]) -> Any:
        """What of the answer decides; `arrays` are the values, and what `prim` made of them."""
        array = arrays[-1]
        if self.prim is not None:
            return array.shape
        if self.why == "bool()":
            return bool(array.reshape(-1)[0])
        if self.why in _REDUCED:
            return bool(array.any() if self.why == "`in`" else array.all())
        if self.why == "tolist()":
            return array.tobytes()
        number = array.reshape(-1)[0].item()
        if self.why == "int()" and isinstance(number, float) and np.isfinite(number):
            return int(number)
        return repr(number)

    def shown(self, key: Any) -> str:
        """An answer for people."""
        return "another list" if self.why == "tolist()" else str(key)

    def __str__(self) -> str:
        what = self.why if self.prim is None else f"the shape of {self.prim.name}()"
        return f"{what} of {', '.join(str(v.type) for v in self.values)}" + (
            f" at {self.location}" if self.location else ""
        )


_REDUCED = ("`in`", "allclose", "equal")
_ASKED = (
    *_REDUCED,
    "bool()",
    "int()",
    "its value as an index",
    "item()",
    "float()",
    "complex()",
    "format()",
    "tolist()",
)


def _is_numeric(why: str, type: TensorType) -> bool:
    if why in ("bool()", *_REDUCED):
        return False
    if why == "tolist()" and type.size > _SMALL:
        return True
    return type.dtype.is_differentiable and why != "int()"


class PathTracer(Tracer):
    """A tracer that answers.

    Args:
        answer: gives the arrays of a question's values, and what its operation makes of them.
    """

    asks = True

    def __init__(self, fn: Callable[..., Any], name: str):
        super().__init__(name, entries=True)
        self.fn = fn
        self.returned: list[tuple[int, int]] = []  # questions whose numbers are
        self.floats: dict[int, tuple[float, Asked]] = {}  # such numbers that are marks, by id
        self.answer: Callable[[Question], list[Array]] = _nobody
        self.num_asked = 0
        self.marks = True  # see Note [Numbers that are returned]
        self.vary = False  # numbers among the operands may come from an answer
        self.numbers: dict[Value, Array] = {}  # those since then, each place by itself

    def bind(self, p: Primitive, inputs: tuple[Any, ...], params: dict[str, Any]) -> Any:
        """As `Tracer.bind`; a result of unforeseeable shape is an input of what follows."""
        if not (p.data_dependent and self.asks):
            if self.vary and p is full:
                number = self.number(params["value"], params["dtype"])
                return self._add(expand, (number,), {"shape": params["shape"]}) if params["shape"] else number
            return super().bind(p, inputs, params)
        values = [self.value_of(t) for t in inputs]
        array = self.answer(Question(p.name, values, p, params, self))[-1]
        value = self.graph.add_input(TensorType.of(array))
        self.found.append(value)
        return value

    def single(self, t: Tensor, why: str) -> Any:
        """A number; one that is only returned is a mark, whose place in the result gets the number of each call."""
        value = self.value_of(t)
        left = None
        if self.asks and self.marks and why in ("item()", "float()") and value not in self.graph.constants:
            left = count_to_the_end(self.fn, Run.call.__code__, 2)
        if left is None:
            return self.concrete(t, why).item()
        question = Question(why, [value], None, None, self)
        question.numeric = question.is_returned = True
        number, mark = self.answer(question)[-1].item(), Asked(self.num_asked - 1)
        self.returned.append((mark.number, left))
        if why == "item()":
            return mark
        number = float(number)
        self.floats[id(number)] = number, mark
        return number

    def mark_of(self, result: Any) -> Any:
        """A leaf of the result, or the mark whose number it is."""
        known = self.floats.get(id(result))
        return result if known is None else known[1]

    def is_consistent(self, result: Any) -> bool:
        """Whether the numbers that are only returned were the last that the code asked for, and are no keys."""
        first = self.num_asked - len(self.returned)
        return self.returned == [(k, self.num_asked - k) for k in range(first, self.num_asked)] and not (
            self.returned and self._is_in_keys(result)
        )

    def _is_in_keys(self, result: Any) -> bool:
        if isinstance(result, (tuple, list)):
            return any(map(self._is_in_keys, result))
        if not isinstance(result, dict):
            return False
        return any(self.mark_of(k).__class__ is Asked for k in result) or any(
            map(self._is_in_keys, result.values())
        )

    def number(self, x: Any, dtype: Any) -> Value:
        """A Python number; see Note [Numbers]."""
        if not self.vary:
            return self.graph.constant(x, dtype)
        value = self.graph.constant(x, dtype, "number")
        self.numbers[value] = self.graph.constants[value]
        return value

    def concrete(self, t: Tensor, why: str = "its value") -> Array:
        """The value of `t` in this call, if only numbers leave, and no memory that the code could write to."""
        if why not in _ASKED or not self.asks:
            return super().concrete(t, why)
        value = self.value_of(t)
        if value in self.graph.constants:
            return self.graph.constants[value]
        return self.answer(Question(why, [value], None, None, self))[-1]


def _nobody(question: Question) -> list[Array]:
    raise AssertionError("nobody answers")


class Values:
    """The values of a traced graph in a call, computed as eager code does when they are asked for."""

    def __init__(self, tracer: Tracer, starts: Sequence[Value], arrays: Sequence[Array]):
        self.tracer = tracer
        self.known: dict[Value, Array] = dict(zip(starts, arrays, strict=True))
        self.found: list[Array] = []  # of the tracer's `found`
        self._num_roots = 0

    def __getitem__(self, value: Value) -> Array:
        if value not in self.known:
            self._find_state()
            for node in self._missing(value):
                arrays = [self._array(v) for v in node.inputs]
                out = evaluate_eagerly(node.prim, arrays, node.params)
                self.known.update(zip(node.outputs, out if node.prim.multiple else (out,), strict=True))
        return self._array(value)

    def _array(self, value: Value) -> Array:
        array = self.known.get(value)
        return self.tracer.graph.constants[value] if array is None else array

    def _find_state(self) -> None:
        for root in islice(self.tracer.roots.values(), self._num_roots, None):
            self.known[root.start] = root.handle._value
        self._num_roots = len(self.tracer.roots)
        self.known.update(zip(self.tracer.found, self.found, strict=False))

    def _missing(self, value: Value) -> list[Node]:
        """The nodes that are still to be run, in order."""
        found: set[Node] = set()
        stack = [value]
        while stack:
            v = stack.pop()
            if v.node is not None and v not in self.known and v.node not in found:
                found.add(v.node)
                stack.extend(v.node.inputs)
        return sorted(found, key=lambda node: node.number)


class Signatures:
    """What the parts of a trace are, so that those of two runs of the same code can be compared."""

    def __init__(self, tracer: PathTracer):
        self.tracer = tracer
        self._inputs: dict[Value, int] = {}
        self._num_nodes = self._num_roots = 0
        self._numbers: set[Value] = set()

    def part(self) -> tuple[Any, ...]:
        """What was traced since the last call: state that was first used, and operations."""
        tracer, graph = self.tracer, self.tracer.graph
        for value in islice(graph.inputs, len(self._inputs), None):
            self._inputs[value] = len(self._inputs)
        self._numbers.update(islice(tracer.numbers, len(self._numbers), None))
        owners = tracer.owners()
        state = []
        for key, root in islice(tracer.roots.items(), self._num_roots, None):
            owner = owners.get(key)
            state.append((self._inputs[root.start], key if owner is None else id(owner), owner is None))
        nodes = [
            (node.prim, _of_params(node.params), *[self.key(v) for v in node.inputs])
            for node in islice(graph.nodes, self._num_nodes, None)
        ]
        self._num_nodes, self._num_roots = len(graph.nodes), len(tracer.roots)
        return (len(self._inputs), tuple(state), tuple(nodes))

    def key(self, value: Value) -> Any:
        """A value's name that does not depend on the run."""
        if value.node is not None:
            return (value.node.number, value.index)
        number = self._inputs.get(value)
        if number is not None:
            return number
        if value in self._numbers:
            return value.dtype.name
        array = value.graph.constants[value]
        return (array.dtype.name, array.shape, array.tobytes())

    def keys(self, values: Iterable[Value]) -> tuple[Any, ...]:
        """The names of several."""
        return tuple([self.key(v) for v in values])


def _of_params(params: dict[str, Any]) -> tuple[Any, ...]:
    return tuple([(name, _literal(value)) for name, value in params.items()])


def _literal(value: Any) -> Any:
    """A parameter such that equal ones mean the same: 0, 0.0, -0.0 and False don't, NaN does."""
    kind = value.__class__
    if kind is int or kind is str or value is None:
        return value
    if kind is tuple:
        return tuple([_literal(v) for v in value])
    if kind is float or kind is complex or kind is bool:
        return (kind, repr(value))
    return value.fingerprint() if isinstance(value, Graph) else value
