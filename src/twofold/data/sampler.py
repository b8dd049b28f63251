"""Samplers: the order in which a loader reads the samples.

Note [Seeds of samplers]
A sampler of this file is a function `indices(seed)`: the same seed gives the same order. Iterating
draws a seed from its generator. A loader calls `indices` itself with the seed of its epoch, which is
how it can go on in the middle of an epoch after a restart. Samplers of users define `__iter__`
only, as in PyTorch; the loader then iterates them.
"""

from __future__ import annotations

import itertools
from collections.abc import Iterable, Iterator, Sequence, Sized
from typing import Any

import numpy as np

from ._random import draw_seed, philox


class Sampler:
    """Base of all samplers: iterating gives indices; subclasses define `__iter__`, usually `__len__`.

    Attributes:
        repeats: whether one pass may give an index more than once.
    """

    generator: Any = None
    repeats: bool = False

    def __init__(self, data_source: Any = None):
        pass

    def __iter__(self) -> Iterator[Any]:
        return self.indices(draw_seed(self.generator))

    def indices(self, seed: int) -> Iterator[Any]:
        """The indices of one pass, which depend on the seed only."""
        raise NotImplementedError(f"{type(self).__name__} must define __iter__")


def iterate(sampler: Iterable[Any], seed: int) -> Iterator[Any]:
    """One pass of `sampler`, seeded if it is one of ours; see Note [Seeds of samplers]."""
    if isinstance(sampler, Sampler) and type(sampler).__iter__ is Sampler.__iter__:
        return sampler.indices(seed)
    return iter(sampler)


class SequentialSampler(Sampler):
    """0, 1, 2 ... in order.

    >>> list(SequentialSampler(range(3)))
    [0, 1, 2]
    """

    def __init__(self, data_source: Sized):
        self.data_source = data_source

    def indices(self, seed: int) -> Iterator[int]:
        return iter(range(len(self.data_source)))

    def __len__(self) -> int:
        return len(self.data_source)


class RandomSampler(Sampler):
    """All indices in random order, or `num_samples` of them, with or without replacement.

    Without replacement, `num_samples` beyond the length goes on with a further random order.
    """

    def __init__(
        self,
        data_source: Sized,
        replacement: bool = False,
        num_samples: int | None = None,
        generator: Any = None,
    ):
        if not isinstance(replacement, bool):
            raise TypeError(f"replacement must be a bool, got {replacement!r}")
        if num_samples is not None and (not isinstance(num_samples, int) or num_samples <= 0):
            raise ValueError(f"num_samples must be a positive int, got {num_samples!r}")
        self.data_source = data_source
        self.replacement = replacement
        self._num_samples = num_samples
        self.generator = generator

    @property
    def num_samples(self) -> int:
        """Number of indices in one pass."""
        return len(self.data_source) if self._num_samples is None else self._num_samples

    @property
    def repeats(self) -> bool:  # type: ignore[override]
        return self.replacement or self.num_samples > len(self.data_source)

    def indices(self, seed: int) -> Iterator[int]:
        n, rng = len(self.data_source), philox(seed)
        if n == 0:
            return iter(())
        if self.replacement:
            return iter(rng.integers(0, n, self.num_samples).tolist())
        orders = (rng.permutation(n).tolist() for _ in itertools.count())
        return itertools.islice(itertools.chain.from_iterable(orders), self.num_samples)

    def __len__(self) -> int:
        return self.num_samples


class SubsetRandomSampler(Sampler):
    """The given indices in random order."""

    def __init__(self, indices: Sequence[int], generator: Any = None):
        self._indices = indices
        self.generator = generator

    def indices(self, seed: int) -> Iterator[int]:
        return (self._indices[i] for i in philox(seed).permutation(len(self._indices)).tolist())

    def __len__(self) -> int:
        return len(self._indices)


class WeightedRandomSampler(Sampler):
    """`num_samples` indices, each drawn with a probability proportional to its weight.

    Raises: ValueError if a weight is negative or not finite, if all are zero, or if, without
        replacement, fewer than `num_samples` are positive.
    """

    def __init__(
        self, weights: Sequence[float] | Any, num_samples: int, replacement: bool = True, generator: Any = None
    ):
        if not isinstance(num_samples, int) or isinstance(num_samples, bool) or num_samples <= 0:
            raise ValueError(f"num_samples must be a positive int, got {num_samples!r}")
        if not isinstance(replacement, bool):
            raise TypeError(f"replacement must be a bool, got {replacement!r}")
        array = np.asarray(weights, dtype=np.float64)
        if array.ndim != 1:
            raise ValueError(f"weights must be 1-d, got shape {array.shape}")
        if not np.isfinite(array).all() or (array < 0).any() or not array.any():
            raise ValueError("weights must be finite and not negative, and at least one positive")
        if not replacement and np.count_nonzero(array) < num_samples:
            raise ValueError(
                f"without replacement num_samples={num_samples} needs as many positive weights, "
                f"got {np.count_nonzero(array)}"
            )
        self.weights = array
        self.num_samples = num_samples
        self.replacement = replacement
        self.repeats = replacement
        self.generator = generator

    def indices(self, seed: int) -> Iterator[int]:
        p = self.weights / self.weights.sum()
        return iter(philox(seed).choice(len(p), self.num_samples, self.replacement, p).tolist())

    def __len__(self) -> int:
        return self.num_samples


class BatchSampler(Sampler):
    """Lists of `batch_size` indices of another sampler.

    >>> list(BatchSampler(range(5), batch_size=2, drop_last=False))
    [[0, 1], [2, 3], [4]]
    """

    def __init__(self, sampler: Iterable[Any], batch_size: int, drop_last: bool = False):
        if not isinstance(batch_size, int) or isinstance(batch_size, bool) or batch_size <= 0:
            raise ValueError(f"batch_size must be a positive int, got {batch_size!r}")
        if not isinstance(drop_last, bool):
            raise ValueError(f"drop_last must be a bool, got {drop_last!r}")
        self.sampler = sampler
        self.batch_size = batch_size
        self.drop_last = drop_last

    @property
    def generator(self) -> Any:
        """The generator of the sampler inside."""
        return getattr(self.sampler, "generator", None)

    @property
    def repeats(self) -> bool:  # type: ignore[override]
        return getattr(self.sampler, "repeats", False)

    def indices(self, seed: int) -> Iterator[list[Any]]:
        inner = iterate(self.sampler, seed)
        while batch := list(itertools.islice(inner, self.batch_size)):
            if len(batch) == self.batch_size or not self.drop_last:
                yield batch

    def __len__(self) -> int:
        n = len(self.sampler)  # type: ignore[arg-type]
        return n // self.batch_size if self.drop_last else -(-n // self.batch_size)
