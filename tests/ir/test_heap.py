"""Freed memory stays with the process, so that the arrays of the next step need no new pages."""

import os
import platform
import subprocess
import sys

import pytest

_CODE = """
import resource
import numpy as np
import twofold

def step():
    a = np.empty(16 << 20, np.uint8)
    a[::4096] = 1
    b = np.empty(8 << 20, np.uint8)
    b[::4096] = 1

step()
before = resource.getrusage(resource.RUSAGE_SELF).ru_minflt
for _ in range(10):
    step()
print(resource.getrusage(resource.RUSAGE_SELF).ru_minflt - before)
"""


def faults(keep: str) -> int:
    env = {k: v for k, v in os.environ.items() if not k.startswith("MALLOC_")} | {"TWOFOLD_KEEP_MEMORY": keep}
    out = subprocess.run([sys.executable, "-c", _CODE], env=env, capture_output=True, text=True, check=True)
    return int(out.stdout)


@pytest.mark.skipif(platform.libc_ver()[0] != "glibc", reason="the heap of glibc")
def test_arrays_of_later_steps_need_no_new_pages():
    assert faults("1") < 1000  # of the 60,000 pages that the ten steps touch
    assert faults("0") > 10 * faults("1")


@pytest.mark.skipif(platform.libc_ver()[0] != "glibc", reason="the heap of glibc")
def test_what_is_free_can_be_given_back():
    code = """
import numpy as np
import twofold as tw
from twofold.ir import heap

def resident():
    with open("/proc/self/statm") as f:
        return int(f.read().split()[1]) * 4096

before = resident()
kept = [np.ones(1 << 20, np.uint8) for _ in range(64)]
del kept[:63]  # the last one stands at the end of the heap
assert resident() - before > 60 << 20
assert heap.give_back()
print(resident() - before)
"""
    out = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert int(out.stdout) < 16 << 20
