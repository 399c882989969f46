"""What the two weighted operators (conv2d, linear) share in their integer form."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace

import numpy as np

from deployq.alphabet import alphabet
from deployq.arithmetic import (
    FLOAT32_EXACT,
    INT8_MAX,
    INT32_MAX,
    Int64Array,
    accumulator_extremes,
    round_half_up,
    signed_bits,
)
from deployq.graph import Quantization, Shape
from deployq.ops.base import OnnxBuilder, QuantizedWeights
from deployq.ops.output_stage import Bounds, OutputStage

#: A bias may use this many units of the accumulator; a smaller weight scale is raised to fit.
_LARGEST_BIAS = 2**28


@dataclass(frozen=True)
class Accumulation:
    """acc = sum((x - input_zero_point) * level) + bias, then the output stage.

    Attributes:
        weights: levels (out, taps), real scales and alphabet.
        bias: int64 (out,), in units of input scale * weight scale.
        input_zero_point: zero point of x.
        stage: requantization to int8.
    """

    weights: QuantizedWeights
    bias: Int64Array
    input_zero_point: int
    stage: OutputStage

    @staticmethod
    def build(
        weights: QuantizedWeights, source: Quantization, output: Quantization, bounds: Bounds
    ) -> Accumulation:
        """Integer parameters of a layer, proven to stay inside int32.

        Raises:
            ValueError: some partial sum could leave int32.
        """
        floor = np.abs(weights.bias) / (source.scale * _LARGEST_BIAS)
        smallest = np.maximum(floor, output.scale / source.scale * 2.0**-31)
        scales = np.maximum(weights.scales, smallest)
        bias = round_half_up(weights.bias / (source.scale * scales))
        stage = OutputStage.build(source.scale * scales / output.scale, bounds, output)
        raised = QuantizedWeights(weights.levels, scales, weights.bias, weights.alphabet)
        result = Accumulation(raised, bias, source.zero_point, stage)
        lowest, highest = result.extremes()
        stage.check(int(lowest.min()), int(highest.max()))
        return result

    def extremes(self) -> tuple[Int64Array, Int64Array]:
        """Lowest and highest value of any partial sum, per output channel.

        Covers both forms of the sum: with (x - z) as in the contract, and as the C kernels
        evaluate it, sum(x * u) over unsigned codes with the zero point folded into the bias.
        """
        levels = self.weights.levels
        bounds = [accumulator_extremes(levels, self.input_zero_point, self.bias)]
        bounds.append(accumulator_extremes(levels, 0, self.folded_bias))
        if self.weights.alphabet.values[-1] > INT8_MAX:  # the split form of `lower_product`
            bounds.append(accumulator_extremes(levels - 1, self.input_zero_point, self.bias))
        codes = self.weights.alphabet.encode(levels).astype(np.int64) * self.weights.alphabet.step
        bounds.append(accumulator_extremes(codes, 0, self.folded_bias))
        lowest = np.min([low for low, _ in bounds], axis=0)
        highest = np.max([high for _, high in bounds], axis=0)
        if max(-lowest.min(), highest.max()) > INT32_MAX:
            raise ValueError(f"accumulator range [{lowest.min()}, {highest.max()}] leaves int32")
        return lowest, highest

    @property
    def folded_bias(self) -> Int64Array:
        """Bias of the C kernels, which sum x * level without subtracting the zero point."""
        sums: Int64Array = self.weights.levels.astype(np.int64).sum(axis=1)
        return self.bias - self.input_zero_point * sums

    @property
    def accumulator_bits(self) -> int:
        """Width in bits that the accumulator needs, from the actual weights."""
        lowest, highest = accumulator_extremes(self.weights.levels, self.input_zero_point, self.bias)
        return signed_bits(int(lowest.min()), int(highest.max()))

    def lower_product(self, builder: OnnxBuilder, shape: Shape, product: Callable[[str], str]) -> str:
        """ONNX nodes of sum((x - z) * level), int32.

        Levels beyond int8 (midrise-8: odd, up to 255) are split into 2 * c + 1 with c in int8.

        Args:
            builder: the ONNX writer.
            shape: of the weight tensor.
            product: adds the ConvInteger or MatMulInteger for the weights of a given name.
        """
        weights = self.weights
        if weights.alphabet.values[-1] <= INT8_MAX:
            return product(builder.weights(weights, shape))
        halves = replace(weights, levels=(weights.levels - 1) // 2, alphabet=alphabet("midtread-8"))
        doubled = builder.add(
            "Mul", product(builder.weights(halves, shape)), builder.constant(np.array(2, dtype=np.int32))
        )
        ones = product(builder.constant(np.ones(shape, dtype=np.int8)))
        return builder.add("Add", doubled, ones)

    @property
    def exact_dtype(self) -> type[np.floating]:
        """Float type in which a matrix product of these integers is exact in any order."""
        taps = np.abs(self.weights.levels.astype(np.int64)).sum(axis=1).max(initial=0)
        return np.float32 if int(taps) * 255 < FLOAT32_EXACT else np.float64
