"""What the generated tests share: samples of the table, and the way to PyTorch and back."""

from __future__ import annotations

import zlib
from typing import Any

import ml_dtypes
import numpy as np
import torch

import twofold  # noqa: F401  (fills the table)
from twofold.autodiff.backward import run_backward
from twofold.autodiff.handle import Tensor, wrap
from twofold.ir.dtypes import ALL, FROM_NUMPY, DType, bool_, complex128, float32, float64
from twofold.ir.evaluate import evaluate, value_types
from twofold.ir.primitive import PRIMITIVES, Primitive, Sample
from twofold.ir.types import TensorType

NAMES = sorted(PRIMITIVES)
CASES = [(name, dtype.name) for name in NAMES for dtype in ALL if dtype in PRIMITIVES[name].dtypes]

# relative and absolute tolerance against PyTorch
TOLERANCE = {
    "float16": (2e-3, 1e-3),
    "bfloat16": (1.6e-2, 1e-2),
    "float32": (1e-5, 1e-6),
    "float64": (1e-12, 1e-13),
    "complex64": (2e-5, 2e-6),
    "complex128": (1e-11, 1e-12),
}

# PyTorch's own errors, where they are larger: it accumulates in float16, and its float64 trigamma
# has nine digits (ours is held to 1e-13 in test_special.py)
WIDER = {
    ("conv", "float16"): (2e-2, 2e-2),
    ("conv_input_grad", "float16"): (2e-2, 2e-2),
    ("conv_weight_grad", "float16"): (2e-2, 2e-2),
    ("polygamma", "float64"): (2e-9, 1e-12),
}


def tolerance(name: str, dtype: str) -> tuple[float, float]:
    return WIDER.get((name, dtype)) or TOLERANCE.get(dtype, (0, 0))


def samples(p: Primitive, dtype: DType) -> list[Sample]:
    """The samples of `p`, the same in every run."""
    rng = np.random.default_rng(zlib.crc32(f"{p.name} {dtype.name}".encode()))
    return list(p.samples(dtype, rng))


def describe(p: Primitive, sample: Sample) -> str:
    """The call, for messages of failing tests."""
    inputs = [repr(x.tolist()) + f":{x.dtype}{list(x.shape)}" if is_array(x) else repr(x) for x in sample.inputs]
    return f"{p.name}({', '.join(inputs)}, {sample.params})"


def is_array(x: Any) -> bool:
    return isinstance(x, np.ndarray)


def is_differentiable(x: Any) -> bool:
    return is_array(x) and FROM_NUMPY[x.dtype].is_differentiable


def run(p: Primitive, inputs: Any, params: dict[str, Any]) -> tuple[np.ndarray, ...]:
    """The reference's results, as eager execution gets them."""
    out = evaluate(p, list(inputs), params)
    return out if p.multiple else (out,)


def call(p: Primitive, inputs: Any, params: dict[str, Any]) -> Any:
    """The public call, on tensors."""
    return p(*[wrap(x) if is_array(x) else x for x in inputs], **params)


def result_types(p: Primitive, inputs: Any, params: dict[str, Any]) -> tuple[TensorType, ...]:
    return p.types(value_types(list(inputs)), params)


# --- PyTorch ------------------------------------------------------------------------------------


def to_torch(x: Any) -> torch.Tensor:
    x = np.ascontiguousarray(x).reshape(x.shape)
    if x.dtype == ml_dtypes.bfloat16:
        return torch.from_numpy(x.view(np.int16).copy()).view(torch.bfloat16)
    return torch.from_numpy(x.copy())


def from_torch(t: torch.Tensor) -> np.ndarray:
    t = t.detach().resolve_conj().resolve_neg()
    if t.dtype is torch.bfloat16:
        return t.contiguous().view(torch.int16).numpy().view(ml_dtypes.bfloat16)
    return t.numpy(force=True)  # also of tensors known to be zero without memory


def call_torch(p: Primitive, tensors: list[Any], params: dict[str, Any]) -> tuple[torch.Tensor, ...]:
    """PyTorch's results. Raises NotImplementedError for a dtype that it lacks."""
    if isinstance(p.torch, str):
        fn = torch
        for part in p.torch.split("."):
            fn = getattr(fn, part)
        out = fn(*tensors, **params)
    else:
        out = p.torch(torch, *tensors, **params)
    return tuple(out) if isinstance(out, (tuple, list)) else (out,)


def torch_inputs(inputs: Any, *, requires_grad: bool = False) -> list[Any]:
    """Arrays as PyTorch's tensors; Python numbers as 0-d tensors of the last array's dtype."""
    arrays = [x for x in inputs if is_array(x)]
    out = []
    for x in inputs:
        t = to_torch(x if is_array(x) else np.asarray(x).astype(arrays[-1].dtype))
        if requires_grad and is_differentiable(x):
            t.requires_grad_()
        out.append(t)
    return out


def assert_close(actual: np.ndarray, expected: np.ndarray, tolerance: tuple[float, float], message: str) -> None:
    """Equal within the tolerance, with NaN equal to NaN and infinities of one sign equal."""
    assert actual.shape == expected.shape, message
    assert actual.dtype == expected.dtype, message
    if actual.dtype.kind not in "fcV":
        np.testing.assert_array_equal(actual, expected, err_msg=message)
        return
    if actual.dtype == ml_dtypes.bfloat16:
        actual, expected = actual.astype(np.float32), expected.astype(np.float32)
    rtol, atol = tolerance
    np.testing.assert_allclose(actual, expected, rtol=rtol, atol=atol, equal_nan=True, err_msg=message)


# --- gradients ----------------------------------------------------------------------------------


def weights_for(p: Primitive, sample: Sample, rng: np.random.Generator) -> list[np.ndarray | None]:
    """Random cotangents, one for each result that has a derivative."""
    out: list[np.ndarray | None] = []
    for t in result_types(p, sample.inputs, sample.params):
        if not t.dtype.is_differentiable:
            out.append(None)
            continue
        c = rng.uniform(0.5, 1.5, t.shape) * rng.choice([-1, 1], t.shape)
        if t.dtype.is_complex:
            c = c + 1j * rng.uniform(-1, 1, t.shape)
        out.append(np.asarray(c).astype(t.dtype.numpy))
    return out


def inner(a: Any, b: Any) -> float:
    """Re <a, b>: the change along `b` of a function whose gradient is `a` (real and complex)."""
    return float(np.sum(np.conj(a) * b).real)


def leaves(inputs: Any) -> tuple[list[Any], list[Tensor]]:
    """Tensors of the inputs, and those among them that are differentiated."""
    tensors = [wrap(x.copy(order="C")) if is_array(x) else x for x in inputs]
    wanted = [t for t, x in zip(tensors, inputs, strict=True) if is_differentiable(x)]
    for t in wanted:
        t.requires_grad = True
    return tensors, wanted


def gradients(
    outs: list[Tensor], cotangents: list[Tensor], wanted: list[Tensor], *, create_graph: bool = False
) -> list[Tensor | None]:
    """Gradients of the outputs' inner products with the cotangents; None where nothing flows."""
    pairs = [(o, c) for o, c in zip(outs, cotangents, strict=True) if o.requires_grad]
    found = run_backward(
        [o for o, _ in pairs],
        [c for _, c in pairs],
        retain_graph=create_graph,
        create_graph=create_graph,
        inputs=wanted,
        accumulate=False,
    )
    return [found.get(i) for i in range(len(wanted))]


__all__ = [
    "ALL", "CASES", "FROM_NUMPY", "NAMES", "PRIMITIVES", "DType", "Primitive", "Sample",
    "Tensor", "TensorType", "assert_close", "bool_", "call", "call_torch", "complex128", "describe",
    "float32", "float64", "from_torch", "gradients", "inner", "is_array", "is_differentiable", "leaves",
    "result_types", "run", "samples", "to_torch", "tolerance", "torch_inputs", "weights_for", "wrap",
]  # fmt: skip
