"""ReLU, ReLU6, Clip that could not be folded into its producer."""

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
from deployq.ops.output_stage import Bounds


@dataclass(frozen=True)
class Clip(FloatOperator):
    """Clamp to [low, high], the same for all channels."""

    kind: ClassVar[str] = "clip"
    keeps_quantization: ClassVar[bool] = True
    low: float
    high: float

    def output_shape(self, inputs: Sequence[Shape]) -> Shape:
        return inputs[0]

    def run(self, inputs: Sequence[Array]) -> Array:
        return np.clip(inputs[0], self.low, self.high)

    def integer(self, inputs: Sequence[Quantization], output: Quantization) -> IntegerOperator:
        low, high = Bounds(np.array(self.low), np.array(self.high)).quantized(output)
        return IntegerClip(int(low), int(high))


@dataclass(frozen=True)
class IntegerClip(IntegerOperator):
    """Deployed clamp; scale and zero point are those of the input."""

    kind: ClassVar[str] = "clip"
    low: int
    high: int

    def output_shape(self, inputs: Sequence[Shape]) -> Shape:
        return inputs[0]

    def run(self, inputs: Sequence[Array]) -> Int8Array:
        return np.clip(inputs[0], self.low, self.high).astype(np.int8)

    def lower(
        self, builder: OnnxBuilder, inputs: Sequence[str], output: str, shapes: Sequence[Shape]
    ) -> None:
        low, high = (builder.constant(np.array(bound, dtype=np.int8)) for bound in (self.low, self.high))
        builder.add("Clip", inputs[0], low, high, output=output)

    def kernel(self, shapes: Sequence[Shape]) -> KernelCall:
        return KernelCall(
            template="clip_a8.c.j2",
            function="dq_clip_a8",
            parameters={"size": int(np.prod(shapes[0])), "low": self.low, "high": self.high},
            in_place=True,
        )


@imports("Relu")
def import_relu(node: SourceNode) -> Sequence[FloatOperator]:
    """ONNX Relu."""
    return [Clip(0.0, float("inf"))]


@imports("Clip", note="constant bounds (ReLU6 is Clip 0..6)")
def import_clip(node: SourceNode) -> Sequence[FloatOperator]:
    """ONNX Clip; bounds are attributes before opset 11, inputs since."""
    low, high = node.constant(1), node.constant(2)
    bounds = (
        float(node.attributes.get("min", -np.inf) if low is None else low.reshape(-1)[0]),
        float(node.attributes.get("max", np.inf) if high is None else high.reshape(-1)[0]),
    )
    if not bounds[0] <= bounds[1]:
        raise UnsupportedNodeError(f"Clip bounds {bounds} are empty")
    return [Clip(*bounds)]


def cases() -> list[Case]:
    """Shapes every executor must agree on."""
    return [Case("relu", Clip(0.0, np.inf), ((3, 4, 5),)), Case("vector", Clip(-0.5, 0.5), ((9,),))]
