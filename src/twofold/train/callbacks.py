"""Callbacks: what is told of a training run while it goes on."""

from __future__ import annotations

import sys
import time
from typing import Any


class Callback:
    """Override what you need; every method may be left out."""

    def on_fit_start(self, epochs: int) -> None:
        """Training begins."""

    def on_epoch_start(self, epoch: int, num_batches: int) -> None:
        """An epoch begins; `epoch` counts from 0."""

    def on_batch_end(self, num_samples: int, metrics: dict[str, float]) -> None:
        """A batch was trained on; `metrics` are over the epoch so far."""

    def on_epoch_end(self, epoch: int, record: dict[str, float]) -> None:
        """An epoch and its validation are over."""

    def on_fit_end(self, history: list[dict[str, float]]) -> None:
        """Training is over."""


def _describe(metrics: dict[str, float]) -> str:
    parts = []
    for name, value in metrics.items():
        if name == "seconds":
            continue
        parts.append(f"{name} {value:.2%}" if "accuracy" in name else f"{name} {value:.4f}")
    return "  ".join(parts)


class ProgressBar(Callback):
    """A live bar with loss, metrics, samples per second and the time left.

    On a terminal it redraws one line; elsewhere it prints a line per epoch.

    Args:
        unit: what a sample is called, e.g. "images".
        file: where to write; standard error by default.
    """

    def __init__(self, unit: str = "samples", file: Any = None):
        self.unit = unit
        self.file = file if file is not None else sys.stderr

    def on_fit_start(self, epochs: int) -> None:
        from rich.console import Console
        from rich.progress import BarColumn, Progress, TextColumn, TimeRemainingColumn

        self.epochs = epochs
        self.seen, self.started = 0, time.perf_counter()
        self.console = Console(file=self.file, highlight=False)
        self.live = self.console.is_terminal
        self.progress = Progress(
            TextColumn("[bold]{task.description}"),
            BarColumn(bar_width=24),
            TextColumn("{task.fields[text]}"),
            TextColumn("{task.fields[speed]}"),
            TextColumn("ETA"),
            TimeRemainingColumn(elapsed_when_finished=True),
            console=self.console,
            disable=not self.live,
        )
        self.task: Any = None
        self.progress.start()

    def on_epoch_start(self, epoch: int, num_batches: int) -> None:
        if self.task is None:  # one bar over all epochs, so that the time left is that of the run
            self.task = self.progress.add_task("", total=self.epochs * num_batches, text="", speed="")
        self.progress.update(self.task, description=f"epoch {epoch + 1}/{self.epochs}")

    def on_batch_end(self, num_samples: int, metrics: dict[str, float]) -> None:
        self.seen += num_samples
        if self.live:
            self.progress.update(self.task, advance=1, text=_describe(metrics), speed=self._speed())

    def on_epoch_end(self, epoch: int, record: dict[str, float]) -> None:
        self.console.print(
            f"epoch {epoch + 1:>{len(str(self.epochs))}}/{self.epochs}  {_describe(record)}  {self._speed()}"
        )

    def on_fit_end(self, history: list[dict[str, float]]) -> None:
        self.progress.stop()

    def _speed(self) -> str:
        return f"{self.seen / max(time.perf_counter() - self.started, 1e-9):,.0f} {self.unit}/s"
