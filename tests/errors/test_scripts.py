"""Two programs as beginners type them: every bug is named with its layer, its line and its mend.

Fixing the bugs one by one, each by what the message before says, ends in a program that runs.
"""

import linecache
import runpy
import struct
import subprocess
import sys
import warnings
from pathlib import Path

import numpy as np
import pytest

from twofold.ir.errors import ShapeError, TwofoldError, TwofoldWarning

SCRIPTS = Path(__file__).parent / "scripts"


def write_idx(path, array):
    header = struct.pack(">BBBB", 0, 0, 8, array.ndim) + struct.pack(f">{array.ndim}I", *array.shape)
    path.write_bytes(header + array.tobytes())


@pytest.fixture
def folder(tmp_path, monkeypatch):
    """A folder with a small data set in MNIST's format: a bright square whose place is the class."""
    raw = tmp_path / "data" / "MNIST" / "raw"
    raw.mkdir(parents=True)
    rng = np.random.default_rng(0)
    for kind, n in (("train", 96), ("t10k", 8)):
        labels = rng.integers(0, 10, n, dtype=np.uint8)
        images = rng.integers(0, 60, (n, 28, 28), dtype=np.uint8)
        for image, label in zip(images, labels, strict=True):
            row, column = divmod(int(label), 4)
            image[2 + 8 * row : 9 + 8 * row, 1 + 7 * column : 7 + 7 * column] = 250
        write_idx(raw / f"{kind}-images-idx3-ubyte", images)
        write_idx(raw / f"{kind}-labels-idx1-ubyte", labels)
    monkeypatch.chdir(tmp_path)
    return tmp_path


def write_script(folder, name, *fixes):
    text = (SCRIPTS / name).read_text()
    for wrong, right in fixes:
        assert text.count(wrong) == 1, wrong
        text = text.replace(wrong, right)
    path = folder / "train.py"
    path.write_text(text)
    linecache.checkcache(str(path))
    return path


def run(folder, name, *fixes):
    return runpy.run_path(str(write_script(folder, name, *fixes)), run_name="__main__")


def failure(folder, name, *fixes):
    with pytest.raises(ShapeError) as info:
        run(folder, name, *fixes)
    return str(info.value)


def line_of(folder, text):
    lines = (folder / "train.py").read_text().splitlines()
    (number,) = [i for i, line in enumerate(lines, 1) if text in line]
    return f"{folder / 'train.py'}:{number}: {lines[number - 1].strip()}"


GREY = ("nn.Conv2d(3, 32", "nn.Conv2d(1, 32")
VIEW = ("x.view(-1, 64 * 6 * 6)", "x.view(x.size(0), -1)")
LINEAR = ("nn.Linear(64 * 6 * 6, 128)", "nn.Linear(3136, 128)")


def test_grey_images_into_a_convolution_for_colours(folder):
    text = failure(folder, "mnist_cnn.py")
    assert text == (
        "[Conv2d] expects 3 input channels, got 1: the input has shape (64, 1, 28, 28)\n"
        "  layer: conv1 = Conv2d(3, 32, kernel_size=(3, 3), stride=(1, 1), padding=(1, 1))\n"
        f"  at: {line_of(folder, 'self.conv1(x)')}\n"
        "  hint: the images are grey; use Conv2d(1, 32, 3, ...)"
    )


def test_a_view_that_can_not_be(folder):
    text = failure(folder, "mnist_cnn.py", GREY)
    assert text == (
        "[view] a tensor of shape (64, 64, 7, 7) has 200704 elements, which can't be divided into (-1, 2304): "
        "200704 / 2304 is not whole\n"
        "  layer: CNN = CNN(...)\n"
        f"  at: {line_of(folder, 'x.view(')}\n"
        "  hint: keep the batch dimension: x.view(64, -1) has 3136 features per row (64*7*7), or x.flatten(1); "
        "then the next layer needs in_features=3136"
    )


def test_a_linear_layer_of_the_wrong_size(folder):
    text = failure(folder, "mnist_cnn.py", GREY, VIEW)
    assert text == (
        "[Linear] expects 2304 input features, got 3136: the input has shape (64, 3136)\n"
        "  layer: fc1 = Linear(in_features=2304, out_features=128, bias=True)\n"
        f"  at: {line_of(folder, 'self.fc1(x)')}\n"
        "  hint: use Linear(3136, 128)"
    )


def test_a_view_that_mixes_up_the_batch(folder):
    """28 * 28 * 4 divides the elements, so the view succeeds, and the loss sees another batch size."""
    text = failure(folder, "mnist_cnn.py", GREY, ("x.view(-1, 64 * 6 * 6)", "x.view(-1, 64 * 7)"), 
                   ("nn.Linear(64 * 6 * 6, 128)", "nn.Linear(448, 128)"))  # fmt: skip
    assert "predictions of shape (448, 10) need class numbers of shape (448,), got (64,)" in text
    assert "the batch sizes differ: 448 predictions, 64 targets" in text
    assert f"at: {line_of(folder, 'criterion(outputs')}" in text


def test_the_program_runs_when_its_bugs_are_fixed(folder, capsys):
    names = run(folder, "mnist_cnn.py", GREY, VIEW, LINEAR, ("lr=0.001", "lr=0.05"))
    losses = names["losses"]
    assert len(losses) == 4
    assert np.isfinite(losses).all()
    assert losses[-1] < losses[0]
    out = capsys.readouterr().out
    assert "epoch 2: loss" in out
    assert "accuracy:" in out


def test_the_traceback_ends_in_the_users_words(folder):
    """The whole thing as a process: the message is the last thing on the screen."""
    path = write_script(folder, "mnist_cnn.py", GREY, VIEW)
    done = subprocess.run([sys.executable, path], cwd=folder, capture_output=True, text=True, check=False)
    assert done.returncode == 1
    assert done.stderr.rstrip().endswith("hint: use Linear(3136, 128)")
    assert "twofold.ir.errors.ShapeError: [Linear] expects 2304" in done.stderr


ZERO = ("        loss = loss_fn", "        optimizer.zero_grad()\n        loss = loss_fn")


def test_a_loop_that_never_zeroes_the_gradients_is_reported_once(folder):
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        names = run(folder, "mnist_linear.py")
    assert len(names["losses"]) == 12
    (warning,) = caught
    assert warning.category is TwofoldWarning
    assert warning.filename == str(folder / "train.py")
    assert str(warning.message) == (
        "the gradients have not been zeroed since the first of 3 steps: every backward() adds to the sum of all "
        "earlier ones\n"
        f"  at: {line_of(folder, 'optimizer.step()')}\n"
        "  hint: call optimizer.zero_grad() before loss.backward()"
    )


def test_the_loop_with_zero_grad_is_quiet_and_learns(folder):
    names = run(folder, "mnist_linear.py", ZERO)  # a warning would be an error
    losses = names["losses"]
    assert np.mean(losses[-3:]) < np.mean(losses[:3]) / 2


def test_pictures_that_were_not_flattened(folder):
    text = failure(folder, "mnist_linear.py", ZERO, ("        x = x.view(x.size(0), -1)\n", ""))
    assert text == (
        "[Linear] expects 784 input features, got 28: the input has shape (16, 1, 28, 28)\n"
        "  layer: linear = Linear(in_features=784, out_features=10, bias=True)\n"
        f"  at: {line_of(folder, 'self.linear(x)')}\n"
        "  hint: flatten the input first: x.flatten(1), or a Flatten() layer before this one"
    )


def test_a_forgotten_transform(folder):
    with pytest.raises(TypeError, match=r"transform=twofold\.vision\.transforms\.ToTensor\(\)"):
        run(folder, "mnist_linear.py", ZERO, ("transform=transform, ", ""))


def test_too_few_classes(folder):
    with pytest.raises(TwofoldError) as info:
        run(folder, "mnist_linear.py", ZERO, ("28 * 28, 10", "28 * 28, 9"))
    text = str(info.value)
    assert "[cross_entropy] target contains the class 9, the predictions have 9 classes (0 to 8)" in text
    assert "use a last layer with 10 outputs" in text
    assert f"at: {line_of(folder, 'loss_fn(net(x), y)')}" in text


def test_a_missing_download(folder):
    with pytest.raises(TwofoldError, match=r"no file train-images(?s:.*)pass download=True"):
        run(folder, "mnist_linear.py", ('MNIST("data"', 'MNIST("elsewhere"'), (", download=True", ""))
