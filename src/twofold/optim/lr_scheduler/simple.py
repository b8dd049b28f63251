"""Schedules that multiply the learning rate by a factor in each epoch."""

from __future__ import annotations

import types
from bisect import bisect_right
from collections.abc import Callable, Iterable
from typing import Any

from ..optimizer import Optimizer
from .base import LRScheduler, per_group


class _Factor(LRScheduler):
    """Schedules of the form: the present learning rate times `factor()`."""

    def factor(self) -> float:
        """By what the learning rate changes from the epoch before to `last_epoch`."""
        raise NotImplementedError

    def whole_factor(self) -> float:
        """The product of all factors up to `last_epoch`."""
        raise NotImplementedError

    def get_lr(self) -> list[Any]:
        factor = self.factor()
        return [lr * factor for lr in self._lrs()]

    def _get_closed_form_lr(self) -> list[Any]:
        return [lr * self.whole_factor() for lr in self.base_lrs]


class StepLR(_Factor):
    """Multiply by `gamma` every `step_size` epochs.

    >>> import twofold as tw
    >>> optimizer = tw.optim.SGD([tw.zeros(1)], lr=1.0)
    >>> scheduler, lrs = StepLR(optimizer, step_size=2, gamma=0.5), []
    >>> for epoch in range(5):
    ...     optimizer.step()
    ...     scheduler.step()
    ...     lrs.append(optimizer.param_groups[0]["lr"])
    >>> lrs
    [1.0, 0.5, 0.5, 0.25, 0.25]
    """

    def __init__(self, optimizer: Optimizer, step_size: int, gamma: float = 0.1, last_epoch: int = -1):
        self.step_size = step_size
        self.gamma = gamma
        super().__init__(optimizer, last_epoch)

    def factor(self) -> float:
        return self.gamma if self.last_epoch > 0 and self.last_epoch % self.step_size == 0 else 1.0

    def whole_factor(self) -> float:
        return self.gamma ** (self.last_epoch // self.step_size)


class MultiStepLR(_Factor):
    """Multiply by `gamma` at each of the milestones; one that is listed twice counts twice."""

    def __init__(self, optimizer: Optimizer, milestones: Iterable[int], gamma: float = 0.1, last_epoch: int = -1):
        self.milestones = sorted(milestones)
        self.gamma = gamma
        super().__init__(optimizer, last_epoch)

    def factor(self) -> float:
        return self.gamma ** self.milestones.count(self.last_epoch)

    def whole_factor(self) -> float:
        return self.gamma ** bisect_right(self.milestones, self.last_epoch)


class ConstantLR(_Factor):
    """`factor` times the learning rate for `total_iters` epochs, then the learning rate itself."""

    def __init__(self, optimizer: Optimizer, factor: float = 1.0 / 3, total_iters: int = 5, last_epoch: int = -1):
        if not 0 <= factor <= 1:
            raise ValueError(f"factor must be between 0 and 1, got {factor}")
        self.constant = factor
        self.total_iters = total_iters
        super().__init__(optimizer, last_epoch)

    def factor(self) -> float:
        if self.last_epoch == 0:
            return self.constant
        return 1.0 / self.constant if self.last_epoch == self.total_iters else 1.0

    def whole_factor(self) -> float:
        return self.constant if self.last_epoch < self.total_iters else 1.0


class LinearLR(_Factor):
    """From `start_factor` to `end_factor` times the learning rate in a line of `total_iters` epochs."""

    def __init__(
        self,
        optimizer: Optimizer,
        start_factor: float = 1.0 / 3,
        end_factor: float = 1.0,
        total_iters: int = 5,
        last_epoch: int = -1,
    ):
        if not 0 < start_factor <= 1:
            raise ValueError(f"start_factor must be above 0 and at most 1, got {start_factor}")
        if not 0 <= end_factor <= 1:
            raise ValueError(f"end_factor must be between 0 and 1, got {end_factor}")
        self.start_factor = start_factor
        self.end_factor = end_factor
        self.total_iters = total_iters
        super().__init__(optimizer, last_epoch)

    def factor(self) -> float:
        if self.last_epoch == 0:
            return self.start_factor
        if self._initial or self.last_epoch > self.total_iters:
            return 1.0
        slope = self.end_factor - self.start_factor
        return 1.0 + slope / (self.total_iters * self.start_factor + (self.last_epoch - 1) * slope)

    def whole_factor(self) -> float:
        slope = self.end_factor - self.start_factor
        return self.start_factor + slope * min(self.total_iters, self.last_epoch) / self.total_iters


class ExponentialLR(_Factor):
    """Multiply by `gamma` in every epoch."""

    def __init__(self, optimizer: Optimizer, gamma: float, last_epoch: int = -1):
        self.gamma = gamma
        super().__init__(optimizer, last_epoch)

    def factor(self) -> float:
        return 1.0 if self._initial else self.gamma

    def whole_factor(self) -> float:
        return self.gamma**self.last_epoch


class PolynomialLR(_Factor):
    """The learning rate times (1 - epoch / total_iters) ^ power, down to zero."""

    def __init__(self, optimizer: Optimizer, total_iters: int = 5, power: float = 1.0, last_epoch: int = -1):
        self.total_iters = total_iters
        self.power = power
        super().__init__(optimizer, last_epoch)

    def factor(self) -> float:
        n, total = self.last_epoch, self.total_iters
        if self._initial or n > total:
            return 1.0
        return ((1.0 - n / total) / (1.0 - (n - 1) / total)) ** self.power

    def whole_factor(self) -> float:
        return (1.0 - min(self.total_iters, self.last_epoch) / self.total_iters) ** self.power


class LambdaLR(LRScheduler):
    """The initial learning rate times `lr_lambda(epoch)`; a list gives a function for each group.

    Functions are not saved by `state_dict()`; the attributes of callable objects are.
    """

    def __init__(self, optimizer: Optimizer, lr_lambda: Any, last_epoch: int = -1):
        self.lr_lambdas: list[Callable[[int], float]] = per_group(optimizer, "lr_lambda", lr_lambda)
        super().__init__(optimizer, last_epoch)

    def get_lr(self) -> list[Any]:
        return [lr * f(self.last_epoch) for lr, f in zip(self.base_lrs, self.lr_lambdas, strict=True)]

    def state_dict(self) -> dict[str, Any]:
        state = super().state_dict()
        state["lr_lambdas"] = [
            None if isinstance(f, (types.FunctionType, types.BuiltinFunctionType)) else dict(vars(f))
            for f in self.lr_lambdas
        ]
        return state

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        super().load_state_dict({k: v for k, v in state_dict.items() if k != "lr_lambdas"})
        for f, saved in zip(self.lr_lambdas, state_dict["lr_lambdas"], strict=True):
            if saved is not None:
                vars(f).update(saved)


class MultiplicativeLR(LambdaLR):
    """Multiply by `lr_lambda(epoch)` in every epoch but the first."""

    def get_lr(self) -> list[Any]:
        if self._initial:
            return self._lrs()
        return [lr * f(self.last_epoch) for lr, f in zip(self._lrs(), self.lr_lambdas, strict=True)]
