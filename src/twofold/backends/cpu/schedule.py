"""schedule: which steps of a program run at the same time, and which item by item.

Note [Waves]
A wave is a set of tasks that do not depend on each other: threads claim their chunks in any order, and meet only
at its end. A task is one step, or several that follow from one another. Steps of one chunk each run one after
the other by whoever claims the first, while what they work on is in the cache (the gradient of an embedding
table is cleared, filled, and used by the optimizer). Large steps stand in the order of the program, each in a
wave that begins with it: what they read was just written, and temporaries do not live long. Small ones, which would
leave threads idle, stand with others in the first wave in which what they need is there, not many waves ahead.

What a step needs follows from the buffers that it reads and writes. Steps that may find an error come before
those that change state in place, as they do in the program, so that an error leaves state as it was.

Note [Chains]
A chain is a task of larger steps that runs item by item: who claims an item does that item's chunks of the first
step, then those of the second, and so on. Scores, softmax and product with the values, for one head after the
other. What an item needs stays in the cache of the core that computes it, and threads meet less often. What
nobody reads outside the chain lives in the workers' own memory (see chains.py): an attention needs no memory for
the scores of all heads. The chunks are the same as without a chain, and so are the bits.

A step joins a chain if every buffer that one of them writes and another one touches is in line (see Note [Items]
in span.py) with all that touch it: item x then needs nothing of what the chain does for other items. The other
steps it needs must stand in waves before. So that steps of little consequence do not stand in the way, those that a
chain does not need yet *wait*, until somebody touches what they write, or writes what they touch: weights that
are packed, random bits, masks. Then they join the chain themselves, or stand in the wave before it.

There must be items enough for the threads, and an item should be small enough for a cache. What is read again for
every item, such as a weight, must not be more than what is found in the cache for it; where it is so much that it
would not stay there from one step to the next, it may be.
"""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Callable, Iterable, Sequence

from .layout import Buffer
from .span import Span, divisors
from .step import Step

_AHEAD = 3  # waves that a small step may stand before the last one there is
_SMALL = 8  # chunks of a step that is small
_LONGEST = 8  # steps in a task of steps of one chunk
LEAST_ITEMS = 8
MOST_BYTES = 4 << 20  # of memory that a step of a chain touches for one item
FEW_BYTES = 512 << 10  # the same where a step could work on smaller items without the chain
LARGE = 8 << 20  # bytes that steps make which do not stay in a cache until the next step
_MOST_STEPS = 64  # in a chain


class Task(list[Step]):
    """Steps that run one after the other: a single one, some of one chunk each, or a chain.

    Attributes:
        items: into how many parts the chunks of each step of a chain are cut; 0 if it is none.
    """

    def __init__(self, steps: Iterable[Step] = (), wave: int = 0, items: int = 0):
        super().__init__(steps)
        self.wave, self.items = wave, items

    __hash__ = object.__hash__  # type: ignore[assignment]

    def __eq__(self, other: object) -> bool:
        return self is other

    @property
    def grows(self) -> bool:
        return not self.items and self[-1].chunks == 1 and len(self) < _LONGEST


class _Scheduler:
    def __init__(self, writes: Callable[[Step], set[Buffer]], notes: Buffer, least: int):
        self.writes, self.notes, self.least = writes, notes, least
        self.tasks: list[Task] = []
        self.writer: dict[Buffer, Task] = {}
        self.readers: dict[Buffer, list[Task]] = {}
        self.last = 0 if least else -1  # the first wave of a program with chains is for what waits
        self.checked = -1  # the last wave with a step that may find an error
        self.chain: Task | None = None  # the last task that is one, or may become one
        self.waiting: list[Step] = []

    def put(self, step: Step) -> None:
        written = self.writes(step) - {self.notes}
        awaited = self._awaited(step, written)
        chain = self._chain_to_join(step, written, awaited)
        if chain is None and self._waits(step, written):
            self.waiting.append(step)
            return
        for other in awaited:
            if chain is None:
                self._settle(other, self.writes(other))
            elif not self._joins(other, self.writes(other), chain):
                self._place(other, self.writes(other), before=chain)
        self._settle(step, written)

    def finish(self) -> None:
        for step in list(self.waiting):
            self._settle(step, self.writes(step))

    def _settle(self, step: Step, written: set[Buffer]) -> None:
        """Put a step that waits for none into a chain or a wave."""
        chain = self._chain_to_join(step, written, [])
        if chain is None or not self._joins(step, written, chain):
            self._place(step, written)

    # --- placing --------------------------------------------------------------------------------

    def _place(self, step: Step, written: set[Buffer], before: Task | None = None) -> None:
        """Put a step into a wave of its own or into one that is there; into the one before a chain, if it may."""
        if step in self.waiting:
            self.waiting.remove(step)
        needed = self._needed(step, written)
        first = self._first(needed, written)
        if before is not None and first < before.wave:
            wave = before.wave - 1
        else:
            wave = max(first, self.last - _AHEAD if step.chunks <= _SMALL else self.last + 1)
        task = self._task_to_join(step, needed, wave)
        if task is None:
            task = Task(wave=wave)
            self.tasks.append(task)
            if step.span is not None and before is None and self.notes not in step.buffers:
                self.chain = task
        task.append(step)
        self.last = max(self.last, task.wave)
        if self.notes in step.buffers:
            self.checked = max(self.checked, task.wave)
        self._note_effects(step, written, task)

    def _first(self, needed: list[Task], written: set[Buffer]) -> int:
        """The first wave in which a step may stand."""
        first = max((t.wave + 1 for t in needed), default=0)
        if any(b.kind == "input" for b in written):
            first = max(first, self.checked + 1)
        return first

    def _needed(self, step: Step, written: set[Buffer]) -> list[Task]:
        needed: dict[Task, None] = {}
        for buffer in step.buffers:
            if buffer in self.writer:
                needed[self.writer[buffer]] = None
            if buffer in written:
                needed |= dict.fromkeys(self.readers.get(buffer, ()))
        return list(needed)

    def _task_to_join(self, step: Step, needed: list[Task], wave: int) -> Task | None:
        """The one task of the wave before that a short step follows from."""
        before = [t for t in needed if t.wave == wave - 1]
        if step.chunks != 1 or len(before) != 1 or not before[0].grows or self.checked == before[0].wave:
            return None
        last = before[0][-1]
        return before[0] if self.writes(last) & set(step.buffers) else None

    def _note_effects(self, step: Step, written: set[Buffer], task: Task) -> None:
        for buffer in step.buffers:
            if buffer in written:
                self.writer[buffer] = task
                self.readers[buffer] = []
            elif buffer is not self.notes:
                self.readers.setdefault(buffer, []).append(task)

    # --- chains -----------------------------------------------------------------------------------

    def _waits(self, step: Step, written: set[Buffer]) -> bool:
        """Whether a step that the last chain does not lead to can be put later."""
        if not self.least or self.chain is None or self.notes in step.buffers:
            return False
        if any(b.kind != "temp" for b in written):
            return False
        return self._first(self._needed(step, written), written) <= self.chain.wave

    def _awaited(self, step: Step, written: set[Buffer]) -> list[Step]:
        """The waiting steps that must run before a step, in order."""
        out: list[Step] = []
        read, written = set(step.buffers) - {self.notes}, set(written)
        for s in reversed(self.waiting):
            own = self.writes(s)
            if own & read or written & set(s.buffers):
                out.insert(0, s)
                read |= set(s.buffers)
                written |= own
        return out

    def _chain_to_join(self, step: Step, written: set[Buffer], awaited: list[Step]) -> Task | None:
        """The one task of the last wave that a step needs, if it might be a chain with it."""
        if not self.least or step.span is None or self.notes in step.buffers:
            return None
        needed = self._needed(step, written)
        last = max((t.wave for t in needed), default=-1)
        chains = [t for t in needed if t.wave == last]
        if len(chains) != 1 or self._first([t for t in needed if t is not chains[0]], written) > last:
            return None
        chain = chains[0]
        spans = len(chain) < _MOST_STEPS and all(s.span is not None for s in chain)
        if not spans or any(self.notes in s.buffers for s in chain):
            return None
        for other in awaited:
            if self._first(self._needed(other, self.writes(other)), set()) > last:
                return None
        return chain if self._items_with(step, written, chain) else None

    def _joins(self, step: Step, written: set[Buffer], chain: Task) -> bool:
        """Let a step join a chain, if it can."""
        needed = self._needed(step, written)
        if step.span is None or self._first([t for t in needed if t is not chain], written) > chain.wave:
            return False
        items = self._items_with(step, written, chain)
        if not items:
            return False
        if step in self.waiting:
            self.waiting.remove(step)
        chain.append(step)
        chain.items, self.chain = items, chain
        self._note_effects(step, written, chain)
        return True

    def _items_with(self, step: Step, written: set[Buffer], chain: Task) -> int:
        """Into how many items the chain can be cut together with a step; 0 if it can't, or should not."""
        steps = [(s, s.span, self.writes(s)) for s in chain if s.span is not None]
        assert step.span is not None
        steps.append((step, step.span, written))
        changed = {b for _, _, own in steps for b in own}
        users = Counter(b for s, _, _ in steps for b in s.buffers)
        shared = {b for b in changed if users[b] > 1}
        before = chain.items or math.gcd(*(span.items for _, span, _ in steps[:-1]))
        for items in reversed(divisors(math.gcd(before, step.span.items))):
            if items < self.least:
                break
            in_line = all(span.in_line(b, items) for s, span, _ in steps for b in s.buffers if b in shared)
            if in_line and _pays(steps, items):
                most = MOST_BYTES if items == before and _follows(step, shared) else FEW_BYTES
                return items if all(span.bytes_of_item(items) <= most for _, span, _ in steps) else 0
        return 0


def _pays(steps: Sequence[tuple[Step, Span, set[Buffer]]], items: int) -> bool:
    """Whether steps that run item by item find more in the cache than they have to read again for every item."""
    again = handed_on = 0
    made: set[Buffer] = set()
    for step, span, written in steps:
        more, less = span.bytes_read_again(items), span.bytes_of_item(items, made & set(step.buffers))
        again, handed_on = again + more, handed_on + less
        made |= written
    weight = 4 if sum(b.nbytes for b in made) > LARGE else 1
    return again <= weight * handed_on and more <= weight * less


def _follows(step: Step, shared: set[Buffer]) -> bool:
    """Whether the largest of what a step touches, or nearly, comes from the chain."""
    most = max(b.nbytes for b in step.buffers)
    return any(2 * b.nbytes >= most for b in step.buffers if b in shared)


def waves(
    steps: Sequence[Step], writes: Callable[[Step], set[Buffer]], notes: Buffer, least: int = 0
) -> list[list[Task]]:
    """Steps that all are kernels as waves of tasks.

    Args:
        steps: in an order in which they can run.
        writes: the buffers that a step writes.
        notes: the buffer in which steps note errors; any number of them may write it at once.
        least: items of a chain; 0 for no chains.
    """
    scheduler = _Scheduler(writes, notes, least)
    for step in steps:
        scheduler.put(step)
    scheduler.finish()
    out: list[list[Task]] = [[] for _ in range(scheduler.last + 1)]
    for task in scheduler.tasks:
        out[task.wave].append(task)
    return [wave for wave in out if wave]
