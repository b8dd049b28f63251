"""Cost: what a program computes and moves, by kernel; and programs as text."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any

from ...ir.graph import Node, Value
from .layout import View
from .step import Step

# Steps that only prepare or finish another one of the same nodes.
HELPERS = frozenset(("pack", "combine", "copy"))


@dataclass(frozen=True)
class StepCost:
    """One kernel's share.

    Attributes:
        step: the kernel, as `Program.kernels()` shows it.
        flops: operations of its products: two for every multiply-add.
        bytes_read, bytes_written: of distinct elements; what it reads again is in a cache, one hopes.
    """

    step: Step
    flops: int
    bytes_read: int
    bytes_written: int


@dataclass(frozen=True)
class Cost:
    """What one call of a program costs.

    Attributes:
        steps: a StepCost for each kernel, in order.
        arena_bytes: memory for temporaries, those that are kept from call to call included.
        scratch_bytes: memory of each thread.
        constant_bytes: arrays that are part of the program.
        argument_bytes: arrays that it is given: arguments and state.
    """

    steps: tuple[StepCost, ...]
    arena_bytes: int
    scratch_bytes: int
    constant_bytes: int
    argument_bytes: int

    @property
    def flops(self) -> int:
        """Operations of all products, two for every multiply-add; element-wise ones are not counted."""
        return sum(s.flops for s in self.steps)

    @property
    def bytes_read(self) -> int:
        """Bytes that kernels read, from memory or a cache."""
        return sum(s.bytes_read for s in self.steps)

    @property
    def bytes_written(self) -> int:
        """Bytes that kernels write."""
        return sum(s.bytes_written for s in self.steps)

    @property
    def num_phases(self) -> int:
        """Calls of native kernels; those of one wave (see `schedule`) run at the same time."""
        return sum(s.step.kind != "numpy" for s in self.steps)

    @property
    def num_kernels(self) -> int:
        """Different pieces of native code: equal kernels are one."""
        return len({s.step.symbol for s in self.steps if s.step.kind != "numpy"})

    @property
    def num_fallbacks(self) -> int:
        """Steps that call the NumPy reference, for want of a kernel."""
        return sum(s.step.kind == "numpy" for s in self.steps)

    def __str__(self) -> str:
        lines = [f"{'kernel':<10}{'chunks':>7}{'MFLOP':>11}{'KB read':>10}{'KB written':>12}  operations"]
        for s in self.steps:
            numbers = f"{s.flops / 1e6:>11.3f}{s.bytes_read / 1e3:>10.1f}{s.bytes_written / 1e3:>12.1f}"
            lines.append(f"{s.step.kind:<10}{s.step.chunks:>7}{numbers}  {_names(s.step)}")
        total = f"{self.flops / 1e6:>11.3f}{self.bytes_read / 1e3:>10.1f}{self.bytes_written / 1e3:>12.1f}"
        lines.append(f"{'total':<17}{total}")
        lines.append(
            f"{self.num_phases} phases of {self.num_kernels} kernels, {self.num_fallbacks} calls of NumPy; "
            f"{self.arena_bytes / 1e3:.1f} KB temporaries, {self.argument_bytes / 1e3:.1f} KB arguments and state"
        )
        return "\n".join(lines)


def cost_of(program: Any) -> Cost:
    """The cost of a Program."""
    seen: set[Node] = set()
    steps = tuple(_step_cost(program, step, seen) for step in program.steps)
    kinds: dict[str, int] = {}
    for b in program.buffers:
        kinds[b.kind] = kinds.get(b.kind, 0) + b.nbytes
    scratch = program._scratch_row
    return Cost(
        steps, program.arena_bytes + program.kept_bytes, scratch, kinds.get("constant", 0), kinds.get("input", 0)
    )


def _step_cost(program: Any, step: Step, seen: set[Node]) -> StepCost:
    """A step's share; the products of nodes that several steps compute are the main step's."""
    if step.kind in HELPERS and not _is_main(program, step):
        *read, written = [b.nbytes for b in dict.fromkeys(step.buffers)] or [0]
        if step.kind == "combine":  # its partial sums come last
            *done, partials = [b.nbytes for b in dict.fromkeys(step.buffers)]
            return StepCost(step, 0, partials, sum(done))
        return StepCost(step, 0, sum(read), written)
    nodes = [n for n in step.nodes if n not in seen]
    seen.update(nodes)
    own = {v for n in step.nodes for v in n.outputs}
    sources: set[Value] = set()
    for node in step.nodes:
        for value in node.inputs:
            _find_read(program, value, own, sources, set())
    stored = [v for v in own if v in program.views]
    return StepCost(
        step,
        sum(map(flops_of, nodes)),
        sum(_view_bytes(program.views[v]) for v in sources),
        sum(_view_bytes(program.views[v]) for v in stored),
    )


def _is_main(program: Any, step: Step) -> bool:
    """Whether no other kind of step computes the step's nodes: a copy may be all there is to do."""
    nodes = set(step.nodes)
    return not any(other.kind not in HELPERS and nodes & set(other.nodes) for other in program.steps)


def _find_read(program: Any, value: Value, own: set[Value], found: set[Value], seen: set[Value]) -> None:
    """The stored values that `value` is computed from inside a kernel."""
    if value in own or value in seen:
        return
    seen.add(value)
    if value in program.views:
        found.add(value)
    elif value.node is not None:  # a cheap one, computed again by those who need it
        for v in value.node.inputs:
            _find_read(program, v, own, found, seen)


def _view_bytes(view: View) -> int:
    """Of distinct elements: what is expanded counts once."""
    return math.prod(n for n, s in zip(view.shape, view.strides, strict=True) if s or n == 0) * view.dtype.itemsize


def flops_of(node: Node) -> int:
    """Operations of a product, two for each multiply-add; 0 for other nodes."""
    name, types = node.prim.name, [v.type for v in node.inputs]
    if name == "matmul":
        return 2 * node.outputs[0].type.size * types[0].shape[-1]
    if name in ("conv", "conv_last"):
        return 2 * node.outputs[0].type.size * math.prod(types[1].shape[1:])
    if name in ("conv_input_grad", "conv_last_input_grad"):
        return 2 * types[0].size * math.prod(types[1].shape[1:])
    if name in ("conv_weight_grad", "conv_last_weight_grad"):
        return 2 * types[1].size * math.prod(node.outputs[0].shape[1:])
    if name.removesuffix("_grad") in ("rnn", "lstm", "gru"):
        weight = next(t for t in reversed(types) if t.ndim == 2)
        steps, rows = types[0].shape[:2]
        return 2 * steps * rows * weight.size
    return 0


# --- text -----------------------------------------------------------------------------------------


def program_text(program: Any) -> str:
    """The graph with the user's lines, then the kernels with the lines that each computes."""
    rows = [(str(step), _lines(step)) for step in program.steps]
    width = min(max((len(text) for text, _ in rows), default=0), 100)
    kernels = [f"  {text:<{width}}  # {lines}" if lines else f"  {text}" for text, lines in rows]
    return "\n".join([str(program.graph), "", f"kernels for {program.target.name}:", *kernels])


def _names(step: Step) -> str:
    return " ".join(n.prim.name for n in step.nodes)


def _lines(step: Step) -> str:
    """The user's lines that a step computes, each once; the text of the line if there is one only."""
    places = list(dict.fromkeys(n.location for n in step.nodes if n.location is not None))
    texts = list(dict.fromkeys(f"{p.file.rpartition('/')[2]}:{p.line}" for p in places))
    if len(texts) == 1 and places[0].source:
        return f"{texts[0]}: {places[0].source}"
    return ", ".join(texts)
