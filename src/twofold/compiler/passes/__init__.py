"""Passes: functions from Graph to Graph, each with one verb for a name. None imports another."""

from .canonicalize import canonicalize
from .fold import fold
from .layout import layout
from .prune import prune
from .share import share
from .split import split

__all__ = ["canonicalize", "fold", "layout", "prune", "share", "split"]
