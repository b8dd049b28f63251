"""Errors that kernels find while they run, such as an index out of range.

A kernel goes on with a place that exists and leaves a note; the program looks at one number after it
ran, and raises the error of the first note, in the order of the nodes.

Note [Notes of kernels]
The buffer holds int64 numbers: 1 if there is any note, then for each check how early the element
stands (the larger, the earlier; 0 is no note), and its value. The earliest wins, on any number of threads.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from ...ir.errors import OutOfBoundsError, TwofoldError
from ...ir.graph import Node
from ...ir.types import Shape
from ...primitives.binary import operand_error
from .emit import Function, Val
from .layout import Buffer

_LATEST = 1 << 62


@dataclass(frozen=True)
class BoundsCheck:
    """Indices of a node into dimension `dim` of a tensor of `shape`."""

    node: Node
    dim: int
    shape: Shape

    def error(self, value: int) -> TwofoldError:
        n = self.shape[self.dim] if self.shape else 1
        return OutOfBoundsError(
            f"index {value} is out of bounds for dimension {self.dim} of size {n} (shape {self.shape})",
            op=self.node.prim.name,
            hint=f"indices must be between {-n} and {n - 1}",
        )


@dataclass(frozen=True)
class OperandCheck:
    """The second operands of a division or power of integers."""

    node: Node

    def error(self, value: int) -> TwofoldError:
        return operand_error(self.node.prim.name)


Check = BoundsCheck | OperandCheck


class Checks:
    """The checks of one program, and the memory for their notes."""

    def __init__(self, buffer: Buffer):
        self.buffer = buffer
        self.all: list[Check] = []

    def add(self, check: Check) -> int:
        """A new check's number."""
        self.all.append(check)
        return len(self.all) - 1

    def allocate(self) -> None:
        """Make the memory, when all checks are known."""
        self.buffer.size = 1 + 2 * len(self.all)
        self.notes = self.buffer.array = np.zeros(self.buffer.size, np.int64)

    def first(self) -> tuple[Node, TwofoldError]:
        """The node and the error of the first note; all notes are forgotten."""
        found = self.notes.copy()
        self.notes[:] = 0
        number = next(i for i in range(len(self.all)) if found[1 + 2 * i])
        check = self.all[number]
        return check.node, check.error(int(found[2 + 2 * number]))


def note(f: Function, notes: Val, number: int, bad: Val, position: Val | int, value: Val) -> None:
    """Leave a note about an element if `bad` holds."""

    def leave() -> None:
        early = f.int(f.sub(_LATEST, position))
        mine = f.at(notes, 8 + 16 * number)
        before = f.value(f"atomicrmw umax ptr {mine.ref}, {early} seq_cst, align 8", "i64")
        f.when(f.icmp("ult", before, early), lambda: f.store(value, f.at(mine, 8), 8))
        f.store(f.int(1), notes, 8)

    f.when(bad, leave)
