"""Winograd convolutions of arrays, and their gradients, on open kernels: filtering.py and filteringgrad.py."""

from __future__ import annotations

import itertools
from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import numpy as np

from ...ir.dtypes import float32
from ...ir.types import Shape
from . import open as _open
from .copies import row_major
from .emit import Module
from .kernels.filtering import FILTER, FILTER_AT, INNER_BLOCK, LAY, LAY_AT, FilterKernels
from .kernels.filteringgrad import GATHER, GATHER_AT, LAY_OTHER_AT, GatherKernels
from .kernels.winograd import PAD, SHIFT, is_worth_it
from .kernels.winogradgrad import groups_of_tiles
from .products import Products, products_of
from .target import Target, host
from .team import get_num_threads

Array = np.ndarray[Any, Any]
Pairs = tuple[tuple[int, int], ...]

_LITTLE = 1 << 21  # multiply-adds that an entry does
_OWN = 1 << 20  # bytes of an entry's memory
_SCRATCH = 400 << 10  # bytes of transformed tiles and products that a worker holds at a time
_FEW_CHUNKS = 8
_TOGETHER = 2 << 20  # bytes of images that are laid before they are read
_WEIGHTS = 4 << 20  # bytes of transformed weights that are made before they are read
_CHUNK = 1 << 14  # elements of a chunk of laying


def suits(
    inputs: int, outputs: int, size: Shape, kernel: Shape, stride: Shape, dilation: Shape, groups: int
) -> bool:
    """Whether compiled code computes a convolution of float32, or one of its gradients, by Winograd's algorithm.

    Args:
        inputs, outputs: channels.
        size: height and width of the result; for a weight gradient, of the result's gradient.
    """
    if groups != 1 or kernel != (3, 3) or stride != (1, 1) or dilation != (1, 1):
        return False
    return 0 not in size and is_worth_it(inputs, outputs, *size)


def plan(
    name: str,
    a: Shape,
    b: Shape,
    *,
    stride: Shape,
    padding: Pairs,
    dilation: Shape,
    groups: int,
    input_size: Shape | None = None,
    kernel_size: Shape | None = None,
) -> Callable[[Array, Array], Array] | None:
    """What computes a convolution of float32, or one of its gradients; None where compiled code does it otherwise.

    Args:
        name: conv, conv_input_grad or conv_weight_grad; the others are its operands' shapes, and its params.
    """
    is_weight, is_adjoint = name == "conv_weight_grad", name == "conv_input_grad"
    size = b[2:] if is_weight else input_size
    if size is None:
        size = tuple([n + lo + hi - 2 for n, (lo, hi) in zip(a[2:], padding, strict=True)])
    outputs = b[1] if is_weight or is_adjoint else b[0]
    kernel = b[2:] if kernel_size is None else kernel_size
    if 0 in (*a, *b) or not suits(a[1], outputs, size, kernel, stride, dilation, groups):
        return None
    low = [2 - lo if is_adjoint else lo for lo, _ in padding]
    if is_weight:
        return Gather(_kernels(), a, b, low)
    return Filter(_kernels(), a, b, low, size, is_adjoint)


def modules(target: Target) -> list[Module]:
    """The code: of convolutions and input gradients, and of weight gradients."""
    out = []
    for kernels in (FilterKernels(target), GatherKernels(target)):
        out.append(Module(target))
        kernels.emit(out[-1])
    return out


class Winograds:
    """The functions for a processor; this one's by default.

    Attributes:
        filters, gathers: addresses of the phases of a convolution, and of a weight gradient.
        tiles: that of the tiles of products.
        little: an entry, see `emit_serial`; None if there is none.
        own: the address of its memory.
    """

    def __init__(self, target: Target | None = None):
        target = target or host()
        self.lanes, self.most = target.lanes(4), target.tile_rows
        self.least_width = FilterKernels(target).least_width
        self._codes = codes = [_open.Loaded(module, target) for module in modules(target)]
        self.filters = [codes[0].address(name) for name in ("panels", "lay", "filter")]
        self.gathers = [codes[1].address(name) for name in ("lay", "lay_other", "gather", "combine")]
        self._products = products_of(float32) if target == host() else Products(float32, target)
        self.tiles, self.own = self._products.tiles, 0
        self.little: Callable[..., Array] | None = None
        if _open.HAS_ENTRIES:
            self._room = np.empty(_OWN + 64, np.uint8)
            self.own = -(-_open.address_of(self._room) // 64) * 64
            self.little = codes[0].entry("serial")

    def panels(self, outputs: int) -> tuple[int, int]:
        """Columns of a panel, and how many there are."""
        width = self.least_width if outputs <= self.lanes else 2 * self.lanes
        return width, -(-outputs // width)

    def pixel(self, channels: int) -> int:
        """Bytes of a pixel with channels last."""
        return -(-channels // self.lanes) * self.lanes * 4


class _Run(NamedTuple):
    """Phases with the same words.

    Attributes:
        words: from word 2 on; for addresses, what is to be added to that of the array or the memory.
        phases: code and chunks.
    """

    words: Array
    phases: list[tuple[int, int]]


class _Task:
    """What is computed of two arrays of certain shapes, by runs one after the other.

    Args:
        shape: of the result.
        slots: the words for the addresses of the operands and of the result.
        made: words for the address of each thing that is made in memory, and how many bytes that takes.
        scratch: bytes of a worker's scratch memory.
        work: multiply-adds.
    """

    def __init__(
        self,
        code: Winograds,
        shape: Shape,
        runs: Sequence[_Run],
        slots: tuple[int, int, int],
        made: Sequence[tuple[tuple[int, ...], int]],
        scratch: int,
        work: int,
    ):
        self._code, self.shape, self._runs, self._slots = code, shape, runs, slots
        self._scratch = -(-scratch // 4096) * 4096
        *starts, self._nbytes = itertools.accumulate([nbytes for _, nbytes in made], initial=0)
        self._places = [(word, at) for (words, _), at in zip(made, starts, strict=True) for word in words]
        self._little, self._table = code.little, np.empty(0, np.int64)
        if len(runs) > 1 or work > _LITTLE or self._nbytes + self._scratch > _OWN:
            self._little = None
        if self._little is not None:
            self._table = self._serial(runs[0])

    def _serial(self, run: _Run) -> Array:
        """What the entry is given besides arrays, see `emit_serial`."""
        head = 7 + 3 * len(run.phases)
        table = np.zeros(head + 2 + len(run.words), np.int64)
        start = _open.address_of(table) + 8 * head
        for i, word in enumerate(self._slots):
            table[2 * i : 2 * i + 2] = start + 8 * word, run.words[word - 2]
        table[6] = len(run.phases)
        table[7:head] = [x for code, chunks in run.phases for x in (code, start, chunks)]
        words = table[head:]
        words[2:] = run.words
        words[:2] = self._code.own + self._nbytes, self._scratch
        for word, place in self._places:
            words[word] += self._code.own + place
        return table

    def __call__(self, a: Array, b: Array) -> Array:
        if not a.flags.c_contiguous:
            a = row_major(a)
        if not b.flags.c_contiguous:
            b = row_major(b)
        out = np.empty(self.shape, np.float32)
        if self._little is not None:
            self._little(a, b, out, self._table)
            return out
        arrays = [_open.address_of(x) for x in (a, b, out)]
        with _open.take() as call:
            at, words = call.memory(self._nbytes + self._scratch * call.threads), call.words
            words[:2] = at + self._nbytes, self._scratch
            for run in self._runs:
                words[2 : 2 + len(run.words)] = run.words
                for word, address in zip(self._slots, arrays, strict=True):
                    words[word] += address
                for word, place in self._places:
                    words[word] += at + place
                call.run(*run.phases)
        return out


class Filter(_Task):
    """A convolution, or an input gradient.

    Args:
        x, w: shapes.
        low: the padding before; for the gradient, that of the convolution that it is.
        size: height and width of the result.
        is_adjoint: whether it is the gradient.
    """

    def __init__(self, code: Winograds, x: Shape, w: Shape, low: Sequence[int], size: Shape, is_adjoint: bool):
        images, inner = x[:2]
        outputs = w[1 if is_adjoint else 0]
        self._code, self._x, self._low, self._size, self._outputs = code, x, low, size, outputs
        self._columns, self._panels = code.panels(outputs)
        self._element = (inner * self._columns + SHIFT) * 4
        self._grid = -(-size[0] // 2), -(-size[1] // 2)
        pixel = code.pixel(inner)
        image = (2 * self._grid[0] + 2) * (2 * self._grid[1] + 2) * pixel
        together = -(-images // -(-images // max(1, _TOGETHER // image)))
        every = [9 * 4, outputs * 9 * 4] if is_adjoint else [inner * 9 * 4, 9 * 4]
        weights = {"w_lane": every[0], "w_inner": every[1], "flipped": int(is_adjoint)}
        runs, scratch = [], 0
        at_once = self._panels if together < images else self._panels_at_once(images)
        for first, panel in itertools.product(range(0, images, together), range(0, self._panels, at_once)):
            panels = min(at_once, self._panels - panel)
            words, lays, filters, needs = self._plan(min(together, images - first), panels)
            scratch = max(scratch, needs)
            channel = panel * self._columns  # the first of those that are computed
            words["outputs"] = min(outputs - channel, panels * self._columns)
            words["at_source"] += first * words["image"]
            words["at_w"] = channel * every[0]
            words["at_out"] = first * words["out_image"] + channel * words["out_channel"]
            known = np.array([(words | weights).get(name, 0) for name in (*LAY, *FILTER)], np.int64)
            chunks = panels * words["inner_blocks"] * (not first), lays * (not panel), filters
            phases = zip(code.filters, chunks, strict=True)
            runs.append(_Run(known, [phase for phase in phases if phase[1]]))
        made = [((_AT_PANELS,), at_once * 16 * self._element), ((_AT_PADDED, LAY_AT + 1), together * image)]
        work = images * self._grid[0] * self._grid[1] * 16 * inner * outputs
        super().__init__(code, (images, outputs, *size), runs, (LAY_AT, _AT_W, _AT_OUT), made, scratch, work)

    def _panels_at_once(self, images: int) -> int:
        """How many panels of weights are transformed and used before the next ones."""
        blocks = self._plan(images, 1)[2]
        fit = max(1, _WEIGHTS // (16 * self._element))
        return min(self._panels, max(fit, -(-2 * get_num_threads() // blocks)))

    def _plan(self, images: int, panels: int) -> tuple[dict[str, int], int, int, int]:
        """Words for some images and panels, the chunks of "lay" and "filter", and bytes of scratch memory."""
        code, inner, columns, (down, across) = self._code, self._x[1], self._columns, self._grid
        (height, width), outputs, pixel = self._size, self._outputs, code.pixel(inner)
        words = _lay(images, self._x, self._low, (2 * down + 2, 2 * across + 2), pixel)
        row, lines = pixel + PAD, images * down
        most = max(code.most, _SCRATCH // (16 * (row + columns * 4)))
        parts = -(-across // most)
        tiles = -(-across // parts)
        blocks = -(-lines // max(1, most // across))
        block = -(-lines // blocks)
        blocks = -(-lines // block)
        splits = min(panels, -(-_few_chunks() // (blocks * parts)))
        count = block * tiles
        words |= {
            "at_tiles": code.tiles, "inner": inner, "outputs": outputs, "width": columns, "panels": panels,
            "inner_blocks": -(-inner // INNER_BLOCK), "element": self._element, "panel": 16 * self._element,
            "across": across, "down": down, "lines": lines, "block_lines": block, "block_tiles": tiles,
            "parts": parts, "splits": splits, "image_step": words["rows"] * words["cols"] * pixel,
            "line_step": words["cols"] * pixel, "row": row, "input_step": count * row + PAD,
            "output_step": count * columns * 4 + PAD, "out_height": height, "out_width": width,
            "out_image": outputs * height * width * 4, "out_channel": height * width * 4,
        }  # fmt: skip
        scratch = 16 * (words["input_step"] + words["output_step"]) + (4 * tiles + 1) * columns * 4
        return words, _lay_chunks(words), blocks * parts * splits, scratch


class Gather(_Task):
    """A weight gradient.

    Args:
        x, g: shapes of the input, and of the gradient of the result.
        low: the padding before.
    """

    def __init__(self, code: Winograds, x: Shape, g: Shape, low: Sequence[int]):
        (images, inputs, *_), (_, outputs, height, width) = x, g
        columns, panels = code.panels(outputs)
        down, across = -(-height // 2), -(-width // 2)
        pixels = code.pixel(inputs), code.pixel(outputs)
        sizes = (2 * down + 2, 2 * across + 2), (2 * down, 2 * across)
        tiles = images * down * across
        pieces, groups, per = groups_of_tiles(tiles, inputs, outputs)
        partials = -(-tiles // per)
        splits = min(panels, -(-_few_chunks() // (pieces * groups)))
        row, wide = pixels[0] + PAD, -(-panels // splits)
        fits = max(16, _SCRATCH // (16 // pieces * (row + wide * columns * 4)))
        block = -(-per // -(-per // fits))
        panel_step = block * columns * 4 + PAD
        element, inner_blocks = (panels * inputs * columns + SHIFT) * 4, -(-inputs // INNER_BLOCK)
        lines = [size[1] * pixel for size, pixel in zip(sizes, pixels, strict=True)]
        laid = [size[0] * line for size, line in zip(sizes, lines, strict=True)]  # bytes of an image
        words = {
            "at_tiles": code.tiles, "inputs": inputs, "outputs": outputs, "width": columns, "panels": panels,
            "inner_blocks": inner_blocks, "pieces": pieces, "splits": splits, "partials": partials, "per": per,
            "tiles": tiles, "block": block, "across": across, "down": down, "seen_image": laid[0],
            "seen_line": lines[0], "seen_pixel": pixels[0], "given_image": laid[1], "given_line": lines[1],
            "given_pixel": pixels[1], "row": row, "input_step": block * row + PAD, "panel_step": panel_step,
            "output_step": wide * panel_step, "element": element, "partial": 16 * element,
        }  # fmt: skip
        at_once = self._at_once(sum(laid), down * across, per, pieces * splits)
        runs, most = [], 0
        for group in range(0, partials, at_once):
            count = min(at_once, partials - group)
            first = group * per // (down * across)
            last = -(-min(tiles, (group + count) * per) // (down * across))
            most = max(most, last - first)
            seen = _lay(last - first, x, low, sizes[0], pixels[0])
            given = _lay(last - first, g, (0, 0), sizes[1], pixels[1])
            for lay in (seen, given):
                lay["at_source"] += first * lay["image"]
            words |= {"first_group": group, "at_seen": -first * laid[0], "at_given": -first * laid[1]}
            parts = (seen, LAY), (given, LAY), (words, GATHER)
            known = np.array([part.get(name, 0) for part, names in parts for name in names], np.int64)
            chunks = _lay_chunks(seen), _lay_chunks(given), count * splits * pieces, panels * inner_blocks
            phases = list(zip(code.gathers, chunks, strict=True))
            runs.append(_Run(known, phases if group + count == partials else phases[:-1]))
        made = [
            ((_AT_SEEN, LAY_AT + 1), most * laid[0]),
            ((_AT_GIVEN, LAY_OTHER_AT + 1), most * laid[1]),
            ((_AT_PARTIALS,), partials * 16 * element),
        ]
        scratch = 16 // pieces * (words["input_step"] + words["output_step"])
        slots, work = (LAY_AT, LAY_OTHER_AT, _AT_GRAD), 16 * tiles * inputs * outputs
        super().__init__(code, (outputs, inputs, 3, 3), runs, slots, made, scratch, work)

    @staticmethod
    def _at_once(image: int, tiles: int, per: int, chunks: int) -> int:
        """How many groups of tiles a run does, by the bytes and tiles of an image, and the chunks of a group.

        There should be work for all threads, and few images that belong to two runs, which are laid twice.
        """
        fit = _TOGETHER * tiles // (image * per)
        return max(1, fit, -(-4 * tiles // per), -(-2 * get_num_threads() // chunks))


_AT_W, _AT_PANELS, _AT_PADDED, _AT_OUT = [
    FILTER_AT + FILTER.index(name) for name in ("at_w", "at_panels", "at_padded", "at_out")
]
_AT_SEEN, _AT_GIVEN, _AT_PARTIALS, _AT_GRAD = [
    GATHER_AT + GATHER.index(name) for name in ("at_seen", "at_given", "at_partials", "at_out")
]


def _lay(images: int, shape: Shape, low: Sequence[int], size: tuple[int, int], pixel: int) -> dict[str, int]:
    """The words of "lay" but for addresses, for copies of `size`, in which images begin at `low`."""
    _, channels, height, width = shape
    left = min(max(0, low[1]), size[1])
    count = max(0, min(width - max(0, -low[1]), size[1] - left))
    return {
        "at_source": max(0, -low[1]) * 4, "image": channels * height * width * 4, "channel": height * width * 4,
        "line": width * 4, "channels": channels, "height": height, "first_row": -low[0], "left": left,
        "count": count, "rows": size[0], "cols": size[1], "pixel": pixel, "items": images * size[0],
        "per_chunk": max(1, _CHUNK // (size[1] * pixel // 4)),
    }  # fmt: skip


def _few_chunks() -> int:
    """How many chunks should be made where some work is done in each of them."""
    return max(_FEW_CHUNKS, 2 * get_num_threads())


def _lay_chunks(words: dict[str, int]) -> int:
    return -(-words["items"] // words["per_chunk"])


_loaded: list[Winograds] = []


def _kernels() -> Winograds:
    if not _loaded:
        _loaded.append(Winograds())  # the first stays: another thread may have it
    return _loaded[0]
