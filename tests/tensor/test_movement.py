"""Movement, joining, splitting and arranging against PyTorch: values, view or copy, errors."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
import torch

import twofold as tw
from twofold.ir.errors import DTypeError, OutOfBoundsError, ShapeError, TwofoldError


def pair(*shape: int) -> tuple[tw.Tensor, torch.Tensor]:
    array = np.arange(1, int(np.prod(shape)) + 1, dtype=np.float64).reshape(shape)
    return tw.tensor(array), torch.tensor(array)


def check(ours: Any, theirs: Any) -> None:
    if isinstance(theirs, (tuple, list)):
        assert isinstance(ours, (tuple, list)) and len(ours) == len(theirs)
        for a, b in zip(ours, theirs, strict=True):
            check(a, b)
        return
    assert ours.shape == tuple(theirs.shape)
    assert ours.dtype.name == str(theirs.dtype).removeprefix("torch.")
    theirs = theirs.detach().resolve_conj()
    if theirs.dtype == torch.bfloat16:
        ours, theirs = ours.float(), theirs.float()
    np.testing.assert_array_equal(ours.detach().numpy(), theirs.numpy())


# Every case is a function of (library, tensor), and the shape of the tensor.
CASES: list[tuple[tuple[int, ...], Callable[[Any, Any], Any]]] = [
    ((2, 6), lambda lib, x: lib.reshape(x, (3, -1))),
    ((2, 6), lambda lib, x: x.reshape(3, 4)),
    ((2, 6), lambda lib, x: x.view(4, -1)),
    ((2, 6), lambda lib, x: x.view([12])),
    ((2, 6), lambda lib, x: x.view_as(lib.zeros(3, 4))),
    ((2, 6), lambda lib, x: x.reshape_as(lib.zeros(3, 4))),
    ((), lambda lib, x: x.view(-1)),
    ((0, 3), lambda lib, x: x.view(3, 0)),
    ((0, 3), lambda lib, x: x.view(-1, 3)),
    ((2, 3, 4), lambda lib, x: x.flatten()),
    ((2, 3, 4), lambda lib, x: x.flatten(1)),
    ((2, 3, 4), lambda lib, x: lib.flatten(x, 0, 1)),
    ((2, 3, 4), lambda lib, x: x.flatten(start_dim=-2)),
    ((), lambda lib, x: x.flatten()),
    ((2, 12), lambda lib, x: x.unflatten(1, (3, -1))),
    ((2, 12), lambda lib, x: lib.unflatten(x, -1, (2, 2, 3))),
    ((2, 3), lambda lib, x: lib.ravel(x.t())),
    ((1, 2, 1), lambda lib, x: x.squeeze()),
    ((1, 2, 1), lambda lib, x: x.squeeze(0)),
    ((1, 2, 1), lambda lib, x: x.squeeze(1)),
    ((1, 2, 1), lambda lib, x: x.squeeze((0, -1))),
    ((), lambda lib, x: x.squeeze(0)),
    ((2, 3), lambda lib, x: x.unsqueeze(-1)),
    ((2, 3), lambda lib, x: lib.unsqueeze(x, 1)),
    ((), lambda lib, x: x.unsqueeze(0)),
    ((2, 3, 4), lambda lib, x: x.permute(2, 0, 1)),
    ((2, 3, 4), lambda lib, x: lib.permute(x, (-1, 0, 1))),
    ((), lambda lib, x: x.permute(())),
    ((2, 3, 4), lambda lib, x: x.transpose(0, -1)),
    ((2, 3, 4), lambda lib, x: lib.swapaxes(x, 0, 1)),
    ((2, 3, 4), lambda lib, x: lib.swapdims(x, 0, 1)),
    ((), lambda lib, x: x.transpose(0, -1)),
    ((2, 3), lambda lib, x: x.t()),
    ((3,), lambda lib, x: x.t()),
    ((2, 3), lambda lib, x: x.T),
    ((2, 3, 4), lambda lib, x: x.mT),
    ((2, 3), lambda lib, x: x.H),
    ((2, 3, 4), lambda lib, x: x.mH),
    ((2, 3, 4), lambda lib, x: lib.adjoint(x)),
    ((2, 3, 4), lambda lib, x: lib.movedim(x, 0, -1)),
    ((2, 3, 4), lambda lib, x: lib.moveaxis(x, (0, 1), (2, 0))),
    ((2, 1), lambda lib, x: x.expand(2, 3)),
    ((2, 1), lambda lib, x: x.expand(4, -1, 3)),
    ((), lambda lib, x: x.expand(2, 2)),
    ((1, 3), lambda lib, x: x.expand(0, 3)),
    ((2, 1), lambda lib, x: x.expand_as(lib.zeros(3, 2, 2))),
    ((2, 1), lambda lib, x: lib.broadcast_to(x, (2, 4))),
    ((2, 1), lambda lib, x: lib.broadcast_tensors(x, lib.zeros(3))),
    ((), lambda lib, x: lib.atleast_1d(x)),
    ((), lambda lib, x: lib.atleast_2d(x)),
    ((), lambda lib, x: lib.atleast_3d(x)),
    ((2,), lambda lib, x: lib.atleast_2d(x)),
    ((2,), lambda lib, x: lib.atleast_3d(x, lib.zeros(2, 2))),
    ((2, 3), lambda lib, x: lib.atleast_3d(x)),
    ((2, 3), lambda lib, x: x.repeat(2, 1)),
    ((2, 3), lambda lib, x: x.repeat(2, 1, 3)),
    ((2,), lambda lib, x: x.repeat(0)),
    ((1,), lambda lib, x: x.repeat(3)),
    ((2, 3), lambda lib, x: x.repeat(1, 1)),
    ((2, 3), lambda lib, x: x.tile(2)),
    ((2, 3), lambda lib, x: lib.tile(x, (2, 1, 2))),
    ((2, 3), lambda lib, x: x.repeat_interleave(2)),
    ((2, 3), lambda lib, x: lib.repeat_interleave(x, 2, dim=1)),
    ((2, 3), lambda lib, x: lib.repeat_interleave(x, lib.tensor([2, 0, 1]), dim=1)),
    ((2, 3), lambda lib, x: x.repeat_interleave(lib.tensor([3, 1]), 0, output_size=4)),
    ((2, 3), lambda lib, x: x.repeat_interleave(lib.tensor([2]), 0)),
    ((), lambda lib, x: x.repeat_interleave(3)),
    ((2,), lambda lib, x: lib.repeat_interleave(lib.tensor([1, 0, 2]))),
    ((2, 3), lambda lib, x: lib.cat([x, x * 2], 1)),
    ((2, 3), lambda lib, x: lib.cat((x, lib.tensor([]), x))),
    ((2, 3), lambda lib, x: lib.concat([x, lib.ones(1, 3, dtype=lib.int64)], dim=-2)),
    ((2, 3), lambda lib, x: lib.concatenate([x, x], dim=0)),
    ((2, 3), lambda lib, x: lib.stack([x, x + 1])),
    ((2, 3), lambda lib, x: lib.stack([x, x + 1], dim=-1)),
    ((), lambda lib, x: lib.stack((x, x), 0)),
    ((2, 3), lambda lib, x: lib.hstack([x, x])),
    ((3,), lambda lib, x: lib.hstack([x, x])),
    ((), lambda lib, x: lib.hstack([x, x])),
    ((3,), lambda lib, x: lib.vstack([x, x])),
    ((3,), lambda lib, x: lib.dstack([x, x])),
    ((2, 3), lambda lib, x: lib.dstack([x, x])),
    ((2,), lambda lib, x: lib.column_stack([x, lib.ones(2, 2, dtype=x.dtype), x])),
    ((), lambda lib, x: lib.column_stack([x, x])),
    ((2, 3), lambda lib, x: lib.block_diag(x, lib.tensor([7.0], dtype=x.dtype), x)),
    ((5, 2), lambda lib, x: x.split(2)),
    ((2, 5), lambda lib, x: lib.split(x, [1, 0, 4], dim=1)),
    ((2, 5), lambda lib, x: x.split(7, -1)),
    ((0, 2), lambda lib, x: x.split(2)),
    ((5, 2), lambda lib, x: x.chunk(3)),
    ((5, 2), lambda lib, x: lib.chunk(x, 4)),
    ((0, 2), lambda lib, x: x.chunk(3)),
    ((7, 2), lambda lib, x: x.tensor_split(3)),
    ((7, 2), lambda lib, x: x.tensor_split((1, 5, 3))),
    ((7, 2), lambda lib, x: x.tensor_split((-2, 20))),
    ((7, 2), lambda lib, x: lib.tensor_split(x, lib.tensor([2, 4]))),
    ((2, 4), lambda lib, x: x.hsplit(2)),
    ((4,), lambda lib, x: x.hsplit([1, 3])),
    ((4, 2), lambda lib, x: x.vsplit(2)),
    ((2, 1, 4), lambda lib, x: x.dsplit(2)),
    ((2, 3), lambda lib, x: x.unbind()),
    ((2, 3), lambda lib, x: lib.unbind(x, -1)),
    ((2, 3), lambda lib, x: x.flip(0)),
    ((2, 3), lambda lib, x: x.flip(0, 1)),
    ((2, 3), lambda lib, x: lib.flip(x, [-1])),
    ((2, 3), lambda lib, x: lib.flip(x, dims=(0, 1))),
    ((2, 3), lambda lib, x: x.fliplr()),
    ((2, 3), lambda lib, x: x.flipud()),
    ((2, 3), lambda lib, x: x.roll(1)),
    ((2, 3), lambda lib, x: x.roll(-4, 1)),
    ((2, 3), lambda lib, x: lib.roll(x, (1, 2), (0, 1))),
    ((2, 3), lambda lib, x: lib.roll(x, shifts=(1, 1), dims=(1, 1))),
    ((0, 3), lambda lib, x: x.roll(1, 0)),
    *[((2, 3), lambda lib, x, k=k: lib.rot90(x, k)) for k in range(-1, 5)],
    ((2, 3, 4), lambda lib, x: x.rot90(1, (2, 0))),
    ((3, 4), lambda lib, x: x.diagonal()),
    ((3, 4), lambda lib, x: x.diagonal(1)),
    ((3, 4), lambda lib, x: x.diagonal(-5)),
    ((2, 3, 4), lambda lib, x: lib.diagonal(x, -1, 2, 0)),
    ((3,), lambda lib, x: lib.diag(x, 1)),
    ((3, 4), lambda lib, x: lib.diag(x, -1)),
    ((2, 3), lambda lib, x: lib.diag_embed(x)),
    ((2, 3), lambda lib, x: lib.diag_embed(x, -1, 0, 2)),
    ((2, 2), lambda lib, x: lib.diagflat(x, 1)),
    ((3, 3), lambda lib, x: x.fill_diagonal_(0)),
    ((7, 2), lambda lib, x: x.fill_diagonal_(0)),
    ((7, 2), lambda lib, x: x.fill_diagonal_(0, wrap=True)),
    ((2, 4), lambda lib, x: x.fill_diagonal_(0, wrap=True)),
    ((3, 3, 3), lambda lib, x: x.fill_diagonal_(0)),
    ((6,), lambda lib, x: x.unfold(0, 3, 2)),
    ((3, 5), lambda lib, x: x.unfold(1, 2, 1)),
    ((3, 5), lambda lib, x: x.t().unfold(0, 2, 3)),
    ((3, 5), lambda lib, x: x[::2, 1:].unfold(-1, 4, 1)),
    ((), lambda lib, x: x.unfold(0, 1, 1)),
    ((3, 4), lambda lib, x: x.as_strided((2, 2), (1, 2), 3)),
    ((3, 4), lambda lib, x: x[1:].as_strided((2, 2), (1, 2))),
    ((3, 4), lambda lib, x: lib.as_strided(x.t(), (3,), (5,), 0)),
    ((3, 2), lambda lib, x: x.to(lib.complex128).mH),
    ((3, 2), lambda lib, x: lib.view_as_complex(x)),
    ((3,), lambda lib, x: lib.view_as_real(x.to(lib.complex128) * 1j)),
    ((2, 3), lambda lib, x: x.clone()),
    ((2, 3), lambda lib, x: x.copy_(lib.tensor([1, 2, 3]))),
    ((2, 3), lambda lib, x: x.fill_(7)),
    ((2, 3), lambda lib, x: x.fill_(lib.tensor(7))),
    ((2, 3), lambda lib, x: x.to(lib.int64).fill_(2.9)),
    ((2, 3), lambda lib, x: x.zero_()),
]


@pytest.mark.parametrize("number", range(len(CASES)))
def test_equals_pytorch(number: int) -> None:
    shape, fn = CASES[number]
    x, y = pair(*shape)
    a, b = fn(tw, x), fn(torch, y)
    check(a, b)
    check(x, y)
    # a write to the result shows whether it is a view
    firsts = [(p[0], q[0]) if isinstance(q, (tuple, list)) else (p, q) for p, q in [(a, b)]]
    for p, q in firsts:
        if q.numel() and not q._is_view() and p._base is None:
            p.fill_(-1)
            q.fill_(-1)
            check(x, y)


VIEWS = [n for n, (shape, fn) in enumerate(CASES) if 0 not in shape]


@pytest.mark.parametrize("number", VIEWS)
def test_views_are_views_where_pytorchs_are(number: int) -> None:
    shape, fn = CASES[number]
    x, y = pair(*shape)
    a, b = fn(tw, x), fn(torch, y)
    a, b = (a[0], b[0]) if isinstance(b, (tuple, list)) else (a, b)
    if not b.numel() or b.dtype == torch.complex128 or number in COMPLEX:
        return
    shared = b.untyped_storage().data_ptr() == y.untyped_storage().data_ptr()
    assert np.may_share_memory(a.numpy(), x.numpy()) == shared


COMPLEX = {n for n, (_, fn) in enumerate(CASES) if "view_as_real" in fn.__code__.co_names}


@pytest.mark.parametrize("number", range(len(CASES)))
def test_gradients_equal_pytorch(number: int) -> None:
    shape, fn = CASES[number]
    x, y = pair(*shape)
    x.requires_grad_()
    y.requires_grad_()

    def loss(lib: Any, leaf: Any) -> Any:
        out = fn(lib, leaf * 1.0)
        total = 0.0
        for i, t in enumerate(out if isinstance(out, (tuple, list)) else [out]):
            t = t.abs() if t.is_complex() else t
            if t.requires_grad:
                total = total + (t * t).sum() * (i + 1)
        return total

    a, b = loss(tw, x), loss(torch, y)
    if not isinstance(b, torch.Tensor):
        assert not isinstance(a, tw.Tensor)
        return
    a.backward()
    b.backward()
    np.testing.assert_allclose(x.grad.numpy(), y.grad.numpy(), rtol=1e-12)


def test_axis_is_accepted_for_dim() -> None:
    x = tw.arange(6).reshape(2, 3)
    assert tw.cat([x, x], axis=1).shape == (2, 6)
    assert tw.stack([x, x], axis=-1).shape == (2, 3, 2)
    assert x.unsqueeze(dim=0).squeeze(axis=0).shape == (2, 3)
    assert tw.roll(x, 1, dims=1).tolist() == tw.roll(x, 1, axis=1).tolist()
    assert tw.flip(x, axis=(0,)).tolist() == [[3, 4, 5], [0, 1, 2]]


@pytest.mark.parametrize("have", ["float32", "int32", "uint8", "float64", "bfloat16", "complex64", "complex128"])
@pytest.mark.parametrize("want", ["int32", "float32", "int8", "int64", "float16", "complex64"])
def test_view_of_another_dtype(have: str, want: str) -> None:
    array = np.arange(3, 35).reshape(2, 16)
    x, y = tw.tensor(array).to(getattr(tw, have)), torch.tensor(array).to(getattr(torch, have))
    check(x.view(getattr(tw, want)), y.view(getattr(torch, want)))


def test_the_view_error_says_what_would_fit() -> None:
    x = tw.zeros(64, 64, 7, 7)
    with pytest.raises(ShapeError) as e:
        x.view(-1, 64 * 6 * 6)
    assert e.value.op == "view"
    assert e.value.message == (
        "a tensor of shape (64, 64, 7, 7) has 200704 elements, which can't be divided into (-1, 2304): "
        "200704 / 2304 is not whole"
    )
    assert e.value.hint == (
        "keep the batch dimension: x.view(64, -1) has 3136 features per row (64*7*7), or x.flatten(1); "
        "then the next layer needs in_features=3136"
    )


def refused(error: type[TwofoldError], match: str, fn: Callable[[], Any]) -> None:
    with pytest.raises(error, match=match):
        fn()


def test_errors_say_what_came_and_what_to_do() -> None:
    x = tw.zeros(2, 3)
    refused(ShapeError, r"has 6 elements, which can't be arranged as \(4, 2\), which holds 8", lambda: x.view(4, 2))
    refused(ShapeError, r"with 2 instead of 5 in dimension 1 it fits: \(3, 2, 1\)", lambda: x.reshape(3, 5, 1))
    refused(ShapeError, "only one size can be -1", lambda: x.view(-1, -1))
    refused(ShapeError, "must not be negative", lambda: x.view(-2, 3))
    refused(ShapeError, "could be any size", lambda: tw.zeros(0, 3).view(-1, 0))
    refused(ShapeError, "divide sizes with //", lambda: x.view(6 / 2, 2))
    refused(ShapeError, r"use reshape\(6\), which copies when it must", lambda: x.t().view(6))
    refused(ShapeError, "names 2", lambda: x.unsqueeze(0).permute(0, 1))
    refused(ShapeError, "name a dimension twice", lambda: x.permute(0, 0))
    refused(OutOfBoundsError, "dim 2 is outside a 2-d tensor", lambda: x.transpose(0, 2))
    refused(ShapeError, "at most 2 dimensions", lambda: x.unsqueeze(0).t())
    refused(ShapeError, "at least 2 dimensions", lambda: tw.zeros(3).mT)
    refused(ShapeError, "dimension 0 has size 2, not 1", lambda: x.expand(4, 3))
    refused(ShapeError, "fewer dimensions", lambda: x.expand(3))
    refused(ShapeError, "a new dimension can't be -1", lambda: x.expand(-1, 2, 3))
    refused(ShapeError, r"\(2, 4\) \(tensor 1\) do not fit along dimension 0", lambda: tw.cat([x, tw.ones(2, 4)]))
    refused(ShapeError, "no tensors", lambda: tw.cat([]))
    refused(DTypeError, "item 1 is no tensor but int", lambda: tw.cat([x, 3]))
    refused(ShapeError, r"use stack\(\)", lambda: tw.cat([tw.tensor(1.0), tw.tensor(2.0)]))
    refused(ShapeError, r"tensor 1 \(3,\)", lambda: tw.stack([tw.zeros(2), tw.zeros(3)]))
    refused(ShapeError, r"must add up to 3", lambda: x.split([1, 1], 1))
    refused(ShapeError, "must be positive", lambda: x.split(0))
    refused(ShapeError, "tensor_split", lambda: x.hsplit(2))
    refused(ShapeError, "must be at least 1", lambda: x.chunk(0))
    refused(ShapeError, "0-d tensor can't be split", lambda: tw.tensor(1).unbind())
    refused(ShapeError, "can't be split into", lambda: x.unflatten(1, (2, 2)))
    refused(ShapeError, "does not fit into dimension 1 of size 3", lambda: x.unfold(1, 4, 1))
    refused(OutOfBoundsError, "reaches element 6", lambda: x.as_strided((2,), (6,)))
    refused(ShapeError, "can't be resized in place", lambda: x.resize_(3))
    refused(DTypeError, "expected a complex tensor", lambda: tw.view_as_real(x))
    refused(ShapeError, "must have size 2", lambda: tw.view_as_complex(x))
    refused(DTypeError, r"copy_ takes a tensor, got int", lambda: x.copy_(3))
    refused(DTypeError, "complex number 1j", lambda: x.fill_(1j))
    refused(ShapeError, "does not fit into a tensor of shape", lambda: x.copy_(tw.zeros(3, 2)))
    refused(ShapeError, "one per dimension|for every dimension", lambda: x.repeat(2))
    refused(ShapeError, "repeats has shape", lambda: x.repeat_interleave(tw.tensor([1, 2, 3]), 0))
