"""What all kernels with weights share: the operator as they see it, its tables, and its proof."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Mapping
from dataclasses import dataclass, replace

import numpy as np

from deployq.arithmetic import INT32_MAX
from deployq.codegen.kernels.order import Order
from deployq.graph import Shape
from deployq.ops import KernelCall
from deployq.ops.accumulate import Accumulation
from deployq.ops.base import Array
from deployq.ops.conv2d import IntegerConv2d
from deployq.ops.linear import IntegerLinear
from deployq.ops.pooling import pool_parameters


class WeightedLayer(ABC):
    """What kernels need of convolutions and fully connected operators alike."""

    @property
    @abstractmethod
    def operator(self) -> IntegerConv2d | IntegerLinear:
        """The operator itself."""

    @property
    def accumulation(self) -> Accumulation:
        """Weights, bias and output stage."""
        return self.operator.accumulation

    @property
    @abstractmethod
    def taps(self) -> int:
        """Weights of one output channel."""

    @property
    @abstractmethod
    def rows(self) -> Array:
        """Levels (out, taps) in the order in which kernels meet the taps."""

    @property
    def bits(self) -> int:
        """Width of a code."""
        return self.accumulation.weights.alphabet.bits


@dataclass(frozen=True)
class ConvolutionLayer(WeightedLayer):
    """A convolution on an input of a known shape.

    Attributes:
        op: the operator.
        shape: of the input, (channels, height, width).
    """

    op: IntegerConv2d
    shape: Shape

    @property
    def operator(self) -> IntegerConv2d:
        """The convolution."""
        return self.op

    @property
    def depthwise(self) -> bool:
        """Each input channel has its own filters."""
        return self.op.groups == self.shape[0] and self.op.groups > 1

    @property
    def direct(self) -> bool:
        """A window is one pixel of the input and never outside: nothing needs to be copied."""
        return self.op.weight_shape[2:] == (1, 1) and not any(self.op.window.pads)

    @property
    def taps(self) -> int:
        """Weights of one output channel."""
        _, group_inputs, height, width = self.op.weight_shape
        return group_inputs * height * width

    @property
    def rows(self) -> Array:
        """Levels (out, taps), taps in the order kernel row, kernel column, channel of the group."""
        out = self.op.weight_shape[0]
        return self.op.levels.transpose(0, 2, 3, 1).reshape(out, self.taps)

    @property
    def geometry(self) -> dict[str, int]:
        """Scalar members of `dq_conv2d_params` that say where windows lie."""
        geometry = pool_parameters(self.op.window, self.shape)
        channels = geometry.pop("channels")
        out, group_inputs = self.op.weight_shape[:2]
        return geometry | {
            "in_channels": channels,
            "out_channels": out,
            "groups": self.op.groups,
            "group_inputs": group_inputs,
            "group_outputs": out // self.op.groups,
            "taps": self.taps,
            "input_zero_point": self.accumulation.input_zero_point,
            "direct": int(self.direct),
        }


@dataclass(frozen=True)
class LinearLayer(WeightedLayer):
    """A fully connected operator whose input vector has a known element order."""

    op: IntegerLinear
    order: Order | None

    @property
    def operator(self) -> IntegerLinear:
        """The fully connected operator."""
        return self.op

    @property
    def taps(self) -> int:
        """Inputs."""
        return int(self.op.accumulation.weights.levels.shape[1])

    @property
    def rows(self) -> Array:
        """Levels (out, inputs), inputs in the order they have in memory."""
        levels = self.op.accumulation.weights.levels
        return levels if self.order is None else levels[:, self.order.natural_index()]

    @property
    def sizes(self) -> dict[str, int]:
        """Scalar members of `dq_linear_params`."""
        outputs, inputs = self.op.accumulation.weights.levels.shape
        return {"inputs": int(inputs), "outputs": int(outputs)}


def centred_members(layer: LinearLayer, centre: int, chunk: int) -> dict[str, int]:
    """Scalar members of kernels that sum (code - centre) * x over chunks of inputs."""
    alphabet = layer.accumulation.weights.alphabet
    rest = alphabet.step * centre + alphabet.offset
    return layer.sizes | {"step": alphabet.step, "centre": centre, "rest": rest, "chunk": chunk}


def prove(accumulation: Accumulation, taps: int) -> None:
    """Prove that no intermediate of the weighted kernels leaves int32.

    The kernels compute ``bias + step * sum(u * x) + offset * sum(x)`` (depthwise: sums of the
    levels themselves), each term and each partial sum in int32; u are unsigned codes, x is int8.

    Raises:
        ValueError: some intermediate could leave int32.
    """
    lowest, highest = accumulation.extremes()
    accumulation.stage.check(int(lowest.min()), int(highest.max()))
    alphabet, folded = accumulation.weights.alphabet, accumulation.folded_bias
    if abs(alphabet.offset) * 128 * taps > INT32_MAX:
        raise ValueError(f"offset * sum of {taps} activations leaves int32")
    if max(np.abs(b).max(initial=0) for b in (folded, folded - accumulation.bias)) > INT32_MAX:
        raise ValueError("a folded bias leaves int32")


def channel_tables(accumulation: Accumulation) -> dict[str, Array]:
    """Tables of a weighted kernel besides its weights."""
    stage, channels = accumulation.stage, len(accumulation.bias)
    tables: dict[str, Array] = {
        "bias": accumulation.folded_bias.astype(np.int32),
        "stage.multiplier": np.broadcast_to(stage.multiplier, (channels,)).astype(np.int32),
    }
    if stage.per_channel_clamp:
        tables["stage.channel_low"] = np.broadcast_to(stage.low, (channels,)).astype(np.int8)
        tables["stage.channel_high"] = np.broadcast_to(stage.high, (channels,)).astype(np.int8)
    return tables


def stage_parameters(accumulation: Accumulation) -> dict[str, int]:
    """Scalar members of the output stage."""
    stage = accumulation.stage
    return {
        "stage.shift": stage.shift,
        "stage.zero_point": stage.zero_point,
        "stage.low": int(stage.low.min()),
        "stage.high": int(stage.high.max()),
    }


def with_scratch(call: KernelCall, block: int, parts: Mapping[str, int]) -> KernelCall:
    """Lay parts of the scratch memory (offset member: bytes) one after the other, each at a word."""
    offsets, end = {"block": block}, 0
    for member, size in parts.items():
        offsets[member] = end
        end += -(-size // 4) * 4
    return replace(call, parameters={**call.parameters, **offsets}, scratch_bytes=end)
