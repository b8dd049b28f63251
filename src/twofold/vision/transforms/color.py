"""Transforms of colour and value."""

from __future__ import annotations

import math
import numbers
from collections.abc import Sequence
from typing import Any

from ...autodiff.handle import Tensor
from ...data._random import sample_rng
from ...ir.errors import ShapeError
from . import functional as F
from .convert import Transform


class Normalize(Transform):
    """`(x - mean) / std` for each channel of a floating tensor (..., C, H, W)."""

    fields = ("mean", "std")

    def __init__(self, mean: Sequence[float], std: Sequence[float], inplace: bool = False):
        self.mean = mean
        self.std = std
        self.inplace = inplace

    def __call__(self, tensor: Tensor) -> Tensor:
        return F.normalize(tensor, self.mean, self.std, self.inplace)


class Grayscale(Transform):
    """RGB to grey, in one channel or repeated in three."""

    fields = ("num_output_channels",)

    def __init__(self, num_output_channels: int = 1):
        self.num_output_channels = num_output_channels

    def __call__(self, picture: Any) -> Any:
        return F.rgb_to_grayscale(picture, self.num_output_channels)


class RandomGrayscale(Transform):
    """To grey with probability `p`, keeping the number of channels."""

    fields = ("p",)

    def __init__(self, p: float = 0.1):
        self.p = p

    def __call__(self, picture: Any) -> Any:
        if sample_rng().random() >= self.p:
            return picture
        return F.rgb_to_grayscale(picture, F.get_dimensions(picture)[0])


class ColorJitter(Transform):
    """Change brightness, contrast, saturation and hue at random, in random order.

    Each argument is a number x, which means factors from max(0, 1 - x) to 1 + x (for hue, -x to x),
    or a range (low, high).
    """

    fields = ("brightness", "contrast", "saturation", "hue")

    def __init__(
        self,
        brightness: float | Sequence[float] = 0,
        contrast: float | Sequence[float] = 0,
        saturation: float | Sequence[float] = 0,
        hue: float | Sequence[float] = 0,
    ):
        self.brightness = _factors(brightness, "brightness")
        self.contrast = _factors(contrast, "contrast")
        self.saturation = _factors(saturation, "saturation")
        self.hue = _factors(hue, "hue", center=0.0, low=-0.5, high=0.5)

    def __call__(self, picture: Any) -> Any:
        rng = sample_rng()
        steps = (
            (F.adjust_brightness, self.brightness),
            (F.adjust_contrast, self.contrast),
            (F.adjust_saturation, self.saturation),
            (F.adjust_hue, self.hue),
        )
        order = rng.permutation(4)
        factors = [None if r is None else rng.uniform(*r) for _, r in steps]
        for k in order:
            if factors[k] is not None:
                picture = steps[k][0](picture, factors[k])
        return picture


def _factors(
    value: float | Sequence[float], name: str, center: float = 1.0, low: float = 0.0, high: float = math.inf
) -> tuple[float, float] | None:
    if isinstance(value, numbers.Number):
        if value < 0:  # type: ignore[operator]
            raise ValueError(f"{name} as one number must not be negative, got {value}")
        bounds = (max(center - float(value), 0.0) if center else -float(value), center + float(value))  # type: ignore[arg-type]
    else:
        bounds = (float(value[0]), float(value[1]))  # type: ignore[index]
    if not low <= bounds[0] <= bounds[1] <= high:
        raise ValueError(f"{name} must stay between {low} and {high}, got {bounds}")
    return None if bounds == (center, center) else bounds


class RandomErasing(Transform):
    """Overwrite a random rectangle of a tensor (C, H, W) with probability `p`.

    Args:
        scale: range of the rectangle's part of the area.
        ratio: range of its height by its width.
        value: a number, one for each channel, or "random" for normal noise.

    Source: Zhong et al. 2017, "Random erasing data augmentation".
    """

    fields = ("p", "scale", "ratio", "value")

    def __init__(
        self,
        p: float = 0.5,
        scale: Sequence[float] = (0.02, 0.33),
        ratio: Sequence[float] = (0.3, 3.3),
        value: float | Sequence[float] | str = 0,
        inplace: bool = False,
    ):
        if isinstance(value, str) and value != "random":
            raise ValueError(f'value must be a number, numbers or "random", got {value!r}')
        if not 0 <= p <= 1 or not 0 <= scale[0] <= scale[1] <= 1 or not 0 < ratio[0] <= ratio[1]:
            raise ValueError(f"p and scale must be within 0..1 and ranges (low, high), got {p}, {scale}, {ratio}")
        self.p = p
        self.scale = scale
        self.ratio = ratio
        self.value = value
        self.inplace = inplace

    def __call__(self, tensor: Tensor) -> Tensor:
        rng = sample_rng()
        if rng.random() >= self.p:
            return tensor
        channels, height, width = F.get_dimensions(tensor)
        for _ in range(10):
            area = height * width * rng.uniform(self.scale[0], self.scale[1])
            aspect = math.exp(rng.uniform(math.log(self.ratio[0]), math.log(self.ratio[1])))
            h, w = round(math.sqrt(area * aspect)), round(math.sqrt(area / aspect))
            if 0 < h < height and 0 < w < width:
                top, left = int(rng.integers(height - h + 1)), int(rng.integers(width - w + 1))
                return F.erase(tensor, top, left, h, w, self._fill(rng, channels, h, w), self.inplace)
        return tensor

    def _fill(self, rng: Any, channels: int, h: int, w: int) -> Any:
        if self.value == "random":
            return rng.standard_normal((channels, h, w))
        if isinstance(self.value, numbers.Number):
            return self.value
        if len(self.value) != channels:  # type: ignore[arg-type]
            raise ShapeError(
                f"value has {len(self.value)} numbers, the picture {channels} channels",  # type: ignore[arg-type]
                op="RandomErasing",
            )
        return [[[v]] for v in self.value]  # type: ignore[union-attr]
