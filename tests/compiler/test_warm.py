"""`doctor --warm` compiles the very code that eager operations look for."""

import re

import numpy as np

from twofold.backends.cpu import convs, jit, maps, pools, recurrences, reductions, weight_grads
from twofold.compiler import (
    eager_complex,
    eager_maps,
    eager_pools,
    eager_recurrent,
    eager_reductions,
    eager_scatter,
    warm,
)
from twofold.ir import config
from twofold.ir.dtypes import float16, float32
from twofold.ir.primitive import PRIMITIVES


def counts(line):
    return [int(n) for n in re.findall(r"(\d+) (?:kernels|compiled)", line)]


def test_what_is_warm_is_not_compiled_again(tmp_path, monkeypatch):
    monkeypatch.setattr(warm, "_COMMON", (float32, float16))
    monkeypatch.setattr(warm, "_FLOATING", (float32,))
    monkeypatch.setattr(eager_maps, "FUNCTIONS", ("exp", "atan2"))
    monkeypatch.setattr(eager_maps, "EXACT", ("where", "cast"))
    monkeypatch.setattr(eager_complex, "INEXACT", frozenset(("mul",)))
    monkeypatch.setattr(eager_reductions, "NAMES", ("sum",))
    monkeypatch.setattr(eager_recurrent, "NAMES", ("rnn",))
    monkeypatch.setattr(eager_pools, "NAMES", ("sum_pool",))
    with config.CACHE_DIR.set(tmp_path):
        lines: list[str] = []
        warm.warm(lines.append)
        *kinds, place = lines
        assert str(tmp_path) in place and [kind.split(":")[0] for kind in kinds][-1] == "copies"
        for kind in kinds:
            number, compiled = counts(kind)
            assert number == compiled > 0

        lines.clear()
        warm.warm(lines.append)
        assert not any(counts(kind)[1] for kind in lines[:-1])

        def refuse(texts, _):
            assert not texts, "code is made"
            return []

        monkeypatch.setattr(jit, "_compile_all", refuse)
        monkeypatch.setattr(maps, "_entries", {})
        monkeypatch.setattr(reductions, "_entry", [])
        x = np.ones((3, 70), np.float32)
        for name, values, params in [
            ("exp", (x,), {}), ("atan2", (x, x), {}), ("atan2", (x, x[0]), {}), ("atan2", (2.0, x), {}),
            ("where", (np.ones(40_000, bool), np.ones(40_000, np.float32), 0.0), {}),
            ("cast", (np.ones(40_000, np.float32),), {"dtype": float16}),
            ("mul", (np.ones(5, np.complex64), np.ones(5, np.complex64)), {}),
            ("mul", (np.ones(5, complex), 2j), {}),
        ]:  # fmt: skip
            eager_maps.Maps(PRIMITIVES[name]).run(*values, **params)
        total = eager_reductions.Reductions(PRIMITIVES["sum"]).run
        for dims in ((0,), (1,), (0, 1)):
            total(x, dims=dims, keepdim=False)
            total(np.ones((300, 200), np.float16), dims=dims, keepdim=False)
        monkeypatch.setattr(pools, "_entries", {})
        monkeypatch.setattr(eager_scatter, "_made", {})
        window = {"kernel": (2,), "stride": (2,), "padding": ((0, 0),), "dilation": (1,)}
        eager_pools.Pools(PRIMITIVES["sum_pool"]).run(np.ones((1, 2, 30), x.dtype), **window)
        scatter = eager_scatter.Sums(PRIMITIVES["scatter_add"]).run
        scatter(x, np.zeros((1, 70), np.int64), x, dim=0)
        monkeypatch.setattr(recurrences, "_entry", [])
        layer = eager_recurrent.Recurrences(PRIMITIVES["rnn"]).run
        for kind, reverse in (("tanh", False), ("relu", True)):
            layer(
                np.ones((2, 3, 5), x.dtype),
                x[:, :5],
                x[:1, :5] + x[0, :5, None],
                nonlinearity=kind,
                reverse=reverse,
            )
        weight_grads.WeightGrads(float32)
        convs.Convolutions(float32)


def test_without_a_cache_there_is_nothing_to_do():
    lines: list[str] = []
    with config.CACHE_DIR.set(None):
        warm.warm(lines.append)
    (line,) = lines
    assert "no cache" in line
