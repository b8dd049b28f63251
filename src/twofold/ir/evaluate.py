"""evaluate: run a primitive's NumPy reference. Eager execution and the interpreter share it."""

from __future__ import annotations

from typing import Any

import numpy as np

from .dtypes import FROM_NUMPY
from .errors import TwofoldError
from .primitive import Primitive
from .types import TensorType

_ndarray = np.ndarray


def evaluate(p: Primitive, values: list[Any], params: dict[str, Any]) -> Any:
    """Run the NumPy reference on arrays, with results as arrays in row-major order."""
    if not p.checked_by_numpy:
        p.type_rule(*value_types(values), **params)
    try:
        out = p.numpy(*values, **params)
    except TwofoldError:
        raise
    except Exception:
        p.type_rule(*value_types(values), **params)  # explains it, if the inputs are to blame
        raise
    if out.__class__ is _ndarray:
        if out.ndim > 1 and not p.view and not out.flags.c_contiguous:
            return np.ascontiguousarray(out)
        return out
    if p.multiple:
        return tuple([np.ascontiguousarray(o) if o.ndim else np.asarray(o) for o in out])
    return np.asarray(out)


def value_types(values: list[Any]) -> list[TensorType]:
    """Types of arrays or graph values; a Python number has the last array's dtype."""
    dtype = None
    for v in reversed(values):
        if hasattr(v, "shape"):
            dtype = FROM_NUMPY.get(v.dtype, v.dtype)
            break
    return [
        TensorType(v.shape, FROM_NUMPY.get(v.dtype, v.dtype))
        if hasattr(v, "shape")
        else TensorType((), dtype)  # type: ignore[arg-type]
        for v in values
    ]
