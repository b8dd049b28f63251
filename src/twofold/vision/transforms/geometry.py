"""Transforms of place: resizing, cropping, flipping, padding, rotating."""

from __future__ import annotations

import math
import numbers
from collections.abc import Sequence
from typing import Any

from ...data._random import sample_rng
from . import functional as F
from .convert import Transform
from .functional import InterpolationMode

Mode = InterpolationMode | str
_NEAREST, _BILINEAR = InterpolationMode.NEAREST, InterpolationMode.BILINEAR


class Resize(Transform):
    """Resample to `size`: (height, width), or the length of the smaller edge."""

    fields = ("size", "interpolation", "max_size", "antialias")

    def __init__(
        self,
        size: int | Sequence[int],
        interpolation: Mode = _BILINEAR,
        max_size: int | None = None,
        antialias: bool = True,
    ):
        F.mode_name(interpolation)
        self.size = size
        self.interpolation = interpolation
        self.max_size = max_size
        self.antialias = antialias

    def __call__(self, picture: Any) -> Any:
        return F.resize(picture, self.size, self.interpolation, self.max_size, self.antialias)


class CenterCrop(Transform):
    """The middle of the picture."""

    fields = ("size",)

    def __init__(self, size: int | Sequence[int]):
        self.size = F.pair(size, "size")

    def __call__(self, picture: Any) -> Any:
        return F.center_crop(picture, self.size)


class Pad(Transform):
    """Add a border of `padding` pixels."""

    fields = ("padding", "fill", "padding_mode")

    def __init__(self, padding: int | Sequence[int], fill: Any = 0, padding_mode: str = "constant"):
        self.padding = padding
        self.fill = fill
        self.padding_mode = padding_mode

    def __call__(self, picture: Any) -> Any:
        return F.pad(picture, self.padding, self.fill, self.padding_mode)


class RandomCrop(Transform):
    """A part of the given size from a random place, after padding the picture.

    Raises: ValueError if the picture is smaller than the part and `pad_if_needed` is False.
    """

    fields = ("size", "padding")

    def __init__(
        self,
        size: int | Sequence[int],
        padding: int | Sequence[int] | None = None,
        pad_if_needed: bool = False,
        fill: Any = 0,
        padding_mode: str = "constant",
    ):
        self.size = F.pair(size, "size")
        self.padding = padding
        self.pad_if_needed = pad_if_needed
        self.fill = fill
        self.padding_mode = padding_mode

    def __call__(self, picture: Any) -> Any:
        if self.padding is not None:
            picture = F.pad(picture, self.padding, self.fill, self.padding_mode)
        h, w = self.size
        _, height, width = F.get_dimensions(picture)
        if self.pad_if_needed and width < w:
            picture = F.pad(picture, [w - width, 0], self.fill, self.padding_mode)
        if self.pad_if_needed and height < h:
            picture = F.pad(picture, [0, h - height], self.fill, self.padding_mode)
        _, height, width = F.get_dimensions(picture)
        if height < h or width < w:
            raise ValueError(
                f"RandomCrop of {h}x{w} needs a picture at least as large, got {height}x{width}; "
                "pass padding= or pad_if_needed=True"
            )
        rng = sample_rng()
        top, left = int(rng.integers(height - h + 1)), int(rng.integers(width - w + 1))
        return F.crop(picture, top, left, h, w)


class RandomHorizontalFlip(Transform):
    """Mirror left to right with probability `p`."""

    fields = ("p",)

    def __init__(self, p: float = 0.5):
        self.p = p

    def __call__(self, picture: Any) -> Any:
        return F.hflip(picture) if sample_rng().random() < self.p else picture


class RandomVerticalFlip(Transform):
    """Mirror top to bottom with probability `p`."""

    fields = ("p",)

    def __init__(self, p: float = 0.5):
        self.p = p

    def __call__(self, picture: Any) -> Any:
        return F.vflip(picture) if sample_rng().random() < self.p else picture


class RandomResizedCrop(Transform):
    """A random part with an area and a ratio from the given ranges, resampled to `size`.

    Source: Szegedy et al. 2015, "Going deeper with convolutions", section 6.
    """

    fields = ("size", "scale", "ratio", "interpolation", "antialias")

    def __init__(
        self,
        size: int | Sequence[int],
        scale: Sequence[float] = (0.08, 1.0),
        ratio: Sequence[float] = (3.0 / 4.0, 4.0 / 3.0),
        interpolation: Mode = _BILINEAR,
        antialias: bool = True,
    ):
        if scale[0] > scale[1] or ratio[0] > ratio[1]:
            raise ValueError(f"scale and ratio must be (low, high), got {scale} and {ratio}")
        self.size = F.pair(size, "size")
        self.scale = scale
        self.ratio = ratio
        self.interpolation = interpolation
        self.antialias = antialias

    @staticmethod
    def get_params(picture: Any, scale: Sequence[float], ratio: Sequence[float]) -> tuple[int, int, int, int]:
        """Top, left, height and width of a random part."""
        _, height, width = F.get_dimensions(picture)
        rng = sample_rng()
        for _ in range(10):
            area = height * width * rng.uniform(scale[0], scale[1])
            aspect = math.exp(rng.uniform(math.log(ratio[0]), math.log(ratio[1])))
            w, h = round(math.sqrt(area * aspect)), round(math.sqrt(area / aspect))
            if 0 < w <= width and 0 < h <= height:
                return int(rng.integers(height - h + 1)), int(rng.integers(width - w + 1)), h, w
        # no part fits: the largest middle part with an allowed ratio
        w, h = width, height
        if width / height < min(ratio):
            h = round(w / min(ratio))
        elif width / height > max(ratio):
            w = round(h * max(ratio))
        return (height - h) // 2, (width - w) // 2, h, w

    def __call__(self, picture: Any) -> Any:
        part = self.get_params(picture, self.scale, self.ratio)
        return F.resized_crop(picture, *part, self.size, self.interpolation, self.antialias)


def _range(value: Any, name: str) -> tuple[float, float]:
    """(low, high) of a number, which means -number to number, or of two."""
    if isinstance(value, numbers.Number):
        if value < 0:  # type: ignore[operator]
            raise ValueError(f"{name} as one number must not be negative, got {value}")
        return -float(value), float(value)  # type: ignore[arg-type]
    if len(value) != 2:
        raise ValueError(f"{name} must be a number or (low, high), got {value!r}")
    return float(value[0]), float(value[1])


class RandomRotation(Transform):
    """Rotate by a random angle in degrees, from -degrees to degrees or from a range."""

    fields = ("degrees", "interpolation", "expand", "fill")

    def __init__(
        self,
        degrees: float | Sequence[float],
        interpolation: Mode = _NEAREST,
        expand: bool = False,
        center: Sequence[float] | None = None,
        fill: Any = 0,
    ):
        self.degrees = _range(degrees, "degrees")
        self.interpolation = interpolation
        self.expand = expand
        self.center = center
        self.fill = fill

    def __call__(self, picture: Any) -> Any:
        angle = sample_rng().uniform(*self.degrees)
        return F.rotate(picture, angle, self.interpolation, self.expand, self.center, self.fill)


class RandomAffine(Transform):
    """Rotate, translate, scale and shear at random.

    Args:
        degrees: angles, from -degrees to degrees or a range; 0 for none.
        translate: largest shift as fractions of width and height.
        scale: range of factors.
        shear: angles of a shear along x, as a number or range; four numbers give ranges along x and y.
    """

    fields = ("degrees", "translate", "scale", "shear", "interpolation", "fill")

    def __init__(
        self,
        degrees: float | Sequence[float],
        translate: Sequence[float] | None = None,
        scale: Sequence[float] | None = None,
        shear: float | Sequence[float] | None = None,
        interpolation: Mode = _NEAREST,
        fill: Any = 0,
        center: Sequence[float] | None = None,
    ):
        if translate is not None and not all(0 <= t <= 1 for t in translate):
            raise ValueError(f"translate must be fractions between 0 and 1, got {translate}")
        if scale is not None and not all(s > 0 for s in scale):
            raise ValueError(f"scale must be positive, got {scale}")
        self.degrees = _range(degrees, "degrees")
        self.translate = translate
        self.scale = scale
        self.shear = shear
        self.interpolation = interpolation
        self.fill = fill
        self.center = center

    def __call__(self, picture: Any) -> Any:
        rng = sample_rng()
        _, height, width = F.get_dimensions(picture)
        angle = rng.uniform(*self.degrees)
        shift = [0.0, 0.0]
        if self.translate is not None:
            shift = [
                float(round(rng.uniform(-t * n, t * n)))
                for t, n in zip(self.translate, (width, height), strict=True)
            ]
        scale = 1.0 if self.scale is None else rng.uniform(self.scale[0], self.scale[1])
        shear = [0.0, 0.0]
        if self.shear is not None:
            four = isinstance(self.shear, Sequence) and len(self.shear) == 4
            ranges = [self.shear[:2], self.shear[2:]] if four else [self.shear]  # type: ignore[index]
            for k, r in enumerate(ranges):
                shear[k] = rng.uniform(*_range(r, "shear"))
        return F.affine(picture, angle, shift, scale, shear, self.interpolation, self.fill, self.center)
