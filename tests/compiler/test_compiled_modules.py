"""Compiled modules are used like the modules themselves."""

from __future__ import annotations

import copy

import numpy as np
import pytest

import twofold as tw
from twofold import nn
from twofold.ir.errors import TraceError


class Net(nn.Module):
    def __init__(self):
        super().__init__()
        self.body = nn.Sequential(nn.Linear(3, 4), nn.BatchNorm1d(4), nn.Dropout(0.5))
        self.scale = nn.Parameter(tw.ones(4))
        self.bonus = 2

    def forward(self, x):
        return self.body(x) * self.scale

    def predict(self, x):
        return self(x).argmax(1)

    def train(self, mode=True):
        super().train(mode)
        self.body[1].eval()  # a frozen batch norm
        return self


def test_is_a_module_with_the_same_names():
    net = Net()
    model = tw.compile(net)
    assert isinstance(model, nn.Module) and isinstance(model, nn.OptimizedModule)
    assert [n for n, _ in model.named_parameters()] == [n for n, _ in net.named_parameters()]
    assert next(iter(model.parameters())) is net.scale
    assert list(model.state_dict()) == list(net.state_dict())
    assert [type(m) for m in model.modules()] == [type(m) for m in net.modules()]
    assert model.body is net.body and model.bonus == 2 and model.scale is net.scale
    assert model.predict(tw.ones(2, 3)).shape == (2,)
    assert "OptimizedModule" in repr(model) and "(_orig_mod): Net(" in repr(model) and "Linear" in repr(model)
    assert "predict" in dir(model) and model.get_parameter("body.0.weight") is net.body[0].weight
    with pytest.raises(AttributeError, match="missing"):
        _ = model.missing


def test_modes_and_attributes_go_through():
    net = Net()
    model = tw.compile(net)
    x = tw.ones(2, 3)
    assert model.eval() is model and not net.training and not model.training
    a = model(x)
    assert model.train() is model and net.training and not net.body[1].training
    assert not np.array_equal(model(x).detach().numpy(), a.detach().numpy())
    model.eval()
    np.testing.assert_array_equal(model(x).detach().numpy(), a.detach().numpy())
    model.bonus = 5
    model.extra = nn.Linear(1, 1)
    assert net.bonus == 5 and "extra.weight" in net.state_dict()
    del model.extra
    assert "extra.weight" not in model.state_dict()
    assert len(model.explain().splitlines()) == 2, model.explain()
    assert model.double() is model and net.scale.dtype is tw.float64
    assert model(x.double()).dtype is tw.float64


def test_state_is_loaded():
    net, other = Net(), tw.compile(Net())
    model = tw.compile(net)
    model(tw.ones(2, 3))
    assert str(model.load_state_dict(other.state_dict())) == "<All keys matched successfully>"
    model.eval(), other.eval()
    np.testing.assert_array_equal(model(tw.ones(2, 3)).detach().numpy(), other(tw.ones(2, 3)).detach().numpy())
    model.load_state_dict(
        {k: v * 2 for k, v in net.state_dict().items() if v.dtype.is_floating_point}, False, assign=True
    )
    np.testing.assert_allclose(
        model(tw.ones(2, 3)).detach().numpy(), net(tw.ones(2, 3)).detach().numpy(), rtol=1e-5
    )


def test_new_memory_of_a_parameter_is_noticed():
    net = nn.Linear(2, 2, bias=False)
    model = tw.compile(net)
    with tw.no_grad():
        model(tw.ones(1, 2))
        net.weight.data = tw.eye(2)
        assert model(tw.tensor([[1.0, 2.0]])).tolist() == [[1.0, 2.0]]
        net.weight.data.mul_(3)
        assert model(tw.tensor([[1.0, 2.0]])).tolist() == [[3.0, 6.0]]


def test_inside_another_module():
    inner = nn.Linear(2, 2)
    outer = nn.Sequential(tw.compile(inner), nn.ReLU())
    assert list(outer.state_dict()) == ["0.weight", "0.bias"]
    assert list(outer.parameters()) == list(inner.parameters())
    outer.eval()
    assert not inner.training
    outer(tw.ones(1, 2)).sum().backward()
    assert inner.bias.grad is not None
    whole = tw.compile(outer)
    np.testing.assert_allclose(
        whole(tw.ones(1, 2)).detach().numpy(), outer(tw.ones(1, 2)).detach().numpy(), rtol=1e-6
    )


def test_deepcopy_is_a_model_of_its_own():
    model = tw.compile(nn.Linear(2, 1))
    model(tw.ones(1, 2))
    twin = copy.deepcopy(model)
    with tw.no_grad():
        for p in twin.parameters():
            p.zero_()
    assert isinstance(twin, nn.OptimizedModule) and twin(tw.ones(1, 2)).item() == 0.0
    assert model(tw.ones(1, 2)).item() != 0.0


def test_compiled_in_place():
    net = Net()
    x = tw.ones(2, 3)
    net.eval()
    expected = net(x).detach().numpy()
    assert net.compile() is None and isinstance(net, Net)
    y = net(x)
    np.testing.assert_allclose(y.detach().numpy(), expected, rtol=1e-6)
    y.sum().backward()
    assert net.scale.grad is not None and y.grad_fn.name == "_call_now"
    twin = copy.deepcopy(net)
    with tw.no_grad():
        twin.scale.zero_()
    assert not twin(x).detach().numpy().any() and net(x).detach().numpy().any()
    assert list(twin.state_dict()) == list(net.state_dict())
    copies = [net.predict(x), tw.compile(net).predict(x)]
    np.testing.assert_array_equal(copies[0].numpy(), copies[1].numpy())


def test_hooks():
    seen = []
    net = nn.Linear(2, 2)
    model = tw.compile(net)
    handle = model.register_forward_hook(lambda m, a, y: seen.append("outside") or y * 2)
    net.register_forward_hook(lambda m, a, y: y + 100)
    results = [model(tw.ones(1, 2)).detach().numpy() for _ in range(2)]
    assert seen == ["outside"] * 2 and (results[0] > 150).all()
    np.testing.assert_array_equal(results[0], results[1])
    handle.remove()
    assert (model(tw.ones(1, 2)).detach().numpy() < 150).all()


def test_options():
    net = nn.Linear(2, 2)
    assert tw.compile(net, disable=True) is net
    model = tw.compile(net, mode="reduce-overhead", dynamic=False, backend="inductor")
    assert tw.compile(model).forward is not None

    @tw.compile(fullgraph=True)
    def f(x):
        return x if x.sum() > 0 else -x

    with pytest.raises(TraceError):
        f(tw.ones(2))


def test_sequences():
    model = tw.compile(nn.Sequential(nn.Linear(2, 3), nn.ReLU()))
    assert isinstance(model[1], nn.ReLU) and [type(m) for m in model] == [nn.Linear, nn.ReLU]


def test_training_equals_eager():
    runs = []
    for compile in (lambda m: m, tw.compile):
        tw.manual_seed(5)
        model = compile(Net())
        optimizer = tw.optim.SGD(model.parameters(), lr=0.1)
        for _ in range(3):
            optimizer.zero_grad()
            model(tw.arange(6.0).reshape(2, 3)).square().mean().backward()
            optimizer.step()
        runs.append([v.numpy() for v in model.state_dict().values()])
    for got, expected in zip(runs[1], runs[0], strict=True):
        np.testing.assert_allclose(got, expected, rtol=1e-5, atol=1e-6)
