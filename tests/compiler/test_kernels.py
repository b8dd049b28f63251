"""Every primitive on its samples, compiled, against the NumPy reference."""

from __future__ import annotations

import functools
import math
import sys
from pathlib import Path

import numpy as np
import pytest
import scipy.special

sys.path.insert(0, str(Path(__file__).resolve().parent.parent / "ops"))
from op_harness import CASES, NAMES, PRIMITIVES, is_array, samples

from twofold.backends.cpu import team
from twofold.backends.cpu.lowering import Lowering
from twofold.backends.cpu.program import Program
from twofold.backends.cpu.target import host
from twofold.compiler.compile import optimize
from twofold.compiler.passes import canonicalize, prune, split
from twofold.ir.dtypes import BY_NAME
from twofold.ir.errors import OutOfBoundsError, TwofoldError
from twofold.ir.evaluate import evaluate
from twofold.ir.graph import Graph
from twofold.ir.types import TensorType

# Their nodes hold graphs, or have results whose shapes depend on values: never part of a program.
NOT_KERNELS = {"cond", "while_loop", "scan", "nonzero"} & set(NAMES)

# relative tolerance against the reference, in units in the last place; others must be equal
ULPS = {"float16": 1, "bfloat16": 1, "float32": 4, "float64": 8}


def build(name):
    """A graph with a node for each sample of a primitive: the arguments, and what they should give."""
    p = PRIMITIVES[name]
    graph = Graph(name)
    arguments: list = []
    expected: list = []
    outputs: list = []
    for dtype in [d for n, d in CASES if n == name]:
        for sample in samples(p, BY_NAME[dtype]):
            arrays = [x for x in sample.inputs if is_array(x)]
            inputs = []
            for x in sample.inputs:
                if is_array(x):
                    arguments.append(np.array(x, order="C"))
                    inputs.append(graph.add_input(TensorType.of(x)))
                else:
                    inputs.append(graph.constant(x, arrays[-1].dtype))
            results = evaluate(p, list(sample.inputs), sample.params)
            expected.extend(results if p.multiple else (results,))
            outputs.extend(graph.add(p, inputs, sample.params))
    graph.set_outputs(outputs)
    return graph, arguments, expected


@functools.cache
def compiled(name):
    graph, arguments, expected = build(name)
    return Program(prune(canonicalize(split(graph)))), arguments, expected


# Sums of several terms: errors are units of the largest result, not of each.
SUMS = {
    "matmul", "conv", "conv_input_grad", "conv_weight_grad", "conv_last", "conv_last_input_grad",
    "conv_last_weight_grad", "sum_pool_last", "sum_pool_last_grad", "max_pool_last_grad",
    "sum", "sum_pool", "sum_pool_grad", "index_put", "scatter_add", "scatter_reduce", "cumsum",
    "rnn", "rnn_grad", "lstm", "lstm_grad", "gru", "gru_grad",
}  # fmt: skip

# The sign of a zero result is not the same in NumPy's own loops for different dtypes.
ANY_ZERO = {"maximum", "minimum", "nextafter", "relu", "sign"}


def check(name, got, expected, ulps, text):
    assert (got.shape, got.dtype) == (expected.shape, expected.dtype), text
    modulus, any_zero = None, name in ANY_ZERO
    if (
        got.dtype.kind == "c"
    ):  # an error of a part counts in units of the whole, and so may make a zero of either sign
        part = np.dtype(f"f{got.dtype.itemsize // 2}")
        with np.errstate(all="ignore"):
            modulus = np.repeat(np.abs(expected).reshape(-1), 2)
        got, expected = (np.array(x).reshape(-1).view(part) for x in (got, expected))
        ulps, any_zero = ULPS[part.name], any_zero or name in ("mul", "div", "pow")
        ulps *= 4 if name == "pow" else 1  # NumPy multiplies in complex64
    if got.dtype.kind in "biu" or not ulps:
        np.testing.assert_array_equal(got, expected, err_msg=text)
        return
    with np.errstate(all="ignore"):
        scale = expected if modulus is None else modulus
        if name in SUMS and expected.size:
            scale = np.nanmax(np.abs(np.where(np.isfinite(expected), expected, 0))).astype(expected.dtype)
        unit = np.abs(np.spacing(scale)).astype(np.float64)
        a, b = (np.asarray(x, np.float64) for x in (got, expected))
        good = (a == b) | (np.isnan(a) & np.isnan(b)) | (np.abs(a - b) <= ulps * unit)
    signs = any_zero | (a != 0) | (b != 0) | (np.signbit(a) == np.signbit(b))
    assert np.all(good & signs), f"{text}: got {a[~(good & signs)]}, expected {b[~(good & signs)]}"


@pytest.mark.parametrize("name", [n for n in NAMES if n not in NOT_KERNELS])
def test_results_are_those_of_the_reference(name):
    program, arguments, expected = compiled(name)
    got = program([a.copy() for a in arguments])
    values = program.graph.outputs
    for value, g, e in zip(values, got, expected, strict=True):
        check(name, g, e, ULPS.get(value.dtype.name, 0), f"{value.node} {e.shape}")


def test_equal_for_any_number_of_threads():
    """One program of all kinds of kernels, each with several chunks."""
    program, arguments, _ = large_program()
    results = []
    try:
        for count in (1, 2, 3):
            team.set_num_threads(count)
            results.append([r.tobytes() for r in program([a.copy() for a in arguments])])
    finally:
        team.set_num_threads(team.usable_cpus())
    assert results[0] == results[1] == results[2]


# --- larger inputs: several chunks, whole vectors, transposed squares ---------------------------

F = np.random.default_rng(0).standard_normal


def f32(*shape):
    return F(shape).astype(np.float32)


def places(high, *shape):
    return np.random.default_rng(1).integers(-high, high, shape)


def large_cases():
    """name, arrays, params"""
    x = f32(40, 70)
    yield "concat", [f32(300, 37), f32(300, 64), f32(300, 5)], {"dim": 1}
    yield "concat", [f32(3000, 3), f32(2000, 3)], {"dim": 0}
    yield "pad", [f32(9, 33, 65)], {"low": (1, 2, 3), "high": (0, 1, 70), "value": 2.5}
    yield "pad", [F(20000)], {"low": (3,), "high": (9000,), "value": -0.0}
    yield "update_slice", [x, f32(13, 35)], {"start": (38, 1), "stop": (-1, 71), "step": (-3, 2)}
    yield "update_diagonal", [x, f32(40)], {"offset": 3, "dim1": 0, "dim2": 1}
    yield "full", [], {"shape": (123, 457), "value": 7, "dtype": BY_NAME["int16"]}
    yield "iota", [], {"size": 20011, "dtype": BY_NAME["float32"]}
    yield "random_bits", [np.array([2**63 + 12345, 2**32 - 100], np.uint64)], {"shape": (20011,)}
    yield "gather", [x, places(70, 33, 555)], {"dim": 1}
    yield "gather", [f32(300, 4, 5), places(300, 3000, 2, 5)], {"dim": 0}
    yield "index", [f32(500, 128), places(500, 64, 33)], {"dims": (0,)}
    yield "index", [f32(30, 500, 3), places(500, 900)], {"dims": (1,)}
    yield "index", [f32(20, 30, 40, 5), places(20, 6, 1), places(40, 1, 7)], {"dims": (0, 2)}
    yield "index_put", [f32(50, 128), f32(600, 128), places(50, 600)], {"dims": (0,), "accumulate": True}
    yield "index_put", [f32(50, 128), f32(600, 128), places(50, 600)], {"dims": (0,), "accumulate": False}
    yield "index_put", [f32(100), f32(9000), places(100, 9000)], {"dims": (0,), "accumulate": True}
    yield (
        "index_put",
        [F((9, 40, 11)), F((300, 40)), places(9, 300), places(11, 300)],
        {"dims": (0, 2), "accumulate": True},
    )
    yield "index_put", [f32(70, 45), f32(), places(70, 200)], {"dims": (0,), "accumulate": False}
    yield "scatter", [x, places(70, 35, 300), f32(40, 301)], {"dim": 1}
    yield "scatter_add", [x, places(40, 900, 66), f32(900, 70)], {"dim": 0}
    yield "scatter_add", [f32(77), places(77, 20000), f32(20000)], {"dim": 0}
    for reduce in ("sum", "prod", "amax", "amin"):
        params = {"dim": 0, "reduce": reduce, "include_self": reduce == "amax"}
        yield "scatter_reduce", [f32(40, 6), places(40, 90, 6), f32(90, 6)], params
    for dtype in ("int64", "int32", "uint8"):
        a, b = ((places(100, *shape) % 50 + 1).astype(dtype) for shape in ((41, 503), (1, 503)))
        for name in ("floor_divide", "remainder", "fmod", "pow"):
            yield name, [a, b % np.asarray(7, dtype) if name == "pow" else b], {}
            yield name, [-a, a[:, ::-1].copy()], {}
            yield name, [a.reshape(-1), np.array([3], dtype)], {}
    for shape, dim in (((5000,), 0), ((3, 900), 1), ((300, 7, 2), 0), ((40, 33), 1), ((9, 64, 5), 1)):
        ties = np.round(F(shape) * 9)
        ties[ties == 7] = np.nan
        ties[ties == 0] *= np.where(F(np.sum(ties == 0)) < 0, -1, 1)
        for dtype in ("float32", "float64", "float16", "int64", "uint8"):
            a = (ties if dtype[0] == "f" else np.nan_to_num(ties) * (1 if dtype == "uint8" else 2**37)).astype(
                dtype
            )
            for up in (False, True):
                yield "sort", [a], {"dim": dim, "descending": up}
                for k in (shape[dim] // 2, shape[dim] // 64, 1):
                    yield "topk", [a], {"dim": dim, "k": k, "largest": up}
            row = np.sort(a.reshape(-1)[:777])
            yield "searchsorted", [row, a], {"right": bool(dim)}
            yield "searchsorted", [np.sort(a, axis=-1), a], {"right": not dim}
    for dim in (0, 1, 2):
        y = np.round(f32(30, 41, 70) * 2)
        y[3, 5, 7] = y[20, 30, 60] = np.nan
        for name in ("argmax", "argmin"):
            yield name, [y], {"dim": dim, "keepdim": False}
            yield name, [np.nan_to_num(y).astype(np.int8)], {"dim": dim, "keepdim": True}
        for name in ("cumsum", "cumprod", "cummax", "cummin"):
            yield name, [y], {"dim": dim}


def make_graph(cases):
    """A graph of the cases, its arguments, and for every output the case's number."""
    graph = Graph("cases")
    arguments: list = []
    outputs: list = []
    for name, arrays, params in cases:
        arguments += arrays
        outputs += graph.add(PRIMITIVES[name], [graph.add_input(TensorType.of(a)) for a in arrays], params)
    graph.set_outputs(outputs)
    return graph, arguments


@functools.cache
def large_program():
    cases = list(large_cases())
    graph, arguments = make_graph(cases)
    return Program(graph), arguments, cases


def test_large_inputs():
    program, arguments, cases = large_program()
    assert "numpy" not in program.kernels()
    got = iter(program(arguments))
    for name, arrays, params in cases:
        p = PRIMITIVES[name]
        expected = evaluate(p, arrays, params)
        for e in expected if p.multiple else (expected,):
            g = next(got)
            wider = 64 if name in SUMS else 0
            check(name, g, e, wider, f"{name} {[a.shape for a in arrays]} {params}")


@pytest.mark.parametrize("dtype", ["float32", "float64", "int8", "float16"])
def test_copies_of_strided_views(dtype):
    """Transposed squares and odd strides, through a reshape that can't be a view."""
    x = (F((35, 3, 51, 18)) * 9).astype(dtype)
    graph = Graph("copies")
    value = graph.add_input(TensorType.of(x))
    expected: list = []
    outputs: list = []
    for dims in ((0, 1, 3, 2), (3, 2, 1, 0), (1, 3, 0, 2), (2, 0, 1, 3)):
        (y,) = graph.add(PRIMITIVES["permute"], [value], {"dims": dims})
        outputs += graph.add(PRIMITIVES["reshape"], [y], {"shape": (x.size,)})
        expected.append(x.transpose(dims).reshape(-1))
    graph.set_outputs(outputs)
    program = Program(graph)
    assert "numpy" not in program.kernels()
    for g, e in zip(program([x]), expected, strict=True):
        np.testing.assert_array_equal(g, e)


# --- accuracy of functions over the whole range ----------------------------------------------------

NUMPY_NAMES = {"asin": "arcsin", "acos": "arccos", "atan": "arctan", "asinh": "arcsinh", "acosh": "arccosh",
               "atanh": "arctanh", "atan2": "arctan2"}  # fmt: skip
FUNCTIONS = [
    "exp", "log", "tanh", "expm1", "log1p", "sin", "cos", "tan", "asin", "acos", "atan", "sinh", "cosh", "asinh",
    "acosh", "atanh", "atan2",
]  # fmt: skip


def all_magnitudes(dtype, seed):
    """Numbers with random bits, numbers of everyday size, and special ones."""
    rng, info = np.random.default_rng(seed), np.finfo(dtype)
    some = rng.integers(0, 256, 3000 * info.bits // 8, dtype=np.uint8).view(dtype)
    special = [0, -0.0, 1, -1, np.inf, -np.inf, np.nan, info.tiny, info.smallest_subnormal, info.max, 2**30, 1e22]
    halves = np.arange(1, 200) * (np.pi / 2)
    parts = [some, rng.standard_normal(2000) * 3, rng.uniform(-1, 1, 2000), halves, special]
    return rng.permutation(np.concatenate([np.asarray(p, dtype) for p in parts]))


# Of float32, these are computed in float32 (test_single.py has their errors); the others in float64, and rounded.
SINGLE = {"exp", "log", "tanh", "expm1", "log1p", "sin", "cos"}


@pytest.mark.parametrize("dtype", ["float32", "float64"])
def test_accuracy(dtype):
    """float32 against NumPy's float64, which is as good as exact; float64 against it up to both errors."""
    x, y = all_magnitudes(dtype, 0), all_magnitudes(dtype, 1)
    cases = [(name, [x, y] if name == "atan2" else [x], {}) for name in FUNCTIONS]
    graph, arguments = make_graph(cases)
    program = Program(graph)
    assert "numpy" not in program.kernels()
    for (name, arrays, _), got in zip(cases, program(arguments), strict=True):
        with np.errstate(all="ignore"):
            exact = getattr(np, NUMPY_NAMES.get(name, name))(*[a.astype(np.float64) for a in arrays])
            rounded = exact.astype(dtype)
            unit = np.abs(np.spacing(rounded)).astype(np.float64)
            error = np.abs(got.astype(np.float64) - exact) / unit
        same = (got == rounded) | (np.isnan(got) & np.isnan(rounded))
        most = 4 if dtype == "float64" else 1.9 if name in SINGLE else 0.55
        bad = ~(same | (error <= most))
        assert not bad.any(), f"{name}: {[a[bad] for a in arrays]} gave {got[bad]}, expected {exact[bad]}"
        zero = rounded == 0
        np.testing.assert_array_equal(np.signbit(got[zero]), np.signbit(rounded[zero]), err_msg=name)


def special_arguments(dtype):
    rng = np.random.default_rng(0)
    parts = [
        rng.uniform(-20, 20, 400),
        rng.uniform(0, 3, 200),
        10 ** rng.uniform(-30, 30, 200),
        -(10 ** rng.uniform(-20, 3, 100)),
        np.arange(-5, 40),
        [-0.0, np.inf, -np.inf, np.nan, 1e-45, 170.6, 2.0**60],
    ]
    return np.concatenate(parts).astype(dtype)


@pytest.mark.parametrize("dtype", ["float32", "float64"])
def test_accuracy_of_special_functions(dtype):
    """float32 is the nearest number or almost; float64 is near SciPy's, relatively or, at roots, absolutely."""
    x, y = special_arguments(dtype), np.random.default_rng(1).uniform(-1, 1, 500).astype(dtype)
    y = np.concatenate(
        [y, y * np.asarray(1e-30, dtype), (1 - np.abs(y) * 1e-6), [0, -0.0, 1, -1, 2, np.nan]]
    ).astype(dtype)
    cases = [("lgamma", [x], {}), ("digamma", [x], {}), ("erfinv", [y], {})]
    cases += [("polygamma", [x], {"n": n}) for n in (0, 1, 2, 5)]
    exact = {
        "lgamma": lambda x, **_: scipy.special.gammaln(x),
        "digamma": lambda x, **_: scipy.special.digamma(x),
        "erfinv": lambda x, **_: scipy.special.erfinv(x),
        "polygamma": lambda x, n: (
            scipy.special.polygamma(n, x) if n == 0 else PRIMITIVES["polygamma"].numpy(x, n=n)
        ),
    }
    graph, arguments = make_graph(cases)
    program = Program(graph)
    assert "numpy" not in program.kernels()
    for (name, (a,), params), got in zip(cases, program(arguments), strict=True):
        with np.errstate(all="ignore"):
            e = exact[name](a.astype(np.float64), **params)
            rounded = e.astype(dtype)
            poles = (a <= 0) & (np.floor(a) == a) & (name != "erfinv")  # SciPy has others
            error = np.abs(got.astype(np.float64) - e)
            unit = np.abs(np.spacing(rounded)).astype(np.float64)
            near = error <= (0.55 * unit if dtype == "float32" else 12 * unit + 3e-15 * (name != "erfinv"))
            if name != "erfinv" and dtype == "float64":  # where SciPy errs too
                near |= (a < 0) & (error <= 1e-12 * np.abs(1 + e))
        bad = ~poles & ~(near | (got == rounded) | (np.isnan(got) & np.isnan(rounded)))
        assert not bad.any(), f"{name} {params}: {a[bad]} gave {got[bad]}, expected {e[bad]}"
    at_poles = np.array([0.0, -0.0, -1, -2, -np.inf], dtype)
    graph, arguments = make_graph([("digamma", [at_poles], {}), ("lgamma", [at_poles], {})])
    digamma, lgamma = Program(graph)(arguments)
    np.testing.assert_array_equal(digamma, np.array([-np.inf, np.inf, np.nan, np.nan, np.nan], dtype))
    np.testing.assert_array_equal(lgamma, np.full(5, np.inf, dtype))


def test_accuracy_of_float64_powers():
    rng = np.random.default_rng(0)
    x = np.concatenate(
        [10 ** rng.uniform(-300, 300, 2000), rng.uniform(0.5, 2, 2000), 1 + rng.standard_normal(1000) * 1e-5]
    )
    y = np.concatenate([rng.uniform(-1, 1, 2000), rng.uniform(-900, 900, 2000), rng.uniform(-1e6, 1e6, 1000)])
    special = np.array([0, -0.0, 1, -1, 2, -2, 0.5, -0.5, 3, -3, np.inf, -np.inf, np.nan, 5e-324, 1e308])
    a, b = (v.reshape(-1) for v in np.meshgrid(special, special))
    x, y = np.concatenate([x, a]), np.concatenate([y, b])
    graph, arguments = make_graph([("pow", [x, y], {})])
    program = Program(graph)
    assert "numpy" not in program.kernels()
    (got,) = program(arguments)
    with np.errstate(all="ignore"):
        expected = np.power(x, y)
        good = (got == expected) & (np.signbit(got) == np.signbit(expected)) | (np.isnan(got) & np.isnan(expected))
        good |= np.abs(got - expected) <= 2 * np.spacing(np.abs(expected))
    assert good.all(), f"{x[~good]} to {y[~good]} gave {got[~good]}, expected {expected[~good]}"


# --- what kernels find wrong ----------------------------------------------------------------------


@pytest.mark.parametrize(
    ("name", "arrays", "params"),
    [
        ("index", [f32(5, 3), np.array([0, 4, -6, 7])], {"dims": (0,)}),
        ("gather", [f32(5, 3), np.full((5, 2), 3)], {"dim": 1}),
        ("scatter", [f32(5, 3), np.full((2, 3), -6), f32(2, 3)], {"dim": 0}),
        ("scatter_add", [f32(5, 3), np.full((2, 3), 5), f32(2, 3)], {"dim": 0}),
        ("index_put", [f32(5, 3), f32(), np.array([2]), np.array([3])], {"dims": (0, 1)}),
    ],
)
def test_indices_out_of_range(name, arrays, params):
    with pytest.raises(OutOfBoundsError) as expected:
        evaluate(PRIMITIVES[name], arrays, params)
    graph, arguments = make_graph([(name, arrays, params)])
    program = Program(graph)
    assert "numpy" not in program.kernels()
    with pytest.raises(OutOfBoundsError) as got:
        program(arguments)
    assert got.value.message.startswith(expected.value.message)
    assert (got.value.op, got.value.hint) == (expected.value.op, expected.value.hint)
    good = [a if a.dtype != np.int64 else np.zeros_like(a) for a in arguments]
    np.testing.assert_array_equal(program(good)[0], evaluate(PRIMITIVES[name], good, params))


@pytest.mark.parametrize("name", ["floor_divide", "remainder", "fmod", "pow"])
@pytest.mark.parametrize("shape", [(3,), (), (40, 300)])
def test_operands_that_integers_do_not_take(name, shape):
    x = np.arange(5, 5 + math.prod(shape)).reshape(shape)
    y = np.ones_like(x)
    y[(-1,) * len(shape)] = -1 if name == "pow" else 0
    with pytest.raises(TwofoldError) as expected:
        evaluate(PRIMITIVES[name], [x, y], {})
    graph, arguments = make_graph([(name, [x, y], {})])
    program = Program(graph)
    assert "numpy" not in program.kernels()
    with pytest.raises(type(expected.value)) as got:
        program(arguments)
    assert got.value.message.startswith(expected.value.message)
    assert (got.value.op, got.value.hint) == (expected.value.op, expected.value.hint)
    np.testing.assert_array_equal(program([x, np.ones_like(y)])[0], evaluate(PRIMITIVES[name], [x, x * 0 + 1], {}))


# --- who calls the reference ------------------------------------------------------------------------

# What has samples that are still computed by NumPy: nothing, and so it shall stay.
ON_THE_REFERENCE: set[str] = set()


def test_what_the_reference_computes():
    """All samples of all primitives in all dtypes: which have a step that calls NumPy."""
    found = set()
    for name in NAMES:
        if name not in NOT_KERNELS:
            lowering = Lowering(optimize(build(name)[0]), host(), {})
            lowering.run()
            found |= {name for step in lowering.steps if step.kind == "numpy"}
    assert found == ON_THE_REFERENCE
