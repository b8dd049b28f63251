"""Open kernels: native functions that are given sizes when they run, and how eager code calls them.

Note [Two ways to run]
Little work is done by an *entry*: a native function that Python calls with objects (`entry` begins one,
`Loaded.entry` makes it callable). It finds addresses, sizes and strides in the arrays, and runs under the
lock of the interpreter, so that it may have memory of its own; a call takes 0.04 us. Where objects are not laid out
as we know them (`HAS_ENTRIES`) none may be written, and everything takes the other way.
Much work is done by the thread team: a `Call` holds the arguments and the phases of one call, and the interpreter
goes on meanwhile. Calls that are not in use wait in a list, from which taking one needs no lock, so that threads,
forks and Ctrl-C find nothing half done.
"""

from __future__ import annotations

import ctypes
import sys
import sysconfig
from collections.abc import Callable
from typing import Any

import llvmlite.binding as llvm
import numpy as np

from . import team as _team
from .emit import Function, Module, Number, Val
from .jit import compile_text
from .target import Target, host

_HEADER = object.__basicsize__  # of every object; an array's address follows, its rank, sizes and strides
_CLASS, _RANK, _SIZES, _STRIDES, _DTYPE = 8, _HEADER + 8, _HEADER + 16, _HEADER + 24, _HEADER + 40
_WORDS = 64  # of a call's arguments
_PHASES = 8  # of a call
_KEPT = 1 << 25  # bytes of memory that a call may keep until it is used again
KEEP = "twofold_new_reference"

Array = np.ndarray[Any, Any]


# --- entries --------------------------------------------------------------------------------------


def entry(module: Module, name: str, count: int) -> tuple[Function, Val, list[Val]]:
    """Begin a function that Python calls with `count` objects; `leave` ends it.

    Returns the function, the object that it was loaded with (see `Loaded.entry`) and the arguments.
    """
    f = Function(module, name, [("ptr", "own"), ("ptr", "objects"), ("i64", "count")], result="ptr")
    own, objects, _ = f.args
    return f, own, [f.load("ptr", f.at(objects, 8 * i), 8) for i in range(count)]


def leave(f: Function, result: Val) -> None:
    """End an entry, which returns one of its arguments."""
    f.module.declare(KEEP, "ptr", ["ptr"])
    out = f.call(KEEP, [result], "ptr")
    f.ret(out)
    f.finish()


def data(f: Function, array: Val) -> Val:
    """The address of an array's first element."""
    return f.load("ptr", f.at(array, _HEADER), 8)


def size(f: Function, array: Val, axis: Number) -> Val:
    """An array's size along an axis."""
    return f.load("i64", f.at(f.load("ptr", f.at(array, _SIZES), 8), f.mul(axis, 8)), 8)


def stride(f: Function, array: Val, axis: Number) -> Val:
    """An array's stride along an axis, in bytes."""
    return f.load("i64", f.at(f.load("ptr", f.at(array, _STRIDES), 8), f.mul(axis, 8)), 8)


def class_of(f: Function, object: Val) -> Val:
    """The address of an object's class."""
    return f.load("i64", f.at(object, _CLASS), 8)


def rank(f: Function, array: Val) -> Val:
    """An array's number of dimensions."""
    return f.convert("sext", f.load("i32", f.at(array, _RANK), 4), "i64")


def dtype_of(f: Function, array: Val) -> Val:
    """The address of an array's dtype."""
    return f.load("i64", f.at(array, _DTYPE), 8)


def number(f: Function, value: Val) -> Val:
    """A Python float, as a double."""
    return f.load("double", f.at(value, _HEADER), 8)


def _known_layout() -> bool:
    """Whether objects are laid out as entries expect, and one thread runs Python at a time."""
    if sys.implementation.name != "cpython" or sys.maxsize < 2**32 or sysconfig.get_config_var("Py_GIL_DISABLED"):
        return False
    word, double = ctypes.c_int64.from_address, ctypes.c_double.from_address
    for array in (np.empty((3, 5)), np.empty((4, 2, 3), np.uint8)[1:, :, ::-1], np.empty(7, np.float32)[::2]):
        known = [id(np.ndarray), id(array.dtype), array.ctypes.data, *array.shape, *array.strides]
        at = id(array)
        sizes, strides = word(at + _SIZES).value, word(at + _STRIDES).value
        found = [word(at + place).value for place in (_CLASS, _DTYPE, _HEADER)]
        found += [word(start + 8 * i).value for start in (sizes, strides) for i in range(array.ndim)]
        if ctypes.c_int32.from_address(at + _RANK).value != array.ndim or found != known:
            return False
    return all(double(id(x) + _HEADER).value == x for x in (1.5, -2.25e300))


HAS_ENTRIES = _known_layout()


def address_of(array: Array) -> int:
    """Where the first element is; NumPy's own ways take five times as long."""
    if HAS_ENTRIES:
        return ctypes.c_int64.from_address(id(array) + _HEADER).value
    return int(array.ctypes.data)


class _Method(ctypes.Structure):
    """PyMethodDef"""

    _fields_ = (
        ("name", ctypes.c_char_p), ("code", ctypes.c_void_p), ("flags", ctypes.c_int), ("doc", ctypes.c_char_p),
    )  # fmt: skip


_METH_FASTCALL = 0x0080


def text_of(module: Module) -> str:
    """A module as one text, with a symbol for each of its functions."""
    parts = [*module.declarations.values(), *module.shared.values()]
    parts += [body.replace("@kernel(", f"@{symbol}(", 1) for body, symbol in module.bodies.items()]
    return "\n".join(parts)


class Loaded:
    """The functions of a module as machine code, one text, from the cache or compiled now.

    Args:
        module: finished; its functions are found by their names.
        target: the processor; this one's by default.
    """

    def __init__(self, module: Module, target: Target | None = None):
        name_references()
        self._library = compile_text(text_of(module), target or host())
        self._symbols = {name: kernel[0] for name, kernel in module.kernels.items()}
        self._methods: list[_Method] = []

    def address(self, name: str) -> int:
        """Where a function begins."""
        return self._library.address(self._symbols[name])

    def entry(self, name: str, own: object = None) -> Callable[..., Any]:
        """An entry as something that Python can call. `own` and the code must be kept alive.

        It takes the number of arguments that it was written for, and checks nothing.
        """
        made, kept = method(name, self.address(name), own)
        self._methods.append(kept)
        return made


def name_references() -> None:
    """Let native code that is loaded from now on take references to what it returns, by `KEEP`."""
    if HAS_ENTRIES:
        llvm.add_symbol(KEEP, ctypes.cast(ctypes.pythonapi.Py_NewRef, ctypes.c_void_p).value)


# Never let go: a function looks into its own when it is deleted, and a collection of garbage has no order.
_methods: list[_Method] = []


def method(name: str, address: int, own: object) -> tuple[Callable[..., Any], _Method]:
    """The entry at an address as something that Python can call, and what it needs besides `own` and the code."""
    kept = _Method(name.encode(), address, _METH_FASTCALL, None)
    _methods.append(kept)
    new = ctypes.pythonapi.PyCFunction_NewEx
    new.restype, new.argtypes = ctypes.py_object, (ctypes.POINTER(_Method), ctypes.py_object, ctypes.c_void_p)
    made: Callable[..., Any] = new(ctypes.byref(kept), own, None)
    return made, kept


# --- calls ----------------------------------------------------------------------------------------

_GO_ON = np.zeros(1, np.int64)  # open kernels find no errors
_STOP = _GO_ON.ctypes.data


class Call:
    """What one call of open kernels needs: `with take() as call: call.words[...] = ...; call.run(...)`.

    Attributes:
        words: the arguments, int64, which all kernels of the call get. Words 0 and 1 are those of `scratch_of`.
        threads: how many run chunks at most; each has a number below that, `worker`.
    """

    threads: int

    def __init__(self) -> None:
        self.words = np.zeros(_WORDS, np.int64)
        self._address = self.words.ctypes.data
        self._phases = np.zeros(5 * _PHASES, np.int64)
        self._table = self._phases.ctypes.data
        self._counters, self._tickets = _team.tickets(_PHASES)
        self._memory = np.empty(0, np.uint8)
        self._workers: _team.Team | None = None

    def __enter__(self) -> Call:
        self._workers = workers = _team.team()
        self.threads = workers.num_threads
        return self

    def __exit__(self, *error: object) -> None:
        if self._memory.nbytes > _KEPT:
            self._memory = np.empty(0, np.uint8)
        self._workers = None  # there may be another team when this is used again
        _free.append(self)

    def memory(self, nbytes: int) -> int:
        """The address of this many bytes, until the call ends or asks again."""
        if self._memory.nbytes < nbytes + 64:
            self._memory = np.empty(nbytes + 64, np.uint8)
        return -(-self._memory.ctypes.data // 64) * 64

    def run(self, *phases: tuple[int, int]) -> None:
        """Run kernels one after the other, each given by its address and its number of chunks."""
        rows: list[int] = []
        for code, chunks in phases:
            rows += (code, chunks, self._address, chunks, 1)
        self._phases[: len(rows)] = rows
        assert self._workers is not None
        self._workers.run(self._table, len(phases), self._tickets, _STOP)


_free: list[Call] = []


def take() -> Call:
    """A call that nobody else uses; leaving its `with` gives it back."""
    try:
        return _free.pop()
    except IndexError:
        return Call()
