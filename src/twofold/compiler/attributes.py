"""What traced code does to the attributes of modules: a program can't do it again, so it is undone and told."""

from __future__ import annotations

from typing import Any

from ..ir.errors import TraceError

_TABLES = ("_parameters", "_buffers", "_modules")
_PLAIN = (bool, int, float, str, complex, tuple, type(None))


class Attributes:
    """The attributes of a module when a trace first met it."""

    __slots__ = ("kind", "obj", "own", "tables")

    def __init__(self, obj: Any):
        self.obj, self.kind = obj, type(obj)
        self.own = dict(obj.__dict__)
        self.tables = {name: dict(self.own[name]) for name in _TABLES}

    def changed(self) -> str | None:
        """The name of an attribute that is another now, if there is any."""
        if type(self.obj) is not self.kind:  # a lazy layer became an ordinary one, once for all
            return None
        own = self.obj.__dict__
        for name in own.keys() | self.own.keys():
            if name not in _TABLES and not _same(own.get(name, self), self.own.get(name, self)):
                return name
        for table, before in self.tables.items():
            now = own[table]
            for name in now.keys() | before.keys():
                if now.get(name, self) is not before.get(name, self):
                    return name
        return None

    def restore(self) -> None:
        """Make the attributes what they were."""
        if self.changed() is None:
            return
        own = self.obj.__dict__
        for name in own.keys() - self.own.keys():
            del own[name]
        own.update(self.own)
        for table, before in self.tables.items():
            own[table].clear()
            own[table].update(before)

    def require_same(self) -> None:
        """Raise TraceError if an attribute is another now."""
        name = self.changed()
        if name is not None:
            raise TraceError(
                f"the code sets the attribute {name!r} of {type(self.obj).__name__}, which a program does not do",
                hint="write into a buffer instead (self.mean.copy_(...), self.calls.add_(1)), or return the value",
            )


def _same(a: Any, b: Any) -> bool:
    return a is b or (isinstance(a, _PLAIN) and type(a) is type(b) and (a == b or a != a))


def attributes_of(obj: Any) -> Attributes | None:
    """The attributes of a module; None for anything else."""
    return Attributes(obj) if all(name in getattr(obj, "__dict__", ()) for name in _TABLES) else None
