"""Convolution and pooling against PyTorch on random sizes and params, through the tape."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from op_harness import gradients, wrap

from twofold.ir.primitive import PRIMITIVES
from twofold.primitives import conv as conv_module

conv, conv_input_grad = PRIMITIVES["conv"], PRIMITIVES["conv_input_grad"]
max_pool, sum_pool = PRIMITIVES["max_pool"], PRIMITIVES["sum_pool"]
TORCH_CONV = {1: F.conv1d, 2: F.conv2d, 3: F.conv3d}
TORCH_TRANSPOSED = {1: F.conv_transpose1d, 2: F.conv_transpose2d, 3: F.conv_transpose3d}
TORCH_MAX_POOL = {1: F.max_pool1d, 2: F.max_pool2d, 3: F.max_pool3d}
TORCH_AVG_POOL = {1: F.avg_pool1d, 2: F.avg_pool2d, 3: F.avg_pool3d}


def ints(rng, low, high, n):
    return tuple(int(v) for v in rng.integers(low, high + 1, n))


def leaf(array):
    t = wrap(array.copy())
    t.requires_grad = True
    return t


def torch_leaf(array):
    return torch.from_numpy(array.copy()).requires_grad_()


def close(actual, expected):
    np.testing.assert_allclose(actual._value, expected.detach().numpy(), rtol=1e-10, atol=1e-11)


def random_conv(seed):
    """x, w and the params of a random convolution; half of them grouped, a quarter depthwise."""
    rng = np.random.default_rng(seed)
    n = 1 + seed % 3
    groups = int(rng.choice([1, 1, 2, 3]))
    depth = 1 if rng.random() < 0.5 else 2
    kernel, stride = ints(rng, 1, 3, n), ints(rng, 1, 3 if seed % 2 else 1, n)
    dilation, pad = ints(rng, 1, 2, n), ints(rng, 0, 2, n)
    low = [max(d * (k - 1) + 1 - 2 * p, 1) for k, d, p in zip(kernel, dilation, pad, strict=True)]
    size = tuple(int(v + rng.integers(0, 4)) for v in low)
    x = rng.standard_normal((int(rng.integers(1, 4)), groups * depth, *size))
    w = rng.standard_normal((groups * int(rng.integers(1, 4)), depth, *kernel))
    return rng, x, w, {"stride": stride, "padding": pad, "dilation": dilation, "groups": groups}


def ours(params):
    return {**params, "padding": tuple((p, p) for p in params["padding"])}


@pytest.mark.parametrize("seed", range(36))
@pytest.mark.parametrize("small_blocks", [False, True])
def test_conv(seed, small_blocks, monkeypatch):
    """Values and both gradients; with tiny blocks of columns, images are cut into rows."""
    if small_blocks:
        monkeypatch.setattr(conv_module, "_BLOCK_BYTES", 1)
        monkeypatch.setattr(conv_module, "_BLOCK_POSITIONS", 1)
    rng, x, w, params = random_conv(seed)
    xt, wt = torch_leaf(x), torch_leaf(w)
    yt = TORCH_CONV[x.ndim - 2](xt, wt, None, **params)
    c = rng.standard_normal(tuple(yt.shape))
    ours_x, ours_w = leaf(x), leaf(w)
    y = conv(ours_x, ours_w, **ours(params))
    close(y, yt)
    expected = torch.autograd.grad(yt, (xt, wt), torch.from_numpy(c))
    for g, e in zip(gradients([y], [wrap(c)], [ours_x, ours_w]), expected, strict=True):
        close(g, e)


@pytest.mark.parametrize("seed", range(0, 36, 4))
def test_conv_double_backward(seed):
    rng, x, w, params = random_conv(seed)
    xt, wt = torch_leaf(x), torch_leaf(w)
    yt = TORCH_CONV[x.ndim - 2](xt, wt, None, **params)
    c, u, v = (rng.standard_normal(tuple(s)) for s in (yt.shape, x.shape, w.shape))
    ct = torch_leaf(c)
    first = torch.autograd.grad(yt, (xt, wt), ct, create_graph=True)
    expected = torch.autograd.grad(first, (xt, wt, ct), (torch.from_numpy(u), torch.from_numpy(v)))
    leaves = leaf(x), leaf(w), leaf(c)
    y = conv(*leaves[:2], **ours(params))
    inner = gradients([y], [leaves[2]], list(leaves[:2]), create_graph=True)
    for g, e in zip(gradients(inner, [wrap(u), wrap(v)], list(leaves)), expected, strict=True):
        close(g, e)


def transposed_size(size, kernel, extra, *, stride, padding, dilation, groups):
    return tuple(
        (m - 1) * s - 2 * p + d * (k - 1) + e + 1
        for m, s, p, d, k, e in zip(size, stride, padding, dilation, kernel, extra, strict=True)
    )


@pytest.mark.parametrize("seed", range(24))
def test_transposed_conv(seed):
    rng, _, w, params = random_conv(seed)
    n = w.ndim - 2
    groups, kernel = params["groups"], w.shape[2:]
    x = rng.standard_normal((2, w.shape[0], *ints(rng, 2, 4, n)))
    extra = tuple(int(rng.integers(0, s)) for s in params["stride"])  # PyTorch's output_padding
    size = transposed_size(x.shape[2:], kernel, extra, **params)
    if min(size) < 1:
        params["padding"] = (0,) * n
        size = transposed_size(x.shape[2:], kernel, extra, **params)
    xt, wt = torch_leaf(x), torch_leaf(w)
    yt = TORCH_TRANSPOSED[n](xt, wt, None, params["stride"], params["padding"], extra, groups, params["dilation"])
    ours_x, ours_w = leaf(x), leaf(w)
    y = conv_input_grad(ours_x, ours_w, input_size=size, **ours(params))
    close(y, yt)
    c = rng.standard_normal(y.shape)
    expected = torch.autograd.grad(yt, (xt, wt), torch.from_numpy(c))
    for g, e in zip(gradients([y], [wrap(c)], [ours_x, ours_w]), expected, strict=True):
        close(g, e)


def random_pool(seed, max_dilation):
    rng = np.random.default_rng(1000 + seed)
    n = 1 + seed % 3
    kernel, stride, dilation = ints(rng, 1, 3, n), ints(rng, 1, 3, n), ints(rng, 1, max_dilation, n)
    pad = tuple(int(rng.integers(0, k // 2 + 1)) for k in kernel)
    size = tuple(d * (k - 1) + 1 + int(rng.integers(0, 5)) for k, d in zip(kernel, dilation, strict=True))
    params = {"kernel": kernel, "stride": stride, "padding": tuple((p, p) for p in pad), "dilation": dilation}
    return rng, (2, 2, *size), pad, params


@pytest.mark.parametrize("seed", range(30))
def test_max_pool(seed):
    """Few different values, so that ties are common; some NaN and -inf; odd seeds have neither."""
    rng, shape, pad, params = random_pool(seed, 2)
    x = rng.integers(0, 4, shape).astype(np.float64)
    if seed % 2 == 0:
        x[rng.random(shape) < 0.15] = np.nan
        x[rng.random(shape) < 0.3] = -np.inf
    xt = torch_leaf(x)
    yt, index = TORCH_MAX_POOL[len(pad)](
        xt, params["kernel"], params["stride"], pad, params["dilation"], return_indices=True
    )
    ours_x = leaf(x)
    y, ours_index = max_pool(ours_x, **params)
    close(y, yt)
    np.testing.assert_array_equal(ours_index._value, index.numpy())
    c = rng.standard_normal(y.shape)
    expected = torch.autograd.grad(yt, xt, torch.from_numpy(c))[0]
    close(gradients([y], [wrap(c)], [ours_x])[0], expected)


def test_max_pool_with_many_taps():
    """More taps than a byte counts."""
    x = np.random.default_rng(0).standard_normal((1, 2, 40, 36))
    params = {"kernel": (19, 17), "stride": (2, 3), "padding": ((5, 5), (8, 8)), "dilation": (1, 1)}
    y, index = max_pool(wrap(x), **params)
    yt, expected = F.max_pool2d(torch.from_numpy(x), (19, 17), (2, 3), (5, 8), return_indices=True)
    close(y, yt)
    np.testing.assert_array_equal(index._value, expected.numpy())


@pytest.mark.parametrize("seed", range(18))
def test_sum_pool(seed):
    rng, shape, pad, params = random_pool(seed, 1)
    x = rng.standard_normal(shape)
    xt, ours_x = torch_leaf(x), leaf(x)
    yt = TORCH_AVG_POOL[len(pad)](xt, params["kernel"], params["stride"], pad) * math.prod(params["kernel"])
    y = sum_pool(ours_x, **params)
    close(y, yt)
    c = rng.standard_normal(y.shape)
    expected = torch.autograd.grad(yt, xt, torch.from_numpy(c))[0]
    close(gradients([y], [wrap(c)], [ours_x])[0], expected)


def test_conv_of_strided_inputs():
    """A permuted image, a reversed weight and a broadcast gradient have no row-major memory."""
    rng = np.random.default_rng(0)
    x = rng.standard_normal((2, 6, 5, 3)).transpose(0, 3, 1, 2)
    w = rng.standard_normal((3, 4, 3, 2)).transpose(1, 0, 2, 3)[:, :, ::-1]
    params = {"stride": (1, 1), "padding": ((1, 1), (1, 1)), "dilation": (1, 1), "groups": 1}
    xt, wt = torch_leaf(np.ascontiguousarray(x)), torch_leaf(np.ascontiguousarray(w))
    yt = F.conv2d(xt, wt, padding=1)
    g = np.broadcast_to(np.float64(2.0), tuple(yt.shape))
    ours_x, ours_w = wrap(x), wrap(w)
    ours_x.requires_grad = ours_w.requires_grad = True
    y = conv(ours_x, ours_w, **params)
    close(y, yt)
    expected = torch.autograd.grad(yt, (xt, wt), torch.from_numpy(g.copy()))
    for mine, theirs in zip(gradients([y], [wrap(g)], [ours_x, ours_w]), expected, strict=True):
        close(mine, theirs)
