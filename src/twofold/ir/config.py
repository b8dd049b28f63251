"""Settings from the environment, in one place. "0" and "" mean off.

A setting is read once, when the package is imported, and is an object whose `value` the code reads.
`setting.set(value)` changes it inside a `with` block; `SETTINGS` lists all of them.
"""

from __future__ import annotations

import contextlib
import os
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, Generic, TypeVar

T = TypeVar("T")


class Setting(Generic[T]):
    """One setting.

    Args:
        name: of its environment variable.
        parse: makes the value of the variable's text, which is "" where it is not set.
        text: what it does.
    """

    __slots__ = ("name", "parse", "text", "value")

    def __init__(self, name: str, parse: Callable[[str], T], text: str):
        self.name, self.parse, self.text = name, parse, text
        try:
            self.value = parse(os.environ.get(name, ""))
        except ValueError as e:
            raise ValueError(f"{name}={os.environ[name]!r}: {e}") from None
        SETTINGS[name] = self

    @contextlib.contextmanager
    def set(self, value: T) -> Iterator[None]:
        """Inside the `with` block the setting has another value."""
        before, self.value = self.value, value
        try:
            yield
        finally:
            self.value = before

    def __repr__(self) -> str:
        return f"{self.name}={self.value!r}"


SETTINGS: dict[str, Setting[Any]] = {}


def _on(text: str) -> bool:
    return text not in ("", "0")


def _level(text: str) -> int:
    level = int(text or "0")
    if not 0 <= level <= 5:
        raise ValueError("expected a level from 0 to 5")
    return level


def _names(text: str) -> frozenset[str]:
    return frozenset(name.strip() for name in text.split(",") if _on(name.strip()))


def _cache(text: str) -> Path | None:
    if text == "0":
        return None
    return (
        Path(text) if text else Path(os.environ.get("XDG_CACHE_HOME") or os.path.expanduser("~/.cache")) / "twofold"
    )


def _threads(text: str) -> int | None:
    count = int(text or "0")
    if count < 0:
        raise ValueError("expected the number of threads")
    return count or None


COMPILE = Setting(
    "TWOFOLD_COMPILE", lambda text: text != "0", "0: functions given to `compile` run eagerly, as they are written"
)
DEBUG = Setting(
    "TWOFOLD_DEBUG",
    _level,
    "for every program that is compiled, to standard error: 1 the seconds of each step, 2 also its kernels, "
    "3 its graph, 4 LLVM's language, 5 assembly",
)
DUMP = Setting(
    "TWOFOLD_DUMP",
    lambda text: Path(text) if _on(text) else None,
    "a folder: every program is written there, as graphs, kernels, LLVM's language and assembly",
)
EXPLAIN = Setting("TWOFOLD_EXPLAIN", _on, "1: say on standard error why a function is compiled, and why again")
SKIP_PASSES = Setting(
    "TWOFOLD_SKIP_PASSES",
    _names,
    "names of passes, divided by commas, that are left out, to measure what they do; also fuse (each operation is "
    "a kernel of its own) and reuse (temporaries do not share memory)",
)
PARALLEL = Setting(
    "TWOFOLD_PARALLEL_COMPILE", lambda text: text != "0", "0: kernels are compiled one after the other"
)
EAGER_KERNELS = Setting(
    "TWOFOLD_EAGER_KERNELS",
    lambda text: text != "0",
    "0: eager code computes everything with NumPy, also what compiled kernels do faster",
)
KEEP_MEMORY = Setting(
    "TWOFOLD_KEEP_MEMORY",
    lambda text: text != "0",
    "0: the C library gives freed memory back as it likes, which makes eager steps slower",
)
EAGER_COMPOSITES = Setting(
    "TWOFOLD_EAGER_COMPOSITES",
    lambda text: text != "0",
    "0: eager code runs softmax, norms, losses and the like operation by operation, not as programs of their own",
)
THREADS = Setting("TWOFOLD_THREADS", _threads, "threads of compiled programs; otherwise as many as processors")
WINOGRAD = Setting(
    "TWOFOLD_WINOGRAD",
    lambda text: text != "0",
    "0: float32 convolutions with kernels of 3 x 3 are computed by the definition, which keeps infinities to the "
    "pixels that see them",
)
CACHE_DIR = Setting(
    "TWOFOLD_CACHE_DIR", _cache, "the folder of compiled code, in place of `~/.cache/twofold`; 0: keep none"
)
CACHE_BYTES = Setting(
    "TWOFOLD_CACHE_BYTES",
    lambda text: int(text or 512 << 20),
    "how large that folder may grow; the oldest go",
)
