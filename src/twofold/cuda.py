"""What programs ask of a GPU before they choose a device; this build computes on the CPU, and says so."""

from __future__ import annotations

from typing import Any

__all__ = ["device_count", "empty_cache", "is_available", "manual_seed", "manual_seed_all", "synchronize"]


def is_available() -> bool:
    """Whether tensors can live on a GPU: False in this build.

    >>> import twofold as tw
    >>> "cuda" if tw.cuda.is_available() else "cpu"
    'cpu'
    """
    return False


def device_count() -> int:
    """Number of GPUs that can be used: 0 in this build."""
    return 0


def manual_seed(seed: int) -> None:
    """Does nothing, as there is no generator on a GPU; `twofold.manual_seed` seeds all others."""


def manual_seed_all(seed: int) -> None:
    """Does nothing, as there is no generator on a GPU; `twofold.manual_seed` seeds all others."""


def synchronize(device: Any = None) -> None:
    """Does nothing: results are ready when an operation returns."""


def empty_cache() -> None:
    """Does nothing: there is no cache of memory on a GPU."""
