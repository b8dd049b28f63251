"""PyTorch: eager as it comes, tuned, and with torch.compile."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch.nn import functional as F

from ..models import WORKLOADS, train_step
from . import Task

LENGTH, HEADS, WIDTH = 128, 4, 256


class Torch:
    """Eager, defaults."""

    fused = channels_last = False

    def _build(self, task: Task) -> Any:
        torch.set_num_threads(task.threads)
        model = WORKLOADS[task.name].build(torch)
        model.load_state_dict({k: torch.tensor(v) for k, v in task.state.items()})
        if self.channels_last and task.name in ("cnn", "cnn_adam", "resnet18"):
            model = model.to(memory_format=torch.channels_last)
        return model

    def _tensors(self, arrays: Any) -> list[Any]:
        tensors = [torch.tensor(a) for a in arrays]
        if self.channels_last:
            tensors = [t.contiguous(memory_format=torch.channels_last) if t.ndim == 4 else t for t in tensors]
        return tensors

    def _compiled(self, fn: Any) -> Any:
        return fn

    def train(self, task: Task) -> Callable[[], Any]:
        model = self._build(task)
        batch = self._tensors(task.batch)
        if not self.fused:
            optimizer = WORKLOADS[task.name].optimizer(torch, model.parameters())
        elif not task.uses_adam:
            optimizer = torch.optim.SGD(model.parameters(), lr=0.01, momentum=0.9, fused=True)
        else:
            kind = torch.optim.AdamW if task.name == "gpt" else torch.optim.Adam
            optimizer = kind(model.parameters(), lr=1e-3, fused=True)
        step = train_step(torch, self._compiled(model), optimizer, task.name)
        return lambda: step(*batch)

    def infer(self, task: Task) -> Callable[[], Any]:
        model = self._compiled(self._build(task).eval())
        inputs = self._tensors(task.inputs)

        def run() -> Any:
            with torch.inference_mode():
                return model(*inputs)

        return run

    def decode(self, task: Task) -> Callable[[], Any]:
        model = self._build(task).eval()
        depth = WIDTH // HEADS
        cache = [(torch.zeros(HEADS, LENGTH, depth), torch.zeros(HEADS, LENGTH, depth)) for _ in model.blocks]

        def step(token: Any, place: int) -> Any:
            h = model.tokens(token) + model.places.weight[place : place + 1]
            for block, (k, v) in zip(model.blocks, cache, strict=True):
                q, new_k, new_v = block.qkv(block.norm1(h)).reshape(3, HEADS, 1, depth)
                k[:, place] = new_k[:, 0]
                v[:, place] = new_v[:, 0]
                y = F.scaled_dot_product_attention(q[None], k[None, :, : place + 1], v[None, :, : place + 1])
                h = h + block.out(y.reshape(1, WIDTH))
                h = h + block.down(F.gelu(block.up(block.norm2(h))))
            return model.head(model.norm(h)).argmax(-1)

        first = torch.tensor([0])
        state: list[Any] = [first, 0]

        def run() -> Any:
            token, place = state
            with torch.inference_mode():
                token = step(token, place)
            state[:] = (token, place + 1) if place + 1 < LENGTH - 1 else (first, 0)
            return token

        return run

    def chain(self, task: Task) -> Callable[[], Any]:
        torch.set_num_threads(task.threads)
        x, y = (torch.tensor(a) for a in task.batch)
        fn = self._compiled(lambda x, y: torch.relu(x * 2 + y).exp().sum())
        return lambda: fn(x, y)


class TorchTuned(Torch):
    """Fused optimizer, channels_last; its process starts with malloc told to keep memory."""

    fused = channels_last = True


class TorchCompile(TorchTuned):
    """The tuned one with torch.compile of the model; the first call takes half a minute."""

    def _compiled(self, fn: Any) -> Any:
        return torch.compile(fn)

    decode = None  # type: ignore[assignment]
