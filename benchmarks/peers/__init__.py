"""The frameworks that are measured, a file each; one is imported only in a process of its own (worker.py).

Each file has a class with the methods of `Peer`. A method gets a Task, builds what it needs from the
task's weights, and gives back a function that does the work once and is done when it returns.
"""

from __future__ import annotations

import importlib
import importlib.util
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, NamedTuple, Protocol

import numpy as np

Array = np.ndarray[Any, Any]


@dataclass(frozen=True)
class Task:
    """A workload's name, weights under PyTorch's names, and one batch: inputs first, then the target."""

    name: str
    state: dict[str, Array]
    batch: tuple[Array, ...]
    threads: int = 2

    @property
    def inputs(self) -> tuple[Array, ...]:
        return self.batch[:-1]

    @property
    def uses_adam(self) -> bool:
        return self.name not in ("cnn", "resnet18")


class Peer(Protocol):
    """What a framework is asked to do; a method that it lacks is left out of the tables."""

    def train(self, task: Task) -> Callable[[], Any]:
        """One training step per call; gives the loss."""

    def infer(self, task: Task) -> Callable[[], Any]:
        """One forward pass in inference mode per call; gives the output."""

    def decode(self, task: Task) -> Callable[[], Any]:
        """The next greedy token of the GPT per call, with a key-value cache, batch 1; gives the token."""

    def chain(self, task: Task) -> Callable[[], Any]:
        """`relu(x * 2 + y).exp().sum()` of the batch's two arrays."""


class Source(NamedTuple):
    """Where a peer is: its module here, its class, the package it needs, and environment variables."""

    module: str
    cls: str
    needs: str
    environment: dict[str, str] = {}  # noqa: RUF012  (never written)


# glibc gives large blocks back to the system and faults them in again; PyTorch is faster without.
_KEEP = {
    "MALLOC_MMAP_THRESHOLD_": "4294967296",
    "MALLOC_TRIM_THRESHOLD_": "4294967296",
    "MALLOC_TOP_PAD_": "67108864",
}
_QUIET = {"TF_CPP_MIN_LOG_LEVEL": "3", "JAX_PLATFORMS": "cpu"}

PEERS: dict[str, Source] = {
    "twofold": Source("twofold_peer", "Twofold", "twofold"),
    "twofold-eager": Source("twofold_peer", "TwofoldEager", "twofold"),
    "torch": Source("torch_peer", "Torch", "torch"),
    "torch-tuned": Source("torch_peer", "TorchTuned", "torch", _KEEP),
    "torch-compile": Source("torch_peer", "TorchCompile", "torch", _KEEP),
    "jax": Source("jax_peer", "Jax", "jax", _QUIET),
    "tf": Source("tf_peer", "TensorFlow", "tensorflow", _QUIET),
    "ort": Source("ort_peer", "OnnxRuntime", "onnxruntime"),
}


def installed(name: str) -> bool:
    """Whether this peer's package is there."""
    return importlib.util.find_spec(PEERS[name].needs) is not None


def load(name: str) -> Any:
    """An instance of a peer's class, in this process."""
    source = PEERS[name]
    return getattr(importlib.import_module(f".{source.module}", __name__), source.cls)()
