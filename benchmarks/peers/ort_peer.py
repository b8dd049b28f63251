"""ONNX Runtime: PyTorch's model exported with its batch size fixed."""

from __future__ import annotations

import io
import warnings
from collections.abc import Callable
from typing import Any

import onnxruntime
import torch

from ..models import WORKLOADS
from . import Task


class OnnxRuntime:
    def infer(self, task: Task) -> Callable[[], Any]:
        model = WORKLOADS[task.name].build(torch).eval()
        model.load_state_dict({k: torch.tensor(v) for k, v in task.state.items()})
        names = [f"x{i}" for i in range(len(task.inputs))]
        file = io.BytesIO()
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            inputs = tuple(torch.tensor(a) for a in task.inputs)
            torch.onnx.export(model, inputs, file, input_names=names, opset_version=18, dynamo=False)
        options = onnxruntime.SessionOptions()
        options.intra_op_num_threads = task.threads
        options.log_severity_level = 3
        session = onnxruntime.InferenceSession(file.getvalue(), options, providers=["CPUExecutionProvider"])
        feed = dict(zip(names, task.inputs, strict=True))
        return lambda: session.run(None, feed)[0]
