"""compile: the decorator that turns imperative code into native programs."""

from __future__ import annotations

import contextlib
import copy
import functools
import gc
import threading
import warnings
from collections.abc import Callable, Iterator
from typing import Any

from ..autodiff.handle import Tensor, mode
from ..backends.cpu import recording
from ..backends.cpu.items import Batch
from ..backends.cpu.program import Program
from ..ir import config, forks
from ..ir.dtypes import get_default_dtype
from ..ir.errors import TraceError, TwofoldWarning, user_location
from ..ir.tree import flatten
from .arguments import context, described, signature, unseen
from .growth import Again, Growth
from .inspect import explain
from .pipeline import PASSES, optimize
from .run import trace_call
from .specialize import Specialization, specialize
from .trace import Slot
from .tree import Tree
from .ways import EAGER, Always

_MANY_RETRACES = 8
# Programs that are kept; the one that was used longest ago goes first. Where every call is another, as
# with a number that counts up, memory would grow without end.
_KEPT = 16  # of those with the same types of arguments
_SIGNATURES = 256


class Compiled:
    """What `compile` returns: call it like the function.

    Every combination of argument types, Python values and settings of the modules and optimizers
    involved is traced and compiled once; `explain()` tells why it happened each time.
    """

    def __init__(self, fn: Callable[..., Any], fullgraph: bool = False):
        functools.update_wrapper(self, fn, updated=())
        self.fn = fn
        self.fullgraph = fullgraph
        self.specializations: dict[Any, list[tuple[Any, Specialization | Tree | None]]] = {}
        self.reasons: list[str] = []
        self._largest = 0  # number of items in a batch
        self._plain: dict[Any, tuple[Any, Any]] = {}  # for tensors alone, by what is quickly looked at
        self._lock = threading.RLock()  # a trace borrows the tensors from outside
        forks.tell(self)

    def __call__(self, *args: Any, **kwargs: Any) -> Any:
        if mode.tracer is not None or not config.COMPILE.value:
            return self.fn(*args, **kwargs)
        with self._lock:
            result = self._run(args, kwargs)
        return self.fn(*args, **kwargs) if result is EAGER else result

    def _run(self, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
        """The results of a program, traced and compiled if there is none; or EAGER."""
        quick = None if kwargs else _quick_key(args)
        if quick is not None:
            last = self._plain.get(quick)
            if last is not None and last[0].holds() and not last[1].shares(args):
                return last[1].run(args)
        if kwargs:
            kwargs = {name: kwargs[name] for name in sorted(kwargs)}
        leaves, nesting = flatten((args, kwargs))
        tensors = [x for x in leaves if isinstance(x, Tensor)]
        key = (nesting, context(), tuple([signature(x) for x in leaves]))
        known = self.specializations[key] = self.specializations.pop(key, [])  # the last used is last
        found = next((entry for entry in known if entry[0].holds()), None)
        growth = None
        if found is None:
            with _without_collections():
                found, growth = self._specialize(known, key, args, kwargs, tensors)
        elif found is not known[-1]:
            known.remove(found)
            known.append(found)
        program = found[1]
        if program is None or program.shares(tensors):
            return EAGER
        if quick is not None:
            self._plain[quick] = found
        if not isinstance(program, Tree):
            return program.run(tensors)
        return program.run(tensors, args, kwargs) if growth is None else program.finish(growth)

    def _specialize(
        self, known: list[Any], key: Any, args: Any, kwargs: Any, tensors: list[Tensor]
    ) -> tuple[Any, Growth | None]:
        """Trace the code and compile it; if it asks for values, there comes back a call that is to be finished."""
        name = getattr(self.fn, "__name__", type(self.fn).__name__)
        self.reasons.append(self._reason(known, key))
        explain(f"compiling {name}, number {len(self.reasons)}: {self.reasons[-1]}\n  at: {user_location()}")
        if len(self.reasons) == _MANY_RETRACES:
            warnings.warn(
                f"{self!r} was compiled {_MANY_RETRACES} times; the last reason: {self.reasons[-1]}",
                TwofoldWarning,
                stacklevel=4,
            )
        entry: tuple[Any, Any]
        batch = Batch.of([x.type_ for x in tensors], self._largest)
        self._largest = max(self._largest, batch.count)
        tree, growth = Tree(self.fn, not self.fullgraph, batch), None
        try:
            odd = unseen(key[2])
            if odd is not None:
                raise TraceError(
                    f"changes of an argument {odd} can't be noticed",
                    hint="pass a tensor, a tuple, or an object that can be hashed",
                )
            with recording.span("trace", name):
                growth = tree.trace(tensors, args, kwargs)
        except TraceError as e:
            if self.fullgraph:
                raise
            warnings.warn(f"{self!r} runs eagerly, because it can't be traced: {e}", TwofoldWarning, stacklevel=4)
            entry = Always(), None
        except Again:
            return (Always(), None), None
        else:
            traced = growth.result
            if growth.path:
                entry = tree, tree
            elif traced.derivative is not None and traced.derivative.error is not None:
                entry = traced.guard, None  # eager code raises the error where it is due
            else:
                with recording.span("compile", name):
                    entry = traced.guard, specialize(traced, batch.planned)
        known.append(entry)
        if len(known) > _KEPT:
            del known[0]
        if len(self.specializations) > _SIGNATURES:
            del self.specializations[next(iter(self.specializations))]
            self._plain.clear()
        return entry, growth if entry[1] is tree else None

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
            if grad[0] != key[1][0]:
                return f"gradients are {'on' if key[1][0] else 'off'} now"
            return "inference mode or the default dtype is another now"
        for i, (new, old) in enumerate(zip(key[2], signature, strict=True)):
            if new != old:
                return f"argument {i} is {described(new)}, before {described(old)}"
        return "first call"

    def after_fork(self) -> None:
        """In a child: another thread of the parent may have had the lock."""
        self._lock = threading.RLock()

    def explain(self) -> str:
        """Why each specialization was made, a line each; then the trees of those that ask for values."""
        lines = [f"{i + 1}. {reason}" for i, reason in enumerate(self.reasons)]
        trees = [s for known in self.specializations.values() for _, s in known if isinstance(s, Tree)]
        return "\n".join(lines + [f"   {line}" for tree in trees for line in tree.lines()])

    def lower(self, *args: Any, **kwargs: Any) -> Program:
        """The program for these arguments, without running it: print its graph, kernels, assembly.

        Raises: TraceError where the code asks for values: then it is a tree of programs; see `explain`.
        """
        return specialize(trace_call(self.fn, args, kwargs, derivative=True)).program

    def __deepcopy__(self, memo: dict[int, Any]) -> Compiled:
        return Compiled(copy.deepcopy(self.fn, memo), self.fullgraph)

    def __get__(self, instance: Any, owner: Any = None) -> Any:
        return self if instance is None else functools.partial(self, instance)

    def __repr__(self) -> str:
        return f"compiled {getattr(self.fn, '__qualname__', type(self.fn).__name__)}"


@contextlib.contextmanager
def _without_collections() -> Iterator[None]:
    """Without searches for cycles of references: what compiling makes, a lot, lives until its end anyway."""
    enabled = gc.isenabled()
    gc.disable()
    try:
        yield
    finally:
        if enabled:
            gc.enable()


def _quick_key(args: tuple[Any, ...]) -> Any:
    """What distinguishes calls with tensors alone; None if there is something else among the arguments."""
    key: list[Any] = [mode.grad, mode.inference, get_default_dtype()]
    for x in args:
        if x.__class__ is not Tensor:
            return None
        value = x._value
        key.append(value.shape)
        key.append(value.dtype)
        if x._base is not None or x._requires_grad:
            key.append((x.requires_grad, x._node is None))
    return tuple(key)


def compile(
    fn: Callable[..., Any] | None = None,
    *,
    fullgraph: bool = False,
    dynamic: bool | None = None,
    backend: Any = None,
    mode: str | None = None,
    options: Any = None,
    disable: bool = False,
) -> Any:
    """Compile a function or module; a decorator.

    The function runs once on symbolic tensors; what it does (also to parameters, buffers, optimizer
    state and the random generator) becomes one native program, which later calls run. The results
    are those of the function. Where they still require a gradient, a second program computes it in
    backward; gradients of gradients are computed eagerly.

    Where the code asks a tensor for its value (`if t:`, `while t > 0:`, `.item()`, `x[mask]`), the
    program ends, and the answer decides which program goes on: a branch is compiled when it is first
    taken. A number that the code only returns, `return loss.item()`, costs nothing; with one that it
    computes with or prints, Python runs in every call, and the programs beneath it, or eager code
    where arrays are small. Otherwise Python runs in the calls that trace, and prints and other
    effects happen there. If the code raises, what
    it changed before is as eager code leaves it.

    Args:
        fn: a function, or a module, for which a module comes back that can be used in its place.
        fullgraph: raise TraceError for what can't be traced, and where the code asks for values;
            otherwise the former runs eagerly, with a warning.
        disable: give back `fn` as it is.
        dynamic, backend, mode, options: PyTorch's, without effect: there is one way to compile.

    >>> import twofold as tw
    >>> @tw.compile
    ... def f(x):
    ...     return (x * 2 + 1).sum()
    >>> f(tw.ones(3))
    tensor(9.)
    """
    if fn is None:
        return functools.partial(compile, fullgraph=fullgraph, disable=disable)
    if disable or isinstance(fn, Compiled):
        return fn
    wrap = getattr(fn, "_in_place_of", None)  # of a module
    call = Compiled(fn, fullgraph)
    return call if wrap is None else wrap(fn, call)


__all__ = ["PASSES", "Compiled", "Slot", "compile", "optimize"]
