"""The rows of eager_overhead.py: small operations, written once for both libraries."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np

Row = tuple[tuple[Any, ...], Callable[..., Any]]  # the tensors that gradients are taken for, and the operation


def operations(lib: Any) -> dict[str, Row]:
    """The same operations on one library's tensors."""
    one, two, small, other = lib.ones(1), lib.ones(1), lib.ones(8, 8), lib.ones(8, 8)
    places = lib.tensor([1, 2, 3, 0])
    linear, relu = lib.nn.Linear(8, 8), lib.nn.functional.relu
    sequence = lib.nn.Sequential(lib.nn.Linear(8, 8), lib.nn.ReLU())
    return {
        "add": ((one, two), lambda: one + two),
        "mul": ((one, two), lambda: one * two),
        "mul by a number": ((one,), lambda: one * 2.0),
        "matmul 8x8": ((small, other), lambda: small @ other),
        "sum": ((small,), lambda: small.sum()),
        "sum(1)": ((small,), lambda: small.sum(1)),
        "mean": ((small,), lambda: small.mean()),
        "reshape": ((small,), lambda: small.reshape(64)),
        "transpose": ((small,), lambda: small.transpose(0, 1)),
        "x[0]": ((small,), lambda: small[0]),
        "x[:, 1:]": ((small,), lambda: small[:, 1:]),
        "x[i, j]": ((small,), lambda: small[3, 4]),
        "x[places]": ((small,), lambda: small[places]),
        "relu": ((small,), lambda: relu(small)),
        "exp": ((small,), lambda: small.exp()),
        "linear + relu": ((small, *linear.parameters()), lambda: relu(linear(small))),
        "Sequential(Linear, ReLU)": ((small, *sequence.parameters()), lambda: sequence(small)),
        "(x * 2 + x).sum()": ((one,), lambda: (one * 2.0 + one).sum()),
        **movement(lib),
        **selection(lib),
        **layers(lib),
    }


def layers(lib: Any) -> dict[str, Row]:
    """What layers compute, on little: composites of several operations."""
    f = lib.nn.functional
    small, scale, shift = lib.ones(8, 8), lib.ones(8), lib.ones(8)
    image, kernel, some = lib.ones(1, 4, 8, 8), lib.ones(4, 4, 3, 3), lib.ones(4)
    mean, variance, other = lib.zeros(4), lib.ones(4), lib.zeros(8, 8)
    q, k, v = lib.ones(1, 2, 8, 8), lib.ones(1, 2, 8, 8), lib.ones(1, 2, 8, 8)
    classes, affine = lib.tensor([1, 2, 3, 0, 5, 7, 6, 4]), (image, some, shift[:4].clone())
    return {
        "linear": ((small, other, shift), lambda: f.linear(small, other, shift)),
        "softmax": ((small,), lambda: f.softmax(small, 1)),
        "log_softmax": ((small,), lambda: f.log_softmax(small, 1)),
        "layer_norm": ((small, scale, shift), lambda: f.layer_norm(small, (8,), scale, shift)),
        "rms_norm": ((small, scale), lambda: f.rms_norm(small, (8,), scale)),
        "group_norm": (affine, lambda: f.group_norm(image, 2, *affine[1:])),
        "batch_norm, training": (affine, lambda: f.batch_norm(image, mean, variance, *affine[1:], training=True)),
        "batch_norm": (affine, lambda: f.batch_norm(image, mean, variance, *affine[1:])),
        "gelu": ((small,), lambda: f.gelu(small)),
        "silu": ((small,), lambda: f.silu(small)),
        "dropout": ((small,), lambda: f.dropout(small, 0.1)),
        "cross_entropy": ((small,), lambda: f.cross_entropy(small, classes)),
        "nll_loss": ((small,), lambda: f.nll_loss(small, classes)),
        "mse_loss": ((small,), lambda: f.mse_loss(small, other)),
        "attention": ((q, k, v), lambda: f.scaled_dot_product_attention(q, k, v)),
        "var": ((small,), lambda: small.var()),
        "conv2d": ((image, kernel, some), lambda: f.conv2d(image, kernel, some, padding=1)),
        "max_pool2d": ((image,), lambda: f.max_pool2d(image, 2)),
        "avg_pool2d": ((image,), lambda: f.avg_pool2d(image, 2)),
    }


def movement(lib: Any) -> dict[str, Row]:
    """Views, and what puts tensors together."""
    small, line, image = lib.ones(8, 8), lib.ones(8), lib.ones(1, 4, 8, 8)
    rows, parts = [lib.ones(8) for _ in range(16)], [lib.ones(8, 2) for _ in range(4)]
    return {
        "view": ((small,), lambda: small.view(4, 16)),
        "flatten(1)": ((image,), lambda: image.flatten(1)),
        "unsqueeze": ((small,), lambda: small.unsqueeze(0)),
        "squeeze(0)": ((image,), lambda: image.squeeze(0)),
        "permute": ((image,), lambda: image.permute(0, 2, 3, 1)),
        "t()": ((small,), lambda: small.t()),
        "expand": ((line,), lambda: line.expand(8, 8)),
        "x[None]": ((small,), lambda: small[None]),
        "x[..., 0]": ((small,), lambda: small[..., 0]),
        "select": ((small,), lambda: small.select(0, 1)),
        "chunk(4)[1]": ((small,), lambda: small.chunk(4)[1]),
        "unbind()[1]": ((small,), lambda: small.unbind()[1]),
        "for row in x": ((small,), lambda: list(small)[-1]),
        "cat of 4": (tuple(parts), lambda: lib.cat(parts, 1)),
        "stack of 16": (tuple(rows), lambda: lib.stack(rows)),
        "contiguous": ((small,), lambda: small.t().contiguous()),
        "clone": ((small,), lambda: small.clone()),
        "to(float64)": ((small,), lambda: small.to(lib.float64)),
        "pad": ((small,), lambda: lib.nn.functional.pad(small, (1, 1))),
        "tril": ((small,), lambda: small.tril()),
    }


def selection(lib: Any) -> dict[str, Row]:
    """What chooses elements, and reduces to some."""
    small, other, line = lib.arange(64.0).reshape(8, 8).clone(), lib.ones(8, 8), lib.ones(8)
    mask, places = small > 20, lib.tensor([[1, 2, 0, 3]] * 8)
    tokens = lib.tensor([[1, 2, 0, 3]] * 2)
    return {
        "max": ((small,), lambda: small.max()),
        "max(1)": ((small,), lambda: small.max(1)[0]),
        "amax(1)": ((small,), lambda: small.amax(1)),
        "sort": ((small,), lambda: small.sort()[0]),
        "topk": ((small,), lambda: small.topk(3)[0]),
        "cumsum": ((small,), lambda: small.cumsum(0)),
        "norm": ((small,), lambda: small.norm()),
        "std(1)": ((small,), lambda: small.std(1)),
        "clamp": ((small,), lambda: small.clamp(1, 30)),
        "where": ((small, other), lambda: lib.where(mask, small, other)),
        "masked_fill": ((small,), lambda: small.masked_fill(mask, 0.0)),
        "gather": ((small,), lambda: small.gather(1, places)),
        "index_select": ((small,), lambda: small.index_select(0, places[0])),
        "embedding": ((small,), lambda: lib.nn.functional.embedding(tokens, small)),
        "x[mask]": ((small,), lambda: small[mask]),
        "einsum": ((small, other), lambda: lib.einsum("ij,jk->ik", small, other)),
        "matrix @ vector": ((small, line), lambda: small @ line),
        "addmm": ((line, small, other), lambda: lib.addmm(line, small, other)),
        "x ** 2": ((small,), lambda: small**2),
        "1 - x": ((small,), lambda: 1 - small),
        "-x": ((small,), lambda: -small),
        "x / y": ((small, other), lambda: small / other),
    }


Chore = Callable[[], Any]


def creation(lib: Any) -> dict[str, Chore]:
    """New tensors, and new modules."""
    like, numbers, array, nn = lib.ones(8), [1.0, 2.0, 3.0], np.ones(8, np.float32), lib.nn
    return {
        "tensor([1., 2., 3.])": lambda: lib.tensor(numbers),
        "from_numpy": lambda: lib.from_numpy(array),
        "empty(8)": lambda: lib.empty(8),
        "zeros(8)": lambda: lib.zeros(8),
        "zeros(8, dtype=)": lambda: lib.zeros(8, dtype=lib.int64),
        "full((8,), 2.)": lambda: lib.full((8,), 2.0),
        "arange(8)": lambda: lib.arange(8),
        "zeros_like": lambda: lib.zeros_like(like),
        "rand(8)": lambda: lib.rand(8),
        "randn(8)": lambda: lib.randn(8),
        "randn_like": lambda: lib.randn_like(like),
        "randint": lambda: lib.randint(0, 10, (8,)),
        "Linear(8, 8)": lambda: nn.Linear(8, 8),
        "Linear(256, 256)": lambda: nn.Linear(256, 256),
        "Conv2d(8, 8, 3)": lambda: nn.Conv2d(8, 8, 3),
        "LSTM(8, 8)": lambda: nn.LSTM(8, 8),
    }


def changes(lib: Any) -> dict[str, Chore]:
    """Tensors that are written in place."""
    x, y, square = lib.ones(8), lib.zeros(8), lib.ones(8, 8)
    mask, places = square > 2, lib.tensor([1, 2, 0])

    def write(target: Any, key: Any, value: Any) -> Chore:
        return lambda: target.__setitem__(key, value)

    return {
        "x.add_(y)": lambda: x.add_(y),
        "x.mul_(1.)": lambda: x.mul_(1.0),
        "x.add_(y, alpha=)": lambda: x.add_(y, alpha=0.1),
        "x.copy_(y)": lambda: x.copy_(y),
        "x.zero_()": lambda: x.zero_(),
        "x.fill_(1.)": lambda: x.fill_(1.0),
        "x.clamp_(0, 1)": lambda: x.clamp_(0, 1),
        "x.normal_()": lambda: x.normal_(),
        "x[2] = 1.": write(x, 2, 1.0),
        "x[2:4] = 1.": write(x, slice(2, 4), 1.0),
        "x[0] = y": write(square, 0, y),
        "x[mask] = 0.": write(square, mask, 0.0),
        "x[places] = 0.": write(square, places, 0.0),
        "x.masked_fill_(mask, 0.)": lambda: square.masked_fill_(mask, 0.0),
    }


def questions(lib: Any) -> dict[str, Chore]:
    """What asks for values, without gradients."""
    one, small = lib.ones(()), lib.arange(64.0).reshape(8, 8).clone()
    mask = small > 20
    return {
        "item()": lambda: one.item(),
        "detach()": lambda: small.detach(),
        "x > y": lambda: small > small,
        "x == 1": lambda: small == 1,
        "bool(x.any())": lambda: bool(mask.any()),
        "argmax(1)": lambda: small.argmax(1),
        "(x == y).sum().item()": lambda: (small == small).sum().item(),
        "repr": lambda: repr(one),
    }


def steps(lib: Any) -> dict[str, Chore]:
    """What stands around the operations of a training loop, and whole steps."""
    nn = lib.nn
    many = [nn.Parameter(lib.ones(8)) for _ in range(50)]
    for p in many:
        p.grad = lib.ones(8)
    adam, sgd = lib.optim.Adam(many), lib.optim.SGD(many, momentum=0.9)
    idle = lib.optim.SGD([nn.Parameter(lib.ones(8)) for _ in range(50)])
    model, x, target, classes = _mlp(lib), lib.ones(4, 8), lib.zeros(4, 8), lib.tensor([1, 2, 3, 0])
    hooked, state = nn.Identity(), model.state_dict()
    hooked.register_forward_hook(lambda *_: None)
    for p in model.parameters():
        p.grad = lib.ones(p.shape)
    data = getattr(lib, "data", None) or lib.utils.data
    loader = data.DataLoader(data.TensorDataset(lib.ones(64, 8), lib.zeros(64)), batch_size=4)

    def without_gradients() -> Any:
        with lib.no_grad():
            return model(x)

    return {
        "no_grad, three layers": without_gradients,
        "Identity()(x), with a hook": lambda: hooked(x),
        "list(parameters())": lambda: list(model.parameters()),
        "state_dict()": lambda: model.state_dict(),
        "load_state_dict": lambda: model.load_state_dict(state),
        "clip_grad_norm_": lambda: nn.utils.clip_grad_norm_(model.parameters(), 1.0),
        "zero_grad, 50 parameters": lambda: idle.zero_grad(),
        "SGD, 50 parameters": lambda: sgd.step(),
        "Adam, 50 parameters": lambda: adam.step(),
        "step: three layers, mse_loss, SGD": _step(lib, lib.optim.SGD, "mse_loss", x, target),
        "step: three layers, cross_entropy, Adam": _step(lib, lib.optim.Adam, "cross_entropy", x, classes),
        "DataLoader, 16 batches": lambda: list(loader),
    }


def _mlp(lib: Any) -> Any:
    nn = lib.nn
    return nn.Sequential(nn.Linear(8, 8), nn.ReLU(), nn.Linear(8, 8), nn.ReLU(), nn.Linear(8, 8))


def _step(lib: Any, kind: Any, loss_name: str, x: Any, target: Any) -> Chore:
    model, loss = _mlp(lib), getattr(lib.nn.functional, loss_name)
    optimizer = kind(model.parameters(), lr=1e-3)

    def step() -> None:
        optimizer.zero_grad()
        loss(model(x), target).backward()
        optimizer.step()

    return step


def chores(lib: Any) -> dict[str, dict[str, Chore]]:
    """Groups of what is measured as it is."""
    return {
        "creation": creation(lib),
        "in place": changes(lib),
        "question": questions(lib),
        "training": steps(lib),
    }
