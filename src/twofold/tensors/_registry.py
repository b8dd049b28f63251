"""The table of public functions: declared once, they become `tw.name`, `Tensor.name` and `Tensor.name_`.

Declaring:

    @function(inplace=True)
    def exp(input): ...          # tw.exp(x), tw.exp(x, out=y), x.exp(), x.exp_()

    @function(method=False)
    def zeros(*size): ...        # tw.zeros only

    @function(name="max", aliases=("amax",), dims=True)   # takes axis/keepdims for dim/keepdim, too
"""

from __future__ import annotations

import functools
from collections.abc import Callable
from typing import Any, TypeVar, overload

import numpy as np

from ..autodiff.bind import keep_overwritten, overwritten, runner_of, write
from ..autodiff.handle import Tensor, mode
from ..autodiff.tape import _numbers
from ..ir.errors import DTypeError, ShapeError
from ..ir.primitive import PRIMITIVES, Primitive

FUNCTIONS: dict[str, Callable[..., Any]] = {}  # name -> the function under `twofold.`
METHODS: dict[str, Callable[..., Any]] = {}  # name -> the method of Tensor

F = TypeVar("F", bound=Callable[..., Any])

_NUMPY_NAMES = {"axis": "dim", "axes": "dim", "keepdims": "keepdim"}


@overload
def function(
    *,
    name: str | None = None,
    aliases: tuple[str, ...] = (),
    method: bool = True,
    module: bool = True,
    inplace: bool | Primitive = False,
    dims: bool = False,
) -> Callable[[F], F]: ...
@overload
def function(
    fn: F,
    *,
    name: str | None = None,
    aliases: tuple[str, ...] = (),
    method: bool = True,
    module: bool = True,
    inplace: bool | Primitive = False,
    dims: bool = False,
) -> F: ...
def function(
    fn: Callable[..., Any] | None = None,
    *,
    name: str | None = None,
    aliases: tuple[str, ...] = (),
    method: bool = True,
    module: bool = True,
    inplace: bool | Primitive = False,
    dims: bool = False,
) -> Any:
    """Register a function. Returns what was registered, so modules call the public form.

    Args:
        name: public name when it can't be the Python name (`max` in a module that needs the builtin).
        aliases: further names.
        method: also a method of Tensor, whose first argument is the tensor.
        module: also `twofold.name`.
        inplace: also the method `name_`, which writes the result into the tensor. A primitive is what it
            comes to for floating tensors of one dtype, and numbers.
        dims: accept NumPy's `axis` and `keepdims`.
    """
    if fn is None:
        return functools.partial(
            function, name=name, aliases=aliases, method=method, module=module, inplace=inplace, dims=dims
        )
    public = name or fn.__name__
    out = _with_keywords(fn, dims) if module or dims else fn
    for n in (public, *aliases):
        if module:
            _put(FUNCTIONS, n, out)
        if method:
            _put(METHODS, n, out if dims else fn)
        if inplace:
            _put(METHODS, n + "_", in_place(fn, n + "_", inplace if isinstance(inplace, Primitive) else None))
    return out


def _put(table: dict[str, Any], name: str, fn: Any) -> None:
    if name in table:
        raise ValueError(f"function {name!r} is registered twice")
    table[name] = fn


def _with_keywords(fn: Callable[..., Any], dims: bool) -> Callable[..., Any]:
    """Add `out=`, and NumPy's names of dim and keepdim; costs nothing without keywords."""

    @functools.wraps(fn)
    def call(*args: Any, **kwargs: Any) -> Any:
        if not kwargs:
            return fn(*args)
        if dims:
            for theirs in _NUMPY_NAMES.keys() & kwargs.keys():
                kwargs[_NUMPY_NAMES[theirs]] = kwargs.pop(theirs)
        if "out" in kwargs:
            out = kwargs.pop("out")
            return _write_out(fn(*args, **kwargs), out)
        return fn(*args, **kwargs)

    return call


def _write_out(result: Any, out: Any) -> Any:
    if out is None:
        return result
    if isinstance(result, tuple):
        for r, o in zip(result, out, strict=True):
            assign(o, r)
    else:
        assign(out, result)
    return out


def in_place(fn: Callable[..., Any], name: str, p: Primitive | None = None) -> Callable[..., Any]:
    """The method `name` that writes what `fn` gives into its first argument."""

    def call(self: Tensor, *args: Any, **kwargs: Any) -> Tensor:
        return change(self, fn, args, kwargs, name)

    def call_directly(self: Tensor, *args: Any, **kwargs: Any) -> Tensor:
        if len(args) == 1 and _changed(self, p, args[0], kwargs):
            return self
        return change(self, fn, args, kwargs, name)

    method = call if p is None else call_directly
    method.__name__ = method.__qualname__ = name
    method.__doc__ = f"In-place form of `{name[:-1]}`: writes the result into the tensor and returns it."
    return method


_SCALED, _NUMBERS = ("add", "sub"), (int, float)


def _changed(x: Tensor, p: Any, y: Any, kwargs: dict[str, Any]) -> bool:
    """`x = p(x, y)` in place, at once if it is plain: floating numbers that nobody traces or records.

    `y` may be scaled by `alpha`, of `add_` and `sub_`. False if it was not plain, or went wrong; then nothing has
    changed.
    """
    if mode.tracer is not None or x._base is not None or (x._requires_grad and mode.grad):
        return False
    array = x._value
    dtype = array.dtype
    if isinstance(y, Tensor):
        if y._value.dtype is not dtype or ((y._requires_grad or y._base is not None) and mode.grad):
            return False
        y = y._value
    elif y.__class__ is not float and y.__class__ is not int:
        return False
    if dtype.kind != "f":
        return False
    try:
        if kwargs:
            (alpha,) = kwargs.values()
            if "alpha" not in kwargs or p.name not in _SCALED or alpha.__class__ not in _NUMBERS:
                return False
            y = runner_of(PRIMITIVES["mul"])(y, alpha) if isinstance(y, np.ndarray) else y * alpha
        result = (p.run or runner_of(p))(array, y)
        if result.shape != array.shape:
            return False
        array[...] = result
    except Exception:
        return False
    overwritten(x)
    return True


def change(self: Tensor, fn: Callable[..., Any], args: Any, kwargs: Any, op: str) -> Tensor:
    """`self = fn(self, *args, **kwargs)` in place: the derivative of `fn` keeps the old value."""
    if not mode.grad:
        return assign(self, fn(self, *args, **kwargs), op=op)
    since = next(_numbers)
    value = fn(self, *args, **kwargs)
    if value._node is not None:
        keep_overwritten(self, value, since)
    return assign(self, value, op=op)


def assign(target: Tensor, value: Tensor, op: str = "copy_") -> Tensor:
    """Write `value` into `target`'s memory, broadcast and cast to its type.

    Raises: ShapeError if the shapes don't fit; DTypeError if the cast would lose the kind
        (float into int) and `op` is an arithmetic one.
    """
    old, new = target._value, value._value
    kept = new.dtype is old.dtype
    if kept and new.shape == old.shape and (op != "copy_" or not value.requires_grad):
        return write(target, value)
    kept = kept or value.dtype is target.dtype
    if not kept:
        order = ("bool", "uint", "int", "float", "complex")
        have, want = order.index(value.dtype.kind), order.index(target.dtype.kind)
        if op != "copy_" and have > want and not (have == 2 and want == 1):
            raise DTypeError(
                f"the result has dtype {value.dtype.name}, which can't be stored in a tensor of dtype "
                f"{target.dtype.name}",
                op=op,
                hint="use the out-of-place form, or cast the tensor first",
            )
        value = PRIMITIVES["cast"](value, dtype=target.dtype)
    if value.shape != target.shape:
        if len(value.shape) > len(target.shape) or any(
            a not in (1, b) for a, b in zip(reversed(value.shape), reversed(target.shape), strict=False)
        ):
            raise ShapeError(
                f"a value of shape {value.shape} does not fit into a tensor of shape {target.shape}",
                op=op,
                hint="the sizes of the value must be equal or 1, counted from the last dimension; "
                "it can't be larger",
            )
        value = PRIMITIVES["expand"](value, shape=target.shape)
    elif kept and op == "copy_" and value.requires_grad:
        value = PRIMITIVES["copy"](value)  # its hooks are not the target's
    return write(target, value)


def attach_methods() -> None:
    """Give the Tensor class its methods; called once, when the tensors room is complete."""
    for name, fn in METHODS.items():
        setattr(Tensor, name, fn)
