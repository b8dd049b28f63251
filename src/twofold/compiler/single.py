"""Programs of one primitive: for eager code (see eager.py), and to see what fusing them changes."""

from __future__ import annotations

from typing import Any

from ..backends.cpu.program import Program
from ..ir.graph import Graph
from ..ir.primitive import Primitive
from ..ir.types import TensorType
from .pipeline import optimize


def program_of(p: Primitive, types: list[TensorType], params: dict[str, Any]) -> Program:
    """The primitive as a program."""
    graph = Graph(f"eager {p.name}")
    graph.set_outputs(graph.add(p, [graph.add_input(t) for t in types], params))
    return Program(optimize(graph))
