"""Downloading one file: mirrors, resumption, check of the hash, and only then its final name."""

from __future__ import annotations

import contextlib
import hashlib
import os
import sys
from collections.abc import Iterable
from pathlib import Path
from typing import Any

from .._errors import DatasetError

_CHUNK_BYTES = 1 << 16


def matches(path: Path, sha256: str | None = None, md5: str | None = None) -> bool:
    """Whether the file exists and has the hashes that are given."""
    if not path.is_file():
        return False
    for name, expected in (("sha256", sha256), ("md5", md5)):
        if expected is not None and _hash(path, name) != expected:
            return False
    return True


def _hash(path: Path, name: str) -> str:
    digest = hashlib.new(name, usedforsecurity=False)
    with path.open("rb") as file:
        while chunk := file.read(1 << 20):
            digest.update(chunk)
    return digest.hexdigest()


def download(
    urls: Iterable[str],
    path: str | os.PathLike[str],
    *,
    sha256: str | None = None,
    md5: str | None = None,
    timeout_s: float = 30.0,
    attempts: int = 3,
) -> Path:
    """Fetch a file from the first of the mirrors that gives the right one.

    A file that is already there with the right hash is left alone, without asking the network.
    What an interrupted transfer left in `path.part` is continued by HTTP Range.

    Args:
        urls: addresses of the same file, tried in order, each up to `attempts` times.
        path: where the file will be; its folder is made.
        sha256, md5: expected hashes in hex; None is not checked.
        timeout_s: how long a silent connection is waited for.

    Raises: DatasetError that lists what went wrong with each mirror.
    """
    path = Path(path)
    if matches(path, sha256, md5):
        return path
    path.parent.mkdir(parents=True, exist_ok=True)
    part = path.with_name(path.name + ".part")
    problems: list[str] = []
    for url in urls:
        for _ in range(attempts):
            problem = _attempt(url, part, timeout_s)
            if problem is None:
                if matches(part, sha256, md5):
                    _publish(part, path)
                    return path
                size = part.stat().st_size
                part.unlink()
                problem = f"gave a file of {size} bytes with the wrong hash (expected {sha256 or md5})"
                problems.append(f"{url}: {problem}")
                break
            problems.append(f"{url}: {problem}")
            if problem.startswith("HTTP 4"):
                break
    raise DatasetError(
        f"could not download {path.name}:\n    " + "\n    ".join(dict.fromkeys(problems) or ["no mirror is given"]),
        hint=f"check the connection, or put the file at {path} yourself",
    )


def _publish(part: Path, path: Path) -> None:
    with part.open("rb+") as file:
        os.fsync(file.fileno())
    os.replace(part, path)


def _attempt(url: str, part: Path, timeout_s: float) -> str | None:
    """Go on with `part`; None when the transfer is complete, or what went wrong."""
    import http.client
    import urllib.error
    import urllib.request

    have = part.stat().st_size if part.exists() else 0
    headers = {"User-Agent": "twofold"} | ({"Range": f"bytes={have}-"} if have else {})
    try:
        with urllib.request.urlopen(urllib.request.Request(url, headers=headers), timeout=timeout_s) as response:
            resumed = response.status == 206 and _range_start(response) == have
            if have and not resumed and response.status == 206:
                part.unlink()
                return "the server sent another part of the file than was asked for"
            return _copy(response, part, have if resumed else 0)
    except urllib.error.HTTPError as e:
        e.close()
        if e.code == 416:  # nothing follows what we have: complete, or longer than the file
            return _at_end(e, part, have)
        return f"HTTP {e.code} {e.reason}"
    except (OSError, http.client.HTTPException, ValueError) as e:
        reason = getattr(e, "reason", None) or e
        return f"{type(reason).__name__}: {reason}"


def _range_start(response: Any) -> int | None:
    text = response.headers.get("Content-Range", "")
    with contextlib.suppress(ValueError, IndexError):
        return int(text.removeprefix("bytes").strip().split("-")[0])
    return None


def _at_end(error: Any, part: Path, have: int) -> str | None:
    total = error.headers.get("Content-Range", "").rpartition("/")[2]
    if total.isdigit() and int(total) == have:
        return None
    part.unlink()
    return "the partial file was longer than the file; starting again"


def _copy(response: Any, part: Path, start: int) -> str | None:
    length = response.headers.get("Content-Length")
    total = start + int(length) if length is not None and length.isdigit() else None
    done = start
    with part.open("ab" if start else "wb") as file:
        while chunk := response.read(_CHUNK_BYTES):
            file.write(chunk)
            done += len(chunk)
            _show(part, done, total)
    if total is not None and done < total:
        return f"the connection ended after {done} of {total} bytes"
    return None


def _show(part: Path, done: int, total: int | None) -> None:
    if total is not None and sys.stderr.isatty():
        end = "\n" if done >= total else ""
        sys.stderr.write(f"\r{part.stem}: {100 * done // max(total, 1):3d} % of {total / 1e6:.1f} MB{end}")
