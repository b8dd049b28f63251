"""Reader of IDX files, the format of MNIST: magic, sizes, then the elements in big-endian order."""

from __future__ import annotations

import gzip
import math
import os
import struct
import zlib
from pathlib import Path
from typing import Any, BinaryIO

import numpy as np

from ...ir.errors import FileFormatError

_DTYPES = {0x08: ">u1", 0x09: ">i1", 0x0B: ">i2", 0x0C: ">i4", 0x0D: ">f4", 0x0E: ">f8"}
_CHUNK_BYTES = 1 << 20


def read_idx(path: str | os.PathLike[str]) -> np.ndarray[Any, Any]:
    """The array in an IDX file, plain or compressed with gzip.

    Raises: FileFormatError if the magic number is wrong, or there are fewer or more bytes than the
        header says. No more memory is taken than the file has bytes.
    Source: the format is described on the page of MNIST, LeCun, Cortes and Burges 1998.
    """
    path = Path(path)
    try:
        with path.open("rb") as file:
            compressed = file.read(2) == b"\x1f\x8b"
        with gzip.open(path, "rb") if compressed else path.open("rb") as stream:
            return _read(stream, path)  # type: ignore[arg-type]
    except (gzip.BadGzipFile, zlib.error, EOFError) as e:
        raise FileFormatError(f"{path} is damaged: {e}", op="read_idx", hint="download it again") from None


def _read(stream: BinaryIO, path: Path) -> np.ndarray[Any, Any]:
    magic = stream.read(4)
    if len(magic) < 4 or magic[:2] != b"\0\0" or magic[2] not in _DTYPES or magic[3] == 0:
        raise FileFormatError(
            f"{path} is no IDX file: it begins with {magic.hex(' ') or 'nothing'}, expected 00 00, "
            "a type from 08 to 0e and the number of dimensions",
            op="read_idx",
        )
    ndim = magic[3]
    header = stream.read(4 * ndim)
    if len(header) < 4 * ndim:
        raise FileFormatError(f"{path} ends within the sizes of its {ndim} dimensions", op="read_idx")
    shape = struct.unpack(f">{ndim}I", header)
    dtype = np.dtype(_DTYPES[magic[2]])
    expected = math.prod(shape) * dtype.itemsize
    data = _read_up_to(stream, expected + 1)
    if len(data) != expected:
        raise FileFormatError(
            f"{path} says it holds {dtype.newbyteorder('=')} {shape}, which is {expected} bytes, but has "
            + ("more" if len(data) > expected else f"{len(data)}"),
            op="read_idx",
            hint="the file is cut off or damaged; download it again",
        )
    return np.frombuffer(data, dtype=dtype).reshape(shape).astype(dtype.newbyteorder("="))


def _read_up_to(stream: BinaryIO, limit: int) -> bytes:
    chunks: list[bytes] = []
    while limit > 0 and (chunk := stream.read(min(limit, _CHUNK_BYTES))):
        chunks.append(chunk)
        limit -= len(chunk)
    return b"".join(chunks)
