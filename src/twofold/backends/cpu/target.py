"""Target: what the generators need to know of a processor."""

from __future__ import annotations

import functools
from dataclasses import dataclass

import llvmlite.binding as llvm

_X86, _ARM = "x86_64-unknown-linux-gnu", "aarch64-unknown-linux-gnu"


@dataclass(frozen=True)
class Target:
    """A processor as the generators see it.

    Attributes:
        name: "avx512", "avx2", "sse2" or "neon".
        cpu, features: LLVM's names.
        vector_bytes: size of a vector register.
        num_registers: vector registers.
        fma: whether it has fused multiply-add instructions; without, each is a call of the C library,
            slow but with the same result.
        half: whether it converts float16 to and from float32 by an instruction.
        triple: LLVM's name of architecture and system; "" is this process's own.
    """

    name: str
    cpu: str
    features: str
    vector_bytes: int
    num_registers: int
    fma: bool
    half: bool = True
    triple: str = ""

    def lanes(self, itemsize: int) -> int:
        """Elements of `itemsize` bytes in a vector register."""
        return self.vector_bytes // itemsize

    @property
    def tile_rows(self) -> int:
        """Rows of a register tile two vectors wide, beside the vectors of one factor and a broadcast."""
        return 14 if self.num_registers >= 32 else 6

    @property
    def scales(self) -> bool:
        """Whether an instruction multiplies by powers of two with whatever exponent."""
        return self.name == "avx512"

    @property
    def is_native(self) -> bool:
        """Whether this process's processor is of its architecture."""
        return not self.triple or self.triple.split("-")[0] == llvm.get_process_triple().split("-")[0]

    @property
    def runs_here(self) -> bool:
        """Whether this process can execute its code."""
        own = llvm.get_host_cpu_features()
        wanted = [name[1:] for name in self.features.split(",") if name.startswith("+")]
        return self.is_native and (not self.triple or all(own.get(name, False) for name in wanted))


_AVX512 = "+avx512f,+avx512bw,+avx512dq,+avx512vl,+fma,+f16c,-prefer-256-bit"
AVX512 = Target("avx512", "x86-64-v4", _AVX512, 64, 32, True, True, _X86)
AVX2 = Target("avx2", "x86-64-v3", "+avx2,+fma,+f16c", 32, 16, True, True, _X86)
SSE2 = Target("sse2", "x86-64", "+sse2", 16, 16, False, False, _X86)
NEON = Target("neon", "generic", "+neon", 16, 32, True, True, _ARM)


@functools.cache
def host() -> Target:
    """The processor that this process runs on."""
    features = llvm.get_host_cpu_features()
    cpu, text = llvm.get_host_cpu_name(), features.flatten()
    if features.get("avx512f") and features.get("avx512vl"):
        text = text.replace("+prefer-256-bit", "-prefer-256-bit")
        return Target("avx512", cpu, text, 64, 32, True)
    if features.get("avx2") and features.get("fma"):
        return Target("avx2", cpu, text, 32, 16, True, bool(features.get("f16c")))
    if features.get("neon"):
        return Target("neon", cpu, text, 16, 32, True)
    return Target("sse2", cpu, text, 16, 16, bool(features.get("fma")), bool(features.get("f16c")))
