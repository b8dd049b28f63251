"""DataLoader: batches of a data set, read ahead by threads.

Note [Same batches for any number of workers]
What a batch holds is settled before any thread sees it: the main thread draws one seed per pass and
takes the indices from the sampler in order. Around the reading of a sample the loader sets a random
source keyed by (seed, index); `sample_rng()` gives it to transforms. A sampler that may repeat
indices adds the sample's position to the key, so that the copies differ.
An iterable data set is read by one thread, in order; its samples are keyed by position.
"""

from __future__ import annotations

import itertools
import math
import warnings
import weakref
from collections import deque
from collections.abc import Callable, Iterable, Iterator, Sequence
from typing import Any

from ..ir.errors import TwofoldWarning
from ._random import draw_seed, sample_source
from ._workers import Job, WorkerPool
from .collate import default_collate, default_convert
from .dataset import IterableDataset, Subset
from .sampler import BatchSampler, RandomSampler, SequentialSampler, iterate

_END = object()


class DataLoader:
    """Iterates over a data set in batches; every pass over it is one epoch.

    Args:
        dataset: has `__getitem__` and `__len__`, or is an IterableDataset.
        batch_size: samples per batch; None gives the samples one by one, not collated.
        shuffle: read the samples in a new random order every epoch.
        sampler: gives the indices, instead of `shuffle`.
        batch_sampler: gives lists of indices, instead of batch_size, shuffle, sampler, drop_last.
        num_workers: number of threads that read ahead; 0 reads in the calling thread. The batches
            are the same for any number.
        collate_fn: makes a batch from a list of samples.
        pin_memory: accepted for PyTorch's sake; there is nothing to pin.
        drop_last: leave out the last batch if it is not full.
        timeout: seconds to wait for a batch of a worker; 0 waits for ever.
        worker_init_fn: called with the worker's number when a thread starts.
        generator: draws the seed of each epoch; the global generator if None.
        prefetch_factor: batches that each worker reads ahead, 2 if None.
        persistent_workers: keep the threads from one epoch to the next.

    Raises: ValueError for options that exclude each other. An error of the data set comes out of
        the loop with the number of the sample as a note.

    >>> [batch.tolist() for batch in DataLoader(range(5), batch_size=2)]
    [[0, 1], [2, 3], [4]]
    """

    def __init__(
        self,
        dataset: Any,
        batch_size: int | None = 1,
        shuffle: bool | None = None,
        sampler: Iterable[Any] | None = None,
        batch_sampler: Iterable[Sequence[Any]] | None = None,
        num_workers: int = 0,
        collate_fn: Callable[[list[Any]], Any] | None = None,
        pin_memory: bool = False,
        drop_last: bool = False,
        timeout: float = 0,
        worker_init_fn: Callable[[int], None] | None = None,
        multiprocessing_context: Any = None,
        generator: Any = None,
        *,
        prefetch_factor: int | None = None,
        persistent_workers: bool = False,
        pin_memory_device: str = "",
        in_order: bool = True,
    ):
        _check_workers(num_workers, timeout, prefetch_factor, persistent_workers)
        self._iterable = isinstance(dataset, IterableDataset)
        _check_sampling(self._iterable, batch_size, shuffle, sampler, batch_sampler, drop_last)
        self.dataset = dataset
        self.num_workers = num_workers
        self.prefetch_factor = 2 if prefetch_factor is None and num_workers else prefetch_factor
        self.pin_memory = pin_memory
        self.timeout = timeout
        self.worker_init_fn = worker_init_fn
        self.generator = generator
        self.persistent_workers = persistent_workers
        if batch_sampler is not None:
            batch_size, drop_last = None, False
        self.batch_size = batch_size
        self.drop_last = drop_last
        if sampler is None and not self._iterable:
            sampler = RandomSampler(dataset, generator=generator) if shuffle else SequentialSampler(dataset)
        if batch_sampler is None and batch_size is not None and not self._iterable:
            assert sampler is not None
            batch_sampler = BatchSampler(sampler, batch_size, drop_last)
        self.sampler = sampler
        self.batch_sampler = batch_sampler
        if collate_fn is None:
            collate_fn = default_collate if self._batched else default_convert
        self.collate_fn = collate_fn
        self._pool: WorkerPool | None = None
        self._progress: dict[str, int] = {}  # of the newest pass: its seed and the batches given out
        self._resume: dict[str, int] | None = None

    @property
    def _batched(self) -> bool:
        return self.batch_sampler is not None or self.batch_size is not None

    @property
    def _order(self) -> Any:
        return self.batch_sampler if self.batch_sampler is not None else self.sampler

    def __iter__(self) -> LoaderIterator:
        resume, self._resume = self._resume, None
        if resume is None:
            generator = self.generator
            if generator is None:
                generator = getattr(self._order, "generator", None)
            resume = {"seed": draw_seed(generator), "batches": 0}
        self._progress = resume
        return LoaderIterator(self, resume)

    def __len__(self) -> int:
        """Number of batches; for an iterable data set as its own length tells."""
        if not self._iterable:
            return len(self._order)
        n = len(self.dataset)
        if self.batch_size is None:
            return n
        return n // self.batch_size if self.drop_last else math.ceil(n / self.batch_size)

    def state_dict(self) -> dict[str, Any]:
        """Where the newest pass stands: enough to go on with the batch after the last one given out.

        Exact for the samplers of `twofold.data.samplers`, whose order depends on the seed only.
        """
        state: dict[str, Any] = dict(self._resume or self._progress)
        if self.generator is not None:
            state["generator"] = self.generator.get_state().tolist()
        return state

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Make the next pass go on where `state_dict()` was taken; a finished pass starts anew."""
        if state.get("generator") is not None and self.generator is not None:
            current = self.generator.get_state()
            self.generator.set_state(type(current)(state["generator"], dtype=current.dtype))
        self._resume = {k: int(state[k]) for k in ("seed", "batches")} if "seed" in state else None

    def _reader(self, seed: int, skip: int) -> Callable[[Any], Any]:
        return _IterableReader(self, seed, skip) if self._iterable else _Reader(self, seed)

    def _jobs(self, seed: int, skip: int) -> Iterator[Any]:
        """What to read, batch by batch: `(position of its first sample, indices)`."""
        if self._iterable:
            return itertools.count()
        return itertools.islice(_with_positions(iterate(self._order, seed), self._batched), skip, None)

    def _worker_pool(self) -> WorkerPool:
        """Threads for one pass, or those of the loader if it keeps them."""
        if self._pool is not None:
            return self._pool
        num_workers = 1 if self._iterable else self.num_workers
        pool = WorkerPool(num_workers, self.dataset, self.worker_init_fn)
        if self.persistent_workers and not self._iterable:
            self._pool = pool
        return pool


class LoaderIterator:
    """One pass over a loader; `close()` stops its threads early, as does letting it go."""

    def __init__(self, loader: DataLoader, progress: dict[str, int]):
        self._loader = loader
        self._progress = progress
        self._read = loader._reader(progress["seed"], progress["batches"])
        self._jobs = loader._jobs(progress["seed"], progress["batches"])
        self._pending: deque[Job] = deque()
        self._done = False
        self._pool: WorkerPool | None = None
        if loader.num_workers:
            self._pool = loader._worker_pool()
            self._ahead = (loader.prefetch_factor or 2) * loader.num_workers
            weakref.finalize(self, _cancel, self._pending, None if loader._pool is self._pool else self._pool)
            self._fill()

    def __iter__(self) -> LoaderIterator:
        return self

    def __next__(self) -> Any:
        if self._done:
            raise StopIteration
        try:
            batch = self._next_ahead() if self._pool is not None else self._read(next(self._jobs))
        except StopIteration:
            self._finish()
            raise
        except Exception:
            self._progress["batches"] += 1  # the next call goes on with the batch after it
            raise
        except BaseException:
            self.close()
            raise
        if batch is _END:
            self._finish()
            raise StopIteration
        self._progress["batches"] += 1
        self._check_length()
        return batch

    def __len__(self) -> int:
        return len(self._loader)

    def _fill(self) -> None:
        assert self._pool is not None
        while len(self._pending) < self._ahead:
            try:
                what = next(self._jobs)
            except StopIteration:
                return
            except Exception as e:  # of the sampler: raised when its turn comes
                self._pending.append(Job.failed(e))
                return
            self._pending.append(self._pool.submit(self._read, what))

    def _next_ahead(self) -> Any:
        self._fill()
        if not self._pending:
            raise StopIteration
        job = self._pending.popleft()
        return job.result(self._loader.timeout)

    def _finish(self) -> None:
        if self._loader._progress is self._progress:
            self._loader._progress = {}
        self.close()

    def close(self) -> None:
        """Stop reading ahead; the pass is over."""
        self._done = True
        if self._pool is not None:
            _cancel(self._pending, None if self._loader._pool is self._pool else self._pool)
            self._pool = None

    def _check_length(self) -> None:
        loader = self._loader
        if not loader._iterable or self._progress.get("warned") or not hasattr(type(loader.dataset), "__len__"):
            return
        if self._progress["batches"] > len(loader):
            self._progress["warned"] = 1
            warnings.warn(
                f"the iterable data set says it has {len(loader.dataset)} samples, which makes {len(loader)} "
                "batches, but gave more; correct its __len__",
                TwofoldWarning,
                stacklevel=3,
            )


def _cancel(pending: deque[Job], pool: WorkerPool | None) -> None:
    for job in pending:
        job.cancelled = True
    pending.clear()
    if pool is not None:
        pool.close()


def _with_positions(order: Iterator[Any], batched: bool) -> Iterator[tuple[int, Any]]:
    position = 0
    for indices in order:
        indices = list(indices) if batched else indices
        yield position, indices
        position += len(indices) if batched else 1


class _Reader:
    """Reads and collates the samples of one batch of a data set with indices, in any thread."""

    def __init__(self, loader: DataLoader, seed: int):
        self.dataset = loader.dataset
        self.collate = loader.collate_fn
        self.batched = loader._batched
        self.seed = seed
        self.repeats = bool(getattr(loader._order, "repeats", False))
        self.whole = _method(self.dataset, "__getbatch__") if self.collate is default_collate else None
        self.many = _method(self.dataset, "__getitems__")

    def __call__(self, what: tuple[int, Any]) -> Any:
        position, indices = what
        if not self.batched:
            sample = self._one(position, indices)
            with _note("converting sample", indices):
                return self.collate(sample)
        if self.whole is not None:
            with _note("loading samples", indices):
                batch = self.whole(indices)
            if batch is not None:
                return batch
        samples = self._samples(position, indices)
        with _note("collating samples", indices):
            return self.collate(samples)

    def _samples(self, position: int, indices: list[Any]) -> list[Any]:
        if self.many is None:
            return [self._one(position + k, i) for k, i in enumerate(indices)]
        with _note("loading samples", indices), sample_source(self.seed, ("batch", position)):
            return self.many(indices)

    def _one(self, position: int, index: Any) -> Any:
        with _note("loading sample", index), sample_source(self.seed, index, position if self.repeats else 0):
            return self.dataset[index]


def _method(dataset: Any, name: str) -> Any:
    """The method if the data set has it; a Subset has it if the data set inside has it."""
    inner = dataset
    while isinstance(inner, Subset):
        inner = inner.dataset
    return getattr(dataset, name, None) if hasattr(inner, name) else None


class _IterableReader:
    """Reads the next batch of an iterable data set; one thread calls it, in order."""

    def __init__(self, loader: DataLoader, seed: int, skip: int):
        self.dataset = loader.dataset
        self.collate = loader.collate_fn
        self.batch_size = loader.batch_size
        self.drop_last = loader.drop_last
        self.seed = seed
        self.skip = skip * (self.batch_size or 1)
        self.position = 0
        self.samples: Iterator[Any] | None = None

    def __call__(self, _number: int) -> Any:
        if self.samples is None:
            self.samples = iter(self.dataset)
            self._take(self.skip)
        first = self.position
        got = self._take(self.batch_size or 1)
        if not got or (self.drop_last and len(got) < (self.batch_size or 1)):
            return _END
        with _note("collating samples", list(range(first, self.position))):
            return self.collate(got if self.batch_size is not None else got[0])

    def _take(self, n: int) -> list[Any]:
        got: list[Any] = []
        assert self.samples is not None
        for _ in range(n):
            with _note("loading sample number", self.position), sample_source(self.seed, self.position):
                sample = next(self.samples, _END)
            if sample is _END:
                break
            got.append(sample)
            self.position += 1
        return got


class _note:
    """Inside: an error gets a note that says which samples it came from.

    A StopIteration would end the user's loop without a word, so it becomes a RuntimeError.
    """

    __slots__ = ("verb", "what")

    def __init__(self, verb: str, what: Any):
        self.verb = verb
        self.what = what

    def __enter__(self) -> None:
        pass

    def __exit__(self, kind: Any, error: BaseException | None, traceback: Any) -> None:
        if error is None:
            return
        text = f"while {self.verb} {_shorten(self.what)}"
        if isinstance(error, StopIteration):
            raise RuntimeError(f"the data set or the collate_fn raised StopIteration {text}") from error
        error.add_note(text)


def _shorten(indices: Any) -> str:
    if not isinstance(indices, list):
        return repr(indices)
    shown = ", ".join(repr(i) for i in indices[:8])
    return f"[{shown}{', ...' if len(indices) > 8 else ''}]"


def _check_workers(num_workers: int, timeout: float, prefetch_factor: int | None, persistent: bool) -> None:
    if num_workers < 0:
        raise ValueError(f"num_workers must not be negative, got {num_workers}; 0 reads in the calling thread")
    if timeout < 0:
        raise ValueError(f"timeout must not be negative, got {timeout}")
    if prefetch_factor is not None and (prefetch_factor < 1 or num_workers == 0):
        raise ValueError(
            f"prefetch_factor={prefetch_factor} needs num_workers > 0 and must be positive; "
            "without workers nothing is read ahead"
        )
    if persistent and num_workers == 0:
        raise ValueError("persistent_workers=True needs num_workers > 0")


def _check_sampling(
    iterable: bool, batch_size: int | None, shuffle: Any, sampler: Any, batch_sampler: Any, drop_last: bool
) -> None:
    if iterable and (shuffle or sampler is not None or batch_sampler is not None):
        raise ValueError(
            "an IterableDataset settles the order itself: shuffle, sampler and batch_sampler can't be used with it"
        )
    if sampler is not None and shuffle:
        raise ValueError("sampler and shuffle exclude each other; leave shuffle out")
    if batch_sampler is not None and (batch_size != 1 or shuffle or sampler is not None or drop_last):
        raise ValueError("batch_sampler excludes batch_size, shuffle, sampler and drop_last")
    if batch_size is None and drop_last:
        raise ValueError("batch_size=None gives single samples, so there is no last batch to drop")
    if batch_size is not None and batch_size < 1:
        raise ValueError(f"batch_size must be a positive int or None, got {batch_size!r}")
