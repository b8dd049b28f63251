"""canonicalize: one form for what can be said in several.

Afterwards:
- a reduction covers trailing dimensions only, or keeps the innermost one: one over other dimensions that include
  the last is turned, so that what it keeps comes last (`layout` turns sums over pixels in the same way);
- the transpose of a matrix product is the product of the transposes, so that what follows it
  element by element can be fused to it;
- no cast to the same dtype, no reshape, permute, expand or slice that changes nothing, no
  permute of a permute;
- no power with a small whole constant exponent;
- no sum or product of nothing, which is a constant, and no mean of what is scattered;
- gather and scatter have at least one dimension.
"""

from __future__ import annotations

from ...backends.cpu.layout import goes_along_rows
from ...ir.graph import Graph, Node, Value
from ...ir.primitive import PRIMITIVES
from ...ir.rewrite import Rewriter
from .powers import power

_REDUCTIONS = ("sum", "prod", "amax", "amin")
_PLACED = ("gather", "scatter", "scatter_add", "scatter_reduce")


def canonicalize(graph: Graph) -> Graph:
    """See the head of this file."""
    rewriter = Rewriter(graph)

    def visit(node: Node) -> bool:
        name = node.prim.name
        if name in ("sum", "prod", "matmul") and _of_nothing(rewriter, node):
            return True
        if name in _REDUCTIONS:
            return _reduction(rewriter, node)
        if name == "scatter_reduce" and node.params["reduce"] == "mean":
            return _mean(rewriter, node)
        if name in _PLACED:
            return _lifted(rewriter, node)
        if name in ("cast", "reshape", "expand", "permute", "slice", "copy", "conj", "stop_gradient"):
            return _movement(rewriter, node)
        if name == "pow":
            return power(rewriter, node)
        return False

    return rewriter.run(visit)


def _of_nothing(r: Rewriter, node: Node) -> bool:
    out = node.outputs[0]
    if out.type.size == 0 or all(v.type.size for v in node.inputs):
        return False
    value = int(node.prim.name == "prod")
    r.values[out] = r.add(PRIMITIVES["full"], [], shape=out.shape, value=value, dtype=out.dtype)
    return True


def _lifted(r: Rewriter, node: Node) -> bool:
    """A number among the operands as a tensor of one element."""
    if all(v.ndim for v in node.inputs):
        return False
    _set(r, node.outputs[0], r.add(node.prim, [_line(r, v) for v in node.inputs], **node.params))
    return True


def _line(r: Rewriter, value: Value) -> Value:
    """The new value with at least one dimension."""
    return r[value] if value.ndim else r.add(PRIMITIVES["reshape"], [r[value]], shape=(1,))


def _set(r: Rewriter, out: Value, y: Value) -> None:
    """Put `y` in the place of an old value, in its shape."""
    r.values[out] = y if y.shape == out.shape else r.add(PRIMITIVES["reshape"], [y], shape=out.shape)


def _mean(r: Rewriter, node: Node) -> bool:
    """The mean of what is scattered: a sum over a count."""
    x, index, src = (_line(r, v) for v in node.inputs)
    p, dtype = node.params, x.dtype
    total = r.add(node.prim, [x, index, src], **{**p, "reduce": "sum"})
    ones = r.add(PRIMITIVES["full"], [], shape=index.shape, value=1, dtype=dtype)
    count = r.add(PRIMITIVES["full"], [], shape=x.shape, value=1, dtype=dtype)
    if not p["include_self"]:
        zeros = r.add(PRIMITIVES["full"], [], shape=index.shape, value=0, dtype=dtype)
        count = r.add(PRIMITIVES["scatter"], [count, index, zeros], dim=p["dim"])
    count = r.add(PRIMITIVES["scatter_add"], [count, index, ones], dim=p["dim"])
    divide = PRIMITIVES["div" if dtype.is_floating_point else "floor_divide"]
    _set(r, node.outputs[0], r.add(divide, [total, count]))
    return True


def _reduction(r: Rewriter, node: Node) -> bool:
    source, out = node.inputs[0], node.outputs[0]
    shape, dims = source.shape, node.params["dims"]
    real = [d for d in dims if shape[d] != 1]
    if not real:  # nothing to add up: another shape of the same elements
        r.values[out] = r.add(PRIMITIVES["reshape"], [r[source]], shape=out.shape)
        return True
    inner = [d for d in range(len(shape)) if shape[d] != 1]
    trailing = goes_along_rows(shape, tuple(real))
    if not trailing and inner[-1] not in real:
        return False
    kept = [d for d in range(len(shape)) if d not in real]
    order = (*kept, *real) if trailing else (*real, *kept)
    x = r[source]
    if order != tuple(range(len(shape))):
        x = r.add(PRIMITIVES["permute"], [x], dims=order)
    elif tuple(dims) == tuple(real):
        return False
    start = len(kept) if trailing else 0
    _set(r, out, r.add(node.prim, [x], dims=tuple(range(start, start + len(real))), keepdim=False))
    return True


def _movement(r: Rewriter, node: Node) -> bool:
    source, out = r[node.inputs[0]], node.outputs[0]
    name = node.prim.name
    if name == "permute" and source.node is not None and source.node.prim is node.prim:
        dims = tuple(source.node.params["dims"][d] for d in node.params["dims"])
        source = source.node.inputs[0]
        if dims != tuple(range(len(dims))):
            r.values[out] = r.add(node.prim, [source], dims=dims)
            return True
    elif name == "permute":
        product = source.node
        *batch, i, j = node.params["dims"] if out.ndim >= 2 else (0, 0)
        if (
            product is not None
            and product.prim.name == "matmul"
            and (i, j) == (out.ndim - 1, out.ndim - 2)
            and batch == list(range(out.ndim - 2))
        ):
            a, b = (r.add(node.prim, [v], dims=_swapped(v.ndim)) for v in product.inputs)
            r.values[out] = r.add(product.prim, [b, a])
            return True
        if node.params["dims"] != tuple(range(out.ndim)):
            return False
    elif name == "slice":
        if source.shape != out.shape or any(s != 1 for s in node.params["step"]):
            return False
    elif source.type != out.type or (name == "conj" and out.dtype.is_complex):
        return False
    r.values[out] = source
    return True


def _swapped(ndim: int) -> tuple[int, ...]:
    """The permutation that swaps the last two dimensions."""
    return (*range(ndim - 2), ndim - 1, ndim - 2)
