"""The float network in torch: the teacher. It runs without gradients."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional

from deployq.graph import Graph
from deployq.ops.add import Add
from deployq.ops.affine import Affine
from deployq.ops.averagepool2d import AveragePool2d
from deployq.ops.clip import Clip
from deployq.ops.conv2d import Conv2d
from deployq.ops.linear import Linear
from deployq.ops.maxpool2d import MaxPool2d
from deployq.ops.output_stage import Bounds
from deployq.ops.reshape import Reshape
from deployq.ops.softmax import Softmax
from deployq.training import windows
from deployq.training.execution import Execution, Step, float_tensor, per_channel


def float_network(graph: Graph) -> Execution:
    """The torch form of a float graph.

    Raises:
        UsageError: an operator has no torch form.
    """
    return Execution.of(graph, _FORMS, lambda form, node: form(node.op))


def _clamp(value: Tensor, bounds: Bounds) -> Tensor:
    """Clamp a fresh tensor in place."""
    if np.any(np.isfinite(bounds.low)):
        value = value.clamp_(min=per_channel(float_tensor(bounds.low), value.ndim))
    if np.any(np.isfinite(bounds.high)):
        value = value.clamp_(max=per_channel(float_tensor(bounds.high), value.ndim))
    return value


def _conv2d(op: Conv2d) -> Step:
    weight, bias = float_tensor(op.weight), float_tensor(op.bias)
    return lambda inputs: _clamp(windows.convolve(inputs[0], weight, op.window, op.groups, bias), op.bounds)


def _linear(op: Linear) -> Step:
    weight, bias = float_tensor(op.weight), float_tensor(op.bias)
    return lambda inputs: _clamp(functional.linear(inputs[0], weight, bias), op.bounds)


def _affine(op: Affine) -> Step:
    gain, offset = float_tensor(op.gain), float_tensor(op.offset)

    def apply(inputs: Sequence[Tensor]) -> Tensor:
        rank = inputs[0].ndim
        return torch.addcmul(per_channel(offset, rank), inputs[0], per_channel(gain, rank))

    return apply


def _add(op: Add) -> Step:
    return lambda inputs: _clamp(inputs[0] + inputs[1], op.bounds)


def _clip(op: Clip) -> Step:
    return lambda inputs: inputs[0].clamp(op.low, op.high)


def _maxpool2d(op: MaxPool2d) -> Step:
    return lambda inputs: windows.maximum(inputs[0], op.window, -torch.inf)


def _averagepool2d(op: AveragePool2d) -> Step:
    def average(inputs: Sequence[Tensor]) -> Tensor:
        _, _, height, width = inputs[0].shape
        counts = windows.counts(op.window, height, width, include_pad=op.include_pad)
        return windows.total(inputs[0], op.window) / counts

    return average


def _reshape(op: Reshape) -> Step:
    return lambda inputs: inputs[0].reshape(len(inputs[0]), *op.shape)


def _softmax(op: Softmax) -> Step:
    return lambda inputs: inputs[0].softmax(dim=-1)


_FORMS: dict[type, Any] = {
    Conv2d: _conv2d,
    Linear: _linear,
    Affine: _affine,
    Add: _add,
    Clip: _clip,
    MaxPool2d: _maxpool2d,
    AveragePool2d: _averagepool2d,
    Reshape: _reshape,
    Softmax: _softmax,
}
