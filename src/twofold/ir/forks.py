"""Forks: what objects with locks do in a child process.

A child has a copy of every lock, also of those that other threads held, and not these threads: nobody
would ever release them. So whoever has a lock is told in the child to make a new one, and to forget
what its holder was in the middle of.
"""

from __future__ import annotations

import os
import weakref
from typing import Any, Protocol


class Forked(Protocol):
    """What is told."""

    def after_fork(self) -> None:
        """Make new locks, in the child."""


_known: weakref.WeakSet[Any] = weakref.WeakSet()


def tell(obj: Forked) -> None:
    """Call `obj.after_fork()` in every child process, as long as the object lives."""
    _known.add(obj)


def _after_fork() -> None:
    for obj in list(_known):
        obj.after_fork()


if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_after_fork)
