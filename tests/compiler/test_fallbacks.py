"""The layers and losses of `nn` and the optimizers call no NumPy reference in compiled programs, in any dtype."""

from __future__ import annotations

import warnings

import pytest
from layer_cases import LAYERS
from nn_harness import leaves, to_twofold
from optim_harness import X, Y, loss_of, tw_params
from test_losses_against_torch import LOSSES
from test_optimizers import CASES as OPTIMIZERS

import twofold as tw
from twofold import nn
from twofold.backends.cpu.lowering import Lowering
from twofold.backends.cpu.target import host
from twofold.compiler.compile import optimize

DTYPES = ("float32", "float64", "float16", "bfloat16")


def references(graph):
    """The nodes that a program of the graph would have NumPy compute."""
    lowering = Lowering(optimize(graph), host(), {})
    lowering.run()
    return [str(node) for step in lowering.steps if step.kind == "numpy" for node in step.nodes]


def cast(x, dtype):
    """Floating tensors in nested containers, in another dtype."""
    if isinstance(x, tw.Tensor):
        return x.to(dtype) if x.dtype.is_floating_point else x
    if isinstance(x, (tuple, list)):
        return type(x)(cast(v, dtype) for v in x)
    return {k: cast(v, dtype) for k, v in x.items()} if isinstance(x, dict) else x


def traced(make, case, dtype):
    """The forward and backward pass of a module, with gradients of its inputs and parameters."""
    given = lambda x: cast(to_twofold(x, False), dtype)
    module = make(*given(case.args), **given(case.kwargs)).to(dtype)
    inputs = [x.requires_grad_(x.dtype.is_floating_point) for x in leaves(given(case.arrays()))]
    call = given(case.call)
    nested = [i for i, x in enumerate(case.inputs) if isinstance(x, tuple) and not isinstance(x[0], int)]

    def step(*tensors):
        args = [x * 1.0 if x.dtype.is_floating_point else x for x in tensors]
        if nested:
            args = [*args[: nested[0]], tuple(args[nested[0] :])]
        outs = [out for out in leaves(module(*args, **call)) if out.requires_grad]
        if outs:
            sum((out * out * 0.5 + out).sum() for out in outs).backward()
        return outs

    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        return tw.trace(step, *inputs).graph


def dtypes(number):
    """float32, and in turn one of the others: what they have in common need not be tried for each case."""
    return "float32", DTYPES[1 + number % 3]


@pytest.mark.parametrize("kind", sorted({case.name for case in LAYERS}))
def test_layers(kind):
    for number, case in enumerate(case for case in LAYERS if case.name == kind):
        for dtype in dtypes(number):
            found = references(traced(getattr(nn, kind), case, getattr(tw, dtype)))
            assert not found, f"{case} in {dtype}: {found}"


@pytest.mark.parametrize("kind", sorted({layer for _, layer, _ in LOSSES}))
def test_losses(kind):
    for number, case in enumerate(case for _, layer, case in LOSSES if layer == kind):
        for dtype in dtypes(number):
            found = references(traced(getattr(nn, kind), case, getattr(tw, dtype)))
            assert not found, f"{case} in {dtype}: {found}"


@pytest.mark.parametrize("kind", sorted({name for name, _ in OPTIMIZERS}))
def test_optimizers(kind):
    for number, options in enumerate(options for name, options in OPTIMIZERS if name == kind):
        for name in dtypes(number):
            dtype = getattr(tw, name)
            params = tw_params(dtype)
            optimizer = getattr(tw.optim, kind)(params, **options)

            def step(x, y, params=params, optimizer=optimizer):
                optimizer.zero_grad()
                loss = loss_of(tw, params, x, y)
                loss.backward()
                optimizer.step()
                return loss

            found = references(tw.trace(step, tw.tensor(X, dtype=dtype), tw.tensor(Y, dtype=dtype)).graph)
            assert not found, f"{options} in {name}: {found}"
