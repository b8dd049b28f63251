"""growth: a call that runs the code on symbolic tensors, and what it adds to the tree of programs.

See Note [Trees of programs] in tree.py.
"""

from __future__ import annotations

import functools
from collections.abc import Callable, Sequence
from dataclasses import replace
from typing import TYPE_CHECKING, Any

import numpy as np

from ..autodiff.bind import current_node
from ..autodiff.handle import Tensor
from ..ir.errors import TraceError
from ..ir.evaluate import evaluate
from ..ir.graph import Node, Value
from .entry import Entry
from .inspect import explain
from .partition import ancestors, choose, extract
from .questions import Array, PathTracer, Question, Signatures, Values
from .results import Results
from .run import Run, name_of
from .trace import Guard, Slot
from .ways import ARGUMENT, EAGER, NUMBER, RETURN_IT, Answered, Call, Leaf, Point, Segment, Source

if TYPE_CHECKING:
    from .tree import Tree

MAX_QUESTIONS = 100  # in one call


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
            raise TraceError(f"it asked for {MAX_QUESTIONS} values in one call, at last {question}", hint=RETURN_IT)
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
        self._places: dict[Value, Source] = {v: (ARGUMENT, i) for i, v in enumerate(growth.run.starts)}
        self._places.update((v, (NUMBER, i)) for i, v in enumerate(growth.tracer.numbers))
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
