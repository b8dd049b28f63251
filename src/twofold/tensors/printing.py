"""Tensors as text, laid out as PyTorch prints them.

Note [Number formats]
One format is chosen for all printed elements. Whole floats print as `1.`; others with `precision`
digits after the point; when the ratio of the largest to the smallest magnitude exceeds 1000, or a
number is above 1e8 or below 1e-4, all print in scientific form. The choice looks at the printed
elements only, so a summary of a large tensor is aligned to what it shows.
"""

from __future__ import annotations

import contextlib
import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from ..autodiff.handle import Tensor, mode
from ..ir.dtypes import DType, bool_, get_default_dtype, int64
from ..ir.errors import TwofoldError
from ._registry import function
from .interop import Array


@dataclass
class PrintOptions:
    """How tensors print: see `set_printoptions`."""

    precision: int = 4
    threshold: float = 1000
    edgeitems: int = 3
    linewidth: int = 80
    sci_mode: bool | None = None


_options = PrintOptions()
_PROFILES: dict[str, dict[str, Any]] = {
    "default": {"precision": 4, "threshold": 1000, "edgeitems": 3, "linewidth": 80},
    "short": {"precision": 2, "threshold": 1000, "edgeitems": 2, "linewidth": 80},
    "full": {"precision": 4, "threshold": math.inf, "edgeitems": 3, "linewidth": 80},
}


@function(method=False)
def set_printoptions(
    precision: int | None = None,
    threshold: float | None = None,
    edgeitems: int | None = None,
    linewidth: int | None = None,
    profile: str | None = None,
    sci_mode: bool | None = None,
) -> None:
    """Set how tensors print.

    Args:
        precision: digits after the point (4).
        threshold: tensors of more elements are summarised (1000).
        edgeitems: elements shown at both ends of a summarised dimension (3).
        linewidth: characters per line (80).
        profile: "default", "short" or "full", which set all of these.
        sci_mode: always (True) or never (False) scientific form; None chooses by the values.

    Raises: TwofoldError for an unknown profile.

    >>> import twofold as tw
    >>> tw.set_printoptions(precision=2)
    >>> tw.tensor([1.23456])
    tensor([1.23])
    >>> tw.set_printoptions(profile="default")
    """
    if profile is not None:
        if profile not in _PROFILES:
            raise TwofoldError(f"profile {profile!r} is not one of {', '.join(_PROFILES)}", op="set_printoptions")
        for name, value in _PROFILES[profile].items():
            setattr(_options, name, value)
    for name, value in (
        ("precision", precision),
        ("threshold", threshold),
        ("edgeitems", edgeitems),
        ("linewidth", linewidth),
    ):
        if value is not None:
            setattr(_options, name, value)
    _options.sci_mode = sci_mode


@function(method=False)
def get_printoptions() -> dict[str, Any]:
    """The options that `set_printoptions` sets.

    >>> import twofold as tw
    >>> tw.get_printoptions()["edgeitems"]
    3
    """
    return dict(vars(_options))


@function(method=False)
@contextlib.contextmanager
def printoptions(**options: Any) -> Iterator[None]:
    """`set_printoptions` inside a `with` block.

    >>> import twofold as tw
    >>> with tw.printoptions(precision=1):
    ...     print(tw.tensor([0.25]))
    tensor([0.2])
    """
    previous = dict(vars(_options))
    try:
        set_printoptions(**options)
        yield
    finally:
        vars(_options).update(previous)


# --- numbers ------------------------------------------------------------------------------------


class NumberFormat:
    """The format of the real numbers among `shown`. See Note [Number formats]."""

    def __init__(self, shown: Array):
        self.floating = shown.dtype.kind == "f"
        self.whole, self.scientific, self.width = True, False, 1
        if self.floating:
            finite = shown[np.isfinite(shown) & (shown != 0)].tolist()  # infinities are not aligned
            if finite:
                self._choose(finite)
                self.width = max(len(self._text(v)) for v in finite)
        else:
            self.width = max((len(str(v)) for v in shown.reshape(-1).tolist()), default=1)

    def _choose(self, finite: list[float]) -> None:
        sizes = [abs(v) for v in finite]
        low, high = min(sizes), max(sizes)
        self.whole = all(v == math.ceil(v) for v in finite)
        self.scientific = high / low > 1000 or high > 1e8 or (not self.whole and low < 1e-4)
        if _options.sci_mode is not None:
            self.scientific = _options.sci_mode

    def _text(self, value: float) -> str:
        if self.scientific:
            return f"{value:.{_options.precision}e}"
        if self.whole:
            return f"{value:.0f}." if math.isfinite(value) else f"{value:.0f}"
        return f"{value:.{_options.precision}f}"

    def __call__(self, value: Any) -> str:
        return (self._text(value) if self.floating else str(value)).rjust(self.width)


class ComplexFormat:
    """Complex numbers: the two parts have a format each."""

    def __init__(self, shown: Array):
        self.real, self.imag = NumberFormat(shown.real), NumberFormat(shown.imag)
        self.width = self.real.width + self.imag.width + 1

    def __call__(self, value: complex) -> str:
        imag = (self.imag(value.imag) + "j").lstrip()
        return self.real(value.real) + ("" if imag[0] in "+-" else "+") + imag


# --- layout -------------------------------------------------------------------------------------


def _shown(array: Array) -> Array:
    """The elements that a summary shows: both ends of every long dimension."""
    edge = _options.edgeitems
    for dim, n in enumerate(array.shape):
        if n > 2 * edge:
            array = np.take(array, [*range(edge), *range(n - edge, n)], axis=dim)
    return array


def _ends(n: int, summarize: bool) -> tuple[range, range]:
    """The indices shown before and after the dots; all of them in the first if there are none."""
    edge = _options.edgeitems
    if summarize and n > 2 * edge:
        return range(edge), range(n - edge, n)
    return range(n), range(0)


def _layout(array: Array, indent: int, summarize: bool, text: Any) -> str:
    """Nested brackets; `indent` is the column of the first one."""
    if array.ndim == 0:
        return text(array.item())
    head, tail = _ends(array.shape[0], summarize)
    if array.ndim == 1:
        items = [text(array[i].item()) for i in head]
        if len(tail) or (summarize and array.shape[0] > 2 * _options.edgeitems):
            items += [" ...", *(text(array[i].item()) for i in tail)]
        per_line = max(1, (_options.linewidth - indent) // (text.width + 2))
        lines = [", ".join(items[i : i + per_line]) for i in range(0, len(items), per_line)]
        return "[" + (",\n" + " " * (indent + 1)).join(lines) + "]"
    rows = [_layout(array[i], indent + 1, summarize, text) for i in head]
    if len(tail) or (summarize and array.shape[0] > 2 * _options.edgeitems):
        rows += ["...", *(_layout(array[i], indent + 1, summarize, text) for i in tail)]
    return "[" + ("," + "\n" * (array.ndim - 1) + " " * (indent + 1)).join(rows) + "]"


def array_text(array: Array, indent: int = 0) -> str:
    """The elements of an array as nested brackets."""
    if array.size == 0:
        return "[]"
    if array.dtype.kind in "fV" and array.dtype.itemsize < 4:
        array = array.astype(np.float32)
    summarize = array.size > _options.threshold
    shown = _shown(array) if summarize else array
    text = ComplexFormat(shown) if array.dtype.kind == "c" else NumberFormat(shown)
    return _layout(array, indent, summarize, text)


# --- tensors ------------------------------------------------------------------------------------


def _history(t: Tensor) -> list[str]:
    node = t.grad_fn
    if node is not None and t.requires_grad:
        name = "".join(part.capitalize() for part in node.name.split("_"))
        return [f"grad_fn=<{name}Backward0>"]
    return ["requires_grad=True"] if t.requires_grad else []


def _is_plain(dtype: DType, empty: bool) -> bool:
    """Whether the elements tell the dtype, so that it need not be printed."""
    default = get_default_dtype()
    return dtype is default or (not empty and (dtype in (int64, bool_) or dtype is default.to_complex()))


def _with_suffixes(text: str, suffixes: Sequence[str], indent: int) -> str:
    column = len(text) - text.rfind("\n") + 1
    for suffix in suffixes:
        if column + len(suffix) + 2 > _options.linewidth:
            text += ",\n" + " " * indent + suffix
            column = indent + len(suffix)
        else:
            text += ", " + suffix
            column += len(suffix) + 2
    return text + ")"


def text_of(t: Tensor) -> str:
    """`repr` of a tensor; a traced one, which has no elements, shows its type."""
    if mode.tracer is not None or not isinstance(t._value, np.ndarray):
        return f"tensor(<{t.type_}>)"
    prefix, array = "tensor(", t._value
    suffixes = []
    if array.size == 0 and array.ndim != 1:
        suffixes.append(f"size={array.shape}")
    if not _is_plain(t.dtype, array.size == 0):
        suffixes.append(f"dtype={t.dtype!r}")
    return _with_suffixes(prefix + array_text(array, len(prefix)), suffixes + _history(t), len(prefix))


@function(name="__repr__", module=False)
def _repr(self: Tensor, *, tensor_contents: Any = None) -> str:
    return text_of(self)
