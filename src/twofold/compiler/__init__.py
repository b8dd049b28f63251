"""From imperative code to graphs: the tracer, and later the drivers of the compiled backends."""

from ..ir import config as _config
from ..ir.heap import keep_memory as _keep_memory
from . import composites as _composites
from . import derive as _derive  # noqa: F401  (installs the derivatives of control flow)
from . import eager as _eager
from .control import cond, scan, while_loop
from .run import trace
from .trace import Trace, Tracer

_eager.install()
_composites.install()
if _config.KEEP_MEMORY.value:
    _keep_memory()

__all__ = ["Trace", "Tracer", "cond", "scan", "trace", "while_loop"]
