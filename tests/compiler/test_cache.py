"""The folder of compiled code: many writers, damage, its size, other processors, places that can't be written."""

from __future__ import annotations

import dataclasses
import os
import subprocess
import sys
import time
from pathlib import Path

import pytest

import twofold as tw
from twofold.backends.cpu import jit
from twofold.backends.cpu.target import host
from twofold.ir import config

PROGRAM = """
import sys
import twofold as tw

for i in range(3):
    f = tw.compile(lambda x: ((x * (i + 2.5)).exp() + x.mT @ x).sum(0))
    x = tw.arange(16, dtype=tw.float32).reshape(4, 4) / 16
    assert tw.allclose(f(x), f.fn(x), rtol=1e-5), i
print("good")
"""


def text_of(number: int) -> str:
    """A module of its own for each number."""
    return f"define i64 @kernel() {{\n  ret i64 {number}\n}}\n"


@pytest.fixture
def folder(tmp_path):
    """An empty cache, used inside the test."""
    with tw.debug.settings(cache_dir=tmp_path / "cache"):
        yield tmp_path / "cache" / "objects"


@pytest.fixture
def compiled(monkeypatch):
    """The texts that LLVM compiled, in order."""
    seen = []
    inner = jit._compile_all
    monkeypatch.setattr(jit, "_compile_all", lambda texts, target: seen.extend(texts) or inner(texts, target))
    return seen


def entries(folder: Path) -> list[Path]:
    return sorted(folder.iterdir())


def test_what_was_compiled_is_read_next_time(folder, compiled):
    first = jit.object_code(text_of(1), host())
    assert compiled == [text_of(1)] and len(entries(folder)) == 1
    assert jit.object_code(text_of(1), host()) == first
    assert len(compiled) == 1
    jit.object_codes([text_of(1), text_of(2)], host())
    assert compiled == [text_of(1), text_of(2)] and len(entries(folder)) == 2


def flip(data: bytes, place: int) -> bytes:
    return data[:place] + bytes([data[place] ^ 1]) + data[place + 1 :]


DAMAGE = {
    "empty": lambda data: b"",
    "half of its head": lambda data: data[:5],
    "no contents": lambda data: data[:40],
    "one byte short": lambda data: data[:-1],
    "half": lambda data: data[: len(data) // 2],
    "one byte more": lambda data: data + b"\0",
    "another format": lambda data: b"TWOBJ99\n" + data[8:],
    "a bit of the sum": lambda data: flip(data, 20),
    "a bit of the code": lambda data: flip(data, len(data) // 2),
    "the last bit": lambda data: flip(data, len(data) - 1),
    "zeros": lambda data: bytes(len(data)),
}


@pytest.mark.parametrize("damage", DAMAGE)
def test_damaged_entries_are_compiled_again_and_mended(damage, folder, compiled):
    expected = jit.object_code(text_of(3), host())
    (path,) = entries(folder)
    good = path.read_bytes()
    path.write_bytes(DAMAGE[damage](good))
    assert jit.object_code(text_of(3), host()) == expected
    assert compiled == [text_of(3)] * 2
    assert path.read_bytes() == good
    jit.object_code(text_of(3), host())
    assert len(compiled) == 2


def test_programs_run_from_a_damaged_cache(folder):
    def once():
        f = tw.compile(lambda x: (x * 1.75).tanh() + x)
        return f(tw.ones(5)).tolist()

    expected = once()
    for path in entries(folder):
        path.write_bytes(path.read_bytes()[:100])
    jit._loaded.clear()
    assert once() == expected


def test_many_writers(tmp_path):
    """Processes that compile the same at once, one of which is killed on the way."""
    env = dict(os.environ, TWOFOLD_CACHE_DIR=str(tmp_path))
    command = [sys.executable, "-c", PROGRAM]
    killed = subprocess.Popen(command, env=env, stdout=subprocess.DEVNULL)
    processes = [subprocess.Popen(command, env=env, stdout=subprocess.PIPE, text=True) for _ in range(2)]
    time.sleep(0.4)
    killed.kill()
    outputs = [p.communicate()[0] for p in processes]
    killed.wait()
    assert outputs == ["good\n"] * 2
    found = entries(tmp_path / "objects")
    whole = [p for p in found if not p.name.startswith(".")]
    assert len(found) - len(whole) <= 1, "what was killed may leave one file"
    assert whole and all(jit._read(p) is not None for p in whole)
    before = {p: p.stat().st_mtime_ns for p in whole}
    assert subprocess.run(command, env=env, capture_output=True, text=True).stdout == "good\n"
    after = {p for p in entries(tmp_path / "objects") if not p.name.startswith(".")}
    assert after == before.keys(), "everything was there already"


def test_the_size_is_bounded(folder, monkeypatch):
    monkeypatch.setattr(jit, "_WRITES_PER_BOUND", 1)
    size = 0
    for i in range(30):
        jit.object_code(text_of(i), host())
        size = size or entries(folder)[0].stat().st_size
        for age, path in enumerate(sorted(entries(folder), key=lambda p: -p.stat().st_mtime_ns)):
            os.utime(path, ns=(0, 10**18 - age * 10**9))  # the order is that of writing, on any file system
        if i == 4:
            monkeypatch.setattr(config.CACHE_BYTES, "value", 10 * size)
    assert 0 < len(entries(folder)) <= 11
    newest = jit._cache_path(text_of(29), host())
    oldest = jit._cache_path(text_of(0), host())
    assert newest is not None and newest.exists() and oldest is not None and not oldest.exists()


def test_what_is_used_stays(folder, monkeypatch):
    for i in range(6):
        jit.object_code(text_of(i), host())
        os.utime(jit._cache_path(text_of(i), host()), (1000 + i, 1000 + i))
    jit.object_code(text_of(0), host())  # the oldest, but used just now
    monkeypatch.setattr(config.CACHE_BYTES, "value", 2 * entries(folder)[0].stat().st_size)
    jit._bound(folder)
    left = {p.name for p in entries(folder)}
    assert left == {jit._cache_path(text_of(i), host()).name for i in (0, 5)}


def test_files_of_writers_that_were_killed_go_too(folder):
    jit.object_code(text_of(0), host())
    stray, young = folder / ".half-written.o.123.456", folder / ".being-written.o.124.456"
    for path in (stray, young):
        path.write_bytes(b"x" * 100)
    os.utime(stray, (1000, 1000))
    jit._bound(folder)
    assert not stray.exists() and young.exists() and len(entries(folder)) == 2


def test_other_processors_have_entries_of_their_own(folder):
    target = host()
    others = [
        dataclasses.replace(target, features=target.features + ",-avx512f"),
        dataclasses.replace(target, cpu="x86-64"),
        dataclasses.replace(target, triple="x86_64-other-linux"),
    ]
    paths = {jit._cache_path(text_of(0), t) for t in (target, *others)}
    assert len(paths) == 4
    # where the parts touch, moving a letter from one to the next makes another key
    a = dataclasses.replace(target, cpu="ab", features="c")
    b = dataclasses.replace(target, cpu="a", features="bc")
    assert jit._cache_path("", a) != jit._cache_path("", b)


def test_versions_have_entries_of_their_own(folder, monkeypatch):
    before = jit._cache_path(text_of(0), host())
    monkeypatch.setattr(jit, "_LLVM", "99.0.0")
    assert jit._cache_path(text_of(0), host()) != before


def test_the_same_code_gives_the_same_kernels():
    def sums(a, b, c):
        return (a.mT * b.mT + c.mT).sum(0), (a.mT - c.mT).sum(0)

    arrays = [tw.ones(20, 40) for _ in range(3)]
    assert len({tuple(tw.compile(sums).lower(*arrays).texts.values()) for _ in range(8)}) == 1


def test_no_cache():
    with tw.debug.settings(cache_dir="0"):
        assert jit._cache_path(text_of(0), host()) is None
        assert jit.object_code(text_of(0), host()) == jit.object_code(text_of(0), host())


def test_a_place_that_can_not_be_made(tmp_path, compiled):
    """The parent of the folder is a file."""
    (tmp_path / "file").write_text("")
    with tw.debug.settings(cache_dir=tmp_path / "file" / "cache"):
        assert jit.object_code(text_of(0), host()) == jit.object_code(text_of(0), host())
    assert len(compiled) == 2


def test_a_folder_that_can_only_be_read(folder, compiled, monkeypatch):
    """What is there is used; what is new is compiled and not kept, and nothing complains."""
    jit.object_code(text_of(0), host())

    def refuse(*args, **kwargs):
        raise PermissionError(30, "Read-only file system")

    monkeypatch.setattr(Path, "write_bytes", refuse)
    monkeypatch.setattr(os, "utime", refuse)
    monkeypatch.setattr(os, "replace", refuse)
    jit.object_code(text_of(0), host())
    assert len(compiled) == 1
    assert jit.object_code(text_of(1), host()) == jit.object_code(text_of(1), host())
    assert len(compiled) == 3 and len(entries(folder)) == 1


@pytest.mark.skipif(not hasattr(os, "geteuid") or os.geteuid() == 0, reason="root writes anywhere")
def test_a_folder_without_the_right_to_write(folder, compiled):
    jit.object_code(text_of(0), host())
    folder.chmod(0o500)
    try:
        jit.object_code(text_of(0), host())
        jit.object_code(text_of(1), host())
    finally:
        folder.chmod(0o700)
    assert len(compiled) == 2 and len(entries(folder)) == 1
