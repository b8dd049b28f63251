"""The contract kernel where its operands are large."""

from __future__ import annotations

import numpy as np
import pytest

from twofold.backends.cpu import team
from twofold.backends.cpu.program import Program
from twofold.ir.graph import Graph
from twofold.ir.primitive import PRIMITIVES
from twofold.ir.types import TensorType


def product(a, b, dims):
    """relu(a.permute(dims) @ b), and how its kernel reads a."""
    graph = Graph("product")
    x, y = (graph.add_input(TensorType.of(v)) for v in (a, b))
    (x,) = graph.add(PRIMITIVES["permute"], [x], {"dims": dims})
    (z,) = graph.add(PRIMITIVES["matmul"], [x, y], {})
    graph.set_outputs(graph.add(PRIMITIVES["relu"], [z], {}))
    program = Program(graph)
    return program([a, b])[0], program


@pytest.mark.parametrize(("k", "m", "n"), [(1030, 2048, 70), (1100, 2050, 300), (8200, 1030, 33)])
def test_rows_of_a_tall_transposed_operand_are_gathered(k, m, n):
    rng = np.random.default_rng(0)
    a, b = (rng.standard_normal(s).astype(np.float32) for s in ((k, m), (k, n)))
    got, program = product(a, b, (1, 0))
    assert program._scratch_row >= k * 4 * program.target.lanes(4)
    plain, _ = product(np.ascontiguousarray(a.T), b, (0, 1))
    assert got.tobytes() == plain.tobytes()
    np.testing.assert_allclose(got, np.maximum(a.T.astype(np.float64) @ b, 0), atol=2e-6 * k)


def test_gathered_rows_of_a_batch_on_any_number_of_threads():
    rng = np.random.default_rng(1)
    a, b = (rng.standard_normal(s).astype(np.float32) for s in ((2, 2100, 1024), (2, 2100, 40)))
    results = []
    try:
        for count in (1, 2, 3):
            team.set_num_threads(count)
            results.append(product(a, b, (0, 2, 1))[0])
    finally:
        team.set_num_threads(team.usable_cpus())
    assert results[0].tobytes() == results[1].tobytes() == results[2].tobytes()
    np.testing.assert_allclose(results[0], np.maximum(a.transpose(0, 2, 1).astype(np.float64) @ b, 0), atol=5e-3)
