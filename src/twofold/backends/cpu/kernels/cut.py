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
        self.overlaps = may_overlap and isinstance(rows, Size)
        self.height = _height(planned(rows), most_rows)
        if not self._fits():
            self.height = _height(int(rows), most_rows)
        self.count: int = -(-rows // self.height)
        self.num_high = most(0, rows - self.count * (self.height - 1))
        self.low = self.height > 1 and (isinstance(rows, Size) or self.num_high < self.count)
        if self.overlaps and self._is_even():
            self.low = False

    def _is_even(self) -> bool:
        """Whether tiles of one height do for the number of rows that is planned for."""
        return planned(self.rows) % self.height == 0 and self.height <= self.rows

    def _fits(self) -> bool:
        """Whether the rows can be cut into tiles of the height, and of a row less."""
        if self.overlaps:
            return self.height - 1 <= self.rows
        return -(-int(self.rows) // self.height) * (self.height - 1) <= self.rows

    def first(self, f: Function, t: Any) -> Any:
        """The first row of tile `t`."""
        return self._within(f, self._place(f, t))

    def _place(self, f: Function, t: Any) -> Any:
        """The first row of tile `t`, if tiles did not have to end with the rows."""
        if not self.low:
            return f.mul(t, self.height)
        return f.add(f.mul(t, self.height - 1), f.min(t, self.num_high))

    def _within(self, f: Function, place: Any) -> Any:
        """Where the last tiles begin, so that they end with the rows."""
        return f.min(place, self.rows - (self.height - self.low)) if self.overlaps else place

    def span(self, f: Function, begin: Any, end: Any) -> tuple[Any, Any]:
        """The first row of tile `begin`, and how many rows there are from there to tile `end`."""
        first = self.first(f, begin)
        stop = self._place(f, end)
        return first, f.sub(f.min(stop, self.rows) if self.overlaps else stop, first)

    def each(self, f: Function, t: Any, body: Callable[[int, Any], None]) -> None:
        """`body(height, first row)` of tile `t`, in code for each height."""
        if not self.low:
            body(self.height, self.first(f, t))
            return
        low = self.height - 1
        f.when(f.icmp("slt", t, self.num_high), lambda: body(self.height, f.mul(t, self.height)))
        last = lambda: self._within(f, f.add(f.mul(t, low), self.num_high))
        f.when(f.icmp("sge", t, self.num_high), lambda: body(low, last()))


def _height(rows: int, most_rows: int) -> int:
    return -(-rows // -(-rows // most_rows))
