"""Twofold: the imperative step, compiled."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import twofold as tw

from ..models import WORKLOADS, train_step
from . import Task
from .twofold_decode import decoder


class TwofoldEager:
    """Without compile."""

    def _build(self, task: Task) -> Any:
        tw.set_num_threads(task.threads)
        model = WORKLOADS[task.name].build(tw)
        model.load_state_dict({k: tw.tensor(v) for k, v in task.state.items()})
        return model

    def _compiled(self, fn: Any) -> Any:
        return fn

    def train(self, task: Task) -> Callable[[], Any]:
        model = self._build(task)
        batch = [tw.tensor(a) for a in task.batch]
        step = train_step(tw, model, WORKLOADS[task.name].optimizer(tw, model.parameters()), task.name)
        step = self._compiled(step)
        return lambda: step(*batch)

    def infer(self, task: Task) -> Callable[[], Any]:
        model = self._compiled(self._build(task).eval())
        inputs = [tw.tensor(a) for a in task.inputs]

        def run() -> Any:
            with tw.no_grad():
                return model(*inputs)

        return run

    def decode(self, task: Task) -> Callable[[], Any]:
        return decoder(self._build(task).eval(), self._compiled)

    def chain(self, task: Task) -> Callable[[], Any]:
        tw.set_num_threads(task.threads)
        x, y = (tw.tensor(a) for a in task.batch)
        fn = self._compiled(lambda x, y: tw.relu(x * 2 + y).exp().sum())
        return lambda: fn(x, y)


class Twofold(TwofoldEager):
    """Compiled: one program per step."""

    def _compiled(self, fn: Any) -> Any:
        return tw.compile(fn)
