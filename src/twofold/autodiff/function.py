"""Function: operations whose derivative their author writes down."""

from __future__ import annotations

import weakref
from collections.abc import Callable, Sequence
from typing import Any

from ..ir.errors import AutogradError, ShapeError, user_location
from ..ir.primitive import PRIMITIVES
from ..ir.types import TensorType
from . import tape
from .bind import current_node, no_record, rebase_history, require_writable
from .handle import Tensor, mode, storage_of, wrap


class FunctionCtx:
    """What `forward` hands to `backward`. Own attributes may be set for anything but tensors.

    Attributes:
        needs_input_grad: for each argument, whether a gradient is wanted.
        saved_tensors: what `save_for_backward` was given.
    """

    def __init__(self, needs_input_grad: tuple[bool, ...]):
        self.needs_input_grad = needs_input_grad
        self._to_save: tuple[Any, ...] = ()
        self._dirty: tuple[Tensor, ...] = ()
        self._non_differentiable: tuple[Tensor, ...] = ()
        self._materialize = True
        self._node: weakref.ref[FunctionNode] | None = None  # weak: the node keeps this context

    def save_for_backward(self, *tensors: Tensor | None) -> None:
        """Keep inputs and outputs for `backward`, which then notices in-place changes of them."""
        for t in tensors:
            if t is not None and not isinstance(t, Tensor):
                raise AutogradError(
                    f"save_for_backward takes tensors, got {type(t).__name__}",
                    op="save_for_backward",
                    hint="set other values as attributes: ctx.name = value",
                )
        self._to_save = tensors

    @property
    def saved_tensors(self) -> tuple[Tensor | None, ...]:
        """The saved tensors, in their order; inside `backward`."""
        if self._node is None:
            return self._to_save
        node = self._node()
        if node is None:
            raise tape.used_up("saved_tensors")
        return node.unpack_saved()

    def mark_dirty(self, *tensors: Tensor) -> None:
        """Say that `forward` changed these inputs in place; it must return them."""
        self._dirty = tensors

    def mark_non_differentiable(self, *tensors: Tensor) -> None:
        """Say that these outputs have no gradient."""
        self._non_differentiable = tensors

    def set_materialize_grads(self, value: bool) -> None:
        """Whether `backward` gets zeros (the default) or None for outputs that were not used."""
        self._materialize = value


class FunctionNode:
    """The tape's node of one call of a Function; see tape.Node, whose interface it has."""

    __slots__ = (
        "__weakref__", "ctx", "edges", "function", "hooks", "location",
        "number", "retained", "saved", "spent", "types",
    )  # fmt: skip

    def __init__(self, function: type[Function], ctx: FunctionCtx, edges: list[Any], outs: Sequence[Any]):
        self.number = next(tape._numbers)
        self.spent = False
        self.function = function
        self.ctx = ctx
        self.edges = edges
        self.types = [o.type_ if isinstance(o, Tensor) else None for o in outs]
        self.hooks: Any = None
        self.retained: Any = None
        self.location = user_location() if tape.keep_locations else None
        self.saved: list[Any] | None = [self._pack(t, outs) for t in ctx._to_save]
        ctx._to_save, ctx._node = (), weakref.ref(self)

    def _pack(self, t: Tensor | None, outs: Sequence[Any]) -> Any:
        """What to keep of a saved tensor: an output as its value only, or node and output would keep each other."""
        if t is None:
            return None
        for i, out in enumerate(outs):
            if out is t:
                return (t._value, storage_of(t), t._version, i)
        return (t, t._version)

    def unpack_saved(self) -> tuple[Tensor | None, ...]:
        """The saved tensors, after a check that nobody has changed them."""
        if self.saved is None:
            raise tape.used_up(self.name)
        out: list[Tensor | None] = []
        for entry in self.saved:
            if entry is None or len(entry) == 2:
                if entry is not None and entry[0]._version != entry[1]:
                    raise tape.changed(self.name, entry[0].shape, entry[0]._version - entry[1], self.location)
                out.append(entry and tape._at(entry[0], self.number))
                continue
            value, storage, version, i = entry
            if storage.version != version:
                raise tape.changed(self.name, value.shape, storage.version - version, self.location)
            t = wrap(value)
            t._storage, t._value_version = storage, version
            t._requires_grad, t._node, t._index = True, self, i
            out.append(t)
        return tuple(out)

    @property
    def name(self) -> str:
        return self.function.__name__

    def next_nodes(self) -> list[Any]:
        """The nodes and leaves that its inputs came from."""
        return [edge[0] for edge in self.edges if edge is not None]

    def backward(self, grads: list[Any]) -> list[Any]:
        """Call the author's `backward` and check what it returns."""
        if self.ctx._materialize:
            grads = [
                PRIMITIVES["full"](shape=t.shape, value=0, dtype=t.dtype) if g is None and t is not None else g
                for g, t in zip(grads, self.types, strict=True)
            ]
        results = self.function.backward(self.ctx, *grads)
        results = list(results) if isinstance(results, (tuple, list)) else [results]
        n = len(self.edges)
        if len(results) < n or any(r is not None for r in results[n:]):
            raise AutogradError(
                f"backward returned {len(results)} gradient{'s' if len(results) != 1 else ''}, "
                f"but forward takes {n} argument{'s' if n != 1 else ''}",
                op=self.name,
                hint="return one gradient per argument of forward (without ctx), None where there is none",
            )
        return [self._checked(i, r) for i, r in enumerate(results[:n])]

    def _checked(self, i: int, g: Any) -> Any:
        edge = self.edges[i]
        if g is None or edge is None:
            return None
        if not isinstance(g, Tensor):
            raise AutogradError(f"gradient {i} is no tensor but {type(g).__name__}", op=self.name)
        target, index = edge
        kind = target.type_ if isinstance(target, Tensor) else _type_of(target.types[index])
        if g.shape != kind.shape:
            raise ShapeError(
                f"gradient {i} has shape {g.shape}, but the argument has shape {kind.shape}",
                op=self.name,
                hint="sum over the dimensions that were broadcast",
            )
        return g if g.dtype is kind.dtype else PRIMITIVES["cast"](g, dtype=kind.dtype)

    def release(self) -> None:
        """Free what was saved; a node that saved nothing can run again."""
        self.spent = True
        if self.saved:
            self.saved = None

    def __repr__(self) -> str:
        return f"<{self.name} backward>"


def _type_of(entry: Any) -> TensorType:
    return entry if isinstance(entry, TensorType) else tape._type(entry)


class Function:
    """An operation with its own derivative. Subclass it with two static methods and call `apply`.

    `forward(ctx, *args)` computes, unrecorded; `backward(ctx, *grads)` gives a gradient per argument.
    Where `backward` uses tensor operations only, gradients of gradients work. Alternatively
    `forward(*args)` without ctx, and `setup_context(ctx, inputs, output)` to save.

    >>> import twofold as tw
    >>> class Square(tw.autograd.Function):
    ...     @staticmethod
    ...     def forward(ctx, x):
    ...         ctx.save_for_backward(x)
    ...         return x * x
    ...     @staticmethod
    ...     def backward(ctx, g):
    ...         (x,) = ctx.saved_tensors
    ...         return 2 * x * g
    >>> x = tw.tensor(3.0, requires_grad=True)
    >>> Square.apply(x).backward()
    >>> x.grad
    tensor(6.)
    """

    setup_context: Callable[..., None] | None = None

    @staticmethod
    def forward(*args: Any, **kwargs: Any) -> Any:
        """Compute the result; the subclass defines it."""
        raise NotImplementedError("a Function needs a static method forward")

    @staticmethod
    def backward(ctx: Any, *grads: Any) -> Any:
        """Compute the gradients of the arguments; the subclass defines it."""
        raise NotImplementedError("a Function needs a static method backward to be differentiated")

    def __init__(self, *_: Any, **__: Any):
        raise AutogradError(
            f"{type(self).__name__} is not instantiated",
            hint=f"call {type(self).__name__}.apply(...)",
        )

    @classmethod
    def apply(cls, *args: Any) -> Any:
        """Run `forward` and record it, so that backward calls `backward`."""
        edges = [_edge(a) for a in args] if mode.grad else [None] * len(args)
        wanted = tuple([edge is not None for edge in edges])
        ctx = FunctionCtx(wanted)
        with no_record():
            if cls.setup_context is None:
                result = cls.forward(ctx, *args)
            else:
                result = cls.forward(*args)
                cls.setup_context(ctx, args, result)
        single = not isinstance(result, tuple)
        outs = [_output(o, args, ctx) for o in ((result,) if single else result)]
        if any(wanted):
            _attach(cls, ctx, edges, outs)
        return outs[0] if single else tuple(outs)


def _edge(value: Any) -> Any:
    if not isinstance(value, Tensor):
        return None
    node = current_node(value)
    if not value.requires_grad:
        return None
    return (value, 0) if node is None else (node, value._index)


def _output(out: Any, args: tuple[Any, ...], ctx: FunctionCtx) -> Any:
    """An input that is returned unchanged becomes a new handle, so that its own history stays."""
    if not isinstance(out, Tensor) or any(out is d for d in ctx._dirty):
        return out
    if not any(out is a for a in args):
        return out
    same = any(out is t for t in ctx._non_differentiable)
    with no_record():
        fresh = PRIMITIVES["permute"](out, dims=tuple(range(out.ndim)))
    fresh._base, fresh._steps, fresh._attached = out, (), False
    if same:
        ctx._non_differentiable = (*ctx._non_differentiable, fresh)
    return fresh


def _attach(cls: type[Function], ctx: FunctionCtx, edges: list[Any], outs: list[Any]) -> None:
    """Give the outputs their node."""
    for d in ctx._dirty:
        require_writable(d)
    node = FunctionNode(cls, ctx, edges, outs)
    for i, out in enumerate(outs):
        if not isinstance(out, Tensor) or not out.dtype.is_differentiable:
            continue
        if any(out is t for t in ctx._non_differentiable):
            continue
        if any(out is d for d in ctx._dirty):
            made = wrap(out._value)
            made._requires_grad, made._node, made._index = True, node, i
            rebase_history(out, made)
            continue
        if out._base is not None and out._attached:  # a view of what forward made: its own history begins here
            out._attached, out._steps = False, ()
        out._requires_grad, out._node, out._index = True, node, i


def once_differentiable(fn: Callable[..., Any]) -> Callable[..., Any]:
    """Decorate a `backward` that is not written in tensor operations: its results are constants.

    Raises: AutogradError when a second derivative flows through them.
    """

    def call(ctx: Any, *grads: Any) -> Any:
        recorded = mode.grad and any(isinstance(g, Tensor) and g.requires_grad for g in grads)
        with no_record():
            results = fn(ctx, *grads)
        if not recorded:
            return results
        if isinstance(results, tuple):
            return tuple([r if r is None else _Once.apply(r, *grads) for r in results])
        return _Once.apply(results, *grads)

    return call


class _Once(Function):
    @staticmethod
    def forward(ctx: Any, result: Tensor, *grads: Any) -> Tensor:
        return result

    @staticmethod
    def backward(ctx: Any, *_: Any) -> Any:
        raise AutogradError(
            "a derivative marked once_differentiable can't be differentiated again", op="once_differentiable"
        )
