"""Data sets of pictures."""

from .._errors import DatasetError
from .base import VisionDataset
from .digits import Digits
from .fake import FakeData
from .folder import DatasetFolder, ImageFolder
from .idx import read_idx
from .mnist import KMNIST, MNIST, FashionMNIST

__all__ = [
    "KMNIST",
    "MNIST",
    "DatasetError",
    "DatasetFolder",
    "Digits",
    "FakeData",
    "FashionMNIST",
    "ImageFolder",
    "VisionDataset",
    "read_idx",
]
