"""A denoising autoencoder: it learns to draw digits clean that it only sees spoilt.

The encoder squeezes a picture into a few numbers, the decoder draws it again from them.
"""

import twofold as tw
import twofold.nn.functional as F
from twofold import nn
from twofold.data import DataLoader
from twofold.vision.datasets import Digits
from twofold.vision.transforms import ToTensor


class Autoencoder(nn.Module):
    def __init__(self, code):
        super().__init__()
        self.encoder = nn.Sequential(
            nn.Conv2d(1, 16, 3, stride=2, padding=1),  # (N, 1, 8, 8) -> (N, 16, 4, 4)
            nn.ReLU(),
            nn.Flatten(),
            nn.Linear(16 * 4 * 4, code),
        )
        self.decoder = nn.Sequential(
            nn.Linear(code, 16 * 4 * 4),
            nn.ReLU(),
            nn.Unflatten(1, (16, 4, 4)),
            nn.ConvTranspose2d(16, 1, 4, stride=2, padding=1),  # the way back: (N, 1, 8, 8)
        )

    def forward(self, x):
        return self.decoder(self.encoder(x))


def spoil(images):
    """The pictures with noise, and with a quarter of their points missing."""
    return F.dropout(images + 0.1 * tw.randn_like(images), 0.25)


def picture(image):
    """A picture as text."""
    shades = " .:-=+*#%@"
    return ["".join(shades[int(min(max(v, 0.0), 0.99) * 10)] for v in row) for row in image.squeeze().tolist()]


def main(epochs=15):
    tw.manual_seed(0)
    loader = DataLoader(Digits(train=True, transform=ToTensor()), batch_size=64, shuffle=True, drop_last=True)
    test = next(iter(DataLoader(Digits(train=False, transform=ToTensor()), batch_size=200)))[0]
    model = Autoencoder(code=24)
    optimizer = tw.optim.AdamW(model.parameters(), lr=3e-3)
    spoilt = spoil(test)
    history = []
    for epoch in range(epochs):
        for images, _ in loader:  # the classes are not used: nobody tells the model what it sees
            optimizer.zero_grad()
            loss = F.mse_loss(model(spoil(images)), images)
            loss.backward()
            optimizer.step()
        with tw.no_grad():
            history.append(F.mse_loss(model(spoilt), test).item())
        print(
            f"epoch {epoch + 1:2d}: error {history[-1]:.4f}, before cleaning {F.mse_loss(spoilt, test).item():.4f}"
        )
    with tw.no_grad():
        cleaned = model(spoilt[:1])
    print("\nspoilt     cleaned    original")
    for line in zip(*(picture(x[0]) for x in (spoilt, cleaned, test)), strict=True):
        print("   ".join(line))
    return history


if __name__ == "__main__":
    main()
