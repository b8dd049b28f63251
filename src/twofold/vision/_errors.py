"""Errors of data sets on disk."""

from __future__ import annotations

from typing import Any

from ..ir.errors import TwofoldError


class DatasetError(TwofoldError, RuntimeError):
    """A data set that is missing, incomplete, or can't be downloaded."""


def pillow(what: str) -> Any:
    """The module PIL.Image, or an error that says how to get it."""
    try:
        import PIL.Image
    except ImportError:
        raise DatasetError(
            f"{what} needs Pillow, which is not installed",
            hint="pip install 'twofold[vision]'",
        ) from None
    return PIL.Image
