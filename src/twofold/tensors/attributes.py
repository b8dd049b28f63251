"""What a tensor tells of itself (sizes, strides, device), and casts of its dtype."""

from __future__ import annotations

import builtins
import math
from typing import Any

import numpy as np

from ..autodiff.bind import bind
from ..autodiff.handle import Tensor, mode
from ..ir.dtypes import BY_NAME, DType, as_dtype
from ..ir.errors import DTypeError, OutOfBoundsError
from ..ir.types import Shape, canonical_dim, contiguous_strides
from ..primitives import elementwise, movement
from ._registry import METHODS, _put, function
from .device import CPU, Device, check_device
from .interop import concrete

# --- sizes --------------------------------------------------------------------------------------


@function(module=False)
def size(self: Tensor, dim: int | None = None) -> Any:
    """The shape, or the size of one dimension.

    Raises: OutOfBoundsError when `dim` is outside the tensor.

    >>> import twofold as tw
    >>> tw.zeros(2, 3).size(), tw.zeros(2, 3).size(-1)
    ((2, 3), 3)
    """
    shape = self._value.shape
    return shape if dim is None else shape[_existing(dim, len(shape), "size")]


def _existing(dim: int, ndim: int, op: str) -> int:
    if ndim == 0:
        raise OutOfBoundsError(f"dim {dim} of a 0-d tensor, which has no dimensions", op=op)
    return canonical_dim(dim, ndim, op=op)


def _dim(self: Tensor) -> int:
    """The number of dimensions.

    >>> import twofold as tw
    >>> tw.zeros(2, 3).dim()
    2
    """
    return len(self._value.shape)


function(_dim, name="dim", aliases=("ndimension",), module=False)


@function(aliases=("nelement",))
def numel(input: Tensor) -> int:
    """The number of elements.

    >>> import twofold as tw
    >>> tw.zeros(2, 3).numel()
    6
    """
    return math.prod(input._value.shape)


@function(module=False)
def element_size(self: Tensor) -> int:
    """Bytes per element.

    >>> import twofold as tw
    >>> tw.zeros(2).element_size()
    4
    """
    return self.dtype.itemsize


_put(METHODS, "itemsize", property(lambda t: t.dtype.itemsize, doc="Bytes per element."))
_put(
    METHODS,
    "nbytes",
    property(lambda t: t.dtype.itemsize * math.prod(t._value.shape), doc="Bytes of all elements."),
)
_put(METHODS, "device", property(lambda t: CPU, doc="Where the memory is: always the CPU."))
_put(METHODS, "is_cpu", property(lambda t: True, doc="True: this build computes on the CPU only."))
_put(METHODS, "is_cuda", property(lambda t: False, doc="False: this build computes on the CPU only."))
_put(METHODS, "is_sparse", property(lambda t: False, doc="False: tensors are dense."))
_put(METHODS, "layout", property(lambda t: "strided", doc="How the elements are stored: always strided."))


@function
def is_floating_point(input: Tensor) -> builtins.bool:
    """Whether the dtype is floating.

    >>> import twofold as tw
    >>> tw.zeros(1).is_floating_point()
    True
    """
    return input.dtype.is_floating_point


@function
def is_complex(input: Tensor) -> builtins.bool:
    """Whether the dtype is complex.

    >>> import twofold as tw
    >>> tw.zeros(1).is_complex()
    False
    """
    return input.dtype.is_complex


@function
def is_signed(input: Tensor) -> builtins.bool:
    """Whether the dtype has negative numbers.

    >>> import twofold as tw
    >>> tw.tensor([1], dtype=tw.uint8).is_signed()
    False
    """
    return input.dtype.is_signed


@function(method=False)
def is_tensor(obj: Any) -> builtins.bool:
    """Whether `obj` is a Tensor.

    >>> import twofold as tw
    >>> tw.is_tensor(tw.zeros(1)), tw.is_tensor([1])
    (True, False)
    """
    return isinstance(obj, Tensor)


@function(method=False)
def typename(obj: Any) -> str:
    """The name of the type of `obj`; for a tensor the one that `type()` gives.

    >>> import twofold as tw
    >>> tw.typename(tw.zeros(1)), tw.typename("a")
    ('twofold.FloatTensor', 'builtins.str')
    """
    if isinstance(obj, Tensor):
        return type(obj)
    kind = obj if isinstance(obj, builtins.type) else obj.__class__
    return f"{kind.__module__}.{kind.__qualname__}"


@function
def is_nonzero(input: Tensor) -> builtins.bool:
    """Whether the only element is not zero.

    Raises: ShapeError when there is not exactly one.

    >>> import twofold as tw
    >>> tw.is_nonzero(tw.tensor([0.5]))
    True
    """
    return builtins.bool(input)


# --- memory -------------------------------------------------------------------------------------


def _layout(t: Tensor) -> np.ndarray[Any, Any]:
    """An array with the shape and strides that `t` has eagerly; only its layout may be read."""
    return t._value if mode.tracer is None else mode.tracer.phantom(t)


@function(module=False)
def stride(self: Tensor, dim: int | None = None) -> Any:
    """Steps in elements from one index to the next, of all dimensions or of one.

    >>> import twofold as tw
    >>> tw.zeros(2, 3).stride(), tw.zeros(2, 3).t().stride()
    ((3, 1), (1, 3))
    """
    array = _layout(self)
    size = self.dtype.itemsize
    if array.flags.c_contiguous:  # NumPy is free in the strides of dimensions of size 1
        strides: Shape = contiguous_strides(array.shape)
    else:
        strides = tuple([s // size for s in array.strides])
    return strides if dim is None else strides[_existing(dim, len(strides), "stride")]


@function(module=False)
def is_contiguous(self: Tensor, *, memory_format: Any = None) -> builtins.bool:
    """Whether the elements lie in row order without gaps.

    >>> import twofold as tw
    >>> tw.zeros(2, 3).t().is_contiguous()
    False
    """
    return _layout(self).flags.c_contiguous


@function(module=False)
def contiguous(self: Tensor, *, memory_format: Any = None) -> Tensor:
    """The tensor itself if its elements lie in row order, else a copy that does.

    >>> import twofold as tw
    >>> tw.zeros(2, 3).t().contiguous().stride()
    (2, 1)
    """
    return self if _layout(self).flags.c_contiguous else bind(elementwise.copy, (self,), {})


@function(module=False)
def data_ptr(self: Tensor) -> int:
    """The address of the first element.

    What other code writes there goes unnoticed: use `numpy()` or DLPack, which programs that keep packed
    weights know of.

    >>> import twofold as tw
    >>> x = tw.zeros(4)
    >>> x[1:].data_ptr() - x.data_ptr()
    4
    """
    return concrete(self, "data_ptr()").ctypes.data


@function(module=False)
def storage_offset(self: Tensor) -> int:
    """The place of the first element in the memory that views share, in elements.

    >>> import twofold as tw
    >>> tw.zeros(4)[1:].storage_offset()
    1
    """
    array = concrete(self, "storage_offset()")
    root = array
    while isinstance(root.base, np.ndarray):
        root = root.base
    return (array.ctypes.data - root.ctypes.data) // array.itemsize if array.size else 0


# --- casts --------------------------------------------------------------------------------------


def cast(t: Tensor, dtype: DType, copy: builtins.bool = False) -> Tensor:
    """`t` with another dtype; itself if it has it and no copy is asked for."""
    if t.dtype is dtype:
        return bind(elementwise.copy, (t,), {}) if copy else t
    return bind(elementwise.cast, (t,), {"dtype": dtype})


@function(module=False)
def to(
    self: Tensor,
    *args: Any,
    dtype: Any = None,
    device: Any = None,
    non_blocking: builtins.bool = False,
    copy: builtins.bool = False,
    memory_format: Any = None,
) -> Tensor:
    """The tensor with another dtype or device: `to(dtype)`, `to(device)`, `to(device, dtype)`, `to(other)`.

    Nothing to change gives the tensor itself, unless `copy`.
    Raises: TwofoldError for a device other than the CPU.

    >>> import twofold as tw
    >>> tw.tensor([1.5]).to(tw.int64), tw.tensor([1]).to("cpu", tw.float64)
    (tensor([1]), tensor([1.], dtype=twofold.float64))
    """
    rest = []
    for arg in args:
        if isinstance(arg, Tensor):
            dtype = arg.dtype
        elif isinstance(arg, builtins.bool):
            rest.append(arg)
        elif isinstance(arg, Device) or (isinstance(arg, str) and arg not in BY_NAME):
            device = arg
        elif arg is not None:
            dtype = arg
    if len(rest) > 1:  # to(dtype, non_blocking, copy)
        copy = rest[1]
    check_device(device)
    return cast(self, self.dtype if dtype is None else as_dtype(dtype), copy)


@function(module=False)
def type_as(self: Tensor, other: Tensor) -> Tensor:
    """The tensor with the dtype of `other`.

    >>> import twofold as tw
    >>> tw.tensor([1.5]).type_as(tw.tensor([1]))
    tensor([1])
    """
    return cast(self, other.dtype)


_TENSOR_TYPES = {
    "FloatTensor": "float32", "DoubleTensor": "float64", "HalfTensor": "float16", "BFloat16Tensor": "bfloat16",
    "LongTensor": "int64", "IntTensor": "int32", "ShortTensor": "int16", "CharTensor": "int8",
    "ByteTensor": "uint8", "BoolTensor": "bool",
    "ComplexFloatTensor": "complex64", "ComplexDoubleTensor": "complex128",
}  # fmt: skip
_TYPE_NAMES = {dtype: name for name, dtype in _TENSOR_TYPES.items()}


@function(module=False)
def type(self: Tensor, dtype: Any = None, non_blocking: builtins.bool = False) -> Any:
    """The tensor with another dtype; without one, the name of its type.

    Raises: DTypeError for an unknown type.

    >>> import twofold as tw
    >>> tw.zeros(1).type(), tw.zeros(1).type(tw.int64)
    ('twofold.FloatTensor', tensor([0]))
    """
    if dtype is None:
        return "twofold." + _TYPE_NAMES.get(self.dtype.name, self.dtype.name)
    if isinstance(dtype, str):
        dtype = _TENSOR_TYPES.get(dtype.rpartition(".")[2], dtype)
    return cast(self, as_dtype(dtype))


def _caster(name: str, dtype: DType) -> None:
    def call(self: Tensor, memory_format: Any = None) -> Tensor:
        return cast(self, dtype)

    call.__name__ = call.__qualname__ = name
    call.__doc__ = f"""The tensor with dtype {dtype.name}; itself if it has it.

    >>> import twofold as tw
    >>> tw.tensor([1, 0]).{name}().dtype
    {dtype!r}
    """
    function(call, module=False)


for _name, _dtype in {
    "float": "float32", "double": "float64", "half": "float16", "bfloat16": "bfloat16",
    "long": "int64", "int": "int32", "short": "int16", "char": "int8", "byte": "uint8", "bool": "bool",
    "cfloat": "complex64", "cdouble": "complex128",
}.items():  # fmt: skip
    _caster(_name, BY_NAME[_dtype])


@function(module=False)
def cpu(self: Tensor, memory_format: Any = None) -> Tensor:
    """The tensor itself: it is on the CPU.

    >>> import twofold as tw
    >>> tw.zeros(1).cpu()
    tensor([0.])
    """
    return self


@function(module=False)
def cuda(self: Tensor, device: Any = None, non_blocking: builtins.bool = False) -> Tensor:
    """Raises TwofoldError: this build computes on the CPU only."""
    check_device("cuda" if device is None else f"cuda:{device}" if isinstance(device, int) else device)
    return self


@function(module=False)
def get_device(self: Tensor) -> int:
    """The number of the accelerator that holds the tensor; -1 for the CPU.

    >>> import twofold as tw
    >>> tw.zeros(1).get_device()
    -1
    """
    return -1


@function(module=False)
def is_same_size(self: Tensor, other: Tensor) -> builtins.bool:
    """Whether two tensors have the same shape.

    >>> import twofold as tw
    >>> tw.zeros(2).is_same_size(tw.zeros(3))
    False
    """
    return self.shape == other.shape


@function(module=False)
def as_subclass(self: Tensor, cls: Any) -> Any:
    """A tensor of the class `cls`, a subclass of Tensor, on the same memory and with the same history.

    Raises: DTypeError when `cls` is no subclass of Tensor.

    >>> import twofold as tw
    >>> class Image(tw.Tensor):
    ...     pass
    >>> isinstance(tw.zeros(1).as_subclass(Image), Image)
    True
    """
    if not (isinstance(cls, builtins.type) and issubclass(cls, Tensor)):
        raise DTypeError(f"{cls!r} is no subclass of Tensor", op="as_subclass")
    out = movement.reshape(self, shape=self.shape)
    out.__class__ = cls
    return out


@function(module=False)
def pin_memory(self: Tensor) -> Tensor:
    """The tensor itself: there is no accelerator to copy to.

    >>> import twofold as tw
    >>> tw.zeros(1).pin_memory()
    tensor([0.])
    """
    return self
