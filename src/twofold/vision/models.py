"""Models for pictures."""

from __future__ import annotations

from .. import nn
from ..autodiff.handle import Tensor


class SmallConvNet(nn.Module):
    """A compact convolutional classifier for small pictures such as handwritten digits.

    Three 3x3 convolutions with batch normalisation (Ioffe & Szegedy 2015, arXiv:1502.03167), two
    2x2 poolings, and a linear layer over what remains.

    Shapes: (N, in_channels, image_size, image_size) -> (N, num_classes) logits.

    Args:
        in_channels: colours of the input, 1 for grey.
        num_classes: number of classes.
        image_size: height and width in pixels, at least 4.
        width: channels of the first convolution; later ones have twice as many.
        dropout: probability of zeroing a feature before the last layer.

    >>> import twofold as tw
    >>> SmallConvNet(image_size=8)(tw.zeros(2, 1, 8, 8)).shape
    (2, 10)
    """

    def __init__(
        self,
        in_channels: int = 1,
        num_classes: int = 10,
        image_size: int = 28,
        width: int = 32,
        dropout: float = 0.3,
    ):
        super().__init__()
        self.features = nn.Sequential(
            *_block(in_channels, width),
            *_block(width, 2 * width),
            nn.MaxPool2d(2),
            *_block(2 * width, 2 * width),
            nn.MaxPool2d(2),
        )
        side = image_size // 2 // 2
        self.classifier = nn.Sequential(
            nn.Flatten(),
            nn.Dropout(dropout),
            nn.Linear(2 * width * side * side, num_classes),
        )

    def forward(self, x: Tensor) -> Tensor:
        return self.classifier(self.features(x))


def _block(in_channels: int, out_channels: int) -> tuple[nn.Module, ...]:
    return (
        nn.Conv2d(in_channels, out_channels, 3, padding=1, bias=False),
        nn.BatchNorm2d(out_channels),
        nn.ReLU(),
    )
