"""warm: compile the kernels of eager code before anybody waits for them, into the cache on disk."""

from __future__ import annotations

import itertools
import time
from collections.abc import Callable, Iterator

from ..backends.cpu import launch as _launch
from ..backends.cpu import team as _team
from ..backends.cpu.convs import module_of as convolutions_module
from ..backends.cpu.copies import module_of as copies_module
from ..backends.cpu.draws import entry_module as draw_entry_module
from ..backends.cpu.draws import module_of as draw_module
from ..backends.cpu.emit import Module
from ..backends.cpu.jit import is_cached, object_codes
from ..backends.cpu.kernels.drawing import KINDS
from ..backends.cpu.kernels.mapping import MapKernel, flat_entry, has_map, node_of
from ..backends.cpu.kernels.pooling import PoolKernels
from ..backends.cpu.kernels.product import ProductKernels
from ..backends.cpu.kernels.recurring import RecurringKernels, call_entry
from ..backends.cpu.kernels.recurring import node_of as node_of_layer
from ..backends.cpu.kernels.reducing import ReduceKernels, reduce_entry
from ..backends.cpu.kernels.scattering import GatherKernels, ScatterKernels
from ..backends.cpu.kernels.turning import BITS
from ..backends.cpu.open import text_of
from ..backends.cpu.pools import entry_module
from ..backends.cpu.pools import module_of as pool_module
from ..backends.cpu.scatters import module_of as scatter_module
from ..backends.cpu.target import host
from ..backends.cpu.weight_grads import module_of as weight_grads_module
from ..backends.cpu.winograds import modules as winograd_modules
from ..ir import config
from ..ir.dtypes import DType, bfloat16, bool_, complex64, complex128, float16, float32, float64, int32, int64
from ..ir.errors import TwofoldError
from ..ir.primitive import PRIMITIVES
from ..primitives.recurrent import ACTIVATIONS
from . import eager_complex, eager_maps, eager_pools, eager_recurrent, eager_reductions

_FLOATING = (float32, float64, float16, bfloat16)
_COMMON = (*_FLOATING, int64, int32, bool_)
_AT_ONCE = 64  # texts, between two looks at the clock


def warm(tell: Callable[[str], object] = print) -> None:
    """Compile what eager code uses with common dtypes; what is in the cache is kept.

    Args:
        tell: gets a line for each kind of kernels.
    """
    folder = config.CACHE_DIR.value
    if folder is None:
        tell(f"{config.CACHE_DIR.name} is 0: there is no cache, and nothing to be done")
        return
    _team._library(), _launch._loaded()  # what starts programs
    kinds: dict[str, Callable[[], Iterator[Module]]] = {
        "element-wise operations": _maps,
        "complex numbers": _complex,
        "reductions": _reductions,
        "products": _products,
        "recurrent layers": _recurrences,
        "convolutions": _convolutions,
        "weight gradients": _weight_gradients,
        "3 x 3 convolutions": lambda: iter(winograd_modules(host())),
        "pools": _pools,
        "sums and reading by index": _scatters,
        "random numbers": _draws,
        "copies": _copies,
    }
    for kind, modules in kinds.items():
        started = time.perf_counter()
        texts = list(dict.fromkeys(map(text_of, modules())))
        missing = [text for text in texts if not is_cached(text, host())]
        for i in range(0, len(missing), _AT_ONCE):
            object_codes(missing[i : i + _AT_ONCE], host())
        seconds = time.perf_counter() - started
        tell(f"{kind}: {len(texts)} kernels, {len(missing)} compiled, {seconds:.1f} s")
    tell(f"they are in {folder / 'objects'}")


def _maps() -> Iterator[Module]:
    """Flat kernels of all that there is, and those that broadcast along rows for floating dtypes."""
    for count in (1, 2, 3):
        module = Module(host())
        flat_entry(module, count)
        yield module
    for name in (*eager_maps.FUNCTIONS, *eager_maps.EXACT):
        for dtype in _COMMON:
            yield from _maps_of(name, dtype)


def _complex() -> Iterator[Module]:
    """Flat kernels."""
    for name, dtype in itertools.product(sorted(eager_complex.INEXACT), (complex64, complex128)):
        operands = eager_maps.arity(name)
        kernels = eager_complex.map_of(PRIMITIVES[name], [dtype] * operands, {})
        for pattern, _ in _patterns(operands, False):
            yield kernels.module(pattern, True)


def _maps_of(name: str, dtype: DType) -> Iterator[Module]:
    p = PRIMITIVES[name]
    choices = [{"dtype": d} for d in _COMMON] if name in ("cast", "bitcast") else [{}]
    dtypes = [bool_, dtype, dtype] if name == "where" else [dtype] * eager_maps.arity(name)
    for params in [{"n": n} for n in (0, 1)] if name == "polygamma" else choices:
        try:
            node = node_of(p, dtypes, params)
        except TwofoldError:  # it does not take this dtype
            continue
        if not has_map(node):
            continue
        for pattern, flat in _patterns(len(dtypes), dtype in _FLOATING):
            module = Module(host())
            MapKernel(node, pattern, flat, host().lanes(4)).emit(module, "map")
            yield module


def _patterns(operands: int, wide: bool) -> Iterator[tuple[str, bool]]:
    """Patterns of operands, with at least one that is no number, and whether they are flat."""
    for digits in itertools.product("10", repeat=operands):
        if "1" in digits:
            yield "".join(digits), True
            if wide and operands == 2:
                yield "".join(digits), False


def _reductions() -> Iterator[Module]:
    module = Module(host())
    reduce_entry(module)
    yield module
    for name in eager_reductions.NAMES:
        for dtype in _COMMON:
            if dtype in PRIMITIVES[name].dtypes:
                module = Module(host())
                ReduceKernels(PRIMITIVES[name], dtype, host().lanes(4)).emit_all(module)
                yield module


def _products() -> Iterator[Module]:
    for dtype in _FLOATING:
        module = Module(host())
        ProductKernels(dtype, host()).emit(module)
        yield module


def _recurrences() -> Iterator[Module]:
    module = Module(host())
    call_entry(module)
    yield module
    for name, dtype in itertools.product(eager_recurrent.NAMES, _FLOATING):
        for kind in ACTIVATIONS if name.startswith("rnn") else (None,):
            params = {"reverse": False} | ({} if kind is None else {"nonlinearity": kind})
            module = Module(host())
            RecurringKernels(node_of_layer(PRIMITIVES[name], dtype, params), host()).emit_all(module)
            yield module


def _convolutions() -> Iterator[Module]:
    return (convolutions_module(dtype, host()) for dtype in (float32, float64))


def _weight_gradients() -> Iterator[Module]:
    return (weight_grads_module(dtype, host()) for dtype in _FLOATING)


def _pools() -> Iterator[Module]:
    yield from map(entry_module, (2, 3))
    for name, dtype in itertools.product(eager_pools.NAMES, _FLOATING):
        yield pool_module(PoolKernels(name, dtype, host()), host())


def _scatters() -> Iterator[Module]:
    kinds = [ScatterKernels(dtype, host()) for dtype in _COMMON if dtype is not bool_]
    kinds += [GatherKernels(dtype, host()) for dtype in BITS.values()]
    return (scatter_module(kernels, host()) for kernels in kinds)


def _draws() -> Iterator[Module]:
    yield draw_entry_module()
    yield from map(draw_module, KINDS)


def _copies() -> Iterator[Module]:
    return map(copies_module, BITS)
