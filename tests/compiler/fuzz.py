"""Random programs for the compiler: written as Python source, so that a failure is its own reproduction.

A program is a function over arguments, parameters and buffers, made line by line: a line is kept if it
runs eagerly and its values stay tame. It is then run eagerly, traced and interpreted, and compiled on one
thread and on two. Compiled code must agree with eager code to the bit. The reference must do so where
values come from exact operations only (movement, integers, comparisons, +, * of inputs), otherwise to rounding.

    python tests/compiler/fuzz.py 1000 200      # 200 programs from seed 1000 on
"""

from __future__ import annotations

import sys
import time
import traceback
import warnings
from dataclasses import replace
from typing import Any

import numpy as np
from fuzz_program import Run, Source
from fuzz_writer import Writer

import twofold as tw
from twofold.ir.evaluate import evaluate


class Mismatch(AssertionError):
    """A program gave different results."""


def write(seed: int) -> Source:
    """The program of a seed."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        tw.manual_seed(seed)
        writer = Writer(seed)
        return writer.program(writer.rng.choice((3, 6, 8, 10, 14)))


def reference(source: Source, calls: int = 2) -> list[list[np.ndarray]] | None:
    """What the step does eagerly, or None if it can't be run (backward over a tensor that was changed)."""
    try:
        run = Run(source)
        return [run.call(run.step) for _ in range(calls)]
    except Exception:
        return None


def check(source: Source, calls: int = 2) -> bool:
    """Compare all ways to run the program; False if it does not run eagerly."""
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        warnings.filterwarnings("ignore", category=RuntimeWarning)
        warnings.filterwarnings("ignore", message=".*(grad|backward|computed outside).*")
        expected = reference(source, calls)
        if expected is None or not all(np.all(np.isfinite(_wide(a))) for out in expected for a in out):
            return False
        run = Run(source)
        run.call(run.step)
        reaches_back = any(t.requires_grad for t in (*run.buffers, *run.args))  # histories, beyond a call
        run = Run(source)
        traced = tw.trace(run.step, *run.args)
        tw.manual_seed(source.seed)
        with _noise(None, 0):  # by the reference
            got = [run.call(traced) for _ in range(calls)]
        _compare(source, expected, got, "traced", traced)
        first = None
        run = Run(source)
        step = tw.compile(run.step)
        for threads in (1, 2):
            tw.set_num_threads(threads)
            run.reset()
            got = [run.call(step) for _ in range(calls)]
            had_history = any(t.requires_grad for t in (*run.buffers, *run.args))  # what reaches back beyond a call
            if not had_history and not any(
                s is not None for known in step.specializations.values() for _, s in known
            ):
                raise Mismatch("it was not compiled: " + step.explain())
            if not had_history and len(step.reasons) > 1:
                raise Mismatch("it was compiled twice: " + step.explain())
            _same_bits(expected[:1], got[:1])
            if not reaches_back:  # programs cut off what does
                _same_bits(expected, got)
            if had_history:  # the tensors can't become what they were
                run = Run(source)
                step = tw.compile(run.step)
            if first is not None:
                for a, b in zip(_flat(first), _flat(got), strict=True):
                    if a.tobytes() != b.tobytes():
                        raise Mismatch(f"one thread and two differ: {a} and {b}")
            first = got
    return True


def _same_bits(expected: Any, got: Any) -> None:
    for call, (want, have) in enumerate(zip(expected, got, strict=True)):
        if len(want) != len(have):
            raise Mismatch(f"compiled: {len(have)} tensors, expected {len(want)}")
        for i, (a, b) in enumerate(zip(want, have, strict=True)):
            if (a.shape, a.dtype, a.tobytes()) != (b.shape, b.dtype, b.tobytes()):
                raise Mismatch(f"compiled, call {call}, tensor {i} of {len(want)}:\n{b!r}\nexpected exactly\n{a!r}")


def _flat(outs: list[list[np.ndarray]]) -> list[np.ndarray]:
    return [a for out in outs for a in out]


def _wide(a: np.ndarray) -> np.ndarray:
    return a if a.dtype.kind in "biu" else a.astype(np.float64)


def _compare(source: Source, expected: Any, got: Any, what: str, traced: Any) -> None:
    skip = 1 if source.loss else 0
    for call, (want, have) in enumerate(zip(expected, got, strict=True)):
        if len(want) != len(have):
            raise Mismatch(f"{what}: {len(have)} tensors, expected {len(want)}")
        scale = max(
            [1.0, *(float(np.abs(_wide(a)).max()) for a in want[:-1] if a.size and a.dtype.kind not in "biu")]
        )
        for i, (a, b) in enumerate(zip(want, have, strict=True)):
            last = skip + len(source.exact) - 1
            where = f"{what}, call {call}, tensor {i} of {len(want)} (results are {skip}..{last})"
            if (a.shape, a.dtype) != (b.shape, b.dtype):
                raise Mismatch(f"{where}: {b.dtype}{b.shape}, expected {a.dtype}{a.shape}")
            exact = a.dtype.kind in "biu"
            if skip <= i < skip + len(source.exact) and call == 0:
                exact = exact or source.exact[i - skip]
            if exact and np.array_equal(a, b):
                continue
            if not exact:
                error = np.abs(_wide(a) - _wide(b))
                limit = 64 * source.eps * (scale + np.abs(_wide(a)))
                if bool(np.all(error <= limit)) or not sensible(source, traced, call, i, float(error.max())):
                    continue
            raise Mismatch(f"{where}:\n{b}\nexpected {'exactly ' if exact else ''}\n{a}")


def sensible(source: Source, traced: Any, call: int, number: int, error: float) -> bool:
    """Whether a difference is more than rounding errors do to this program."""
    worst, plain = 0.0, None
    for seed in range(9):
        rng = np.random.default_rng(seed) if seed else None
        run = Run(source)
        again = tw.trace(run.step, *run.args)
        tw.manual_seed(source.seed)
        with _noise(rng, source.eps):
            try:
                out = [run.call(again) for _ in range(call + 1)][call][number]
            except Exception:
                return False
        if plain is None:
            plain = _wide(out)
        else:
            worst = max(worst, float(np.abs(_wide(out) - plain).max()))
    return not error <= 16 * worst


class _noise:
    """Traces are run by the reference, with rounding errors on every result that is not exact."""

    def __init__(self, rng: Any, eps: float):
        self.rng, self.eps = rng, eps

    def __enter__(self) -> None:
        module = sys.modules["twofold.compiler.trace"]  # the package's `trace` is the function
        self.module, self.old = module, module.interpret
        module.interpret = self.interpret

    def __exit__(self, *_: Any) -> None:
        self.module.interpret = self.old

    def interpret(self, graph: Any, arrays: Any, _: Any) -> Any:
        values = dict(zip(graph.inputs, [a.copy() for a in arrays], strict=True)) | dict(graph.constants)
        for node in graph.nodes:
            out = evaluate(node.prim, [values[v] for v in node.inputs], node.params)
            outs = out if node.prim.multiple else (out,)
            for v, a in zip(node.outputs, outs, strict=True):
                if self.rng is not None and v.dtype.is_floating_point and node.prim.name in _INEXACT:
                    wide = a.astype(np.float64)
                    a = (wide * (1 + self.eps * self.rng.uniform(-2, 2, a.shape))).astype(a.dtype)
                values[v] = a
        return [values[v] for v in graph.outputs]


_INEXACT = {
    "sum",
    "prod",
    "cumsum",
    "cumprod",
    "matmul",
    "conv",
    "conv_input_grad",
    "conv_weight_grad",
    "sum_pool",
    "sum_pool_grad",
    "exp",
    "expm1",
    "log",
    "log1p",
    "sin",
    "cos",
    "tan",
    "tanh",
    "sigmoid",
    "erf",
    "atan",
    "atan2",
    "pow",
    "rsqrt",
    "cosh",
    "sinh",
    "index_put",
    "scatter_add",
    "add",
    "mul",
    "sub",
    "div",
    "sqrt",
}


def verified(source: Source) -> tw.debug.Verification | None:
    """Whether fusing changes any bit of the program; None if it does not run."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        run = Run(source)
        try:
            return tw.debug.verify(run.step, *run.args)
        except (tw.errors.AutogradError, tw.errors.TraceError):
            return None


def failure(source: Source) -> str | None:
    """Why the program fails, or None."""
    try:
        check(source)
    except Mismatch as e:
        return f"Mismatch: {e}"
    except Exception:
        return traceback.format_exc(limit=-6)
    return None


def shrink(source: Source) -> Source:
    """The program with every line, result and term left out that the failure does not need."""
    kind = (failure(source) or "").split(":")[0]

    def still(candidate: Source) -> bool:
        if reference(candidate) is None:
            return False
        why = failure(candidate)
        return why is not None and why.split(":")[0] == kind

    changed = True
    while changed:
        changed = False
        for name in ("loss", "results", "lines"):
            for i in reversed(range(len(getattr(source, name)))):
                items = list(getattr(source, name))
                del items[i]
                rest: dict[str, Any] = {name: items}
                if name == "results":
                    rest["exact"] = [e for k, e in enumerate(source.exact) if k != i]
                candidate = replace(source, **rest)
                if still(candidate):
                    source, changed = candidate, True
    return source


def report(source: Source) -> str:
    """The failure of a program, as short as it can be made."""
    small = shrink(source)
    return f"seed {source.seed}\n{small.state()}\n{small.text()}\n{failure(small)}"


def main(start: int, count: int) -> None:
    began, run, failed = time.perf_counter(), 0, 0
    for seed in range(start, start + count):
        source = write(seed)
        why = None
        try:
            run += check(source)
        except Exception as e:
            why = e
        if why is not None:
            failed += 1
            print(report(source), flush=True)
            print("-" * 80, flush=True)
    print(f"{count} seeds, {run} programs agree, {failed} fail, {time.perf_counter() - began:.0f} s", flush=True)


if __name__ == "__main__":
    main(int(sys.argv[1]), int(sys.argv[2]))
