"""The passes between a trace and a program: run in order, each verified, timed, printable and skippable."""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import NamedTuple

from ..ir import config
from ..ir.errors import TwofoldError
from ..ir.graph import Graph
from .passes import canonicalize, fold, layout, prune, share, split

# In this order; each is a function from Graph to Graph.
PASSES: tuple[Callable[[Graph], Graph], ...] = (prune, fold, split, layout, canonicalize, share, prune)
TRACE = "trace"  # the name of the graph before all passes
# decided after the passes, can be left out like them: see group.py, schedule.py and Program._plan
LATER = ("fuse", "chain", "reuse")


class Stage(NamedTuple):
    """One pass that ran: its name, how long it took, and how many nodes it left."""

    name: str
    seconds: float
    num_nodes: int


class History:
    """How a graph was optimized.

    Args:
        source: the traced graph.

    Attributes:
        stages: a Stage for each pass that ran.
        skipped: names of passes that did not, because of TWOFOLD_SKIP_PASSES.
    """

    def __init__(self, source: Graph):
        self.source = source
        self.stages: list[Stage] = []
        self.skipped = config.SKIP_PASSES.value

    def after(self, name: str) -> Graph:
        """The graph after a pass, made anew; after the last of that name if there are several."""
        names = [TRACE, *(stage.name for stage in self.stages)]
        if name not in names:
            raise TwofoldError(f"no pass {name!r} ran", op="graph_after", hint=f"there are {', '.join(names)}")
        return self.after_number(len(names) - 1 - names[::-1].index(name))

    def after_number(self, number: int) -> Graph:
        """The graph after so many of the passes that ran."""
        graph = self.source
        for run in [run for run in PASSES if run.__name__ not in self.skipped][:number]:
            graph = run(graph)
        return graph


def run_passes(source: Graph) -> tuple[Graph, History]:
    """Optimize a graph. The result is verified; while debugging, that of every pass.

    Raises: TwofoldError if TWOFOLD_SKIP_PASSES names a pass that there is not.
    """
    history = History(source)
    known = {*LATER, *(run.__name__ for run in PASSES)}
    if not history.skipped <= known:
        raise TwofoldError(
            f"{config.SKIP_PASSES.name} has {sorted(history.skipped - known)}, which are no passes",
            hint=f"passes are {', '.join(sorted(known))}",
        )
    graph = source
    for run in PASSES:
        if run.__name__ in history.skipped:
            continue
        started = time.perf_counter()
        graph = run(graph)
        history.stages.append(Stage(run.__name__, time.perf_counter() - started, len(graph.nodes)))
        if config.DEBUG.value:
            graph.verify()
    return graph.verify(), history


def optimize(source: Graph) -> Graph:
    """A graph after all passes."""
    return run_passes(source)[0]
