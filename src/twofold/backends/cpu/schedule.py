"""schedule: which steps of a program run at the same time.

Note [Waves]
A wave is a set of tasks that do not depend on each other: threads claim their chunks in any order, and meet only
at its end. A task is one step, or several of one chunk each that follow from one another: those run one after
the other by whoever claims the first, while what they work on is in the cache (the gradient of an embedding
table is cleared, filled, and used by the optimizer). Large steps stand in the order of the program, each in a
wave that begins with it: what they read was just written, and temporaries do not live long. Small ones, which would
leave threads idle, stand with others in the first wave in which what they need is there, not many waves ahead.

What a step needs follows from the buffers that it reads and writes. Steps that may find an error come before
those that change state in place, as they do in the program, so that an error leaves state as it was.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field

from .layout import Buffer
from .step import Step

_AHEAD = 3  # waves that a small step may stand before the last one there is
_SMALL = 8  # chunks of a step that is small
_LONGEST = 8  # steps in a task


@dataclass(eq=False)
class _Task:
    wave: int
    steps: list[Step] = field(default_factory=list)

    @property
    def grows(self) -> bool:
        return self.steps[-1].chunks == 1 and len(self.steps) < _LONGEST


class _Scheduler:
    def __init__(self, writes: Callable[[Step], set[Buffer]], notes: Buffer):
        self.writes, self.notes = writes, notes
        self.tasks: list[_Task] = []
        self.writer: dict[Buffer, _Task] = {}
        self.readers: dict[Buffer, list[_Task]] = {}
        self.last = -1
        self.checked = -1  # the last wave with a step that may find an error

    def put(self, step: Step) -> None:
        written = self.writes(step) - {self.notes}
        needed = self._needed(step, written)
        first = max((t.wave + 1 for t in needed), default=0)
        if any(b.kind == "input" for b in written):
            first = max(first, self.checked + 1)
        wave = max(first, self.last - _AHEAD if step.chunks <= _SMALL else self.last + 1)
        task = self._task_to_join(step, needed, wave)
        if task is None:
            task = _Task(wave)
            self.tasks.append(task)
        task.steps.append(step)
        self.last = max(self.last, task.wave)
        if self.notes in step.buffers:
            self.checked = max(self.checked, task.wave)
        self._note_effects(step, written, task)

    def _needed(self, step: Step, written: set[Buffer]) -> list[_Task]:
        needed: dict[_Task, None] = {}
        for buffer in step.buffers:
            if buffer in self.writer:
                needed[self.writer[buffer]] = None
            if buffer in written:
                needed |= dict.fromkeys(self.readers.get(buffer, ()))
        return list(needed)

    def _task_to_join(self, step: Step, needed: list[_Task], wave: int) -> _Task | None:
        """The one task of the wave before that a short step follows from."""
        before = [t for t in needed if t.wave == wave - 1]
        if step.chunks != 1 or len(before) != 1 or not before[0].grows or self.checked == before[0].wave:
            return None
        last = before[0].steps[-1]
        return before[0] if self.writes(last) & set(step.buffers) else None

    def _note_effects(self, step: Step, written: set[Buffer], task: _Task) -> None:
        for buffer in step.buffers:
            if buffer in written:
                self.writer[buffer] = task
                self.readers[buffer] = []
            elif buffer is not self.notes:
                self.readers.setdefault(buffer, []).append(task)


def waves(steps: Sequence[Step], writes: Callable[[Step], set[Buffer]], notes: Buffer) -> list[list[list[Step]]]:
    """Steps that all are kernels as waves of tasks; every task is a list of steps.

    Args:
        steps: in an order in which they can run.
        writes: the buffers that a step writes.
        notes: the buffer in which steps note errors; any number of them may write it at once.
    """
    scheduler = _Scheduler(writes, notes)
    for step in steps:
        scheduler.put(step)
    out: list[list[list[Step]]] = [[] for _ in range(scheduler.last + 1)]
    for task in scheduler.tasks:
        out[task.wave].append(task.steps)
    return [wave for wave in out if wave]
