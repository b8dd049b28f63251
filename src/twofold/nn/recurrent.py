"""Recurrent layers: RNN, LSTM, GRU, and their cells.

Note [Recurrence]
The products of all inputs with the input weights are one matmul. What depends on the state is one
primitive for all times (`primitives/recurrent.py`), eagerly and traced. Only an LSTM with a projected
state is a Python loop over time, of which a traced program holds one copy for every time.
"""

from __future__ import annotations

import math
import warnings
from collections.abc import Callable
from typing import Any

from ..autodiff.composite import composite
from ..autodiff.handle import Tensor
from ..ir.errors import ShapeError, TwofoldError
from ..primitives import elementwise as E
from ..primitives import movement as M
from ..primitives import recurrent as R
from . import functional as F
from ._factory import empty_parameter
from .init import uniform_
from .linear import check_dtype
from .module import Module

State = tuple[Tensor, ...]
Step = Callable[[Tensor, State, Tensor, "Tensor | None"], State]


def _columns(x: Tensor, count: int) -> list[Tensor]:
    """(N, count * H) as `count` tensors (N, H)."""
    n, width = x.shape
    h = width // count
    return [M.slice(x, start=(0, i * h), stop=(n, (i + 1) * h), step=(1, 1)) for i in range(count)]


@composite
def rnn_tanh_step(gates: Tensor, state: State, w_hh: Tensor, b_hh: Tensor | None) -> State:
    """h' = tanh(x W_ih + b_ih + h W_hh + b_hh); `gates` is the part from the input."""
    return (E.tanh(gates + F.linear(state[0], w_hh, b_hh)),)


@composite
def rnn_relu_step(gates: Tensor, state: State, w_hh: Tensor, b_hh: Tensor | None) -> State:
    """h' = relu(x W_ih + b_ih + h W_hh + b_hh)."""
    return (E.relu(gates + F.linear(state[0], w_hh, b_hh)),)


@composite
def lstm_step(gates: Tensor, state: State, w_hh: Tensor, b_hh: Tensor | None) -> State:
    """c' = f c + i g, h' = o tanh(c'). Source: Hochreiter and Schmidhuber 1997, with Gers' forget gate."""
    h, c = state
    i, f, g, o = _columns(gates + F.linear(h, w_hh, b_hh), 4)
    c = E.sigmoid(f) * c + E.sigmoid(i) * E.tanh(g)
    return E.sigmoid(o) * E.tanh(c), c


@composite
def gru_step(gates: Tensor, state: State, w_hh: Tensor, b_hh: Tensor | None) -> State:
    """h' = (1 - z) n + z h, n = tanh(x_n + r h_n). Source: Cho et al. 2014, in cuDNN's form."""
    (h,) = state
    xr, xz, xn = _columns(gates, 3)
    hr, hz, hn = _columns(F.linear(h, w_hh, b_hh), 3)
    z = E.sigmoid(xz + hz)
    n = E.tanh(xn + E.sigmoid(xr + hr) * hn)
    return (n + z * (h - n),)


def _at(x: Tensor, t: int) -> Tensor:
    """x[t] of (T, N, H)."""
    _, n, width = x.shape
    now = M.slice(x, start=(t, 0, 0), stop=(t + 1, n, width), step=(1, 1, 1))
    return M.reshape(now, shape=(n, width))


def _sequence(mode: str, x: Tensor, state: State, weights: tuple[Any, ...], back: bool) -> tuple[Tensor, State]:
    """One layer in one direction over (T, N, I): outputs (T, N, H) and the last state, (1, N, H)."""
    w_ih, w_hh, b_ih, b_hh = weights
    times = x.shape[0]
    last = slice(0, 1) if back else slice(times - 1, times)
    if mode == "GRU":
        if b_hh is None:
            b_hh = M.full(shape=(w_hh.shape[0],), value=0, dtype=w_hh.dtype)
        ys, _ = R.gru(F.linear(x, w_ih, b_ih), *state, w_hh, b_hh, reverse=back)
        return ys, (ys[last],)
    gates = F.linear(x, w_ih, None if b_ih is None else b_ih + b_hh)
    if mode == "LSTM":
        ys, cs, _ = R.lstm(gates, *state, w_hh, reverse=back)
        return ys, (ys[last], cs[last])
    ys = R.rnn(gates, *state, w_hh, nonlinearity="tanh" if mode == "RNN_TANH" else "relu", reverse=back)
    return ys, (ys[last],)


def _projected(
    x: Tensor, state: State, weights: tuple[Any, ...], projection: Tensor, back: bool
) -> tuple[Tensor, State]:
    """`_sequence` of an LSTM whose h is projected after each step."""
    w_ih, w_hh, b_ih, b_hh = weights
    times = x.shape[0]
    gates = F.linear(x, w_ih, b_ih)
    outputs: list[Any] = [None] * times
    for t in reversed(range(times)) if back else range(times):
        h, c = lstm_step(_at(gates, t), state, w_hh, b_hh)
        state = (F.linear(h, projection), c)
        outputs[t] = M.reshape(state[0], shape=(1, *state[0].shape))
    return M.concat(*outputs, dim=0), tuple(M.reshape(s, shape=(1, *s.shape)) for s in state)


class RNNBase(Module):
    """Weights, checks and the loop over layers and directions."""

    _gates = {"RNN_TANH": 1, "RNN_RELU": 1, "LSTM": 4, "GRU": 3}  # noqa: RUF012  (never changed)

    def __init__(
        self,
        mode: str,
        input_size: int,
        hidden_size: int,
        num_layers: int = 1,
        bias: bool = True,
        batch_first: bool = False,
        dropout: float = 0.0,
        bidirectional: bool = False,
        proj_size: int = 0,
        device: Any = None,
        dtype: Any = None,
    ):
        super().__init__()
        if not 0 <= dropout <= 1:
            raise ValueError("dropout should be a number in range [0, 1] representing the probability")
        if dropout > 0 and num_layers == 1:
            warnings.warn(
                "dropout option adds dropout after all but last recurrent layer, so non-zero dropout expects "
                f"num_layers greater than 1, but got dropout={dropout} and num_layers={num_layers}",
                stacklevel=3,
            )
        if hidden_size <= 0 or num_layers <= 0:
            raise ValueError("hidden_size and num_layers must be greater than zero")
        if not 0 <= proj_size < hidden_size or (proj_size and mode != "LSTM"):
            raise ValueError("proj_size has to be a positive integer, smaller than hidden_size, and only for LSTM")
        self.mode, self.input_size, self.hidden_size = mode, input_size, hidden_size
        self.num_layers, self.bias, self.batch_first = num_layers, bias, batch_first
        self.dropout, self.bidirectional, self.proj_size = float(dropout), bidirectional, proj_size
        out = proj_size or hidden_size
        width = self._gates[mode] * hidden_size
        directions = 2 if bidirectional else 1
        for layer in range(num_layers):
            size = input_size if layer == 0 else out * directions
            for suffix in self._suffixes(layer):
                setattr(self, f"weight_ih{suffix}", empty_parameter((width, size), dtype, device))
                setattr(self, f"weight_hh{suffix}", empty_parameter((width, out), dtype, device))
                if bias:
                    setattr(self, f"bias_ih{suffix}", empty_parameter((width,), dtype, device))
                    setattr(self, f"bias_hh{suffix}", empty_parameter((width,), dtype, device))
                if proj_size:
                    setattr(self, f"weight_hr{suffix}", empty_parameter((proj_size, hidden_size), dtype, device))
        self.reset_parameters()

    def _suffixes(self, layer: int) -> list[str]:
        return [f"_l{layer}", f"_l{layer}_reverse"][: 2 if self.bidirectional else 1]

    def _weights(self, suffix: str) -> tuple[Any, ...]:
        own = self._parameters
        names = ("weight_ih", "weight_hh", "bias_ih", "bias_hh")
        return tuple(own.get(name + suffix) for name in names)

    @property
    def all_weights(self) -> list[list[Any]]:
        """The parameters of each layer and direction."""
        suffixes = [s for layer in range(self.num_layers) for s in self._suffixes(layer)]
        return [[p for name, p in self._parameters.items() if name.endswith(s)] for s in suffixes]

    def reset_parameters(self) -> None:
        """Draw all parameters anew: evenly from [-b, b] with b = 1 / sqrt(hidden_size)."""
        bound = 1.0 / math.sqrt(self.hidden_size)
        for p in self.parameters():
            uniform_(p, -bound, bound)

    def flatten_parameters(self) -> None:
        """Nothing to do; in PyTorch it arranges memory for cuDNN."""

    def forward(self, input: Tensor, hx: Any = None) -> Any:
        name = type(self).__name__
        check_dtype(name, input, self.weight_ih_l0)
        if input.ndim not in (2, 3) or input.shape[-1] != self.input_size:
            raise ShapeError(
                f"expects a 3-d input (or 2-d without a batch) with {self.input_size} features, got {input.shape}",
                op=name,
                hint=f"use input_size={input.shape[-1]}" if input.ndim in (2, 3) else None,
            )
        batched = input.ndim == 3
        if not batched:
            x = input.unsqueeze(1)
        else:
            x = input.transpose(0, 1) if self.batch_first else input
        if x.shape[0] == 0:
            raise ShapeError("expects a sequence of at least one step", op=name)
        states = self._initial(x, hx, batched, name)
        y, last = self._run(x, states)
        if not batched:
            y, last = y.squeeze(1), tuple(s.squeeze(1) for s in last)
        elif self.batch_first:
            y = y.transpose(0, 1)
        return y, last if self.mode == "LSTM" else last[0]

    def _initial(self, x: Tensor, hx: Any, batched: bool, name: str) -> list[State]:
        """The states before the first step of each layer and direction, (N, size)."""
        rows, n = self.num_layers * (2 if self.bidirectional else 1), x.shape[1]
        sizes = [self.proj_size or self.hidden_size]
        if self.mode == "LSTM":
            sizes.append(self.hidden_size)
        if hx is None:
            zeros = {size: M.full(shape=(n, size), value=0, dtype=x.dtype) for size in dict.fromkeys(sizes)}
            return [tuple([zeros[size] for size in sizes])] * rows
        given = hx if isinstance(hx, (tuple, list)) else (hx,)
        if len(given) != len(sizes):
            raise TwofoldError(f"expects {len(sizes)} state tensors, got {len(given)}", op=name)
        out = []
        for state, size in zip(given, sizes, strict=True):
            state = state if batched else state.unsqueeze(1)
            if state.shape != (rows, n, size):
                raise ShapeError(f"expects a state of shape {(rows, n, size)}, got {state.shape}", op=name)
            out.append(state)
        return [tuple([state[row] for state in out]) for row in range(rows)]

    def _run(self, x: Tensor, states: list[State]) -> tuple[Tensor, State]:
        ends: list[State] = []
        for layer in range(self.num_layers):
            outputs = []
            for back, suffix in enumerate(self._suffixes(layer)):
                start = states[len(ends)]
                weights, projection = self._weights(suffix), self._parameters.get(f"weight_hr{suffix}")
                if projection is None:
                    y, end = _sequence(self.mode, x, start, weights, bool(back))
                else:
                    y, end = _projected(x, start, weights, projection, bool(back))
                outputs.append(y)
                ends.append(end)
            x = outputs[0] if len(outputs) == 1 else M.concat(*outputs, dim=2)
            if self.dropout > 0 and layer < self.num_layers - 1:
                x = F.dropout(x, self.dropout, self.training)
        if len(ends) == 1:
            return x, tuple([E.copy(end) for end in ends[0]])
        return x, tuple([M.concat(*parts, dim=0) for parts in zip(*ends, strict=True)])

    def extra_repr(self) -> str:
        text = f"{self.input_size}, {self.hidden_size}"
        if self.proj_size != 0:
            text += f", proj_size={self.proj_size}"
        if self.num_layers != 1:
            text += f", num_layers={self.num_layers}"
        if self.bias is not True:
            text += f", bias={self.bias}"
        if self.batch_first is not False:
            text += f", batch_first={self.batch_first}"
        if self.dropout != 0:
            text += f", dropout={self.dropout}"
        if self.bidirectional is not False:
            text += f", bidirectional={self.bidirectional}"
        return text


class RNN(RNNBase):
    """Elman's network: h' = tanh(x W_ih + b_ih + h W_hh + b_hh), in layers.

    Shapes: input (T, N, input_size), (N, T, input_size) with `batch_first`, or (T, input_size);
        state (layers * directions, N, hidden_size) -> outputs (T, N, directions * hidden_size), last state.
    Args:
        nonlinearity: "tanh" or "relu".
        dropout: between layers, while training.
    Source: Elman 1990, "Finding Structure in Time".

    >>> import twofold as tw
    >>> y, h = tw.nn.RNN(3, 4)(tw.zeros(5, 2, 3))
    >>> y.shape, h.shape
    ((5, 2, 4), (1, 2, 4))
    """

    def __init__(
        self,
        input_size: int,
        hidden_size: int,
        num_layers: int = 1,
        nonlinearity: str = "tanh",
        bias: bool = True,
        batch_first: bool = False,
        dropout: float = 0.0,
        bidirectional: bool = False,
        device: Any = None,
        dtype: Any = None,
    ):
        if nonlinearity not in ("tanh", "relu"):
            raise ValueError(f"Unknown nonlinearity '{nonlinearity}'. Select from 'tanh' or 'relu'.")
        self.__dict__["nonlinearity"] = nonlinearity
        super().__init__(
            f"RNN_{nonlinearity.upper()}",
            input_size,
            hidden_size,
            num_layers,
            bias,
            batch_first,
            dropout,
            bidirectional,
            device=device,
            dtype=dtype,
        )


class LSTM(RNNBase):
    """Long short-term memory, in layers; the state is a pair (h, c).

    Shapes: as of `RNN`; with `proj_size` outputs and h have that size.
    Source: Hochreiter and Schmidhuber 1997, "Long Short-Term Memory"; Sak et al. 2014 for proj_size.

    >>> import twofold as tw
    >>> y, (h, c) = tw.nn.LSTM(3, 4, num_layers=2)(tw.zeros(5, 2, 3))
    >>> y.shape, h.shape, c.shape
    ((5, 2, 4), (2, 2, 4), (2, 2, 4))
    """

    def __init__(
        self,
        input_size: int,
        hidden_size: int,
        num_layers: int = 1,
        bias: bool = True,
        batch_first: bool = False,
        dropout: float = 0.0,
        bidirectional: bool = False,
        proj_size: int = 0,
        device: Any = None,
        dtype: Any = None,
    ):
        super().__init__(
            "LSTM",
            input_size,
            hidden_size,
            num_layers,
            bias,
            batch_first,
            dropout,
            bidirectional,
            proj_size,
            device=device,
            dtype=dtype,
        )


class GRU(RNNBase):
    """Gated recurrent units, in layers.

    Shapes: as of `RNN`.
    Source: Cho et al. 2014, "Learning Phrase Representations using RNN Encoder-Decoder".

    >>> import twofold as tw
    >>> y, h = tw.nn.GRU(3, 4, bidirectional=True)(tw.zeros(5, 2, 3))
    >>> y.shape, h.shape
    ((5, 2, 8), (2, 2, 4))
    """

    def __init__(
        self,
        input_size: int,
        hidden_size: int,
        num_layers: int = 1,
        bias: bool = True,
        batch_first: bool = False,
        dropout: float = 0.0,
        bidirectional: bool = False,
        device: Any = None,
        dtype: Any = None,
    ):
        super().__init__(
            "GRU",
            input_size,
            hidden_size,
            num_layers,
            bias,
            batch_first,
            dropout,
            bidirectional,
            device=device,
            dtype=dtype,
        )


class RNNCellBase(Module):
    """Weights and checks of one step."""

    _step: Any
    _states = 1

    def __init__(self, input_size: int, hidden_size: int, bias: bool, num_chunks: int, device: Any, dtype: Any):
        super().__init__()
        self.input_size, self.hidden_size, self.bias = input_size, hidden_size, bias
        width = num_chunks * hidden_size
        self.weight_ih = empty_parameter((width, input_size), dtype, device)
        self.weight_hh = empty_parameter((width, hidden_size), dtype, device)
        self.register_parameter("bias_ih", empty_parameter((width,), dtype, device) if bias else None)
        self.register_parameter("bias_hh", empty_parameter((width,), dtype, device) if bias else None)
        self.reset_parameters()

    def reset_parameters(self) -> None:
        """Draw all parameters anew: evenly from [-b, b] with b = 1 / sqrt(hidden_size)."""
        bound = 1.0 / math.sqrt(self.hidden_size) if self.hidden_size > 0 else 0
        for p in self.parameters():
            uniform_(p, -bound, bound)

    def _next(self, input: Tensor, hx: Any, step: Step) -> State:
        name = type(self).__name__
        check_dtype(name, input, self.weight_ih)
        if input.ndim not in (1, 2) or input.shape[-1] != self.input_size:
            raise ShapeError(
                f"expects an input (N, {self.input_size}) or ({self.input_size},), got {input.shape}", op=name
            )
        x = input if input.ndim == 2 else input.unsqueeze(0)
        shape = (x.shape[0], self.hidden_size)
        if hx is None:
            state: State = tuple(M.full(shape=shape, value=0, dtype=x.dtype) for _ in range(self._states))
        else:
            given = hx if isinstance(hx, (tuple, list)) else (hx,)
            state = tuple(s if s.ndim == 2 else s.unsqueeze(0) for s in given)
            for s in state:
                if s.shape != shape:
                    raise ShapeError(f"expects a state of shape {shape}, got {s.shape}", op=name)
        out = step(F.linear(x, self.weight_ih, self.bias_ih), state, self.weight_hh, self.bias_hh)
        return out if input.ndim == 2 else tuple(s.squeeze(0) for s in out)

    def extra_repr(self) -> str:
        text = f"{self.input_size}, {self.hidden_size}"
        if self.bias is not True:
            text += f", bias={self.bias}"
        nonlinearity = self.__dict__.get("nonlinearity", "tanh")
        return text if nonlinearity == "tanh" else text + f", nonlinearity={nonlinearity}"


class RNNCell(RNNCellBase):
    """One step of `RNN`.

    Shapes: input (N, input_size), state (N, hidden_size) -> (N, hidden_size); also without N.

    >>> import twofold as tw
    >>> tw.nn.RNNCell(3, 4)(tw.zeros(2, 3)).shape
    (2, 4)
    """

    def __init__(
        self,
        input_size: int,
        hidden_size: int,
        bias: bool = True,
        nonlinearity: str = "tanh",
        device: Any = None,
        dtype: Any = None,
    ):
        if nonlinearity not in ("tanh", "relu"):
            raise RuntimeError(f"Unknown nonlinearity: {nonlinearity}")
        super().__init__(input_size, hidden_size, bias, 1, device, dtype)
        self.nonlinearity = nonlinearity

    def forward(self, input: Tensor, hx: Tensor | None = None) -> Tensor:
        return self._next(input, hx, rnn_tanh_step if self.nonlinearity == "tanh" else rnn_relu_step)[0]


class LSTMCell(RNNCellBase):
    """One step of `LSTM`.

    Shapes: input (N, input_size), states (N, hidden_size) twice -> (h, c).

    >>> import twofold as tw
    >>> h, c = tw.nn.LSTMCell(3, 4)(tw.zeros(2, 3))
    >>> h.shape, c.shape
    ((2, 4), (2, 4))
    """

    _states = 2

    def __init__(self, input_size: int, hidden_size: int, bias: bool = True, device: Any = None, dtype: Any = None):
        super().__init__(input_size, hidden_size, bias, 4, device, dtype)

    def forward(self, input: Tensor, hx: tuple[Tensor, Tensor] | None = None) -> State:
        return self._next(input, hx, lstm_step)


class GRUCell(RNNCellBase):
    """One step of `GRU`.

    Shapes: input (N, input_size), state (N, hidden_size) -> (N, hidden_size).

    >>> import twofold as tw
    >>> tw.nn.GRUCell(3, 4)(tw.zeros(2, 3)).shape
    (2, 4)
    """

    def __init__(self, input_size: int, hidden_size: int, bias: bool = True, device: Any = None, dtype: Any = None):
        super().__init__(input_size, hidden_size, bias, 3, device, dtype)

    def forward(self, input: Tensor, hx: Tensor | None = None) -> Tensor:
        return self._next(input, hx, gru_step)[0]
