"""Literals: what the params of a node may be, and how they are written in the text of a graph.

Params are bools, ints, floats, complex numbers, strings, None, DTypes, tuples of these, and graphs
(for control flow). All are hashable and can be printed and parsed back.
"""

from __future__ import annotations

import json
import re
from collections.abc import Callable, Iterator
from typing import Any

from .dtypes import DType
from .errors import GraphError

_PLAIN = (bool, int, float, complex, str, type(None), DType)
IDENTIFIER = re.compile(r"[A-Za-z_][A-Za-z0-9_]*\Z")


class Block:
    """Base of `Graph`, so that files below it can tell a nested graph from other params."""

    __slots__ = ()


def is_literal(value: Any) -> bool:
    """Whether `value` may be a param. Subclasses (NumPy's float64 is one of float) may not."""
    if isinstance(value, tuple):
        return value.__class__ is tuple and all(map(is_literal, value))
    return value.__class__ in _PLAIN or isinstance(value, Block)


def nested_graphs(value: Any) -> Iterator[Any]:
    """The graphs in a param or in a dict of params."""
    if isinstance(value, Block):
        yield value
    elif isinstance(value, tuple):
        for v in value:
            yield from nested_graphs(v)
    elif isinstance(value, dict):
        for v in value.values():
            yield from nested_graphs(v)


def literal_text(value: Any, graph_text: Callable[[Any], str]) -> str:
    """The text of a param; `graph_text` writes nested graphs."""
    if isinstance(value, Block):
        return graph_text(value)
    if value.__class__ is tuple:
        items = [literal_text(v, graph_text) for v in value]
        return f"({items[0]},)" if len(items) == 1 else f"({', '.join(items)})"
    if isinstance(value, DType):
        return value.name
    if value.__class__ is str:
        return json.dumps(value)
    if value.__class__ is complex:
        return f"complex({value.real!r}, {value.imag!r})"
    if value.__class__ in _PLAIN:
        return repr(value)
    raise GraphError(
        f"{value!r} of type {type(value).__name__} can't be a param",
        hint="params are numbers, strings, bools, None, DTypes, graphs, and tuples of these",
    )
