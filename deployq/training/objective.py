"""How far the integer network is from the float one, and on which tensor that is measured."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor
from torch.nn import functional

from deployq.graph import Graph
from deployq.task import is_classifier, scores_tensor

#: Of a constant output; its squared error is not divided by zero.
_SMALLEST_VARIANCE = 1e-30


@dataclass(frozen=True)
class Objective:
    """What tuning makes small.

    A classifier is compared by the Kullback-Leibler divergence KL(float || integer) of its class
    probabilities, in nats: it weighs the differences that can change a decision, and ignores what is
    common to all logits. Any other network is compared by the squared error of its output, as a share
    of the float output's variance.

    Attributes:
        tensor: compared tensor: the output of the graph, or the logits before a final softmax.
        loss: "divergence" or "squares".
    """

    tensor: str
    loss: str

    @staticmethod
    def of(graph: Graph, task: str) -> Objective:
        """The objective of a graph, float or integer, for a task of `deployq.task`."""
        if is_classifier(graph, task):
            return Objective(scores_tensor(graph), "divergence")
        return Objective(graph.output, "squares")

    def cut(self, graph: Graph) -> Graph:
        """A graph, float or integer, up to the compared tensor."""
        return graph if graph.output == self.tensor else graph.with_nodes(graph.nodes, output=self.tensor)

    def measure(self, output: Tensor, target: Tensor) -> Tensor:
        """Scalar difference of two batches (n, ...) of the compared tensor: integer and float network."""
        if self.loss == "divergence":
            return functional.kl_div(
                output.flatten(1).log_softmax(dim=1),
                target.flatten(1).log_softmax(dim=1),
                reduction="batchmean",
                log_target=True,
            )
        variance = target.var(dim=0, correction=0).sum()
        squares = (output - target).square().flatten(1).sum(dim=1).mean()
        return torch.div(squares, variance.clamp_min(_SMALLEST_VARIANCE))
