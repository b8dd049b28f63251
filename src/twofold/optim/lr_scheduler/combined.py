"""Schedules made of schedules."""

from __future__ import annotations

from bisect import bisect_right
from collections.abc import Sequence
from typing import Any

from ..optimizer import Optimizer
from .base import LRScheduler, check_optimizer, current_lrs, require_eager, set_option
from .plateau import ReduceLROnPlateau


class _Combined(LRScheduler):
    """Holds schedules; saves and loads their states."""

    _schedulers: list[LRScheduler]
    _unsaved = ("_schedulers", "optimizer")

    def state_dict(self) -> dict[str, Any]:
        """Its own state and that of each schedule."""
        return {**super().state_dict(), "_schedulers": [s.state_dict() for s in self._schedulers]}

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Take over the state of `state_dict()`."""
        super().load_state_dict({k: v for k, v in state_dict.items() if k != "_schedulers"})
        for scheduler, saved in zip(self._schedulers, state_dict["_schedulers"], strict=True):
            scheduler.load_state_dict(saved)


def _check(name: str, schedulers: Sequence[Any], optimizer: Optimizer) -> None:
    for i, scheduler in enumerate(schedulers):
        if not isinstance(scheduler, LRScheduler):
            raise TypeError(f"{name} takes schedulers, got {type(scheduler).__name__} as number {i}")
        if isinstance(scheduler, ReduceLROnPlateau):
            raise ValueError(f"{name} can't hold ReduceLROnPlateau (number {i}), whose step takes a measure")
        if scheduler.optimizer is not optimizer:
            raise ValueError(f"{name} takes schedulers of one optimizer; number {i} has another")


class SequentialLR(_Combined):
    """Schedules one after another; each milestone is the epoch at which the next one begins anew.

    Raises: ValueError if there is not one milestone less than schedules, or optimizers differ.
    """

    def __init__(
        self, optimizer: Optimizer, schedulers: list[LRScheduler], milestones: list[int], last_epoch: int = -1
    ):
        check_optimizer(optimizer)
        if not schedulers:
            raise ValueError("SequentialLR needs at least one scheduler")
        _check("SequentialLR", schedulers, optimizer)
        if len(milestones) != len(schedulers) - 1:
            raise ValueError(
                f"{len(schedulers)} schedulers need {len(schedulers) - 1} milestones, got {len(milestones)}"
            )
        self._schedulers = list(schedulers)
        self._milestones = list(milestones)
        self.optimizer = optimizer
        self.last_epoch = last_epoch + 1
        for group in optimizer.param_groups:
            set_option(group, "lr", group["initial_lr"])
        _undo_first_step(self)
        first = self._schedulers[bisect_right(self._milestones, 0)]
        first._initial_step()
        self._last_lr = first.get_last_lr()

    def step(self, epoch: int | None = None) -> None:
        """Go on to the next epoch with the schedule whose turn it is."""
        require_eager()
        self.last_epoch += 1
        i = bisect_right(self._milestones, self.last_epoch)
        scheduler = self._schedulers[i]
        if i > 0 and self._milestones[i - 1] == self.last_epoch:
            scheduler._update_lr(0)
        else:
            scheduler.step()
        self._last_lr = scheduler.get_last_lr()

    def _initial_step(self) -> None:
        self._schedulers[bisect_right(self._milestones, 0)]._initial_step()


def _undo_first_step(scheduler: LRScheduler) -> None:
    """Take back the steps that schedules made when they were made themselves."""
    for inner in getattr(scheduler, "_schedulers", ()):
        if hasattr(inner, "_schedulers"):
            _undo_first_step(inner)
        else:
            inner.last_epoch -= 1


class ChainedScheduler(_Combined):
    """All schedules at once: each acts on the learning rate that the one before it made.

    Raises: ValueError if there are none, or their optimizers differ.
    """

    def __init__(self, schedulers: Sequence[LRScheduler], optimizer: Optimizer | None = None):
        if not schedulers:
            raise ValueError("ChainedScheduler needs at least one scheduler")
        optimizer = optimizer or schedulers[0].optimizer
        _check("ChainedScheduler", schedulers, optimizer)
        self._schedulers = list(schedulers)
        self.optimizer = optimizer
        self._last_lr = current_lrs(optimizer)

    def step(self, epoch: int | None = None) -> None:
        """Go on to the next epoch with all schedules."""
        for scheduler in self._schedulers:
            scheduler.step()
        self._last_lr = current_lrs(self.optimizer)

    def _initial_step(self) -> None:
        for scheduler in self._schedulers:
            scheduler._initial_step()
