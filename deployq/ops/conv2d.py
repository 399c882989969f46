"""Two-dimensional convolution: groups, depthwise, asymmetric pads, stride, dilation."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any, ClassVar

import numpy as np

from deployq.arithmetic import FloatArray
from deployq.graph import Quantization, Shape
from deployq.ops.accumulate import Accumulation
from deployq.ops.base import (
    Array,
    Case,
    FloatOperator,
    Int8Array,
    IntegerOperator,
    OnnxBuilder,
    QuantizedWeights,
    SourceNode,
    UnsupportedNodeError,
    WeightedOperator,
    imports,
)
from deployq.ops.output_stage import Bounds
from deployq.ops.window import Window, window_from_onnx

#: Working memory of one im2col block, in elements.
_BLOCK_ELEMENTS = 2**21


def _convolve(batch: Array, weight: Array, window: Window, groups: int) -> Array:
    """Convolution (cross-correlation) of (N, C, H, W) by im2col and matrix products."""
    count, channels, height, width = batch.shape
    rows, columns = window.output_size(height, width)
    matrices = weight.reshape(groups, weight.shape[0] // groups, -1)
    per_sample = channels * window.kernel[0] * window.kernel[1] * rows * columns
    block = max(1, _BLOCK_ELEMENTS // per_sample)
    result = np.empty((count, weight.shape[0], rows, columns), dtype=batch.dtype)
    for first in range(0, count, block):
        patches = window.columns(batch[first : first + block])
        grouped = patches.reshape(len(patches), groups, -1, rows * columns)
        product = np.matmul(matrices, grouped)
        result[first : first + block] = product.reshape(len(patches), -1, rows, columns)
    return result


def _output_shape(window: Window, groups: int, weight: Shape, inputs: Sequence[Shape]) -> Shape:
    (channels, height, width) = inputs[0]
    if channels != weight[1] * groups:
        raise ValueError(f"{channels} input channels, but the weights expect {weight[1] * groups}")
    return (weight[0], *window.output_size(height, width))


@dataclass(frozen=True)
class Conv2d(WeightedOperator):
    """Float convolution.

    Attributes:
        weight: (out, in / groups, kernel height, kernel width), float32.
        bias: (out,), float64.
        window: geometry.
        groups: number of groups.
        bounds: activation folded into the output.
        fixed_alphabet: name of the alphabet this layer keeps whatever the user asks for, or "".
    """

    kind: ClassVar[str] = "conv2d"
    weight: Array = field(repr=False)
    bias: FloatArray = field(repr=False)
    window: Window
    groups: int = 1
    bounds: Bounds = field(default_factory=Bounds.none, repr=False)
    fixed_alphabet: str = ""

    def output_shape(self, inputs: Sequence[Shape]) -> Shape:
        return _output_shape(self.window, self.groups, self.weight.shape, inputs)

    def run(self, inputs: Sequence[Array]) -> Array:
        summed = _convolve(inputs[0], self.weight.astype(inputs[0].dtype), self.window, self.groups)
        summed += self.bias.astype(summed.dtype).reshape(-1, 1, 1)
        return self.bounds.clip(summed)

    def integer(self, inputs: Sequence[Quantization], output: Quantization) -> IntegerOperator:
        raise TypeError("a convolution needs quantized weights; use quantized()")

    def positions(self, shape: Shape) -> int:
        rows, columns = self.window.output_size(*shape[1:])
        return rows * columns

    def patches(self, batch: Array, positions: Array | None) -> Array:
        chosen = np.arange(self.positions(batch.shape[1:])) if positions is None else positions
        windows = self.window.columns_at(batch, chosen)
        grouped = windows.reshape(len(batch), self.groups, -1, len(chosen))
        rows = np.ascontiguousarray(grouped.transpose(1, 0, 3, 2))
        return rows.reshape(self.groups, -1, grouped.shape[2])

    def quantized(
        self, weights: QuantizedWeights, source: Quantization, output: Quantization
    ) -> IntegerOperator:
        accumulation = Accumulation.build(weights, source, output, self.bounds)
        return IntegerConv2d(accumulation, self.weight.shape, self.window, self.groups)


@dataclass(frozen=True)
class IntegerConv2d(IntegerOperator):
    """Deployed convolution; `weight_shape` is (out, in / groups, kernel height, kernel width)."""

    kind: ClassVar[str] = "conv2d"
    accumulation: Accumulation
    weight_shape: Shape
    window: Window
    groups: int

    def output_shape(self, inputs: Sequence[Shape]) -> Shape:
        return _output_shape(self.window, self.groups, self.weight_shape, inputs)

    def macs(self, inputs: Sequence[Shape]) -> int:
        _, rows, columns = self.output_shape(inputs)
        return int(np.prod(self.weight_shape)) * rows * columns

    @property
    def levels(self) -> Array:
        """Integer weights (out, in / groups, kernel height, kernel width)."""
        return self.accumulation.weights.levels.reshape(self.weight_shape)

    def run(self, inputs: Sequence[Array]) -> Int8Array:
        dtype = self.accumulation.exact_dtype
        centred = inputs[0].astype(dtype) - dtype(self.accumulation.input_zero_point)
        summed = _convolve(centred, self.levels.astype(dtype), self.window, self.groups)
        accumulator = summed.astype(np.int64) + self.accumulation.bias.reshape(-1, 1, 1)
        return self.accumulation.stage.apply(accumulator)

    def lower(
        self, builder: OnnxBuilder, inputs: Sequence[str], output: str, shapes: Sequence[Shape]
    ) -> None:
        zero_point = builder.constant(np.array(self.accumulation.input_zero_point, dtype=np.int8))
        attributes: dict[str, Any] = {"group": self.groups, **self.window.onnx_attributes()}

        def convolve(weights: str) -> str:
            return builder.add("ConvInteger", inputs[0], weights, zero_point, **attributes)

        summed = self.accumulation.lower_product(builder, self.weight_shape, convolve)
        bias = self.accumulation.bias.astype(np.int32).reshape(1, -1, 1, 1)
        accumulator = builder.add("Add", summed, builder.constant(bias))
        self.accumulation.stage.lower(builder, accumulator, output, rank=4)


@imports("Conv", note="2-D; groups, depthwise, asymmetric pads, stride, dilation")
def import_conv(node: SourceNode) -> Sequence[FloatOperator]:
    """ONNX Conv with constant weights."""
    shape = node.shape(0)
    weight, bias = node.constant(1), node.constant(2)
    groups = int(node.attributes.get("group", 1))
    if weight is None or weight.ndim != 4 or len(shape) != 3:
        raise UnsupportedNodeError(f"only 2-D convolutions with constant weights; the input shape is {shape}")
    if groups < 1 or weight.shape[0] % groups or weight.shape[1] * groups != shape[0]:
        raise UnsupportedNodeError(f"weights {weight.shape} with {groups} groups do not fit input {shape}")
    if tuple(node.attributes.get("kernel_shape", weight.shape[2:])) != weight.shape[2:]:
        raise UnsupportedNodeError("kernel_shape contradicts the weights")
    window = window_from_onnx(node.attributes, weight.shape[2:], shape)
    offsets = np.zeros(weight.shape[0]) if bias is None else bias.astype(np.float64).reshape(-1)
    if len(offsets) != weight.shape[0]:
        raise UnsupportedNodeError(f"bias of {len(offsets)} values for {weight.shape[0]} channels")
    return [Conv2d(weight.astype(np.float32), offsets, window, groups)]


def cases() -> list[Case]:
    """Shapes every executor must agree on."""
    rng = np.random.default_rng(1)

    def conv(name: str, shape: Shape, out: int, window: Window, groups: int = 1, relu: bool = False) -> Case:
        weight = rng.normal(size=(out, shape[0] // groups, *window.kernel)).astype(np.float32)
        bounds = Bounds(np.array(0.0), np.array(np.inf)) if relu else Bounds.none()
        return Case(name, Conv2d(weight, rng.normal(size=out), window, groups, bounds), (shape,))

    clamp = rng.normal(size=5)
    per_channel = Bounds(np.where(clamp > 0, clamp, -np.inf), np.where(clamp > 0, np.inf, clamp))
    return [
        conv("3x3 same", (4, 7, 6), 8, Window((3, 3), pads=(1, 1, 1, 1)), relu=True),
        conv("odd sizes", (3, 5, 7), 5, Window((3, 2), (2, 1), (1, 0, 0, 1))),
        conv("strided, asymmetric pads", (5, 8, 8), 6, Window((3, 3), (2, 2), (0, 0, 1, 1))),
        conv("dilated", (2, 9, 9), 3, Window((3, 3), pads=(2, 2, 2, 2), dilations=(2, 2))),
        conv("pointwise", (16, 5, 5), 8, Window((1, 1)), relu=True),
        conv("pointwise, one pixel", (33, 1, 1), 7, Window((1, 1))),
        conv("grouped", (6, 5, 5), 4, Window((3, 3), pads=(1, 1, 1, 1)), groups=2),
        conv("depthwise", (9, 6, 6), 9, Window((3, 3), (1, 1), (1, 1, 1, 1)), groups=9),
        conv("depthwise, strided", (8, 7, 7), 8, Window((3, 3), (2, 2), (0, 0, 1, 1)), groups=8),
        conv("depthwise, multiplier 2", (3, 5, 5), 6, Window((5, 3), pads=(2, 1, 2, 1)), groups=3),
        conv("pads wider than the input", (2, 2, 2), 2, Window((3, 3), pads=(2, 2, 2, 2))),
        Case(
            "per-channel clamp",
            Conv2d(
                rng.normal(size=(5, 3, 1, 1)).astype(np.float32), clamp, Window((1, 1)), bounds=per_channel
            ),
            ((3, 4, 4),),
        ),
    ]
