"""Graph: a straight-line program of primitives in single-assignment form.

    graph double(%x: float32[3]) {
      %0: float32[3] = mul(%x, float32(2.0))   # train.py:12 model.scale
      return %0
    }

Nodes stand in the order in which they run; a value is made once and never changes. Control flow
is a node whose params are graphs; these are closed: what they need from outside are inputs.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

import numpy as np

from .dtypes import DType, as_dtype, scalar_dtype
from .errors import DTypeError, GraphError, Location
from .literal import Block
from .primitive import Primitive
from .text import Scope, fingerprint, graph_text, node_text
from .types import Shape, TensorType
from .verify import verify


class Value:
    """What an input, a constant or a node gives.

    Attributes:
        type: shape and dtype.
        node: the node that makes it, None for inputs and constants.
        index: which of the node's outputs, or of the graph's inputs.
        name: a hint for printing ("weight", "x").
    """

    __slots__ = ("graph", "index", "name", "node", "type")

    def __init__(self, graph: Graph, type: TensorType, node: Node | None, index: int, name: str | None = None):
        self.graph = graph
        self.type = type
        self.node = node
        self.index = index
        self.name = name

    @property
    def shape(self) -> Shape:
        return self.type.shape

    @property
    def dtype(self) -> DType:
        return self.type.dtype

    @property
    def ndim(self) -> int:
        return len(self.type.shape)

    def __repr__(self) -> str:
        where = self.name or (f"{self.node.prim.name}#{self.node.number}" if self.node else "value")
        return f"<{where}: {self.type}>"


class Node:
    """One primitive applied to values.

    Attributes:
        number: its place in the graph.
        location: the user's line it came from, or None.
        scope: the layers and composites it was made in, outermost first: ((name, call number), ...).
    """

    __slots__ = ("inputs", "location", "number", "outputs", "params", "prim", "scope")

    def __init__(
        self,
        prim: Primitive,
        inputs: tuple[Value, ...],
        params: dict[str, Any],
        number: int,
        location: Location | None,
        scope: Scope,
    ):
        self.prim = prim
        self.inputs = inputs
        self.params = params
        self.number = number
        self.location = location
        self.scope = scope
        self.outputs: tuple[Value, ...] = ()

    def __repr__(self) -> str:
        return node_text(self)


class Graph(Block):
    """Inputs, nodes in order, outputs, and the arrays that are part of the program.

    Graphs with the same computation compare equal, whatever their values, nodes' origins and
    inputs are called.

    >>> from twofold.ir.dtypes import float32
    >>> graph = Graph("identity")
    >>> x = graph.add_input(TensorType((2,), float32), "x")
    >>> graph.set_outputs([x])
    >>> print(graph)
    graph identity(%x: float32[2]) {
      return %x
    }
    """

    __slots__ = ("_literals", "constants", "inputs", "name", "nodes", "outputs")

    def __init__(self, name: str = "graph"):
        self.name = name
        self.inputs: list[Value] = []
        self.nodes: list[Node] = []
        self.outputs: list[Value] = []
        self.constants: dict[Value, np.ndarray[Any, Any]] = {}
        self._literals: dict[tuple[bytes, DType], Value] = {}

    def add_input(self, type: TensorType, name: str | None = None) -> Value:
        """A new input, after those there are."""
        value = Value(self, type, None, len(self.inputs), name)
        self.inputs.append(value)
        return value

    def constant(self, data: Any, dtype: Any = None, name: str | None = None) -> Value:
        """An array or a Python number as a value. The array is copied.

        A 0-d constant without a name that is there already, bit by bit, is not added again.

        Raises: DTypeError if the number does not fit the dtype.
        """
        array = _as_array(data, dtype)
        type = TensorType.of(array)
        key = (array.tobytes(), type.dtype) if array.ndim == 0 and name is None else None
        if key is not None and key in self._literals:
            return self._literals[key]
        value = Value(self, type, None, len(self.constants), name)
        self.constants[value] = array
        if key is not None:
            self._literals[key] = value
        return value

    def add(
        self,
        prim: Primitive,
        inputs: Iterable[Value],
        params: dict[str, Any],
        location: Location | None = None,
        scope: Scope = (),
    ) -> tuple[Value, ...]:
        """Append a node and return its outputs, with the types that the primitive's rule gives.

        Raises: GraphError if an input belongs to another graph; what the type rule raises.
        """
        inputs = tuple(inputs)
        self._check_own(inputs, prim.name)
        types = prim.types([v.type for v in inputs], params)
        return self._append(Node(prim, inputs, params, len(self.nodes), location, scope), types)

    def add_like(self, node: Node, inputs: tuple[Value, ...]) -> tuple[Value, ...]:
        """Append a node of another graph on inputs of this one. Equal types of inputs give the types it has."""
        if any(
            new.type is not old.type and new.type != old.type for new, old in zip(inputs, node.inputs, strict=True)
        ):
            return self.add(node.prim, inputs, node.params, node.location, node.scope)
        self._check_own(inputs, node.prim.name)
        new = Node(node.prim, inputs, node.params, len(self.nodes), node.location, node.scope)
        return self._append(new, [v.type for v in node.outputs])

    def _append(self, node: Node, types: Iterable[TensorType]) -> tuple[Value, ...]:
        node.outputs = tuple([Value(self, type, node, i) for i, type in enumerate(types)])
        self.nodes.append(node)
        return node.outputs

    def set_outputs(self, values: Iterable[Value]) -> None:
        """Say what the graph gives back; a value may stand there several times."""
        values = list(values)
        self._check_own(values, "set_outputs")
        self.outputs = values

    def _check_own(self, values: Iterable[Any], op: str) -> None:
        for i, v in enumerate(values):
            if not isinstance(v, Value):
                raise GraphError(
                    f"argument {i} is {type(v).__name__}, expected a Value of the graph",
                    op=op,
                    hint="wrap numbers and arrays with graph.constant()",
                )
            if v.graph is not self:
                raise GraphError(
                    f"argument {i}, {v!r}, belongs to graph {v.graph.name!r}, not to {self.name!r}",
                    op=op,
                    hint="a nested graph gets what it needs from outside as inputs",
                )

    def verify(self) -> Graph:
        """Check that the graph is well formed and return it; raises GraphError naming the node."""
        verify(self)
        return self

    def to_text(self) -> str:
        """The full text, with all constants and origins; `parse_graph` reads it back."""
        return graph_text(self, full=True)

    def __str__(self) -> str:
        return graph_text(self, full=False)

    def __repr__(self) -> str:
        counts = f"{len(self.inputs)} inputs, {len(self.nodes)} nodes, {len(self.outputs)} outputs"
        return f"<Graph {self.name}: {counts}>"

    def fingerprint(self) -> str:
        """A hash of the computation as 64 hexadecimal digits; equal graphs, and only these, share it."""
        return fingerprint(self)

    def __eq__(self, other: object) -> bool:
        if not isinstance(other, Graph):
            return NotImplemented
        return self is other or fingerprint(self) == fingerprint(other)

    def __hash__(self) -> int:
        return hash(self.fingerprint())


def _as_array(data: Any, dtype: Any) -> np.ndarray[Any, Any]:
    """A row-major copy that can't be written. Python integers wrap as they do in eager operations."""
    is_number = isinstance(data, (bool, int, float, complex)) and not isinstance(data, np.generic)
    if dtype is None and is_number:
        dtype = scalar_dtype(data)
    target = None if dtype is None else as_dtype(dtype)
    if is_number and target is not None and target.kind in ("int", "uint"):
        data = _wrapped(data, target)
    try:
        array = np.array(data, dtype=None if target is None else target.numpy, order="C")
    except (OverflowError, TypeError, ValueError) as e:
        raise DTypeError(f"{data!r} can't be a constant of dtype {dtype}: {e}", op="constant") from e
    array = array.astype(as_dtype(array.dtype).numpy, copy=False)  # native byte order
    array.flags.writeable = False
    return array


def _wrapped(number: Any, dtype: DType) -> int:
    if not isinstance(number, int):
        raise DTypeError(
            f"the Python number {number!r} is no integer, beside a tensor of dtype {dtype.name}",
            hint="cast the tensor to a floating dtype first",
        )
    bits = dtype.itemsize * 8
    number = int(number) % (1 << bits)
    return number - (1 << bits) if dtype.is_signed and number >> (bits - 1) else number
