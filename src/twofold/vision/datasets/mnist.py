"""MNIST and the data sets of the same form."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np

from .._errors import DatasetError
from ._download import download as fetch
from ._download import matches
from .base import ArrayDataset, Transform
from .idx import read_idx


class MNIST(ArrayDataset):
    """Handwritten digits: 60,000 pictures to train and 10,000 to test, grey, 28x28.

    The files are in `root/MNIST/raw`, as they come from the mirrors or unpacked. They are read
    without asking the network if they are there.

    Args:
        root: folder of data sets.
        train: the training pictures, otherwise the test pictures.
        transform, target_transform: called with each picture, each class.
        download: fetch the files that are missing; hashes are checked.

    Raises: DatasetError if files are missing or can't be downloaded; FileFormatError if damaged.
    Source: LeCun, Bottou, Bengio and Haffner 1998, "Gradient-based learning applied to document
        recognition".
    """

    mirrors = (
        "https://ossci-datasets.s3.amazonaws.com/mnist/",
        "https://storage.googleapis.com/cvdf-datasets/mnist/",
    )
    # file: its SHA-256 (64 hex digits) or MD5 (32), or None to check nothing but its form
    resources: dict[str, str | None] = {  # noqa: RUF012
        "train-images-idx3-ubyte.gz": "440fcabf73cc546fa21475e81ea370265605f56be210a4024d2ca8f203523609",
        "train-labels-idx1-ubyte.gz": "3552534a0a558bbed6aed32b30c495cca23d567ec52cac8be1a0730e8010255c",
        "t10k-images-idx3-ubyte.gz": "8d422c7b0a1c1c79245a5bcf07fe86e33eeafee792b84584aec276f5a2dbc4e6",
        "t10k-labels-idx1-ubyte.gz": "f7ae60f92e00ec6debd23a6088c31dbd2371eca3ffa0defaefb259924204aec6",
    }
    classes = [  # noqa: RUF012
        "0 - zero", "1 - one", "2 - two", "3 - three", "4 - four",
        "5 - five", "6 - six", "7 - seven", "8 - eight", "9 - nine",
    ]  # fmt: skip

    def __init__(
        self,
        root: str | Path,
        train: bool = True,
        transform: Transform | None = None,
        target_transform: Transform | None = None,
        download: bool = False,
    ):
        super().__init__(root, transform=transform, target_transform=target_transform)
        self.train = train
        if download:
            self.download()
        self._set(*self._read())

    @property
    def raw_folder(self) -> Path:
        """Where the files are."""
        assert self.root is not None
        return self.root / type(self).__name__ / "raw"

    def download(self) -> None:
        """Fetch the files that are missing or have the wrong hash."""
        for name, hash_ in self.resources.items():
            if not (self.raw_folder / name).exists() and (self.raw_folder / name).with_suffix("").exists():
                continue  # unpacked by someone; the reader checks its form
            urls = [mirror.rstrip("/") + "/" + name for mirror in self.mirrors]
            fetch(urls, self.raw_folder / name, **_kind(hash_))

    def _file(self, name: str) -> Path:
        for path in (self.raw_folder / name, (self.raw_folder / name).with_suffix("")):
            if path.exists():
                return path
        raise DatasetError(
            f"{type(self).__name__} has no file {name} in {self.raw_folder}",
            hint="pass download=True to fetch it",
        )

    def _read(self) -> tuple[np.ndarray[Any, Any], np.ndarray[Any, Any]]:
        kind = "train" if self.train else "t10k"
        paths = [self._file(n) for n in self.resources if n.startswith(kind)]
        pictures, targets = sorted((read_idx(p) for p in paths), key=lambda a: -a.ndim)
        if pictures.ndim != 3 or targets.ndim != 1 or len(pictures) != len(targets) or pictures.dtype != np.uint8:
            raise DatasetError(
                f"{type(self).__name__} expects uint8 pictures (N, H, W) and N classes, got {pictures.dtype} "
                f"{pictures.shape} and {targets.dtype} {targets.shape} in {paths[0]} and {paths[1]}"
            )
        return pictures, targets

    def intact(self) -> bool:
        """Whether all files are there with the right hashes."""
        return all(matches(self.raw_folder / name, **_kind(h)) for name, h in self.resources.items())

    def extra_repr(self) -> str:
        return f"    Split: {'Train' if self.train else 'Test'}"


def _kind(hash_: str | None) -> dict[str, Any]:
    if hash_ is None:
        return {}
    return {"sha256" if len(hash_) == 64 else "md5": hash_}


class FashionMNIST(MNIST):
    """Pictures of clothes in the form of MNIST; see there.

    Source: Xiao, Rasul and Vollgraf 2017, "Fashion-MNIST: a novel image dataset for benchmarking
        machine learning algorithms". MIT licence.
    """

    mirrors = (
        "http://fashion-mnist.s3-website.eu-central-1.amazonaws.com/",
        "https://raw.githubusercontent.com/zalandoresearch/fashion-mnist/master/data/fashion/",
    )
    resources: dict[str, str | None] = {  # noqa: RUF012
        "train-images-idx3-ubyte.gz": "8d4fb7e6c68d591d4c3dfef9ec88bf0d",
        "train-labels-idx1-ubyte.gz": "25c81989df183df01b3e8a0aad5dffbe",
        "t10k-images-idx3-ubyte.gz": "bef4ecab320f06d8554ea6380940ec79",
        "t10k-labels-idx1-ubyte.gz": "bb300cfdad3c16e7a12a480ee83cd310",
    }
    classes = [  # noqa: RUF012
        "T-shirt/top", "Trouser", "Pullover", "Dress", "Coat", "Sandal", "Shirt", "Sneaker", "Bag", "Ankle boot",
    ]  # fmt: skip


class KMNIST(MNIST):
    """Cursive Japanese characters in the form of MNIST; see there.

    Source: Clanuwat et al. 2018, "Deep learning for classical Japanese literature". CC BY-SA 4.0.
    """

    mirrors = (
        "https://codh.rois.ac.jp/kmnist/dataset/kmnist/",
        "http://codh.rois.ac.jp/kmnist/dataset/kmnist/",
    )
    resources: dict[str, str | None] = {  # noqa: RUF012
        "train-images-idx3-ubyte.gz": "bdb82020997e1d708af4cf47b453dcf7",
        "train-labels-idx1-ubyte.gz": "e144d726b3acfaa3e44228e80efcd344",
        "t10k-images-idx3-ubyte.gz": "5c965bf0a639b31b8f53240b1b52f4d7",
        "t10k-labels-idx1-ubyte.gz": "7320c461ea6c1c855c0b718fb2a4b134",
    }
    classes = ["o", "ki", "su", "tsu", "na", "ha", "ma", "ya", "re", "wo"]  # noqa: RUF012
