"""Side by side with PyTorch: the same layer with the same weights on the same inputs, in float64."""

from __future__ import annotations

import warnings
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import torch

import twofold as tw

TOLERANCE = {"rtol": 1e-9, "atol": 1e-10}


@dataclass
class Case:
    """A layer or functional by name, with its arguments and the arrays it is called on."""

    name: str
    args: tuple[Any, ...] = ()
    kwargs: dict[str, Any] = field(default_factory=dict)
    inputs: tuple[Any, ...] = ((2, 3),)  # shapes of normal numbers, or arrays
    call: dict[str, Any] = field(default_factory=dict)  # keyword arguments of the call
    train: bool = True  # False: random while training
    positive: bool = False
    fixed: tuple[int, ...] = ()  # inputs that get no gradient
    tolerance: float = 1e-9

    def __str__(self) -> str:
        parts = [str(a) for a in self.args] + [f"{k}={_short(v)}" for k, v in self.kwargs.items()]
        shapes = "x".join(str(i).replace(" ", "") if isinstance(i, tuple) else "a" for i in self.inputs)
        extra = "".join(f",{k}={_short(v)}" for k, v in self.call.items())
        return f"{self.name}({','.join(parts).replace(' ', '')}){shapes}{extra}"

    def arrays(self) -> list[Any]:
        rng = np.random.default_rng(0)
        out: list[Any] = []
        for i in self.inputs:
            if isinstance(i, tuple) and all(isinstance(n, int) for n in i):
                x = rng.standard_normal(i)
                out.append(np.abs(x) + 0.1 if self.positive else x)
            else:
                out.append(i)
        return out


def _short(value: Any) -> str:
    return "a" if isinstance(value, np.ndarray) else str(value)


def to_torch(x: Any, grad: bool = True) -> Any:
    """Arrays as tensors of PyTorch, through tuples and dicts."""
    if isinstance(x, np.ndarray):
        t = torch.from_numpy(x.copy())
        return t.requires_grad_(grad and t.is_floating_point())
    if isinstance(x, (tuple, list)):
        return type(x)(to_torch(v, grad) for v in x)
    if isinstance(x, dict):
        return {k: to_torch(v, grad) for k, v in x.items()}
    return x


def to_twofold(x: Any, grad: bool = True) -> Any:
    """Arrays as our tensors, through tuples and dicts."""
    if isinstance(x, np.ndarray):
        t = tw.from_numpy(x.copy())
        return t.requires_grad_(grad and t.dtype.is_floating_point)
    if isinstance(x, (tuple, list)):
        return type(x)(to_twofold(v, grad) for v in x)
    if isinstance(x, dict):
        return {k: to_twofold(v, grad) for k, v in x.items()}
    return x


def leaves(x: Any) -> list[Any]:
    """The tensors in nested tuples, in order."""
    if isinstance(x, (tuple, list)):
        return [leaf for v in x for leaf in leaves(v)]
    if isinstance(x, dict):
        return [leaf for v in x.values() for leaf in leaves(v)]
    return [x] if isinstance(x, (tw.Tensor, torch.Tensor)) else []


def assert_same(ours: Any, theirs: Any, what: str, tolerance: float = 1e-9) -> None:
    """Same shape, dtype and values."""
    assert tuple(ours.shape) == tuple(theirs.shape), f"{what}: shape {ours.shape}, torch's {tuple(theirs.shape)}"
    assert ours.dtype.name == str(theirs.dtype).removeprefix("torch."), what
    np.testing.assert_allclose(
        ours.detach().numpy(), theirs.detach().numpy(), rtol=tolerance, atol=tolerance / 10, err_msg=what
    )


def twins(case: Case) -> tuple[Any, Any]:
    """The layer and its twin of PyTorch, in float64 with equal, non-trivial weights."""
    ours = getattr(tw.nn, case.name)(*to_twofold(case.args, False), **to_twofold(case.kwargs, False))
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        theirs = getattr(torch.nn, case.name)(*to_torch(case.args, False), **to_torch(case.kwargs, False))
    ours.double(), theirs.double()
    rng = np.random.default_rng(7)
    with torch.no_grad():
        for name, p in theirs.named_parameters():
            values = rng.standard_normal(tuple(p.shape)) * 0.5
            p.copy_(torch.from_numpy(np.asarray(values)))
            del name
    ours.load_state_dict({k: tw.from_numpy(v.numpy().copy()) for k, v in theirs.state_dict().items()})
    return ours, theirs


def _results(x: Any) -> Any:
    """Copies with history: layers with `inplace` may not write to leaves."""
    if isinstance(x, (tuple, list)):
        return type(x)(_results(v) for v in x)
    return x * 1.0 if getattr(x, "requires_grad", False) else x


def run_both(case: Case, ours: Any, theirs: Any) -> None:
    """Forward and backward of both; results, gradients of inputs and of parameters must agree."""
    arrays = case.arrays()
    a = [to_twofold(x, i not in case.fixed) for i, x in enumerate(arrays)]
    b = [to_torch(x, i not in case.fixed) for i, x in enumerate(arrays)]
    call_a, call_b = to_twofold(case.call, False), to_torch(case.call, False)
    y, z = ours(*_results(a), **call_a), theirs(*_results(b), **call_b)
    rng = np.random.default_rng(1)
    mine, others = leaves(y), leaves(z)
    assert len(mine) == len(others)
    loss_a, loss_b = [], []
    for i, (u, v) in enumerate(zip(mine, others, strict=True)):
        assert_same(u, v, f"result {i}", case.tolerance)
        if v.requires_grad:
            assert u.requires_grad, f"result {i} needs a gradient"
            g = rng.standard_normal(tuple(v.shape))
            loss_a.append((u * tw.from_numpy(np.asarray(g))).sum())
            loss_b.append((v * torch.from_numpy(np.asarray(g))).sum())
    if not loss_b:
        return
    sum(loss_a[1:], loss_a[0]).backward()
    sum(loss_b[1:], loss_b[0]).backward()
    for i, (u, v) in enumerate(zip(leaves(a), leaves(b), strict=True)):
        if v.grad is not None:
            assert u.grad is not None, f"gradient of input {i} is missing"
            assert_same(u.grad, v.grad, f"gradient of input {i}", case.tolerance)
    if isinstance(theirs, torch.nn.Module):
        for (name, p), q in zip(theirs.named_parameters(), ours.parameters(), strict=True):
            if p.grad is not None:
                assert q.grad is not None, f"gradient of {name} is missing"
                assert_same(q.grad, p.grad, f"gradient of {name}", case.tolerance)
        for (name, p), q in zip(theirs.named_buffers(), ours.buffers(), strict=True):
            assert_same(q, p, f"buffer {name}", case.tolerance)
