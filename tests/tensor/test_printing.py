"""Printed tensors look as PyTorch's do."""

from __future__ import annotations

import numpy as np
import pytest
import torch

import twofold as tw

NAN, INF = float("nan"), float("inf")
DTYPES = ("float32", "float64", "float16", "int64", "int32", "uint8", "bool", "complex64", "complex128")
SHAPES = (
    (),
    (1,),
    (3,),
    (20,),
    (1001,),
    (2, 3),
    (1, 1),
    (7, 1),
    (2, 3, 4),
    (40, 30),
    (2, 2, 300),
    (0,),
    (0, 3),
    (2, 0),
)


def both(array, **options):
    """The text of the array as a tensor here and in PyTorch, with PyTorch's names made ours."""
    mine = tw.from_numpy(np.asarray(array))
    theirs = torch.tensor(np.asarray(array))
    if options:
        tw.set_printoptions(**options)
        torch.set_printoptions(**options)
    try:
        return repr(mine), repr(theirs).replace("torch.", "twofold.")
    finally:
        tw.set_printoptions(profile="default")
        torch.set_printoptions(profile="default")


def scaled(rng, shape, dtype):
    """Random values of a random magnitude."""
    d = np.dtype(dtype)
    if d.kind == "b":
        return rng.random(shape) < 0.5
    if d.kind in "iu":
        return np.asarray(rng.integers(0, 10 ** int(rng.integers(1, 3)), shape)).astype(d)
    values = rng.normal(size=shape) * 10.0 ** rng.integers(-3, 4)
    if rng.random() < 0.3:
        values = np.round(values)
    if d.kind == "c":
        values = values + 1j * rng.normal(size=shape)
    return np.asarray(values).astype(d)


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("shape", SHAPES, ids=str)
def test_random_tensors(dtype, shape):
    for seed in range(4):
        mine, theirs = both(scaled(np.random.default_rng(seed), shape, dtype))
        # the suffix is wrapped by its length, and ours has another name in it
        assert " ".join(mine.split()) == " ".join(theirs.split())
        if "dtype" not in theirs:
            assert mine == theirs


@pytest.mark.parametrize(
    "values",
    [
        [NAN, INF, -INF, 0.0, -0.0],
        [NAN, 1.0, 2.0],
        [1.5, INF],
        [1.0, INF, -100.0],
        [1e-5, 1.0],
        [1e9, 1.0],
        [1e8, 1.0],
        [1000.0, 0.5],
        [1001.0, 0.5],
        [0.0, 0.00012],
        [NAN],
        [0.0],
        [-0.0],
        [123456.0],
        [0.1, -1e-7],
        [[1.0, -2.5], [1e-3, 1e3]],
    ],
    ids=str,
)
def test_special_values(values):
    for dtype in (np.float32, np.float64):
        mine, theirs = both(np.array(values, dtype))
        assert mine == theirs


@pytest.mark.parametrize(
    "values",
    [[1 + 2j, -1.5 - 0.25j], [complex(NAN, INF), 0j], [1e-9 + 1j], [complex(0.0, -0.0)], [100 + 1e5j, 1j]],
    ids=str,
)
def test_complex_values(values):
    mine, theirs = both(np.array(values, np.complex64))
    assert mine == theirs


@pytest.mark.parametrize(
    "options",
    [
        {"precision": 2},
        {"threshold": 5},
        {"threshold": 5, "edgeitems": 1},
        {"linewidth": 30},
        {"sci_mode": True},
        {"sci_mode": False},
        {"profile": "short"},
    ],
    ids=str,
)
def test_options(options):
    rng = np.random.default_rng(0)
    for shape in ((3,), (12,), (4, 9), (3, 4, 5)):
        for array in (rng.normal(size=shape).astype(np.float32), rng.integers(0, 2000, shape)):
            mine, theirs = both(array, **options)
            assert mine == theirs


@pytest.mark.parametrize("sci_mode", [True, False, None])
def test_sci_mode_with_a_wide_range(sci_mode):
    for values in ([1e-6, 1.0, -2000.0], [1.0, 2.0, 1e9], [0.0, NAN], [1.0, 2.0]):
        mine, theirs = both(np.array(values), sci_mode=sci_mode)
        assert mine == theirs


def test_full_profile_prints_everything():
    mine, theirs = both(np.arange(1200), profile="full")
    assert mine == theirs
    assert "..." not in mine


def test_bfloat16():
    x = torch.randn(5).bfloat16()
    mine = tw.tensor(x.float().numpy(), dtype=tw.bfloat16)
    assert repr(mine) == repr(x).replace("torch", "twofold")


def test_suffixes():
    x = tw.tensor([1.0, 2.0], requires_grad=True)
    assert repr(x) == "tensor([1., 2.], requires_grad=True)"
    assert repr(x * 2) == "tensor([2., 4.], grad_fn=<MulBackward0>)"
    assert repr(x.detach()) == "tensor([1., 2.])"
    assert repr(tw.zeros(2, dtype=tw.float64)) == "tensor([0., 0.], dtype=twofold.float64)"
    assert repr(tw.zeros(0, 2, dtype=tw.int64)) == "tensor([], size=(0, 2), dtype=twofold.int64)"
    assert str(tw.zeros(1)) == "tensor([0.])"


def test_a_long_suffix_goes_to_its_own_line():
    x = tw.zeros(2, 7, dtype=tw.float64, requires_grad=True)
    t = torch.zeros(2, 7, dtype=torch.float64, requires_grad=True)
    assert " ".join(repr(x).split()) == " ".join(repr(t).replace("torch", "twofold").split())
    y, u = tw.rand(12, requires_grad=True), torch.rand(12, requires_grad=True)
    assert repr(y).count("\n") == repr(u).count("\n")


def test_format():
    assert f"{tw.tensor(1.5)}" == "1.5"
    assert f"{tw.tensor(3.14159):.2f}" == "3.14"
    assert f"{tw.tensor([1.5])}" == "tensor([1.5000])"
    with pytest.raises(TypeError):
        format(tw.tensor([1.5]), ".2f")


def test_traced_tensors_print_their_type():
    seen = []
    tw.trace(lambda x: (seen.append(repr(x * 2)), seen.append(f"{x.sum()}"), x)[2], tw.ones(2, 3))
    assert seen == ["tensor(<float32[2, 3]>)", "tensor(<float32[]>)"]


def test_options_are_restored():
    before = tw.get_printoptions()
    with tw.printoptions(precision=1, sci_mode=True):
        assert repr(tw.tensor([0.25])) == "tensor([2.5e-01])"
    assert tw.get_printoptions() == before
    with pytest.raises(Exception, match="profile 'nice' is not one of"):
        tw.set_printoptions(profile="nice")
