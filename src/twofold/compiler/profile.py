"""profile: where the time of compiled calls goes, kernel by kernel, and that of eager operations.

While a profile runs, programs run their kernels one by one, to time each; results are the same. That
costs some microseconds a kernel, so the whole is a little slower than without. Of an eager operation
the evaluation is timed, without what is done for tensors and the tape around it.
"""

from __future__ import annotations

import json
import os
import threading
import time
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from typing import Any, Literal

from ..backends.cpu import recording
from ..backends.cpu.cost import StepCost, flops_of
from ..backends.cpu.program import Program
from ..ir.errors import Location, TwofoldError, user_location
from ..ir.evaluate import runner
from ..ir.primitive import PRIMITIVES, Primitive
from ..ir.text import scope_path

By = Literal["kernel", "operation", "line", "layer"]
_BYS = ("kernel", "operation", "line", "layer")
_BACKWARD = "(backward)"


@dataclass(frozen=True, eq=False)
class Origin:
    """What runs: a kernel of a program, an eager operation at a line, or the making of a program.

    Attributes:
        kind: the kernel's ("contract", "rows" ...), "numpy" for a step that calls the reference,
            "eager", "trace" or "compile".
        operations: names of the primitives.
        program: name of the compiled function; "" for an eager operation.
        location: the user's line, or None.
        layer: layers and composites around it: "Sequential.0.linear".
        shape: of the result; of the main operation's where there are several.
        cost: operations and bytes of one run, or None.
        also: how many more lines and layers the kernel belongs to.
    """

    kind: str
    operations: tuple[str, ...]
    program: str = ""
    location: Location | None = None
    layer: str = ""
    shape: tuple[int, ...] | None = None
    cost: StepCost | None = None
    also: int = 0

    @property
    def line(self) -> str:
        """The user's line as "train.py:12"."""
        return f"{Path(self.location.file).name}:{self.location.line}" if self.location is not None else ""

    def __str__(self) -> str:
        shape = "" if self.shape is None else str(self.shape)
        more = f"+{self.also}" if self.also else ""
        return " ".join(filter(None, (self.line, self.layer, shape, more)))


@dataclass(frozen=True)
class Event:
    """One run of something.

    Attributes:
        origin: what ran.
        start_ns, end_ns: by `time.perf_counter_ns`.
        thread: the Python thread that began it.
    """

    origin: Origin
    start_ns: int
    end_ns: int
    thread: int


@dataclass
class Row:
    """Several runs together: a row of a profile's table.

    Attributes:
        name: what they have in common.
        count: how many.
        total_s: seconds of all.
        flops, bytes: of all, as far as known.
    """

    name: str
    origin: Origin
    count: int = 0
    total_s: float = 0.0
    flops: int = 0
    bytes: int = 0

    def add(self, event: Event) -> None:
        """Count one more run."""
        self.count += 1
        self.total_s += (event.end_ns - event.start_ns) / 1e9
        cost = event.origin.cost
        if cost is not None:
            self.flops += cost.flops
            self.bytes += cost.bytes_read + cost.bytes_written


@dataclass
class profile:
    """Times of what runs inside the `with` block, of all threads: print it, or save it as a trace.

    Compiled calls are told kernel by kernel, eager ones operation by operation, each with the line
    and the layer that it comes from. Where a kernel covers several lines, it counts for that of its
    product, or of its first operation.

    Attributes:
        events: all that ran, in the order in which it ended.
        wall_s: seconds between the begin and the end of the block.

    >>> import twofold as tw
    >>> f = tw.compile(lambda x: (x @ x).relu())
    >>> with tw.profile() as p:
    ...     for _ in range(3):
    ...         y = f(tw.ones(8, 8))
    >>> row = next(row for row in p.rows() if "matmul" in row.name)
    >>> row.count, row.flops
    (3, 3072)
    """

    wall_s: float = 0.0
    _raw: list[tuple[Any, ...]] = field(default_factory=list, repr=False)
    _began: int = field(default=0, repr=False)
    _before: Any = field(default=None, repr=False)
    _runs: dict[Primitive, Any] = field(default_factory=dict, repr=False)

    def __enter__(self) -> profile:
        if self._began:
            raise TwofoldError("a profile is for one block", op="profile", hint="make another one: tw.profile()")
        self._before = recording.listen(self)
        self._runs = {p: p.run for p in PRIMITIVES.values()}
        for p, run in self._runs.items():
            p.run = self._timed(p, run or runner(p))
        self._began = time.perf_counter_ns()
        return self

    def __exit__(self, *exc: Any) -> None:
        self.wall_s = (time.perf_counter_ns() - self._began) / 1e9
        recording.listen(self._before)
        for p, run in self._runs.items():
            p.run = run

    # --- what happens ---------------------------------------------------------------------------

    def step(self, program: Program, number: int, start: int, end: int) -> None:
        """A kernel ran."""
        self._raw.append((program, number, start, end, threading.get_ident()))
        if self._before is not None:
            self._before.step(program, number, start, end)

    def span(self, kind: str, name: str, start: int, end: int) -> None:
        """Something else happened: a function was traced or compiled."""
        self._raw.append((kind, name, start, end, threading.get_ident()))
        if self._before is not None:
            self._before.span(kind, name, start, end)

    def _timed(self, p: Primitive, run: Callable[..., Any]) -> Callable[..., Any]:
        """How eager code evaluates a primitive meanwhile."""

        def timed(*values: Any, **params: Any) -> Any:
            start = time.perf_counter_ns()
            result = run(*values, **params)
            end = time.perf_counter_ns()
            shape = getattr(result, "shape", None)
            self._raw.append((p, (user_location(), shape), start, end, threading.get_ident()))
            return result

        return timed

    # --- afterwards -----------------------------------------------------------------------------

    @property
    def events(self) -> list[Event]:
        """All that ran."""
        if len(self._told) != len(self._raw):
            del self.__dict__["_told"]
        return self._told

    @cached_property
    def _told(self) -> list[Event]:
        origins: dict[Any, Origin] = {}
        events = []
        for what, detail, start, end, thread in self._raw:
            key = (id(what), detail)  # both stay alive in _raw
            if key not in origins:
                origins[key] = _origin(what, detail)
            events.append(Event(origins[key], start, end, thread))
        return events

    def rows(self, by: By = "kernel") -> list[Row]:
        """The runs together that have the same kernel (or operation, line, layer), the longest first."""
        if by not in _BYS:
            raise TwofoldError(f"rows are by {', '.join(_BYS)}, got {by!r}", op="profile")
        rows: dict[Any, Row] = {}
        for event in self.events:
            origin = event.origin
            name = _name(origin, by)
            key = id(origin) if by == "kernel" and origin.cost is not None else name
            row = rows.get(key)
            if row is None:
                row = rows[key] = Row(name, origin)
            row.add(event)
        return sorted(rows.values(), key=lambda row: -row.total_s)

    def table(self, by: By = "kernel", limit: int | None = 30) -> str:
        """The longest rows as text, with their share of the wall-clock time.

        Args:
            by: "kernel", "operation", "line" or "layer".
            limit: how many rows; None for all.
        """
        rows = self.rows(by)
        shown = rows[:limit]
        width = max([len(row.name) for row in shown] + [len(by)])
        where = "  where" if by == "kernel" else ""
        columns = f"{'runs':>8}{'total ms':>11}{'us each':>11}{'share':>8}{'GFLOP/s':>9}{'GB/s':>7}"
        lines = [f"{by:<{width}}{columns}{where}"]
        for row in shown:
            seconds = max(row.total_s, 1e-12)
            rates = f"{row.flops / seconds / 1e9:>9.1f}" if row.flops else " " * 9
            rates += f"{row.bytes / seconds / 1e9:>7.1f}" if row.bytes else " " * 7
            share = row.total_s / max(self.wall_s, 1e-12)
            each = 1e6 * row.total_s / row.count
            text = f"{row.name:<{width}}{row.count:>8}{1e3 * row.total_s:>11.3f}{each:>11.2f}{share:>8.1%}{rates}"
            lines.append(f"{text}  {row.origin}".rstrip() if where else text.rstrip())
        if len(rows) > len(shown):
            rest = sum(row.total_s for row in rows[len(shown) :])
            lines.append(f"and {len(rows) - len(shown)} more rows, {1e3 * rest:.3f} ms")
        return "\n".join([*lines, self._summary()])

    def _summary(self) -> str:
        parts: dict[str, float] = {}
        for event in self.events:
            kind = event.origin.kind
            what = {"trace": "tracing", "compile": "compiling", "eager": "eager operations"}.get(kind, "kernels")
            parts[what] = parts.get(what, 0.0) + (event.end_ns - event.start_ns) / 1e6
        wall = 1e3 * self.wall_s
        parts["Python and the rest"] = max(wall - sum(parts.values()), 0.0)
        return f"{wall:.3f} ms in all: " + ", ".join(f"{k} {v:.3f}" for k, v in parts.items())

    def __str__(self) -> str:
        return self.table()

    def save(self, path: str | os.PathLike[str]) -> None:
        """Write a trace that chrome://tracing and https://ui.perfetto.dev open."""
        text = json.dumps({"traceEvents": list(self._trace_events()), "displayTimeUnit": "ns"})
        Path(path).write_text(text, encoding="utf-8")

    def _trace_events(self) -> Iterator[dict[str, Any]]:
        pid = os.getpid()
        yield {"name": "process_name", "ph": "M", "pid": pid, "tid": 0, "args": {"name": "twofold"}}
        names = {thread.ident: thread.name for thread in threading.enumerate()}
        for thread in dict.fromkeys(event.thread for event in self.events):
            name = names.get(thread, f"thread {thread}")
            yield {"name": "thread_name", "ph": "M", "pid": pid, "tid": thread, "args": {"name": name}}
        for start, end, thread, name in self._calls():
            yield self._slice(name, "call", start, end, thread, {})
        for event in self.events:
            origin = event.origin
            args: dict[str, Any] = {"where": str(origin), "operations": " ".join(origin.operations)}
            if origin.location is not None:
                args["line"] = str(origin.location)
            if origin.cost is not None:
                cost = origin.cost
                args.update(flops=cost.flops, bytes_read=cost.bytes_read, bytes_written=cost.bytes_written)
                args["chunks"] = cost.step.chunks
            name = " ".join(_name(origin, "kernel").split())
            yield self._slice(name, origin.kind, event.start_ns, event.end_ns, event.thread, args)

    def _slice(self, name: str, kind: str, start: int, end: int, thread: int, args: Any) -> dict[str, Any]:
        begin, length = (start - self._began) / 1e3, (end - start) / 1e3
        return {"name": name, "cat": kind, "ph": "X", "ts": begin, "dur": length, "pid": os.getpid(), "tid": thread,
                "args": args}  # fmt: skip

    def _calls(self) -> Iterator[tuple[int, int, int, str]]:
        """Calls of programs, from the begin of their first kernel to the end of their last."""
        open_calls: dict[int, list[Any]] = {}
        for what, number, start, end, thread in self._raw:
            if not isinstance(what, Program):
                continue
            call = open_calls.get(thread)
            if call is None or call[3] is not what or number <= call[4]:
                if call is not None:
                    yield call[0], call[1], thread, call[3].graph.name
                open_calls[thread] = [start, end, thread, what, number]
            else:
                call[1], call[4] = end, number
        for thread, call in open_calls.items():
            yield call[0], call[1], thread, call[3].graph.name


def _origin(what: Any, detail: Any) -> Origin:
    """Where an entry of a profile comes from."""
    if isinstance(what, Primitive):
        return Origin("eager", (what.name,), location=detail[0], shape=detail[1])
    if not isinstance(what, Program):
        return Origin(what, (), program=detail)
    cost = what.cost().steps[detail]
    nodes = cost.step.nodes
    main = max(nodes, key=flops_of)
    places = {(n.location, n.scope) for n in nodes}
    return Origin(
        cost.step.kind,
        tuple(n.prim.name for n in nodes),
        what.graph.name,
        main.location,
        _layer(scope_path(main.scope)),
        main.outputs[0].shape,
        cost,
        len(places) - 1,
    )


def _name(origin: Origin, by: By) -> str:
    if origin.kind in ("trace", "compile"):
        return f"{origin.kind} {origin.program}"
    if by == "line":
        return str(origin.location) if origin.location is not None else "?"
    if by == "layer":
        outside = origin.program or "outside layers"
        return f"{outside} {origin.layer}" if origin.layer == _BACKWARD else origin.layer or outside
    return f"{origin.kind:<9} {_short(origin.operations)}"


def _layer(path: str) -> str:
    """A layer's derivatives belong together, whichever of its operations they are of."""
    outer, _, last = path.rpartition(".")
    return f"{outer} {_BACKWARD}".strip() if last.endswith("_backward") else path


def _short(operations: Iterable[str]) -> str:
    text = " ".join(operations)
    return text if len(text) <= 40 else text[:37] + "..."


__all__ = ["Event", "Origin", "Row", "profile"]
