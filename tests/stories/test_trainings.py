"""Whole trainings: that they learn, can be interrupted, and give the same weights however the data is read."""

import numpy as np
import pytest

import twofold as tw
import twofold.nn.functional as F
from twofold import nn
from twofold.data import DataLoader, TensorDataset
from twofold.optim import lr_scheduler
from twofold.vision import transforms
from twofold.vision.datasets import Digits


def weights(model):
    return {name: t.detach().numpy().copy() for name, t in model.state_dict().items()}


def assert_same(actual, expected):
    assert actual.keys() == expected.keys()
    for name, array in expected.items():
        np.testing.assert_array_equal(actual[name], array, err_msg=name)


def test_a_network_reads_digits():
    """At least 95 % of digits that it has never seen, after a short training."""
    tw.manual_seed(0)
    train = DataLoader(Digits(train=True, transform=transforms.ToTensor()), batch_size=32, shuffle=True)
    test = DataLoader(Digits(train=False, transform=transforms.ToTensor()), batch_size=256)
    model = nn.Sequential(
        nn.Conv2d(1, 16, 3, padding=1), nn.BatchNorm2d(16), nn.ReLU(), nn.MaxPool2d(2),
        nn.Conv2d(16, 32, 3, padding=1), nn.BatchNorm2d(32), nn.ReLU(), nn.MaxPool2d(2),
        nn.Flatten(), nn.Linear(128, 10),
    )  # fmt: skip
    optimizer = tw.optim.AdamW(model.parameters(), lr=5e-3)
    schedule = lr_scheduler.OneCycleLR(optimizer, max_lr=1e-2, total_steps=3 * len(train))
    for _ in range(3):
        for images, labels in train:
            optimizer.zero_grad()
            F.cross_entropy(model(images), labels).backward()
            optimizer.step()
            schedule.step()
    model.eval()
    with tw.no_grad():
        right = sum((model(x).argmax(1) == y).sum().item() for x, y in test)
    assert right / len(test.dataset) >= 0.95, right


def test_a_transformer_learns_to_copy_backwards():
    """Attention has to find where to look: the answer to a sequence is the sequence reversed."""
    tw.manual_seed(0)
    length, words = 5, 6

    class Reverser(nn.Module):
        def __init__(self):
            super().__init__()
            self.words, self.places = nn.Embedding(words, 24), nn.Embedding(length, 24)
            layer = nn.TransformerEncoderLayer(24, 4, dim_feedforward=48, dropout=0.0, batch_first=True)
            self.encoder = nn.TransformerEncoder(layer, 1)
            self.head = nn.Linear(24, words)

        def forward(self, x):
            return self.head(self.encoder(self.words(x) + self.places(tw.arange(length))))

    model = Reverser()
    optimizer = tw.optim.Adam(model.parameters(), lr=5e-3)
    for _ in range(120):
        x = tw.randint(0, words, (32, length))
        optimizer.zero_grad()
        loss = F.cross_entropy(model(x).flatten(0, 1), x.flip(1).flatten())
        loss.backward()
        optimizer.step()
    x = tw.randint(0, words, (50, length))
    assert (model(x).argmax(-1) == x.flip(1)).float().mean().item() > 0.95


# --- interrupted and resumed -------------------------------------------------------------------


class Training:
    """All the state there is: model, optimizer, schedule, random numbers, place in the data."""

    def __init__(self, num_workers=0):
        tw.manual_seed(11)
        data = Digits(
            train=True,
            transform=transforms.Compose([transforms.RandomCrop(8, padding=1), transforms.ToTensor()]),
        )
        self.loader = DataLoader(
            tw.data.Subset(data, range(96)), batch_size=16, shuffle=True, num_workers=num_workers,
            generator=tw.Generator().manual_seed(5),
        )  # fmt: skip
        self.model = nn.Sequential(
            nn.Conv2d(1, 4, 3), nn.BatchNorm2d(4), nn.ReLU(), nn.Flatten(), nn.Dropout(0.3), nn.Linear(144, 10)
        )
        self.optimizer = tw.optim.AdamW(self.model.parameters(), lr=0.01)
        self.schedule = lr_scheduler.CosineAnnealingLR(self.optimizer, T_max=30)
        self.steps = 0

    def run(self, until):
        """Train, over as many epochs as it takes, until `until` steps are done."""
        losses = []
        while self.steps < until:
            for images, labels in self.loader:
                self.optimizer.zero_grad()
                loss = F.cross_entropy(self.model(images), labels)
                loss.backward()
                self.optimizer.step()
                self.schedule.step()
                losses.append(loss.item())
                self.steps += 1
                if self.steps == until:
                    break
        return losses

    def save(self, path):
        tw.save(
            {
                "model": self.model.state_dict(),
                "optimizer": self.optimizer.state_dict(),
                "schedule": self.schedule.state_dict(),
                "loader": self.loader.state_dict(),
                "random": tw.get_rng_state(),
                "steps": self.steps,
            },
            path,
        )

    def load(self, path):
        state = tw.load(path)
        self.model.load_state_dict(state["model"])
        self.optimizer.load_state_dict(state["optimizer"])
        self.schedule.load_state_dict(state["schedule"])
        self.loader.load_state_dict(state["loader"])
        tw.set_rng_state(state["random"])
        self.steps = state["steps"]


@pytest.mark.parametrize("stop", [4, 6, 9], ids=["in the first epoch", "between epochs", "in the second epoch"])
@pytest.mark.parametrize("num_workers", [0, 2])
def test_a_training_resumed_from_a_file_ends_as_if_never_stopped(tmp_path, stop, num_workers):
    whole = Training(num_workers)
    losses = whole.run(until=14)
    numbers = tw.get_rng_state()
    first = Training(num_workers)
    begun = first.run(until=stop)
    first.save(tmp_path / "checkpoint.safetensors")
    del first
    tw.manual_seed(999)  # another process would have other numbers
    second = Training(num_workers)
    second.run(until=1)  # and whatever it has done before is forgotten
    second.load(tmp_path / "checkpoint.safetensors")
    ended = second.run(until=14)
    assert begun + ended == losses
    assert_same(weights(second.model), weights(whole.model))
    assert tw.equal(tw.get_rng_state(), numbers)
    assert second.schedule.get_last_lr() == whole.schedule.get_last_lr()


def test_the_same_weights_for_any_number_of_workers():
    results = []
    for num_workers in (0, 1, 3):
        training = Training(num_workers)
        training.run(until=8)
        results.append(weights(training.model))
    assert_same(results[1], results[0])
    assert_same(results[2], results[0])
    other = Training()
    tw.manual_seed(12)
    other.run(until=8)  # another seed gives another dropout
    assert any(
        (other_ != mine).any()
        for other_, mine in zip(weights(other.model).values(), results[0].values(), strict=True)
    )


def test_a_traced_training_with_a_loader_and_a_schedule():
    """The loop of a real program around one traced step, against the same loop eagerly."""

    def train(trace):
        tw.manual_seed(3)
        x = tw.randn(64, 6)
        data = TensorDataset(x, (x[:, 0] * x[:, 1] > 0).long())
        loader = DataLoader(data, batch_size=16, shuffle=True)
        model = nn.Sequential(nn.Linear(6, 24), nn.BatchNorm1d(24), nn.ReLU(), nn.Dropout(0.1), nn.Linear(24, 2))
        optimizer = tw.optim.SGD(model.parameters(), lr=0.3, momentum=0.9)
        schedule = lr_scheduler.StepLR(optimizer, step_size=3, gamma=0.5)

        def step(x, y):
            optimizer.zero_grad()
            loss = F.cross_entropy(model(x), y)
            loss.backward()
            optimizer.step()
            return loss

        run, losses = step, []
        for _ in range(8):
            for x, y in loader:
                if trace and run is step:
                    run = tw.trace(step, x, y)
                losses.append(run(x, y).item())
            schedule.step()
        return losses, weights(model)

    losses, expected = train(trace=False)
    traced_losses, actual = train(trace=True)
    assert traced_losses == losses
    assert_same(actual, expected)
    assert np.mean(losses[-4:]) < 0.6 * np.mean(losses[:4])


def test_gradient_descent_finds_the_least_squares():
    """Least squares has an answer to compare with."""
    tw.manual_seed(0)
    x = tw.randn(40, 3, dtype=tw.float64)
    truth = tw.tensor([1.0, -2.0, 0.5], dtype=tw.float64)
    model = nn.Linear(3, 1, bias=False).double()
    optimizer = tw.optim.SGD(model.parameters(), lr=0.1, momentum=0.5)
    for _ in range(200):
        optimizer.zero_grad()
        F.mse_loss(model(x).squeeze(1), x @ truth).backward()
        optimizer.step()
    np.testing.assert_allclose(model.weight.detach().numpy()[0], truth.numpy(), atol=1e-9)
