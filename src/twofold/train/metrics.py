"""Metrics: numbers accumulated over the batches of an epoch."""

from __future__ import annotations

from typing import Any

import numpy as np


class Metric:
    """Accumulates over batches. Subclasses give `reset`, `update` and `value`."""

    def reset(self) -> None:
        """Forget everything."""
        raise NotImplementedError

    def update(self, outputs: Any, targets: Any) -> None:
        """Take in a batch of model outputs and targets."""
        raise NotImplementedError

    def value(self) -> float:
        """The metric over all batches so far; nan before the first."""
        raise NotImplementedError


class Mean:
    """The weighted mean of numbers.

    >>> m = Mean(); m.add(1.0, 1); m.add(4.0, 3); m.value()
    3.25
    """

    def __init__(self) -> None:
        self.total, self.weight = 0.0, 0.0

    def add(self, value: float, weight: float = 1.0) -> None:
        """Take in a number that counts `weight` times."""
        self.total += value * weight
        self.weight += weight

    def value(self) -> float:
        """The mean so far; nan before the first number."""
        return self.total / self.weight if self.weight else float("nan")


class Accuracy(Metric):
    """Share of samples whose largest output (over dim 1) is at the target class.

    Shapes: outputs (N, C, ...), targets (N, ...) integer.
    """

    def __init__(self) -> None:
        self.reset()

    def reset(self) -> None:
        self._right, self._seen = 0, 0

    def update(self, outputs: Any, targets: Any) -> None:
        right = outputs.argmax(dim=1) == targets
        self._right += int(right.sum().item())
        self._seen += targets.numel()

    def value(self) -> float:
        return self._right / self._seen if self._seen else float("nan")


class ConfusionMatrix(Metric):
    """Counts `matrix[target, predicted]`. Its `value` is the accuracy.

    Args:
        num_classes: number of classes C; outputs are (N, C).
    """

    def __init__(self, num_classes: int):
        self.num_classes = num_classes
        self.reset()

    def reset(self) -> None:
        self.matrix = np.zeros((self.num_classes, self.num_classes), np.int64)

    def update(self, outputs: Any, targets: Any) -> None:
        predicted = outputs.argmax(dim=1).numpy().ravel()
        np.add.at(self.matrix, (targets.numpy().ravel(), predicted), 1)

    def value(self) -> float:
        total = self.matrix.sum()
        return float(np.trace(self.matrix) / total) if total else float("nan")

    def recall(self) -> list[float]:
        """Share of each class that was found; nan for a class without samples."""
        seen = self.matrix.sum(axis=1)
        return [float(self.matrix[i, i] / n) if n else float("nan") for i, n in enumerate(seen)]

    def confusions(self) -> list[tuple[int, int, int]]:
        """Wrong (target, predicted, count), the most frequent first."""
        wrong = [
            (t, p, int(self.matrix[t, p]))
            for t in range(self.num_classes)
            for p in range(self.num_classes)
            if t != p and self.matrix[t, p]
        ]
        return sorted(wrong, key=lambda w: -w[2])
