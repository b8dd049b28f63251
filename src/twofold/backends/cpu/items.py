"""items: which dimensions of a graph's values follow from the number of items in the batch, see Note [Sizes].

The types of the values get `Size`s there, which compare like the integers that they were. They flow from the
inputs through the type rules. Params are plain integers; the few primitives whose results have their shape from
these are followed by rules of their own. A dimension that is missed, or taken for one that it only equals by
chance, costs that code is not shared, and nothing else.
"""

from __future__ import annotations

import contextlib
import math
from collections.abc import Collection, Iterator, Sequence
from dataclasses import dataclass, replace
from typing import Any

from ...ir.errors import TwofoldError
from ...ir.graph import Graph, Node, Value
from ...ir.types import Shape, TensorType
from . import registers
from .sizes import Size

_PART = 4  # how much smaller a batch may be that is computed like the larger one
_MAKERS = frozenset(("full", "iota", "random_bits"))  # their shape is a param


@dataclass(frozen=True)
class Batch:
    """The inputs of a graph whose dimension 0 counts items, how many there are, and how many are planned for."""

    inputs: tuple[int, ...] = ()
    count: int = 1
    planned: int = 1

    @classmethod
    def of(cls, types: Sequence[TensorType], largest: int = 0) -> Batch:
        """The batch of a function's arguments: what has the outermost dimension of the first that has any.

        Args:
            largest: how many items the function was given before at most. For a somewhat smaller number, the last
                of a data set, the kernels stay as they are; for a far smaller one others are better.
        """
        count = next((int(t.shape[0]) for t in types if t.shape), 1)
        inputs = tuple([i for i, t in enumerate(types) if t.shape and t.shape[0] == count])
        return cls(inputs, count, largest if largest // _PART <= count <= largest else count)

    def of_inputs(self, graph: Graph) -> Batch:
        """The same for a graph of which any input may count items."""
        inputs = [i for i, v in enumerate(graph.inputs) if v.shape[:1] == (self.count,)]
        return replace(self, inputs=tuple(inputs))

    def counts(self, value: Value) -> bool:
        """Whether dimension 0 of an argument, or of something computed, counts items."""
        return value.shape[:1] == (self.count,) and (value.node is not None or value.index in self.inputs)


@contextlib.contextmanager
def marked(graph: Graph, batch: Batch) -> Iterator[None]:
    """While a graph is lowered: the dimensions that follow from the number of items are `Size`s."""
    if batch.count < 2 or not batch.inputs:
        yield
        return
    values = [*graph.inputs, *graph.constants, *(v for node in graph.nodes for v in node.outputs)]
    types = [v.type for v in values]
    _Marker(graph, Size.items(batch.count, batch.planned)).run(batch.inputs)
    try:
        yield
    finally:
        for value, type in zip(values, types, strict=True):
            value.type = type


class _Marker:
    def __init__(self, graph: Graph, items: Size):
        self.graph, self.items = graph, items
        self.known: dict[int, Size] = {int(items): items}  # products of sizes that were met

    def run(self, batched: Collection[int]) -> None:
        for i, value in enumerate(self.graph.inputs):
            self._set(value, self._made(value.shape) if i in batched else _plain(value.shape))
        for value in self.graph.constants:
            self._set(value, self._made(value.shape) if value.shape else ())
        for node in self.graph.nodes:
            shapes = self._shapes(node)
            for value, shape in zip(node.outputs, shapes, strict=True):
                self._set(value, shape if shape == value.shape else _plain(value.shape))

    def _set(self, value: Value, shape: Shape) -> None:
        value.type = TensorType(shape, value.dtype)
        for n in shape:
            if n.__class__ is Size:
                self.known.setdefault(int(n), n)

    def _made(self, shape: Shape) -> Shape:
        """A shape that comes from nowhere: its first dimension that can be is taken for the number of items."""
        out = list(_plain(shape))
        for d, n in enumerate(out):
            known = self.known if not d or out[:d] == [1] * d else {int(self.items): self.items}
            if n != 1 and n in known:
                out[d] = known[n]
                break
        return tuple(out)

    def _shapes(self, node: Node) -> list[Shape]:
        name, outs = node.prim.name, [_plain(v.shape) for v in node.outputs]
        if name in _MAKERS:
            return [self._made(s) for s in outs]
        shapes = [v.shape for v in node.inputs]
        if name == "expand":
            return [self._expanded(shapes[0], outs[0])]
        if not any(n.__class__ is Size for s in shapes for n in s):
            return outs
        if name in registers.RULES:
            return [_joined(shapes, s) for s in outs]
        if name == "reshape":
            return [_reshaped(shapes[0], outs[0])]
        if name == "slice":
            return [tuple([n if n == m else m for n, m in zip(shapes[0], outs[0], strict=True)])]
        try:
            return [t.shape for t in node.prim.types([v.type for v in node.inputs], node.params)]
        except TwofoldError:
            return outs

    def _expanded(self, shape: Shape, out: Shape) -> Shape:
        """Dimensions that were there are as they were; a new one in front may be one that was met."""
        missing = len(out) - len(shape)
        own = (*[1] * missing, *shape)
        made = self._made(out)
        return tuple([n if n == m else made[d] for d, (n, m) in enumerate(zip(own, out, strict=True))])


def _plain(shape: Shape) -> Shape:
    return tuple(map(int, shape))


def _joined(shapes: Sequence[Shape], out: Shape) -> Shape:
    """The shape to which several broadcast: a Size wherever one has it."""
    joined = list(out)
    for shape in shapes:
        for d, n in enumerate(shape, len(out) - len(shape)):
            if n.__class__ is Size and n == out[d]:
                joined[d] = n
    return tuple(joined)


def _reshaped(shape: Shape, out: Shape) -> Shape:
    """Sizes carried over: runs of dimensions of equal product are compared, in each at most one is a Size."""
    result: list[Any] = list(out)
    if 0 in out:
        return out
    i, d = 0, 0
    while i < len(shape) and d < len(out):
        first, total, product = d, shape[i], out[d]
        i, d = i + 1, d + 1
        while total != product:
            if total < product:
                total *= shape[i]
                i += 1
            else:
                product *= out[d]
                d += 1
        if isinstance(total, Size):
            _place(result, first, d, total)
    return tuple(result)


def _place(result: list[Any], first: int, end: int, total: Size) -> None:
    """Find the dimension of a run that is a Size: that of the fewest items, the outermost of equal ones."""
    found: list[tuple[int, int, Size]] = []
    for k in range(first, end):
        rest = math.prod([int(n) for j, n in enumerate(result[first:end], first) if j != k])
        n = total // rest
        if result[k] != 1 and isinstance(n, Size) and n.key[0] * rest == total.key[0]:
            found.append((n.key[0], k, n))
    if found:
        _, k, n = min(found)
        result[k] = n
