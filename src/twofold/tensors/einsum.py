"""einsum: sums of products written with index letters, lowered to permute, reshape and matmul."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any, NamedTuple

from ..autodiff.composite import composite
from ..autodiff.handle import Tensor
from ..ir.errors import ShapeError
from ..primitives import elementwise as E
from ..primitives import linalg as L
from ..primitives import movement as P
from ..primitives import reduce as R
from ..primitives import strided as S
from ._registry import function
from .linalg import one_dtype

# A label names a dimension. Letters are themselves, dimensions under an ellipsis are numbers that
# count from the right, so that ellipses of different length broadcast.
Label = str | int


class Term(NamedTuple):
    """A tensor with one label for each of its dimensions."""

    x: Tensor
    labels: tuple[Label, ...]


@function(method=False)
@composite(fused=True)
def einsum(equation: Any, *operands: Any) -> Tensor:
    """Sums of products of elements, in Einstein's notation.

    Every letter names a dimension. Letters missing in the output are summed over; a letter repeated
    within an operand takes the diagonal; `...` stands for dimensions that broadcast. Without `->`
    the output has the letters that occur once, in alphabetical order, after those of `...`.
    Operands are combined from left to right. `einsum(x, [0, 1], y, [1, 2], [0, 2])` is also accepted.

    Raises: ShapeError where the equation and the shapes disagree; DTypeError for mixed dtypes.

    >>> import twofold as tw
    >>> tw.einsum("ij,jk->ik", tw.ones(2, 3), tw.ones(3, 2))
    tensor([[3., 3.],
            [3., 3.]])
    >>> tw.einsum("ii", tw.eye(3))
    tensor(3.)
    """
    if isinstance(equation, Tensor):
        equation, operands = _from_lists((equation, *operands))
    if len(operands) == 1 and isinstance(operands[0], (tuple, list)):
        operands = tuple(operands[0])
    if not operands:
        raise _error(equation, "needs at least one operand")
    one_dtype("einsum", *operands)
    inputs, out = _parse(equation, operands)
    sizes = _sizes(equation, operands, inputs)
    for label in out:
        if label not in sizes:
            raise _error(equation, f"the output has {label!r}, which no operand has")
    terms = [_fit(x, labels, sizes) for x, labels in zip(operands, inputs, strict=True)]
    done = terms[0]
    for i, term in enumerate(terms[1:], 1):
        later = set(out).union(*[t.labels for t in terms[i + 1 :]])
        done = _contract(done, term, later)
    done = _sum_out(done, set(out))
    missing = [label for label in out if label not in done.labels]  # only broadcast dims of size 1 were dropped
    assert not missing
    return P.permute(done.x, dims=tuple([done.labels.index(label) for label in out]))


def _error(equation: str, text: str) -> ShapeError:
    return ShapeError(f"{equation!r}: {text}", op="einsum")


_LETTERS = "ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz"


def _from_lists(args: tuple[Any, ...]) -> tuple[str, tuple[Tensor, ...]]:
    """The equation and operands of the form `x, [0, 1], y, [1, 2], [0, 2]`."""

    def text(labels: Sequence[Any]) -> str:
        try:
            return "".join("..." if n is Ellipsis else _LETTERS[n] for n in labels)
        except IndexError:
            raise ShapeError(f"labels must be below {len(_LETTERS)}, got {list(labels)}", op="einsum") from None

    equation = ",".join(text(labels) for labels in args[1::2])
    if len(args) % 2:
        equation = ",".join(text(labels) for labels in args[1:-1:2]) + "->" + text(args[-1])
        return equation, args[0:-1:2]
    return equation, args[0::2]


def _parse(equation: str, operands: Sequence[Tensor]) -> tuple[list[tuple[Label, ...]], tuple[Label, ...]]:
    """Labels of the operands and of the output."""
    left, arrow, right = equation.replace(" ", "").partition("->")
    parts = left.split(",")
    if len(parts) != len(operands):
        raise _error(equation, f"names {len(parts)} operands, but {len(operands)} were given")
    inputs = [_labels(equation, parts[i], x.ndim, f"operand {i}") for i, x in enumerate(operands)]
    depth = max((-min([n for n in labels if isinstance(n, int)], default=0) for labels in inputs), default=0)
    dots = tuple(range(-depth, 0))
    if arrow:
        if "..." in right or "." in right:
            out = _labels(equation, right, len(right) - 3 + depth, "the output")
        else:
            out = _labels(equation, right, len(right), "the output")
        if len(set(out)) != len(out):
            raise _error(equation, "the output names a letter twice")
        return inputs, out
    letters = [n for labels in inputs for n in labels if isinstance(n, str)]
    return inputs, dots + tuple(sorted(n for n in set(letters) if letters.count(n) == 1))


def _labels(equation: str, part: str, ndim: int, what: str) -> tuple[Label, ...]:
    before, dots, after = part.partition("...")
    for c in before + after:
        if c not in _LETTERS:
            raise _error(equation, f"{c!r} in {what} is no letter")
    named = len(before) + len(after)
    if (named > ndim) if dots else (named != ndim):
        raise _error(equation, f"{what} has {named} letters for {ndim} dimension{'s' if ndim != 1 else ''}")
    return (*before, *range(named - ndim, 0), *after)


def _sizes(equation: str, operands: Sequence[Tensor], inputs: list[tuple[Label, ...]]) -> dict[Label, int]:
    """The size of each label; a size of 1 gives way to another."""
    sizes: dict[Label, int] = {}
    for i, (x, labels) in enumerate(zip(operands, inputs, strict=True)):
        own: dict[Label, int] = {}
        for label, n in zip(labels, x.shape, strict=True):
            if own.setdefault(label, n) != n:
                raise _error(equation, f"{label!r} stands for sizes {own[label]} and {n} of operand {i}")
            have = sizes.setdefault(label, n)
            if have == 1:
                sizes[label] = n
            elif n not in (1, have):
                raise _error(
                    equation,
                    f"{label!r} has size {n} in operand {i} of shape {x.shape}, but size {have} in one before",
                )
    return sizes


def _fit(x: Tensor, labels: tuple[Label, ...], sizes: dict[Label, int]) -> Term:
    """`x` with diagonals taken of repeated labels, and without dimensions of size 1 that broadcast."""
    names = list(labels)
    for label in dict.fromkeys(labels):
        while names.count(label) > 1:
            first = names.index(label)
            second = names.index(label, first + 1)
            x = S.diagonal(x, offset=0, dim1=first, dim2=second)
            names = [n for d, n in enumerate(names) if d not in (first, second)] + [label]
    keep = [d for d, label in enumerate(names) if x.shape[d] == sizes[label]]
    if len(keep) != len(names):
        x = P.reshape(x, shape=tuple([x.shape[d] for d in keep]))
    return Term(x, tuple([names[d] for d in keep]))


def _sum_out(term: Term, keep: set[Label]) -> Term:
    """Sum over the labels that nobody needs any more."""
    drop = tuple([d for d, label in enumerate(term.labels) if label not in keep])
    if not drop:
        return term
    labels = tuple([label for label in term.labels if label in keep])
    return Term(R.sum(term.x, dims=drop, keepdim=False), labels)


def _contract(a: Term, b: Term, later: set[Label]) -> Term:
    """The product of two terms, summed over labels that are not needed later."""
    a = _sum_out(a, later | set(b.labels))
    b = _sum_out(b, later | set(a.labels))
    shared = [label for label in a.labels if label in b.labels]
    batch = [label for label in shared if label in later]
    inner = [label for label in shared if label not in later]
    rows = [label for label in a.labels if label not in shared]
    columns = [label for label in b.labels if label not in shared]
    if not inner or (batch and not rows and not columns):
        order = (*batch, *rows, *columns, *inner)
        product = E.mul(_aligned(a, order), _aligned(b, order))
        return _sum_out(Term(product, order), later)
    size = {label: n for term in (a, b) for label, n in zip(term.labels, term.x.shape, strict=True)}
    n, k, m = (math.prod([size[x] for x in group]) for group in (rows, inner, columns))
    lead = [size[x] for x in batch]
    left = P.reshape(_aligned(a, (*batch, *rows, *inner)), shape=(*lead, n, k))
    right = P.reshape(_aligned(b, (*batch, *inner, *columns)), shape=(*lead, k, m))
    labels = (*batch, *rows, *columns)
    return Term(P.reshape(L.matmul(left, right), shape=tuple([size[x] for x in labels])), labels)


def _aligned(term: Term, order: Sequence[Label]) -> Tensor:
    """The tensor with its dimensions in the order of labels; missing ones get size 1."""
    present = [label for label in order if label in term.labels]
    x = P.permute(term.x, dims=tuple([term.labels.index(label) for label in present]))
    if len(present) == len(order):
        return x
    sizes = iter(x.shape)
    return P.reshape(x, shape=tuple([next(sizes) if label in term.labels else 1 for label in order]))
