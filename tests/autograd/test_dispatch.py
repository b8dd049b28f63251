"""What makes dispatch lean: rules that remember, views as one node, draws from pages."""

import numpy as np
import pytest

import twofold as tw
from twofold.ir.evaluate import complaint, runner
from twofold.ir.primitive import PRIMITIVES, Primitive
from twofold.primitives.random import _PAGE, _random_bits, _words

VIEWS = [p for p in PRIMITIVES.values() if p.view]


@pytest.mark.parametrize("p", VIEWS, ids=lambda p: p.name)
def test_rules_of_views_need_types_only(p):
    (rule,) = p.rules
    assert not any(rule.needs_x) and not rule.needs_y


def test_an_index_is_one_node():
    x = tw.ones(3, 4, requires_grad=True)
    for part in (x[1], x[1, 2], x[:, 1:], x[0, :, None]):
        (source,) = part.grad_fn.next_nodes()
        assert source is x
    (node,) = x.t()[1].grad_fn.next_nodes()
    assert node.name == "permute" and node.next_nodes()[0] is x


def test_gradients_through_chains_of_views():
    x = tw.arange(12.0).reshape(3, 4).requires_grad_()
    y = x.t()[1:][0].reshape(3, 1).expand(3, 2)
    (y * y).sum().backward()
    expected = np.zeros((3, 4), np.float32)
    expected[:, 1] = 4 * x.detach().numpy()[:, 1]
    assert x.grad.tolist() == expected.tolist()


def counted(type_rule):
    calls = []
    real = PRIMITIVES["flip"]
    p = object.__new__(Primitive)
    for name in Primitive.__slots__:
        if name != "__weakref__":
            setattr(p, name, getattr(real, name))

    def rule(*types, **params):
        calls.append(types)
        return type_rule(*types, **params)

    p.type_rule = rule
    return p, calls


def test_a_type_rule_is_asked_once_for_each_type():
    p, calls = counted(PRIMITIVES["flip"].type_rule)
    run = runner(p)
    x = np.arange(6.0).reshape(2, 3)
    for _ in range(3):
        assert run(x, dims=(0,)).tolist() == x[::-1].tolist()
    assert len(calls) == 1
    run(x.astype(np.float32), dims=(0,))
    run(x[:, :2], dims=(0,))
    run(x, dims=(1,))
    assert len(calls) == 4
    with pytest.raises(tw.TwofoldError):
        run(x, dims=(2,))
    with pytest.raises(tw.TwofoldError):
        run(x, dims=(2,))


def test_params_that_cannot_be_hashed_are_checked_each_time():
    p, calls = counted(lambda x, **_: x)
    run = runner(p)
    p.numpy = PRIMITIVES["flip"].numpy
    for _ in range(2):
        run(np.arange(2.0), dims=[0])
    assert len(calls) == 2


def test_an_error_that_the_inputs_explain():
    p = PRIMITIVES["matmul"]
    a = np.ones((2, 3))
    assert isinstance(complaint(p, [a, a], {}, ValueError("x")), tw.ShapeError)
    error = ValueError("not of the inputs")
    assert complaint(p, [a, a.T], {}, error) is error


@pytest.mark.parametrize("first", [0, _PAGE - 2, 2**64 - 3, 5 * _PAGE + 7])
@pytest.mark.parametrize("size", [1, 4, 9, 4 * _PAGE, 4 * _PAGE + 1])
def test_pages_hold_the_words_of_the_stream(first, size):
    state = np.array([3, first], np.uint64)
    blocks = -(-size // 4)
    assert _random_bits(state, shape=(size,)).tolist() == _words(3, first, blocks)[:size].tolist()


def test_draws_do_not_share_memory():
    generator = tw.Generator().manual_seed(0)
    a = tw.rand(4, generator=generator)
    generator.manual_seed(0)
    kept = a.tolist()
    a.zero_()
    assert tw.rand(4, generator=generator).tolist() == kept


def test_stack_is_no_view():
    a = tw.ones(2, requires_grad=True)
    for dim in (0, 1):
        s = tw.stack([a, a * 2], dim)
        assert s._base is None
        s.mul_(3.0)
        s.sum().backward()
    assert a.grad.tolist() == [18.0, 18.0]


def test_expanded_memory_is_read_only():
    x = tw.arange(3.0)
    e = x.expand(2, 3)
    assert e.tolist() == [[0.0, 1.0, 2.0]] * 2 and not e._value.flags.writeable
    x[0] = 7.0
    assert e[1, 0].item() == 7.0
    with pytest.raises(tw.AutogradError):
        e.add_(1.0)
