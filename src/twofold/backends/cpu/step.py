"""Step: one kernel of a program."""

from __future__ import annotations

from dataclasses import dataclass

from ...ir.graph import Node
from .layout import Buffer
from .span import Span


@dataclass
class Step:
    """One kernel of a program, or a call of a primitive's NumPy reference.

    Attributes:
        kind: "rows", "contract" ... or "numpy".
        nodes: what it computes.
        chunks: independent pieces of work.
        span: how the chunks go along the items of a batch, if they do in an order that is known.
    """

    kind: str
    nodes: list[Node]
    chunks: int = 1
    symbol: str = ""
    buffers: tuple[Buffer, ...] = ()
    span: Span | None = None

    def __str__(self) -> str:
        names = " ".join(n.prim.name for n in self.nodes)
        return f"{self.kind:<9} {self.chunks:>5} chunks  {names}"
