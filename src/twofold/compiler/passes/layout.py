"""layout: activations of convolutional networks with their channels last.

Convolutions and pools become their twins of `primitives.channels_last`, with permutes around
them. The permutes sink: what is element by element, reduced, sliced, padded or joined is done in
the order in which its input lies, so that only real inputs and results of a program are turned.
The gradient of `max_pool`, which goes by indices, becomes one that knows its windows.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

import numpy as np

from ...ir.dtypes import HALVES, float32, int64
from ...ir.graph import Graph, Node, Value
from ...ir.primitive import PRIMITIVES, Primitive
from ...ir.rewrite import Rewriter
from ...ir.types import Shape, contiguous_strides
from ...primitives import elementwise
from ...primitives.channels_last import TWINS, channels_first, channels_last

_ELEMENTWISE = frozenset(p.name for p in vars(elementwise).values() if isinstance(p, Primitive))
_REDUCTIONS = frozenset(("sum", "prod", "amax", "amin"))
_ORDERED = frozenset(("sum", "prod"))  # reductions whose bits depend on the order
_COMPARISONS = frozenset(("le", "lt", "ge", "gt", "eq", "ne"))
_ACTIVATIONS = {"conv": (0,), "conv_input_grad": (0,), "conv_weight_grad": (0, 1)}
_RANKS = (3, 4, 5)  # (N, C, *S) with one to three spatial dimensions


def layout(graph: Graph) -> Graph:
    """See the head of this file."""
    if not any(n.prim.name in TWINS or n.prim.name in ("max_pool", "max_pool_grad") for n in graph.nodes):
        return graph
    return _Layout(graph).run_all()


class _Layout(Rewriter):
    """Every old value has a new one in its own order, in channels-last order, or both."""

    def __init__(self, source: Graph):
        super().__init__(source)
        self.last: dict[Value, Value] = {}  # old value -> new value in channels-last order
        self.natural: set[Value] = set()  # old values whose new ones are made in that order
        self.taps: dict[Value, tuple[Value, Node]] = {}  # indices of a max_pool -> taps, the pool
        self.pools: dict[Value, Node] = {}  # new gradient of a pool -> the pool
        self.rules: dict[str, Callable[[Node], bool]] = {
            "max_pool": self._max_pool,
            "max_pool_grad": self._max_pool_grad,
            "pad": lambda node: self._permuted(node, ("low", "high")),
            "slice": lambda node: self._permuted(node, ("start", "stop", "step")),
            "flip": self._flip,
            "concat": self._concat,
        }

    def run_all(self) -> Graph:
        return self.run(self._visit)

    def __getitem__(self, value: Value) -> Value:
        """The new value in the old one's order."""
        if value in self.taps and value not in self.last:
            self.last[value] = self._indices(value)
        if value not in self.values and value in self.last:
            order = channels_first(value.ndim)
            self.values[value] = self.add(PRIMITIVES["permute"], [self.last[value]], dims=order)
        return super().__getitem__(value)

    def turned(self, value: Value) -> Value:
        """The new value in channels-last order."""
        if value in self.taps and value not in self.last:
            self.last[value] = self._indices(value)
        if value not in self.last:
            node = value.node
            order = channels_last(value.ndim)
            if node is not None and node.prim.name == "expand":
                small = node.inputs[0]
                shape = tuple([value.shape[d] for d in order])
                source = self[small] if small.shape == () else self._operand(small, value.ndim)
                self.last[value] = self.add(PRIMITIVES["expand"], [source], shape=shape)
            else:
                self.last[value] = self.add(PRIMITIVES["permute"], [self[value]], dims=order)
        return self.last[value]

    def _made(self, value: Value, new: Value) -> None:
        """Set an old value's new one, which is in channels-last order."""
        self.last[value] = new
        self.natural.add(value)

    def _operand(self, value: Value, ndim: int) -> Value:
        """An operand that broadcasts against values of `ndim` dimensions in channels-last order."""
        if value.shape == ():
            return self[value]
        if value.ndim == ndim:
            return self.turned(value)
        shape = (1,) * (ndim - value.ndim) + value.shape
        x = self.add(PRIMITIVES["reshape"], [self[value]], shape=shape)
        return self.add(PRIMITIVES["permute"], [x], dims=channels_last(ndim))

    def _visit(self, node: Node) -> bool:
        name = node.prim.name
        if name in TWINS:
            return self._twin(node)
        if name in _ELEMENTWISE:
            return self._elementwise(node)
        if name in _REDUCTIONS:
            return self._reduction(node)
        rule = self.rules.get(name)
        return rule is not None and rule(node)

    # --- what is replaced -----------------------------------------------------------------------

    def _twin(self, node: Node) -> bool:
        name, out = node.prim.name, node.outputs[0]
        if out.dtype.is_complex or node.inputs[0].ndim not in _RANKS:
            return False
        moved = _ACTIVATIONS.get(name, (0,))
        inputs = [self.turned(v) if i in moved else self[v] for i, v in enumerate(node.inputs)]
        result = self.add(TWINS[name], inputs, **node.params)
        if name == "conv_weight_grad":
            self.values[out] = result
        else:
            self._made(out, result)
        return True

    def _max_pool(self, node: Node) -> bool:
        x, (values, indices) = node.inputs[0], node.outputs
        if x.ndim not in _RANKS:
            return False
        new = self.graph.add(
            PRIMITIVES["max_pool_last"],
            (self.turned(x),),
            node.params,
            location=node.location,
            scope=node.scope,
        )
        self._made(values, new[0])
        self.taps[indices] = (new[1], node)
        return True

    def _indices(self, value: Value) -> Value:
        """The indices of a max_pool, for those who want them, from the numbers of the taps."""
        taps, pool = self.taps[value]
        size, p = pool.inputs[0].shape[2:], pool.params
        strides = contiguous_strides(size)
        base = sum(
            (np.arange(n) * s - lo).reshape(-1, *(1,) * (len(size) - d)) * step
            for d, (n, s, (lo, _), step) in enumerate(
                zip(taps.shape[1:-1], p["stride"], p["padding"], strides, strict=True)
            )
        )
        index = self.graph.constant(np.asarray(base, np.int64))
        rest = self.add(PRIMITIVES["cast"], [taps], dtype=int64)
        for k, gap, step in reversed(list(zip(p["kernel"], p["dilation"], strides, strict=True))):
            count, scale = self.graph.constant(k, int64), self.graph.constant(gap * step, int64)
            # rest // k by a product, which vectors have: exact for all numbers below 2^32 / k
            inverse, bits = self.graph.constant(-(-(1 << 32) // k), int64), self.graph.constant(32, int64)
            quotient = self.add(PRIMITIVES["shift_right"], [self.add(PRIMITIVES["mul"], [rest, inverse]), bits])
            place = self.add(PRIMITIVES["sub"], [rest, self.add(PRIMITIVES["mul"], [quotient, count])])
            rest = quotient
            index = self.add(PRIMITIVES["add"], [index, self.add(PRIMITIVES["mul"], [place, scale])])
        return index

    def _max_pool_grad(self, node: Node) -> bool:
        """One whose indices are those of a pool here knows their taps; any other is a scatter."""
        g, indices = node.inputs
        taps, pool = self.taps.get(indices, (None, None))
        if taps is None or pool is None or pool.inputs[0].shape[2:] != node.params["input_size"]:
            self.values[node.outputs[0]] = self._scattered(node)
            return True
        params: dict[str, Any] = {**node.params, **pool.params}
        result = self.add(PRIMITIVES["max_pool_last_grad"], [self.turned(g), taps], **params)
        self.pools[result] = pool
        self._made(node.outputs[0], result)
        return True

    def _scattered(self, node: Node) -> Value:
        """The gradient of a max_pool by indices: added in float32 if it is a half."""
        g, indices = node.inputs
        out, dtype = node.outputs[0], float32 if g.dtype in HALVES else g.dtype
        lead, places = out.shape[:2], math.prod(g.shape[2:])
        zero = self.graph.constant(np.zeros((), dtype.numpy), dtype)
        zeros = self.add(PRIMITIVES["expand"], [zero], shape=(*lead, math.prod(out.shape[2:])))
        parts = [self.add(PRIMITIVES["reshape"], [self[v]], shape=(*lead, places)) for v in (indices, g)]
        if dtype is not g.dtype:
            parts[1] = self.add(PRIMITIVES["cast"], [parts[1]], dtype=dtype)
        y = self.add(PRIMITIVES["scatter_add"], [zeros, *parts], dim=2)
        y = y if dtype is g.dtype else self.add(PRIMITIVES["cast"], [y], dtype=g.dtype)
        return self.add(PRIMITIVES["reshape"], [y], shape=out.shape)

    # --- what keeps its input's order -------------------------------------------------------------

    def _elementwise(self, node: Node) -> bool:
        out = node.outputs[0]
        big = [v for v in node.inputs if v.shape == out.shape]
        if out.ndim not in _RANKS or not any(v in self.natural for v in big):
            return False
        if node.prim.name == "where" and self._masked_pool(node):
            return True
        inputs = [self._operand(v, out.ndim) for v in node.inputs]
        self._made(out, self.add(node.prim, inputs, **node.params))
        return True

    def _masked_pool(self, node: Node) -> bool:
        """where(x <= 0, 0, gradient of max_pool(x)): mask the small gradient instead of the large one.

        Where an element is its window's largest, the pool's result is that element.
        """
        condition, zero, grad = node.inputs
        test, result = condition.node, self.last.get(grad)
        pool = self.pools.get(result) if result is not None else None
        if pool is None or test is None or test.prim.name not in _COMPARISONS or not _is_zero(self.source, zero):
            return False
        x, bound = test.inputs
        if x is not pool.inputs[0] or bound.shape != () or zero.shape != ():
            return False
        g, taps = result.node.inputs  # type: ignore[union-attr]
        mask = self.add(test.prim, [self.last[pool.outputs[0]], self[bound]])
        masked = self.add(node.prim, [mask, self[zero], g])
        new = self.add(PRIMITIVES["max_pool_last_grad"], [masked, taps], **result.node.params)  # type: ignore
        self._made(node.outputs[0], new)
        return True

    def _reduction(self, node: Node) -> bool:
        if node.inputs[0] not in self.natural:
            return False
        x, out = node.inputs[0], node.outputs[0]
        order = channels_last(x.ndim)
        dims = tuple(sorted(order.index(d) for d in node.params["dims"]))
        if node.prim.name in _ORDERED and not _same_walk(x.shape, node.params["dims"], order):
            return False
        keepdim = node.params["keepdim"]
        y = self.add(node.prim, [self.last[x]], dims=dims, keepdim=keepdim)
        kept = [d for d in range(x.ndim) if d not in node.params["dims"] and x.shape[d] != 1]
        moved = [order[d] for d in range(x.ndim) if d not in dims and x.shape[order[d]] != 1]
        if kept == moved:  # the same elements in the same order
            self.values[out] = y if y.shape == out.shape else self.add(PRIMITIVES["reshape"], [y], shape=out.shape)
        elif keepdim:
            self._made(out, y)
        else:
            names = [order[d] for d in range(x.ndim) if d not in dims]
            back = tuple(names.index(d) for d in sorted(names))
            self.values[out] = self.add(PRIMITIVES["permute"], [y], dims=back)
        return True

    def _permuted(self, node: Node, lists: tuple[str, ...]) -> bool:
        if node.inputs[0] not in self.natural:
            return False
        order = channels_last(node.inputs[0].ndim)
        params = dict(node.params)
        for name in lists:
            params[name] = tuple([params[name][d] for d in order])
        self._made(node.outputs[0], self.add(node.prim, [self.last[node.inputs[0]]], **params))
        return True

    def _flip(self, node: Node) -> bool:
        if node.inputs[0] not in self.natural:
            return False
        order = channels_last(node.inputs[0].ndim)
        dims = tuple(sorted(order.index(d) for d in node.params["dims"]))
        self._made(node.outputs[0], self.add(node.prim, [self.last[node.inputs[0]]], dims=dims))
        return True

    def _concat(self, node: Node) -> bool:
        out = node.outputs[0]
        if out.ndim not in _RANKS or not any(v in self.natural for v in node.inputs):
            return False
        dim = channels_last(out.ndim).index(node.params["dim"])
        self._made(out, self.add(node.prim, [self.turned(v) for v in node.inputs], dim=dim))
        return True


def _same_walk(shape: Shape, dims: Shape, order: Shape) -> bool:
    """Whether a sum adds in the same order where the dimensions lie in `order`, so that its bits are the same.

    The order of a sum depends on whether it covers the trailing dimensions (see docs/design/0003), and on
    the order in which the reduced elements are met.
    """

    def walk(dims_in_order: list[int]) -> tuple[bool, list[int]]:
        real = [d for d in dims_in_order if shape[d] != 1]
        reduced = [d for d in real if d in dims]
        return real[len(real) - len(reduced) :] == reduced, reduced

    return walk(list(range(len(shape)))) == walk(list(order))


def _is_zero(graph: Graph, value: Value) -> bool:
    """Whether a value is known to be zeros."""
    node = value.node
    if node is not None and node.prim.name == "full":
        return node.params["value"] == 0
    while node is not None and node.prim.name in ("expand", "reshape"):
        value = node.inputs[0]
        node = value.node
    return value in graph.constants and not graph.constants[value].any()
