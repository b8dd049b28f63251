"""Heap: let the C library keep freed memory, for the arrays of the next step.

Eager steps make and drop the same large arrays again and again. glibc gives such memory back to the system at
once, and the system clears every page of it anew: a fifth of the time of an eager step. So blocks come from
the heap, and the heap keeps some free memory at its end. Elsewhere (musl, macOS, Windows) nothing is done.
"""

from __future__ import annotations

import ctypes
import os
import sys

_TRIM_THRESHOLD, _MMAP_THRESHOLD = -1, -3  # numbers in <malloc.h>
_LARGEST = 32 << 20  # bytes of a block that comes from the heap: the most that glibc takes
_KEPT = 256 << 20  # free bytes at the heap's end that stay there


def keep_memory() -> bool:
    """Tell glibc so; whether it took it."""
    if not sys.platform.startswith("linux"):
        return False
    try:
        mallopt = ctypes.CDLL(None).mallopt
    except (AttributeError, OSError):
        return False
    return bool(mallopt(_MMAP_THRESHOLD, _LARGEST) and mallopt(_TRIM_THRESHOLD, _KEPT))


def give_back() -> bool:
    """Let glibc give the free pages of its heap back to the system now; whether there were any."""
    if not sys.platform.startswith("linux"):
        return False
    try:
        return bool(ctypes.CDLL(None).malloc_trim(0))
    except (AttributeError, OSError):
        return False


def machine_memory() -> int:
    """Bytes of the machine's memory, or a guess."""
    try:
        return os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE")
    except (AttributeError, ValueError, OSError):
        return 8 << 30
