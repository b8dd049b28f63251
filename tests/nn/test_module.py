"""Mechanics of Module: registration, walking, state dicts, hooks, conversion, printing, copying."""

from __future__ import annotations

import copy
import warnings
from collections import OrderedDict

import numpy as np
import pytest
import torch

import twofold as tw
from twofold import nn
from twofold.ir.errors import AutogradError, DTypeError, TwofoldError


class Net(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.first = nn.Linear(3, 4)
        self.rest = nn.Sequential(nn.ReLU(), nn.Linear(4, 2))
        self.scale = nn.Parameter(tw.ones(2))
        self.register_buffer("seen", tw.zeros(()))
        self.register_buffer("scratch", tw.zeros(1), persistent=False)
        self.note = "plain"

    def forward(self, x: tw.Tensor) -> tw.Tensor:
        return self.rest(self.first(x)) * self.scale


# Registration -----------------------------------------------------------------------------------


def test_assignment_registers_by_kind() -> None:
    net = Net()
    assert list(net._parameters) == ["scale"] and list(net._modules) == ["first", "rest"]
    assert list(net._buffers) == ["seen", "scratch"] and "note" in vars(net)
    net.late = nn.Buffer(tw.zeros(1), persistent=False)
    assert "late" in net._buffers and "late" not in net.state_dict()
    net.late = tw.ones(1)
    assert net._buffers["late"].tolist() == [1.0]


def test_an_attribute_may_change_its_kind() -> None:
    net = nn.Module()
    net.a = 1
    net.a = nn.Parameter(tw.zeros(1))
    assert "a" not in vars(net) and list(net._parameters) == ["a"]
    net.register_parameter("p", nn.Parameter(tw.zeros(1)))
    net.p = None
    assert net.p is None and dict(net.named_parameters()).keys() == {"a"}
    net.m = nn.ReLU()
    net.m = nn.Parameter(tw.zeros(2))
    assert "m" not in net._modules and net.m.shape == (2,)


@pytest.mark.parametrize(
    ("name", "value", "message"),
    [
        ("scale", tw.zeros(2), "as parameter 'scale'"),
        ("first", 3, "as child module 'first'"),
        ("seen", 3, "as buffer"),
    ],
)
def test_wrong_assignments_are_refused(name: str, value: object, message: str) -> None:
    with pytest.raises(TypeError, match=message):
        setattr(Net(), name, value)


def test_registering_checks_names_and_types() -> None:
    net = Net()
    with pytest.raises(KeyError, match="already exists"):
        net.register_buffer("first", tw.zeros(1))
    with pytest.raises(KeyError, match=r"name can.*contain"):
        net.add_module("a.b", nn.ReLU())
    with pytest.raises(KeyError, match="empty"):
        net.register_parameter("", None)
    with pytest.raises(TypeError, match="not a Module subclass"):
        net.add_module("x", 3)
    with pytest.raises(TypeError, match="Parameter or None required"):
        net.register_parameter("x", tw.zeros(1))
    with pytest.raises(TypeError, match="Tensor or None required"):
        net.register_buffer("x", 3)
    with pytest.raises(ValueError, match="non-leaf"):
        leaf = nn.Parameter(tw.zeros(1))
        leaf._node = (leaf * 2)._node
        net.register_parameter("x", leaf)
    with pytest.raises(TypeError, match="string"):
        net.register_buffer(3, tw.zeros(1))


@pytest.mark.parametrize("value", [nn.Parameter(tw.zeros(1)), nn.ReLU(), nn.Buffer(tw.zeros(1))])
def test_assigning_before_init_is_refused(value: object) -> None:
    class Early(nn.Module):
        def __init__(self) -> None:
            self.x = value

    with pytest.raises(AttributeError, match=r"before Module.__init__"):
        Early()


def test_deleting_and_missing_attributes() -> None:
    net = Net()
    del net.scale, net.first, net.scratch, net.note
    assert [n for n, _ in net.named_parameters()] == ["rest.1.weight", "rest.1.bias"]
    with pytest.raises(AttributeError, match=r"'Net' object has no attribute 'scale'"):
        _ = net.scale
    with pytest.raises(AttributeError):
        del net.scale


def test_dir_lists_members() -> None:
    names = dir(Net())
    assert {"first", "scale", "seen", "forward", "note"} <= set(names)
    assert not [n for n in dir(nn.Sequential(nn.ReLU())) if n[0].isdigit()]


# Walking ----------------------------------------------------------------------------------------


def test_named_members_as_pytorch_orders_them() -> None:
    net = Net()
    assert [n for n, _ in net.named_parameters()] == [
        "scale", "first.weight", "first.bias", "rest.1.weight", "rest.1.bias",
    ]  # fmt: skip
    assert [n for n, _ in net.named_modules()] == ["", "first", "rest", "rest.0", "rest.1"]
    assert [n for n, _ in net.named_children()] == ["first", "rest"]
    assert [n for n, _ in net.named_buffers()] == ["seen", "scratch"]
    assert [n for n, _ in net.named_parameters(prefix="p", recurse=False)] == ["p.scale"]
    assert len(list(net.modules())) == 5 and len(list(net.children())) == 2 and len(list(net.buffers())) == 2


def test_shared_members_are_listed_once() -> None:
    shared = nn.Linear(2, 2)
    net = nn.Sequential(shared, nn.ReLU(), shared)
    assert len(list(net.parameters())) == 2 and len(list(net.modules())) == 3
    assert len(list(net.named_parameters(remove_duplicate=False))) == 4
    assert len(list(net.named_modules(remove_duplicate=False))) == 4
    assert list(net.state_dict()) == ["0.weight", "0.bias", "2.weight", "2.bias"]


def test_getting_by_path() -> None:
    net = Net()
    assert net.get_submodule("rest.1") is net.rest[1] and net.get_submodule("") is net
    assert net.get_parameter("rest.1.bias") is net.rest[1].bias
    assert net.get_buffer("seen") is net.seen
    for path, message in (("rest.7", "no attribute"), ("note", "not an nn.Module")):
        with pytest.raises(AttributeError, match=message):
            net.get_submodule(path)
    with pytest.raises(AttributeError, match=r"not an nn.Parameter"):
        net.get_parameter("seen")
    with pytest.raises(AttributeError, match="not a buffer"):
        net.get_buffer("scale")
    net.set_submodule("rest.0", nn.Tanh())
    assert isinstance(net.rest[0], nn.Tanh)


def test_apply_goes_from_the_leaves_up() -> None:
    seen = []
    net = Net()
    assert net.apply(lambda m: seen.append(type(m).__name__)) is net
    assert seen == ["Linear", "ReLU", "Linear", "Sequential", "Net"]


def test_train_and_eval_reach_all() -> None:
    net = Net()
    assert net.eval() is net and not any(m.training for m in net.modules())
    net.rest.train()
    assert [m.training for m in net.modules()] == [False, False, True, True, True]
    with pytest.raises(ValueError, match="boolean"):
        net.train("yes")


# Parameters -------------------------------------------------------------------------------------


def test_parameter() -> None:
    data = tw.tensor([1.0, 2.0])
    p = nn.Parameter(data)
    assert isinstance(p, tw.Tensor) and p.requires_grad and p.is_leaf
    assert repr(p) == "Parameter containing:\n" + repr(data.clone().requires_grad_())
    with tw.no_grad():
        p.add_(1)
    assert data.tolist() == [2.0, 3.0], "a parameter is on its data's memory"
    assert not isinstance(p * 2, nn.Parameter)
    assert not nn.Parameter(tw.tensor([1]), requires_grad=False).requires_grad
    with pytest.raises(AutogradError, match="int64"):
        nn.Parameter(tw.tensor([1]))


def test_parameter_of_a_view_writes_through() -> None:
    base = tw.zeros(2, 3)
    p = nn.Parameter(base[1])
    with tw.no_grad():
        p.fill_(5.0)
    assert base.tolist() == [[0.0] * 3, [5.0] * 3]


def test_requires_grad_and_zero_grad() -> None:
    net = Net()
    net(tw.ones(1, 3)).sum().backward()
    grad = net.scale.grad
    net.zero_grad(set_to_none=False)
    assert net.scale.grad is grad and (grad == 0).all()
    net.zero_grad()
    assert all(p.grad is None for p in net.parameters())
    net.requires_grad_(False)
    assert not net(tw.ones(1, 3)).requires_grad


def test_deepcopy_is_apart_and_keeps_sharing_inside() -> None:
    net = Net()
    net.alias = net.first
    net.eval()
    other = copy.deepcopy(net)
    assert other.alias is other.first and not other.training
    assert isinstance(other.scale, nn.Parameter) and isinstance(other.seen, tw.Tensor)
    with tw.no_grad():
        other.scale.zero_()
    assert (net.scale == 1).all()
    x = tw.ones(1, 3)
    other.scale.data = net.scale.data.clone()
    assert np.array_equal(net(x).detach().numpy(), other(x).detach().numpy())


# Conversion -------------------------------------------------------------------------------------


def test_conversion_keeps_the_objects() -> None:
    net = Net()
    net.register_buffer("count", tw.tensor(3))
    before = list(net.parameters())
    net(tw.ones(1, 3)).sum().backward()
    for call, dtype in (
        (lambda m: m.double(), tw.float64),
        (lambda m: m.half(), tw.float16),
        (lambda m: m.bfloat16(), tw.bfloat16),
        (lambda m: m.float(), tw.float32),
        (lambda m: m.to(tw.float64), tw.float64),
        (lambda m: m.to("cpu", tw.float32), tw.float32),
        (lambda m: m.to(dtype=tw.float64), tw.float64),
        (lambda m: m.to(tw.zeros(1)), tw.float32),
        (lambda m: m.to(device="cpu"), tw.float32),
    ):
        assert call(net) is net
        assert all(a is b for a, b in zip(before, net.parameters(), strict=True))
        assert {p.dtype for p in net.parameters()} == {dtype} and net.seen.dtype is dtype
        assert net.scale.grad.dtype is dtype and net.scale.requires_grad and net.scale.is_leaf
        assert net.count.dtype is tw.int64
    assert net.cpu() is net


def test_conversion_refuses_what_it_can_not_do() -> None:
    with pytest.raises(DTypeError, match="floating or complex"):
        Net().to(tw.int64)
    for call in (lambda m: m.to("cuda"), lambda m: m.cuda(), lambda m: m.to(device="cuda:0")):
        with pytest.raises(TwofoldError, match="CPU"):
            call(Net())
    with pytest.raises(TwofoldError, match="CPU"):
        nn.Linear(2, 3, device="cuda")


def test_optimizer_sees_converted_parameters() -> None:
    net = nn.Linear(2, 1)
    params = list(net.parameters())
    net.double()
    net(tw.ones(1, 2, dtype=tw.float64)).sum().backward()
    assert params[0].grad.dtype is tw.float64


# State dicts ------------------------------------------------------------------------------------


def test_state_dict_is_on_the_same_memory_without_history() -> None:
    net = Net()
    state = net.state_dict()
    assert isinstance(state, OrderedDict) and list(state) == [
        "scale", "seen", "first.weight", "first.bias", "rest.1.weight", "rest.1.bias",
    ]  # fmt: skip
    assert not state["scale"].requires_grad and not isinstance(state["scale"], nn.Parameter)
    with tw.no_grad():
        net.scale.fill_(7)
    assert (state["scale"] == 7).all()
    kept = net.state_dict(keep_vars=True, prefix="net.")
    assert kept["net.scale"] is net.scale


def test_load_state_dict_copies_and_casts() -> None:
    a, b = Net(), Net().double()
    result = a.load_state_dict(b.state_dict())
    assert repr(result) == "<All keys matched successfully>" and result.missing_keys == []
    assert a.scale.dtype is tw.float32
    np.testing.assert_allclose(a.first.weight.detach().numpy(), b.first.weight.detach().numpy(), rtol=1e-6)


def test_load_state_dict_names_every_fault_and_changes_nothing() -> None:
    net = Net()
    before = net.first.weight.detach().numpy().copy()
    state = net.state_dict()
    state["first.weight"] = tw.zeros(4, 5)
    state["rest.1.weight"] = tw.zeros(2, 4)
    del state["seen"]
    state["extra"] = tw.zeros(1)
    with pytest.raises(RuntimeError) as caught:
        net.load_state_dict(state)
    text = str(caught.value)
    for part in (
        "Error(s) in loading state_dict for Net:",
        'Missing key(s) in state_dict: "seen".',
        'Unexpected key(s) in state_dict: "extra".',
        "size mismatch for first.weight: copying a param with shape (4, 5) from checkpoint, "
        "the shape in current model is (4, 3).",
        "strict=False",
    ):
        assert part in text
    assert np.array_equal(net.first.weight.detach().numpy(), before)
    with pytest.raises(RuntimeError, match="size mismatch"):
        net.load_state_dict(state, strict=False)
    state["first.weight"] = tw.zeros(4, 3)
    result = net.load_state_dict(state, strict=False)
    assert result.missing_keys == ["seen"] and result.unexpected_keys == ["extra"]
    assert (net.first.weight == 0).all()
    with pytest.raises(TypeError, match="dict-like"):
        net.load_state_dict([1])
    with pytest.raises(RuntimeError, match="should be a tensor, got float"):
        net.load_state_dict({**net.state_dict(), "seen": 1.0})


@pytest.mark.parametrize("back", [False, True])
def test_load_state_dict_sees_a_wrong_prefix(back: bool) -> None:
    net = Net()
    state = {f"module.{k}": v for k, v in net.state_dict().items()}
    if back:
        outer = nn.Sequential(OrderedDict(module=Net()))
        state, net = net.state_dict(), outer
    with pytest.raises(RuntimeError, match=r"begin with 'module.'"):
        net.load_state_dict(state)


def test_load_state_dict_assign() -> None:
    net = Net()
    state = {k: tw.ones(v.shape, dtype=tw.float64) for k, v in net.state_dict().items()}
    net.load_state_dict(state, assign=True)
    assert isinstance(net.scale, nn.Parameter) and net.scale.dtype is tw.float64 and net.scale.requires_grad
    with tw.no_grad():
        net.scale.zero_()
    assert (state["scale"] == 0).all()


def test_extra_state_and_state_dict_hooks() -> None:
    class Counter(nn.Module):
        steps = 3

        def get_extra_state(self) -> dict[str, int]:
            return {"steps": self.steps}

        def set_extra_state(self, state: dict[str, int]) -> None:
            self.steps = state["steps"]

    net = nn.Sequential(Counter(), nn.Linear(1, 1))
    net[0].steps = 9
    state = net.state_dict()
    assert state["0._extra_state"] == {"steps": 9}
    other = nn.Sequential(Counter(), nn.Linear(1, 1))
    other.load_state_dict(state)
    assert other[0].steps == 9
    del state["0._extra_state"]
    with pytest.raises(RuntimeError, match=r"0._extra_state"):
        other.load_state_dict(state)
    calls: list[str] = []
    net.register_state_dict_pre_hook(lambda m, prefix, keep: calls.append("pre"))

    def rename(module: nn.Module, state: dict, prefix: str, meta: dict) -> None:
        state["new"] = state.pop("1.bias")

    handle = net.register_state_dict_post_hook(rename)
    assert "new" in net.state_dict() and calls == ["pre"]
    handle.remove()
    assert "new" not in net.state_dict()

    def back(module: nn.Module, state: dict, prefix: str, *rest: object) -> None:
        state["1.bias"] = state.pop("new")

    other.register_load_state_dict_pre_hook(back)
    other.register_load_state_dict_post_hook(lambda m, keys: calls.append(f"missing {keys.missing_keys}"))
    state = net.state_dict()
    state["new"] = state.pop("1.bias")
    other.load_state_dict(state)
    assert calls[-1] == "missing []"


# Hooks ------------------------------------------------------------------------------------------


def test_forward_hooks_in_order_and_removed() -> None:
    log: list[str] = []
    layer = nn.Linear(2, 2)
    a = layer.register_forward_pre_hook(lambda m, args: log.append("pre"))
    layer.register_forward_pre_hook(lambda m, args: (args[0] * 0,), prepend=True)
    b = layer.register_forward_hook(lambda m, args, y: log.append(f"hook {float(args[0].sum())}"))
    layer.register_forward_hook(lambda m, args, y: y + 1)
    y = layer(tw.ones(1, 2))
    np.testing.assert_allclose(y.detach().numpy(), layer.bias.detach().numpy()[None] + 1, rtol=1e-6)
    assert log == ["pre", "hook 0.0"]
    a.remove(), a.remove(), b.remove()
    layer(tw.ones(1, 2))
    assert len(log) == 2


def test_hooks_with_kwargs_and_always_call() -> None:
    class Add(nn.Module):
        def forward(self, x: tw.Tensor, *, other: float = 0.0) -> tw.Tensor:
            if other < 0:
                raise ValueError("negative")
            return x + other

    layer, seen = Add(), []
    layer.register_forward_pre_hook(lambda m, a, k: (a, {"other": k["other"] * 2}), with_kwargs=True)
    layer.register_forward_hook(lambda m, a, k, y: seen.append((k, y is None)), with_kwargs=True, always_call=True)
    assert layer(tw.zeros(1), other=2.0).tolist() == [4.0] and seen == [({"other": 4.0}, False)]
    with pytest.raises(ValueError, match="negative"):
        layer(tw.zeros(1), other=-1.0)
    assert seen[-1] == ({"other": -2.0}, True)
    layer.register_forward_pre_hook(lambda m, a, k: 3, with_kwargs=True)
    with pytest.raises(TwofoldError, match="pre-hook with kwargs"):
        layer(tw.zeros(1), other=1.0)


def _backward_log(lib: object, where: object) -> list[object]:
    log: list[object] = []
    inner = where.Linear(2, 2)
    with lib.no_grad():
        inner.weight.copy_(lib.tensor([[1.0, 2.0], [3.0, 4.0]]))
        inner.bias.zero_()
    net = where.Sequential(inner, where.Tanh())
    inner.register_full_backward_hook(lambda m, gi, go: log.append(("hook", _lists(gi), _lists(go))))
    inner.register_full_backward_pre_hook(lambda m, go: (go[0] * 2,))
    inner.register_full_backward_pre_hook(lambda m, go: log.append(("pre", _lists(go))))
    net.register_full_backward_hook(lambda m, gi, go: (gi[0] + 10,))
    x = lib.tensor([[0.1, 0.2]], requires_grad=True)
    net(x).sum().backward()
    return [*log, _lists((x.grad, inner.weight.grad))]


def _lists(grads: tuple) -> list[object]:
    return [None if g is None else np.round(g.detach().numpy(), 5).tolist() for g in grads]


def test_backward_hooks_as_pytorch() -> None:
    assert _backward_log(tw, nn) == _backward_log(torch, torch.nn)


def test_backward_hook_without_gradients_of_inputs() -> None:
    results = []
    for lib, where in ((tw, nn), (torch, torch.nn)):
        log: list[object] = []
        layer = where.Linear(2, 1)
        layer.register_full_backward_hook(lambda m, gi, go, log=log: log.append((_lists(gi), _lists(go))))
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", UserWarning)
            layer(lib.ones(1, 2)).sum().backward()
        with lib.no_grad():
            layer(lib.ones(1, 2))
        results.append(log)
    assert results[0] == results[1] and len(results[0]) == 1


def test_backward_hook_of_a_module_with_several_outputs() -> None:
    class Split(nn.Module):
        def forward(self, x: tw.Tensor, y: tw.Tensor) -> tuple[tw.Tensor, tw.Tensor]:
            return x * 2, y * 3

    log: list[object] = []
    layer = Split()
    layer.register_full_backward_hook(lambda m, gi, go: log.append((_lists(gi), _lists(go))))
    a, b = tw.ones(1, requires_grad=True), tw.ones(1, requires_grad=True)
    layer(a, b)[0].sum().backward()
    assert log == [([[2.0], [0.0]], [[1.0], [0.0]])]
    layer.register_full_backward_hook(lambda m, gi, go: (gi[0],))
    with pytest.raises(AutogradError, match="1 gradients in place of 2"):
        layer(a, b)[0].sum().backward()


def test_global_hooks() -> None:
    log: list[str] = []
    handles = [
        nn.module.register_module_forward_pre_hook(lambda m, a: log.append(f"pre {type(m).__name__}")),
        nn.module.register_module_forward_hook(lambda m, a, y: log.append(f"post {type(m).__name__}")),
    ]
    net = nn.Sequential(nn.ReLU())
    net(tw.ones(1))
    for handle in handles:
        handle.remove()
    net(tw.ones(1))
    assert log == ["pre Sequential", "pre ReLU", "post ReLU", "post Sequential"]


# Printing and containers ------------------------------------------------------------------------


def _models(where: object) -> list[object]:
    block = [where.Linear(2, 2), where.ReLU()]
    return [
        where.Sequential(),
        where.Sequential(OrderedDict(a=where.Linear(2, 3), b=where.Sequential(where.ReLU(), where.Dropout(0.1)))),
        where.ModuleList([where.Linear(2, 2) for _ in range(3)] + [where.ReLU()]),
        where.ModuleList(),
        where.ModuleList([where.Sequential(*block), where.Sequential(*block)]),
        where.ModuleDict({"x": where.ReLU(), "y": where.ModuleList([where.Tanh()])}),
        where.Transformer(4, 2, 1, 1, 8),
    ]


def test_repr_of_containers_as_pytorch() -> None:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", UserWarning)
        expected = _models(torch.nn)
    for ours, theirs in zip(_models(nn), expected, strict=True):
        assert repr(ours) == repr(theirs)


def test_repr_with_several_lines_of_own() -> None:
    class Own(nn.Module):
        def extra_repr(self) -> str:
            return "a=1\nb=2"

    assert repr(Own()) == "Own(\n  a=1\n  b=2\n)"


def test_sequential_as_a_list() -> None:
    a, b, c = nn.ReLU(), nn.Tanh(), nn.Sigmoid()
    net = nn.Sequential(a, b)
    assert len(net) == 2 and net[0] is a and net[-1] is b and list(net) == [a, b] and b in net
    net.append(c)
    assert isinstance(net[1:], nn.Sequential) and list(net[1:]) == [b, c]
    net.insert(1, c)
    assert list(net) == [a, c, b, c] and list(net._modules) == ["0", "1", "2", "3"]
    assert net.pop(1) is c and list(net) == [a, b, c]
    del net[0]
    assert list(net) == [b, c]
    net[0] = a
    net.extend([b])
    assert list(net) == [a, c, b]
    assert list(nn.Sequential(a) + nn.Sequential(b)) == [a, b]
    assert list(nn.Sequential(a) * 2) == [a, a] == list(2 * nn.Sequential(a))
    net += nn.Sequential(a)
    assert len(net) == 4
    del net[1:3]
    assert list(net) == [a, a]
    with pytest.raises(IndexError, match="out of range"):
        net[9]
    named = nn.Sequential(OrderedDict(x=a, y=b))
    assert named.x is a and list(named[:1]._modules) == ["x"]


def test_module_list() -> None:
    a, b = nn.Linear(1, 1), nn.ReLU()
    items = nn.ModuleList([a])
    items.append(b).extend([a]).insert(0, b)
    assert list(items) == [b, a, b, a] and isinstance(items[1:3], nn.ModuleList)
    items += [b]
    assert len(items.__add__([a])) == 6 and items.pop() is b
    del items[0:2]
    assert list(items) == [b, a] and [n for n, _ in items.named_parameters()] == ["1.weight", "1.bias"]
    with pytest.raises(NotImplementedError, match="missing the required"):
        items(tw.ones(1))


def test_module_dict() -> None:
    items = nn.ModuleDict({"a": nn.ReLU()})
    items["b"] = nn.Linear(1, 1)
    items.update([("c", nn.Tanh())])
    assert list(items) == ["a", "b", "c"] == list(items.keys()) and "b" in items and len(items.values()) == 3
    assert isinstance(items.pop("a"), nn.ReLU)
    del items["c"]
    assert [k for k, _ in items.items()] == ["b"]
    items.clear()
    assert len(items) == 0


def test_parameter_list() -> None:
    items = nn.ParameterList([tw.zeros(2), nn.Parameter(tw.ones(1))])
    items.append(tw.ones(3))
    items += [tw.ones(1)]
    assert len(items) == 4 and all(isinstance(p, nn.Parameter) for p in items)
    assert [n for n, _ in items.named_parameters()] == ["0", "1", "2", "3"]
    assert len(items[1:3]) == 2 and items[-1] is items[3]
    items[0] = tw.ones(5)
    assert items[0].shape == (5,)
    theirs = torch.nn.ParameterList([torch.zeros(2), torch.zeros(2, 3)])
    ours = nn.ParameterList([tw.zeros(2), tw.zeros(2, 3)])
    assert repr(ours) == repr(theirs).replace("torch.float32", "twofold.float32")
    with pytest.raises(IndexError):
        items[7]
    with pytest.raises(TypeError, match="iterable of tensors"):
        items.extend(tw.zeros(2))


def test_parameter_dict() -> None:
    items = nn.ParameterDict({"a": tw.zeros(2)})
    items["b"] = tw.ones(1)
    assert list(items) == ["a", "b"] and isinstance(items["b"], nn.Parameter) and "a" in items
    assert items.get("x") is None and items.setdefault("c", tw.zeros(1)) is items["c"]
    assert [n for n, _ in items.named_parameters()] == ["a", "b", "c"]
    assert list(items.copy()) == ["a", "b", "c"] and list(reversed(items)) == ["c", "b", "a"]
    assert items.popitem()[0] == "c" and items.pop("a").shape == (2,)
    items |= {"d": tw.zeros(1)}
    assert list(items | nn.ParameterDict({"e": tw.zeros(1)})) == ["b", "d", "e"]
    theirs = torch.nn.ParameterDict({"k": torch.zeros(2, 3)})
    ours = nn.ParameterDict({"k": tw.zeros(2, 3)})
    assert repr(ours) == repr(theirs).replace("torch.FloatTensor", "twofold.float32")
    with pytest.raises(KeyError):
        items["zz"]
    with pytest.raises(TypeError, match="use a string"):
        items[3] = tw.zeros(1)
    del items["b"]
    items.clear()
    assert len(items) == 0


# Lazy layers ------------------------------------------------------------------------------------

LAZY = [
    ("LazyLinear", (4,), (2, 3)),
    ("LazyConv1d", (4, 3), (2, 3, 8)),
    ("LazyConv2d", (4, 3), (2, 3, 8, 8)),
    ("LazyConv3d", (2, 2), (1, 3, 4, 4, 4)),
    ("LazyConvTranspose1d", (4, 3), (2, 3, 8)),
    ("LazyConvTranspose2d", (4, 3), (3, 5, 5)),
    ("LazyConvTranspose3d", (2, 2), (1, 3, 2, 2, 2)),
    ("LazyBatchNorm1d", (), (4, 3)),
    ("LazyBatchNorm2d", (), (2, 3, 4, 4)),
    ("LazyBatchNorm3d", (), (2, 3, 2, 2, 2)),
    ("LazyInstanceNorm1d", (), (2, 3, 8)),
    ("LazyInstanceNorm2d", (1e-5, 0.1, True, True), (2, 3, 4, 4)),
    ("LazyInstanceNorm3d", (), (2, 3, 2, 2, 2)),
]


@pytest.mark.parametrize(("name", "args", "shape"), LAZY, ids=[entry[0] for entry in LAZY])
def test_lazy_layers(name: str, args: tuple, shape: tuple[int, ...]) -> None:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", UserWarning)
        theirs = getattr(torch.nn, name)(*args)
    ours = getattr(nn, name)(*args)
    assert repr(ours) == repr(theirs)
    waiting = list(ours.parameters())
    x = np.random.default_rng(0).standard_normal(shape).astype(np.float32)
    z = theirs(torch.from_numpy(x))
    assert ours(tw.from_numpy(x)).shape == tuple(z.shape)
    assert repr(ours) == repr(theirs) and type(ours) is getattr(nn, name.removeprefix("Lazy"))
    assert all(a is b and type(a) is nn.Parameter for a, b in zip(waiting, ours.parameters(), strict=True))
    assert {k: tuple(v.shape) for k, v in ours.state_dict().items()} == {
        k: tuple(v.shape) for k, v in theirs.state_dict().items()
    }
    ours.load_state_dict({k: tw.from_numpy(v.numpy().copy()) for k, v in theirs.state_dict().items()})
    ours.eval(), theirs.eval()
    y, z = ours(tw.from_numpy(x)), theirs(torch.from_numpy(x))
    np.testing.assert_allclose(y.detach().numpy(), z.detach().numpy(), rtol=1e-4, atol=1e-5)


def test_lazy_layers_take_loaded_weights_and_an_early_optimizer() -> None:
    full, lazy = nn.Linear(3, 2), nn.LazyLinear(2)
    assert repr(lazy.weight) == "<UninitializedParameter>"
    optimizer = tw.optim.SGD(lazy.parameters(), lr=0.5)
    lazy.load_state_dict(full.state_dict())
    x = tw.randn(4, 3)
    assert np.array_equal(lazy(x).detach().numpy(), full(x).detach().numpy())
    lazy(x).sum().backward()
    optimizer.step()
    assert not np.array_equal(lazy.weight.detach().numpy(), full.weight.detach().numpy())
    copied = copy.deepcopy(nn.Sequential(nn.LazyLinear(2)))
    assert copied(x).shape == (4, 2)
