"""Names that a user of PyTorch expects directly under the package."""

from __future__ import annotations

import math

import pytest
import torch

import twofold as tw

# Methods and functions that real PyTorch programs use most, in the order of their frequency.
OPERATIONS = """
to cat mul add view reshape permute transpose tensor unsqueeze size float item sub mean zeros repeat arange
flatten div chunk stack randn sum clamp contiguous detach empty expand clone matmul cpu backward zeros_like
numpy exp ones softmax max linspace cuda nn.functional.pad from_numpy log squeeze repeat_interleave type sqrt pow
numel tolist nn.functional.interpolate cos sin einsum unbind split randint where requires_grad dim rand sigmoid
unflatten min long nn.functional.scaled_dot_product_attention is_floating_point type_as neg meshgrid equal full
abs norm uniform_ relu masked_fill as_tensor as_subclass new_zeros argmax nn.functional.normalize bool randn_like
std amax ones_like flip gather tanh view_as_real nn.functional.mse_loss nn.functional.cross_entropy half topk
nn.functional.conv2d nn.functional.dropout int normal floor nonzero randperm expand_as var addcdiv rsqrt new_empty
narrow nn.functional.avg_pool2d bmm round lerp log_softmax cumsum addcmul any multinomial nn.functional.max_pool2d
is_complex eq index_select expm1 roll nn.functional.layer_norm scatter nn.functional.silu nn.functional.linear
bitwise_not mm unfold t eye maximum tile nn.functional.adaptive_avg_pool2d unique nn.functional.gelu empty_like
cumprod ceil sign argsort full_like square reshape_as rot90 var_mean all tril outer
nn.functional.binary_cross_entropy_with_logits nn.functional.l1_loss gt stride ndimension diff byte quantile triu
view_as nn.functional.softplus nn.functional.nll_loss log2 new_ones amin double nn.functional.group_norm
nn.functional.smooth_l1_loss nn.functional.adaptive_max_pool2d nn.functional.batch_norm nn.functional.grid_sample
grad element_size view_as_complex nn.functional.one_hot atan2 movedim diag pin_memory nn.functional.rms_norm
bernoulli aminmax isclose scalar_tensor bitwise_and data_ptr logical_not atan nn.functional.kl_div prod fmod mv
shape trunc polar median isnan logaddexp cartesian_prod minimum sort is_contiguous erfinv new_full ge remainder
copy_ fill_ zero_ normal_ random_ requires_grad_ add_ mul_ clamp_ squeeze_ unsqueeze_ transpose_ t_ select_scatter
slice_scatter index_reduce put_ swapaxes_ detach_ exponential_ index_add_ index_copy_ index_fill_ masked_scatter
""".split()  # noqa: SIM905  (a list of words)


def _holders(name: str):
    """Where PyTorch has the name: under the package, and on tensors."""
    module, _, last = name.rpartition(".")
    if module:
        return [(torch.nn.functional, tw.nn.functional, last)]
    pairs = [(torch.Tensor, tw.Tensor)] if last.endswith("_") else [(torch, tw), (torch.Tensor, tw.Tensor)]
    return [(theirs, ours, last) for theirs, ours in pairs if hasattr(theirs, last)]


@pytest.mark.parametrize("name", OPERATIONS)
def test_frequent_operations_are_where_pytorch_has_them(name):
    holders = _holders(name)
    assert holders
    for theirs, ours, last in holders:
        if callable(getattr(theirs, last)) and not (ours is tw and last in ("cpu", "cuda")):
            assert hasattr(ours, last), ours


@pytest.mark.parametrize("name", ["inf", "nan", "pi", "e", "newaxis"])
def test_constants(name):
    ours, theirs = getattr(tw, name), getattr(torch, name)
    assert ours is theirs or ours == theirs or (math.isnan(ours) and math.isnan(theirs))


@pytest.mark.parametrize("name", ["contiguous_format", "preserve_format", "channels_last"])
def test_memory_formats_are_accepted(name):
    x = tw.ones(1, 2, 2, 2)
    form = getattr(tw, name)
    assert tw.equal(x.to(memory_format=form), x)
    assert tw.equal(x.clone(memory_format=form), x)
    assert tw.equal(x.contiguous(memory_format=form), x)


def test_shapes_are_tuples():
    assert isinstance(tw.ones(2, 3).shape, tw.Size)
    assert tw.Size([2, 3]) == tw.ones(2, 3).shape == tw.ones(2, 3).size()


def test_errors_can_be_caught_by_their_public_names():
    with pytest.raises(tw.ShapeError):
        tw.ones(2) + tw.ones(3)
    with pytest.raises(tw.errors.TwofoldError):
        tw.ones(2).view(3)
    with pytest.raises(tw.OutOfBoundsError):
        tw.ones(2)[2]
