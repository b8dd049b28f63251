"""The same small training in Twofold and in PyTorch."""

import numpy as np
import torch

import twofold as tw

rng = np.random.default_rng(7)
SHAPES = [(5, 8), (8,), (8, 3), (3,)]
START = [rng.standard_normal(s) * 0.5 for s in SHAPES]
X = rng.standard_normal((16, 5))
Y = rng.standard_normal((16, 3))


def tw_params(dtype=tw.float64):
    return [tw.tensor(a, dtype=dtype, requires_grad=True) for a in START]


def torch_params(dtype=torch.float64):
    return [torch.tensor(a, dtype=dtype, requires_grad=True) for a in START]


def loss_of(lib, params, x, y):
    w1, b1, w2, b2 = params
    out = lib.tanh(x @ w1 + b1) @ w2 + b2
    return ((out - y) ** 2).mean()


def groups(params, second):
    """Weights and biases as two groups, the second with options of its own."""
    return [{"params": params[::2]}, {"params": params[1::2], **second}]


def train(lib, params, optimizer, steps, scheduler=None, per_step=None):
    """Parameters after some steps on the same batch; the loss of each step."""
    dtype = params[0].dtype
    x, y = lib.tensor(X, dtype=dtype), lib.tensor(Y, dtype=dtype)
    losses = []
    for step in range(steps):
        optimizer.zero_grad()
        loss = loss_of(lib, params, x, y)
        loss.backward()
        optimizer.step()
        if scheduler is not None:
            scheduler.step()
        if per_step is not None:
            per_step(step)
        losses.append(loss.item())
    return losses


def difference(ours, theirs):
    """The largest difference of parameters or of states."""
    return max(
        float(np.abs(a.detach().numpy().astype(np.float64) - b.detach().double().numpy()).max())
        for a, b in zip(ours, theirs, strict=True)
    )
