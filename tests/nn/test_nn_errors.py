"""Wrong programs and their messages: the layer's path, the user's line, what to do."""

from __future__ import annotations

import re
import warnings
from collections.abc import Callable

import pytest

import twofold as tw
from twofold import nn
from twofold.ir.errors import DTypeError, OutOfBoundsError, ShapeError, TwofoldError, TwofoldWarning
from twofold.nn import functional as F


class Cnn(nn.Module):
    """The network of a first tutorial, with its mistakes switchable."""

    def __init__(self, channels: int = 1, features: int = 64 * 7 * 7) -> None:
        super().__init__()
        self.conv1 = nn.Conv2d(channels, 32, 3, padding=1)
        self.conv2 = nn.Conv2d(32, 64, 3, padding=1)
        self.fc1 = nn.Linear(features, 128)
        self.fc2 = nn.Linear(128, 10)
        self.features = features

    def forward(self, x: tw.Tensor) -> tw.Tensor:
        x = F.max_pool2d(F.relu(self.conv1(x)), (2, 2))
        x = F.max_pool2d(F.relu(self.conv2(x)), (2, 2))
        x = x.flatten(1)
        return self.fc2(F.relu(self.fc1(x)))


def message(call: Callable[[], object]) -> str:
    with pytest.raises(TwofoldError) as caught:
        call()
    return str(caught.value)


def test_grey_images_into_a_layer_for_colour() -> None:
    net = Cnn(channels=3)
    with pytest.raises(ShapeError) as caught:
        net(tw.zeros(2, 1, 28, 28))
    text = str(caught.value)
    assert text.startswith("[Conv2d] expects 3 input channels, got 1: the input has shape (2, 1, 28, 28)")
    assert "\n  layer: conv1 = Conv2d(3, 32, kernel_size=(3, 3), stride=(1, 1), padding=(1, 1))" in text
    assert "hint: the images are grey; use Conv2d(1, 32, 3, ...)" in text
    assert re.search(r"at: .*test_nn_errors.py:\d+: x = F.max_pool2d\(F.relu\(self.conv1\(x\)\)", text)
    assert caught.value.layer_path == "conv1" and caught.value.layers == [net.conv1, net]
    Cnn()(tw.zeros(2, 1, 28, 28))


def test_wrong_number_of_features_after_the_pools() -> None:
    text = message(lambda: Cnn(features=64 * 6 * 6)(tw.zeros(2, 1, 28, 28)))
    assert "[Linear] expects 2304 input features, got 3136: the input has shape (2, 3136)" in text
    assert "layer: fc1 = Linear(in_features=2304, out_features=128, bias=True)" in text
    assert "hint: use Linear(3136, 128)" in text


def test_path_through_containers_and_shared_roots() -> None:
    net = nn.Sequential(nn.ModuleDict({"body": nn.ReLU()})["body"], nn.Sequential(nn.ReLU(), nn.Linear(3, 2)))
    outer = nn.Module()
    outer.net = net
    outer.forward = lambda x: outer.net(x)
    assert "layer: net.1.1 = Linear(" in message(lambda: outer(tw.zeros(1, 4)))
    assert "layer: 1.1 = Linear(" in message(lambda: net(tw.zeros(1, 4)))
    assert "layer: Linear = Linear(" in message(lambda: nn.Linear(3, 2)(tw.zeros(1, 4)))


def test_layers_outside_the_tree_are_named_by_class() -> None:
    class Hidden(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.layers = [nn.Linear(3, 2)]  # a plain list: not registered

        def forward(self, x: tw.Tensor) -> tw.Tensor:
            return self.layers[0](x)

    assert "layer: Linear = Linear(in_features=3" in message(lambda: Hidden()(tw.zeros(1, 4)))


def test_an_error_in_the_forward_of_a_model_names_the_model() -> None:
    class Bad(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.inner = nn.Linear(2, 2)

        def forward(self, x: tw.Tensor) -> tw.Tensor:
            return x.reshape(3, 5)

    net = nn.Sequential(Bad())
    text = message(lambda: net(tw.zeros(2, 4)))
    assert "layer: 0 = Bad(...)" in text and "at: " in text and "x.reshape(3, 5)" in text


def test_a_caught_error_can_be_raised_again() -> None:
    layer = nn.Linear(3, 2)

    class Retry(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.first, self.second = layer, nn.Linear(4, 1)

        def forward(self, x: tw.Tensor) -> tw.Tensor:
            try:
                return self.first(x)
            except ShapeError:
                return self.second(x)

    assert Retry()(tw.zeros(1, 4)).shape == (1, 1)


# name, call, class, parts of the message
WRONG: list[tuple[str, Callable[[], object], type[Exception], list[str]]] = [
    (
        "linear flatten",
        lambda: nn.Linear(784, 10)(tw.zeros(64, 1, 28, 28)),
        ShapeError,
        ["expects 784 input features, got 28", "flatten the input first: x.flatten(1)"],
    ),
    ("linear 0-d", lambda: nn.Linear(3, 1)(tw.tensor(1.0)), ShapeError, ["expects 3 input features", "hint:"]),
    (
        "linear integers",
        lambda: nn.Linear(3, 1)(tw.tensor([[1, 2, 3]])),
        DTypeError,
        ["expects float32 input like its weight, got int64", "convert the input with .to(twofold.float32)"],
    ),
    (
        "linear doubles",
        lambda: nn.Linear(3, 1)(tw.zeros(1, 3, dtype=tw.float64)),
        DTypeError,
        ["got float64", "or the layer with .to(twofold.float64)"],
    ),
    ("linear list", lambda: nn.Linear(3, 1)([1.0, 2.0, 3.0]), DTypeError, ["expects a tensor, got list"]),
    (
        "functional linear",
        lambda: F.linear(tw.zeros(2, 3), tw.zeros(4, 5)),
        ShapeError,
        ["input of shape (2, 3) has 3 features, the weight of shape (4, 5) takes 5"],
    ),
    (
        "conv channels last",
        lambda: nn.Conv2d(3, 8, 3)(tw.zeros(2, 32, 32, 3)),
        ShapeError,
        ["expects 3 input channels, got 32", "x.permute(0, 3, 1, 2)"],
    ),
    (
        "conv colour",
        lambda: nn.Conv2d(1, 8, 3)(tw.zeros(2, 3, 9, 9)),
        ShapeError,
        ["in colour; use Conv2d(3, 8, 3"],
    ),
    ("conv other", lambda: nn.Conv1d(4, 8, 3)(tw.zeros(2, 5, 9)), ShapeError, ["hint: use Conv1d(5, 8, 3, ...)"]),
    (
        "conv without channels",
        lambda: nn.Conv2d(1, 8, 3)(tw.zeros(28, 28)),
        ShapeError,
        ["expects an input (N, 1, H, W) or (1, H, W), got (28, 28)", "x.unsqueeze(0)"],
    ),
    (
        "conv too many dims",
        lambda: nn.Conv2d(1, 8, 3)(tw.zeros(2, 3, 1, 28, 28)),
        ShapeError,
        ["merge the leading dimensions: x.flatten(0, 1)"],
    ),
    ("conv window", lambda: nn.Conv2d(1, 8, 5)(tw.zeros(2, 1, 3, 3)), ShapeError, ["5", "3"]),
    (
        "conv functional dtype",
        lambda: F.conv2d(tw.zeros(1, 1, 3, 3), tw.zeros(1, 1, 2, 2, dtype=tw.float64)),
        DTypeError,
        ["the input has dtype float32, the weight float64"],
    ),
    ("conv same stride", lambda: nn.Conv2d(1, 1, 3, stride=2, padding="same"), ValueError, ["strided"]),
    ("conv groups", lambda: nn.Conv2d(3, 4, 3, groups=2), ValueError, ["divisible by groups"]),
    ("conv mode", lambda: nn.Conv2d(3, 4, 3, padding_mode="mirror"), ValueError, ["padding_mode"]),
    (
        "transpose channels",
        lambda: nn.ConvTranspose2d(4, 2, 3)(tw.zeros(1, 3, 4, 4)),
        ShapeError,
        ["expects 4 input channels, got 3"],
    ),
    (
        "transpose output size",
        lambda: nn.ConvTranspose2d(1, 1, 3, stride=2)(tw.zeros(1, 1, 4, 4), output_size=(20, 20)),
        TwofoldError,
        ["output_size (20, 20)", "sizes 9 to 10"],
    ),
    (
        "output_padding",
        lambda: F.conv_transpose1d(tw.zeros(1, 1, 3), tw.zeros(1, 1, 2), output_padding=1),
        ShapeError,
        ["output_padding 1 must be smaller"],
    ),
    (
        "pool too large",
        lambda: nn.MaxPool2d(2)(tw.zeros(1, 8, 1, 1)),
        ShapeError,
        ["a window of 2 is larger than the input: 1", "fewer pooling layers"],
    ),
    ("pool padding", lambda: F.max_pool1d(tw.zeros(1, 1, 9), 2, padding=2), ShapeError, ["more than half"]),
    ("pool dims", lambda: nn.MaxPool2d(2)(tw.zeros(4, 4)), ShapeError, ["expects an input (N, C, H, W)"]),
    ("adaptive", lambda: F.adaptive_avg_pool2d(tw.zeros(1, 1, 4, 4), (1, 2, 3)), ShapeError, ["output_size"]),
    (
        "unpool",
        lambda: F.max_unpool1d(tw.zeros(1, 1, 2), tw.zeros(1, 1, 3).long(), 2),
        ShapeError,
        ["the indices have shape (1, 1, 3), the input (1, 1, 2)"],
    ),
    (
        "batch norm channels",
        lambda: nn.BatchNorm2d(16)(tw.zeros(2, 8, 4, 4)),
        ShapeError,
        ["expects 16 channels, got 8", "use BatchNorm2d(8)"],
    ),
    (
        "batch norm last",
        lambda: nn.BatchNorm2d(16)(tw.zeros(2, 4, 4, 16)),
        ShapeError,
        ["the channels are in the last dimension"],
    ),
    (
        "batch norm dims",
        lambda: nn.BatchNorm2d(3)(tw.zeros(2, 3)),
        ShapeError,
        ["expects a 4-d input (N, C, H, W)"],
    ),
    (
        "batch norm of one",
        lambda: nn.BatchNorm1d(3)(tw.zeros(1, 3)),
        ValueError,
        ["Expected more than 1 value per channel when training, got input size (1, 3)", "drop_last=True"],
    ),
    ("layer norm", lambda: nn.LayerNorm(5)(tw.zeros(2, 3)), ShapeError, ["end in (5,), got (2, 3)", "(3,)"]),
    ("group norm", lambda: nn.GroupNorm(2, 4)(tw.zeros(2, 6, 3)), ShapeError, ["expects 4 channels, got 6"]),
    ("instance norm of one", lambda: nn.InstanceNorm1d(2)(tw.zeros(1, 2, 1)), ShapeError, ["more than 1 spatial"]),
    (
        "embedding range",
        lambda: nn.Embedding(10, 3)(tw.tensor([1, 12])),
        OutOfBoundsError,
        ["index 12 is outside the 10 embeddings", "between 0 and 9; use 13 embeddings"],
    ),
    ("embedding negative", lambda: nn.Embedding(10, 3)(tw.tensor([-1])), IndexError, ["index -1 is outside"]),
    ("embedding floats", lambda: nn.Embedding(10, 3)(tw.tensor([1.0])), DTypeError, ["convert them with .long()"]),
    ("embedding sparse", lambda: nn.Embedding(10, 3, sparse=True), TwofoldError, ["sparse=False"]),
    ("bag", lambda: nn.EmbeddingBag(10, 3)(tw.tensor([1, 2])), ShapeError, ["1-d input with 1-d offsets"]),
    ("one_hot", lambda: F.one_hot(tw.tensor([3]), 2), OutOfBoundsError, ["index 3 is outside the 2 classes"]),
    (
        "cross entropy range",
        lambda: nn.CrossEntropyLoss()(tw.zeros(3, 10), tw.tensor([1, 10, 2])),
        OutOfBoundsError,
        ["target contains the class 10, the predictions have 10 classes (0 to 9)", "last layer with 11 outputs"],
    ),
    (
        "cross entropy from one",
        lambda: F.cross_entropy(tw.zeros(2, 3), tw.tensor([1, 3])),
        OutOfBoundsError,
        ["counted from 1, use target - 1"],
    ),
    (
        "cross entropy negative",
        lambda: F.cross_entropy(tw.zeros(2, 3), tw.tensor([1, -1])),
        OutOfBoundsError,
        ["class -1", "ignore_index=-1"],
    ),
    (
        "cross entropy batch",
        lambda: F.cross_entropy(tw.zeros(4, 3), tw.tensor([1, 2])),
        ShapeError,
        ["predictions of shape (4, 3) need class numbers of shape (4,), got (2,)", "4 predictions, 2 targets"],
    ),
    (
        "cross entropy column",
        lambda: F.cross_entropy(tw.zeros(4, 3), tw.zeros(4, 1).long()),
        ShapeError,
        ["target.squeeze(1)"],
    ),
    (
        "cross entropy one-hot integers",
        lambda: F.cross_entropy(tw.zeros(4, 3), tw.zeros(4, 3).long()),
        ShapeError,
        ["target.argmax(1)"],
    ),
    (
        "cross entropy floats",
        lambda: F.cross_entropy(tw.zeros(4, 3), tw.zeros(4)),
        ShapeError,
        ["for class numbers use target.long()"],
    ),
    (
        "cross entropy weight",
        lambda: F.cross_entropy(tw.zeros(4, 3), tw.zeros(4).long(), weight=tw.ones(2)),
        ShapeError,
        ["weight has shape (2,) for 3 classes"],
    ),
    (
        "cross entropy logits",
        lambda: F.cross_entropy(tw.zeros(4, 3).long(), tw.zeros(4).long()),
        DTypeError,
        ["float"],
    ),
    ("nll target", lambda: F.nll_loss(tw.zeros(4, 3), tw.zeros(4)), DTypeError, ["use target.long()"]),
    (
        "reduction",
        lambda: F.cross_entropy(tw.zeros(4, 3), tw.zeros(4).long(), reduction="avg"),
        TwofoldError,
        ["'avg'"],
    ),
    (
        "smoothing",
        lambda: F.cross_entropy(tw.zeros(1, 3), tw.tensor([1]), label_smoothing=2),
        TwofoldError,
        ["0 and 1"],
    ),
    (
        "bce range",
        lambda: nn.BCELoss()(tw.tensor([1.5]), tw.tensor([1.0])),
        TwofoldError,
        ["between 0 and 1, got 1.5", "BCEWithLogitsLoss"],
    ),
    (
        "bce shape",
        lambda: nn.BCEWithLogitsLoss()(tw.zeros(4, 1), tw.zeros(4)),
        ValueError,
        ["the input has shape (4, 1), the target (4,)", "input.squeeze(1)"],
    ),
    (
        "bce integers",
        lambda: nn.BCEWithLogitsLoss()(tw.zeros(4), tw.zeros(4).long()),
        DTypeError,
        ["target.float()"],
    ),
    ("softmax dim", lambda: F.softmax(tw.zeros(2, 3), 5), IndexError, ["dim 5 is outside a 2-d tensor"]),
    ("softmax integers", lambda: F.softmax(tw.tensor([1, 2]), 0), DTypeError, ["convert the input with .float()"]),
    ("glu", lambda: F.glu(tw.zeros(3)), ShapeError, ["must be even, got 3"]),
    ("prelu", lambda: nn.PReLU(3)(tw.zeros(2, 4)), ShapeError, ["has 3 weights for 4 channels", "PReLU(4)"]),
    ("gelu", lambda: F.gelu(tw.zeros(1), approximate="erf"), TwofoldError, ["'none' or 'tanh'"]),
    ("dropout", lambda: F.dropout(tw.zeros(1), p=2.0), TwofoldError, ["between 0 and 1, got 2.0"]),
    ("dropout1d", lambda: F.dropout1d(tw.zeros(2, 2, 2, 2)), ShapeError, ["1 spatial dimensions"]),
    ("pad odd", lambda: F.pad(tw.zeros(3), (1,)), ShapeError, ["two for each dimension"]),
    ("pad reflect", lambda: F.pad(tw.zeros(1, 3), (3, 0), mode="reflect"), ShapeError, ["at most 2 fits"]),
    ("pad mode", lambda: F.pad(tw.zeros(3), (1, 1), mode="edge"), TwofoldError, ["'replicate'"]),
    ("pad negative", lambda: F.pad(tw.zeros(3), (-2, -2)), ShapeError, ["negative padding"]),
    ("interpolate mode", lambda: F.interpolate(tw.zeros(1, 1, 4), 2, mode="bilinear"), ShapeError, ["4-d input"]),
    ("interpolate both", lambda: F.interpolate(tw.zeros(1, 1, 4)), TwofoldError, ["one of size and scale_factor"]),
    ("interpolate align", lambda: F.interpolate(tw.zeros(1, 1, 4), 2, align_corners=True), TwofoldError, ["align"]),
    ("pixel shuffle", lambda: nn.PixelShuffle(2)(tw.zeros(1, 3, 2, 2)), ShapeError, ["multiple of 4"]),
    ("fold", lambda: nn.Fold(3, 2)(tw.zeros(1, 4, 5)), ShapeError, ["2 x 2 windows of 4 values"]),
    (
        "attention sizes",
        lambda: F.scaled_dot_product_attention(tw.zeros(2, 3), tw.zeros(2, 4), tw.zeros(2, 4)),
        ShapeError,
        ["with the same E"],
    ),
    (
        "multihead mask",
        lambda: nn.MultiheadAttention(4, 2)(*(tw.zeros(3, 1, 4),) * 3, attn_mask=tw.zeros(2, 2)),
        ShapeError,
        ["attn_mask has shape (2, 2), expected (3, 3)"],
    ),
    ("multihead heads", lambda: nn.MultiheadAttention(5, 2), ValueError, ["divisible by num_heads"]),
    (
        "lstm features",
        lambda: nn.LSTM(3, 4)(tw.zeros(5, 2, 7)),
        ShapeError,
        ["with 3 features", "use input_size=7"],
    ),
    (
        "lstm state",
        lambda: nn.LSTM(3, 4)(tw.zeros(5, 2, 3), (tw.zeros(1, 1, 4), tw.zeros(1, 1, 4))),
        ShapeError,
        ["state of shape (1, 2, 4), got (1, 1, 4)"],
    ),
    (
        "lstm one state",
        lambda: nn.LSTM(3, 4)(tw.zeros(5, 2, 3), tw.zeros(1, 2, 4)),
        TwofoldError,
        ["expects 2 state"],
    ),
    (
        "transformer",
        lambda: nn.Transformer(4, 2, 1, 1, 8)(tw.zeros(1, 1, 3), tw.zeros(1, 1, 4)),
        ShapeError,
        ["d_model=4"],
    ),
    ("margin", lambda: nn.TripletMarginLoss(margin=-1.0), ValueError, ["greater than 0"]),
    ("ctc lengths", lambda: F.ctc_loss(tw.zeros(2, 1, 3), tw.tensor([[1]]), (5,), (1,)), ShapeError, ["longer"]),
]


@pytest.mark.parametrize(("call", "error", "parts"), [w[1:] for w in WRONG], ids=[w[0] for w in WRONG])
def test_message(call: Callable[[], object], error: type[Exception], parts: list[str]) -> None:
    with pytest.raises(error) as caught:
        call()
    for part in parts:
        assert part in str(caught.value), str(caught.value)
    if isinstance(caught.value, TwofoldError):
        assert "test_nn_errors.py" in str(caught.value), "the user's line is in the message"


def test_broadcasting_targets_warn() -> None:
    with pytest.warns(TwofoldWarning, match=r"\[mse_loss\] the target has shape \(4,\), the input \(4, 1\)"):
        nn.MSELoss()(tw.zeros(4, 1), tw.zeros(4))
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        nn.MSELoss()(tw.zeros(4), tw.zeros(4))


def test_kl_div_mean_warns() -> None:
    with pytest.warns(TwofoldWarning, match="batchmean"):
        F.kl_div(tw.zeros(2, 2), tw.ones(2, 2))


def test_errors_inside_traces_name_the_layer_too() -> None:
    net = nn.Sequential(nn.ReLU(), nn.Linear(3, 2))
    assert "layer: 1 = Linear(" in message(lambda: tw.trace(net, tw.zeros(1, 4)))
