"""Complex numbers compiled: computed by their parts, in kernels, with the results of NumPy."""

from __future__ import annotations

import numpy as np
import pytest
from test_kernels import NUMPY_NAMES, make_graph

import twofold as tw
from twofold.backends.cpu import jit, maps
from twofold.backends.cpu.program import Program
from twofold.backends.cpu.target import AVX2, AVX512, SSE2
from twofold.compiler import eager_complex, eager_maps
from twofold.compiler.compile import optimize
from twofold.ir.primitive import PRIMITIVES

GROWING = ["exp", "expm1", "sinh", "cosh", "tanh", "sin", "cos", "tan", "sigmoid"]
FUNCTIONS = [*GROWING, "log", "log1p", "sqrt", "rsqrt", "asin", "acos", "asinh", "acosh", "atanh", "atan", "abs"]


def arguments(dtype, growing):
    """Everyday numbers, all magnitudes, and both sides of the branch cuts."""
    rng = np.random.default_rng(0)
    everyday = rng.standard_normal((2, 300)) * 3
    wide = 10 ** rng.uniform(-12, 1.5 if growing else 12, (2, 300)) * rng.choice([-1, 1], (2, 300))
    edge = np.array(np.meshgrid(*[[0.0, -0.0, 1, -1, 2, -2, 0.5, -0.5]] * 2)).reshape(2, -1)
    z = np.empty(664, np.complex128)
    z.real, z.imag = np.concatenate([everyday, wide, edge], axis=1)
    return z.astype(dtype)


def exact(name, z):
    if name == "rsqrt":
        return 1 / np.sqrt(z)
    if name == "sigmoid":
        return 1 / (1 + np.exp(-z))
    if name == "log1p":  # NumPy's has no digits for small numbers
        out, near = np.log1p(z), np.abs(z) < 0.1
        out.real[near] = np.log1p(z.real * (2 + z.real) + z.imag**2)[near] / 2
        return out
    return getattr(np, NUMPY_NAMES.get(name, name))(z)


@pytest.mark.parametrize(("dtype", "most"), [("complex64", 0.75), ("complex128", 24)])
def test_accuracy(dtype, most):
    """In units of the last place of the modulus; the signs of zeros choose the side of a branch cut."""
    cases = [(name, [arguments(dtype, name in GROWING)], {}) for name in FUNCTIONS]
    graph, arrays = make_graph(cases)
    program = Program(optimize(graph))
    assert "numpy" not in program.kernels()
    for (name, (z,), _), got in zip(cases, program(arrays), strict=True):
        with np.errstate(all="ignore"):
            e = exact(name, z.astype(np.complex128))
            unit = np.spacing(np.abs(e).astype(got.real.dtype)).astype(np.float64)
            error = np.abs(got - e) / unit
        finite = np.isfinite(e) & np.isfinite(e.astype(got.dtype))
        assert (error[finite] <= most).all(), f"{name} of {z[finite][error[finite] > most]}"
        np.testing.assert_array_equal(got[~finite], e.astype(got.dtype)[~finite], err_msg=name)
        if name != "abs":
            edge = slice(-64, None)
            for part in (got.real[edge], e.real[edge]), (got.imag[edge], e.imag[edge]):
                keep = np.isfinite(part[1])
                np.testing.assert_array_equal(
                    *(np.signbit(p[keep]) for p in part), err_msg=f"{name} {z[edge][keep]}"
                )


@pytest.mark.parametrize("name", [*FUNCTIONS, "div"])
def test_infinities_and_extreme_numbers(name):
    """What has no NaN in NumPy's result is that; the signs of zeros and infinities, too."""
    few = np.array([0.0, -0.0, 1, -1, 1e300, -1e300, 1e-300, -1e-300, np.inf, -np.inf])
    z = np.empty((few.size, few.size), np.complex128)
    z.real, z.imag = few[:, None], few
    z = z.reshape(-1)
    operands = [z] if name != "div" else [np.repeat(z, z.size), np.tile(z, z.size)]
    graph, arrays = make_graph([(name, operands, {})])
    (got,) = Program(optimize(graph))(arrays)
    with np.errstate(all="ignore"):
        e = operands[0] / operands[1] if name == "div" else exact(name, z)
    known = ~np.isnan(e)
    if name == "log1p":  # NumPy's has no digits there
        known &= (np.abs(z) > 1e-3) | (z == 0)
    if name == "div":  # what is very small or large
        known &= np.isin(np.abs(e), (0, 1, np.inf))
    for part in ("real", "imag"):
        a, b = (getattr(x, part)[known] for x in (got, e))
        np.testing.assert_allclose(a, b, rtol=1e-13, atol=1e-310, err_msg=f"{name} {part}")
        sure = b != 0 if name in ("div", "rsqrt", "sigmoid", "tan", "tanh") else np.full(b.shape, True)
        signs = np.signbit(a[sure]) == np.signbit(b[sure])
        assert signs.all(), f"{name} {part} of {[x[known][sure][~signs] for x in operands]}"


def test_division():
    """Divisors whose squares overflow or vanish, and zero."""
    rng = np.random.default_rng(1)
    a, b = (rng.standard_normal(500) + 1j * rng.standard_normal(500) for _ in range(2))
    b[:200] *= 10.0 ** rng.integers(-300, 300, 200)
    b[200:204] = 0
    graph, arrays = make_graph([("div", [a, b], {}), ("mul", [a, a * 2], {})])
    with np.errstate(all="ignore"):
        quotient, product = Program(optimize(graph))(arrays)
        expected = a / b
    infinite = ~np.isfinite(expected)
    np.testing.assert_array_equal(quotient[infinite].real, expected[infinite].real)
    np.testing.assert_allclose(quotient[~infinite], expected[~infinite], rtol=1e-15)
    np.testing.assert_allclose(product, a * a * 2, rtol=1e-15)


@pytest.mark.parametrize("n", [0, 1, 2, 7, 16, 33])
def test_products(n):
    rng = np.random.default_rng(n)
    z = rng.standard_normal((3, n, 2)) + 1j * rng.standard_normal((3, n, 2))
    cases = [("prod", [z], {"dims": d, "keepdim": k}) for d in ((1,), (0, 1), (0, 1, 2)) for k in (False, True)]
    cases += [("cumprod", [z], {"dim": d}) for d in range(3)]
    graph, arrays = make_graph(cases)
    program = Program(optimize(graph))
    assert "numpy" not in program.kernels()
    for (name, _, params), got in zip(cases, program(arrays), strict=True):
        expected = PRIMITIVES[name].numpy(z, **params)
        assert got.shape == expected.shape
        np.testing.assert_allclose(got, expected, rtol=1e-12)


def test_a_step_with_complex_parameters():
    """Products, movement, sums and gradients; no part of it is computed by NumPy."""
    rng = np.random.default_rng(0)
    z = lambda *shape: rng.standard_normal(shape) + 1j * rng.standard_normal(shape)
    x, w = tw.tensor(z(5, 4)), z(4, 3)

    def run(compiled):
        weight = tw.tensor(w, requires_grad=True)

        def step(x):
            weight.grad = None
            y = (x @ weight).exp() * 0.1 + x[:, :1].conj()
            y = tw.cat([y, y.flip(0).reshape(5, 3) / 2], 1)
            loss = (y.abs() ** 2).sum() + (y * y).mean().real
            loss.backward()
            with tw.no_grad():
                weight.sub_(weight.grad * 0.01)
            return loss

        fn = tw.compile(step) if compiled else step
        losses = [fn(x).item() for _ in range(3)]
        if compiled:
            graph = tw.trace(step, x).graph
            assert "numpy" not in Program(optimize(graph)).kernels()
        return losses, weight.detach().numpy() if not compiled else None

    (eager, _), (compiled, _) = run(False), run(True)
    np.testing.assert_array_equal(compiled, eager)


def test_what_only_moves_stays_in_one_piece():
    x = tw.tensor([[1 + 2j, 3 - 1j], [0.5j, 4]])
    graph = optimize(tw.trace(lambda x: x.T.flip(0).reshape(4), x).graph)
    assert not any(n.prim.name in ("real", "imag", "complex") for n in graph.nodes)
    assert tw.compile(lambda x: x.T.flip(0).reshape(4))(x).tolist() == [3 - 1j, 4, 1 + 2j, 0.5j]


@pytest.mark.parametrize("name", ["mul", "asin", "abs", "pow"])
def test_open_kernels_on_other_processors(name):
    """Narrower vectors give the same bits, at every length; a number of another shape needs no other code."""
    p, rng = PRIMITIVES[name], np.random.default_rng(0)
    for dtype in (tw.complex64, tw.complex128):
        dtypes = [dtype] * eager_maps.arity(name)
        z = arguments(dtype.numpy, True)
        parts = eager_complex.parts_of(p, dtypes, {})
        kernels = [maps.PairMap(p, dtypes, {}, parts, t) for t in (AVX512, AVX2, SSE2) if t.runs_here]
        for n in (1, 2, 3, 7, 8, 15, 16, 17, 33, 664):
            x = [rng.permutation(z)[:n] for _ in dtypes]
            results = [k(x).tobytes() for k in kernels]
            assert len(set(results)) == 1, (name, dtype, n)
            if len(x) == 2:
                results = [k([x[0].reshape(n, 1), x[1][:3]]).tobytes() for k in kernels]
                wide = [np.ascontiguousarray(v) for v in np.broadcast_arrays(x[0].reshape(n, 1), x[1][:3])]
                assert {*results} == {kernels[0](wide).tobytes()}, (name, dtype, n)


def test_eager_shapes_compile_nothing_new(monkeypatch):
    z = tw.randn(4, 6, dtype=tw.complex64)
    functions = [lambda z: (z * z).exp() / (z.abs() + 1), lambda z: z @ z.mT, lambda z: z.sum(0) * z.prod()]
    for f in functions:
        f(z), f(tw.randn(300, 300, dtype=tw.complex64))

    def refuse(texts, _):
        assert not texts, "code is made"
        return []

    monkeypatch.setattr(jit, "_compile_all", refuse)
    for shape in ((1, 1), (17, 3), (5, 64), (2, 3, 5), (301, 299), (0, 4)):
        for f in functions:
            f(tw.randn(shape, dtype=tw.complex64))
