"""Eager convolutions and input gradients: bits of compiled programs for every shape, and no code for new shapes."""

import numpy as np
import pytest
from test_eager_maps import compiled, same
from turns import on_threads

import twofold as tw
import twofold.nn.functional as F
from twofold.backends.cpu import convs, jit
from twofold.backends.cpu.open import text_of
from twofold.backends.cpu.target import AVX2, NEON, SSE2
from twofold.compiler import eager_convolutions
from twofold.ir.dtypes import BY_NAME
from twofold.ir.primitive import PRIMITIVES


def refuse(*_, **__):
    raise AssertionError("code is made, or the reference runs")


def without_reference(name):
    convolution = eager_convolutions.Convolution(PRIMITIVES[name])
    convolution._reference = refuse
    return convolution


CONV, INPUT_GRAD = (without_reference(name).run for name in ("conv", "conv_input_grad"))

# x, w, stride, padding, dilation, groups
GEOMETRIES = [
    ((2, 3, 8, 8), (5, 3, 3, 3), 1, 1, 1, 1),  # lines end within vectors
    ((1, 1, 1, 1), (1, 1, 1, 1), 1, 0, 1, 1),
    ((2, 16, 5, 5), (16, 16, 1, 1), 1, 0, 1, 1),
    ((3, 15, 20, 21), (17, 15, 3, 2), 2, 1, 1, 1),  # elements that are two apart, with pieces of lines
    ((9, 33, 7, 7), (15, 33, 3, 3), 2, 1, 1, 1),  # pixels of several images
    ((20, 6, 2, 2), (5, 6, 2, 2), 1, 1, 1, 1),
    ((40, 17, 1, 1), (16, 17, 1, 1), 1, 0, 1, 1),  # 16 images in a vector: gathered
    ((2, 3, 12, 40), (6, 3, 3, 3), 3, 1, 1, 1),
    ((2, 3, 3, 3), (6, 3, 5, 5), 1, 2, 1, 1),  # a kernel larger than the image
    ((2, 5, 9, 9), (7, 5, 2, 2), 4, 0, 1, 1),  # most positions see nothing
    ((2, 5, 15, 16), (7, 5, 3, 3), 1, 2, 3, 1),
    ((2, 5, 15, 16), (7, 5, 3, 3), 2, 3, 2, 1),
    ((2, 8, 9, 10), (12, 2, 3, 3), 1, 1, 1, 4),
    ((2, 130, 6, 9), (31, 130, 3, 3), 1, 1, 2, 1),  # blocks of k
    ((2, 1100, 5, 7), (100, 1100, 1, 1), 1, 0, 1, 1),  # blocks of k and of rows
    ((2, 20, 19, 22), (20, 1, 3, 3), 1, 1, 1, 20),  # depthwise
    ((2, 20, 19, 22), (20, 1, 3, 3), 2, 1, 1, 20),
    ((2, 20, 19, 22), (20, 1, 5, 5), 3, 0, 1, 20),
    ((2, 5, 18, 70), (5, 1, 3, 3), (1, 2), 1, 1, 5),
    ((2, 6, 19, 22), (12, 1, 3, 3), 2, 1, 1, 6),  # two channels for each
    ((2, 9, 30, 31), (3, 9, 5, 5), 2, 2, 1, 1),  # few channels
    ((3, 4, 70), (33, 4, 7), 2, 3, 1, 1),
    ((3, 4, 300), (2, 4, 7), 2, 3, 1, 1),
    ((2, 3, 5, 6, 7), (17, 3, 3, 2, 3), 1, 1, 1, 1),
    ((2, 3, 5, 9, 7), (3, 1, 2, 3, 2), 2, 1, 1, 3),
    ((1, 300, 7, 7), (260, 300, 3, 3), 2, 1, 1, 1),  # rows shared out
    ((2, 3, 71, 90), (5, 3, 3, 3), 1, 1, 1, 1),  # blocks of vectors that are alike
    ((2, 1, 71, 90), (1, 1, 5, 3), 1, 2, 1, 1),
    ((2, 2, 9000), (6, 2, 7), 2, 3, 1, 1),
    ((150, 5, 7, 7), (6, 5, 3, 3), 1, 1, 1, 1),
]


def arrays(x, w, stride, padding, dilation, groups, dtype="float32", seed=0):
    """An input, a weight and the params of a convolution."""
    rng, n = np.random.default_rng(seed), len(x) - 2
    every = [v if isinstance(v, tuple) else (v,) * n for v in (stride, padding, dilation)]
    padding = tuple(p if isinstance(p, tuple) else (p, p) for p in every[1])
    params = {"stride": every[0], "padding": padding, "dilation": every[2], "groups": groups}
    one, two = (rng.standard_normal(shape).astype(BY_NAME[dtype].numpy) for shape in (x, w))
    return one, two, params


def check(x, w, params):
    """A convolution, and the gradient of its input for its result."""
    y = CONV(x, w, **params)
    same(y, compiled("conv", [x, w], params))
    params = {"input_size": x.shape[2:], **params}
    same(INPUT_GRAD(y, w, **params), compiled("conv_input_grad", [y, w], params))


@pytest.mark.parametrize("geometry", GEOMETRIES, ids=str)
def test_bits_are_those_of_compiled_programs(geometry):
    check(*arrays(*geometry))


@pytest.mark.parametrize("dtype", ["float64", "float16", "bfloat16"])
@pytest.mark.parametrize("geometry", GEOMETRIES[3::5], ids=str)
def test_dtypes(geometry, dtype):
    check(*arrays(*geometry, dtype=dtype))


def some_geometry(rng):
    n = rng.choice([1, 2, 2, 2, 3])
    kernel, stride, dilation = (tuple(rng.integers(1, m, n).tolist()) for m in (5, 4, 3))
    padding = tuple((int(a), int(b)) for a, b in rng.integers(0, 3, (n, 2)))
    reach = [d * (k - 1) + 1 - sum(p) for k, d, p in zip(kernel, dilation, padding, strict=True)]
    size = [max(a, 1, b) for a, b in zip(rng.integers(1, (0, 50, 20, 8)[n], n).tolist(), reach, strict=True)]
    groups, ins, outs = (int(rng.choice(c)) for c in ([1, 1, 2, 3], [1, 2, 3, 16, 17], [1, 2, 5, 15, 16, 33]))
    if rng.random() < 0.2:
        groups, ins, outs = 16, 1, 1
    batch = int(rng.choice([1, 2, 3, 9]))
    x, w = (batch, groups * ins, *size), (groups * outs, ins, *kernel)
    return x, w, stride, padding, dilation, groups


@pytest.mark.parametrize("seed", range(25))
def test_any_geometry(seed):
    rng = np.random.default_rng(seed)
    check(*arrays(*some_geometry(rng), dtype=str(rng.choice(["float32", "float64"]))))


def test_operands_of_any_layout():
    x, w, params = arrays((4, 6, 20, 12), (10, 6, 3, 3), 1, 1, 1, 1)
    for other in (x.transpose(0, 1, 3, 2), x[::2], x[:, ::-1], x[..., ::2], np.broadcast_to(x[:1], x.shape)):
        for weight in (w, w.transpose(0, 1, 3, 2), w[::-1]):
            got = CONV(other, weight, **params)
            same(got, CONV(np.ascontiguousarray(other), np.ascontiguousarray(weight), **params))


@pytest.mark.parametrize("geometry", [GEOMETRIES[i] for i in (0, 3, 15, 16, 20)], ids=str)
def test_what_is_not_finite_stays_in_its_windows(geometry):
    x, w, params = arrays(*geometry)
    for value in (np.nan, np.inf):
        y = x.copy()
        y[0, 0, 3, 4] = value
        check(y, w, params)
        got = CONV(y, w, **params)
        assert not np.isfinite(got[0]).all() and np.isfinite(got[1]).all()


def test_nothing():
    for x, w in [((0, 3, 5, 5), (4, 3, 3, 3)), ((2, 0, 5, 5), (4, 0, 3, 3)), ((2, 3, 5, 5), (0, 3, 3, 3))]:
        check(*arrays(x, w, 1, 1, 1, 1))


def test_more_dimensions_are_left_to_programs():
    x, w, params = arrays((2, 2, 3, 4, 3, 5), (6, 2, 2, 2, 1, 3), 1, 1, 1, 1)
    same(PRIMITIVES["conv"].run(x, w, **params), compiled("conv", [x, w], params))


def test_new_shapes_compile_nothing(monkeypatch):
    for dtype in ("float32", "float64"):
        check(*arrays(*GEOMETRIES[0], dtype=dtype))
    monkeypatch.setattr(jit, "object_codes", refuse)
    for i, (x, w, *rest) in enumerate(GEOMETRIES):
        x, w, params = arrays((x[0] + 1, *x[1:]), w, *rest, dtype=("float32", "float64")[i % 2])
        y = CONV(x, w, **params)
        INPUT_GRAD(y, w, input_size=x.shape[2:], **params)


def test_bits_do_not_depend_on_threads():
    x, w, params = arrays((3, 30, 40, 41), (70, 30, 3, 3), 2, 1, 1, 1)
    before = tw.get_num_threads()
    want = CONV(x, w, **params)
    back = INPUT_GRAD(want, w, input_size=x.shape[2:], **params)
    try:
        for threads in (1, 2, 4):
            tw.set_num_threads(threads)
            same(CONV(x, w, **params), want)
            same(INPUT_GRAD(want, w, input_size=x.shape[2:], **params), back)
    finally:
        tw.set_num_threads(before)


def test_bits_of_an_image_do_not_depend_on_the_others():
    x, w, params = arrays((9, 33, 7, 7), (15, 33, 3, 3), 2, 1, 1, 1)
    y = CONV(x, w, **params)
    for i in range(9):
        same(CONV(x[i : i + 1], w, **params), y[i : i + 1])


@pytest.mark.parametrize("target", [t for t in (AVX2, SSE2) if t.runs_here], ids=lambda t: t.name)
@pytest.mark.parametrize("dtype", ["float32", "float64"])
def test_other_processors_have_the_same_bits(dtype, target):
    other = convs.Convolutions(BY_NAME[dtype], target)
    for geometry in GEOMETRIES:
        x, w, params = arrays(*geometry, dtype=dtype)
        y = CONV(x, w, **params)
        same(other.plan(x.shape, w.shape, **params)(x, w), y)
        params = {"input_size": x.shape[2:], **params}
        same(other.plan(y.shape, w.shape, **params)(y, w), INPUT_GRAD(y, w, **params))


def test_other_architectures_have_code():
    text = text_of(convs.module_of(BY_NAME["float32"], NEON))
    assert jit.object_code(text, NEON)


def test_threads_of_python_do_not_disturb_each_other():
    cases = [arrays(*GEOMETRIES[i]) for i in (0, 3, 4, 15)]
    want = [compiled("conv", [x, w], params) for x, w, params in cases]
    wrong = []

    def work(i):
        x, w, params = cases[i]
        got = [CONV(x, w, **params) for _ in range(30)]
        wrong.extend(y for y in got if not np.array_equal(y, want[i]))

    on_threads(lambda i: work(i % 4))
    assert not wrong


def test_without_entries_everything_is_a_call(monkeypatch):
    monkeypatch.setattr(convs._open, "HAS_ENTRIES", False)
    other = convs.Convolutions(BY_NAME["float32"])
    for geometry in GEOMETRIES[:6]:
        x, w, params = arrays(*geometry)
        same(other.plan(x.shape, w.shape, **params)(x, w), CONV(x, w, **params))


def test_what_is_known_about_shapes_is_bounded(monkeypatch):
    one = without_reference("conv")
    monkeypatch.setattr(eager_convolutions, "_REMEMBERED", 3)
    for n in range(1, 9):
        x, w, params = arrays((n, 3, 8, 8), (5, 3, 3, 3), 1, 1, 1, 1)
        same(one.run(x, w, **params), CONV(x, w, **params))
    assert len(one._known) == 3 and one._bytes == sum(plan.nbytes for plan in one._known.values())


def test_errors_are_those_of_the_type_rules():
    x, w = tw.ones(2, 5, 8, 8), tw.ones(4, 3, 3, 3)
    for _ in range(2):
        with pytest.raises(tw.ShapeError, match="channels"):
            F.conv2d(x, w)
        with pytest.raises(tw.ShapeError, match="covers"):
            F.conv2d(tw.ones(2, 3, 2, 2), w)
        with pytest.raises(tw.DTypeError):
            F.conv2d(tw.ones(2, 3, 8, 8), w.double())
