"""From LLVM IR text to callable code, with object code cached on disk.

The text is compiled without LLVM's optimisation passes: the emitters write what those would
produce, and compiling is three times faster for it. Compiled objects are kept in a folder, under
a hash of all that they depend on; a damaged or half-written entry is compiled again.
"""

from __future__ import annotations

import hashlib
import itertools
import os
import threading
from pathlib import Path
from typing import Any

import llvmlite
import llvmlite.binding as llvm

from ...ir import config
from .target import Target

_MAGIC = b"TWOBJ01\n"
_LLVM = ".".join(map(str, llvm.llvm_version_info))
_lock = threading.Lock()
_initialized: set[bool] = set()


def _initialize(target: Target | None = None) -> None:
    """Make LLVM's code generators known: this processor's, or all for another architecture's code."""
    foreign = target is not None and not target.is_native
    if foreign in _initialized:
        return
    if foreign:
        llvm.initialize_all_targets()
        llvm.initialize_all_asmprinters()
    else:
        llvm.initialize_native_target()
        llvm.initialize_native_asmprinter()
    _initialized.add(foreign)


class Library:
    """Object files that are loaded: addresses of their functions. Keeps the code alive."""

    def __init__(self, objects: list[bytes], target: Target):
        with _lock:
            _initialize()
            self._engine = llvm.create_mcjit_compiler(llvm.parse_assembly(""), _machine(target))
            for data in objects:
                self._engine.add_object_file(llvm.ObjectFileRef.from_data(data))
            self._engine.finalize_object()

    def address(self, name: str) -> int:
        """Where function `name` begins."""
        address = self._engine.get_function_address(name)
        if not address:
            raise RuntimeError(f"compiled code has no function {name!r}")
        return address


_loaded: dict[str, tuple[Library, int]] = {}  # text -> loaded kernel; equal kernels are one, process-wide


def compile_kernels(texts: dict[str, str], target: Target) -> dict[str, tuple[Library, int]]:
    """Load modules that hold one function `kernel` each; returns the library and the address of each.

    Code for another processor is compiled only.
    """
    if not target.runs_here:
        for text in texts.values():
            object_code(text, target)
        return {}
    found = {}
    for symbol, text in texts.items():
        key = f"{target.cpu} {target.features}\n{text}"
        if key not in _loaded:
            library = compile_text(text, target)
            _loaded[key] = (library, library.address("kernel"))
        found[symbol] = _loaded[key]
    return found


def compile_text(text: str, target: Target) -> Library:
    """Load the machine code of an IR module, compiled now or taken from the cache."""
    return Library([object_code(text, target)], target)


def object_code(text: str, target: Target) -> bytes:
    """The object file of an IR module for a target."""
    _initialize(target)
    path = _cache_path(text, target)
    data = _read(path)
    if data is None:
        module = llvm.parse_assembly(text)
        module.verify()
        data = _machine(target).emit_object(module)
        _write(path, data)
    return data


def assembly(text: str, target: Target) -> str:
    """The assembly of an IR module, for people."""
    _initialize(target)
    return str(_machine(target).emit_assembly(llvm.parse_assembly(text)))


def _machine(target: Target) -> Any:
    triple = llvm.get_process_triple() if target.is_native else target.triple
    return llvm.Target.from_triple(triple).create_target_machine(
        cpu=target.cpu, features=target.features, opt=1, reloc="pic", codemodel="jitdefault"
    )


def _cache_path(text: str, target: Target) -> Path | None:
    folder = config.cache_folder()
    if folder is None:
        return None
    key = hashlib.sha256()
    for part in (llvmlite.__version__, _LLVM, target.cpu, target.features, target.triple, text):
        key.update(part.encode())
        key.update(b"\0")
    return folder / "objects" / f"{key.hexdigest()}.o"


def _read(path: Path | None) -> bytes | None:
    if path is None:
        return None
    try:
        raw = path.read_bytes()
    except OSError:
        return None
    data = raw[len(_MAGIC) + 32 :]
    if raw[: len(_MAGIC)] != _MAGIC or hashlib.sha256(data).digest() != raw[len(_MAGIC) : len(_MAGIC) + 32]:
        return None
    return data


_writes = itertools.count()
_WRITES_PER_BOUND = 128  # looking through a full cache takes as long as compiling a few kernels


def _write(path: Path | None, data: bytes) -> None:
    if path is None:
        return
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        temporary = path.with_name(f".{path.name}.{os.getpid()}.{threading.get_ident()}")
        temporary.write_bytes(_MAGIC + hashlib.sha256(data).digest() + data)
        os.replace(temporary, path)
        if next(_writes) % _WRITES_PER_BOUND == 0:
            _bound(path.parent)
    except OSError:
        return  # a cache that can't be written is no cache, and no reason to fail


def _bound(folder: Path) -> None:
    """Remove the oldest entries when the cache has outgrown its limit."""
    entries = []
    for entry in os.scandir(folder):
        try:
            stat = entry.stat()
        except OSError:
            continue
        entries.append((stat.st_mtime, stat.st_size, entry.path))
    total = sum(size for _, size, _ in entries)
    for _, size, name in sorted(entries):
        if total <= config.CACHE_BYTES:
            return
        try:
            os.unlink(name)
        except OSError:
            continue
        total -= size
