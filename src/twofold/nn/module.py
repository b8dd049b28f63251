"""Module: the base of layers and models."""

from __future__ import annotations

import importlib
import itertools
from collections import OrderedDict
from collections.abc import Callable, Iterator, Mapping
from typing import Any, TypeVar

from ..autodiff.bind import no_record
from ..autodiff.handle import Settings, Tensor, mode
from ..ir.dtypes import DType, as_dtype, bfloat16, float16, float32, float64
from ..ir.errors import DTypeError, TraceError, TwofoldError
from ..tensors.device import Device, check_device
from .hooks import BackwardHooks, RemovableHandle, add_hook
from .parameter import Buffer, Parameter, take_data
from .state import load_state, save_state

Self = TypeVar("Self", bound="Module")

# Hooks for every module, see register_module_forward_hook.
_global_pre_hooks: OrderedDict[int, Any] = OrderedDict()
_global_hooks: OrderedDict[int, Any] = OrderedDict()


# Attributes of these classes are settings: a compiled program holds for their values.
_PLAIN = (bool, int, float, str, complex, tuple, type(None))


class Module:
    """A layer or a model: parameters, buffers, submodules and `forward`.

    Tensors of class `Parameter` and other modules become part of the module by being assigned to
    an attribute. Calling the module runs `forward` with its hooks. An error inside gets the path of
    the layer (`features.0`) and its repr added to the message.

    Attributes:
        training: True in training mode; see `train()` and `eval()`.

    >>> import twofold as tw
    >>> class Scale(tw.nn.Module):
    ...     def __init__(self):
    ...         super().__init__()
    ...         self.factor = tw.nn.Parameter(tw.tensor([2.0]))
    ...     def forward(self, x):
    ...         return x * self.factor
    >>> Scale()(tw.tensor([1.0, 3.0])).tolist()
    [2.0, 6.0]
    """

    training: bool
    _version: int = 1
    _compiled: Callable[..., Any] | None = None  # see compile()
    _hooks: dict[str, OrderedDict[int, Any]] | None = None  # kind -> hooks; made with the first hook
    _parameters: dict[str, Parameter | None]
    _buffers: dict[str, Tensor | None]
    _modules: dict[str, Module | None]
    _non_persistent: set[str]

    def __init__(self) -> None:
        # Around __setattr__: these are what it looks at.
        self.__dict__.update(
            training=True, _parameters={}, _buffers={}, _modules={}, _non_persistent=set()
        )  # fmt: skip

    def forward(self, *args: Any, **kwargs: Any) -> Any:
        """What the module computes; every subclass defines it."""
        raise NotImplementedError(f'Module [{type(self).__name__}] is missing the required "forward" function')

    # Calling ------------------------------------------------------------------------------------

    def __call__(self, *args: Any, **kwargs: Any) -> Any:
        if mode.tracer is None:
            if self._compiled is not None:
                return self._compiled(*args, **kwargs)
            if self._hooks is None and not _global_hooks and not _global_pre_hooks:  # nearly always
                try:
                    return self.forward(*args, **kwargs) if kwargs else self.forward(*args)
                except TwofoldError as error:
                    _add_layer(error, self)
                    raise
        return self._call_now(*args, **kwargs)

    def _call_now(self, *args: Any, **kwargs: Any) -> Any:
        try:
            if self._hooks is None and mode.tracer is None and not _global_hooks and not _global_pre_hooks:
                return self.forward(*args, **kwargs)
            if mode.tracer is None:
                return self._call_with_hooks(args, kwargs)
            mode.tracer.touch(self)
            with mode.tracer.layer(self, _name_within):
                return self._call_with_hooks(args, kwargs)
        except TwofoldError as error:
            _add_layer(error, self)
            raise

    def _call_with_hooks(self, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
        table = self._hooks or {}
        after = [*_global_hooks.values(), *table.get("forward", {}).values()]
        result, done = None, 0
        try:
            for hook, with_kwargs in [*_global_pre_hooks.values(), *table.get("forward_pre", {}).values()]:
                args, kwargs = self._run_pre_hook(hook, with_kwargs, args, kwargs)
            backward = None
            if table.get("backward") or table.get("backward_pre"):
                pre, full = (list(table.get(kind, {}).values()) for kind in ("backward_pre", "backward"))
                backward = BackwardHooks(self, pre, full)
                args = backward.through_inputs(args)
            result = self.forward(*args, **kwargs)
            for hook, with_kwargs, _ in after:
                done += 1
                new = hook(self, args, kwargs, result) if with_kwargs else hook(self, args, result)
                result = result if new is None else new
            return result if backward is None else backward.through_outputs(result)
        except Exception:
            for hook, with_kwargs, always in after[done:]:
                if always:
                    _ = hook(self, args, kwargs, result) if with_kwargs else hook(self, args, result)
            raise

    def _run_pre_hook(
        self, hook: Any, with_kwargs: bool, args: tuple[Any, ...], kwargs: dict[str, Any]
    ) -> tuple[tuple[Any, ...], dict[str, Any]]:
        if with_kwargs:
            new = hook(self, args, kwargs)
            if new is None:
                return args, kwargs
            if not (isinstance(new, tuple) and len(new) == 2):
                raise TwofoldError(
                    f"a forward pre-hook with kwargs returned {type(new).__name__}",
                    hint="return None or a tuple (args, kwargs)",
                )
            return new
        new = hook(self, args)
        if new is None:
            return args, kwargs
        return (new if isinstance(new, tuple) else (new,)), kwargs

    def compile(self, **options: Any) -> None:
        """From now on calls of the module run as compiled programs, see `twofold.compile`.

        >>> import twofold as tw
        >>> model = tw.nn.Linear(2, 1)
        >>> model.compile()
        >>> model(tw.ones(4, 2)).shape
        (4, 1)
        """
        compiler = importlib.import_module("twofold.compiler.compile")  # loads LLVM
        object.__setattr__(self, "_compiled", compiler.compile(self._call_now, **options))

    # Registering --------------------------------------------------------------------------------

    def register_parameter(self, name: str, param: Parameter | None) -> None:
        """Add a parameter under `name`; None reserves the name (e.g. for `bias=False`)."""
        self._check_name(name, "parameter", self._parameters)
        if param is not None:
            if not isinstance(param, Parameter):
                raise TypeError(
                    f"cannot assign '{type(param).__name__}' object to parameter '{name}' "
                    "(twofold.nn.Parameter or None required)"
                )
            if not param.is_leaf:
                raise ValueError(
                    f"Cannot assign non-leaf Tensor to parameter '{name}'. Model parameters must be created "
                    "explicitly. To express it as a function of another Tensor, compute the value in forward()."
                )
        self._parameters[name] = param

    def register_buffer(self, name: str, tensor: Tensor | None, persistent: bool = True) -> None:
        """Add a tensor that is state but not trained; `persistent` ones are in the `state_dict`."""
        self._check_name(name, "buffer", self._buffers)
        if tensor is not None and not isinstance(tensor, Tensor):
            raise TypeError(
                f"cannot assign '{type(tensor).__name__}' object to buffer '{name}' (Tensor or None required)"
            )
        self._buffers[name] = tensor
        (self._non_persistent.discard if persistent else self._non_persistent.add)(name)

    def register_module(self, name: str, module: Module | None) -> None:
        """Same as `add_module`."""
        self.add_module(name, module)

    def add_module(self, name: str, module: Module | None) -> None:
        """Add a child module under `name`."""
        if module is not None and not isinstance(module, Module):
            raise TypeError(f"{type(module).__name__} is not a Module subclass")
        self._check_name(name, "module", self._modules)
        self._modules[name] = module

    def _check_name(self, name: str, what: str, table: Mapping[str, Any]) -> None:
        Settings.changes += 1
        if "_parameters" not in self.__dict__:
            raise AttributeError(_no_init(self, what))
        if not isinstance(name, str):
            raise TypeError(f"{what} name should be a string, got {type(name).__name__}")
        if "." in name or name == "":
            raise KeyError(f"{what} name can't " + ("be empty" if name == "" else f'contain ".", got: {name}'))
        if name not in table and hasattr(self, name):
            raise KeyError(f"attribute '{name}' already exists")

    def __setattr__(self, name: str, value: Any) -> None:
        own = self.__dict__
        Settings.changes += 1
        parameters = own.get("_parameters")
        if parameters is None:
            if isinstance(value, (Parameter, Module, Buffer)):
                kind = (
                    "parameters"
                    if isinstance(value, Parameter)
                    else "module"
                    if isinstance(value, Module)
                    else "buffer"
                )
                raise AttributeError(_no_init(self, kind))
            object.__setattr__(self, name, value)
            return
        if isinstance(value, Parameter):
            self._forget(name, own, self._buffers, self._modules)
            self.register_parameter(name, value)
        elif name in parameters:
            self._only_none(name, value, "parameter", "twofold.nn.Parameter")
            parameters[name] = None
        elif isinstance(value, Module):
            self._forget(name, own, self._buffers)
            self.add_module(name, value)
        elif name in self._modules:
            self._only_none(name, value, "child module", "twofold.nn.Module")
            self._modules[name] = None
        elif isinstance(value, Buffer):
            self._forget(name, own)
            self.register_buffer(name, value, value.persistent)
        elif name in self._buffers:
            if value is not None and not isinstance(value, Tensor):
                self._only_none(name, value, "buffer", "twofold.Tensor")
            self._buffers[name] = value
        else:
            object.__setattr__(self, name, value)

    def _forget(self, name: str, *tables: Any) -> None:
        for table in tables:
            table.pop(name, None)
        self._non_persistent.discard(name)

    def _only_none(self, name: str, value: Any, what: str, expected: str) -> None:
        if value is not None:
            raise TypeError(
                f"cannot assign '{type(value).__name__}' as {what} '{name}' ({expected} or None expected)"
            )

    def __getattr__(self, name: str) -> Any:
        own = self.__dict__
        for table in ("_parameters", "_buffers", "_modules"):
            if table in own and name in own[table]:
                return own[table][name]
        if "_parameters" not in own:
            raise AttributeError(_no_init(self, f"'{name}'", verb="read"))
        raise AttributeError(f"'{type(self).__name__}' object has no attribute '{name}'", name=name, obj=self)

    def _settings(self) -> dict[str, Any]:
        """What a program made from a call takes for granted: plain attributes, and which parts there are."""
        settings: dict[str, Any] = {}
        for name, value in self.__dict__.items():
            if isinstance(value, _PLAIN):
                settings[name] = value
            elif name in ("_parameters", "_buffers", "_modules"):
                settings[name] = tuple((part, id(v)) for part, v in value.items())
        settings["_hooks"] = None if self._hooks is None else tuple((k, tuple(v)) for k, v in self._hooks.items())
        return settings

    def __delattr__(self, name: str) -> None:
        Settings.changes += 1
        for table in (self._parameters, self._buffers, self._modules):
            if name in table:
                del table[name]
                self._non_persistent.discard(name)
                return
        object.__delattr__(self, name)

    def __dir__(self) -> list[str]:
        names = {*dir(type(self)), *self.__dict__, *self._parameters, *self._modules, *self._buffers}
        return sorted(name for name in names if not name[0].isdigit())

    # Looking ------------------------------------------------------------------------------------

    def _named_members(
        self, table: str, prefix: str, recurse: bool, remove_duplicate: bool
    ) -> Iterator[tuple[str, Any]]:
        seen: set[int] = set()
        owners = (
            self.named_modules(prefix=prefix, remove_duplicate=remove_duplicate) if recurse else [(prefix, self)]
        )
        for path, module in owners:
            for name, value in module.__dict__[table].items():
                if value is None or id(value) in seen:
                    continue
                if remove_duplicate:
                    seen.add(id(value))
                yield (f"{path}.{name}" if path else name), value

    def parameters(self, recurse: bool = True) -> Iterator[Parameter]:
        """The parameters of the module and, with `recurse`, of all its submodules; each once."""
        for _, p in self.named_parameters(recurse=recurse):
            yield p

    def named_parameters(
        self, prefix: str = "", recurse: bool = True, remove_duplicate: bool = True
    ) -> Iterator[tuple[str, Parameter]]:
        """Parameters with their dotted names.

        >>> import twofold as tw
        >>> [name for name, _ in tw.nn.Sequential(tw.nn.Linear(2, 3)).named_parameters()]
        ['0.weight', '0.bias']
        """
        return self._named_members("_parameters", prefix, recurse, remove_duplicate)

    def buffers(self, recurse: bool = True) -> Iterator[Tensor]:
        """The buffers of the module and, with `recurse`, of all its submodules; each once."""
        for _, b in self.named_buffers(recurse=recurse):
            yield b

    def named_buffers(
        self, prefix: str = "", recurse: bool = True, remove_duplicate: bool = True
    ) -> Iterator[tuple[str, Tensor]]:
        """Buffers with their dotted names."""
        return self._named_members("_buffers", prefix, recurse, remove_duplicate)

    def children(self) -> Iterator[Module]:
        """The direct submodules, each once."""
        for _, module in self.named_children():
            yield module

    def named_children(self) -> Iterator[tuple[str, Module]]:
        """The direct submodules with their names."""
        seen: set[int] = set()
        for name, module in self._modules.items():
            if module is not None and id(module) not in seen:
                seen.add(id(module))
                yield name, module

    def modules(self) -> Iterator[Module]:
        """The module itself and all below it, each once."""
        for _, module in self.named_modules():
            yield module

    def named_modules(
        self, memo: set[Any] | None = None, prefix: str = "", remove_duplicate: bool = True
    ) -> Iterator[tuple[str, Module]]:
        """The module itself (under `prefix`) and all below it with their dotted names."""
        memo = set() if memo is None else memo
        if self in memo:
            return
        if remove_duplicate:
            memo.add(self)
        yield prefix, self
        for name, module in self._modules.items():
            if module is not None:
                yield from module.named_modules(memo, f"{prefix}.{name}" if prefix else name, remove_duplicate)

    def get_submodule(self, target: str) -> Module:
        """The submodule at a dotted path; "" is the module itself.

        Raises: AttributeError when a step of the path is missing or is no module.
        """
        module: Any = self
        for name in target.split(".") if target else ():
            if not hasattr(module, name):
                raise AttributeError(f"{type(module).__name__} has no attribute `{name}`")
            module = getattr(module, name)
            if not isinstance(module, Module):
                raise AttributeError(f"`{name}` is not an nn.Module")
        return module

    def get_parameter(self, target: str) -> Parameter:
        """The parameter at a dotted path."""
        return self._get_member(target, Parameter, "an nn.Parameter")

    def get_buffer(self, target: str) -> Tensor:
        """The buffer at a dotted path."""
        path, _, name = target.rpartition(".")
        if name not in self.get_submodule(path)._buffers:
            raise AttributeError(f"`{name}` is not a buffer")
        return self._get_member(target, Tensor, "a buffer")

    def _get_member(self, target: str, kind: type, what: str) -> Any:
        path, _, name = target.rpartition(".")
        module = self.get_submodule(path)
        if not hasattr(module, name):
            raise AttributeError(f"{type(module).__name__} has no attribute `{name}`")
        value = getattr(module, name)
        if not isinstance(value, kind):
            raise AttributeError(f"`{name}` is not {what}")
        return value

    def set_submodule(self, target: str, module: Module) -> None:
        """Replace the submodule at a dotted path.

        Raises: AttributeError when a step of the path is missing or is no module.
        """
        self.get_submodule(target)
        path, _, name = target.rpartition(".")
        setattr(self.get_submodule(path), name, module)

    # Changing -----------------------------------------------------------------------------------

    def apply(self: Self, fn: Callable[[Module], None]) -> Self:
        """Call `fn` on every submodule, then on the module itself; returns the module."""
        for module in self.children():
            module.apply(fn)
        fn(self)
        return self

    def train(self: Self, mode: bool = True) -> Self:
        """Set training mode (dropout drops, batch norm uses the batch) here and in all submodules."""
        if not isinstance(mode, bool):
            raise ValueError("training mode is expected to be boolean")
        self.training = mode
        for module in self.children():
            module.train(mode)
        return self

    def eval(self: Self) -> Self:
        """Set evaluation mode: the same as `train(False)`."""
        return self.train(False)

    def requires_grad_(self: Self, requires_grad: bool = True) -> Self:
        """Set whether gradients are computed for the parameters."""
        for p in self.parameters():
            p.requires_grad_(requires_grad)
        return self

    def zero_grad(self, set_to_none: bool = True) -> None:
        """Forget the parameters' gradients, or fill them with zeros."""
        for p in self.parameters():
            if p.grad is None:
                continue
            if set_to_none:
                p.grad = None
            else:
                with no_record():
                    p.grad.detach_().zero_()

    def _apply(self: Self, fn: Callable[[Tensor], Tensor], recurse: bool = True) -> Self:
        """Replace every parameter's, gradient's and buffer's value by `fn` of it; the objects stay."""
        if recurse:
            for module in self.children():
                module._apply(fn)
        with no_record():
            for p in self._parameters.values():
                if p is None:
                    continue
                new, grad = fn(p.detach()), p.grad
                if mode.tracer is not None and new.dtype is not p.dtype:
                    raise TraceError("a module can't change its dtype while it is traced", op="to")
                take_data(p, new)
                if grad is not None:
                    p.grad = fn(grad)
            for name, b in self._buffers.items():
                if b is not None:
                    self._buffers[name] = fn(b)
        return self

    def to(self: Self, *args: Any, **kwargs: Any) -> Self:
        """Convert floating parameters and buffers in place: `to(dtype)`, `to(device, dtype)`, `to(tensor)`.

        Raises: DTypeError for a dtype that is not floating; TwofoldError for a device other than the CPU.

        >>> import twofold as tw
        >>> tw.nn.Linear(2, 1).to(tw.float64).weight.dtype
        twofold.float64
        """
        dtype = _parse_to(args, kwargs)
        if dtype is None:
            return self
        if not (dtype.is_floating_point or dtype.is_complex):
            raise DTypeError(
                f"a module can only be converted to floating or complex dtypes, got {dtype.name}", op="to"
            )
        return self._apply(lambda t: t.to(dtype) if t.dtype.is_differentiable else t)

    def type(self: Self, dst_type: Any) -> Self:
        """Convert all parameters and buffers to a dtype."""
        dtype = as_dtype(dst_type)
        return self._apply(lambda t: t.to(dtype))

    def float(self: Self) -> Self:
        """Convert floating parameters and buffers to float32."""
        return self._cast_floats(float32)

    def double(self: Self) -> Self:
        """Convert floating parameters and buffers to float64."""
        return self._cast_floats(float64)

    def half(self: Self) -> Self:
        """Convert floating parameters and buffers to float16."""
        return self._cast_floats(float16)

    def bfloat16(self: Self) -> Self:
        """Convert floating parameters and buffers to bfloat16."""
        return self._cast_floats(bfloat16)

    def _cast_floats(self: Self, dtype: DType) -> Self:
        return self._apply(lambda t: t.to(dtype) if t.dtype.is_floating_point else t)

    def cpu(self: Self) -> Self:
        """The module itself: its tensors are in the memory of the CPU."""
        return self

    def cuda(self: Self, device: Any = None) -> Self:
        """Raises: TwofoldError, for tensors live in the memory of the CPU."""
        check_device("cuda")
        return self

    def share_memory(self: Self) -> Self:
        """The module itself: threads share its memory anyway."""
        return self

    # State --------------------------------------------------------------------------------------

    def state_dict(
        self, *, destination: dict[str, Any] | None = None, prefix: str = "", keep_vars: bool = False
    ) -> dict[str, Any]:
        """Parameters and persistent buffers by dotted name, on the module's own memory.

        Args:
            keep_vars: give the Parameters themselves instead of detached tensors.
        """
        return save_state(self, OrderedDict() if destination is None else destination, prefix, keep_vars)

    def load_state_dict(self, state_dict: Mapping[str, Any], strict: bool = True, assign: bool = False) -> Any:
        """Copy values into parameters and buffers.

        Args:
            strict: refuse missing and unexpected keys.
            assign: take the given tensors themselves instead of copying their values.

        Returns: a named tuple `(missing_keys, unexpected_keys)`.
        Raises: StateDictError that lists every missing or unexpected key and every shape that differs.
        """
        return load_state(self, state_dict, strict, assign)

    def get_extra_state(self) -> Any:
        """Override together with `set_extra_state` to put more than tensors into the state dict."""
        raise NotImplementedError("get_extra_state is defined by modules that keep extra state")

    def set_extra_state(self, state: Any) -> None:
        """Take back what `get_extra_state` gave."""
        raise NotImplementedError("set_extra_state is defined by modules that keep extra state")

    def _save_to_state_dict(self, destination: dict[str, Any], prefix: str, keep_vars: bool) -> None:
        """Put this module's own tensors into `destination`."""
        for name, p in self._parameters.items():
            if p is not None:
                destination[prefix + name] = p if keep_vars else p.detach()
        for name, b in self._buffers.items():
            if b is not None and name not in self._non_persistent:
                destination[prefix + name] = b if keep_vars else b.detach()
        if type(self).get_extra_state is not Module.get_extra_state:
            destination[prefix + "_extra_state"] = self.get_extra_state()

    # Hooks --------------------------------------------------------------------------------------

    def _hook_table(self, kind: str) -> OrderedDict[int, Any]:
        if self._hooks is None:
            self.__dict__["_hooks"] = {}
        return self._hooks.setdefault(kind, OrderedDict())  # type: ignore[union-attr]

    def register_forward_pre_hook(
        self, hook: Callable[..., Any], *, prepend: bool = False, with_kwargs: bool = False
    ) -> RemovableHandle:
        """Call `hook(module, args)` before forward; what it returns replaces the arguments.

        With `with_kwargs` it is called as `hook(module, args, kwargs)` and may return `(args, kwargs)`.
        """
        return add_hook(self._hook_table("forward_pre"), (hook, with_kwargs), prepend)

    def register_forward_hook(
        self,
        hook: Callable[..., Any],
        *,
        prepend: bool = False,
        with_kwargs: bool = False,
        always_call: bool = False,
    ) -> RemovableHandle:
        """Call `hook(module, args, output)` after forward; what it returns replaces the output.

        With `always_call` it is called even if forward raises, then with None as output.
        """
        return add_hook(self._hook_table("forward"), (hook, with_kwargs, always_call), prepend)

    def register_full_backward_pre_hook(self, hook: Callable[..., Any], prepend: bool = False) -> RemovableHandle:
        """Call `hook(module, grad_output)` before the module's backward; it may return new gradients."""
        return add_hook(self._hook_table("backward_pre"), hook, prepend)

    def register_full_backward_hook(self, hook: Callable[..., Any], prepend: bool = False) -> RemovableHandle:
        """Call `hook(module, grad_input, grad_output)` when the gradients of all inputs are known.

        It may return a tuple that replaces `grad_input`.
        """
        return add_hook(self._hook_table("backward"), hook, prepend)

    register_backward_hook = register_full_backward_hook

    def register_state_dict_pre_hook(self, hook: Callable[..., Any]) -> RemovableHandle:
        """Call `hook(module, prefix, keep_vars)` before the state dict is made."""
        return add_hook(self._hook_table("state_dict_pre"), hook)

    def register_state_dict_post_hook(self, hook: Callable[..., Any]) -> RemovableHandle:
        """Call `hook(module, state_dict, prefix, local_metadata)` after; it changes the dict in place."""
        return add_hook(self._hook_table("state_dict_post"), hook)

    def register_load_state_dict_pre_hook(self, hook: Callable[..., Any]) -> RemovableHandle:
        """Call `hook(module, state_dict, prefix, local_metadata, strict, missing, unexpected, errors)` before."""
        return add_hook(self._hook_table("load_pre"), hook)

    def register_load_state_dict_post_hook(self, hook: Callable[..., Any]) -> RemovableHandle:
        """Call `hook(module, incompatible_keys)` after loading; it may change the lists of keys."""
        return add_hook(self._hook_table("load_post"), hook)

    # Printing -----------------------------------------------------------------------------------

    def _get_name(self) -> str:
        return type(self).__name__

    def extra_repr(self) -> str:
        """What stands in the brackets of the repr; subclasses override it."""
        return ""

    def __repr__(self) -> str:
        extra = self.extra_repr()
        extra_lines = extra.split("\n") if extra else []
        children = [f"({name}): {_indent(repr(module))}" for name, module in self._modules.items()]
        head = self._get_name() + "("
        if not children and len(extra_lines) <= 1:
            return head + extra + ")"
        return head + "\n  " + "\n  ".join(extra_lines + children) + "\n)"


def _no_init(module: Module, what: str, verb: str = "assign") -> str:
    name = type(module).__name__
    return f"cannot {verb} {what} before Module.__init__() call: begin {name}.__init__ with super().__init__()"


def _indent(text: str, spaces: int = 2) -> str:
    return text.replace("\n", "\n" + " " * spaces)


def _parse_to(args: tuple[Any, ...], kwargs: dict[str, Any]) -> DType | None:
    """The dtype among the arguments of `Module.to`; checks the device."""
    dtype = kwargs.get("dtype")
    check_device(kwargs.get("device"))
    for a in args:
        if isinstance(a, Tensor):
            dtype = a.dtype
        elif isinstance(a, DType):
            dtype = a
        elif isinstance(a, (str, Device)):
            check_device(a)
        elif a is not None and not isinstance(a, bool):
            dtype = as_dtype(a)
    return None if dtype is None else as_dtype(dtype)


def _add_layer(error: TwofoldError, module: Module) -> None:
    """Note that `error` passed through `module`, and write down the path from here to its layer.

    The outermost module is the last to do so; its path is what the user reads.
    """
    if any(m is module for m in error.layers[-1:]):
        return
    error.layers.append(module)
    parts = []
    chain = list(reversed(error.layers))
    for parent, child in itertools.pairwise(chain):
        parts.append(_name_within(parent, child))
    error.layer_path = ".".join(parts) or type(module).__name__
    if error.layer_repr is None:
        text = repr(module)
        error.layer_repr = text if "\n" not in text else f"{type(module).__name__}(...)"


def _name_within(parent: Module, child: Module) -> str:
    """The path from a module to one inside it; the class of one that is not."""
    names = (name for name, m in parent.named_modules(remove_duplicate=False) if m is child)
    return next(names, type(child).__name__)


def register_module_forward_pre_hook(hook: Callable[..., Any]) -> RemovableHandle:
    """Call `hook(module, args)` before the forward of every module."""
    return add_hook(_global_pre_hooks, (hook, False))


def register_module_forward_hook(
    hook: Callable[..., Any], *, with_kwargs: bool = False, always_call: bool = False
) -> RemovableHandle:
    """Call `hook(module, args, output)` after the forward of every module."""
    return add_hook(_global_hooks, (hook, with_kwargs, always_call))
