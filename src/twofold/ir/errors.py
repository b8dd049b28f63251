"""Errors: every message says what came, what was expected and what to do.

An error knows more than its text: the operation, the user's source line and the path of the
layer inside the model. `Module.__call__` adds the path while the error travels upwards, so that
the message a user reads begins with the place in *their* program, not in ours.
"""

from __future__ import annotations

import linecache
import os
import sys
from pathlib import Path
from types import FrameType
from typing import Any, NamedTuple

_PACKAGE = str(Path(__file__).resolve().parent.parent) + os.sep
_LIBRARY = str(Path(os.__file__).parent) + os.sep  # Python's own: copy, threading, ...


class Location(NamedTuple):
    """A line of somebody's source: where a value was made or an error was raised."""

    file: str
    line: int
    function: str

    @property
    def source(self) -> str:
        """The text of the line, or "" when its file can't be read."""
        return linecache.getline(self.file, self.line).strip()

    def __str__(self) -> str:
        text = self.source
        return f"{self.file}:{self.line}" + (f": {text}" if text else "")


def user_location(depth: int = 1) -> Location | None:
    """The innermost line of the calling stack that is outside the package and Python's library, or None."""
    frame: FrameType | None = sys._getframe(depth)
    while frame is not None:
        code = frame.f_code
        file = code.co_filename
        if not file.startswith((_PACKAGE, "<frozen")) and (
            not file.startswith(_LIBRARY) or "site-packages" in file
        ):
            return Location(file, frame.f_lineno, code.co_name)
        frame = frame.f_back
    return None


class TwofoldError(Exception):
    """Base of all errors of this package.

    Args:
        message: what came and what was expected.
        op: name of the operation, shown in brackets before the message.
        hint: what to do about it.
    """

    def __init__(self, message: str, *, op: str | None = None, hint: str | None = None):
        super().__init__(message)
        self.message = message
        self.op = op
        self.hint = hint
        self.location = user_location(2)
        self.layers: list[Any] = []  # modules the error passed through, innermost first
        self.layer_path: str | None = None
        self.layer_repr: str | None = None

    def __str__(self) -> str:
        text = f"[{self.op}] {self.message}" if self.op else self.message
        if self.layer_path:
            text += f"\n  layer: {self.layer_path}"
            if self.layer_repr:
                text += f" = {self.layer_repr}"
        if self.location is not None:
            text += f"\n  at: {self.location}"
        if self.hint:
            text += f"\n  hint: {self.hint}"
        return text


class ShapeError(TwofoldError, RuntimeError, ValueError):
    """Shapes that do not fit the operation."""


class DTypeError(TwofoldError, TypeError, RuntimeError):
    """A dtype that the operation does not take."""


class AutogradError(TwofoldError, RuntimeError):
    """A derivative that can't be computed, or a graph used wrongly."""


class TraceError(TwofoldError, RuntimeError):
    """Python code that can't be traced into a graph."""


class GraphError(TwofoldError, ValueError):
    """A graph that is not well formed, or text that is no graph."""


class FileFormatError(TwofoldError, ValueError):
    """A file that is damaged or is not what it says it is."""


class OutOfBoundsError(TwofoldError, IndexError):
    """An index or a dimension number outside its range."""


class DivisionByZeroError(TwofoldError, ZeroDivisionError, RuntimeError):
    """Integers divided by zero."""


class TwofoldWarning(UserWarning):
    """Something that runs but is very likely not what was meant."""
