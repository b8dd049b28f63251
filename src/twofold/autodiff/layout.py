"""Where the elements of a tensor lie: strides and offset, eagerly and while tracing."""

from __future__ import annotations

from typing import Any, NamedTuple

from .handle import Tensor, alias, mode


class Layout(NamedTuple):
    """Strides and offset in elements, within the memory of `root`.

    `root` is the tensor that views of `t` are made from; `packed` says that it is row-major.
    """

    root: Tensor
    strides: tuple[int, ...]
    offset: int
    packed: bool


def layout(t: Tensor) -> Layout:
    """The layout of `t` relative to the base of its views."""
    root = t._base if t._base is not None and t._attached else t
    known: dict[int, Any] = {}
    outer, inner = _array(root, known), _array(t, known)
    if not outer.flags.c_contiguous and not root.requires_grad:
        # A detached view: it has no history that a view of its own source would miss.
        top = root
        while top._base is not None:
            top = top._base
        root, outer = alias(top), _array(top, known)
    size = t.dtype.itemsize
    offset = (_address(inner) - _address(outer)) // size
    return Layout(root, tuple([s // size for s in inner.strides]), offset, outer.flags.c_contiguous)


def _array(t: Tensor, known: dict[int, Any]) -> Any:
    """The array of `t`; while tracing one of the same layout, made once for each root."""
    if mode.tracer is None or not hasattr(t._value, "graph"):
        return t._value
    if id(t) not in known:
        if t._base is None:
            known[id(t)] = mode.tracer.phantom(t)
        else:
            array = _array(t._base, known)
            for p, params in t._steps:
                array = p.numpy(array, **params)
            known[id(t)] = array
    return known[id(t)]


def _address(array: Any) -> int:
    return array.__array_interface__["data"][0]
