"""save and load: any nesting of tensors and plain values as one safetensors file.

Note [File format]
Any tool that reads safetensors reads the tensors of our files. The nesting stands in the header's
metadata under "twofold" as JSON, `{"format": 1, "tree": ...}`, and under "twofold_sha256" a checksum
of all that counts: the tensors' bytes, their entries in the header, and the nesting.

A node of the tree is a number, string, bool or null as itself, and all else as a list whose first
item says what it is: ["list", ...], ["tuple", ...], ["dict", [key, value], ...], ["ordered", ...],
["tensor", name], ["float", "nan"], ["complex", re, im], ["dtype", name]; and
["tensor", name, "complex128"] for pairs of float64, because the format has no complex128.
A tensor that occurs several times is stored once.
"""

from __future__ import annotations

import hashlib
import json
import math
from collections import OrderedDict
from pathlib import Path
from typing import Any

import numpy as np

from ..autodiff.handle import Tensor, wrap
from ..ir.dtypes import BY_NAME, DType
from ..ir.errors import DTypeError, FileFormatError, TwofoldError
from ._registry import function
from ._safetensors import CODES, damaged, entries_of, parse_json, raw_bytes, read_file, write_file
from .device import check_device
from .interop import numpy as _array_of

_VERSION = 1
_MAX_DEPTH = 200

# --- save ----------------------------------------------------------------------------------------


class _Writer:
    """Turns a nesting into its tree and the tensors in it."""

    def __init__(self) -> None:
        self.tensors: dict[str, np.ndarray[Any, Any]] = {}
        self.codes: dict[str, str] = {}
        self.names: dict[tuple[Any, ...], str] = {}
        self.open: list[int] = []

    def node(self, value: Any, path: str) -> Any:
        """The tree's node of `value`."""
        kind = type(value)
        if value is None or kind in (bool, int, str):
            return value
        if kind is float:
            return value if math.isfinite(value) else ["float", repr(value)]
        if kind is complex:
            return ["complex", self.node(value.real, path), self.node(value.imag, path)]
        if isinstance(value, Tensor):
            return self.tensor(value)
        if isinstance(value, DType):
            return ["dtype", value.name]
        if isinstance(value, np.generic):
            return self.node(value.item(), path)
        if isinstance(value, (dict, list, tuple)):
            return self.container(value, path)
        what = "a function" if callable(value) and hasattr(value, "__name__") else f"of type {kind.__name__}"
        raise DTypeError(
            f"{path} is {what}, which can't be saved",
            op="save",
            hint="save tensors, numbers, strings, None, and dicts, lists and tuples of them; "
            "for a module or optimizer save its state_dict()",
        )

    def container(self, value: Any, path: str) -> Any:
        if id(value) in self.open:
            raise DTypeError(f"{path} contains itself", op="save")
        if len(self.open) >= _MAX_DEPTH:
            raise DTypeError(f"obj is nested more than {_MAX_DEPTH} deep", op="save")
        self.open.append(id(value))
        if isinstance(value, dict):
            name = "ordered" if isinstance(value, OrderedDict) else "dict"
            items = [[self.key(k, path), self.node(v, f"{path}[{k!r}]")] for k, v in value.items()]
        else:
            name = "tuple" if isinstance(value, tuple) else "list"
            items = [self.node(v, f"{path}[{i}]") for i, v in enumerate(value)]
        self.open.pop()
        return [name, *items]

    def key(self, key: Any, path: str) -> str | int:
        if type(key) not in (str, int):
            raise DTypeError(
                f"a key of {path} is {key!r} of type {type(key).__name__}, but keys must be str or int", op="save"
            )
        return key

    def tensor(self, t: Tensor) -> Any:
        array = _array_of(t.detach())
        dtype = t.dtype
        place = array.__array_interface__["data"][0] if array.size else id(t)
        identity = (place, array.shape, array.strides, dtype)
        name = self.names.get(identity)
        if name is None:
            name = self.names[identity] = f"t{len(self.tensors)}"
            if dtype.name == "complex128":  # no code in the format: pairs of float64
                self.tensors[name] = np.ascontiguousarray(array).reshape(*array.shape, 1).view(np.float64)
                self.codes[name] = "F64"
            else:
                self.tensors[name], self.codes[name] = array, CODES[dtype.name]
        return ["tensor", name, dtype.name] if dtype.name == "complex128" else ["tensor", name]


def _checksum(data_sha256: str, entries: dict[str, Any], tree: Any) -> str:
    """Of the data and of what the header says, however that is written."""
    text = json.dumps([_VERSION, entries, tree], sort_keys=True, separators=(",", ":"))
    return hashlib.sha256(data_sha256.encode() + text.encode()).hexdigest()


@function(method=False)
def save(obj: Any, path: Any) -> None:
    """Write a nesting of tensors and plain values to one file; `load` gives it back.

    Args:
        obj: tensors, numbers, strings, bools, None, and dicts (keys str or int), lists and tuples of
            these: for example state_dicts.
        path: where to; an old file there is replaced only when the new one is safely on the disk.

    The file is in the safetensors format, with the nesting and a checksum in its metadata. A tensor
    that occurs several times is stored once; views of one memory are stored separately.

    Raises: DTypeError that names the place of anything that can't be saved.

    >>> import os, tempfile, twofold as tw
    >>> path = os.path.join(tempfile.mkdtemp(), "state.safetensors")
    >>> tw.save({"step": 3, "weights": [tw.ones(2)]}, path)
    >>> tw.load(path)
    {'step': 3, 'weights': [tensor([1., 1.])]}
    """
    writer = _Writer()
    tree = writer.node(obj, "obj")
    # largest elements first, so that every tensor starts at a multiple of its own size
    tensors = dict(sorted(writer.tensors.items(), key=lambda item: -item[1].itemsize))
    digest = hashlib.sha256()
    for array in tensors.values():
        digest.update(raw_bytes(array))
    entries = entries_of(writer.codes, tensors)
    metadata = {
        "twofold": json.dumps({"format": _VERSION, "tree": tree}, separators=(",", ":")),
        "twofold_sha256": _checksum(digest.hexdigest(), entries, tree),
    }
    write_file(Path(path), entries, tensors, metadata)


# --- load ----------------------------------------------------------------------------------------


@function(method=False)
def load(path: Any, map_location: Any = None, *, weights_only: bool = True) -> Any:
    """Read what `save` wrote, or any safetensors file (as a dict of tensors).

    Args:
        map_location: the device for the tensors: the CPU.
        weights_only: has no effect; there is nothing but data in a file.

    Raises: FileFormatError that says what is wrong with a truncated, damaged or foreign file;
        nothing in a file is ever executed.

    >>> import os, tempfile, twofold as tw
    >>> path = os.path.join(tempfile.mkdtemp(), "x.safetensors")
    >>> tw.save((1, "two", None), path)
    >>> tw.load(path)
    (1, 'two', None)
    """
    check_device(map_location)
    arrays, entries, metadata, sha256 = read_file(path)
    if not any(key.startswith("twofold") for key in metadata):
        return {name: wrap(array) for name, array in arrays.items()}
    tree = _tree(path, metadata)
    if _checksum(sha256, entries, tree) != metadata["twofold_sha256"]:
        raise damaged(
            path, "its contents do not match their checksum", "the file was damaged; use an older checkpoint"
        )
    return _Reader(path, arrays).node(tree, 0)


def _tree(path: Any, metadata: dict[str, Any]) -> Any:
    meta = metadata.get("twofold")
    meta = parse_json(path, meta, "metadata") if isinstance(meta, str) else None
    if not isinstance(meta, dict) or "tree" not in meta or "twofold_sha256" not in metadata:
        raise damaged(path, "its metadata lacks the nesting or the checksum")
    if meta.get("format") != _VERSION:
        raise damaged(
            path, f"has format {meta.get('format')!r}, this version reads {_VERSION}", "update twofold to read it"
        )
    return meta["tree"]


class _Reader:
    """Turns a tree back into the nesting."""

    def __init__(self, path: Any, arrays: dict[str, Any]):
        self.path, self.arrays = path, arrays
        self.tensors: dict[tuple[str, str], Tensor] = {}

    def node(self, node: Any, depth: int) -> Any:
        """The value of a node of the tree."""
        if node is None or type(node) in (bool, int, float, str):
            return node
        if depth > _MAX_DEPTH + 1:
            raise self.error("is nested too deeply")
        if not isinstance(node, list) or not node or not isinstance(node[0], str):
            raise self.error(f"has an unknown node {str(node)[:40]!r}")
        kind, *items = node
        if kind in ("list", "tuple"):
            values = [self.node(item, depth + 1) for item in items]
            return values if kind == "list" else tuple(values)
        if kind in ("dict", "ordered"):
            return self.mapping(kind, items, depth)
        try:
            return self.leaf(kind, items)
        except (ValueError, TypeError, KeyError, IndexError) as e:
            if isinstance(e, TwofoldError):
                raise
            raise self.error(f"has an unknown node {str(node)[:40]!r}") from None

    def mapping(self, kind: str, items: list[Any], depth: int) -> Any:
        out: dict[Any, Any] = OrderedDict() if kind == "ordered" else {}
        for item in items:
            if not isinstance(item, list) or len(item) != 2 or type(item[0]) not in (str, int) or item[0] in out:
                raise self.error(f"has an unknown or repeated key in {str(item)[:40]!r}")
            out[item[0]] = self.node(item[1], depth + 1)
        return out

    def leaf(self, kind: str, items: list[Any]) -> Any:
        if kind == "tensor":
            return self.tensor(*items)
        if kind == "float":
            (text,) = items
            if text not in ("nan", "inf", "-inf"):
                raise ValueError(text)
            return float(text)
        if kind == "complex":
            re, im = [self.node(item, 0) for item in items]
            return complex(float(re), float(im))
        if kind == "dtype":
            (name,) = items
            return BY_NAME[name]
        raise ValueError(kind)

    def tensor(self, name: str, dtype: str = "") -> Tensor:
        if name not in self.arrays:
            raise self.error(f"names a tensor {str(name)[:40]!r} that the file does not have")
        if (name, dtype) not in self.tensors:
            array = self.arrays[name]
            if dtype:
                if dtype != "complex128" or array.dtype != np.float64 or array.shape[-1:] != (2,):
                    raise self.error(f"says that tensor {name!r} is {str(dtype)[:40]!r}, which does not fit")
                array = array.view(np.complex128).reshape(array.shape[:-1])
            self.tensors[name, dtype] = wrap(array)
        return self.tensors[name, dtype]

    def error(self, text: str) -> FileFormatError:
        return damaged(self.path, f"its metadata 'twofold' {text}")
