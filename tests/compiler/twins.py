"""One program twice: eagerly and compiled, from the same state, compared in all that it leaves."""

from __future__ import annotations

import warnings
from collections.abc import Callable
from typing import Any

import numpy as np

import twofold as tw
from twofold.ir.tree import flatten

# Matrix products and sums have another order on NumPy: relative to the largest element of a tensor.
TOLERANCE = {"float16": 4e-3, "bfloat16": 3e-2, "float32": 2e-5, "float64": 1e-11}


def array(t: Any) -> np.ndarray:
    return t.detach().numpy().copy() if isinstance(t, tw.Tensor) else np.asarray(t)


def snapshot(value: Any) -> list[np.ndarray | None]:
    """The tensors and numbers in nested containers, as arrays of their own."""
    return [None if v is None else array(v) for v in flatten(value)[0]]


def assert_close(got: list[Any], expected: list[Any], what: str = "", factor: float = 1.0) -> None:
    """Equal up to the tolerance of the dtype; integers and bools exactly."""
    assert len(got) == len(expected), f"{what}: {len(got)} values, expected {len(expected)}"
    for i, (g, e) in enumerate(zip(got, expected, strict=True)):
        where = f"{what} [{i}]"
        assert (g is None) is (e is None), f"{where}: {g}, expected {e}"
        if g is None:
            continue
        assert (g.shape, g.dtype) == (e.shape, e.dtype), f"{where}: {g.dtype}{g.shape}, expected {e.dtype}{e.shape}"
        tolerance = TOLERANCE.get(g.dtype.name, 0.0) * factor
        if not tolerance or not e.size:
            np.testing.assert_array_equal(g, e, err_msg=where)
            continue
        g, e = g.astype(np.float64), e.astype(np.float64)
        scale = np.abs(e[np.isfinite(e)]).max(initial=1e-3)
        np.testing.assert_allclose(g, e, rtol=tolerance, atol=tolerance * scale, err_msg=where)


def specializations(compiled: Any) -> int:
    """How many programs were made."""
    return sum(s is not None for known in compiled.specializations.values() for _, s in known)


def check(
    make: Callable[[], tuple[Callable[..., Any], Any]],
    calls: list[tuple[Any, ...]] | Callable[[int], tuple[Any, ...]] = ((),) * 3,  # type: ignore[assignment]
    *,
    programs: int | None = 1,
    factor: float = 1.0,
    before: Callable[[int, Any], None] | None = None,
) -> Any:
    """Run `make()`'s function eagerly and compiled.

    Args:
        make: gives a function and what to watch: tensors, nested, or a function that gives them.
        calls: the arguments of each call, made anew for each of the two.
        programs: how many programs are expected; None: any number.
        before: called before each call with its number and what is watched.
    """
    import copy

    runs: list[Any] = []
    compiled: Any = None
    for how in ("eager", "compiled"):
        tw.manual_seed(3)
        fn, watched = make()
        given = [copy.deepcopy(c) for c in calls]
        if how == "compiled":
            fn = compiled = tw.compile(fn)
        seen = []
        with warnings.catch_warnings():
            warnings.simplefilter("error")
            warnings.filterwarnings("ignore", category=RuntimeWarning)
            warnings.filterwarnings("ignore", message=r"\[kl_div\]")
            for i, args in enumerate(given):
                if before is not None:
                    before(i, watched)
                result = fn(*args)
                state = watched() if callable(watched) else watched
                seen.append([snapshot(v) for v in (result, args, state, [_grad(t) for t in flatten(state)[0]])])
                seen[-1].append(snapshot(tw.get_rng_state()))
        runs.append(seen)
    for i, (e, c) in enumerate(zip(*runs, strict=True)):
        for what, expected, got in zip(("result", "argument", "state", "gradient", "generator"), e, c, strict=True):
            assert_close(got, expected, f"call {i}: {what}", factor)
    if programs is not None:
        assert specializations(compiled) == programs, compiled.explain()
    return compiled


def _grad(t: Any) -> Any:
    return t.grad if isinstance(t, tw.Tensor) else None
