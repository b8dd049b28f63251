"""Comparison with PyTorch: the same call on both sides, results and gradients."""

from __future__ import annotations

from typing import Any

import numpy as np
import torch

import twofold as tw
from twofold.ir.dtypes import DType
from twofold.ir.errors import TwofoldError

TOLERANCES = {
    "float16": (2e-3, 2e-3),
    "bfloat16": (2e-2, 2e-2),
    "float32": (2e-6, 2e-6),
    "complex64": (3e-6, 3e-6),
    "float64": (1e-12, 1e-12),
    "complex128": (1e-12, 1e-12),
}


def to_torch(x: Any) -> Any:
    """The same data for PyTorch: tensors, dtypes, and containers of them."""
    if isinstance(x, tw.Tensor):
        array = x.detach().numpy()
        if x.dtype is tw.bfloat16:
            out = torch.tensor(array.astype(np.float32)).bfloat16()
        else:
            out = torch.tensor(array)
        return out.requires_grad_() if x.requires_grad else out
    if isinstance(x, DType):
        return getattr(torch, x.name)
    if isinstance(x, (tuple, list)):
        return type(x)(to_torch(v) for v in x)
    if isinstance(x, dict):
        return {k: to_torch(v) for k, v in x.items()}
    return x


def array_of(t: Any) -> np.ndarray[Any, Any]:
    """The values as an array that NumPy can compare."""
    if isinstance(t, torch.Tensor):
        return (t.float() if t.dtype == torch.bfloat16 else t).numpy(force=True)
    array = t.detach().numpy()
    return array.astype(np.float32) if t.dtype is tw.bfloat16 else array


def assert_same(mine: Any, theirs: Any, rtol: float | None = None) -> None:
    """Equal types, shapes, dtypes and values (within the dtype's tolerance)."""
    if isinstance(theirs, (tuple, list)):
        assert len(mine) == len(theirs)
        for a, b in zip(mine, theirs, strict=True):
            assert_same(a, b, rtol)
        return
    if not isinstance(theirs, torch.Tensor):
        assert type(mine) is type(theirs), (mine, theirs)
        assert mine == theirs
        return
    assert isinstance(mine, tw.Tensor), type(mine)
    assert mine.dtype.name == str(theirs.dtype).removeprefix("torch."), (mine.dtype, theirs.dtype)
    assert mine.shape == tuple(theirs.shape), (mine.shape, theirs.shape)
    r, a = TOLERANCES.get(mine.dtype.name, (0, 0))
    if rtol is not None and r:
        r, a = max(r, rtol), max(a, rtol)
    np.testing.assert_allclose(array_of(mine), array_of(theirs), rtol=r, atol=a)


def tensors_in(x: Any) -> list[tw.Tensor]:
    """All tensors in nested containers."""
    if isinstance(x, (tw.Tensor, torch.Tensor)):
        return [x]  # type: ignore[list-item]
    if isinstance(x, dict):
        x = list(x.values())
    return [t for v in x for t in tensors_in(v)] if isinstance(x, (tuple, list)) else []


def compare(
    name: str,
    args: tuple[Any, ...],
    kwargs: dict[str, Any] | None = None,
    rtol: float | None = None,
    generous: bool = False,
) -> None:
    """Call `name` on both sides: the same result, or an error on both sides.

    `generous`: what PyTorch has no kernel for may have a result here.
    """
    kwargs = kwargs or {}
    their_args, their_kwargs = to_torch(args), to_torch(kwargs)
    try:
        theirs = _find(torch, name)(*their_args, **their_kwargs)
    except (RuntimeError, TypeError, IndexError, ValueError, NotImplementedError) as e:
        try:
            mine = _find(tw, name)(*args, **kwargs)
        except (TwofoldError, TypeError):
            return
        if generous:
            return
        raise AssertionError(f"PyTorch refuses it ({e}), the result here is {mine}") from None
    assert_same(_find(tw, name)(*args, **kwargs), theirs, rtol)


def compare_gradients(
    name: str, args: tuple[Any, ...], kwargs: dict[str, Any] | None = None, rtol: float | None = None
) -> None:
    """Gradients of a weighted sum of the results with respect to every tensor that wants one."""
    kwargs = kwargs or {}
    their_args, their_kwargs = to_torch(args), to_torch(kwargs)
    mine = [t for t in tensors_in(_find(tw, name)(*args, **kwargs)) if t.dtype.is_floating_point]
    theirs = [t for t in tensors_in(_find(torch, name)(*their_args, **their_kwargs)) if t.is_floating_point()]
    rng = np.random.default_rng(0)
    weights = [rng.normal(size=t.shape) for t in mine]
    tw.autograd.backward(mine, [tw.tensor(w) for w in weights])
    torch.autograd.backward(theirs, [torch.tensor(w) for w in weights])
    wanted = [t for t in tensors_in((args, kwargs)) if t.requires_grad]
    for a, b in zip(wanted, [t for t in tensors_in((their_args, their_kwargs)) if t.requires_grad], strict=True):
        if b.grad is None:
            assert a.grad is None or not np.any(array_of(a.grad))
            continue
        assert_same(a.grad, b.grad, rtol)


def _find(module: Any, name: str) -> Any:
    """`exp` is a function, `.exp_` a method, which is called with the tensor first."""
    if name.startswith("."):
        return lambda self, *args, **kwargs: getattr(self, name[1:])(*args, **kwargs)
    return getattr(module, name)
