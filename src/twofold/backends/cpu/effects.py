"""effects: which of its buffers a kernel writes, read off its code.

Addresses are followed from the table of buffers to the stores. Two addresses of which one is computed from the
other, or that a branch chooses from, count as the same buffer; so what is found is never too little.
"""

from __future__ import annotations

import re

_RESULT = re.compile(r"\s*(%[\w.]+) = (\w+) (.*)")
_POINTER = re.compile(r"ptr (?:align \d+ )?(%[\w.]+)")
_INCOMING = re.compile(r"\[ (%[\w.]+),")
_CALL = re.compile(r"call [^@]*@([\w.$]+)\((.*)\)")
_HEAD = re.compile(r"define [^@]*@[\w.$]+\((.*?)\)")


class _Classes:
    """Addresses that may be of one buffer."""

    def __init__(self) -> None:
        self.parent: dict[str, str] = {}

    def find(self, name: str) -> str:
        while (up := self.parent.get(name, name)) != name:
            name = up
        return name

    def join(self, a: str, b: str) -> None:
        self.parent[self.find(a)] = self.find(b)


def _scan(
    text: str, shared: dict[str, str], memo: dict[str, set[int]]
) -> tuple[dict[int, str], set[str], _Classes]:
    """The address loaded from each slot of the table, the addresses written to, and which belong together."""
    classes, slots = _Classes(), dict[int, str]()
    places, written = {"%args": 0}, set[str]()  # addresses in the table itself: their distance from its begin
    for line in text.split("\n"):
        if "ptr" not in line:
            continue
        made = _RESULT.match(line)
        if made is not None:
            name, op, rest = made.groups()
            if op == "load":
                if rest.startswith("ptr"):
                    slot = places[_POINTER.findall(rest)[-1]] // 8  # there are no other addresses in memory
                    classes.join(name, slots.setdefault(slot, name))
                continue
            if op == "getelementptr":
                source = _POINTER.search(rest)
                assert source is not None, line
                offset = rest.rsplit(" ", 1)[1]
                if source[1] in places and not offset.startswith("%"):
                    places[name] = places[source[1]] + int(offset)
                classes.join(name, source[1])
                continue
            if op in ("phi", "select"):
                for other in (_INCOMING if op == "phi" else _POINTER).findall(rest):
                    classes.join(name, other)
                continue
            if op == "atomicrmw":
                written.add(_POINTER.findall(rest)[0])
                continue
            if op != "call":
                continue
        if " store " in line:
            written.add(_POINTER.findall(line)[-1])
        elif (call := _CALL.search(line)) is not None:
            written |= _written_by_call(call[1], call[2], shared, memo)
    return slots, written, classes


def _written_by_call(name: str, args: str, shared: dict[str, str], memo: dict[str, set[int]]) -> set[str]:
    pointers = _POINTER.findall(args)
    if name in shared:
        if name not in memo:
            memo[name] = _written_parameters(shared[name], shared, memo)
        return {p for i, p in enumerate(pointers) if i in memo[name]}
    if name.startswith("llvm.masked.load"):
        return set()
    return set(pointers[:1] if name.startswith("llvm.mem") else pointers)


def _written_parameters(text: str, shared: dict[str, str], memo: dict[str, set[int]]) -> set[int]:
    """Which of a shared function's pointers it writes to, counted among its pointers."""
    head = _HEAD.search(text)
    assert head is not None
    _, written, classes = _scan(text[head.end() :], shared, memo)
    found = {classes.find(name) for name in written}
    return {i for i, name in enumerate(_POINTER.findall(head[1])) if classes.find(name) in found}


def written_slots(text: str, shared: dict[str, str], memo: dict[str, set[int]]) -> set[int]:
    """The places in a kernel's table of addresses whose buffers it writes to.

    Args:
        text: the kernel's code.
        shared: code of the functions that it may call.
        memo: filled with what is found about those.
    """
    slots, written, classes = _scan(text, shared, memo)
    found = {classes.find(name) for name in written}
    return {slot for slot, name in slots.items() if classes.find(name) in found}
