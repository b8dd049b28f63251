"""A model that changes while it trains: it begins small, and grows where learning gets stuck.

Growing keeps what was learnt. New units start with outgoing weights of zero, so the model computes the
same as before, and the optimizer gets their parameters as a new group.
"""

import twofold as tw
import twofold.nn.functional as F
from twofold import nn


class Growing(nn.Module):
    """A sum of small networks; `grow` adds one."""

    def __init__(self, features):
        super().__init__()
        self.features = features
        self.parts = nn.ModuleList()
        self.grow(units=2)

    def grow(self, units):
        """Add a part that computes zero until it is trained; returns its parameters."""
        part = nn.Sequential(nn.Linear(self.features, units), nn.Tanh(), nn.Linear(units, 1, bias=False))
        nn.init.zeros_(part[2].weight)
        self.parts.append(part)
        return list(part.parameters())

    def forward(self, x):  # the graph is written anew by every call, so a longer list needs nothing else
        return sum(part(x) for part in self.parts).squeeze(-1)


def wave(n):
    x = tw.linspace(-3, 3, n).view(-1, 1)
    return x, (4 * x).sin().squeeze(-1) + 0.3 * x.squeeze(-1)


def main(steps=1200, patience=40, enough=1e-3):
    tw.manual_seed(0)
    x, y = wave(100)
    model = Growing(features=1)
    optimizer = tw.optim.Adam(model.parameters(), lr=0.02)
    best, since, first = float("inf"), 0, None
    for step in range(steps):
        optimizer.zero_grad()
        loss = F.mse_loss(model(x), y)
        loss.backward()
        optimizer.step()
        first = loss.item() if first is None else first
        if loss.item() < 0.95 * best:
            best, since = loss.item(), 0
        else:
            since += 1
        if best < enough:
            break
        if since >= patience and len(model.parts) < 8:
            before = model(x)
            optimizer.add_param_group({"params": model.grow(units=4), "lr": 0.02})
            assert tw.equal(before, model(x))  # it has grown, and forgotten nothing
            print(f"step {step}: loss {best:.4f}; {len(model.parts)} parts now")
            since = 0
    print(f"loss {best:.4f} with {len(model.parts)} parts, {sum(p.numel() for p in model.parameters())} parameters")
    return first, best, len(model.parts)


if __name__ == "__main__":
    main()
