"""tw.trace: a whole imperative training step as a graph that computes what eager execution computes.

Both run on NumPy, so everything is compared bit by bit: losses, parameters, gradients, buffers, the
optimizer's state and the random generator's.
"""

import copy
import itertools
import re

import numpy as np
import pytest

import twofold as tw
import twofold.nn.functional as F
from twofold import nn
from twofold.autodiff.handle import Tensor, mode
from twofold.ir.errors import ShapeError, TraceError, TwofoldError
from twofold.ir.graph import Value
from twofold.ir.parse import parse_graph
from twofold.optim import lr_scheduler


def snapshot(model, optimizer):
    """All that a step may change, by name."""
    out = {f"model.{k}": v for k, v in model.state_dict().items()}
    out |= {f"grad.{k}": p.grad for k, p in model.named_parameters()}
    for i, (_, slots) in enumerate(optimizer.state.items()):
        out |= {f"optimizer.{i}.{k}": v for k, v in slots.items()}
    out["generator"] = tw.get_rng_state()
    return {k: v.detach().numpy().copy() if isinstance(v, Tensor) else v for k, v in out.items()}


def assert_same(actual, expected, where=""):
    assert actual.keys() == expected.keys()
    for name, value in expected.items():
        np.testing.assert_array_equal(actual[name], value, err_msg=f"{name} {where}")


def assert_no_values(*tensors):
    """No handle outside holds a graph Value, or anything made from one."""
    for t in tensors:
        if isinstance(t, Tensor):
            assert isinstance(t._value, np.ndarray), t.shape
            assert t._node is None
            assert t._grad is None or isinstance(t._grad._value, np.ndarray)


def tensors_of(model, optimizer):
    yield from itertools.chain(model.parameters(), model.buffers())
    for slots in optimizer.state.values():
        yield from slots.values()
    for group in optimizer.param_groups:
        yield from group._twins.values()
    yield tw.default_generator.state if hasattr(tw, "default_generator") else None


def assert_steps_agree(model, make_optimizer, batches, *, loss_fn=None, make_step=None, schedule=None):
    """N eager steps and N calls of one traced step, from the same start, agree bit by bit."""
    loss_fn = loss_fn or nn.CrossEntropyLoss()

    def plain_step(model, optimizer):
        def step(x, y):
            optimizer.zero_grad()
            loss = loss_fn(model(x), y)
            loss.backward()
            optimizer.step()
            return loss

        return step

    def run(model, *, traced):
        tw.manual_seed(7)
        optimizer = make_optimizer(model.parameters())
        scheduler = schedule(optimizer) if schedule else None
        step = (make_step or plain_step)(model, optimizer)
        losses, states, program = [], [], None
        for x, y in batches:
            if traced and program is None:
                before = snapshot(model, optimizer)
                program = tw.trace(step, x, y)
                after = snapshot(model, optimizer)
                assert_same({k: after[k] for k in before}, before, "changed by tracing")
                assert_no_values(*tensors_of(model, optimizer))
            losses.append((program or step)(x, y))
            if scheduler is not None:
                scheduler.step()
            states.append(snapshot(model, optimizer))
        assert_no_values(*tensors_of(model, optimizer))
        return losses, states, program

    other = copy.deepcopy(model)
    losses, states, _ = run(model, traced=False)
    traced_losses, traced_states, program = run(other, traced=True)
    for i, (a, b) in enumerate(zip(traced_losses, losses, strict=True)):
        np.testing.assert_array_equal(a.numpy(), b.detach().numpy(), err_msg=f"loss of step {i}")
        assert_same(traced_states[i], states[i], f"after step {i}")
    assert not np.array_equal(losses[0].item(), losses[-1].item()), "nothing was learnt"
    assert parse_graph(program.graph.verify().to_text()) == program.graph
    return program


def classes(n, steps, *shape, num_classes=4, dtype=tw.float32):
    tw.manual_seed(3)
    return [(tw.randn(n, *shape, dtype=dtype), tw.randint(0, num_classes, (n,))) for _ in range(steps)]


def mlp():
    tw.manual_seed(0)
    return nn.Sequential(nn.Linear(6, 8), nn.Tanh(), nn.Linear(8, 8), nn.GELU(), nn.Linear(8, 4))


def cnn():
    tw.manual_seed(0)
    return nn.Sequential(
        nn.Conv2d(1, 4, 3, padding=1), nn.BatchNorm2d(4), nn.ReLU(), nn.MaxPool2d(2), nn.Dropout2d(0.2),
        nn.Conv2d(4, 6, 3, bias=False), nn.BatchNorm2d(6), nn.SiLU(), nn.AdaptiveAvgPool2d(1), nn.Flatten(),
        nn.Dropout(0.5), nn.Linear(6, 4),
    )  # fmt: skip


class Words(nn.Module):
    """Embedding, LayerNorm and attention over a short sentence."""

    def __init__(self):
        super().__init__()
        self.embedding = nn.Embedding(11, 8, padding_idx=0)
        self.attention = nn.MultiheadAttention(8, 2, batch_first=True, dropout=0.1)
        self.norm = nn.LayerNorm(8)
        self.out = nn.Linear(8, 4)

    def forward(self, ids):
        x = self.embedding(ids)  # (N, L, 8)
        x = self.norm(x + self.attention(x, x, x, need_weights=False)[0])
        return self.out(x.mean(1))


OPTIMIZERS = {
    "sgd": lambda ps: tw.optim.SGD(ps, lr=0.1),
    "momentum": lambda ps: tw.optim.SGD(ps, lr=0.1, momentum=0.9, dampening=0.1, weight_decay=1e-3),
    "nesterov": lambda ps: tw.optim.SGD(ps, lr=0.1, momentum=0.9, nesterov=True, maximize=True),
    "adam": lambda ps: tw.optim.Adam(ps, lr=0.01, weight_decay=1e-2),
    "amsgrad": lambda ps: tw.optim.Adam(ps, lr=0.01, amsgrad=True),
    "adamw": lambda ps: tw.optim.AdamW(ps, lr=0.01, betas=(0.8, 0.95)),
    "rmsprop": lambda ps: tw.optim.RMSprop(ps, lr=0.01, momentum=0.5, centered=True),
    "adagrad": lambda ps: tw.optim.Adagrad(ps, lr=0.1, lr_decay=0.01),
    "adadelta": lambda ps: tw.optim.Adadelta(ps, lr=1.0),
    "nadam": lambda ps: tw.optim.NAdam(ps, lr=0.01),
    "radam": lambda ps: tw.optim.RAdam(ps, lr=0.01),
}


@pytest.mark.parametrize("name", OPTIMIZERS)
def test_mlp_with_every_optimizer(name):
    assert_steps_agree(mlp(), OPTIMIZERS[name], classes(5, 7, 6))


def test_two_groups_with_options_of_their_own():
    model = mlp()

    def optimizer(params):
        params = list(params)
        return tw.optim.AdamW(
            [{"params": params[:2], "lr": 0.1}, {"params": params[2:], "weight_decay": 0.5}], lr=0.01
        )

    assert_steps_agree(model, optimizer, classes(5, 3, 6))


def test_cnn_with_running_statistics_and_dropout():
    program = assert_steps_agree(
        cnn(), lambda ps: tw.optim.SGD(ps, lr=0.05, momentum=0.9, nesterov=True), classes(6, 4, 1, 8, 8)
    )
    names = {node.prim.name for node in program.graph.nodes}
    assert {"conv", "conv_input_grad", "conv_weight_grad", "max_pool", "random_bits"} <= names


def test_cnn_in_evaluation_mode_leaves_its_buffers_alone():
    model = cnn().eval()
    program = assert_steps_agree(model, OPTIMIZERS["adam"], classes(6, 2, 1, 8, 8))
    assert "random_bits" not in {node.prim.name for node in program.graph.nodes}


def test_words_with_rmsprop():
    tw.manual_seed(1)
    batches = [(tw.randint(0, 11, (3, 5)), tw.randint(0, 4, (3,))) for _ in range(4)]
    assert_steps_agree(Words(), OPTIMIZERS["rmsprop"], batches)


def test_recurrent_layers():
    class Reader(nn.Module):
        def __init__(self):
            super().__init__()
            self.rnn = nn.LSTM(3, 5, batch_first=True)
            self.out = nn.Linear(5, 4)

        def forward(self, x):
            return self.out(self.rnn(x)[0][:, -1])

    tw.manual_seed(0)
    assert_steps_agree(Reader(), OPTIMIZERS["adagrad"], classes(3, 3, 4, 3))


def test_float64():
    assert_steps_agree(mlp().double(), OPTIMIZERS["adam"], classes(5, 4, 6, dtype=tw.float64))


def test_clipping_and_a_schedule_between_the_calls():
    """The learning rate is an input of the graph: a schedule changes it without a new trace."""

    def make_step(model, optimizer):
        def step(x, y):
            optimizer.zero_grad()
            loss = F.cross_entropy(model(x), y, label_smoothing=0.1)
            loss.backward()
            nn.utils.clip_grad_norm_(model.parameters(), 0.5)
            optimizer.step()
            return loss

        return step

    assert_steps_agree(
        mlp(),
        OPTIMIZERS["adamw"],
        classes(5, 6, 6),
        make_step=make_step,
        schedule=lambda o: lr_scheduler.OneCycleLR(o, max_lr=0.1, total_steps=8),
    )


def test_the_result_follows_a_learning_rate_set_by_hand():
    w = nn.Parameter(tw.ones(2))
    optimizer = tw.optim.SGD([w], lr=1.0)

    def step(x):
        optimizer.zero_grad()
        (w * x).sum().backward()
        optimizer.step()

    program = tw.trace(step, tw.ones(2))
    program(tw.ones(2))
    assert w.tolist() == [0.0, 0.0]
    optimizer.param_groups[0]["lr"] = 0.25
    program(tw.ones(2))
    assert w.tolist() == [-0.25, -0.25]


def test_a_bound_method_a_module_and_nested_arguments():
    model = mlp()
    x = tw.randn(2, 6)
    np.testing.assert_array_equal(tw.trace(model, x)(x).numpy(), model(x).detach().numpy())

    def fn(batch, *, scale):
        return {"out": [batch["a"] * scale, (batch["b"][0], "text", None)], "n": 3}

    args = {"a": tw.ones(2), "b": (tw.zeros(1),)}
    traced = tw.trace(fn, args, scale=2.0)
    out = traced(args, scale=2.0)
    assert out["out"][0].tolist() == [2.0, 2.0]
    assert out["out"][1][0].tolist() == [0.0]
    assert (out["out"][1][1:], out["n"]) == (("text", None), 3)
    with pytest.raises(TwofoldError, match=r"traced with the value 2\.0, called with 3\.0"):
        traced(args, scale=3.0)
    with pytest.raises(TwofoldError, match="nested"):
        traced(args, args, scale=2.0)
    with pytest.raises(ShapeError, match=r"traced as float32\[2\], got float32\[3\]"):
        traced({"a": tw.ones(3), "b": (tw.zeros(1),)}, scale=2.0)


# --- gradients between calls -------------------------------------------------------------------


def test_gradients_accumulate_without_zero_grad():
    def make():
        tw.manual_seed(0)
        model = nn.Linear(3, 1)
        return model, (lambda x: model(x).square().mean().backward())

    (eager, eager_step), (traced, traced_step) = make(), make()
    tw.manual_seed(5)
    xs = [tw.randn(4, 3) for _ in range(4)]
    eager_step(xs[0])
    traced_step(xs[0])  # now .grad is there, and the traced code adds to it
    program = tw.trace(traced_step, xs[1])
    for x in xs[1:]:
        eager_step(x)
        assert program(x) is None
        for p, q in zip(eager.parameters(), traced.parameters(), strict=True):
            np.testing.assert_array_equal(p.grad.numpy(), q.grad.numpy())


def test_a_gradient_that_was_there_must_be_there_again():
    w = tw.ones(2, requires_grad=True)

    def step():
        (w * 2).sum().backward()

    step()
    program = tw.trace(step)
    program()
    assert w.grad.tolist() == [4.0, 4.0]
    w.grad = None
    with pytest.raises(TraceError, match=r"gradient that is None now(?s:.*)trace it again"):
        program()


def test_gradients_after_a_traced_call():
    a, b = tw.ones(2, requires_grad=True), tw.ones(2, requires_grad=True)

    def step(x):
        a.grad = None
        (a * x).sum().backward()
        b.grad = None

    b.grad = tw.ones(2)
    program = tw.trace(step, tw.ones(2))
    assert a.grad is None
    assert b.grad.tolist() == [1.0, 1.0]  # as before the trace
    program(tw.full((2,), 3.0))
    assert a.grad.tolist() == [3.0, 3.0]
    assert b.grad is None
    first = a.grad
    program(tw.full((2,), 5.0))
    assert first.tolist() == [3.0, 3.0]  # a new gradient, not a write into the old one
    assert a.grad.tolist() == [5.0, 5.0]


def test_gradients_zeroed_in_place_keep_their_memory():
    model = nn.Linear(2, 1)
    optimizer = tw.optim.SGD(model.parameters(), lr=0.1)
    model(tw.ones(1, 2)).sum().backward()
    held = model.weight.grad

    def step(x):
        optimizer.zero_grad(set_to_none=False)
        loss = model(x).sum()
        loss.backward()
        return loss

    program = tw.trace(step, tw.ones(1, 2))
    program(tw.full((1, 2), 7.0))
    assert model.weight.grad.tolist() == [[7.0, 7.0]]
    assert held.shape == (1, 2)


def test_autograd_grad_and_higher_orders():
    x0 = tw.tensor([0.5, 1.5])
    w = tw.tensor([1.0, 2.0], requires_grad=True)

    def fn(x):
        x = x.detach().requires_grad_()
        (g,) = tw.autograd.grad((x**3 * w).sum(), x, create_graph=True)
        penalty = (g * g).sum()
        penalty.backward()
        return penalty, g

    expected, g = fn(x0)
    grad = w.grad
    w.grad = None
    program = tw.trace(fn, x0)
    assert w.grad is None
    actual, g2 = program(x0)
    np.testing.assert_array_equal(actual.numpy(), expected.detach().numpy())
    np.testing.assert_array_equal(g2.numpy(), g.detach().numpy())
    np.testing.assert_array_equal(w.grad.numpy(), grad.numpy())


# --- views and in-place writes -----------------------------------------------------------------


def assert_writes_agree(fn, *shapes, state=None, calls=2):
    """`fn` on fresh state, eagerly and traced; results, arguments and state agree after each call."""
    rng = np.random.default_rng(0)
    args = [rng.standard_normal(s).astype(np.float32) for s in shapes]

    def fresh():
        return [tw.tensor(a) for a in args], tw.tensor(np.arange(12, dtype=np.float32).reshape(3, 4))

    (eager_args, eager_state), (traced_args, traced_state) = fresh(), fresh()
    program = tw.trace(lambda *xs: fn(traced_state, *xs), *traced_args)
    np.testing.assert_array_equal(traced_state.numpy(), eager_state.numpy())
    assert parse_graph(program.graph.verify().to_text()) == program.graph
    for _ in range(calls):
        expected, actual = fn(eager_state, *eager_args), program(*traced_args)
        if expected is not None:
            np.testing.assert_array_equal(actual.numpy(), expected.numpy())
        for a, b in zip([traced_state, *traced_args], [eager_state, *eager_args], strict=True):
            np.testing.assert_array_equal(a.numpy(), b.numpy())


def assigned_slices(s, x):
    s[1:, ::2] = x
    s[0, -1] += 1
    s[..., 1] *= 2
    s[::-1].sum()
    return s.sum(0)


def transposed_write(s, x):
    t = s.t()
    t[1:3] = x
    t += 1
    return s * 2


def view_of_a_view(s, x):
    row = s.view(2, 6)[1]
    tail = row[2:]
    tail.copy_(x)
    row.mul_(2)
    return tail + s[2]


def detached_alias(s, x):
    d = s.detach()
    d.add_(x)
    return s - d


def expanded_read(s, x):
    e = x.expand(3, 4)
    s += e
    x.mul_(2)
    return e + s  # e sees the new x


def masked(s, x):
    s[s > 5] = 0.5
    s.masked_fill_(x > 0, -1)
    return s.clone()


def diagonal_write(s, x):
    s.diagonal().copy_(x)
    s.select(1, 3).zero_()
    return s


def indexed_write(s, x):
    rows = tw.tensor([2, 0])
    s[rows] = x
    s.index_add_(0, rows, x)
    s.scatter_(1, tw.tensor([[0], [1], [2]]), 9.0)
    return s[rows]


def written_argument(s, x):
    x += s[0]
    y = x[1:]
    y *= 3
    s[1] = x


def copied_not_viewed(s, x):
    t = s.t().reshape(2, 6)  # over gaps: a copy
    t.zero_()
    f = s.reshape(12)  # a view
    f[0] = 100.0
    return t + x


def chunks_and_unbind(s, x):
    for part in s.chunk(2, dim=1):
        part += x
    a, _, c = s.unbind(0)
    a.copy_(c)
    return s


@pytest.mark.parametrize(
    ("fn", "shapes"),
    [
        (assigned_slices, [(2, 2)]), (transposed_write, [(2, 3)]), (view_of_a_view, [(4,)]), (detached_alias, [()]),
        (expanded_read, [(4,)]), (masked, [(3, 4)]), (diagonal_write, [(3,)]), (indexed_write, [(2, 4)]),
        (written_argument, [(4,)]), (copied_not_viewed, [(2, 6)]), (chunks_and_unbind, [(3, 2)]),
    ],
    ids=lambda p: getattr(p, "__name__", ""),
)  # fmt: skip
def test_writes_through_views(fn, shapes):
    assert_writes_agree(fn, *shapes)


def test_gradients_through_writes():
    w = tw.randn(3, requires_grad=True)

    def step(x):
        y = tw.zeros(2, 3)
        y[0] = w * x
        y.t()[1] += w[1]
        y[:, 2].mul_(3)
        w.grad = None
        (y * y).sum().backward()
        return y.detach()

    x = tw.randn(3)
    program = tw.trace(step, x)
    actual, grad = program(x), w.grad.numpy().copy()
    np.testing.assert_array_equal(actual.numpy(), step(x).numpy())
    np.testing.assert_array_equal(grad, w.grad.numpy())


def test_views_made_outside_write_to_their_base():
    base = tw.zeros(2, 3)
    view = base.t()[1]

    def fn(x):
        view.add_(x)
        return base.sum()

    program = tw.trace(fn, tw.ones(2))
    assert base.sum().item() == 0
    assert program(tw.ones(2)).item() == 2
    assert program(tw.ones(2)).item() == 4
    assert base.tolist() == [[0.0, 2.0, 0.0], [0.0, 2.0, 0.0]]
    assert view.tolist() == [2.0, 2.0]


def test_two_names_for_one_memory():
    base = tw.zeros(3)
    alias = base.detach()

    def fn(x):
        base.add_(x)
        alias.mul_(2)
        return base + alias

    program = tw.trace(fn, tw.ones(3))
    assert program(tw.ones(3)).tolist() == [4.0] * 3
    assert base.tolist() == alias.tolist() == [2.0] * 3


# --- modes inside a trace ----------------------------------------------------------------------


def test_modes_inside_a_trace():
    w = tw.tensor([2.0], requires_grad=True)
    seen = []

    def fn(x):
        with tw.no_grad():
            seen.append((w * x).requires_grad)
            w.add_(0)
        with tw.enable_grad():
            seen.append((w * x).requires_grad)
        seen.append(tw.is_grad_enabled())
        y = (w * x).detach()
        seen.append(y.requires_grad)
        y.requires_grad_()
        (y * y).sum().backward()
        return y.grad

    program = tw.trace(fn, tw.tensor([3.0]))
    assert seen == [False, True, True, False]
    assert program(tw.tensor([3.0])).tolist() == [12.0]
    assert w.grad is None
    assert w.is_leaf
    with tw.no_grad():
        assert not tw.is_grad_enabled()
        tw.trace(lambda x: x * w, tw.ones(1))
        assert not tw.is_grad_enabled()


def test_parameters_frozen_inside_a_trace():
    model = mlp()

    def frozen(x):
        model[0].requires_grad_(False)
        model(x).sum().backward()

    with pytest.raises(TraceError, match=r"requires_grad=False on a tensor of shape \(8, 6\)"):
        tw.trace(frozen, tw.ones(1, 6))
    assert all(p.requires_grad and p.grad is None for p in model.parameters())

    def frozen_for_a_while(x):
        frozen(x)
        model[0].requires_grad_(True)

    tw.trace(frozen_for_a_while, tw.ones(1, 6))(tw.ones(1, 6))
    assert [p.grad is None for p in model.parameters()] == [True, True, False, False, False, False]
    assert all(p.requires_grad for p in model.parameters())


def test_random_numbers_advance_as_eagerly():
    g = tw.Generator().manual_seed(4)

    def draw(x):
        return x + tw.rand(3) + tw.randn(3, generator=g), F.dropout(x, 0.5)

    tw.manual_seed(1)
    expected = [draw(tw.ones(3)) for _ in range(3)]
    ends = tw.get_rng_state().tolist(), g.get_state().tolist()
    tw.manual_seed(1)
    g.manual_seed(4)
    program = tw.trace(draw, tw.ones(3))
    for a, b in expected:
        c, d = program(tw.ones(3))
        assert (c.tolist(), d.tolist()) == (a.tolist(), b.tolist())
    assert (tw.get_rng_state().tolist(), g.get_state().tolist()) == ends


# --- what can't be traced ----------------------------------------------------------------------


def branches(x):
    return x if x.sum() > 0 else -x


def loops(x):
    while x.sum() < 10:
        x = x * 2
    return x


@pytest.mark.parametrize(
    ("fn", "message"),
    [
        (lambda x: x.sum().item(), "asks for .*value"),
        (lambda x: float(x.sum()), "asks for .*value"),
        (lambda x: x.tolist(), "asks for .*value"),
        (lambda x: x.numpy(), "asks for .*value"),
        (lambda x: np.asarray(x), "asks for .*value"),
        (branches, r"where, twofold\.cond"),
        (loops, r"twofold\.while_loop"),
        (lambda x: x[x > 0], r"depends on values(?s:.*)where\(mask"),
        (lambda x: x.nonzero(), "depends on values"),
        (lambda x: tw.unique(x), "value"),
    ],
)
def test_errors_say_what_to_do(fn, message):
    with pytest.raises(TraceError, match=message) as info:
        tw.trace(fn, tw.ones(3))
    assert "test_trace.py:" in str(info.value)
    assert mode.tracer is None


def test_a_trace_that_fails_changes_nothing():
    model, buffer = cnn(), tw.zeros(3)
    optimizer = tw.optim.Adam(model.parameters())
    x, y = classes(4, 1, 1, 8, 8)[0]
    F.cross_entropy(model(x), y).backward()
    optimizer.step()
    before = snapshot(model, optimizer)
    versions = [p._version for p in model.parameters()]

    def step(x, y):
        optimizer.zero_grad()
        loss = F.cross_entropy(model(x), y)
        loss.backward()
        optimizer.step()
        buffer.add_(1)
        tw.rand(3)
        return loss.item()

    with pytest.raises(TraceError):
        tw.trace(step, x, y)
    assert mode.tracer is None
    assert_same(snapshot(model, optimizer), before)
    assert [p._version for p in model.parameters()] == versions
    assert buffer.tolist() == [0.0] * 3
    assert_no_values(buffer, *tensors_of(model, optimizer))
    with pytest.raises(ZeroDivisionError):
        tw.trace(lambda x: 1 / 0, x)
    assert mode.tracer is None
    step_loss = F.cross_entropy(model(x), y)  # and everything works on
    optimizer.zero_grad()
    step_loss.backward()
    optimizer.step()


def test_shape_errors_inside_a_trace_name_layer_and_line():
    model = mlp()
    with pytest.raises(ShapeError) as info:
        tw.trace(lambda x: model(x), tw.ones(2, 5))
    text = str(info.value)
    assert "layer: 0 = Linear(in_features=6" in text
    assert "test_trace.py:" in text
    assert mode.tracer is None


def test_traced_tensors_can_be_looked_at():
    """repr, shape, len and dtype need no values."""
    seen = []

    def fn(x):
        seen.append((repr(x), x.shape, len(x), x.dtype, x.size(1), x.numel(), x.is_contiguous()))
        return x

    tw.trace(fn, tw.ones(2, 3))
    assert "float32" in seen[0][0]
    assert seen[0][1:] == ((2, 3), 2, tw.float32, 3, 6, True)


def test_graphs_show_the_users_lines_and_layers():
    model = mlp()

    def fn(x):
        hidden = model(x)
        return hidden.relu()

    text = str(tw.trace(fn, tw.ones(2, 6)))
    assert "test_trace.py:" in text
    assert "Sequential.0.linear" in text and "%_0.weight: float32[8, 6]" in text
    assert text.startswith("graph fn(%x: float32[2, 6]")


def test_values_never_stay_in_the_graph_of_eager_code():
    """A tensor made in a trace is refused with a clear error when eager code uses it afterwards."""
    kept = []
    tw.trace(lambda x: kept.append(x * 2), tw.ones(2))
    assert isinstance(kept[0]._value, Value)
    x = kept[0]
    for use in (
        lambda: x + 1, x.relu, x.sum, x.tolist, x.item, x.numpy, lambda: x.view(1, 2), lambda: tw.ones(2) * x,
        lambda: x.add_(1), lambda: tw.ones(2).copy_(x),
    ):  # fmt: skip
        with pytest.raises(TraceError, match=r"made (inside|while)"):
            use()
    assert "float32[2]" in repr(x)


# --- what a trace takes for granted ------------------------------------------------------------


def guarded():
    tw.manual_seed(0)
    model = nn.Sequential(nn.Linear(3, 4), nn.BatchNorm1d(4), nn.ReLU(), nn.Dropout(0.5), nn.Linear(4, 2))
    optimizer = tw.optim.SGD(model.parameters(), lr=0.1, momentum=0.9)

    def step(x, y):
        optimizer.zero_grad()
        loss = F.cross_entropy(model(x), y)
        loss.backward()
        optimizer.step()
        return loss

    x, y = classes(6, 1, 3, num_classes=2)[0]
    step(x, y)
    return model, optimizer, tw.trace(step, x, y), lambda: step(x, y)


def no_grad_zero(p):
    with tw.no_grad():
        p.zero_()


@pytest.mark.parametrize(
    ("change", "reason"),
    [
        (lambda m, o: m.eval(), "training is False"),
        (lambda m, o: setattr(m[3], "p", 0.1), "Dropout: p is 0.1, before 0.5"),
        (lambda m, o: setattr(m[1], "momentum", 0.5), "BatchNorm1d: momentum"),
        (lambda m, o: setattr(m[0], "weight", nn.Parameter(tw.zeros(4, 3))), "Linear"),
        (lambda m, o: m.__setitem__(2, nn.Tanh()), "Sequential"),
        (lambda m, o: m[0].register_forward_hook(lambda *_: None), "Linear"),
        (lambda m, o: m[0].requires_grad_(False), r"shape \(4, 3\) has .* requires_grad=False"),
        (lambda m, o: m[4].bias.register_hook(lambda g: g * 2), r"shape \(2,\) has another type or hooks"),
        (lambda m, o: o.param_groups[0].update(momentum=0.0), "SGD"),
        (lambda m, o: o.param_groups[0].update(nesterov=True), "SGD"),
        (lambda m, o: o.param_groups[0].update(weight_decay=0.1), "SGD"),
        (lambda m, o: o.add_param_group({"params": [nn.Parameter(tw.ones(1))]}), "SGD"),
    ],
)
def test_changes_that_need_a_new_trace(change, reason):
    model, optimizer, program, _ = guarded()
    assert program.guard.holds()
    change(model, optimizer)
    assert not program.guard.holds()
    assert re.search(reason, program.guard.difference())


@pytest.mark.parametrize(
    "change",
    [
        lambda m, o: o.param_groups[0].update(lr=0.5, momentum=0.1),
        lambda m, o: m[0].weight.data.zero_(),
        lambda m, o: no_grad_zero(m[0].weight),
        lambda m, o: m.load_state_dict({k: tw.ones_like(v) for k, v in m.state_dict().items()}),
        lambda m, o: o.load_state_dict(o.state_dict()),
        lambda m, o: m[1].reset_running_stats(),
        lambda m, o: tw.manual_seed(5),
        lambda m, o: m.zero_grad(),
        lambda m, o: m.eval().train(),
    ],
)
def test_changes_that_the_graph_follows(change):
    results = []
    for traced in (False, True):
        model, optimizer, program, step = guarded()
        x, y = classes(6, 1, 3, num_classes=2)[0]
        change(model, optimizer)
        assert program.guard.holds()
        results.append(
            ([(program(x, y) if traced else step()).item() for _ in range(3)], snapshot(model, optimizer))
        )
    assert results[0][0] == results[1][0]
    assert_same(results[1][1], results[0][1])
