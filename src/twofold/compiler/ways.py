"""ways: what a tree of programs consists of, and a call on its way down.

See Note [Trees of programs] in tree.py.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from ..autodiff.handle import Tensor
from ..backends.cpu.program import Program
from ..ir.errors import TraceError
from ..ir.evaluate import evaluate
from .questions import Array, Question
from .results import Results
from .specialize import Specialization

MAX_ANSWERS = 8  # to one question, with programs of their own
MAX_WAYS = 8  # to go on after one answer

EAGER: Any = object()  # instead of a result: the call is to be run eagerly, nothing has happened

RETURN_IT = (
    "return the tensor and ask for its number outside of the compiled function, or use where(), "
    "twofold.cond or twofold.while_loop"
)


class Point:
    """What follows after an answer: usually one program; several where the code depends on more than that."""

    def __init__(self, ways: Sequence[Segment | Leaf] = ()):
        self.ways = list(ways)

    def follow(self) -> Segment | Leaf | None:
        """The program that is valid now."""
        for way in self.ways:
            if way.guard.holds():
                return way
        return None

    def find(self, signature: Any) -> list[Any]:
        """The programs for what was traced, but for numbers."""
        return [way for way in self.ways if way.signature == signature]

    def add(self, way: Segment | Leaf, old: Segment | Leaf | None, after: str) -> None:
        """One more, or one in the place of another.

        Raises: TraceError if there are too many.
        """
        if old is not None:
            self.ways.remove(old)
        if len(self.ways) == MAX_WAYS:
            raise TraceError(f"after {after} it does different things each time", hint=RETURN_IT)
        self.ways.append(way)


class Way:
    """A program of the tree.

    Attributes:
        signature: what it was traced from.
        guard: whether that is valid.
        numbers: of the operands of its part, by their place in the path; see Note [Numbers].
        lifted: those that are inputs.
    """

    guard: Any

    def __init__(self, signature: Any):
        self.signature = signature
        self.numbers: dict[int, bytes] = {}
        self.lifted: set[int] = set()

    def others(self, numbers: dict[int, bytes]) -> set[int]:
        """Which numbers are others, and are no inputs."""
        return {i for i, number in numbers.items() if i not in self.lifted and self.numbers[i] != number}


class Segment(Way):
    """The program between two questions.

    Attributes:
        outputs: the names of what it hands on, after what is asked.
    """

    def __init__(self, question: Question, signature: Any):
        super().__init__(signature)
        self.question = question
        self.points: dict[Any, Point] = {}
        self.numeric = question.numeric
        self.program: Program | None = None
        self.sources: list[Source] = []
        self.asked: list[Source | int] = []
        self.outputs: list[Any] = []

    @property
    def num_asked(self) -> int:
        """Arrays before those that are handed on: the values, and what the operation made of them."""
        return len(self.question.values) + (self.question.prim is not None)

    def run(self, call: Call) -> list[Array]:
        """What is asked, and what is handed on."""
        arrays = [call.read(source) for source in self.sources]
        outputs: list[Any] = [] if self.program is None else self.program(arrays)
        results = [outputs[a] if isinstance(a, int) else call.read(a) for a in self.asked]
        q = self.question
        rest = outputs[len(outputs) - len(self.outputs) :]
        if q.prim is not None:
            results.append(evaluate(q.prim, results, q.params))
        return [*results, *rest]

    def key(self, made: Sequence[Array]) -> Any:
        """What of the answer decides."""
        return None if self.numeric else self.question.key(made[: self.num_asked])

    def point(self, arrays: Sequence[Array]) -> Point:
        """Where it goes on after an answer, perhaps a new one."""
        if not self.numeric:
            key = self.question.key(arrays)
            if key in self.points or len(self.points) < MAX_ANSWERS:
                return self.points.setdefault(key, Point())
            if self.question.prim is not None:
                raise TraceError(
                    f"{self.question} is another one each time",
                    hint="use a form of fixed shape, e.g. where(mask, x, 0) instead of x[mask]",
                )
            self.numeric = True
            self.points = {None: Point([way for point in self.points.values() for way in point.ways])}
        return self.points.setdefault(None, Point())


class Leaf(Way):
    """The program after the last question, which also makes all changes; None: this branch is run eagerly."""

    def __init__(self, spec: Specialization | None, signature: Any, guard: Any, sources: Sequence[Source] = ()):
        super().__init__(signature)
        self.spec, self.guard, self.sources = spec, guard, sources


Source = tuple[Any, Any]  # where an array is found: see Call.read
ARGUMENT, NUMBER = "argument", "number"


class Call:
    """One call on its way down the tree.

    Attributes:
        segments: which it has run.
        made: what they gave.
        numbers: the operands that could be others, where Python leads.
    """

    def __init__(self, tensors: Sequence[Tensor]):
        self.tensors = tensors
        self.segments: list[Segment] = []
        self.made: list[list[Array]] = []
        self.numbers: Sequence[Array] = ()

    def read(self, source: Source) -> Array:
        """An array for a program: from a segment before, of an argument, a number, or from the place of a state."""
        where, number = source
        if where.__class__ is int:
            return self.made[where][number]
        if where is ARGUMENT:
            return self.tensors[number]._value
        if where is NUMBER:
            return self.numbers[number]
        array: Array = where.read()
        return array

    def run(self, segment: Segment) -> list[Array]:
        """Run the next segment."""
        arrays = segment.run(self)
        self.segments.append(segment)
        self.made.append(arrays)
        return arrays


class Answered:
    """Results with numbers that were asked for: those of this call."""

    def __init__(self, results: Results, questions: Sequence[Question], made: Sequence[Sequence[Array]]):
        self.results, self.questions, self.made = results, questions, made

    def rebuild(self, made: Sequence[Tensor], given: Sequence[Tensor]) -> Any:
        """As `Results.rebuild`."""
        return self.results.rebuild(made, given, self)

    def __getitem__(self, k: int) -> Any:
        number = self.made[k][0].item()
        return float(number) if self.questions[k].why == "float()" else number


class Always:
    """The guard of what is always valid."""

    def holds(self) -> bool:
        return True
