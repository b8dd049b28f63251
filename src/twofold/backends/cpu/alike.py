"""Groups that are alike are lowered once.

Two groups are alike if they differ in their buffers only: the same operations on views of the same shapes and
strides, with the same results stored. Those of equal layers are. The steps of the second are those of the first on
other buffers, so no code is written for it.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from ...ir.graph import Node, Value
from .group import Group
from .layout import Buffer, View
from .step import Step

_ALONE = ("conv_last_weight_grad",)  # nodes on their own that only read their views


@dataclass(eq=False)
class _Pattern:
    """How a group was lowered.

    Attributes:
        given: buffers that were there before.
        made: buffers that were added.
        views: where the results lie.
        symbol: the beginning of its kernels' names.
    """

    nodes: list[Node]
    given: list[Buffer]
    made: list[Buffer]
    views: list[View]
    symbol: str
    steps: list[Step]

    def is_whole(self) -> bool:
        """Whether nothing else took part, as a copy made for another group, or for others to use as well."""
        known = {*self.given, *self.made}
        return all(step.kind not in ("copy", "numpy") and known.issuperset(step.buffers) for step in self.steps)


class Alike:
    """Lowers the groups of a program, those that are like an earlier one by its pattern."""

    def __init__(self, lowering: Any):
        self.lowering = lowering
        self._patterns: dict[Any, _Pattern] = {}

    def lower(self, group: Group) -> None:
        """Add the steps of a group."""
        lowering = self.lowering
        name = group.nodes[0].prim.name
        if (group.kind == "alone" and name not in _ALONE) or group in lowering.remade:
            lowering.lower(group)
            return
        form = _Form(lowering, group)
        key = form.key()
        pattern = self._patterns.get(key)
        if pattern is not None:
            self._repeat(pattern, group, list(form.buffers))
            return
        num_steps, num_buffers = len(lowering.steps), len(lowering.buffers)
        lowering.lower(group)
        pattern = _Pattern(
            group.nodes,
            list(form.buffers),
            lowering.buffers[num_buffers:],
            [lowering.views[v] for v in lowering.stored_by(group)],
            f"k{num_steps}",
            lowering.steps[num_steps:],
        )
        if pattern.is_whole():
            self._patterns[key] = pattern

    def _repeat(self, pattern: _Pattern, group: Group, given: list[Buffer]) -> None:
        lowering, kernels = self.lowering, self.lowering.module.kernels
        made = [lowering.buffer(b.kind, b.dtype, b.size) for b in pattern.made]
        buffers = dict(zip([*pattern.given, *pattern.made], [*given, *made], strict=True))
        numbers = {old.number: new.number for old, new in buffers.items()}
        nodes = dict(zip(pattern.nodes, group.nodes, strict=True))
        for value, view in zip(lowering.stored_by(group), pattern.views, strict=True):
            lowering.views[value] = View(buffers[view.buffer], view.shape, view.strides, view.offset)
        symbol = f"k{len(lowering.steps)}"
        for step in pattern.steps:
            name = symbol + step.symbol.removeprefix(pattern.symbol)
            code, slots, sizes = kernels[step.symbol]
            kernels[name] = code, [numbers[n] for n in slots], sizes
            used = tuple([buffers[b] for b in step.buffers])
            span = step.span and step.span.on(buffers)
            lowering.steps.append(Step(step.kind, [nodes[n] for n in step.nodes], step.chunks, name, used, span))


class _Form:
    """What of a group its steps depend on. Buffers and values have numbers, in the order in which they are met."""

    def __init__(self, lowering: Any, group: Group):
        self.lowering, self.group = lowering, group
        self.buffers: dict[Buffer, int] = {}
        self.values: dict[Value, int] = {}

    def key(self) -> Any:
        """Equal for groups that are alike."""
        group, values, home = self.group, self.values, self.lowering.home
        scalars = self.lowering.scalars_of(group)
        parts: list[Any] = [group.kind, group.shape, group.num_inner]
        parts += [self._outside(leaf, view) for leaf, view in scalars.leaves.items()]
        for value, node in scalars.nodes.items():
            parts.append((node.prim.name, *node.params.items(), *[values[scalars.root(v)] for v in node.inputs]))
            values[value] = len(values)
        nodes = [*group.nodes, *self.lowering.inline[group].values()]
        own = dict.fromkeys(v for n in nodes for v in n.outputs)
        values |= zip(own, range(len(values), len(values) + len(own)), strict=True)
        for node in nodes:
            parts.append((node.prim.name, *node.params.items()))
            for value in node.inputs:
                if value in scalars.aliases:
                    parts.append(("number", values[scalars.aliases[value]]))
                else:
                    parts.append(self._read(value, own))
        for value in self.lowering.stored_by(group):
            parts.append((values[value], self._number(home[value]) if value in home else None))
        return tuple(parts)

    def _read(self, value: Value, own: dict[Value, None]) -> Any:
        known = self.values.get(value)
        if known is not None:
            return known
        path, root = [], value
        while root not in own and root.node is not None and root.node in self.lowering.moved:
            path.append((root.node.prim.name, root.shape))
            root = root.node.inputs[0]
        return (self.values[root], *path) if root in own else self._outside(value, self.lowering.views[value])

    def _outside(self, value: Value, view: View) -> Any:
        """A value from outside the group."""
        number = self.values[value] = len(self.values)
        return number, self._number(view.buffer), value.dtype.name, view.shape, view.strides, view.offset

    def _number(self, buffer: Buffer) -> int:
        return self.buffers.setdefault(buffer, len(self.buffers))
