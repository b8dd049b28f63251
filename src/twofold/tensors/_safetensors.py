"""The safetensors format: 8 bytes with the header's length, a header in JSON, the tensors' bytes.

Reading trusts nothing: every length is checked against the size of the file before memory is taken,
and tensors must fill the data exactly, without overlaps or gaps.
"""

from __future__ import annotations

import errno
import hashlib
import json
import math
import os
from pathlib import Path
from typing import Any

import numpy as np

from ..ir.dtypes import BY_NAME, DType
from ..ir.errors import DTypeError, FileFormatError

Array = np.ndarray[Any, Any]

MAX_HEADER = 100 << 20
_ALIGN = 64

CODES = {
    "bool": "BOOL", "uint8": "U8", "int8": "I8", "uint16": "U16", "int16": "I16", "uint32": "U32", "int32": "I32",
    "uint64": "U64", "int64": "I64", "float16": "F16", "bfloat16": "BF16", "float32": "F32", "float64": "F64",
    "complex64": "C64",
}  # fmt: skip
_DTYPES = {code: BY_NAME[name] for name, code in CODES.items()}


# --- write ---------------------------------------------------------------------------------------


def entries_of(codes: dict[str, str], tensors: dict[str, Array]) -> dict[str, Any]:
    """The header's entry of each tensor, laid out in the given order."""
    out: dict[str, Any] = {}
    at = 0
    for name, array in tensors.items():
        out[name] = {"dtype": codes[name], "shape": list(array.shape), "data_offsets": [at, at + array.nbytes]}
        at += array.nbytes
    return out


def write_file(path: Path, entries: dict[str, Any], tensors: dict[str, Array], metadata: dict[str, str]) -> None:
    """Write a file aside and move it to `path` when it is safely on the disk."""
    header = json.dumps({"__metadata__": metadata, **entries}, separators=(",", ":")).encode()
    header += b" " * (-(8 + len(header)) % _ALIGN)
    if len(header) > MAX_HEADER:
        raise DTypeError(f"the nesting takes {len(header)} bytes of header, the limit is {MAX_HEADER}", op="save")
    if not path.parent.is_dir():
        raise FileNotFoundError(errno.ENOENT, "there is no such folder to save in; make it first", str(path.parent))
    temporary = path.parent / f".{path.name}.{os.getpid()}-{os.urandom(4).hex()}.tmp"
    try:
        with open(temporary, "xb") as file:
            file.write(len(header).to_bytes(8, "little"))
            file.write(header)
            for array in tensors.values():
                file.write(raw_bytes(array))
            file.flush()
            os.fsync(file.fileno())
        os.replace(temporary, path)
    except BaseException:
        temporary.unlink(missing_ok=True)
        raise
    _sync_directory(path.parent)


def _sync_directory(path: Path) -> None:
    """Put the rename on the disk, where the system can."""
    try:
        handle = os.open(path, os.O_RDONLY)
    except OSError:
        return
    try:
        os.fsync(handle)
    except OSError:
        pass
    finally:
        os.close(handle)


def raw_bytes(array: Array) -> Any:
    """The little-endian bytes of an array, without a copy where it is row-major."""
    array = np.ascontiguousarray(array)
    if not np.little_endian:
        array = array.byteswap()
    return memoryview(array.reshape(-1).view(np.uint8))  # type: ignore[arg-type]


# --- read ----------------------------------------------------------------------------------------


def damaged(path: Any, text: str, hint: str | None = None) -> FileFormatError:
    """The error of a file that can't be read."""
    return FileFormatError(f"{path}: {text}", op="load", hint=hint)


def read_file(path: Any) -> tuple[dict[str, Array], dict[str, Any], dict[str, Any], str]:
    """Arrays, their header entries, the metadata, and the SHA-256 of the data.

    Raises: FileFormatError that says what is wrong.
    """
    size = os.path.getsize(path)
    with open(path, "rb") as file:
        start = file.read(8)
        if len(start) < 8:
            raise damaged(path, f"has only {size} bytes, too few for a safetensors file")
        length = int.from_bytes(start, "little")
        if length > size - 8:
            _refuse_foreign(path, start)
            raise damaged(
                path,
                f"its first 8 bytes announce a header of {length} bytes, but the file has {size}",
                "it is truncated, or no safetensors file",
            )
        if length > MAX_HEADER:
            raise damaged(path, f"its header of {length} bytes is larger than the limit of {MAX_HEADER}")
        header, metadata, places = _parse_header(path, file.read(length), size - 8 - length)
        arrays, digest = {}, hashlib.sha256()
        for name, place in places:  # in the order of the file
            array = np.empty(place.shape, np.uint8 if place.dtype.name == "bool" else place.dtype.numpy)
            raw = memoryview(array.reshape(-1).view(np.uint8))  # type: ignore[arg-type]
            if file.readinto(raw) != len(raw):
                raise damaged(path, "became shorter while it was read")
            digest.update(raw)
            if place.dtype.name == "bool":
                array = np.asarray(array != 0)
            arrays[name] = array if np.little_endian else array.byteswap()
    return {name: arrays[name] for name in header}, header, metadata, digest.hexdigest()


def _refuse_foreign(path: Any, start: bytes) -> None:
    """Name the formats that people try: PyTorch's, pickles, archives."""
    hint = (
        "in PyTorch run: safetensors.torch.save_file(torch.load('model.pt')['state_dict'], 'model.safetensors'), "
        "and load that file"
    )
    if start.startswith(b"PK\x03\x04"):
        raise damaged(path, "is a zip archive, such as PyTorch's .pt and .pth files; pickles are never read", hint)
    if start[0] == 0x80 and 2 <= start[1] <= 5:
        raise damaged(path, "is a pickle, which could run any code; pickles are never read", hint)
    if start.startswith(b"\x89HDF"):
        raise damaged(path, "is an HDF5 file", "export it as safetensors")
    if start.startswith(b"\x93NUMPY"):
        raise damaged(path, "is a NumPy file", "use twofold.from_numpy(numpy.load(path))")


class Place:
    """A tensor's place in the file, checked."""

    __slots__ = ("dtype", "end", "shape", "start")

    def __init__(self, dtype: DType, shape: tuple[int, ...], start: int, end: int):
        self.dtype, self.shape, self.start, self.end = dtype, shape, start, end


def parse_json(path: Any, text: bytes | str, what: str) -> Any:
    def unique(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
        out = dict(pairs)
        if len(out) != len(pairs):
            raise ValueError("a key occurs twice")
        return out

    def constant(name: str) -> Any:
        raise ValueError(f"{name} is no JSON")

    try:
        if isinstance(text, bytes):
            text = text.decode("utf-8")
        return json.loads(text, object_pairs_hook=unique, parse_constant=constant)
    except (ValueError, RecursionError) as e:
        reason = "it is nested too deeply" if isinstance(e, RecursionError) else str(e)
        raise damaged(path, f"its {what} is no valid JSON: {reason}") from None


def _parse_header(path: Any, text: bytes, room: int) -> tuple[dict[str, Any], dict[str, Any], list[Any]]:
    """The entries, the metadata, and the checked places of all tensors in their order."""
    if not text.startswith(b"{"):
        raise damaged(path, "its header does not begin with '{'", "it is no safetensors file")
    header = parse_json(path, text, "header")
    metadata = header.pop("__metadata__", {})
    if not isinstance(metadata, dict):
        raise damaged(path, "its __metadata__ is no object")
    places = [(name, _place(path, name, value, room)) for name, value in header.items()]
    places.sort(key=lambda item: (item[1].start, item[1].end))
    _check_places(path, places, room)
    return header, metadata, places


def _whole(value: Any) -> bool:
    return type(value) is int and 0 <= value < 1 << 63


def _place(path: Any, name: str, value: Any, room: int) -> Place:
    what = f"tensor {name!r}"
    if not isinstance(value, dict) or not {"dtype", "shape", "data_offsets"} <= value.keys():
        raise damaged(path, f"{what} lacks dtype, shape or data_offsets")
    code, shape, offsets = value["dtype"], value["shape"], value["data_offsets"]
    if not isinstance(code, str) or code not in _DTYPES:
        raise damaged(path, f"{what} has the unknown dtype {code!r}", f"known are {', '.join(_DTYPES)}")
    if not isinstance(shape, list) or len(shape) > 64 or not all(_whole(n) for n in shape):
        raise damaged(path, f"{what} has the impossible shape {str(shape)[:80]}")
    if not isinstance(offsets, list) or len(offsets) != 2 or not all(_whole(n) for n in offsets):
        raise damaged(path, f"{what} has the impossible offsets {str(offsets)[:80]}")
    dtype, (start, end) = _DTYPES[code], offsets
    if start > end or end > room:
        raise damaged(path, f"{what} lies at bytes {start} to {end}, but there are {room}", "it is truncated")
    if math.prod(shape) * dtype.itemsize != end - start:
        raise damaged(
            path,
            f"{what} of shape {tuple(shape)} and dtype {dtype.name} needs "
            f"{math.prod(shape) * dtype.itemsize} bytes, but has {end - start}",
        )
    if math.prod([n or 1 for n in shape]) * dtype.itemsize >= 1 << 62:  # NumPy refuses such even if empty
        raise damaged(path, f"{what} has the impossible shape {tuple(shape)}")
    return Place(dtype, tuple(shape), start, end)


def _check_places(path: Any, places: list[tuple[str, Place]], room: int) -> None:
    """Tensors must lie side by side, without overlaps or gaps."""
    at = 0
    for name, e in places:
        if e.start != at:
            kind = "overlaps another one" if e.start < at else f"leaves a gap of {e.start - at} bytes before it"
            raise damaged(path, f"tensor {name!r} at bytes {e.start} to {e.end} {kind}")
        at = e.end
    if at != room:
        raise damaged(path, f"its tensors end at byte {at} of {room}", "something was cut off or appended")
