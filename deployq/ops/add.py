"""Element-wise addition of two activations (residual connections)."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import ClassVar

import numpy as np

from deployq.arithmetic import INT8_MAX, INT8_MIN, INT32_MAX, AddRescale, add_rescale, rescale_add
from deployq.graph import Quantization, Shape
from deployq.ops.affine import Affine
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


def _output_shape(inputs: Sequence[Shape]) -> Shape:
    if inputs[0] != inputs[1]:
        raise ValueError(f"cannot add shapes {inputs[0]} and {inputs[1]}")
    return inputs[0]


@dataclass(frozen=True)
class Add(FloatOperator):
    """Float addition of equal shapes, with a folded activation (one bound for all channels)."""

    kind: ClassVar[str] = "add"
    bounds: Bounds = field(default_factory=Bounds.none)

    def output_shape(self, inputs: Sequence[Shape]) -> Shape:
        return _output_shape(inputs)

    def run(self, inputs: Sequence[Array]) -> Array:
        return self.bounds.clip(inputs[0] + inputs[1])

    def integer(self, inputs: Sequence[Quantization], output: Quantization) -> IntegerOperator:
        rescale = add_rescale(inputs[0].scale / output.scale, inputs[1].scale / output.scale)
        low, high = self.bounds.quantized(output)
        zero_points = (inputs[0].zero_point, inputs[1].zero_point)
        return IntegerAdd(rescale, zero_points, output.zero_point, int(low), int(high))


@dataclass(frozen=True)
class IntegerAdd(IntegerOperator):
    """Deployed addition, see `arithmetic.rescale_add`."""

    kind: ClassVar[str] = "add"
    rescale: AddRescale
    input_zero_points: tuple[int, int]
    zero_point: int
    low: int
    high: int

    def output_shape(self, inputs: Sequence[Shape]) -> Shape:
        return _output_shape(inputs)

    def run(self, inputs: Sequence[Array]) -> Int8Array:
        first, second = (
            value.astype(np.int64) - zero_point
            for value, zero_point in zip(inputs, self.input_zero_points, strict=True)
        )
        return rescale_add(first, second, self.rescale, self.zero_point, self.low, self.high)

    @property
    def rounding_bias(self) -> int:
        """Constant that folds both input zero points and the rounding term into the sum."""
        folded = sum(z * m for z, m in zip(self.input_zero_points, self.rescale.multipliers, strict=True))
        return (1 << (self.rescale.shift - 1)) - folded

    def lower(
        self, builder: OnnxBuilder, inputs: Sequence[str], output: str, shapes: Sequence[Shape]
    ) -> None:
        def constant(value: int) -> str:
            return builder.constant(np.array(value, dtype=np.int64))

        terms = [
            builder.add("Mul", builder.add("Cast", name, to="int64"), constant(multiplier))
            for name, multiplier in zip(inputs, self.rescale.multipliers, strict=True)
        ]
        # 2^40 makes the sum non-negative, so that the truncating Div is a floor.
        total = builder.add("Add", *terms)
        positive = builder.add("Add", total, constant(self.rounding_bias + 2**40))
        quotient = builder.add("Div", positive, constant(1 << self.rescale.shift))
        shifted = builder.add("Add", quotient, constant(self.zero_point - (2**40 >> self.rescale.shift)))
        clamped = builder.add("Clip", shifted, constant(self.low), constant(self.high))
        builder.add("Cast", clamped, output=output, to="int8")

    def kernel(self, shapes: Sequence[Shape]) -> KernelCall:
        largest = 128 * sum(self.rescale.multipliers)
        if largest + abs(self.rounding_bias) > INT32_MAX:
            raise ValueError(
                f"the sum of both rescaled inputs can reach {largest + abs(self.rounding_bias)}, beyond int32"
            )
        bias = self.rounding_bias + (self.zero_point << self.rescale.shift)
        direct = (self.low, self.high) == (INT8_MIN, INT8_MAX) and largest + abs(bias) <= INT32_MAX
        return KernelCall(
            template="add_a8.c.j2",
            function="dq_add_a8",
            parameters={
                "size": int(np.prod(shapes[0])),
                "multiplier_a": self.rescale.multipliers[0],
                "multiplier_b": self.rescale.multipliers[1],
                "rounding_bias": bias if direct else self.rounding_bias,
                "shift": self.rescale.shift,
                "zero_point": self.zero_point,
                "low": self.low,
                "high": self.high,
                "direct": int(direct),
            },
            in_place=True,
        )


@imports("Add", note="two activations of equal shape, or activation + constant per channel (bias)")
def import_add(node: SourceNode) -> Sequence[FloatOperator]:
    """ONNX Add of two activations, or of an activation and a per-channel constant."""
    shapes = [value for value in node.inputs if isinstance(value, tuple)]
    if len(shapes) == 2:
        if shapes[0] != shapes[1]:
            raise UnsupportedNodeError(f"Add broadcasts {shapes[0]} with {shapes[1]}")
        return [Add()]
    constant = next(value for value in node.inputs if not isinstance(value, tuple))
    if constant is None or not shapes:
        raise UnsupportedNodeError("Add without an activation")
    return [Affine.from_constants(shapes[0], None, constant)]


def cases() -> list[Case]:
    """Shapes every executor must agree on."""
    relu = Bounds(np.array(0.0), np.array(np.inf))
    return [
        Case("plain", Add(), ((5, 3, 3), (5, 3, 3))),
        Case("relu", Add(relu), ((4, 4, 4), (4, 4, 4))),
        Case("vector", Add(), ((7,), (7,))),
    ]
