"""Gradients of recorded results with respect to given tensors: `twofold.autograd.grad` and `backward`."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from ..ir.errors import AutogradError
from ..ir.primitive import PRIMITIVES
from .backward import run_backward
from .bind import current_node
from .handle import Tensor

Tensors = Tensor | Sequence[Tensor]


def _tuple(value: Any, what: str, op: str) -> tuple[Any, ...]:
    out = (value,) if isinstance(value, Tensor) or value is None else tuple(value)
    for t in out:
        if t is not None and not isinstance(t, Tensor):
            raise AutogradError(f"{what} must be tensors, got {type(t).__name__}", op=op)
    return out


def _root_grads(outputs: tuple[Any, ...], grads: Any, op: str) -> tuple[Any, ...]:
    out = (None,) * len(outputs) if grads is None else _tuple(grads, "gradients", op)
    if len(out) != len(outputs):
        raise AutogradError(f"{len(outputs)} outputs but {len(out)} gradients for them", op=op)
    for t in outputs:
        current_node(t)
        if not t.requires_grad:
            raise AutogradError(
                f"an output of shape {t.shape} does not require grad",
                op=op,
                hint="set requires_grad=True on an input before computing, and compute outside no_grad()",
            )
    return out


def grad(
    outputs: Tensors,
    inputs: Tensors,
    grad_outputs: Tensors | None = None,
    retain_graph: bool | None = None,
    create_graph: bool = False,
    allow_unused: bool | None = None,
    is_grads_batched: bool = False,
    materialize_grads: bool = False,
) -> tuple[Tensor | None, ...]:
    """Gradients of the sum of `outputs` for each of `inputs`; leaves no trace in `.grad`.

    Args:
        grad_outputs: gradients of the outputs; may be None for those with one element.
        retain_graph: keep what was saved, to go backward again; default: `create_graph`.
        create_graph: record the computation of the gradients, for higher derivatives.
        allow_unused: give None for inputs that the outputs don't depend on, rather than raise.
        materialize_grads: give zeros for these.

    Raises: AutogradError for an unused input, or an output that does not require grad.

    >>> import twofold as tw
    >>> x = tw.tensor(2.0, requires_grad=True)
    >>> (g,) = tw.autograd.grad(x**3, x, create_graph=True)
    >>> tw.autograd.grad(g, x)
    (tensor(12.),)
    """
    op = "grad"
    if is_grads_batched:
        raise AutogradError("is_grads_batched is not supported", op=op, hint="call grad once per row")
    if allow_unused is False and materialize_grads:
        raise AutogradError("materialize_grads needs allow_unused to be None or True", op=op)
    outputs, inputs = _tuple(outputs, "outputs", op), _tuple(inputs, "inputs", op)
    roots = _root_grads(outputs, grad_outputs, op)
    for i, t in enumerate(inputs):
        current_node(t)
        if not t.requires_grad:
            raise AutogradError(
                f"input {i} of shape {t.shape} does not require grad",
                op=op,
                hint="set requires_grad=True on it before computing",
            )
    found = run_backward(
        outputs,
        roots,
        retain_graph=create_graph if retain_graph is None else retain_graph,
        create_graph=create_graph,
        inputs=inputs,
        accumulate=False,
    )
    result: list[Tensor | None] = []
    for i, t in enumerate(inputs):
        g = found.get(i)
        if g is None and materialize_grads:
            g = PRIMITIVES["full"](shape=t.shape, value=0, dtype=t.dtype)
        elif g is None and not allow_unused:
            raise AutogradError(
                f"the outputs do not depend on input {i} of shape {t.shape}",
                op=op,
                hint="pass allow_unused=True to get None for it, or materialize_grads=True for zeros",
            )
        result.append(g)
    return tuple(result)


def backward(
    tensors: Tensors,
    grad_tensors: Tensors | None = None,
    retain_graph: bool | None = None,
    create_graph: bool = False,
    inputs: Tensors | None = None,
) -> None:
    """Add the gradients of the sum of `tensors` to `.grad` of the leaves, in one walk.

    >>> import twofold as tw
    >>> x = tw.tensor(2.0, requires_grad=True)
    >>> tw.autograd.backward([x * 2, x * 3])
    >>> x.grad
    tensor(5.)
    """
    tensors = _tuple(tensors, "tensors", "backward")
    run_backward(
        tensors,
        _root_grads(tensors, grad_tensors, "backward"),
        retain_graph=create_graph if retain_graph is None else retain_graph,
        create_graph=create_graph,
        inputs=None if inputs is None else _tuple(inputs, "inputs", "backward"),
    )
