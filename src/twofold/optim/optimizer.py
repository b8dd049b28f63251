"""Optimizer: what all optimizers share.

Note [One update]
An optimizer says how to begin (`_init_state`) and how to change one parameter (`_update`), in tensor
formulas. There is one implementation: eagerly it runs as it stands, traced it becomes a part of the
step's program. For that, everything that changes from step to step is a tensor: the numbers of the
group (see Note [Tensor twins] in _group.py) and the counters in the state. New state is made at once,
on arrays, even while tracing, so that the program finds it as an input.

Parameters of 16 bits are updated in float32 and rounded once, when the result is stored.
"""

from __future__ import annotations

import functools
import itertools
import warnings
from collections.abc import Callable, Iterable, Mapping
from contextlib import nullcontext
from typing import Any

from ..autodiff.bind import no_record
from ..autodiff.composite import concrete
from ..autodiff.handle import Settings, Tensor, alias, mode
from ..ir.dtypes import HALVES, DType, float32, float64
from ..ir.errors import DTypeError, TwofoldError, TwofoldWarning, user_location
from ..primitives.movement import full
from ..tensors._registry import assign
from ._group import ParamGroup
from ._state import State
from ._together import Item, batch_of, kernel_of, pieces, update_by, update_together

Closure = Callable[[], Any]
Params = Iterable[Any]

# PyTorch's choices between its implementations; here there is one, see Note [One update]
_SWITCHES = frozenset(("foreach", "fused", "capturable", "differentiable"))
_STALE_STEPS = 2  # steps on never-zeroed gradients before the warning
_numbers = itertools.count()


class Optimizer:
    """Base of all optimizers.

    Args:
        params: parameters, `(name, parameter)` pairs, or dicts that are parameter groups, each with
            its `params` and the options in which it differs.
        defaults: options for groups that do not set them.

    Attributes:
        param_groups: dicts of options; change `group["lr"]` at any time.
        state: for each parameter the dict of its buffers.

    Raises: ValueError if there are no parameters or one is given twice; TypeError for what is no
        tensor; TwofoldError for a tensor that was computed from others.
    """

    def __init__(self, params: Params, defaults: dict[str, Any], **switches: Any):
        _check_switches(type(self).__name__, switches)
        if isinstance(params, Tensor):
            raise TypeError(
                "params must be an iterable of tensors or dicts, got one tensor; pass [tensor] or "
                "model.parameters()"
            )
        self.defaults = dict(defaults)
        self.state = State()
        self.param_groups: list[ParamGroup] = []
        self._hooks: dict[str, dict[int, Callable[..., Any]]] = {}
        self._step_count = 0
        self._zeroed = False
        self._warned = False
        groups = list(params)
        if not groups:
            raise ValueError(
                "the optimizer got an empty list of parameters: the model has no layers with parameters, or keeps "
                "them in a plain list or dict, where they are not found (use nn.ModuleList or nn.ModuleDict)"
            )
        if not isinstance(groups[0], dict):
            groups = [{"params": groups}]
        for group in groups:
            self.add_param_group(group)

    def __init_subclass__(cls, **kwargs: Any) -> None:
        super().__init_subclass__(**kwargs)
        if "step" in cls.__dict__:
            cls.step = _stepping(cls.step)  # type: ignore[method-assign]

    # --- groups

    def add_param_group(self, param_group: Mapping[str, Any]) -> None:
        """Add parameters with their options, e.g. layers that are no longer frozen."""
        if not isinstance(param_group, Mapping):
            raise TypeError(f"a parameter group must be a dict, got {type(param_group).__name__}")
        options = dict(param_group)
        params = options["params"]
        if isinstance(params, (set, frozenset)):
            raise TypeError("parameters must come in a fixed order; pass a list instead of a set")
        params = [params] if isinstance(params, Tensor) else list(params)
        if params and isinstance(params[0], tuple):
            options["param_names"] = [name for name, _ in params]
            params = [p for _, p in params]
        taken = {id(p) for group in self.param_groups for p in group["params"]}
        for p in params:
            _check_param(p)
            if id(p) in taken:
                raise ValueError(f"a parameter of shape {tuple(p.shape)} is given to the optimizer twice")
            taken.add(id(p))
        for name, default in self.defaults.items():
            if default is _REQUIRED and name not in options:
                raise ValueError(f"a parameter group has no value for {name!r}")
            options.setdefault(name, default)
        options["params"] = params
        self._check_options(options)
        self.param_groups.append(ParamGroup(options, exact=type(self).step is not Optimizer.step))
        Settings.changes += 1

    def _check_options(self, options: dict[str, Any]) -> None:
        """Raise ValueError for options out of their range."""

    # --- one step

    def zero_grad(self, set_to_none: bool = True) -> None:
        """Forget the gradients: set them to None, or to zeros in place."""
        self._zeroed = True
        for group in self.param_groups:
            for p in group["params"]:
                if set_to_none:
                    p.grad = None
                elif p.grad is not None:
                    _zero(p.grad)

    def step(self, closure: Closure | None = None) -> Any:
        """Change the parameters by their gradients; parameters without one stay as they are.

        Args:
            closure: computes the loss anew with its gradients; its result is returned.
        """
        loss = _call(closure)
        kind = type(self)
        together = (
            mode.tracer is None
            and getattr(kind._update, "elementwise", False)
            and kind._update_one is Optimizer._update_one
        )
        for group in self.param_groups:
            batches: dict[Any, list[Item]] = {}
            for p in group["params"]:
                grad = p.grad
                if grad is None:
                    continue
                key = batch_of(p, grad, self._slots(p, group)) if together else None
                if key is None:
                    self._update_one(p, grad, group)
                else:
                    batches.setdefault(key, []).append((p, grad, self.state[p]))
            for (kind, _), batch in batches.items():
                self._update_batch(kind, batch, group)
        return loss

    def _slots(self, p: Tensor, group: ParamGroup) -> dict[str, Any]:
        """The state of a parameter, which begins here."""
        state: dict[str, Any] = self.state[p]
        if not state:
            state.update(self._init_state(p, group))
        return state

    def _update_batch(self, kind: Any, batch: list[Item], group: ParamGroup) -> None:
        """See Note [Batches] in _together.py."""
        dtype, sign = batch[0][0].dtype, group.get("maximize")

        def update(p: Tensor, grad: Tensor, state: dict[str, Any]) -> None:
            self._update(p, -grad if sign else grad, state, group, dtype)

        kernel = group.kernel(kind, lambda: kernel_of(batch[0], update))
        if kernel is not None:
            update_by(kernel, batch)
            return
        for items in pieces(batch):
            if len(items) == 1:
                self._update_one(items[0][0], items[0][1], group)
            else:
                update_together(items, update)

    def _update_one(self, p: Tensor, grad: Tensor, group: ParamGroup) -> None:
        state = self._slots(p, group)
        if mode.tracer is not None:
            names = mode.tracer.names
            names.update((id(v), f"{names[id(p)]}.{k}") for k, v in state.items() if id(p) in names)
        dtype = compute_dtype(p)
        if p.dtype.is_complex:
            raise DTypeError(
                f"{type(self).__name__} takes real parameters, got {p.dtype.name}",
                op="step",
                hint="keep the parameter as its real view: twofold.view_as_real(p)",
            )
        if grad.dtype is not dtype:
            grad = grad.to(dtype)
        if group.get("maximize"):
            grad = -grad
        self._update(p, grad, state, group, dtype)

    def _init_state(self, p: Tensor, group: ParamGroup) -> dict[str, Any]:
        """The buffers of a new parameter."""
        return {}

    def _update(self, p: Tensor, grad: Tensor, state: dict[str, Any], group: ParamGroup, dtype: DType) -> None:
        """Change `p` and its state in place, computing in `dtype`, which is `grad`'s."""
        raise NotImplementedError(f"{type(self).__name__} must define step or _update")

    # --- hooks

    def register_step_pre_hook(self, hook: Callable[..., Any]) -> RemovableHook:
        """Call `hook(optimizer, args, kwargs)` before each step; it may return new args and kwargs."""
        return self._register("step_pre", hook)

    def register_step_post_hook(self, hook: Callable[..., Any]) -> RemovableHook:
        """Call `hook(optimizer, args, kwargs)` after each step."""
        return self._register("step_post", hook)

    def register_state_dict_pre_hook(self, hook: Callable[..., Any]) -> RemovableHook:
        """Call `hook(optimizer)` before `state_dict()`."""
        return self._register("state_dict_pre", hook)

    def register_state_dict_post_hook(self, hook: Callable[..., Any]) -> RemovableHook:
        """Call `hook(optimizer, state_dict)` after `state_dict()`; it may return another."""
        return self._register("state_dict_post", hook)

    def register_load_state_dict_pre_hook(self, hook: Callable[..., Any]) -> RemovableHook:
        """Call `hook(optimizer, state_dict)` before loading; it may return another."""
        return self._register("load_pre", hook)

    def register_load_state_dict_post_hook(self, hook: Callable[..., Any]) -> RemovableHook:
        """Call `hook(optimizer)` after loading."""
        return self._register("load_post", hook)

    def _register(self, kind: str, hook: Callable[..., Any]) -> RemovableHook:
        hooks = self._hooks.setdefault(kind, {})
        handle = RemovableHook(hooks, next(_numbers))
        hooks[handle.number] = hook
        return handle

    def _run(self, kind: str) -> list[Callable[..., Any]]:
        return list(self._hooks.get(kind, {}).values())

    # --- saving

    def state_dict(self) -> dict[str, Any]:
        """State and options in PyTorch's layout: parameters are numbered across the groups."""
        for hook in self._run("state_dict_pre"):
            hook(self)
        number: dict[int, int] = {}
        groups = []
        for group in self.param_groups:
            for p in group["params"]:
                number[id(p)] = len(number)
            groups.append({**group, "params": [number[id(p)] for p in group["params"]]})
        state = {number[id(p)]: dict(s) for p, s in self.state.items() if s and id(p) in number}
        out: dict[str, Any] = {"state": state, "param_groups": groups}
        for hook in self._run("state_dict_post"):
            out = hook(self, out) or out
        return out

    def load_state_dict(self, state_dict: Mapping[str, Any]) -> None:
        """Take over the state and options of `state_dict()`, also of PyTorch's optimizer.

        Buffers that exist are overwritten in place, others are copied.
        Raises: ValueError if the groups do not fit.
        """
        for hook in self._run("load_pre"):
            state_dict = hook(self, state_dict) or state_dict
        saved = state_dict["param_groups"]
        ours, theirs = [len(g["params"]) for g in self.param_groups], [len(g["params"]) for g in saved]
        if ours != theirs:
            raise ValueError(
                f"the state has groups of {theirs} parameters, the optimizer of {ours}; "
                "make it with the same groups before loading"
            )
        params = [p for g in self.param_groups for p in g["params"]]
        numbers = [n for g in saved for n in g["params"]]
        by_number = {int(k): v for k, v in state_dict["state"].items()}
        with concrete():
            for p, number in zip(params, numbers, strict=True):
                self._load_state(p, by_number.get(int(number)))
        for group, theirs_ in zip(self.param_groups, saved, strict=True):
            group.update({k: _restored(v, group.get(k)) for k, v in theirs_.items() if k != "params"})
        for hook in self._run("load_post"):
            hook(self)

    def _load_state(self, p: Tensor, saved: Mapping[str, Any] | None) -> None:
        if not saved:
            self.state.pop(p, None)
            return
        state = self.state[p]
        for name in state.keys() - saved.keys():
            del state[name]
        for name, value in saved.items():
            have = state.get(name)
            new = _loaded(name, value, p)
            if isinstance(have, Tensor) and isinstance(new, Tensor) and have.shape == new.shape:
                assign(have, new)
            else:
                state[name] = new

    # --- what a traced step depends on

    def _settings(self) -> dict[str, Any]:
        """All that a program made from a step takes for granted; changed numbers are no change,
        since they are tensors there, unless a class reads them in a `step` of its own."""
        settings: dict[str, Any] = {"times its state was removed or replaced": self.state.replacements()}
        for i, group in enumerate(self.param_groups):
            settings[f"param_groups[{i}]['params']"] = tuple(id(p) for p in group["params"])
            for name in self.defaults:
                settings[f"param_groups[{i}][{name!r}]"] = group.structure(name)
        return settings

    def _remember(self) -> Callable[[], None]:
        """A function that puts the state back, for a trace that fails halfway."""
        return self.state.remember()

    # --- the loop that never zeroes

    def _before_step(self) -> None:
        if self._warned or self._zeroed or mode.tracer is not None:
            return
        p = self._probe()
        if p is not None and (getattr(p.grad, "_stale", 0) or 0) >= _STALE_STEPS:
            self._warned = True
            where = user_location(3)
            warnings.warn(
                f"the gradients have not been zeroed since the first of {self._step_count + 1} steps: every "
                "backward() adds to the sum of all earlier ones"
                + (f"\n  at: {where}" if where else "")
                + "\n  hint: call optimizer.zero_grad() before loss.backward()",
                TwofoldWarning,
                stacklevel=3,
            )

    def _after_step(self) -> None:
        self._step_count += 1
        if self._warned or self._zeroed or mode.tracer is not None:
            return
        p = self._probe()
        if p is not None and p.grad is not None:
            marks = p.grad.__dict__
            marks["_spent"] = ((marks.get("_stale") or 0) + 1, p.grad._version)

    def _probe(self) -> Tensor | None:
        """One parameter with a gradient; all are zeroed together or not at all."""
        for group in self.param_groups:
            for p in group["params"]:
                if p.grad is not None:
                    return p
        return None

    def __repr__(self) -> str:
        lines = [type(self).__name__ + " ("]
        for i, group in enumerate(self.param_groups):
            lines.append(f"Parameter Group {i}")
            lines += [f"    {name}: {group[name]}" for name in sorted(group) if name != "params"]
        return "\n".join([*lines, ")"])


class _Required:
    def __repr__(self) -> str:
        return "<required>"


_REQUIRED = _Required()
required = _REQUIRED


class RemovableHook:
    """What registering a hook returns; `remove()` takes the hook away."""

    def __init__(self, hooks: dict[int, Callable[..., Any]], number: int):
        self._hooks = hooks
        self.number = number

    def remove(self) -> None:
        self._hooks.pop(self.number, None)

    def __enter__(self) -> RemovableHook:
        return self

    def __exit__(self, *_: Any) -> None:
        self.remove()


def _stepping(step: Callable[..., Any]) -> Callable[..., Any]:
    """`step` between its hooks and the checks; nothing in it is recorded, save what a closure does."""

    @functools.wraps(step)
    def call(self: Optimizer, *args: Any, **kwargs: Any) -> Any:
        for hook in self._run("step_pre"):
            result = hook(self, args, kwargs)
            if result is not None:
                args, kwargs = result
        scope = nullcontext()
        if mode.tracer is not None:
            mode.tracer.touch(self)
            scope = mode.tracer.scope(type(self).__name__)
        self._before_step()
        with no_record(), scope:
            out = step(self, *args, **kwargs)
        self._after_step()
        for hook in self._run("step_post"):
            hook(self, args, kwargs)
        return out

    return call


Optimizer.step = _stepping(Optimizer.step)  # type: ignore[method-assign]


def _call(closure: Closure | None) -> Any:
    if closure is None:
        return None
    previous, mode.grad = mode.grad, True
    try:
        return closure()
    finally:
        mode.grad = previous


def _check_switches(name: str, switches: dict[str, Any]) -> None:
    for switch in switches:
        if switch not in _SWITCHES:
            raise TypeError(f"{name} got an unexpected keyword argument {switch!r}")
    if switches.get("differentiable"):
        raise TwofoldError(
            "differentiable=True is not supported: the step changes parameters in place",
            op=name,
            hint="write the update out of place, e.g. p = p - lr * twofold.autograd.grad(loss, p)[0]",
        )


def _check_param(p: Any) -> None:
    if not isinstance(p, Tensor):
        raise TypeError(f"an optimizer takes tensors, got {type(p).__name__}")
    if not p.is_leaf:
        raise TwofoldError(
            f"a parameter of shape {tuple(p.shape)} was computed from other tensors, so it gets no gradient",
            op="Optimizer",
            hint="pass the tensors it was computed from, or p.detach().requires_grad_()",
        )


def compute_dtype(p: Tensor) -> DType:
    """The dtype of the arithmetic of an update: float32 for parameters of 16 bits."""
    return float32 if p.dtype in HALVES else p.dtype


def _zero(grad: Tensor) -> None:
    """Zeros in place, without the history that `create_graph` gave."""
    with no_record():
        assign(alias(grad) if grad.requires_grad else grad, full(shape=(), value=0, dtype=grad.dtype))
    grad._spent = grad._stale = None  # type: ignore[attr-defined]


def zeros_like(p: Tensor, value: float = 0.0) -> Tensor:
    """A new buffer of the parameter's shape and dtype."""
    with concrete():
        return full(shape=tuple(p.shape), value=value, dtype=p.dtype)


def counter(p: Tensor, value: float = 0.0) -> Tensor:
    """A 0-d tensor that counts steps: float32, or float64 where the parameter is."""
    with concrete():
        return full(shape=(), value=value, dtype=float64 if p.dtype is float64 else float32)


def read(buffer: Tensor, dtype: DType) -> Tensor:
    """A buffer in the dtype of the arithmetic."""
    return buffer if buffer.dtype is dtype else buffer.to(dtype)


def store(buffer: Tensor, value: Tensor) -> Tensor:
    """Overwrite a buffer, rounding to its dtype; gives the value unrounded."""
    assign(buffer, value)
    return value


def _loaded(name: str, value: Any, p: Tensor) -> Any:
    """A loaded entry of the state as it should be for `p`: counters and buffers in their dtypes."""
    if name in ("step", "mu_product"):
        number = value.item() if hasattr(value, "item") else value
        return counter(p, float(number))
    if isinstance(value, Tensor):
        return value.detach().to(p.dtype).clone() if p.dtype.is_floating_point else value.detach().clone()
    return value


def _restored(value: Any, present: Any) -> Any:
    """An option as it was: files without tuples give lists."""
    return tuple(value) if isinstance(present, tuple) and isinstance(value, list) else value


def check_range(options: Mapping[str, Any], **limits: tuple[float, float]) -> None:
    """Raise ValueError for an option that is not in low <= value < high."""
    for name, (low, high) in limits.items():
        values = options[name] if isinstance(options[name], (tuple, list)) else (options[name],)
        for value in values:
            number = value.item() if isinstance(value, Tensor) else value
            if not low <= number < high:
                bound = f"at least {low:g}" if high == float("inf") else f"in [{low:g}, {high:g})"
                raise ValueError(f"{name} must be {bound}, got {options[name]}")
