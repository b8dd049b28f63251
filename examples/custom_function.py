"""Own derivatives: a network whose weights are only -1 and +1.

The sign function is flat, so its true derivative is 0 and nothing could be learnt through it. A
`Function` of one's own defines a more useful one: the "straight-through estimator" passes the gradient
as if the sign were not there, where the weight is small (Bengio, Leonard and Courville 2013).
"""

import twofold as tw
import twofold.nn.functional as F
from twofold import nn


class Sign(tw.autograd.Function):
    """+1 or -1, with the derivative of the identity between -1 and 1."""

    @staticmethod
    def forward(ctx, x):
        ctx.save_for_backward(x)
        return tw.where(x >= 0, 1.0, -1.0)

    @staticmethod
    def backward(ctx, g):
        (x,) = ctx.saved_tensors
        return g * (x.abs() <= 1)


class Softplus(tw.autograd.Function):
    """log(1 + exp(x)), computed without overflow; its derivative is the sigmoid."""

    @staticmethod
    def forward(ctx, x):
        ctx.save_for_backward(x)
        return x.clamp(min=0) + (-x.abs()).exp().log1p()

    @staticmethod
    def backward(ctx, g):
        (x,) = ctx.saved_tensors
        return g * x.sigmoid()


class BinaryLinear(nn.Module):
    """A linear layer that computes with the signs of its weights."""

    def __init__(self, in_features, out_features):
        super().__init__()
        self.weight = nn.Parameter(0.5 * tw.randn(out_features, in_features))
        self.scale = nn.Parameter(tw.full((out_features,), in_features**-0.5))
        self.bias = nn.Parameter(tw.zeros(out_features))

    def forward(self, x):
        return F.linear(x, Sign.apply(self.weight)) * self.scale + self.bias


class Net(nn.Module):
    def __init__(self):
        super().__init__()
        self.hidden = BinaryLinear(2, 64)
        self.out = BinaryLinear(64, 1)

    def forward(self, x):
        return self.out(Softplus.apply(self.hidden(x))).squeeze(1)


def main(steps=300):
    tw.manual_seed(0)
    # A derivative that one writes oneself is checked against finite differences first, in float64.
    x = tw.randn(5, dtype=tw.float64, requires_grad=True)
    assert tw.autograd.gradcheck(Softplus.apply, (x,))
    assert tw.autograd.gradgradcheck(Softplus.apply, (x,))

    points = 2 * tw.rand(256, 2) - 1
    inside = (points.square().sum(1) < 0.5).float()  # the class: inside a circle or not
    model = Net()
    optimizer = tw.optim.Adam(model.parameters(), lr=0.02)
    for step in range(steps):
        optimizer.zero_grad()
        loss = F.binary_cross_entropy_with_logits(model(points), inside)
        loss.backward()
        optimizer.step()
        if (step + 1) % 50 == 0:
            print(f"step {step + 1}: loss {loss.item():.3f}")
    accuracy = ((model(points) > 0) == (inside > 0)).float().mean().item()
    print(f"accuracy with binary weights: {accuracy:.1%}")
    return accuracy


if __name__ == "__main__":
    main()
