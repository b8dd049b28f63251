"""Settings from the environment, in one place. "0" and "" mean off."""

from __future__ import annotations

import os
from pathlib import Path

CACHE_BYTES = int(os.environ.get("TWOFOLD_CACHE_BYTES", 512 << 20))


def flag(name: str) -> bool:
    """Whether environment variable `name` is set to something other than "0"."""
    return os.environ.get(name, "0") not in ("", "0")


def cache_folder() -> Path | None:
    """Where compiled code is kept: TWOFOLD_CACHE_DIR, or the user's cache folder; None when it is "0"."""
    value = os.environ.get("TWOFOLD_CACHE_DIR")
    if value in ("", "0"):
        return None
    if value:
        return Path(value)
    base = os.environ.get("XDG_CACHE_HOME") or os.path.expanduser("~/.cache")
    return Path(base) / "twofold"
