"""Pictures in folders: a folder per class."""

from __future__ import annotations

import os
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

from .._errors import DatasetError, pillow
from .base import Transform, VisionDataset

IMG_EXTENSIONS = (".jpg", ".jpeg", ".png", ".ppm", ".bmp", ".pgm", ".tif", ".tiff", ".webp")


def pil_loader(path: str | os.PathLike[str]) -> Any:
    """Open a picture as an RGB PIL image."""
    with open(path, "rb") as file:
        return pillow("opening pictures").open(file).convert("RGB")


default_loader = pil_loader


def find_classes(directory: str | os.PathLike[str]) -> tuple[list[str], dict[str, int]]:
    """Names of the folders in `directory`, sorted, and their numbers.

    Raises: DatasetError if there are none.
    """
    try:
        classes = sorted(entry.name for entry in os.scandir(directory) if entry.is_dir())
    except FileNotFoundError:
        raise DatasetError(f"there is no folder {directory}") from None
    if not classes:
        raise DatasetError(
            f"{directory} has no folders",
            hint="put the pictures of each class into a folder of its own, named like the class",
        )
    return classes, {name: i for i, name in enumerate(classes)}


def make_dataset(
    directory: str | os.PathLike[str],
    class_to_idx: dict[str, int],
    extensions: Sequence[str] | None = None,
    is_valid_file: Callable[[str], bool] | None = None,
    allow_empty: bool = False,
) -> list[tuple[str, int]]:
    """All files of the classes as pairs of path and class number, in a fixed order.

    Raises: DatasetError if a class has no files, unless `allow_empty`.
    """
    if (extensions is None) == (is_valid_file is None):
        raise ValueError("give either extensions or is_valid_file")
    wanted = is_valid_file
    if wanted is None:
        endings = tuple(e.lower() for e in extensions or ())
        wanted = lambda path: path.lower().endswith(endings)
    samples: list[tuple[str, int]] = []
    empty = []
    for name in sorted(class_to_idx):
        files = []
        for folder, _, names in sorted(os.walk(Path(directory) / name, followlinks=True)):
            files += [path for n in sorted(names) if wanted(path := os.path.join(folder, n))]
        samples += [(path, class_to_idx[name]) for path in files]
        if not files:
            empty.append(name)
    if empty and not allow_empty:
        raise DatasetError(
            f"{directory} has no pictures in the folders of the classes {', '.join(empty)}",
            hint=f"supported endings are {', '.join(extensions)}" if extensions else "is_valid_file refused all",
        )
    return samples


class DatasetFolder(VisionDataset):
    """Files in a folder per class, `root/class/.../file`.

    Args:
        root: the folder that holds the classes' folders.
        loader: opens a file, given its path.
        extensions: endings of the files to take; or
        is_valid_file: tells which paths to take.
        transform, target_transform: called with each sample, each class number.
        allow_empty: accept classes without files.

    Attributes:
        classes: names of the classes, sorted.
        class_to_idx: their numbers.
        samples: pairs of path and class number.
        targets: class number of each sample.

    Raises: DatasetError if there are no folders or a folder has no files.
    """

    def __init__(
        self,
        root: str | Path,
        loader: Callable[[str], Any],
        extensions: Sequence[str] | None = None,
        transform: Transform | None = None,
        target_transform: Transform | None = None,
        is_valid_file: Callable[[str], bool] | None = None,
        allow_empty: bool = False,
    ):
        super().__init__(root, transform=transform, target_transform=target_transform)
        self.loader = loader
        self.extensions = extensions
        self.classes, self.class_to_idx = self.find_classes(self.root)
        self.samples = make_dataset(self.root, self.class_to_idx, extensions, is_valid_file, allow_empty)  # type: ignore[arg-type]
        self.targets = [target for _, target in self.samples]

    def find_classes(self, directory: Any) -> tuple[list[str], dict[str, int]]:
        """Names and numbers of the classes; override to choose them otherwise."""
        return find_classes(directory)

    def __getitem__(self, index: int) -> tuple[Any, Any]:
        path, target = self.samples[index]
        return self._transformed(self.loader(path), target)

    def __len__(self) -> int:
        return len(self.samples)


class ImageFolder(DatasetFolder):
    """Pictures in a folder per class, `root/class/.../picture.png`; samples are RGB PIL images.

    Args:
        root: the folder that holds the classes' folders.
        transform, target_transform: called with each picture, each class number.
        loader: opens a picture, given its path.
        is_valid_file: tells which paths to take, instead of the usual endings.
        allow_empty: accept classes without pictures.

    Raises: DatasetError if there are no folders or a folder has no pictures.
    """

    def __init__(
        self,
        root: str | Path,
        transform: Transform | None = None,
        target_transform: Transform | None = None,
        loader: Callable[[str], Any] = default_loader,
        is_valid_file: Callable[[str], bool] | None = None,
        allow_empty: bool = False,
    ):
        extensions = IMG_EXTENSIONS if is_valid_file is None else None
        super().__init__(root, loader, extensions, transform, target_transform, is_valid_file, allow_empty)
        self.imgs = self.samples
