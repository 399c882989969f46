"""The integer ONNX model of an output directory: read again, and tried before it is compared with."""

from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from deployq.errors import UsageError
from deployq.finished_build import FinishedBuild, incomplete
from deployq.onnx_export import metadata_of, with_outputs
from deployq.verify.executors import TracedLayer
from deployq.verify.onnxruntime import run_onnxruntime

FILE = "model.onnx"


@dataclass(frozen=True)
class FinishedModel:
    """A model that ONNX Runtime takes, and the layers of the C library it accounts for."""

    data: bytes
    layers: tuple[TracedLayer, ...]


def read_finished_model(directory: Path, build: FinishedBuild) -> FinishedModel:
    """Read the model and run it on one test vector.

    Args:
        directory: written by `deployq build`.
        build: its report and test vectors.

    Raises:
        UsageError: the file is missing or damaged, or ONNX Runtime refuses it.
    """
    try:
        data = (directory / FILE).read_bytes()
        layers = _layers(json.loads(metadata_of(data)["c_layers"]))
    except KeyError as error:
        raise incomplete(directory, f"{FILE} has no metadata {error}") from error
    except (OSError, ValueError, RecursionError) as error:
        raise incomplete(directory, str(error)) from error
    tensors = [layer.tensor for layer in layers if layer.tensor]
    try:
        outputs = run_onnxruntime(data, build.samples[:1], "OFF")
        traced = run_onnxruntime(with_outputs(data, tensors), build.samples[:1], "OFF") if tensors else []
    except Exception as error:  # the runtime's own exceptions have no common base
        raise _damaged(directory, str(error)) from error
    expected = build.expected[:1]
    if not outputs or outputs[0].dtype != np.int8 or outputs[0].size != expected.size:
        raise _damaged(directory, f"its output is not int8 of {expected.size} values")
    rows = [layer.rows for layer in layers if layer.tensor]
    if any(output.size % count for output, count in zip(traced, rows, strict=True)):
        raise _damaged(directory, "its c_layers do not fit its tensors")
    return FinishedModel(data, layers)


def _layers(document: Any) -> tuple[TracedLayer, ...]:
    """The layers in the metadata: a list of (name, tensor, rows); raises ValueError if it is another."""
    entries = document if isinstance(document, list) else [document]
    for entry in entries:
        types = [type(item) for item in entry] if isinstance(entry, list) else []
        if types != [str, str, int] or entry[2] < 1:
            raise ValueError(f"{FILE}: c_layers holds {str(entry)[:80]!r}, not [name, tensor, rows]")
    return tuple(TracedLayer(name, tensor, rows) for name, tensor, rows in entries)


def _damaged(directory: Path, why: str) -> UsageError:
    return UsageError(
        "the model of the build is damaged",
        where=str(directory / FILE),
        why=why.strip().splitlines()[0] if why.strip() else "",
        hint="build again",
    )
