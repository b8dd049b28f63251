"""Spans: which part of the memory a part of a kernel's chunks works on.

Note [Items]
Many kernels do for each item of a batch what they do for the others: images, matrices, blocks of rows. Cut the
chunks of such a kernel into equal runs of neighbours; if run number x reads and writes only the x-th of as many
equal parts of a buffer, the buffer is *in line* with the kernel. Kernels that follow from one another through
buffers that are in line with all of them can run item by item, see `schedule`.

A kernel tells what is needed to know that: how many items its chunks can be cut into, and views over its index
space, in whose order it goes. Whether a buffer is in line then follows from sizes and strides alone.
"""

from __future__ import annotations

import functools
import math
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass

from .layout import Buffer, View
from .sizes import Size, planned


@dataclass(frozen=True)
class Span:
    """How a kernel's chunks go along its index space.

    Attributes:
        items: chunks 0 to chunks / items - 1 do the first of this many equal parts of the index space, and so
            on. It divides the number of chunks. The same holds for every divisor of it.
        views: all that the kernel reads and writes in that order. The first dimensions of each are those of the
            index space, in row-major order, as many as `items` parts need; how it goes along the others does not
            matter.
        whole: buffers of which it reads something besides.
    """

    items: int
    views: tuple[View, ...]
    whole: frozenset[Buffer] = frozenset()

    def in_line(self, buffer: Buffer, items: int) -> bool:
        """Whether each of `items` parts of the chunks touches only its own part of a buffer."""
        views = [view for view in self.views if view.buffer is buffer]
        return bool(views) and buffer not in self.whole and all(within(view, items) for view in views)

    def on(self, buffers: Mapping[Buffer, Buffer]) -> Span:
        """The same of a kernel that works on other buffers."""
        views = [View(buffers[v.buffer], v.shape, v.strides, v.offset) for v in self.views]
        return Span(self.items, tuple(views), frozenset(buffers[b] for b in self.whole))

    def bytes_of_item(self, items: int, buffers: Collection[Buffer] | None = None) -> int:
        """Memory that one of `items` parts of the chunks works on, all or that in some buffers."""
        views = {view for view in self.views if buffers is None or view.buffer in buffers}
        return sum(_elements(view, items) * view.dtype.itemsize for view in views)

    def bytes_read_again(self, items: int) -> int:
        """Memory that is read for one of `items` parts, and for others too."""
        views = {view for view in self.views if not _moves(view, items)}
        return sum(_elements(view, items) * view.dtype.itemsize for view in views)


def _elements(view: View, items: int) -> int:
    """Different elements of a view in one of `items` parts of its index space."""
    count, left = 1, items
    for n, stride in zip(map(int, view.shape), map(int, view.strides), strict=True):
        outer = math.gcd(n, left)
        left //= outer
        if stride:
            count *= n // outer
    return count


def _moves(view: View, items: int) -> bool:
    """Whether no two of `items` parts of a view's index space have elements in common, as its strides tell."""
    left = items
    for n, stride in zip(map(int, view.shape), map(int, view.strides), strict=True):
        outer = math.gcd(n, left)
        left //= outer
        if outer > 1 and not stride:
            return False
    return True


def within(view: View, items: int) -> bool:
    """Whether the x-th of `items` parts of the view's index space lies in the x-th part of its buffer.

    >>> from twofold.ir.dtypes import float32
    >>> view = View.whole(Buffer("temp", float32, 24), (2, 3, 4))
    >>> [n for n in range(1, 25) if within(view, n)]
    [1, 2, 6, 12, 24]
    >>> within(view.permuted((1, 0, 2)), 3)
    False
    """
    size = int(view.buffer.size)
    if items < 1 or size % items:
        return False
    part, left = size // items, items
    outer: list[tuple[int, int]] = []
    low = high = int(view.offset)
    for n, stride in zip(map(int, view.shape), map(int, view.strides), strict=True):
        if n == 0:
            return False
        if left % n == 0:
            outer.append((n, stride))
            left, n = left // n, 1
        elif left > 1:
            if n % left:
                return False
            outer.append((left, stride * (n // left)))
            left, n = 1, n // left
        low += min(0, (n - 1) * stride)
        high += max(0, (n - 1) * stride)
    expected = part
    for n, stride in reversed(outer):
        if n > 1 and stride != expected:
            return False
        expected *= n
    return left == 1 and low >= 0 and high < part


def nested(most: int, sizes: Sequence[int]) -> int:
    """A number of neighbours in a row-major index space that fits into it evenly; at most `most` if it can be.

    It is a multiple of the size of some of the last dimensions and divides that of the ones up to the next. If this
    is far from `most`, the result is just `most`: pieces too small or too large cost more than they bring.

    >>> nested(100, (16, 4, 50))
    100
    >>> nested(30, (16, 4, 50))
    25
    >>> nested(30, (16, 4, 53))
    53
    >>> nested(10, (53,))
    10
    """
    inner, found, limit = 1, [1], planned(most)
    for n in reversed(sizes):
        if isinstance(n, Size):  # what is cut differently for other numbers of items is other code
            break
        found += [inner * d for d in divisors(int(n))]
        inner *= int(n)
    below = max(count for count in found if count <= limit)
    if 2 * below > limit:
        return below
    above = min((count for count in found if count > limit), default=limit)
    return above if limit < above <= 2 * limit and above * 64 <= planned(math.prod(sizes)) else most


@functools.lru_cache(1024)
def divisors(n: int) -> tuple[int, ...]:
    """All divisors, in order."""
    small = [d for d in range(1, math.isqrt(n) + 1) if n % d == 0]
    return (*small, *(n // d for d in reversed(small) if d * d != n))
