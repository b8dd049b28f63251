"""Gradients of gradients: Newton's method, and a network that solves a differential equation.

Derivatives are ordinary computations here, so they have derivatives themselves.
"""

import math

import twofold as tw
from twofold import nn


def rosenbrock(p):
    """A curved valley with its lowest point at (1, 1); plain gradient descent takes thousands of steps."""
    x, y = p
    return (1 - x) ** 2 + 100 * (y - x**2) ** 2


def hessian(f, p):
    """All second derivatives of `f` at `p`: the gradient of every part of the gradient."""
    gradient = tw.grad(f)
    rows = [tw.grad(lambda q, i=i: gradient(q)[i])(p) for i in range(len(p))]
    return tw.stack(rows)


def solve2(a, b):
    """The x with a @ x = b, for a (2, 2), by Cramer's rule."""
    determinant = a[0, 0] * a[1, 1] - a[0, 1] * a[1, 0]
    x = tw.stack([b[0] * a[1, 1] - a[0, 1] * b[1], a[0, 0] * b[1] - b[0] * a[1, 0]])
    return x / determinant


def newton(steps=6):
    p = tw.tensor([-1.2, 1.0], dtype=tw.float64)
    for step in range(steps):
        p = p - solve2(hessian(rosenbrock, p), tw.grad(rosenbrock)(p))
        print(f"newton {step + 1}: {p.tolist()}")
    return p


def oscillation(steps=400):
    """Learn y(t) with y'' = -y, y(0) = 0, y'(0) = 1 on [0, pi], from the equation alone: it is sin(t).

    The loss is how badly the equation is met. It contains y'', so training takes third derivatives.
    Source: Raissi, Perdikaris and Karniadakis 2019, "Physics-informed neural networks".
    """
    tw.manual_seed(0)
    net = nn.Sequential(nn.Linear(1, 24), nn.Tanh(), nn.Linear(24, 24), nn.Tanh(), nn.Linear(24, 1))

    def y(t):  # t and t**2 * ... build the start values in: y(0) = 0 and y'(0) = 1
        return t + t**2 * net(t)

    optimizer = tw.optim.Adam(net.parameters(), lr=1e-2)
    schedule = tw.optim.lr_scheduler.CosineAnnealingLR(optimizer, steps)
    t = tw.linspace(0, math.pi, 40).view(-1, 1).requires_grad_()
    for step in range(steps):
        optimizer.zero_grad()
        value = y(t)
        # create_graph: the derivative is recorded like the rest, so that it can be derived again
        (first,) = tw.autograd.grad(value.sum(), t, create_graph=True)
        (second,) = tw.autograd.grad(first.sum(), t, create_graph=True)
        loss = (second + value).square().mean()
        loss.backward()
        optimizer.step()
        schedule.step()
        if (step + 1) % 100 == 0:
            print(f"step {step + 1}: equation missed by {loss.item():.2e}")
    with tw.no_grad():
        error = (y(t) - t.sin()).abs().max().item()
    print(f"largest difference from sin(t): {error:.4f}")
    return error


def main(steps=400):
    return newton(), oscillation(steps)


if __name__ == "__main__":
    main()
