"""Data sets of pictures: IDX files, downloading from a server of the test's own, folders, digits."""

import gzip
import hashlib
import http.server
import struct
import threading

import numpy as np
import pytest

import twofold as tw
from twofold.data import DataLoader
from twofold.ir.errors import FileFormatError, OutOfBoundsError
from twofold.vision import transforms as T
from twofold.vision._errors import DatasetError
from twofold.vision.datasets import (
    KMNIST,
    MNIST,
    DatasetFolder,
    Digits,
    FakeData,
    FashionMNIST,
    ImageFolder,
    read_idx,
)
from twofold.vision.datasets._download import download

rng = np.random.default_rng(3)
TYPES = {0x08: ">u1", 0x09: ">i1", 0x0B: ">i2", 0x0C: ">i4", 0x0D: ">f4", 0x0E: ">f8"}


def idx_bytes(array, code=0x08):
    return (
        struct.pack(f">BBBB{array.ndim}I", 0, 0, code, array.ndim, *array.shape)
        + array.astype(TYPES[code]).tobytes()
    )


# --- IDX files


@pytest.mark.parametrize("code", TYPES)
@pytest.mark.parametrize("shape", [(5,), (2, 3, 4), (0, 28, 28)])
@pytest.mark.parametrize("compressed", [False, True])
def test_idx_round_trip(tmp_path, code, shape, compressed):
    array = (rng.standard_normal(shape) * 50).astype(TYPES[code])
    data = idx_bytes(array, code)
    path = tmp_path / "file"
    path.write_bytes(gzip.compress(data) if compressed else data)
    out = read_idx(path)
    assert out.dtype == np.dtype(TYPES[code]).newbyteorder("=") and out.shape == shape
    np.testing.assert_array_equal(out, array)
    assert out.flags.writeable


GOOD = idx_bytes(np.arange(12, dtype=np.uint8).reshape(3, 4))


@pytest.mark.parametrize(
    ("data", "text"),
    [
        (b"", "begins with nothing"),
        (b"\x89PNG" + GOOD, "89 50 4e 47"),
        (b"\0\0\x07\x01" + GOOD[4:], "no IDX file"),
        (b"\0\0\x08\0", "no IDX file"),
        (GOOD[:9], "ends within the sizes"),
        (GOOD[:-1], "is 12 bytes, but has 11"),
        (GOOD + b"x", "but has more"),
        (b"\0\0\x08\x03" + b"\xff" * 12, "but has 0"),
        (gzip.compress(GOOD)[:-9], "damaged"),
        (gzip.compress(GOOD)[:12] + b"\xff\xff" + gzip.compress(GOOD)[14:], "damaged"),
    ],
)
def test_damaged_idx_files(tmp_path, data, text):
    path = tmp_path / "file"
    path.write_bytes(data)
    with pytest.raises(FileFormatError, match=text):
        read_idx(path)


# --- downloading


class Server:
    """Serves files from memory; `plan` says how the next answers go wrong."""

    def __init__(self):
        self.files = {}
        self.requests = []
        self.plan = []
        self.ranges = True
        outer = self

        class Handler(http.server.BaseHTTPRequestHandler):
            def do_GET(self):
                outer.answer(self)

            def log_message(self, *args):
                pass

        self.server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self.thread = threading.Thread(target=self.server.serve_forever, kwargs={"poll_interval": 0.01})
        self.thread.start()
        self.url = f"http://127.0.0.1:{self.server.server_port}/"

    def answer(self, handler):
        name, asked = handler.path.lstrip("/"), handler.headers.get("Range")
        self.requests.append((name, asked))
        step = self.plan.pop(0) if self.plan else None
        data = self.files.get(name)
        if (isinstance(step, int) and step >= 400) or data is None:
            handler.send_error(step or 404)
            return
        start = int(asked[6:].rstrip("-")) if asked and self.ranges else 0
        if start >= len(data) and start:
            handler.send_response(416)
            handler.send_header("Content-Range", f"bytes */{len(data)}")
            handler.end_headers()
            return
        handler.send_response(206 if asked and self.ranges else 200)
        if asked and self.ranges:
            shown = 7 if step == "wrong range" else start
            handler.send_header("Content-Range", f"bytes {shown}-{len(data) - 1}/{len(data)}")
        body = data[start:]
        handler.send_header("Content-Length", str(len(body)))
        handler.end_headers()
        handler.wfile.write(body[: len(body) // 2] if step == "cut" else body)

    def close(self):
        self.server.shutdown()
        self.server.server_close()
        self.thread.join()


@pytest.fixture
def server():
    s = Server()
    yield s
    s.close()


DATA = rng.integers(0, 256, 300_000, dtype=np.uint8).tobytes()
SHA = hashlib.sha256(DATA).hexdigest()
MD5 = hashlib.md5(DATA).hexdigest()


def fetch(server, path, **options):
    return download([server.url + "f"], path, **({"sha256": SHA, "timeout_s": 5} | options))


def test_download_and_cache(server, tmp_path):
    server.files["f"] = DATA
    path = fetch(server, tmp_path / "deep" / "f", md5=MD5)
    assert path.read_bytes() == DATA
    assert [p.name for p in path.parent.iterdir()] == ["f"]
    fetch(server, path)
    assert len(server.requests) == 1  # the second time nothing was asked


def test_interrupted_transfers_are_continued(server, tmp_path):
    server.files["f"] = DATA
    server.plan = ["cut", "cut"]
    assert fetch(server, tmp_path / "f").read_bytes() == DATA
    half = len(DATA) // 2
    quarter = half + half // 2
    assert server.requests == [("f", None), ("f", f"bytes={half}-"), ("f", f"bytes={quarter}-")]


def test_an_interrupted_run_is_continued_by_the_next(server, tmp_path):
    server.files["f"] = DATA
    server.plan = ["cut"]
    with pytest.raises(DatasetError, match="ended after 150000 of 300000 bytes"):
        fetch(server, tmp_path / "f", attempts=1)
    assert not (tmp_path / "f").exists() and (tmp_path / "f.part").stat().st_size == 150_000
    assert fetch(server, tmp_path / "f").read_bytes() == DATA
    assert server.requests[-1] == ("f", "bytes=150000-")


def test_servers_without_ranges_start_again(server, tmp_path):
    server.files["f"] = DATA
    server.ranges = False
    server.plan = ["cut"]
    assert fetch(server, tmp_path / "f").read_bytes() == DATA
    assert len(server.requests) == 2


def test_a_complete_part_is_taken(server, tmp_path):
    server.files["f"] = DATA
    (tmp_path / "f.part").write_bytes(DATA)
    assert fetch(server, tmp_path / "f").read_bytes() == DATA


@pytest.mark.parametrize("old", [b"x" * 1000, DATA + b"more"])
def test_a_part_of_another_file_is_thrown_away(server, tmp_path, old):
    server.files["f"] = DATA
    (tmp_path / "f.part").write_bytes(old)
    try:
        path = fetch(server, tmp_path / "f")
    except DatasetError as e:  # the joint had the wrong hash; the next run begins anew
        assert "wrong hash" in str(e)
        assert not (tmp_path / "f.part").exists()
        path = fetch(server, tmp_path / "f")
    assert path.read_bytes() == DATA


def test_a_wrong_range_is_not_appended(server, tmp_path):
    server.files["f"] = DATA
    server.plan = ["cut", "wrong range"]
    assert fetch(server, tmp_path / "f").read_bytes() == DATA


def test_wrong_hash_falls_to_the_next_mirror(server, tmp_path):
    server.files |= {"a/f": b"an error page", "b/f": DATA}
    path = download([server.url + "a/f", server.url + "b/f"], tmp_path / "f", sha256=SHA)
    assert path.read_bytes() == DATA
    assert [name for name, _ in server.requests] == ["a/f", "b/f"]


def test_failures_of_all_mirrors_are_listed(server, tmp_path):
    server.files["bad"] = b"nothing"
    with pytest.raises(DatasetError) as e:
        download(
            [server.url + "none", server.url + "bad", "http://127.0.0.1:1/f"],
            tmp_path / "f",
            md5=MD5,
            timeout_s=2,
        )
    text = str(e.value)
    assert "HTTP 404" in text and "wrong hash" in text and "127.0.0.1:1/f: ConnectionRefusedError" in text
    assert str(tmp_path / "f") in text
    assert list(tmp_path.iterdir()) == []


def test_server_errors_are_tried_again(server, tmp_path):
    server.files["f"] = DATA
    server.plan = [503, 500]
    assert fetch(server, tmp_path / "f").read_bytes() == DATA
    assert len(server.requests) == 3


def test_a_damaged_cache_is_fetched_anew(server, tmp_path):
    server.files["f"] = DATA
    (tmp_path / "f").write_bytes(DATA[:100])
    assert fetch(server, tmp_path / "f").read_bytes() == DATA


# --- MNIST and its kin


def small_mnist(server, prefix="", n=6):
    """A class like MNIST with files on the server, and its arrays."""
    arrays, resources = {}, {}
    for kind, count in (("train", n), ("t10k", n // 2)):
        pictures = rng.integers(0, 256, (count, 28, 28), dtype=np.uint8)
        targets = rng.integers(0, 10, count, dtype=np.uint8)
        arrays[kind] = pictures, targets
        for name, array in (("images-idx3", pictures), ("labels-idx1", targets)):
            data = gzip.compress(idx_bytes(array))
            server.files[f"{prefix}{kind}-{name}-ubyte.gz"] = data
            hash_ = hashlib.sha256 if name == "images-idx3" else hashlib.md5
            resources[f"{kind}-{name}-ubyte.gz"] = hash_(data).hexdigest()
    made = type("MNIST", (MNIST,), {"mirrors": (server.url + prefix,), "resources": resources})
    return made, arrays


def test_mnist_downloads_once_and_reads_offline(server, tmp_path):
    Small, arrays = small_mnist(server)
    train = Small(tmp_path, train=True, download=True)
    test = Small(tmp_path, train=False, download=True)
    assert len(server.requests) == 4 and train.intact()
    offline = Small(tmp_path)
    assert len(server.requests) == 4
    for d, kind in ((train, "train"), (test, "t10k"), (offline, "train")):
        pictures, targets = arrays[kind]
        assert len(d) == len(pictures) and d.data.dtype is tw.uint8 and d.targets.dtype is tw.int64
        np.testing.assert_array_equal(d.data.numpy(), pictures)
        np.testing.assert_array_equal(d.targets.numpy(), targets)
        picture, target = d[1]
        np.testing.assert_array_equal(np.asarray(picture), pictures[1])
        assert target == targets[1] and type(target) is int


def test_mnist_falls_to_the_second_mirror_and_resumes(server, tmp_path):
    Small, _ = small_mnist(server, "good/")
    Small.mirrors = (server.url + "gone", server.url + "good")
    server.plan = [404, "cut"]
    assert len(Small(tmp_path, download=True)) == 6


def test_mnist_with_unpacked_files(server, tmp_path):
    Small, arrays = small_mnist(server)
    Small(tmp_path, download=True)
    for path in (tmp_path / "MNIST" / "raw").glob("*.gz"):
        path.with_suffix("").write_bytes(gzip.decompress(path.read_bytes()))
        path.unlink()
    again = Small(tmp_path, download=True)
    assert len(server.requests) == 4
    np.testing.assert_array_equal(again.data.numpy(), arrays["train"][0])


def test_mnist_transforms_and_loader(server, tmp_path):
    Small, arrays = small_mnist(server)
    d = Small(tmp_path, download=True, transform=T.ToTensor(), target_transform=lambda t: t + 100)
    x, y = next(iter(DataLoader(d, batch_size=4, num_workers=2)))
    assert x.shape == (4, 1, 28, 28)
    np.testing.assert_allclose(x.numpy()[:, 0] * 255, arrays["train"][0][:4], rtol=1e-6)
    np.testing.assert_array_equal(y.numpy(), arrays["train"][1][:4].astype(int) + 100)


def test_missing_and_mismatching_files(tmp_path):
    with pytest.raises(DatasetError, match="download=True"):
        MNIST(tmp_path)
    raw = tmp_path / "FashionMNIST" / "raw"
    raw.mkdir(parents=True)
    (raw / "train-images-idx3-ubyte").write_bytes(idx_bytes(np.zeros((3, 2, 2), np.uint8)))
    (raw / "train-labels-idx1-ubyte").write_bytes(idx_bytes(np.zeros(2, np.uint8)))
    with pytest.raises(DatasetError, match=r"\(3, 2, 2\) and uint8 \(2,\)"):
        FashionMNIST(tmp_path)


@pytest.mark.parametrize("cls", [MNIST, FashionMNIST, KMNIST])
def test_resources_are_hashes_of_four_files(cls):
    assert len(cls.resources) == 4 and len(cls.classes) == 10 and len(cls.mirrors) >= 2
    for name, hash_ in cls.resources.items():
        assert name.endswith("-ubyte.gz") and len(hash_) in (32, 64)
        assert set(hash_) <= set("0123456789abcdef")


# --- digits


def test_digits_are_complete_and_the_split_is_fixed():
    train, test, whole = Digits(True), Digits(False), Digits(None)
    assert (len(train), len(test), len(whole)) == (1442, 355, 1797)
    assert np.bincount(test.targets.numpy()).tolist() == [35, 36, 35, 36, 36, 36, 36, 35, 34, 36]
    keys = [{p.tobytes() for p in d.data.numpy()} for d in (train, test, whole)]
    assert keys[0] | keys[1] == keys[2]
    assert train.data.shape == (1442, 8, 8) and train.data.dtype is tw.uint8
    assert int(whole.data.numpy().max()) == 255
    digest = hashlib.sha256(test.data.numpy().tobytes() + test.targets.numpy().tobytes()).hexdigest()
    assert digest.startswith("c828ed8d66d49993")


def test_digits_are_sklearns():
    datasets = pytest.importorskip("sklearn.datasets")
    d = datasets.load_digits()
    whole = Digits(None)
    np.testing.assert_array_equal(whole.data.numpy(), np.rint(d.images * 255 / 16))
    np.testing.assert_array_equal(whole.targets.numpy(), d.target)


def test_digits_without_pillow_give_arrays_and_the_same_tensors(monkeypatch):
    from twofold.vision.datasets import base

    steps = [T.RandomCrop(8, padding=1), T.RandomRotation(10), T.ToTensor(), T.Normalize([0.5], [0.5])]
    pipeline = T.Compose(steps)
    d = Digits(transform=pipeline)
    tw.manual_seed(0)
    with_pillow = [d[i][0].numpy() for i in range(5)]
    monkeypatch.setattr(base, "_has_pillow", lambda: False)
    tw.manual_seed(0)
    without = [d[i][0].numpy() for i in range(5)]
    np.testing.assert_array_equal(with_pillow, without)
    picture = Digits()[0][0]
    assert isinstance(picture, np.ndarray) and picture.shape == (8, 8)


def test_digits_repr_and_classes():
    d = Digits(False, transform=T.ToTensor())
    assert "Number of datapoints: 355" in repr(d) and "Split: Test" in repr(d) and "ToTensor()" in repr(d)
    assert d.class_to_idx["7"] == 7


# --- folders


@pytest.fixture
def folder(tmp_path):
    Image = pytest.importorskip("PIL.Image")
    for name, colour in (("cat", (255, 0, 0)), ("ant", (0, 255, 0)), ("bee/deep", (0, 0, 255))):
        (tmp_path / name).mkdir(parents=True)
        for i in range(2):
            Image.new("RGB", (4, 3), colour).save(tmp_path / name / f"{i}.PNG", format="png")
    (tmp_path / "ant" / "notes.txt").write_text("no picture")
    (tmp_path / "readme.md").write_text("no folder")
    return tmp_path


def test_image_folder(folder):
    d = ImageFolder(folder, transform=T.ToTensor())
    assert d.classes == ["ant", "bee", "cat"] and d.class_to_idx == {"ant": 0, "bee": 1, "cat": 2}
    assert d.targets == [0, 0, 1, 1, 2, 2] and d.imgs == d.samples
    x, y = d[2]
    assert x.shape == (3, 3, 4) and y == 1
    assert x[:, 0, 0].tolist() == [0.0, 0.0, 1.0]
    assert len(list(DataLoader(d, batch_size=3, shuffle=True, num_workers=2))) == 2


def test_folders_without_pictures(folder):
    (folder / "void").mkdir()
    with pytest.raises(DatasetError, match=r"classes void(.|\n)*\.jpg"):
        ImageFolder(folder)
    assert ImageFolder(folder, allow_empty=True).class_to_idx["void"] == 3
    with pytest.raises(DatasetError, match="folder of its own"):
        ImageFolder(folder / "void")
    with pytest.raises(DatasetError, match="there is no folder"):
        ImageFolder(folder / "nowhere")


def test_dataset_folder_with_own_loader(folder):
    d = DatasetFolder(folder, loader=str, is_valid_file=lambda p: p.endswith("notes.txt"), allow_empty=True)
    assert len(d) == 1 and d[0][0].endswith("notes.txt")
    with pytest.raises(ValueError, match="either"):
        DatasetFolder(folder, loader=str)


def test_fake_data():
    d = FakeData(size=5, image_size=(3, 6, 4), num_classes=3, transform=T.ToTensor())
    a, b = d[2], FakeData(size=5, image_size=(3, 6, 4), num_classes=3, transform=T.ToTensor())[2]
    assert a[0].shape == (3, 6, 4) and a[1] == b[1] and a[0].tolist() == b[0].tolist()
    assert d[3][0].tolist() != a[0].tolist()
    assert FakeData(image_size=(1, 2, 2), transform=T.ToTensor())[0][0].shape == (1, 2, 2)
    with pytest.raises(OutOfBoundsError):
        d[5]
    with pytest.raises(ValueError, match="image_size"):
        FakeData(image_size=(2, 4, 4))


def test_missing_pillow_names_the_extra(monkeypatch):
    import sys

    monkeypatch.setitem(sys.modules, "PIL", None)
    monkeypatch.setitem(sys.modules, "PIL.Image", None)
    with pytest.raises(DatasetError, match=r"twofold\[vision\]"):
        T.ToPILImage()(tw.zeros(1, 2, 2))
