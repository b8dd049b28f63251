"""Eager operations on complex numbers, as compiled code does them: see Note [What runs natively] in eager.py.

What an operation is on real and imaginary parts is said in passes/parts.py. Element-wise operations are one open
kernel made of that; matrix products, convolutions, sums and products apply it to arrays of parts, with the eager
operations on real numbers. Where NumPy's bits are those (sums of two, comparisons, all that moves), NumPy remains.
"""

from __future__ import annotations

import importlib
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np

from ..ir.dtypes import FROM_NUMPY, DType, complex64, complex128
from ..ir.evaluate import runner, value_types
from ..ir.graph import Graph
from ..ir.primitive import PRIMITIVES, Primitive
from ..ir.types import Shape, TensorType
from .passes import canonicalize, prune, share, split
from .passes.parts import RULES, Part

Array = np.ndarray[Any, Any]

DTYPES = frozenset((complex64.numpy, complex128.numpy))
INEXACT = frozenset((
    "abs", "acos", "acosh", "asin", "asinh", "atan", "atanh", "cos", "cosh", "div", "exp", "expm1", "log", "log1p",
    "mul", "pow", "rsqrt", "sigmoid", "sin", "sinh", "sqrt", "tan", "tanh",
))  # fmt: skip
_COMPARED = frozenset(("eq", "ne", "logical_not", "isfinite"))  # NumPy's bits, but these kernels are faster
_WHOLE = ("conv", "conv_input_grad", "conv_weight_grad", "cumprod", "sum_pool", "sum_pool_grad")
_SHAPE = (2, 2, 2)  # stands for any


def run_natively() -> None:
    """Let eager code compute with parts where nothing else asks for it (`by_parts`), as products and sums do."""
    for name in _WHOLE:
        p = PRIMITIVES[name]
        p.run = _either(p, p.run or runner(p))


def _either(p: Primitive, real: Callable[..., Any]) -> Callable[..., Any]:
    """`p` by parts on complex arrays, and as `real` does it on others."""

    def run(*values: Any, **params: Any) -> Any:
        x = values[0]
        if x.__class__ is np.ndarray and x.dtype in DTYPES:
            return by_parts(p, values, params)
        return real(*values, **params)

    return run


# --- operations on whole arrays -------------------------------------------------------------------


class _Array(Part):
    """The parts are arrays; also complex numbers, for rules that don't take them apart."""

    __slots__ = ("array",)

    def __init__(self, array: Array):
        self.array = array

    @property
    def dtype(self) -> DType:
        return FROM_NUMPY[self.array.dtype]

    @property
    def shape(self) -> Shape:
        return self.array.shape

    def apply(self, name: str, *others: Any, **params: Any) -> _Array:
        p = PRIMITIVES[name]
        if p.run is None:
            p.run = runner(p)
        return _Array(p.run(self.array, *[o.array if o.__class__ is _Array else o for o in others], **params))

    def __add__(self, o: Any) -> _Array:  # NumPy's bits, and sooner
        return _Array(np.add(self.array, o.array))

    def __sub__(self, o: Any) -> _Array:
        return _Array(np.subtract(self.array, o.array))

    def number(self, value: float) -> _Array:
        return _Array(np.array(value, self.array.dtype))


def by_parts(p: Primitive, values: Sequence[Array], params: dict[str, Any]) -> Array:
    """The result for complex arrays, by the rule for parts."""
    rule, dtype = RULES[p.name], values[0].dtype
    if rule.whole or not all(x.dtype == dtype for x in values):
        p.types(value_types(values), params)  # raises what bind shows; real operations do it where there are parts
    if rule.whole:
        whole: Array = rule.fn(*map(_Array, values), **params).array
        return whole
    a, b = rule.fn(*[(_part(x.real), _part(x.imag)) for x in values], **params)
    joined = np.empty(a.array.shape, dtype)
    joined.real, joined.imag = a.array, b.array
    return joined


def _part(strided: Array) -> _Array:
    return _Array(strided.copy("C"))


# --- element-wise operations ----------------------------------------------------------------------


def map_of(p: Primitive, dtypes: Sequence[DType], params: dict[str, Any]) -> Any:
    """The open kernels of an element-wise operation on complex numbers; None if there are none.

    Raises what the type rule says of such operands.
    """
    if p.name not in INEXACT | _COMPARED:
        return None
    parts = parts_of(p, dtypes, params)
    if not importlib.import_module("..backends.cpu.kernels.pairing", __package__).has_pairs(parts):
        return None
    return importlib.import_module("..backends.cpu.maps", __package__).PairMap(p, dtypes, params, parts)


def parts_of(p: Primitive, dtypes: Sequence[DType], params: dict[str, Any]) -> Graph:
    """What an element-wise primitive is on parts: a complex operand is two inputs, a complex result two outputs."""
    graph = Graph(f"eager {p.name}")

    def operand(dtype: DType) -> Any:
        names = ("re", "im") if dtype.is_complex else ("x",)
        parts = tuple([graph.add_input(TensorType(_SHAPE, dtype.to_real())) for _ in names])
        return graph.add(PRIMITIVES["complex"], parts, {})[0] if dtype.is_complex else parts[0]

    (out,) = graph.add(p, [operand(dtype) for dtype in dtypes], params)
    if out.dtype.is_complex:
        graph.set_outputs([graph.add(PRIMITIVES[name], [out], {})[0] for name in ("real", "imag")])
    else:
        graph.set_outputs([out])
    return prune(share(canonicalize(split(graph))))
