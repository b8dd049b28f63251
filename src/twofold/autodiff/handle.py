"""Tensor: a mutable handle on a value. Storage: what views of one array share.

Note [Values]
A handle's `_value` is a NumPy array, or a graph `Value` while tracing. All code above this floor
goes through `bind` (results) and `write` (in-place), and never looks at the array itself.

Note [Contiguous results]
A computed result is always row-major; only views are strided. So whether `reshape` is a view
can be told from the chain of view operations alone, and eager and traced code alias alike.

Note [Methods]
Functions and methods are attached by the tensors room, from its table. What type checkers read is
handle.pyi, which tools/stubs.py writes from this file and that table.

Note [View chains]
A view knows `_base`, the handle it was made from, and `_steps`, the view operations from there.
Eagerly NumPy shares the memory and nothing else is needed. The chain serves two readers: autograd
(writing to a view changes the history of its base, and then of all other views) and the tracer
(values are immutable there, so a write to a view makes a new value for the base).
An *alias* (`detach`) is a view without steps that has no derivative: `_attached` is False.
"""

from __future__ import annotations

import operator
import threading
from typing import Any

import numpy as np

from ..ir.dtypes import FROM_NUMPY, DType, as_dtype, get_default_dtype
from ..ir.errors import DTypeError
from ..ir.types import Shape, TensorType


class Storage:
    """Shared by a tensor and all its views.

    Attributes:
        version: counts the in-place writes.
        exports: counts how often the memory was given out, to be written by others without notice.
    """

    __slots__ = ("__weakref__", "exports", "version")

    version: int
    exports: int

    def __init__(self) -> None:
        self.version = self.exports = 0


class Mode(threading.local):
    """What this thread does with an operation."""

    tracer: Any = None  # an object with bind/write, see compile.tracer
    grad: bool = True  # record for backward
    inference: bool = False
    grad_depth: int = 0  # nesting of functional grad()


mode = Mode()


class Settings:
    """Counts the changes of plain attributes of modules and optimizers, in the whole process.

    A compiled step depends on them; while the count stands still it need not look.
    """

    changes: int = 0
    exports: int = 0  # of all storages together


class Tensor:
    """An n-dimensional array of one dtype that remembers how it was made.

    Make one with `twofold.tensor`, `zeros`, `rand` ...; methods and names are PyTorch's.

    Attributes:
        shape: sizes of the dimensions, a tuple of ints.
        dtype: type of the elements.
        requires_grad: whether operations on it are recorded for backward.
        grad: the gradient that `backward()` accumulated, or None.

    >>> import twofold as tw
    >>> x = tw.tensor([1.0, 2.0, 3.0], requires_grad=True)
    >>> (x * x).sum().backward()
    >>> x.grad
    tensor([2., 4., 6.])
    """

    # Class attributes are the defaults, so that making a handle stores its value only.
    _value: Any  # see Note [Values]
    requires_grad: bool  # a property of `bind`, for which a view must look at its base's history
    _requires_grad: bool = False
    _grad: Tensor | None = None
    _node: Any = None  # the tape.Node that made it; None for a leaf
    _index: int = 0  # which of that node's outputs
    _storage: Storage | None = None  # made when first needed; None means never written, no views
    _base: Tensor | None = None  # see Note [View chains]
    _steps: tuple[Any, ...] = ()  # ((primitive, params), ...) from _base
    _attached: bool = True
    _history: int = 0  # counts rebases of this base's node
    _seen: int = 0  # the base's _history when this view's node was made
    _value_version: int = 0  # tracing: storage version when _value was made
    _hooks: Any = None
    _post_hooks: Any = None
    _retains_grad: bool = False
    _watched: bool = False  # programs take for granted whether it requires a gradient
    _earlier: tuple[tuple[int, Tensor], ...] = ()  # handles with its shape before, and when it changed in place

    __array_priority__: int = 1000  # NumPy's operators give way to ours

    def __init__(self, *data: Any, dtype: Any = None, device: Any = None, requires_grad: bool = False):
        """As PyTorch's class: of `(2, 3)` sizes, or of one sequence, array or tensor; of the default dtype."""
        if len(data) == 1 and isinstance(data[0], Tensor):
            self._value = data[0]._value
            self._storage = storage_of(data[0])
            self._base, self._attached = data[0], False
        else:
            self._value = _constructed(data, dtype)
        if requires_grad:
            self.requires_grad = True

    @property
    def grad(self) -> Tensor | None:
        """The gradient that `backward()` accumulated, or None."""
        if mode.tracer is not None:
            mode.tracer.touch_grad(self, is_read=True)
        return self._grad

    @grad.setter
    def grad(self, value: Tensor | None) -> None:
        if mode.tracer is not None:
            mode.tracer.touch_grad(self, is_read=False)
        self._grad = value

    @property
    def shape(self) -> Shape:
        """Sizes of the dimensions, a tuple of ints."""
        return self._value.shape

    @property
    def dtype(self) -> DType:
        """Type of the elements."""
        d = self._value.dtype
        return FROM_NUMPY[d] if d.__class__ is not DType else d

    @property
    def ndim(self) -> int:
        """Number of dimensions."""
        return len(self._value.shape)

    @property
    def type_(self) -> TensorType:
        """Shape and dtype together, as the table of primitives sees them."""
        return TensorType(self._value.shape, self.dtype)

    @property
    def _version(self) -> int:
        return self._storage.version if self._storage is not None else 0


def _constructed(data: tuple[Any, ...], dtype: Any) -> np.ndarray[Any, Any]:
    """The array of `Tensor(*data)`."""
    kind = (get_default_dtype() if dtype is None else as_dtype(dtype)).numpy
    if all(hasattr(n, "__index__") and not isinstance(n, np.ndarray) for n in data) and dtype is None:
        return np.zeros([operator.index(n) for n in data] or [0], kind)
    if len(data) != 1 or (dtype is None and not np.ndim(data[0])):
        raise DTypeError(
            f"expected sizes or one sequence of numbers, got {', '.join(type(x).__name__ for x in data)}",
            op="Tensor",
            hint="use twofold.tensor(data), which also takes single numbers and infers the dtype",
        )
    return np.array(data[0], dtype=kind)


# What may stand beside a tensor in an operation.
Operand = Tensor | bool | int | float | complex | np.generic | np.ndarray[Any, Any]

_new = object.__new__


def wrap(value: Any) -> Tensor:
    """A new handle on an array or graph value, without history."""
    t = _new(Tensor)
    t._value = value
    return t


def storage_of(t: Tensor) -> Storage:
    """The storage that `t` shares with its views, made on first need."""
    storage = t._storage
    if storage is None:
        storage = t._storage = Storage()
    return storage


def exported(t: Tensor) -> None:
    """Note that the memory of `t` is given to code that can write to it without notice."""
    storage_of(t).exports += 1
    Settings.exports += 1


def alias(t: Tensor) -> Tensor:
    """A handle on the same memory without history: what `detach()` returns."""
    out = wrap(t._value)
    out._storage = storage_of(t)
    out._base, out._attached = t, False
    out._value_version = t._value_version
    return out


def unlinked(data: Tensor, t: Tensor) -> Tensor:
    """`data`, or where it is a view of `t`, a handle on its memory alone: `t` can't become a view of itself."""
    link: Tensor | None = data
    while link is not None and link is not t:
        link = link._base
    if link is None:
        return data
    out = wrap(data._value)
    out._storage = storage_of(data)
    return out
