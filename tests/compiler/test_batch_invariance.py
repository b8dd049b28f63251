"""An item of a batch has the same bits as the item alone, in compiled inference."""

import pytest

import twofold as tw
from twofold import nn


class Last(nn.Module):
    """A recurrent layer's outputs without its states."""

    def __init__(self, layer):
        super().__init__()
        self.layer = layer

    def forward(self, x):
        return self.layer(x)[0]


MODELS = {
    "mlp": (lambda: nn.Sequential(nn.Linear(37, 65), nn.GELU(), nn.LayerNorm(65), nn.Linear(65, 10)), (37,)),
    "softmax": (lambda: nn.Sequential(nn.Linear(300, 1000), nn.Softmax(-1)), (300,)),
    "convolutions": (
        lambda: nn.Sequential(
            *(nn.Conv2d(3, 24, 3, padding=1), nn.BatchNorm2d(24), nn.ReLU(), nn.MaxPool2d(2)),
            *(nn.Conv2d(24, 40, 3, padding=1), nn.SiLU(), nn.Conv2d(40, 8, 1, stride=2), nn.AdaptiveAvgPool2d(2)),
            *(nn.Flatten(), nn.Linear(32, 5)),
        ),
        (3, 20, 22),
    ),
    "depthwise": (lambda: nn.Sequential(nn.Conv2d(20, 20, 3, groups=20), nn.GroupNorm(4, 20)), (20, 9, 9)),
    "signals": (lambda: nn.Sequential(nn.Conv1d(5, 18, 5, padding=2), nn.Tanh(), nn.AvgPool1d(3)), (5, 50)),
    "transposed": (lambda: nn.ConvTranspose2d(6, 17, 4, stride=2, padding=1), (6, 7, 7)),
    "lstm": (lambda: Last(nn.LSTM(19, 33, batch_first=True)), (11, 19)),
    "gru": (lambda: Last(nn.GRU(19, 33, num_layers=2, bidirectional=True, batch_first=True)), (11, 19)),
    "transformer": (lambda: nn.TransformerEncoderLayer(32, 4, 64, batch_first=True), (13, 32)),
}


@pytest.mark.parametrize("name", MODELS)
@pytest.mark.parametrize("size", [2, 17])
def test_an_item_does_not_depend_on_its_batch(name, size):
    make, shape = MODELS[name]
    tw.manual_seed(0)
    model = tw.compile(make().eval())
    x = tw.randn(size, *shape)
    with tw.no_grad():
        together = model(x)
        for i in {0, size // 2, size - 1}:
            assert model(x[i : i + 1].contiguous())[0].equal(together[i]), f"item {i} of {size}"
