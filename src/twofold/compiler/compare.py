"""compare: run a function eagerly, on the reference and compiled, and find the first operation that differs.

Note [Rounding]
Another order of additions is no mistake, but small errors may grow: where large numbers cancel, or
where Adam divides a gradient by its own size. So the reference runs again on inputs that are disturbed
in the last place, and ten times the change that this makes is allowed.
"""

from __future__ import annotations

import difflib
import itertools
import warnings
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from ..autodiff.handle import Tensor, mode, storage_of
from ..backends.cpu.program import Program
from ..ir import config, primitive
from ..ir.dtypes import FROM_NUMPY
from ..ir.errors import Location, TwofoldWarning, user_location
from ..ir.evaluate import evaluate
from ..ir.graph import Graph, Node, Value
from ..ir.rewrite import Rewriter
from ..ir.text import scope_path
from ..ir.tree import flatten
from .anomaly import has_nan
from .compile import Compiled
from .pipeline import run_passes
from .run import trace
from .trace import Trace

Array = np.ndarray[Any, Any]
WAYS = ("reference", "compiled")

# Of the largest number in a tensor: what another order of additions makes of a few layers.
TOLERANCE = {
    "float64": 1e-9, "complex128": 1e-9, "float32": 1e-4, "complex64": 1e-4, "float16": 2e-2, "bfloat16": 0.1
}  # fmt: skip


@dataclass(frozen=True)
class Difference:
    """An operation whose results are not the same in two ways of running it.

    Attributes:
        ways: the two, of "eager", "reference" and "compiled".
        op: the operation's name.
        location: the user's line, or None.
        scope: layers and composites around it, "Sequential.Linear.linear".
        shape: of the result.
        max_error: the largest absolute difference; infinite where only one has a NaN.
        detail: more about it.
    """

    ways: tuple[str, str]
    op: str
    location: Location | None
    scope: str
    shape: tuple[int, ...]
    max_error: float
    detail: str = ""

    def __str__(self) -> str:
        text = f"{self.ways[0]} and {self.ways[1]} differ first in {self.op!r}, shape {self.shape}"
        text += f": by at most {self.max_error:.3g}"
        text += f"\n  layer: {self.scope}" if self.scope else ""
        text += f"\n  at: {self.location}" if self.location is not None else ""
        return text + (f"\n  {self.detail}" if self.detail else "")


@dataclass
class Comparison:
    """What `compare` found; true if nothing differs.

    Attributes:
        num_operations: how many were compared.
        differences: at most one for each two ways.
        max_errors: the largest difference of results and state, by the two ways.
    """

    num_operations: int
    differences: list[Difference] = field(default_factory=list)
    max_errors: dict[tuple[str, str], float] = field(default_factory=dict)

    @property
    def first(self) -> Difference | None:
        """The first difference, or None."""
        return self.differences[0] if self.differences else None

    def __bool__(self) -> bool:
        return not self.differences

    def __str__(self) -> str:
        if self.differences:
            return "\n".join(map(str, self.differences))
        errors = ", ".join(f"{a} and {b} by {e:.3g}" for (a, b), e in self.max_errors.items())
        return f"{self.num_operations} operations agree; results and state differ at most: {errors}"


def compare(fn: Callable[..., Any], *args: Any, tolerance: float | None = None, **kwargs: Any) -> Comparison:
    """Run `fn(*args)` eagerly, on the reference and compiled, and name the first operation that differs.

    All start from the same state (parameters, gradients, random numbers), which is as before
    afterwards; a whole training step can be compared. If eager and reference differ, the trace is
    wrong; if reference and compiled differ, a pass or a kernel is.

    Args:
        tolerance: largest difference that is none, as a part of the largest number in a tensor;
            by default what rounding explains: 1e-4 for float32, 1e-9 for float64. More is allowed
            where a disturbance in the last place of the inputs makes more. Integers must be equal.

    Returns a Comparison: true if all agree; print it.

    Raises: TraceError if the function can't be traced.

    >>> import twofold as tw
    >>> result = tw.debug.compare(lambda x: (x.exp() + 1).log().sum(), tw.ones(3))
    >>> bool(result), result.num_operations
    (True, 4)
    """
    if isinstance(fn, Compiled):
        fn = fn.fn
    traced = trace(fn, *args, **kwargs)
    tensors = [x for x in flatten((args, kwargs))[0] if isinstance(x, Tensor)]
    state = _State(traced, tensors)
    arrays = [t._value.copy() for t in tensors] + [slot.read().copy() for slot in traced.state]
    recorder = _Recorder()

    def end(run: Callable[..., Any], disturb: bool = False) -> list[Array | None]:
        with state:
            if disturb:
                state.disturb()
            found = [r for r in flatten(run(*args, **kwargs))[0] if isinstance(r, Tensor)]
            return [r.numpy(force=True).copy() for r in found] + state.now()

    with warnings.catch_warnings():
        warnings.simplefilter("ignore", TwofoldWarning)
        ends = {"eager": end(recorder.wrap(fn)), "reference": end(traced), "compiled": end(Compiled(fn))}
        disturbed = end(traced, disturb=True)
    comparison = Comparison(len(traced.graph.nodes))
    differs: dict[tuple[str, str], bool] = {}
    for a, b in itertools.pairwise(ends):
        errors = [_error(x, y) for x, y in zip(ends[a], ends[b], strict=True)]
        comparison.max_errors[a, b] = max(errors, default=0.0)
        slack = [_error(x, y) for x, y in zip(ends["reference"], disturbed, strict=True)]
        triples = zip(ends[a], ends[b], slack, strict=True)
        differs[a, b] = any(not _close(x, y, tolerance, e) for x, y, e in triples)
    reference = _Reference(traced.graph, arrays, tolerance)
    found_eager = reference.first_eager(recorder.records)
    if found_eager is None and differs["eager", "reference"]:
        found_eager = _unknown(("eager", "reference"), comparison, "a result, or what is written to state")
    found_compiled = reference.first_compiled()
    if found_compiled is None and differs["reference", "compiled"]:
        found_compiled = _unknown(("reference", "compiled"), comparison, "the program as a whole, with its updates")
    comparison.differences = [d for d in (found_eager, found_compiled) if d is not None]
    return comparison


def _unknown(ways: tuple[str, str], comparison: Comparison, what: str) -> Difference:
    return Difference(ways, what, None, "", (), comparison.max_errors[ways], "every operation agrees by itself")


# --- state ----------------------------------------------------------------------------------------


class _State:
    """The tensors that a trace and its arguments touch; a `with` block puts them back at its end."""

    def __init__(self, traced: Trace, tensors: Sequence[Tensor]):
        slots = [*traced.state, *(u for u in traced.updates if not isinstance(u, int)), *traced.cleared]
        inside = [slot.handle for slot in slots if isinstance(slot.handle._value, np.ndarray)]
        self.handles = list({id(t): t for t in [*tensors, *inside]}.values())

    def now(self) -> list[Array | None]:
        """Copies of all values and gradients."""
        grads = [t._grad for t in self.handles]
        return [t._value.copy() for t in self.handles] + [None if g is None else g._value.copy() for g in grads]

    def disturb(self) -> None:
        """Move all floating numbers a little; see Note [Rounding]."""
        for t in self.handles:
            if t._value.flags.writeable:
                np.copyto(t._value, _disturbed(t._value))

    def __enter__(self) -> None:
        self.before = [(t, t._value, t._value.copy(), t._grad, t._requires_grad) for t in self.handles]
        self.grads = [(g, g._value.copy()) for _, _, _, g, _ in self.before if g is not None]

    def __exit__(self, *exc: Any) -> None:
        for t, array, copy, grad, flag in self.before:
            if array.flags.writeable:
                np.copyto(array, copy)
            t._value, t._grad, t._requires_grad = array, grad, flag
            storage_of(t).version += 1
        for grad, copy in self.grads:
            np.copyto(grad._value, copy)


# --- what eager code does -------------------------------------------------------------------------


@dataclass
class _Record:
    op: str
    location: Location | None
    outputs: list[Array]


class _Recorder:
    """Notes every operation that a function runs."""

    def __init__(self) -> None:
        self.records: list[_Record] = []

    def wrap(self, fn: Callable[..., Any]) -> Callable[..., Any]:
        """The function, with notes taken while it runs."""

        def run(*args: Any, **kwargs: Any) -> Any:
            bind = primitive._dispatch
            primitive.install_dispatch(lambda p, inputs, params: self._note(bind, p, inputs, params))
            try:
                with config.EAGER_COMPOSITES.set(False):  # each operation passes here
                    return fn(*args, **kwargs)
            finally:
                primitive.install_dispatch(bind)

        return run

    def _note(self, bind: Any, p: Any, inputs: Any, params: Any) -> Any:
        out = bind(p, inputs, params)
        if mode.tracer is None:
            outs = out if p.multiple else (out,)
            self.records.append(_Record(p.name, user_location(), [t._value.copy() for t in outs]))
        return out


# --- the reference ----------------------------------------------------------------------------------


class _Reference:
    """Every value of a graph, and how far rounding may carry it."""

    def __init__(self, graph: Graph, arrays: Sequence[Array], tolerance: float | None):
        self.graph, self.arrays, self.tolerance = graph, arrays, tolerance
        self.values = _values(graph, arrays)
        other = _values(graph, [_disturbed(a) for a in arrays])
        self.slack = {v: _error(array, other[v]) for v, array in self.values.items()}

    def first_eager(self, records: Sequence[_Record]) -> Difference | None:
        """The first operation whose eager result is another. Operations are matched by name and types."""

        def key(op: str, outputs: Sequence[Any]) -> Any:
            return op, tuple([(tuple(o.shape), FROM_NUMPY.get(o.dtype, o.dtype)) for o in outputs])

        eager = [key(r.op, r.outputs) for r in records]
        traced = [key(n.prim.name, n.outputs) for n in self.graph.nodes]
        for match in difflib.SequenceMatcher(None, eager, traced, autojunk=False).get_matching_blocks():
            for i in range(match.size):
                node = self.graph.nodes[match.b + i]
                for array, value in zip(records[match.a + i].outputs, node.outputs, strict=True):
                    if not self._agrees(value, array):
                        return _difference(("eager", "reference"), node, _error(array, self.values[value]))
        return None

    def first_compiled(self) -> Difference | None:
        """The first node whose compiled result is another.

        First each node by itself: a program with every value as a result, and the reference on that
        program's own values. As this keeps kernels from being fused, then fused, with the graph cut
        after ever fewer nodes.
        """
        found = self._first_alone()
        if found is not None:
            return found
        low, high = 0, len(self.graph.nodes)  # a cut after `high` nodes shows a difference, if there is any
        wrong = self._wrong(self._alive(high))
        if not wrong:
            return None
        while high - low > 1:
            middle = (low + high) // 2
            found_here = self._wrong(self._alive(middle))
            if found_here:
                high, wrong = middle, found_here
            else:
                low = middle
        value, error = wrong[0]
        return _difference(WAYS, value.node, error, "only when it is fused with the operations around it")

    def _first_alone(self) -> Difference | None:
        everything = [v for node in self.graph.nodes for v in node.outputs]
        got: dict[Value, Array] = dict(self.graph.constants)
        got.update(zip(self.graph.inputs, self.arrays, strict=True))
        got.update(zip(everything, self._run(everything), strict=True))
        for node in self.graph.nodes:
            inputs = [got[v] for v in node.inputs]
            expected, other = (_outputs(node, x) for x in (inputs, [_disturbed(x) for x in inputs]))
            for value, a, b in zip(node.outputs, expected, other, strict=True):
                if not _close(a, got[value], self.tolerance, _error(a, b)):
                    return _difference(WAYS, node, _error(a, got[value]))
        return None

    def _alive(self, count: int) -> list[Value]:
        """Values of the first `count` nodes that later nodes or the results need, the last ones first."""
        nodes = self.graph.nodes
        needed = {v for node in nodes[count:] for v in node.inputs} | set(self.graph.outputs)
        return [v for node in reversed(nodes[:count]) for v in node.outputs if v in needed]

    def _wrong(self, outputs: list[Value]) -> list[tuple[Value, float]]:
        """Of the outputs those that a program gets wrong."""
        pairs = zip(outputs, self._run(outputs), strict=True)
        return [(v, _error(self.values[v], array)) for v, array in pairs if not self._agrees(v, array)]

    def _run(self, outputs: list[Value]) -> list[Any]:
        """Compile the graph with other results, and run it."""
        rewriter = Rewriter(self.graph)
        part = rewriter.run(lambda node: False)
        part.set_outputs([rewriter[v] for v in outputs])
        return Program(run_passes(part)[0])([a.copy() for a in self.arrays])

    def _agrees(self, value: Value, array: Array) -> bool:
        return _close(self.values[value], array, self.tolerance, self.slack[value])


def _outputs(node: Node, inputs: list[Array]) -> tuple[Array, ...]:
    result = evaluate(node.prim, inputs, node.params)
    return result if node.prim.multiple else (result,)


def _values(graph: Graph, arrays: Sequence[Array]) -> dict[Value, Array]:
    values: dict[Value, Array] = dict(graph.constants)
    values.update(zip(graph.inputs, arrays, strict=True))
    for node in graph.nodes:
        values.update(zip(node.outputs, _outputs(node, [values[v] for v in node.inputs]), strict=True))
    return values


def _difference(ways: tuple[str, str], node: Node | None, error: float, detail: str = "") -> Difference:
    assert node is not None
    shape = node.outputs[0].shape
    return Difference(ways, node.prim.name, node.location, scope_path(node.scope), shape, error, detail)


# --- numbers ----------------------------------------------------------------------------------------


def _wide(array: Array) -> Array:
    return np.asarray(array, np.complex128 if array.dtype.kind == "c" else np.float64)


def _error(a: Array | None, b: Array | None) -> float:
    """The largest absolute difference; infinite where a NaN or an infinity is on one side only."""
    if a is None or b is None or a.shape != b.shape:
        return 0.0 if a is None and b is None else float("inf")
    x, y = _wide(a), _wide(b)
    with np.errstate(all="ignore"):
        error = np.where((x == y) | (np.isnan(x) & np.isnan(y)), 0, np.abs(x - y))
    return float("inf") if np.isnan(error).any() else float(error.max(initial=0))


def _disturbed(array: Array) -> Array:
    """Floating numbers moved by up to two units in their last place."""
    name = FROM_NUMPY[array.dtype].name
    if name not in TOLERANCE:
        return array
    part = {"float16": 2.0**-10, "bfloat16": 2.0**-7, "float32": 2.0**-22, "complex64": 2.0**-22}.get(
        name, 2.0**-51
    )
    noise = np.random.default_rng(0).uniform(-part, part, array.shape)
    with np.errstate(all="ignore"):
        return (_wide(array) * (1 + noise)).astype(array.dtype)


def _close(a: Array | None, b: Array | None, tolerance: float | None, slack: float = 0.0) -> bool:
    """Whether two arrays are the same but for rounding, and ten times `slack`."""
    error = _error(a, b)
    if error == 0 or a is None or b is None:
        return error == 0
    name = FROM_NUMPY[a.dtype].name
    if name not in TOLERANCE:
        return error <= slack  # integers: only where rounding decides, as in argmax
    if has_nan(a) is not has_nan(b):
        return False
    sizes = np.abs(_wide(a))
    size = float(sizes[np.isfinite(sizes)].max(initial=0))
    return error <= (TOLERANCE[name] if tolerance is None else tolerance) * size + 10 * slack
