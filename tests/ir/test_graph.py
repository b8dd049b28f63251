"""Graphs: building, equality, verification."""

import numpy as np
import pytest

import twofold  # noqa: F401  (fills the table)
from twofold.ir.dtypes import bfloat16, bool_, complex64, float32, float64, int8, int64, uint8
from twofold.ir.errors import DTypeError, GraphError, Location, ShapeError
from twofold.ir.graph import Graph, Value
from twofold.ir.primitive import PRIMITIVES
from twofold.ir.types import TensorType

ADD, MUL, NEG, CONCAT, RESHAPE, SORT = (PRIMITIVES[n] for n in ("add", "mul", "neg", "concat", "reshape", "sort"))
F = TensorType((2, 3), float32)


def sample(names=("x", "y"), graph_name="f", location=None, scope=()):
    graph = Graph(graph_name)
    x, y = (graph.add_input(F, name) for name in names)
    (a,) = graph.add(ADD, (x, y), {}, location, scope)
    (b,) = graph.add(MUL, (a, graph.constant(2.0)), {}, location, scope)
    values, indices = graph.add(SORT, (b,), {"dim": 1, "descending": False}, location, scope)
    graph.set_outputs([values, indices, a])
    return graph


def test_building():
    graph = sample()
    assert [v.type for v in graph.outputs] == [F, TensorType((2, 3), int64), F]
    assert [n.number for n in graph.nodes] == [0, 1, 2]
    sort = graph.nodes[-1]
    assert [(v.node, v.index) for v in sort.outputs] == [(sort, 0), (sort, 1)]
    x = graph.inputs[0]
    assert (x.shape, x.dtype, x.ndim, x.name, x.node) == ((2, 3), float32, 2, "x", None)
    assert graph.verify() is graph


def test_literals_are_added_once_per_bits_and_dtype():
    graph = Graph()
    one = graph.constant(1.0)
    assert graph.constant(1.0) is one and graph.constant(np.float32(1)) is one
    assert graph.constant(0.0) is not graph.constant(-0.0)
    assert graph.constant(float("nan")) is graph.constant(float("nan"))
    assert graph.constant(1.0, float64) is not one
    assert graph.constant(1.0, name="lr") is not one
    assert graph.constant(np.ones(1, np.float32)) is not graph.constant(np.ones(1, np.float32))
    assert graph.constant(True).dtype is bool_ and graph.constant(3).dtype is int64
    assert graph.constant(1j).dtype is complex64


def test_constants_are_copies_in_row_major_native_order():
    source = np.arange(6, dtype=">f4").reshape(2, 3).T
    graph = Graph()
    array = graph.constants[graph.constant(source)]
    source[:] = 0
    np.testing.assert_array_equal(array, [[0, 3], [1, 4], [2, 5]])
    assert array.dtype == np.float32 and array.dtype.isnative and array.flags.c_contiguous
    with pytest.raises(ValueError, match="read-only"):
        array[0] = 1


def test_integers_wrap_like_the_operands_of_eager_operations():
    graph = Graph()

    def stored(dtype, *numbers):
        return [graph.constants[graph.constant(n, dtype)].item() for n in numbers]

    assert stored(uint8, -1, 256, 7) == [255, 0, 7]
    assert stored(int8, 128, -129, 255, -128) == [-128, 127, -1, -128]
    with pytest.raises(DTypeError, match="no integer"):
        graph.constant(1.5, int64)
    with pytest.raises(DTypeError, match="can't be a constant of dtype"):
        graph.constant(1j, float32)
    with pytest.raises(DTypeError, match="no dtype of a tensor"):
        graph.constant("text")


def test_values_of_another_graph_are_refused():
    a, b = Graph("a"), Graph("b")
    x = a.add_input(F, "x")
    with pytest.raises(GraphError, match=r"<x: float32\[2, 3\]>, belongs to graph 'a', not to 'b'"):
        b.add(NEG, (x,), {})
    with pytest.raises(GraphError, match="belongs to graph 'a'"):
        b.set_outputs([x])
    with pytest.raises(GraphError, match="argument 0 is float, expected a Value"):
        a.add(NEG, (1.0,), {})
    assert b.nodes == []


def test_type_rules_run_when_a_node_is_added():
    graph = Graph()
    x, y = graph.add_input(F), graph.add_input(TensorType((4,), float32))
    with pytest.raises(ShapeError, match="do not broadcast"):
        graph.add(ADD, (x, y), {})
    assert graph.nodes == []


def test_equality_ignores_names_and_origins():
    plain = sample()
    other = sample(("a", "b"), "g", Location("train.py", 3, "step"), (("model", 0),))
    assert plain == other and hash(plain) == hash(other) and plain.fingerprint() == other.fingerprint()
    assert len(plain.fingerprint()) == 64
    unused = sample()
    unused.constant(np.ones(3))
    assert plain == unused
    assert plain != "graph"


def changed(change):
    graph = Graph()
    x, y = (graph.add_input(F if change != "dtype" else F.with_dtype(bfloat16)) for _ in range(2))
    first, second = (y, x) if change == "order" else (x, y)
    (a,) = graph.add(MUL if change == "primitive" else ADD, (first, second), {})
    number = {"constant": 3.0, "zero": -0.0}.get(change, 0.0)
    (b,) = graph.add(MUL, (a, graph.constant(number, x.dtype)), {})
    (c,) = graph.add(RESHAPE, (b,), {"shape": (3, 2) if change == "param" else (6,)})
    graph.set_outputs([c, c] if change == "outputs" else [c])
    return graph


CHANGES = ["none", "dtype", "order", "primitive", "constant", "zero", "param", "outputs"]


def test_equality_sees_every_difference():
    graphs = [changed(c) for c in CHANGES]
    assert len({g.fingerprint() for g in graphs}) == len(CHANGES)
    assert changed("none") == graphs[0] and changed("zero") == graphs[5]


# --- verify -------------------------------------------------------------------------------


def damage_order(graph):
    graph.nodes.reverse()
    for i, node in enumerate(graph.nodes):
        node.number = i


def damage_number(graph):
    graph.nodes[1].number = 7


def damage_type(graph):
    graph.nodes[0].outputs[0].type = TensorType((9,), float32)


def damage_twice(graph):
    graph.nodes[1].outputs = graph.nodes[0].outputs


def damage_param(graph):
    graph.nodes[2].params["dim"] = [1]


def damage_param_numpy(graph):
    graph.nodes[2].params["dim"] = np.int64(1)


def damage_missing_param(graph):
    del graph.nodes[2].params["dim"]


def damage_output(graph):
    graph.outputs[1] = Value(graph, F, None, 0, "ghost")


def damage_constant(graph):
    (value,) = graph.constants
    graph.constants[value] = np.zeros(2, np.float32)


def damage_input_type(graph):
    graph.inputs[0].type = None


def damage_foreign(graph):
    graph.inputs[1] = Graph("elsewhere").add_input(F, "y")


def damage_operand(graph):
    graph.nodes[1].inputs = (graph.nodes[1].inputs[0], graph.add_input(TensorType((5,), float32)))


def damage_backlink(graph):
    graph.nodes[0].outputs[0].index = 1


@pytest.mark.parametrize(
    ("damage", "match"),
    [
        (damage_order, r"input 0 of node #0 sort\(.*\) is .*, which is not made before it"),
        (damage_number, r"node #7 mul\(.*\) stands in place 1"),
        (damage_type, r"node #0 add\(.*\) has outputs \[float32\[9\]\], the type rule gives \[float32\[2, 3\]\]"),
        (damage_twice, r"output 0 of node #1 mul\(.*\) is made twice"),
        (damage_param, r"param dim of node #2 sort\(.*\) is \[1\] of type list"),
        (damage_param_numpy, r"param dim of node #2 sort\(.*\) is .* of type int64"),
        (damage_missing_param, r"the type rule refuses node #2 sort\(.*\): TypeError"),
        (damage_output, r"output 1, <ghost: float32\[2, 3\]>, is not made in this graph"),
        (damage_constant, r"constant <value: float32\[\]> holds an array of type float32\[2\]"),
        (damage_input_type, r"input 0 has no type"),
        (damage_foreign, r"input 1 belongs to graph 'elsewhere'"),
        (damage_operand, r"the type rule refuses node #1 mul\(.*\): .*do not broadcast"),
        (damage_backlink, r"output 0 of node #0 add\(.*\) does not point back"),
    ],
)
def test_verify_names_what_is_wrong(damage, match):
    graph = sample().verify()
    damage(graph)
    with pytest.raises(GraphError, match=match):
        graph.verify()


def test_repr():
    graph = sample()
    assert repr(graph) == "<Graph f: 2 inputs, 3 nodes, 3 outputs>"
    assert repr(graph.nodes[0]) == "#0 add(%x: float32[2, 3], %y: float32[2, 3])"
    assert repr(graph.outputs[1]) == "<sort#2: int64[2, 3]>"
