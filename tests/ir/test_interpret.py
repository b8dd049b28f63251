"""Running graphs: the reference interpreter on arrays, replay on tensors."""

import weakref

import numpy as np
import pytest

import twofold as tw
from twofold.autodiff.handle import wrap
from twofold.autodiff.replay import replay
from twofold.backends.reference import interpret
from twofold.compiler import trace
from twofold.ir.dtypes import bfloat16, bool_, float32, float64, int64
from twofold.ir.errors import DTypeError, GraphError, Location, OutOfBoundsError, ShapeError
from twofold.ir.evaluate import evaluate_graph, last_uses
from twofold.ir.graph import Graph
from twofold.ir.primitive import PRIMITIVES, Primitive
from twofold.ir.types import TensorType

F = TensorType((2, 3), float32)
X = np.arange(6, dtype=np.float32).reshape(2, 3)


def build(outputs, *types):
    """A graph from a function of `(node, *inputs)`, where `node(name, *inputs, **params)` adds one."""
    graph, where, scope = Graph("f"), Location("train.py", 12, "step"), (("net", 0), ("head", 1))

    def node(name, *inputs, **params):
        out = graph.add(PRIMITIVES[name], inputs, params, where, scope)
        return out if PRIMITIVES[name].multiple else out[0]

    graph.set_outputs(outputs(node, *[graph.add_input(t, f"x{i}") for i, t in enumerate(types)]))
    return graph.verify()


def test_values():
    graph = build(
        lambda node, x, y: [
            node("mul", node("add", x, y), x.graph.constant(2.0)),
            *node("sort", y, dim=1, descending=True),
        ],
        F,
        F,
    )
    y = np.array([[3, 1, 2], [0, 5, 4]], np.float32)
    first, values, indices = interpret(graph, [X, y])
    np.testing.assert_array_equal(first, (X + y) * 2)
    np.testing.assert_array_equal(values, [[3, 2, 1], [5, 4, 0]])
    np.testing.assert_array_equal(indices, [[0, 2, 1], [1, 2, 0]])
    assert [a.dtype for a in (first, values, indices)] == [np.float32, np.float32, np.int64]


def test_results_have_the_types_that_the_graph_says():
    def outputs(node, x):
        full = node("full", shape=(2,), value=1, dtype=bfloat16)
        total = node("sum", x, dims=(0,), keepdim=False)
        return [full, node("lt", x, x), node("argmax", x, dim=0, keepdim=False), total]

    graph = build(outputs, TensorType((3,), float32))
    arrays = interpret(graph, [np.ones(3, np.float32)])
    assert [TensorType.of(a) for a in arrays] == [v.type for v in graph.outputs]
    assert [v.dtype for v in graph.outputs] == [bfloat16, bool_, int64, float32]


def test_results_are_row_major_and_share_no_memory():
    def outputs(node, x):
        c = x.graph.constant(np.arange(20, dtype=np.float32))
        y = node("neg", x)
        turned = node("permute", x, dims=(1, 0))
        flat = [node("reshape", v, shape=(6,)) for v in (x, y)]
        return [x, x, turned, *flat, c, c, y, node("expand", x, shape=(4, 2, 3))]

    graph = build(outputs, F)
    x = X.copy()
    arrays = interpret(graph, [x])
    for i, a in enumerate(arrays):
        assert a.flags.c_contiguous and a.flags.writeable
        others = [x, *graph.constants.values(), *arrays[:i], *arrays[i + 1 :]]
        assert not any(np.shares_memory(a, b) for b in others)
        a[...] = -1
    np.testing.assert_array_equal(x, X)
    np.testing.assert_array_equal(interpret(graph, [x])[5], np.arange(20))


def test_strided_and_read_only_arguments():
    graph = build(lambda node, x: [node("neg", x), x], F)
    x = np.arange(12, dtype=np.float32).reshape(3, 4).T[::2]
    x.flags.writeable = False
    a, b = interpret(graph, [x])
    np.testing.assert_array_equal(a, -x)
    np.testing.assert_array_equal(b, x)
    assert b.flags.writeable


def test_values_are_freed_after_their_last_use():
    made, most = [], []

    def step(x):
        out = x + 1
        made.append(weakref.ref(out))
        most.append(sum(ref() is not None for ref in made))
        return out

    Primitive("watched", type_rule=lambda x: x, numpy=step, nondiff="a test's", samples=lambda dtype, rng: ())
    try:
        graph = Graph()
        value = graph.add_input(F)
        for _ in range(6):
            graph.add(PRIMITIVES["watched"], (value,), {})  # an output that nobody uses
            (value,) = graph.add(PRIMITIVES["watched"], (value,), {})
        graph.set_outputs([value])
        np.testing.assert_array_equal(evaluate_graph(graph, [X])[0], X + 6)
    finally:
        del PRIMITIVES["watched"]
    assert max(most) == 2  # the one that is read and the one that is made


def test_last_uses():
    graph = build(lambda node, x, y: [node("add", node("add", x, y), y)], F, F)
    x, y = graph.inputs
    (first,), _ = (n.outputs for n in graph.nodes)
    assert [set(v) for v in last_uses(graph)] == [{x}, {first, y}]


@pytest.mark.parametrize(
    ("arrays", "error", "match"),
    [
        ([], GraphError, "takes 1 arrays, got 0"),
        ([X, X], GraphError, "takes 1 arrays, got 2"),
        ([X.tolist()], GraphError, r"input 0 \(x0\) of graph 'f' must be a NumPy array, got list"),
        ([X[0]], ShapeError, r"input 0 \(x0\) of graph 'f' must be float32\[2, 3\], got float32\[3\]"),
        ([X.astype(np.float64)], DTypeError, r"must be float32\[2, 3\], got dtype float64"),
        ([X.astype(">f4")], DTypeError, "got dtype >f4"),
        ([X.astype("M8[s]")], DTypeError, "got dtype datetime64"),
    ],
)
def test_arguments_are_checked(arrays, error, match):
    with pytest.raises(error, match=match):
        interpret(build(lambda node, x: [x], F), arrays)


def test_an_error_names_the_node_and_its_origin():
    graph = build(lambda node, x, i: [node("index", x, i, dims=(0,))], F, TensorType((1,), int64))
    with pytest.raises(OutOfBoundsError) as caught:
        interpret(graph, [X, np.array([9])])
    text = str(caught.value)
    assert "node: #0 index(%x0: float32[2, 3], %x1: int64[1], dims=(0,)) of graph 'f'" in text
    assert "layer: net.head" in text and "at: train.py:12" in text
    assert isinstance(caught.value.__cause__, OutOfBoundsError)


def test_an_error_of_numpy_is_explained_too():
    def broken(x):
        raise MemoryError("no room")

    Primitive("broken", type_rule=lambda x: x, numpy=broken, nondiff="a test's", samples=lambda dtype, rng: ())
    try:
        with pytest.raises(GraphError, match=r"(?s)\[broken\] MemoryError: no room.*#0 broken.*at: train.py:12"):
            interpret(build(lambda node, x: [node("broken", x)], F), [X])
    finally:
        del PRIMITIVES["broken"]


# --- replay ---------------------------------------------------------------------------------------


def polynomial():
    def outputs(node, x, y):
        scale = x.graph.constant(np.array([1.0, 2.0, 3.0]))
        product = node("mul", node("mul", x, y), scale)
        return [node("sum", node("mul", product, x), dims=(0,), keepdim=False), product, y, scale]

    return build(outputs, TensorType((3,), float64), TensorType((3,), float64))


def test_replay_records_the_tape():
    x = tw.tensor([1.0, 2.0, 3.0], dtype=float64, requires_grad=True)
    y = tw.tensor([0.5, -1.0, 2.0], dtype=float64, requires_grad=True)
    out, product, same, scale = replay(polynomial(), [x, y])
    assert same is y and scale.tolist() == [1.0, 2.0, 3.0] and not scale.requires_grad
    assert product.tolist() == [0.5, -4.0, 18.0]
    out.backward()
    np.testing.assert_allclose(x.grad.numpy(), 2 * np.array([1, 2, 3]) * [1, 2, 3] * [0.5, -1, 2])
    np.testing.assert_allclose(y.grad.numpy(), np.array([1, 2, 3]) * [1, 4, 9])


def test_replay_while_tracing_gives_the_same_graph():
    graph = polynomial()
    args = [tw.tensor([1.0, 2.0, 3.0], dtype=float64), tw.tensor([0.5, -1.0, 2.0], dtype=float64)]
    again = trace(lambda x, y: replay(graph, [x, y]), *args).graph
    # an argument that is returned as it is needs no output of the graph
    assert [str(v.type) for v in again.outputs] == [str(v.type) for v in graph.outputs if v not in graph.inputs]
    assert [(n.prim, n.params) for n in again.nodes] == [(n.prim, n.params) for n in graph.nodes]


def test_replay_checks_its_arguments():
    graph = polynomial()
    x = wrap(np.zeros(3))
    with pytest.raises(GraphError, match="takes 2 tensors, got 1"):
        replay(graph, [x])
    with pytest.raises(ShapeError, match=r"input 1 of graph 'f' must be float64\[3\], got float64\[2\]"):
        replay(graph, [x, wrap(np.zeros(2))])
    with pytest.raises(DTypeError, match=r"got float32\[3\]"):
        replay(graph, [x, wrap(np.zeros(3, np.float32))])
