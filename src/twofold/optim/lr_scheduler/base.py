"""What all schedules share: the count of epochs and the writing of learning rates."""

from __future__ import annotations

import warnings
from collections.abc import Callable, Sequence
from typing import Any

from ...autodiff.handle import Tensor, mode
from ...ir.errors import TraceError, TwofoldWarning, user_location
from ...tensors._registry import assign
from .._group import ParamGroup
from ..optimizer import Optimizer


def require_eager() -> None:
    """A program does not count epochs."""
    if mode.tracer is not None:
        raise TraceError(
            "step() of a schedule inside of traced code would run once, at the trace",
            op="lr_scheduler",
            hint="call it after the compiled step; learning rates change without a new trace",
        )


class LRScheduler:
    """Base of schedules: `step()` after each epoch (or batch) sets the learning rate of each group.

    Subclasses define `get_lr()`, the learning rates at `last_epoch`; most compute them from the
    present ones, so that several schedules can act on one optimizer.

    Args:
        optimizer: whose groups' `lr` is set.
        last_epoch: -1 to begin; otherwise the groups must have an `initial_lr`.

    Raises: TypeError without an optimizer; KeyError if `initial_lr` is missing.
    """

    optimizer: Optimizer
    base_lrs: list[Any]
    last_epoch: int
    _last_lr: list[Any]
    _step_count: int
    _initial: bool = False  # the step that the constructor makes: a resumed learning rate stays
    _unsaved: tuple[str, ...] = ("optimizer",)
    _get_closed_form_lr: Callable[[], list[Any]] | None = None  # learning rates from base_lrs alone

    def __init__(self, optimizer: Optimizer, last_epoch: int = -1):
        check_optimizer(optimizer)
        self.optimizer = optimizer
        for i, group in enumerate(optimizer.param_groups):
            if last_epoch == -1:
                group.setdefault("initial_lr", number(group["lr"]))
            elif "initial_lr" not in group:
                raise KeyError(
                    f"parameter group {i} has no 'initial_lr', which last_epoch={last_epoch} needs; load the "
                    "optimizer's state first, or leave last_epoch out"
                )
        self.base_lrs = [group["initial_lr"] for group in optimizer.param_groups]
        self.last_epoch = last_epoch
        self._initial_step()

    def _initial_step(self) -> None:
        self._step_count = 0
        self._initial = True
        try:
            self.step()
        finally:
            del self._initial

    def get_lr(self) -> list[Any]:
        """The learning rates at `last_epoch`, one for each group."""
        raise NotImplementedError(f"{type(self).__name__} must define get_lr")

    def get_last_lr(self) -> list[Any]:
        """The learning rates that were set last."""
        return self._last_lr

    def step(self, epoch: int | None = None) -> None:
        """Go on to the next epoch (or to `epoch`) and set the learning rates."""
        require_eager()
        if self._step_count == 1 and self.optimizer._step_count == 0:
            where = user_location()
            warnings.warn(
                "lr_scheduler.step() is called before optimizer.step(), so the first learning rate of the "
                "schedule is skipped"
                + (f"\n  at: {where}" if where else "")
                + "\n  hint: call optimizer.step() first",
                TwofoldWarning,
                stacklevel=2,
            )
        self._step_count += 1
        self._update_lr(epoch)

    def _update_lr(self, epoch: int | None = None) -> None:
        if epoch is None:
            self.last_epoch += 1
            values = self.get_lr()
        else:
            self.last_epoch = epoch
            values = self.get_lr() if self._get_closed_form_lr is None else self._get_closed_form_lr()
        self._set_lrs(values)

    def _set_lrs(self, values: Sequence[Any]) -> None:
        for group, lr in zip(self.optimizer.param_groups, values, strict=True):
            set_option(group, "lr", lr)
        self._last_lr = current_lrs(self.optimizer)

    def state_dict(self) -> dict[str, Any]:
        """All that the schedule remembers, without the optimizer."""
        return {name: value for name, value in self.__dict__.items() if name not in self._unsaved}

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Take over the state of `state_dict()`; the learning rates come with the optimizer's."""
        self.__dict__.update(state_dict)

    def _lrs(self) -> list[Any]:
        return [number(group["lr"]) for group in self.optimizer.param_groups]


def check_optimizer(optimizer: Any) -> None:
    """Raise TypeError for what is no optimizer."""
    if not isinstance(optimizer, Optimizer):
        raise TypeError(f"a scheduler takes an optimizer, got {type(optimizer).__name__}")


def number(value: Any) -> Any:
    """The Python number of an option that may be a 0-d tensor."""
    return value.item() if isinstance(value, Tensor) else value


def current_lrs(optimizer: Optimizer) -> list[Any]:
    """The present learning rates as Python numbers."""
    return [number(group["lr"]) for group in optimizer.param_groups]


def set_option(group: ParamGroup, name: str, value: float) -> None:
    """Set a number of a group; one that is a tensor is overwritten in place."""
    have = group[name]
    if isinstance(have, Tensor):
        assign(have, Tensor(value, dtype=have.dtype))
    else:
        group[name] = value


def per_group(optimizer: Optimizer, name: str, value: Any) -> list[Any]:
    """`value` for each group: one for all, or a list with one for each."""
    n = len(optimizer.param_groups)
    if not isinstance(value, (list, tuple)):
        return [value] * n
    if len(value) != n:
        raise ValueError(f"{name} must have a value for each of the {n} parameter groups, got {len(value)}")
    return list(value)
