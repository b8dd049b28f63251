"""grid_sample and affine_grid: values and gradients as PyTorch's."""

from __future__ import annotations

import itertools

import numpy as np
import pytest
import torch
import torch.nn.functional as TF

import twofold as tw
import twofold.nn.functional as F

RNG = np.random.default_rng(5)
SHAPES = {2: ((2, 3, 4, 5), (2, 3, 2)), 3: ((2, 2, 3, 4, 2), (2, 2, 1, 3))}  # the input's, and (N, *out)
CASES = [
    (n, mode, padding, align)
    for n, mode, padding, align in itertools.product(
        (2, 3), ("bilinear", "nearest", "bicubic"), ("zeros", "border", "reflection"), (False, True)
    )
    if n == 2 or mode != "bicubic"
]


@pytest.mark.parametrize(("n", "mode", "padding", "align"), CASES)
def test_equals_pytorch(n, mode, padding, align):
    shape, places = SHAPES[n]
    image, grid = RNG.normal(size=shape), RNG.uniform(-1.7, 1.7, (*places, n))
    results = []
    for lib, fn in ((tw, F.grid_sample), (torch, TF.grid_sample)):
        x, g = lib.tensor(image, requires_grad=True), lib.tensor(grid, requires_grad=True)
        out = fn(x, g, mode=mode, padding_mode=padding, align_corners=align)
        (out * lib.arange(out.numel(), dtype=lib.float64).reshape(out.shape)).sum().backward()
        results.append([out.detach().numpy(), x.grad.numpy()] + ([g.grad.numpy()] if mode != "nearest" else []))
    for ours, theirs in zip(*results, strict=True):
        np.testing.assert_allclose(ours, theirs, rtol=1e-9, atol=1e-9)


@pytest.mark.parametrize("size", [(2, 1, 3, 4), (2, 1, 1, 2), (2, 1, 2, 3, 1)])
@pytest.mark.parametrize("align", [False, True])
@pytest.mark.filterwarnings("ignore:.*affine_grid:UserWarning")
def test_affine_grid_equals_pytorch(size, align):
    n = len(size) - 2
    theta = RNG.normal(size=(size[0], n, n + 1))
    results = []
    for lib, fn in ((tw, F.affine_grid), (torch, TF.affine_grid)):
        t = lib.tensor(theta, requires_grad=True)
        out = fn(t, size, align_corners=align)
        (out * lib.arange(out.numel(), dtype=lib.float64).reshape(out.shape)).sum().backward()
        results.append((out.detach().numpy(), t.grad.numpy()))
    for ours, theirs in zip(*results, strict=True):
        np.testing.assert_allclose(ours, theirs, rtol=1e-12, atol=1e-12)


def test_the_identity_gives_the_image_and_halves_stay_halves():
    x = tw.rand(1, 2, 3, 4)
    grid = F.affine_grid(tw.eye(2, 3)[None], (1, 2, 3, 4), align_corners=False)
    assert tw.allclose(F.grid_sample(x, grid, align_corners=False), x, atol=1e-6)
    assert F.grid_sample(x.half(), grid.half()).dtype is tw.float16


def test_a_spatial_transformer_can_be_traced():
    x, theta = tw.rand(1, 1, 3, 3), tw.rand(1, 2, 3)
    traced = tw.trace(lambda x, t: F.grid_sample(x, F.affine_grid(t, (1, 1, 3, 3))), x, theta)
    assert tw.allclose(traced(x, theta), F.grid_sample(x, F.affine_grid(theta, (1, 1, 3, 3))))


@pytest.mark.parametrize(
    ("call", "error", "text"),
    [
        (lambda: F.grid_sample(tw.ones(1, 1, 3), tw.ones(1, 3, 1)), tw.ShapeError, "4-d or 5-d"),
        (lambda: F.grid_sample(tw.ones(1, 1, 3, 3), tw.ones(1, 2, 2, 3)), tw.ShapeError, r"\(1, H_out, W_out, 2\)"),
        (lambda: F.grid_sample(tw.ones(1, 1, 3, 3), tw.ones(2, 2, 2, 2)), tw.ShapeError, r"\(1, H_out, W_out, 2\)"),
        (lambda: F.grid_sample(tw.ones(1, 1, 3, 3), tw.ones(1, 2, 2, 2), "cubic"), tw.TwofoldError, "mode='cubic'"),
        (
            lambda: F.grid_sample(tw.ones(1, 1, 3, 3), tw.ones(1, 2, 2, 2), padding_mode="circular"),
            tw.TwofoldError,
            "'circular' is unknown",
        ),
        (lambda: F.grid_sample(tw.ones(1, 1, 2, 2), tw.ones(1, 2, 2, 2).double()), tw.DTypeError, "grid float64"),
        (lambda: F.affine_grid(tw.ones(2, 3), (1, 1, 2, 2)), tw.ShapeError, r"\(N, 2, 3\)"),
    ],
)
def test_errors(call, error, text):
    with pytest.raises(error, match=text):
        call()
