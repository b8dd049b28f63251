"""Eager element-wise operations: the bits of compiled programs at every size, and no code for new shapes."""

import numpy as np
import pytest
from turns import on_threads

import twofold as tw
from twofold.backends.cpu import jit, maps, registers
from twofold.backends.cpu.maps import Map
from twofold.backends.cpu.target import AVX2, SSE2
from twofold.compiler import eager_maps
from twofold.compiler.single import program_of
from twofold.ir.dtypes import BY_NAME, FLOATS, FROM_NUMPY, bool_
from twofold.ir.evaluate import value_types
from twofold.ir.primitive import PRIMITIVES

FLOATING = ("float32", "float64", "float16", "bfloat16")
DTYPES = (*FLOATING, "int32", "int64", "uint8", "bool")
NAMES = sorted((*eager_maps.FUNCTIONS, *eager_maps.EXACT))
SPECIAL = (0.0, -0.0, np.inf, -np.inf, np.nan, 1, -1, 1e-40, 6e-8, 3e38, 0.5, 2.5)
SIZES = (0, 1, 15, 16, 17, 31, 32, 33, 1000)


def numbers(name, shape, seed=0):
    rng, dtype = np.random.default_rng(seed), BY_NAME[name]
    if dtype is bool_:
        return rng.random(shape) < 0.5
    if dtype not in FLOATS:
        return rng.integers(0 if dtype.kind == "uint" else -9, 9, shape).astype(dtype.numpy)
    x = rng.normal(size=shape) * np.exp(4 * rng.normal(size=shape))
    with np.errstate(over="ignore"):
        return np.where(rng.random(shape) < 0.2, rng.choice(SPECIAL, shape), x).astype(dtype.numpy)


def same(a, b):
    """Equal bits, where NaN is NaN."""
    assert (a.dtype, a.shape) == (b.dtype, b.shape)
    if a.dtype in FROM_NUMPY and FROM_NUMPY[a.dtype] in FLOATS:
        nan = np.isnan(b)
        np.testing.assert_array_equal(np.isnan(a), nan)
        bits = f"u{a.dtype.itemsize}"
        a, b = (np.where(nan, 0, np.ascontiguousarray(x).reshape(b.shape).view(bits)) for x in (a, b))
    np.testing.assert_array_equal(a, b)


def compiled(name, values, params):
    types = value_types(values)
    arrays = [np.asarray(v, t.dtype.numpy, order="C") for v, t in zip(values, types, strict=True)]
    (out,) = program_of(PRIMITIVES[name], types, params)(arrays)
    return out


def check(name, values, params):
    run = eager_maps.Maps(PRIMITIVES[name]).run
    same(np.asarray(run(*values, **params)), compiled(name, values, params))


def params_of(name, dtype):
    if name == "polygamma":
        return [{"n": 0}, {"n": 2}]
    if name == "cast":
        return [{"dtype": BY_NAME[d]} for d in DTYPES if dtype not in FLOATING or d in (*FLOATING, "bool")]
    if name == "bitcast":
        size = BY_NAME[dtype].itemsize
        return [{"dtype": BY_NAME[d]} for d in DTYPES if BY_NAME[d].itemsize == size and d != "bool"]
    return [{}]


def operands(name, dtype, shapes):
    """Arrays for a primitive; None if it does not take the dtype."""
    values = [numbers("bool" if name == "where" and not i else dtype, s, i) for i, s in enumerate(shapes)]
    if name in ("floor_divide", "remainder", "fmod", "shift_left", "shift_right", "pow") and dtype not in FLOATING:
        if dtype == "bool":
            return None
        values[1] = np.abs(values[1]) + values[1].dtype.type(1)
    return values if BY_NAME[dtype] in PRIMITIVES[name].dtypes else None


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("name", NAMES)
def test_bits_are_those_of_compiled_programs(name, dtype):
    values = operands(name, dtype, [(eager_maps.LARGE + 7,)] * eager_maps.arity(name))
    if values is None:
        return
    run = eager_maps.Maps(PRIMITIVES[name]).run
    for params in params_of(name, dtype):
        want = compiled(name, values, params)
        same(np.asarray(run(*values, **params)), want)
        same(np.asarray(run(*[v[:33] for v in values], **params)), want[:33])


SHAPES = [
    ((), (7,)), ((7,), ()), ((), ()), ((1,), ()), ((4, 5), (5,)), ((4, 5), (4, 1)), ((4, 1), (1, 5)),
    ((2, 3, 4, 5), (1, 3, 1, 1)), ((2, 3, 4, 5), (2, 1, 4, 1)), ((2, 3, 4, 5), (3, 1, 5)), ((0, 3), (3,)),
    ((200, 300), (300,)), ((200, 300), (200, 1)), ((3, 20000), (3, 1)), ((20000, 3), (3,)), ((3, 8192), (3, 1)),
    ((3, 8191), (8191,)), ((2, 1, 3, 1, 5, 1), (1, 2, 1, 4, 1, 5)),
]  # fmt: skip


@pytest.mark.parametrize("shapes", SHAPES, ids=str)
@pytest.mark.parametrize("name", ["atan2", "maximum"])
def test_operands_of_any_layout_broadcast(name, shapes):
    dtype = "float32" if name == "atan2" else "float16"
    a, b = (numbers(dtype, s, i) for i, s in enumerate(shapes))
    layouts = [a, np.asfortranarray(a)]
    if a.ndim:
        layouts += [np.repeat(a, 2, -1)[..., ::2], a[::-1], a[..., ::-1]]
    for x in layouts:
        check(name, (x, b), {})
        check(name, (b, x), {})


@pytest.mark.parametrize("name", ["exp", "tanh", "relu"])
@pytest.mark.parametrize("dtype", FLOATING)
def test_functions_at_every_size(name, dtype):
    run = eager_maps.Maps(PRIMITIVES[name]).run
    whole = numbers(dtype, (3 * 8192 + 5,))
    want = compiled(name, [whole], {})
    for n in (*SIZES, 8191, 8192, 8193, 16384, 16385, whole.size):
        same(run(whole[:n]), want[:n])
        same(run(whole[:n].reshape(-1, 1)), want[:n].reshape(-1, 1))
        same(run(whole[::-1][:n]), want[::-1][:n])


def test_python_numbers():
    x = numbers("float32", (50,))
    for n in (-1, 0.5, 0, 1, 2, 3, 4, 5, -2, 2.5):
        same((tw.tensor(x) ** n).numpy(), tw.compile(lambda x, n=n: x**n)(tw.tensor(x)).numpy())
    half = tw.tensor(numbers("float16", (50,)))
    same((half**3).numpy(), tw.compile(lambda x: x**3)(half).numpy())
    same((2.5 ** tw.tensor(x)).numpy(), tw.compile(lambda x: 2.5**x)(tw.tensor(x)).numpy())


def test_new_shapes_compile_nothing(monkeypatch):
    run, binary = eager_maps.Maps(PRIMITIVES["exp"]).run, eager_maps.Maps(PRIMITIVES["atan2"]).run
    x = numbers("float32", (100, 200))
    run(x), binary(x, x), binary(x, x[0]), run(numbers("float32", (400, 200)))

    def refuse(*_):
        raise AssertionError("code is made")

    monkeypatch.setattr(jit, "object_codes", refuse)
    for shape in [(), (1,), (3,), (2, 3, 4), (17, 1, 9), (40_000,), (300, 200), (1, 9, 100, 100)]:
        run(np.ones(shape, np.float32)), binary(np.ones(shape, np.float32), np.ones(shape, np.float32))
    for rows, columns in ((2, 3), (500, 300), (70_000, 2), (2, 70_000)):
        binary(np.ones((rows, columns), np.float32), np.ones(columns, np.float32))


def test_bits_do_not_depend_on_threads():
    x, b = numbers("float32", (300, 301)), numbers("float32", (301,))
    run, binary = eager_maps.Maps(PRIMITIVES["tanh"]).run, eager_maps.Maps(PRIMITIVES["atan2"]).run
    want = compiled("tanh", [x], {}), compiled("atan2", [x, b], {})
    before = tw.get_num_threads()
    try:
        for threads in (1, 2, 4):
            tw.set_num_threads(threads)
            same(run(x), want[0])
            same(binary(x, b), want[1])
    finally:
        tw.set_num_threads(before)


OTHERS = [target for target in (AVX2, SSE2) if target.runs_here]


@pytest.mark.parametrize("target", OTHERS, ids=lambda t: t.name)
@pytest.mark.parametrize("dtype", ["float32", "float16", "float64"])
def test_other_processors_have_the_same_bits(dtype, target):
    x, y, kind = numbers(dtype, (300, 77)), numbers(dtype, (77,), 1), BY_NAME[dtype]
    for name in ("exp", "log1p", "tan"):
        same(Map(PRIMITIVES[name], [kind], {}, target)([x]), compiled(name, [x], {}))
    for name in ("add", "pow", "maximum"):
        same(Map(PRIMITIVES[name], [kind, kind], {}, target)([x, y]), compiled(name, [x, y], {}))


def test_without_entries_everything_is_a_call(monkeypatch):
    monkeypatch.setattr(maps, "HAS_ENTRIES", False)
    x = numbers("float32", (5, 7))
    for name, values in [
        ("exp", (x,)),
        ("atan2", (x, x[0])),
        ("pow", (x, 2.5)),
        ("pow", (x, 2.5)),
        ("relu", (x.T,)),
    ]:
        run = eager_maps.Maps(PRIMITIVES[name]).run
        same(run(*values), compiled(name, values, {}))
        same(run(*values), compiled(name, values, {}))


def test_threads_of_python_do_not_disturb_each_other():
    run, binary = eager_maps.Maps(PRIMITIVES["exp"]).run, eager_maps.Maps(PRIMITIVES["atan2"]).run
    inputs = [numbers("float32", (n,), n) for n in (5, 70, 20_000, 40_000)]
    want = [(compiled("exp", [x], {}), compiled("atan2", [x, x[:1]], {})) for x in inputs]
    wrong = []

    def work(i):
        for _ in range(30):
            got = run(inputs[i]), binary(inputs[i], inputs[i][:1])
            if not all(np.array_equal(a, b, equal_nan=True) for a, b in zip(got, want[i], strict=True)):
                wrong.append(i)

    on_threads(lambda i: work(i % 4))
    assert not wrong


def test_every_rule_of_registers_is_here_or_moves_bits():
    moves = {"copy", "conj", "stop_gradient"}
    assert set(NAMES) == registers.RULES.keys() - moves


def test_errors_are_those_of_the_type_rules():
    x = tw.ones(2, 3)
    with pytest.raises(tw.ShapeError, match="broadcast"):
        tw.atan2(x, tw.ones(4))
    with pytest.raises(tw.ShapeError, match="broadcast"):
        tw.ones(40_000) + tw.ones(40_001)
    with pytest.raises(tw.DTypeError, match="not supported"):
        PRIMITIVES["exp"](tw.ones(3, dtype=tw.int32))
    with pytest.raises(tw.DTypeError, match="different dtypes"):
        PRIMITIVES["add"](tw.ones(40_000), tw.ones(40_000, dtype=tw.int32))
    with pytest.raises(tw.DivisionByZeroError):
        tw.ones(40_000, dtype=tw.int32) // tw.zeros(40_000, dtype=tw.int32)
