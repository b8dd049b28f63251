"""The tape: nodes that remember an operation and can give the gradients of its inputs."""

from __future__ import annotations

import itertools
import math
from collections.abc import Sequence
from typing import Any

import numpy as np

from ..ir.dtypes import FROM_NUMPY
from ..ir.errors import AutogradError, Location, user_location
from ..ir.primitive import PRIMITIVES, Primitive
from ..ir.types import TensorType
from .handle import Tensor, mode, wrap
from .patches import Patch

_numbers = itertools.count(1)

# Set by detect_anomaly: remember where each node was made; stop backward at the first NaN.
keep_locations = False
check_nan = False


def require_no_nan(node: Any, grads: Sequence[Any]) -> None:
    """Raise AutogradError if a derivative has a NaN."""
    for i, g in enumerate(grads):
        if g is not None and isinstance(g._value, np.ndarray) and np.isnan(g._value).any():
            raise AutogradError(
                f"the derivative of {node.name!r} gave NaN for its input {i} of shape {g.shape}"
                + (f"\n  used at: {node.location}" if node.location else ""),
                op="backward",
                hint="look at the values that go into it: sqrt and pow have no finite derivative at 0, "
                "log and division none beyond it; clamp() them, or add a small eps",
            )


class Place(Location):
    """A line of the user's program, and the layers around it while tracing: see `ir.text.Scope`."""

    scope: Any = ()


def _here() -> Location | None:
    location = user_location(3)
    if location is None or mode.tracer is None:
        return location
    place = Place(*location)
    place.scope = tuple(mode.tracer.scopes)
    return place


class Node:
    """One recorded operation: what its derivative rules need, and where its inputs came from.

    `edges[i]` is None (no gradient wanted), `(leaf tensor, 0)` or `(node, output number)`.
    """

    __slots__ = (
        "__weakref__",
        "edges",
        "hooks",
        "inputs",
        "location",
        "number",
        "outputs",
        "params",
        "prim",
        "retained",
        "spent",
        "types",
        "versions",
    )  # fmt: skip

    def __init__(
        self,
        prim: Primitive,
        params: Any,
        edges: list[Any],
        inputs: list[Any],
        versions: Sequence[tuple[Tensor, int]],
        types: list[Any],
        outputs: list[Any] | None = None,
    ):
        self.number = next(_numbers)
        self.spent = False  # backward has passed without retain_graph
        self.prim = prim
        self.params = params
        self.edges = edges
        self.inputs: list[Any] | None = inputs  # tensors, numbers, or (shape, dtype) of tensors that nobody needs
        self.versions = versions  # of the tensors among them
        self.outputs: Any = outputs  # [(value, storage, version)] where a rule needs them
        self.types: Any = types  # [(shape, dtype)] of the outputs
        self.hooks: Any = None
        self.retained: Any = None
        self.location = _here() if keep_locations else None

    @property
    def name(self) -> str:
        return self.prim.name

    def next_nodes(self) -> list[Any]:
        """The nodes and leaves that its inputs came from."""
        return [edge[0] for edge in self.edges if edge is not None]

    def backward(self, grads: list[Any]) -> Sequence[Any]:
        """Gradients of the inputs from those of the outputs (a list, None where unused)."""
        p = self.prim
        inputs = self._unpack_inputs()
        if p.multiple:
            y: Any = self._unpack_outputs()
            zeros = _row_of_zeros if p.name in _READERS else _zeros_like_type
            g: Any = tuple([zeros(t) if g is None else g for g, t in zip(grads, self.types, strict=True)])
        else:
            y = _type(self.types[0]) if self.outputs is None else self._unpack_outputs()[0]
            g = grads[0]
        conjugated = p.holomorphic and self._is_complex()
        if conjugated:
            g = tuple([_conj(t) for t in g]) if p.multiple else _conj(g)
        edges, params = self.edges, self.params
        if p.rules is None:
            results = list(p.rule_all(g, y, *inputs, **params))  # type: ignore[misc]
        else:
            results = []
            for i, rule in enumerate(p.rules):
                if rule is None or edges[i] is None:
                    results.append(None)
                else:
                    results.append(rule.fn(g, y, *inputs, **params) if params else rule.fn(g, y, *inputs))
        if conjugated:
            results = [None if r is None or e is None else _conj(r) for r, e in zip(results, edges, strict=True)]
        return results

    def _is_complex(self) -> bool:
        for _, dtype in self.types:  # noqa: SIM110  (a generator costs several times the loop)
            if dtype.kind in _COMPLEX_KINDS:
                return True
        return False

    def _unpack_inputs(self) -> list[Any]:
        if self.inputs is None:
            raise used_up(self.name)
        for t, version in self.versions:
            storage = t._storage
            if storage is not None and storage.version != version:
                raise changed(self.name, t._value.shape, t._version - version, self.location)
        return [_type(x) if x.__class__ is tuple else _at(x, self.number) for x in self.inputs]

    def _unpack_outputs(self) -> list[Any]:
        if self.outputs is None:
            return [_type(t) for t in self.types]
        ys = []
        for i, (value, storage, version) in enumerate(self.outputs):
            if storage.version != version:
                raise changed(self.name, value.shape, storage.version - version, self.location)
            y = wrap(value)
            y._storage = storage
            y._value_version = version
            y._requires_grad, y._node, y._index = True, self, i
            ys.append(y)
        return ys

    def release(self) -> None:
        """Free what was saved; a node that saved nothing can run again."""
        self.spent = True
        if self.versions or self.outputs:
            self.inputs = self.outputs = None
            self.versions = ()

    def __repr__(self) -> str:
        return f"<{self.name} backward>"


class ViewNode(Node):
    """View operations of one tensor, one after the other: their rules need types only.

    `prim` is the last operation, `params` are all of them: ((primitive, params), ...).
    """

    __slots__ = ()

    def backward(self, grads: list[Any]) -> Sequence[Any]:
        steps: Any = self.params
        g, kinds = grads[0], self._unpack_inputs()
        for p, params in steps[:-1]:
            kinds.append(p.type_rule(kinds[-1], **params))
        kinds.append(_type(self.types[0]))
        for p, params in reversed(steps[1:]):
            g = p.rules[0].fn(g, kinds.pop(), kinds[-1], **params)
        p, params = steps[0]
        if p.name == "slice" and params["step"].count(1) == g.ndim and 0 not in g.shape:
            return [g if g.shape == kinds[0].shape else Patch(g, params["start"], kinds[0])]
        return [p.rules[0].fn(g, kinds[1], kinds[0], **params)]


def _at(x: Any, number: int) -> Any:
    """The input `x` of node `number` as it was then: its shape may have changed in place since."""
    if isinstance(x, Tensor) and x._earlier:
        for changed_at, before in x._earlier:
            if changed_at > number:
                return before
    return x


def used_up(name: str) -> AutogradError:
    """The error of a node that runs again after it freed what it had saved."""
    return AutogradError(
        "backward was called a second time, and what the first one needed is freed",
        op=name,
        hint="pass retain_graph=True to the first backward(), or run the forward pass again",
    )


def changed(name: str, shape: Any, times: int, location: Any) -> AutogradError:
    """The error of a saved tensor that was written after it was saved."""
    return AutogradError(
        f"a tensor of shape {tuple(shape)} that the derivative of {name!r} needs was changed in "
        f"place {times} time{'s' if times != 1 else ''} after {name!r} used it"
        + (f"\n  used at: {location}" if location else ""),
        op="backward",
        hint="use the out-of-place form (x = x + 1 instead of x += 1), or clone() before changing it"
        + ("" if location else "; twofold.debug.detect_anomaly() shows the line that used it"),
    )


_COMPLEX_KINDS = frozenset(("c", "complex"))  # NumPy's letter, and our name while tracing


def _conj(t: Any) -> Any:
    return PRIMITIVES["conj"](t) if t.dtype.is_complex else t


def _type(t: Any) -> TensorType:
    shape, dtype = t
    return TensorType(shape, FROM_NUMPY.get(dtype, dtype))


# Their derivatives read gradients once and hand none of them on.
_READERS = frozenset(("lstm", "gru"))
_MANY = 1 << 14  # elements that are worth a step more


def _row_of_zeros(t: Any) -> Tensor:
    """Zeros to be read: one row in the place of all if there are many, so that it stays in the cache."""
    shape, dtype = t
    if mode.tracer is not None or math.prod(shape) < _MANY:
        return _zeros_like_type(t)
    return wrap(np.broadcast_to(np.zeros(shape[-1:], dtype), shape))


def _zeros_like_type(t: Any) -> Tensor:
    kind = _type(t)
    return PRIMITIVES["full"](shape=kind.shape, value=0, dtype=kind.dtype)
