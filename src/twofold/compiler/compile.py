"""compile: the decorator that turns imperative code into native programs."""

from __future__ import annotations

import functools
import warnings
from collections.abc import Callable
from typing import Any

from ..autodiff.handle import Tensor, mode, storage_of, wrap
from ..backends.cpu.program import Program
from ..ir.errors import TraceError, TwofoldWarning
from ..ir.graph import Graph
from ..ir.tree import flatten
from .passes import canonicalize, fold, layout, prune, share
from .trace import Slot, Trace, trace

# In this order; each is a function from Graph to Graph.
PASSES: tuple[Callable[[Graph], Graph], ...] = (prune, fold, layout, canonicalize, share, prune)
_MANY_RETRACES = 8


def optimize(graph: Graph) -> Graph:
    """Run the passes; every result is verified."""
    for run in PASSES:
        graph = run(graph)
    graph.verify()
    return graph


class Specialization:
    """One traced and compiled form of a function: for given types, settings and structure."""

    def __init__(self, traced: Trace):
        self.trace = traced
        num_results = traced.num_results
        position = {id(slot.handle): i for i, slot in enumerate(traced.state) if not slot.is_grad}
        updates: dict[int, int] = {}
        for k, target in enumerate(traced.updates):
            if isinstance(target, int):
                updates[num_results + k] = target
            elif not target.is_grad:
                updates[num_results + k] = traced.num_args + position[id(target.handle)]
        self.program = Program(optimize(traced.graph), updates)
        self.num_results = num_results

    def run(self, tensors: list[Tensor]) -> Any:
        """Call the program on the arguments' tensors; state is read from and written to its place."""
        t = self.trace
        arrays = [x._value for x in tensors] + [slot.read() for slot in t.state]
        outputs = self.program(arrays)
        for target, array in zip(t.updates, outputs[self.num_results :], strict=True):
            if isinstance(target, int):
                storage_of(tensors[target]).version += 1
            elif target.is_grad:
                target.write(array)
            else:
                storage_of(target.handle).version += 1
        for slot in t.cleared:
            slot.write(None)
        results = iter(outputs)
        return t.rebuild([wrap(next(results)) for _ in range(self.num_results)])


class Compiled:
    """What `compile` returns: call it like the function.

    Every combination of argument types, Python values and settings of the modules and optimizers
    involved is traced and compiled once; `explain()` tells why it happened each time.
    """

    def __init__(self, fn: Callable[..., Any]):
        functools.update_wrapper(self, fn, updated=())
        self.fn = fn
        self.specializations: dict[Any, list[tuple[Any, Specialization | None]]] = {}
        self.reasons: list[str] = []

    def __call__(self, *args: Any, **kwargs: Any) -> Any:
        if mode.tracer is not None:
            return self.fn(*args, **kwargs)
        leaves, tree = flatten((args, kwargs))
        tensors = [x for x in leaves if isinstance(x, Tensor)]
        key = (tree, mode.grad, tuple(_signature(x) for x in leaves))
        known = self.specializations.setdefault(key, [])
        for guard, specialization in known:
            if guard.holds():
                return self.fn(*args, **kwargs) if specialization is None else specialization.run(tensors)
        return self._specialize(known, key, tensors, args, kwargs)

    def _specialize(self, known: list[Any], key: Any, tensors: list[Tensor], args: Any, kwargs: Any) -> Any:
        self.reasons.append(self._reason(known, key))
        if len(self.reasons) == _MANY_RETRACES:
            warnings.warn(
                f"{self!r} was compiled {_MANY_RETRACES} times; the last reason: {self.reasons[-1]}",
                TwofoldWarning,
                stacklevel=3,
            )
        try:
            traced = trace(self.fn, *args, **kwargs)
        except TraceError as e:
            warnings.warn(f"{self!r} runs eagerly, because it can't be traced: {e}", TwofoldWarning, stacklevel=3)
            known.append((_Always(), None))
            return self.fn(*args, **kwargs)
        if traced.results_require_grad:  # its derivative would be asked for later: leave it to the tape
            known.append((traced.guard, None))
            return self.fn(*args, **kwargs)
        specialization = Specialization(traced)
        known.append((traced.guard, specialization))
        return specialization.run(tensors)

    def _reason(self, known: list[Any], key: Any) -> str:
        if known:
            return known[-1][0].difference()
        others = [k for k in self.specializations if k != key and self.specializations[k]]
        if not others:
            return "first call"
        tree, grad, signature = others[-1]
        if tree != key[0]:
            return f"the arguments are nested as {key[0]}, before as {tree}"
        if grad != key[1]:
            return f"gradients are {'on' if key[1] else 'off'} now"
        for i, (new, old) in enumerate(zip(key[2], signature, strict=True)):
            if new != old:
                return f"argument {i} is {new}, before {old}"
        return "first call"

    def explain(self) -> str:
        """Why each specialization was made, a line each."""
        return "\n".join(f"{i + 1}. {reason}" for i, reason in enumerate(self.reasons))

    def lower(self, *args: Any, **kwargs: Any) -> Program:
        """The program for these arguments, without running it: print its graph, kernels, assembly."""
        return Specialization(trace(self.fn, *args, **kwargs)).program

    def __get__(self, instance: Any, owner: Any = None) -> Any:
        return self if instance is None else functools.partial(self, instance)

    def __repr__(self) -> str:
        return f"compiled {getattr(self.fn, '__qualname__', self.fn)}"


class _Always:
    def holds(self) -> bool:
        return True


def _signature(x: Any) -> Any:
    if isinstance(x, Tensor):
        return (x.shape, x.dtype.name, x.requires_grad)
    try:
        hash(x)
    except TypeError:
        return id(x)
    return x


def compile(fn: Callable[..., Any] | None = None) -> Any:
    """Compile a function or module; a decorator.

    The function runs once on symbolic tensors; what it does (also to parameters, buffers, optimizer
    state and the random generator) becomes one native program, which later calls run. The results
    are those of the function.

    >>> import twofold as tw
    >>> @tw.compile
    ... def f(x):
    ...     return (x * 2 + 1).sum()
    >>> f(tw.ones(3))
    tensor(9.)
    """
    return compile if fn is None else Compiled(fn)


__all__ = ["Compiled", "Slot", "compile", "optimize"]
