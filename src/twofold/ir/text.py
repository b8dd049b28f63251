"""The text of graphs: a readable form, a full form that `parse.parse_graph` reads back, a fingerprint.

Note [Text of graphs]

    graph step(%x: float32[2, 3], %weight: float32[3]) {
      %c: float32[3] = constant([1.0, 2.0, 3.0])
      %0: float32[2, 3] = mul(%x, %weight)   # train.py:12 model.scale
      %values: float32[2, 3], %2: int64[2, 3] = sort(%0, descending=False, dim=1)
      return %values, %c, float32(2.0)
    }

Values have their name, made unique, or a number. A 0-d constant stands where it is used, with its
dtype as a function: `float32(2.0)`. The full form differs from the readable one in two points:
large constants are written as base64 of their row-major little-endian bytes instead of shortened,
and a node's origin is part of the program, not a comment: `at ("train.py", 12, "step") in (("model", 0),)`.
"""

from __future__ import annotations

import base64
import hashlib
import json
import math
import re
from pathlib import PurePath
from typing import TYPE_CHECKING, Any

import numpy as np

from .dtypes import DType
from .errors import GraphError
from .literal import IDENTIFIER, literal_text, nested_graphs
from .types import TensorType

if TYPE_CHECKING:
    from .graph import Graph, Node, Value

Scope = tuple[tuple[str, int], ...]

INLINE_SIZE = 16  # constants up to this size are written as numbers
_WIDEST_ALIGNED = 100  # comments stand below each other unless a line is longer than this


# --- numbers ------------------------------------------------------------------------------


def number_text(x: Any, dtype: DType) -> str:
    """The shortest text that gives `x`, a NumPy scalar of `dtype`, back bit by bit (NaNs aside)."""
    if dtype.kind == "bool":
        return str(bool(x))
    if dtype.kind in ("int", "uint"):
        return str(int(x))
    if dtype.is_complex:
        part = dtype.to_real()
        return f"complex({number_text(x.real, part)}, {number_text(x.imag, part)})"
    wide = float(x)
    if dtype.itemsize < 8 and math.isfinite(wide):
        for digits in range(1, 10):
            short = float(f"{wide:.{digits}g}")
            if dtype.numpy.type(short) == x:
                return repr(short)
    return repr(wide)


def _numbers(array: np.ndarray[Any, Any], type: TensorType) -> str | None:
    """A small array as (nested) list of numbers, or None if that would lose bits of a NaN."""
    as_python = {"int": int, "uint": int, "bool": bool, "float": float, "complex": complex}[type.dtype.kind]
    flat = [as_python(x) for x in array.reshape(-1)]
    if np.array(flat, type.dtype.numpy).tobytes() != array.tobytes():
        return None
    return _nested([number_text(x, type.dtype) for x in array.reshape(-1)], type.shape)


def _nested(texts: list[str], shape: tuple[int, ...]) -> str:
    if not shape:
        return texts[0]
    step = len(texts) // shape[0] if shape[0] else 0
    return "[" + ", ".join(_nested(texts[i * step : (i + 1) * step], shape[1:]) for i in range(shape[0])) + "]"


def little_endian_bytes(array: np.ndarray[Any, Any]) -> bytes:
    """The elements in row-major order, little-endian on every machine."""
    return array.astype(array.dtype.newbyteorder("<"), copy=False).tobytes()


# --- names --------------------------------------------------------------------------------


class _Names:
    """Unique names of the values of one graph, and the 0-d constants that need none."""

    def __init__(self, graph: Graph):
        self.of: dict[Value, str] = {}
        self.taken: set[str] = set()
        self.inline: dict[Value, str] = {}
        for value in graph.inputs:
            self._give(value)
        for value, array in graph.constants.items():
            numbers = None if value.name is not None or value.ndim else _numbers(array, value.type)
            if numbers is None:
                self._give(value, "c")
            else:
                self.inline[value] = f"{value.dtype.name}({numbers})"
        count = 0
        for node in graph.nodes:
            for value in node.outputs:
                self._give(value, str(count))
                count += 1

    def _give(self, value: Value, otherwise: str = "input") -> None:
        hint = otherwise if value.name is None else re.sub(r"[^A-Za-z0-9_.]", "_", value.name)
        if value.name is not None and not re.match(r"[A-Za-z_]", hint):
            hint = "_" + hint
        name, n = hint, 0
        while name in self.taken:
            n += 1
            name = f"{hint}_{n}"
        self.taken.add(name)
        self.of[value] = name

    def use(self, value: Value) -> str:
        """The text of a value where it is used; one that is nowhere defined is shown as such."""
        if value in self.inline:
            return self.inline[value]
        return "%" + self.of[value] if value in self.of else f"%undefined_{value!r}"

    def define(self, value: Value) -> str:
        return f"%{self.of[value]}: {value.type!r}"


# --- the printer --------------------------------------------------------------------------


def graph_text(graph: Graph, *, full: bool) -> str:
    """The text of a graph; see Note [Text of graphs]."""
    lines: list[tuple[str, str]] = []
    _print_graph(graph, lines, "", "", full)
    widths = [len(text) for text, comment in lines if comment and len(text) <= _WIDEST_ALIGNED]
    column = max(widths, default=0)
    return "\n".join(f"{text:<{column}}   # {comment}" if comment else text for text, comment in lines)


def _print_graph(graph: Graph, lines: list[tuple[str, str]], head: str, indent: str, full: bool) -> None:
    """Append the lines of a graph; the first one begins with `head`, the last one is `indent}`."""
    names = _Names(graph)
    name = graph.name if IDENTIFIER.match(graph.name) else json.dumps(graph.name)
    lines.append((f"{head}graph {name}({', '.join(map(names.define, graph.inputs))}) {{", ""))
    inner = indent + "  "
    for value, array in graph.constants.items():
        if value not in names.inline:
            lines.append((f"{inner}{names.define(value)} = constant({_constant(array, value.type, full)})", ""))
    for node in graph.nodes:
        left = ", ".join(map(names.define, node.outputs))
        _print_call(node, names, lines, f"{inner}{left} = ", inner, full)
    lines.append((f"{inner}return {', '.join(map(names.use, graph.outputs))}".rstrip(), ""))
    lines.append((indent + "}", ""))


def _print_call(
    node: Node, names: _Names, lines: list[tuple[str, str]], text: str, indent: str, full: bool
) -> None:
    """Append `text` and the call; nested graphs take lines of their own."""
    origin = _origin(node) if full else ""
    comment = "" if full else _comment(node)

    def nested(graph: Graph) -> str:
        inner: list[tuple[str, str]] = []
        _print_graph(graph, inner, "", indent + "  ", full)
        bodies.append(inner)
        return f"\0{len(bodies) - 1}\0"

    bodies: list[list[tuple[str, str]]] = []
    args = [names.use(v) for v in node.inputs]
    graphs_last = sorted(node.params.items(), key=lambda item: (any(nested_graphs(item[1])), item[0]))
    args += [f"{k}={literal_text(v, nested)}" for k, v in graphs_last]
    pieces = re.split("\0([0-9]+)\0", f"{text}{node.prim.name}({', '.join(args)}){origin}")
    # pieces alternate: text, number of a nested graph, text, ...
    line = pieces[0]
    for number, rest in zip(pieces[1::2], pieces[2::2], strict=True):
        (first, _), *middle, (last, _) = bodies[int(number)]
        lines.append((line + first, comment))
        lines.extend(middle)
        line, comment = last + rest, ""
    lines.append((line, comment))


def _constant(array: np.ndarray[Any, Any], type: TensorType, full: bool) -> str:
    if type.size == 0:
        return "[]"
    if type.size <= INLINE_SIZE:
        numbers = _numbers(array, type)
        if numbers is not None:
            return numbers
    if full:
        return f'base64 "{base64.b64encode(little_endian_bytes(array)).decode()}"'
    first = ", ".join(number_text(x, type.dtype) for x in array.reshape(-1)[:3])
    return f"[{first}, ...]"


def _origin(node: Node) -> str:
    text = ""
    if node.location is not None:
        file, line, function = node.location
        text += f" at ({json.dumps(file)}, {line}, {json.dumps(function)})"
    if node.scope:
        text += f" in {literal_text(tuple(map(tuple, node.scope)), str)}"
    return text


def _comment(node: Node) -> str:
    where = f"{PurePath(node.location.file).name}:{node.location.line}" if node.location is not None else ""
    return f"{where} {scope_path(node.scope)}".strip()


def scope_path(scope: Scope) -> str:
    """The scope as users read it: "model.conv1"."""
    return ".".join(name for name, _ in scope)


def node_text(node: Node) -> str:
    """One node on one line, by types: for messages about it."""
    args = [f"%{v.name}: {v.type}" if v.name else repr(v.type) for v in node.inputs]
    for k, v in sorted(node.params.items()):
        try:
            args.append(f"{k}={literal_text(v, repr)}")
        except GraphError:
            args.append(f"{k}={v!r}")
    return f"#{node.number} {node.prim.name}({', '.join(args)})"


# --- the fingerprint ----------------------------------------------------------------------


def fingerprint(graph: Graph) -> str:
    """SHA-256 of what the graph computes: no names, no origins, no constants that nobody uses."""
    digest = hashlib.sha256()
    numbers: dict[Value, int] = {}

    def put(text: str) -> None:
        digest.update(text.encode("utf-8", "surrogatepass") + b"\n")

    def use(value: Value) -> int:
        if value not in numbers:
            array = graph.constants.get(value)
            if array is None:
                raise GraphError(f"{value!r} of graph {graph.name!r} is used before it is made")
            data = hashlib.sha256(little_endian_bytes(array)).hexdigest()
            put(f"constant {value.type!r} {data}")
            numbers[value] = len(numbers)
        return numbers[value]

    for value in graph.inputs:
        put(f"input {value.type!r}")
        numbers[value] = len(numbers)
    for node in graph.nodes:
        inputs = [use(v) for v in node.inputs]
        params = [f"{k}={literal_text(v, fingerprint)}" for k, v in sorted(node.params.items())]
        put(f"{node.prim.name} {inputs} ({', '.join(params)}) {[repr(v.type) for v in node.outputs]}")
        for value in node.outputs:
            numbers[value] = len(numbers)
    put(f"return {[use(v) for v in graph.outputs]}")
    return digest.hexdigest()
