"""Schedules that go up and down, and the momentum the other way."""

from __future__ import annotations

import math
from bisect import bisect_left
from collections.abc import Callable, Iterator
from typing import Any

from .._group import ParamGroup
from ..optimizer import Optimizer
from .base import LRScheduler, check_optimizer, per_group, set_option


def _check_momentum(optimizer: Optimizer) -> None:
    if "momentum" not in optimizer.defaults and "betas" not in optimizer.defaults:
        raise ValueError(
            f"cycle_momentum=True needs an optimizer with momentum or betas, and {type(optimizer).__name__} "
            "has neither; pass cycle_momentum=False"
        )


def _set_momentum(group: ParamGroup, value: float) -> None:
    if "betas" in group:
        group["betas"] = (value, *group["betas"][1:])
    else:
        group["momentum"] = value


class OneCycleLR(LRScheduler):
    """One rise of the learning rate to `max_lr` and one fall far below its beginning; step per batch.

    Args:
        optimizer: whose groups are scheduled.
        max_lr: the highest learning rate, one for all groups or one for each.
        total_steps: length of the cycle; or
        epochs, steps_per_epoch: its factors.
        pct_start: share of the cycle that rises.
        anneal_strategy: "cos" or "linear".
        cycle_momentum: move momentum (or the first beta) from `max_momentum` down to
            `base_momentum` and back, against the learning rate.
        div_factor: the first learning rate is max_lr / div_factor.
        final_div_factor: the last one is the first / final_div_factor.
        three_phase: fall to the first learning rate before going to the last.

    Raises: ValueError for options that do not fit, and for steps beyond the cycle.
    Source: Smith and Topin 2018, "Super-convergence: very fast training of neural networks using
        large learning rates".
    """

    def __init__(
        self,
        optimizer: Optimizer,
        max_lr: float | list[float],
        total_steps: int | None = None,
        epochs: int | None = None,
        steps_per_epoch: int | None = None,
        pct_start: float = 0.3,
        anneal_strategy: str = "cos",
        cycle_momentum: bool = True,
        base_momentum: float | list[float] = 0.85,
        max_momentum: float | list[float] = 0.95,
        div_factor: float = 25.0,
        final_div_factor: float = 1e4,
        three_phase: bool = False,
        last_epoch: int = -1,
    ):
        check_optimizer(optimizer)
        self.optimizer = optimizer
        self.total_steps = _total_steps(total_steps, epochs, steps_per_epoch)
        if not 0 <= pct_start <= 1:
            raise ValueError(f"pct_start must be between 0 and 1, got {pct_start}")
        if anneal_strategy not in ("cos", "linear"):
            raise ValueError(f'anneal_strategy must be "cos" or "linear", got {anneal_strategy!r}')
        self.anneal_strategy = anneal_strategy
        self.cycle_momentum = cycle_momentum
        self._phases = _phases(self.total_steps, pct_start, three_phase)
        max_lrs = per_group(optimizer, "max_lr", max_lr)
        if last_epoch == -1:
            for group, highest in zip(optimizer.param_groups, max_lrs, strict=True):
                group["initial_lr"] = highest / div_factor
                group["max_lr"] = highest
                group["min_lr"] = group["initial_lr"] / final_div_factor
        if cycle_momentum:
            _check_momentum(optimizer)
            lows = per_group(optimizer, "base_momentum", base_momentum)
            highs = per_group(optimizer, "max_momentum", max_momentum)
            if last_epoch == -1:
                for group, low, high in zip(optimizer.param_groups, lows, highs, strict=True):
                    _set_momentum(group, high)
                    group["max_momentum"], group["base_momentum"] = high, low
        super().__init__(optimizer, last_epoch)

    def get_lr(self) -> list[float]:
        if self.last_epoch > self.total_steps:
            raise ValueError(
                f"step {self.last_epoch} is beyond the {self.total_steps} steps of the cycle; raise total_steps"
            )
        ends = [last for last, _, _ in self._phases]
        phase = min(bisect_left(ends, self.last_epoch), len(ends) - 1)
        first, last = (ends[phase - 1] if phase else 0.0), ends[phase]
        _, lr_names, momentum_names = self._phases[phase]
        share = (self.last_epoch - first) / (last - first)
        lrs = []
        for group in self.optimizer.param_groups:
            lrs.append(self._between(group, lr_names, share))
            if self.cycle_momentum:
                _set_momentum(group, self._between(group, momentum_names, share))
        return lrs

    def _between(self, group: ParamGroup, names: tuple[str, ...], share: float) -> float:
        start, end = (group[name] for name in names)
        if self.anneal_strategy == "linear":
            return (end - start) * share + start
        return end + (start - end) / 2.0 * (1 + math.cos(math.pi * share))

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Take over the state of `state_dict()`."""
        super().load_state_dict(state_dict)
        self._phases = [(last, tuple(lrs), tuple(momenta)) for last, lrs, momenta in self._phases]


def _total_steps(total_steps: int | None, epochs: int | None, steps_per_epoch: int | None) -> int:
    if total_steps is None:
        if epochs is None or steps_per_epoch is None:
            raise ValueError("OneCycleLR needs total_steps, or both epochs and steps_per_epoch")
        for name, value in (("epochs", epochs), ("steps_per_epoch", steps_per_epoch)):
            if not isinstance(value, int) or value <= 0:
                raise ValueError(f"{name} must be a positive int, got {value!r}")
        return epochs * steps_per_epoch
    if not isinstance(total_steps, int) or total_steps <= 0:
        raise ValueError(f"total_steps must be a positive int, got {total_steps!r}")
    return total_steps


def _phases(total: int, pct_start: float, three: bool) -> list[tuple[float, tuple[str, ...], tuple[str, ...]]]:
    """(last step, names of the learning rates, names of the momenta) at begin and end of each phase."""
    up = ("initial_lr", "max_lr"), ("max_momentum", "base_momentum")
    if not three:
        return [
            (float(pct_start * total) - 1, *up),
            (total - 1, ("max_lr", "min_lr"), ("base_momentum", "max_momentum")),
        ]
    return [
        (float(pct_start * total) - 1, *up),
        (float(2 * pct_start * total) - 2, ("max_lr", "initial_lr"), ("base_momentum", "max_momentum")),
        (total - 1, ("initial_lr", "min_lr"), ("max_momentum", "max_momentum")),
    ]


class CyclicLR(LRScheduler):
    """The learning rate goes from `base_lr` to `max_lr` and back, again and again; step per batch.

    Args:
        optimizer: whose groups are scheduled.
        base_lr, max_lr: the bounds, for all groups or for each.
        step_size_up, step_size_down: steps of the rise and of the fall (the same by default).
        mode: "triangular", "triangular2" (half as high in each cycle) or "exp_range" (times
            gamma ^ step).
        scale_fn, scale_mode: a factor of the height instead of `mode`, as a function of the number
            of the "cycle" or of "iterations".
        cycle_momentum: move momentum (or the first beta) between `max_momentum` and
            `base_momentum`, against the learning rate.

    Raises: ValueError for options that do not fit.
    Source: Smith 2017, "Cyclical learning rates for training neural networks".
    """

    _unsaved = ("_scale_fn", "optimizer")

    def __init__(
        self,
        optimizer: Optimizer,
        base_lr: float | list[float],
        max_lr: float | list[float],
        step_size_up: int = 2000,
        step_size_down: int | None = None,
        mode: str = "triangular",
        gamma: float = 1.0,
        scale_fn: Callable[[float], float] | None = None,
        scale_mode: str = "cycle",
        cycle_momentum: bool = True,
        base_momentum: float | list[float] = 0.8,
        max_momentum: float | list[float] = 0.9,
        last_epoch: int = -1,
    ):
        check_optimizer(optimizer)
        if mode not in ("triangular", "triangular2", "exp_range") and scale_fn is None:
            raise ValueError(f'mode must be "triangular", "triangular2" or "exp_range", got {mode!r}')
        base_lrs = per_group(optimizer, "base_lr", base_lr)
        if last_epoch == -1:
            for group, lr in zip(optimizer.param_groups, base_lrs, strict=True):
                set_option(group, "lr", lr)
        self.max_lrs = per_group(optimizer, "max_lr", max_lr)
        down = step_size_up if step_size_down is None else step_size_down
        self.total_size = float(step_size_up) + float(down)
        self.step_ratio = float(step_size_up) / self.total_size
        self.mode = mode
        self.gamma = gamma
        self._scale_fn = scale_fn
        self.scale_mode = scale_mode if scale_fn is not None else ("iterations" if mode == "exp_range" else "cycle")
        self.cycle_momentum = cycle_momentum
        if cycle_momentum:
            _check_momentum(optimizer)
            self.base_momentums = per_group(optimizer, "base_momentum", base_momentum)
            self.max_momentums = per_group(optimizer, "max_momentum", max_momentum)
            if last_epoch == -1:
                for group, low, high in self._momenta(optimizer):
                    _set_momentum(group, high)
                    group["max_momentum"], group["base_momentum"] = high, low
        super().__init__(optimizer, last_epoch)
        self.base_lrs = base_lrs

    def _momenta(self, optimizer: Optimizer) -> Iterator[tuple[ParamGroup, float, float]]:
        return zip(optimizer.param_groups, self.base_momentums, self.max_momentums, strict=True)

    def scale_fn(self, x: float) -> float:
        """Factor of the height of a cycle."""
        if self._scale_fn is not None:
            return self._scale_fn(x)
        return {"triangular": 1.0, "triangular2": 1 / 2.0 ** (x - 1), "exp_range": self.gamma**x}[self.mode]

    def get_lr(self) -> list[float]:
        cycle = math.floor(1 + self.last_epoch / self.total_size)
        x = 1.0 + self.last_epoch / self.total_size - cycle
        height = x / self.step_ratio if x <= self.step_ratio else (x - 1) / (self.step_ratio - 1)
        height *= self.scale_fn(cycle if self.scale_mode == "cycle" else self.last_epoch)
        if self.cycle_momentum:
            for group, low, high in self._momenta(self.optimizer):
                _set_momentum(group, high - (high - low) * height)
        return [low + (high - low) * height for low, high in zip(self.base_lrs, self.max_lrs, strict=True)]
