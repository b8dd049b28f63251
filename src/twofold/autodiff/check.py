"""Checks of derivatives against finite differences."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import numpy as np

from ..ir.errors import AutogradError
from ..ir.primitive import PRIMITIVES
from . import gradients
from .bind import no_record
from .handle import Tensor, mode, wrap


def check_grads(
    f: Callable[..., Any],
    args: Sequence[Any],
    order: int = 2,
    *,
    eps: float = 1e-6,
    atol: float = 1e-5,
    rtol: float = 1e-3,
    seed: int = 0,
) -> None:
    """Compare the gradients of `f` with central differences in a random direction.

    The sum of the results, each element with a random weight, is differentiated along a random
    direction of the float arguments: by backward, and by `(f(x + eps d) - f(x - eps d)) / (2 eps)`.
    Order 2 does the same for the gradients.

    Args:
        args: arguments of `f`; tensors of float64 or complex128 are differentiated, all else is fixed.
        order: 1 or 2.

    Raises: AutogradError, saying both numbers, if they differ by more than `atol + rtol * |numeric|`.

    >>> import twofold as tw
    >>> tw.autograd.check_grads(lambda x: x * x, (tw.ones(3, dtype=tw.float64),))
    """
    rng = np.random.default_rng(seed)
    places = [i for i, a in enumerate(args) if isinstance(a, Tensor) and a.dtype.is_differentiable]
    if not places:
        raise AutogradError("there is no floating argument to differentiate by", op="check_grads")
    for i in places:
        if args[i].dtype.name not in ("float64", "complex128"):
            raise AutogradError(
                f"argument {i} has dtype {args[i].dtype.name}, too coarse for finite differences",
                op="check_grads",
                hint="use float64",
            )
    start = [_array(args[i]) for i in places]
    _check(_on_arrays(f, args, places), start, order, 1, rng, eps, atol, rtol)


def _array(t: Tensor) -> np.ndarray[Any, Any]:
    if mode.tracer is not None:
        raise AutogradError("derivatives can't be checked while tracing", op="check_grads")
    return t._value.copy()


def _on_arrays(f: Callable[..., Any], args: Sequence[Any], places: list[int]) -> Callable[..., list[Tensor]]:
    """`f` as a function of the differentiated tensors, with its floating results in a list."""

    def call(*tensors: Tensor) -> list[Tensor]:
        full = list(args)
        for i, t in zip(places, tensors, strict=True):
            full[i] = t
        result = f(*full)
        results = result if isinstance(result, (tuple, list)) else (result,)
        return [r for r in results if isinstance(r, Tensor) and r.dtype.is_differentiable]

    return call


def _random_like(array: np.ndarray[Any, Any], rng: np.random.Generator) -> np.ndarray[Any, Any]:
    out = rng.standard_normal(array.shape)
    return out + 1j * rng.standard_normal(array.shape) if array.dtype.kind == "c" else out


def _weighted(results: list[Tensor], weights: list[Any]) -> float:
    """The real number that is differentiated: the real part of sum(conj(w) * y)."""
    return float(sum(np.sum((np.conj(w) * r._value).real) for r, w in zip(results, weights, strict=True)))


def _check(
    f: Callable[..., list[Tensor]],
    start: list[np.ndarray[Any, Any]],
    order: int,
    level: int,
    rng: np.random.Generator,
    eps: float,
    atol: float,
    rtol: float,
) -> None:
    direction = [_random_like(x, rng) for x in start]
    with no_record():
        results = f(*[wrap(x.copy()) for x in start])
    if not results:
        raise AutogradError("the function gives no floating tensor", op="check_grads")
    weights = [np.asarray(_random_like(r._value, rng), r._value.dtype) for r in results]

    def gradient(*tensors: Tensor) -> list[Tensor]:
        previous, mode.grad = mode.grad, True
        try:
            inner = [PRIMITIVES["copy"](t) for t in tensors]
            for t in inner:
                t.requires_grad = True
            outs = f(*inner)
            pairs = [(r, wrap(w)) for r, w in zip(outs, weights, strict=True) if r.requires_grad]
            if not pairs:
                return [PRIMITIVES["full"](shape=t.shape, value=0, dtype=t.dtype) for t in inner]
            roots, roots_grads = zip(*pairs, strict=True)
            found = gradients.grad(roots, inner, roots_grads, create_graph=previous, materialize_grads=True)
            return [g for g in found if g is not None]
        finally:
            mode.grad = previous

    with no_record():
        exact = gradient(*[wrap(x.copy()) for x in start])
        ends = [
            _weighted(f(*[wrap(x + sign * eps * d) for x, d in zip(start, direction, strict=True)]), weights)
            for sign in (1, -1)
        ]
    numeric = (ends[0] - ends[1]) / (2 * eps)
    analytic = _weighted(exact, direction)
    if not abs(analytic - numeric) <= atol + rtol * abs(numeric):
        raise AutogradError(
            f"the derivative of order {level} along a random direction is {analytic:.10g} by backward, "
            f"but {numeric:.10g} by finite differences",
            op="check_grads",
            hint="if the function is smooth there, its derivative rule is wrong",
        )
    if level < order:
        _check(gradient, start, order, level + 1, rng, eps, atol, rtol)


def _gradcheck(order: int, f: Any, inputs: Any, raise_exception: bool, options: dict[str, Any]) -> bool:
    try:
        check_grads(f, (inputs,) if isinstance(inputs, Tensor) else tuple(inputs), order, **options)
    except AutogradError:
        if raise_exception:
            raise
        return False
    return True


def gradcheck(
    func: Callable[..., Any],
    inputs: Any,
    *,
    eps: float = 1e-6,
    atol: float = 1e-5,
    rtol: float = 1e-3,
    raise_exception: bool = True,
) -> bool:
    """`check_grads` of order 1 under PyTorch's name; True if the gradients agree.

    >>> import twofold as tw
    >>> tw.autograd.gradcheck(lambda x: x.tanh(), tw.ones(2, dtype=tw.float64))
    True
    """
    return _gradcheck(1, func, inputs, raise_exception, {"eps": eps, "atol": atol, "rtol": rtol})


def gradgradcheck(
    func: Callable[..., Any],
    inputs: Any,
    grad_outputs: Any = None,
    *,
    eps: float = 1e-6,
    atol: float = 1e-5,
    rtol: float = 1e-3,
    raise_exception: bool = True,
) -> bool:
    """`check_grads` of order 2 under PyTorch's name; weights of the outputs are random.

    >>> import twofold as tw
    >>> tw.autograd.gradgradcheck(lambda x: x.tanh(), tw.ones(2, dtype=tw.float64))
    True
    """
    return _gradcheck(2, func, inputs, raise_exception, {"eps": eps, "atol": atol, "rtol": rtol})
