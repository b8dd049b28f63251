"""x[...]: against NumPy (values, assignment) and PyTorch (gradients); gather, scatter and their kin."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch_oracle import compare, compare_gradients, to_torch

import twofold as tw
from twofold.ir.errors import AutogradError, DTypeError, OutOfBoundsError, ShapeError, TraceError

T = tw.tensor

# --- random keys ---------------------------------------------------------------------------------


@st.composite
def slices(draw, n, *, negative=True):
    bound = st.none() | st.integers(-n - 2, n + 2)
    steps = [None, 1, 2, 3] + ([-1, -2] if negative else [])
    return slice(draw(bound), draw(bound), draw(st.sampled_from(steps)))


@st.composite
def keyed(draw, *, negative=True, bools=True):
    """A shape and a key for it."""
    shape = tuple(draw(st.lists(st.integers(0, 3) | st.just(3), max_size=4)))
    common = tuple(draw(st.lists(st.integers(1, 3), max_size=2)))
    seed = draw(st.integers(0, 999))
    rng = np.random.default_rng(seed)
    key, dim, ellipsis = [], 0, False
    while dim < len(shape) and draw(st.integers(0, 7)):
        n = shape[dim]
        kinds = ["slice", "slice", "none", "mask"] + (["int", "array", "list", "tensor"] if n else [])
        kinds += [] if ellipsis else ["ellipsis"]
        kinds += ["bool"] if bools else []
        kind = draw(st.sampled_from(kinds))
        if kind == "none":
            key.append(None)
            continue
        if kind == "bool":
            key.append(draw(st.booleans()))
            continue
        if kind == "ellipsis":
            key.append(...)
            ellipsis = True
            dim += draw(st.integers(0, len(shape) - dim))
            continue
        if kind == "slice":
            key.append(draw(slices(n, negative=negative)))
        elif kind == "int":
            key.append(draw(st.integers(-n, n - 1)))
        elif kind == "mask":
            k = draw(st.integers(1, min(2, len(shape) - dim)))
            count = int(np.prod(common)) if len(common) == 1 else 1
            mask = np.zeros(shape[dim : dim + k], bool)
            places = rng.permutation(mask.size)[:count]  # a count that broadcasts with the other arrays
            mask.reshape(-1)[places] = True
            key.append(mask)
            dim += k - 1
        else:
            array = rng.integers(-n, n, draw(st.sampled_from([common, common[1:], (1,)])))
            key.append(array.tolist() if kind == "list" and array.ndim else array)
        dim += 1
    return shape, tuple(key)


def two_steps(key, ndim):
    """The key as a basic and an advanced one: plain integers drop their dimension first.

    `...` is written out: in NumPy it parts index arrays even where it stands for no dimension.
    """
    takes = [k for k in key if not (k is None or k is ... or isinstance(k, bool))]
    used = sum(k.ndim if isinstance(k, np.ndarray) and k.dtype == bool else 1 for k in takes)
    first, second = [], []
    for item in key:
        if item is ...:
            first += [slice(None)] * (ndim - used)
            second += [slice(None)] * (ndim - used)
        elif isinstance(item, bool):
            first.append(None)
            second.append(np.zeros(int(item), np.int64))
        elif isinstance(item, int) or (isinstance(item, np.ndarray) and item.ndim == 0):
            first.append(int(item))
        elif isinstance(item, np.ndarray) and item.dtype == bool:
            first += [slice(None)] * item.ndim
            second.append(item)
        elif isinstance(item, (np.ndarray, list)):
            first.append(slice(None))
            second.append(item)
        else:
            first.append(item)
            second.append(slice(None))
    return (*first, ...), tuple(second)


def numpy_read(x, key):
    first, second = two_steps(key, x.ndim)
    part, dim = x[first], 0
    for k in second:
        mask = isinstance(k, np.ndarray) and k.dtype == bool
        if mask and k.shape != part.shape[dim : dim + k.ndim]:
            raise IndexError("NumPy takes an empty mask anywhere")
        dim += k.ndim if mask else 1
    return part[second]


def mine(key, seed=0):
    """The key with some of its arrays as tensors."""
    return tuple(T(k) if isinstance(k, np.ndarray) and (i + seed) % 2 else k for i, k in enumerate(key))


def broadcasts(key, x):
    try:
        return numpy_read(x, key)
    except IndexError:
        return None


@settings(max_examples=400, deadline=None)
@given(keyed())
def test_reading_is_numpys(case):
    shape, key = case
    x = np.arange(float(np.prod(shape))).reshape(shape)
    expected = broadcasts(key, x)
    if expected is None:  # index arrays that do not broadcast
        with pytest.raises((ShapeError, OutOfBoundsError)):
            T(x)[mine(key)]
        return
    for seed in (0, 1):
        out = T(x)[mine(key, seed)]
        assert out.shape == expected.shape
        np.testing.assert_array_equal(out.numpy(), expected)


@settings(max_examples=400, deadline=None)
@given(keyed(), st.integers(0, 4), st.booleans())
def test_assigning_is_numpys(case, form, recorded):
    shape, key = case
    x = np.arange(float(np.prod(shape))).reshape(shape)
    part = broadcasts(key, x)
    if part is None:
        return
    values = -1.0 - np.arange(float(part.size)).reshape(part.shape)
    if form == 1:
        values = values[(0,) * min(1, part.ndim)] if part.size else np.float64(-7.0)
    elif form == 2:
        values = np.float64(-3.5)
    elif form == 3 and part.size:
        values = values[tuple(slice(0, 1) for _ in part.shape)]
    elif form == 4:
        values = values[None]
    expected = x.copy()
    first, second = two_steps(key, x.ndim)
    expected[first][second] = values[0] if form == 4 else values
    out = T(x)
    if recorded:  # through where and index_put, as autograd and the tracer need
        out = (out.requires_grad_() * 1.0) if out.numel() else out
    out[mine(key)] = float(values) if form == 2 else T(values)
    np.testing.assert_array_equal(out.detach().numpy(), expected)


def torch_key(key):
    return tuple(torch.tensor(k) if isinstance(k, (np.ndarray, list)) else k for k in key)


@settings(max_examples=200, deadline=None)
@given(keyed(negative=False))
def test_reading_and_its_gradient_are_pytorchs(case):
    shape, key = case
    x = np.random.default_rng(0).normal(size=shape)
    if broadcasts(key, x) is None:
        return
    a, b = T(x, requires_grad=True), torch.tensor(x, requires_grad=True)
    y, z = a[mine(key)], b[torch_key(key)]
    assert y.shape == tuple(z.shape)
    np.testing.assert_array_equal(y.detach().numpy(), z.detach().numpy())
    w = np.random.default_rng(1).normal(size=y.shape)
    (y * T(w)).sum().backward()
    (z * torch.tensor(w)).sum().backward()
    np.testing.assert_allclose(a.grad.numpy(), b.grad.numpy(), rtol=1e-12, atol=1e-14)


@settings(max_examples=200, deadline=None)
@given(keyed(negative=False), st.integers(0, 2))
def test_gradients_of_assigning_are_pytorchs(case, form):
    shape, key = case
    rng = np.random.default_rng(0)
    x = rng.normal(size=shape)
    part = broadcasts(key, x)
    if part is None:
        return
    v = rng.normal(size=(part.shape, part.shape[1:], ())[form])
    a, b = T(x, requires_grad=True), torch.tensor(x, requires_grad=True)
    s, t = T(v, requires_grad=True), torch.tensor(v, requires_grad=True)
    c, d = a * 2, b * 2
    c[mine(key)] = s * s
    d[torch_key(key)] = t * t
    np.testing.assert_allclose(c.detach().numpy(), d.detach().numpy(), rtol=1e-15)
    w = rng.normal(size=shape)
    (c * T(w)).sum().backward()
    (d * torch.tensor(w)).sum().backward()
    for mine_, theirs in ((a.grad, b.grad), (s.grad, t.grad)):
        if mine_ is None:  # all was overwritten
            assert not theirs.numpy().any()
            continue
        np.testing.assert_allclose(mine_.numpy(), theirs.numpy(), rtol=1e-12, atol=1e-13)


def test_integers_do_not_count_as_index_arrays():
    x = tw.zeros(2, 3, 4)
    assert x[0, :, [1, 2]].shape == (3, 2)  # NumPy: (2, 3)
    assert x[T(0), :, [1, 2]].shape == (3, 2)
    assert x[[0], :, [1, 2]].shape == (2, 3)


# --- views ---------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "key",
    [0, -1, slice(1, 9), (slice(None), 1), (..., 0), None, (slice(None, None, -1),), (1, slice(9, None, -2)), ...],
)
def test_basic_keys_give_views(key):
    array = np.arange(12.0).reshape(3, 4)
    x = T(array)
    part = x[key]
    part.mul_(10)
    array[key] *= 10
    np.testing.assert_array_equal(x.numpy(), array)
    x.add_(1)
    np.testing.assert_array_equal(part.numpy(), array[key] + 1)


def test_a_tensor_index_gives_a_copy_and_a_0d_one_a_view():
    x = tw.zeros(3, 2)
    x[[0]].add_(1)
    assert x.sum().item() == 0
    x[T(0)].add_(1)
    assert x.tolist() == [[1, 1], [0, 0], [0, 0]]


def test_writing_through_a_view_of_a_view():
    x = tw.zeros(4, 3)
    x[1:][::2, 1][0] = 5.0
    x[:, 2][[0, 3]] = T([1.0, 2.0])
    assert x.tolist() == [[0, 0, 1], [0, 5, 0], [0, 0, 0], [0, 0, 2]]


def test_gradient_through_views_that_are_written():
    x = T([1.0, 2.0, 3.0], requires_grad=True)
    y = x * x
    y[1:][0] *= 10
    y[[0, 0]] = T(7.0)
    y.sum().backward()
    assert x.grad.tolist() == [0, 40, 6]


def test_assigning_overlapping_parts():
    x = tw.arange(6)
    x[1:] = x[:-1]
    assert x.tolist() == [0, 0, 1, 2, 3, 4]
    x[[0, 1, 2]] = x[[3, 4, 5]]
    assert x.tolist() == [2, 3, 4, 2, 3, 4]
    x[[5, 4]] = x[:2]
    assert x.tolist() == [2, 3, 4, 2, 3, 2]


def test_assigning_casts():
    x = tw.zeros(2, dtype=tw.int64)
    x[0] = T(1.75)
    x[[1]] = 2.5
    assert x.tolist() == [1, 2]
    with pytest.raises(DTypeError, match=r"complex number .* can't be stored in a int64"):
        x[0] = 1j


def test_writing_counts_the_version():
    x = T([1.0, 2.0], requires_grad=True)
    y = x * 1
    z = y * y
    with tw.no_grad():
        y[[0]] = 3.0
    with pytest.raises(AutogradError, match="changed in place"):
        z.sum().backward()


def test_a_leaf_that_requires_grad_is_not_written():
    x = T([1.0, 2.0], requires_grad=True)
    for key in (0, [0], T([True, False])):
        with pytest.raises(AutogradError, match="leaf"):
            x[key] = 1.0


def test_reading_keeps_only_the_index_alive():
    x = T([1.0, 2.0, 3.0], requires_grad=True)
    h = x * 1
    y = h[[0, 2]]
    h.mul_(5)  # the derivative of y does not need h
    y.sum().backward()
    assert x.grad.tolist() == [1, 0, 1]


def test_tensors_without_a_place_of_their_own_are_not_written():
    for x in (tw.zeros(1, 3).expand(2, 3), tw.zeros(4).as_strided((2, 3), (1, 1))):
        for key in (0, [0], T([True, False]), (0, T([0]))):
            with pytest.raises(AutogradError, match="share one place"):
                x[key] = 1.0


# --- errors --------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("key", "error", "message"),
    [
        (3, OutOfBoundsError, r"index 3 is out of bounds for dimension 0 of size 3 \(shape \(3, 4\)\)"),
        (-4, OutOfBoundsError, "index -4 is out of bounds for dimension 0 of size 3"),
        ((0, 4), OutOfBoundsError, "index 4 is out of bounds for dimension 1 of size 4"),
        ((slice(None), [0, 9]), OutOfBoundsError, "index 9 is out of bounds for dimension 1 of size 4"),
        ((0, 0, 0), OutOfBoundsError, "too many indices: 3 for a 2-d tensor"),
        ((..., 0, ...), ShapeError, "only one ellipsis"),
        (1.0, DTypeError, r"1.0 of type float can't be an index[\s\S]*use int"),
        ("a", DTypeError, "'a' of type str can't be an index"),
        ([0.5], DTypeError, "can't be an index"),
        (slice(0.5, None), DTypeError, "bounds of a slice must be integers, got 0.5"),
        (slice(0, 2, 0), ShapeError, "step of a slice is zero"),
        ([[0], [0, 1]], ShapeError, "different lengths"),
        (np.array([True, False]), ShapeError, r"mask has shape \(2,\), but dimension 0 .* has size 3"),
        ((0, np.array([True, False])), ShapeError, r"mask has shape \(2,\), but dimension 1 .* has size 4"),
        (([0, 1], [0, 1, 2]), ShapeError, "do not broadcast"),
    ],
)
def test_errors(key, error, message):
    x = tw.zeros(3, 4)
    with pytest.raises(error, match=message):
        x[key]
    with pytest.raises(error, match=message):
        x[key] = 1.0
    assert x.sum().item() == 0


def test_errors_of_tensor_keys():
    x = tw.zeros(3)
    with pytest.raises(DTypeError, match=r"dtype float32 can't be an index[\s\S]*i.long\(\)"):
        x[T([1.0])]
    with pytest.raises(DTypeError, match="uint8 tensor as an index could mean"):
        x[T([1], dtype=tw.uint8)]
    with pytest.raises(OutOfBoundsError, match="too many indices: 1 for a 0-d tensor"):
        T(1.0)[0]
    with pytest.raises(ShapeError, match="do not broadcast"):
        x[[0, 1]] = tw.zeros(3)
    with pytest.raises(ShapeError, match="does not fit"):
        x[:2] = tw.zeros(3)


# --- tracing -------------------------------------------------------------------------------------


def traced_is_eager(fn, *arrays):
    """Run `fn` eagerly and as a graph, on copies; compare results and arguments written in place."""
    a, b, shown = [[T(x) for x in arrays] for _ in range(3)]
    expected = fn(*a)
    program = tw.trace(fn, *shown)
    out = program(*b)
    np.testing.assert_array_equal(out.numpy(), expected.numpy())
    for x, y in zip(a, b, strict=True):
        np.testing.assert_array_equal(x.numpy(), y.numpy())


X = np.arange(12.0).reshape(3, 4)
I2 = np.array([2, 0])


def test_reading_can_be_traced():
    traced_is_eager(lambda x, i: x[1:, ::-1][0] + x[i, 1].sum() + x[:, i].sum(), X, I2)
    traced_is_eager(lambda x, i: x[i[0]] + x[[0, 1], None].sum(), X, I2)
    traced_is_eager(lambda x, i: x[i[0], i[1]] + x[i[1], :2, None][1], X, I2)
    traced_is_eager(lambda x, i: x.reshape(1, 3, 4)[0, i][:, i[0]], X, I2)
    traced_is_eager(lambda x, i: x.reshape(2, 2, 3)[i[1], :, i], X, I2)


def write_mask(x, i):
    x[x > 4] = -1.0
    x[:, i] = 0.5
    x[T([True, False, True])] = T([1.0, 2.0, 3.0, 4.0])
    return x


def write_scalars(x, i):
    y = x.reshape(2, 2, 3)
    y[i[1]] = 7.0
    y[i[1], :, i] = T([[1.0], [2.0]])
    y[i[1], 0, i[0]] = 9.0
    y[:, y[0, :, 0] > 3] = -2.0
    return x


def test_writing_can_be_traced():
    traced_is_eager(write_mask, X, I2)
    traced_is_eager(write_scalars, X, I2)
    traced_is_eager(lambda x, i: x.masked_fill_(x > 3, 0) + x.masked_scatter(x > 20, x), X, I2)


@settings(max_examples=60, deadline=None)
@given(keyed(), st.booleans())
def test_any_key_without_masks_can_be_traced(case, as_inputs):
    shape, key = case
    x = np.arange(float(np.prod(shape))).reshape(shape)
    part = broadcasts(key, x)
    if part is None or any(isinstance(k, np.ndarray) and k.dtype == bool for k in key):
        return
    places = [k for k in key if isinstance(k, np.ndarray)] if as_inputs else []

    def step(x, *places):
        left = iter(places)
        full = tuple(next(left) if as_inputs and isinstance(k, np.ndarray) else k for k in key)
        y = x[full]
        if any(k.ndim == 0 for k in places):
            y = y.clone()  # a view eagerly, a copy in a graph: see Note [Keys]
        x[full] = y * 2 + 1
        return y

    traced_is_eager(step, x, *places)


@pytest.mark.parametrize(
    "fn",
    [
        lambda x: x[x > 1],
        lambda x: x.nonzero(),
        lambda x: x.nonzero(as_tuple=True),
        lambda x: tw.where(x > 1),
        lambda x: x.masked_select(x > 1),
        lambda x: x.argwhere(),
        lambda x: x.unique(),
        lambda x: x.unique_consecutive(),
        lambda x: x.int().bincount(),
        lambda x: x.__setitem__(x > 1, tw.ones(2)),
    ],
)
def test_shapes_that_depend_on_values_can_not_be_traced(fn):
    with pytest.raises(TraceError, match="depend"):
        tw.trace(fn, T([1.0, 2.0, 3.0]))


def test_derivatives_of_indexing_can_be_traced():
    def step(x, i):
        x = x.detach().requires_grad_()
        y = x * 2
        y[i] = x[1] * x[0]
        y[y > 50] = 0.0
        return tw.autograd.grad((y[:, i] * y[:, 1:3]).sum(), x)[0]

    traced_is_eager(step, X, I2)


# --- functions against PyTorch -------------------------------------------------------------------

x34 = T(np.random.default_rng(3).normal(size=(3, 4)))
i34 = T([[0, 2, 1, 0], [1, 1, 2, 2]])
m34 = T([[True, False, True, False], [False] * 4, [True] * 4])
src = T(np.random.default_rng(4).normal(size=(3, 4)))
src2 = T(np.random.default_rng(4).normal(size=(2, 4)))
zeroed = T([[0.0, 2.0, 0.0, 1.0], [3.0, 0.0, 0.0, 2.0], [1.0, 1.0, 2.0, 0.0]], dtype=tw.float64)

CALLS = [
    ("where", (m34, x34, src)),
    ("where", (m34, x34, 0.0)),
    ("where", (m34, 1.0, T([1, 2, 3, 4]))),
    ("where", (m34, 1, 0)),
    ("where", (m34, 1, 0.5)),
    ("where", (m34, T(1.0), T([1, 2, 3, 4]))),
    ("where", (m34,)),
    (".where", (x34, m34, src)),
    ("masked_fill", (x34, m34, 2)),
    ("masked_fill", (x34, m34, T(2.0))),
    ("masked_fill", (T([1.0, 2.0]), T([[True], [False]]), 0.0)),
    ("masked_fill", (T([1, 2]), T([True, False]), 0.5)),
    ("masked_select", (x34, m34)),
    ("masked_select", (x34, T([True, False, False, True]))),
    ("masked_select", (T(1.0), T(True))),
    (".masked_scatter", (x34, m34, src)),
    (".masked_scatter", (x34, m34, src[0])),
    (".masked_scatter", (x34, T([True, False, False, True]), src)),
    ("index_select", (x34, 1, T([3, 0, 3]))),
    ("index_select", (x34, 0, T(2))),
    ("index_select", (T(5.0), 0, T([0]))),
    ("index_select", (x34, 0, T([0, 7]))),
    ("index_add", (x34, 1, T([0, 0]), src[:, :2])),
    ("index_add", (x34, 0, T([2, 1, 2]), src), {"alpha": -2}),
    ("index_add", (x34, 0, T([2, 1]), src)),
    ("index_copy", (x34, 1, T([3, 0]), src[:, 1:3])),
    ("index_fill", (x34, 1, T([3, 0]), -1)),
    ("index_fill", (x34, 0, T([1]), T(4.0))),
    ("index_put", (x34, (T([0, 1]), T([1, 1])), T([5.0, 6.0], dtype=tw.float64))),
    ("index_put", (x34, (T([0, 0]),), src[0]), {"accumulate": True}),
    ("index_put", (x34, (m34,), T(9.0, dtype=tw.float64))),
    ("take", (x34, T([[0, 11], [-1, 5]]))),
    ("take", (x34, T([12]))),
    ("take_along_dim", (x34, T([[0, 2]]), 1)),
    ("take_along_dim", (x34, T([11, 0]))),
    ("gather", (x34, 0, i34)),
    ("gather", (x34, 1, i34)),
    ("gather", (x34, -1, T([[0], [1], [2]]))),
    ("gather", (x34, 0, T([[3]]))),
    ("gather", (T(3.0), 0, T(0))),
    ("gather", (x34, 0, T([0]))),
    (".scatter", (x34, 0, T([[0, 2, 1, 0], [1, 1, 2, 2]]), src2)),
    (".scatter", (x34, 1, T([[0, 1], [3, 2]]), 4.0)),
    (".scatter", (x34, 1, T([[0, 1], [3, 2]])), {"value": 4.0}),
    (".scatter", (x34, 1, T([[0, 1], [3, 2]]), src), {"reduce": "add"}),
    (".scatter", (x34, 1, T([[0, 1], [3, 2]]), src), {"reduce": "multiply"}),
    ("scatter_add", (x34, 0, i34, src2)),
    ("scatter_add", (x34, 0, T([[5]]), src)),
    *[
        ("scatter_reduce", (zeroed, 0, i34, src2.round(), reduce), {"include_self": own})
        for reduce in ("sum", "prod", "mean", "amax", "amin")
        for own in (True, False)
    ],
    ("scatter_reduce", (T([5, 6]), 0, T([0, 0, 0]), T([1, 2, 2]), "mean")),
    ("nonzero", (x34 > 0,)),
    ("nonzero", (x34 > 0,), {"as_tuple": True}),
    ("nonzero", (T(3.0),)),
    ("nonzero", (tw.zeros(0, 3),)),
    ("argwhere", (T([0, 2, 0, 3]),)),
    ("select", (x34, 1, -1)),
    ("select", (x34, 0, 3)),
    ("narrow", (x34, 1, 1, 2)),
    ("narrow", (x34, 1, -2, 2)),
    ("narrow", (x34, 1, 3, 2)),
    ("narrow", (x34, 0, 0, 0)),
]


@pytest.mark.filterwarnings("ignore:The reduce argument:UserWarning")
@pytest.mark.parametrize("call", CALLS, ids=lambda c: c[0])
def test_functions_are_pytorchs(call):
    compare(*call)


def wanting(x):
    return T(x.numpy(), requires_grad=True)


def has_gradient(name, args, kwargs):
    """Whether both sides take the call, and its result has a derivative in PyTorch."""
    floats = [a for a in args if isinstance(a, tw.Tensor) and a.dtype is tw.float64]
    if not floats or name in ("nonzero", "argwhere") or (name == ".scatter" and "reduce" in kwargs):
        return False
    if args[-1] in ("amax", "amin") and not kwargs["include_self"]:
        return False  # PyTorch counts what is not included among the equal ones, see the test below
    call = getattr(torch, name.lstrip("."), None) or getattr(torch.Tensor, name.lstrip("."))
    try:
        call(*to_torch(args), **to_torch(kwargs))
    except (RuntimeError, IndexError):
        return False
    return True


GRADIENTS = [(name, args, *kwargs) for name, args, *kwargs in CALLS if has_gradient(name, args, *(kwargs or [{}]))]


@pytest.mark.parametrize("call", GRADIENTS, ids=lambda c: c[0])
def test_gradients_are_pytorchs(call):
    name, args, *kwargs = call
    args = tuple(wanting(a) if isinstance(a, tw.Tensor) and a.dtype is tw.float64 else a for a in args)
    compare_gradients(name, args, *kwargs)


def test_scatter_reduce_shares_the_gradient_of_an_extreme():
    x = T([1.0, 3.0], requires_grad=True)
    s = T([3.0, 3.0, 0.0], requires_grad=True)
    x.scatter_reduce(0, T([1, 1, 0]), s, "amax").sum().backward()
    np.testing.assert_allclose(x.grad.numpy(), [1, 1 / 3], rtol=1e-6)
    np.testing.assert_allclose(s.grad.numpy(), [1 / 3, 1 / 3, 0], rtol=1e-6)
    x.grad = s.grad = None
    x.scatter_reduce(0, T([1, 1, 1]), s, "amax", include_self=False).sum().backward()
    assert x.grad.tolist() == [1, 0]
    assert s.grad.tolist() == [0.5, 0.5, 0]


def test_second_derivative_of_a_read_and_a_write():
    x = T([1.0, 2.0, 3.0], dtype=tw.float64, requires_grad=True)
    y = x**3
    y[[0, 1]] = y[[1, 2]] * x[0]
    (g,) = tw.autograd.grad((y * y).sum(), x, create_graph=True)
    a = torch.tensor([1.0, 2.0, 3.0], dtype=torch.float64, requires_grad=True)
    b = a**3
    b[torch.tensor([0, 1])] = b[torch.tensor([1, 2])] * a[0]
    (h,) = torch.autograd.grad((b * b).sum(), a, create_graph=True)
    np.testing.assert_allclose(g.detach().numpy(), h.detach().numpy())
    np.testing.assert_allclose(tw.autograd.grad(g.sum(), x)[0].numpy(), torch.autograd.grad(h.sum(), a)[0].numpy())


def test_in_place_forms():
    x = tw.zeros(3)
    assert x.masked_fill_(T([True, False, False]), 1.0) is x
    x.index_add_(0, T([1, 1]), T([2.0, 3.0]))
    x.scatter_(0, T([2]), 4.0)
    x.scatter_add_(0, T([2]), T([1.0]))
    x.index_put_((T([0]),), T([0.5]), accumulate=True)
    assert x.tolist() == [1.5, 5.0, 5.0]
    x.index_fill_(0, T([0]), 0).index_copy_(0, T([1]), T([8.0])).masked_scatter_(x == 5, T([6.0]))
    x.scatter_reduce_(0, T([0, 0]), T([2.0, 3.0]), "sum")
    assert x.tolist() == [5.0, 8.0, 6.0]


def test_negative_indices_wrap_and_wrong_ones_are_named():
    x = T([10.0, 20.0, 30.0])
    assert x.gather(0, T([-1])).tolist() == [30]
    assert x.index_select(0, T([-1, 0])).tolist() == [30, 10]
    with pytest.raises(OutOfBoundsError, match="index -4 is out of bounds for dimension 0 of size 3"):
        x.gather(0, T([0, -4]))
    with pytest.raises(OutOfBoundsError, match="mask has 3 Trues, but the source only 1"):
        x.masked_scatter(tw.ones(3, dtype=tw.bool), T([1.0]))


def test_axis_is_accepted():
    assert tw.gather(x34, axis=1, index=T([[0]])).shape == (1, 1)


def test_sums_of_many_rows_are_in_order():
    """The gradient of an embedding, where rows repeat, equals adding one row after the other."""
    rng = np.random.default_rng(5)
    index, rows = rng.integers(-7, 7, (6, 9)), rng.normal(size=(6, 9, 3))
    expected = np.zeros((7, 3))
    np.add.at(expected, index, rows)
    out = tw.zeros(7, 3, dtype=tw.float64).index_put((T(index),), T(rows), accumulate=True)
    np.testing.assert_allclose(out.numpy(), expected, rtol=1e-14)
