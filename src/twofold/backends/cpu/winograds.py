"""Winograd convolutions of arrays, and their weight gradients, on open kernels (kernels/filtering.py)."""

from __future__ import annotations

import functools
import itertools
from dataclasses import dataclass
from typing import Any

import numpy as np

from ...ir.dtypes import float32
from . import open as _open
from .copies import row_major
from .emit import Module
from .kernels.filtering import FILTER, FILTER_AT, INNER_BLOCK, LAY, LAY_AT, FilterKernels
from .kernels.filteringgrad import GATHER, GATHER_AT, LAY_OTHER_AT, GatherKernels
from .kernels.winograd import PAD, SHIFT, is_worth_it
from .kernels.winogradgrad import groups_of_tiles
from .products import Products, products_of
from .target import Target, host

Array = np.ndarray[Any, Any]
Pairs = tuple[tuple[int, int], ...]

_SCRATCH = 600 << 10  # bytes of transformed tiles and products that a worker holds at a time
_FEW_CHUNKS = 16
_TOGETHER = 8 << 20  # bytes of padded images that are made before they are read
_CHUNK = 1 << 14  # elements of a chunk of copying
_PLANS = 1024  # that are kept


def suits(
    inputs: int,
    outputs: int,
    size: tuple[int, ...],
    kernel: tuple[int, ...],
    stride: tuple[int, ...],
    dilation: tuple[int, ...],
    groups: int,
) -> bool:
    """Whether compiled code computes a convolution of float32, or one of its gradients, by Winograd's algorithm.

    Args:
        inputs, outputs: channels.
        size: height and width of the result; for the weight gradient, of the result's gradient.
    """
    if groups != 1 or kernel != (3, 3) or stride != (1, 1) or dilation != (1, 1):
        return False
    return is_worth_it(inputs, outputs, *size)


def forward(
    x: Array, w: Array, padding: Pairs, adjoint: bool = False, size: tuple[int, ...] | None = None
) -> Array:
    """A convolution, or the gradient with respect to its input.

    Args:
        x: (N, C, H, W), float32; the gradient of the result if `adjoint`.
        w: (O, C, 3, 3).
        padding: of the convolution.
        size: height and width of the result if `adjoint`.
    """
    return _kernels().forward(x, w, padding, adjoint, size)


def weight_grad(x: Array, g: Array, padding: Pairs) -> Array:
    """The gradient with respect to the weight, (O, C, 3, 3).

    Args:
        x: the input, (N, C, H, W), float32.
        g: the gradient of the result, (N, O, H', W').
        padding: of the convolution.
    """
    return _kernels().weight_grad(x, g, padding)


@dataclass(frozen=True)
class _Plan:
    """What follows from sizes.

    Attributes:
        words: all arguments but addresses, from word 2 on.
        chunks: of the kernels.
        nbytes: of what they make in memory.
        scratch: bytes of a worker's scratch memory.
    """

    words: list[int]
    chunks: tuple[int, ...]
    nbytes: tuple[int, ...]
    scratch: int


class Winograds:
    """The functions for a processor; this one's by default."""

    def __init__(self, target: Target | None = None):
        target = target or host()
        self.lanes, self.most = target.lanes(4), target.tile_rows
        filtering, gathering = FilterKernels(target), GatherKernels(target)
        self.least_width = filtering.least_width
        self._codes = []
        for kernels in (filtering, gathering):
            module = Module(target.half)
            kernels.emit(module)
            self._codes.append(_open.Loaded(module, target))
        self._at = [self._codes[0].address(name) for name in ("panels", "lay", "filter")]
        self._grad_at = [self._codes[1].address(name) for name in ("lay", "lay_other", "gather", "combine")]
        self._products = products_of(float32) if target == host() else Products(float32, target)
        self._plan = functools.lru_cache(_PLANS)(self._planned)
        self._grad_plan = functools.lru_cache(_PLANS)(self._grad_planned)

    def _panels(self, outputs: int) -> tuple[int, int]:
        """Columns of a panel, and how many there are."""
        width = self.least_width if outputs <= self.lanes else 2 * self.lanes
        return width, -(-outputs // width)

    def _pixel(self, channels: int) -> int:
        """Bytes of a pixel with channels last."""
        return -(-channels // self.lanes) * self.lanes * 4

    # --- the convolution and its input gradient -----------------------------------------------------

    def forward(self, x: Array, w: Array, padding: Pairs, adjoint: bool, size: tuple[int, ...] | None) -> Array:
        """See the function."""
        x = x if x.strides[3] == 4 else row_major(x)
        w = w if w.strides[2:] == (12, 4) else row_major(w)
        low = tuple([2 - lo if adjoint else lo for lo, _ in padding])
        if size is None:
            size = tuple([n + lo + hi - 2 for n, (lo, hi) in zip(x.shape[2:], padding, strict=True)])
        out = np.empty((x.shape[0], w.shape[adjoint], *size), np.float32)
        image = (size[0] + size[0] % 2 + 2) * (size[1] + size[1] % 2 + 2) * self._pixel(x.shape[1])
        together = max(1, min(len(x), _TOGETHER // image))
        sizes = x.shape[1:], x.strides, w.strides, low, adjoint, out.shape[1:]
        with _open.take() as call:
            words, phases = call.words, self._at
            for first in range(0, len(x), together):
                plan = self._plan(min(together, len(x) - first), *sizes)
                if not first:  # later groups are smaller
                    at = call.memory(sum(plan.nbytes) + plan.scratch * call.threads)
                    panels, padded, words[0] = itertools.accumulate((at, *plan.nbytes))
                words[1], words[2:_END] = plan.scratch, plan.words
                words[_SOURCE] = _open.address_of(x) + first * x.strides[0] + max(0, -low[1]) * 4
                words[_TARGET] = padded
                out_at = _open.address_of(out) + first * out.strides[0]
                words[_FILTER] = self._products.tiles, _open.address_of(w), panels, padded, out_at
                start = 1 if first else 0
                call.run(*zip(phases[start:], plan.chunks[start:], strict=True))
        return out

    def _planned(
        self,
        images: int,
        x: tuple[int, ...],
        x_strides: tuple[int, ...],
        w_strides: tuple[int, ...],
        low: tuple[int, ...],
        adjoint: bool,
        out: tuple[int, ...],
    ) -> _Plan:
        """What follows from shapes and strides, for some of the images."""
        inner, (outputs, height, width) = x[0], out
        columns, panels = self._panels(outputs)
        pixel, element = self._pixel(inner), (inner * columns + SHIFT) * 4
        down, across = -(-height // 2), -(-width // 2)
        words = _lay(images, x, x_strides, low, (2 * down + 2, 2 * across + 2), pixel)
        row, lines = pixel + PAD, images * down
        most = max(self.most, _SCRATCH // (16 * (row + columns * 4)))
        parts = -(-across // most)
        tiles = -(-across // parts)
        blocks = -(-lines // max(1, most // across))
        block = -(-lines // blocks)
        splits = min(panels, -(-_FEW_CHUNKS // (blocks * parts)))
        count, inner_blocks = block * tiles, -(-inner // INNER_BLOCK)
        words |= {
            "w_lane": w_strides[1 if adjoint else 0], "w_inner": w_strides[0 if adjoint else 1],
            "flipped": int(adjoint), "inner": inner, "outputs": outputs, "width": columns, "panels": panels,
            "inner_blocks": inner_blocks, "element": element, "panel": 16 * element,
            "across": across, "down": down, "lines": lines, "block_lines": block, "block_tiles": tiles,
            "parts": parts, "splits": splits, "image_step": words["rows"] * words["cols"] * pixel,
            "line_step": words["cols"] * pixel, "row": row, "input_step": count * row + PAD,
            "output_step": count * columns * 4 + PAD, "out_height": height, "out_width": width,
            "out_image": outputs * height * width * 4, "out_channel": height * width * 4,
        }  # fmt: skip
        scratch = 16 * (words["input_step"] + words["output_step"]) + (4 * tiles + 1) * columns * 4
        chunks = panels * inner_blocks, _lay_chunks(words), blocks * parts * splits
        nbytes = panels * 16 * element, images * words["image_step"]
        return _Plan([words.get(name, 0) for name in (*LAY, *FILTER)], chunks, nbytes, _pages(scratch))

    # --- the weight gradient ------------------------------------------------------------------------

    def weight_grad(self, x: Array, g: Array, padding: Pairs) -> Array:
        """See the function."""
        x, g = (a if a.strides[3] == 4 else row_major(a) for a in (x, g))
        out = np.empty((g.shape[1], x.shape[1], 3, 3), np.float32)
        low = tuple([lo for lo, _ in padding])
        plan = self._grad_plan(x.shape, x.strides, g.shape, g.strides, low)
        with _open.take() as call:
            words = call.words
            at = call.memory(sum(plan.nbytes) + plan.scratch * call.threads)
            seen, given, partials, words[0] = itertools.accumulate((at, *plan.nbytes))
            words[1], words[2:_GRAD_END] = plan.scratch, plan.words
            words[_SOURCE], words[_TARGET] = _open.address_of(x) + max(0, -low[1]) * 4, seen
            words[_OTHER_SOURCE], words[_OTHER_TARGET] = _open.address_of(g), given
            words[_GATHER] = self._products.tiles, seen, given, partials, _open.address_of(out)
            call.run(*zip(self._grad_at, plan.chunks, strict=True))
        return out

    def _grad_planned(
        self,
        x: tuple[int, ...],
        x_strides: tuple[int, ...],
        g: tuple[int, ...],
        g_strides: tuple[int, ...],
        low: tuple[int, ...],
    ) -> _Plan:
        """What follows from shapes and strides."""
        images, inputs = x[:2]
        _, outputs, height, width = g
        columns, panels = self._panels(outputs)
        down, across = -(-height // 2), -(-width // 2)
        pixels = self._pixel(inputs), self._pixel(outputs)
        seen = _lay(images, x[1:], x_strides, low, (2 * down + 2, 2 * across + 2), pixels[0])
        given = _lay(images, g[1:], g_strides, (0, 0), (2 * down, 2 * across), pixels[1])
        tiles = images * down * across
        pieces, groups, per = groups_of_tiles(tiles, inputs, outputs)
        partials = -(-tiles // per)
        splits = min(panels, -(-_FEW_CHUNKS // (pieces * groups)))
        row, wide = pixels[0] + PAD, -(-panels // splits)
        fits = max(16, _SCRATCH // (16 // pieces * (row + wide * columns * 4)))
        block = -(-per // -(-per // fits))
        panel_step = block * columns * 4 + PAD
        element, inner_blocks = (panels * inputs * columns + SHIFT) * 4, -(-inputs // INNER_BLOCK)
        words = {
            "inputs": inputs, "outputs": outputs, "width": columns, "panels": panels, "inner_blocks": inner_blocks,
            "pieces": pieces, "splits": splits, "partials": partials, "per": per, "tiles": tiles, "block": block,
            "across": across, "down": down, "seen_image": seen["rows"] * seen["cols"] * pixels[0],
            "seen_line": seen["cols"] * pixels[0], "seen_pixel": pixels[0],
            "given_image": given["rows"] * given["cols"] * pixels[1], "given_line": given["cols"] * pixels[1],
            "given_pixel": pixels[1], "row": row, "input_step": block * row + PAD, "panel_step": panel_step,
            "output_step": wide * panel_step, "element": element, "partial": 16 * element,
        }  # fmt: skip
        scratch = 16 // pieces * (words["input_step"] + words["output_step"])
        chunks = _lay_chunks(seen), _lay_chunks(given), partials * splits * pieces, panels * inner_blocks
        nbytes = images * words["seen_image"], images * words["given_image"], partials * 16 * element
        every = [
            part.get(name, 0) for part, names in ((seen, LAY), (given, LAY), (words, GATHER)) for name in names
        ]
        return _Plan(every, chunks, nbytes, _pages(scratch))


_SOURCE, _TARGET = LAY_AT, LAY_AT + 1
_OTHER_SOURCE, _OTHER_TARGET = LAY_OTHER_AT, LAY_OTHER_AT + 1
_FILTER, _GATHER = slice(FILTER_AT, FILTER_AT + 5), slice(GATHER_AT, GATHER_AT + 5)  # the addresses
_END, _GRAD_END = FILTER_AT + len(FILTER), GATHER_AT + len(GATHER)


def _lay(
    images: int,
    shape: tuple[int, ...],
    strides: tuple[int, ...],
    low: tuple[int, ...],
    size: tuple[int, int],
    pixel: int,
) -> dict[str, int]:
    """The words of "lay" but for addresses, for copies of `size`, in which images begin at `low`."""
    channels, height, width = shape
    left = min(max(0, low[1]), size[1])
    count = max(0, min(width - max(0, -low[1]), size[1] - left))
    return {
        "image": strides[0], "channel": strides[1], "line": strides[2], "channels": channels, "height": height,
        "first_row": -low[0], "left": left, "count": count, "rows": size[0], "cols": size[1], "pixel": pixel,
        "items": images * size[0], "per_chunk": max(1, _CHUNK // (size[1] * pixel // 4)),
    }  # fmt: skip


def _lay_chunks(words: dict[str, int]) -> int:
    return -(-words["items"] // words["per_chunk"])


def _pages(nbytes: int) -> int:
    return -(-nbytes // 4096) * 4096


_loaded: list[Winograds] = []


def _kernels() -> Winograds:
    if not _loaded:
        _loaded.append(Winograds())  # the first stays: another thread may have it
    return _loaded[0]
