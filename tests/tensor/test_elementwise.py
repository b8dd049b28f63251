"""Element-wise functions against PyTorch: dtypes, values, special values, gradients, in-place forms."""

from __future__ import annotations

import itertools

import numpy as np
import pytest
import torch
from torch_oracle import array_of, assert_same, compare, compare_gradients, to_torch

import twofold as tw
from twofold.ir.errors import DTypeError, ShapeError, TwofoldError

NAN, INF = float("nan"), float("inf")

# name: the interval in which values are compared
UNARY = {
    "exp": (-3, 3), "exp2": (-3, 3), "expm1": (-3, 3), "log": (0.1, 9), "log2": (0.1, 9), "log10": (0.1, 9),
    "log1p": (-0.9, 9), "sqrt": (0.1, 9), "rsqrt": (0.1, 9), "sin": (-4, 4), "cos": (-4, 4), "tan": (-1.4, 1.4),
    "asin": (-0.9, 0.9), "acos": (-0.9, 0.9), "atan": (-3, 3), "sinh": (-3, 3), "cosh": (-3, 3), "tanh": (-3, 3),
    "asinh": (-3, 3), "acosh": (1.1, 5), "atanh": (-0.9, 0.9), "sinc": (-2, 2), "sigmoid": (-9, 9),
    "relu": (-3, 3), "logit": (0.1, 0.9), "erf": (-3, 3), "erfc": (-3, 12), "erfinv": (-0.9, 0.9),
    "lgamma": (0.2, 9), "digamma": (0.2, 9), "reciprocal": (0.2, 5), "square": (-3, 3), "abs": (-3, 3),
    "neg": (-3, 3), "positive": (-3, 3), "sign": (-3, 3), "sgn": (-3, 3), "signbit": (-3, 3), "floor": (-3, 3),
    "ceil": (-3, 3), "round": (-3, 3), "trunc": (-3, 3), "frac": (-3, 3), "isnan": (-3, 3), "isinf": (-3, 3),
    "isfinite": (-3, 3), "isposinf": (-3, 3), "isneginf": (-3, 3), "isreal": (-3, 3), "logical_not": (-3, 3),
    "bitwise_not": (-3, 3), "deg2rad": (-300, 300), "rad2deg": (-3, 3), "angle": (-3, 3), "nan_to_num": (-3, 3),
    "conj": (-3, 3), "real": (-3, 3), "frexp": (-9, 9),
}  # fmt: skip
ALIASES = {
    "arcsin": "asin", "arccos": "acos", "arctan": "atan", "arcsinh": "asinh", "arccosh": "acosh",
    "arctanh": "atanh", "absolute": "abs", "negative": "neg", "fix": "trunc", "clip": "clamp",
    "subtract": "sub", "multiply": "mul", "divide": "div", "arctan2": "atan2", "greater": "gt",
    "greater_equal": "ge", "less": "lt", "less_equal": "le", "not_equal": "ne",
}  # fmt: skip
SPECIAL = [NAN, INF, -INF, 0.0, -0.0, 1.0, -1.0, 2.0, 0.5, -0.5, 1e-30, 1e30]
# PyTorch's float32 result for a huge argument, or the order of nan, is not what we promise.
DTYPES = ("float32", "float64", "float16", "bfloat16", "int64", "int32", "uint8", "bool", "complex64", "complex128")


def sample(low, high, dtype, shape=(2, 3), seed=0):
    rng = np.random.default_rng(seed)
    d = getattr(tw, dtype)
    if dtype == "bool":
        return tw.tensor(rng.random(shape) < 0.5)
    if d.is_complex:
        return tw.tensor(rng.uniform(low, high, shape) + 1j * rng.uniform(low, high, shape), dtype=d)
    if not d.is_floating_point:
        low = max(low, 0) if dtype == "uint8" else low
        return tw.tensor(rng.integers(int(low), int(high) + 1, shape), dtype=d)
    return tw.tensor(rng.uniform(low, high, shape), dtype=d)


# PyTorch has no kernels for some dtypes of these, although the functions make sense there.
GENEROUS = {"logit", "deg2rad", "rad2deg", "hypot", "logaddexp", "logaddexp2", "xlogy", "lerp", "pow"}


@pytest.mark.parametrize("name", UNARY)
@pytest.mark.parametrize("dtype", DTYPES)
def test_unary(name, dtype):
    x = sample(*UNARY[name], dtype)
    compare(name, (x,), rtol=1e-5 if dtype in ("float32", "complex64") else None, generous=name in GENEROUS)


@pytest.mark.parametrize("name", UNARY)
def test_unary_special_values(name):
    compare(name, (tw.tensor(SPECIAL, dtype=tw.float64),))


@pytest.mark.parametrize("name", UNARY)
def test_unary_gradient(name):
    if name in ("signbit", "logical_not", "bitwise_not", "real", "conj") or name.startswith("is"):
        pytest.skip("no derivative, or the tensor itself")
    x = sample(*UNARY[name], "float64")
    x.requires_grad = True
    compare_gradients(name, (x,), rtol=1e-9)


@pytest.mark.parametrize("name", sorted(set(UNARY) - {"real", "conj", "frexp", "positive"}))
def test_in_place_form_writes_the_result(name):
    if f"{name}_" not in dir(torch.Tensor):
        return
    x = sample(*UNARY[name], "float64")
    if name == "bitwise_not":
        x = x.long()
    expected = getattr(tw, name)(x)
    out = getattr(x, name + "_")()
    assert out is x
    np.testing.assert_array_equal(x.numpy(), expected.numpy())


@pytest.mark.parametrize("alias", ALIASES)
def test_aliases(alias):
    x, y = tw.tensor([0.2, 0.3]), tw.tensor([0.5, 0.1])
    args = (x, y) if alias in list(ALIASES)[9:] else (x,)
    assert_same(getattr(tw, alias)(*args), to_torch(getattr(tw, ALIASES[alias])(*args)))


BINARY = (
    "add", "sub", "rsub", "mul", "div", "true_divide", "floor_divide", "remainder", "fmod", "pow", "float_power",
    "atan2", "maximum", "minimum", "fmax", "fmin", "hypot", "logaddexp", "logaddexp2", "xlogy", "copysign",
    "eq", "ne", "lt", "le", "gt", "ge", "logical_and", "logical_or", "logical_xor",
    "bitwise_and", "bitwise_or", "bitwise_xor", "bitwise_left_shift", "bitwise_right_shift",
    "ldexp", "gcd", "lcm", "heaviside", "nextafter", "isclose",
)  # fmt: skip
TENSORS_ONLY = {  # in PyTorch
    "gcd", "lcm", "nextafter", "isclose", "heaviside", "ldexp", "hypot", "logaddexp", "logaddexp2", "atan2",
    "maximum", "minimum", "fmax", "fmin", "logical_and", "logical_or", "logical_xor",
}  # fmt: skip
PAIRS = (
    ("float32", "float32"), ("float64", "float32"), ("float32", "int64"), ("int64", "int64"), ("int32", "uint8"),
    ("bool", "bool"), ("bool", "float32"), ("complex64", "float64"), ("float16", "bfloat16"),
    ("bfloat16", "bfloat16"), ("uint8", "uint8"), ("float16", "float16"),
)  # fmt: skip


@pytest.mark.parametrize("name", BINARY)
@pytest.mark.parametrize("pair", PAIRS, ids="-".join)
def test_binary(name, pair):
    x, y = sample(1, 5, pair[0], (2, 3)), sample(1, 4, pair[1], (3,), seed=1)
    if "complex64" in pair and name in ("logaddexp", "logaddexp2"):
        return  # the maximum of complex numbers is a convention that we don't share
    rtol = 1e-5 if "float32" in pair or "complex64" in pair else None
    compare(name, (x, y), rtol=rtol, generous=name in GENEROUS)


@pytest.mark.parametrize("name", sorted(set(BINARY) - TENSORS_ONLY))
@pytest.mark.parametrize("number", [2, 2.5, True, -1, 0.5])
@pytest.mark.parametrize("dtype", ["float32", "int64", "uint8", "bool"])
def test_binary_with_a_number(name, number, dtype):
    x = sample(1, 5, dtype)
    compare(name, (x, number), rtol=1e-5)


SIGNED = (
    "add", "sub", "mul", "div", "floor_divide", "remainder", "fmod", "maximum", "minimum", "fmax", "fmin", "pow",
    "atan2", "hypot", "logaddexp", "logaddexp2", "xlogy", "copysign", "heaviside", "eq", "lt", "ge", "isclose",
)  # fmt: skip


@pytest.mark.parametrize("name", SIGNED)
def test_binary_special_values(name):
    a, b = np.array(list(itertools.product(SPECIAL, SPECIAL))).T
    compare(name, (tw.tensor(a.copy()), tw.tensor(b.copy())), rtol=1e-10)


@pytest.mark.parametrize("name", ["floor_divide", "remainder", "fmod", "div", "bitwise_right_shift", "gcd", "lcm"])
def test_binary_negative_integers(name):
    a, b = np.array([(a, b) for a in range(-7, 8) for b in (-3, -1, 1, 2, 4)]).T
    if "shift" in name:
        b = abs(b)
    compare(name, (tw.tensor(a.copy()), tw.tensor(b.copy())))


@pytest.mark.parametrize("mode", [None, "trunc", "floor"])
@pytest.mark.parametrize("dtype", ["float64", "int64", "uint8", "int8"])
def test_div_rounding_modes(mode, dtype):
    a = sample(-9, 9, dtype, (20,))
    b = sample(1, 4, dtype, (20,), seed=2)
    compare("div", (a, b), {"rounding_mode": mode})
    compare("div", (a, 2), {"rounding_mode": mode})


@pytest.mark.parametrize(
    "name", ["add", "sub", "rsub", "mul", "div", "remainder", "fmod", "pow", "atan2", "maximum", "minimum", "fmax",
             "fmin", "hypot", "logaddexp", "logaddexp2", "xlogy", "copysign", "float_power", "ldexp"]
)  # fmt: skip
def test_binary_gradient(name):
    x, y = sample(1, 5, "float64", (2, 3)), sample(1, 4, "float64", (3,), seed=1)
    x.requires_grad = y.requires_grad = True
    compare_gradients(name, (x, y), rtol=1e-9)


@pytest.mark.parametrize(
    ("name", "a", "b"),
    [
        ("maximum", [1.0, 2.0], [1.0, 3.0]),
        ("fmax", [1.0, NAN], [1.0, 2.0]),
        ("logaddexp", [0.0, 3.0, 1.0], [0.0, -INF, 1.0]),
        ("xlogy", [0.0, 0.0, 2.0], [0.5, 2.0, 3.0]),
        ("pow", [0.0, 0.0, 2.0], [2.0, 0.0, 0.0]),
        ("hypot", [3.0, 0.0], [4.0, 2.0]),
        ("clamp", [0.0, 1.0, 2.0], [0.0, 0.5, 3.0]),
    ],
)
def test_gradient_at_edges(name, a, b):
    x, y = (tw.tensor(v, dtype=tw.float64, requires_grad=True) for v in (a, b))
    compare_gradients(name, (x, y), rtol=1e-9)


TERNARY = [
    ("lerp", (4, 4, 0.3)), ("lerp", (4, 4, 0.8)), ("lerp", (4, 4, 4)), ("addcmul", (4, 4, 4)),
    ("addcdiv", (4, 4, 4)), ("clamp", (4, 2.0, 3.0)), ("clamp", (4, 3)), ("clamp", (4, 4, 4)),
    ("clamp_min", (4, 2.0)), ("clamp_max", (4, 2.0)), ("clamp", (4, 3.0, 2.0)),
]  # fmt: skip


@pytest.mark.parametrize(("name", "args"), TERNARY)
@pytest.mark.parametrize("dtype", ["float64", "float32", "int64"])
def test_ternary(name, args, dtype):
    made = tuple(sample(1, 5, dtype, (n,), seed=i) if n == 4 else n for i, n in enumerate(args))
    compare(name, made, generous=name in GENEROUS)
    if dtype == "float64":
        for x in made:
            if isinstance(x, tw.Tensor):
                x.requires_grad = True
        compare_gradients(name, made, rtol=1e-9)


def test_keyword_forms():
    x, y, z = (sample(1, 5, "float64", (3,), seed=i) for i in range(3))
    compare("add", (x, y), {"alpha": 2})
    compare("sub", (x, y), {"alpha": 0.5})
    compare("rsub", (x, y), {"alpha": 3})
    compare("addcmul", (x, y, z), {"value": 0.5})
    compare("addcdiv", (x, y, z), {"value": -2})
    compare("clamp", (x,), {"min": 2})
    compare("clamp", (x,), {"max": y})
    compare("round", (x,), {"decimals": 1})
    compare("round", (x * 1000,), {"decimals": -2})
    compare("logit", (x / 5,), {"eps": 0.3})
    compare("nan_to_num", (tw.tensor([NAN, INF, -INF, 1.0]),), {"nan": 1.0, "posinf": 2.0, "neginf": 3.0})
    compare("polygamma", (1, x), rtol=1e-8)  # PyTorch's trigamma has 9 digits
    compare("polygamma", (2, x), rtol=1e-9)
    compare("mvlgamma", (x + 2, 3))
    compare("isclose", (x, x + 1e-6), {"rtol": 0.0, "atol": 1e-5})
    compare("complex", (x, y))
    compare("polar", (x, y))
    compare("isin", (tw.tensor([[1, 2], [3, 4]]), tw.tensor([2, 3])))
    compare("isin", (tw.tensor([1, 2]), 2), {"invert": True})
    compare("imag", (tw.complex(x, y),))


def test_add_alpha_must_fit_integers():
    with pytest.raises(DTypeError, match=r"alpha=0\.5 is floating"):
        tw.add(tw.tensor([1]), tw.tensor([1]), alpha=0.5)


def test_equal_and_allclose():
    x = tw.tensor([1.0, NAN])
    assert tw.equal(tw.tensor([1, 2]), tw.tensor([1.0, 2.0]))
    assert not tw.equal(tw.tensor([1]), tw.tensor([1, 1]))
    assert not tw.equal(x, x)
    assert not tw.allclose(x, x)
    assert tw.allclose(x, x, equal_nan=True)
    assert not tw.allclose(tw.tensor([1.0]), tw.tensor([1.1]))


OPERATORS = {
    "+": lambda a, b: a + b, "-": lambda a, b: a - b, "*": lambda a, b: a * b, "/": lambda a, b: a / b,
    "//": lambda a, b: a // b, "%": lambda a, b: a % b, "**": lambda a, b: a**b, "==": lambda a, b: a == b,
    "!=": lambda a, b: a != b, "<": lambda a, b: a < b, "<=": lambda a, b: a <= b, ">": lambda a, b: a > b,
    ">=": lambda a, b: a >= b, "&": lambda a, b: a & b, "|": lambda a, b: a | b, "^": lambda a, b: a ^ b,
    "<<": lambda a, b: a << b, ">>": lambda a, b: a >> b,
}  # fmt: skip


@pytest.mark.parametrize("symbol", OPERATORS)
@pytest.mark.parametrize("dtype", ["float32", "int64", "bool", "uint8", "bfloat16"])
@pytest.mark.parametrize("number", [2, 3.0, True])
def test_operators_with_numbers_on_either_side(symbol, dtype, number):
    op = OPERATORS[symbol]
    x = sample(1, 4, dtype)
    for f in (lambda t: op(t, number), lambda t: op(number, t), lambda t: op(t, t)):
        try:
            theirs = f(to_torch(x))
        except (RuntimeError, TypeError, NotImplementedError):
            if symbol == "**" and dtype == "bool":
                continue  # here truths have powers
            with pytest.raises((TwofoldError, TypeError)):
                f(x)
            continue
        assert_same(f(x), theirs, 1e-6)


def test_in_place_operators_keep_the_tensor():
    x = y = tw.tensor([1.0, 2.0])
    x += 1
    x *= 2.0
    x -= tw.tensor([1, 1])
    x /= 2
    x **= 2
    assert x is y
    assert y.tolist() == [2.25, 6.25]


def test_in_place_refuses_to_lose_the_kind():
    x = tw.tensor([1, 2])
    with pytest.raises(DTypeError, match="can't be stored in a tensor of dtype int64"):
        x += 0.5
    with pytest.raises(ShapeError):
        tw.zeros(2).add_(tw.zeros(3, 2))


def test_reflected_and_unknown_operands():
    x = tw.tensor([1.0, 2.0])
    assert (np.float64(2) * x).dtype is tw.float32
    assert isinstance(np.ones(2, np.float32) + x, tw.Tensor)
    assert (x == None) is False  # noqa: E711
    assert (x != "a") is True
    with pytest.raises(TypeError):
        x + "a"
    with pytest.raises(TypeError):
        x + [1, 2]  # noqa: RUF005
    with pytest.raises(DTypeError, match="expected a tensor or a number, got list"):
        tw.add(x, [1, 2])
    with pytest.raises(DTypeError, match="expected a tensor, got float"):
        tw.exp(1.0)


def test_integers_out_of_range_wrap():
    x = tw.tensor([3, 250], dtype=tw.uint8)
    assert_same(x + 300, to_torch(x) + 300)
    assert_same(x * -1, to_torch(x) * -1)


def test_negative_integer_power_is_refused():
    with pytest.raises(TwofoldError, match="negative"):
        tw.tensor([2, 3]) ** -1


def test_erfc_keeps_digits_in_the_tail():
    x = np.linspace(-3, 26, 200)
    np.testing.assert_allclose(tw.erfc(tw.tensor(x)).numpy(), torch.erfc(torch.tensor(x)).numpy(), rtol=1e-13)


def test_logarithms_are_exact_for_powers():
    k = np.arange(-30, 31)
    for dtype in (tw.float32, tw.float64):
        np.testing.assert_array_equal(tw.log2(tw.tensor(2.0**k, dtype=dtype)).numpy(), k)
    np.testing.assert_array_equal(tw.log10(tw.tensor(10.0 ** np.arange(20))).numpy(), np.arange(20))


def test_out_argument():
    out = tw.zeros(2)
    assert tw.exp(tw.zeros(2), out=out) is out
    assert out.tolist() == [1.0, 1.0]


def test_second_derivatives():
    for name in ("tanh", "sigmoid", "log2", "sinc", "erfc", "square"):
        x = sample(0.2, 0.9, "float64")
        x.requires_grad = True
        t = to_torch(x)
        (g,) = tw.autograd.grad(getattr(tw, name)(x).sum(), [x], create_graph=True)
        g.pow(3).sum().backward()
        (h,) = torch.autograd.grad(getattr(torch, name)(t).sum(), [t], create_graph=True)
        h.pow(3).sum().backward()
        np.testing.assert_allclose(array_of(x.grad), array_of(t.grad), rtol=1e-8, atol=1e-10)
