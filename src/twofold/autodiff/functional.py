"""Gradients of Python functions: `twofold.grad` and `twofold.value_and_grad`. They nest."""

from __future__ import annotations

import functools
from collections.abc import Callable, Sequence
from typing import Any

from ..ir.errors import AutogradError, ShapeError
from ..ir.primitive import PRIMITIVES
from ..ir.tree import flatten
from . import gradients
from .bind import current_node
from .handle import Tensor, alias, mode


def value_and_grad(
    f: Callable[..., Any], argnums: int | Sequence[int] = 0, has_aux: bool = False
) -> Callable[..., Any]:
    """A function that gives the value of `f` and its gradient with respect to some arguments.

    Args:
        f: a function of tensors with a result of one element; with `has_aux`, of `(result, anything)`.
        argnums: number of the argument, or a tuple of numbers; arguments may be nested in lists,
            tuples and dicts, and the gradient is nested alike.
        has_aux: the value is then `(result, anything)`.

    Parameters that `f` uses without taking them as arguments are constants here, but an outer
    backward still reaches them through value and gradient.

    Raises: AutogradError if the result is not a tensor of one element, or an argument no float.

    >>> import twofold as tw
    >>> tw.value_and_grad(lambda x: (x * x).sum())(tw.tensor([1.0, 2.0]))
    (tensor(5.), tensor([2., 4.]))
    """

    @functools.wraps(f)
    def call(*args: Any, **kwargs: Any) -> Any:
        numbers = (argnums,) if isinstance(argnums, int) else tuple(argnums)
        wanted = _chosen(args, numbers)
        recording = mode.grad
        mode.grad, mode.grad_depth = True, mode.grad_depth + 1
        try:
            leaves, tree = flatten(wanted)
            fresh = [_attached(t) for t in leaves]
            inner = list(args)
            for i, value in zip(numbers, tree.unflatten(fresh), strict=True):
                inner[i] = value
            result = f(*inner, **kwargs)
            value, aux = _value_of(result, has_aux)
            current_node(value)
            if value.requires_grad:
                again = recording and _reaches_beyond(value, fresh)
                grads = list(gradients.grad(value, fresh, create_graph=again, materialize_grads=True))
            else:
                grads = [PRIMITIVES["full"](shape=t.shape, value=0, dtype=t.dtype) for t in fresh]
                again = False
        finally:
            mode.grad, mode.grad_depth = recording, mode.grad_depth - 1
        nested = tree.unflatten(grads)
        if not again:
            value = alias(value) if value.requires_grad else value
        return ((value, aux) if has_aux else value), (nested[0] if isinstance(argnums, int) else nested)

    return call


def grad(f: Callable[..., Any], argnums: int | Sequence[int] = 0, has_aux: bool = False) -> Callable[..., Any]:
    """A function that gives the gradient of `f` with respect to some arguments.

    Args:
        f: a function of tensors with a result of one element; with `has_aux`, of `(result, anything)`.
        argnums: number of the argument, or a tuple of numbers.
        has_aux: the gradient function then gives `(gradient, anything)`.

    Calls nest: `grad(grad(f))` is the second derivative.

    >>> import twofold as tw
    >>> tw.grad(tw.grad(lambda x: x**3))(tw.tensor(2.0))
    tensor(12.)
    """
    both = value_and_grad(f, argnums, has_aux)

    @functools.wraps(f)
    def call(*args: Any, **kwargs: Any) -> Any:
        value, g = both(*args, **kwargs)
        return (g, value[1]) if has_aux else g

    return call


def _chosen(args: tuple[Any, ...], numbers: tuple[int, ...]) -> tuple[Any, ...]:
    for i in numbers:
        if not -len(args) <= i < len(args):
            raise AutogradError(f"argnums names argument {i}, but {len(args)} were given", op="grad")
    return tuple([args[i] for i in numbers])


def _attached(t: Any) -> Tensor:
    """A copy of `t` to differentiate by; outer gradients flow through it."""
    if not isinstance(t, Tensor) or not t.dtype.is_differentiable:
        what = f"a tensor of dtype {t.dtype.name}" if isinstance(t, Tensor) else type(t).__name__
        raise AutogradError(
            f"can't differentiate with respect to {what}",
            op="grad",
            hint="choose other arguments with argnums, or convert it with .float()",
        )
    out = PRIMITIVES["copy"](t)
    out.requires_grad = True
    return out


def _value_of(result: Any, has_aux: bool) -> tuple[Tensor, Any]:
    aux = None
    if has_aux:
        if not isinstance(result, tuple) or len(result) != 2:
            raise AutogradError("with has_aux the function must return (result, aux)", op="grad")
        result, aux = result
    if not isinstance(result, Tensor):
        raise AutogradError(
            f"the function must return a tensor, got {type(result).__name__}",
            op="grad",
            hint="pass has_aux=True if it returns (result, aux)",
        )
    if result.type_.size != 1:
        raise ShapeError(
            f"the function must return one element, got shape {result.shape}", op="grad", hint="e.g. .sum() it"
        )
    return result, aux


def _reaches_beyond(value: Tensor, fresh: Sequence[Tensor]) -> bool:
    """Whether `value` depends on leaves other than `fresh`, so that an outer gradient may flow."""
    own = {id(t) for t in fresh}
    start = current_node(value)
    if start is None:
        return id(value) not in own
    seen, stack = {start}, [start]
    while stack:
        for target in stack.pop().next_nodes():
            if isinstance(target, Tensor):
                if id(target) not in own:
                    return True
            elif target not in seen:
                seen.add(target)
                stack.append(target)
    return False
