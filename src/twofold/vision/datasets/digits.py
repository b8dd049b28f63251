"""Handwritten digits that come with the package."""

from __future__ import annotations

from functools import cache
from pathlib import Path
from typing import Any

import numpy as np

from .base import ArrayDataset, Transform

_FILE = Path(__file__).with_name("digits.npz")


class Digits(ArrayDataset):
    """1,797 handwritten digits of 13 people, grey, 8x8; part of the package, nothing to download.

    The split is fixed: of the pictures of each class, in the order of the file, every fifth (the
    5th, 10th, ...) is for testing. That makes 1,442 to train and 355 to test.

    Args:
        train: the training pictures, the test pictures, or all of them if None.
        transform, target_transform: called with each picture, each class.

    Numerics: the file counts ink from 0 to 16; pictures are scaled to 0..255, rounded.
    Source: "Optical Recognition of Handwritten Digits", E. Alpaydin and C. Kaynak 1998, UCI Machine
        Learning Repository, CC BY 4.0; these are its test pictures.

    >>> train, test = Digits(train=True), Digits(train=False)
    >>> len(train), len(test), train.data.shape
    (1442, 355, (1442, 8, 8))
    """

    classes = [str(i) for i in range(10)]  # noqa: RUF012

    def __init__(
        self,
        train: bool | None = True,
        transform: Transform | None = None,
        target_transform: Transform | None = None,
    ):
        super().__init__(None, transform=transform, target_transform=target_transform)
        self.train = train
        pictures, targets = _load()
        if train is not None:
            keep = _is_test(targets) != train
            pictures, targets = pictures[keep], targets[keep]
        self._set(pictures.copy(), targets)

    def extra_repr(self) -> str:
        return f"    Split: {'All' if self.train is None else 'Train' if self.train else 'Test'}"


@cache
def _load() -> tuple[np.ndarray[Any, Any], np.ndarray[Any, Any]]:
    with np.load(_FILE, allow_pickle=False) as file:
        ink, targets = file["ink"], file["targets"]
    return np.rint(ink * (255 / 16)).astype(np.uint8), targets.astype(np.int64)


def _is_test(targets: np.ndarray[Any, Any]) -> np.ndarray[Any, Any]:
    number = np.zeros(len(targets), dtype=np.int64)
    for c in np.unique(targets):
        where = targets == c
        number[where] = np.arange(where.sum())
    return number % 5 == 4
