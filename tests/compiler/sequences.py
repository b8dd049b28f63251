"""Operands of recurrent layers and of their derivatives."""

import numpy as np

from twofold.ir.dtypes import BY_NAME

NAMES = ("rnn", "rnn_grad", "lstm", "lstm_grad", "gru", "gru_grad")


def operands(name, steps, n, k, dtype, seed=0):
    """Arrays of the size that states and gates of a layer have."""
    shapes = {
        "rnn": [(steps, n, k), (n, k), (k, k)],
        "rnn_grad": [(steps, n, k), (steps, n, k), (k, k)],
        "lstm": [(steps, n, 4 * k), (n, k), (n, k), (4 * k, k)],
        "lstm_grad": [(steps, n, k)] * 2
        + [(steps, n, 4 * k), (steps, n, k), (steps, n, 4 * k), (n, k), (4 * k, k)],
        "gru": [(steps, n, 3 * k), (n, k), (3 * k, k), (3 * k,)],
        "gru_grad": [(steps, n, k), (steps, n, 4 * k), (steps, n, k), (steps, n, 4 * k), (n, k), (3 * k, k)],
    }[name]
    rng = np.random.default_rng(seed)
    arrays = [rng.uniform(-1, 1, s) for s in shapes]
    weight = 2 if name in ("rnn", "rnn_grad", "gru") else len(arrays) - 1
    arrays[weight] /= np.sqrt(k)
    return [a.astype(BY_NAME[dtype].numpy) for a in arrays]


def every_params(name):
    for reverse in (False, True):
        for kind in ("tanh", "relu") if name.startswith("rnn") else (None,):
            yield {"reverse": reverse} | ({} if kind is None else {"nonlinearity": kind})
