"""The command line: `twofold train|evaluate|predict|doctor`."""

from .app import main

__all__ = ["main"]
