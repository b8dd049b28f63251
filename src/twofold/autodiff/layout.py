"""Where the elements of a tensor lie: strides and offset, eagerly and while tracing."""

from __future__ import annotations

from typing import Any, NamedTuple

from .handle import Tensor, mode


class Layout(NamedTuple):
    """Strides and offset in elements, within the memory of `root`.

    `root` is the tensor that owns the chain of views; `packed` says that it is row-major.
    """

    root: Tensor
    strides: tuple[int, ...]
    offset: int
    packed: bool


def layout(t: Tensor) -> Layout:
    """The layout of `t` relative to the base of its views."""
    root = t._base if t._base is not None and t._attached else t
    outer = _array(root)
    inner = outer
    if mode.tracer is None:
        inner = t._value
    elif root is not t:
        for p, params in t._steps:
            inner = p.numpy(inner, **params)
    size = t.dtype.itemsize
    offset = (_address(inner) - _address(outer)) // size
    return Layout(root, tuple([s // size for s in inner.strides]), offset, outer.flags.c_contiguous)


def strides_of(t: Tensor) -> tuple[int, ...]:
    """Strides of `t` in elements."""
    return layout(t).strides


def _array(t: Tensor) -> Any:
    return t._value if mode.tracer is None else mode.tracer.phantom(t)


def _address(array: Any) -> int:
    return array.__array_interface__["data"][0]
