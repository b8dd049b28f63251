"""cut: rows in tiles of nearly equal height."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from ..emit import Function
from ..sizes import Size, most, planned


def tile_rows(rows: int, most: int) -> list[int]:
    """Split rows into balanced tiles of at most `most`: 64 by 14 is 13, 13, 13, 13, 12."""
    count = -(-rows // most)
    small, extra = divmod(rows, count)
    return [small + (i < extra) for i in range(count)]


class Cut:
    """Rows in tiles of at most two heights, the higher ones first.

    Where the number of rows is a `Size`, the heights are those of the number that is planned for. Other numbers
    may need tiles that overlap, if they are allowed to, and have heights of their own otherwise.

    Attributes:
        count: of tiles.
        height: of the higher ones.
        low: whether there may be tiles that have a row less.
    """

    def __init__(self, rows: int, most_rows: int, may_overlap: bool = False):
        self.rows = rows
        self.height = _height(planned(rows), most_rows)
        count = -(-int(rows) // self.height)
        self.overlaps = may_overlap and isinstance(rows, Size)
        if self.height - self.overlaps > rows or (count * (self.height - 1) > rows and not self.overlaps):
            self.height = _height(int(rows), most_rows)
        self.count: int = -(-rows // self.height)
        self.num_high = most(0, rows - self.count * (self.height - 1))
        self.low = self.height > 1 and (isinstance(rows, Size) or self.num_high < self.count)

    def first(self, f: Function, t: Any) -> Any:
        """The first row of tile `t`."""
        first = self._place(f, t)
        return f.min(first, self.rows - (self.height - 1)) if self.overlaps else first

    def _place(self, f: Function, t: Any) -> Any:
        """The first row of tile `t`, if tiles did not have to end with the rows."""
        if not self.low:
            return f.mul(t, self.height)
        return f.add(f.mul(t, self.height - 1), f.min(t, self.num_high))

    def span(self, f: Function, begin: Any, end: Any) -> tuple[Any, Any]:
        """The first row of tile `begin`, and how many rows there are from there to tile `end`."""
        first = self.first(f, begin)
        stop = self._place(f, end)
        return first, f.sub(f.min(stop, self.rows) if self.overlaps else stop, first)

    def each(self, f: Function, t: Any, body: Callable[[int, Any], None]) -> None:
        """`body(height, first row)` of tile `t`, in code for each height."""
        if not self.low:
            body(self.height, f.mul(t, self.height))
            return
        f.when(f.icmp("slt", t, self.num_high), lambda: body(self.height, f.mul(t, self.height)))
        f.when(f.icmp("sge", t, self.num_high), lambda: body(self.height - 1, self._low(f, t)))

    def _low(self, f: Function, t: Any) -> Any:
        place = f.add(f.mul(t, self.height - 1), self.num_high)
        return f.min(place, self.rows - (self.height - 1)) if self.overlaps else place


def _height(rows: int, most_rows: int) -> int:
    return -(-rows // -(-rows // most_rows))
