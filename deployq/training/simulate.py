"""The integer network in torch, differentiable in the scales and biases of its weighted layers.

Tensors carry q - z, a code without its zero point, as float32: integers, so that the sums of a
layer are exact and the simulation differs from the reference only where the float32 product
sum * ratio falls on the other side of a tie than the 31-bit multiplier does. Weights are the levels
themselves, constants that need no gradient.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional

from deployq.arithmetic import INT8_MAX, INT8_MIN, FloatArray
from deployq.graph import Graph, Node, Quantization
from deployq.ops.accumulate import Accumulation
from deployq.ops.add import IntegerAdd
from deployq.ops.averagepool2d import IntegerAveragePool2d
from deployq.ops.clip import IntegerClip
from deployq.ops.conv2d import IntegerConv2d
from deployq.ops.linear import IntegerLinear
from deployq.ops.maxpool2d import IntegerMaxPool2d
from deployq.ops.reshape import IntegerReshape
from deployq.ops.softmax import IntegerSoftmax
from deployq.training import requantize, windows
from deployq.training.execution import Execution, Step, float_tensor, per_channel
from deployq.training.requantize import AffineRequantize, Bound, Requantize

#: Changes of a scale by more than the exponential of this are no tuning.
_LARGEST_LOG_SCALE = 10.0


@dataclass
class Tunable:
    """What is tuned of one weighted layer, relative to what the quantizer found; zero changes nothing.

    Attributes:
        accumulation: levels, scales, biases and integer bounds of the layer.
        source: quantization of the layer's input.
        output: quantization of its output.
        shared: whether the channels share one scale.
        log_scale: (out,), or (1,) if shared: logarithm of the factor on the scales.
        shift: (out,), added to the biases, in units of `unit`.
        unit: real value, set to the standard deviation of the layer's output before training.
    """

    accumulation: Accumulation
    source: Quantization
    output: Quantization
    shared: bool
    log_scale: Tensor = field(init=False)
    shift: Tensor = field(init=False)
    unit: float = field(init=False)

    def __post_init__(self) -> None:
        channels = len(self.accumulation.weights.scales)
        self.log_scale = torch.zeros(1 if self.shared else channels, dtype=torch.float32, requires_grad=True)
        self.shift = torch.zeros(channels, dtype=torch.float32, requires_grad=True)
        self.unit = self.output.scale
        weights = self.accumulation.weights
        self._ratio = float_tensor(weights.scales * (self.source.scale / self.output.scale))
        self._bias = float_tensor(weights.bias / self.output.scale)
        stage = self.accumulation.stage
        self._bounds = np.broadcast_arrays(stage.low - stage.zero_point, stage.high - stage.zero_point)

    @property
    def scales(self) -> FloatArray:
        """Tuned scales (out,), float64."""
        factor: FloatArray = np.exp(self.log_scale.detach().numpy().astype(np.float64))
        return self.accumulation.weights.scales * factor

    @property
    def bias(self) -> FloatArray:
        """Tuned bias (out,), float64."""
        return self.accumulation.weights.bias + self.shift.detach().numpy().astype(np.float64) * self.unit

    @property
    def is_plausible(self) -> bool:
        """Whether the changes are finite and no scale is another by orders of magnitude."""
        small = self.log_scale.detach().abs() <= _LARGEST_LOG_SCALE  # false for NaN
        return bool(small.all()) and bool(self.shift.detach().isfinite().all())

    def finish(self, summed: Tensor) -> Tensor:
        """Codes (n, out, ...) of the sums of the layer."""
        rank = summed.ndim
        ratio = self._ratio * self.log_scale.exp()
        offset = self._bias + self.shift * (self.unit / self.output.scale)
        # The bias of the integer network is a multiple of the sum's unit; the gradient does not see it.
        with torch.no_grad():
            rounding = requantize.rounded(offset / ratio) * ratio - offset
        low, high = (self._bound(bound, rank) for bound in self._bounds)
        codes: Tensor = AffineRequantize.apply(  # type: ignore[no-untyped-call]
            summed, per_channel(ratio, rank), per_channel(offset + rounding, rank), low, high
        )
        return codes

    def _bound(self, bound: Any, rank: int) -> Bound:
        return per_channel(float_tensor(bound), rank) if bound.ndim else float(bound)


@dataclass(frozen=True)
class TorchNetwork:
    """An integer graph in torch.

    Attributes:
        execution: the graph and its torch functions.
        tunables: of every weighted layer, by node name.
    """

    execution: Execution
    tunables: Mapping[str, Tunable]

    @staticmethod
    def of(graph: Graph, *, shared: bool = False) -> TorchNetwork:
        """The torch form of an integer graph.

        Args:
            graph: integer graph; every tensor has a quantization.
            shared: the channels of a layer share one scale.

        Raises:
            UsageError: an operator has no torch form.
        """
        tunables: dict[str, Tunable] = {}

        def make(form: Any, node: Node) -> Step:
            sources = [quantization_of(graph, name) for name in node.inputs]
            output = quantization_of(graph, node.output)
            accumulation = getattr(node.op, "accumulation", None)
            if isinstance(accumulation, Accumulation):
                tunables[node.name] = Tunable(accumulation, sources[0], output, shared)
                step: Step = form(node.op, tunables[node.name])
            else:
                step = form(node.op, sources, output)
            return step

        return TorchNetwork(Execution.of(graph, _FORMS, make), tunables)

    def parameters(self) -> list[Tensor]:
        """Everything that is tuned."""
        return [tensor for layer in self.tunables.values() for tensor in (layer.log_scale, layer.shift)]

    def run(self, codes: Tensor) -> Tensor:
        """Real output (n, ...), float32, for int8 codes (n, ...)."""
        return self.run_tapped(codes, ())[0]

    def run_tapped(self, codes: Tensor, taps: Collection[str]) -> tuple[Tensor, dict[str, Tensor]]:
        """Real output for int8 codes, and some tensors on the way: codes without their zero point."""
        graph = self.execution.graph
        centred = codes.to(torch.float32) - quantization_of(graph, graph.input).zero_point
        output, tapped = self.execution.run_tapped(centred, taps)
        return output * quantization_of(graph, graph.output).scale, tapped


def quantization_of(graph: Graph, tensor: str) -> Quantization:
    """Quantization of a tensor of an integer graph."""
    quantization = graph.tensors[tensor].quantization
    if quantization is None:
        raise ValueError(f"tensor {tensor!r} has no quantization: not an integer graph")
    return quantization


def _requantize(real: Tensor, low: float, high: float) -> Tensor:
    codes: Tensor = Requantize.apply(real, low, high)  # type: ignore[no-untyped-call]
    return codes


def _conv2d(op: IntegerConv2d, tunable: Tunable) -> Step:
    levels = float_tensor(op.levels)
    return lambda inputs: tunable.finish(windows.convolve(inputs[0], levels, op.window, op.groups))


def _linear(op: IntegerLinear, tunable: Tunable) -> Step:
    levels = float_tensor(op.accumulation.weights.levels)
    return lambda inputs: tunable.finish(functional.linear(inputs[0], levels))


def _add(op: IntegerAdd, sources: Sequence[Quantization], output: Quantization) -> Step:
    first, second = (multiplier / 2.0**op.rescale.shift for multiplier in op.rescale.multipliers)
    low, high = float(op.low - op.zero_point), float(op.high - op.zero_point)
    return lambda inputs: _requantize(torch.add(inputs[0] * first, inputs[1], alpha=second), low, high)


def _averagepool2d(op: IntegerAveragePool2d, sources: Sequence[Quantization], output: Quantization) -> Step:
    ratio = sources[0].scale / output.scale
    low, high = (float(bound - output.zero_point) for bound in (op.stage.low, op.stage.high))

    def average(inputs: Sequence[Tensor]) -> Tensor:
        _, _, height, width = inputs[0].shape
        counts = windows.counts(op.window, height, width, include_pad=op.include_pad)
        return _requantize(windows.total(inputs[0], op.window) * (ratio / counts), low, high)

    return average


def _clip(op: IntegerClip, sources: Sequence[Quantization], output: Quantization) -> Step:
    low, high = float(op.low - output.zero_point), float(op.high - output.zero_point)
    return lambda inputs: inputs[0].clamp(low, high)


def _maxpool2d(op: IntegerMaxPool2d, sources: Sequence[Quantization], output: Quantization) -> Step:
    lowest = float(INT8_MIN - output.zero_point)
    return lambda inputs: windows.maximum(inputs[0], op.window, lowest)


def _reshape(op: IntegerReshape, sources: Sequence[Quantization], output: Quantization) -> Step:
    return lambda inputs: inputs[0].reshape(len(inputs[0]), *op.shape)


def _softmax(op: IntegerSoftmax, sources: Sequence[Quantization], output: Quantization) -> Step:
    low, high = float(INT8_MIN - output.zero_point), float(INT8_MAX - output.zero_point)

    def shares(inputs: Sequence[Tensor]) -> Tensor:
        return _requantize((inputs[0] * sources[0].scale).softmax(dim=-1) / output.scale, low, high)

    return shares


_FORMS: dict[type, Any] = {
    IntegerConv2d: _conv2d,
    IntegerLinear: _linear,
    IntegerAdd: _add,
    IntegerAveragePool2d: _averagepool2d,
    IntegerClip: _clip,
    IntegerMaxPool2d: _maxpool2d,
    IntegerReshape: _reshape,
    IntegerSoftmax: _softmax,
}
