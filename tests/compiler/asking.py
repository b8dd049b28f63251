"""What the tests of code that asks for values share: runs of both kinds that are compared, and a small net."""

from __future__ import annotations

import numpy as np
from twins import check

import twofold as tw
from twofold import nn
from twofold.compiler.tree import Tree

RNG = np.random.default_rng(7)


def t(*values, **kwargs):
    return tw.tensor([float(v) for v in values], **kwargs)


def tree_of(compiled):
    """The only tree of a compiled function."""
    (tree,) = [s for known in compiled.specializations.values() for _, s in known if isinstance(s, Tree)]
    return tree


def run(make, calls, *, programs=None, led=None, entries=1, factor=1.0):
    """As `check`, and how many programs were made, and whether Python led."""
    compiled = check(make, calls, programs=entries, factor=factor)
    if entries == 1:
        tree = tree_of(compiled)
        assert not tree.refused, compiled.explain()
        if programs is not None:
            assert tree.num_programs == programs, compiled.explain()
        if led is not None:
            assert tree.led is led
    return compiled


def plain(f):
    return lambda: (f, [])


def small_net(seed=0):
    tw.manual_seed(seed)
    return nn.Sequential(
        nn.Linear(4, 8, bias=False), nn.BatchNorm1d(8), nn.Tanh(), nn.Dropout(0.2), nn.Linear(8, 3)
    )


BATCHES = [
    (tw.tensor((RNG.normal(size=(6, 4)) * scale).astype("f")), tw.tensor(RNG.integers(0, 3, 6)))
    for scale in (1, 3, 0.1, 1, 5, 2, 0.1, 0.3, 1, 10)
]


def training(body, **kwargs):
    """A training step; `body(net, optimizer, x, y, log)` is the code after zero_grad()."""

    def make():
        net = small_net()
        optimizer = tw.optim.Adam(net.parameters(), lr=0.01)
        log = []

        def step(x, y):
            optimizer.zero_grad()
            return body(net, optimizer, x, y, log)

        def watched():
            return [
                list(net.state_dict().values()), list(net.parameters()),
                [dict(optimizer.state[p]) for p in net.parameters()], [np.float32(v) for v in log],
            ]  # fmt: skip

        return step, watched

    return run(make, BATCHES, factor=20, **kwargs)
