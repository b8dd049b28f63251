"""Data sets, samplers and collating."""

import collections

import numpy as np
import pytest
import torch
from torch.utils.data import default_collate as torch_collate

import twofold as tw
from twofold.data import (
    BatchSampler,
    ChainDataset,
    ConcatDataset,
    Dataset,
    IterableDataset,
    RandomSampler,
    SequentialSampler,
    StackDataset,
    Subset,
    SubsetRandomSampler,
    TensorDataset,
    WeightedRandomSampler,
    default_collate,
    default_convert,
    random_split,
)
from twofold.ir.errors import OutOfBoundsError, ShapeError


class Numbers(Dataset):
    def __init__(self, *values):
        self.values = values

    def __getitem__(self, i):
        return self.values[i]

    def __len__(self):
        return len(self.values)


class Stream(IterableDataset):
    def __init__(self, n):
        self.n = n

    def __iter__(self):
        return iter(range(self.n))

    def __len__(self):
        return self.n


# --- data sets


def test_tensor_dataset():
    d = TensorDataset(tw.arange(6).reshape(3, 2), tw.tensor([7, 8, 9]))
    x, y = d[1]
    assert len(d) == 3 and x.tolist() == [2, 3] and y.item() == 8
    with pytest.raises(ShapeError, match=r"\(2,\), \(3,\)"):
        TensorDataset(tw.zeros(2), tw.zeros(3))
    with pytest.raises(ShapeError):
        TensorDataset(tw.tensor(1.0))
    with pytest.raises(TypeError, match="from_numpy"):
        TensorDataset(np.zeros(3))


def test_concat_counts_from_either_end():
    d = Numbers(1, 2) + Numbers() + Numbers(3)
    assert isinstance(d, ConcatDataset)
    assert [d[i] for i in range(3)] == [1, 2, 3]
    assert [d[-1], d[-3]] == [3, 1]
    for i in (3, -4):
        with pytest.raises(OutOfBoundsError):
            d[i]
    with pytest.raises(TypeError, match="ChainDataset"):
        ConcatDataset([Stream(2)])
    with pytest.raises(ValueError, match="at least one"):
        ConcatDataset([])


def test_chain():
    d = Stream(2) + Stream(3)
    assert isinstance(d, ChainDataset) and len(d) == 5
    assert list(d) == [0, 1, 0, 1, 2]
    with pytest.raises(TypeError):
        list(ChainDataset([Numbers(1)]))


def test_stack():
    assert StackDataset(Numbers(1, 2), Numbers(3, 4))[1] == (2, 4)
    assert StackDataset(a=Numbers(1, 2), b=Numbers(3, 4))[0] == {"a": 1, "b": 3}
    with pytest.raises(ValueError, match=r"\[1, 2\]"):
        StackDataset(Numbers(1), Numbers(1, 2))
    with pytest.raises(ValueError):
        StackDataset()


def test_subset_of_subset():
    d = Subset(Subset(Numbers(*range(10, 20)), [8, 6, 4]), [2, 0])
    assert list(d) == [14, 18] and len(d) == 2
    assert d.__getitems__([1, 0]) == [18, 14]


def test_random_split():
    g = tw.Generator().manual_seed(3)
    parts = random_split(range(10), [7, 3], generator=g)
    again = random_split(range(10), [7, 3], generator=tw.Generator().manual_seed(3))
    assert [list(p) for p in parts] == [list(p) for p in again]
    assert sorted(i for p in parts for i in p) == list(range(10))
    assert list(parts[0]) + list(parts[1]) != list(range(10))
    assert [len(p) for p in random_split(range(10), [0.25, 0.25, 0.5])] == [3, 2, 5]
    assert [len(p) for p in random_split(range(11), [0.3, 0.3, 0.4])] == [
        len(p) for p in torch.utils.data.random_split(range(11), [0.3, 0.3, 0.4])
    ]
    assert [len(p) for p in random_split(range(3), [1, 1, 1])] == [1, 1, 1]
    assert [len(p) for p in random_split(range(1), [1])] == [1]
    assert [len(p) for p in random_split(range(9), [1.0])] == [9]
    with pytest.raises(ValueError, match="add up to 9"):
        random_split(range(10), [4, 5])


# --- samplers


def test_sequential_and_batches():
    assert list(SequentialSampler(range(3))) == [0, 1, 2]
    s = BatchSampler(SequentialSampler(range(5)), 2, drop_last=True)
    assert list(s) == [[0, 1], [2, 3]] and len(s) == 2
    s = BatchSampler(range(5), 2)
    assert list(s) == [[0, 1], [2, 3], [4]] and len(s) == 3


def test_random_sampler():
    g = tw.Generator().manual_seed(0)
    s = RandomSampler(range(20), generator=g)
    first, second = list(s), list(s)
    assert sorted(first) == sorted(second) == list(range(20))
    assert first != second
    g.manual_seed(0)
    assert list(s) == first
    tw.manual_seed(5)
    a = list(RandomSampler(range(9)))
    tw.manual_seed(5)
    assert list(RandomSampler(range(9))) == a


def test_random_sampler_sizes():
    long = list(RandomSampler(range(3), num_samples=8))
    assert sorted(long[:3]) == sorted(long[3:6]) == [0, 1, 2] and len(set(long[6:])) == 2
    assert len(list(RandomSampler(range(5), num_samples=2))) == 2
    with_replacement = RandomSampler(range(3), replacement=True, num_samples=50)
    drawn = list(with_replacement)
    assert set(drawn) == {0, 1, 2} and len(drawn) == len(with_replacement) == 50
    assert list(RandomSampler([])) == []
    for bad in ({"num_samples": 0}, {"num_samples": 1.5}):
        with pytest.raises(ValueError, match="num_samples"):
            RandomSampler(range(3), **bad)


def test_subset_random_sampler():
    assert sorted(SubsetRandomSampler([3, 1, 4])) == [1, 3, 4]
    assert len(SubsetRandomSampler([3, 1, 4])) == 3


def test_weighted_sampler_follows_the_weights():
    g = tw.Generator().manual_seed(1)
    drawn = list(WeightedRandomSampler([0.0, 1.0, 3.0], 4000, generator=g))
    counts = np.bincount(drawn, minlength=3)
    assert counts[0] == 0
    assert abs(counts[2] / counts.sum() - 0.75) < 0.03
    assert sorted(WeightedRandomSampler(tw.tensor([1.0, 0.0, 2.0]), 2, replacement=False)) == [0, 2]
    for bad in ([], [0.0], [-1.0, 2.0], [float("nan")]):
        with pytest.raises(ValueError, match="weights"):
            WeightedRandomSampler(bad, 1)
    with pytest.raises(ValueError, match="positive weights"):
        WeightedRandomSampler([1.0, 0.0], 2, replacement=False)


def test_batch_sampler_refuses():
    for size in (0, -1, 1.5, True):
        with pytest.raises(ValueError, match="batch_size"):
            BatchSampler(range(3), size)


# --- collating

Point = collections.namedtuple("Point", "x y")


def as_torch(x):
    if isinstance(x, tw.Tensor):
        return torch.tensor(x.numpy())
    if isinstance(x, dict):
        return {k: as_torch(v) for k, v in x.items()}
    if isinstance(x, tuple) and hasattr(x, "_fields"):
        return type(x)(*map(as_torch, x))
    if isinstance(x, (tuple, list)):
        return type(x)(map(as_torch, x))
    return x


def same(a, b):
    if isinstance(b, torch.Tensor):
        return isinstance(a, torch.Tensor) and a.dtype == b.dtype and torch.equal(a, b)
    if isinstance(b, dict):
        return isinstance(a, dict) and a.keys() == b.keys() and all(same(a[k], b[k]) for k in b)
    if isinstance(b, (list, tuple)):
        return type(a) is type(b) and len(a) == len(b) and all(map(same, a, b))
    return a == b


@pytest.mark.parametrize(
    "batch",
    [
        [1, 2, 3],
        [1.5, 2.5],
        [True, False],
        [np.float32(1), np.float32(2)],
        [np.int16([1, 2]), np.int16([3, 4])],
        [np.array(1.0), np.array(2.0)],
        ["a", "b"],
        [b"a", b"b"],
        [(1, "a"), (2, "b")],
        [[1, 2.0], [3, 4.0]],
        [{"x": 1, "y": {"z": [1, 2]}}, {"x": 3, "y": {"z": [4, 5]}}],
        [Point(1, np.zeros(2)), Point(2, np.ones(2))],
        [collections.OrderedDict(a=1), collections.OrderedDict(a=2)],
        [((1, 2), (3,)), ((4, 5), (6,))],
    ],
    ids=str,
)
def test_collate_equals_pytorch(batch):
    assert same(as_torch(default_collate(batch)), torch_collate(batch))


def test_collate_tensors():
    out = default_collate([(tw.ones(2), 1), (tw.zeros(2), 2)])
    assert out[0].tolist() == [[1.0, 1.0], [0.0, 0.0]] and out[1].tolist() == [1, 2]


@pytest.mark.parametrize(
    ("batch", "error", "text"),
    [
        ([tw.zeros(2), tw.zeros(3)], ShapeError, r"\(2,\) for number 0 and \(3,\) for number 1"),
        ([np.zeros(2), np.zeros((2, 1))], ShapeError, "collate_fn"),
        ([[1, 2], [1]], ShapeError, r"lengths \[2, 1\]"),
        ([None, None], TypeError, "forget its return"),
        ([np.array("a"), np.array("b")], TypeError, "numbers"),
        ([object()], TypeError, "collate_fn"),
        ([{"a": 1}, {"b": 1}], KeyError, r"sample 1.*\['a'\]"),
    ],
)
def test_collate_errors(batch, error, text):
    with pytest.raises(error, match=text):
        default_collate(batch)


def test_collate_of_pictures_says_what_to_do():
    Image = pytest.importorskip("PIL.Image")
    with pytest.raises(TypeError, match="ToTensor"):
        default_collate([Image.new("L", (2, 2))])


def test_convert():
    out = default_convert({"a": np.arange(2), "b": [np.float64(1), "s"], "c": Point(1, (np.zeros(1),))})
    assert out["a"].tolist() == [0, 1] and isinstance(out["a"], tw.Tensor)
    assert out["b"][0].item() == 1.0 and out["b"][1] == "s"
    assert out["c"].x == 1 and isinstance(out["c"].y[0], tw.Tensor)
