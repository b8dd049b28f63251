"""Target: what the generators need to know of a processor."""

from __future__ import annotations

import functools
from dataclasses import dataclass

import llvmlite.binding as llvm


@dataclass(frozen=True)
class Target:
    """A processor as the generators see it.

    Attributes:
        name: "avx512", "avx2", "sse2", "neon" or "generic".
        cpu, features: LLVM's names.
        vector_bytes: size of a vector register.
        num_registers: vector registers.
        fma: whether it has fused multiply-add instructions.
    """

    name: str
    cpu: str
    features: str
    vector_bytes: int
    num_registers: int
    fma: bool

    def lanes(self, itemsize: int) -> int:
        """Elements of `itemsize` bytes in a vector register."""
        return self.vector_bytes // itemsize


AVX512 = Target("avx512", "x86-64-v4", "+avx512f,+avx512bw,+avx512dq,+avx512vl,+fma,-prefer-256-bit", 64, 32, True)
AVX2 = Target("avx2", "x86-64-v3", "+avx2,+fma", 32, 16, True)
SSE2 = Target("sse2", "x86-64", "+sse2", 16, 16, False)
NEON = Target("neon", "generic", "+neon", 16, 32, True)


@functools.cache
def host() -> Target:
    """The processor that this process runs on."""
    features = llvm.get_host_cpu_features()
    cpu, text = llvm.get_host_cpu_name(), features.flatten()
    if features.get("avx512f") and features.get("avx512vl"):
        text = text.replace("+prefer-256-bit", "-prefer-256-bit")
        return Target("avx512", cpu, text, 64, 32, True)
    if features.get("avx2") and features.get("fma"):
        return Target("avx2", cpu, text, 32, 16, True)
    if features.get("neon"):
        return Target("neon", cpu, text, 16, 32, True)
    return Target("sse2", cpu, text, 16, 16, bool(features.get("fma")))
