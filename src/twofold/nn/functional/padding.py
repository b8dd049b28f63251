"""Padding: constant, reflected, repeated edges, circular."""

from __future__ import annotations

from collections.abc import Sequence

from ...autodiff.composite import composite
from ...autodiff.handle import Tensor
from ...ir.errors import ShapeError, TwofoldError
from ...primitives import movement as M


@composite
def pad(input: Tensor, pad: Sequence[int], mode: str = "constant", value: float | None = None) -> Tensor:
    """Enlarge the last dimensions.

    Args:
        pad: (left, right) of the last dimension, then of the one before, and so on; negative
            numbers cut off.
        mode: "constant", "reflect" (without repeating the edge), "replicate" or "circular".
    Raises: ShapeError when `pad` does not fit or is too large for the mode.

    >>> import twofold as tw
    >>> tw.nn.functional.pad(tw.tensor([1.0, 2.0]), (1, 1))
    tensor([0., 1., 2., 0.])
    >>> tw.nn.functional.pad(tw.tensor([[[1.0, 2.0, 3.0]]]), (2, 0), mode="reflect")
    tensor([[[3., 2., 1., 2., 3.]]])
    """
    pads = tuple(pad)
    if len(pads) % 2 or len(pads) // 2 > input.ndim:
        raise ShapeError(
            f"pad has {len(pads)} numbers for a {input.ndim}-d input",
            op="pad",
            hint="give two for each dimension, the last dimension first",
        )
    pairs = [(0, 0)] * (input.ndim - len(pads) // 2)
    pairs += [(pads[i], pads[i + 1]) for i in range(len(pads) - 2, -1, -2)]
    if mode == "constant":
        return _constant(input, pairs, 0 if value is None else value)
    if mode not in ("reflect", "replicate", "circular"):
        raise TwofoldError(
            f"mode {mode!r} is unknown", op="pad", hint="use 'constant', 'reflect', 'replicate' or 'circular'"
        )
    if value:
        raise TwofoldError(f'padding mode "{mode}" takes no value, got {value}', op="pad")
    for dim, (low, high) in enumerate(pairs):
        input = _along(input, dim, low, high, mode)
    return input


def _constant(x: Tensor, pairs: Sequence[tuple[int, int]], value: float) -> Tensor:
    if any(n + low + high < 0 for n, (low, high) in zip(x.shape, pairs, strict=True)):
        raise ShapeError(
            f"negative padding {tuple(pairs)} takes more than a tensor of shape {x.shape} has", op="pad"
        )
    if any(low < 0 or high < 0 for low, high in pairs):
        start = tuple(max(-low, 0) for low, _ in pairs)
        stop = tuple(n + min(high, 0) for n, (_, high) in zip(x.shape, pairs, strict=True))
        x = M.slice(x, start=start, stop=stop, step=(1,) * x.ndim)
    low, high = tuple([max(low, 0) for low, _ in pairs]), tuple([max(high, 0) for _, high in pairs])
    return constant_pad(x, low, high, value)


@composite(fused=True)
def constant_pad(x: Tensor, low: Sequence[int], high: Sequence[int], value: float) -> Tensor:
    """`x` with so many elements of a value before and after it in each dimension."""
    return M.pad(x, low=low, high=high, value=value)


def _part(x: Tensor, dim: int, start: int, stop: int) -> Tensor:
    starts, stops = [0] * x.ndim, list(x.shape)
    starts[dim], stops[dim] = start, stop
    return M.slice(x, start=tuple(starts), stop=tuple(stops), step=(1,) * x.ndim)


def _along(x: Tensor, dim: int, low: int, high: int, mode: str) -> Tensor:
    """Pad one dimension; a negative number cuts off."""
    if low < 0 or high < 0:
        x = _part(x, dim, max(-low, 0), x.shape[dim] + min(high, 0))
        low, high = max(low, 0), max(high, 0)
    if low == 0 and high == 0:
        return x
    n = x.shape[dim]
    limit = {"reflect": n - 1, "circular": n, "replicate": None}[mode]
    if n == 0 or (limit is not None and max(low, high) > limit):
        raise ShapeError(
            f"padding ({low}, {high}) is too large for mode {mode!r} and size {n} of dimension {dim}",
            op="pad",
            hint=None if limit is None else f"at most {limit} fits",
        )
    parts = []
    if low:
        parts.append(_edge(x, dim, low, mode, at_start=True))
    parts.append(x)
    if high:
        parts.append(_edge(x, dim, high, mode, at_start=False))
    return M.concat(*parts, dim=dim)


def _edge(x: Tensor, dim: int, count: int, mode: str, at_start: bool) -> Tensor:
    n = x.shape[dim]
    if mode == "replicate":
        edge = _part(x, dim, 0, 1) if at_start else _part(x, dim, n - 1, n)
        shape = list(x.shape)
        shape[dim] = count
        return M.expand(edge, shape=tuple(shape))
    if mode == "circular":
        return _part(x, dim, n - count, n) if at_start else _part(x, dim, 0, count)
    inner = _part(x, dim, 1, count + 1) if at_start else _part(x, dim, n - 1 - count, n - 1)
    return M.flip(inner, dims=(dim,))
