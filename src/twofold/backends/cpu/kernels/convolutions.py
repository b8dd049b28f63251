"""From convolution nodes to kernels: geometry, packing of the weights, copies of strided inputs."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from ....ir.dtypes import float32
from ....ir.graph import Node, Value
from ....ir.types import Shape
from ..group import is_convolution
from ..layout import View
from ..step import Step
from .conv import ConvKernel, Sweep, Weights, adjoint_sweeps, forward_sweeps
from .convgeneral import lower_general, lower_general_weight_grad
from .convgrad import WeightGradKernel
from .convsmall import SmallConvKernel, suits
from .relayout import row_major
from .scalars import NONE, Scalars
from .spans import image_span
from .tile import Epilogue
from .winograd import WinogradKernel
from .winograd import suits as suits_winograd
from .winogradgrad import WinogradWeightGradKernel, suits_weight_grad

_POINT = Sweep(0, 1, 1, 1, 0, 1, (0,))  # the missing dimension of a one-dimensional convolution


def _plane(view: View) -> View:
    """A view with two spatial dimensions; one is given height 1."""
    if len(view.shape) == 4:
        return view
    n, *rest = view.shape
    return View(view.buffer, (n, 1, *rest), (view.strides[0], 0, *view.strides[1:]), view.offset)


def _supported(node: Node) -> bool:
    values = (*node.inputs, *node.outputs)
    return all(v.dtype is float32 and v.type.size for v in values) and node.inputs[0].ndim in (3, 4)


def lower_conv(lowering: Any, node: Node, symbol: str) -> list[Step] | None:
    """`conv_last` and `conv_last_input_grad` on their own."""
    if not is_convolution(node):
        return lower_general(lowering, node, symbol)
    out = node.outputs[0]
    return lower_fused(lowering, node, [], {}, {out: lowering.views[out]}, NONE, symbol)


def lower_fused(
    lowering: Any,
    node: Node,
    after: Sequence[Node],
    sources: dict[Value, View],
    outputs: dict[Value, View],
    scalars: Scalars,
    symbol: str,
) -> list[Step]:
    """A convolution with the element-wise nodes `after` it."""
    x, w = (lowering.views[v] for v in node.inputs)
    params = node.params
    groups = params["groups"]
    out = node.outputs[0]
    is_gradient = node.prim.name == "conv_last_input_grad"
    kernel = node.inputs[1].shape[2:]
    spatial = zip(out.shape[1:-1], kernel, params["stride"], params["padding"], params["dilation"], strict=True)
    make = adjoint_sweeps if is_gradient else forward_sweeps
    sweeps = [make(n, k, s, pad[0], d) for n, k, s, pad, d in spatial]
    if len(sweeps) == 1:
        sweeps.insert(0, [_POINT])
    so, si, *st = w.strides
    if len(st) == 1:
        st.insert(0, 0)
    per_group = node.inputs[1].shape[0] // groups
    ins, outs = node.inputs[1].shape[1], per_group
    if is_gradient:
        ins, outs = outs, ins
        strides: Shape = (so * per_group, si, so, *st)
    else:
        strides = (so * per_group, so, si, *st)
    depthwise = groups > 1 and ins == outs == 1
    if depthwise:
        strides, outs, groups = (0, strides[0], 0, *strides[3:]), groups, 1
    x, steps = row_major(lowering, _plane(x), node, symbol + "x")
    plain = len(out.shape) == 4
    epilogue = Epilogue(
        out,
        after,
        sources if plain else {v: _plane(s.expanded(out.shape)) for v, s in sources.items()},
        outputs if plain else {v: _plane(s) for v, s in outputs.items()},
        scalars,
    )
    arguments = (
        x,
        Weights(w.buffer, w.offset, strides),
        groups,
        ins,
        outs,
        sweeps[0],
        sweeps[1],
        epilogue,
        lowering.target,
        depthwise,
    )
    code = ConvKernel(*arguments)
    if suits_winograd(code):
        code = WinogradKernel(*arguments)
    elif suits(code):
        code = SmallConvKernel(*arguments)
    packed = lowering.buffer("temp", float32, code.packed_size())
    chunks = code.emit_packing(lowering.module, symbol + "p", packed)
    steps.append(Step("pack", [node], chunks, symbol + "p", (w.buffer, packed)))
    code.emit(lowering.module, symbol)
    lowering.scratch = max(lowering.scratch, code.scratch_bytes)
    buffers = (x.buffer, packed, *epilogue.buffers)
    span = None
    if type(code) is ConvKernel and x.shape[0] % code.images == 0:
        views = (x, *epilogue.sources.values(), *epilogue.outputs.values())
        span = image_span(code.blocks, code.chunks, *views, whole=(packed, *epilogue.scalars.buffers))
    steps.append(Step("conv", [node, *after], code.chunks, symbol, buffers, span))
    return steps


def lower_weight_grad(lowering: Any, node: Node, symbol: str) -> list[Step] | None:
    """`conv_last_weight_grad`."""
    if not _supported(node):
        return lower_general_weight_grad(lowering, node, symbol)
    out = lowering.views[node.outputs[0]]
    x, steps = row_major(lowering, _plane(lowering.views[node.inputs[0]]), node, symbol + "x")
    g, copies = row_major(lowering, _plane(lowering.views[node.inputs[1]]), node, symbol + "g")
    p = node.params
    lows = tuple([lo for lo, _ in p["padding"]])
    flat = len(p["kernel_size"]) == 1
    kernel, stride, dilation = [(1, *p[k]) if flat else p[k] for k in ("kernel_size", "stride", "dilation")]
    lows = (0, *lows) if flat else lows
    code: Any
    if suits_weight_grad(x, g, p["groups"], kernel, stride, dilation):
        code = WinogradWeightGradKernel(x, g, lows, lowering.target)
    else:
        code = WeightGradKernel(x, g, p["groups"], kernel, stride, lows, dilation, lowering.target)
    partials = lowering.buffer("temp", float32, code.partial_size())
    code.emit(lowering.module, symbol, partials)
    lowering.scratch = max(lowering.scratch, code.scratch_bytes)
    chunks = code.emit_combine(lowering.module, symbol + "c", partials, out)
    return [
        *steps,
        *copies,
        Step("convgrad", [node], code.chunks, symbol, (x.buffer, g.buffer, partials)),
        Step("combine", [node], chunks, symbol + "c", (partials, out.buffer)),
    ]
