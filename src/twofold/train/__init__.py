"""Training: the loop, metrics, callbacks and run directories."""

from .callbacks import Callback, ProgressBar
from .metrics import Accuracy, ConfusionMatrix, Mean, Metric
from .run import Run
from .trainer import Trainer

__all__ = ["Accuracy", "Callback", "ConfusionMatrix", "Mean", "Metric", "ProgressBar", "Run", "Trainer"]
