"""Elements read as another dtype, bit by bit."""

from __future__ import annotations

from ..autodiff.handle import Tensor
from ..ir.dtypes import DType, uint8, uint16, uint32, uint64
from ..ir.errors import ShapeError
from ..primitives import elementwise as E
from ..primitives import movement as P
from ..primitives import reduce as R


def view_dtype(input: Tensor, dtype: DType) -> Tensor:
    """The bits of `input` as elements of `dtype`: `x.view(dtype)`."""
    have, want = input.dtype.itemsize, dtype.itemsize
    if have != want and input.ndim == 0:
        raise ShapeError(f"a 0-d {input.dtype.name} tensor can't be seen as {dtype.name}: sizes differ", op="view")
    if want > have and input.shape[-1] % (want // have):
        raise ShapeError(
            f"the last dimension of shape {input.shape} must be divisible by {want // have} to see "
            f"{input.dtype.name} as {dtype.name}",
            op="view",
        )
    if have == want and not input.dtype.is_complex and not dtype.is_complex:
        return E.bitcast(input, dtype=dtype)
    return _from_words(_to_words(input), dtype)


_WORDS = {1: uint8, 2: uint16, 4: uint32, 8: uint64}


def _to_words(x: Tensor) -> Tensor:
    """The bits of `x` as unsigned integers; of complex numbers, two for each."""
    if x.dtype.is_complex:
        last = (*x.shape, 1)
        x = P.concat(P.reshape(E.real(x), shape=last), P.reshape(E.imag(x), shape=last), dim=x.ndim)
        x = P.reshape(x, shape=(*x.shape[:-2], 2 * x.shape[-2]))
    return E.bitcast(x, dtype=_WORDS[x.dtype.itemsize])


def _from_words(x: Tensor, dtype: DType) -> Tensor:
    """Unsigned integers of any size read as `dtype`, low bits first."""
    part = dtype.to_real()
    have, want = x.dtype.itemsize, part.itemsize
    n, words = max(have // want, want // have), _WORDS[want]
    size = x.shape[-1] if x.ndim else 1
    if have > want:
        low = [E.bitwise_and(E.shift_right(x, 8 * want * i), (1 << 8 * want) - 1) for i in range(n)]
        x = P.concat(*[P.reshape(E.cast(w, dtype=words), shape=(*x.shape, 1)) for w in low], dim=x.ndim)
        x = P.reshape(x, shape=(*x.shape[:-2], size * n))
    elif have < want:
        x = P.reshape(E.cast(x, dtype=words), shape=(*x.shape[:-1], size // n, n))
        x = R.sum(E.shift_left(x, E.mul(P.iota(size=n, dtype=words), 8 * have)), dims=(x.ndim - 1,), keepdim=False)
        x = x if x.dtype is words else E.cast(x, dtype=words)
    x = E.bitcast(x, dtype=part)
    if not dtype.is_complex:
        return x
    x = P.reshape(x, shape=(*x.shape[:-1], x.shape[-1] // 2, 2))
    lead, step = (0,) * (x.ndim - 1), (1,) * x.ndim
    cuts = [P.slice(x, start=(*lead, i), stop=(*x.shape[:-1], i + 1), step=step) for i in (0, 1)]
    return E.complex(*[P.reshape(c, shape=c.shape[:-1]) for c in cuts])
