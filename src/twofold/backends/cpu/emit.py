"""A builder of LLVM IR text: SSA names, loops with carried values, vectors.

Kernels write IR through this builder only. Integers that are known stay Python ints and fold, so
that address arithmetic with constant strides costs nothing at run time.
"""

from __future__ import annotations

import builtins
import re
import struct
from collections.abc import Callable, Sequence
from typing import Any

from .sizes import Key, Size, least
from .target import Target

_SYMBOL = re.compile(r"@([\w.$]+)")


class Val:
    """An SSA value: its name (or literal) and LLVM type."""

    __slots__ = ("ref", "ty")

    def __init__(self, ref: str, ty: str):
        self.ref, self.ty = ref, ty

    def __repr__(self) -> str:
        return f"{self.ty} {self.ref}"


class Module:
    """The kernels of a program, the functions that they share, and declarations.

    Kernels with the same code are one function: buffers are numbered per kernel, in order of first
    use, so that equal layers have equal code.

    Args:
        target: the processor that it is for.
    """

    def __init__(self, target: Target) -> None:
        self.hardware_halves = target.half  # whether the target converts float16 by an instruction
        self.hardware_scaling = target.scales  # whether it has one for x * 2**n; results are the same
        self.shared: dict[str, str] = {}  # private functions that kernels call
        self.declarations: dict[str, str] = {}
        self.bodies: dict[str, str] = {}  # code of a kernel -> its symbol
        # name -> (symbol, numbers of its buffers, and the numbers that its code reads, see Note [Sizes])
        self.kernels: dict[str, tuple[str, list[int], list[int]]] = {}

    def declare(self, name: str, result: str, args: Sequence[str]) -> None:
        self.declarations[name] = f"declare {result} @{name}({', '.join(args)})"

    def add(self, function: Function) -> None:
        body = function.text()
        if function.private:
            self.shared[function.name] = body
            return
        symbol = self.bodies.setdefault(body, f"kernel{len(self.bodies)}")
        sizes = [number for _, number in function.sizes.values()]
        self.kernels[function.name] = (symbol, list(function.slots), sizes)

    @property
    def functions(self) -> dict[str, str]:
        return self.shared

    def texts(self) -> dict[str, str]:
        """A self-contained IR module per kernel: symbol -> text. The function in it is `kernel`."""
        return {symbol: self._with_needed(body) for body, symbol in self.bodies.items()}

    def _with_needed(self, body: str) -> str:
        parts, seen = [body], set()
        stack = [body]
        while stack:
            for name in _SYMBOL.findall(stack.pop()):
                if name in seen:
                    continue
                seen.add(name)
                if name in self.shared:
                    parts.append(self.shared[name])
                    stack.append(self.shared[name])
                elif name in self.declarations:
                    parts.append(self.declarations[name])
        return "\n".join(parts)

    def text(self) -> str:
        """All of it, for people."""
        return "\n".join([*self.declarations.values(), *self.shared.values(), *self.bodies])


def float_literal(value: float, ty: str) -> str:
    """An LLVM constant: floats are written as the bits of the double of the same value."""
    if ty == "float" and value == value and abs(value) != float("inf"):
        value = struct.unpack("<f", struct.pack("<f", value))[0]  # a float constant must be exact in float
    return f"0x{struct.unpack('<Q', struct.pack('<d', value))[0]:016X}"


def vector(ty: str, lanes: int) -> str:
    """The type of a vector; one lane is the scalar itself."""
    return ty if lanes == 1 else f"<{lanes} x {ty}>"


def element(ty: str) -> tuple[str, int]:
    """Element type and lanes of a type."""
    if ty.startswith("<"):
        lanes, _, rest = ty[1:-1].partition(" x ")
        return rest, int(lanes)
    return ty, 1


Number = int | Val  # an i64, known when the code is made or only when it runs


class Function:
    """One function being written.

    Args:
        module: where the finished function and its declarations go.
        name: its symbol.
        args: (type, name) pairs; they are `self.args` as values.
    """

    def __init__(
        self,
        module: Module,
        name: str,
        args: Sequence[tuple[str, str]],
        result: str = "void",
        attributes: str = "nounwind",
        private: bool = False,
    ):
        self.module, self.name, self.result = module, name, result
        self.attributes = attributes
        self.private = private
        self.signature = ", ".join(f"{ty} %{n}" for ty, n in args)
        self.args = [Val(f"%{n}", ty) for ty, n in args]
        self.lines: list[str] = []
        self.slots: dict[int, int] = {}  # number of a buffer -> place in the kernel's table of addresses
        self.sizes: dict[Key, tuple[Val, int]] = {}  # numbers in the table, behind the addresses
        self.stack: list[str] = []  # reservations, which stand before everything else
        self._count = 0
        self._block = "entry"

    # --- text -----------------------------------------------------------------------------

    def text(self) -> str:
        linkage = "internal " if self.private else ""
        name = self.name if self.private else "kernel"
        return (
            f"define {linkage}{self.result} @{name}({self.signature}) {self.attributes} {{\nentry:\n"
            + "\n".join([*self.stack, *self._read_sizes(), *self.lines])
            + "\n}\n"
        )

    def _read_sizes(self) -> list[str]:
        """The code that reads the numbers of the table, written last: they stand behind the addresses."""
        lines = []
        for place, v in enumerate([v for v, _ in self.sizes.values()], len(self.slots) + 2):
            lines.append(f"  {v.ref}.at = getelementptr i8, ptr %args, i64 {8 * place}")
            lines.append(f"  {v.ref} = load i64, ptr {v.ref}.at, align 8")
        return lines

    def fresh(self) -> str:
        self._count += 1
        return f"%v{self._count}"

    def emit(self, text: str) -> None:
        self.lines.append("  " + text)

    def value(self, text: str, ty: str) -> Val:
        """Write `%new = text` and return it."""
        name = self.fresh()
        self.lines.append(f"  {name} = {text}")
        return Val(name, ty)

    def label(self, hint: str) -> str:
        self._count += 1
        return f"{hint}{self._count}"

    def start(self, label: str) -> None:
        """Begin a block."""
        self.lines.append(f"{label}:")
        self._block = label

    def ret(self, value: Val | None = None) -> None:
        self.emit("ret void" if value is None else f"ret {value}")

    def finish(self) -> None:
        self.module.add(self)

    # --- integers (i64) that fold -------------------------------------------------------------

    def int(self, value: Number) -> Val:
        if isinstance(value, Val):
            return value
        if value.__class__ is Size and not self.private:
            return self._size(value)
        return Val(str(value), "i64")

    def _size(self, value: Size) -> Val:
        """A number of the kernel's table, see Note [Sizes]."""
        known = self.sizes.get(value.key)
        if known is None:
            known = self.sizes[value.key] = Val(f"%size{len(self.sizes)}", "i64"), int(value)
        return known[0]

    def add(self, a: Number, b: Number) -> Number:
        if isinstance(a, int) and isinstance(b, int):
            return a + b
        if a.__class__ is int and a == 0:
            return b
        if b.__class__ is int and b == 0:
            return a
        return self.value(f"add i64 {self.int(a).ref}, {self.int(b).ref}", "i64")

    def sub(self, a: Number, b: Number) -> Number:
        if isinstance(a, int) and isinstance(b, int):
            return a - b
        if b.__class__ is int and b == 0:
            return a
        return self.value(f"sub i64 {self.int(a).ref}, {self.int(b).ref}", "i64")

    def mul(self, a: Number, b: Number) -> Number:
        if isinstance(a, int) and isinstance(b, int):
            return a * b
        for x, y in ((a, b), (b, a)):
            if x.__class__ is int:
                if x == 0:
                    return 0
                if x == 1:
                    return y
        return self.value(f"mul i64 {self.int(a).ref}, {self.int(b).ref}", "i64")

    def div(self, a: Number, b: Number) -> Number:
        """Floor division of non-negative numbers."""
        if isinstance(a, int) and isinstance(b, int):
            return a // b
        if b.__class__ is int and b == 1:
            return a
        return self.value(f"udiv i64 {self.int(a).ref}, {self.int(b).ref}", "i64")

    def rem(self, a: Number, b: Number) -> Number:
        if isinstance(a, int) and isinstance(b, int):
            return a % b
        if b.__class__ is int and b == 1:
            return 0
        return self.value(f"urem i64 {self.int(a).ref}, {self.int(b).ref}", "i64")

    def min(self, a: Number, b: Number) -> Number:
        if isinstance(a, int) and isinstance(b, int):
            return least(a, b)
        a, b = self.int(a), self.int(b)
        return self.select(self.icmp("slt", a, b), a, b)

    def icmp(self, op: str, a: Number, b: Number) -> Val:
        x = a if isinstance(a, Val) else None
        ty = x.ty if x else (b.ty if isinstance(b, Val) else "i64")
        left, right = [x.ref if isinstance(x, Val) else self.int(x).ref if ty == "i64" else str(x) for x in (a, b)]
        _, lanes = element(ty)
        return self.value(f"icmp {op} {ty} {left}, {right}", vector("i1", lanes))

    # --- memory -------------------------------------------------------------------------------

    def at(self, base: Val, offset_bytes: Number) -> Val:
        """The address `base + offset`."""
        if isinstance(offset_bytes, int) and offset_bytes == 0:
            return base
        return self.value(f"getelementptr i8, ptr {base.ref}, i64 {self.int(offset_bytes).ref}", "ptr")

    def load(self, ty: str, address: Val, align: builtins.int) -> Val:
        return self.value(f"load {ty}, ptr {address.ref}, align {align}", ty)

    def store(self, value: Val, address: Val, align: builtins.int) -> None:
        self.emit(f"store {value}, ptr {address.ref}, align {align}")

    def alloca(self, nbytes: builtins.int) -> Val:
        """Memory on the stack, reserved once at the start of the function."""
        name = self.fresh()
        self.stack.append(f"  {name} = alloca [{nbytes} x i8], align 64")
        return Val(name, "ptr")

    # --- operations ---------------------------------------------------------------------------

    def op(self, name: str, a: Val, b: Val) -> Val:
        """A binary instruction whose result has its operands' type."""
        return self.value(f"{name} {a.ty} {a.ref}, {b.ref}", a.ty)

    def fcmp(self, op: str, a: Val, b: Val) -> Val:
        _, lanes = element(a.ty)
        return self.value(f"fcmp {op} {a.ty} {a.ref}, {b.ref}", vector("i1", lanes))

    def select(self, condition: Val, a: Val, b: Val) -> Val:
        return self.value(f"select {condition}, {a}, {b}", a.ty)

    def convert(self, op: str, a: Val, ty: str) -> Val:
        """sext, zext, trunc, fptosi, sitofp, fpext, fptrunc, bitcast ... to the element type `ty`."""
        e, lanes = element(a.ty)
        target = vector(ty, lanes)
        if target == a.ty:
            return a
        if op in ("fpext", "fptrunc") and (e in _HALVES or ty in _HALVES):
            return _widen_half(self, a) if op == "fpext" else _narrow_to_half(self, a, ty)
        return self.value(f"{op} {a} to {target}", target)

    def intrinsic(self, name: str, args: Sequence[Val], result: str | None = None) -> Val:
        """Call `llvm.<name>` overloaded on the first argument's type."""
        ty = result or args[0].ty
        e, lanes = element(args[0].ty)
        short = {"float": "f32", "double": "f64", "half": "f16", "bfloat": "bf16"}.get(e, e)
        symbol = f"llvm.{name}." + (f"v{lanes}{short}" if lanes > 1 else short)
        self.module.declare(symbol, ty, [a.ty for a in args])
        return self.value(f"call {ty} @{symbol}({', '.join(map(str, args))})", ty)

    def call(self, name: str, args: Sequence[Val], result: str = "void") -> Val | None:
        """Call a function of the module."""
        text = f"call {result} @{name}({', '.join(map(str, args))})"
        if result == "void":
            self.emit(text)
            return None
        return self.value(text, result)

    # --- vectors ------------------------------------------------------------------------------

    def const(self, value: Any, ty: str) -> Val:
        """A literal of an element type, in every lane of a vector type."""
        e, lanes = element(ty)
        if e in ("float", "double", "half", "bfloat"):
            literal = float_literal(float(value), e)
        else:
            literal = str(int(value))
        if lanes == 1:
            return Val(literal, ty)
        return Val(f"<{', '.join([f'{e} {literal}'] * lanes)}>", ty)

    def splat(self, a: Val, lanes: builtins.int) -> Val:
        """A scalar in every lane."""
        if lanes == 1:
            return a
        ty = vector(a.ty, lanes)
        one = self.value(f"insertelement {ty} poison, {a}, i64 0", ty)
        return self.value(f"shufflevector {one}, {ty} poison, <{lanes} x i32> zeroinitializer", ty)

    def extract(self, a: Val, lane: builtins.int) -> Val:
        e, lanes = element(a.ty)
        return a if lanes == 1 else self.value(f"extractelement {a}, i64 {lane}", e)

    # --- control flow -------------------------------------------------------------------------

    def loop(
        self,
        start: Number,
        stop: Number,
        body: Callable[..., Sequence[Val] | None],
        carry: Sequence[Val] = (),
        step: Number = 1,
    ) -> list[Val]:
        """`for i in range(start, stop, step): carry = body(i, *carry)`; returns the last carry.

        A loop that is known to run once or never is no loop.
        """
        if start.__class__ is stop.__class__ is step.__class__ is int:
            if start >= stop:
                return list(carry)
            if start + step >= stop:
                return list(body(start, *carry) or ())
        head, inside, after = self.label("head"), self.label("body"), self.label("after")
        before = self._block
        self.emit(f"br label %{head}")
        self.start(head)
        i = Val(self.fresh(), "i64")
        phis = [Val(self.fresh(), v.ty) for v in carry]
        place = len(self.lines)
        more = self.value(f"icmp slt i64 {i.ref}, {self.int(stop).ref}", "i1")
        self.emit(f"br i1 {more.ref}, label %{inside}, label %{after}")
        self.start(inside)
        results = list(body(i, *phis) or ())
        next_i = self.int(self.add(i, step))
        latch = self._block
        self.emit(f"br label %{head}")
        lines = [f"  {i.ref} = phi i64 [ {self.int(start).ref}, %{before} ], [ {next_i.ref}, %{latch} ]"]
        for phi, first, last in zip(phis, carry, results, strict=True):
            lines.append(f"  {phi.ref} = phi {phi.ty} [ {first.ref}, %{before} ], [ {last.ref}, %{latch} ]")
        self.lines[place:place] = lines
        self.start(after)
        return phis

    def when(self, condition: Val, body: Callable[[], object]) -> None:
        """Run `body`'s code only if the condition holds."""
        inside, after = self.label("then"), self.label("endif")
        self.emit(f"br i1 {condition.ref}, label %{inside}, label %{after}")
        self.start(inside)
        body()
        self.emit(f"br label %{after}")
        self.start(after)


# --- float16 and bfloat16 -------------------------------------------------------------------------

# Note [Halves]
# Processors without an instruction for float16 would call a library that need not be there; the
# instruction for bfloat16 takes small numbers for zero. So both are converted by integers there.

_HALVES = ("half", "bfloat")


def _widen_half(f: Function, a: Val) -> Val:
    """float16 or bfloat16 as float32, which holds all their values."""
    e, lanes = element(a.ty)
    if e == "half" and f.module.hardware_halves:
        return f.value(f"fpext {a} to {vector('float', lanes)}", vector("float", lanes))
    bits = f.convert("zext", f.convert("bitcast", a, "i16"), "i32")

    def const(x: int) -> Val:
        return f.const(x, bits.ty)

    if e == "bfloat":
        return f.convert("bitcast", f.op("shl", bits, const(16)), "float")
    sign = f.op("shl", f.op("and", bits, const(0x8000)), const(16))
    rest = f.op("and", bits, const(0x7FFF))
    moved = f.op("shl", rest, const(13))
    quiet = f.select(f.icmp("ugt", rest, const(0x7C00)), const(0x7FC00000), const(0x7F800000))
    special = f.op("or", moved, quiet)
    number = f.select(f.icmp("uge", rest, const(0x7C00)), special, f.op("add", moved, const(112 << 23)))
    small = f.convert("uitofp", rest, "float")
    small = f.convert("bitcast", f.op("fmul", small, f.const(2.0**-24, small.ty)), "i32")
    number = f.select(f.icmp("ult", rest, const(0x400)), small, number)
    return f.convert("bitcast", f.op("or", number, sign), "float")


def _narrow_to_half(f: Function, a: Val, ty: str) -> Val:
    """float32 rounded to the nearest float16 or bfloat16, ties to even; a NaN stays one, with its sign."""
    _, lanes = element(a.ty)
    if ty == "half" and f.module.hardware_halves:
        return f.value(f"fptrunc {a} to {vector(ty, lanes)}", vector(ty, lanes))
    bits = f.convert("bitcast", a, "i32")

    def const(x: int) -> Val:
        return f.const(x, bits.ty)

    def rounded(x: Val, shift: int) -> Val:
        """x / 2^shift to the nearest, ties to even."""
        odd = f.op("and", f.op("lshr", x, const(shift)), const(1))
        return f.op("lshr", f.op("add", f.op("add", x, const((1 << shift - 1) - 1)), odd), const(shift))

    if ty == "bfloat":
        nan = f.op("or", f.op("lshr", bits, const(16)), const(0x40))
        out = f.select(f.fcmp("uno", a, a), nan, rounded(bits, 16))
    else:
        sign = f.op("and", f.op("lshr", bits, const(16)), const(0x8000))
        size = f.op("and", bits, const(0x7FFFFFFF))
        normal = rounded(f.op("sub", size, const(112 << 23)), 13)
        half = f.convert("bitcast", const(126 << 23), "float")  # adding 0.5 leaves steps of 2^-24
        small = f.op("fadd", f.convert("bitcast", size, "float"), half)
        small = f.op("sub", f.convert("bitcast", small, "i32"), const(126 << 23))
        nan = f.op("or", f.op("and", f.op("lshr", size, const(13)), const(0x3FF)), const(0x7E00))
        large = f.select(f.fcmp("uno", a, a), nan, const(0x7C00))
        out = f.select(f.icmp("ult", size, const(113 << 23)), small, normal)
        out = f.op("or", f.select(f.icmp("uge", size, const(143 << 23)), large, out), sign)
    return f.convert("bitcast", f.convert("trunc", out, "i16"), ty)
