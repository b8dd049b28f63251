"""Recurrent layers over whole sequences: rnn, lstm, gru, and their derivatives.

Note [Sequences]
A layer in one direction is one primitive, from the products of its inputs with the input weights,
`x` (T, N, gates * H), to all its outputs. With `reverse` it begins at the last time. What its
derivative needs is among the results: the states `cs` and the activated gates `a`.

The derivative goes through time backwards and gives the gradients `d` of the gates before their
activation, of all times. The gradient of the recurrent weight is then one matrix product over times
and rows, outside of the recurrence.

The derivative of the derivative runs forward again (`_sequences2.py`); it is written step by step
in primitives, so that all orders exist.

The dtypes float16 and bfloat16 are computed in float32 throughout, and rounded in the results.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import numpy as np

from ..ir.dtypes import FLOATS, DType, float32, int64
from ..ir.errors import DTypeError, ShapeError, TwofoldError
from ..ir.primitive import ErrorSample, Primitive, Sample
from ..ir.types import Shape, TensorType
from ._rules import check_dtype, check_same_dtype, draw, via_float32
from ._sequences import columns, last_columns, times, weight_grads
from ._sequences2 import gru_second, lstm_second, rnn_second
from .movement import concat
from .reduce import sum

Array = np.ndarray[Any, Any]
ACTIVATIONS = ("tanh", "relu")


# --- types --------------------------------------------------------------------------------------


def _expect(op: str, what: str, t: TensorType, shape: Shape) -> None:
    if t.shape != shape:
        raise ShapeError(f"{what} has shape {t.shape}, expected {shape}", op=op)


def _sizes(op: str, x: TensorType, gates: int, *others: TensorType) -> tuple[int, int, int]:
    """Times, rows and hidden size of a sequence (T, N, gates * H), whose operands agree in dtype."""
    check_dtype(op, check_same_dtype(op, x, *others), FLOATS)
    if x.ndim != 3 or x.shape[0] == 0 or x.shape[2] % gates:
        raise ShapeError(
            f"a sequence has shape {x.shape}, expected (T, N, {'' if gates == 1 else f'{gates} * '}H) with T >= 1",
            op=op,
        )
    steps, n, width = x.shape
    return steps, n, width // gates


def _rnn_type(x: TensorType, h0: TensorType, w: TensorType, *, nonlinearity: str, reverse: bool) -> TensorType:
    if nonlinearity not in ACTIVATIONS:
        raise TwofoldError(f"unknown nonlinearity {nonlinearity!r}, expected one of {ACTIVATIONS}", op="rnn")
    _, n, k = _sizes("rnn", x, 1, h0, w)
    _expect("rnn", "the state", h0, (n, k))
    _expect("rnn", "the weight", w, (k, k))
    return x


def _rnn_grad_type(g: TensorType, y: TensorType, w: TensorType, **_params: Any) -> tuple[TensorType, ...]:
    _, n, k = _sizes("rnn_grad", g, 1, y, w)
    _expect("rnn_grad", "the output", y, g.shape)
    _expect("rnn_grad", "the weight", w, (k, k))
    return g, g.with_shape((n, k))


def _lstm_type(
    x: TensorType, h0: TensorType, c0: TensorType, w: TensorType, *, reverse: bool
) -> tuple[TensorType, ...]:
    steps, n, k = _sizes("lstm", x, 4, h0, c0, w)
    _expect("lstm", "the state h", h0, (n, k))
    _expect("lstm", "the state c", c0, (n, k))
    _expect("lstm", "the weight", w, (4 * k, k))
    ys = x.with_shape((steps, n, k))
    return ys, ys, x


def _lstm_grad_type(
    gy: TensorType, gc: TensorType, ga: TensorType, cs: TensorType, a: TensorType, c0: TensorType, w: TensorType,
    *, reverse: bool,
) -> tuple[TensorType, ...]:  # fmt: skip
    steps, n, k = _sizes("lstm_grad", ga, 4, gy, gc, cs, a, c0, w)
    for what, t in (("a gradient", gy), ("a gradient", gc), ("the states", cs)):
        _expect("lstm_grad", what, t, (steps, n, k))
    _expect("lstm_grad", "the gates", a, ga.shape)
    _expect("lstm_grad", "the state", c0, (n, k))
    _expect("lstm_grad", "the weight", w, (4 * k, k))
    return ga, c0, c0


def _gru_type(
    x: TensorType, h0: TensorType, w: TensorType, b: TensorType, *, reverse: bool
) -> tuple[TensorType, ...]:
    steps, n, k = _sizes("gru", x, 3, h0, w, b)
    _expect("gru", "the state", h0, (n, k))
    _expect("gru", "the weight", w, (3 * k, k))
    _expect("gru", "the bias", b, (3 * k,))
    return x.with_shape((steps, n, k)), x.with_shape((steps, n, 4 * k))


def _gru_grad_type(
    gy: TensorType, ga: TensorType, ys: TensorType, a: TensorType, h0: TensorType, w: TensorType, *, reverse: bool
) -> tuple[TensorType, ...]:
    steps, n, k = _sizes("gru_grad", ga, 4, gy, ys, a, h0, w)
    _expect("gru_grad", "the gradient", gy, (steps, n, k))
    _expect("gru_grad", "the output", ys, (steps, n, k))
    _expect("gru_grad", "the gates", a, ga.shape)
    _expect("gru_grad", "the state", h0, (n, k))
    _expect("gru_grad", "the weight", w, (3 * k, k))
    return ga, h0


# --- NumPy references -----------------------------------------------------------------------------


def _sigmoid(x: Array) -> None:
    """In place."""
    np.negative(x, out=x)
    np.exp(x, out=x)
    x += 1
    np.divide(1, x, out=x)


def _previous(states: Array, first: Array, reverse: bool) -> Array:
    """The states before each time."""
    out = np.empty_like(states)
    if reverse:
        out[:-1], out[-1] = states[1:], first
    else:
        out[1:], out[0] = states[:-1], first
    return out


def _rnn(x: Array, h0: Array, w: Array, *, nonlinearity: str, reverse: bool) -> Array:
    ys, h, wt = np.empty_like(x, order="C"), h0, np.ascontiguousarray(w.T)
    for t in times(len(x), reverse):
        y = ys[t]
        np.add(x[t], h @ wt, out=y)
        if nonlinearity == "tanh":
            np.tanh(y, out=y)
        else:
            np.maximum(y, 0, out=y)
        h = y
    return ys


def _rnn_grad(g: Array, y: Array, w: Array, *, nonlinearity: str, reverse: bool) -> tuple[Array, Array]:
    slope = 1 - y * y if nonlinearity == "tanh" else (y > 0).astype(y.dtype)
    d, carry = np.empty_like(g, order="C"), np.zeros(g.shape[1:], g.dtype)
    for t in times(len(g), not reverse):
        np.multiply(g[t] + carry, slope[t], out=d[t])
        carry = d[t] @ w
    return d, carry


def _lstm(x: Array, h0: Array, c0: Array, w: Array, *, reverse: bool) -> tuple[Array, Array, Array]:
    steps, (n, k) = len(x), h0.shape
    ys, cs = np.empty((steps, n, k), x.dtype), np.empty((steps, n, k), x.dtype)
    a, h, c, wt = np.empty_like(x, order="C"), h0, c0, np.ascontiguousarray(w.T)
    for t in times(steps, reverse):
        gates = a[t]
        np.add(x[t], h @ wt, out=gates)
        i, f, g, o = (gates[:, k * j : k * j + k] for j in range(4))
        _sigmoid(gates[:, : 2 * k])
        np.tanh(g, out=g)
        _sigmoid(o)
        np.multiply(f, c, out=cs[t])
        c = cs[t]
        c += i * g
        h = ys[t]
        np.multiply(o, np.tanh(c), out=h)
    return ys, cs, a


def _lstm_grad(
    gy: Array, gc: Array, ga: Array, cs: Array, a: Array, c0: Array, w: Array, *, reverse: bool
) -> tuple[Array, Array, Array]:
    steps, n, k = cs.shape
    tanh = np.tanh(cs)
    a4 = a.reshape(steps, n, 4, k)
    i, f, g, o = (a4[:, :, j] for j in range(4))
    slope = a4 * (1 - a4)
    slope[:, :, 2] = 1 - g * g
    through = o * (1 - tanh * tanh)  # from h to c
    factor = np.stack([g, _previous(cs, c0, reverse), i, tanh], 2)
    factor *= slope
    direct = ga.reshape(a4.shape) * slope if ga.any() else None
    d = np.empty((steps, n, 4 * k), a.dtype)
    carry, dc = np.zeros((n, k), a.dtype), np.zeros((n, k), a.dtype)
    for t in times(steps, not reverse):
        dh = gy[t] + carry
        dc += gc[t]
        dc += dh * through[t]
        d4 = d[t].reshape(n, 4, k)
        np.multiply(dc[:, None], factor[t, :, :3], out=d4[:, :3])
        np.multiply(dh, factor[t, :, 3], out=d4[:, 3])
        if direct is not None:
            d4 += direct[t]
        carry = d[t] @ w
        dc *= f[t]
    return d, carry, dc


def _gru(x: Array, h0: Array, w: Array, b: Array, *, reverse: bool) -> tuple[Array, Array]:
    steps, (n, k) = len(x), h0.shape
    ys, a, h = np.empty((steps, n, k), x.dtype), np.empty((steps, n, 4 * k), x.dtype), h0
    wt = np.ascontiguousarray(w.T)
    for t in times(steps, reverse):
        product = h @ wt
        product += b
        gates = a[t]
        np.add(x[t, :, : 2 * k], product[:, : 2 * k], out=gates[:, : 2 * k])
        _sigmoid(gates[:, : 2 * k])
        r, z, new, m = (gates[:, k * j : k * j + k] for j in range(4))
        m[...] = product[:, 2 * k :]
        np.multiply(r, m, out=new)
        new += x[t, :, 2 * k :]
        np.tanh(new, out=new)
        y = ys[t]
        np.subtract(h, new, out=y)
        y *= z
        y += new
        h = y
    return ys, a


def _gru_grad(
    gy: Array, ga: Array, ys: Array, a: Array, h0: Array, w: Array, *, reverse: bool
) -> tuple[Array, Array]:
    steps, n, k = ys.shape
    before = _previous(ys, h0, reverse)
    d, carry = np.empty((steps, n, 4 * k), a.dtype), np.zeros((n, k), a.dtype)
    given = bool(ga.any())
    p = np.empty((n, 3 * k), a.dtype)  # what goes through the recurrent weight
    for t in times(steps, not reverse):
        r, z, new, m = (a[t, :, k * j : k * j + k] for j in range(4))
        gr, gz, gn, gm = (ga[t, :, k * j : k * j + k] for j in range(4))
        dr, dz, dn, dm = (d[t, :, k * j : k * j + k] for j in range(4))
        dh = gy[t] + carry
        np.multiply(dh, 1 - z, out=dn)
        np.multiply(dh, before[t] - new, out=dz)
        if given:
            dn += gn
            dz += gz
        dn *= 1 - new * new
        dz *= z * (1 - z)
        np.multiply(dn, m, out=dr)
        np.multiply(dn, r, out=dm)
        if given:
            dr += gr
            dm += gm
        dr *= r * (1 - r)
        p[:, : 2 * k], p[:, 2 * k :] = d[t, :, : 2 * k], dm
        carry = p @ w
        carry += dh * z
    return d, carry


# --- derivatives ----------------------------------------------------------------------------------


def _rnn_vjp(g: Any, y: Any, _x: Any, h0: Any, w: Any, *, nonlinearity: str, reverse: bool) -> Any:
    d, dh0 = rnn_grad(g, y, w, nonlinearity=nonlinearity, reverse=reverse)
    return d, dh0, *weight_grads([d], y, h0, reverse)


def _lstm_vjp(g: Any, y: Any, _x: Any, h0: Any, c0: Any, w: Any, *, reverse: bool) -> Any:
    ys, cs, a = y
    d, dh0, dc0 = lstm_grad(*g, cs, a, c0, w, reverse=reverse)
    return d, dh0, dc0, *weight_grads([d], ys, h0, reverse)


def _gru_vjp(g: Any, y: Any, _x: Any, h0: Any, w: Any, _b: Any, *, reverse: bool) -> Any:
    ys, a = y
    k = h0.shape[1]
    d, dh0 = gru_grad(*g, ys, a, h0, w, reverse=reverse)
    parts = columns(d, 2 * k, 0), last_columns(d, k)  # of the product with the state
    dw = concat(*weight_grads(parts, ys, h0, reverse), dim=0)
    db = concat(*[sum(p, dims=(0, 1), keepdim=False) for p in parts], dim=0)
    return columns(d, 3 * k, 0), dh0, dw, db


# --- samples --------------------------------------------------------------------------------------

_SHAPES = ((3, 2, 2), (1, 2, 3), (2, 1, 1), (2, 0, 2))


def _drawn(dtype: DType, rng: np.random.Generator, *shapes: Shape) -> tuple[Array, ...]:
    return tuple(draw(dtype, rng, s, -1.2, 1.2) for s in shapes)


def _rnn_samples(dtype: DType, rng: np.random.Generator) -> Iterator[Sample]:
    for t, n, k in _SHAPES:
        for reverse in (False, True):
            for kind in ACTIVATIONS:
                inputs = _drawn(dtype, rng, (t, n, k), (n, k), (k, k))
                yield Sample(inputs, {"nonlinearity": kind, "reverse": reverse})


def _rnn_grad_samples(dtype: DType, rng: np.random.Generator) -> Iterator[Sample]:
    for t, n, k in _SHAPES:
        for reverse in (False, True):
            for kind in ACTIVATIONS:
                inputs = _drawn(dtype, rng, (t, n, k), (t, n, k), (k, k))
                yield Sample(inputs, {"nonlinearity": kind, "reverse": reverse})


def _lstm_samples(dtype: DType, rng: np.random.Generator) -> Iterator[Sample]:
    for t, n, k in _SHAPES:
        for reverse in (False, True):
            yield Sample(_drawn(dtype, rng, (t, n, 4 * k), (n, k), (n, k), (4 * k, k)), {"reverse": reverse})


def _lstm_grad_samples(dtype: DType, rng: np.random.Generator) -> Iterator[Sample]:
    for t, n, k in _SHAPES:
        s, wide = (t, n, k), (t, n, 4 * k)
        for reverse in (False, True):
            yield Sample(_drawn(dtype, rng, s, s, wide, s, wide, (n, k), (4 * k, k)), {"reverse": reverse})


def _gru_samples(dtype: DType, rng: np.random.Generator) -> Iterator[Sample]:
    for t, n, k in _SHAPES:
        for reverse in (False, True):
            yield Sample(_drawn(dtype, rng, (t, n, 3 * k), (n, k), (3 * k, k), (3 * k,)), {"reverse": reverse})


def _gru_grad_samples(dtype: DType, rng: np.random.Generator) -> Iterator[Sample]:
    for t, n, k in _SHAPES:
        s, wide = (t, n, k), (t, n, 4 * k)
        for reverse in (False, True):
            yield Sample(_drawn(dtype, rng, s, wide, s, wide, (n, k), (3 * k, k)), {"reverse": reverse})


def _zeros(*shapes: Shape, dtype: DType = float32) -> tuple[Array, ...]:
    return tuple(np.zeros(s, dtype.numpy) for s in shapes)


def _errors(*shapes: Shape, at: int, bad: Shape, match: str, **params: Any) -> Any:
    """Refused: integers, a first operand of another dtype, and one wrong shape."""
    params = {"reverse": False, **params}

    def errors() -> list[ErrorSample]:
        wrong = [*shapes]
        wrong[at] = bad
        mixed = (*_zeros(shapes[0], dtype=int64), *_zeros(*shapes[1:]))
        return [
            ErrorSample(_zeros(*shapes, dtype=int64), params, DTypeError, "not supported"),
            ErrorSample(mixed, params, DTypeError, "different dtypes"),
            ErrorSample(_zeros(*wrong), params, ShapeError, match),
        ]

    return errors


# --- the entries ----------------------------------------------------------------------------------

rnn: Primitive = Primitive(
    "rnn",
    type_rule=_rnn_type,
    numpy=via_float32(_rnn),
    vjp=_rnn_vjp,
    samples=_rnn_samples,
    errors=_errors((2, 2, 3), (2, 3), (3, 3), at=1, bad=(3, 3), match="the state has shape", nonlinearity="tanh"),
    dtypes=FLOATS,
)

rnn_grad: Primitive = Primitive(
    "rnn_grad",
    type_rule=_rnn_grad_type,
    numpy=via_float32(_rnn_grad),
    vjp=rnn_second,
    samples=_rnn_grad_samples,
    errors=_errors(
        (2, 2, 3), (2, 2, 3), (3, 3), at=2, bad=(3, 2), match="the weight has shape", nonlinearity="tanh"
    ),
    dtypes=FLOATS,
    multiple=True,
)

lstm: Primitive = Primitive(
    "lstm",
    type_rule=_lstm_type,
    numpy=via_float32(_lstm),
    vjp=_lstm_vjp,
    samples=_lstm_samples,
    errors=_errors((2, 2, 8), (2, 2), (2, 2), (8, 2), at=0, bad=(2, 2, 7), match="a sequence has shape"),
    dtypes=FLOATS,
    multiple=True,
)

lstm_grad: Primitive = Primitive(
    "lstm_grad",
    type_rule=_lstm_grad_type,
    numpy=via_float32(_lstm_grad),
    vjp=lstm_second,
    samples=_lstm_grad_samples,
    errors=_errors(
        (2, 2, 2), (2, 2, 2), (2, 2, 8), (2, 2, 2), (2, 2, 8), (2, 2), (8, 2),
        at=4, bad=(2, 2, 4), match="the gates has shape",
    ),
    dtypes=FLOATS,
    multiple=True,
)  # fmt: skip

gru: Primitive = Primitive(
    "gru",
    type_rule=_gru_type,
    numpy=via_float32(_gru),
    vjp=_gru_vjp,
    samples=_gru_samples,
    errors=_errors((2, 2, 6), (2, 2), (6, 2), (6,), at=3, bad=(4,), match="the bias has shape"),
    dtypes=FLOATS,
    multiple=True,
)

gru_grad: Primitive = Primitive(
    "gru_grad",
    type_rule=_gru_grad_type,
    numpy=via_float32(_gru_grad),
    vjp=gru_second,
    samples=_gru_grad_samples,
    errors=_errors(
        (2, 2, 2), (2, 2, 8), (2, 2, 2), (2, 2, 8), (2, 2), (6, 2), at=0, bad=(2, 2, 3), match="the gradient has"
    ),
    dtypes=FLOATS,
    multiple=True,
)
