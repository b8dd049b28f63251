"""Errors of compiled functions in units in the last place: `python -m benchmarks.accuracy`.

float32 is compared with NumPy's functions of float64, over numbers that are spread over all bit
patterns; float64 with those of the C library's long double, which have 11 bits more. erf, lgamma and
digamma have no such function: 30 digits of mpmath are computed for fewer numbers, and for the latter two
for positive ones only (on the others they have an absolute error). Errors are those of the largest element
found, so they are bounds from below; `docs/design/0003-numerics.md` says what they were. With `--all`, functions
of one float32 are computed of all 2**32 numbers (two to five minutes each), and those that have no function in
NumPy are compared with ours of float64.
"""

from __future__ import annotations

import argparse
from collections.abc import Callable
from typing import Any

import mpmath
import numpy as np

import twofold as tw

Array = np.ndarray[Any, Any]


def _sigmoid(x: Array) -> Array:
    return 1 / (1 + np.exp(-x))


def _by_mpmath(fn: Callable[[Any], Any]) -> Callable[[Array], Array]:
    def digits(x: Array) -> Array:
        with mpmath.workdps(30):
            return np.array([np.longdouble(mpmath.nstr(fn(mpmath.mpf(float(v))), 25)) for v in x])

    return digits


FUNCTIONS: dict[str, Callable[..., Array]] = {
    "exp": np.exp, "expm1": np.expm1, "log": np.log, "log1p": np.log1p, "sigmoid": _sigmoid, "tanh": np.tanh,
    "sqrt": np.sqrt, "rsqrt": lambda x: 1 / np.sqrt(x), "sin": np.sin, "cos": np.cos, "tan": np.tan,
    "asin": np.arcsin, "acos": np.arccos, "atan": np.arctan, "sinh": np.sinh, "cosh": np.cosh, "asinh": np.arcsinh,
    "acosh": np.arccosh, "atanh": np.arctanh, "pow": np.power, "atan2": np.arctan2,
    "erf": _by_mpmath(mpmath.erf), "lgamma": _by_mpmath(mpmath.loggamma), "digamma": _by_mpmath(mpmath.digamma),
}  # fmt: skip
POSITIVE, SLOW = {"lgamma", "digamma"}, {"erf", "lgamma", "digamma"}
TWO_ARGUMENTS = {"pow", "atan2"}


def numbers(dtype: Any, count: int, seed: int) -> Array:
    """All magnitudes alike, and as many numbers of everyday size; no NaN and infinities."""
    rng, bits = np.random.default_rng(seed), np.finfo(dtype).bits
    spread = (np.arange(count, dtype=np.uint64) * np.uint64(2**64 // count) >> np.uint64(64 - bits)).astype(
        f"u{bits // 8}"
    )
    spread ^= rng.integers(0, 1 << 16, count).astype(spread.dtype)
    everyday = rng.standard_normal(count) * rng.choice([0.1, 1, 10, 100], count)
    near = np.concatenate([rng.uniform(-1, 1, count), 1 + rng.normal(0, 1e-3, count)])
    out = np.concatenate([spread.view(dtype), everyday.astype(dtype), near.astype(dtype)])
    return np.ascontiguousarray(out[np.isfinite(out)])


def error(name: str, dtype: Any, count: int) -> tuple[float, str, bool]:
    """The largest error in units in the last place, where it is, and whether special cases agree."""
    wide = np.float64 if dtype == np.float32 else np.longdouble
    if name in SLOW:
        count = min(count, 3000)
    arguments = [numbers(dtype, count, seed) for seed in range(1 + (name in TWO_ARGUMENTS))]
    if name in POSITIVE:
        arguments = [np.abs(a[np.abs(a) < 1e30]) for a in arguments]
    if len(arguments) == 2:
        arguments[1] = np.random.default_rng(2).permutation(arguments[1])
    arguments = [a[: min(map(len, arguments))] for a in arguments]
    got = tw.compile(getattr(tw, name))(*map(tw.from_numpy, arguments)).numpy()
    with np.errstate(all="ignore"):
        exact = FUNCTIONS[name](*[a.astype(wide) for a in arguments])
        rounded = exact.astype(dtype)
        same_kind = (np.isnan(rounded) == np.isnan(got)).all() and (
            np.isinf(rounded) == np.isinf(got)
        ).mean() > 0.9999
        unit = np.spacing(np.abs(rounded).astype(dtype)).astype(wide)
        errors = np.abs(got.astype(wide) - exact) / unit
    errors[~(np.isfinite(rounded) & np.isfinite(got))] = 0
    place = int(errors.argmax())
    return float(errors[place]), ", ".join(str(a[place]) for a in arguments), bool(same_kind)


def error_of_all(name: str) -> tuple[float, str, bool]:
    """As `error`, of all numbers of float32."""
    fn, most, place, same = tw.compile(getattr(tw, name)), 0.0, "", True
    for start in range(0, 1 << 32, 1 << 22):
        x = np.arange(start, start + (1 << 22), dtype=np.uint64).astype(np.uint32).view(np.float32)
        got = fn(tw.from_numpy(x)).numpy()
        with np.errstate(all="ignore"):
            wide = x.astype(np.float64)
            exact = fn(tw.from_numpy(wide)).numpy() if name in SLOW else FUNCTIONS[name](wide)
            rounded = exact.astype(np.float32)
            errors = np.abs(got - exact) / np.spacing(np.abs(rounded)).astype(np.float64)
        finite = np.isfinite(rounded)
        same &= np.array_equal(got[~finite], rounded[~finite], equal_nan=True)
        same &= bool(np.isfinite(got[finite]).all())
        errors[~finite] = 0
        worst = int(errors.argmax())
        if errors[worst] > most:
            most, place = float(errors[worst]), str(x[worst])
    return most, place, same


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("functions", nargs="*", default=list(FUNCTIONS))
    parser.add_argument("--count", type=int, default=1 << 20, help="numbers spread over all bit patterns")
    parser.add_argument("--all", action="store_true", help="all numbers of float32, for functions of one argument")
    options = parser.parse_args()
    print(f"{'':<10}{'float32':>10}  {'at':<28}" + ("" if options.all else f"{'float64':>10}  at"))
    for name in options.functions:
        if options.all:
            if name not in TWO_ARGUMENTS:
                most, at, same = error_of_all(name)
                print(f"{name:<10}{most:>10.3f}  {at}{'' if same else ' (NaN or inf differ)'}", flush=True)
            continue
        row = f"{name:<10}"
        for dtype in (np.float32, np.float64):
            largest, place, same = error(name, dtype, options.count)
            row += f"{largest:>10.3f}  {place + ('' if same else ' (NaN or inf differ)'):<28}"
        print(row.rstrip(), flush=True)


if __name__ == "__main__":
    main()
