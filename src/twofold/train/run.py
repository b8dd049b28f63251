"""Run: the directory that a training run leaves behind."""

from __future__ import annotations

import json
import os
import time
from pathlib import Path
from typing import Any

from ..ir.errors import FileFormatError, TwofoldError
from ..tensors.saving import load, save

_FORMAT = 1


class Run:
    """A directory with `run.json` (what was trained, how, with what result) and `model.safetensors`.

    >>> import tempfile, twofold as tw
    >>> run = Run.create(tempfile.mkdtemp() + "/digits")
    >>> run.save({"task": "digits"}, {"weight": tw.ones(2)})
    >>> Run(run.path).info["task"], Run(run.path).state()["weight"]
    ('digits', tensor([1., 1.]))
    """

    def __init__(self, path: str | os.PathLike[str]):
        self.path = Path(path)

    @classmethod
    def create(cls, path: str | os.PathLike[str] | None = None, *, prefix: str = "run") -> Run:
        """Make a new directory: `path`, or `runs/<prefix>-<date>-<time>`. Never an existing one.

        Raises: TwofoldError when it can't be made.
        """
        try:
            return cls._create(path, prefix)
        except OSError as e:
            raise TwofoldError(
                f"the directory {e.filename} of the run can't be made: {e.strerror}",
                hint="give the path of a new directory in a place where you may write",
            ) from e

    @classmethod
    def _create(cls, path: str | os.PathLike[str] | None, prefix: str) -> Run:
        if path is not None:
            Path(path).mkdir(parents=True)
            return cls(path)
        base = Path("runs") / f"{prefix}-{time.strftime('%Y%m%d-%H%M%S')}"
        for n in range(1, 1000):
            candidate = base if n == 1 else base.with_name(f"{base.name}-{n}")
            try:
                candidate.mkdir(parents=True)
                return cls(candidate)
            except FileExistsError:
                continue
        raise FileExistsError(0, "a thousand runs of that name exist already", str(base))

    def save(self, info: dict[str, Any], state: dict[str, Any]) -> None:
        """Write the model's state, then the description; each replaces the old file at once."""
        save(state, self.path / "model.safetensors")
        temporary = self.path / ".run.json.tmp"
        with open(temporary, "w", encoding="utf-8") as f:
            json.dump({"format": _FORMAT, **info}, f, indent=2)
            f.flush()
            os.fsync(f.fileno())
        os.replace(temporary, self.path / "run.json")

    @property
    def info(self) -> dict[str, Any]:
        """What `run.json` says. Raises FileFormatError when it is not a run's."""
        path = self.path / "run.json"
        try:
            info = json.loads(path.read_text(encoding="utf-8"))
        except FileNotFoundError:
            raise FileFormatError(
                f"{self.path} is not the directory of a run: it has no run.json",
                hint="give the directory that `twofold train` named, e.g. runs/digits-20260101-120000",
            ) from None
        except (OSError, ValueError) as e:
            raise FileFormatError(f"{path} can't be read: {e}") from e
        found = info.get("format") if isinstance(info, dict) else None
        if found != _FORMAT:
            raise FileFormatError(f"{path} has format {found!r}, expected {_FORMAT}")
        return info

    def state(self) -> dict[str, Any]:
        """The model's state dict."""
        return load(self.path / "model.safetensors")
