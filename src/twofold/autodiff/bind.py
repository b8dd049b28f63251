"""bind: the one switch. Every operation on tensors passes here.

Three things happen, in this order: the operation is *evaluated* (NumPy now, or a node of a graph
while tracing), a view is linked to its base, and, if an input requires a gradient, the operation
is *recorded* on the tape. `write` is the same for in-place changes.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np

from ..ir.errors import AutogradError, DTypeError, TwofoldError
from ..ir.evaluate import complaint, in_rows, left_over, runner
from ..ir.primitive import PRIMITIVES, Primitive, install_dispatch
from .handle import Settings, Storage, Tensor, mode, storage_of, wrap
from .tape import Node, ViewNode


def bind(p: Primitive, inputs: tuple[Any, ...], params: dict[str, Any]) -> Any:
    """Apply primitive `p` to tensors; Python numbers among them take the last tensor's dtype."""
    if p.view:
        return _bind_view(p, inputs[0], params)
    values = []
    tracked = False  # whether an input requires a gradient, or may do so
    for t in inputs:
        if isinstance(t, Tensor):
            values.append(t._value)
            if t._requires_grad or t._base is not None:
                tracked = True
        else:
            values.append(t)
    tracer = mode.tracer
    if tracer is None:
        try:
            run = p.run or runner_of(p)
            result = run(*values, **params) if params else run(*values)
        except Exception as e:
            raise complaint(p, values, params, e) from e.__cause__
        if result.__class__ is not _ndarray or (result.ndim > 1 and not result.flags.c_contiguous):
            result = in_rows(p, result)
    else:
        result = tracer.bind(p, inputs, params)
    if p.multiple:
        outs = tuple([wrap(r) for r in result])
        if tracked and mode.grad:
            record(p, inputs, params, outs)
        return outs
    out = _new(Tensor)
    out._value = result
    if tracked and mode.grad:
        record(p, inputs, params, (out,))
    return out


def _bind_view(p: Primitive, x: Tensor, params: dict[str, Any]) -> Tensor:
    """`bind` for a view operation."""
    tracer = mode.tracer
    out = _new(Tensor)
    if tracer is not None:
        out._value = tracer.bind(p, (x,), params)
        viewed = tracer.is_view(p, x, params)
    else:
        array = x._value
        try:
            out._value = result = (p.run or runner_of(p))(array, **params)
        except Exception as e:
            raise complaint(p, [array], params, e) from e.__cause__
        owner = result.base
        viewed = owner is array or (owner is not None and owner is array.base) or _shared(result, array)
    steps = ((p, params),)
    if viewed:
        _link(x, steps, out)
    if mode.grad and (x._requires_grad or x._base is not None):
        record_view(x, steps, out)
    return out


_new = object.__new__
_ndarray = np.ndarray


def runner_of(p: Primitive) -> Callable[..., Any]:
    """`p.run`, found now if nobody has used it yet: see Note [Eager evaluation] in ir/evaluate.py."""
    if p.run is None:
        p.run = runner(p)
    return p.run


def _shared(value: Any, base: Any) -> bool:
    """Whether the result of a view operation is a view, where the owners of memory do not show it."""
    return value is base or not value.size or np.may_share_memory(value, base)


def _link(base: Tensor, steps: tuple[Any, ...], out: Tensor) -> None:
    """Make `out` the view of `base` that `steps` lead to."""
    storage = base._storage
    if storage is None:
        storage = base._storage = Storage()
    out._storage = storage
    out._value_version = storage.version
    if base._base is not None and base._attached and (base._node is not None or not base._requires_grad):
        steps = base._steps + steps
        base = base._base
    out._base, out._steps = base, steps
    out._seen = base._history


def bind_view(base: Tensor, steps: tuple[Any, ...], array: Any) -> Tensor:
    """`base` after the view operations `steps`, ((primitive, params), ...), as eager code that has the array.

    Reading a part by NumPy's own indexing is several times as fast as evaluating each step.
    """
    out = _new(Tensor)
    out._value = array
    _link(base, steps, out)
    if mode.grad and (base._requires_grad or base._base is not None):
        record_view(base, steps, out)
    return out


def record_view(base: Tensor, steps: tuple[Any, ...], out: Tensor) -> None:
    """Put view operations on the tape, as one node, if a gradient can flow through them."""
    node = base._node if base._base is None else current_node(base)
    if base._requires_grad:
        value, result = base._value, out._value
        edge = (base, 0) if node is None else (node, base._index)
        source, kind = (value.shape, value.dtype), (result.shape, result.dtype)
        out._node = ViewNode(steps[-1][0], steps, [edge], [source], (), [kind])
        out._requires_grad = True


def record(p: Primitive, inputs: tuple[Any, ...], params: dict[str, Any], outs: tuple[Tensor, ...]) -> None:
    """Put the operation on the tape if a gradient can flow through it."""
    rules = p.rules
    if rules is None and p.rule_all is None:
        return
    edges: list[Any] = []
    wanted, bit, i = 0, 1, 0  # wanted: a bit for every input that wants a gradient
    for t in inputs:
        edge = None
        if isinstance(t, Tensor) and (rules is None or rules[i] is not None):
            node = t._node if t._base is None else current_node(t)
            if t._requires_grad:
                edge = (t, 0) if node is None else (node, t._index)
                wanted |= bit
        edges.append(edge)
        bit <<= 1
        i += 1  # noqa: SIM113  (enumerate costs as much as the rest of the line)
    if not wanted:
        return
    types = []
    marked = False
    for out in outs:
        value = out._value
        dtype = value.dtype
        if dtype.kind in _DIFFERENTIABLE_KINDS:
            out._requires_grad = marked = True
        types.append((value.shape, dtype))
    if not marked:
        return
    if rules is None:
        needs_x, needs_y = _saved_inputs(p.saves_all, inputs), "y" in p.saves_all
    else:
        needs_x, needs_y = p.needs.get(wanted) or _saved_by_rules(p, wanted)
    saved: list[Any] = []
    versions = []
    i = 0
    for t in inputs:
        if not isinstance(t, Tensor):
            saved.append(t)
        elif needs_x[i]:
            saved.append(t)
            storage = t._storage
            versions.append((t, storage.version if storage is not None else 0))
        else:
            value = t._value
            saved.append((value.shape, value.dtype))
        i += 1  # noqa: SIM113
    outputs = [(out._value, (s := storage_of(out)), s.version) for out in outs] if needs_y else None
    node = Node(p, params, edges, saved, versions, types, outputs)
    if len(outs) == 1:
        out._node = node
        return
    for i, out in enumerate(outs):
        if out._requires_grad:
            out._node = node
            out._index = i


# NumPy's letters (V is bfloat16's), and our names while tracing
_DIFFERENTIABLE_KINDS = frozenset(("f", "c", "V", "float", "complex"))


def _saved_by_rules(p: Primitive, wanted: int) -> tuple[tuple[bool, ...], bool]:
    """Which inputs, and whether the outputs, the rules of the wanted gradients need; kept with the primitive."""
    rules = [rule for i, rule in enumerate(p.rules or ()) if rule is not None and wanted >> i & 1]
    needs_x = tuple([any(needed) for needed in zip(*(rule.needs_x for rule in rules), strict=True)])
    p.needs[wanted] = out = needs_x, any(rule.needs_y for rule in rules)
    return out


def _saved_inputs(saves: str, inputs: tuple[Any, ...]) -> tuple[bool, ...]:
    if "i" in saves:
        return tuple([isinstance(t, Tensor) and not t.dtype.is_differentiable for t in inputs])
    return ("x" in saves,) * len(inputs)


def current_node(t: Tensor) -> Node | None:
    """The node that made `t`; a view's is made anew when its base's history has changed."""
    base = t._base
    if base is not None and t._attached:
        current_node(base)  # the base may be a view of an alias
        if t._seen != base._history:
            now = _replay(t)
            t._node, t._index, t._requires_grad = now._node, now._index, now._requires_grad
            t._seen = base._history
    return t._node


def _replay(t: Tensor) -> Tensor:
    """A handle like `t` whose views are recorded from the base's history as it is now.

    That history belongs to `t` whether or not the thread records at this moment.
    """
    assert t._base is not None
    now = t._base
    previous, mode.grad = mode.grad, True
    try:
        for p, params in t._steps:
            now = bind(p, (now,), params)
    finally:
        mode.grad = previous
    return now


def write(t: Tensor, new: Tensor) -> Tensor:
    """Put `new`'s value into `t`'s memory and its history onto `t` and all that share it.

    `new` has `t`'s shape and dtype. Every in-place operation of the library ends here.
    """
    tracked = t._requires_grad or new._requires_grad or t._base is not None or new._base is not None
    recording = tracked and mode.grad and (_get_requires_grad(t) or _get_requires_grad(new))
    if recording:
        require_writable(t)
    if t._base is not None:
        _check_overlap(t, new)
    if mode.tracer is None:
        if new._value is not t._value:
            try:
                t._value[...] = new._value
            except ValueError as e:
                raise _not_writable(t) from e
            except TypeError:  # dtypes agree, so one of the two is no array
                raise left_over("copy_") from None
    else:
        mode.tracer.write(t, new)
    storage = storage_of(t)
    storage.version += 1
    t._value_version = storage.version
    if recording:
        rebase_history(t, new)
    return t


def overwrite(t: Tensor, array: np.ndarray[Any, Any]) -> None:
    """Put an array into `t`'s memory where nobody records or traces, and nothing is a view."""
    t._value[...] = array
    overwritten(t)


def overwritten(t: Tensor) -> None:
    """Note that `t`'s memory was written where nobody records or traces, and nothing is a view."""
    storage = storage_of(t)
    storage.version += 1
    t._value_version = storage.version


def _check_overlap(t: Tensor, new: Tensor) -> None:
    """Refuse, before anything is written, a view in which several elements share one place."""
    link: Tensor | None = t
    while link is not None:
        for p, params in link._steps:
            if p.name == "as_strided":
                p.write(link, new, **params)
        link = link._base


def require_writable(t: Tensor) -> None:
    """Raise AutogradError if a recorded write to `t` would change a leaf that requires grad."""
    link: Tensor | None = t
    while link is not None:
        if link.requires_grad and current_node(link) is None:
            what = "a leaf tensor" if link is t else "a view of a leaf tensor"
            raise AutogradError(
                f"{what} of shape {link.shape} that requires grad is changed in place",
                hint="change it inside `with twofold.no_grad():`, or write `x = x + ...` instead of `x += ...`",
            )
        link = link._base if link._attached else None


def _not_writable(t: Tensor) -> TwofoldError:
    return AutogradError(
        f"a tensor of shape {t.shape} with strides {t._value.strides} can't be written: its memory is "
        "read-only, or several elements share one place (expand)",
        hint="make a copy first: x = x.clone()",
    )


def rebase_history(t: Tensor, new: Tensor) -> None:
    """After a recorded write: `t`'s history is `new`'s; a view's base (and siblings) follow."""
    if new.requires_grad and new._node is None:  # a leaf was copied in: the copy is an operation
        from_leaf = wrap(new._value)
        record(PRIMITIVES["copy"], (new,), {}, (from_leaf,))
        new = from_leaf
    if t._base is None or not t._attached:
        if not new.requires_grad:
            new = _overwritten(t, new)
        Settings.changes += t._watched
        t._node, t._index, t._requires_grad = current_node(new), new._index, new._requires_grad
        t._history += 1
        return
    # Rebuild the base from the overwritten view, step by step outwards. Each level's value is
    # the memory as it is after the write, so the operations are recorded without being run.
    base = t._base
    levels = [base]
    for p, params in t._steps[:-1]:
        with no_record():
            levels.append(bind(p, (levels[-1],), params))
    # the levels need the *old* history of the base
    for i, (p, params) in enumerate(t._steps[:-1]):
        record(p, (levels[i],), params, (levels[i + 1],))
    for level, (p, params) in zip(reversed(levels), reversed(t._steps), strict=True):
        q, inputs, q_params = p.write(level, new, **params)
        out = wrap(level._value)
        record(q, inputs, q_params, (out,))
        new = out
    if not new._requires_grad:
        new = _overwritten(base, new)
    Settings.changes += base._watched
    base._node, base._index, base._requires_grad = new._node, new._index, new._requires_grad
    base._history += 1


def _overwritten(t: Tensor, new: Tensor) -> Tensor:
    """`t` with all elements replaced by constants: it still requires grad, and hands on zeros."""
    out = wrap(t._value)
    n = len(t.shape)
    params = {"start": (0,) * n, "stop": t.shape, "step": (1,) * n}
    record(PRIMITIVES["update_slice"], (t, new), params, (out,))
    return out


def keep_overwritten(t: Tensor, new: Tensor, since: int) -> None:
    """Before `new` is written to `t`: copy what the operations that made it have saved of `t`.

    Without this, `x.sin_()` would destroy the x that its own derivative needs. Only nodes younger
    than number `since` are the operation's own; what older ones saved is the user's mistake.
    """
    node = new._node
    if node is None or node.number <= since:
        return
    seen, stack, copies = {node}, [node], {}
    while stack:
        node = stack.pop()
        for place, (x, _) in enumerate(getattr(node, "versions", ())):
            if x is t or (x._storage is not None and x._storage is t._storage):
                if id(x) not in copies:
                    copies[id(x)] = _snapshot(x)
                node.versions[place] = (copies[id(x)], 0)
                node.inputs = [copies[id(x)] if kept is x else kept for kept in node.inputs]
        for target in node.next_nodes():
            if not isinstance(target, Tensor) and target.number > since and target not in seen:
                seen.add(target)
                stack.append(target)


def _snapshot(x: Tensor) -> Tensor:
    """A copy of `x` that stands at the same place in the history."""
    node = current_node(x)
    with no_record():
        out = bind(PRIMITIVES["copy"], (x,), {})
    out._requires_grad, out._node, out._index = x._requires_grad, node, x._index
    return out


class no_record:
    """Inside: operations are evaluated only. Lighter than the public no_grad."""

    __slots__ = ("previous",)

    def __enter__(self) -> None:
        self.previous = mode.grad
        mode.grad = False

    def __exit__(self, *_: Any) -> None:
        mode.grad = self.previous


def _is_leaf(t: Tensor) -> bool:
    return current_node(t) is None


def _get_requires_grad(t: Tensor) -> bool:
    if t._base is not None:
        current_node(t)  # a write to the base may have changed it
    return t._requires_grad


def _set_requires_grad(t: Tensor, value: bool) -> None:
    if value and not t.dtype.is_differentiable:
        raise DTypeError(
            f"only floating and complex tensors can require a gradient, got {t.dtype.name}",
            op="requires_grad",
            hint="convert it first: x.float()",
        )
    if not value and current_node(t) is not None:
        raise AutogradError(
            "a tensor that operations made can't stop requiring grad", op="requires_grad", hint="use x.detach()"
        )
    if mode.tracer is not None:
        mode.tracer.touch_flag(t)
    Settings.changes += 1
    t._requires_grad = bool(value)


Tensor.requires_grad = property(  # type: ignore[assignment]
    _get_requires_grad, _set_requires_grad, doc="Whether operations on it are recorded for backward."
)
Tensor.is_leaf = property(_is_leaf, doc="True when no recorded operation made it; leaves get `.grad`.")  # type: ignore[method-assign, assignment]
Tensor.grad_fn = property(current_node, doc="The tape node that made it, or None.")  # type: ignore[method-assign, assignment]
install_dispatch(bind)
