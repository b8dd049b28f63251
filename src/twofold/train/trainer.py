"""Trainer: the training loop that everybody writes, written once."""

from __future__ import annotations

import importlib
import math
import time
from collections.abc import Callable, Iterable, Sequence
from typing import Any

from ..autodiff.handle import Tensor
from ..data import DataLoader
from ..ir.errors import TwofoldError
from ..nn import Module
from ..nn.utils import clip_grad_norm_
from ..optim import Optimizer
from ..tensors.gradients import no_grad
from .callbacks import Callback
from .metrics import Mean, Metric

_COMPILER = "twofold.compiler.compile"  # loads LLVM, so only where it is wanted


class Trainer:
    """Trains, evaluates and applies a model.

    Args:
        model: called with a batch's inputs.
        optimizer: updates the model's parameters.
        loss: `loss(outputs, targets)` gives a scalar.
        scheduler: learning-rate schedule, stepped after every batch or every epoch.
        schedule_per: "epoch" or "batch".
        metrics: name -> `Metric`, computed over each epoch besides the loss.
        clip_grad_norm: largest total gradient norm, or None.
        compile: turn the whole train step into one native program (`twofold.compile`).
        callbacks: told of every epoch and batch (see `Callback`).

    A loader gives `(inputs, targets)` batches.

    >>> import twofold as tw
    >>> model = tw.nn.Linear(2, 1)
    >>> trainer = Trainer(model, tw.optim.SGD(model.parameters(), lr=0.1), tw.nn.MSELoss())
    >>> data = tw.data.TensorDataset(tw.ones(8, 2), tw.ones(8, 1))
    >>> history = trainer.fit(tw.data.DataLoader(data, batch_size=4), epochs=20)
    >>> history[-1]["loss"] < 0.01
    True
    """

    def __init__(
        self,
        model: Module,
        optimizer: Optimizer,
        loss: Callable[[Any, Any], Tensor],
        *,
        scheduler: Any = None,
        schedule_per: str = "epoch",
        metrics: dict[str, Metric] | None = None,
        clip_grad_norm: float | None = None,
        compile: bool = False,
        callbacks: Sequence[Callback] = (),
    ):
        if schedule_per not in ("epoch", "batch"):
            raise TwofoldError(f"schedule_per is 'epoch' or 'batch', got {schedule_per!r}", op="Trainer")
        self.model, self.optimizer, self.loss = model, optimizer, loss
        self.scheduler, self.schedule_per = scheduler, schedule_per
        self.metrics = metrics or {}
        self.clip_grad_norm = clip_grad_norm
        self.compile = compile
        self._step: Callable[..., Any] | None = None
        self.callbacks = list(callbacks)
        self.history: list[dict[str, float]] = []

    def fit(
        self, train: DataLoader, validation: Iterable[Any] | None = None, *, epochs: int
    ) -> list[dict[str, float]]:
        """Train for `epochs` passes; returns a record per epoch (loss, metrics, `val_*`, seconds).

        Raises: TwofoldError when the mean loss of an epoch is not finite.
        """
        self._tell("on_fit_start", epochs)
        for epoch in range(epochs):
            self._tell("on_epoch_start", epoch, len(train))
            record = self._train_epoch(train)
            if not math.isfinite(record["loss"]):
                raise TwofoldError(
                    f"training diverged: the mean loss of epoch {epoch + 1} is {record['loss']}",
                    op="Trainer",
                    hint="lower the learning rate or clip the gradients (clip_grad_norm=1.0); "
                    "twofold.debug.detect_anomaly() shows where the first nan comes from",
                )
            if validation is not None:
                record |= {f"val_{k}": v for k, v in self.evaluate(validation).items()}
            if self.scheduler is not None and self.schedule_per == "epoch":
                self.scheduler.step()
            self.history.append(record)
            self._tell("on_epoch_end", epoch, record)
        self._tell("on_fit_end", self.history)
        return self.history

    def train_step(self, inputs: Any, targets: Any) -> tuple[Tensor, Any]:
        """One update; returns the loss and the model's outputs. Override it for other schemes."""
        self.optimizer.zero_grad()
        outputs = self.model(inputs)
        loss = self.loss(outputs, targets)
        loss.backward()
        if self.clip_grad_norm is not None:
            clip_grad_norm_(self.model.parameters(), self.clip_grad_norm)
        self.optimizer.step()
        return loss.detach(), outputs.detach()

    def _train_epoch(self, train: DataLoader) -> dict[str, float]:
        self.model.train()
        if self._step is None:
            self._step = (
                importlib.import_module(_COMPILER).compile(self.train_step) if self.compile else self.train_step
            )
        running = self._start_epoch()
        started = time.perf_counter()
        for inputs, targets in train:
            loss, outputs = self._step(inputs, targets)
            if self.scheduler is not None and self.schedule_per == "batch":
                self.scheduler.step()
            self._update(running, loss, outputs, targets)
            self._tell("on_batch_end", len(targets), {k: m.value() for k, m in running.items()})
        return {k: m.value() for k, m in running.items()} | {"seconds": time.perf_counter() - started}

    def evaluate(self, loader: Iterable[Any]) -> dict[str, float]:
        """Mean loss and metrics over all batches, in evaluation mode and without gradients."""
        was_training = self.model.training
        self.model.eval()
        running = self._start_epoch()
        with no_grad():
            for inputs, targets in loader:
                outputs = self.model(inputs)
                self._update(running, self.loss(outputs, targets), outputs, targets)
        self.model.train(was_training)
        return {k: m.value() for k, m in running.items()}

    def predict(self, loader: Iterable[Any]) -> list[Tensor]:
        """The model's outputs, a tensor per batch; batches are inputs, or tuples that begin with them."""
        was_training = self.model.training
        self.model.eval()
        with no_grad():
            outputs = [self.model(b[0] if isinstance(b, (tuple, list)) else b) for b in loader]
        self.model.train(was_training)
        return outputs

    def _start_epoch(self) -> dict[str, Any]:
        for metric in self.metrics.values():
            metric.reset()
        return {"loss": Mean(), **self.metrics}

    def _update(self, running: dict[str, Any], loss: Tensor, outputs: Any, targets: Any) -> None:
        running["loss"].add(loss.item(), len(targets))
        for metric in self.metrics.values():
            metric.update(outputs, targets)

    def _tell(self, event: str, *args: Any) -> None:
        for callback in self.callbacks:
            getattr(callback, event)(*args)
