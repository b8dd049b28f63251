"""What kernels tell about the order in which their chunks go; see Note [Items] in span.py."""

from __future__ import annotations

import math
from typing import Any

from ..layout import View
from ..sizes import divides
from ..span import Span, nested
from .rows import PARTIALS, RowsKernel


def rows_span(kernel: RowsKernel) -> Span | None:
    """The span of a rows kernel, whose chunks are cut so that they fit into the dimensions, where they do.

    To be called before the kernel's code is written.
    """
    if kernel.split_row:
        size = math.prod(kernel.shape)
        *outer, last = kernel.shape
        if divides(PARTIALS, last):  # chunks begin at whole vectors
            kernel.per_chunk = PARTIALS * nested(kernel.per_chunk // PARTIALS, (*outer, last // PARTIALS))
    else:
        size, left, sizes = kernel.rows, int(kernel.rows), []
        for n in kernel.shape:
            if left == 1:
                break
            sizes.append(n)
            left //= int(n)
        kernel.per_chunk = nested(kernel.per_chunk, sizes)
    kernel.chunks = -(-size // kernel.per_chunk)
    if size % kernel.per_chunk:
        return None
    return Span(int(kernel.chunks), tuple(kernel.views.values()), frozenset(kernel.scalars.buffers))


def image_span(items: int, chunks: int, *views: View, whole: Any = ()) -> Span | None:
    """The span of a kernel that does image after image, in `items` groups of equally many."""
    items = math.gcd(int(items), int(chunks))
    return Span(items, views, frozenset(whole)) if items > 1 else None
