"""Transforms that convert, combine and choose."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

from ...autodiff.handle import Tensor
from ...data._random import sample_rng
from ...ir.dtypes import DType
from . import functional as F


class Transform:
    """Base: a callable with a readable repr; `fields` names the attributes it shows."""

    fields: tuple[str, ...] = ()

    def __call__(self, picture: Any) -> Any:
        raise NotImplementedError(f"{type(self).__name__} must define __call__")

    def __repr__(self) -> str:
        shown = ", ".join(f"{name}={_shown(getattr(self, name))}" for name in self.fields)
        return f"{type(self).__name__}({shown})"


def _shown(value: Any) -> str:
    return value.value if isinstance(value, F.InterpolationMode) else repr(value)


class Compose(Transform):
    """Transforms one after another.

    >>> Compose([ToTensor(), Lambda(abs)])
    Compose(
        ToTensor()
        Lambda(abs)
    )
    """

    def __init__(self, transforms: Sequence[Callable[[Any], Any]]):
        self.transforms = transforms

    def __call__(self, picture: Any) -> Any:
        for transform in self.transforms:
            picture = transform(picture)
        return picture

    def __repr__(self) -> str:
        return _listing(type(self).__name__, self.transforms)


def _listing(name: str, transforms: Sequence[Any]) -> str:
    lines = "".join(f"\n    {str(t).replace(chr(10), chr(10) + '    ')}" for t in transforms)
    return f"{name}({lines}\n)"


class ToTensor(Transform):
    """PIL image or array (H, W[, C]) to a float tensor (C, H, W); uint8 0..255 becomes 0..1."""

    def __call__(self, picture: Any) -> Tensor:
        return F.to_tensor(picture)


class PILToTensor(Transform):
    """PIL image to a tensor (C, H, W) of the same values."""

    def __call__(self, picture: Any) -> Tensor:
        return F.pil_to_tensor(picture)


class ToPILImage(Transform):
    """Tensor (C, H, W) or array (H, W[, C]) to a PIL image."""

    fields = ("mode",)

    def __init__(self, mode: str | None = None):
        self.mode = mode

    def __call__(self, picture: Any) -> Any:
        return F.to_pil_image(picture, self.mode)


class ConvertImageDtype(Transform):
    """A tensor in another dtype, scaled from the one's range to the other's."""

    fields = ("dtype",)

    def __init__(self, dtype: DType):
        self.dtype = dtype

    def __call__(self, picture: Tensor) -> Tensor:
        return F.convert_image_dtype(picture, self.dtype)


class Lambda(Transform):
    """Any function of one argument."""

    def __init__(self, lambd: Callable[[Any], Any]):
        if not callable(lambd):
            raise TypeError(f"Lambda takes a function, got {type(lambd).__name__}")
        self.lambd = lambd

    def __call__(self, picture: Any) -> Any:
        return self.lambd(picture)

    def __repr__(self) -> str:
        return f"Lambda({getattr(self.lambd, '__name__', repr(self.lambd))})"


class RandomApply(Transform):
    """All of the transforms with probability `p`, else none."""

    def __init__(self, transforms: Sequence[Callable[[Any], Any]], p: float = 0.5):
        self.transforms = transforms
        self.p = p

    def __call__(self, picture: Any) -> Any:
        if sample_rng().random() < self.p:
            for transform in self.transforms:
                picture = transform(picture)
        return picture

    def __repr__(self) -> str:
        return _listing(f"RandomApply(p={self.p})", self.transforms)


class RandomChoice(Transform):
    """One of the transforms, chosen with the probabilities `p` (equal by default)."""

    def __init__(self, transforms: Sequence[Callable[[Any], Any]], p: Sequence[float] | None = None):
        self.transforms = transforms
        self.p = None if p is None else [x / sum(p) for x in p]

    def __call__(self, picture: Any) -> Any:
        return self.transforms[int(sample_rng().choice(len(self.transforms), p=self.p))](picture)

    def __repr__(self) -> str:
        return _listing(type(self).__name__, self.transforms)


class RandomOrder(Transform):
    """All of the transforms in random order."""

    def __init__(self, transforms: Sequence[Callable[[Any], Any]]):
        self.transforms = transforms

    def __call__(self, picture: Any) -> Any:
        for i in sample_rng().permutation(len(self.transforms)):
            picture = self.transforms[i](picture)
        return picture

    def __repr__(self) -> str:
        return _listing(type(self).__name__, self.transforms)
