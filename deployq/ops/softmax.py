"""Softmax over the features, at the output of a classifier."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import ClassVar

import numpy as np

from deployq.arithmetic import Int64Array, round_half_up
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

#: Probabilities p are stored as 256 p - 128, saturated: the usual int8 softmax output.
OUTPUT = Quantization(1 / 256, -128)

#: Value of exp(0) in the table. Fits 16 bits, so that 32000 classes sum up within int32.
_ONE = 65535


def _check(inputs: Sequence[Shape]) -> Shape:
    if len(inputs[0]) != 1 or inputs[0][0] > 32000:
        raise ValueError(f"softmax needs an input (features,) of at most 32000, not {inputs[0]}")
    return inputs[0]


@dataclass(frozen=True)
class Softmax(FloatOperator):
    """Float softmax over the last axis."""

    kind: ClassVar[str] = "softmax"

    def output_shape(self, inputs: Sequence[Shape]) -> Shape:
        return _check(inputs)

    def run(self, inputs: Sequence[Array]) -> Array:
        exponential = np.exp(inputs[0] - inputs[0].max(axis=-1, keepdims=True))
        normalised: Array = exponential / exponential.sum(axis=-1, keepdims=True)
        return normalised

    def output_quantization(self, inputs: Sequence[Quantization], calibrated: Quantization) -> Quantization:
        return OUTPUT

    def integer(self, inputs: Sequence[Quantization], output: Quantization) -> IntegerOperator:
        return IntegerSoftmax(round_half_up(_ONE * np.exp(-np.arange(256) * inputs[0].scale)))


@dataclass(frozen=True)
class IntegerSoftmax(IntegerOperator):
    """Deployed softmax: y = clamp(floor((256 e + S / 2) / S), 0, 255) - 128, e = table[max - x], S = sum e.

    `table` holds round(65535 exp(-d * scale)) for d = 0 .. 255.
    """

    kind: ClassVar[str] = "softmax"
    table: Int64Array = field(repr=False)

    def output_shape(self, inputs: Sequence[Shape]) -> Shape:
        return _check(inputs)

    def run(self, inputs: Sequence[Array]) -> Int8Array:
        wide = inputs[0].astype(np.int64)
        terms = self.table[wide.max(axis=-1, keepdims=True) - wide]
        total = terms.sum(axis=-1, keepdims=True)
        shares = np.minimum((terms * 256 + total // 2) // total, 255)
        return np.asarray(shares - 128, dtype=np.int8)

    def lower(
        self, builder: OnnxBuilder, inputs: Sequence[str], output: str, shapes: Sequence[Shape]
    ) -> None:
        def constant(value: int) -> str:
            return builder.constant(np.array(value, dtype=np.int32))

        wide = builder.add("Cast", inputs[0], to="int32")
        maximum = builder.reduce("ReduceMax", wide, axis=-1)
        table = builder.constant(self.table.astype(np.int32))
        terms = builder.add("Gather", table, builder.add("Sub", maximum, wide))
        total = builder.reduce("ReduceSum", terms, axis=-1)
        half = builder.add("Div", total, constant(2))
        scaled = builder.add("Add", builder.add("Mul", terms, constant(256)), half)
        limited = builder.add("Min", builder.add("Div", scaled, total), constant(255))
        builder.add("Cast", builder.add("Sub", limited, constant(128)), output=output, to="int8")

    def kernel(self, shapes: Sequence[Shape]) -> KernelCall:
        return KernelCall(
            template="softmax_a8.c.j2",
            function="dq_softmax_a8",
            parameters={"size": shapes[0][0]},
            tables={"exponential": self.table.astype(np.uint16)},
            in_place=True,
        )


@imports("Softmax", note="over the features of a (batch, features) tensor")
def import_softmax(node: SourceNode) -> Sequence[FloatOperator]:
    """ONNX Softmax."""
    shape = node.shape(0)
    default = -1 if node.opset >= 13 else 1
    if len(shape) != 1 or node.attributes.get("axis", default) not in (1, -1):
        raise UnsupportedNodeError(
            f"Softmax over axis {node.attributes.get('axis', default)} of input {shape}"
        )
    return [Softmax()]


def cases() -> list[Case]:
    """Shapes every executor must agree on."""
    return [Case("10 classes", Softmax(), ((10,),)), Case("one class", Softmax(), ((1,),))]
