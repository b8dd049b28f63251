"""What is told about programs when they are made: TWOFOLD_DEBUG, TWOFOLD_DUMP and TWOFOLD_EXPLAIN."""

from __future__ import annotations

import itertools
import re
import sys
from collections.abc import Iterator
from pathlib import Path

from ..backends.cpu.jit import assembly
from ..backends.cpu.program import Program
from ..ir import config
from .pipeline import TRACE, History

_numbers = itertools.count(1)


def introduce(program: Program, history: History) -> Program:
    """A new program learns how its graph came to be, and is shown as the settings ask."""
    program.history = history
    name = program.graph.name
    if config.DEBUG.value:
        print(report(program, name, config.DEBUG.value), file=sys.stderr)
    if config.DUMP.value is not None:
        dump(program, name, config.DUMP.value)
    return program


def explain(text: str) -> None:
    """Say why something is compiled, if somebody wants to know."""
    if config.EXPLAIN.value:
        print(f"twofold: {text}", file=sys.stderr)


def report(program: Program, name: str, level: int) -> str:
    """What TWOFOLD_DEBUG shows of a program.

    Args:
        level: 1 the seconds of each step, 2 also the kernels, 3 the graph before and after the passes,
            4 LLVM's language, 5 assembly.
    """
    parts = [f"=== {name}", timings(program)]
    if level >= 2:
        parts.append(str(program.cost()))
    if level >= 3:
        parts += [*graphs(program), "--- program", str(program)]
    if level >= 4:
        parts.append(program.ir())
    if level >= 5:
        parts.append(program.assembly())
    return "\n".join(parts)


def timings(program: Program) -> str:
    """The seconds of every step from the trace to the code, a line each."""
    stages = program.history.stages if program.history is not None else []
    lines = [f"{s.name:<14}{1e3 * s.seconds:>9.2f} ms  {s.num_nodes} nodes left" for s in stages]
    kernels = f"{len(program.texts)} kernels"
    lines += [f"{k:<14}{1e3 * v:>9.2f} ms  {kernels}" for k, v in program.seconds.items()]
    return "\n".join(lines)


def graphs(program: Program) -> Iterator[str]:
    """The trace, and the graph after each pass that changed it; not the last one, if that is the program's."""
    if program.history is None or program.graph.name.endswith("_backward"):  # which has the history of its forward
        return
    shown = program.graph.fingerprint()
    before = ""
    for i, name in enumerate([TRACE, *(stage.name for stage in program.history.stages)]):
        graph = program.history.after_number(i)
        now = graph.fingerprint()
        if now not in (before, shown):
            yield f"--- {'after ' if i else ''}{name}\n{graph}"
        before = now


def dump(program: Program, name: str, folder: Path) -> Path:
    """Write all forms of a program into a folder of its own, whose path is returned.

    Files: `00-trace.txt` and the graph after each pass; `program.txt`, the graph with its kernels;
    `cost.txt`; `ir/` and `asm/` with a file for each kernel; `seconds.txt`.
    """
    place = folder / f"{next(_numbers):03}-{re.sub('[^A-Za-z0-9_.-]+', '-', name)}"
    for sub in (place / "ir", place / "asm"):
        sub.mkdir(parents=True, exist_ok=True)
    if program.history is not None:
        names = [TRACE, *(stage.name for stage in program.history.stages)]
        for i, stage in enumerate(names):
            graph = program.history.after_number(i)
            (place / f"{i:02}-{stage}.txt").write_text(f"{graph}\n")
    (place / "program.txt").write_text(f"{program}\n")
    (place / "cost.txt").write_text(f"{program.cost()}\n")
    (place / "seconds.txt").write_text(f"{timings(program)}\n")
    for symbol, text in program.texts.items():
        (place / "ir" / f"{symbol}.ll").write_text(text)
        (place / "asm" / f"{symbol}.s").write_text(assembly(text, program.target))
    return place
