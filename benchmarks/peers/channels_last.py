"""PyTorch's weights and batches in the layout of frameworks that keep channels last and weights (in, out)."""

from __future__ import annotations

import numpy as np

from . import Array, Task

_EMBEDDINGS = ("tokens", "places", "tables")


def weights(task: Task) -> dict[str, Array]:
    """Convolutions as HWIO, layers as (in, out), embeddings as they are."""
    out = {}
    for name, w in task.state.items():
        if name.endswith("num_batches_tracked"):
            continue
        if w.ndim == 4:
            w = w.transpose(2, 3, 1, 0)
        elif w.ndim == 2 and not name.startswith(_EMBEDDINGS):
            if task.name.startswith("cnn") and w.shape[1] == 64 * 7 * 7:  # reads flattened pictures
                w = w.reshape(-1, 64, 7, 7).transpose(0, 2, 3, 1).reshape(len(w), -1)
            w = w.T
        out[name] = np.ascontiguousarray(w)
    return out


def batch(task: Task) -> tuple[Array, ...]:
    """Pictures as NHWC, indices as int32."""
    out = []
    for a in task.batch:
        if a.ndim == 4:
            a = a.transpose(0, 2, 3, 1)
        out.append(np.ascontiguousarray(a, np.int32 if a.dtype.kind == "i" else None))
    return tuple(out)
