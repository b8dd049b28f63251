"""parse_graph: the text form of a graph read back; see Note [Text of graphs] in text.py.

A recursive descent over a small token list. Text may come from anywhere, so nothing is evaluated
and no memory is taken before the size that a constant claims was compared with its data.
"""

from __future__ import annotations

import base64
import binascii
import difflib
import json
import math
import re
from typing import Any, NamedTuple, NoReturn

import numpy as np

from .dtypes import BY_NAME, DType
from .errors import GraphError, Location, TwofoldError
from .graph import Graph, Value
from .primitive import PRIMITIVES, Primitive
from .text import Scope
from .types import TensorType

_MAX_DEPTH = 50  # of tuples and nested graphs
_MAX_NDIM = 64  # NumPy's limit

_TOKEN = re.compile(
    r"""
      (?P<space>[ \t\r\n]+|\#[^\n]*)
    | (?P<value>%[A-Za-z0-9_.]+)
    | (?P<number>-?(?:(?:\d+\.?\d*(?:[eE][+-]?\d+)?)|inf\b|nan\b))
    | (?P<string>"(?:[^"\\\n]|\\.)*")
    | (?P<word>[A-Za-z_][A-Za-z0-9_]*)
    | (?P<mark>\.\.\.|[()\[\]{},:=])
    """,
    re.VERBOSE | re.ASCII,
)


class Token(NamedTuple):
    kind: str
    text: str
    line: int


_END = "end of text"


def parse_graph(text: str) -> Graph:
    """The graph that `Graph.to_text()` wrote; checked like one made by hand.

    Raises: GraphError with the line number, what was found and what was expected.

    >>> graph = parse_graph("graph f(%x: float32[2]) { return %x, float32(1.5) }")
    >>> [v.type for v in graph.outputs]
    [float32[2], float32[]]
    """
    parser = _Parser(text)
    graph = parser.graph(depth=0)
    if parser.peek().kind != _END:
        parser.fail(_END)
    return graph


def _tokens(text: str) -> list[Token]:
    out = []
    at, line = 0, 1
    while at < len(text):
        match = _TOKEN.match(text, at)
        if match is None:
            raise GraphError(f"line {line}: {text[at]!r} begins no token", op="parse_graph")
        if match.lastgroup != "space":
            out.append(Token(match.lastgroup or "", match.group(), line))
        line += match.group().count("\n")
        at = match.end()
    out.append(Token(_END, _END, line))
    return out


class _Parser:
    def __init__(self, text: str):
        self.tokens = _tokens(text)
        self.at = 0

    # --- tokens ---------------------------------------------------------------------------

    def peek(self, ahead: int = 0) -> Token:
        return self.tokens[min(self.at + ahead, len(self.tokens) - 1)]

    def next(self) -> Token:
        token = self.peek()
        self.at += 1
        return token

    def fail(self, expected: str, token: Token | None = None) -> NoReturn:
        token = token or self.peek()
        raise GraphError(f"line {token.line}: expected {expected}, found {token.text!r}", op="parse_graph")

    def error(self, message: str, token: Token, cause: Exception | None = None) -> NoReturn:
        raise GraphError(f"line {token.line}: {message}", op="parse_graph") from cause

    def take(self, text: str, expected: str | None = None) -> Token:
        if self.peek().text != text or self.peek().kind == "string":
            self.fail(expected or repr(text))
        return self.next()

    def accept(self, text: str) -> bool:
        found = self.peek().text == text and self.peek().kind != "string"
        self.at += found
        return found

    def take_kind(self, kind: str, expected: str) -> Token:
        if self.peek().kind != kind:
            self.fail(expected)
        return self.next()

    def list_until(self, close: str, item: Any) -> list[Any]:
        """Items with commas between them, and a comma after the last one if you like."""
        items = []
        while not self.accept(close):
            items.append(item())
            if not self.accept(","):
                self.take(close, f"',' or {close!r}")
                break
        return items

    # --- graphs ---------------------------------------------------------------------------

    def graph(self, depth: int) -> Graph:
        if depth > _MAX_DEPTH:
            self.fail(f"at most {_MAX_DEPTH} nested levels")
        self.take("graph")
        name = self.next()
        if name.kind not in ("word", "string"):
            self.fail("the graph's name", name)
        graph = Graph(self.string(name) if name.kind == "string" else name.text)
        values: dict[str, Value] = {}
        self.take("(")
        for token, type in self.list_until(")", self.definition):
            self.define(values, token, graph.add_input(type, _hint(token.text)))
        self.take("{")
        while not self.accept("return"):
            if self.peek().kind != "value":
                self.fail("a statement '%name: type = ...' or 'return'")
            self.statement(graph, values, depth)
        if not self.accept("}"):
            outputs = [self.use(graph, values)]
            while self.accept(","):
                outputs.append(self.use(graph, values))
            graph.set_outputs(outputs)
            self.take("}")
        return graph

    def statement(self, graph: Graph, values: dict[str, Value], depth: int) -> None:
        targets = [self.definition()]
        while self.accept(","):
            targets.append(self.definition())
        self.take("=")
        word = self.take_kind("word", "the name of a primitive")
        if word.text == "constant":
            (token, type), *more = targets
            if more:
                self.error("a constant has one value", word)
            self.define(values, token, graph.constant(self.constant(type), name=_hint(token.text)))
            return
        outputs = self.call(graph, values, word, depth)
        declared, given = [type for _, type in targets], [v.type for v in outputs]
        if declared != given:
            self.error(f"{word.text!r} gives {_list(given)}, but {_list(declared)} is declared", word)
        for (token, _), value in zip(targets, outputs, strict=True):
            value.name = _hint(token.text)
            self.define(values, token, value)

    def call(self, graph: Graph, values: dict[str, Value], word: Token, depth: int) -> tuple[Value, ...]:
        prim = self.primitive(word)
        inputs: list[Value] = []
        params: dict[str, Any] = {}

        def argument() -> None:
            token = self.peek()
            if token.kind == "word" and self.peek(1).text == "=":
                self.at += 2
                if token.text in params:
                    self.error(f"param {token.text!r} is given twice", token)
                params[token.text] = self.literal(depth + 1)
            elif params:
                self.fail("a param 'name=...', which stand after the inputs")
            else:
                inputs.append(self.use(graph, values))

        self.take("(")
        self.list_until(")", argument)
        location, scope = self.origin()
        try:
            return graph.add(prim, inputs, params, location, scope)
        except TwofoldError as e:
            self.error(f"{prim.name!r} refuses its arguments: {e.message}", word, e)
        except (TypeError, ValueError, AttributeError, IndexError, KeyError, ArithmeticError) as e:
            self.error(f"{prim.name!r} refuses its arguments: {type(e).__name__}: {e}", word, e)

    def primitive(self, word: Token) -> Primitive:
        if word.text not in PRIMITIVES:
            near = difflib.get_close_matches(word.text, PRIMITIVES, n=3)
            self.error(
                f"there is no primitive {word.text!r}" + (f"; did you mean {' or '.join(near)}?" if near else ""),
                word,
            )
        return PRIMITIVES[word.text]

    def origin(self) -> tuple[Location | None, Scope]:
        """`at (file, line, function) in ((name, number), ...)`, both optional."""
        location: Location | None = None
        scope: Scope = ()
        token = self.peek()
        if self.accept("at"):
            value = self.literal(0)
            if not _is(value, (str, int, str)):
                self.error("expected ('file', line, 'function') after 'at'", token)
            location = Location(*value)
        if self.accept("in"):
            scope = self.literal(0)
            if not isinstance(scope, tuple) or not all(_is(s, (str, int)) for s in scope):
                self.error("expected (('name', number), ...) after 'in'", token)
        return location, scope

    # --- values ---------------------------------------------------------------------------

    def definition(self) -> tuple[Token, TensorType]:
        token = self.take_kind("value", "a value '%name: type'")
        self.take(":")
        return token, self.type()

    def define(self, values: dict[str, Value], token: Token, value: Value) -> None:
        if token.text in values:
            self.error(f"{token.text} is defined twice", token)
        values[token.text] = value

    def use(self, graph: Graph, values: dict[str, Value]) -> Value:
        token = self.peek()
        if token.kind == "value":
            self.at += 1
            if token.text not in values:
                self.error(f"{token.text} is used before it is defined", token)
            return values[token.text]
        if token.kind == "word" and token.text in BY_NAME:
            self.at += 1
            self.take("(")
            number = self.number()
            self.take(")")
            return graph.constant(self.array([number], TensorType((), BY_NAME[token.text]), token))
        self.fail("a value '%name' or a constant like 'float32(1.5)'")

    def type(self) -> TensorType:
        dtype = self.dtype()
        token = self.take("[")
        shape = self.list_until("]", self.size)
        if len(shape) > _MAX_NDIM:
            self.error(f"{len(shape)} dimensions, at most {_MAX_NDIM} are possible", token)
        return TensorType(shape, dtype)

    def dtype(self) -> DType:
        token = self.take_kind("word", "a dtype")
        if token.text not in BY_NAME:
            self.fail("a dtype, one of " + ", ".join(BY_NAME), token)
        return BY_NAME[token.text]

    def size(self) -> int:
        token = self.take_kind("number", "a size")
        if not token.text.isdigit() or len(token.text) > 19:
            self.fail("a size, a whole number", token)
        return int(token.text)

    # --- constants ------------------------------------------------------------------------

    def constant(self, type: TensorType) -> np.ndarray[Any, Any]:
        self.take("(")
        token = self.peek()
        if self.accept("base64"):
            data = self.bytes(self.take_kind("string", "a string in base64"))
            if len(data) != type.nbytes:
                self.error(f"a constant of type {type} has {type.nbytes} bytes, found {len(data)}", token)
            if type.dtype.kind == "bool" and data.strip(b"\0\1"):
                self.error("a byte of a bool is neither 0 nor 1", token)
            array = np.frombuffer(data, type.dtype.numpy.newbyteorder("<"))
            array = self.shaped(array, type, token)
        else:
            numbers: list[Any] = []
            shape = self.numbers(numbers, len(type.shape))
            if shape != type.shape and math.prod(type.shape) + len(numbers) > 0:
                self.error(f"a constant of type {type} is given numbers of shape {shape}", token)
            array = self.array(numbers, type, token)
        self.take(")")
        return array

    def bytes(self, token: Token) -> bytes:
        try:
            return base64.b64decode(self.string(token), validate=True)
        except (binascii.Error, ValueError) as e:
            self.error(f"the string is no base64: {e}", token, e)

    def numbers(self, out: list[Any], depth: int) -> tuple[int, ...]:
        """Nested lists as a flat one; returns the shape."""
        if self.peek().text == "...":
            self.error("a constant is shortened here; only the full text, to_text(), can be parsed", self.peek())
        if depth == 0:
            out.append(self.number())
            return ()
        opening = self.take("[")
        shapes = self.list_until("]", lambda: self.numbers(out, depth - 1))
        if any(s != shapes[0] for s in shapes):
            self.error("the lists of a constant differ in length", opening)
        return (len(shapes), *(shapes[0] if shapes else (0,) * (depth - 1)))

    def array(self, numbers: list[Any], type: TensorType, token: Token) -> np.ndarray[Any, Any]:
        kinds = {"bool": bool, "int": int, "uint": int, "float": float, "complex": complex}
        kind = kinds[type.dtype.kind]
        for number in numbers:
            if number.__class__ is not kind:
                self.error(f"{number!r} is no {type.dtype.name}", token)
        try:
            flat = np.array(numbers, type.dtype.numpy)
        except (OverflowError, ValueError) as e:
            self.error(f"not a constant of type {type}: {e}", token, e)
        return self.shaped(flat, type, token)

    def shaped(self, flat: np.ndarray[Any, Any], type: TensorType, token: Token) -> np.ndarray[Any, Any]:
        try:
            return flat.reshape(type.shape)
        except (OverflowError, ValueError) as e:  # dimensions beyond what an array can have
            self.error(f"not a constant of type {type}: {e}", token, e)

    # --- literals -------------------------------------------------------------------------

    def number(self) -> bool | int | float | complex:
        token = self.next()
        if token.kind == "number":
            return self.real(token)
        if token.text in ("True", "False") and token.kind == "word":
            return token.text == "True"
        if token.text == "complex" and token.kind == "word":
            self.take("(")
            real = self.real(self.take_kind("number", "the real part"))
            self.take(",")
            imag = self.real(self.take_kind("number", "the imaginary part"))
            self.take(")")
            if real.__class__ is not float or imag.__class__ is not float:
                self.error("the parts of a complex number are written with a point", token)
            return complex(real, imag)
        self.fail("a number", token)

    def real(self, token: Token) -> int | float:
        try:
            return int(token.text) if re.fullmatch(r"-?\d+", token.text) else float(token.text)
        except ValueError as e:
            self.error(f"not a number: {e}", token, e)

    def string(self, token: Token) -> str:
        try:
            return json.loads(token.text)
        except ValueError as e:
            self.error(f"not a string: {e}", token, e)

    def literal(self, depth: int) -> Any:
        """A param: number, string, None, dtype, tuple or graph."""
        token = self.peek()
        if depth > _MAX_DEPTH:
            self.fail(f"at most {_MAX_DEPTH} nested levels")
        if token.kind == "string":
            return self.string(self.next())
        if token.kind == "word" and token.text == "graph":
            return self.graph(depth)
        if self.accept("None"):
            return None
        if self.accept("("):
            return tuple(self.list_until(")", lambda: self.literal(depth + 1)))
        if token.kind == "word" and token.text in BY_NAME:
            return self.dtype()
        if token.kind == "number" or token.text in ("True", "False", "complex"):
            return self.number()
        self.fail("a number, string, bool, None, dtype, tuple or graph")


def _hint(name: str) -> str | None:
    """The name of `%name`; a number is none."""
    return None if name[1:2].isdigit() else name[1:]


def _list(types: list[TensorType]) -> str:
    return ", ".join(map(repr, types))


def _is(value: Any, classes: tuple[type, ...]) -> bool:
    return isinstance(value, tuple) and tuple(v.__class__ for v in value) == classes
