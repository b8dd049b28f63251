"""Data sets: things with samples, read by number (`Dataset`) or in order (`IterableDataset`)."""

from __future__ import annotations

import bisect
import math
from collections.abc import Iterable, Iterator, Sequence
from typing import Any, Generic, TypeVar

import numpy as np

from ..autodiff.handle import Tensor
from ..ir.errors import OutOfBoundsError, ShapeError
from ..tensors.interop import from_numpy
from ._random import draw_seed, philox

T = TypeVar("T", covariant=True)


class Dataset(Generic[T]):
    """Samples that are read by index: subclasses define `__getitem__` and, usually, `__len__`.

    A loader also looks for `__getitems__(indices) -> list of samples`, which may read many samples
    at once, and for `__getbatch__(indices) -> batch or None`, which may give a collated batch.

    >>> class Squares(Dataset):
    ...     def __getitem__(self, i): return i * i
    ...     def __len__(self): return 4
    >>> [Squares()[i] for i in range(4)]
    [0, 1, 4, 9]
    """

    def __getitem__(self, index: Any) -> T:
        raise NotImplementedError(f"{type(self).__name__} must define __getitem__")

    def __add__(self, other: Dataset[Any]) -> ConcatDataset[Any]:
        return ConcatDataset([self, other])


class IterableDataset(Dataset[T]):
    """Samples that come in order: subclasses define `__iter__`.

    A loader reads it from one thread whatever its `num_workers`, so that every sample comes once
    and in the same order; there is nothing to shard.

    >>> class Count(IterableDataset):
    ...     def __iter__(self): return iter(range(3))
    >>> list(Count() + Count())
    [0, 1, 2, 0, 1, 2]
    """

    def __iter__(self) -> Iterator[T]:
        raise NotImplementedError(f"{type(self).__name__} must define __iter__")

    def __add__(self, other: Dataset[Any]) -> ChainDataset:  # type: ignore[override]
        return ChainDataset([self, other])


class TensorDataset(Dataset[tuple[Tensor, ...]]):
    """Sample `i` is the tuple of `tensor[i]` for each of the tensors.

    Shapes: tensors (N, ...), the same N for all.
    Raises: ShapeError if the first dimensions differ.

    >>> import twofold as tw
    >>> TensorDataset(tw.tensor([1.0, 2.0]), tw.tensor([0, 1]))[1]
    (tensor(2.), tensor(1))
    """

    def __init__(self, *tensors: Tensor):
        if not tensors:
            raise ShapeError("a TensorDataset needs at least one tensor", op="TensorDataset")
        for t in tensors:
            if not isinstance(t, Tensor):
                raise TypeError(
                    f"TensorDataset takes tensors, got {type(t).__name__}; "
                    "make one with twofold.from_numpy(...) or twofold.tensor(...)"
                )
            if t.ndim == 0 or t.shape[0] != (tensors[0].shape or (None,))[0]:
                shapes = ", ".join(str(tuple(u.shape)) for u in tensors)
                raise ShapeError(
                    f"the tensors must have the same first dimension, got shapes {shapes}",
                    op="TensorDataset",
                    hint="the first dimension counts the samples",
                )
        self.tensors = tensors

    def __getitem__(self, index: Any) -> tuple[Tensor, ...]:
        return tuple(t[index] for t in self.tensors)

    def __getbatch__(self, indices: Sequence[int]) -> list[Tensor]:
        """The samples at `indices`, already collated: one indexing call per tensor."""
        index = from_numpy(np.asarray(indices, dtype=np.int64))
        return [t[index] for t in self.tensors]

    def __len__(self) -> int:
        return self.tensors[0].shape[0]


class StackDataset(Dataset[Any]):
    """Zips data sets: a sample is the tuple (or, from keywords, the dict) of theirs.

    Raises: ValueError if the lengths differ.
    """

    def __init__(self, *args: Dataset[Any], **kwargs: Dataset[Any]):
        if bool(args) == bool(kwargs):
            raise ValueError("StackDataset takes data sets either as arguments or as keywords")
        self.datasets: Any = kwargs or args
        sizes = [len(d) for d in (kwargs.values() or args)]  # type: ignore[arg-type]
        if len(set(sizes)) != 1:
            raise ValueError(f"the data sets of a StackDataset must be equally long, got lengths {sizes}")
        self._length = sizes[0]

    def __getitem__(self, index: Any) -> Any:
        if isinstance(self.datasets, dict):
            return {name: d[index] for name, d in self.datasets.items()}
        return tuple(d[index] for d in self.datasets)

    def __len__(self) -> int:
        return self._length


class ConcatDataset(Dataset[T]):
    """Data sets one after another."""

    def __init__(self, datasets: Iterable[Dataset[Any]]):
        self.datasets = list(datasets)
        if not self.datasets:
            raise ValueError("ConcatDataset needs at least one data set")
        self.cumulative_sizes: list[int] = []
        total = 0
        for d in self.datasets:
            if isinstance(d, IterableDataset):
                raise TypeError("ConcatDataset can't hold an IterableDataset; use ChainDataset")
            total += len(d)  # type: ignore[arg-type]
            self.cumulative_sizes.append(total)

    def __len__(self) -> int:
        return self.cumulative_sizes[-1]

    def __getitem__(self, index: int) -> T:
        i = index + len(self) if index < 0 else index
        if not 0 <= i < len(self):
            raise OutOfBoundsError(f"index {index} is outside a data set of {len(self)} samples")
        which = bisect.bisect_right(self.cumulative_sizes, i)
        return self.datasets[which][i - (self.cumulative_sizes[which - 1] if which else 0)]


class ChainDataset(IterableDataset[Any]):
    """Iterable data sets one after another."""

    def __init__(self, datasets: Iterable[Dataset[Any]]):
        self.datasets = list(datasets)

    def __iter__(self) -> Iterator[Any]:
        for d in self.datasets:
            if not isinstance(d, IterableDataset):
                raise TypeError(f"ChainDataset holds iterable data sets only, got {type(d).__name__}")
            yield from d

    def __len__(self) -> int:
        return sum(len(d) for d in self.datasets)  # type: ignore[misc,arg-type]


class Subset(Dataset[T]):
    """The samples of a data set at the given indices.

    >>> list(Subset([10, 20, 30], [2, 0]))
    [30, 10]
    """

    def __init__(self, dataset: Any, indices: Sequence[int]):
        self.dataset = dataset
        self.indices = indices

    def __getitem__(self, index: Any) -> T:
        if isinstance(index, list):
            return self.dataset[[self.indices[i] for i in index]]
        return self.dataset[self.indices[index]]

    def __getitems__(self, indices: list[int]) -> list[T]:
        inner = [self.indices[i] for i in indices]
        many = getattr(self.dataset, "__getitems__", None)
        return many(inner) if many is not None else [self.dataset[i] for i in inner]

    def __getbatch__(self, indices: Sequence[int]) -> Any:
        batch = getattr(self.dataset, "__getbatch__", None)
        return None if batch is None else batch([self.indices[i] for i in indices])

    def __len__(self) -> int:
        return len(self.indices)


def random_split(dataset: Dataset[T], lengths: Sequence[int | float], generator: Any = None) -> list[Subset[T]]:
    """Split at random into parts of the given lengths, or fractions that add up to 1.

    Samples that fractions leave over go one each to the first parts.
    Raises: ValueError if the lengths do not add up to the length of the data set.

    >>> [len(part) for part in random_split(range(10), [0.7, 0.3])]
    [7, 3]
    """
    n = len(dataset)  # type: ignore[arg-type]
    fractions = math.isclose(sum(lengths), 1)
    sizes = _sizes_of_fractions(n, lengths) if fractions else [int(k) for k in lengths]
    if sum(sizes) != n:
        raise ValueError(f"lengths {list(lengths)} add up to {sum(sizes)}, but the data set has {n} samples")
    order = philox(draw_seed(generator)).permutation(n).tolist()
    ends = np.cumsum(sizes).tolist()
    return [Subset(dataset, order[end - size : end]) for size, end in zip(sizes, ends, strict=True)]


def _sizes_of_fractions(n: int, fractions: Sequence[float]) -> list[int]:
    if any(not 0 <= f <= 1 for f in fractions):
        raise ValueError(f"fractions must be between 0 and 1, got {list(fractions)}")
    sizes = [math.floor(n * f) for f in fractions]
    for i in range(n - sum(sizes)):
        sizes[i % len(sizes)] += 1
    return sizes
