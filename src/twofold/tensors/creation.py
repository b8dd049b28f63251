"""Tensors from data: tensor, as_tensor, frombuffer.

Note [Reading nested lists]
A list is walked once for its shape and the dtypes of its leaves, so that a ragged list can be
refused with the place where it is ragged; then NumPy fills the array. Rows of plain Python
numbers, nearly all there is, cost one pass in C each.
"""

from __future__ import annotations

import builtins
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np

from ..autodiff.bind import bind, no_record
from ..autodiff.handle import Tensor, mode, wrap
from ..ir.dtypes import DType, as_dtype, get_default_dtype, promote, scalar_dtype
from ..ir.errors import AutogradError, DTypeError, ShapeError, TwofoldError
from ..ir.types import Shape
from ..primitives import elementwise
from ._keys import constant
from ._registry import function
from .attributes import cast
from .device import check_device
from .interop import Array, concrete, from_numpy

_PLAIN = frozenset((bool, int, float, complex))
_SEQUENCES = (list, tuple, range)


def as_leaf(t: Tensor, requires_grad: bool) -> Tensor:
    """`t`, required to collect a gradient or not.

    Raises: AutogradError when its dtype has no gradient.
    """
    if requires_grad:
        if not t.dtype.is_differentiable:
            raise AutogradError(
                f"only floating and complex tensors can require gradients, got {t.dtype.name}",
                hint="give a floating dtype, e.g. dtype=twofold.float32",
            )
        t.requires_grad = True
    return t


def made(fn: Callable[[], Tensor], device: Any, requires_grad: bool) -> Tensor:
    """The tensor that `fn` makes, as a leaf: what `device=` and `requires_grad=` mean everywhere."""
    if device is not None:
        check_device(device)
    if not mode.grad:
        return as_leaf(fn(), requires_grad)
    with no_record():
        t = fn()
    return as_leaf(t, requires_grad)


# --- nested lists -------------------------------------------------------------------------------


class _Nested:
    """What one walk through nested lists finds out: see Note [Reading nested lists]."""

    def __init__(self, data: Sequence[Any]):
        self.dtype: DType | None = None
        self.plain = True  # only Python numbers: NumPy can read the list itself
        self.shape = self._guess(data)
        self._walk(data, 0, "")

    def _guess(self, data: Any) -> Shape:
        """The shape by the first element of each level."""
        shape: list[int] = []
        while isinstance(data, _SEQUENCES):
            shape.append(len(data))
            if not data:
                return tuple(shape)
            data = data[0]
        return (*shape, *data.shape) if isinstance(data, (np.ndarray, Tensor)) else tuple(shape)

    def _walk(self, data: Any, depth: int, path: str) -> None:
        if not isinstance(data, _SEQUENCES):
            self._leaf(data, depth, path)
            return
        if depth >= len(self.shape):
            raise _ragged(path, f"is a sequence of length {len(data)}", "a number", depth)
        if len(data) != self.shape[depth]:
            raise _ragged(path, f"has length {len(data)}", f"length {self.shape[depth]}", depth)
        if depth == len(self.shape) - 1:
            kinds = set(map(builtins.type, data))
            if kinds <= _PLAIN:
                for kind in kinds:
                    self._meet(scalar_dtype(kind()))
                return
        for i, item in enumerate(data):
            self._walk(item, depth + 1, f"{path}[{i}]")

    def _leaf(self, x: Any, depth: int, path: str) -> None:
        shape: Shape = ()
        if isinstance(x, (np.ndarray, Tensor)):
            self.plain = False
            shape = x.shape
            self._meet(x.dtype if isinstance(x, Tensor) else as_dtype(x.dtype))
        elif isinstance(x, np.generic):  # before float: np.float64 is one, too
            self._meet(as_dtype(x.dtype))
        elif isinstance(x, (bool, int, float, complex)):
            self._meet(scalar_dtype(x))
        else:
            raise DTypeError(
                f"data{path} is a {builtins.type(x).__name__}, which can't be an element of a tensor",
                op="tensor",
                hint="elements are bools and numbers",
            )
        if shape != self.shape[depth:]:
            what = f"has shape {shape}" if shape else f"is the number {x}"
            raise _ragged(path, what, f"shape {self.shape[depth:]}", depth)

    def _meet(self, dtype: DType) -> None:
        self.dtype = dtype if self.dtype is None else promote(self.dtype, dtype)


def _ragged(path: str, got: str, expected: str, dim: int) -> ShapeError:
    return ShapeError(
        f"data{path} {got}, but by its neighbours {expected} was expected in dimension {dim}",
        op="tensor",
        hint="all rows of a tensor have the same length; pad the shorter ones",
    )


def _as_lists(data: Any) -> Any:
    """Nested lists with the tensors in them as arrays."""
    if isinstance(data, _SEQUENCES):
        return [_as_lists(x) for x in data]
    return concrete(data, "its value, to put it into a new tensor") if isinstance(data, Tensor) else data


def _filled(data: Any, dtype: DType) -> Array:
    try:
        return np.array(data, dtype=dtype.numpy)
    except (OverflowError, ValueError, TypeError) as e:
        raise TwofoldError(f"the data can't be stored as {dtype.name}: {e}", op="tensor") from e


def _array_from(data: Any, dtype: DType | None) -> Array:
    """A new array with the data and PyTorch's choice of dtype."""
    if isinstance(data, np.generic):
        data = np.asarray(data)
    if isinstance(data, (bool, int, float, complex)):
        return _filled(data, dtype or scalar_dtype(data))
    if isinstance(data, _SEQUENCES):
        nested = _Nested(data)
        found = dtype or nested.dtype or get_default_dtype()
        array = _filled(data if nested.plain else _as_lists(data), found)
        return array.reshape(nested.shape) if array.size == 0 else array
    if isinstance(data, np.ndarray) or hasattr(data, "__array__") or hasattr(data, "__array_interface__"):
        array = np.asarray(data)
        return array.astype((dtype or as_dtype(array.dtype)).numpy)
    if isinstance(data, Sequence) and not isinstance(data, (str, bytes)):
        return _array_from(list(data), dtype)
    raise DTypeError(
        f"a tensor can't be made of a {builtins.type(data).__name__}",
        op="tensor",
        hint="give numbers, nested lists of numbers, a NumPy array or a tensor",
    )


# --- public -------------------------------------------------------------------------------------


@function(method=False)
def tensor(
    data: Any,
    *,
    dtype: Any = None,
    device: Any = None,
    requires_grad: bool = False,
    pin_memory: bool = False,
) -> Tensor:
    """A new tensor with a copy of the data: numbers, nested lists, arrays or tensors.

    Without `dtype`, Python floats give the default dtype, ints int64; arrays keep theirs.

    Raises: ShapeError for ragged lists, with the place; DTypeError for what is no number;
        TwofoldError for numbers that the dtype can't hold.

    >>> import twofold as tw
    >>> tw.tensor([[1, 2], [3, 4]])
    tensor([[1, 2],
            [3, 4]])
    >>> tw.tensor([0.5, 1], requires_grad=True)
    tensor([0.5000, 1.0000], requires_grad=True)
    """
    check_device(device)
    want = None if dtype is None else as_dtype(dtype)
    if isinstance(data, Tensor):
        with no_record():
            copied = cast(data, want or data.dtype, copy=True)
        return as_leaf(copied, requires_grad)
    return as_leaf(constant(_array_from(data, want)), requires_grad)


@function(method=False)
def as_tensor(data: Any, dtype: Any = None, device: Any = None) -> Tensor:
    """`data` as a tensor, on the same memory where that is possible (tensors and arrays).

    Raises: as `tensor`.

    >>> import numpy as np, twofold as tw
    >>> a = np.zeros(2, dtype=np.float32)
    >>> tw.as_tensor(a)[0] = 1.0
    >>> a.tolist()
    [1.0, 0.0]
    """
    check_device(device)
    want = None if dtype is None else as_dtype(dtype)
    if isinstance(data, np.ndarray) and data.dtype.isnative:
        data = from_numpy(data)
    if isinstance(data, Tensor):
        return cast(data, want or data.dtype)
    return constant(_array_from(data, want))


@function(method=False)
def asarray(
    obj: Any, *, dtype: Any = None, device: Any = None, copy: bool | None = None, requires_grad: bool = False
) -> Tensor:
    """`obj` as a tensor; `copy=True` always copies, `copy=False` refuses to.

    Raises: TwofoldError when `copy=False` and a copy is needed.

    >>> import twofold as tw
    >>> tw.asarray([1, 2])
    tensor([1, 2])
    """
    if copy:
        return tensor(obj, dtype=dtype, device=device, requires_grad=requires_grad)
    if not isinstance(obj, (Tensor, np.ndarray)) and hasattr(obj, "__dlpack__"):
        obj = wrap(np.from_dlpack(obj))
    shared = isinstance(obj, (Tensor, np.ndarray))
    out = as_tensor(obj, dtype, device)
    if copy is False and (not shared or as_dtype(obj.dtype) is not out.dtype):
        raise TwofoldError("the data can't be used without a copy", op="asarray", hint="drop copy=False")
    return as_leaf(out, requires_grad) if requires_grad else out


@function(method=False)
def scalar_tensor(s: Any, *, dtype: Any = None, device: Any = None, requires_grad: bool = False) -> Tensor:
    """A 0-d tensor with one number, of the default dtype unless another is given.

    >>> import twofold as tw
    >>> tw.scalar_tensor(2)
    tensor(2.)
    """
    want = get_default_dtype() if dtype is None else as_dtype(dtype)
    return tensor(s, dtype=want, device=device, requires_grad=requires_grad)


@function(method=False)
def frombuffer(buffer: Any, *, dtype: Any, count: int = -1, offset: int = 0, requires_grad: bool = False) -> Tensor:
    """A 1-d tensor on the memory of a buffer (bytes, bytearray, array.array ...).

    Args:
        count: number of elements, -1 for all.
        offset: where to begin, in bytes.

    >>> import twofold as tw
    >>> tw.frombuffer(bytearray([1, 2, 3]), dtype=tw.uint8)
    tensor([1, 2, 3], dtype=twofold.uint8)
    """
    return as_leaf(wrap(np.frombuffer(buffer, as_dtype(dtype).numpy, count, offset)), requires_grad)


@function(module=False)
def new_tensor(
    self: Tensor, data: Any, *, dtype: Any = None, device: Any = None, requires_grad: bool = False
) -> Tensor:
    """`tensor(data)` with the dtype of this tensor.

    >>> import twofold as tw
    >>> tw.zeros(1).new_tensor([1, 2])
    tensor([1., 2.])
    """
    want = self.dtype if dtype is None else dtype
    return tensor(data, dtype=want, device=device, requires_grad=requires_grad)


def copied(t: Tensor) -> Tensor:
    """A copy in new memory, in row order."""
    return bind(elementwise.copy, (t,), {})
