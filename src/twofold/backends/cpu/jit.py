"""From LLVM IR text to callable code, with object code cached on disk.

The text is compiled without LLVM's optimisation passes: the emitters write what those would
produce, and compiling is three times faster for it. Compiled objects are kept in a folder, under
a hash of all that they depend on; a damaged or half-written entry is compiled again.
"""

from __future__ import annotations

import contextlib
import ctypes
import hashlib
import itertools
import os
import threading
import time
import weakref
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import llvmlite
import llvmlite.binding as llvm

from ...ir import config
from .target import Target

_MAGIC = b"TWOBJ02\n"
_LLVM = ".".join(map(str, llvm.llvm_version_info))
_lock = threading.Lock()
_initialized: set[bool] = set()


def _after_fork() -> None:
    global _lock
    _lock = threading.Lock()


# llvmlite's own lock around every call of LLVM. Forks wait for it: no child begins in the middle of a call.
_llvm_lock = getattr(getattr(llvm.ffi.lib, "_lock", None), "_lock", None)
if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_after_fork)
    if _llvm_lock is not None:
        os.register_at_fork(
            before=_llvm_lock.acquire, after_in_parent=_llvm_lock.release, after_in_child=_llvm_lock.release
        )


def _initialize(target: Target | None = None) -> None:
    """Make LLVM's code generators known: this processor's, or all for another architecture's code."""
    foreign = target is not None and not target.is_native
    if foreign in _initialized:
        return
    if not _initialized:
        # The pass that rewrites addresses in loops takes a third to a half of the time that compiling
        # takes, and emitted loops gain nothing by it. The option is LLVM's for the whole process.
        llvm.set_option("twofold", "-disable-lsr")
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


class Kernel:
    """A loaded kernel; its library stays loaded as long as somebody has it."""

    __slots__ = ("__weakref__", "address", "library")

    def __init__(self, library: Library, address: int):
        self.library, self.address = library, address


# Equal kernels are one, process-wide: those of all programs that there are, by processor and text.
_loaded: weakref.WeakValueDictionary[str, Kernel] = weakref.WeakValueDictionary()


def compile_kernels(texts: dict[str, str], target: Target) -> dict[str, Kernel]:
    """Load modules that hold one function `kernel` each.

    All that are new become one library, in which each has a name of its own: a library for each
    takes twenty times as long. Code for another processor is compiled only.
    """
    keys = {symbol: f"{target.cpu} {target.features}\n{text}" for symbol, text in texts.items()}
    found = {key: kernel for key in keys.values() if (kernel := _loaded.get(key)) is not None}
    names: dict[str, str] = {}
    missing: list[str] = []
    for symbol, key in keys.items():
        if key not in found and key not in names:
            names[key] = "k" + hashlib.sha256(texts[symbol].encode()).hexdigest()[:32]
            missing.append(_renamed(texts[symbol], names[key]))
    objects = object_codes(missing, target)
    if not target.runs_here:
        return {}
    if objects:
        library = Library(objects, target)
        for key, name in names.items():
            found[key] = _loaded[key] = Kernel(library, library.address(name))
    return {symbol: found[key] for symbol, key in keys.items()}


def _renamed(text: str, name: str) -> str:
    """The module with its `kernel` called `name`, and the functions private to it called after it.

    The loader keeps one table of the names of a library, private ones too.
    """
    for own in [part[part.index("@") + 1 : part.index("(")] for part in text.split("define ")[1:]]:
        text = text.replace(f"@{own}(", f"@{name}(" if own == "kernel" else f"@{name}.{own}(")
    return text


def compile_text(text: str, target: Target) -> Library:
    """Load the machine code of an IR module, compiled now or taken from the cache."""
    return Library([object_code(text, target)], target)


def object_code(text: str, target: Target) -> bytes:
    """The object file of an IR module for a target."""
    return object_codes([text], target)[0]


def object_codes(texts: Sequence[str], target: Target) -> list[bytes]:
    """The object files of IR modules, from the cache or compiled now."""
    _initialize(target)
    paths = [_cache_path(text, target) for text in texts]
    found = [_read(path) for path in paths]
    missing = [i for i, data in enumerate(found) if data is None]
    for i, data in zip(missing, _compile_all([texts[i] for i in missing], target), strict=True):
        _write(paths[i], data)
        found[i] = data
    return found  # type: ignore[return-value]


# Note [Compiling in parallel]
# llvmlite takes one lock around every call of LLVM, though code of separate contexts may be generated
# at the same time. So generating code, which is where the time goes, calls the C function beneath the
# lock, with a context and a target machine per thread; reading the text stays under it. Where llvmlite
# has no such function any more, everything is done in turn.
_emit_unlocked = getattr(llvm.ffi.lib.LLVMPY_TargetMachineEmitToMemory, "_cfn", None)


def _compile_all(texts: list[str], target: Target) -> list[bytes]:
    """Compile modules, on as many threads as there are processors."""
    workers = min(len(texts), usable_cpus())
    if workers < 2 or _emit_unlocked is None or not config.PARALLEL.value:
        machine: Any = _machine(target) if texts else None
        return [machine.emit_object(_parsed(text)) for text in texts]
    results: list[Any] = [None] * len(texts)
    # The next text, for whoever is free. The longest come first, or one would be at work when all else is done.
    waiting = iter(sorted(range(len(texts)), key=lambda i: -len(texts[i])))

    def work() -> None:
        context, machine = llvm.create_context(), _machine(target)
        for i in waiting:
            try:
                results[i] = _emit(machine, _parsed(texts[i], context))
            except Exception as e:
                results[i] = e

    threads = [threading.Thread(target=work, name=f"twofold-compile-{i}") for i in range(1, workers)]
    for thread in threads:
        thread.start()
    work()
    for thread in threads:
        thread.join()
    for result in results:
        if isinstance(result, Exception):
            raise result
    return results


def _parsed(text: str, context: Any = None) -> Any:
    module = llvm.parse_assembly(text, context)
    module.verify()
    return module


def _emit(machine: Any, module: Any) -> bytes:
    """`machine.emit_object(module)` without llvmlite's lock."""
    lib = llvm.ffi.lib
    with llvm.ffi.OutputString() as error:
        buffer = _emit_unlocked(machine, module, 1, error)  # type: ignore[misc]
        if not buffer:
            raise RuntimeError(str(error))
    try:
        return ctypes.string_at(lib.LLVMPY_GetBufferStart(buffer), lib.LLVMPY_GetBufferSize(buffer))
    finally:
        lib.LLVMPY_DisposeMemoryBuffer(buffer)


def usable_cpus() -> int:
    """CPUs that this process may use."""
    if hasattr(os, "sched_getaffinity"):
        return len(os.sched_getaffinity(0))
    return os.cpu_count() or 1


def assembly(text: str, target: Target) -> str:
    """The assembly of an IR module, for people."""
    _initialize(target)
    return str(_machine(target).emit_assembly(llvm.parse_assembly(text)))


def _machine(target: Target) -> Any:
    triple = llvm.get_process_triple() if target.is_native else target.triple
    # static: the loader gets the table of addresses wrong that "pic" needs, where a library has several objects
    return llvm.Target.from_triple(triple).create_target_machine(
        cpu=target.cpu, features=target.features, opt=1, reloc="static", codemodel="jitdefault"
    )


def _cache_path(text: str, target: Target) -> Path | None:
    folder = config.CACHE_DIR.value
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
    with contextlib.suppress(OSError):  # the folder may be somebody else's
        os.utime(path)  # what is used is not old: see _bound
    data = raw[len(_MAGIC) + 32 :]
    if raw[: len(_MAGIC)] != _MAGIC or hashlib.sha256(data).digest() != raw[len(_MAGIC) : len(_MAGIC) + 32]:
        return None
    return data


def is_cached(text: str, target: Target) -> bool:
    """Whether the object file of a module is in the cache, whole."""
    return _read(_cache_path(text, target)) is not None


_writes = itertools.count()
_WRITES_PER_BOUND = 128  # looking through a full cache takes as long as compiling a few kernels


def _write(path: Path | None, data: bytes) -> None:
    if path is None:
        return
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        temporary = path.with_name(f".{path.name}.{os.getpid()}.{threading.get_ident()}")
        temporary.write_bytes(_MAGIC + hashlib.sha256(data).digest() + data)
        try:
            os.replace(temporary, path)
        except OSError:
            temporary.unlink()
            raise
        if next(_writes) % _WRITES_PER_BOUND == 0:
            _bound(path.parent)
    except OSError:
        return  # a cache that can't be written is no cache, and no reason to fail


def _bound(folder: Path) -> None:
    """Remove what writers that were killed have left, and the oldest entries when there are too many bytes."""
    entries = []
    long_ago = time.time() - 3600
    for entry in os.scandir(folder):
        try:
            stat = entry.stat()
        except OSError:
            continue
        is_left = entry.name.startswith(".") and stat.st_mtime < long_ago
        entries.append((0.0 if is_left else stat.st_mtime, stat.st_size, entry.path))
    total = sum(size for _, size, _ in entries)
    for last_used, size, name in sorted(entries):
        if total <= config.CACHE_BYTES.value and last_used:
            return
        try:
            os.unlink(name)
        except OSError:
            continue
        total -= size
