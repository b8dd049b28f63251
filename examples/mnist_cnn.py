"""A convolutional network that reads handwritten digits: the first program of everybody.

python examples/mnist_cnn.py            # MNIST if it is in ./data, else the digits in the package
python examples/mnist_cnn.py download   # fetch MNIST into ./data first
"""

import sys

import twofold as tw
import twofold.nn.functional as F
from twofold import nn
from twofold.data import DataLoader
from twofold.vision import datasets, transforms


class Net(nn.Module):
    """Two convolutions, each followed by a pooling that halves the sides, then two linear layers."""

    def __init__(self, side):
        super().__init__()
        self.conv1 = nn.Conv2d(1, 16, 3, padding=1)  # 1 channel: the pictures are grey
        self.conv2 = nn.Conv2d(16, 32, 3, padding=1)
        self.fc1 = nn.Linear(32 * (side // 4) ** 2, 128)
        self.dropout = nn.Dropout(0.25)
        self.fc2 = nn.Linear(128, 10)

    def forward(self, x):  # (N, 1, side, side)
        x = F.max_pool2d(F.relu(self.conv1(x)), 2)
        x = F.max_pool2d(F.relu(self.conv2(x)), 2)
        x = F.relu(self.fc1(x.flatten(1)))
        return self.fc2(self.dropout(x))  # (N, 10): a score for each digit, not yet a probability


def load(download):
    """Training and test pictures, and the length of their sides."""
    to_tensor = transforms.ToTensor()  # pictures become float32 tensors (1, H, W) between 0 and 1
    try:
        train = datasets.MNIST("data", train=True, transform=to_tensor, download=download)
        test = datasets.MNIST("data", train=False, transform=to_tensor, download=download)
        return train, test, 28
    except datasets.DatasetError:
        return (
            datasets.Digits(train=True, transform=to_tensor),
            datasets.Digits(train=False, transform=to_tensor),
            8,
        )


def train_one_epoch(model, loader, optimizer):
    model.train()  # dropout is on
    total = 0.0
    for images, labels in loader:
        optimizer.zero_grad()  # gradients add up; every step begins with none
        loss = F.cross_entropy(model(images), labels)
        loss.backward()
        optimizer.step()
        total += loss.item() * len(labels)
    return total / len(loader.dataset)


@tw.no_grad()  # nothing is recorded for backward
def accuracy(model, loader):
    model.eval()  # dropout is off
    correct = sum((model(images).argmax(1) == labels).sum().item() for images, labels in loader)
    return correct / len(loader.dataset)


def main(epochs=10, download=False):
    tw.manual_seed(0)  # the same weights, the same order, the same result, on every machine
    train, test, side = load(download)
    train_loader = DataLoader(train, batch_size=32, shuffle=True, num_workers=2)
    test_loader = DataLoader(test, batch_size=256)
    model = Net(side)
    print(model)
    optimizer = tw.optim.Adam(model.parameters(), lr=3e-3)
    scheduler = tw.optim.lr_scheduler.CosineAnnealingLR(optimizer, T_max=epochs)
    for epoch in range(epochs):
        loss = train_one_epoch(model, train_loader, optimizer)
        scheduler.step()
        print(f"epoch {epoch + 1:2d}: loss {loss:.4f}, test accuracy {accuracy(model, test_loader):.2%}")
    return accuracy(model, test_loader)


if __name__ == "__main__":
    main(download="download" in sys.argv)
