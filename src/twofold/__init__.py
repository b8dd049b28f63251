"""Twofold: eager tensors and autograd, one static graph of a whole training step, deployment anywhere.

>>> import twofold as tw
>>> x = tw.tensor([1.0, 2.0], requires_grad=True)
>>> (x**2).sum().backward()
>>> x.grad
tensor([2., 4.])
"""

import importlib as _importlib
import warnings as _warnings
from math import e, inf, nan, pi  # noqa: F401
from typing import Any as _Any

# Overflow and division by zero give inf and nan, as tensors do everywhere; NumPy would warn.
_warnings.filterwarnings("ignore", category=RuntimeWarning, module=r"twofold(\.|$)")

from . import primitives as _primitives  # noqa: E402, F401  (fills the table)
from .autodiff.functional import grad, value_and_grad  # noqa: E402, F401
from .autodiff.handle import Tensor  # noqa: E402
from .compiler import cond, scan, while_loop  # noqa: E402, F401
from .compiler import trace as _trace_function  # noqa: E402
from .ir import errors  # noqa: E402, F401
from .ir.dtypes import BY_NAME as _DTYPES  # noqa: E402
from .ir.dtypes import DType, get_default_dtype, set_default_dtype  # noqa: E402, F401
from .ir.errors import (  # noqa: E402, F401
    AutogradError,
    DivisionByZeroError,
    DTypeError,
    FileFormatError,
    GraphError,
    OutOfBoundsError,
    ShapeError,
    TraceError,
    TwofoldError,
    TwofoldWarning,
)
from .tensors import FUNCTIONS as _FUNCTIONS  # noqa: E402
from .tensors.random import Generator  # noqa: E402, F401

__version__ = "0.1.0"

_matrix_trace = Tensor.trace


def trace(fn: _Any, *args: _Any, **kwargs: _Any) -> _Any:
    """`trace(fn, *args)`: what a function does, as a graph; `trace(matrix)`: the sum of its diagonal.

    See `twofold.compiler.trace` for the former.

    >>> import twofold as tw
    >>> print(tw.trace(lambda x: x + x, tw.ones(2)).graph.nodes[0].prim.name)
    add
    >>> tw.trace(tw.eye(3))
    tensor(3.)
    """
    return _matrix_trace(fn) if isinstance(fn, Tensor) else _trace_function(fn, *args, **kwargs)


globals().update({name: fn for name, fn in _FUNCTIONS.items() if name != "trace"})
globals().update(_DTYPES)
dtype = DType
double, half, long, short = (_DTYPES[n] for n in ("float64", "float16", "int64", "int16"))
float, int = _DTYPES["float32"], _DTYPES["int32"]
cfloat, cdouble = _DTYPES["complex64"], _DTYPES["complex128"]
Size = tuple  # what shapes are
newaxis = None
strided = "strided"
# Accepted wherever PyTorch takes a memory format; tensors are in row order, and the compiler chooses layouts.
contiguous_format, preserve_format = "contiguous_format", "preserve_format"
channels_last, channels_last_3d = "channels_last", "channels_last_3d"

_SUBMODULES = ("nn", "optim", "data", "vision", "train", "autograd", "cuda", "debug")
_LATE = {  # these load LLVM, which takes a while: when they are first asked for
    "compile": ".compiler.compile",
    "get_num_threads": ".backends.cpu.team",
    "profile": ".compiler.profile",
    "set_num_threads": ".backends.cpu.team",
}


def __getattr__(name: str) -> _Any:
    if name in _SUBMODULES:
        return _importlib.import_module(f".{name}", __name__)
    if name in _LATE:
        return getattr(_importlib.import_module(_LATE[name], __name__), name)
    raise AttributeError(f"module 'twofold' has no attribute {name!r}")


def __dir__() -> list[str]:
    return sorted({n for n in globals() if not n.startswith("_")} | {*_SUBMODULES, *_LATE})
