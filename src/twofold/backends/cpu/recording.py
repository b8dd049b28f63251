"""What profilers listen to: one function, called after every step of every program while it is set.

Programs then run their steps one by one, to time each; results are the same.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

# (program, number of the step, time before, time after), times by time.perf_counter_ns
Listener = Callable[[Any, int, int, int], None]

listener: Listener | None = None


def listen(to: Listener | None) -> Listener | None:
    """Set the listener; returns the one before."""
    global listener
    before, listener = listener, to
    return before
