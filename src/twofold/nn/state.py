"""state_dict and load_state_dict: walking the module tree, and the errors."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, NamedTuple

from ..autodiff.bind import no_record
from ..autodiff.handle import Tensor
from ..ir.errors import TwofoldError


class StateDictError(TwofoldError, RuntimeError):
    """A state dict that does not fit the module."""


class IncompatibleKeys(NamedTuple):
    """What `load_state_dict` returns."""

    missing_keys: list[str]
    unexpected_keys: list[str]

    def __repr__(self) -> str:
        if not self.missing_keys and not self.unexpected_keys:
            return "<All keys matched successfully>"
        return f"IncompatibleKeys(missing_keys={self.missing_keys}, unexpected_keys={self.unexpected_keys})"


def _hooks(module: Any, kind: str) -> list[Any]:
    return list((module._hooks or {}).get(kind, {}).values())


def save_state(module: Any, destination: dict[str, Any], prefix: str, keep_vars: bool) -> dict[str, Any]:
    """Put the tensors of `module` and all below it into `destination`."""
    for hook in _hooks(module, "state_dict_pre"):
        hook(module, prefix, keep_vars)
    module._save_to_state_dict(destination, prefix, keep_vars)
    for name, child in module._modules.items():
        if child is not None:
            child.state_dict(destination=destination, prefix=f"{prefix}{name}.", keep_vars=keep_vars)
    for hook in _hooks(module, "state_dict_post"):
        hook(module, destination, prefix, {"version": module._version})
    return destination


def load_state(module: Any, state: Mapping[str, Any], strict: bool, assign: bool) -> IncompatibleKeys:
    """Load `state` into the tree of modules, or raise everything that is wrong with it at once."""
    if not isinstance(state, Mapping):
        raise TypeError(f"Expected state_dict to be dict-like, got {type(state).__name__}.")
    state = dict(state)
    missing: list[str] = []
    used: set[str] = set()
    writes: list[tuple[Any, str, Any]] = []
    errors: list[str] = []
    _collect(module, state, "", strict, missing, used, writes, errors)
    unexpected = [key for key in state if key not in used]
    if strict:
        errors = _key_errors(missing, unexpected) + errors
    if errors:
        raise StateDictError(
            f"Error(s) in loading state_dict for {type(module).__name__}:\n\t" + "\n\t".join(errors),
            op="load_state_dict",
            hint=_hint(missing, unexpected),
        )
    with no_record():
        for owner, name, value in writes:
            _store(owner, name, value, assign)
    result = IncompatibleKeys(missing, unexpected)
    for owner in module.modules():
        for hook in _hooks(owner, "load_post"):
            hook(owner, result)
    return result


def _collect(
    module: Any,
    state: dict[str, Any],
    prefix: str,
    strict: bool,
    missing: list[str],
    used: set[str],
    writes: list[tuple[Any, str, Any]],
    errors: list[str],
) -> None:
    """Match keys with the module's tensors. Nothing is written yet, so that an error changes nothing."""
    for hook in _hooks(module, "load_pre"):
        hook(module, state, prefix, {"version": module._version}, strict, missing, [], errors)
    buffers = {n: b for n, b in module._buffers.items() if n not in module._non_persistent}
    for name, own in {**module._parameters, **buffers}.items():
        key = prefix + name
        if own is None:
            continue
        if key not in state:
            missing.append(key)
            continue
        used.add(key)
        value = state[key]
        if not isinstance(value, Tensor):
            errors.append(f'"{key}" should be a tensor, got {type(value).__name__}.')
        elif not (_fits(value.shape, own.shape) or hasattr(own, "materialize")):
            errors.append(
                f"size mismatch for {key}: copying a param with shape {tuple(value.shape)} from checkpoint, "
                f"the shape in current model is {tuple(own.shape)}."
            )
        else:
            writes.append((module, name, value))
    _collect_extra(module, state, prefix, missing, used, writes)
    for name, child in module._modules.items():
        if child is not None:
            _collect(child, state, f"{prefix}{name}.", strict, missing, used, writes, errors)


def _fits(given: tuple[int, ...], own: tuple[int, ...]) -> bool:
    return given == own or (given == (1,) and own == ())


def _collect_extra(
    module: Any, state: dict[str, Any], prefix: str, missing: list[str], used: set[str], writes: list[Any]
) -> None:
    key = prefix + "_extra_state"
    if "set_extra_state" in _overridden(type(module)):
        if key in state:
            used.add(key)
            writes.append((module, "_extra_state", state[key]))
        else:
            missing.append(key)


def _overridden(cls: type) -> set[str]:
    """Names defined between `cls` and Module, whose own MRO ends with it and object."""
    return {name for c in cls.__mro__[:-2] for name in vars(c)}


def _store(owner: Any, name: str, value: Any, assign: bool) -> None:
    if name == "_extra_state":
        owner.set_extra_state(value)
        return
    own = owner._parameters.get(name)
    if not assign:
        target = own if own is not None else owner._buffers[name]
        if hasattr(target, "materialize"):  # a lazy layer's
            target.materialize(value.shape)
        target.copy_(value.reshape(target.shape))
    elif own is not None:
        owner._parameters[name] = value if isinstance(value, type(own)) else type(own)(value, own.requires_grad)
    else:
        owner._buffers[name] = value


def _key_errors(missing: list[str], unexpected: list[str]) -> list[str]:
    out = []
    for what, keys in (("Missing", missing), ("Unexpected", unexpected)):
        if keys:
            out.append(f"{what} key(s) in state_dict: " + ", ".join(f'"{k}"' for k in keys) + ". ")
    return out


def _hint(missing: list[str], unexpected: list[str]) -> str:
    """What probably happened, from how the keys differ."""
    if missing and unexpected:
        for prefix in sorted({key.split(".")[0] + "." for key in unexpected}):
            if set(missing) <= {key.removeprefix(prefix) for key in unexpected}:
                return f"the keys of the state dict begin with {prefix!r}: remove it, or load into that submodule"
        for prefix in sorted({key.split(".")[0] + "." for key in missing}):
            if {key.removeprefix(prefix) for key in missing} <= set(unexpected):
                return f"the keys of the module begin with {prefix!r}: add it, or load into that submodule"
    if missing or unexpected:
        return "pass strict=False to load the keys that match, or build the model as it was when it was saved"
    return "build the model with the sizes it had when the state was saved"
