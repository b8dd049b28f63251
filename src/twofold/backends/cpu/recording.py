"""What profilers listen to: an object that is told of every step of every program while it is set.

Programs then run their steps one by one, to time each; results are the same.
"""

from __future__ import annotations

import contextlib
import time
from collections.abc import Iterator
from typing import Any, Protocol


class Listener(Protocol):
    """What is told; times are of `time.perf_counter_ns`."""

    def step(self, program: Any, number: int, start: int, end: int) -> None:
        """A step of a program ran."""

    def span(self, kind: str, name: str, start: int, end: int) -> None:
        """Something else took place: "trace" or "compile" of a function."""


listener: Listener | None = None


def listen(to: Listener | None) -> Listener | None:
    """Set the listener; returns the one before."""
    global listener
    before, listener = listener, to
    return before


@contextlib.contextmanager
def span(kind: str, name: str) -> Iterator[None]:
    """Tell of what happens inside the `with` block."""
    start = time.perf_counter_ns()
    try:
        yield
    finally:
        if listener is not None:
            listener.span(kind, name, start, time.perf_counter_ns())
