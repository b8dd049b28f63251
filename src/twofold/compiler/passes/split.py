"""split: complex numbers as pairs of real ones, which kernels know.

What computes with complex values becomes real operations on their parts, as parts.py has it; what only moves them
does so once for each part, if they are in parts already. Inputs are taken apart, and results put together, where
they are needed.
"""

from __future__ import annotations

from typing import Any

import numpy as np

from ...ir.dtypes import DType
from ...ir.graph import Graph, Node, Value
from ...ir.primitive import PRIMITIVES
from ...ir.rewrite import Rewriter
from ...ir.types import Shape
from .parts import RULES, Part


def split(graph: Graph) -> Graph:
    """See the head of this file."""
    if not any(v.dtype.is_complex for n in graph.nodes for v in (*n.inputs, *n.outputs)):
        return graph
    return _Split(graph).run_all()


class _Real(Part):
    """The parts are values of the new graph."""

    __slots__ = ("s", "value")

    def __init__(self, s: _Split, value: Value):
        self.s, self.value = s, value

    @property
    def dtype(self) -> DType:
        return self.value.dtype

    @property
    def shape(self) -> Shape:
        return self.value.shape

    def apply(self, name: str, *others: Any, **params: Any) -> _Real:
        inputs = [self.value, *(self._value(o) for o in others)]
        return _Real(self.s, self.s.add(PRIMITIVES[name], inputs, **params))

    def _value(self, other: Any) -> Value:
        return other.value if isinstance(other, _Real) else self.s.graph.constant(other, self.value.dtype)

    def number(self, value: float) -> _Real:
        return _Real(self.s, self._value(value))


class _Split(Rewriter):
    """Every old complex value has a new one, a pair of parts, or both."""

    def __init__(self, source: Graph):
        super().__init__(source)
        self.pairs: dict[Value, tuple[Value, Value]] = {}

    def run_all(self) -> Graph:
        return self.run(self._visit)

    def __getitem__(self, value: Value) -> Value:
        if value not in self.values and value in self.pairs:
            self.values[value] = self.add(PRIMITIVES["complex"], self.pairs[value])
        return super().__getitem__(value)

    def pair(self, value: Value) -> tuple[Value, Value]:
        """The parts of a complex value."""
        if value not in self.pairs:
            if value in self.source.constants:
                array = self.source.constants[value]
                parts = [
                    self.graph.constant(np.ascontiguousarray(p).reshape(array.shape))
                    for p in (array.real, array.imag)
                ]
            else:
                parts = [self.add(PRIMITIVES[name], [self[value]]) for name in ("real", "imag")]
            self.pairs[value] = (parts[0], parts[1])
        return self.pairs[value]

    def parts(self, value: Value) -> tuple[_Real, _Real]:
        a, b = self.pair(value)
        return _Real(self, a), _Real(self, b)

    def _visit(self, node: Node) -> bool:
        name = node.prim.name
        if not any(v.dtype.is_complex for v in (*node.inputs, *node.outputs)):
            return False
        if name in ("real", "imag"):
            if node.inputs[0] not in self.pairs:
                return False
            self.values[node.outputs[0]] = self.pairs[node.inputs[0]][name == "imag"]
            return True
        if name == "complex":
            self.pairs[node.outputs[0]] = (self[node.inputs[0]], self[node.inputs[1]])
            return self._expanded(node)
        if name in _MOVED:
            return self._moved(node)
        if name in _FILLS:
            return self._fill(node)
        if name == "cast":
            return self._cast(node)
        if name in RULES:
            return self._rule(node)
        return False

    def _set(self, out: Value, pair: tuple[Part, Part]) -> None:
        dtype = out.dtype.to_real()
        self.pairs[out] = (_value(pair[0].to(dtype)), _value(pair[1].to(dtype)))

    def _expanded(self, node: Node) -> bool:
        """Parts that broadcast get the shape of the whole."""
        out = node.outputs[0]
        a, b = (
            v if v.shape == out.shape else self.add(PRIMITIVES["expand"], [v], shape=out.shape)
            for v in self.pairs[out]
        )
        self.pairs[out] = (a, b)
        return True

    def _moved(self, node: Node) -> bool:
        """The same for each part; what is in one piece stays so."""
        if not any(v in self.pairs for v in node.inputs):
            return False
        sides = [[self.pair(v)[i] if v.dtype.is_complex else self[v] for v in node.inputs] for i in (0, 1)]
        a, b = (self.add(node.prim, side, **node.params) for side in sides)
        self.pairs[node.outputs[0]] = (a, b)
        return True

    def _fill(self, node: Node) -> bool:
        out, params = node.outputs[0], dict(node.params)
        value = complex(params.pop("value"))
        if "dtype" in params:
            params["dtype"] = out.dtype.to_real()
        sides = [self.pair(v) for v in node.inputs]
        a, b = (
            self.add(node.prim, [s[i] for s in sides], value=part, **params)
            for i, part in enumerate((value.real, value.imag))
        )
        self.pairs[out] = (a, b)
        return True

    def _cast(self, node: Node) -> bool:
        source, out = node.inputs[0], node.outputs[0]
        if not source.dtype.is_complex:
            x = _value(_Real(self, self[source]).to(out.dtype.to_real()))
            self.pairs[out] = (x, self._zeros(x))
        elif out.dtype.is_complex:
            self._set(out, self.parts(source))
        elif out.dtype.kind == "bool":
            a, b = self.parts(source)
            self.values[out] = a.apply("ne", 0).apply("bitwise_or", b.apply("ne", 0)).value
        else:
            self.values[out] = _value(self.parts(source)[0].to(out.dtype))
        return True

    def _zeros(self, like: Value) -> Value:
        zero = self.graph.constant(0, like.dtype)
        return self.add(PRIMITIVES["expand"], [zero], shape=like.shape) if like.ndim else zero

    def _rule(self, node: Node) -> bool:
        out = node.outputs[0]
        operands = [self.parts(v) if v.dtype.is_complex else _Real(self, self[v]) for v in node.inputs]
        result = RULES[node.prim.name](operands, node.params, out.dtype)
        if isinstance(result, tuple):
            self._set(out, result)
        else:
            self.values[out] = result.value
        return True


def _value(part: Part) -> Value:
    assert isinstance(part, _Real)
    return part.value


_MOVED = frozenset((
    "reshape", "permute", "expand", "slice", "flip", "diagonal", "as_strided", "concat", "copy", "stop_gradient",
    "update_slice", "update_diagonal", "update_as_strided", "gather", "scatter", "index",
))  # fmt: skip
_FILLS = frozenset(("full", "pad"))
