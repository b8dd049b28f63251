"""Updates: what changes tensors in place element by element, as one kernel for tensors of any length.

A function of tensors of one shape, and of 0-d ones, is traced once. What it computes of numbers alone (an
optimizer's corrections) is a program of its own, which runs once for all tensors that share these numbers;
the rest is one kernel, which is called for each of them. The bits are those of the single operations.
"""

from __future__ import annotations

import importlib
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np

from ..autodiff.composite import concrete
from ..ir import config
from ..ir.dtypes import DType
from ..ir.errors import TwofoldError
from ..ir.graph import Graph, Node, Value
from ..ir.primitive import PRIMITIVES
from ..ir.types import Shape
from .pipeline import optimize
from .run import trace_call
from .trace import Slot, Trace

Array = np.ndarray[Any, Any]

_SHAPE: Shape = (2, 2, 2)  # stands for any


def update_of(fn: Callable[..., None], dtypes: Sequence[DType], is_number: Sequence[bool]) -> Update | None:
    """`fn`, which writes into its arguments, as a kernel; None if it can't be one.

    Args:
        fn: of tensors that all have one shape, and of 0-d tensors.
        dtypes: of the arguments.
        is_number: whether an argument is 0-d.
    """
    if not config.EAGER_KERNELS.value:
        return None
    try:
        with concrete():
            args = [
                PRIMITIVES["full"](shape=() if number else _SHAPE, value=1, dtype=dtype)
                for dtype, number in zip(dtypes, is_number, strict=True)
            ]
        return Update(trace_call(fn, args, {}, derivative=False))
    except (TwofoldError, _Unsuited):
        return None


class _Unsuited(Exception):
    """A function that is not element-wise."""


class Update:
    """A traced function as code; call it with arrays, which are changed in place.

    Args:
        trace: of the function.
    """

    def __init__(self, trace: Trace):
        graph = optimize(trace.graph)
        arguments = [target for target in trace.updates if not isinstance(target, Slot)]
        if trace.num_results or trace.cleared or len(arguments) != len(trace.updates):
            raise _Unsuited
        self._slots = trace.state
        written = dict(zip(arguments, graph.outputs, strict=True))
        if any(v.node is None or v.shape != graph.inputs[i].shape for i, v in written.items()):
            raise _Unsuited
        self.written = tuple(written)
        self._split(graph, written)

    def _split(self, graph: Graph, written: dict[int, Value]) -> None:
        """Divide the graph: nodes of numbers are a program, the others a kernel."""
        kernels: Any = importlib.import_module("..backends.cpu.kernels.updating", __package__)
        groups: Any = importlib.import_module("..backends.cpu.group", __package__)
        nodes = [n for n in graph.nodes if n.outputs[0].shape == _SHAPE]
        own = {n.outputs[0] for n in nodes}
        outside = dict.fromkeys(v for n in nodes for v in n.inputs if v not in own)
        operands = [v for v in outside if v.shape == _SHAPE]
        numbers = [v for v in outside if v.shape == ()]
        if (
            not all(groups.is_elementwise(n) for n in nodes)
            or len(operands) + len(numbers) != len(outside)
            or not set(operands) <= set(graph.inputs)
            or any(v.shape not in ((), _SHAPE) for n in graph.nodes for v in n.outputs)
        ):
            raise _Unsuited
        counters = {i: v for i, v in written.items() if v.shape == ()}
        results = {i: v for i, v in written.items() if v.shape == _SHAPE}
        if not results:
            raise _Unsuited
        self._counters = tuple(counters)
        self._program, self._inputs = self._numbers_of(graph, [*counters.values(), *numbers])
        place = {v: i for i, v in enumerate(graph.inputs)}
        self._order = (*results, *[place[v] for v in operands])
        self._load(kernels, (nodes, list(results.values()), operands, numbers))

    def _numbers_of(self, graph: Graph, wanted: list[Value]) -> tuple[Any, list[int]]:
        """The program that computes numbers of 0-d inputs, and which inputs these are."""
        program: Any = importlib.import_module("..backends.cpu.program", __package__)
        small = Graph("numbers")
        new: dict[Value, Value] = {v: small.constant(a) for v, a in graph.constants.items() if v.shape == ()}
        places = [i for i, v in enumerate(graph.inputs) if v.shape == ()]
        new |= {graph.inputs[i]: small.add_input(graph.inputs[i].type) for i in places}
        for node in graph.nodes:
            if node.outputs[0].shape == ():
                self._copy(node, small, new)
        small.set_outputs([new[v] for v in wanted])
        return (program.Program(small) if wanted else None), places

    @staticmethod
    def _copy(node: Node, graph: Graph, new: dict[Value, Value]) -> None:
        if any(v not in new for v in node.inputs) or node.prim.multiple:
            raise _Unsuited  # a number that comes from an array
        (new[node.outputs[0]],) = graph.add(node.prim, [new[v] for v in node.inputs], node.params)

    def _load(self, kernels: Any, parts: Any) -> None:
        target: Any = importlib.import_module("..backends.cpu.target", __package__)
        maps: Any = importlib.import_module("..backends.cpu.maps", __package__)
        self._open: Any = importlib.import_module("..backends.cpu.open", __package__)
        self._little, self._chunk = maps.LITTLE, kernels.CHUNK
        host = target.host()
        kernel = kernels.UpdateKernel(*parts, host.lanes(4))
        self._loaded = self._open.Loaded(kernels.kernel_module(kernel, host))
        self._code = self._loaded.address("run")
        self._entry = self._loaded.entry("update") if self._open.HAS_ENTRIES else None

    def __call__(self, items: Sequence[Sequence[Array]]) -> None:
        """Change the arrays of every item, each in the order of the function's arguments.

        Arrays are row-major, those of an item have one shape; the 0-d ones are equal in all items.
        """
        first = items[0]
        numbers: list[Array] = []
        if self._program is not None:
            state = [slot.read() for slot in self._slots]
            numbers = self._program([first[i] if i < len(first) else state[i - len(first)] for i in self._inputs])
        counted, numbers = numbers[: len(self._counters)], numbers[len(self._counters) :]
        order, run = self._order, self._entry
        for arrays in items:
            given = [arrays[i] for i in order]
            if run is not None and given[0].size <= self._little:
                run(*given, *numbers)
            else:
                self._run_large([*given, *numbers], given[0].size)
            for i, value in zip(self._counters, counted, strict=True):
                arrays[i][...] = value

    def _run_large(self, arrays: list[Array], length: int) -> None:
        if not length:
            return
        with self._open.take() as call:
            words = (*[a.ctypes.data for a in arrays], length)
            call.words[2 : 2 + len(words)] = words
            call.run((self._code, -(-length // self._chunk)))
