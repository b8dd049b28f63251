"""split: complex numbers as pairs of real ones, which kernels know.

What computes with complex values becomes real operations on their parts; what only moves them does so
once for each part, if they are in parts already. Inputs are taken apart, and results put together,
where they are needed. complex64 is computed in float64 where a formula would lose digits.

Sources: Smith 1962, "Algorithm 116: complex division"; Kahan 1987, "Branch cuts for complex elementary
functions, or much ado about nothing's sign bit".
"""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

import numpy as np

from ...ir.dtypes import DType, complex64, complex128, float32, float64
from ...ir.graph import Graph, Node, Value
from ...ir.primitive import PRIMITIVES
from ...ir.rewrite import Rewriter

_PART = {complex64: float32, complex128: float64}


def split(graph: Graph) -> Graph:
    """See the head of this file."""
    if not any(v.dtype.is_complex for n in graph.nodes for v in (*n.inputs, *n.outputs)):
        return graph
    return _Split(graph).run_all()


class _Real:
    """A real value that is computed with like a number."""

    __slots__ = ("s", "value")

    def __init__(self, s: _Split, value: Value):
        self.s, self.value = s, value

    def to(self, dtype: DType) -> _Real:
        return self if self.value.dtype is dtype else self.apply("cast", dtype=dtype)

    def apply(self, name: str, *others: Any, **params: Any) -> _Real:
        inputs = [self.value, *(self._value(o) for o in others)]
        return _Real(self.s, self.s.add(PRIMITIVES[name], inputs, **params))

    def _value(self, other: Any) -> Value:
        return other.value if isinstance(other, _Real) else self.s.graph.constant(other, self.value.dtype)

    def number(self, value: float) -> _Real:
        return _Real(self.s, self._value(value))

    def __add__(self, o: Any) -> _Real:
        return self.apply("add", o)

    def __sub__(self, o: Any) -> _Real:
        return self.apply("sub", o)

    def __mul__(self, o: Any) -> _Real:
        return self.apply("mul", o)

    def __truediv__(self, o: Any) -> _Real:
        return self.apply("div", o)

    def __neg__(self) -> _Real:
        return self.apply("neg")

    def __abs__(self) -> _Real:
        return self.apply("abs")

    def where(self, a: Any, b: Any) -> _Real:
        """a where this is true, b elsewhere."""
        like = a if isinstance(a, _Real) else b
        return self.apply(
            "where",
            like.number(a) if not isinstance(a, _Real) else a,
            like.number(b) if not isinstance(b, _Real) else b,
        )


Pair = tuple[_Real, _Real]


class _Split(Rewriter):
    """Every old complex value has a new one, a pair of parts, or both."""

    def __init__(self, source: Graph):
        super().__init__(source)
        self.pairs: dict[Value, tuple[Value, Value]] = {}

    def run_all(self) -> Graph:
        return self.run(self._visit)

    def __getitem__(self, value: Value) -> Value:
        if value not in self.values and value in self.pairs:
            self.values[value] = self.add(PRIMITIVES["complex"], self.pairs[value])
        return super().__getitem__(value)

    def pair(self, value: Value) -> tuple[Value, Value]:
        """The parts of a complex value; those of a real one are itself and nothing."""
        if value not in self.pairs:
            if value in self.source.constants:
                array = self.source.constants[value]
                parts = [
                    self.graph.constant(np.ascontiguousarray(p).reshape(array.shape))
                    for p in (array.real, array.imag)
                ]
            else:
                parts = [self.add(PRIMITIVES[name], [self[value]]) for name in ("real", "imag")]
            self.pairs[value] = (parts[0], parts[1])
        return self.pairs[value]

    def parts(self, value: Value) -> Pair:
        a, b = self.pair(value)
        return _Real(self, a), _Real(self, b)

    def _visit(self, node: Node) -> bool:
        name = node.prim.name
        if not any(v.dtype.is_complex for v in (*node.inputs, *node.outputs)):
            return False
        if name in ("real", "imag"):
            if node.inputs[0] not in self.pairs:
                return False
            self.values[node.outputs[0]] = self.pairs[node.inputs[0]][name == "imag"]
            return True
        if name == "complex":
            self.pairs[node.outputs[0]] = (self[node.inputs[0]], self[node.inputs[1]])
            return self._expanded(node)
        if name in _MOVED:
            return self._moved(node, always=False)
        if name in _LINEAR:
            return self._moved(node, always=True)
        if name in _FILLS:
            return self._fill(node)
        if name in _BILINEAR:
            return self._bilinear(node)
        if name == "cast":
            return self._cast(node)
        if name == "where":
            return self._where(node)
        if name == "prod":
            return self._product(node)
        if name == "cumprod":
            return self._running_product(node)
        if name in _RULES:
            return self._rule(node, *_RULES[name])
        return False

    def _set(self, out: Value, pair: Pair) -> None:
        dtype = _PART[out.dtype]
        self.pairs[out] = (pair[0].to(dtype).value, pair[1].to(dtype).value)

    def _expanded(self, node: Node) -> bool:
        """Parts that broadcast get the shape of the whole."""
        out = node.outputs[0]
        a, b = (
            v if v.shape == out.shape else self.add(PRIMITIVES["expand"], [v], shape=out.shape)
            for v in self.pairs[out]
        )
        self.pairs[out] = (a, b)
        return True

    def _moved(self, node: Node, *, always: bool) -> bool:
        """The same for each part; what only moves, and is in one piece, stays so unless `always`."""
        if not always and not any(v in self.pairs for v in node.inputs):
            return False
        sides = [[self.pair(v)[i] if v.dtype.is_complex else self[v] for v in node.inputs] for i in (0, 1)]
        a, b = (self.add(node.prim, side, **node.params) for side in sides)
        self.pairs[node.outputs[0]] = (a, b)
        return True

    def _fill(self, node: Node) -> bool:
        out, params = node.outputs[0], dict(node.params)
        value = complex(params.pop("value"))
        if "dtype" in params:
            params["dtype"] = _PART[out.dtype]
        sides = [self.pair(v) for v in node.inputs]
        a, b = (
            self.add(node.prim, [s[i] for s in sides], value=part, **params)
            for i, part in enumerate((value.real, value.imag))
        )
        self.pairs[out] = (a, b)
        return True

    def _bilinear(self, node: Node) -> bool:
        """A product of products, of matrices and convolutions."""
        (a, b), (c, d) = (self.parts(v) for v in node.inputs)
        product = lambda x, y: x.apply(node.prim.name, y, **node.params)
        self._set(node.outputs[0], (product(a, c) - product(b, d), product(a, d) + product(b, c)))
        return True

    def _cast(self, node: Node) -> bool:
        source, out = node.inputs[0], node.outputs[0]
        if not source.dtype.is_complex:
            x = _Real(self, self[source]).to(_PART[out.dtype])
            self.pairs[out] = (x.value, self._zeros(x.value))
        elif out.dtype.is_complex:
            self._set(out, self.parts(source))
        elif out.dtype.kind == "bool":
            a, b = self.parts(source)
            self.values[out] = a.apply("ne", 0).apply("bitwise_or", b.apply("ne", 0)).value
        else:
            self.values[out] = self.parts(source)[0].to(out.dtype).value
        return True

    def _zeros(self, like: Value) -> Value:
        zero = self.graph.constant(0, like.dtype)
        return self.add(PRIMITIVES["expand"], [zero], shape=like.shape) if like.ndim else zero

    def _where(self, node: Node) -> bool:
        condition = _Real(self, self[node.inputs[0]])
        (a, b), (c, d) = (self.parts(v) for v in node.inputs[1:])
        self._set(node.outputs[0], (condition.where(a, c), condition.where(b, d)))
        return True

    def _product(self, node: Node) -> bool:
        """Of everything along the last dimension, in halves: element i times element i + n / 2."""
        x, out = node.inputs[0], node.outputs[0]
        dims = node.params["dims"]
        kept = [d for d in range(x.ndim) if d not in dims]
        n = math.prod(x.shape[d] for d in dims)
        shape = (*(x.shape[d] for d in kept), n)
        if x.type.size == 0:
            part = _PART[out.dtype]
            one, zero = (self.add(PRIMITIVES["full"], [], shape=out.shape, value=v, dtype=part) for v in (1.0, 0.0))
            self.pairs[out] = (one, zero)
            return True
        order = (*kept, *dims)
        a, b = (p.apply("permute", dims=order).apply("reshape", shape=shape) for p in self.parts(x))
        while n > 1:
            half = n // 2
            product = _mul(_piece((a, b), -1, 0, half), _piece((a, b), -1, half, 2 * half))
            rest = _piece((a, b), -1, 2 * half, n)
            a, b = (
                (p.apply("concat", r, dim=len(kept)) for p, r in zip(product, rest, strict=True))
                if n % 2
                else product
            )
            n -= half
        self._set(out, (a.apply("reshape", shape=out.shape), b.apply("reshape", shape=out.shape)))
        return True

    def _running_product(self, node: Node) -> bool:
        """Every element times the one before it, then times that two before, four before (Hillis & Steele 1986)."""
        x, dim = node.inputs[0], node.params["dim"]
        pair, reach = self.parts(x), 1
        n = x.shape[dim] if x.ndim else 1
        while reach < n:
            first, rest = _piece(pair, dim, 0, reach), _piece(pair, dim, reach, n)
            rest = _mul(rest, _piece(pair, dim, 0, n - reach))
            a, b = (p.apply("concat", r, dim=dim) for p, r in zip(first, rest, strict=True))
            pair, reach = (a, b), 2 * reach
        self._set(node.outputs[0], pair)
        return True

    def _rule(self, node: Node, rule: Callable[..., Any], wide: bool) -> bool:
        out = node.outputs[0]
        pairs = [self.parts(v) for v in node.inputs]
        if wide:
            pairs = [(a.to(float64), b.to(float64)) for a, b in pairs]
        result = rule(*pairs)
        if isinstance(result, tuple):
            self._set(out, result)
        else:
            self.values[out] = result.value if out.dtype.kind == "bool" else result.to(out.dtype).value
        return True


_MOVED = frozenset((
    "reshape", "permute", "expand", "slice", "flip", "diagonal", "as_strided", "concat", "copy", "stop_gradient",
    "update_slice", "update_diagonal", "update_as_strided", "gather", "scatter", "index",
))  # fmt: skip
_LINEAR = frozenset(("sum", "cumsum", "sum_pool", "sum_pool_grad", "sum_pool_last", "sum_pool_last_grad"))
_FILLS = frozenset(("full", "pad"))
_BILINEAR = frozenset((
    "matmul", "conv", "conv_input_grad", "conv_weight_grad", "conv_last", "conv_last_input_grad",
    "conv_last_weight_grad",
))  # fmt: skip


def _piece(x: Pair, dim: int, start: int, stop: int) -> Pair:
    """Elements start..stop-1 along a dimension."""
    shape = x[0].value.shape
    dim %= len(shape)
    begin = tuple([start if d == dim else 0 for d in range(len(shape))])
    end = tuple([stop if d == dim else n for d, n in enumerate(shape)])
    a, b = (p.apply("slice", start=begin, stop=end, step=(1,) * len(shape)) for p in x)
    return a, b


# --- arithmetic -----------------------------------------------------------------------------------


def _mul(x: Pair, y: Pair) -> Pair:
    (a, b), (c, d) = x, y
    return a * c - b * d, a * d + b * c


def _div(x: Pair, y: Pair) -> Pair:
    """By the quotient of the divisor's parts, so that squares don't overflow; a zero divides part by part."""
    (a, b), (c, d) = x, y
    turned = abs(c).apply("lt", abs(d))
    large, small = turned.where(d, c), turned.where(c, d)
    zero = large.apply("eq", 0)
    ratio = zero.where(small, small / large)
    scale = large * 0 + 1
    scale = zero.where(scale / abs(large), scale / (large + small * ratio))
    p, q = turned.where(b, a), turned.where(a, b)
    re, im = p + q * ratio, q - p * ratio
    im = turned.where(-im, im)
    return zero.where(p, re) * scale, zero.where(q, im) * scale


def _where(condition: _Real, x: Pair, y: Pair) -> Pair:
    return condition.where(x[0], y[0]), condition.where(x[1], y[1])


def _abs(x: Pair) -> _Real:
    """The hypotenuse, with the larger part taken out; infinite if a part is."""
    a, b = abs(x[0]), abs(x[1])
    large, small = a.apply("maximum", b), a.apply("minimum", b)
    ratio = large.apply("eq", 0).where(0.0, small / large)
    infinite = a.apply("eq", math.inf).apply("bitwise_or", b.apply("eq", math.inf))
    return infinite.where(math.inf, large * (ratio * ratio + 1).apply("sqrt"))


def _both(name: str, join: str) -> Callable[[Pair, Pair], _Real]:
    return lambda x, y: x[0].apply(name, y[0]).apply(join, x[1].apply(name, y[1]))


def _is(name: str, *others: Any) -> Callable[[Pair], _Real]:
    return lambda x: x[0].apply(name, *others).apply("bitwise_and", x[1].apply(name, *others))


# --- functions ------------------------------------------------------------------------------------


def _exp(x: Pair) -> Pair:
    size = x[0].apply("exp")
    im = size * x[1].apply("sin")
    return size * x[1].apply("cos"), x[1].apply("eq", 0).where(x[1], im)


def _expm1(x: Pair) -> Pair:
    a, b = x
    half = (b * 0.5).apply("sin")
    return a.apply("expm1") * b.apply("cos") - half * half * 2, a.apply("exp") * b.apply("sin")


def _log_size(shifted: _Real, x: Pair, size: Callable[[], _Real]) -> _Real:
    """log of |z| for z = 1 + (shifted, x[1]): near 1 by log1p of |z|^2 - 1."""
    square = shifted * (shifted + 2) + x[1] * x[1]
    near = abs(square).apply("lt", 0.5)
    return near.where(square.apply("log1p") * 0.5, size().apply("log"))


def _log(x: Pair) -> Pair:
    return _log_size(x[0] - 1, x, lambda: _abs(x)), x[1].apply("atan2", x[0])


def _log1p(x: Pair) -> Pair:
    one = x[0] + 1
    return _log_size(x[0], x, lambda: _abs((one, x[1]))), x[1].apply("atan2", one)


def _sqrt(x: Pair) -> Pair:
    a, b = x
    t = ((abs(a) + _abs(x)) * 0.5).apply("sqrt")
    other = t.apply("eq", 0).where(0.0, abs(b) / (t * 2))
    negative = a.apply("lt", 0)
    re, im = negative.where(other, t), negative.where(t, other).apply("copysign", b)
    infinite = abs(b).apply("eq", math.inf)
    return infinite.where(math.inf, re), infinite.where(b, im)


def _one(x: Pair) -> Pair:
    return x[0] * 0 + 1, x[1] * 0


def _plus(x: Pair, n: float) -> Pair:
    return x[0] + n, x[1]


def _minus(x: Pair) -> Pair:
    return -x[0], -x[1]


def _times_i(x: Pair) -> Pair:
    return -x[1], x[0]


def _over_i(x: Pair) -> Pair:
    return x[1], -x[0]


def _reciprocal(x: Pair) -> Pair:
    return _div((x[0].number(1.0), x[0].number(0.0)), x)


def _sinh(x: Pair) -> Pair:
    return x[0].apply("sinh") * x[1].apply("cos"), x[0].apply("cosh") * x[1].apply("sin")


def _cosh(x: Pair) -> Pair:
    return x[0].apply("cosh") * x[1].apply("cos"), x[0].apply("sinh") * x[1].apply("sin")


def _tanh(x: Pair) -> Pair:
    """(Kahan) 1 / cosh(a)^2 is all that is left of the imaginary part of large numbers."""
    a, b = x
    t, s = b.apply("tan"), a.apply("sinh")
    beta, rho = t * t + 1, (s * s + 1).apply("sqrt")
    below = beta * s * s + 1
    far = abs(a).apply("gt", 300.0)
    one, zero = a.number(1.0).apply("copysign", a), a.number(0.0).apply("copysign", b)
    return far.where(one, beta * rho * s / below), far.where(zero, t / below)


def _conj_product(x: Pair, y: Pair) -> Pair:
    """conj(x) * y."""
    return x[0] * y[0] + x[1] * y[1], x[0] * y[1] - x[1] * y[0]


def _asin(x: Pair) -> Pair:
    below, above = _sqrt((-x[0] + 1, -x[1])), _sqrt(_plus(x, 1))
    re = x[0].apply("atan2", below[0] * above[0] - below[1] * above[1])
    return re, _conj_product(below, above)[1].apply("asinh")


def _acos(x: Pair) -> Pair:
    below, above = _sqrt((-x[0] + 1, -x[1])), _sqrt(_plus(x, 1))
    return below[0].apply("atan2", above[0]) * 2, _conj_product(above, below)[1].apply("asinh")


def _acosh(x: Pair) -> Pair:
    below, above = _sqrt(_plus(x, -1)), _sqrt(_plus(x, 1))
    return _conj_product(below, above)[0].apply("asinh"), below[1].apply("atan2", above[0]) * 2


def _atanh(x: Pair) -> Pair:
    """Of the right half-plane, where 1 + 4 a / ... does not vanish; the function is odd."""
    a, b = abs(x[0]), x[1]
    distance = (-a + 1) * (-a + 1) + b * b
    re = (a * 4 / distance).apply("log1p") * 0.25
    im = (b * 2).apply("atan2", (-a + 1) * (a + 1) - b * b) * 0.5
    return re.apply("copysign", x[0]), im


def _pow(x: Pair, y: Pair) -> Pair:
    """exp(y log x); anything to the power 0 is 1, and 0 to another power 0."""
    power = _exp(_mul(y, _log(x)))
    is_zero, is_one = _is("eq", 0)(x), _is("eq", 0)(y)
    zero, one = x[0].number(0.0), x[0].number(1.0)
    power = _where(is_zero, (zero, zero), power)
    return _where(is_one, (one, zero), power)


# name: its rule on pairs, and whether complex64 is computed in float64
_RULES: dict[str, tuple[Callable[..., Any], bool]] = {
    "neg": (_minus, False),
    "conj": (lambda x: (x[0], -x[1]), False),
    "add": (lambda x, y: (x[0] + y[0], x[1] + y[1]), False),
    "sub": (lambda x, y: (x[0] - y[0], x[1] - y[1]), False),
    "mul": (_mul, False),
    "div": (_div, False),
    "abs": (_abs, True),
    "eq": (_both("eq", "bitwise_and"), False),
    "ne": (_both("ne", "bitwise_or"), False),
    "logical_not": (_is("eq", 0), False),
    "isfinite": (_is("isfinite"), False),
    "exp": (_exp, True),
    "expm1": (_expm1, True),
    "log": (_log, True),
    "log1p": (_log1p, True),
    "sqrt": (_sqrt, True),
    "rsqrt": (lambda x: _reciprocal(_sqrt(x)), True),
    "pow": (_pow, True),
    "sinh": (_sinh, True),
    "cosh": (_cosh, True),
    "tanh": (_tanh, True),
    "sin": (lambda x: _over_i(_sinh(_times_i(x))), True),
    "cos": (lambda x: _cosh(_times_i(x)), True),
    "tan": (lambda x: _over_i(_tanh(_times_i(x))), True),
    "asin": (_asin, True),
    "acos": (_acos, True),
    "asinh": (lambda x: _over_i(_asin(_times_i(x))), True),
    "acosh": (_acosh, True),
    "atanh": (_atanh, True),
    "atan": (lambda x: _over_i(_atanh(_times_i(x))), True),
    "sigmoid": (lambda x: _reciprocal(_plus(_exp(_minus(x)), 1)), True),
}
