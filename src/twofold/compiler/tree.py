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

import warnings
from collections.abc import Callable, Iterator, Sequence
from typing import Any

from ..autodiff.handle import Tensor
from ..backends.cpu.items import Batch
from ..backends.cpu.program import Program
from ..ir.errors import TraceError, TwofoldError, TwofoldWarning
from ..ir.graph import Graph
from .growth import Again, Growth
from .inspect import explain, introduce
from .leading import is_worth
from .pipeline import run_passes
from .run import name_of
from .specialize import Specialization, specialize
from .trace import Trace
from .ways import EAGER, MAX_ANSWERS, Always, Answered, Call, Leaf, Point


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
