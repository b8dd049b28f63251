"""The reference backend: graphs run node by node on NumPy arrays. Every other backend is compared with it."""

from .interpret import interpret

__all__ = ["interpret"]
