"""The text of graphs: what is printed, that it is read back, and what broken text says."""

import ml_dtypes
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

import twofold  # noqa: F401  (fills the table)
from twofold.ir.dtypes import ALL, bool_, complex64, float32, float64
from twofold.ir.errors import GraphError, Location
from twofold.ir.graph import Graph
from twofold.ir.parse import _Parser, parse_graph
from twofold.ir.primitive import PRIMITIVES, Primitive
from twofold.ir.types import TensorType

F = TensorType((2, 3), float32)


@pytest.fixture
def probe():
    """A primitive that takes any params."""
    yield Primitive(
        "probe", type_rule=lambda *xs, **params: xs[0], numpy=lambda *xs, **params: xs[0],
        nondiff="a test's", samples=lambda dtype, rng: (),
    )  # fmt: skip
    del PRIMITIVES["probe"]


def sample():
    graph = Graph("step")
    x, weight = graph.add_input(F, "x"), graph.add_input(F, "model.weight")
    again = graph.add_input(F, "x")
    where = Location("/home/me/train.py", 12, "step")
    (a,) = graph.add(PRIMITIVES["add"], (x, weight), {}, where, (("model", 0), ("conv1", 3)))
    (b,) = graph.add(PRIMITIVES["mul"], (a, graph.constant(2.0)), {}, where)
    big = graph.constant(np.arange(20, dtype=np.float32))
    (c,) = graph.add(PRIMITIVES["mul"], (b, graph.constant(np.array([[1], [2]], np.float32))), {})
    values, _ = graph.add(PRIMITIVES["sort"], (c,), {"dim": 1, "descending": True}, None, (("sort", 0),))
    values.name = "best"
    graph.set_outputs([values, again, big, graph.constant(True)])
    return graph


READABLE = """\
graph step(%x: float32[2, 3], %model.weight: float32[2, 3], %x_1: float32[2, 3]) {
  %c: float32[20] = constant([0.0, 1.0, 2.0, ...])
  %c_1: float32[2, 1] = constant([[1.0], [2.0]])
  %0: float32[2, 3] = add(%x, %model.weight)                                 # train.py:12 model.conv1
  %1: float32[2, 3] = mul(%0, float32(2.0))                                  # train.py:12
  %2: float32[2, 3] = mul(%1, %c_1)
  %best: float32[2, 3], %4: int64[2, 3] = sort(%2, descending=True, dim=1)   # sort
  return %best, %x_1, %c, bool(True)
}"""


def test_readable_form():
    assert str(sample()) == READABLE


def test_readable_form_is_read_back_unless_a_constant_is_shortened():
    with pytest.raises(GraphError, match="line 2: a constant is shortened here"):
        parse_graph(READABLE)
    graph = Graph()
    x = graph.add_input(F, "x")
    graph.set_outputs(graph.add(PRIMITIVES["neg"], (x,), {}, Location("a.py", 1, "f"), (("layer", 0),)))
    assert "# a.py:1 layer" in str(graph)
    assert parse_graph(str(graph)) == graph


def test_full_form_is_read_back():
    graph = sample()
    back = parse_graph(graph.to_text()).verify()
    assert back == graph and back.to_text() == graph.to_text() and str(back) == str(graph)
    assert back.nodes[0].location == Location("/home/me/train.py", 12, "step")
    assert back.nodes[0].scope == (("model", 0), ("conv1", 3))
    assert [v.name for v in back.inputs] == ["x", "model.weight", "x_1"]


PARAMS = [
    0, -3, 10**30, True, False, None, 0.0, -0.0, 1.5, 1e300, -1e-300, float("inf"), float("-inf"),
    "", "text", 'quote " \\ new\nline', "é \U0001f600 \ud800", (), (1,), (1, (2.0, (None, "a"))), ((), ()),
    complex(1, -0.0), complex(float("-inf"), 2.5), float32, bool_, complex64, (float64, 1),
]  # fmt: skip


def with_param(value):
    graph = Graph()
    graph.set_outputs(graph.add(PRIMITIVES["probe"], [graph.add_input(F)], {"p": value, "other": 1}))
    return graph.verify()


def same(a, b):
    return repr(a) == repr(b) and type(a) is type(b)


@pytest.mark.parametrize("value", PARAMS, ids=repr)
def test_params_are_read_back(value, probe):
    graph = with_param(value)
    back = parse_graph(graph.to_text())
    assert same(back.nodes[0].params["p"], value)
    assert back == graph


def test_nan_params_are_read_back_and_equal(probe):
    graph = with_param((float("nan"), complex(0, float("nan"))))
    back = parse_graph(graph.to_text())
    assert same(back.nodes[0].params["p"], (float("nan"), complex(0, float("nan")))) and back == graph


def test_params_that_differ_make_graphs_differ(probe):
    assert len({with_param(p).fingerprint() for p in [*PARAMS, 1, 1.0, "True", (True,)]}) == len(PARAMS) + 4


LITERALS = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text() | st.sampled_from(ALL)
    | st.complex_numbers(allow_nan=True, allow_infinity=True),
    lambda inner: st.lists(inner, max_size=3).map(tuple),
    max_leaves=8,
)  # fmt: skip


@given(value=LITERALS)
@settings(max_examples=100, deadline=None)
def test_any_literal_is_read_back(value):
    graph = Graph()
    full = PRIMITIVES["full"]
    (x,) = graph.add(full, (), {"shape": (2,), "value": 0, "dtype": float32})
    x.node.params["value"] = value  # printing and the fingerprint do not ask the type rule
    line = graph.to_text().splitlines()[1]
    text = line[line.index("value=") + len("value=") : -1]
    (again,) = graph.add(full, (), {"shape": (), "value": 0, "dtype": float32})
    again.node.params["value"] = reparse(text)
    assert same(again.node.params["value"], value)


def reparse(text):
    return _Parser(text).literal(0)


def bits(dtype, count, seed=0):
    """Arrays of all sorts of bit patterns, NaNs with payloads among them."""
    data = np.random.default_rng(seed).bytes(count * dtype.itemsize)
    array = np.frombuffer(data, dtype.numpy)
    return np.frombuffer(data, np.uint8)[:count] > 127 if dtype.kind == "bool" else array


SHAPES = [(), (1,), (2, 3), (16,), (17,), (3, 7), (0,), (0, 3), (2, 0, 4), (10**9, 0)]


@pytest.mark.parametrize("shape", SHAPES, ids=str)
@pytest.mark.parametrize("dtype", ALL, ids=lambda d: d.name)
def test_constants_are_read_back_bit_by_bit(dtype, shape):
    graph = Graph()
    count = int(np.prod(shape))
    arrays = [bits(dtype, count, seed).reshape(shape) for seed in range(3)]
    arrays.append(np.linspace(-3, 3, count).reshape(shape).astype(dtype.numpy))
    graph.set_outputs([graph.constant(a) for a in arrays])
    back = parse_graph(graph.verify().to_text()).verify()
    for array, value in zip(arrays, back.outputs, strict=True):
        assert value.type == TensorType(shape, dtype)
        assert back.constants[value].tobytes() == array.tobytes()
    assert back == graph
    assert str(back)


@pytest.mark.parametrize("value", [0.1, -0.0, np.inf, -np.inf, np.nan, 1e4, 2**-24])
def test_numbers_of_small_floats_are_short_and_exact(value):
    for dtype in (np.float16, np.float32, ml_dtypes.bfloat16):
        graph = Graph()
        graph.set_outputs([graph.constant(np.array(value).astype(dtype))])
        assert "base64" not in graph.to_text()
        assert parse_graph(graph.to_text()) == graph
    if value == 0.1:
        assert "bfloat16(0.1)" in graph.to_text()


def test_little_endian_base64_is_the_format():
    graph = Graph()
    graph.set_outputs([graph.constant(np.arange(17, dtype=np.int16))])
    assert 'base64 "AAABAAIAAwAEAAUABgAHAAgACQAKAAsADAANAA4ADwAQAA=="' in graph.to_text()


def nested():
    inner = Graph("inner")
    inner.set_outputs(inner.add(PRIMITIVES["neg"], [inner.add_input(F, "x")], {}))
    middle = Graph("middle")
    y = middle.add_input(F, "y")
    middle.set_outputs(middle.add(PRIMITIVES["probe"], [y], {"g": inner}, Location("m.py", 5, "f")))
    outer = Graph("outer")
    x = outer.add_input(F, "x")
    outer.set_outputs(
        outer.add(PRIMITIVES["probe"], [x], {"a": middle, "b": (inner, 1), "z": 2}, Location("o.py", 9, "g"))
    )
    return outer


def test_nested_graphs(probe):
    outer = nested().verify()
    assert (
        str(outer)
        == """\
graph outer(%x: float32[2, 3]) {
  %0: float32[2, 3] = probe(%x, z=2, a=graph middle(%y: float32[2, 3]) {   # o.py:9
      %0: float32[2, 3] = probe(%y, g=graph inner(%x: float32[2, 3]) {     # m.py:5
          %0: float32[2, 3] = neg(%x)
          return %0
        })
      return %0
    }, b=(graph inner(%x: float32[2, 3]) {
      %0: float32[2, 3] = neg(%x)
      return %0
    }, 1))
  return %0
}"""
    )
    back = parse_graph(outer.to_text())
    assert back == outer and back.to_text() == outer.to_text()
    assert back.nodes[0].params["a"].nodes[0].location == Location("m.py", 5, "f")


def test_verify_looks_into_nested_graphs(probe):
    outer = nested()
    outer.nodes[0].params["a"].nodes[0].params["g"].nodes[0].number = 5
    with pytest.raises(GraphError, match="graph 'inner': node #5 neg"):
        outer.verify()


def test_odd_names_are_made_readable():
    graph = Graph("my graph")
    values = [graph.add_input(F, name) for name in ("a b", "1x", "", "a_b", None, "ü", "0.weight")]
    graph.set_outputs(values)
    text = graph.to_text()
    assert text.startswith('graph "my graph"(%a_b: float32[2, 3], %_1x: ')
    back = parse_graph(text)
    assert back == graph and back.name == "my graph" and back.to_text() == text


# --- broken text ----------------------------------------------------------------------------

HEAD = "graph f(%x: float32[2]) {\n"


@pytest.mark.parametrize(
    ("text", "match"),
    [
        ("", "line 1: expected 'graph', found 'end of text'"),
        ("graph", "line 1: expected the graph's name"),
        ("graph f(", "line 1: expected a value '%name: type'"),
        ("graph f(x)", "expected a value '%name: type', found 'x'"),
        ("graph f(%x: float33[2]) {", "expected a dtype, one of bool, .*, found 'float33'"),
        ("graph f(%x: float32[-2]) {", "expected a size, a whole number, found '-2'"),
        ("graph f(%x: float32[1.5]) {", "expected a size, a whole number, found '1.5'"),
        ("graph f(%x: float32[99999999999999999999]) {", "expected a size"),
        (f"graph f(%x: float32[{'1,' * 65}]) {{ return }}", "65 dimensions, at most 64"),
        ("graph f(%x: float32[2], %x: float32[2]) {", "%x is defined twice"),
        (HEAD + "return %y }", "line 2: %y is used before it is defined"),
        (HEAD + "return %x } more", "line 2: expected end of text, found 'more'"),
        (HEAD + "return %x", "expected '}', found 'end of text'"),
        (HEAD, "line 2: expected a statement '%name: type = ...' or 'return'"),
        (HEAD + "\n%0: float32[2] = exq(%x)\nreturn %0 }", "line 3: there is no primitive 'exq'; .*exp"),
        (HEAD + "%0: float32[3] = neg(%x)\nreturn %0 }", "'neg' gives float32.2., but float32.3. is declared"),
        (HEAD + "%0: float32[2], %1: float32[2] = neg(%x)\nreturn %0 }", "'neg' gives float32.2., but"),
        (HEAD + "%0: float32[2] = neg(%x, %x)\nreturn %0 }", "line 2: 'neg' refuses its arguments"),
        (HEAD + "%0: float32[2] = neg(%x, a=1)\nreturn %0 }", "line 2: 'neg' refuses its arguments"),
        (HEAD + "%0: float32[2] = reshape(%x, shape=None)\nreturn %0 }", "line 2: 'reshape' refuses its arguments"),
        (HEAD + "%0: float32[2] = neg(%x, a=1, a=2)\nreturn %0 }", "param 'a' is given twice"),
        (HEAD + "%0: float32[2] = neg(a=1, %x)\nreturn %0 }", "expected a param 'name=...', which stand after"),
        (HEAD + "%0: float32[2] = neg(a=b)\nreturn %0 }", "expected a number, string, bool, None, dtype"),
        (HEAD + "%0: float32[2] = neg(a=__import__)\nreturn %0 }", "expected a number, .*found '__import__'"),
        (HEAD + "%0: float32[2] = neg(%x", "expected ',' or '.', found 'end of text'"),
        (HEAD + "%0: float32[2] = neg(7)\nreturn %0 }", "expected a value '%name' or a constant like"),
        (HEAD + "%x: float32[2] = neg(%x)\nreturn %0 }", "%x is defined twice"),
        (HEAD + "%0: float32[2] = neg(%x) at (1, 2)\nreturn %0 }", "after 'at'"),
        (HEAD + "%0: float32[2] = neg(%x) in (1, 2)\nreturn %0 }", "after 'in'"),
        (HEAD + "%0: float32[2] = neg(%x) ; return %0 }", "line 2: ';' begins no token"),
        (HEAD + "%0: int8[2] = constant([1, 2, 3])\nreturn %0 }", "type int8.2. is given numbers of shape .3,."),
        (HEAD + "%0: int8[2, 2] = constant([[1, 2], [3]])\nreturn %0 }", "lists of a constant differ in length"),
        (HEAD + "%0: int8[1] = constant([300])\nreturn %0 }", "not a constant of type int8"),
        (HEAD + "%0: int8[1] = constant([1.0])\nreturn %0 }", "1.0 is no int8"),
        (HEAD + "%0: bool[1] = constant([1])\nreturn %0 }", "1 is no bool"),
        (HEAD + "%0: int8[1], %1: int8[1] = constant([1])\nreturn %0 }", "a constant has one value"),
        (HEAD + '%0: int8[3] = constant(base64 "AAA=")\nreturn %0 }', "type int8.3. has 3 bytes, found 2"),
        (HEAD + '%0: int8[3] = constant(base64 "????")\nreturn %0 }', "the string is no base64"),
        (HEAD + '%0: bool[1] = constant(base64 "Ag==")\nreturn %0 }', "neither 0 nor 1"),
        (HEAD + '%0: float64[9223372036854775807, 9223372036854775807] = constant(base64 "")\nreturn }', "found 0"),
        (HEAD + '%0: int8[9999999999999999999, 0] = constant(base64 "")\nreturn }', "not a constant of type"),
        (HEAD + "return float32(x) }", "expected a number, found 'x'"),
        (HEAD + "return float32(True) }", "True is no float32"),
        (HEAD + "return complex64(complex(complex(1.0, 2.0), 1.0)) }", "expected the real part"),
        (HEAD + '%0: float32[2] = neg(%x, a="\\q")\nreturn %0 }', "line 2: not a string"),
        (HEAD + f"%0: float32[2] = neg(%x, a={'(' * 3000})\nreturn %0 }}", "at most 50 nested levels"),
        (HEAD + f"%0: float32[2] = neg(%x, a={'graph f() { %0: int8[] = neg(a=' * 500}", "at most 50 nested"),
        (HEAD + f"%0: float32[2] = neg(%x, a={'9' * 5000})\nreturn %0 }}", "line 2: not a number"),
    ],
)  # fmt: skip
def test_broken_text_says_where_and_what(text, match):
    with pytest.raises(GraphError, match=match):
        parse_graph(text)


@given(data=st.data())
@settings(max_examples=150, deadline=None)
def test_damaged_text_is_read_or_refused_with_a_graph_error(data):
    text = sample().to_text()
    start = data.draw(st.integers(0, len(text)))
    stop = data.draw(st.integers(start, min(len(text), start + 8)))
    junk = data.draw(st.text(alphabet='%(){}[],:=."\\0123456789abcxgrph\n -', max_size=6))
    try:
        graph = parse_graph(text[:start] + junk + text[stop:])
    except GraphError as e:
        assert "line " in str(e)
    else:
        graph.verify()
