"""Second derivatives of recurrent layers: the adjoints of rnn_grad, lstm_grad and gru_grad.

Each derivative is a recurrence that runs against the layer's direction; its adjoint runs with it.
Names: `u` are gradients of the gates' gradients `d`; a trailing `_` marks the adjoint of a quantity.
"""

from __future__ import annotations

from typing import Any

from ._sequences import after, at_time, before, columns, last_columns, parts, product, stacked, times
from .elementwise import gt, tanh, where
from .linalg import matmul, matrix_transpose
from .movement import concat, full


def _join(*xs: Any) -> Any:
    return concat(*xs, dim=2)


def rnn_second(g: Any, y: Any, gy: Any, ys: Any, w: Any, *, nonlinearity: str, reverse: bool) -> tuple[Any, ...]:
    """d_t = (gy_t + d_{t+1} W) slope(y_t), dh0 = d_1 W."""
    (u, uh), d = g, y[0]
    dh = gy + after(matmul(d, w), reverse)
    smooth = nonlinearity == "tanh"
    one = full(shape=ys.shape, value=1, dtype=ys.dtype)
    slope = one - ys * ys if smooth else where(gt(ys, 0.0), one, 0.0)
    wt, v = matrix_transpose(w), uh
    d_: dict[int, Any] = {}
    dh_: dict[int, Any] = {}
    for t in times(ys.shape[0], reverse):
        d_[t] = at_time(u, t) + matmul(v, wt)
        dh_[t] = v = d_[t] * at_time(slope, t)
    all_d, all_dh = stacked(d_), stacked(dh_)
    y_ = all_d * dh * ys * -2.0 if smooth else None
    return all_dh, y_, product(d, before(all_dh, uh, reverse))


def lstm_second(
    g: Any, y: Any, gy: Any, gc: Any, ga: Any, cs: Any, a: Any, c0: Any, w: Any, *, reverse: bool
) -> tuple[Any, ...]:
    """See `lstm_grad`: dh_t = gy_t + d_{t+1} W, dc_t = gc_t + dc_{t+1} f_{t+1} + dh_t o (1 - tanh(c_t)^2)."""
    (u, uh, uc), d = g, y[0]
    order = times(cs.shape[0], reverse)
    i, f, n, o = parts(a, 4)
    th, earlier = tanh(cs), before(cs, c0, reverse)
    flat = 1.0 - th * th
    dh = gy + after(matmul(d, w), reverse)
    direct = gc + dh * o * flat
    dc: Any = {}
    carry = None
    for t in reversed(order):
        dc[t] = at_time(direct, t) if carry is None else at_time(direct, t) + carry
        carry = dc[t] * at_time(f, t)
    dc = stacked(dc)
    da = _join(dc * n, dc * earlier, dc * i, dh * th) + ga
    slope = _join(i * (1.0 - i), f * (1.0 - f), 1.0 - n * n, o * (1.0 - o))
    bend = _join(1.0 - 2.0 * i, 1.0 - 2.0 * f, -2.0 * n, 1.0 - 2.0 * o)

    factors = [n, earlier, i, f, th, o * flat]
    wt, v, q = matrix_transpose(w), uh, uc
    d_: dict[int, Any] = {}
    dh_: dict[int, Any] = {}
    dc_: dict[int, Any] = {}
    for t in order:
        d_[t] = at_time(u, t) + matmul(v, wt)
        bi, bf, bn, bo = parts(d_[t] * at_time(slope, t), 4)
        n_t, earlier_t, i_t, f_t, th_t, through = (at_time(x, t) for x in factors)
        dc_[t] = q = bi * n_t + bf * earlier_t + bn * i_t + q * f_t
        dh_[t] = v = bo * th_t + q * through
    all_d, all_dh, all_dc = stacked(d_), stacked(dh_), stacked(dc_)
    da_ = all_d * slope
    bi, bf, bn, bo = parts(da_, 4)
    later = before(all_dc, uc, reverse)  # the adjoint of dc_t f_t
    a_ = all_d * da * bend + _join(bn * dc, later * dc, bi * dc, all_dc * dh * flat)
    th_ = bo * dh - 2.0 * (all_dc * dh * o * th)
    earlier_ = bf * dc
    cs_ = th_ * flat + after(earlier_, reverse)
    w_ = product(d, before(all_dh, uh, reverse))
    return all_dh, all_dc, da_, cs_, a_, at_time(earlier_, order[0]), w_


def gru_second(
    g: Any, y: Any, gy: Any, ga: Any, ys: Any, a: Any, h0: Any, w: Any, *, reverse: bool
) -> tuple[Any, ...]:
    """See `gru_grad`: dh_t = gy_t + dh_{t+1} z_{t+1} + p_{t+1} W, with p the columns r, z, m of d."""
    (u, uh), d = g, y[0]
    k = h0.shape[1]
    order = times(ys.shape[0], reverse)
    r, z, n, m = parts(a, 4)
    gr, gz, gn, _ = parts(ga, 4)
    p = _join(columns(d, 2 * k, 0), last_columns(d, k))
    earlier = before(ys, h0, reverse)
    direct = gy + after(matmul(p, w), reverse)
    dh: Any = {}
    carry = None
    for t in reversed(order):
        dh[t] = at_time(direct, t) if carry is None else at_time(direct, t) + carry
        carry = dh[t] * at_time(z, t)
    dh = stacked(dh)
    dn, dz = dh * (1.0 - z) + gn, dh * (earlier - n) + gz
    flat, slope_r, slope_z = 1.0 - n * n, r * (1.0 - r), z * (1.0 - z)
    d_n = columns(d, k, 2)
    dr = d_n * m + gr

    factors = [r, z, m, flat, slope_r, slope_z, earlier - n]
    wt, v = matrix_transpose(w), uh
    adjoints: dict[str, dict[int, Any]] = {name: {} for name in ("r", "z", "n", "m", "h")}
    for t in order:
        r_t, z_t, m_t, flat_t, slope_r_t, slope_z_t, gap = (at_time(x, t) for x in factors)
        ur, uz, un, um = parts(at_time(u, t), 4)
        vr, vz, vm = parts(matmul(v, wt), 3)
        adjoints["r"][t] = d_r_ = ur + vr
        adjoints["z"][t] = d_z_ = uz + vz
        adjoints["m"][t] = d_m_ = um + vm
        adjoints["n"][t] = d_n_ = un + d_m_ * r_t + d_r_ * slope_r_t * m_t
        v = d_n_ * flat_t * (1.0 - z_t) + d_z_ * slope_z_t * gap + v * z_t
        adjoints["h"][t] = v
    d_r_, d_z_, d_n_, d_m_, dh_ = (stacked(x) for x in adjoints.values())
    dr_, dz_, dn_ = d_r_ * slope_r, d_z_ * slope_z, d_n_ * flat
    later = before(dh_, uh, reverse)
    r_ = d_m_ * d_n + d_r_ * dr * (1.0 - 2.0 * r)
    z_ = d_z_ * dz * (1.0 - 2.0 * z) - dn_ * dh + later * dh
    n_ = d_n_ * dn * n * -2.0 - dz_ * dh
    earlier_ = dz_ * dh
    return (
        dh_,
        _join(dr_, dz_, dn_, d_m_),
        after(earlier_, reverse),
        _join(r_, z_, n_, dr_ * d_n),
        at_time(earlier_, order[0]),
        product(p, later),
    )
