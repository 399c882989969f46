"""From accumulator to int8: the part shared by every operator that requantizes."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from deployq.arithmetic import (
    INT8_MAX,
    INT8_MIN,
    INT32_MAX,
    FloatArray,
    Int64Array,
    IntArray,
    requantization,
    requantize,
    round_half_up,
)
from deployq.graph import Quantization
from deployq.ops.base import Int8Array, OnnxBuilder


@dataclass(frozen=True)
class Bounds:
    """Real bounds of an activation folded into its producer (ReLU, ReLU6, clip).

    Attributes:
        low: lower bound, shape () or (channels,); -inf where there is none.
        high: upper bound, shape () or (channels,); +inf where there is none.
    """

    low: FloatArray
    high: FloatArray

    @staticmethod
    def none() -> Bounds:
        """No bounds."""
        return Bounds(np.array(-np.inf), np.array(np.inf))

    def clip(self, value: FloatArray) -> FloatArray:
        """Clamp a batch whose axis 1 is the channel."""
        trailing = (1,) * (value.ndim - 2)
        low, high = (
            bound.reshape(-1, *trailing) if bound.ndim else bound
            for bound in (self.low.astype(value.dtype), self.high.astype(value.dtype))
        )
        return np.minimum(np.maximum(value, low), high)

    def intersect(self, low: FloatArray, high: FloatArray) -> Bounds:
        """The bounds after clamping again to [low, high]."""
        return Bounds(
            np.minimum(np.maximum(self.low, low), high), np.minimum(np.maximum(self.high, low), high)
        )

    def quantized(self, output: Quantization) -> tuple[Int64Array, Int64Array]:
        """Integer bounds within int8, shape () or (channels,) each."""
        low, high = (
            np.clip(bound / output.scale + output.zero_point, INT8_MIN, INT8_MAX)
            for bound in (self.low, self.high)
        )
        return round_half_up(low), round_half_up(high)


@dataclass(frozen=True)
class OutputStage:
    """Requantization and clamping of an accumulator (arithmetic contract).

    Attributes:
        multiplier: int64, broadcast against the accumulator without its batch axis.
        shift: left shift of the accumulator.
        zero_point: of the output.
        low: lower clamp, shape () or (channels,).
        high: upper clamp, shape () or (channels,).
    """

    multiplier: Int64Array
    shift: int
    zero_point: int
    low: Int64Array
    high: Int64Array

    @staticmethod
    def build(ratio: FloatArray, bounds: Bounds, output: Quantization) -> OutputStage:
        """Stage for real ratios (accumulator unit / output scale), one per channel or one in all."""
        chosen = requantization(ratio)
        low, high = bounds.quantized(output)
        return OutputStage(chosen.multiplier, chosen.shift, output.zero_point, low, high)

    @property
    def per_channel_clamp(self) -> bool:
        """Whether the clamp differs between channels."""
        return self.low.ndim + self.high.ndim > 0

    def check(self, lowest: int, highest: int) -> None:
        """Prove that the shifted accumulator stays in int32.

        Raises:
            ValueError: it does not.
        """
        if max(abs(lowest), abs(highest)) << self.shift > INT32_MAX:
            raise ValueError(f"accumulator range [{lowest}, {highest}] << {self.shift} leaves int32")

    def apply(self, accumulator: IntArray) -> Int8Array:
        """Requantize a batch (N, channels, ...)."""
        trailing = (1,) * (accumulator.ndim - 2)
        low, high = (bound.reshape(-1, *trailing) if bound.ndim else bound for bound in (self.low, self.high))
        multiplier = self.multiplier
        if multiplier.ndim == 1:
            multiplier = multiplier.reshape(-1, *trailing)
        return requantize(accumulator, multiplier, self.shift, self.zero_point, low, high)

    def lower(self, builder: OnnxBuilder, accumulator: str, output: str, rank: int) -> None:
        """ONNX nodes from an int32 accumulator of the given rank (batch included) to int8.

        The floor division is a truncating Div made non-negative by an added 2^62
        (|acc * 2^shift * M| < 2^62), which is taken off again together with the zero point.
        """
        trailing = (1,) * (rank - 2)

        def constant(value: Int64Array) -> str:
            shaped = value.reshape(1, -1, *trailing) if value.ndim == 1 else value
            return builder.constant(np.asarray(shaped, dtype=np.int64))

        wide = builder.add("Cast", accumulator, to="int64")
        product = builder.add("Mul", wide, constant(self.multiplier << self.shift))
        positive = builder.add("Add", product, constant(np.array(2**31 + 2**62 - 2**32)))
        quotient = builder.add("Div", positive, constant(np.array(2**32)))
        shifted = builder.add("Add", quotient, constant(np.array(self.zero_point - 2**30 + 1)))
        if self.per_channel_clamp:
            raised = builder.add("Max", shifted, constant(self.low))
            clamped = builder.add("Min", raised, constant(self.high))
        else:
            clamped = builder.add("Clip", shifted, constant(self.low), constant(self.high))
        builder.add("Cast", clamped, output=output, to="int8")
