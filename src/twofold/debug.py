"""Looking inside: where a NaN or a wrong in-place write comes from, whether compiled and eager code agree.

>>> import twofold as tw
>>> with tw.debug.settings(compile=False):   # as TWOFOLD_COMPILE=0 does for a whole run
...     tw.compile(lambda x: x + 1)(tw.ones(2))
tensor([2., 2.])
"""

import contextlib as _contextlib
import importlib as _importlib
from collections.abc import Iterator as _Iterator
from pathlib import Path as _Path
from typing import TYPE_CHECKING as _TYPE_CHECKING
from typing import Any as _Any

from .autodiff.anomaly import detect_anomaly, set_detect_anomaly
from .ir import config as _config

if _TYPE_CHECKING:
    from .compiler.compare import Comparison, Difference, compare
    from .compiler.verify import Verification, verify

# These load LLVM.
_LATE = {
    "Comparison": ".compiler.compare",
    "Difference": ".compiler.compare",
    "Verification": ".compiler.verify",
    "compare": ".compiler.compare",
    "verify": ".compiler.verify",
}


@_contextlib.contextmanager
def settings(
    *,
    compile: bool | None = None,
    debug: int | None = None,
    dump: "str | _Path | None" = None,
    explain: bool | None = None,
    skip_passes: "tuple[str, ...] | None" = None,
    cache_dir: "str | _Path | None" = None,
) -> _Iterator[None]:
    """Inside the `with` block, what environment variables set for a whole run; docs/debugging.md explains each.

    Args:
        compile: False: `compile` does nothing, functions run eagerly (TWOFOLD_COMPILE).
        debug: 0 to 5, how much is shown of every program that is compiled (TWOFOLD_DEBUG).
        dump: a folder that programs are written to (TWOFOLD_DUMP).
        explain: say why a function is compiled, and why again (TWOFOLD_EXPLAIN).
        skip_passes: names of passes that are left out (TWOFOLD_SKIP_PASSES).
        cache_dir: the folder of compiled code; "0" for none (TWOFOLD_CACHE_DIR).

    Arguments that are not given change nothing.

    >>> import twofold as tw
    >>> f = tw.compile(lambda x: x * 2)
    >>> with tw.debug.settings(compile=False):
    ...     f(tw.ones(1)), len(f.specializations)
    (tensor([2.]), 0)
    """
    with _contextlib.ExitStack() as stack:
        if compile is not None:
            stack.enter_context(_config.COMPILE.set(compile))
        if debug is not None:
            stack.enter_context(_config.DEBUG.set(debug))
        if dump is not None:
            stack.enter_context(_config.DUMP.set(_Path(dump)))
        if explain is not None:
            stack.enter_context(_config.EXPLAIN.set(explain))
        if skip_passes is not None:
            stack.enter_context(_config.SKIP_PASSES.set(frozenset(skip_passes)))
        if cache_dir is not None:
            stack.enter_context(_config.CACHE_DIR.set(None if str(cache_dir) == "0" else _Path(cache_dir)))
        yield


def __getattr__(name: str) -> _Any:
    if name in _LATE:
        return getattr(_importlib.import_module(_LATE[name], __package__), name)
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")


__all__ = [
    "Comparison",
    "Difference",
    "Verification",
    "compare",
    "detect_anomaly",
    "set_detect_anomaly",
    "settings",
    "verify",
]
