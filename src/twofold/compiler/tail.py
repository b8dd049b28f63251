"""tail: whether numbers that the code asks for towards its end are only returned.

Note [Numbers that are returned]
`return loss.item()` needs no Python once the program is there: the number goes from the program into the result.
That is so if from the question to the return nothing is done with the number but putting it into variables, tuples,
lists and dicts, which the instructions of the code tell: they are followed with a stack that knows only what is
such a number. Other instructions in between (`(y == z).sum().item()`) may do what they like with other things.
Where there is a jump, or an instruction that is not known here, as later versions of Python may have, the answer is
no, and Python runs in every call (see Note [Who leads]): slower, and always right.
"""

from __future__ import annotations

import builtins
import dis
import functools
import sys
from collections.abc import Callable
from pathlib import Path
from types import CodeType, FrameType
from typing import Any

_PACKAGE = str(Path(__file__).parents[1])
_NUMBER, _ITEM, _FLOAT, _OTHER = "number", "item", "float", "other"  # what may lie on the stack
_NOTHING = frozenset(("CACHE", "EXTENDED_ARG", "KW_NAMES", "NOP", "PRECALL", "RESUME"))
_PUSH = frozenset(("LOAD_CLOSURE", "LOAD_CONST", "LOAD_DEREF", "LOAD_SMALL_INT", "PUSH_NULL"))
_POPS = {
    "BINARY_OP": 2, "BINARY_SUBSCR": 2, "COMPARE_OP": 2, "CONTAINS_OP": 2, "IS_OP": 2, "UNARY_INVERT": 1,
    "UNARY_NEGATIVE": 1, "UNARY_NOT": 1,
}  # fmt: skip
_CURIOUS = ("breakpoint", "eval", "exec", "locals", "vars")  # may look at variables
_LOADS = ("LOAD_FAST", "LOAD_FAST_BORROW", "LOAD_FAST_CHECK")


def count_to_the_end(fn: Callable[..., Any], caller: CodeType, depth: int = 1) -> int | None:
    """How many numbers the rest of `fn` asks for, the present one included, if it only returns it; or None.

    Args:
        caller: whose call of `fn` it must be.
        depth: how many frames up the question is asked.
    """
    code = getattr(getattr(fn, "__func__", fn), "__code__", None)
    frame: FrameType | None = sys._getframe(depth)
    while frame is not None and frame.f_code is not code:
        if not frame.f_code.co_filename.startswith(_PACKAGE):
            return None
        frame = frame.f_back
    if frame is None or frame.f_back is None or frame.f_back.f_code is not caller:
        return None
    if frame.f_globals.get("float", float) is not float or builtins.float is not float:
        return None
    return _count(frame.f_code, frame.f_lasti)


@functools.lru_cache(maxsize=256)
def _count(code: CodeType, last: int) -> int | None:
    follower = _Follower()
    start = last + 1
    asking = True
    for i in dis.get_instructions(code):
        if i.offset == last:
            asking = i.opname.startswith("CALL")
        if i.offset < start or i.opname in _NOTHING:
            continue
        if i.opname == "JUMP_FORWARD":
            start = i.argval
        elif i.opname in ("RETURN_VALUE", "RETURN_CONST"):
            return follower.asks if asking else None
        elif not follower.step(i):
            return None
    return None


class _Follower:
    """Follows instructions in a line, with what they leave on the stack."""

    def __init__(self) -> None:
        self.stack = [_NUMBER]
        self.variables: dict[str, str] = {}
        self.asks = 1

    def pop(self, count: int = 1) -> list[str]:
        """The uppermost things; what was there before the question is no number."""
        missing = [_OTHER] * max(0, count - len(self.stack))
        taken = self.stack[len(self.stack) - count :] if not missing else self.stack[:]
        del self.stack[len(self.stack) - len(taken) :]
        return missing + taken

    def step(self, i: dis.Instruction) -> bool:
        """Whether an instruction is known, and does nothing with numbers."""
        name, arg = i.opname, i.arg or 0
        if name in _PUSH:
            self.stack.append(_OTHER)
        elif name in _LOADS:
            self.stack.append(self.variables.get(i.argval, _OTHER))
        elif name in ("LOAD_FAST_LOAD_FAST", "LOAD_FAST_BORROW_LOAD_FAST_BORROW"):
            self.stack += [self.variables.get(v, _OTHER) for v in i.argval]
        elif name == "STORE_FAST":
            (self.variables[i.argval],) = self.pop()
        elif name == "STORE_FAST_STORE_FAST":
            second, first = self.pop(2)
            self.variables[i.argval[0]] = first
            self.variables[i.argval[1]] = second
        elif name == "STORE_FAST_LOAD_FAST":
            (self.variables[i.argval[0]],) = self.pop()
            self.stack.append(self.variables.get(i.argval[1], _OTHER))
        elif name == "POP_TOP":
            self.pop()
        elif name in ("COPY", "SWAP"):
            return self._move(name, arg)
        elif name.startswith("BUILD_"):
            return self._build(name, arg)
        elif name in _POPS:
            return self._use(_POPS[name])
        else:
            return self._look_up(i, arg) or (name == "CALL" and self._call(arg))
        return True

    def _move(self, name: str, arg: int) -> bool:
        things = self.pop(arg)
        if name == "COPY":
            things.append(things[0])
        else:
            things[0], things[-1] = things[-1], things[0]
        self.stack += things
        return True

    def _build(self, name: str, arg: int) -> bool:
        if name not in ("BUILD_TUPLE", "BUILD_LIST", "BUILD_CONST_KEY_MAP", "BUILD_MAP"):
            return False
        things = self.pop(2 * arg if name == "BUILD_MAP" else arg + (name == "BUILD_CONST_KEY_MAP"))
        if name == "BUILD_MAP" and _NUMBER in things[::2]:
            return False
        self.stack.append(_NUMBER if _NUMBER in things else _OTHER)
        return True

    def _use(self, count: int) -> bool:
        if _NUMBER in self.pop(count):
            return False
        self.stack.append(_OTHER)
        return True

    def _look_up(self, i: dis.Instruction, arg: int) -> bool:
        if i.opname == "LOAD_GLOBAL" and i.argval not in _CURIOUS:
            kind = _FLOAT if i.argval == "float" else _OTHER
            self.stack += [_OTHER, kind] if arg & 1 else [kind]
            return True
        if i.opname not in ("LOAD_METHOD", "LOAD_ATTR") or _NUMBER in self.pop():
            return False
        is_method = i.opname == "LOAD_METHOD" or (sys.version_info >= (3, 12) and arg & 1)
        kind = _ITEM if i.argval == "item" else _OTHER
        self.stack += [kind, _OTHER] if is_method else [kind]
        return True

    def _call(self, arg: int) -> bool:
        things = self.pop(arg + 2)
        if _NUMBER in things:
            return False
        if (_ITEM in things[:2] and not arg) or (_FLOAT in things[:2] and arg == 1):
            self.asks += 1
            self.stack.append(_NUMBER)
        else:
            self.stack.append(_OTHER)
        return True
