"""What all data sets of pictures share: the two transforms, and pictures held in one array."""

from __future__ import annotations

from collections.abc import Callable
from functools import cache, cached_property
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import numpy as np

from ...autodiff.handle import Tensor
from ...data.dataset import Dataset
from ...tensors.interop import from_numpy

Transform = Callable[[Any], Any]


class VisionDataset(Dataset[tuple[Any, Any]]):
    """Base of data sets whose samples are pairs of picture and target.

    Args:
        root: folder of the files, None if there are none.
        transforms: called with picture and target, gives both.
        transform: called with the picture.
        target_transform: called with the target.
    """

    def __init__(
        self,
        root: str | Path | None = None,
        transforms: Callable[[Any, Any], tuple[Any, Any]] | None = None,
        transform: Transform | None = None,
        target_transform: Transform | None = None,
    ):
        if transforms is not None and (transform is not None or target_transform is not None):
            raise ValueError("transforms excludes transform and target_transform")
        self.root = None if root is None else Path(root).expanduser()
        self.transforms = transforms
        self.transform = transform
        self.target_transform = target_transform

    def _transformed(self, picture: Any, target: Any) -> tuple[Any, Any]:
        if self.transforms is not None:
            return self.transforms(picture, target)
        if self.transform is not None:
            picture = self.transform(picture)
        if self.target_transform is not None:
            target = self.target_transform(target)
        return picture, target

    def __len__(self) -> int:
        raise NotImplementedError(f"{type(self).__name__} must define __len__")

    def __repr__(self) -> str:
        lines = [f"Dataset {type(self).__name__}", f"    Number of datapoints: {len(self)}"]
        if self.root is not None:
            lines.append(f"    Root location: {self.root}")
        lines += self.extra_repr().splitlines()
        if self.transform is not None:
            lines.append(f"    Transform: {self.transform!r}")
        return "\n".join(lines)

    def extra_repr(self) -> str:
        """Further lines of the printed form."""
        return ""


class ArrayDataset(VisionDataset):
    """Pictures in one uint8 array (N, H, W) with N targets.

    A sample's picture is a PIL image where Pillow is installed and a uint8 array (H, W) otherwise;
    `ToTensor` makes the same tensor of both.

    Attributes:
        data: all pictures, a uint8 tensor (N, H, W).
        targets: all classes, an int64 tensor (N,).
        classes: names of the classes.
    """

    classes: list[str]

    def _set(self, pictures: np.ndarray[Any, Any], targets: np.ndarray[Any, Any]) -> None:
        self._pictures = pictures
        self._targets: list[int] = targets.tolist()

    @cached_property
    def data(self) -> Tensor:
        return from_numpy(self._pictures)

    @cached_property
    def targets(self) -> Tensor:
        return from_numpy(np.array(self._targets, dtype=np.int64))

    @property
    def class_to_idx(self) -> dict[str, int]:
        return {name: i for i, name in enumerate(self.classes)}

    def __getitem__(self, index: int) -> tuple[Any, Any]:
        return self._transformed(as_picture(self._pictures[index]), self._targets[index])

    def __len__(self) -> int:
        return len(self._targets)


def as_picture(array: np.ndarray[Any, Any]) -> Any:
    """A PIL image of the uint8 array, or the array itself where Pillow is not installed."""
    if _has_pillow():
        from PIL import Image

        return Image.fromarray(array)
    return array


@cache
def _has_pillow() -> bool:
    return find_spec("PIL") is not None
