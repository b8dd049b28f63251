"""recorded: the tape's node of a call of a compiled function.

Note [Gradients of gradients]
A node's backward is a program, which the tape cannot look into. Where the gradients themselves are
to be recorded (`create_graph=True`), the graph they were compiled from is applied to tensors
instead, operation by operation: eagerly, with the forward part computed again.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np

from ..autodiff import tape
from ..autodiff.handle import Tensor, mode, wrap
from ..autodiff.replay import replay
from ..autodiff.tape import Node, _numbers
from ..backends.cpu.program import Program
from ..ir.errors import user_location
from ..ir.graph import Graph
from ..ir.types import TensorType
from .anomaly import first_nan, has_nan


class Backward:
    """How to go back through a compiled function; shared by all its calls of one kind.

    Attributes:
        name: of the function, for messages.
        program: gives the gradients from the saved values and the gradients of the results.
        graph: gives the same from the inputs themselves; see Note [Gradients of gradients].
        types: of the results that have a gradient.
        reached: for each gradient, the numbers of the results that it depends on.
        saved: which of a call's arrays the program takes.
        given: which the graph takes.
        ends: for each of these, the number of its edge, or None.
    """

    def __init__(
        self,
        name: str,
        program: Program,
        graph: Graph,
        types: list[TensorType],
        reached: list[frozenset[int]],
        saved: Sequence[int],
        given: Sequence[int],
        ends: Sequence[int | None],
    ):
        self.name = name
        self.program = program
        self.graph = graph
        self.types = types
        self.reached = reached
        self.saved = saved
        self.given = given
        self.ends = ends


class CompiledNode(Node):
    """One call. `arrays` are what backward reads; `versions` tell whether somebody wrote to them since."""

    __slots__ = ("arrays", "how")

    def __init__(self, how: Backward, edges: list[Any], arrays: list[Any], versions: list[Any]):
        self.number = next(_numbers)
        self.spent = False
        self.prim = None  # type: ignore[assignment]
        self.params = {}
        self.how = how
        self.edges = edges
        self.inputs = []
        self.versions = []  # those of tape.Node hold tensors
        self.outputs = versions
        self.types = how.types
        self.hooks = self.retained = None
        self.location = user_location() if tape.keep_locations else None
        self.arrays: list[Any] | None = arrays

    @property
    def name(self) -> str:
        return self.how.name

    def backward(self, grads: list[Any]) -> Sequence[Any]:
        """Gradients of what the function used from those of its results."""
        how = self.how
        if self.arrays is None:
            raise tape.used_up(self.name)
        for storage, version, shape in self.outputs:
            if storage.version != version:
                raise tape.changed(self.name, shape, storage.version - version, self.location)
        arrived = {i for i, g in enumerate(grads) if g is not None}
        if mode.grad:
            results = self._replay(grads)
        else:
            seeds = [
                np.zeros(t.shape, t.dtype.numpy) if g is None else g._value
                for g, t in zip(grads, how.types, strict=True)
            ]
            found: list[Any] = how.program([*[self.arrays[i] for i in how.saved], *seeds])
            how.program.forget()
            if tape.check_nan and any(map(has_nan, found)):
                error = first_nan(how.graph, [*[self.arrays[i] for i in how.given], *seeds])
                if error is not None:
                    raise error
            results = [wrap(a) for a in found]
        return [g if arrived & reached else None for g, reached in zip(results, how.reached, strict=True)]

    def _replay(self, grads: list[Any]) -> list[Tensor]:
        how = self.how
        assert self.arrays is not None
        inputs = [self._input(self.arrays[i], end) for i, end in zip(how.given, how.ends, strict=True)]
        seeds = [tape._zeros_like_type((t.shape, t.dtype)) if g is None else g
                 for g, t in zip(grads, how.types, strict=True)]  # fmt: skip
        return replay(how.graph, [*inputs, *seeds])

    def _input(self, array: Any, end: int | None) -> Tensor:
        """A tensor that stands where the input stood in the history outside."""
        edge = None if end is None else self.edges[end]
        if edge is None:
            return wrap(array)
        target, index = edge
        if isinstance(target, Tensor):
            return target
        t = wrap(array)
        t._requires_grad, t._node, t._index = True, target, index
        return t

    def release(self) -> None:
        """Free what was saved; a node that saved nothing can run again."""
        self.spent = True
        if self.arrays:
            self.arrays = None
            self.outputs = []
