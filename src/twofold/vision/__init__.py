"""Pictures: data sets, transforms and models."""

import importlib
from typing import Any

from . import datasets, transforms

__all__ = ["datasets", "models", "transforms"]


def __getattr__(name: str) -> Any:
    if name == "models":
        return importlib.import_module(".models", __name__)
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
