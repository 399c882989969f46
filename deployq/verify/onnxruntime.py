"""ONNX Runtime as second witness of the integer semantics."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import onnxruntime

Array = npt.NDArray[Any]

#: Optimisation levels every file must be exact at: none, and the runtime's default.
LEVELS = {
    "OFF": onnxruntime.GraphOptimizationLevel.ORT_DISABLE_ALL,
    "ALL": onnxruntime.GraphOptimizationLevel.ORT_ENABLE_ALL,
}

_BATCH = 32


def run_onnxruntime(model: bytes | Path, samples: Array, level: str = "ALL") -> list[Array]:
    """Run a model written by `deployq.onnx_export` on the CPU.

    Args:
        model: serialized model or path of a file.
        samples: inputs (n, *shape), NCHW: int8, or float32 for a model with float input and output.
        level: key of `LEVELS`.

    Returns:
        One array (n, ...) per output of the model.
    """
    options = onnxruntime.SessionOptions()
    options.graph_optimization_level = LEVELS[level]
    options.log_severity_level = 4  # errors come as exceptions
    source = model if isinstance(model, bytes) else str(model)
    session = onnxruntime.InferenceSession(source, options, providers=["CPUExecutionProvider"])
    name = session.get_inputs()[0].name
    batches = [
        session.run(None, {name: samples[first : first + _BATCH]}) for first in range(0, len(samples), _BATCH)
    ]
    return [np.concatenate(parts) for parts in zip(*batches, strict=True)]
