"""Weight gradients of convolutions of arrays, of any sizes, on open kernels (kernels/gradweights.py)."""

from __future__ import annotations

import math
from typing import Any

import numpy as np

from ...ir.dtypes import DType, float32
from ...ir.types import Shape
from . import open as _open
from .copies import row_major
from .emit import Module
from .kernels.convgeneral import images_of_block
from .kernels.convgrad import images_of_group, sees_one
from .kernels.gradweights import LINE, ROW, WORDS, WeightGradKernels
from .products import Products, products_of
from .target import Target, host

Array = np.ndarray[Any, Any]
Pairs = tuple[tuple[int, int], ...]

_LITTLE = 1 << 21  # multiply-adds that an entry does
_ROOM = 1 << 20  # bytes of an entry's memory
_ORDERS = 4  # of memory that have plans, for some shapes
_CACHED = 384 << 10  # bytes that a chunk works on at a time
_MOST_ROWS, _FEW_ROWS = 224, 56  # of a chunk
_LEAST_K, _MOST_K = 64, 512  # of a block
_FEW_CHUNKS = 16
_CHUNK = 1 << 18  # multiply-adds of a chunk, at least, where there could be fewer chunks
_COMBINED = 1 << 14  # elements that a chunk of "combine" adds


class WeightGrads:
    """The gradients of one dtype.

    Args:
        dtype: a floating one.
        target: the processor; this one's by default.
    """

    def __init__(self, dtype: DType, target: Target | None = None):
        self.target = target or host()
        self.kernels = WeightGradKernels(dtype, self.target)
        code = self._code = _open.Loaded(module_of(dtype, self.target), self.target)
        self.at = {name: code.address(name) for name in ("sums", "each", "combine")}
        self._products = Products(self.kernels.held, target) if target else products_of(self.kernels.held)
        self.tiles = self._products.tiles
        self.entry = code.entry("weight_grad") if _open.HAS_ENTRIES else None

    def plan(self, x_shape: Shape, g_shape: Shape, **params: Any) -> Gradients:
        """How gradients (O, C / groups, *K) for x (N, C, *S) and g (N, O, *L) of these shapes are computed.

        The params are those of `conv_weight_grad`, with one to three spatial dimensions.
        """
        return Gradients(self, x_shape, g_shape, params)


class Gradients:
    """The gradients of some shapes, a function of x and g; memory orders get a plan each when they are met."""

    def __init__(self, made: WeightGrads, x_shape: Shape, g_shape: Shape, params: dict[str, Any]):
        self._made, self._params = made, params
        self._shape = (g_shape[1], x_shape[1] // params["groups"], *params["kernel_size"])
        self._is_empty = 0 in x_shape or 0 in g_shape
        self._plans: dict[Any, _Plan] = {}  # by strides

    def __call__(self, x: Array, g: Array) -> Array:
        plan = self._plans.get((x.strides, g.strides))
        if plan is None:
            if self._is_empty:
                return np.zeros(self._shape, x.dtype)
            plan = _Plan(self._made, x, g, **self._params)
            if len(self._plans) < _ORDERS:
                self._plans[x.strides, g.strides] = plan
        return plan.run(x, g, np.empty(self._shape, x.dtype))


def module_of(dtype: DType, target: Target) -> Module:
    """The code for a dtype."""
    module = Module(target)
    WeightGradKernels(dtype, target).emit(module, _open.HAS_ENTRIES)
    return module


_made: dict[str, WeightGrads] = {}


def weight_grads_of(dtype: DType) -> WeightGrads:
    """The gradients of a dtype on this processor, loaded once."""
    made = _made.get(dtype.name)
    return made or _made.setdefault(dtype.name, WeightGrads(dtype))  # the first stays: a thread may have it already


class _Plan:
    """How gradients of arrays with the shapes and strides of `x` and `g` are computed."""

    def __init__(
        self,
        made: WeightGrads,
        x: Array,
        g: Array,
        *,
        kernel_size: Shape,
        stride: Shape,
        padding: Pairs,
        dilation: Shape,
        groups: int,
    ):
        self._made = made
        self._copies_x, self._copies_g = not _has_neighbours(x), _distance(g) is None
        x = row_major(x) if self._copies_x else x
        g = row_major(g) if self._copies_g else g
        self._words = dict.fromkeys(WORDS, 0)
        self._words["tiles"] = made.tiles
        depthwise = sees_one(groups, x.shape[1], g.shape[1])
        self._channels(x, g, groups)
        if depthwise:
            self._words |= {"groups": 1, "channels": 1, "outputs": groups}
        self._geometry(x, g, kernel_size, stride, [low for low, _ in padding], dilation)
        sizes = x.shape[0], x.shape[1], g.shape[1], groups
        if made.kernels.dtype is float32 and len(kernel_size) < 3:
            per = images_of_group(*sizes, (1, *kernel_size)[-2:], made.target)
        else:
            per = images_of_block(*sizes, kernel_size, dilation, made.kernels.held_size, made.target)
        self._groups(per)
        phase = self._each() if depthwise else self._sums()
        self._phases = [phase, self._combine()]
        self._plan = self._little()

    def run(self, x: Array, g: Array, out: Array) -> Array:
        """Compute the gradient into `out`, which is row-major."""
        if self._copies_x:
            x = row_major(x)
        if self._copies_g:
            g = row_major(g)
        if self._plan is not None:
            return self._made.entry(x, g, self._plan, out)  # type: ignore[misc]
        with _open.take() as call:
            at = call.memory(self._bytes + call.threads * self._row)
            addresses = {
                "parts": at,
                "x": _open.address_of(x),
                "g": _open.address_of(g),
                "out": _open.address_of(out),
            }
            table = self._table(at + self._bytes, addresses)
            call.words[: len(table)] = table
            call.run(*self._phases)
        return out

    def _table(self, scratch: int, addresses: dict[str, int]) -> list[int]:
        return [scratch, self._row, *{**self._words, **addresses}.values()]

    def _little(self) -> Array | None:
        """What the entry takes, if it is to do it."""
        w = self._words
        work = w["images"] * w["planes"] * w["lines"] * w["columns"] * w["rows"] * w["outputs"] * w["groups"]
        if self._made.entry is None or work > _LITTLE or self._bytes + self._row > _ROOM:
            return None
        at = _room()
        return np.array(
            [*self._table(at + self._bytes, {"parts": at}), *self._phases[0], *self._phases[1]], np.int64
        )

    # --- what the words say -----------------------------------------------------------------------

    def _channels(self, x: Array, g: Array, groups: int) -> None:
        w = self._words
        w["images"], w["groups"] = x.shape[0], groups
        w["channels"], w["outputs"] = x.shape[1] // groups, g.shape[1] // groups
        w["x_image"], w["x_channel"] = x.strides[:2]
        w["g_image"], w["g_channel"] = g.strides[:2]
        w["g_pixel"], w["run"] = _distance(g) or 0, math.prod(g.shape[2:])
        if w["run"] == 1:  # images are what lies at even distances
            w["g_pixel"], w["run"] = w["g_image"], x.shape[0]

    def _geometry(self, x: Array, g: Array, kernel: Shape, stride: Shape, low: list[int], dilation: Shape) -> None:
        dims = list(zip(x.shape[2:], x.strides[2:], g.shape[2:], kernel, stride, low, dilation, strict=True))
        dims = _joined(dims, x.itemsize)
        dims = [(1, 0, 1, 1, 1, 0, 1)] * (3 - len(dims)) + dims
        w, names = self._words, ("x_{}s", "x_{}", "{}s", "kernel_{}", "stride_{}", "low_{}", "dilation_{}")
        for long, short, numbers in zip(("plane", "line", "column"), "zyx", dims, strict=True):
            for name, number in zip(names, numbers, strict=True):
                w[name.format(long if name.endswith("s") else short)] = number
        if w["x_columns"] == 1:
            w["x_x"] = x.itemsize
        w["way"] = 0 if w["columns"] == 1 else min(w["stride_x"], 3) - 1

    def _groups(self, per: int) -> None:
        w, kernels = self._words, self._made.kernels
        w["per"], w["num_parts"] = per, -(-w["images"] // per)
        w["rows"] = w["channels"] * w["kernel_z"] * w["kernel_y"] * w["kernel_x"]
        width = kernels.lanes if kernels.masks and w["outputs"] <= kernels.lanes else kernels.width
        w["panels"], w["panel_step"] = -(-w["outputs"] // width), width * kernels.held_size
        w["row_bytes"] = w["panels"] * w["panel_step"]
        w["part_bytes"] = w["groups"] * w["rows"] * w["row_bytes"]
        self._bytes = _up(w["num_parts"] * w["part_bytes"])

    def _sums(self) -> tuple[int, int]:
        w, kernels = self._words, self._made.kernels
        pixels = w["planes"] * w["lines"] * w["columns"]
        rows, every = w["rows"], w["num_parts"] * w["groups"]
        work = w["per"] * pixels * rows * w["outputs"]
        blocks = max(-(-rows // _MOST_ROWS), min(-(-_FEW_CHUNKS // every), -(-rows // _FEW_ROWS), work // _CHUNK))
        w["block"] = -(-rows // blocks)
        w["blocks"] = -(-rows // w["block"])
        most = _CACHED // (kernels.held_size * w["block"] + w["row_bytes"])
        k = self._at_once(max(_LEAST_K, min(_MOST_K, most)), w["per"] * w["planes"] * w["lines"])
        w["pitch"] = _up((k + kernels.lanes) * kernels.held_size)
        w["pitch"] += 64 * (w["pitch"] // 64 % 2 == 0)  # so that rows don't fall into the same cache sets
        w["panel_bytes"] = _up((k + kernels.lanes) * w["panel_step"])
        w["row_table"] = w["block"] * w["pitch"]
        w["line_table"] = w["row_table"] + 8 * ROW * w["block"]
        w["turned"] = _up(w["line_table"] + 8 * LINE * w["lines_at_once"])
        self._row = w["turned"] + w["panels"] * w["panel_bytes"]
        return self._made.at["sums"], every * w["blocks"]

    def _at_once(self, most: int, lines: int) -> int:
        """How much of k is done at a time: some lines, or a part of one."""
        w, lanes = self._words, self._made.kernels.lanes
        columns = w["columns"]
        w["columns_at_once"], w["lines_at_once"] = columns, 1
        if columns > most:
            w["columns_at_once"] = _up(-(-columns // -(-columns // most)), lanes)
        else:
            w["lines_at_once"] = -(-lines // -(-lines // (most // columns)))
        return w["columns_at_once"] * w["lines_at_once"]

    def _each(self) -> tuple[int, int]:
        w, kernels = self._words, self._made.kernels
        one = kernels.lanes * kernels.held_size
        pixels = _CACHED // one
        reach = w["dilation_y"] * (w["kernel_y"] - 1) + 1
        beside = w["dilation_x"] * (w["kernel_x"] - 1) + 1
        w["columns_at_once"], w["lines_at_once"] = w["columns"], 1
        wide = (w["columns"] - 1) * w["stride_x"] + beside
        fit = (pixels - (reach - w["stride_y"]) * wide) // (w["stride_y"] * wide + w["columns"])
        if fit >= 1:
            w["lines_at_once"] = min(fit, w["lines"])
        else:
            most = max(kernels.lanes, pixels // (reach * w["stride_x"] + 1))
            w["columns_at_once"] = min(w["columns"], most)
            wide = (w["columns_at_once"] - 1) * w["stride_x"] + beside
        w["pitch"] = wide * one
        high = (w["lines_at_once"] - 1) * w["stride_y"] + reach
        w["turned"] = high * w["pitch"] + kernels.lanes * one
        self._row = w["turned"] + (w["lines_at_once"] * w["columns_at_once"] + kernels.lanes) * one
        return self._made.at["each"], w["num_parts"] * -(-w["outputs"] // kernels.lanes)

    def _combine(self) -> tuple[int, int]:
        w, lanes = self._words, self._made.kernels.lanes
        squares = w["groups"] * -(-w["rows"] // lanes) * -(-w["outputs"] // lanes)
        w["per_chunk"] = max(1, _COMBINED // (lanes * lanes * w["num_parts"]))
        return self._made.at["combine"], -(-squares // w["per_chunk"])


def _up(n: int, unit: int = 64) -> int:
    return -(-n // unit) * unit


def _has_neighbours(x: Array) -> bool:
    """Whether neighbours of a line of pixels lie side by side in memory."""
    return x.strides[-1] == x.itemsize or x.shape[-1] == 1


def _distance(g: Array) -> int | None:
    """From pixel to pixel of an image, in bytes, if it is the same everywhere."""
    dims = [(n, s) for n, s in zip(g.shape[2:], g.strides[2:], strict=True) if n > 1]
    if not dims:
        return g.itemsize
    distance = next_one = dims[-1][1]
    for n, s in reversed(dims):
        if s != next_one:
            return None
        next_one *= n
    return distance


def _joined(dims: list[Any], itemsize: int) -> list[Any]:
    """The last dimensions as one, where there is one tap and all elements of lines are neighbours.

    Each is size, bytes from one to the next, size of the result, kernel, stride, low, dilation.
    """
    while len(dims) > 1:
        (n, step, m, *one), (n2, step2, m2, *two) = dims[-2:]
        if one[:3] != [1, 1, 0] or two[:3] != [1, 1, 0] or (n, n2) != (m, m2):
            break
        if (n > 1 and step != n2 * itemsize) or (n2 > 1 and step2 != itemsize):
            break
        dims = [*dims[:-2], (n * n2, itemsize, n * n2, *two)]
    return dims


_memory: list[Array] = []


def _room() -> int:
    """The address of the memory of entries: one piece for all, as one runs at a time."""
    if not _memory:
        _memory.append(np.empty(_ROOM + 64, np.uint8))
    return _up(int(_memory[0].ctypes.data))
