"""Programs of the fuzzer: source text, the state it starts from, and a run."""

from __future__ import annotations

import textwrap
from dataclasses import dataclass, field
from typing import Any

import numpy as np

import twofold as tw
import twofold.nn.functional as F
from twofold import nn

EPS = {"float32": 2.0**-23, "float64": 2.0**-52, "float16": 2.0**-10, "bfloat16": 2.0**-7}


@dataclass
class Source:
    """A program: arrays it starts from, and the lines of the step."""

    seed: int
    args: list[np.ndarray]
    params: list[np.ndarray]
    buffers: list[np.ndarray]
    transposed: list[bool]  # buffers that are handed over transposed
    lines: list[str] = field(default_factory=list)
    results: list[str] = field(default_factory=list)
    exact: list[bool] = field(default_factory=list)
    loss: list[str] = field(default_factory=list)
    eps: float = EPS["float64"]

    def text(self) -> str:
        """The step as Python."""
        names = ", ".join(f"x{i}" for i in range(len(self.args)))
        state = [*(f"p{i}" for i in range(len(self.params))), *(f"s{i}" for i in range(len(self.buffers)))]
        body = ["global " + ", ".join(state)] if state else []
        body += [f"p{i}.grad = None" for i in range(len(self.params))]
        body += self.lines
        if self.loss:
            terms = " + ".join(f"({v} * {0.05 * (i + 1):.2f}).sum()" for i, v in enumerate(self.loss))
            body += [f"loss = {terms}", "loss.backward()"]
            if self.params:
                body.append("with tw.no_grad():")
                for i in range(len(self.params)):
                    body += [f"    if p{i}.grad is not None:", f"        p{i} -= 0.125 * p{i}.grad"]
        body.append("return [" + ", ".join([*(["loss.detach()"] if self.loss else []), *self.results]) + "]")
        return f"def step({names}):\n" + textwrap.indent("\n".join(body), "    ")

    def state(self) -> str:
        """The lines that make the state, for people."""
        out = [f"p{i} = tw.tensor({_describe(a)}, requires_grad=True)" for i, a in enumerate(self.params)]
        for i, a in enumerate(self.buffers):
            out.append(f"s{i} = tw.tensor({_describe(a)})" + (".mT" if self.transposed[i] else ""))
        out += [f"x{i} = tw.tensor({_describe(a)})" for i, a in enumerate(self.args)]
        return "\n".join(out)


def _describe(a: np.ndarray) -> str:
    return f"<{a.dtype.name} of shape {a.shape}>"


class Run:
    """A program's state, fresh from its arrays."""

    def __init__(self, source: Source):
        self.params = [tw.tensor(a.copy(), requires_grad=True) for a in source.params]
        self.buffers = [
            tw.tensor(np.ascontiguousarray(a.mT)).mT if t else tw.tensor(a.copy())
            for a, t in zip(source.buffers, source.transposed, strict=True)
        ]
        self.args = [tw.tensor(a.copy()) for a in source.args]
        env: dict[str, Any] = {"tw": tw, "F": F, "nn": nn}
        env |= {f"p{i}": p for i, p in enumerate(self.params)}
        env |= {f"s{i}": s for i, s in enumerate(self.buffers)}
        exec(source.text(), env)
        self.step = env["step"]
        self.source = source
        tw.manual_seed(source.seed)

    def reset(self) -> None:
        """The state as it was at first, in the same tensors."""
        with tw.no_grad():
            for tensors, arrays in (
                (self.params, self.source.params),
                (self.buffers, self.source.buffers),
                (self.args, self.source.args),
            ):
                for t, a in zip(tensors, arrays, strict=True):
                    t.copy_(tw.tensor(a))
        tw.manual_seed(self.source.seed)

    def call(self, step: Any) -> list[np.ndarray]:
        """All that a call of the step leaves: results, gradients, parameters, buffers, arguments, RNG."""
        out = [v.detach().numpy().copy() for v in step(*self.args)]
        # None where all was overwritten through a view, or zeros
        grads = [p.grad for p in self.params]
        zeros = [np.zeros(p.shape, p.dtype.numpy) for p in self.params]
        out += [z if g is None else g.numpy().copy() for g, z in zip(grads, zeros, strict=True)]
        out += [p.detach().numpy().copy() for p in self.params]
        out += [s.detach().numpy().copy() for s in self.buffers]
        out += [x.detach().numpy().copy() for x in self.args]
        return [*out, tw.get_rng_state().numpy().copy()]
