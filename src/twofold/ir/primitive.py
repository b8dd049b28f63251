"""Primitive: one entry of the table that eager, autograd, tracer and backends all read.

An entry is one statement that holds all that is known of the operation:

    exp = Primitive(
        "exp",
        type_rule=float_unary,                  # TensorTypes -> TensorType, raises ShapeError/DTypeError
        numpy=np.exp,                           # the reference, on NumPy arrays
        vjp=(lambda g, y, _x: g * y,),          # one rule per input
        samples=unary_samples(low=-5, high=5),  # inputs that the generated tests use
        dtypes=FLOATS | COMPLEX,
        torch="exp",                            # the oracle, where PyTorch has the operation
    )

Note [Derivative rules]
`vjp[i](g, y, *inputs, **params)` gives the gradient of input `i`, where `g` is the gradient of the
output `y`. Rules are written with primitives and Python operators on tensors, so that gradients of
gradients work and gradients compile. Every rule sees the *same* arguments; one whose name begins
with an underscore arrives as its TensorType only, and is then not kept alive until backward.
That is how an entry says what it saves. A rule may return None: no gradient flows.
With several outputs `g` and `y` are tuples (an unused output's `g` is zeros).
A primitive with a variable number of inputs gives one function instead of a tuple:
`vjp=lambda g, y, *inputs, **params: (gradients...)`; it saves all inputs unless `saves` has no
"x"; with "i" it saves the inputs of integer dtype (indices), and the others arrive as TensorTypes.

Note [Complex derivatives]
Gradients follow PyTorch's convention (conjugate Wirtinger derivative). A holomorphic primitive's
rule is written as over the reals; the tape conjugates `g` before and the result after it, which is
the same as conjugating the derivative. Entries with `holomorphic=False` (abs, real, conj ...) write
their rule in the convention itself.

Note [Views]
`view=True` says that the NumPy reference returns a view of its first input where it can. `write`
is then the inverse: `write(base, new, **params)` returns `(primitive, inputs, params)`, the
operation that makes the base anew after its view was overwritten by `new`.
"""

from __future__ import annotations

import inspect
from collections.abc import Callable, Iterable
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from .dtypes import EVERY, DType
from .errors import GraphError
from .types import TensorType

PRIMITIVES: dict[str, Primitive] = {}


@dataclass(frozen=True)
class Sample:
    """Arguments on which an operation must work; the generated tests use them."""

    inputs: tuple[Any, ...]
    params: dict[str, Any] = field(default_factory=dict)
    differentiable: bool = True  # False: at a kink, where finite differences say nothing


@dataclass(frozen=True)
class ErrorSample:
    """Arguments that must be refused, with the error's class and a part of its message."""

    inputs: tuple[Any, ...]
    params: dict[str, Any]
    error: type[Exception]
    match: str


def _no_dispatch(primitive: Primitive, inputs: tuple[Any, ...], params: dict[str, Any]) -> Any:
    raise RuntimeError("twofold.autodiff is not loaded")


_dispatch: Callable[[Primitive, tuple[Any, ...], dict[str, Any]], Any] = _no_dispatch


def install_dispatch(bind: Callable[[Primitive, tuple[Any, ...], dict[str, Any]], Any]) -> None:
    """Set what calling a primitive does; `autodiff.bind` does so when it is imported."""
    global _dispatch
    _dispatch = bind


class Rule:
    """A derivative rule with what it needs to have saved, read off its argument names."""

    __slots__ = ("fn", "needs_x", "needs_y")

    def __init__(self, fn: Callable[..., Any], num_inputs: int):
        self.fn = fn
        names = [
            p.name
            for p in inspect.signature(fn).parameters.values()
            if p.kind in (p.POSITIONAL_ONLY, p.POSITIONAL_OR_KEYWORD)
        ]
        if len(names) != num_inputs + 2:
            raise GraphError(f"a derivative rule takes g, y and {num_inputs} inputs, got ({', '.join(names)})")
        self.needs_y = not names[1].startswith("_")
        self.needs_x = tuple(not name.startswith("_") for name in names[2:])


class Primitive:
    """One operation. See the notes at the head of this file.

    Args:
        name: unique name, used in graphs.
        type_rule: `(*TensorType, **params) -> TensorType | tuple`, raises on wrong input.
        numpy: the reference implementation on NumPy arrays.
        vjp: a rule per input, one function for all, or None with `nondiff` giving the reason.
        samples: `(dtype, rng) -> iterable of Sample`.
        errors: `() -> iterable of ErrorSample`.
        dtypes: the dtypes of the first input (of all, where they must agree) that it claims.
        torch: name of PyTorch's function, or `(torch, *tensors, **params) -> result`.
        checked_by_numpy: NumPy refuses what the type rule refuses, so eager skips the rule
            and asks it only to explain a failure.
        multiple: the result is a tuple.
        data_dependent: the result's shape depends on values; it can't be traced.
    """

    __slots__ = (
        "__weakref__",
        "checked_by_numpy",
        "data_dependent",
        "dtypes",
        "errors",
        "holomorphic",
        "multiple",
        "name",
        "needs",
        "nondiff",
        "numpy",
        "rule_all",
        "rules",
        "run",
        "samples",
        "saves_all",
        "torch",
        "type_rule",
        "view",
        "write",
    )

    def __init__(
        self,
        name: str,
        *,
        type_rule: Callable[..., Any],
        numpy: Callable[..., Any],
        vjp: tuple[Callable[..., Any] | None, ...] | Callable[..., Any] | None = None,
        saves: str = "xy",
        nondiff: str | None = None,
        samples: Callable[[DType, np.random.Generator], Iterable[Sample]],
        errors: Callable[[], Iterable[ErrorSample]] = tuple,
        dtypes: Iterable[DType] = EVERY,
        torch: str | Callable[..., Any] | None = None,
        checked_by_numpy: bool = False,
        multiple: bool = False,
        data_dependent: bool = False,
        holomorphic: bool = True,
        view: bool = False,
        write: Callable[..., Any] | None = None,
    ):
        if (vjp is None) == (nondiff is None):
            raise GraphError(f"primitive {name!r} needs either a derivative or a reason for having none")
        if name in PRIMITIVES:
            raise GraphError(f"primitive {name!r} is declared twice")
        if view and write is None:
            raise GraphError(f"primitive {name!r} is a view and needs a write rule")
        self.name = name
        self.type_rule = type_rule
        self.numpy = numpy
        self.rules: tuple[Rule | None, ...] | None = None
        self.rule_all: Callable[..., Any] | None = None
        if isinstance(vjp, tuple):
            self.rules = tuple(None if rule is None else Rule(rule, len(vjp)) for rule in vjp)
        else:
            self.rule_all = vjp
        self.saves_all = saves
        self.nondiff = nondiff
        self.samples = samples
        self.errors = errors
        self.dtypes = frozenset(dtypes)
        self.torch = torch
        self.checked_by_numpy = checked_by_numpy
        self.multiple = multiple
        self.data_dependent = data_dependent
        self.holomorphic = holomorphic
        self.view = view
        self.write = write
        self.needs: dict[int, Any] = {}  # what the rules save, by the inputs that want a gradient (autodiff.bind)
        self.run: Callable[..., Any] | None = None  # see Note [Eager evaluation] in ir/evaluate.py
        PRIMITIVES[name] = self

    def __call__(self, *inputs: Any, **params: Any) -> Any:
        """Apply to tensors: run, record for backward or trace, as the thread's mode says."""
        return _dispatch(self, inputs, params)

    def types(self, inputs: Iterable[TensorType], params: dict[str, Any]) -> tuple[TensorType, ...]:
        """The result types, always as a tuple; raises what is wrong with the inputs."""
        result = self.type_rule(*inputs, **params)
        return result if self.multiple else (result,)

    def __repr__(self) -> str:
        return f"Primitive({self.name})"
