"""Elements in registers: how dtypes are held, and what each element-wise primitive does there.

Every rule takes and gives whole vectors. float16 and bfloat16 are held as float32 and rounded
after every primitive, so that fusing kernels changes no bit. bool is a vector of i1, in memory a
byte. There is no fast-math and no contraction across primitives.

Note [Numbers out of range]
C leaves open what integer a floating number is that is too large for it, and processors differ. Here it is what
PyTorch and NumPy give on x86: what is no int32 (for int64, uint32 and uint64: no int64), a NaN too, is the lowest
of these, and what is one is cut to the bits of a smaller type. uint64 holds more, up to 2^64; from there it is 0.

Note [Powers that are products]
A floating number to the power 1, 2, 3 or 4 is x, x x, (x x) x or (x x) (x x), however the exponent arrives:
as a number known when code is made (passes/powers.py), as a Python number, or in a tensor. So what is known of
an exponent changes no bit. float16 and bfloat16, which would round in between, have exponents up to 2.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from ...ir.dtypes import DType
from ...primitives.binary import product_powers
from .emit import Function, Val, element, vector
from .vspecial import MATH, polygamma_rule

STORED = {
    "bool": "i8", "uint8": "i8", "int8": "i8", "uint16": "i16", "int16": "i16", "uint32": "i32", "int32": "i32",
    "uint64": "i64", "int64": "i64", "float16": "half", "bfloat16": "bfloat", "float32": "float",
    "float64": "double",
}  # fmt: skip
HELD = STORED | {"bool": "i1", "float16": "float", "bfloat16": "float"}


def supports(dtype: DType) -> bool:
    """Whether elements of this dtype can be held in registers (complex ones can't yet)."""
    return dtype.name in STORED


def from_memory(f: Function, v: Val, dtype: DType) -> Val:
    """A loaded vector in the form that rules work on."""
    if dtype.name == "bool":
        return f.icmp("ne", v, f.const(0, v.ty))
    if HELD[dtype.name] != STORED[dtype.name]:
        return f.convert("fpext", v, "float")
    return v


def to_memory(f: Function, v: Val, dtype: DType) -> Val:
    """The form that is stored."""
    if dtype.name == "bool":
        return f.convert("zext", v, "i8")
    if HELD[dtype.name] != STORED[dtype.name]:
        return f.convert("fptrunc", v, STORED[dtype.name])
    return v


def apply(
    f: Function, name: str, params: dict[str, Any], args: list[Val], in_types: list[DType], out: DType
) -> Val:
    """Emit primitive `name` on vectors of equal length."""
    result = RULES[name](_Op(f, params, in_types, out), *args)
    if out.name in ("float16", "bfloat16") and name not in _EXACT:
        result = f.convert("fpext", f.convert("fptrunc", result, STORED[out.name]), "float")
    return result


class _Op:
    """What a rule may ask for besides its operands."""

    __slots__ = ("f", "out", "params", "types")

    def __init__(self, f: Function, params: dict[str, Any], types: list[DType], out: DType):
        self.f, self.params, self.types, self.out = f, params, types, out

    @property
    def kind(self) -> str:
        """Of the last operand: "float", "int", "uint" or "bool"."""
        return self.types[-1].kind


_EXACT = frozenset((
    "abs", "bitcast", "ceil", "copy", "floor", "maximum", "minimum", "neg", "nextafter", "relu", "round", "sign",
    "stop_gradient", "trunc", "where",
))  # fmt: skip

Rule = Callable[..., Val]


def _by_kind(**ops: str) -> Rule:
    """An instruction chosen by the operands' kind, e.g. float="fadd", int="add"."""

    def rule(o: _Op, a: Val, b: Val) -> Val:
        op = ops.get(o.kind) or ops["int"]
        return o.f.op(op, a, b)

    return rule


def _compare(ordered: str, signed: str, unsigned: str) -> Rule:
    def rule(o: _Op, a: Val, b: Val) -> Val:
        if o.kind == "float":
            return o.f.fcmp(ordered, a, b)
        return o.f.icmp(signed if o.kind == "int" else unsigned, a, b)

    return rule


def _intrinsic(name: str) -> Rule:
    return lambda o, *args: o.f.intrinsic(name, args)


def _math(name: str) -> Rule:
    return lambda o, *args: MATH[name](o.f, *args)


def _neg(o: _Op, a: Val) -> Val:
    if o.kind == "float":
        return o.f.value(f"fneg {a}", a.ty)
    return o.f.op("sub", o.f.const(0, a.ty), a)


def _abs(o: _Op, a: Val) -> Val:
    if o.kind == "float":
        return o.f.intrinsic("fabs", [a])
    return a if o.kind != "int" else o.f.select(o.f.icmp("slt", a, o.f.const(0, a.ty)), _neg(o, a), a)


def _sign(o: _Op, a: Val) -> Val:
    f, zero, one = o.f, o.f.const(0, a.ty), o.f.const(1, a.ty)
    if o.kind == "float":  # NaN stays 0 as in PyTorch: both comparisons are false
        positive = f.select(f.fcmp("ogt", a, zero), one, zero)
        return f.select(f.fcmp("olt", a, zero), f.const(-1, a.ty), positive)
    positive = f.select(f.icmp("sgt" if o.kind == "int" else "ugt", a, zero), one, zero)
    return positive if o.kind != "int" else f.select(f.icmp("slt", a, zero), f.const(-1, a.ty), positive)


def _choose(float_op: str, signed: str, unsigned: str) -> Rule:
    """maximum/minimum; a NaN in either operand wins."""

    def rule(o: _Op, a: Val, b: Val) -> Val:
        f = o.f
        if o.kind == "float":
            chosen = f.select(f.fcmp(float_op, a, b), a, b)
            return f.select(f.fcmp("uno", a, a), a, chosen)
        return f.select(f.icmp(signed if o.kind == "int" else unsigned, a, b), a, b)

    return rule


def _relu(o: _Op, a: Val) -> Val:
    f, zero = o.f, o.f.const(0, a.ty)
    if o.kind == "float":
        return f.select(f.fcmp("olt", a, zero), zero, a)  # NaN compares false and stays
    return f.select(f.icmp("slt", a, zero), zero, a) if o.kind == "int" else a


def _cast(o: _Op, a: Val) -> Val:
    f, source, target = o.f, o.types[0], o.out
    ty = HELD[target.name]
    if target.name == "bool":
        if source.name == "bool":
            return a
        zero = f.const(0, a.ty)
        return f.fcmp("une", a, zero) if source.kind == "float" else f.icmp("ne", a, zero)
    if source.name == "bool":
        return f.convert("uitofp" if target.kind == "float" else "zext", a, ty)
    if source.kind == "float" and target.kind == "float":
        have, want = HELD[source.name], ty
        return a if have == want else f.convert("fpext" if have == "float" else "fptrunc", a, want)
    if source.kind == "float":
        return _whole_number(f, a, target)
    if target.kind == "float":
        return f.convert("sitofp" if source.kind == "int" else "uitofp", a, ty)
    if target.itemsize > source.itemsize:
        return f.convert("sext" if source.kind == "int" else "zext", a, ty)
    return a if target.itemsize == source.itemsize else f.convert("trunc", a, ty)


def _whole_number(f: Function, a: Val, target: DType) -> Val:
    """Floating numbers as integers, see Note [Numbers out of range]."""
    middle = "i64" if target.itemsize == 8 or target.name == "uint32" else "i32"
    limit = f.const(2.0 ** (int(middle[1:]) - 1), a.ty)
    beyond = f.fcmp("oge", a, limit)
    if target.name == "uint64":
        a = f.select(beyond, f.op("fsub", a, limit), a)  # exact
    fits = f.fcmp("olt", f.intrinsic("fabs", [a]), limit)
    out = f.convert("fptosi", f.select(fits, a, f.const(0, a.ty)), middle)
    lowest = f.const(-1 << int(middle[1:]) - 1, out.ty)
    out = f.select(fits, out, lowest)
    if target.name == "uint64":
        out = f.select(beyond, f.op("xor", out, lowest), out)
    return f.convert("trunc", out, STORED[target.name])


def _logical_not(o: _Op, a: Val) -> Val:
    f = o.f
    if o.kind == "bool":
        return f.op("xor", a, f.const(1, a.ty))
    zero = f.const(0, a.ty)
    return f.fcmp("oeq", a, zero) if o.kind == "float" else f.icmp("eq", a, zero)


def _bitwise_not(o: _Op, a: Val) -> Val:
    return o.f.op("xor", a, o.f.const(1 if o.kind == "bool" else -1, a.ty))


def _isfinite(o: _Op, a: Val) -> Val:
    f = o.f
    if o.kind != "float":
        _, lanes = element(a.ty)
        return f.const(1, vector("i1", lanes))
    return f.fcmp("olt", f.intrinsic("fabs", [a]), f.const(float("inf"), a.ty))


def _whole(name: str) -> Rule:
    """A rounding; integers are whole already."""
    return lambda o, a: o.f.intrinsic(name, [a]) if o.kind == "float" else a


def _shift(op: str, signed: str) -> Rule:
    """Shifts by the width or more, or by negative amounts, push all bits out."""

    def rule(o: _Op, a: Val, b: Val) -> Val:
        f, bits = o.f, 8 * o.out.itemsize
        out_of_range = f.icmp("ugt", b, f.const(bits - 1, b.ty))
        shifted = f.op(signed if o.kind == "int" else op, a, f.select(out_of_range, f.const(0, b.ty), b))
        rest = f.op("ashr", a, f.const(bits - 1, a.ty)) if op == "lshr" and o.kind == "int" else f.const(0, a.ty)
        return f.select(out_of_range, rest, shifted)

    return rule


def _fmod(o: _Op, a: Val, b: Val) -> Val:
    f = o.f
    if o.kind == "float":
        return f.op("frem", a, b)  # exact: a call of the C library for each lane
    return f.op("srem" if o.kind == "int" else "urem", a, _divisor(o, b))


def _divisor(o: _Op, b: Val) -> Val:
    """`b` without the zeros that fill up a last vector, and without -1, by which the lowest number can't be
    divided; of both the remainder by 1 is right, and the quotient by -1 is made up for."""
    f, one = o.f, o.f.const(1, b.ty)
    b = f.select(f.icmp("eq", b, f.const(0, b.ty)), one, b)
    return f.select(f.icmp("eq", b, f.const(-1, b.ty)), one, b) if o.kind == "int" else b


def _remainder(o: _Op, a: Val, b: Val) -> Val:
    """The remainder with the sign of the divisor."""
    f, r, zero = o.f, _fmod(o, a, b), o.f.const(0, a.ty)
    if o.kind == "uint":
        return r
    if o.kind == "int":
        other = f.icmp("slt", f.op("xor", r, b), zero)
        return f.select(f.op("and", other, f.icmp("ne", r, zero)), f.op("add", r, b), r)
    negative, wants = f.fcmp("olt", r, zero), f.fcmp("olt", b, zero)
    moved = f.select(f.op("xor", negative, wants), f.op("fadd", r, b), r)
    return f.select(f.fcmp("oeq", r, zero), f.intrinsic("copysign", [zero, b]), moved)


def _floor_divide(o: _Op, a: Val, b: Val) -> Val:
    f, zero = o.f, o.f.const(0, a.ty)
    if o.kind == "uint":
        return f.op("udiv", a, _divisor(o, b))
    if o.kind == "int":
        quotient = f.op("sdiv", a, _divisor(o, b))
        quotient = f.select(f.icmp("eq", b, f.const(-1, b.ty)), f.op("sub", zero, a), quotient)
        r = _fmod(o, a, b)
        other = f.op("and", f.icmp("slt", f.op("xor", r, b), zero), f.icmp("ne", r, zero))
        return f.select(other, f.op("sub", quotient, f.const(1, a.ty)), quotient)
    r = f.op("frem", a, b)  # (a - r) / b is whole up to rounding
    quotient = f.op("fdiv", f.op("fsub", a, r), b)
    other = f.op("xor", f.fcmp("olt", r, zero), f.fcmp("olt", b, zero))
    other = f.op("and", other, f.fcmp("une", r, zero))
    quotient = f.select(other, f.op("fsub", quotient, f.const(1, a.ty)), quotient)
    whole = f.intrinsic("floor", [quotient])
    up = f.fcmp("ogt", f.op("fsub", quotient, whole), f.const(0.5, a.ty))
    whole = f.select(up, f.op("fadd", whole, f.const(1, a.ty)), whole)
    plain = f.op("fdiv", a, b)
    whole = f.select(f.fcmp("oeq", quotient, zero), f.intrinsic("copysign", [zero, plain]), whole)
    return f.select(f.fcmp("oeq", b, zero), plain, whole)


def _power(o: _Op, a: Val, b: Val) -> Val:
    """Of integers by squares, as many as the largest exponent needs; a negative one is taken as unsigned."""
    if o.kind == "float":
        return _float_power(o, a, b)
    f, (bits, lanes) = o.f, element(b.ty)
    every = b
    if lanes > 1:
        symbol = f"llvm.vector.reduce.or.v{lanes}{bits}"
        f.module.declare(symbol, bits, [b.ty])
        every = f.value(f"call {bits} @{symbol}({b})", bits)
    symbol = f"llvm.ctlz.{bits}"
    f.module.declare(symbol, bits, [bits, "i1"])
    zeros = f.convert("zext", f.value(f"call {bits} @{symbol}({every}, i1 false)", bits), "i64")
    zero, one = f.const(0, b.ty), f.const(1, b.ty)

    def square(_: Any, power: Val, base: Val, rest: Val) -> list[Val]:
        odd = f.icmp("ne", f.op("and", rest, one), zero)
        power = f.select(odd, f.op("mul", power, base), power)
        return [power, f.op("mul", base, base), f.op("lshr", rest, one)]

    return f.loop(0, f.sub(int(bits[1:]), zeros), square, [one, a, b])[0]


def _float_power(o: _Op, a: Val, b: Val) -> Val:
    """See Note [Powers that are products]. No branches: constants would be loaded again after each."""
    f, ty = o.f, a.ty
    power, square = MATH["pow"](f, a, b), f.op("fmul", a, a)
    products = {
        1: lambda: a,
        2: lambda: square,
        3: lambda: f.op("fmul", square, a),
        4: lambda: f.op("fmul", square, square),
    }
    for n in product_powers(o.out):
        power = f.select(f.fcmp("oeq", b, f.const(n, ty)), products[n](), power)
    return power


def _bits_of(o: _Op, a: Val, dtype: DType) -> Val:
    """A held vector as integers of the size in memory."""
    return o.f.convert("bitcast", to_memory(o.f, a, dtype), f"i{8 * dtype.itemsize}")


def _bitcast(o: _Op, a: Val) -> Val:
    stored = o.f.convert("bitcast", _bits_of(o, a, o.types[0]), STORED[o.out.name])
    return from_memory(o.f, stored, o.out)


def _nextafter(o: _Op, a: Val, b: Val) -> Val:
    """The neighbour of a float has the neighbouring bits."""
    f, zero = o.f, o.f.const(0, a.ty)
    bits = _bits_of(o, a, o.out)
    one = f.const(1, bits.ty)
    grows = f.op("xor", f.fcmp("olt", b, a), f.fcmp("ogt", a, zero))
    moved = f.select(grows, f.op("add", bits, one), f.op("sub", bits, one))
    smallest = f.op("or", f.op("and", _bits_of(o, b, o.out), f.const(-1 << (8 * o.out.itemsize - 1), bits.ty)), one)
    moved = f.select(f.fcmp("oeq", a, zero), smallest, moved)
    r = from_memory(f, f.convert("bitcast", moved, STORED[o.out.name]), o.out)
    r = f.select(f.fcmp("oeq", a, b), b, r)
    return f.select(f.fcmp("uno", a, b), f.op("fadd", a, b), r)


def _rsqrt(o: _Op, a: Val) -> Val:
    return o.f.op("fdiv", o.f.const(1, a.ty), o.f.intrinsic("sqrt", [a]))


RULES: dict[str, Rule] = {
    "copy": lambda o, a: a,
    "conj": lambda o, a: a,
    "neg": _neg,
    "abs": _abs,
    "sign": _sign,
    "relu": _relu,
    "cast": _cast,
    "stop_gradient": lambda o, a: a,
    "floor": _whole("floor"),
    "ceil": _whole("ceil"),
    "trunc": _whole("trunc"),
    "round": _whole("roundeven"),
    "sqrt": _intrinsic("sqrt"),
    "rsqrt": _rsqrt,
    "copysign": _intrinsic("copysign"),
    "logical_not": _logical_not,
    "bitwise_not": _bitwise_not,
    "isfinite": _isfinite,
    "add": _by_kind(float="fadd", int="add", bool="or"),
    "sub": _by_kind(float="fsub", int="sub"),
    "mul": _by_kind(float="fmul", int="mul", bool="and"),
    "div": _by_kind(float="fdiv", int="sdiv"),
    "bitwise_and": _by_kind(int="and"),
    "bitwise_or": _by_kind(int="or"),
    "bitwise_xor": _by_kind(int="xor"),
    "eq": _compare("oeq", "eq", "eq"),
    "ne": _compare("une", "ne", "ne"),
    "lt": _compare("olt", "slt", "ult"),
    "le": _compare("ole", "sle", "ule"),
    "gt": _compare("ogt", "sgt", "ugt"),
    "ge": _compare("oge", "sge", "uge"),
    "maximum": _choose("ogt", "sgt", "ugt"),
    "minimum": _choose("olt", "slt", "ult"),
    "shift_left": _shift("shl", "shl"),
    "shift_right": _shift("lshr", "ashr"),
    "fmod": _fmod,
    "remainder": _remainder,
    "floor_divide": _floor_divide,
    "bitcast": _bitcast,
    "nextafter": _nextafter,
    "where": lambda o, c, a, b: o.f.select(c, a, b),
    **{name: _math(name) for name in MATH},
    "pow": _power,
    "polygamma": lambda o, a: polygamma_rule(o.f, a, o.params["n"]),
}

# Rules that are written for floating types; integers go to the reference.
FLOAT_ONLY = frozenset(MATH) - {"pow"} | {"polygamma", "div", "sqrt", "rsqrt", "copysign"}

# Of integers these stop the process at a zero divisor; they are computed here if it is known to have none.
DIVISIONS = frozenset(("floor_divide", "remainder", "fmod"))
