"""Update kernels: several element-wise nodes on arrays of one length, known when they run, with several results.

What an optimizer does to a parameter and its buffers is one such kernel. Results may lie over operands: a
vector is written when all of it has been read. The table of arguments has, from word 2 on, the addresses
of the results, of the operands, and of the single numbers among these; then the length.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from ....ir.graph import Node, Value
from ..emit import Module, Number
from ..group import Group
from ..layout import Buffer, View
from ..open import data, entry, leave
from ..target import Target
from .mapping import CHUNK, Words, elements
from .rows import RowsKernel, Space, _Row
from .tile import kernel_function


class UpdateKernel(RowsKernel):
    """Code for element-wise nodes.

    Args:
        nodes: in order, all of one shape.
        results: the values to store.
        operands: values of that shape from outside.
        numbers: values of one element from outside.
        lanes: elements per vector.
    """

    def __init__(
        self,
        nodes: Sequence[Node],
        results: Sequence[Value],
        operands: Sequence[Value],
        numbers: Sequence[Value],
        lanes: int,
    ):
        shape = nodes[0].outputs[0].shape
        self.values = (*results, *operands, *numbers)
        self._numbers = frozenset(numbers)
        views = {v: View.whole(Buffer("input", v.dtype, 8, i), v.shape) for i, v in enumerate(self.values)}
        sources = {v: views[v] for v in (*operands, *numbers)}
        super().__init__(Group("rows", shape, 0, list(nodes)), sources, {v: views[v] for v in results}, lanes)

    def _merge(self) -> None:
        """Nothing to merge: there is one row."""
        self.space = Space((), (1,))
        self.rows = self.chunks = 0
        self.length: Any = 0  # known when it runs
        self.inner_strides = {v: (int(v not in self._numbers),) for v in self.values}

    def emit(self, module: Module, name: str, scratch_slot: int = 0) -> None:
        """Write the kernel's function into a module."""
        f = kernel_function(module, name)
        args, first, last, _ = f.args
        words = Words(f, args)
        bases = {self.views[v].buffer: words.take("ptr") for v in self.values}
        self.length = length = words.take()
        code, stored = _Row(self, f, bases, dict.fromkeys(self.values, 0), None, {}), list(self.outputs)
        code._prepare([], stored, 0)
        start: Number = f.mul(first, CHUNK)
        code._run(0, [], stored, (), start, f.min(f.mul(last, CHUNK), length), [])
        f.ret()
        f.finish()


def update_entry(module: Module, kernel: str, arrays: int) -> str:
    """A function for Python that runs a kernel on row-major arrays, in the order of its table; returns its name."""
    name = "update"
    f, _, objects = entry(module, name, arrays)
    table = f.alloca(8 * (arrays + 3))
    for i, array in enumerate(objects):
        f.store(data(f, array), f.at(table, 8 * (i + 2)), 8)
    length = elements(f, objects[0])
    f.store(length, f.at(table, 8 * (arrays + 2)), 8)
    chunks = f.int(f.div(f.add(length, CHUNK - 1), CHUNK))
    f.emit(f"call void @{kernel}({table}, i64 0, {chunks}, i64 0)")
    leave(f, objects[0])
    return name


def kernel_module(kernel: UpdateKernel, target: Target) -> Module:
    """A module with a kernel, "run", and its entry, "update"."""
    module = Module(target)
    kernel.emit(module, "run")
    update_entry(module, module.kernels["run"][0], len(kernel.values))
    return module
