"""How far the integer network is from the float one, and on which tensor that is measured."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor
from torch.nn import functional

from deployq.graph import Graph
from deployq.ops.softmax import IntegerSoftmax, Softmax

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
    def of(graph: Graph, loss: str) -> Objective:
        """The objective of a graph; "auto" is resolved.

        A softmax at the output settles it. Without one, an output of two or more values, all along
        one axis and fewer than the network's input has, is taken for logits, as everywhere else in
        deployq (accuracy is that of the largest output). One value, an image, or as many values as
        went in (an autoencoder) are a regression. A regression of several values cannot be told from
        a classifier: its user says "squares".

        Args:
            graph: float or integer graph.
            loss: "auto", "divergence" or "squares".
        """
        producer = graph.producer(graph.output)
        softmax = producer is not None and isinstance(producer.op, (Softmax, IntegerSoftmax))
        if loss == "auto":
            output, source = graph.tensors[graph.output], graph.tensors[graph.input]
            vector = max(output.shape) == output.size
            classifies = softmax or (vector and 2 <= output.size < source.size)
            loss = "divergence" if classifies else "squares"
        logits = softmax and producer is not None and loss == "divergence"
        return Objective(producer.inputs[0] if logits and producer is not None else graph.output, loss)

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
