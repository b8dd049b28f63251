"""Made-up pictures."""

from __future__ import annotations

from typing import Any

import numpy as np

from ...data._random import philox
from ...ir.errors import OutOfBoundsError
from .base import Transform, VisionDataset, as_picture


class FakeData(VisionDataset):
    """Pictures of noise with random classes, always the same for the same arguments.

    Args:
        size: number of samples.
        image_size: (C, H, W), C being 1 or 3.
        num_classes: classes are 0 to num_classes - 1.
        transform, target_transform: called with each picture, each class.
        random_offset: added to the index to seed the sample.

    >>> FakeData(size=3, image_size=(3, 4, 5), num_classes=2)[0][1] in (0, 1)
    True
    """

    def __init__(
        self,
        size: int = 1000,
        image_size: tuple[int, int, int] = (3, 224, 224),
        num_classes: int = 10,
        transform: Transform | None = None,
        target_transform: Transform | None = None,
        random_offset: int = 0,
    ):
        super().__init__(None, transform=transform, target_transform=target_transform)
        if len(image_size) != 3 or image_size[0] not in (1, 3):
            raise ValueError(f"image_size must be (1 or 3, H, W), got {image_size}")
        self.size = size
        self.image_size = tuple(image_size)
        self.num_classes = num_classes
        self.random_offset = random_offset

    def __getitem__(self, index: int) -> tuple[Any, Any]:
        if not 0 <= index < self.size:
            raise OutOfBoundsError(f"{type(self).__name__} has {self.size} samples, got index {index}")
        rng = philox(index + self.random_offset)
        c, h, w = self.image_size
        array = rng.integers(0, 256, (h, w, c), dtype=np.uint8)
        target = int(rng.integers(self.num_classes))
        return self._transformed(as_picture(array if c == 3 else array[..., 0]), target)

    def __len__(self) -> int:
        return self.size
