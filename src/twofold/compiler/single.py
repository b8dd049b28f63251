"""Programs of one primitive, to see what fusing them changes, and whether eager code has their bits."""

from __future__ import annotations

from typing import Any

from ..backends.cpu.items import Batch
from ..backends.cpu.program import Program
from ..ir.graph import Graph
from ..ir.primitive import Primitive
from ..ir.types import TensorType
from .pipeline import optimize


def program_of(
    p: Primitive, types: list[TensorType], params: dict[str, Any], constants: dict[int, Any] | None = None
) -> Program:
    """The primitive as a program.

    Args:
        types: of all operands.
        constants: number of an operand -> its array, where that is a part of the program: a power by 2
            is another operation than one by any number. The program takes the other operands.
    """
    graph, known = Graph(p.name), constants or {}
    operands = [graph.constant(known[i]) if i in known else graph.add_input(t) for i, t in enumerate(types)]
    graph.set_outputs(graph.add(p, operands, params))
    return Program(optimize(graph), batch=Batch.of([v.type for v in graph.inputs]))
