"""Eager Winograd convolutions and their gradients: the bits of compiled ones, for any sizes and threads."""

import threading

import numpy as np
import pytest

import twofold as tw
from twofold.backends.cpu import jit, team, winograds
from twofold.backends.cpu.emit import Module
from twofold.backends.cpu.kernels.filtering import FilterKernels
from twofold.backends.cpu.kernels.filteringgrad import GatherKernels
from twofold.backends.cpu.target import AVX2, NEON, SSE2, host
from twofold.compiler.single import program_of
from twofold.ir import config, dtypes
from twofold.ir.evaluate import runner
from twofold.ir.primitive import PRIMITIVES
from twofold.ir.types import TensorType

RNG = np.random.default_rng(0)
ONE = ((1, 1), (1, 1))
NAMES = ("conv", "conv_input_grad", "conv_weight_grad")

SHAPES = [
    # x, outputs, padding: one tile, odd sizes, windows beyond the border, tails of vectors and panels, wide images
    ((1, 16, 4, 4), 16, ONE),
    ((3, 33, 7, 7), 70, ONE),
    ((1, 40, 9, 14), 49, ((0, 0), (0, 0))),
    ((2, 35, 6, 11), 17, ((2, 1), (0, 2))),
    ((5, 48, 4, 5), 100, ONE),
    ((1, 16, 5, 400), 16, ONE),
    ((2, 17, 12, 9), 24, ((4, 5), (3, 4))),
    ((2, 140, 6, 6), 150, ONE),
    ((20, 20, 16, 17), 31, ONE),
]  # fmt: skip


def numbers(*shape):
    return RNG.standard_normal(shape).astype(np.float32)


def arrays(shape, outputs, padding):
    """An input, a weight and the gradient of the result."""
    sizes = [n + lo + hi - 2 for n, (lo, hi) in zip(shape[2:], padding, strict=True)]
    return numbers(*shape), numbers(outputs, shape[1], 3, 3), numbers(shape[0], outputs, *sizes)


def operations(x, w, g, padding):
    """The three, as (name, operands, params)."""
    params = {"stride": (1, 1), "padding": padding, "dilation": (1, 1), "groups": 1}
    yield "conv", (x, w), params
    yield "conv_input_grad", (g, w), {"input_size": x.shape[2:], **params}
    yield "conv_weight_grad", (x, g), {"kernel_size": (3, 3), **params}


def planned(name, a, b, params):
    made = winograds.plan(name, a.shape, b.shape, **params)
    assert made is not None
    return made(a, b)


def compiled(name, operands, params):
    types = [TensorType(v.shape, dtypes.float32) for v in operands]
    program = program_of(PRIMITIVES[name], types, params)
    assert all(step.kind != "numpy" for step in program.steps)
    return program([np.ascontiguousarray(v) for v in operands])[0]


def same(got, want):
    assert (got.dtype, got.shape, got.flags.c_contiguous) == (want.dtype, want.shape, True)
    assert got.tobytes() == want.tobytes()


@pytest.mark.parametrize(("shape", "outputs", "padding"), SHAPES)
def test_bits_are_those_of_compiled_convolutions(shape, outputs, padding):
    x, w, g = arrays(shape, outputs, padding)
    for name, operands, params in operations(x, w, g, padding):
        want = compiled(name, operands, params)
        same(planned(name, *operands, params), want)
        same(PRIMITIVES[name].run(*operands, **params), want)


def test_however_operands_lie_in_memory():
    x, w, g = arrays((2, 20, 9, 10), 18, ONE)
    turns = [
        lambda a: np.ascontiguousarray(a.transpose(0, 2, 3, 1)).transpose(0, 3, 1, 2),
        lambda a: np.repeat(np.repeat(a, 2, -1), 3, 1)[:, ::3, :, ::2],
        lambda a: np.ascontiguousarray(a[::-1, :, :, ::-1])[::-1, :, :, ::-1],
    ]
    for name, (a, b), params in operations(x, w, g, ONE):
        want = planned(name, a, b, params)
        for turn in turns:
            for p, q in ((turn(a), b), (a, turn(b)), (turn(a), turn(b))):
                assert np.array_equal(p, a)
                assert np.array_equal(q, b)
                same(planned(name, p, q, params), want)


@pytest.fixture
def cut(monkeypatch):
    """Work cut finely: tiles of one row or of parts of it, a few images or panels of weights at a time."""
    monkeypatch.setattr(winograds, "_LITTLE", 0)
    monkeypatch.setattr(winograds, "_SCRATCH", 1)
    monkeypatch.setattr(winograds, "_TOGETHER", 40_000)
    monkeypatch.setattr(winograds, "_WEIGHTS", 1)
    monkeypatch.setattr(winograds, "get_num_threads", lambda: 1)
    monkeypatch.setattr(winograds, "_FEW_CHUNKS", 64)
    monkeypatch.setattr(winograds, "_CHUNK", 1)


@pytest.mark.parametrize(("shape", "outputs", "padding"), SHAPES)
def test_how_work_is_cut_decides_about_no_bits(shape, outputs, padding, cut, monkeypatch):
    x, w, g = arrays(shape, outputs, padding)
    for name, operands, params in operations(x, w, g, padding):
        got = planned(name, *operands, params)
        with monkeypatch.context() as m:
            for setting, value in (("_SCRATCH", 600 << 10), ("_TOGETHER", 8 << 20), ("_WEIGHTS", 8 << 20)):
                m.setattr(winograds, setting, value)
            same(got, planned(name, *operands, params))


def test_panels_of_weights_and_groups_of_tiles_one_after_the_other(cut):
    x, w, g = arrays((1, 20, 24, 18), 70, ONE)
    for name, operands, params in operations(x, w, g, ONE):
        made = winograds.plan(name, *[v.shape for v in operands], **params)
        assert (len(made._runs) > 1) == (name == "conv")
        same(made(*operands), compiled(name, operands, params))
    x, w, g = arrays((9, 20, 16, 18), 70, ONE)
    params = list(operations(x, w, g, ONE))[2][2]
    made = winograds.plan("conv_weight_grad", x.shape, g.shape, **params)
    assert len(made._runs) > 1
    same(made(x, g), compiled("conv_weight_grad", (x, g), params))


def test_groups_of_images_of_which_the_last_is_smaller(cut):
    x, w, g = arrays((7, 16, 8, 8), 40, ONE)
    made = winograds.plan("conv", x.shape, w.shape, **next(operations(x, w, g, ONE))[2])
    assert [run.words[0] for run in made._runs] == [0, 4 * 4 * 16 * 64]
    for name, operands, params in list(operations(x, w, g, ONE))[:2]:
        same(planned(name, *operands, params), compiled(name, operands, params))


def test_which_convolutions_there_are():
    def suits(x=(1, 16, 8, 8), w=(16, 16, 3, 3), *, padding=ONE, **other):
        params = {"stride": (1, 1), "padding": padding, "dilation": (1, 1), "groups": 1} | other
        return winograds.plan("conv", x, w, **params) is not None

    assert suits()
    assert not suits((1, 15, 8, 8), (16, 15, 3, 3))
    assert not suits(w=(15, 16, 3, 3))
    assert not suits((0, 16, 8, 8))
    assert not suits(w=(16, 16, 3, 2))
    assert not suits(w=(16, 16, 3), x=(1, 16, 8), padding=((1, 1),), stride=(1,), dilation=(1,))
    assert not suits((1, 16, 3, 3), padding=((0, 0), (0, 0)))  # most of a tile would be thrown away
    assert not suits(stride=(2, 1))
    assert not suits(dilation=(1, 2), padding=((2, 2), (2, 2)))
    assert not suits((1, 32, 8, 8), groups=2)
    with config.WINOGRAD.set(False):
        assert not suits()


def test_gradients_of_what_is_not_there_are_no_filters():
    params = {"stride": (1, 1), "padding": ((2, 2), (2, 2)), "dilation": (1, 1), "groups": 1}
    g, w = (1, 16, 2, 2), (16, 16, 3, 3)
    assert winograds.plan("conv_input_grad", g, w, input_size=(0, 0), **params) is None
    assert winograds.plan("conv_weight_grad", (1, 16, 0, 0), g, kernel_size=(3, 3), **params) is None


def test_small_whole_numbers_are_exact():
    x, w, g = (RNG.integers(-4, 5, a.shape).astype(np.float32) for a in arrays((3, 24, 10, 7), 33, ONE))
    for name, operands, params in operations(x, w, g, ONE):
        p = PRIMITIVES[name]
        want = runner(p)(*[v.astype(np.float64) for v in operands], **params)
        np.testing.assert_array_equal(planned(name, *operands, params), want)


def test_infinities_and_nans_are_where_compiled_code_has_them():
    x, w, g = arrays((2, 16, 9, 8), 18, ONE)
    x[0, 3, 2, 5], x[1, 4, 8, 7], g[1, 2, 3, 3] = np.inf, np.nan, -np.inf
    for name, operands, params in operations(x, w, g, ONE):
        got, want = planned(name, *operands, params), compiled(name, operands, params)
        np.testing.assert_array_equal(got, want)
        assert not np.isfinite(got).all()
        if name != "conv_weight_grad":
            assert np.isfinite(got).any()


def test_the_number_of_threads_changes_nothing(monkeypatch):
    monkeypatch.setattr(winograds, "_LITTLE", 0)
    x, w, g = arrays((6, 40, 20, 20), 70, ONE)
    before, results = tw.get_num_threads(), set()
    try:
        for count in (1, 2, 4):
            tw.set_num_threads(count)
            results.add(tuple(planned(name, *v, params).tobytes() for name, v, params in operations(x, w, g, ONE)))
    finally:
        tw.set_num_threads(before)
    assert len(results) == 1


def test_several_threads_at_once():
    jobs = []
    for shape in ((1, 16, 8, 8), (4, 32, 24, 24)):
        for name, (a, b), params in operations(*arrays(shape, 20, ONE), ONE):
            made = winograds.plan(name, a.shape, b.shape, **params)
            jobs.append((made, a, b, made(a, b).tobytes()))
    wrong = []

    def work(first):
        for i in range(30):
            made, a, b, want = jobs[(first + i) % len(jobs)]
            if made(a, b).tobytes() != want:
                wrong.append(i)

    threads = [threading.Thread(target=work, args=(i,)) for i in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert not wrong


def test_new_sizes_compile_nothing(monkeypatch):
    for name, operands, params in operations(*arrays((1, 16, 4, 4), 16, ONE), ONE):
        planned(name, *operands, params)
    team.team()

    def fail(*_):
        raise AssertionError("something was compiled")

    monkeypatch.setattr(jit, "object_codes", fail)
    count = 0
    for n, c, height, width, o in RNG.integers((1, 16, 5, 5, 16), (5, 60, 20, 20, 60), (12, 5)).tolist():
        padding = tuple(map(tuple, RNG.integers(0, 3, (2, 2)).tolist()))
        for name, operands, params in operations(*arrays((n, c, height, width), o, padding), padding):
            made = winograds.plan(name, *[v.shape for v in operands], **params)
            if made is not None:
                count += 1
                want = runner(PRIMITIVES[name])(*operands, **params)
                np.testing.assert_allclose(made(*operands), want, atol=2e-3, rtol=1e-3)
    assert count > 20


def test_without_entries(monkeypatch):
    """Where objects are laid out differently, everything goes through the thread team."""
    monkeypatch.setattr(winograds._open, "HAS_ENTRIES", False)
    code = winograds.Winograds()
    assert code.little is None
    monkeypatch.setattr(winograds, "_loaded", [code])
    for name, operands, params in operations(*arrays((2, 17, 6, 6), 18, ONE), ONE):
        same(planned(name, *operands, params), compiled(name, operands, params))


@pytest.mark.parametrize(
    "target", [t for t in (AVX2, SSE2) if t.runs_here and t.name != host().name], ids=lambda t: t.name
)
@pytest.mark.parametrize(("shape", "outputs", "padding"), [SHAPES[1], SHAPES[3], SHAPES[6]])
def test_other_processors_have_the_same_bits(target, shape, outputs, padding, monkeypatch):
    x, w, g = arrays(shape, outputs, padding)
    wanted = [planned(*(name, *v, params)) for name, v, params in operations(x, w, g, padding)]
    monkeypatch.setattr(winograds, "_loaded", [winograds.Winograds(target)])
    for want, (name, operands, params) in zip(wanted, operations(x, w, g, padding), strict=True):
        same(planned(name, *operands, params), want)


def test_code_for_neon_compiles():
    for kernels in (FilterKernels(NEON), GatherKernels(NEON)):
        module = Module(NEON)
        kernels.emit(module)
        for text in module.texts().values():
            assert jit.object_code(text, NEON)


def test_tensors_take_this_way():
    x = tw.tensor(numbers(2, 16, 8, 8), requires_grad=True)
    w = tw.tensor(numbers(24, 16, 3, 3), requires_grad=True)
    y = tw.nn.functional.conv2d(x, w, padding=1)
    y.sum().backward()
    a, b, ones = x.detach().numpy(), w.detach().numpy(), np.ones((2, 24, 8, 8), np.float32)
    wanted = [compiled(name, v, params) for name, v, params in operations(a, b, ones, ONE)]
    for got, want in zip((y.detach(), x.grad, w.grad), wanted, strict=True):
        same(got.numpy(), want)


def test_errors_are_those_of_the_type_rule():
    with pytest.raises(tw.errors.ShapeError, match="expects 16 input channels"):
        tw.nn.functional.conv2d(tw.ones(2, 17, 8, 8), tw.ones(16, 16, 3, 3))
