"""The main job, small: train a classifier of handwritten digits, and read a drawn digit with it."""

from __future__ import annotations

import contextlib
import os
from collections.abc import Sequence
from typing import Any

import numpy as np

from ..autodiff.handle import Tensor
from ..data import DataLoader
from ..ir.errors import TwofoldError
from ..nn import CrossEntropyLoss, Module
from ..optim import AdamW
from ..optim.lr_scheduler import OneCycleLR
from ..tensors.gradients import no_grad
from ..tensors.interop import from_numpy
from ..tensors.random import manual_seed
from ..train import Accuracy, Callback, ConfusionMatrix, ProgressBar, Run, Trainer
from . import transforms
from .datasets import Digits
from .models import SmallConvNet

CLASSES = [str(n) for n in range(10)]
_SIDE = 8  # pixels
_BLOCK = 4  # the data set counts ink in 4x4 blocks of a 32x32 bitmap
_SLIM = 0.55  # most digits of the data set are at most that wide, relative to their height
_SAMPLES = 8  # of a drawn picture, in each direction, for one pixel of that bitmap
_INK = 0.3  # share of the bitmap that is ink in the data set, nearly the same for all digits


def train_digits(
    *,
    epochs: int = 20,
    batch_size: int = 64,
    lr: float = 3e-3,
    seed: int = 0,
    out: str | os.PathLike[str] | None = None,
    callbacks: Sequence[Callback] | None = None,
) -> tuple[Run, ConfusionMatrix]:
    """Train on the bundled digits; returns the run and the confusion matrix of the test split.

    The model never sees the test split. The same arguments give the same weights.
    """
    run = Run.create(out, prefix="digits")  # now, so that a wrong place is found before the work
    try:
        info, state, confusion = _trained(epochs, batch_size, lr, seed, callbacks)
    except BaseException:
        with contextlib.suppress(OSError):  # a callback may have written there
            run.path.rmdir()
        raise
    run.save(info, state)
    return run, confusion


def _trained(
    epochs: int, batch_size: int, lr: float, seed: int, callbacks: Sequence[Callback] | None
) -> tuple[dict[str, Any], dict[str, Any], ConfusionMatrix]:
    """What there is to write about a training run, and its result."""
    manual_seed(seed)
    train_set = Digits(train=True, transform=_augment())
    model = SmallConvNet(image_size=_SIDE)
    loader = DataLoader(train_set, batch_size=batch_size, shuffle=True, drop_last=True)
    optimizer = AdamW(model.parameters(), lr=lr, weight_decay=1e-2)
    trainer = Trainer(
        model,
        optimizer,
        CrossEntropyLoss(label_smoothing=0.05),
        scheduler=OneCycleLR(optimizer, max_lr=lr, total_steps=epochs * len(loader)),
        schedule_per="batch",
        metrics={"accuracy": Accuracy()},
        compile=True,
        callbacks=[ProgressBar(unit="images")] if callbacks is None else callbacks,
    )
    history = trainer.fit(loader, epochs=epochs)
    confusion = evaluate_model(model)
    info = {
        "task": "digits",
        "model": {"name": "SmallConvNet", "arguments": {"image_size": _SIDE}},
        "classes": CLASSES,
        "training": {"epochs": epochs, "batch_size": batch_size, "lr": lr, "seed": seed},
        "result": {"test_accuracy": confusion.value(), "train_loss": history[-1]["loss"] if history else None},
    }
    return info, model.state_dict(), confusion


def evaluate_model(model: Module) -> ConfusionMatrix:
    """The confusion matrix of `model` on the test split."""
    confusion = ConfusionMatrix(len(CLASSES))
    loader = DataLoader(Digits(train=False, transform=transforms.ToTensor()), batch_size=256)
    was_training = model.training
    model.eval()
    with no_grad():
        for images, targets in loader:
            confusion.update(model(images), targets)
    model.train(was_training)
    return confusion


def load_model(run: Run) -> SmallConvNet:
    """The trained model of a run, in evaluation mode."""
    info = run.info
    if info.get("task") != "digits":
        raise TwofoldError(f"{run.path} holds a model for {info.get('task')!r}, expected 'digits'")
    model = SmallConvNet(**info["model"]["arguments"])
    model.load_state_dict(run.state())
    return model.eval()


def classify(model: Module, image: Any) -> list[float]:
    """Probabilities of the ten digits for a picture of one digit (a PIL image or an array)."""
    with no_grad():
        logits = model(picture_to_input(image))
    return logits.softmax(dim=1)[0].tolist()


def picture_to_input(image: Any) -> Tensor:
    """A picture of one digit, as the data set would have scanned it: shape (1, 1, 8, 8) in [0, 1].

    Ink is what differs from the border's brightness, so dark on light and light on dark both work.
    The ink's bounding box is scaled to a 32x32 bitmap, its strokes are made as thick as the data
    set's, and each 4x4 block is averaged.

    Raises: TwofoldError when the picture is blank.
    """
    ink = _ink(_grey(image))
    rows, columns = np.flatnonzero(ink.any(axis=1)), np.flatnonzero(ink.any(axis=0))
    if len(rows) == 0:
        raise TwofoldError(
            "the picture is blank: nothing in it differs from its border",
            op="predict",
            hint="draw one digit, dark on light or light on dark",
        )
    ink = ink[rows[0] : rows[-1] + 1, columns[0] : columns[-1] + 1]
    bitmap = _with_ink(_fit(ink, _SIDE * _BLOCK), _INK)
    cells = bitmap.reshape(_SIDE, _BLOCK, _SIDE, _BLOCK).mean(axis=(1, 3))
    return from_numpy(cells.astype(np.float32)[None, None])


def _grey(image: Any) -> np.ndarray[Any, Any]:
    """Brightness in [0, 1]; transparent pixels count as white paper, or as black if nothing dark is drawn."""
    if hasattr(image, "convert"):
        rgba = np.asarray(image.convert("RGBA"), np.float32) / 255
        alpha = rgba[..., 3]
        grey, visible = rgba[..., :3].mean(axis=-1), alpha > 0.5
        only_light = not visible.all() and visible.any() and grey[visible].min() > 0.5
        return grey * alpha + (1 - alpha) * (not only_light)
    array = np.asarray(image, np.float32)
    if array.ndim != 2:
        raise TwofoldError(f"a picture is a PIL image or an array (height, width), got shape {array.shape}")
    low, high = array.min(), array.max()
    return (array - low) / (high - low) if high > low else np.zeros_like(array)


def _ink(grey: np.ndarray[Any, Any]) -> np.ndarray[Any, Any]:
    """True where the picture differs from its border by more than half of the largest difference."""
    border = np.concatenate([grey[0], grey[-1], grey[:, 0], grey[:, -1]])
    difference = np.abs(grey - np.median(border))
    strongest = difference.max()
    if strongest < 0.1:
        return np.zeros(grey.shape, bool)
    return difference > strongest / 2


def _fit(ink: np.ndarray[Any, Any], side: int) -> np.ndarray[Any, Any]:
    """Scale to the height of a square, as slim as the data set's digits, and centre it; the share of ink."""
    while max(ink.shape) > side * _SAMPLES:  # so that sampling misses no thin stroke
        ink = _halved(ink)
    height, width = ink.shape
    new_height = side
    new_width = min(max(1, round(width * side / height)), round(_SLIM * side))
    rows, columns = _sampled(height, new_height), _sampled(width, new_width)
    fine = ink[rows][:, columns].astype(np.float32)
    small = fine.reshape(new_height, _SAMPLES, new_width, _SAMPLES).mean(axis=(1, 3))
    out = np.zeros((side, side), np.float32)
    top, left = (side - new_height) // 2, (side - new_width) // 2
    out[top : top + new_height, left : left + new_width] = small
    return out


def _sampled(old: int, new: int) -> np.ndarray[Any, Any]:
    """Which of `old` pixels to look at, `_SAMPLES` for each of `new`."""
    count = new * _SAMPLES
    return np.minimum((np.arange(count) + 0.5) * old / count, old - 1).astype(int)


def _halved(ink: np.ndarray[Any, Any]) -> np.ndarray[Any, Any]:
    """Half as large; ink where any of four pixels is ink."""
    height, width = ink.shape
    ink = np.pad(ink, ((0, height % 2), (0, width % 2)))
    return ink[::2, ::2] | ink[1::2, ::2] | ink[::2, 1::2] | ink[1::2, 1::2]


def _with_ink(bitmap: np.ndarray[Any, Any], share: float) -> np.ndarray[Any, Any]:
    """Thicken or thin strokes until `share` of the bitmap is ink: the places nearest to the strokes' core."""
    near = bitmap.astype(np.float64)
    for _ in range(3):  # three box filters are close to a Gaussian
        for axis in (0, 1):
            near = (_shifted(near, -1, axis) + near + _shifted(near, 1, axis)) / 3
    order = np.argsort(near.ravel(), kind="stable")
    out = np.zeros(bitmap.size, bitmap.dtype)
    out[order[-round(share * bitmap.size) :]] = 1
    return out.reshape(bitmap.shape) * (near > 0)


def _shifted(a: np.ndarray[Any, Any], by: int, axis: int) -> np.ndarray[Any, Any]:
    """`a` moved along an axis, with zeros from outside."""
    out = np.roll(a, by, axis)
    edge = [slice(None)] * a.ndim
    if by:
        edge[axis] = slice(0, by) if by > 0 else slice(by, None)
        out[tuple(edge)] = 0
    return out


def _augment() -> transforms.Compose:
    """Small rotations and shifts: people draw crookedly."""
    return transforms.Compose(
        [
            transforms.ToTensor(),
            transforms.RandomAffine(
                degrees=12, translate=(0.1, 0.1), scale=(0.8, 1.15), shear=12, interpolation="bilinear"
            ),
        ]
    )
