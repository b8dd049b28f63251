"""Code for other processors compiles, and what this machine can run gives the host's results bit by bit."""

from __future__ import annotations

import functools

import llvmlite.binding as llvm
import numpy as np
import pytest
from op_harness import CASES, PRIMITIVES, is_array, samples

import twofold as tw
from twofold.backends.cpu.jit import object_code
from twofold.backends.cpu.program import Program
from twofold.backends.cpu.target import AVX2, AVX512, NEON, SSE2, host
from twofold.compiler.compile import optimize
from twofold.ir.dtypes import BY_NAME
from twofold.ir.errors import TwofoldError
from twofold.ir.graph import Graph
from twofold.ir.types import TensorType

TARGETS = {t.name: t for t in (AVX512, AVX2, SSE2, NEON)}
OTHERS = [t for t in (AVX2, SSE2) if t.runs_here and t.name != host().name]
DTYPES = ("float32", "float16", "bfloat16", "int64", "uint8", "bool")
NO_KERNELS = {"cond", "while_loop", "scan", "nonzero"}


def graph_of(cases):
    """A node for each (primitive, arguments, params), and the arrays among the arguments."""
    graph = Graph("cases")
    arrays, outputs = [], []
    for p, inputs, params in cases:
        values = []
        for x in inputs:
            if is_array(x):
                arrays.append(np.array(x, order="C"))
                values.append(graph.add_input(TensorType.of(x)))
            else:
                values.append(graph.constant(x, next(a.dtype for a in reversed(inputs) if is_array(a))))
        outputs += graph.add(p, values, params)
    graph.set_outputs(outputs)
    return graph, arrays


def every_primitive():
    """The largest sample of each primitive in some dtypes."""
    for name, dtype in CASES:
        if name not in NO_KERNELS and dtype in DTYPES:
            found = list(samples(PRIMITIVES[name], BY_NAME[dtype]))
            largest = max(found, key=lambda s: sum(np.size(x) for x in s.inputs), default=None)
            if largest is not None:
                yield PRIMITIVES[name], largest.inputs, largest.params


def large_pieces():
    """Several chunks, tiles and squares, with rests of every kind."""
    rng = np.random.default_rng(0)

    def f(*shape, dtype=np.float32):
        return rng.standard_normal(shape).astype(dtype)

    p = PRIMITIVES
    for dtype in (np.float32, np.float64):
        yield p["matmul"], [f(30, 41, dtype=dtype), f(41, 37, dtype=dtype)], {}
    yield p["matmul"], [f(2, 3, 70), f(1, 70, 150)], {}
    yield p["sum"], [f(3, 1003)], {"dims": (1,), "keepdim": False}
    yield p["sum"], [f(301, 37)], {"dims": (0,), "keepdim": False}
    yield p["prod"], [f(2, 77, dtype=np.float64)], {"dims": (1,), "keepdim": True}
    yield p["exp"], [f(1003)], {}
    yield p["tanh"], [f(501, dtype=np.float64)], {}
    yield p["cumsum"], [f(50, 33)], {"dim": 0}
    for dtype in (np.float32, np.float64):
        yield p["sort"], [f(2, 300, dtype=dtype)], {"dim": 1, "descending": True}
        yield p["topk"], [f(50, 3, dtype=dtype)], {"dim": 0, "k": 5, "largest": True}
        yield p["topk"], [f(2, 1500, dtype=dtype)], {"dim": 1, "k": 7, "largest": True}
    yield p["random_bits"], [np.array([7, 2**32 - 100], np.uint64)], {"shape": (1001,)}
    yield (
        p["conv"],
        [f(2, 5, 9, 9), f(20, 5, 3, 3)],
        {"stride": (1, 1), "padding": ((1, 1), (1, 1)), "dilation": (1, 1), "groups": 1},
    )
    point = {"stride": (1, 1), "padding": ((1, 1), (1, 1)), "dilation": (1, 1), "groups": 1}
    yield p["conv"], [f(2, 33, 7, 6), f(37, 33, 3, 3)], point
    yield p["conv_weight_grad"], [f(2, 33, 6, 6), f(2, 37, 6, 6)], {"kernel_size": (3, 3), **point}
    solid = {"stride": (1, 2, 1), "padding": ((1, 1),) * 3, "dilation": (1, 1, 1), "groups": 1}
    yield p["conv"], [f(2, 5, 4, 7, 9), f(20, 5, 3, 3, 3)], solid
    yield p["conv_weight_grad"], [f(2, 5, 4, 7, 9), f(2, 20, 4, 4, 9)], {"kernel_size": (3, 3, 3), **solid}
    line = {"stride": (2,), "padding": ((1, 1),), "dilation": (1,), "groups": 3}
    yield p["conv_input_grad"], [f(2, 9, 10), f(9, 4, 3)], {"input_size": (20,), **line}
    for dtype in (np.float64, np.float16):
        yield p["conv"], [f(2, 12, 21, dtype=dtype), f(9, 4, 3, dtype=dtype)], line
        pool = {"kernel": (2, 3), "stride": (1, 2), "padding": ((1, 0), (0, 1)), "dilation": (1, 1)}
        yield p["max_pool"], [f(2, 19, 5, 6, dtype=dtype)], pool
        yield p["sum_pool"], [f(2, 19, 5, 6, dtype=dtype)], pool
    yield (
        p["conv_weight_grad"],
        [f(3, 6, 8, 8), f(3, 19, 8, 8)],
        {"kernel_size": (3, 3), "stride": (1, 1), "padding": ((1, 1), (1, 1)), "dilation": (1, 1), "groups": 1},
    )


def transposes(graph, arrays):
    """Adds copies by squares in registers."""
    x = np.random.default_rng(1).standard_normal((3, 35, 51)).astype(np.float32)
    (y,) = graph.add(PRIMITIVES["permute"], [graph.add_input(TensorType.of(x))], {"dims": (0, 2, 1)})
    (y,) = graph.add(PRIMITIVES["reshape"], [y], {"shape": (x.size,)})
    graph.set_outputs([*graph.outputs, y])
    arrays.append(x)
    return graph, arrays


def network(kind):
    """A train step of a small network, and its arguments."""
    tw.manual_seed(0)
    if kind == "cnn":
        net = tw.nn.Sequential(
            tw.nn.Conv2d(1, 20, 3, padding=1), tw.nn.BatchNorm2d(20), tw.nn.ReLU(), tw.nn.MaxPool2d(2),
            tw.nn.Conv2d(20, 17, 3, stride=2), tw.nn.GELU(), tw.nn.Flatten(), tw.nn.Linear(17 * 4, 10),
        )  # fmt: skip
        x = tw.randn(3, 1, 10, 10)
    elif kind == "mlp":
        net = tw.nn.Sequential(tw.nn.Linear(37, 50), tw.nn.LayerNorm(50), tw.nn.Dropout(0.3), tw.nn.Linear(50, 10))
        x = tw.randn(5, 37)
    else:
        net = tw.nn.Sequential(
            tw.nn.TransformerEncoderLayer(24, 3, 40, batch_first=True), tw.nn.Flatten(), tw.nn.Linear(24 * 6, 10)
        )
        x = tw.randn(2, 6, 24)
    optimizer = tw.optim.Adam(net.parameters())

    def step(x, y):
        optimizer.zero_grad()
        loss = tw.nn.functional.cross_entropy(net(x), y)
        loss.backward()
        optimizer.step()
        return loss

    traced = tw.trace(step, x, tw.arange(len(x)))
    arrays = [x.numpy(), np.arange(len(x)), *(slot.read() for slot in traced.state)]
    return optimize(traced.graph), arrays


@functools.cache
def programs():
    """Graphs with arguments by name."""
    return {
        "primitives": graph_of(every_primitive()),
        "large": transposes(*graph_of(large_pieces())),
        **{kind: network(kind) for kind in ("cnn", "mlp", "transformer")},
    }


NAMES = ["primitives", "large", "cnn", "mlp", "transformer"]


def run(graph, arrays, target):
    return Program(graph, target=target)([a.copy() for a in arrays])


@pytest.mark.parametrize("name", NAMES)
@pytest.mark.parametrize("target", OTHERS, ids=lambda t: t.name)
def test_results_are_the_hosts_to_the_bit(target, name):
    graph, arrays = programs()[name]
    expected = run(graph, arrays, None)
    for value, a, b in zip(graph.outputs, expected, run(graph, arrays, target), strict=True):
        assert a.dtype == b.dtype
        same = np.array_equal(a, b, equal_nan=a.dtype.kind in "fcV")
        assert same, f"{value.node}: {a[a != b][:5]} here, {b[a != b][:5]} on {target.name}"
        if a.dtype.kind == "f":
            np.testing.assert_array_equal(np.signbit(a[a == 0]), np.signbit(b[b == 0]), err_msg=str(value.node))


@pytest.mark.parametrize("target", TARGETS.values(), ids=lambda t: t.name)
def test_all_code_verifies_and_compiles(target):
    for name in ("large", "transformer"):
        graph, arrays = programs()[name]
        program = Program(graph, target=target)
        assert len(program.texts) > 5
        for text in program.texts.values():
            llvm.parse_assembly(text).verify()
            assert object_code(text, target)[:4] == b"\x7fELF"
        if not target.runs_here:
            with pytest.raises(TwofoldError, match=f"this program is for {target.name}"):
                program(arrays)


def test_neon_code_is_arm_code():
    graph, _ = programs()["large"]
    text = Program(graph, target=NEON).assembly()
    assert "fmla\tv" in text and ".4s" in text and "ymm" not in text
    machine = object_code(next(iter(Program(graph, target=NEON).texts.values())), NEON)
    assert int.from_bytes(machine[18:20], "little") == 183  # ELF's number of AArch64


@pytest.mark.parametrize(("target", "register", "absent"), [(AVX2, "ymm", "zmm"), (SSE2, "xmm", "ymm")])
def test_registers_follow_the_target(target, register, absent):
    graph, _ = programs()["large"]
    text = Program(graph, target=target).assembly()
    assert register in text and absent not in text
    assert ("vfmadd" in text) is target.fma
    assert ("call" in text) or target.fma  # of the C library's fma


def test_tiles_stay_in_registers():
    """The innermost loop of a product neither loads nor stores accumulators."""
    rng = np.random.default_rng(0)
    a, b = rng.standard_normal((28, 64)).astype("f"), rng.standard_normal((64, 64)).astype("f")
    graph, _ = graph_of([(PRIMITIVES["matmul"], [a, b], {})])
    for target in (AVX512, AVX2):
        text = Program(graph, target=target).assembly()
        assert "Spill" not in text and "Reload" not in text, target.name
        assert text.count("vfmadd") >= 2 * target.tile_rows


def test_bfloat16_keeps_denormal_numbers_and_rounds_to_even():
    """As NumPy's type does it, on every target; the processor's own instruction takes these for zero."""
    bfloat16 = BY_NAME["bfloat16"]
    bits = np.random.default_rng(0).integers(0, 2**32, 4000, dtype=np.uint32)
    special = [1e-39, -1e-40, 3.4e38, -3.4e38, np.inf, -np.inf, np.nan, 0, -0.0, 1 + 2**-8, 1 + 3 * 2**-8]
    x = np.concatenate([bits.view(np.float32), np.array(special, np.float32)])
    x = x[~np.isnan(x)]
    graph, arrays = graph_of([(PRIMITIVES["cast"], [x], {"dtype": bfloat16})])
    expected = x.astype(bfloat16.numpy).view(np.uint16)
    for target in [None, *OTHERS]:
        np.testing.assert_array_equal(run(graph, arrays, target)[0].view(np.uint16), expected)


@pytest.mark.parametrize("target", OTHERS, ids=lambda t: t.name)
def test_float16_without_an_instruction_for_it(target):
    """Every float16 there is, and float32 numbers on and beside the middle of two of them."""
    all16 = np.arange(2**16, dtype=np.uint16).view(np.float16)
    with np.errstate(invalid="ignore", over="ignore"):
        up = np.nextafter(all16, np.float16(np.inf)).astype(np.float32)
        middle = (all16.astype(np.float32) + up) / 2
        x = np.concatenate([middle, np.nextafter(middle, np.float32(9e9)), np.nextafter(middle, np.float32(-9e9))])
    cast = PRIMITIVES["cast"]
    cases = [(cast, [all16], {"dtype": BY_NAME["float32"]}), (cast, [x], {"dtype": BY_NAME["float16"]})]
    graph, arrays = graph_of(cases)
    wide, narrow = run(graph, arrays, target)
    np.testing.assert_array_equal(wide, all16.astype(np.float32))
    with np.errstate(over="ignore", invalid="ignore"):
        np.testing.assert_array_equal(narrow, x.astype(np.float16))
        number = ~np.isnan(x)
        np.testing.assert_array_equal(narrow[number].view("u2"), x.astype(np.float16)[number].view("u2"))
