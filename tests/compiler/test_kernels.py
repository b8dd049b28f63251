"""Every primitive on its samples, compiled, against the NumPy reference."""

from __future__ import annotations

import functools
import sys
from pathlib import Path

import numpy as np
import pytest

sys.path.insert(0, str(Path(__file__).resolve().parent.parent / "ops"))
from op_harness import CASES, NAMES, PRIMITIVES, is_array, samples

from twofold.backends.cpu import team
from twofold.backends.cpu.program import Program
from twofold.compiler.passes import canonicalize, prune
from twofold.ir.dtypes import BY_NAME
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
    graph, arguments, expected, outputs = Graph(name), [], [], []
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
    return Program(prune(canonicalize(graph))), arguments, expected


# Sums of several terms: errors are units of the largest result, not of each.
SUMS = {
    "matmul", "conv", "conv_input_grad", "conv_weight_grad", "conv_last", "conv_last_input_grad",
    "conv_last_weight_grad",
    "sum", "sum_pool", "sum_pool_grad", "index_put", "scatter_add", "scatter_reduce", "cumsum",
}  # fmt: skip

# The sign of a zero result is not the same in NumPy's own loops for different dtypes.
ANY_ZERO = {"maximum", "minimum", "nextafter", "relu", "sign"}


def check(name, got, expected, ulps, text):
    assert (got.shape, got.dtype) == (expected.shape, expected.dtype), text
    if got.dtype.kind == "c":
        part = np.dtype(f"f{got.dtype.itemsize // 2}")
        got, expected = (np.array(x).reshape(-1).view(part) for x in (got, expected))
        ulps = ULPS[part.name]
    if got.dtype.kind in "biu" or not ulps:
        np.testing.assert_array_equal(got, expected, err_msg=text)
        return
    with np.errstate(all="ignore"):
        scale = expected
        if name in SUMS and expected.size:
            scale = np.nanmax(np.abs(np.where(np.isfinite(expected), expected, 0))).astype(expected.dtype)
        unit = np.abs(np.spacing(scale)).astype(np.float64)
        a, b = (np.asarray(x, np.float64) for x in (got, expected))
        good = (a == b) | (np.isnan(a) & np.isnan(b)) | (np.abs(a - b) <= ulps * unit)
    signs = (name in ANY_ZERO) | (a != 0) | (b != 0) | (np.signbit(a) == np.signbit(b))
    assert np.all(good & signs), f"{text}: got {a[~(good & signs)]}, expected {b[~(good & signs)]}"


@pytest.mark.parametrize("name", [n for n in NAMES if n not in NOT_KERNELS])
def test_results_are_those_of_the_reference(name):
    program, arguments, expected = compiled(name)
    got = program([a.copy() for a in arguments])
    values = program.graph.outputs
    for value, g, e in zip(values, got, expected, strict=True):
        check(name, g, e, ULPS.get(value.dtype.name, 0), f"{value.node} {e.shape}")
