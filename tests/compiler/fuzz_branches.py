"""Random programs whose lines depend on values: `if`, loops, numbers and masks put into those of the fuzzer.

python tests/compiler/fuzz_branches.py 1000 200      # 200 programs from seed 1000 on
"""

from __future__ import annotations

import random
import sys
import time
import traceback
import warnings
from collections import Counter
from dataclasses import replace
from typing import Any

import numpy as np
from fuzz import write
from fuzz_program import EPS, Run, Source

import twofold as tw

CALLS = 7


def program(seed: int) -> Source | None:
    """The program of a seed with questions in it; None if it has no place for one."""
    source = write(seed)
    if source.eps != EPS["float64"]:
        return None  # the comparison is to be strict, whatever the program does to rounding errors
    rng = random.Random(seed)
    names = [f"x{i}" for i in range(len(source.args))] + [f"s{i}" for i in range(len(source.buffers))]
    lines: list[str] = []
    asked = 0
    run = Run(source)
    env: dict[str, Any] = run.step.__globals__ | {f"x{i}": x for i, x in enumerate(run.args)}
    for line in source.lines:
        name, _, text = line.partition(" = ")
        try:
            exec(line, env)
            value = env.get(name) if name.isidentifier() and text else None
        except Exception:
            value = None
        plain = isinstance(value, tw.Tensor) and value.dtype is tw.float64 and value.type_.size > 0
        if not plain or rng.random() > 0.5 or name in ("x0", "x1", "x2", "s0", "s1", "p0", "p1"):
            lines.append(line)
            continue
        asked += 1
        lines += _ask(rng, name, text, rng.choice(names))
    return replace(source, lines=lines) if asked else None


def _ask(rng: random.Random, name: str, text: str, of: str) -> list[str]:
    """Lines that do what `name = text` does, or nearly: the type is the same, the value depends on answers."""
    limit = rng.choice((-0.31, 0.07, 0.52, 1.3))
    test = rng.choice((f"({of} > {limit}).sum() % 2 == 0", f"{of}.sum() > {limit}", f"({of} < {limit}).any()"))
    kind = rng.choice(("if", "if", "else", "effect", "loop", "number", "mask", "early"))
    if kind == "if":
        return [f"{name} = {text}", f"if {test}:", f"    {name} = {name} * 0.5 + 0.25"]
    if kind == "else":
        return [f"if {test}:", f"    {name} = {text}", "else:", f"    {name} = 0.25 - ({text})"]
    if kind == "effect":
        return [
            f"{name} = ({text}).clone()",
            f"if {test}:",
            f"    {name}.mul_(0.5)",
            "else:",
            f"    {name} += 0.125",
        ]
    if kind == "loop":
        return [
            f"{name} = {text}", f"turns = {of}.double().sum() * 0 + ({of} > {limit}).sum() % 4", "while turns > 0:",
            f"    {name} = {name} * 0.75", "    turns = turns - 1",
        ]  # fmt: skip
    if kind == "number":
        return [
            f"number = ({of} > {limit}).double().mean().item()",
            f"{name} = ({text}) * (number + 0.5) - 2 * number",
        ]
    if kind == "mask":
        return [f"{name} = {text}", f"{name} = {name} + 0.125 * {name}[{name}.detach() > {limit}].sum()"]
    return [f"{name} = {text}", f"if {test} and {of}.max() > {limit}:", f"    return [{name}.detach() * 0]"]


def results(source: Source, how: Any) -> list[list[np.ndarray]]:
    """What all calls leave, with other arguments each time."""
    run = Run(source)
    step = how(run.step)
    given = [[np.roll(a.ravel(), k).reshape(a.shape) for a in source.args] for k in range(CALLS)]
    out = []
    for k, arrays in enumerate(given):
        with tw.no_grad():
            for x, a in zip(run.args, arrays, strict=True):
                x.copy_(tw.tensor(a if a.dtype.kind in "bu" or k % 2 else -a))
        out.append(run.call(step))
        if any(t.requires_grad for t in (*run.args, *run.buffers)):
            raise ValueError("the history reaches back beyond a call")
    return out


def check(source: Source) -> str:
    """Compare eager and compiled code; how it ran: "compiled", "refused", or "" if it does not run eagerly."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        try:
            expected = results(source, lambda step: step)
        except Exception:
            return ""
        if not all(np.all(np.isfinite(a.astype(np.float64))) for out in expected for a in out):
            return ""
        if max(float(np.abs(a.astype(np.float64)).max(initial=0)) for out in expected for a in out[:-1]) > 1e6:
            return ""
        steps: list[Any] = []
        got = results(source, lambda step: steps.append(tw.compile(step)) or steps[0])
    for call, (want, have) in enumerate(zip(expected, got, strict=True)):
        assert len(want) == len(have), f"call {call}: {len(have)} tensors, expected {len(want)}"
        for i, (a, b) in enumerate(zip(want, have, strict=True)):
            same = (a.shape, a.dtype, a.tobytes()) == (b.shape, b.dtype, b.tobytes())
            assert same, f"call {call}, tensor {i} of {len(want)}:\n{b!r}\nexpected\n{a!r}"
    programs = [s for known in steps[0].specializations.values() for _, s in known]
    return "refused" if any(s is None or getattr(s, "refused", False) for s in programs) else "compiled"


def main(start: int, count: int) -> None:
    began, ran = time.perf_counter(), Counter[str]()
    for seed in range(start, start + count):
        source = program(seed)
        if source is None:
            continue
        try:
            ran[check(source)] += 1
        except Exception:
            ran["failed"] += 1
            why = traceback.format_exc(limit=-4)
            print(f"seed {seed}\n{source.state()}\n{source.text()}\n{why}\n{'-' * 80}", flush=True)
    print(f"{count} seeds, {dict(ran)}, {time.perf_counter() - began:.0f} s", flush=True)


if __name__ == "__main__":
    main(int(sys.argv[1]), int(sys.argv[2]))
