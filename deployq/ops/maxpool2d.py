"""Two-dimensional max pooling."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import ClassVar

import numpy as np

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
from deployq.ops.pooling import pool_parameters, pool_shape
from deployq.ops.window import Window, window_from_onnx


@dataclass(frozen=True)
class MaxPool2d(FloatOperator):
    """Float max pooling; padding never wins."""

    kind: ClassVar[str] = "maxpool2d"
    keeps_quantization: ClassVar[bool] = True
    window: Window

    def output_shape(self, inputs: Sequence[Shape]) -> Shape:
        return pool_shape(self.window, inputs)

    def run(self, inputs: Sequence[Array]) -> Array:
        maximum: Array = self.window.columns(inputs[0], pad_value=-np.inf).max(axis=2)
        return maximum

    def integer(self, inputs: Sequence[Quantization], output: Quantization) -> IntegerOperator:
        return IntegerMaxPool2d(self.window)


@dataclass(frozen=True)
class IntegerMaxPool2d(IntegerOperator):
    """Deployed max pooling; scale and zero point are those of the input."""

    kind: ClassVar[str] = "maxpool2d"
    window: Window

    def output_shape(self, inputs: Sequence[Shape]) -> Shape:
        return pool_shape(self.window, inputs)

    def run(self, inputs: Sequence[Array]) -> Int8Array:
        maximum: Int8Array = self.window.columns(inputs[0], pad_value=-128).max(axis=2).astype(np.int8)
        return maximum

    def lower(
        self, builder: OnnxBuilder, inputs: Sequence[str], output: str, shapes: Sequence[Shape]
    ) -> None:
        builder.add("MaxPool", inputs[0], output=output, **self.window.onnx_attributes())

    def kernel(self, shapes: Sequence[Shape]) -> KernelCall:
        return KernelCall(
            template="maxpool2d_a8.c.j2",
            function="dq_maxpool2d_a8",
            parameters=pool_parameters(self.window, shapes[0]),
        )


@imports("MaxPool", note="2-D, one output")
def import_maxpool(node: SourceNode) -> Sequence[FloatOperator]:
    """ONNX MaxPool."""
    window = window_from_onnx(node.attributes, tuple(node.attributes["kernel_shape"]), node.shape(0))
    if any(pad >= extent for pad, extent in zip(window.pads, window.extent * 2, strict=True)):
        raise UnsupportedNodeError("pads as large as the window, so that a window sees padding only")
    return [MaxPool2d(window)]


def cases() -> list[Case]:
    """Shapes every executor must agree on."""
    return [
        Case("2x2", MaxPool2d(Window((2, 2), (2, 2))), ((5, 6, 6),)),
        Case("3x3 padded", MaxPool2d(Window((3, 3), (2, 2), (1, 1, 1, 1))), ((4, 7, 5),)),
        Case("dilated", MaxPool2d(Window((2, 3), (1, 1), (0, 1, 1, 0), (2, 1))), ((3, 6, 6),)),
    ]
