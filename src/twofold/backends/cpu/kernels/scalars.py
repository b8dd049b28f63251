"""Single numbers that a kernel computes for itself, at its start.

A learning rate divided by a bias correction is cheaper to compute in every kernel that needs it
than to compute once, in a kernel of its own, for all to wait for.
"""

from __future__ import annotations

from typing import Any

from ....ir.graph import Node, Value
from .. import registers
from ..emit import Function, Val
from ..layout import Buffer, View
from .access import load


class Scalars:
    """The scalar part of a kernel.

    Args:
        nodes: value -> element-wise node that computes it, all of one element.
        leaves: views of the one-element values that they read.
        aliases: values that are views of one of these: all their elements are that number.
    """

    def __init__(self, nodes: dict[Value, Node], leaves: dict[Value, View], aliases: dict[Value, Value]):
        self.nodes, self.leaves, self.aliases = nodes, leaves, aliases

    def __contains__(self, value: Value) -> bool:
        return value in self.aliases

    @property
    def buffers(self) -> set[Buffer]:
        return {view.buffer for view in self.leaves.values()}

    def emit(self, f: Function, bases: dict[Any, Val], lanes: int) -> dict[Value, Val]:
        """Compute all; returns the vector of equal lanes for every alias."""
        known: dict[Value, Val] = {}

        def evaluate(value: Value) -> Val:
            if value not in known:
                node = self.nodes.get(value)
                if node is None:
                    view = self.leaves[value]
                    address = f.at(bases[view.buffer], view.offset * view.dtype.itemsize)
                    known[value] = load(f, address, value.dtype, 1, 0)
                else:
                    args = [evaluate(self.root(v)) for v in node.inputs]
                    known[value] = registers.apply(
                        f, node.prim.name, node.params, args, [v.dtype for v in node.inputs], value.dtype
                    )
            return known[value]

        vectors: dict[Value, Val] = {}
        for root in dict.fromkeys(self.aliases.values()):
            vectors[root] = f.splat(evaluate(root), lanes)
        return {alias: vectors[root] for alias, root in self.aliases.items()}

    def root(self, value: Value) -> Value:
        """The one-element value that `value` is a view of."""
        while value not in self.nodes and value not in self.leaves:
            assert value.node is not None
            value = value.node.inputs[0]
        return value


NONE = Scalars({}, {}, {})
