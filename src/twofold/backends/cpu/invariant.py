"""invariant: steps whose result is the same in every call while some inputs stand still.

Packed weights of an inference program, say. Such steps run before all others, and only when one of those inputs
has changed; what they write is kept from call to call, outside the arena.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence

from .layout import Buffer
from .step import Step


def invariant_steps(
    steps: Sequence[Step], writes: Callable[[Step], set[Buffer]], standing: set[Buffer], notes: Buffer
) -> list[Step]:
    """The steps that read nothing but `standing` inputs, constants, and what such steps write.

    Args:
        steps: all of a program's; those that call NumPy are never among the result.
        writes: the buffers that a step writes.
        standing: inputs that rarely change.
        notes: the buffer in which steps note errors; a step that does so runs in every call.
    """
    native = [step for step in steps if step.kind != "numpy"]
    writers: dict[Buffer, set[int]] = {}
    for i, step in enumerate(native):
        for buffer in writes(step):
            writers.setdefault(buffer, set()).add(i)
    found = set(range(len(native)))

    def holds(i: int) -> bool:
        written = writes(native[i])
        return all(
            b in standing or (b.kind == "constant" and b is not notes and b not in written)
            if b not in writers
            else b.kind == "temp" and writers[b] <= found
            for b in native[i].buffers
        )

    while bad := {i for i in found if not holds(i)}:
        found -= bad
    return [native[i] for i in sorted(found)]
