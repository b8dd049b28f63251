"""tree: the programs of a function that asks for values: one up to each question, then one for each way to go on.

Note [Trees of programs]
A *segment* is a program that computes what a question asks, and hands on what it made that later programs need.
It writes nothing; all changes of arguments and state are made by the *leaf*, the program after the last question.
So until a leaf runs nothing has happened, and a call can always begin anew, traced or eagerly.

A call goes down the tree by the answers. Where there is no program for an answer, the code is run once more on
symbolic tensors, with the answers of this call: what it does up to there must be what the tree has (by structure;
if it is not, it counts, not the tree), and what it does then becomes a new branch. The values that a new branch
lacks in this call are computed by NumPy; later calls get them from the segments, which are made again to hand them
on if they did not.

Note [Who leads]
Where all answers are bools and few integers, the tree leads, and Python does not run at all: what the code does
besides working on tensors happens in the calls that trace. Where a number is asked for that could be any
(`loss.item()`), Python leads: every call runs the code on symbolic tensors, operations cost no more than being
compared with those of the tree, and the programs run where the code asks, and at its end. So the number is used as
the code says, whatever it does with it. Where arrays are so small that eager code is faster than this, later calls
are eager (leading.py); what Python does is the same.
"""

from __future__ import annotations

import functools
import warnings
from collections.abc import Callable, Iterator, Sequence
from dataclasses import replace
from typing import Any

import numpy as np

from ..autodiff.bind import current_node
from ..autodiff.handle import Tensor
from ..backends.cpu.items import Batch
from ..backends.cpu.program import Program
from ..ir.errors import TraceError, TwofoldError, TwofoldWarning
from ..ir.evaluate import evaluate
from ..ir.graph import Graph, Node, Value
from .entry import Entry
from .inspect import explain, introduce
from .leading import is_worth
from .partition import ancestors, choose, extract
from .pipeline import run_passes
from .questions import Array, PathTracer, Question, Signatures, Values
from .results import Results
from .run import Run, name_of
from .specialize import Specialization, specialize
from .trace import Guard, Slot, Trace

MAX_QUESTIONS = 100  # in one call
MAX_ANSWERS = 8  # to one question, with programs of their own
MAX_WAYS = 8  # to go on after one answer

EAGER: Any = object()  # instead of a result: the call is to be run eagerly, nothing has happened

_RETURN_IT = (
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
            raise TraceError(f"after {after} it does different things each time", hint=_RETURN_IT)
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
_ARGUMENT, _NUMBER = "argument", "number"


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
        if where is _ARGUMENT:
            return self.tensors[number]._value
        if where is _NUMBER:
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


class Tree:
    """All programs of a function for arguments of given types.

    Attributes:
        num_programs: how often something was compiled.
        refused: the whole tree is run eagerly.
    """

    def __init__(self, fn: Callable[..., Any], asks: bool, batch: Batch | None = None):
        self.fn, self.asks, self.batch = fn, asks, batch or Batch()
        self.names: list[str] | None = None  # of the arguments
        self.start = Point()
        self.marks = True  # where numbers are only returned
        self.led = False  # by Python: see Note [Who leads]
        self.worth = False  # that Python leads, for one way at least
        self.refused = False
        self.num_programs = 0
        self._programs: dict[Graph, Program] = {}  # of segments, which may be equal: the turns of a loop
        self._told = False

    # --- as a guard and a program of `Compiled` ------------------------------------------------

    def holds(self) -> bool:
        """Whether it knows how to begin."""
        return self.led or self.refused or self.start.follow() is not None

    def difference(self) -> str:
        """What has changed, in words."""
        return self.start.ways[-1].guard.difference()

    def shares(self, tensors: Sequence[Tensor]) -> bool:
        """Each leaf looks for itself."""
        return False

    def run(self, tensors: Sequence[Tensor], args: Any = None, kwargs: Any = None) -> Any:
        """Call the programs; EAGER if that is not possible, before anything has happened.

        Args:
            args, kwargs: of the call, if they are more than the tensors.
        """
        if self.refused:
            return EAGER
        call = Call(tensors)
        if not self.led:
            try:
                leaf = self._descend(call)
            except TwofoldError:
                return EAGER  # raises the error where it is due
            if leaf is not None:
                return self.end(leaf, call)
        try:
            growth = self.trace(tensors, tensors if args is None else args, kwargs or {}, call)
        except TraceError as error:
            self._refuse(error, call)
        except Again:
            pass
        else:
            return self.finish(growth)
        return EAGER

    def trace(self, tensors: Sequence[Tensor], args: Any, kwargs: Any, ready: Call | None = None) -> Growth:
        """Run the code on symbolic tensors, with the answers of this call; see `Growth.trace`."""
        growth = Growth(self, tensors, args, kwargs, ready or Call(tensors))
        growth.trace()
        return growth

    def finish(self, growth: Growth) -> Any:
        """The results of a call that was traced."""
        try:
            ready = growth.prepare()
        except TraceError as error:
            self._refuse(error, growth.call)
            return EAGER
        result = ready()
        if self.led and not self.worth:
            self._weigh(growth)
        return result

    def _weigh(self, growth: Growth) -> None:
        """Run later calls eagerly if that is faster than to trace them."""
        tracer = growth.tracer
        self.worth = is_worth(tracer.graph, {root.start.shape for root in tracer.roots.values()})
        if not self.worth:
            self.refused = True
            explain(
                f"{name_of(self.fn)} runs eagerly from now on: to trace it in each call costs more than it saves"
            )

    def _descend(self, call: Call) -> Leaf | None:
        point: Point | None = self.start
        while point is not None:
            way = point.follow()
            if way is None or isinstance(way, Leaf):
                return way
            point = way.points.get(way.key(call.run(way)))
        return None

    def end(self, leaf: Leaf, call: Call, result: Any = None) -> Any:
        """The results of a call that comes to a leaf, or EAGER."""
        if leaf.spec is None or leaf.spec.shares(call.tensors):
            return EAGER
        results = result or leaf.spec.trace.results
        if results.gives_numbers:
            result = Answered(results, [s.question for s in call.segments], call.made)
        return leaf.spec.run(call.tensors, [call.read(s) for s in leaf.sources], result)

    def _refuse(self, error: TraceError, call: Call) -> None:
        """Run this branch eagerly from now on, or everything if it can't be told without running the code."""
        last = call.segments[-1] if call.segments else None
        if last is not None and not self.led and len(last.points) < 2 * MAX_ANSWERS:
            point = last.points.setdefault(last.key(call.made[-1]), Point())
            point.ways.append(Leaf(None, None, Always()))
            what = f"a branch of {name_of(self.fn)}, after {last.question}, runs"
        else:
            self.refused = True
            what = f"compiled {name_of(self.fn)} runs"
        if not self._told:
            self._told = True
            warnings.warn(f"{what} eagerly, because it can't be traced: {error}", TwofoldWarning, stacklevel=5)

    # --- making programs -------------------------------------------------------------------------

    def compile_segment(self, graph: Graph, batch: Batch) -> Program | None:
        """The program of a segment; None if there is nothing to be computed."""
        if not graph.nodes:
            return None
        program = self._programs.get(graph)
        if program is None:
            optimized, history = run_passes(graph)
            program = self._programs[graph] = introduce(Program(optimized, batch=batch), history)
            self.num_programs += 1
        return program

    def compile_leaf(self, trace: Trace) -> Specialization | None:
        """The program of a leaf; None where eager code is to raise the error of the gradients."""
        if trace.derivative is not None and trace.derivative.error is not None:
            return None
        self.num_programs += 1
        return specialize(trace, self.batch.planned)

    # --- for people ------------------------------------------------------------------------------

    def lines(self) -> Iterator[str]:
        """The tree: questions, answers, programs."""
        if self.refused:
            small = self.led and not self._told
            yield "runs eagerly" + (", because numbers are asked for and arrays are small" if small else "")
        elif self.led:
            yield "Python runs in every call, because numbers are asked for"
        yield from _lines(self.start, "")


def _lines(point: Point, indent: str) -> Iterator[str]:
    for way in point.ways:
        if isinstance(way, Leaf):
            count = "eager" if way.spec is None else f"{len(way.spec.program.graph.nodes)} operations, then the end"
            yield f"{indent}{count}"
            continue
        count = 0 if way.program is None else len(way.program.graph.nodes)  # type: ignore[assignment]
        yield f"{indent}{count} operations, then {way.question}"
        for key, after in way.points.items():
            answer = "any" if way.numeric else way.question.shown(key)
            yield f"{indent}  {answer}{', which is returned' if way.question.is_returned else ''}:"
            yield from _lines(after, indent + "    ")


class Again(Exception):
    """The call is to be run eagerly, this time."""


class Growth:
    """A call that runs the code on symbolic tensors, along the tree as far as that goes."""

    def __init__(self, tree: Tree, tensors: Sequence[Tensor], args: Any, kwargs: Any, ready: Call):
        self.tree, self.tensors = tree, tensors
        self.tracer = PathTracer(tree.fn, name_of(tree.fn))
        self.tracer.asks, self.tracer.marks = tree.asks, tree.marks
        self.tracer.answer = self._answer
        self.run = Run(tree.fn, args, kwargs, self.tracer, tree.names)
        tree.names = self.run.names
        self.values = Values(self.tracer, self.run.starts, [t._value for t in tensors])
        self.signatures = Signatures(self.tracer)
        self.ready, self.call = ready, Call(tensors)
        self.call.numbers = _Numbers(self.tracer)
        self.path: list[Segment] = []
        self.questions: list[Question] = []
        self.answers: list[list[Array]] = []
        self.point: Point | None = tree.start  # None where the tree does not go on
        self.lifted: set[int] = set()  # numbers that are inputs of programs
        self.old: Segment | Leaf | None = None  # the place of the first new one, if that has other numbers only
        self.seen = 0  # numbers of parts before

    # --- while the code runs ---------------------------------------------------------------------

    def _answer(self, question: Question) -> list[Array]:
        if len(self.path) == MAX_QUESTIONS:
            raise TraceError(
                f"it asked for {MAX_QUESTIONS} values in one call, at last {question}", hint=_RETURN_IT
            )
        signature = (
            self.signatures.part(), question.why, question.prim,
            self.signatures.keys(question.values), str(question.params), question.is_returned,
        )  # fmt: skip
        segment = self._find(signature)
        if segment is None:
            arrays = self._ask(question)
            segment = self._new(Segment(question, signature))
        else:
            k = len(self.call.made)
            if self.ready.segments[k : k + 1] == [segment]:
                self.call.segments.append(segment)
                self.call.made.append(self.ready.made[k])
            else:
                self.ready = Call(self.tensors)
                self.call.run(segment)
            made = self.call.made[-1]
            arrays = made[: segment.num_asked]
            nodes, known = self.tracer.graph.nodes, self.values.known
            for (number, index), array in zip(segment.outputs, made[segment.num_asked :], strict=True):
                known[nodes[number].outputs[index]] = array
            known.update(zip(question.values, arrays, strict=False))
            self.point = segment.point(arrays)
        if segment.numeric and not question.is_returned:
            self.tree.led = self.tracer.vary = True
        if question.prim is not None:
            self.values.found.append(arrays[-1])
        self.tracer.num_asked += 1
        self.path.append(segment)
        self.questions.append(question)
        self.answers.append(arrays)
        return arrays

    def _find(self, signature: Any) -> Any:
        """The program of the tree for the part just traced, or None; numbers that are others are lifted."""
        now = {i: self.call.numbers[i].tobytes() for i in range(self.seen, len(self.tracer.numbers))}
        self.seen, self.numbers = len(self.tracer.numbers), now
        ways = [] if self.point is None else self.point.find(signature)
        for way in ways:
            if not way.others(now):
                self.lifted |= way.lifted
                return way
        self.others: set[int] = set()
        if self.point is not None:
            if ways and self.tree.led:
                self.old = ways[0]
                self.others = ways[0].lifted | ways[0].others(now)
            self.point = None
        self.lifted |= self.others
        return None

    def _new(self, way: Any) -> Any:
        way.numbers, way.lifted = self.numbers, self.others
        return way

    def _ask(self, question: Question) -> list[Array]:
        arrays = [self.values[v] for v in question.values]
        if question.prim is not None:
            arrays.append(evaluate(question.prim, arrays, question.params))
        return arrays

    def trace(self) -> None:
        """Run the code.

        Raises: TraceError, or Again, and nothing has happened; what the code raises, and its changes are made.
        """
        run, failed = self.run, None
        with self.tracer:
            try:
                run.call()
            except TraceError:
                raise
            except Exception as error:
                failed = error
            if failed is None:
                if not self.tracer.is_consistent(run.result):
                    self.tree.marks = False
                    raise Again
                run.end(derivative=True)
                self.signature = self._signature()
            else:
                changes = self._changes()
        if failed is not None:
            self._change(changes)
            raise failed
        self.leaf = self._find(self.signature)
        self.results = Results(run.marks, run.result_tree)
        if self.leaf is None:
            self.result = run.finish()

    def _signature(self) -> Any:
        run, signatures = self.run, self.signatures
        part, d = signatures.part(), run.derivative
        gradients = None if d is None else (
            tuple(d.roots), signatures.keys(d.values), d.error is None,
            tuple([w if isinstance(w, int) else (id(w),) for w in d.wanted]),
        )  # fmt: skip
        return (
            "end", part, signatures.keys(run.outputs), len(run.made), tuple(run.flags), gradients,
            tuple(map(_place, run.updates)), tuple(map(_place, run.cleared)),
        )  # fmt: skip

    # --- where the code raises -------------------------------------------------------------------

    def _changes(self) -> list[Array]:
        """The arrays of all that the code has changed until it raised."""
        run = self.run
        try:
            run.outputs = []
            run.collect_changes()
            for target in run.updates:
                handle = run.handles[target] if isinstance(target, int) else target.handle
                node = current_node(handle)
                if (
                    node is not None
                    and not isinstance(node, Entry)
                    and (isinstance(target, int) or not target.is_grad)
                ):
                    raise Again
            return [np.array(self.values[v]) for v in run.outputs]
        except Exception as error:
            raise Again from error

    def _change(self, arrays: Sequence[Array]) -> None:
        for target, array in zip(self.run.updates, arrays, strict=True):
            self._slot(target).write(array)
        for slot in self.run.cleared:
            slot.write(None)
        for i, flag in self.run.flags:
            self.tensors[i]._requires_grad = flag

    def _slot(self, target: Slot | int) -> Slot:
        if isinstance(target, int):
            return Slot(self.tensors[target])
        return target if target.argument is None else Slot(self.tensors[target.argument], is_grad=True)

    # --- afterwards ------------------------------------------------------------------------------

    def prepare(self) -> Callable[[], Any]:
        """What runs the end of this path, compiled if it is new, and gives the results or EAGER."""
        if self.leaf is not None:
            return functools.partial(self.tree.end, self.leaf, self.call, self.results)
        if len(self.path) == len(self.call.made):
            self._tell("goes on in a new way")
        new, carried = self._grow()
        spec = new.spec
        if spec is None or spec.shares(self.tensors):
            return lambda: EAGER
        arrays = [*self.values.found, *[self.values[v] for v in (*self._lifted(), *carried)]]
        result = Answered(self.results, self.questions, self.answers) if self.results.gives_numbers else None
        return lambda: spec.run(self.tensors, arrays, result)

    def _tell(self, what: str) -> None:
        if self.questions:
            question, arrays = self.questions[-1], self.answers[-1]
            explain(f"{name_of(self.tree.fn)} {what} after {question} gave {question.shown(question.key(arrays))}")

    def _lifted(self) -> list[Value]:
        numbers = list(self.tracer.numbers)
        return [numbers[i] for i in sorted(self.lifted)]

    def _grow(self) -> tuple[Leaf, list[Value]]:
        """Make what this path lacks, and hang it into the tree."""
        trace, tree = self.result, self.tree
        plan = Plan(self)
        for k in range(len(self.path)):
            plan.make_segment(k)
        carried = [v for v in plan.saved[-1] if v.node is not None]
        graph = trace.graph
        first = trace.num_args + sum(slot.is_grad for slot in trace.state) + trace.num_found
        lifted = self._lifted()
        if self.path:
            before, after = [*graph.inputs[:first], *lifted], graph.inputs[first:]
            trace.rest = extract(graph, [*before, *carried, *after], graph.outputs, plan.nodes[-1])
            if lifted:
                trace.graph = extract(graph, [*before, *after], graph.outputs, set(graph.nodes))
            trace.num_found, trace.num_carried = trace.num_found + len(lifted), len(carried)
        sources = [plan.source(v) for v in (*self.tracer.found, *lifted, *carried)]
        leaf = self._new(Leaf(tree.compile_leaf(trace), self.signature, trace.guard, sources))
        point, old = tree.start, self.old
        for segment, question, arrays in zip(self.path, self.questions, self.answers, strict=True):
            if segment not in point.ways:
                segment.guard = Guard(self.tracer, question.met)
                point.add(segment, old, "the beginning" if point is tree.start else str(question))
                old = None
            point = segment.point(arrays)
            tree.led = tree.led or (segment.numeric and not question.is_returned)
        point.add(leaf, old, str(self.questions[-1]) if self.questions else "the beginning")
        return leaf, carried


def _place(target: Slot | int) -> Any:
    """A name of a place that is written, which does not depend on the run."""
    if isinstance(target, int):
        return target
    if target.argument is not None:
        return (target.argument,)
    return (id(target.handle), target.is_grad, target.in_place)


class _Numbers(Sequence[Array]):
    """The numbers that a tracer has met."""

    def __init__(self, tracer: PathTracer):
        self._tracer = tracer
        self._arrays: list[Array] = []

    def __len__(self) -> int:
        return len(self._tracer.numbers)

    def __getitem__(self, i: Any) -> Any:
        if len(self._arrays) < len(self):
            self._arrays = list(self._tracer.numbers.values())
        return self._arrays[i]


class Plan:
    """How the graph of a path is cut: each operation belongs to the first question that needs it, or to the end.

    Attributes:
        nodes: of each segment, then of the leaf; what is cheap is made again.
        saved: the inputs of each of them.
    """

    def __init__(self, growth: Growth):
        self.growth, self.graph = growth, growth.result.graph
        self.nodes: list[set[Node]] = []
        self.saved: list[list[Value]] = []
        self.needed: list[dict[Value, None]] = [{} for _ in growth.path]  # of what each segment computes
        stage: dict[Node, int] = {}
        lifted = growth._lifted()
        asked: list[Sequence[Value]] = [q.values for q in growth.questions]
        for k, values in enumerate([*asked, self.graph.outputs]):
            behind = ancestors(values) - stage.keys()
            saved, again = choose(self.graph, set(), behind, set(), {}, list(values))
            stage.update(dict.fromkeys(behind, k))
            nodes = behind | again
            used = {v for node in nodes for v in node.inputs}.union(values)
            self.nodes.append(nodes)
            self.saved.append(saved + [v for v in lifted if v in used])
            for v in saved:
                if v.node is not None:
                    self.needed[stage[v.node]][v] = None
        self._stage = stage
        trace = growth.result
        self._places: dict[Value, Source] = {v: (_ARGUMENT, i) for i, v in enumerate(growth.run.starts)}
        self._places.update((v, (_NUMBER, i)) for i, v in enumerate(growth.tracer.numbers))
        starts = {root.start: key for key, root in growth.tracer.roots.items()}
        owners = growth.tracer.owners()
        for value, key in starts.items():
            owner = owners.get(key)
            root = growth.tracer.roots[key]
            self._places[value] = (Slot(root.handle) if owner is None else Slot(owner, is_grad=True), None)
        found = [k for k, q in enumerate(growth.questions) if q.prim is not None]
        for v, k in zip(growth.tracer.found, found, strict=True):
            self._places[v] = (k, len(growth.questions[k].values))
        assert trace.num_found == len(found)

    def make_segment(self, k: int) -> None:
        """Compile a segment that is new, or that has to hand on more."""
        growth = self.growth
        segment, keys = growth.path[k], growth.signatures
        names = {keys.key(v): v for v in self.needed[k]}
        missing = [name for name in names if name not in segment.outputs]
        if not missing and k < len(growth.call.made):
            return
        nodes = growth.tracer.graph.nodes
        outputs = [*segment.outputs, *missing]
        values = [nodes[number].outputs[index] for number, index in outputs]
        own = list(dict.fromkeys(v for v in growth.questions[k].values if v.node in self.nodes[k]))
        graph = extract(self.graph, self.saved[k], [*own, *values], self.nodes[k])
        batch = growth.tree.batch
        items = [i for i, v in enumerate(self.saved[k]) if batch.counts(v)]
        segment.program = growth.tree.compile_segment(graph, replace(batch, inputs=tuple(items)))
        segment.sources = [self.source(v) for v in self.saved[k]]
        segment.asked = [own.index(v) if v in own else self.source(v) for v in growth.questions[k].values]
        segment.outputs = outputs

    def source(self, value: Value) -> Source:
        """Where an input of a program is found."""
        place = self._places.get(value)
        if place is not None:
            return place
        assert value.node is not None
        segment = self.growth.path[self._stage[value.node]]
        name = self.growth.signatures.key(value)
        return (self._stage[value.node], segment.num_asked + segment.outputs.index(name))
