"""Eager recurrent layers: the bits of compiled ones at every size, for any strides, threads and dtypes."""

import os

import numpy as np
import pytest
from sequences import NAMES, every_params, operands
from turns import on_threads

import twofold as tw
from twofold.backends.cpu import jit, recurrences, team
from twofold.backends.cpu.emit import Module
from twofold.backends.cpu.kernels.recurring import RecurringKernels, node_of
from twofold.backends.cpu.target import AVX2, NEON, SSE2, host
from twofold.compiler.eager_recurrent import NAMES as INSTALLED
from twofold.compiler.eager_recurrent import Recurrences
from twofold.compiler.single import program_of
from twofold.ir import dtypes
from twofold.ir.evaluate import evaluate
from twofold.ir.primitive import PRIMITIVES
from twofold.ir.types import TensorType

# (T, N, H): parts of vectors and panels, one to all rows of a tile, tiles that overlap, several chunks
SHAPES = (
    (1, 1, 1), (2, 1, 2), (8, 2, 8), (4, 5, 7), (3, 9, 40), (2, 33, 16), (5, 2, 70), (2, 13, 200), (1, 3, 129),
    (3, 37, 20), (2, 8, 80), (6, 7, 64), (9, 4, 17), (2, 50, 33),
)  # fmt: skip
LARGE = ((2, 5, 300), (30, 40, 60), (3, 70, 150))
NATIVE = {name: Recurrences(PRIMITIVES[name]) for name in NAMES}


def native(name, arrays, params):
    out = NATIVE[name].run(*arrays, **params)
    return out if PRIMITIVES[name].multiple else (out,)


def reference(name, arrays, params):
    out = evaluate(PRIMITIVES[name], arrays, params)
    return out if PRIMITIVES[name].multiple else (out,)


def compiled(name, arrays, params):
    program = program_of(PRIMITIVES[name], [TensorType.of(a) for a in arrays], params)
    assert all(step.kind != "numpy" for step in program.steps)
    return program([np.ascontiguousarray(a) for a in arrays])


def same(got, want):
    for g, w in zip(got, want, strict=True):
        assert (g.dtype, g.shape, g.flags.c_contiguous) == (w.dtype, w.shape, True)
        assert g.tobytes() == w.tobytes()


def check(name, shape, dtype="float32", seed=0, every=every_params):
    arrays = operands(name, *shape, dtype, seed)
    for params in every(name):
        want = compiled(name, arrays, params)
        for _ in range(2):  # with a plan that is made, and with one that is known
            same(native(name, arrays, params), want)


def test_all_are_installed():
    assert set(INSTALLED) == set(NAMES)
    assert all("Recurrences" in PRIMITIVES[name].run.__qualname__ for name in NAMES)


@pytest.mark.parametrize("name", NAMES)
def test_bits_are_those_of_compiled_layers(name):
    for shape in SHAPES:
        check(name, shape)
    for shape in LARGE:
        check(name, shape, every=lambda name: [next(every_params(name))])


@pytest.mark.parametrize("dtype", ["float64", "float16", "bfloat16"])
@pytest.mark.parametrize("name", NAMES)
def test_other_dtypes(name, dtype):
    for shape in (*SHAPES[:6], LARGE[1]):
        check(name, shape, dtype, every=lambda name: list(every_params(name))[-1:])


@pytest.mark.parametrize("name", NAMES)
def test_random_sizes(name):
    for seed, shape in enumerate(np.random.default_rng(7).integers(1, 60, (5, 3)).tolist()):
        check(name, shape, seed=seed, every=lambda name: [next(every_params(name))])


def laid(x, order):
    """`x` with another order of its elements in memory."""
    if order == "transposed":
        return np.ascontiguousarray(x.T).T
    if order == "rows first" and x.ndim == 3:
        return np.ascontiguousarray(x.transpose(1, 0, 2)).transpose(1, 0, 2)
    if order == "apart":
        return np.repeat(x, 3, -1)[..., ::3]
    if order == "cut":
        return np.repeat(x, 2, 0)[::2]
    if order == "backwards":
        return np.ascontiguousarray(x[::-1])[::-1]
    if order == "one for all":
        return np.broadcast_to(x[:1], x.shape)
    return x


@pytest.mark.parametrize("dtype", ["float32", "float16"])
@pytest.mark.parametrize("name", NAMES)
def test_operands_may_lie_in_memory_as_they_like(name, dtype):
    orders = ("transposed", "rows first", "apart", "cut", "backwards", "one for all", "in rows")
    params = next(every_params(name))
    for shape in ((3, 5, 21), (30, 40, 60)):
        arrays = operands(name, *shape, dtype)
        for i in range(len(orders)):
            some = [laid(x, orders[(i + k) % len(orders)]) for k, x in enumerate(arrays)]
            same(native(name, some, params), compiled(name, some, params))


@pytest.mark.parametrize("name", NAMES)
def test_without_entries(name, monkeypatch):
    """Where objects are laid out differently, everything goes through the thread team."""
    monkeypatch.setattr(recurrences, "HAS_ENTRIES", False)
    monkeypatch.setattr(recurrences._open, "HAS_ENTRIES", False)
    native = Recurrences(PRIMITIVES[name])
    for order in ("in rows", "apart"):
        arrays = [laid(x, order) for x in operands(name, 3, 9, 21, "float32")]
        params = next(every_params(name))
        got = native.run(*arrays, **params)
        same(got if native.p.multiple else (got,), compiled(name, arrays, params))
    assert native._entry is None and not native._plans


OTHERS = [t for t in (AVX2, SSE2) if t.runs_here and t.name != host().name]


@pytest.mark.parametrize("target", OTHERS, ids=lambda t: t.name)
@pytest.mark.parametrize("dtype", ["float32", "float16", "bfloat16"])
def test_other_processors_have_the_same_bits(target, dtype):
    for name in NAMES:
        params = next(every_params(name))
        made = recurrences.Recurrent(PRIMITIVES[name], getattr(dtypes, dtype), params, target)
        for shape in ((2, 5, 7), (3, 13, 40)):
            arrays = operands(name, *shape, dtype)
            plan = made.plan([x.shape for x in arrays], params["reverse"])
            out = [np.empty(shape, arrays[0].dtype) for shape in plan.shapes]
            assert made.run(plan, [*arrays, *out])
            same(out, native(name, arrays, params))


def test_code_for_neon_compiles():
    module = Module(NEON)
    node = node_of(PRIMITIVES["lstm_grad"], dtypes.float32, {"reverse": False})
    RecurringKernels(node, NEON).emit_all(module)
    assert all(jit.object_code(text, NEON) for text in module.texts().values())


@pytest.mark.parametrize("name", NAMES)
def test_threads_change_nothing(name):
    params = next(every_params(name))
    arrays = operands(name, 6, 150, 50, "float32")
    before, results = tw.get_num_threads(), set()
    try:
        for count in (1, 2, 3):
            tw.set_num_threads(count)
            results.add(tuple(x.tobytes() for x in native(name, arrays, params)))
    finally:
        tw.set_num_threads(before)
    assert len(results) == 1


def test_several_threads_at_once():
    jobs = []
    for name in ("lstm", "gru_grad"):
        for shape in ((3, 2, 8), (5, 70, 40)):
            arrays, params = operands(name, *shape, "float32"), {"reverse": False}
            jobs.append((name, arrays, params, [x.tobytes() for x in native(name, arrays, params)]))
    wrong = []

    def work(first):
        for i in range(30):
            name, arrays, params, want = jobs[(first + i) % len(jobs)]
            if [x.tobytes() for x in native(name, arrays, params)] != want:
                wrong.append(i)

    on_threads(work, 4)
    assert not wrong


@pytest.mark.parametrize("name", NAMES)
def test_new_sizes_compile_nothing(name, monkeypatch):
    for params in every_params(name):
        native(name, operands(name, 1, 1, 1, "float32"), params)

    def fail(*_):
        raise AssertionError("something was compiled")

    monkeypatch.setattr(jit, "object_codes", fail)
    team.team()
    for shape in np.random.default_rng(3).integers(1, 90, (8, 3)).tolist():
        arrays = operands(name, *shape, "float32")
        for params in every_params(name):
            for g, w in zip(native(name, arrays, params), reference(name, arrays, params), strict=True):
                np.testing.assert_allclose(g, w, rtol=1e-3, atol=1e-3 * np.abs(w).max())


@pytest.mark.parametrize("name", NAMES)
def test_no_rows(name):
    params = next(every_params(name))
    arrays = operands(name, 2, 0, 3, "float32")
    for got, want in zip(native(name, arrays, params), reference(name, arrays, params), strict=True):
        assert got.shape == want.shape


@pytest.mark.parametrize("name", NAMES)
def test_infinities_and_nans_stay_in_their_rows(name):
    arrays = operands(name, 3, 6, 20, "float32")
    arrays[0][1, 2, 3], arrays[0][0, 4, 5] = np.nan, np.inf
    for params in every_params(name):
        got, want = native(name, arrays, params), compiled(name, arrays, params)
        for g, w in zip(got, want, strict=True):
            assert np.array_equal(g, w, equal_nan=True)
            rows = g.swapaxes(0, 1) if g.ndim == 3 else g
            assert np.isfinite(rows[[0, 1, 3, 5]]).all()


@pytest.mark.parametrize("name", NAMES)
def test_a_known_plan_is_not_taken_for_what_it_does_not_fit(name):
    p, params = PRIMITIVES[name], next(every_params(name))
    arrays = operands(name, 2, 3, 4, "float32")
    native(name, arrays, params)
    for sample in p.errors():
        with pytest.raises(sample.error, match=sample.match):
            NATIVE[name].run(*sample.inputs, **sample.params)
    for i, x in enumerate(arrays):
        others = [x[..., :-1], x[None], x.astype(np.float64), x.tolist(), None]
        for other in others if i else others[1:4]:
            with pytest.raises(Exception):  # noqa: B017  (which one is bind's affair)
                NATIVE[name].run(*arrays[:i], other, *arrays[i + 1 :], **params)
    with pytest.raises(TypeError):
        NATIVE[name].run(*arrays[:-1], **params)


@pytest.mark.skipif(not hasattr(os, "fork"), reason="this system has no fork")
@pytest.mark.filterwarnings("ignore::DeprecationWarning")
def test_in_a_forked_child():
    params = {"reverse": True}
    jobs = [operands("lstm", *shape, "float32") for shape in ((3, 2, 8), (5, 70, 40))]
    wanted = [[x.tobytes() for x in native("lstm", arrays, params)] for arrays in jobs]
    pid = os.fork()
    if not pid:
        fine = False
        try:
            fine = wanted == [[x.tobytes() for x in native("lstm", arrays, params)] for arrays in jobs]
        finally:
            os._exit(0 if fine else 1)
    assert os.waitpid(pid, 0)[1] == 0


def test_layers_take_this_way(monkeypatch):
    calls = []
    for name in ("lstm", "lstm_grad"):
        run = PRIMITIVES[name].run
        monkeypatch.setattr(PRIMITIVES[name], "run", lambda *a, run=run, **k: (calls.append(a), run(*a, **k))[1])
    tw.manual_seed(0)
    layer = tw.nn.LSTM(3, 5, batch_first=True, bidirectional=True)
    x = tw.randn(2, 4, 3, requires_grad=True)
    y, _ = layer(x)
    y.sum().backward()
    assert len(calls) == 4


@pytest.mark.parametrize("layer", ["LSTM", "GRU"])
def test_gradients_of_results_that_nobody_used(layer):
    tw.manual_seed(0)
    model, x = getattr(tw.nn, layer)(3, 20), tw.randn(20, 16, 3)  # of the gates there are more than `_MANY`

    def grads():
        model.zero_grad()
        (model(x)[0] ** 2).sum().backward()
        return [p.grad for p in model.parameters()]

    for a, b in zip(grads(), tw.compile(grads)(), strict=True):
        assert a.equal(b)
