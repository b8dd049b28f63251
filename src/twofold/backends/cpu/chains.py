"""chains: memory of steps that run item by item, and what the thread team needs to run them.

Note [Memory of workers]
A buffer that nobody touches outside of a chain needs no memory for all items: each worker has memory for one item,
which is used again for the next. Kernels know nothing of this. They compute the address of an item from the
address of the buffer, and are told one that lies as far before the worker's memory as that item lies behind the
buffer's begin. So each worker has a copy of the chain's table of addresses, which `chain` in team.py fills in
before an item.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterable
from typing import Any

import numpy as np

from .layout import Buffer
from .schedule import Task
from .step import Step

ALIGN = 64
MEMORY = 4  # the word of a description that says where the memory of worker 0 is
_MOST_BYTES = 8 << 20  # of a worker's memory; there may be many workers


def own_buffers(
    tasks: Collection[Task], writes: Callable[[Step], set[Buffer]], kept: Collection[Buffer]
) -> dict[Task, list[Buffer]]:
    """The temporaries of chains of which workers need one item only.

    Args:
        tasks: all of a program's.
        writes: the buffers that a step writes.
        kept: those that are looked at after the program.
    """
    users: dict[Buffer, set[Task]] = {}
    for task in tasks:
        for buffer in (b for step in task for b in step.buffers):
            users.setdefault(buffer, set()).add(task)
    out: dict[Task, list[Buffer]] = {}
    for buffer, used_by in users.items():
        task = next(iter(used_by))
        if buffer.kind != "temp" or len(used_by) > 1 or not task.items or buffer in kept:
            continue
        touching = [s for s in task if buffer in s.buffers]
        in_line = all(s.span is not None and s.span.in_line(buffer, task.items) for s in touching)
        if in_line and buffer in writes(touching[0]):
            out.setdefault(task, []).append(buffer)
    return out


def placed(buffers: Iterable[Buffer], size: Callable[[Buffer], int]) -> int:
    """Give buffers places in one piece of memory, by when they are alive; returns the bytes that this takes."""
    sizes = {b: int(size(b)) for b in buffers}  # plain integers: what a Size notes down takes time
    done: list[Buffer] = []
    end = 0
    for buffer in sorted(sizes, key=lambda b: -sizes[b]):
        need = -(-max(sizes[buffer], 1) // ALIGN) * ALIGN
        alive = [b for b in done if b.first <= buffer.last and buffer.first <= b.last]
        place = 0
        for low, high in sorted([(b.offset, b.offset + sizes[b]) for b in alive]):
            if place + need <= low:
                break
            place = max(place, -(-high // ALIGN) * ALIGN)
        buffer.offset = place
        end = max(end, place + sizes[buffer])
        done.append(buffer)
    return end


def place_own(task: Task, buffers: list[Buffer], reuses: bool) -> int:
    """Give a chain's own buffers places in a worker's memory; those that it has no room for leave the list.

    Returns the bytes that a worker needs.
    """
    for buffer in buffers:
        touching = [i for i, step in enumerate(task) if buffer in step.buffers]
        buffer.first, buffer.last = (touching[0], touching[-1]) if reuses else (0, len(task))
    while True:
        end = placed(buffers, lambda b: b.nbytes // task.items)
        if end <= _MOST_BYTES:
            return end
        largest = max(buffers, key=lambda b: b.nbytes)
        largest.offset = -1
        buffers.remove(largest)


def description(
    task: Task,
    code: list[int],
    starts: list[int],
    table: tuple[int, int],
    memory: tuple[int, int],
    own: list[tuple[int, Buffer]],
) -> np.ndarray[Any, Any]:
    """What `chain` reads: words for the whole, for each step, and for each address of a buffer of its own.

    The first are the numbers of steps and of such addresses, where the table is and how long, where the memory of
    worker 0 is and how far it is to the next one's. A step has its code, the chunks of an item, and the place of
    its part of the table; an address its place in the table, the buffer's place in the memory, and the bytes of an
    item. Places count bytes.

    Args:
        code: addresses of the steps' code.
        starts: where the steps' parts of the table begin.
        own: places of addresses in the table, with their buffers. Their memory follows on the copy of the table.
    """
    address, size = table
    begin = -(-size // ALIGN) * ALIGN
    words = [len(task), len(own), address, size, *memory]
    for step, at, start in zip(task, code, starts, strict=True):
        words += [at, step.chunks // task.items, start]
    for place, buffer in own:
        words += [place, begin + buffer.offset, buffer.nbytes // task.items]
    return np.array(words, np.uint64)
