"""Derivative rules: order 1 and 2 against finite differences, order 1 against PyTorch.

The function under test is L(x) = Re <c, p(x)> with random c. Its gradient along a random direction
d is compared with (L(x + hd) - L(x - hd)) / 2h; then the same for G(x) = <grad L(x), d>. For
complex x the gradient is the conjugate Wirtinger one, whose change along d is Re <grad, d>.
"""

from __future__ import annotations

import zlib

import numpy as np
import pytest
import torch
from op_harness import (
    PRIMITIVES,
    Sample,
    assert_close,
    call_torch,
    complex128,
    describe,
    float64,
    from_torch,
    gradients,
    inner,
    is_array,
    is_differentiable,
    leaves,
    result_types,
    run,
    samples,
    to_torch,
    torch_inputs,
    weights_for,
    wrap,
)

from twofold.ir.dtypes import BY_NAME

STEP = 1e-5
DIFFERENTIABLE = [
    (name, dtype.name)
    for name, p in sorted(PRIMITIVES.items())
    if p.nondiff is None
    for dtype in (float64, complex128)
    if dtype in p.dtypes
]
# Reverse mode needs every step's values: while_loop has a derivative only for what it does not change.
NOT_BY_DIFFERENCES = {"while_loop"}
# Outside the function's domain PyTorch's formulas give numbers that mean nothing.
NOT_BY_TORCH = {"acosh", "digamma"}
DIFFERENTIABLE_WITH_TORCH = [
    (n, d) for n, d in DIFFERENTIABLE if PRIMITIVES[n].torch is not None and n not in NOT_BY_TORCH
]


def rng_for(name):
    return np.random.default_rng(zlib.crc32(name.encode()))


def usable(p, dtype):
    """Samples with something to differentiate, in 64-bit numbers."""
    for sample in samples(p, BY_NAME[dtype]):
        kinds = [t.dtype for t in result_types(p, sample.inputs, sample.params)]
        if any(k.is_differentiable for k in kinds) and any(is_differentiable(x) for x in sample.inputs):
            yield sample


def is_double(p, sample):
    """Whether finite differences have the digits: a cast to float32 has not."""
    kinds = [t.dtype for t in result_types(p, sample.inputs, sample.params) if t.dtype.is_differentiable]
    return all(k in (float64, complex128) for k in kinds)


def direction(inputs, rng):
    """A random change of every differentiable input."""
    out = []
    for x in inputs:
        if is_differentiable(x):
            d = rng.uniform(0.5, 1, x.shape) * rng.choice([-1, 1], x.shape)
            if x.dtype.kind == "c":
                d = d + 1j * rng.uniform(-1, 1, x.shape)
            out.append(np.asarray(d))
        else:
            out.append(None)
    return out


def moved(inputs, d, h):
    return [x if e is None else np.asarray(x + h * e) for x, e in zip(inputs, d, strict=True)]


def objective(p, inputs, params, weights):
    outs = run(p, inputs, params)
    return sum(inner(c, y) for c, y in zip(weights, outs, strict=True) if c is not None)


def first_order(p, inputs, params, weights, *, create_graph=False):
    """Leaves and gradients of L, all as tensors."""
    tensors, wanted = leaves(inputs)
    out = p(*tensors, **params)
    outs = list(out) if p.multiple else [out]
    cotangents = [None if c is None else wrap(c.copy()) for c in weights]
    return wanted, gradients(outs, cotangents, wanted, create_graph=create_graph)


def along(grads, d):
    """The sum of Re <gradient, direction> as a number; missing gradients are zero."""
    steps = [e for e in d if e is not None]
    return sum(inner(g._value, e) for g, e in zip(grads, steps, strict=True) if g is not None)


def assert_slope(analytic, numeric, scale, message):
    assert np.isfinite(numeric) and np.isfinite(analytic), f"{analytic} and {numeric}: {message}"
    assert abs(analytic - numeric) <= 2e-6 * (1 + abs(numeric) + scale), f"{analytic} != {numeric}: {message}"


@pytest.mark.parametrize(("name", "dtype"), DIFFERENTIABLE)
def test_first_order_by_finite_differences(name, dtype):
    p, rng = PRIMITIVES[name], rng_for(name)
    checked = 0
    for sample in usable(p, dtype):
        if not sample.differentiable or not is_double(p, sample):
            continue
        checked += 1
        inputs, params = sample.inputs, sample.params
        weights, d = weights_for(p, sample, rng), direction(inputs, rng)
        up, down = (objective(p, moved(inputs, d, h), params, weights) for h in (STEP, -STEP))
        wanted, grads = first_order(p, inputs, params, weights)
        for t, g in zip(wanted, grads, strict=True):
            assert g is None or (g.shape, g.dtype) == (t.shape, t.dtype), describe(p, sample)
        assert_slope(along(grads, d), (up - down) / (2 * STEP), 1e-2 * abs(up), describe(p, sample))
    assert checked or name in NOT_BY_DIFFERENCES, f"{name} has no differentiable sample of {dtype}"


@pytest.mark.parametrize(("name", "dtype"), DIFFERENTIABLE)
def test_second_order_by_finite_differences(name, dtype):
    p, rng = PRIMITIVES[name], rng_for(name)
    for sample in usable(p, dtype):
        if not sample.differentiable or not is_double(p, sample):
            continue
        inputs, params = sample.inputs, sample.params
        weights, d, e = weights_for(p, sample, rng), direction(inputs, rng), direction(inputs, rng)

        def slope(x, p=p, params=params, weights=weights, d=d):
            return along(first_order(p, x, params, weights)[1], d)

        up, down = (slope(moved(inputs, e, h)) for h in (STEP, -STEP))
        wanted, grads = first_order(p, inputs, params, weights, create_graph=True)
        steps = [k for k in d if k is not None]
        pairs = [(g, wrap(k)) for g, k in zip(grads, steps, strict=True) if g is not None and g.requires_grad]
        second = [None] * len(wanted)
        if pairs:
            second = gradients([g for g, _ in pairs], [k for _, k in pairs], wanted)
        assert_slope(along(second, e), (up - down) / (2 * STEP), 1e-2 * abs(up), describe(p, sample))


@pytest.mark.parametrize(("name", "dtype"), DIFFERENTIABLE_WITH_TORCH)
def test_first_order_is_pytorchs(name, dtype):
    """Also at kinks and ties, where finite differences say nothing."""
    p, rng = PRIMITIVES[name], rng_for(name)
    for sample in usable(p, dtype):
        if not all(np.isfinite(x).all() for x in sample.inputs if is_differentiable(x)):
            continue
        weights = weights_for(p, sample, rng)
        theirs = torch_gradients(p, sample, weights)
        if theirs is None:
            continue
        wanted, grads = first_order(p, sample.inputs, sample.params, weights)
        for t, g, expected in zip(wanted, grads, theirs, strict=True):
            if expected is not None:
                ours = np.zeros(t.shape, t.dtype.numpy) if g is None else g._value
                assert_close(ours, from_torch(expected), (1e-8, 1e-10), describe(p, sample))


# What PyTorch says where a derivative is missing; the last two for a src larger than the index.
TORCH_LACKS = ("is not implemented", "returned an invalid gradient", "must match the size of tensor")


def torch_gradients(p, sample, weights):
    """PyTorch's gradients of the inputs (None for one without), or None where it has no derivative."""
    tensors = torch_inputs(sample.inputs, requires_grad=True)
    try:
        outs = call_torch(p, tensors, sample.params)
        pairs = [(y, to_torch(c)) for y, c in zip(outs, weights, strict=True) if c is not None]
        pairs = [(y, c) for y, c in pairs if y.requires_grad]
        leaf = [t for t in tensors if t.requires_grad]
        return torch.autograd.grad([y for y, _ in pairs], leaf, [c for _, c in pairs], allow_unused=True)
    except NotImplementedError:
        return None
    except RuntimeError as e:
        if any(text in str(e) for text in TORCH_LACKS):
            return None
        raise


AT_ZERO = [
    ("pow", ([0.0, 0.0, 0.0, 2.0], [0.0, 1.0, 2.0, 3.0]), {}),
    ("pow", ([0.0, -1.0, 2.0], 2), {}),
    ("prod", ([0.0, 2.0, 3.0],), {"dims": (0,), "keepdim": False}),
    ("prod", ([0.0, 2.0, 0.0],), {"dims": (0,), "keepdim": False}),
    ("prod", ([[0.0, 2.0], [0.0, 0.0]],), {"dims": (0, 1), "keepdim": True}),
    ("cumprod", ([2.0, 0.0, 3.0, 4.0, 0.0, 5.0],), {"dim": 0}),
    ("cumprod", ([[2.0, 0.0], [0.0, 3.0]],), {"dim": 1}),
    ("relu", ([0.0, -1.0, 2.0],), {}),
    ("abs", ([0.0, -1.0, 2.0],), {}),
    ("atan2", ([0.0, 1.0], [0.0, 0.0]), {}),
    ("maximum", ([0.0, 1.0], [0.0, 2.0]), {}),
    ("amax", ([1.0, 3.0, 3.0],), {"dims": (0,), "keepdim": False}),
]


@pytest.mark.parametrize(("name", "inputs", "params"), AT_ZERO)
def test_second_order_is_finite_and_pytorchs_at_zeros_and_ties(name, inputs, params):
    """A masked NaN or inf in a rule would come back in the rule's own derivative."""
    p, rng = PRIMITIVES[name], rng_for(name)
    arrays = [np.array(x) if isinstance(x, list) else x for x in inputs]
    sample = Sample(tuple(arrays), params)
    weights = weights_for(p, sample, rng)
    wanted, grads = first_order(p, arrays, params, weights, create_graph=True)
    steps = [np.asarray(rng.uniform(0.5, 1, t.shape)) for t in wanted]
    pairs = [(g, wrap(k)) for g, k in zip(grads, steps, strict=True) if g.requires_grad]
    ours = gradients([g for g, _ in pairs], [k for _, k in pairs], wanted) if pairs else [None] * len(wanted)

    tensors = torch_inputs(arrays, requires_grad=True)
    leaf = [t for t in tensors if t.requires_grad]
    outs = call_torch(p, [t if is_array(x) else x for t, x in zip(tensors, arrays, strict=True)], params)
    first = torch.autograd.grad(outs, leaf, [to_torch(c) for c in weights], create_graph=True)
    again = [(g, to_torch(k)) for g, k in zip(first, steps, strict=True) if g.requires_grad]
    theirs = torch.autograd.grad(
        [g for g, _ in again], leaf, [k for _, k in again], allow_unused=True, materialize_grads=True
    )
    for t, g, expected in zip(wanted, ours, theirs, strict=True):
        value = np.zeros(t.shape) if g is None else g._value
        assert np.isfinite(value).all()
        expected = from_torch(expected)
        sure = np.isfinite(expected)  # PyTorch's own second order is NaN for pow and atan2 at 0
        assert_close(value[sure], expected[sure], (1e-8, 1e-10), name)
