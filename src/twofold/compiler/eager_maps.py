"""Eager element-wise operations on the compiler's own kernels: see Note [What runs natively] in eager.py.

Note [NumPy's bits]
IEEE 754 says what a sum or a root is, and NumPy's bits are the kernels' bits: there NumPy does what is small, and a
kernel what is large, as it likes. Functions are another matter, and so are a few corners, see `_DIFFER`:
these always run on kernels.
"""

from __future__ import annotations

import importlib
import os
import threading
from collections.abc import Callable
from typing import Any

import numpy as np

from ..ir.dtypes import COMPLEX, FLOATS, FROM_NUMPY, INTEGERS, DType, bfloat16, complex128, float16, float64
from ..ir.evaluate import runner
from ..ir.primitive import PRIMITIVES, Primitive
from ..primitives._rules import as_operand
from ..primitives.binary import product_powers
from . import eager_complex

Array = np.ndarray[Any, Any]

LARGE = 1 << 15  # elements from which a kernel does what NumPy would do as well
LITTLE = 1 << 14  # elements that a call does at once, under the interpreter's lock
FUNCTIONS = (
    "acos", "acosh", "asin", "asinh", "atan", "atan2", "atanh", "cos", "cosh", "digamma", "erf", "erfinv", "exp",
    "expm1", "lgamma", "log", "log1p", "polygamma", "pow", "sigmoid", "sin", "sinh", "tan", "tanh",
)  # fmt: skip
EXACT = (
    "abs", "add", "bitcast", "bitwise_and", "bitwise_not", "bitwise_or", "bitwise_xor", "cast", "ceil", "copysign",
    "div", "eq", "floor", "floor_divide", "fmod", "ge", "gt", "isfinite", "le", "logical_not", "lt", "maximum",
    "minimum", "mul", "ne", "neg", "nextafter", "relu", "remainder", "round", "rsqrt", "shift_left", "shift_right",
    "sign", "sqrt", "sub", "trunc", "where",
)  # fmt: skip
_DIFFER = {  # dtypes for which NumPy treats zeros otherwise
    "maximum": frozenset((float16,)),
    "minimum": frozenset((float16,)),
    "nextafter": frozenset((float16,)),
    "relu": FLOATS,
    "sign": frozenset((bfloat16,)),
}
# from NumPy's dtype to ours
_CASTS_DIFFER = {(d.numpy, i) for d in FLOATS | COMPLEX for i in INTEGERS}
_CASTS_DIFFER |= {(d.numpy, float16) for d in (float64, complex128)}


def run_natively() -> None:
    """Let eager code use native element-wise operations; only the first of them loads LLVM."""
    for name in (*FUNCTIONS, *EXACT):
        p = PRIMITIVES[name]
        p.run = Maps(p).run
    p = PRIMITIVES["copy"]
    p.run = _copy(runner(p))


def _copy(reference: Callable[..., Any]) -> Callable[..., Any]:
    """Copies of what is not row-major, which NumPy makes element by element."""

    def run(x: Any) -> Any:
        if x.__class__ is _ndarray and x.size >= LARGE and not x.flags.c_contiguous:
            copied: Array = importlib.import_module("..backends.cpu.copies", __package__).row_major(x)
            return copied
        return reference(x)

    return run


class Maps:
    """How eager code evaluates one element-wise primitive."""

    def __init__(self, p: Primitive):
        self.p = p
        self._reference = runner(p)
        self._always = FLOATS if p.name in FUNCTIONS else _DIFFER.get(p.name, frozenset())
        self._maps: dict[Any, Any] = {}  # dtypes and params -> a Map and whether it is always used; None: NumPy
        self._entries: dict[Any, Callable[..., Array]] = {}  # by dtype of the operands; for casts by both dtypes
        self.run = self._runner()

    def _runner(self) -> Callable[..., Any]:
        name = self.p.name
        if name == "pow":
            return self._power(self._pair())
        if name == "cast":
            return self._cast
        if name in ("polygamma", "sign"):
            return self.evaluate
        if name == "atan2" or (name in _DIFFER and name != "relu"):
            return self._pair()
        if name in FUNCTIONS or name == "relu":
            return self._function()
        if name in eager_complex.INEXACT:
            return self._unary_by_parts() if arity(name) == 1 else self._binary_by_parts()
        return (self._unary, self._binary, self._ternary)[arity(name) - 1]()

    # Each of these is what every call of a primitive begins with.

    def _function(self) -> Callable[..., Any]:
        entries, evaluate = self._entries, self.evaluate

        def run(x: Any) -> Any:
            if x.__class__ is _ndarray:
                dtype = x.dtype
                entry = entries.get(dtype)
                if entry is not None and x.size <= LITTLE:
                    return entry(x if x.flags.c_contiguous else _row_major(x), _empty(x.shape, dtype))
            return evaluate(x)

        return run

    def _pair(self) -> Callable[..., Any]:
        entries, evaluate, reference = self._entries, self.evaluate, self._reference
        plain, always = self.p.name in _DIFFER, {dtype.numpy for dtype in self._always}

        def run(x: Any, y: Any) -> Any:
            if x.__class__ is _ndarray and y.__class__ is _ndarray:
                dtype, shape = x.dtype, x.shape
                entry = entries.get(dtype)
                if entry is None:
                    if plain and dtype not in always and x.size < LARGE and y.size < LARGE:
                        return reference(x, y)
                elif x.size <= LITTLE and y.shape == shape and y.dtype == dtype:
                    return entry(_row_major(x), _row_major(y), _empty(shape, dtype)) if shape else evaluate(x, y)
            return evaluate(x, y)

        return run

    def _unary(self) -> Callable[..., Any]:
        reference, evaluate = self._reference, self.evaluate

        def run(x: Any, **params: Any) -> Any:
            if x.__class__ is _ndarray and x.size >= LARGE:
                return evaluate(x, **params)
            return reference(x, **params) if params else reference(x)

        return run

    def _binary(self) -> Callable[..., Any]:
        reference, evaluate = self._reference, self.evaluate

        def run(x: Any, y: Any) -> Any:
            if (x.__class__ is _ndarray and x.size >= LARGE) or (y.__class__ is _ndarray and y.size >= LARGE):
                return evaluate(x, y)
            return reference(x, y)

        return run

    def _unary_by_parts(self) -> Callable[..., Any]:
        """Of complex numbers always on kernels."""
        reference, evaluate, entries, dtypes = self._reference, self.evaluate, self._entries, eager_complex.DTYPES
        results = {d: FROM_NUMPY[d].to_real().numpy if self.p.name == "abs" else d for d in dtypes}

        def run(x: Any) -> Any:
            if x.__class__ is _ndarray and (x.size >= LARGE or x.dtype in dtypes):
                entry = entries.get(x.dtype)
                if entry is None or x.size > LITTLE:
                    return evaluate(x)
                return entry(_row_major(x), _empty(x.shape, results[x.dtype]))
            return reference(x)

        return run

    def _binary_by_parts(self) -> Callable[..., Any]:
        """Of complex numbers always on kernels."""
        reference, evaluate, entries, dtypes = self._reference, self.evaluate, self._entries, eager_complex.DTYPES
        maps = self._maps

        def run(x: Any, y: Any) -> Any:
            if (x.__class__ is _ndarray and x.size >= LARGE) or (y.__class__ is _ndarray and y.size >= LARGE):
                return evaluate(x, y)
            array = x if x.__class__ is _ndarray else y
            if array.__class__ is not _ndarray or array.dtype not in dtypes:
                return reference(x, y)
            dtype, shape = array.dtype, array.shape
            entry = entries.get(dtype)
            if entry is None or x is not array or not shape or x.size > LITTLE:
                return evaluate(x, y)
            if y.__class__ is _ndarray:
                if y.shape == shape and y.dtype == dtype:
                    return entry(_row_major(x), _row_major(y), _empty(shape, dtype))
            elif (found := maps.get((dtype, y.__class__))) is not None:
                return found[0].entry("10")(_row_major(x), _array(y, dtype), _empty(shape, dtype))
            return evaluate(x, y)

        return run

    def _ternary(self) -> Callable[..., Any]:
        reference, evaluate = self._reference, self.evaluate

        def run(c: Any, x: Any, y: Any) -> Any:
            for v in (c, x, y):
                if v.__class__ is _ndarray and v.size >= LARGE:
                    return evaluate(c, x, y)
            return reference(c, x, y)

        return run

    def _cast(self, x: Any, *, dtype: Any) -> Any:
        """NumPy rounds float64 to float16 at once, a kernel by way of float32, and makes of numbers that are too
        large for an integer what the processor does."""
        if x.__class__ is not _ndarray:
            return self._reference(x, dtype=dtype)
        known = x.dtype, dtype
        if known in _CASTS_DIFFER:
            entry = self._entries.get(known)
            if entry is not None and x.size <= LITTLE:
                return entry(_row_major(x), _empty(x.shape, dtype.numpy))
            return self.evaluate(x if x.dtype.kind != "c" else x.real.copy("C"), dtype=dtype)
        return self.evaluate(x, dtype=dtype) if x.size >= LARGE else self._reference(x, dtype=dtype)

    def _power(self, other: Callable[..., Any]) -> Callable[..., Any]:
        """Powers that are products without the kernel that would make them, see passes/powers.py."""
        maps, entries = self._maps, self._entries

        def run(x: Any, y: Any) -> Any:
            if x.__class__ is _ndarray and y.__class__ in (int, float) and y in (1, 2, 3, 4):
                dtype = FROM_NUMPY.get(x.dtype)
                if dtype in FLOATS and y in product_powers(dtype):
                    if y == 1:
                        return x.copy()
                    square = _run("mul", x, x)
                    return square if y == 2 else _run("mul", square, x if y == 3 else square)
            if x.__class__ is _ndarray and y.__class__ is float and x.ndim > 0 and x.size <= LITTLE:
                dtype = x.dtype
                found = maps.get((dtype, float))
                if found is not None and dtype in entries:
                    return found[0].entry("10")(_row_major(x), _array(y, dtype), _empty(x.shape, dtype))
            return other(x, y)

        return run

    # --- all cases --------------------------------------------------------------------------

    def evaluate(self, *values: Any, **params: Any) -> Any:
        """Results for arrays and Python numbers, as `Primitive.run`, on a kernel where that is right."""
        known: list[Any] = [*params.values()]
        dtype: Any = None
        largest = 0
        for v in values:
            if v.__class__ is _ndarray:
                dtype = v.dtype
                known.append(dtype)
                largest = max(largest, v.size)
            else:
                known.append(v.__class__)
        key = tuple(known)
        try:
            found = self._maps[key]
        except KeyError:
            found = self._find(key, values, params)
        except TypeError:  # a param that can't be hashed
            found = None
        if found is None or (largest < LARGE and not found[1]):
            return self._reference(*values, **params)
        return found[0]([v if v.__class__ is _ndarray else as_operand(v, dtype) for v in values])

    def _find(self, key: Any, values: tuple[Any, ...], params: dict[str, Any]) -> Any:
        """A Map for such values, and whether it is always used; None if there is none."""
        last: Any = next((v.dtype for v in reversed(values) if v.__class__ is _ndarray), None)
        numbers = (int, float, bool, complex) if last in eager_complex.DTYPES else (int, float, bool)
        if not all(v.__class__ is _ndarray or v.__class__ in numbers for v in values):
            return None
        dtypes = [FROM_NUMPY.get(v.dtype if v.__class__ is _ndarray else last) for v in values]
        if None in dtypes:
            return None
        with _lock[0]:
            if key not in self._maps:
                self._maps[key] = self._make(dtypes, params)  # type: ignore[arg-type]
            return self._maps[key]

    def _make(self, dtypes: list[DType], params: dict[str, Any]) -> Any:
        made = importlib.import_module("..backends.cpu.maps", __package__)
        if any(dtype.is_complex for dtype in dtypes):
            native, always = eager_complex.map_of(self.p, dtypes, params), self.p.name in eager_complex.INEXACT
        else:
            native = made.Map(self.p, dtypes, params) if made.Map.exists(self.p, dtypes, params) else None
            always = dtypes[-1] in self._always or (dtypes[-1].numpy, params.get("dtype")) in _CASTS_DIFFER
        if native is None:
            return None
        if always and made.HAS_ENTRIES and (not params or self.p.name == "cast"):
            known = (dtypes[0].numpy, params["dtype"]) if params else dtypes[0].numpy
            self._entries[known] = native.entry("1" * len(dtypes))
        return native, always


def arity(name: str) -> int:
    """How many operands it has."""
    return 3 if name == "where" else 2 if name in _BINARY else 1


def _run(name: str, *values: Any) -> Any:
    run = PRIMITIVES[name].run
    assert run is not None
    return run(*values)


_BINARY = frozenset((
    "add", "atan2", "bitwise_and", "bitwise_or", "bitwise_xor", "copysign", "div", "eq", "floor_divide", "fmod",
    "ge", "gt", "le", "lt", "maximum", "minimum", "mul", "ne", "nextafter", "pow", "remainder", "shift_left",
    "shift_right", "sub",
))  # fmt: skip
_row_major, _array = np.ascontiguousarray, np.array
_ndarray, _empty = np.ndarray, np.empty
_lock = [threading.Lock()]


def _after_fork() -> None:
    _lock[0] = threading.Lock()


if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_after_fork)
