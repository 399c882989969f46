"""Per-channel affine map: BatchNormalization and constant Add/Mul, before folding.

It has no integer form of its own: what the passes cannot fold into a neighbour becomes a
depthwise 1x1 convolution with 8-bit weights (`passes.lower_affine`).
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import ClassVar

import numpy as np

from deployq.arithmetic import FloatArray
from deployq.graph import Quantization, Shape
from deployq.ops.base import Array, FloatOperator, IntegerOperator, SourceNode, UnsupportedNodeError, imports


@dataclass(frozen=True)
class Affine(FloatOperator):
    """y = x * gain + offset per channel (axis 0 of the per-sample shape); both float64 (channels,)."""

    kind: ClassVar[str] = "affine"
    gain: FloatArray = field(repr=False)
    offset: FloatArray = field(repr=False)

    def output_shape(self, inputs: Sequence[Shape]) -> Shape:
        if inputs[0][0] != len(self.gain):
            raise ValueError(f"{len(self.gain)} channels expected, the input is {inputs[0]}")
        return inputs[0]

    def run(self, inputs: Sequence[Array]) -> Array:
        trailing = (1,) * (inputs[0].ndim - 2)
        dtype = inputs[0].dtype
        gain = self.gain.astype(dtype).reshape(-1, *trailing)
        mapped: Array = inputs[0] * gain + self.offset.astype(dtype).reshape(-1, *trailing)
        return mapped

    def integer(self, inputs: Sequence[Quantization], output: Quantization) -> IntegerOperator:
        raise TypeError("an affine map is folded or lowered to a convolution before quantization")

    @staticmethod
    def from_constants(shape: Shape, gain: Array | None, offset: Array | None) -> Affine:
        """From broadcastable ONNX constants.

        Args:
            shape: of the activation, per sample.
            gain: constant factor, or None for 1.
            offset: constant summand, or None for 0.

        Raises:
            UnsupportedNodeError: a constant is not one value per channel or one in all.
        """
        values = []
        for constant, neutral in ((gain, 1.0), (offset, 0.0)):
            array = np.array(neutral) if constant is None else constant.astype(np.float64)
            target = (1, *shape)
            try:
                broadcast = np.broadcast_to(array, target)[0]
            except ValueError:
                raise UnsupportedNodeError(
                    f"constant of shape {array.shape} with activation {shape}"
                ) from None
            per_channel = broadcast.reshape(shape[0], -1)
            if np.any(per_channel != per_channel[:, :1]):
                raise UnsupportedNodeError(f"constant of shape {array.shape} varies within a channel")
            values.append(per_channel[:, 0].copy())
        return Affine(*values)


@imports("BatchNormalization", note="inference form; before or after the activation")
def import_batch_normalization(node: SourceNode) -> Sequence[FloatOperator]:
    """ONNX BatchNormalization with its running statistics."""
    channels = node.shape(0)[0]
    constants = [node.constant(index) for index in range(1, 5)]
    if node.attributes.get("training_mode", 0):
        raise UnsupportedNodeError("BatchNormalization in training mode")
    if any(value is None or value.size != channels for value in constants):
        raise UnsupportedNodeError(f"scale, bias, mean and variance must have {channels} values each")
    scale, bias, mean, variance = (
        value.astype(np.float64).reshape(-1) for value in constants if value is not None
    )
    deviation = variance + float(node.attributes.get("epsilon", 1e-5))
    if np.any(deviation <= 0):
        raise UnsupportedNodeError("variance + epsilon is not positive")
    gain = scale / np.sqrt(deviation)
    return [Affine(gain, bias - mean * gain)]


@imports("Mul", "Sub", "Div", note="activation with a constant per channel; not constant / activation")
def import_arithmetic(node: SourceNode) -> Sequence[FloatOperator]:
    """ONNX Mul, Sub, Div with a per-channel constant (normalisation written out), in either order."""
    if len(node.inputs) != 2 or sum(isinstance(value, tuple) for value in node.inputs) != 1:
        raise UnsupportedNodeError("one operand must be an activation, the other a constant")
    first = 0 if isinstance(node.inputs[0], tuple) else 1
    shape, constant = node.shape(first), node.constant(1 - first)
    if constant is None:
        raise UnsupportedNodeError("an operand is missing")
    value = constant.astype(np.float64)
    if node.op_type == "Mul":
        return [Affine.from_constants(shape, value, None)]
    if node.op_type == "Sub":
        sign = np.array(1.0 if first == 0 else -1.0)
        return [Affine.from_constants(shape, sign, -sign * value)]
    if first == 1:
        raise UnsupportedNodeError("division of a constant by an activation")
    if np.any(value == 0):
        raise UnsupportedNodeError("division by zero")
    return [Affine.from_constants(shape, 1 / value, None)]
