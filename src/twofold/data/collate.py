"""Collating: from a list of samples to one batch, keeping the samples' nesting."""

from __future__ import annotations

import copy
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import numpy as np

from ..autodiff.handle import Tensor
from ..ir.errors import ShapeError
from ..tensors.interop import from_numpy
from ..tensors.joining import stack


def default_collate(batch: Sequence[Any]) -> Any:
    """Samples stacked along a new first dimension, inside the same dicts, tuples and lists.

    Tensors and NumPy arrays are stacked; Python numbers become a tensor (int64, float64, bool);
    strings and bytes stay as they are; a tuple of samples becomes a list, as in PyTorch.

    Raises: ShapeError if tensors of one batch differ in shape; TypeError for what can't be collated.

    >>> default_collate([{"x": 1, "name": "a"}, {"x": 2, "name": "b"}])
    {'x': tensor([1, 2]), 'name': ['a', 'b']}
    """
    first = batch[0]
    if isinstance(first, Tensor):
        _check_kinds(batch, Tensor, "a tensor")
        _check_shapes(batch)
        return stack(list(batch), 0)
    if isinstance(first, (np.ndarray, np.generic)):
        return _stack_arrays(batch)
    if isinstance(first, (bool, int, float, complex)):
        _check_kinds(batch, (bool, int, float, complex, np.generic), "a number")
        return from_numpy(_numbers(batch))
    if isinstance(first, (str, bytes)):
        return batch
    nested = _nested(first, default_collate, batch)
    if nested is None:
        raise TypeError(
            f"default_collate takes tensors, NumPy arrays, numbers, strings, dicts, tuples and lists, "
            f"got {type(first).__module__}.{type(first).__name__}; {_mend(first)}"
        )
    return nested


def _nested(first: Any, collate: Callable[[Sequence[Any]], Any], batch: Sequence[Any]) -> Any:
    if isinstance(first, (Mapping, Sequence)):
        _check_kinds(batch, Mapping if isinstance(first, Mapping) else Sequence, f"a {type(first).__name__}")
    if isinstance(first, Mapping):
        _check_keys(first, batch)
        return _like(first, {key: collate([sample[key] for sample in batch]) for key in first})
    if isinstance(first, tuple) and hasattr(first, "_fields"):
        return type(first)(*(collate(column) for column in zip(*batch, strict=True)))
    if isinstance(first, Sequence):
        if len({len(sample) for sample in batch}) != 1:
            lengths = [len(sample) for sample in batch]
            raise ShapeError(
                f"the samples of a batch must be equally long sequences, got lengths {lengths}",
                op="default_collate",
                hint="pad them in the data set, or give the loader a collate_fn",
            )
        columns = [collate(column) for column in zip(*batch, strict=True)]
        return columns if type(first) in (tuple, list) else _like(first, columns)
    return None


def _like(first: Any, content: Any) -> Any:
    """`content` as the type of `first` where that type can be made so."""
    if type(first) in (dict, list):
        return content
    try:
        out = copy.copy(first)
        for key in content if isinstance(content, dict) else range(len(content)):
            out[key] = content[key]
        return out
    except Exception:
        try:
            return type(first)(content)
        except Exception:
            return content


def _check_keys(first: Mapping[Any, Any], batch: Sequence[Any]) -> None:
    for i, sample in enumerate(batch):
        missing = [key for key in first if key not in sample]
        if missing:
            raise KeyError(f"sample {i} of the batch lacks the keys {missing} that sample 0 has")


def _check_kinds(batch: Sequence[Any], kinds: Any, what: str) -> None:
    for i, sample in enumerate(batch):
        if not isinstance(sample, kinds):
            raise TypeError(
                f"default_collate got {what} in sample 0 of a batch and {type(sample).__name__} in sample {i}; "
                + _mend(sample)
            )


def _check_shapes(batch: Sequence[Any]) -> None:
    shape = batch[0].shape
    for i, sample in enumerate(batch):
        if sample.shape != shape:
            raise ShapeError(
                f"the samples of a batch must have equal shapes, got {tuple(shape)} for number 0 and "
                f"{tuple(sample.shape)} for number {i}",
                op="default_collate",
                hint="resize or pad them in the data set, or give the loader a collate_fn",
            )


def _stack_arrays(batch: Sequence[Any]) -> Tensor:
    array = np.asarray(batch[0])
    if (array.dtype.kind in "OSUMmV" and array.dtype.names is not None) or array.dtype.kind in "OSUMm":
        raise TypeError(f"default_collate takes arrays of numbers, got dtype {array.dtype}; convert them first")
    _check_shapes([np.asarray(sample) for sample in batch])
    return from_numpy(np.stack(batch))


def _numbers(batch: Sequence[Any]) -> np.ndarray[Any, Any]:
    for kind, dtype in ((complex, np.complex128), (float, np.float64), (bool, None), (int, np.int64)):
        if kind is bool and all(isinstance(x, bool) for x in batch):
            return np.array(batch, dtype=np.bool_)
        if dtype is not None and any(isinstance(x, kind) for x in batch):
            return np.array(batch, dtype=dtype)
    return np.array(batch)


def _mend(sample: Any) -> str:
    if type(sample).__module__.startswith("PIL"):
        return "give the data set transform=twofold.vision.transforms.ToTensor()"
    if sample is None:
        return "did a __getitem__ forget its return?"
    return "convert it in the data set, or give the loader a collate_fn"


def default_convert(data: Any) -> Any:
    """A sample with its NumPy arrays as tensors; what a loader does when `batch_size=None`.

    >>> import numpy as np
    >>> default_convert((np.arange(2), "a"))
    (tensor([0, 1]), 'a')
    """
    if isinstance(data, (Tensor, str, bytes)):
        return data
    if isinstance(data, (np.ndarray, np.generic)):
        array = np.asarray(data)
        return data if array.dtype.kind in "OSUMmV" else from_numpy(np.array(array))
    if isinstance(data, Mapping):
        return _like(data, {key: default_convert(value) for key, value in data.items()})
    if isinstance(data, tuple) and hasattr(data, "_fields"):
        return type(data)(*(default_convert(item) for item in data))
    if isinstance(data, tuple):
        return tuple(default_convert(item) for item in data)
    if isinstance(data, Sequence):
        return _like(data, [default_convert(item) for item in data])
    return data
