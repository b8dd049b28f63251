"""Functions and methods of tensors. Importing this room completes the `Tensor` class."""

from __future__ import annotations

from . import (  # noqa: F401  (each module fills the table of functions)
    arithmetic,
    arranging,
    attributes,
    binary,
    comparison,
    creation,
    device,
    distances,
    einsum,
    elementwise,
    filling,
    gathering,
    gradients,
    indexing,
    interop,
    joining,
    limits,
    linalg,
    movement,
    operators,
    placing,
    printing,
    promotion,
    random,
    reductions,
    reshaping,
    running,
    sampling,
    saving,
    sorting,
    statistics,
    windows,
)
from ._registry import FUNCTIONS, METHODS, attach_methods

attach_methods()

__all__ = ["FUNCTIONS", "METHODS"]
