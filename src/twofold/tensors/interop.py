"""Where values leave and enter the world of tensors: Python numbers, lists, NumPy, DLPack.

Note [Concrete values]
Everything here needs the numbers themselves, which do not exist while a function is traced.
`concrete` is the one place that asks for them.
"""

from __future__ import annotations

import builtins
import copy as _copy
from collections.abc import Iterator
from typing import Any

import numpy as np

from ..autodiff.bind import bind, no_record
from ..autodiff.handle import Tensor, alias, exported, mode, wrap
from ..ir.dtypes import FROM_NUMPY, as_dtype, bfloat16
from ..ir.errors import AutogradError, DTypeError, ShapeError, TraceError
from ..primitives import elementwise, movement
from ._registry import function
from ._views import picked

Array = np.ndarray[Any, Any]


def concrete(t: Tensor, why: str = "its value") -> Array:
    """The array of `t`. See Note [Concrete values].

    Raises: TraceError while tracing, and for a tensor that a trace made and let out.
    """
    if mode.tracer is not None:
        return mode.tracer.concrete(t, why)
    value = t._value
    if not isinstance(value, np.ndarray):
        raise TraceError(
            f"a tensor of type {t.type_} was made while tracing and has no value outside of the trace",
            hint="return it from the traced function instead of keeping it",
        )
    return value


# --- Python numbers and lists -------------------------------------------------------------------


def _single(t: Tensor, why: str) -> Any:
    value = t._value
    if mode.tracer is None and value.__class__ is np.ndarray and value.size == 1:  # nearly always
        return value.item()
    size = t.type_.size
    if size != 1:
        if mode.tracer is None:
            concrete(t, why)  # raises if it was left over by a trace
        raise ShapeError(
            f"a tensor with {size} elements (shape {t.shape}) can't be converted to one number",
            op=why,
            hint="reduce or index it first, or use tolist()",
        )
    return concrete(t, why).item() if mode.tracer is None else mode.tracer.single(t, why)


@function(module=False)
def item(self: Tensor) -> Any:
    """The only element as a Python number.

    In a compiled function the code goes on by the number; see `twofold.compile`.
    Raises: ShapeError when there is not exactly one; TraceError in `twofold.trace`.

    >>> import twofold as tw
    >>> tw.tensor([2.5]).item()
    2.5
    """
    return _single(self, "item()")


@function(module=False)
def tolist(self: Tensor) -> Any:
    """The elements as nested lists of Python numbers; of a 0-d tensor its number.

    >>> import twofold as tw
    >>> tw.tensor([[1, 2], [3, 4]]).tolist()
    [[1, 2], [3, 4]]
    """
    return concrete(self, "tolist()").tolist()


@function(name="__bool__", module=False)
def _bool(self: Tensor) -> bool:
    if self.shape != () and self.type_.size != 1:
        count = "no values" if self.type_.size == 0 else "more than one value"
        raise ShapeError(
            f"the truth of a tensor with {count} (shape {self.shape}) is ambiguous",
            op="bool",
            hint="use .any() or .all(), or `is None` to ask whether there is a tensor",
        )
    return builtins.bool(_single(self, "bool()"))


@function(name="__int__", module=False)
def _int(self: Tensor) -> int:
    return builtins.int(_single(self, "int()"))


@function(name="__float__", module=False)
def _float(self: Tensor) -> float:
    return builtins.float(_single(self, "float()"))


@function(name="__complex__", module=False)
def _complex(self: Tensor) -> complex:
    return builtins.complex(_single(self, "complex()"))


@function(name="__index__", module=False)
def _index(self: Tensor) -> int:
    if self.dtype.is_differentiable or self.type_.size != 1:
        raise DTypeError(
            f"only an integer tensor with one element can be an index, got {self.type_}",
            hint="use int(x) to convert it on purpose",
        )
    return builtins.int(_single(self, "its value as an index"))


@function(name="__format__", module=False)
def _format(self: Tensor, spec: str) -> str:
    if self.shape == () and (mode.tracer is None or (spec and mode.tracer.asks)):
        return format(_single(self, "format()"), spec)
    return object.__format__(self, spec)


# --- as a container -----------------------------------------------------------------------------


@function(name="__len__", module=False)
def _len(self: Tensor) -> int:
    shape = self._value.shape
    if not shape:
        raise DTypeError("a 0-d tensor has no length", op="len", hint="use numel() for the number of elements")
    return shape[0]


@function(name="__iter__", module=False)
def _iter(self: Tensor) -> Iterator[Tensor]:
    if not self.shape:
        raise DTypeError("a 0-d tensor can't be iterated over", op="iter", hint="use item() for its number")
    return (picked(self, 0, i) for i in range(self.shape[0]))


@function(name="__reversed__", module=False)
def _reversed(self: Tensor) -> Tensor:
    return movement.flip(self, dims=(0,)) if self.shape else self


@function(name="__contains__", module=False)
def _contains(self: Tensor, element: Any) -> bool:
    found = self == element
    if not isinstance(found, Tensor):
        raise DTypeError(f"a tensor can't contain a {type(element).__name__}", op="in")
    return builtins.bool(concrete(found, "`in`").any())


function(lambda self: id(self), name="__hash__", module=False)


# --- copies -------------------------------------------------------------------------------------


@function(name="__copy__", module=False)
def _shallow_copy(self: Tensor) -> Tensor:
    out = alias(self)
    out.__class__ = self.__class__
    out.requires_grad = self.requires_grad
    return out


@function(name="__deepcopy__", module=False)
def _deep_copy(self: Tensor, memo: dict[int, Any]) -> Tensor:
    if id(self) in memo:
        return memo[id(self)]
    if not self.is_leaf:
        raise AutogradError(
            "only leaf tensors can be deep-copied, this one is the result of a recorded operation",
            op="deepcopy",
            hint="use x.detach().clone()",
        )
    with no_record():
        out = bind(elementwise.copy, (self,), {})
    out.__class__ = self.__class__
    out.requires_grad = self.requires_grad
    memo[id(self)] = out
    if self.grad is not None:
        out.grad = _copy.deepcopy(self.grad, memo)
    for name, value in self.__dict__.items():  # what users put on the tensor
        if not name.startswith("_") and name not in ("requires_grad", "grad"):
            setattr(out, name, _copy.deepcopy(value, memo))
    return out


@function(name="__reduce_ex__", module=False)
def _refuse_pickling(self: Tensor, protocol: Any) -> Any:
    raise DTypeError(
        "tensors are not pickled: a pickle can run any code when it is loaded",
        op="pickle",
        hint="use twofold.save(obj, path) and twofold.load(path), or x.numpy()",
    )


# --- NumPy --------------------------------------------------------------------------------------


def _refuse_grad(t: Tensor, what: str) -> None:
    if t.requires_grad:
        raise AutogradError(
            f"{what} of a tensor that requires grad would lose its history", hint="use x.detach().numpy()"
        )


@function(module=False)
def numpy(self: Tensor, *, force: bool = False) -> Array:
    """The NumPy array on the same memory: a change to one is a change to the other.

    Args:
        force: also take tensors that require a gradient.

    Raises: AutogradError when it requires a gradient; TraceError while tracing.

    >>> import twofold as tw
    >>> x = tw.zeros(2)
    >>> x.numpy()[0] = 5
    >>> x
    tensor([5., 0.])
    """
    array = concrete(self, "numpy()")
    if not force:
        _refuse_grad(self, "numpy()")
    exported(self)
    return array


@function(name="__array__", module=False)
def _array(self: Tensor, dtype: Any = None, copy: bool | None = None) -> Array:
    array = concrete(self, "its NumPy array")
    _refuse_grad(self, "the NumPy array")
    exported(self)
    return np.array(array, dtype=dtype, copy=copy)


@function(name="__array_wrap__", module=False)
def _array_wrap(self: Tensor, array: Array, context: Any = None, return_scalar: bool = False) -> Tensor:
    return wrap(np.asarray(array))


@function(method=False)
def from_numpy(ndarray: Array) -> Tensor:
    """A tensor on the memory of a NumPy array: a change to one is a change to the other.

    An array that is not writable gives a tensor whose in-place operations raise.
    Raises: DTypeError for what is no array, or for its dtype.

    >>> import numpy as np, twofold as tw
    >>> a = np.zeros(2)
    >>> x = tw.from_numpy(a)
    >>> a[1] = 3
    >>> x
    tensor([0., 3.], dtype=twofold.float64)
    """
    if not isinstance(ndarray, np.ndarray):
        raise DTypeError(
            f"expected a NumPy array, got {type(ndarray).__name__}", op="from_numpy", hint="use twofold.tensor(...)"
        )
    if ndarray.__class__ is np.ndarray and ndarray.dtype in FROM_NUMPY and ndarray.dtype.isnative:
        return wrap(ndarray.view())
    as_dtype(ndarray.dtype)
    if not ndarray.dtype.isnative:
        raise DTypeError(
            f"the bytes of dtype {ndarray.dtype.str!r} are not in this machine's order",
            op="from_numpy",
            hint="convert first: a.astype(a.dtype.newbyteorder('='))",
        )
    return wrap(ndarray.view(np.ndarray))  # without a subclass: np.matrix, np.memmap


# --- DLPack -------------------------------------------------------------------------------------


@function(name="__dlpack__", module=False)
def _dlpack(
    self: Tensor,
    *,
    stream: Any = None,
    max_version: tuple[int, int] | None = None,
    dl_device: tuple[Any, int] | None = None,
    copy: bool | None = None,
) -> Any:
    array = concrete(self, "__dlpack__()")
    _refuse_grad(self, "__dlpack__()")
    if self.dtype is bfloat16:
        raise BufferError("NumPy can't export bfloat16 by DLPack; cast to float32 first, or use view(uint16)")
    exported(self)
    return array.__dlpack__(stream=stream, max_version=max_version, dl_device=dl_device, copy=copy)


@function(name="__dlpack_device__", module=False)
def _dlpack_device(self: Tensor) -> tuple[int, int]:
    return (1, 0)  # kDLCPU


@function(method=False)
def from_dlpack(ext_tensor: Any) -> Tensor:
    """A tensor on the memory of another library's (PyTorch, JAX, NumPy ...), without a copy.

    Raises: DTypeError when `ext_tensor` doesn't speak DLPack, or its dtype has no counterpart.

    >>> import numpy as np, twofold as tw
    >>> a = np.arange(3.0)
    >>> x = tw.from_dlpack(a)
    >>> a[0] = 7
    >>> x
    tensor([7., 1., 2.], dtype=twofold.float64)
    """
    if isinstance(ext_tensor, Tensor):
        return alias(ext_tensor)
    if not hasattr(ext_tensor, "__dlpack__"):
        raise DTypeError(f"{type(ext_tensor).__name__} has no __dlpack__ method", op="from_dlpack")
    try:
        array = np.from_dlpack(ext_tensor)
    except (RuntimeError, TypeError) as e:
        raise DTypeError(
            f"NumPy can't read this {type(ext_tensor).__name__} by DLPack: {e}",
            op="from_dlpack",
            hint="bring it to the CPU and to a dtype that NumPy knows",
        ) from e
    return wrap(array)
