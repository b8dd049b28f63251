"""Workloads, each written once: Twofold and PyTorch share their names, so `lib` is either.

A workload is `build(lib) -> (model, loss function, optimizer)` and `batch(rng) -> arrays`.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np


@dataclass(frozen=True)
class Workload:
    """A model with its data: inputs first, then the target."""

    build: Callable[[Any], Any]
    batch: Callable[[np.random.Generator], tuple[np.ndarray[Any, Any], ...]]
    optimizer: Callable[[Any, Any], Any]
    mflop: float  # of a train step: matrix products and convolutions, 2 per multiply-add


def _floats(rng: np.random.Generator, *shape: int) -> np.ndarray[Any, Any]:
    return rng.standard_normal(shape).astype(np.float32)


def _classes(rng: np.random.Generator, count: int, *shape: int) -> np.ndarray[Any, Any]:
    return rng.integers(0, count, shape)


def mlp(lib: Any) -> Any:
    nn = lib.nn
    return nn.Sequential(nn.Linear(784, 256), nn.ReLU(), nn.Linear(256, 256), nn.ReLU(), nn.Linear(256, 10))


def cnn(lib: Any) -> Any:
    nn = lib.nn
    return nn.Sequential(
        nn.Conv2d(1, 32, 3, padding=1), nn.ReLU(), nn.MaxPool2d(2),
        nn.Conv2d(32, 64, 3, padding=1), nn.ReLU(), nn.MaxPool2d(2),
        nn.Flatten(), nn.Linear(64 * 7 * 7, 128), nn.ReLU(), nn.Linear(128, 10),
    )  # fmt: skip


def resnet18(lib: Any) -> Any:
    """ResNet-18 in its form for 32x32 pictures (He et al. 2015, arXiv:1512.03385)."""
    nn = lib.nn

    class Block(nn.Module):  # type: ignore[misc,name-defined]
        def __init__(self, channels: int, out: int, stride: int):
            super().__init__()
            self.conv1 = nn.Conv2d(channels, out, 3, stride, 1, bias=False)
            self.bn1 = nn.BatchNorm2d(out)
            self.conv2 = nn.Conv2d(out, out, 3, 1, 1, bias=False)
            self.bn2 = nn.BatchNorm2d(out)
            self.short = nn.Sequential()
            if stride != 1 or channels != out:
                self.short = nn.Sequential(nn.Conv2d(channels, out, 1, stride, bias=False), nn.BatchNorm2d(out))

        def forward(self, x: Any) -> Any:
            y = nn.functional.relu(self.bn1(self.conv1(x)))
            return nn.functional.relu(self.bn2(self.conv2(y)) + self.short(x))

    layers = [nn.Conv2d(3, 64, 3, 1, 1, bias=False), nn.BatchNorm2d(64), nn.ReLU()]
    channels = 64
    for out, stride in ((64, 1), (64, 1), (128, 2), (128, 1), (256, 2), (256, 1), (512, 2), (512, 1)):
        layers.append(Block(channels, out, stride))
        channels = out
    return nn.Sequential(*layers, nn.AvgPool2d(4), nn.Flatten(), nn.Linear(512, 10))


def lstm(lib: Any) -> Any:
    nn = lib.nn

    class Classifier(nn.Module):  # type: ignore[misc,name-defined]
        def __init__(self) -> None:
            super().__init__()
            self.lstm = nn.LSTM(64, 128, batch_first=True)
            self.fc = nn.Linear(128, 10)

        def forward(self, x: Any) -> Any:
            return self.fc(self.lstm(x)[0][:, -1])

    return Classifier()


def _attention_block(lib: Any, width: int, heads: int, causal: bool) -> Any:
    nn = lib.nn

    class Block(nn.Module):  # type: ignore[misc,name-defined]
        def __init__(self) -> None:
            super().__init__()
            self.norm1, self.norm2 = nn.LayerNorm(width), nn.LayerNorm(width)
            self.qkv = nn.Linear(width, 3 * width)
            self.out = nn.Linear(width, width)
            self.up, self.down = nn.Linear(width, 4 * width), nn.Linear(4 * width, width)

        def forward(self, x: Any) -> Any:
            n, t, _ = x.shape
            q, k, v = (
                y.reshape(n, t, heads, width // heads).transpose(1, 2) for y in self.qkv(self.norm1(x)).chunk(3, -1)
            )
            y = nn.functional.scaled_dot_product_attention(q, k, v, is_causal=causal)
            x = x + self.out(y.transpose(1, 2).reshape(n, t, width))
            return x + self.down(nn.functional.gelu(self.up(self.norm2(x))))

    return Block()


def transformer(lib: Any) -> Any:
    nn = lib.nn

    class Encoder(nn.Module):  # type: ignore[misc,name-defined]
        def __init__(self) -> None:
            super().__init__()
            self.blocks = nn.Sequential(*[_attention_block(lib, 128, 4, False) for _ in range(2)])
            self.fc = nn.Linear(128, 10)

        def forward(self, x: Any) -> Any:
            return self.fc(self.blocks(x).mean(1))

    return Encoder()


def gpt(lib: Any) -> Any:
    nn = lib.nn

    class GPT(nn.Module):  # type: ignore[misc,name-defined]
        def __init__(self) -> None:
            super().__init__()
            self.tokens, self.places = nn.Embedding(256, 256), nn.Embedding(128, 256)
            self.blocks = nn.Sequential(*[_attention_block(lib, 256, 4, True) for _ in range(4)])
            self.norm, self.head = nn.LayerNorm(256), nn.Linear(256, 256, bias=False)

        def forward(self, x: Any) -> Any:
            h = self.tokens(x) + self.places.weight
            return self.head(self.norm(self.blocks(h))).reshape(-1, 256)

    return GPT()


def tabular(lib: Any) -> Any:
    nn = lib.nn

    class Tabular(nn.Module):  # type: ignore[misc,name-defined]
        def __init__(self) -> None:
            super().__init__()
            self.tables = nn.ModuleList([nn.Embedding(1000, 16) for _ in range(26)])
            self.layers = nn.Sequential(
                nn.Linear(26 * 16 + 13, 256), nn.ReLU(), nn.Linear(256, 128), nn.ReLU(), nn.Linear(128, 1)
            )

        def forward(self, numbers: Any, categories: Any) -> Any:
            columns = [table(categories[:, i]) for i, table in enumerate(self.tables)]
            return self.layers(lib.cat([numbers, *columns], 1))[:, 0]

    return Tabular()


def _adam(lib: Any, params: Any) -> Any:
    return lib.optim.Adam(params, lr=1e-3)


def _sgd(lib: Any, params: Any) -> Any:
    return lib.optim.SGD(params, lr=0.01, momentum=0.9)


WORKLOADS: dict[str, Workload] = {
    "mlp": Workload(mlp, lambda r: (_floats(r, 64, 784), _classes(r, 10, 64)), _adam, 77.5),
    "cnn": Workload(cnn, lambda r: (_floats(r, 64, 1, 28, 28), _classes(r, 10, 64)), _sgd, 1600),
    "cnn_adam": Workload(cnn, lambda r: (_floats(r, 64, 1, 28, 28), _classes(r, 10, 64)), _adam, 1600),
    "resnet18": Workload(resnet18, lambda r: (_floats(r, 32, 3, 32, 32), _classes(r, 10, 32)), _sgd, 106528),
    "lstm": Workload(lstm, lambda r: (_floats(r, 32, 50, 64), _classes(r, 10, 32)), _adam, 839),
    "transformer": Workload(transformer, lambda r: (_floats(r, 16, 64, 128), _classes(r, 10, 16)), _adam, 2517),
    "gpt": Workload(
        gpt,
        lambda r: (_classes(r, 256, 8, 128), _classes(r, 256, 8 * 128)),
        lambda lib, params: lib.optim.AdamW(params, lr=1e-3),
        20542,
    ),
    "tabular": Workload(
        tabular,
        lambda r: (_floats(r, 512, 13), _classes(r, 1000, 512, 26), r.integers(0, 2, 512).astype(np.float32)),
        _adam,
        438,
    ),
}


def train_step(lib: Any, model: Any, optimizer: Any, name: str) -> Callable[..., Any]:
    """The imperative step that everybody writes."""
    loss_fn = lib.nn.BCEWithLogitsLoss() if name == "tabular" else lib.nn.CrossEntropyLoss()

    def step(*batch: Any) -> Any:
        optimizer.zero_grad()
        loss = loss_fn(model(*batch[:-1]), batch[-1])
        loss.backward()
        optimizer.step()
        return loss

    return step
