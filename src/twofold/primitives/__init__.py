"""The table of primitives, a file a family; importing this package fills it.

>>> from twofold.ir.primitive import PRIMITIVES
>>> PRIMITIVES["exp"].torch
'exp'
"""

from __future__ import annotations

from ..ir.primitive import PRIMITIVES
from . import (
    channels_last,
    control,
    conv,
    elementwise,
    index,
    linalg,
    movement,
    random,
    recurrent,
    reduce,
    sort,
    strided,
    window,
)

__all__ = [
    "PRIMITIVES", "channels_last", "control", "conv", "elementwise", "index", "linalg", "movement", "random",
    "recurrent", "reduce", "sort", "strided", "window",
]  # fmt: skip
