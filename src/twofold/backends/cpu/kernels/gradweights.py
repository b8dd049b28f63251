"""Open kernels for the gradient of a convolution with respect to its weight; arrays have channels first.

Every element is the chain over images and pixels that compiled code computes (convgrad.py, convgeneral.py), in
groups of images whose sums are added in order.

Note [Weight gradients as products]
A group of images is a product: rows are pairs of an input channel and a tap, columns are output channels, k runs
over images and pixels. A chunk ("sums") is some rows, for which it goes through k in blocks that fit into a core's
cache. Of each block it copies what the rows see, zeros where that is padding ("patches", k by k in memory), turns
the gradient of the output, so that its channels are neighbours, and adds to its sums with the tiles of products
(product.py). "combine" adds the groups' sums, and writes them in the order of the weight.

Note [Depthwise weight gradients]
There a row has one column only, so that lanes are channels: a chunk of "each" turns both operands, a band of lines
at a time, the input with its border, and the rows of a tile are taps.

Note [Geometry]
There are three dimensions of pixels, of size 1 where the convolution has fewer. Lines of the result are numbered
through all planes and images of a group. A line is described (`LINE`) by the place in x, the plane and the line
that its first tap would have if there were no padding on the left; a row of the product (`ROW`) by its place
in x, its distances in planes and lines, and the number of the pixel that it sees first.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

from ....ir.dtypes import HALVES, DType, float32
from .. import registers
from ..emit import Function, Module, Number, Val, vector
from ..open import data, entry, leave
from ..target import Target
from .access import lanes_between, load, store
from .packing import packer, transposed
from .product import Word, call_tiles, switch
from .tile import kernel_function, scratch_of

# From word 2 on. What begins with x_ or g_ and is no size counts bytes, from one element to the next.
WORDS = (
    "x", "g", "out", "parts", "tiles",
    "images", "per",  # images of a group of images
    "groups", "channels", "outputs",  # of channels; how many each has
    "planes", "lines", "columns", "x_planes", "x_lines", "x_columns",  # sizes of g and of x
    "stride_z", "stride_y", "stride_x", "low_z", "low_y", "low_x", "dilation_z", "dilation_y", "dilation_x",
    "kernel_z", "kernel_y", "kernel_x",
    "x_image", "x_channel", "x_z", "x_y", "x_x", "g_image", "g_channel", "g_pixel", "run",
    "rows", "block", "blocks", "lines_at_once", "columns_at_once", "pitch",
    "row_bytes", "part_bytes", "num_parts", "row_table", "line_table", "turned",
    "panels", "panel_step", "panel_bytes", "way", "per_chunk",
)  # fmt: skip
_POINTERS = ("x", "g", "out", "parts", "tiles")
_Row = tuple[Val, Val, Val]  # distances in planes and lines, and the number of the pixel seen first
ROW, LINE = 4, 3  # numbers that describe a row, and a line
_AHEAD = 384  # bytes
MOST_TAPS = 9  # of a tile of a depthwise one


class WeightGradKernels:
    """The functions for one dtype.

    Args:
        dtype: a floating one.
        target: the processor.
    """

    def __init__(self, dtype: DType, target: Target):
        self.dtype, self.size = dtype, dtype.itemsize
        self.held: DType = float32 if dtype in HALVES else dtype
        self.held_size = self.held.itemsize
        self.lanes = target.lanes(self.held_size)
        self.width = 2 * self.lanes
        self.tile_rows = target.tile_rows
        self.masks = target.vector_bytes >= 32  # whether masked loads are instructions
        self.ty = vector(registers.HELD[dtype.name], self.lanes)

    def emit(self, module: Module, has_entries: bool) -> None:
        """Write "sums", "each", "combine", and the entry "weight_grad"."""
        self.pack_panel = packer(module, self.dtype, self.lanes, 2, ahead=_AHEAD)
        self.pack_vector = packer(module, self.dtype, self.lanes, 1)
        self.patches = [self._emit_patches(module, way) for way in range(3)]
        self._emit_sums(module)
        self._emit_each(module)
        self._emit_combine(module)
        if has_entries:
            emit_entry(module)

    # --- patches ----------------------------------------------------------------------------------

    def _emit_patches(self, module: Module, way: int) -> str:
        """What rows see of some lines: pixels are neighbours in x (way 0), two apart (1), or any number (2).

        A vector may be written beyond the end of its line, where the next line is written after it.
        """
        name = f"patches{way}"
        signature = [("ptr", "words"), ("ptr", "x"), ("ptr", "scratch")]
        signature += [("i64", n) for n in ("rows", "lines", "column", "columns")]
        f = Function(module, name, signature, attributes="nounwind noinline", private=True)
        words, x, scratch, rows, lines, column, columns = f.args
        w = _words(
            f, words, "pitch", "row_table", "line_table", "x_planes", "x_lines", "x_columns", "x_x", "stride_x"
        )
        w |= {"lines_at": f.at(scratch, w["line_table"]), "count": lines, "columns": columns}
        w |= {"zeros": self._zeros(f), "step": f.int(f.mul(columns, self.held_size))}

        def row(_: Any, entry: Val, to: Val) -> list[Val]:
            place, plane, down, right = _loaded(f, entry, ROW)
            first = f.int(f.add(right, f.mul(column, w["stride_x"])))
            at = f.at(f.at(x, place), f.mul(first, w["x_x"]))
            if self.masks and way < 2:
                self._copy_vectors(f, w, way + 1, (plane, down, first), at, to)
            else:
                self._copy_pixels(f, w, (plane, down, first), at, to)
            return [f.at(entry, 8 * ROW), f.at(to, w["pitch"])]

        f.loop(0, rows, row, [f.at(scratch, w["row_table"]), scratch])
        f.ret()
        f.finish()
        return name

    def _each_line(
        self, f: Function, w: dict[str, Val], row: _Row, at: Val, to: Val, body: Callable[[Val, Val, Val], object]
    ) -> None:
        """`body(whether it is there, its address, target)` for all lines that a row sees."""
        plane, down, _ = row

        def line(_: Any, entry: Val, to: Val) -> list[Val]:
            start, z, y = _loaded(f, entry, LINE)
            z_is_there = f.icmp("ult", f.add(z, plane), w["x_planes"])
            there = f.op("and", z_is_there, f.icmp("ult", f.add(y, down), w["x_lines"]))
            body(there, f.at(at, start), to)
            return [f.at(entry, 8 * LINE), f.at(to, w["step"])]

        f.loop(0, w["count"], line, [w["lines_at"], to])

    def _copy_vectors(self, f: Function, w: dict[str, Val], gap: int, row: _Row, at: Val, to: Val) -> None:
        """A row of pixels that are `gap` elements apart; where lines have one vector, a mask does for all."""
        first, columns, lanes = row[2], w["columns"], self.lanes
        short = f.icmp("sle", columns, lanes)
        masks = self._masks(f, first, w["x_columns"], gap)

        def one(there: Val, at: Val, to: Val) -> None:
            self._copy_vector(f, f.select(there, at, w["zeros"]), to, masks)

        def several(there: Val, at: Val, to: Val) -> None:
            exist = f.select(there, w["x_columns"], f.int(0))

            def some(j: Number) -> None:
                places = f.at(at, f.mul(j, gap * self.size)), f.at(to, f.mul(j, self.held_size))
                self._copy_vector(f, *places, self._masks(f, f.add(first, f.mul(j, gap)), exist, gap))

            f.loop(0, columns, some, step=lanes)

        f.when(short, lambda: self._each_line(f, w, row, at, to, one))
        f.when(_not(f, short), lambda: self._each_line(f, w, row, at, to, several))

    def _copy_pixels(self, f: Function, w: dict[str, Val], row: _Row, at: Val, to: Val) -> None:
        """A row of pixels at any distance."""
        ty, gap = registers.STORED[self.dtype.name], f.mul(w["x_x"], w["stride_x"])

        def line(there: Val, at: Val, to: Val) -> None:
            exist = f.select(there, w["x_columns"], f.int(0))

            def one(_: Number, place: Val, at: Val, to: Val) -> list[Val]:
                value = f.load(ty, f.select(f.icmp("ult", place, exist), at, w["zeros"]), self.size)
                f.store(registers.from_memory(f, value, self.dtype), to, self.held_size)
                return [f.int(f.add(place, w["stride_x"])), f.at(at, gap), f.at(to, self.held_size)]

            f.loop(0, w["columns"], one, [row[2], at, to])

        self._each_line(f, w, row, at, to, line)

    def _zeros(self, f: Function) -> Val:
        """The address of two vectors of zeros."""
        at = f.alloca(2 * self.lanes * self.held_size)
        for v in range(2):
            f.store(f.const(0, self.ty), f.at(at, v * self.lanes * self.held_size), self.held_size)
        return at

    def _masks(self, f: Function, first: Number, exist: Val, gap: int) -> list[Val]:
        """Which of the pixels from number `first` on are there, of `exist`: of one vector, or of two."""
        starts = [f.add(first, v * self.lanes) for v in range(gap)]
        return [lanes_between(f, self.lanes, f.sub(0, p), f.sub(exist, p)) for p in starts]

    def _copy_vector(self, f: Function, at: Val, to: Val, masks: list[Val]) -> None:
        """Neighbours, or every other one of two vectors."""
        vs = [
            load(f, f.at(at, v * self.lanes * self.size), self.dtype, self.lanes, 1, mask)
            for v, mask in enumerate(masks)
        ]
        if len(vs) > 1:
            even = ", ".join(f"i32 {2 * i}" for i in range(self.lanes))
            vs = [f.value(f"shufflevector {vs[0]}, {vs[1]}, <{self.lanes} x i32> <{even}>", self.ty)]
        f.store(vs[0], to, self.held_size)

    # --- sums ---------------------------------------------------------------------------------------

    def _emit_sums(self, module: Module) -> None:
        """The kernel "sums": chunks are blocks of rows of groups of channels of groups of images."""
        f = kernel_function(module, "sums")
        words = f.args[0]
        w = _words(f, words, *WORDS)
        scratch, product = scratch_of(f), f.alloca(8 * Word.COUNT)
        fixed = {
            Word.AM: w["pitch"], Word.AK: self.held_size, Word.A_ROW: w["pitch"], Word.A_TILE: 0,
            Word.BK: w["panel_step"], Word.B_PANEL: w["panel_bytes"], Word.CM: w["row_bytes"],
        }  # fmt: skip
        _set(f, product, fixed)

        def chunk(i: Number) -> None:
            rest, b = f.div(i, w["blocks"]), f.rem(i, w["blocks"])
            part, group = f.div(rest, w["groups"]), f.rem(rest, w["groups"])
            image, row = f.mul(part, w["per"]), f.mul(b, w["block"])
            images = f.min(w["per"], f.sub(w["images"], image))
            rows = f.int(f.min(w["block"], f.sub(w["rows"], row)))
            x = f.at(w["x"], f.add(f.mul(image, w["x_image"]), f.mul(group, f.mul(w["channels"], w["x_channel"]))))
            g = f.at(w["g"], f.add(f.mul(image, w["g_image"]), f.mul(group, f.mul(w["outputs"], w["g_channel"]))))
            place = f.mul(f.add(f.mul(group, w["rows"]), row), w["row_bytes"])
            out = f.at(w["parts"], f.add(f.mul(part, w["part_bytes"]), place))
            tiles = f.div(f.add(rows, self.tile_rows - 1), self.tile_rows)
            _set(f, product, {Word.ROWS: f.div(rows, tiles), Word.EXTRA: f.rem(rows, tiles)})
            self._describe_rows(f, w, f.at(scratch, w["row_table"]), row, rows)

            def block(line: Number, lines: Number, column: Number, columns: Number) -> None:
                self._describe_lines(f, w, f.at(scratch, w["line_table"]), line, lines)
                args = [words, x, scratch, rows, f.int(lines), f.int(column), f.int(columns)]
                for way, name in enumerate(self.patches):
                    f.when(f.icmp("eq", w["way"], way), lambda name=name: f.call(name, args))  # type: ignore[misc]
                k, start = f.mul(lines, columns), f.add(f.mul(line, w["columns"]), column)
                _set(f, product, {Word.K: k, Word.GOES_ON: start})

                def panel(p: Number) -> None:
                    self._panel(f, w, product, g, scratch, out, p, start, k, tiles)

                f.loop(0, w["panels"], panel)

            _blocks(f, w, f.mul(images, f.mul(w["planes"], w["lines"])), block)

        f.loop(f.args[1], f.args[2], chunk)
        f.ret()
        f.finish()

    def _panel(
        self, f: Function, w: dict[str, Val], product: Val, g: Val, scratch: Val, out: Val, p: Number,
        start: Number, k: Number, tiles: Number,
    ) -> None:  # fmt: skip
        """Turn a panel of the gradient's channels, and multiply."""
        channel = f.mul(p, self.width)
        channels = f.int(f.min(self.width, f.sub(w["outputs"], channel)))
        b = f.at(f.at(scratch, w["turned"]), f.mul(p, w["panel_bytes"]))
        source = f.at(g, f.mul(channel, w["g_channel"]))
        narrow = f.icmp("eq", w["panel_step"], self.lanes * self.held_size)
        for condition, pack in ((narrow, self.pack_vector), (_not(f, narrow), self.pack_panel)):
            f.when(
                condition,
                lambda pack=pack: self._turn(f, w, pack, source, channels, start, k, b, w["panel_step"]),  # type: ignore[misc]
            )
        count: Number = self.width
        if self.masks:
            count = f.select(f.icmp("sle", channels, self.lanes), f.int(self.lanes), f.int(self.width))
        to = f.at(out, f.mul(channel, self.held_size))
        call_tiles(f, w["tiles"], product, scratch, b, to, 0, tiles, count)

    def _turn(
        self, f: Function, w: dict[str, Val], pack: str, g: Val, channels: Val, start: Number, k: Number, to: Val,
        step: Number,
    ) -> None:  # fmt: skip
        """Pixels from `start` on, counted through images; `run` of them lie at even distances."""
        run, end = w["run"], f.add(start, k)

        def piece(n: Number) -> None:
            place = f.mul(n, run)
            begin = f.select(f.icmp("slt", place, start), f.int(start), f.int(place))
            count = f.sub(f.min(f.add(place, run), end), begin)
            source = f.at(f.at(g, f.mul(n, w["g_image"])), f.mul(f.sub(begin, place), w["g_pixel"]))
            target = f.at(to, f.mul(f.sub(begin, start), step))
            f.call(pack, [source, w["g_pixel"], w["g_channel"], channels, f.int(count), target])

        # what a piece writes beyond its end is overwritten by the next one
        f.loop(f.div(start, run), f.div(f.sub(f.add(end, run), 1), run), piece)

    def _describe_rows(self, f: Function, w: dict[str, Val], table: Val, first: Number, rows: Val) -> None:
        def row(r: Number, entry: Val) -> list[Val]:
            r = f.add(first, r)
            rest, kx = f.div(r, w["kernel_x"]), f.rem(r, w["kernel_x"])
            rest, ky = f.div(rest, w["kernel_y"]), f.rem(rest, w["kernel_y"])
            c, kz = f.div(rest, w["kernel_z"]), f.rem(rest, w["kernel_z"])
            plane, down = f.mul(kz, w["dilation_z"]), f.mul(ky, w["dilation_y"])
            place = f.add(f.mul(c, w["x_channel"]), f.add(f.mul(plane, w["x_z"]), f.mul(down, w["x_y"])))
            right = f.sub(f.mul(kx, w["dilation_x"]), w["low_x"])
            _set(f, entry, dict(enumerate((place, plane, down, right))))
            return [f.at(entry, 8 * ROW)]

        f.loop(0, rows, row, [table])

    def _describe_lines(self, f: Function, w: dict[str, Val], table: Val, first: Number, lines: Number) -> None:
        def line(i: Number, entry: Val) -> list[Val]:
            n, z, y = _place_of(f, w, f.add(first, i))
            place = f.add(f.mul(n, w["x_image"]), f.add(f.mul(z, w["x_z"]), f.mul(y, w["x_y"])))
            _set(f, entry, dict(enumerate((place, z, y))))
            return [f.at(entry, 8 * LINE)]

        f.loop(0, lines, line, [table])

    # --- depthwise ----------------------------------------------------------------------------------

    def _emit_each(self, module: Module) -> None:
        """The kernel "each": chunks are vectors of channels of groups of images."""
        names = [self._emit_taps(module, taps) for taps in range(1, MOST_TAPS + 1)]
        f = kernel_function(module, "each")
        w = _words(f, f.args[0], *WORDS)
        scratch, one = scratch_of(f), self.lanes * self.held_size
        vectors = f.div(f.add(w["outputs"], self.lanes - 1), self.lanes)
        taps = f.mul(w["kernel_y"], w["kernel_x"])
        square = f.op("and", f.icmp("eq", w["kernel_x"], 3), f.icmp("sle", taps, MOST_TAPS))
        turned = f.at(scratch, w["turned"])

        def chunk(i: Number) -> None:
            part, v = f.div(i, vectors), f.rem(i, vectors)
            image, channel = f.mul(part, w["per"]), f.mul(v, self.lanes)
            images = f.min(w["per"], f.sub(w["images"], image))
            channels = f.int(f.min(self.lanes, f.sub(w["outputs"], channel)))
            x = f.at(w["x"], f.add(f.mul(image, w["x_image"]), f.mul(channel, w["x_channel"])))
            g = f.at(w["g"], f.add(f.mul(image, w["g_image"]), f.mul(channel, w["g_channel"])))
            out = f.at(w["parts"], f.add(f.mul(part, w["part_bytes"]), f.mul(channel, self.held_size)))
            zero = f.const(0, self.ty)
            f.loop(0, w["rows"], lambda r: f.store(zero, f.at(out, f.mul(r, w["row_bytes"])), self.held_size))

            def block(line: Number, lines: Number, column: Number, columns: Number) -> None:
                start = f.add(f.mul(line, w["columns"]), column)
                self._turn(f, w, self.pack_vector, g, channels, start, f.mul(lines, columns), turned, one)
                n, z, y = _place_of(f, w, line)
                source = f.at(x, f.mul(n, w["x_image"]))

                def plane(kz: Number) -> None:
                    down = f.add(z, f.mul(kz, w["dilation_z"]))
                    to = f.at(out, f.mul(f.mul(kz, taps), w["row_bytes"]))

                    def there() -> None:
                        at = f.at(source, f.mul(down, w["x_z"]))
                        self._border(f, w, at, channels, y, lines, column, columns, scratch)
                        self._each_tap(f, w, names, scratch, turned, to, lines, columns, square)

                    f.when(f.icmp("ult", down, w["x_planes"]), there)

                f.loop(0, w["kernel_z"], plane)

            self._bands(f, w, f.mul(images, w["planes"]), block)

        f.loop(f.args[1], f.args[2], chunk)
        f.ret()
        f.finish()

    @staticmethod
    def _bands(f: Function, w: dict[str, Val], planes: Number, block: Callable[..., None]) -> None:
        """Blocks of lines that don't reach into the next plane."""

        def plane(n: Number) -> None:
            def band(y: Number) -> None:
                lines = f.min(w["lines_at_once"], f.sub(w["lines"], y))
                line = f.add(f.mul(n, w["lines"]), y)
                _columns(f, w, lambda column, columns: block(line, lines, column, columns))

            f.loop(0, w["lines"], band, step=w["lines_at_once"])

        f.loop(0, planes, plane)

    def _border(
        self, f: Function, w: dict[str, Val], x: Val, channels: Val, y: Number, lines: Number, column: Number,
        columns: Number, to: Val,
    ) -> None:  # fmt: skip
        """A band of a plane of the input, channels as lanes, with zeros around it."""
        one, zero = self.lanes * self.held_size, f.const(0, self.ty)
        wide = f.add(f.mul(f.sub(columns, 1), w["stride_x"]), f.mul(f.sub(w["kernel_x"], 1), w["dilation_x"]))
        wide = f.int(f.add(wide, 1))
        high = f.add(f.mul(f.sub(lines, 1), w["stride_y"]), f.mul(f.sub(w["kernel_y"], 1), w["dilation_y"]))
        first = f.sub(f.mul(column, w["stride_x"]), w["low_x"])
        left = f.int(f.min(_at_least(f, f.sub(0, first), 0), wide))
        begin = _at_least(f, first, 0)
        exist = f.min(f.sub(wide, left), _at_least(f, f.sub(w["x_columns"], begin), 0))

        def line(i: Number, to: Val) -> list[Val]:
            row = f.add(y, i)
            inside = f.icmp("ult", row, w["x_lines"])
            count = f.select(inside, f.int(exist), f.int(0))
            f.loop(0, left, lambda j: f.store(zero, f.at(to, f.mul(j, one)), self.held_size))
            start = f.at(to, f.mul(left, one))
            source = f.at(x, f.add(f.mul(row, w["x_y"]), f.mul(begin, w["x_x"])))
            args = [source, w["x_x"], w["x_channel"], channels, count, start]
            f.when(f.icmp("sgt", count, 0), lambda: f.call(self.pack_vector, args))
            f.loop(f.add(left, count), wide, lambda j: f.store(zero, f.at(to, f.mul(j, one)), self.held_size))
            return [f.at(to, w["pitch"])]

        f.loop(0, f.add(high, 1), line, [to])

    def _each_tap(
        self, f: Function, w: dict[str, Val], names: Sequence[str], x: Val, g: Val, out: Val, lines: Number,
        columns: Number, square: Val,
    ) -> None:  # fmt: skip
        """All taps of a plane: three by three or fewer at once, or line by line."""
        one = self.lanes * self.held_size
        right, down = f.mul(w["dilation_x"], one), f.mul(w["dilation_y"], w["pitch"])
        across, below = f.mul(w["stride_x"], one), f.mul(w["stride_y"], w["pitch"])

        def several(count: Number, x: Val, three: Number, out: Val) -> None:
            args = [x, right, three, g, lines, columns, below, across, out, w["row_bytes"]]
            switch(f, f.int(f.sub(count, 1)), names, [f.int(a) if isinstance(a, int) else a for a in args])

        f.when(square, lambda: several(f.mul(w["kernel_y"], w["kernel_x"]), x, down, out))

        def line(ky: Number) -> None:
            def some(kx: Number) -> None:
                count = f.min(MOST_TAPS, f.sub(w["kernel_x"], kx))
                at = f.at(x, f.add(f.mul(ky, down), f.mul(kx, right)))
                to = f.at(out, f.mul(f.add(f.mul(ky, w["kernel_x"]), kx), w["row_bytes"]))
                several(count, at, f.mul(right, 3), to)

            f.loop(0, w["kernel_x"], some, step=MOST_TAPS)

        f.loop(0, f.select(square, f.int(0), w["kernel_y"]), line)

    def _emit_taps(self, module: Module, taps: int) -> str:
        """Add to the sums of some taps; every third one is `three` bytes from the one before these."""
        name = f"taps{taps}"
        signature = [
            ("ptr", "x"), ("i64", "right"), ("i64", "three"), ("ptr", "g"), ("i64", "lines"), ("i64", "columns"),
            ("i64", "below"), ("i64", "across"), ("ptr", "out"), ("i64", "step"),
        ]  # fmt: skip
        f = Function(module, name, signature, attributes="nounwind noinline", private=True)
        x, right, three, g, lines, columns, below, across, out, step = f.args
        places = [f.at(out, f.mul(step, t)) for t in range(taps)]
        acc = [f.load(self.ty, place, self.held_size) for place in places]
        starts = range(0, taps, 3)
        threes = [f.at(x, f.mul(three, t // 3)) for t in starts]

        def line(_: Any, g: Val, *carry: Val) -> list[Val]:
            threes, acc = carry[: len(starts)], carry[len(starts) :]

            def pixel(_: Any, g: Val, *carry: Val) -> list[Val]:
                threes, acc = carry[: len(starts)], list(carry[len(starts) :])
                two = f.value(f"shl i64 {right.ref}, 1", "i64") if taps > 2 else right
                b = f.load(self.ty, g, self.held_size)
                for t in range(taps):
                    a = f.load(self.ty, f.at(threes[t // 3], (0, right, two)[t % 3]), self.held_size)
                    acc[t] = f.intrinsic("fma", [a, b, acc[t]])
                return [f.at(g, self.lanes * self.held_size), *[f.at(a, across) for a in threes], *acc]

            g, *rest = f.loop(0, columns, pixel, [g, *threes, *acc])
            return [g, *[f.at(a, below) for a in threes], *rest[len(starts) :]]

        sums = f.loop(0, lines, line, [g, *threes, *acc])[1 + len(starts) :]
        for place, v in zip(places, sums, strict=True):
            f.store(v, place, self.held_size)
        f.ret()
        f.finish()
        return name

    # --- the sum of the groups ------------------------------------------------------------------------

    def _emit_combine(self, module: Module) -> None:
        """The kernel "combine": squares of output channels by rows, added up and turned."""
        f = kernel_function(module, "combine")
        w = _words(f, f.args[0], *WORDS)
        lanes = self.lanes
        across, down = (f.div(f.add(w[n], lanes - 1), lanes) for n in ("rows", "outputs"))

        def square(i: Number) -> None:
            rest, row = f.div(i, across), f.mul(f.rem(i, across), lanes)
            group, channel = f.div(rest, down), f.mul(f.rem(rest, down), lanes)
            rows = f.int(f.min(lanes, f.sub(w["rows"], row)))
            channels = f.int(f.min(lanes, f.sub(w["outputs"], channel)))
            place = f.mul(f.add(f.mul(group, w["rows"]), row), w["row_bytes"])
            source = f.at(w["parts"], f.add(place, f.mul(channel, self.held_size)))
            steps = [f.mul(w["row_bytes"], f.min(r, f.sub(rows, 1))) for r in range(lanes)]

            def add(_: Number, at: Val, *sums: Val) -> list[Val]:
                more = [f.load(self.ty, f.at(at, step), self.held_size) for step in steps]
                return [f.at(at, w["part_bytes"]), *[f.op("fadd", a, b) for a, b in zip(sums, more, strict=True)]]

            first = [f.load(self.ty, f.at(source, step), self.held_size) for step in steps]
            sums = f.loop(1, w["num_parts"], add, [f.at(source, w["part_bytes"]), *first])[1:]
            place = f.add(f.mul(f.add(f.mul(group, w["outputs"]), channel), w["rows"]), row)
            target = f.at(w["out"], f.mul(place, self.size))
            for o, v in enumerate(transposed(f, sums)):
                exists = f.icmp("slt", o, channels)
                to = f.at(target, f.select(exists, f.int(f.mul(w["rows"], o * self.size)), f.int(0)))
                store(f, v, to, self.dtype, lanes, f.select(exists, rows, f.int(0)))

        items = f.mul(w["groups"], f.mul(across, down))
        f.loop(f.mul(f.args[1], w["per_chunk"]), f.min(f.mul(f.args[2], w["per_chunk"]), items), square)
        f.ret()
        f.finish()


KERNELS = 2 + len(WORDS)  # the word of a plan at which its kernels begin


def emit_entry(module: Module) -> None:
    """A function for Python, `f(x, g, plan, result)`: runs two kernels, one after the other.

    The plan is an array of words: the kernels' table, and from word `KERNELS` on the address of each and its number
    of chunks.
    """
    f, _, (x, g, plan, out) = entry(module, "weight_grad", 4)
    table = data(f, plan)
    for name, array in (("x", x), ("g", g), ("out", out)):
        f.store(data(f, array), f.at(table, 8 * (2 + WORDS.index(name))), 8)
    for k in (KERNELS, KERNELS + 2):
        code, chunks = f.load("ptr", f.at(table, 8 * k), 8), f.load("i64", f.at(table, 8 * k + 8), 8)
        f.emit(f"call void {code.ref}({table}, i64 0, {chunks}, i64 0)")
    leave(f, out)


def _words(f: Function, words: Val, *names: str) -> dict[str, Val]:
    return {
        name: f.load("ptr" if name in _POINTERS else "i64", f.at(words, 8 * (2 + WORDS.index(name))), 8)
        for name in names
    }


def _loaded(f: Function, at: Val, count: int) -> list[Val]:
    return [f.load("i64", f.at(at, 8 * i), 8) for i in range(count)]


def _set(f: Function, at: Val, words: dict[int, Number]) -> None:
    for word, value in words.items():
        f.store(f.int(value), f.at(at, 8 * word), 8)


def _not(f: Function, condition: Val) -> Val:
    return f.op("xor", condition, Val("true", "i1"))


def _at_least(f: Function, a: Number, b: Number) -> Val:
    return f.select(f.icmp("sgt", a, b), f.int(a), f.int(b))


def _place_of(f: Function, w: dict[str, Val], line: Number) -> tuple[Number, Number, Number]:
    """The image of a line, and the plane and the row of the input in which its first tap is."""
    rest, y = f.div(line, w["lines"]), f.rem(line, w["lines"])
    n, z = f.div(rest, w["planes"]), f.rem(rest, w["planes"])
    return n, f.sub(f.mul(z, w["stride_z"]), w["low_z"]), f.sub(f.mul(y, w["stride_y"]), w["low_y"])


def _blocks(f: Function, w: dict[str, Val], lines: Number, block: Callable[..., None]) -> None:
    """Blocks of k: some lines, or a part of one line."""

    def some(line: Number) -> None:
        count = f.min(w["lines_at_once"], f.sub(lines, line))
        _columns(f, w, lambda column, columns: block(line, count, column, columns))

    f.loop(0, lines, some, step=w["lines_at_once"])


def _columns(f: Function, w: dict[str, Val], body: Callable[[Number, Number], None]) -> None:
    step = w["columns_at_once"]
    f.loop(0, w["columns"], lambda c: body(c, f.min(step, f.sub(w["columns"], c))), step=step)
