"""Zeros of both signs, denormal numbers, infinities, NaN, the largest and the smallest numbers, exact halves: what
primitives make of them eagerly, in a program, in large arrays and in small ones is the same to the bit."""

from __future__ import annotations

import itertools

import ml_dtypes
import numpy as np
import pytest
from test_kernels import PRIMITIVES
from test_one_meaning import assert_same_bits

import twofold as tw
import twofold.nn.functional as F
from twofold.backends.cpu.program import Program
from twofold.compiler.eager_maps import EXACT, FUNCTIONS, LARGE, arity
from twofold.compiler.pipeline import optimize
from twofold.ir.dtypes import ALL, BY_NAME, FLOATS, INTEGERS
from twofold.ir.errors import TwofoldError
from twofold.ir.evaluate import evaluate, evaluate_eagerly
from twofold.ir.graph import Graph
from twofold.ir.types import TensorType

pytestmark = pytest.mark.filterwarnings("ignore::RuntimeWarning")

REALS = [d for d in ALL if d in FLOATS | INTEGERS]


def nasty(dtype):
    """All values of a dtype that are known to make trouble."""
    if dtype.kind == "bool":
        return np.array([False, True])
    if dtype.kind in ("int", "uint"):
        info, bits = np.iinfo(dtype.numpy), 8 * dtype.itemsize
        some = {info.min, info.min + 1, -7, -2, -1, 0, 1, 2, 3, 7, bits - 1, bits, bits + 1, info.max - 1, info.max}
        return np.array(sorted(x for x in some if info.min <= x <= info.max), dtype.numpy)
    if dtype.is_complex:
        few = nasty(dtype.to_real())[[0, 1, 4, 6, 8, 10, 17, 19, -1, -2, -6, -14, -18, -19]]
        z = np.empty((few.size, few.size), dtype.numpy)
        z.real, z.imag = few[:, None], few
        return z.reshape(-1)
    info = ml_dtypes.finfo(dtype.numpy)
    least, tiny, most = (float(v) for v in (info.smallest_subnormal, info.tiny, info.max))
    near_one = [1 - float(info.epsneg), 1, 1 + float(info.eps)]
    some = [0, least, 3 * least, tiny - least, tiny, 0.5, *near_one, 1.5, 2.5, np.pi, 7, 100.25, 255, 2049]
    some += [2.0**24 + 2, 2.0**31, 2.0**52 + 0.5, 2.0**63, 2.0**64, most / 2, most, np.inf]
    return np.array([np.nan, *some, *(-x for x in some)]).astype(dtype.numpy)


def arity_of(name):
    return 2 if name == "complex" else arity(name)


def operands(name, dtype):
    """Every pair of nasty values for what takes two; without what integers can't be divided by."""
    v = nasty(dtype)
    if arity_of(name) == 1:
        return [v]
    a, b = np.repeat(v, v.size), np.tile(v, v.size)
    if dtype.kind in ("int", "uint") and name in ("floor_divide", "remainder", "fmod", "pow"):
        good = b >= 0 if name == "pow" else b != 0
        a, b = a[good], b[good]
    return [np.arange(a.size) % 2 == 0, a, b] if name == "where" else [a, b]


def params_of(name, dtype):
    if name in ("cast", "bitcast"):
        return [{"dtype": d} for d in ALL]
    return [{"n": n} for n in (0, 1, 3)] if name == "polygamma" else [{}]


def programs(cases):
    """The results of (primitive, arrays, params) in one program, a list for each."""
    graph, arrays, outs = Graph("nasty"), [], []
    for p, inputs, params in cases:
        outs.append(graph.add(p, [graph.add_input(TensorType.of(x)) for x in inputs], params))
        arrays += inputs
    graph.set_outputs([v for each in outs for v in each])
    results = iter(Program(optimize(graph))([x.copy() for x in arrays]))
    return [[next(results) for _ in each] for each in outs]


def eagerly(p, inputs, params):
    out = evaluate_eagerly(p, list(inputs), params)
    return list(out) if p.multiple else [out]


def is_taken(p, inputs, params):
    try:
        p.types([TensorType.of(x) for x in inputs], params)
    except TwofoldError:
        return False
    return True


def check(cases):
    for (p, inputs, params), want in zip(cases, programs(cases), strict=True):
        what = f"{p.name} {[str(x.dtype) for x in inputs]} {params}"
        for got, y in zip(eagerly(p, inputs, params), want, strict=True):
            assert_same_bits(got, y, what)


ELEMENTWISE = sorted({*FUNCTIONS, *EXACT, "conj", "real", "imag", "complex"})


@pytest.mark.parametrize("name", ELEMENTWISE)
def test_elementwise(name):
    p = PRIMITIVES[name]
    cases = [(p, operands(name, d), q) for d in ALL if d in p.dtypes for q in params_of(name, d)]
    cases = [case for case in cases if is_taken(*case)]
    for (_, inputs, params), (want,) in zip(cases, programs(cases), strict=True):
        what = f"{name} {inputs[-1].dtype} {params}"
        (small,) = eagerly(p, inputs, params)
        assert_same_bits(small, want, what)
        n = inputs[0].size
        (large,) = eagerly(p, [np.resize(x, LARGE + n + 5) for x in inputs], params)
        assert_same_bits(large[:n], want, f"large {what}")
        assert_same_bits(large[-5:], np.resize(large[:n], large.size)[-5:], f"the end of large {what}")


# Where NumPy's own kernels of one dtype or another take the other zero; what C leaves open is none of ours.
OTHER_ZERO = {"maximum", "minimum", "nextafter", "relu", "sign"}


@pytest.mark.parametrize("name", [name for name in EXACT if name not in ("rsqrt", "cast")])
def test_exact_results_are_numpys(name):
    p = PRIMITIVES[name]
    for dtype in [d for d in ALL if d in p.dtypes and not d.is_complex]:
        inputs = operands(name, dtype)
        for params in params_of(name, dtype):
            if is_taken(p, inputs, params):
                (got,), want = eagerly(p, inputs, params), evaluate(p, list(inputs), params)
                if name in OTHER_ZERO:
                    got, want = got + want.dtype.type(0), want + want.dtype.type(0)
                assert_same_bits(got, want, f"{name} {dtype.name} {params}")


@pytest.mark.parametrize("source", REALS, ids=lambda d: d.name)
def test_casts_in_range_are_numpys(source):
    x = nasty(source)
    for target in ALL:
        given = x
        if source.kind == "float" and target in INTEGERS:
            info = np.iinfo(target.numpy)
            wide = x.astype(np.float64)
            given = x[(wide >= info.min) & (wide < float(info.max) + (target.itemsize < 8))]
        if (source.name, target.name) != ("float64", "float16"):  # by way of float32
            (got,) = eagerly(PRIMITIVES["cast"], [given], {"dtype": target})
            assert_same_bits(got, given.astype(target.numpy), f"{source.name} to {target.name}")


def test_numbers_out_of_range():
    """What PyTorch gives on x86."""
    x = np.array([300, -1, -300, 70000, 3e9, -3e9, 1e10, 1e20, -1e20, np.inf, -np.inf, np.nan])
    low = {32: -(2**31), 64: -(2**63)}
    for name, bits in (("int8", 32), ("uint8", 32), ("int16", 32), ("int32", 32), ("int64", 64), ("uint32", 64)):
        numbers = [int(v) if abs(v) < -low[bits] else low[bits] for v in x]
        expected = np.array(numbers).astype(name)
        for dtype in ("float32", "float64"):
            for n in (x.size, LARGE + 3):
                got = evaluate_eagerly(
                    PRIMITIVES["cast"], [np.resize(x, n).astype(dtype)], {"dtype": BY_NAME[name]}
                )
                np.testing.assert_array_equal(got[: x.size], expected, err_msg=f"{dtype} to {name}")


# --- reductions, orders, windows -------------------------------------------------------------------


def matrix(dtype, rng, *shape):
    """Nasty values in every order, with everyday ones between and ties."""
    return rng.choice(nasty(dtype), shape)


REDUCING = [
    *[(name, {"dims": d, "keepdim": k}) for name in ("sum", "prod", "amax", "amin") for d, k in
      (((0,), False), ((1,), True), ((0, 1), False))],
    *[(name, {"dim": d, "keepdim": False}) for name in ("argmax", "argmin") for d in (0, 1)],
    *[(name, {"dim": d}) for name in ("cumsum", "cumprod", "cummax", "cummin") for d in (0, 1)],
    *[("sort", {"dim": d, "descending": up}) for d in (0, 1) for up in (False, True)],
    *[("topk", {"dim": 1, "k": 5, "largest": up}) for up in (False, True)],
]  # fmt: skip


@pytest.mark.parametrize("name", sorted({name for name, _ in REDUCING}))
def test_reductions_and_orders(name):
    rng, p = np.random.default_rng(0), PRIMITIVES[name]
    cases = []
    for dtype in [d for d in ALL if d in p.dtypes]:
        for shape in ((3, 7), (40, 33)) if name not in ("prod", "cumprod") else ((3, 7), (5, 33)):
            x = matrix(dtype, rng, *shape)
            finite = np.where(np.isfinite(x.astype(np.complex64)), x, x.dtype.type(1)) if dtype.kind != "int" else x
            cases += [(p, [y], q) for n, q in REDUCING if n == name for y in (x, finite.astype(x.dtype))]
    check(cases)


def test_chosen_and_scattered():
    rng = np.random.default_rng(0)
    index = rng.integers(0, 9, (40, 6))
    reduced = [
        {"dim": 0, "reduce": r, "include_self": s} for r in ("sum", "prod", "amax", "amin") for s in (True, False)
    ]
    cases = []
    for dtype in REALS:
        x, src = matrix(dtype, rng, 9, 6), matrix(dtype, rng, 40, 6)
        cases += [(PRIMITIVES["scatter_reduce"], [x, index, src], q) for q in reduced]
        cases.append((PRIMITIVES["scatter_add"], [x, index, src], {"dim": 0}))
        row = src[:, 0] if dtype in INTEGERS else src[:, 0].astype(np.float64)  # NumPy sorts no NaN of bfloat16
        cases.append((PRIMITIVES["searchsorted"], [np.sort(row).astype(src.dtype), x], {"right": False}))
        if dtype in FLOATS:
            window = {"kernel": (2, 3), "stride": (1, 2), "padding": ((1, 0), (1, 1)), "dilation": (1, 1)}
            image = matrix(dtype, rng, 2, 3, 6, 9)
            cases += [(PRIMITIVES[name], [image], window) for name in ("max_pool", "sum_pool")]
    check([case for case in cases if is_taken(*case)])


def test_products_of_matrices():
    rng = np.random.default_rng(0)
    cases = []
    for dtype in [d for d in ALL if d in PRIMITIVES["matmul"].dtypes]:
        for m, k, n in ((1, 1, 1), (3, 5, 2), (17, 4, 33)):
            for values in (nasty(dtype), nasty(dtype)[1:8]):
                a, b = (rng.choice(values, shape) for shape in ((m, k), (k, n)))
                cases.append((PRIMITIVES["matmul"], [a, b], {}))
    check(cases)


# --- shapes and strides ----------------------------------------------------------------------------


STRIDED = {
    "reversed": lambda v, n: np.resize(v, (3, n))[:, ::-1],
    "every third": lambda v, n: np.resize(v, (3, 3 * n))[:, ::3],
    "columns": lambda v, n: np.resize(v, (n, 3)).T,
    "rows from the end": lambda v, n: np.resize(v, (3, n))[::-1],
    "far apart": lambda v, n: np.resize(v, (3, 70001))[:, :n],
    "one for all": lambda v, n: np.broadcast_to(v[-3:, None], (3, n)),
    "a number": lambda v, n: v[1:2].reshape(()),
    "nothing": lambda v, n: v[:0].reshape(3, 0),
}


@pytest.mark.parametrize("how", STRIDED)
@pytest.mark.parametrize("dtype", ["float32", "bfloat16", "int8", "complex64"])
def test_strides(how, dtype):
    """Views of every kind give what their copies give."""
    names = ["add", "mul", "eq", "abs"]
    names += {"int8": [], "complex64": ["exp"]}.get(dtype, ["exp", "atan2", "sqrt"])
    reduced = ["sum"] if dtype == "complex64" else ["sum", "amax"]
    for n in (5, LARGE // 3 + 7):
        x = STRIDED[how](nasty(BY_NAME[dtype]), n)
        cases = [(name, [x] * arity_of(name), {}) for name in names]
        if x.ndim:
            cases += [(name, [x], {"dims": (0,), "keepdim": False}) for name in reduced]
        for name, inputs, params in cases:
            copies = [x.copy() for x in inputs]
            got, want = (eagerly(PRIMITIVES[name], v, params)[0] for v in (inputs, copies))
            assert_same_bits(got, want, f"{name} {how}")


@pytest.mark.parametrize("shapes", [((), ()), ((0,), (1,)), ((2, 0, 3), (3,)), ((1, 1), ()), ((3, 1), (1, 4))])
def test_small_shapes(shapes):
    rng = np.random.default_rng(0)
    cases = []
    for name, dtype in itertools.product(ELEMENTWISE, ("float32", "int32", "complex64", "bool")):
        p, d = PRIMITIVES[name], BY_NAME[dtype]
        arrays = [np.asarray(rng.choice(nasty(d), s)) for s in shapes[: arity_of(name)]]
        if name in ("floor_divide", "remainder", "fmod", "pow") and dtype == "int32":
            arrays[1] = np.where(arrays[1] > 0, arrays[1], np.int32(3))
        if name == "where":
            arrays.insert(0, np.asarray(rng.random(shapes[0]) < 0.5))
        cases += [(p, arrays, q) for q in params_of(name, d) if d in p.dtypes and is_taken(p, arrays, q)]
    check(cases)


def _with_number(x, y):
    """What takes a Python number beside a tensor; None where it is refused."""
    made = []
    for f in (
        lambda: x + y, lambda: y - x, lambda: x * y, lambda: x < y, lambda: x == y, lambda: x**y, lambda: x / y,
        lambda: x.clamp(max=y), lambda: tw.where(x == x, y, x), lambda: tw.full_like(x, y),
        lambda: x.clone().fill_(y), lambda: x.clone().add_(y), lambda: x.masked_fill(x > 1, y),
        lambda: F.pad(x, (1, 2), value=y),
    ):  # fmt: skip
        try:
            made.append(f())
        except TwofoldError:
            made.append(None)
    return made


@pytest.mark.parametrize("dtype", ["uint8", "int16", "int64", "float16", "bfloat16", "float64", "complex64"])
def test_python_numbers(dtype):
    numbers = (-1, 3, 300, 2**31, -(2**40), 0.5, -0.0, 1e10, 1e39, 1e-45, 1e-310, np.inf, -np.inf, np.nan, 2 + 1j)
    x = tw.from_numpy(nasty(BY_NAME[dtype])[:12])
    want = [_with_number(x, y) for y in numbers]
    got = tw.compile(lambda x: [_with_number(x, y) for y in numbers])(x)
    for y, a, b in zip(numbers, want, got, strict=True):
        for i, (e, g) in enumerate(zip(a, b, strict=True)):
            assert (e is None) is (g is None), f"{dtype} {y}, number {i}"
            if e is not None:
                assert_same_bits(g.numpy(), e.numpy(), f"{dtype} {y}, number {i}")
