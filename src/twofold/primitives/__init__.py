"""The table of primitives, a file a family; importing this package fills it.

>>> from twofold.ir.primitive import PRIMITIVES
>>> PRIMITIVES["exp"].torch
'exp'
"""

from __future__ import annotations

from ..ir.primitive import PRIMITIVES
from . import elementwise, index, movement, random, reduce, sort

__all__ = ["PRIMITIVES", "elementwise", "index", "movement", "random", "reduce", "sort"]
