"""DataLoader: the same batches for any number of workers, errors, endings, resumption."""

import gc
import threading
import time
import warnings

import numpy as np
import pytest

import twofold as tw
from twofold.data import (
    BatchSampler,
    DataLoader,
    Dataset,
    IterableDataset,
    RandomSampler,
    Sampler,
    StackDataset,
    Subset,
    TensorDataset,
    WeightedRandomSampler,
    get_worker_info,
    random_split,
    sample_rng,
)
from twofold.ir.errors import TwofoldWarning

WORKERS = [0, 1, 3]


class Noisy(Dataset):
    """Samples that draw from both sources, and take unequally long."""

    def __init__(self, n=23):
        self.n = n

    def __getitem__(self, i):
        if i % 5 == 0:
            time.sleep(0.002)
        return i, sample_rng().random(), sample_rng().integers(1000), tw.rand(2)

    def __len__(self):
        return self.n


class NoisyStream(IterableDataset):
    def __init__(self, n=11):
        self.n = n

    def __iter__(self):
        for i in range(self.n):
            yield i, sample_rng().random(), tw.randn(1)


def listed(loader):
    return [[x.tolist() if isinstance(x, tw.Tensor) else x for x in batch] for batch in loader]


def loader_threads():
    return [t for t in threading.enumerate() if t.name.startswith("twofold-loader")]


def wait_for_no_threads():
    for _ in range(500):
        if not loader_threads():
            return True
        time.sleep(0.01)
    return False


@pytest.fixture(autouse=True)
def no_threads_are_left():
    yield
    gc.collect()
    assert wait_for_no_threads(), loader_threads()


# --- the same batches


@pytest.mark.parametrize(
    "options",
    [
        {"batch_size": 4},
        {"batch_size": 4, "shuffle": True},
        {"batch_size": 5, "shuffle": True, "drop_last": True},
        {"batch_size": None, "shuffle": True},
        {"sampler": lambda: WeightedRandomSampler([1.0] * 23, 30), "batch_size": 3},
        {"batch_sampler": lambda: BatchSampler(RandomSampler(range(23), replacement=True), 4)},
    ],
    ids=["batches", "shuffled", "drop_last", "no_batches", "sampler", "batch_sampler"],
)
def test_batches_do_not_depend_on_workers(options):
    def run(workers):
        tw.manual_seed(11)
        made = {k: v() if callable(v) else v for k, v in options.items()}
        loader = DataLoader(Noisy(), num_workers=workers, **made)
        return listed(loader), listed(loader)

    first = run(0)
    assert first[0] != first[1]  # a new epoch draws anew
    for workers in (1, 2, 5):
        assert run(workers) == first


@pytest.mark.parametrize("batch_size", [None, 1, 4])
def test_streams_do_not_depend_on_workers(batch_size):
    def run(workers):
        tw.manual_seed(2)
        loader = DataLoader(NoisyStream(), batch_size=batch_size, num_workers=workers)
        return listed(loader), listed(loader)

    first = run(0)
    assert first[0] != first[1]
    assert len(first[0]) == {None: 11, 1: 11, 4: 3}[batch_size]
    for workers in (1, 4):
        assert run(workers) == first


def test_augmentation_is_keyed_by_the_sample_not_by_the_batch():
    def run(batch_size):
        g = tw.Generator().manual_seed(4)
        loader = DataLoader(Noisy(), batch_size=batch_size, shuffle=True, generator=g)
        return {i: (a, b) for batch in listed(loader) for i, a, b in zip(*batch[:3], strict=True)}

    assert run(4) == run(7)


def test_repeated_samples_differ():
    loader = DataLoader(Noisy(1), batch_size=6, sampler=RandomSampler(range(1), replacement=True, num_samples=6))
    ((_, noise, _, _),) = listed(loader)
    assert len(set(noise)) == 6


def test_drawing_in_workers_leaves_the_global_generator_alone():
    def run(workers):
        tw.manual_seed(0)
        total = 0.0
        for _ in DataLoader(Noisy(), batch_size=4, num_workers=workers):
            total = tw.rand(1).item()
        return total

    assert run(0) == run(3)


def test_seed_repeats_the_epochs():
    loader = DataLoader(range(30), batch_size=7, shuffle=True)
    tw.manual_seed(1)
    first = [b.tolist() for b in loader]
    other = [b.tolist() for b in loader]
    tw.manual_seed(1)
    assert [b.tolist() for b in loader] == first != other
    assert sorted(i for batch in first for i in batch) == list(range(30))


def test_sample_rng_outside_follows_the_seed():
    tw.manual_seed(9)
    a, b = sample_rng().random(), sample_rng().random()
    tw.manual_seed(9)
    assert (sample_rng().random(), sample_rng().random()) == (a, b)
    assert a != b


# --- forms of batches


@pytest.mark.parametrize("workers", WORKERS)
def test_lengths_and_dropping(workers):
    def lengths(**options):
        loader = DataLoader(range(10), num_workers=workers, **options)
        got = [len(b) for b in loader]
        assert len(loader) == len(got)
        return got

    assert lengths(batch_size=4) == [4, 4, 2]
    assert lengths(batch_size=4, drop_last=True) == [4, 4]
    assert lengths(batch_size=10) == [10]
    assert lengths(batch_size=20) == [10]
    assert lengths(batch_size=20, drop_last=True) == []
    assert list(DataLoader([], num_workers=workers)) == []


def test_own_sampler_and_batch_sampler():
    class Backwards(Sampler):
        def __iter__(self):
            return iter(range(4, -1, -1))

        def __len__(self):
            return 5

    assert [b.tolist() for b in DataLoader(range(5), 2, sampler=Backwards())] == [[4, 3], [2, 1], [0]]
    assert [b.tolist() for b in DataLoader(range(5), batch_sampler=[[0, 4], [1]])] == [[0, 4], [1]]
    loader = DataLoader(range(5), sampler=["a", 2], collate_fn=list, batch_size=1)
    with pytest.raises(TypeError):
        list(loader)

    class Changed(RandomSampler):
        def __iter__(self):
            return iter([1, 1])

    assert [b.tolist() for b in DataLoader(range(5), 2, sampler=Changed(range(5)))] == [[1, 1]]


def test_unbatched():
    out = list(DataLoader([np.zeros(2), np.ones(2)], batch_size=None))
    assert isinstance(out[1], tw.Tensor) and out[1].tolist() == [1.0, 1.0]
    assert list(DataLoader(["a", "b"], batch_size=None, collate_fn=str.upper)) == ["A", "B"]


def test_tensor_dataset_takes_one_indexing_call_per_batch(monkeypatch):
    d = TensorDataset(tw.arange(20).reshape(10, 2), tw.arange(10))
    monkeypatch.setattr(TensorDataset, "__getitem__", None)
    for data in (d, Subset(d, list(range(9, -1, -1)))):
        batch = next(iter(DataLoader(data, batch_size=3)))
        assert isinstance(batch, list)
        want = [0, 1, 2] if data is d else [9, 8, 7]
        assert batch[1].tolist() == want
        assert batch[0].tolist() == [[2 * i, 2 * i + 1] for i in want]


def test_fast_path_equals_the_slow_one():
    d = TensorDataset(tw.randn(9, 2), tw.arange(9))
    part, _ = random_split(d, [6, 3], generator=tw.Generator().manual_seed(0))
    fast = listed(DataLoader(part, batch_size=4))
    slow = listed(DataLoader(part, batch_size=4, collate_fn=lambda b: tw.data.default_collate(b)))
    assert fast == slow
    stacked = StackDataset(d, d)
    assert len(next(iter(DataLoader(stacked, batch_size=2)))) == 2


def test_getitems_is_used():
    class Many(Dataset):
        def __getitems__(self, indices):
            return [i * 10 for i in indices]

        def __len__(self):
            return 4

    assert [b.tolist() for b in DataLoader(Many(), 3)] == [[0, 10, 20], [30]]
    assert [b.tolist() for b in DataLoader(Subset(Many(), [3, 1]), 3)] == [[30, 10]]


def test_a_dict_is_a_data_set():
    assert [b.tolist() for b in DataLoader({0: 5, 1: 6}, batch_size=2)] == [[5, 6]]


def test_worker_info():
    class Who(Dataset):
        def __getitem__(self, i):
            info = get_worker_info()
            time.sleep(0.002)
            return (-1, -1) if info is None else (info.id, info.num_workers)

        def __len__(self):
            return 40

    assert {tuple(b) for b in DataLoader(Who(), batch_size=None)} == {(-1, -1)}
    seen = {tuple(b) for b in DataLoader(Who(), batch_size=None, num_workers=2)}
    assert seen == {(0, 2), (1, 2)}
    assert get_worker_info() is None


def test_streams_that_shard_by_worker_come_whole():
    class Sharded(IterableDataset):
        def __iter__(self):
            info = get_worker_info()
            return iter(range(info.id if info else 0, 10, info.num_workers if info else 1))

    for workers in WORKERS:
        got = [b.item() for b in DataLoader(Sharded(), num_workers=workers)]
        assert got == list(range(10))


def test_worker_init_fn_runs_in_each_thread():
    seen = []
    list(DataLoader(range(8), num_workers=3, worker_init_fn=lambda i: seen.append((i, threading.get_ident()))))
    assert wait_for_no_threads()
    assert sorted(i for i, _ in seen) == [0, 1, 2]
    assert threading.get_ident() not in {ident for _, ident in seen}

    def fails(i):
        raise RuntimeError("no device")

    with pytest.raises(RuntimeError, match="no device") as e:
        list(DataLoader(range(8), num_workers=1, worker_init_fn=fails))
    assert "worker_init_fn" in str(e.value.__notes__)


def test_workers_work_at_the_same_time():
    barrier = threading.Barrier(3, timeout=10)

    class Meets(Dataset):
        def __getitem__(self, i):
            barrier.wait()
            return i

        def __len__(self):
            return 3

    assert [b.item() for b in DataLoader(Meets(), num_workers=3)] == [0, 1, 2]


@pytest.mark.parametrize(("workers", "factor"), [(1, None), (2, 3)])
def test_prefetching_is_bounded(workers, factor):
    read = []

    class Counts(Dataset):
        def __getitem__(self, i):
            read.append(i)
            return i

        def __len__(self):
            return 100

    it = iter(DataLoader(Counts(), num_workers=workers, prefetch_factor=factor))
    next(it)
    time.sleep(0.1)
    ahead = (factor or 2) * workers
    assert ahead <= len(read) <= ahead + 1
    it.close()


# --- errors


class Breaks(Dataset):
    def __init__(self, error=KeyError):
        self.error = error

    def __getitem__(self, i):
        if i == 5:
            raise self.error("broken file")
        return i

    def __len__(self):
        return 8


@pytest.mark.parametrize("workers", WORKERS)
def test_errors_come_out_with_the_sample_and_the_traceback(workers):
    it = iter(DataLoader(Breaks(), batch_size=2, num_workers=workers))
    assert [next(it).tolist() for _ in range(2)] == [[0, 1], [2, 3]]
    with pytest.raises(KeyError, match="broken file") as e:
        next(it)
    assert e.value.__notes__ == ["while loading sample 5"]
    names, tb = [], e.value.__traceback__
    while tb is not None:
        names.append(tb.tb_frame.f_code.co_name)
        tb = tb.tb_next
    assert names[-1] == "__getitem__"
    assert next(it).tolist() == [6, 7]  # as in PyTorch, the rest can still be had
    assert list(it) == []
    del e, tb


@pytest.mark.parametrize("workers", WORKERS)
def test_stop_iteration_in_a_data_set_does_not_end_the_loop_silently(workers):
    with pytest.raises(RuntimeError, match="StopIteration while loading sample 5"):
        list(DataLoader(Breaks(StopIteration), batch_size=2, num_workers=workers))


@pytest.mark.parametrize("workers", WORKERS)
def test_errors_of_collating_streams_and_samplers(workers):
    with pytest.raises(RuntimeError) as e:
        list(DataLoader([tw.zeros(1), tw.zeros(2)], batch_size=2, num_workers=workers))
    assert "while collating samples [0, 1]" in e.value.__notes__

    class BadStream(IterableDataset):
        def __iter__(self):
            yield 1
            raise ValueError("end of tape")

    it = iter(DataLoader(BadStream(), num_workers=workers))
    assert next(it).item() == 1
    with pytest.raises(ValueError, match="end of tape") as e:
        next(it)
    assert "sample number 1" in e.value.__notes__[0]

    def bad_order():
        yield 0
        raise OSError("no order")

    class Order(Sampler):
        def __iter__(self):
            return bad_order()

    it = iter(DataLoader(range(3), sampler=Order(), batch_size=None, num_workers=workers))
    assert next(it) == 0
    with pytest.raises(OSError, match="no order"):
        next(it)


def test_timeout():
    release = threading.Event()

    class Hangs(Dataset):
        def __getitem__(self, i):
            release.wait(10)
            return i

        def __len__(self):
            return 2

    it = iter(DataLoader(Hangs(), num_workers=1, timeout=0.05))
    with pytest.raises(RuntimeError, match=r"waited 0.05 s"):
        next(it)
    release.set()
    it.close()


@pytest.mark.parametrize(
    ("options", "error", "text"),
    [
        ({"num_workers": -1}, ValueError, "num_workers"),
        ({"timeout": -1}, ValueError, "timeout"),
        ({"prefetch_factor": 2}, ValueError, "num_workers > 0"),
        ({"persistent_workers": True}, ValueError, "num_workers > 0"),
        ({"shuffle": True, "sampler": [0]}, ValueError, "exclude each other"),
        ({"batch_sampler": [[0]], "batch_size": 3}, ValueError, "batch_sampler excludes"),
        ({"batch_size": None, "drop_last": True}, ValueError, "no last batch"),
        ({"batch_size": 0}, ValueError, "positive"),
    ],
)
def test_wrong_options(options, error, text):
    with pytest.raises(error, match=text):
        DataLoader(range(3), **options)


def test_streams_refuse_an_order():
    for options in ({"shuffle": True}, {"sampler": [0]}, {"batch_sampler": [[0]]}):
        with pytest.raises(ValueError, match="IterableDataset"):
            DataLoader(NoisyStream(), **options)


def test_a_stream_longer_than_it_says_is_reported():
    class Short(IterableDataset):
        def __iter__(self):
            return iter(range(5))

        def __len__(self):
            return 2

    loader = DataLoader(Short(), batch_size=2)
    assert len(loader) == 1
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        assert len(list(loader)) == 3
    (warning,) = caught
    assert warning.category is TwofoldWarning and "__len__" in str(warning.message)


# --- endings


@pytest.mark.parametrize("persistent", [False, True])
def test_early_break_and_two_iterators_at_once(persistent):
    loader = DataLoader(range(50), batch_size=5, num_workers=2, persistent_workers=persistent)
    for batch in loader:  # noqa: B007
        break
    assert batch.tolist() == [0, 1, 2, 3, 4]
    a, b = iter(loader), iter(loader)
    got = [(next(a).tolist(), next(b).tolist()) for _ in range(10)]
    assert all(x == y for x, y in got)
    assert list(a) == list(b) == []
    a.close()
    if persistent:
        assert len(loader_threads()) == 2
    del loader, a, b
    gc.collect()
    assert wait_for_no_threads()


def test_dropping_the_iterator_ends_the_threads():
    it = iter(DataLoader(Noisy(500), num_workers=2))
    next(it)
    assert len(loader_threads()) == 2
    del it
    assert wait_for_no_threads()


def test_keyboard_interrupt_ends_the_threads():
    class Interrupts(Dataset):
        def __getitem__(self, i):
            if i == 3:
                raise KeyboardInterrupt
            return i

        def __len__(self):
            return 100

    it = iter(DataLoader(Interrupts(), num_workers=2))
    with pytest.raises(KeyboardInterrupt):
        list(it)
    assert wait_for_no_threads()
    assert list(it) == []


def test_exhausted_iterators_stay_exhausted_and_hold_no_thread():
    it = iter(DataLoader(range(4), num_workers=2))
    assert len(list(it)) == 4
    assert wait_for_no_threads()
    with pytest.raises(StopIteration):
        next(it)


def test_generators_of_streams_are_closed_on_break():
    closed = []

    class Opens(IterableDataset):
        def __iter__(self):
            try:
                yield from range(100)
            finally:
                closed.append(True)

    for workers in (0, 2):
        for _ in DataLoader(Opens(), num_workers=workers):
            break
        gc.collect()
        assert wait_for_no_threads()
        gc.collect()
        assert closed.pop()


# --- resumption


@pytest.mark.parametrize("workers", [0, 2])
@pytest.mark.parametrize("data", [Noisy, NoisyStream])
def test_resuming_in_the_middle_of_an_epoch(workers, data):
    def make():
        options = {} if data is NoisyStream else {"shuffle": True}
        g = tw.Generator().manual_seed(8)
        return DataLoader(data(), batch_size=3, num_workers=workers, generator=g, **options)

    loader = make()
    list(loader)
    it = iter(loader)
    begun = [listed([next(it)])[0] for _ in range(2)]
    state = loader.state_dict()
    rest = listed(it)
    following = listed(loader)

    resumed = make()
    resumed.load_state_dict(state)
    assert resumed.state_dict() == state
    assert listed(resumed) == rest
    assert listed(resumed) == following
    assert begun[0] not in rest


def test_a_finished_epoch_resumes_with_the_next():
    g = tw.Generator().manual_seed(8)
    loader = DataLoader(range(9), batch_size=2, shuffle=True, generator=g)
    list(loader)
    state = loader.state_dict()
    following = [b.tolist() for b in loader]
    other = DataLoader(range(9), batch_size=2, shuffle=True, generator=tw.Generator())
    other.load_state_dict(state)
    assert [b.tolist() for b in other] == following
