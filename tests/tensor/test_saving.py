"""tw.save and tw.load: round trips, atomic writes, and files that lie."""

from __future__ import annotations

import json
import math
import os
import pickle
import sys
import zipfile
from collections import OrderedDict
from pathlib import Path
from typing import Any

import ml_dtypes
import numpy as np
import pytest
from safetensors.numpy import load_file, save_file

import twofold as tw
from twofold.ir.dtypes import ALL, DType
from twofold.ir.errors import DTypeError, FileFormatError
from twofold.tensors import _safetensors

EVERYTHING: dict[Any, Any] = {
    "step": 3,
    "rate": 0.1,
    "name": "käse ✓ \ud800",
    "none": None,
    "flags": [True, False],
    "pair": (1, -2.5, (), []),
    "odd": [math.inf, -math.inf, 1 + 2j, complex(0.0, math.inf), 10**30, -0.0, 5e-324],
    7: {"inner": {-1: "negative key"}},
    "ordered": OrderedDict([("b", 1), ("a", 2)]),
}


def equal(a: Any, b: Any) -> bool:
    """Equal, with the same types, dtypes and bits."""
    if isinstance(a, tw.Tensor):
        same = isinstance(b, tw.Tensor) and a.dtype is b.dtype and a.shape == b.shape
        return same and a.numpy().tobytes() == b.numpy().tobytes()
    if type(a) is not type(b):
        return False
    if isinstance(a, dict):
        return list(a) == list(b) and all(equal(a[k], b[k]) for k in a)
    if isinstance(a, (list, tuple)):
        return len(a) == len(b) and all(equal(x, y) for x, y in zip(a, b, strict=True))
    return a == b and str(a) == str(b)


def saved(tmp_path: Path, obj: Any) -> Path:
    path = tmp_path / "x.safetensors"
    tw.save(obj, path)
    return path


def test_plain_values_come_back(tmp_path: Path) -> None:
    assert equal(tw.load(saved(tmp_path, EVERYTHING)), EVERYTHING)
    assert math.isnan(tw.load(saved(tmp_path, float("nan"))))


@pytest.mark.parametrize("dtype", ALL, ids=lambda d: d.name)
@pytest.mark.parametrize("shape", [(), (0,), (3,), (2, 0, 3), (2, 3)])
def test_every_dtype_comes_back(tmp_path: Path, dtype: DType, shape: tuple[int, ...]) -> None:
    numbers = np.random.default_rng(0).integers(0, 2 if dtype.name == "bool" else 100, shape)
    array = np.asarray(numbers, dtype.numpy)
    obj = {"x": tw.from_numpy(array), "odd one": tw.ones(1, dtype=tw.uint8)}
    back = tw.load(saved(tmp_path, obj))
    assert equal(back, obj)
    back["x"].zero_()  # the memory is ours to write


def test_nan_payloads_and_signed_zeros_keep_their_bits(tmp_path: Path) -> None:
    bits = np.array([0x7FC00001, 0x80000000, 0xFF800000], np.uint32).view(np.float32)
    assert equal(tw.load(saved(tmp_path, tw.from_numpy(bits))), tw.from_numpy(bits))


def test_strided_tensors_and_parameters(tmp_path: Path) -> None:
    x = tw.arange(12).reshape(3, 4).float()
    p = tw.ones(2, requires_grad=True)
    back = tw.load(saved(tmp_path, [x.t(), x[::2, 1:], p]))
    assert back[0].tolist() == x.t().tolist() and back[1].tolist() == x[::2, 1:].tolist()
    assert not back[2].requires_grad and back[2].tolist() == [1.0, 1.0]


def test_shared_tensors_are_stored_once_and_shared_again(tmp_path: Path) -> None:
    x = tw.zeros(1000)
    path = saved(tmp_path, {"a": x, "b": [x, x.detach()], "view": x[:2]})
    assert path.stat().st_size < 2 * 4000
    back = tw.load(path)
    back["a"][0] = 5.0
    assert back["b"][0][0].item() == 5.0 and back["b"][1] is back["a"]
    assert back["view"].tolist() == [0.0, 0.0]


def test_other_tools_read_our_tensors(tmp_path: Path) -> None:
    half = tw.ones(1, dtype=tw.bfloat16)
    arrays = load_file(saved(tmp_path, {"w": tw.ones(2, 3), "k": tw.arange(3), "half": half}))
    assert sorted(a.shape for a in arrays.values()) == [(1,), (2, 3), (3,)]


def test_files_of_other_tools(tmp_path: Path) -> None:
    path = tmp_path / "theirs.safetensors"
    arrays = {"b": np.arange(3), "a.weight": np.ones((2, 2), np.float32), "flag": np.array([True, False])}
    save_file(arrays, path, metadata={"format": "pt"})
    back = tw.load(path)
    assert {name: t.tolist() for name, t in back.items()} == {name: a.tolist() for name, a in arrays.items()}


def test_bfloat16_of_another_tool(tmp_path: Path) -> None:
    path = tmp_path / "theirs.safetensors"
    save_file({"x": np.array([1.5, -2.0], ml_dtypes.bfloat16)}, path)
    x = tw.load(path)["x"]
    assert x.dtype is tw.bfloat16 and x.tolist() == [1.5, -2.0]


# What can't be saved -------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("obj", "message"),
    [
        ({"optimizer": {"fn": len}}, r"obj\['optimizer'\]\['fn'\] is a function"),
        ([1, ({2},)], r"obj\[1\]\[0\] is of type set"),
        ({"a": {1.5: 2}}, r"a key of obj\['a'\] is 1.5 of type float"),
        ([b"bytes"], r"obj\[0\] is of type bytes"),
        (object(), "obj is of type object"),
    ],
)
def test_the_place_of_what_cannot_be_saved(tmp_path: Path, obj: Any, message: str) -> None:
    with pytest.raises(DTypeError, match=message):
        tw.save(obj, tmp_path / "x")
    assert not list(tmp_path.iterdir())


def test_nestings_without_end(tmp_path: Path) -> None:
    loop: list[Any] = []
    loop.append(loop)
    with pytest.raises(DTypeError, match=r"obj\[0\] contains itself"):
        tw.save(loop, tmp_path / "x")
    deep: list[Any] = []
    for _ in range(500):
        deep = [deep]
    with pytest.raises(DTypeError, match="nested more than"):
        tw.save(deep, tmp_path / "x")


# Atomic writes -------------------------------------------------------------------------------------


@pytest.mark.parametrize("step", ["fsync", "replace"])
def test_a_failing_write_leaves_the_old_file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, step: str) -> None:
    path = saved(tmp_path, {"version": 1})

    def fail(*_: Any) -> None:
        raise OSError("disk full")

    with monkeypatch.context() as patch:
        patch.setattr(_safetensors.os, step, fail)
        with pytest.raises(OSError, match="disk full"):
            tw.save({"version": 2}, path)
    assert tw.load(path) == {"version": 1}
    assert [p.name for p in tmp_path.iterdir()] == ["x.safetensors"]


def test_the_new_file_is_synced_before_it_takes_the_name(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = saved(tmp_path, {"version": 1})
    calls = []
    fsync, replace = os.fsync, os.replace
    monkeypatch.setattr(_safetensors.os, "fsync", lambda h: (calls.append("fsync"), fsync(h))[1])
    monkeypatch.setattr(_safetensors.os, "replace", lambda a, b: (calls.append("replace"), replace(a, b))[1])
    tw.save({"version": 2}, path)
    assert calls == ["fsync", "replace", "fsync"]  # the file, the rename, the directory


# Damaged and lying files ---------------------------------------------------------------------------


def sample(tmp_path: Path) -> tuple[Path, Any]:
    obj = {"w": tw.arange(20).float().reshape(4, 5), "b": [tw.ones(3, dtype=tw.bool), 2, "three"], "c": (1.5, None)}
    return saved(tmp_path, obj), obj


def check_damaged(path: Path, data: bytes, obj: Any) -> None:
    """Either the error that says so, or nothing was lost."""
    path.write_bytes(data)
    try:
        back = tw.load(path)
    except FileFormatError as e:
        assert str(path) in str(e)
        return
    assert equal(back, obj)


def test_every_truncation_is_noticed(tmp_path: Path) -> None:
    path, _ = sample(tmp_path)
    data = path.read_bytes()
    for n in range(len(data)):
        path.write_bytes(data[:n])
        with pytest.raises(FileFormatError):
            tw.load(path)
    path.write_bytes(data + b"x")
    with pytest.raises(FileFormatError, match="appended"):
        tw.load(path)


def test_every_flipped_byte_is_noticed_or_harmless(tmp_path: Path) -> None:
    path, obj = sample(tmp_path)
    data = path.read_bytes()
    rng = np.random.default_rng(0)
    for place in range(len(data)):
        flipped = bytearray(data)
        flipped[place] ^= 1 << int(rng.integers(8))
        check_damaged(path, bytes(flipped), obj)


def test_random_damage(tmp_path: Path) -> None:
    path, obj = sample(tmp_path)
    data = path.read_bytes()
    rng = np.random.default_rng(1)
    for _ in range(400):
        damaged = bytearray(data)
        for place in rng.integers(0, len(data), int(rng.integers(1, 12))):
            damaged[place] = int(rng.integers(256))
        check_damaged(path, bytes(damaged[: int(rng.integers(0, len(data) + 1))]), obj)
        check_damaged(path, bytes(damaged), obj)


def lie(tmp_path: Path, header: Any, data: bytes = b"\0" * 16) -> Path:
    path = tmp_path / "lie.safetensors"
    text = header if isinstance(header, bytes) else json.dumps(header).encode()
    path.write_bytes(len(text).to_bytes(8, "little") + text + data)
    return path


def entry(dtype: Any = "F32", shape: Any = (4,), offsets: Any = (0, 16)) -> dict[str, Any]:
    return {"dtype": dtype, "shape": shape, "data_offsets": offsets}


@pytest.mark.parametrize(
    ("header", "message"),
    [
        ({"a": entry(shape=[5])}, r"shape \(5,\) and dtype float32 needs 20 bytes, but has 16"),
        ({"a": entry(dtype="F8_E4M3")}, "unknown dtype 'F8_E4M3'"),
        ({"a": entry(dtype=["F32"])}, "unknown dtype"),
        ({"a": entry(offsets=[0, 17])}, "lies at bytes 0 to 17, but there are 16"),
        ({"a": entry(offsets=[16, 0])}, "lies at bytes 16 to 0"),
        ({"a": entry(offsets=[0, 1 << 62], shape=[1 << 60])}, "but there are 16"),
        ({"a": entry(shape=[1 << 62, 0, 3], offsets=[0, 0])}, "impossible shape|end at byte"),
        ({"a": entry(shape=[-4])}, "impossible shape"),
        ({"a": entry(shape=[2.0, 2])}, "impossible shape"),
        ({"a": entry(shape=[1] * 65)}, "impossible shape"),
        ({"a": entry(shape=[True, 4])}, "impossible shape"),
        ({"a": entry(offsets="0-16")}, "impossible offsets"),
        ({"a": {"dtype": "F32"}}, "lacks dtype, shape or data_offsets"),
        ({"a": 3}, "lacks dtype"),
        ({"a": entry(), "b": entry()}, "'b' at bytes 0 to 16 overlaps"),
        ({"a": entry(shape=[1], offsets=[0, 4]), "b": entry(shape=[1], offsets=[12, 16])}, "leaves a gap of 8"),
        ({"a": entry(shape=[1], offsets=[0, 4])}, "its tensors end at byte 4 of 16"),
        ({"__metadata__": 3, "a": entry()}, "__metadata__ is no object"),
        ({"__metadata__": {"twofold": "{}"}, "a": entry()}, "lacks the nesting or the checksum"),
        (b"[]", "does not begin with"),
        (b"{" * 20000, "no valid JSON"),
        (b'{"a":' * 20000, "no valid JSON: it is nested too deeply"),
        (b'{"a": NaN}', "NaN is no JSON"),
        (b'{"a": 1, "a": 2}', "occurs twice"),
        (b"\xff\xfe", "does not begin with"),
        (b'{"\xff": 1}', "no valid JSON"),
    ],
)
def test_lying_headers(tmp_path: Path, header: Any, message: str) -> None:
    with pytest.raises(FileFormatError, match=message):
        tw.load(lie(tmp_path, header))


def test_a_huge_header_length_takes_no_memory(tmp_path: Path) -> None:
    path = tmp_path / "huge.safetensors"
    for length in ((1 << 63) - 1, (1 << 64) - 1, 1 << 40):
        path.write_bytes(length.to_bytes(8, "little") + b"{}")
        with pytest.raises(FileFormatError, match=f"announce a header of {length} bytes"):
            tw.load(path)
    with open(path, "wb") as file:  # a sparse file with a header that fits, but is too large to parse
        file.write((200 << 20).to_bytes(8, "little"))
        file.truncate(201 << 20)
    with pytest.raises(FileFormatError, match="larger than the limit"):
        tw.load(path)


def test_a_nesting_that_lies(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Even with a right checksum the nesting is not trusted."""
    path = tmp_path / "x.safetensors"
    monkeypatch.setattr(sys.modules["twofold.tensors.saving"], "_checksum", lambda *_: "right")
    deep: Any = 0
    for _ in range(400):
        deep = ["list", deep]
    for tree in (
        ["tensor", "t9"], ["tensor"], ["tensor", []], ["tensor", "t0", "float32"], ["tensor", "t0", "complex128"],
        ["what", 1], [], [1], {"a": 1}, ["float", "1"], ["float"], ["complex", 1], ["complex", "a", "b"],
        ["dtype", "str"], ["dict", 1], ["dict", [1]], ["dict", [[], 1]], ["dict", ["a", 1], ["a", 2]],
        ["dict", [None, 1]], deep,
    ):  # fmt: skip
        metadata = {"twofold": json.dumps({"format": 1, "tree": tree}), "twofold_sha256": "right"}
        save_file({"t0": np.zeros(3, np.float32)}, path, metadata=metadata)
        with pytest.raises(FileFormatError, match="metadata 'twofold'"):
            tw.load(path)


def test_a_newer_format_is_refused(tmp_path: Path) -> None:
    metadata = {"twofold": json.dumps({"format": 2, "tree": 1}), "twofold_sha256": ""}
    path = tmp_path / "x.safetensors"
    save_file({}, path, metadata=metadata)
    with pytest.raises(FileFormatError, match="has format 2, this version reads 1"):
        tw.load(path)


def test_pickles_and_archives_are_refused_with_advice(tmp_path: Path) -> None:
    path = tmp_path / "model.pt"
    with zipfile.ZipFile(path, "w") as archive:
        archive.writestr("archive/data.pkl", "x")
    with pytest.raises(FileFormatError, match=r"zip archive, such as PyTorch's .pt[\s\S]*torch.save_file"):
        tw.load(path)
    for protocol in (2, 3, 4, 5):
        path.write_bytes(pickle.dumps({"a": list(range(10))}, protocol=protocol))
        with pytest.raises(FileFormatError, match="is a pickle, which could run any code"):
            tw.load(path)
    np.save(tmp_path / "x.npy", np.ones(3))
    with pytest.raises(FileFormatError, match="is a NumPy file"):
        tw.load(tmp_path / "x.npy")


def test_a_missing_file_is_an_ordinary_error(tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError):
        tw.load(tmp_path / "nothing")


def test_load_takes_the_arguments_that_pytorch_programs_give(tmp_path):
    tw.save({"a": tw.ones(2)}, tmp_path / "x")
    for options in ({"map_location": "cpu"}, {"map_location": tw.device("cpu")}, {"weights_only": True}):
        assert tw.load(tmp_path / "x", **options)["a"].tolist() == [1.0, 1.0]
    with pytest.raises(tw.TwofoldError, match="computes on the CPU only"):
        tw.load(tmp_path / "x", map_location="cuda:0")
