"""Average pooling, global average pooling and ReduceMean over space."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, ClassVar

import numpy as np

from deployq.arithmetic import Int64Array
from deployq.graph import Quantization, Shape
from deployq.ops.base import (
    Array,
    Case,
    FloatOperator,
    Int8Array,
    IntegerOperator,
    KernelCall,
    OnnxBuilder,
    SourceNode,
    UnsupportedNodeError,
    imports,
)
from deployq.ops.output_stage import Bounds, OutputStage
from deployq.ops.pooling import pool_parameters, pool_shape
from deployq.ops.reshape import Reshape
from deployq.ops.window import Window, window_from_onnx


def _counts(window: Window, shape: Shape, include_pad: bool) -> Int64Array:
    """Divisor of each output position, (OH, OW)."""
    if include_pad:
        return np.full(window.output_size(*shape[1:]), window.kernel[0] * window.kernel[1])
    outputs = window.output_size(*shape[1:])
    vertical, horizontal = (_taps_inside(window, axis, shape[1 + axis], outputs[axis]) for axis in range(2))
    return np.outer(vertical, horizontal)


def _taps_inside(window: Window, axis: int, size: int, outputs: int) -> Int64Array:
    """Number of kernel rows (axis 0) or columns (1) inside an input of `size`, for each output position."""
    first = np.arange(outputs, dtype=np.int64) * window.strides[axis] - window.pads[axis]
    counts = np.zeros(outputs, dtype=np.int64)
    for tap in range(window.kernel[axis]):
        position = first + tap * window.dilations[axis]
        counts += (position >= 0) & (position < size)
    return counts


@dataclass(frozen=True)
class AveragePool2d(FloatOperator):
    """Float average pooling; a window over the whole input is global average pooling."""

    kind: ClassVar[str] = "averagepool2d"
    window: Window
    include_pad: bool = False

    def output_shape(self, inputs: Sequence[Shape]) -> Shape:
        return pool_shape(self.window, inputs)

    def run(self, inputs: Sequence[Array]) -> Array:
        counts = _counts(self.window, inputs[0].shape[1:], self.include_pad)
        average: Array = self.window.columns(inputs[0]).sum(axis=2) / counts.astype(inputs[0].dtype)
        return average

    def integer(self, inputs: Sequence[Quantization], output: Quantization) -> IntegerOperator:
        taps = self.window.kernel[0] * self.window.kernel[1]
        divisors = np.arange(1, taps + 1)
        ratios = inputs[0].scale / output.scale / divisors
        stage = OutputStage.build(ratios, Bounds.none(), output)
        # The stage must hold where it is used: a sum over d values goes with divisor d.
        stage.check(-255 * taps, 255 * taps)
        return IntegerAveragePool2d(self.window, self.include_pad, inputs[0].zero_point, stage)


@dataclass(frozen=True)
class IntegerAveragePool2d(IntegerOperator):
    """Deployed average pooling: sum of (x - z) over the window, requantized with ratio / divisor.

    `stage.multiplier[d - 1]` belongs to divisor d.
    """

    kind: ClassVar[str] = "averagepool2d"
    window: Window
    include_pad: bool
    input_zero_point: int
    stage: OutputStage

    def output_shape(self, inputs: Sequence[Shape]) -> Shape:
        return pool_shape(self.window, inputs)

    def _stage_of_positions(self, shape: Shape) -> OutputStage:
        """The stage with one multiplier per output position, (OH, OW)."""
        counts = _counts(self.window, shape, self.include_pad)
        multiplier = self.stage.multiplier[counts - 1]
        return OutputStage(
            multiplier, self.stage.shift, self.stage.zero_point, self.stage.low, self.stage.high
        )

    def run(self, inputs: Sequence[Array]) -> Int8Array:
        centred = inputs[0].astype(np.int32) - self.input_zero_point
        total = self.window.columns(centred).sum(axis=2)
        return self._stage_of_positions(inputs[0].shape[1:]).apply(total)

    def lower(
        self, builder: OnnxBuilder, inputs: Sequence[str], output: str, shapes: Sequence[Shape]
    ) -> None:
        channels = shapes[0][0]
        ones = builder.constant(np.ones((channels, 1, *self.window.kernel), dtype=np.int8))
        zero_point = builder.constant(np.array(self.input_zero_point, dtype=np.int8))
        attributes: dict[str, Any] = {"group": channels, **self.window.onnx_attributes()}
        total = builder.add("ConvInteger", inputs[0], ones, zero_point, **attributes)
        self._stage_of_positions(shapes[0]).lower(builder, total, output, rank=4)

    def kernel(self, shapes: Sequence[Shape]) -> KernelCall:
        divisors = np.unique(_counts(self.window, shapes[0], self.include_pad))
        smallest, largest = int(divisors[0]), int(divisors[-1])
        geometry = pool_parameters(self.window, shapes[0])
        return KernelCall(
            template="averagepool2d_a8.c.j2",
            function="dq_averagepool2d_a8",
            parameters={f"pool.{name}": value for name, value in geometry.items()}
            | {
                "stage.shift": self.stage.shift,
                "stage.zero_point": self.stage.zero_point,
                "stage.low": int(self.stage.low),
                "stage.high": int(self.stage.high),
                "first_divisor": smallest,
                "include_pad": int(self.include_pad),
                "input_zero_point": self.input_zero_point,
            },
            tables={"stage.multiplier": self.stage.multiplier[smallest - 1 : largest].astype(np.int32)},
        )


@imports("AveragePool", note="2-D, count_include_pad, ceil_mode")
def import_averagepool(node: SourceNode) -> Sequence[FloatOperator]:
    """ONNX AveragePool."""
    shape = node.shape(0)
    window = window_from_onnx(node.attributes, tuple(node.attributes["kernel_shape"]), shape)
    # Cells that ceil_mode adds beyond the pads are never counted: without pads there is nothing to include.
    padded = any(node.attributes.get("pads", ())) or node.attributes.get("auto_pad", "").startswith("SAME")
    include_pad = bool(node.attributes.get("count_include_pad", 0)) and padded
    if include_pad and node.attributes.get("ceil_mode", 0):
        raise UnsupportedNodeError("AveragePool with both ceil_mode and count_include_pad")
    if not include_pad and _counts(window, shape, include_pad=False).min() == 0:
        raise UnsupportedNodeError("a window that sees padding only")
    return [AveragePool2d(window, include_pad)]


@imports("GlobalAveragePool")
def import_global_average(node: SourceNode) -> Sequence[FloatOperator]:
    """ONNX GlobalAveragePool: a window over the whole input."""
    shape = node.shape(0)
    if len(shape) != 3:
        raise UnsupportedNodeError(f"global average of an input of shape {shape}")
    return [AveragePool2d(Window((shape[1], shape[2])))]


@imports("ReduceMean", note="over height and width")
def import_reduce_mean(node: SourceNode) -> Sequence[FloatOperator]:
    """ONNX ReduceMean over both spatial axes; axes are an attribute before opset 18, an input since."""
    shape = node.shape(0)
    constant = node.constant(1)
    axes = node.attributes.get("axes") if constant is None else constant.reshape(-1).tolist()
    if axes is None or len(shape) != 3 or sorted(axis % 4 for axis in axes) != [2, 3]:
        raise UnsupportedNodeError(
            f"ReduceMean over axes {axes} of an input of shape {shape}; only height and width"
        )
    pool = AveragePool2d(Window((shape[1], shape[2])))
    return [pool] if node.attributes.get("keepdims", 1) else [pool, Reshape((shape[0],))]


def cases() -> list[Case]:
    """Shapes every executor must agree on."""
    padded = Window((3, 3), (2, 2), (1, 1, 1, 1))
    return [
        Case("global", AveragePool2d(Window((5, 4))), ((6, 5, 4),)),
        Case("padded, excluded", AveragePool2d(padded), ((3, 6, 6),)),
        Case("padded, included", AveragePool2d(padded, include_pad=True), ((3, 5, 5),)),
    ]
