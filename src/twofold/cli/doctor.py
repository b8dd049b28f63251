"""doctor: what this installation is made of, and whether it works."""

from __future__ import annotations

import importlib
import importlib.metadata
import os
import platform
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

import numpy as np

import twofold as tw

from ..autodiff.check import check_grads

_CORE = ("numpy", "ml_dtypes", "llvmlite", "rich", "typer")
_EXTRAS = {"vision": ("pillow",)}
_INTERESTING = ("sse2", "avx2", "fma", "f16c", "avx512f", "avx512_bf16", "avx512_vnni", "amx_tile", "asimd", "sve")


def examine() -> bool:
    """Print the report; True when every check passed."""
    print(f"twofold {tw.__version__}, Python {platform.python_version()} ({sys.executable})")
    print(f"{platform.system()} {platform.release()}, {platform.machine()}")
    print(f"CPU: {_cpu_name()}, {_num_cpus()} of {os.cpu_count()} CPUs usable, {tw.get_num_threads()} threads")
    print(f"CPU features: {' '.join(_cpu_features()) or 'unknown'}")
    print("\nRequired:")
    found = [_show_package(name, required=True) for name in _CORE]
    print("\nOptional:")
    for extra, packages in _EXTRAS.items():
        for name in packages:
            _show_package(name, extra=extra)
    print("\nChecks:")
    passed = [_check(name, fn) for name, fn in _CHECKS.items()]
    return all(found + passed)


def warm() -> None:
    """Compile what eager code uses, so that its first operations need not wait for it."""
    importlib.import_module("twofold.compiler.warm").warm()


def _show_package(name: str, *, required: bool = False, extra: str = "") -> bool:
    try:
        print(f"  {name} {importlib.metadata.version(name)}")
        return True
    except importlib.metadata.PackageNotFoundError:
        print(f"  {name} missing" + (" (REQUIRED)" if required else f": pip install 'twofold[{extra}]'"))
        return False


def _check(name: str, fn: Callable[[], None]) -> bool:
    started = time.perf_counter()
    try:
        fn()
    except Exception as e:
        print(f"  FAILED {name}: {type(e).__name__}: {e}")
        return False
    print(f"  ok     {name} ({1e3 * (time.perf_counter() - started):.0f} ms)")
    return True


def _check_tensors() -> None:
    x = tw.linspace(0.0, 1.0, 5)
    assert np.allclose((x * 2 + 1).numpy(), np.linspace(1, 3, 5))


def _check_gradients() -> None:
    check_grads(lambda x: (x.sin() * x.exp()).sum(), (tw.linspace(0.1, 1.0, 4).double(),))


def _check_training() -> None:
    tw.manual_seed(0)
    model = tw.nn.Sequential(tw.nn.Linear(4, 8), tw.nn.Tanh(), tw.nn.Linear(8, 1))
    optimizer = tw.optim.Adam(model.parameters(), lr=0.02)
    x = tw.randn(64, 4)
    y = x.sum(dim=1, keepdim=True)
    losses = []
    for _ in range(60):
        optimizer.zero_grad()
        loss = tw.nn.functional.mse_loss(model(x), y)
        loss.backward()
        optimizer.step()
        losses.append(loss.item())
    assert losses[-1] < losses[0] / 4, f"the loss went from {losses[0]:.3f} to {losses[-1]:.3f}"


def _check_tracing() -> None:
    t = tw.trace(lambda x: (x * x).sum(), tw.ones(3))
    assert t(tw.tensor([1.0, 2.0, 3.0])).item() == 14.0


def _check_compiling() -> None:
    compiled = tw.compile(lambda x: (x * 2 + 1).sum())
    assert compiled(tw.ones(3)).item() == 9.0
    kernels = compiled.lower(tw.ones(3)).kernels()
    assert "numpy" not in kernels, f"no native kernel: {kernels}"


def _check_saving() -> None:
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "x.safetensors"
        tw.save({"x": [tw.ones(3), 1.5]}, path)
        assert tw.load(path)["x"][1] == 1.5


_CHECKS = {
    "tensors": _check_tensors,
    "gradients": _check_gradients,
    "training": _check_training,
    "tracing": _check_tracing,
    "compiling": _check_compiling,
    "saving": _check_saving,
}


def _num_cpus() -> int:
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def _cpuinfo() -> dict[str, str]:
    try:
        text = Path("/proc/cpuinfo").read_text(encoding="utf-8")
    except OSError:
        return {}
    pairs = (line.split(":", 1) for line in text.split("\n\n")[0].splitlines() if ":" in line)
    return {k.strip(): v.strip() for k, v in pairs}


def _cpu_name() -> str:
    return _cpuinfo().get("model name") or platform.processor() or platform.machine()


def _cpu_features() -> list[str]:
    info = _cpuinfo()
    flags = set((info.get("flags") or info.get("Features") or "").split())
    return [f for f in _INTERESTING if f in flags]
