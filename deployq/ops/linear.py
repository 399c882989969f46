"""Fully connected layer."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import ClassVar

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


def _output_shape(weight: Shape, inputs: Sequence[Shape]) -> Shape:
    if inputs[0] != (weight[1],):
        raise ValueError(f"input of shape {inputs[0]}, but the weights expect ({weight[1]},)")
    return (weight[0],)


@dataclass(frozen=True)
class Linear(WeightedOperator):
    """Float fully connected layer y = x W^T + b.

    Attributes:
        weight: (out, in), float32.
        bias: (out,), float64.
        bounds: activation folded into the output.
        fixed_alphabet: name of the alphabet this layer keeps whatever the user asks for, or "".
    """

    kind: ClassVar[str] = "linear"
    groups: ClassVar[int] = 1  # type: ignore[misc]
    weight: Array = field(repr=False)
    bias: FloatArray = field(repr=False)
    bounds: Bounds = field(default_factory=Bounds.none, repr=False)
    fixed_alphabet: str = ""

    def output_shape(self, inputs: Sequence[Shape]) -> Shape:
        return _output_shape(self.weight.shape, inputs)

    def run(self, inputs: Sequence[Array]) -> Array:
        dtype = inputs[0].dtype
        summed = inputs[0] @ self.weight.T.astype(dtype) + self.bias.astype(dtype)
        return self.bounds.clip(summed)

    def integer(self, inputs: Sequence[Quantization], output: Quantization) -> IntegerOperator:
        raise TypeError("a fully connected layer needs quantized weights; use quantized()")

    def positions(self, shape: Shape) -> int:
        return 1

    def patches(self, batch: Array, positions: Array | None) -> Array:
        return batch[np.newaxis]

    def quantized(
        self, weights: QuantizedWeights, source: Quantization, output: Quantization
    ) -> IntegerOperator:
        return IntegerLinear(Accumulation.build(weights, source, output, self.bounds))


@dataclass(frozen=True)
class IntegerLinear(IntegerOperator):
    """Deployed fully connected layer; the levels are (out, in)."""

    kind: ClassVar[str] = "linear"
    accumulation: Accumulation

    def output_shape(self, inputs: Sequence[Shape]) -> Shape:
        return _output_shape(self.accumulation.weights.levels.shape, inputs)

    def macs(self, inputs: Sequence[Shape]) -> int:
        return self.accumulation.weights.levels.size

    def run(self, inputs: Sequence[Array]) -> Int8Array:
        dtype = self.accumulation.exact_dtype
        centred = inputs[0].astype(dtype) - dtype(self.accumulation.input_zero_point)
        summed = centred @ self.accumulation.weights.levels.T.astype(dtype)
        return self.accumulation.stage.apply(summed.astype(np.int64) + self.accumulation.bias)

    def lower(
        self, builder: OnnxBuilder, inputs: Sequence[str], output: str, shapes: Sequence[Shape]
    ) -> None:
        zero_point = builder.constant(np.array(self.accumulation.input_zero_point, dtype=np.int8))

        def multiply(weights: str) -> str:
            transposed = builder.add("Transpose", weights, perm=[1, 0])
            return builder.add("MatMulInteger", inputs[0], transposed, zero_point)

        summed = self.accumulation.lower_product(builder, self.accumulation.weights.levels.shape, multiply)
        bias = builder.constant(self.accumulation.bias.astype(np.int32).reshape(1, -1))
        self.accumulation.stage.lower(builder, builder.add("Add", summed, bias), output, rank=2)


@imports("Gemm", note="constant weights; alpha, beta, transA = 0, transB")
def import_gemm(node: SourceNode) -> Sequence[FloatOperator]:
    """ONNX Gemm with constant B and C."""
    weight, bias = node.constant(1), node.constant(2)
    if weight is None or weight.ndim != 2:
        raise UnsupportedNodeError("Gemm needs a constant 2-D matrix B")
    if node.attributes.get("transA", 0):
        raise UnsupportedNodeError("Gemm with transA = 1")
    matrix = weight if node.attributes.get("transB", 0) else weight.T
    matrix = matrix.astype(np.float32) * np.float32(node.attributes.get("alpha", 1.0))
    return [Linear(matrix, _bias(bias, len(matrix)) * float(node.attributes.get("beta", 1.0)))]


@imports("MatMul", note="activation times a constant matrix")
def import_matmul(node: SourceNode) -> Sequence[FloatOperator]:
    """ONNX MatMul with a constant right operand; a following Add becomes the bias."""
    node.shape(0)
    weight = node.constant(1)
    if weight is None or weight.ndim != 2 or len(node.shape(0)) != 1:
        raise UnsupportedNodeError("only a 2-D activation times a constant 2-D matrix")
    return [Linear(weight.T.astype(np.float32), np.zeros(weight.shape[1]))]


def _bias(bias: Array | None, out: int) -> FloatArray:
    if bias is None:
        return np.zeros(out)
    if bias.size not in (1, out) or bias.ndim > 2 or (bias.ndim == 2 and bias.shape[0] != 1):
        raise UnsupportedNodeError(f"bias of shape {bias.shape} for {out} outputs")
    return np.broadcast_to(bias.astype(np.float64).reshape(-1), (out,)).copy()


def cases() -> list[Case]:
    """Shapes every executor must agree on."""
    rng = np.random.default_rng(2)
    relu = Bounds(np.array(0.0), np.array(np.inf))
    return [
        Case(
            f"{inputs} to {outputs}",
            Linear(rng.normal(size=(outputs, inputs)).astype(np.float32), rng.normal(size=outputs), bounds),
            ((inputs,),),
        )
        for inputs, outputs, bounds in (
            (1, 1, Bounds.none()),
            (64, 10, relu),
            (37, 5, relu),
            (130, 3, Bounds.none()),
        )
    ]
